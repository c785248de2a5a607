//! `ptxvm run kernel.ptx --launch spec.toml`: runs a kernel on the CPU and checks it.
//!
//! The exit status is 0 if nothing is wrong; 1 for findings, faults and values that are not
//! as expected; 2 for wrong arguments, files and specifications; 3 if the kernel does not
//! compile, or the module or the launch is refused.

mod buffer;
mod compile;
mod format;
mod outcome;
mod report;
mod run;
mod spec;

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Parser, Subcommand, ValueEnum};

/// Why there is no outcome.
#[derive(Debug)]
enum Failure {
    /// A wrong argument, file or specification.
    Usage(String),
    /// The compiler, the loader or the launch refused the kernel.
    Refused(String),
}

type Result<T> = std::result::Result<T, Failure>;

/// The error of something that the user gave.
fn usage<T>(text: impl Into<String>) -> Result<T> {
    Err(Failure::Usage(text.into()))
}

/// Runs and checks CUDA kernels on the CPU, without a GPU.
#[derive(Debug, Parser)]
#[command(version)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run a kernel as a specification says, and report what is wrong with it.
    ///
    /// Exit status: 0 nothing is wrong, 1 findings, faults or unexpected values, 2 wrong
    /// arguments, files or specification, 3 the kernel does not compile, or the module or
    /// the launch is refused.
    Run(Run),
}

#[derive(Debug, clap::Args)]
struct Run {
    /// PTX, or CUDA C++ (.cu), which NVRTC or nvcc compiles.
    kernel: PathBuf,
    /// The specification of the launch (TOML).
    #[arg(long, value_name = "SPEC")]
    launch: PathBuf,
    /// How to print the outcome.
    #[arg(long, value_enum, default_value_t = Output::Text)]
    format: Output,
    /// The nvcc to compile .cu with.
    #[arg(long, value_name = "FILE")]
    nvcc: Option<PathBuf>,
    /// The NVRTC library to compile .cu with.
    #[arg(long, value_name = "FILE", conflicts_with = "nvcc")]
    nvrtc: Option<PathBuf>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Output {
    Text,
    Json,
}

fn main() -> ExitCode {
    let Arguments { command: Command::Run(arguments) } = Arguments::parse();
    match carry_out(&arguments) {
        Ok(outcome) => {
            match arguments.format {
                Output::Text => print!("{}", report::text(&outcome)),
                Output::Json => println!("{}", report::json(&outcome)),
            }
            ExitCode::from(u8::from(!outcome.is_fine()))
        }
        Err(Failure::Usage(text)) => {
            eprintln!("ptxvm: {text}");
            ExitCode::from(2)
        }
        Err(Failure::Refused(text)) => {
            eprintln!("ptxvm: refused: {text}");
            ExitCode::from(3)
        }
    }
}

fn carry_out(arguments: &Run) -> Result<outcome::Outcome> {
    let spec = spec::Spec::read(&arguments.launch)?;
    let compilers = compile::Compilers {
        nvcc: arguments.nvcc.as_deref(),
        nvrtc: arguments.nvrtc.as_deref(),
    };
    let ptx = compile::ptx(&arguments.kernel, &spec, &compilers)?;
    run::run(&ptx, &spec)
}

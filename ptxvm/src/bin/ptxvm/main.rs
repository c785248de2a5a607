//! `ptxvm run kernel.ptx --launch spec.toml`: runs a kernel on the CPU and checks it.
//!
//! The exit status is 0 if nothing is wrong; 1 for findings, faults and values that are not
//! as expected; 2 for wrong arguments, files and specifications; 3 if the kernel does not
//! compile, or the module or the launch is refused.

#![cfg_attr(not(test), deny(clippy::print_stdout, clippy::print_stderr))]

mod buffer;
mod compile;
mod format;
mod outcome;
mod report;
mod run;
mod spec;

use std::io::Write;
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
            let text = match arguments.format {
                Output::Text => report::text(&outcome),
                Output::Json => format!("{}\n", report::json(&outcome)),
            };
            match print(&text) {
                Ok(()) => ExitCode::from(u8::from(!outcome.is_fine())),
                Err(why) => {
                    tell(&format!("cannot write to standard output: {why}"));
                    ExitCode::FAILURE
                }
            }
        }
        Err(Failure::Usage(text)) => {
            tell(&text);
            ExitCode::from(2)
        }
        Err(Failure::Refused(text)) => {
            tell(&format!("refused: {text}"));
            ExitCode::from(3)
        }
    }
}

/// Prints to standard output. A reader that stops early, such as `head`, is not an error.
fn print(text: &str) -> std::io::Result<()> {
    let mut to = std::io::stdout().lock();
    match to.write_all(text.as_bytes()).and_then(|()| to.flush()) {
        Err(error) if error.kind() == std::io::ErrorKind::BrokenPipe => Ok(()),
        other => other,
    }
}

/// Writes a line to standard error, whether somebody reads it or not.
fn tell(text: &str) {
    let _ = writeln!(std::io::stderr().lock(), "ptxvm: {text}");
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

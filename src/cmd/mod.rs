//! The commands, one file each. They parse arguments, call the library and
//! print; nothing is computed here.

mod axis;
mod check;
mod count;
mod doctor;
mod kernels;
mod list;
mod measure;
mod plans;
mod predict;
mod report;
mod table;
mod verdict;

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Result;
use clap::{Parser, Subcommand, ValueEnum};

use crate::device;
use crate::model::machine::Machines;

/// Exit code of a run that finished but may not be used.
const INVALID: u8 = 3;

/// Measures kernels of LLM inference and sets every measurement beside an
/// analytical model.
#[derive(Debug, Parser)]
#[command(name = "ridgepoint", version, max_term_width = 100)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    Doctor(doctor::Args),
    Check(check::Args),
    Count(count::Args),
    List(list::Args),
    Predict(predict::Args),
    Kernels(kernels::Args),
    Measure(measure::Args),
    Verdict(verdict::Args),
    Report(report::Args),
}

/// How data is printed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
enum Format {
    /// Aligned columns.
    #[default]
    Table,
    /// Comma-separated values.
    Csv,
    /// One JSON document.
    Json,
}

/// Which device to use.
#[derive(Debug, clap::Args)]
struct DeviceArgs {
    /// Where: cpu, cuda:0, or auto for a GPU where there is one.
    #[arg(long = "device", default_value = "auto")]
    name: String,
    /// Take compiled kernels from this folder, which `ridgepoint kernels
    /// build` wrote, for a GPU on a machine without a compiler.
    #[arg(long, value_name = "DIR")]
    kernels: Option<PathBuf>,
}

impl DeviceArgs {
    fn options(&self) -> device::DeviceOptions {
        device::DeviceOptions { kernels: self.kernels.clone() }
    }
}

/// Which data sheets to draw beside what was measured.
#[derive(Debug, clap::Args)]
struct MachineFile {
    /// TOML file with data sheets of machines that the program does not know;
    /// see src/model/machines.toml for its form.
    #[arg(long = "machines", value_name = "FILE")]
    path: Option<PathBuf>,
}

impl MachineFile {
    fn load(&self) -> Result<Machines> {
        Machines::load(self.path.as_deref())
    }
}

/// Runs the program on its command line.
pub fn main() -> ExitCode {
    let result = match Cli::parse().command {
        Command::Doctor(args) => doctor::run(&args),
        Command::Check(args) => check::run(&args),
        Command::Count(args) => count::run(&args),
        Command::List(args) => list::run(&args),
        Command::Predict(args) => predict::run(&args),
        Command::Kernels(args) => kernels::run(&args),
        Command::Measure(args) => measure::run(&args),
        Command::Verdict(args) => verdict::run(&args),
        Command::Report(args) => report::run(&args),
    };
    exit(result)
}

/// Runs what `cargo bench` starts: the campaign of a suite.
pub fn bench_main() -> ExitCode {
    // Cargo tells every bench target so, whatever its harness.
    let arguments = std::env::args_os().filter(|argument| argument != "--bench");
    exit(measure::run_bench(measure::BenchArgs::parse_from(arguments)))
}

fn exit(result: Result<ExitCode>) -> ExitCode {
    result.unwrap_or_else(|error| {
        eprintln!("ridgepoint: {error:#}");
        ExitCode::FAILURE
    })
}

//! The commands, one file each. They parse arguments, call the library and print; they
//! compute nothing.

mod axis;
mod check;
mod count;
mod counters;
mod disturbances;
mod doctor;
mod interrupt;
mod kernels;
mod list;
mod measure;
mod options;
mod peers;
mod plans;
mod predict;
mod progress;
mod replay;
mod report;
mod selfcheck;
mod table;
mod verdict;
mod worker;

use std::process::ExitCode;

use anyhow::Result;
use clap::{Parser, Subcommand};

/// Measures kernels of LLM inference and sets every measurement beside an
/// analytical model.
#[derive(Debug, Parser)]
#[command(name = "ridgepoint", version, max_term_width = 100)]
struct Cli {
    #[command(subcommand)]
    command: CliCommand,
}

#[derive(Debug, Subcommand)]
enum CliCommand {
    Doctor(doctor::DoctorArgs),
    Check(check::Args),
    Count(count::Args),
    Counters(counters::Args),
    #[command(hide = true)]
    Replay(replay::Args),
    List(list::Args),
    Predict(Box<predict::PredictArgs>),
    Kernels(kernels::Args),
    Measure(Box<measure::Args>),
    Peers(peers::Args),
    Selfcheck(selfcheck::SelfcheckArgs),
    Verdict(verdict::Args),
    Report(report::Args),
}

/// Runs the program on its command line.
pub fn main() -> ExitCode {
    let result = match Cli::parse().command {
        CliCommand::Doctor(args) => doctor::run(&args),
        CliCommand::Check(args) => check::run(&args),
        CliCommand::Count(args) => count::run(&args),
        CliCommand::Counters(args) => counters::run(&args),
        CliCommand::Replay(args) => replay::run(&args),
        CliCommand::List(args) => list::run(&args),
        CliCommand::Predict(args) => predict::run(&args),
        CliCommand::Kernels(args) => kernels::run(&args),
        CliCommand::Measure(args) => measure::run(&args),
        CliCommand::Peers(args) => peers::run(&args),
        CliCommand::Selfcheck(args) => selfcheck::run(&args),
        CliCommand::Verdict(args) => verdict::run(&args),
        CliCommand::Report(args) => report::run(&args),
    };
    exit(result)
}

/// Runs what `cargo bench` starts: the campaign of a suite.
pub fn bench_main() -> ExitCode {
    // Cargo passes `--bench` to every bench target, with or without a harness.
    let arguments = std::env::args_os().filter(|argument| argument != "--bench");
    exit(measure::run_bench(measure::BenchArgs::parse_from(arguments)))
}

fn exit(result: Result<ExitCode>) -> ExitCode {
    result.unwrap_or_else(|error| {
        eprintln!("ridgepoint: {error:#}");
        ExitCode::FAILURE
    })
}

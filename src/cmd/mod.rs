//! The commands, one file each. They parse arguments, call the library and print; they
//! compute nothing.

mod axis;
mod check;
mod compare;
mod count;
mod counters;
mod disturbances;
mod doctor;
mod history;
mod interrupt;
mod kernels;
mod list;
mod measure;
mod merge;
mod options;
mod peers;
mod plans;
mod predict;
mod progress;
mod proof;
mod replay;
mod report;
mod results;
mod selfcheck;
mod table;
mod tune;
mod verdict;
mod worker;

use std::ffi::OsString;
use std::process::ExitCode;

use anyhow::Result;
use clap::{Parser, Subcommand};

use crate::output::{self, remark};

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
    Compare(compare::Args),
    Count(count::Args),
    Counters(counters::Args),
    History(history::Args),
    #[command(hide = true)]
    Replay(replay::Args),
    List(list::Args),
    Predict(Box<predict::PredictArgs>),
    Kernels(kernels::Args),
    Measure(Box<measure::Args>),
    Merge(merge::Args),
    Peers(peers::Args),
    Selfcheck(selfcheck::SelfcheckArgs),
    Verdict(verdict::Args),
    Report(report::Args),
    Results(results::Args),
    Tune(Box<tune::Args>),
}

/// Runs the program on its command line.
pub fn main() -> ExitCode {
    let cli: Cli = match parsed(std::env::args_os()) {
        Ok(cli) => cli,
        Err(code) => return code,
    };
    let result = match cli.command {
        CliCommand::Doctor(args) => doctor::run(&args),
        CliCommand::Check(args) => check::run(&args),
        CliCommand::Compare(args) => compare::run(&args),
        CliCommand::History(args) => history::run(&args),
        CliCommand::Count(args) => count::run(&args),
        CliCommand::Counters(args) => counters::run(&args),
        CliCommand::Replay(args) => replay::run(&args),
        CliCommand::List(args) => list::run(&args),
        CliCommand::Predict(args) => predict::run(&args),
        CliCommand::Kernels(args) => kernels::run(&args),
        CliCommand::Measure(args) => measure::run(&args),
        CliCommand::Merge(args) => merge::run(&args),
        CliCommand::Peers(args) => peers::run(&args),
        CliCommand::Selfcheck(args) => selfcheck::run(&args),
        CliCommand::Verdict(args) => verdict::run(&args),
        CliCommand::Report(args) => report::run(&args),
        CliCommand::Results(args) => results::run(&args),
        CliCommand::Tune(args) => tune::run(*args),
    };
    exit(result)
}

/// Runs what `cargo bench` starts: the campaign of a suite.
pub fn bench_main() -> ExitCode {
    // Cargo passes `--bench` to every bench target, with or without a harness.
    let arguments = std::env::args_os().filter(|argument| argument != "--bench");
    match parsed(arguments) {
        Ok(args) => exit(measure::run_bench(args)),
        Err(code) => code,
    }
}

/// Reads a command line; or prints help or what is wrong with it, and returns the exit code.
fn parsed<C: Parser>(arguments: impl Iterator<Item = OsString>) -> Result<C, ExitCode> {
    C::try_parse_from(arguments).map_err(|error| {
        let code =
            u8::try_from(error.exit_code()).map_or(ExitCode::FAILURE, ExitCode::from);
        // With its colours, where there is a terminal.
        let printed = error.print();
        if error.use_stderr() {
            output::keep_failure(printed);
            return end_with(code);
        }
        end_with(output::end_print(printed).map_or_else(told, |()| code))
    })
}

fn exit(result: Result<ExitCode>) -> ExitCode {
    end_with(result.unwrap_or_else(told))
}

/// Says why the program fails.
fn told(error: anyhow::Error) -> ExitCode {
    remark!("ridgepoint: {error:#}");
    ExitCode::FAILURE
}

/// The exit code of a program that would end with this one: what could not be said is a
/// failure.
fn end_with(code: ExitCode) -> ExitCode {
    let is_lost = code == ExitCode::SUCCESS && output::are_remarks_lost();
    if is_lost { ExitCode::FAILURE } else { code }
}

//! `ridgepoint predict`: what the analytical model says about steps, turns and tasks. It
//! needs no GPU. Each subcommand has a file.

mod cells;
mod claims;
mod disaggregate;
mod explain;
mod figures;
mod model;
mod offload;
mod options;
mod published;
mod step;
mod task;

use std::convert::Infallible;
use std::ffi::OsStr;
use std::process::ExitCode;

use anyhow::Result;
use clap::builder::TypedValueParser;
use clap::error::ErrorKind;

/// Predict steps of a model: OI, capacity footprint, bound, time and the capacity wall.
/// Needs no GPU. Without a subcommand, `step`.
///
/// Numbers are lists and ranges: 1,8,64 or 1..4096*2 or 1024..65536+1024.
#[derive(Debug, clap::Args)]
#[command(args_conflicts_with_subcommands = true)]
pub struct PredictArgs {
    #[command(subcommand)]
    subject: Option<Subject>,
    #[command(flatten)]
    step: step::StepArgs,
    #[command(flatten)]
    _former: FormerFlags,
}

/// What to predict.
#[derive(Debug, clap::Subcommand)]
enum Subject {
    Step(step::StepArgs),
    Task(task::TaskArgs),
    Disaggregate(disaggregate::DisaggregateArgs),
    Offload(offload::OffloadArgs),
    Published(published::PublishedArgs),
    Claims(claims::ClaimsArgs),
    Figures(figures::FiguresArgs),
    Model(model::ModelArgs),
}

pub fn run(args: &PredictArgs) -> Result<ExitCode> {
    match &args.subject {
        None => step::run(&args.step),
        Some(Subject::Step(args)) => step::run(args),
        Some(Subject::Task(args)) => task::run(args),
        Some(Subject::Disaggregate(args)) => disaggregate::run(args),
        Some(Subject::Offload(args)) => offload::run(args),
        Some(Subject::Published(args)) => published::run(args),
        Some(Subject::Claims(args)) => claims::run(args),
        Some(Subject::Figures(args)) => figures::run(args),
        Some(Subject::Model(args)) => model::run(args),
    }?;
    Ok(ExitCode::SUCCESS)
}

/// Flags that chose what to predict before there were subcommands, and the subcommands
/// that have taken their place.
const FORMER_FLAGS: [(&str, &str); 6] = [
    ("tasks", "task"),
    ("disaggregate", "disaggregate"),
    ("offload", "offload"),
    ("published", "published"),
    ("claims", "claims"),
    ("figures", "figures DIR"),
];

/// Refuses each of [`FORMER_FLAGS`], and says what to write instead.
#[derive(Debug)]
struct FormerFlags;

impl clap::Args for FormerFlags {
    fn augment_args(command: clap::Command) -> clap::Command {
        command.args(FORMER_FLAGS.map(|(flag, subcommand)| {
            clap::Arg::new(flag)
                .long(flag)
                .hide(true)
                .num_args(0..=1)
                .default_missing_value("")
                .value_parser(SubcommandNow { subcommand })
        }))
    }

    fn augment_args_for_update(command: clap::Command) -> clap::Command {
        Self::augment_args(command)
    }
}

impl clap::FromArgMatches for FormerFlags {
    fn from_arg_matches(_: &clap::ArgMatches) -> Result<Self, clap::Error> {
        Ok(FormerFlags)
    }

    fn update_from_arg_matches(&mut self, _: &clap::ArgMatches) -> Result<(), clap::Error> {
        Ok(())
    }
}

/// Parses no value: the flag is refused in favour of the subcommand.
#[derive(Clone, Debug)]
struct SubcommandNow {
    subcommand: &'static str,
}

impl TypedValueParser for SubcommandNow {
    type Value = Infallible;

    fn parse_ref(
        &self,
        command: &clap::Command,
        flag: Option<&clap::Arg>,
        _value: &OsStr,
    ) -> Result<Infallible, clap::Error> {
        let flag = flag.and_then(clap::Arg::get_long).unwrap_or_default();
        let message = format!(
            "--{flag} is a subcommand now; write `ridgepoint predict {}`",
            self.subcommand
        );
        Err(command.clone().error(ErrorKind::UnknownArgument, message))
    }
}

//! `ridgepoint check SUITE`: every point's answer against the reference, no
//! times.

use std::process::ExitCode;

use anyhow::{Result, bail};

use super::{DeviceArgs, Format, table};
use crate::device::{self, Opened};
use crate::measure::{Outcome, verify};
use crate::point::Point;
use crate::record::Status;
use crate::section::Section;
use crate::suite::Suite;

/// Run every point of a suite a few times and compare its answers with the
/// reference; measure nothing.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// A built-in suite or a .toml file; `corners` has the shapes where
    /// kernels go wrong.
    #[arg(default_value = "corners")]
    suite: String,
    #[command(flatten)]
    device: DeviceArgs,
    /// Seed of the inputs.
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// How to print.
    #[arg(long, value_enum, default_value_t)]
    format: Format,
}

pub fn run(args: &Args) -> Result<ExitCode> {
    let Opened { mut device, why } =
        device::open(&args.device.name, &args.device.options())?;
    eprintln!("device: {} ({}): {why}", device.info().name, device.info().backend);
    let suite = Suite::load(&args.suite)?;
    let plan = suite.plan(&*device)?;
    let mut rows = Vec::new();
    let mut counts = [0; 3];
    for point in &plan.points {
        let outcome = verify(&mut *device, point, args.seed);
        let kind = match outcome.status {
            Status::Ok | Status::Noisy => 0,
            Status::Skipped => 1,
            Status::Failed | Status::Wrong => 2,
        };
        counts[kind] += 1;
        // A table of hundreds of points that are right hides those that are not.
        if kind == 2 || args.format != Format::Table {
            rows.push(row(point, &outcome));
        }
        if let Some(why) = device.lost() {
            rows.push(row(point, &outcome));
            print(rows, &suite.name, counts, args.format)?;
            bail!("the device cannot be used any more after {point}: {why}");
        }
    }
    print(rows, &suite.name, counts, args.format)?;
    Ok(if counts[2] == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn row(point: &Point, outcome: &Outcome) -> Vec<String> {
    let check = outcome.check.as_ref();
    let error = check.map_or(String::new(), |c| format!("{:.2e}", c.max_rel_err));
    let elements = check.map_or(String::new(), |c| c.elements.to_string());
    let hash = outcome.kernel.as_ref().map_or(String::new(), |k| k.code_hash.clone());
    vec![
        point.problem.to_string(),
        point.kernel.clone(),
        outcome.status.name().to_owned(),
        error,
        elements,
        hash,
        outcome.reason.clone(),
    ]
}

fn print(
    rows: Vec<Vec<String>>,
    suite: &str,
    counts: [u32; 3],
    format: Format,
) -> Result<()> {
    let [right, skipped, wrong] = counts;
    let summary = format!("{right} right, {wrong} wrong or failed, {skipped} skipped");
    let section = Section {
        heading: format!("Check of {suite}"),
        paragraphs: vec![summary],
        columns: vec![
            "problem",
            "kernel",
            "status",
            "max_rel_err",
            "compared",
            "code_hash",
            "reason",
        ],
        rows,
    };
    table::print(&[section], format)
}

//! `ridgepoint list SUITE`: planned points with model FLOPs, bytes and OI.

use std::ffi::OsString;
use std::process::ExitCode;

use anyhow::Result;

use super::options::{DeviceArgs, OutputFormat};
use super::table;
use crate::campaign::ExpectedTime;
use crate::device::{self, Device};
use crate::op::Routed;
use crate::point::Point;
use crate::section::Section;
use crate::suite::Suite;

/// List the planned points of a suite with the model's FLOPs, bytes and OI.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// A built-in suite (quick, headline, decode, weights, mla, products, roofline, paper) or a .toml file.
    suite: OsString,
    #[command(flatten)]
    device: DeviceArgs,
    /// How to print.
    #[arg(long, value_enum, default_value_t)]
    format: OutputFormat,
}

pub fn run(args: &Args) -> Result<ExitCode> {
    let device = device::open(&args.device.name, &args.device.options())?.device;
    let suite = Suite::load(&args.suite)?;
    let plan = suite.plan(&*device)?;
    let mut rows: Vec<_> = plan.points.iter().map(|point| row(&*device, point)).collect();
    let mut columns = COLUMNS.to_vec();
    if plan.points.iter().all(|point| point.problem.routed().is_none()) {
        columns.truncate(OF_EVERY_POINT);
        rows.iter_mut().for_each(|row| row.truncate(OF_EVERY_POINT));
    }
    let expected = ExpectedTime::of(&suite, &*device)?;
    let time = format!(
        "{} rounds of points with the repeats of the sentinel, {} of them to be measured here: {expected}.",
        expected.rounds, expected.measured_rounds
    );
    let section = Section {
        heading: suite.name.clone(),
        paragraphs: vec![suite.about.trim().to_owned(), time],
        columns,
        rows,
    };
    table::print(&[section], args.format)?;
    Ok(ExitCode::SUCCESS)
}

/// The last three are of routed experts: how many are touched, the bytes read if they
/// were as many as can be, and in the mean under uniform routing.
const COLUMNS: [&str; 10] = [
    "id",
    "problem",
    "kernel",
    "cache",
    "FLOPs",
    "bytes",
    "OI",
    "experts touched",
    "bytes read at most",
    "bytes read expected",
];
/// Columns that every point has something in.
const OF_EVERY_POINT: usize = 7;

fn row(device: &dyn Device, point: &Point) -> Vec<String> {
    let work = point.problem.work();
    let kernel = match device.kernel(&point.problem) {
        Ok(_) => point.kernel.to_string(),
        Err(refusal) => format!("skipped: {refusal}"),
    };
    let routed = point.problem.routed();
    let of_routed =
        |cell: &dyn Fn(&Routed) -> String| routed.as_ref().map_or(String::new(), cell);
    vec![
        point.id(),
        point.problem.to_string(),
        kernel,
        point.cache.to_string(),
        work.flops().to_string(),
        work.bytes().to_string(),
        format!("{:.3}", work.operational_intensity()),
        of_routed(&|p| p.experts_touched.to_string()),
        of_routed(&|p| p.bytes_read_bound.to_string()),
        of_routed(&|p| format!("{:.0}", p.bytes_read_expected)),
    ]
}

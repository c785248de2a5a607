//! `ridgepoint list SUITE`: planned points with model FLOPs, bytes and OI.

use std::process::ExitCode;

use anyhow::Result;

use super::{DeviceArgs, Format, table};
use crate::device::{self, Device};
use crate::point::Point;
use crate::section::Section;
use crate::suite::Suite;

/// List the planned points of a suite with the model's FLOPs, bytes and OI.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// A built-in suite (quick, decode, roofline, paper) or a .toml file.
    suite: String,
    #[command(flatten)]
    device: DeviceArgs,
    /// How to print.
    #[arg(long, value_enum, default_value_t)]
    format: Format,
}

pub fn run(args: &Args) -> Result<ExitCode> {
    let device = device::open(&args.device.name, &args.device.options())?.device;
    let suite = Suite::load(&args.suite)?;
    let plan = suite.plan(&*device)?;
    let rows = plan.points.iter().map(|point| row(&*device, point)).collect();
    let section = Section {
        heading: suite.name.clone(),
        paragraphs: vec![suite.about.trim().to_owned()],
        columns: vec!["id", "problem", "kernel", "cache", "FLOPs", "bytes", "OI"],
        rows,
    };
    table::print(&[section], args.format)?;
    Ok(ExitCode::SUCCESS)
}

fn row(device: &dyn Device, point: &Point) -> Vec<String> {
    let work = point.problem.work();
    let kernel = match device.kernel(&point.problem) {
        Ok(_) => point.kernel.clone(),
        Err(refusal) => format!("skipped: {refusal}"),
    };
    vec![
        point.id(),
        point.problem.to_string(),
        kernel,
        point.cache.to_string(),
        work.flops().to_string(),
        work.bytes().to_string(),
        format!("{:.3}", work.operational_intensity()),
    ]
}

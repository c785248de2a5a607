//! `ridgepoint replay POINT...`: what a profiler watches.

use std::process::ExitCode;

use anyhow::{Result, bail};

use super::options::DeviceArgs;
use crate::counters::{LAUNCHES, ReplayLine, Replayed};
use crate::device::{self, Opened};
use crate::measure;
use crate::output;
use crate::point::Point;

/// Launch points a few times for a profiler, as a campaign lays them out; nothing is timed
/// or checked. `ridgepoint counters` starts it under Nsight Compute; by hand, set
/// RIDGEPOINT_NO_HOLD=1 and give the profiler `--profile-from-start off`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Points, as the repro_command column spells them.
    #[arg(required = true)]
    points: Vec<Point>,
    #[command(flatten)]
    device: DeviceArgs,
    /// Launches of each point between the marks that a profiler obeys, after one pass
    /// through its rotation.
    #[arg(long, default_value_t = LAUNCHES)]
    launches: usize,
    /// Leave out the pass through the rotation: for a profiler that obeys no marks.
    #[arg(long)]
    no_warm_up: bool,
    /// Seed of the inputs.
    #[arg(long, default_value_t = 1)]
    seed: u64,
}

pub fn run(args: &Args) -> Result<ExitCode> {
    let Opened { mut device, .. } =
        device::open(&args.device.name, &args.device.options())?;
    for (index, point) in args.points.iter().enumerate() {
        let launches = (args.launches, !args.no_warm_up);
        let replayed = match measure::replay(&mut *device, point, args.seed, launches) {
            Ok(facts) => Replayed::Done(facts.map_or(String::new(), |f| f.code_hash)),
            Err(why) => Replayed::Failed(why),
        };
        output::print_line(&ReplayLine { index, replayed }.text())?;
        if let Some(why) = device.lost() {
            bail!("the device can no longer be used after {point}: {why}");
        }
    }
    Ok(ExitCode::SUCCESS)
}

//! `ridgepoint list SUITE`: planned points with model FLOPs, bytes and OI.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::Result;

use super::options::{DeviceArgs, FilterArgs, OutputFormat};
use super::table;
use crate::campaign::{EarlierTimes, ExpectedTime};
use crate::device::{self, Device};
use crate::elasticity::Design;
use crate::op::{Op, Purpose, Routed};
use crate::point::{CacheState, Point};
use crate::section::Section;

/// List the planned points of a suite with the model's FLOPs, bytes and OI, and the time that
/// they take on this device.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// A built-in suite (quick, headline, decode, weights, mla, products, step, roofline, elasticity, tune, paper) or a .toml file.
    suite: OsString,
    #[command(flatten)]
    filter: FilterArgs,
    #[command(flatten)]
    device: DeviceArgs,
    /// Expect the times that points took in this campaign of the same device. Unless given,
    /// in the campaign in results/ that has most of them, or else by the suite's protocol.
    #[arg(long, value_name = "DIR")]
    campaign: Option<PathBuf>,
    /// How to print.
    #[arg(long, value_enum, default_value_t)]
    format: OutputFormat,
}

pub fn run(args: &Args) -> Result<ExitCode> {
    let device = device::open(&args.device.name, &args.device.options())?.device;
    let suite = args.filter.load(&args.suite)?;
    let plan = suite.plan(&*device)?;
    let earlier = match &args.campaign {
        Some(folder) => Some(EarlierTimes::read(folder, device.info())?),
        None => {
            EarlierTimes::find(Path::new("results"), device.info(), &suite, &plan.points)
        }
    };
    let expected = ExpectedTime::of(&suite, &*device, earlier.as_ref())?;
    let mut rows: Vec<_> =
        plan.points.iter().map(|point| row(&*device, point, &expected)).collect();
    let mut columns = COLUMNS.to_vec();
    if plan.points.iter().all(|point| point.problem.routed().is_none()) {
        columns.truncate(OF_EVERY_POINT);
        rows.iter_mut().for_each(|row| row.truncate(OF_EVERY_POINT));
    }
    let time = format!(
        "{} rounds of points with the repeats of the sentinel, {} of them to be measured here: {expected}.",
        expected.rounds, expected.measured_rounds
    );
    let section = Section {
        heading: suite.name.clone(),
        paragraphs: [suite.about.trim().to_owned(), time]
            .into_iter()
            .chain(designs(&plan.points))
            .collect(),
        columns,
        rows,
        keys: 4,
        spare: &[
            "expected_from",
            "id",
            "bytes_read_expected",
            "bytes_read_bound",
            "experts_touched",
            "cache",
            "bytes",
            "kernel",
        ],
    };
    table::print(&[section], args.format)?;
    Ok(ExitCode::SUCCESS)
}

/// How far bytes and FLOPs vary independently over the points of each operation, and so
/// whether elasticities can be told from them; `None` of a suite without such points.
fn designs(points: &[Point]) -> Option<String> {
    let mut ops: BTreeMap<Op, Vec<[f64; 2]>> = BTreeMap::new();
    for point in points.iter().filter(|point| point.cache == CacheState::Cold) {
        let (op, work) = (point.problem.op(), point.problem.work());
        let is_work = op.facts().judged.purpose == Purpose::Work;
        if is_work && work.bytes() > 0 && work.flops() > 0 {
            let amounts = [work.bytes() as f64, work.flops() as f64];
            ops.entry(op).or_default().push(amounts);
        }
    }
    let told = |(op, amounts): (Op, Vec<[f64; 2]>)| {
        let design = Design::of(&amounts)?;
        Some(match (design.check(), design.correlation) {
            (Err(why), _) => format!("{op}: none, {why}"),
            (Ok(()), Some(r)) => {
                format!("{op}: correlation {r:.2} of {} points", design.points)
            }
            (Ok(()), None) => return None,
        })
    };
    let designs: Vec<String> = ops.into_iter().filter_map(told).collect();
    let heading = "Elasticities by these points, from log bytes and log FLOPs";
    (!designs.is_empty()).then(|| format!("{heading}: {}.", designs.join("; ")))
}

/// The last three are of routed experts: how many are touched, the bytes read if they
/// were as many as can be, and in the mean under uniform routing.
const COLUMNS: [&str; 13] = [
    "id",
    "problem",
    "kernel",
    "cache",
    "flops",
    "bytes",
    "oi_flops_per_byte",
    "expected_s",
    "expected_from",
    "reason",
    "experts_touched",
    "bytes_read_bound",
    "bytes_read_expected",
];
/// Columns that every point has something in.
const OF_EVERY_POINT: usize = 10;

fn row(device: &dyn Device, point: &Point, expected: &ExpectedTime) -> Vec<String> {
    let work = point.problem.work();
    let refusal = device.kernel(&point.problem).err();
    let routed = point.problem.routed();
    let of_routed =
        |cell: &dyn Fn(&Routed) -> String| routed.as_ref().map_or(String::new(), cell);
    let id = point.id();
    let time = expected.points.get(&id);
    vec![
        id.clone(),
        point.problem.to_string(),
        if refusal.is_none() { point.kernel.to_string() } else { String::new() },
        point.cache.to_string(),
        work.flops().to_string(),
        work.bytes().to_string(),
        format!("{:.3}", work.operational_intensity()),
        time.map(|time| format!("{:.3}", time.time_s)).unwrap_or_default(),
        time.map(|time| time.from.to_owned()).unwrap_or_default(),
        refusal.map(|why| format!("skipped: {why}")).unwrap_or_default(),
        of_routed(&|p| p.experts_touched.to_string()),
        of_routed(&|p| p.bytes_read_bound.to_string()),
        of_routed(&|p| format!("{:.0}", p.bytes_read_expected)),
    ]
}

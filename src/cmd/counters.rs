//! `ridgepoint counters DIR`: what hardware counters, or the virtual machine, say of a
//! campaign's points.

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, Result, bail};

use super::count;
use super::options::FilterArgs;
use crate::counters::{Collector, Request};
use crate::device::DeviceOptions;
use crate::device::vm::VmDevice;
use crate::output::{self, remark};
use crate::point::Point;
use crate::record::{CountedRow, Records, counted_csv, write_atomically};
use crate::toolchain::Arch;

/// Replay a campaign's points under Nsight Compute and write the bytes that went to and
/// from DRAM, L2 hits and the use of units to its counters.csv; a point without has the
/// reason there. Run again, it completes what is missing. `report` then draws it.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// A folder that `measure` wrote.
    folder: PathBuf,
    #[command(flatten)]
    filter: FilterArgs,
    /// Begin no further batch of points after so many minutes.
    #[arg(long, default_value_t = 10.0, value_parser = positive)]
    minutes: f64,
    /// The GPU on which points are replayed: the one that the campaign was measured on.
    #[arg(long, default_value = "cuda:0")]
    device: String,
    /// Take compiled kernels from this folder, which `ridgepoint kernels build` wrote.
    #[arg(long, value_name = "DIR")]
    kernels: Option<PathBuf>,
    /// Path of Nsight Compute's `ncu`; found by itself where it is usually installed.
    #[arg(long, value_name = "PATH")]
    ncu: Option<PathBuf>,
    /// Instead, execute the points that are small enough on the PTX virtual machine, and
    /// write the FLOPs and bytes that it counts to counted.csv; needs no GPU.
    #[arg(long, conflicts_with = "ncu")]
    count: bool,
    /// With --count, leave out points with more than this many million FLOPs or bytes.
    #[arg(long, default_value_t = 2000.0, requires = "count")]
    millions: f64,
}

fn positive(text: &str) -> Result<f64, String> {
    let minutes: Result<f64, _> = text.parse();
    let minutes = minutes.ok().filter(|minutes| *minutes > 0.0 && minutes.is_finite());
    minutes.ok_or_else(|| format!("`{text}` is not a positive number"))
}

pub fn run(args: &Args) -> Result<ExitCode> {
    let budget = Duration::from_secs_f64(60.0 * args.minutes.min(1e6));
    if args.count {
        return count_points(args, budget);
    }
    let program =
        std::env::current_exe().context("this program's own path is not known")?;
    let request = Request {
        folder: args.folder.clone(),
        budget,
        device: args.device.clone(),
        kernels: args.kernels.clone(),
        ncu: args.ncu.clone(),
        program,
        filter: args.filter.filter.clone(),
    };
    let collected = Collector::collect(request, &mut |line| remark!("counters: {line}"))?;
    for (reason, rows) in &collected.reasons {
        remark!("note: {rows} rows without counters: {reason}");
    }
    output::print_line(&format!(
        "{}: {} rows with counters",
        collected.path.display(),
        collected.counted
    ))?;
    match collected.reasons.first() {
        Some((reason, _)) if collected.counted == 0 => {
            bail!("nothing was counted: {reason}")
        }
        _ => Ok(ExitCode::SUCCESS),
    }
}

/// Writes `counted.csv`. What was counted before is kept.
fn count_points(args: &Args, budget: Duration) -> Result<ExitCode> {
    let began = std::time::Instant::now();
    let records = Records::read(&args.folder)?;
    let options = DeviceOptions { kernels: args.kernels.clone() };
    let arch = arch_of(&records).unwrap_or(Arch::SM_90);
    let mut device = VmDevice::open(arch, &options)?;
    let earlier = records.witnesses.counted.clone().unwrap_or_default();
    let mut rows: Vec<CountedRow> = Vec::new();
    let own = records.rows.iter().filter(|row| row.is_planned());
    let points = own
        .map(|row| {
            let text = format!("{}@{}@{}", row.problem, row.kernel, row.cache_state);
            Ok((row, text.parse::<Point>()?))
        })
        .collect::<Result<Vec<_>>>()?;
    let filter = args.filter.filter.as_ref();
    let is_wanted = |point: &Point| filter.is_none_or(|filter| filter.matches(point));
    if let Some(filter) = filter
        && !points.iter().any(|(_, point)| is_wanted(point))
    {
        bail!(
            "none of the {} points of {} meets `{filter}`",
            points.len(),
            args.folder.display()
        );
    }
    for (row, point) in &points {
        let known = earlier
            .iter()
            .find(|known| known.point_id == row.point_id && known.bytes_counted.is_some());
        let without = |reason: String| CountedRow {
            point_id: row.point_id.clone(),
            reason,
            ..CountedRow::default()
        };
        let counted = match known {
            Some(known) => known.clone(),
            None if !is_wanted(point) => without("left out by --filter".to_owned()),
            None if began.elapsed() > budget => {
                without(format!("not reached within {} minutes", args.minutes))
            }
            None => {
                count::counted_row(&mut device, &row.point_id, point, args.millions, arch)
            }
        };
        rows.push(counted);
        // What an earlier call counted stays, should this one be ended.
        let is_later =
            |known: &&CountedRow| rows.iter().all(|row| row.point_id != known.point_id);
        let later: Vec<CountedRow> = earlier.iter().filter(is_later).cloned().collect();
        write(&args.folder, &[&rows[..], &later].concat())?;
    }
    write(&args.folder, &rows)?;
    let counted = rows.iter().filter(|row| row.bytes_counted.is_some()).count();
    output::print_line(&format!(
        "{}: {counted} of {} points counted",
        args.folder.join("counted.csv").display(),
        rows.len()
    ))?;
    match rows.first() {
        Some(row) if counted == 0 => bail!("nothing was counted: {}", row.reason),
        _ => Ok(ExitCode::SUCCESS),
    }
}

fn write(folder: &Path, rows: &[CountedRow]) -> Result<()> {
    write_atomically(&folder.join("counted.csv"), counted_csv(rows)?.as_bytes())
}

/// The architecture that a campaign was measured on.
fn arch_of(records: &Records) -> Option<Arch> {
    let capability = records.runs.last()?.get("compute_capability")?;
    let (major, minor) = capability.split_once('.')?;
    Some(Arch { major: major.parse().ok()?, minor: minor.parse().ok()? })
}

//! `ridgepoint count SUITE`: the PTX of the CUDA kernels, executed on the virtual
//! machine: its FLOPs and bytes are counted and compared with the model's.

use std::ffi::OsString;
use std::process::ExitCode;

use anyhow::{Result, bail};

use super::options::{FilterArgs, OutputFormat};
use super::table;
use crate::device::vm::{Counted, CountedGpu, Counts, SampledCount, VmDevice};
use crate::device::{Device, DeviceOptions, PrepareError};
use crate::format::Tensor;
use crate::op::{Problem, parse_bytes};
use crate::point::Point;
use crate::record::{CountedRow, Status};
use crate::reference::{self, CheckVerdict};
use crate::section::Section;
use crate::suite::Suite;
use crate::toolchain::Arch;

/// Execute a suite's CUDA kernels on the PTX virtual machine and count FLOPs and
/// bytes next to the model's; needs no GPU.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// A built-in suite or a .toml file.
    suite: OsString,
    #[command(flatten)]
    filter: FilterArgs,
    /// Architecture whose code is executed.
    #[arg(long, default_value = "sm_90a")]
    arch: Arch,
    /// Leave out points with more than this many million FLOPs or bytes; the virtual
    /// machine executes a few hundred million a second.
    #[arg(long, default_value_t = 2000.0)]
    millions: f64,
    /// Seed of the inputs.
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Count for a GPU with so many multiprocessors and `--l2`, without comparing answers:
    /// what DRAM reads and writes, beside the model's and beside a GPU's counters.
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..))]
    sms: Option<u32>,
    /// The cache in front of DRAM, such as "50 MiB". Needs `--sms`.
    #[arg(long, requires = "sms", value_parser = bytes)]
    l2: Option<u64>,
    /// Equal partitions of that cache: 2 as A100, H100 and H200 have, where what all
    /// multiprocessors read is kept in both. Needs `--l2`.
    #[arg(long, requires = "l2", default_value_t = 1,
          value_parser = clap::value_parser!(u32).range(1..=8))]
    l2_partitions: u32,
    /// Execute one of so many blocks only, in a few runs of neighbours, and scale up; the
    /// cache is scaled down with them. Needs `--sms`.
    #[arg(long, requires = "sms", default_value_t = 1,
          value_parser = clap::value_parser!(u64).range(1..))]
    one_block_of: u64,
    /// Leave out points whose tensors are larger than this, such as "16 GiB"; memory is
    /// made where it is touched. Needs `--sms`.
    #[arg(long, requires = "sms", value_parser = bytes)]
    memory: Option<u64>,
    /// How to print.
    #[arg(long, value_enum, default_value_t)]
    format: OutputFormat,
}

fn bytes(text: &str) -> Result<u64, String> {
    parse_bytes(text).ok_or_else(|| format!("`{text}` is not a size such as 50 MiB"))
}

pub fn run(args: &Args) -> Result<ExitCode> {
    let mut device = VmDevice::open(args.arch, &DeviceOptions::default())?;
    let suite = args.filter.load(&args.suite)?;
    if let Some(sms) = args.sms {
        let gpu = CountedGpu {
            sms,
            l2_bytes: args.l2,
            l2_partitions: args.l2_partitions as usize,
            one_of: args.one_block_of,
        };
        return on_gpu(&mut device, &suite, args, gpu);
    }
    let plan = suite.plan(&device)?;
    let mut rows = Vec::new();
    let (mut wrong, mut counted, mut first_skip) = (false, false, None);
    for point in &plan.points {
        let row = count(&mut device, point, args.millions, args.seed);
        wrong |= matches!(row.status, Status::Wrong | Status::Failed);
        counted |= row.counted.is_some();
        if row.status == Status::Skipped {
            first_skip.get_or_insert_with(|| format!("{}: {}", row.problem, row.why));
        }
        rows.push(row.cells());
    }
    let section = Section {
        heading: format!("{} on the virtual machine, {}", suite.name, args.arch),
        columns: vec![
            "problem",
            "kernel",
            "status",
            "flops_model",
            "flops_counted",
            "flops_ratio",
            "bytes_model",
            "bytes_extra",
            "bytes_counted",
            "bytes_ratio",
            "oi_model_flops_per_byte",
            "oi_counted_flops_per_byte",
            "reason",
        ],
        rows,
        spare: &[
            "oi_counted_flops_per_byte",
            "oi_model_flops_per_byte",
            "bytes_extra",
            "flops_model",
            "bytes_model",
            "flops_counted",
            "bytes_counted",
            "kernel",
        ],
        ..Section::default()
    };
    table::print(&[section], args.format)?;
    end(wrong, counted, first_skip)
}

/// The exit code of a count, or what the first point was refused for where all were.
fn end(failed: bool, counted: bool, first_skip: Option<String>) -> Result<ExitCode> {
    match first_skip {
        Some(why) if !counted && !failed => bail!("nothing was counted: {why}"),
        _ => Ok(if failed { ExitCode::FAILURE } else { ExitCode::SUCCESS }),
    }
}

/// What a suite's points do on a GPU of another size.
fn on_gpu(
    device: &mut VmDevice,
    suite: &Suite,
    args: &Args,
    gpu: CountedGpu,
) -> Result<ExitCode> {
    let plan = suite.plan(device)?;
    let mut rows = Vec::new();
    let (mut failed, mut counted, mut first_skip) = (false, false, None);
    for Point { problem, kernel, .. } in &plan.points {
        let footprint: u64 = problem.tensors().iter().map(Tensor::bytes).sum();
        if args.memory.is_some_and(|most| footprint > most) {
            let why = format!("{footprint} bytes of tensors; raise --memory");
            first_skip.get_or_insert_with(|| format!("{problem}: {why}"));
            rows.push(sampled_row(problem, kernel, Err(why)));
            continue;
        }
        let sampled = match device.count_on(problem, kernel, gpu) {
            Ok(sampled) => {
                counted = true;
                Ok(sampled)
            }
            Err(PrepareError::Refused(why)) => {
                first_skip.get_or_insert_with(|| format!("{problem}: {why}"));
                Err(why.to_string())
            }
            Err(PrepareError::Failed(why)) => {
                failed = true;
                Err(why.to_string())
            }
        };
        rows.push(sampled_row(problem, kernel, sampled));
    }
    let columns = vec![
        "problem",
        "kernel",
        "blocks_share",
        "flops_ratio",
        "bytes_read_model",
        "bytes_written_model",
        "bytes_extra",
        "dram_read_bytes",
        "dram_written_bytes",
        "left_in_l2_bytes",
        "bytes_ratio",
        "reason",
    ];
    let section = Section {
        heading: format!(
            "{} on the virtual machine for {} SMs, {}",
            suite.name, gpu.sms, args.arch
        ),
        columns,
        rows,
        ..Section::default()
    };
    table::print(&[section], args.format)?;
    end(failed, counted, first_skip)
}

/// Counts of a point, or the reason in the last cell why there are none.
fn sampled_row(
    problem: &Problem,
    kernel: &str,
    counted: Result<SampledCount, String>,
) -> Vec<String> {
    let (cells, reason) = match counted {
        Ok(sampled) => (sampled_cells(problem, &sampled).to_vec(), String::new()),
        Err(reason) => (vec![String::new(); SAMPLED], reason),
    };
    let named = [problem.to_string(), kernel.to_owned()];
    named.into_iter().chain(cells).chain([reason]).collect()
}

/// Cells of a count by a sample of blocks.
const SAMPLED: usize = 9;

fn sampled_cells(problem: &Problem, sampled: &SampledCount) -> [String; SAMPLED] {
    let SampledCount { counts, share, extra_bytes } = sampled;
    let work = problem.work();
    let all =
        |of: &dyn Fn(&Counts) -> u64| counts.iter().map(of).sum::<u64>() as f64 / share;
    let sectors =
        |with_cache: Option<u64>, unlimited: u64| 32 * with_cache.unwrap_or(unlimited);
    let read = all(&|c| sectors(c.dram_sectors_read, c.distinct_sectors_read));
    let written = all(&|c| sectors(c.dram_sectors_written, c.distinct_sectors_written));
    let left = all(&|c| 32 * c.dram_sectors_left.unwrap_or(0));
    let declared = (work.bytes() + extra_bytes.unwrap_or(0)) as f64;
    [
        format!("{share:.4}"),
        format!("{:.3}", all(&Counts::total_flops) / work.flops().max(1) as f64),
        work.bytes_read().to_string(),
        work.bytes_written().to_string(),
        extra_bytes.map(|bytes| bytes.to_string()).unwrap_or_default(),
        format!("{read:.0}"),
        format!("{written:.0}"),
        format!("{left:.0}"),
        format!("{:.3}", (read + written) / declared),
    ]
}

/// A point's line.
struct CountRow {
    problem: Problem,
    kernel: String,
    status: Status,
    counted: Option<Counted>,
    why: String,
}

/// A point's row of `counted.csv`.
pub fn counted_row(
    device: &mut VmDevice,
    point_id: &str,
    point: &Point,
    millions: f64,
    arch: Arch,
) -> CountedRow {
    let CountRow { counted, why, .. } = count(device, point, millions, 1);
    let blank = CountedRow {
        point_id: point_id.to_owned(),
        arch: arch.to_string(),
        ..CountedRow::default()
    };
    match counted {
        Some(counted) => CountedRow {
            flops_counted: Some(counted.flops()),
            tensor_flops_counted: Some(counted.tensor_flops()),
            bytes_counted: Some(counted.bytes()),
            bytes_extra: counted.extra_bytes,
            ..blank
        },
        None => CountedRow { reason: why, ..blank },
    }
}

fn count(device: &mut VmDevice, point: &Point, millions: f64, seed: u64) -> CountRow {
    let problem = point.problem;
    let kernel = point.kernel.to_string();
    let row = |status, counted, why| CountRow { problem, kernel, status, counted, why };
    if let Err(why) = device.kernel(&problem) {
        return row(Status::Skipped, None, why.to_string());
    }
    let work = problem.work();
    let size = work.flops().max(work.bytes()) as f64 * 1e-6;
    if size > millions {
        let why = format!("{size:.0} million FLOPs or bytes; raise --millions");
        return row(Status::Skipped, None, why);
    }
    let counted = match device.count(&problem, &point.kernel, seed) {
        Ok(counted) => counted,
        Err(PrepareError::Refused(why)) => {
            return row(Status::Skipped, None, why.to_string());
        }
        Err(PrepareError::Failed(why)) => {
            return row(Status::Failed, None, why.to_string());
        }
    };
    match reference::check(&problem, seed, 0, 0, &counted.output) {
        Ok(check) if check.verdict == CheckVerdict::Pass => {
            let why = explain(&problem, &counted);
            row(Status::Ok, Some(counted), why)
        }
        Ok(check) => row(Status::Wrong, None, check.message),
        Err(none) => row(Status::Failed, None, none.to_string()),
    }
}

/// Why a count differs from the model's.
fn explain(problem: &Problem, counted: &Counted) -> String {
    let work = problem.work();
    let mut reasons = Vec::new();
    let vector = counted.flops() - counted.tensor_flops();
    let padding = counted.tensor_flops() as f64 / work.matrix_flops().max(1) as f64;
    if work.matrix_flops() > 0 && padding > 1.01 {
        reasons.push(format!("tensor tiles are {padding:.2} times the shape"));
    }
    if work.matrix_flops() > 0 && vector as f64 > 0.01 * work.matrix_flops() as f64 {
        let share = 100.0 * vector as f64 / counted.flops() as f64;
        reasons.push(format!("{share:.0}% outside tensor units, such as the softmax"));
    }
    let declared = work.bytes() + counted.extra_bytes.unwrap_or(0);
    let ratio = counted.bytes() as f64 / declared as f64;
    if (ratio - 1.0).abs() > 0.02 {
        let difference = counted.bytes() as i64 - declared as i64;
        reasons.push(format!(
            "{difference:+} bytes: witnesses, tickets, parts of sectors{}",
            if counted.extra_bytes.is_none() { ", partial sums" } else { "" }
        ));
    }
    reasons.join("; ")
}

impl CountRow {
    fn cells(self) -> Vec<String> {
        let work = self.problem.work();
        let shown = |value: Option<String>| value.unwrap_or_default();
        let counted = self.counted.as_ref();
        let ratio = |counted: u64, model: u64| {
            (model > 0).then(|| format!("{:.3}", counted as f64 / model as f64))
        };
        let extra = counted.and_then(|c| c.extra_bytes);
        vec![
            self.problem.to_string(),
            self.kernel,
            self.status.name().to_owned(),
            work.flops().to_string(),
            shown(counted.map(|c| c.flops().to_string())),
            shown(counted.and_then(|c| ratio(c.flops(), work.flops()))),
            work.bytes().to_string(),
            shown(extra.map(|bytes| bytes.to_string())),
            shown(counted.map(|c| c.bytes().to_string())),
            shown(
                counted.and_then(|c| ratio(c.bytes(), work.bytes() + extra.unwrap_or(0))),
            ),
            format!("{:.3}", work.operational_intensity()),
            shown(counted.map(|c| format!("{:.3}", c.flops() as f64 / c.bytes() as f64))),
            self.why,
        ]
    }
}

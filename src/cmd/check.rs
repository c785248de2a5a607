//! `ridgepoint check SUITE`: every point's answer against the reference, no
//! times.

use std::ffi::OsString;
use std::io::IsTerminal;
use std::panic::{self, AssertUnwindSafe};
use std::process::ExitCode;

use anyhow::{Result, bail};

use super::options::{DeviceArgs, FilterArgs, OutputFormat};
use super::table;
use crate::device::{self, Device, Opened};
use crate::measure::{PointOutcome, verify};
use crate::output::remark;
use crate::point::Point;
use crate::record::Status;
use crate::section::Section;

/// Run every point of a suite a few times and compare its answers with the
/// reference; measure nothing.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// A built-in suite or a .toml file; `corners` has the shapes where
    /// kernels go wrong.
    #[arg(default_value = "corners")]
    suite: OsString,
    #[command(flatten)]
    filter: FilterArgs,
    #[command(flatten)]
    device: DeviceArgs,
    /// Leave out this many points at the start: to continue after one that made the
    /// GPU unusable.
    #[arg(long, default_value_t = 0)]
    skip: usize,
    /// Seed of the inputs.
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// How to print.
    #[arg(long, value_enum, default_value_t)]
    format: OutputFormat,
}

pub fn run(args: &Args) -> Result<ExitCode> {
    let Opened { mut device, why } =
        device::open(&args.device.name, &args.device.options())?;
    remark!("device: {} ({}): {why}", device.info().name, device.info().backend);
    let suite = args.filter.load(&args.suite)?;
    let plan = suite.plan(&*device)?;
    if plan.points.len() <= args.skip {
        bail!("--skip {} leaves none of the {} points", args.skip, plan.points.len());
    }
    let mut report = CheckReport::begin(&suite.name, args.format)?;
    for (index, point) in plan.points.iter().enumerate().skip(args.skip) {
        // Before it begins: a kernel that hangs is the last one named.
        if !std::io::stderr().is_terminal() {
            remark!("check {}/{} {point}", index + 1, plan.points.len());
        }
        let outcome = verify_or_panic(&mut *device, point, args.seed);
        report.add(point, &outcome)?;
        if let Some(why) = device.lost() {
            report.end()?;
            bail!(
                "the device can no longer be used after {point}: {why}; `--skip {}` continues \
                 after it",
                index + 1
            );
        }
    }
    let (wrong, right, first_skip) = (report.wrong, report.right, report.first_skip.take());
    report.end()?;
    match first_skip {
        Some(why) if right + wrong == 0 => bail!("nothing was checked: {why}"),
        _ => Ok(if wrong == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }),
    }
}

/// A kernel that panics costs its own row only.
fn verify_or_panic(device: &mut dyn Device, point: &Point, seed: u64) -> PointOutcome {
    let attempt = AssertUnwindSafe(|| verify(device, point, seed));
    panic::catch_unwind(attempt).unwrap_or_else(|_| {
        PointOutcome::failed(format!(
            "kernel {} panicked; this is a bug, please report it",
            point.kernel
        ))
    })
}

const COLUMNS: [&str; 7] =
    ["problem", "kernel", "status", "max_rel_err", "compared", "code_hash", "reason"];

/// Rows as they come in CSV, so that a run which is killed leaves those it had;
/// at the end otherwise. A table has only what is wrong: hundreds of points that
/// are right would hide it.
struct CheckReport {
    suite: String,
    format: OutputFormat,
    rows: Vec<Vec<String>>,
    right: u32,
    skipped: u32,
    wrong: u32,
    /// The first point that was skipped, and why.
    first_skip: Option<String>,
}

impl CheckReport {
    fn begin(suite: &str, format: OutputFormat) -> Result<Self> {
        let report = CheckReport {
            suite: suite.to_owned(),
            format,
            rows: Vec::new(),
            right: 0,
            skipped: 0,
            wrong: 0,
            first_skip: None,
        };
        report.print_line(&COLUMNS.map(str::to_owned))?;
        Ok(report)
    }

    fn print_line(&self, cells: &[String]) -> Result<()> {
        if self.format == OutputFormat::Csv {
            let mut line = csv::Writer::from_writer(Vec::new());
            line.write_record(cells)?;
            table::print_csv(&String::from_utf8(line.into_inner()?)?, OutputFormat::Csv)?;
        }
        Ok(())
    }

    fn add(&mut self, point: &Point, outcome: &PointOutcome) -> Result<()> {
        let is_wrong = matches!(outcome.status, Status::Failed | Status::Wrong);
        match outcome.status {
            Status::Ok | Status::Noisy | Status::Disturbed | Status::Throttled => {
                self.right += 1;
            }
            Status::Skipped => {
                self.skipped += 1;
                let told = || format!("{point} was skipped: {}", outcome.reason);
                self.first_skip.get_or_insert_with(told);
            }
            Status::Failed | Status::Wrong => self.wrong += 1,
        }
        let row = row(point, outcome);
        self.print_line(&row)?;
        if is_wrong || self.format == OutputFormat::Json {
            self.rows.push(row);
        }
        Ok(())
    }

    fn end(self) -> Result<()> {
        let CheckReport { right, wrong, skipped, .. } = self;
        let summary = format!("{right} right, {wrong} wrong or failed, {skipped} skipped");
        if self.format == OutputFormat::Csv {
            remark!("{summary}");
            return Ok(());
        }
        let section = Section {
            heading: format!("Check of {}", self.suite),
            paragraphs: vec![summary],
            columns: if self.rows.is_empty() { Vec::new() } else { COLUMNS.to_vec() },
            rows: self.rows,
            keys: 0,
            spare: &["code_hash", "compared", "max_rel_err"],
        };
        table::print(&[section], self.format)
    }
}

fn row(point: &Point, outcome: &PointOutcome) -> Vec<String> {
    let check = outcome.check.as_ref();
    let error = check.map_or(String::new(), |c| format!("{:.2e}", c.max_rel_err));
    let elements = check.map_or(String::new(), |c| c.elements.to_string());
    let hash = outcome.kernel.as_ref().map_or(String::new(), |k| k.code_hash.clone());
    vec![
        point.problem.to_string(),
        point.kernel.to_string(),
        outcome.status.name().to_owned(),
        error,
        elements,
        hash,
        outcome.reason.clone(),
    ]
}

//! `ridgepoint tune`: the fastest configurations of kernels on this machine, or, on the
//! virtual machine, whether every configuration is right.

use std::ffi::OsString;
use std::path::Path;
use std::process::ExitCode;

use anyhow::{Result, bail};

use super::measure::{self, CampaignOptions, MeasureOptions};
use super::options::{FilterArgs, OutputFormat};
use super::{proof, report, table};
use crate::analysis::Campaign;
use crate::campaign::CampaignSummary;
use crate::device::{self, Device};
use crate::files;
use crate::model::machine::Machines;
use crate::output::remark;
use crate::record::{Records, write_atomically};
use crate::suite::Suite;
use crate::tune::{self, Competition, TuneRequest};
use crate::verdict::judge;

/// Find the fastest configuration of kernels on this machine, by class of shapes, and write
/// a tuning table for `measure --tuning`. With `--device vm` nothing is timed: every
/// configuration is compiled and its answers are checked.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Kernels, such as gemm_skinny; all that have several configurations unless given.
    #[arg(value_name = "KERNEL")]
    named: Vec<String>,
    /// Suite whose points are the shapes to tune for, the first of each class; `tune` unless
    /// given, and `corners` on the virtual machine.
    #[arg(long, value_name = "SUITE")]
    shapes: Option<OsString>,
    #[command(flatten)]
    filter: FilterArgs,
    #[command(flatten)]
    common: CampaignOptions,
    /// How to print.
    #[arg(long, value_enum, default_value_t)]
    format: OutputFormat,
}

/// The file that a tuning campaign leaves in its folder.
const TABLE: &str = "tuning.toml";

pub fn run(args: Args) -> Result<ExitCode> {
    let Args { named: kernels, shapes, filter, common, format } = args;
    let is_virtual = common.device.name.starts_with("vm");
    let default = if is_virtual { "corners" } else { "tune" };
    let shapes = filter.load(shapes.as_deref().unwrap_or(default.as_ref()))?;
    if is_virtual {
        if common.resume.is_some() {
            bail!("on the virtual machine nothing is recorded; leave --resume out");
        }
        return proof::run(&kernels, &shapes, &common, format);
    }
    let budget_s = common.minutes.map(|minutes| 60.0 * minutes);
    let (resumes, opened) = (common.resume.is_some(), common.device.name.clone());
    let plan = |device: &dyn Device| -> Result<Option<Suite>> {
        if resumes {
            return Ok(None);
        }
        let request = TuneRequest { shapes: &shapes, kernels: &kernels, budget_s };
        let Competition { suite, left_out } = tune::competition(device, &request)?;
        if let [first, ..] = &left_out[..] {
            remark!(
                "{} classes of shapes are left out, for which the time is too short, the first is \
                 {first}; give more --minutes, or fewer kernels or shapes at a time",
                left_out.len()
            );
        }
        Ok(Some(suite))
    };
    let options = MeasureOptions::alone(common, format);
    let device_options = options.device_options();
    let conclude =
        |summary: &CampaignSummary, machines: &Machines, format: OutputFormat| {
            // Its kernels and their sources: nothing is launched any more.
            let opened = device::open(&opened, &device_options)?;
            conclude(summary, machines, format, &*opened.device)
        };
    measure::measure(&plan, &options, &["tune"], &conclude)
}

/// Prints and writes what was found, with the records and figures of a campaign beside it.
fn conclude(
    summary: &CampaignSummary,
    machines: &Machines,
    format: OutputFormat,
    device: &dyn Device,
) -> Result<ExitCode> {
    let folder = &summary.folder;
    let records = Records::read(folder)?;
    let suite = Suite::load_file(&folder.join("suite.toml"))?;
    let hash = |kernel: &str| Some(device.search_space(kernel)?.source_hash);
    let found = tune::found(&records, &suite.settings, hash)?;
    let printed = table::print(&tune::sections(&found, device), format);
    let path = folder.join(TABLE);
    write_table(&path, &found.table(&records).to_toml()?)?;
    let campaign = Campaign::load(folder, machines)?;
    report::write_files(&campaign, &judge(&campaign), folder)?;
    let taken = found.classes.iter().filter(|class| class.is_taken()).count();
    remark!(
        "{} classes of shapes, {taken} of them faster than by default; {} candidates in {:.1} s",
        found.classes.len(),
        found.standings.len(),
        summary.total_s
    );
    remark!("tuning table: {}", path.display());
    remark!("  `ridgepoint measure SUITE --tuning {}` runs kernels so", path.display());
    if summary.rows_left > 0 {
        remark!(
            "time was up with {} rows left; `ridgepoint tune --resume {}` measures them",
            summary.rows_left,
            folder.display()
        );
    }
    printed.map(|()| ExitCode::SUCCESS)
}

fn write_table(path: &Path, text: &str) -> Result<()> {
    write_atomically(path, text.as_bytes())
        .map_err(|why| why.context(files::cannot_write(path)))
}

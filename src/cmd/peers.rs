//! `ridgepoint peers DIR`: kernels of other libraries on the points of a campaign.

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context, Result, bail};

use super::interrupt::Interrupt;
use super::measure::{command_line, positive, tune_as_recorded};
use super::options::{FilterArgs, MachineFile};
use super::progress::Progress;
use super::{report, table, verdict};
use crate::analysis::Campaign;
use crate::campaign::{PeersRequest, measure_peers};
use crate::device::{self, Device, DeviceOptions};
use crate::output::remark;
use crate::record::{Records, Row, Status};
use crate::verdict::{PEERS_HEADING, judge};

/// Measure other libraries' kernels (cuBLAS, cuDNN, FlashAttention, ...) on the points of a
/// campaign, by a Python that has torch, and record them in it.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// A folder that `measure` wrote on this machine.
    folder: PathBuf,
    #[command(flatten)]
    filter: FilterArgs,
    /// The Python that has the libraries.
    #[arg(long, default_value = "python3")]
    python: String,
    /// Begin no further round after so many minutes; the same command measures the rest.
    #[arg(long, value_parser = positive)]
    minutes: Option<f64>,
    /// Measure these peers only.
    #[arg(long, value_delimiter = ',', value_name = "NAME")]
    only: Vec<String>,
    /// Seconds after which a job that makes no progress is ended; it costs its own row.
    #[arg(long, default_value_t = 180.0, value_parser = positive, value_name = "SECONDS")]
    job_limit: f64,
    /// Take compiled kernels from this folder, which `ridgepoint kernels build` wrote, for a
    /// GPU on a machine without a compiler.
    #[arg(long, value_name = "DIR")]
    kernels: Option<PathBuf>,
    #[command(flatten)]
    machines: MachineFile,
}

/// The campaign's device, with its kernels as they ran there: the fastest of each problem
/// takes turns with the peers.
fn open_device(args: &Args) -> Result<Box<dyn Device>> {
    let records = Records::read(&args.folder)?;
    let backend = records.runs.first().and_then(|run| run.get("backend"));
    let backend = backend.with_context(|| {
        format!("{}/run.csv does not say its backend", args.folder.display())
    })?;
    let options = DeviceOptions { kernels: args.kernels.clone() };
    let mut device = device::open(backend, &options)?.device;
    tune_as_recorded(&mut *device, &args.folder)?;
    Ok(device)
}

pub fn run(args: &Args) -> Result<ExitCode> {
    let machines = args.machines.load()?;
    let request = PeersRequest {
        folder: args.folder.clone(),
        python: args.python.clone(),
        budget_s: args.minutes.map(|minutes| 60.0 * minutes),
        only: args.only.clone(),
        filter: args.filter.filter.clone(),
        job_limit_s: args.job_limit,
        command_line: command_line(),
    };
    let interrupt = Interrupt::listen()?;
    let mut progress = Progress::new(&interrupt, None);
    let open = Box::new(|| open_device(args));
    let summary = measure_peers(&request, Some(open), &mut progress)?;
    drop(progress);
    interrupt.end_at_once();
    let campaign = Campaign::load(&args.folder, &machines)?;
    let judged = judge(&campaign);
    let is_of_peers = |s: &&crate::section::Section| s.heading.starts_with(PEERS_HEADING);
    let sections: Vec<_> = judged.sections.iter().filter(is_of_peers).cloned().collect();
    // What is printed may be lost; the files are written all the same.
    let printed = table::print_for_people(&sections);
    let written = report::write_files(&campaign, &judged, &args.folder)
        .with_context(|| report::how_to_finish(&args.folder))?;
    for path in written {
        remark!("  {}", path.display());
    }
    remark!(
        "{} rows of peers, and of kernels in turn with them, in {:.1} s ({} were there before)",
        summary.rows,
        summary.total_s,
        summary.there_before
    );
    if summary.rows_left > 0 {
        remark!(
            "{} rows are left; `ridgepoint peers {}` measures them",
            summary.rows_left,
            args.folder.display()
        );
    }
    verdict::print_remarks(&judged);
    printed?;
    let has_time = |row: &Row| row.status.is_some_and(Status::has_time);
    let of_peers = || campaign.rows_of_peers().filter(|row| !row.is_own());
    match of_peers().next() {
        Some(row) if !of_peers().any(has_time) => bail!(
            "no peer was measured; the first, {}, was {}: {}",
            row.kernel,
            row.status.map_or("not recorded", Status::name),
            row.reason
        ),
        None if summary.rows_left == 0 => bail!(
            "no peer was measured: none is known for the points of {}",
            args.folder.display()
        ),
        _ => Ok(verdict::exit_code(&judged)),
    }
}

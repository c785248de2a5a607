//! `ridgepoint report DIR`: figures and HTML from records alone.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context, Result};

use super::options::MachineFile;
use super::verdict;
use crate::analysis::{Campaign, write_derived};
use crate::output;
use crate::page;
use crate::record::write_atomically;
use crate::verdict::{Verdict, judge};

/// Draw figures and the HTML report from a campaign's records.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// A folder that `measure` wrote.
    folder: PathBuf,
    #[command(flatten)]
    machines: MachineFile,
}

pub fn run(args: &Args) -> Result<ExitCode> {
    let campaign = Campaign::load(&args.folder, &args.machines.load()?)?;
    let judged = judge(&campaign);
    let written = write_files(&campaign, &judged, &args.folder)
        .with_context(|| how_to_finish(&args.folder))?;
    for path in written {
        output::print_line(&path.display().to_string())?;
    }
    verdict::print_remarks(&judged);
    Ok(verdict::exit_code(&judged))
}

/// What to do where a figure or a derived table cannot be written after a measurement.
pub fn how_to_finish(folder: &Path) -> String {
    format!(
        "all records are written; once there is room and the right to write, `ridgepoint \
         report {}` makes tables and figures of them",
        folder.display()
    )
}

/// Writes everything that is derived from the records into their folder.
pub fn write_files(
    campaign: &Campaign,
    judged: &Verdict,
    folder: &Path,
) -> Result<Vec<PathBuf>> {
    let points = folder.join("points.csv");
    let claims = folder.join("verdict.csv");
    write_derived(campaign, &points)?;
    write_atomically(&claims, verdict::csv_text(judged)?.as_bytes())?;
    let mut paths = vec![points, claims];
    paths.extend(page::write_all(campaign, judged, folder)?);
    Ok(paths)
}

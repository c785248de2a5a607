//! `ridgepoint verdict DIR`: claims against records.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::Result;

use super::{Format, INVALID, table};
use crate::analysis::Campaign;
use crate::model::machine::Machines;
use crate::verdict::{Verdict, judge};

/// Hold the claims against the records of a campaign. Exits with 3 when the
/// run is invalid; whether a claim held does not matter to the exit code.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// A folder that `measure` wrote.
    folder: PathBuf,
    /// How to print.
    #[arg(long, value_enum, default_value_t)]
    format: Format,
}

pub fn run(args: &Args) -> Result<ExitCode> {
    let campaign = Campaign::load(&args.folder, &Machines::load(None)?)?;
    let verdict = judge(&campaign);
    table::print(&verdict.sections, args.format)?;
    print_remarks(&verdict);
    Ok(exit_code(&verdict))
}

/// Prints warnings and faults to standard error.
pub fn print_remarks(verdict: &Verdict) {
    for warning in &verdict.warnings {
        eprintln!("note: {warning}");
    }
    for fault in &verdict.faults {
        eprintln!("invalid: {fault}");
    }
}

pub fn exit_code(verdict: &Verdict) -> ExitCode {
    if verdict.is_valid() { ExitCode::SUCCESS } else { ExitCode::from(INVALID) }
}

/// Writes the claims as `verdict.csv`.
pub fn write_csv(verdict: &Verdict, path: &Path) -> Result<()> {
    let mut writer = csv::Writer::from_writer(Vec::new());
    writer.write_record(["claim_id", "statement", "finding", "evidence"])?;
    for claim in &verdict.claims {
        let finding = claim.finding.name();
        writer.write_record([claim.id, claim.statement, finding, &claim.evidence])?;
    }
    crate::record::write_atomically(path, &writer.into_inner()?)
}

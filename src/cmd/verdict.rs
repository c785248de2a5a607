//! `ridgepoint verdict DIR`: claims against records.

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Result;

use super::options::{INVALID, MachineFile, OutputFormat};
use super::table;
use crate::analysis::Campaign;
use crate::verdict::{Verdict, judge};

/// Hold the claims against the records of a campaign. Exits with 3 when the
/// run is invalid; whether a claim held does not matter to the exit code.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// A folder that `measure` wrote.
    folder: PathBuf,
    #[command(flatten)]
    machines: MachineFile,
    /// How to print: as tables, or claims and limits as in verdict.csv.
    #[arg(long, value_enum, default_value_t)]
    format: OutputFormat,
}

pub fn run(args: &Args) -> Result<ExitCode> {
    let campaign = Campaign::load(&args.folder, &args.machines.load()?)?;
    let verdict = judge(&campaign);
    match args.format {
        OutputFormat::Table => table::print_text(&verdict.sections)?,
        format => table::print_csv(&csv_text(&verdict)?, format)?,
    }
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

/// Columns of `verdict.csv`. Later ones are added at the end.
const COLUMNS: [&str; 20] = [
    "kind",
    "id",
    "statement",
    "finding",
    "value",
    "value_lo",
    "value_hi",
    "unit",
    "derived",
    "spec",
    "evidence",
    "planned",
    "agree",
    "against",
    "not_evidence",
    "derived_at_clock",
    "judged",
    "candidates",
    "flops_per_clock_per_sm",
    "derived_flops_per_clock_per_sm",
];

/// A row of `verdict.csv` with these cells, empty in other columns.
fn record(cells: &[(&str, &str)]) -> [String; COLUMNS.len()] {
    debug_assert!(cells.iter().all(|(column, _)| COLUMNS.contains(column)));
    COLUMNS.map(|column| {
        let cell = cells.iter().find(|(of, _)| *of == column);
        cell.map_or(String::new(), |(_, text)| (*text).to_owned())
    })
}

/// The text of `verdict.csv`: claims with findings, limits with values, ratios to peers.
pub fn csv_text(verdict: &Verdict) -> Result<String> {
    let mut writer = csv::Writer::from_writer(Vec::new());
    writer.write_record(COLUMNS)?;
    for claim in &verdict.claims {
        let counts = claim.counts;
        let [planned, agree, against, silent] =
            [counts.planned, counts.agree, counts.against, counts.not_evidence()]
                .map(|count| count.to_string());
        writer.write_record(record(&[
            ("kind", "claim"),
            ("id", claim.id),
            ("statement", claim.statement),
            ("finding", claim.finding.name()),
            ("evidence", &claim.evidence),
            ("planned", &planned),
            ("agree", &agree),
            ("against", &against),
            ("not_evidence", &silent),
        ]))?;
    }
    for limit in &verdict.limits {
        let v = limit.value;
        let [value, lo, hi] = [v.value, v.lo, v.hi].map(|x| x.to_string());
        let per_clock = limit.flops_per_clock;
        let [derived, spec, at_clock, measured_per_clock, derived_per_clock] = [
            limit.derived,
            limit.spec,
            limit.derived_at_clock,
            per_clock.map(|of| of.measured),
            per_clock.and_then(|of| of.derived),
        ]
        .map(|peak| peak.map_or(String::new(), |x| x.to_string()));
        writer.write_record(record(&[
            ("kind", "limit"),
            ("id", &limit.id),
            ("value", &value),
            ("value_lo", &lo),
            ("value_hi", &hi),
            ("unit", limit.unit),
            ("derived", &derived),
            ("spec", &spec),
            ("evidence", &limit.from),
            ("derived_at_clock", &at_clock),
            ("judged", limit.judged()),
            ("candidates", &limit.candidates_csv()),
            ("flops_per_clock_per_sm", &measured_per_clock),
            ("derived_flops_per_clock_per_sm", &derived_per_clock),
        ]))?;
    }
    for peer in &verdict.peers {
        let v = peer.speed;
        let [value, lo, hi] = [v.value, v.lo, v.hi].map(|x| x.to_string());
        writer.write_record(record(&[
            ("kind", "peer"),
            ("id", &peer.point_id),
            ("statement", &peer.problem),
            ("finding", peer.finding),
            ("value", &value),
            ("value_lo", &lo),
            ("value_hi", &hi),
            ("unit", "ratio"),
            ("evidence", &peer.between),
        ]))?;
    }
    Ok(String::from_utf8(writer.into_inner()?)?)
}

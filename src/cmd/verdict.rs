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
        OutputFormat::Table => table::print(&verdict.sections, OutputFormat::Table)?,
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
const COLUMNS: [&str; 18] = [
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
];

/// The text of `verdict.csv`: claims with findings, limits with values, ratios to peers.
pub fn csv_text(verdict: &Verdict) -> Result<String> {
    let mut writer = csv::Writer::from_writer(Vec::new());
    writer.write_record(COLUMNS)?;
    for claim in &verdict.claims {
        let (finding, evidence) = (claim.finding.name(), claim.evidence.as_str());
        let (statement, counts) = (claim.statement, claim.counts);
        let [planned, agree, against, silent] =
            [counts.planned, counts.agree, counts.against, counts.not_evidence()]
                .map(|count| count.to_string());
        writer.write_record([
            "claim", claim.id, statement, finding, "", "", "", "", "", "", evidence,
            &planned, &agree, &against, &silent, "", "", "",
        ])?;
    }
    for limit in &verdict.limits {
        let v = limit.value;
        let [value, lo, hi] = [v.value, v.lo, v.hi].map(|x| x.to_string());
        let [derived, spec, at_clock] = [limit.derived, limit.spec, limit.derived_at_clock]
            .map(|peak| peak.map_or(String::new(), |x| x.to_string()));
        let (id, unit, from) = (&limit.id, limit.unit, &limit.from);
        let (judged, candidates) = (limit.judged(), limit.candidates_csv());
        writer.write_record([
            "limit",
            id,
            "",
            "",
            &value,
            &lo,
            &hi,
            unit,
            &derived,
            &spec,
            from,
            "",
            "",
            "",
            "",
            &at_clock,
            judged,
            &candidates,
        ])?;
    }
    for peer in &verdict.peers {
        let v = peer.speed;
        let [value, lo, hi] = [v.value, v.lo, v.hi].map(|x| x.to_string());
        let (id, problem, between) = (&peer.point_id, &peer.problem, &peer.between);
        writer.write_record([
            "peer",
            id,
            problem,
            peer.finding,
            &value,
            &lo,
            &hi,
            "ratio",
            "",
            "",
            between,
            "",
            "",
            "",
            "",
            "",
            "",
            "",
        ])?;
    }
    Ok(String::from_utf8(writer.into_inner()?)?)
}

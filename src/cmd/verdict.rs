//! `ridgepoint verdict DIR`: claims against records.

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Result, bail};
use clap::ValueEnum;
use serde_json::{Value, json};

use super::options::{INVALID, MachineFile, OutputFormat, UNMET};
use super::table;
use crate::analysis::{Campaign, Candidate};
use crate::claims::{self, ClaimEntry, Origin};
use crate::output::remark;
use crate::statistics::Estimate;
use crate::suite::is_like;
use crate::verdict::{Claim, Finding, MachineLimit, PeerRatio, Verdict, judge_by};

/// Hold claims against the records of a campaign. Exits with 3 when the run is invalid;
/// whether a claim held matters to the exit code only with --require.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// A folder that `measure` wrote.
    folder: PathBuf,
    #[command(flatten)]
    machines: MachineFile,
    /// TOML files with claims of your own, beside the built-in ones; see
    /// examples/claims.toml for their form.
    #[arg(long, value_name = "FILE", num_args = 1.., value_delimiter = ',')]
    claims: Vec<PathBuf>,
    /// Only claims with these names; * stands for anything and ? for one character.
    #[arg(long, value_name = "NAMES", value_delimiter = ',')]
    only: Vec<String>,
    /// Exit with 4 unless claims are at least this: those of --claims, or else those of --only,
    /// or else all that have a row in the table.
    #[arg(long, value_name = "VERDICT")]
    require: Option<Required>,
    /// How to print: as tables; claims, limits and peers as in verdict.csv; or all of it, with
    /// validity and notes, as one JSON document.
    #[arg(long, value_enum, default_value_t)]
    format: OutputFormat,
}

/// What claims must be.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Required {
    /// The records show what is claimed.
    Reproduced,
    /// They show it, or miss it by no more than the claim tolerates.
    WithinTolerance,
}

impl Required {
    fn is_met_by(self, finding: Finding) -> bool {
        match finding {
            Finding::Reproduced => true,
            Finding::WithinTolerance => self == Required::WithinTolerance,
            Finding::Contradicted | Finding::NotTested => false,
        }
    }

    const fn name(self) -> &'static str {
        match self {
            Required::Reproduced => Finding::Reproduced.name(),
            Required::WithinTolerance => Finding::WithinTolerance.name(),
        }
    }
}

pub fn run(args: &Args) -> Result<ExitCode> {
    let own = args.own_claims()?;
    let wanted = args.wanted(&own)?;
    let campaign = Campaign::load(&args.folder, &args.machines.load()?)?;
    let verdict = judge_by(&campaign, &wanted);
    match args.format {
        OutputFormat::Table => table::print_for_people(&verdict.sections)?,
        OutputFormat::Csv => table::print_csv(&csv_text(&verdict)?, OutputFormat::Csv)?,
        OutputFormat::Json => table::print_json(&document(&campaign, &verdict))?,
    }
    print_remarks(&verdict);
    let unmet = args.unmet(&verdict);
    for claim in &unmet {
        let required = args.require.map_or("", Required::name);
        let (id, finding) = (&claim.id, claim.finding.name());
        remark!("required: {id} is {finding} and not {required}: {}", claim.reason);
    }
    if verdict.is_valid() && !unmet.is_empty() {
        return Ok(ExitCode::from(UNMET));
    }
    Ok(exit_code(&verdict))
}

impl Args {
    /// The claims of all files.
    fn own_claims(&self) -> Result<Vec<ClaimEntry>> {
        let mut own: Vec<ClaimEntry> = Vec::new();
        for file in &self.claims {
            for claim in claims::of_file(file)? {
                if own.iter().any(|other| other.name == claim.name) {
                    bail!(
                        "{}: claim {} is in another file too; give it another `name`",
                        file.display(),
                        claim.name
                    );
                }
                own.push(claim);
            }
        }
        Ok(own)
    }

    /// The claims to judge, the user's first.
    fn wanted<'a>(&self, own: &'a [ClaimEntry]) -> Result<Vec<&'a ClaimEntry>> {
        let is_wanted = |claim: &&ClaimEntry| {
            self.only.is_empty() || self.only.iter().any(|name| is_like(name, &claim.name))
        };
        let all = own.iter().chain(claims::built_in()?);
        let wanted: Vec<&ClaimEntry> = all.filter(is_wanted).collect();
        if wanted.is_empty() {
            bail!(
                "no claim has a name like {}; --format csv lists all",
                self.only.join(", ")
            );
        }
        Ok(wanted)
    }

    /// The claims that are not what is required: of the user's where there are some, and else
    /// of those that were asked for by name or that tables show.
    fn unmet<'a>(&self, verdict: &'a Verdict) -> Vec<&'a Claim> {
        let Some(required) = self.require else { return Vec::new() };
        let is_asked = |claim: &&Claim| match (self.claims.is_empty(), self.only.is_empty())
        {
            (false, _) => claim.origin == Origin::User,
            (true, false) => true,
            (true, true) => claim.is_listed(),
        };
        let asked = verdict.claims.iter().filter(is_asked);
        asked.filter(|claim| !required.is_met_by(claim.finding)).collect()
    }
}

/// Prints warnings and faults to standard error.
pub fn print_remarks(verdict: &Verdict) {
    for warning in &verdict.warnings {
        remark!("note: {warning}");
    }
    for fault in &verdict.faults {
        remark!("invalid: {fault}");
    }
}

pub fn exit_code(verdict: &Verdict) -> ExitCode {
    if verdict.is_valid() { ExitCode::SUCCESS } else { ExitCode::from(INVALID) }
}

/// All that the tables and the remarks say, as one JSON document.
fn document(campaign: &Campaign, verdict: &Verdict) -> Value {
    let spread = campaign.repeatability.as_ref().map(|of| {
        json!({
            "between": of.unit.name(),
            "range_median_share": of.range(0.5),
            "range_p90_share": of.range(0.9),
            "resolution_median_share": of.resolution(0.5),
            "resolution_p90_share": of.resolution(0.9),
        })
    });
    let sheet = campaign.spec.as_ref();
    let sheet =
        sheet.map(|sheet| json!({"machine": sheet.machine, "source": sheet.source}));
    json!({
        "valid": verdict.is_valid(),
        "faults": verdict.faults,
        "notes": verdict.warnings,
        "claims": verdict.claims.iter().map(claim).collect::<Vec<_>>(),
        "limits": verdict.limits.iter().map(limit).collect::<Vec<_>>(),
        "peers": verdict.peers.iter().map(peer).collect::<Vec<_>>(),
        "data_sheet": sheet,
        "repeatability": spread,
        "tables": verdict.tables().map(table::json).collect::<Vec<_>>(),
    })
}

fn claim(claim: &Claim) -> Value {
    let counts = claim.counts;
    json!({
        "id": claim.id,
        "statement": claim.statement,
        "source": claim.source,
        "finding": claim.finding.name(),
        "value": claim.value.map(|e| e.value),
        "value_lo": claim.value.map(|e| e.lo),
        "value_hi": claim.value.map(|e| e.hi),
        "unit": claim.unit.name(),
        "claimed": claim.claimed,
        "rows": claim.rows,
        "reason": claim.reason,
        "evidence": claim.evidence,
        "planned": counts.planned,
        "agree": counts.agree,
        "against": counts.against,
        "not_evidence": counts.not_evidence(),
        "against_by": claim.against_by,
        "not_evidence_by": claim.not_evidence_by,
    })
}

fn limit(limit: &MachineLimit) -> Value {
    let candidate = |of: &Candidate| {
        json!({
            "kernel": &*of.kernel,
            "point_id": of.point_id,
            "value": of.rate.value,
            "derived_share": of.share_of_derived(),
            "under_load": of.is_disturbed,
        })
    };
    let of = |peak: Option<f64>| peak.map(|peak| limit.value.value / peak);
    let per_clock = limit.flops_per_clock;
    json!({
        "id": limit.id,
        "value": limit.value.value,
        "value_lo": limit.value.lo,
        "value_hi": limit.value.hi,
        "unit": limit.unit,
        "from": limit.from,
        "derived": limit.derived,
        "derived_at_clock": limit.derived_at_clock,
        "derived_share": of(limit.derived_at_clock.or(limit.derived)),
        "sm_clock_hz": limit.candidates.first().and_then(|best| best.sm_clock_hz),
        "spec": limit.spec,
        "spec_share": of(limit.spec),
        "flops_per_clock_per_sm": per_clock.map(|of| of.measured),
        "derived_flops_per_clock_per_sm": per_clock.and_then(|of| of.derived),
        "bytes_per_clock_per_sm": limit.bytes_per_clock,
        "judged": limit.judged(),
        "candidates": limit.candidates.iter().map(candidate).collect::<Vec<_>>(),
    })
}

fn peer(peer: &PeerRatio) -> Value {
    json!({
        "point_id": peer.point_id,
        "problem": peer.problem,
        "finding": peer.finding,
        "speed": peer.speed.value,
        "speed_lo": peer.speed.lo,
        "speed_hi": peer.speed.hi,
        "between": peer.between,
    })
}

/// Columns of `verdict.csv`. Later ones are added at the end.
const COLUMNS: [&str; 26] = [
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
    "device_kind",
    "claimed",
    "rows_used",
    "reason",
    "source",
    "bytes_per_clock_per_sm",
];

/// A row of `verdict.csv` with these cells, empty in other columns but the last.
fn record(verdict: &Verdict, cells: &[(&str, &str)]) -> [String; COLUMNS.len()] {
    debug_assert!(cells.iter().all(|(column, _)| COLUMNS.contains(column)));
    let kind = ("device_kind", verdict.device_kind.name());
    COLUMNS.map(|column| {
        let cell = cells.iter().chain([&kind]).find(|(of, _)| *of == column);
        cell.map_or(String::new(), |(_, text)| (*text).to_owned())
    })
}

/// A row of `verdict.csv` of a claim.
fn claim_record(verdict: &Verdict, claim: &Claim) -> [String; COLUMNS.len()] {
    let counts = claim.counts;
    let [planned, agree, against, silent, rows] = [
        counts.planned,
        counts.agree,
        counts.against,
        counts.not_evidence(),
        claim.rows.len(),
    ]
    .map(|count| count.to_string());
    let number = |of: fn(Estimate) -> f64| {
        claim.value.map_or(String::new(), |value| of(value).to_string())
    };
    let [value, lo, hi] = [number(|e| e.value), number(|e| e.lo), number(|e| e.hi)];
    record(
        verdict,
        &[
            ("kind", "claim"),
            ("id", &claim.id),
            ("statement", &claim.statement),
            ("finding", claim.finding.name()),
            ("value", &value),
            ("value_lo", &lo),
            ("value_hi", &hi),
            ("unit", claim.unit.name()),
            ("evidence", &claim.evidence),
            ("planned", &planned),
            ("agree", &agree),
            ("against", &against),
            ("not_evidence", &silent),
            ("claimed", &claim.claimed),
            ("rows_used", &rows),
            ("reason", &claim.reason),
            ("source", &claim.source),
        ],
    )
}

/// The text of `verdict.csv`: claims with findings, limits with values, ratios to peers.
pub fn csv_text(verdict: &Verdict) -> Result<String> {
    let mut writer = csv::Writer::from_writer(Vec::new());
    writer.write_record(COLUMNS)?;
    for claim in &verdict.claims {
        writer.write_record(claim_record(verdict, claim))?;
    }
    for limit in &verdict.limits {
        let v = limit.value;
        let [value, lo, hi] = [v.value, v.lo, v.hi].map(|x| x.to_string());
        let per_clock = limit.flops_per_clock;
        let [derived, spec, at_clock, measured_per_clock, derived_per_clock, bytes] = [
            limit.derived,
            limit.spec,
            limit.derived_at_clock,
            per_clock.map(|of| of.measured),
            per_clock.and_then(|of| of.derived),
            limit.bytes_per_clock,
        ]
        .map(|peak| peak.map_or(String::new(), |x| x.to_string()));
        writer.write_record(record(
            verdict,
            &[
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
                ("bytes_per_clock_per_sm", &bytes),
            ],
        ))?;
    }
    for peer in &verdict.peers {
        let v = peer.speed;
        let [value, lo, hi] = [v.value, v.lo, v.hi].map(|x| x.to_string());
        writer.write_record(record(
            verdict,
            &[
                ("kind", "peer"),
                ("id", &peer.point_id),
                ("statement", &peer.problem),
                ("finding", peer.finding),
                ("value", &value),
                ("value_lo", &lo),
                ("value_hi", &hi),
                ("unit", "ratio"),
                ("evidence", &peer.between),
            ],
        ))?;
    }
    Ok(String::from_utf8(writer.into_inner()?)?)
}

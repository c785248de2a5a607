//! Claims held against the records: the value of each, its verdict, and why.

use std::collections::BTreeMap;

use super::evidence::{Counts, Tally};
use super::pairs::Pair;
use super::quantities::{Found, Made};
use super::{CLAIMS_HEADING, EVIDENCE_HEADING, Judge};
use crate::claims::{ClaimEntry, Expected, Finding, Origin, Relation, Tolerance, Unit};
use crate::section::Section;
use crate::statistics::Estimate;

/// A claim and what the records say of it.
#[derive(Clone, Debug)]
pub struct Claim {
    /// Short stable name.
    pub id: String,
    /// The claim in a sentence.
    pub statement: String,
    /// Who claims it.
    pub source: String,
    /// Whose table it stands in.
    pub origin: Origin,
    /// Whether it is held against a data sheet.
    is_of_sheet: bool,
    /// What the records say.
    pub finding: Finding,
    /// The value of its quantity with a 95% interval; none where nothing says it.
    pub value: Option<Estimate>,
    /// The unit of the value.
    pub unit: Unit,
    /// What the value is claimed to be, in words.
    pub claimed: String,
    /// Ids of the points that the value was made of.
    pub rows: Vec<String>,
    /// Why the finding is what it is, in a sentence.
    pub reason: String,
    /// The counts and ratios that the finding rests on.
    pub evidence: String,
    /// How many of the points or pairs that were planned say what.
    pub counts: Counts,
    /// How many disagree for each reason.
    pub against_by: BTreeMap<&'static str, usize>,
    /// How many say nothing for each reason.
    pub not_evidence_by: BTreeMap<&'static str, usize>,
}

impl Claim {
    /// Whether a table for people has a row of it. A number of a data sheet or a published
    /// time is only named where no row was planned that could test it, or no data sheet states
    /// it.
    pub fn is_listed(&self) -> bool {
        let could_be_tested = self.counts.planned > 0 && !self.claimed.is_empty();
        let is_of_paper = self.origin == Origin::BuiltIn && !self.is_of_sheet;
        let is_tested = self.finding != Finding::NotTested;
        is_tested || could_be_tested || is_of_paper || self.origin == Origin::User
    }
}

impl<'a> Judge<'a> {
    /// Claims of the records' machine, and how many are about others.
    pub(super) fn claims(
        &self,
        entries: &[&ClaimEntry],
        pairs: &[Pair<'a>],
    ) -> (Vec<Claim>, usize) {
        let mut claims = Vec::new();
        let mut elsewhere = 0;
        for entry in entries.iter().filter(|entry| entry.is_of_records()) {
            match (self.other_machine(entry), entry.origin) {
                (Some(_), Origin::Published) => elsewhere += 1,
                (Some(why), _) => claims.push(judged(entry, Found::nothing(why), None)),
                (None, _) => claims.push(self.claim(entry, pairs)),
            }
        }
        (claims, elsewhere)
    }

    /// Why a claim is not about the machine of the records.
    fn other_machine(&self, entry: &ClaimEntry) -> Option<String> {
        let wanted = entry.machine.as_ref()?;
        match &self.campaign.spec {
            Some(sheet) if sheet.machine == *wanted => None,
            Some(sheet) => Some(format!(
                "it is about {wanted}, and the records are of {}",
                sheet.machine
            )),
            None => Some(format!(
                "it is about {wanted}, and the records are of a machine without a data sheet"
            )),
        }
    }

    /// A claim held against the records.
    pub(super) fn claim(&self, entry: &ClaimEntry, pairs: &[Pair<'a>]) -> Claim {
        let found = self.found(entry, pairs);
        let sheet = self.campaign.spec.as_ref();
        judged(entry, found, Some(Expected::of(entry.relation, entry.tolerance, sheet)))
    }
}

/// A verdict with its reason.
struct Judgement {
    finding: Finding,
    why: String,
}

/// The verdict of what was found, against what is expected or why nothing is.
fn judged(
    entry: &ClaimEntry,
    found: Found,
    expected: Option<Result<Expected, String>>,
) -> Claim {
    let unit = entry.unit();
    let expected = expected.transpose();
    let claimed = match &expected {
        Ok(Some(expected)) => claimed_text(entry, expected),
        Ok(None) | Err(_) => String::new(),
    };
    let Judgement { finding, why } = match &expected {
        Err(why) => not_tested(why.clone()),
        Ok(expected) => judgement(entry, &found, expected.as_ref()),
    };
    let Found { value, tally, rows, how, details, made, .. } = found;
    let mut evidence = vec![how];
    evidence.extend(tally.remarks());
    evidence.extend(details);
    let tally = match (made, finding) {
        (Made::Share, _) | (_, Finding::Reproduced | Finding::WithinTolerance) => tally,
        (_, Finding::Contradicted) => tally.disagreeing("outside of the tolerance"),
        (_, Finding::NotTested) => tally.saying_nothing("the claim is not decided"),
    };
    Claim {
        id: entry.name.clone(),
        statement: entry.statement.clone(),
        source: entry.source.clone(),
        origin: entry.origin,
        is_of_sheet: entry.relation.is_of_sheet(),
        finding,
        value,
        unit,
        claimed,
        rows,
        reason: why,
        evidence: evidence.join("; "),
        counts: tally.counts(),
        against_by: tally.against_by(),
        not_evidence_by: tally.not_evidence_by(),
    }
}

fn not_tested(why: String) -> Judgement {
    Judgement { finding: Finding::NotTested, why }
}

fn judgement(entry: &ClaimEntry, found: &Found, expected: Option<&Expected>) -> Judgement {
    if let Some(why) = &found.contradicted {
        let why = with_silent(why.clone(), &found.tally);
        return Judgement { finding: Finding::Contradicted, why };
    }
    let (Some(value), Some(expected)) = (found.value, expected) else {
        return not_tested(with_silent(found.how.clone(), &found.tally));
    };
    if let Some(doubt) = &found.doubt {
        return not_tested(format!("{doubt} ({})", found.how));
    }
    if found.made != Made::Best && !found.tally.is_enough() {
        return not_tested(with_silent(
            "less than half of what was planned is evidence".to_owned(),
            &found.tally,
        ));
    }
    let judged = match found.made {
        Made::Share => Estimate::exact(value.value),
        Made::Best | Made::Many => value,
    };
    let finding = expected.judge(judged);
    if let (Finding::Contradicted, Some(excuse)) = (finding, found.excuse) {
        let off = value_reason(entry, found, expected, finding);
        return not_tested(format!("{excuse}: {off}"));
    }
    let why = match found.made {
        Made::Share => share_reason(found, expected, finding),
        Made::Best | Made::Many => value_reason(entry, found, expected, finding),
    };
    Judgement { finding, why: with_silent(why, &found.tally) }
}

/// Why a share of rows has its verdict.
fn share_reason(found: &Found, expected: &Expected, finding: Finding) -> String {
    let least = Unit::Share.text(expected.tolerated.0);
    match finding {
        Finding::Reproduced | Finding::NotTested => found.how.clone(),
        Finding::WithinTolerance => format!("{}, and {least} is tolerated", found.how),
        Finding::Contradicted => {
            format!("{}, and no less than {least} is tolerated", found.how)
        }
    }
}

/// Why a value has its verdict.
fn value_reason(
    entry: &ClaimEntry,
    found: &Found,
    expected: &Expected,
    finding: Finding,
) -> String {
    let tolerance = match entry.tolerance {
        Tolerance::Share(share) => crate::quantity::share(share),
        Tolerance::Absolute(absolute) => entry.unit().text(absolute),
    };
    let (from, to) = expected.claimed;
    // Of a range there is no one end to compare with.
    let end = match (from.is_finite(), to.is_finite()) {
        (true, true) if from < to => None,
        (true, _) => Some(from),
        (false, _) => Some(to),
    };
    let of_claimed = found.value.zip(end.filter(|end| *end != 0.0)).map(|(value, end)| {
        format!("{} of what is claimed, ", crate::quantity::share(value.value / end))
    });
    let of_claimed = of_claimed.unwrap_or_default();
    let how = &found.how;
    match finding {
        Finding::Reproduced if from == to => {
            format!("the interval is at what is claimed ({how})")
        }
        Finding::Reproduced => format!("the whole interval is where it is claimed ({how})"),
        Finding::WithinTolerance => {
            format!("{of_claimed}off by no more than {tolerance} ({how})")
        }
        Finding::Contradicted => {
            format!(
                "{of_claimed}off by more than {tolerance} with its whole interval ({how})"
            )
        }
        Finding::NotTested => format!(
            "the interval is too wide to say: it reaches across the edge of the tolerance of \
             {tolerance} ({how})"
        ),
    }
}

/// A reason, with what of the planned rows says nothing.
fn with_silent(why: String, tally: &Tally) -> String {
    let silent = tally.remarks().into_iter().find(|remark| remark.contains("not evidence"));
    silent.map_or(why.clone(), |silent| format!("{why}; {silent}"))
}

/// What is claimed: `= 4.8 TB/s`, `>= 100%`, `0.9 to 1.1`.
fn claimed_text(entry: &ClaimEntry, expected: &Expected) -> String {
    let unit = entry.unit();
    let (from, to) = expected.claimed;
    match entry.relation {
        Relation::Equals(_) => format!("= {}", unit.text(from)),
        Relation::AtLeast(_) => format!(">= {}", unit.text(from)),
        Relation::AtMost(_) => format!("<= {}", unit.text(to)),
        Relation::Between(..) => format!("{} to {}", unit.text(from), unit.text(to)),
    }
}

impl Judge<'_> {
    /// The claims as people read them: those that were tested or planned, and the names of the
    /// others with the reason.
    pub(super) fn claims_section(&self, claims: &[Claim], elsewhere: usize) -> Section {
        let rows = claims.iter().filter(|claim| claim.is_listed()).map(|claim| {
            vec![
                claim.statement.clone(),
                claim.finding.name().to_owned(),
                claim.value.map_or(String::new(), |value| claim.unit.interval_text(value)),
                claim.claimed.clone(),
                claim.rows.len().to_string(),
                claim.reason.clone(),
            ]
        });
        let mut unlisted: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
        for claim in claims.iter().filter(|claim| !claim.is_listed()) {
            unlisted.entry(&claim.reason).or_default().push(&claim.id);
        }
        let mut paragraphs: Vec<String> = unlisted
            .into_iter()
            .map(|(why, ids)| format!("Not tested, as {why}: {}.", ids.join(", ")))
            .collect();
        if elsewhere > 0 {
            paragraphs
                .push(format!("{elsewhere} published measurements are of other machines."));
        }
        Section {
            heading: CLAIMS_HEADING.into(),
            columns: vec![
                "claim",
                "verdict",
                "value (95% interval)",
                "claimed",
                "rows",
                "reason",
            ],
            rows: rows.collect(),
            paragraphs,
            spare: &["rows", "claimed"],
            ..Section::default()
        }
    }

    /// What the claims about many points or pairs rest on.
    pub(super) fn evidence_section(&self, claims: &[Claim]) -> Section {
        let listed = claims.iter().filter(|claim| {
            claim.counts.planned > 0
                && claim.unit == Unit::Share
                && claim.origin != Origin::User
        });
        let rows = listed.map(|claim| vec![claim.id.clone(), claim.evidence.clone()]);
        Section {
            heading: EVIDENCE_HEADING.into(),
            columns: vec!["claim", "evidence"],
            rows: rows.collect(),
            ..Section::default()
        }
    }
}

#[cfg(test)]
mod tests;

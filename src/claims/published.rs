//! The published measurements as claims: that these problems can be done in this time on the
//! machine.

use anyhow::Result;

use super::entry::{ClaimEntry, Origin};
use super::quantity::Quantity;
use super::relation::{Amount, Relation, Tolerance};
use crate::model::published::{self, Measurement};
use crate::quantity::si;

/// How far a published time may be off, as a share of it: most come from engines whose
/// collectors leave the caches as they are, and all from other boards.
const TOLERANCE: f64 = 0.1;

/// A claim for each published measurement, in the order of their table.
pub(super) fn claims() -> Result<Vec<ClaimEntry>> {
    published::measurements()?.into_iter().map(claim).collect()
}

fn claim(measurement: Measurement) -> Result<ClaimEntry> {
    let Measurement { name, machine, problems, time_s, source, note } = measurement;
    let at = Amount::number(time_s).map_err(anyhow::Error::msg)?;
    let labels: Vec<String> = problems.iter().map(|problem| problem.label()).collect();
    Ok(ClaimEntry {
        statement: format!(
            "{} can be done in {} on {machine}.",
            labels.join(", then "),
            si(time_s, "s")
        ),
        source: if note.is_empty() { source } else { format!("{source} {note}") },
        name,
        origin: Origin::Published,
        machine: Some(machine),
        select: None,
        include_peers: true,
        quantity: Quantity::TimeOfProblems(problems),
        relation: Relation::AtMost(at),
        tolerance: Tolerance::Share(TOLERANCE),
    })
}

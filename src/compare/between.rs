//! What campaigns vary by beyond their rounds: clocks, temperature, where a process's memory
//! lies, who else uses the machine. Rounds of one campaign share all of that, so none of it
//! is in their spread.

use std::collections::HashMap;

use super::pair::Pair;
use crate::analysis::Campaign;
use crate::provenance::{MACHINE_COLUMNS, PROGRAM_COLUMNS, differences};
use crate::record::Row;
use crate::statistics::{LogDifference, median};

/// What tells how much two campaigns vary.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BetweenSource {
    /// Points whose code is the same in both, on the same machine.
    SameCode,
    /// All points: what code they ran is not known, and it is assumed that most of them
    /// changed little.
    Bulk,
    /// Nothing of the two: the machines differ, or no point can be used.
    Usual,
}

/// What the difference of two campaigns' times varies by beyond their rounds.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Between {
    /// Variance of a logarithm of a ratio of times.
    pub variance: f64,
    /// Degrees of freedom that it is known with.
    pub freedom: f64,
    /// What tells it.
    pub source: BetweenSource,
    /// Points that it is from.
    pub controls: usize,
    /// Median ratio of the first time over the second of these points.
    pub shift: Option<f64>,
}

/// Standard deviation that is expected before anything was seen, as a share: of a GPU, where
/// two campaigns of the same code on an H100, seven minutes apart, differ by 0.9% in the
/// quadratic mean of 62 points, of which rounds explain 0.84%; of a CPU, assumed.
const USUAL: [f64; 2] = [0.003, 0.02];
/// Degrees of freedom that it counts for beside what is seen.
const USUAL_FREEDOM: f64 = 4.0;
/// Most degrees of freedom: points of two campaigns vary in unlike ways, so many of them do
/// not say much more of any one than a few do.
const MOST_FREEDOM: f64 = 8.0;

/// Points from which on the bulk of all points is used.
const FEWEST_OF_BULK: usize = 5;

impl Between {
    /// Of two campaigns whose points are paired.
    pub(super) fn of(before: &Campaign, after: &Campaign, pairs: &[Pair<'_>]) -> Self {
        let usual = Self::usual(after);
        let runs = before.runs.last().zip(after.runs.last());
        let of_two_machines =
            runs.is_none_or(|(a, b)| !differences(a, b, &MACHINE_COLUMNS).is_empty());
        if of_two_machines {
            return usual;
        }
        let controls: Vec<&Pair<'_>> = same_code(before, after, pairs);
        let (controls, source) = match controls.len() {
            0 if pairs.len() >= FEWEST_OF_BULK && has_no_code_hashes(after) => {
                (pairs.iter().collect(), BetweenSource::Bulk)
            }
            0 => return usual,
            _ => (controls, BetweenSource::SameCode),
        };
        let shifts: Vec<f64> = controls.iter().map(|pair| pair.difference.value).collect();
        let seen = match source {
            BetweenSource::Bulk => robust(&controls),
            _ => mean_excess(&controls),
        };
        let count = controls.len() as f64;
        let freedom = USUAL_FREEDOM + count;
        Between {
            variance: (USUAL_FREEDOM * usual.variance + count * seen) / freedom,
            freedom: freedom.min(MOST_FREEDOM),
            source,
            controls: controls.len(),
            shift: Some(median(&shifts).exp()),
        }
    }

    /// What is expected where nothing of two campaigns shows it.
    pub(super) fn usual(campaign: &Campaign) -> Self {
        let is_cpu = campaign.runs.last().and_then(|run| run.get("backend")) == Some("cpu");
        Between {
            variance: USUAL[usize::from(is_cpu)].powi(2),
            freedom: USUAL_FREEDOM,
            source: BetweenSource::Usual,
            controls: 0,
            shift: None,
        }
    }

    /// A difference with this error beside that of its rounds.
    pub(super) fn added_to(self, difference: LogDifference) -> LogDifference {
        difference.with_error(self.variance, self.freedom)
    }

    /// Standard deviation of a ratio of times, as a share.
    pub fn relative_sd(&self) -> f64 {
        self.variance.sqrt()
    }
}

/// What the squares of differences exceed those of rounds by, in the mean.
fn mean_excess(controls: &[&Pair<'_>]) -> f64 {
    let excess = controls.iter().map(|pair| {
        let difference = pair.difference;
        difference.value.powi(2) - difference.variance
    });
    (excess.sum::<f64>() / controls.len() as f64).max(0.0)
}

/// The same by medians: half of the points may have changed by any amount. The median of a
/// square is 0.4549 of the mean, of a normal distribution about 0.
fn robust(controls: &[&Pair<'_>]) -> f64 {
    const MEDIAN_OF_SQUARE: f64 = 0.4549;
    let of = |value: fn(&LogDifference) -> f64| {
        let values: Vec<f64> =
            controls.iter().map(|pair| value(&pair.difference)).collect();
        median(&values)
    };
    (of(|d| d.value.powi(2)) / MEDIAN_OF_SQUARE - of(|d| d.variance)).max(0.0)
}

/// Pairs whose code is the same: by the hash of what the device ran, by the version of
/// another library, or because both are of one build of this program, whose source had no
/// changes beside its commit.
fn same_code<'p, 'a>(
    before: &Campaign,
    after: &Campaign,
    pairs: &'p [Pair<'a>],
) -> Vec<&'p Pair<'a>> {
    let is_one_program = before.runs.last().zip(after.runs.last()).is_some_and(|(a, b)| {
        let is_clean = [a, b].iter().all(|run| run.get("git_dirty") == Some("false"));
        is_clean && differences(a, b, &PROGRAM_COLUMNS).is_empty()
    });
    let [of_before, of_after] = [before, after].map(code_hashes);
    let is_same = |pair: &&Pair<'_>| {
        let (a, b) = (pair.before, pair.after);
        let hashes = of_before.get(&*a.point_id).zip(of_after.get(&*b.point_id));
        let is_foreign = !a.is_own() && !b.is_own();
        match hashes {
            // Another kernel is other code, whoever built it.
            _ if a.point_id != b.point_id => false,
            Some((one, other)) => one == other,
            None if is_foreign => a.implementation == b.implementation,
            None => is_one_program,
        }
    };
    pairs.iter().filter(is_same).collect()
}

/// The hashes of the code of points, where they are known.
fn code_hashes(campaign: &Campaign) -> HashMap<&str, &str> {
    let with_hash = campaign.rows.iter().filter(|row| has_hash(row));
    with_hash.map(|row| (row.point_id.as_str(), row.code_hash.as_str())).collect()
}

fn has_hash(row: &Row) -> bool {
    row.repeat == 0 && !row.code_hash.is_empty()
}

fn has_no_code_hashes(campaign: &Campaign) -> bool {
    !campaign.rows.iter().any(has_hash)
}

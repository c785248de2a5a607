//! What a claim rests on: every point or pair that was planned for it, and what each says.

use std::collections::BTreeMap;

use super::counted;
use crate::analysis::Measured;
use crate::point::CacheState;

/// Whether a point was planned to have its data in DRAM. What was not laid out lies
/// nowhere, so its cache state decides.
pub(super) fn planned_from_dram(point: &Measured) -> bool {
    let is_laid_out = point.residency.is_some();
    point.is_from_dram() || (!is_laid_out && point.cache == CacheState::Cold)
}

/// How many of the points or pairs that were planned for a claim say what.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// All that were planned, those without a time included.
    pub planned: usize,
    /// Those that agree with the claim, with their whole interval.
    pub agree: usize,
    /// Those that disagree.
    pub against: usize,
}

impl Counts {
    /// Those that say nothing: not measured, or not decidable.
    pub const fn not_evidence(&self) -> usize {
        self.planned - self.agree - self.against
    }

    const fn evidence(&self) -> usize {
        self.agree + self.against
    }
}

/// What one point or pair says of a claim.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Says {
    Agrees,
    /// It disagrees, as this.
    Against(&'static str),
    /// It was measured and says nothing, because of this.
    Nothing(&'static str),
    /// It was not measured, because of this.
    NotMeasured(&'static str),
}

impl Says {
    pub const fn is_evidence(self) -> bool {
        matches!(self, Says::Agrees | Says::Against(_))
    }
}

/// All that was planned for a claim.
#[derive(Debug, Default)]
pub(super) struct Tally {
    agree: usize,
    against: BTreeMap<&'static str, usize>,
    measured_in_vain: BTreeMap<&'static str, usize>,
    not_measured: BTreeMap<&'static str, usize>,
}

impl FromIterator<Says> for Tally {
    fn from_iter<T: IntoIterator<Item = Says>>(all: T) -> Self {
        let mut tally = Tally::default();
        for says in all {
            match says {
                Says::Agrees => tally.agree += 1,
                Says::Against(why) => *tally.against.entry(why).or_default() += 1,
                Says::Nothing(why) => {
                    *tally.measured_in_vain.entry(why).or_default() += 1;
                }
                Says::NotMeasured(why) => {
                    *tally.not_measured.entry(why).or_default() += 1;
                }
            }
        }
        tally
    }
}

impl Tally {
    pub fn counts(&self) -> Counts {
        let sum = |reasons: &BTreeMap<_, usize>| reasons.values().sum::<usize>();
        let against = sum(&self.against);
        let silent = sum(&self.measured_in_vain) + sum(&self.not_measured);
        Counts { planned: self.agree + against + silent, agree: self.agree, against }
    }

    /// Whether enough of what was planned says anything: at least half.
    pub fn is_enough(&self) -> bool {
        let counts = self.counts();
        counts.evidence() > 0 && 2 * counts.evidence() >= counts.planned
    }

    /// The same where what agrees says nothing after all, because of this.
    pub fn saying_nothing(mut self, why: &'static str) -> Tally {
        if self.agree > 0 {
            *self.measured_in_vain.entry(why).or_default() += self.agree;
            self.agree = 0;
        }
        self
    }

    /// The same where what agrees disagrees after all, as this.
    pub fn disagreeing(mut self, why: &'static str) -> Tally {
        if self.agree > 0 {
            *self.against.entry(why).or_default() += self.agree;
            self.agree = 0;
        }
        self
    }

    /// How many disagree for each reason.
    pub fn against_by(&self) -> BTreeMap<&'static str, usize> {
        self.against.clone()
    }

    /// How many say nothing for each reason.
    pub fn not_evidence_by(&self) -> BTreeMap<&'static str, usize> {
        let mut all = self.measured_in_vain.clone();
        for (why, count) in &self.not_measured {
            *all.entry(why).or_default() += count;
        }
        all
    }

    /// What is not in agreement, and why, in words.
    pub fn remarks(&self) -> Vec<String> {
        let counts = self.counts();
        let mut remarks = Vec::new();
        if counts.against > 0 {
            let say = counted(counts.against, "disagrees", "disagree");
            remarks.push(format!("{say}: {}", reasons(&[&self.against])));
        }
        if counts.not_evidence() > 0 {
            let say = counted(counts.not_evidence(), "is not evidence", "are not evidence");
            let why = reasons(&[&self.measured_in_vain, &self.not_measured]);
            remarks.push(format!("{say}: {why}"));
        }
        if counts.planned > 0 && !self.is_enough() {
            remarks.push("less than half of what was planned is evidence".into());
        }
        remarks
    }
}

/// `kernel below both roofs 8, skipped 2`.
fn reasons(groups: &[&BTreeMap<&'static str, usize>]) -> String {
    let all = groups.iter().flat_map(|group| group.iter());
    all.map(|(why, count)| format!("{why} {count}")).collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tally(agree: usize, against: usize, silent: usize, missing: usize) -> Tally {
        let times = |says: Says, n: usize| std::iter::repeat_n(says, n);
        times(Says::Agrees, agree)
            .chain(times(Says::Against("compute bound"), against))
            .chain(times(Says::Nothing("undecided"), silent))
            .chain(times(Says::NotMeasured("skipped"), missing))
            .collect()
    }

    #[test]
    fn half_of_what_was_planned_is_enough() {
        for (counts, is_enough) in [
            ((0, 0, 0, 0), false),
            ((0, 0, 0, 9), false),
            ((0, 0, 1, 9), false),
            ((4, 0, 10, 0), false),
            ((4, 0, 0, 10), false),
            ((0, 4, 10, 0), false),
            ((7, 0, 5, 2), true),
            ((6, 0, 5, 2), false),
            ((9, 0, 1, 0), true),
            ((5, 6, 0, 0), true),
            ((0, 1, 0, 1), true),
        ] {
            let (a, b, c, d) = counts;
            assert_eq!(tally(a, b, c, d).is_enough(), is_enough, "{counts:?}");
        }
    }

    #[test]
    fn what_says_nothing_is_counted_with_its_reason() {
        let tally = tally(4, 1, 8, 2);
        assert_eq!(tally.counts(), Counts { planned: 15, agree: 4, against: 1 });
        assert_eq!(
            tally.remarks(),
            [
                "1 disagrees: compute bound 1",
                "10 are not evidence: undecided 8, skipped 2",
                "less than half of what was planned is evidence"
            ]
        );
    }
}

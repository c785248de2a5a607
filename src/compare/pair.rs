//! Two times that belong together, and the error of their difference that one campaign shows.

use crate::analysis::{Campaign, Measured};
use crate::statistics::{LogDifference, RoundSpread, difference_of_rounds};

/// Two times that belong together, and their difference.
#[derive(Clone, Copy, Debug)]
pub struct Pair<'a> {
    /// The first.
    pub before: &'a Measured,
    /// The second.
    pub after: &'a Measured,
    /// Logarithm of the first time over the second: above 0 the second is shorter. Its error
    /// is that of rounds.
    pub(super) difference: LogDifference,
}

/// Whether a point has a time that was measured. What a device counts or makes up is not
/// compared.
pub(super) fn is_timed(point: &Measured) -> bool {
    point.time_s.is_some()
}

/// Seconds of a point: the geometric mean of its rounds, or its time where it has none.
pub(super) fn typical_s(point: &Measured) -> Option<f64> {
    let medians = &point.round_medians_s;
    let sum: f64 = medians.iter().map(|median| median.ln()).sum();
    match medians.len() {
        0 => point.time_s.map(|time| time.value),
        n => Some((sum / n as f64).exp()),
    }
}

/// The spread between rounds that is typical of campaigns: the mean of theirs.
pub(super) fn typical(campaigns: &[&Campaign]) -> Option<RoundSpread> {
    let spreads: Vec<RoundSpread> = campaigns
        .iter()
        .filter_map(|campaign| Some(campaign.repeatability.as_ref()?.typical))
        .collect();
    let sum: f64 = spreads.iter().map(|spread| spread.variance).sum();
    let points = spreads.iter().map(|spread| spread.points).sum();
    (!spreads.is_empty())
        .then(|| RoundSpread { variance: sum / spreads.len() as f64, points })
}

/// Standard deviation of a time, as a share, that samples of one round do not show: rounds of
/// the committed GPU campaigns differ by 0.3% in the middle and 2.4% for one point in ten.
pub(super) const UNSEEN_BY_SAMPLES: f64 = 0.01;
/// Degrees of freedom that are granted to it.
const UNSEEN_FREEDOM: f64 = 4.0;

impl<'a> Pair<'a> {
    /// `None` where one has no time.
    pub(super) fn of(
        before: &'a Measured,
        after: &'a Measured,
        typical: Option<&RoundSpread>,
    ) -> Option<Self> {
        let rounds = [&before.round_medians_s, &after.round_medians_s];
        let of_rounds = difference_of_rounds(rounds[0], rounds[1], typical)
            .filter(|_| rounds.iter().all(|rounds| rounds.len() > 1));
        let difference = match of_rounds {
            Some(difference) => difference,
            None => difference_of_samples(before, after)?,
        };
        Some(Pair { before, after, difference })
    }
}

/// The difference of two times, one of which has intervals of samples alone.
fn difference_of_samples(before: &Measured, after: &Measured) -> Option<LogDifference> {
    let of = |point: &Measured| {
        let time = point.time_s?;
        let deviation = (time.hi / time.lo).ln() / 2.0 / 1.96;
        Some((time.value.ln(), deviation.powi(2) + UNSEEN_BY_SAMPLES.powi(2)))
    };
    let ((a, of_a), (b, of_b)) = (of(before)?, of(after)?);
    let variance = of_a + of_b;
    Some(LogDifference { value: a - b, variance, freedom: UNSEEN_FREEDOM })
}

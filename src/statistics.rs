//! Order statistics, the bootstrap interval of a median, and arithmetic on
//! values with intervals. All on `f64`, in the caller's unit.

mod many;

use rand::{RngExt, SeedableRng};
use rand_pcg::Pcg64Mcg;

pub use many::{Tested, holm, t_at, t_exceeds};

/// A value with a 95% interval around it.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Estimate {
    /// Best value.
    pub value: f64,
    /// Lower end.
    pub lo: f64,
    /// Upper end.
    pub hi: f64,
}

impl Estimate {
    /// A value known without error.
    pub const fn exact(value: f64) -> Self {
        Estimate { value, lo: value, hi: value }
    }

    /// `amount / self`: a rate out of a time. Both positive.
    pub fn into_rate(self, amount: f64) -> Self {
        Estimate { value: amount / self.value, lo: amount / self.hi, hi: amount / self.lo }
    }

    /// `self * factor`, the factor positive and exact.
    pub fn scaled(self, factor: f64) -> Self {
        Estimate { value: self.value * factor, lo: self.lo * factor, hi: self.hi * factor }
    }

    /// `self / other` with the widest interval that the two allow. Both
    /// positive.
    pub fn over(self, other: Estimate) -> Self {
        Estimate {
            value: self.value / other.value,
            lo: self.lo / other.hi,
            hi: self.hi / other.lo,
        }
    }

    /// `self / other` where the errors of the two are independent: distances to the ends,
    /// as logarithms, add in squares. Both positive.
    pub fn over_independent(self, other: Estimate) -> Self {
        let value = self.value / other.value;
        let down = (self.value / self.lo).ln().hypot((other.hi / other.value).ln());
        let up = (self.hi / self.value).ln().hypot((other.value / other.lo).ln());
        Estimate { value, lo: value * (-down).exp(), hi: value * up.exp() }
    }

    /// Moves both ends outward by a share of the value: an error that the
    /// samples of one point cannot show, such as drift between points.
    pub fn widened(self, share: f64) -> Self {
        let by = self.value * share;
        Estimate { value: self.value, lo: (self.lo - by).max(0.0), hi: self.hi + by }
    }

    /// Half the interval as a share of the value.
    pub fn half_width(&self) -> f64 {
        (self.hi - self.lo) / 2.0 / self.value
    }
}

/// Share of repeats that are taken to be undisturbed.
const LOW_QUANTILE: f64 = 0.1;

/// What one thing takes where nothing disturbs it: the low end of many repeats, since what
/// else happens on a machine only ever makes it longer. The interval is from the shortest
/// repeat to the order statistic that the quantile exceeds in at most 5% of samples. `None`
/// of no repeats.
pub fn low_quantile(times: &[f64]) -> Option<Estimate> {
    let mut sorted = times.to_vec();
    sorted.sort_by(f64::total_cmp);
    let n = sorted.len();
    let lo = *sorted.first()?;
    // Binomial: how many of n repeats lie below the quantile.
    let mut probability = (1.0 - LOW_QUANTILE).powi(n as i32);
    let (mut cumulated, mut below) = (probability, 0);
    while cumulated < 0.95 && below + 1 < n {
        below += 1;
        let choices = (n - below + 1) as f64 / below as f64;
        probability *= choices * LOW_QUANTILE / (1.0 - LOW_QUANTILE);
        cumulated += probability;
    }
    Some(Estimate { value: quantile(&sorted, LOW_QUANTILE), lo, hi: sorted[below] })
}

/// The spread between rounds that is typical of a campaign: what an interval of few rounds
/// leans on.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct RoundSpread {
    /// Mean variance of the logarithms of a point's round medians.
    pub variance: f64,
    /// Points that it is the mean of.
    pub points: usize,
}

/// Degrees of freedom that a campaign's typical variance counts for beside a point's own.
/// Of 516 triples of runs of committed and handed-down H100 campaigns, the interval of two
/// runs covers the third in 96%, 94% and 93% with 1, 2 and 3.
const PRIOR_FREEDOM: f64 = 2.0;

impl RoundSpread {
    /// Pools points, each given by its round medians. `None` where no point has two.
    pub fn of<'a>(points: impl Iterator<Item = &'a [f64]>) -> Option<Self> {
        let variances: Vec<f64> = points.filter_map(log_variance).collect();
        let mean = variances.iter().sum::<f64>() / variances.len() as f64;
        (!variances.is_empty())
            .then_some(RoundSpread { variance: mean, points: variances.len() })
    }

    /// Standard deviation between rounds as a share of the time.
    pub fn relative_sd(&self) -> f64 {
        self.variance.sqrt()
    }
}

/// Variance (n - 1) of the logarithms of positive values; `None` of fewer than two.
fn log_variance(values: &[f64]) -> Option<f64> {
    let freedom = values.len().checked_sub(1).filter(|freedom| *freedom > 0)?;
    let mean = log_mean(values);
    let squares: f64 = values.iter().map(|x| (x.ln() - mean).powi(2)).sum();
    Some(squares / freedom as f64)
}

fn log_mean(values: &[f64]) -> f64 {
    values.iter().map(|x| x.ln()).sum::<f64>() / values.len() as f64
}

/// The time that rounds agree on: the geometric mean of their medians, with a 95% interval
/// by Student's t from the spread between them. What varies from launch to launch within a
/// round is part of that spread; what varies from round to round (where buffers lie, clocks,
/// what else runs) is not seen within one.
///
/// With `typical`, the variance is moderated: the mean of the point's own and the
/// campaign's, weighted by degrees of freedom (Smyth, "Linear models and empirical Bayes
/// methods", 2004). Two rounds alone say little about their own spread.
///
/// `None` of fewer than two rounds.
pub fn of_rounds(medians: &[f64], typical: Option<&RoundSpread>) -> Option<Estimate> {
    Some(LogDifference::of_pairs(medians, typical)?.ratio_95())
}

/// What two sets of rounds differ by, in logarithms.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct LogDifference {
    /// The logarithm of the ratio.
    pub value: f64,
    /// The variance of its error.
    pub variance: f64,
    /// Degrees of freedom that the variance is known with.
    pub freedom: f64,
}

impl LogDifference {
    /// What times differ by whose rounds belong in pairs, given the ratio of each pair: what
    /// changes from pair to pair alike for both is not part of the error. With `typical`, the
    /// variance is moderated as in [`of_rounds`]. `None` of fewer than two pairs.
    pub fn of_pairs(ratios: &[f64], typical: Option<&RoundSpread>) -> Option<Self> {
        let own = log_variance(ratios)?;
        let own_freedom = (ratios.len() - 1) as f64;
        let (variance, freedom) = match typical {
            Some(typical) => {
                let freedom = own_freedom + PRIOR_FREEDOM;
                let sum = own_freedom * own + PRIOR_FREEDOM * typical.variance;
                (sum / freedom, freedom)
            }
            None => (own, own_freedom),
        };
        let variance = variance / ratios.len() as f64;
        Some(LogDifference { value: log_mean(ratios), variance, freedom })
    }

    /// The same with another error beside its own, degrees of freedom by Welch and
    /// Satterthwaite.
    pub fn with_error(self, variance: f64, freedom: f64) -> Self {
        let total = self.variance + variance;
        let parts = self.variance.powi(2) / self.freedom + variance.powi(2) / freedom;
        let freedom = if parts > 0.0 { total.powi(2) / parts } else { self.freedom };
        LogDifference { value: self.value, variance: total, freedom }
    }

    /// The ratio with its 95% interval, degrees of freedom rounded down.
    pub fn ratio_95(&self) -> Estimate {
        self.within(student_t(self.freedom as usize) * self.variance.sqrt())
    }

    /// Half the interval at a level, as a logarithm.
    pub fn reach(&self, level: f64) -> f64 {
        t_at(level, self.freedom) * self.variance.sqrt()
    }

    /// The ratio with its interval at a level, 0.05 for 95%.
    pub fn ratio(&self, level: f64) -> Estimate {
        self.within(self.reach(level))
    }

    /// The probability of a difference as large as this one where there is none.
    pub fn probability(&self) -> f64 {
        // Times that are the same to the last digit differ by nothing.
        if self.value == 0.0 {
            return 1.0;
        }
        t_exceeds(self.value / self.variance.sqrt(), self.freedom)
    }

    fn within(&self, reach: f64) -> Estimate {
        Estimate {
            value: self.value.exp(),
            lo: (self.value - reach).exp(),
            hi: (self.value + reach).exp(),
        }
    }
}

/// The difference of two sets of rounds, `a` less `b`, with the pooled variance of a
/// two-sample t-test on logarithms. With `typical` the variance is moderated as in
/// [`of_rounds`]. `None` of sets with fewer than two rounds.
pub fn difference_of_rounds(
    a: &[f64],
    b: &[f64],
    typical: Option<&RoundSpread>,
) -> Option<LogDifference> {
    let own_freedom = |set: &[f64]| (set.len() - 1) as f64;
    let squares = |set: &[f64]| Some(log_variance(set)? * own_freedom(set));
    let (mut sum, mut freedom) =
        (squares(a)? + squares(b)?, own_freedom(a) + own_freedom(b));
    if let Some(typical) = typical {
        sum += PRIOR_FREEDOM * typical.variance;
        freedom += PRIOR_FREEDOM;
    }
    let variance = (1.0 / a.len() as f64 + 1.0 / b.len() as f64) * sum / freedom;
    Some(LogDifference { value: log_mean(a) - log_mean(b), variance, freedom })
}

/// The ratio of the times of two sets of rounds, `a` over `b`, with the 95% interval of a
/// two-sample t-test on logarithms: where the two do not differ it leaves out 1 in 5% of
/// cases. `None` of sets with fewer than two rounds.
pub fn ratio_of_rounds(a: &[f64], b: &[f64]) -> Option<Estimate> {
    Some(difference_of_rounds(a, b, None)?.ratio_95())
}

/// The 97.5% quantile of Student's t distribution, to three digits. Beyond the
/// table the expansion in `1 / n` about the normal quantile (Abramowitz and
/// Stegun, 26.7.5).
pub fn student_t(freedom: usize) -> f64 {
    const TABLE: [f64; 10] =
        [12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228];
    const NORMAL: f64 = 1.959_964;
    match freedom.checked_sub(1) {
        None => f64::INFINITY,
        Some(index) if index < TABLE.len() => TABLE[index],
        Some(_) => {
            let n = freedom as f64;
            let (z, z3, z5) = (NORMAL, NORMAL.powi(3), NORMAL.powi(5));
            z + (z3 + z) / (4.0 * n) + (5.0 * z5 + 16.0 * z3 + 3.0 * z) / (96.0 * n * n)
        }
    }
}

/// What a set of samples says.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Summary {
    /// Number of samples.
    pub n: usize,
    /// Median with the bootstrap 95% interval.
    pub median: Estimate,
    /// Mean.
    pub mean: f64,
    /// Standard deviation (n - 1).
    pub sd: f64,
    /// Smallest sample.
    pub min: f64,
    /// 5th, 25th, 75th and 95th percentile.
    pub percentiles: [f64; 4],
}

/// Resamples drawn for one interval. The ends of a 95% interval then rest on
/// 25 resamples each.
const RESAMPLES: usize = 1000;

/// Summarises samples. `None` when there are none.
pub fn summarise(samples: &[f64]) -> Option<Summary> {
    let sorted = sorted(samples);
    let n = sorted.len();
    if n == 0 {
        return None;
    }
    let mean = sorted.iter().sum::<f64>() / n as f64;
    let squares: f64 = sorted.iter().map(|x| (x - mean).powi(2)).sum();
    let sd = if n > 1 { (squares / (n - 1) as f64).sqrt() } else { 0.0 };
    Some(Summary {
        n,
        median: bootstrap_median(&sorted),
        mean,
        sd,
        min: sorted[0],
        percentiles: [0.05, 0.25, 0.75, 0.95].map(|p| quantile(&sorted, p)),
    })
}

/// Largest over smallest of positive values, less 1.
pub fn relative_range(values: &[f64]) -> f64 {
    let most = values.iter().copied().fold(0.0, f64::max);
    most / values.iter().copied().fold(f64::INFINITY, f64::min) - 1.0
}

/// Median of unsorted samples; NaN when there are none.
pub fn median(samples: &[f64]) -> f64 {
    quantile(&sorted(samples), 0.5)
}

/// Quantile of sorted samples, linear between order statistics (type 7 of
/// Hyndman and Fan 1996); NaN when there are none.
pub fn quantile(sorted: &[f64], p: f64) -> f64 {
    let Some(last) = sorted.len().checked_sub(1) else { return f64::NAN };
    let position = p * last as f64;
    let below = position.floor() as usize;
    let above = (below + 1).min(last);
    sorted[below] + (position - below as f64) * (sorted[above] - sorted[below])
}

/// Number of samples from which on no resamples are drawn.
const MANY: usize = 400;

/// The percentile bootstrap (Efron 1979) of the median. The generator has a
/// fixed seed: the same samples always give the same interval.
///
/// A resample's median is at most the k-th sample when half of its draws are,
/// and the number of those is binomial. With many samples that is normal, and
/// the interval's ends are the samples 1.96 standard deviations, `sqrt(n) / 2`
/// ranks each, from the middle: the same interval without drawing anything.
fn bootstrap_median(sorted: &[f64]) -> Estimate {
    let n = sorted.len();
    let value = quantile(sorted, 0.5);
    if n == 1 {
        return Estimate::exact(value);
    }
    if n >= MANY {
        let reach = 1.96 / 2.0 / (n as f64).sqrt();
        let end = |p| quantile(sorted, p);
        return Estimate { value, lo: end(0.5 - reach), hi: end(0.5 + reach) };
    }
    drawn_median(sorted, value)
}

fn drawn_median(sorted: &[f64], value: f64) -> Estimate {
    let n = sorted.len();
    let mut rng = Pcg64Mcg::seed_from_u64(n as u64);
    let mut counts = vec![0u32; n];
    let mut medians: Vec<f64> = (0..RESAMPLES)
        .map(|_| {
            counts.fill(0);
            for _ in 0..n {
                counts[rng.random_range(0..n)] += 1;
            }
            median_of_counts(sorted, &counts)
        })
        .collect();
    medians.sort_by(f64::total_cmp);
    Estimate { value, lo: quantile(&medians, 0.025), hi: quantile(&medians, 0.975) }
}

/// Median of a resample given as how often each sorted sample was drawn, which
/// spares sorting every resample.
fn median_of_counts(sorted: &[f64], counts: &[u32]) -> f64 {
    let n = sorted.len() as u32;
    let (low_rank, high_rank) = ((n - 1) / 2, n / 2);
    let mut seen = 0;
    let mut low = None;
    for (value, count) in sorted.iter().zip(counts) {
        seen += count;
        if low.is_none() && seen > low_rank {
            low = Some(*value);
        }
        if seen > high_rank {
            return (low.unwrap_or(*value) + value) / 2.0;
        }
    }
    sorted[sorted.len() - 1]
}

fn sorted(samples: &[f64]) -> Vec<f64> {
    let mut sorted = samples.to_vec();
    sorted.sort_by(f64::total_cmp);
    sorted
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn errors_of_independent_times_add_in_squares() {
        let time = |value: f64, share: f64| Estimate {
            value,
            lo: value / share,
            hi: value * share,
        };
        let ratio = time(3.0, 3f64.exp()).over_independent(time(2.0, 4f64.exp()));
        assert!((ratio.value - 1.5).abs() < 1e-12);
        assert!((ratio.hi / ratio.value - 5f64.exp()).abs() < 1e-9, "{ratio:?}");
        assert!((ratio.value / ratio.lo - 5f64.exp()).abs() < 1e-9, "{ratio:?}");
        let exact = Estimate::exact(3.0).over_independent(Estimate::exact(2.0));
        assert_eq!(exact, Estimate::exact(1.5));
    }

    #[test]
    fn low_ends_of_repeats() {
        assert_eq!(low_quantile(&[]), None);
        assert_eq!(low_quantile(&[3.0]), Some(Estimate::exact(3.0)));
        // Of 20, four or fewer lie below the tenth from the shortest in 95.7% of samples.
        let times: Vec<f64> = (1..=20).rev().map(f64::from).collect();
        let low = low_quantile(&times).unwrap();
        assert_eq!((low.lo, low.hi), (1.0, 5.0));
        assert!((low.value - 2.9).abs() < 1e-9, "{low:?}");
        // However much is disturbed, as long as a few are not.
        let load = [9.0, 9.5, 1.0, 9.9, 1.01, 9.7, 9.8, 1.02, 9.0, 9.1];
        assert!(low_quantile(&load).unwrap().value < 1.02);
    }

    /// The interval holds the true quantile in about 95% of samples.
    #[test]
    fn low_ends_are_covered() {
        let mut rng = Pcg64Mcg::seed_from_u64(9);
        let covered = (0..2000).filter(|_| {
            let times: Vec<f64> = (0..21).map(|_| rng.random::<f64>()).collect();
            low_quantile(&times).unwrap().hi >= LOW_QUANTILE
        });
        let share = covered.count() as f64 / 2000.0;
        assert!((0.93..=0.99).contains(&share), "{share}");
    }

    #[test]
    fn summary_of_five_numbers_by_hand() {
        let s = summarise(&[5.0, 1.0, 2.0, 4.0, 3.0]).unwrap();
        assert_eq!((s.n, s.median.value, s.mean, s.min), (5, 3.0, 3.0, 1.0));
        assert!((s.sd - 2.5f64.sqrt()).abs() < 1e-12);
        assert_eq!(s.percentiles, [1.2, 2.0, 4.0, 4.8]);
        assert_eq!(summarise(&[]), None);
    }

    /// Rounds of a common truth, each off by 3%: 95% of intervals cover the truth, and two
    /// sets of rounds differ by more than their difference's interval in 5%.
    #[test]
    fn intervals_of_rounds_keep_their_promise() {
        let mut rng = Pcg64Mcg::seed_from_u64(11);
        // A sum of 12 uniform values has variance 1.
        let mut normal = move || (0..12).map(|_| rng.random_range(-0.5..0.5)).sum::<f64>();
        for rounds in [2, 3, 5] {
            let points: Vec<Vec<f64>> = (0..2000)
                .map(|_| (0..rounds).map(|_| (0.03 * normal()).exp()).collect())
                .collect();
            let typical = RoundSpread::of(points.iter().map(Vec::as_slice)).unwrap();
            assert!((typical.relative_sd() / 0.03 - 1.0).abs() < 0.05, "{typical:?}");
            let covered = |typical: Option<&RoundSpread>| {
                let of = points.iter().filter(|medians| {
                    let time = of_rounds(medians, typical).unwrap();
                    time.lo <= 1.0 && 1.0 <= time.hi
                });
                of.count() as f64 / points.len() as f64
            };
            let (alone, moderated) = (covered(None), covered(Some(&typical)));
            assert!((0.935..=0.965).contains(&alone), "{rounds} rounds: {alone}");
            // All points vary alike here, so that the campaign's variance is the truth, and a
            // fixed weight for it is cautious.
            assert!(moderated >= 0.94, "{rounds} rounds: {moderated}");
            let width = |typical: Option<&RoundSpread>| {
                let of = points.iter().filter_map(|m| of_rounds(m, typical));
                of.map(|time| time.half_width()).sum::<f64>()
            };
            assert!(width(Some(&typical)) < width(None), "{rounds} rounds");
            let pairs = points.chunks(2);
            let alarms = pairs.clone().filter(|pair| {
                let ratio = ratio_of_rounds(&pair[0], &pair[1]).unwrap();
                !(ratio.lo <= 1.0 && 1.0 <= ratio.hi)
            });
            let rate = alarms.count() as f64 / pairs.len() as f64;
            assert!((0.035..=0.065).contains(&rate), "{rounds} rounds: {rate}");
        }
    }

    #[test]
    fn rounds_by_hand() {
        let e = of_rounds(&[1.0, 4.0], None).unwrap();
        // Logarithms 0 and 1.3863: variance 0.9609, t = 12.706.
        assert!((e.value - 2.0).abs() < 1e-12);
        assert!(
            (e.hi.ln() - 2f64.ln() - 12.706 * 0.9609f64.sqrt() / 2f64.sqrt()).abs() < 1e-3
        );
        assert_eq!(of_rounds(&[1.0], None), None);
        let typical = RoundSpread { variance: 0.0, points: 9 };
        let narrow = of_rounds(&[1.0, 4.0], Some(&typical)).unwrap();
        // A third of the variance with three degrees of freedom.
        let reach = 3.182 * (0.9609f64 / 3.0 / 2.0).sqrt();
        assert!((narrow.hi.ln() - 2f64.ln() - reach).abs() < 1e-3, "{narrow:?}");
        assert_eq!(RoundSpread::of([&[1.0][..]].into_iter()), None);
    }

    #[test]
    fn one_sample_is_its_own_interval() {
        assert_eq!(summarise(&[2.0]).unwrap().median, Estimate::exact(2.0));
    }

    #[test]
    fn interval_covers_the_true_median_about_95_times_in_100() {
        let mut rng = Pcg64Mcg::seed_from_u64(1);
        let covered = (0..400)
            .filter(|_| {
                let samples: Vec<f64> =
                    (0..40).map(|_| rng.random_range(0.0..2.0)).collect();
                let m = summarise(&samples).unwrap().median;
                m.lo <= 1.0 && 1.0 <= m.hi
            })
            .count();
        assert!((366..=396).contains(&covered), "{covered} of 400");
    }

    #[test]
    fn drawing_and_counting_ranks_agree_where_they_meet() {
        let mut rng = Pcg64Mcg::seed_from_u64(2);
        let mut samples: Vec<f64> = (0..MANY).map(|_| rng.random_range(0.0..1.0)).collect();
        samples.sort_by(f64::total_cmp);
        let (ranked, drawn) = (bootstrap_median(&samples), drawn_median(&samples, 0.5));
        let width = drawn.hi - drawn.lo;
        assert!((ranked.lo - drawn.lo).abs() < 0.1 * width, "{ranked:?} {drawn:?}");
        assert!((ranked.hi - drawn.hi).abs() < 0.1 * width, "{ranked:?} {drawn:?}");
    }

    #[test]
    fn ratios_take_the_widest_interval() {
        let a = Estimate { value: 4.0, lo: 3.0, hi: 5.0 };
        let b = Estimate { value: 2.0, lo: 1.0, hi: 2.5 };
        assert_eq!(a.over(b), Estimate { value: 2.0, lo: 1.2, hi: 5.0 });
        assert_eq!(b.into_rate(10.0), Estimate { value: 5.0, lo: 4.0, hi: 10.0 });
        assert_eq!(a.widened(0.25), Estimate { value: 4.0, lo: 2.0, hi: 6.0 });
    }

    proptest! {
        #[test]
        fn interval_holds_the_median_and_lies_within_the_samples(
            samples in prop::collection::vec(1e-9f64..1e3, 1..60)
        ) {
            let s = summarise(&samples).unwrap();
            let max = samples.iter().copied().fold(0.0, f64::max);
            prop_assert!(s.min <= s.median.lo && s.median.lo <= s.median.value);
            prop_assert!(s.median.value <= s.median.hi && s.median.hi <= max);
            prop_assert!(s.percentiles.is_sorted());
        }

        #[test]
        fn order_of_samples_does_not_matter(
            samples in prop::collection::vec(1e-9f64..1e3, 1..40)
        ) {
            let mut reversed = samples.clone();
            reversed.reverse();
            prop_assert_eq!(summarise(&samples).unwrap(), summarise(&reversed).unwrap());
        }
    }
}

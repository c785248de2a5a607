//! Order statistics, the bootstrap interval of a median, and arithmetic on
//! values with intervals. All on `f64`, in the caller's unit.

use rand::{RngExt, SeedableRng};
use rand_pcg::Pcg64Mcg;

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
    fn summary_of_five_numbers_by_hand() {
        let s = summarise(&[5.0, 1.0, 2.0, 4.0, 3.0]).unwrap();
        assert_eq!((s.n, s.median.value, s.mean, s.min), (5, 3.0, 3.0, 1.0));
        assert!((s.sd - 2.5f64.sqrt()).abs() < 1e-12);
        assert_eq!(s.percentiles, [1.2, 2.0, 4.0, 4.8]);
        assert_eq!(summarise(&[]), None);
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

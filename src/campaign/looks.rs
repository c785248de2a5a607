//! What the device was seen to do during each sample. Looks are taken on a thread of its own
//! and know nothing of samples; both have a time.

use std::collections::BTreeSet;
use std::time::Instant;

use crate::device::{ClockLimit, Look};
use crate::record::SampleRow;

/// A sample between two looks is told by the nearest one, if it is no farther away than
/// this. A look every 10 ms is what the device `cuda` aims at.
const NEAR_S: f64 = 0.05;

/// Looks at the device, in the order of time.
pub(super) struct Looks<'a> {
    looks: &'a [Look],
    /// When the process began to measure.
    began: Instant,
}

impl<'a> Looks<'a> {
    pub(super) fn new(looks: &'a [Look], began: Instant) -> Self {
        Self { looks, began }
    }

    /// The columns of a sample that ran from `from_s` to `to_s`, in seconds since the process
    /// began to measure: mean power, lowest clock of the memory, highest temperature and all
    /// limits of the looks meanwhile, or what the nearest look saw; empty where there was none.
    pub(super) fn during(&self, (from_s, to_s): (f64, f64)) -> SampleRow {
        let first = self.looks.partition_point(|look| self.seconds(look) < from_s);
        let last = self.looks.partition_point(|look| self.seconds(look) <= to_s);
        if first < last {
            return columns(&self.looks[first..last]);
        }
        let before =
            first.checked_sub(1).map(|at| (from_s - self.seconds(&self.looks[at]), at));
        let after = self.looks.get(last).map(|look| (self.seconds(look) - to_s, last));
        let nearest = before.into_iter().chain(after).min_by(|a, b| a.0.total_cmp(&b.0));
        match nearest.filter(|(distance_s, _)| *distance_s <= NEAR_S) {
            Some((_, at)) => columns(&self.looks[at..=at]),
            None => SampleRow::default(),
        }
    }

    /// When a look was taken; negative before the process began to measure.
    fn seconds(&self, look: &Look) -> f64 {
        match look.at.checked_duration_since(self.began) {
            Some(since) => since.as_secs_f64(),
            None => -self.began.duration_since(look.at).as_secs_f64(),
        }
    }
}

fn columns(looks: &[Look]) -> SampleRow {
    let powers: Vec<f64> = looks.iter().filter_map(|look| look.power_w).collect();
    let limits: BTreeSet<ClockLimit> =
        looks.iter().flat_map(|look| look.clock_limits.iter().copied()).collect();
    SampleRow {
        power_w: (!powers.is_empty())
            .then(|| powers.iter().sum::<f64>() / powers.len() as f64),
        memory_clock_hz: looks
            .iter()
            .filter_map(|look| look.memory_clock_hz)
            .reduce(f64::min),
        temperature_c: looks.iter().filter_map(|look| look.temperature_c).reduce(f64::max),
        clock_limits: ClockLimit::spell(&limits),
        ..SampleRow::default()
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    /// Looks at 1.00, 1.01, 1.02 and 2.00 seconds, of 100, 200, 300 and 400 W.
    fn seen(began: Instant) -> Vec<Look> {
        let look = |(millis, power_w, limit): (u64, f64, Option<ClockLimit>)| Look {
            at: began + Duration::from_millis(millis),
            power_w: Some(power_w),
            memory_clock_hz: Some(3e9 - power_w),
            temperature_c: Some(power_w / 10.0),
            clock_limits: limit.into_iter().collect(),
        };
        let power = Some(ClockLimit::Power);
        [
            (1000, 100.0, None),
            (1010, 200.0, power),
            (1020, 300.0, None),
            (2000, 400.0, None),
        ]
        .map(look)
        .into()
    }

    #[test]
    fn a_sample_has_what_was_seen_during_it_or_nearest_to_it() {
        let began = Instant::now();
        let all = seen(began);
        let looks = Looks::new(&all, began);
        let power = |from_s, elapsed_s| looks.during((from_s, from_s + elapsed_s)).power_w;
        assert_eq!(power(1.005, 0.020), Some(250.0), "the mean of two");
        assert_eq!(power(1.0115, 0.001), Some(200.0), "the one before is nearer");
        assert_eq!(power(1.0175, 0.001), Some(300.0), "the one after is nearer");
        assert_eq!(power(0.96, 0.001), Some(100.0), "before the first");
        assert_eq!(power(2.04, 0.001), Some(400.0), "after the last");
        assert_eq!(power(1.5, 0.001), None, "none is near");
        assert_eq!(Looks::new(&[], began).during((1.0, 2.0)), SampleRow::default());
        let whole = looks.during((0.0, 5.0));
        assert_eq!((whole.power_w, whole.temperature_c), (Some(250.0), Some(40.0)));
        assert_eq!(whole.memory_clock_hz, Some(3e9 - 400.0));
        assert_eq!(whole.clock_limits, "power");
        assert_eq!(looks.during((1.016, 1.026)).clock_limits, "");
    }

    #[test]
    fn looks_before_the_process_began_to_measure_count_as_earlier() {
        let earlier = Instant::now();
        let all = seen(earlier);
        let looks = Looks::new(&all, earlier + Duration::from_millis(1014));
        assert_eq!(looks.during((0.0, 0.001)).power_w, Some(200.0), "4 ms before, 5 after");
        assert_eq!(looks.during((0.002, 0.003)).power_w, Some(300.0));
    }
}

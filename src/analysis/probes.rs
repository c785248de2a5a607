//! What was measured again and again beside the points: whether the machine stayed the same.

use crate::provenance::Provenance;
use crate::record::RoundRow;
use crate::statistics::{Estimate, low_quantile};

/// What a series of probes is of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ProbeKind {
    /// A launch that does nothing.
    Launch,
    /// The smallest step of the clock.
    Timer,
    /// A burst of arithmetic.
    Compute,
    /// The point that is repeated.
    Sentinel,
}

impl ProbeKind {
    /// As prose.
    pub const fn name(self) -> &'static str {
        match self {
            ProbeKind::Launch => "empty launch",
            ProbeKind::Timer => "timer step",
            ProbeKind::Compute => "burst of arithmetic",
            ProbeKind::Sentinel => "sentinel",
        }
    }

    /// How much longer than its low end a probe takes, as a share, where the machine did
    /// not stay the same. Times of microseconds and less vary more.
    pub const fn tolerance(self) -> f64 {
        match self {
            ProbeKind::Launch | ProbeKind::Timer => 0.5,
            ProbeKind::Compute | ProbeKind::Sentinel => 0.1,
        }
    }
}

/// One probe through a campaign.
#[derive(Clone, Debug, PartialEq)]
pub struct ProbeSeries {
    /// What it is of.
    pub kind: ProbeKind,
    /// Seconds, in the order measured. Never empty.
    pub times_s: Vec<f64>,
}

impl ProbeSeries {
    fn of(kind: ProbeKind, times_s: Vec<f64>) -> Option<Self> {
        (!times_s.is_empty()).then_some(ProbeSeries { kind, times_s })
    }

    /// What is used: the low end, since what else runs only ever makes it longer.
    pub fn low_s(&self) -> Estimate {
        low_quantile(&self.times_s).unwrap_or(Estimate::exact(0.0))
    }

    /// The longest.
    pub fn longest_s(&self) -> f64 {
        self.times_s.iter().copied().fold(0.0, f64::max)
    }

    /// How far the machine moved, as a share: how much longer than the low end the longest
    /// is; of the sentinel the drift.
    pub fn moved_by(&self) -> f64 {
        match self.kind {
            ProbeKind::Sentinel => range(&self.times_s),
            _ => self.longest_s() / self.low_s().value - 1.0,
        }
    }

    /// Whether the machine did not stay the same.
    pub fn has_moved(&self) -> bool {
        self.moved_by() > self.kind.tolerance()
    }
}

/// From the shortest to the longest time, as a share of their middle.
pub(super) fn range(times_s: &[f64]) -> f64 {
    let max = times_s.iter().copied().fold(f64::MIN, f64::max);
    let min = times_s.iter().copied().fold(f64::MAX, f64::min);
    if times_s.is_empty() { 0.0 } else { 2.0 * (max - min) / (max + min) }
}

/// The probes of a campaign, those that it has; `sentinel_s` are the sentinel's times.
pub(super) fn series(
    provenance: &Provenance,
    rounds: &[RoundRow],
    sentinel_s: &[f64],
) -> Vec<ProbeSeries> {
    let with_first = |first: Option<f64>, of: fn(&RoundRow) -> Option<f64>| -> Vec<f64> {
        first.into_iter().chain(rounds.iter().filter_map(of)).collect()
    };
    let all = [
        (
            ProbeKind::Launch,
            with_first(provenance.launch_overhead_s, |round| round.launch_overhead_s),
        ),
        (ProbeKind::Timer, with_first(None, |round| round.timer_quantum_s)),
        (ProbeKind::Compute, with_first(None, |round| round.compute_probe_s)),
        (ProbeKind::Sentinel, sentinel_s.to_vec()),
    ];
    let positive = |times: Vec<f64>| times.into_iter().filter(|time| *time > 0.0).collect();
    all.into_iter()
        .filter_map(|(kind, times)| ProbeSeries::of(kind, positive(times)))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_probe_that_took_longer_has_moved() {
        let of = |kind, slow: f64| {
            let times_s = (0..20).map(|i| if i == 7 { slow } else { 1.0 }).collect();
            ProbeSeries { kind, times_s }
        };
        let calm = of(ProbeKind::Compute, 1.05);
        assert_eq!((calm.low_s().value, calm.longest_s()), (1.0, 1.05));
        assert!(!calm.has_moved());
        assert!(of(ProbeKind::Compute, 1.2).has_moved());
        assert!(!of(ProbeKind::Launch, 1.2).has_moved());
        assert!(of(ProbeKind::Launch, 3.0).has_moved());
    }

    #[test]
    fn probes_come_from_rounds_and_provenance() {
        let provenance =
            Provenance { launch_overhead_s: Some(2e-6), ..Provenance::default() };
        let round = |launch: Option<f64>, compute: Option<f64>| RoundRow {
            launch_overhead_s: launch,
            compute_probe_s: compute,
            ..RoundRow::default()
        };
        let rounds = [round(Some(1e-6), Some(1e-3)), round(None, None)];
        let found = series(&provenance, &rounds, &[]);
        let found: Vec<_> = found.into_iter().map(|s| (s.kind, s.times_s)).collect();
        assert_eq!(
            found,
            [(ProbeKind::Launch, vec![2e-6, 1e-6]), (ProbeKind::Compute, vec![1e-3])]
        );
    }
}

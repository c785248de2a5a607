//! Rates of caches: what reads reached that go several times through the same bytes in one
//! launch. They are limits of the machine, and no ceilings: nothing is judged by them.

use std::collections::BTreeMap;

use super::ceilings::{Candidate, Ceiling, DeviceFacts};
use super::{Campaign, Measured};
use crate::op::Reuse;
use crate::residency::{CacheLevel, Residency};

/// The cache whose rate a point shows. An L1 is of one core each, and serves what the core
/// itself reads again; a cache behind it serves what any core reads again. What a core reads
/// again and its L1 does not hold is served by both.
fn cache_of(point: &Measured) -> Option<CacheLevel> {
    let Some(Residency::Cache(level)) = point.residency else { return None };
    match point.reuse()? {
        Reuse::Own => (level == CacheLevel::L1).then_some(level),
        Reuse::Shared => (level > CacheLevel::L1).then_some(level),
    }
}

impl Campaign {
    /// The best rate of each cache that points show, in bytes/s.
    pub fn cache_rates(&self) -> BTreeMap<CacheLevel, Ceiling> {
        let derived = self.derived.as_ref();
        let device = DeviceFacts::of(&self.provenance.device, derived, self.runs.last());
        let mut candidates: BTreeMap<CacheLevel, Vec<Candidate>> = BTreeMap::new();
        for point in &self.points {
            if let (Some(level), Some(rate)) = (cache_of(point), point.bytes_per_s()) {
                let candidate = Candidate::of(point, rate, &device);
                candidates.entry(level).or_default().push(candidate);
            }
        }
        // Nothing tells how fast a cache should be, so no share is asked for.
        let best = |(level, all)| Some((level, Ceiling::best(all, 0.0)?));
        candidates.into_iter().filter_map(best).collect()
    }

    /// Bytes of a clock and multiprocessor behind a rate; `None` where the clock or the number
    /// of multiprocessors is not known.
    pub fn bytes_per_clock(
        &self,
        bytes_per_s: f64,
        sm_clock_hz: Option<f64>,
    ) -> Option<f64> {
        let sms = self.provenance.device.sm_count.filter(|sms| *sms > 0)?;
        let clock = sm_clock_hz.filter(|clock| *clock > 0.0)?;
        Some(bytes_per_s / clock / sms as f64)
    }
}

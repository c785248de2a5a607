//! What hardware counters said of one point.

use crate::record::{CacheControl, CounterRow};

/// Rows of `counters.csv` of one point that have numbers, by what the profiler did with the
/// caches.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct PointCounters {
    /// Caches flushed before each pass.
    pub all: Option<CounterRow>,
    /// Caches as the rotation leaves them, if the profiler needed one pass.
    pub none: Option<CounterRow>,
    /// Why there are no numbers, where there are none.
    pub reason: String,
}

impl PointCounters {
    /// Takes over a row of the point.
    pub(super) fn add(&mut self, row: &CounterRow) {
        if !row.is_counted() {
            self.reason.clone_from(&row.reason);
            return;
        }
        match row.cache_control {
            CacheControl::All => self.all = Some(row.clone()),
            CacheControl::None => self.none = Some(row.clone()),
        }
    }
}

//! An L2 cache in front of DRAM: how much of the traffic reaches DRAM.
//!
//! Lines of 128 bytes in four sectors, 16 ways, replacement of the least recently used
//! line, and no fetch for a sector that is written. It models a size, not a certain GPU.

use std::collections::HashMap;

const WAYS: usize = 16;
const LINE_BYTES: u64 = 128;
const SECTORS: u64 = 4;

#[derive(Debug, Clone, Copy, Default)]
struct Line {
    tag: u64,
    /// Sectors that are present, and those that were not written to DRAM yet.
    valid: u8,
    dirty: u8,
    used: u64,
}

/// The cache, and the sectors that DRAM read and wrote.
#[derive(Debug)]
pub(crate) struct Cache {
    sets: u64,
    lines: HashMap<u64, [Line; WAYS]>,
    clock: u64,
    pub read: u64,
    pub written: u64,
}

impl Cache {
    /// A cache of `bytes`, empty.
    pub(crate) fn new(bytes: u64) -> Self {
        let sets = (bytes / (LINE_BYTES * WAYS as u64)).max(1);
        Self { sets, lines: HashMap::new(), clock: 0, read: 0, written: 0 }
    }

    /// A read of the sector at `address / 32`, which on a miss fetches all of the
    /// `prefetch` sectors that it lies among, up to but without `end`.
    pub(crate) fn read(&mut self, sector: u64, prefetch: u64, end: u64) {
        if self.access(sector, false) && prefetch > 1 {
            let first = sector / prefetch * prefetch;
            for other in first..(first + prefetch).min(end) {
                self.access(other, false);
            }
        }
    }

    /// A request for the sector at `address / 32`; says whether it is a read that missed.
    pub(crate) fn access(&mut self, sector: u64, write: bool) -> bool {
        self.clock += 1;
        let (line, bit) = (sector / SECTORS, 1u8 << (sector % SECTORS));
        // Strides of powers of two must not all map to one set.
        let hashed = line.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 20;
        let set = self.lines.entry(hashed % self.sets).or_default();
        let held = set.iter().position(|way| way.valid != 0 && way.tag == line);
        let at = held.unwrap_or_else(|| {
            let oldest = set.iter().enumerate().min_by_key(|(_, way)| way.used);
            oldest.map_or(0, |(at, _)| at)
        });
        if held.is_none() {
            self.written += u64::from(set[at].dirty.count_ones());
            set[at] = Line { tag: line, ..Line::default() };
        }
        let way = &mut set[at];
        way.used = self.clock;
        let misses = !write && way.valid & bit == 0;
        if write {
            way.dirty |= bit;
        }
        self.read += u64::from(misses);
        way.valid |= bit;
        misses
    }

    /// Writes to DRAM what is dirty at the end; says how many sectors that were.
    pub(crate) fn flush(&mut self) -> u64 {
        let mut left = 0;
        for way in self.lines.values_mut().flatten() {
            left += u64::from(way.dirty.count_ones());
            way.dirty = 0;
        }
        self.written += left;
        left
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_fits_is_read_once() {
        let mut cache = Cache::new(1 << 20);
        for _ in 0..3 {
            (0..1000).for_each(|sector| {
                cache.access(sector, false);
            });
        }
        assert_eq!((cache.read, cache.written), (1000, 0));
    }

    #[test]
    fn what_does_not_fit_is_read_again() {
        let mut cache = Cache::new(LINE_BYTES * WAYS as u64);
        for _ in 0..3 {
            (0..1000).for_each(|sector| {
                cache.access(sector, false);
            });
        }
        assert_eq!(cache.read, 3000);
    }

    #[test]
    fn what_is_fetched_ahead_is_read_from_dram() {
        let mut cache = Cache::new(1 << 20);
        cache.read(5, 4, 100);
        assert_eq!(cache.read, 4);
        cache.read(6, 4, 100);
        assert_eq!(cache.read, 4, "it was fetched with the other");
        cache.read(98, 8, 100);
        assert_eq!(cache.read, 8, "nothing beyond the end");
        cache.read(50, 1, 100);
        assert_eq!(cache.read, 9);
    }

    #[test]
    fn writes_leave_once() {
        let mut cache = Cache::new(1 << 20);
        for _ in 0..3 {
            (0..100).for_each(|sector| {
                cache.access(sector, true);
            });
        }
        cache.access(5, false);
        assert_eq!(cache.flush(), 100);
        assert_eq!(cache.flush(), 0);
        assert_eq!((cache.read, cache.written), (0, 100));
    }
}

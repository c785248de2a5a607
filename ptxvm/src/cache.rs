//! An L2 cache in front of DRAM: how much of the traffic reaches DRAM.
//!
//! Lines of 128 bytes in four sectors, 16 ways, replacement of the least recently used
//! line, and no fetch for a sector that is written. It models a size, not a certain GPU.
//!
//! It may consist of partitions, as those of A100, H100 and H200 do (NVIDIA A100 white paper,
//! "A100 L2 cache": each caches data for the multiprocessors that are connected to it). A line
//! has its home in one of them. A multiprocessor of another one reads through its own, which
//! keeps a copy: what all multiprocessors read takes its place in every partition, and a read
//! reaches DRAM where neither its own partition nor the home has the sector. Writes go home.

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
    partitions: Vec<Partition>,
    pub read: u64,
    pub written: u64,
}

/// A part of the cache, beside some of the multiprocessors.
#[derive(Debug)]
struct Partition {
    sets: u64,
    lines: HashMap<u64, [Line; WAYS]>,
    clock: u64,
}

/// Strides of powers of two must not all map to one set, nor to one home.
const fn hash(line: u64) -> u64 {
    line.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 20
}

impl Cache {
    /// A cache of `bytes` in so many equal partitions, empty.
    pub(crate) fn new(bytes: u64, partitions: usize) -> Self {
        let count = partitions.max(1);
        let sets = (bytes / count as u64 / (LINE_BYTES * WAYS as u64)).max(1);
        let partition = |_| Partition { sets, lines: HashMap::new(), clock: 0 };
        Self { partitions: (0..count).map(partition).collect(), read: 0, written: 0 }
    }

    /// A read of the sector at `address / 32` by a multiprocessor of a partition, which on a
    /// miss fetches all of the `prefetch` sectors that it lies among, up to but without `end`.
    pub(crate) fn read(&mut self, by: usize, sector: u64, prefetch: u64, end: u64) {
        if self.access(by, sector, false) && prefetch > 1 {
            let first = sector / prefetch * prefetch;
            for other in first..(first + prefetch).min(end) {
                self.access(by, other, false);
            }
        }
    }

    /// A request for the sector at `address / 32` by a multiprocessor of a partition; says
    /// whether it is a read that DRAM answers.
    pub(crate) fn access(&mut self, by: usize, sector: u64, write: bool) -> bool {
        let count = self.partitions.len();
        let (by, home) = (by % count, (hash(sector / SECTORS) >> 32) as usize % count);
        if write {
            for at in (0..count).filter(|&at| at != home) {
                self.partitions[at].forget(sector);
            }
        } else if by != home && !self.fill(by, sector, false) {
            return false;
        }
        let misses = self.fill(home, sector, write) && !write;
        self.read += u64::from(misses);
        misses
    }

    /// Makes a partition hold a sector; says whether it did not.
    fn fill(&mut self, at: usize, sector: u64, write: bool) -> bool {
        let (misses, written) = self.partitions[at].fill(sector, write);
        self.written += written;
        misses
    }

    /// Writes to DRAM what is dirty at the end; says how many sectors that were.
    pub(crate) fn flush(&mut self) -> u64 {
        let lines = self.partitions.iter_mut().flat_map(|part| part.lines.values_mut());
        let mut left = 0;
        for way in lines.flatten() {
            left += u64::from(way.dirty.count_ones());
            way.dirty = 0;
        }
        self.written += left;
        left
    }
}

impl Partition {
    /// Whether the sector was missing, and how many sectors left for DRAM to make room.
    fn fill(&mut self, sector: u64, write: bool) -> (bool, u64) {
        self.clock += 1;
        let (line, bit) = (sector / SECTORS, 1u8 << (sector % SECTORS));
        let set = self.lines.entry(hash(line) % self.sets).or_default();
        let held = set.iter().position(|way| way.valid != 0 && way.tag == line);
        let at = held.unwrap_or_else(|| {
            let oldest = set.iter().enumerate().min_by_key(|(_, way)| way.used);
            oldest.map_or(0, |(at, _)| at)
        });
        let mut written = 0;
        if held.is_none() {
            written = u64::from(set[at].dirty.count_ones());
            set[at] = Line { tag: line, ..Line::default() };
        }
        let way = &mut set[at];
        way.used = self.clock;
        let misses = way.valid & bit == 0;
        if write {
            way.dirty |= bit;
        }
        way.valid |= bit;
        (misses, written)
    }

    /// Drops a copy of a sector that is written elsewhere.
    fn forget(&mut self, sector: u64) {
        let line = sector / SECTORS;
        let Some(set) = self.lines.get_mut(&(hash(line) % self.sets)) else { return };
        let held = set.iter_mut().find(|way| way.valid != 0 && way.tag == line);
        if let Some(way) = held {
            way.valid &= !(1 << (sector % SECTORS));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_fits_is_read_once() {
        let mut cache = Cache::new(1 << 20, 1);
        for _ in 0..3 {
            (0..1000).for_each(|sector| {
                cache.access(0, sector, false);
            });
        }
        assert_eq!((cache.read, cache.written), (1000, 0));
    }

    #[test]
    fn what_does_not_fit_is_read_again() {
        let mut cache = Cache::new(LINE_BYTES * WAYS as u64, 1);
        for _ in 0..3 {
            (0..1000).for_each(|sector| {
                cache.access(0, sector, false);
            });
        }
        assert_eq!(cache.read, 3000);
    }

    #[test]
    fn what_is_fetched_ahead_is_read_from_dram() {
        let mut cache = Cache::new(1 << 20, 1);
        cache.read(0, 5, 4, 100);
        assert_eq!(cache.read, 4);
        cache.read(0, 6, 4, 100);
        assert_eq!(cache.read, 4, "it was fetched with the other");
        cache.read(0, 98, 8, 100);
        assert_eq!(cache.read, 8, "nothing beyond the end");
        cache.read(0, 50, 1, 100);
        assert_eq!(cache.read, 9);
    }

    #[test]
    fn writes_leave_once() {
        let mut cache = Cache::new(1 << 20, 1);
        for _ in 0..3 {
            (0..100).for_each(|sector| {
                cache.access(0, sector, true);
            });
        }
        cache.access(0, 5, false);
        assert_eq!(cache.flush(), 100);
        assert_eq!(cache.flush(), 0);
        assert_eq!((cache.read, cache.written), (0, 100));
    }

    /// What one side reads is halved in room only where both sides read it.
    #[test]
    fn partitions_keep_copies_of_what_all_read() {
        let sectors = (1u64 << 20) / 32 * 3 / 4;
        let pass = |cache: &mut Cache, by: &dyn Fn(u64) -> usize| {
            (0..sectors).for_each(|sector| {
                cache.access(by(sector), sector, false);
            });
        };
        // Three quarters of all of it: in one piece it stays.
        let mut whole = Cache::new(1 << 20, 1);
        for _ in 0..4 {
            pass(&mut whole, &|_| 0);
        }
        // A few sets have more lines than ways.
        assert!(whole.read < sectors + sectors / 20, "{} of {sectors}", whole.read);
        // Each partition has copies of all of it beside what is at home there: it does not
        // fit, but what one of them lacks the other often has.
        let mut halves = Cache::new(1 << 20, 2);
        for _ in 0..4 {
            pass(&mut halves, &|_| 0);
            pass(&mut halves, &|_| 1);
        }
        assert!(halves.read > sectors * 3 / 2, "{} of {sectors}", halves.read);
        assert!(halves.read < 8 * sectors, "{} of {sectors}", halves.read);
    }

    #[test]
    fn a_write_is_seen_through_every_partition() {
        let mut cache = Cache::new(1 << 20, 2);
        for sector in 0..64 {
            cache.access(0, sector, false);
            cache.access(1, sector, false);
            assert_eq!(cache.read, sector + 1, "the second found it at home");
            cache.access(0, sector, true);
            cache.access(1, sector, false);
            cache.access(0, sector, false);
            assert_eq!(cache.read, sector + 1, "what is written is at home");
        }
        assert_eq!(cache.flush(), 64);
    }
}

//! Times up to which what warps did is known: of a warp as a whole, and lane by lane where
//! some of its lanes are known further than others.
//!
//! Most knowledge is of whole warps: of barriers, of whole warps that arrive, of lanes that
//! were synchronised before one of them did. Lanes have times of their own only where one of
//! them published what it did for itself.

use std::ops::Range;

use crate::lanes::{LANES, lanes as each};

/// All lanes of a warp, as a mask.
pub(crate) const ALL_LANES: u32 = u32::MAX;

/// What is known of each warp.
#[derive(Debug, Clone, Default)]
pub(crate) struct Known {
    /// The latest time of each warp that is known of all its lanes.
    pub all: Vec<u32>,
    /// Warps of some lanes of which more is known.
    some: Vec<LaneTimes>,
}

/// The latest known time of each lane of a warp.
#[derive(Debug, Clone)]
struct LaneTimes {
    warp: usize,
    times: [u32; LANES],
}

/// Takes the later time of each entry.
pub(crate) fn join(into: &mut Vec<u32>, from: &[u32]) {
    if into.len() < from.len() {
        into.resize(from.len(), 0);
    }
    raise(into, from);
}

/// The same, for the entries of `into` only.
pub(crate) fn raise(into: &mut [u32], from: &[u32]) {
    into.iter_mut().zip(from).for_each(|(a, &b)| *a = b.max(*a));
}

/// Whether the times of lanes include an access at `time` by `lane`. If several lanes did
/// it, it is not kept which they were, but there were two at least.
#[cold]
#[inline(never)]
pub(crate) fn include(times: &[u32; LANES], lane: usize, time: u32) -> bool {
    match times.get(lane) {
        Some(&known) => known >= time,
        None => times.iter().filter(|&&known| known >= time).count() > 1,
    }
}

impl Known {
    /// Of as many warps nothing.
    pub(crate) fn none(entries: usize) -> Self {
        Self { all: vec![0; entries], some: Vec::new() }
    }

    /// The latest time that is known of all lanes of a warp.
    #[inline]
    pub(crate) fn all_of(&self, warp: usize) -> u32 {
        self.all.get(warp).copied().unwrap_or(0)
    }

    /// The times of the lanes of a warp, where they differ.
    pub(crate) fn lanes_of(&self, warp: usize) -> Option<&[u32; LANES]> {
        self.some.iter().find(|lanes| lanes.warp == warp).map(|lanes| &lanes.times)
    }

    /// Whether an access at `time` by `lane` of a warp, or by several lanes, is known.
    #[inline]
    pub(crate) fn covers(&self, warp: usize, lane: usize, time: u32) -> bool {
        self.all_of(warp) >= time
            || !self.some.is_empty() && self.covers_lane(warp, lane, time)
    }

    #[cold]
    #[inline(never)]
    fn covers_lane(&self, warp: usize, lane: usize, time: u32) -> bool {
        self.lanes_of(warp).is_some_and(|times| include(times, lane, time))
    }

    /// Takes the later time of each entry.
    #[inline]
    pub(crate) fn join(&mut self, other: &Self) {
        join(&mut self.all, &other.all);
        for lanes in &other.some {
            self.raise_lanes(lanes.warp, &lanes.times);
        }
        self.prune();
    }

    /// The same for the warps from `first` on, which are those of `other`, as far as there
    /// are entries for them.
    pub(crate) fn join_at(&mut self, warps: Range<usize>, other: &Self) {
        raise(&mut self.all[warps.clone()], &other.all);
        for lanes in other.some.iter().filter(|lanes| lanes.warp < warps.len()) {
            self.raise_lanes(warps.start + lanes.warp, &lanes.times);
        }
        self.prune();
    }

    /// What is known of some of the warps.
    pub(crate) fn part(&self, warps: Range<usize>) -> Self {
        let some = self.some.iter().filter(|lanes| warps.contains(&lanes.warp));
        let some = some.map(|lanes| LaneTimes { warp: lanes.warp - warps.start, ..*lanes });
        Self { some: some.collect(), all: self.all[warps.clone()].to_vec() }
    }

    /// Learns what some lanes of a warp did up to `time`.
    pub(crate) fn raise(&mut self, warp: usize, lanes: u32, time: u32) {
        if self.all_of(warp) >= time {
            return;
        }
        if lanes == ALL_LANES {
            self.raise_all(warp, time);
            self.prune();
            return;
        }
        let times = match self.some.iter_mut().find(|lanes| lanes.warp == warp) {
            Some(lanes) => &mut lanes.times,
            None => {
                self.some.push(LaneTimes { warp, times: [0; LANES] });
                let last = self.some.len() - 1;
                &mut self.some[last].times
            }
        };
        for lane in each(lanes) {
            times[lane] = times[lane].max(time);
        }
        // The last lane is often the last to come.
        let all = self.all.get(warp).copied().unwrap_or(0);
        if times.iter().rev().all(|&time| time > all) {
            let least = times.iter().copied().min().unwrap_or(0);
            self.raise_all(warp, least);
            self.prune();
        }
    }

    fn raise_all(&mut self, warp: usize, time: u32) {
        if self.all.len() <= warp {
            self.all.resize(warp + 1, 0);
        }
        self.all[warp] = self.all[warp].max(time);
    }

    /// Learns what each lane of a warp did up to a time of its own.
    pub(crate) fn raise_lanes(&mut self, warp: usize, times: &[u32; LANES]) {
        let (least, most) =
            times.iter().fold((u32::MAX, 0), |(a, b), &time| (a.min(time), b.max(time)));
        let all = self.all_of(warp);
        if least > all {
            self.raise_all(warp, least);
        }
        if most <= all.max(least) {
            return;
        }
        match self.some.iter_mut().find(|lanes| lanes.warp == warp) {
            Some(lanes) => {
                raise(&mut lanes.times, times);
                let least = lanes.times.iter().copied().min().unwrap_or(0);
                self.raise_all(warp, least);
            }
            None => self.some.push(LaneTimes { warp, times: *times }),
        }
        self.prune();
    }

    /// Forgets the lanes of warps all lanes of which are known as far.
    #[inline]
    fn prune(&mut self) {
        if !self.some.is_empty() {
            let all = &self.all;
            let further = |lanes: &LaneTimes| {
                let all = all.get(lanes.warp).copied().unwrap_or(0);
                lanes.times.iter().any(|&time| time > all)
            };
            self.some.retain(further);
        }
    }

    /// Knows of a warp this and no more.
    pub(crate) fn set(&mut self, warp: usize, all: u32, lanes: Option<&[u32; LANES]>) {
        self.some.retain(|lanes| lanes.warp != warp);
        self.all[warp] = all;
        if let Some(times) = lanes {
            self.raise_lanes(warp, times);
        }
        self.prune();
    }

    /// Forgets what is not known to `other` too.
    pub(crate) fn keep_common(&mut self, other: &Self) {
        let warps = self.some.iter().chain(&other.some).map(|lanes| lanes.warp);
        let times = |warp: usize| {
            let (a, b) = (self.times_of(warp), other.times_of(warp));
            LaneTimes { warp, times: std::array::from_fn(|lane| a[lane].min(b[lane])) }
        };
        let mut some: Vec<LaneTimes> = warps.map(times).collect();
        some.sort_by_key(|lanes| lanes.warp);
        some.dedup_by_key(|lanes| lanes.warp);
        self.all.iter_mut().zip(&other.all).for_each(|(a, &b)| *a = b.min(*a));
        self.some = some;
        self.prune();
    }

    /// The latest known time of each lane of a warp.
    fn times_of(&self, warp: usize) -> [u32; LANES] {
        let mut times = [self.all_of(warp); LANES];
        if let Some(lanes) = self.lanes_of(warp) {
            raise(&mut times, lanes);
        }
        times
    }

    /// Whether all that is known to `other` is known here, but for what is of warp `own`.
    pub(crate) fn includes(&self, other: &Self, own: usize) -> bool {
        let mut warps = other.all.iter().zip(&self.all).enumerate();
        let mut lanes = other.some.iter().filter(|lanes| lanes.warp != own);
        warps.all(|(warp, (there, here))| warp == own || there <= here)
            && lanes.all(|lanes| {
                let here = self.times_of(lanes.warp);
                here.iter().zip(&lanes.times).all(|(here, there)| there <= here)
            })
    }

    /// Adds the latest time of each warp that is known of any of its lanes.
    pub(crate) fn latest(&self, into: &mut Vec<u32>) {
        join(into, &self.all);
        for lanes in &self.some {
            let most = lanes.times.iter().copied().max().unwrap_or(0);
            if into.len() <= lanes.warp {
                into.resize(lanes.warp + 1, 0);
            }
            into[lanes.warp] = into[lanes.warp].max(most);
        }
    }

    pub(crate) fn clear(&mut self) {
        self.all.clear();
        self.some.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::{APART, WHOLE_WARP};

    #[test]
    fn lanes_are_known_each_for_itself() {
        let mut known = Known::none(2);
        known.raise(1, 0b1000, 5);
        assert!(known.covers(1, 3, 5) && !known.covers(1, 3, 6) && !known.covers(1, 2, 5));
        for several in [WHOLE_WARP, APART] {
            assert!(!known.covers(1, several, 5), "one lane is not several");
        }
        known.raise(1, 0b1, 6);
        assert!(known.covers(1, WHOLE_WARP, 5) && !known.covers(1, WHOLE_WARP, 6));
        assert!(!known.covers(0, 3, 1));
    }

    #[test]
    fn lanes_together_are_the_warp() {
        let mut known = Known::none(1);
        known.raise(0, 0xffff, 4);
        let mut other = Known::none(1);
        other.raise(0, 0xffff_0000, 7);
        known.join(&other);
        assert_eq!(known.all, [4]);
        assert!(known.covers(0, 20, 7) && !known.covers(0, 0, 5));
        known.raise(0, ALL_LANES, 7);
        assert!(known.covers(0, 0, 7) && known.some.is_empty());
    }

    #[test]
    fn what_both_know_is_known_lane_by_lane() {
        let (mut a, mut b) = (Known::none(1), Known::none(1));
        a.raise(0, ALL_LANES, 3);
        a.raise(0, 0b11, 9);
        b.raise(0, ALL_LANES, 5);
        b.raise(0, 0b10, 8);
        a.keep_common(&b);
        let times = [5, 8, 3].iter().enumerate();
        assert!(times.clone().all(|(lane, &time)| a.covers(0, lane, time)));
        assert!(times.clone().all(|(lane, &time)| !a.covers(0, lane, time + 1)));
        assert!(b.includes(&a, 1) && !a.includes(&b, 1) && a.includes(&b, 0));
    }
}

//! Which accesses are ordered before which: vector clocks over the warps of a cluster.
//!
//! A warp's own entry is its time. It increases when the warp publishes what it did (by
//! arriving at a barrier, or a fence). A warp that waits takes over the publisher's
//! entries. An access is ordered before another when the second warp knows its time.
//! What is known of the warps of other clusters is kept separately, by block.

use std::collections::HashMap;
use std::sync::Arc;

/// What is known of a block's warps.
#[derive(Debug, Clone, Default)]
pub(crate) struct Times {
    /// Latest known time of every warp.
    known: Vec<u32>,
    /// The same, for writes to global memory that a proxy fence has made visible to the
    /// async proxy.
    fenced: Vec<u32>,
}

/// Times of the warps of blocks, by the block's number in the grid.
pub(crate) type Foreign = HashMap<u32, Times>;

/// The blocks that a clock's warps belong to.
#[derive(Debug, Clone, Default)]
pub(crate) struct Home {
    /// Numbers of the cluster's blocks, by rank.
    pub blocks: Vec<u32>,
    /// Warps of a block.
    pub warps: usize,
}

impl Home {
    /// Entries of a clock: the cluster's warps, asynchronous copies, and the products of
    /// each block's warpgroups.
    fn entries(&self) -> usize {
        self.products(self.blocks.len(), 0)
    }

    /// The entry for the products of a warpgroup of the block of `rank`. Its time is the
    /// number of products that have ended.
    pub(crate) fn products(&self, rank: usize, group: usize) -> usize {
        let warps = self.blocks.len() * self.warps;
        warps + COPY_ENTRIES + rank * self.warps.div_ceil(4) + group
    }
}

/// What a fence released to other blocks.
#[derive(Debug)]
pub(crate) struct Released {
    known: Vec<u32>,
    fenced: Vec<u32>,
    foreign: Option<Arc<Foreign>>,
}

/// Entries for asynchronous copies. Copies of different mbarriers use different entries, as
/// far as there are enough: a warp that waited for one copy does not know of another that
/// happened to complete earlier.
pub(crate) const COPY_ENTRIES: usize = 8;

/// What one warp knows.
#[derive(Debug, Clone, Default)]
pub(crate) struct Clock {
    /// Own place in the vectors.
    pub own: usize,
    /// Latest known time of every warp, and after them of asynchronous copies.
    pub known: Vec<u32>,
    /// The same, for writes to shared memory that a proxy fence has made visible to the
    /// async proxy.
    pub fenced_shared: Vec<u32>,
    /// The same for writes to global memory.
    fenced_global: Vec<u32>,
    /// What the last memory fence released, for an atomic to publish.
    pub released: Option<Vec<u32>>,
    /// What strong reads have seen, to be learnt at the next fence.
    pub seen: Option<Vec<u32>>,
    pub home: Arc<Home>,
    /// What is known of other clusters' warps.
    foreign: Option<Arc<Foreign>>,
    /// The same as `released` and `seen`, for what passes between blocks.
    global_released: Option<Arc<Released>>,
    global_seen: Option<Arc<Foreign>>,
    /// Lanes of this warp are ordered among themselves up to this time.
    pub converged: u32,
}

/// What a synchronisation object carries from those that arrive to those that wait.
#[derive(Debug, Clone, Default)]
pub(crate) struct Message {
    known: Vec<u32>,
    fenced_shared: Vec<u32>,
    fenced_global: Vec<u32>,
    foreign: Option<Arc<Foreign>>,
}

/// Takes the later time of each entry of each block.
fn join_foreign(into: &mut Option<Arc<Foreign>>, from: &Option<Arc<Foreign>>) {
    match (into, from) {
        (_, None) => {}
        (into @ None, Some(from)) => *into = Some(Arc::clone(from)),
        (Some(into), Some(from)) if Arc::ptr_eq(into, from) => {}
        (Some(into), Some(from)) => {
            let into = Arc::make_mut(into);
            for (&block, times) in from.iter() {
                into.entry(block).or_default().join(&times.known, &times.fenced);
            }
        }
    }
}

impl Times {
    fn join(&mut self, known: &[u32], fenced: &[u32]) {
        join(&mut self.known, known);
        join(&mut self.fenced, fenced);
    }
}

/// Takes the later time of each entry.
pub(crate) fn join(into: &mut Vec<u32>, from: &[u32]) {
    if into.len() < from.len() {
        into.resize(from.len(), 0);
    }
    raise(into, from);
}

/// The same, for the entries of `into` only.
fn raise(into: &mut [u32], from: &[u32]) {
    into.iter_mut().zip(from).for_each(|(a, &b)| *a = b.max(*a));
}

/// Takes the earlier time of each entry.
fn lower(into: &mut [u32], from: &[u32]) {
    into.iter_mut().zip(from).for_each(|(a, &b)| *a = b.min(*a));
}

impl Message {
    pub(crate) fn add(&mut self, clock: &Clock) {
        join(&mut self.known, &clock.known);
        join(&mut self.fenced_shared, &clock.fenced_shared);
        join(&mut self.fenced_global, &clock.fenced_global);
        join_foreign(&mut self.foreign, &clock.foreign);
    }

    /// Adds what another message carries.
    pub(crate) fn merge(&mut self, other: &Message) {
        join(&mut self.known, &other.known);
        join(&mut self.fenced_shared, &other.fenced_shared);
        join(&mut self.fenced_global, &other.fenced_global);
        join_foreign(&mut self.foreign, &other.foreign);
    }

    /// Adds an asynchronous copy that has completed in shared memory. What the async proxy
    /// wrote itself is visible to it without a fence.
    pub(crate) fn add_copy(&mut self, entry: usize, time: u32) {
        for list in [&mut self.known, &mut self.fenced_shared] {
            if list.len() <= entry {
                list.resize(entry + 1, 0);
            }
            list[entry] = list[entry].max(time);
        }
    }

    /// Whether it carries nothing.
    pub(crate) fn is_empty(&self) -> bool {
        self.known.is_empty()
    }

    pub(crate) fn clear(&mut self) {
        self.known.clear();
        self.fenced_shared.clear();
        self.fenced_global.clear();
        self.foreign = None;
    }
}

impl Clock {
    pub(crate) fn new(own: usize, home: &Arc<Home>) -> Self {
        let entries = home.entries();
        let mut known = vec![0; entries];
        known[own] = 1;
        let (none, home) = (vec![0; entries], Arc::clone(home));
        let (fenced_shared, fenced_global) = (none.clone(), none);
        Self { own, known, fenced_shared, fenced_global, home, ..Self::default() }
    }

    /// The warp's time.
    #[inline]
    pub(crate) fn now(&self) -> u32 {
        self.known[self.own]
    }

    /// Later accesses are not part of what was published.
    pub(crate) fn tick(&mut self) {
        self.known[self.own] += 1;
    }

    /// Learns that a warpgroup's products have ended, up to this number.
    pub(crate) fn learn_products(&mut self, entry: usize, number: u64) {
        self.known[entry] = self.known[entry].max(number as u32);
    }

    /// A clock for the warpgroup of `entry` that knows what this warp knows.
    pub(crate) fn of_group(&self, entry: usize) -> Self {
        let (known, fenced_shared) = (self.known.clone(), self.fenced_shared.clone());
        let mut clock = Self { own: entry, known, fenced_shared, ..Self::default() };
        clock.keep_common(self);
        clock
    }

    /// Forgets what the warp of `other` does not know: of its own accesses, those that
    /// its lanes are not ordered after.
    pub(crate) fn keep_common(&mut self, other: &Self) {
        lower(&mut self.known, &other.known);
        lower(&mut self.fenced_shared, &other.fenced_shared);
        let own = &mut self.known[other.own];
        *own = (*own).min(other.converged.saturating_sub(1));
    }

    /// Learns what others published.
    pub(crate) fn learn(&mut self, message: &Message) {
        join(&mut self.known, &message.known);
        join(&mut self.fenced_shared, &message.fenced_shared);
        join(&mut self.fenced_global, &message.fenced_global);
        join_foreign(&mut self.foreign, &message.foreign);
        self.converge();
    }

    /// Orders the warp's own lanes.
    pub(crate) fn converge(&mut self) {
        self.tick();
        self.converged = self.now();
    }

    /// A memory fence: acquires what was seen, and releases what was done.
    pub(crate) fn fence(&mut self) {
        if let Some(seen) = self.seen.take() {
            join(&mut self.known, &seen);
        }
        self.released = Some(self.known.clone());
        self.tick();
    }

    /// A memory fence that reaches other blocks.
    pub(crate) fn fence_global(&mut self) {
        if let Some(seen) = self.global_seen.take() {
            self.absorb(&seen);
        }
        self.fence();
        let known = self.released.clone().unwrap_or_default();
        let (fenced, foreign) = (self.fenced_global.clone(), self.foreign.clone());
        self.global_released = Some(Arc::new(Released { known, fenced, foreign }));
    }

    /// Learns times of warps of this and of other clusters.
    fn absorb(&mut self, message: &Arc<Foreign>) {
        join_foreign(&mut self.foreign, &Some(Arc::clone(message)));
        let warps = self.home.warps;
        for (rank, block) in self.home.blocks.iter().enumerate() {
            if let Some(times) = message.get(block) {
                let own = rank * warps..(rank + 1) * warps;
                raise(&mut self.known[own.clone()], &times.known);
                raise(&mut self.fenced_global[own], &times.fenced);
            }
        }
    }

    /// Adds what the last fence released to what an address publishes.
    pub(crate) fn publish(&self, published: &mut Arc<Foreign>) {
        let Some(released) = &self.global_released else { return };
        let into = Arc::make_mut(published);
        for (rank, &block) in self.home.blocks.iter().enumerate() {
            let warps = rank * self.home.warps..(rank + 1) * self.home.warps;
            let (known, fenced) = (&released.known[warps.clone()], &released.fenced[warps]);
            into.entry(block).or_default().join(known, fenced);
        }
        for (&block, times) in released.foreign.iter().flat_map(|map| map.iter()) {
            into.entry(block).or_default().join(&times.known, &times.fenced);
        }
    }

    /// Whether there is anything to publish to other blocks.
    pub(crate) fn publishes(&self) -> bool {
        self.global_released.is_some()
    }

    /// A strong read saw what an address publishes.
    pub(crate) fn observe_global(&mut self, published: &Arc<Foreign>, acquire: bool) {
        if acquire {
            self.absorb(published);
        } else {
            join_foreign(&mut self.global_seen, &Some(Arc::clone(published)));
        }
    }

    /// The block's number and the warp's place in it.
    pub(crate) fn place(&self) -> (u32, usize) {
        let warps = self.home.warps.max(1);
        let block = self.home.blocks.get(self.own / warps).copied().unwrap_or(0);
        (block, self.own % warps)
    }

    /// The time of a write. A strong write is part of what it publishes: a warp that reads
    /// it knows of it.
    pub(crate) fn write_time(&self, strong: bool) -> u32 {
        let released = self.global_released.as_ref().filter(|_| strong);
        released.map_or_else(|| self.now(), |released| released.known[self.own])
    }

    /// Whether an access of a warp of any block is ordered before now.
    pub(crate) fn knows_of(&self, block: u32, warp: usize, time: u32) -> bool {
        match self.home.blocks.iter().position(|&own| own == block) {
            Some(rank) => self.knows(rank * self.home.warps + warp, time),
            None => self
                .times_of(block)
                .and_then(|times| times.known.get(warp))
                .is_some_and(|&known| known >= time),
        }
    }

    /// Whether a proxy fence has made a write to global memory, by a warp of any block,
    /// visible to the async proxy.
    pub(crate) fn has_shown(&self, block: u32, warp: usize, time: u32) -> bool {
        let fenced = match self.home.blocks.iter().position(|&own| own == block) {
            Some(rank) => self.fenced_global.get(rank * self.home.warps + warp),
            None => self.times_of(block).and_then(|times| times.fenced.get(warp)),
        };
        fenced.is_some_and(|&fenced| fenced >= time)
    }

    fn times_of(&self, block: u32) -> Option<&Times> {
        self.foreign.as_ref().and_then(|map| map.get(&block))
    }

    /// Whether anything is known of a block's warps.
    pub(crate) fn has_met(&self, block: u32) -> bool {
        self.home.blocks.contains(&block)
            || self.foreign.as_ref().is_some_and(|map| map.contains_key(&block))
    }

    /// A strong read saw what a strong write published: learnt at once where it
    /// acquires, else at the next fence.
    pub(crate) fn observe(&mut self, published: &[u32], acquire: bool) {
        if acquire {
            join(&mut self.known, published);
        } else {
            join(self.seen.get_or_insert_default(), published);
        }
    }

    /// A proxy fence: every write known here, to the memories that it is for, may be
    /// read by the async proxy.
    pub(crate) fn fence_proxy(&mut self, shared: bool, global: bool) {
        if shared {
            join(&mut self.fenced_shared, &self.known);
        }
        if global {
            join(&mut self.fenced_global, &self.known);
            for times in
                self.foreign.iter_mut().flat_map(|map| Arc::make_mut(map).values_mut())
            {
                join(&mut times.fenced, &times.known);
            }
        }
        self.tick();
    }

    /// Whether an access of `warp` at `time` is ordered before now.
    #[inline]
    pub(crate) fn knows(&self, warp: usize, time: u32) -> bool {
        self.known[warp] >= time
    }
}

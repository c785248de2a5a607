//! Which accesses are ordered before which: vector clocks over the warps of a cluster.
//!
//! A warp's own entry is its time. It increases when the warp publishes what it did (by
//! arriving at a barrier, or a fence). A warp that waits takes over the publisher's
//! entries. An access is ordered before another when the second warp knows its time.
//! What is known of the warps of other clusters is kept separately, by block.
//!
//! A memory order has a scope. What a fence of a block's scope released reaches only
//! threads of the block, and what a strong read of a block's scope saw is only what
//! threads of the block published. So the clock keeps for each scope what the last fence
//! released that reaches so far, and what strong reads have seen that come from there.

use std::collections::HashMap;
use std::sync::Arc;

use crate::instruction::Scope;

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

/// Entries for asynchronous copies. Copies of different mbarriers use different entries, as
/// far as there are enough: a warp that waited for one copy does not know of another that
/// happened to complete earlier.
pub(crate) const COPY_ENTRIES: usize = 8;

/// All lanes of a warp, or several of them, at the same bytes.
pub(crate) const WHOLE_WARP: usize = 32;
/// Several lanes, whose accesses do not conflict with one another: each has other bytes of a
/// word, or all wrote the same. Which lane had which is not kept.
pub(crate) const APART: usize = 33;

/// The lanes of two accesses of one warp to one word.
pub(crate) fn both_lanes(a: usize, b: usize, overlap: bool) -> usize {
    match (a == b, overlap) {
        (true, _) => a,
        (false, true) if a != APART => WHOLE_WARP,
        (false, _) => APART,
    }
}

/// The bytes of word `word` that `bytes` from `offset` on touch, one bit per byte.
#[inline]
pub(crate) fn byte_mask(offset: u64, bytes: u64, word: u64) -> u32 {
    let first = offset.max(4 * word) - 4 * word;
    let last = (offset + bytes).min(4 * word + 4) - 4 * word;
    (15 << first) & (15 >> (4 - last))
}

/// The time of warps that are known to run, and no more than that.
const STARTED: u32 = 1;

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
    /// What the last memory fence that reaches each scope released, for strong writes to
    /// publish.
    released: [Option<Arc<Message>>; 3],
    /// What strong reads have seen that was published within each scope, to be learnt at
    /// the next fence: in shared memory and in global memory.
    seen: [Option<Box<Message>>; 3],
    seen_global: [Option<Arc<Foreign>>; 3],
    pub home: Arc<Home>,
    /// The block's number in the grid, and the warp's in the block.
    place: (u32, usize),
    /// What is known of other clusters' warps.
    foreign: Option<Arc<Foreign>>,
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

/// What is published at a place in shared memory, or by arrivals at an mbarrier, with the
/// scopes that it reaches.
#[derive(Debug, Default)]
pub(crate) struct Scoped {
    /// What reaches the whole cluster.
    all: Message,
    /// What reaches the block of a rank, published there. Kept only where it may differ:
    /// where a cluster has several blocks and its kernel has narrow scopes.
    near: Vec<(usize, Message)>,
}

impl Scoped {
    fn near(&mut self, rank: usize) -> &mut Message {
        let at = self.near.iter().position(|near| near.0 == rank).unwrap_or_else(|| {
            self.near.push((rank, Message::default()));
            self.near.len() - 1
        });
        &mut self.near[at].1
    }

    /// Adds all that a warp knows, which arrives with a release of this scope. `split` says
    /// whether scopes are kept apart.
    pub(crate) fn add(&mut self, clock: &Clock, scope: Scope, split: bool) {
        if split {
            self.near(clock.rank()).add(clock);
        }
        if !split || scope > Scope::Block {
            self.all.add(clock);
        }
    }

    /// Adds what a warp's last fences released, for a strong write of this scope.
    pub(crate) fn publish(&mut self, clock: &Clock, scope: Scope, split: bool) {
        let near = clock.released(Scope::Block);
        if split && let Some(released) = near {
            self.near(clock.rank()).merge(released);
        }
        let wide = if split { clock.released(Scope::Cluster) } else { near };
        if let Some(released) = wide
            && (!split || scope > Scope::Block)
        {
            self.all.merge(released);
        }
    }

    /// What a read or a wait of this scope by a warp may see, by the scope that it comes
    /// from.
    pub(crate) fn seen_by(
        &self,
        clock: &Clock,
        scope: Scope,
        split: bool,
    ) -> Vec<(Scope, &Message)> {
        if !split {
            return vec![(Scope::Block, &self.all)];
        }
        let near = self.near.iter().find(|near| near.0 == clock.rank());
        let mut list: Vec<_> =
            near.map(|near| (Scope::Block, &near.1)).into_iter().collect();
        if scope > Scope::Block {
            list.push((Scope::Cluster, &self.all));
        }
        list
    }

    /// What a wait of this scope learns, asynchronous copies included.
    pub(crate) fn for_wait(&self, clock: &Clock, scope: Scope, split: bool) -> Message {
        let mut message = Message::default();
        for (_, part) in self.seen_by(clock, scope, split) {
            message.merge(part);
        }
        if split {
            message.merge_copies(&self.all, clock.home.blocks.len() * clock.home.warps);
        }
        message
    }

    /// Whether a warp knows of all that was published.
    pub(crate) fn is_known_to(&self, clock: &Clock) -> bool {
        let mut both = self.all.known.iter().zip(&clock.known);
        both.all(|(published, known)| published <= known)
    }

    /// Adds an asynchronous copy that has completed in shared memory.
    pub(crate) fn add_copy(&mut self, entry: usize, time: u32) {
        self.all.add_copy(entry, time);
    }

    pub(crate) fn clear(&mut self) {
        self.all.clear();
        self.near.clear();
    }
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

    /// Adds what another message says of asynchronous operations, whose entries come
    /// after those of `warps` warps.
    fn merge_copies(&mut self, other: &Message, warps: usize) {
        for (into, from) in [
            (&mut self.known, &other.known),
            (&mut self.fenced_shared, &other.fenced_shared),
        ] {
            if from.len() > warps {
                into.resize(into.len().max(from.len()), 0);
                raise(&mut into[warps..], &from[warps..]);
            }
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
        known[own] = STARTED + 1;
        let (none, home) = (vec![0; entries], Arc::clone(home));
        let (fenced_shared, fenced_global) = (none.clone(), none);
        let warps = home.warps.max(1);
        let block = home.blocks.get(own / warps).copied().unwrap_or(0);
        let place = (block, own % warps);
        Self { own, known, fenced_shared, fenced_global, home, place, ..Self::default() }
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

    /// A memory fence: acquires what strong reads within its scope have seen, and releases
    /// what was done.
    pub(crate) fn fence(&mut self, scope: Scope, acquires: bool, releases: bool) {
        for level in scope.within().filter(|_| acquires) {
            if let Some(seen) = self.seen[level as usize].take() {
                self.take_in(&seen);
            }
            if let Some(seen) = self.seen_global[level as usize].take() {
                self.absorb(&seen);
            }
        }
        if releases {
            self.release(scope);
        }
    }

    /// Releases what was done to the threads of a scope.
    pub(crate) fn release(&mut self, scope: Scope) {
        let mut message = Message::default();
        message.add(self);
        let message = Arc::new(message);
        for level in scope.within() {
            self.released[level as usize] = Some(Arc::clone(&message));
        }
        self.tick();
    }

    /// What strong writes publish within a scope.
    pub(crate) fn released(&self, scope: Scope) -> Option<&Arc<Message>> {
        self.released[scope as usize].as_ref()
    }

    /// Learns what a strong read saw. What another lane of the warp had released comes
    /// back to the warp in this way.
    fn take_in(&mut self, message: &Message) {
        join(&mut self.known, &message.known);
        join(&mut self.fenced_shared, &message.fenced_shared);
        join(&mut self.fenced_global, &message.fenced_global);
        join_foreign(&mut self.foreign, &message.foreign);
        self.order_lanes(message.known.get(self.own));
    }

    /// Orders what the warp's lanes did up to `time`, which one of them released and one
    /// of them acquired.
    fn order_lanes(&mut self, time: Option<&u32>) {
        let after = time.map_or(0, |&time| time + 1);
        self.converged = self.converged.max(after);
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
        let (block, warp) = self.place;
        self.order_lanes(message.get(&block).and_then(|times| times.known.get(warp)));
    }

    /// Adds what the last fence of a scope released to what an address publishes there.
    pub(crate) fn publish(&self, scope: Scope, published: &mut Arc<Foreign>) {
        let Some(released) = self.released(scope) else { return };
        let into = Arc::make_mut(published);
        for (rank, &block) in self.home.blocks.iter().enumerate() {
            let warps = rank * self.home.warps..(rank + 1) * self.home.warps;
            let known = &released.known[warps.clone()];
            into.entry(block).or_default().join(known, &released.fenced_global[warps]);
        }
        for (&block, times) in released.foreign.iter().flat_map(|map| map.iter()) {
            into.entry(block).or_default().join(&times.known, &times.fenced);
        }
    }

    /// Whether there is anything to publish.
    pub(crate) fn publishes(&self) -> bool {
        self.released.iter().any(Option::is_some)
    }

    /// A strong read saw what an address publishes within a scope.
    pub(crate) fn observe_global(
        &mut self,
        scope: Scope,
        published: &Arc<Foreign>,
        acquire: bool,
    ) {
        if acquire {
            self.absorb(published);
        } else {
            let seen = &mut self.seen_global[scope as usize];
            join_foreign(seen, &Some(Arc::clone(published)));
        }
    }

    /// All warps of the cluster are known to run.
    pub(crate) fn meet_cluster(&mut self) {
        let warps = self.home.blocks.len() * self.home.warps;
        self.known[..warps].iter_mut().for_each(|time| *time = STARTED.max(*time));
    }

    /// Whether a warp of another block of the cluster is known to run.
    pub(crate) fn has_met_peer(&self, warp: usize) -> bool {
        let block = |warp: usize| warp / self.home.warps.max(1);
        block(warp) != block(self.own) && self.knows(warp, STARTED)
    }

    /// Whether the block of this rank is known to run.
    pub(crate) fn has_started(&self, rank: usize) -> bool {
        let warps = rank * self.home.warps..(rank + 1) * self.home.warps;
        self.known[warps].iter().any(|&time| time >= STARTED)
    }

    /// The block's number and the warp's place in it.
    #[inline]
    pub(crate) fn place(&self) -> (u32, usize) {
        self.place
    }

    /// The block's rank in its cluster.
    pub(crate) fn rank(&self) -> usize {
        self.own / self.home.warps.max(1)
    }

    /// What stands for the threads of a scope that this warp is in: the number of their
    /// first block.
    pub(crate) fn domain(&self, scope: Scope) -> u32 {
        match scope {
            Scope::Block => self.place.0,
            Scope::Cluster => self.home.blocks.first().copied().unwrap_or(0),
            Scope::Gpu => 0,
        }
    }

    /// The narrowest scope that includes a thread of a block of the grid.
    pub(crate) fn scope_with(&self, block: u32) -> Scope {
        match block == self.place.0 {
            true => Scope::Block,
            false if self.home.blocks.contains(&block) => Scope::Cluster,
            false => Scope::Gpu,
        }
    }

    /// The time of a strong write. It is part of what it publishes: a warp that reads it
    /// knows of it.
    pub(crate) fn strong_time(&self, scope: Scope) -> u32 {
        let widest = self.released[..=scope as usize].iter().rev().flatten().next();
        widest.map_or_else(|| self.now(), |released| released.known[self.own])
    }

    /// Whether what `lane` did at `time` comes before what lane `by` does now, in this
    /// warp.
    #[inline]
    pub(crate) fn orders_lane(&self, lane: usize, time: u32, by: usize) -> bool {
        lane == by || lane == APART || time < self.converged
    }

    /// A strong read of shared memory saw what was published there: learnt at once where
    /// it acquires, else at the next fence.
    pub(crate) fn observe(&mut self, scope: Scope, published: &Message, acquire: bool) {
        if acquire {
            self.take_in(published);
        } else {
            self.seen[scope as usize].get_or_insert_default().merge(published);
        }
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

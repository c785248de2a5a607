//! Which accesses are ordered before which: vector clocks over the warps of a cluster.
//!
//! A warp's time increases when it publishes what it did (by arriving at a barrier, or a
//! fence). A warp that waits takes over the publisher's entries. An access is ordered before
//! another when the second warp knows its time. What is known of the warps of other clusters
//! is kept separately, by block.
//!
//! Threads publish for themselves. What some lanes of a warp publish is what these lanes did,
//! and what the others did before the lanes were synchronised: its own entry, which is what
//! any lane publishes of all. `bar.warp.sync` synchronises lanes, and so does, here, all that
//! they have to execute together: exchanges, votes, elections, matrix instructions and all
//! else that is `.aligned`. (The ISA promises an order of memory only for the barrier, and
//! lanes that read what one another wrote need that. But a warp's accesses before such an
//! instruction are over after it on every GPU, and published kernels rely on it.) That lanes
//! reconverge after a branch synchronises nothing. Who acquires, on the other hand, does so
//! for its whole warp.
//!
//! A memory order has a scope. What a fence of a block's scope released reaches only
//! threads of the block, and what a strong read of a block's scope saw is only what
//! threads of the block published. So the clock keeps for each scope what the last fence
//! released that reaches so far, and what strong reads have seen that come from there.

use std::collections::HashMap;
use std::sync::Arc;

use crate::instruction::Scope;
use crate::known::{ALL_LANES, Known, include, raise};

/// What is known of a block's warps.
#[derive(Debug, Clone, Default)]
pub(crate) struct Times {
    /// Latest known time of every warp.
    known: Known,
    /// The same, for writes to global memory that a proxy fence has made visible to the
    /// async proxy.
    fenced: Known,
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
    /// The warp's time.
    now: u32,
    /// It may have accessed memory at this time.
    is_touched: bool,
    /// Latest known time of every warp, and after them of asynchronous copies. The own
    /// entry is the time up to which each lane may publish what all lanes did.
    known: Known,
    /// The same, for writes to shared memory that a proxy fence has made visible to the
    /// async proxy.
    pub fenced_shared: Known,
    /// The same for writes to global memory.
    fenced_global: Known,
    /// What the last memory fence that reaches each scope released, for strong writes to
    /// publish.
    released: [Option<Released>; 3],
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
    /// And after that, what each lane released, and one of them acquired.
    acquired: Option<Box<[u32; 32]>>,
    /// Generations of the cluster's barrier that the warp has waited for.
    generations_met: u64,
}

/// What fences released.
#[derive(Debug, Clone)]
struct Released {
    message: Arc<Message>,
    /// The time of each lane's last fence.
    fences: [u32; 32],
}

/// What a synchronisation object carries from those that arrive to those that wait.
#[derive(Debug, Clone, Default)]
pub(crate) struct Message {
    known: Known,
    fenced_shared: Known,
    fenced_global: Known,
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

    /// Adds all that a warp knows, some lanes of which arrive with a release of this scope.
    /// `split` says whether scopes are kept apart.
    pub(crate) fn add(&mut self, (clock, lanes): (&Clock, u32), scope: Scope, split: bool) {
        if split {
            self.near(clock.rank()).add(clock, lanes);
        }
        if !split || scope > Scope::Block {
            self.all.add(clock, lanes);
        }
    }

    /// Adds what a warp's last fences released, for strong writes of this scope by some of
    /// its lanes.
    pub(crate) fn publish(
        &mut self,
        (clock, lanes): (&Clock, u32),
        scope: Scope,
        split: bool,
    ) {
        if split {
            let near = self.near(clock.rank());
            clock.add_released(Scope::Block, lanes, near);
        }
        if !split || scope > Scope::Block {
            let level = if split { Scope::Cluster } else { Scope::Block };
            clock.add_released(level, lanes, &mut self.all);
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
        clock.known.includes(&self.all.known, clock.own)
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
    fn join(&mut self, known: &Known, fenced: &Known) {
        self.known.join(known);
        self.fenced.join(fenced);
    }
}

impl Message {
    /// Adds what a warp knows, and what some of its lanes did.
    pub(crate) fn add(&mut self, clock: &Clock, lanes: u32) {
        self.add_learnt(clock);
        self.known.raise(clock.own, lanes, clock.done());
    }

    /// Adds what a warp knows, and of itself what any lane may publish.
    fn add_learnt(&mut self, clock: &Clock) {
        self.known.join(&clock.known);
        self.fenced_shared.join(&clock.fenced_shared);
        self.fenced_global.join(&clock.fenced_global);
        join_foreign(&mut self.foreign, &clock.foreign);
    }

    /// Adds what another message carries.
    pub(crate) fn merge(&mut self, other: &Message) {
        self.known.join(&other.known);
        self.fenced_shared.join(&other.fenced_shared);
        self.fenced_global.join(&other.fenced_global);
        join_foreign(&mut self.foreign, &other.foreign);
    }

    /// Adds an asynchronous copy that has completed in shared memory. What the async proxy
    /// wrote itself is visible to it without a fence; what `cp.async` wrote is not.
    pub(crate) fn add_copy(&mut self, entry: usize, time: u32) {
        self.known.raise(entry, ALL_LANES, time);
    }

    /// Adds what another message says of asynchronous operations, whose entries come
    /// after those of `warps` warps.
    fn merge_copies(&mut self, other: &Message, warps: usize) {
        for (into, from) in [
            (&mut self.known, &other.known),
            (&mut self.fenced_shared, &other.fenced_shared),
        ] {
            for (entry, &time) in from.all.iter().enumerate().skip(warps) {
                into.raise(entry, ALL_LANES, time);
            }
        }
    }

    /// Whether it carries nothing.
    pub(crate) fn is_empty(&self) -> bool {
        self.known.all.is_empty()
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
        let none = Known::none(home.entries());
        let mut known = none.clone();
        known.raise(own, ALL_LANES, STARTED);
        let (now, home) = (STARTED + 1, Arc::clone(home));
        let (fenced_shared, fenced_global) = (none.clone(), none);
        let warps = home.warps.max(1);
        let block = home.blocks.get(own / warps).copied().unwrap_or(0);
        let place = (block, own % warps);
        Self {
            own,
            now,
            known,
            fenced_shared,
            fenced_global,
            home,
            place,
            ..Self::default()
        }
    }

    /// The warp's time.
    #[inline]
    pub(crate) fn now(&self) -> u32 {
        self.now
    }

    /// Later accesses are not part of what was published.
    pub(crate) fn tick(&mut self) {
        self.now += 1;
        self.is_touched = false;
    }

    /// The warp accesses memory.
    #[inline]
    pub(crate) fn touch(&mut self) {
        self.is_touched = true;
    }

    /// The latest time at which the warp may have accessed memory.
    fn done(&self) -> u32 {
        self.now.saturating_sub(u32::from(!self.is_touched))
    }

    /// Some lanes, or all, were synchronised: each of them may publish what all have done.
    /// Lanes outside publish it too, which is too much where the lanes are not all.
    #[inline]
    pub(crate) fn gather(&mut self, lanes: u32) {
        let done = self.done();
        if self.known.all_of(self.own) < done {
            self.known.raise(self.own, lanes, done);
        }
        if self.is_touched {
            self.tick();
        }
    }

    /// Learns that a warpgroup's products have ended, up to this number.
    pub(crate) fn learn_products(&mut self, entry: usize, number: u64) {
        self.known.raise(entry, ALL_LANES, number as u32);
    }

    /// A clock for the warpgroup of `entry` that knows what this warp knows.
    pub(crate) fn of_group(&self, entry: usize) -> Self {
        let (known, fenced_shared) = (self.ordered(), self.fenced_shared.clone());
        Self { own: entry, known, fenced_shared, ..Self::default() }
    }

    /// Forgets what the warp of `other` does not know: of its own accesses, those that
    /// its lanes are not ordered after.
    pub(crate) fn keep_common(&mut self, other: &Self) {
        self.known.keep_common(&other.ordered());
        self.fenced_shared.keep_common(&other.fenced_shared);
    }

    /// What comes before the next access of every lane of the warp.
    fn ordered(&self) -> Known {
        let mut known = self.known.clone();
        let all = self.converged.saturating_sub(1);
        known.set(self.own, all, self.acquired.as_deref());
        known
    }

    /// Learns what others published.
    pub(crate) fn learn(&mut self, message: &Message) {
        self.add(message);
        self.converge();
    }

    fn add(&mut self, message: &Message) {
        self.known.join(&message.known);
        self.fenced_shared.join(&message.fenced_shared);
        self.fenced_global.join(&message.fenced_global);
        join_foreign(&mut self.foreign, &message.foreign);
    }

    /// Orders the warp's own lanes.
    pub(crate) fn converge(&mut self) {
        self.tick();
        self.converged = self.now;
        self.acquired = None;
    }

    /// A barrier of some of the warp's lanes, or of all.
    pub(crate) fn synchronise(&mut self, lanes: u32) {
        self.gather(lanes);
        self.converge();
    }

    /// A memory fence of some lanes: acquires what strong reads within its scope have seen,
    /// and releases what was done.
    pub(crate) fn fence(
        &mut self,
        scope: Scope,
        (acquires, releases): (bool, bool),
        lanes: u32,
    ) {
        for level in scope.within().filter(|_| acquires) {
            if let Some(seen) = self.seen[level as usize].take() {
                self.take_in(&seen);
            }
            if let Some(seen) = self.seen_global[level as usize].take() {
                self.absorb(&seen);
            }
        }
        if releases {
            self.release(scope, lanes);
        }
    }

    /// Releases what some lanes did to the threads of a scope.
    pub(crate) fn release(&mut self, scope: Scope, lanes: u32) {
        let mut message = Message::default();
        message.add_learnt(self);
        let (message, done) = (Arc::new(message), self.done());
        for level in scope.within() {
            let released = &mut self.released[level as usize];
            let old = released.as_ref().map_or([0; 32], |released| released.fences);
            let fence = |lane: usize| if lanes >> lane & 1 != 0 { done } else { old[lane] };
            let fences = std::array::from_fn(fence);
            *released = Some(Released { message: Arc::clone(&message), fences });
        }
        self.tick();
    }

    /// What strong writes by some lanes publish within a scope, and up to which time of
    /// each lane of this warp: what those lanes released, and what others released before
    /// the lanes were synchronised.
    fn released(&self, scope: Scope, lanes: u32) -> Option<(&Message, [u32; 32])> {
        let Released { message, fences } = self.released[scope as usize].as_ref()?;
        let publishes = |lane: usize| {
            lanes >> lane & 1 != 0 || self.known.covers(self.own, lane, fences[lane])
        };
        let time = |lane: usize| if publishes(lane) { fences[lane] } else { 0 };
        Some((message, std::array::from_fn(time)))
    }

    /// Adds what strong writes by some lanes publish within a scope.
    pub(crate) fn add_released(&self, scope: Scope, lanes: u32, into: &mut Message) {
        if let Some((message, times)) = self.released(scope, lanes) {
            into.merge(message);
            into.known.raise_lanes(self.own, &times);
        }
    }

    /// Learns what a strong read saw. What another lane of the warp had released comes
    /// back to the warp in this way.
    fn take_in(&mut self, message: &Message) {
        self.add(message);
        self.order_lanes(&message.known, self.own);
    }

    /// Orders what the warp's lanes did up to the times of an entry of `known`, which some of
    /// them released and one of them acquired.
    fn order_lanes(&mut self, known: &Known, entry: usize) {
        self.converged = self.converged.max(known.all_of(entry) + 1);
        if let Some(times) = known.lanes_of(entry) {
            raise(&mut self.acquired.get_or_insert_default()[..], times);
        }
    }

    /// Learns times of warps of this and of other clusters.
    fn absorb(&mut self, message: &Arc<Foreign>) {
        join_foreign(&mut self.foreign, &Some(Arc::clone(message)));
        let warps = self.home.warps;
        for (rank, block) in self.home.blocks.iter().enumerate() {
            if let Some(times) = message.get(block) {
                let own = rank * warps..(rank + 1) * warps;
                self.known.join_at(own.clone(), &times.known);
                self.fenced_global.join_at(own, &times.fenced);
            }
        }
        let (block, warp) = self.place;
        if let Some(times) = message.get(&block) {
            self.order_lanes(&times.known, warp);
        }
    }

    /// Adds what the last fences of a scope released to what an address publishes there,
    /// after strong writes by some lanes.
    pub(crate) fn publish(&self, scope: Scope, lanes: u32, published: &mut Arc<Foreign>) {
        let Some((message, times)) = self.released(scope, lanes) else { return };
        let into = Arc::make_mut(published);
        for (rank, &block) in self.home.blocks.iter().enumerate() {
            let warps = rank * self.home.warps..(rank + 1) * self.home.warps;
            let known = message.known.part(warps.clone());
            into.entry(block).or_default().join(&known, &message.fenced_global.part(warps));
        }
        let (block, warp) = self.place;
        into.entry(block).or_default().known.raise_lanes(warp, &times);
        for (&block, times) in message.foreign.iter().flat_map(|map| map.iter()) {
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
        self.known.all[..warps].iter_mut().for_each(|time| *time = STARTED.max(*time));
    }

    /// The warp has waited for a generation of the cluster's barrier.
    pub(crate) fn meet(&mut self, generation: u64) {
        self.generations_met = generation + 1;
    }

    /// Whether it has.
    pub(crate) fn has_met_at(&self, generation: u64) -> bool {
        generation < self.generations_met
    }

    /// Whether the block of this rank is known to run.
    pub(crate) fn has_started(&self, rank: usize) -> bool {
        let warps = rank * self.home.warps..(rank + 1) * self.home.warps;
        self.known.all[warps].iter().any(|&time| time >= STARTED)
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

    /// The time of a strong write by a lane. It is part of what it publishes: a warp that
    /// reads it knows of it.
    pub(crate) fn strong_time(&self, scope: Scope, lane: usize) -> u32 {
        let widest = self.released[..=scope as usize].iter().rev().flatten().next();
        widest.map_or(self.now, |Released { message, fences }| {
            message.known.all_of(self.own).max(fences[lane % 32])
        })
    }

    /// Whether what `lane` did at `time` comes before what lane `by` does now, in this
    /// warp.
    #[inline]
    pub(crate) fn orders_lane(&self, lane: usize, time: u32, by: usize) -> bool {
        lane == by
            || lane == APART
            || time < self.converged
            || self.acquired.as_ref().is_some_and(|times| include(times, lane, time))
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

    /// Whether an access of a lane of any block's warp is ordered before now.
    pub(crate) fn knows_of(
        &self,
        (block, warp): (u32, usize),
        lane: usize,
        time: u32,
    ) -> bool {
        match self.home.blocks.iter().position(|&own| own == block) {
            Some(rank) => self.knows(rank * self.home.warps + warp, lane, time),
            None => self
                .times_of(block)
                .is_some_and(|times| times.known.covers(warp, lane, time)),
        }
    }

    /// Whether a proxy fence has made a write to global memory, by a lane of any block's
    /// warp, visible to the async proxy.
    pub(crate) fn has_shown(
        &self,
        (block, warp): (u32, usize),
        lane: usize,
        time: u32,
    ) -> bool {
        match self.home.blocks.iter().position(|&own| own == block) {
            Some(rank) => {
                self.fenced_global.covers(rank * self.home.warps + warp, lane, time)
            }
            None => self
                .times_of(block)
                .is_some_and(|times| times.fenced.covers(warp, lane, time)),
        }
    }

    /// Whether of some lanes of a warp of any block more may be known than of others.
    pub(crate) fn tells_apart(&self, (block, warp): (u32, usize)) -> bool {
        let differ = |known: &Known, fenced: &Known, entry: usize| {
            known.lanes_of(entry).or_else(|| fenced.lanes_of(entry)).is_some()
        };
        match self.home.blocks.iter().position(|&own| own == block) {
            Some(rank) => {
                differ(&self.known, &self.fenced_global, rank * self.home.warps + warp)
            }
            None => self
                .times_of(block)
                .is_some_and(|times| differ(&times.known, &times.fenced, warp)),
        }
    }

    fn times_of(&self, block: u32) -> Option<&Times> {
        self.foreign.as_ref().and_then(|map| map.get(&block))
    }

    /// Whether anything is known of a block's warps.
    pub(crate) fn has_met(&self, block: u32) -> bool {
        self.home.blocks.contains(&block)
            || self.foreign.as_ref().is_some_and(|map| map.contains_key(&block))
    }

    /// A proxy fence of some lanes: every write known here, to the memories that it is for,
    /// and what the lanes wrote themselves, may be read by the async proxy.
    pub(crate) fn fence_proxy(&mut self, (shared, global): (bool, bool), lanes: u32) {
        let done = self.done();
        if shared {
            self.fenced_shared.join(&self.known);
            self.fenced_shared.raise(self.own, lanes, done);
        }
        if global {
            self.fenced_global.join(&self.known);
            self.fenced_global.raise(self.own, lanes, done);
            for times in
                self.foreign.iter_mut().flat_map(|map| Arc::make_mut(map).values_mut())
            {
                times.fenced.join(&times.known);
            }
        }
        self.tick();
    }

    /// Whether an access by `lane` of `warp` at `time` is ordered before now.
    #[inline]
    pub(crate) fn knows(&self, warp: usize, lane: usize, time: u32) -> bool {
        self.known.covers(warp, lane, time)
    }

    /// Adds the times that are known to have passed, this warp's included.
    pub(crate) fn passed(&self, into: &mut Vec<u32>) {
        self.known.latest(into);
        into[self.own] = into[self.own].max(self.now);
    }
}

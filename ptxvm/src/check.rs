//! Global memory during a launch: which lane of which warp accessed which bytes of which
//! word, and which sectors were touched.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, OnceLock};

use crate::clock::{Clock, Foreign, both_lanes, byte_mask};
use crate::instruction::{Order, Scope};
use crate::memory::Memory;

/// Words that share a page of tags.
const PAGE_WORDS: u64 = 4096;

/// Tags of the words of a page, allocated when the first is needed.
type Page = OnceLock<Box<[AtomicU64]>>;

fn tags(page: &Page) -> &[AtomicU64] {
    page.get_or_init(|| (0..PAGE_WORDS).map(|_| AtomicU64::new(0)).collect())
}

fn pages(memory: &Memory, enabled: bool) -> Vec<Vec<Page>> {
    let of = |bytes: u64| {
        let count = bytes.div_ceil(4 * PAGE_WORDS) * u64::from(enabled);
        (0..count).map(|_| OnceLock::new()).collect()
    };
    memory.allocations.iter().map(|allocation| of(allocation.live_bytes())).collect()
}

/// A warp number that stands for several warps of a block.
const SEVERAL_WARPS: usize = 63;
/// The latest time that fits a tag. Later accesses count as that old: a race may be
/// missed then, but none is invented.
const MOST_TIME: u32 = IN_FLIGHT - 1;
/// The time of a write that is not known to be complete: nothing is ordered after it.
const IN_FLIGHT: u32 = (1 << 19) - 1;
/// Blocks from this number on leave no tags.
const MOST_BLOCKS: u32 = (1 << 25) - 1;

/// Races in global memory: between blocks, between the warps of one, and between the lanes
/// of a warp.
#[derive(Debug)]
pub(crate) struct GlobalRaces {
    /// The last write and the last read of each word. Most memory has only one of them.
    writes: Vec<Vec<Page>>,
    reads: Vec<Vec<Page>>,
    /// Reads of each word through the read-only path.
    constants: Vec<Vec<Page>>,
    /// What strong writes have published, by address.
    published: Mutex<HashMap<u64, Published>>,
    enabled: bool,
    /// Blocks communicate, so that "several readers" may be ordered.
    blocks_communicate: bool,
    /// Some memory orders reach less than the GPU.
    narrow_scopes: bool,
}

/// What an address publishes: to all threads, and to those of a scope and
/// [domain](Clock::domain).
#[derive(Debug, Default)]
struct Published {
    wide: Arc<Foreign>,
    near: HashMap<(Scope, u32), Arc<Foreign>>,
}

/// How memory is accessed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Manner {
    /// By a thread, without a memory order.
    Weak,
    /// By a thread, relaxed or stronger: two such accesses do not race where the scope of
    /// each includes the other's thread.
    Strong(Scope),
    /// By the async proxy, for a thread.
    Async,
}

impl Manner {
    pub(crate) fn of_thread(order: Order, scope: Scope) -> Self {
        if order.is_strong() { Manner::Strong(scope) } else { Manner::Weak }
    }
}

/// Who accesses memory, and how.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Accessor<'c> {
    pub clock: &'c Clock,
    pub lane: usize,
    pub manner: Manner,
}

/// An access as the shadow keeps it: 25 bits of block, 6 of warp, 6 of lane, 4 of bytes, 4
/// that differ, 19 of time. The four are a write's manner; or the bytes of the word that
/// several blocks have read, while the rest of the tag is of one block's read.
#[derive(Debug, Clone, Copy)]
struct Tag {
    block: u32,
    warp: usize,
    lane: usize,
    /// Bytes of the word, one bit per byte.
    bytes: u32,
    manner: Manner,
    time: u32,
}

impl Tag {
    fn of(by: &Accessor<'_>, bytes: u32, time: u32) -> Self {
        let (block, warp) = by.clock.place();
        Self { block, warp, lane: by.lane, bytes, manner: by.manner, time }
    }

    #[inline]
    fn pack(self) -> u64 {
        let manner = match self.manner {
            Manner::Weak => 0,
            Manner::Async => 1,
            Manner::Strong(scope) => 2 + scope as u64,
        };
        self.place() | manner << 19
    }

    /// The tag without a manner. Empty where the block's number does not fit.
    #[inline]
    fn place(self) -> u64 {
        if self.bytes == 0 || self.block >= MOST_BLOCKS {
            return 0;
        }
        u64::from(self.block + 1) << 39
            | (self.warp as u64) << 33
            | (self.lane as u64) << 27
            | u64::from(self.bytes) << 23
            | u64::from(self.time.min(IN_FLIGHT))
    }

    #[inline]
    fn unpack(bits: u64) -> Option<Self> {
        Some(Self {
            manner: match bits >> 19 & 15 {
                0 => Manner::Weak,
                1 => Manner::Async,
                n => Manner::Strong(Scope::ALL[(n as usize - 2).min(2)]),
            },
            ..Self::unpack_read(bits)?
        })
    }

    #[inline]
    fn unpack_read(bits: u64) -> Option<Self> {
        Some(Self {
            block: ((bits >> 39) as u32).checked_sub(1)?,
            warp: (bits >> 33 & 63) as usize,
            lane: (bits >> 27 & 63) as usize,
            bytes: (bits >> 23 & 15) as u32,
            manner: Manner::Weak,
            time: bits as u32 & IN_FLIGHT,
        })
    }

    /// This access and an earlier one by the same warp at the same time.
    fn with(self, old: Self) -> Self {
        let lane = both_lanes(old.lane, self.lane, old.bytes & self.bytes != 0);
        Self { lane, bytes: old.bytes | self.bytes, ..self }
    }

    fn is_together_with(self, other: Self) -> bool {
        (self.block, self.warp, self.time) == (other.block, other.warp, other.time)
    }

    /// Whether both are strong; and whether the scope of each includes the other's thread.
    fn strong_with(self, by: &Accessor<'_>) -> (bool, bool) {
        let (Manner::Strong(a), Manner::Strong(b)) = (self.manner, by.manner) else {
            return (false, false);
        };
        (true, a.min(b) >= by.clock.scope_with(self.block))
    }

    /// Whether this access is not ordered before one by `by`.
    #[inline]
    fn races(self, by: &Accessor<'_>) -> bool {
        let clock = by.clock;
        // A warp's own stores by the async proxy may follow each other.
        if self.is_in_flight() {
            return by.manner != Manner::Async || (self.block, self.warp) != clock.place();
        }
        let ordered = if (self.block, self.warp) == clock.place() {
            clock.orders_lane(self.lane, self.time, by.lane)
        } else if self.warp == SEVERAL_WARPS {
            clock.has_met(self.block)
        } else {
            clock.knows_of(self.block, self.warp, self.time)
        };
        !ordered && !self.strong_with(by).1
    }

    /// Whether the async proxy may not see this write, although it is ordered before the
    /// proxy's read.
    fn is_hidden(self, by: &Accessor<'_>) -> bool {
        by.manner == Manner::Async
            && self.manner != Manner::Async
            && !by.clock.has_shown(self.block, self.warp, self.time)
    }

    /// Whether it is an asynchronous store that nobody has waited for.
    #[inline]
    fn is_in_flight(self) -> bool {
        self.manner == Manner::Async && self.time == IN_FLIGHT
    }

    fn rival(self, did: Did) -> Rival {
        Rival { block: Some(self.block), warp: self.warp, lane: self.lane, did }
    }
}

/// What another access did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Did {
    Read,
    Write,
    /// Wrote as strongly as this access, but the scope of one, given here, does not include
    /// the other's thread.
    WriteApart(Scope),
    /// Wrote, in order, but without a proxy fence before the async proxy's read.
    WriteUnfenced,
    /// Began an asynchronous store, which is not known to be complete.
    WriteInFlight,
    /// Wrote what is now read through the read-only path.
    WriteConstant,
    /// Read through the read-only path, by the instruction at this place in the code.
    ReadConstant(u32),
}

/// How far a write has come on its way to a warp's tensor copies.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Look {
    /// Nothing orders it before.
    Unordered,
    /// It is ordered before, without a proxy fence.
    Unreleased,
    /// It is ordered before, with a proxy fence that released it.
    Visible,
}

/// Another access that does not fit with this one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Rival {
    pub block: Option<u32>,
    pub warp: usize,
    pub lane: usize,
    pub did: Did,
}

/// The words that bytes lie in: page, place there and the bytes of the word.
fn words(offset: u64, bytes: u64) -> impl Iterator<Item = (usize, usize, u32)> {
    (offset / 4..(offset + bytes).div_ceil(4)).map(move |word| {
        let mask = byte_mask(offset, bytes, word);
        ((word / PAGE_WORDS) as usize, (word % PAGE_WORDS) as usize, mask)
    })
}

impl GlobalRaces {
    pub(crate) fn new(
        memory: &Memory,
        enabled: bool,
        (blocks_communicate, narrow_scopes): (bool, bool),
    ) -> Self {
        Self {
            writes: pages(memory, enabled),
            reads: pages(memory, enabled),
            constants: pages(memory, enabled),
            published: Mutex::new(HashMap::new()),
            enabled,
            blocks_communicate,
            narrow_scopes,
        }
    }

    /// Notes a read of `bytes` and finds a write that it races with.
    #[inline]
    pub(crate) fn on_read(
        &self,
        allocation: usize,
        offset: u64,
        bytes: u64,
        by: Accessor<'_>,
    ) -> Option<Rival> {
        if !self.enabled {
            return None;
        }
        let mut rival = None;
        let notes = !matches!(by.manner, Manner::Strong(_));
        for (page, at, mask) in words(offset, bytes) {
            if let Some(writes) = self.writes[allocation][page].get()
                && let Some(write) = Tag::unpack(writes[at].load(Relaxed))
                && write.bytes & mask != 0
            {
                if write.is_in_flight() || write.races(&by) {
                    rival = Some(write.rival(write.did(&by)));
                } else if write.is_hidden(&by) {
                    rival = Some(write.rival(Did::WriteUnfenced));
                }
            }
            if notes {
                let tag = &tags(&self.reads[allocation][page])[at];
                let own = Tag::of(&by, mask, by.clock.now().min(MOST_TIME));
                tag.store(note_read(tag.load(Relaxed), own, by.clock), Relaxed);
            }
        }
        rival
    }

    /// Notes a write of `bytes` and finds an access that it races with.
    #[inline]
    pub(crate) fn on_write(
        &self,
        allocation: usize,
        offset: u64,
        bytes: u64,
        by: Accessor<'_>,
    ) -> Option<Rival> {
        if !self.enabled {
            return None;
        }
        let mut rival = None;
        let time = match by.manner {
            Manner::Strong(scope) => by.clock.strong_time(scope).min(MOST_TIME),
            Manner::Weak => by.clock.now().min(MOST_TIME),
            Manner::Async => IN_FLIGHT,
        };
        for (page, at, mask) in words(offset, bytes) {
            let tag = &tags(&self.writes[allocation][page])[at];
            let mut own = Tag::of(&by, mask, time);
            if let Some(write) = Tag::unpack(tag.load(Relaxed)) {
                if write.bytes & mask != 0 && write.races(&by) {
                    rival = Some(write.rival(write.did(&by)));
                }
                if write.is_together_with(own) && write.manner == own.manner {
                    own = own.with(write);
                }
            }
            tag.store(own.pack(), Relaxed);
            if let Some(reads) = self.reads[allocation][page].get() {
                let reads = reads[at].load(Relaxed);
                rival = self.read_before(reads, mask, &by).or(rival);
            }
            if let Some(constants) = self.constants[allocation][page].get() {
                let read = constants[at].load(Relaxed);
                rival = constant_read(read)
                    .filter(|(_, of)| of & mask != 0)
                    .map(|r| r.0)
                    .or(rival);
            }
        }
        rival
    }

    /// A read, as the shadow keeps it, that is not ordered before a write by `by`.
    #[inline]
    fn read_before(&self, read: u64, mask: u32, by: &Accessor<'_>) -> Option<Rival> {
        if several(read) & mask != 0 && !self.blocks_communicate {
            return Some(Rival { block: None, warp: 0, lane: 0, did: Did::Read });
        }
        let read = Tag::unpack_read(read)?;
        // The programming guide's additions by compare-and-swap begin with an ordinary
        // read, while other lanes' atomics may be under way; the swap finds that out.
        let is_atomic = matches!(by.manner, Manner::Strong(_));
        if is_atomic && (read.block, read.warp) == by.clock.place() {
            return None;
        }
        (read.bytes & mask != 0 && read.races(by)).then(|| read.rival(Did::Read))
    }

    /// A lane stores what the bytes hold already. If another lane of the warp has just
    /// stored it, both did, and neither is in the other's way.
    pub(crate) fn on_same_write(
        &self,
        allocation: usize,
        offset: u64,
        bytes: u64,
        by: Accessor<'_>,
    ) {
        if !self.enabled {
            return;
        }
        for (page, at, mask) in words(offset, bytes) {
            let Some(writes) = self.writes[allocation][page].get() else { continue };
            let own = Tag::of(&by, mask, by.clock.now().min(MOST_TIME));
            if let Some(write) = Tag::unpack(writes[at].load(Relaxed))
                && write.is_together_with(own)
                && write.manner == own.manner
            {
                let lane = both_lanes(write.lane, own.lane, false);
                writes[at].store(Tag { lane, ..write }.pack(), Relaxed);
            }
        }
    }

    /// Notes a read through the read-only path, by the instruction at `pc`, and finds a
    /// write by this launch, even if it came before the read.
    pub(crate) fn on_constant_read(
        &self,
        allocation: usize,
        offset: u64,
        bytes: u64,
        (by, pc): (Accessor<'_>, u32),
    ) -> Option<Rival> {
        if !self.enabled {
            return None;
        }
        let mut rival = None;
        for (page, at, mask) in words(offset, bytes) {
            let write = self.writes[allocation][page].get();
            let write = write.and_then(|writes| Tag::unpack(writes[at].load(Relaxed)));
            if let Some(write) = write.filter(|write| write.bytes & mask != 0) {
                rival = Some(write.rival(Did::WriteConstant));
            }
            let tag = &tags(&self.constants[allocation][page])[at];
            let old = constant_read(tag.load(Relaxed)).map_or(0, |old| old.1);
            tag.store(pack_constant(&by, mask | old, pc), Relaxed);
        }
        rival
    }

    /// A warp has waited for an asynchronous store to these bytes: it is complete now.
    pub(crate) fn complete(&self, allocation: usize, offset: u64, bytes: u64, by: &Clock) {
        if !self.enabled {
            return;
        }
        let (block, warp) = by.place();
        for word in offset / 4..(offset + bytes).div_ceil(4) {
            let (page, at) = ((word / PAGE_WORDS) as usize, (word % PAGE_WORDS) as usize);
            let tag = &tags(&self.writes[allocation][page])[at];
            if let Some(store) = Tag::unpack(tag.load(Relaxed))
                && store.is_in_flight()
                && (store.block, store.warp) == (block, warp)
            {
                let done = Tag { time: by.now().min(MOST_TIME), ..store };
                tag.store(done.pack(), Relaxed);
            }
        }
    }

    /// The last writes of the words of a tensor map, in a form that can be compared; none
    /// where the launch did not write to it.
    pub(crate) fn writes_of_map(&self, allocation: usize, offset: u64) -> Option<Vec<u64>> {
        if !self.enabled {
            return None;
        }
        let tag = |word: u64| {
            let page = &self.writes[allocation][(word / PAGE_WORDS) as usize];
            page.get().map_or(0, |tags| tags[(word % PAGE_WORDS) as usize].load(Relaxed))
        };
        let all: Vec<u64> = (offset / 4..offset / 4 + 32).map(tag).collect();
        all.iter().any(|&tag| tag != 0).then_some(all)
    }

    /// How a write that [`GlobalRaces::writes_of_map`] gave looks to a warp.
    pub(crate) fn look(write: u64, clock: &Clock) -> Look {
        let Some(write) = Tag::unpack(write) else { return Look::Visible };
        // The lanes of a warp are not told apart.
        let by = |manner| Accessor { clock, lane: write.lane, manner };
        if write.is_in_flight() || write.races(&by(Manner::Weak)) {
            Look::Unordered
        } else if write.is_hidden(&by(Manner::Async)) {
            Look::Unreleased
        } else {
            Look::Visible
        }
    }

    /// A strong write to `address` publishes what the warp's last fences released.
    pub(crate) fn publish(&self, address: u64, by: &Clock, scope: Scope) {
        if !self.enabled || !by.publishes() {
            return;
        }
        let mut published = self.published.lock().unwrap_or_else(|lock| lock.into_inner());
        let published = published.entry(address).or_default();
        for level in self.levels(scope) {
            let into = match level {
                Scope::Gpu => &mut published.wide,
                level => published.near.entry((level, by.domain(level))).or_default(),
            };
            by.publish(level, into);
        }
    }

    /// A strong read of `address` sees what was published there; an acquiring one
    /// learns it at once, another at the next fence.
    pub(crate) fn observe(
        &self,
        address: u64,
        by: &mut Clock,
        (scope, acquire): (Scope, bool),
    ) {
        if !self.enabled {
            return;
        }
        let published = self.published.lock().unwrap_or_else(|lock| lock.into_inner());
        let Some(published) = published.get(&address) else { return };
        for level in self.levels(scope) {
            let message = match level {
                Scope::Gpu => Some(&published.wide),
                level => published.near.get(&(level, by.domain(level))),
            };
            if let Some(message) = message {
                by.observe_global(level, message, acquire);
            }
        }
    }

    /// The scopes within which an access of `scope` publishes or sees. Where the kernel has
    /// no narrow ones, that is only the widest.
    fn levels(&self, scope: Scope) -> impl Iterator<Item = Scope> {
        let narrow = self.narrow_scopes;
        scope.within().filter(move |&level| narrow || level == Scope::Gpu)
    }
}

impl Tag {
    /// What this write did that is not ordered before `by`'s access.
    fn did(self, by: &Accessor<'_>) -> Did {
        match (self.manner, by.manner) {
            _ if self.is_in_flight() => Did::WriteInFlight,
            (Manner::Strong(a), Manner::Strong(b)) => Did::WriteApart(a.min(b)),
            _ => Did::Write,
        }
    }
}

/// The bytes of a word that several blocks have read.
fn several(read: u64) -> u32 {
    (read >> 19 & 15) as u32
}

/// The reads of a word after one more: the last one, or which bytes several warps or
/// blocks have read that are not ordered among themselves.
#[inline]
fn note_read(old: u64, own: Tag, clock: &Clock) -> u64 {
    let mut several = several(old);
    let own = Tag { bytes: own.bytes & !several, ..own };
    let new = match Tag::unpack_read(old) {
        _ if own.bytes == 0 => return old,
        None => own,
        Some(old) if old.is_together_with(own) => own.with(old),
        Some(old) if (old.block, old.warp) == (own.block, own.warp) => own,
        // A write that is ordered after this read is ordered after that one too.
        Some(old)
            if old.bytes & !own.bytes == 0
                && old.warp != SEVERAL_WARPS
                && clock.knows_of(old.block, old.warp, old.time) =>
        {
            own
        }
        Some(old) if old.block != own.block => {
            let both = old.bytes & own.bytes;
            several |= both;
            // Of two blocks that read different bytes, one is kept.
            match own.bytes & !both {
                0 => Tag { bytes: old.bytes & !both, ..old },
                rest => Tag { bytes: rest, ..own },
            }
        }
        Some(old) => Tag { warp: SEVERAL_WARPS, bytes: own.bytes | old.bytes, ..own },
    };
    new.place() | u64::from(several) << 19
}

/// A read through the read-only path: 25 bits of block, 6 of warp, 4 of bytes, 29 of place
/// in the code.
fn pack_constant(by: &Accessor<'_>, bytes: u32, pc: u32) -> u64 {
    let (block, warp) = by.clock.place();
    let block = u64::from(block.min(MOST_BLOCKS - 1) + 1);
    block << 39 | (warp as u64) << 33 | u64::from(bytes) << 29 | u64::from(pc) & 0x1fff_ffff
}

/// The last such read of a word, and the bytes of all of them.
fn constant_read(bits: u64) -> Option<(Rival, u32)> {
    let block = ((bits >> 39) as u32).checked_sub(1)?;
    let did = Did::ReadConstant(bits as u32 & 0x1fff_ffff);
    let rival =
        Rival { block: Some(block), warp: (bits >> 33 & 63) as usize, lane: 0, did };
    Some((rival, (bits >> 29 & 15) as u32))
}

/// Sectors that share a page of bits: 256 KiB of memory.
const PAGE_SECTORS: u64 = 8192;

/// Bits of the sectors of a page, allocated when the first is touched.
type SectorPage = OnceLock<Box<[AtomicU64]>>;

/// Which 32-byte sectors of each allocation the launch touched.
#[derive(Debug)]
pub(crate) struct Sectors {
    read: Vec<Vec<SectorPage>>,
    written: Vec<Vec<SectorPage>>,
}

impl Sectors {
    pub(crate) fn new(memory: &Memory) -> Self {
        let map = |bytes: u64| {
            (0..bytes.div_ceil(32 * PAGE_SECTORS)).map(|_| OnceLock::new()).collect()
        };
        let maps = || memory.allocations.iter().map(|a| map(a.live_bytes())).collect();
        Self { read: maps(), written: maps() }
    }

    /// Marks sector `sector` of an allocation.
    #[inline]
    pub(crate) fn touch(&self, allocation: usize, sector: u64, write: bool) {
        let maps = if write { &self.written } else { &self.read };
        let page = &maps[allocation][(sector / PAGE_SECTORS) as usize];
        let bits = page
            .get_or_init(|| (0..PAGE_SECTORS / 64).map(|_| AtomicU64::new(0)).collect());
        let word = &bits[(sector % PAGE_SECTORS / 64) as usize];
        let bit = 1 << (sector % 64);
        if word.load(Relaxed) & bit == 0 {
            word.fetch_or(bit, Relaxed);
        }
    }

    /// How many sectors were read and written.
    pub(crate) fn totals(&self) -> (u64, u64) {
        let total = |maps: &[Vec<SectorPage>]| {
            let bits = |word: &AtomicU64| u64::from(word.load(Relaxed).count_ones());
            let pages = maps.iter().flatten().filter_map(OnceLock::get);
            pages.flat_map(|page| page.iter()).map(bits).sum()
        };
        (total(&self.read), total(&self.written))
    }
}

//! Global memory during a launch: which warp accessed which word, and in which sectors.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, OnceLock};

use crate::clock::{Clock, Foreign};
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
/// The time of a write that is not known to be complete: nothing is ordered after it.
const IN_FLIGHT: u32 = (1 << 28) - 1;
/// A read by several blocks.
const SEVERAL_BLOCKS: u64 = u64::MAX;

/// Races in global memory, between blocks and between the warps of one.
#[derive(Debug)]
pub(crate) struct GlobalRaces {
    /// The last write and the last read of each word. Most memory has only one of them.
    writes: Vec<Vec<Page>>,
    reads: Vec<Vec<Page>>,
    /// What strong writes have published, by address.
    published: Mutex<HashMap<u64, Arc<Foreign>>>,
    enabled: bool,
    /// Blocks communicate, so that "several readers" may be ordered.
    blocks_communicate: bool,
}

/// How memory is accessed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Manner {
    /// By a thread, without a memory order.
    Weak,
    /// By a thread, relaxed or stronger: two such accesses never race.
    Strong,
    /// By the async proxy, for a thread.
    Async,
}

impl Manner {
    pub(crate) fn of_thread(strong: bool) -> Self {
        if strong { Manner::Strong } else { Manner::Weak }
    }
}

/// An access as the shadow keeps it: 28 bits of block, 6 of warp, 2 of manner, 28 of
/// time.
#[derive(Debug, Clone, Copy)]
struct Tag {
    block: u32,
    warp: usize,
    time: u32,
    manner: Manner,
}

impl Tag {
    fn pack(self) -> u64 {
        let time = u64::from(self.time.min(IN_FLIGHT));
        let manner = match self.manner {
            Manner::Weak => 0,
            Manner::Strong => 1,
            Manner::Async => 2,
        };
        u64::from(self.block + 1) << 36 | (self.warp as u64) << 30 | manner << 28 | time
    }

    fn unpack(bits: u64) -> Option<Self> {
        Some(Self {
            block: ((bits >> 36) as u32).checked_sub(1)?,
            warp: (bits >> 30 & 63) as usize,
            manner: match bits >> 28 & 3 {
                0 => Manner::Weak,
                1 => Manner::Strong,
                _ => Manner::Async,
            },
            time: (bits & ((1 << 28) - 1)) as u32,
        })
    }

    fn of(clock: &Clock, manner: Manner, time: u32) -> Self {
        let (block, warp) = clock.place();
        Self { block, warp, time, manner }
    }

    /// Whether this access is not ordered before one by `clock`.
    fn races(self, clock: &Clock, manner: Manner) -> bool {
        // A warp's own stores by the async proxy may follow each other.
        if self.is_in_flight() {
            return manner != Manner::Async || (self.block, self.warp) != clock.place();
        }
        if manner == Manner::Strong && self.manner == Manner::Strong {
            return false;
        }
        if self.warp == SEVERAL_WARPS {
            return !clock.has_met(self.block);
        }
        (self.block, self.warp) != clock.place()
            && !clock.knows_of(self.block, self.warp, self.time)
    }

    /// Whether the async proxy may not see this write, although it is ordered before the
    /// proxy's read.
    fn is_hidden(self, clock: &Clock, reader: Manner) -> bool {
        reader == Manner::Async
            && self.manner != Manner::Async
            && !clock.has_shown(self.block, self.warp, self.time)
    }

    /// Whether it is an asynchronous store that nobody has waited for.
    fn is_in_flight(self) -> bool {
        self.manner == Manner::Async && self.time == IN_FLIGHT
    }

    fn rival(self, did: Did) -> Rival {
        Rival { block: Some(self.block), warp: self.warp, did }
    }
}

/// What another access did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Did {
    Read,
    Write,
    /// Wrote, in order, but without a proxy fence before the async proxy's read.
    WriteUnfenced,
    /// Began an asynchronous store, which is not known to be complete.
    WriteInFlight,
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

/// Another access that is not ordered with this one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Rival {
    pub block: Option<u32>,
    pub warp: usize,
    pub did: Did,
}

impl GlobalRaces {
    pub(crate) fn new(memory: &Memory, enabled: bool, blocks_communicate: bool) -> Self {
        Self {
            writes: pages(memory, enabled),
            reads: pages(memory, enabled),
            published: Mutex::new(HashMap::new()),
            enabled,
            blocks_communicate,
        }
    }

    /// Notes a read of `bytes` and finds a write that it races with.
    #[inline]
    pub(crate) fn on_read(
        &self,
        allocation: usize,
        offset: u64,
        bytes: u64,
        by: &Clock,
        manner: Manner,
    ) -> Option<Rival> {
        if !self.enabled {
            return None;
        }
        let mut rival = None;
        let own = Tag::of(by, Manner::Weak, by.now());
        for word in offset / 4..(offset + bytes).div_ceil(4) {
            let (page, at) = ((word / PAGE_WORDS) as usize, (word % PAGE_WORDS) as usize);
            if let Some(writes) = self.writes[allocation][page].get()
                && let Some(write) = Tag::unpack(writes[at].load(Relaxed))
                && is_whole(offset, bytes, word)
            {
                if write.is_in_flight() {
                    rival = Some(write.rival(Did::WriteInFlight));
                } else if write.races(by, manner) {
                    rival = Some(write.rival(Did::Write));
                } else if write.is_hidden(by, manner) {
                    rival = Some(write.rival(Did::WriteUnfenced));
                }
            }
            if manner != Manner::Strong {
                let tag = &tags(&self.reads[allocation][page])[at];
                tag.store(note_read(tag.load(Relaxed), own), Relaxed);
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
        by: &Clock,
        manner: Manner,
    ) -> Option<Rival> {
        if !self.enabled {
            return None;
        }
        let mut rival = None;
        let time = match manner {
            Manner::Async => IN_FLIGHT,
            manner => by.write_time(manner == Manner::Strong),
        };
        let own = Tag::of(by, manner, time).pack();
        for word in offset / 4..(offset + bytes).div_ceil(4) {
            let (page, at) = ((word / PAGE_WORDS) as usize, (word % PAGE_WORDS) as usize);
            let write = tags(&self.writes[allocation][page])[at].swap(own, Relaxed);
            // Two blocks may write different bytes of one word.
            if !is_whole(offset, bytes, word) {
                continue;
            }
            if let Some(write) = Tag::unpack(write)
                && write.races(by, manner)
            {
                let did =
                    if write.is_in_flight() { Did::WriteInFlight } else { Did::Write };
                rival = Some(write.rival(did));
            }
            let reads = self.reads[allocation][page].get();
            let read = reads.map_or(0, |reads| reads[at].load(Relaxed));
            if read == SEVERAL_BLOCKS {
                if !self.blocks_communicate {
                    rival = Some(Rival { block: None, warp: 0, did: Did::Read });
                }
            } else if let Some(read) = Tag::unpack(read)
                && read.races(by, Manner::Weak)
            {
                rival = Some(read.rival(Did::Read));
            }
        }
        rival
    }

    /// A warp has waited for an asynchronous store to these bytes: it is complete now.
    pub(crate) fn complete(&self, allocation: usize, offset: u64, bytes: u64, by: &Clock) {
        if !self.enabled {
            return;
        }
        let done = Tag::of(by, Manner::Async, by.now());
        for word in offset / 4..(offset + bytes).div_ceil(4) {
            let (page, at) = ((word / PAGE_WORDS) as usize, (word % PAGE_WORDS) as usize);
            let tag = &tags(&self.writes[allocation][page])[at];
            let of_this = |tag: Tag| {
                tag.is_in_flight() && (tag.block, tag.warp) == (done.block, done.warp)
            };
            if Tag::unpack(tag.load(Relaxed)).is_some_and(of_this) {
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
    pub(crate) fn look(write: u64, by: &Clock) -> Look {
        let Some(write) = Tag::unpack(write) else { return Look::Visible };
        if write.is_in_flight() || write.races(by, Manner::Weak) {
            Look::Unordered
        } else if write.is_hidden(by, Manner::Async) {
            Look::Unreleased
        } else {
            Look::Visible
        }
    }

    /// A strong write to `address` publishes what the warp's last fence released.
    pub(crate) fn publish(&self, address: u64, by: &Clock) {
        if self.enabled && by.publishes() {
            let mut published =
                self.published.lock().unwrap_or_else(|lock| lock.into_inner());
            by.publish(published.entry(address).or_default());
        }
    }

    /// A strong read of `address` sees what was published there; an acquiring one
    /// learns it at once, another at the next fence.
    pub(crate) fn observe(&self, address: u64, by: &mut Clock, acquire: bool) {
        if !self.enabled {
            return;
        }
        let published = self.published.lock().unwrap_or_else(|lock| lock.into_inner());
        if let Some(message) = published.get(&address) {
            by.observe_global(message, acquire);
        }
    }
}

/// The last read of a word, or that several warps or blocks have read it.
fn note_read(old: u64, own: Tag) -> u64 {
    if old == SEVERAL_BLOCKS {
        return old;
    }
    match Tag::unpack(old) {
        None => own.pack(),
        Some(old) if old.block != own.block => SEVERAL_BLOCKS,
        Some(old) if old.warp != own.warp => Tag { warp: SEVERAL_WARPS, ..own }.pack(),
        Some(_) => own.pack(),
    }
}

/// Whether the access covers the word.
fn is_whole(offset: u64, bytes: u64, word: u64) -> bool {
    offset <= 4 * word && offset + bytes >= 4 * word + 4
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

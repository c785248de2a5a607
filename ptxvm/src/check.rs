//! Global memory during a launch: who touched what, and in which sectors.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Mutex, OnceLock};

use crate::clock::join;
use crate::memory::Memory;

/// Words that share a page of tags.
const PAGE_WORDS: u64 = 1024;

/// The last write and the last read of each word of a page.
#[derive(Debug)]
struct Page {
    writes: Vec<AtomicU64>,
    reads: Vec<AtomicU64>,
}

impl Page {
    fn new() -> Box<Self> {
        let zeros = || (0..PAGE_WORDS).map(|_| AtomicU64::new(0)).collect();
        Box::new(Self { writes: zeros(), reads: zeros() })
    }
}

/// Block numbers take the high half of a tag; this one stands for several readers.
const SEVERAL: u32 = u32::MAX;
const STRONG: u32 = 1 << 31;

/// Races between blocks.
#[derive(Debug)]
pub(crate) struct GlobalRaces {
    pages: Vec<Vec<OnceLock<Box<Page>>>>,
    /// What strong writes have published, by address.
    published: Mutex<HashMap<u64, Vec<u32>>>,
    enabled: bool,
    /// Blocks talk, so that "several readers" may well be ordered.
    talks: bool,
}

/// What one block knows of the others' global accesses.
#[derive(Debug, Clone, Default)]
pub(crate) struct BlockClock {
    pub linear: u32,
    pub epoch: u32,
    known: Vec<u32>,
    released: Option<Vec<u32>>,
    seen: Option<Vec<u32>>,
}

impl BlockClock {
    pub(crate) fn new(linear: u32) -> Self {
        Self { linear, epoch: 1, ..Self::default() }
    }

    /// The time of a write. A strong one is part of what it publishes: whoever sees
    /// it knows of it.
    fn time(&self, strong: bool) -> u32 {
        let own = self.linear as usize;
        let released = self.released.as_ref().filter(|_| strong);
        released.and_then(|known| known.get(own).copied()).unwrap_or(self.epoch)
    }

    fn knows(&self, block: u32, epoch: u32) -> bool {
        self.known.get(block as usize).is_some_and(|&known| known >= epoch)
    }

    /// A fence that reaches other blocks.
    pub(crate) fn fence(&mut self) {
        if let Some(seen) = self.seen.take() {
            join(&mut self.known, &seen);
        }
        let own = self.linear as usize;
        if self.known.len() <= own {
            self.known.resize(own + 1, 0);
        }
        self.known[own] = self.epoch;
        self.released = Some(self.known.clone());
        self.epoch += 1;
    }
}

fn tag(block: u32, epoch: u32, strong: bool) -> u64 {
    u64::from(block + 1) << 32 | u64::from(epoch | if strong { STRONG } else { 0 })
}

/// Another block's access that is not ordered with this one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Rival {
    pub block: Option<u32>,
    pub wrote: bool,
}

impl GlobalRaces {
    pub(crate) fn new(memory: &Memory, enabled: bool, talks: bool) -> Self {
        let pages = |bytes: u64| {
            let count = bytes.div_ceil(4 * PAGE_WORDS) * u64::from(enabled);
            (0..count).map(|_| OnceLock::new()).collect()
        };
        Self {
            pages: memory.allocations.iter().map(|a| pages(a.bytes)).collect(),
            published: Mutex::new(HashMap::new()),
            enabled,
            talks,
        }
    }

    fn page(&self, allocation: usize, word: u64) -> (&Page, usize) {
        let page = &self.pages[allocation][(word / PAGE_WORDS) as usize];
        (page.get_or_init(Page::new), (word % PAGE_WORDS) as usize)
    }

    /// Notes a read of `bytes` and finds a write that it races with.
    #[inline]
    pub(crate) fn on_read(
        &self,
        allocation: usize,
        offset: u64,
        bytes: u64,
        by: &BlockClock,
        strong: bool,
    ) -> Option<Rival> {
        if !self.enabled {
            return None;
        }
        let mut rival = None;
        for word in offset / 4..(offset + bytes).div_ceil(4) {
            let (page, at) = self.page(allocation, word);
            let write = page.writes[at].load(Relaxed);
            if write != 0 && is_whole(offset, bytes, word) && unordered(write, by, strong) {
                let block = (write >> 32) as u32 - 1;
                rival = Some(Rival { block: Some(block), wrote: true });
            }
            if strong {
                continue;
            }
            let old = page.reads[at].load(Relaxed);
            let other = (old >> 32) as u32;
            if other == 0 || other == by.linear + 1 {
                page.reads[at].store(tag(by.linear, by.epoch, false), Relaxed);
            } else if other != SEVERAL {
                page.reads[at].store(u64::from(SEVERAL) << 32, Relaxed);
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
        by: &BlockClock,
        strong: bool,
    ) -> Option<Rival> {
        if !self.enabled {
            return None;
        }
        let mut rival = None;
        let new = tag(by.linear, by.time(strong), strong);
        for word in offset / 4..(offset + bytes).div_ceil(4) {
            let (page, at) = self.page(allocation, word);
            let write = page.writes[at].swap(new, Relaxed);
            if write != 0 && is_whole(offset, bytes, word) && unordered(write, by, strong) {
                let block = (write >> 32) as u32 - 1;
                rival = Some(Rival { block: Some(block), wrote: true });
            }
            let read = page.reads[at].load(Relaxed);
            let reader = (read >> 32) as u32;
            if reader == SEVERAL {
                if !self.talks {
                    rival = Some(Rival { block: None, wrote: false });
                }
            } else if read != 0
                && unordered(read, by, false)
                && is_whole(offset, bytes, word)
            {
                rival = Some(Rival { block: Some(reader - 1), wrote: false });
            }
        }
        rival
    }

    /// A strong write to `address` publishes what the block's last fence made ready.
    pub(crate) fn publish(&self, address: u64, by: &BlockClock) {
        if let (true, Some(released)) = (self.enabled, &by.released) {
            let mut published =
                self.published.lock().unwrap_or_else(|lock| lock.into_inner());
            join(published.entry(address).or_default(), released);
        }
    }

    /// A strong read of `address` sees what was published there; an acquiring one
    /// learns it at once, another at the next fence.
    pub(crate) fn observe(&self, address: u64, by: &mut BlockClock, acquire: bool) {
        if !self.enabled {
            return;
        }
        let published = self.published.lock().unwrap_or_else(|lock| lock.into_inner());
        if let Some(message) = published.get(&address) {
            if acquire {
                join(&mut by.known, message);
            } else {
                join(by.seen.get_or_insert_default(), message);
            }
        }
    }
}

/// Whether the access covers the word: two blocks may write different bytes of one.
fn is_whole(offset: u64, bytes: u64, word: u64) -> bool {
    offset <= 4 * word && offset + bytes >= 4 * word + 4
}

fn unordered(tag: u64, by: &BlockClock, strong: bool) -> bool {
    let (block, low) = ((tag >> 32) as u32 - 1, tag as u32);
    let (epoch, other_strong) = (low & !STRONG, low & STRONG != 0);
    block != by.linear && !(strong && other_strong) && !by.knows(block, epoch)
}

/// Which 32-byte sectors of each allocation the launch touched.
#[derive(Debug)]
pub(crate) struct Sectors {
    read: Vec<Vec<AtomicU64>>,
    written: Vec<Vec<AtomicU64>>,
}

impl Sectors {
    pub(crate) fn new(memory: &Memory) -> Self {
        let map = |bytes: u64| {
            (0..bytes.div_ceil(32 * 64)).map(|_| AtomicU64::new(0)).collect::<Vec<_>>()
        };
        let maps = || memory.allocations.iter().map(|a| map(a.bytes)).collect();
        Self { read: maps(), written: maps() }
    }

    /// Marks sector `sector` of an allocation.
    #[inline]
    pub(crate) fn touch(&self, allocation: usize, sector: u64, write: bool) {
        let maps = if write { &self.written } else { &self.read };
        let word = &maps[allocation][(sector / 64) as usize];
        let bit = 1 << (sector % 64);
        if word.load(Relaxed) & bit == 0 {
            word.fetch_or(bit, Relaxed);
        }
    }

    /// How many sectors were read and written.
    pub(crate) fn totals(&self) -> (u64, u64) {
        let total = |maps: &[Vec<AtomicU64>]| {
            let bits = |word: &AtomicU64| u64::from(word.load(Relaxed).count_ones());
            maps.iter().flatten().map(bits).sum()
        };
        (total(&self.read), total(&self.written))
    }
}

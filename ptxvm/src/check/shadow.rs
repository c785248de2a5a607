//! Where the shadow of global memory is kept.
//!
//! A sector of 32 bytes has one tag of 8 bytes for its last writes and one for its last
//! reads, as long as each half was accessed as a whole, or every second word of it: by a
//! lane, or by lanes of a warp that follow one another. What does not fit is kept by word
//! from then on, in 64 more bytes. Bytes read through the read-only path have one bit each, and 8 bytes per sector
//! say by whom.
//!
//! So memory that is read and written in the usual ways costs half of itself, besides the
//! eighth that [`Memory`](crate::Memory) itself needs. The worst are single words, bytes,
//! or pieces at addresses that are not multiples of 16, or strong accesses: memory of which
//! every sector is written so costs 2.25 times itself, read and written so 4.5 times.
//! Pages are of 16 KiB: where only a few bytes of a page are touched, the page's tags are
//! there nonetheless.

use std::sync::atomic::{
    AtomicU32, AtomicU64,
    Ordering::{Acquire, Relaxed, Release},
};
use std::sync::{Mutex, OnceLock};

use super::span::{Part, SECTOR};
use super::wide::Wide;

/// Sectors of a page.
const PAGE_SECTORS: u64 = 512;
/// Words of a sector.
const WORDS: usize = 8;
/// Sectors whose words are allocated together.
const CHUNK: usize = 16;

/// Pages of an allocation of this many bytes.
pub(super) fn page_count(bytes: u64) -> u64 {
    bytes.div_ceil(SECTOR * PAGE_SECTORS)
}

/// The page that a sector is in, and its place there.
#[inline]
pub(super) fn place(sector: u64) -> (usize, usize) {
    ((sector / PAGE_SECTORS) as usize, (sector % PAGE_SECTORS) as usize)
}

/// The shadow of a page. Each kind of it is allocated when the first is needed.
#[derive(Debug, Default)]
pub(super) struct Page {
    pub writes: Kind<Tags>,
    pub reads: Kind<Tags>,
    /// Reads through the read-only path.
    pub constants: Kind<Constants>,
}

/// What is made when it is needed.
#[derive(Debug)]
pub(super) struct Kind<T>(OnceLock<Box<T>>);

impl<T> Default for Kind<T> {
    fn default() -> Self {
        Self(OnceLock::new())
    }
}

impl<T: Default> Kind<T> {
    #[inline]
    pub(super) fn get(&self) -> Option<&T> {
        self.0.get().map(|kind| &**kind)
    }

    #[inline]
    pub(super) fn make(&self) -> &T {
        self.0.get_or_init(Box::default)
    }
}

impl Page {
    pub(super) fn bytes_held(&self) -> usize {
        let tags = |kind: &Kind<Tags>| kind.get().map_or(0, Tags::bytes_held);
        let constants = self.constants.get().map_or(0, |_| size_of::<Constants>());
        size_of::<Self>() + tags(&self.writes) + tags(&self.reads) + constants
    }
}

/// The last accesses of one kind to a page.
#[derive(Debug)]
pub(super) struct Tags {
    sectors: [AtomicU64; PAGE_SECTORS as usize],
    by_word: OnceLock<Box<ByWord>>,
}

/// Words of sectors that were not accessed by halves, in the order in which they were
/// split.
#[derive(Debug, Default)]
struct ByWord {
    used: Mutex<usize>,
    chunks: [OnceLock<Box<[AtomicU64; CHUNK * WORDS]>>; PAGE_SECTORS as usize / CHUNK],
}

impl Default for Tags {
    fn default() -> Self {
        Self {
            sectors: [const { AtomicU64::new(0) }; PAGE_SECTORS as usize],
            by_word: OnceLock::new(),
        }
    }
}

/// What is kept of a sector: one [`Wide`] tag, or one [`Tag`](super::tag::Tag) per word.
pub(super) enum State<'t> {
    Wide(u64),
    Words(&'t [AtomicU64]),
}

impl Tags {
    #[inline]
    pub(super) fn state(&self, at: usize) -> State<'_> {
        let bits = self.sectors[at].load(Acquire);
        match Wide::number(bits) {
            Some(number) => {
                State::Words(self.by_word.get_or_init(Box::default).words(number))
            }
            None => State::Wide(bits),
        }
    }

    /// Changes a sector's tag, unless it is no longer `old`.
    #[inline]
    pub(super) fn replace(&self, at: usize, old: u64, new: u64) -> bool {
        old == new || self.sectors[at].compare_exchange(old, new, Relaxed, Relaxed).is_ok()
    }

    /// Keeps a sector by word from now on; `word` gives the tag of each.
    #[cold]
    pub(super) fn split(&self, at: usize, word: impl Fn(u64, usize) -> u64) {
        let by_word = self.by_word.get_or_init(Box::default);
        // Only one thread at a time splits, so that no sector gets two numbers.
        let mut used = by_word.used.lock().unwrap_or_else(|lock| lock.into_inner());
        let sector = &self.sectors[at];
        let mut bits = sector.load(Acquire);
        while Wide::number(bits).is_none() {
            let words = by_word.words(*used);
            words.iter().enumerate().for_each(|(n, tag)| tag.store(word(bits, n), Relaxed));
            let new = Wide::by_word(*used);
            match sector.compare_exchange(bits, new, Release, Acquire) {
                Ok(_) => {
                    *used += 1;
                    return;
                }
                Err(now) => bits = now,
            }
        }
    }

    fn bytes_held(&self) -> usize {
        let by_word = self.by_word.get().map_or(0, |by_word| {
            let chunks = by_word.chunks.iter().filter(|chunk| chunk.get().is_some());
            size_of::<ByWord>() + chunks.count() * size_of::<[AtomicU64; CHUNK * WORDS]>()
        });
        size_of::<Self>() + by_word
    }
}

impl ByWord {
    #[inline]
    fn words(&self, number: usize) -> &[AtomicU64] {
        let chunk = self.chunks[number / CHUNK]
            .get_or_init(|| Box::new([const { AtomicU64::new(0) }; CHUNK * WORDS]));
        &chunk[number % CHUNK * WORDS..][..WORDS]
    }
}

/// The bytes of a page that were read through the read-only path.
#[derive(Debug)]
pub(super) struct Constants {
    /// One bit per byte.
    bytes: [AtomicU32; PAGE_SECTORS as usize],
    /// One of the reads of each sector.
    reads: [AtomicU64; PAGE_SECTORS as usize],
}

impl Default for Constants {
    fn default() -> Self {
        Self {
            bytes: [const { AtomicU32::new(0) }; PAGE_SECTORS as usize],
            reads: [const { AtomicU64::new(0) }; PAGE_SECTORS as usize],
        }
    }
}

impl Constants {
    /// Notes the read of a part of the sector at `at`.
    #[inline]
    pub(super) fn note(&self, at: usize, part: &Part, read: u64) {
        let mask = part.mask();
        if self.bytes[at].load(Relaxed) & mask != mask {
            self.reads[at].store(read, Relaxed);
            self.bytes[at].fetch_or(mask, Release);
        }
    }

    /// A read of some of these bytes' sector, if some of these bytes were read.
    #[inline]
    pub(super) fn find(&self, at: usize, part: &Part) -> Option<u64> {
        let found = self.bytes[at].load(Acquire) & part.mask() != 0;
        found.then(|| self.reads[at].load(Relaxed))
    }
}

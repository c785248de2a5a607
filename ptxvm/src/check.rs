//! Global memory during a launch: which lane of which warp accessed which bytes, and which
//! sectors were touched.

mod shadow;
mod span;
mod tag;
mod wide;

#[cfg(test)]
mod tests;

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, OnceLock};

use crate::clock::{APART, Clock, Foreign, both_lanes};
use crate::instruction::Scope;
use crate::memory::Memory;

use shadow::{Page, State, Tags, page_count, place};
use span::Part;
use tag::{IN_FLIGHT, MOST_TIME, Tag, constant_read, note_read, pack_constant, several};
use wide::Wide;

pub(crate) use span::Span;
pub(crate) use tag::{Accessor, Did, Found, Manner, Rival};

/// Races in global memory: between blocks, between the warps of one, and between the lanes
/// of a warp.
#[derive(Debug)]
pub(crate) struct GlobalRaces {
    /// The last accesses, by allocation.
    pages: Vec<Vec<OnceLock<Box<Page>>>>,
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

impl GlobalRaces {
    pub(crate) fn new(
        memory: &Memory,
        enabled: bool,
        (blocks_communicate, narrow_scopes): (bool, bool),
    ) -> Self {
        let pages = |bytes: u64| {
            let count = page_count(bytes) * u64::from(enabled);
            (0..count).map(|_| OnceLock::new()).collect()
        };
        Self {
            pages: memory.allocations.iter().map(|a| pages(a.live_bytes())).collect(),
            published: Mutex::new(HashMap::new()),
            enabled,
            blocks_communicate,
            narrow_scopes,
        }
    }

    /// The bytes that the shadow holds in the host's memory.
    pub(crate) fn bytes_held(&self) -> u64 {
        let lists = self.pages.iter().flatten();
        let page = |page: &OnceLock<Box<Page>>| {
            size_of_val(page) + page.get().map_or(0, |page| page.bytes_held())
        };
        lists.map(page).sum::<usize>() as u64
    }

    #[inline]
    fn page(&self, allocation: usize, sector: u64) -> (&Page, usize) {
        let (page, at) = place(sector);
        (self.pages[allocation][page].get_or_init(Box::default), at)
    }

    /// Notes a read and finds a write that it races with.
    #[inline]
    pub(crate) fn on_read(&self, span: Span, by: Accessor<'_>) -> Option<Found> {
        if !self.enabled {
            return None;
        }
        let mut found = None;
        let notes = !matches!(by.manner, Manner::Strong(_));
        for part in span.parts(by.lane) {
            let (page, at) = self.page(span.allocation, part.sector);
            found = found.or(write_before(page, at, &part, by));
            if notes {
                note_read_of(page.reads.make(), at, &part, by);
            }
        }
        found
    }

    /// Finds a write that a read races with, without noting the read.
    #[inline]
    pub(crate) fn look_before_read(&self, span: Span, by: Accessor<'_>) -> Option<Found> {
        if !self.enabled {
            return None;
        }
        let mut found = None;
        for part in span.parts(by.lane) {
            let (page, at) = self.page(span.allocation, part.sector);
            found = found.or(write_before(page, at, &part, by));
        }
        found
    }

    /// Notes a write and finds an access that it races with.
    #[inline]
    pub(crate) fn on_write(&self, span: Span, by: Accessor<'_>) -> Option<Found> {
        if !self.enabled {
            return None;
        }
        let mut found = None;
        let time = match by.manner {
            Manner::Strong(scope) => by.clock.strong_time(scope, by.lane).min(MOST_TIME),
            Manner::Weak => by.clock.now().min(MOST_TIME),
            Manner::Async => IN_FLIGHT,
        };
        for part in span.parts(by.lane) {
            let (page, at) = self.page(span.allocation, part.sector);
            found = note_write_of(page.writes.make(), at, &part, (by, time)).or(found);
            if let Some(reads) = page.reads.get() {
                found = self.read_before(reads, at, &part, by).or(found);
            }
            if let Some(constants) = page.constants.get() {
                let read = constants.find(at, &part).and_then(constant_read);
                let lane = part.words().next().map_or(by.lane, |word| word.2);
                found = read.map(|rival| Found { rival, lane }).or(found);
            }
        }
        found
    }

    /// A read of some of the bytes that is not ordered before a write by `by`.
    #[inline]
    fn read_before(
        &self,
        reads: &Tags,
        at: usize,
        part: &Part,
        by: Accessor<'_>,
    ) -> Option<Found> {
        match reads.state(at) {
            State::Wide(0) => None,
            State::Wide(bits) => {
                let wide = Wide::unpack(bits);
                if !self.blocks_communicate && wide.several(part) {
                    let lane = part.words().next().map_or(by.lane, |word| word.2);
                    return Some(Found { rival: Rival::SEVERAL_BLOCKS, lane });
                }
                wide.find_read(part, by, |read, by| read.is_read_before(by))
            }
            State::Words(words) => part.words().find_map(|(word, mask, lane)| {
                let read = words[word].load(Relaxed);
                if several(read) & mask != 0 && !self.blocks_communicate {
                    return Some(Found { rival: Rival::SEVERAL_BLOCKS, lane });
                }
                let read = Tag::unpack_read(read)?;
                if read.bytes & mask == 0 {
                    return None;
                }
                let did = read.is_read_before(&Accessor { lane, ..by })?;
                Some(Found { rival: read.rival(did), lane })
            }),
        }
    }

    /// A lane stores what the bytes hold already. If another lane of the warp has just
    /// stored it, both did, and neither is in the other's way.
    pub(crate) fn on_same_write(&self, span: Span, by: Accessor<'_>) {
        if !self.enabled {
            return;
        }
        let time = by.clock.now().min(MOST_TIME);
        for part in span.parts(by.lane) {
            let (page, at) = self.page(span.allocation, part.sector);
            if let Some(writes) = page.writes.get() {
                note_same_write(writes, at, &part, (by, time));
            }
        }
    }

    /// Notes a read through the read-only path, by the instruction at `pc`, and finds a
    /// write by this launch, even if it came before the read.
    pub(crate) fn on_constant_read(
        &self,
        span: Span,
        (by, pc): (Accessor<'_>, u32),
    ) -> Option<Found> {
        if !self.enabled {
            return None;
        }
        let mut found = None;
        for part in span.parts(by.lane) {
            let (page, at) = self.page(span.allocation, part.sector);
            if let Some(writes) = page.writes.get() {
                let any = |_: Tag, _: &Accessor<'_>| Some(Did::WriteConstant);
                found = found.or(find_write(writes, at, &part, by, any));
            }
            page.constants.make().note(at, &part, pack_constant(&by, pc));
        }
        found
    }

    /// A warp has waited for an asynchronous store to these bytes: it is complete now.
    pub(crate) fn complete(&self, span: Span, by: &Clock) {
        if !self.enabled {
            return;
        }
        let by = Accessor { clock: by, lane: 0, manner: Manner::Async };
        let time = by.clock.now().min(MOST_TIME);
        for part in span.parts(0) {
            let (page, at) = self.page(span.allocation, part.sector);
            complete_part(page.writes.make(), at, &part, (by, time));
        }
    }

    /// The last writes of the words of a tensor map, in a form that can be compared; none
    /// where the launch did not write to it.
    pub(crate) fn writes_of_map(&self, allocation: usize, offset: u64) -> Option<Vec<u64>> {
        if !self.enabled {
            return None;
        }
        let tag = |word: u64| {
            let (page, at) = self.page(allocation, word / 8);
            let word = (word % 8) as usize;
            match page.writes.get().map(|writes| writes.state(at)) {
                Some(State::Wide(bits)) => Wide::written_word(bits, word),
                Some(State::Words(words)) => words[word].load(Relaxed),
                None => 0,
            }
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

    /// A strong write to `address` by a lane publishes what its last fences released.
    pub(crate) fn publish(&self, address: u64, (by, lane): (&Clock, usize), scope: Scope) {
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
            by.publish(level, 1 << lane, into);
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

/// The time of a read or of an ordinary write.
fn time_of(by: &Accessor<'_>) -> u32 {
    by.clock.now().min(MOST_TIME)
}

/// A write of some of the bytes that does not fit with a read of them.
#[inline]
fn write_before(page: &Page, at: usize, part: &Part, by: Accessor<'_>) -> Option<Found> {
    find_write(page.writes.get()?, at, part, by, |write, by| {
        if write.is_in_flight() || write.races(by) {
            Some(write.did(by))
        } else {
            write.is_hidden(by).then_some(Did::WriteUnfenced)
        }
    })
}

/// What `judge` finds of a write of some of the bytes.
#[inline]
fn find_write(
    writes: &Tags,
    at: usize,
    part: &Part,
    by: Accessor<'_>,
    judge: impl Fn(Tag, &Accessor<'_>) -> Option<Did>,
) -> Option<Found> {
    match writes.state(at) {
        State::Wide(0) => None,
        State::Wide(bits) => Wide::unpack(bits).find_write(part, by, judge),
        State::Words(words) => find_in_words(words, part, by, judge),
    }
}

#[inline]
fn find_in_words(
    words: &[AtomicU64],
    part: &Part,
    by: Accessor<'_>,
    judge: impl Fn(Tag, &Accessor<'_>) -> Option<Did>,
) -> Option<Found> {
    part.words().find_map(|(word, mask, lane)| {
        let write = Tag::unpack(words[word].load(Relaxed))?;
        if write.bytes & mask == 0 {
            return None;
        }
        let did = judge(write, &Accessor { lane, ..by })?;
        Some(Found { rival: write.rival(did), lane })
    })
}

/// Notes accesses to the words of a part: `note` gives the tag of a word after one more.
#[inline]
fn note_in_words(
    words: &[AtomicU64],
    part: &Part,
    (by, time): (Accessor<'_>, u32),
    note: impl Fn(u64, Tag) -> u64,
) {
    let own = |lane: usize, bytes: u32| Tag::of(&Accessor { lane, ..by }, bytes, time);
    for (word, bytes, lane) in part.whole_words() {
        let mut tag = words[word].load(Relaxed);
        let all = own(lane, bytes);
        let together = Tag::unpack_read(tag).is_some_and(|old| old.is_together_with(all));
        if lane == APART && together {
            // Which of the lanes was there before makes a difference.
            for (_, bytes, lane) in part.words().filter(|one| one.0 == word) {
                tag = note(tag, own(lane, bytes));
            }
        } else {
            tag = note(tag, all);
        }
        words[word].store(tag, Relaxed);
    }
}

#[inline]
fn note_read_of(reads: &Tags, at: usize, part: &Part, by: Accessor<'_>) {
    let time = time_of(&by);
    loop {
        match reads.state(at) {
            State::Wide(bits) => {
                let own = Wide::of(part, &by, time);
                match own.and_then(|own| Wide::unpack(bits).after_read(own, by.clock)) {
                    Some(new) if reads.replace(at, bits, new.pack()) => return,
                    Some(_) => {}
                    None => reads.split(at, Wide::read_word),
                }
            }
            State::Words(words) => {
                let note = |old: u64, own: Tag| note_read(old, own, by.clock);
                return note_in_words(words, part, (by, time), note);
            }
        }
    }
}

/// Notes a write and finds an earlier one that it races with.
#[inline]
fn note_write_of(
    writes: &Tags,
    at: usize,
    part: &Part,
    (by, time): (Accessor<'_>, u32),
) -> Option<Found> {
    let judge = |write: Tag, by: &Accessor<'_>| write.races(by).then(|| write.did(by));
    loop {
        match writes.state(at) {
            State::Wide(bits) => {
                let (own, old) = (Wide::of(part, &by, time), Wide::unpack(bits));
                match own.and_then(|own| old.after_write(own)) {
                    Some(new) if writes.replace(at, bits, new.pack()) => {
                        return old.find_write(part, by, judge);
                    }
                    Some(_) => {}
                    None => writes.split(at, Wide::written_word),
                }
            }
            State::Words(words) => {
                let found = find_in_words(words, part, by, judge);
                note_in_words(words, part, (by, time), |old, own| match Tag::unpack(old) {
                    Some(old) if old.is_together_with(own) && old.manner == own.manner => {
                        own.with(old).pack()
                    }
                    _ => own.pack(),
                });
                return found;
            }
        }
    }
}

fn note_same_write(writes: &Tags, at: usize, part: &Part, (by, time): (Accessor<'_>, u32)) {
    loop {
        match writes.state(at) {
            State::Wide(0) => return,
            State::Wide(bits) => {
                let old = Wide::unpack(bits);
                match old.after_same(&by, time, part) {
                    Some(new) if writes.replace(at, bits, new.pack()) => return,
                    Some(_) => {}
                    None => writes.split(at, Wide::written_word),
                }
            }
            State::Words(words) => {
                for (word, mask, lane) in part.words() {
                    let own = Tag::of(&Accessor { lane, ..by }, mask, time);
                    if let Some(write) = Tag::unpack(words[word].load(Relaxed))
                        && write.is_together_with(own)
                        && write.manner == own.manner
                    {
                        let lane = both_lanes(write.lane, own.lane, false);
                        words[word].store(Tag { lane, ..write }.pack(), Relaxed);
                    }
                }
                return;
            }
        }
    }
}

fn complete_part(writes: &Tags, at: usize, part: &Part, (by, time): (Accessor<'_>, u32)) {
    loop {
        match writes.state(at) {
            State::Wide(bits) => {
                match Wide::unpack(bits).after_wait(by.clock.place(), time, part) {
                    Some(new) if writes.replace(at, bits, new.pack()) => return,
                    Some(_) => {}
                    None => writes.split(at, Wide::written_word),
                }
            }
            State::Words(words) => {
                for (word, _, _) in part.words() {
                    if let Some(store) = Tag::unpack(words[word].load(Relaxed))
                        && store.is_in_flight()
                        && (store.block, store.warp) == by.clock.place()
                    {
                        words[word].store(Tag { time, ..store }.pack(), Relaxed);
                    }
                }
                return;
            }
        }
    }
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

    /// The bytes that the bits take in the host's memory.
    pub(crate) fn bytes_held(&self) -> u64 {
        let pages = self.read.iter().chain(&self.written).flatten();
        let page = |page: &SectorPage| {
            size_of_val(page) + page.get().map_or(0, |bits| size_of_val(&**bits))
        };
        pages.map(page).sum::<usize>() as u64
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

//! A block's shared memory, with what the checks need to know of each byte.

use crate::clock::{Clock, both_lanes, byte_mask};
use crate::instruction::SHARED_START;

pub(crate) use crate::clock::WHOLE_WARP;

/// The byte was written.
const WRITTEN: u8 = 1;
/// An asynchronous copy may write the byte at any time.
const LANDING: u8 = 2;
/// Part of an mbarrier.
const MBARRIER: u8 = 4;

/// The latest time that fits the bits of a read.
const MOST_TIME: u32 = (1 << 22) - 1;

/// A block's shared memory. Addresses are offsets from the window's start.
#[derive(Debug, Default)]
pub(crate) struct Shared {
    bytes: Vec<u8>,
    flags: Vec<u8>,
    /// The last write of each word, as a [`Tag`].
    writes: Vec<u64>,
    /// The last read of each word by each warp: time and lane.
    reads: Vec<u32>,
    warps: usize,
    /// Asynchronous readers of each 16 bytes.
    readers: Vec<u16>,
    /// What the products of each warpgroup read.
    products: Vec<ProductReads>,
    checked: bool,
}

/// The last product of a warpgroup that read each 16 bytes.
#[derive(Debug)]
struct ProductReads {
    /// The warpgroup's entry in clocks.
    entry: usize,
    last: Vec<u32>,
}

/// The lane that accesses memory, and what its warp knows.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Who<'c> {
    pub clock: &'c Clock,
    pub lane: usize,
    pub strong: bool,
    /// Through the async proxy.
    pub proxy: bool,
}

/// Why an access to shared memory is a mistake.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Conflict {
    /// Not ordered after a write by lane `.1` of warp `.0`.
    Write(usize, usize),
    /// Not ordered after a read.
    Read(usize, usize),
    /// An asynchronous copy to these bytes is under way.
    Landing,
    /// An asynchronous operation still reads these bytes.
    BeingRead,
    /// The bytes are a live mbarrier.
    Mbarrier,
    /// Written by this warp and not fenced for the async proxy.
    Proxy(usize),
    /// The same, where the async proxy writes.
    ProxyWrite(usize),
}

/// One access to a word, as the shadow keeps it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Tag {
    time: u32,
    warp: usize,
    lane: usize,
    /// Bytes of the word, one bit per byte.
    bytes: u32,
    strong: bool,
    proxy: bool,
}

impl Tag {
    fn pack(self) -> u64 {
        let flags = u64::from(self.strong) << 50 | u64::from(self.proxy) << 51;
        let place = (self.warp as u64) << 32 | (self.lane as u64) << 44;
        u64::from(self.time) | place | flags | u64::from(self.bytes) << 52
    }

    fn unpack(bits: u64) -> Self {
        Self {
            time: bits as u32,
            warp: (bits >> 32 & 0xfff) as usize,
            lane: (bits >> 44 & 63) as usize,
            bytes: (bits >> 52 & 15) as u32,
            strong: bits >> 50 & 1 != 0,
            proxy: bits >> 51 & 1 != 0,
        }
    }

    /// This write and an earlier one of the same warp at the same time. Lanes that wrote
    /// the same (`changes` is false) are not in each other's way.
    fn with(self, old: Self, changes: bool) -> Self {
        if old.time != self.time || old.warp != self.warp {
            return self;
        }
        let overlap = changes && old.bytes & self.bytes != 0;
        Self {
            lane: both_lanes(old.lane, self.lane, overlap),
            bytes: old.bytes | self.bytes,
            ..self
        }
    }
}

impl Shared {
    /// `bytes` of poison, seen by `warps` warps.
    pub(crate) fn new(bytes: usize, warps: usize, checked: bool) -> Self {
        let words = if checked { bytes.div_ceil(4) } else { 0 };
        Self {
            // Poison: large negative as an integer, a NaN as any float.
            bytes: vec![0xff; bytes],
            flags: vec![0; bytes],
            writes: vec![0; words],
            reads: vec![0; words * warps],
            warps,
            readers: vec![0; bytes.div_ceil(16)],
            products: Vec::new(),
            checked,
        }
    }

    pub(crate) fn len(&self) -> usize {
        self.bytes.len()
    }

    /// Whether `bytes` from `offset` on are inside.
    pub(crate) fn contains(&self, offset: u64, bytes: u64) -> bool {
        offset >= u64::from(SHARED_START)
            && offset.saturating_add(bytes) <= self.bytes.len() as u64
    }

    #[inline]
    pub(crate) fn get(&self, offset: usize, bytes: usize) -> &[u8] {
        &self.bytes[offset..offset + bytes]
    }

    /// Whether all of the bytes were written.
    #[inline]
    pub(crate) fn is_written(&self, offset: usize, bytes: usize) -> bool {
        self.flags[offset..offset + bytes].iter().all(|flags| flags & WRITTEN != 0)
    }

    /// 16 bytes, and a bit for each that was written.
    #[inline]
    pub(crate) fn chunk(&self, offset: usize) -> (&[u8; 16], u16) {
        let bytes = self.bytes[offset..].first_chunk().unwrap_or(&[0; 16]);
        let flags = &self.flags[offset..offset + 16];
        if flags.iter().fold(WRITTEN, |all, flags| all & flags) == WRITTEN {
            return (bytes, u16::MAX);
        }
        let bits = flags.iter().enumerate();
        (bytes, bits.fold(0, |all, (n, &flags)| all | u16::from(flags & WRITTEN) << n))
    }

    /// Stores bytes; `defined` says whether their values are defined.
    #[inline]
    pub(crate) fn put(&mut self, offset: usize, bytes: &[u8], defined: bool) {
        self.bytes[offset..offset + bytes.len()].copy_from_slice(bytes);
        for flags in &mut self.flags[offset..offset + bytes.len()] {
            *flags = *flags & !WRITTEN | u8::from(defined);
        }
    }

    /// Begins, or ends, a copy that completes at an unknown time.
    pub(crate) fn landing(&mut self, offset: usize, bytes: usize, on: bool) {
        for flags in &mut self.flags[offset..offset + bytes] {
            *flags = if on { *flags | LANDING } else { *flags & !LANDING };
        }
    }

    /// A copy's bytes arrive, at a time of the clock's entry for it.
    #[inline]
    pub(crate) fn land(
        &mut self,
        offset: usize,
        bytes: &[u8],
        defined: bool,
        time: (usize, u32),
    ) {
        self.bytes[offset..offset + bytes.len()].copy_from_slice(bytes);
        for flags in &mut self.flags[offset..offset + bytes.len()] {
            *flags = *flags & !(WRITTEN | LANDING) | u8::from(defined);
        }
        self.landed(offset, bytes.len(), time, true);
    }

    /// Marks, or unmarks, the eight bytes of an mbarrier.
    pub(crate) fn mbarrier(&mut self, offset: usize, on: bool) {
        for flags in &mut self.flags[offset..offset + 8] {
            *flags = if on { MBARRIER } else { 0 };
        }
    }

    /// Begins, or ends, reads that happen at an unknown time.
    pub(crate) fn reading(&mut self, offset: usize, bytes: usize, on: bool) {
        for count in &mut self.readers[offset / 16..(offset + bytes).div_ceil(16)] {
            *count = if on { count.saturating_add(1) } else { count.saturating_sub(1) };
        }
    }

    /// Records a read and gives its conflict, if there is one.
    #[inline]
    pub(crate) fn on_read(
        &mut self,
        offset: usize,
        bytes: usize,
        who: Who<'_>,
    ) -> Option<Conflict> {
        if !self.checked {
            return None;
        }
        let flags =
            self.flags[offset..offset + bytes].iter().fold(0, |all, flags| all | flags);
        if flags & (LANDING | MBARRIER) != 0 {
            let landing = flags & LANDING != 0;
            return Some(if landing { Conflict::Landing } else { Conflict::Mbarrier });
        }
        let mut conflict = None;
        let (own, now) = (who.clock.own, who.clock.now().min(MOST_TIME));
        for word in offset / 4..(offset + bytes).div_ceil(4) {
            let mask = byte_mask(offset as u64, bytes as u64, word as u64);
            let write = self.writes[word];
            if write != 0 && conflict.is_none() {
                conflict = who.after_write(Tag::unpack(write), mask);
            }
            if !who.strong {
                let read = &mut self.reads[word * self.warps + own];
                *read = note_read(*read, now, who.lane, mask);
            }
        }
        conflict
    }

    /// Records a write and gives its conflict, if there is one. `changes` is false for a
    /// store of the value that is there already, which cannot race.
    #[inline]
    pub(crate) fn on_write(
        &mut self,
        offset: usize,
        bytes: usize,
        who: Who<'_>,
        changes: bool,
    ) -> Option<Conflict> {
        if !self.checked {
            return None;
        }
        let flags =
            self.flags[offset..offset + bytes].iter().fold(0, |all, flags| all | flags);
        if flags & (LANDING | MBARRIER) != 0 {
            let landing = flags & LANDING != 0;
            return Some(if landing { Conflict::Landing } else { Conflict::Mbarrier });
        }
        let readers = &self.readers[offset / 16..(offset + bytes).div_ceil(16)];
        if readers.iter().any(|&count| count != 0) {
            return Some(Conflict::BeingRead);
        }
        let mut conflict = None;
        if changes && !self.products.is_empty() {
            conflict = self.product_conflict(offset, bytes, who);
        }
        for word in offset / 4..(offset + bytes).div_ceil(4) {
            let mask = byte_mask(offset as u64, bytes as u64, word as u64);
            if changes && conflict.is_none() {
                conflict = self.write_conflict(word, who, mask);
            }
            let old = Tag::unpack(self.writes[word]);
            self.writes[word] = who.tag(mask).with(old, changes).pack();
        }
        conflict
    }

    fn write_conflict(&self, word: usize, who: Who<'_>, mask: u32) -> Option<Conflict> {
        let write = self.writes[word];
        if write != 0
            && let Some(conflict) = who.after_write(Tag::unpack(write), mask)
        {
            return Some(match conflict {
                Conflict::Proxy(warp) => Conflict::ProxyWrite(warp),
                other => other,
            });
        }
        let row = &self.reads[word * self.warps..(word + 1) * self.warps];
        // Most words that copies write were only read by copies and products.
        if row.iter().fold(0, |all, read| all | read) == 0 {
            return None;
        }
        for (warp, &read) in row.iter().enumerate() {
            let (time, lane) = (read >> 10, (read & 63) as usize);
            let overlaps = read >> 6 & mask != 0;
            if time != 0 && overlaps && !who.is_after(warp, time, lane) {
                return Some(Conflict::Read(warp, lane));
            }
        }
        None
    }

    /// A product that read one of these bytes and that no warp whose wait the writer knows
    /// of has waited for.
    fn product_conflict(
        &self,
        offset: usize,
        bytes: usize,
        who: Who<'_>,
    ) -> Option<Conflict> {
        let chunks = offset / 16..(offset + bytes).div_ceil(16);
        let open = self.products.iter().find(|reads| {
            let last = reads.last[chunks.clone()].iter().max();
            last.is_some_and(|&last| !who.clock.knows(reads.entry, WHOLE_WARP, last))
        })?;
        Some(Conflict::Read(open.entry, WHOLE_WARP))
    }

    /// Begins the read of 16 bytes by a product: `number` of the warpgroup with this entry
    /// in clocks. It ends by [`reading`](Self::reading), and for later writes when they
    /// know of a wait for the product.
    pub(crate) fn on_product(
        &mut self,
        offset: usize,
        who: Who<'_>,
        (entry, number): (usize, u64),
    ) -> Option<Conflict> {
        if !self.checked {
            return None;
        }
        self.reading(offset, 16, true);
        let at = self.products.iter().position(|reads| reads.entry == entry);
        let at = at.unwrap_or_else(|| {
            let last = vec![0; self.readers.len()];
            self.products.push(ProductReads { entry, last });
            self.products.len() - 1
        });
        self.products[at].last[offset / 16] = number as u32;
        let flags = self.flags[offset..offset + 16].iter().fold(0, |all, bits| all | bits);
        if flags & (LANDING | MBARRIER) != 0 {
            let landing = flags & LANDING != 0;
            return Some(if landing { Conflict::Landing } else { Conflict::Mbarrier });
        }
        let words = &self.writes[offset / 4..offset / 4 + 4];
        let written = words.iter().enumerate().filter(|&(n, &write)| {
            // A copy writes all of a chunk alike.
            write != 0 && (n == 0 || write != words[n - 1])
        });
        written
            .map(|(_, &write)| Tag::unpack(write))
            .find_map(|tag| who.after_write(tag, 15))
    }

    /// Records an asynchronous write that completed, at a time of the clock's entry for it.
    /// Bulk copies write through the async proxy, a thread's `cp.async` does not.
    pub(crate) fn landed(
        &mut self,
        offset: usize,
        bytes: usize,
        (entry, time): (usize, u32),
        proxy: bool,
    ) {
        if !self.checked {
            return;
        }
        let (warp, lane) = (entry, WHOLE_WARP);
        let new = Tag { time, warp, lane, bytes: 15, strong: false, proxy };
        self.writes[offset / 4..(offset + bytes).div_ceil(4)].fill(new.pack());
    }

    /// Records a write by one lane whose conflicts were checked before.
    pub(crate) fn note_write(&mut self, offset: usize, bytes: usize, who: Who<'_>) {
        if self.checked {
            let new = who.tag(15).pack();
            self.writes[offset / 4..(offset + bytes).div_ceil(4)].fill(new);
        }
    }
}

impl Who<'_> {
    /// Whether an access by `lane` of `warp` at `time` comes before this one.
    #[inline(always)]
    fn is_after(&self, warp: usize, time: u32, lane: usize) -> bool {
        if warp == self.clock.own {
            return self.clock.orders_lane(lane, time, self.lane);
        }
        self.clock.knows(warp, lane, time)
    }

    fn tag(&self, bytes: u32) -> Tag {
        Tag {
            time: self.clock.now(),
            warp: self.clock.own,
            lane: self.lane,
            bytes,
            strong: self.strong,
            proxy: self.proxy,
        }
    }

    /// The conflict of an access to the bytes in `mask` with the earlier `write`.
    #[inline(always)]
    fn after_write(&self, write: Tag, mask: u32) -> Option<Conflict> {
        if write.bytes & mask == 0 {
            return None;
        }
        let strong = write.strong && self.strong;
        if !strong && !self.is_after(write.warp, write.time, write.lane) {
            return Some(Conflict::Write(write.warp, write.lane));
        }
        if self.proxy
            && !write.proxy
            && !self.clock.fenced_shared.covers(write.warp, write.lane, write.time)
        {
            return Some(Conflict::Proxy(write.warp));
        }
        None
    }
}

/// A warp's latest read of a word: time, bytes and lane.
#[inline]
fn note_read(old: u32, now: u32, lane: usize, mask: u32) -> u32 {
    if old >> 10 != now {
        return now << 10 | mask << 6 | lane as u32;
    }
    let bytes = old >> 6 & 15;
    let lane = both_lanes((old & 63) as usize, lane, bytes & mask != 0);
    now << 10 | (bytes | mask) << 6 | lane as u32
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::{Home, Message};
    use crate::known::ALL_LANES;
    use std::sync::Arc;

    fn home(warps: usize) -> Arc<Home> {
        Arc::new(Home { blocks: vec![0], warps })
    }

    fn who(clock: &Clock, lane: usize) -> Who<'_> {
        Who { clock, lane, strong: false, proxy: false }
    }

    #[test]
    fn a_barrier_orders_what_nothing_else_does() {
        let mut shared = Shared::new(4096, 2, true);
        let (mut a, mut b) = (Clock::new(0, &home(2)), Clock::new(1, &home(2)));
        assert_eq!(shared.on_write(1024, 4, who(&a, 3), true), None);
        assert_eq!(shared.on_read(1024, 4, who(&a, 3)), None);
        assert_eq!(shared.on_read(1024, 4, who(&b, 0)), Some(Conflict::Write(0, 3)));
        [&mut a, &mut b].into_iter().for_each(Clock::touch);
        let mut barrier = Message::default();
        barrier.add(&a, ALL_LANES);
        barrier.add(&b, ALL_LANES);
        a.learn(&barrier);
        b.learn(&barrier);
        assert_eq!(shared.on_read(1024, 4, who(&b, 0)), None);
        assert_eq!(
            shared.on_write(1024, 4, who(&a, 3), true),
            Some(Conflict::Read(1, 0)),
            "the second read is later than the barrier"
        );
    }

    #[test]
    fn lanes_need_a_warp_barrier() {
        let mut shared = Shared::new(4096, 1, true);
        let mut clock = Clock::new(0, &home(1));
        shared.on_write(1024, 4, who(&clock, 0), true);
        assert_eq!(shared.on_read(1024, 4, who(&clock, 1)), Some(Conflict::Write(0, 0)));
        clock.converge();
        assert_eq!(shared.on_read(1024, 4, who(&clock, 1)), None);
    }

    #[test]
    fn halves_of_a_word_are_apart() {
        let mut shared = Shared::new(4096, 2, true);
        let (mut a, b) = (Clock::new(0, &home(2)), Clock::new(1, &home(2)));
        assert_eq!(shared.on_write(1024, 2, who(&a, 0), true), None);
        assert_eq!(shared.on_write(1026, 2, who(&a, 1), true), None);
        assert_eq!(shared.on_read(1026, 2, who(&b, 0)), Some(Conflict::Write(0, 33)));
        a.converge();
        shared.on_read(1028, 2, who(&a, 0));
        assert_eq!(shared.on_write(1030, 2, who(&a, 1), true), None);
        assert_eq!(shared.on_write(1028, 2, who(&a, 1), true), Some(Conflict::Read(0, 0)));
    }

    #[test]
    fn the_async_proxy_needs_its_fence() {
        let mut shared = Shared::new(4096, 1, true);
        let mut clock = Clock::new(0, &home(1));
        shared.on_write(1024, 4, who(&clock, 0), true);
        let read = |clock: &Clock, shared: &mut Shared| {
            let who = Who { clock, lane: 0, strong: false, proxy: true };
            shared.on_read(1024, 4, who)
        };
        assert_eq!(read(&clock, &mut shared), Some(Conflict::Proxy(0)));
        clock.fence_proxy((false, true), ALL_LANES);
        assert_eq!(read(&clock, &mut shared), Some(Conflict::Proxy(0)));
        clock.fence_proxy((true, false), ALL_LANES);
        assert_eq!(read(&clock, &mut shared), None);
    }
}

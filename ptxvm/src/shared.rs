//! A block's shared memory, with what the checks need to know of each byte.

use crate::clock::Clock;

/// The byte was written.
const WRITTEN: u8 = 1;
/// An asynchronous copy may write it at any time.
const LANDING: u8 = 2;
/// Part of an mbarrier.
const MBARRIER: u8 = 4;

/// All lanes of a warp at once.
pub(crate) const WHOLE_WARP: usize = 32;

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
    checked: bool,
}

/// The accessing lane, and what its warp knows.
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
    /// An asynchronous copy is on its way to these bytes.
    Landing,
    /// Something asynchronous still reads these bytes.
    BeingRead,
    /// The bytes are a live mbarrier.
    Mbarrier,
    /// Written by this warp and not fenced for the async proxy.
    Proxy(usize),
}

fn tag(warp: usize, lane: usize, time: u32, strong: bool, proxy: bool) -> u64 {
    let flags = u64::from(strong) << 50 | u64::from(proxy) << 51;
    u64::from(time) | (warp as u64) << 32 | (lane as u64) << 44 | flags
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
            checked,
        }
    }

    pub(crate) fn len(&self) -> usize {
        self.bytes.len()
    }

    /// Whether `bytes` from `offset` on are inside.
    pub(crate) fn contains(&self, offset: u64, bytes: u64) -> bool {
        offset >= u64::from(crate::decode::SHARED_START)
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

    /// Stores bytes; `defined` says whether their values mean anything.
    #[inline]
    pub(crate) fn put(&mut self, offset: usize, bytes: &[u8], defined: bool) {
        self.bytes[offset..offset + bytes.len()].copy_from_slice(bytes);
        for flags in &mut self.flags[offset..offset + bytes.len()] {
            *flags = *flags & !WRITTEN | u8::from(defined);
        }
    }

    /// Announces, or ends, a copy that lands at an unknown time.
    pub(crate) fn landing(&mut self, offset: usize, bytes: usize, on: bool) {
        for flags in &mut self.flags[offset..offset + bytes] {
            *flags = if on { *flags | LANDING } else { *flags & !LANDING };
        }
    }

    /// Marks, or unmarks, the eight bytes of an mbarrier.
    pub(crate) fn mbarrier(&mut self, offset: usize, on: bool) {
        for flags in &mut self.flags[offset..offset + 8] {
            *flags = if on { MBARRIER } else { 0 };
        }
    }

    /// Announces, or ends, reads that happen at an unknown time.
    pub(crate) fn reading(&mut self, offset: usize, bytes: usize, on: bool) {
        for count in &mut self.readers[offset / 16..(offset + bytes).div_ceil(16)] {
            *count = if on { count.saturating_add(1) } else { count.saturating_sub(1) };
        }
    }

    /// Notes a read and says whether something is wrong with it.
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
        let own = who.clock.own;
        let read = who.clock.now() << 6 | who.lane as u32;
        for word in offset / 4..(offset + bytes).div_ceil(4) {
            let write = self.writes[word];
            if write != 0 && conflict.is_none() {
                conflict = who.after_write(write);
            }
            if !who.strong {
                self.reads[word * self.warps + own] = read;
            }
        }
        conflict
    }

    /// Notes a write and says whether something is wrong with it. `changes` is false
    /// for a store of what is there already, which cannot race.
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
        let new = tag(who.clock.own, who.lane, who.clock.now(), who.strong, who.proxy);
        for word in offset / 4..(offset + bytes).div_ceil(4) {
            if changes && conflict.is_none() {
                conflict = self.write_conflict(word, who);
            }
            self.writes[word] = new;
        }
        conflict
    }

    fn write_conflict(&self, word: usize, who: Who<'_>) -> Option<Conflict> {
        let write = self.writes[word];
        if write != 0
            && let Some(conflict) = who.after_write(write)
        {
            // The order of generic and async writes is the barrier's business.
            if !matches!(conflict, Conflict::Proxy(_)) {
                return Some(conflict);
            }
        }
        let row = &self.reads[word * self.warps..(word + 1) * self.warps];
        for (warp, &read) in row.iter().enumerate() {
            let (time, lane) = (read >> 6, (read & 63) as usize);
            if time != 0 && !who.is_after(warp, time, lane) {
                return Some(Conflict::Read(warp, lane));
            }
        }
        None
    }

    /// An asynchronous write has landed, as the `time`-th of all.
    pub(crate) fn landed(&mut self, offset: usize, bytes: usize, time: u32) {
        if !self.checked {
            return;
        }
        let new = tag(self.warps, WHOLE_WARP, time, false, true);
        self.writes[offset / 4..(offset + bytes).div_ceil(4)].fill(new);
    }

    /// A write by one lane whose conflicts were looked at before.
    pub(crate) fn note_write(&mut self, offset: usize, bytes: usize, who: Who<'_>) {
        if self.checked {
            let new = tag(who.clock.own, who.lane, who.clock.now(), who.strong, who.proxy);
            self.writes[offset / 4..(offset + bytes).div_ceil(4)].fill(new);
        }
    }
}

impl Who<'_> {
    /// Whether an access by `lane` of `warp` at `time` comes before this one.
    #[inline]
    fn is_after(&self, warp: usize, time: u32, lane: usize) -> bool {
        if warp == self.clock.own {
            return lane == self.lane || time < self.clock.converged;
        }
        self.clock.knows(warp, time)
    }

    #[inline]
    fn after_write(&self, write: u64) -> Option<Conflict> {
        let (time, warp) = (write as u32, (write >> 32 & 0xfff) as usize);
        let lane = (write >> 44 & 63) as usize;
        let strong = write >> 50 & 1 != 0 && self.strong;
        if !strong && !self.is_after(warp, time, lane) {
            return Some(Conflict::Write(warp, lane));
        }
        let generic = write >> 51 & 1 == 0;
        if self.proxy && generic && self.clock.fenced[warp] < time {
            return Some(Conflict::Proxy(warp));
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::Message;

    fn who(clock: &Clock, lane: usize) -> Who<'_> {
        Who { clock, lane, strong: false, proxy: false }
    }

    #[test]
    fn a_barrier_orders_what_nothing_else_does() {
        let mut shared = Shared::new(4096, 2, true);
        let (mut a, mut b) = (Clock::new(0, 2), Clock::new(1, 2));
        assert_eq!(shared.on_write(1024, 4, who(&a, 3), true), None);
        assert_eq!(shared.on_read(1024, 4, who(&a, 3)), None);
        assert_eq!(shared.on_read(1024, 4, who(&b, 0)), Some(Conflict::Write(0, 3)));
        let mut barrier = Message::default();
        barrier.add(&a);
        barrier.add(&b);
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
        let mut clock = Clock::new(0, 1);
        shared.on_write(1024, 4, who(&clock, 0), true);
        assert_eq!(shared.on_read(1024, 4, who(&clock, 1)), Some(Conflict::Write(0, 0)));
        clock.converge();
        assert_eq!(shared.on_read(1024, 4, who(&clock, 1)), None);
    }

    #[test]
    fn the_async_proxy_needs_its_fence() {
        let mut shared = Shared::new(4096, 1, true);
        let mut clock = Clock::new(0, 1);
        shared.on_write(1024, 4, who(&clock, 0), true);
        let read = |clock: &Clock, shared: &mut Shared| {
            let who = Who { clock, lane: 0, strong: false, proxy: true };
            shared.on_read(1024, 4, who)
        };
        assert_eq!(read(&clock, &mut shared), Some(Conflict::Proxy(0)));
        clock.fence_proxy();
        assert_eq!(read(&clock, &mut shared), None);
    }
}

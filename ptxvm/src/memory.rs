//! The device's global memory.
//!
//! Words are atomics, so that blocks may run on several threads of the host. One more
//! bit per byte says whether it was ever written.
//!
//! Memory is made page by page, where it is first needed: a buffer of tens of GiB costs
//! what a launch touches of it. What the host does to whole ranges (a fill, contents that
//! are computed when they are needed) is kept and done to a page when it is made.

use std::collections::HashMap;
use std::fmt;
use std::ops::Range;
use std::sync::atomic::{AtomicU32, Ordering::Relaxed};
use std::sync::{Arc, OnceLock};

use crate::finding::FindingKind;

/// A place in global memory.
pub type Address = u64;

/// Where the first allocation lies.
const FIRST: u64 = 0x10_0000_0000;
/// What the driver's allocations are aligned to.
const ALIGN: u64 = 256;
/// The least distance between two allocations.
const GAP: u64 = 1 << 16;

/// Bytes of a page.
const PAGE_BYTES: u64 = 1 << 14;
const PAGE_WORDS: usize = PAGE_BYTES as usize / 4;
const PAGE_MASKS: usize = PAGE_BYTES as usize / 32;

/// Some of an allocation's memory.
#[derive(Debug)]
struct Page {
    words: [AtomicU32; PAGE_WORDS],
    /// One bit per byte.
    written: [AtomicU32; PAGE_MASKS],
}

impl Page {
    fn zeros() -> Box<Self> {
        Box::new(Self {
            words: [const { AtomicU32::new(0) }; PAGE_WORDS],
            written: [const { AtomicU32::new(0) }; PAGE_MASKS],
        })
    }

    /// Copies bytes from `offset` in the page on.
    #[inline]
    fn read(&self, offset: u64, out: &mut [u8]) {
        if offset.is_multiple_of(4) && out.len().is_multiple_of(4) {
            let first = (offset / 4) as usize;
            let words = &self.words[first..first + out.len() / 4];
            for (bytes, word) in out.chunks_exact_mut(4).zip(words) {
                bytes.copy_from_slice(&word.load(Relaxed).to_le_bytes());
            }
            return;
        }
        for (at, byte) in (offset..).zip(out) {
            *byte = (self.words[(at / 4) as usize].load(Relaxed) >> (8 * (at % 4))) as u8;
        }
    }

    /// Stores bytes from `offset` in the page on, and marks them written.
    #[inline]
    fn write(&self, offset: u64, bytes: &[u8]) {
        if offset.is_multiple_of(4) && bytes.len().is_multiple_of(4) {
            let first = (offset / 4) as usize;
            let words = &self.words[first..first + bytes.len() / 4];
            for (bytes, word) in bytes.chunks_exact(4).zip(words) {
                let value = bytes.try_into().map(u32::from_le_bytes).unwrap_or_default();
                word.store(value, Relaxed);
            }
        } else {
            for (at, &byte) in (offset..).zip(bytes) {
                let shift = 8 * (at % 4);
                let merge =
                    |word: u32| Some(word & !(0xff << shift) | u32::from(byte) << shift);
                // Infallible: the closure always returns a value.
                let _ = self.words[(at / 4) as usize].fetch_update(Relaxed, Relaxed, merge);
            }
        }
        for_masks(offset, bytes.len() as u64, |index, mask| {
            let word = &self.written[index];
            if word.load(Relaxed) & mask != mask {
                word.fetch_or(mask, Relaxed);
            }
        });
    }

    fn forget(&self, offset: u64, bytes: u64) {
        for_masks(offset, bytes, |index, mask| {
            self.written[index].fetch_and(!mask, Relaxed);
        });
    }

    /// Whether all of the bytes were ever written.
    #[inline]
    fn is_written(&self, offset: u64, bytes: u64) -> bool {
        let mut all = true;
        for_masks(offset, bytes, |index, mask| {
            all &= self.written[index].load(Relaxed) & mask == mask;
        });
        all
    }

    /// Does the part of `change` that lies in this page, whose first byte is `base` of the
    /// allocation.
    fn apply(&self, base: u64, change: &Change) {
        let range = &change.range;
        let (from, to) = (range.start.max(base), range.end.min(base + PAGE_BYTES));
        if from >= to {
            return;
        }
        let mut bytes = vec![0; (to - from) as usize];
        match &change.what {
            What::Fill(value) => bytes.fill(*value),
            What::Make(make) => make(from - range.start, &mut bytes),
            What::Forget => return self.forget(from - base, to - from),
        }
        self.write(from - base, &bytes);
    }
}

/// Makes the bytes of a range from an offset in it on.
type Make = dyn Fn(u64, &mut [u8]) + Send + Sync;

/// What the host does to a range of an allocation.
#[derive(Clone)]
enum What {
    Fill(u8),
    Make(Arc<Make>),
    /// It counts as never written.
    Forget,
}

#[derive(Clone)]
struct Change {
    range: Range<u64>,
    what: What,
}

impl fmt::Debug for Change {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let what = match &self.what {
            What::Fill(value) => format!("fill with {value:#x}"),
            What::Make(_) => "make".to_owned(),
            What::Forget => "forget".to_owned(),
        };
        write!(f, "{what} {:?}", self.range)
    }
}

/// One allocation.
#[derive(Debug)]
pub(crate) struct Allocation {
    pub base: u64,
    pub bytes: u64,
    pub name: String,
    pub live: bool,
    /// Whether no launch writes to it.
    pub settled: bool,
    pages: Vec<OnceLock<Box<Page>>>,
    /// What pages begin with that were not made yet, in order.
    changes: Vec<Change>,
}

/// Global memory: allocations, with gaps between them that are not allocated.
#[derive(Debug, Default)]
pub struct Memory {
    pub(crate) allocations: Vec<Allocation>,
    next: u64,
    /// Addresses of modules' variables, by module.
    pub(crate) modules: HashMap<u64, Vec<u64>>,
}

/// Why an access is not inside of an allocation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Missing {
    pub kind: FindingKind,
    pub allocation: Option<String>,
    pub detail: String,
}

/// The part of `bytes` from `offset` on that lies in one page: the page's number, the
/// offset in it, and the part's length.
#[inline]
fn first_part(offset: u64, bytes: u64) -> (usize, u64, u64) {
    let inside = offset % PAGE_BYTES;
    ((offset / PAGE_BYTES) as usize, inside, bytes.min(PAGE_BYTES - inside))
}

impl Allocation {
    fn new(base: u64, bytes: u64, name: &str) -> Self {
        let pages = (0..bytes.div_ceil(PAGE_BYTES)).map(|_| OnceLock::new()).collect();
        let name = name.to_owned();
        Self { base, bytes, name, live: true, settled: false, pages, changes: Vec::new() }
    }

    /// Its bytes that can be reached: none after it was freed.
    pub(crate) fn live_bytes(&self) -> u64 {
        self.bytes * u64::from(self.live)
    }

    /// A page that is or may have been written; `None` for one of zeros that were not.
    #[inline]
    fn page(&self, index: usize) -> Option<&Page> {
        match self.pages[index].get() {
            Some(page) => Some(page),
            None if self.changes.is_empty() => None,
            None => Some(self.make(index)),
        }
    }

    #[cold]
    fn make(&self, index: usize) -> &Page {
        self.pages[index].get_or_init(|| {
            let (page, base) = (Page::zeros(), index as u64 * PAGE_BYTES);
            self.changes.iter().for_each(|change| page.apply(base, change));
            page
        })
    }

    /// Copies bytes from `offset` on.
    #[inline]
    pub(crate) fn read(&self, mut offset: u64, mut out: &mut [u8]) {
        while !out.is_empty() {
            let (index, inside, count) = first_part(offset, out.len() as u64);
            let (now, later) = out.split_at_mut(count as usize);
            match self.page(index) {
                Some(page) => page.read(inside, now),
                None => now.fill(0),
            }
            (out, offset) = (later, offset + count);
        }
    }

    /// Stores bytes from `offset` on and marks them written.
    #[inline]
    pub(crate) fn write(&self, mut offset: u64, mut bytes: &[u8]) {
        while !bytes.is_empty() {
            let (index, inside, count) = first_part(offset, bytes.len() as u64);
            let (now, later) = bytes.split_at(count as usize);
            let page = self.pages[index].get();
            page.map(|page| &**page).unwrap_or_else(|| self.make(index)).write(inside, now);
            (bytes, offset) = (later, offset + count);
        }
    }

    /// Whether all of the bytes were ever written.
    #[inline]
    pub(crate) fn is_written(&self, mut offset: u64, mut bytes: u64) -> bool {
        while bytes > 0 {
            let (index, inside, count) = first_part(offset, bytes);
            if !self.page(index).is_some_and(|page| page.is_written(inside, count)) {
                return false;
            }
            (offset, bytes) = (offset + count, bytes - count);
        }
        true
    }

    /// Does something to a range: now where its pages exist, else when they are made.
    fn change(&mut self, range: Range<u64>, what: What) {
        let change = Change { range, what };
        let replaces = !matches!(change.what, What::Forget);
        if replaces && change.range == (0..self.bytes) {
            self.pages.iter_mut().for_each(|page| drop(page.take()));
            self.changes.clear();
        }
        let first = (change.range.start / PAGE_BYTES) as usize;
        let end = change.range.end.div_ceil(PAGE_BYTES) as usize;
        for (index, page) in self.pages.iter().enumerate().take(end).skip(first) {
            if let Some(page) = page.get() {
                page.apply(index as u64 * PAGE_BYTES, &change);
            }
        }
        self.changes.push(change);
    }
}

/// Walks the words of a bit-per-byte map that `bytes` from `offset` touch.
#[inline]
fn for_masks(offset: u64, bytes: u64, mut f: impl FnMut(usize, u32)) {
    let (mut at, end) = (offset, offset + bytes);
    while at < end {
        let first = at % 32;
        let count = (32 - first).min(end - at);
        f((at / 32) as usize, ((u64::MAX >> (64 - count)) << first) as u32);
        at += count;
    }
}

impl Memory {
    /// Empty memory.
    pub fn new() -> Self {
        Self { next: FIRST, ..Self::default() }
    }

    /// Allocates `bytes`, unwritten; findings use `name`.
    pub fn alloc(&mut self, bytes: u64, name: &str) -> Address {
        let base = self.next.max(FIRST);
        self.next = (base + bytes + GAP).next_multiple_of(ALIGN.max(GAP));
        self.allocations.push(Allocation::new(base, bytes, name));
        base
    }

    /// Declares that no launch writes to an allocation, so that those which overlap the launch
    /// before may read it at once ([`crate::Launch::overlaps_previous`]).
    ///
    /// # Panics
    /// If nothing is allocated at `address`.
    pub fn settle(&mut self, address: Address) {
        let found = self.allocations.iter_mut().find(|a| a.base == address && a.live);
        found.expect("an address that was allocated").settled = true;
    }

    /// Frees an allocation. Its addresses are not used again.
    ///
    /// # Panics
    /// If nothing is allocated at `address`.
    pub fn free(&mut self, address: Address) {
        let found = self.allocations.iter_mut().find(|a| a.base == address && a.live);
        let allocation = found.expect("free of an address that was not allocated");
        allocation.live = false;
        allocation.pages = Vec::new();
        allocation.changes = Vec::new();
    }

    /// Copies `bytes` to `address`.
    ///
    /// # Panics
    /// If they do not fit into one allocation.
    pub fn write(&mut self, address: Address, bytes: &[u8]) {
        let (index, offset) = self.expect(address, bytes.len() as u64);
        self.allocations[index].write(offset, bytes);
    }

    /// Sets every one of `bytes` bytes at `address` to `value`.
    ///
    /// # Panics
    /// If they do not lie in one allocation.
    pub fn fill(&mut self, address: Address, bytes: u64, value: u8) {
        self.change(address, bytes, What::Fill(value));
    }

    /// Sets `bytes` bytes at `address` to what `make` gives, which is asked when and where
    /// they are first needed: it writes those from an offset in the range on into a slice.
    /// The same offset must always get the same byte.
    ///
    /// ```
    /// let mut memory = ptxvm::Memory::new();
    /// let counts = memory.alloc(64 << 30, "64 GiB");
    /// memory.fill_with(counts, 64 << 30, |first, bytes| {
    ///     (first..).zip(bytes).for_each(|(at, byte)| *byte = at as u8);
    /// });
    /// assert_eq!(memory.read(counts + (60 << 30) + 7, 2), [7, 8]);
    /// ```
    ///
    /// # Panics
    /// If they do not lie in one allocation.
    pub fn fill_with(
        &mut self,
        address: Address,
        bytes: u64,
        make: impl Fn(u64, &mut [u8]) + Send + Sync + 'static,
    ) {
        self.change(address, bytes, What::Make(Arc::new(make)));
    }

    fn change(&mut self, address: Address, bytes: u64, what: What) {
        let (index, offset) = self.expect(address, bytes);
        self.allocations[index].change(offset..offset + bytes, what);
    }

    /// Reads `bytes` bytes at `address`; unwritten ones are zero.
    ///
    /// # Panics
    /// If they do not lie in one allocation.
    pub fn read(&self, address: Address, bytes: usize) -> Vec<u8> {
        let (index, offset) = self.expect(address, bytes as u64);
        let mut out = vec![0; bytes];
        self.allocations[index].read(offset, &mut out);
        out
    }

    /// Whether every one of the bytes was written, by the host or a kernel.
    ///
    /// # Panics
    /// If they do not lie in one allocation.
    pub fn is_written(&self, address: Address, bytes: u64) -> bool {
        let (index, offset) = self.expect(address, bytes);
        self.allocations[index].is_written(offset, bytes)
    }

    /// Whether any of the pages (16 KiB each) that hold these bytes was read or written by
    /// the host or a kernel since it was last filled as part of its whole allocation.
    ///
    /// # Panics
    /// If they do not lie in one allocation.
    pub fn is_touched(&self, address: Address, bytes: u64) -> bool {
        let (index, offset) = self.expect(address, bytes);
        let pages = offset / PAGE_BYTES..(offset + bytes).div_ceil(PAGE_BYTES);
        let pages =
            &self.allocations[index].pages[pages.start as usize..pages.end as usize];
        pages.iter().any(|page| page.get().is_some())
    }

    /// Bytes of the host's memory that the allocations take: the pages that exist, with a
    /// bit for each byte that says whether it was written.
    pub fn bytes_held(&self) -> u64 {
        let pages = self.allocations.iter().flat_map(|allocation| &allocation.pages);
        let page = |page: &OnceLock<Box<Page>>| {
            size_of_val(page) + page.get().map_or(0, |_| size_of::<Page>())
        };
        pages.map(page).sum::<usize>() as u64
    }

    /// Marks bytes as never written, as in a new allocation.
    ///
    /// # Panics
    /// If they do not lie in one allocation.
    pub fn forget(&mut self, address: Address, bytes: u64) {
        self.change(address, bytes, What::Forget);
    }

    fn expect(&self, address: Address, bytes: u64) -> (usize, u64) {
        match self.find(address, bytes) {
            Ok(index) => (index, address - self.allocations[index].base),
            Err(missing) => panic!("{address:#x}: {}", missing.detail),
        }
    }

    /// The allocation that holds `bytes` from `address` on.
    #[inline]
    pub(crate) fn find(&self, address: u64, bytes: u64) -> Result<usize, Missing> {
        let after = self.allocations.partition_point(|a| a.base <= address);
        if let Some(index) = after.checked_sub(1) {
            let allocation = &self.allocations[index];
            let inside = (address - allocation.base).saturating_add(bytes);
            if inside <= allocation.bytes && allocation.live {
                return Ok(index);
            }
        }
        Err(self.missing(address, bytes))
    }

    #[cold]
    fn missing(&self, address: u64, bytes: u64) -> Missing {
        let after = self.allocations.partition_point(|a| a.base <= address);
        let before = after.checked_sub(1).map(|index| &self.allocations[index]);
        let next = self.allocations.get(after);
        let near = before
            .filter(|a| address - a.base < a.bytes + GAP)
            .or(next.filter(|a| a.base - address < GAP));
        let Some(allocation) = near else {
            return Missing {
                kind: FindingKind::OutOfBounds,
                allocation: None,
                detail: format!("{bytes} bytes outside of every allocation"),
            };
        };
        let offset = address as i64 - allocation.base as i64;
        let inside = offset >= 0 && (offset as u64) < allocation.bytes;
        let freed = !allocation.live && inside;
        let kind = if freed { FindingKind::UseAfterFree } else { FindingKind::OutOfBounds };
        let (name, size) = (&allocation.name, allocation.bytes);
        Missing {
            kind,
            allocation: Some(name.clone()),
            detail: format!(
                "{bytes} bytes at offset {offset} of {name}, which has {size} bytes"
            ),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_come_back() {
        let mut memory = Memory::new();
        let a = memory.alloc(10, "a");
        memory.write(a + 1, &[1, 2, 3, 4, 5]);
        assert_eq!(memory.read(a, 10), [0, 1, 2, 3, 4, 5, 0, 0, 0, 0]);
        assert!(memory.is_written(a + 1, 5));
        assert!(!memory.is_written(a, 2));
        memory.write(a, &[7; 10]);
        assert!(memory.is_written(a, 10));
        memory.forget(a + 3, 1);
        assert!(!memory.is_written(a, 10));
        assert!(memory.is_written(a + 4, 6));
    }

    /// A buffer larger than this machine's memory, of which a few pages exist.
    #[test]
    fn only_what_is_touched_costs_memory() {
        let mut memory = Memory::new();
        let bytes = 256 << 30;
        let a = memory.alloc(bytes, "a");
        assert_eq!(memory.read(a + bytes - 3, 3), [0; 3]);
        assert!(!memory.is_written(a, bytes));
        memory.fill_with(a, bytes, |first, to| {
            (first..).zip(to).for_each(|(at, byte)| *byte = (at % 251) as u8);
        });
        let far = 200 << 30;
        assert_eq!(memory.read(a + far, 1), [(far % 251) as u8]);
        assert!(memory.is_written(a + far - PAGE_BYTES, 2 * PAGE_BYTES));
        let exist = |memory: &Memory| {
            memory.allocations[0].pages.iter().filter(|page| page.get().is_some()).count()
        };
        assert!(exist(&memory) <= 4, "{} pages exist", exist(&memory));
        memory.fill(a, bytes, 0);
        assert_eq!(exist(&memory), 0);
        assert_eq!(memory.read(a + far, 2), [0; 2]);
    }

    /// Whatever is done to bytes before and after their page exists, the last counts.
    #[test]
    fn changes_apply_in_order() {
        for touched in [false, true] {
            let mut memory = Memory::new();
            let bytes = 3 * PAGE_BYTES;
            let a = memory.alloc(bytes, "a");
            let touch = |memory: &mut Memory| {
                if touched {
                    memory.is_written(a, bytes);
                    memory.write(a + PAGE_BYTES, &[9; PAGE_BYTES as usize]);
                }
            };
            memory.fill(a, bytes, 7);
            touch(&mut memory);
            memory.fill_with(a + 10, 2 * PAGE_BYTES, |first, to| {
                (first..).zip(to).for_each(|(at, byte)| *byte = at as u8);
            });
            memory.forget(a + 20, PAGE_BYTES);
            memory.write(a + 30, &[5, 5]);
            assert_eq!(memory.read(a + 8, 4), [7, 7, 0, 1], "{touched}");
            assert_eq!(memory.read(a + 29, 4), [19, 5, 5, 22], "{touched}");
            let last = 10 + 2 * PAGE_BYTES;
            let end = memory.read(a + last - 1, 2);
            assert_eq!(end, [(2 * PAGE_BYTES - 1) as u8, 7], "{touched}");
            assert!(memory.is_written(a, 20) && memory.is_written(a + 30, 2));
            assert!(!memory.is_written(a + 20, 1) && !memory.is_written(a + 32, 1));
            assert!(!memory.is_written(a + 19 + PAGE_BYTES, 1));
            assert!(memory.is_written(a + 20 + PAGE_BYTES, bytes - 20 - PAGE_BYTES));
        }
    }

    #[test]
    fn what_is_missing_is_named() {
        let mut memory = Memory::new();
        let a = memory.alloc(100, "first");
        let b = memory.alloc(100, "second");
        assert!(b - a >= 100 + GAP);
        let past = memory.find(a + 98, 4).unwrap_err();
        assert_eq!(past.kind, FindingKind::OutOfBounds);
        assert!(past.detail.contains("offset 98 of first"), "{}", past.detail);
        assert!(memory.find(b - 4, 4).unwrap_err().detail.contains("offset -4 of second"));
        memory.free(a);
        assert_eq!(memory.find(a + 4, 4).unwrap_err().kind, FindingKind::UseAfterFree);
        assert_eq!(memory.find(0, 4).unwrap_err().allocation, None);
    }
}

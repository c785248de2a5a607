//! The device's global memory.
//!
//! Words are atomics, so that blocks may run on several threads of the host. One more
//! bit per byte says whether it was ever written.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering::Relaxed};

use crate::finding::FindingKind;

/// A place in global memory.
pub type Address = u64;

/// Where the first allocation lies.
const FIRST: u64 = 0x10_0000_0000;
/// What the driver's allocations are aligned to.
const ALIGN: u64 = 256;
/// The least distance between two allocations.
const GAP: u64 = 1 << 16;

/// One allocation.
#[derive(Debug)]
pub(crate) struct Allocation {
    pub base: u64,
    pub bytes: u64,
    pub name: String,
    pub live: bool,
    words: Vec<AtomicU32>,
    /// One bit per byte.
    written: Vec<AtomicU32>,
    /// All bits of `written` are set.
    whole: AtomicBool,
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

impl Allocation {
    fn new(base: u64, bytes: u64, name: &str) -> Self {
        let zeros = |count: u64| (0..count).map(|_| AtomicU32::new(0)).collect();
        Self {
            base,
            bytes,
            name: name.to_owned(),
            live: true,
            words: zeros(bytes.div_ceil(4)),
            written: zeros(bytes.div_ceil(32)),
            whole: AtomicBool::new(false),
        }
    }

    /// Its bytes that can be reached: none after it was freed.
    pub(crate) fn live_bytes(&self) -> u64 {
        self.bytes * u64::from(self.live)
    }

    /// The 32-bit word of index `index`.
    #[inline]
    pub(crate) fn word(&self, index: u64) -> &AtomicU32 {
        &self.words[index as usize]
    }

    /// Copies bytes from `offset` on.
    #[inline]
    pub(crate) fn read(&self, offset: u64, out: &mut [u8]) {
        if offset.is_multiple_of(4) && out.len().is_multiple_of(4) {
            let first = (offset / 4) as usize;
            let words = &self.words[first..first + out.len() / 4];
            for (bytes, word) in out.chunks_exact_mut(4).zip(words) {
                bytes.copy_from_slice(&word.load(Relaxed).to_le_bytes());
            }
            return;
        }
        for (n, byte) in out.iter_mut().enumerate() {
            let at = offset + n as u64;
            *byte = (self.word(at / 4).load(Relaxed) >> (8 * (at % 4))) as u8;
        }
    }

    /// Stores bytes from `offset` on and marks them written.
    #[inline]
    pub(crate) fn write(&self, offset: u64, bytes: &[u8]) {
        if offset.is_multiple_of(4) && bytes.len().is_multiple_of(4) {
            let first = (offset / 4) as usize;
            let words = &self.words[first..first + bytes.len() / 4];
            for (bytes, word) in bytes.chunks_exact(4).zip(words) {
                let value = bytes.try_into().map(u32::from_le_bytes).unwrap_or_default();
                word.store(value, Relaxed);
            }
        } else {
            for (n, &byte) in bytes.iter().enumerate() {
                let at = offset + n as u64;
                let shift = 8 * (at % 4);
                let merge =
                    |word: u32| Some(word & !(0xff << shift) | u32::from(byte) << shift);
                // Infallible: the closure always returns a value.
                let _ = self.word(at / 4).fetch_update(Relaxed, Relaxed, merge);
            }
        }
        self.mark(offset, bytes.len() as u64);
    }

    fn mark(&self, offset: u64, bytes: u64) {
        if self.whole.load(Relaxed) {
            return;
        }
        if offset == 0 && bytes == self.bytes {
            self.whole.store(true, Relaxed);
        }
        for_masks(offset, bytes, |index, mask| {
            let word = &self.written[index];
            if word.load(Relaxed) & mask != mask {
                word.fetch_or(mask, Relaxed);
            }
        });
    }

    /// Marks bytes as never written.
    pub(crate) fn unmark(&self, offset: u64, bytes: u64) {
        if self.whole.swap(false, Relaxed) {
            self.written.iter().for_each(|word| word.store(u32::MAX, Relaxed));
        }
        for_masks(offset, bytes, |index, mask| {
            self.written[index].fetch_and(!mask, Relaxed);
        });
    }

    /// Whether all of the bytes were ever written.
    #[inline]
    pub(crate) fn is_written(&self, offset: u64, bytes: u64) -> bool {
        if self.whole.load(Relaxed) {
            return true;
        }
        let mut all = true;
        for_masks(offset, bytes, |index, mask| {
            all &= self.written[index].load(Relaxed) & mask == mask;
        });
        all
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

    /// Frees an allocation. Its addresses are not used again.
    ///
    /// # Panics
    /// If nothing is allocated at `address`.
    pub fn free(&mut self, address: Address) {
        let found = self.allocations.iter_mut().find(|a| a.base == address && a.live);
        let allocation = found.expect("free of an address that was not allocated");
        allocation.live = false;
        allocation.words = Vec::new();
        allocation.written = Vec::new();
    }

    /// Copies `bytes` to `address`.
    ///
    /// # Panics
    /// If they do not fit into one allocation.
    pub fn write(&mut self, address: Address, bytes: &[u8]) {
        let (index, offset) = self.expect(address, bytes.len());
        self.allocations[index].write(offset, bytes);
    }

    /// Reads `bytes` bytes at `address`; unwritten ones are zero.
    ///
    /// # Panics
    /// If they do not lie in one allocation.
    pub fn read(&self, address: Address, bytes: usize) -> Vec<u8> {
        let (index, offset) = self.expect(address, bytes);
        let mut out = vec![0; bytes];
        self.allocations[index].read(offset, &mut out);
        out
    }

    /// Whether every one of the bytes was written, by the host or a kernel.
    ///
    /// # Panics
    /// If they do not lie in one allocation.
    pub fn is_written(&self, address: Address, bytes: usize) -> bool {
        let (index, offset) = self.expect(address, bytes);
        self.allocations[index].is_written(offset, bytes as u64)
    }

    /// Marks bytes as never written, as in a new allocation.
    ///
    /// # Panics
    /// If they do not lie in one allocation.
    pub fn forget(&mut self, address: Address, bytes: usize) {
        let (index, offset) = self.expect(address, bytes);
        self.allocations[index].unmark(offset, bytes as u64);
    }

    fn expect(&self, address: Address, bytes: usize) -> (usize, u64) {
        match self.find(address, bytes as u64) {
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

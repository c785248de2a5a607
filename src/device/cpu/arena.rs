//! The memory that all buffers lie in: one mapping, kept from point to point within a
//! round of a campaign.
//! The first touch of fresh memory costs up to a second per GiB in a virtual
//! machine, so memory that was touched once is used again, and the mapping
//! reserves room to grow: pages cost nothing until they are touched.

use std::io;

use memmap2::{MmapMut, MmapOptions};

/// Tensors begin at multiples of a cache line.
const ALIGNMENT: usize = 64;

/// One anonymous mapping.
pub struct Arena {
    reserve: usize,
    mapping: Option<MmapMut>,
}

impl Arena {
    /// An arena that expects to need up to `reserve` bytes.
    pub fn new(reserve: usize) -> Self {
        Arena { reserve, mapping: None }
    }

    /// Returns all memory to the system, so that what is taken next has other pages.
    pub fn give_back(&mut self) {
        self.mapping = None;
    }

    /// The first `bytes` of the mapping, with whatever was left in them.
    ///
    /// # Errors
    /// When the system gives no mapping of that size.
    pub fn take(&mut self, bytes: usize) -> io::Result<&mut [u8]> {
        if self.mapping.as_ref().is_none_or(|m| m.len() < bytes) {
            // The old mapping goes first, so that both need not fit at once.
            self.mapping = None;
            let bytes = bytes.max(ALIGNMENT);
            let map = |bytes| MmapOptions::new().len(bytes).no_reserve_swap().map_anon();
            // A system that does not hand out more than it has gets asked for
            // what is needed now.
            let mapping = map(bytes.max(self.reserve)).or_else(|_| map(bytes))?;
            // Huge pages keep misses of the address cache out of the
            // measurement. A system without them runs all the same.
            #[cfg(target_os = "linux")]
            let _ = mapping.advise(memmap2::Advice::HugePage);
            self.mapping = Some(mapping);
        }
        Ok(self.mapping.as_deref_mut().map_or(&mut [], |m| &mut m[..bytes]))
    }
}

/// Cuts `bytes` off the front of `rest`, and the padding after them.
///
/// # Panics
/// When `rest` is too short.
pub fn carve<'a>(rest: &mut &'a mut [u8], bytes: usize) -> &'a mut [u8] {
    let whole = std::mem::take(rest);
    let (tensor, after) = whole.split_at_mut(bytes.next_multiple_of(ALIGNMENT));
    *rest = after;
    &mut tensor[..bytes]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tensors_are_aligned_and_apart() {
        let mut arena = Arena::new(0);
        let mut rest = arena.take(3 * 64).unwrap();
        let a = carve(&mut rest, 4);
        let b = carve(&mut rest, 65);
        assert_eq!((a.len(), b.len(), rest.len()), (4, 65, 0));
        assert_eq!(a.as_ptr().addr() % 64, 0);
        assert_eq!(b.as_ptr().addr() - a.as_ptr().addr(), 64);
    }

    #[test]
    fn memory_is_kept_and_grown() {
        let mut arena = Arena::new(4096);
        arena.take(100).unwrap().fill(7);
        assert_eq!(arena.take(50).unwrap(), [7; 50]);
        assert_eq!(arena.take(4096).unwrap()[..100], [7; 100]);
        assert_eq!(arena.take(1 << 20).unwrap().len(), 1 << 20);
        assert_eq!(arena.take(0).unwrap().len(), 0);
    }
}

//! Ranges of the host's memory, as the driver is given them.

#![allow(unsafe_code, reason = "the driver copies to and from memory of its caller")]

use std::ptr;

/// Bytes of the host.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HostRange {
    address: usize,
    bytes: usize,
}

impl HostRange {
    /// A range that begins at a pointer.
    ///
    /// # Safety
    /// Until all that is queued with it has run, the memory stays allocated and
    /// initialized, and nothing else reads or writes it while a call of the driver runs.
    pub unsafe fn new(start: *mut u8, bytes: usize) -> Self {
        HostRange { address: start.expose_provenance(), bytes }
    }

    /// Where it begins.
    pub const fn address(&self) -> usize {
        self.address
    }

    /// Its size in bytes.
    pub const fn bytes(&self) -> usize {
        self.bytes
    }

    /// Whether another range lies in it.
    pub const fn contains(&self, other: &HostRange) -> bool {
        other.address >= self.address
            && other.address - self.address <= self.bytes
            && other.bytes <= self.bytes - (other.address - self.address)
    }

    /// What it holds.
    pub fn read(&self) -> Vec<u8> {
        let mut bytes = vec![0; self.bytes];
        let from = ptr::with_exposed_provenance::<u8>(self.address);
        // SAFETY: the range is allocated and initialized, see `new`.
        unsafe { from.copy_to_nonoverlapping(bytes.as_mut_ptr(), self.bytes) };
        bytes
    }

    /// Writes as many bytes as it has.
    ///
    /// # Panics
    /// If there are more or fewer.
    pub fn write(&self, bytes: &[u8]) {
        assert_eq!(bytes.len(), self.bytes, "bytes of another number than the range has");
        let to = ptr::with_exposed_provenance_mut::<u8>(self.address);
        // SAFETY: the range is allocated, and nobody else uses it now, see `new`.
        unsafe { to.copy_from_nonoverlapping(bytes.as_ptr(), self.bytes) };
    }
}

//! Memory of the host that the device copies to and from.
//!
//! # Safety
//! A copy may be under way long after it was queued. Everything that reads or writes the
//! host's side, and giving it back, therefore waits for the whole context first; a graph
//! keeps what its copies refer to.

use std::alloc::{Layout, alloc_zeroed, dealloc};
use std::ptr;
use std::rc::Rc;

use super::super::error::{DriverError, Result};
use super::context::{Context, call};
use crate::format::HostMemory;

/// Pageable memory begins at a page.
const PAGE_BYTES: usize = 4096;

/// A range of the host's memory.
#[derive(Debug)]
pub struct HostBuffer {
    start: ptr::NonNull<u8>,
    bytes: usize,
    memory: HostMemory,
    context: Rc<Context>,
}

fn out_of_memory(call: &'static str) -> DriverError {
    let name = "CUDA_ERROR_OUT_OF_MEMORY".to_owned();
    DriverError::Call { call, name, description: "a null pointer".to_owned() }
}

impl HostBuffer {
    /// Allocates at least one byte, and sets all to 0.
    ///
    /// # Errors
    /// Memory that is short, see [`DriverError::is_out_of_memory`].
    pub fn new(context: &Rc<Context>, memory: HostMemory, bytes: u64) -> Result<Self> {
        let bytes = bytes.max(1) as usize;
        let (start, call) = match memory {
            HostMemory::Pinned => {
                let mut raw = ptr::null_mut();
                call!(cuMemHostAlloc(&mut raw, bytes, 0))?;
                (raw.cast::<u8>(), "cuMemHostAlloc")
            }
            HostMemory::Pageable => match Layout::from_size_align(bytes, PAGE_BYTES) {
                // SAFETY: the size is at least 1.
                Ok(layout) => (unsafe { alloc_zeroed(layout) }, "alloc_zeroed"),
                Err(_) => (ptr::null_mut(), "alloc_zeroed"),
            },
        };
        let start = ptr::NonNull::new(start).ok_or_else(|| out_of_memory(call))?;
        let buffer = HostBuffer { start, bytes, memory, context: Rc::clone(context) };
        if memory == HostMemory::Pinned {
            // SAFETY: the allocation has so many bytes, and nothing else knows it.
            unsafe { start.as_ptr().write_bytes(0, bytes) };
        }
        Ok(buffer)
    }

    /// Where it begins, in the host's memory.
    pub fn address(&self) -> u64 {
        self.start.as_ptr() as u64
    }

    /// Where a range of addresses begins in the buffer, if it lies in it.
    pub fn offset_of(&self, address: u64, bytes: u64) -> Option<u64> {
        let offset = address.checked_sub(self.address())?;
        (offset.checked_add(bytes)? <= self.bytes as u64).then_some(offset)
    }

    /// Copies into it, when all that is queued is done.
    ///
    /// # Panics
    /// If the range is not within the buffer.
    pub fn write(&self, offset: u64, from: &[u8]) -> Result<()> {
        let to = self.at(offset, from.len());
        self.context.synchronize()?;
        // SAFETY: the range lies in the allocation, and no copy is under way.
        unsafe { to.copy_from_nonoverlapping(from.as_ptr(), from.len()) };
        Ok(())
    }

    /// Copies out of it, when all that is queued is done.
    ///
    /// # Panics
    /// If the range is not within the buffer.
    pub fn read(&self, offset: u64, to: &mut [u8]) -> Result<()> {
        let from = self.at(offset, to.len());
        self.context.synchronize()?;
        // SAFETY: the range lies in the allocation, which is initialized, and no copy is
        // under way.
        unsafe { from.copy_to_nonoverlapping(to.as_mut_ptr(), to.len()) };
        Ok(())
    }

    /// Sets a range to one byte, when all that is queued is done.
    ///
    /// # Panics
    /// If the range is not within the buffer.
    pub fn set(&self, offset: u64, bytes: u64, value: u8) -> Result<()> {
        let to = self.at(offset, bytes as usize);
        self.context.synchronize()?;
        // SAFETY: the range lies in the allocation, and no copy is under way.
        unsafe { to.write_bytes(value, bytes as usize) };
        Ok(())
    }

    pub(super) fn at(&self, offset: u64, bytes: usize) -> *mut u8 {
        let end = (offset as usize).checked_add(bytes);
        assert!(
            end.is_some_and(|end| end <= self.bytes),
            "a range outside of a buffer of the host"
        );
        // SAFETY: the offset is at most the size of the allocation.
        unsafe { self.start.as_ptr().add(offset as usize) }
    }
}

impl Drop for HostBuffer {
    fn drop(&mut self) {
        // After a fault this fails, and nothing is under way either.
        let _ = self.context.synchronize();
        match self.memory {
            HostMemory::Pinned => {
                let _ = call!(cuMemFreeHost(self.start.as_ptr().cast()));
            }
            HostMemory::Pageable => {
                if let Ok(layout) = Layout::from_size_align(self.bytes, PAGE_BYTES) {
                    // SAFETY: it was allocated with this layout.
                    unsafe { dealloc(self.start.as_ptr(), layout) };
                }
            }
        }
    }
}

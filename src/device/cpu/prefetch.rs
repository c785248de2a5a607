//! Fetching a line into the second cache.

/// Asks for the cache line of `data[index]`, whether that is in the slice or not. On x86 it goes
/// to the second cache and those behind it, elsewhere to all.
#[inline(always)]
#[cfg(target_arch = "x86_64")]
#[allow(unsafe_code, reason = "an instruction that takes any address and reads nothing")]
pub fn prefetch<T>(data: &[T], index: usize) {
    use std::arch::x86_64::{_MM_HINT_T1, _mm_prefetch};

    let address = data.as_ptr().wrapping_add(index).cast();
    // SAFETY: a prefetch is a hint. It does not fault, at no address.
    unsafe { _mm_prefetch::<_MM_HINT_T1>(address) }
}

/// Asks for the cache line of `data[index]`, whether that is in the slice or not.
#[inline(always)]
#[cfg(not(target_arch = "x86_64"))]
pub fn prefetch<T>(data: &[T], index: usize) {
    prefetch_index::prefetch_index(data, index);
}

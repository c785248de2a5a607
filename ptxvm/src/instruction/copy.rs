//! Asynchronous copies.

use crate::instruction::address::{Access, Address};

/// A `cp.async`.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct CpAsync {
    pub to: Address,
    pub from: Address,
    pub bytes: u32,
    /// The number of bytes to read; the rest is zero.
    pub source_bytes: Option<u16>,
    /// Do not read the source where this predicate is set.
    pub ignore: Option<u16>,
    /// Bytes that L2 fetches at a time, by `.L2::128B` and the like.
    pub prefetch_bytes: u32,
}

/// `st.async`: registers to shared memory of a block of the cluster, and their bytes to an
/// mbarrier of that block.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct AsyncStore {
    pub access: Access,
    pub barrier: Address,
}

/// What a bulk copy moves.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum BulkKind {
    /// Contiguous `bytes` between two addresses.
    Row { global: Address, bytes: u16 },
    /// A box of a tensor map at these coordinates.
    Box { map: Address, coordinates: Vec<u16> },
    /// From this block's shared memory to another's.
    Shared { from: Address, bytes: u16 },
}

/// `cp.async.bulk` with or without a tensor.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Bulk {
    pub what: BulkKind,
    pub shared: Address,
    /// The mbarrier that is signalled, for copies into shared memory.
    pub barrier: Option<Address>,
    pub multicast: Option<u16>,
}

/// Where a field lies in this crate's encoding of a tensor map, and how its value is kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct MapField {
    pub offset: u16,
    pub bytes: u8,
    /// Added to the value of the instruction.
    pub add: u8,
    /// The value's register is of 64 bits.
    pub wide: bool,
    /// The largest value of the instruction.
    pub most: u64,
}

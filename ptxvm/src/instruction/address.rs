//! State spaces, addresses and the accesses of loads and stores.

use crate::bank::Bank;

/// The first address of shared memory in bytes: the hardware reserves the first kilobyte,
/// and a valid pointer is not null.
pub(crate) const SHARED_START: u32 = 1024;

/// Generic addresses of parameters start here.
pub(crate) const PARAM_WINDOW: u64 = 0x7d00_0000_0000;
/// Generic addresses of local memory start here.
pub(crate) const LOCAL_WINDOW: u64 = 0x7e00_0000_0000;
/// Generic addresses of shared memory start here.
pub(crate) const SHARED_WINDOW: u64 = 0x7f00_0000_0000;
/// The size of each window in bytes.
pub(crate) const WINDOW_BYTES: u64 = 1 << 32;

/// The state space of an access.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Space {
    Generic,
    Global,
    Const,
    Shared,
    SharedCluster,
    Local,
    Param,
}

/// `[register + offset]`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Address {
    pub space: Space,
    pub bank: Bank,
    pub index: u16,
    pub offset: i64,
}

/// How strongly an access is ordered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Order {
    Weak,
    /// `.volatile` or `.relaxed`.
    Relaxed,
    Acquire,
    Release,
    AcquireRelease,
}

impl Order {
    /// Whether two such accesses do not race with each other.
    pub(crate) fn is_strong(self) -> bool {
        self != Order::Weak
    }

    pub(crate) fn acquires(self) -> bool {
        matches!(self, Order::Acquire | Order::AcquireRelease)
    }

    pub(crate) fn releases(self) -> bool {
        matches!(self, Order::Release | Order::AcquireRelease)
    }
}

/// The threads that a memory order or a fence reaches, from the narrowest on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum Scope {
    /// The threads of a block.
    Block,
    /// The threads of a cluster.
    Cluster,
    /// All threads: `.gpu` and `.sys` are the same here.
    Gpu,
}

impl Scope {
    /// All scopes, each at its place.
    pub(crate) const ALL: [Scope; 3] = [Scope::Block, Scope::Cluster, Scope::Gpu];

    /// The scope as PTX spells it.
    pub(crate) fn name(self) -> &'static str {
        [".cta", ".cluster", ".gpu"][self as usize]
    }

    /// This scope and the narrower ones.
    pub(crate) fn within(self) -> impl Iterator<Item = Scope> {
        Self::ALL.into_iter().filter(move |&scope| scope <= self)
    }
}

/// A load or a store of one to eight elements per lane.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Access {
    pub address: Address,
    /// Bytes of one element.
    pub width: u32,
    /// Sign-extend on loading.
    pub signed: bool,
    pub bank: Bank,
    /// Bits of the destination registers.
    pub bits: u32,
    pub registers: Vec<u16>,
    pub order: Order,
    pub scope: Scope,
    /// A load through the read-only path: `.nc`.
    pub read_only: bool,
    /// Bytes that L2 fetches at a time, by `.L2::128B` and the like.
    pub prefetch_bytes: u32,
}

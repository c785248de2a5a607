//! Barriers, mbarriers and fences.

use crate::instruction::address::Address;

/// What a thread does at a barrier of its block.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum BarrierKind {
    Sync,
    Arrive,
    Reduce,
}

/// `bar` or `barrier`.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Barrier {
    pub kind: BarrierKind,
    pub aligned: bool,
    pub id: u16,
    /// The number of threads that take part; none for all threads of the block.
    pub count: Option<u16>,
    pub predicate: Option<u16>,
    pub negated: bool,
}

/// What is done with an mbarrier.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum MbarrierKind {
    Init,
    Invalidate,
    /// With `bytes`, one arrival, and the operand is the number of bytes to expect.
    /// Otherwise the operand is the number of arrivals.
    Arrive {
        bytes: bool,
        drop: bool,
    },
    ExpectBytes,
    CompleteBytes,
    Wait {
        parity: bool,
    },
    PendingCount,
}

/// An instruction on an mbarrier.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct MbarrierOp {
    pub kind: MbarrierKind,
    pub address: Address,
    /// State token or predicate; [`SINK`](crate::instruction::SINK) for none.
    pub d: u16,
    pub operand: Option<u16>,
    /// Whether it releases or acquires; `.relaxed` does not.
    pub orders: bool,
}

/// A fence.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fence {
    /// Orders memory between threads; `global` reaches other blocks.
    Memory { global: bool },
    /// `fence.proxy.async`, for the memories that it names, or for both.
    ProxyAsync { shared: bool, global: bool },
    /// `fence.proxy.tensormap::generic.release`: makes tensor maps that were written
    /// visible to those that acquire them; `global` reaches other blocks.
    MapRelease { global: bool },
    /// `fence.mbarrier_init`: makes the warp's new mbarriers visible to the async proxy.
    MbarrierInit,
}

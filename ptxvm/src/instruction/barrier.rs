//! Barriers, mbarriers and fences.

use crate::instruction::address::Address;

/// What a thread does at a barrier.
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
    /// Threads that take part; without it, all of the block.
    pub count: Option<u16>,
    pub predicate: Option<u16>,
    pub negated: bool,
}

/// What is done with an mbarrier.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum MbarrierKind {
    Init,
    Invalidate,
    /// `bytes` says that the operand announces bytes and one arrives; otherwise it
    /// is the number of arrivals.
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
    /// State token or predicate; [`SINK`] for none.
    pub d: u16,
    pub operand: Option<u16>,
    /// Publishes or learns; `.relaxed` does not.
    pub orders: bool,
}

/// A fence.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fence {
    /// Orders memory between threads; `global` reaches other blocks.
    Memory { global: bool },
    /// `fence.proxy.async`, for the memories that it names, or for all.
    ProxyAsync { shared: bool, global: bool },
    /// `fence.mbarrier_init`: shows the async proxy the warp's new mbarriers.
    MbarrierInit,
}

//! Barriers, mbarriers and fences.

use crate::instruction::address::{Address, Scope};

/// What a reducing barrier computes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Reduction {
    And,
    Or,
    Count,
}

/// What a thread does at a barrier of its block.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum BarrierKind {
    Sync,
    Arrive,
    Reduce(Reduction),
}

impl BarrierKind {
    /// The instruction's name without what may be left out.
    pub(crate) fn name(self) -> &'static str {
        match self {
            BarrierKind::Sync => "bar.sync",
            BarrierKind::Arrive => "bar.arrive",
            BarrierKind::Reduce(Reduction::And) => "bar.red.and",
            BarrierKind::Reduce(Reduction::Or) => "bar.red.or",
            BarrierKind::Reduce(Reduction::Count) => "bar.red.popc",
        }
    }
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
    /// Without a scope the ISA means the block. But CUTLASS's `ClusterBarrier` arrives at
    /// other blocks' mbarriers, and waits for such arrivals, without one, and the hardware
    /// keeps the order; so only `.cta` in words is taken as the block.
    pub scope: Scope,
}

/// A fence.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fence {
    /// Orders memory between the threads of a scope.
    Memory { scope: Scope, acquires: bool, releases: bool },
    /// `fence.proxy.async`, for the memories that it names, or for both.
    ProxyAsync { shared: bool, global: bool },
    /// `fence.proxy.tensormap::generic.release`: makes tensor maps that were written
    /// visible to those that acquire them; `global` reaches other blocks.
    MapRelease { global: bool },
    /// `fence.mbarrier_init`: makes the warp's new mbarriers visible to the async proxy.
    MbarrierInit,
}

//! Decoded instructions: what the warps execute.

use crate::count::{Class, Unit};
use crate::exec::atomic::Atomic;
use crate::exec::barrier::Barrier;
use crate::exec::bulk::Bulk;
use crate::exec::convert::Conversion;
use crate::exec::cp_async::CpAsync;
use crate::exec::matrix::{LdMatrix, Mma};
use crate::exec::mbarrier::MbarrierOp;
use crate::exec::warp_ops::{Redux, Shuffle, Vote};
use crate::exec::wgmma::Wgmma;
use crate::lanes::{Args, Wide};
use crate::syntax::Bank;

/// No guard.
pub(crate) const NO_GUARD: u16 = u16::MAX;
/// A destination that is dropped (`_`).
pub(crate) const SINK: u16 = u16::MAX;

/// A state space as an access names it.
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
    /// Whether two such accesses may meet without a race.
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
}

/// A clock that an instruction reads.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Clock {
    Cycles,
    CyclesHigh,
    Timer,
    TimerHigh,
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

/// What an instruction does.
#[derive(Debug, Clone)]
pub(crate) enum Op {
    Alu(Wide, Args),
    Convert(Box<Conversion>),
    Nop,
    Branch {
        target: u32,
    },
    BranchIndex {
        index: u16,
        targets: Box<[u32]>,
    },
    Exit,
    Trap,
    Clock {
        clock: Clock,
        bank: Bank,
        d: u16,
    },
    Load(Box<Access>),
    Store(Box<Access>),
    Atomic(Box<Atomic>),
    Shuffle(Box<Shuffle>),
    Vote(Box<Vote>),
    Redux(Box<Redux>),
    ActiveMask {
        d: u16,
    },
    Elect {
        d: u16,
        p: u16,
        mask: u16,
    },
    WarpBarrier {
        mask: u16,
    },
    Barrier(Box<Barrier>),
    /// What a reducing barrier found: `and`, `or` or a sum.
    BarrierResult {
        id: u16,
        what: u8,
        bank: Bank,
        d: u16,
    },
    ClusterArrive {
        aligned: bool,
        release: bool,
    },
    ClusterWait {
        aligned: bool,
    },
    Fence(Fence),
    LdMatrix(Box<LdMatrix>),
    StMatrix(Box<LdMatrix>),
    MovMatrix {
        d: u16,
        a: u16,
    },
    Mma(Box<Mma>),
    CpAsync(Box<CpAsync>),
    CpCommit,
    CpWait {
        pending: u32,
    },
    CpWaitAll,
    CpArrive {
        address: Address,
        counted: bool,
    },
    Mbarrier(Box<MbarrierOp>),
    Bulk(Box<Bulk>),
    /// Asks the cache for `bytes` in a row.
    BulkPrefetch {
        global: Address,
        bytes: u16,
    },
    BulkCommit,
    BulkWait {
        pending: u32,
        read: bool,
    },
    MapRank {
        d: u16,
        a: u16,
        rank: u16,
        bank: Bank,
        generic: bool,
    },
    GetRank {
        d: u16,
        a: u16,
        bank: Bank,
    },
    Wgmma(Box<Wgmma>),
    WgmmaFence,
    WgmmaCommit,
    WgmmaWait {
        pending: u32,
    },
    SetMaxRegisters,
    Sleep {
        time: u16,
    },
}

/// An instruction with its guard, its bookkeeping and its place in the texts.
#[derive(Debug, Clone)]
pub(crate) struct Instruction {
    pub op: Op,
    /// Predicate register, or [`NO_GUARD`].
    pub guard: u16,
    pub negated: bool,
    pub class: Class,
    /// FLOPs of one lane, and whose they are.
    pub work: Option<(Unit, u32)>,
    pub line: u32,
    pub place: u32,
    /// Index in the kernel's opcode texts.
    pub text: u32,
}

/// What a register row holds when a warp starts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Initial {
    Value(u64),
    Special(Special),
    /// The address of the module's variable of this index.
    Symbol(usize, i64),
}

/// Registers that hold a launch's or a thread's coordinates.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Special {
    Thread(u8),
    BlockSize(u8),
    Block(u8),
    Grid(u8),
    Lane,
    Warp,
    Warps,
    Processor,
    Processors,
    GridId,
    Cluster(u8),
    Clusters(u8),
    ClusterBlock(u8),
    ClusterSize(u8),
    ClusterRank,
    ClusterRanks,
    IsExplicitCluster,
    MaskEqual,
    MaskLess,
    MaskLessEqual,
    MaskGreater,
    MaskGreaterEqual,
    DynamicShared,
    TotalShared,
}

impl Special {
    /// The register that `name` means.
    pub(crate) fn parse(name: &str) -> Option<Self> {
        let (base, axis) = match name.rsplit_once('.') {
            Some((base, "x")) => (base, 0),
            Some((base, "y")) => (base, 1),
            Some((base, "z")) => (base, 2),
            Some(_) => return None,
            None => return Self::plain(name),
        };
        Some(match base {
            "%tid" => Self::Thread(axis),
            "%ntid" => Self::BlockSize(axis),
            "%ctaid" => Self::Block(axis),
            "%nctaid" => Self::Grid(axis),
            "%clusterid" => Self::Cluster(axis),
            "%nclusterid" => Self::Clusters(axis),
            "%cluster_ctaid" => Self::ClusterBlock(axis),
            "%cluster_nctaid" => Self::ClusterSize(axis),
            _ => return None,
        })
    }

    fn plain(name: &str) -> Option<Self> {
        Some(match name {
            "%laneid" => Self::Lane,
            "%warpid" => Self::Warp,
            "%nwarpid" => Self::Warps,
            "%smid" => Self::Processor,
            "%nsmid" => Self::Processors,
            "%gridid" => Self::GridId,
            "%cluster_ctarank" => Self::ClusterRank,
            "%cluster_nctarank" => Self::ClusterRanks,
            "%is_explicit_cluster" => Self::IsExplicitCluster,
            "%lanemask_eq" => Self::MaskEqual,
            "%lanemask_lt" => Self::MaskLess,
            "%lanemask_le" => Self::MaskLessEqual,
            "%lanemask_gt" => Self::MaskGreater,
            "%lanemask_ge" => Self::MaskGreaterEqual,
            "%dynamic_smem_size" => Self::DynamicShared,
            "%total_smem_size" => Self::TotalShared,
            _ => return None,
        })
    }
}

/// A kernel, ready to run.
#[derive(Debug)]
pub(crate) struct Kernel {
    pub name: String,
    pub code: Vec<Instruction>,
    pub texts: Vec<String>,
    pub places: Vec<crate::syntax::Place>,
    /// Registers by bank.
    pub counts: [usize; 3],
    pub initials: Vec<(Bank, u16, Initial)>,
    /// Bytes of the parameter block.
    pub param_bytes: u64,
    pub static_shared: u32,
    pub local_bytes: u32,
    pub max_threads: Option<[u32; 3]>,
    pub required_threads: Option<[u32; 3]>,
    pub cluster: Option<[u32; 3]>,
    /// Whether blocks may talk to one another through global memory.
    pub talks: bool,
}

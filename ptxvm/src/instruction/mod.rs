//! Decoded instructions and their operands. How a warp executes them is in `exec/`.

pub(crate) mod address;
pub(crate) mod atomic;
pub(crate) mod barrier;
pub(crate) mod convert;
pub(crate) mod copy;
pub(crate) mod matrix;
pub(crate) mod special;
pub(crate) mod types;
pub(crate) mod warp;

pub(crate) use address::{
    Access, Address, LOCAL_WINDOW, Order, PARAM_WINDOW, SHARED_START, SHARED_WINDOW, Scope,
    Space, WINDOW_BYTES,
};
pub(crate) use atomic::{Atomic, AtomicOp};
pub(crate) use barrier::{
    Barrier, BarrierKind, Fence, MbarrierKind, MbarrierOp, Reduction,
};
pub(crate) use convert::{Conversion, Number};
pub(crate) use copy::{AsyncStore, Bulk, BulkKind, CpAsync, MapField};
pub(crate) use matrix::{Accumulator, Element, LdMatrix, Mma, Wgmma, WgmmaA};
pub(crate) use special::{ClockRegister, Initial, Special};
pub(crate) use types::Type;
pub(crate) use warp::{Redux, Shuffle, ShuffleMode, Vote, VoteMode};

use crate::bank::Bank;
use crate::count::{Class, Unit};
use crate::lanes::{Args, Wide};
use crate::syntax::Place;
use crate::target::Target;

/// The guard of an instruction without one.
pub(crate) const NO_GUARD: u16 = u16::MAX;
/// A destination that is dropped (`_`).
pub(crate) const SINK: u16 = u16::MAX;

/// A call of `printf`: where its parameters and its result lie.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Print {
    pub format: Address,
    pub arguments: Address,
    pub result: Option<Address>,
}

/// What an instruction does.
#[derive(Debug, Clone)]
pub(crate) enum Op {
    Alu(Wide, Args),
    Convert(Box<Conversion>),
    Nop,
    /// `griddepcontrol.wait`: the launch before is over from here on.
    WaitForPrevious,
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
        clock: ClockRegister,
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
    /// The result of a reducing barrier.
    BarrierResult {
        id: u16,
        what: Reduction,
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
    StoreAsync(Box<AsyncStore>),
    /// Prefetches contiguous `bytes` into the cache.
    BulkPrefetch {
        global: Address,
        bytes: u16,
    },
    /// Prefetches a box of a tensor map into the cache.
    BoxPrefetch {
        map: Address,
        coordinates: Box<[u16]>,
    },
    /// `fence.proxy.tensormap::generic.acquire` of a map; `global` reaches other blocks.
    MapAcquire {
        map: Address,
        global: bool,
    },
    /// `tensormap.cp_fenceproxy`: a map from shared to global memory, with a release.
    MapCopy {
        to: Address,
        from: Address,
        global: bool,
    },
    /// `tensormap.replace`: bytes of an encoded map, from a register.
    MapReplace {
        map: Address,
        field: MapField,
        value: u16,
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
    /// `setmaxnreg`: gives registers to a thread until it has `count`, or takes them.
    SetMaxRegisters {
        count: u32,
        more: bool,
    },
    /// A call of `printf`.
    Print(Box<Print>),
    /// A failed assertion: message, file, line, function.
    AssertFail(Box<[Address; 4]>),
    /// A call through a pointer that is not the address of a function.
    BadCall,
    Sleep {
        time: u16,
    },
}

/// An instruction with its guard, its class and work, and its place in the PTX.
#[derive(Debug, Clone)]
pub(crate) struct Instruction {
    pub op: Op,
    /// Predicate register, or [`NO_GUARD`].
    pub guard: u16,
    pub negated: bool,
    pub class: Class,
    /// The unit that does its FLOPs, and their number per lane.
    pub work: Option<(Unit, u32)>,
    pub line: u32,
    pub place: u32,
    /// Index in the kernel's opcode texts.
    pub text: u32,
}

/// Where a parameter lies in the parameter block.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct KernelParam {
    /// Its first byte.
    pub offset: usize,
    /// Its bytes.
    pub bytes: usize,
}

/// A kernel, ready to run.
#[derive(Debug)]
pub(crate) struct Kernel {
    pub name: String,
    pub code: Vec<Instruction>,
    pub texts: Vec<String>,
    pub places: Vec<Place>,
    /// Registers by bank.
    pub counts: [usize; 3],
    pub initials: Vec<(Bank, u16, Initial)>,
    /// Bytes of the parameter block.
    pub param_bytes: u64,
    pub params: Vec<KernelParam>,
    /// Registers that the PTX declares, in words of 32 bits, without predicates.
    pub declared_registers: u32,
    pub static_shared: u32,
    /// Bytes of the shared variables that have a size, without what is reserved.
    pub declared_shared: u32,
    pub local_bytes: u32,
    pub max_threads: Option<[u32; 3]>,
    pub required_threads: Option<[u32; 3]>,
    pub cluster: Option<[u32; 3]>,
    /// Most blocks of a cluster, where the kernel states it.
    pub max_cluster: Option<u32>,
    /// Whether the launch must name its clusters.
    pub explicit_cluster: bool,
    /// Most registers of a thread, where the kernel states it.
    pub max_registers: Option<u32>,
    /// What the module was compiled for.
    pub target: Target,
    pub min_blocks: Option<u32>,
    /// Registers that a thread is launched with, where `setmaxnreg` changes them.
    pub launch_registers: Option<u32>,
    /// Whether blocks may communicate through global memory.
    pub blocks_communicate: bool,
    /// Whether some memory order reaches less than the whole GPU.
    pub narrow_scopes: bool,
}

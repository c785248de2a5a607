//! Values of registers that no instruction writes.

/// A register that shows the time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum ClockRegister {
    Cycles,
    CyclesHigh,
    Timer,
    TimerHigh,
}

/// What a register row holds when a warp starts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Initial {
    Value(u64),
    Special(Special),
    /// The address of the module's variable of this index.
    Symbol(usize, i64),
    /// The address of a variable in shared memory, which in a cluster says of which block.
    Shared(u64),
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
    /// The halves of the address that a cooperative launch's grid barrier is at.
    GridBarrierHigh,
    GridBarrierLow,
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
            "%envreg1" => Self::GridBarrierHigh,
            "%envreg2" => Self::GridBarrierLow,
            _ => return None,
        })
    }
}

//! What instructions mean to the clock of their warp.

use crate::instruction::{Access, MbarrierKind, Op, Space};

/// What an instruction means to the clock of its warp.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Effect {
    None,
    /// It may access memory.
    Access,
    /// Its lanes wait for one another.
    Gather,
    /// Both: its accesses are over when all lanes continue.
    AccessAndGather,
}

impl Effect {
    /// Those of which it is not certain that they leave memory alone count as accesses.
    #[inline]
    pub(crate) fn of(op: &Op) -> Self {
        match op {
            Op::Load(access) | Op::Store(access) => of_access(access),
            Op::Shuffle(_)
            | Op::Vote(_)
            | Op::Redux(_)
            | Op::Elect { .. }
            | Op::MovMatrix { .. }
            | Op::Mma(_)
            | Op::WgmmaFence
            | Op::WgmmaCommit
            | Op::WgmmaWait { .. } => Effect::Gather,
            Op::LdMatrix(_)
            | Op::StMatrix(_)
            | Op::Wgmma(_)
            | Op::SetMaxRegisters { .. } => Effect::AccessAndGather,
            Op::Barrier(barrier) => of_barrier(barrier.aligned),
            Op::ClusterArrive { aligned, .. } | Op::ClusterWait { aligned } => {
                of_barrier(*aligned)
            }
            Op::Mbarrier(operation) if operation.kind != MbarrierKind::Init => Effect::None,
            Op::Alu(..)
            | Op::Convert(_)
            | Op::Nop
            | Op::WaitForPrevious
            | Op::Branch { .. }
            | Op::BranchIndex { .. }
            | Op::Clock { .. }
            | Op::ActiveMask { .. }
            | Op::WarpBarrier { .. }
            | Op::BarrierResult { .. }
            | Op::Fence(_)
            | Op::CpCommit
            | Op::BulkCommit
            | Op::MapRank { .. }
            | Op::GetRank { .. }
            | Op::Sleep { .. } => Effect::None,
            _ => Effect::Access,
        }
    }

    pub(crate) fn accesses(self) -> bool {
        matches!(self, Effect::Access | Effect::AccessAndGather)
    }

    pub(crate) fn gathers(self) -> bool {
        matches!(self, Effect::Gather | Effect::AccessAndGather)
    }
}

/// Local memory and parameters are not shared with anyone.
fn of_access(access: &Access) -> Effect {
    match access.address.space {
        Space::Local | Space::Param | Space::Const => Effect::None,
        _ => Effect::Access,
    }
}

fn of_barrier(aligned: bool) -> Effect {
    if aligned { Effect::Gather } else { Effect::None }
}

//! What is on its way in a running cluster: asynchronous copies and matrix products.

use std::collections::HashMap;

use crate::finding::Finding;
use crate::lanes::{LANES, lanes};

/// One lane's `cp.async` on its way.
#[derive(Debug, Clone, Copy)]
pub(crate) struct ThreadCopy {
    pub lane: usize,
    pub to: usize,
    /// Allocation and offset.
    pub from: (usize, u64),
    pub bytes: usize,
    pub source_bytes: usize,
    /// The lane's commit group; none while that is open.
    pub group: Option<u32>,
}

/// A warp's copies on their way.
#[derive(Debug, Default)]
pub(crate) struct CopyGroups {
    pub copies: Vec<ThreadCopy>,
    pub committed: [u32; LANES],
}

impl CopyGroups {
    /// Closes the active lanes' open groups.
    pub(crate) fn commit(&mut self, active: u32) {
        for copy in &mut self.copies {
            if copy.group.is_none() && active >> copy.lane & 1 != 0 {
                copy.group = Some(self.committed[copy.lane]);
            }
        }
        lanes(active).for_each(|lane| self.committed[lane] += 1);
    }

    /// Takes a lane's copies out, for an mbarrier to wait for.
    pub(crate) fn take(&mut self, lane: usize) -> Vec<ThreadCopy> {
        let (taken, left) = self.copies.drain(..).partition(|copy| copy.lane == lane);
        self.copies = left;
        taken
    }
}

/// Up to 16 bytes of a copy.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Piece {
    /// Offset in shared memory.
    pub shared: u32,
    /// Allocation and offset; none for a part outside of the tensor.
    pub global: Option<(usize, u64)>,
    pub bytes: u32,
}

/// Bytes of global memory that a lane's bulk group stores to.
#[derive(Debug, Clone, Copy)]
pub(crate) struct BulkStore {
    pub lane: usize,
    pub group: u32,
    pub allocation: usize,
    pub offset: u64,
    pub bytes: u64,
}

/// Which way a copy goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Direction {
    /// Into shared memory of these blocks (one bit per rank).
    In { ranks: u32, barrier: u32 },
    /// Out of shared memory.
    Out,
    /// From one block's shared memory to another's.
    Across { to: (usize, u32), barrier: (usize, u32) },
    /// A thread's `cp.async` copies, after which it arrives at an mbarrier.
    Copies { barrier: (usize, u32) },
}

/// A copy on its way.
#[derive(Debug)]
pub(crate) struct PendingCopy {
    pub direction: Direction,
    pub pieces: Vec<Piece>,
    pub fill: [u8; 16],
    pub bytes: u64,
    /// The issuing warp's number in the cluster, its block and lane.
    pub warp: usize,
    pub rank: usize,
    pub lane: usize,
    pub group: u32,
    pub copies: Vec<ThreadCopy>,
    /// The source's bytes, once they were read.
    pub data: Option<Vec<u8>>,
    /// The instruction that started the copy, for findings when it completes.
    pub blame: Box<Finding>,
}

/// A matrix product under way.
#[derive(Debug)]
pub(crate) struct WgmmaFlight {
    pub group: u64,
    pub pc: u32,
    /// Offsets of the 16-byte chunks of shared memory that it reads.
    pub chunks: Vec<u32>,
    /// Registers of A, and what was in them.
    pub a: Vec<(u16, [u32; LANES])>,
    pub d: Vec<u16>,
}

/// A warp's products.
#[derive(Debug, Default)]
pub(crate) struct WgmmaState {
    /// Groups committed so far.
    pub committed: u64,
    pub flights: Vec<WgmmaFlight>,
    /// A fence was executed since the last change of registers.
    pub fenced: bool,
    /// Lanes of accumulators that are undefined even after the wait.
    pub undefined: HashMap<u16, u32>,
    /// Products issued, and where the last one was.
    pub issued: (u64, u32),
    /// The values that the last product left in its accumulators.
    pub last: HashMap<u16, [u32; LANES]>,
}

//! What is on its way in a running cluster: asynchronous copies and matrix products.

use std::collections::VecDeque;

use crate::clock::Clock;
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
    /// From registers to a block's shared memory: the pieces are there, in order of the data.
    Store { to: usize, barrier: u32 },
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

/// A warpgroup's matrix product that one of its warps has not waited for.
#[derive(Debug)]
pub(crate) struct WgmmaFlight {
    /// The warp's commit group.
    pub group: u64,
    pub pc: u32,
    /// The product's number in its warpgroup, from 1.
    pub number: u64,
    /// Registers of A, and what was in them.
    pub a: Vec<(u16, [u32; LANES])>,
}

/// A warp's products.
#[derive(Debug, Default)]
pub(crate) struct WgmmaState {
    /// Groups committed so far.
    pub committed: u64,
    pub flights: Vec<WgmmaFlight>,
    /// A fence was executed since the last change of registers.
    pub fenced: bool,
    /// It issued a product and waits for the other warps of its warpgroup to do so.
    pub waits: bool,
    /// What the last products left in their accumulators.
    pub results: Results,
}

/// What a product left in one of its accumulators.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Accumulated {
    pub row: [u32; LANES],
    /// Lanes that are undefined even after the wait.
    pub undefined: u32,
    /// The warp's commit group of the product.
    pub group: u64,
}

/// The last result of each register that was an accumulator.
#[derive(Debug, Default)]
pub(crate) struct Results {
    /// Places in the list plus one, by register; 0 for none.
    places: Vec<u16>,
    list: Vec<Accumulated>,
}

impl Results {
    /// The last result in a register.
    pub(crate) fn get(&self, register: u16) -> Option<&Accumulated> {
        let place = *self.places.get(usize::from(register))?;
        self.list.get(usize::from(place).checked_sub(1)?)
    }

    pub(crate) fn set(&mut self, register: u16, result: Accumulated) {
        let register = usize::from(register);
        if self.places.len() <= register {
            self.places.resize(register + 1, 0);
        }
        match usize::from(self.places[register]).checked_sub(1) {
            Some(place) => self.list[place] = result,
            None => {
                self.list.push(result);
                self.places[register] = self.list.len() as u16;
            }
        }
    }
}

/// Warps of a warpgroup.
pub(crate) const GROUP: usize = 4;

/// What the warps of a warpgroup say about the product that they issue.
#[derive(Debug)]
pub(crate) struct Request {
    pub pc: u32,
    /// The first warp that issued it, by its number in the block.
    pub warp: usize,
    /// The descriptors of A, where A is in shared memory, and of B.
    pub a: Option<u64>,
    pub b: u64,
    /// Whether D is added to.
    pub keep: bool,
    /// What all warps that issued it knew then.
    pub clock: Clock,
    /// Offsets of the 16-byte chunks of shared memory that it reads.
    pub chunks: Vec<u32>,
}

/// The most operations under way whose lists of chunks are kept for others.
const SPARE: usize = 16;

/// 16 bytes of an operand in shared memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Chunk {
    pub address: u32,
    /// The row of A, or column of B, and the k of its first element. The others follow
    /// along k, or along the rows if the operand is transposed.
    pub major: u32,
    pub k: u32,
}

/// The operands of a product as values, and its result. The buffers serve one product
/// after the other.
#[derive(Debug, Default)]
pub(crate) struct Tiles {
    /// 64 rows of k values.
    pub a: Vec<f64>,
    /// Blocks of 8 columns: k rows of 4 even columns and 4 odd ones.
    pub b: Vec<f64>,
    /// Rows of A with an undefined element, one bit for each, by warp.
    pub bad_rows: [u32; GROUP],
    /// Whether a column of B has an undefined element.
    pub bad_columns: Vec<bool>,
    /// The sums of each warp's elements of D: as the registers of 32-bit accumulators
    /// have them, each register 32 lanes.
    pub sums: Vec<f64>,
    /// The accumulators before the product in the places of `sums`, which then are what they
    /// are after it, if it is in fixed point.
    pub c: Vec<f64>,
    /// Where an operand lies, while it is read.
    pub chunks: Vec<Chunk>,
}

/// Four consecutive warps of a block, whose wgmmas are operations of all four.
#[derive(Debug, Default)]
pub(crate) struct Warpgroup {
    /// Products that each warp has issued.
    pub issued: [u64; GROUP],
    /// Warps that have returned.
    pub gone: [bool; GROUP],
    /// Products that have begun, because all four warps have issued them.
    pub begun: u64,
    /// The product that some of the warps have issued.
    pub next: Option<Request>,
    pub tiles: Tiles,
    /// What products read that no warp has waited for: their numbers and chunks.
    pub reads: VecDeque<(u64, Vec<u32>)>,
    /// Lists that are no longer used.
    pub spare: Vec<Vec<u32>>,
    /// Each `setmaxnreg` of the warpgroup, in order.
    pub resizings: Vec<Resizing>,
}

impl Warpgroup {
    /// An empty list of chunks.
    pub(crate) fn list(&mut self) -> Vec<u32> {
        self.spare.pop().unwrap_or_default()
    }

    /// Keeps a list of chunks for another product.
    pub(crate) fn keep(&mut self, mut list: Vec<u32>) {
        if self.spare.len() < SPARE {
            list.clear();
            self.spare.push(list);
        }
    }
}

/// A `setmaxnreg`, which all warps of a warpgroup must execute.
#[derive(Debug)]
pub(crate) struct Resizing {
    pub pc: u32,
    /// The first warp that executed it, by its number in the block.
    pub warp: usize,
    /// The times of the warps that have executed it.
    pub times: [Option<u32>; GROUP],
}

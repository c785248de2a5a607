//! Findings: what the checks report.

use std::fmt;

use crate::printf::Printed;

/// What kind of mistake was found.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum FindingKind {
    /// An access outside of every allocation.
    OutOfBounds,
    /// An access that is not aligned to its size.
    Misaligned,
    /// An access to memory that was freed.
    UseAfterFree,
    /// An access that does not wait for the launch before, which may still write there.
    BeforeWait,
    /// A never-written value became an address, a branch or a store.
    Uninitialised,
    /// Two accesses to shared memory that nothing orders.
    SharedRace,
    /// The same in global memory, between lanes, warps or blocks.
    GlobalRace,
    /// A read through the read-only path (`ld.global.nc`) of bytes that the launch writes.
    ReadOnlyWritten,
    /// An access to bytes that an asynchronous copy may still be writing or reading.
    AsyncRace,
    /// Ordinary writes read by the async proxy without a proxy fence in between.
    MissingProxyFence,
    /// A wgmma accumulator or operand used before its wait.
    AccumulatorInFlight,
    /// Registers used by wgmma without a `wgmma.fence` before it.
    MissingWgmmaFence,
    /// Threads of a warp or block reached different barriers, or returned before one.
    BarrierDivergence,
    /// No thread can continue.
    Deadlock,
    /// A wrong use of an mbarrier.
    Mbarrier,
    /// A malformed operand: descriptor, tensor map, copy size, alignment.
    BadOperand,
    /// The kernel executed `trap`.
    Trap,
    /// An assertion of the kernel failed.
    Assertion,
    /// The budget of instructions ran out.
    Timeout,
    /// The launch itself is not possible.
    BadLaunch,
}

/// One mistake, and where it was found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finding {
    /// What kind of mistake.
    pub kind: FindingKind,
    /// The kernel's name.
    pub kernel: String,
    /// Source file and line, where the PTX has `.loc`.
    pub source: Option<(String, u32)>,
    /// Line of the PTX text; 0 where it was not an instruction.
    pub ptx_line: u32,
    /// The instruction's opcode.
    pub instruction: String,
    /// `ctaid`.
    pub block: [u32; 3],
    /// `tid`.
    pub thread: [u32; 3],
    /// The address, where there is one: a global address, or an offset in shared
    /// memory.
    pub address: Option<u64>,
    /// The allocation's name, or `shared`.
    pub allocation: Option<String>,
    /// What happened, in words.
    pub detail: String,
    /// How often the same instruction did this.
    pub times: u64,
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [x, y, z] = self.block;
        let [i, j, k] = self.thread;
        write!(f, "{:?} in {}", self.kind, self.kernel)?;
        if let Some((file, line)) = &self.source {
            write!(f, " at {file}:{line}")?;
        }
        if self.ptx_line > 0 {
            write!(f, " (PTX line {}, {})", self.ptx_line, self.instruction)?;
        }
        write!(f, ", block ({x}, {y}, {z}), thread ({i}, {j}, {k})")?;
        if let Some(address) = self.address {
            write!(f, ", address {address:#x}")?;
        }
        if let Some(allocation) = &self.allocation {
            write!(f, " in {allocation}")?;
        }
        write!(f, ": {}", self.detail)?;
        if self.times > 1 {
            write!(f, " ({} times)", self.times)?;
        }
        Ok(())
    }
}

/// A mistake that ended the launch.
#[derive(Debug, Clone)]
pub struct Fault {
    /// What stopped the launch.
    pub cause: Box<Finding>,
    /// What was found before that.
    pub findings: Vec<Finding>,
    /// What the kernel printed, by block and thread.
    pub printed: Vec<Printed>,
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.cause.fmt(f)
    }
}

impl std::error::Error for Fault {}

/// Findings so far, each kind at each instruction once.
#[derive(Debug, Default)]
pub(crate) struct Findings {
    pub list: Vec<Finding>,
}

/// More different findings than this are dropped.
const MOST: usize = 200;

impl Findings {
    /// Adds `finding`, or counts it where the same instruction did this before.
    pub(crate) fn add(&mut self, finding: Finding) {
        let same = |old: &&mut Finding| {
            old.kind == finding.kind && old.ptx_line == finding.ptx_line
        };
        if let Some(old) = self.list.iter_mut().find(same) {
            old.times += finding.times;
            // The first place in grid order, whatever order blocks ran in.
            if place(&finding) < place(old) {
                let times = old.times;
                *old = Finding { times, ..finding };
            }
        } else if self.list.len() < MOST {
            self.list.push(finding);
        }
    }

    /// Counts a finding that is known already; says whether it does not have to be built.
    pub(crate) fn count(&mut self, kind: FindingKind, ptx_line: u32) -> bool {
        let same = |old: &&mut Finding| old.kind == kind && old.ptx_line == ptx_line;
        match self.list.iter_mut().find(same) {
            Some(old) => {
                old.times += 1;
                true
            }
            None => self.list.len() >= MOST,
        }
    }
}

fn place(finding: &Finding) -> ([u32; 3], [u32; 3], Option<u64>) {
    let [x, y, z] = finding.block;
    let [i, j, k] = finding.thread;
    ([z, y, x], [k, j, i], finding.address)
}

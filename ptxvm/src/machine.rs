//! A running cluster of blocks, and what its warps share.

use std::collections::HashMap;
use std::sync::Mutex;

use crate::cache::Cache;
use crate::check::GlobalRaces;
use crate::clock::{COPY_ENTRIES, Message, Scoped};
use crate::count::{Counts, Traffic};
use crate::finding::{Fault, Finding, FindingKind, Findings};
use crate::flight::{PendingCopy, Warpgroup};
use crate::instruction::{BarrierKind, Instruction, Kernel};
use crate::maps::AcquiredMaps;
use crate::mbarrier::Mbarrier;
use crate::memory::Memory;
use crate::options::Options;
use crate::printf::Printed;
use crate::random::Random;
use crate::shared::Shared;
use crate::warp::Warp;

/// What ends a launch.
pub(crate) type Stop = Box<Finding>;
/// A step's outcome.
pub(crate) type Step<T = ()> = Result<T, Stop>;

/// What all blocks of a launch share.
pub(crate) struct Run<'l> {
    pub kernel: &'l Kernel,
    pub files: &'l HashMap<u32, String>,
    pub memory: &'l Memory,
    pub params: Vec<u8>,
    pub grid: [u32; 3],
    pub block: [u32; 3],
    pub cluster: [u32; 3],
    pub dynamic_shared: u32,
    /// Where a cooperative launch has its grid barrier, or 0.
    pub grid_barrier: u64,
    /// Whether the launch before may still be running when it begins.
    pub overlaps_previous: bool,
    /// What the clocks begin at.
    pub clock: u64,
    pub symbols: Vec<u64>,
    pub options: Options,
    pub races: GlobalRaces,
    pub maps: AcquiredMaps,
    pub sectors: crate::check::Sectors,
    pub l2: Option<Mutex<Cache>>,
}

/// Hardware barriers of a block.
pub(crate) const BARRIERS: usize = 16;

/// A hardware barrier of a block.
#[derive(Debug, Default)]
pub(crate) struct BarrierState {
    /// Threads that have arrived, counted as the instruction counts them.
    pub arrived: u32,
    pub expected: u32,
    pub generation: u64,
    pub message: Message,
    /// What the threads released by the last generation learn.
    pub released: Message,
    /// What the generation's first thread did here.
    pub kind: Option<BarrierKind>,
    /// Running `and`, `or` and sum of a reduction, and the last generation's.
    pub reduction: (bool, bool, u32),
    pub result: (bool, bool, u32),
    /// Warps that have arrived, to name those that have not.
    pub warps: Vec<usize>,
    /// Times of all that have arrived, with a memory order or without, and of those whom
    /// the last generation waited for: they will not access anything before that again.
    pub passed: Vec<u32>,
    pub all_passed: Vec<u32>,
}

impl BarrierState {
    /// Starts the next generation: the waiting threads continue.
    pub(crate) fn release(&mut self) {
        self.generation += 1;
        std::mem::swap(&mut self.released, &mut self.message);
        self.message.clear();
        self.result = self.reduction;
        self.reduction = (true, false, 0);
        self.arrived = 0;
        self.expected = 0;
        self.kind = None;
        self.warps.clear();
        self.all_passed.clone_from(&self.passed);
    }
}

/// What other blocks of the cluster did with a block's shared memory.
#[derive(Debug, Default)]
pub(crate) struct Visits {
    /// The last access of each warp of the cluster and, behind these, of asynchronous
    /// copies: its time and what it was. Empty where there was none.
    pub last: Vec<Option<(u32, Visitor)>>,
    /// Times that are known to have passed before the block returns.
    pub awaited: Vec<u32>,
}

/// What accessed another block's shared memory.
#[derive(Debug, Clone)]
pub(crate) enum Visitor {
    /// The instruction at a program counter, for a lane.
    Thread(u32, usize),
    /// The instruction that this finding is about.
    Copy(Box<Finding>),
}

/// One block.
#[derive(Debug, Default)]
pub(crate) struct Block {
    pub id: [u32; 3],
    /// Number in the grid.
    pub linear: u32,
    pub shared: Shared,
    pub barriers: Vec<BarrierState>,
    pub mbarriers: HashMap<u32, Mbarrier>,
    /// What strong writes to shared memory have published, by offset.
    pub published: HashMap<u32, Scoped>,
    /// What other blocks did with the shared memory of this one.
    pub visits: Visits,
    pub warpgroups: Vec<Warpgroup>,
    /// Registers that `setmaxnreg` has released and not given out again.
    pub free_registers: u32,
    pub warps: usize,
    pub live_warps: usize,
    pub live_threads: u32,
}

/// The running cluster.
pub(crate) struct Machine<'l> {
    pub run: &'l Run<'l>,
    pub blocks: Vec<Block>,
    /// The partition of the L2 cache that it is beside.
    pub partition: usize,
    pub cluster_barrier: BarrierState,
    pub pending: Vec<PendingCopy>,
    pub counts: Counts,
    /// Lanes that executed each instruction, and warps.
    pub executed: Vec<(u64, u64)>,
    /// Each instruction's traffic, where it is counted.
    pub traffic: Vec<Traffic>,
    pub findings: Findings,
    /// What threads printed, and how many bytes.
    pub printed: Vec<Printed>,
    pub printed_bytes: usize,
    pub random: Random,
    /// Increases when something happened that other warps may wait for.
    pub progress: u64,
    /// Number of asynchronous writes that have completed: their time.
    pub landed: u32,
    /// The allocation of the last access.
    pub last_allocation: usize,
    /// Whether the launch before may still be running.
    pub early: bool,
}

impl<'l> Machine<'l> {
    /// The instruction at `pc`.
    pub(crate) fn instruction(&self, pc: u32) -> &'l Instruction {
        &self.run.kernel.code[pc as usize]
    }

    /// The `tid` of a lane of the block's warp of number `index`.
    pub(crate) fn thread(&self, index: usize, lane: usize) -> [u32; 3] {
        let [x, y, _] = self.run.block;
        let thread = (index * 32 + lane) as u32;
        [thread % x, thread / x % y, thread / x / y]
    }

    /// A finding at `pc` for `lane` of `warp`.
    pub(crate) fn finding(
        &self,
        kind: FindingKind,
        warp: &Warp,
        pc: u32,
        lane: usize,
        detail: String,
    ) -> Finding {
        self.finding_of(kind, (warp.rank, warp.index), pc, lane, detail)
    }

    /// The same, for a warp by its block's rank and its place in the block.
    pub(crate) fn finding_of(
        &self,
        kind: FindingKind,
        (rank, index): (usize, usize),
        pc: u32,
        lane: usize,
        detail: String,
    ) -> Finding {
        let (kernel, instruction) = (self.run.kernel, self.instruction(pc));
        let place = kernel.places.get(instruction.place as usize);
        let file = |number: u32| {
            self.run.files.get(&number).cloned().unwrap_or_else(|| "?".to_owned())
        };
        Finding {
            kind,
            kernel: kernel.name.clone(),
            source: place.map(|place| (file(place.file), place.line)),
            ptx_line: instruction.line,
            instruction: kernel.texts[instruction.text as usize].clone(),
            block: self.blocks[rank].id,
            thread: self.thread(index, lane),
            address: None,
            allocation: None,
            detail,
            times: 1,
        }
    }

    /// Records a finding; `detail` is only called for the first of its kind.
    pub(crate) fn note(
        &mut self,
        kind: FindingKind,
        warp: &Warp,
        pc: u32,
        lane: usize,
        address: Option<(u64, String)>,
        detail: impl FnOnce() -> String,
    ) {
        if self.findings.count(kind, self.instruction(pc).line) {
            return;
        }
        let mut finding = self.finding(kind, warp, pc, lane, detail());
        if let Some((address, allocation)) = address {
            finding.address = Some(address);
            finding.allocation = Some(allocation);
        }
        self.findings.add(finding);
    }

    /// The end of the launch.
    pub(crate) fn stop<T>(
        &self,
        kind: FindingKind,
        warp: &Warp,
        pc: u32,
        lane: usize,
        detail: impl Into<String>,
    ) -> Step<T> {
        Err(Box::new(self.finding(kind, warp, pc, lane, detail.into())))
    }

    /// The end of the launch because of an address.
    pub(crate) fn stop_at<T>(
        &self,
        kind: FindingKind,
        warp: &Warp,
        pc: u32,
        lane: usize,
        address: (u64, Option<String>),
        detail: impl Into<String>,
    ) -> Step<T> {
        let finding = self.finding(kind, warp, pc, lane, detail.into());
        let (address, allocation) = address;
        Err(Box::new(Finding { address: Some(address), allocation, ..finding }))
    }

    /// A request touches a sector of an allocation.
    pub(crate) fn touch(&self, allocation: usize, sector: u64, write: bool) {
        self.run.sectors.touch(allocation, sector, write);
        if let Some(l2) = &self.run.l2 {
            let base = self.run.memory.allocations[allocation].base / 32;
            let mut l2 = l2.lock().unwrap_or_else(|lock| lock.into_inner());
            l2.access(self.partition, base + sector, write);
        }
    }

    /// A read of a sector of an allocation brings all of the `sectors` that it lies among
    /// into L2, unless it is there.
    pub(crate) fn fetch(&self, allocation: usize, sector: u64, sectors: u64) {
        if let Some(l2) = &self.run.l2 {
            let found = &self.run.memory.allocations[allocation];
            let end = (found.base + found.bytes).div_ceil(32);
            let mut l2 = l2.lock().unwrap_or_else(|lock| lock.into_inner());
            l2.read(self.partition, found.base / 32 + sector, sectors, end);
        }
    }

    /// The clock entry and time of a copy that completes now and signals this mbarrier.
    pub(crate) fn next_landing(&mut self, barrier: u32) -> (usize, u32) {
        self.landed += 1;
        let warps = self.blocks.iter().map(|block| block.warps).sum::<usize>();
        (warps + barrier as usize / 8 % COPY_ENTRIES, self.landed)
    }

    /// The name of a warp of the cluster, for messages.
    pub(crate) fn warp_name(&self, id: usize) -> String {
        let warps = self.blocks.first().map_or(1, |block| block.warps.max(1));
        match self.blocks.get(id / warps) {
            Some(_) if self.blocks.len() == 1 => format!("warp {id}"),
            Some(_) => format!("warp {} of block rank {}", id % warps, id / warps),
            None => match id.checked_sub(warps * self.blocks.len() + COPY_ENTRIES) {
                None => "an asynchronous copy".to_owned(),
                Some(group) => {
                    let groups = warps.div_ceil(4);
                    let rank = match self.blocks.len() {
                        1 => String::new(),
                        _ => format!(" of block rank {}", group / groups),
                    };
                    let group = group % groups;
                    format!("a wgmma of warpgroup {group}{rank} that was not waited for")
                }
            },
        }
    }

    /// Whether a strong access may reach some, but not all, blocks of a cluster, so that
    /// what is published must be kept by scope.
    pub(crate) fn splits_scopes(&self) -> bool {
        self.run.kernel.narrow_scopes && self.blocks.len() > 1
    }

    /// Records that something happened that other warps may wait for.
    pub(crate) fn progressed(&mut self) {
        self.progress += 1;
    }
}

/// The error of a launch that ended with `cause`.
pub(crate) fn fault(cause: Stop, findings: Findings, printed: Vec<Printed>) -> Fault {
    Fault { cause, findings: findings.list, printed }
}

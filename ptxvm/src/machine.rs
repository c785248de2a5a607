//! A running cluster of blocks, and what its warps share.

use std::collections::HashMap;
use std::sync::Mutex;

use crate::cache::Cache;
use crate::check::GlobalRaces;
use crate::clock::{COPY_ENTRIES, Message};
use crate::count::{Counts, Traffic};
use crate::finding::{Fault, Finding, FindingKind, Findings};
use crate::flight::PendingCopy;
use crate::instruction::{Instruction, Kernel};
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
    /// What the clocks begin at.
    pub clock: u64,
    pub symbols: Vec<u64>,
    pub options: Options,
    pub races: GlobalRaces,
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
    /// Running `and`, `or` and sum of a reduction, and the last generation's.
    pub reduction: (bool, bool, u32),
    pub result: (bool, bool, u32),
    /// Warps that have arrived, to name those that have not.
    pub warps: Vec<usize>,
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
        self.warps.clear();
    }
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
    pub published: HashMap<u32, Vec<u32>>,
    pub warps: usize,
    pub live_warps: usize,
    pub live_threads: u32,
}

/// The running cluster.
pub(crate) struct Machine<'l> {
    pub run: &'l Run<'l>,
    pub blocks: Vec<Block>,
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
}

impl<'l> Machine<'l> {
    /// The instruction at `pc`.
    pub(crate) fn instruction(&self, pc: u32) -> &'l Instruction {
        &self.run.kernel.code[pc as usize]
    }

    /// The `tid` of a lane.
    pub(crate) fn thread(&self, warp: &Warp, lane: usize) -> [u32; 3] {
        let [x, y, _] = self.run.block;
        let thread = (warp.index * 32 + lane) as u32;
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
            block: self.blocks[warp.rank].id,
            thread: self.thread(warp, lane),
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
            l2.access(base + sector, write);
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
            None => "an asynchronous copy".to_owned(),
        }
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

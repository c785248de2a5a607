//! The order in which blocks and warps run: random, and the same for a seed.

use std::sync::Arc;

use crate::bank::Bank;
use crate::clock::{Clock, Home};
use crate::count::{Counts, Traffic};
use crate::exec::access::cluster_address;
use crate::exec::{self, landing, wgmma};
use crate::finding::{FindingKind, Findings};
use crate::flight::{GROUP, Warpgroup};
use crate::instruction::{Initial, Special};
use crate::lanes::LANES;
use crate::machine::{BARRIERS, BarrierState, Block, Machine, Run, Step, Stop};
use crate::mbarrier::Spot;
use crate::printf::Printed;
use crate::random::Random;
use crate::shared::Shared;
use crate::warp::{Wait, Warp};

/// The part of a launch that one host thread executed.
pub(crate) struct Share {
    pub counts: Counts,
    pub executed: Vec<(u64, u64)>,
    pub traffic: Vec<Traffic>,
    pub findings: Findings,
    pub printed: Vec<Printed>,
    pub stop: Option<Stop>,
}

/// After so many turns without progress, blocks may be waiting for blocks that have not
/// started.
const RESTLESS: u32 = 64;
/// After so many turns without progress the launch is stuck. The number is large because
/// long loops may look like waiting.
const PATIENCE: u32 = 20_000;
/// Most clusters that run at once when blocks wait for other blocks.
const MOST_RESIDENT: usize = 512;

/// A running cluster.
struct Active<'l> {
    machine: Machine<'l>,
    warps: Vec<Warp>,
    /// Turns in a row without progress.
    idle: u32,
    seen: u64,
    /// Bytes that the others had moved, at the least, when it began.
    head_start: u64,
}

/// Runs some of the clusters of a launch.
pub(crate) fn share(run: &Run<'_>, clusters: &[u64], seed: u64) -> Share {
    let mut total = Share {
        counts: Counts::default(),
        executed: vec![(0, 0); run.kernel.code.len()],
        traffic: vec![Traffic::default(); counted(run)],
        findings: Findings::default(),
        printed: Vec::new(),
        stop: None,
    };
    let mut random = Random::new(seed, clusters.first().copied().unwrap_or(0));
    // Blocks that communicate start in a random order.
    let mut waiting: Vec<u64> = clusters.iter().rev().copied().collect();
    if run.kernel.blocks_communicate {
        shuffle(&mut waiting, &mut random);
    }
    let mut resident = run.options.resident.max(1);
    let (mut active, mut spare): (Vec<Active<'_>>, Vec<Vec<Warp>>) =
        (Vec::new(), Vec::new());
    let mut spent = 0u64;
    loop {
        while active.len() < resident
            && let Some(cluster) = waiting.pop()
        {
            let warps = spare.pop().unwrap_or_default();
            let head_start = active.iter().map(Active::moved_bytes).min().unwrap_or(0);
            let partition = free_partition(run, &active);
            let mut next = Active { head_start, ..Active::new(run, cluster, seed, warps) };
            next.machine.partition = partition;
            active.push(next);
        }
        if active.is_empty() {
            return total;
        }
        let at = next(run, &active, &mut random);
        let outcome = active[at].turn(&mut random, &mut spent);
        let least = active.iter().map(|cluster| cluster.idle).min().unwrap_or(0);
        let more = !waiting.is_empty() && resident < MOST_RESIDENT;
        let stop = outcome.err().or_else(|| {
            let late = spent > run.options.budget;
            (late || least > PATIENCE && !more).then(|| active[at].stuck(late))
        });
        if least > RESTLESS && more {
            resident = (2 * resident).min(MOST_RESIDENT);
            active.iter_mut().for_each(|cluster| cluster.idle = 0);
        }
        if stop.is_some() {
            total.stop = stop;
            active.drain(..).for_each(|cluster| total.take(cluster.machine));
            return total;
        }
        if active[at].warps.iter().all(Warp::is_done) {
            let mut done = active.swap_remove(at);
            let landed = landing::land_all(&mut done.machine);
            spare.push(done.warps);
            total.take(done.machine);
            // Other blocks may have waited for this one.
            active.iter_mut().for_each(|cluster| cluster.idle = 0);
            if let Err(stop) = landed {
                total.stop = Some(stop);
                return total;
            }
        }
    }
}

/// The partition of the cache beside which the fewest clusters are: a GPU too gives the next
/// blocks to whichever multiprocessors have room.
fn free_partition(run: &Run<'_>, active: &[Active<'_>]) -> usize {
    let beside = |partition: usize| {
        active.iter().filter(|cluster| cluster.machine.partition == partition).count()
    };
    (0..run.options.l2_partitions.max(1)).min_by_key(|&at| beside(at)).unwrap_or(0)
}

/// The cluster that has the next turn: any of them. Where a cache is modelled, every second
/// time the one that has moved the fewest bytes: blocks share a GPU's bandwidth about evenly,
/// so that those which read the same stay near each other, and what one reads the other
/// finds in the cache.
fn next(run: &Run<'_>, active: &[Active<'_>], random: &mut Random) -> usize {
    let any = random.below(active.len());
    if run.l2.is_none() || random.below(2) == 0 {
        return any;
    }
    (0..active.len()).min_by_key(|&at| active[at].moved_bytes()).unwrap_or(any)
}

/// Instructions whose traffic is counted.
fn counted(run: &Run<'_>) -> usize {
    if run.options.lines { run.kernel.code.len() } else { 0 }
}

fn shuffle(list: &mut [u64], random: &mut Random) {
    for at in (1..list.len()).rev() {
        list.swap(at, random.below(at + 1));
    }
}

impl Share {
    fn take(&mut self, machine: Machine<'_>) {
        self.counts.add(&machine.counts);
        for (total, part) in self.executed.iter_mut().zip(&machine.executed) {
            total.0 += part.0;
            total.1 += part.1;
        }
        for (total, part) in self.traffic.iter_mut().zip(&machine.traffic) {
            total.add_between(&Traffic::default(), part);
        }
        self.printed.extend(machine.printed);
        machine.findings.list.into_iter().for_each(|finding| self.findings.add(finding));
    }
}

impl<'l> Active<'l> {
    fn new(run: &'l Run<'l>, cluster: u64, seed: u64, mut warps: Vec<Warp>) -> Self {
        let ranks: usize = run.cluster.iter().product::<u32>() as usize;
        let threads: u32 = run.block.iter().product();
        let per_block = (threads as usize).div_ceil(LANES);
        let all = ranks * per_block;
        warps.resize_with(all, Warp::default);
        let blocks: Vec<Block> =
            (0..ranks).map(|rank| block(run, cluster, rank as u32, per_block)).collect();
        let home = Arc::new(Home {
            blocks: blocks.iter().map(|block| block.linear).collect(),
            warps: per_block,
        });
        for (id, warp) in warps.iter_mut().enumerate() {
            let (rank, index) = (id / per_block, id % per_block);
            let left = threads as usize - index * LANES;
            let live = if left >= LANES { u32::MAX } else { (1 << left) - 1 };
            warp.start(run.kernel, rank, index, live);
            warp.clock = Clock::new(id, &home);
            fill(run, warp, &blocks[rank], rank as u32);
        }
        let machine = Machine {
            run,
            blocks,
            partition: 0,
            cluster_barrier: BarrierState::default(),
            pending: Vec::new(),
            counts: Counts::default(),
            executed: vec![(0, 0); run.kernel.code.len()],
            traffic: vec![Traffic::default(); counted(run)],
            findings: Findings::default(),
            printed: Vec::new(),
            printed_bytes: 0,
            random: Random::new(seed, cluster.wrapping_add(1) << 20),
            progress: 0,
            landed: 0,
            last_allocation: 0,
            early: run.overlaps_previous,
        };
        Self { machine, warps, idle: 0, seen: u64::MAX, head_start: 0 }
    }

    /// Bytes of global memory that it has moved, beyond those of when it began.
    fn moved_bytes(&self) -> u64 {
        let counts = &self.machine.counts;
        self.head_start + counts.global_read_bytes + counts.global_write_bytes
    }

    /// Lets one warp run for a while, or a copy complete.
    fn turn(&mut self, random: &mut Random, spent: &mut u64) -> Step {
        let alive: Vec<usize> =
            (0..self.warps.len()).filter(|&at| self.may_run(at)).collect();
        if alive.is_empty() {
            let asleep = self.warps.iter().any(|warp| self.is_asleep(warp));
            self.idle = match landing::land_one(&mut self.machine)? {
                true => 0,
                false if asleep => self.longest_sleep() + 1,
                false => PATIENCE + 1,
            };
            return Ok(());
        }
        let at = alive[random.below(alive.len())];
        // Mostly short turns, to interleave warps; sometimes a long one, to let a warp run
        // ahead.
        let quantum = match random.below(8) {
            0 => 4000,
            1..4 => 400,
            _ => 40,
        };
        let warp = &mut self.warps[at];
        let before = (warp.cycles, warp.polls);
        warp.sleeps = None;
        exec::run(warp, &mut self.machine, quantum)?;
        *spent += warp.cycles - before.0;
        let progress = self.machine.progress;
        let polled = warp.polls != before.1;
        if progress != self.seen || !polled {
            self.idle = 0;
        } else {
            self.idle += 1;
        }
        self.seen = progress;
        // All warps only poll: what was delayed must happen now. Before that, a copy
        // completes at a random time.
        let asked = self.idle > self.longest_sleep();
        if (asked || random.below(200) == 0) && landing::land_one(&mut self.machine)? {
            self.idle = 0;
        }
        Ok(())
    }

    /// Turns in a row without progress after which all warps have polled, most likely.
    fn longest_sleep(&self) -> u32 {
        2 * self.warps.len() as u32
    }

    /// Whether a warp sleeps at an mbarrier whose phase has not completed. A GPU too suspends
    /// threads there, until that or for some time: a thread may do something else after it.
    fn is_asleep(&self, warp: &Warp) -> bool {
        let is_open = |((rank, offset), phase): (Spot, u64)| {
            let barrier = self.machine.blocks[rank].mbarriers.get(&offset);
            barrier.is_some_and(|barrier| barrier.phase == phase)
        };
        warp.groups.len() == 1
            && self.idle <= self.longest_sleep()
            && warp.sleeps.is_some_and(is_open)
    }

    fn may_run(&self, at: usize) -> bool {
        let warp = &self.warps[at];
        !warp.is_done()
            && !self.is_asleep(warp)
            && warp.groups.iter().any(|group| match group.wait {
                Wait::None => true,
                Wait::Meet { mask } => self.meets(warp, mask),
                Wait::Barrier { id, generation } => {
                    self.machine.blocks[warp.rank].barriers[id].generation != generation
                }
                Wait::Cluster { generation } => {
                    self.machine.cluster_barrier.generation != generation
                }
                Wait::Product { number } => {
                    wgmma::has_begun(&self.machine, (warp.rank, warp.index), number)
                }
                Wait::Registers { count } => {
                    self.machine.blocks[warp.rank].free_registers >= count
                }
            })
    }

    /// Whether threads that wait to meet are at one instruction, in groups that run or wait
    /// to meet.
    fn meets(&self, warp: &Warp, mask: u32) -> bool {
        warp.groups.iter().any(|group| {
            let together = warp.groups.iter().filter(|other| {
                other.pc == group.pc && matches!(other.wait, Wait::None | Wait::Meet { .. })
            });
            mask & warp.live & !together.fold(0, |all, other| all | other.mask) == 0
        })
    }

    /// What mbarriers with an incomplete phase still wait for.
    fn open_mbarriers(&self) -> Vec<String> {
        let mut lines = Vec::new();
        for block in &self.machine.blocks {
            let mut begun: Vec<_> =
                block.mbarriers.iter().filter(|(_, barrier)| barrier.has_begun()).collect();
            begun.sort_by_key(|(offset, _)| **offset);
            for (offset, barrier) in begun {
                lines.push(format!(
                    "the mbarrier at {offset:#x} of block {:?} is in phase {} and waits for \
                     {} arrivals and {} bytes",
                    block.id, barrier.phase, barrier.pending, barrier.bytes
                ));
            }
        }
        lines.truncate(8);
        lines
    }

    /// The registers that each block lacks, where warps wait for some.
    fn missing_registers(&self) -> Vec<String> {
        let need = |warp: &Warp| match warp.groups.first().map(|group| group.wait) {
            Some(Wait::Registers { count }) => count,
            _ => 0,
        };
        let mut lines = Vec::new();
        for (rank, block) in self.machine.blocks.iter().enumerate() {
            let own = self.warps.iter().filter(|warp| warp.rank == rank);
            let asked: u32 = own.map(need).sum();
            if let Some(missing) = asked.checked_sub(block.free_registers)
                && asked > 0
            {
                let each = self.machine.run.kernel.launch_registers.unwrap_or(0);
                lines.push(format!(
                    "setmaxnreg.inc asks for {missing} registers more than block {:?} has \
                     free, which was launched with {each} for each of its {} threads",
                    block.id,
                    block.warps * LANES
                ));
            }
        }
        lines
    }

    /// The finding that ends a launch without progress.
    fn stuck(&self, budget: bool) -> Stop {
        let mut lines = Vec::new();
        let mut divergent = true;
        for warp in self.warps.iter().filter(|warp| !warp.is_done()) {
            for group in warp.groups.iter().filter(|group| group.mask != 0) {
                let instruction = self.machine.instruction(group.pc.saturating_sub(1));
                let here = self.machine.instruction(group.pc);
                let what = match group.wait {
                    Wait::None => format!("runs at PTX line {}", here.line),
                    Wait::Meet { mask } => format!(
                        "waits at PTX line {} for threads {:#x}",
                        here.line,
                        mask & warp.live & !group.mask
                    ),
                    Wait::Barrier { id, .. } => {
                        format!("waits at barrier {id}, PTX line {}", instruction.line)
                    }
                    Wait::Cluster { .. } => {
                        format!(
                            "waits at the barrier of the cluster, PTX line {}",
                            instruction.line
                        )
                    }
                    Wait::Product { number } => {
                        let place = (warp.rank, warp.index);
                        let missing = wgmma::missing(&self.machine, place, number);
                        format!(
                            "waits at the wgmma at PTX line {} for warps {missing:?} of its \
                             warpgroup to issue it",
                            here.line
                        )
                    }
                    Wait::Registers { count } => format!(
                        "waits at the setmaxnreg at PTX line {} for {count} registers",
                        here.line
                    ),
                };
                divergent &= group.wait != Wait::None;
                let name = self.machine.warp_name(warp.id());
                lines.push(format!("{name}, threads {:#x}: {what}", group.mask));
            }
        }
        let more = lines.len().saturating_sub(12);
        lines.truncate(12);
        if more > 0 {
            lines.push(format!("and {more} more"));
        }
        lines.extend(self.open_mbarriers());
        lines.splice(0..0, self.missing_registers());
        let meets = self.warps.iter().flat_map(|warp| &warp.groups);
        let meets = meets.filter(|group| matches!(group.wait, Wait::Meet { .. })).count();
        let kind = match (budget, divergent && meets > 0) {
            (true, _) => FindingKind::Timeout,
            (false, true) => FindingKind::BarrierDivergence,
            (false, false) => FindingKind::Deadlock,
        };
        // These say more than what waits for them.
        let half = |warp: &&Warp| {
            let says =
                |wait: Wait| matches!(wait, Wait::Product { .. } | Wait::Registers { .. });
            warp.groups.iter().any(|group| says(group.wait))
        };
        let alive = || self.warps.iter().filter(|warp| !warp.is_done());
        let warp = alive().find(half).or_else(|| alive().next()).unwrap_or(&self.warps[0]);
        let group = warp.groups.iter().find(|group| group.mask != 0);
        let (pc, mask) = group.map_or((0, 1), |group| (group.pc, group.mask));
        let pc = match group.map(|group| group.wait) {
            Some(Wait::Barrier { .. } | Wait::Cluster { .. }) => pc.saturating_sub(1),
            _ => pc,
        };
        let lane = mask.trailing_zeros() as usize;
        Box::new(self.machine.finding(kind, warp, pc, lane, lines.join("; ")))
    }
}

fn block(run: &Run<'_>, cluster: u64, rank: u32, warps: usize) -> Block {
    let clusters: [u64; 3] =
        std::array::from_fn(|axis| u64::from(run.grid[axis] / run.cluster[axis]));
    let at = [
        cluster % clusters[0],
        cluster / clusters[0] % clusters[1],
        cluster / clusters[0] / clusters[1],
    ];
    let inside = inside(run, rank);
    let id: [u32; 3] =
        std::array::from_fn(|axis| at[axis] as u32 * run.cluster[axis] + inside[axis]);
    let linear = id[0] + run.grid[0] * (id[1] + run.grid[1] * id[2]);
    let bytes = run.kernel.static_shared + run.dynamic_shared;
    let ranks: u32 = run.cluster.iter().product();
    Block {
        id,
        linear,
        shared: Shared::new(bytes as usize, warps * ranks as usize, run.options.checks),
        barriers: (0..BARRIERS).map(|_| BarrierState::default()).collect(),
        mbarriers: Default::default(),
        published: Default::default(),
        visits: Default::default(),
        warpgroups: (0..warps.div_ceil(GROUP)).map(|_| Warpgroup::default()).collect(),
        free_registers: 0,
        warps,
        live_warps: warps,
        live_threads: run.block.iter().product(),
    }
}

/// A block's place in its cluster.
fn inside(run: &Run<'_>, rank: u32) -> [u32; 3] {
    let [x, y, _] = run.cluster;
    [rank % x, rank / x % y, rank / x / y]
}

/// Writes constants and special registers into a warp's rows.
fn fill(run: &Run<'_>, warp: &mut Warp, block: &Block, rank: u32) {
    let ranks: u32 = run.cluster.iter().product();
    for &(bank, index, what) in &run.kernel.initials {
        let value = initial(run, what);
        let row: [u64; LANES] = std::array::from_fn(|lane| match (value, what) {
            (Some(value), _) => value,
            (None, Initial::Special(special)) => {
                self::special(run, warp, block, rank, special, lane)
            }
            // Hardware, too, has the rank in addresses of blocks of clusters: what is made of
            // them with other operations than accesses finds it there.
            (None, Initial::Shared(offset)) if ranks > 1 => cluster_address(rank, offset),
            (None, Initial::Shared(offset)) => offset,
            (None, _) => 0,
        });
        put(warp, (bank, index), &row);
    }
    // The carry flag starts clear.
    warp.regs.undefined[0][0] = 0;
}

/// The bits that a row starts with.
fn initial(run: &Run<'_>, what: Initial) -> Option<u64> {
    match what {
        Initial::Value(value) => Some(value),
        Initial::Symbol(index, offset) => {
            Some(run.symbols[index].wrapping_add(offset as u64))
        }
        Initial::Special(_) | Initial::Shared(_) => None,
    }
}

fn put(warp: &mut Warp, (bank, index): (Bank, u16), row: &[u64; LANES]) {
    let at = usize::from(index);
    match bank {
        Bank::Double => warp.regs.d[at] = *row,
        Bank::Word => warp.regs.r[at] = row.map(|value| value as u32),
        Bank::Predicate => {
            let bits = row.iter().enumerate();
            warp.regs.p[at] = bits.fold(0, |all, (n, &bit)| all | u32::from(bit != 0) << n);
        }
    }
    warp.regs.undefined[bank as usize][at] = 0;
}

fn special(
    run: &Run<'_>,
    warp: &Warp,
    block: &Block,
    rank: u32,
    what: Special,
    lane: usize,
) -> u64 {
    let thread = (warp.index * LANES + lane) as u32;
    let [x, y, _] = run.block;
    let axis = |list: [u32; 3], axis: u8| list[usize::from(axis)];
    let cluster_of = |n: u8| block.id[usize::from(n)] / run.cluster[usize::from(n)];
    let bit = 1u32 << lane;
    u64::from(match what {
        Special::Thread(n) => axis([thread % x, thread / x % y, thread / x / y], n),
        Special::BlockSize(n) => axis(run.block, n),
        Special::Block(n) => axis(block.id, n),
        Special::Grid(n) => axis(run.grid, n),
        Special::Lane => lane as u32,
        Special::Warp => warp.index as u32,
        Special::Warps => block.warps as u32,
        Special::Processor => block.linear % 132,
        Special::Processors => 132,
        Special::GridId => 1,
        Special::Cluster(n) => cluster_of(n),
        Special::Clusters(n) => run.grid[usize::from(n)] / run.cluster[usize::from(n)],
        Special::ClusterBlock(n) => axis(inside(run, rank), n),
        Special::ClusterSize(n) => axis(run.cluster, n),
        Special::ClusterRank => rank,
        Special::ClusterRanks => run.cluster.iter().product(),
        Special::IsExplicitCluster => u32::from(run.kernel.cluster.is_some()),
        Special::MaskEqual => bit,
        Special::MaskLess => bit - 1,
        Special::MaskLessEqual => bit | (bit - 1),
        Special::MaskGreater => !(bit | (bit - 1)),
        Special::MaskGreaterEqual => !(bit - 1),
        Special::GridBarrierHigh => (run.grid_barrier >> 32) as u32,
        Special::GridBarrierLow => run.grid_barrier as u32,
        Special::DynamicShared => run.dynamic_shared,
        Special::TotalShared => run.dynamic_shared + run.kernel.static_shared,
    })
}

//! One warp: its registers, the positions of its threads, and its operations under way.

use crate::clock::Clock;
use crate::flight::{BulkStore, CopyGroups, WgmmaState};
use crate::instruction::Kernel;
use crate::known::ALL_LANES;
use crate::lanes::{LANES, Regs};
use crate::mbarrier::Spot;

/// What a group of threads waits for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Wait {
    /// Nothing: it runs.
    None,
    /// For the other threads of `mask` to reach the same instruction.
    Meet { mask: u32 },
    /// For barrier `id` to leave generation `generation`.
    Barrier { id: usize, generation: u64 },
    /// For the cluster's barrier to leave a generation.
    Cluster { generation: u64 },
    /// For all warps of the warpgroup to issue their product of this number.
    Product { number: u64 },
    /// For so many free registers of the block.
    Registers { count: u32 },
}

/// Threads of a warp that are at the same instruction.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Group {
    pub pc: u32,
    pub mask: u32,
    pub wait: Wait,
}

/// A warp.
#[derive(Debug, Default)]
pub(crate) struct Warp {
    pub regs: Regs,
    /// The block's rank in its cluster.
    pub rank: usize,
    /// Number within the block.
    pub index: usize,
    /// Threads that exist and have not returned.
    pub live: u32,
    pub groups: Vec<Group>,
    /// The group that runs.
    pub current: usize,
    /// Local memory, lane after lane, and whether each byte was written.
    pub local: Vec<u8>,
    pub local_written: Vec<bool>,
    pub clock: Clock,
    pub copies: CopyGroups,
    pub wgmma: WgmmaState,
    /// Registers that each thread has; 0 where `setmaxnreg` does not change them.
    pub registers: u32,
    /// It asked for more registers and waits for them.
    pub asks: bool,
    /// Bulk groups that each lane has committed.
    pub bulk_groups: [u32; LANES],
    /// Bytes of global memory to which bulk stores are under way.
    pub stores: Vec<BulkStore>,
    /// The cluster barrier's generation when this warp arrived at it.
    pub cluster_generation: u64,
    /// Lanes that have arrived at the barrier of the cluster and not waited since.
    pub cluster_arrived: u32,
    /// How often it polled for something that had not happened.
    pub polls: u32,
    /// The mbarrier for which it last waited in vain, and in which phase.
    pub tested: Option<(Spot, u64)>,
    /// It sleeps while this mbarrier is in this phase.
    pub sleeps: Option<(Spot, u64)>,
    /// Instructions executed, which is what its clock shows.
    pub cycles: u64,
    /// What its clock shows in addition, because it slept.
    pub slept: u64,
    /// The last value that each strong load saw, to notice waiting loops.
    pub polled: Option<(u32, u64)>,
    /// Instructions since the running group was chosen at random.
    pub streak: u32,
}

impl Warp {
    /// Prepares the warp to run `kernel` from its first instruction.
    pub(crate) fn start(&mut self, kernel: &Kernel, rank: usize, index: usize, live: u32) {
        self.rank = rank;
        self.index = index;
        self.live = live;
        self.groups.clear();
        if live != 0 {
            self.groups.push(Group { pc: 0, mask: live, wait: Wait::None });
        }
        self.current = 0;
        let bytes = kernel.local_bytes as usize * LANES;
        self.local.clear();
        self.local.resize(bytes, 0xff);
        self.local_written.clear();
        self.local_written.resize(bytes, false);
        let [p, r, d] = kernel.counts;
        self.regs.p.clear();
        self.regs.p.resize(p, 0);
        // A register that was never written reads as an address that is not allocated.
        self.regs.r.clear();
        self.regs.r.resize(r, [0xdead_beef; LANES]);
        self.regs.d.clear();
        self.regs.d.resize(d, [0xdead_beef_dead_beef; LANES]);
        for (undefined, count) in self.regs.undefined.iter_mut().zip(kernel.counts) {
            undefined.clear();
            undefined.resize(count, u32::MAX);
        }
        self.regs.origins.clear();
        self.copies = CopyGroups::default();
        self.wgmma = WgmmaState::default();
        self.registers = kernel.launch_registers.unwrap_or(0);
        self.asks = false;
        self.bulk_groups = [0; LANES];
        self.stores.clear();
        self.cluster_generation = 0;
        self.cluster_arrived = 0;
        self.polls = 0;
        self.tested = None;
        self.sleeps = None;
        self.cycles = 0;
        self.slept = 0;
        self.polled = None;
        self.streak = 0;
    }

    /// Whether all threads have returned.
    pub(crate) fn is_done(&self) -> bool {
        self.live == 0
    }

    /// The lanes of `active`, or all of the warp where these are all that have not returned.
    pub(crate) fn together(&self, active: u32) -> u32 {
        if self.live & !active == 0 { ALL_LANES } else { active }
    }

    /// Removes threads that have returned.
    pub(crate) fn exit(&mut self, mask: u32) {
        self.live &= !mask;
        for group in &mut self.groups {
            group.mask &= !mask;
        }
        self.groups.retain(|group| group.mask != 0);
    }

    /// Joins groups that are at the same instruction, and removes empty ones. Groups that
    /// wait to meet run again when all threads that they wait for are with them.
    pub(crate) fn merge(&mut self) {
        let live = self.live;
        self.groups.retain(|group| group.mask != 0);
        let mut at = 0;
        while at < self.groups.len() {
            let (pc, wait) = (self.groups[at].pc, self.groups[at].wait);
            let mut other = at + 1;
            while other < self.groups.len() {
                let candidate = self.groups[other];
                let open = |wait: Wait| matches!(wait, Wait::None | Wait::Meet { .. });
                let joins = candidate.pc == pc
                    && (candidate.wait == wait || open(candidate.wait) && open(wait));
                if joins {
                    self.groups[at].mask |= candidate.mask;
                    if candidate.wait == Wait::None {
                        self.groups[at].wait = Wait::None;
                    }
                    self.groups.remove(other);
                } else {
                    other += 1;
                }
            }
            let group = &mut self.groups[at];
            if let Wait::Meet { mask } = group.wait
                && mask & live & !group.mask == 0
            {
                group.wait = Wait::None;
            }
            at += 1;
        }
    }

    /// The clock's owner number in its cluster.
    pub(crate) fn id(&self) -> usize {
        self.clock.own
    }
}

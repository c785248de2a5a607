//! What the host halves of decode attention share, the host half of
//! `kernels/split_kv.cuh`: the sequences of a batch are divided among the blocks of one
//! wave, and the last block of a sequence combines the partial results of its splits.

use bytemuck::{Pod, Zeroable};

use super::bound::Bound;
use super::configuration::Configuration;
use super::plan::{Launch, Plan, Scratch};
use super::refusal::{Refusal, refuse_unless};
use super::split::{Costs, WorkList};
use crate::op::KvRead;
use crate::toolchain::Arch;

/// Names of the scratch buffers.
const WORK: &str = "work list";
const OUTPUTS: &str = "partial outputs";
const SOFTMAXES: &str = "partial softmaxes";
const TICKETS: &str = "tickets";

/// Addresses of the scratch buffers, as all `Params` of these kernels have them.
#[derive(Clone, Copy, Pod, Zeroable)]
#[repr(C)]
pub(super) struct SplitBuffers {
    work: u64,
    partial_outputs: u64,
    partial_softmaxes: u64,
    tickets: u64,
}

impl SplitBuffers {
    pub fn new(bound: &Bound) -> Self {
        SplitBuffers {
            work: bound.scratch(WORK),
            partial_outputs: bound.scratch(OUTPUTS),
            partial_softmaxes: bound.scratch(SOFTMAXES),
            tickets: bound.scratch(TICKETS),
        }
    }
}

/// How sequences are divided among blocks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Division {
    /// Into as many splits as keep all blocks busy, whose last block combines them.
    Evenly(Costs),
    /// Each among so many blocks of a cluster, which combine their results together.
    InClusters(u32),
}

/// Most blocks of a cluster that every GPU with clusters can launch.
const MAX_CLUSTER: u32 = 8;

impl Division {
    /// That of a configuration: with `cluster` blocks in clusters, or else at the given costs
    /// with its `overhead` and `whole` tiles. Rows are divided among `row_tiles` blocks of a
    /// cluster.
    ///
    /// # Errors
    /// An architecture without clusters; larger clusters than GPUs launch.
    pub fn new(
        choice: &Configuration,
        costs: Costs,
        row_tiles: u32,
        arch: Arch,
    ) -> Result<Self, Refusal> {
        let blocks = choice.or("cluster", 1);
        if blocks == 1 {
            let or = |name, default: u64| u64::from(choice.or(name, default as u32));
            let overhead = or("overhead", costs.overhead);
            return Ok(Division::Evenly(Costs {
                overhead,
                whole: or("whole", costs.whole),
                combine: or("combine", costs.combine),
            }));
        }
        refuse_unless(arch.can_overlap_launches(), || {
            format!("clusters from sm_90 on, not on {arch}; use another configuration")
        })?;
        refuse_unless(blocks * row_tiles <= MAX_CLUSTER, || {
            format!(
                "clusters of up to {MAX_CLUSTER} blocks, not {blocks} splits times {row_tiles} \
                 blocks for their rows; use another configuration"
            )
        })?;
        Ok(Division::InClusters(blocks))
    }

    /// The macro `CLUSTER` of the kernels: splits of a sequence that are a cluster.
    pub fn blocks_of_cluster(self) -> u32 {
        match self {
            Division::Evenly(_) => 1,
            Division::InClusters(blocks) => blocks,
        }
    }

    /// The list for a problem of which the requests of each length need these tokens, in
    /// tiles of `tile_tokens`, where `resident` blocks run at the same time.
    pub fn list(
        self,
        p: &KvRead,
        needed: impl Fn(u64) -> std::ops::Range<u64>,
        tile_tokens: u32,
        resident: u32,
    ) -> WorkList {
        match self {
            Division::Evenly(costs) => {
                WorkList::of(p, needed, tile_tokens, resident.max(1), costs)
            }
            Division::InClusters(blocks) => {
                WorkList::in_clusters(p, needed, tile_tokens, blocks)
            }
        }
    }
}

/// Sequences divided among blocks.
pub(super) struct DividedSequences {
    pub list: WorkList,
    /// Splits of a sequence that are a cluster, 1 without clusters.
    pub blocks_of_cluster: u32,
    /// Blocks that divide the rows of a sequence among them and read the same keys and
    /// values.
    pub row_tiles: u32,
    /// Rows of a sequence: new tokens times query heads.
    pub rows: u64,
    /// Values of an output row.
    pub value_dim: u64,
}

impl DividedSequences {
    /// Blocks of the launch.
    pub fn blocks(&self) -> u32 {
        self.list.blocks * self.row_tiles
    }

    /// Blocks of a cluster: those that read and combine the same sequence.
    fn cluster(&self) -> u32 {
        match self.blocks_of_cluster {
            1 => 1,
            blocks => blocks * self.row_tiles,
        }
    }

    /// The plan of one launch. `in_flight_bytes` is what a block has in flight;
    /// `more_extra_bytes` is what the kernel reads beyond the compulsory bytes apart from
    /// what dividing adds.
    pub fn plan(
        &self,
        launch: Launch,
        in_flight_bytes: u64,
        more_extra_bytes: u64,
    ) -> Plan {
        let (output_bytes, softmax_bytes) = (self.rows * self.value_dim * 4, self.rows * 8);
        let ticket_bytes = 4 * u64::from(self.row_tiles);
        let list = &self.list;
        // Blocks that divide rows share what they read through L2.
        let extra_bytes = (self.row_tiles == 1).then(|| {
            list.extra_bytes(output_bytes + softmax_bytes, ticket_bytes) + more_extra_bytes
        });
        Plan {
            scratch: vec![
                list.scratch(),
                Scratch::unset(OUTPUTS, list.partials_bytes(output_bytes)),
                Scratch::unset(SOFTMAXES, list.partials_bytes(softmax_bytes)),
                list.tickets(ticket_bytes),
            ],
            extra_bytes,
            imbalance: list.imbalance(),
            ..Plan::of(Launch {
                // Blocks that divide rows read the same.
                bytes_in_flight: in_flight_bytes / u64::from(self.row_tiles),
                cluster: [self.cluster(), 1, 1],
                ..launch
            })
        }
    }
}

/// The factor of scores, 1 / sqrt(width), for softmaxes in powers of 2.
pub(super) fn log2_scale(width: u64) -> f32 {
    (std::f64::consts::LOG2_E / (width as f64).sqrt()) as f32
}

/// Names and addresses from 1 on, as tests bind them: tensors, then scratch buffers.
#[cfg(test)]
pub(super) fn bound_in_order(tensors: &[&'static str]) -> Bound {
    let first_scratch = tensors.len() as u64 + 1;
    Bound::new(0, 0, tensors.iter().copied().zip(1..))
        .with_scratch([WORK, OUTPUTS, SOFTMAXES, TICKETS].into_iter().zip(first_scratch..))
}

//! What the host halves of decode attention share, the host half of
//! `kernels/split_kv.cuh`: the sequences of a batch are divided among the blocks of one
//! wave, and the last block of a sequence combines the partial results of its splits, or
//! the blocks of clusters do together.

use std::ops::Range;

use bytemuck::{Pod, Zeroable};

use super::bound::Bound;
use super::clusters::{BlockWork, MAX_CLUSTER};
use super::configuration::Configuration;
use super::plan::{Launch, Plan, Scratch};
use super::refusal::{Refusal, refuse_unless};
use super::split::{Costs, WorkList, needed_tokens};
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
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Division {
    /// Into as many splits as keep all blocks busy, whose last block combines them.
    Evenly(Costs),
    /// Each among the blocks of clusters, which combine their results together.
    InClusters {
        /// Blocks of a cluster.
        blocks: u32,
        /// Clusters of each sequence; `None` for as many as the work allows.
        clusters: Option<u32>,
        work: BlockWork,
    },
}

impl Division {
    /// That of a configuration. With its `cluster` blocks it is in clusters, `clusters` of them
    /// for each sequence; with `cluster` = 1, or where it says what a split costs, evenly at the
    /// given costs or its own `overhead`, `whole` and `combine`. Where it says neither,
    /// clusters are chosen for sm_90 where they take less time, of the problem's requests of
    /// which those of each length need these tokens.
    ///
    /// # Errors
    /// An architecture without clusters; larger clusters than GPUs launch.
    pub fn new(
        choice: &Configuration,
        costs: Costs,
        work: BlockWork,
        (p, needed): (&KvRead, impl Fn(u64) -> Range<u64>),
        arch: Arch,
    ) -> Result<Self, Refusal> {
        let asked =
            |name| choice.parameters.iter().any(|(parameter, _)| *parameter == name);
        let or = |name, default: u64| u64::from(choice.or(name, default as u32));
        let costs = Costs {
            overhead: or("overhead", costs.overhead),
            whole: or("whole", costs.whole),
            combine: or("combine", costs.combine),
        };
        let fastest = if arch != Arch::SM_90
            || ["overhead", "whole", "combine"].map(asked).contains(&true)
        {
            1
        } else {
            fastest_cluster(costs, work, (p, needed), arch)
        };
        let blocks = choice.or("cluster", fastest);
        if blocks == 1 {
            return Ok(Division::Evenly(costs));
        }
        refuse_unless(arch.can_overlap_launches(), || {
            format!("clusters from sm_90 on, not on {arch}; use another configuration")
        })?;
        refuse_unless(blocks <= MAX_CLUSTER, || {
            format!(
                "clusters of up to {MAX_CLUSTER} blocks, not {blocks}; use another \
                 configuration"
            )
        })?;
        let clusters = asked("clusters").then(|| choice.or("clusters", 1));
        Ok(Division::InClusters { blocks, clusters, work })
    }

    /// The macro `CLUSTER` of the kernels: splits of a sequence that are a cluster.
    pub fn blocks_of_cluster(self) -> u32 {
        match self {
            Division::Evenly(_) => 1,
            Division::InClusters { blocks, .. } => blocks,
        }
    }

    /// The list for a problem of which the requests of each length need these tokens, in
    /// tiles of `tile_tokens`, on `sms` multiprocessors that run `blocks_per_sm` blocks each
    /// at the same time, `row_tiles` of them with the same tokens.
    pub fn list(
        self,
        p: &KvRead,
        needed: impl Fn(u64) -> Range<u64>,
        (tile_tokens, row_tiles): (u32, u32),
        [sms, blocks_per_sm]: [u32; 2],
    ) -> WorkList {
        let resident = (sms * blocks_per_sm / row_tiles).max(1);
        match self {
            Division::Evenly(costs) => {
                WorkList::of(p, needed, tile_tokens, resident, costs)
            }
            Division::InClusters { blocks, clusters, work } => {
                let (needed, kv_heads) = (needed_tokens(p, needed), p.kv_heads as u32);
                let clusters = clusters
                    .unwrap_or_else(|| work.clusters(&needed, kv_heads, blocks, sms));
                WorkList::in_clusters(&needed, kv_heads, tile_tokens, [blocks, clusters])
            }
        }
    }
}

/// Blocks of the clusters with which a problem takes the least time on a usual GPU of the
/// architecture, 1 where its sequences are better divided evenly.
fn fastest_cluster(
    costs: Costs,
    work: BlockWork,
    (p, needed): (&KvRead, impl Fn(u64) -> Range<u64>),
    arch: Arch,
) -> u32 {
    let sms = arch.usual_sms();
    if work.are_too_many(p.batch * p.kv_heads, sms) {
        return 1;
    }
    let (needed, kv_heads) = (needed_tokens(p, needed), p.kv_heads as u32);
    let resident = (sms * work.blocks_per_sm / work.row_tiles).max(1);
    let evenly = WorkList::new(&needed, kv_heads, work.tile_tokens, resident, costs);
    work.fastest(&needed, kv_heads, &evenly, sms).unwrap_or(1)
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
    /// Rows that a block combines at once with those of its cluster.
    pub rows_at_once: u64,
    /// Values of an output row.
    pub value_dim: u64,
}

impl DividedSequences {
    /// Blocks of the launch.
    pub fn blocks(&self) -> u32 {
        self.list.blocks * self.row_tiles
    }

    /// Softmaxes that a partial result has: one for each row, or in clusters for each row of
    /// each slice, where those of two slices may be of one row.
    fn softmaxes(&self) -> u64 {
        let blocks = u64::from(self.blocks_of_cluster);
        let vectors = self.value_dim / 4;
        let slice_rows = |rows: u64| {
            let share = (rows * vectors).div_ceil(blocks);
            let slices = (0..blocks).map(|slice| {
                let begin = (slice * share).min(rows * vectors);
                let end = (begin + share).min(rows * vectors);
                end.div_ceil(vectors) - begin / vectors
            });
            slices.sum::<u64>()
        };
        let whole = self.rows / self.rows_at_once;
        match self.rows % self.rows_at_once {
            0 => whole * slice_rows(self.rows_at_once),
            rest => whole * slice_rows(self.rows_at_once) + slice_rows(rest),
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
        let blocks_of_cluster = u64::from(self.blocks_of_cluster);
        let output_bytes = self.rows * self.value_dim * 4;
        let softmax_bytes = self.rows * 8 * blocks_of_cluster;
        let ticket_bytes = 4 * u64::from(self.row_tiles) * blocks_of_cluster;
        let list = &self.list;
        // Blocks that divide rows share what they read through L2.
        let extra_bytes = (self.row_tiles == 1).then(|| {
            let partial_bytes = output_bytes + 8 * self.softmaxes();
            list.extra_bytes(partial_bytes, ticket_bytes) + more_extra_bytes
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
                cluster: [self.blocks_of_cluster, 1, 1],
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

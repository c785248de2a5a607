//! What the host halves of decode attention share, the host half of
//! `kernels/split_kv.cuh`: the sequences of a batch are divided among the blocks of one
//! wave, and the last block of a sequence combines the partial results of its splits.

use bytemuck::{Pod, Zeroable};

use super::bound::Bound;
use super::plan::{Launch, Plan, Scratch};
use super::split::WorkList;

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

/// Sequences divided among blocks.
pub(super) struct DividedSequences {
    pub list: WorkList,
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

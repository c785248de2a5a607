//! Host half of `kernels/stream.cu`.

use bytemuck::{Pod, Zeroable};

use super::configuration::Configuration;
use super::contract::HostHalf;
use super::plan::{Launch, Params, Plan, Scratch};
use super::refusal::Refusal;
use crate::op::{Access, Stream};
use crate::reference::{TRIAD_FACTOR, write_pattern};
use crate::toolchain::{Arch, Defines, Target};

/// Threads of a block.
const THREADS: u32 = 512;
/// Accesses of 16 bytes that a thread has in flight.
const UNROLL: u32 = 8;
/// Bytes of one access.
const VECTOR_BYTES: u64 = 16;

/// `Params` of the kernel.
#[derive(Clone, Copy, Pod, Zeroable)]
#[repr(C)]
struct StreamParams {
    source: u64,
    second: u64,
    target: u64,
    checksum: u64,
    partials: u64,
    ticket: u64,
    vectors: u64,
    pattern: u32,
    factor: f32,
}

/// A stream by accesses of 16 bytes.
pub(super) struct VectorStream {
    stream: Stream,
    /// Blocks that share an SM.
    blocks_per_sm: u32,
}

impl HostHalf for VectorStream {
    type Operation = Stream;
    const NAME: &'static str = "stream";
    const SOURCE: &'static str = include_str!("../../kernels/stream.cu");
    const MEMORY_BOUND: bool = true;
    const CONFIGURATIONS: &[Configuration] = &[];

    fn configure(stream: &Stream, arch: Arch, _: &Configuration) -> Result<Self, Refusal> {
        // 2 blocks of 512 threads leave 64 registers each.
        let blocks_per_sm = (arch.limits().threads_per_sm / THREADS).min(2);
        Ok(VectorStream { stream: *stream, blocks_per_sm })
    }

    fn defines(&self) -> Defines {
        Defines::new()
            .with("THREADS", THREADS)
            .with("UNROLL", UNROLL)
            .with("BLOCKS_PER_SM", self.blocks_per_sm)
    }

    fn plan(&self, target: &Target) -> Plan {
        let Stream { access, bytes } = self.stream;
        let vectors = match access {
            Access::Read | Access::Write => bytes / VECTOR_BYTES,
            Access::Copy => bytes / 2 / VECTOR_BYTES,
            Access::Triad => bytes / 3 / VECTOR_BYTES,
        };
        // Few bytes are spread over many SMs rather than read by a few: with a
        // tile for each block, 4 MiB would keep half of an H100 idle.
        let resident = u64::from(target.sms * self.blocks_per_sm);
        let blocks = vectors.div_ceil(THREADS.into()).clamp(1, resident) as u32;
        let entry = match access {
            Access::Read => "stream_read",
            Access::Write => "stream_write",
            Access::Copy => "stream_copy",
            Access::Triad => "stream_triad",
        };
        let params = Params::of(move |bound| {
            let [source, second, target] = match access {
                Access::Read | Access::Write | Access::Copy => {
                    [bound.tensor_or_null("source"), 0, bound.tensor_or_null("target")]
                }
                Access::Triad => ["b", "c", "a"].map(|name| bound.tensor(name)),
            };
            StreamParams {
                source,
                second,
                target,
                checksum: bound.tensor_or_null("checksum"),
                partials: bound.scratch("partials"),
                ticket: bound.scratch("ticket"),
                vectors,
                pattern: write_pattern(bound.seed, bound.slot),
                factor: TRIAD_FACTOR,
            }
        });
        Plan {
            scratch: vec![
                Scratch::unset("partials", 4 * u64::from(blocks)),
                Scratch::zeros("ticket", 4),
            ],
            ..Plan::of(Launch {
                bytes_in_flight: u64::from(THREADS * UNROLL) * VECTOR_BYTES,
                ..Launch::new(entry, blocks, THREADS, params)
            })
        }
    }
}

//! Host half of `kernels/stream.cu`.

use bytemuck::{Pod, Zeroable};

use super::{Arch, Defines, Kernel, Launch, Params, Plan, Refusal, Scratch, Target};
use crate::op::{Access, Op, Problem, Stream};
use crate::reference::{TRIAD_FACTOR, write_pattern};

pub(super) const KERNEL: Kernel = Kernel {
    name: "stream",
    op: Op::Stream,
    source: include_str!("../../kernels/stream.cu"),
    supports,
    defines,
    plan,
};

/// Threads of a block.
const THREADS: u32 = 512;
/// Accesses of 16 bytes that a thread has under way.
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

/// The stream that a problem is.
pub(super) fn of(problem: &Problem) -> Stream {
    let Problem::Stream(stream) = *problem else {
        unreachable!("the kernel table pairs operations and kernels")
    };
    stream
}

fn supports(_: &Problem, _: Arch) -> Result<(), Refusal> {
    Ok(())
}

/// Blocks that share an SM: 2 blocks of 512 threads leave 64 registers each.
fn blocks_per_sm(arch: Arch) -> u32 {
    (Target::new(arch, 1).threads_per_sm / THREADS).min(2)
}

fn defines(_: &Problem, arch: Arch) -> Defines {
    Defines::new()
        .with("THREADS", THREADS)
        .with("UNROLL", UNROLL)
        .with("BLOCKS_PER_SM", blocks_per_sm(arch))
}

fn plan(problem: &Problem, target: &Target) -> Plan {
    let Stream { access, bytes } = of(problem);
    let vectors = match access {
        Access::Read | Access::Write => bytes / VECTOR_BYTES,
        Access::Copy => bytes / 2 / VECTOR_BYTES,
        Access::Triad => bytes / 3 / VECTOR_BYTES,
    };
    // Little is spread over many SMs rather than read at depth by a few: with a
    // tile for each block, 4 MiB would keep half of an H100 idle.
    let resident = u64::from(target.sms * blocks_per_sm(target.arch));
    let blocks = vectors.div_ceil(THREADS.into()).clamp(1, resident) as u32;
    let entry = match access {
        Access::Read => "stream_read",
        Access::Write => "stream_write",
        Access::Copy => "stream_copy",
        Access::Triad => "stream_triad",
    };
    let params = Params::of(move |bound| {
        let [source, second, target, checksum] = match (access, bound.tensors) {
            (Access::Read, &[source, checksum]) => [source, 0, 0, checksum],
            (Access::Copy, &[source, target]) => [source, 0, target, 0],
            (Access::Triad, &[b, c, a]) => [b, c, a, 0],
            (_, tensors) => [0, 0, tensors[0], 0],
        };
        StreamParams {
            source,
            second,
            target,
            checksum,
            partials: bound.scratch[0],
            ticket: bound.scratch[1],
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

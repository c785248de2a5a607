//! Host half of `kernels/stream.cu`.

use bytemuck::{Pod, Zeroable};

use super::{Arch, Defines, Kernel, Launch, Params, Plan, Refusal, Scratch, Target};
use crate::problem::{Access, Op, Problem, Stream};
use crate::reference::write_pattern;

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
    target: u64,
    checksum: u64,
    partials: u64,
    ticket: u64,
    vectors: u64,
    pattern: u32,
    unused: u32,
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
    let Problem::Stream(Stream { access, bytes }) = *problem else {
        unreachable!("the kernel table pairs operations and kernels")
    };
    let vectors = match access {
        Access::Read | Access::Write => bytes / VECTOR_BYTES,
        Access::Copy => bytes / 2 / VECTOR_BYTES,
    };
    let tiles = vectors.div_ceil(u64::from(THREADS * UNROLL));
    let resident = u64::from(target.sms * blocks_per_sm(target.arch));
    let blocks = tiles.clamp(1, resident) as u32;
    let entry = match access {
        Access::Read => "stream_read",
        Access::Write => "stream_write",
        Access::Copy => "stream_copy",
    };
    let params = Params::of(move |bound| {
        let (source, target, checksum) = match (access, bound.tensors) {
            (Access::Read, &[source, checksum]) => (source, 0, checksum),
            (Access::Copy, &[source, target]) => (source, target, 0),
            (_, tensors) => (0, tensors[0], 0),
        };
        StreamParams {
            source,
            target,
            checksum,
            partials: bound.scratch[0],
            ticket: bound.scratch[1],
            vectors,
            pattern: write_pattern(bound.seed, bound.slot),
            unused: 0,
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

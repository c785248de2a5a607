//! Host half of `kernels/stream_bulk.cu`.

use bytemuck::{Pod, Zeroable};

use super::{Arch, Defines, Kernel, Launch, Params, Plan, Refusal, Scratch, Target};
use super::{refuse_unless, stream};
use crate::op::{Access, Op, Problem};
use crate::reference::write_pattern;

pub(super) const KERNEL: Kernel = Kernel {
    name: "stream_bulk",
    op: Op::Stream,
    source: include_str!("../../kernels/stream_bulk.cu"),
    supports,
    defines,
    plan,
};

/// Warps that add up what one more warp copies.
const READER_WARPS: u32 = 8;
/// Threads of a block.
const THREADS: u32 = 32 * (READER_WARPS + 1);
/// Blocks that share an SM: one has all of its shared memory.
const BLOCKS_PER_SM: u32 = 1;
/// Bytes of one copy, a place in the ring: long enough that one thread can issue
/// them fast enough, short enough that blocks end together.
const STAGE_BYTES: u32 = 16 << 10;
/// Most places; 176 KiB under way are six times what DRAM's latency needs.
const MAX_STAGES: u32 = 12;
/// Shared memory that the kernel declares itself, and more.
const OTHER_SHARED_BYTES: u32 = 1024;

/// `Params` of the kernel.
#[derive(Clone, Copy, Pod, Zeroable)]
#[repr(C)]
struct StreamBulkParams {
    source: u64,
    target: u64,
    checksum: u64,
    partials: u64,
    ticket: u64,
    bytes: u64,
    pattern: u32,
    unused: u32,
}

fn supports(problem: &Problem, arch: Arch) -> Result<(), Refusal> {
    refuse_unless(arch >= Arch::SM_90, || {
        format!(
            "sm_90 and later, where one thread can copy in bulk, not {arch}; use `stream`"
        )
    })?;
    let access = stream::of(problem).access;
    refuse_unless(access != Access::Triad, || {
        "read, write and copy by bulk copies, which cannot add, not triad; use `stream`"
            .to_owned()
    })
}

/// Places in the ring of a block.
fn stages(arch: Arch) -> u32 {
    let shared_bytes = Target::new(arch, 1).shared_bytes_per_block - OTHER_SHARED_BYTES;
    (shared_bytes / STAGE_BYTES).min(MAX_STAGES)
}

fn defines(_: &Problem, arch: Arch) -> Defines {
    Defines::new()
        .with("THREADS", THREADS)
        .with("BLOCKS_PER_SM", BLOCKS_PER_SM)
        .with("STAGES", stages(arch))
        .with("STAGE_BYTES", STAGE_BYTES)
}

fn plan(problem: &Problem, target: &Target) -> Plan {
    let p = stream::of(problem);
    let (entry, bytes, places) = match p.access {
        Access::Read => ("stream_bulk_read", p.bytes, stages(target.arch)),
        Access::Write => ("stream_bulk_write", p.bytes, 1),
        Access::Copy => ("stream_bulk_copy", p.bytes / 2, stages(target.arch)),
        Access::Triad => unreachable!("`supports` refuses triads"),
    };
    let resident = u64::from(target.sms * BLOCKS_PER_SM);
    let blocks = bytes.div_ceil(STAGE_BYTES.into()).clamp(1, resident) as u32;
    let params = Params::of(move |bound| {
        let [source, target, checksum] = match (p.access, bound.tensors) {
            (Access::Read, &[source, checksum]) => [source, 0, checksum],
            (Access::Copy, &[source, target]) => [source, target, 0],
            (_, tensors) => [0, tensors[0], 0],
        };
        StreamBulkParams {
            source,
            target,
            checksum,
            partials: bound.scratch[0],
            ticket: bound.scratch[1],
            bytes,
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
            shared_bytes: places * STAGE_BYTES,
            // A place is being read, or its copy awaited.
            bytes_in_flight: u64::from((stages(target.arch) - 1) * STAGE_BYTES),
            ..Launch::new(entry, blocks, THREADS, params)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernel::Bound;

    fn problem(access: Access, bytes: u64) -> Problem {
        format!("stream:access={access},bytes={bytes}").parse().unwrap()
    }

    #[test]
    fn rings_fit_every_architecture_and_cover_latency() {
        for arch in ["sm_90a", "sm_100a", "sm_120"].map(|arch| arch.parse().unwrap()) {
            let target = Target::new(arch, 1);
            let launch = &plan(&problem(Access::Read, 1 << 30), &target).launches[0];
            let block = launch.shared_bytes + OTHER_SHARED_BYTES;
            assert!(block <= target.shared_bytes_per_block, "{arch}");
            assert!(launch.bytes_in_flight >= 64 << 10, "{arch}");
        }
        assert_eq!((stages(Arch::SM_90), stages(Arch::SM_120)), (12, 6));
    }

    #[test]
    fn refusals_name_the_other_kernel() {
        for (access, arch, says) in [
            (Access::Read, Arch::SM_80, "sm_90 and later"),
            (Access::Read, Arch::SM_89, "not sm_89; use `stream`"),
            (Access::Triad, Arch::SM_90, "not triad; use `stream`"),
        ] {
            let refusal = supports(&problem(access, 384), arch).unwrap_err();
            assert!(refusal.0.contains(says), "{refusal}");
        }
        let read = problem(Access::Read, 384);
        let default = Kernel::for_problem(&read, Arch::SM_90).unwrap();
        assert_eq!(default.name, "stream");
        let asked = Kernel::asked_for("stream_bulk", &read, Arch::SM_120).unwrap();
        assert_eq!(asked.name, "stream_bulk");
    }

    #[test]
    fn params_lie_as_the_kernel_declares() {
        let target = Target::new(Arch::SM_90, 132);
        let bound = Bound {
            seed: 1,
            slot: 0,
            tensors: &[256, 512],
            scratch: &[1024, 2048],
            tensor_maps: &[],
        };
        let words = |access| {
            let plan = plan(&problem(access, 1 << 20), &target);
            let launch = &plan.launches[0];
            let bytes = launch.params.bytes(&bound);
            let words: Vec<u64> = bytemuck::pod_collect_to_vec(&bytes[..48]);
            (launch.grid[0], launch.shared_bytes, words)
        };
        let (blocks, shared_bytes, read) = words(Access::Read);
        assert_eq!((blocks, shared_bytes), (64, 12 << 14));
        assert_eq!(read, [256, 0, 512, 1024, 2048, 1 << 20]);
        let (blocks, _, copy) = words(Access::Copy);
        assert_eq!((blocks, &copy[..3], copy[5]), (32, &[256, 512, 0][..], 1 << 19));
    }
}

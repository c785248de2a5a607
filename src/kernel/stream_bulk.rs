//! Host half of `kernels/stream_bulk.cu`.

use bytemuck::{Pod, Zeroable};

use super::configuration::Configuration;
use super::contract::HostHalf;
use super::plan::{Launch, Params, Plan, Scratch};
use super::refusal::{Refusal, refuse_unless, supports};
use crate::op::{Access, Stream};
use crate::reference::write_pattern;
use crate::toolchain::{Arch, Defines, Target};

/// Warps that sum what one more warp copies.
const READER_WARPS: u32 = 8;
/// Blocks that share an SM: one has all of its shared memory.
const BLOCKS_PER_SM: u32 = 1;
/// Bytes of one copy, a stage of the ring: large enough that one thread can issue
/// copies fast enough, small enough that blocks end together.
const STAGE_BYTES: u32 = 16 << 10;
/// Most bytes of a ring; 176 KiB in flight are six times what DRAM's latency needs.
const MAX_RING_BYTES: u32 = 192 << 10;
/// Shared memory that the kernel declares itself, at most.
const STATIC_SHARED_BYTES: u32 = 1024;

/// `Params` of the kernel.
#[derive(Clone, Copy, Pod, Zeroable)]
#[repr(C)]
struct StreamBulkParams {
    source: u64,
    target: u64,
    checksum: u64,
    progress: u64,
    bytes: u64,
    pattern: u32,
    unused: u32,
}

/// A stream by bulk copies.
pub(super) struct BulkStream {
    entry: &'static str,
    /// Bytes that are copied: of one array.
    bytes: u64,
    /// Stages of a block's ring.
    stages: u32,
    /// Stages that the entry uses.
    used_stages: u32,
    /// Bytes of a stage.
    stage_bytes: u32,
    /// Threads of a block: warps that sum, and one that copies.
    threads: u32,
    /// Blocks that share an SM.
    blocks_per_sm: u32,
}

impl HostHalf for BulkStream {
    type Operation = Stream;
    const NAME: &'static str = "stream_bulk";
    const SOURCE: &'static str = include_str!("../../kernels/stream_bulk.cu");
    const MEMORY_BOUND: bool = true;
    const CONFIGURATIONS: &[Configuration] = &[
        // Fewer bytes in flight compete less for a DRAM that is not far away.
        Configuration::new("stages_5", &[("stages", 5)]),
        // Smaller copies divide few bytes more evenly, larger ones are fewer to start.
        Configuration::new("stage_8k", &[("stage_bytes", 8 << 10)]),
        Configuration::new("stage_32k", &[("stage_bytes", 32 << 10)]),
        Configuration::new("readers_4", &[("reader_warps", 4)]),
        Configuration::new("readers_16", &[("reader_warps", 16)]),
        // Two threads of an SM start copies.
        Configuration::new("blocks_2", &[("blocks_per_sm", 2), ("reader_warps", 4)]),
    ];

    fn configure(p: &Stream, arch: Arch, choice: &Configuration) -> Result<Self, Refusal> {
        refuse_unless(arch >= Arch::SM_90, || {
            format!("sm_90 and later, which have bulk copies, not {arch}; use `stream`")
        })?;
        refuse_unless(p.passes == 1, || {
            format!("one pass by bulk copies, not passes = {}; use `stream`", p.passes)
        })?;
        let blocks_per_sm = choice.or("blocks_per_sm", BLOCKS_PER_SM);
        let stage_bytes = choice.or("stage_bytes", STAGE_BYTES);
        let shared_bytes =
            arch.limits().shared_bytes_of_block(blocks_per_sm) - STATIC_SHARED_BYTES;
        let most = shared_bytes.min(MAX_RING_BYTES) / stage_bytes;
        let stages = choice.or("stages", most);
        refuse_unless((2..=most).contains(&stages), || {
            format!(
                "2 to {most} stages of {stage_bytes} bytes on {arch}, not {stages}; use the \
                 default configuration"
            )
        })?;
        let (entry, bytes, used_stages) = match p.access {
            Access::Read => ("stream_bulk_read", p.bytes, stages),
            Access::Write => ("stream_bulk_write", p.bytes, 1),
            Access::Copy => ("stream_bulk_copy", p.bytes / 2, stages),
            Access::Triad => {
                return Err(supports(
                    "read, write and copy by bulk copies, which cannot add, not triad; use \
                     `stream`",
                ));
            }
        };
        let threads = 32 * (choice.or("reader_warps", READER_WARPS) + 1);
        Ok(BulkStream {
            entry,
            bytes,
            stages,
            used_stages,
            stage_bytes,
            threads,
            blocks_per_sm,
        })
    }

    fn defines(&self) -> Defines {
        Defines::new()
            .with("THREADS", self.threads)
            .with("BLOCKS_PER_SM", self.blocks_per_sm)
            .with("STAGES", self.stages)
            .with("STAGE_BYTES", self.stage_bytes)
    }

    fn plan(&self, target: &Target) -> Plan {
        let bytes = self.bytes;
        let resident = u64::from(target.sms * self.blocks_per_sm);
        let blocks = bytes.div_ceil(self.stage_bytes.into()).clamp(1, resident) as u32;
        let params = Params::of(move |bound| StreamBulkParams {
            source: bound.tensor_or_null("source"),
            target: bound.tensor_or_null("target"),
            checksum: bound.tensor_or_null("checksum"),
            progress: bound.scratch("progress"),
            bytes,
            pattern: write_pattern(bound.seed, bound.slot),
            unused: 0,
        });
        Plan {
            scratch: vec![Scratch::zeros("progress", 8)],
            ..Plan::of(Launch {
                shared_bytes: self.used_stages * self.stage_bytes,
                // A stage is being read, or its copy awaited.
                bytes_in_flight: u64::from((self.stages - 1) * self.stage_bytes),
                ..Launch::new(self.entry, blocks, self.threads, params)
            })
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernel::contract::testing::{configured, configured_as, plan, refusal};
    use crate::kernel::{Bound, Kernel};

    fn stream(access: Access, bytes: u64) -> String {
        format!("stream:access={access},bytes={bytes}")
    }

    #[test]
    fn rings_fit_every_architecture_and_cover_latency() {
        for arch in ["sm_90a", "sm_100a", "sm_120"].map(|arch| arch.parse().unwrap()) {
            let target = Target::new(arch, 1);
            let read = stream(Access::Read, 1 << 30);
            let launch = &plan::<BulkStream>(&read, &target).launches[0];
            let block = launch.shared_bytes + STATIC_SHARED_BYTES;
            assert!(block <= target.limits.shared_bytes_per_block, "{arch}");
            assert!(launch.bytes_in_flight >= 64 << 10, "{arch}");
        }
        let stages = |arch| {
            configured::<BulkStream>(&stream(Access::Read, 384), arch).unwrap().stages
        };
        assert_eq!((stages(Arch::SM_90), stages(Arch::SM_120)), (12, 6));
    }

    #[test]
    fn configurations_cut_the_ring_otherwise() {
        let read = stream(Access::Read, 1 << 30);
        let target = Target::new(Arch::SM_90, 132);
        let launch = |name, macros: &str| {
            let half = configured_as::<BulkStream>(&read, Arch::SM_90, name).unwrap();
            assert_eq!(half.defines().options().join(" "), macros);
            let launch = half.plan(&target).launches.remove(0);
            (launch.grid[0], launch.shared_bytes, launch.bytes_in_flight)
        };
        let small = "-DTHREADS=288 -DBLOCKS_PER_SM=1 -DSTAGES=24 -DSTAGE_BYTES=8192";
        assert_eq!(launch("stage_8k", small), (132, 192 << 10, 23 << 13));
        let two = "-DTHREADS=160 -DBLOCKS_PER_SM=2 -DSTAGES=7 -DSTAGE_BYTES=16384";
        assert_eq!(launch("blocks_2", two), (264, 7 << 14, 6 << 14));
        let why = configured_as::<BulkStream>(&read, Arch::SM_120, "blocks_2").err();
        assert_eq!(why, None, "two stages of each block fit");
    }

    #[test]
    fn refusals_name_the_other_kernel() {
        for (access, arch, says) in [
            (Access::Read, Arch::SM_80, "sm_90 and later"),
            (Access::Read, Arch::SM_89, "not sm_89; use `stream`"),
            (Access::Triad, Arch::SM_90, "not triad; use `stream`"),
        ] {
            let refusal = refusal::<BulkStream>(&stream(access, 384), arch);
            assert!(refusal.contains(says), "{refusal}");
        }
        let read = stream(Access::Read, 384).parse().unwrap();
        let default = Kernel::for_problem(&read, Arch::SM_90).unwrap();
        assert_eq!(default.kernel.name, "stream");
        let asked = Kernel::asked_for("stream_bulk", &read, Arch::SM_120).unwrap();
        assert_eq!(asked.kernel.name, "stream_bulk");
    }

    #[test]
    fn params_lie_as_the_kernel_declares() {
        let target = Target::new(Arch::SM_90, 132);
        let words = |access| {
            let second = if access == Access::Read { "checksum" } else { "target" };
            let bound = Bound::new(1, 0, [("source", 256), (second, 512)])
                .with_scratch([("progress", 1024)]);
            let plan = plan::<BulkStream>(&stream(access, 1 << 20), &target);
            let launch = &plan.launches[0];
            let bytes = launch.params.bytes(&bound);
            let words: Vec<u64> = bytemuck::pod_collect_to_vec(&bytes[..40]);
            (launch.grid[0], launch.shared_bytes, words)
        };
        let (blocks, shared_bytes, read) = words(Access::Read);
        assert_eq!((blocks, shared_bytes), (64, 12 << 14));
        assert_eq!(read, [256, 0, 512, 1024, 1 << 20]);
        let (blocks, _, copy) = words(Access::Copy);
        assert_eq!((blocks, &copy[..3], copy[4]), (32, &[256, 512, 0][..], 1 << 19));
    }
}

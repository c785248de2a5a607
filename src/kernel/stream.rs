//! Host half of `kernels/stream.cu`.

use bytemuck::{Pod, Zeroable};

use super::configuration::Configuration;
use super::contract::HostHalf;
use super::plan::{Launch, Params, Plan, Scratch};
use super::refusal::{Refusal, refuse_unless};
use crate::op::{Access, Reuse, Stream};
use crate::reference::{TRIAD_FACTOR, write_pattern};
use crate::toolchain::{Arch, Defines, Target};

/// Bytes of one access.
const VECTOR_BYTES: u64 = 16;
/// Bytes from which on a block has one tile.
///
/// Of 60 ways to read 4 GiB an H100 was fastest with blocks of 512 threads that read 16 KiB and
/// end: 3182 GB/s, and 3119 at best where blocks stay and loop. That holds while the GPU is
/// full of blocks at different points of their lives. Four of them to each of 132 SMs are one
/// wave of 8.65 MB; below about eight waves the first and the last, in which it is not full,
/// are a quarter of the time, and blocks that stay share the bytes more evenly. A set that a
/// cache holds is below it too, on most GPUs.
const TILED_BYTES: u64 = 64 << 20;
/// `FORM` of the kernel: blocks stay and take tiles in turn.
const LOOPED: u32 = 0;
/// A block has one tile and ends.
const ONE_TILE: u32 = 1;
/// A block has one share, which it reads in every pass.
const OWN_SHARE: u32 = 2;
/// Accesses of a line of memory, of which shares are made.
const LINE_VECTORS: u64 = 8;
/// Blocks of an SM that stay.
const LOOPED_BLOCKS: u32 = 2;

/// `Params` of the kernel.
#[derive(Clone, Copy, Pod, Zeroable)]
#[repr(C)]
struct StreamParams {
    source: u64,
    second: u64,
    target: u64,
    checksum: u64,
    progress: u64,
    vectors: u64,
    passes: u32,
    unused: u32,
    pattern: u32,
    factor: f32,
}

/// A stream by accesses of 16 bytes.
pub(super) struct VectorStream {
    stream: Stream,
    /// How the bytes are divided, `FORM` of the kernel.
    form: u32,
    /// Threads of a block.
    threads: u32,
    /// Accesses of 16 bytes that a thread has in flight.
    unroll: u32,
    /// Blocks that share an SM.
    blocks_per_sm: u32,
    /// What loads ask of L2, see the kernel.
    hint: u32,
}

impl HostHalf for VectorStream {
    type Operation = Stream;
    const NAME: &'static str = "stream";
    const SOURCE: &'static str = include_str!("../../kernels/stream.cu");
    const MEMORY_BOUND: bool = true;
    const CONFIGURATIONS: &[Configuration] = &[
        Configuration::new("looped", &[("one_tile", 0)]),
        Configuration::new(
            "looped_short",
            &[("one_tile", 0), ("unroll", 4), ("blocks", 3)],
        ),
        Configuration::new("one_tile", &[("one_tile", 1)]),
        Configuration::new("one_tile_1024", &[("one_tile", 1), ("threads", 1024)]),
        Configuration::new("one_tile_256", &[("one_tile", 1), ("threads", 256)]),
        Configuration::new("one_tile_long", &[("one_tile", 1), ("unroll", 4)]),
        Configuration::new("one_tile_no_hint", &[("one_tile", 1), ("hint", 1)]),
        Configuration::new("one_tile_streaming", &[("one_tile", 1), ("hint", 2)]),
    ];

    fn configure(
        stream: &Stream,
        arch: Arch,
        choice: &Configuration,
    ) -> Result<Self, Refusal> {
        // An H100 reads 1% faster without a loop, an H200 10% slower: the loop is safe.
        let is_tiled = stream.bytes >= TILED_BYTES
            && stream.passes == 1
            && stream.access != Access::Read;
        let one_tile = choice.or("one_tile", u32::from(is_tiled)) == 1;
        refuse_unless(stream.passes == 1 || !one_tile, || {
            format!(
                "one pass where a block has one tile and ends, not passes = {}; use \
                 `stream.looped`",
                stream.passes
            )
        })?;
        // With 8 accesses, 2 blocks of 512 threads leave 64 registers each.
        let (unroll, blocks) = if one_tile { (2, u32::MAX) } else { (8, LOOPED_BLOCKS) };
        let form = match stream.reuse {
            Reuse::Own => OWN_SHARE,
            Reuse::Shared if one_tile => ONE_TILE,
            Reuse::Shared => LOOPED,
        };
        // An L1 is near: few threads have enough in flight, and many would have so little each
        // that their instructions took longer than their loads.
        let threads = if form == OWN_SHARE { 256 } else { 512 };
        let threads = choice.or("threads", threads);
        let most = arch.limits().threads_per_sm / threads;
        Ok(VectorStream {
            stream: *stream,
            form,
            threads,
            unroll: choice.or("unroll", unroll),
            blocks_per_sm: choice.or("blocks", blocks).min(most),
            hint: choice.or("hint", 0),
        })
    }

    fn defines(&self) -> Defines {
        Defines::new()
            .with("FORM", self.form)
            .with("THREADS", self.threads)
            .with("UNROLL", self.unroll)
            .with("BLOCKS_PER_SM", self.blocks_per_sm)
            .with("HINT", self.hint)
    }

    fn plan(&self, target: &Target) -> Plan {
        let Stream { access, bytes, passes, reuse: _ } = self.stream;
        let vectors = match access {
            Access::Read | Access::Write => bytes / VECTOR_BYTES,
            Access::Copy => bytes / 2 / VECTOR_BYTES,
            Access::Triad => bytes / 3 / VECTOR_BYTES,
        };
        let blocks = self.blocks(vectors, target);
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
                progress: bound.scratch("progress"),
                vectors,
                passes: passes as u32,
                unused: 0,
                pattern: write_pattern(bound.seed, bound.slot),
                factor: TRIAD_FACTOR,
            }
        });
        Plan {
            scratch: vec![Scratch::zeros("progress", 8)],
            ..Plan::of(Launch {
                prefers_l1: self.form == OWN_SHARE,
                bytes_in_flight: u64::from(self.threads * self.unroll) * VECTOR_BYTES,
                ..Launch::new(entry, blocks, self.threads, params)
            })
        }
    }
}

impl VectorStream {
    /// Blocks for arrays of so many accesses.
    fn blocks(&self, vectors: u64, target: &Target) -> u32 {
        let threads = u64::from(self.threads);
        if self.form == ONE_TILE {
            // A triad has half of its loads in each of two arrays.
            let arrays = if self.stream.access == Access::Triad { 2 } else { 1 };
            let tile = threads * u64::from(self.unroll) / arrays;
            // 2^31 - 1 blocks of the smallest tile are 16 TiB.
            return vectors.div_ceil(tile).max(1) as u32;
        }
        // Few bytes are spread over many SMs rather than read by a few: with a
        // tile for each block, 4 MiB would keep half of an H100 idle.
        let resident = u64::from(target.sms * self.blocks_per_sm);
        if self.form == OWN_SHARE {
            // As many on each SM, whatever they have to read: what one SM reads more than
            // another, the others wait for.
            return (vectors / LINE_VECTORS).clamp(1, resident) as u32;
        }
        vectors.div_ceil(threads).clamp(1, resident) as u32
    }
}

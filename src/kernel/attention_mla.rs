//! Host half of `kernels/attention_mla.cu`.

use bytemuck::{Pod, Zeroable};

use super::clusters::BlockWork;
use super::configuration::Configuration;
use super::contract::{HostHalf, OVERLAP};
use super::formats::{cached_latents, element};
use super::kv_read::{page_size, request_rows};
use super::plan::{Launch, Params, Plan};
use super::refusal::{Refusal, refuse_unless, supports};
use super::split::{Costs, refuse_counts};
use super::split_kv::{DividedSequences, Division, SplitBuffers, log2_scale};
use crate::op::{MlaDecode, SCORE_WIDTH};
use crate::quant::Quant;
use crate::toolchain::{Arch, Defines, Target};

/// Threads of the one block of an SM: two warps for each quarter of the columns.
const THREADS: u32 = 256;
/// Elements of a record that are keys and values: `kv_lora_rank`.
const KV_LORA_RANK: u64 = 512;
/// Further elements of a record, of keys only: `qk_rope_head_dim`.
const QK_ROPE_HEAD_DIM: u64 = 64;
/// Quarters of the latents, which have a scale each.
const QUARTERS: u32 = 4;
/// Most query heads.
const MAX_HEADS: u64 = 128;
/// Most rows of a block: more queries do not fit its registers.
const MAX_ROWS: u32 = 32;
/// Most stages of the ring.
const MAX_STAGES: u32 = 8;
/// Bytes in flight that a block has where they fit: larger tiles need fewer barriers,
/// smaller ones keep more of the ring in flight. By Little's law an H200 needs 29 KB.
const ENOUGH_IN_FLIGHT: u32 = 64 << 10;
/// Bytes of a sequence that one block reads: to divide fewer saves less than combining takes,
/// some 4 us (docs/METHODOLOGY.md, fixed costs), in which an SM reads them at 80 GB/s.
const WHOLE_BYTES: u64 = 320 << 10;
/// Tiles that a block reads in the time in which it combines a split of 16 rows: 1.1 us on an
/// H200, where one block combined 128 of them.
const COMBINE_TILES: u64 = 2;
/// Shared memory that the kernel declares itself, at most.
const STATIC_SHARED_BYTES: u32 = 1024;

/// `Params` of the kernel.
#[derive(Clone, Copy, Pod, Zeroable)]
#[repr(C)]
struct MlaParams {
    kv: u64,
    page_table: u64,
    q: u64,
    o: u64,
    buffers: SplitBuffers,
    request_rows: u32,
    scale: f32,
}

/// Blocks that divide the rows of a request, query heads times new tokens.
fn row_tiles(p: &MlaDecode) -> u32 {
    rows(p).div_ceil(MAX_ROWS)
}

fn rows(p: &MlaDecode) -> u32 {
    (p.q_heads * p.new_tokens) as u32
}

/// How a block uses the shared memory of its SM.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Ring {
    /// Tokens of a tile.
    tile_tokens: u32,
    /// Stages of the ring, of one tile each.
    stages: u32,
    /// Bytes of a tile.
    stage_bytes: u32,
    /// Dynamic shared memory of the block.
    shared_bytes: u32,
}

impl Ring {
    /// The largest tiles that leave enough bytes in flight, or else the smallest. A
    /// configuration may ask for a `tile` of so many tokens, and for fewer `stages` than fit.
    ///
    /// # Errors
    /// What a configuration asks for does not fit.
    fn new(p: &MlaDecode, arch: Arch, choice: &Configuration) -> Result<Self, Refusal> {
        let shared_bytes = arch.limits().shared_bytes_of_block(1);
        let tile_rows = rows(p).div_ceil(row_tiles(p)).next_multiple_of(16);
        let fit = |tile_tokens: u32| {
            let stage_bytes = tile_tokens * p.record_bytes() as u32;
            let exchange_bytes = exchange_bytes(tile_rows, tile_tokens, p.kv_dtype);
            let room = shared_bytes - STATIC_SHARED_BYTES - exchange_bytes;
            let stages = (room / stage_bytes).min(choice.or("stages", MAX_STAGES));
            let shared_bytes = stages * stage_bytes + exchange_bytes;
            Ring { tile_tokens, stages, stage_bytes, shared_bytes }
        };
        let ways = [64, 32, 16].map(fit);
        let is_enough = |way: &Ring| way.bytes_in_flight() >= u64::from(ENOUGH_IN_FLIGHT);
        let usual = ways.into_iter().find(is_enough).unwrap_or(ways[2]);
        let ring = fit(choice.or("tile", usual.tile_tokens));
        // At the end the ring has to hold the outputs, see the kernel.
        let merge_bytes = tile_rows * (KV_LORA_RANK as u32 + 8) * 4;
        let is_enough = ring.stages >= 3 && ring.stages * ring.stage_bytes >= merge_bytes;
        refuse_unless(is_enough, || {
            format!(
                "rings of 3 and more stages, {merge_bytes} bytes and more: {} tokens are {} \
                 stages of {} bytes on {arch}; use another configuration",
                ring.tile_tokens, ring.stages, ring.stage_bytes
            )
        })?;
        Ok(ring)
    }

    /// Bytes that the block has in flight: all stages but the two that are
    /// multiplied.
    fn bytes_in_flight(&self) -> u64 {
        u64::from(self.stages.saturating_sub(2) * self.stage_bytes)
    }
}

/// Size of the kernel's `Exchange` in bytes: scores in f32, rows padded by eight,
/// attention weights in 16 bits, for each quarter where these are scaled, and three words
/// for each row.
fn exchange_bytes(rows: u32, tile_tokens: u32, kv_dtype: Quant) -> u32 {
    let scalings = if kv_dtype.is_scaled() { QUARTERS } else { 1 };
    let scores = QUARTERS * (tile_tokens + 8) * 4;
    (rows * (scores + scalings * tile_tokens * 2 + 12)).next_multiple_of(128)
}

/// Seconds of a token, where memory does not bind: an H200 took 28 to 34 ns with 16 rows, and
/// some 56 ns with 32, in 16 and in 8 bits (`results/2026-11-28-nvidia-h200-tune`).
fn token_s(rows: u32) -> f64 {
    8e-9 + 24e-9 * f64::from(rows.div_ceil(16))
}

/// Latent attention of few new tokens to a cache.
pub(super) struct AttentionMla {
    p: MlaDecode,
    /// The macros that choose the formats of queries and of the cache.
    element: &'static str,
    cached: &'static str,
    ring: Ring,
    division: Division,
    /// Whether launches may begin while the one before them ends.
    overlaps: bool,
}

impl HostHalf for AttentionMla {
    type Operation = MlaDecode;
    const NAME: &'static str = "attention_mla";
    const SOURCE: &'static str = include_str!("../../kernels/attention_mla.cu");
    const MEMORY_BOUND: bool = true;
    const CONFIGURATIONS: &[Configuration] = &[
        // The last block of a sequence combines its splits, as is the default of many.
        Configuration::new("no_cluster", &[("cluster", 1)]),
        // What a split costs, in tiles: the more, the less sequences are divided.
        Configuration::new("overhead1", &[("overhead", 1)]),
        Configuration::new("overhead16", &[("overhead", 16)]),
        Configuration::new("overhead64", &[("overhead", 64)]),
        // Short sequences are divided too.
        Configuration::new("divided", &[("overhead", 1), ("whole", 0), ("combine", 0)]),
        // Another number of splits of a sequence that has blocks for itself.
        Configuration::new("combine1", &[("combine", 1)]),
        Configuration::new("combine8", &[("combine", 8)]),
        // Splits are combined through shared memory.
        Configuration::new("cluster2", &[("cluster", 2)]),
        Configuration::new("cluster4", &[("cluster", 4)]),
        Configuration::new("cluster8", &[("cluster", 8)]),
        // The same with several clusters of a sequence, of which the last combines all.
        Configuration::new("cluster4_three", &[("cluster", 4), ("clusters", 3)]),
        Configuration::new("cluster8_two", &[("cluster", 8), ("clusters", 2)]),
        Configuration::new("cluster8_twelve", &[("cluster", 8), ("clusters", 12)]),
        // How the block uses its shared memory.
        Configuration::new("tile16", &[("tile", 16)]),
        Configuration::new("tile32", &[("tile", 32)]),
        Configuration::new("tile64", &[("tile", 64)]),
        Configuration::new("stages4", &[("stages", 4)]),
        Configuration::PROGRAMMATIC,
    ];

    fn configure(
        p: &MlaDecode,
        arch: Arch,
        choice: &Configuration,
    ) -> Result<Self, Refusal> {
        let element = element(p.dtype).ok_or_else(|| {
            supports(format!(
                "bf16 and f16 queries, not dtype = {}; use one of those",
                p.dtype
            ))
        })?;
        let cached = cached_latents(p.kv_dtype, p.dtype).ok_or_else(|| {
            supports(format!(
                "a cache in the format of queries, or in fp8_e4m3 with dtype = bf16, not \
                 kv_dtype = {} with dtype = {}; use one of those",
                p.kv_dtype, p.dtype
            ))
        })?;
        let is_usual = (p.latent_dim, p.rope_dim) == (KV_LORA_RANK, QK_ROPE_HEAD_DIM);
        refuse_unless(is_usual, || {
            format!(
                "latent_dim = {KV_LORA_RANK} with rope_dim = {QK_ROPE_HEAD_DIM}, not {} with \
                 {}; use those",
                p.latent_dim, p.rope_dim
            )
        })?;
        refuse_unless(p.q_heads <= MAX_HEADS, || {
            format!("up to {MAX_HEADS} q_heads, not {}; use fewer", p.q_heads)
        })?;
        refuse_counts(&p.kv())?;
        let ring = Ring::new(p, arch, choice)?;
        let whole = WHOLE_BYTES / u64::from(ring.stage_bytes);
        let costs = Costs { overhead: 4, whole, combine: COMBINE_TILES };
        let block_rows = rows(p).div_ceil(row_tiles(p));
        let work = BlockWork {
            tile_tokens: ring.tile_tokens,
            tile_s: f64::from(ring.tile_tokens) * token_s(block_rows),
            tile_bytes: ring.stage_bytes.into(),
            output_bytes: u64::from(block_rows) * KV_LORA_RANK * 4,
            row_tiles: row_tiles(p),
            blocks_per_sm: 1,
        };
        let needed = |length| 0..length;
        let division = Division::new(choice, costs, work, (&p.kv(), needed), arch)?;
        let overlaps = arch.can_overlap_launches();
        Ok(AttentionMla { p: *p, element, cached, ring, division, overlaps })
    }

    fn defines(&self) -> Defines {
        let AttentionMla { p, ring, .. } = self;
        let defines = Defines::new()
            .with(self.element, 1)
            .with(self.cached, 1)
            .with("THREADS", THREADS)
            .with("TILE_TOKENS", ring.tile_tokens)
            .with("STAGES", ring.stages)
            .with("SHARED_BYTES", ring.shared_bytes)
            .with("Q_HEADS", p.q_heads)
            .with("NEW_TOKENS", p.new_tokens)
            .with("ROW_TILES", row_tiles(p))
            .with("CLUSTER", self.division.blocks_of_cluster())
            .with("PAGE_SIZE", page_size(p.layout));
        if self.overlaps { defines.with(OVERLAP, 1) } else { defines }
    }

    fn plan(&self, target: &Target) -> Plan {
        let AttentionMla { p, ring, division, .. } = *self;
        let row_tiles = row_tiles(&p);
        let list = division.list(
            &p.kv(),
            |length| 0..length,
            (ring.tile_tokens, row_tiles),
            [target.sms, 1],
        );
        let division = DividedSequences {
            list,
            blocks_of_cluster: division.blocks_of_cluster(),
            row_tiles,
            rows: rows(&p).into(),
            rows_at_once: rows(&p).div_ceil(row_tiles).into(),
            value_dim: KV_LORA_RANK,
        };
        let launch = Launch {
            shared_bytes: ring.shared_bytes,
            overlaps_previous: self.overlaps,
            ..Launch::new("attention_mla", division.blocks(), THREADS, params(p))
        };
        division.plan(launch, ring.bytes_in_flight(), 0)
    }
}

fn params(p: MlaDecode) -> Params {
    Params::of(move |bound| MlaParams {
        kv: bound.tensor("kv"),
        page_table: bound.tensor_or_null("page_table"),
        q: bound.tensor("q"),
        o: bound.tensor("o"),
        buffers: SplitBuffers::new(bound),
        request_rows: request_rows(&p.kv()),
        scale: log2_scale(SCORE_WIDTH),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernel::contract::testing::{configured, operation, plan, refusal};
    use crate::kernel::split_kv::bound_in_order;

    fn problem(shape: &str) -> String {
        format!("mla_decode:{shape}")
    }

    #[test]
    fn rings_fit_every_architecture() {
        let archs = ["sm_80", "sm_86", "sm_87", "sm_89", "sm_90a", "sm_100a", "sm_120"];
        for arch in archs.map(|arch| arch.parse::<Arch>().unwrap()) {
            let sm = arch.limits();
            for heads in 1..=MAX_HEADS {
                for kv_dtype in ["bf16", "fp8_e4m3"] {
                    let shape = format!(
                        "batch=1,context=9,q_heads={heads},dtype=bf16,kv_dtype={kv_dtype},\
                         new_tokens=2"
                    );
                    let p = operation(&problem(&shape));
                    let ring = Ring::new(&p, arch, Configuration::DEFAULT).unwrap();
                    assert!((3..=MAX_STAGES).contains(&ring.stages), "{arch} {shape}");
                    let block = ring.shared_bytes + STATIC_SHARED_BYTES;
                    assert!(block <= sm.shared_bytes_per_block, "{arch} {shape}");
                    // At the end the ring has to hold the outputs, see the kernel.
                    let tile_rows = rows(&p).div_ceil(row_tiles(&p)).next_multiple_of(16);
                    let merge_bytes = tile_rows * (KV_LORA_RANK as u32 + 8) * 4;
                    assert!(
                        ring.stages * ring.stage_bytes >= merge_bytes,
                        "{arch} {shape}"
                    );
                    // Little's law asks 8 KB of an SM on an RTX 5090, the fastest memory
                    // with as little shared memory.
                    let in_flight = ring.bytes_in_flight();
                    assert!(in_flight >= 32 << 10, "{arch} {shape}: {in_flight}");
                    if sm.shared_bytes_per_sm >= 164 << 10 {
                        assert!(in_flight >= u64::from(ENOUGH_IN_FLIGHT), "{arch} {shape}");
                    }
                }
            }
        }
        let ring = |kv_dtype: &str| {
            let shape = "batch=1,context=9,q_heads=16,dtype=bf16";
            let problem = problem(&format!("{shape},kv_dtype={kv_dtype}"));
            Ring::new(&operation(&problem), Arch::SM_90, Configuration::DEFAULT).unwrap()
        };
        let (h100, fp8) = (ring("bf16"), ring("fp8_e4m3"));
        assert_eq!((h100.tile_tokens, h100.stages, h100.shared_bytes), (32, 5, 195_840));
        assert_eq!((fp8.tile_tokens, fp8.stages, fp8.shared_bytes), (64, 4, 194_816));
    }

    #[test]
    fn rows_are_divided_where_they_are_many() {
        let tiles = |shape: &str| {
            let problem = problem(&format!("batch=1,context=99,dtype=f16,{shape}"));
            let plan = plan::<AttentionMla>(&problem, &Target::new(Arch::SM_90, 132));
            (
                row_tiles(&operation(&problem)),
                plan.launches[0].grid[0],
                plan.extra_bytes.is_some(),
            )
        };
        // 99 tokens are four tiles, one for each block of a cluster.
        assert_eq!(tiles("q_heads=32"), (1, 4, true));
        assert_eq!(tiles("q_heads=17,new_tokens=2"), (2, 8, false));
        assert_eq!(tiles("q_heads=128,new_tokens=2"), (8, 32, false));
    }

    #[test]
    fn refusals_say_what_is_supported() {
        for (shape, says) in [
            ("q_heads=8,dtype=f32", "bf16 and f16"),
            ("q_heads=8,dtype=bf16,kv_dtype=f16", "format of queries"),
            ("q_heads=8,dtype=f16,kv_dtype=fp8_e4m3", "with dtype = bf16"),
            ("q_heads=8,dtype=bf16,latent_dim=256", "latent_dim = 512 with rope_dim = 64"),
            ("q_heads=8,dtype=bf16,rope_dim=32", "latent_dim = 512 with rope_dim = 64"),
            ("q_heads=129,dtype=bf16", "up to 128 q_heads"),
        ] {
            let problem = problem(&format!("batch=1,context=64,{shape}"));
            let refusal = refusal::<AttentionMla>(&problem, Arch::SM_90);
            assert!(refusal.contains(says), "{refusal}");
        }
        let supported =
            problem("batch=1,context=64,q_heads=128,dtype=bf16,kv_dtype=fp8_e4m3");
        assert!(configured::<AttentionMla>(&supported, Arch::OLDEST).is_ok());
        let long = problem("batch=1,context=2147483648,q_heads=1,dtype=bf16");
        let refusal = refusal::<AttentionMla>(&long, Arch::SM_90);
        assert!(refusal.contains("context below 2147483648"));
    }

    #[test]
    fn partial_results_are_extra_traffic() {
        let shape = "batch=80,context=8192,q_heads=16,dtype=bf16,layout=paged64";
        let split = plan::<AttentionMla>(&problem(shape), &Target::new(Arch::SM_90, 132));
        let launch = &split.launches[0];
        assert_eq!((launch.grid, launch.block), ([132, 1, 1], [256, 1, 1]));
        assert_eq!(launch.bytes_in_flight, 3 * 32 * 1152);
        // Splits of 32 bytes each have partial results of 16 rows of 512 values, a maximum
        // and a sum, and sequences that are shared a ticket of 4 bytes: all 80.
        let splits = split.scratch[0].bytes() / 32;
        let tickets = split.scratch[3].bytes() / 4;
        assert_eq!((splits, tickets), (209, 209));
        let partials = tickets * 16 * (512 + 2) * 4;
        assert_eq!(split.extra_bytes, Some(splits * 32 + 2 * (partials + 80 * 4)));
        // A whole sequence for each block has no partial results.
        let whole = problem("batch=4,context=32,q_heads=16,dtype=bf16");
        let plan = plan::<AttentionMla>(&whole, &Target::new(Arch::SM_90, 132));
        assert_eq!(plan.extra_bytes, Some(4 * 32));
    }

    /// An H200 took 21.8 us for one request of 4096 tokens in a cluster of eight, 30.4 us in
    /// eight splits that one block combined (`results/2026-11-28-nvidia-h200-tune`). Several
    /// clusters are not measured yet.
    #[test]
    fn few_requests_are_divided_in_clusters() {
        let way = |shape: &str| {
            let text = problem(&format!("{shape},dtype=bf16,layout=paged64"));
            let plan = plan::<AttentionMla>(&text, &Target::new(Arch::SM_90, 132));
            (plan.launches[0].cluster[0], plan.launches[0].grid[0])
        };
        assert_eq!(way("batch=1,context=4096,q_heads=16"), (8, 64));
        assert_eq!(way("batch=1,context=4096,q_heads=16,kv_dtype=fp8_e4m3"), (8, 64));
        assert_eq!(way("batch=1,context=32768,q_heads=16"), (8, 96));
        assert_eq!(way("batch=8,context=32768,q_heads=16"), (2, 128));
        assert_eq!(way("batch=128,context=4096,q_heads=16"), (1, 128));
        assert_eq!(way("batch=1,context=20,q_heads=16"), (1, 1));
    }

    #[test]
    fn params_lie_as_the_kernel_declares() {
        let problem = problem("batch=2,context=100,q_heads=8,dtype=f16,layout=paged16");
        let plan = plan::<AttentionMla>(&problem, &Target::new(Arch::SM_80, 108));
        let bound = bound_in_order(&["kv", "page_table", "q", "o"]);
        let bytes = plan.launches[0].params.bytes(&bound);
        let words: Vec<u64> = bytemuck::pod_collect_to_vec(&bytes);
        // Seven pages, log2(e) / sqrt(192).
        let scale = (std::f64::consts::LOG2_E / 192f64.sqrt()) as f32;
        let last = u64::from(scale.to_bits()) << 32 | 7;
        assert_eq!(words, [1, 2, 3, 4, 5, 6, 7, 8, last]);
    }
}

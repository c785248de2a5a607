//! Host half of `kernels/attention_decode.cu`.

use bytemuck::{Pod, Zeroable};

use super::clusters::BlockWork;
use super::configuration::Configuration;
use super::contract::{HostHalf, OVERLAP};
use super::formats::{cached, element};
use super::kv_read::{page_size, request_rows};
use super::plan::{Launch, Params, Plan};
use super::refusal::{Refusal, refuse_unless, supports};
use super::split::{Costs, refuse_counts};
use super::split_kv::{DividedSequences, Division, SplitBuffers, log2_scale};
use crate::op::DecodeAttention;
use crate::toolchain::{Arch, Defines, Target};

/// Most warps of a block that shares its SM; each computes 16 tokens of a tile.
const WARPS: u32 = 4;
/// Tokens from which one block of twice as many warps has an SM to itself. Half as many splits
/// begin and end then: on an H200, with 8192 tokens and more, that takes 1 to 3% less time
/// with four query heads for each KV head, and 2 and 6% less with 8 and 16; with 1024 tokens
/// up to 3% more.
const ONE_BLOCK_TOKENS: u64 = 8192;
/// Tokens of a tile that one warp computes.
const STEP: u32 = 16;
/// Most query heads that share a KV head.
const MAX_GROUP: u64 = 32;
/// Most new tokens of a request.
const MAX_NEW_TOKENS: u64 = 16;
/// Supported values of `head_dim`.
const HEAD_DIMS: [u64; 5] = [64, 80, 96, 128, 256];
/// Most stages of a ring; more would add bytes in flight beyond what DRAM can
/// use.
const MAX_STAGES: u32 = 13;
/// The same of caches of 8 bits, and bytes in flight on an SM that rings of them have where
/// that takes more stages. Blocks of few tiles that load all of them at once have nothing
/// to multiply meanwhile: with heads of 128 and 5 stages in place of 13 an H200 took 0.88
/// of the time for one request of 8192 tokens, in pages 0.91, and for 32 requests 0.98 to
/// 0.99 (`results/2026-11-28-nvidia-h200-tune-again`). Of 16 bits 5 and 7 stages are alike.
const STAGES_OF_8_BITS: u32 = 5;
const IN_FLIGHT_OF_8_BITS: u32 = 64 << 10;
/// Bytes of keys and values of a sequence that one block reads: to divide fewer saves less
/// than combining takes. A row of campaigns of an H100 with splits takes 1.8 us more than one
/// without (docs/METHODOLOGY.md, fixed costs), in which an SM reads 144 KiB at 80 GB/s.
const WHOLE_BYTES: u64 = 144 << 10;
/// What a split costs, in tiles. With four an H200 took 1 to 3% less than with one for 32
/// requests of 8192 tokens, which are then a whole head for each SM, and the same elsewhere
/// (`results/2026-11-28-nvidia-h200-tune`).
const OVERHEAD: u64 = 4;
/// Shared memory that the kernel declares itself, at most, for every four warps.
const STATIC_SHARED_BYTES: u32 = 1024;

/// `Params` of the kernel.
#[derive(Clone, Copy, Pod, Zeroable)]
#[repr(C)]
struct DecodeParams {
    k: u64,
    v: u64,
    page_table: u64,
    k_scales: u64,
    v_scales: u64,
    q: u64,
    o: u64,
    buffers: SplitBuffers,
    kv_heads: u32,
    request_rows: u32,
    scale: f32,
    window: u32,
}

/// How the rows of a sequence, new tokens times query heads, are divided.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct RowTiles {
    /// Blocks that divide them.
    count: u32,
    /// Rows of a block, at most.
    rows: u32,
}

impl RowTiles {
    /// Two tiles of 16 rows for each block, or one where heads are so wide that
    /// the outputs of two do not fit the registers.
    fn new(p: &DecodeAttention) -> Self {
        let rows = (p.group() * p.new_tokens) as u32;
        let most = if p.head_dim > 128 { 16 } else { 32 };
        let count = rows.div_ceil(most);
        RowTiles { count, rows: rows.div_ceil(count) }
    }
}

/// How blocks use the shared memory of an SM.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Rings {
    /// Blocks that share an SM.
    blocks_per_sm: u32,
    /// Warps of a block.
    warps: u32,
    /// Stages of each warp's ring: 16 tokens of keys or of values. Odd.
    stages: u32,
    /// Bytes of a stage.
    stage_bytes: u32,
    /// Dynamic shared memory of a block.
    shared_bytes: u32,
}

impl Rings {
    /// The most that fits: two blocks on an SM, so that one streams while the
    /// other begins or ends a split, or else one; with the least shared memory one
    /// of half as many warps. From [`ONE_BLOCK_TOKENS`] on first of all one large block,
    /// where that was measured.
    ///
    /// A configuration may ask for `blocks_per_sm` of so many `warps`, and for fewer `stages`
    /// than fit.
    ///
    /// # Errors
    /// What a configuration asks for does not fit.
    fn new(
        p: &DecodeAttention,
        arch: Arch,
        choice: &Configuration,
    ) -> Result<Self, Refusal> {
        let limits = arch.limits();
        let stage_bytes = STEP * (p.head_dim * p.kv_dtype.dtype().bytes()) as u32;
        // Queries that do not fit the registers, see the kernel.
        let rows = RowTiles::new(p).rows.next_multiple_of(16);
        let query_bytes = if rows * p.head_dim as u32 > 16 * 128 {
            rows * p.head_dim as u32 * 2
        } else {
            0
        };
        let most_stages = |warps_of_sm: u32| {
            if arch != Arch::SM_90 || p.kv_dtype.dtype().bytes() > 1 {
                return MAX_STAGES;
            }
            let in_flight = IN_FLIGHT_OF_8_BITS.div_ceil(warps_of_sm * stage_bytes);
            (in_flight + 1).max(STAGES_OF_8_BITS) | 1
        };
        let fit = |(blocks_per_sm, warps): (u32, u32)| {
            let of_kernel = static_bytes(warps);
            let share = limits.shared_bytes_of_block(blocks_per_sm) - of_kernel;
            let stages = (share - query_bytes) / (warps * stage_bytes);
            let most = choice.or("stages", most_stages(blocks_per_sm * warps));
            let stages = stages.min(most);
            // Odd: keys and values then take turns in each stage.
            let stages = stages.saturating_sub((stages + 1) % 2);
            let shared_bytes = stages * warps * stage_bytes + query_bytes;
            Rings { blocks_per_sm, warps, stages, stage_bytes, shared_bytes }
        };
        // At the end a warp's results of 16 rows lie where its ring was, see the kernel.
        let merge_bytes = merge_bytes(p.head_dim as u32);
        let is_enough =
            |way: &Rings| way.stages >= 3 && way.stages * stage_bytes >= merge_bytes;
        let ways = [(1, 2 * WARPS), (2, WARPS), (1, WARPS), (1, WARPS / 2)].map(fit);
        let is_long = arch == Arch::SM_90 && p.context >= ONE_BLOCK_TOKENS;
        let first = if is_long { 0 } else { 1 };
        let usual = ways.into_iter().skip(first).find(is_enough).unwrap_or(ways[3]);
        let asked = (
            choice.or("blocks_per_sm", usual.blocks_per_sm),
            choice.or("warps", usual.warps),
        );
        let asked = fit(asked);
        refuse_unless(is_enough(&asked), || {
            format!(
                "rings of 3 and more stages, {merge_bytes} bytes and more: {} blocks of {} \
                 warps on an SM of {arch} have {} of {stage_bytes} bytes; use another \
                 configuration",
                asked.blocks_per_sm, asked.warps, asked.stages
            )
        })?;
        Ok(asked)
    }

    /// With room behind the warps' results for those that the blocks of a cluster give this one:
    /// outputs of 16 rows, which divide evenly, and their softmaxes from each block.
    ///
    /// # Errors
    /// That does not fit.
    fn with_room_for_cluster(
        self,
        head_dim: u32,
        blocks: u32,
        arch: Arch,
    ) -> Result<Self, Refusal> {
        let room_bytes = 16 * head_dim * 4 + 16 * 8 * blocks;
        let needed = self.warps * merge_bytes(head_dim) + room_bytes;
        let most = arch.limits().shared_bytes_of_block(self.blocks_per_sm)
            - static_bytes(self.warps);
        refuse_unless(needed <= most, || {
            format!(
                "clusters of {blocks} blocks whose results fit shared memory: those of {} warps \
                 and of the cluster take {needed} bytes, and a block of {arch} has {most}; use \
                 another configuration",
                self.warps
            )
        })?;
        Ok(Rings { shared_bytes: self.shared_bytes.max(needed), ..self })
    }

    fn threads(&self) -> u32 {
        self.warps * 32
    }

    /// Tokens of a tile.
    fn tile_tokens(&self) -> u32 {
        self.warps * STEP
    }

    /// Bytes that a block's warps have in flight: all stages but the one that is
    /// multiplied.
    fn bytes_in_flight(&self) -> u64 {
        u64::from(self.warps * (self.stages - 1) * self.stage_bytes)
    }
}

/// Shared memory that a kernel of so many warps declares itself, at most.
fn static_bytes(warps: u32) -> u32 {
    STATIC_SHARED_BYTES * warps.div_ceil(WARPS)
}

/// Bytes of a warp's results of 16 rows, which are padded.
fn merge_bytes(head_dim: u32) -> u32 {
    16 * (head_dim + 8) * 4
}

/// Seconds of a tile of 16 tokens for each of so many warps, where memory does not bind: an H200
/// took 0.45 us for four warps and 0.68 us for eight, with heads of 128 in 16 and in 8 bits.
fn tile_s(p: &DecodeAttention, warps: u32) -> f64 {
    (0.23e-6 + 0.056e-6 * f64::from(warps)) * p.head_dim as f64 / 128.0
}

/// Attention of few new tokens to a cache.
pub(super) struct AttentionDecode {
    p: DecodeAttention,
    /// The macros that choose the formats of queries and of the cache.
    element: &'static str,
    cached: &'static str,
    row_tiles: u32,
    rings: Rings,
    division: Division,
    /// Whether launches may begin while the one before them ends.
    overlaps: bool,
}

impl HostHalf for AttentionDecode {
    type Operation = DecodeAttention;
    const NAME: &'static str = "attention_decode";
    const SOURCE: &'static str = include_str!("../../kernels/attention_decode.cu");
    const MEMORY_BOUND: bool = true;
    const CONFIGURATIONS: &[Configuration] = &[
        // The last block of a sequence combines its splits, as is the default of many.
        Configuration::new("no_cluster", &[("cluster", 1)]),
        // Sequences are divided more or less: a split costs as much as so many tiles.
        Configuration::new("overhead1", &[("overhead", 1)]),
        Configuration::new("overhead16", &[("overhead", 16)]),
        // Short sequences are divided too.
        Configuration::new("divided", &[("whole", 0)]),
        // Sequences of up to 16 tiles are one piece.
        Configuration::new("whole16", &[("whole", 16)]),
        // Splits are combined through shared memory.
        Configuration::new("cluster2", &[("cluster", 2)]),
        Configuration::new("cluster4", &[("cluster", 4)]),
        Configuration::new("cluster8", &[("cluster", 8)]),
        // The same with several clusters of a sequence, of which the last combines all.
        Configuration::new("cluster4_three", &[("cluster", 4), ("clusters", 3)]),
        Configuration::new("cluster8_two", &[("cluster", 8), ("clusters", 2)]),
        // How blocks use an SM.
        Configuration::new("one_block", &[("blocks_per_sm", 1), ("warps", 8)]),
        Configuration::new("two_blocks", &[("blocks_per_sm", 2), ("warps", 4)]),
        Configuration::new("four_blocks", &[("blocks_per_sm", 4), ("warps", 2)]),
        Configuration::new("stages3", &[("stages", 3)]),
        Configuration::new("stages5", &[("stages", 5)]),
        Configuration::new("stages7", &[("stages", 7)]),
        Configuration::new("stages13", &[("stages", 13)]),
        // Both.
        Configuration::new(
            "one_block_no_cluster",
            &[("blocks_per_sm", 1), ("warps", 8), ("cluster", 1)],
        ),
        Configuration::new(
            "one_block_cluster4",
            &[("blocks_per_sm", 1), ("warps", 8), ("cluster", 4)],
        ),
        Configuration::PROGRAMMATIC,
    ];

    fn configure(
        p: &DecodeAttention,
        arch: Arch,
        choice: &Configuration,
    ) -> Result<Self, Refusal> {
        let element = element(p.dtype).ok_or_else(|| {
            supports(format!(
                "bf16 and f16 queries, not dtype = {}; use one of those",
                p.dtype
            ))
        })?;
        let cached = cached(p.kv_dtype, p.dtype).ok_or_else(|| {
            supports(format!(
                "keys and values in the format of queries, in fp8_e4m3 or in int8, not \
                 kv_dtype = {} with dtype = {}; use one of those",
                p.kv_dtype, p.dtype
            ))
        })?;
        refuse_unless(HEAD_DIMS.contains(&p.head_dim), || {
            let known = HEAD_DIMS.map(|head_dim| head_dim.to_string()).join(", ");
            format!("head_dim = {known}, not {}; use one of those", p.head_dim)
        })?;
        refuse_unless(p.group() <= MAX_GROUP, || {
            format!(
                "up to {MAX_GROUP} query heads for each KV head, not {}; use more \
                 kv_heads",
                p.group()
            )
        })?;
        refuse_unless(p.new_tokens <= MAX_NEW_TOKENS, || {
            format!("up to {MAX_NEW_TOKENS} new_tokens, not {}; use fewer", p.new_tokens)
        })?;
        refuse_counts(&p.kv())?;
        let (row_tiles, mut rings) = (RowTiles::new(p).count, Rings::new(p, arch, choice)?);
        let tile_bytes = u64::from(2 * rings.warps * rings.stage_bytes);
        let costs =
            Costs { overhead: OVERHEAD, whole: WHOLE_BYTES / tile_bytes, combine: 0 };
        let work = BlockWork {
            tile_tokens: rings.tile_tokens(),
            tile_s: tile_s(p, rings.warps),
            tile_bytes,
            output_bytes: u64::from(RowTiles::new(p).rows) * p.head_dim * 4,
            row_tiles,
            blocks_per_sm: rings.blocks_per_sm,
        };
        let needed = |length| p.visible(length);
        let division = Division::new(choice, costs, work, (&p.kv(), needed), arch)?;
        if division.blocks_of_cluster() > 1 {
            let blocks = division.blocks_of_cluster();
            rings = rings.with_room_for_cluster(p.head_dim as u32, blocks, arch)?;
        }
        let overlaps = arch.can_overlap_launches();
        Ok(AttentionDecode { p: *p, element, cached, row_tiles, rings, division, overlaps })
    }

    fn defines(&self) -> Defines {
        let AttentionDecode { p, rings, .. } = self;
        let defines = Defines::new()
            .with(self.element, 1)
            .with(self.cached, 1)
            .with("THREADS", rings.threads())
            .with("BLOCKS_PER_SM", rings.blocks_per_sm)
            .with("TILE_TOKENS", rings.tile_tokens())
            .with("STAGES", rings.stages)
            .with("SHARED_BYTES", rings.shared_bytes)
            .with("GROUP", p.group())
            .with("NEW_TOKENS", p.new_tokens)
            .with("ROW_TILES", self.row_tiles)
            .with("CLUSTER", self.division.blocks_of_cluster())
            .with("WINDOWED", u32::from(p.window > 0))
            .with("HEAD_DIM", p.head_dim)
            .with("PAGE_SIZE", page_size(p.layout))
            .with("TOKEN_FIRST", u32::from(p.layout.is_token_first()));
        if self.overlaps { defines.with(OVERLAP, 1) } else { defines }
    }

    fn plan(&self, target: &Target) -> Plan {
        let AttentionDecode { p, row_tiles, rings, division, .. } = *self;
        let list = division.list(
            &p.kv(),
            |length| p.visible(length),
            (rings.tile_tokens(), row_tiles),
            [target.sms, rings.blocks_per_sm],
        );
        let division = DividedSequences {
            list,
            blocks_of_cluster: division.blocks_of_cluster(),
            row_tiles,
            rows: p.group() * p.new_tokens,
            rows_at_once: 16,
            value_dim: p.head_dim,
        };
        let launch = Launch {
            shared_bytes: rings.shared_bytes,
            overlaps_previous: self.overlaps,
            ..Launch::new("attention_decode", division.blocks(), rings.threads(), params(p))
        };
        division.plan(launch, rings.bytes_in_flight(), 0)
    }
}

fn params(p: DecodeAttention) -> Params {
    Params::of(move |bound| DecodeParams {
        k: bound.tensor("k"),
        v: bound.tensor("v"),
        page_table: bound.tensor_or_null("page_table"),
        k_scales: bound.tensor_or_null("k_scales"),
        v_scales: bound.tensor_or_null("v_scales"),
        q: bound.tensor("q"),
        o: bound.tensor("o"),
        buffers: SplitBuffers::new(bound),
        kv_heads: p.kv_heads as u32,
        request_rows: request_rows(&p.kv()),
        scale: log2_scale(p.head_dim),
        window: p.window.min(u64::from(u32::MAX)) as u32,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernel::clusters::MAX_CLUSTER;
    use crate::kernel::contract::testing::{configured, operation, options, plan, refusal};
    use crate::kernel::split_kv::bound_in_order;

    fn problem(shape: &str) -> String {
        format!("decode_attention:{shape}")
    }

    fn llama() -> String {
        // The longest for which blocks share an SM.
        problem("batch=32,context=8191,q_heads=32,kv_heads=8,head_dim=128,dtype=bf16")
    }

    #[test]
    fn rings_fit_every_architecture() {
        let archs = ["sm_80", "sm_86", "sm_87", "sm_89", "sm_90a", "sm_100a", "sm_120"];
        for arch in archs.map(|arch| arch.parse::<Arch>().unwrap()) {
            let sm = arch.limits();
            for head_dim in HEAD_DIMS {
                for rows in 1..=MAX_GROUP {
                    for kv_dtype in ["f16", "fp8_e4m3", "int8"] {
                        let shape = format!(
                            "batch=1,context=9,q_heads={rows},kv_heads=1,head_dim={head_dim},\
                             dtype=f16,kv_dtype={kv_dtype}"
                        );
                        let rings = Rings::new(
                            &operation(&problem(&shape)),
                            arch,
                            Configuration::DEFAULT,
                        )
                        .unwrap();
                        assert!(
                            rings.stages >= 3 && rings.stages % 2 == 1,
                            "{arch} {shape}"
                        );
                        assert!(
                            rings.stages * rings.stage_bytes
                                >= merge_bytes(head_dim as u32),
                            "{arch} {shape}"
                        );
                        let fits = |rings: &Rings| {
                            let block = rings.shared_bytes + static_bytes(rings.warps);
                            block <= sm.shared_bytes_of_block(rings.blocks_per_sm)
                        };
                        assert!(fits(&rings), "{arch} {shape}");
                        if arch == Arch::SM_90 {
                            let in_cluster = rings
                                .with_room_for_cluster(head_dim as u32, MAX_CLUSTER, arch)
                                .unwrap();
                            assert!(fits(&in_cluster), "{shape}");
                        }
                        // Little's law asks 8 KB of an SM on an RTX 5090, the fastest
                        // memory with as little shared memory, and 29 KB on an H200.
                        let in_flight =
                            u64::from(rings.blocks_per_sm) * rings.bytes_in_flight();
                        assert!(in_flight >= 32 << 10, "{arch} {shape}: {in_flight}");
                        if arch == Arch::SM_90 {
                            let least = if kv_dtype == "f16" { 96 } else { 64 };
                            assert!(in_flight >= least << 10, "{shape}: {in_flight}");
                        }
                    }
                }
            }
        }
        let h100 =
            Rings::new(&operation(&llama()), Arch::SM_90, Configuration::DEFAULT).unwrap();
        assert_eq!((h100.blocks_per_sm, h100.stages, h100.shared_bytes), (2, 7, 7 * 16384));
    }

    #[test]
    fn a_block_has_an_sm_to_itself_where_sequences_are_long() {
        let blocks = |shape: &str, arch: Arch| {
            let text = problem(&format!("batch=1,{shape},dtype=bf16"));
            let rings = configured::<AttentionDecode>(&text, arch).unwrap().rings;
            (rings.blocks_per_sm, rings.warps, rings.stages)
        };
        let llama = "q_heads=32,kv_heads=8,head_dim=128";
        assert_eq!(blocks(&format!("context=8191,{llama}"), Arch::SM_90), (2, 4, 7));
        assert_eq!(blocks(&format!("context=8192,{llama}"), Arch::SM_90), (1, 8, 7));
        assert_eq!(blocks(&format!("context=8192,{llama}"), Arch::SM_80), (2, 4, 5));
        // Of 8 bits, fewer stages where that leaves enough in flight.
        let of_8_bits = |head_dim: u32, arch| {
            let heads = format!("q_heads=32,kv_heads=8,head_dim={head_dim}");
            blocks(&format!("context=8192,{heads},kv_dtype=fp8_e4m3"), arch)
        };
        assert_eq!(of_8_bits(128, Arch::SM_90), (1, 8, 5));
        assert_eq!(of_8_bits(64, Arch::SM_90), (1, 8, 9));
        assert_eq!(of_8_bits(128, Arch::SM_80), (2, 4, 9));
        // Wide heads need the shared memory for fewer warps.
        let wide = "context=8192,q_heads=32,kv_heads=1,head_dim=256";
        assert_eq!(blocks(wide, Arch::SM_90).0, 1);
    }

    #[test]
    fn rows_are_divided_where_they_are_many() {
        let tiles = |shape: &str| {
            let text = format!("batch=1,context=99,kv_heads=1,dtype=f16,{shape}");
            let tiles = RowTiles::new(&operation(&problem(&text)));
            (tiles.count, tiles.rows)
        };
        assert_eq!(tiles("q_heads=32,head_dim=128"), (1, 32));
        assert_eq!(tiles("q_heads=8,head_dim=128,new_tokens=8"), (2, 32));
        assert_eq!(tiles("q_heads=11,head_dim=64,new_tokens=3"), (2, 17));
        assert_eq!(tiles("q_heads=17,head_dim=256"), (2, 9));
    }

    #[test]
    fn refusals_say_what_is_supported() {
        for (shape, says) in [
            ("q_heads=8,kv_heads=8,head_dim=128,dtype=f32", "bf16 and f16"),
            (
                "q_heads=8,kv_heads=8,head_dim=128,dtype=bf16,kv_dtype=f16",
                "format of queries",
            ),
            ("q_heads=8,kv_heads=8,head_dim=72,dtype=bf16", "64, 80, 96, 128, 256"),
            ("q_heads=33,kv_heads=1,head_dim=64,dtype=bf16", "up to 32"),
            ("q_heads=1,kv_heads=1,head_dim=64,dtype=bf16,new_tokens=17", "up to 16"),
        ] {
            let problem = problem(&format!("batch=1,context=64,{shape}"));
            let refusal = refusal::<AttentionDecode>(&problem, Arch::SM_90);
            assert!(refusal.contains(says), "{refusal}");
        }
        assert!(configured::<AttentionDecode>(&llama(), Arch::OLDEST).is_ok());
        let long = problem(
            "batch=1,context=2147483648,q_heads=1,kv_heads=1,head_dim=64,dtype=bf16",
        );
        let refusal = refusal::<AttentionDecode>(&long, Arch::SM_90);
        assert!(refusal.contains("context below 2147483648"));
    }

    #[test]
    fn partial_results_are_extra_traffic() {
        let target = Target::new(Arch::SM_90, 132);
        let many = "batch=37,context=8191,q_heads=32,kv_heads=8,head_dim=128,dtype=bf16";
        let split = plan::<AttentionDecode>(&problem(many), &target);
        let launch = &split.launches[0];
        assert_eq!((launch.grid, launch.block), ([264, 1, 1], [128, 1, 1]));
        // 296 sequences over 264 blocks: 231 are two splits of 32 bytes, whose partial results
        // are 4 heads of 128 values, a maximum and a sum, and a ticket of 4 bytes.
        let splits = split.scratch[0].bytes() / 32;
        let tickets = split.scratch[3].bytes() / 4;
        assert_eq!((splits, tickets), (296 + 231, 2 * 231));
        let partials = tickets * 4 * (128 + 2) * 4;
        assert_eq!(split.extra_bytes, Some(splits * 32 + 2 * (partials + 231 * 4)));
        // A whole sequence for each block has no partial results.
        let whole = "batch=4,context=64,q_heads=32,kv_heads=8,head_dim=128,dtype=bf16";
        assert_eq!(
            plan::<AttentionDecode>(&problem(whole), &target).extra_bytes,
            Some(32 * 32)
        );
    }

    /// The classes of `results/2026-11-28-nvidia-h200-tune`, where clusters of so many blocks
    /// were the fastest, and some that were not tuned.
    #[test]
    fn few_sequences_are_divided_in_clusters() {
        let way = |shape: &str, sms: u32| {
            let text = problem(&format!("{shape},q_heads=32,kv_heads=8,head_dim=128"));
            let cluster = configured::<AttentionDecode>(&text, Arch::SM_90)
                .unwrap()
                .division
                .blocks_of_cluster();
            let plan = plan::<AttentionDecode>(&text, &Target::new(Arch::SM_90, sms));
            assert_eq!(plan.launches[0].cluster, [cluster, 1, 1]);
            (cluster, plan.launches[0].grid[0])
        };
        assert_eq!(way("batch=1,context=1024,dtype=bf16", 132), (8, 64));
        assert_eq!(way("batch=1,context=8192,dtype=bf16", 132), (8, 64));
        assert_eq!(way("batch=1,context=8192,dtype=bf16,kv_dtype=fp8_e4m3", 132), (8, 64));
        assert_eq!(way("batch=8,context=8192,dtype=bf16", 132), (2, 128));
        assert_eq!(way("batch=32,context=8192,dtype=bf16", 132), (1, 128));
        assert_eq!(way("batch=64,context=8192,dtype=bf16", 132), (1, 132));
        // Too short to be divided.
        assert_eq!(way("batch=1,context=64,dtype=bf16", 132), (1, 8));
        // Of a smaller GPU, whether or not all clusters run at the same time.
        assert_eq!(way("batch=8,context=8192,dtype=bf16", 16), (2, 128));
        // What is asked for is done.
        let text =
            problem("batch=1,context=1024,q_heads=32,kv_heads=8,head_dim=128,dtype=bf16");
        let p = operation(&text);
        for (name, expected) in [("no_cluster", (1, 128)), ("cluster8_two", (8, 128))] {
            let choice = AttentionDecode::CONFIGURATIONS.iter().find(|c| c.name == name);
            let way = AttentionDecode::configure(&p, Arch::SM_90, choice.unwrap()).unwrap();
            let plan = way.plan(&Target::new(Arch::SM_90, 132));
            let cluster = way.division.blocks_of_cluster();
            assert_eq!((cluster, plan.launches[0].grid[0]), expected, "{name}");
        }
        let on_ampere = configured::<AttentionDecode>(&text, Arch::SM_80).unwrap();
        assert_eq!(on_ampere.division.blocks_of_cluster(), 1);
    }

    /// Slices of a cluster whose rows are two blocks' have their softmaxes twice.
    #[test]
    fn partial_results_of_clusters_are_extra_traffic() {
        let shape = "batch=1,context=1024,q_heads=20,kv_heads=1,head_dim=128,dtype=bf16";
        let p = operation(&problem(shape));
        let named = |name| AttentionDecode::CONFIGURATIONS.iter().find(|c| c.name == name);
        let extra = |name| {
            let choice = named(name).unwrap();
            let way = AttentionDecode::configure(&p, Arch::SM_90, choice).unwrap();
            way.plan(&Target::new(Arch::SM_90, 132)).extra_bytes
        };
        assert_eq!(extra("cluster8"), Some(8 * 32));
        // Two clusters: outputs of 20 rows, and of each slice of 16 rows two, of 4 rows one,
        // and a ticket for each slice.
        let partials = 2 * (20 * 512 + (16 + 8) * 8);
        assert_eq!(extra("cluster8_two"), Some(16 * 32 + 2 * (partials + 8 * 4)));
        // Three clusters of four: slices of four rows and of one.
        let partials = 3 * (20 * 512 + 20 * 8);
        assert_eq!(extra("cluster4_three"), Some(12 * 32 + 2 * (partials + 4 * 4)));
    }

    #[test]
    fn params_lie_as_the_kernel_declares() {
        let shape = "batch=2,context=100,q_heads=8,kv_heads=2,head_dim=64,dtype=f16";
        let problem = problem(&format!("{shape},layout=paged16"));
        let plan = plan::<AttentionDecode>(&problem, &Target::new(Arch::SM_80, 108));
        let bound = bound_in_order(&["k", "v", "page_table", "q", "o"]);
        let bytes = plan.launches[0].params.bytes(&bound);
        let words: Vec<u64> = bytemuck::pod_collect_to_vec(&bytes);
        // Two KV heads, seven pages, log2(e) / 8.
        let scale = u64::from((std::f32::consts::LOG2_E / 8.0).to_bits());
        assert_eq!(words, [1, 2, 3, 0, 0, 4, 5, 6, 7, 8, 9, 7 << 32 | 2, scale]);
    }

    #[test]
    fn defines_depend_on_the_architecture() {
        let options = |arch| options::<AttentionDecode>(&llama(), arch);
        assert!(options(Arch::SM_80).contains("-DSTAGES=5"));
        assert!(
            options(Arch::SM_90).contains("-DSTAGES=7 -DSHARED_BYTES=114688 -DGROUP=4")
        );
        assert!(options(Arch::SM_120).contains("-DSTAGES=3"));
    }
}

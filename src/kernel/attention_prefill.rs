//! Host half of `kernels/attention_prefill.cu`.

use bytemuck::{Pod, Zeroable};

use super::configuration::Configuration;
use super::contract::HostHalf;
use super::formats::element;
use super::plan::{Launch, Params, Plan, Scratch};
use super::prompts::{Item, Prompt, WORK, check_counts, items, section};
use super::refusal::{Refusal, refuse_unless, supports};
use crate::op::{KvLayout, Lengths, PrefillAttention};
use crate::quant::Quant;
use crate::toolchain::{Arch, Defines, Target};

/// Warps of a block.
const WARPS: u64 = 4;
/// Most tiles of keys or values in shared memory.
const MAX_STAGES: u64 = 6;

/// `Params` of the kernel.
#[derive(Clone, Copy, Pod, Zeroable)]
#[repr(C)]
struct PrefillParams {
    k: u64,
    v: u64,
    q: u64,
    o: u64,
    work: u64,
    heads: u32,
    group: u32,
    prompt: Prompt,
    section: u32,
    q_heads: u32,
    scale: f32,
    unused: u32,
}

/// The tiles of a block.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct PrefillShape {
    /// Tokens of a block.
    rows: u64,
    /// Warps of a block.
    warps: u64,
    /// Keys of a tile.
    keys: u64,
    /// Tiles of keys or values in shared memory.
    stages: u64,
    /// Blocks that share an SM: as many as registers allow.
    resident: u64,
    /// Elements of a row of every tile.
    head_dim: u64,
}

impl PrefillShape {
    /// Blocks of `rows` tokens. Tiles have 64 keys, but 48 where outputs of
    /// 32 x 128 in a warp leave no registers for more scores, and 32 where
    /// shared memory has no room for two tiles.
    fn new(rows: u64, head_dim: u64, arch: Arch) -> Self {
        let (resident, keys) = match (rows, head_dim) {
            (128, 128) => (2, 48),
            (64, 64) => (3, 64),
            _ => (2, 64),
        };
        let shape = PrefillShape {
            rows,
            warps: WARPS,
            keys,
            stages: MAX_STAGES,
            resident,
            head_dim,
        };
        let wide = shape.that_fits(arch);
        if wide.stages >= 2 {
            wide
        } else {
            PrefillShape { keys: 32, ..shape }.that_fits(arch)
        }
    }

    /// With as many of its stages as shared memory has room for.
    fn that_fits(self, arch: Arch) -> Self {
        let share = u64::from(arch.limits().shared_bytes_of_block(self.resident as u32));
        let most = (share / (2 * self.head_dim)).saturating_sub(self.rows) / self.keys;
        PrefillShape { stages: most.min(self.stages), ..self }
    }

    /// The shape of a configuration.
    ///
    /// # Errors
    /// Blocks of which few tokens would fill less than half, and tiles of which two do not fit
    /// shared memory.
    fn of(
        p: &PrefillAttention,
        arch: Arch,
        choice: &Configuration,
    ) -> Result<Self, Refusal> {
        let best = best_shape(p, arch);
        let rows = u64::from(choice.or("rows", best.rows as u32));
        refuse_unless(rows == best.rows || p.new_tokens > rows / 2, || {
            format!(
                "more than {} new tokens in blocks of {rows}, not {}",
                rows / 2,
                p.new_tokens
            )
        })?;
        let of_rows = PrefillShape::new(rows, p.head_dim, arch);
        let warps = u64::from(choice.or("warps", WARPS as u32));
        // Eight warps of 16 rows need as many registers as four do, and have two blocks of them
        // where outputs are narrow.
        let (resident, keys) = match warps == WARPS {
            true => (of_rows.resident, of_rows.keys),
            false => (if p.head_dim == 64 { 2 } else { 1 }, 64),
        };
        let keys = u64::from(choice.or("keys", keys as u32));
        let stages = u64::from(choice.or("stages", MAX_STAGES as u32));
        let shape =
            PrefillShape { rows, warps, keys, stages, resident, ..of_rows }.that_fits(arch);
        refuse_unless(shape.stages >= 2, || {
            format!(
                "two tiles of keys in shared memory, which {arch} does not have for tiles of \
                 {keys} with head_dim = {}; use fewer",
                p.head_dim
            )
        })?;
        Ok(shape)
    }

    /// Of Q and the ring of stages.
    fn shared_bytes(&self) -> u64 {
        2 * self.head_dim * (self.rows + self.stages * self.keys)
    }

    /// All stages but the one that is multiplied.
    fn bytes_in_flight(&self) -> u64 {
        2 * self.head_dim * (self.stages - 1) * self.keys
    }

    /// As many as all requests together have, had each of them `new_tokens`.
    fn blocks(&self, p: &PrefillAttention) -> u64 {
        p.new_tokens.div_ceil(self.rows) * p.q_heads * p.batch
    }

    /// Relative time of a problem on `sms` SMs: that of the SM with the most blocks.
    fn time(&self, p: &PrefillAttention, sms: u64) -> u64 {
        // With 16 rows of a warp instead of 32, an operand from shared memory
        // serves half as many products: half as slow again.
        let per_row = if self.rows == 128 { 2 } else { 3 };
        self.blocks(p).div_ceil(sms) * self.rows * per_row
    }
}

/// The shape with the least time on a typical GPU of the architecture.
fn best_shape(p: &PrefillAttention, arch: Arch) -> PrefillShape {
    let tall = PrefillShape::new(128, p.head_dim, arch);
    let flat = PrefillShape::new(64, p.head_dim, arch);
    let time = |shape: &PrefillShape| shape.time(p, arch.usual_sms().into());
    if time(&tall) <= time(&flat) { tall } else { flat }
}

/// The macro that chooses the one format of queries, keys and values.
///
/// # Errors
/// Formats other than bf16 and f16, or keys and values in another than queries.
pub(super) fn only_element(p: &PrefillAttention) -> Result<&'static str, Refusal> {
    let element = element(p.dtype).ok_or_else(|| {
        supports(format!("dtype = bf16 or f16, not {}; use one of those", p.dtype))
    })?;
    refuse_unless(p.kv_dtype == Quant::plain(p.dtype), || {
        format!("kv_dtype = dtype, not {} with dtype = {}; use {1}", p.kv_dtype, p.dtype)
    })?;
    refuse_unless(p.q_dtype == Quant::plain(p.dtype), || {
        format!("q_dtype = dtype, not {} with dtype = {}; use {1}", p.q_dtype, p.dtype)
    })?;
    Ok(element)
}

/// Attention of many new tokens.
pub(super) struct AttentionPrefill {
    p: PrefillAttention,
    /// The macro that chooses the format.
    element: &'static str,
    shape: PrefillShape,
}

impl AttentionPrefill {
    /// An item for each block, where requests have several lengths.
    fn work(&self) -> Option<Vec<Item>> {
        let cost = |request: &PrefillAttention, token: u64| {
            let last = (token + self.shape.rows).min(request.new_tokens) - 1;
            request.attended(last).end.div_ceil(self.shape.keys)
        };
        let all =
            || items(&self.p, self.shape.rows, cost).into_iter().map(|(item, _)| item);
        (self.p.lengths != Lengths::Equal).then(|| all().collect())
    }
}

fn params(p: PrefillAttention) -> Params {
    Params::of(move |bound| PrefillParams {
        k: bound.tensor("k"),
        v: bound.tensor("v"),
        q: bound.tensor("q"),
        o: bound.tensor("o"),
        work: if p.lengths == Lengths::Equal { 0 } else { bound.scratch(WORK) },
        heads: (p.batch * p.q_heads) as u32,
        group: p.group() as u32,
        prompt: Prompt::longest(&p),
        section: section(&p) as u32,
        q_heads: p.q_heads as u32,
        scale: std::f32::consts::LOG2_E / (p.head_dim as f32).sqrt(),
        unused: 0,
    })
}

impl HostHalf for AttentionPrefill {
    type Operation = PrefillAttention;
    const NAME: &'static str = "attention_prefill";
    const SOURCE: &'static str = include_str!("../../kernels/attention_prefill.cu");
    const MEMORY_BOUND: bool = false;
    const CONFIGURATIONS: &[Configuration] = &[
        Configuration::new("rows_64", &[("rows", 64)]),
        Configuration::new("rows_128", &[("rows", 128)]),
        // Fewer scores that a mask hides, or fewer steps of the softmax.
        Configuration::new("keys_32", &[("keys", 32)]),
        Configuration::new("keys_128", &[("rows", 64), ("keys", 128)]),
        // Twice as many warps read the same keys and values.
        Configuration::new("warps_8", &[("rows", 128), ("warps", 8)]),
        Configuration::new("stages_2", &[("stages", 2)]),
    ];

    fn configure(
        p: &PrefillAttention,
        arch: Arch,
        choice: &Configuration,
    ) -> Result<Self, Refusal> {
        let element = only_element(p)?;
        refuse_unless(matches!(p.head_dim, 64 | 128), || {
            format!("head_dim = 64 or 128, not {}; use one of those", p.head_dim)
        })?;
        refuse_unless(p.v_head_dim == p.head_dim, || {
            format!("v_head_dim = head_dim, not {}; use {}", p.v_head_dim, p.head_dim)
        })?;
        refuse_unless(p.window == 0, || {
            format!("the whole context, not window = {}; use 0", p.window)
        })?;
        refuse_unless(p.layout == KvLayout::Contiguous, || {
            format!("contiguous keys and values, not layout = {}; use contiguous", p.layout)
        })?;
        check_counts(p)?;
        let blocks = PrefillShape::new(64, p.head_dim, arch).blocks(p);
        refuse_unless(blocks <= i32::MAX as u64, || {
            format!("at most {} blocks, not {blocks}; use a smaller batch", i32::MAX)
        })?;
        Ok(AttentionPrefill { p: *p, element, shape: PrefillShape::of(p, arch, choice)? })
    }

    fn defines(&self) -> Defines {
        let shape = &self.shape;
        Defines::new()
            .with(self.element, 1)
            .with("HEAD_DIM", self.p.head_dim)
            .with("ROWS", shape.rows)
            .with("KEYS", shape.keys)
            .with("WARPS", shape.warps)
            .with("STAGES", shape.stages)
            .with("BLOCKS_PER_SM", shape.resident)
            .with("RAGGED", u32::from(self.p.lengths != Lengths::Equal))
    }

    fn plan(&self, _: &Target) -> Plan {
        let AttentionPrefill { p, shape, .. } = *self;
        let work = self.work();
        let blocks = work.as_ref().map_or(shape.blocks(&p), |work| work.len() as u64);
        let launch = Launch::new(
            "attention_prefill",
            blocks as u32,
            (32 * shape.warps) as u32,
            params(p),
        );
        Plan {
            scratch: work.iter().map(|work| Scratch::of(WORK, work)).collect(),
            // Blocks of tokens read keys and values again, through L2 where it
            // they fit.
            extra_bytes: None,
            ..Plan::of(Launch {
                shared_bytes: shape.shared_bytes() as u32,
                bytes_in_flight: shape.bytes_in_flight(),
                ..launch
            })
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernel::Bound;
    use crate::kernel::contract::testing::{
        configured_as, operation, options_as, plan, refusal, refusal_as,
    };

    const ARCHS: [Arch; 5] = [
        Arch::SM_80,
        Arch { major: 8, minor: 6 },
        Arch::SM_90,
        Arch { major: 10, minor: 0 },
        Arch::SM_120,
    ];

    fn problem(shape: &str) -> String {
        format!("prefill_attention:{shape}")
    }

    #[test]
    fn every_shape_fits_every_architecture() {
        for arch in ARCHS {
            for (rows, head_dim) in [(64, 64), (64, 128), (128, 64), (128, 128)] {
                let shape = PrefillShape::new(rows, head_dim, arch);
                assert!(shape.stages >= 2, "{arch} {shape:?}");
                let most = arch.limits().shared_bytes_of_block(shape.resident as u32);
                assert!(shape.shared_bytes() <= most.into());
            }
        }
    }

    #[test]
    fn few_tokens_take_flat_blocks() {
        let rows = |tokens: u64, head_dim: u64| {
            let p = operation(&problem(&format!(
                "batch=1,new_tokens={tokens},q_heads=32,kv_heads=8,head_dim={head_dim},dtype=bf16"
            )));
            best_shape(&p, Arch::SM_90).rows
        };
        for head_dim in [64, 128] {
            assert_eq!(rows(16, head_dim), 64);
            assert_eq!(rows(8192, head_dim), 128);
        }
    }

    #[test]
    fn configurations_have_tiles_of_their_own() {
        let of = |tokens: u32| {
            problem(&format!(
                "batch=1,new_tokens={tokens},q_heads=32,kv_heads=8,head_dim=128,dtype=bf16"
            ))
        };
        for (name, macros) in [
            (
                "rows_64",
                "-DROWS=64 -DKEYS=64 -DWARPS=4 -DSTAGES=6 -DBLOCKS_PER_SM=2 -DRAGGED=0",
            ),
            (
                "keys_32",
                "-DROWS=128 -DKEYS=32 -DWARPS=4 -DSTAGES=6 -DBLOCKS_PER_SM=2 -DRAGGED=0",
            ),
            (
                "keys_128",
                "-DROWS=64 -DKEYS=128 -DWARPS=4 -DSTAGES=3 -DBLOCKS_PER_SM=2 -DRAGGED=0",
            ),
            (
                "warps_8",
                "-DROWS=128 -DKEYS=64 -DWARPS=8 -DSTAGES=6 -DBLOCKS_PER_SM=1 -DRAGGED=0",
            ),
            (
                "stages_2",
                "-DROWS=128 -DKEYS=48 -DWARPS=4 -DSTAGES=2 -DBLOCKS_PER_SM=2 -DRAGGED=0",
            ),
        ] {
            let found = options_as::<AttentionPrefill>(&of(8192), Arch::SM_90, name);
            assert!(found.ends_with(macros), "{name}: {found}");
        }
        let wide = configured_as::<AttentionPrefill>(&of(8192), Arch::SM_90, "warps_8");
        let plan = wide.unwrap().plan(&Target::new(Arch::SM_90, 132));
        assert_eq!(plan.launches[0].block, [256, 1, 1]);
        let why =
            |tokens, arch, name| refusal_as::<AttentionPrefill>(&of(tokens), arch, name);
        let few = why(64, Arch::SM_90, "rows_128");
        assert!(few.contains("more than 64 new tokens in blocks of 128, not 64"), "{few}");
        let small = why(8192, Arch::SM_120, "keys_128");
        assert!(small.contains("sm_120 does not have for tiles of 128"), "{small}");
    }

    #[test]
    fn plan_of_a_chunk_after_a_prefix() {
        let text = "batch=2,prefix=100,new_tokens=130,q_heads=6,kv_heads=2,head_dim=128,\
                    dtype=bf16";
        let bound = Bound::new(1, 0, [("k", 256), ("v", 512), ("q", 768), ("o", 1024)]);
        let words_of = |problem: &str| {
            let plan = plan::<AttentionPrefill>(problem, &Target::new(Arch::SM_90, 132));
            let launch = &plan.launches[0];
            // Three tiles of 64 tokens for each of 12 heads.
            assert_eq!((launch.grid, launch.block), ([36, 1, 1], [128, 1, 1]));
            assert_eq!(launch.shared_bytes, 2 * 128 * (64 + 6 * 64));
            bytemuck::pod_collect_to_vec::<u8, u32>(&launch.params.bytes(&bound))
        };
        let words = words_of(&problem(text));
        assert_eq!(words[..8], [256, 0, 512, 0, 768, 0, 1024, 0]);
        assert_eq!(words[8..18], [0, 0, 12, 3, 0, 130, 230, 101, 12, 6]);
        let scale = f32::from_bits(words[18]);
        assert!((scale - 0.127_517_4).abs() < 1e-6, "{scale}");
        assert_eq!(words[19..], [0]);
        // Without a mask every token reaches every key.
        let words = words_of(&problem(&format!("{text},causal=false")));
        assert_eq!(words[15], 230);
    }

    #[test]
    fn ragged_prompts_have_a_block_for_each_of_their_tiles() {
        let text = problem(
            "batch=5,prefix=100,new_tokens=330,q_heads=6,kv_heads=2,head_dim=128,\
             dtype=bf16,lengths=ragged",
        );
        let p: PrefillAttention = operation(&text);
        let rows = best_shape(&p, Arch::SM_90).rows;
        let tiles: u64 = (0..5).map(|r| p.request(r).new_tokens.div_ceil(rows)).sum();
        let plan = plan::<AttentionPrefill>(&text, &Target::new(Arch::SM_90, 132));
        assert_eq!(plan.launches[0].grid, [6 * tiles as u32, 1, 1]);
        assert_eq!(plan.scratch[0].name, WORK);
    }

    #[test]
    fn refusals_say_what_to_use() {
        let why = |shape: &str| refusal::<AttentionPrefill>(&problem(shape), Arch::SM_90);
        let of = "batch=1,new_tokens=4,q_heads=1,kv_heads=1";
        assert_eq!(
            why(&format!("{of},head_dim=64,dtype=f32")),
            "the CUDA kernel supports dtype = bf16 or f16, not f32; use one of those"
        );
        assert_eq!(
            why(&format!("{of},head_dim=64,dtype=bf16,kv_dtype=fp8_e4m3")),
            "the CUDA kernel supports kv_dtype = dtype, not fp8_e4m3 with dtype = bf16; use bf16"
        );
        assert_eq!(
            why(&format!("{of},head_dim=96,dtype=bf16")),
            "the CUDA kernel supports head_dim = 64 or 128, not 96; use one of those"
        );
        let far = "batch=1,prefix=2000000000,new_tokens=4,q_heads=1,kv_heads=1,head_dim=64";
        assert!(why(&format!("{far},dtype=f16")).contains("contexts up to 1073741824"));
    }
}

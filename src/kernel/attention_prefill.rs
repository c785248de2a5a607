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

/// Tokens of the smallest blocks.
const LEAST_ROWS: u64 = 64;
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

/// What the compiler makes without spills on every architecture, with head dims of 128 and of
/// 64: rows, warps, keys of a tile and blocks that share an SM. With 32 rows of a warp an
/// operand from shared memory serves twice as many products as with 16; then outputs of 128
/// columns leave registers for the scores of 48 keys.
type Candidate = (u64, u64, u64, u64);
const WIDE: [Candidate; 7] = [
    (128, 4, 48, 2),
    (128, 4, 32, 2),
    (64, 4, 64, 2),
    (64, 4, 64, 3),
    (64, 4, 32, 3),
    (64, 4, 128, 2),
    (128, 8, 64, 1),
];
const NARROW: [Candidate; 7] = [
    (128, 4, 64, 2),
    (128, 4, 32, 3),
    (64, 4, 64, 3),
    (64, 4, 64, 4),
    (64, 4, 32, 4),
    (64, 4, 128, 2),
    (128, 8, 64, 2),
];

/// Rough rates of an SM per clock: enough to compare shapes of the same problem with each
/// other.
mod nominal {
    use crate::toolchain::Arch;

    /// Multiply-adds of 16-bit operands by mma.sync. An H100 was measured at 1370, of the 2048
    /// that its tensor cores have; the others' are their data sheets'.
    pub fn multiply_adds(arch: Arch) -> f64 {
        match (arch.major, arch.minor) {
            (9, _) => 1370.0,
            (8, 0 | 7) | (10 | 11, _) => 1024.0,
            _ => 512.0,
        }
    }

    /// Scores of the softmax: sixteen exponentials, or lanes of FP32 for six other
    /// instructions of each, whichever are fewer.
    pub fn scores(arch: Arch) -> f64 {
        let lanes: f64 = if (arch.major, arch.minor) == (8, 0) { 64.0 } else { 128.0 };
        (lanes / 6.0).min(16.0)
    }

    /// Bytes to and from shared memory.
    pub const SHARED_BYTES: f64 = 128.0;
    /// Bytes from L2, when all SMs load.
    pub const L2_BYTES: f64 = 40.0;
    /// Clocks of a load from L2.
    pub const LATENCY: f64 = 800.0;
    /// Clocks of a block before its first and after its last tile.
    pub const START_AND_END: f64 = 2000.0;
}

impl PrefillShape {
    /// The candidates that an architecture has shared memory for.
    fn all(head_dim: u64, arch: Arch) -> impl Iterator<Item = Self> {
        let candidates: &[Candidate] = if head_dim == 64 { &NARROW } else { &WIDE };
        let shapes = candidates.iter().map(move |&(rows, warps, keys, resident)| {
            let shape =
                PrefillShape { rows, warps, keys, stages: MAX_STAGES, resident, head_dim };
            shape.that_fits(arch)
        });
        shapes.filter(|shape| shape.stages >= 2)
    }

    /// With as many of its stages as shared memory has room for.
    fn that_fits(self, arch: Arch) -> Self {
        let share = u64::from(arch.limits().shared_bytes_of_block(self.resident as u32));
        let most = (share / (2 * self.head_dim)).saturating_sub(self.rows) / self.keys;
        PrefillShape { stages: most.min(self.stages), ..self }
    }

    /// The shape of a configuration: of those that have the parameters which it names, the one
    /// with the fewest clocks.
    ///
    /// # Errors
    /// Blocks of which few tokens would fill less than half, and tiles of which two do not fit
    /// shared memory.
    fn of(
        p: &PrefillAttention,
        arch: Arch,
        choice: &Configuration,
    ) -> Result<Self, Refusal> {
        let asked = |name: &str, own: u64| u64::from(choice.or(name, own as u32));
        let rows = asked("rows", 0);
        refuse_unless(rows == 0 || p.new_tokens > rows / 2, || {
            format!(
                "more than {} new tokens in blocks of {rows}, not {}",
                rows / 2,
                p.new_tokens
            )
        })?;
        let shapes = PrefillShape::all(p.head_dim, arch).filter(|shape| {
            asked("rows", shape.rows) == shape.rows
                && asked("warps", shape.warps) == shape.warps
                && asked("keys", shape.keys) == shape.keys
        });
        let best = best_of(shapes, p, arch).ok_or_else(|| {
            supports(format!(
                "two tiles of keys in shared memory, which {arch} does not have for {} with \
                 head_dim = {}; use the default configuration",
                choice.spell(),
                p.head_dim
            ))
        })?;
        Ok(PrefillShape { stages: best.stages.min(asked("stages", MAX_STAGES)), ..best })
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

    /// Rough clocks of an SM for a tile of each of `blocks` blocks that share it, over their
    /// number.
    fn tile_clocks(&self, blocks: u64, arch: Arch) -> f64 {
        let scores = (self.rows * self.keys) as f64;
        let tensor = 2.0 * scores * self.head_dim as f64 / nominal::multiply_adds(arch);
        // Every warp reads its rows of Q and all keys and values, which copies have written.
        let copied = 4 * self.keys * self.head_dim;
        let read = 2 * self.rows * self.head_dim + self.warps * copied;
        let shared = (read + copied) as f64 / nominal::SHARED_BYTES;
        let softmax = scores / nominal::scores(arch);
        let l2 = copied as f64 / nominal::L2_BYTES;
        // What takes longest hides the others, of other warps: blocks are independent of one
        // another, warps of a block wait for each other twice a tile.
        let units = [tensor, shared, softmax];
        let longest = units.into_iter().fold(l2, f64::max);
        let others = units.iter().sum::<f64>() - units.into_iter().fold(0.0, f64::max);
        let independent = blocks as f64 * (1.0 + (self.warps / 4 - 1) as f64 / 2.0);
        let waiting = 2.0 * nominal::LATENCY / ((self.stages - 1) * blocks) as f64;
        (longest + others / independent).max(waiting)
    }

    /// Tiles of keys of the blocks of a head: of the first, of the last, and of all.
    fn tiles(&self, p: &PrefillAttention) -> (u64, u64, f64) {
        let of_tokens = |first: u64| {
            let last = (first + self.rows).min(p.new_tokens) - 1;
            p.attended(last).end.div_ceil(self.keys)
        };
        let blocks = p.new_tokens.div_ceil(self.rows);
        let (first, last) = (of_tokens(0), of_tokens((blocks - 1) * self.rows));
        (first, last, blocks as f64 * (first + last) as f64 / 2.0)
    }

    /// Rough clocks of a problem on `sms` SMs. Blocks are taken longest first: an SM that is
    /// done early lacks one of the shortest.
    fn clocks(&self, p: &PrefillAttention, arch: Arch, sms: u64) -> f64 {
        let blocks = self.blocks(p);
        let resident = blocks.div_ceil(sms).min(self.resident);
        let tile = self.tile_clocks(resident, arch);
        let of_block = |tiles: f64| tiles * tile + nominal::START_AND_END / resident as f64;
        let (first, last, of_head) = self.tiles(p);
        let of_heads = of_head * (p.batch * p.q_heads) as f64;
        let all = of_heads * tile + blocks as f64 * of_block(0.0);
        let idle = (blocks.next_multiple_of(sms) - blocks) as f64;
        let busiest = (all + idle * of_block(first as f64)) / sms as f64;
        busiest.max(resident as f64 * of_block(last as f64))
    }
}

/// The shape with the fewest clocks on a typical GPU of the architecture.
#[cfg(test)]
fn best_shape(p: &PrefillAttention, arch: Arch) -> PrefillShape {
    best_of(PrefillShape::all(p.head_dim, arch), p, arch).unwrap()
}

/// Of some shapes the one with the fewest clocks on a typical GPU of the architecture.
fn best_of(
    shapes: impl Iterator<Item = PrefillShape>,
    p: &PrefillAttention,
    arch: Arch,
) -> Option<PrefillShape> {
    let clocks = |shape: &PrefillShape| shape.clocks(p, arch, arch.usual_sms().into());
    shapes.min_by(|a, b| clocks(a).total_cmp(&clocks(b)))
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
    /// Rough clocks choose otherwise.
    const CONFIGURATIONS: &[Configuration] = &[
        Configuration::new("rows_64", &[("rows", 64)]),
        Configuration::new("rows_128", &[("rows", 128), ("warps", 4)]),
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
        let blocks = p.new_tokens.div_ceil(LEAST_ROWS) * p.q_heads * p.batch;
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

    /// New tokens of a model with 32 query heads and 8 of keys, in one request.
    fn prompt(tokens: u64, head_dim: u64) -> PrefillAttention {
        operation(&problem(&format!(
            "batch=1,new_tokens={tokens},q_heads=32,kv_heads=8,head_dim={head_dim},dtype=bf16"
        )))
    }

    #[test]
    fn every_shape_fits_every_architecture() {
        for arch in ARCHS {
            for head_dim in [64, 128] {
                let shapes: Vec<_> = PrefillShape::all(head_dim, arch).collect();
                for rows in [64, 128] {
                    assert!(shapes.iter().any(|shape| shape.rows == rows), "{arch} {rows}");
                }
                for shape in shapes {
                    let most = arch.limits().shared_bytes_of_block(shape.resident as u32);
                    assert!(shape.shared_bytes() <= most.into(), "{arch} {shape:?}");
                    let threads = 32 * shape.warps * shape.resident;
                    assert!(threads <= u64::from(arch.limits().threads_per_sm));
                }
            }
        }
    }

    #[test]
    fn few_tokens_take_flat_blocks() {
        for head_dim in [64, 128] {
            for arch in ARCHS {
                let rows = |tokens| best_shape(&prompt(tokens, head_dim), arch).rows;
                assert_eq!(rows(16), 64, "{arch}");
                // Where tensor cores are half as fast, flat blocks hide as much behind them.
                if nominal::multiply_adds(arch) > 512.0 {
                    assert_eq!(rows(8192), 128, "{arch}");
                }
            }
        }
    }

    /// Microseconds on an H100 (`results/2026-11-26-nvidia-h100-80gb-hbm3-paper`, at 1.75 GHz)
    /// by tiles of 128 rows and 48 keys, which are still the default of such prompts.
    #[test]
    fn estimates_are_near_what_was_measured() {
        for (shape, measured) in [
            ("batch=16,new_tokens=1024", 479.0),
            ("batch=2,new_tokens=8192", 3018.0),
            ("batch=1,new_tokens=16384", 5805.0),
        ] {
            let p = operation(&problem(&format!(
                "{shape},q_heads=32,kv_heads=8,head_dim=128,dtype=bf16"
            )));
            let best = best_shape(&p, Arch::SM_90);
            assert_eq!((best.rows, best.keys, best.resident, best.stages), (128, 48, 2, 6));
            let ratio = best.clocks(&p, Arch::SM_90, 132) / 1750.0 / measured;
            assert!((0.9..1.1).contains(&ratio), "{shape}: {ratio}");
        }
    }

    /// Long prompts on other architectures: with half of Hopper's shared memory tiles have 32
    /// keys, and narrow heads leave registers for a third block.
    #[test]
    fn known_prompts_get_known_shapes() {
        for (arch, head_dim, wanted) in [
            (Arch::SM_80, 128, (128, 48, 2, 4)),
            (Arch::SM_89, 128, (128, 32, 2, 2)),
            (Arch::SM_120, 128, (128, 32, 2, 2)),
            (Arch::SM_80, 64, (128, 32, 3, 6)),
            (Arch::SM_89, 64, (128, 32, 3, 4)),
        ] {
            let best = best_shape(&prompt(32768, head_dim), arch);
            let found = (best.rows, best.keys, best.resident, best.stages);
            assert_eq!(found, wanted, "{arch} {head_dim}");
        }
    }

    /// By the estimate, no shape that was chosen by rows alone before was better: 128 rows, or
    /// 64, whichever took fewer clocks, with 64 keys, 48 for wide outputs of 128 rows, or 32
    /// where two tiles did not fit.
    #[test]
    fn no_prompt_is_slower_than_by_rows_alone() {
        for arch in ARCHS {
            for head_dim in [64, 128] {
                for tokens in [1, 64, 65, 200, 1024, 8192, 100_000] {
                    let p = prompt(tokens, head_dim);
                    let clocks = |shape: &PrefillShape| {
                        shape.clocks(&p, arch, arch.usual_sms().into())
                    };
                    let best = clocks(&best_shape(&p, arch));
                    for rows in [64, 128] {
                        let (resident, keys) = match (rows, head_dim) {
                            (128, 128) => (2, 48),
                            (64, 64) => (3, 64),
                            _ => (2, 64),
                        };
                        let of = |keys| {
                            let warps = 4;
                            let stages = MAX_STAGES;
                            PrefillShape { rows, warps, keys, stages, resident, head_dim }
                                .that_fits(arch)
                        };
                        let shape = if of(keys).stages >= 2 { of(keys) } else { of(32) };
                        assert!(best <= clocks(&shape), "{arch} {tokens} {shape:?}");
                    }
                }
            }
        }
    }

    /// More requests, longer prefixes and fewer SMs never take fewer clocks, and a mask never
    /// takes more.
    #[test]
    fn estimates_grow_with_the_work() {
        for arch in [Arch::SM_80, Arch::SM_90, Arch::SM_120] {
            for shape in PrefillShape::all(128, arch).chain(PrefillShape::all(64, arch)) {
                let clocks = |batch: u64, prefix: u64, rest: &str, sms: u64| {
                    let text = format!(
                        "batch={batch},prefix={prefix},{rest},q_heads=8,kv_heads=2,head_dim={},\
                         dtype=bf16",
                        shape.head_dim
                    );
                    shape.clocks(&operation(&problem(&text)), arch, sms)
                };
                for tokens in [1, 65, 700] {
                    let rest = format!("new_tokens={tokens}");
                    let whole = format!("{rest},causal=false");
                    let batches = (1..60).map(|batch| clocks(batch, 5, &rest, 108));
                    let prefixes = (0..40).map(|of| clocks(16, 100 * of, &rest, 108));
                    let sms = (1..60).map(|less| clocks(16, 5, &rest, 180 - 3 * less));
                    for all in
                        [batches.collect(), prefixes.collect(), sms.collect::<Vec<_>>()]
                    {
                        // Where SMs get a further block, what these share is hidden better.
                        let grow = all.windows(2).all(|pair| pair[0] <= 1.1 * pair[1]);
                        assert!(grow, "{arch} {shape:?} {tokens}: {all:?}");
                        assert!(all[0] < all[all.len() - 1]);
                    }
                    assert!(clocks(16, 5, &rest, 108) <= clocks(16, 5, &whole, 108));
                }
            }
        }
    }

    /// The problems of the suite `corners` that this kernel runs by default or by name.
    fn corners() -> Vec<PrefillAttention> {
        let corners: toml::Table =
            include_str!("../../benches/corners.toml").parse().unwrap();
        let keys = ["batch", "prefix", "new_tokens", "q_heads", "kv_heads", "head_dim"];
        let mut found = Vec::new();
        for point in corners["points"].as_array().unwrap() {
            let of = |key: &str| point.get(key).and_then(toml::Value::as_str);
            let is_other = ["v_head_dim", "window", "layout"];
            if of("op") != Some("prefill_attention")
                || of("kernel").is_some_and(|name| name != AttentionPrefill::NAME)
                || is_other.iter().any(|key| point.get(key).is_some())
            {
                continue;
            }
            let mut texts = vec!["dtype=bf16".to_owned()];
            for key in keys.into_iter().chain(["causal"]) {
                let Some(value) = point.get(key) else { continue };
                let one = [value.clone()];
                let values = value.as_array().map_or(&one[..], |values| &values[..]);
                let with = |text: &String| {
                    values.iter().map(|of| format!("{text},{key}={of}")).collect::<Vec<_>>()
                };
                texts = texts.iter().flat_map(with).collect();
            }
            found.extend(
                texts.iter().map(|text| operation::<PrefillAttention>(&problem(text))),
            );
        }
        found
    }

    /// Every shape of four warps is the default of some corner, wherever it fits, but for one
    /// that on sm_120 is nowhere the best; those of eight are configurations.
    #[test]
    fn every_shape_is_picked_by_a_corner() {
        let corners = corners();
        for arch in [Arch::SM_80, Arch::SM_90, Arch::SM_120] {
            for head_dim in [64, 128] {
                let of = corners.iter().filter(|p| p.head_dim == head_dim);
                let picked: Vec<_> = of.map(|p| best_shape(p, arch)).collect();
                for shape in PrefillShape::all(head_dim, arch) {
                    let found = picked.contains(&shape);
                    let is_best_somewhere = (arch, shape.rows, shape.keys, head_dim)
                        != (Arch::SM_120, 128, 64, 64);
                    let wanted = shape.warps == 4 && is_best_somewhere;
                    assert_eq!(found, wanted, "{arch} {shape:?}");
                }
            }
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
                "-DROWS=64 -DKEYS=64 -DWARPS=4 -DSTAGES=3 -DBLOCKS_PER_SM=3 -DRAGGED=0",
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
        assert!(
            small.contains("sm_120 does not have for rows = 64, keys = 128"),
            "{small}"
        );
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

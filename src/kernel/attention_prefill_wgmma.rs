//! Host half of `kernels/attention_prefill_wgmma.cu`.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

use bytemuck::{Pod, Zeroable};

use super::attention_prefill::only_element;
use super::configuration::Configuration;
use super::contract::HostHalf;
use super::formats::element;
use super::kv_read::page_size;
use super::plan::{Launch, Params, Plan, Scratch};
use super::prompts::{self, Item, MAX_COUNT, Prompt, WORK, check_counts};
use super::refusal::{Refusal, refuse_unless, supports};
use super::split_kv::log2_scale;
use super::tensor_map::TensorMap;
use crate::format::DType;
use crate::op::{KvLayout, Lengths, PrefillAttention};
use crate::toolchain::{Arch, Defines, Target};

/// Rows of a warpgroup.
const GROUP_ROWS: u64 = 64;
/// Bytes of a row of a panel, and of a box.
const PANEL_ROW_BYTES: u64 = 128;
/// Keys that a token attends to from which tiles under a causal mask are wide: on an H200,
/// tiles of 160 keys reach 0.93 of the speed of 128 with 1024 tokens, 0.99 with 2048, and
/// 1.01, 1.01 and 1.04 with 4096, 8192 and 16384.
const WIDE_TILE_KEYS: u64 = 4096;
/// Most keys of a tile, whose scores and weights leave registers for outputs of 128 columns.
const MOST_KEYS: u64 = 176;
/// Shared memory that the kernel declares itself, rounded up to where a tile may begin.
const STATIC_SHARED_BYTES: u32 = 1024;
/// Keys of the smallest box: the rows of one swizzle atom.
const LEAST_BOX: u64 = 8;
/// Most pages of a tile: the thread that copies has registers for so many of their numbers.
const MOST_PAGES: u64 = 8;
/// What an item costs a block beside its tiles, in tiles: the first softmax and the last
/// product overlap with nothing of their own warpgroup.
const OVERHEAD: u64 = 1;
/// Names of the tensor maps: those of their tensors.
const QUERIES: &str = "q";
const KEYS: &str = "k";
const VALUES: &str = "v";

/// `Params` of the kernel.
#[derive(Clone, Copy, Pod, Zeroable)]
#[repr(C)]
struct PrefillWgmmaParams {
    q: [u8; 128],
    k: [u8; 128],
    v: [u8; 128],
    o: u64,
    work: u64,
    page_table: u64,
    scale: f32,
    window: u32,
    prompt: Prompt,
    q_heads: u32,
    kv_heads: u32,
    request_pages: u32,
    unused: u32,
    q_scale: u64,
    k_scale: u64,
    v_scale: u64,
    rest: [u64; 5],
}

/// The tiles of a block.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Shape {
    /// Warpgroups that compute, of 64 rows each.
    consumers: u64,
    /// Keys of a tile.
    keys: u64,
    /// Tiles of keys, and of values, in shared memory.
    stages: u64,
    /// Whether warpgroups start products in turns.
    turns: bool,
    /// Powers of two by which a maximum may grow before outputs are rescaled; 0 for none.
    lazy_bits: u32,
}

impl Shape {
    /// The largest tiles that registers and shared memory allow, powers of two where pages
    /// are. Wide ones save waits, but compute more scores that a mask hides: of few tokens
    /// these are many.
    fn of(p: &PrefillAttention) -> Option<Self> {
        let paged = page_size(p.layout) != 0;
        let of_last = p.attended(p.new_tokens - 1);
        let longest = of_last.end - of_last.start;
        if is_narrow(p) {
            return Shape::narrow(p, paged, longest);
        }
        let (consumers, keys, stages) = match (p.head_dim, p.v_head_dim) {
            (64, 64) => (3, 128, 4),
            (96, 96) | (128, 128) if paged => (2, 128, 2),
            (96, 96) | (128, 128) if !p.causal => (2, 176, 2),
            (96, 96) | (128, 128) if longest < WIDE_TILE_KEYS => (2, 128, 2),
            (96, 96) | (128, 128) => (2, 160, 2),
            (192, 128) => (2, 128, 2),
            (256, 256) if paged => (2, 64, 2),
            (256, 256) => (2, 80, 2),
            _ => return None,
        };
        // Three warpgroups need all slots to issue instructions, and wide heads have many
        // outputs. Two warpgroups take turns by themselves, and are 1 to 3% faster without
        // waiting for it (an H200); of three, 2 to 4% slower.
        let wide = p.head_dim > 128;
        let lazy_bits = if consumers == 3 || wide { 8 } else { 0 };
        Some(Shape { consumers, keys, stages, turns: consumers == 3, lazy_bits })
    }

    /// The same of operands in 8 bits: of values there are two tiles, as they lie and
    /// transposed, and the warps that transpose need the registers of a third warpgroup.
    fn narrow(p: &PrefillAttention, paged: bool, longest: u64) -> Option<Self> {
        let (consumers, keys, stages) = match (p.head_dim, p.v_head_dim) {
            (64, 64) => (2, 128, 4),
            (128, 128) if paged => (2, 128, 2),
            (128, 128) if !p.causal => (2, 224, 2),
            (128, 128) if longest < WIDE_TILE_KEYS => (2, 128, 2),
            (128, 128) => (2, 192, 2),
            (256, 256) if paged => (2, 64, 2),
            (256, 256) => (2, 96, 2),
            _ => return None,
        };
        Some(Shape { consumers, keys, stages, turns: false, lazy_bits: 0 })
    }

    /// The shape of a configuration.
    ///
    /// # Errors
    /// More warpgroups, or wider tiles, than registers or shared memory allow.
    fn chosen(
        self,
        p: &PrefillAttention,
        arch: Arch,
        choice: &Configuration,
    ) -> Result<Self, Refusal> {
        let consumers = u64::from(choice.or("warpgroups", self.consumers as u32));
        // Tiles are narrower where pages are so small that they would have too many.
        let page = page_size(p.layout);
        let widest = if page == 0 { self.keys } else { self.keys.min(MOST_PAGES * page) };
        let keys = u64::from(choice.or("keys", widest as u32));
        check_keys(p, keys, consumers)?;
        let stages = u64::from(choice.or("stages", self.stages as u32));
        let turns = choice.or("turns", u32::from(self.turns && consumers > 2)) == 1;
        let lazy_bits = choice.or("lazy_bits", self.lazy_bits);
        refuse_unless(!is_narrow(p) || keys.is_multiple_of(32) && lazy_bits == 0, || {
            format!(
                "tiles of a multiple of 32 keys and outputs that are always rescaled in 8 bits, \
                 not {keys} keys and lazy_bits = {lazy_bits}; use the default configuration"
            )
        })?;
        let shape = Shape { consumers, keys, stages, turns, lazy_bits };
        let most = arch.limits().shared_bytes_of_block(1) - STATIC_SHARED_BYTES;
        let bytes = shape.shared_bytes(p);
        refuse_unless(bytes <= most.into(), || {
            format!(
                "tiles in {most} bytes of shared memory, not {stages} stages of {keys} keys in \
                 {bytes}; use the default configuration"
            )
        })?;
        Ok(shape)
    }

    /// Rows of a block.
    const fn rows(&self) -> u64 {
        self.consumers * GROUP_ROWS
    }

    /// Threads of a block: one further warpgroup copies.
    const fn threads(&self) -> u32 {
        (self.consumers as u32 + 1) * 128
    }

    /// Of the tiles of queries, keys and values.
    fn shared_bytes(&self, p: &PrefillAttention) -> u64 {
        let q_bytes = self.rows() * row_bytes(p, p.head_dim);
        q_bytes + self.stages * (self.tile_bytes(p) + self.transposed_bytes(p))
    }

    /// Of a tile of values that are transposed: rows of keys.
    fn transposed_bytes(&self, p: &PrefillAttention) -> u64 {
        if is_narrow(p) { p.v_head_dim * row_bytes(p, self.keys) } else { 0 }
    }

    /// Of a tile of keys and one of values.
    fn tile_bytes(&self, p: &PrefillAttention) -> u64 {
        self.keys * (row_bytes(p, p.head_dim) + row_bytes(p, p.v_head_dim))
    }

    /// Tiles that the rows of a block attend to, the first of them being `token` of the only
    /// request, or of any of equal ones.
    fn tiles(&self, p: &PrefillAttention, token: u64) -> u64 {
        let last = (token + self.rows()).min(p.new_tokens) - 1;
        let (begin, end) = (p.attended(token).start, p.attended(last).end);
        end.div_ceil(self.keys) - begin / self.keys
    }
}

/// Refuses tiles that are wider than registers allow.
fn check_keys(p: &PrefillAttention, keys: u64, consumers: u64) -> Result<(), Refusal> {
    // Three have the registers of narrow heads alone, and of fewer scores.
    let most = match (p.head_dim, p.v_head_dim, consumers) {
        (256, 256, _) if is_narrow(p) => 96,
        (128, 128, _) if is_narrow(p) => 224,
        (64, 64, 3) | (192, 128, _) => 128,
        (256, 256, _) => 80,
        _ => MOST_KEYS,
    };
    refuse_unless(keys <= most, || {
        format!(
            "tiles of up to {most} keys with head_dim = {} and {consumers} warpgroups, not {keys}; \
             use narrower ones",
            p.head_dim
        )
    })?;
    let page = page_size(p.layout);
    refuse_unless(page == 0 || keys <= MOST_PAGES * page, || {
        format!(
            "tiles of up to {MOST_PAGES} pages, not {keys} keys with layout = {}; use narrower ones",
            p.layout
        )
    })
}

/// Bytes of a row of panels of operands in shared memory.
fn row_bytes(p: &PrefillAttention, columns: u64) -> u64 {
    operand(p).bytes_of(columns).next_multiple_of(PANEL_ROW_BYTES)
}

/// The format of queries, keys and values.
const fn operand(p: &PrefillAttention) -> DType {
    p.q_dtype.dtype()
}

/// Whether they have 8 bits.
fn is_narrow(p: &PrefillAttention) -> bool {
    operand(p) == DType::Fp8E4m3
}

/// What blocks compute, and in which order.
#[derive(Debug)]
struct Division {
    /// The first items of all blocks in order, then the further ones.
    items: Vec<Item>,
    blocks: u32,
    /// Work of the busiest block over that of the mean block.
    imbalance: f64,
}

impl Division {
    /// Gives each item to the block that is free first, those that take longest before the
    /// others: with a causal mask the last tokens, which attend to the most keys.
    fn new(p: &PrefillAttention, shape: &Shape, most_blocks: u32) -> Self {
        let cost = |request: &_, token| shape.tiles(request, token) + OVERHEAD;
        let in_order = prompts::items(p, shape.rows(), cost);
        let blocks = (most_blocks as usize).min(in_order.len()) as u32;
        let mut free: BinaryHeap<_> =
            (0..blocks).map(|block| Reverse((0, block))).collect();
        let mut items: Vec<Item> = Vec::with_capacity(in_order.len());
        let mut last_of_block = vec![0; blocks as usize];
        let (mut all, mut busiest) = (0, 0);
        for (item, cost) in in_order {
            let Reverse((busy, block)) = free.pop().expect("there are blocks");
            free.push(Reverse((busy + cost, block)));
            (all, busiest) = (all + cost, (busy + cost).max(busiest));
            let at = items.len() as u32;
            items.push(item);
            if at >= blocks {
                items[last_of_block[block as usize] as usize].next = at;
            }
            last_of_block[block as usize] = at;
        }
        let imbalance = (busiest * u64::from(blocks)) as f64 / all as f64;
        Division { items, blocks, imbalance }
    }
}

/// Attention of many new tokens, with wgmma.
pub(super) struct AttentionPrefillWgmma {
    p: PrefillAttention,
    /// The macro that chooses the format.
    element: &'static str,
    shape: Shape,
}

impl HostHalf for AttentionPrefillWgmma {
    type Operation = PrefillAttention;
    const NAME: &'static str = "attention_prefill_wgmma";
    const SOURCE: &'static str = include_str!("../../kernels/attention_prefill_wgmma.cu");
    const MEMORY_BOUND: bool = false;
    /// Other widths of tiles than the length of a context suggests, and the other way to start
    /// products and to rescale outputs.
    const CONFIGURATIONS: &[Configuration] = &[
        // Fewer scores that a mask or a window hides.
        Configuration::new("keys_64", &[("keys", 64)]),
        Configuration::new("keys_128", &[("keys", 128)]),
        Configuration::new("keys_160", &[("keys", 160)]),
        Configuration::new("keys_176", &[("keys", 176)]),
        // Of narrow heads, which default to three.
        Configuration::new(
            "warpgroups_2",
            &[("warpgroups", 2), ("keys", 176), ("stages", 2)],
        ),
        Configuration::new("in_turns", &[("turns", 1)]),
        Configuration::new("lazy", &[("lazy_bits", 8)]),
        Configuration::new("eager", &[("lazy_bits", 0)]),
    ];

    fn configure(
        p: &PrefillAttention,
        arch: Arch,
        choice: &Configuration,
    ) -> Result<Self, Refusal> {
        refuse_unless(arch == Arch::SM_90, || {
            format!("sm_90a, which has wgmma, not {arch}; use `attention_prefill`")
        })?;
        // Outputs are in 16 bits; a problem has queries in 8 bits only where keys are too.
        let element = match element(p.dtype) {
            Some(element) if is_narrow(p) => element,
            _ => only_element(p)?,
        };
        let shape = Shape::of(p).ok_or_else(|| {
            let widths = match is_narrow(p) {
                true => "head_dim = 64, 128 or 256 in 8 bits",
                false => "head_dim = 64, 96, 128 or 256, and 192 with v_head_dim = 128",
            };
            supports(format!(
                "{widths}, not {} with {}; use one of those",
                p.head_dim, p.v_head_dim
            ))
        })?;
        let shape = shape.chosen(p, arch, choice)?;
        check_counts(p)?;
        let page = page_size(p.layout);
        let is_boxes = page.is_multiple_of(shape.keys)
            || shape.keys.is_multiple_of(page) && page >= LEAST_BOX;
        refuse_unless(page == 0 || is_boxes, || {
            format!(
                "pages of {LEAST_BOX}, 16, 32, 64 or multiples of {} tokens, not {page}; use \
                 one of those",
                shape.keys
            )
        })?;
        let heads = p.batch * p.q_heads;
        refuse_unless(heads * p.new_tokens.div_ceil(shape.rows()) <= MAX_COUNT, || {
            format!("up to {MAX_COUNT} heads and rows of them; use a smaller batch")
        })?;
        Ok(AttentionPrefillWgmma { p: *p, element, shape })
    }

    fn defines(&self) -> Defines {
        let AttentionPrefillWgmma { p, element, shape } = self;
        Defines::new()
            .with(element, 1)
            .with("FP8", u32::from(is_narrow(p)))
            .with("HEAD_DIM", p.head_dim)
            .with("V_HEAD_DIM", p.v_head_dim)
            .with("CONSUMERS", shape.consumers)
            .with("THREADS", shape.threads())
            .with("KEYS", shape.keys)
            .with("STAGES", shape.stages)
            .with("TURNS", u32::from(shape.turns))
            .with("LAZY_BITS", shape.lazy_bits)
            .with("PAGE_SIZE", page_size(p.layout))
            .with("RAGGED", u32::from(p.lengths != Lengths::Equal))
            .with("SHARED_BYTES", shape.shared_bytes(p))
    }

    fn plan(&self, target: &Target) -> Plan {
        let AttentionPrefillWgmma { p, ref shape, .. } = *self;
        let division = Division::new(&p, shape, target.sms);
        let launch = Launch::new(
            "attention_prefill_wgmma",
            division.blocks,
            shape.threads(),
            params(p),
        );
        Plan {
            scratch: vec![Scratch::of(WORK, &division.items)],
            tensor_maps: tensor_maps(&p, shape),
            // Blocks of rows read keys and values again, through L2 where they fit.
            extra_bytes: None,
            imbalance: division.imbalance,
            ..Plan::of(Launch {
                shared_bytes: shape.shared_bytes(&p) as u32,
                // All stages but those that are multiplied.
                bytes_in_flight: (shape.stages - 1) * shape.tile_bytes(&p),
                ..launch
            })
        }
    }
}

/// The queries in boxes of a block's rows; keys and values in boxes of a tile, or of a page
/// where these are smaller.
fn tensor_maps(p: &PrefillAttention, shape: &Shape) -> Vec<TensorMap> {
    let of_cache = |name, columns| match p.layout {
        KvLayout::Contiguous => {
            contiguous(p, name, [columns, p.context(), p.batch * p.kv_heads], shape.keys)
        }
        KvLayout::Paged { page_size, .. } => {
            in_pages(p, name, columns, page_size, shape.keys)
        }
    };
    vec![
        queries(p, shape.rows()),
        of_cache(KEYS, p.head_dim),
        of_cache(VALUES, p.v_head_dim),
    ]
}

/// Columns, tokens and heads of all requests; where these have several lengths the tokens of
/// all requests, and heads within a token.
fn queries(p: &PrefillAttention, box_rows: u64) -> TensorMap {
    match p.lengths {
        Lengths::Equal => {
            let extents = [p.head_dim, p.new_tokens, p.batch * p.q_heads];
            contiguous(p, QUERIES, extents, box_rows)
        }
        Lengths::Ragged => {
            let extents = [p.head_dim, p.all_new_tokens(), p.q_heads];
            let row_bytes = operand(p).bytes_of(p.head_dim);
            TensorMap {
                strides_bytes: vec![p.q_heads * row_bytes, row_bytes],
                ..contiguous(p, QUERIES, extents, box_rows)
            }
        }
    }
}

/// Columns of a panel, and of a box.
fn panel_columns(p: &PrefillAttention) -> u32 {
    (PANEL_ROW_BYTES / operand(p).bytes()) as u32
}

/// Columns, rows of a head, heads.
fn contiguous(
    p: &PrefillAttention,
    name: &'static str,
    extents: [u64; 3],
    box_rows: u64,
) -> TensorMap {
    let [columns, rows, _] = extents;
    let row_bytes = operand(p).bytes_of(columns);
    TensorMap {
        name,
        tensor: name,
        element_bytes: operand(p).bytes() as u32,
        extents: extents.to_vec(),
        strides_bytes: vec![row_bytes, rows * row_bytes],
        tile: vec![panel_columns(p), box_rows as u32, 1],
        swizzle_bytes: 128,
    }
}

/// Columns, keys of a page, KV heads of a request, pages, in whichever order heads and keys
/// lie.
fn in_pages(
    p: &PrefillAttention,
    name: &'static str,
    columns: u64,
    page_size: u64,
    tile_keys: u64,
) -> TensorMap {
    let row_bytes = operand(p).bytes_of(columns);
    let pages = p.layout.pages(p.batch, p.context());
    let (key_stride, head_stride) = if p.layout.is_token_first() {
        (p.kv_heads * row_bytes, row_bytes)
    } else {
        (row_bytes, page_size * row_bytes)
    };
    TensorMap {
        name,
        tensor: name,
        element_bytes: operand(p).bytes() as u32,
        extents: vec![columns, page_size, p.kv_heads, pages],
        strides_bytes: vec![key_stride, head_stride, page_size * p.kv_heads * row_bytes],
        tile: vec![panel_columns(p), page_size.min(tile_keys) as u32, 1, 1],
        swizzle_bytes: 128,
    }
}

fn params(p: PrefillAttention) -> Params {
    Params::of(move |bound| PrefillWgmmaParams {
        q: bound.tensor_map(QUERIES).0,
        k: bound.tensor_map(KEYS).0,
        v: bound.tensor_map(VALUES).0,
        o: bound.tensor("o"),
        work: bound.scratch(WORK),
        page_table: bound.tensor_or_null("page_table"),
        scale: log2_scale(p.head_dim),
        window: if p.window == 0 { u32::MAX } else { p.window.min(MAX_COUNT) as u32 },
        prompt: Prompt::longest(&p),
        q_heads: p.q_heads as u32,
        kv_heads: p.kv_heads as u32,
        request_pages: p.layout.pages(1, p.context()) as u32,
        unused: 0,
        q_scale: bound.tensor_or_null("q_scales"),
        k_scale: bound.tensor_or_null("k_scales"),
        v_scale: bound.tensor_or_null("v_scales"),
        rest: [0; 5],
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernel::EncodedTensorMap;
    use crate::kernel::contract::testing::{
        configured, operation, options_as, plan, refusal, refusal_as,
    };
    use crate::kernel::split_kv::bound_in_order;
    use crate::quant::Quant;

    fn problem(rest: &str) -> String {
        format!("prefill_attention:{rest}")
    }

    fn h100() -> Target {
        Target::new(Arch::SM_90, 132)
    }

    const WIDTHS: [(u64, u64); 5] =
        [(64, 64), (96, 96), (128, 128), (192, 128), (256, 256)];

    #[test]
    fn a_block_fits_an_sm() {
        let most = Arch::SM_90.limits().shared_bytes_of_block(1) - STATIC_SHARED_BYTES;
        for (width, v_width) in WIDTHS {
            for causal in [true, false] {
                let p = operation(&problem(&format!(
                    "batch=1,new_tokens=128,q_heads=1,kv_heads=1,head_dim={width},\
                     v_head_dim={v_width},dtype=bf16,causal={causal}"
                )));
                let shape = Shape::of(&p).unwrap();
                let bytes = shape.shared_bytes(&p);
                assert!(bytes <= most.into(), "{bytes} for {p:?}");
                let narrow = Quant::plain(DType::Fp8E4m3);
                let p = PrefillAttention { q_dtype: narrow, kv_dtype: narrow, ..p };
                if let Some(shape) = Shape::of(&p) {
                    let bytes = shape.shared_bytes(&p);
                    assert!(bytes <= most.into(), "{bytes} for {p:?}");
                }
                // Panels begin where their swizzle does.
                assert!((shape.keys * PANEL_ROW_BYTES).is_multiple_of(1024));
            }
        }
    }

    fn division(rest: &str, blocks: u32) -> Division {
        let p = operation(&problem(rest));
        Division::new(&p, &Shape::of(&p).unwrap(), blocks)
    }

    #[test]
    fn items_are_all_rows_once_and_linked_by_blocks() {
        let rest = "batch=3,prefix=10,new_tokens=300,q_heads=6,kv_heads=2,head_dim=128,\
                    dtype=bf16";
        let Division { items, blocks, imbalance } = division(rest, 7);
        assert_eq!((items.len(), blocks), (3 * 6 * 3, 7));
        assert!((1.0..1.1).contains(&imbalance), "{imbalance}");
        let mut seen: Vec<(u32, u32)> = Vec::new();
        for block in 0..blocks {
            let mut at = block;
            loop {
                let item = items[at as usize];
                assert_eq!(item.kv_head, item.head / 3);
                seen.push((item.head, item.token));
                assert!(item.next == 0 || item.next >= blocks && item.next > at);
                at = item.next;
                if at == 0 {
                    break;
                }
            }
        }
        seen.sort_unstable();
        let all: Vec<_> =
            (0..18).flat_map(|head| [0, 128, 256].map(|token| (head, token))).collect();
        assert_eq!(seen, all);
        // The last tokens first, the heads of a KV head side by side.
        assert_eq!((items[0].head, items[0].token), (0, 256));
        assert_eq!((items[1].head, items[1].token), (1, 256));
    }

    #[test]
    fn no_block_has_items_without_need() {
        let few = "batch=1,new_tokens=10,q_heads=4,kv_heads=4,head_dim=64,dtype=f16";
        assert_eq!(division(few, 132).blocks, 4);
        for rest in ["batch=16,new_tokens=1024", "batch=1,new_tokens=16384"] {
            let rest = format!("{rest},q_heads=32,kv_heads=8,head_dim=128,dtype=bf16");
            let imbalance = division(&rest, 132).imbalance;
            assert!(imbalance < 1.03, "{rest}: {imbalance}");
        }
    }

    /// The longest request is eight times as long as the shortest, and its rows attend to eight
    /// times as many keys.
    #[test]
    fn requests_of_several_lengths_are_divided_evenly() {
        for (batch, new_tokens) in [(32, 2048), (8, 8192), (64, 512), (256, 300)] {
            for rest in ["", ",causal=false", ",window=500"] {
                let rest = format!(
                    "batch={batch},new_tokens={new_tokens},q_heads=32,kv_heads=8,head_dim=128,\
                     dtype=bf16,lengths=ragged{rest}"
                );
                let imbalance = division(&rest, 132).imbalance;
                assert!(imbalance < 1.03, "{rest}: {imbalance}");
            }
        }
    }

    #[test]
    fn operands_in_8_bits_have_tiles_of_their_own() {
        let of = |rest: &str| {
            problem(&format!(
                "batch=1,new_tokens=512,q_heads=8,kv_heads=2,{rest},dtype=bf16,\
                 q_dtype=fp8_e4m3,kv_dtype=fp8_e4m3_tensor"
            ))
        };
        let p = operation(&of("head_dim=256,v_head_dim=256"));
        let shape = Shape::of(&p).unwrap();
        // Queries of 128 rows; two tiles of keys, values, and values transposed.
        let bytes = 128 * 256 + 2 * (96 * 256 + 96 * 256 + 256 * 128);
        assert_eq!(shape.shared_bytes(&p), bytes);
        let maps = tensor_maps(&p, &shape);
        assert_eq!((maps[0].element_bytes, &maps[0].strides_bytes[..1]), (1, &[256][..]));
        assert_eq!(
            (&maps[0].tile[..], &maps[1].tile[..]),
            (&[128, 128, 1][..], &[128, 96, 1][..])
        );
        for (rest, says) in [
            ("head_dim=96", "head_dim = 64, 128 or 256 in 8 bits, not 96"),
            ("head_dim=192,v_head_dim=128", "not 192 with 128"),
        ] {
            let why = refusal::<AttentionPrefillWgmma>(&of(rest), Arch::SM_90);
            assert!(why.contains(says), "{why}");
        }
        let why = refusal_as::<AttentionPrefillWgmma>(
            &of("head_dim=128"),
            Arch::SM_90,
            "keys_176",
        );
        assert!(why.contains("a multiple of 32 keys"), "{why}");
    }

    #[test]
    fn tiles_have_no_more_pages_than_registers() {
        let of = |layout: &str| {
            problem(&format!(
                "batch=1,new_tokens=512,q_heads=8,kv_heads=2,head_dim=128,dtype=bf16,\
                 layout={layout}"
            ))
        };
        for (layout, keys) in [("paged8", 64), ("paged16", 128)] {
            let half =
                configured::<AttentionPrefillWgmma>(&of(layout), Arch::SM_90).unwrap();
            assert_eq!(half.shape.keys, keys);
        }
        let why =
            refusal_as::<AttentionPrefillWgmma>(&of("paged8"), Arch::SM_90, "keys_128");
        assert!(why.contains("up to 8 pages, not 128 keys"), "{why}");
    }

    #[test]
    fn queries_of_several_lengths_have_no_gaps() {
        let p = operation(&problem(
            "batch=4,new_tokens=9,q_heads=6,kv_heads=3,head_dim=128,dtype=bf16,\
             lengths=ragged",
        ));
        let maps = tensor_maps(&p, &Shape::of(&p).unwrap());
        // 6, 3, 8 and 5 tokens.
        assert_eq!(maps[0].extents, [128, 22, 6]);
        assert_eq!(maps[0].strides_bytes, [6 * 256, 256]);
        assert_eq!(maps[1].extents, [128, 9, 12]);
    }

    #[test]
    fn a_window_leaves_out_tiles() {
        let tiles = |rest: &str, token| {
            let p = operation(&problem(&format!(
                "batch=1,prefix=1000,new_tokens=256,q_heads=1,kv_heads=1,head_dim=128,\
                 dtype=bf16,{rest}"
            )));
            Shape::of(&p).unwrap().tiles(&p, token)
        };
        // Keys up to 1127, and up to 1255.
        assert_eq!((tiles("causal=true", 0), tiles("causal=true", 128)), (9, 10));
        assert_eq!(tiles("causal=false", 0), 1256_u64.div_ceil(176));
        // From 1001 - 100 on.
        assert_eq!(tiles("window=100", 0), 2);
        assert_eq!(tiles("window=5000", 0), 9);
    }

    #[test]
    fn params_lie_as_the_kernel_declares() {
        let problem = problem(
            "batch=2,prefix=100,new_tokens=130,q_heads=6,kv_heads=2,head_dim=192,\
             v_head_dim=128,dtype=bf16,window=50",
        );
        let plan = plan::<AttentionPrefillWgmma>(&problem, &h100());
        let launch = &plan.launches[0];
        // Two tiles of rows of twelve heads.
        assert_eq!((launch.grid, launch.block), ([24, 1, 1], [384, 1, 1]));
        assert_eq!(launch.shared_bytes, 128 * 384 + 2 * 128 * (384 + 256));
        let maps: Vec<_> = plan.tensor_maps.iter().map(|map| &map.extents[..]).collect();
        assert_eq!(maps, [&[192, 130, 12][..], &[192, 230, 4], &[128, 230, 4]]);
        assert!(plan.tensor_maps.iter().all(|map| map.tile == [64, 128, 1]));
        let mut bound = bound_in_order(&["k", "v", "q", "o"]).with_scratch([(WORK, 5)]);
        for (byte, name) in [(1, QUERIES), (2, KEYS), (3, VALUES)] {
            bound = bound.with_tensor_map(name, EncodedTensorMap([byte; 128]));
        }
        let bytes = launch.params.bytes(&bound);
        assert!(bytes.len().is_multiple_of(64), "the kernel aligns tensor maps");
        assert_eq!((bytes[0], bytes[128], bytes[256]), (1, 2, 3));
        let words: Vec<u32> = bytemuck::pod_collect_to_vec(&bytes[384..]);
        assert_eq!(words[..6], [4, 0, 5, 0, 0, 0]);
        assert_eq!(words[7..16], [50, 0, 130, 230, 101, 6, 2, 0, 0]);
        assert!(words[16..].iter().all(|word| *word == 0));
        let scale = f32::from_bits(words[6]);
        assert!((scale - 0.104_119).abs() < 1e-5, "{scale}");
    }

    #[test]
    fn maps_of_pages_know_both_orders() {
        let map = |layout: &str| {
            let p = operation(&problem(&format!(
                "batch=2,prefix=100,new_tokens=30,q_heads=6,kv_heads=3,head_dim=128,\
                 dtype=bf16,layout={layout}"
            )));
            tensor_maps(&p, &Shape::of(&p).unwrap())[1].clone()
        };
        let head_first = map("paged16");
        assert_eq!(head_first.extents, [128, 16, 3, 2 * 9]);
        assert_eq!(head_first.strides_bytes, [256, 16 * 256, 3 * 16 * 256]);
        assert_eq!(head_first.tile, [64, 16, 1, 1]);
        let token_first = map("paged256_nhd");
        assert_eq!(token_first.extents, [128, 256, 3, 2]);
        assert_eq!(token_first.strides_bytes, [3 * 256, 256, 3 * 256 * 256]);
        assert_eq!(token_first.tile, [64, 128, 1, 1]);
    }

    #[test]
    fn configurations_have_tiles_of_their_own() {
        let of = |rest: &str| {
            problem(&format!(
                "batch=1,new_tokens=512,q_heads=8,kv_heads=2,{rest},dtype=bf16"
            ))
        };
        for (rest, name, macros) in [
            ("head_dim=128", "keys_160", "-DKEYS=160 -DSTAGES=2 -DTURNS=0 -DLAZY_BITS=0"),
            ("head_dim=256", "keys_64", "-DKEYS=64 -DSTAGES=2 -DTURNS=0 -DLAZY_BITS=8"),
            ("head_dim=128", "lazy", "-DKEYS=128 -DSTAGES=2 -DTURNS=0 -DLAZY_BITS=8"),
            ("head_dim=128", "in_turns", "-DKEYS=128 -DSTAGES=2 -DTURNS=1 -DLAZY_BITS=0"),
            (
                "head_dim=64",
                "warpgroups_2",
                "-DTHREADS=384 -DKEYS=176 -DSTAGES=2 -DTURNS=0",
            ),
        ] {
            let found = options_as::<AttentionPrefillWgmma>(&of(rest), Arch::SM_90, name);
            assert!(found.contains(macros), "{name}: {found}");
        }
        for (rest, name, says) in [
            (
                "head_dim=64",
                "keys_160",
                "up to 128 keys with head_dim = 64 and 3 warpgroups",
            ),
            ("head_dim=256", "keys_128", "up to 80 keys with head_dim = 256"),
            ("head_dim=128,layout=paged64", "keys_160", "multiples of 160 tokens, not 64"),
        ] {
            let why = refusal_as::<AttentionPrefillWgmma>(&of(rest), Arch::SM_90, name);
            assert!(why.contains(says), "{why}");
        }
    }

    #[test]
    fn refusals_say_what_to_use() {
        let of = "batch=1,new_tokens=4,q_heads=1,kv_heads=1";
        for (rest, says) in [
            ("head_dim=64,dtype=f32", "dtype = bf16 or f16, not f32"),
            ("head_dim=64,dtype=bf16,kv_dtype=fp8_e4m3", "use bf16"),
            ("head_dim=80,dtype=bf16", "not 80 with 80"),
            ("head_dim=128,dtype=bf16,layout=paged24", "not 24; use"),
            ("head_dim=128,v_head_dim=64,dtype=bf16", "not 128 with 64"),
            ("prefix=2000000000,head_dim=64,dtype=f16", "contexts up to 1073741824"),
        ] {
            let problem = problem(&format!("{of},{rest}"));
            let refusal = refusal::<AttentionPrefillWgmma>(&problem, Arch::SM_90);
            assert!(refusal.contains(says), "{refusal}");
        }
        let usual = problem(&format!("{of},head_dim=128,dtype=bf16"));
        assert!(configured::<AttentionPrefillWgmma>(&usual, Arch::SM_90).is_ok());
        for arch in [Arch::SM_80, Arch::SM_120] {
            let refusal = refusal::<AttentionPrefillWgmma>(&usual, arch);
            assert!(refusal.contains("use `attention_prefill`"), "{refusal}");
        }
    }
}

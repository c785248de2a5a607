//! Host half of `kernels/attention_mla_wgmma.cu`.

use bytemuck::{Pod, Zeroable};

use super::attention_mla::cached;
use super::kv_read::{page_size, request_rows};
use super::split::{WorkList, refuse_counts};
use super::{
    Arch, Defines, Kernel, Launch, Params, Plan, Refusal, Scratch, Target, TensorMap,
    element, refuse_unless,
};
use crate::op::{KvLayout, MlaDecode, Op, Problem, SCORE_WIDTH};

pub(super) const KERNEL: Kernel = Kernel {
    name: "attention_mla_wgmma",
    op: Op::MlaDecode,
    source: include_str!("../../kernels/attention_mla_wgmma.cu"),
    supports,
    defines,
    plan,
};

/// Threads of a block: two warpgroups compute, one fetches.
const THREADS: u32 = 3 * 128;
/// Rows of a block, new tokens times query heads; fewer are padded.
const ROWS: u32 = 64;
/// Up to 32 rows are one block of `attention_mla`, which pads them to 16 or 32.
const LEAST_ROWS: u64 = 33;
/// Most new tokens of a request.
const MAX_NEW_TOKENS: u64 = 16;
/// Tokens of a tile.
const TILE_TOKENS: u32 = 64;
/// Tokens of the smallest box, which a request's last tile is made of.
const LEAST_BOX: u32 = 8;
/// Columns of a panel, which a box has: 128 bytes.
const PANEL_COLUMNS: u32 = 64;
/// Width of queries and keys.
const KEY_DIM: u64 = 576;
/// Width of values and outputs.
const VALUE_DIM: u64 = 512;
/// Places for tiles.
const PLACES: u32 = 2;
/// Tiles of records that L2 is asked for before they are read.
const TILES_AHEAD: u32 = 2;
/// Bytes of a tile, and of a block's queries.
const TILE_BYTES: u32 = TILE_TOKENS * KEY_DIM as u32 * 2;
/// Dynamic shared memory of a block.
const SHARED_BYTES: u32 = (1 + PLACES) * TILE_BYTES;

/// `Params` of the kernel.
#[derive(Clone, Copy, Pod, Zeroable)]
#[repr(C)]
struct MlaWgmmaParams {
    q: [u8; 128],
    boxes: [u8; 128],
    least: [u8; 128],
    kv: u64,
    o: u64,
    page_table: u64,
    work: u64,
    partial_outputs: u64,
    partial_softmaxes: u64,
    tickets: u64,
    request_rows: u32,
    scale: f32,
}

fn of(problem: &Problem) -> &MlaDecode {
    match problem {
        Problem::MlaDecode(p) => p,
        _ => unreachable!("the kernel table pairs operations and kernels"),
    }
}

/// Rows of a request.
const fn rows(p: &MlaDecode) -> u64 {
    p.q_heads * p.new_tokens
}

/// Whether the cache has records whose numbers are converted, rather than copied in boxes.
fn converts(p: &MlaDecode) -> bool {
    p.kv_dtype.is_scaled()
}

/// Blocks that divide the rows of a request.
fn row_tiles(p: &MlaDecode) -> u32 {
    rows(p).div_ceil(ROWS.into()) as u32
}

fn supports(problem: &Problem, arch: Arch) -> Result<(), Refusal> {
    let p = of(problem);
    let other = "use `attention_mla`";
    refuse_unless(arch == Arch::SM_90, || {
        format!("sm_90a, which has products by warpgroup, not {arch}; {other}")
    })?;
    refuse_unless(element(p.dtype).is_some() && cached(p).is_some(), || {
        format!(
            "a cache in the format of queries, bf16 or f16, or in fp8_e4m3 with dtype = bf16, \
             not kv_dtype = {} with dtype = {}; use one of those",
            p.kv_dtype, p.dtype
        )
    })?;
    refuse_unless((p.key_dim(), p.latent_dim) == (KEY_DIM, VALUE_DIM), || {
        format!(
            "latent_dim = 512 and rope_dim = 64, not {} and {}; {other}",
            p.latent_dim, p.rope_dim
        )
    })?;
    refuse_unless(rows(p) >= LEAST_ROWS, || {
        format!(
            "{LEAST_ROWS} and more query heads times new_tokens, which it pads to {ROWS}, not \
             {}; {other}",
            rows(p)
        )
    })?;
    refuse_unless(p.new_tokens <= MAX_NEW_TOKENS, || {
        format!("up to {MAX_NEW_TOKENS} new_tokens, not {}; use fewer", p.new_tokens)
    })?;
    let (page, tile) = (page_size(p.layout), u64::from(TILE_TOKENS));
    let is_boxes = page.is_multiple_of(tile)
        || tile.is_multiple_of(page) && page >= u64::from(LEAST_BOX);
    refuse_unless(converts(p) || is_boxes, || {
        format!("pages of 8, 16, 32 or multiples of 64 tokens, not {page}; {other}")
    })?;
    refuse_counts(&p.kv())
}

fn defines(problem: &Problem, _: Arch) -> Defines {
    let p = of(problem);
    Defines::new()
        .with(element(p.dtype).unwrap_or("ELEMENT_BF16"), 1)
        .with(cached(p).unwrap_or("CACHED_16"), 1)
        .with("THREADS", THREADS)
        .with("TILE_TOKENS", TILE_TOKENS)
        .with("TILES_AHEAD", TILES_AHEAD)
        .with("SHARED_BYTES", SHARED_BYTES)
        .with("Q_HEADS", p.q_heads)
        .with("NEW_TOKENS", p.new_tokens)
        .with("ROW_TILES", row_tiles(p))
        .with("KEY_DIM", KEY_DIM)
        .with("VALUE_DIM", VALUE_DIM)
        .with("PAGE_SIZE", page_size(p.layout))
}

fn plan(problem: &Problem, target: &Target) -> Plan {
    let p = *of(problem);
    let row_tiles = row_tiles(&p);
    let blocks = (target.sms / row_tiles).max(1);
    let list = WorkList::of(&p.kv(), |length| 0..length, TILE_TOKENS, blocks);
    let (output_bytes, softmax_bytes) = (rows(&p) * VALUE_DIM * 4, rows(&p) * 8);
    let ticket_bytes = 4 * u64::from(row_tiles);
    // Blocks that divide rows share what they read by way of L2.
    let extra_bytes = (row_tiles == 1).then(|| {
        list.extra_bytes(output_bytes + softmax_bytes, ticket_bytes) + bytes_behind(&p)
    });
    Plan {
        scratch: vec![
            list.scratch(),
            Scratch::unset("partial outputs", list.slots_bytes(output_bytes)),
            Scratch::unset("partial softmaxes", list.slots_bytes(softmax_bytes)),
            list.tickets(ticket_bytes),
        ],
        tensor_maps: tensor_maps(&p),
        extra_bytes,
        imbalance: list.imbalance(),
        ..Plan::of(Launch {
            shared_bytes: SHARED_BYTES,
            bytes_in_flight: bytes_in_flight(&p) / u64::from(row_tiles),
            ..Launch::new(
                "attention_mla_wgmma",
                list.blocks * row_tiles,
                THREADS,
                params(p),
            )
        })
    }
}

/// Bytes that a block awaits: a tile while one is used, or those that L2 is asked for.
/// Blocks that divide rows await the same.
fn bytes_in_flight(p: &MlaDecode) -> u64 {
    let tiles = if converts(p) { TILES_AHEAD } else { PLACES - 1 };
    u64::from(tiles * TILE_TOKENS) * p.record_bytes()
}

/// Bytes behind the ends of requests that the smallest boxes take along.
fn bytes_behind(p: &MlaDecode) -> u64 {
    if converts(p) {
        return 0;
    }
    let behind = |request| {
        let length = p.length(request);
        let end = length.next_multiple_of(LEAST_BOX.into());
        match p.layout {
            KvLayout::Contiguous => end.min(p.context) - length,
            KvLayout::Paged { .. } => end - length,
        }
    };
    p.record_bytes() * (0..p.batch).map(behind).sum::<u64>()
}

/// The queries; and, unless its records are converted, the cache in boxes of a tile's
/// tokens or a page's, and the same in the smallest boxes.
fn tensor_maps(p: &MlaDecode) -> Vec<TensorMap> {
    let row_bytes = KEY_DIM * p.dtype.bytes();
    let map = |tensor, [rows, groups]: [u64; 2], tile_rows| TensorMap {
        tensor,
        element_bytes: p.dtype.bytes() as u32,
        extents: vec![KEY_DIM, rows, groups],
        strides_bytes: vec![row_bytes, rows * row_bytes],
        tile: vec![PANEL_COLUMNS, tile_rows, 1],
        swizzle_bytes: 128,
    };
    let (rows_of_group, tile_rows, q) = match p.layout {
        KvLayout::Contiguous => (p.context, TILE_TOKENS, 1),
        KvLayout::Paged { page_size, .. } => {
            (page_size, page_size.min(TILE_TOKENS.into()) as u32, 2)
        }
    };
    let cache = [rows_of_group, p.allocated() / rows_of_group];
    let mut maps = vec![map(q, [rows(p), p.batch], ROWS)];
    if !converts(p) {
        maps.extend([map(0, cache, tile_rows), map(0, cache, LEAST_BOX)]);
    }
    maps
}

fn params(p: MlaDecode) -> Params {
    let scale = (std::f64::consts::LOG2_E / (SCORE_WIDTH as f64).sqrt()) as f32;
    Params::of(move |bound| {
        let (kv, o, page_table) = match *bound.tensors {
            [kv, _, o] => (kv, o, 0),
            [kv, page_table, _, o] => (kv, o, page_table),
            _ => unreachable!("the tensors of MLA decode"),
        };
        let map = |n: usize| bound.tensor_maps.get(n).map_or([0; 128], |map| map.0);
        MlaWgmmaParams {
            q: map(0),
            boxes: map(1),
            least: map(2),
            kv,
            o,
            page_table,
            work: bound.scratch[0],
            partial_outputs: bound.scratch[1],
            partial_softmaxes: bound.scratch[2],
            tickets: bound.scratch[3],
            request_rows: request_rows(&p.kv()),
            scale,
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernel::{Bound, EncodedTensorMap};

    fn problem(rest: &str) -> Problem {
        format!("mla_decode:{rest}").parse().unwrap()
    }

    fn h100() -> Target {
        Target::new(Arch::SM_90, 132)
    }

    #[test]
    fn a_block_fits_an_sm() {
        // What the kernel declares itself, rounded up to where a tile may begin, and
        // what the hardware reserves.
        let shared_bytes = SHARED_BYTES + 4096 + 1024;
        assert!(shared_bytes <= h100().shared_bytes_per_block);
        let plan = plan(&problem("batch=8,context=4096,q_heads=64,dtype=bf16"), &h100());
        let launch = &plan.launches[0];
        assert_eq!((launch.grid, launch.block), ([128, 1, 1], [384, 1, 1]));
        assert_eq!((launch.shared_bytes, launch.bytes_in_flight), (3 * 73728, 73728));
        let records = "batch=8,context=4096,q_heads=64,dtype=bf16,kv_dtype=fp8_e4m3";
        let plan = super::plan(&problem(records), &h100());
        assert_eq!((plan.tensor_maps.len(), plan.launches[0].bytes_in_flight), (1, 83_968));
    }

    #[test]
    fn rows_are_divided_by_64() {
        let tiles = |shape: &str| {
            let problem = problem(&format!("batch=64,context=512,dtype=f16,{shape}"));
            let plan = plan(&problem, &h100());
            (row_tiles(of(&problem)), plan.launches[0].grid[0], plan.extra_bytes.is_some())
        };
        assert_eq!(tiles("q_heads=33"), (1, 128, true));
        assert_eq!(tiles("q_heads=64"), (1, 128, true));
        assert_eq!(tiles("q_heads=33,new_tokens=2"), (2, 128, false));
        assert_eq!(tiles("q_heads=128,new_tokens=2"), (4, 128, false));
    }

    #[test]
    fn maps_cut_the_cache_into_pages_or_tiles() {
        let maps = |layout: &str| {
            let shape = "batch=3,context=100,q_heads=40,new_tokens=2,dtype=bf16";
            tensor_maps(of(&problem(&format!("{shape},layout={layout}"))))
        };
        let shapes = |layout| {
            let of_map =
                |map: &TensorMap| (map.tensor, map.extents.clone(), map.tile.clone());
            maps(layout).iter().map(of_map).collect::<Vec<_>>()
        };
        let rows = vec![576, 80, 3];
        let contiguous = vec![576, 100, 3];
        assert_eq!(
            shapes("contiguous"),
            [
                (1, rows.clone(), vec![64, 64, 1]),
                (0, contiguous.clone(), vec![64, 64, 1]),
                (0, contiguous, vec![64, 8, 1]),
            ]
        );
        for (layout, extents, box_tokens) in [
            ("paged16", vec![576, 16, 21], 16),
            ("paged64", vec![576, 64, 6], 64),
            ("paged128", vec![576, 128, 3], 64),
        ] {
            let expected = [
                (2, rows.clone(), vec![64, 64, 1]),
                (0, extents.clone(), vec![64, box_tokens, 1]),
                (0, extents, vec![64, 8, 1]),
            ];
            assert_eq!(shapes(layout), expected);
        }
        for map in maps("paged16") {
            assert_eq!(map.strides_bytes[0], 1152);
            assert!(map.over(1 << 20).encode().is_ok());
        }
    }

    #[test]
    fn what_the_smallest_boxes_take_along_is_extra_traffic() {
        let behind = |rest: &str| {
            let rest = format!("batch=2,q_heads=64,dtype=bf16,{rest}");
            bytes_behind(of(&problem(&rest)))
        };
        assert_eq!(behind("context=64"), 0);
        // What is outside of the tensor is not read.
        assert_eq!(behind("context=65"), 0);
        assert_eq!(behind("context=65,layout=paged8"), 2 * 7 * 1152);
        assert_eq!(behind("context=72,layout=paged64"), 0);
    }

    #[test]
    fn refusals_say_what_is_taken() {
        for (rest, says) in [
            ("q_heads=64,dtype=f32", "bf16 or f16"),
            ("q_heads=64,dtype=f16,kv_dtype=fp8_e4m3", "with dtype = bf16"),
            ("q_heads=64,dtype=bf16,latent_dim=256", "latent_dim = 512"),
            ("q_heads=16,new_tokens=2,dtype=bf16", "not 32"),
            ("q_heads=64,new_tokens=17,dtype=bf16", "up to 16"),
            ("q_heads=64,dtype=bf16,layout=paged1", "not 1; use"),
            ("q_heads=64,dtype=bf16,layout=paged24", "not 24; use"),
            ("q_heads=64,dtype=bf16,layout=paged96", "not 96; use"),
        ] {
            let problem = problem(&format!("batch=1,context=64,{rest}"));
            let refusal = supports(&problem, Arch::SM_90).unwrap_err();
            assert!(refusal.0.contains(says), "{refusal}");
        }
        let usual = problem("batch=1,context=64,q_heads=128,dtype=bf16,layout=paged64");
        assert_eq!(supports(&usual, Arch::SM_90), Ok(()));
        // Records are found one by one.
        let odd =
            "batch=1,context=64,q_heads=64,dtype=bf16,kv_dtype=fp8_e4m3,layout=paged3";
        assert_eq!(supports(&problem(odd), Arch::SM_90), Ok(()));
        for arch in [Arch::SM_80, Arch::SM_120] {
            assert!(supports(&usual, arch).unwrap_err().0.contains("sm_90a, which"));
        }
    }

    #[test]
    fn params_lie_as_the_kernel_declares() {
        let problem = problem("batch=2,context=100,q_heads=64,dtype=bf16,layout=paged16");
        let plan = plan(&problem, &h100());
        let maps = [1, 2, 3].map(|byte| EncodedTensorMap([byte; 128]));
        let bytes = plan.launches[0].params.bytes(&Bound {
            seed: 0,
            slot: 0,
            tensors: &[1, 2, 3, 4],
            scratch: &[5, 6, 7, 8],
            tensor_maps: &maps,
        });
        assert!(bytes.len().is_multiple_of(64), "the kernel aligns tensor maps");
        assert_eq!((bytes[0], bytes[128], bytes[256]), (1, 2, 3));
        let words: Vec<u64> = bytemuck::pod_collect_to_vec(&bytes[384..]);
        // Seven pages; log2(e) / sqrt(192) is 0.104.
        let scale = f32::from_bits((words[7] >> 32) as u32);
        assert!((scale - 0.104_119).abs() < 1e-5, "{scale}");
        assert_eq!((&words[..7], words[7] as u32), (&[1, 4, 2, 5, 6, 7, 8][..], 7));
    }
}

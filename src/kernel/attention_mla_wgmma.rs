//! Host half of `kernels/attention_mla_wgmma.cu`.

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
use super::tensor_map::TensorMap;
use crate::op::{KvLayout, MlaDecode, SCORE_WIDTH};
use crate::toolchain::{Arch, Defines, Target};

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
/// Tokens of the smallest box; a request's last tile is copied in these.
const LEAST_BOX: u32 = 8;
/// Columns of a panel, and of a box: 128 bytes.
const PANEL_COLUMNS: u32 = 64;
/// Width of queries and keys.
const KEY_DIM: u64 = 576;
/// Width of values and outputs.
const VALUE_DIM: u64 = 512;
/// Stages of the ring, of one tile each.
const STAGES: u32 = 2;
/// Tiles that are prefetched into L2 beyond those that have a stage, or of records that are
/// converted before they are read.
const TILES_AHEAD: u32 = 2;
/// Blocks that share the tiles they read, as `multicast` has it.
const SHARING: u32 = 2;
/// Tiles of a sequence that one block reads: to divide fewer saves less than combining takes,
/// some 9 us for 64 rows (docs/METHODOLOGY.md, fixed costs), in which it computes four.
const WHOLE_TILES: u64 = 4;
/// Tiles that a block computes in the time in which it combines a split of 64 rows: 6 us on an
/// H200, where one block combined 64 of them.
const COMBINE_TILES: u64 = 5;
/// Seconds of a tile where memory does not bind, also one that is converted: what an H200 took
/// for one request in blocks of 16 tiles, less what they take beside them.
const TILE_S: f64 = 2.2e-6;
const CONVERTED_TILE_S: f64 = 3.1e-6;
/// Bytes of a tile, and of a block's queries.
const TILE_BYTES: u32 = TILE_TOKENS * KEY_DIM as u32 * 2;
/// Dynamic shared memory of a block.
const SHARED_BYTES: u32 = (1 + STAGES) * TILE_BYTES;

/// Names of the tensor maps: the queries, and the cache in boxes of a tile's tokens or a
/// page's, and in the smallest boxes.
const QUERIES: &str = "q";
const BOXES: &str = "boxes";
const LEAST_BOXES: &str = "least boxes";

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
    buffers: SplitBuffers,
    request_rows: u32,
    scale: f32,
}

/// Rows of a request.
const fn rows(p: &MlaDecode) -> u64 {
    p.q_heads * p.new_tokens
}

/// Whether the cache has records whose elements are converted, rather than copied in boxes.
fn converts(p: &MlaDecode) -> bool {
    p.kv_dtype.is_scaled()
}

/// Blocks that divide the rows of a request.
fn row_tiles(p: &MlaDecode) -> u32 {
    rows(p).div_ceil(ROWS.into()) as u32
}

/// Refuses shapes that the kernel has no tiles for.
fn refuse_shape(p: &MlaDecode) -> Result<(), Refusal> {
    refuse_unless((p.key_dim(), p.latent_dim) == (KEY_DIM, VALUE_DIM), || {
        format!(
            "latent_dim = 512 and rope_dim = 64, not {} and {}; use `attention_mla`",
            p.latent_dim, p.rope_dim
        )
    })?;
    refuse_unless(rows(p) >= LEAST_ROWS, || {
        format!(
            "{LEAST_ROWS} and more query heads times new_tokens, which it pads to {ROWS}, \
             not {}; use `attention_mla`",
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
        format!(
            "pages of 8, 16, 32 or multiples of 64 tokens, not {page}; use `attention_mla`"
        )
    })?;
    refuse_counts(&p.kv())
}

/// Tiles that a configuration prefetches, and row tiles that share what they copy.
fn copies_of(p: &MlaDecode, choice: &Configuration) -> Result<(u32, u32), Refusal> {
    let tiles_ahead = choice.or("prefetch", TILES_AHEAD);
    refuse_unless(!converts(p) || tiles_ahead > 0, || {
        format!(
            "records in {} that are prefetched before they are read; use another \
             configuration",
            p.kv_dtype
        )
    })?;
    let sharing = if choice.or("multicast", 0) == 1 { SHARING } else { 1 };
    refuse_unless(
        !converts(p) && row_tiles(p).is_multiple_of(SHARING) || sharing == 1,
        || {
            format!(
                "`multicast` of latents in bf16 or f16 to an even number of row tiles, not \
             kv_dtype = {} and {} rows, {ROWS} to a tile; use another configuration",
                p.kv_dtype,
                rows(p)
            )
        },
    )?;
    Ok((tiles_ahead, sharing))
}

/// Latent attention of few new tokens to a cache, with wgmma.
pub(super) struct AttentionMlaWgmma {
    p: MlaDecode,
    /// The macros that choose the formats of queries and of the cache.
    element: &'static str,
    cached: &'static str,
    division: Division,
    /// Whether the second warpgroup scores its tile before the values of the first's.
    overtakes: bool,
    /// Tiles that are prefetched into L2 beyond those that have a stage.
    tiles_ahead: u32,
    /// Row tiles that share what they copy.
    sharing: u32,
}

impl HostHalf for AttentionMlaWgmma {
    type Operation = MlaDecode;
    const NAME: &'static str = "attention_mla_wgmma";
    const SOURCE: &'static str = include_str!("../../kernels/attention_mla_wgmma.cu");
    const MEMORY_BOUND: bool = true;
    const CONFIGURATIONS: &[Configuration] = &[
        // The last block of a sequence combines its splits, as is the default of many.
        Configuration::new("no_cluster", &[("cluster", 1)]),
        // Splits are combined through shared memory.
        Configuration::new("cluster2", &[("cluster", 2)]),
        Configuration::new("cluster4", &[("cluster", 4)]),
        Configuration::new("cluster8", &[("cluster", 8)]),
        // The same with several clusters of a sequence, of which the last combines all.
        Configuration::new("cluster4_three", &[("cluster", 4), ("clusters", 3)]),
        Configuration::new("cluster8_two", &[("cluster", 8), ("clusters", 2)]),
        Configuration::new("cluster8_six", &[("cluster", 8), ("clusters", 6)]),
        // Tensor cores have work during the other warpgroup's softmax, as is the default but of
        // one row tile of converted records; or stages are free earlier.
        Configuration::new("overtakes", &[("overtakes", 1)]),
        Configuration::new("values_first", &[("overtakes", 0)]),
        // Tiles that have no stage yet are prefetched into L2: other numbers of them.
        Configuration::new("prefetch0", &[("prefetch", 0)]),
        Configuration::new("prefetch1", &[("prefetch", 1)]),
        Configuration::new("prefetch4", &[("prefetch", 4)]),
        // Pairs of row tiles copy each tile once, for both.
        Configuration::new("multicast", &[("multicast", 1), ("cluster", 1)]),
        Configuration::new(
            "multicast_prefetch0",
            &[("multicast", 1), ("cluster", 1), ("prefetch", 0)],
        ),
        // What a split costs, in tiles: the more, the less sequences are divided.
        Configuration::new("overhead1", &[("overhead", 1)]),
        Configuration::new("overhead16", &[("overhead", 16)]),
        // Another number of splits of a sequence that has blocks for itself.
        Configuration::new("combine2", &[("combine", 2)]),
        Configuration::new("combine12", &[("combine", 12)]),
        // Short sequences are divided too.
        Configuration::new("divided", &[("overhead", 1), ("whole", 0), ("combine", 0)]),
        Configuration::PROGRAMMATIC,
    ];

    fn configure(
        p: &MlaDecode,
        arch: Arch,
        choice: &Configuration,
    ) -> Result<Self, Refusal> {
        let other = "use `attention_mla`";
        refuse_unless(arch == Arch::SM_90, || {
            format!("sm_90a, which has wgmma, not {arch}; {other}")
        })?;
        let formats = element(p.dtype).zip(cached_latents(p.kv_dtype, p.dtype));
        let (element, cached) = formats.ok_or_else(|| {
            supports(format!(
                "a cache in the format of queries, bf16 or f16, or in fp8_e4m3 with dtype = \
                 bf16, not kv_dtype = {} with dtype = {}; use one of those",
                p.kv_dtype, p.dtype
            ))
        })?;
        refuse_shape(p)?;
        let costs = Costs { overhead: 4, whole: WHOLE_TILES, combine: COMBINE_TILES };
        let work = BlockWork {
            tile_tokens: TILE_TOKENS,
            tile_s: if converts(p) { CONVERTED_TILE_S } else { TILE_S },
            tile_bytes: u64::from(TILE_TOKENS) * p.record_bytes(),
            output_bytes: rows(p).min(ROWS.into()) * VALUE_DIM * 4,
            row_tiles: row_tiles(p),
            blocks_per_sm: 1,
        };
        let needed = |length| 0..length;
        let division = Division::new(choice, costs, work, (&p.kv(), needed), arch)?;
        // On an H200 185 to 187 us without and 178 to 179 with it, for 64 heads and 128 requests.
        let default = !converts(p) || row_tiles(p) > 1;
        let overtakes = choice.or("overtakes", u32::from(default)) == 1;
        let (tiles_ahead, sharing) = copies_of(p, choice)?;
        Ok(AttentionMlaWgmma {
            p: *p,
            element,
            cached,
            division,
            overtakes,
            tiles_ahead,
            sharing,
        })
    }

    fn defines(&self) -> Defines {
        let p = &self.p;
        Defines::new()
            .with(self.element, 1)
            .with(self.cached, 1)
            .with("THREADS", THREADS)
            .with("TILE_TOKENS", TILE_TOKENS)
            .with("TILES_AHEAD", self.tiles_ahead)
            .with("SHARING", self.sharing)
            .with("SHARED_BYTES", SHARED_BYTES)
            .with("Q_HEADS", p.q_heads)
            .with("NEW_TOKENS", p.new_tokens)
            .with("ROW_TILES", row_tiles(p))
            .with("CLUSTER", self.division.blocks_of_cluster())
            .with("OVERTAKE", u32::from(self.overtakes))
            .with("KEY_DIM", KEY_DIM)
            .with("VALUE_DIM", VALUE_DIM)
            .with("PAGE_SIZE", page_size(p.layout))
            .with(OVERLAP, 1)
    }

    fn plan(&self, target: &Target) -> Plan {
        let p = self.p;
        let row_tiles = row_tiles(&p);
        let list = self.division.list(
            &p.kv(),
            |length| 0..length,
            (TILE_TOKENS, row_tiles),
            [target.sms, 1],
        );
        let division = DividedSequences {
            list,
            blocks_of_cluster: self.division.blocks_of_cluster(),
            row_tiles,
            rows: rows(&p),
            rows_at_once: rows(&p).min(ROWS.into()),
            value_dim: VALUE_DIM,
        };
        let launch = Launch {
            shared_bytes: SHARED_BYTES,
            overlaps_previous: true,
            ..Launch::new("attention_mla_wgmma", division.blocks(), THREADS, params(p))
        };
        let plan = division.plan(launch, self.bytes_in_flight(), bytes_after_ends(&p));
        self.with_sharing(Plan { tensor_maps: tensor_maps(&p), ..plan })
    }
}

impl AttentionMlaWgmma {
    /// Bytes that a block has in flight: those that are prefetched into L2, and a tile that is
    /// copied while one is used.
    fn bytes_in_flight(&self) -> u64 {
        let copied = if converts(&self.p) { 0 } else { STAGES - 1 };
        u64::from((copied + self.tiles_ahead) * TILE_TOKENS) * self.p.record_bytes()
    }

    /// The plan with clusters of the row tiles that share copies.
    fn with_sharing(&self, mut plan: Plan) -> Plan {
        if self.sharing > 1 {
            plan.launches[0].cluster = [self.sharing, 1, 1];
        }
        plan
    }
}

/// Bytes after the ends of requests that the smallest boxes copy too.
fn bytes_after_ends(p: &MlaDecode) -> u64 {
    if converts(p) {
        return 0;
    }
    let after_end = |request| {
        let length = p.length(request);
        let end = length.next_multiple_of(LEAST_BOX.into());
        match p.layout {
            KvLayout::Contiguous => end.min(p.context) - length,
            KvLayout::Paged { .. } => end - length,
        }
    };
    p.record_bytes() * (0..p.batch).map(after_end).sum::<u64>()
}

/// The queries; and, unless its records are converted, the cache in boxes of a tile's
/// tokens or a page's, and the same in the smallest boxes.
fn tensor_maps(p: &MlaDecode) -> Vec<TensorMap> {
    let row_bytes = KEY_DIM * p.dtype.bytes();
    let map = |name, tensor, [rows, groups]: [u64; 2], tile_rows| TensorMap {
        name,
        tensor,
        element_bytes: p.dtype.bytes() as u32,
        extents: vec![KEY_DIM, rows, groups],
        strides_bytes: vec![row_bytes, rows * row_bytes],
        tile: vec![PANEL_COLUMNS, tile_rows, 1],
        swizzle_bytes: 128,
    };
    let (rows_of_group, tile_rows) = match p.layout {
        KvLayout::Contiguous => (p.context, TILE_TOKENS),
        KvLayout::Paged { page_size, .. } => {
            (page_size, page_size.min(TILE_TOKENS.into()) as u32)
        }
    };
    let cache = [rows_of_group, p.allocated() / rows_of_group];
    let mut maps = vec![map(QUERIES, "q", [rows(p), p.batch], ROWS)];
    if !converts(p) {
        maps.push(map(BOXES, "kv", cache, tile_rows));
        maps.push(map(LEAST_BOXES, "kv", cache, LEAST_BOX));
    }
    maps
}

fn params(p: MlaDecode) -> Params {
    Params::of(move |bound| MlaWgmmaParams {
        q: bound.tensor_map(QUERIES).0,
        boxes: bound.tensor_map_or_unused(BOXES).0,
        least: bound.tensor_map_or_unused(LEAST_BOXES).0,
        kv: bound.tensor("kv"),
        o: bound.tensor("o"),
        page_table: bound.tensor_or_null("page_table"),
        buffers: SplitBuffers::new(bound),
        request_rows: request_rows(&p.kv()),
        scale: log2_scale(SCORE_WIDTH),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernel::EncodedTensorMap;
    use crate::kernel::contract::testing::{
        configured, operation, options_as, plan, refusal,
    };
    use crate::kernel::split_kv::bound_in_order;

    fn problem(rest: &str) -> String {
        format!("mla_decode:{rest}")
    }

    fn h100() -> Target {
        Target::new(Arch::SM_90, 132)
    }

    #[test]
    fn a_block_fits_an_sm() {
        // What the kernel declares itself, rounded up to where a tile may begin.
        let shared_bytes = SHARED_BYTES + 4096;
        assert!(shared_bytes <= Arch::SM_90.limits().shared_bytes_of_block(1));
        let plain = problem("batch=8,context=4096,q_heads=64,dtype=bf16");
        let launch = &plan::<AttentionMlaWgmma>(&plain, &h100()).launches[0];
        assert_eq!((launch.grid, launch.block), ([96, 1, 1], [384, 1, 1]));
        assert_eq!((launch.shared_bytes, launch.bytes_in_flight), (3 * 73728, 3 * 73728));
        let records = "batch=8,context=4096,q_heads=64,dtype=bf16,kv_dtype=fp8_e4m3";
        let plan = plan::<AttentionMlaWgmma>(&problem(records), &h100());
        assert_eq!((plan.tensor_maps.len(), plan.launches[0].bytes_in_flight), (1, 83_968));
    }

    #[test]
    fn rows_are_divided_by_64() {
        let tiles = |shape: &str| {
            let problem = problem(&format!("batch=64,context=512,dtype=f16,{shape}"));
            let plan = plan::<AttentionMlaWgmma>(&problem, &h100());
            (
                row_tiles(&operation(&problem)),
                plan.launches[0].grid[0],
                plan.extra_bytes.is_some(),
            )
        };
        assert_eq!(tiles("q_heads=33"), (1, 128, true));
        assert_eq!(tiles("q_heads=64"), (1, 128, true));
        assert_eq!(tiles("q_heads=33,new_tokens=2"), (2, 128, false));
        assert_eq!(tiles("q_heads=128,new_tokens=2"), (4, 128, false));
    }

    /// With as many clusters as run at the same time. Of one request of 4096 tokens, 64 tiles,
    /// a block of 132 has at least one and of clusters of eight two.
    #[test]
    fn few_requests_are_divided_in_clusters() {
        let way = |shape: &str, sms: u32| {
            let text = problem(&format!("{shape},dtype=bf16,layout=paged64"));
            let plan = plan::<AttentionMlaWgmma>(&text, &Target::new(Arch::SM_90, sms));
            (plan.launches[0].cluster[0], plan.launches[0].grid[0])
        };
        assert_eq!(way("batch=1,context=4096,q_heads=128", 132), (8, 64));
        assert_eq!(way("batch=1,context=32768,q_heads=128", 132), (8, 96));
        assert_eq!(way("batch=1,context=32768,q_heads=128", 66), (8, 48));
        assert_eq!(way("batch=8,context=4096,q_heads=128", 132), (2, 128));
        assert_eq!(way("batch=8,context=32768,q_heads=128", 132), (2, 128));
        assert_eq!(way("batch=128,context=4096,q_heads=128", 132), (1, 128));
        assert_eq!(way("batch=128,context=4096,q_heads=64", 132), (1, 128));
        assert_eq!(way("batch=1,context=64,q_heads=64", 132), (1, 1));
    }

    #[test]
    fn a_warpgroup_overtakes_unless_one_row_tile_is_converted() {
        let overtakes = |rest: &str, name: &str| {
            let text = problem(&format!("batch=1,context=64,dtype=bf16,{rest}"));
            let options = options_as::<AttentionMlaWgmma>(&text, Arch::SM_90, name);
            options.contains("-DOVERTAKE=1")
        };
        for (rest, [default, asked, not]) in [
            ("q_heads=64", [true, true, false]),
            ("q_heads=128", [true, true, false]),
            ("q_heads=64,kv_dtype=fp8_e4m3", [false, true, false]),
            ("q_heads=128,kv_dtype=fp8_e4m3", [true, true, false]),
        ] {
            let names = ["no_cluster", "overtakes", "values_first"];
            let found = names.map(|name| overtakes(rest, name));
            assert_eq!(found, [default, asked, not], "{rest}");
        }
    }

    #[test]
    fn tiles_are_prefetched_and_pairs_of_row_tiles_share_them() {
        let named = |rest: &str, name: &str| {
            let text = problem(&format!("batch=128,context=4096,dtype=bf16,{rest}"));
            let choice =
                AttentionMlaWgmma::CONFIGURATIONS.iter().find(|other| other.name == name);
            AttentionMlaWgmma::configure(&operation(&text), Arch::SM_90, choice.unwrap())
        };
        for (rest, name, [sharing, tiles]) in [
            ("q_heads=128", "multicast", [2, 3]),
            ("q_heads=64,new_tokens=4", "multicast_prefetch0", [2, 1]),
            ("q_heads=64", "prefetch4", [1, 5]),
            ("q_heads=128", "no_cluster", [1, 3]),
            // Those that are converted are only prefetched.
            ("q_heads=128,kv_dtype=fp8_e4m3", "prefetch1", [1, 1]),
            ("q_heads=128,kv_dtype=fp8_e4m3", "no_cluster", [1, 2]),
        ] {
            let kernel = named(rest, name).unwrap_or_else(|why| panic!("{rest}: {why:?}"));
            let launch = &kernel.plan(&h100()).launches[0];
            assert_eq!(launch.cluster, [sharing, 1, 1], "{rest} {name}");
            assert!(launch.grid[0].is_multiple_of(sharing), "{rest} {name}");
            let tile_bytes = u64::from(TILE_TOKENS) * kernel.p.record_bytes();
            assert_eq!(
                kernel.bytes_in_flight(),
                u64::from(tiles) * tile_bytes,
                "{rest} {name}"
            );
        }
        for rest in
            ["q_heads=64", "q_heads=33,new_tokens=5", "q_heads=128,kv_dtype=fp8_e4m3"]
        {
            let why = named(rest, "multicast").err().unwrap_or_else(|| panic!("{rest}")).0;
            assert!(why.contains("an even number of row tiles"), "{why}");
        }
        let why = named("q_heads=64,kv_dtype=fp8_e4m3", "prefetch0").err().unwrap().0;
        assert!(why.contains("records in fp8_e4m3"), "{why}");
    }

    #[test]
    fn maps_cut_the_cache_into_pages_or_tiles() {
        let maps = |layout: &str| {
            let shape = "batch=3,context=100,q_heads=40,new_tokens=2,dtype=bf16";
            tensor_maps(&operation(&problem(&format!("{shape},layout={layout}"))))
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
                ("q", rows.clone(), vec![64, 64, 1]),
                ("kv", contiguous.clone(), vec![64, 64, 1]),
                ("kv", contiguous, vec![64, 8, 1]),
            ]
        );
        for (layout, extents, box_tokens) in [
            ("paged16", vec![576, 16, 21], 16),
            ("paged64", vec![576, 64, 6], 64),
            ("paged128", vec![576, 128, 3], 64),
        ] {
            let expected = [
                ("q", rows.clone(), vec![64, 64, 1]),
                ("kv", extents.clone(), vec![64, box_tokens, 1]),
                ("kv", extents, vec![64, 8, 1]),
            ];
            assert_eq!(shapes(layout), expected);
        }
        for map in maps("paged16") {
            assert_eq!(map.strides_bytes[0], 1152);
            assert!(map.over(1 << 20).encode().is_ok());
        }
    }

    #[test]
    fn what_the_smallest_boxes_copy_after_ends_is_extra_traffic() {
        let after_ends = |rest: &str| {
            let rest = format!("batch=2,q_heads=64,dtype=bf16,{rest}");
            bytes_after_ends(&operation(&problem(&rest)))
        };
        assert_eq!(after_ends("context=64"), 0);
        // What is outside of the tensor is not read.
        assert_eq!(after_ends("context=65"), 0);
        assert_eq!(after_ends("context=65,layout=paged8"), 2 * 7 * 1152);
        assert_eq!(after_ends("context=72,layout=paged64"), 0);
    }

    #[test]
    fn refusals_say_what_is_supported() {
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
            let refusal = refusal::<AttentionMlaWgmma>(&problem, Arch::SM_90);
            assert!(refusal.contains(says), "{refusal}");
        }
        let usual = problem("batch=1,context=64,q_heads=128,dtype=bf16,layout=paged64");
        assert!(configured::<AttentionMlaWgmma>(&usual, Arch::SM_90).is_ok());
        // Records are found one by one.
        let odd =
            "batch=1,context=64,q_heads=64,dtype=bf16,kv_dtype=fp8_e4m3,layout=paged3";
        assert!(configured::<AttentionMlaWgmma>(&problem(odd), Arch::SM_90).is_ok());
        for arch in [Arch::SM_80, Arch::SM_120] {
            let refusal = refusal::<AttentionMlaWgmma>(&usual, arch);
            assert!(refusal.contains("sm_90a, which has wgmma"), "{refusal}");
        }
    }

    #[test]
    fn params_lie_as_the_kernel_declares() {
        let problem = problem("batch=2,context=100,q_heads=64,dtype=bf16,layout=paged16");
        let plan = plan::<AttentionMlaWgmma>(&problem, &h100());
        let mut bound = bound_in_order(&["kv", "page_table", "q", "o"]);
        for (byte, name) in [(1, QUERIES), (2, BOXES), (3, LEAST_BOXES)] {
            bound = bound.with_tensor_map(name, EncodedTensorMap([byte; 128]));
        }
        let bytes = plan.launches[0].params.bytes(&bound);
        assert!(bytes.len().is_multiple_of(64), "the kernel aligns tensor maps");
        assert_eq!((bytes[0], bytes[128], bytes[256]), (1, 2, 3));
        let words: Vec<u64> = bytemuck::pod_collect_to_vec(&bytes[384..]);
        // Seven pages; log2(e) / sqrt(192) is 0.104.
        let scale = f32::from_bits((words[7] >> 32) as u32);
        assert!((scale - 0.104_119).abs() < 1e-5, "{scale}");
        assert_eq!((&words[..7], words[7] as u32), (&[1, 4, 2, 5, 6, 7, 8][..], 7));
    }
}

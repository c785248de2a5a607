//! Host half of `kernels/moe_gemm_wgmma.cu`: which tiles of which experts a block multiplies,
//! one after the other.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

use bytemuck::{Pod, Zeroable};

use super::configuration::Configuration;
use super::contract::HostHalf;
use super::formats::element;
use super::gemm_wgmma::{
    MAX_EXTENT, MAX_SPLITS, Operands, PRODUCT_ROWS, STEP_BYTES, Shared, THREADS, Tile,
    WARP_ROWS, nominal, panels, product_clocks, stripe_of, tile, together,
};
use super::moe_gemm;
use super::plan::{Launch, Params, Plan, Scratch};
use super::refusal::{Refusal, refuse_unless, supports};
use crate::op::{Gemm, Inputs, MoeGemm, Problem, RowOrder};
use crate::quant::ScaleGroup;
use crate::toolchain::{Arch, Defines, Target};

/// Tiles of an expert whose sums stay in the tensor cores' registers. Clusters have two side
/// by side: with few rows, tiles above one another are often missing.
const TILES: [Tile; 3] =
    [tile(128, 256, Shared::A), tile(128, 128, Shared::A), tile(64, 256, Shared::Nothing)];

/// Tiles of an expert whose sums have two levels.
const TWO_LEVEL_TILES: [Tile; 2] =
    [tile(128, 128, Shared::A), tile(64, 256, Shared::Nothing)];

/// The same where rows are gathered: a thread copies to its own block only.
const GATHERED_TILES: [Tile; 3] = [
    tile(128, 256, Shared::Nothing),
    tile(128, 128, Shared::Nothing),
    tile(64, 256, Shared::Nothing),
];
const GATHERED_TWO_LEVEL_TILES: [Tile; 2] =
    [tile(128, 128, Shared::Nothing), tile(64, 256, Shared::Nothing)];

/// By how many fewer clocks scattered rows must be estimated to take than by `moe_gemm` for
/// this kernel to be their default. Few rows of an expert take the time of its weights' bytes
/// by either, of which `moe_gemm` was measured to read a tenth fewer in a clock than is assumed
/// here: that alone is no reason.
const CLEARLY_FEWER: f64 = 0.85;

/// Most tiles in a list.
const MAX_TILES: u64 = 1 << 21;

/// `Params` of the kernel.
#[derive(Clone, Copy, Pod, Zeroable)]
#[repr(C)]
struct WgmmaParams {
    x: [u8; 128],
    w: [u8; 128],
    y: [u8; 128],
    partials: u64,
    tickets: u64,
    tiles: u64,
    taken: u64,
    y_rows: u64,
    x_scales: u64,
    w_scales: u64,
    x_first: u64,
    rows: u64,
    n: u32,
    x_rows: u32,
    w_rows: u32,
    x_stride: u32,
    steps: u32,
    turns: u32,
    passes_over: u32,
    of_input: u32,
    row_bytes: u32,
    padding: [u32; 5],
}

/// `Tiles` of the kernel: those of a cluster, side by side.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Pod, Zeroable)]
#[repr(C)]
struct Tiles {
    row: u32,
    end: u32,
    w_row: u32,
    column: u32,
    first_step: u32,
    steps: u32,
    split: u16,
    splits: u16,
    partial: u32,
}

/// Rows of an expert, of X and of Y; of scattered ones, where they are in the list of all.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct ExpertRows {
    expert: u64,
    first: u64,
    count: u64,
}

impl ExpertRows {
    /// Of each expert that has any.
    fn all(p: &MoeGemm) -> Vec<ExpertRows> {
        let of_experts = (0..).zip(p.rows_of_experts());
        let mut listed = 0;
        let rows = of_experts.filter_map(|(expert, rows)| {
            let count = rows.len() as u64;
            let before = listed;
            listed += count;
            let first = u64::from(*rows.first()?);
            let first = if is_scattered(p) { before } else { first };
            Some(ExpertRows { expert, first, count })
        });
        rows.collect()
    }

    /// Rows and columns of clusters' tiles that cover the expert's part of Y.
    fn grid(&self, tile: &Tile, n: u64) -> (u64, u64) {
        let (rows, columns) = tile.cluster_extents();
        (self.count.div_ceil(rows), n.div_ceil(columns))
    }
}

/// Whether rows of X are gathered, and those of Y stored where a list says.
fn is_scattered(p: &MoeGemm) -> bool {
    p.row_order == RowOrder::Scattered
}

/// Whole tiles in the order in which they are begun: expert by expert, so that the weights of
/// few of them are in L2 at a time, and in stripes of rows of tiles within an expert. An
/// expert whose tiles all run at the same time is one stripe: those that read the same
/// weights follow one another, so that few of them are begun a tile later than others.
fn tiles_in_order(
    tile: &Tile,
    p: &MoeGemm,
    experts: &[ExpertRows],
    clusters: u64,
) -> Vec<Tiles> {
    let steps = steps_of(p);
    let (_, across) = tile.cluster_extents();
    let mut tiles = Vec::new();
    for of_expert in experts {
        let grid @ (rows, columns) = of_expert.grid(tile, p.n);
        let (stripe, _) = stripe_of(tile, grid, clusters, steps);
        let stripe = if rows * columns <= clusters { rows } else { stripe };
        for first_row in (0..rows).step_by(stripe as usize) {
            for column in 0..columns {
                tiles.extend((first_row..rows.min(first_row + stripe)).map(|row| Tiles {
                    row: (of_expert.first + row * tile.m) as u32,
                    end: (of_expert.first + of_expert.count) as u32,
                    w_row: (of_expert.expert * p.n) as u32,
                    column: (column * across) as u32,
                    first_step: 0,
                    steps: steps as u32,
                    split: 0,
                    splits: 1,
                    partial: 0,
                }));
            }
        }
    }
    tiles
}

/// Steps of a sum.
fn steps_of(p: &MoeGemm) -> u64 {
    p.a_dtype.dtype().bytes_of(p.k).div_ceil(STEP_BYTES)
}

/// The formats of X and of W, and what scales sums.
fn operands_of(p: &MoeGemm) -> Option<Operands> {
    let MoeGemm { n, k, dtype, w_dtype, a_dtype, .. } = *p;
    let all = Operands::of(&Gemm { m: p.row_places(), n, k, dtype, w_dtype, a_dtype })?;
    let has_one_scale = matches!(all, Operands::Rows(_, [_, ScaleGroup::Tensor]));
    (!has_one_scale).then_some(all)
}

/// When each cluster has done what it was given so far, in rough clocks.
#[derive(Clone)]
struct Clusters(BinaryHeap<Reverse<u64>>);

impl Clusters {
    fn new(count: u64) -> Self {
        Clusters((0..count).map(|_| Reverse(0)).collect())
    }

    /// Gives work to the cluster that is done first.
    fn give(&mut self, clocks: f64) {
        if let Some(Reverse(until)) = self.0.pop() {
            self.0.push(Reverse(until + clocks as u64));
        }
    }

    /// When the last is done, and when they are in the mean.
    fn done(&self) -> (u64, f64) {
        let all = || self.0.iter().map(|Reverse(until)| *until);
        (all().max().unwrap_or(0), all().sum::<u64>() as f64 / self.0.len() as f64)
    }
}

/// What a configuration decides of a walk.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Forced {
    /// Whether no sum is split.
    whole: bool,
    /// Whether a warpgroup without rows multiplies nothing; `None` for where that is no
    /// slower.
    passes_over: Option<bool>,
}

impl Forced {
    fn of(choice: &Configuration) -> Self {
        let passes_over = match choice.or("passes_over", u32::MAX) {
            u32::MAX => None,
            other => Some(other == 1),
        };
        Forced { whole: choice.or("splits", 0) == 1, passes_over }
    }
}

/// What clusters multiply.
struct Walk {
    /// In the order in which they are begun.
    tiles: Vec<Tiles>,
    /// Clusters that have any.
    clusters: u64,
    /// Tiles whose sums are split.
    split_tiles: u64,
    splits: u64,
    /// Whether a warpgroup without rows multiplies nothing.
    passes_over: bool,
    /// Rough clocks of all.
    clocks: f64,
    /// Work of the busiest cluster over that of the mean.
    imbalance: f64,
}

impl Walk {
    /// Divides the tiles of all experts among the clusters of a GPU, as if each were begun, in
    /// order, by the cluster that is done first; those that would leave clusters without
    /// work are split along their sums, unless `forced` says otherwise.
    fn new(
        tile: &Tile,
        p: &MoeGemm,
        experts: &[ExpertRows],
        sms: u64,
        forced: Forced,
    ) -> Self {
        let clusters = (sms / tile.cluster()).max(1);
        let steps = steps_of(p);
        let tiles = tiles_in_order(tile, p, experts, clusters);
        let (whole, rest) = tiles.split_at(tiles.len() - tiles.len() % clusters as usize);

        let fit_l2 = || experts_fit_l2(tile, p, experts, clusters);
        let passes_over = forced.passes_over.unwrap_or_else(fit_l2);
        let step_clocks = [1, 2].map(|warpgroups| tile.step_clocks_of(warpgroups));
        let clocks_of = |tiles: &Tiles| {
            let both =
                tile.m == PRODUCT_ROWS || u64::from(tiles.end - tiles.row) > tile.m / 2;
            let both = both || tiles.splits > 1 || !passes_over;
            f64::from(tiles.steps) * step_clocks[usize::from(both)] + tile.store_clocks()
        };
        let mut after_whole = Clusters::new(clusters);
        for tiles in whole {
            after_whole.give(clocks_of(tiles));
        }
        let with_rest = |splits: u64| {
            let mut clusters = after_whole.clone();
            for tiles in split(rest, tile, steps, splits) {
                clusters.give(clocks_of(&tiles));
            }
            let (end, mean) = clusters.done();
            (end as f64 + tile.add_clocks(splits), mean, splits)
        };
        // Splits of a tile run at the same time, as in a single product.
        let most = match rest.len() as u64 {
            _ if forced.whole => 1,
            0 => 1,
            rest => (clusters / rest).min(steps).min(MAX_SPLITS),
        };
        let mut best = with_rest(1);
        for splits in 2..=most {
            let other = with_rest(splits);
            if other.0 < best.0 {
                best = other;
            }
        }
        let (sm, mean, splits) = best;
        let turns: Vec<Tiles> =
            whole.iter().copied().chain(split(rest, tile, steps, splits)).collect();

        let dram = (Problem::MoeGemm(*p).work().bytes()
            + read_again(tile, p, experts, clusters)) as f64
            / (nominal::DRAM_BYTES * sms as f64);
        let rows: u64 = experts.iter().map(|rows| rows.count).sum();
        Walk {
            clusters: clusters.min(turns.len() as u64),
            tiles: turns,
            split_tiles: if splits == 1 { 0 } else { rest.len() as u64 * tile.cluster() },
            splits,
            passes_over,
            clocks: together(sm, product_clocks(rows * p.n, steps, sms), dram),
            imbalance: if mean > 0.0 { sm / mean } else { 1.0 },
        }
    }
}

/// Each of these tiles in as many ranges of its sum.
fn split<'a>(
    tiles: &'a [Tiles],
    tile: &Tile,
    steps: u64,
    splits: u64,
) -> impl Iterator<Item = Tiles> + use<'a> {
    let cluster = tile.cluster();
    (0..).step_by(cluster as usize).zip(tiles).flat_map(move |(partial, tiles)| {
        (0..splits).map(move |split| {
            let (first, end) = (steps * split / splits, steps * (split + 1) / splits);
            Tiles {
                first_step: first as u32,
                steps: (end - first) as u32,
                split: split as u16,
                splits: splits as u16,
                partial: if splits == 1 { 0 } else { partial },
                ..*tiles
            }
        })
    })
}

/// Whether the weights of all experts that are multiplied at the same time stay in L2. If not,
/// tiles of the same weights must stay in step, or each would read them from DRAM: then all
/// take the same time, those with few rows too.
fn experts_fit_l2(tile: &Tile, p: &MoeGemm, experts: &[ExpertRows], clusters: u64) -> bool {
    let tiles: u64 =
        experts.iter().map(|rows| rows.grid(tile, p.n)).map(|(m, n)| m * n).sum();
    let at_a_time = 1 + (clusters * experts.len() as u64).div_ceil(tiles.max(1));
    let of_expert = p.n * steps_of(p) * STEP_BYTES;
    at_a_time.min(experts.len() as u64) * of_expert <= nominal::L2_CAPACITY
}

/// Rough bytes that experts too large for L2 read more than once.
fn read_again(tile: &Tile, p: &MoeGemm, experts: &[ExpertRows], clusters: u64) -> u64 {
    let steps = steps_of(p);
    let of_expert = |rows: &ExpertRows| {
        let operands = (rows.count + p.n) * steps * STEP_BYTES;
        if operands <= nominal::L2_CAPACITY {
            return 0;
        }
        let grid = rows.grid(tile, p.n);
        let (_, wave_bytes) = stripe_of(tile, grid, clusters, steps);
        (wave_bytes * (grid.0 * grid.1).div_ceil(clusters)).saturating_sub(operands)
    };
    experts.iter().map(of_expert).sum()
}

/// The tiles that operands may have: all, or that of a configuration.
///
/// # Errors
/// A configuration of another tile.
fn tiles_of(
    p: &MoeGemm,
    operands: Operands,
    choice: &Configuration,
) -> Result<Vec<Tile>, Refusal> {
    let tiles: &[Tile] = match (is_scattered(p), operands.has_two_levels()) {
        (false, false) => &TILES,
        (false, true) => &TWO_LEVEL_TILES,
        (true, false) => &GATHERED_TILES,
        (true, true) => &GATHERED_TWO_LEVEL_TILES,
    };
    let [m, n] = ["tile_m", "tile_n"].map(|name| u64::from(choice.or(name, 0)));
    let is_asked = |tile: &&Tile| m == 0 || (tile.m, tile.n) == (m, n);
    let asked: Vec<Tile> = tiles.iter().filter(is_asked).copied().collect();
    refuse_unless(!asked.is_empty(), || {
        format!(
            "tiles of 128 x 128 and 64 x 256 of operands in {}, not {m} x {n}; use another \
             configuration",
            operands.dtype()
        )
    })?;
    Ok(asked)
}

/// A layer of routed experts in tiles of warpgroups.
pub(super) struct WgmmaExpertGemm {
    p: MoeGemm,
    /// The macro that chooses the format of Y.
    element: &'static str,
    operands: Operands,
    experts: Vec<ExpertRows>,
    tile: Tile,
    /// Steps in shared memory.
    stages: u64,
    forced: Forced,
    /// Whether clusters take tiles by a ticket.
    dynamic: bool,
    /// Rough clocks on a typical GPU.
    clocks: f64,
    arch: Arch,
}

impl HostHalf for WgmmaExpertGemm {
    type Operation = MoeGemm;
    const NAME: &'static str = "moe_gemm_wgmma";
    const SOURCE: &'static str = include_str!("../../kernels/moe_gemm_wgmma.cu");
    const MEMORY_BOUND: bool = false;
    /// Every tile, and what is otherwise chosen by rough clocks and by what fits L2; and tiles
    /// that are given to clusters in turn, whoever is done first.
    const CONFIGURATIONS: &[Configuration] = &[
        Configuration::new("tile_128x256", &[("tile_m", 128), ("tile_n", 256)]),
        Configuration::new("tile_128x128", &[("tile_m", 128), ("tile_n", 128)]),
        Configuration::new("tile_64x256", &[("tile_m", 64), ("tile_n", 256)]),
        Configuration::new("splits_1", &[("splits", 1)]),
        Configuration::new("passes_over", &[("passes_over", 1)]),
        Configuration::new("in_step", &[("passes_over", 0)]),
        Configuration::new("stages_3", &[("stages", 3)]),
        Configuration::new("static", &[("dynamic", 0)]),
        Configuration::PROGRAMMATIC,
    ];

    fn configure(p: &MoeGemm, arch: Arch, choice: &Configuration) -> Result<Self, Refusal> {
        refuse_unless(arch == Arch::SM_90, || {
            format!("sm_90a, which has wgmma, not {arch}; use `moe_gemm`")
        })?;
        let element = element(p.dtype).ok_or_else(|| {
            supports(format!("dtype = bf16 or f16, not {}; use one of those", p.dtype))
        })?;
        let operands = operands_of(p).ok_or_else(|| {
            supports(format!(
                "both operands in {0}, or in 8 bits with scales: a_dtype = int8_token with \
                 w_dtype = int8, the same of fp8_e4m3, or fp8_e4m3_block1x128 with \
                 fp8_e4m3_block128x128; not a_dtype = {1} with w_dtype = {2}; use dtype = {0} \
                 for both or `moe_gemm`",
                p.dtype, p.a_dtype, p.w_dtype
            ))
        })?;
        // Rows of tensor maps are multiples of 16 bytes; blocks that have a scale are an
        // expert's.
        let of_n = if operands == Operands::Blocks { 128 } else { 16 / p.dtype.bytes() };
        for (name, extent, of) in
            [("k", p.k, 16 / operands.dtype().bytes()), ("n", p.n, of_n)]
        {
            refuse_unless(extent.is_multiple_of(of), || {
                format!(
                    "{name} in multiples of {of}, not {extent}; use {}",
                    extent.next_multiple_of(of)
                )
            })?;
        }
        let most = p.row_places().max(p.experts.saturating_mul(p.n)).max(p.k);
        refuse_unless(most <= MAX_EXTENT, || {
            format!("rows of X and of W, and k, up to {MAX_EXTENT}, not {most}; use less")
        })?;
        let experts = ExpertRows::all(p);
        let count = |tile: &Tile| -> u64 {
            experts.iter().map(|rows| rows.grid(tile, p.n)).map(|(m, n)| m * n).sum()
        };
        let tiles = tiles_of(p, operands, choice)?;
        let most = tiles.iter().map(count).max().unwrap_or(0);
        refuse_unless(most <= MAX_TILES, || {
            format!("up to {MAX_TILES} tiles, not {most}; use fewer tokens or a smaller n")
        })?;
        let sms = u64::from(arch.usual_sms());
        let forced = Forced::of(choice);
        let clocks = |tile: &Tile| Walk::new(tile, p, &experts, sms, forced).clocks;
        let best = tiles
            .iter()
            .map(|tile| (*tile, clocks(tile)))
            .min_by(|a, b| a.1.total_cmp(&b.1));
        let (tile, clocks) = best.unwrap_or((tiles[0], 0.0));
        let stages = u64::from(choice.or("stages", tile.stages(arch) as u32));
        Ok(WgmmaExpertGemm {
            p: *p,
            element,
            operands,
            experts,
            tile,
            stages,
            forced,
            dynamic: choice.or("dynamic", 1) == 1,
            clocks,
            arch,
        })
    }

    /// Of rows that lie by expert it always is.
    fn is_fast(&self) -> bool {
        if !is_scattered(&self.p) {
            return true;
        }
        let other = moe_gemm::rough_clocks(&self.p, self.arch.usual_sms().into());
        self.clocks < CLEARLY_FEWER * other
    }

    fn defines(&self) -> Defines {
        let defines = Defines::new()
            .with(self.element, 1)
            .with("GATHERS", u32::from(is_scattered(&self.p)))
            .with("DYNAMIC", u32::from(self.dynamic));
        self.tile.define(self.operands.define(defines), self.stages)
    }

    fn plan(&self, target: &Target) -> Plan {
        let WgmmaExpertGemm { p, operands, ref experts, tile, stages, forced, .. } = *self;
        let has_one_scale = matches!(operands, Operands::Rows(_, [ScaleGroup::Tensor, _]));
        let walk = Walk::new(&tile, &p, experts, target.sms.into(), forced);
        let gathers = is_scattered(&p);
        let of_input = match p.inputs {
            Inputs::PerToken => p.top_k as u32,
            Inputs::PerExpert => 1,
        };
        let turns = walk.tiles.len() as u32;
        let params = Params::of(move |bound| WgmmaParams {
            x: if gathers { [0; 128] } else { bound.tensor_map("x").0 },
            w: bound.tensor_map("w").0,
            y: if gathers { [0; 128] } else { bound.tensor_map("y").0 },
            partials: bound.scratch("partials"),
            tickets: bound.scratch("tickets"),
            tiles: bound.scratch("tiles"),
            taken: bound.scratch("taken"),
            y_rows: bound.tensor("y"),
            x_scales: bound.tensor_or_null("x_scales"),
            w_scales: bound.tensor_or_null("w_scales"),
            x_first: if gathers { bound.tensor("x") } else { 0 },
            rows: if gathers { bound.scratch("rows of experts") } else { 0 },
            n: p.n as u32,
            x_rows: p.row_places() as u32,
            w_rows: (p.experts * p.n) as u32,
            x_stride: u32::from(!has_one_scale),
            steps: steps_of(&p) as u32,
            turns,
            passes_over: u32::from(walk.passes_over),
            of_input,
            row_bytes: operands.dtype().bytes_of(p.k) as u32,
            padding: [0; 5],
        });
        let blocks = (walk.clusters * tile.cluster()) as u32;
        let launch = Launch {
            cluster: [tile.cluster() as u32, 1, 1],
            shared_bytes: tile.shared_bytes(stages) as u32,
            takes_turns: self.dynamic,
            bytes_in_flight: (stages - 1) * tile.stage_bytes(),
            ..Launch::new("moe_gemm_wgmma", blocks, THREADS, params)
        };
        let partial_bytes = walk.split_tiles * walk.splits * tile.sum_bytes();
        let (x_rows, w_rows) = tile.box_rows();
        let mut scratch = vec![
            Scratch::unset("partials", partial_bytes.max(16)),
            Scratch::zeros("tickets", 4 * walk.split_tiles.max(1)),
            Scratch::of("tiles", &walk.tiles),
            Scratch::zeros("taken", 4),
        ];
        let mut tensor_maps =
            vec![panels("w", [p.k, p.experts * p.n], operands.dtype(), w_rows as u32)];
        if gathers {
            scratch.push(Scratch::of("rows of experts", &p.rows_of_experts().concat()));
        } else {
            let places = p.row_places();
            tensor_maps.extend([
                panels("x", [p.k, places], operands.dtype(), x_rows as u32),
                panels("y", [p.n, places], p.dtype, WARP_ROWS),
            ]);
        }
        Plan {
            scratch,
            tensor_maps,
            // Tiles read X and W again, and rows beside them, all through L2 where they fit.
            extra_bytes: None,
            imbalance: walk.imbalance,
            ..Plan::of(launch)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernel::contract::testing::{
        configured, configured_as, operation, plan, refusal, refusal_as,
    };
    use crate::kernel::drift;
    use crate::kernel::gemm_wgmma::predicted_clocks;
    use crate::kernel::{Bound, EncodedTensorMap};

    fn problem(text: &str) -> String {
        format!("moe_gemm:{text},inputs=per_expert")
    }

    fn h100() -> Target {
        Target::new(Arch::SM_90, 132)
    }

    /// Problems of few and of many tiles, with experts without rows, with one row, and with
    /// tails in all directions.
    const PROBLEMS: [&str; 8] = [
        "tokens=1,experts=8,top_k=2,n=136,k=72,dtype=bf16,routing=balanced,rows=contiguous",
        "tokens=9,experts=40,top_k=4,n=1544,k=8000,dtype=bf16,routing=zipf,rows=masked",
        "tokens=700,experts=6,top_k=2,n=520,k=1032,dtype=bf16,routing=zipf,rows=contiguous",
        "tokens=300,experts=3,top_k=3,n=264,k=64,dtype=f16,routing=uniform,rows=masked",
        "tokens=4096,experts=32,top_k=4,n=1024,k=512,dtype=bf16,routing=uniform,rows=contiguous",
        "tokens=500,experts=70,top_k=8,n=768,k=2048,dtype=bf16,routing=zipf,rows=contiguous",
        "tokens=700,experts=6,top_k=2,n=520,k=1032,dtype=bf16,routing=zipf",
        "tokens=9,experts=40,top_k=4,n=1544,k=8000,dtype=bf16,routing=zipf",
    ];

    fn all_tiles() -> impl Iterator<Item = &'static Tile> {
        let by_expert = TILES.iter().chain(&TWO_LEVEL_TILES);
        by_expert.chain(&GATHERED_TILES).chain(&GATHERED_TWO_LEVEL_TILES)
    }

    fn walk(tile: &Tile, p: &MoeGemm, sms: u64) -> Walk {
        Walk::new(tile, p, &ExpertRows::all(p), sms, Forced::default())
    }

    #[test]
    fn configurations_force_what_is_estimated() {
        let of = |text: &str, name, macros: &str| {
            let half = configured_as::<WgmmaExpertGemm>(&problem(text), Arch::SM_90, name);
            let half = half.unwrap();
            let found = half.defines().options().join(" ");
            assert!(found.contains(macros), "{name}: {found}");
            let experts = &half.experts;
            let walk = Walk::new(&half.tile, &half.p, experts, 132, half.forced);
            (walk.splits, walk.passes_over)
        };
        // Few tiles with long sums.
        let few = "tokens=65,experts=3,top_k=3,n=136,k=3080,dtype=bf16,routing=balanced,\
                   rows=contiguous";
        let default: MoeGemm = operation(&problem(few));
        assert!(walk(&TILES[1], &default, 132).splits > 1);
        assert_eq!(of(few, "splits_1", "-DTILE_M=").0, 1);
        assert!(
            of(few, "passes_over", "-DTILE_M=").1 && !of(few, "in_step", "-DTILE_M=").1
        );
        of(
            few,
            "tile_64x256",
            "-DTILE_M=64 -DTILE_N=256 -DPRODUCT_COLUMNS=128 -DCLUSTER=1",
        );
        of(
            few,
            "tile_128x128",
            "-DTILE_M=128 -DTILE_N=128 -DPRODUCT_COLUMNS=128 -DCLUSTER=2",
        );
        of(few, "stages_3", "-DSTAGES=3");
        let scaled = "tokens=64,experts=8,top_k=2,n=256,k=256,dtype=bf16,routing=balanced,\
                      rows=contiguous,a_dtype=fp8_e4m3_token,w_dtype=fp8_e4m3";
        let why =
            refusal_as::<WgmmaExpertGemm>(&problem(scaled), Arch::SM_90, "tile_128x256");
        assert!(why.contains("128 x 128 and 64 x 256 of operands in fp8_e4m3"), "{why}");
    }

    /// Every element of Y is summed up once: each of its steps in one cluster, and by
    /// as many splits as its tile has.
    #[test]
    fn every_sum_is_made_once() {
        let mut most_splits = 0;
        for text in PROBLEMS {
            let p: MoeGemm = operation(&problem(text));
            let steps = steps_of(&p) as u32;
            for tile in all_tiles() {
                for sms in [1, 7, 132] {
                    let walk = walk(tile, &p, sms);
                    most_splits = most_splits.max(walk.splits);
                    let (rows, columns) = tile.cluster_extents();
                    let mut left = std::collections::BTreeMap::new();
                    for of_expert in ExpertRows::all(&p) {
                        let (m, n) = of_expert.grid(tile, p.n);
                        for (row, column) in
                            (0..m).flat_map(|m| (0..n).map(move |n| (m, n)))
                        {
                            let place = (of_expert.first + row * rows, column * columns);
                            let weights = of_expert.expert * p.n;
                            let end = of_expert.first + of_expert.count;
                            left.insert(place, (weights, end, Vec::new()));
                        }
                    }
                    for tiles in &walk.tiles {
                        let place = (tiles.row.into(), tiles.column.into());
                        let (weights, end, parts) = left.get_mut(&place).unwrap();
                        assert_eq!(
                            (*weights, *end),
                            (tiles.w_row.into(), tiles.end.into())
                        );
                        parts.push((
                            tiles.split,
                            tiles.splits,
                            tiles.first_step,
                            tiles.steps,
                            tiles.partial,
                        ));
                    }
                    let mut partials = Vec::new();
                    for (_, _, mut parts) in left.into_values() {
                        parts.sort_unstable();
                        let (splits, partial) = (parts[0].1, parts[0].4);
                        assert_eq!(parts.len(), usize::from(splits));
                        let mut next = 0;
                        for (index, part) in (0..).zip(parts) {
                            assert_eq!(
                                (part.0, part.1, part.2, part.4),
                                (index, splits, next, partial)
                            );
                            assert!(part.3 > 0, "no split is empty");
                            next += part.3;
                        }
                        assert_eq!(next, steps, "{text} {tile:?}");
                        partials.extend((splits > 1).then_some(u64::from(partial)));
                    }
                    // Each split tile of each block has partial sums and a ticket of its own.
                    partials.sort_unstable();
                    let cluster = tile.cluster();
                    let all: Vec<u64> =
                        (0..walk.split_tiles).step_by(cluster as usize).collect();
                    assert_eq!(partials, all, "{text} {tile:?}");

                    assert!(walk.clusters <= walk.tiles.len() as u64, "none is idle");
                    assert!(walk.clusters * cluster <= sms.max(cluster));
                }
            }
        }
        assert!(most_splits > 2, "{most_splits}");
    }

    /// Experts without rows have no tiles; those of an expert follow one another.
    #[test]
    fn experts_follow_one_another() {
        for text in PROBLEMS {
            let p: MoeGemm = operation(&problem(text));
            let experts = ExpertRows::all(&p);
            assert_eq!(experts.len() as u64, p.experts_touched());
            for tile in all_tiles() {
                let tiles = tiles_in_order(tile, &p, &experts, 132);
                let mut weights: Vec<u64> =
                    tiles.iter().map(|tiles| u64::from(tiles.w_row) / p.n).collect();
                assert!(weights.is_sorted());
                weights.dedup();
                let all: Vec<u64> = experts.iter().map(|rows| rows.expert).collect();
                assert_eq!(weights, all);
            }
        }
    }

    /// With tiles of equal work clusters take turns; a tile of half the rows is half as long,
    /// and the next goes to who had it.
    #[test]
    fn tiles_go_to_who_is_done_first() {
        let mut clusters = Clusters::new(3);
        (0..6).for_each(|_| clusters.give(10.0));
        assert_eq!(clusters.done(), (20, 20.0));
        [20.0, 5.0, 20.0, 20.0].into_iter().for_each(|clocks| clusters.give(clocks));
        assert_eq!(clusters.done(), (45, 125.0 / 3.0));
    }

    /// Tiles in the list of a plan, of which there is one for each expert or more.
    fn tiles_of(plan: &Plan) -> u32 {
        let list = plan.scratch.iter().find(|scratch| scratch.name == "tiles").unwrap();
        let tiles = list.bytes() / size_of::<Tiles>() as u64;
        assert!(tiles >= 4, "{tiles}");
        tiles as u32
    }

    #[test]
    fn params_maps_and_lists() {
        let text =
            "tokens=3,experts=4,top_k=2,n=136,k=80,dtype=f16,routing=balanced,rows=masked";
        let plan = plan::<WgmmaExpertGemm>(&problem(text), &h100());
        let launch = &plan.launches[0];
        let shapes = |map: &crate::kernel::TensorMap| {
            (map.name, map.extents.clone(), map.tile.clone())
        };
        let (x_rows, w_rows) = configured::<WgmmaExpertGemm>(&problem(text), Arch::SM_90)
            .unwrap()
            .tile
            .box_rows();
        assert_eq!(
            plan.tensor_maps.iter().map(shapes).collect::<Vec<_>>(),
            [
                ("w", vec![80, 4 * 136], vec![64, w_rows as u32]),
                ("x", vec![80, 12], vec![64, x_rows as u32]),
                ("y", vec![136, 12], vec![64, 16]),
            ]
        );
        let scratch = ["partials", "tickets", "tiles", "taken"];
        let bound = Bound::new(1, 0, [("x", 256), ("w", 512), ("y", 768)])
            .with_scratch(scratch.into_iter().zip([1, 2, 3, 4]));
        let bound = [(1, "x"), (2, "w"), (3, "y")].into_iter().fold(
            bound,
            |bound, (byte, name)| {
                bound.with_tensor_map(name, EncodedTensorMap([byte; 128]))
            },
        );
        let bytes = launch.params.bytes(&bound);
        assert_eq!(bytes.len(), 512, "the kernel aligns tensor maps");
        assert_eq!((bytes[0], bytes[128], bytes[256]), (1, 2, 3));
        let words: Vec<u32> = bytemuck::pod_collect_to_vec(&bytes[384..492]);
        assert_eq!(words[..10], [1, 0, 2, 0, 3, 0, 4, 0, 768, 0]);
        assert_eq!(words[10..18], [0; 8]);
        assert_eq!(words[18..], [136, 12, 544, 1, 2, tiles_of(&plan), 1, 1, 160]);
        assert_eq!(launch.block, [384, 1, 1]);
    }

    /// Scattered rows have a list, and neither X nor Y a map.
    #[test]
    fn params_of_scattered_rows() {
        let text =
            "moe_gemm:tokens=3,experts=4,top_k=2,n=136,k=80,dtype=f16,routing=balanced";
        for (inputs, of_input) in [("per_token", 2), ("per_expert", 1)] {
            let text = format!("{text},inputs={inputs}");
            let plan = plan::<WgmmaExpertGemm>(&text, &h100());
            let maps: Vec<_> = plan.tensor_maps.iter().map(|map| map.name).collect();
            assert_eq!(maps, ["w"]);
            let p: MoeGemm = operation(&text);
            let list = p.rows_of_experts().concat();
            assert_eq!(list, [0, 4, 1, 5, 2, 3]);
            let experts: Vec<_> = ExpertRows::all(&p)
                .iter()
                .map(|rows| (rows.expert, rows.first, rows.count))
                .collect();
            assert_eq!(experts, [(0, 0, 2), (1, 2, 2), (2, 4, 1), (3, 5, 1)]);
            let scratch = ["partials", "tickets", "tiles", "taken", "rows of experts"];
            let bound = Bound::new(1, 0, [("x", 256), ("w", 512), ("y", 768)])
                .with_scratch(scratch.into_iter().zip([1, 2, 3, 4, 5]))
                .with_tensor_map("w", EncodedTensorMap([2; 128]));
            let bytes = plan.launches[0].params.bytes(&bound);
            assert_eq!((bytes[0], bytes[128], bytes[256]), (0, 2, 0));
            let words: Vec<u32> = bytemuck::pod_collect_to_vec(&bytes[384..492]);
            assert_eq!(words[10..18], [0, 0, 0, 0, 256, 0, 5, 0]);
            let tiles = tiles_of(&plan);
            assert_eq!(words[18..], [136, 6, 544, 1, 2, tiles, 1, of_input, 160]);
        }
    }

    /// The default of scattered rows: with few rows of an expert both read weights once, and
    /// `moe_gemm` is what was measured; it reads those of more than 64 rows several times.
    #[test]
    fn scattered_rows_are_the_default_where_experts_have_several() {
        let default = |shape: &str, arch: Arch| {
            let text = format!("moe_gemm:{shape},routing=uniform").parse().unwrap();
            crate::kernel::Kernel::for_problem(&text, arch).unwrap().kernel.name
        };
        let mixtral = "experts=8,top_k=2,n=28672,k=4096,dtype=bf16";
        let deepseek = "experts=256,top_k=8,n=4096,k=7168,dtype=bf16";
        for (tokens, layer, name) in [
            (1, mixtral, "moe_gemm"),
            (16, mixtral, "moe_gemm"),
            (128, mixtral, "moe_gemm_wgmma"),
            (256, mixtral, "moe_gemm_wgmma"),
            (4096, mixtral, "moe_gemm_wgmma"),
            (64, deepseek, "moe_gemm"),
            (4096, deepseek, "moe_gemm_wgmma"),
        ] {
            let shape = format!("tokens={tokens},{layer}");
            assert_eq!(default(&shape, Arch::SM_90), name, "{shape}");
            assert_eq!(default(&shape, Arch::SM_80), "moe_gemm", "{shape}");
        }
        // Only one of them has activations with scales, the other weights without.
        let scaled = "tokens=1,experts=8,top_k=2,n=256,k=256,dtype=bf16,w_dtype=int8";
        assert_eq!(default(scaled, Arch::SM_90), "moe_gemm");
        let both = format!("{scaled},a_dtype=int8_token");
        assert_eq!(default(&both, Arch::SM_90), "moe_gemm_wgmma");
    }

    /// Experts of DeepSeek-V3 have 59 MB of weights each, those of Qwen3-30B 6 MB.
    #[test]
    fn tiles_of_large_weights_stay_in_step() {
        for (experts, top_k, n, k, passes_over) in [
            (256, 8, 4096, 7168, false),
            (8, 2, 28672, 4096, false),
            (128, 8, 1536, 2048, true),
        ] {
            let text = format!(
                "tokens=16384,experts={experts},top_k={top_k},n={n},k={k},dtype=bf16,\
                 routing=uniform,rows=contiguous"
            );
            let p: MoeGemm = operation(&problem(&text));
            let walk = walk(&TILES[0], &p, 132);
            assert_eq!(walk.passes_over, passes_over, "{text}");
        }
        // The tiles of 130 rows and the same weights follow one another.
        let text = "tokens=130,experts=2,top_k=2,n=1536,k=2048,dtype=bf16,routing=balanced,\
                    rows=contiguous";
        let p: MoeGemm = operation(&problem(text));
        let tiles = tiles_in_order(&TILES[0], &p, &ExpertRows::all(&p), 66);
        let columns: Vec<u32> = tiles.iter().map(|tiles| tiles.column).collect();
        assert_eq!(columns[..6], [0, 0, 512, 512, 1024, 1024]);
    }

    /// An H200, which had a list of tiles for each cluster, read 56 GB for the 17 of 256 experts
    /// of 512 rows (`results/2026-11-28-nvidia-h200-focus`). Clusters whose times differ by up to
    /// 0.5% read about as much here, and with tickets little more than the operands.
    #[test]
    fn tickets_keep_tiles_of_the_same_weights_together() {
        let text = "tokens=16384,experts=256,top_k=8,n=4096,k=7168,dtype=bf16,\
                    routing=uniform,rows=contiguous";
        let p: MoeGemm = operation(&problem(text));
        let (tile, steps, clusters) = (&TILES[0], steps_of(&p), 66);
        let (rows, columns) = tile.cluster_extents();
        let operands = |tiles: &Tiles| {
            let of_w = u64::from(tiles.w_row + tiles.column);
            [(tiles.row.into(), rows * STEP_BYTES), (of_w, columns * STEP_BYTES)]
        };
        let tiles = tiles_in_order(tile, &p, &ExpertRows::all(&p), clusters);
        let tiles: Vec<drift::Operands> = tiles.iter().map(operands).collect();
        let all = (p.rows() + p.experts * p.n) * steps * STEP_BYTES;
        let ratio = |dynamic| {
            let read = drift::dram_bytes(&tiles, steps, clusters as usize, 0.005, dynamic);
            read as f64 / all as f64
        };
        let (given, taken) = (ratio(false), ratio(true));
        assert!((3.0..4.5).contains(&given), "{given}");
        assert!((1.0..1.3).contains(&taken), "{taken}");
    }

    /// Against a dense product of as many rows, with as many FLOPs: where all experts have
    /// whole tiles, and where tails are drawn.
    #[test]
    fn predicted_share_of_a_dense_product() {
        for (experts, top_k, n, k) in [
            (8, 2, 28672, 4096),
            (8, 2, 4096, 14336),
            (128, 8, 1536, 2048),
            (256, 8, 4096, 7168),
            (256, 8, 7168, 2048),
        ] {
            for (routing, least) in [("balanced", 0.95), ("uniform", 0.85)] {
                let text = format!(
                    "tokens=16384,experts={experts},top_k={top_k},n={n},k={k},dtype=bf16,\
                     routing={routing},rows=contiguous"
                );
                let p: MoeGemm = operation(&problem(&text));
                let tile = configured::<WgmmaExpertGemm>(&problem(&text), Arch::SM_90)
                    .unwrap()
                    .tile;
                assert_eq!(tile, TILES[0]);
                let dense = predicted_clocks(&format!(
                    "gemm:m={},n={n},k={k},dtype=bf16",
                    p.rows()
                ));
                let share = dense / walk(&tile, &p, 132).clocks;
                assert!((least..1.0).contains(&share), "{text}: {share}");
            }
        }
    }

    /// Where routing is drawn, the share of a dense product is at least 0.9 unless the bytes of
    /// the experts' weights, which a dense product reads of one, take about as long as its
    /// FLOPs: DeepSeek-V3's are 15 GB. Then balanced routing, whose tiles have all their rows,
    /// is no better, or little.
    #[test]
    fn shares_of_drawn_routing() {
        // Half as much to the fourth power as what products take where power limits them.
        let of_bytes = nominal::POWER / 2.0_f64.sqrt().sqrt();
        for (experts, top_k, n, k) in [
            (8, 2, 28672, 4096),
            (128, 8, 1536, 2048),
            (256, 8, 4096, 7168),
            (256, 8, 7168, 2048),
        ] {
            for tokens in [2048, 4096, 8192, 16384] {
                let share = |routing: &str| {
                    let text = problem(&format!(
                        "tokens={tokens},experts={experts},top_k={top_k},n={n},k={k},\
                         dtype=bf16,routing={routing},rows=contiguous"
                    ));
                    let half = configured::<WgmmaExpertGemm>(&text, Arch::SM_90).unwrap();
                    let dense = predicted_clocks(&format!(
                        "gemm:m={},n={n},k={k},dtype=bf16",
                        half.p.rows()
                    ));
                    (dense / half.clocks, half.p)
                };
                let (balanced, p) = share("balanced");
                let bytes = Problem::MoeGemm(p).work().bytes() as f64;
                let dram = bytes / (nominal::DRAM_BYTES * 132.0);
                let products = product_clocks(p.rows() * n, steps_of(&p), 132);
                for routing in ["uniform", "zipf"] {
                    let (drawn, _) = share(routing);
                    let text = format!("{tokens} {experts} {n}: {drawn}, {balanced}");
                    assert!(drawn >= 0.92 * balanced, "{text}");
                    if dram < of_bytes * products {
                        assert!(drawn >= 0.9, "{text}");
                    } else {
                        assert!(balanced < 0.91, "{text}");
                    }
                }
            }
        }
    }

    /// Few rows of many experts: the time is that of the bytes of their weights.
    #[test]
    fn decode_is_bound_by_memory() {
        for text in [
            "tokens=64,experts=8,top_k=2,n=28672,k=4096,dtype=bf16,routing=uniform,rows=masked",
            "tokens=64,experts=128,top_k=8,n=1536,k=2048,dtype=bf16,routing=uniform,rows=masked",
            "tokens=64,experts=256,top_k=8,n=4096,k=7168,dtype=bf16,routing=zipf,rows=masked",
        ] {
            let p: MoeGemm = operation(&problem(text));
            let tile =
                configured::<WgmmaExpertGemm>(&problem(text), Arch::SM_90).unwrap().tile;
            assert_eq!(tile.m, 64, "{text}");
            let bytes = Problem::MoeGemm(p).work().bytes() as f64;
            let share = bytes / (nominal::DRAM_BYTES * 132.0) / walk(&tile, &p, 132).clocks;
            assert!((0.9..1.0).contains(&share), "{text}: {share}");
        }
    }

    const BLOCKS: &str = "w_dtype=fp8_e4m3_block128x128,a_dtype=fp8_e4m3_block1x128";

    /// Shapes for every tile, which are among those of the suite that is executed on the
    /// virtual machine: tokens, experts, experts of each, n and k.
    #[test]
    fn every_tile_is_chosen_for_some_corner() {
        let corners: toml::Table =
            include_str!("../../benches/corners.toml").parse().unwrap();
        let points = corners["points"].as_array().unwrap();
        let by_expert = ",inputs=per_expert,rows=masked";
        for (tile, rows, schemes, shape) in [
            (TILES[0], by_expert, "", [600, 8, 1, 3080, 72]),
            (TILES[1], by_expert, "", [150, 6, 2, 136, 272]),
            (TILES[2], by_expert, "", [150, 40, 1, 1032, 72]),
            (TWO_LEVEL_TILES[0], by_expert, BLOCKS, [150, 6, 2, 256, 1200]),
            (TWO_LEVEL_TILES[1], by_expert, BLOCKS, [150, 40, 1, 1024, 144]),
            (GATHERED_TILES[0], "", "", [600, 8, 1, 3080, 72]),
            (GATHERED_TILES[1], "", "", [150, 6, 2, 136, 272]),
            (GATHERED_TILES[2], "", "", [150, 40, 1, 1032, 72]),
            (GATHERED_TWO_LEVEL_TILES[0], "", BLOCKS, [150, 6, 2, 256, 1200]),
            (GATHERED_TWO_LEVEL_TILES[1], "", BLOCKS, [150, 40, 1, 1024, 144]),
        ] {
            let keys = ["tokens", "experts", "top_k", "n", "k"];
            let mut text = format!("moe_gemm:dtype=bf16,routing=zipf{rows}");
            text.extend(keys.iter().zip(shape).map(|(key, of)| format!(",{key}={of}")));
            if !schemes.is_empty() {
                text = format!("{text},{schemes}");
            }
            let chosen = configured::<WgmmaExpertGemm>(&text, Arch::SM_90).unwrap().tile;
            assert_eq!(chosen, tile, "{text}");
            let has = |value: &toml::Value, wanted: i64| match value {
                toml::Value::Array(values) => {
                    values.iter().any(|value| value.as_integer() == Some(wanted))
                }
                value => value.as_integer() == Some(wanted),
            };
            let found = points.iter().any(|point| {
                let of = |key: &str| point.get(key).and_then(toml::Value::as_str);
                of("kernel") == Some(WgmmaExpertGemm::NAME)
                    && point.get("rows").is_none() == rows.is_empty()
                    && of("a_dtype").unwrap_or("")
                        == schemes.rsplit('=').next().unwrap_or("")
                    && keys.iter().zip(shape).all(|(key, wanted)| has(&point[*key], wanted))
            });
            assert!(found, "{text}");
        }
    }

    #[test]
    fn every_tile_fits_an_sm() {
        for tile in all_tiles() {
            let most = u64::from(Arch::SM_90.limits().shared_bytes_of_block(1));
            let bytes = tile.shared_bytes(tile.stages(Arch::SM_90));
            assert!(bytes + 1024 <= most, "{tile:?}");
            assert!(tile.stages(Arch::SM_90) >= 4, "{tile:?}");
        }
    }

    #[test]
    fn refusals_say_what_to_use() {
        let why = |text: &str| refusal::<WgmmaExpertGemm>(text, Arch::SM_90);
        let of = |rest: &str| {
            format!("moe_gemm:tokens=4,experts=4,top_k=2,routing=balanced,{rest}")
        };
        let own = "inputs=per_expert,rows=contiguous";
        for (text, says) in [
            (of(&format!("n=64,k=64,dtype=f32,{own}")), "bf16 or f16, not f32"),
            (
                of(&format!("n=64,k=64,dtype=bf16,w_dtype=int8,{own}")),
                "with w_dtype = int8",
            ),
            (
                of(&format!("n=64,k=12,dtype=bf16,{own}")),
                "k in multiples of 8, not 12; use 16",
            ),
            (
                of(&format!("n=60,k=64,dtype=bf16,{own}")),
                "n in multiples of 8, not 60; use 64",
            ),
            (of(&format!("n=536870912,k=8,dtype=bf16,{own}")), "up to 1073741824"),
        ] {
            let refusal = why(&text);
            assert!(refusal.contains(says), "{refusal}");
        }
        let text = of(&format!("n=64,k=64,dtype=bf16,{own}"));
        for arch in [Arch::SM_80, Arch::SM_120] {
            let refusal = refusal::<WgmmaExpertGemm>(&text, arch);
            assert!(refusal.contains("sm_90a, which has wgmma"), "{refusal}");
        }
    }
}

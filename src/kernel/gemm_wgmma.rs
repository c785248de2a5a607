//! Host half of `kernels/gemm_wgmma.cu`: which tile, in which order, and how the rest that
//! does not fill the card is split. Steps of 128 bytes take the tensor cores the same clocks
//! in every format; with tf32 only C has other panels.

use bytemuck::{Pod, Zeroable};

use super::configuration::Configuration;
use super::contract::HostHalf;
use super::formats::element_or_tf32;
use super::plan::{Launch, Params, Plan, Scratch};
use super::refusal::{Refusal, refuse_unless, supports};
use super::tensor_map::TensorMap;
use crate::format::DType;
use crate::op::{Gemm, Problem};
use crate::quant::{Quant, ScaleFormat, ScaleGroup};
use crate::toolchain::{Arch, Defines, Target};

/// Threads of a block: two warpgroups multiply, one loads.
pub(super) const THREADS: u32 = 3 * 128;
/// Warpgroups that multiply.
const WARPGROUPS: u64 = 2;
/// Rows of a product.
pub(super) const PRODUCT_ROWS: u64 = 64;
/// Columns of A and B of one product, in bytes, and of a step, which is a panel's row.
const PRODUCT_BYTES: u64 = 32;
pub(super) const STEP_BYTES: u64 = 128;
/// Bytes of a panel's row of C, and rows of C that a warp stores at a time.
const PANEL_BYTES: u64 = 128;
pub(super) const WARP_ROWS: u32 = 16;
/// Shared memory in which a block stages C: two panels of each of eight warps.
const STAGING_BYTES: u64 = 8 * 2 * WARP_ROWS as u64 * PANEL_BYTES;
/// Shared memory that the kernel declares itself, rounded up to where stages begin.
const STATIC_SHARED_BYTES: u64 = 1024;
/// Most stages: with these, loads arrive before they are waited for.
const MAX_STAGES: u64 = 7;
/// Fewer rows are padded to more than twice as many.
const LEAST_ROWS: u64 = 64;
/// Largest m, n and k.
pub(super) const MAX_EXTENT: u64 = 1 << 30;
/// Most splits of a tile's sum.
pub(super) const MAX_SPLITS: u64 = 16;

/// Names of the tensor maps, which are those of their tensors.
const A: &str = "a";
const B: &str = "b";
const C: &str = "c";

/// `Params` of the kernel.
#[derive(Clone, Copy, Pod, Zeroable)]
#[repr(C)]
struct WgmmaParams {
    a: [u8; 128],
    b: [u8; 128],
    c: [u8; 128],
    partials: u64,
    tickets: u64,
    taken: u64,
    a_scales: u64,
    b_scales: u64,
    m: u32,
    n: u32,
    a_stride: u32,
    b_stride: u32,
    steps: u32,
    rows: u32,
    columns: u32,
    stripe: u32,
    whole: u32,
    splits: u32,
    turns: u32,
    padding: [u32; 11],
}

/// What blocks of a cluster have in common.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Shared {
    /// A cluster is one block.
    Nothing,
    /// Two tiles side by side have rows of A in common.
    A,
    /// Two tiles above one another have rows of B in common.
    B,
}

/// A tile of C, and how blocks compute it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Tile {
    pub m: u64,
    pub n: u64,
    pub shared: Shared,
}

pub(super) const fn tile(m: u64, n: u64, shared: Shared) -> Tile {
    Tile { m, n, shared }
}

/// Tiles whose sums stay in the tensor cores' registers.
const TILES: [Tile; 6] = [
    tile(128, 256, Shared::B),
    tile(128, 256, Shared::Nothing),
    tile(128, 192, Shared::Nothing),
    tile(128, 128, Shared::B),
    tile(128, 128, Shared::Nothing),
    tile(64, 256, Shared::Nothing),
];

/// Tiles whose sums have two levels, which needs registers for the sums of a step.
const TWO_LEVEL_TILES: [Tile; 4] = [
    tile(256, 128, Shared::A),
    tile(128, 128, Shared::B),
    tile(128, 128, Shared::Nothing),
    tile(64, 256, Shared::Nothing),
];

/// Rates of an SM of an H100 per clock, rounded: enough to compare tiles of the same problem
/// with each other. Those of L2, of power, of stores and of partial sums are such that 150
/// products of all sizes, by all tiles, with and without splits, took these clocks on an
/// H200 at 1.75 GHz within 5 % in the mean.
pub(super) mod nominal {
    /// Columns of a product that take one clock, whatever the format.
    pub const PRODUCT_COLUMNS: u64 = 2;
    /// Bytes to or from shared memory.
    pub const SHARED_BYTES: f64 = 128.0;
    /// Bytes from L2, when all SMs load.
    pub const L2_BYTES: f64 = 47.0;
    /// Its share of the bytes from DRAM.
    pub const DRAM_BYTES: f64 = 14.0;
    /// Bytes of A and B that stay in L2 between uses.
    pub const L2_CAPACITY: u64 = 50 << 20;
    /// Clocks for each clock of products, where power alone limits the frequency.
    pub const POWER: f64 = 1.23;
    /// Bytes of partial sums written, and read by the last split.
    pub const PARTIAL_BYTES_WRITTEN: f64 = 8.0;
    pub const PARTIAL_BYTES_READ: f64 = 50.0;
    /// Clocks of a ticket, for who takes it.
    pub const TICKET: f64 = 700.0;
    /// Clocks of a launch.
    pub const LAUNCH: f64 = 3000.0;
    /// Clocks of a tile that do not overlap with products: once, and for each sum of a
    /// thread, which is rounded to 16 bits and stored.
    pub const STORE: f64 = 300.0;
    pub const STORE_SUM: f64 = 10.0;
    /// Clocks of a step for each clock of it where one block of a cluster has only rows past
    /// the end, which copies fill with zeros.
    pub const PAST_THE_END: f64 = 1.27;
}

/// Rough clocks of a launch whose busiest SM takes `sm`, of its products where power alone
/// limits them, and of its bytes of DRAM: they overlap, the less the more alike they are.
pub(super) fn together(sm: f64, products: f64, dram: f64) -> f64 {
    let all = [sm, products * nominal::POWER, dram];
    nominal::LAUNCH
        + all.into_iter().map(|clocks| clocks.powi(4)).sum::<f64>().sqrt().sqrt()
}

impl Tile {
    /// Blocks of a cluster.
    pub const fn cluster(&self) -> u64 {
        match self.shared {
            Shared::Nothing => 1,
            Shared::A | Shared::B => 2,
        }
    }

    /// Rows and columns of the tiles of a cluster together.
    pub const fn cluster_extents(&self) -> (u64, u64) {
        match self.shared {
            Shared::Nothing => (self.m, self.n),
            Shared::A => (self.m, 2 * self.n),
            Shared::B => (2 * self.m, self.n),
        }
    }

    /// Rows of A and of B that a block loads in a step.
    pub const fn box_rows(&self) -> (u64, u64) {
        match self.shared {
            Shared::Nothing => (self.m, self.n),
            Shared::A => (self.m / 2, self.n),
            Shared::B => (self.m, self.n / 2),
        }
    }

    /// Rows and columns of a warpgroup.
    const fn of_warpgroup(&self) -> (u64, u64) {
        if self.m == PRODUCT_ROWS {
            (self.m, self.n / WARPGROUPS)
        } else {
            (self.m / WARPGROUPS, self.n)
        }
    }

    /// Sums of a thread.
    const fn sums(&self) -> u64 {
        self.m * self.n / (WARPGROUPS * 128)
    }

    pub const fn stage_bytes(&self) -> u64 {
        (self.m + self.n) * STEP_BYTES
    }

    /// Whether a product fills more than half of the tiles of a cluster.
    fn suits(&self, p: &Gemm) -> bool {
        let (rows, columns) = self.cluster_extents();
        2 * p.m > rows && 2 * p.n > columns
    }

    /// As many as fit an SM.
    pub fn stages(&self, arch: Arch) -> u64 {
        let all = u64::from(arch.limits().shared_bytes_of_block(1));
        let ring = all - STATIC_SHARED_BYTES - STAGING_BYTES;
        (ring / self.stage_bytes()).min(MAX_STAGES)
    }

    /// Dynamic shared memory with so many stages.
    pub fn shared_bytes(&self, stages: u64) -> u64 {
        stages * self.stage_bytes() + STAGING_BYTES
    }

    /// Whether blocks that compute tiles in an order of their own read more from DRAM: each has
    /// several, and A and B do not fit L2. Clusters of an H200 that had their tiles given beforehand
    /// drifted apart until they read twice what they do side by side, and grouped products
    /// three times.
    fn drifts(&self, p: &Gemm, steps: u64, sms: u64) -> bool {
        let (rows, columns) = self.grid(p);
        let clusters = (sms / self.cluster()).max(1);
        rows * columns > clusters && (p.m + p.n) * steps * STEP_BYTES > nominal::L2_CAPACITY
    }

    /// Rows and columns of clusters' tiles that cover C.
    fn grid(&self, p: &Gemm) -> (u64, u64) {
        let (rows, columns) = self.cluster_extents();
        (p.m.div_ceil(rows), p.n.div_ceil(columns))
    }

    /// With the macros of the tile and of so many stages.
    pub fn define(&self, defines: Defines, stages: u64) -> Defines {
        defines
            .with("TILE_M", self.m)
            .with("TILE_N", self.n)
            .with("PRODUCT_COLUMNS", self.of_warpgroup().1)
            .with("CLUSTER", self.cluster())
            .with("SHARES_A", u32::from(self.shared == Shared::A))
            .with("STAGES", stages)
            .with("SHARED_BYTES", self.shared_bytes(stages))
    }

    /// Bytes of the sums of a tile.
    pub const fn sum_bytes(&self) -> u64 {
        4 * self.m * self.n
    }

    /// Rough clocks of a step of an SM: of tensor cores, shared memory and L2, whichever
    /// takes longest.
    pub fn step_clocks(&self) -> f64 {
        self.step_clocks_of(WARPGROUPS)
    }

    /// The same where only so many warpgroups multiply.
    pub fn step_clocks_of(&self, warpgroups: u64) -> f64 {
        let (rows, columns) = self.of_warpgroup();
        let products = warpgroups * (rows / PRODUCT_ROWS) * (STEP_BYTES / PRODUCT_BYTES);
        let tensor = products * columns / nominal::PRODUCT_COLUMNS;
        // Products read both operands from shared memory, where copies write them.
        let read = products * (PRODUCT_ROWS + columns) * PRODUCT_BYTES;
        let shared = (read + self.stage_bytes()) as f64 / nominal::SHARED_BYTES;
        let (a_rows, b_rows) = self.box_rows();
        let l2 = ((a_rows + b_rows) * STEP_BYTES) as f64 / nominal::L2_BYTES;
        (tensor as f64).max(shared).max(l2)
    }

    /// Rough clocks of a tile beside its steps, where C is in 16 bits.
    pub fn store_clocks(&self) -> f64 {
        self.store_clocks_of(2)
    }

    /// The same where its elements have so many bytes, which all pass through shared memory.
    pub fn store_clocks_of(&self, c_bytes: u64) -> f64 {
        nominal::STORE + nominal::STORE_SUM * (self.sums() * c_bytes) as f64 / 2.0
    }

    /// Rough clocks of adding the sums of so many splits: all write theirs, the last reads
    /// all.
    pub fn add_clocks(&self, splits: u64) -> f64 {
        if splits == 1 {
            return 0.0;
        }
        let bytes = self.sum_bytes() as f64;
        let written = bytes / nominal::PARTIAL_BYTES_WRITTEN;
        let read = splits as f64 * bytes / nominal::PARTIAL_BYTES_READ;
        2.0 * nominal::TICKET + written + read
    }
}

/// Clocks of the tensor cores of an SM, when all have as many, for so many elements of C.
pub(super) fn product_clocks(elements: u64, steps: u64, sms: u64) -> f64 {
    let of_step = PRODUCT_ROWS * nominal::PRODUCT_COLUMNS * PRODUCT_BYTES / STEP_BYTES;
    elements as f64 * steps as f64 / (of_step * sms) as f64
}

/// How a problem's tiles are divided among the blocks of a GPU.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Division {
    /// Clusters that run at the same time.
    clusters: u64,
    /// Rows of clusters' tiles in a stripe.
    stripe: u64,
    /// Clusters' tiles that are not split: those of full waves.
    whole: u64,
    /// Splits of each of the others.
    splits: u64,
}

impl Division {
    /// Divides a problem, and how many clocks that takes, roughly.
    fn of(tile: &Tile, p: &Gemm, steps: u64, sms: u64) -> (Division, f64) {
        Division::with_splits(tile, p, steps, sms, None)
    }

    /// Most splits of the tiles that are not whole: those of a tile run at the same time. One
    /// after the other, each would write sums that do not fit L2, and read A and B when those
    /// of its neighbours are gone from it.
    fn most_splits(tile: &Tile, p: &Gemm, steps: u64, sms: u64) -> u64 {
        let (rows, columns) = tile.grid(p);
        let clusters = (sms / tile.cluster()).max(1);
        let at_once = clusters.checked_div(rows * columns % clusters);
        at_once.map_or(1, |most| most.min(steps).min(MAX_SPLITS))
    }

    /// The same with so many splits, as far as they run at the same time; `None` for those
    /// that take the fewest clocks.
    fn with_splits(
        tile: &Tile,
        p: &Gemm,
        steps: u64,
        sms: u64,
        splits: Option<u64>,
    ) -> (Division, f64) {
        let (rows, columns) = tile.grid(p);
        let tiles = rows * columns;
        let clusters = (sms / tile.cluster()).max(1);
        let whole = tiles / clusters * clusters;
        let rest = tiles - whole;

        let has_idle_blocks = tile.shared == Shared::B
            && !p.m.div_ceil(tile.m).is_multiple_of(tile.cluster());
        let past_the_end = if has_idle_blocks { nominal::PAST_THE_END } else { 1.0 };
        let round = |steps: u64| {
            steps as f64 * tile.step_clocks() * past_the_end
                + tile.store_clocks_of(p.dtype.bytes())
        };
        let most = Division::most_splits(tile, p, steps, sms);
        let candidates = match splits {
            Some(splits) => splits.min(most)..=splits.min(most),
            None => 1..=most,
        };
        let of_rest = |splits: u64| {
            if rest == 0 {
                0.0
            } else {
                round(steps.div_ceil(splits)) + tile.add_clocks(splits)
            }
        };
        let (splits, of_rest) = candidates
            .map(|splits| (splits, of_rest(splits)))
            .min_by(|a, b| a.1.total_cmp(&b.1))
            .unwrap_or((1, 0.0));
        let sm = (whole / clusters) as f64 * round(steps) + of_rest;

        let (stripe, wave_bytes) = stripe_of(tile, (rows, columns), clusters, steps);
        let operands = (p.m + p.n) * steps * STEP_BYTES;
        let again = if operands > nominal::L2_CAPACITY {
            let waves = tiles as f64 / clusters as f64;
            (wave_bytes as f64 * waves - operands as f64).max(0.0)
        } else {
            0.0
        };
        let compulsory = Problem::Gemm(*p).work().bytes() as f64;
        let dram = (compulsory + again) / (nominal::DRAM_BYTES * sms as f64);
        let clocks = together(sm, product_clocks(p.m * p.n, steps, sms), dram);
        (Division { clusters, stripe, whole, splits }, clocks)
    }

    /// Whole tiles, and splits of the others.
    fn turns(&self, tiles: u64) -> u64 {
        self.whole + (tiles - self.whole) * self.splits
    }
}

/// Rows of tiles in a stripe such that tiles that are computed at the same time read the
/// fewest bytes, and how many.
pub(super) fn stripe_of(
    tile: &Tile,
    (rows, columns): (u64, u64),
    clusters: u64,
    steps: u64,
) -> (u64, u64) {
    let (cluster_m, cluster_n) = tile.cluster_extents();
    let bytes = |stripe: u64| {
        let across = clusters.div_ceil(stripe).min(columns);
        (stripe * cluster_m + across * cluster_n) * steps * STEP_BYTES
    };
    (1..=rows.min(clusters))
        .map(|stripe| (stripe, bytes(stripe)))
        .min_by_key(|&(_, bytes)| bytes)
        .unwrap_or((1, 0))
}

/// The formats of both operands, and what scales sums.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Operands {
    /// As C, without scales.
    Plain(DType),
    /// Scales of rows, or of whole matrices.
    Rows(DType, [ScaleGroup; 2]),
    /// E4M3 with scales of 128 columns of a row of A and of 128 x 128 of B.
    Blocks,
}

impl Operands {
    pub fn of(p: &Gemm) -> Option<Self> {
        if p.has_plain_activations() && p.w_dtype == Quant::plain(p.dtype) {
            return Some(Operands::Plain(p.dtype));
        }
        let dtype = p.a_dtype.dtype();
        let is_8_bits = matches!(dtype, DType::Fp8E4m3 | DType::Int8);
        if !is_8_bits || dtype != p.w_dtype.dtype() {
            return None;
        }
        match (group(p.a_dtype)?, group(p.w_dtype)?) {
            (
                a @ (ScaleGroup::Tensor | ScaleGroup::Token),
                b @ (ScaleGroup::Tensor | ScaleGroup::Channel),
            ) => Some(Operands::Rows(dtype, [a, b])),
            (
                ScaleGroup::Block { rows: 1, columns: 128 },
                ScaleGroup::Block { rows: 128, columns: 128 },
            ) if dtype == DType::Fp8E4m3 => Some(Operands::Blocks),
            _ => None,
        }
    }

    pub fn dtype(self) -> DType {
        match self {
            Operands::Plain(dtype) | Operands::Rows(dtype, _) => dtype,
            Operands::Blocks => DType::Fp8E4m3,
        }
    }

    /// Whether each step's sums are added outside of the tensor cores, which add E4M3
    /// products with fewer bits than f32 has.
    pub fn has_two_levels(self) -> bool {
        self.dtype() == DType::Fp8E4m3
    }

    fn tiles(self) -> &'static [Tile] {
        if self.has_two_levels() { &TWO_LEVEL_TILES } else { &TILES }
    }

    /// The kernel's name of the format.
    fn name(self) -> &'static str {
        match self.dtype() {
            DType::F16 => "F16",
            DType::Tf32 => "Tf32",
            DType::Fp8E4m3 => "E4m3",
            DType::Int8 => "Int8",
            _ => "Bf16",
        }
    }

    /// With the macros of the formats.
    pub fn define(self, defines: Defines) -> Defines {
        let defines = defines
            .with("MULTIPLIED", self.name())
            .with("OPERAND_BYTES", self.dtype().bytes())
            .with("TWO_LEVELS", u32::from(self.has_two_levels()));
        match self {
            Operands::Plain(_) => defines,
            Operands::Rows(..) => defines.with("SCALES_ROWS", 1),
            Operands::Blocks => defines.with("SCALES_BLOCKS", 1),
        }
    }

    /// Steps of a sum over so many columns.
    pub fn steps(self, k: u64) -> u64 {
        self.dtype().bytes_of(k).div_ceil(STEP_BYTES)
    }
}

/// What shares a scale in f32.
fn group(quant: Quant) -> Option<ScaleGroup> {
    let scales = quant.scales().filter(|scales| scales.format == ScaleFormat::F32)?;
    (!quant.has_zero_points()).then_some(scales.group)
}

/// The tile with the fewest clocks on a typical GPU of the architecture.
fn best_tile(p: &Gemm, operands: Operands, arch: Arch) -> Tile {
    let (steps, sms) = (operands.steps(p.k), u64::from(arch.usual_sms()));
    let clocks = |tile: &Tile| Division::of(tile, p, steps, sms).1;
    let tiles = operands.tiles();
    let best = tiles.iter().min_by(|a, b| clocks(a).total_cmp(&clocks(b)));
    *best.unwrap_or(&tiles[0])
}

/// The tile of a configuration, if it names one: refused where operands do not have it, and
/// where most of its cluster would be empty.
fn named_tile(
    p: &Gemm,
    operands: Operands,
    choice: &Configuration,
) -> Result<Option<Tile>, Refusal> {
    let [m, n] = ["tile_m", "tile_n"].map(|name| u64::from(choice.or(name, 0)));
    if m == 0 {
        return Ok(None);
    }
    let shared = match (choice.or("shares_a", 0), choice.or("shares_b", 0)) {
        (0, 0) => Shared::Nothing,
        (_, 0) => Shared::A,
        _ => Shared::B,
    };
    let tile = tile(m, n, shared);
    refuse_unless(operands.tiles().contains(&tile), || {
        let of = |tile: &Tile| format!("{} x {}", tile.m, tile.n);
        let known: Vec<String> = operands.tiles().iter().map(of).collect();
        format!(
            "operands in {} with tiles of {}, not {} where a cluster shares {}; use another \
             configuration",
            operands.dtype(),
            known.join(", "),
            of(&tile),
            match shared {
                Shared::Nothing => "nothing",
                Shared::A => "rows of A",
                Shared::B => "rows of B",
            }
        )
    })?;
    let (rows, columns) = tile.cluster_extents();
    refuse_unless(tile.suits(p), || {
        format!(
            "more than {} rows and {} columns in clusters with tiles of {m} x {n}, not {} and \
             {}; use a smaller tile",
            rows / 2,
            columns / 2,
            p.m,
            p.n
        )
    })?;
    Ok(Some(tile))
}

/// A product in tiles of warpgroups.
pub(super) struct WgmmaGemm {
    p: Gemm,
    /// The macro that chooses the format of C.
    element: &'static str,
    operands: Operands,
    tile: Tile,
    /// Steps in shared memory.
    stages: u64,
    /// Splits of the tiles that do not fill a card; `None` for those that take the fewest
    /// clocks.
    splits: Option<u64>,
    /// Whether clusters take tiles by a ticket.
    dynamic: bool,
}

impl HostHalf for WgmmaGemm {
    type Operation = Gemm;
    const NAME: &'static str = "gemm_wgmma";
    const SOURCE: &'static str = include_str!("../../kernels/gemm_wgmma.cu");
    const MEMORY_BOUND: bool = false;
    /// Every tile, of which a problem's operands have four or six, and few splits: rough clocks
    /// choose them otherwise. With fewer stages less is in flight, and less in L2. Which cluster
    /// computes a tile is known before the launch, or when it begins.
    const CONFIGURATIONS: &[Configuration] = &[
        Configuration::new(
            "tile_128x256_shared_b",
            &[("tile_m", 128), ("tile_n", 256), ("shares_b", 1)],
        ),
        Configuration::new("tile_128x256", &[("tile_m", 128), ("tile_n", 256)]),
        Configuration::new("tile_128x192", &[("tile_m", 128), ("tile_n", 192)]),
        Configuration::new(
            "tile_128x128_shared_b",
            &[("tile_m", 128), ("tile_n", 128), ("shares_b", 1)],
        ),
        Configuration::new("tile_128x128", &[("tile_m", 128), ("tile_n", 128)]),
        Configuration::new("tile_64x256", &[("tile_m", 64), ("tile_n", 256)]),
        Configuration::new(
            "tile_256x128_shared_a",
            &[("tile_m", 256), ("tile_n", 128), ("shares_a", 1)],
        ),
        Configuration::new("splits_1", &[("splits", 1)]),
        Configuration::new("splits_2", &[("splits", 2)]),
        Configuration::new("stages_3", &[("stages", 3)]),
        Configuration::new("static", &[("dynamic", 0)]),
        Configuration::new("dynamic", &[("dynamic", 1)]),
        Configuration::PROGRAMMATIC,
        Configuration::WEIGHTS_AHEAD,
    ];

    fn configure(p: &Gemm, arch: Arch, choice: &Configuration) -> Result<Self, Refusal> {
        refuse_unless(arch == Arch::SM_90, || {
            format!("sm_90a, which has wgmma, not {arch}; use `gemm`")
        })?;
        let element = element_or_tf32(p.dtype).ok_or_else(|| {
            supports(format!(
                "dtype = bf16, f16 or tf32, not {}; use one of those",
                p.dtype
            ))
        })?;
        let operands = Operands::of(p).ok_or_else(|| {
            supports(format!(
                "both operands in {0}, or in 8 bits with scales: a_dtype = int8_token or \
                 int8_tensor with w_dtype = int8 or int8_tensor, the same of fp8_e4m3, or \
                 fp8_e4m3_block1x128 with fp8_e4m3_block128x128; not a_dtype = {1} with \
                 w_dtype = {2}; use dtype = {0} for both",
                p.dtype, p.a_dtype, p.w_dtype
            ))
        })?;
        let reads_scales_first = matches!(operands, Operands::Blocks);
        refuse_unless(!(choice.fetches_ahead() && reads_scales_first), || {
            "weights fetched ahead where activations have no scales of blocks, which all threads \
             read first; use `programmatic`"
                .to_owned()
        })?;
        refuse_unless(p.m >= LEAST_ROWS, || {
            let of_few = if p.dtype == DType::Tf32 { "gemm" } else { "gemm_skinny" };
            format!("{LEAST_ROWS} and more rows, not {}; use `{of_few}`", p.m)
        })?;
        // Rows of tensor maps are multiples of 16 bytes.
        for (name, extent, dtype) in [("k", p.k, operands.dtype()), ("n", p.n, p.dtype)] {
            let of = 16 / dtype.bytes();
            refuse_unless(extent.is_multiple_of(of), || {
                format!(
                    "{name} in multiples of {of}, not {extent}; use {} or `gemm`",
                    extent.next_multiple_of(of)
                )
            })?;
        }
        let most = p.m.max(p.n).max(p.k);
        refuse_unless(most <= MAX_EXTENT, || {
            format!("m, n and k up to {MAX_EXTENT}, not {most}; use less")
        })?;
        // Tiles are counted in 32 bits, the smallest with the most splits.
        let tiles = p.m.div_ceil(PRODUCT_ROWS) * p.n.div_ceil(128) * MAX_SPLITS;
        refuse_unless(tiles < 1 << 31, || {
            format!("at most {} tiles, not {tiles}; use smaller m or n", 1u64 << 31)
        })?;
        let named = named_tile(p, operands, choice)?;
        let tile = named.unwrap_or_else(|| best_tile(p, operands, arch));
        let splits = Some(u64::from(choice.or("splits", 0))).filter(|splits| *splits > 0);
        let (steps, sms) = (operands.steps(p.k), u64::from(arch.usual_sms()));
        let most = Division::most_splits(&tile, p, steps, sms);
        refuse_unless(splits.is_none_or(|splits| splits <= most), || {
            format!(
                "up to {most} splits of what does not fill a card with tiles of {} x {}, not \
                 {}; use as many or the default configuration",
                tile.m,
                tile.n,
                splits.unwrap_or(0)
            )
        })?;
        let stages = u64::from(choice.or("stages", tile.stages(arch) as u32));
        let dynamic = choice.or("dynamic", u32::from(tile.drifts(p, steps, sms))) == 1;
        Ok(WgmmaGemm { p: *p, element, operands, tile, stages, splits, dynamic })
    }

    fn defines(&self) -> Defines {
        let WgmmaGemm { operands, tile, stages, dynamic, .. } = *self;
        let defines = operands.define(Defines::new().with(self.element, 1));
        tile.define(defines, stages).with("DYNAMIC", u32::from(dynamic))
    }

    fn plan(&self, target: &Target) -> Plan {
        let WgmmaGemm { p, operands, tile, stages, splits, dynamic, .. } = *self;
        let steps = operands.steps(p.k);
        let (division, _) =
            Division::with_splits(&tile, &p, steps, target.sms.into(), splits);
        let (rows, columns) = tile.grid(&p);
        let rest = rows * columns - division.whole;
        let turns = division.turns(rows * columns);
        let blocks = division.clusters.min(turns) * tile.cluster();
        let split_tiles = if division.splits == 1 { 0 } else { rest * tile.cluster() };
        let strides = match operands {
            Operands::Rows(_, groups) => {
                groups.map(|group| u32::from(group != ScaleGroup::Tensor))
            }
            Operands::Plain(_) | Operands::Blocks => [0, 0],
        };
        let params = Params::of(move |bound| WgmmaParams {
            a: bound.tensor_map(A).0,
            b: bound.tensor_map(B).0,
            c: bound.tensor_map(C).0,
            partials: bound.scratch("partials"),
            tickets: bound.scratch("tickets"),
            taken: bound.scratch("taken"),
            a_scales: bound.tensor_or_null("a_scales"),
            b_scales: bound.tensor_or_null("b_scales"),
            m: p.m as u32,
            n: p.n as u32,
            a_stride: strides[0],
            b_stride: strides[1],
            steps: steps as u32,
            rows: rows as u32,
            columns: columns as u32,
            stripe: division.stripe as u32,
            whole: division.whole as u32,
            splits: division.splits as u32,
            turns: turns as u32,
            padding: [0; 11],
        });
        let launch = Launch {
            cluster: [tile.cluster() as u32, 1, 1],
            shared_bytes: tile.shared_bytes(stages) as u32,
            takes_turns: dynamic,
            bytes_in_flight: (stages - 1) * tile.stage_bytes(),
            ..Launch::new("gemm_wgmma", blocks as u32, THREADS, params)
        };
        let partial_bytes = split_tiles * division.splits * tile.sum_bytes();
        Plan {
            scratch: vec![
                Scratch::unset("partials", partial_bytes.max(16)),
                Scratch::zeros("tickets", 4 * split_tiles.max(1)),
                Scratch::zeros("taken", 4),
            ],
            tensor_maps: tensor_maps(&p, operands, &tile),
            // Tiles read A and B again, and splits combine their partial sums, all through
            // L2 where they fit.
            extra_bytes: None,
            ..Plan::of(launch)
        }
    }
}

fn tensor_maps(p: &Gemm, operands: Operands, tile: &Tile) -> Vec<TensorMap> {
    let (a_rows, b_rows) = tile.box_rows();
    vec![
        panels(A, [p.k, p.m], operands.dtype(), a_rows as u32),
        panels(B, [p.k, p.n], operands.dtype(), b_rows as u32),
        panels(C, [p.n, p.m], p.dtype, WARP_ROWS),
    ]
}

/// The map of a matrix in panels of so many rows.
pub(super) fn panels(
    name: &'static str,
    [columns, rows]: [u64; 2],
    dtype: DType,
    panel_rows: u32,
) -> TensorMap {
    TensorMap {
        name,
        tensor: name,
        element_bytes: dtype.bytes() as u32,
        extents: vec![columns, rows],
        strides_bytes: vec![columns * dtype.bytes()],
        tile: vec![(PANEL_BYTES / dtype.bytes()) as u32, panel_rows],
        swizzle_bytes: 128,
    }
}

/// Rough clocks of a problem on a typical GPU of the architecture; `None` if the kernel does
/// not run it.
pub(super) fn clocks(p: &Gemm, arch: Arch) -> Option<f64> {
    let WgmmaGemm { p, operands, tile, .. } =
        WgmmaGemm::configure(p, arch, Configuration::DEFAULT).ok()?;
    Some(Division::of(&tile, &p, operands.steps(p.k), arch.usual_sms().into()).1)
}

/// Rough clocks of a product in bf16 on an H100.
#[cfg(test)]
pub(super) fn predicted_clocks(text: &str) -> f64 {
    clocks(&super::contract::testing::operation(text), Arch::SM_90).unwrap()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernel::contract::testing::{
        configured, configured_as, operation, options, options_as, plan, refusal,
        refusal_as,
    };
    use crate::kernel::{Bound, EncodedTensorMap, drift};

    const BLOCKS: &str = "a_dtype=fp8_e4m3_block1x128,w_dtype=fp8_e4m3_block128x128";

    fn problem(m: u64, n: u64, k: u64) -> String {
        format!("gemm:m={m},n={n},k={k},dtype=bf16")
    }

    fn h100() -> Target {
        Target::new(Arch::SM_90, 132)
    }

    fn tile_of(text: &str) -> Tile {
        configured::<WgmmaGemm>(text, Arch::SM_90).unwrap().tile
    }

    fn in_tf32([m, n, k]: [u64; 3]) -> String {
        format!("gemm:m={m},n={n},k={k},dtype=tf32")
    }

    fn clocks(tile: &Tile, [m, n, k]: [u64; 3]) -> f64 {
        let p = operation(&problem(m, n, k));
        Division::of(tile, &p, Operands::Plain(DType::Bf16).steps(k), 132).1
    }

    fn all_tiles() -> impl Iterator<Item = &'static Tile> {
        TILES.iter().chain(&TWO_LEVEL_TILES)
    }

    #[test]
    fn every_tile_fits_an_sm() {
        for tile in all_tiles() {
            let most = Arch::SM_90.limits().shared_bytes_of_block(1);
            let bytes = tile.shared_bytes(tile.stages(Arch::SM_90)) + STATIC_SHARED_BYTES;
            assert!(bytes <= most.into(), "{tile:?} {bytes}");
            assert!(tile.stages(Arch::SM_90) >= 4, "{tile:?}");
            // Of 232 registers, with those of a step's sums.
            assert!(tile.sums() <= 128);
        }
        for tile in TWO_LEVEL_TILES {
            assert!(tile.sums() + tile.of_warpgroup().1 / 2 <= 192, "{tile:?}");
        }
    }

    /// By hand: 8 products of 256 columns take 128 clocks each. They read 10 KiB each, and
    /// 48 KiB are written.
    #[test]
    fn clocks_of_a_step() {
        let large = tile(128, 256, Shared::B);
        assert_eq!(large.step_clocks(), 1024.0);
        // L2 binds where nothing is shared: 48 KiB.
        assert_eq!(tile(128, 256, Shared::Nothing).step_clocks(), 49152.0 / 47.0);
        // One warpgroup's products alone take half as long; shared memory binds, of which four
        // products read 10 KiB each.
        assert_eq!(large.step_clocks_of(1), (40960 + 49152) as f64 / 128.0);
        // Per FLOP the large tile is the fastest of all.
        for tile in all_tiles() {
            let per_flop = |tile: &Tile| tile.step_clocks() / (tile.m * tile.n) as f64;
            assert!(per_flop(tile) >= per_flop(&large), "{tile:?}");
        }
    }

    #[test]
    fn larger_problems_take_longer() {
        let sizes = [64, 100, 128, 300, 1024, 3000, 8192, 20000];
        for tile in all_tiles() {
            for n in [8, 128, 2112, 8192] {
                for k in [8, 512, 7168] {
                    for pair in sizes.windows(2) {
                        let at =
                            |m| [[m, n, k], [n, m, k], [n, k, m]].map(|p| clocks(tile, p));
                        let (small, large) = (at(pair[0]), at(pair[1]));
                        // Fewer rows may leave one block of a cluster without any.
                        let slack = if tile.shared == Shared::B {
                            nominal::PAST_THE_END
                        } else {
                            1.0
                        };
                        for (small, large) in small.into_iter().zip(large) {
                            assert!(small <= large * slack, "{tile:?} {n} {k} {pair:?}");
                        }
                    }
                }
            }
        }
    }

    #[test]
    fn known_shapes_get_sane_tiles() {
        for (m, n, k) in [(4096, 4096, 4096), (8192, 8192, 8192), (16384, 28672, 8192)] {
            assert_eq!(
                tile_of(&problem(m, n, k)),
                tile(128, 256, Shared::B),
                "{m} {n} {k}"
            );
        }
        // Few tiles: smaller ones, split so that most SMs have work.
        for (m, n, k) in [(128, 4096, 4096), (256, 1024, 4096), (64, 8192, 8192)] {
            let text = problem(m, n, k);
            assert!(tile_of(&text).m * tile_of(&text).n <= 128 * 192, "{text}");
            let blocks = plan::<WgmmaGemm>(&text, &h100()).launches[0].grid[0];
            assert!((66..=132).contains(&blocks), "{text}: {blocks}");
        }
        let eight_bits = format!("{},{BLOCKS}", problem(8192, 8192, 8192));
        assert_eq!(tile_of(&eight_bits), tile(256, 128, Shared::A));
    }

    /// Of large problems power decides how long they take.
    #[test]
    fn predicted_share_of_the_tensor_cores() {
        let share = |m: u64, n: u64, k: u64| {
            let text = problem(m, n, k);
            let ideal = (m * n * k) as f64 / 132.0 / 2048.0;
            ideal / clocks(&tile_of(&text), [m, n, k])
        };
        for (m, n, k) in [
            (4096, 4096, 4096),
            (8192, 8192, 8192),
            (2048, 14336, 4096),
            (2048, 4096, 14336),
            (1024, 28672, 8192),
            (4096, 7168, 2048),
        ] {
            let share = share(m, n, k);
            assert!((0.7..0.75).contains(&share), "{m} {n} {k}: {share}");
        }
    }

    /// A step has 32 columns of tf32 and as many clocks as one of 64 columns of bf16, and C has
    /// twice the bytes.
    #[test]
    fn tf32_takes_twice_the_steps_and_stores() {
        let operands = Operands::Plain(DType::Tf32);
        assert_eq!([32, 33, 4096].map(|k| operands.steps(k)), [1, 2, 128]);
        let large = tile(128, 256, Shared::B);
        // 128 sums of a thread.
        assert_eq!((large.store_clocks(), large.store_clocks_of(4)), (1580.0, 2860.0));
        for shape @ [m, n, k] in
            [[4096, 4096, 4096], [8192, 8192, 8192], [2048, 14336, 4096]]
        {
            let p: Gemm = operation(&in_tf32(shape));
            assert_eq!(tile_of(&in_tf32(shape)), large, "{p:?}");
            let (_, found) = Division::of(&large, &p, operands.steps(k), 132);
            let share = (m * n * k) as f64 / 132.0 / 1024.0 / found;
            assert!((0.7..0.77).contains(&share), "{shape:?}: {share}");
            let half = clocks(&large, shape);
            assert!((1.9..2.1).contains(&(found / half)), "{shape:?}: {found} {half}");
        }
    }

    /// Microseconds on an H200, which ran at 1.75 GHz where power did not limit it, of products
    /// that DRAM does not bind.
    #[test]
    fn predictions_are_near_what_was_measured() {
        for (shape, measured, splits) in [
            ([8192, 8192, 8192], 1563.7, 1),
            ([4096, 4096, 4096], 202.4, 1),
            ([1024, 10240, 8192], 251.9, 2),
            ([1024, 4096, 14336], 172.6, 1),
            ([1024, 2112, 7168], 63.6, 1),
            ([512, 8192, 8192], 104.4, 1),
            ([512, 4096, 4096], 29.5, 1),
            ([512, 4096, 14336], 97.8, 2),
            // 63.5 us with two splits of tiles of 128 x 256.
            ([256, 8192, 8192], 57.5, 1),
            ([256, 4096, 4096], 20.0, 2),
            ([128, 4096, 4096], 17.6, 4),
        ] {
            let [m, n, k] = shape;
            let tile = tile_of(&problem(m, n, k));
            let ratio = clocks(&tile, shape) / 1750.0 / measured;
            assert!((0.88..1.12).contains(&ratio), "{shape:?}: {ratio}");
            let p = operation(&problem(m, n, k));
            let (division, _) = Division::of(&tile, &p, k.div_ceil(64), 132);
            assert_eq!(division.splits, splits, "{shape:?}");
        }
    }

    /// Splits in several rounds once took 1.4 to 1.8 times as long as whole tiles.
    #[test]
    fn splits_run_at_the_same_time() {
        for (m, n, k, measured) in [
            (512, 7168, 18432, 345.9),
            (512, 7168, 16384, 325.2),
            (512, 5120, 25600, 331.4),
            (256, 7168, 18432, 168.9),
            (256, 7168, 16384, 157.5),
            (128, 28672, 4096, f64::INFINITY),
        ] {
            let tile = tile_of(&problem(m, n, k));
            let p = operation(&problem(m, n, k));
            let (division, clocks) = Division::of(&tile, &p, k.div_ceil(64), 132);
            let (rows, columns) = tile.grid(&p);
            let rest = rows * columns - division.whole;
            assert!(division.splits == 1 || division.splits * rest <= division.clusters);
            let whole_tiles = (rows * columns).div_ceil(division.clusters) as f64
                * (k.div_ceil(64) as f64 * tile.step_clocks() + tile.store_clocks());
            let products = product_clocks(m * n, k.div_ceil(64), 132);
            let bytes = Problem::Gemm(p).work().bytes() as f64;
            let bound =
                together(whole_tiles, products, bytes / nominal::DRAM_BYTES / 132.0);
            assert!(clocks <= 1.15 * bound, "{m} {n} {k}: {clocks} {bound}");
            assert!(clocks / 1750.0 < 0.75 * measured, "{m} {n} {k}: {clocks}");
        }
    }

    #[test]
    fn a_rest_is_split_and_full_waves_are_not() {
        let tile = tile(128, 128, Shared::Nothing);
        let division = |m, n, k| {
            let p = operation(&problem(m, n, k));
            Division::of(&tile, &p, Operands::Plain(DType::Bf16).steps(k), 132).0
        };
        // 64 x 33 tiles are 16 waves.
        let waves = division(8192, 4224, 4096);
        assert_eq!((waves.whole, waves.splits), (64 * 33, 1));
        // 144 tiles: one wave, and 12 for 132 SMs.
        let rest = division(1536, 1536, 8192);
        assert_eq!(rest.whole, 132);
        assert!((6..=11).contains(&rest.splits), "{rest:?}");
        // No more splits than steps.
        assert_eq!(division(128, 128, 64).splits, 1);
        for k in [8, 64, 72, 200, 4096] {
            let division = division(128, 128, k);
            assert!(division.splits <= k.div_ceil(64), "{division:?}");
        }
    }

    /// 132 tiles of 128 x 256: twice as many rows of tiles as columns are a square.
    #[test]
    fn stripes_make_waves_square() {
        let alone = tile(128, 256, Shared::Nothing);
        let (stripe, _) = stripe_of(&alone, (64, 32), 132, 10);
        assert!((14..=19).contains(&stripe), "{stripe}");
        // Few rows of tiles are one stripe.
        assert_eq!(stripe_of(&alone, (4, 100), 132, 10).0, 4);
    }

    /// Shapes for every tile that the picker can choose: in bf16, in E4M3, which is added in
    /// two levels, and in tf32, whose C has other panels.
    fn shapes_of_tiles() -> [(Tile, DType, [u64; 3]); 16] {
        use DType::{Bf16, Fp8E4m3, Tf32};
        [
            (tile(128, 256, Shared::B), Bf16, [190, 16392, 72]),
            (tile(128, 256, Shared::Nothing), Bf16, [65, 32776, 72]),
            (tile(128, 192, Shared::Nothing), Bf16, [65, 24584, 72]),
            (tile(128, 128, Shared::B), Bf16, [130, 136, 200]),
            (tile(128, 128, Shared::Nothing), Bf16, [65, 12296, 72]),
            (tile(64, 256, Shared::Nothing), Bf16, [257, 6152, 72]),
            (tile(256, 128, Shared::A), Fp8E4m3, [190, 16392, 144]),
            (tile(128, 128, Shared::B), Fp8E4m3, [130, 136, 1200]),
            (tile(128, 128, Shared::Nothing), Fp8E4m3, [65, 12296, 144]),
            (tile(64, 256, Shared::Nothing), Fp8E4m3, [257, 6152, 144]),
            (tile(128, 256, Shared::B), Tf32, [190, 16388, 36]),
            (tile(128, 256, Shared::Nothing), Tf32, [65, 32772, 36]),
            (tile(128, 192, Shared::Nothing), Tf32, [65, 24580, 36]),
            (tile(128, 128, Shared::B), Tf32, [130, 132, 100]),
            (tile(128, 128, Shared::Nothing), Tf32, [65, 12292, 36]),
            (tile(64, 256, Shared::Nothing), Tf32, [257, 6148, 36]),
        ]
    }

    #[test]
    fn every_tile_is_chosen_for_some_shape() {
        for (tile, operands, shape @ [m, n, k]) in shapes_of_tiles() {
            let (text, tiles) = match operands {
                DType::Bf16 => (problem(m, n, k), TILES.as_slice()),
                DType::Tf32 => (in_tf32(shape), TILES.as_slice()),
                _ => (format!("{},{BLOCKS}", problem(m, n, k)), TWO_LEVEL_TILES.as_slice()),
            };
            assert_eq!(tile_of(&text), tile, "{text}");
            assert!(tiles.contains(&tile));
        }
        let has = |operands, tile| {
            shapes_of_tiles().iter().any(|found| (found.0, found.1) == (tile, operands))
        };
        assert!(
            TILES.into_iter().all(|tile| has(DType::Bf16, tile) && has(DType::Tf32, tile))
        );
        assert!(TWO_LEVEL_TILES.into_iter().all(|tile| has(DType::Fp8E4m3, tile)));
    }

    /// The suite that is executed on the virtual machine has these shapes.
    #[test]
    fn corners_have_every_tile() {
        let corners: toml::Table =
            include_str!("../../benches/corners.toml").parse().unwrap();
        let points = corners["points"].as_array().unwrap();
        let has = |value: &toml::Value, wanted: toml::Value| match value {
            toml::Value::Array(values) => values.contains(&wanted),
            value => *value == wanted,
        };
        for (tile, operands, shape) in shapes_of_tiles() {
            let (dtype, scheme) = match operands {
                DType::Fp8E4m3 => ("bf16", Some("fp8_e4m3_block1x128")),
                DType::Tf32 => ("tf32", None),
                _ => ("bf16", None),
            };
            let found = points.iter().any(|point| {
                let text = |key: &str| point.get(key).and_then(toml::Value::as_str);
                let is_own = text("kernel") == Some(WgmmaGemm::NAME);
                let extents = ["m", "n", "k"].into_iter().zip(shape);
                is_own
                    && text("a_dtype") == scheme
                    && has(&point["dtype"], dtype.into())
                    && extents.clone().all(|(key, of)| has(&point[key], (of as i64).into()))
            });
            assert!(found, "{tile:?} {dtype} {shape:?}");
        }
    }

    /// An H200 read 7.8 GB for the larger of these and 1.3 for the smaller, which has fewer waves
    /// of tiles to drift apart in (`results/2026-11-28-nvidia-h200-focus`, `-headline`). Clusters
    /// whose times differ by up to 0.5% read about as much here, and less with tickets.
    #[test]
    fn tickets_save_bytes_of_large_products() {
        for (n, [given, taken]) in
            [(28672, [6.0..9.0, 3.8..5.0]), (8192, [1.2..1.8, 1.1..1.5])]
        {
            let p: Gemm = operation(&problem(8192, n, 8192));
            let tile = tile_of(&problem(8192, n, 8192));
            let steps = Operands::of(&p).unwrap().steps(p.k);
            let (rows, columns) = tile.grid(&p);
            let (division, _) = Division::of(&tile, &p, steps, 132);
            let (of_a, of_b) = tile.cluster_extents();
            let mut tiles: Vec<drift::Operands> = Vec::new();
            for first in (0..rows).step_by(division.stripe as usize) {
                for column in 0..columns {
                    let rows = first..rows.min(first + division.stripe);
                    tiles.extend(rows.map(|row| {
                        [(row, of_a * STEP_BYTES), (column, of_b * STEP_BYTES)]
                    }));
                }
            }
            let gigabytes = |dynamic| {
                let clusters = division.clusters as usize;
                drift::dram_bytes(&tiles, steps, clusters, 0.005, dynamic) as f64 * 1e-9
            };
            let found = [gigabytes(false), gigabytes(true)];
            assert!(
                given.contains(&found[0]) && taken.contains(&found[1]),
                "{n}: {found:?}"
            );
        }
    }

    /// Where clusters have several tiles of operands that do not fit L2, they take tickets.
    #[test]
    fn large_products_are_dynamic() {
        for (m, n, k, dynamic) in [
            (8192, 28672, 8192, true),
            (8192, 4096, 8192, true),
            (2048, 28672, 8192, true),
            // A tile each, and operands that fit.
            (256, 8192, 8192, false),
            (8192, 8192, 512, false),
        ] {
            let text = problem(m, n, k);
            let is = |dynamic| format!("-DDYNAMIC={}", u32::from(dynamic));
            let default = options::<WgmmaGemm>(&text, Arch::SM_90);
            assert!(default.contains(&is(dynamic)), "{text}: {default}");
            for (name, dynamic) in [("static", false), ("dynamic", true)] {
                let forced = options_as::<WgmmaGemm>(&text, Arch::SM_90, name);
                assert!(forced.contains(&is(dynamic)), "{name}: {forced}");
            }
        }
    }

    #[test]
    fn params_maps_and_scratch() {
        // Two clusters of two tiles above one another, 48 steps in five splits or so.
        let text = problem(130, 136, 3072);
        let plan = plan::<WgmmaGemm>(&text, &h100());
        let launch = &plan.launches[0];
        assert_eq!(tile_of(&text), tile(128, 128, Shared::B));
        assert_eq!((launch.cluster, launch.block), ([2, 1, 1], [384, 1, 1]));
        let shapes = |map: &TensorMap| (map.name, map.extents.clone(), map.tile.clone());
        assert_eq!(
            plan.tensor_maps.iter().map(shapes).collect::<Vec<_>>(),
            [
                ("a", vec![3072, 130], vec![64, 128]),
                ("b", vec![3072, 136], vec![64, 64]),
                ("c", vec![136, 130], vec![64, 16]),
            ]
        );
        let bound = Bound::new(1, 0, [("a", 256), ("b", 512), ("c", 768)]).with_scratch([
            ("partials", 1024),
            ("tickets", 2048),
            ("taken", 4096),
        ]);
        let bound =
            [(1, A), (2, B), (3, C)].into_iter().fold(bound, |bound, (byte, name)| {
                bound.with_tensor_map(name, EncodedTensorMap([byte; 128]))
            });
        let bytes = launch.params.bytes(&bound);
        assert_eq!(bytes.len(), 512, "the kernel aligns tensor maps");
        assert_eq!((bytes[0], bytes[128], bytes[256]), (1, 2, 3));
        let words: Vec<u32> = bytemuck::pod_collect_to_vec(&bytes[384..468]);
        let splits = words[19];
        assert_eq!(words[..10], [1024, 0, 2048, 0, 4096, 0, 0, 0, 0, 0]);
        // Rows, columns, strides, steps; a row of two columns of clusters' tiles.
        assert_eq!(words[10..19], [130, 136, 0, 0, 48, 1, 2, 1, 0]);
        assert!(splits > 1, "{words:?}");
        assert_eq!(words[20], 2 * splits);
        assert_eq!(launch.grid[0], 2 * 2 * splits);
        let sizes: Vec<u64> = plan.scratch.iter().map(Scratch::bytes).collect();
        assert_eq!(sizes, [4 * u64::from(splits) * 4 * 128 * 128, 16, 4]);
    }

    #[test]
    fn scales_decide_how_sums_are_made() {
        let options = |schemes: &str| {
            options::<WgmmaGemm>(
                &format!("{},{schemes}", problem(64, 128, 256)),
                Arch::SM_90,
            )
        };
        for (schemes, has) in [
            ("a_dtype=int8_token,w_dtype=int8", "MULTIPLIED=Int8"),
            ("a_dtype=int8_tensor,w_dtype=int8_tensor", "TWO_LEVELS=0"),
            ("a_dtype=fp8_e4m3_token,w_dtype=fp8_e4m3", "TWO_LEVELS=1"),
            ("a_dtype=fp8_e4m3_tensor,w_dtype=fp8_e4m3_tensor", "SCALES_ROWS=1"),
            (BLOCKS, "SCALES_BLOCKS=1"),
        ] {
            assert!(options(schemes).contains(has), "{}", options(schemes));
        }
    }

    #[test]
    fn configurations_force_what_is_estimated() {
        let of = |text: &str, name, macros: &str| {
            let half = configured_as::<WgmmaGemm>(text, Arch::SM_90, name).unwrap();
            let found = half.defines().options().join(" ");
            assert!(found.contains(macros), "{name}: {found}");
            let launch = half.plan(&h100()).launches.remove(0);
            (launch.cluster[0], launch.grid[0], launch.shared_bytes)
        };
        let text = problem(256, 4096, 4096);
        // 32 tiles in clusters of two; 64 alone, of which two splits fit a card.
        let shared =
            "-DTILE_M=128 -DTILE_N=256 -DPRODUCT_COLUMNS=256 -DCLUSTER=2 -DSHARES_A=0";
        assert_eq!(of(&text, "tile_128x256_shared_b", shared).0, 2);
        assert_eq!(of(&text, "tile_64x256", "-DTILE_M=64 -DTILE_N=256").0, 1);
        let (_, one, bytes) = of(&text, "splits_1", "-DTILE_M=");
        let (_, two, _) = of(&text, "splits_2", "-DTILE_M=");
        assert_eq!(two, 2 * one);
        let (_, _, less) = of(&text, "stages_3", "-DSTAGES=3");
        assert!(less < bytes, "{less} {bytes}");
        let scaled = format!("{},{BLOCKS}", problem(512, 4096, 4096));
        let shares_a =
            "-DTILE_M=256 -DTILE_N=128 -DPRODUCT_COLUMNS=128 -DCLUSTER=2 -DSHARES_A=1";
        assert_eq!(of(&scaled, "tile_256x128_shared_a", shares_a).0, 2);
    }

    #[test]
    fn configurations_that_make_no_sense_are_refused() {
        let scaled = format!("{},{BLOCKS}", problem(512, 4096, 4096));
        for (text, name, says) in [
            (
                problem(512, 4096, 4096),
                "tile_256x128_shared_a",
                "not 256 x 128 where a cluster",
            ),
            (scaled, "tile_128x192", "with tiles of 256 x 128, 128 x 128"),
            (
                problem(128, 4096, 4096),
                "tile_128x256_shared_b",
                "more than 128 rows and 128",
            ),
            (
                problem(128, 128, 64),
                "splits_2",
                "up to 1 splits of what does not fill a card",
            ),
        ] {
            let why = refusal_as::<WgmmaGemm>(&text, Arch::SM_90, name);
            assert!(why.contains(says), "{why}");
        }
    }

    #[test]
    fn refusals_say_what_to_use() {
        let why = |text: &str| refusal::<WgmmaGemm>(text, Arch::SM_90);
        for (rest, says) in [
            ("m=64,n=8,k=8,dtype=f32", "bf16, f16 or tf32"),
            ("m=63,n=8,k=8,dtype=bf16", "not 63; use `gemm_skinny`"),
            ("m=63,n=8,k=8,dtype=tf32", "not 63; use `gemm`"),
            ("m=64,n=8,k=6,dtype=tf32", "k in multiples of 4, not 6; use 8 or"),
            ("m=64,n=8,k=12,dtype=bf16", "k in multiples of 8, not 12; use 16 or"),
            ("m=64,n=9,k=8,dtype=bf16", "n in multiples of 8, not 9; use 16 or"),
            (
                "m=64,n=8,k=8,dtype=bf16,w_dtype=int8",
                "not a_dtype = bf16 with w_dtype = int8",
            ),
            (
                "m=64,n=8,k=128,dtype=bf16,a_dtype=int8_token,w_dtype=fp8_e4m3",
                "not a_dtype = int8_token",
            ),
            (
                "m=64,n=8,k=128,dtype=bf16,a_dtype=fp8_e4m3_block1x128,w_dtype=fp8_e4m3",
                "with w_dtype = fp8_e4m3",
            ),
            (
                "m=64,n=8,k=24,dtype=bf16,a_dtype=int8_token,w_dtype=int8",
                "k in multiples of 16, not 24; use 32",
            ),
            ("m=64,n=2147483648,k=8,dtype=bf16", "up to 1073741824"),
            ("m=2000000,n=2000000,k=8,dtype=bf16", "tiles"),
        ] {
            let refusal = why(&format!("gemm:{rest}"));
            assert!(refusal.contains(says), "{refusal}");
        }
        for arch in [Arch::SM_80, Arch::SM_120] {
            let refusal = refusal::<WgmmaGemm>(&problem(64, 64, 64), arch);
            assert!(refusal.contains("sm_90a, which has wgmma"), "{refusal}");
        }
    }
}

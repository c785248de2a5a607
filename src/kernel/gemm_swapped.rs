//! Host half of `kernels/gemm_swapped.cu`: tiles and rings by the format, blocks of a cluster
//! by an estimate of clocks.

use bytemuck::{Pod, Zeroable};

use super::clusters;
use super::configuration::Configuration;
use super::contract::HostHalf;
use super::divisor::Divisor;
use super::formats::refuse_activations_scheme;
use super::gemm_skinny::MatrixFormats;
use super::gemm_wgmma::{self, product_clocks, together};
use super::plan::{Launch, Params, Plan};
use super::refusal::{Refusal, refuse_unless};
use super::tensor_map::TensorMap;
use crate::format::DType;
use crate::op::{Gemm, Problem};
use crate::toolchain::{Arch, Defines, Target};
use crate::weights;

/// Fewest rows of activations. Fewer are `gemm_skinny`'s, which pads them to 8. From here on
/// both pad alike, and `gemm_skinny` has the disadvantages: partial sums go through memory,
/// and all warps of a block wait for one another at every stage.
const LEAST_ROWS: u64 = 16;
/// Fewest with quantized weights: `gemm_skinny` reads a lane's operands of several products in
/// one load, by an order of columns that TMA can't give activations. With 16 rows it took 0.6
/// to 0.7 of the time on an H200.
const LEAST_QUANTIZED_ROWS: u64 = 17;
/// Most rows where weights are as activations. With more, tiles no longer have all rows, and
/// the tensor cores bind: 256 rows of 64 columns and 128 weights take them 1024 clocks, and
/// the memory of an H100 1200 of its SM's share.
const MAX_ROWS: u64 = 256;
/// Most rows of quantized weights, in tiles of up to [`MAX_ROWS`].
const MAX_QUANTIZED_ROWS: u64 = 4096;
/// Rows of activations that a block multiplies, with padding.
const TOKENS: [u64; 6] = [16, 32, 64, 128, 192, 256];
/// Warpgroups of a block that compute, unless a configuration says otherwise, and the rows of
/// weights of each.
const GROUPS: u32 = 2;
const GROUP_ROWS: u32 = 64;
/// Columns of a panel of activations: 128 bytes.
const PANEL_COLUMNS: u32 = 64;
/// Sums of a fragment, in which blocks of a cluster share a tile: 16 rows of weights and 8 of
/// activations.
const FRAGMENT_SUMS: u32 = 16 * 8;
/// Most stages; more would add bytes in flight beyond what DRAM can use.
const MAX_STAGES: u32 = 12;
/// Most rows of activations of blocks of which two share an SM.
const MOST_SHARED_TOKENS: u32 = 64;
/// Most rows of activations of a block that waits for the products of a unit at once.
const MOST_WAITED_TOKENS: u32 = 128;
/// Most rows of activations of a block with one warpgroup, which has the registers of no other.
const MOST_ROWS_OF_A_GROUP: u32 = 128;
/// Units by which the tiles of rows begin later than those before: two, since L2 loads two
/// lines at a time.
const ROTATION: u32 = 2;
/// Most blocks of a cluster.
const MAX_CLUSTER: u64 = clusters::MAX_CLUSTER as u64;
/// Shared memory that the kernel declares itself, rounded up to where its rings begin.
const STATIC_SHARED_BYTES: u32 = 1024;

/// Most rows with which it is the default without an estimate: as many as the smallest tile of
/// `gemm_wgmma` has. Bytes of weights bind both, and estimates are within 5% of one another.
const FASTEST_ROWS: u64 = 64;

/// Fewest bytes of weights with [`LEAST_ROWS`], where `gemm_skinny` has a smaller fixed cost and
/// takes longer for each byte. On an H200, with 64 and 512 MiB, it took 19.2 and 131.0 us, this
/// kernel 21.7 and 127.6 (`results/2026-11-28-nvidia-h200-tune`): lines that cross here.
const LEAST_ROWS_BYTES: u64 = 250 << 20;

/// Names of the tensor maps.
const WEIGHTS: &str = "weights";
const X: &str = "x";
const SCALES: &str = "scales";

/// `Params` of the kernel.
#[derive(Clone, Copy, Pod, Zeroable)]
#[repr(C)]
struct SwappedParams {
    weights: [u8; 128],
    x: [u8; 128],
    scales: [u8; 128],
    row_scales: u64,
    y: u64,
    m: u32,
    n: u32,
    splits: Divisor,
    cluster: Divisor,
    token_tiles: Divisor,
    units: u32,
    longer: u32,
    rotation: u32,
    starts: u32,
    /// The kernel's struct is aligned as its tensor maps.
    padding: [u32; 13],
}

/// Rough rates of an SM of an H100 per clock: enough to compare clusters of different sizes.
mod nominal {
    /// Multiply-adds of 16-bit operands on tensor cores.
    pub const MULTIPLY_ADDS: f64 = 2048.0;
    /// Bytes to and from shared memory.
    pub const SHARED_BYTES: f64 = 128.0;
    /// Bytes from L2, when all SMs load.
    pub const L2_BYTES: f64 = 50.0;
    /// Its share of the bytes from DRAM; other SMs can use what it leaves.
    pub const DRAM_BYTES: f64 = 13.5;
    /// Clocks of a load from DRAM under load.
    pub const LATENCY: f64 = 1400.0;

    /// Clocks from freeing a stage of activations to having it filled again from L2, as
    /// measured on an H200 where nothing else took as long: 750 with 16 rows, 1090 with 64,
    /// 1310 with 128.
    pub fn x_latency(tokens: u32) -> f64 {
        750.0 + 4.5 * f64::from(tokens)
    }

    /// Clocks before a block's first and after its last unit, and the same for each row of
    /// activations.
    pub const START_AND_END: f64 = 300.0;
    pub const ROW_END: f64 = 14.0;
    /// What tiles of 256 rows take beyond that: of five shapes on an H200 they took 1.04 to 1.36
    /// times what is estimated without it.
    pub const WIDEST: f64 = 1.075;
    /// Clocks of adding the sums of a cluster, beside those of their bytes.
    pub const CLUSTER: f64 = 900.0;
    /// The same for each of its blocks.
    pub const CLUSTER_BLOCK: f64 = 300.0;
    /// Bytes of shared memory of other blocks.
    pub const REMOTE_BYTES: f64 = 20.0;
    /// Clocks from one instruction of a warp to its next, where it converts: with 32 and 64
    /// rows and weights of 8 and 4 bits an H200 took 4.6 to 5.6.
    pub const CLOCKS_PER_INSTRUCTION: f64 = 5.2;
    /// Instructions that an SM issues at most, in practice.
    pub const INSTRUCTIONS: f64 = 2.8;
}

/// How a block multiplies tiles of a format.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Tile {
    w_dtype: DType,
    /// Rows of activations, with padding.
    tokens: u32,
    /// Warpgroups that compute, of [`GROUP_ROWS`] rows of weights each.
    groups: u32,
    /// Blocks that share an SM.
    blocks_per_sm: u32,
    threads: u32,
    /// Units of weights in their ring.
    weight_stages: u32,
    /// Panels of activations in theirs.
    x_stages: u32,
    /// Tiles of rows whose blocks load activations together: 1 or 2.
    sharing: u32,
    /// Dynamic shared memory.
    shared_bytes: u32,
}

impl Tile {
    /// For so many rows of activations, at most [`MAX_ROWS`], and weights in a format.
    ///
    /// Two blocks share an SM where few registers are needed and activations are small, so that
    /// one streams while the other begins or ends, and that twice as many warps convert: with one
    /// the time of a unit is that of a warp's instructions, of which each waits for the one
    /// before. Where the sums of 64 x 192 and more leave no
    /// registers for converted weights, a whole warpgroup loads and gives its registers away.
    fn new(rows: u64, w_dtype: DType, arch: Arch) -> Self {
        let tokens = tokens_of(rows);
        let blocks_per_sm = if tokens <= MOST_SHARED_TOKENS { 2 } else { 1 };
        Tile::with_rings([tokens, GROUPS], w_dtype, arch, (blocks_per_sm, MAX_STAGES))
    }

    /// The same with so many warpgroups, blocks on an SM, and at most so many stages of a ring.
    fn with_rings(
        [tokens, groups]: [u32; 2],
        w_dtype: DType,
        arch: Arch,
        (blocks_per_sm, most_stages): (u32, u32),
    ) -> Self {
        let converts = w_dtype.bytes_of(2) < 4;
        let loading = if converts && tokens > 128 { 128 } else { 32 };
        let share =
            arch.limits().shared_bytes_of_block(blocks_per_sm) - STATIC_SHARED_BYTES;
        // Rings as deep as one another, and weights in what is left.
        let x_bytes = 2 * tokens * stage_columns(w_dtype);
        let rows = groups * GROUP_ROWS;
        let of_stage = weight_bytes(rows, w_dtype) + scale_bytes(rows, w_dtype);
        let units = (share / (of_stage + x_bytes)).min(most_stages);
        let left = share - units * (of_stage + x_bytes);
        let weight_stages = (units + left / of_stage).min(most_stages);
        // Sums are exchanged where the rings were, in fragments.
        let fragments = tokens * rows / FRAGMENT_SUMS;
        let sums_bytes = 4 * FRAGMENT_SUMS * (fragments + MAX_CLUSTER as u32 - 1);
        Tile {
            w_dtype,
            tokens,
            groups,
            blocks_per_sm,
            threads: groups * 128 + loading,
            weight_stages,
            x_stages: units * stage_columns(w_dtype) / PANEL_COLUMNS,
            sharing: 1,
            shared_bytes: (weight_stages * of_stage + units * x_bytes).max(sums_bytes),
        }
    }

    fn converts(&self) -> bool {
        stage_columns(self.w_dtype) > PANEL_COLUMNS
    }

    /// Rows of weights of a block.
    fn rows(&self) -> u32 {
        self.groups * GROUP_ROWS
    }

    /// Bytes of its weights of a unit.
    fn weight_bytes(&self) -> u32 {
        weight_bytes(self.rows(), self.w_dtype)
    }

    fn row_tiles(&self, p: &Gemm) -> u64 {
        p.n.div_ceil(self.rows().into())
    }

    /// Clocks of a unit: what an SM needs for one at least, and what a block needs that is
    /// alone on its SM.
    fn unit_clocks(&self) -> (f64, f64) {
        let columns = stage_columns(self.w_dtype);
        let tensor =
            f64::from(self.rows() * self.tokens * columns) / nominal::MULTIPLY_ADDS;
        let x_bytes = 2 * self.tokens * columns;
        let copied = f64::from(self.weight_bytes() + x_bytes);
        let from_l2 = f64::from(self.l2_bytes());
        // Every warpgroup reads the activations, and weights that are not converted.
        let read = f64::from(self.weight_bytes() + self.groups * x_bytes);
        let instructions = self.instructions_of_warp();
        let issue = f64::from(self.groups * 4) * instructions / nominal::INSTRUCTIONS;
        let busy = tensor
            .max(from_l2 / nominal::L2_BYTES)
            .max((copied + read) / nominal::SHARED_BYTES)
            .max(issue);

        // A unit is held until its own products are done, or those of the next have begun.
        let held = if self.converts() || self.tokens <= MOST_WAITED_TOKENS { 1 } else { 2 };
        let ahead = |stages: u32| f64::from(stages.saturating_sub(held).max(1));
        let x_units = self.x_stages * PANEL_COLUMNS / columns;
        let latency = nominal::LATENCY / ahead(self.weight_stages);
        let x_latency = nominal::x_latency(self.tokens) / ahead(x_units);
        let alone = self.converting_clocks().max(latency).max(x_latency);
        (busy, busy.max(alone))
    }

    /// Bytes of a unit that L2 delivers to an SM: what is multicast, it delivers once.
    fn l2_bytes(&self) -> u32 {
        let x_bytes = 2 * self.tokens * stage_columns(self.w_dtype);
        self.weight_bytes() + x_bytes / self.sharing
    }

    /// Tiles of all clusters together: of each cluster as many as share activations.
    fn cluster_tiles(&self, p: &Gemm) -> u64 {
        self.row_tiles(p).div_ceil(self.sharing.into()) * token_tiles(p)
    }

    /// Most splits of the columns of a tile.
    fn most_splits(&self, p: &Gemm) -> u64 {
        (MAX_CLUSTER / u64::from(self.sharing)).min(units(p))
    }

    /// Clocks of a unit in which a warp waits for its own instructions, one after the other.
    fn converting_clocks(&self) -> f64 {
        if !self.converts() {
            return 0.0;
        }
        self.instructions_of_warp() * nominal::CLOCKS_PER_INSTRUCTION
    }

    /// Instructions of a warp for a unit: those of its 16 rows, of scaling its sums, and of
    /// waiting.
    fn instructions_of_warp(&self) -> f64 {
        // Of 32 lanes for each of eight weights: loading and converting.
        let of_eight = match self.w_dtype {
            DType::Int4 => 15.0,
            DType::Int8 | DType::Fp8E4m3 => 24.0,
            _ => 0.0,
        };
        let converted = f64::from(16 * stage_columns(self.w_dtype)) / 8.0 / 32.0 * of_eight;
        let scaled = if self.w_dtype == DType::Int4 { self.tokens / 2 } else { 0 };
        converted + f64::from(scaled) + 80.0
    }

    /// Rough clocks of the busiest SM with clusters of `splits` blocks for each of their
    /// tiles: of units, and of starts and ends.
    fn sm_clocks(&self, p: &Gemm, splits: u64, sms: u64) -> (f64, f64) {
        let tiles = self.cluster_tiles(p);
        let resident = u64::from(self.blocks_per_sm);
        let (busy, alone) = self.unit_clocks();
        let units = units(p).div_ceil(splits) as f64;
        // Clusters that run at the same time without and with sharing SMs.
        let apart = clusters::resident(splits * u64::from(self.sharing), sms);
        let at_once = apart * resident;
        let busiest = |clusters: u64| clusters.div_ceil(apart) as f64;
        let multiply = |clusters: u64| units * (busy * busiest(clusters)).max(alone);
        let add = |clusters: u64| match splits {
            1 => 0.0,
            _ => {
                let sums = f64::from(4 * self.rows() * self.tokens);
                nominal::CLUSTER
                    + nominal::CLUSTER_BLOCK * splits as f64
                    + sums / nominal::REMOTE_BYTES * busiest(clusters)
            }
        };
        // Rounds of clusters, of which the last may be smaller.
        let before = tiles.div_ceil(at_once) - 1;
        let last = tiles - before * at_once;
        let sm = before as f64 * (multiply(at_once) + add(at_once)) + multiply(last);
        // Blocks that share an SM hide one another's ends.
        let shown = if resident > 1 { 0.3 } else { 1.0 };
        let end = nominal::START_AND_END + nominal::ROW_END * f64::from(self.tokens);
        (sm, (1.0 + before as f64 * shown) * end + add(last))
    }

    /// Rough clocks of a problem with clusters of `splits` blocks, to compare them.
    fn clocks(&self, p: &Gemm, splits: u64, sms: u64) -> f64 {
        let (sm, ends) = self.sm_clocks(p, splits, sms);
        let bytes = Problem::Gemm(*p).work().bytes() as f64;
        let dram = bytes / (nominal::DRAM_BYTES * sms as f64);
        // The smaller overlaps with the larger, but not completely.
        sm.max(dram) + 0.1 * sm.min(dram) + ends
    }

    /// Rough clocks of a problem to compare with those of `gemm_wgmma`: what does not depend
    /// on the kernel is estimated as there.
    fn clocks_as_wgmma(&self, p: &Gemm, sms: u64) -> f64 {
        let (sm, ends) = self.sm_clocks(p, self.best_splits(p, sms), sms);
        let widest = if u64::from(self.tokens) == MAX_ROWS { nominal::WIDEST } else { 1.0 };
        let products = product_clocks(p.m * p.n, p.k.div_ceil(PANEL_COLUMNS.into()), sms);
        let bytes = Problem::Gemm(*p).work().bytes() as f64;
        let dram = bytes / (gemm_wgmma::nominal::DRAM_BYTES * sms as f64);
        together(widest * (sm + ends), products, dram)
    }

    /// The splits with which a problem takes the fewest clocks.
    fn best_splits(&self, p: &Gemm, sms: u64) -> u64 {
        (1..=self.most_splits(p))
            .map(|splits| (splits, self.clocks(p, splits, sms)))
            .min_by(|a, b| a.1.total_cmp(&b.1))
            .map_or(1, |(splits, _)| splits)
    }
}

/// Rows of activations with padding, of at most [`MAX_ROWS`].
fn tokens_of(rows: u64) -> u32 {
    TOKENS.into_iter().find(|tokens| *tokens >= rows).unwrap_or(MAX_ROWS) as u32
}

/// The tile of a configuration for so many rows: the default, or with another number of blocks
/// on an SM, or with other rings.
///
/// # Errors
/// More blocks than registers and shared memory allow.
fn tile_of(
    rows: u64,
    w_dtype: DType,
    arch: Arch,
    choice: &Configuration,
) -> Result<Tile, Refusal> {
    let default = Tile::new(rows, w_dtype, arch);
    let blocks = choice.or("blocks_per_sm", default.blocks_per_sm);
    let most = if default.tokens <= MOST_SHARED_TOKENS { 2 } else { 1 };
    refuse_unless(blocks <= most, || {
        format!(
            "{blocks} blocks of an SM with up to {MOST_SHARED_TOKENS} rows, not {rows}; use the \
             default configuration"
        )
    })?;
    let groups = choice.or("groups", GROUPS);
    let most_tokens =
        if groups > GROUPS { MOST_SHARED_TOKENS } else { MOST_ROWS_OF_A_GROUP };
    refuse_unless(groups == GROUPS || default.tokens <= most_tokens, || {
        format!(
            "{} rows of weights in a block with up to {most_tokens} rows, not {rows}; use the \
             default configuration",
            groups * GROUP_ROWS
        )
    })?;
    let stages = choice.or("stages", MAX_STAGES);
    let tile = Tile::with_rings([default.tokens, groups], w_dtype, arch, (blocks, stages));
    Ok(Tile { sharing: choice.or("sharing", tile.sharing), ..tile })
}

/// Columns of a unit of weights: a line of memory of each row, or a group with a scale.
fn stage_columns(w_dtype: DType) -> u32 {
    match w_dtype {
        DType::Int4 => weights::GROUP_COLUMNS as u32,
        _ => (128 / w_dtype.bytes_of(1)) as u32,
    }
}

/// Bytes of so many rows of weights of a unit.
fn weight_bytes(rows: u32, w_dtype: DType) -> u32 {
    w_dtype.bytes_of(u64::from(rows * stage_columns(w_dtype))) as u32
}

/// Bytes of their scales.
fn scale_bytes(rows: u32, w_dtype: DType) -> u32 {
    if w_dtype == DType::Int4 { 2 * rows } else { 0 }
}

/// Blocks that divide the rows of activations.
fn token_tiles(p: &Gemm) -> u64 {
    p.m.div_ceil(MAX_ROWS)
}

/// Units of the columns.
fn units(p: &Gemm) -> u64 {
    p.k.div_ceil(stage_columns(p.w_dtype.dtype()).into())
}

/// A product of few rows, by warpgroups.
#[cfg_attr(test, derive(Debug))]
pub(super) struct SwappedGemm {
    p: Gemm,
    formats: MatrixFormats,
    tile: Tile,
    /// Blocks of a cluster for each of its tiles; `None` for as many as take the fewest clocks.
    splits: Option<u64>,
    /// Units by which tiles of rows begin later than those before.
    rotation: u32,
    arch: Arch,
}

impl HostHalf for SwappedGemm {
    type Operation = Gemm;
    const NAME: &'static str = "gemm_swapped";
    const SOURCE: &'static str = include_str!("../../kernels/gemm_swapped.cu");
    const MEMORY_BOUND: bool = true;
    /// Clusters of any size, which rough clocks choose otherwise; the other number of blocks on
    /// an SM than registers suggest; rings of half the depth; tiles that begin in step, which
    /// then share activations in L2; and pairs of tiles that load activations together. Pairs
    /// take a third of what L2 delivers with 256 rows away, and nothing of what binds a unit:
    /// memory takes 1213 clocks of it and the tensor cores 1024, where L2 took 983.
    const CONFIGURATIONS: &[Configuration] = &[
        Configuration::new("splits_1", &[("splits", 1)]),
        Configuration::new("splits_2", &[("splits", 2)]),
        Configuration::new("splits_4", &[("splits", 4)]),
        Configuration::new("splits_8", &[("splits", 8)]),
        Configuration::new("blocks_1", &[("blocks_per_sm", 1)]),
        Configuration::new("blocks_2", &[("blocks_per_sm", 2)]),
        Configuration::new("stages_4", &[("stages", 4)]),
        Configuration::new("rotation_0", &[("rotation", 0)]),
        Configuration::new("multicast", &[("sharing", 2)]),
        // Half and twice as many rows of weights in a block: the fewer, the smaller clusters are,
        // or none is needed; the more, the fewer activations come from L2 for each.
        Configuration::new("rows_64", &[("groups", 1)]),
        Configuration::new("rows_64_multicast", &[("groups", 1), ("sharing", 2)]),
        Configuration::new("rows_256", &[("groups", 4), ("blocks_per_sm", 1)]),
        Configuration::PROGRAMMATIC,
        Configuration::WEIGHTS_AHEAD,
    ];

    fn configure(p: &Gemm, arch: Arch, choice: &Configuration) -> Result<Self, Refusal> {
        let formats = MatrixFormats::new(p.dtype, p.w_dtype, p.n, p.k)?;
        refuse_activations_scheme(p)?;
        refuse_unless(arch == Arch::SM_90, || {
            format!("sm_90a, which has wgmma, not {arch}; use `gemm_skinny` or `gemm`")
        })?;
        let w_dtype = p.w_dtype.dtype();
        let plain = w_dtype == p.dtype;
        let most = if plain { MAX_ROWS } else { MAX_QUANTIZED_ROWS };
        let least = if plain { LEAST_ROWS } else { LEAST_QUANTIZED_ROWS };
        refuse_unless((least..=most).contains(&p.m), || {
            format!(
                "{least} to {most} rows with weights in {}, not m = {}; use {}",
                p.w_dtype,
                p.m,
                if p.m < least { "`gemm_skinny`" } else { "`gemm`, or less" }
            )
        })?;
        let tile = tile_of(p.m.div_ceil(token_tiles(p)), w_dtype, arch, choice)?;
        let blocks = tile.row_tiles(p) * token_tiles(p) * MAX_CLUSTER;
        refuse_unless(blocks <= i32::MAX as u64, || {
            format!("at most {} blocks, not {blocks}; use smaller m or n", i32::MAX)
        })?;
        refuse_unless(tile.row_tiles(p) >= tile.sharing.into(), || {
            format!(
                "activations of two tiles together where n is more than {}, not {}; use the \
                 default configuration",
                tile.rows(),
                p.n
            )
        })?;
        let splits = Some(u64::from(choice.or("splits", 0))).filter(|splits| *splits > 0);
        refuse_unless(splits.is_none_or(|splits| splits <= units(p)), || {
            format!(
                "clusters of up to {} blocks for k = {}, not {}; use as many",
                units(p).min(MAX_CLUSTER),
                p.k,
                splits.unwrap_or(0)
            )
        })?;
        let rotation = choice.or("rotation", ROTATION);
        Ok(SwappedGemm { p: *p, formats, tile, splits, rotation, arch })
    }

    fn defines(&self) -> Defines {
        let tile = &self.tile;
        self.formats
            .defines()
            .with("TOKENS", tile.tokens)
            .with("GROUPS", tile.groups)
            .with("THREADS", tile.threads)
            .with("BLOCKS_PER_SM", tile.blocks_per_sm)
            .with("WEIGHT_STAGES", tile.weight_stages)
            .with("X_STAGES", tile.x_stages)
            .with("SHARING", tile.sharing)
            .with("SHARED_BYTES", tile.shared_bytes)
    }

    fn plan(&self, target: &Target) -> Plan {
        let SwappedGemm { p, tile, rotation, .. } = *self;
        let best = || tile.best_splits(&p, target.sms.into());
        let splits = self.splits.unwrap_or_else(best);
        let cluster = splits * u64::from(tile.sharing);
        let blocks = tile.cluster_tiles(&p) * cluster;
        let launch = Launch {
            cluster: [cluster as u32, 1, 1],
            shared_bytes: tile.shared_bytes,
            // All units but the one that is multiplied; blocks that divide rows read the same.
            bytes_in_flight: u64::from((tile.weight_stages - 1) * tile.weight_bytes())
                / token_tiles(&p),
            ..Launch::new(
                "gemm_swapped",
                blocks as u32,
                tile.threads,
                params(p, tile, (splits, rotation)),
            )
        };
        let busiest = units(&p).div_ceil(splits) * splits;
        Plan {
            tensor_maps: tensor_maps(&p, tile.rows(), tile.tokens / tile.sharing),
            // Blocks that divide rows share what they read through L2.
            extra_bytes: (token_tiles(&p) == 1).then_some(0),
            imbalance: busiest as f64 / units(&p) as f64,
            ..Plan::of(launch)
        }
    }

    fn is_fast(&self) -> bool {
        if self.p.m == LEAST_ROWS {
            let bytes = self.p.w_dtype.matrix_bytes(self.p.n, self.p.k);
            return bytes >= LEAST_ROWS_BYTES;
        }
        if self.p.m <= FASTEST_ROWS || self.tile.converts() {
            return true;
        }
        let own = self.tile.clocks_as_wgmma(&self.p, self.arch.usual_sms().into());
        gemm_wgmma::clocks(&self.p, self.arch).is_none_or(|other| own <= other)
    }
}

/// Weights in units of so many rows, activations in panels of so many tokens, and scales of
/// groups.
fn tensor_maps(p: &Gemm, rows: u32, tokens: u32) -> Vec<TensorMap> {
    let w_dtype = p.w_dtype.dtype();
    let map = |name, tensor, element_bytes, extents, strides_bytes, tile| TensorMap {
        name,
        tensor,
        element_bytes,
        extents,
        strides_bytes,
        tile,
        swizzle_bytes: 128,
    };
    let panel = vec![PANEL_COLUMNS, tokens];
    let mut maps = vec![map(X, "a", 2, vec![p.k, p.m], vec![2 * p.k], panel)];
    if w_dtype == DType::Int4 {
        // Tiles of 16 rows and 64 columns are 512 bytes, here in lines of 128.
        let stripe_bytes = w_dtype.bytes_of(weights::TILE_ROWS * p.k);
        let extents = vec![128, stripe_bytes / 128, p.n / weights::TILE_ROWS];
        let stripes = rows / weights::TILE_ROWS as u32;
        let tile = vec![128, stage_columns(w_dtype) / 16, stripes];
        maps.push(map(WEIGHTS, "b", 1, extents, vec![128, stripe_bytes], tile));
        let extents = vec![p.n, p.k / weights::GROUP_COLUMNS];
        let scales = map(SCALES, "b_scales", 2, extents, vec![2 * p.n], vec![rows, 1]);
        maps.push(TensorMap { swizzle_bytes: 0, ..scales });
    } else {
        let bytes = w_dtype.bytes_of(1);
        let tile = vec![stage_columns(w_dtype), rows];
        let strides = vec![bytes * p.k];
        maps.push(map(WEIGHTS, "b", bytes as u32, vec![p.k, p.n], strides, tile));
    }
    maps
}

fn params(p: Gemm, tile: Tile, (splits, rotation): (u64, u32)) -> Params {
    let has_row_scales = matches!(tile.w_dtype, DType::Fp8E4m3 | DType::Int8);
    let of_split = (units(&p) / splits) as u32;
    Params::of(move |bound| SwappedParams {
        weights: bound.tensor_map(WEIGHTS).0,
        x: bound.tensor_map(X).0,
        scales: bound.tensor_map_or_unused(SCALES).0,
        row_scales: if has_row_scales { bound.tensor("b_scales") } else { 0 },
        y: bound.tensor("c"),
        m: p.m as u32,
        n: p.n as u32,
        splits: Divisor::new(splits as u32),
        cluster: Divisor::new(splits as u32 * tile.sharing),
        token_tiles: Divisor::new(token_tiles(&p) as u32),
        units: of_split,
        longer: (units(&p) % splits) as u32,
        rotation,
        starts: 1 << of_split.ilog2(),
        padding: [0; 13],
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernel::contract::testing::{
        configured, configured_as, operation, options, plan, refusal, refusal_as,
    };
    use crate::kernel::{Bound, EncodedTensorMap, Kernel};

    const FORMATS: [DType; 4] = [DType::Bf16, DType::Fp8E4m3, DType::Int8, DType::Int4];

    fn problem(text: &str) -> String {
        format!("gemm:{text}")
    }

    fn h100() -> Target {
        Target::new(Arch::SM_90, 132)
    }

    fn plan_on_h100(text: &str) -> Plan {
        plan::<SwappedGemm>(&problem(text), &h100())
    }

    fn tiles() -> impl Iterator<Item = Tile> {
        let of_format =
            |format| TOKENS.map(|tokens| Tile::new(tokens, format, Arch::SM_90));
        FORMATS.into_iter().flat_map(of_format)
    }

    #[test]
    fn rings_fit_and_cover_latency() {
        for tile in tiles() {
            let sm = Arch::SM_90.limits();
            let block = tile.shared_bytes + STATIC_SHARED_BYTES;
            assert!(block <= sm.shared_bytes_of_block(tile.blocks_per_sm), "{tile:?}");
            // Activations of whole units, behind their weights.
            let panels = stage_columns(tile.w_dtype) / PANEL_COLUMNS;
            assert_eq!(tile.x_stages % panels, 0, "{tile:?}");
            assert!(tile.x_stages / panels <= tile.weight_stages, "{tile:?}");
            // Activations arrive in time.
            let (busy, alone) = tile.unit_clocks();
            let memory = f64::from(tile.weight_bytes()) / nominal::DRAM_BYTES;
            let other = busy.max(memory).max(tile.converting_clocks());
            assert!(alone <= 1.01 * other, "{tile:?}: {busy} {alone} {memory}");
            let barriers = 2 * 8 * (tile.weight_stages + tile.x_stages);
            assert!(barriers <= STATIC_SHARED_BYTES, "{tile:?}");
            // What Little's law asks for on an H200, twice with weights of 16 bits.
            let in_flight =
                tile.blocks_per_sm * (tile.weight_stages - 1) * tile.weight_bytes();
            let least = if tile.converts() { 24 } else { 64 };
            assert!(in_flight >= least << 10, "{tile:?}: {in_flight}");
        }
    }

    #[test]
    fn tokens_are_padded_to_the_next_tile() {
        for m in LEAST_QUANTIZED_ROWS..=MAX_QUANTIZED_ROWS {
            let p = operation(&problem("m=17,n=16,k=128,dtype=bf16,w_dtype=int4"));
            let half = SwappedGemm::configure(
                &Gemm { m, ..p },
                Arch::SM_90,
                Configuration::DEFAULT,
            )
            .unwrap();
            let (tiles, tokens) = (token_tiles(&half.p), u64::from(half.tile.tokens));
            assert!((tiles - 1) * tokens < m && m <= tiles * tokens, "{m}: {half:?}");
            assert!(tokens < 2 * m.max(MAX_ROWS / tiles), "{m}: {tokens}");
        }
    }

    #[test]
    fn clusters_fill_the_gpu() {
        for (text, splits) in [
            ("m=16,n=8192,k=8192,dtype=bf16", 2),
            ("m=64,n=8192,k=8192,dtype=bf16", 2),
            ("m=64,n=8192,k=8192,dtype=bf16,w_dtype=int4", 3),
            ("m=64,n=8192,k=8192,dtype=bf16,w_dtype=fp8_e4m3", 3),
            ("m=256,n=8192,k=8192,dtype=bf16,w_dtype=int4", 2),
            ("m=64,n=28672,k=4096,dtype=bf16", 1),
            // Fewer than 32 clusters of four have an SM for each block.
            ("m=64,n=4096,k=14336,dtype=bf16,w_dtype=int4", 6),
            ("m=128,n=4096,k=14336,dtype=bf16,w_dtype=fp8_e4m3", 3),
            ("m=256,n=4096,k=14336,dtype=bf16", 3),
            ("m=256,n=8192,k=8192,dtype=bf16", 2),
            ("m=256,n=28672,k=8192,dtype=bf16", 1),
            // No more blocks than units.
            ("m=17,n=128,k=128,dtype=bf16,w_dtype=int4", 1),
            ("m=16,n=128,k=64,dtype=bf16", 1),
        ] {
            let launch = &plan_on_h100(text).launches[0];
            assert_eq!(launch.cluster, [splits, 1, 1], "{text}");
            assert!(launch.grid[0].is_multiple_of(splits), "{text}");
        }
        for n in [4096, 5120, 7168, 8192, 14336, 28672] {
            for m in [16, 64, 128, 256] {
                let text = format!("m={m},n={n},k=8192,dtype=bf16");
                let plan = plan_on_h100(&text);
                assert!(plan.imbalance < 1.1, "{text}: {}", plan.imbalance);
                // 40 clusters of three do not run at the same time.
                let least = if n == 5120 { 80 } else { 96 };
                assert!(plan.launches[0].grid[0] >= least, "{text}");
            }
        }
    }

    #[test]
    fn clusters_are_compared_as_an_h200_did() {
        // Microseconds with 1, 2, 4 and 8 blocks, where an order is beyond doubt.
        for (text, order) in [
            // 97.8, 59.6, 90.0, 102.6.
            ("m=256,n=8192,k=8192,dtype=bf16,w_dtype=int4", vec![2, 4, 8]),
            // 85.8, 61.0, 90.0, 101.5.
            ("m=256,n=8192,k=8192,dtype=bf16", vec![2, 4, 8]),
            // 72.4, 48.7, 59.0, 62.4.
            ("m=128,n=8192,k=8192,dtype=bf16", vec![2, 4, 8]),
            // 45.4, 27.0, 37.3, 39.6.
            ("m=64,n=8192,k=8192,dtype=bf16,w_dtype=int4", vec![2, 4]),
            // 64.1, 69.9, 80.4, 96.1.
            ("m=64,n=28672,k=4096,dtype=bf16", vec![1, 4, 8]),
        ] {
            let p: Gemm = operation(&problem(text));
            // With one block on an SM, as they were measured.
            let format = p.w_dtype.dtype();
            let tile = match Tile::new(p.m, format, Arch::SM_90) {
                tile if tile.converts() => {
                    let shape = [tile.tokens, GROUPS];
                    Tile::with_rings(shape, format, Arch::SM_90, (1, MAX_STAGES))
                }
                tile => tile,
            };
            let clocks: Vec<f64> =
                order.iter().map(|splits| tile.clocks(&p, *splits, 132)).collect();
            assert!(clocks.is_sorted(), "{text}: {order:?} {clocks:?}");
        }
        assert_eq!(
            [1, 2, 4, 8].map(|splits| clusters::resident(splits, 132)),
            [132, 66, 29, 12]
        );
    }

    #[test]
    fn defaults_of_many_rows_are_the_faster_kernels() {
        // Microseconds of this kernel and of `gemm_wgmma` on an H200, where they differ by
        // more than noise. Those of n = 5120 were with more clusters than run at once.
        let measured = [
            ("m=128,n=10240,k=8192", 54.3, 56.6),
            ("m=128,n=24576,k=1536", 30.5, 25.0),
            ("m=128,n=28672,k=4096", 71.7, 64.8),
            ("m=128,n=4096,k=14336", 43.2, 40.4),
            ("m=128,n=5120,k=25600", 112.6, 86.5),
            ("m=128,n=7168,k=16384", 69.8, 75.4),
            ("m=128,n=7168,k=18432", 77.5, 82.6),
            ("m=256,n=24576,k=1536", 45.7, 36.3),
            ("m=256,n=36864,k=7168", 262.3, 219.0),
            ("m=256,n=4096,k=14336", 62.7, 58.7),
            ("m=256,n=5120,k=25600", 192.0, 121.1),
            ("m=256,n=8192,k=8192", 63.7, 59.7),
        ];
        let is_right = |(shape, swapped, wgmma): &(&str, f64, f64)| {
            let text = problem(&format!("{shape},dtype=bf16"));
            let chosen = Kernel::for_problem(&text.parse().unwrap(), Arch::SM_90).unwrap();
            let took = if chosen.kernel.name == "gemm_swapped" { swapped } else { wgmma };
            let best = swapped.min(*wgmma);
            assert!(*took <= 1.1 * best, "{text}: {}", chosen.kernel.name);
            *took == best
        };
        let right = measured.iter().filter(|point| is_right(point)).count();
        assert!(10 * right >= 9 * measured.len(), "{right} of {}", measured.len());
    }

    /// Estimated clocks of the kernel over those of `gemm_wgmma`.
    fn estimated_ratio(m: u64, (n, k): (u64, u64)) -> f64 {
        let text = problem(&format!("m={m},n={n},k={k},dtype=bf16"));
        let SwappedGemm { p, tile, .. } = configured(&text, Arch::SM_90).unwrap();
        tile.clocks_as_wgmma(&p, 132) / gemm_wgmma::clocks(&p, Arch::SM_90).unwrap()
    }

    /// The limit between both kernels is where their estimates cross: as many rows as tiles
    /// have, of all of them or of none, by the shape.
    #[test]
    fn estimates_cross_where_the_default_changes() {
        let is_default = |m: u64, (n, k): (u64, u64)| {
            let text = problem(&format!("m={m},n={n},k={k},dtype=bf16"));
            let chosen = Kernel::for_problem(&text.parse().unwrap(), Arch::SM_90).unwrap();
            chosen.kernel.name == "gemm_swapped"
        };
        for (shape, crossing) in [
            ((4096, 4096), Some(193)),
            ((6144, 4096), Some(193)),
            ((8192, 8192), Some(193)),
            ((7168, 18432), None),
            ((5120, 25600), Some(65)),
            ((24576, 1536), Some(65)),
        ] {
            let rows = FASTEST_ROWS + 1..=MAX_ROWS;
            let first = rows.clone().find(|m| estimated_ratio(*m, shape) > 1.0);
            assert_eq!(first, crossing, "{shape:?}");
            for m in rows {
                let is_before = crossing.is_none_or(|crossing| m < crossing);
                assert_eq!(is_default(m, shape), is_before, "m = {m}, {shape:?}");
            }
        }
    }

    /// Both are bound by the bytes of the weights, and estimates cannot tell them apart.
    #[test]
    fn up_to_the_rows_of_a_tile_estimates_are_alike() {
        for shape in [
            (4096, 4096),
            (28672, 4096),
            (4096, 14336),
            (8192, 8192),
            (10240, 8192),
            (8192, 28672),
            (5120, 25600),
            (24576, 1536),
            (36864, 7168),
        ] {
            let ratio = estimated_ratio(FASTEST_ROWS, shape);
            assert!((0.7..1.06).contains(&ratio), "{shape:?}: {ratio}");
        }
    }

    /// By hand, of a unit of 64 columns: 128 rows of weights are 16 KiB, 256 of activations 32
    /// KiB. What L2 delivers is not what binds, so that the default does without.
    #[test]
    fn activations_of_two_tiles_come_from_l2_once() {
        let alone = Tile::new(256, DType::Bf16, Arch::SM_90);
        let pair = Tile { sharing: 2, ..alone };
        assert_eq!([alone.l2_bytes(), pair.l2_bytes()], [48 << 10, 32 << 10]);
        assert_eq!(alone.unit_clocks().0, 1024.0, "tensor cores");
        for tile in tiles() {
            let l2 = f64::from(tile.l2_bytes()) / nominal::L2_BYTES;
            let memory = f64::from(tile.weight_bytes()) / nominal::DRAM_BYTES;
            let (others, _) = Tile { sharing: 2, ..tile }.unit_clocks();
            assert!(l2 < memory.max(others), "{tile:?}: {l2} {memory} {others}");
        }
        // 65 tiles of rows in pairs, of which the last is empty.
        let p: Gemm = operation(&problem("m=256,n=8200,k=8192,dtype=bf16"));
        assert_eq!((alone.cluster_tiles(&p), pair.cluster_tiles(&p)), (65, 33));
        assert_eq!((alone.most_splits(&p), pair.most_splits(&p)), (8, 4));
    }

    #[test]
    fn a_kernel_that_is_named_runs_where_another_is_faster() {
        let text = problem("m=256,n=5120,k=25600,dtype=bf16").parse().unwrap();
        let named = Kernel::asked_for("gemm_swapped", &text, Arch::SM_90).unwrap();
        assert!(named.kernel.name == "gemm_swapped" && !named.is_fast);
        let default = Kernel::for_problem(&text, Arch::SM_90).unwrap();
        assert_eq!(default.kernel.name, "gemm_wgmma");
        // `gemm_wgmma` does not run these, however many rows of 16 bits there are.
        let odd = problem("m=256,n=5121,k=25600,dtype=bf16").parse().unwrap();
        let only = Kernel::for_problem(&odd, Arch::SM_90).unwrap();
        assert_eq!(only.kernel.name, "gemm_swapped");
    }

    #[test]
    fn narrow_weights_are_estimated_to_take_less_time() {
        for m in [16, 64, 128, 256] {
            let clocks = |format: DType| {
                let text = format!("m={m},n=8192,k=8192,dtype=bf16,w_dtype={format}");
                let p: Gemm = operation(&problem(&text));
                let tile = Tile::new(m, format, Arch::SM_90);
                tile.clocks(&p, tile.best_splits(&p, 132), 132)
            };
            let [plain, e4m3, int8, int4] = FORMATS.map(clocks);
            assert!(e4m3 < plain && int8 < plain && int4 < e4m3, "{m}");
            if m <= 64 {
                // An H200, with one block on an SM: 1.5 with 64 rows, 1.6 with 32.
                assert!(1.4 * int4 < plain, "{m}: {int4} {plain}");
            }
        }
    }

    #[test]
    fn configurations_do_not_depend_on_matrices() {
        let options = |text: &str| options::<SwappedGemm>(&problem(text), Arch::SM_90);
        let small = options("m=17,n=16,k=128,dtype=f16,w_dtype=int4");
        assert_eq!(small, options("m=32,n=4096,k=8192,dtype=f16,w_dtype=int4"));
        assert_eq!(
            options("m=256,n=16,k=128,dtype=bf16,w_dtype=fp8_e4m3"),
            "-DELEMENT_BF16=1 -DWEIGHT_E4M3=1 -DTOKENS=256 -DGROUPS=2 \
             -DTHREADS=384 -DBLOCKS_PER_SM=1 -DWEIGHT_STAGES=6 -DX_STAGES=4 -DSHARING=1 \
             -DSHARED_BYTES=229376"
        );
    }

    #[test]
    fn maps_cut_units_and_panels() {
        let maps = |text: &str| tensor_maps(&operation(&problem(text)), 128, 32);
        let shapes = |text| {
            let shape =
                |map: &TensorMap| (map.tensor, map.extents.clone(), map.tile.clone());
            for map in maps(text) {
                assert!(map.over(1 << 20).encode().is_ok(), "{text}: {map:?}");
            }
            maps(text).iter().map(shape).collect::<Vec<_>>()
        };
        let x = ("a", vec![384, 20], vec![64, 32]);
        let plain = ("b", vec![384, 48], vec![64, 128]);
        assert_eq!(shapes("m=20,n=48,k=384,dtype=bf16"), [x.clone(), plain]);
        let bytes = ("b", vec![384, 48], vec![128, 128]);
        assert_eq!(shapes("m=20,n=48,k=384,dtype=bf16,w_dtype=int8"), [x.clone(), bytes]);
        // Three stripes of six tiles of four lines, and three groups.
        let nibbles = ("b", vec![128, 24, 3], vec![128, 8, 8]);
        let scales = ("b_scales", vec![48, 3], vec![128, 1]);
        assert_eq!(shapes("m=20,n=48,k=384,dtype=bf16,w_dtype=int4"), [x, nibbles, scales]);
    }

    #[test]
    fn only_tiles_of_tokens_read_weights_again() {
        let extra = |text| plan_on_h100(text).extra_bytes;
        assert_eq!(extra("m=256,n=8192,k=8192,dtype=bf16"), Some(0));
        assert_eq!(extra("m=257,n=8192,k=8192,dtype=bf16,w_dtype=int8"), None);
    }

    #[test]
    fn params_lie_as_the_kernel_declares() {
        let plan = plan_on_h100("m=300,n=48,k=1408,dtype=f16,w_dtype=int8");
        let mut bound = Bound::new(1, 0, [("a", 1), ("b", 2), ("b_scales", 3), ("c", 4)]);
        for (byte, name) in [(1, WEIGHTS), (2, X)] {
            bound = bound.with_tensor_map(name, EncodedTensorMap([byte; 128]));
        }
        let bytes = plan.launches[0].params.bytes(&bound);
        assert!(bytes.len().is_multiple_of(64), "the kernel aligns tensor maps");
        assert_eq!((bytes[0], bytes[128], bytes[256]), (1, 2, 0));
        let addresses: Vec<u64> = bytemuck::pod_collect_to_vec(&bytes[384..400]);
        assert_eq!(addresses, [3, 4]);
        let words: Vec<u32> = bytemuck::pod_collect_to_vec(&bytes[400..460]);
        assert_eq!(words[..2], [300, 48]);
        let splits = plan.launches[0].cluster[0];
        let divisors = [splits, splits, 2].map(Divisor::new);
        assert_eq!(words[2..11], *bytemuck::cast_slice::<Divisor, u32>(&divisors));
        assert_eq!(words[11..], [11 / splits, 11 % splits, ROTATION, 1]);
    }

    #[test]
    fn configurations_force_what_is_estimated() {
        let of = |text: &str, name| {
            let text = problem(text);
            configured_as::<SwappedGemm>(&text, Arch::SM_90, name).unwrap()
        };
        let plain = "m=64,n=8192,k=8192,dtype=bf16";
        for (name, splits) in [("splits_1", 1), ("splits_4", 4), ("splits_8", 8)] {
            let plan = of(plain, name).plan(&h100());
            assert_eq!(plan.launches[0].cluster, [splits, 1, 1]);
            assert_eq!(plan.launches[0].grid, [64 * splits, 1, 1]);
        }
        let Tile { blocks_per_sm, weight_stages, .. } = of(plain, "blocks_1").tile;
        let two = of(plain, "blocks_2").tile;
        assert_eq!((blocks_per_sm, two.blocks_per_sm), (1, 2));
        assert!(weight_stages > two.weight_stages);
        assert_eq!(of(plain, "stages_4").tile.weight_stages, 4);
        assert_eq!(of(plain, "rotation_0").rotation, 0);
        // 66 tiles in pairs, and half of the activations' rows for each block.
        let many = "m=256,n=8400,k=8192,dtype=bf16";
        let pairs = of(many, "multicast");
        assert!(pairs.defines().options().join(" ").contains("-DSHARING=2"));
        let plan = pairs.plan(&h100());
        let splits = plan.launches[0].cluster[0] / 2;
        assert!((1..=4).contains(&splits), "{splits}");
        assert_eq!(plan.launches[0].grid, [33 * 2 * splits, 1, 1]);
        assert_eq!(plan.tensor_maps[0].tile, [64, 128]);
        for (text, name, says) in [
            ("m=65,n=64,k=640,dtype=bf16", "blocks_2", "with up to 64 rows, not 65"),
            ("m=64,n=64,k=192,dtype=bf16", "splits_4", "of up to 3 blocks for k = 192"),
            ("m=64,n=128,k=192,dtype=bf16", "multicast", "n is more than 128, not 128"),
        ] {
            let why = refusal_as::<SwappedGemm>(&problem(text), Arch::SM_90, name);
            assert!(why.contains(says), "{why}");
        }
    }

    #[test]
    fn refusals_say_what_to_use() {
        for (text, says) in [
            ("m=16,n=1,k=8,dtype=f32", "dtype = bf16 or f16, not f32"),
            ("m=15,n=1,k=8,dtype=f16", "not m = 15; use `gemm_skinny`"),
            ("m=257,n=1,k=8,dtype=f16", "16 to 256 rows"),
            ("m=16,n=1,k=16,dtype=f16,w_dtype=int8", "not m = 16; use `gemm_skinny`"),
            ("m=4097,n=1,k=16,dtype=f16,w_dtype=int8", "17 to 4096 rows"),
            ("m=16,n=1,k=12,dtype=f16", "multiples of 8, not 12; use 16"),
        ] {
            let refusal = refusal::<SwappedGemm>(&problem(text), Arch::SM_90);
            assert!(refusal.contains(says), "{text}: {refusal}");
        }
        let usual = problem("m=64,n=1,k=8,dtype=f16");
        assert!(configured::<SwappedGemm>(&usual, Arch::SM_90).is_ok());
        for arch in [Arch::SM_80, Arch::SM_120] {
            let refusal = refusal::<SwappedGemm>(&usual, arch);
            assert!(refusal.contains("sm_90a, which has wgmma"), "{refusal}");
        }
        // Which is the default between the others.
        let default = |text: &str| {
            let problem = problem(text).parse().unwrap();
            Kernel::for_problem(&problem, Arch::SM_90).unwrap().kernel.name
        };
        assert_eq!(default("m=15,n=64,k=64,dtype=f16"), "gemm_skinny");
        assert_eq!(default("m=16,n=8192,k=8192,dtype=f16"), "gemm_skinny");
        assert_eq!(default("m=16,n=32768,k=8192,dtype=f16"), "gemm_swapped");
        assert_eq!(default("m=17,n=64,k=64,dtype=f16"), "gemm_swapped");
        assert_eq!(default("m=64,n=5120,k=25600,dtype=f16"), "gemm_swapped");
        assert_eq!(default("m=256,n=7168,k=18432,dtype=f16"), "gemm_swapped");
        assert_eq!(default("m=256,n=5120,k=25600,dtype=bf16,w_dtype=int8"), "gemm_swapped");
        assert_eq!(default("m=257,n=64,k=64,dtype=f16"), "gemm_wgmma");
    }
}

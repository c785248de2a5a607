//! Host half of `kernels/gemm.cu`: which tile, and how many splits of k. Columns of a step
//! are those of 16 bits, also with tf32: tensor cores multiply as many bytes of it in a clock.

use bytemuck::{Pod, Zeroable};

use super::configuration::Configuration;
use super::contract::HostHalf;
use super::formats::{element_or_tf32, refuse_activations_scheme};
use super::plan::{Launch, Params, Plan, Scratch};
use super::refusal::{Refusal, refuse_unless, supports};
use crate::op::{Gemm, Problem};
use crate::quant::Quant;
use crate::toolchain::{Arch, Defines, Target};

/// `Params` of the kernel.
#[derive(Clone, Copy, Pod, Zeroable)]
#[repr(C)]
struct GemmParams {
    a: u64,
    b: u64,
    c: u64,
    partials: u64,
    tickets: u64,
    m: u32,
    n: u32,
    k: u32,
    splits: u32,
}

/// A tile of C, and how a block computes it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Tile {
    m: u64,
    n: u64,
    warps_m: u64,
    warps_n: u64,
    /// Blocks that share an SM: as many as registers allow.
    resident: u64,
}

/// From the one that reads its operands the fewest times to the one that has no
/// empty rows when there are few. Warps compute 64 x 64 where possible:
/// four times as many FLOPs per byte of shared memory as 16 x 16.
const TILES: [Tile; 4] = [
    Tile { m: 128, n: 256, warps_m: 2, warps_n: 4, resident: 1 },
    Tile { m: 128, n: 128, warps_m: 2, warps_n: 2, resident: 2 },
    Tile { m: 64, n: 128, warps_m: 2, warps_n: 2, resident: 2 },
    Tile { m: 16, n: 128, warps_m: 1, warps_n: 4, resident: 2 },
];

/// Most splits of k.
const MAX_SPLITS: u64 = 16;
/// Tiles of an SM from which on splits are of no use.
const MOST_WAVES: u64 = 4;
/// Most stages: with these, loads arrive before they are waited for.
const MAX_STAGES: u64 = 6;
/// Shared memory that the kernel declares itself, at most.
const STATIC_SHARED_BYTES: u32 = 256;

/// Rough rates of an SM per clock on all architectures: enough to compare tiles of the
/// same problem with each other.
mod nominal {
    /// Multiply-adds of 16-bit operands on tensor cores; half as many of tf32.
    pub const MULTIPLY_ADDS: f64 = 1024.0;
    /// Bytes to and from shared memory.
    pub const SHARED_BYTES: f64 = 128.0;
    /// Bytes from L2, when all SMs load.
    pub const L2_BYTES: f64 = 40.0;
    /// Its share of the bytes from DRAM; other SMs cannot use what it leaves.
    pub const DRAM_BYTES: f64 = 14.0;
    /// Clocks of a load from L2 or DRAM.
    pub const LATENCY: f64 = 800.0;
    /// Clocks of a block before its first and after its last step.
    pub const START_AND_END: f64 = 2000.0;
}

impl Tile {
    const fn threads(&self) -> u64 {
        32 * self.warps_m * self.warps_n
    }

    fn stage_bytes(&self, columns: u64) -> u64 {
        2 * (self.m + self.n) * columns
    }

    /// Columns of a step and number of stages: 64 columns, a whole line of
    /// memory, where three stages of them fit.
    fn depth(&self, arch: Arch) -> (u64, u64) {
        let share = arch.limits().shared_bytes_of_block(self.resident as u32);
        let most = u64::from(share - STATIC_SHARED_BYTES);
        let stages = |columns| (most / self.stage_bytes(columns)).min(MAX_STAGES);
        if stages(64) >= 3 { (64, stages(64)) } else { (32, stages(32)) }
    }

    fn tiles(&self, p: &Gemm) -> u64 {
        p.m.div_ceil(self.m) * p.n.div_ceil(self.n)
    }

    /// Bytes of the partial sums of all blocks; 0 where each block finishes its tile.
    fn partial_bytes(&self, p: &Gemm, splits: u64) -> u64 {
        if splits == 1 { 0 } else { 4 * self.m * self.n * self.tiles(p) * splits }
    }

    /// Rough clocks of a problem on `sms` SMs: those of the SM with the most blocks, or of
    /// DRAM.
    fn clocks(&self, p: &Gemm, splits: u64, arch: Arch, sms: u64) -> f64 {
        let (columns, stages) = self.depth(arch);
        let blocks = self.tiles(p) * splits;
        let steps = columns_of(p).div_ceil(columns).div_ceil(splits) as f64;
        let waves = blocks.div_ceil(sms * self.resident) as f64;

        let copied = self.stage_bytes(columns) as f64;
        let (warp_m, warp_n) = (self.m / self.warps_m, self.n / self.warps_n);
        let loaded =
            (self.warps_m * self.warps_n * self.stage_bytes(columns) * (warp_m + warp_n)
                / (self.m + self.n)) as f64;
        let step = ((self.m * self.n * columns) as f64 / nominal::MULTIPLY_ADDS)
            .max((copied + loaded) / nominal::SHARED_BYTES)
            .max(copied / nominal::L2_BYTES);
        let alone = nominal::LATENCY / (stages - 1) as f64;
        let busiest = blocks.div_ceil(sms) as f64;

        let bytes = Problem::Gemm(*p).work().bytes() as f64;
        let dram = bytes / (nominal::DRAM_BYTES * sms.min(blocks) as f64);
        let add = if splits == 1 {
            0.0
        } else {
            // Each block writes its accumulators. The last one reads all, in
            // batches of 16 per thread and split, one after the other.
            let of_block = (4 * self.m * self.n) as f64 / nominal::L2_BYTES;
            let batches = (self.m * self.n / 4 / self.threads()).div_ceil(16) as f64;
            nominal::START_AND_END
                + of_block * busiest
                + splits as f64 * of_block.max(nominal::LATENCY * batches)
        };
        let sm = steps * (busiest * step).max(waves * alone);
        // The smaller overlaps with the larger, but not completely.
        sm.max(dram) + 0.1 * sm.min(dram) + waves * nominal::START_AND_END + add
    }

    /// How many splits of k to use on `sms` SMs, and the clocks that it takes. One
    /// where tiles alone keep the SMs busy: partial sums through memory cost more
    /// than a last wave that is not full.
    fn best_splits(&self, p: &Gemm, arch: Arch, sms: u64) -> (u64, f64) {
        let (columns, _) = self.depth(arch);
        let busy = self.tiles(p) >= sms;
        let most = if busy { 1 } else { columns_of(p).div_ceil(columns).min(MAX_SPLITS) };
        (1..=most)
            .map(|splits| (splits, self.clocks(p, splits, arch, sms)))
            .min_by(|a, b| a.1.total_cmp(&b.1))
            .unwrap_or((1, 0.0))
    }
}

/// Columns of 16 bits of both operands.
fn columns_of(p: &Gemm) -> u64 {
    p.dtype.bytes_of(p.k) / 2
}

/// The tile with the fewest clocks on a typical GPU of the architecture.
fn best_tile(p: &Gemm, arch: Arch) -> Tile {
    let clocks = |tile: &Tile| tile.best_splits(p, arch, arch.usual_sms().into()).1;
    TILES.into_iter().min_by(|a, b| clocks(a).total_cmp(&clocks(b))).unwrap_or(TILES[0])
}

/// The tile of a configuration, if it names one: refused where most of it would be empty, or
/// where the smallest would read its operands many times.
fn named_tile(p: &Gemm, choice: &Configuration) -> Result<Option<Tile>, Refusal> {
    let [m, n] = ["tile_m", "tile_n"].map(|name| u64::from(choice.or(name, 0)));
    let Some(tile) = TILES.into_iter().find(|tile| (tile.m, tile.n) == (m, n)) else {
        return Ok(None);
    };
    let least = if m == TILES[3].m { 0 } else { m / 2 };
    let most = if m == TILES[3].m { 16 * m } else { u64::MAX };
    refuse_unless((least + 1..=most).contains(&p.m), || match p.m > most {
        true => format!("up to {most} rows in tiles of {m} x {n}, not {}; use larger", p.m),
        false => format!("more than {least} rows in tiles of {m} x {n}, not {}", p.m),
    })?;
    Ok(Some(tile))
}

/// The splits of a configuration, if it names any: refused where they would be more than
/// steps, or where tiles keep a GPU busy several times over, so that sums of splits are bytes
/// for nothing.
fn named_splits(
    p: &Gemm,
    (tile, columns): (&Tile, u64),
    arch: Arch,
    choice: &Configuration,
) -> Result<Option<u64>, Refusal> {
    let splits = u64::from(choice.or("splits", 0));
    let steps = columns_of(p).div_ceil(columns);
    refuse_unless(splits <= steps, || {
        format!("up to {steps} splits of k = {} in steps of {columns}, not {splits}", p.k)
    })?;
    let (tiles, most) = (tile.tiles(p), MOST_WAVES * u64::from(arch.usual_sms()));
    refuse_unless(splits <= 1 || tiles <= most, || {
        format!("splits of up to {most} tiles, not of {tiles}; use one split")
    })?;
    Ok(Some(splits).filter(|splits| *splits > 0))
}

/// A product in tiles.
pub(super) struct TiledGemm {
    p: Gemm,
    /// The macro that chooses the format.
    element: &'static str,
    tile: Tile,
    /// Columns of a step.
    columns: u64,
    /// Steps in shared memory.
    stages: u64,
    /// Splits of k; `None` for as many as take the fewest clocks.
    splits: Option<u64>,
    arch: Arch,
}

impl HostHalf for TiledGemm {
    type Operation = Gemm;
    const NAME: &'static str = "gemm";
    const SOURCE: &'static str = include_str!("../../kernels/gemm.cu");
    const MEMORY_BOUND: bool = false;
    /// Every tile and few splits, which are otherwise chosen by rough clocks.
    const CONFIGURATIONS: &[Configuration] = &[
        Configuration::new("tile_128x256", &[("tile_m", 128), ("tile_n", 256)]),
        Configuration::new("tile_128x128", &[("tile_m", 128), ("tile_n", 128)]),
        Configuration::new("tile_64x128", &[("tile_m", 64), ("tile_n", 128)]),
        Configuration::new("tile_16x128", &[("tile_m", 16), ("tile_n", 128)]),
        Configuration::new("splits_1", &[("splits", 1)]),
        Configuration::new("splits_2", &[("splits", 2)]),
        Configuration::new("splits_4", &[("splits", 4)]),
        Configuration::new("stages_3", &[("stages", 3)]),
        Configuration::PROGRAMMATIC,
    ];

    fn configure(p: &Gemm, arch: Arch, choice: &Configuration) -> Result<Self, Refusal> {
        let element = element_or_tf32(p.dtype).ok_or_else(|| {
            supports(format!(
                "dtype = bf16, f16 or tf32, not {}; use one of those",
                p.dtype
            ))
        })?;
        refuse_unless(p.w_dtype == Quant::weights(p.dtype), || {
            format!("weights in the dtype of activations, not w_dtype = {}", p.w_dtype)
        })?;
        refuse_activations_scheme(p)?;
        // Rows of operands are multiples of 16 bytes.
        let of = 16 / p.dtype.bytes();
        refuse_unless(p.k.is_multiple_of(of), || {
            format!("k in multiples of {of}, not {}; use {}", p.k, p.k.next_multiple_of(of))
        })?;
        let most = 1 << 30;
        refuse_unless(p.m.max(p.n).max(p.k) <= most, || {
            format!("m, n and k up to {most}, not {}; use less", p.m.max(p.n).max(p.k))
        })?;
        // Of the smallest tile, with the most splits.
        let blocks = TILES[3].tiles(p) * MAX_SPLITS;
        refuse_unless(blocks <= i32::MAX as u64, || {
            format!("at most {} blocks, not {blocks}; use smaller m or n", i32::MAX)
        })?;
        let tile = named_tile(p, choice)?.unwrap_or_else(|| best_tile(p, arch));
        let (columns, most) = tile.depth(arch);
        let stages = u64::from(choice.or("stages", most as u32)).min(most);
        let splits = named_splits(p, (&tile, columns), arch, choice)?;
        Ok(TiledGemm { p: *p, element, tile, columns, stages, splits, arch })
    }

    fn defines(&self) -> Defines {
        let tile = &self.tile;
        Defines::new()
            .with(self.element, 1)
            .with("TILE_M", tile.m)
            .with("TILE_N", tile.n)
            .with("TILE_K", self.columns)
            .with("WARPS_M", tile.warps_m)
            .with("WARPS_N", tile.warps_n)
            .with("STAGES", self.stages)
            .with("BLOCKS_PER_SM", tile.resident)
    }

    fn plan(&self, target: &Target) -> Plan {
        let TiledGemm { p, tile, columns, stages, arch, .. } = *self;
        let best = || tile.best_splits(&p, arch, target.sms.into()).0;
        let splits = self.splits.unwrap_or_else(best);
        let blocks = tile.tiles(&p) * splits;
        let params = Params::of(move |bound| GemmParams {
            a: bound.tensor("a"),
            b: bound.tensor("b"),
            c: bound.tensor("c"),
            partials: bound.scratch("partials"),
            tickets: bound.scratch("tickets"),
            m: p.m as u32,
            n: p.n as u32,
            k: columns_of(&p) as u32,
            splits: splits as u32,
        });
        let launch = Launch::new("gemm", blocks as u32, tile.threads() as u32, params);
        Plan {
            scratch: vec![
                Scratch::unset("partials", tile.partial_bytes(&p, splits).max(16)),
                Scratch::zeros("tickets", 4 * tile.tiles(&p)),
            ],
            // Tiles read A and B again, and splits combine their partial sums, all through
            // L2 where they fit.
            extra_bytes: None,
            ..Plan::of(Launch {
                shared_bytes: (stages * tile.stage_bytes(columns)) as u32,
                bytes_in_flight: (stages - 1) * tile.stage_bytes(columns),
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
        configured_as, operation, plan, refusal, refusal_as,
    };

    const ARCHS: [Arch; 5] = [
        Arch::SM_80,
        Arch { major: 8, minor: 6 },
        Arch::SM_90,
        Arch { major: 10, minor: 0 },
        Arch::SM_120,
    ];

    fn problem(m: u64, n: u64, k: u64) -> String {
        format!("gemm:m={m},n={n},k={k},dtype=bf16")
    }

    #[test]
    fn every_tile_fits_every_architecture() {
        for arch in ARCHS {
            for tile in TILES {
                let (columns, stages) = tile.depth(arch);
                assert!(stages >= 3, "{arch} {tile:?}");
                let ring = stages * tile.stage_bytes(columns);
                let block = ring + u64::from(STATIC_SHARED_BYTES);
                let most = arch.limits().shared_bytes_of_block(tile.resident as u32);
                assert!(block <= most.into(), "{arch} {tile:?}");
                // The tile of C passes through the ring.
                assert!(2 * tile.m * tile.n <= ring);
            }
        }
    }

    #[test]
    fn tiles_follow_the_number_of_rows() {
        let rows = |m| best_tile(&operation(&problem(m, 4096, 4096)), Arch::SM_90).m;
        assert_eq!([rows(1), rows(16), rows(64), rows(4096)], [16, 16, 64, 128]);
        assert_eq!(best_tile(&operation(&problem(1, 128, 64)), Arch::SM_80).m, 16);
    }

    /// Decode's projections have few tiles: with splits every SM has work.
    #[test]
    fn splits_keep_sms_busy() {
        for arch in ARCHS {
            let sms = arch.usual_sms();
            let p = problem(1, 4096, 4096);
            let launch = &plan::<TiledGemm>(&p, &Target::new(arch, sms)).launches[0];
            assert!(10 * launch.grid[0] > 9 * sms, "{arch}: {:?}", launch.grid);
        }
        let large = problem(8192, 8192, 8192);
        let plan = plan::<TiledGemm>(&large, &Target::new(Arch::SM_90, 132));
        assert_eq!(plan.launches[0].grid, [64 * 32, 1, 1]);
    }

    #[test]
    fn splits_have_a_step_each() {
        for k in [8, 64, 72, 4096] {
            for tile in TILES {
                let (columns, _) = tile.depth(Arch::SM_80);
                let p = operation(&problem(1, 128, k));
                assert!(tile.best_splits(&p, Arch::SM_80, 108).0 <= k.div_ceil(columns));
            }
        }
    }

    #[test]
    fn params_and_scratch() {
        let p = problem(3, 200, 8);
        let plan = plan::<TiledGemm>(&p, &Target::new(Arch::SM_90, 132));
        let launch = &plan.launches[0];
        // Two tiles of 16 x 128, one step.
        assert_eq!((launch.grid, launch.block), ([2, 1, 1], [128, 1, 1]));
        assert_eq!(plan.scratch.iter().map(Scratch::bytes).collect::<Vec<_>>(), [16, 8]);
        let bound = Bound::new(1, 0, [("a", 256), ("b", 512), ("c", 768)])
            .with_scratch([("partials", 1024), ("tickets", 2048)]);
        let bytes = launch.params.bytes(&bound);
        let words: Vec<u32> = bytemuck::pod_collect_to_vec(&bytes);
        assert_eq!(words, [256, 0, 512, 0, 768, 0, 1024, 0, 2048, 0, 3, 200, 8, 1]);
    }

    #[test]
    fn configurations_force_what_is_estimated() {
        let text = problem(64, 4096, 4096);
        let of = |name, macros: &str| {
            let half = configured_as::<TiledGemm>(&text, Arch::SM_90, name).unwrap();
            let found = half.defines().options().join(" ");
            assert!(found.contains(macros), "{name}: {found}");
            let launch = half.plan(&Target::new(Arch::SM_90, 132)).launches.remove(0);
            (launch.grid[0], launch.shared_bytes)
        };
        let flat = "-DTILE_M=64 -DTILE_N=128 -DTILE_K=64";
        assert_eq!(of("splits_1", flat), (32, 4 * 24576));
        assert_eq!(of("splits_4", flat), (128, 4 * 24576));
        assert_eq!(of("stages_3", "-DSTAGES=3").1, 3 * 24576);
        // Four rows of tiles, split so that SMs are busy.
        let (blocks, _) = of("tile_16x128", "-DTILE_M=16 -DTILE_N=128");
        assert!(blocks.is_multiple_of(4 * 32), "{blocks}");
    }

    #[test]
    fn configurations_that_make_no_sense_are_refused() {
        for ([m, n, k], name, says) in [
            ([64, 4096, 4096], "tile_128x256", "more than 64 rows in tiles of 128 x 256"),
            ([257, 4096, 4096], "tile_16x128", "up to 256 rows in tiles of 16 x 128"),
            ([64, 4096, 72], "splits_4", "up to 2 splits of k = 72 in steps of 64"),
            ([8192, 8192, 8192], "splits_2", "splits of up to 528 tiles, not of 2048"),
        ] {
            let why = refusal_as::<TiledGemm>(&problem(m, n, k), Arch::SM_90, name);
            assert!(why.contains(says), "{why}");
        }
    }

    #[test]
    fn refusals_say_what_to_use() {
        let why = |text: &str| refusal::<TiledGemm>(text, Arch::SM_90);
        assert_eq!(
            why("gemm:m=1,n=1,k=8,dtype=int8"),
            "the CUDA kernel supports dtype = bf16, f16 or tf32, not int8; use one of those"
        );
        assert_eq!(
            why("gemm:m=1,n=1,k=100,dtype=f16"),
            "the CUDA kernel supports k in multiples of 8, not 100; use 104"
        );
        assert!(why("gemm:m=1,n=2000000000,k=8,dtype=f16").contains("up to 1073741824"));
        assert!(
            why("gemm:m=1000000,n=10000000,k=8,dtype=f16").contains("at most 2147483647")
        );
    }
}

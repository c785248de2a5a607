//! Host half of `kernels/gemm_skinny.cu`, and what it shares with that of
//! `kernels/moe_gemm.cu`: how weights are divided among blocks and staged in shared memory.

use bytemuck::{Pod, Zeroable};

use super::bound::Bound;
use super::configuration::Configuration;
use super::contract::HostHalf;
use super::formats::{element, refuse_activations_scheme, refuse_scheme};
use super::plan::{Launch, Params, Plan, Scratch};
use super::refusal::{Refusal, refuse_unless, supports};
use super::split::{Costs, Split, WorkList};
use crate::format::DType;
use crate::op::Gemm;
use crate::quant::{Quant, QuantPlace};
use crate::toolchain::{Arch, Defines, Target};
use crate::weights;

/// Most rows of activations that a block multiplies.
pub(super) const MAX_TOKENS: u64 = 64;
/// Most rows of activations. Quantized weights have no other kernel, though with many rows
/// the kernel is compute bound and does not use the tensor cores well.
const MAX_ROWS: u64 = 4096;
/// Most rows of activations where warps divide columns.
const MAX_ROWS_BY_COLUMNS: u64 = 16;
/// Largest n and k.
const MAX_EXTENT: u64 = 1 << 28;
/// Tiles of 16 rows of weights that a warp multiplies.
const M_TILES: u32 = 2;
/// Most stages; more would add bytes in flight beyond what DRAM can use.
const MAX_STAGES: u32 = 12;
/// Fewest stages: one is copied while another is multiplied.
const LEAST_STAGES: u32 = 2;
/// Most of 4-bit weights. With twice as many an H200 took up to 13% longer.
const MAX_INT4_STAGES: u32 = 6;
/// Shared memory that the kernels declare themselves, at most.
const STATIC_SHARED_BYTES: u32 = 256;

/// The problem's names of the tensors of a product with weights.
pub(super) struct MatrixNames {
    pub x: &'static str,
    pub weights: &'static str,
    /// Absent where weights have no scales.
    pub scales: &'static str,
    pub y: &'static str,
}

const NAMES: MatrixNames = MatrixNames { x: "a", weights: "b", scales: "b_scales", y: "c" };

/// `Matrices` of the kernels.
#[derive(Clone, Copy, Pod, Zeroable)]
#[repr(C)]
pub(super) struct Matrices {
    weights: u64,
    scales: u64,
    x: u64,
    y: u64,
    work: u64,
    partials: u64,
    tickets: u64,
    n: u32,
    k: u32,
}

impl Matrices {
    /// The addresses of the tensors of these names and of the scratch buffers of a
    /// [`Division`].
    pub fn new(bound: &Bound, names: &MatrixNames, n: u64, k: u64) -> Self {
        Matrices {
            weights: bound.tensor(names.weights),
            scales: bound.tensor_or_null(names.scales),
            x: bound.tensor(names.x),
            y: bound.tensor(names.y),
            work: bound.scratch("work list"),
            partials: bound.scratch("partials"),
            tickets: bound.scratch("tickets"),
            n: n as u32,
            k: k as u32,
        }
    }
}

/// `Params` of the kernel.
#[derive(Clone, Copy, Pod, Zeroable)]
#[repr(C)]
struct SkinnyParams {
    of: Matrices,
    m: u32,
    row_tiles: u32,
}

/// The stages of a block in shared memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Ring {
    /// Activations' rows of a block, with padding.
    pub tokens: u32,
    /// Warps of a block.
    warps: u32,
    /// Tiles of 16 rows of weights of a warp.
    m_tiles: u32,
    /// Warps that divide columns: one, or all.
    column_warps: u32,
    /// Whether a warp waits for its own copies only.
    warp_ring: bool,
    /// Blocks that share an SM.
    pub blocks_per_sm: u32,
    /// Stages.
    stages: u32,
    /// Weights of a stage, in bytes.
    weight_bytes: u32,
    /// All of a stage, in bytes.
    stage_bytes: u32,
}

impl Ring {
    /// For blocks of up to so many rows of activations, at most [`MAX_TOKENS`].
    ///
    /// Two blocks share an SM, so that one streams while the other begins or ends a
    /// split. With many rows it is one with as many warps: the activations pass through
    /// L2 for each block, and would take more of its bandwidth than the weights.
    pub fn new(tokens: u64, w_dtype: DType, arch: Arch, choice: &Configuration) -> Self {
        let tokens = tokens.next_multiple_of(8) as u32;
        let (blocks_per_sm, warps) = if tokens <= 16 { (2, 4) } else { (1, 8) };
        let warps = choice.or("warps", warps);
        let blocks_per_sm = if warps == 8 { 1 } else { blocks_per_sm };
        let m_tiles = choice.or("m_tiles", M_TILES);
        let column_warps = if choice.or(BY_COLUMNS, 0) == 1 { warps } else { 1 };
        let rows = warps / column_warps * m_tiles * 16;
        let columns = column_warps * stage_columns(w_dtype) as u32;
        let weight_bytes = w_dtype.bytes_of(u64::from(rows * columns)) as u32;
        let scale_bytes = if w_dtype == DType::Int4 { 2 * rows * column_warps } else { 0 };
        let stage_bytes = weight_bytes + 2 * tokens * columns + scale_bytes;

        let share =
            arch.limits().shared_bytes_of_block(blocks_per_sm) - STATIC_SHARED_BYTES;
        let most = if w_dtype == DType::Int4 { MAX_INT4_STAGES } else { MAX_STAGES };
        let stages = (share / stage_bytes).min(most);
        Ring {
            tokens,
            warps,
            m_tiles,
            column_warps,
            warp_ring: choice.or("warp_ring", 0) == 1,
            blocks_per_sm,
            stages,
            weight_bytes,
            stage_bytes,
        }
    }

    /// The ring of a configuration for `m` rows of activations, of which a block has so many.
    ///
    /// # Errors
    /// A configuration that does not suit them.
    pub fn chosen(
        (m, of_block): (u64, u64),
        w_dtype: DType,
        arch: Arch,
        choice: &Configuration,
    ) -> Result<Self, Refusal> {
        let by_columns = choice.or(BY_COLUMNS, 0) == 1;
        refuse_unless(!by_columns || m <= MAX_ROWS_BY_COLUMNS, || {
            format!(
                "up to {MAX_ROWS_BY_COLUMNS} rows where warps divide columns, and each copies \
                 activations for itself, not m = {m}; use another configuration"
            )
        })?;
        let ring = Ring::new(of_block, w_dtype, arch, choice);
        refuse_unless(ring.stages >= LEAST_STAGES, || {
            format!(
                "{LEAST_STAGES} stages of what fits in shared memory, not of {} bytes with m = {m} \
                 on {arch}; use another configuration",
                ring.stage_bytes
            )
        })?;
        Ok(ring)
    }

    pub fn threads(&self) -> u32 {
        self.warps * 32
    }

    /// Rows of weights of a block.
    pub fn tile_rows(&self) -> u64 {
        u64::from(self.warps / self.column_warps * self.m_tiles * 16)
    }

    /// Columns of a stage.
    fn columns(&self, w_dtype: DType) -> u64 {
        u64::from(self.column_warps) * stage_columns(w_dtype)
    }

    pub fn shared_bytes(&self) -> u32 {
        self.stages * self.stage_bytes
    }

    /// Bytes of weights in flight: all stages but the one that is multiplied.
    pub fn bytes_in_flight(&self) -> u64 {
        u64::from((self.stages - 1) * self.weight_bytes)
    }

    /// What a kernel is compiled with.
    pub fn defines(&self, formats: &MatrixFormats) -> Defines {
        formats
            .defines()
            .with("TOKENS", self.tokens)
            .with("WARPS", self.warps)
            .with("M_TILES", self.m_tiles)
            .with("COLUMN_WARPS", self.column_warps)
            .with("WARP_RING", u32::from(self.warp_ring))
            .with("BLOCKS_PER_SM", self.blocks_per_sm)
            .with("STAGES", self.stages)
            .with("SHARED_BYTES", self.shared_bytes())
    }
}

/// Columns of a warp's part of a stage: a line of memory of each row, or a group with a scale.
///
/// Splits begin at multiples of them too. Those that began at half a line made all requests of
/// a stage two, for the halves of different lines: on an H200 this took 5 to 13% longer.
fn stage_columns(w_dtype: DType) -> u64 {
    match w_dtype {
        DType::Int4 => weights::GROUP_COLUMNS,
        _ => 128 / w_dtype.bytes_of(1),
    }
}

/// The macros that choose the formats of activations, in `element.cuh`, and of weights, in
/// `weights.cuh`.
#[derive(Clone, Copy, Debug)]
pub(super) struct MatrixFormats {
    element: &'static str,
    weight: &'static str,
}

impl MatrixFormats {
    /// All in f32, which `gemv.cu` alone multiplies.
    pub const F32: MatrixFormats =
        MatrixFormats { element: "ELEMENT_F32", weight: "WEIGHT_32" };

    /// These macros.
    pub fn defines(&self) -> Defines {
        Defines::new().with(self.element, 1).with(self.weight, 1)
    }

    /// The macros, or a refusal of formats and extents that the kernels do not support.
    pub fn new(dtype: DType, w_dtype: Quant, n: u64, k: u64) -> Result<Self, Refusal> {
        let element = element(dtype).ok_or_else(|| {
            supports(format!("dtype = bf16 or f16, not {dtype}; use one of those"))
        })?;
        refuse_scheme("w_dtype", w_dtype, QuantPlace::Weights)?;
        let w_dtype = w_dtype.dtype();
        let weight = match w_dtype {
            DType::Fp8E4m3 => "WEIGHT_E4M3",
            DType::Int8 => "WEIGHT_INT8",
            DType::Int4 => "WEIGHT_INT4",
            same if same == dtype => "WEIGHT_16",
            _ => {
                return Err(supports(format!(
                    "weights in the dtype of activations, fp8_e4m3, int8 or int4, not w_dtype \
                     = {w_dtype} with dtype = {dtype}; use one of those"
                )));
            }
        };
        // Of rows that begin at 16 bytes; groups of 4-bit weights are more.
        let columns = if w_dtype == dtype { 8 } else { 16 };
        refuse_unless(k.is_multiple_of(columns), || {
            format!(
                "k in multiples of {columns}, not {k}; use {}",
                k.next_multiple_of(columns)
            )
        })?;
        refuse_unless(n.max(k) <= MAX_EXTENT, || {
            format!("n and k up to {MAX_EXTENT}, not {}; use less", n.max(k))
        })?;
        Ok(MatrixFormats { element, weight })
    }
}

/// Refuses activations whose chunks of 16 bytes are too many for 32 bits.
pub(super) fn refuse_activations(rows: u64, k: u64) -> Result<(), Refusal> {
    refuse_unless(rows * k / 8 <= u64::from(u32::MAX), || {
        format!("activations up to 64 GiB, not {rows} rows of {k}; use fewer")
    })
}

/// A product of sets of tokens with their matrices of weights, divided among blocks.
pub(super) struct Division {
    ring: Ring,
    list: WorkList,
    /// Blocks that share the splits of a block of the list.
    sharers: u32,
    /// Bytes of the partial results of all splits and sharers.
    partial_bytes: u64,
}

impl Division {
    /// `sets` has the tokens of each set, or the most of any sharer.
    pub fn new(
        ring: Ring,
        sets: &[u64],
        (n, k): (u64, u64),
        w_dtype: DType,
        sharers: u32,
        target: &Target,
    ) -> Self {
        let row_tiles = n.div_ceil(ring.tile_rows()) as u32;
        let blocks = (target.sms * ring.blocks_per_sm / sharers).max(1);
        let columns = vec![0..k as u32; sets.len()];
        let unit = ring.columns(w_dtype) as u32;
        // The ring stays full from one split to the next.
        let costs = Costs { overhead: 0, whole: 0, combine: 0 };
        let list = WorkList::new(&columns, row_tiles, unit, blocks, costs);
        let of_split = |split: &Split| {
            let rows = (n - u64::from(split.head) * ring.tile_rows()).min(ring.tile_rows());
            rows.next_multiple_of(4) * sets[split.request as usize] * 4
        };
        let shared = list.splits.iter().filter(|split| split.count > 1);
        let partial_bytes = shared.map(of_split).sum();
        Division { ring, list, sharers, partial_bytes }
    }

    /// The scratch buffers of a divided product.
    pub fn scratch(&self) -> Vec<Scratch> {
        let partial_bytes = self.ring.tile_rows() * u64::from(self.ring.tokens) * 4;
        let sharers = u64::from(self.sharers);
        vec![
            self.list.scratch(),
            Scratch::unset("partials", self.list.partials_bytes(partial_bytes * sharers)),
            self.list.tickets(4 * sharers),
        ]
    }

    /// What dividing adds to the traffic where blocks do not share splits.
    pub fn extra_bytes(&self) -> u64 {
        self.list.extra_bytes(0, 4) + 2 * self.partial_bytes
    }

    pub fn imbalance(&self) -> f64 {
        self.list.imbalance()
    }

    pub fn launch(&self, entry: &'static str, params: Params) -> Launch {
        Launch {
            shared_bytes: self.ring.shared_bytes(),
            // Blocks that share splits read the same.
            bytes_in_flight: self.ring.bytes_in_flight() / u64::from(self.sharers),
            ..Launch::new(
                entry,
                self.list.blocks * self.sharers,
                self.ring.threads(),
                params,
            )
        }
    }
}

/// Blocks that divide the rows of activations.
fn row_tiles(p: &Gemm) -> u64 {
    p.m.div_ceil(MAX_TOKENS)
}

/// A product of few rows.
pub(super) struct SkinnyGemm {
    p: Gemm,
    formats: MatrixFormats,
    /// Blocks that divide the rows of activations.
    row_tiles: u64,
    ring: Ring,
}

/// The parameter that every ring has: whether warps divide columns.
const BY_COLUMNS: &str = "by_columns";
/// Warps divide rows of weights, and wait for one another.
const BY_ROWS: Configuration = Configuration::new("by_rows", &[(BY_COLUMNS, 0)]);
const RUNS_512: Configuration =
    Configuration::new("runs_512", &[(BY_COLUMNS, 1), ("warps", 4)]);
const RUNS_1024: Configuration =
    Configuration::new("runs_1024", &[(BY_COLUMNS, 1), ("warps", 8)]);
const WARP_RINGS: Configuration =
    Configuration::new("warp_rings", &[(BY_COLUMNS, 1), ("warps", 4), ("warp_ring", 1)]);
const WARP_RINGS_1024: Configuration = Configuration::new(
    "warp_rings_1024",
    &[(BY_COLUMNS, 1), ("warps", 8), ("warp_ring", 1)],
);
const WARP_RINGS_TALL: Configuration = Configuration::new(
    "warp_rings_tall",
    &[(BY_COLUMNS, 1), ("warps", 4), ("warp_ring", 1), ("m_tiles", 4)],
);

/// Rings other than those of [`BY_ROWS`]: warps divide columns, so that a stage has long runs of
/// a row, and may wait for their own copies alone.
pub(super) const RING_CONFIGURATIONS: &[Configuration] =
    &[RUNS_512, RUNS_1024, WARP_RINGS, WARP_RINGS_1024, WARP_RINGS_TALL];

/// What the default is for a problem.
///
/// With up to 16 rows of activations an H200 took 1.04 to 1.39 times as long by rows
/// (`results/2026-11-28-nvidia-h200-tune`: m of 1, 4 and 16, n of 4096 and 32768). Where each
/// block has whole rows of its own, blocks of eight warps were the fastest, which divide columns
/// most; with more rows it was four warps, of quantized weights with twice the rows, which read
/// the activations half as often. Other architectures were not measured.
fn usual(p: &Gemm, arch: Arch) -> Configuration {
    if p.m > MAX_ROWS_BY_COLUMNS || arch.major != 9 {
        return BY_ROWS;
    }
    let tiles = p.n.div_ceil(u64::from(16 * M_TILES));
    if tiles <= arch.usual_sms().into() {
        WARP_RINGS_1024
    } else if p.w_dtype.dtype() == p.dtype {
        WARP_RINGS
    } else {
        WARP_RINGS_TALL
    }
}

impl HostHalf for SkinnyGemm {
    type Operation = Gemm;
    const NAME: &'static str = "gemm_skinny";
    const SOURCE: &'static str = include_str!("../../kernels/gemm_skinny.cu");
    const MEMORY_BOUND: bool = true;
    const CONFIGURATIONS: &[Configuration] = &[
        BY_ROWS,
        RUNS_512,
        RUNS_1024,
        WARP_RINGS,
        WARP_RINGS_1024,
        WARP_RINGS_TALL,
        Configuration::PROGRAMMATIC,
        Configuration::WEIGHTS_AHEAD,
    ];

    fn configure(p: &Gemm, arch: Arch, choice: &Configuration) -> Result<Self, Refusal> {
        let formats = MatrixFormats::new(p.dtype, p.w_dtype, p.n, p.k)?;
        refuse_activations_scheme(p)?;
        let w_dtype = p.w_dtype.dtype();
        let most = if w_dtype == p.dtype { MAX_TOKENS } else { MAX_ROWS };
        refuse_unless(p.m <= most, || {
            format!(
                "up to {most} rows with weights in {}, not m = {}; use less",
                p.w_dtype, p.m
            )
        })?;
        refuse_activations(p.m, p.k)?;
        let row_tiles = row_tiles(p);
        // One that only says how launches follow each other has the usual ring.
        let choice = if choice.names(BY_COLUMNS) { choice } else { &usual(p, arch) };
        let ring = Ring::chosen((p.m, p.m.div_ceil(row_tiles)), w_dtype, arch, choice)?;
        Ok(SkinnyGemm { p: *p, formats, row_tiles, ring })
    }

    fn defines(&self) -> Defines {
        self.ring.defines(&self.formats)
    }

    fn plan(&self, target: &Target) -> Plan {
        let SkinnyGemm { p, row_tiles, ring, .. } = *self;
        let tokens = p.m.min(ring.tokens.into());
        let w_dtype = p.w_dtype.dtype();
        let division =
            Division::new(ring, &[tokens], (p.n, p.k), w_dtype, row_tiles as u32, target);
        let params = Params::of(move |bound| SkinnyParams {
            of: Matrices::new(bound, &NAMES, p.n, p.k),
            m: p.m as u32,
            row_tiles: row_tiles as u32,
        });
        Plan {
            scratch: division.scratch(),
            // Blocks that divide rows share what they read through L2.
            extra_bytes: (row_tiles == 1).then(|| division.extra_bytes()),
            imbalance: division.imbalance(),
            ..Plan::of(division.launch("gemm_skinny", params))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernel::Kernel;
    use crate::kernel::contract::testing::{
        configured, operation, options, options_as, plan, refusal,
    };

    const ARCHS: [&str; 7] =
        ["sm_80", "sm_86", "sm_87", "sm_89", "sm_90a", "sm_100a", "sm_120"];
    const FORMATS: [DType; 4] = [DType::Bf16, DType::Fp8E4m3, DType::Int8, DType::Int4];

    fn problem(text: &str) -> String {
        format!("gemm:{text}")
    }

    fn plan_on_h100(text: &str) -> Plan {
        plan::<SkinnyGemm>(&problem(text), &Target::new(Arch::SM_90, 132))
    }

    #[test]
    fn rings_fit_every_architecture() {
        for arch in ARCHS.map(|arch| arch.parse::<Arch>().unwrap()) {
            let sm = arch.limits();
            for (w_dtype, tokens) in
                FORMATS.into_iter().flat_map(|f| (1..=MAX_TOKENS).map(move |m| (f, m)))
            {
                let ring = Ring::new(tokens, w_dtype, arch, Configuration::DEFAULT);
                let what = format!("{arch} {w_dtype} {tokens}: {ring:?}");
                assert!(u64::from(ring.tokens) >= tokens && ring.stages >= 2, "{what}");
                let block = ring.shared_bytes() + STATIC_SHARED_BYTES;
                assert!(block <= sm.shared_bytes_of_block(ring.blocks_per_sm), "{what}");
                // The kernel transposes sums of up to 16 tokens in the memory of a stage.
                let turned = ring.tokens.min(16) * (ring.tile_rows() as u32 + 4) * 4;
                assert!(turned <= ring.stage_bytes, "{what}");
                // Little's law asks 8 KB of an SM on an RTX 5090, the fastest memory
                // with as little shared memory, and 29 KB on an H200.
                let in_flight = u64::from(ring.blocks_per_sm) * ring.bytes_in_flight();
                assert!(in_flight >= 32 << 10, "{what}: {in_flight}");
                if arch == Arch::SM_90 {
                    let least = match (w_dtype, tokens) {
                        (DType::Int4, _) => 80,
                        (_, ..=16) => 128,
                        _ => 80,
                    };
                    assert!(in_flight >= least << 10, "{what}: {in_flight}");
                }
            }
        }
    }

    #[test]
    fn rings_of_warps_fit_too_and_their_stages_have_long_runs() {
        let problem = |m, w_dtype| {
            operation::<Gemm>(&problem(&format!(
                "m={m},n=256,k=1024,dtype=bf16,w_dtype={w_dtype}"
            )))
        };
        let mut looked_at = 0;
        for (choice, arch) in RING_CONFIGURATIONS
            .iter()
            .flat_map(|c| ARCHS.map(|arch| (c, arch.parse::<Arch>().unwrap())))
        {
            for (w_dtype, m) in
                FORMATS.into_iter().flat_map(|f| (1..=16).map(move |m| (f, m)))
            {
                let what = format!("{arch} {w_dtype} {m} {}", choice.name);
                let Ok(half) = SkinnyGemm::configure(&problem(m, w_dtype), arch, choice)
                else {
                    assert!(
                        arch != Arch::SM_90 || m > 8 || choice.or("m_tiles", 2) > 2,
                        "{what}"
                    );
                    continue;
                };
                let ring = half.ring;
                let block = ring.shared_bytes() + STATIC_SHARED_BYTES;
                let most = arch.limits().shared_bytes_of_block(ring.blocks_per_sm);
                assert!(block <= most && ring.stages >= LEAST_STAGES, "{what}: {ring:?}");
                let in_flight = u64::from(ring.blocks_per_sm) * ring.bytes_in_flight();
                let least = if arch == Arch::SM_90 { 32 } else { 8 };
                assert!(in_flight >= least << 10, "{what}: {in_flight}");
                // Of a row; of 16 rows with 4 bits.
                let run = w_dtype.bytes_of(ring.columns(w_dtype));
                assert!(
                    run >= if w_dtype == DType::Int4 { 256 } else { 512 },
                    "{what}: {run}"
                );
                looked_at += 1;
            }
        }
        assert!(looked_at > 1000, "{looked_at}");
    }

    /// By the times of an H200, see [`usual`].
    #[test]
    fn the_default_is_the_ring_that_was_fastest() {
        let p = |text: &str| operation::<Gemm>(&problem(text));
        for (text, name) in [
            ("m=1,n=4096,k=8192,dtype=bf16", "warp_rings_1024"),
            ("m=16,n=4224,k=8192,dtype=bf16,w_dtype=int4", "warp_rings_1024"),
            ("m=16,n=4225,k=8192,dtype=bf16", "warp_rings"),
            ("m=4,n=32768,k=8192,dtype=f16", "warp_rings"),
            ("m=4,n=32768,k=8192,dtype=bf16,w_dtype=fp8_e4m3", "warp_rings_tall"),
            ("m=17,n=4096,k=8192,dtype=bf16", "by_rows"),
        ] {
            assert_eq!(usual(&p(text), Arch::SM_90).name, name, "{text}");
            assert_eq!(usual(&p(text), Arch::SM_80).name, "by_rows", "{text}");
        }
        // Each of 4096 rows of weights is one block's, and nothing is left to add up.
        let plan = plan_on_h100("m=16,n=4096,k=8192,dtype=bf16");
        assert_eq!((plan.launches[0].grid[0], plan.extra_bytes), (128, Some(32 * 128)));
    }

    #[test]
    fn every_block_has_rows() {
        for m in 1..=MAX_ROWS {
            let p = operation(&problem("m=1,n=16,k=128,dtype=bf16,w_dtype=int4"));
            let half = SkinnyGemm::configure(
                &Gemm { m, ..p },
                Arch::SM_90,
                Configuration::DEFAULT,
            )
            .unwrap();
            let (tiles, tokens) = (half.row_tiles, u64::from(half.ring.tokens));
            assert!(
                (tiles - 1) * tokens < m && m <= tiles * tokens,
                "{m}: {tiles} {tokens}"
            );
        }
    }

    #[test]
    fn configurations_do_not_depend_on_matrices() {
        let options = |text: &str| options::<SkinnyGemm>(&problem(text), Arch::SM_90);
        let of_one = options("m=1,n=16,k=128,dtype=f16,w_dtype=int4");
        assert_eq!(of_one, options("m=8,n=4096,k=8192,dtype=f16,w_dtype=int4"));
        assert_eq!(
            of_one,
            "-DELEMENT_F16=1 -DWEIGHT_INT4=1 -DTOKENS=8 -DWARPS=8 -DM_TILES=2 \
             -DCOLUMN_WARPS=8 -DWARP_RING=1 -DBLOCKS_PER_SM=1 -DSTAGES=6 -DSHARED_BYTES=199680"
        );
        let by_rows =
            |text: &str| options_as::<SkinnyGemm>(&problem(text), Arch::SM_90, "by_rows");
        let of_one = by_rows("m=1,n=16,k=128,dtype=f16,w_dtype=int4");
        assert_eq!(of_one, by_rows("m=8,n=4096,k=8192,dtype=f16,w_dtype=int4"));
        assert_eq!(
            of_one,
            "-DELEMENT_F16=1 -DWEIGHT_INT4=1 -DTOKENS=8 -DWARPS=4 -DM_TILES=2 \
             -DCOLUMN_WARPS=1 -DWARP_RING=0 -DBLOCKS_PER_SM=2 -DSTAGES=6 -DSHARED_BYTES=62976"
        );
        let of_many = options("m=64,n=16,k=128,dtype=f16,w_dtype=int4");
        assert_eq!(of_many, options("m=4096,n=16,k=128,dtype=f16,w_dtype=int4"));
    }

    #[test]
    fn blocks_finish_together() {
        for (n, k) in [(4096, 8192), (8192, 8192), (28672, 4096)] {
            for (m, w_dtype) in [(1, "bf16"), (1, "int4"), (64, "bf16"), (64, "int4")] {
                let text = format!("m={m},n={n},k={k},dtype=bf16,w_dtype={w_dtype}");
                let plan = plan_on_h100(&text);
                // Splits of up to 33 units, of which some have one fewer.
                assert!(plan.imbalance < 1.04, "{text}: {}", plan.imbalance);
            }
        }
        for text in [
            "m=1,n=4096,k=8192,dtype=bf16",
            "m=16,n=8192,k=8192,dtype=bf16,w_dtype=int8",
            "m=1,n=28672,k=8192,dtype=bf16,w_dtype=int4",
            "m=64,n=5120,k=25600,dtype=bf16,w_dtype=fp8_e4m3",
        ] {
            let plan = plan_on_h100(text);
            assert!(plan.imbalance < 1.04, "{text}: {}", plan.imbalance);
            // Nearly all SMs take part, those of 4096 rows with one block each.
            let is_alone = text.starts_with("m=64") || text.contains("n=4096");
            let resident = if is_alone { 132 } else { 264 };
            assert!(plan.launches[0].grid[0] * 100 >= resident * 96, "{text}");
        }
    }

    #[test]
    fn partial_sums_are_extra_traffic() {
        let by_rows = |text: &str| {
            let half =
                SkinnyGemm::configure(&operation(&problem(text)), Arch::SM_90, &BY_ROWS);
            half.unwrap().plan(&Target::new(Arch::SM_90, 132))
        };
        // One tile of 128 rows and one of 72.
        let plan = by_rows("m=3,n=200,k=8192,dtype=bf16");
        let splits: Vec<Split> = match &plan.scratch[0].content {
            crate::kernel::Content::Bytes(bytes) => bytemuck::pod_collect_to_vec(bytes),
            other => unreachable!("{other:?}"),
        };
        let rows: u64 = splits.iter().map(|p| [128, 72][p.head as usize]).sum();
        assert!(splits.iter().all(|split| split.count > 1));
        let list = 32 * splits.len() as u64;
        assert_eq!(plan.extra_bytes, Some(list + 2 * (rows * 3 * 4 + 2 * 4)));
        // Splits begin where lines of memory and stages do.
        assert!(splits.iter().all(|split| split.first_token % 64 == 0));
        // A tile of one unit has no partial results.
        let plan = by_rows("m=3,n=100,k=32,dtype=bf16");
        assert_eq!(plan.extra_bytes, Some(32));
        // Blocks that share weights share them through a cache.
        let plan = plan_on_h100("m=65,n=100,k=64,dtype=bf16,w_dtype=int8");
        assert_eq!((plan.extra_bytes, plan.launches[0].grid), (None, [2, 1, 1]));
    }

    #[test]
    fn params_lie_as_the_kernel_declares() {
        let plan = plan_on_h100("m=70,n=48,k=256,dtype=f16,w_dtype=int4");
        let scratch = [("work list", 5), ("partials", 6), ("tickets", 7)];
        let tensors = [("a", 1), ("b", 2), ("b_scales", 3), ("c", 4)];
        let bound = Bound::new(1, 0, tensors).with_scratch(scratch);
        let bytes = plan.launches[0].params.bytes(&bound);
        let addresses: Vec<u64> = bytemuck::pod_collect_to_vec(&bytes[..56]);
        assert_eq!(addresses, [2, 3, 1, 4, 5, 6, 7]);
        let words: Vec<u32> = bytemuck::pod_collect_to_vec(&bytes[56..]);
        assert_eq!(words, [48, 256, 70, 2]);
        let unscaled = plan_on_h100("m=7,n=48,k=256,dtype=f16");
        let bound = Bound::new(1, 0, [("a", 1), ("b", 2), ("c", 4)]).with_scratch(scratch);
        let bytes = unscaled.launches[0].params.bytes(&bound);
        let addresses: Vec<u64> = bytemuck::pod_collect_to_vec(&bytes[..32]);
        assert_eq!(addresses, [2, 0, 1, 4]);
    }

    #[test]
    fn refusals_say_what_to_use() {
        for (text, says) in [
            ("m=1,n=1,k=8,dtype=f32", "dtype = bf16 or f16, not f32"),
            ("m=1,n=1,k=16,dtype=bf16,w_dtype=f16", "not w_dtype = f16 with dtype = bf16"),
            ("m=1,n=1,k=12,dtype=f16", "multiples of 8, not 12; use 16"),
            ("m=1,n=1,k=24,dtype=f16,w_dtype=int8", "multiples of 16, not 24; use 32"),
            ("m=65,n=1,k=8,dtype=f16", "up to 64 rows"),
            ("m=4097,n=1,k=16,dtype=f16,w_dtype=int8", "up to 4096 rows"),
            ("m=1,n=1000000000,k=8,dtype=f16", "up to 268435456"),
        ] {
            let refusal = refusal::<SkinnyGemm>(&problem(text), Arch::SM_90);
            assert!(refusal.contains(says), "{text}: {refusal}");
        }
        let many = problem("m=17,n=64,k=64,dtype=bf16").parse().unwrap();
        let asked = Kernel::asked_for("gemm_skinny.warp_rings", &many, Arch::SM_90);
        let refusal = asked.unwrap_err().0;
        assert!(refusal.contains("up to 16 rows where warps divide columns"), "{refusal}");
        let supported =
            configured::<SkinnyGemm>(&problem("m=64,n=1,k=8,dtype=f16"), Arch::OLDEST);
        assert!(supported.is_ok());
        // Which is then the default.
        let default = |text| {
            let problem = problem(text).parse().unwrap();
            Kernel::for_problem(&problem, Arch::SM_80).unwrap().kernel.name
        };
        assert_eq!(default("m=64,n=1,k=8,dtype=f16"), "gemm_skinny");
        assert_eq!(default("m=65,n=1,k=8,dtype=f16"), "gemm");
    }
}

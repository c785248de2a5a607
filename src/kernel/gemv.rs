//! Host half of `kernels/gemv.cu`.

use bytemuck::{Pod, Zeroable};

use super::configuration::Configuration;
use super::contract::HostHalf;
use super::formats::refuse_activations_scheme;
use super::gemm_skinny::MatrixFormats;
use super::plan::{Launch, Params, Plan};
use super::refusal::{Refusal, refuse_unless};
use crate::format::DType;
use crate::op::Gemm;
use crate::quant::Quant;
use crate::toolchain::{Arch, Defines, Target};
use crate::weights;

/// Most rows of activations: each takes as many multiply-adds as a row of weights has columns.
const MAX_TOKENS: u64 = 4;
/// The same of 4-bit weights, which tensor cores multiply by eight.
const MAX_INT4_TOKENS: u64 = 8;
/// Warps of a block.
const WARPS: u32 = 8;
/// Bytes that a warp loads at once.
const STEP_BYTES: u32 = 512;
/// Loads that a warp has in flight.
const LOADS: u32 = 8;
/// Largest n and k.
const MAX_EXTENT: u64 = 1 << 28;
/// Fewest blocks of an SM whose activations must fit beside one another: they have the bytes in
/// flight that DRAM's latency needs.
const LEAST_BLOCKS: u32 = 2;
/// Shared memory that the kernel declares itself, at most: sums of 16 warps.
const STATIC_SHARED_BYTES: u32 = 16 * 8 * 16 * 4;

/// `Params` of the kernel.
#[derive(Clone, Copy, Pod, Zeroable)]
#[repr(C)]
struct GemvParams {
    weights: u64,
    scales: u64,
    x: u64,
    y: u64,
    n: u32,
    k: u32,
    m: u32,
    unused: u32,
}

/// A product of one to a few rows of activations, made as a bare read of the weights.
pub(super) struct Gemv {
    p: Gemm,
    formats: MatrixFormats,
    warps: u32,
    /// Rows of weights of a warp; with 4 bits a block has 16.
    rows: u32,
    /// Loads of a warp in flight.
    loads: u32,
    /// Blocks that share an SM, as far as registers go.
    blocks_per_sm: u32,
    /// Whether blocks stay and take rows in turn.
    stays: bool,
    arch: Arch,
}

impl HostHalf for Gemv {
    type Operation = Gemm;
    const NAME: &'static str = "gemv";
    const SOURCE: &'static str = include_str!("../../kernels/gemv.cu");
    const MEMORY_BOUND: bool = true;
    const CONFIGURATIONS: &[Configuration] = &[
        Configuration::new("rows_1", &[("rows", 1)]),
        Configuration::new("rows_2", &[("rows", 2)]),
        Configuration::new("rows_4", &[("rows", 4)]),
        Configuration::new("warps_4", &[("warps", 4)]),
        Configuration::new("warps_16", &[("warps", 16)]),
        Configuration::new("deep", &[("loads", 16), ("blocks", 2)]),
        Configuration::new("staying", &[("stays", 1)]),
        Configuration::PROGRAMMATIC,
        Configuration::WEIGHTS_AHEAD,
    ];

    fn configure(p: &Gemm, arch: Arch, choice: &Configuration) -> Result<Self, Refusal> {
        let formats = formats(p)?;
        refuse_activations_scheme(p)?;
        let w_dtype = p.w_dtype.dtype();
        let is_int4 = w_dtype == DType::Int4;
        let most = if is_int4 { MAX_INT4_TOKENS } else { MAX_TOKENS };
        refuse_unless(p.m <= most, || {
            format!(
                "up to {most} rows with weights in {}, not m = {}; use less, or `gemm_skinny`",
                p.w_dtype, p.m
            )
        })?;
        refuse_unless(!is_int4 || choice.or("rows", 0) == 0, || {
            format!(
                "rows of weights for each warp in wider formats, not in {w_dtype}, whose lines of \
                 16 rows a block shares; use another configuration"
            )
        })?;
        let (rows, blocks) = shape(p, arch, choice)?;
        let warps = choice.or("warps", WARPS);
        let half = Gemv {
            p: *p,
            formats,
            warps,
            rows,
            loads: choice.or("loads", LOADS),
            blocks_per_sm: (choice.or("blocks", blocks) * WARPS / warps).max(1),
            stays: choice.or("stays", 0) == 1,
            arch,
        };
        let most = arch.limits().shared_bytes_of_block(LEAST_BLOCKS) - STATIC_SHARED_BYTES;
        let bytes = half.shared_bytes();
        refuse_unless(bytes <= u64::from(most), || {
            format!(
                "activations of up to {most} bytes on {arch}, which {LEAST_BLOCKS} blocks hold in \
                 shared memory, not {bytes} for m = {} and k = {}; use less, or `gemm_skinny`",
                p.m, p.k
            )
        })?;
        // As many as have the shared memory too.
        let fits = |blocks: &u32| {
            let share = arch.limits().shared_bytes_of_block(*blocks);
            bytes + half.static_shared_bytes() <= share.into()
        };
        let blocks_per_sm = (1..=half.blocks_per_sm).rev().find(fits).unwrap_or(1);
        Ok(Gemv { blocks_per_sm, ..half })
    }

    fn defines(&self) -> Defines {
        let of_format = self.formats.defines();
        let of_block = |defines: Defines, depth: u32| {
            defines
                .with("WARPS", self.warps)
                .with("DEPTH", depth)
                .with("BLOCKS_PER_SM", self.blocks_per_sm)
        };
        match self.p.w_dtype.dtype() {
            // A group is two loads.
            DType::Int4 => of_block(of_format, self.loads / 2),
            _ => of_block(of_format, self.loads / self.rows)
                .with("ROWS", self.rows)
                .with("TOKENS", self.p.m),
        }
    }

    fn plan(&self, target: &Target) -> Plan {
        let p = self.p;
        let blocks = match self.stays {
            true => self.blocks().min((target.sms * self.blocks_per_sm).into()),
            false => self.blocks(),
        };
        let params = Params::of(move |bound| GemvParams {
            weights: bound.tensor("b"),
            scales: bound.tensor_or_null("b_scales"),
            x: bound.tensor("a"),
            y: bound.tensor("c"),
            n: p.n as u32,
            k: p.k as u32,
            m: p.m as u32,
            unused: 0,
        });
        Plan::of(Launch {
            shared_bytes: self.shared_bytes() as u32,
            bytes_in_flight: u64::from(self.warps * self.loads * STEP_BYTES),
            ..Launch::new("gemv", blocks as u32, self.warps * 32, params)
        })
    }

    /// Whether nothing but the weights takes time.
    ///
    /// An SM of an H100 gets 512 bytes, a warp's load, in 38 clocks of 1.7 GHz where 132 share
    /// 3050 GB/s, and issues 152 instructions meanwhile. The loop of the compiled kernel has, for
    /// each load, with m = 1, 2 and 4: 27, 44 and 61 with weights of 16 bits, 70 to 74, 105 to
    /// 109 and 138 to 142 with 8; 62 with 4 bits. On an H200 one row took as long as the bytes;
    /// four took 7% longer than `gemm_skinny`'s warps did, in 16 bits, and 63% with 8
    /// (`results/2026-11-28-nvidia-h200-tune`). That kernel has none in f32.
    ///
    /// And few rows do not fill a GPU: nothing divides columns here but the warps of a block.
    fn is_fast(&self) -> bool {
        let alone = self.p.m == 1 || self.p.dtype == DType::F32;
        alone && self.blocks() >= self.arch.usual_sms().into()
    }
}

impl Gemv {
    /// Blocks for all rows.
    fn blocks(&self) -> u64 {
        let rows = match self.p.w_dtype.dtype() {
            DType::Int4 => weights::TILE_ROWS,
            _ => u64::from(self.warps * self.rows),
        };
        self.p.n.div_ceil(rows)
    }

    /// Shared memory that the kernel declares itself: sums of warps, of 4-bit weights.
    fn static_shared_bytes(&self) -> u64 {
        match self.p.w_dtype.dtype() {
            DType::Int4 => u64::from(self.warps) * 8 * weights::TILE_ROWS * 4,
            _ => 0,
        }
    }

    /// Dynamic shared memory: activations, and scales of the rows of a block.
    fn shared_bytes(&self) -> u64 {
        let scales = match self.p.w_dtype.dtype() {
            DType::Int4 => self.p.k / weights::GROUP_COLUMNS * weights::TILE_ROWS * 2,
            _ => 0,
        };
        self.p.dtype.bytes_of(self.p.m * self.p.k) + scales
    }
}

/// Rows of weights of a warp, and how many blocks of [`WARPS`] share an SM: each row has a sum
/// for each token, in registers. Several rows use activations from shared memory once for all,
/// which with four tokens would take most of its bandwidth.
fn shape(p: &Gemm, arch: Arch, choice: &Configuration) -> Result<(u32, u32), Refusal> {
    let (tokens, w_dtype) = (p.m as u32, p.w_dtype.dtype());
    if w_dtype == DType::Int4 {
        // With four the compiler spills on sm_120.
        return Ok((1, if arch.major == 12 { 3 } else { 4 }));
    }
    let rows = choice.or("rows", if tokens > 2 { 2 } else { 1 });
    let most = if rows == 4 || choice.or("loads", LOADS) > LOADS { 4 } else { 8 };
    refuse_unless(rows * tokens <= most, || {
        format!(
            "m up to {} with {rows} rows of weights to a warp, not m = {tokens}; use less, or \
             another configuration",
            most / rows
        )
    })?;
    // As many as have the registers without spills.
    let blocks = match (rows, tokens) {
        (1, 2) if p.dtype == DType::F32 => 3,
        (1, 1 | 2) => 4,
        (2, 1) if w_dtype.bytes_of(1) > 1 => 4,
        (2, 1 | 2) | (4, 1) => 3,
        _ => 2,
    };
    Ok((rows, blocks))
}

/// The macros of formats, or a refusal of formats and extents.
fn formats(p: &Gemm) -> Result<MatrixFormats, Refusal> {
    if p.dtype != DType::F32 {
        return MatrixFormats::new(p.dtype, p.w_dtype, p.n, p.k);
    }
    refuse_unless(p.w_dtype == Quant::weights(DType::F32), || {
        format!(
            "weights in f32 where dtype = f32, not w_dtype = {}; use dtype = bf16 or f16",
            p.w_dtype
        )
    })?;
    refuse_unless(p.k.is_multiple_of(4), || {
        format!("k in multiples of 4, not {}; use {}", p.k, p.k.next_multiple_of(4))
    })?;
    refuse_unless(p.n.max(p.k) <= MAX_EXTENT, || {
        format!("n and k up to {MAX_EXTENT}, not {}; use less", p.n.max(p.k))
    })?;
    Ok(MatrixFormats::F32)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernel::contract::testing::{operation, options, plan, refusal};
    use crate::kernel::{Bound, Kernel};
    use crate::op::Problem;

    fn problem(text: &str) -> String {
        format!("gemm:{text}")
    }

    fn plan_on_h100(text: &str) -> Plan {
        plan::<Gemv>(&problem(text), &Target::new(Arch::SM_90, 132))
    }

    fn configured(text: &str, name: &str) -> Result<Gemv, Refusal> {
        let choice = Gemv::CONFIGURATIONS.iter().find(|known| known.name == name).unwrap();
        Gemv::configure(&operation(&problem(text)), Arch::SM_90, choice)
    }

    #[test]
    fn rows_are_divided_among_warps_and_lines_among_blocks() {
        let grid = |text: &str| {
            let launch = &plan_on_h100(text).launches[0];
            (launch.grid[0], launch.block[0], launch.shared_bytes)
        };
        assert_eq!(grid("m=1,n=8192,k=8192,dtype=bf16"), (1024, 256, 16384));
        assert_eq!(grid("m=1,n=8193,k=8192,dtype=bf16"), (1025, 256, 16384));
        // Two rows of a warp, and activations of four tokens.
        assert_eq!(grid("m=4,n=8192,k=8192,dtype=bf16"), (512, 256, 65536));
        // Lines of 16 rows, and 16 scales of 2 bytes for each of 64 groups.
        let int4 = "m=1,n=8192,k=8192,dtype=bf16,w_dtype=int4";
        assert_eq!(grid(int4), (512, 256, 16384 + 2048));
        let staying = configured(int4, "staying").unwrap();
        let small = Target::new(Arch::SM_90, 10);
        assert_eq!(staying.plan(&small).launches[0].grid[0], 40);
    }

    #[test]
    fn macros_depend_on_formats_and_rows_of_activations_alone() {
        let options = |text: &str| options::<Gemv>(&problem(text), Arch::SM_90);
        let one = options("m=1,n=16,k=128,dtype=f16");
        assert_eq!(one, options("m=1,n=4096,k=8192,dtype=f16"));
        assert_eq!(
            one,
            "-DELEMENT_F16=1 -DWEIGHT_16=1 -DWARPS=8 -DDEPTH=8 -DBLOCKS_PER_SM=4 -DROWS=1 \
             -DTOKENS=1"
        );
        assert_ne!(one, options("m=2,n=16,k=128,dtype=f16"));
        // Tensor cores multiply eight tokens as one.
        let int4 = |m| options(&format!("m={m},n=16,k=128,dtype=f16,w_dtype=int4"));
        assert_eq!(int4(1), int4(8));
    }

    #[test]
    fn it_is_the_default_where_counts_say_that_memory_binds() {
        let default = |text: &str| {
            let problem: Problem = problem(text).parse().unwrap();
            Kernel::for_problem(&problem, Arch::SM_90).unwrap().kernel.name
        };
        for (text, name) in [
            ("m=1,n=8192,k=8192,dtype=bf16", "gemv"),
            ("m=2,n=8192,k=8192,dtype=f16", "gemm_skinny"),
            ("m=4,n=8192,k=8192,dtype=bf16", "gemm_skinny"),
            ("m=1,n=8192,k=8192,dtype=bf16,w_dtype=fp8_e4m3", "gemv"),
            ("m=2,n=8192,k=8192,dtype=bf16,w_dtype=fp8_e4m3", "gemm_skinny"),
            ("m=1,n=8192,k=8192,dtype=bf16,w_dtype=int4", "gemv"),
            ("m=2,n=8192,k=8192,dtype=bf16,w_dtype=int4", "gemm_skinny"),
            // 128 blocks are fewer than an H100 has SMs.
            ("m=1,n=1024,k=8192,dtype=bf16", "gemm_skinny"),
            // What does not fit in shared memory beside another block.
            ("m=4,n=8192,k=16384,dtype=bf16", "gemm_skinny"),
            // No other kernel multiplies f32.
            ("m=1,n=16,k=64,dtype=f32", "gemv"),
        ] {
            assert_eq!(default(text), name, "{text}");
        }
    }

    #[test]
    fn params_lie_as_the_kernel_declares() {
        let plan = plan_on_h100("m=3,n=48,k=256,dtype=f16,w_dtype=int4");
        let tensors = [("a", 1), ("b", 2), ("b_scales", 3), ("c", 4)];
        let bytes = plan.launches[0].params.bytes(&Bound::new(1, 0, tensors));
        let addresses: Vec<u64> = bytemuck::pod_collect_to_vec(&bytes[..32]);
        assert_eq!(addresses, [2, 3, 1, 4]);
        let words: Vec<u32> = bytemuck::pod_collect_to_vec(&bytes[32..]);
        assert_eq!(words, [48, 256, 3, 0]);
    }

    #[test]
    fn refusals_say_what_to_use() {
        for (text, says) in [
            ("m=5,n=1,k=8,dtype=f16", "up to 4 rows with weights in f16, not m = 5"),
            ("m=9,n=16,k=128,dtype=f16,w_dtype=int4", "up to 8 rows"),
            ("m=1,n=1,k=12,dtype=f16", "multiples of 8, not 12; use 16"),
            ("m=1,n=1,k=6,dtype=f32", "multiples of 4, not 6; use 8"),
            ("m=1,n=1,k=24,dtype=f16,w_dtype=int8", "multiples of 16, not 24; use 32"),
            ("m=1,n=1,k=64,dtype=f32,w_dtype=int8", "weights in f32 where dtype = f32"),
            ("m=4,n=1,k=16384,dtype=f16", "not 131072 for m = 4 and k = 16384"),
            ("m=1,n=1,k=300000000,dtype=f32", "up to 268435456, not 300000000"),
        ] {
            let refusal = refusal::<Gemv>(&problem(text), Arch::SM_90);
            assert!(refusal.contains(says), "{text}: {refusal}");
        }
        let why = |text, name| configured(text, name).err().unwrap().0;
        assert!(why("m=3,n=1,k=8,dtype=f16", "rows_4").contains("m up to 1 with 4 rows"));
        let deep = why("m=4,n=1,k=16,dtype=f16,w_dtype=int8", "deep");
        assert!(deep.contains("m up to 2 with 2 rows"), "{deep}");
        let int4 = why("m=1,n=16,k=128,dtype=f16,w_dtype=int4", "rows_2");
        assert!(int4.contains("whose lines of 16 rows a block shares"), "{int4}");
    }
}

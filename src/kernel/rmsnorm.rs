//! Host half of `kernels/rmsnorm.cu`.

use bytemuck::{Pod, Zeroable};

use super::configuration::Configuration;
use super::contract::HostHalf;
use super::formats::element_or_f32;
use super::plan::{Launch, Params, Plan};
use super::refusal::{Refusal, refuse_unless, supports};
use crate::op::{RMS_EPSILON, RmsNorm};
use crate::toolchain::{Arch, Defines, Target};

/// Bytes of one access.
const VECTOR_BYTES: u64 = 16;
/// Vectors of a token that a thread has.
const VECTORS: u32 = 4;
/// Threads of a warp.
const WARP: u32 = 32;
/// Threads up to which a block has several tokens.
const THREADS: u32 = 128;
/// Most threads of a block, and of a token.
const MOST_THREADS: u32 = 1024;
/// Threads of an SM, with four vectors of 16 bytes in flight each: 72 KiB in all. They leave
/// 56 registers, enough for these and as many weights.
const SM_THREADS: u32 = 1152;
/// The kernel counts tokens in 31 bits, as a grid does.
const MAX_TOKENS: u64 = 1 << 31;

/// `Params` of the kernel.
#[derive(Clone, Copy, Pod, Zeroable)]
#[repr(C)]
struct NormParams {
    x: u64,
    residual: u64,
    w: u64,
    sum: u64,
    y: u64,
    tokens: u32,
    vectors: u32,
    inverse_width: f32,
    epsilon: f32,
}

/// Tokens on their way through the norm.
pub(super) struct NormalizeTokens {
    p: RmsNorm,
    /// The macro of the format.
    element: &'static str,
    /// Vectors of a token.
    vectors: u32,
    /// Threads of a token.
    row_threads: u32,
    /// Threads of a block.
    threads: u32,
    /// Most vectors of a token that a thread has.
    of_thread: u32,
    /// Threads that an SM must hold at least.
    sm_threads: u32,
}

/// Threads of a token of so many vectors, of which each has up to `of_thread`: a part of a
/// warp that divides it, or whole warps.
const fn row_threads(vectors: u32, of_thread: u32) -> u32 {
    let needed = vectors.div_ceil(of_thread);
    if needed <= WARP { needed.next_power_of_two() } else { needed.next_multiple_of(WARP) }
}

impl HostHalf for NormalizeTokens {
    type Operation = RmsNorm;
    const NAME: &'static str = "rmsnorm";
    const SOURCE: &'static str = include_str!("../../kernels/rmsnorm.cu");
    const MEMORY_BOUND: bool = true;
    const CONFIGURATIONS: &[Configuration] = &[
        // More threads for a token have fewer steps each, which counts where there are few
        // tokens; fewer add less across warps. All of them leave registers for as many vectors.
        Configuration::new("vectors_1", &[("vectors", 1), ("sm_threads", 1536)]),
        Configuration::new("vectors_2", &[("vectors", 2), ("sm_threads", 1536)]),
        Configuration::new("vectors_8", &[("vectors", 8), ("sm_threads", 512)]),
        // Blocks of more and of fewer narrow tokens.
        Configuration::new("threads_256", &[("threads", 256)]),
        Configuration::new("threads_64", &[("threads", 64)]),
        Configuration::PROGRAMMATIC,
    ];

    fn configure(p: &RmsNorm, _: Arch, choice: &Configuration) -> Result<Self, Refusal> {
        let of_thread = choice.or("vectors", VECTORS);
        let RmsNorm { m, n, dtype, .. } = *p;
        let element = element_or_f32(dtype).ok_or_else(|| {
            supports(format!("tokens in 16 or 32 bits, not dtype = {dtype}; use bf16"))
        })?;
        let of_vector = VECTOR_BYTES / dtype.bytes();
        refuse_unless(n.is_multiple_of(of_vector), || {
            format!(
                "tokens of whole {VECTOR_BYTES} bytes, not n = {n} in {dtype}; use a multiple \
                 of {of_vector}"
            )
        })?;
        let widest = of_vector * u64::from(of_thread * MOST_THREADS);
        refuse_unless(n <= widest, || {
            format!(
                "tokens that fit the registers of a block, not n = {n} in {dtype}; use at \
                     most {widest}"
            )
        })?;
        refuse_unless(m < MAX_TOKENS, || {
            format!("fewer than {MAX_TOKENS} tokens, not m = {m}; use a smaller m")
        })?;
        let vectors = (n / of_vector) as u32;
        let row_threads = row_threads(vectors, of_thread);
        let most_threads = choice.or("threads", THREADS);
        // With a residual each has twice as many bytes in flight, and 80 registers: 96 KiB.
        let all = choice.or("sm_threads", SM_THREADS);
        Ok(NormalizeTokens {
            p: *p,
            element,
            vectors,
            row_threads,
            threads: (most_threads / row_threads).max(1) * row_threads,
            of_thread,
            sm_threads: if p.residual { all * 2 / 3 } else { all },
        })
    }

    fn defines(&self) -> Defines {
        Defines::new()
            .with("THREADS", self.threads)
            .with("BLOCKS_PER_SM", (self.sm_threads / self.threads).max(1))
            .with("ROW_THREADS", self.row_threads)
            .with("VECTORS", self.of_thread)
            .with("RESIDUAL", u8::from(self.p.residual))
            .with(self.element, 1)
    }

    fn plan(&self, _: &Target) -> Plan {
        let NormalizeTokens { p, vectors, row_threads, threads, .. } = *self;
        let array_bytes = p.dtype.bytes_of(p.m * p.n);
        let params = Params::of(move |bound| {
            let (sum, y) = if p.residual {
                let sum = bound.tensor("sum_and_y");
                (sum, sum + array_bytes)
            } else {
                (0, bound.tensor("y"))
            };
            NormParams {
                x: bound.tensor("x"),
                residual: bound.tensor_or_null("residual"),
                w: bound.tensor("w"),
                sum,
                y,
                tokens: p.m as u32,
                vectors,
                inverse_width: (1.0 / p.n as f64) as f32,
                epsilon: RMS_EPSILON,
            }
        });
        let tokens = threads / row_threads;
        let arrays = if p.residual { 2 } else { 1 };
        Plan::of(Launch {
            // A block's tokens; the weights come from L2.
            bytes_in_flight: arrays * u64::from(tokens * vectors) * VECTOR_BYTES,
            ..Launch::new("rmsnorm", (p.m as u32).div_ceil(tokens), threads, params)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::bytes_in_flight_per_sm;
    use super::*;
    use crate::kernel::contract::testing::{
        configured, options, options_as, plan, refusal, refusal_as,
    };
    use crate::kernel::{Bound, Kernel};
    use crate::op::Problem;

    #[test]
    fn params_say_where_tokens_are() {
        let target = Target::new(Arch::SM_90, 132);
        let words = |text: &str| {
            let plan = plan::<NormalizeTokens>(text, &target);
            assert_eq!(plan.extra_bytes, Some(0));
            let tensors = text.parse::<Problem>().unwrap().tensors();
            let names = tensors.iter().map(|tensor| tensor.name);
            let bytes = plan.launches[0].params.bytes(&Bound::new(0, 0, names.zip(1..)));
            let (addresses, rest) = bytes.split_at(5 * 8);
            let addresses: Vec<u64> = bytemuck::pod_collect_to_vec(addresses);
            let counts: Vec<u32> = bytemuck::pod_collect_to_vec(&rest[..8]);
            let floats: Vec<f32> = bytemuck::pod_collect_to_vec(&rest[8..]);
            (plan.launches[0].grid[0], addresses, counts, floats)
        };
        let (blocks, addresses, counts, floats) = words("rmsnorm:m=7,n=4096,dtype=bf16");
        assert_eq!(blocks, 7);
        assert_eq!((addresses, counts), (vec![1, 0, 2, 0, 3], vec![7, 512]));
        assert_eq!(floats, [1.0 / 4096.0, 1e-5]);
        // 16 vectors a token, four threads, 32 tokens a block.
        let (blocks, addresses, counts, _) =
            words("rmsnorm:m=33,n=64,dtype=f32,residual=true");
        assert_eq!(blocks, 2);
        assert_eq!((addresses, counts), (vec![1, 2, 3, 4, 4 + 33 * 256], vec![33, 16]));
    }

    #[test]
    fn threads_cover_a_token() {
        for vectors in 1..=4096 {
            let threads = row_threads(vectors, VECTORS);
            assert!(VECTORS * threads >= vectors && threads <= MOST_THREADS, "{vectors}");
            let fits = if threads <= WARP { WARP % threads } else { threads % WARP };
            assert_eq!(fits, 0, "{vectors}");
        }
        for (n, expected) in [
            (8, "-DTHREADS=128 -DBLOCKS_PER_SM=9 -DROW_THREADS=1"),
            (2048, "-DTHREADS=128 -DBLOCKS_PER_SM=9 -DROW_THREADS=64"),
            (5120, "-DTHREADS=160 -DBLOCKS_PER_SM=7 -DROW_THREADS=160"),
            (32768, "-DTHREADS=1024 -DBLOCKS_PER_SM=1 -DROW_THREADS=1024"),
        ] {
            let text = format!("rmsnorm:m=1,n={n},dtype=bf16");
            let found = options::<NormalizeTokens>(&text, Arch::SM_80);
            assert_eq!(
                found,
                format!("{expected} -DVECTORS=4 -DRESIDUAL=0 -DELEMENT_BF16=1")
            );
        }
    }

    #[test]
    fn configurations_divide_tokens_otherwise() {
        for (name, n, expected) in [
            ("vectors_1", 4096, "-DTHREADS=512 -DBLOCKS_PER_SM=3 -DROW_THREADS=512"),
            ("vectors_2", 4096, "-DTHREADS=256 -DBLOCKS_PER_SM=6 -DROW_THREADS=256"),
            ("vectors_8", 16384, "-DTHREADS=256 -DBLOCKS_PER_SM=2 -DROW_THREADS=256"),
            ("threads_256", 1024, "-DTHREADS=256 -DBLOCKS_PER_SM=4 -DROW_THREADS=32"),
        ] {
            let text = format!("rmsnorm:m=9,n={n},dtype=bf16");
            let found = options_as::<NormalizeTokens>(&text, Arch::SM_90, name);
            assert!(found.starts_with(expected), "{name}: {found}");
        }
        let wide = "rmsnorm:m=9,n=16384,dtype=bf16";
        let why = refusal_as::<NormalizeTokens>(wide, Arch::SM_90, "vectors_1");
        assert!(why.contains("use at most 8192"), "{why}");
    }

    /// Twice what the latency of DRAM takes, for hidden sizes of models: see the test of
    /// the other memory-bound kernels.
    #[test]
    fn enough_bytes_are_in_flight() {
        for n in [128, 2048, 4096, 5120, 6144, 7168, 8192, 12288, 16384] {
            for rest in ["bf16", "f16,residual=true"] {
                let text = format!("rmsnorm:m=4096,n={n},dtype={rest}");
                let problem: Problem = text.parse().unwrap();
                let configured = Kernel::for_problem(&problem, Arch::SM_90).unwrap();
                let bytes = bytes_in_flight_per_sm(&configured);
                assert!(bytes[0] >= 64 << 10, "{text}: {bytes:?}");
            }
        }
    }

    #[test]
    fn tokens_are_whole_vectors_and_fit_a_block() {
        for (rest, part) in [
            ("n=12,dtype=bf16", "use a multiple of 8"),
            ("n=6,dtype=f32", "use a multiple of 4"),
            ("n=64,dtype=int8", "16 or 32 bits"),
            ("n=32776,dtype=f16", "at most 32768"),
            ("n=16388,dtype=f32", "at most 16384"),
        ] {
            let why =
                refusal::<NormalizeTokens>(&format!("rmsnorm:m=2,{rest}"), Arch::SM_90);
            assert!(why.contains(part), "{rest}: {why}");
        }
        let many =
            refusal::<NormalizeTokens>("rmsnorm:m=2147483648,n=8,dtype=f16", Arch::SM_90);
        assert!(many.contains("fewer than"), "{many}");
        for n in [4, 12, 16384] {
            let text = format!("rmsnorm:m=2,n={n},dtype=f32,residual=true");
            assert!(configured::<NormalizeTokens>(&text, Arch::SM_80).is_ok(), "{text}");
        }
    }
}

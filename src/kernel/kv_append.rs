//! Host half of `kernels/kv_append.cu`.

use bytemuck::{Pod, Zeroable};

use super::configuration::Configuration;
use super::contract::HostHalf;
use super::divisor::Divisor;
use super::formats::refuse_scheme;
use super::lengths::KernelLengths;
use super::plan::{Launch, Params, Plan};
use super::refusal::{Refusal, refuse_unless, supports};
use crate::format::DType;
use crate::op::KvAppend;
use crate::quant::QuantPlace;
use crate::toolchain::{Arch, Defines, Target};

/// Threads of a block.
const THREADS: u32 = 128;
/// Bytes of one access.
const VECTOR_BYTES: u64 = 16;
/// Bytes that an SM should have in flight, to cover the latency of DRAM.
const BYTES_IN_FLIGHT: u64 = 64 << 10;
/// Blocks that an SM of any architecture can hold.
const MAX_BLOCKS: u64 = 16;
/// The kernel counts threads, tokens and what it divides by in 31 bits.
const MAX_COUNT: u64 = 1 << 31;

/// `Params` of the kernel.
#[derive(Clone, Copy, Pod, Zeroable)]
#[repr(C)]
struct AppendParams {
    k_new: u64,
    v_new: u64,
    page_table: u64,
    k_inverse_scales: u64,
    v_inverse_scales: u64,
    k_cache: u64,
    v_cache: u64,
    lengths: KernelLengths,
    threads: u32,
    pages: u32,
    kv_heads: Divisor,
    new_tokens: Divisor,
}

/// Elements of keys, and as many of values, that a thread appends: a vector in the
/// narrower format.
fn thread_elements(p: &KvAppend) -> u64 {
    VECTOR_BYTES / p.dtype.bytes().min(p.kv_dtype.dtype().bytes())
}

/// Threads of a launch that have something to do.
fn threads(p: &KvAppend) -> u64 {
    p.batch * p.new_tokens * p.kv_heads * (p.head_dim / thread_elements(p))
}

/// Blocks that an SM must hold at least: as many as have enough bytes in flight.
fn blocks_per_sm(p: &KvAppend, arch: Arch, block_threads: u32) -> u64 {
    let block_bytes = u64::from(block_threads) * 2 * thread_elements(p) * p.dtype.bytes();
    let most = u64::from(arch.limits().threads_per_sm / block_threads).min(MAX_BLOCKS);
    (BYTES_IN_FLIGHT / block_bytes).clamp(1, most)
}

/// The kernel's name of a format.
fn format_name(dtype: DType) -> Result<&'static str, Refusal> {
    match dtype {
        DType::F32 => Ok("F32"),
        DType::Bf16 => Ok("BF16"),
        DType::F16 => Ok("F16"),
        DType::Fp8E4m3 => Ok("FP8_E4M3"),
        DType::Int8 => Ok("INT8"),
        other => Err(supports(format!(
            "caches in f32, bf16, f16, fp8_e4m3 or int8, not kv_dtype = {other}; use int8"
        ))),
    }
}

/// Bytes of the cache: pages of keys, then pages of values.
fn cache_bytes(p: &KvAppend) -> u64 {
    let tokens = p.batch * p.pages() * p.page_size();
    2 * p.kv_dtype.dtype().bytes_of(tokens * p.kv_heads * p.head_dim)
}

/// An append of new keys and values to pages.
pub(super) struct AppendToPages {
    p: KvAppend,
    /// Formats of new keys and values, and of the cache.
    from: &'static str,
    to: &'static str,
    /// Threads of a block.
    block_threads: u32,
    /// Blocks that an SM must hold at least.
    blocks_per_sm: u64,
    /// Threads of a launch that have something to do.
    threads: u32,
}

impl HostHalf for AppendToPages {
    type Operation = KvAppend;
    const NAME: &'static str = "kv_append";
    const SOURCE: &'static str = include_str!("../../kernels/kv_append.cu");
    const MEMORY_BOUND: bool = true;
    const CONFIGURATIONS: &[Configuration] = &[
        // Small blocks spread the few tokens of a decode step over more SMs.
        Configuration::new("threads_64", &[("threads", 64)]),
        Configuration::new("threads_256", &[("threads", 256)]),
        Configuration::new("threads_512", &[("threads", 512)]),
    ];

    fn configure(
        p: &KvAppend,
        arch: Arch,
        choice: &Configuration,
    ) -> Result<Self, Refusal> {
        refuse_unless(!p.dtype.is_scaled(), || {
            format!(
                "new keys and values in 16 or 32 bits, not dtype = {}; use bf16, and kv_dtype \
                 for the format of the cache",
                p.dtype
            )
        })?;
        refuse_scheme("kv_dtype", p.kv_dtype, QuantPlace::Cache)?;
        let elements = thread_elements(p);
        refuse_unless(p.head_dim.is_multiple_of(elements), || {
            format!(
                "rows of whole {VECTOR_BYTES} bytes, not head_dim = {} of {} for a cache in {}; \
                 use a multiple of {elements}",
                p.head_dim, p.dtype, p.kv_dtype
            )
        })?;
        for (name, value) in
            [("context", p.context), ("page size", p.page_size()), ("vectors", threads(p))]
        {
            refuse_unless(value < MAX_COUNT, || {
                format!(
                    "a number of {name} below {MAX_COUNT}, not {value}; use a smaller one"
                )
            })?;
        }
        let block_threads = choice.or("threads", THREADS);
        Ok(AppendToPages {
            p: *p,
            from: format_name(p.dtype)?,
            to: format_name(p.kv_dtype.dtype())?,
            block_threads,
            blocks_per_sm: blocks_per_sm(p, arch, block_threads),
            threads: threads(p) as u32,
        })
    }

    fn defines(&self) -> Defines {
        Defines::new()
            .with("THREADS", self.block_threads)
            .with("BLOCKS_PER_SM", self.blocks_per_sm)
            .with("FROM", self.from)
            .with("TO", self.to)
            .with("HEAD_DIM", self.p.head_dim)
            .with("PAGE_SIZE", self.p.page_size())
            .with("TOKEN_FIRST", u8::from(self.p.layout.is_token_first()))
    }

    fn plan(&self, _: &Target) -> Plan {
        let AppendToPages { p, threads, block_threads, .. } = *self;
        let cache_bytes = cache_bytes(&p);
        let params = Params::of(move |bound| {
            let cache = bound.tensor("cache");
            AppendParams {
                k_new: bound.tensor("k_new"),
                v_new: bound.tensor("v_new"),
                page_table: bound.tensor("page_table"),
                k_inverse_scales: bound.tensor_or_null("k_inverse_scales"),
                v_inverse_scales: bound.tensor_or_null("v_inverse_scales"),
                k_cache: cache,
                v_cache: cache + cache_bytes / 2,
                lengths: KernelLengths::new(p.lengths, p.context),
                threads,
                pages: p.pages() as u32,
                kv_heads: Divisor::new(p.kv_heads as u32),
                new_tokens: Divisor::new(p.new_tokens as u32),
            }
        });
        // What fits into a vector of keys, and the same of values.
        let read_bytes = thread_elements(&p) * p.dtype.bytes();
        Plan::of(Launch {
            bytes_in_flight: u64::from(block_threads) * 2 * read_bytes,
            ..Launch::new(
                "kv_append",
                threads.div_ceil(block_threads),
                block_threads,
                params,
            )
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernel::Bound;
    use crate::kernel::contract::testing::{
        configured, configured_as, operation, options as options_of, plan, refusal,
    };
    use crate::op::Problem;

    fn problem(rest: &str) -> String {
        format!("kv_append:batch=2,context=1000,kv_heads=3,head_dim=128,{rest}")
    }

    #[test]
    fn params_say_where_tokens_go() {
        let problem =
            problem("new_tokens=5,dtype=bf16,kv_dtype=int8,layout=paged16,lengths=ragged");
        let plan = plan::<AppendToPages>(&problem, &Target::new(Arch::SM_90, 132));
        // 30 rows of 8 threads.
        assert_eq!(plan.launches[0].grid, [2, 1, 1]);
        assert_eq!(plan.extra_bytes, Some(0));
        let tensors = problem.parse::<Problem>().unwrap().tensors();
        let cache = tensors.last().unwrap();
        assert_eq!(
            (cache.name, cache.bytes()),
            ("cache", cache_bytes(&operation(&problem)))
        );
        let names = tensors.iter().map(|tensor| tensor.name);
        let bytes = plan.launches[0].params.bytes(&Bound::new(0, 0, names.zip(1..)));
        let (addresses, counts) = bytes.split_at(9 * 8);
        // Pages of 16 x 3 x 128 bytes, two for each of two requests.
        let addresses: Vec<u64> = bytemuck::pod_collect_to_vec(addresses);
        assert_eq!(addresses, [1, 2, 3, 4, 5, 6, 6 + 4 * 16 * 3 * 128, 125, 876]);
        let counts: Vec<u32> = bytemuck::pod_collect_to_vec(counts);
        assert_eq!(counts, [240, 2, 3, 0xaaaa_aaab, 33, 5, 0xcccc_cccd, 34]);
    }

    #[test]
    fn macros_follow_from_the_problem() {
        for (rest, options) in [
            (
                "new_tokens=1,dtype=bf16,layout=paged16",
                "-DBLOCKS_PER_SM=16 -DFROM=BF16 -DTO=BF16 -DHEAD_DIM=128 -DPAGE_SIZE=16 \
                 -DTOKEN_FIRST=0",
            ),
            (
                "new_tokens=1,dtype=f32,kv_dtype=fp8_e4m3,layout=paged1_nhd",
                "-DBLOCKS_PER_SM=4 -DFROM=F32 -DTO=FP8_E4M3 -DHEAD_DIM=128 -DPAGE_SIZE=1 \
                 -DTOKEN_FIRST=1",
            ),
        ] {
            let found = options_of::<AppendToPages>(&problem(rest), Arch::SM_90);
            assert_eq!(found, format!("-DTHREADS=128 {options}"));
        }
        // An SM of fewer threads.
        let copy = problem("new_tokens=1,dtype=bf16,layout=paged16");
        assert_eq!(blocks_per_sm(&operation(&copy), Arch::SM_120, THREADS), 12);
    }

    #[test]
    fn configurations_divide_threads_otherwise() {
        let text = problem("new_tokens=5,dtype=f32,kv_dtype=int8,layout=paged16");
        let of = |name| {
            let half = configured_as::<AppendToPages>(&text, Arch::SM_90, name).unwrap();
            let plan = half.plan(&Target::new(Arch::SM_90, 132));
            let launch = &plan.launches[0];
            (half.blocks_per_sm, launch.grid[0], launch.block[0], launch.bytes_in_flight)
        };
        // 30 rows of 8 threads, which read 128 bytes each.
        assert_eq!(of("threads_64"), (8, 4, 64, 8 << 10));
        assert_eq!(of("threads_256"), (2, 1, 256, 32 << 10));
    }

    #[test]
    fn rows_are_whole_vectors_and_new_elements_wide() {
        for (rest, refusal) in [
            ("head_dim=128,dtype=int8", "new keys and values in 16 or 32 bits"),
            ("head_dim=24,dtype=bf16,kv_dtype=fp8_e4m3", "use a multiple of 16"),
            ("head_dim=24,dtype=bf16", ""),
            ("head_dim=20,dtype=f32", ""),
            ("head_dim=20,dtype=f32,kv_dtype=f16", "use a multiple of 8"),
        ] {
            let text = format!(
                "kv_append:batch=1,context=64,new_tokens=2,kv_heads=3,layout=paged16,{rest}"
            );
            match configured::<AppendToPages>(&text, Arch::SM_80) {
                Ok(_) => assert_eq!(refusal, "", "{text}"),
                Err(why) => {
                    assert!(!refusal.is_empty() && why.0.contains(refusal), "{why}")
                }
            }
        }
        let many = "kv_append:batch=3000000,context=99,new_tokens=99,kv_heads=8,head_dim=128,\
                    dtype=bf16,layout=paged16";
        let refusal = refusal::<AppendToPages>(many, Arch::SM_90);
        assert!(refusal.contains("a number of vectors below"), "{refusal}");
    }
}

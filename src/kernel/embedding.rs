//! Host half of `kernels/embedding.cu`.

use bytemuck::{Pod, Zeroable};

use super::configuration::Configuration;
use super::contract::HostHalf;
use super::divisor::Divisor;
use super::plan::{Launch, Params, Plan};
use super::refusal::{Refusal, refuse_unless, supports};
use crate::op::Embedding;
use crate::toolchain::{Arch, Defines, Target};

/// Bytes of one access.
const VECTOR_BYTES: u64 = 16;
/// Threads of a block.
const THREADS: u32 = 128;
/// Vectors of a thread.
const VECTORS: u32 = 2;
/// The kernel counts vectors in 31 bits, rows of the table in 32.
const MAX_VECTORS: u64 = 1 << 31;
const MAX_ROWS: u64 = 1 << 32;

/// `Params` of the kernel.
#[derive(Clone, Copy, Pod, Zeroable)]
#[repr(C)]
struct EmbeddingParams {
    tokens: u64,
    table: u64,
    y: u64,
    vocab: u32,
    all: u32,
    vectors: Divisor,
    _padding: u32,
}

/// Tokens whose rows are looked up.
pub(super) struct LookUpTokens {
    vocab: u32,
    /// Vectors of a row.
    vectors: u32,
    /// Vectors of the output.
    all: u32,
    /// Threads of a block.
    threads: u32,
    /// Vectors of a thread.
    of_thread: u32,
    /// Blocks that an SM must hold at least: as many as it has threads for, unless a thread
    /// needs more registers.
    blocks_per_sm: u32,
}

impl HostHalf for LookUpTokens {
    type Operation = Embedding;
    const NAME: &'static str = "embedding";
    const SOURCE: &'static str = include_str!("../../kernels/embedding.cu");
    const MEMORY_BOUND: bool = true;
    const CONFIGURATIONS: &[Configuration] = &[
        // More threads for few tokens, and fewer blocks to start for many.
        Configuration::new("vectors_1", &[("vectors", 1)]),
        Configuration::new("vectors_4", &[("vectors", 4), ("blocks_per_sm", 8)]),
        Configuration::new("threads_256", &[("threads", 256)]),
        Configuration::new("threads_512", &[("threads", 512)]),
        Configuration::PROGRAMMATIC,
    ];

    fn configure(
        p: &Embedding,
        arch: Arch,
        choice: &Configuration,
    ) -> Result<Self, Refusal> {
        let Embedding { m, vocab, n, dtype } = *p;
        if dtype.is_scaled() {
            return Err(supports(format!(
                "tables in 16 or 32 bits, not dtype = {dtype}; use bf16"
            )));
        }
        let of_vector = VECTOR_BYTES / dtype.bytes();
        refuse_unless(n.is_multiple_of(of_vector), || {
            format!(
                "rows of whole {VECTOR_BYTES} bytes, not n = {n} in {dtype}; use a multiple of \
                 {of_vector}"
            )
        })?;
        let all = m * (n / of_vector);
        for (name, value, limit) in
            [("rows", vocab, MAX_ROWS), ("vectors of outputs", all, MAX_VECTORS)]
        {
            refuse_unless(value < limit, || {
                format!("fewer than {limit} {name}, not {value}; use a smaller problem")
            })?;
        }
        let threads = choice.or("threads", THREADS);
        let resident = arch.limits().threads_per_sm / threads;
        Ok(LookUpTokens {
            vocab: vocab as u32,
            vectors: (n / of_vector) as u32,
            all: all as u32,
            threads,
            of_thread: choice.or("vectors", VECTORS),
            blocks_per_sm: choice.or("blocks_per_sm", resident).min(resident),
        })
    }

    fn defines(&self) -> Defines {
        Defines::new()
            .with("THREADS", self.threads)
            .with("BLOCKS_PER_SM", self.blocks_per_sm)
            .with("VECTORS", self.of_thread)
    }

    fn plan(&self, _: &Target) -> Plan {
        let LookUpTokens { vocab, vectors, all, threads, of_thread, .. } = *self;
        let params = Params::of(move |bound| EmbeddingParams {
            tokens: bound.tensor("tokens"),
            table: bound.tensor("table"),
            y: bound.tensor("y"),
            vocab,
            all,
            vectors: Divisor::new(vectors),
            _padding: 0,
        });
        let of_block = threads * of_thread;
        Plan::of(Launch {
            bytes_in_flight: u64::from(of_block) * VECTOR_BYTES,
            ..Launch::new("embedding", all.div_ceil(of_block), threads, params)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernel::Bound;
    use crate::kernel::contract::testing::{configured_as, options, plan, refusal};

    #[test]
    fn params_say_where_rows_are() {
        let text = "embedding:m=5,vocab=128256,n=4096,dtype=bf16";
        let plan = plan::<LookUpTokens>(text, &Target::new(Arch::SM_90, 132));
        assert_eq!(plan.extra_bytes, Some(0));
        // 512 vectors a token: two blocks.
        assert_eq!(plan.launches[0].grid, [10, 1, 1]);
        let bound = Bound::new(0, 0, [("tokens", 1), ("table", 2), ("y", 3)]);
        let bytes = plan.launches[0].params.bytes(&bound);
        let words: Vec<u32> = bytemuck::pod_collect_to_vec(&bytes);
        assert_eq!(words[..9], [1, 0, 2, 0, 3, 0, 128_256, 2560, 512]);
        // All formats are copied by the same code.
        for dtype in ["f32", "f16"] {
            let text = format!("embedding:m=1,vocab=9,n=8,dtype={dtype}");
            let found = options::<LookUpTokens>(&text, Arch::SM_90);
            assert_eq!(found, "-DTHREADS=128 -DBLOCKS_PER_SM=16 -DVECTORS=2");
        }
    }

    #[test]
    fn configurations_divide_vectors_otherwise() {
        let text = "embedding:m=5,vocab=128256,n=4096,dtype=bf16";
        let of = |name, macros: &str| {
            let half = configured_as::<LookUpTokens>(text, Arch::SM_120, name).unwrap();
            assert_eq!(half.defines().options().join(" "), macros);
            half.plan(&Target::new(Arch::SM_120, 170)).launches[0].grid[0]
        };
        let one = of("vectors_1", "-DTHREADS=128 -DBLOCKS_PER_SM=12 -DVECTORS=1");
        let four = of("vectors_4", "-DTHREADS=128 -DBLOCKS_PER_SM=8 -DVECTORS=4");
        let wide = of("threads_256", "-DTHREADS=256 -DBLOCKS_PER_SM=6 -DVECTORS=2");
        assert_eq!([one, four, wide], [20, 5, 5]);
    }

    #[test]
    fn rows_are_whole_vectors() {
        for (rest, part) in [
            ("m=2,vocab=9,n=12,dtype=bf16", "use a multiple of 8"),
            ("m=2,vocab=9,n=6,dtype=f32", "use a multiple of 4"),
            ("m=2,vocab=9,n=64,dtype=int8", "16 or 32 bits"),
            ("m=2,vocab=4294967296,n=8,dtype=bf16", "fewer than 4294967296 rows"),
            ("m=4194304,vocab=9,n=4096,dtype=bf16", "vectors of outputs"),
        ] {
            let why = refusal::<LookUpTokens>(&format!("embedding:{rest}"), Arch::SM_90);
            assert!(why.contains(part), "{rest}: {why}");
        }
    }
}

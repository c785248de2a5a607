//! Host half of `kernels/gated_activation.cu`.

use bytemuck::{Pod, Zeroable};

use super::configuration::Configuration;
use super::contract::HostHalf;
use super::divisor::Divisor;
use super::formats::element_or_f32;
use super::plan::{Launch, Params, Plan};
use super::refusal::{Refusal, refuse_unless, supports};
use crate::op::GatedActivation;
use crate::toolchain::{Arch, Defines, Target};

/// Bytes of one access.
const VECTOR_BYTES: u64 = 16;
/// Threads of a block.
const THREADS: u32 = 128;
/// Bytes that a thread has in flight: a vector of the gate and one of up.
const THREAD_BYTES: u64 = 2 * VECTOR_BYTES;
/// The kernel counts vectors in 31 bits.
const MAX_VECTORS: u64 = 1 << 31;

/// `Params` of the kernel.
#[derive(Clone, Copy, Pod, Zeroable)]
#[repr(C)]
struct GateParams {
    x: u64,
    y: u64,
    threads: u32,
    vectors: Divisor,
}

/// Tokens whose up is gated.
pub(super) struct GateTokens {
    /// The macro of the format.
    element: &'static str,
    /// Vectors of a token's gate.
    vectors: u32,
    /// Vectors of all outputs.
    threads: u32,
    /// Threads of a block.
    block_threads: u32,
    /// Blocks that an SM must hold at least: as many as it has threads for.
    blocks_per_sm: u32,
}

impl HostHalf for GateTokens {
    type Operation = GatedActivation;
    const NAME: &'static str = "gated_activation";
    const SOURCE: &'static str = include_str!("../../kernels/gated_activation.cu");
    const MEMORY_BOUND: bool = true;
    const CONFIGURATIONS: &[Configuration] = &[
        // Fewer blocks to start where there are many tokens.
        Configuration::new("threads_256", &[("threads", 256)]),
        Configuration::new("threads_512", &[("threads", 512)]),
        Configuration::new("threads_1024", &[("threads", 1024)]),
        Configuration::PROGRAMMATIC,
    ];

    fn configure(
        p: &GatedActivation,
        arch: Arch,
        choice: &Configuration,
    ) -> Result<Self, Refusal> {
        let GatedActivation { m, n, dtype } = *p;
        let element = element_or_f32(dtype).ok_or_else(|| {
            supports(format!("tokens in 16 or 32 bits, not dtype = {dtype}; use bf16"))
        })?;
        let of_vector = VECTOR_BYTES / dtype.bytes();
        refuse_unless(n.is_multiple_of(of_vector), || {
            format!(
                "gates of whole {VECTOR_BYTES} bytes, not n = {n} in {dtype}; use a multiple \
                 of {of_vector}"
            )
        })?;
        let threads = m * (n / of_vector);
        refuse_unless(threads < MAX_VECTORS, || {
            format!(
                "fewer than {MAX_VECTORS} vectors of outputs, not {threads}; use a smaller m"
            )
        })?;
        let block_threads = choice.or("threads", THREADS);
        Ok(GateTokens {
            element,
            vectors: (n / of_vector) as u32,
            threads: threads as u32,
            block_threads,
            blocks_per_sm: arch.limits().threads_per_sm / block_threads,
        })
    }

    fn defines(&self) -> Defines {
        Defines::new()
            .with("THREADS", self.block_threads)
            .with("BLOCKS_PER_SM", self.blocks_per_sm)
            .with(self.element, 1)
    }

    fn plan(&self, _: &Target) -> Plan {
        let GateTokens { vectors, threads, block_threads, .. } = *self;
        let params = Params::of(move |bound| GateParams {
            x: bound.tensor("x"),
            y: bound.tensor("y"),
            threads,
            vectors: Divisor::new(vectors),
        });
        Plan::of(Launch {
            bytes_in_flight: u64::from(block_threads) * THREAD_BYTES,
            ..Launch::new(
                "gated_activation",
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
    use crate::kernel::contract::testing::{configured_as, options, plan, refusal};

    #[test]
    fn params_say_where_tokens_are() {
        let target = Target::new(Arch::SM_90, 132);
        let plan = plan::<GateTokens>("gated_activation:m=5,n=14336,dtype=bf16", &target);
        assert_eq!(plan.extra_bytes, Some(0));
        // 1792 vectors a token: 14 blocks.
        assert_eq!(plan.launches[0].grid, [70, 1, 1]);
        let bytes = plan.launches[0].params.bytes(&Bound::new(0, 0, [("x", 1), ("y", 2)]));
        let words: Vec<u32> = bytemuck::pod_collect_to_vec(&bytes);
        assert_eq!(words[..6], [1, 0, 2, 0, 8960, 1792]);
        let options =
            options::<GateTokens>("gated_activation:m=1,n=4,dtype=f32", Arch::SM_120);
        assert_eq!(options, "-DTHREADS=128 -DBLOCKS_PER_SM=12 -DELEMENT_F32=1");
    }

    #[test]
    fn configurations_have_larger_blocks() {
        let text = "gated_activation:m=5,n=14336,dtype=bf16";
        let of = |name| {
            let half = configured_as::<GateTokens>(text, Arch::SM_90, name).unwrap();
            let launch = half.plan(&Target::new(Arch::SM_90, 132)).launches.remove(0);
            (half.blocks_per_sm, launch.grid[0], launch.block[0], launch.bytes_in_flight)
        };
        assert_eq!(of("threads_256"), (8, 35, 256, 8192));
        assert_eq!(of("threads_512"), (4, 18, 512, 16384));
    }

    #[test]
    fn gates_are_whole_vectors() {
        for (rest, part) in [
            ("m=2,n=12,dtype=bf16", "use a multiple of 8"),
            ("m=2,n=6,dtype=f32", "use a multiple of 4"),
            ("m=2,n=64,dtype=int8", "16 or 32 bits"),
            ("m=4194304,n=4096,dtype=bf16", "use a smaller m"),
        ] {
            let why =
                refusal::<GateTokens>(&format!("gated_activation:{rest}"), Arch::SM_90);
            assert!(why.contains(part), "{rest}: {why}");
        }
    }
}

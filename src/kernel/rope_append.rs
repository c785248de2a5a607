//! Host half of `kernels/rope_append.cu`.

use std::f64::consts::TAU;

use bytemuck::{Pod, Zeroable};

use super::configuration::Configuration;
use super::contract::HostHalf;
use super::divisor::Divisor;
use super::formats::element_or_f32;
use super::lengths::KernelLengths;
use super::plan::{Launch, Params, Plan, Scratch};
use super::refusal::{Refusal, refuse_unless, supports};
use crate::op::{CachePages, RopeAppend};
use crate::toolchain::{Arch, Defines, Target};

/// Threads of a block.
const THREADS: u32 = 128;
/// Threads of an SM, with four vectors each: 64 KiB in flight. They leave 64 registers.
const SM_THREADS: u32 = 1024;
/// Bytes of one access.
const VECTOR_BYTES: u64 = 16;
/// Heads of a thread.
const HEADS: u32 = 2;
/// The kernel counts threads, tokens and what it divides by in 31 bits.
const MAX_COUNT: u64 = 1 << 31;
/// Name of the scratch buffer of frequencies.
const TURNS: &str = "turns";

/// `Params` of the kernel.
#[derive(Clone, Copy, Pod, Zeroable)]
#[repr(C)]
struct RopeParams {
    qkv: u64,
    page_table: u64,
    turns: u64,
    q: u64,
    k: u64,
    v: u64,
    lengths: KernelLengths,
    threads: u32,
    pages: u32,
    groups: Divisor,
    q_heads: u32,
    kv_heads: u32,
    heads: u32,
}

/// By what part of a turn each pair turns from one position to the next, in 64 bits after
/// the point: a position times it wraps to the fraction of a turn.
fn turns(p: &RopeAppend) -> Vec<u64> {
    let of_pair = |pair| (p.frequency(pair) / TAU * 2f64.powi(64)) as u64;
    (0..p.head_dim / 2).map(of_pair).collect()
}

/// Rotation of queries and keys, and the append of keys and values.
pub(super) struct RotateAndAppend {
    p: RopeAppend,
    /// The macro of the format.
    element: &'static str,
    /// Groups of heads of a request.
    groups: u32,
    /// Threads of a launch that have something to do.
    threads: u32,
    /// Threads of a block.
    block_threads: u32,
    /// Heads of a thread.
    heads: u32,
    /// Threads that an SM must hold at least.
    sm_threads: u32,
}

impl HostHalf for RotateAndAppend {
    type Operation = RopeAppend;
    const NAME: &'static str = "rope_append";
    const SOURCE: &'static str = include_str!("../../kernels/rope_append.cu");
    const MEMORY_BOUND: bool = true;
    const CONFIGURATIONS: &[Configuration] = &[
        // Small blocks spread the few requests of a decode step over more SMs.
        Configuration::new("threads_64", &[("threads", 64)]),
        Configuration::new("threads_256", &[("threads", 256)]),
        // Twice as many threads, which make sines and cosines for one head.
        Configuration::new("heads_1", &[("heads", 1)]),
        // Half as many sines and cosines, and as many registers as four heads take.
        Configuration::new("heads_4", &[("heads", 4), ("sm_threads", 512)]),
        Configuration::PROGRAMMATIC,
    ];

    fn configure(p: &RopeAppend, _: Arch, choice: &Configuration) -> Result<Self, Refusal> {
        let RopeAppend { head_dim, dtype, .. } = *p;
        let element = element_or_f32(dtype).ok_or_else(|| {
            supports(format!(
                "caches in the format of the queries, in 16 or 32 bits, not dtype = {dtype}, \
                 which would take scales; use bf16, and kv_append for what quantizing costs"
            ))
        })?;
        let of_vector = VECTOR_BYTES / dtype.bytes();
        refuse_unless(head_dim.is_multiple_of(2 * of_vector), || {
            format!(
                "half heads of whole {VECTOR_BYTES} bytes, not head_dim = {head_dim} in {dtype}; \
                 use a multiple of {}",
                2 * of_vector
            )
        })?;
        let heads = choice.or("heads", HEADS);
        let groups = p.heads().div_ceil(heads.into());
        let threads = p.batch * groups * (head_dim / 2 / of_vector);
        for (name, value) in [
            ("tokens of a request", p.context),
            ("tokens of a page", p.paging().0),
            ("entries of the page table", p.batch * p.pages()),
            ("vectors of half a head", threads),
        ] {
            refuse_unless(value < MAX_COUNT, || {
                format!(
                    "a number of {name} below {MAX_COUNT}, not {value}; use a smaller one"
                )
            })?;
        }
        Ok(RotateAndAppend {
            p: *p,
            element,
            groups: groups as u32,
            threads: threads as u32,
            block_threads: choice.or("threads", THREADS),
            heads,
            sm_threads: choice.or("sm_threads", SM_THREADS),
        })
    }

    fn defines(&self) -> Defines {
        Defines::new()
            .with("THREADS", self.block_threads)
            .with("BLOCKS_PER_SM", self.sm_threads / self.block_threads)
            .with("HEADS", self.heads)
            .with("HEAD_DIM", self.p.head_dim)
            .with("PAGE_SIZE", self.p.paging().0)
            .with("TOKEN_FIRST", u8::from(self.p.layout.is_token_first()))
            .with("WHOLE", u8::from(self.p.pages == CachePages::Whole))
            .with(self.element, 1)
    }

    fn plan(&self, _: &Target) -> Plan {
        let RotateAndAppend { p, groups, threads, block_threads, heads, .. } = *self;
        let params = Params::of(move |bound| RopeParams {
            qkv: bound.tensor("qkv"),
            page_table: bound.tensor("page_table"),
            turns: bound.scratch(TURNS),
            q: bound.tensor("q"),
            k: bound.tensor("k"),
            v: bound.tensor("v"),
            lengths: KernelLengths::new(p.lengths, p.context),
            threads,
            pages: p.pages() as u32,
            groups: Divisor::new(groups),
            q_heads: p.q_heads as u32,
            kv_heads: p.kv_heads as u32,
            heads: p.heads() as u32,
        });
        let frequencies = Scratch::of(TURNS, &turns(&p));
        let launch = Launch {
            bytes_in_flight: u64::from(block_threads * 2 * heads) * VECTOR_BYTES,
            ..Launch::new(
                "rope_append",
                threads.div_ceil(block_threads),
                block_threads,
                params,
            )
        };
        Plan {
            extra_bytes: Some(frequencies.bytes()),
            scratch: vec![frequencies],
            ..Plan::of(launch)
        }
    }
}

#[cfg(test)]
mod tests {
    use std::f64::consts::PI;

    use super::*;
    use crate::kernel::Bound;
    use crate::kernel::contract::testing::{
        configured_as, operation, options, plan, refusal,
    };
    use crate::op::Problem;

    fn problem(rest: &str) -> String {
        format!("rope_append:batch=2,context=1000,q_heads=32,kv_heads=8,{rest}")
    }

    #[test]
    fn params_say_where_tokens_go() {
        let text =
            problem("head_dim=128,dtype=bf16,layout=paged16,lengths=ragged,pages=whole");
        let plan = plan::<RotateAndAppend>(&text, &Target::new(Arch::SM_90, 132));
        // 24 pairs of heads of 8 threads each, for two requests.
        assert_eq!(plan.launches[0].grid, [3, 1, 1]);
        assert_eq!((plan.scratch[0].bytes(), plan.extra_bytes), (512, Some(512)));
        let tensors = text.parse::<Problem>().unwrap().tensors();
        let names = tensors.iter().map(|tensor| tensor.name);
        let bound = Bound::new(0, 0, names.zip(1..)).with_scratch([(TURNS, 9)]);
        let bytes = plan.launches[0].params.bytes(&bound);
        let (addresses, counts) = bytes.split_at(8 * 8);
        let addresses: Vec<u64> = bytemuck::pod_collect_to_vec(addresses);
        assert_eq!(addresses, [1, 2, 9, 3, 4, 5, 125, 876]);
        let counts: Vec<u32> = bytemuck::pod_collect_to_vec(counts);
        // 63 pages of 16 tokens.
        assert_eq!(
            (counts[..3].to_vec(), counts[5..].to_vec()),
            (vec![384, 63, 24], vec![32, 8, 48])
        );
    }

    #[test]
    fn macros_follow_from_the_problem() {
        for (rest, expected) in [
            ("layout=paged16", "-DPAGE_SIZE=16 -DTOKEN_FIRST=0 -DWHOLE=0"),
            ("layout=paged1_nhd,pages=whole", "-DPAGE_SIZE=1 -DTOKEN_FIRST=1 -DWHOLE=1"),
        ] {
            let text = problem(&format!("head_dim=80,dtype=f32,{rest}"));
            let found = options::<RotateAndAppend>(&text, Arch::SM_90);
            let sizes = "-DTHREADS=128 -DBLOCKS_PER_SM=8 -DHEADS=2 -DHEAD_DIM=80";
            assert_eq!(found, format!("{sizes} {expected} -DELEMENT_F32=1"));
        }
    }

    #[test]
    fn configurations_divide_heads_otherwise() {
        let text = problem("head_dim=128,dtype=bf16,layout=paged16");
        let of = |name, macros: &str| {
            let half = configured_as::<RotateAndAppend>(&text, Arch::SM_90, name).unwrap();
            let found = half.defines().options().join(" ");
            assert!(found.starts_with(macros), "{found}");
            let launch = half.plan(&Target::new(Arch::SM_90, 132)).launches.remove(0);
            (half.groups, launch.grid[0], launch.bytes_in_flight)
        };
        // 48 heads of 8 threads each, for two requests.
        let one = of("heads_1", "-DTHREADS=128 -DBLOCKS_PER_SM=8 -DHEADS=1");
        let four = of("heads_4", "-DTHREADS=128 -DBLOCKS_PER_SM=4 -DHEADS=4");
        let small = of("threads_64", "-DTHREADS=64 -DBLOCKS_PER_SM=16 -DHEADS=2");
        assert_eq!([one, four, small], [(48, 6, 4096), (12, 2, 16384), (24, 6, 4096)]);
    }

    /// What the kernel takes the sine and cosine of, as it makes it, against the angle in
    /// f64: half a unit in the last place of a float at half a turn is 9.4e-8 radians, and
    /// what is cut off behind 32 bits 1.5e-9.
    #[test]
    fn angles_are_as_exact_at_the_last_position_as_at_the_first() {
        let p = operation(&problem("head_dim=128,dtype=bf16,layout=paged16"));
        let turns = turns(&p);
        for first in [0, 8000, 131_000, 1_048_000, 16_000_000] {
            let mut worst: f64 = 0.0;
            for position in first..first + 100 {
                for (pair, turns) in (0..).zip(&turns) {
                    let fraction = (turns.wrapping_mul(position) >> 32) as u32 as i32;
                    let half_turns = fraction as f32 * (1.0 / 2_147_483_648.0);
                    let (sine, cosine) = (f64::from(half_turns) * PI).sin_cos();
                    let (right_sine, right_cosine) =
                        (position as f64 * p.frequency(pair)).sin_cos();
                    let error = (sine - right_sine).hypot(cosine - right_cosine);
                    worst = worst.max(error);
                }
            }
            assert!(worst < 1e-7, "{worst:e} from position {first} on");
        }
    }

    #[test]
    fn half_heads_are_whole_vectors_and_caches_have_no_scales() {
        for (rest, part) in [
            ("head_dim=72,dtype=bf16,layout=paged16", "use a multiple of 16"),
            ("head_dim=12,dtype=f32,layout=paged16", "use a multiple of 8"),
            ("head_dim=128,dtype=int8,layout=paged16", "would take scales; use bf16"),
        ] {
            let why = refusal::<RotateAndAppend>(&problem(rest), Arch::SM_90);
            assert!(why.contains(part), "{rest}: {why}");
        }
        let many = "rope_append:batch=100000000,context=9,q_heads=8,kv_heads=8,head_dim=128,\
                    dtype=bf16,layout=paged16";
        let why = refusal::<RotateAndAppend>(many, Arch::SM_90);
        assert!(why.contains("vectors of half a head below"), "{why}");
    }
}

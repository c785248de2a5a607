//! Host half of `kernels/moe_gemm.cu`: which rows are multiplied by which expert.

use bytemuck::{Pod, Zeroable};

use super::configuration::Configuration;
use super::contract::HostHalf;
use super::gemm_skinny::{
    Division, MAX_TOKENS, Matrices, MatrixFormats, MatrixNames, RING_CONFIGURATIONS, Ring,
    refuse_activations,
};
use super::plan::{Params, Plan, Scratch};
use super::refusal::{Refusal, refuse_unless};
use crate::op::{Inputs, MoeGemm, Operation};
use crate::toolchain::{Arch, Defines, Target};

const NAMES: MatrixNames = MatrixNames { x: "x", weights: "w", scales: "w_scales", y: "y" };

/// `Params` of the kernel.
#[derive(Clone, Copy, Pod, Zeroable)]
#[repr(C)]
struct MoeParams {
    of: Matrices,
    sets: u64,
    rows: u64,
    rows_of_input: u32,
    unused: u32,
}

/// `Set` of the kernel: some rows of the output with the same expert.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Pod, Zeroable)]
#[repr(C)]
struct Set {
    expert: u32,
    first: u32,
    rows: u32,
    unused: u32,
}

/// Rows of the output in the order in which sets have them.
struct RoutedPlan {
    sets: Vec<Set>,
    rows: Vec<u32>,
    /// Whether an expert has several sets, and its weights are read for each.
    repeats: bool,
}

impl RoutedPlan {
    /// The rows of each expert that has any, in as few sets of at most [`MAX_TOKENS`] rows
    /// as possible, as even as possible.
    fn new(p: &MoeGemm) -> Self {
        let (mut sets, mut rows) = (Vec::new(), Vec::new());
        let mut repeats = false;
        for (expert, of_expert) in (0..).zip(p.rows_of_experts()) {
            let count = of_expert.len().div_ceil(MAX_TOKENS as usize).max(1);
            repeats |= count > 1;
            for set in of_expert.chunks(of_expert.len().div_ceil(count).max(1)) {
                let first = rows.len() as u32;
                sets.push(Set { expert, first, rows: set.len() as u32, unused: 0 });
                rows.extend_from_slice(set);
            }
        }
        RoutedPlan { sets, rows, repeats }
    }

    fn ring(
        &self,
        p: &MoeGemm,
        arch: Arch,
        choice: &Configuration,
    ) -> Result<Ring, Refusal> {
        let most: u64 = self.sets.iter().map(|set| set.rows).max().unwrap_or(1).into();
        Ring::chosen((most, most), p.w_dtype.dtype(), arch, choice)
    }
}

/// Rates of an SM of an H100 per clock, such that what it took with weights of 16 bits and up
/// to 256 tokens (`results/2026-11-26-nvidia-h100-80gb-hbm3-paper` and `-weights`, at 1.75 GHz)
/// are these clocks within 15 %.
mod nominal {
    /// Its share of the bytes from DRAM.
    pub const DRAM_BYTES: f64 = 12.6;
    /// Multiply-adds, which come on top of the bytes: operands pass through shared memory, and
    /// sums of splits through memory.
    pub const MULTIPLY_ADDS: f64 = 2200.0;
    /// Bytes of weights that stay in L2 between two sets.
    pub const L2_CAPACITY: u64 = 50 << 20;
}

/// Rough clocks of a layer with weights of 16 bits, to compare them with those of
/// `moe_gemm_wgmma`. Experts of several sets are read for each.
pub(super) fn rough_clocks(p: &MoeGemm, sms: u64) -> f64 {
    let of_experts = p.rows_of_experts();
    let sets = of_experts.iter().map(|rows| rows.len().div_ceil(MAX_TOKENS as usize));
    let again: usize = sets.map(|sets| sets.saturating_sub(1)).sum();
    let of_again =
        if p.expert_bytes() > nominal::L2_CAPACITY { p.expert_bytes() } else { 0 };
    let bytes = (p.work().bytes() + again as u64 * of_again) as f64;
    let multiply_adds = (p.rows() * p.n) as f64 * p.k as f64;
    (bytes / nominal::DRAM_BYTES + multiply_adds / nominal::MULTIPLY_ADDS) / sms as f64
}

/// A layer of routed experts.
pub(super) struct ExpertGemm {
    p: MoeGemm,
    formats: MatrixFormats,
    routed: RoutedPlan,
    ring: Ring,
}

impl HostHalf for ExpertGemm {
    type Operation = MoeGemm;
    const NAME: &'static str = "moe_gemm";
    const SOURCE: &'static str = include_str!("../../kernels/moe_gemm.cu");
    const MEMORY_BOUND: bool = true;
    const CONFIGURATIONS: &[Configuration] = RING_CONFIGURATIONS;

    fn configure(p: &MoeGemm, arch: Arch, choice: &Configuration) -> Result<Self, Refusal> {
        let formats = MatrixFormats::new(p.dtype, p.w_dtype, p.n, p.k)?;
        refuse_unless(p.has_plain_activations(), || {
            format!(
                "activations in dtype = {}, not a_dtype = {}; leave a_dtype out",
                p.dtype, p.a_dtype
            )
        })?;
        refuse_activations(p.input_places(), p.k)?;
        let routed = RoutedPlan::new(p);
        let ring = routed.ring(p, arch, choice)?;
        Ok(ExpertGemm { p: *p, formats, routed, ring })
    }

    fn defines(&self) -> Defines {
        self.ring.defines(&self.formats)
    }

    fn plan(&self, target: &Target) -> Plan {
        let ExpertGemm { p, ref routed, ring, .. } = *self;
        let tokens: Vec<u64> = routed.sets.iter().map(|set| set.rows.into()).collect();
        let division =
            Division::new(ring, &tokens, (p.n, p.k), p.w_dtype.dtype(), 1, target);
        let rows_of_input = match p.inputs {
            Inputs::PerToken => p.top_k as u32,
            Inputs::PerExpert => 1,
        };
        let params = Params::of(move |bound| MoeParams {
            of: Matrices::new(bound, &NAMES, p.n, p.k),
            sets: bound.scratch("sets"),
            rows: bound.scratch("rows of experts"),
            rows_of_input,
            unused: 0,
        });
        let lists = [
            Scratch::of("sets", &routed.sets),
            Scratch::of("rows of experts", &routed.rows),
        ];
        let list_bytes: u64 = lists.iter().map(Scratch::bytes).sum();
        let mut scratch = division.scratch();
        scratch.extend(lists);
        Plan {
            scratch,
            // Sets of the same expert share its weights through L2.
            extra_bytes: (!routed.repeats).then(|| division.extra_bytes() + list_bytes),
            imbalance: division.imbalance(),
            ..Plan::of(division.launch("moe_gemm", params))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernel::Bound;
    use crate::kernel::contract::testing::{operation, plan, refusal};

    fn problem(text: &str) -> String {
        format!("moe_gemm:{text}")
    }

    #[test]
    fn every_row_has_its_expert() {
        for text in [
            "tokens=1,experts=8,top_k=2,n=16,k=16,dtype=bf16,w_dtype=int8,routing=balanced",
            "tokens=300,experts=3,top_k=2,n=16,k=16,dtype=bf16,w_dtype=int8,routing=balanced",
            "tokens=90,experts=16,top_k=4,n=16,k=16,dtype=bf16,w_dtype=int8,routing=zipf",
        ] {
            let p: MoeGemm = operation(&problem(text));
            let routed = RoutedPlan::new(&p);
            let expert_of_rows = p.expert_of_rows();
            let mut seen = vec![false; p.rows() as usize];
            for set in &routed.sets {
                assert!(set.rows > 0 && u64::from(set.rows) <= MAX_TOKENS);
                let first = set.first as usize;
                for &row in &routed.rows[first..first + set.rows as usize] {
                    assert_eq!(expert_of_rows[row as usize], set.expert);
                    assert!(!std::mem::replace(&mut seen[row as usize], true));
                }
            }
            assert!(seen.into_iter().all(|seen| seen));
            assert_eq!(routed.repeats, text.starts_with("tokens=300"));
        }
    }

    #[test]
    fn lists_are_extra_traffic() {
        let target = Target::new(Arch::SM_90, 132);
        // Four experts of two rows, one split each.
        let text = "tokens=8,experts=4,top_k=1,n=16,k=32,dtype=bf16,routing=balanced";
        let few = plan::<ExpertGemm>(&problem(text), &target);
        assert_eq!(few.extra_bytes, Some(4 * 32 + 4 * 16 + 8 * 4));
        assert_eq!(few.launches[0].grid, [4, 1, 1]);
        let many = "tokens=800,experts=4,top_k=1,n=16,k=32,dtype=bf16,routing=balanced";
        assert_eq!(plan::<ExpertGemm>(&problem(many), &target).extra_bytes, None);
    }

    /// Microseconds on an H100, of few rows of an expert and of many.
    #[test]
    fn estimates_are_near_what_was_measured() {
        for (tokens, experts, top_k, n, k, routing, measured) in [
            (2, 8, 2, 28672, 4096, "balanced", 328.5),
            (16, 8, 2, 28672, 4096, "balanced", 653.3),
            (64, 8, 2, 28672, 4096, "balanced", 676.7),
            (64, 8, 2, 28672, 4096, "zipf", 721.0),
            (256, 8, 2, 28672, 4096, "balanced", 760.9),
            (256, 8, 2, 28672, 4096, "uniform", 1191.5),
            (8, 8, 2, 4096, 14336, "uniform", 303.0),
            (64, 128, 8, 1536, 2048, "uniform", 283.7),
            (128, 256, 8, 4096, 7168, "uniform", 5141.6),
            (256, 256, 8, 4096, 7168, "balanced", 5388.5),
            (256, 256, 8, 4096, 7168, "zipf", 5351.0),
        ] {
            let text = format!(
                "tokens={tokens},experts={experts},top_k={top_k},n={n},k={k},dtype=bf16,\
                 routing={routing}"
            );
            let clocks = rough_clocks(&operation(&problem(&text)), 132);
            let ratio = clocks / 1750.0 / measured;
            assert!((0.85..1.15).contains(&ratio), "{text}: {ratio}");
        }
    }

    #[test]
    fn params_lie_as_the_kernel_declares() {
        let scratch = ["work list", "partials", "tickets", "sets", "rows of experts"];
        let bound = Bound::new(1, 0, [("x", 1), ("w", 2), ("w_scales", 3), ("y", 4)])
            .with_scratch(scratch.into_iter().zip(5..));
        for (inputs, rows_of_input) in [("per_token", 3), ("per_expert", 1)] {
            let text = format!(
                "tokens=4,experts=4,top_k=3,n=48,k=256,dtype=f16,w_dtype=int8,\
                 routing=balanced,inputs={inputs}"
            );
            let plan = plan::<ExpertGemm>(&problem(&text), &Target::new(Arch::SM_90, 132));
            let bytes = plan.launches[0].params.bytes(&bound);
            let words: Vec<u32> = bytemuck::pod_collect_to_vec(&bytes);
            assert_eq!(words[..14], [2, 0, 3, 0, 1, 0, 4, 0, 5, 0, 6, 0, 7, 0]);
            assert_eq!(words[14..], [48, 256, 8, 0, 9, 0, rows_of_input, 0]);
        }
    }

    #[test]
    fn refusals_say_what_to_use() {
        for (text, says) in [
            (
                "tokens=1,experts=1,top_k=1,n=1,k=8,dtype=f32,routing=balanced",
                "dtype = bf16 or f16",
            ),
            (
                "tokens=1,experts=1,top_k=1,n=1,k=24,dtype=f16,w_dtype=int8,routing=balanced",
                "multiples of 16, not 24",
            ),
        ] {
            let refusal = refusal::<ExpertGemm>(&problem(text), Arch::SM_90);
            assert!(refusal.contains(says), "{text}: {refusal}");
        }
    }
}

//! Host half of `kernels/moe_gemm.cu`: which rows go with which expert.

use bytemuck::{Pod, Zeroable};

use super::gemm_skinny::{
    Division, MAX_TOKENS, Matrices, Ring, refuse_activations, refuse_matrices,
};
use super::{Arch, Defines, Kernel, Params, Plan, Refusal, Scratch, Target};
use crate::problem::{Inputs, MoeGemm, Op, Problem};

pub(super) const KERNEL: Kernel = Kernel {
    name: "moe_gemm",
    op: Op::MoeGemm,
    source: include_str!("../../kernels/moe_gemm.cu"),
    supports,
    defines,
    plan,
};

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
struct Routed {
    sets: Vec<Set>,
    rows: Vec<u32>,
    /// Whether an expert has several sets, and its weights are read for each.
    repeats: bool,
}

impl Routed {
    /// The rows of each expert that has any, as evenly as can be in as few sets of at
    /// most [`MAX_TOKENS`] as can be.
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
        Routed { sets, rows, repeats }
    }

    fn ring(&self, p: &MoeGemm, arch: Arch) -> Ring {
        let most = self.sets.iter().map(|set| set.rows).max().unwrap_or(1);
        Ring::new(most.into(), p.w_dtype, arch)
    }
}

fn of(problem: &Problem) -> MoeGemm {
    match problem {
        Problem::MoeGemm(p) => *p,
        _ => unreachable!("the kernel table pairs operations and kernels"),
    }
}

fn supports(problem: &Problem, _: Arch) -> Result<(), Refusal> {
    let p = of(problem);
    refuse_matrices(p.dtype, p.w_dtype, p.n, p.k)?;
    refuse_activations(p.input_rows(), p.k)
}

fn defines(problem: &Problem, arch: Arch) -> Defines {
    let p = of(problem);
    Routed::new(&p).ring(&p, arch).defines(p.dtype, p.w_dtype)
}

fn plan(problem: &Problem, target: &Target) -> Plan {
    let p = of(problem);
    let routed = Routed::new(&p);
    let tokens: Vec<u64> = routed.sets.iter().map(|set| set.rows.into()).collect();
    let ring = routed.ring(&p, target.arch);
    let division = Division::new(ring, &tokens, (p.n, p.k), p.w_dtype, 1, target);
    let rows_of_input = match p.inputs {
        Inputs::PerToken => p.top_k as u32,
        Inputs::PerExpert => 1,
    };
    let params = Params::of(move |bound| MoeParams {
        of: Matrices::new(bound, p.n, p.k),
        sets: bound.scratch[3],
        rows: bound.scratch[4],
        rows_of_input,
        unused: 0,
    });
    let lists =
        [Scratch::of("sets", &routed.sets), Scratch::of("rows of experts", &routed.rows)];
    let list_bytes: u64 = lists.iter().map(Scratch::bytes).sum();
    let mut scratch = division.scratch();
    scratch.extend(lists);
    Plan {
        scratch,
        // Sets of the same expert share its weights by way of L2.
        extra_bytes: (!routed.repeats).then(|| division.extra_bytes() + list_bytes),
        imbalance: division.imbalance(),
        ..Plan::of(division.launch("moe_gemm", params))
    }
}

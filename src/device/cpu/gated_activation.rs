//! Gated activations: tokens are divided among threads.

use rayon::prelude::*;

use super::contract::{CpuFormat, CpuKernel, InputBytes, Kernel, PerThread, configured};
use super::simd::{exp2, narrow, widen};
use crate::multiversion::multiversioned;
use crate::op::{GatedActivation, Op};

pub(super) const KERNEL: CpuKernel = CpuKernel {
    name: "cpu_gated_activation",
    op: Op::GatedActivation,
    sources: &[include_str!("gated_activation.rs")],
    configurations: &[],
    configure: |problem, _| {
        configured(problem, |&p: &GatedActivation| {
            CpuFormat::of("dtype", p.dtype)?;
            Ok(Box::new(move |run| Box::new(GatedActivationKernel::new(p, run.threads))))
        })
    },
};

/// Elements that a thread takes at a time: a token of a large model is shared among
/// threads.
const PIECE: usize = 2048;

/// Gates tokens in f32.
struct GatedActivationKernel {
    p: GatedActivation,
    /// A piece of a gate and of up as f32.
    pieces: PerThread<[Vec<f32>; 2]>,
}

impl GatedActivationKernel {
    /// A kernel for `p`, in a format that the CPU has.
    fn new(p: GatedActivation, threads: usize) -> Self {
        let pieces = PerThread::new(threads, || [vec![0.0; PIECE], vec![0.0; PIECE]]);
        GatedActivationKernel { p, pieces }
    }
}

impl Kernel for GatedActivationKernel {
    fn run(&mut self, _slot: usize, inputs: &InputBytes, output: &mut [u8]) {
        let dtype = self.p.dtype;
        let row_bytes = dtype.bytes_of(self.p.n) as usize;
        let piece_bytes = dtype.bytes_of(PIECE as u64) as usize;
        let tokens = inputs.get("x").par_chunks(2 * row_bytes);
        tokens.zip(output.par_chunks_mut(row_bytes)).for_each(|(x, y)| {
            let (gate, up) = x.split_at(row_bytes);
            let pieces = gate.par_chunks(piece_bytes).zip(up.par_chunks(piece_bytes));
            pieces.zip(y.par_chunks_mut(piece_bytes)).for_each(|((gate, up), y)| {
                let count = y.len() / dtype.bytes() as usize;
                self.pieces.with(|[g, u]| {
                    let (g, u) = (&mut g[..count], &mut u[..count]);
                    widen(dtype, gate, g);
                    widen(dtype, up, u);
                    multiply_gated(g, u);
                    narrow(dtype, g, y);
                });
            });
        });
    }
}

multiversioned! {
/// `gate = silu(gate) up`, element by element.
fn multiply_gated(gate: &mut [f32], up: &[f32]) {
    for (gate, up) in gate.iter_mut().zip(up) {
        let power = -std::f32::consts::LOG2_E * *gate;
        let size = exp2(if power < 126.0 { power } else { 126.0 });
        *gate = *gate / (1.0 + size) * up;
    }
}
}

#[cfg(test)]
mod tests {
    use super::super::tests::{device, verify};
    use super::*;
    use crate::device::Device;
    use crate::op::Problem;

    #[test]
    fn activations_are_right() {
        let mut device = device();
        for (m, n) in [(1, 1), (1, 2047), (2, 64), (3, 2049), (130, 200), (2, 14336)] {
            for dtype in ["f32", "bf16", "f16"] {
                verify(&mut device, &format!("gated_activation:m={m},n={n},dtype={dtype}"));
            }
        }
    }

    /// Far from zero silu is its input, or 0.
    #[test]
    fn large_gates_are_open_or_shut() {
        let mut gate = [100.0, -100.0, 1e30, -200.0];
        multiply_gated(&mut gate, &[2.0; 4]);
        assert_eq!((gate[0], gate[2]), (200.0, 2e30));
        assert!(gate[1].abs() < 1e-30 && gate[3].abs() < 1e-30, "{gate:?}");
    }

    #[test]
    fn quantized_tokens_are_refused() {
        let problem: Problem = "gated_activation:m=1,n=8,dtype=fp8_e4m3".parse().unwrap();
        let refusal = device().kernel(&problem).unwrap_err();
        assert!(refusal.to_string().contains("dtype = fp8_e4m3"), "{refusal}");
    }
}

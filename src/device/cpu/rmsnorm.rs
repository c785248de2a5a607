//! RMS norm: tokens are divided among threads.

use bytemuck::cast_slice;
use rayon::prelude::*;

use super::contract::{CpuFormat, CpuKernel, InputBytes, Kernel, PerThread, configured};
use super::simd::{Lanes, narrow, widen};
use crate::multiversion::multiversioned;
use crate::op::{Op, RMS_EPSILON, RmsNorm};

pub(super) const KERNEL: CpuKernel = CpuKernel {
    name: "cpu_rmsnorm",
    op: Op::RmsNorm,
    sources: &[include_str!("rmsnorm.rs")],
    configurations: &[],
    configure: |problem, _| {
        configured(problem, |&p: &RmsNorm| {
            CpuFormat::of("dtype", p.dtype)?;
            Ok(Box::new(move |run| Box::new(RmsNormKernel::new(p, run.threads))))
        })
    },
};

/// Normalizes tokens in f32.
struct RmsNormKernel {
    p: RmsNorm,
    /// The weights as f32.
    weights: Vec<f32>,
    /// A token as f32, and its residual.
    token: PerThread<[Vec<f32>; 2]>,
}

impl RmsNormKernel {
    /// A kernel for `p`, in a format that the CPU has.
    fn new(p: RmsNorm, threads: usize) -> Self {
        let row = || vec![0.0; p.n as usize];
        RmsNormKernel {
            p,
            weights: row(),
            token: PerThread::new(threads, || [row(), row()]),
        }
    }

    /// Writes the norm of one token.
    fn normalize(&self, x: &mut [f32], y: &mut [u8]) {
        let mean = sum_of_squares(x) / x.len() as f32;
        scale(x, 1.0 / (mean + RMS_EPSILON).sqrt(), &self.weights);
        narrow(self.p.dtype, x, y);
    }

    /// Writes the sum of one token and its residual, and the norm of the sum.
    fn add_and_normalize(&self, inputs: [&[u8]; 2], sum: &mut [u8], y: &mut [u8]) {
        let dtype = self.p.dtype;
        self.token.with(|[x, residual]| {
            widen(dtype, inputs[0], x);
            widen(dtype, inputs[1], residual);
            add(x, residual);
            narrow(dtype, x, sum);
            // The norm is that of the sum as it is written.
            widen(dtype, sum, x);
            self.normalize(x, y);
        });
    }
}

impl Kernel for RmsNormKernel {
    fn run(&mut self, _slot: usize, inputs: &InputBytes, output: &mut [u8]) {
        let dtype = self.p.dtype;
        widen(dtype, inputs.get("w"), &mut self.weights);
        let token_bytes = dtype.bytes_of(self.p.n) as usize;
        let x = inputs.get("x").par_chunks(token_bytes);
        let Some(residual) = inputs.find("residual") else {
            x.zip(output.par_chunks_mut(token_bytes)).for_each(|(from, y)| {
                self.token.with(|[x, _]| {
                    widen(dtype, from, x);
                    self.normalize(x, y);
                });
            });
            return;
        };
        let (sum, y) = output.split_at_mut(output.len() / 2);
        let outputs = sum.par_chunks_mut(token_bytes).zip(y.par_chunks_mut(token_bytes));
        x.zip(residual.par_chunks(token_bytes)).zip(outputs).for_each(
            |((x, residual), (sum, y))| self.add_and_normalize([x, residual], sum, y),
        );
    }
}

multiversioned! {
/// Sum of the squares of a row.
fn sum_of_squares(x: &[f32]) -> f32 {
    let (blocks, tail) = x.as_chunks::<64>();
    let mut sums = [Lanes::ZERO; 4];
    for block in blocks {
        for (sum, lanes) in sums.iter_mut().zip(block.as_chunks::<16>().0) {
            let lanes = Lanes(*lanes);
            *sum = lanes.mul_add(lanes, *sum);
        }
    }
    let sums: &[f32] = cast_slice(&sums);
    sums.iter().sum::<f32>() + tail.iter().map(|x| x * x).sum::<f32>()
}
}

multiversioned! {
/// `x = x + y`, element by element.
fn add(x: &mut [f32], y: &[f32]) {
    for (x, y) in x.iter_mut().zip(y) {
        *x += y;
    }
}
}

multiversioned! {
/// `x = x s w`, element by element.
fn scale(x: &mut [f32], s: f32, w: &[f32]) {
    for (x, w) in x.iter_mut().zip(w) {
        *x *= s * w;
    }
}
}

#[cfg(test)]
mod tests {
    use super::super::tests::{device, verify};
    use crate::device::Device;
    use crate::op::Problem;

    #[test]
    fn norms_are_right() {
        let mut device = device();
        for (m, n) in [(1, 1), (1, 63), (2, 64), (3, 65), (130, 200), (5, 8192)] {
            for dtype in ["f32", "bf16", "f16"] {
                for residual in [false, true] {
                    let shape = format!("m={m},n={n},dtype={dtype},residual={residual}");
                    verify(&mut device, &format!("rmsnorm:{shape}"));
                }
            }
        }
    }

    #[test]
    fn quantized_tokens_are_refused() {
        let problem: Problem = "rmsnorm:m=1,n=8,dtype=fp8_e4m3".parse().unwrap();
        let refusal = device().kernel(&problem).unwrap_err();
        assert!(refusal.to_string().contains("dtype = fp8_e4m3"), "{refusal}");
    }
}

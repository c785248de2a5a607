//! The compute ceiling: chains of fused multiply-adds that never leave the
//! registers.

use rayon::prelude::*;

use super::contract::{CpuKernel, InputBytes, Kernel, configured};
use super::simd::{Lanes, level, unrolled};
use crate::device::Refusal;
use crate::format::DType;
use crate::multiversion::multiversioned;
use crate::op::{Op, Peak, Unit};
use crate::reference::{FMA_A, FMA_B};

pub(super) const KERNEL: CpuKernel = CpuKernel {
    name: "cpu_peak",
    op: Op::Peak,
    sources: &[include_str!("peak.rs")],
    configurations: &[],
    configure: |problem, _| {
        configured(problem, |&p: &Peak| {
            refuse(p)?;
            Ok(Box::new(move |_| Box::new(PeakKernel::new(p))))
        })
    },
};

fn refuse(p: Peak) -> Result<(), Refusal> {
    if p.unit == Unit::Tensor {
        return Err(Refusal(
            "no CPU kernel drives a tensor unit; use unit = fma".to_owned(),
        ));
    }
    if p.dtype != DType::F32 {
        return Err(Refusal(format!(
            "the CPU kernels multiply and add in f32, so dtype = {} has no peak of its own; use \
             dtype = f32",
            p.dtype
        )));
    }
    Ok(())
}

/// Runs every lane through its steps, a block of lanes at a time.
struct PeakKernel {
    steps: u64,
    wide: bool,
}

impl PeakKernel {
    /// A kernel for `p`, whose unit is the vector unit.
    fn new(p: Peak) -> Self {
        PeakKernel { steps: p.steps, wide: level() == "avx512" }
    }
}

impl Kernel for PeakKernel {
    fn run(&mut self, _slot: usize, inputs: &InputBytes, output: &mut [u8]) {
        let start: &[f32] = bytemuck::cast_slice(inputs.get("start"));
        let end: &mut [f32] = bytemuck::cast_slice_mut(output);
        // Sixteen vectors leave half of the 32 AVX-512 registers free; six, as
        // twelve half vectors, are what the 16 registers of AVX2 hold.
        if self.wide {
            run_blocks::<16>(start, end, self.steps);
        } else {
            run_blocks::<6>(start, end, self.steps);
        }
    }
}

fn run_blocks<const N: usize>(start: &[f32], end: &mut [f32], steps: u64) {
    let lanes = N * 16;
    end.par_chunks_mut(lanes).zip(start.par_chunks(lanes)).for_each(|(end, start)| {
        let mut block = [Lanes::ZERO; N];
        bytemuck::cast_slice_mut(&mut block)[..start.len()].copy_from_slice(start);
        multiply_add(&mut block, steps);
        end.copy_from_slice(&bytemuck::cast_slice(&block)[..end.len()]);
    });
}

multiversioned! {
fn multiply_add<const N: usize>(block: &mut [Lanes; N], steps: u64) {
    let (a, b) = (Lanes::splat(FMA_A), Lanes::splat(FMA_B));
    let mut held = [Lanes::ZERO; 16];
    held[..N].copy_from_slice(block);
    for _ in 0..steps {
        unrolled!(I, {
            if I < N {
                held[I] = held[I].mul_add(a, b);
            }
        });
    }
    block.copy_from_slice(&held[..N]);
}
}

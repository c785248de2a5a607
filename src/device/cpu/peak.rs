//! The compute ceilings: chains of fused multiply-adds, and of products of pairs of bf16, that
//! never leave the registers.

use half::bf16;
use multiversion::target::match_target;
use rayon::prelude::*;

use super::contract::{CpuKernel, InputBytes, Kernel, configured};
use super::simd::{CHUNK, Lanes, has_bf16_pairs, level, unrolled};
use crate::device::Refusal;
use crate::format::DType;
use crate::multiversion::{multiversioned, multiversioned_for_pairs};
use crate::op::{Op, Operands, Peak, PeakData, Unit};
use crate::reference::{FMA_A, FMA_B, tensor_a, tensor_b, tensor_scale};

pub(super) const KERNEL: CpuKernel = CpuKernel {
    name: "cpu_peak",
    op: Op::Peak,
    sources: &[include_str!("peak.rs"), include_str!("pairs.rs")],
    configurations: &[],
    configure: |problem, _| {
        configured(problem, |&p: &Peak| {
            refuse(p)?;
            Ok(Box::new(move |_| match p.unit {
                Unit::Fma => Box::new(PeakKernel::new(p)),
                Unit::Tensor => Box::new(PairsKernel::new(p)),
            }))
        })
    },
};

fn refuse(p: Peak) -> Result<(), Refusal> {
    if p.unit == Unit::Tensor {
        let is_known = p.dtype == DType::Bf16
            && p.operands == Operands::Native
            && p.data != PeakData::Random;
        return match (is_known, has_bf16_pairs()) {
            (true, true) => Ok(()),
            (true, false) => Err(Refusal(
                "no CPU kernel drives a tensor unit, and this CPU has no products of pairs of \
                 bf16 (AVX512-BF16); use unit = fma"
                    .to_owned(),
            )),
            _ => Err(Refusal(
                "no CPU kernel drives a tensor unit, and products of pairs are of bf16 and of \
                 data = small or zeros; use those, or unit = fma"
                    .to_owned(),
            )),
        };
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

/// Runs every tile through its steps, two tiles at a time.
struct PairsKernel {
    steps: u64,
    /// What [`pairs::add_products`](super::pairs::add_products) multiplies.
    a: Box<[[PairsOfChunk; 8]; 8]>,
    b: Box<[PairsOfChunk; 8]>,
}

/// The numbers of a register.
type PairsOfChunk = [bf16; CHUNK];

/// Numbers of a tile of 16 x 8.
const TILE: usize = 128;

impl PairsKernel {
    fn new(p: Peak) -> Self {
        let scale = if p.data == PeakData::Zeros { 0.0 } else { tensor_scale(p.dtype) };
        let number = |of: i64| bf16::from_f64(of as f64 * scale);
        // Number `at` of a vector is the first or second of a pair in one of 16 lanes, eight
        // of each row.
        let a = |pair: u64, rows: u64, at: u64| {
            tensor_a(p.dtype, 2 * rows + at / 16, 2 * pair + at % 2)
        };
        let b = |pair: u64, at: u64| tensor_b(p.dtype, 2 * pair + at % 2, at / 2 % 8);
        let vector =
            |of: &dyn Fn(u64) -> i64| std::array::from_fn(|at| number(of(at as u64)));
        let a_of = |pair: usize, rows: usize| vector(&|at| a(pair as u64, rows as u64, at));
        PairsKernel {
            steps: p.steps,
            a: Box::new(std::array::from_fn(|pair| {
                std::array::from_fn(|rows| a_of(pair, rows))
            })),
            b: Box::new(std::array::from_fn(|pair| vector(&|at| b(pair as u64, at)))),
        }
    }
}

impl Kernel for PairsKernel {
    fn run(&mut self, _slot: usize, inputs: &InputBytes, output: &mut [u8]) {
        let start: &[f32] = bytemuck::cast_slice(inputs.get("start"));
        let end: &mut [f32] = bytemuck::cast_slice_mut(output);
        end.par_chunks_mut(2 * TILE).zip(start.par_chunks(2 * TILE)).for_each(
            |(end, start)| {
                let mut tiles = [Lanes::ZERO; 16];
                bytemuck::cast_slice_mut(&mut tiles)[..start.len()].copy_from_slice(start);
                multiply_pairs(&self.a, &self.b, &mut tiles, self.steps);
                end.copy_from_slice(&bytemuck::cast_slice(&tiles)[..end.len()]);
            },
        );
    }
}

multiversioned_for_pairs! {
fn multiply_pairs(
    a: &[[PairsOfChunk; 8]; 8],
    b: &[PairsOfChunk; 8],
    tiles: &mut [Lanes; 16],
    steps: u64,
) {
    match_target! {
        "x86_64+avx512bf16" => super::pairs::add_products(a, b, tiles, steps),
        _ => {
            let _ = (a, b, tiles, steps);
            unreachable!("pairs are taken only where the CPU multiplies them");
        }
    }
}
}

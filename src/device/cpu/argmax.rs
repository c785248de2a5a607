//! Argmax: pieces of rows are divided among threads.

use rayon::prelude::*;

use super::contract::{CpuFormat, CpuKernel, InputBytes, Kernel, PerThread, configured};
use super::simd::widen;
use crate::op::{Argmax, Op};

pub(super) const KERNEL: CpuKernel = CpuKernel {
    name: "cpu_argmax",
    op: Op::Argmax,
    sources: &[include_str!("argmax.rs")],
    configurations: &[],
    configure: |problem, _| {
        configured(problem, |&p: &Argmax| {
            CpuFormat::of("dtype", p.dtype)?;
            Ok(Box::new(move |run| Box::new(ArgmaxKernel::new(p, run.threads))))
        })
    },
};

/// Elements of a piece.
const PIECE: usize = 8192;

/// A value and its place.
type Best = (f32, usize);

/// Less than every value, behind every place.
const NOTHING: Best = (f32::NEG_INFINITY, usize::MAX);

/// Looks for the largest in f32.
struct ArgmaxKernel {
    p: Argmax,
    /// A piece as f32.
    piece: PerThread<Vec<f32>>,
}

impl ArgmaxKernel {
    /// A kernel for `p`, in a format that the CPU has.
    fn new(p: Argmax, threads: usize) -> Self {
        ArgmaxKernel { p, piece: PerThread::new(threads, || vec![0.0; PIECE]) }
    }

    /// The best of a piece of a row that begins at a place.
    fn of_piece(&self, first: usize, bytes: &[u8]) -> Best {
        let dtype = self.p.dtype;
        self.piece.with(|piece| {
            let piece = &mut piece[..bytes.len() / dtype.bytes() as usize];
            widen(dtype, bytes, piece);
            // The largest, and then where it is: two loops of vectors.
            let larger = |a: f32, &b: &f32| if b > a { b } else { a };
            let largest = piece.iter().fold(f32::NEG_INFINITY, larger);
            let place = piece.iter().position(|&x| x == largest).unwrap_or(0);
            (largest, first + place)
        })
    }
}

/// The larger, of equal ones the first.
fn better(a: Best, b: Best) -> Best {
    if b.0 > a.0 || b.0 == a.0 && b.1 < a.1 { b } else { a }
}

impl Kernel for ArgmaxKernel {
    fn run(&mut self, _slot: usize, inputs: &InputBytes, output: &mut [u8]) {
        let row_bytes = self.p.dtype.bytes_of(self.p.n) as usize;
        let piece_bytes = self.p.dtype.bytes_of(PIECE as u64) as usize;
        let index: &mut [u32] = bytemuck::cast_slice_mut(output);
        let rows = inputs.get("x").par_chunks(row_bytes);
        rows.zip(index).for_each(|(row, index)| {
            let pieces = row.par_chunks(piece_bytes).enumerate();
            let bests = pieces.map(|(at, bytes)| self.of_piece(at * PIECE, bytes));
            *index = bests.reduce(|| NOTHING, better).1 as u32;
        });
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::{device, verify};
    use super::*;
    use crate::device::Device;
    use crate::format::DType;
    use crate::op::Problem;

    #[test]
    fn places_are_right() {
        let mut device = device();
        for (m, n) in [(1, 1), (1, 8192), (3, 8193), (130, 200), (2, 128_256)] {
            for dtype in ["f32", "bf16", "f16"] {
                verify(&mut device, &format!("argmax:m={m},n={n},dtype={dtype}"));
            }
        }
    }

    /// A NaN counts as minus infinity; the first of equal ones, in whatever piece.
    #[test]
    fn odd_values_have_the_answers_that_are_said() {
        let p = Argmax { m: 1, n: 20_000, dtype: DType::F32 };
        let mut kernel = ArgmaxKernel::new(p, 1);
        let mut place = |change: &dyn Fn(&mut [f32])| {
            let mut x = vec![f32::NAN; 20_000];
            change(&mut x);
            let mut index = [0u32];
            let inputs = InputBytes(vec![("x", bytemuck::cast_slice(&x))]);
            kernel.run(0, &inputs, bytemuck::cast_slice_mut(&mut index));
            index[0]
        };
        assert_eq!(place(&|_| ()), 0);
        assert_eq!(place(&|x| x[12_345] = -3.0), 12_345);
        assert_eq!(place(&|x| (x[9000], x[19_000], x[500]) = (2.0, 2.0, 1.0)), 9000);
        assert_eq!(place(&|x| (x[70], x[60]) = (0.0, -0.0)), 60);
    }

    #[test]
    fn quantized_logits_are_refused() {
        let problem: Problem = "argmax:m=1,n=8,dtype=fp8_e4m3".parse().unwrap();
        let refusal = device().kernel(&problem).unwrap_err();
        assert!(refusal.to_string().contains("dtype = fp8_e4m3"), "{refusal}");
    }
}

//! Bandwidth ceilings: read, write, copy or add up ranges of memory on all
//! cores.

use std::hint::black_box;

use rayon::prelude::*;

use super::contract::{
    CpuKernel, HALF_OF_THE_THREADS, InputBytes, Kernel, RunSettings, configured,
};
use super::simd::{sum_words, triad};
use crate::device::Refusal;
use crate::kernel::Configuration;
use crate::op::{Access, Op, Reuse, Stream};
use crate::reference::{TRIAD_FACTOR, write_pattern};

pub(super) const KERNEL: CpuKernel = CpuKernel {
    name: "cpu_stream",
    op: Op::Stream,
    sources: &[include_str!("stream.rs")],
    configurations: &[
        Configuration::new("chunks_of_64_kib", &[("chunk_kib", 64)]),
        Configuration::new("chunks_of_256_kib", &[("chunk_kib", 256)]),
        Configuration::new("chunks_of_1_mib", &[("chunk_kib", 1 << 10)]),
        Configuration::new("chunks_of_16_mib", &[("chunk_kib", 16 << 10)]),
        HALF_OF_THE_THREADS,
    ],
    configure: |problem, choice| {
        configured(problem, |&p: &Stream| {
            if p.reuse == Reuse::Own && choice.or("chunk_kib", 0) > 0 {
                return Err(Refusal(format!(
                    "`cpu_stream.{}` divides bytes into chunks of its size, and with reuse = \
                     own each thread has one share; use `cpu_stream`",
                    choice.name
                )));
            }
            Ok(Box::new(move |run| Box::new(StreamKernel::new(p, choice, run))))
        })
    },
};

/// Reads are summed, each thread's own share all of its passes in a row where cores reuse
/// their own; writes store [`write_pattern`], copies copy, triads
/// multiply by [`TRIAD_FACTOR`] and add.
struct StreamKernel {
    access: Access,
    passes: u64,
    reuse: Reuse,
    seed: u64,
    chunk_bytes: usize,
}

impl StreamKernel {
    /// Chunks are large enough to hide the cost of handing them out and small
    /// enough that no thread waits long for the last.
    fn new(p: Stream, choice: &Configuration, run: RunSettings) -> Self {
        let RunSettings { seed, threads } = run;
        let chunk_bytes = (p.bytes as usize / (8 * threads)).clamp(1 << 16, 1 << 22);
        let chunk_bytes = match (p.reuse, choice.or("chunk_kib", 0)) {
            (Reuse::Own, _) => (p.bytes as usize).div_ceil(threads).next_multiple_of(64),
            (Reuse::Shared, 0) => chunk_bytes.next_multiple_of(64),
            (Reuse::Shared, kib) => (kib as usize) << 10,
        };
        let Stream { access, passes, reuse, .. } = p;
        StreamKernel { access, passes, reuse, seed, chunk_bytes }
    }
}

impl Kernel for StreamKernel {
    fn run(&mut self, slot: usize, inputs: &InputBytes, output: &mut [u8]) {
        match self.access {
            Access::Read if self.reuse == Reuse::Own => {
                let source = inputs.get("source");
                let share = |share| {
                    // Every pass reads, as above all others.
                    let pass = |_| sum_words(bytemuck::cast_slice(black_box(share)));
                    (0..self.passes).map(pass).fold(0, u32::wrapping_add)
                };
                let shares = source.par_chunks(self.chunk_bytes).with_max_len(1);
                let sum = shares.map(share).reduce(|| 0, u32::wrapping_add);
                output.copy_from_slice(&sum.to_le_bytes());
            }
            Access::Read => {
                // Every pass reads: nothing is known of the bytes from the one before.
                let pass = |_| {
                    black_box(inputs.get("source"))
                        .par_chunks(self.chunk_bytes)
                        .map(|chunk| sum_words(bytemuck::cast_slice(chunk)))
                        .reduce(|| 0, u32::wrapping_add)
                };
                let sum = (0..self.passes).map(pass).fold(0, u32::wrapping_add);
                output.copy_from_slice(&sum.to_le_bytes());
            }
            Access::Write => {
                let pattern = write_pattern(self.seed, slot);
                output.par_chunks_mut(self.chunk_bytes).for_each(|chunk| {
                    bytemuck::cast_slice_mut::<u8, u32>(chunk).fill(pattern);
                });
            }
            Access::Copy => output
                .par_chunks_mut(self.chunk_bytes)
                .zip(inputs.get("source").par_chunks(self.chunk_bytes))
                .for_each(|(to, from)| to.copy_from_slice(from)),
            Access::Triad => output
                .par_chunks_mut(self.chunk_bytes)
                .zip(inputs.get("b").par_chunks(self.chunk_bytes))
                .zip(inputs.get("c").par_chunks(self.chunk_bytes))
                .for_each(|((a, b), c)| {
                    let (a, b, c) = (
                        bytemuck::cast_slice_mut(a),
                        bytemuck::cast_slice(b),
                        bytemuck::cast_slice(c),
                    );
                    triad(a, b, TRIAD_FACTOR, c);
                }),
        }
    }
}

//! Embeddings: tokens are divided among threads, and their rows copied.

use rayon::prelude::*;

use super::contract::{CpuFormat, CpuKernel, InputBytes, Kernel, configured};
use crate::op::{Embedding, Op};

pub(super) const KERNEL: CpuKernel = CpuKernel {
    name: "cpu_embedding",
    op: Op::Embedding,
    sources: &[include_str!("embedding.rs")],
    configurations: &[],
    configure: |problem, _| {
        configured(problem, |&p: &Embedding| {
            CpuFormat::of("dtype", p.dtype)?;
            Ok(Box::new(move |_| Box::new(EmbeddingKernel { p })))
        })
    },
};

/// Copies rows.
struct EmbeddingKernel {
    p: Embedding,
}

impl Kernel for EmbeddingKernel {
    fn run(&mut self, _slot: usize, inputs: &InputBytes, output: &mut [u8]) {
        let Embedding { vocab, n, dtype, .. } = self.p;
        let row_bytes = dtype.bytes_of(n) as usize;
        let tokens: &[u32] = bytemuck::cast_slice(inputs.get("tokens"));
        let table = inputs.get("table");
        tokens.par_iter().zip(output.par_chunks_mut(row_bytes)).for_each(|(&token, y)| {
            let row = (u64::from(token) % vocab) as usize;
            y.copy_from_slice(&table[row * row_bytes..][..row_bytes]);
        });
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::{device, verify};
    use crate::device::Device;
    use crate::op::Problem;

    #[test]
    fn rows_are_those_of_the_tokens() {
        let mut device = device();
        for (m, vocab, n) in [(1, 1, 1), (1, 1000, 64), (5, 7, 33), (200, 50, 100)] {
            for dtype in ["f32", "bf16", "f16"] {
                let shape = format!("m={m},vocab={vocab},n={n},dtype={dtype}");
                verify(&mut device, &format!("embedding:{shape}"));
            }
        }
    }

    #[test]
    fn quantized_tables_are_refused() {
        let problem: Problem = "embedding:m=1,vocab=9,n=8,dtype=int8".parse().unwrap();
        let refusal = device().kernel(&problem).unwrap_err();
        assert!(refusal.to_string().contains("dtype = int8"), "{refusal}");
    }
}

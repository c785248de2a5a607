//! Reads a key and value cache the way decode attention does and only adds up
//! the words: the memory time of attention without its arithmetic.

use rayon::prelude::*;

use super::cache::{Cache, CacheSplit};
use super::contract::{CpuKernel, HALF_OF_THE_THREADS, InputBytes, Kernel, configured};
use super::simd::sum_words;
use crate::device::Refusal;
use crate::kernel::Configuration;
use crate::op::{KvRead, Op};

pub(super) const KERNEL: CpuKernel = CpuKernel {
    name: "cpu_kv_read",
    op: Op::KvRead,
    sources: &[include_str!("kv_read.rs")],
    configurations: &[
        Configuration::new("blocks_of_64", &[("tokens", 64)]),
        Configuration::new("blocks_of_1024", &[("tokens", 1024)]),
        Configuration::new("parts_1", &[("parts", 1)]),
        Configuration::new("parts_16", &[("parts", 16)]),
        HALF_OF_THE_THREADS,
    ],
    configure: |problem, choice| {
        configured(problem, |&p: &KvRead| {
            refuse(p)?;
            Ok(Box::new(move |run| Box::new(KvReadKernel::new(p, choice, run.threads))))
        })
    },
};

fn refuse(p: KvRead) -> Result<(), Refusal> {
    let row_bytes = p.head_dim * p.dtype.bytes();
    if row_bytes.is_multiple_of(4) {
        return Ok(());
    }
    Err(Refusal(format!(
        "head_dim = {} of {} is {row_bytes} bytes, and the checksum takes words of 4; make it a \
         multiple",
        p.head_dim, p.dtype
    )))
}

/// Tokens whose keys are read before their values.
const TOKENS: u32 = 256;

/// Sums keys and values, divided over requests, heads and context.
struct KvReadKernel {
    cache: Cache,
    split: CacheSplit,
    token_bytes: usize,
    /// Tokens whose keys are read before their values.
    block: usize,
    sums: Vec<u32>,
}

impl KvReadKernel {
    /// A kernel for `p`, whose rows are whole words.
    fn new(p: KvRead, choice: &Configuration, threads: usize) -> Self {
        let split = CacheSplit::new(&p, threads, choice);
        KvReadKernel {
            cache: Cache::new(&p),
            split,
            token_bytes: (p.head_dim * p.dtype.bytes()) as usize,
            block: choice.or("tokens", TOKENS) as usize,
            sums: vec![0; split.items()],
        }
    }
}

impl Kernel for KvReadKernel {
    fn run(&mut self, _slot: usize, inputs: &InputBytes, output: &mut [u8]) {
        let KvReadKernel { cache, split, token_bytes, block, ref mut sums } = *self;
        let table = cache.page_table(inputs);
        let element_bytes = token_bytes / cache.head_dim();
        sums.par_iter_mut().enumerate().for_each(|(item, sum)| {
            let (request, head, tokens) = split.item(item);
            *sum = 0;
            for start in tokens.clone().step_by(block) {
                let block = start..tokens.end.min(start + block);
                for tensor in [inputs.get("k"), inputs.get("v")] {
                    for (first, count) in cache.runs(table, request, head, block.clone()) {
                        let bytes = &tensor[first * element_bytes..][..count * token_bytes];
                        *sum = sum.wrapping_add(sum_words(bytemuck::cast_slice(bytes)));
                    }
                }
            }
        });
        let (to, _) = output.as_chunks_mut::<4>();
        for (to, parts) in to.iter_mut().zip(sums.chunks(split.splits)) {
            *to = parts.iter().fold(0, |a: u32, &b| a.wrapping_add(b)).to_le_bytes();
        }
    }
}

//! Decode attention, bound by the bytes of the cache: all query heads of a
//! group work on a block of keys and values while it is in the first caches,
//! so each byte comes from memory once, whatever the group.
//!
//! Requests and heads are divided among threads, and the context too where
//! they are too few (split-KV). The softmax is taken online: each block
//! rescales what the ones before it left (Milakov and Gimelshein, 2018).

use half::{bf16, f16};
use rayon::prelude::*;

use super::attend::{
    Attend, MAX_TOKENS, State, Tokens, attend_in_f32, attend_in_pairs, score_scale,
};
use super::cache::{Cache, CacheSplit};
use super::contract::{
    CpuFormat, CpuKernel, HALF_OF_THE_THREADS, InputBytes, Kernel, PerThread, configured,
};
use super::simd::{
    Element, Lanes, arrange, arrange_pairs, chunks, has_bf16_pairs, narrow, padded_rows,
    widen,
};
use crate::device::Refusal;
use crate::format::DType;
use crate::kernel::Configuration;
use crate::op::{DecodeAttention, Op};

/// Tokens in a block: keys of 128 16-bit elements are 32 KiB, and so are values. Both stay in the
/// second cache.
const TOKENS: u32 = 128;

/// Tokens between the one that is worked on and the one that is fetched. Found by measuring 0
/// to 64 on a server of AMD (Zen 4), where a single head, which is done with a token soonest,
/// wants fewer.
const fn tokens_ahead(heads: usize) -> u32 {
    if heads == 1 { 16 } else { 32 }
}

pub(super) const KERNEL: CpuKernel = CpuKernel {
    name: "cpu_decode_attention",
    op: Op::DecodeAttention,
    sources: &[
        include_str!("decode_attention.rs"),
        include_str!("attend.rs"),
        include_str!("pairs.rs"),
    ],
    configurations: &[
        Configuration::new("blocks_of_32", &[("tokens", 32)]),
        Configuration::new("blocks_of_64", &[("tokens", 64)]),
        Configuration::new("blocks_of_256", &[("tokens", 256)]),
        Configuration::new("ahead_16", &[("ahead", 16)]),
        Configuration::new("ahead_32", &[("ahead", 32)]),
        Configuration::new("ahead_64", &[("ahead", 64)]),
        // What is fetched is left to the CPU.
        Configuration::new("ahead_0", &[("ahead", 0)]),
        // Of bf16, where the CPU multiplies pairs of it without widening them.
        Configuration::new("in_f32", &[("pairs", 0)]),
        Configuration::new("parts_1", &[("parts", 1)]),
        Configuration::new("parts_16", &[("parts", 16)]),
        HALF_OF_THE_THREADS,
    ],
    configure: |problem, choice| {
        configured(problem, |&p: &DecodeAttention| {
            let (format, can_pair) = (kv_format(p)?, can_pair(&p));
            if choice.or("pairs", 1) == 0 && !can_pair {
                return Err(Refusal(
                    "the default computes in f32 here: pairs need bf16 queries, keys and \
                     values, and a CPU with AVX512-BF16; use the default"
                        .to_owned(),
                ));
            }
            let pairs = can_pair && choice.or("pairs", 1) == 1;
            Ok(Box::new(move |run| match format {
                CpuFormat::F32 => {
                    Box::new(DecodeKernel::<f32>::new(p, choice, run.threads))
                }
                CpuFormat::F16 => {
                    Box::new(DecodeKernel::<f16>::new(p, choice, run.threads))
                }
                CpuFormat::Bf16 if pairs => {
                    Box::new(DecodeKernel::in_pairs(p, choice, run.threads))
                }
                CpuFormat::Bf16 => {
                    Box::new(DecodeKernel::<bf16>::new(p, choice, run.threads))
                }
            }))
        })
    },
};

/// The format of keys and values.
fn kv_format(p: DecodeAttention) -> Result<CpuFormat, Refusal> {
    CpuFormat::of("dtype", p.dtype)?;
    let format = CpuFormat::of("kv_dtype", p.kv_dtype)?;
    if !p.is_plain() {
        return Err(Refusal(format!(
            "the CPU kernel attends one new token to all of its context, not new_tokens = {} with \
             window = {}; use new_tokens = 1 and window = 0",
            p.new_tokens, p.window
        )));
    }
    Ok(format)
}

/// Whether the CPU multiplies the problem's operands as they are, in pairs.
fn can_pair(p: &DecodeAttention) -> bool {
    let kv = p.kv_dtype.dtype();
    (p.dtype, kv) == (DType::Bf16, DType::Bf16) && has_bf16_pairs()
}

/// What one thread works with: queries and state for each run of
/// [`MAX_HEADS`](super::attend::MAX_HEADS) heads.
struct Scratch {
    queries: Vec<Vec<Lanes>>,
    states: Vec<State>,
    row: Vec<f32>,
}

/// Attention of one token per request.
struct DecodeKernel<T> {
    p: DecodeAttention,
    cache: Cache,
    split: CacheSplit,
    /// Query heads that the inner loops take at once.
    rows: usize,
    /// Tokens in a block.
    tokens: usize,
    /// Tokens between the one that is worked on and the one that is fetched.
    ahead: usize,
    attend: Attend<T>,
    /// Whether that takes queries in bf16, without their scale.
    pairs: bool,
    scratch: PerThread<Scratch>,
    /// Maximum, sum and values of every part and head, where contexts are
    /// split.
    partials: Vec<f32>,
}

impl<T: Element> DecodeKernel<T> {
    fn new(p: DecodeAttention, choice: &Configuration, threads: usize) -> Self {
        let rows = padded_rows(p.group() as usize);
        Self::with(p, choice, threads, (rows, attend_in_f32(rows)))
    }

    /// `attend` works on so many query heads at once.
    fn with(
        p: DecodeAttention,
        choice: &Configuration,
        threads: usize,
        (rows, attend): (usize, Attend<T>),
    ) -> Self {
        let group = p.group() as usize;
        let width = p.head_dim as usize;
        let split = CacheSplit::new(&p.kv(), threads, choice);
        let parts = if split.splits > 1 { split.items() } else { 0 };
        let lanes = chunks(width) * rows * 2;
        let scratch = || Scratch {
            queries: vec![vec![Lanes::ZERO; lanes]; group.div_ceil(rows)],
            states: (0..group.div_ceil(rows)).map(|_| State::new(lanes, width)).collect(),
            row: vec![0.0; width],
        };
        DecodeKernel {
            p,
            cache: Cache::new(&p.kv()),
            split,
            rows,
            tokens: choice.or("tokens", TOKENS) as usize,
            ahead: choice.or("ahead", tokens_ahead(rows)) as usize,
            attend,
            pairs: false,
            scratch: PerThread::new(threads, scratch),
            partials: vec![0.0; parts * group * (width + 2)],
        }
    }

    /// Works through one part of a context and leaves the result in the
    /// states.
    fn attend_part(&self, item: usize, inputs: &InputBytes, scratch: &mut Scratch) {
        let (request, head, tokens) = self.split.item(item);
        let width = self.p.head_dim as usize;
        let keys: &[T] = bytemuck::cast_slice(inputs.get("k"));
        let values: &[T] = bytemuck::cast_slice(inputs.get("v"));
        let table = self.cache.page_table(inputs);
        self.load_queries(item / self.split.splits, inputs.get("q"), scratch);
        scratch.states.iter_mut().for_each(State::clear);
        let offsets_of = |start: usize, offsets: &mut [usize; MAX_TOKENS]| {
            let block = start.min(tokens.end)..tokens.end.min(start + self.tokens);
            self.cache.offsets(table, request, head, block, offsets)
        };
        let (mut these, mut others) = ([0; MAX_TOKENS], [0; MAX_TOKENS]);
        let (mut offsets, mut next) = (&mut these, &mut others);
        let mut count = offsets_of(tokens.start, offsets);
        for start in tokens.clone().step_by(self.tokens) {
            let next_count = offsets_of(start + self.tokens, next);
            // Where fewer follow, their places say again what is there already.
            if next_count < count {
                next[next_count..count].copy_from_slice(&offsets[next_count..count]);
            }
            for (i, queries) in scratch.queries.iter().enumerate() {
                let tokens = Tokens {
                    keys,
                    values,
                    offsets: &offsets[..count],
                    next: &next[..count],
                    // Only the first heads of a large group need to touch.
                    ahead: if i == 0 { self.ahead } else { 0 },
                };
                (self.attend)(queries, tokens, width, &mut scratch.states[i]);
            }
            std::mem::swap(&mut offsets, &mut next);
            count = next_count;
        }
    }

    /// Lays out the queries of a pair of request and head, scaled so that
    /// scores are exponents of two, unless they stay in bf16.
    fn load_queries(&self, pair: usize, q: &[u8], scratch: &mut Scratch) {
        let group = self.p.group() as usize;
        let row_bytes = (self.p.head_dim * self.p.dtype.bytes()) as usize;
        let scale = score_scale(self.p.head_dim as usize);
        let heads = &q[pair * group * row_bytes..][..group * row_bytes];
        for (g, head) in heads.chunks_exact(row_bytes).enumerate() {
            let queries = &mut scratch.queries[g / self.rows];
            if self.pairs {
                arrange_pairs(
                    bytemuck::cast_slice(head),
                    g % self.rows,
                    self.rows,
                    queries,
                );
                continue;
            }
            widen(self.p.dtype, head, &mut scratch.row);
            scratch.row.iter_mut().for_each(|x| *x *= scale);
            arrange::<T>(&scratch.row, g % self.rows, self.rows, queries);
        }
    }

    /// The state of one query head: its maximum, its sum, and its values in
    /// order in `scratch.row`.
    fn take_head(&self, g: usize, scratch: &mut Scratch) -> (f32, f32) {
        let state = &scratch.states[g / self.rows];
        state.take_head::<T>(g % self.rows, self.rows, &mut scratch.row)
    }
}

impl DecodeKernel<bf16> {
    /// With products of pairs of bf16, where the CPU has them.
    fn in_pairs(p: DecodeAttention, choice: &Configuration, threads: usize) -> Self {
        let rows = padded_rows(p.group() as usize);
        let kernel = Self::with(
            p,
            choice,
            threads,
            (rows, attend_in_pairs(rows, p.head_dim as usize)),
        );
        DecodeKernel { pairs: true, ..kernel }
    }
}

impl<T: Element> Kernel for DecodeKernel<T> {
    fn extra_bytes(&self) -> Option<u64> {
        // Written by the parts, read where they are combined.
        Some(2 * size_of_val(self.partials.as_slice()) as u64)
    }

    fn run(&mut self, _slot: usize, inputs: &InputBytes, output: &mut [u8]) {
        let width = self.p.head_dim as usize;
        let row_bytes = width * self.p.dtype.bytes() as usize;
        let group = self.p.group() as usize;
        if self.split.splits == 1 {
            output.par_chunks_mut(group * row_bytes).enumerate().for_each(|(item, out)| {
                self.scratch.with(|scratch| {
                    self.attend_part(item, inputs, scratch);
                    for (g, out) in out.chunks_exact_mut(row_bytes).enumerate() {
                        let (_, sum) = self.take_head(g, scratch);
                        scratch.row.iter_mut().for_each(|x| *x /= sum);
                        narrow(self.p.dtype, &scratch.row, out);
                    }
                });
            });
            return;
        }
        let mut partials = std::mem::take(&mut self.partials);
        partials.par_chunks_mut(group * (width + 2)).enumerate().for_each(
            |(item, part)| {
                self.scratch.with(|scratch| {
                    self.attend_part(item, inputs, scratch);
                    for (g, part) in part.chunks_exact_mut(width + 2).enumerate() {
                        (part[0], part[1]) = self.take_head(g, scratch);
                        part[2..].copy_from_slice(&scratch.row);
                    }
                });
            },
        );
        output.par_chunks_mut(row_bytes).enumerate().for_each(|(row, out)| {
            self.scratch.with(|scratch| {
                let parts = |split: usize| {
                    let item = row / group * self.split.splits + split;
                    &partials[(item * group + row % group) * (width + 2)..][..width + 2]
                };
                combine((0..self.split.splits).map(parts), &mut scratch.row);
                narrow(self.p.dtype, &scratch.row, out);
            });
        });
        self.partials = partials;
    }
}

/// The softmax over all parts from the softmax of each.
fn combine<'a>(parts: impl Iterator<Item = &'a [f32]> + Clone, out: &mut [f32]) {
    let max = parts.clone().map(|part| part[0]).fold(f32::NEG_INFINITY, f32::max);
    let sum: f32 = parts.clone().map(|part| part[1] * (part[0] - max).exp2()).sum();
    out.fill(0.0);
    for part in parts {
        let weight = (part[0] - max).exp2() / sum;
        for (out, &value) in out.iter_mut().zip(&part[2..]) {
            *out += weight * value;
        }
    }
}

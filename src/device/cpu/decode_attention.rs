//! Decode attention, bound by the bytes of the cache: all query heads of a
//! group work on a block of keys and values while it is in the first caches,
//! so each byte comes from memory once, whatever the group.
//!
//! Requests and heads are divided among threads, and the context too where
//! they are too few (split-KV). The softmax is taken online: each block
//! rescales what the ones before it left (Milakov and Gimelshein, 2018).

use half::{bf16, f16};
use multiversion::target::match_target;
use rayon::prelude::*;

use super::cache::{Cache, CacheSplit};
use super::contract::{
    CpuFormat, CpuKernel, HALF_OF_THE_THREADS, InputBytes, Kernel, PerThread, configured,
};
use super::simd::{
    Ahead, Element, Lanes, accumulate, arrange, arrange_pairs, chunks, dots,
    has_bf16_pairs, narrow, padded_rows, take_out, widen,
};
use crate::device::Refusal;
use crate::format::DType;
use crate::kernel::Configuration;
use crate::multiversion::{multiversioned, multiversioned_for_pairs};
use crate::op::{DecodeAttention, Op};

/// Tokens in a block: keys and values of 128 16-bit elements are 16 KiB.
const TOKENS: u32 = 32;

/// Most tokens in a block of any configuration.
const MAX_TOKENS: usize = 128;

/// Tokens between the one that is worked on and the one that is fetched. Found by measuring 8
/// to 32 on an AVX-512 server. On one of AMD (Zen 4) blocks of 16 tokens with 8 ahead
/// are faster for groups of up to 4 query heads, and blocks of 128 with 16 for larger ones.
const AHEAD: u32 = 24;

/// Most query heads that the inner loops take at once.
const MAX_ROWS: usize = 8;

pub(super) const KERNEL: CpuKernel = CpuKernel {
    name: "cpu_decode_attention",
    op: Op::DecodeAttention,
    sources: &[include_str!("decode_attention.rs"), include_str!("pairs.rs")],
    configurations: &[
        Configuration::new("blocks_of_64", &[("tokens", 64)]),
        Configuration::new("blocks_of_128", &[("tokens", 128)]),
        Configuration::new("ahead_8", &[("ahead", 8)]),
        Configuration::new("blocks_of_16_ahead_8", &[("tokens", 16), ("ahead", 8)]),
        Configuration::new("blocks_of_128_ahead_16", &[("tokens", 128), ("ahead", 16)]),
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

/// The inner loops for so many query heads, in f32.
fn attend_rows<T: Element>(rows: usize) -> Attend<T> {
    match rows {
        1 => attend::<T, 1, 16, 4>,
        2 => attend::<T, 2, 8, 4>,
        4 => attend::<T, 4, 4, 2>,
        _ => attend::<T, 8, 2, 1>,
    }
}

/// The same on pairs of bf16. A single head is joined by one of zeros: that is faster than
/// sixteen tokens at a time.
fn attend_pairs(rows: usize) -> Attend<bf16> {
    match rows {
        2 => attend_in_pairs::<2, 8, 4>,
        4 => attend_in_pairs::<4, 4, 2>,
        _ => attend_in_pairs::<8, 2, 1>,
    }
}

/// One block of tokens for some query heads: queries, keys, values, where the
/// tokens start, head width, running state.
type Attend<T> = fn(&[Lanes], &[T], &[T], &[usize], Next<'_>, usize, &mut State);

/// The tokens of the next block, and how many tokens lie between the one that is worked on
/// and the one that is fetched.
#[derive(Clone, Copy)]
struct Next<'a> {
    offsets: &'a [usize],
    distance: usize,
}

/// Running softmax of up to [`MAX_ROWS`] query heads.
struct State {
    /// Largest score so far, in powers of two.
    max: [f32; MAX_ROWS],
    /// Sum of the weights so far.
    sum: [f32; MAX_ROWS],
    /// Weighted sums of values, in the layout of [`arrange`].
    values: Vec<Lanes>,
    /// Scores of a block of tokens.
    scores: Vec<Lanes>,
    /// The weights of two tokens in a word, for products of pairs.
    pairs: Vec<u32>,
    /// What makes scores of products, where that is not in the queries.
    scale: f32,
}

/// What one thread works with: queries and state for each run of
/// [`MAX_ROWS`] heads.
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
    /// Tokens that are fetched ahead.
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
        Self::with(p, choice, threads, (rows, attend_rows(rows)))
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
            ahead: choice.or("ahead", AHEAD) as usize,
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
        let blocks = tokens.clone().step_by(self.tokens);
        let offsets_of = |start: usize, offsets: &mut [usize; MAX_TOKENS]| {
            let block = start.min(tokens.end)..tokens.end.min(start + self.tokens);
            self.cache.offsets(table, request, head, block, offsets)
        };
        let (mut offsets, mut next) = ([0; MAX_TOKENS], [0; MAX_TOKENS]);
        let mut count = offsets_of(tokens.start, &mut offsets);
        for start in blocks {
            let next_count = offsets_of(start + self.tokens, &mut next);
            for (i, queries) in scratch.queries.iter().enumerate() {
                // Only the first heads of a large group need to touch.
                let next = if i == 0 { &next[..next_count] } else { &[] };
                let next = Next { offsets: next, distance: self.ahead };
                let (offsets, state) = (&offsets[..count], &mut scratch.states[i]);
                (self.attend)(queries, keys, values, offsets, next, width, state);
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
        let (state, row) = (&scratch.states[g / self.rows], g % self.rows);
        take_out::<T>(&state.values, row, self.rows, &mut scratch.row);
        (state.max[row], state.sum[row])
    }
}

impl DecodeKernel<bf16> {
    /// With products of pairs of bf16, where the CPU has them.
    fn in_pairs(p: DecodeAttention, choice: &Configuration, threads: usize) -> Self {
        let rows = padded_rows(p.group() as usize).max(2);
        let kernel = Self::with(p, choice, threads, (rows, attend_pairs(rows)));
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

/// What products of queries and keys are multiplied by, so that weights are powers of two.
fn score_scale(head_dim: usize) -> f32 {
    std::f32::consts::LOG2_E / (head_dim as f32).sqrt()
}

impl State {
    fn new(lanes: usize, head_dim: usize) -> Self {
        State {
            max: [f32::NEG_INFINITY; MAX_ROWS],
            sum: [0.0; MAX_ROWS],
            values: vec![Lanes::ZERO; lanes],
            scores: vec![Lanes::ZERO; MAX_TOKENS * MAX_ROWS / 16],
            pairs: vec![0; MAX_TOKENS * MAX_ROWS / 2],
            scale: score_scale(head_dim),
        }
    }

    /// Turns the scores of `count` tokens into weights, and takes them in. Returns by how much
    /// what was there before shrinks. `ROUNDED`: weights are rounded to bf16.
    #[inline(always)]
    fn soften<const G: usize, const N: usize, const ROUNDED: bool>(
        &mut self,
        count: usize,
    ) -> [f32; G] {
        let scores = &mut self.scores[..count.div_ceil(N)];
        // Padding repeats the last token, which does not change the maximum.
        let max = highest::<G>(scores, &self.max);
        let mut scale = [0.0; G];
        for g in 0..G {
            scale[g] = super::simd::exp2(self.max[g] - max[g]);
            self.max[g] = max[g];
        }
        let sums = weigh::<G, ROUNDED>(scores, count * G, &max);
        for g in 0..G {
            self.sum[g] = self.sum[g] * scale[g] + sums[g];
        }
        scale
    }

    fn clear(&mut self) {
        self.max.fill(f32::NEG_INFINITY);
        self.sum.fill(0.0);
        self.values.fill(Lanes::ZERO);
    }
}

multiversioned! {
/// Attends `G` query heads to a block of tokens. `G * N` is 16.
fn attend<T: Element, const G: usize, const N: usize, const C: usize>(
    queries: &[Lanes],
    keys: &[T],
    values: &[T],
    offsets: &[usize],
    next: Next<'_>,
    width: usize,
    state: &mut State,
) {
    let Next { offsets: after, distance } = next;
    let count = offsets.len();
    let scores = &mut state.scores[..count.div_ceil(N)];
    let then = Ahead { data: values, offsets, distance };
    dots::<T, G, N>(queries, keys, offsets, then, width, scores);
    let scale = state.soften::<G, N, false>(count);
    let weights = bytemuck::cast_slice(&state.scores[..count.div_ceil(N)]);
    let then = Ahead { data: keys, offsets: after, distance };
    accumulate::<T, G, C>(weights, values, offsets, then, width, &scale, &mut state.values);
}
}

multiversioned_for_pairs! {
/// [`attend`] with products of pairs of bf16. The weights are rounded to bf16, in their sum
/// too, as kernels of GPUs do it.
fn attend_in_pairs<const G: usize, const N: usize, const C: usize>(
    queries: &[Lanes],
    keys: &[bf16],
    values: &[bf16],
    offsets: &[usize],
    next: Next<'_>,
    width: usize,
    state: &mut State,
) {
    match_target! {
        "x86_64+avx512bf16" => {
            let Next { offsets: after, distance } = next;
            let count = offsets.len();
            let scores = &mut state.scores[..count.div_ceil(N)];
            let then = Ahead { data: values, offsets, distance };
            let queries = bytemuck::cast_slice(queries);
            super::pairs::dots::<G, N>(queries, keys, offsets, then, width, scores);
            let by = Lanes::splat(state.scale);
            scores.iter_mut().for_each(|scores| *scores = scores.times(by));
            let scale = state.soften::<G, N, true>(count);
            pair_weights::<G>(&state.scores[..count.div_ceil(N)], &mut state.pairs);
            let then = Ahead { data: keys, offsets: after, distance };
            let (pairs, sums) = (&state.pairs, &mut state.values);
            super::pairs::accumulate::<G, C>(
                pairs, values, offsets, then, width, &scale, sums,
            );
        }
        _ => {
            let _ = (queries, keys, values, offsets, next, width, state);
            unreachable!("pairs are taken only where the CPU multiplies them");
        }
    }
}
}

/// Puts the weights of two tokens of a head into a word, the first in its low half: from
/// `[token][G]` to `[pair][G]`. They are exact in bf16.
#[inline(always)]
fn pair_weights<const G: usize>(weights: &[Lanes], pairs: &mut [u32]) {
    let (pairs, _) = pairs.as_chunks_mut::<8>();
    for (weights, pairs) in weights.iter().zip(pairs) {
        for (i, pair) in pairs.iter_mut().enumerate() {
            let even = 2 * (i / G) * G + i % G;
            let (low, high) = (weights.0[even], weights.0[even + G]);
            *pair = low.to_bits() >> 16 | high.to_bits() & 0xffff_0000;
        }
    }
}

/// The largest score of each head and of `floor`; lane `i` is of head `i % G`.
#[inline(always)]
fn highest<const G: usize>(scores: &[Lanes], floor: &[f32; MAX_ROWS]) -> [f32; G] {
    let mut lanes = Lanes::splat(f32::NEG_INFINITY);
    for &score in scores {
        lanes = lanes.max(score);
    }
    let mut max = [f32::NEG_INFINITY; G];
    for i in 0..16 {
        max[i % G] = max[i % G].max(lanes.0[i]);
    }
    for g in 0..G {
        max[g] = max[g].max(floor[g]);
    }
    max
}

/// Turns scores into weights and returns their sum for each head. Only the
/// first `count` are of tokens; the rest become zero.
#[inline(always)]
fn weigh<const G: usize, const ROUNDED: bool>(
    scores: &mut [Lanes],
    count: usize,
    max: &[f32; G],
) -> [f32; G] {
    let mut shift = Lanes::ZERO;
    for i in 0..16 {
        shift.0[i] = max[i % G];
    }
    let mut lanes = Lanes::ZERO;
    let last = scores.len() - 1;
    for (index, score) in scores.iter_mut().enumerate() {
        *score = score.exp2_less(shift);
        if ROUNDED {
            *score = score.to_bf16();
        }
        if index == last {
            for i in count - last * 16..16 {
                score.0[i] = 0.0;
            }
        }
        lanes = lanes.plus(*score);
    }
    let mut sums = [0.0; G];
    for i in 0..16 {
        sums[i % G] += lanes.0[i];
    }
    sums
}

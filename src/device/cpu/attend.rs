//! The inner loops of decode attention: the query heads of a group meet one block of tokens
//! after the other, with a softmax that is taken online.

use bytemuck::cast_slice;
use half::bf16;
use multiversion::target::match_target;

use super::simd::{Ahead, Element, Lanes, Rows, accumulate, dots, take_out};
use crate::multiversion::{multiversioned, multiversioned_for_pairs};

/// Most tokens in a block.
pub const MAX_TOKENS: usize = 256;

/// Most query heads that the inner loops take at once.
pub const MAX_HEADS: usize = 8;

/// Attends some query heads to a block of tokens: queries, tokens, head width, running state.
pub type Attend<T> = fn(&[Lanes], Tokens<'_, T>, usize, &mut State);

/// The loops for so many query heads, in f32.
pub fn attend_in_f32<T: Element>(heads: usize) -> Attend<T> {
    match heads {
        1 => attend::<T, 1, 16, 4, 4>,
        2 => attend::<T, 2, 8, 4, 4>,
        4 => attend::<T, 4, 4, 4, 2>,
        _ => attend::<T, 8, 2, 2, 1>,
    }
}

/// The same with products of pairs of bf16. For the usual widths the compiler knows where each
/// chunk of a row is.
pub fn attend_in_pairs(heads: usize, width: usize) -> Attend<bf16> {
    match (heads, width) {
        (1, 64) => attend_pairs::<1, 16, 4, 2, 64>,
        (1, 128) => attend_pairs::<1, 16, 4, 4, 128>,
        (1, _) => attend_pairs::<1, 16, 4, 4, 0>,
        (2, 64) => attend_pairs::<2, 8, 4, 2, 64>,
        (2, 128) => attend_pairs::<2, 8, 4, 4, 128>,
        (2, _) => attend_pairs::<2, 8, 4, 4, 0>,
        (4, 64) => attend_pairs::<4, 4, 4, 2, 64>,
        (4, 128) => attend_pairs::<4, 4, 4, 2, 128>,
        (4, _) => attend_pairs::<4, 4, 4, 2, 0>,
        (_, 64) => attend_pairs::<8, 2, 2, 1, 64>,
        (_, 128) => attend_pairs::<8, 2, 2, 1, 128>,
        (_, _) => attend_pairs::<8, 2, 2, 1, 0>,
    }
}

/// A block of tokens.
#[derive(Clone, Copy)]
pub struct Tokens<'a, T> {
    /// The keys of the cache.
    pub keys: &'a [T],
    /// Its values.
    pub values: &'a [T],
    /// Where the key and the value of each token start.
    pub offsets: &'a [usize],
    /// The same of as many tokens, of the next block.
    pub next: &'a [usize],
    /// How many rows lie between the one that is worked on and the one that is fetched
    /// meanwhile. 0: the CPU is left to fetch for itself.
    pub ahead: usize,
}

/// Rows of a block are cut at multiples of this: scores of a head fill whole vectors.
const WHOLE: usize = 16;

impl<'a, T: Copy> Tokens<'a, T> {
    /// The keys, after which come the values of the same tokens, in two parts.
    #[inline(always)]
    fn keys(self) -> [Rows<'a, T>; 2] {
        self.cut(self.keys, Ahead { data: self.values, offsets: self.offsets })
    }

    /// The values, after which come the keys of the next block.
    #[inline(always)]
    fn values(self) -> [Rows<'a, T>; 2] {
        self.cut(self.values, Ahead { data: self.keys, offsets: self.next })
    }

    /// The rows of `data`: first those during which others of `data` are fetched, which may be
    /// none, then those during which the rows that come `then` are.
    #[inline(always)]
    fn cut(self, data: &'a [T], then: Ahead<'a, T>) -> [Rows<'a, T>; 2] {
        let Tokens { offsets, ahead, .. } = self;
        if ahead == 0 {
            return [Rows::alone(data, &[]), Rows::alone(data, offsets)];
        }
        let first = offsets.len().saturating_sub(ahead) / WHOLE * WHOLE;
        let same = &offsets[ahead.min(offsets.len())..][..first];
        let same = Ahead { data, offsets: same };
        let rest = &offsets[first..];
        let then = Ahead { data: then.data, offsets: &then.offsets[..rest.len()] };
        let first = &offsets[..first];
        [
            Rows { data, offsets: first, ahead: same },
            Rows { data, offsets: rest, ahead: then },
        ]
    }
}

/// Running softmax of `G` query heads, up to [`MAX_HEADS`]. Lanes `g`, `g + G` and so on are of
/// head `g`.
pub struct State {
    /// Largest score so far, in powers of two, of the head.
    max: Lanes,
    /// Sum of the weights so far, of the lane.
    sum: Lanes,
    /// Weighted sums of values, in the layout of [`arrange`](super::simd::arrange).
    values: Vec<Lanes>,
    /// Scores of a block of tokens.
    scores: Vec<Lanes>,
    /// The weights of two tokens in a word, for products of pairs.
    pairs: Vec<u32>,
    /// What makes scores of products, where that is not in the queries.
    scale: f32,
}

impl State {
    /// The state of heads whose weighted sums take so many `lanes`.
    pub fn new(lanes: usize, head_dim: usize) -> Self {
        State {
            max: Lanes::ZERO,
            sum: Lanes::ZERO,
            values: vec![Lanes::ZERO; lanes],
            scores: vec![Lanes::ZERO; MAX_TOKENS * MAX_HEADS / 16],
            pairs: vec![0; MAX_TOKENS * MAX_HEADS / 2],
            scale: score_scale(head_dim),
        }
    }

    /// Forgets all tokens.
    pub fn clear(&mut self) {
        self.max = Lanes::splat(f32::NEG_INFINITY);
        self.sum = Lanes::ZERO;
        self.values.fill(Lanes::ZERO);
    }

    /// Of head `g` of `heads` the largest score and the sum of the weights. Its weighted sum of
    /// values goes to `row`, in order.
    pub fn take_head<T: Element>(
        &self,
        g: usize,
        heads: usize,
        row: &mut [f32],
    ) -> (f32, f32) {
        take_out::<T>(&self.values, g, heads, row);
        (self.max.0[g], self.sum.0.iter().skip(g).step_by(heads).sum())
    }

    /// Turns the scores of `count` tokens into weights, and takes them in. Returns by how much
    /// what was there before shrinks. `ROUNDED`: weights are rounded to bf16.
    #[inline(always)]
    fn soften<const G: usize, const N: usize, const ROUNDED: bool>(
        &mut self,
        count: usize,
    ) -> Lanes {
        let scores = &mut self.scores[..count.div_ceil(N)];
        // Padding repeats the last token, which does not change the maximum.
        let mut max = self.max;
        for &score in scores.iter() {
            max = max.max(score);
        }
        let max = largest_of_heads::<G>(max);
        let shrink = self.max.exp2_less(max);
        self.max = max;
        let mut sum = self.sum.times(shrink);
        let last = scores.len() - 1;
        for (index, score) in scores.iter_mut().enumerate() {
            let mut weights = score.exp2_less(max);
            if ROUNDED {
                weights = weights.to_bf16();
            }
            if index == last {
                weights = weights.first((count * G - last * 16) as u32);
            }
            *score = weights;
            sum = sum.plus(weights);
        }
        self.sum = sum;
        shrink
    }
}

/// What products of queries and keys are multiplied by, so that weights are powers of two.
pub fn score_scale(head_dim: usize) -> f32 {
    std::f32::consts::LOG2_E / (head_dim as f32).sqrt()
}

/// In each lane the largest of all lanes of its head.
#[inline(always)]
fn largest_of_heads<const G: usize>(lanes: Lanes) -> Lanes {
    let lanes = if G <= 8 { lanes.max(lanes.rotated::<8>()) } else { lanes };
    let lanes = if G <= 4 { lanes.max(lanes.rotated::<4>()) } else { lanes };
    let lanes = if G <= 2 { lanes.max(lanes.rotated::<2>()) } else { lanes };
    if G <= 1 { lanes.max(lanes.rotated::<1>()) } else { lanes }
}

multiversioned! {
/// Attends `G` query heads to a block of tokens. `G * N` is 16.
fn attend<T: Element, const G: usize, const N: usize, const R: usize, const C: usize>(
    queries: &[Lanes],
    tokens: Tokens<'_, T>,
    width: usize,
    state: &mut State,
) {
    let count = tokens.offsets.len();
    let mut scores = state.scores.as_mut_slice();
    for keys in tokens.keys() {
        let (these, rest) = scores.split_at_mut(keys.count().div_ceil(N));
        dots::<T, G, N, R>(queries, keys, width, these);
        scores = rest;
    }
    let mut shrink = state.soften::<G, N, false>(count);
    let mut weights: &[f32] = cast_slice(&state.scores);
    for values in tokens.values() {
        accumulate::<T, G, C>(weights, values, width, shrink, &mut state.values);
        weights = &weights[values.count() * G..];
        if values.count() > 0 {
            shrink = Lanes::splat(1.0);
        }
    }
}
}

multiversioned_for_pairs! {
/// [`attend`] with products of pairs of bf16. The weights are rounded to bf16, in their sum
/// too, as kernels of GPUs do it. `W` is the width of a head, or 0 where any will do.
fn attend_pairs<
    const G: usize,
    const N: usize,
    const R: usize,
    const C: usize,
    const W: usize,
>(
    queries: &[Lanes],
    tokens: Tokens<'_, bf16>,
    width: usize,
    state: &mut State,
) {
    match_target! {
        "x86_64+avx512bf16" => {
            let count = tokens.offsets.len();
            let mut scores = state.scores.as_mut_slice();
            for keys in tokens.keys() {
                let (these, rest) = scores.split_at_mut(keys.count().div_ceil(N));
                super::pairs::dots::<G, N, R, W>(cast_slice(queries), keys, width, these);
                scores = rest;
            }
            let by = Lanes::splat(state.scale);
            let scores = &mut state.scores[..count.div_ceil(N)];
            for scores in scores.iter_mut() {
                *scores = scores.times(by);
            }
            let mut shrink = state.soften::<G, N, true>(count);
            let weights = &state.scores[..count.div_ceil(N)];
            super::pairs::pair_weights::<G>(weights, &mut state.pairs);
            let mut weights = state.pairs.as_slice();
            for values in tokens.values() {
                let sums = &mut state.values;
                super::pairs::accumulate::<G, C, W>(weights, values, width, shrink, sums);
                weights = &weights[values.count().div_ceil(2) * G..];
                if values.count() > 0 {
                    shrink = Lanes::splat(1.0);
                }
            }
        }
        _ => {
            let _ = (queries, tokens, width, state);
            unreachable!("pairs are taken only where the CPU multiplies them");
        }
    }
}
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Every row is worked on once and in its place, and what is fetched runs on from these rows
    /// into those that come then.
    #[test]
    fn blocks_are_cut_where_other_rows_are_fetched() {
        let (data, other) = ([0u8; 1], [1u8; 1]);
        for count in 1..=MAX_TOKENS {
            let offsets: Vec<usize> = (0..count).collect();
            let next: Vec<usize> = (1000..1000 + count).collect();
            for ahead in [0, 16, 24, 32, 64, 300] {
                let tokens = Tokens {
                    keys: &data,
                    values: &other,
                    offsets: &offsets,
                    next: &next,
                    ahead,
                };
                let [same, then] = tokens.values();
                let what = format!("{count} rows, {ahead} ahead");
                assert_eq!([same.offsets, then.offsets].concat(), offsets, "{what}");
                assert_eq!(same.count() % WHOLE, 0, "{what}");
                for rows in [same, then] {
                    assert_eq!(rows.data, other, "{what}");
                    assert_eq!(rows.ahead.offsets.len(), rows.count(), "{what}");
                }
                if ahead == 0 {
                    assert_eq!(then.ahead.offsets, offsets, "{what}");
                    continue;
                }
                assert!(then.count() < ahead + WHOLE, "{what}");
                let distance = |(at, of): (&usize, &usize)| of - at;
                let places = same.offsets.iter().zip(same.ahead.offsets);
                assert!(places.map(distance).all(|by| by == ahead), "{what}");
                assert_eq!(then.ahead.offsets, &next[..then.count()], "{what}");
                assert_eq!(then.ahead.data, data, "{what}");
            }
        }
    }
}

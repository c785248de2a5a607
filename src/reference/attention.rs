//! `softmax(scale q k^T) v` as it is written: what the references of attention share.

use std::ops::Range;

use super::kv_source::CachedPart;
use super::linear::dot;

/// Size of an output of attention over `context` tokens: nearly the mean of as
/// many values uniform in [-1, 1), of variance 1/3 each.
pub(super) fn typical_attention(context: u64) -> f64 {
    (1.0 / 3.0 / context as f64).sqrt()
}

/// Widths of attention, and what scores are multiplied with.
pub(super) struct Attention {
    pub key_dim: usize,
    pub value_dim: usize,
    pub scale: f64,
}

impl Attention {
    /// Keys and values as wide as a head, `softmax(q k^T / sqrt(d)) v`.
    pub fn of_heads(head_dim: u64) -> Self {
        let dim = head_dim as usize;
        Attention { key_dim: dim, value_dim: dim, scale: 1.0 / (dim as f64).sqrt() }
    }

    /// `softmax(scale q k^T) v` over some tokens for one or more queries, in the order
    /// in which it is written. `row` makes the key or the value of a token.
    pub fn of(
        &self,
        queries: &[f32],
        tokens: Range<u64>,
        row: impl Fn(CachedPart, u64, &mut [f32]),
    ) -> Vec<f64> {
        let mut key = vec![0.0; self.key_dim];
        let mut scores = vec![Vec::new(); queries.len() / self.key_dim];
        for token in tokens.clone() {
            row(CachedPart::Key, token, &mut key);
            for (query, scores) in queries.chunks(self.key_dim).zip(&mut scores) {
                scores.push(dot(query, &key) * self.scale);
            }
        }
        for scores in &mut scores {
            softmax(scores);
        }
        let mut value = vec![0.0; self.value_dim];
        let mut out = vec![0.0; scores.len() * self.value_dim];
        for token in tokens.clone() {
            row(CachedPart::Value, token, &mut value);
            for (out, scores) in out.chunks_mut(self.value_dim).zip(&scores) {
                for (out, &value) in out.iter_mut().zip(&value) {
                    *out += scores[(token - tokens.start) as usize] * f64::from(value);
                }
            }
        }
        out
    }
}

pub(super) fn softmax(scores: &mut [f64]) {
    let max = scores.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    scores.iter_mut().for_each(|x| *x = (*x - max).exp());
    let sum: f64 = scores.iter().sum();
    scores.iter_mut().for_each(|x| *x /= sum);
}

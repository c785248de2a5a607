//! Answers of whole steps of decoding: every problem of the step in f64, one after the other,
//! rounded where the step's problems hand each other numbers.

use std::ops::Range;

use rayon::prelude::*;

use super::attention::Attention;
use super::compare::{CheckedOutput, Rows, round_to};
use super::gated_activation::silu;
use super::kv_source::{CachedPart, KvSource};
use super::linear::dot;
use super::rope_append::rotated;
use super::{Answer, Check, NoReference, SlotInputs};
use crate::data::Key;
use crate::format::GAIN_DIVISOR;
use crate::op::{DecodeStep, KvRead, RMS_EPSILON};
use crate::quant::Quant;

/// Most requests that are followed through all layers: first, last and one between.
const MOST_REQUESTS: u64 = 3;

/// Rows of numbers as the step's format holds them, one row for each followed request.
type Tokens = Vec<Vec<f32>>;

/// A step, and the keys that its inputs are drawn with.
struct Step<'a> {
    p: DecodeStep,
    inputs: &'a SlotInputs,
    cache: KvSource,
    /// The followed requests.
    requests: Vec<u64>,
}

impl<'a> Step<'a> {
    fn new(p: DecodeStep, inputs: &'a SlotInputs, requests: Vec<u64>) -> Self {
        let kv = KvRead {
            batch: p.batch,
            context: p.context,
            kv_heads: p.kv_heads,
            head_dim: p.head_dim,
            dtype: p.dtype,
            layout: p.layout,
            lengths: p.lengths,
        };
        let pages = p.layout.pages(p.batch, p.context) as usize;
        let table = inputs.find("page_table").map(|key| key.page_table(pages));
        let cache = KvSource {
            p: kv,
            keys: inputs.key("k_cache"),
            values: inputs.key("v_cache"),
            table: table.unwrap_or_default(),
            scales: None,
            scheme: Quant::cache(p.dtype),
        };
        Step { p, inputs, cache, requests }
    }

    fn rounded(&self, x: f64) -> f32 {
        round_to(self.p.dtype, x as f32) as f32
    }

    /// Rows of a tensor of values.
    fn rows(&self, tensor: &str, width: u64, rows: impl Iterator<Item = u64>) -> Tokens {
        let key = self.inputs.key(tensor);
        let row = |row| {
            let mut values = vec![0.0; width as usize];
            key.values(self.p.dtype, row * width, &mut values);
            values
        };
        rows.map(row).collect()
    }

    /// Products with `n` rows of weights, from the element `first` on.
    fn products(&self, x: &Tokens, (weights, first): (Key, u64), n: u64) -> Vec<Vec<f64>> {
        let k = x[0].len();
        let of_row = |row: &mut Vec<f32>, number: u64| -> Vec<f64> {
            weights.values(self.p.dtype, first + number * k as u64, row);
            x.iter().map(|x| dot(x, row)).collect()
        };
        let columns: Vec<Vec<f64>> =
            (0..n).into_par_iter().map_init(|| vec![0.0; k], of_row).collect();
        (0..x.len()).map(|token| columns.iter().map(|sums| sums[token]).collect()).collect()
    }

    /// A linear layer, rounded.
    fn linear(&self, x: &Tokens, tensor: &str, layer: u64, n: u64) -> Tokens {
        let first = layer * n * x[0].len() as u64;
        let sums = self.products(x, (self.inputs.key(tensor), first), n);
        sums.iter().map(|row| row.iter().map(|&x| self.rounded(x)).collect()).collect()
    }

    /// The norm with weights number `number`.
    fn norm(&self, x: &Tokens, number: u64) -> Tokens {
        let gains = self.rows("norm_weights", self.p.hidden, std::iter::once(number));
        let norm = |x: &Vec<f32>| {
            let squares = x.iter().map(|&x| f64::from(x) * f64::from(x)).sum::<f64>();
            let mean = squares / x.len() as f64;
            let scale = 1.0 / (mean + f64::from(RMS_EPSILON)).sqrt();
            let of = |(&x, &gain): (&f32, &f32)| {
                self.rounded(f64::from(x) * scale * f64::from(gain / GAIN_DIVISOR))
            };
            x.iter().zip(&gains[0]).map(of).collect()
        };
        x.iter().map(norm).collect()
    }

    fn add(&self, x: &Tokens, residual: &Tokens) -> Tokens {
        let sum = |(x, residual): (&Vec<f32>, &Vec<f32>)| {
            let of = |(&x, &r): (&f32, &f32)| self.rounded(f64::from(x) + f64::from(r));
            x.iter().zip(residual).map(of).collect()
        };
        x.iter().zip(residual).map(sum).collect()
    }

    /// Attention of the last token of each request, whose queries, keys and values are given
    /// before rotation.
    fn attention(&self, qkv: &Tokens, layer: u64) -> Tokens {
        let p = &self.p;
        let heads = self.requests.len() * p.kv_heads as usize;
        let of_head = |number: usize| -> Vec<f32> {
            let (at, head) = (number / p.kv_heads as usize, number as u64 % p.kv_heads);
            self.attention_of(&qkv[at], (self.requests[at], head), layer)
        };
        let parts: Vec<Vec<f32>> = (0..heads).into_par_iter().map(of_head).collect();
        parts.chunks(p.kv_heads as usize).map(<[_]>::concat).collect()
    }

    /// Attention of the queries that share a head of keys and values.
    fn attention_of(
        &self,
        qkv: &[f32],
        (request, head): (u64, u64),
        layer: u64,
    ) -> Vec<f32> {
        let p = &self.p;
        let (d, group) = (p.head_dim as usize, (p.q_heads / p.kv_heads) as usize);
        let length = self.cache.p.length(request);
        let rope = p.rope_append();
        let turned = |first: usize, heads: usize| -> Vec<f32> {
            let heads = qkv[first * d..(first + heads) * d].chunks(d);
            let turned = heads.flat_map(|head| rotated(&rope, head, length - 1));
            turned.map(|x| self.rounded(x)).collect()
        };
        let (head_at, q_heads) = (head as usize, p.q_heads as usize);
        let queries = turned(head_at * group, group);
        let new_key = turned(q_heads + head_at, 1);
        let value_at = (q_heads + p.kv_heads as usize + head_at) * d;
        let new_value = &qkv[value_at..value_at + d];
        let row = |part: CachedPart, token: u64, to: &mut [f32]| {
            if token + 1 == length {
                to.copy_from_slice(match part {
                    CachedPart::Key => &new_key,
                    CachedPart::Value => new_value,
                });
                return;
            }
            let tensor = [self.cache.keys, self.cache.values][part as usize];
            let first =
                layer * p.cache_elements() + self.cache.offset(request, head, token);
            tensor.values(p.dtype, first, to);
        };
        let out = Attention::of_heads(p.head_dim).of(&queries, 0..length, row);
        out.into_iter().map(|x| self.rounded(x)).collect()
    }

    /// `silu(gate) up`.
    fn activation(&self, gate_up: &Tokens) -> Tokens {
        let of_token = |x: &Vec<f32>| {
            let (gate, up) = x.split_at(x.len() / 2);
            let of = |(&gate, &up): (&f32, &f32)| {
                self.rounded(silu(gate.into()) * f64::from(up))
            };
            gate.iter().zip(up).map(of).collect()
        };
        gate_up.iter().map(of_token).collect()
    }

    /// The logits of the followed requests.
    fn logits(&self) -> Vec<Vec<f64>> {
        let p = &self.p;
        let tokens = self.inputs.key("tokens");
        let ids =
            self.requests.iter().map(|&request| u64::from(tokens.word(request)) % p.vocab);
        let mut stream = self.rows("embedding", p.hidden, ids);
        let mut normed = self.norm(&stream, 0);
        for layer in 0..p.layers {
            let qkv = self.linear(&normed, "w_qkv", layer, p.qkv_width());
            let attended = self.attention(&qkv, layer);
            let projected = self.linear(&attended, "w_output", layer, p.hidden);
            stream = self.add(&projected, &stream);
            normed = self.norm(&stream, 2 * layer + 1);
            let gate_up = self.linear(&normed, "w_gate_up", layer, 2 * p.intermediate);
            let fed = self.linear(&self.activation(&gate_up), "w_down", layer, p.hidden);
            stream = self.add(&fed, &stream);
            normed = self.norm(&stream, 2 * layer + 2);
        }
        self.products(&normed, (self.inputs.key("w_head"), 0), p.vocab)
    }
}

impl Answer for DecodeStep {
    fn axes(&self) -> Vec<(&'static str, u64)> {
        vec![("request", self.batch), ("token", self.vocab)]
    }

    fn compare(
        &self,
        target: &CheckedOutput<'_>,
        inputs: &SlotInputs,
    ) -> Result<Check, NoReference> {
        if self.dtype.is_scaled() {
            let message = format!("there is no reference for a step in {}", self.dtype);
            return Err(NoReference(message));
        }
        let between =
            self.batch / 2 + u64::from(target.draws.word(0)) % self.batch.div_ceil(2);
        let mut requests = vec![0, between.min(self.batch - 1), self.batch - 1];
        if self.batch <= MOST_REQUESTS {
            requests = (0..self.batch).collect();
        }
        requests.dedup();
        let logits = Step::new(*self, inputs, requests.clone()).logits();
        let make =
            |at: u64| (requests[at as usize] * self.vocab, logits[at as usize].clone());
        // A normed row times gains and values, each uniform in [-1, 1) but for the divisor.
        let typical = (self.hidden as f64).sqrt() / 3.0 / f64::from(GAIN_DIVISOR);
        Ok(target.compare_rows(&Rows {
            count: requests.len() as u64,
            cost: 1,
            rows: 1,
            width: self.vocab as usize,
            typical: Some(typical),
            make: Box::new(make),
        }))
    }

    /// Rounding errs as much in each layer, and once before them.
    fn tolerance_factor(&self) -> f64 {
        (1.0 + self.layers as f64).sqrt()
    }

    fn unneeded(&self, _: &SlotInputs) -> Vec<(&'static str, Range<u64>)> {
        Vec::new()
    }
}

#[cfg(test)]
mod tests {
    use half::bf16;

    use super::super::tests::SEED;
    use super::*;
    use crate::op::{OfProblem, Problem};
    use crate::reference::{CheckVerdict, check};

    fn problem(layers: u64, context: u64) -> Problem {
        let text = format!(
            "decode_step:layers={layers},batch=2,context={context},hidden=128,q_heads=4,\
             kv_heads=2,head_dim=32,intermediate=160,vocab=400,dtype=bf16,layout=paged16"
        );
        text.parse().unwrap()
    }

    /// The logits of a step in its format, of inputs that another problem of the same shapes
    /// may have been drawn for.
    fn logits(of: Problem, drawn_for: Problem) -> Vec<u8> {
        let inputs = SlotInputs::new(&drawn_for, SEED, 0);
        let step = *DecodeStep::of(&of).unwrap();
        let rows = Step::new(step, &inputs, vec![0, 1]).logits();
        rows.concat().iter().flat_map(|&x| bf16::from_f64(x).to_le_bytes()).collect()
    }

    /// What is missing in one place of many is seen in the logits.
    #[test]
    fn a_mistake_in_a_layer_is_seen() {
        let whole = problem(5, 40);
        let verdict = |output: &[u8]| check(&whole, SEED, 0, 0, output).unwrap();
        let right = verdict(&logits(whole, whole));
        assert_eq!((right.verdict, right.elements), (CheckVerdict::Pass, 800));
        assert!(right.max_rel_err < 0.004, "{}", right.max_rel_err);
        for wrong in [problem(4, 40), problem(5, 39), problem(5, 33)] {
            let found = verdict(&logits(wrong, whole));
            assert_eq!(found.verdict, CheckVerdict::Fail, "{wrong}");
        }
    }
}

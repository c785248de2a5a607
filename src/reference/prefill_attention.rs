//! Answers of attention of prefill.

use std::ops::Range;

use super::attention::{Attention, typical_attention};
use super::compare::{CheckedOutput, Rows};
use super::kv_source::{CachedPart, KvSource, unneeded_rows};
use super::{Answer, Check, NoReference, SlotInputs};
use crate::format::TensorFormat;
use crate::op::{KvRead, Lengths, PrefillAttention};

/// Whose a row of the queries is, and of the outputs.
struct Row {
    request: u64,
    head: u64,
    token: u64,
}

/// Where the rows of requests lie.
struct RowOrder {
    p: PrefillAttention,
    /// First token of each request in the row of all tokens, where they are not equally long.
    first_tokens: Vec<u64>,
}

impl RowOrder {
    fn of(p: PrefillAttention) -> Self {
        let mut next = 0;
        let first_tokens = match p.lengths {
            Lengths::Equal => Vec::new(),
            Lengths::Ragged => (0..p.batch)
                .map(|number| {
                    let first = next;
                    next += p.request(number).new_tokens;
                    first
                })
                .collect(),
        };
        RowOrder { p, first_tokens }
    }

    fn row(&self, number: u64) -> Row {
        let PrefillAttention { q_heads, new_tokens, .. } = self.p;
        if self.p.lengths == Lengths::Equal {
            let (head, token) = (number / new_tokens, number % new_tokens);
            return Row { request: head / q_heads, head: head % q_heads, token };
        }
        let (token, head) = (number / q_heads, number % q_heads);
        let request = self.first_tokens.partition_point(|first| *first <= token) - 1;
        Row { request: request as u64, head, token: token - self.first_tokens[request] }
    }
}

/// One new token of one query head.
fn prefill_rows(p: PrefillAttention, inputs: &SlotInputs) -> Rows<'static> {
    let (kv, order) = (p.kv(), RowOrder::of(p));
    let source = |kv| KvSource::new(kv, inputs).in_scheme(p.kv_dtype);
    let of_keys = source(kv);
    let of_values = source(KvRead { head_dim: p.v_head_dim, ..kv });
    let all_queries = inputs.queries();
    let q_dtype = p.q_dtype.dtype();
    let q_scale =
        inputs.find("q_scales").map(|key| key.scale(TensorFormat::Scales(q_dtype), 0));
    let make = move |row: u64| {
        let Row { request, head, token } = order.row(row);
        let mut query = vec![0.0; p.head_dim as usize];
        all_queries.values(q_dtype, row * p.head_dim, &mut query);
        query.iter_mut().for_each(|x| *x *= q_scale.unwrap_or(1.0));
        let kv_head = head / p.group();
        let attention = Attention {
            value_dim: p.v_head_dim as usize,
            ..Attention::of_heads(p.head_dim)
        };
        let row_of = |what, token, to: &mut [f32]| {
            let source = match what {
                CachedPart::Key => &of_keys,
                CachedPart::Value => &of_values,
            };
            source.row(what, request, kv_head, token, to);
        };
        let attended = p.request(request).attended(token);
        (row * p.v_head_dim, attention.of(&query, attended, row_of))
    };
    Rows {
        count: p.q_heads * p.all_new_tokens(),
        cost: p.context() * p.head_dim * 3,
        rows: 1,
        width: p.v_head_dim as usize,
        typical: Some(typical_attention(p.context())),
        make: Box::new(make),
    }
}

impl Answer for PrefillAttention {
    fn axes(&self) -> Vec<(&'static str, u64)> {
        let (head, dim) = (("q head", self.q_heads), ("dim", self.v_head_dim));
        match self.lengths {
            Lengths::Equal => {
                vec![("batch", self.batch), head, ("token", self.new_tokens), dim]
            }
            Lengths::Ragged => vec![("token", self.all_new_tokens()), head, dim],
        }
    }

    fn compare(
        &self,
        target: &CheckedOutput<'_>,
        inputs: &SlotInputs,
    ) -> Result<Check, NoReference> {
        Ok(target.compare_rows(&prefill_rows(*self, inputs)))
    }

    fn roundoff(&self) -> f64 {
        if self.has_narrow_weights() { 1.0 / 16.0 } else { 0.0 }
    }

    /// Of keys: sums of weighted values stay in tensor cores.
    fn fixed_point_products(&self) -> u64 {
        if self.has_narrow_weights() { self.context() } else { 0 }
    }

    /// What is after a request's tokens: in its last page, and in the room for longer ones.
    fn unneeded(&self, inputs: &SlotInputs) -> Vec<(&'static str, Range<u64>)> {
        let of_widths = |(tensor, head_dim)| {
            let kv = KvRead { head_dim, ..self.kv() };
            let rows = unneeded_rows(kv, inputs, |length| 0..length);
            rows.into_iter().filter(move |(name, _)| *name == tensor)
        };
        [("k", self.head_dim), ("v", self.v_head_dim)]
            .into_iter()
            .flat_map(of_widths)
            .collect()
    }
}

//! Answers of attention of prefill.

use std::ops::Range;

use super::attention::{Attention, typical_attention};
use super::compare::{CheckedOutput, Rows};
use super::kv_source::{CachedPart, KvSource, unneeded_rows};
use super::{Answer, Check, NoReference, SlotInputs};
use crate::op::{KvRead, Lengths, PrefillAttention};

/// Keys, and values of the same width.
fn cache(p: &PrefillAttention) -> KvRead {
    KvRead {
        batch: p.batch,
        context: p.context(),
        kv_heads: p.kv_heads,
        head_dim: p.head_dim,
        dtype: p.kv_dtype.dtype(),
        layout: p.layout,
        lengths: Lengths::Equal,
    }
}

/// One new token of one query head.
fn prefill_rows(p: PrefillAttention, inputs: &SlotInputs) -> Rows<'static> {
    let kv = cache(&p);
    let source = |kv| KvSource::new(kv, inputs).in_scheme(p.kv_dtype);
    let of_keys = source(kv);
    let of_values = source(KvRead { head_dim: p.v_head_dim, ..kv });
    let all_queries = inputs.queries();
    let make = move |row: u64| {
        let (head, token) = (row / p.new_tokens, row % p.new_tokens);
        let mut query = vec![0.0; p.head_dim as usize];
        all_queries.values(p.dtype, row * p.head_dim, &mut query);
        let kv_head = head % p.q_heads / p.group();
        let attention = Attention {
            value_dim: p.v_head_dim as usize,
            ..Attention::of_heads(p.head_dim)
        };
        let batch = head / p.q_heads;
        let row_of = |what, token, to: &mut [f32]| {
            let source = match what {
                CachedPart::Key => &of_keys,
                CachedPart::Value => &of_values,
            };
            source.row(what, batch, kv_head, token, to);
        };
        (row * p.v_head_dim, attention.of(&query, p.attended(token), row_of))
    };
    Rows {
        count: p.batch * p.q_heads * p.new_tokens,
        cost: p.context() * p.head_dim * 3,
        rows: 1,
        width: p.v_head_dim as usize,
        typical: Some(typical_attention(p.context())),
        make: Box::new(make),
    }
}

impl Answer for PrefillAttention {
    fn axes(&self) -> Vec<(&'static str, u64)> {
        vec![
            ("batch", self.batch),
            ("q head", self.q_heads),
            ("token", self.new_tokens),
            ("dim", self.v_head_dim),
        ]
    }

    fn compare(
        &self,
        target: &CheckedOutput<'_>,
        inputs: &SlotInputs,
    ) -> Result<Check, NoReference> {
        Ok(target.compare_rows(&prefill_rows(*self, inputs)))
    }

    /// What is after the context in the last pages.
    fn unneeded(&self, inputs: &SlotInputs) -> Vec<(&'static str, Range<u64>)> {
        let of_widths = |(tensor, head_dim)| {
            let kv = KvRead { head_dim, ..cache(self) };
            let rows = unneeded_rows(kv, inputs, |length| 0..length);
            rows.into_iter().filter(move |(name, _)| *name == tensor)
        };
        [("k", self.head_dim), ("v", self.v_head_dim)]
            .into_iter()
            .flat_map(of_widths)
            .collect()
    }
}

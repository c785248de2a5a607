//! Answers of attention of decode.

use std::ops::Range;

use super::attention::{Attention, typical_attention};
use super::compare::{CheckedOutput, Rows};
use super::kv_source::{KvSource, unneeded_rows};
use super::{Answer, Check, NoReference, SlotInputs};
use crate::op::DecodeAttention;

/// All query heads of a new token that share a key and value head.
pub(super) fn decode_rows(p: DecodeAttention, inputs: &SlotInputs) -> Rows<'static> {
    let cache = KvSource::new(p.kv(), inputs).in_scheme(p.kv_dtype);
    let all_queries = inputs.queries();
    let group_elements = p.group() * p.head_dim;
    let make = move |part: u64| {
        let mut queries = vec![0.0; group_elements as usize];
        all_queries.values(p.dtype, part * group_elements, &mut queries);
        let (token, head) = (part / p.kv_heads, part % p.kv_heads);
        let (batch, token) = (token / p.new_tokens, token % p.new_tokens);
        let tokens = p.attended(cache.p.length(batch), token);
        let attention = Attention::of_heads(p.head_dim);
        let row = |what, token, to: &mut [f32]| cache.row(what, batch, head, token, to);
        (part * group_elements, attention.of(&queries, tokens, row))
    };
    // Making a value costs about as much as two multiply-adds.
    let cost = p.context * p.head_dim * (2 + p.group());
    Rows {
        count: p.batch * p.new_tokens * p.kv_heads,
        cost,
        rows: p.group(),
        width: p.head_dim as usize,
        typical: Some(typical_attention(p.context)),
        make: Box::new(make),
    }
}

impl Answer for DecodeAttention {
    fn axes(&self) -> Vec<(&'static str, u64)> {
        vec![
            ("batch", self.batch),
            ("new token", self.new_tokens),
            ("q head", self.q_heads),
            ("dim", self.head_dim),
        ]
    }

    fn compare(
        &self,
        target: &CheckedOutput<'_>,
        inputs: &SlotInputs,
    ) -> Result<Check, NoReference> {
        Ok(target.compare_rows(&decode_rows(*self, inputs)))
    }

    fn unneeded(&self, inputs: &SlotInputs) -> Vec<(&'static str, Range<u64>)> {
        unneeded_rows(self.kv(), inputs, |length| self.visible(length))
    }
}

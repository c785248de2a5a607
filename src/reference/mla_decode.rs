//! Answers of latent attention of decode.

use std::ops::Range;

use super::attention::{Attention, typical_attention};
use super::compare::{CheckedOutput, Rows};
use super::kv_source::unneeded_tokens;
use super::{Answer, Check, NoReference, SlotInputs};
use crate::data::Key;
use crate::op::{KvLayout, MlaDecode, SCORE_WIDTH};

/// Query heads of a new token that are compared together: they share the latents, and
/// several parts can be made at the same time.
const HEADS: u64 = 8;

/// Some query heads of a new token.
fn mla_rows(p: MlaDecode, inputs: &SlotInputs) -> Rows<'static> {
    let latents = Latents::new(p, inputs);
    let all_queries = inputs.queries();
    let attention = Attention {
        key_dim: p.key_dim() as usize,
        value_dim: p.latent_dim as usize,
        scale: 1.0 / (SCORE_WIDTH as f64).sqrt(),
    };
    // Parts of different sizes would not be rows of a whole number.
    let heads = if p.q_heads.is_multiple_of(HEADS) { HEADS } else { p.q_heads };
    let make = move |part: u64| {
        let mut queries = vec![0.0; (heads * p.key_dim()) as usize];
        all_queries.values(p.dtype, part * heads * p.key_dim(), &mut queries);
        let request = part / (p.q_heads / heads);
        let (batch, token) = (request / p.new_tokens, request % p.new_tokens);
        let tokens = p.attended(p.length(batch), token);
        // Values are the first elements of keys.
        let row = |_, token, to: &mut [f32]| latents.row(batch, token, to);
        (part * heads * p.latent_dim, attention.of(&queries, tokens, row))
    };
    Rows {
        count: p.batch * p.new_tokens * (p.q_heads / heads),
        cost: p.context * p.key_dim() * (2 + heads),
        rows: heads,
        width: p.latent_dim as usize,
        typical: Some(typical_attention(p.context)),
        make: Box::new(make),
    }
}

/// Where the cache of latent attention comes from.
struct Latents {
    p: MlaDecode,
    values: Key,
    table: Vec<u32>,
}

impl Latents {
    fn new(p: MlaDecode, inputs: &SlotInputs) -> Self {
        let pages = p.layout.pages(p.batch, p.context) as usize;
        let table = inputs.find("page_table").map(|key| key.page_table(pages));
        Latents { p, values: inputs.key("kv"), table: table.unwrap_or_default() }
    }

    /// Number of a token's record.
    fn record(&self, batch: u64, token: u64) -> u64 {
        match self.p.layout {
            KvLayout::Contiguous => batch * self.p.context + token,
            KvLayout::Paged { page_size, .. } => {
                let index = batch * self.p.context.div_ceil(page_size) + token / page_size;
                u64::from(self.table[index as usize]) * page_size + token % page_size
            }
        }
    }

    /// As many elements of a token's record as `to` holds.
    fn row(&self, batch: u64, token: u64, to: &mut [f32]) {
        let (p, record) = (&self.p, self.record(batch, token));
        if p.kv_dtype.is_scaled() {
            self.values.latent_record(p.latent_dim, p.rope_dim, record, to);
        } else {
            self.values.values(p.kv_dtype.dtype(), record * p.key_dim(), to);
        }
    }
}

impl Answer for MlaDecode {
    fn axes(&self) -> Vec<(&'static str, u64)> {
        vec![
            ("batch", self.batch),
            ("new token", self.new_tokens),
            ("q head", self.q_heads),
            ("latent", self.latent_dim),
        ]
    }

    fn compare(
        &self,
        target: &CheckedOutput<'_>,
        inputs: &SlotInputs,
    ) -> Result<Check, NoReference> {
        Ok(target.compare_rows(&mla_rows(*self, inputs)))
    }

    fn unneeded(&self, inputs: &SlotInputs) -> Vec<(&'static str, Range<u64>)> {
        let latents = Latents::new(*self, inputs);
        let bytes = self.record_bytes();
        let records = unneeded_tokens(self.kv(), |length| 0..length);
        let first = |(batch, token)| latents.record(batch, token) * bytes;
        records.map(first).map(|first| ("kv", first..first + bytes)).collect()
    }
}

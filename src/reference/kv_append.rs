//! Answers of appending to a cache.

use std::ops::Range;

use super::compare::{CheckedOutput, Rows, round_to};
use super::kv_source::paged_row;
use super::{Answer, Check, NoReference, SlotInputs};
use crate::data::Key;
use crate::format::TensorFormat;
use crate::op::KvAppend;

/// The rows of new keys and values, as the cache is to hold them.
fn appended_rows(p: KvAppend, inputs: &SlotInputs) -> Rows<'static> {
    let (page_size, order) = p.paging();
    let pages = p.batch * p.pages();
    let table = inputs.key("page_table").page_table(pages as usize);
    let new = [inputs.key("k_new"), inputs.key("v_new")];
    let scales = inputs.find("k_inverse_scales").zip(inputs.find("v_inverse_scales"));
    let scales = scales.map(<[Key; 2]>::from);
    let rows_of_part = p.batch * p.new_tokens * p.kv_heads;
    let make = move |row: u64| {
        let (part, row) = ((row / rows_of_part) as usize, row % rows_of_part);
        let (token, head) = (row / p.kv_heads, row % p.kv_heads);
        let (batch, token) = (token / p.new_tokens, token % p.new_tokens);
        let place = p.first_place(batch) + token;
        let page = u64::from(table[(batch * p.pages() + place / page_size) as usize]);
        let at = (page, head, place % page_size);
        let to = part as u64 * pages * page_size * p.kv_heads
            + paged_row((page_size, order), p.kv_heads, at);
        let inverse_scale = scales.map_or(1.0, |scales| {
            let format = TensorFormat::InverseScales(p.kv_dtype.dtype());
            let heads = (p.batch * p.kv_heads, 1);
            let index = p.kv_dtype.scale_index(heads, batch * p.kv_heads + head, 0);
            scales[part].scale(format, index)
        });
        let stored = |dim: u64| {
            let x = new[part].value(p.dtype, row * p.head_dim + dim);
            round_to(p.kv_dtype.dtype(), x * inverse_scale)
        };
        (to * p.head_dim, (0..p.head_dim).map(stored).collect())
    };
    let (count, width) = (2 * rows_of_part, p.head_dim as usize);
    Rows { count, cost: p.head_dim, rows: 1, width, typical: None, make: Box::new(make) }
}

impl Answer for KvAppend {
    fn axes(&self) -> Vec<(&'static str, u64)> {
        let (heads, places) = (("kv head", self.kv_heads), ("place", self.page_size()));
        let (outer, inner) =
            if self.layout.is_token_first() { (places, heads) } else { (heads, places) };
        let pages = self.batch * self.pages();
        vec![("tensor", 2), ("page", pages), outer, inner, ("dim", self.head_dim)]
    }

    fn compare(
        &self,
        target: &CheckedOutput<'_>,
        inputs: &SlotInputs,
    ) -> Result<Check, NoReference> {
        let rows = appended_rows(*self, inputs);
        Ok(target.scan_rest(&rows).unwrap_or_else(|| target.compare_rows(&rows)))
    }

    fn unneeded(&self, _: &SlotInputs) -> Vec<(&'static str, Range<u64>)> {
        Vec::new()
    }
}

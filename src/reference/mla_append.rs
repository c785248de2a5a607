//! Answers of appending to a cache of latents.

use std::ops::Range;

use super::compare::{CheckedOutput, Rows, round_to};
use super::{Answer, Check, NoReference, SlotInputs};
use crate::op::MlaAppend;

/// The rows of new tokens, as the cache is to hold them.
fn appended_rows(p: MlaAppend, inputs: &SlotInputs) -> Rows<'static> {
    let (page_size, width) = (p.page_size(), p.key_dim());
    let table = inputs.key("page_table").page_table((p.batch * p.pages()) as usize);
    let new = inputs.key("kv_new");
    let make = move |row: u64| {
        let (request, token) = (row / p.new_tokens, row % p.new_tokens);
        let place = p.first_place(request) + token;
        let page = u64::from(table[(request * p.pages() + place / page_size) as usize]);
        let to = page * page_size + place % page_size;
        let stored =
            |dim| round_to(p.kv_dtype.dtype(), new.value(p.dtype, row * width + dim));
        (to * width, (0..width).map(stored).collect())
    };
    let count = p.batch * p.new_tokens;
    Rows {
        count,
        cost: width,
        rows: 1,
        width: width as usize,
        typical: None,
        make: Box::new(make),
    }
}

impl Answer for MlaAppend {
    fn axes(&self) -> Vec<(&'static str, u64)> {
        let pages = self.batch * self.pages();
        vec![("page", pages), ("place", self.page_size()), ("dim", self.key_dim())]
    }

    fn compare(
        &self,
        target: &CheckedOutput<'_>,
        inputs: &SlotInputs,
    ) -> Result<Check, NoReference> {
        if self.kv_dtype.is_scaled() {
            return Err(NoReference(format!(
                "a record of {} has scales that its kernel chooses; use a cache in 16 bits",
                self.kv_dtype
            )));
        }
        let rows = appended_rows(*self, inputs);
        Ok(target.scan_rest(&rows).unwrap_or_else(|| target.compare_rows(&rows)))
    }

    fn unneeded(&self, _: &SlotInputs) -> Vec<(&'static str, Range<u64>)> {
        Vec::new()
    }
}

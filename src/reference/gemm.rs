//! Answers of linear layers.

use std::ops::Range;

use super::compare::{Rows, Target};
use super::linear::{Weights, linear_rows};
use super::{Answer, Check, NoReference, SlotInputs};
use crate::op::Gemm;

/// Rows of C.
pub(super) fn rows(p: Gemm, inputs: &SlotInputs) -> Rows<'static> {
    let (values, scales) = (inputs.key("b"), inputs.find("b_scales"));
    let weights = Weights::new(p.w_dtype, (p.n, p.k), values, scales);
    linear_rows(p.m, (inputs.key("a"), p.dtype), weights, |row| (row, 0))
}

impl Answer for Gemm {
    fn axes(&self) -> Vec<(&'static str, u64)> {
        vec![("row", self.m), ("column", self.n)]
    }

    fn compare(
        &self,
        target: &Target<'_>,
        inputs: &SlotInputs,
    ) -> Result<Check, NoReference> {
        Ok(target.compare_rows(&rows(*self, inputs)))
    }

    fn unneeded(&self, _: &SlotInputs) -> Vec<(&'static str, Range<u64>)> {
        Vec::new()
    }
}

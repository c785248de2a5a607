//! Answers of linear layers.

use std::ops::Range;

use super::compare::{CheckedOutput, Rows};
use super::linear::{Matrices, MatrixNames, fixed_point_products, linear_rows};
use super::{Answer, Check, NoReference, SlotInputs};
use crate::op::Gemm;

const A: MatrixNames = ["a", "a_scales", "a_zero_points", "a_tensor_scale"];
const B: MatrixNames = ["b", "b_scales", "b_zero_points", "b_tensor_scale"];

/// Rows of C.
pub(super) fn rows(p: Gemm, inputs: &SlotInputs) -> Rows<'static> {
    let a = Matrices::new(p.a_dtype, (p.m, p.k), inputs, A);
    let b = Matrices::new(p.w_dtype, (p.n, p.k), inputs, B);
    linear_rows(p.m, a, b, |row| (row, 0))
}

impl Answer for Gemm {
    fn axes(&self) -> Vec<(&'static str, u64)> {
        vec![("row", self.m), ("column", self.n)]
    }

    fn fixed_point_products(&self) -> u64 {
        fixed_point_products(self.a_dtype, self.w_dtype)
    }

    fn compare(
        &self,
        target: &CheckedOutput<'_>,
        inputs: &SlotInputs,
    ) -> Result<Check, NoReference> {
        Ok(target.compare_rows(&rows(*self, inputs)))
    }

    fn unneeded(&self, _: &SlotInputs) -> Vec<(&'static str, Range<u64>)> {
        Vec::new()
    }
}

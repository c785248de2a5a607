//! Answers of routed experts.

use std::ops::Range;

use super::compare::CheckedOutput;
use super::linear::{Matrices, linear_rows};
use super::{Answer, Check, NoReference, SlotInputs};
use crate::format::Role;
use crate::op::{MoeGemm, Operation};

impl Answer for MoeGemm {
    fn axes(&self) -> Vec<(&'static str, u64)> {
        vec![("token", self.tokens), ("slot", self.top_k), ("column", self.n)]
    }

    fn compare(
        &self,
        target: &CheckedOutput<'_>,
        inputs: &SlotInputs,
    ) -> Result<Check, NoReference> {
        let names = ["w", "w_scales", "w_zero_points", "w_tensor_scale"];
        let weights = Matrices::new(self.w_dtype, (self.n, self.k), inputs, names);
        let experts = self.expert_of_rows();
        let extents = (self.input_rows(), self.k);
        let x = Matrices::new(self.dtype.into(), extents, inputs, ["x", "", "", ""]);
        let rows = linear_rows(self.rows(), x, weights, |row| {
            (self.input_row(row), experts[row as usize].into())
        });
        Ok(target.compare_rows(&rows))
    }

    /// The weights of experts that no token has chosen, and their scales.
    fn unneeded(&self, _: &SlotInputs) -> Vec<(&'static str, Range<u64>)> {
        let experts = self.untouched();
        let mut found = Vec::new();
        for tensor in self.tensors() {
            if tensor.role == Role::Input && tensor.name != "x" {
                let bytes = tensor.bytes() / self.experts;
                let of_expert = |&e: &u64| (tensor.name, e * bytes..(e + 1) * bytes);
                found.extend(experts.iter().map(of_expert));
            }
        }
        found
    }
}

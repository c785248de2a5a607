//! Answers of routed experts.

use std::ops::Range;

use super::compare::{CheckedOutput, Rows};
use super::linear::{Matrices, fixed_point_products, linear_rows};
use super::{Answer, Check, NoReference, SlotInputs};
use crate::format::Role;
use crate::op::{MoeGemm, Operation, RowOrder};

impl Answer for MoeGemm {
    fn axes(&self) -> Vec<(&'static str, u64)> {
        let column = ("column", self.n);
        match self.row_order {
            RowOrder::Scattered => {
                vec![("token", self.tokens), ("slot", self.top_k), column]
            }
            RowOrder::Contiguous => vec![("row", self.rows()), column],
            RowOrder::Masked => {
                vec![("expert", self.experts), ("row", self.tokens), column]
            }
        }
    }

    fn fixed_point_products(&self) -> u64 {
        fixed_point_products(self.a_dtype, self.w_dtype)
    }

    fn compare(
        &self,
        target: &CheckedOutput<'_>,
        inputs: &SlotInputs,
    ) -> Result<Check, NoReference> {
        let names = ["w", "w_scales", "w_zero_points", "w_tensor_scale"];
        let weights = Matrices::new(self.w_dtype, (self.n, self.k), inputs, names);
        // Of each row of Y that there is, in order, its place and its expert.
        let mut sources: Vec<(u64, u64)> = (0..)
            .zip(self.rows_of_experts())
            .flat_map(|(expert, rows)| {
                rows.into_iter().map(move |row| (row.into(), expert))
            })
            .collect();
        sources.sort_unstable();
        let names = ["x", "x_scales", "x_zero_points", "x_tensor_scale"];
        let x = Matrices::new(self.a_dtype, (self.input_places(), self.k), inputs, names);
        let rows = linear_rows(self.rows(), x, weights, |row| {
            let (place, expert) = sources[row as usize];
            (self.input_row(place), expert)
        });
        if self.row_order != RowOrder::Masked {
            return Ok(target.compare_rows(&rows));
        }
        let n = self.n;
        let is_wanted =
            |row: u64| sources.binary_search_by_key(&row, |&(place, _)| place).is_ok();
        if let Some(found) = target.scan_rows(n, is_wanted) {
            return Ok(found);
        }
        let (make, places) = (rows.make, &sources);
        let make = move |part| {
            let (first, products) = make(part);
            (places[(first / n) as usize].0 * n + first % n, products)
        };
        Ok(target.compare_rows(&Rows { make: Box::new(make), ..rows }))
    }

    /// The weights of experts that no token has chosen, and their scales; room for rows
    /// that an expert does not have.
    fn unneeded(&self, _: &SlotInputs) -> Vec<(&'static str, Range<u64>)> {
        let experts = self.untouched();
        let mut found = Vec::new();
        for tensor in self.tensors() {
            if tensor.role == Role::Input && tensor.name.starts_with('w') {
                let bytes = tensor.bytes() / self.experts;
                let of_expert = |&e: &u64| (tensor.name, e * bytes..(e + 1) * bytes);
                found.extend(experts.iter().map(of_expert));
            }
        }
        if self.row_order == RowOrder::Masked {
            let rows = self.rows_of_experts();
            // What belongs to rows; one scale is for all.
            for tensor in self.tensors().into_iter().filter(|t| t.name.starts_with('x')) {
                let row_bytes = tensor.bytes() / self.row_places();
                let gaps = (1..).zip(&rows).map(|(next, rows)| {
                    let room = next * self.tokens;
                    let first = room - self.tokens + rows.len() as u64;
                    (tensor.name, first * row_bytes..room * row_bytes)
                });
                found
                    .extend(gaps.filter(|(_, gap)| !gap.is_empty() && tensor.elements > 1));
            }
        }
        found
    }
}

//! Products with weights: what the references of linear layers share.

use super::compare::Rows;
use crate::data::Key;
use crate::format::{DType, TensorFormat};
use crate::weights;

/// Outputs of a gemm row that are compared together.
const GEMM_COLUMNS: u64 = 64;

/// Matrices of weights `[n][k]`, as problems define them.
pub(super) struct Weights {
    dtype: DType,
    n: u64,
    k: u64,
    values: Key,
    /// Of scales, where there are any.
    scales: Option<Key>,
}

impl Weights {
    /// Weights with their values, and their scales where there are any.
    pub fn new(dtype: DType, (n, k): (u64, u64), values: Key, scales: Option<Key>) -> Self {
        Weights { dtype, n, k, values, scales }
    }

    /// The row that makes an output feature of a matrix.
    fn row(&self, matrix: u64, feature: u64, to: &mut [f32]) {
        let first = matrix * self.n * self.k;
        if self.dtype == DType::Int4 {
            for (column, x) in (0..).zip(&mut *to) {
                let nibble = first + weights::place(self.k, feature, column);
                *x = self.values.value(DType::Int4, nibble);
            }
        } else {
            self.values.values(self.dtype, first + feature * self.k, to);
        }
        let Some(scales) = self.scales else { return };
        if self.dtype == DType::Int4 {
            let groups = self.k / weights::GROUP_COLUMNS;
            for (group, xs) in (0..).zip(to.chunks_mut(weights::GROUP_COLUMNS as usize)) {
                let index = (matrix * groups + group) * self.n + feature;
                let scale = scales.scale(TensorFormat::HalfScales(self.dtype), index);
                xs.iter_mut().for_each(|x| *x *= scale);
            }
        } else {
            let scale =
                scales.scale(TensorFormat::Scales(self.dtype), matrix * self.n + feature);
            to.iter_mut().for_each(|x| *x *= scale);
        }
    }

    /// Size of a sum of `k` products of activations and weights. Both are uniform in
    /// [-1, 1), of variance 1/3; weights that are values times scales less, since scales
    /// are between a half and 1 of what they could be.
    fn typical(&self) -> f64 {
        let variance = match self.dtype {
            DType::F32 | DType::Bf16 | DType::F16 => 1.0 / 3.0,
            // The mean square of a scale is 7/12 of the largest.
            DType::Int8 | DType::Int4 => 7.0 / 36.0,
            // Exponents are evenly spread over seven powers of two below 1, so that the
            // mean square of a value is 0.09.
            DType::Fp8E4m3 => 7.0 / 12.0 * 0.09,
        };
        (self.k as f64 / 3.0 * variance).sqrt()
    }
}

/// Stretches of columns of each row of the output of a layer with weights. `source` gives
/// the row of activations and the matrix that make a row of the output.
pub(super) fn linear_rows<'a>(
    rows: u64,
    (a_key, a_dtype): (Key, DType),
    weights: Weights,
    source: impl Fn(u64) -> (u64, u64) + Sync + 'a,
) -> Rows<'a> {
    let (n, k) = (weights.n, weights.k);
    let stretches = n.div_ceil(GEMM_COLUMNS);
    let cost = k * (GEMM_COLUMNS.min(n) + 1);
    let typical = Some(weights.typical());
    let make = move |part: u64| {
        let (row, first) = (part / stretches, part % stretches * GEMM_COLUMNS);
        let (input_row, matrix) = source(row);
        let mut a = vec![0.0; k as usize];
        let mut b = a.clone();
        a_key.values(a_dtype, input_row * k, &mut a);
        let columns = first..n.min(first + GEMM_COLUMNS);
        let products = columns.map(|column| {
            weights.row(matrix, column, &mut b);
            dot(&a, &b)
        });
        (row * n + first, products.collect())
    };
    let width = GEMM_COLUMNS.min(n) as usize;
    Rows { count: rows * stretches, cost, width, typical, make: Box::new(make) }
}

pub(super) fn dot(a: &[f32], b: &[f32]) -> f64 {
    a.iter().zip(b).map(|(&a, &b)| f64::from(a) * f64::from(b)).sum()
}

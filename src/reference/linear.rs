//! Products with weights: what the references of linear layers share.

use super::SlotInputs;
use super::compare::Rows;
use crate::data::Key;
use crate::format::{DType, TensorFormat};
use crate::quant::{Quant, ScaleFormat};
use crate::weights;

/// Products of activations and weights that tensor cores add up in fixed point before they take
/// the sum to f32, as kernels do with products of two 8-bit floats.
pub(super) fn fixed_point_products(activations: Quant, weights: Quant) -> u64 {
    let is_one = |scheme: Quant| matches!(scheme.dtype(), DType::Fp8E4m3 | DType::Fp8E5m2);
    if is_one(activations) && is_one(weights) { 128 } else { 0 }
}

/// Outputs of a gemm row that are compared together.
const GEMM_COLUMNS: u64 = 64;

/// Names of the tensors of a matrix: values, scales, zero points, the tensor's scale.
pub(super) type MatrixNames = [&'static str; 4];

/// Matrices `[rows][columns]` of weights or activations, as problems define them.
pub(super) struct Matrices {
    scheme: Quant,
    rows: u64,
    columns: u64,
    values: Key,
    // Where the scheme has them.
    scales: Option<Key>,
    zero_points: Option<Key>,
    tensor_scale: Option<Key>,
}

impl Matrices {
    /// The matrices of a scheme and their extents.
    pub fn new(
        scheme: Quant,
        (rows, columns): (u64, u64),
        inputs: &SlotInputs,
        [values, scales, zero_points, tensor_scale]: MatrixNames,
    ) -> Self {
        Matrices {
            scheme,
            rows,
            columns,
            values: inputs.key(values),
            scales: inputs.find(scales),
            zero_points: inputs.find(zero_points),
            tensor_scale: inputs.find(tensor_scale),
        }
    }

    /// A row of a matrix.
    fn row(&self, matrix: u64, row: u64, to: &mut [f32]) {
        let dtype = self.scheme.dtype();
        let first = matrix * self.rows * self.columns;
        if dtype == DType::Int4 {
            for (column, x) in (0..).zip(&mut *to) {
                let nibble = first + weights::place(self.columns, row, column);
                *x = self.values.value(DType::Int4, nibble);
            }
        } else {
            self.values.values(dtype, first + row * self.columns, to);
        }
        let (Some(scales), Some(format)) = (self.scales, self.scheme.scale_format()) else {
            return;
        };
        let tensor_scale = self
            .tensor_scale
            .map_or(1.0, |key| key.scale(TensorFormat::Scales(dtype), matrix));
        let shape = (self.rows, self.columns);
        let first_scale = matrix * self.scheme.scale_count(self.rows, self.columns);
        let shared = self.scheme.shared_columns(self.columns);
        for (group, xs) in (0..).zip(to.chunks_mut(shared as usize)) {
            let index = first_scale + self.scheme.scale_index(shape, row, group * shared);
            let scale = scales.scale(format, index) * tensor_scale;
            let zero_point =
                self.zero_points.map_or(0.0, |key| key.value(DType::Int4, index));
            xs.iter_mut().for_each(|x| *x = (*x - zero_point) * scale);
        }
    }

    /// Mean square of the elements. Without scales they are uniform in [-1, 1); those that
    /// are values times scales are smaller, since scales are below what they could be.
    fn variance(&self) -> f64 {
        let Some(scales) = self.scheme.scales() else { return 1.0 / 3.0 };
        let of_values = match self.scheme.dtype() {
            // Uniform up to the largest, which the largest scale makes 1.
            DType::F32
            | DType::F64
            | DType::Tf32
            | DType::Bf16
            | DType::F16
            | DType::Int8
            | DType::Int4 => 1.0 / 3.0,
            // Exponents are evenly spread over seven powers of two below 1.
            DType::Fp8E4m3 | DType::Fp8E5m2 => 0.09,
            // The mean square of the eight sizes.
            DType::Fp4E2m1 => 68.5 / 8.0,
        };
        // Of a number between a half and all of the largest.
        let uniform = 7.0 / 12.0;
        let of_scales = match (scales.format, self.scheme.dtype()) {
            (ScaleFormat::F32 | ScaleFormat::F16, _) => uniform,
            // One of two powers of two, of which the larger is 1/8 for E2M1.
            (ScaleFormat::E8m0, DType::Fp4E2m1) => 5.0 / 8.0 / 64.0,
            (ScaleFormat::E8m0, _) => 5.0 / 8.0,
            // From 8 to 15 times 1/128.
            (ScaleFormat::E4m3AndF32, _) => 137.5 / 128.0 / 128.0 * uniform,
        };
        // A zero point is as large as a value.
        let of_zero_points = if self.scheme.has_zero_points() { 2.0 } else { 1.0 };
        of_values * of_scales * of_zero_points
    }
}

/// Stretches of columns of each row of the output of a layer with weights. `source` gives
/// the row of activations and the matrix that make a row of the output.
pub(super) fn linear_rows<'a>(
    rows: u64,
    activations: Matrices,
    weights: Matrices,
    source: impl Fn(u64) -> (u64, u64) + Sync + 'a,
) -> Rows<'a> {
    let (n, k) = (weights.rows, weights.columns);
    let segments = n.div_ceil(GEMM_COLUMNS);
    let cost = k * (GEMM_COLUMNS.min(n) + 1);
    let typical = Some((k as f64 * activations.variance() * weights.variance()).sqrt());
    let make = move |part: u64| {
        let (row, first) = (part / segments, part % segments * GEMM_COLUMNS);
        let (input_row, matrix) = source(row);
        let mut a = vec![0.0; k as usize];
        let mut b = a.clone();
        activations.row(0, input_row, &mut a);
        let columns = first..n.min(first + GEMM_COLUMNS);
        let products = columns.map(|column| {
            weights.row(matrix, column, &mut b);
            dot(&a, &b)
        });
        (row * n + first, products.collect())
    };
    let width = GEMM_COLUMNS.min(n) as usize;
    Rows { count: rows * segments, cost, rows: 1, width, typical, make: Box::new(make) }
}

/// In f64, in eight sums side by side: one after the other, each addition would wait for
/// the one before it.
pub(super) fn dot(a: &[f32], b: &[f32]) -> f64 {
    let (a_parts, a_rest) = a.as_chunks::<8>();
    let (b_parts, b_rest) = b.as_chunks::<8>();
    let mut sums = [0.0; 8];
    for (a, b) in a_parts.iter().zip(b_parts) {
        for lane in 0..8 {
            sums[lane] += f64::from(a[lane]) * f64::from(b[lane]);
        }
    }
    let rest = a_rest.iter().zip(b_rest).map(|(&a, &b)| f64::from(a) * f64::from(b));
    sums.into_iter().chain(rest).sum()
}

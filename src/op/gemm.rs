//! Linear layers.

use std::any::Any;

use super::contract::product;
use super::explanation::{Explanation, formula, matrix, size, weights};
use super::judged::{
    Hue, Judged, JudgedFacts, KneeAxis, MarkerShape, OpMarker, PairKind, Purpose, Sweep,
    SweepPlace,
};
use super::linear::{
    MatrixNames, check_activations, check_weights, check_whole_groups, math_dtype,
    matrix_tensors,
};
use super::{Access, Reuse};
use super::{Facts, Fields, KeySpec, Magnitude, Operation, ProblemError, Routed};
use crate::format::{DType, Role, Tensor, TensorFormat};
use crate::quant::{Quant, QuantPlace};
use crate::resource::{Resource, Work};

pub(super) const FACTS: Facts = Facts {
    name: "gemm",
    keys: &[
        KeySpec::new("m"),
        KeySpec::new("n"),
        KeySpec::new("k"),
        KeySpec::bare("dtype"),
        KeySpec::new("w_dtype").or_as("dtype").silent(),
        KeySpec::new("a_dtype").or_as("dtype").silent(),
    ],
    size_keys: &["n", "k"],
    examples: &["gemm:m=3,n=16,k=128,dtype=bf16"],
    judged: JudgedFacts {
        prose: "GEMM",
        marker: OpMarker { shape: MarkerShape::Diamond, hue: Hue::Vermilion },
        purpose: Purpose::Work,
        sets_compute_ceiling: true,
        reads_cache: false,
    },
};

/// `C[m][n] = A[m][k] * B[n][k]^T`: activations times weights, both with `k`
/// innermost, as in a linear layer. With small `m` it is decode's projection.
///
/// Weights and activations that are quantized are values times scales, less their zero
/// points where there are any: see [`Quant`]. Weights in `fp8_e4m3` and `int8` have a scale
/// for each output feature, `[n]` in f32, those in `int4` one for each
/// [`GROUP_COLUMNS`](crate::weights::GROUP_COLUMNS) columns, `[k / 128][n]` in f16, and are
/// shuffled, see [`crate::weights`]; other scales are row-major. Activations have no scales
/// unless `a_dtype` says so. Products are summed in f32 whatever the formats. With tf32 all
/// matrices are in 32 bits, and what is multiplied is their upper 19: inputs are drawn with
/// the lower 13 zero, so that it does not matter whether a kernel rounds or leaves them out.
///
/// Work: `2 m n k` in the format that both operands have, in that of C where they differ;
/// `b m n`, and for either operand the bytes of its elements, scales and zero points
/// ([`Quant::matrix_bytes`]): for weights `b_w n k`, and `4 n` for 8 bits, `2 n k / 128`
/// for int4.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Gemm {
    /// Rows of activations (tokens).
    pub m: u64,
    /// Output features.
    pub n: u64,
    /// Input features.
    pub k: u64,
    /// Format of C, and of A unless that is quantized.
    pub dtype: DType,
    /// Scheme of B.
    pub w_dtype: Quant,
    /// Scheme of A.
    pub a_dtype: Quant,
}

/// Tensors of A.
const A: MatrixNames = MatrixNames {
    values: "a",
    scales: "a_scales",
    zero_points: "a_zero_points",
    tensor_scale: "a_tensor_scale",
};

/// Tensors of B.
const B: MatrixNames = MatrixNames {
    values: "b",
    scales: "b_scales",
    zero_points: "b_zero_points",
    tensor_scale: "b_tensor_scale",
};

pub(super) fn read(f: &Fields) -> Result<Gemm, ProblemError> {
    Ok(Gemm {
        m: f.extent("m")?,
        n: f.extent("n")?,
        k: f.extent("k")?,
        dtype: match f.math_dtype("dtype")? {
            DType::Tf32 => DType::Tf32,
            _ => f.dtype("dtype")?,
        },
        w_dtype: f.quant("w_dtype", QuantPlace::Weights)?,
        a_dtype: f.quant("a_dtype", QuantPlace::Activations)?,
    })
}

impl Gemm {
    /// Whether A is as C: values without scales.
    pub fn has_plain_activations(&self) -> bool {
        self.a_dtype == Quant::plain(self.dtype)
    }
}

impl Operation for Gemm {
    fn values(&self) -> Vec<String> {
        let Gemm { m, n, k, dtype, w_dtype, a_dtype } = self;
        vec![
            m.to_string(),
            n.to_string(),
            k.to_string(),
            dtype.to_string(),
            w_dtype.to_string(),
            a_dtype.to_string(),
        ]
    }

    fn check(&self) -> Result<(), ProblemError> {
        check_weights(self.w_dtype)?;
        check_activations(self.a_dtype, self.dtype, self.m, self.k)?;
        check_whole_groups(self.w_dtype, self.n, self.k)
    }

    fn magnitude(&self) -> Magnitude {
        let Gemm { m, n, k, .. } = *self;
        Magnitude {
            flops: product(&[2, m, n, k]),
            elements: product(&[m, n]) + product(&[m, k]) + product(&[n, k]),
        }
    }

    fn work(&self) -> Work {
        let Gemm { m, n, k, dtype, w_dtype, a_dtype } = *self;
        let bytes_read = a_dtype.matrix_bytes(m, k) + self.weight_bytes();
        Work::NONE
            .with(Resource::Matrix(math_dtype(a_dtype, w_dtype, dtype)), 2 * m * n * k)
            .with_bytes(bytes_read, dtype.bytes_of(m * n))
    }

    fn explanation(&self) -> Explanation {
        let Gemm { m, n, k, dtype, w_dtype, a_dtype } = *self;
        let (of_weights, values) = weights(w_dtype, n, k);
        if !self.has_plain_activations() {
            let (of_a, values_of_a) = matrix(a_dtype, ["b_a", "m", "k"], m, k);
            return Explanation {
                flops: formula("2 m n k", format!("2 * {m} * {n} * {k}")),
                bytes: formula(
                    &format!("b m n + {of_a} + {of_weights}"),
                    format!("{} * {m} * {n} + {values_of_a} + {values}", size(dtype)),
                ),
            };
        }
        Explanation {
            flops: formula("2 m n k", format!("2 * {m} * {n} * {k}")),
            bytes: formula(
                &format!("b (m k + m n) + {of_weights}"),
                format!("{} * ({m} * {k} + {m} * {n}) + {values}", size(dtype)),
            ),
        }
    }

    fn tensors(&self) -> Vec<Tensor> {
        let Gemm { m, n, k, dtype, w_dtype, a_dtype } = *self;
        let format = TensorFormat::Values(dtype);
        let mut tensors = matrix_tensors(&A, a_dtype, 1, (m, k));
        let weights = matrix_tensors(&B, w_dtype, 1, (n, k));
        tensors.extend(weights.into_iter().map(Tensor::settled));
        tensors.push(Tensor::new("c", Role::Output, format, m * n));
        tensors
    }

    fn weight_bytes(&self) -> u64 {
        self.w_dtype.matrix_bytes(self.n, self.k)
    }

    fn cache_bytes(&self) -> u64 {
        0
    }

    fn has_usual_data(&self) -> bool {
        true
    }

    fn routed(&self) -> Option<Routed> {
        None
    }
}

impl Judged for Gemm {
    fn memory_roof(&self) -> Option<Access> {
        None
    }

    fn reuse(&self) -> Option<Reuse> {
        None
    }

    fn line(&self) -> Option<String> {
        // One row: what is written is nothing beside the weights.
        (self.m == 1).then(|| format!("one row, {} weights", self.w_dtype))
    }

    fn place_in(&self, sweep: Sweep) -> Option<SweepPlace> {
        let Gemm { m, n, k, dtype, w_dtype, a_dtype } = *self;
        let family = if !self.has_plain_activations() {
            format!("GEMM {dtype}, {a_dtype} activations, {w_dtype} weights")
        } else if w_dtype == Quant::weights(dtype) {
            format!("GEMM {dtype}")
        } else {
            format!("GEMM {dtype}, {w_dtype} weights")
        };
        (sweep == Sweep::Rows).then(|| SweepPlace {
            swept: m,
            held: vec![n, k],
            alike: format!("{dtype} {w_dtype} {a_dtype}"),
            // Few rows and many have kernels of their own.
            by_kernel: false,
            family: (u64::MAX, family),
            variant: String::new(),
        })
    }

    fn pair_with(&self, other: &dyn Any) -> Option<PairKind> {
        let other = other.downcast_ref::<Gemm>()?;
        if self.m < other.m && (Gemm { m: other.m, ..*self }) == *other {
            return Some(PairKind::Rows);
        }
        let alike = Gemm { w_dtype: other.w_dtype, ..*self } == *other;
        PairKind::of_weights(self.w_dtype, other.w_dtype).filter(|_| alike)
    }

    fn knee(&self) -> Option<KneeAxis> {
        let Gemm { m, n, k, dtype, w_dtype, .. } = *self;
        Some(KneeAxis {
            kind: PairKind::Rows,
            name: format!("gemm {n} x {k} in {dtype}, weights in {w_dtype}"),
            unit: "rows",
            rows: m,
            dtype,
        })
    }
}

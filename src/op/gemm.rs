//! Linear layers.

use std::any::Any;

use super::Access;
use super::contract::product;
use super::explanation::{Explanation, formula, size, weights};
use super::judged::{
    Hue, Judged, JudgedFacts, KneeAxis, MarkerShape, OpMarker, PairKind, Purpose, Sweep,
    SweepPlace,
};
use super::linear::{check_weights, weight_scales, weights_bytes};
use super::{Facts, Fields, KeySpec, Magnitude, Operation, ProblemError, Routed};
use crate::format::{DType, Role, Tensor, TensorFormat};
use crate::resource::{Resource, Work};

pub(super) const FACTS: Facts = Facts {
    name: "gemm",
    keys: &[
        KeySpec::new("m"),
        KeySpec::new("n"),
        KeySpec::new("k"),
        KeySpec::bare("dtype"),
        KeySpec::new("w_dtype").or_as("dtype").silent(),
    ],
    example: "gemm:m=3,n=16,k=128,dtype=bf16",
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
/// Weights in a format that [is scaled](DType::is_scaled) are values times scales: in 8
/// bits one for each output feature, `[n]` in f32, in int4 one for each
/// [`GROUP_COLUMNS`](crate::weights::GROUP_COLUMNS) columns, `[k / 128][n]` in f16.
/// Weights of int4 are shuffled, see [`crate::weights`]. Products are summed in f32
/// whatever the formats.
///
/// Work: `2 m n k`; `b (m k + m n) + b_w n k`, and the scales of weights: `4 n` for 8
/// bits, `2 n k / 128` for int4.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Gemm {
    /// Rows of activations (tokens).
    pub m: u64,
    /// Output features.
    pub n: u64,
    /// Input features.
    pub k: u64,
    /// Format of A and C.
    pub dtype: DType,
    /// Format of B.
    pub w_dtype: DType,
}

pub(super) fn read(f: &Fields) -> Result<Gemm, ProblemError> {
    Ok(Gemm {
        m: f.extent("m")?,
        n: f.extent("n")?,
        k: f.extent("k")?,
        dtype: f.dtype("dtype")?,
        w_dtype: f.parse("w_dtype")?,
    })
}

impl Operation for Gemm {
    fn values(&self) -> Vec<String> {
        let Gemm { m, n, k, dtype, w_dtype } = self;
        vec![
            m.to_string(),
            n.to_string(),
            k.to_string(),
            dtype.to_string(),
            w_dtype.to_string(),
        ]
    }

    fn check(&self) -> Result<(), ProblemError> {
        check_weights(self.w_dtype, self.n, self.k)
    }

    fn magnitude(&self) -> Magnitude {
        let Gemm { m, n, k, .. } = *self;
        Magnitude {
            flops: product(&[2, m, n, k]),
            elements: product(&[m, n]) + product(&[m, k]) + product(&[n, k]),
        }
    }

    fn work(&self) -> Work {
        let Gemm { m, n, k, dtype, .. } = *self;
        let bytes_read = dtype.bytes_of(m * k) + self.weight_bytes();
        Work::NONE
            .with(Resource::Matrix(dtype), 2 * m * n * k)
            .with_bytes(bytes_read, dtype.bytes_of(m * n))
    }

    fn explanation(&self) -> Explanation {
        let Gemm { m, n, k, dtype, w_dtype } = *self;
        let (of_weights, values) = weights(w_dtype, n, k);
        Explanation {
            flops: formula("2 m n k", format!("2 * {m} * {n} * {k}")),
            bytes: formula(
                &format!("b (m k + m n) + {of_weights}"),
                format!("{} * ({m} * {k} + {m} * {n}) + {values}", size(dtype)),
            ),
        }
    }

    fn tensors(&self) -> Vec<Tensor> {
        let Gemm { m, n, k, dtype, w_dtype } = *self;
        let format = TensorFormat::Values(dtype);
        let mut tensors = vec![
            Tensor::new("a", Role::Input, format, m * k),
            Tensor::new("b", Role::Input, TensorFormat::Values(w_dtype), n * k),
        ];
        tensors.extend(weight_scales("b_scales", w_dtype, 1, (n, k)));
        tensors.push(Tensor::new("c", Role::Output, format, m * n));
        tensors
    }

    fn weight_bytes(&self) -> u64 {
        weights_bytes(self.w_dtype, self.n, self.k)
    }

    fn cache_bytes(&self) -> u64 {
        0
    }

    fn routed(&self) -> Option<Routed> {
        None
    }
}

impl Judged for Gemm {
    fn memory_roof(&self) -> Option<Access> {
        None
    }

    fn line(&self) -> Option<String> {
        // One row: what is written is nothing beside the weights.
        (self.m == 1).then(|| format!("one row, {} weights", self.w_dtype))
    }

    fn place_in(&self, sweep: Sweep) -> Option<SweepPlace> {
        let Gemm { m, n, k, dtype, w_dtype } = *self;
        let family = match w_dtype == dtype {
            true => format!("GEMM {dtype}"),
            false => format!("GEMM {dtype}, {w_dtype} weights"),
        };
        (sweep == Sweep::Rows).then(|| SweepPlace {
            swept: m,
            held: vec![n, k],
            alike: format!("{dtype} {w_dtype}"),
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
        let Gemm { m, n, k, dtype, w_dtype } = *self;
        Some(KneeAxis {
            kind: PairKind::Rows,
            name: format!("gemm {n} x {k} in {dtype}, weights in {w_dtype}"),
            unit: "rows",
            rows: m,
            dtype,
        })
    }
}

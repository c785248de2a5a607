//! The norm between the layers of a model.

use super::contract::product;
use super::explanation::{Explanation, formula, size};
use super::judged::{Hue, JudgedFacts, MarkerShape, OpMarker, Purpose, not_compared};
use super::{Facts, Fields, KeySpec, Magnitude, Operation, ProblemError, Routed};
use crate::format::{DType, Role, Tensor, TensorFormat};
use crate::resource::{Resource, Work};

pub(super) const FACTS: Facts = Facts {
    name: "rmsnorm",
    keys: &[
        KeySpec::new("m"),
        KeySpec::new("n"),
        KeySpec::bare("dtype"),
        KeySpec::new("residual").or("false").silent(),
    ],
    size_keys: &["m"],
    examples: &["rmsnorm:m=3,n=64,dtype=bf16,residual=true"],
    judged: JudgedFacts {
        prose: "RMS norm",
        marker: OpMarker { shape: MarkerShape::Wedge, hue: Hue::Green },
        purpose: Purpose::Work,
        sets_compute_ceiling: false,
        reads_cache: false,
    },
};

/// Added to the mean of the squares, so that a row of zeros has a norm. Llama's value.
pub const RMS_EPSILON: f32 = 1e-5;

/// RMS norm of `m` tokens of `n` elements (Zhang and Sennrich 2019):
/// `y = x * w / sqrt(mean(x^2) + e)` with [`RMS_EPSILON`] for `e`, the mean over the `n`
/// elements of a token, and one weight for each of them. `x` and `y` are `[m][n]`, `w` is
/// `[n]`, all in `dtype`; the arithmetic is in f32.
///
/// With `residual`, the addition before the norm is part of it, as in vLLM's
/// `fused_add_rms_norm`: `x' = x + residual` is rounded to `dtype` and written, and `y` is
/// the norm of `x'`. The output is one array `[2][m][n]`, first `x'`, which is the
/// residual stream from here on, and then `y`. Serving engines write both over their
/// inputs; here they have memory of their own, so that a launch can be repeated. The bytes
/// are the same.
///
/// Work: 4 FLOPs for each element of `x`, 2 to square it and add it to the sum, 2 to
/// multiply it by `1 / sqrt(...)` and by its weight; with `residual` 5. What is done once
/// for each token is not counted. Bytes read: `b (m n + n)`, and `b m n` of the residual;
/// written: `b m n`, and as much of `x'`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct RmsNorm {
    /// Tokens.
    pub m: u64,
    /// Elements of a token, the hidden size.
    pub n: u64,
    /// Format of all tensors.
    pub dtype: DType,
    /// Whether a residual is added first.
    pub residual: bool,
}

pub(super) fn read(f: &Fields) -> Result<RmsNorm, ProblemError> {
    Ok(RmsNorm {
        m: f.extent("m")?,
        n: f.extent("n")?,
        dtype: f.dtype("dtype")?,
        residual: f.flag("residual")?,
    })
}

impl RmsNorm {
    /// Arrays of `m n` elements that are read, and as many that are written.
    const fn arrays(&self) -> u64 {
        if self.residual { 2 } else { 1 }
    }

    /// FLOPs for each element of `x`.
    const fn element_flops(&self) -> u64 {
        if self.residual { 5 } else { 4 }
    }
}

impl Operation for RmsNorm {
    fn values(&self) -> Vec<String> {
        vec![
            self.m.to_string(),
            self.n.to_string(),
            self.dtype.to_string(),
            self.residual.to_string(),
        ]
    }

    fn check(&self) -> Result<(), ProblemError> {
        Ok(())
    }

    fn magnitude(&self) -> Magnitude {
        Magnitude {
            flops: product(&[self.element_flops(), self.m, self.n]),
            elements: product(&[2 * self.arrays(), self.m, self.n]) + self.n as f64,
        }
    }

    fn work(&self) -> Work {
        let elements = self.m * self.n;
        let read_bytes = self.dtype.bytes_of(self.arrays() * elements + self.n);
        Work::NONE
            .with_bytes(read_bytes, self.dtype.bytes_of(self.arrays() * elements))
            .with(Resource::Vector(DType::F32), self.element_flops() * elements)
    }

    fn explanation(&self) -> Explanation {
        let RmsNorm { m, n, dtype, .. } = *self;
        let (flops, arrays) = (self.element_flops(), 2 * self.arrays());
        Explanation {
            flops: formula(&format!("{flops} m n"), format!("{flops} * {m} * {n}")),
            bytes: formula(
                &format!("b ({arrays} m n + n)"),
                format!("{} * ({arrays} * {m} * {n} + {n})", size(dtype)),
            ),
        }
    }

    fn tensors(&self) -> Vec<Tensor> {
        let format = TensorFormat::Values(self.dtype);
        let elements = self.m * self.n;
        let mut tensors = vec![Tensor::new("x", Role::Input, format, elements)];
        if self.residual {
            tensors.push(Tensor::new("residual", Role::Input, format, elements));
        }
        tensors.push(Tensor::new("w", Role::Input, format, self.n).settled());
        let output = if self.residual { "sum_and_y" } else { "y" };
        tensors.push(Tensor::new(output, Role::Output, format, self.arrays() * elements));
        tensors
    }

    fn weight_bytes(&self) -> u64 {
        self.dtype.bytes_of(self.n)
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

not_compared!(RmsNorm);

#[cfg(test)]
mod tests {
    use super::*;
    use crate::op::Problem;

    fn problem(text: &str) -> Problem {
        text.parse().unwrap_or_else(|why| panic!("{text}: {why}"))
    }

    /// A token of Llama 3.1 8B, and 64 of them: the weights are read once for all.
    #[test]
    fn bytes_and_flops_golden() {
        let one = problem("rmsnorm:m=1,n=4096,dtype=bf16").work();
        assert_eq!((one.bytes_read(), one.bytes_written()), (2 * 8192, 8192));
        assert_eq!((one.vector_flops(), one.matrix_flops()), (16384, 0));
        let many = problem("rmsnorm:m=64,n=4096,dtype=bf16,residual=true").work();
        assert_eq!((many.bytes_read(), many.bytes_written()), (129 * 8192, 128 * 8192));
        assert_eq!(many.flops(), 5 * 64 * 4096);
        assert_eq!(problem("rmsnorm:m=64,n=100,dtype=f32").weight_bytes(), 400);
        assert_eq!(many.math_dtype(), Some(DType::F32));
    }

    #[test]
    fn a_point_without_a_residual_does_not_spell_it() {
        let plain = problem("rmsnorm:m=2,n=8,dtype=f16,residual=false");
        assert_eq!(plain.to_string(), "rmsnorm:m=2,n=8,dtype=f16");
        assert_eq!(plain.label(), "rmsnorm m=2 n=8 f16");
        let added = "rmsnorm:m=2,n=8,dtype=f16,residual=true";
        assert_eq!(problem(added).to_string(), added);
        assert_eq!(problem(added).label(), "rmsnorm m=2 n=8 f16 residual=true");
    }

    #[test]
    fn tensors_are_those_of_the_variant() {
        let names = |text| -> Vec<_> {
            problem(text).tensors().iter().map(|tensor| tensor.name).collect()
        };
        assert_eq!(names("rmsnorm:m=2,n=8,dtype=f32"), ["x", "w", "y"]);
        let added = "rmsnorm:m=2,n=8,dtype=f32,residual=true";
        assert_eq!(names(added), ["x", "residual", "w", "sum_and_y"]);
        assert_eq!(problem(added).output().elements, 32);
    }

    #[test]
    fn bad_input_is_told_what_to_do() {
        for (text, key, part) in [
            ("rmsnorm:m=2,n=0,dtype=f32", "n", "at least 1"),
            ("rmsnorm:m=2,n=8,dtype=f32,residual=yes", "residual", "neither `true`"),
            ("rmsnorm:m=2,n=8,dtype=int4", "dtype", "format of weights"),
        ] {
            let error = text.parse::<Problem>().unwrap_err();
            assert_eq!(error.key.as_deref(), Some(key), "{text}");
            assert!(error.message.contains(part), "{text}: {error}");
        }
    }
}

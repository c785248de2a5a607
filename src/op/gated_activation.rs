//! The activation between the products of a feed-forward layer.

use super::contract::product;
use super::explanation::{Explanation, formula, size};
use super::judged::{Hue, JudgedFacts, MarkerShape, OpMarker, Purpose, not_compared};
use super::{Facts, Fields, KeySpec, Magnitude, Operation, ProblemError, Routed};
use crate::format::{DType, Role, Tensor, TensorFormat};
use crate::resource::{Resource, Work};

pub(super) const FACTS: Facts = Facts {
    name: "gated_activation",
    keys: &[KeySpec::new("m"), KeySpec::new("n"), KeySpec::bare("dtype")],
    size_keys: &["m"],
    examples: &["gated_activation:m=3,n=64,dtype=bf16"],
    judged: JudgedFacts {
        prose: "gated activation",
        marker: OpMarker { shape: MarkerShape::Triangle, hue: Hue::Green },
        purpose: Purpose::Work,
        sets_compute_ceiling: false,
        reads_cache: false,
    },
};

/// FLOPs for each element of `y`.
const ELEMENT_FLOPS: u64 = 3;

/// The elementwise part of SwiGLU (Shazeer 2020) for `m` tokens: `y = silu(gate) up` with
/// `silu(x) = x / (1 + exp(-x))`. `x` is `[m][2 n]`, a token's `n` elements of the gate and
/// then its `n` of up, as one product with both matrices of weights leaves them; `y` is
/// `[m][n]`. All are in `dtype`; the arithmetic is in f32.
///
/// Work: 3 FLOPs for each element of `y`: the addition of 1, the division, which counts as
/// one multiplication, and the product with up. The exponential is not counted, as in a
/// softmax. Bytes read: `2 b m n`; written: `b m n`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct GatedActivation {
    /// Tokens.
    pub m: u64,
    /// Elements of a token's gate, of its up and of its output: the intermediate size.
    pub n: u64,
    /// Format of both tensors.
    pub dtype: DType,
}

pub(super) fn read(f: &Fields) -> Result<GatedActivation, ProblemError> {
    Ok(GatedActivation { m: f.extent("m")?, n: f.extent("n")?, dtype: f.dtype("dtype")? })
}

impl Operation for GatedActivation {
    fn values(&self) -> Vec<String> {
        vec![self.m.to_string(), self.n.to_string(), self.dtype.to_string()]
    }

    fn check(&self) -> Result<(), ProblemError> {
        Ok(())
    }

    fn magnitude(&self) -> Magnitude {
        Magnitude {
            flops: product(&[ELEMENT_FLOPS, self.m, self.n]),
            elements: product(&[3, self.m, self.n]),
        }
    }

    fn work(&self) -> Work {
        let elements = self.m * self.n;
        Work::NONE
            .with_bytes(self.dtype.bytes_of(2 * elements), self.dtype.bytes_of(elements))
            .with(Resource::Vector(DType::F32), ELEMENT_FLOPS * elements)
    }

    fn explanation(&self) -> Explanation {
        let GatedActivation { m, n, dtype } = *self;
        Explanation {
            flops: formula("3 m n", format!("3 * {m} * {n}")),
            bytes: formula("3 b m n", format!("3 * {} * {m} * {n}", size(dtype))),
        }
    }

    fn tensors(&self) -> Vec<Tensor> {
        let format = TensorFormat::Values(self.dtype);
        let elements = self.m * self.n;
        vec![
            Tensor::new("x", Role::Input, format, 2 * elements),
            Tensor::new("y", Role::Output, format, elements),
        ]
    }

    fn weight_bytes(&self) -> u64 {
        0
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

not_compared!(GatedActivation);

#[cfg(test)]
mod tests {
    use crate::format::DType;
    use crate::op::Problem;

    fn problem(text: &str) -> Problem {
        text.parse().unwrap_or_else(|why| panic!("{text}: {why}"))
    }

    /// A token of Llama 3.1 8B: 14,336 elements of 2 bytes, read twice and written once.
    #[test]
    fn bytes_and_flops_golden() {
        let work = problem("gated_activation:m=1,n=14336,dtype=bf16").work();
        assert_eq!((work.bytes_read(), work.bytes_written()), (2 * 28672, 28672));
        assert_eq!((work.vector_flops(), work.matrix_flops()), (43008, 0));
        assert_eq!(work.math_dtype(), Some(DType::F32));
    }

    #[test]
    fn gate_and_up_are_one_tensor() {
        let tensors = problem("gated_activation:m=2,n=8,dtype=f32").tensors();
        let named: Vec<_> = tensors.iter().map(|t| (t.name, t.elements)).collect();
        assert_eq!(named, [("x", 32), ("y", 16)]);
    }

    #[test]
    fn bad_input_is_told_what_to_do() {
        let error = "gated_activation:m=0,n=8,dtype=f32".parse::<Problem>().unwrap_err();
        assert_eq!(error.key.as_deref(), Some("m"));
        assert!(error.message.contains("at least 1"), "{error}");
    }
}

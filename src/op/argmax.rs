//! The largest of each row: the token that greedy decoding takes.

use super::contract::product;
use super::explanation::{Explanation, formula, size};
use super::judged::{Hue, JudgedFacts, MarkerShape, OpMarker, Purpose, not_compared};
use super::{Facts, Fields, KeySpec, Magnitude, Operation, ProblemError, Routed};
use crate::format::{DType, Role, Tensor, TensorFormat};
use crate::resource::Work;

pub(super) const FACTS: Facts = Facts {
    name: "argmax",
    keys: &[KeySpec::new("m"), KeySpec::new("n"), KeySpec::bare("dtype")],
    size_keys: &["m"],
    examples: &["argmax:m=3,n=64,dtype=bf16"],
    judged: JudgedFacts {
        prose: "argmax",
        marker: OpMarker { shape: MarkerShape::Square, hue: Hue::Blue },
        purpose: Purpose::Work,
        sets_compute_ceiling: false,
        reads_cache: false,
    },
};

/// The place of the largest of `n` logits, for each of `m` tokens: `x` is `[m][n]` in `dtype`,
/// `index` is `[m]` in 32-bit words. Of equal ones, and zeros of either sign are equal, it is
/// the first. A NaN counts as minus infinity, so that a row of nothing else has index 0.
///
/// Work: no FLOPs, comparisons are none. Bytes read: `b m n`; written: `4 m`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Argmax {
    /// Tokens.
    pub m: u64,
    /// Logits of a token, the vocabulary.
    pub n: u64,
    /// Format of the logits.
    pub dtype: DType,
}

pub(super) fn read(f: &Fields) -> Result<Argmax, ProblemError> {
    Ok(Argmax { m: f.extent("m")?, n: f.extent("n")?, dtype: f.dtype("dtype")? })
}

impl Operation for Argmax {
    fn values(&self) -> Vec<String> {
        vec![self.m.to_string(), self.n.to_string(), self.dtype.to_string()]
    }

    fn check(&self) -> Result<(), ProblemError> {
        if self.n <= 1 << 32 {
            return Ok(());
        }
        let message =
            format!("n = {}; an index has 32 bits, so use 4294967296 at most", self.n);
        Err(ProblemError::at("n", message))
    }

    fn magnitude(&self) -> Magnitude {
        Magnitude { flops: 0.0, elements: product(&[self.m, self.n]) + self.m as f64 }
    }

    fn work(&self) -> Work {
        Work::NONE.with_bytes(self.dtype.bytes_of(self.m * self.n), 4 * self.m)
    }

    fn explanation(&self) -> Explanation {
        let Argmax { m, n, dtype } = *self;
        Explanation {
            flops: "0".to_owned(),
            bytes: formula("b m n + 4 m", format!("{} * {m} * {n} + 4 * {m}", size(dtype))),
        }
    }

    fn tensors(&self) -> Vec<Tensor> {
        let format = TensorFormat::Values(self.dtype);
        vec![
            Tensor::new("x", Role::Input, format, self.m * self.n),
            Tensor::new("index", Role::Output, TensorFormat::Words, self.m),
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

not_compared!(Argmax);

#[cfg(test)]
mod tests {
    use crate::op::Problem;

    /// The logits of two tokens of Llama 3.1.
    #[test]
    fn bytes_golden() {
        let problem: Problem = "argmax:m=2,n=128256,dtype=bf16".parse().unwrap();
        let work = problem.work();
        assert_eq!((work.bytes_read(), work.bytes_written()), (2 * 256_512, 8));
        assert_eq!((work.flops(), work.math_dtype()), (0, None));
    }

    #[test]
    fn an_index_has_32_bits() {
        let error = "argmax:m=1,n=4294967297,dtype=bf16".parse::<Problem>().unwrap_err();
        assert_eq!(error.key.as_deref(), Some("n"));
    }
}

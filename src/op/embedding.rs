//! The rows of tokens in a table: where a step of a model begins.

use super::contract::product;
use super::explanation::{Explanation, formula, size};
use super::judged::{Hue, JudgedFacts, MarkerShape, OpMarker, Purpose, not_compared};
use super::{Facts, Fields, KeySpec, Magnitude, Operation, ProblemError, Routed};
use crate::format::{DType, Role, Tensor, TensorFormat};
use crate::resource::Work;

pub(super) const FACTS: Facts = Facts {
    name: "embedding",
    keys: &[
        KeySpec::new("m"),
        KeySpec::new("vocab"),
        KeySpec::new("n"),
        KeySpec::bare("dtype"),
    ],
    size_keys: &["m", "vocab"],
    examples: &["embedding:m=3,vocab=100,n=64,dtype=bf16"],
    judged: JudgedFacts {
        prose: "embedding",
        marker: OpMarker { shape: MarkerShape::Circle, hue: Hue::Green },
        purpose: Purpose::Work,
        sets_compute_ceiling: false,
        reads_cache: false,
    },
};

/// The embeddings of `m` tokens: `y[i] = table[id]`, where the id of token `i` is
/// `tokens[i] % vocab`: inputs are drawn words, and an id is its own remainder. `tokens` is
/// `[m]` in 32-bit words, `table` is `[vocab][n]`, `y` is `[m][n]`, the last two in `dtype`.
///
/// Work: no FLOPs. Bytes read: `4 m` and `m` rows of the table, `b m n`, not the whole table;
/// no more rows than it has. Which tokens are alike depends on the seed, and rows that several
/// of fewer tokens share count for each, unlike the experts of a routing, which is part of
/// its problem. Written: `b m n`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Embedding {
    /// Tokens.
    pub m: u64,
    /// Rows of the table.
    pub vocab: u64,
    /// Elements of a row, the hidden size.
    pub n: u64,
    /// Format of the table and of the output.
    pub dtype: DType,
}

pub(super) fn read(f: &Fields) -> Result<Embedding, ProblemError> {
    Ok(Embedding {
        m: f.extent("m")?,
        vocab: f.extent("vocab")?,
        n: f.extent("n")?,
        dtype: f.dtype("dtype")?,
    })
}

impl Embedding {
    /// Rows of the table that count as read.
    pub fn rows_read(&self) -> u64 {
        self.m.min(self.vocab)
    }
}

impl Operation for Embedding {
    fn values(&self) -> Vec<String> {
        vec![
            self.m.to_string(),
            self.vocab.to_string(),
            self.n.to_string(),
            self.dtype.to_string(),
        ]
    }

    fn check(&self) -> Result<(), ProblemError> {
        Ok(())
    }

    fn magnitude(&self) -> Magnitude {
        let rows = self.m as f64 + self.vocab as f64;
        Magnitude { flops: 0.0, elements: product(&[self.n]) * rows + self.m as f64 }
    }

    fn work(&self) -> Work {
        let read_bytes = 4 * self.m + self.weight_bytes();
        Work::NONE.with_bytes(read_bytes, self.dtype.bytes_of(self.m * self.n))
    }

    fn explanation(&self) -> Explanation {
        let Embedding { m, n, dtype, .. } = *self;
        let (rows, b) = (self.rows_read(), size(dtype));
        Explanation {
            flops: "0".to_owned(),
            bytes: formula(
                "b n (rows + m) + 4 m",
                format!("{b} * {n} * ({rows} + {m}) + 4 * {m}"),
            ),
        }
    }

    fn tensors(&self) -> Vec<Tensor> {
        let format = TensorFormat::Values(self.dtype);
        vec![
            Tensor::new("tokens", Role::Input, TensorFormat::Words, self.m),
            Tensor::new("table", Role::Input, format, self.vocab * self.n).settled(),
            Tensor::new("y", Role::Output, format, self.m * self.n),
        ]
    }

    fn weight_bytes(&self) -> u64 {
        self.dtype.bytes_of(self.rows_read() * self.n)
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

not_compared!(Embedding);

#[cfg(test)]
mod tests {
    use crate::op::Problem;

    fn problem(text: &str) -> Problem {
        text.parse().unwrap_or_else(|why| panic!("{text}: {why}"))
    }

    /// Tokens of Llama 3.1 8B, 8 KiB each; a table of fewer rows than tokens is read once.
    #[test]
    fn bytes_golden() {
        let work = problem("embedding:m=64,vocab=128256,n=4096,dtype=bf16").work();
        assert_eq!((work.bytes_read(), work.bytes_written()), (64 * 8196, 64 * 8192));
        assert_eq!((work.flops(), work.math_dtype()), (0, None));
        let few = problem("embedding:m=64,vocab=5,n=100,dtype=f32");
        assert_eq!(few.work().bytes_read(), 64 * 4 + 5 * 400);
        assert_eq!(few.weight_bytes(), 5 * 400);
    }

    #[test]
    fn bad_input_is_told_what_to_do() {
        let error = "embedding:m=1,n=8,dtype=f32".parse::<Problem>().unwrap_err();
        assert!(error.message.contains("needs `vocab`"), "{error}");
    }
}

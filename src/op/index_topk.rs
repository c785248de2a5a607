//! The index of sparse attention: which earlier tokens a new one attends to.

use super::contract::product;
use super::explanation::Explanation;
use super::judged::{Hue, JudgedFacts, MarkerShape, OpMarker, Purpose, not_compared};
use super::kv_layout::{Lengths, Requests, check_cache};
use super::sparse_mla::attended_at_most;
use super::{Facts, Fields, KeySpec, Magnitude, Operation, ProblemError, Routed};
use crate::format::{DType, Role, Tensor, TensorFormat};
use crate::quant::{Quant, QuantPlace};
use crate::resource::{Resource, Work};

pub(super) const FACTS: Facts = Facts {
    name: "index_topk",
    keys: &[
        KeySpec::new("batch"),
        KeySpec::new("context"),
        KeySpec::new("new_tokens").or("1").always_labelled(),
        KeySpec::new("q_heads"),
        KeySpec::new("head_dim"),
        KeySpec::new("top_k"),
        KeySpec::bare("dtype"),
        KeySpec::new("kv_dtype").or_as("dtype"),
    ],
    size_keys: &["batch", "context", "new_tokens"],
    examples: &[
        "index_topk:batch=2,context=40,new_tokens=3,q_heads=8,head_dim=128,top_k=16,dtype=bf16",
    ],
    judged: JudgedFacts {
        prose: "index of sparse attention",
        marker: OpMarker { shape: MarkerShape::Wedge, hue: Hue::Purple },
        purpose: Purpose::Work,
        sets_compute_ceiling: false,
        reads_cache: true,
    },
};

/// The lightning indexer (DeepSeek-V3.2-Exp, 2025, section 2): a new token is scored against
/// one key of each token up to itself, `I = sum over heads of w relu(q k)`, and the best
/// `top_k` are its answer.
///
/// Q is `[batch][new token][q head][dim]`, with a weight in f32 for each head; the cache is
/// `[batch][token][dim]`, in 8 bits with a scale in f32 for each 128 elements; the answer
/// is `top_k` numbers of tokens in 32 bits for each new token. Scores in between are not
/// traffic that the problem needs.
///
/// Work: `2 h (d + 1)` FLOPs for each new token and token up to it, in the format of the
/// cache where that has 8 bits; the whole cache, Q and the weights read, the numbers
/// written. Sorting out the best is not counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct IndexTopk {
    /// Requests.
    pub batch: u64,
    /// Tokens of each request, new ones included.
    pub context: u64,
    /// New tokens of each request.
    pub new_tokens: u64,
    /// Query heads of the index; all share its keys.
    pub q_heads: u64,
    /// Width of a key.
    pub head_dim: u64,
    /// Tokens to choose, at most.
    pub top_k: u64,
    /// Format of queries.
    pub dtype: DType,
    /// Scheme of the keys in the cache.
    pub kv_dtype: Quant,
}

pub(super) fn read(f: &Fields) -> Result<IndexTopk, ProblemError> {
    Ok(IndexTopk {
        batch: f.extent("batch")?,
        context: f.extent("context")?,
        new_tokens: f.extent("new_tokens")?,
        q_heads: f.extent("q_heads")?,
        head_dim: f.extent("head_dim")?,
        top_k: f.extent("top_k")?,
        dtype: f.dtype("dtype")?,
        kv_dtype: f.quant("kv_dtype", QuantPlace::Latents)?,
    })
}

impl IndexTopk {
    const fn tokens(&self) -> u64 {
        self.batch * self.new_tokens
    }

    /// Numbers that are the answer for a request.
    const fn chosen(&self) -> u64 {
        attended_at_most(self.top_k, self.context, self.new_tokens)
    }

    /// The format that scores are computed in.
    const fn math_dtype(&self) -> DType {
        if self.kv_dtype.is_scaled() { self.kv_dtype.dtype() } else { self.dtype }
    }
}

impl Operation for IndexTopk {
    fn values(&self) -> Vec<String> {
        vec![
            self.batch.to_string(),
            self.context.to_string(),
            self.new_tokens.to_string(),
            self.q_heads.to_string(),
            self.head_dim.to_string(),
            self.top_k.to_string(),
            self.dtype.to_string(),
            self.kv_dtype.to_string(),
        ]
    }

    fn check(&self) -> Result<(), ProblemError> {
        let IndexTopk { batch, context, new_tokens, .. } = *self;
        Requests { batch, context, lengths: Lengths::Equal, new_tokens }.check()?;
        check_cache(self.kv_dtype, QuantPlace::Latents)?;
        super::sparse_mla::check_groups("head_dim", self.kv_dtype, self.head_dim)
    }

    fn magnitude(&self) -> Magnitude {
        let tokens = product(&[self.batch, self.new_tokens]);
        let of_query = product(&[self.q_heads, self.head_dim + 1]);
        Magnitude {
            flops: 2.0 * tokens * self.context as f64 * of_query,
            elements: product(&[self.batch, self.context, self.head_dim])
                + tokens * (of_query + self.top_k as f64),
        }
    }

    fn work(&self) -> Work {
        let scored = attended_at_most(self.context, self.context, self.new_tokens);
        let flops = 2 * self.q_heads * (self.head_dim + 1) * scored * self.batch;
        let q_bytes = self.dtype.bytes_of(self.tokens() * self.q_heads * self.head_dim);
        let weight_bytes = 4 * self.tokens() * self.q_heads;
        Work::NONE.with(Resource::Matrix(self.math_dtype()), flops).with_bytes(
            self.cache_bytes() + q_bytes + weight_bytes,
            4 * self.batch * self.chosen(),
        )
    }

    fn explanation(&self) -> Explanation {
        Explanation::results(&self.work())
    }

    fn tensors(&self) -> Vec<Tensor> {
        let keys = self.batch * self.context;
        let input =
            |name, format, elements| Tensor::new(name, Role::Input, format, elements);
        let q = self.tokens() * self.q_heads;
        let dtype = self.kv_dtype.dtype();
        let mut tensors =
            vec![input("keys", TensorFormat::Values(dtype), keys * self.head_dim)];
        let scales = self.kv_dtype.scale_count(keys, self.head_dim);
        let format = self.kv_dtype.scale_format();
        tensors.extend(format.map(|format| input("key_scales", format, scales)));
        tensors.push(input("q", TensorFormat::Values(self.dtype), q * self.head_dim));
        tensors.push(input("head_weights", TensorFormat::Values(DType::F32), q));
        let words = TensorFormat::Words;
        let chosen = self.batch * self.chosen();
        tensors.push(Tensor::new("tokens", Role::Output, words, chosen));
        tensors
    }

    fn weight_bytes(&self) -> u64 {
        0
    }

    fn cache_bytes(&self) -> u64 {
        self.kv_dtype.matrix_bytes(self.batch * self.context, self.head_dim)
    }

    fn has_usual_data(&self) -> bool {
        true
    }

    fn routed(&self) -> Option<Routed> {
        None
    }
}

not_compared!(IndexTopk);

#[cfg(test)]
mod tests {
    use super::*;
    use crate::op::Problem;

    /// A layer of DeepSeek-V3.2: 64 heads of 128, one key for each of 65,536 tokens.
    #[test]
    fn an_index_reads_every_key_golden() {
        let of = |rest: &str| {
            format!(
                "index_topk:batch=1,context=65536,q_heads=64,head_dim=128,top_k=2048,\
                 dtype=bf16{rest}"
            )
            .parse::<Problem>()
            .unwrap()
        };
        let plain = of("");
        assert_eq!(plain.work().flops(), 2 * 64 * 129 * 65_536);
        assert_eq!(plain.cache_bytes(), 65_536 * 256);
        assert_eq!(plain.work().bytes_read(), 65_536 * 256 + 64 * 128 * 2 + 64 * 4);
        assert_eq!(plain.work().bytes_written(), 2048 * 4);
        // In 8 bits a key has 128 bytes and a scale, and scores are computed in them.
        let quantized = of(",kv_dtype=fp8_e4m3");
        assert_eq!(quantized.cache_bytes(), 65_536 * 132);
        assert_eq!(quantized.work().math_dtype(), Some(DType::Fp8E4m3));
    }

    /// New tokens see what is up to them, and choose no more than they see.
    #[test]
    fn new_tokens_see_what_is_up_to_them() {
        let text = "index_topk:batch=3,context=10,new_tokens=4,q_heads=2,head_dim=128,top_k=8,\
                    dtype=bf16";
        let work = text.parse::<Problem>().unwrap().work();
        assert_eq!(work.flops(), 3 * 2 * 2 * 129 * (7 + 8 + 9 + 10));
        assert_eq!(work.bytes_written(), 3 * 4 * (7 + 8 + 8 + 8));
    }

    #[test]
    fn keys_in_8_bits_have_whole_scales() {
        let text = "index_topk:batch=1,context=10,q_heads=2,head_dim=96,top_k=8,dtype=bf16,\
                    kv_dtype=fp8_e4m3";
        let error = text.parse::<Problem>().unwrap_err();
        assert_eq!(error.key.as_deref(), Some("head_dim"));
        assert!(error.message.contains("use 128"), "{error}");
    }
}

//! A whole step of decoding: every problem of a model's layers, one after the other.

use super::argmax::Argmax;
use super::contract::product;
use super::decode_attention::DecodeAttention;
use super::embedding::Embedding;
use super::explanation::Explanation;
use super::gated_activation::GatedActivation;
use super::gemm::Gemm;
use super::judged::{Hue, JudgedFacts, MarkerShape, OpMarker, Purpose, not_compared};
use super::rmsnorm::RmsNorm;
use super::rope_append::{CachePages, RopeAppend};
use super::{Facts, Fields, KeySpec, KvLayout, Lengths, Magnitude, Operation};
use super::{MAX_EXTENT, ProblemError, Routed};
use crate::format::{DType, Role, Tensor, TensorFormat};
use crate::quant::Quant;
use crate::resource::Work;

pub(super) const FACTS: Facts = Facts {
    name: "decode_step",
    keys: &[
        KeySpec::new("layers"),
        KeySpec::new("batch"),
        KeySpec::new("context"),
        KeySpec::new("hidden"),
        KeySpec::new("q_heads"),
        KeySpec::new("kv_heads"),
        KeySpec::new("head_dim"),
        KeySpec::new("intermediate"),
        KeySpec::new("vocab"),
        KeySpec::bare("dtype"),
        KeySpec::bare("layout").or("paged64"),
        KeySpec::new("lengths").or("equal").silent(),
    ],
    size_keys: &["layers", "batch", "context"],
    examples: &["decode_step:layers=2,batch=2,context=70,hidden=64,q_heads=2,kv_heads=1,\
                 head_dim=64,intermediate=96,vocab=200,dtype=bf16,layout=paged16"],
    judged: JudgedFacts {
        prose: "decode step",
        marker: OpMarker { shape: MarkerShape::Square, hue: Hue::Purple },
        purpose: Purpose::Work,
        sets_compute_ceiling: false,
        reads_cache: false,
    },
};

/// One step of decoding of a dense model as Llama 3 is: of each request one token goes
/// through embedding, layers and head, and the largest logit is the next token. A layer is
/// norm, one product for queries, keys and values, rotation with append to the cache,
/// attention, the output's product, residual and norm, one product for gate and up, gated
/// activation, the down product, and the residual.
///
/// Weights of all layers lie after each other, as do the caches; the page table is that of
/// every layer. What is handed from one problem to the next is rounded to `dtype`. The cache
/// has `context` tokens of a request when the step ends: it is an input in which the last
/// token is replaced, by the same values in every launch.
///
/// The output is `logits`, `[batch][vocab]`. The chosen tokens stay in a temporary: they are
/// the argmax of these.
///
/// Work: that of its problems (`op/stages.rs`), added up. What problems hand each other is counted,
/// as where each runs by itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct DecodeStep {
    /// Layers.
    pub layers: u64,
    /// Requests.
    pub batch: u64,
    /// Most tokens that a request has cached in the end.
    pub context: u64,
    /// Elements of a token between layers.
    pub hidden: u64,
    /// Query heads.
    pub q_heads: u64,
    /// Key and value heads.
    pub kv_heads: u64,
    /// Width of a head.
    pub head_dim: u64,
    /// Width of the feed-forward layers.
    pub intermediate: u64,
    /// Tokens that there are.
    pub vocab: u64,
    /// Format of all tensors.
    pub dtype: DType,
    /// How the cache lies in memory; paged.
    pub layout: KvLayout,
    /// How many tokens the requests have cached.
    pub lengths: Lengths,
}

/// A problem that a step is made of.
#[derive(Clone, Copy, Debug)]
pub(super) enum Part {
    Embedding(Embedding),
    Norm(RmsNorm),
    Linear(Gemm),
    RopeAppend(RopeAppend),
    Attention(DecodeAttention),
    Activation(GatedActivation),
    Argmax(Argmax),
}

impl Part {
    fn operation(&self) -> &dyn Operation {
        match self {
            Part::Embedding(p) => p,
            Part::Norm(p) => p,
            Part::Linear(p) => p,
            Part::RopeAppend(p) => p,
            Part::Attention(p) => p,
            Part::Activation(p) => p,
            Part::Argmax(p) => p,
        }
    }
}

pub(super) fn read(f: &Fields) -> Result<DecodeStep, ProblemError> {
    Ok(DecodeStep {
        layers: f.extent("layers")?,
        batch: f.extent("batch")?,
        context: f.extent("context")?,
        hidden: f.extent("hidden")?,
        q_heads: f.extent("q_heads")?,
        kv_heads: f.extent("kv_heads")?,
        head_dim: f.extent("head_dim")?,
        intermediate: f.extent("intermediate")?,
        vocab: f.extent("vocab")?,
        dtype: f.dtype("dtype")?,
        layout: KvLayout::read(f)?,
        lengths: f.parse("lengths")?,
    })
}

impl DecodeStep {
    /// Width of the row of queries, keys and values.
    pub const fn qkv_width(&self) -> u64 {
        (self.q_heads + 2 * self.kv_heads) * self.head_dim
    }

    /// Width of the row of queries, and of attention's output.
    pub const fn q_width(&self) -> u64 {
        self.q_heads * self.head_dim
    }

    /// Elements of the keys, or values, of one layer.
    pub const fn cache_elements(&self) -> u64 {
        self.batch * self.layout.allocated(self.context) * self.kv_heads * self.head_dim
    }

    const fn linear(&self, n: u64, k: u64) -> Gemm {
        let (m, dtype) = (self.batch, self.dtype);
        let (w_dtype, a_dtype) = (Quant::plain(dtype), Quant::plain(dtype));
        Gemm { m, n, k, dtype, w_dtype, a_dtype }
    }

    const fn norm(&self, residual: bool) -> RmsNorm {
        RmsNorm { m: self.batch, n: self.hidden, dtype: self.dtype, residual }
    }

    /// Rotation of queries and keys, and append to the cache.
    pub const fn rope_append(&self) -> RopeAppend {
        RopeAppend {
            batch: self.batch,
            context: self.context,
            q_heads: self.q_heads,
            kv_heads: self.kv_heads,
            head_dim: self.head_dim,
            dtype: self.dtype,
            layout: self.layout,
            lengths: self.lengths,
            pages: CachePages::Whole,
        }
    }

    const fn attention(&self) -> DecodeAttention {
        DecodeAttention {
            batch: self.batch,
            context: self.context,
            new_tokens: 1,
            q_heads: self.q_heads,
            kv_heads: self.kv_heads,
            head_dim: self.head_dim,
            dtype: self.dtype,
            kv_dtype: Quant::plain(self.dtype),
            layout: self.layout,
            lengths: self.lengths,
            window: 0,
        }
    }

    /// Its problems, equal ones together, in the order in which they come up: name, problem and
    /// how many of them.
    pub(super) fn parts(&self) -> [(&'static str, Part, u64); 12] {
        let DecodeStep { layers, batch: m, hidden, intermediate, vocab, dtype, .. } = *self;
        let linear = |n, k| Part::Linear(self.linear(n, k));
        let activation = GatedActivation { m, n: intermediate, dtype };
        [
            ("embedding", Part::Embedding(Embedding { m, vocab, n: hidden, dtype }), 1),
            ("first norm", Part::Norm(self.norm(false)), 1),
            ("q, k and v", linear(self.qkv_width(), hidden), layers),
            ("rope and append", Part::RopeAppend(self.rope_append()), layers),
            ("attention", Part::Attention(self.attention()), layers),
            ("output", linear(hidden, self.q_width()), layers),
            ("residual and norm", Part::Norm(self.norm(true)), 2 * layers),
            ("gate and up", linear(2 * intermediate, hidden), layers),
            ("activation", Part::Activation(activation), layers),
            ("down", linear(hidden, intermediate), layers),
            ("head", linear(vocab, hidden), 1),
            ("argmax", Part::Argmax(Argmax { m, n: vocab, dtype }), 1),
        ]
    }

    /// The sum over its problems.
    fn sum(&self, of: impl Fn(&dyn Operation) -> u64) -> u64 {
        self.parts().iter().map(|(_, part, count)| count * of(part.operation())).sum()
    }
}

impl Operation for DecodeStep {
    fn values(&self) -> Vec<String> {
        vec![
            self.layers.to_string(),
            self.batch.to_string(),
            self.context.to_string(),
            self.hidden.to_string(),
            self.q_heads.to_string(),
            self.kv_heads.to_string(),
            self.head_dim.to_string(),
            self.intermediate.to_string(),
            self.vocab.to_string(),
            self.dtype.to_string(),
            self.layout.to_string(),
            self.lengths.to_string(),
        ]
    }

    fn check(&self) -> Result<(), ProblemError> {
        if self.dtype.is_scaled() {
            let message = format!(
                "a step hands on numbers in f32, bf16 or f16, not in {}; use one of these",
                self.dtype
            );
            return Err(ProblemError::at("dtype", message));
        }
        // Widths that are made of others, before anything is counted by them.
        let heads = product(&[self.q_heads, self.head_dim])
            + product(&[2, self.kv_heads, self.head_dim]);
        let up = product(&[2, self.intermediate]);
        for (key, width) in [("head_dim", heads), ("intermediate", up)] {
            if width > MAX_EXTENT as f64 {
                return Err(ProblemError::at(
                    key,
                    format!(
                        "rows of {width:.3e} elements, more than {MAX_EXTENT}; make {key} smaller"
                    ),
                ));
            }
        }
        for (_, part, _) in self.parts() {
            part.operation().check()?;
        }
        Ok(())
    }

    fn magnitude(&self) -> Magnitude {
        let mut sum = Magnitude { flops: 0.0, elements: 0.0 };
        for (_, part, count) in self.parts() {
            let of_one = part.operation().magnitude();
            sum.flops += count as f64 * of_one.flops;
            sum.elements += count as f64 * of_one.elements;
        }
        sum
    }

    fn work(&self) -> Work {
        let parts = self.parts().into_iter();
        let works = parts.map(|(_, part, count)| part.operation().work().times(count));
        works.fold(Work::NONE, Work::and)
    }

    fn explanation(&self) -> Explanation {
        Explanation::results(&self.work())
    }

    fn tensors(&self) -> Vec<Tensor> {
        let DecodeStep { layers, batch, hidden, intermediate, vocab, dtype, .. } = *self;
        let input =
            |name, format, elements| Tensor::new(name, Role::Input, format, elements);
        let values = TensorFormat::Values(dtype);
        let constant = |name, format, elements| input(name, format, elements).settled();
        let weights = |name, n: u64, k: u64| constant(name, values, layers * n * k);
        let cache = layers * self.cache_elements();
        let mut tensors = vec![
            input("tokens", TensorFormat::Words, batch),
            constant("embedding", values, vocab * hidden),
            constant("norm_weights", TensorFormat::Gains(dtype), (2 * layers + 1) * hidden),
            weights("w_qkv", self.qkv_width(), hidden),
            weights("w_output", hidden, self.q_width()),
            weights("w_gate_up", 2 * intermediate, hidden),
            weights("w_down", hidden, intermediate),
            constant("w_head", values, vocab * hidden),
            input("k_cache", values, cache),
            input("v_cache", values, cache),
        ];
        tensors.extend(self.layout.page_table(batch, self.context));
        tensors.push(Tensor::new("logits", Role::Output, values, batch * vocab));
        tensors
    }

    fn weight_bytes(&self) -> u64 {
        self.sum(|of| of.weight_bytes())
    }

    fn cache_bytes(&self) -> u64 {
        self.sum(|of| of.cache_bytes())
    }

    fn has_usual_data(&self) -> bool {
        true
    }

    fn routed(&self) -> Option<Routed> {
        None
    }
}

not_compared!(DecodeStep);

//! Attention of decode: the claim.

use std::any::Any;
use std::ops::Range;

use super::contract::product;
use super::explanation::{Explanation, formula, size};
use super::judged::{
    Hue, Judged, JudgedFacts, KneeAxis, MarkerShape, OpMarker, PairKind, Purpose, Sweep,
    SweepPlace,
};
use super::kv_append::scale_tensors;
use super::kv_layout::{Requests, attended, check_cache, check_heads};
use super::{Access, Reuse};
use super::{Facts, Fields, KeySpec, KvLayout, KvRead, Lengths, Magnitude, Operation};
use super::{ProblemError, Routed};
use crate::format::{DType, Role, Tensor, TensorFormat};
use crate::quant::{Quant, QuantPlace, ScaleGroup};
use crate::resource::{Resource, Work};

pub(super) const FACTS: Facts = Facts {
    name: "decode_attention",
    keys: &[
        KeySpec::new("batch"),
        KeySpec::new("context"),
        KeySpec::new("q_heads"),
        KeySpec::new("kv_heads"),
        KeySpec::new("head_dim"),
        KeySpec::bare("dtype"),
        KeySpec::new("kv_dtype").or_as("dtype"),
        KeySpec::bare("layout").or("contiguous"),
        KeySpec::new("lengths").or("equal").silent(),
        KeySpec::new("new_tokens").or("1").silent(),
        KeySpec::new("window").or("0").silent(),
    ],
    size_keys: &["batch", "context"],
    examples: &[
        "decode_attention:batch=2,context=40,q_heads=4,kv_heads=2,head_dim=64,dtype=bf16",
    ],
    judged: JudgedFacts {
        prose: "decode attention",
        marker: OpMarker { shape: MarkerShape::Circle, hue: Hue::Blue },
        purpose: Purpose::Work,
        sets_compute_ceiling: false,
        reads_cache: true,
    },
};

/// The new tokens of each request, one or (with speculative decoding) a few, attend to
/// its cached tokens, the new ones among them: each to those up to itself, and where
/// there is a window only to the last so many of these.
///
/// Q and O are `[batch][new token][q head][dim]`. Keys and values in 8 bits have a scale
/// for each request and key and value head, or one for all keys and one for all values.
///
/// Work: `4 B n_q d s`; Q and O `2 B n_q d b`, K and V `2 B n_kv d s b_kv`. With several
/// new tokens, a window or requests of several lengths the sums over the tokens that
/// queries attend to, and over those that any query of a request attends to. Scales,
/// where there are any, `8 B n_kv`, or 8 bytes; 4 bytes for each needed entry of a page table.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct DecodeAttention {
    /// Requests.
    pub batch: u64,
    /// Most tokens that a request has cached.
    pub context: u64,
    /// Query heads.
    pub q_heads: u64,
    /// KeySpec and value heads; divides `q_heads`.
    pub kv_heads: u64,
    /// Width of a head.
    pub head_dim: u64,
    /// Format of queries and outputs.
    pub dtype: DType,
    /// Scheme of keys and values.
    pub kv_dtype: Quant,
    /// How keys and values lie in memory.
    pub layout: KvLayout,
    /// How many tokens the requests have cached.
    pub lengths: Lengths,
    /// Queries of each request and head.
    pub new_tokens: u64,
    /// Tokens that a query sees at most, the last ones; 0 for all.
    pub window: u64,
}

pub(super) fn read(f: &Fields) -> Result<DecodeAttention, ProblemError> {
    Ok(DecodeAttention {
        batch: f.extent("batch")?,
        context: f.extent("context")?,
        q_heads: f.extent("q_heads")?,
        kv_heads: f.extent("kv_heads")?,
        head_dim: f.extent("head_dim")?,
        dtype: f.dtype("dtype")?,
        kv_dtype: f.quant("kv_dtype", QuantPlace::Cache)?,
        layout: KvLayout::read(f)?,
        lengths: f.parse("lengths")?,
        new_tokens: f.extent("new_tokens")?,
        window: f.count("window")?,
    })
}

impl DecodeAttention {
    /// Query heads that share one key and value head.
    pub const fn group(&self) -> u64 {
        self.q_heads / self.kv_heads
    }

    /// The cache read that this attention cannot do without.
    pub const fn kv(&self) -> KvRead {
        KvRead {
            batch: self.batch,
            context: self.context,
            kv_heads: self.kv_heads,
            head_dim: self.head_dim,
            dtype: self.kv_dtype.dtype(),
            layout: self.layout,
            lengths: self.lengths,
        }
    }

    /// Whether each request has one new token that attends to all of its context: what
    /// is said of decode attention without more words is said of this.
    pub const fn is_plain(&self) -> bool {
        self.new_tokens == 1 && self.window == 0
    }

    /// What sets it apart from one new token for each of equally long requests, in
    /// words; empty if nothing does.
    pub fn variant(&self) -> String {
        let mut words = Vec::new();
        if self.new_tokens > 1 {
            words.push(format!("{} new tokens", self.new_tokens));
        }
        if self.window > 0 {
            words.push(format!("window {}", self.window));
        }
        if self.lengths != Lengths::Equal {
            words.push(self.lengths.to_string());
        }
        words.join(", ")
    }

    /// Tokens that new token number `token` of a request of `length` attends to.
    pub const fn attended(&self, length: u64, token: u64) -> Range<u64> {
        attended(length, self.new_tokens, token, self.window)
    }

    /// Tokens of a request of `length` that any of its new tokens attends to.
    pub const fn visible(&self, length: u64) -> Range<u64> {
        Range { start: self.attended(length, 0).start, end: length }
    }

    /// Elements of the queries, or of the outputs.
    const fn elements(&self) -> u64 {
        self.batch * self.new_tokens * self.q_heads * self.head_dim
    }
}

impl Operation for DecodeAttention {
    fn values(&self) -> Vec<String> {
        vec![
            self.batch.to_string(),
            self.context.to_string(),
            self.q_heads.to_string(),
            self.kv_heads.to_string(),
            self.head_dim.to_string(),
            self.dtype.to_string(),
            self.kv_dtype.to_string(),
            self.layout.to_string(),
            self.lengths.to_string(),
            self.new_tokens.to_string(),
            self.window.to_string(),
        ]
    }

    fn check(&self) -> Result<(), ProblemError> {
        check_heads(self.q_heads, self.kv_heads)?;
        check_cache(self.kv_dtype, QuantPlace::Cache)?;
        let DecodeAttention { batch, context, lengths, new_tokens, .. } = *self;
        Requests { batch, context, lengths, new_tokens }.check_decode()
    }

    fn magnitude(&self) -> Magnitude {
        let rows = product(&[self.batch, self.new_tokens, self.q_heads, self.head_dim]);
        Magnitude {
            flops: 4.0 * rows * self.context as f64,
            elements: 2.0 * rows + self.kv().allocated_elements(),
        }
    }

    fn work(&self) -> Work {
        let attended = self.lengths.sum(self.batch, self.context, |length| {
            let of_token = |token| {
                let tokens = self.attended(length, token);
                tokens.end - tokens.start
            };
            (0..self.new_tokens).map(of_token).sum()
        });
        let q_bytes = self.elements() * self.dtype.bytes();
        let flops = 4 * self.q_heads * self.head_dim * attended;
        Work::NONE
            .with(Resource::Matrix(self.dtype), flops)
            .with_bytes(q_bytes + self.cache_bytes(), q_bytes)
    }

    fn explanation(&self) -> Explanation {
        let is_simple = self.new_tokens == 1
            && self.layout == KvLayout::Contiguous
            && self.lengths == Lengths::Equal;
        if !is_simple {
            return Explanation::results(&self.work());
        }
        let DecodeAttention { batch, q_heads, kv_heads, head_dim: d, .. } = *self;
        let tokens = self.attended(self.context, 0);
        let s = tokens.end - tokens.start;
        let q = format!("2 * {batch} * {q_heads} * {d} * {}", size(self.dtype));
        let kv = format!(
            "2 * {batch} * {kv_heads} * {d} * {s} * {}",
            size(self.kv_dtype.dtype())
        );
        let groups = self.kv_dtype.scales().map(|scales| scales.group);
        let (scales, scale_values) = match groups {
            None => ("", String::new()),
            Some(ScaleGroup::Tensor) => (" + 8", " + 8".to_owned()),
            Some(_) => (" + 8 B n_kv", format!(" + 8 * {batch} * {kv_heads}")),
        };
        Explanation {
            flops: formula("4 B n_q d s", format!("4 * {batch} * {q_heads} * {d} * {s}")),
            bytes: formula(
                &format!("2 B n_q d b + 2 B n_kv d s b_kv{scales}"),
                format!("{q} + {kv}{scale_values}"),
            ),
        }
    }

    fn tensors(&self) -> Vec<Tensor> {
        let format = TensorFormat::Values(self.dtype);
        let mut tensors = self.kv().cache_tensors();
        tensors.extend(scale_tensors(self.kv_dtype, self.batch * self.kv_heads));
        tensors.push(Tensor::new("q", Role::Input, format, self.elements()));
        tensors.push(Tensor::new("o", Role::Output, format, self.elements()));
        tensors
    }

    fn weight_bytes(&self) -> u64 {
        0
    }

    fn cache_bytes(&self) -> u64 {
        2 * self.kv_dtype.scale_bytes(self.batch * self.kv_heads, 1)
            + self.kv().bytes(|length| self.visible(length))
    }

    fn has_usual_data(&self) -> bool {
        true
    }

    fn routed(&self) -> Option<Routed> {
        None
    }
}

impl Judged for DecodeAttention {
    fn memory_roof(&self) -> Option<Access> {
        None
    }

    fn reuse(&self) -> Option<Reuse> {
        None
    }

    fn line(&self) -> Option<String> {
        let DecodeAttention {
            q_heads, kv_heads, head_dim, dtype, kv_dtype, layout, ..
        } = self;
        let mut shape =
            format!("{q_heads}/{kv_heads} heads of {head_dim}, {kv_dtype}, {layout}");
        let queries = (kv_dtype.dtype() != *dtype).then(|| format!("{dtype} queries"));
        for words in queries.into_iter().chain([self.variant()]) {
            if !words.is_empty() {
                shape.push_str(", ");
                shape.push_str(&words);
            }
        }
        Some(shape)
    }

    fn place_in(&self, sweep: Sweep) -> Option<SweepPlace> {
        let DecodeAttention { kv_heads, head_dim, dtype, kv_dtype, layout, .. } = self;
        let (group, variant) = (self.group(), self.variant());
        let (swept, held) = sweep.of_decode(self.batch, self.context)?;
        Some(SweepPlace {
            swept,
            held: vec![held],
            alike: format!("{dtype} {kv_dtype} {layout} {kv_heads} {head_dim} {variant}"),
            by_kernel: true,
            family: (group, format!("decode attention, group {group}, {kv_dtype} KV")),
            variant,
        })
    }

    fn pair_with(&self, other: &dyn Any) -> Option<PairKind> {
        let other = other.downcast_ref::<DecodeAttention>()?;
        let is_alike = DecodeAttention { q_heads: other.q_heads, ..*self } == *other;
        if is_alike && other.q_heads > self.q_heads {
            return Some(PairKind::QueryHeads);
        }
        if (DecodeAttention { kv_heads: 2 * self.kv_heads, ..*self }) == *other {
            return Some(PairKind::KvHeads);
        }
        let alike = DecodeAttention { kv_dtype: other.kv_dtype, ..*self } == *other;
        PairKind::of_cache(self.kv_dtype, other.kv_dtype).filter(|_| alike)
    }

    fn knee(&self) -> Option<KneeAxis> {
        None
    }
}

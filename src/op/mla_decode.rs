//! Latent attention (MLA) of decode.

use std::any::Any;
use std::ops::Range;

use super::contract::product;
use super::explanation::{Explanation, formula, size};
use super::judged::{
    Hue, Judged, JudgedFacts, KneeAxis, MarkerShape, OpMarker, PairKind, Purpose, Sweep,
    SweepPlace,
};
use super::kv_layout::{Requests, attended, check_cache};
use super::{Access, Reuse};
use super::{Facts, Fields, KeySpec, KvLayout, KvRead, Lengths, Magnitude, Operation};
use super::{ProblemError, Routed};
use crate::format::{DType, LATENTS_OF_SCALE, Role, Tensor, TensorFormat};
use crate::quant::{Quant, QuantPlace};
use crate::resource::{Resource, Work};

pub(super) const FACTS: Facts = Facts {
    name: "mla_decode",
    keys: &[
        KeySpec::new("batch"),
        KeySpec::new("context"),
        KeySpec::new("q_heads"),
        // The widths of DeepSeek-V2 and V3.
        KeySpec::new("latent_dim").or("512").silent(),
        KeySpec::new("rope_dim").or("64").silent(),
        KeySpec::bare("dtype"),
        KeySpec::new("kv_dtype").or_as("dtype"),
        KeySpec::bare("layout").or("contiguous"),
        KeySpec::new("lengths").or("equal").silent(),
        KeySpec::new("new_tokens").or("1").silent(),
    ],
    size_keys: &["batch", "context"],
    examples: &["mla_decode:batch=2,context=40,q_heads=16,dtype=bf16"],
    judged: JudgedFacts {
        prose: "MLA decode",
        marker: OpMarker { shape: MarkerShape::Circle, hue: Hue::Orange },
        purpose: Purpose::Work,
        sets_compute_ceiling: true,
        reads_cache: true,
    },
};

/// Width of a head before absorption, by whose root scores are divided: 128 that came
/// out of the latents and 64 that carry the position (DeepSeek-V2, arXiv 2405.04434).
pub const SCORE_WIDTH: u64 = 128 + 64;

/// Multi-head latent attention of decode, with the projections of keys and values
/// absorbed into queries and outputs: all heads attend to one key of `latent_dim +
/// rope_dim` elements for each token, of which the first `latent_dim` are the value too.
///
/// Q is `[batch][new token][q head][latent and rope]`, O `[batch][new token][q
/// head][latent]`. The cache is one array, `[batch][token][record]`, or in pages
/// `[page][token in page][record]`. A record in 16 bits is the elements; in fp8_e4m3 it is
/// the latents in that format, a scale in f32 for each [`LATENTS_OF_SCALE`] of them, and
/// the rest in bf16: 656 bytes for 512 and 64, as FlashMLA has them. New tokens attend as
/// those of [`DecodeAttention`](super::DecodeAttention) do.
///
/// Work: `2 B h s (2 d_c + d_r)`; Q `B h (d_c + d_r) b`, O `B h d_c b`, and the cache
/// `B s (d_c + d_r) b_kv`, or 656 bytes for each record of fp8, and 4 bytes for each entry
/// of a page table.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct MlaDecode {
    /// Requests.
    pub batch: u64,
    /// Most tokens that a request has cached.
    pub context: u64,
    /// Query heads.
    pub q_heads: u64,
    /// Width of the latents, which are keys and values.
    pub latent_dim: u64,
    /// Width of the part of keys that carries the position.
    pub rope_dim: u64,
    /// Format of queries and outputs.
    pub dtype: DType,
    /// Scheme of the latents in the cache.
    pub kv_dtype: Quant,
    /// How the cache lies in memory.
    pub layout: KvLayout,
    /// How many tokens the requests have cached.
    pub lengths: Lengths,
    /// Queries of each request and head.
    pub new_tokens: u64,
}

impl MlaDecode {
    /// Elements of a key.
    pub const fn key_dim(&self) -> u64 {
        self.latent_dim + self.rope_dim
    }

    /// Bytes of a token in the cache.
    pub const fn record_bytes(&self) -> u64 {
        if self.kv_dtype.is_scaled() {
            self.kv_dtype.matrix_bytes(1, self.latent_dim)
                + DType::Bf16.bytes_of(self.rope_dim)
        } else {
            self.kv_dtype.dtype().bytes_of(self.key_dim())
        }
    }

    /// The requests as those of a cache of one head: what is said of tokens and pages
    /// holds here too. Its width and format are those of the keys alone.
    pub const fn kv(&self) -> KvRead {
        KvRead {
            batch: self.batch,
            context: self.context,
            kv_heads: 1,
            head_dim: self.key_dim(),
            dtype: self.kv_dtype.dtype(),
            layout: self.layout,
            lengths: self.lengths,
        }
    }

    /// Cached tokens of a request.
    pub const fn length(&self, request: u64) -> u64 {
        self.lengths.of(request, self.context)
    }

    /// Tokens that new token number `token` of a request of `length` attends to.
    pub const fn attended(&self, length: u64, token: u64) -> Range<u64> {
        attended(length, self.new_tokens, token, 0)
    }

    /// Rows of the queries, and of the outputs.
    pub const fn rows(&self) -> u64 {
        self.batch * self.new_tokens * self.q_heads
    }

    /// Tokens that the cache has room for.
    pub const fn allocated(&self) -> u64 {
        self.batch * self.layout.allocated(self.context)
    }
}

pub(super) fn read(f: &Fields) -> Result<MlaDecode, ProblemError> {
    Ok(MlaDecode {
        batch: f.extent("batch")?,
        context: f.extent("context")?,
        q_heads: f.extent("q_heads")?,
        latent_dim: f.extent("latent_dim")?,
        rope_dim: f.extent("rope_dim")?,
        dtype: f.dtype("dtype")?,
        kv_dtype: f.quant("kv_dtype", QuantPlace::Latents)?,
        layout: KvLayout::read(f)?,
        lengths: f.parse("lengths")?,
        new_tokens: f.extent("new_tokens")?,
    })
}

impl Operation for MlaDecode {
    fn values(&self) -> Vec<String> {
        vec![
            self.batch.to_string(),
            self.context.to_string(),
            self.q_heads.to_string(),
            self.latent_dim.to_string(),
            self.rope_dim.to_string(),
            self.dtype.to_string(),
            self.kv_dtype.to_string(),
            self.layout.to_string(),
            self.lengths.to_string(),
            self.new_tokens.to_string(),
        ]
    }

    fn check(&self) -> Result<(), ProblemError> {
        let MlaDecode { batch, context, lengths, new_tokens, .. } = *self;
        Requests { batch, context, lengths, new_tokens }.check_decode()?;
        self.check_records()
    }

    fn magnitude(&self) -> Magnitude {
        let rows = product(&[self.batch, self.new_tokens, self.q_heads]);
        let widths = (self.key_dim() + self.latent_dim) as f64;
        Magnitude {
            flops: 2.0 * rows * self.context as f64 * widths,
            elements: self.kv().allocated_elements() + 2.0 * rows * self.key_dim() as f64,
        }
    }

    fn work(&self) -> Work {
        let attended = self.lengths.sum(self.batch, self.context, |length| {
            let of_token = |token| self.attended(length, token).end;
            (0..self.new_tokens).map(of_token).sum()
        });
        let flops = 2 * self.q_heads * (self.key_dim() + self.latent_dim) * attended;
        let q_bytes = self.dtype.bytes_of(self.rows() * self.key_dim());
        let o_bytes = self.dtype.bytes_of(self.rows() * self.latent_dim);
        Work::NONE
            .with(Resource::Matrix(self.dtype), flops)
            .with_bytes(self.cache_bytes() + q_bytes, o_bytes)
    }

    fn explanation(&self) -> Explanation {
        let is_simple = self.new_tokens == 1
            && self.layout == KvLayout::Contiguous
            && self.lengths == Lengths::Equal;
        if !is_simple {
            return Explanation::results(&self.work());
        }
        let (batch, s, heads) = (self.batch, self.context, self.q_heads);
        let widths = self.key_dim() + self.latent_dim;
        Explanation {
            flops: formula(
                "2 B h s (2 d_c + d_r)",
                format!("2 * {batch} * {heads} * {s} * {widths}"),
            ),
            bytes: formula(
                "B s record + B h (2 d_c + d_r) b",
                format!(
                    "{batch} * {s} * {} + {batch} * {heads} * {widths} * {}",
                    self.record_bytes(),
                    size(self.dtype)
                ),
            ),
        }
    }

    fn tensors(&self) -> Vec<Tensor> {
        let format = TensorFormat::Values(self.dtype);
        let (kv_format, elements) = self.records(self.allocated());
        let mut tensors = vec![Tensor::new("kv", Role::Input, kv_format, elements)];
        tensors.extend(self.layout.page_table(self.batch, self.context));
        tensors.push(Tensor::new("q", Role::Input, format, self.rows() * self.key_dim()));
        tensors.push(Tensor::new("o", Role::Output, format, self.rows() * self.latent_dim));
        tensors
    }

    fn weight_bytes(&self) -> u64 {
        0
    }

    fn cache_bytes(&self) -> u64 {
        let record_bytes = self.record_bytes();
        self.lengths.sum(self.batch, self.context, |length| {
            record_bytes * length + 4 * self.layout.pages_of(&(0..length))
        })
    }

    fn has_usual_data(&self) -> bool {
        true
    }

    fn routed(&self) -> Option<Routed> {
        None
    }
}

impl Judged for MlaDecode {
    fn memory_roof(&self) -> Option<Access> {
        None
    }

    fn reuse(&self) -> Option<Reuse> {
        None
    }

    fn line(&self) -> Option<String> {
        let MlaDecode { q_heads, kv_dtype, layout, new_tokens, .. } = self;
        let mut shape = format!("{q_heads} heads, {kv_dtype}, {layout}");
        if *new_tokens > 1 {
            shape.push_str(&format!(", {new_tokens} new tokens"));
        }
        if self.lengths != Lengths::Equal {
            shape.push_str(", ragged");
        }
        Some(shape)
    }

    fn place_in(&self, sweep: Sweep) -> Option<SweepPlace> {
        let MlaDecode { q_heads, dtype, kv_dtype, layout, lengths, new_tokens, .. } = self;
        let (swept, held) = sweep.of_decode(self.batch, self.context)?;
        Some(SweepPlace {
            swept,
            held: vec![held],
            alike: format!("{dtype} {kv_dtype} {layout} {lengths} {new_tokens:020}"),
            by_kernel: false,
            // All heads share one latent: they are the group, larger than any other.
            family: (
                u64::MAX / 2 + q_heads,
                format!("MLA, {q_heads} heads, {kv_dtype} KV"),
            ),
            variant: String::new(),
        })
    }

    fn pair_with(&self, other: &dyn Any) -> Option<PairKind> {
        let other = other.downcast_ref::<MlaDecode>()?;
        let more = self.q_heads < other.q_heads;
        if more && (MlaDecode { q_heads: other.q_heads, ..*self }) == *other {
            return Some(PairKind::LatentHeads);
        }
        let alike = MlaDecode { kv_dtype: other.kv_dtype, ..*self } == *other;
        PairKind::of_cache(self.kv_dtype, other.kv_dtype).filter(|_| alike)
    }

    fn knee(&self) -> Option<KneeAxis> {
        let MlaDecode { q_heads, new_tokens, dtype, kv_dtype, .. } = *self;
        Some(KneeAxis {
            kind: PairKind::LatentHeads,
            name: format!("mla_decode in {dtype}, cache in {kv_dtype}"),
            unit: "heads x new tokens",
            rows: q_heads * new_tokens,
            dtype,
        })
    }
}

impl MlaDecode {
    /// Format and number of the elements of so many records.
    pub(super) const fn records(&self, count: u64) -> (TensorFormat, u64) {
        let MlaDecode { latent_dim, rope_dim, kv_dtype, .. } = *self;
        if kv_dtype.is_scaled() {
            (TensorFormat::LatentRecords { latent_dim, rope_dim }, count)
        } else {
            (TensorFormat::Values(kv_dtype.dtype()), count * self.key_dim())
        }
    }

    /// Refuses caches that nobody has.
    pub(super) fn check_records(&self) -> Result<(), ProblemError> {
        if self.layout.is_token_first() {
            return Err(ProblemError::at(
                "layout",
                "there is one head, so pages have one order; write the layout without `_nhd`",
            ));
        }
        check_cache(self.kv_dtype, QuantPlace::Latents)?;
        match self.kv_dtype.dtype() {
            DType::Fp8E4m3
                if !self.latent_dim.is_multiple_of(2 * LATENTS_OF_SCALE)
                    || !self.rope_dim.is_multiple_of(4) =>
            {
                Err(ProblemError::at(
                    "kv_dtype",
                    format!(
                        "a record of fp8_e4m3 has latents in multiples of {} and rope in \
                         multiples of 4, not {} and {}; use 512 and 64",
                        2 * LATENTS_OF_SCALE,
                        self.latent_dim,
                        self.rope_dim
                    ),
                ))
            }
            DType::Int8 => Err(ProblemError::at(
                "kv_dtype",
                "nobody caches latents in int8; use fp8_e4m3 or a 16-bit format",
            )),
            _ => Ok(()),
        }
    }
}

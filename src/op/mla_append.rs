//! What a step of decoding adds to a cache of latents.

use super::contract::product;
use super::explanation::Explanation;
use super::judged::{Hue, JudgedFacts, MarkerShape, OpMarker, Purpose, not_compared};
use super::kv_layout::{AppendedPages, Requests, check_paged};
use super::{Facts, Fields, KeySpec, KvLayout, Lengths, Magnitude, MlaDecode, Operation};
use super::{ProblemError, Routed};
use crate::format::{DType, Role, Tensor, TensorFormat};
use crate::quant::{Quant, QuantPlace};
use crate::resource::Work;

pub(super) const FACTS: Facts = Facts {
    name: "mla_append",
    keys: &[
        KeySpec::new("batch"),
        KeySpec::new("context"),
        KeySpec::new("new_tokens").or("1").always_labelled(),
        KeySpec::new("latent_dim").or("512").silent(),
        KeySpec::new("rope_dim").or("64").silent(),
        KeySpec::bare("dtype"),
        KeySpec::new("kv_dtype").or_as("dtype"),
        KeySpec::bare("layout").or("contiguous"),
        KeySpec::new("lengths").or("equal").silent(),
    ],
    size_keys: &["batch", "context", "new_tokens"],
    examples: &["mla_append:batch=2,context=40,new_tokens=3,dtype=bf16,layout=paged64"],
    judged: JudgedFacts {
        prose: "MLA append",
        marker: OpMarker { shape: MarkerShape::Square, hue: Hue::Orange },
        purpose: Purpose::Work,
        sets_compute_ceiling: false,
        reads_cache: false,
    },
};

/// Append the latents and rope elements of new tokens to the pages of a cache of latent
/// attention, in the format of the cache. New rows are `[batch][token][latent and rope]`,
/// and `context` counts the new tokens.
///
/// The cache is one array of records as [`MlaDecode`] has them, and holds for each request
/// only the pages that new tokens fall into. A record of fp8 has scales that follow from
/// its own latents, so no scales are read.
///
/// Work: `B n (d_c + d_r) b` and 4 bytes for each page read, `B n` records written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct MlaAppend {
    /// Requests.
    pub batch: u64,
    /// Most tokens that a request has cached in the end.
    pub context: u64,
    /// New tokens of each request.
    pub new_tokens: u64,
    /// Width of the latents (`kv_lora_rank`).
    pub latent_dim: u64,
    /// Width of the part of keys that carries the position (`qk_rope_head_dim`).
    pub rope_dim: u64,
    /// Format of the new rows.
    pub dtype: DType,
    /// Scheme of the latents in the cache.
    pub kv_dtype: Quant,
    /// How the cache lies in memory; paged.
    pub layout: KvLayout,
    /// How many tokens the requests have cached.
    pub lengths: Lengths,
}

pub(super) fn read(f: &Fields) -> Result<MlaAppend, ProblemError> {
    Ok(MlaAppend {
        batch: f.extent("batch")?,
        context: f.extent("context")?,
        new_tokens: f.extent("new_tokens")?,
        latent_dim: f.extent("latent_dim")?,
        rope_dim: f.extent("rope_dim")?,
        dtype: f.dtype("dtype")?,
        kv_dtype: f.quant("kv_dtype", QuantPlace::Latents)?,
        layout: KvLayout::read(f)?,
        lengths: f.parse("lengths")?,
    })
}

impl MlaAppend {
    /// The attention that reads the cache, with one query head: what is said of records
    /// there holds here too.
    pub const fn attention(&self) -> MlaDecode {
        MlaDecode {
            batch: self.batch,
            context: self.context,
            q_heads: 1,
            latent_dim: self.latent_dim,
            rope_dim: self.rope_dim,
            dtype: self.dtype,
            kv_dtype: self.kv_dtype,
            layout: self.layout,
            lengths: self.lengths,
            new_tokens: self.new_tokens,
        }
    }

    /// Elements of a new row.
    pub const fn key_dim(&self) -> u64 {
        self.latent_dim + self.rope_dim
    }

    /// Tokens in one page.
    pub const fn page_size(&self) -> u64 {
        self.layout.paging(self.context).0
    }

    /// Pages that the array of the cache has for each request.
    pub const fn pages(&self) -> u64 {
        self.appended().pages()
    }

    /// Place of a request's first new token in its first page here.
    pub const fn first_place(&self, request: u64) -> u64 {
        self.appended().first_place(self.lengths.of(request, self.context))
    }

    const fn appended(&self) -> AppendedPages {
        AppendedPages { page_size: self.page_size(), new_tokens: self.new_tokens }
    }

    /// New tokens of all requests.
    const fn tokens(&self) -> u64 {
        self.batch * self.new_tokens
    }
}

impl Operation for MlaAppend {
    fn values(&self) -> Vec<String> {
        vec![
            self.batch.to_string(),
            self.context.to_string(),
            self.new_tokens.to_string(),
            self.latent_dim.to_string(),
            self.rope_dim.to_string(),
            self.dtype.to_string(),
            self.kv_dtype.to_string(),
            self.layout.to_string(),
            self.lengths.to_string(),
        ]
    }

    fn check(&self) -> Result<(), ProblemError> {
        let MlaAppend { batch, context, lengths, new_tokens, layout, .. } = *self;
        Requests { batch, context, lengths, new_tokens }.check()?;
        check_paged(layout)?;
        self.attention().check_records()
    }

    fn magnitude(&self) -> Magnitude {
        let pages = product(&[self.batch, self.pages(), self.page_size()]);
        let tokens = product(&[self.batch, self.new_tokens]);
        Magnitude { flops: 0.0, elements: (pages + tokens) * self.key_dim() as f64 }
    }

    fn work(&self) -> Work {
        let touched = |length| self.appended().touched(length);
        let pages = self.lengths.sum(self.batch, self.context, touched);
        let new_bytes = self.dtype.bytes_of(self.tokens() * self.key_dim());
        let record_bytes = self.attention().record_bytes();
        Work::NONE.with_bytes(new_bytes + 4 * pages, self.tokens() * record_bytes)
    }

    fn explanation(&self) -> Explanation {
        Explanation::results(&self.work())
    }

    fn tensors(&self) -> Vec<Tensor> {
        let pages = self.batch * self.pages();
        let elements = self.tokens() * self.key_dim();
        let new = TensorFormat::Values(self.dtype);
        let (format, records) = self.attention().records(pages * self.page_size());
        vec![
            Tensor::new("kv_new", Role::Input, new, elements),
            Tensor::new("page_table", Role::Input, TensorFormat::PageTable, pages)
                .settled(),
            Tensor::new("cache", Role::Update, format, records),
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

not_compared!(MlaAppend);

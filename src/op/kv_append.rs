//! What a step of decoding adds to the cache.

use super::contract::product;
use super::explanation::Explanation;
use super::judged::{Hue, JudgedFacts, MarkerShape, OpMarker, Purpose, not_compared};
use super::kv_layout::{AppendedPages, Requests, check_cache, check_paged};
use super::{Facts, Fields, KeySpec, KvLayout, Lengths, Magnitude, Operation};
use super::{PageOrder, ProblemError, Routed};
use crate::format::{DType, Role, Tensor, TensorFormat};
use crate::quant::{Quant, QuantPlace};
use crate::resource::Work;

pub(super) const FACTS: Facts = Facts {
    name: "kv_append",
    keys: &[
        KeySpec::new("batch"),
        KeySpec::new("context"),
        KeySpec::new("new_tokens").or("1").always_labelled(),
        KeySpec::new("kv_heads"),
        KeySpec::new("head_dim"),
        KeySpec::bare("dtype"),
        KeySpec::new("kv_dtype").or_as("dtype"),
        KeySpec::bare("layout").or("contiguous"),
        KeySpec::new("lengths").or("equal").silent(),
    ],
    size_keys: &["batch", "context", "new_tokens"],
    examples: &[
        "kv_append:batch=2,context=40,new_tokens=3,kv_heads=2,head_dim=64,dtype=bf16,\
              layout=paged16",
    ],
    judged: JudgedFacts {
        prose: "KV append",
        marker: OpMarker { shape: MarkerShape::Wedge, hue: Hue::Orange },
        purpose: Purpose::Work,
        sets_compute_ceiling: false,
        reads_cache: false,
    },
};

/// Append the keys and values of new tokens to the pages of a cache, in the format of
/// the cache. New keys and values are `[batch][token][kv head][dim]`, and `context`
/// counts the new tokens.
///
/// The cache is one array, pages of keys and then pages of values, and holds for each
/// request [`KvAppend::pages`] pages, those that new tokens fall into: no other is
/// touched. To 8 bits a value `x` goes as `x * inverse_scale` of its request and head, or of
/// all keys or values, rounded to nearest even, at most the
/// largest value of the format.
///
/// Work: `2 B n n_kv d (b + b_kv)`, the page numbers, and the scales `8 B n_kv`, or 8 bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct KvAppend {
    /// Requests.
    pub batch: u64,
    /// Most tokens that a request has cached in the end.
    pub context: u64,
    /// New tokens of each request.
    pub new_tokens: u64,
    /// KeySpec and value heads.
    pub kv_heads: u64,
    /// Width of a head.
    pub head_dim: u64,
    /// Format of the new keys and values.
    pub dtype: DType,
    /// Scheme of the cache.
    pub kv_dtype: Quant,
    /// How the cache lies in memory; paged.
    pub layout: KvLayout,
    /// How many tokens the requests have cached.
    pub lengths: Lengths,
}

pub(super) fn read(f: &Fields) -> Result<KvAppend, ProblemError> {
    Ok(KvAppend {
        batch: f.extent("batch")?,
        context: f.extent("context")?,
        new_tokens: f.extent("new_tokens")?,
        kv_heads: f.extent("kv_heads")?,
        head_dim: f.extent("head_dim")?,
        dtype: f.dtype("dtype")?,
        kv_dtype: f.quant("kv_dtype", QuantPlace::Cache)?,
        layout: KvLayout::read(f)?,
        lengths: f.parse("lengths")?,
    })
}

impl KvAppend {
    /// Tokens in one page.
    pub const fn page_size(&self) -> u64 {
        self.paging().0
    }

    /// Tokens in one page, and how it is laid out.
    pub const fn paging(&self) -> (u64, PageOrder) {
        self.layout.paging(self.context)
    }

    /// Pages that the array of the cache has for each request: as many as new tokens
    /// fall into where they begin at the end of a page.
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

    /// Elements of new keys, or of new values.
    const fn elements(&self) -> u64 {
        self.batch * self.new_tokens * self.kv_heads * self.head_dim
    }
}

impl Operation for KvAppend {
    fn values(&self) -> Vec<String> {
        vec![
            self.batch.to_string(),
            self.context.to_string(),
            self.new_tokens.to_string(),
            self.kv_heads.to_string(),
            self.head_dim.to_string(),
            self.dtype.to_string(),
            self.kv_dtype.to_string(),
            self.layout.to_string(),
            self.lengths.to_string(),
        ]
    }

    fn check(&self) -> Result<(), ProblemError> {
        let KvAppend { batch, context, lengths, new_tokens, layout, .. } = *self;
        Requests { batch, context, lengths, new_tokens }.check()?;
        check_paged(layout)?;
        check_cache(self.kv_dtype, QuantPlace::Cache)
    }

    fn magnitude(&self) -> Magnitude {
        let pages = product(&[2, self.batch, self.pages(), self.page_size()]);
        let row = product(&[self.kv_heads, self.head_dim]);
        let new = product(&[2, self.batch, self.new_tokens]);
        Magnitude { flops: 0.0, elements: row * (pages + new) }
    }

    fn work(&self) -> Work {
        let touched = |length| self.appended().touched(length);
        let pages = self.lengths.sum(self.batch, self.context, touched);
        let bytes_read = 2 * self.elements() * self.dtype.bytes()
            + 4 * pages
            + 2 * self.kv_dtype.scale_bytes(self.batch * self.kv_heads, 1);
        Work::NONE
            .with_bytes(bytes_read, 2 * self.kv_dtype.dtype().bytes_of(self.elements()))
    }

    fn explanation(&self) -> Explanation {
        Explanation::results(&self.work())
    }

    fn tensors(&self) -> Vec<Tensor> {
        let new = TensorFormat::Values(self.dtype);
        let pages = self.batch * self.pages();
        let mut tensors = vec![
            Tensor::new("k_new", Role::Input, new, self.elements()),
            Tensor::new("v_new", Role::Input, new, self.elements()),
            Tensor::new("page_table", Role::Input, TensorFormat::PageTable, pages)
                .settled(),
        ];
        if self.kv_dtype.is_scaled() {
            let scales = TensorFormat::InverseScales(self.kv_dtype.dtype());
            let count = self.kv_dtype.scale_count(self.batch * self.kv_heads, 1);
            tensors.push(Tensor::new("k_inverse_scales", Role::Input, scales, count));
            tensors.push(Tensor::new("v_inverse_scales", Role::Input, scales, count));
        }
        let elements = 2 * pages * self.page_size() * self.kv_heads * self.head_dim;
        let format = TensorFormat::Values(self.kv_dtype.dtype());
        tensors.push(Tensor::new("cache", Role::Update, format, elements));
        tensors
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

not_compared!(KvAppend);

/// The scales of keys and of values of so many requests and heads, where they have any.
pub(super) fn scale_tensors(kv_dtype: Quant, sequences: u64) -> Vec<Tensor> {
    let count = kv_dtype.scale_count(sequences, 1);
    let scales = kv_dtype.scale_format().map(|format| {
        ["k_scales", "v_scales"].map(|name| Tensor::new(name, Role::Input, format, count))
    });
    scales.into_iter().flatten().collect()
}

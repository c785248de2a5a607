//! Reads of a cache of keys and values: the bytes of decode attention without its
//! arithmetic.

use std::any::Any;
use std::ops::Range;

use super::contract::product;
use super::explanation::Explanation;
use super::judged::{
    Hue, Judged, JudgedFacts, KneeAxis, MarkerShape, OpMarker, PairKind, Purpose, Sweep,
    SweepPlace,
};
use super::kv_layout::Requests;
use super::{Access, Reuse};
use super::{Facts, Fields, KeySpec, KvLayout, Lengths, Magnitude, Operation};
use super::{ProblemError, Routed};
use crate::format::{DType, Role, Tensor, TensorFormat};
use crate::resource::Work;

pub(super) const FACTS: Facts = Facts {
    name: "kv_read",
    keys: &[
        KeySpec::new("batch"),
        KeySpec::new("context"),
        KeySpec::new("kv_heads"),
        KeySpec::new("head_dim"),
        KeySpec::bare("dtype"),
        KeySpec::bare("layout").or("contiguous"),
        KeySpec::new("lengths").or("equal").silent(),
    ],
    size_keys: &["batch", "context"],
    examples: &[
        "kv_read:batch=2,context=40,kv_heads=2,head_dim=64,dtype=bf16,layout=paged16",
    ],
    judged: JudgedFacts {
        prose: "KV read",
        marker: OpMarker { shape: MarkerShape::Triangle, hue: Hue::Orange },
        purpose: Purpose::Work,
        sets_compute_ceiling: false,
        reads_cache: true,
    },
};

/// Read the keys and values of a cache and do nothing with them: the bytes of
/// decode attention without its arithmetic.
///
/// Work: K and V `2 B n_kv d s b_kv`, and 4 bytes for each entry of a page table.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct KvRead {
    /// Requests.
    pub batch: u64,
    /// Most tokens that a request has cached.
    pub context: u64,
    /// KeySpec and value heads.
    pub kv_heads: u64,
    /// Width of a head.
    pub head_dim: u64,
    /// Format of keys and values.
    pub dtype: DType,
    /// How they lie in memory.
    pub layout: KvLayout,
    /// How many tokens the requests have cached.
    pub lengths: Lengths,
}

pub(super) fn read(f: &Fields) -> Result<KvRead, ProblemError> {
    Ok(KvRead {
        batch: f.extent("batch")?,
        context: f.extent("context")?,
        kv_heads: f.extent("kv_heads")?,
        head_dim: f.extent("head_dim")?,
        dtype: f.dtype("dtype")?,
        layout: KvLayout::read(f)?,
        lengths: f.parse("lengths")?,
    })
}

impl KvRead {
    /// Cached tokens of a request.
    pub const fn length(&self, request: u64) -> u64 {
        self.lengths.of(request, self.context)
    }

    /// Elements allocated for keys and values, in floating point so that nothing
    /// overflows.
    pub(super) fn allocated_elements(&self) -> f64 {
        let tokens = match self.layout {
            KvLayout::Contiguous => self.context as f64,
            KvLayout::Paged { page_size, .. } => {
                self.context.div_ceil(page_size) as f64 * page_size as f64
            }
        };
        product(&[2, self.batch, self.kv_heads, self.head_dim]) * tokens
    }

    /// Bytes of the keys and values of the `needed` tokens of requests of all lengths, and
    /// of the page numbers that it takes to find them.
    pub(super) fn bytes(&self, needed: impl Fn(u64) -> Range<u64>) -> u64 {
        let row_bytes = 2 * self.kv_heads * self.head_dim * self.dtype.bytes();
        self.lengths.sum(self.batch, self.context, |length| {
            let tokens = needed(length);
            row_bytes * (tokens.end - tokens.start) + 4 * self.layout.pages_of(&tokens)
        })
    }

    /// Keys, values and, where paged, the page table. A paged pool holds whole
    /// pages, so its tail past the context is allocated but never read.
    pub(super) fn cache_tensors(&self) -> Vec<Tensor> {
        let tokens = self.batch * self.layout.allocated(self.context);
        let format = TensorFormat::Values(self.dtype);
        let elements = tokens * self.kv_heads * self.head_dim;
        let mut tensors = vec![
            Tensor::new("k", Role::Input, format, elements),
            Tensor::new("v", Role::Input, format, elements),
        ];
        tensors.extend(self.layout.page_table(self.batch, self.context));
        tensors
    }
}

impl Operation for KvRead {
    fn values(&self) -> Vec<String> {
        let KvRead { batch, context, kv_heads, head_dim, dtype, layout, lengths } = self;
        vec![
            batch.to_string(),
            context.to_string(),
            kv_heads.to_string(),
            head_dim.to_string(),
            dtype.to_string(),
            layout.to_string(),
            lengths.to_string(),
        ]
    }

    fn check(&self) -> Result<(), ProblemError> {
        let KvRead { batch, context, lengths, .. } = *self;
        Requests { batch, context, lengths, new_tokens: 1 }.check()
    }

    fn magnitude(&self) -> Magnitude {
        Magnitude { flops: 0.0, elements: self.allocated_elements() }
    }

    fn work(&self) -> Work {
        Work::NONE.with_bytes(self.cache_bytes(), 0)
    }

    fn explanation(&self) -> Explanation {
        Explanation::results(&self.work())
    }

    fn tensors(&self) -> Vec<Tensor> {
        let mut tensors = self.cache_tensors();
        let sums = self.batch * self.kv_heads;
        tensors.push(Tensor::new("checksums", Role::Witness, TensorFormat::Words, sums));
        tensors
    }

    fn weight_bytes(&self) -> u64 {
        0
    }

    fn cache_bytes(&self) -> u64 {
        self.bytes(|length| 0..length)
    }

    fn has_usual_data(&self) -> bool {
        true
    }

    fn routed(&self) -> Option<Routed> {
        None
    }
}

impl Judged for KvRead {
    fn memory_roof(&self) -> Option<Access> {
        None
    }

    fn reuse(&self) -> Option<Reuse> {
        None
    }

    fn line(&self) -> Option<String> {
        let KvRead { kv_heads, head_dim, dtype, layout, lengths, .. } = self;
        let ragged = if *lengths == Lengths::Equal { "" } else { ", ragged" };
        Some(format!("{kv_heads} heads of {head_dim}, {dtype}, {layout}{ragged}"))
    }

    fn place_in(&self, _: Sweep) -> Option<SweepPlace> {
        None
    }

    fn pair_with(&self, _: &dyn Any) -> Option<PairKind> {
        None
    }

    fn knee(&self) -> Option<KneeAxis> {
        None
    }
}

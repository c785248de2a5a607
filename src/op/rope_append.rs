//! Queries, keys and values of new tokens on their way into attention.

use super::contract::product;
use super::explanation::Explanation;
use super::judged::{Hue, JudgedFacts, MarkerShape, OpMarker, Purpose, not_compared};
use super::kv_layout::{AppendedPages, Requests, check_heads, check_paged};
use super::{Facts, Fields, KeySpec, KvLayout, Lengths, Magnitude, Operation};
use super::{PageOrder, ProblemError, Routed};
use crate::format::{DType, Role, Tensor, TensorFormat, text_of_name};
use crate::resource::{Resource, Work};

pub(super) const FACTS: Facts = Facts {
    name: "rope_append",
    keys: &[
        KeySpec::new("batch"),
        KeySpec::new("context"),
        KeySpec::new("q_heads"),
        KeySpec::new("kv_heads"),
        KeySpec::new("head_dim"),
        KeySpec::bare("dtype"),
        KeySpec::bare("layout").or("contiguous"),
        KeySpec::new("lengths").or("equal").silent(),
        KeySpec::new("pages").or("touched").silent(),
    ],
    size_keys: &["batch", "context"],
    examples: &[
        "rope_append:batch=2,context=40,q_heads=4,kv_heads=2,head_dim=64,dtype=bf16,\
         layout=paged16",
    ],
    judged: JudgedFacts {
        prose: "rotary embedding and append",
        marker: OpMarker { shape: MarkerShape::Triangle, hue: Hue::Vermilion },
        purpose: Purpose::Work,
        sets_compute_ceiling: false,
        reads_cache: false,
    },
};

/// Base of the wavelengths of a rotary embedding: that of Llama 3, without its scaling of
/// low frequencies for long contexts.
pub const ROPE_BASE: f64 = 500_000.0;

/// Which pages of a cache are there.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum CachePages {
    /// Of each request the one that its new token falls into, as in `kv_append`: all that
    /// is needed to measure.
    Touched,
    /// Of each request those of `context` tokens, as `decode_attention` reads them.
    Whole,
}

text_of_name!(CachePages => "a choice of pages");

impl CachePages {
    /// Both, in the order in which tables list them.
    pub const ALL: [CachePages; 2] = [CachePages::Touched, CachePages::Whole];

    /// The spelling used in suites, ids and CSV files.
    pub const fn name(self) -> &'static str {
        match self {
            CachePages::Touched => "touched",
            CachePages::Whole => "whole",
        }
    }
}

/// Rotate the queries and keys of one new token of each request by its position (RoPE, Su
/// et al. 2021) and append its keys and values to the pages of a cache.
///
/// `qkv` is `[batch][head][dim]` with the query heads first, then those of keys, then those of
/// values, as one product with all three matrices of weights leaves them. The token is the
/// last of its request, so that its position is the request's length less 1. Elements `i` and
/// `i + d / 2` of a head are a pair, as in Llama, and turn by the angle
/// `position ROPE_BASE^(-2 i / d)`. Frequencies are not scaled.
///
/// Outputs: the rotated queries `q`, `[batch][q head][dim]`, and the caches `k` and `v`, as
/// `decode_attention` reads them: pages in the order of the layout, found through the page
/// table `[batch][page of the request]`. With `pages = touched` each request has one page, the
/// one that the token falls into; with `whole` all of `context`, of which the token's is
/// number `position / page size`. What is not the token's stays. All are in `dtype`; the
/// arithmetic is in f32.
///
/// Work: 3 FLOPs for each element of queries and keys, two products and a sum; angles, sines
/// and cosines are not counted. Bytes: `B (n_q + 2 n_kv) d b` read and as many written, and 4
/// for each request's entry of the page table.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct RopeAppend {
    /// Requests.
    pub batch: u64,
    /// Most tokens that a request has, the new one among them.
    pub context: u64,
    /// Query heads.
    pub q_heads: u64,
    /// Key and value heads; divides `q_heads`.
    pub kv_heads: u64,
    /// Width of a head; even.
    pub head_dim: u64,
    /// Format of all values, the cached ones too.
    pub dtype: DType,
    /// How the cache lies in memory; paged.
    pub layout: KvLayout,
    /// How many tokens the requests have.
    pub lengths: Lengths,
    /// Which pages of the cache are there.
    pub pages: CachePages,
}

pub(super) fn read(f: &Fields) -> Result<RopeAppend, ProblemError> {
    Ok(RopeAppend {
        batch: f.extent("batch")?,
        context: f.extent("context")?,
        q_heads: f.extent("q_heads")?,
        kv_heads: f.extent("kv_heads")?,
        head_dim: f.extent("head_dim")?,
        dtype: f.dtype("dtype")?,
        layout: KvLayout::read(f)?,
        lengths: f.parse("lengths")?,
        pages: f.parse("pages")?,
    })
}

impl RopeAppend {
    /// Heads of queries, keys and values.
    pub const fn heads(&self) -> u64 {
        self.q_heads + 2 * self.kv_heads
    }

    /// Tokens in one page, and how it is laid out.
    pub const fn paging(&self) -> (u64, PageOrder) {
        self.layout.paging(self.context)
    }

    /// Pages that the cache has for each request.
    pub const fn pages(&self) -> u64 {
        let page_size = self.paging().0;
        match self.pages {
            CachePages::Touched => AppendedPages { page_size, new_tokens: 1 }.pages(),
            CachePages::Whole => self.context.div_ceil(page_size),
        }
    }

    /// Position of a request's new token, from 0.
    pub const fn position(&self, request: u64) -> u64 {
        self.lengths.of(request, self.context) - 1
    }

    /// The entry of the page table that has the page of a request's new token.
    pub const fn entry(&self, request: u64) -> u64 {
        let within = match self.pages {
            CachePages::Touched => 0,
            CachePages::Whole => self.position(request) / self.paging().0,
        };
        request * self.pages() + within
    }

    /// Angle by which a pair turns from one position to the next, in radians.
    pub fn frequency(&self, pair: u64) -> f64 {
        ROPE_BASE.powf(-2.0 * pair as f64 / self.head_dim as f64)
    }

    /// Elements of the queries.
    pub const fn query_elements(&self) -> u64 {
        self.batch * self.q_heads * self.head_dim
    }

    /// Elements of the pages of keys, or of values.
    pub const fn cache_elements(&self) -> u64 {
        self.batch * self.pages() * self.paging().0 * self.kv_heads * self.head_dim
    }

    /// Elements of queries, keys and values.
    const fn elements(&self) -> u64 {
        self.batch * self.heads() * self.head_dim
    }
}

impl Operation for RopeAppend {
    fn values(&self) -> Vec<String> {
        vec![
            self.batch.to_string(),
            self.context.to_string(),
            self.q_heads.to_string(),
            self.kv_heads.to_string(),
            self.head_dim.to_string(),
            self.dtype.to_string(),
            self.layout.to_string(),
            self.lengths.to_string(),
            self.pages.to_string(),
        ]
    }

    fn check(&self) -> Result<(), ProblemError> {
        let RopeAppend { batch, context, lengths, head_dim, layout, .. } = *self;
        Requests { batch, context, lengths, new_tokens: 1 }.check()?;
        check_heads(self.q_heads, self.kv_heads)?;
        if !head_dim.is_multiple_of(2) {
            return Err(ProblemError::at(
                "head_dim",
                format!(
                    "head_dim = {head_dim}; elements are rotated in pairs, so make it even"
                ),
            ));
        }
        check_paged(layout)
    }

    fn magnitude(&self) -> Magnitude {
        let heads = self.q_heads as f64 + 2.0 * self.kv_heads as f64;
        let new = product(&[self.batch, self.head_dim]) * heads;
        let cached = [2, self.batch, self.pages(), self.paging().0, self.kv_heads];
        let cached = product(&cached) * self.head_dim as f64;
        Magnitude { flops: 3.0 * new, elements: 2.0 * new + cached }
    }

    fn work(&self) -> Work {
        let bytes = self.dtype.bytes_of(self.elements());
        let rotated = self.batch * (self.q_heads + self.kv_heads) * self.head_dim;
        Work::NONE
            .with_bytes(bytes + 4 * self.batch, bytes)
            .with(Resource::Vector(DType::F32), 3 * rotated)
    }

    fn explanation(&self) -> Explanation {
        Explanation::results(&self.work())
    }

    fn tensors(&self) -> Vec<Tensor> {
        let format = TensorFormat::Values(self.dtype);
        let pages = self.batch * self.pages();
        let cached = self.cache_elements();
        vec![
            Tensor::new("qkv", Role::Input, format, self.elements()),
            Tensor::new("page_table", Role::Input, TensorFormat::PageTable, pages)
                .settled(),
            Tensor::new("q", Role::Output, format, self.query_elements()),
            Tensor::new("k", Role::Update, format, cached),
            Tensor::new("v", Role::Update, format, cached),
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

not_compared!(RopeAppend);

#[cfg(test)]
mod tests {
    use super::*;
    use crate::op::Problem;

    fn problem(text: &str) -> Problem {
        text.parse().unwrap_or_else(|why| panic!("{text}: {why}"))
    }

    const LLAMA: &str = "rope_append:batch=2,context=8190,q_heads=32,kv_heads=8,head_dim=128,\
                         dtype=bf16,layout=paged16";

    /// Two tokens of Llama 3.1 8B: 48 heads of 256 bytes each, of which 40 turn.
    #[test]
    fn bytes_and_flops_golden() {
        for rest in ["", ",pages=whole"] {
            let work = problem(&format!("{LLAMA}{rest}")).work();
            let bytes = 2 * 48 * 256;
            assert_eq!((work.bytes_read(), work.bytes_written()), (bytes + 8, bytes));
            assert_eq!((work.vector_flops(), work.matrix_flops()), (2 * 3 * 40 * 128, 0));
        }
    }

    /// The caches and the page table are those that `decode_attention` reads.
    #[test]
    fn whole_caches_are_those_of_decode_attention() {
        for layout in ["paged16", "paged64_nhd"] {
            let rest = "batch=3,context=1000,q_heads=8,kv_heads=2,head_dim=64,dtype=f16";
            let rest = format!("{rest},layout={layout},lengths=ragged");
            let ours = problem(&format!("rope_append:{rest},pages=whole")).tensors();
            let read = problem(&format!("decode_attention:{rest}")).tensors();
            for name in ["k", "v", "page_table", "q"] {
                let of = |tensors: &[Tensor]| {
                    let found = tensors.iter().find(|tensor| tensor.name == name).unwrap();
                    (found.format, found.elements)
                };
                assert_eq!(of(&ours), of(&read), "{layout}: {name}");
            }
            let touched = problem(&format!("rope_append:{rest}"));
            assert!(
                touched.tensors().iter().any(|t| (t.name, t.elements) == ("page_table", 3))
            );
        }
    }

    #[test]
    fn the_new_token_is_the_last() {
        let Problem::RopeAppend(p) = problem(&format!("{LLAMA},pages=whole")) else {
            panic!("another operation");
        };
        assert_eq!((p.position(1), p.pages()), (8189, 512));
        assert_eq!((p.entry(0), p.entry(1)), (511, 512 + 511));
        let touched = RopeAppend { pages: CachePages::Touched, ..p };
        assert_eq!((touched.pages(), touched.entry(1)), (1, 1));
        // From one turn in 6.3 tokens to one in 2.6 million.
        assert_eq!(p.frequency(0), 1.0);
        assert!((p.frequency(63) * 407_308.617 - 1.0).abs() < 1e-5, "{}", p.frequency(63));
    }

    #[test]
    fn bad_input_is_told_what_to_do() {
        for (rest, key, part) in [
            ("q_heads=4,kv_heads=2,head_dim=63,layout=paged16", "head_dim", "make it even"),
            ("q_heads=4,kv_heads=2,head_dim=64", "layout", "paged16"),
            (
                "q_heads=4,kv_heads=3,head_dim=64,layout=paged16",
                "kv_heads",
                "not a multiple",
            ),
            ("q_heads=4,kv_heads=2,head_dim=64,layout=paged16,pages=all", "pages", "whole"),
        ] {
            let text = format!("rope_append:batch=1,context=9,dtype=bf16,{rest}");
            let error = text.parse::<Problem>().unwrap_err();
            assert_eq!(error.key.as_deref(), Some(key), "{text}");
            assert!(error.message.contains(part), "{text}: {error}");
        }
    }
}

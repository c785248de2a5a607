//! Attention of prefill: the opposite of decode.

use std::ops::Range;

use super::contract::product;
use super::explanation::{Explanation, formula, size};
use super::judged::{Hue, JudgedFacts, MarkerShape, OpMarker, Purpose, not_compared};
use super::kv_append::scale_tensors;
use super::kv_layout::{Requests, attended, check_cache, check_heads};
use super::linear::math_dtype;
use super::{Facts, Fields, KeySpec, KvLayout, KvRead, Lengths, Magnitude, Operation};
use super::{ProblemError, Routed};
use crate::format::{DType, Role, Tensor, TensorFormat};
use crate::quant::{Quant, QuantPlace};
use crate::resource::{Resource, Work};

pub(super) const FACTS: Facts = Facts {
    name: "prefill_attention",
    keys: &[
        KeySpec::new("batch"),
        KeySpec::new("prefix").or("0"),
        KeySpec::new("new_tokens"),
        KeySpec::new("q_heads"),
        KeySpec::new("kv_heads"),
        KeySpec::new("head_dim"),
        KeySpec::new("causal").or("true"),
        KeySpec::bare("dtype"),
        KeySpec::new("kv_dtype").or_as("dtype"),
        KeySpec::new("window").or("0").silent(),
        KeySpec::new("v_head_dim").or_as("head_dim").silent(),
        KeySpec::bare("layout").or("contiguous").silent(),
        KeySpec::new("lengths").or("equal").silent(),
        KeySpec::new("q_dtype").or_as("dtype").silent(),
    ],
    size_keys: &["batch", "prefix", "new_tokens"],
    examples: &["prefill_attention:batch=1,prefix=5,new_tokens=20,q_heads=4,kv_heads=2,\
              head_dim=64,dtype=bf16"],
    judged: JudgedFacts {
        prose: "prefill attention",
        marker: OpMarker { shape: MarkerShape::Square, hue: Hue::Green },
        purpose: Purpose::Work,
        sets_compute_ceiling: true,
        reads_cache: false,
    },
};

/// `new_tokens` tokens of each request attend to `prefix` cached tokens and to
/// each other. Q and O are `[batch][q head][token][dim]`, K and V are
/// `[batch][kv head][prefix and new tokens][dim]`, or lie in pages.
///
/// Values, and outputs, may have a width of their own, as those of latent attention have
/// (192 and 128).
///
/// Keys and values in 8 bits are taken as they are, without scales, or have one scale for
/// all keys and one for all values (`fp8_e4m3_tensor`). So may queries be, where keys and
/// values are: then all products are of 8 bits, and attention weights are rounded to them.
///
/// Requests of several lengths have of their context what [`Lengths`] says, and as new
/// tokens the same share of `new_tokens`, the last ones. Their caches have room for the
/// longest; Q and O have no gaps, `[token of all requests][q head][dim]`, one request after
/// the other.
///
/// Work: in the format of queries, keys and values, in that of outputs where they differ,
/// `2 B n_q (d + d_v)` times the attended keys summed over rows, which is
/// `B n_q (d + d_v) S (2 P + S + 1)` when causal; Q and O `B n_q S (d + d_v) b`, K and V
/// `B n_kv (S + P) (d + d_v) b_kv`, scales where there are any 8 bytes, of queries 4; 4
/// bytes for each needed entry of a page table. In a window only the keys that some row attends to.
/// Requests of several lengths count each for itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct PrefillAttention {
    /// Requests.
    pub batch: u64,
    /// Tokens already in the cache.
    pub prefix: u64,
    /// Tokens processed now.
    pub new_tokens: u64,
    /// Query heads.
    pub q_heads: u64,
    /// KeySpec and value heads; divides `q_heads`.
    pub kv_heads: u64,
    /// Width of a head.
    pub head_dim: u64,
    /// Whether a token sees only the tokens up to itself.
    pub causal: bool,
    /// Format of outputs.
    pub dtype: DType,
    /// Scheme of keys and values.
    pub kv_dtype: Quant,
    /// Tokens that a token sees at most, the last ones up to itself; 0 for all.
    pub window: u64,
    /// Width of a head's values, and outputs; `head_dim` is that of queries and keys.
    pub v_head_dim: u64,
    /// How keys and values lie in memory.
    pub layout: KvLayout,
    /// How many new tokens, and tokens in all, the requests have.
    pub lengths: Lengths,
    /// Scheme of queries.
    pub q_dtype: Quant,
}

pub(super) fn read(f: &Fields) -> Result<PrefillAttention, ProblemError> {
    Ok(PrefillAttention {
        batch: f.extent("batch")?,
        prefix: f.count("prefix")?,
        new_tokens: f.extent("new_tokens")?,
        q_heads: f.extent("q_heads")?,
        kv_heads: f.extent("kv_heads")?,
        head_dim: f.extent("head_dim")?,
        causal: f.flag("causal")?,
        dtype: f.dtype("dtype")?,
        kv_dtype: f.quant("kv_dtype", QuantPlace::Prompt)?,
        window: f.count("window")?,
        v_head_dim: f.extent("v_head_dim")?,
        layout: KvLayout::read(f)?,
        lengths: f.parse("lengths")?,
        q_dtype: f.quant("q_dtype", QuantPlace::Prompt)?,
    })
}

impl PrefillAttention {
    /// Query heads that share one key and value head.
    pub const fn group(&self) -> u64 {
        self.q_heads / self.kv_heads
    }

    /// Most keys that a request and head have.
    pub const fn context(&self) -> u64 {
        self.prefix + self.new_tokens
    }

    /// One request as a problem of its own, with its prefix and new tokens.
    pub const fn request(&self, number: u64) -> PrefillAttention {
        let new_tokens = self.lengths.of(number, self.new_tokens);
        // What is shared out of more is no less: a prefix is not negative.
        let prefix = self.lengths.of(number, self.context()) - new_tokens;
        PrefillAttention { batch: 1, prefix, new_tokens, lengths: Lengths::Equal, ..*self }
    }

    /// The sum over all requests of what depends on each.
    fn sum(&self, of: impl Fn(&PrefillAttention) -> u64) -> u64 {
        match self.lengths {
            Lengths::Equal => self.batch * of(&self.request(0)),
            Lengths::Ragged => {
                (0..self.batch).map(|number| of(&self.request(number))).sum()
            }
        }
    }

    /// New tokens of all requests.
    pub fn all_new_tokens(&self) -> u64 {
        self.sum(|request| request.new_tokens)
    }

    /// The cache of keys, and of values where these have the same width.
    pub const fn kv(&self) -> KvRead {
        KvRead {
            batch: self.batch,
            context: self.context(),
            kv_heads: self.kv_heads,
            head_dim: self.head_dim,
            dtype: self.kv_dtype.dtype(),
            layout: self.layout,
            lengths: self.lengths,
        }
    }

    /// Keys that new token number `row` of a request attends to, where all are equally long.
    pub const fn attended(&self, row: u64) -> Range<u64> {
        if self.causal {
            attended(self.context(), self.new_tokens, row, self.window)
        } else {
            Range { start: 0, end: self.context() }
        }
    }

    /// Keys that any of the new tokens of a request attends to, where all are equally long.
    const fn visible(&self) -> Range<u64> {
        Range { start: self.attended(0).start, end: self.context() }
    }

    /// Keys that the new tokens of a request attend to, added up over all of them, where all
    /// requests are equally long.
    const fn all_attended(&self) -> u64 {
        if !self.causal {
            return self.new_tokens * self.context();
        }
        // Tokens whose window reaches the first key see one more from each to the next.
        let growing = match self.window {
            0 => self.new_tokens,
            window if window <= self.prefix => 0,
            window if window - self.prefix < self.new_tokens => window - self.prefix,
            _ => self.new_tokens,
        };
        // One of two neighbours is even.
        let up_to = growing * self.prefix + growing * (growing + 1) / 2;
        up_to + (self.new_tokens - growing) * self.window
    }

    /// The format that products are made in.
    pub fn math_dtype(&self) -> DType {
        math_dtype(self.q_dtype, self.kv_dtype, self.dtype)
    }

    /// Whether attention weights are rounded to 8 bits.
    pub fn has_narrow_weights(&self) -> bool {
        self.math_dtype() == DType::Fp8E4m3
    }

    /// Refuses queries that nobody would multiply with the keys.
    fn check_queries(&self) -> Result<(), ProblemError> {
        let PrefillAttention { q_dtype, kv_dtype, dtype, .. } = *self;
        let place = q_dtype.check_place(QuantPlace::Prompt);
        place.map_err(|message| ProblemError::at("q_dtype", message))?;
        let is_narrow =
            q_dtype.dtype() == DType::Fp8E4m3 && kv_dtype.dtype() == q_dtype.dtype();
        if q_dtype == Quant::plain(dtype) || is_narrow {
            return Ok(());
        }
        Err(ProblemError::at(
            "q_dtype",
            format!(
                "queries in {q_dtype} are neither in dtype = {dtype} nor in fp8_e4m3 as keys and \
                 values are; leave it out, or write q_dtype=fp8_e4m3,kv_dtype=fp8_e4m3"
            ),
        ))
    }

    /// Queries: rows of Q and of O.
    fn rows(&self) -> u64 {
        self.q_heads * self.all_new_tokens()
    }
}

impl Operation for PrefillAttention {
    fn values(&self) -> Vec<String> {
        vec![
            self.batch.to_string(),
            self.prefix.to_string(),
            self.new_tokens.to_string(),
            self.q_heads.to_string(),
            self.kv_heads.to_string(),
            self.head_dim.to_string(),
            self.causal.to_string(),
            self.dtype.to_string(),
            self.kv_dtype.to_string(),
            self.window.to_string(),
            self.v_head_dim.to_string(),
            self.layout.to_string(),
            self.lengths.to_string(),
            self.q_dtype.to_string(),
        ]
    }

    fn check(&self) -> Result<(), ProblemError> {
        check_heads(self.q_heads, self.kv_heads)?;
        check_cache(self.kv_dtype, QuantPlace::Prompt)?;
        self.check_queries()?;
        let (batch, lengths) = (self.batch, self.lengths);
        let new_tokens = lengths.least(self.new_tokens);
        Requests { batch, context: self.context(), lengths, new_tokens }.check()?;
        if self.window > 0 && !self.causal {
            return Err(ProblemError::at(
                "window",
                "a window ends at the token that looks through it; write `causal=true`",
            ));
        }
        Ok(())
    }

    fn magnitude(&self) -> Magnitude {
        let widths = (self.head_dim + self.v_head_dim) as f64;
        let heads = 2.0 * product(&[self.batch, self.q_heads]) * widths;
        let context = self.context() as f64;
        Magnitude {
            flops: heads * self.new_tokens as f64 * context,
            elements: heads * context,
        }
    }

    fn work(&self) -> Work {
        let q_bytes = self.q_dtype.matrix_bytes(self.rows(), self.head_dim);
        let o_bytes = self.dtype.bytes_of(self.rows() * self.v_head_dim);
        let widths = self.q_heads * (self.head_dim + self.v_head_dim);
        let attended = self.sum(PrefillAttention::all_attended);
        Work::NONE
            .with(Resource::Matrix(self.math_dtype()), 2 * widths * attended)
            .with_bytes(q_bytes + self.cache_bytes(), o_bytes)
    }

    fn explanation(&self) -> Explanation {
        let in_pages = self.layout != KvLayout::Contiguous;
        let is_ragged = self.lengths != Lengths::Equal;
        let is_scaled =
            self.kv_dtype.is_scaled() || self.q_dtype != Quant::plain(self.dtype);
        if self.window > 0 || !self.causal || is_scaled || in_pages || is_ragged {
            return Explanation::results(&self.work());
        }
        let PrefillAttention { batch, prefix, new_tokens: s, .. } = *self;
        let (q_heads, kv_heads) = (self.q_heads, self.kv_heads);
        let (b, b_kv) = (size(self.dtype), size(self.kv_dtype.dtype()));
        // Keys and values of one width have the literature's form.
        let (two, d, width) = if self.v_head_dim == self.head_dim {
            (["2 ", "2 * "], "d", self.head_dim.to_string())
        } else {
            (["", ""], "(d + d_v)", format!("({} + {})", self.head_dim, self.v_head_dim))
        };
        Explanation {
            flops: formula(
                &format!("{}B n_q {d} S (2 P + S + 1)", two[0]),
                format!(
                    "{}{batch} * {q_heads} * {width} * {s} * (2 * {prefix} + {s} + 1)",
                    two[1]
                ),
            ),
            bytes: formula(
                &format!("{0}B n_q S {d} b + {0}B n_kv (S + P) {d} b_kv", two[0]),
                format!(
                    "{0}{batch} * {q_heads} * {s} * {width} * {b} + {0}{batch} * {kv_heads} * \
                     ({s} + {prefix}) * {width} * {b_kv}",
                    two[1]
                ),
            ),
        }
    }

    fn tensors(&self) -> Vec<Tensor> {
        let format = TensorFormat::Values(self.dtype);
        let q_format = TensorFormat::Values(self.q_dtype.dtype());
        let kv_format = TensorFormat::Values(self.kv_dtype.dtype());
        let cached = self.batch * self.kv_heads * self.layout.allocated(self.context());
        let mut tensors = vec![
            Tensor::new("k", Role::Input, kv_format, cached * self.head_dim),
            Tensor::new("v", Role::Input, kv_format, cached * self.v_head_dim),
        ];
        tensors.extend(self.layout.page_table(self.batch, self.context()));
        tensors.extend(scale_tensors(self.kv_dtype, self.batch * self.kv_heads));
        let q_scale = self.q_dtype.scale_format();
        tensors.extend(q_scale.map(|of| Tensor::new("q_scales", Role::Input, of, 1)));
        tensors.extend([
            Tensor::new("q", Role::Input, q_format, self.rows() * self.head_dim),
            Tensor::new("o", Role::Output, format, self.rows() * self.v_head_dim),
        ]);
        tensors
    }

    fn weight_bytes(&self) -> u64 {
        0
    }

    fn cache_bytes(&self) -> u64 {
        let keys = self.sum(|request| {
            let visible = request.visible();
            visible.end - visible.start
        });
        let pages = self.sum(|request| self.layout.pages_of(&request.visible()));
        let widths = self.kv_heads * (self.head_dim + self.v_head_dim);
        4 * pages
            + self.kv_dtype.dtype().bytes_of(keys * widths)
            + 2 * self.kv_dtype.scale_bytes(self.batch * self.kv_heads, 1)
    }

    fn has_usual_data(&self) -> bool {
        true
    }

    fn routed(&self) -> Option<Routed> {
        None
    }
}

not_compared!(PrefillAttention);

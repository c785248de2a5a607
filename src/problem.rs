//! What is asked: an operation with its shape and number formats, and the
//! FLOPs and bytes that it cannot do without.
//!
//! FLOPs and bytes are counted here and nowhere else. Sweeps, verdicts,
//! figures and predictions all call [`Problem::work`]. One FLOP is one
//! multiplication or one addition, so a multiply-add is two. Bytes are
//! compulsory traffic: every input read once, every output written once.
//!
//! A problem has one spelling as text, `op:key=value,key=value`, which parses
//! back into the same problem. Suites, point ids and the command that repeats
//! a row all use it.

use std::fmt;
use std::ops::Range;
use std::str::FromStr;

use thiserror::Error;

mod mla;
mod moe;

pub use mla::{LATENTS_OF_SCALE, MlaDecode, SCORE_WIDTH};
pub use moe::{Inputs, MoeGemm, Routing};

use crate::weights;

/// Largest extent of one dimension.
pub const MAX_EXTENT: u64 = 1 << 40;
/// Largest compulsory traffic of one problem, in bytes (64 TiB).
pub const MAX_BYTES: u64 = 1 << 46;
/// Largest FLOP count of one problem.
pub const MAX_FLOPS: u64 = 1 << 62;

/// Largest batch of requests of several lengths.
pub const MAX_RAGGED: u64 = 1 << 20;
/// Most new tokens of a request that count as decoding.
pub const MAX_NEW_TOKENS: u64 = 64;
/// Widths of DeepSeek's latent attention, the defaults of [`MlaDecode`].
const LATENT_DIM: u64 = 512;
const ROPE_DIM: u64 = 64;

/// A number format of tensor elements.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum DType {
    /// IEEE 754 binary32.
    F32,
    /// bfloat16: 8 exponent bits, 7 fraction bits.
    Bf16,
    /// IEEE 754 binary16.
    F16,
    /// OCP FP8 E4M3: 4 exponent bits, 3 fraction bits, no infinity.
    Fp8E4m3,
    /// Signed 8-bit integer.
    Int8,
    /// Signed 4-bit integer, two to a byte: weights only.
    Int4,
}

impl DType {
    /// Every format, in the order in which tables list them.
    pub const ALL: [DType; 6] =
        [DType::F32, DType::Bf16, DType::F16, DType::Fp8E4m3, DType::Int8, DType::Int4];

    /// Size of one element in bits.
    pub const fn bits(self) -> u64 {
        match self {
            DType::F32 => 32,
            DType::Bf16 | DType::F16 => 16,
            DType::Fp8E4m3 | DType::Int8 => 8,
            DType::Int4 => 4,
        }
    }

    /// Size of so many elements in bytes.
    pub const fn bytes_of(self, elements: u64) -> u64 {
        (elements * self.bits()).div_ceil(8)
    }

    /// Size of one element in bytes; a byte where two share one.
    pub const fn bytes(self) -> u64 {
        self.bytes_of(1)
    }

    /// Whether numbers of this format mean something only times a scale that is kept
    /// beside them.
    pub const fn is_scaled(self) -> bool {
        matches!(self, DType::Fp8E4m3 | DType::Int8 | DType::Int4)
    }

    /// The spelling used in suites, ids and CSV files.
    pub const fn name(self) -> &'static str {
        match self {
            DType::F32 => "f32",
            DType::Bf16 => "bf16",
            DType::F16 => "f16",
            DType::Fp8E4m3 => "fp8_e4m3",
            DType::Int8 => "int8",
            DType::Int4 => "int4",
        }
    }
}

/// Which way a stream goes through memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Access {
    /// Read every byte once.
    Read,
    /// Write every byte once.
    Write,
    /// Read one half of the bytes and write them to the other half.
    Copy,
    /// `a = b + s c` over three arrays of f32, a third of the bytes each: STREAM's
    /// triad (McCalpin 1995), two bytes read for each that is written.
    Triad,
}

impl Access {
    /// Every access, in the order in which tables list them.
    pub const ALL: [Access; 4] = [Access::Read, Access::Write, Access::Copy, Access::Triad];

    /// The spelling used in suites, ids and CSV files.
    pub const fn name(self) -> &'static str {
        match self {
            Access::Read => "read",
            Access::Write => "write",
            Access::Copy => "copy",
            Access::Triad => "triad",
        }
    }
}

/// Which arithmetic unit a problem keeps busy.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Unit {
    /// Multiply-adds on the ordinary vector units.
    Fma,
    /// Matrix multiply-accumulates on tensor cores or their like.
    Tensor,
}

impl Unit {
    /// Every unit, in the order in which tables list them.
    pub const ALL: [Unit; 2] = [Unit::Fma, Unit::Tensor];

    /// The spelling used in suites, ids and CSV files.
    pub const fn name(self) -> &'static str {
        match self {
            Unit::Fma => "fma",
            Unit::Tensor => "tensor",
        }
    }
}

/// How keys and values lie in memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Layout {
    /// `[batch][kv head][token][dim]`.
    Contiguous,
    /// Pages found through a table `[batch][page of the request]` of 32-bit page
    /// numbers, shuffled.
    Paged {
        /// Tokens in one page.
        page_size: u64,
        /// How a page is laid out.
        order: PageOrder,
    },
}

/// How keys, or values, lie within a page.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum PageOrder {
    /// HND, `[page][kv head][token in page][dim]`: a head's tokens lie side by side.
    HeadFirst,
    /// NHD, `[page][token in page][kv head][dim]`: a token's heads lie side by side.
    TokenFirst,
}

/// How many tokens the requests of a batch have cached.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Lengths {
    /// All have `context`.
    Equal,
    /// From an eighth of `context` to all of it, evenly spread and in no order: the
    /// multiples of the golden ratio. The same for every seed, since FLOPs and bytes
    /// depend on them.
    Ragged,
}

impl Lengths {
    /// Both, in the order in which tables list them.
    pub const ALL: [Lengths; 2] = [Lengths::Equal, Lengths::Ragged];

    /// The spelling used in suites, ids and CSV files.
    pub const fn name(self) -> &'static str {
        match self {
            Lengths::Equal => "equal",
            Lengths::Ragged => "ragged",
        }
    }

    /// Fewest tokens of a request.
    pub const fn least(self, context: u64) -> u64 {
        match self {
            Lengths::Equal => context,
            Lengths::Ragged => context.div_ceil(8),
        }
    }

    /// Tokens of a request.
    pub const fn of(self, request: u64, context: u64) -> u64 {
        let least = self.least(context);
        // The fraction of request times golden ratio, in 64 bits behind the point.
        let fraction = (request + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15) as u128;
        least + ((fraction * (context - least + 1) as u128) >> 64) as u64
    }

    /// The sum over all requests of a batch of what depends on a request's tokens.
    fn sum(self, batch: u64, context: u64, of: impl Fn(u64) -> u64) -> u64 {
        match self {
            Lengths::Equal => batch * of(context),
            Lengths::Ragged => {
                (0..batch).map(|request| of(self.of(request, context))).sum()
            }
        }
    }
}

impl Layout {
    /// Number of pages that `batch` requests of `context` tokens occupy; zero
    /// when contiguous.
    pub fn pages(self, batch: u64, context: u64) -> u64 {
        match self {
            Layout::Contiguous => 0,
            Layout::Paged { page_size, .. } => batch * context.div_ceil(page_size),
        }
    }

    /// Whether pages have a token's heads side by side.
    pub const fn is_token_first(self) -> bool {
        matches!(self, Layout::Paged { order: PageOrder::TokenFirst, .. })
    }
}

impl fmt::Display for Layout {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Layout::Contiguous => f.write_str("contiguous"),
            Layout::Paged { page_size, order } => {
                let order = match order {
                    PageOrder::HeadFirst => "",
                    PageOrder::TokenFirst => "_nhd",
                };
                write!(f, "paged{page_size}{order}")
            }
        }
    }
}

impl FromStr for Layout {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if text == "contiguous" {
            return Ok(Layout::Contiguous);
        }
        let (paged, order) = match text.strip_suffix("_nhd") {
            Some(paged) => (paged, PageOrder::TokenFirst),
            None => (text, PageOrder::HeadFirst),
        };
        paged
            .strip_prefix("paged")
            .and_then(|n| n.parse().ok())
            .map(|page_size| Layout::Paged { page_size, order })
            .ok_or_else(|| {
                format!(
                    "`{text}` is no layout; write `contiguous`, `paged16`, or `paged16_nhd` for \
                     pages with the token before the head"
                )
            })
    }
}

macro_rules! text_of_name {
    ($($type:ty => $what:literal),* $(,)?) => {$(
        impl fmt::Display for $type {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.pad(self.name())
            }
        }

        impl FromStr for $type {
            type Err = String;

            fn from_str(text: &str) -> Result<Self, String> {
                <$type>::ALL.into_iter().find(|x| x.name() == text).ok_or_else(|| {
                    let known: Vec<_> = <$type>::ALL.iter().map(|x| x.name()).collect();
                    format!("`{text}` is no {}; one of {}", $what, known.join(", "))
                })
            }
        }
    )*};
}

text_of_name!(
    DType => "dtype", Access => "access", Unit => "unit", Op => "op",
    Lengths => "distribution of lengths", Routing => "routing", Inputs => "kind of inputs",
);

/// The operations, one for each variant of [`Problem`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Op {
    /// See [`Stream`].
    Stream,
    /// See [`Peak`].
    Peak,
    /// See [`KvRead`].
    KvRead,
    /// See [`KvAppend`].
    KvAppend,
    /// See [`Gemm`].
    Gemm,
    /// See [`MoeGemm`].
    MoeGemm,
    /// See [`DecodeAttention`].
    DecodeAttention,
    /// See [`MlaDecode`].
    MlaDecode,
    /// See [`PrefillAttention`].
    PrefillAttention,
}

impl Op {
    /// Every operation, in the order in which tables list them.
    pub const ALL: [Op; 9] = [
        Op::Stream,
        Op::Peak,
        Op::KvRead,
        Op::KvAppend,
        Op::Gemm,
        Op::MoeGemm,
        Op::DecodeAttention,
        Op::MlaDecode,
        Op::PrefillAttention,
    ];

    /// The spelling used in suites, ids and CSV files.
    pub const fn name(self) -> &'static str {
        match self {
            Op::Stream => "stream",
            Op::Peak => "peak",
            Op::KvRead => "kv_read",
            Op::KvAppend => "kv_append",
            Op::Gemm => "gemm",
            Op::MoeGemm => "moe_gemm",
            Op::DecodeAttention => "decode_attention",
            Op::MlaDecode => "mla_decode",
            Op::PrefillAttention => "prefill_attention",
        }
    }

    /// Keys that a problem of this operation is written with.
    pub const fn keys(self) -> &'static [&'static str] {
        match self {
            Op::Stream => &["access", "bytes"],
            Op::Peak => &["unit", "dtype", "lanes", "steps"],
            Op::KvRead => {
                &["batch", "context", "kv_heads", "head_dim", "dtype", "layout", "lengths"]
            }
            Op::KvAppend => &[
                "batch",
                "context",
                "new_tokens",
                "kv_heads",
                "head_dim",
                "dtype",
                "kv_dtype",
                "layout",
                "lengths",
            ],
            Op::Gemm => &["m", "n", "k", "dtype", "w_dtype"],
            Op::MoeGemm => &[
                "tokens",
                "experts",
                "top_k",
                "n",
                "k",
                "dtype",
                "w_dtype",
                "routing",
                "routing_seed",
                "inputs",
            ],
            Op::DecodeAttention => &[
                "batch",
                "context",
                "q_heads",
                "kv_heads",
                "head_dim",
                "dtype",
                "kv_dtype",
                "layout",
                "lengths",
                "new_tokens",
                "window",
            ],
            Op::MlaDecode => &[
                "batch",
                "context",
                "q_heads",
                "latent_dim",
                "rope_dim",
                "dtype",
                "kv_dtype",
                "layout",
                "lengths",
                "new_tokens",
            ],
            Op::PrefillAttention => &[
                "batch",
                "prefix",
                "new_tokens",
                "q_heads",
                "kv_heads",
                "head_dim",
                "causal",
                "dtype",
                "kv_dtype",
                "window",
            ],
        }
    }
}

/// Every key that any problem is written with, in the order of CSV columns.
pub const SHAPE_KEYS: [&str; 30] = [
    "access",
    "bytes",
    "unit",
    "lanes",
    "steps",
    "m",
    "n",
    "k",
    "tokens",
    "experts",
    "top_k",
    "routing",
    "routing_seed",
    "inputs",
    "batch",
    "context",
    "prefix",
    "new_tokens",
    "q_heads",
    "kv_heads",
    "head_dim",
    "latent_dim",
    "rope_dim",
    "causal",
    "layout",
    "lengths",
    "window",
    "dtype",
    "kv_dtype",
    "w_dtype",
];

/// Stream through `bytes` of memory: the bandwidth ceilings.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Stream {
    /// Which way.
    pub access: Access,
    /// Distinct bytes touched; a copy reads one half and writes the other, a
    /// triad reads two thirds and writes the third.
    pub bytes: u64,
}

impl Stream {
    /// What `bytes` must be a multiple of: every array is whole 128-byte lines.
    const fn line_bytes(self) -> u64 {
        match self.access {
            Access::Read | Access::Write | Access::Copy => 128,
            Access::Triad => 3 * 128,
        }
    }

    /// A multiplication and an addition for each element of a triad.
    const fn flops(self) -> u64 {
        match self.access {
            Access::Read | Access::Write | Access::Copy => 0,
            Access::Triad => 2 * (self.bytes / 3 / DType::F32.bytes()),
        }
    }
}

/// Arithmetic out of registers: the compute ceilings. Each of `lanes` values
/// goes through `steps` dependent multiply-adds.
///
/// With [`Unit::Fma`] a lane is one number and a step is `x = x * a + b`. With
/// [`Unit::Tensor`] a lane is a 16 x 8 accumulator tile and a step adds the
/// product of a 16 x 16 and a 16 x 8 tile, 4096 FLOPs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Peak {
    /// Which unit.
    pub unit: Unit,
    /// Format of the operands.
    pub dtype: DType,
    /// Independent chains.
    pub lanes: u64,
    /// Multiply-adds in each chain.
    pub steps: u64,
}

/// Read the keys and values of a cache and do nothing with them: the bytes of
/// decode attention without its arithmetic.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct KvRead {
    /// Requests.
    pub batch: u64,
    /// Most tokens that a request has cached.
    pub context: u64,
    /// Key and value heads.
    pub kv_heads: u64,
    /// Width of a head.
    pub head_dim: u64,
    /// Format of keys and values.
    pub dtype: DType,
    /// How they lie in memory.
    pub layout: Layout,
    /// How many tokens the requests have cached.
    pub lengths: Lengths,
}

impl KvRead {
    /// Cached tokens of a request.
    pub const fn length(&self, request: u64) -> u64 {
        self.lengths.of(request, self.context)
    }
}

/// Append the keys and values of new tokens to the pages of a cache, in the format of
/// the cache. New keys and values are `[batch][token][kv head][dim]`, and `context`
/// counts the new tokens.
///
/// The cache is one array, pages of keys and then pages of values, and holds for each
/// request [`KvAppend::pages`] pages, those that new tokens fall into: no other is
/// touched. To a format that [is scaled](DType::is_scaled) a number `x` goes as
/// `x * inverse_scale` of its request and head, rounded to nearest even, at most the
/// largest number of the format.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct KvAppend {
    /// Requests.
    pub batch: u64,
    /// Most tokens that a request has cached in the end.
    pub context: u64,
    /// New tokens of each request.
    pub new_tokens: u64,
    /// Key and value heads.
    pub kv_heads: u64,
    /// Width of a head.
    pub head_dim: u64,
    /// Format of the new keys and values.
    pub dtype: DType,
    /// Format of the cache.
    pub kv_dtype: DType,
    /// How the cache lies in memory; paged.
    pub layout: Layout,
    /// How many tokens the requests have cached.
    pub lengths: Lengths,
}

impl KvAppend {
    /// Tokens in one page.
    pub const fn page_size(&self) -> u64 {
        match self.layout {
            Layout::Contiguous => self.context,
            Layout::Paged { page_size, .. } => page_size,
        }
    }

    /// Pages that the array of the cache has for each request: as many as new tokens
    /// fall into where they begin at the end of a page.
    pub const fn pages(&self) -> u64 {
        (self.page_size() - 1 + self.new_tokens).div_ceil(self.page_size())
    }

    /// Place of a request's first new token in its first page here.
    pub const fn first_place(&self, request: u64) -> u64 {
        (self.lengths.of(request, self.context) - self.new_tokens) % self.page_size()
    }

    /// Numbers of new keys, or of new values.
    const fn elements(&self) -> u64 {
        self.batch * self.new_tokens * self.kv_heads * self.head_dim
    }
}

/// `C[m][n] = A[m][k] * B[n][k]^T`: activations times weights, both with `k`
/// innermost, as in a linear layer. With small `m` it is decode's projection.
///
/// Weights in a format that [is scaled](DType::is_scaled) are numbers times scales: in 8
/// bits one for each output feature, `[n]` in f32, in int4 one for each
/// [`weights::GROUP_COLUMNS`] columns, `[k / 128][n]` in f16. Weights of int4 are shuffled,
/// see [`weights`]. Products are summed in f32 whatever the formats.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Gemm {
    /// Rows of activations (tokens).
    pub m: u64,
    /// Output features.
    pub n: u64,
    /// Input features.
    pub k: u64,
    /// Format of A and C.
    pub dtype: DType,
    /// Format of B.
    pub w_dtype: DType,
}

/// The new tokens of each request, one or (with speculative decoding) a few, attend to
/// its cached tokens, the new ones among them: each to those up to itself, and where
/// there is a window only to the last so many of these.
///
/// Q and O are `[batch][new token][q head][dim]`. Keys and values in a format that
/// [is scaled](DType::is_scaled) have a scale for each request and key and value head.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct DecodeAttention {
    /// Requests.
    pub batch: u64,
    /// Most tokens that a request has cached.
    pub context: u64,
    /// Query heads.
    pub q_heads: u64,
    /// Key and value heads; divides `q_heads`.
    pub kv_heads: u64,
    /// Width of a head.
    pub head_dim: u64,
    /// Format of queries and outputs.
    pub dtype: DType,
    /// Format of keys and values.
    pub kv_dtype: DType,
    /// How keys and values lie in memory.
    pub layout: Layout,
    /// How many tokens the requests have cached.
    pub lengths: Lengths,
    /// Queries of each request and head.
    pub new_tokens: u64,
    /// Tokens that a query sees at most, the last ones; 0 for all.
    pub window: u64,
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
            dtype: self.kv_dtype,
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

    /// Numbers of the queries, or of the outputs.
    const fn elements(&self) -> u64 {
        self.batch * self.new_tokens * self.q_heads * self.head_dim
    }
}

/// `new_tokens` tokens of each request attend to `prefix` cached tokens and to
/// each other. Q and O are `[batch][q head][token][dim]`, K and V are
/// `[batch][kv head][prefix and new tokens][dim]`.
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
    /// Key and value heads; divides `q_heads`.
    pub kv_heads: u64,
    /// Width of a head.
    pub head_dim: u64,
    /// Whether a token sees only the tokens up to itself.
    pub causal: bool,
    /// Format of queries and outputs.
    pub dtype: DType,
    /// Format of keys and values.
    pub kv_dtype: DType,
    /// Tokens that a token sees at most, the last ones up to itself; 0 for all.
    pub window: u64,
}

impl PrefillAttention {
    /// Query heads that share one key and value head.
    pub const fn group(&self) -> u64 {
        self.q_heads / self.kv_heads
    }

    /// Keys of each request and head.
    pub const fn context(&self) -> u64 {
        self.prefix + self.new_tokens
    }

    /// Keys that new token number `row` attends to.
    pub const fn attended(&self, row: u64) -> Range<u64> {
        if self.causal {
            attended(self.context(), self.new_tokens, row, self.window)
        } else {
            Range { start: 0, end: self.context() }
        }
    }

    /// Keys that any of the new tokens attends to.
    const fn visible(&self) -> u64 {
        self.context() - self.attended(0).start
    }

    /// Keys that new tokens attend to, added up over all of them.
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
}

/// What is asked of a device.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Problem {
    /// See [`Stream`].
    Stream(Stream),
    /// See [`Peak`].
    Peak(Peak),
    /// See [`KvRead`].
    KvRead(KvRead),
    /// See [`KvAppend`].
    KvAppend(KvAppend),
    /// See [`Gemm`].
    Gemm(Gemm),
    /// See [`MoeGemm`].
    MoeGemm(MoeGemm),
    /// See [`DecodeAttention`].
    DecodeAttention(DecodeAttention),
    /// See [`MlaDecode`].
    MlaDecode(MlaDecode),
    /// See [`PrefillAttention`].
    PrefillAttention(PrefillAttention),
}

/// FLOPs by unit, and compulsory bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Work {
    /// FLOPs of matrix products, which tensor cores can do.
    pub matrix_flops: u64,
    /// FLOPs that only the vector units can do.
    pub vector_flops: u64,
    /// Bytes that must be read.
    pub bytes_read: u64,
    /// Bytes that must be written.
    pub bytes_written: u64,
}

impl Work {
    /// All FLOPs.
    pub const fn flops(&self) -> u64 {
        self.matrix_flops + self.vector_flops
    }

    /// All bytes.
    pub const fn bytes(&self) -> u64 {
        self.bytes_read + self.bytes_written
    }

    /// Operational intensity in FLOPs per byte.
    pub fn operational_intensity(&self) -> f64 {
        self.flops() as f64 / self.bytes() as f64
    }
}

/// What a tensor's elements are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// Numbers of a format.
    Values(DType),
    /// Raw 32-bit words.
    Words,
    /// A shuffled table of 32-bit page numbers, each used once.
    PageTable,
    /// Scales of numbers in a format, f32: as large as numbers of the format times them
    /// are about 1.
    Scales(DType),
    /// One over such scales.
    InverseScales(DType),
    /// Such scales in f16.
    HalfScales(DType),
    /// Records of so many latents in fp8_e4m3, with their scales and so many numbers in
    /// bf16: see [`MlaDecode`].
    LatentRecords {
        /// Latents of a record.
        latent_dim: u64,
        /// Other numbers of a record.
        rope_dim: u64,
    },
}

impl Format {
    /// Size of so many elements in bytes.
    pub const fn bytes_of(self, elements: u64) -> u64 {
        match self {
            Format::Values(dtype) => dtype.bytes_of(elements),
            Format::HalfScales(_) => 2 * elements,
            Format::Words
            | Format::PageTable
            | Format::Scales(_)
            | Format::InverseScales(_) => 4 * elements,
            Format::LatentRecords { latent_dim, rope_dim } => {
                elements * (latent_dim + 4 * (latent_dim / LATENTS_OF_SCALE) + 2 * rope_dim)
            }
        }
    }

    /// Size of one element in bytes.
    pub const fn bytes(self) -> u64 {
        self.bytes_of(1)
    }
}

/// What a tensor is there for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// Read; part of the compulsory bytes.
    Input,
    /// Written; part of the compulsory bytes.
    Output,
    /// Written in part, which is part of the compulsory bytes; the rest stays.
    Update,
    /// Proof that the inputs were read: a checksum, not counted as traffic.
    Witness,
}

/// One array that a problem reads or writes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Tensor {
    /// Name in messages.
    pub name: &'static str,
    /// What it is there for.
    pub role: Role,
    /// What its elements are.
    pub format: Format,
    /// How many elements.
    pub elements: u64,
}

impl Tensor {
    const fn new(name: &'static str, role: Role, format: Format, elements: u64) -> Self {
        Tensor { name, role, format, elements }
    }

    /// Size in bytes.
    pub const fn bytes(&self) -> u64 {
        self.format.bytes_of(self.elements)
    }
}

/// Why a problem cannot be asked.
#[derive(Debug, Error, Clone, PartialEq, Eq)]
#[error("{message}")]
pub struct ProblemError {
    /// The key to change, where there is one.
    pub key: Option<String>,
    /// What is wrong and what to write.
    pub message: String,
}

impl ProblemError {
    fn at(key: &str, message: impl Into<String>) -> Self {
        ProblemError { key: Some(key.to_owned()), message: message.into() }
    }
}

impl Problem {
    /// The operation.
    pub const fn op(&self) -> Op {
        match self {
            Problem::Stream(_) => Op::Stream,
            Problem::Peak(_) => Op::Peak,
            Problem::KvRead(_) => Op::KvRead,
            Problem::KvAppend(_) => Op::KvAppend,
            Problem::Gemm(_) => Op::Gemm,
            Problem::MoeGemm(_) => Op::MoeGemm,
            Problem::DecodeAttention(_) => Op::DecodeAttention,
            Problem::MlaDecode(_) => Op::MlaDecode,
            Problem::PrefillAttention(_) => Op::PrefillAttention,
        }
    }

    /// FLOPs and compulsory bytes, from the shape alone.
    ///
    /// * stream: the bytes; a triad has 2 FLOPs for 12 of them.
    /// * gemm: `2 m n k`; `b (m k + m n) + b_w n k`, and the scales of weights: `4 n`
    ///   for 8 bits, `2 n k / 128` for int4.
    /// * moe_gemm: `2 T top_k n k`; the weights and scales of each expert that any token
    ///   has chosen, X `b T k` (times `top_k` where experts have inputs of their own) and
    ///   Y `b T top_k n`.
    /// * mla decode: `2 B h s (2 d_c + d_r)`; Q `B h (d_c + d_r) b`, O `B h d_c b`, and
    ///   the cache `B s (d_c + d_r) b_kv`, or 656 bytes for each record of fp8.
    /// * decode attention: `4 B n_q d s`; Q and O `2 B n_q d b`, K and V
    ///   `2 B n_kv d s b_kv`. With several new tokens, a window or requests of
    ///   several lengths the sums over the tokens that queries attend to, and over
    ///   those that any query of a request attends to. Scales, where there are any,
    ///   `8 B n_kv`.
    /// * prefill attention: `4 B n_q d` times the attended keys summed over
    ///   rows, which is `2 B n_q d S (2 P + S + 1)` when causal; Q and O
    ///   `2 B n_q S d b`, K and V `2 B n_kv (S + P) d b_kv`. In a window only the keys
    ///   that some row attends to.
    /// * kv_read: the K and V bytes of decode attention.
    /// * kv_append: `2 B n n_kv d (b + b_kv)`, and the scales.
    /// * paged layouts add 4 bytes for each entry of the page table that is needed.
    ///
    /// Formulas as in NVIDIA aiconfigurator, with the causal sum exact; the
    /// softmax is not counted. See METHODOLOGY.md.
    pub fn work(&self) -> Work {
        match *self {
            Problem::Stream(p) => {
                let bytes_written = match p.access {
                    Access::Read => 0,
                    Access::Write => p.bytes,
                    Access::Copy => p.bytes / 2,
                    Access::Triad => p.bytes / 3,
                };
                Work {
                    vector_flops: p.flops(),
                    bytes_read: p.bytes - bytes_written,
                    bytes_written,
                    ..Work::default()
                }
            }
            Problem::Peak(p) => peak_work(p),
            Problem::KvRead(_) => {
                Work { bytes_read: self.cache_bytes(), ..Work::default() }
            }
            Problem::KvAppend(p) => append_work(&p),
            Problem::Gemm(Gemm { m, n, k, dtype, w_dtype }) => Work {
                matrix_flops: 2 * m * n * k,
                bytes_read: dtype.bytes_of(m * k) + weights_bytes(w_dtype, n, k),
                bytes_written: dtype.bytes_of(m * n),
                ..Work::default()
            },
            Problem::MoeGemm(p) => p.work(),
            Problem::DecodeAttention(p) => decode_work(&p, self.cache_bytes()),
            Problem::MlaDecode(p) => p.work(),
            Problem::PrefillAttention(p) => {
                let rows = p.batch * p.q_heads * p.head_dim;
                let q_bytes = rows * p.new_tokens * p.dtype.bytes();
                Work {
                    matrix_flops: 4 * rows * p.all_attended(),
                    bytes_read: q_bytes + self.cache_bytes(),
                    bytes_written: q_bytes,
                    ..Work::default()
                }
            }
        }
    }

    /// The same problem, if it can be asked.
    ///
    /// # Errors
    /// As of [`Problem::from_fields`], but for what only text can get wrong.
    pub fn checked(self) -> Result<Self, ProblemError> {
        self.check_shape()?;
        self.check_size()?;
        Ok(self)
    }

    /// Bytes of [`Problem::work`] that are weights, and their scales.
    pub fn weight_bytes(&self) -> u64 {
        match self {
            Problem::Gemm(p) => weights_bytes(p.w_dtype, p.n, p.k),
            Problem::MoeGemm(p) => p.expert_bytes() * p.experts_touched(),
            _ => 0,
        }
    }

    /// Bytes of [`Problem::work`] that are a cache of keys and values, with the page
    /// numbers and scales that go with it.
    pub fn cache_bytes(&self) -> u64 {
        match self {
            Problem::KvRead(p) => kv_bytes(p, |length| 0..length),
            Problem::DecodeAttention(p) => {
                scale_bytes(p.kv_dtype, p.batch * p.kv_heads)
                    + kv_bytes(&p.kv(), |length| p.visible(length))
            }
            Problem::MlaDecode(p) => p.cache_bytes(),
            Problem::PrefillAttention(p) => {
                p.kv_dtype.bytes_of(2 * p.batch * p.kv_heads * p.visible() * p.head_dim)
            }
            Problem::Stream(_)
            | Problem::Peak(_)
            | Problem::KvAppend(_)
            | Problem::Gemm(_)
            | Problem::MoeGemm(_) => 0,
        }
    }

    /// The layer of routed experts, if the problem is one: what it reads depends on who
    /// chose whom, so the model has a bound and an expectation for it too.
    pub const fn routed(&self) -> Option<&MoeGemm> {
        match self {
            Problem::MoeGemm(p) => Some(p),
            _ => None,
        }
    }

    /// The format whose compute ceiling binds, if the problem computes.
    pub const fn math_dtype(&self) -> Option<DType> {
        match self {
            Problem::Stream(Stream { access: Access::Triad, .. }) => Some(DType::F32),
            Problem::Stream(_) | Problem::KvRead(_) | Problem::KvAppend(_) => None,
            Problem::Peak(p) => Some(p.dtype),
            Problem::Gemm(p) => Some(p.dtype),
            Problem::MoeGemm(p) => Some(p.dtype),
            Problem::DecodeAttention(p) => Some(p.dtype),
            Problem::MlaDecode(p) => Some(p.dtype),
            Problem::PrefillAttention(p) => Some(p.dtype),
        }
    }

    /// The arrays of one instance, in a fixed order: devices lay them out,
    /// and the reference regenerates them, by position in this list.
    pub fn tensors(&self) -> Vec<Tensor> {
        use Role::{Input, Output, Witness};
        match *self {
            Problem::Stream(Stream { access, bytes }) => {
                let words = bytes / 4;
                match access {
                    Access::Read => vec![
                        Tensor::new("source", Input, Format::Words, words),
                        Tensor::new("checksum", Witness, Format::Words, 1),
                    ],
                    Access::Write => {
                        vec![Tensor::new("target", Output, Format::Words, words)]
                    }
                    Access::Copy => vec![
                        Tensor::new("source", Input, Format::Words, words / 2),
                        Tensor::new("target", Output, Format::Words, words / 2),
                    ],
                    Access::Triad => {
                        let format = Format::Values(DType::F32);
                        vec![
                            Tensor::new("b", Input, format, words / 3),
                            Tensor::new("c", Input, format, words / 3),
                            Tensor::new("a", Output, format, words / 3),
                        ]
                    }
                }
            }
            Problem::Peak(p) => {
                let elements = p.lanes * lane_elements(p.unit);
                vec![
                    Tensor::new("start", Input, Format::Values(DType::F32), elements),
                    Tensor::new("end", Output, Format::Values(DType::F32), elements),
                ]
            }
            Problem::KvRead(p) => {
                let mut tensors = kv_tensors(&p);
                tensors.push(Tensor::new(
                    "checksums",
                    Witness,
                    Format::Words,
                    p.batch * p.kv_heads,
                ));
                tensors
            }
            Problem::KvAppend(p) => append_tensors(&p),
            Problem::Gemm(Gemm { m, n, k, dtype, w_dtype }) => {
                let format = Format::Values(dtype);
                let mut tensors = vec![
                    Tensor::new("a", Input, format, m * k),
                    Tensor::new("b", Input, Format::Values(w_dtype), n * k),
                ];
                tensors.extend(weight_scales("b_scales", w_dtype, 1, n, k));
                tensors.push(Tensor::new("c", Output, format, m * n));
                tensors
            }
            Problem::MoeGemm(p) => p.tensors(),
            Problem::MlaDecode(p) => p.tensors(),
            Problem::DecodeAttention(p) => {
                let format = Format::Values(p.dtype);
                let mut tensors = kv_tensors(&p.kv());
                if p.kv_dtype.is_scaled() {
                    let (scales, count) =
                        (Format::Scales(p.kv_dtype), p.batch * p.kv_heads);
                    tensors.push(Tensor::new("k_scales", Input, scales, count));
                    tensors.push(Tensor::new("v_scales", Input, scales, count));
                }
                tensors.push(Tensor::new("q", Input, format, p.elements()));
                tensors.push(Tensor::new("o", Output, format, p.elements()));
                tensors
            }
            Problem::PrefillAttention(p) => {
                let format = Format::Values(p.dtype);
                let kv_format = Format::Values(p.kv_dtype);
                let rows = p.batch * p.q_heads * p.new_tokens * p.head_dim;
                let kv = p.batch * p.kv_heads * p.context() * p.head_dim;
                vec![
                    Tensor::new("k", Input, kv_format, kv),
                    Tensor::new("v", Input, kv_format, kv),
                    Tensor::new("q", Input, format, rows),
                    Tensor::new("o", Output, format, rows),
                ]
            }
        }
    }

    /// The keys and values that spell this problem, in the order of
    /// [`Op::keys`]. Of the keys that came later than the first campaigns, those with
    /// their default are left out, so that a point keeps its name.
    pub fn fields(&self) -> Vec<(&'static str, String)> {
        macro_rules! spell {
            ($p:ident: $($field:ident)*) => {
                vec![$((stringify!($field), $p.$field.to_string())),*]
            };
        }
        let mut fields = match self {
            Problem::Stream(p) => spell!(p: access bytes),
            Problem::Peak(p) => spell!(p: unit dtype lanes steps),
            Problem::KvRead(p) => {
                spell!(p: batch context kv_heads head_dim dtype layout lengths)
            }
            Problem::KvAppend(p) => {
                spell!(p: batch context new_tokens kv_heads head_dim dtype kv_dtype layout lengths)
            }
            Problem::Gemm(p) => spell!(p: m n k dtype w_dtype),
            Problem::MoeGemm(p) => {
                spell!(p: tokens experts top_k n k dtype w_dtype routing routing_seed inputs)
            }
            Problem::MlaDecode(p) => {
                spell!(p: batch context q_heads latent_dim rope_dim dtype kv_dtype layout
                          lengths new_tokens)
            }
            Problem::DecodeAttention(p) => {
                spell!(p: batch context q_heads kv_heads head_dim dtype kv_dtype layout
                          lengths new_tokens window)
            }
            Problem::PrefillAttention(p) => {
                spell!(p: batch prefix new_tokens q_heads kv_heads head_dim causal dtype kv_dtype
                          window)
            }
        };
        let op = self.op();
        let dtype = value_of(&fields, "dtype");
        fields.retain(|(key, value)| {
            !is_silent_default(op, key, value)
                && (*key != "w_dtype" || Some(value) != dtype.as_ref())
        });
        fields
    }

    /// The fields on one line for people, without those that have their
    /// default and with sizes in MiB.
    pub fn label(&self) -> String {
        let fields = self.fields();
        let dtype = value_of(&fields, "dtype");
        let mut label = self.op().to_string();
        for (key, value) in fields {
            let is_default = match key {
                "layout" => value == "contiguous",
                "kv_dtype" => Some(&value) == dtype.as_ref(),
                "prefix" => value == "0",
                "causal" => value == "true",
                _ => false,
            };
            match value.parse::<f64>() {
                _ if is_default => {}
                Ok(bytes) if key == "bytes" => {
                    label.push_str(&format!(" {} MiB", bytes / f64::from(1 << 20)));
                }
                Err(_)
                    if matches!(
                        key,
                        "access" | "unit" | "dtype" | "layout" | "routing"
                    ) =>
                {
                    label.push_str(&format!(" {value}"));
                }
                _ => label.push_str(&format!(" {key}={value}")),
            }
        }
        label
    }

    /// Builds a problem from its operation and `key = value` fields.
    ///
    /// `layout`, `kv_dtype`, `prefix`, `causal`, `lengths` and `window` may be left out;
    /// they are then `contiguous`, the `dtype`, 0, `true`, `equal` and 0. So may be
    /// `new_tokens`, but for prefill attention; it is then 1. So may be `w_dtype`,
    /// `routing_seed`, `inputs`, `latent_dim` and `rope_dim`; they are then the `dtype`,
    /// 0, `per_token`, 512 and 64.
    ///
    /// # Errors
    /// An unknown, missing or doubled key, a value that does not parse, a zero
    /// or huge dimension, an impossible shape.
    pub fn from_fields(op: Op, fields: &[(String, String)]) -> Result<Self, ProblemError> {
        let f = FieldReader::new(op, fields)?;
        let problem = match op {
            Op::Stream => Problem::Stream(Stream {
                access: f.parse("access")?,
                bytes: f.size("bytes")?,
            }),
            Op::Peak => Problem::Peak(Peak {
                unit: f.parse("unit")?,
                dtype: f.number_format("dtype")?,
                lanes: f.extent("lanes")?,
                steps: f.extent("steps")?,
            }),
            Op::KvRead => Problem::KvRead(KvRead {
                batch: f.extent("batch")?,
                context: f.extent("context")?,
                kv_heads: f.extent("kv_heads")?,
                head_dim: f.extent("head_dim")?,
                dtype: f.number_format("dtype")?,
                layout: f.layout()?,
                lengths: f.lengths()?,
            }),
            Op::KvAppend => Problem::KvAppend(KvAppend {
                batch: f.extent("batch")?,
                context: f.extent("context")?,
                new_tokens: f.extent_or("new_tokens", 1)?,
                kv_heads: f.extent("kv_heads")?,
                head_dim: f.extent("head_dim")?,
                dtype: f.number_format("dtype")?,
                kv_dtype: f.number_format("kv_dtype")?,
                layout: f.layout()?,
                lengths: f.lengths()?,
            }),
            Op::Gemm => Problem::Gemm(Gemm {
                m: f.extent("m")?,
                n: f.extent("n")?,
                k: f.extent("k")?,
                dtype: f.number_format("dtype")?,
                w_dtype: f.parse_or_other("w_dtype", "dtype")?,
            }),
            Op::MoeGemm => Problem::MoeGemm(MoeGemm {
                tokens: f.extent("tokens")?,
                experts: f.extent("experts")?,
                top_k: f.extent("top_k")?,
                n: f.extent("n")?,
                k: f.extent("k")?,
                dtype: f.number_format("dtype")?,
                w_dtype: f.parse_or_other("w_dtype", "dtype")?,
                routing: f.parse("routing")?,
                routing_seed: f.extent_or_zero("routing_seed")?,
                inputs: f.parse_or("inputs", Inputs::PerToken)?,
            }),
            Op::MlaDecode => Problem::MlaDecode(MlaDecode {
                batch: f.extent("batch")?,
                context: f.extent("context")?,
                q_heads: f.extent("q_heads")?,
                latent_dim: f.extent_or("latent_dim", LATENT_DIM)?,
                rope_dim: f.extent_or("rope_dim", ROPE_DIM)?,
                dtype: f.number_format("dtype")?,
                kv_dtype: f.number_format("kv_dtype")?,
                layout: f.layout()?,
                lengths: f.lengths()?,
                new_tokens: f.extent_or("new_tokens", 1)?,
            }),
            Op::DecodeAttention => Problem::DecodeAttention(DecodeAttention {
                batch: f.extent("batch")?,
                context: f.extent("context")?,
                q_heads: f.extent("q_heads")?,
                kv_heads: f.extent("kv_heads")?,
                head_dim: f.extent("head_dim")?,
                dtype: f.number_format("dtype")?,
                kv_dtype: f.number_format("kv_dtype")?,
                layout: f.layout()?,
                lengths: f.lengths()?,
                new_tokens: f.extent_or("new_tokens", 1)?,
                window: f.extent_or_zero("window")?,
            }),
            Op::PrefillAttention => Problem::PrefillAttention(PrefillAttention {
                batch: f.extent("batch")?,
                prefix: f.extent_or_zero("prefix")?,
                new_tokens: f.extent("new_tokens")?,
                q_heads: f.extent("q_heads")?,
                kv_heads: f.extent("kv_heads")?,
                head_dim: f.extent("head_dim")?,
                causal: f.flag("causal", true)?,
                dtype: f.number_format("dtype")?,
                kv_dtype: f.number_format("kv_dtype")?,
                window: f.extent_or_zero("window")?,
            }),
        };
        problem.check_shape()?;
        problem.check_size()?;
        Ok(problem)
    }

    fn check_shape(&self) -> Result<(), ProblemError> {
        let heads = match self {
            Problem::DecodeAttention(p) => Some((p.q_heads, p.kv_heads)),
            Problem::PrefillAttention(p) => Some((p.q_heads, p.kv_heads)),
            _ => None,
        };
        if let Some((q_heads, kv_heads)) = heads
            && q_heads % kv_heads != 0
        {
            return Err(ProblemError::at(
                "kv_heads",
                format!(
                    "q_heads = {q_heads} is no multiple of kv_heads = {kv_heads}; every key and \
                     value head serves the same number of query heads, so make it one"
                ),
            ));
        }
        self.check_requests()?;
        match self {
            Problem::Gemm(p) => check_weights(p.w_dtype, p.n, p.k),
            Problem::MoeGemm(p) => {
                p.check()?;
                check_weights(p.w_dtype, p.n, p.k)
            }
            Problem::MlaDecode(p) => p.check(),
            Problem::PrefillAttention(p) if p.window > 0 && !p.causal => {
                Err(ProblemError::at(
                    "window",
                    "a window ends at the token that looks through it; write `causal=true`",
                ))
            }
            Problem::KvAppend(KvAppend { layout: Layout::Contiguous, .. }) => {
                Err(ProblemError::at(
                    "layout",
                    "tokens are appended to pages; write `layout=paged16` or another size",
                ))
            }
            Problem::Stream(p) if p.bytes % p.line_bytes() != 0 => Err(ProblemError::at(
                "bytes",
                format!(
                    "bytes = {} is no multiple of {}, a line in each array of a {}; use {}",
                    p.bytes,
                    p.line_bytes(),
                    p.access,
                    p.bytes.next_multiple_of(p.line_bytes())
                ),
            )),
            Problem::Peak(Peak { unit: Unit::Tensor, dtype: DType::F32, .. }) => {
                Err(ProblemError::at(
                    "dtype",
                    "no tensor unit takes f32 operands; use `unit = \"fma\"` or a 16-bit or \
                     8-bit dtype",
                ))
            }
            _ => Ok(()),
        }
    }

    /// Refuses new tokens that a request has no room for, and batches that nobody would
    /// want to add up request by request.
    fn check_requests(&self) -> Result<(), ProblemError> {
        let (batch, context, lengths, new_tokens) = match *self {
            Problem::KvRead(p) => (p.batch, p.context, p.lengths, 1),
            Problem::KvAppend(p) => (p.batch, p.context, p.lengths, p.new_tokens),
            Problem::DecodeAttention(p) => (p.batch, p.context, p.lengths, p.new_tokens),
            Problem::MlaDecode(p) => (p.batch, p.context, p.lengths, p.new_tokens),
            _ => return Ok(()),
        };
        if lengths == Lengths::Ragged && batch > MAX_RAGGED {
            return Err(ProblemError::at(
                "batch",
                format!("lengths = ragged takes batch = {MAX_RAGGED} at most, not {batch}"),
            ));
        }
        let least = lengths.least(context);
        if new_tokens > least {
            return Err(ProblemError::at(
                "new_tokens",
                format!(
                    "new_tokens = {new_tokens} are part of the context, and the shortest request \
                     has {least} tokens; make the context longer"
                ),
            ));
        }
        if matches!(self, Problem::DecodeAttention(_) | Problem::MlaDecode(_))
            && new_tokens > MAX_NEW_TOKENS
        {
            return Err(ProblemError::at(
                "new_tokens",
                format!(
                    "new_tokens = {new_tokens} is more than the {MAX_NEW_TOKENS} that count as \
                     decoding; use prefill_attention"
                ),
            ));
        }
        Ok(())
    }

    /// Refuses what would overflow the counts, before they are taken: the
    /// same products in floating point.
    fn check_size(&self) -> Result<(), ProblemError> {
        let product = |xs: &[u64]| xs.iter().map(|&x| x as f64).product::<f64>();
        let (flops, elements) = match *self {
            Problem::Stream(p) => (p.flops() as f64, p.bytes as f64 / 4.0),
            Problem::Peak(p) => (
                product(&[step_flops(p.unit), p.lanes, p.steps]),
                product(&[2, lane_elements(p.unit), p.lanes]),
            ),
            Problem::KvRead(p) => (0.0, kv_elements(&p)),
            Problem::KvAppend(p) => {
                let pages = product(&[2, p.batch, p.pages(), p.page_size()]);
                let row = product(&[p.kv_heads, p.head_dim]);
                (0.0, row * (pages + product(&[2, p.batch, p.new_tokens])))
            }
            Problem::Gemm(p) => (
                product(&[2, p.m, p.n, p.k]),
                product(&[p.m, p.n]) + product(&[p.m, p.k]) + product(&[p.n, p.k]),
            ),
            Problem::MoeGemm(p) => (
                product(&[2, p.tokens, p.top_k, p.n, p.k]),
                product(&[p.input_rows(), p.k])
                    + product(&[p.experts, p.n, p.k])
                    + product(&[p.tokens, p.top_k, p.n]),
            ),
            Problem::MlaDecode(p) => (
                product(&[2, p.batch, p.new_tokens, p.q_heads, p.context])
                    * (p.key_dim() + p.latent_dim) as f64,
                kv_elements(&p.kv())
                    + 2.0
                        * product(&[p.batch, p.new_tokens, p.q_heads])
                        * p.key_dim() as f64,
            ),
            Problem::DecodeAttention(p) => (
                product(&[4, p.batch, p.new_tokens, p.q_heads, p.head_dim, p.context]),
                product(&[2, p.batch, p.new_tokens, p.q_heads, p.head_dim])
                    + kv_elements(&p.kv()),
            ),
            Problem::PrefillAttention(p) => (
                product(&[4, p.batch, p.q_heads, p.head_dim, p.new_tokens, p.context()]),
                product(&[4, p.batch, p.q_heads, p.head_dim, p.context()]),
            ),
        };
        if elements * 4.0 > MAX_BYTES as f64 || flops > MAX_FLOPS as f64 {
            return Err(ProblemError {
                key: None,
                message: format!(
                    "{self} asks for {:.3e} bytes and {flops:.3e} FLOPs, more than the {:.1e} \
                     and {:.1e} that are counted exactly; make it smaller",
                    elements * 4.0,
                    MAX_BYTES as f64,
                    MAX_FLOPS as f64
                ),
            });
        }
        Ok(())
    }
}

/// Whether a problem is spelled without this key. So are keys that came later than the
/// first campaigns, at their defaults.
fn is_silent_default(op: Op, key: &str, value: &str) -> bool {
    match key {
        "lengths" => value == Lengths::Equal.name(),
        "window" | "routing_seed" => value == "0",
        "new_tokens" => matches!(op, Op::DecodeAttention | Op::MlaDecode) && value == "1",
        "inputs" => value == Inputs::PerToken.name(),
        "latent_dim" => value == LATENT_DIM.to_string(),
        "rope_dim" => value == ROPE_DIM.to_string(),
        _ => false,
    }
}

/// The value of a field, if there is one.
fn value_of(fields: &[(&'static str, String)], key: &str) -> Option<String> {
    fields.iter().find(|(k, _)| *k == key).map(|(_, value)| value.clone())
}

/// Tokens that new token number `token` of so many attends to, in a request of `length`
/// in which they are the last: those up to itself, in a window only the last of them.
const fn attended(length: u64, new_tokens: u64, token: u64, window: u64) -> Range<u64> {
    let end = length - (new_tokens - 1 - token);
    let all = window == 0 || window >= end;
    Range { start: if all { 0 } else { end - window }, end }
}

/// Bytes of a matrix `[n][k]` of weights, and of their scales.
const fn weights_bytes(dtype: DType, n: u64, k: u64) -> u64 {
    let scales = match scale_format(dtype) {
        Some(format) => format.bytes_of(n * scales_of_row(dtype, k)),
        None => 0,
    };
    dtype.bytes_of(n * k) + scales
}

/// What the scales of weights are, where they have any.
const fn scale_format(dtype: DType) -> Option<Format> {
    match dtype {
        DType::Int4 => Some(Format::HalfScales(dtype)),
        _ if dtype.is_scaled() => Some(Format::Scales(dtype)),
        _ => None,
    }
}

/// Scales of each output feature, where weights have scales.
const fn scales_of_row(dtype: DType, k: u64) -> u64 {
    match dtype {
        DType::Int4 => k / weights::GROUP_COLUMNS,
        _ => 1,
    }
}

/// The scales of so many matrices `[n][k]` of weights, where they have any.
fn weight_scales(
    name: &'static str,
    dtype: DType,
    matrices: u64,
    n: u64,
    k: u64,
) -> Option<Tensor> {
    let count = matrices * n * scales_of_row(dtype, k);
    scale_format(dtype).map(|format| Tensor::new(name, Role::Input, format, count))
}

/// Refuses matrices `[n][k]` of int4 that are no whole tiles and groups.
fn check_weights(dtype: DType, n: u64, k: u64) -> Result<(), ProblemError> {
    if dtype != DType::Int4 {
        return Ok(());
    }
    for (key, value, of) in [("n", n, weights::TILE_ROWS), ("k", k, weights::GROUP_COLUMNS)]
    {
        if !value.is_multiple_of(of) {
            return Err(ProblemError::at(
                key,
                format!(
                    "{key} = {value} is no multiple of {of}, which tiles and groups of int4 \
                     weights are made of; use {}",
                    value.next_multiple_of(of)
                ),
            ));
        }
    }
    Ok(())
}

fn peak_work(p: Peak) -> Work {
    let elements = p.lanes * lane_elements(p.unit);
    let flops = step_flops(p.unit) * p.lanes * p.steps;
    let (matrix_flops, vector_flops) = match p.unit {
        Unit::Fma => (0, flops),
        Unit::Tensor => (flops, 0),
    };
    let bytes = elements * DType::F32.bytes();
    Work { matrix_flops, vector_flops, bytes_read: bytes, bytes_written: bytes }
}

/// FLOPs of one step of one lane of a peak problem.
const fn step_flops(unit: Unit) -> u64 {
    match unit {
        Unit::Fma => 2,
        Unit::Tensor => 2 * 16 * 8 * 16,
    }
}

/// Numbers that one lane of a peak problem holds.
const fn lane_elements(unit: Unit) -> u64 {
    match unit {
        Unit::Fma => 1,
        Unit::Tensor => 16 * 8,
    }
}

/// Elements allocated for keys and values, in floating point so that nothing
/// overflows.
fn kv_elements(p: &KvRead) -> f64 {
    let tokens = match p.layout {
        Layout::Contiguous => p.context as f64,
        Layout::Paged { page_size, .. } => {
            p.context.div_ceil(page_size) as f64 * page_size as f64
        }
    };
    2.0 * p.batch as f64 * p.kv_heads as f64 * p.head_dim as f64 * tokens
}

/// Bytes of the keys and values of the `needed` tokens of requests of all lengths, and
/// of the page numbers that it takes to find them.
fn kv_bytes(p: &KvRead, needed: impl Fn(u64) -> Range<u64>) -> u64 {
    let row_bytes = 2 * p.kv_heads * p.head_dim * p.dtype.bytes();
    p.lengths.sum(p.batch, p.context, |length| {
        let tokens = needed(length);
        row_bytes * (tokens.end - tokens.start) + 4 * kv_pages(p.layout, &tokens)
    })
}

/// Pages that some tokens of a request lie in.
const fn kv_pages(layout: Layout, tokens: &Range<u64>) -> u64 {
    match layout {
        Layout::Contiguous => 0,
        Layout::Paged { page_size, .. } => {
            tokens.end.div_ceil(page_size) - tokens.start / page_size
        }
    }
}

fn decode_work(p: &DecodeAttention, cache_bytes: u64) -> Work {
    let attended = p.lengths.sum(p.batch, p.context, |length| {
        let of_token = |token| {
            let tokens = p.attended(length, token);
            tokens.end - tokens.start
        };
        (0..p.new_tokens).map(of_token).sum()
    });
    let q_bytes = p.elements() * p.dtype.bytes();
    Work {
        matrix_flops: 4 * p.q_heads * p.head_dim * attended,
        bytes_read: q_bytes + cache_bytes,
        bytes_written: q_bytes,
        ..Work::default()
    }
}

/// Bytes of the scales of keys and of values, for so many requests and heads.
const fn scale_bytes(kv_dtype: DType, sequences: u64) -> u64 {
    if kv_dtype.is_scaled() { 8 * sequences } else { 0 }
}

fn append_work(p: &KvAppend) -> Work {
    let scale_bytes = scale_bytes(p.kv_dtype, p.batch * p.kv_heads);
    let pages = p.lengths.sum(p.batch, p.context, |length| {
        length.div_ceil(p.page_size()) - (length - p.new_tokens) / p.page_size()
    });
    Work {
        bytes_read: 2 * p.elements() * p.dtype.bytes() + 4 * pages + scale_bytes,
        bytes_written: 2 * p.elements() * p.kv_dtype.bytes(),
        ..Work::default()
    }
}

fn append_tensors(p: &KvAppend) -> Vec<Tensor> {
    let new = Format::Values(p.dtype);
    let pages = p.batch * p.pages();
    let mut tensors = vec![
        Tensor::new("k_new", Role::Input, new, p.elements()),
        Tensor::new("v_new", Role::Input, new, p.elements()),
        Tensor::new("page_table", Role::Input, Format::PageTable, pages),
    ];
    if p.kv_dtype.is_scaled() {
        let (scales, count) = (Format::InverseScales(p.kv_dtype), p.batch * p.kv_heads);
        tensors.push(Tensor::new("k_inverse_scales", Role::Input, scales, count));
        tensors.push(Tensor::new("v_inverse_scales", Role::Input, scales, count));
    }
    let elements = 2 * pages * p.page_size() * p.kv_heads * p.head_dim;
    tensors.push(Tensor::new("cache", Role::Update, Format::Values(p.kv_dtype), elements));
    tensors
}

/// Keys, values and, where paged, the page table. A paged pool holds whole
/// pages, so its tail past the context is allocated but never read.
fn kv_tensors(p: &KvRead) -> Vec<Tensor> {
    let tokens = match p.layout {
        Layout::Contiguous => p.batch * p.context,
        Layout::Paged { page_size, .. } => p.layout.pages(p.batch, p.context) * page_size,
    };
    let format = Format::Values(p.dtype);
    let elements = tokens * p.kv_heads * p.head_dim;
    let mut tensors = vec![
        Tensor::new("k", Role::Input, format, elements),
        Tensor::new("v", Role::Input, format, elements),
    ];
    tensors.extend(page_table(p.layout.pages(p.batch, p.context)));
    tensors
}

/// A table of so many pages, if there are any.
fn page_table(pages: u64) -> Option<Tensor> {
    (pages > 0).then(|| Tensor::new("page_table", Role::Input, Format::PageTable, pages))
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:", self.op())?;
        for (i, (key, value)) in self.fields().iter().enumerate() {
            let comma = if i == 0 { "" } else { "," };
            write!(f, "{comma}{key}={value}")?;
        }
        Ok(())
    }
}

impl FromStr for Problem {
    type Err = ProblemError;

    fn from_str(text: &str) -> Result<Self, ProblemError> {
        let (op, rest) = text.split_once(':').ok_or_else(|| ProblemError {
            key: None,
            message: format!("`{text}` is no problem; write `op:key=value,key=value`"),
        })?;
        let op = op.trim().parse().map_err(|e: String| ProblemError::at("op", e))?;
        let mut fields = Vec::new();
        for part in rest.split(',').filter(|part| !part.trim().is_empty()) {
            let (key, value) = part.split_once('=').ok_or_else(|| ProblemError {
                key: None,
                message: format!("`{part}` in `{text}` is no `key=value`"),
            })?;
            fields.push((key.trim().to_owned(), value.trim().to_owned()));
        }
        Problem::from_fields(op, &fields)
    }
}

/// Takes typed values out of `key = value` fields.
struct FieldReader<'a> {
    op: Op,
    fields: &'a [(String, String)],
}

impl<'a> FieldReader<'a> {
    fn new(op: Op, fields: &'a [(String, String)]) -> Result<Self, ProblemError> {
        for (i, (key, _)) in fields.iter().enumerate() {
            if !op.keys().contains(&key.as_str()) {
                return Err(ProblemError::at(key, unknown_key(key, op.name(), op.keys())));
            }
            if fields[..i].iter().any(|(earlier, _)| earlier == key) {
                return Err(ProblemError::at(key, format!("`{key}` is given twice")));
            }
        }
        Ok(FieldReader { op, fields })
    }

    fn get(&self, key: &str) -> Option<&'a str> {
        self.fields.iter().find(|(k, _)| k == key).map(|(_, v)| v.as_str())
    }

    fn require(&self, key: &str) -> Result<&'a str, ProblemError> {
        self.get(key).ok_or_else(|| ProblemError {
            key: None,
            message: format!(
                "{} needs `{key}`; its keys are {}",
                self.op,
                self.op.keys().join(", ")
            ),
        })
    }

    fn parse<T: FromStr<Err = String>>(&self, key: &str) -> Result<T, ProblemError> {
        self.require(key)?.parse().map_err(|e: String| ProblemError::at(key, e))
    }

    fn parse_or_other<T: FromStr<Err = String>>(
        &self,
        key: &str,
        other: &str,
    ) -> Result<T, ProblemError> {
        self.parse(if self.get(key).is_some() { key } else { other })
    }

    fn parse_or<T: FromStr<Err = String>>(
        &self,
        key: &str,
        default: T,
    ) -> Result<T, ProblemError> {
        if self.get(key).is_some() { self.parse(key) } else { Ok(default) }
    }

    /// The format of activations (`dtype`), or of cached numbers (`kv_dtype`), which is
    /// that of activations where nothing else is said.
    fn number_format(&self, key: &str) -> Result<DType, ProblemError> {
        match self.parse_or_other(key, "dtype")? {
            DType::Int4 => Err(ProblemError::at(
                key,
                "int4 is a format of weights; write it as `w_dtype` of gemm or moe_gemm",
            )),
            dtype => Ok(dtype),
        }
    }

    fn layout(&self) -> Result<Layout, ProblemError> {
        let Some(text) = self.get("layout") else { return Ok(Layout::Contiguous) };
        let layout = text.parse().map_err(|e: String| ProblemError::at("layout", e))?;
        if let Layout::Paged { page_size, .. } = layout {
            check_extent("layout", page_size)?;
        }
        Ok(layout)
    }

    fn lengths(&self) -> Result<Lengths, ProblemError> {
        self.parse_or("lengths", Lengths::Equal)
    }

    fn flag(&self, key: &str, default: bool) -> Result<bool, ProblemError> {
        let Some(text) = self.get(key) else { return Ok(default) };
        text.parse().map_err(|_| {
            ProblemError::at(key, format!("{key} = `{text}` is neither `true` nor `false`"))
        })
    }

    fn number(&self, key: &str) -> Result<u64, ProblemError> {
        let text = self.require(key)?;
        text.parse().map_err(|_| {
            ProblemError::at(
                key,
                format!("{key} = `{text}` is no whole number of 0 or more"),
            )
        })
    }

    fn extent(&self, key: &str) -> Result<u64, ProblemError> {
        let n = self.number(key)?;
        check_extent(key, n)?;
        Ok(n)
    }

    fn extent_or(&self, key: &str, default: u64) -> Result<u64, ProblemError> {
        if self.get(key).is_some() { self.extent(key) } else { Ok(default) }
    }

    fn extent_or_zero(&self, key: &str) -> Result<u64, ProblemError> {
        match self.get(key) {
            None | Some("0") => Ok(0),
            Some(_) => self.extent(key),
        }
    }

    fn size(&self, key: &str) -> Result<u64, ProblemError> {
        let text = self.require(key)?;
        let bytes = parse_bytes(text).ok_or_else(|| {
            ProblemError::at(
                key,
                format!("{key} = `{text}` is no size; write `4 MiB` or 4194304"),
            )
        })?;
        check_extent(key, bytes)?;
        Ok(bytes)
    }
}

fn check_extent(key: &str, n: u64) -> Result<(), ProblemError> {
    if n == 0 {
        return Err(ProblemError::at(key, format!("{key} = 0; it must be at least 1")));
    }
    if n > MAX_EXTENT {
        let limit = MAX_EXTENT;
        return Err(ProblemError::at(
            key,
            format!("{key} = {n} is more than the limit of {limit}; make it smaller"),
        ));
    }
    Ok(())
}

/// Sentence for a key that nobody knows, with the nearest that somebody does.
pub fn unknown_key(key: &str, place: &str, known: &[&str]) -> String {
    let nearest = known
        .iter()
        .map(|k| (strsim::damerau_levenshtein(k, key), k))
        .min()
        .filter(|(distance, k)| *distance <= k.len().max(3) / 2);
    match nearest {
        Some((_, k)) => format!("{place} has no key `{key}`; did you mean `{k}`?"),
        None => format!("{place} has no key `{key}`; its keys are {}", known.join(", ")),
    }
}

/// Reads `4 MiB`, `4MiB`, `1 GiB`, `512 KiB`, `64 B` or a plain number of
/// bytes. Powers of 1024 only, so that nobody has to guess.
pub fn parse_bytes(text: &str) -> Option<u64> {
    let text = text.trim();
    let digits = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let number: u64 = text[..digits].parse().ok()?;
    let unit = match text[digits..].trim() {
        "" | "B" => 1,
        "KiB" => 1 << 10,
        "MiB" => 1 << 20,
        "GiB" => 1 << 30,
        _ => return None,
    };
    number.checked_mul(unit)
}

#[cfg(test)]
mod tests;

//! How the cached keys and values of requests lie in memory: pages, lengths, and which
//! tokens a query attends to. What the operations that read or write a cache share.

use std::fmt;
use std::ops::Range;
use std::str::FromStr;

use super::fields::{Fields, ProblemError, check_extent};
use crate::format::{Role, Tensor, TensorFormat, text_of_name};
use crate::quant::{Quant, QuantPlace};

/// Largest batch of requests of several lengths.
pub const MAX_RAGGED: u64 = 1 << 20;
/// Most new tokens of a request that count as decoding.
pub const MAX_NEW_TOKENS: u64 = 64;

/// How keys and values lie in memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum KvLayout {
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

impl KvLayout {
    /// The value of the key `layout`.
    ///
    /// # Errors
    /// A text that is not a layout, pages of a size that cannot be.
    pub(super) fn read(fields: &Fields) -> Result<Self, ProblemError> {
        let layout = fields.parse("layout")?;
        if let KvLayout::Paged { page_size, .. } = layout {
            check_extent("layout", page_size)?;
        }
        Ok(layout)
    }

    /// Number of pages that `batch` requests of `context` tokens occupy; zero
    /// when contiguous.
    pub const fn pages(self, batch: u64, context: u64) -> u64 {
        match self {
            KvLayout::Contiguous => 0,
            KvLayout::Paged { page_size, .. } => batch * context.div_ceil(page_size),
        }
    }

    /// Tokens that a request of `context` has room for: whole pages.
    pub const fn allocated(self, context: u64) -> u64 {
        match self {
            KvLayout::Contiguous => context,
            KvLayout::Paged { page_size, .. } => context.div_ceil(page_size) * page_size,
        }
    }

    /// Tokens in one page, and how it is laid out; one page of `context` where contiguous.
    pub(super) const fn paging(self, context: u64) -> (u64, PageOrder) {
        match self {
            KvLayout::Contiguous => (context, PageOrder::HeadFirst),
            KvLayout::Paged { page_size, order } => (page_size, order),
        }
    }

    /// Whether pages have a token's heads side by side.
    pub const fn is_token_first(self) -> bool {
        matches!(self, KvLayout::Paged { order: PageOrder::TokenFirst, .. })
    }

    /// Pages that some tokens of a request lie in.
    pub(super) const fn pages_of(self, tokens: &Range<u64>) -> u64 {
        match self {
            KvLayout::Contiguous => 0,
            KvLayout::Paged { page_size, .. } => {
                tokens.end.div_ceil(page_size) - tokens.start / page_size
            }
        }
    }

    /// The page table of `batch` requests of `context` tokens, if there is one.
    pub(super) fn page_table(self, batch: u64, context: u64) -> Option<Tensor> {
        let pages = self.pages(batch, context);
        let table = TensorFormat::PageTable;
        (pages > 0).then(|| Tensor::new("page_table", Role::Input, table, pages).settled())
    }
}

impl fmt::Display for KvLayout {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            KvLayout::Contiguous => f.write_str("contiguous"),
            KvLayout::Paged { page_size, order } => {
                let order = match order {
                    PageOrder::HeadFirst => "",
                    PageOrder::TokenFirst => "_nhd",
                };
                write!(f, "paged{page_size}{order}")
            }
        }
    }
}

impl FromStr for KvLayout {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if text == "contiguous" {
            return Ok(KvLayout::Contiguous);
        }
        let (paged, order) = match text.strip_suffix("_nhd") {
            Some(paged) => (paged, PageOrder::TokenFirst),
            None => (text, PageOrder::HeadFirst),
        };
        paged
            .strip_prefix("paged")
            .and_then(|n| n.parse().ok())
            .map(|page_size| KvLayout::Paged { page_size, order })
            .ok_or_else(|| {
                format!(
                    "`{text}` is not a layout; write `contiguous`, `paged16`, or `paged16_nhd` \
                     for pages with the token before the head"
                )
            })
    }
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

text_of_name!(Lengths => "a distribution of lengths");

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
        // The fraction of request times golden ratio, in 64 bits after the point.
        let fraction = (request + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15) as u128;
        least + ((fraction * (context - least + 1) as u128) >> 64) as u64
    }

    /// The sum over all requests of a batch of what depends on a request's tokens.
    pub(super) fn sum(self, batch: u64, context: u64, of: impl Fn(u64) -> u64) -> u64 {
        match self {
            Lengths::Equal => batch * of(context),
            Lengths::Ragged => {
                (0..batch).map(|request| of(self.of(request, context))).sum()
            }
        }
    }
}

/// Where new tokens fall in the pages of a cache that holds, for each request, only the
/// pages that they fall into.
#[derive(Clone, Copy, Debug)]
pub(super) struct AppendedPages {
    pub page_size: u64,
    pub new_tokens: u64,
}

impl AppendedPages {
    /// Pages of each request: as many as new tokens fall into where they begin at the end
    /// of a page.
    pub const fn pages(self) -> u64 {
        (self.page_size - 1 + self.new_tokens).div_ceil(self.page_size)
    }

    /// Place of the first new token of a request of `length` in its first page.
    pub const fn first_place(self, length: u64) -> u64 {
        (length - self.new_tokens) % self.page_size
    }

    /// Pages that the new tokens of a request of `length` fall into.
    pub const fn touched(self, length: u64) -> u64 {
        length.div_ceil(self.page_size) - (length - self.new_tokens) / self.page_size
    }
}

/// Refuses schemes that keys and values of a place do not have.
pub(super) fn check_cache(kv_dtype: Quant, place: QuantPlace) -> Result<(), ProblemError> {
    kv_dtype.check_place(place).map_err(|message| ProblemError::at("kv_dtype", message))
}

/// Refuses a cache without pages.
pub(super) fn check_paged(layout: KvLayout) -> Result<(), ProblemError> {
    if layout != KvLayout::Contiguous {
        return Ok(());
    }
    Err(ProblemError::at(
        "layout",
        "tokens are appended to pages; write `layout=paged16` or another size",
    ))
}

/// The requests of a batch, as far as checks of their lengths go.
#[derive(Clone, Copy, Debug)]
pub(super) struct Requests {
    pub batch: u64,
    pub context: u64,
    pub lengths: Lengths,
    pub new_tokens: u64,
}

impl Requests {
    /// Refuses new tokens that a request has no room for, and batches that nobody would
    /// want to add up request by request.
    pub fn check(&self) -> Result<(), ProblemError> {
        let Requests { batch, context, lengths, new_tokens } = *self;
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
        Ok(())
    }

    /// The same for decode, which has few new tokens.
    pub fn check_decode(&self) -> Result<(), ProblemError> {
        self.check()?;
        let new_tokens = self.new_tokens;
        if new_tokens > MAX_NEW_TOKENS {
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
}

/// Refuses query heads that key and value heads do not divide.
pub(super) fn check_heads(q_heads: u64, kv_heads: u64) -> Result<(), ProblemError> {
    if q_heads.is_multiple_of(kv_heads) {
        return Ok(());
    }
    Err(ProblemError::at(
        "kv_heads",
        format!(
            "q_heads = {q_heads} is not a multiple of kv_heads = {kv_heads}; every key and value \
             head serves the same number of query heads, so make it one"
        ),
    ))
}

/// Tokens that new token number `token` of so many attends to, in a request of `length`
/// in which they are the last: those up to itself, in a window only the last of them.
pub(super) const fn attended(
    length: u64,
    new_tokens: u64,
    token: u64,
    window: u64,
) -> Range<u64> {
    let end = length - (new_tokens - 1 - token);
    let all = window == 0 || window >= end;
    Range { start: if all { 0 } else { end - window }, end }
}

//! Where the keys and values of a request lie, for the kernels that read a
//! cache, and how they divide it among threads.

use std::ops::Range;

use super::contract::InputBytes;
use crate::kernel::Configuration;
use crate::op::{KvLayout, KvRead, PageOrder};

/// The geometry of a key and value cache.
#[derive(Clone, Copy)]
pub struct Cache {
    context: usize,
    kv_heads: usize,
    head_dim: usize,
    /// Tokens in a page; the whole context when contiguous.
    page_size: usize,
    paged: bool,
    /// Whether a page has a token's heads side by side.
    token_first: bool,
}

impl Cache {
    /// The geometry that `p` describes.
    pub fn new(p: &KvRead) -> Self {
        let context = p.context as usize;
        let (page_size, paged, token_first) = match p.layout {
            KvLayout::Contiguous => (context, false, false),
            KvLayout::Paged { page_size, order } => {
                (page_size as usize, true, order == PageOrder::TokenFirst)
            }
        };
        Cache {
            context,
            kv_heads: p.kv_heads as usize,
            head_dim: p.head_dim as usize,
            page_size,
            paged,
            token_first,
        }
    }

    /// Width of a head.
    pub fn head_dim(&self) -> usize {
        self.head_dim
    }

    /// The page table among a problem's inputs; empty when contiguous.
    pub fn page_table<'a>(&self, inputs: &InputBytes<'a>) -> &'a [u32] {
        inputs.find("page_table").map_or(&[], bytemuck::cast_slice)
    }

    /// Number of the page that holds page `index` of a request. A contiguous
    /// cache is one of a single page for each request, in order.
    fn page(&self, table: &[u32], request: usize, index: usize) -> usize {
        if self.paged {
            table[request * self.context.div_ceil(self.page_size) + index] as usize
        } else {
            request
        }
    }

    /// Runs of `tokens` that lie side by side: where each starts, in elements,
    /// and how many tokens it has. Single tokens where other heads lie between.
    pub fn runs<'a>(
        &'a self,
        table: &'a [u32],
        request: usize,
        head: usize,
        tokens: Range<usize>,
    ) -> impl Iterator<Item = (usize, usize)> + 'a {
        let mut token = tokens.start;
        std::iter::from_fn(move || {
            if token >= tokens.end {
                return None;
            }
            let (index, within) = (token / self.page_size, token % self.page_size);
            let page = self.page(table, request, index);
            let (row, count) = if self.token_first {
                ((page * self.page_size + within) * self.kv_heads + head, 1)
            } else {
                let row = (page * self.kv_heads + head) * self.page_size + within;
                (row, (self.page_size - within).min(tokens.end - token))
            };
            token += count;
            Some((row * self.head_dim, count))
        })
    }

    /// Writes where each of `tokens` starts to the front of `offsets`, and
    /// returns how many there are.
    pub fn offsets(
        &self,
        table: &[u32],
        request: usize,
        head: usize,
        tokens: Range<usize>,
        offsets: &mut [usize],
    ) -> usize {
        let mut filled = 0;
        for (start, count) in self.runs(table, request, head, tokens) {
            for (i, offset) in offsets[filled..filled + count].iter_mut().enumerate() {
                *offset = start + i * self.head_dim;
            }
            filled += count;
        }
        filled
    }
}

/// How a cache is divided among threads: every request and head, each in
/// `splits` parts of the context.
#[derive(Clone, Copy)]
pub struct CacheSplit {
    p: KvRead,
    kv_heads: usize,
    /// Requests times heads.
    pub pairs: usize,
    /// Parts of each context.
    pub splits: usize,
}

impl CacheSplit {
    /// Splits only where requests and heads alone would leave threads idle: four parts a
    /// thread, or as many as `parts` of the configuration says, even out their speeds, and a
    /// part of less than 256 tokens is not worth its overhead.
    pub fn new(p: &KvRead, threads: usize, choice: &Configuration) -> Self {
        let pairs = (p.batch * p.kv_heads) as usize;
        let context = p.context as usize;
        let wanted = (choice.or("parts", 4) as usize * threads).div_ceil(pairs);
        let splits = wanted.min(context.div_ceil(256));
        CacheSplit { p: *p, kv_heads: p.kv_heads as usize, pairs, splits }
    }

    /// Number of parts in all.
    pub fn items(&self) -> usize {
        self.pairs * self.splits
    }

    /// Request, head and tokens of part `item`.
    pub fn item(&self, item: usize) -> (usize, usize, Range<usize>) {
        let (pair, split) = (item / self.splits, item % self.splits);
        let request = pair / self.kv_heads;
        let length = self.p.length(request as u64) as usize;
        let start = |split: usize| split * length / self.splits;
        (request, pair % self.kv_heads, start(split)..start(split + 1))
    }
}

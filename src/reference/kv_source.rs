//! Where cached keys and values come from: what the references of a cache share.

use std::ops::Range;

use super::SlotInputs;
use crate::data::Key;
use crate::format::TensorFormat;
use crate::op::{KvLayout, KvRead, PageOrder};
use crate::quant::Quant;

/// Where keys and values of one problem come from.
pub(super) struct KvSource {
    pub p: KvRead,
    pub keys: Key,
    pub values: Key,
    pub table: Vec<u32>,
    /// Scales of keys and of values, where they have any.
    pub scales: Option<[Key; 2]>,
    /// Which row has which scale.
    pub scheme: Quant,
}

/// Row of a token's head, in head widths, within the pages of a cache.
pub(super) fn paged_row(
    layout: (u64, PageOrder),
    kv_heads: u64,
    (page, head, place): (u64, u64, u64),
) -> u64 {
    let (page_size, order) = layout;
    match order {
        PageOrder::HeadFirst => (page * kv_heads + head) * page_size + place,
        PageOrder::TokenFirst => (page * page_size + place) * kv_heads + head,
    }
}

impl KvSource {
    /// The tensors `k` and `v`, with their page table and scales where there are any.
    pub fn new(p: KvRead, inputs: &SlotInputs) -> Self {
        let pages = p.layout.pages(p.batch, p.context) as usize;
        let table = inputs.find("page_table").map(|key| key.page_table(pages));
        let scales = inputs.find("k_scales").zip(inputs.find("v_scales"));
        KvSource {
            p,
            keys: inputs.key("k"),
            values: inputs.key("v"),
            table: table.unwrap_or_default(),
            scales: scales.map(<[Key; 2]>::from),
            scheme: Quant::cache(p.dtype),
        }
    }

    /// The same in another scheme.
    pub fn in_scheme(self, scheme: Quant) -> Self {
        KvSource { scheme, ..self }
    }

    /// First element of the keys, or values, of a token.
    pub fn offset(&self, batch: u64, head: u64, token: u64) -> u64 {
        let KvRead { context, kv_heads, head_dim, .. } = self.p;
        let row = match self.p.layout {
            KvLayout::Contiguous => (batch * kv_heads + head) * context + token,
            KvLayout::Paged { page_size, order } => {
                let index = batch * context.div_ceil(page_size) + token / page_size;
                let page = u64::from(self.table[index as usize]);
                paged_row((page_size, order), kv_heads, (page, head, token % page_size))
            }
        };
        row * head_dim
    }

    /// A token's row of keys, or of values.
    pub fn row(&self, what: CachedPart, batch: u64, head: u64, token: u64, to: &mut [f32]) {
        let tensor = [self.keys, self.values][what as usize];
        tensor.values(self.p.dtype, self.offset(batch, head, token), to);
        if let Some(scales) = &self.scales {
            let format = TensorFormat::Scales(self.p.dtype);
            let rows = (self.p.batch * self.p.kv_heads, 1);
            let index = self.scheme.scale_index(rows, batch * self.p.kv_heads + head, 0);
            let scale = scales[what as usize].scale(format, index);
            to.iter_mut().for_each(|x| *x *= scale);
        }
    }
}

/// Tokens of a cache, as requests and tokens, that are not needed.
pub(super) fn unneeded_tokens(
    kv: KvRead,
    needed: impl Fn(u64) -> Range<u64>,
) -> impl Iterator<Item = (u64, u64)> {
    let allocated = kv.layout.allocated(kv.context);
    (0..kv.batch).flat_map(move |request| {
        let needed = needed(kv.length(request));
        let others = (0..allocated).filter(move |token| !needed.contains(token));
        others.map(move |token| (request, token))
    })
}

/// Rows of keys and of values that are not needed.
pub(super) fn unneeded_rows(
    kv: KvRead,
    inputs: &SlotInputs,
    needed: impl Fn(u64) -> Range<u64>,
) -> Vec<(&'static str, Range<u64>)> {
    let cache = KvSource::new(kv, inputs);
    let row_bytes = kv.head_dim * kv.dtype.bytes();
    let mut found = Vec::new();
    for (request, token) in unneeded_tokens(kv, needed) {
        for head in 0..kv.kv_heads {
            let first = cache.offset(request, head, token) * kv.dtype.bytes();
            found.extend(["k", "v"].map(|tensor| (tensor, first..first + row_bytes)));
        }
    }
    found
}

/// What of a token is cached.
#[derive(Clone, Copy)]
pub(super) enum CachedPart {
    Key,
    Value,
}

//! Latent attention (MLA) of decode.

use std::ops::Range;

use super::{
    DType, Format, KvRead, Layout, Lengths, ProblemError, Role, Tensor, Work, attended,
    kv_pages, page_table,
};

/// Latents that share a scale in a record of fp8.
pub const LATENTS_OF_SCALE: u64 = 128;

/// Width of a head before absorption, by whose root scores are divided: 128 that came
/// out of the latents and 64 that carry the position (DeepSeek-V2, arXiv 2405.04434).
pub const SCORE_WIDTH: u64 = 128 + 64;

/// Multi-head latent attention of decode, with the projections of keys and values
/// absorbed into queries and outputs: all heads attend to one key of `latent_dim +
/// rope_dim` numbers for each token, of which the first `latent_dim` are the value too.
///
/// Q is `[batch][new token][q head][latent and rope]`, O `[batch][new token][q
/// head][latent]`. The cache is one array, `[batch][token][record]`, or in pages
/// `[page][token in page][record]`. A record in 16 bits is the numbers; in fp8_e4m3 it is
/// the latents in that format, a scale in f32 for each [`LATENTS_OF_SCALE`] of them, and
/// the rest in bf16: 656 bytes for 512 and 64, as FlashMLA has them. New tokens attend as
/// those of [`DecodeAttention`](super::DecodeAttention) do.
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
    /// Format of the latents in the cache.
    pub kv_dtype: DType,
    /// How the cache lies in memory.
    pub layout: Layout,
    /// How many tokens the requests have cached.
    pub lengths: Lengths,
    /// Queries of each request and head.
    pub new_tokens: u64,
}

impl MlaDecode {
    /// Numbers of a key.
    pub const fn key_dim(&self) -> u64 {
        self.latent_dim + self.rope_dim
    }

    /// Bytes of a token in the cache.
    pub const fn record_bytes(&self) -> u64 {
        if self.kv_dtype.is_scaled() {
            self.kv_dtype.bytes_of(self.latent_dim)
                + DType::F32.bytes_of(self.latent_dim / LATENTS_OF_SCALE)
                + DType::Bf16.bytes_of(self.rope_dim)
        } else {
            self.kv_dtype.bytes_of(self.key_dim())
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
            dtype: self.kv_dtype,
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
        match self.layout {
            Layout::Contiguous => self.batch * self.context,
            Layout::Paged { page_size, .. } => {
                self.batch * self.context.div_ceil(page_size) * page_size
            }
        }
    }

    /// Bytes of the records of all tokens, and of their page numbers.
    pub(super) fn cache_bytes(&self) -> u64 {
        let record_bytes = self.record_bytes();
        self.lengths.sum(self.batch, self.context, |length| {
            record_bytes * length + 4 * kv_pages(self.layout, &(0..length))
        })
    }

    pub(super) fn tensors(&self) -> Vec<Tensor> {
        let format = Format::Values(self.dtype);
        let mut tensors = vec![if self.kv_dtype.is_scaled() {
            let MlaDecode { latent_dim, rope_dim, .. } = *self;
            let records = Format::LatentRecords { latent_dim, rope_dim };
            Tensor::new("kv", Role::Input, records, self.allocated())
        } else {
            let elements = self.allocated() * self.key_dim();
            Tensor::new("kv", Role::Input, Format::Values(self.kv_dtype), elements)
        }];
        tensors.extend(page_table(self.layout.pages(self.batch, self.context)));
        tensors.push(Tensor::new("q", Role::Input, format, self.rows() * self.key_dim()));
        tensors.push(Tensor::new("o", Role::Output, format, self.rows() * self.latent_dim));
        tensors
    }

    pub(super) fn work(&self) -> Work {
        let attended = self.lengths.sum(self.batch, self.context, |length| {
            let of_token = |token| self.attended(length, token).end;
            (0..self.new_tokens).map(of_token).sum()
        });
        Work {
            matrix_flops: 2 * self.q_heads * (self.key_dim() + self.latent_dim) * attended,
            bytes_read: self.cache_bytes()
                + self.dtype.bytes_of(self.rows() * self.key_dim()),
            bytes_written: self.dtype.bytes_of(self.rows() * self.latent_dim),
            ..Work::default()
        }
    }

    pub(super) fn check(&self) -> Result<(), ProblemError> {
        if self.layout.is_token_first() {
            return Err(ProblemError::at(
                "layout",
                "there is one head, so pages have one order; write the layout without `_nhd`",
            ));
        }
        match self.kv_dtype {
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

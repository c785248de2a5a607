//! Latent attention to the tokens that an index chose.

use super::contract::product;
use super::explanation::Explanation;
use super::judged::{Hue, JudgedFacts, MarkerShape, OpMarker, Purpose, not_compared};
use super::kv_layout::Requests;
use super::{
    Facts, Fields, KeySpec, KvLayout, Lengths, Magnitude, MlaDecode, Operation,
    ProblemError, Routed,
};
use crate::format::{DType, LATENTS_OF_SCALE, Role, Tensor, TensorFormat};
use crate::quant::{Quant, QuantPlace};
use crate::resource::{Resource, Work};

pub(super) const FACTS: Facts = Facts {
    name: "sparse_mla",
    keys: &[
        KeySpec::new("batch"),
        KeySpec::new("context"),
        KeySpec::new("new_tokens").or("1").always_labelled(),
        KeySpec::new("q_heads"),
        KeySpec::new("top_k"),
        KeySpec::new("latent_dim").or("512").silent(),
        KeySpec::new("rope_dim").or("64").silent(),
        KeySpec::bare("dtype"),
        KeySpec::new("kv_dtype").or_as("dtype"),
    ],
    size_keys: &["batch", "context", "new_tokens"],
    examples: &[
        "sparse_mla:batch=2,context=40,new_tokens=3,q_heads=16,top_k=16,dtype=bf16",
    ],
    judged: JudgedFacts {
        prose: "sparse MLA",
        marker: OpMarker { shape: MarkerShape::Diamond, hue: Hue::Orange },
        purpose: Purpose::Work,
        sets_compute_ceiling: true,
        reads_cache: true,
    },
};

/// Absorbed latent attention, as [`MlaDecode`] has it, of new tokens that attend to `top_k`
/// tokens each, or to all up to themselves where these are fewer.
///
/// Which these are is an input, in 32 bits each ([`IndexTopk`](super::IndexTopk) makes them).
/// All heads of a token attend to the same. The new tokens of a request may choose different
/// ones: together at most `min(s, t top_k)`, which is what is counted as read.
///
/// Work: `2 h (2 d_c + d_r)` FLOPs for each new token and token that it attends to; Q, O and
/// records as of [`MlaDecode`], and 4 bytes for each number of a token.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct SparseMla {
    /// Requests.
    pub batch: u64,
    /// Tokens of each request, new ones included.
    pub context: u64,
    /// New tokens of each request.
    pub new_tokens: u64,
    /// Query heads.
    pub q_heads: u64,
    /// Tokens that a new one attends to, at most.
    pub top_k: u64,
    /// Width of the latents, which are keys and values.
    pub latent_dim: u64,
    /// Width of the part of keys that carries the position.
    pub rope_dim: u64,
    /// Format of queries and outputs.
    pub dtype: DType,
    /// Scheme of the latents in the cache.
    pub kv_dtype: Quant,
}

pub(super) fn read(f: &Fields) -> Result<SparseMla, ProblemError> {
    Ok(SparseMla {
        batch: f.extent("batch")?,
        context: f.extent("context")?,
        new_tokens: f.extent("new_tokens")?,
        q_heads: f.extent("q_heads")?,
        top_k: f.extent("top_k")?,
        latent_dim: f.extent("latent_dim")?,
        rope_dim: f.extent("rope_dim")?,
        dtype: f.dtype("dtype")?,
        kv_dtype: f.quant("kv_dtype", QuantPlace::Latents)?,
    })
}

/// The sum over the last `new_tokens` of `context` tokens of the tokens up to each, itself
/// included, but at most `top_k`.
pub(super) const fn attended_at_most(top_k: u64, context: u64, new_tokens: u64) -> u64 {
    let first = context - new_tokens;
    // Tokens that see fewer than `top_k` come first, and see one more each.
    let few_end = if top_k < context { top_k } else { context };
    let few = few_end.saturating_sub(first);
    let of_few = few * first + few * (few + 1) / 2;
    of_few + (new_tokens - few) * top_k
}

/// Refuses records of which a scale's latents are not a part.
pub(super) fn check_groups(
    key: &str,
    quant: Quant,
    width: u64,
) -> Result<(), ProblemError> {
    if !quant.is_scaled() || width.is_multiple_of(LATENTS_OF_SCALE) {
        return Ok(());
    }
    Err(ProblemError::at(
        key,
        format!(
            "{key} = {width} is not a multiple of {LATENTS_OF_SCALE}, which share a scale in \
             {quant}; use {}",
            width.next_multiple_of(LATENTS_OF_SCALE)
        ),
    ))
}

impl SparseMla {
    /// The same attention to everything, of which a record is the same.
    const fn dense(&self) -> MlaDecode {
        MlaDecode {
            batch: self.batch,
            context: self.context,
            q_heads: self.q_heads,
            latent_dim: self.latent_dim,
            rope_dim: self.rope_dim,
            dtype: self.dtype,
            kv_dtype: self.kv_dtype,
            layout: KvLayout::Contiguous,
            lengths: Lengths::Equal,
            new_tokens: self.new_tokens,
        }
    }

    /// Records of a request that are read, at most.
    const fn records(&self) -> u64 {
        let all = self.new_tokens.saturating_mul(self.top_k);
        if all < self.context { all } else { self.context }
    }

    /// Pairs of a new token and a token that it attends to.
    const fn attended(&self) -> u64 {
        self.batch * attended_at_most(self.top_k, self.context, self.new_tokens)
    }
}

impl Operation for SparseMla {
    fn values(&self) -> Vec<String> {
        vec![
            self.batch.to_string(),
            self.context.to_string(),
            self.new_tokens.to_string(),
            self.q_heads.to_string(),
            self.top_k.to_string(),
            self.latent_dim.to_string(),
            self.rope_dim.to_string(),
            self.dtype.to_string(),
            self.kv_dtype.to_string(),
        ]
    }

    fn check(&self) -> Result<(), ProblemError> {
        let SparseMla { batch, context, new_tokens, .. } = *self;
        Requests { batch, context, lengths: Lengths::Equal, new_tokens }.check()?;
        self.dense().check_records()
    }

    fn magnitude(&self) -> Magnitude {
        let tokens = product(&[self.batch, self.new_tokens]);
        let attended = tokens * self.top_k.min(self.context) as f64;
        let widths = self.dense().key_dim() + self.latent_dim;
        let of_query = product(&[self.q_heads, widths]);
        let keys = product(&[self.batch, self.context, self.dense().key_dim()]);
        Magnitude {
            flops: 2.0 * attended * of_query,
            elements: keys + attended + tokens * of_query,
        }
    }

    fn work(&self) -> Work {
        let dense = self.dense();
        let widths = dense.key_dim() + self.latent_dim;
        let flops = 2 * self.q_heads * widths * self.attended();
        let q_bytes = self.dtype.bytes_of(dense.rows() * dense.key_dim());
        let o_bytes = self.dtype.bytes_of(dense.rows() * self.latent_dim);
        Work::NONE
            .with(Resource::Matrix(self.dtype), flops)
            .with_bytes(self.cache_bytes() + q_bytes, o_bytes)
    }

    fn explanation(&self) -> Explanation {
        Explanation::results(&self.work())
    }

    fn tensors(&self) -> Vec<Tensor> {
        let dense = self.dense();
        let values = TensorFormat::Values(self.dtype);
        let (kv_format, elements) = dense.records(self.batch * self.context);
        let input =
            |name, format, elements| Tensor::new(name, Role::Input, format, elements);
        vec![
            input("kv", kv_format, elements),
            input("tokens", TensorFormat::PageTable, self.attended()),
            input("q", values, dense.rows() * dense.key_dim()),
            Tensor::new("o", Role::Output, values, dense.rows() * self.latent_dim),
        ]
    }

    fn weight_bytes(&self) -> u64 {
        0
    }

    fn cache_bytes(&self) -> u64 {
        self.batch * self.records() * self.dense().record_bytes() + 4 * self.attended()
    }

    fn has_usual_data(&self) -> bool {
        true
    }

    fn routed(&self) -> Option<Routed> {
        None
    }
}

not_compared!(SparseMla);

#[cfg(test)]
mod tests {
    use super::*;
    use crate::op::Problem;

    fn problem(text: &str) -> Problem {
        text.parse().unwrap_or_else(|why| panic!("{text}: {why}"))
    }

    /// A layer of DeepSeek-V3.2 at 65,536 tokens: what 2048 tokens take, whatever the
    /// context, and a number for each.
    #[test]
    fn few_tokens_are_read_golden() {
        let of = |context: u64| {
            problem(&format!(
                "sparse_mla:batch=1,context={context},q_heads=128,top_k=2048,dtype=bf16"
            ))
        };
        let long = of(65_536);
        assert_eq!(long.work().flops(), 2 * 128 * 1088 * 2048);
        assert_eq!(long.cache_bytes(), 2048 * (576 * 2 + 4));
        assert_eq!(long.work().bytes_read(), 2048 * 1156 + 128 * 576 * 2);
        assert_eq!(long.work().bytes_written(), 128 * 512 * 2);
        assert_eq!(of(1 << 20).work(), long.work());
        // Where there are fewer, it is attention to all of them.
        let dense =
            problem("mla_decode:batch=1,context=1000,q_heads=128,dtype=bf16").work();
        assert_eq!(of(1000).work().flops(), dense.flops());
        assert_eq!(of(1000).work().bytes(), dense.bytes() + 4 * 1000);
    }

    #[test]
    fn records_of_8_bits_are_those_of_dense_attention() {
        let text = "sparse_mla:batch=1,context=4096,q_heads=128,top_k=64,dtype=bf16,\
                    kv_dtype=fp8_e4m3";
        assert_eq!(problem(text).cache_bytes(), 64 * (656 + 4));
    }

    #[test]
    fn sums_are_those_of_tokens_one_by_one() {
        for (top_k, context) in (1..12).flat_map(|k| (1..12).map(move |s| (k, s))) {
            for new_tokens in 1..=context {
                let seen = (context - new_tokens + 1..=context).map(|seen| seen.min(top_k));
                assert_eq!(
                    attended_at_most(top_k, context, new_tokens),
                    seen.sum::<u64>(),
                    "{top_k} {context} {new_tokens}"
                );
            }
        }
    }
}

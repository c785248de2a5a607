//! Language models, as their published configurations state them. Users add models in a
//! file of the same form, `--models FILE`.

use std::path::Path;

use anyhow::Result;
use serde::Deserialize;

use super::table::{self, Raw};

/// A model.
#[derive(Clone, Debug, PartialEq)]
pub struct Llm {
    /// Short name.
    pub name: String,
    /// Layers, all with attention.
    pub layers: u64,
    /// Width of the residual stream, in elements.
    pub hidden: u64,
    /// Number of tokens in the vocabulary.
    pub vocab: u64,
    /// Whether the head shares the weights of the embedding.
    pub tied_embeddings: bool,
    /// Parameters as published.
    pub parameters: Option<u64>,
    /// How tokens attend.
    pub attention: AttentionKind,
    /// Layers with a sliding window, if there are any.
    pub windows: Option<Windows>,
    /// Width of the gated feed-forward of dense layers; 0 where no layer is dense.
    pub intermediate: u64,
    /// Routed experts, in all but the first layers.
    pub experts: Option<Experts>,
    /// Norms in each layer, each as wide as the residual stream.
    pub norms_per_layer: u64,
    /// Longest context that the model was made for, in tokens.
    pub context_limit: Option<u64>,
    /// Where the numbers are published.
    pub source: String,
}

/// How tokens attend.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AttentionKind {
    /// Groups of query heads that share keys and values: MHA, GQA and MQA.
    Heads {
        /// Query heads.
        q_heads: u64,
        /// Key and value heads.
        kv_heads: u64,
        /// Width of a head.
        head_dim: u64,
        /// Whether the projections of queries, keys and values add a bias.
        qkv_bias: bool,
        /// Whether queries and keys are normalized, with weights that all heads share.
        qk_norm: bool,
    },
    /// Latent attention (MLA).
    Latent {
        /// Query heads.
        q_heads: u64,
        /// Width of the latent vectors of queries; `None` where queries have none.
        q_lora_rank: Option<u64>,
        /// Width of the latent vectors of keys and values.
        kv_lora_rank: u64,
        /// Width of the part of a head's key that has no position.
        qk_nope_dim: u64,
        /// Width of the part of a key that carries the position; all heads share it.
        qk_rope_dim: u64,
        /// Width of a head's value.
        v_head_dim: u64,
    },
}

/// Layers with a sliding window.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Windows {
    /// Width of the window, in tokens.
    pub tokens: u64,
    /// One of this many layers has no window.
    pub global_every: u64,
}

/// Routed experts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Experts {
    /// Number of experts in a layer.
    pub count: u64,
    /// Number of experts that a token is routed to.
    pub top_k: u64,
    /// Width of an expert.
    pub intermediate: u64,
    /// Width of the shared experts together, which every token passes; 0 without any.
    pub shared_intermediate: u64,
    /// Layers at the beginning that have no routed experts.
    pub dense_layers: u64,
}

impl Llm {
    /// What there is to say where a context is longer than the model was made for.
    pub fn beyond_limit(&self, context: u64) -> Option<String> {
        let limit = self.context_limit.filter(|limit| context > *limit)?;
        Some(format!("{} was made for contexts up to {limit}", self.name))
    }

    /// Number of layers without a sliding window.
    pub const fn global_layers(&self) -> u64 {
        match self.windows {
            None => self.layers,
            Some(windows) => self.layers / windows.global_every,
        }
    }

    /// Number of layers with routed experts.
    pub const fn expert_layers(&self) -> u64 {
        match self.experts {
            None => 0,
            Some(experts) => self.layers - experts.dense_layers,
        }
    }

    /// Query heads.
    pub const fn q_heads(&self) -> u64 {
        match self.attention {
            AttentionKind::Heads { q_heads, .. }
            | AttentionKind::Latent { q_heads, .. } => q_heads,
        }
    }

    /// Parameters that are not in a matrix: norms and biases.
    pub fn vector_parameters(&self) -> u64 {
        let of_layer = match self.attention {
            AttentionKind::Heads { q_heads, kv_heads, head_dim, qkv_bias, qk_norm } => {
                let bias = if qkv_bias { (q_heads + 2 * kv_heads) * head_dim } else { 0 };
                bias + if qk_norm { 2 * head_dim } else { 0 }
            }
            AttentionKind::Latent { q_lora_rank, kv_lora_rank, .. } => {
                q_lora_rank.unwrap_or(0) + kv_lora_rank
            }
        };
        self.layers * (of_layer + self.norms_per_layer * self.hidden) + self.hidden
    }
}

/// All models, the user's first.
///
/// # Errors
/// A table that cannot be read, does not parse, or has an inconsistent row.
pub fn load(user: Option<&Path>) -> Result<Vec<Llm>> {
    table::load::<ModelRow>(("models.toml", include_str!("models.toml")), user)
}

/// The model with a name.
///
/// # Errors
/// No model has this name; the message lists the nearest names.
pub fn named<'a>(models: &'a [Llm], name: &str) -> Result<&'a Llm> {
    table::named(models, "model", name, |model| &model.name)
}

/// A model as it is written in the table.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct ModelRow {
    name: String,
    layers: u64,
    hidden: u64,
    vocab: u64,
    #[serde(default)]
    tied_embeddings: bool,
    parameters: Option<u64>,
    q_heads: u64,
    kv_heads: Option<u64>,
    head_dim: Option<u64>,
    #[serde(default)]
    qkv_bias: bool,
    #[serde(default)]
    qk_norm: bool,
    norms_per_layer: Option<u64>,
    window: Option<u64>,
    global_every: Option<u64>,
    intermediate: Option<u64>,
    experts: Option<u64>,
    top_k: Option<u64>,
    expert_intermediate: Option<u64>,
    shared_experts: Option<u64>,
    shared_intermediate: Option<u64>,
    dense_layers: Option<u64>,
    kv_lora_rank: Option<u64>,
    q_lora_rank: Option<u64>,
    qk_nope_dim: Option<u64>,
    qk_rope_dim: Option<u64>,
    v_head_dim: Option<u64>,
    context_limit: Option<u64>,
    source: String,
}

/// Largest number in a row: products of a few of them do not overflow the counts.
const MOST: u64 = 1 << 24;

impl ModelRow {
    fn attention(&self) -> Result<AttentionKind, String> {
        let need = |key: &str, value: Option<u64>| {
            value.ok_or_else(|| format!("model {} needs `{key}`", self.name))
        };
        if let Some(kv_lora_rank) = self.kv_lora_rank {
            if self.kv_heads.is_some() || self.head_dim.is_some() {
                return Err(format!(
                    "model {}: latent attention has no `kv_heads` and no `head_dim`; leave out \
                     these or `kv_lora_rank`",
                    self.name
                ));
            }
            return Ok(AttentionKind::Latent {
                q_heads: self.q_heads,
                q_lora_rank: self.q_lora_rank,
                kv_lora_rank,
                qk_nope_dim: need("qk_nope_dim", self.qk_nope_dim)?,
                qk_rope_dim: need("qk_rope_dim", self.qk_rope_dim)?,
                v_head_dim: need("v_head_dim", self.v_head_dim)?,
            });
        }
        let (q_heads, kv_heads) = (self.q_heads, need("kv_heads", self.kv_heads)?);
        if !q_heads.is_multiple_of(kv_heads) {
            return Err(format!(
                "model {}: q_heads = {q_heads} is not a multiple of kv_heads = {kv_heads}; every \
                 key and value head must serve the same number of query heads",
                self.name
            ));
        }
        Ok(AttentionKind::Heads {
            q_heads,
            kv_heads,
            head_dim: need("head_dim", self.head_dim)?,
            qkv_bias: self.qkv_bias,
            qk_norm: self.qk_norm,
        })
    }

    fn experts(&self) -> Result<Option<Experts>, String> {
        let Some(count) = self.experts else { return Ok(None) };
        let (Some(top_k), Some(intermediate)) = (self.top_k, self.expert_intermediate)
        else {
            return Err(format!(
                "model {}: experts need `top_k` and `expert_intermediate`",
                self.name
            ));
        };
        let dense_layers = self.dense_layers.unwrap_or(0);
        if top_k > count || dense_layers > self.layers {
            return Err(format!(
                "model {}: top_k = {top_k} of {count} experts, {dense_layers} dense of {} layers; \
                 top_k must be at most the experts, and dense_layers at most the layers",
                self.name, self.layers
            ));
        }
        let shared = self.shared_experts.unwrap_or(0);
        let shared_intermediate = shared
            * self.shared_intermediate.unwrap_or(self.expert_intermediate.unwrap_or(0));
        Ok(Some(Experts { count, top_k, intermediate, shared_intermediate, dense_layers }))
    }

    fn check_numbers(&self) -> Result<(), String> {
        let numbers = [
            ("layers", Some(self.layers)),
            ("hidden", Some(self.hidden)),
            ("vocab", Some(self.vocab)),
            ("q_heads", Some(self.q_heads)),
            ("kv_heads", self.kv_heads),
            ("head_dim", self.head_dim),
            ("window", self.window),
            ("global_every", self.global_every),
            ("intermediate", self.intermediate),
            ("experts", self.experts),
            ("top_k", self.top_k),
            ("expert_intermediate", self.expert_intermediate),
            ("kv_lora_rank", self.kv_lora_rank),
            ("q_lora_rank", self.q_lora_rank),
            ("qk_nope_dim", self.qk_nope_dim),
            ("qk_rope_dim", self.qk_rope_dim),
            ("v_head_dim", self.v_head_dim),
        ];
        for (key, number) in numbers {
            if number.is_some_and(|n| n == 0 || n > MOST) {
                return Err(format!(
                    "model {}: {key} = {}; it must be from 1 to {MOST}",
                    self.name,
                    number.unwrap_or(0)
                ));
            }
        }
        if self.source.is_empty() {
            return Err(format!(
                "model {}: say in `source` where the numbers are published",
                self.name
            ));
        }
        Ok(())
    }
}

impl Raw for ModelRow {
    type Checked = Llm;
    const KEY: &'static str = "model";

    fn chosen_by(row: &Llm) -> Option<&str> {
        Some(&row.name)
    }

    fn check(self) -> Result<Llm, String> {
        self.check_numbers()?;
        let (attention, experts) = (self.attention()?, self.experts()?);
        let windows = match (self.window, self.global_every) {
            (None, None) => None,
            (Some(tokens), Some(global_every)) => Some(Windows { tokens, global_every }),
            _ => {
                return Err(format!(
                    "model {}: give both `window` and `global_every` or neither",
                    self.name
                ));
            }
        };
        let dense = experts.is_none_or(|experts| experts.dense_layers > 0);
        if dense && self.intermediate.is_none() {
            return Err(format!(
                "model {} has dense layers; give their `intermediate`",
                self.name
            ));
        }
        Ok(Llm {
            name: self.name,
            layers: self.layers,
            hidden: self.hidden,
            vocab: self.vocab,
            tied_embeddings: self.tied_embeddings,
            parameters: self.parameters,
            attention,
            windows,
            intermediate: self.intermediate.unwrap_or(0),
            experts,
            norms_per_layer: self.norms_per_layer.unwrap_or(2),
            context_limit: self.context_limit,
            source: self.source,
        })
    }
}

//! Language models, as their published configurations state them. Users add models in a
//! file of the same form, `--models FILE`.
//!
//! A model is a list of layers. Layers that are alike in everything that costs bytes or
//! FLOPs are one [`LayerKind`] with a count. A layer has a token mixer (attention of some
//! span, latent attention, or a state of fixed size) and a feed-forward part.

mod check;
mod row;
mod written;

use std::path::Path;

use anyhow::Result;

use super::table;
use super::weights::Weights;
pub use row::{ModelRow, hint_for_key, together as kinds_together};

/// A model.
#[derive(Clone, Debug, PartialEq)]
pub struct Llm {
    /// Short name.
    pub name: String,
    /// Kinds of layers, in the order in which they first appear. No two are equal but for
    /// their counts.
    pub kinds: Vec<LayerKind>,
    /// Width of the residual stream, in elements.
    pub hidden: u64,
    /// Number of tokens in the vocabulary.
    pub vocab: u64,
    /// Whether the head shares the weights of the embedding.
    pub tied_embeddings: bool,
    /// Parameters as published.
    pub parameters: Option<u64>,
    /// Longest context that the model was made for, in tokens.
    pub context_limit: Option<u64>,
    /// Formats in which its weights are published, where that is known.
    pub weights: Option<Weights>,
    /// Where the numbers are published.
    pub source: String,
}

/// Layers that are alike.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LayerKind {
    /// How many there are.
    pub count: u64,
    /// How tokens see each other.
    pub mixer: Mixer,
    /// What is done to each token on its own.
    pub feed_forward: FeedForward,
    /// Norms in each layer, each as wide as the residual stream.
    pub norms: u64,
}

/// How tokens of a layer see each other.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mixer {
    /// Not at all: the layer has a feed-forward part only.
    None,
    /// Attention of heads: MHA, GQA and MQA.
    Heads(Heads),
    /// Latent attention (MLA).
    Latent(Latent),
    /// Linear attention or a state-space model: a state of fixed size.
    State(StateSpace),
}

/// Groups of query heads that share keys and values.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Heads {
    /// Query heads.
    pub q_heads: u64,
    /// Key and value heads.
    pub kv_heads: u64,
    /// Width of a head.
    pub head_dim: u64,
    /// Whether the projections of queries, keys and values add a bias.
    pub qkv_bias: bool,
    /// Whether queries and keys are normalized, with weights that all heads share.
    pub qk_norm: bool,
    /// Whether the output is multiplied by a gate, which is projected beside the queries
    /// and as wide as they are.
    pub output_gate: bool,
    /// Which tokens a token attends to.
    pub span: Span,
    /// Whether keys and values are those of an earlier layer: there is nothing to project,
    /// append or keep.
    pub shares_cache: bool,
}

/// Which earlier tokens a token attends to, itself included.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Span {
    /// All.
    Full,
    /// The last so many.
    Window(u64),
    /// Those of its own chunk of so many tokens.
    Chunk(u64),
}

impl Span {
    /// Most tokens of a context that must be kept.
    pub const fn kept(self, context: u64) -> u64 {
        match self {
            Span::Full => context,
            Span::Window(most) | Span::Chunk(most) => {
                if context < most {
                    context
                } else {
                    most
                }
            }
        }
    }
}

/// Latent attention.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Latent {
    /// Query heads.
    pub q_heads: u64,
    /// Width of the latent vectors of queries; `None` where queries have none.
    pub q_lora_rank: Option<u64>,
    /// Width of the latent vectors of keys and values.
    pub kv_lora_rank: u64,
    /// Width of the part of a head's key that has no position.
    pub qk_nope_dim: u64,
    /// Width of the part of a key that carries the position; all heads share it.
    pub qk_rope_dim: u64,
    /// Width of a head's value.
    pub v_head_dim: u64,
    /// What chooses the tokens that are attended to, where it is not all of them.
    pub index: Option<Index>,
}

/// An index over the context, as the lightning indexer of DeepSeek-V3.2: each new token is
/// scored against one key of every earlier token, and attends to the best of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Index {
    /// Query heads of the index; all share its keys.
    pub heads: u64,
    /// Width of an index key.
    pub head_dim: u64,
    /// Tokens that are attended to, at most.
    pub top_k: u64,
}

/// A state of fixed size for each request and head, `[key_dim][value_dim]`, which every
/// token decays and adds to: linear attention and state-space models (Mamba-2).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StateSpace {
    /// Heads, each with a state.
    pub heads: u64,
    /// Heads of keys and queries, which several heads share (groups of B and C in Mamba-2).
    pub key_heads: u64,
    /// Width of keys and queries (the state size of Mamba-2).
    pub key_dim: u64,
    /// Width of values.
    pub value_dim: u64,
    /// Taps of a causal convolution over queries, keys and values; 0 without one.
    pub conv_taps: u64,
    /// How a token changes the state.
    pub rule: StateRule,
    /// What decays the state.
    pub decay: StateDecay,
    /// Width of the projection that decays are made by way of; `None` for a direct one.
    pub decay_rank: Option<u64>,
    /// What the output is multiplied by.
    pub gate: StateGate,
}

impl StateSpace {
    /// Channels of queries, keys and values together, which a convolution goes over.
    pub const fn channels(&self) -> u64 {
        2 * self.key_heads * self.key_dim + self.heads * self.value_dim
    }

    /// Decays of a token.
    pub const fn decays(&self) -> u64 {
        match self.decay {
            StateDecay::Fixed => 0,
            StateDecay::Head => self.heads,
            StateDecay::Channel => self.heads * self.key_dim,
        }
    }
}

pub use crate::op::{StateDecay, StateRule};

/// A gate of the output of a state-space layer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StateGate {
    /// None.
    None,
    /// A projection of the layer's input, as wide as the values of all heads.
    Full,
    /// The same by way of a narrower one.
    LowRank(u64),
}

/// What a layer does to each token on its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FeedForward {
    /// Nothing.
    None,
    /// The same weights for all tokens.
    Dense(Dense),
    /// Routed experts.
    Experts(Experts),
}

/// A dense feed-forward part.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Dense {
    /// Its width.
    pub intermediate: u64,
    /// Whether it is gated: three matrices and not two.
    pub gated: bool,
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
    /// Whether experts are gated.
    pub gated: bool,
}

impl Llm {
    /// What there is to say where a context is longer than the model was made for.
    pub fn beyond_limit(&self, context: u64) -> Option<String> {
        let limit = self.context_limit.filter(|limit| context > *limit)?;
        Some(format!("{} was made for contexts up to {limit}", self.name))
    }

    /// Number of layers.
    pub fn layers(&self) -> u64 {
        self.kinds.iter().map(|kind| kind.count).sum()
    }

    /// Number of layers with routed experts.
    pub fn expert_layers(&self) -> u64 {
        let routed =
            |kind: &&LayerKind| matches!(kind.feed_forward, FeedForward::Experts(_));
        self.kinds.iter().filter(routed).map(|kind| kind.count).sum()
    }

    /// Token mixers and the number of layers that have each, in the order in which they
    /// first appear.
    pub fn mixers(&self) -> Vec<(Mixer, u64)> {
        together(self.kinds.iter().map(|kind| (kind.mixer, kind.count)))
    }

    /// Feed-forward parts and the number of layers that have each, in the order in which
    /// they first appear.
    pub fn feed_forwards(&self) -> Vec<(FeedForward, u64)> {
        together(self.kinds.iter().map(|kind| (kind.feed_forward, kind.count)))
    }

    /// Parameters that are in no problem of a step: norms and biases.
    pub fn vector_parameters(&self) -> u64 {
        let of_kind = |kind: &LayerKind| {
            let vectors = kind.mixer.vector_parameters() + kind.norms * self.hidden;
            kind.count * vectors
        };
        self.kinds.iter().map(of_kind).sum::<u64>() + self.hidden
    }
}

impl Mixer {
    /// Those of a layer, without the norms of its input.
    pub const fn vector_parameters(&self) -> u64 {
        match *self {
            Mixer::None => 0,
            Mixer::Heads(Heads {
                q_heads, kv_heads, head_dim, qkv_bias, qk_norm, ..
            }) => {
                let bias = if qkv_bias { (q_heads + 2 * kv_heads) * head_dim } else { 0 };
                bias + if qk_norm { 2 * head_dim } else { 0 }
            }
            Mixer::Latent(Latent { q_lora_rank, kv_lora_rank, index, .. }) => {
                let queries = match q_lora_rank {
                    Some(rank) => rank,
                    None => 0,
                };
                // The index's key has a norm with weight and bias.
                let index = match index {
                    Some(index) => 2 * index.head_dim,
                    None => 0,
                };
                queries + kv_lora_rank + index
            }
            // Each head has a decay rate and a bias of its step; a norm follows the heads.
            // Taps of the convolution are in the problem of the state.
            Mixer::State(state) => 2 * state.heads + state.value_dim,
        }
    }
}

/// Adds up the counts of equal things.
fn together<T: PartialEq>(all: impl Iterator<Item = (T, u64)>) -> Vec<(T, u64)> {
    let mut counted: Vec<(T, u64)> = Vec::with_capacity(4);
    for (thing, count) in all {
        match counted.iter_mut().find(|(known, _)| *known == thing) {
            Some((_, known)) => *known += count,
            None => counted.push((thing, count)),
        }
    }
    counted
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

#[cfg(test)]
mod tests;

//! Rows of `models.toml`: keys, their ranges, and the layers that they state.

use serde::Deserialize;

use super::check::{MOST, MOST_LAYERS, product, range};
use super::{
    Dense, Experts, FeedForward, Heads, Index, Latent, LayerKind, Llm, Mixer, Span,
    StateDecay, StateGate, StateRule, StateSpace,
};
use crate::model::table::Raw;

/// A token mixer as a row names it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
enum MixerName {
    Attention,
    State,
    None,
}

/// A feed-forward part as a row names it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
enum FeedForwardName {
    Dense,
    Experts,
    None,
}

/// The keys of a layer: with them a row states what all layers have, and an entry of
/// `layer_list` what its layers have instead.
macro_rules! layer_keys {
    ($($key:ident: $type:ty,)*) => {
        /// Layers of one kind, as an entry of `layer_list` has them.
        #[derive(Clone, Debug, Default, Deserialize)]
        #[serde(deny_unknown_fields)]
        struct LayerKeys {
            count: Option<u64>,
            mixer: Option<MixerName>,
            feed_forward: Option<FeedForwardName>,
            window: Option<u64>,
            chunk: Option<u64>,
            shares_cache: Option<bool>,
            $($key: Option<$type>,)*
        }

        impl LayerKeys {
            /// The same with what a row states for all layers, where these state nothing.
            fn or(&self, row: &ModelRow) -> LayerKeys {
                LayerKeys {
                    $($key: self.$key.or(row.$key),)*
                    ..self.clone()
                }
            }

            /// What a row without a list states for all layers.
            fn of_row(row: &ModelRow) -> LayerKeys {
                LayerKeys { $($key: row.$key,)* ..LayerKeys::default() }
            }
        }

        /// A model as it is written in a table.
        #[derive(Debug, Deserialize)]
        #[serde(deny_unknown_fields)]
        pub struct ModelRow {
            name: String,
            layers: Option<u64>,
            hidden: u64,
            vocab: u64,
            #[serde(default)]
            tied_embeddings: bool,
            parameters: Option<u64>,
            window: Option<u64>,
            global_every: Option<u64>,
            dense_layers: Option<u64>,
            context_limit: Option<u64>,
            weights: Option<String>,
            source: String,
            layer_list: Option<Vec<LayerKeys>>,
            $($key: Option<$type>,)*
        }
    };
}

layer_keys! {
    q_heads: u64,
    kv_heads: u64,
    head_dim: u64,
    qkv_bias: bool,
    qk_norm: bool,
    output_gate: bool,
    norms_per_layer: u64,
    intermediate: u64,
    gated: bool,
    experts: u64,
    top_k: u64,
    expert_intermediate: u64,
    shared_experts: u64,
    shared_intermediate: u64,
    kv_lora_rank: u64,
    q_lora_rank: u64,
    qk_nope_dim: u64,
    qk_rope_dim: u64,
    v_head_dim: u64,
    index_heads: u64,
    index_dim: u64,
    index_top_k: u64,
    state_heads: u64,
    state_key_heads: u64,
    state_key_dim: u64,
    state_value_dim: u64,
    conv_taps: u64,
    state_rule: StateRule,
    state_decay: StateDecay,
    decay_rank: u64,
    state_gate: bool,
    gate_rank: u64,
}

/// Hugging Face's name of a key and this table's.
const OTHER_NAMES: [(&str, &str); 25] = [
    ("num_hidden_layers", "layers"),
    ("n_layer", "layers"),
    ("hidden_size", "hidden"),
    ("n_embd", "hidden"),
    ("vocab_size", "vocab"),
    ("tie_word_embeddings", "tied_embeddings"),
    ("num_attention_heads", "q_heads"),
    ("n_head", "q_heads"),
    ("num_key_value_heads", "kv_heads"),
    ("attention_bias", "qkv_bias"),
    ("intermediate_size", "intermediate"),
    ("sliding_window", "window"),
    ("sliding_window_pattern", "global_every"),
    ("max_position_embeddings", "context_limit"),
    ("num_experts", "experts"),
    ("n_routed_experts", "experts"),
    ("num_local_experts", "experts"),
    ("num_experts_per_tok", "top_k"),
    ("moe_intermediate_size", "expert_intermediate"),
    ("n_shared_experts", "shared_experts"),
    ("first_k_dense_replace", "dense_layers"),
    ("qk_nope_head_dim", "qk_nope_dim"),
    ("qk_rope_head_dim", "qk_rope_dim"),
    ("layer_types", "layer_list"),
    ("index_topk", "index_top_k"),
];

/// The key of a row that states what a key of Hugging Face's config.json does, if it is one.
pub fn hint_for_key(key: &str) -> Option<&'static str> {
    OTHER_NAMES.iter().find(|(other, _)| *other == key).map(|(_, own)| *own)
}

impl LayerKeys {
    /// Refuses numbers that are none of a model's, whether layers have use for them or not.
    fn check_numbers(&self) -> Result<(), String> {
        let sizes = [
            ("q_heads", self.q_heads),
            ("kv_heads", self.kv_heads),
            ("head_dim", self.head_dim),
            ("intermediate", self.intermediate),
            ("experts", self.experts),
            ("top_k", self.top_k),
            ("expert_intermediate", self.expert_intermediate),
            ("kv_lora_rank", self.kv_lora_rank),
            ("q_lora_rank", self.q_lora_rank),
            ("qk_nope_dim", self.qk_nope_dim),
            ("qk_rope_dim", self.qk_rope_dim),
            ("v_head_dim", self.v_head_dim),
            ("index_heads", self.index_heads),
            ("index_dim", self.index_dim),
            ("index_top_k", self.index_top_k),
            ("state_heads", self.state_heads),
            ("state_key_heads", self.state_key_heads),
            ("state_key_dim", self.state_key_dim),
            ("state_value_dim", self.state_value_dim),
            ("decay_rank", self.decay_rank),
            ("gate_rank", self.gate_rank),
        ];
        for (key, number) in sizes {
            range(key, number.unwrap_or(1), 1, MOST)?;
        }
        let counts = [
            ("shared_experts", self.shared_experts),
            ("shared_intermediate", self.shared_intermediate),
            ("conv_taps", self.conv_taps),
            ("norms_per_layer", self.norms_per_layer),
        ];
        counts
            .into_iter()
            .try_for_each(|(key, count)| range(key, count.unwrap_or(0), 0, MOST))
    }

    /// The layers of these keys.
    fn kind(&self) -> Result<LayerKind, String> {
        self.check_numbers()?;
        let kind = LayerKind {
            count: self.count.unwrap_or(1),
            mixer: self.mixer()?,
            feed_forward: self.feed_forward()?,
            norms: self.norms_per_layer.unwrap_or(2),
        };
        kind.check()?;
        Ok(kind)
    }

    fn mixer(&self) -> Result<Mixer, String> {
        match self.mixer.unwrap_or(MixerName::Attention) {
            MixerName::None => Ok(Mixer::None),
            MixerName::State => self.state().map(Mixer::State),
            MixerName::Attention if self.kv_lora_rank.is_some() => {
                self.latent().map(Mixer::Latent)
            }
            MixerName::Attention => self.heads().map(Mixer::Heads),
        }
    }

    fn heads(&self) -> Result<Heads, String> {
        let (q_heads, kv_heads) =
            (need("q_heads", self.q_heads)?, need("kv_heads", self.kv_heads)?);
        let head_dim = need("head_dim", self.head_dim)?;
        if self.index_top_k.is_some() {
            return Err(
                "`index_top_k` goes with latent attention; give `kv_lora_rank` or leave \
                        it out"
                    .to_owned(),
            );
        }
        let span = match (self.window, self.chunk) {
            (None, None) => Span::Full,
            (Some(tokens), None) => Span::Window(tokens),
            (None, Some(tokens)) => Span::Chunk(tokens),
            (Some(_), Some(_)) => {
                return Err("give `window` or `chunk`, not both".to_owned());
            }
        };
        Ok(Heads {
            q_heads,
            kv_heads,
            head_dim,
            qkv_bias: self.qkv_bias.unwrap_or(false),
            qk_norm: self.qk_norm.unwrap_or(false),
            output_gate: self.output_gate.unwrap_or(false),
            span,
            shares_cache: self.shares_cache.unwrap_or(false),
        })
    }

    fn latent(&self) -> Result<Latent, String> {
        if self.kv_heads.is_some() || self.head_dim.is_some() {
            return Err(
                "latent attention has no `kv_heads` and no `head_dim`; leave out these \
                        or `kv_lora_rank`"
                    .to_owned(),
            );
        }
        if self.window.is_some() || self.chunk.is_some() || self.shares_cache == Some(true)
        {
            return Err(
                "latent attention is to all tokens or to `index_top_k` of them; leave \
                        out `window`, `chunk` and `shares_cache`"
                    .to_owned(),
            );
        }
        Ok(Latent {
            q_heads: need("q_heads", self.q_heads)?,
            q_lora_rank: self.q_lora_rank,
            kv_lora_rank: need("kv_lora_rank", self.kv_lora_rank)?,
            qk_nope_dim: need("qk_nope_dim", self.qk_nope_dim)?,
            qk_rope_dim: need("qk_rope_dim", self.qk_rope_dim)?,
            v_head_dim: need("v_head_dim", self.v_head_dim)?,
            index: self.index()?,
        })
    }

    fn index(&self) -> Result<Option<Index>, String> {
        let Some(top_k) = self.index_top_k else { return Ok(None) };
        Ok(Some(Index {
            heads: need("index_heads", self.index_heads)?,
            head_dim: need("index_dim", self.index_dim)?,
            top_k,
        }))
    }

    fn state(&self) -> Result<StateSpace, String> {
        let heads = need("state_heads", self.state_heads)?;
        let key_heads = self.state_key_heads.unwrap_or(heads);
        let key_dim = need("state_key_dim", self.state_key_dim)?;
        let value_dim = need("state_value_dim", self.state_value_dim)?;
        let gate = match (self.state_gate.unwrap_or(true), self.gate_rank) {
            (false, None) => StateGate::None,
            (true, None) => StateGate::Full,
            (true, Some(rank)) => StateGate::LowRank(rank),
            (false, Some(_)) => {
                return Err("`gate_rank` goes with a gate; leave it out or write \
                            `state_gate = true`"
                    .to_owned());
            }
        };
        Ok(StateSpace {
            heads,
            key_heads,
            key_dim,
            value_dim,
            conv_taps: self.conv_taps.unwrap_or(0),
            rule: need("state_rule", self.state_rule)?,
            decay: need("state_decay", self.state_decay)?,
            decay_rank: self.decay_rank,
            gate,
        })
    }

    fn feed_forward(&self) -> Result<FeedForward, String> {
        let of_keys = match self.experts {
            Some(_) => FeedForwardName::Experts,
            None => FeedForwardName::Dense,
        };
        Ok(match self.feed_forward.unwrap_or(of_keys) {
            FeedForwardName::None => FeedForward::None,
            FeedForwardName::Experts => FeedForward::Experts(self.routed()?),
            FeedForwardName::Dense => FeedForward::Dense(Dense {
                intermediate: self
                    .intermediate
                    .ok_or("has dense layers; give their `intermediate`")?,
                gated: self.gated.unwrap_or(true),
            }),
        })
    }

    fn routed(&self) -> Result<Experts, String> {
        let (Some(count), Some(top_k), Some(intermediate)) =
            (self.experts, self.top_k, self.expert_intermediate)
        else {
            return Err(
                "experts need `experts`, `top_k` and `expert_intermediate`".to_owned()
            );
        };
        let shared = self.shared_experts.unwrap_or(0);
        let width = self.shared_intermediate.unwrap_or(intermediate);
        product(("shared_experts", shared), ("width of each", width))?;
        Ok(Experts {
            count,
            top_k,
            intermediate,
            shared_intermediate: shared * width,
            gated: self.gated.unwrap_or(true),
        })
    }
}

fn need<T>(key: &str, value: Option<T>) -> Result<T, String> {
    value.ok_or_else(|| format!("needs `{key}`"))
}

impl ModelRow {
    fn check_numbers(&self) -> Result<(), String> {
        range("layers", self.layers.unwrap_or(1), 1, MOST_LAYERS)?;
        range("global_every", self.global_every.unwrap_or(1), 1, MOST)?;
        range("dense_layers", self.dense_layers.unwrap_or(0), 0, MOST_LAYERS)?;
        if self.source.is_empty() {
            return Err("say in `source` where the numbers are published".to_owned());
        }
        Ok(())
    }

    /// Kinds of layers, of the list or of the keys that stand for one.
    fn kinds(&self) -> Result<Vec<LayerKind>, String> {
        let Some(list) = &self.layer_list else { return self.kinds_of_keys() };
        let numbers = [self.layers, self.window, self.global_every, self.dense_layers];
        if numbers.iter().any(Option::is_some) {
            return Err("`layer_list` states all layers; leave out `layers`, `window`, \
                        `global_every` and `dense_layers`, or write them into the list"
                .to_owned());
        }
        if list.is_empty() {
            return Err("`layer_list` is empty; give at least one kind of layer".to_owned());
        }
        let mut kinds = Vec::new();
        for (number, entry) in (1..).zip(list) {
            let kind = entry.or(self).kind();
            kinds.push(kind.map_err(|e| format!("entry {number} of layer_list: {e}"))?);
        }
        let layers: u64 = kinds.iter().map(|kind| kind.count).sum();
        if layers > MOST_LAYERS {
            return Err(format!(
                "layer_list has {layers} layers; at most are {MOST_LAYERS}"
            ));
        }
        Ok(together(kinds))
    }

    /// Kinds of layers of a row without a list. Layers with a window and without one, and
    /// dense ones at the beginning.
    fn kinds_of_keys(&self) -> Result<Vec<LayerKind>, String> {
        let layers = need("layers", self.layers)?;
        let dense_layers = match self.experts {
            Some(_) => self.dense_layers.unwrap_or(0),
            None => 0,
        };
        if dense_layers > layers {
            return Err(format!(
                "{dense_layers} dense of {layers} layers; dense_layers must be at most the layers"
            ));
        }
        let plain = LayerKeys::of_row(self);
        let is_windowed = |layer: u64| match self.global_every {
            Some(every) => !layer.is_multiple_of(every),
            None => false,
        };
        if self.window.is_some() != self.global_every.is_some() {
            return Err("give both `window` and `global_every` or neither".to_owned());
        }
        let kind_of = |windowed: bool, dense: bool| -> Result<LayerKind, String> {
            let mut keys = plain.clone();
            keys.window = self.window.filter(|_| windowed);
            keys.feed_forward = dense.then_some(FeedForwardName::Dense);
            keys.kind()
        };
        let mut kinds = Vec::new();
        let mut last = None;
        for layer in 1..=layers {
            let of = (is_windowed(layer), layer <= dense_layers);
            let kind = match last {
                Some((same, kind)) if same == of => kind,
                _ => kind_of(of.0, of.1)?,
            };
            last = Some((of, kind));
            add(&mut kinds, kind);
        }
        Ok(kinds)
    }
}

/// Adds layers to the kinds, beside those that are equal.
fn add(kinds: &mut Vec<LayerKind>, kind: LayerKind) {
    let is_equal =
        |known: &&mut LayerKind| LayerKind { count: kind.count, ..**known } == kind;
    match kinds.iter_mut().find(is_equal) {
        Some(known) => known.count += kind.count,
        None => kinds.push(kind),
    }
}

/// Kinds of which no two are equal but for their counts.
pub fn together(all: impl IntoIterator<Item = LayerKind>) -> Vec<LayerKind> {
    let mut kinds = Vec::new();
    all.into_iter().for_each(|kind| add(&mut kinds, kind));
    kinds
}

impl Raw for ModelRow {
    type Checked = Llm;
    const KEY: &'static str = "model";

    fn chosen_by(row: &Llm) -> Option<&str> {
        Some(&row.name)
    }

    fn check(self) -> Result<Llm, String> {
        let in_model = |error: String| {
            // Sentences that go on from the name, and sentences of their own.
            let goes_on = error.starts_with("needs") || error.starts_with("has ");
            let colon = if goes_on { "" } else { ":" };
            format!("model {}{colon} {error}", self.name)
        };
        self.check_numbers().map_err(in_model)?;
        let kinds = self.kinds().map_err(in_model)?;
        let weights = self.weights.as_deref().map(str::parse).transpose();
        let model = Llm {
            kinds,
            weights: weights.map_err(in_model)?,
            hidden: self.hidden,
            vocab: self.vocab,
            tied_embeddings: self.tied_embeddings,
            parameters: self.parameters,
            context_limit: self.context_limit,
            source: self.source.clone(),
            name: self.name.clone(),
        };
        model.check().map_err(in_model)?;
        Ok(model)
    }

    fn other_name(key: &str) -> Option<&'static str> {
        hint_for_key(key)
    }
}

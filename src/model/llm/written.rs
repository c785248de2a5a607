//! A model as the row of `models.toml` that states it.

use std::fmt::Write;

use super::{
    Dense, Experts, FeedForward, Heads, Latent, LayerKind, Llm, Mixer, Span, StateGate,
    StateSpace,
};

/// Keys and their values as TOML has them.
type Keys = Vec<(&'static str, String)>;

impl Llm {
    /// The row that states the model: reading it gives the same model.
    pub fn row(&self) -> String {
        let mut keys: Keys = vec![("name", quoted(&self.name))];
        let is_flat = match &self.kinds[..] {
            [kind] => match kind.mixer {
                Mixer::Heads(heads) => heads.span == Span::Full && !heads.shares_cache,
                Mixer::Latent(_) => true,
                Mixer::None | Mixer::State(_) => false,
            },
            _ => false,
        };
        let is_flat =
            is_flat && !self.kinds.iter().any(|k| k.feed_forward == FeedForward::None);
        if is_flat {
            keys.push(("layers", self.layers().to_string()));
        }
        keys.push(("hidden", self.hidden.to_string()));
        keys.push(("vocab", self.vocab.to_string()));
        push_flag(&mut keys, "tied_embeddings", self.tied_embeddings, false);
        keys.extend(self.parameters.map(|count| ("parameters", count.to_string())));
        if is_flat {
            self.kinds.iter().for_each(|kind| push_kind(&mut keys, kind));
        }
        keys.extend(self.context_limit.map(|limit| ("context_limit", limit.to_string())));
        keys.extend(self.weights.map(|weights| ("weights", quoted(&weights.to_string()))));
        keys.push(("source", quoted(&self.source)));
        let mut text = "[[model]]\n".to_owned();
        write_keys(&mut text, keys);
        for kind in self.kinds.iter().filter(|_| !is_flat) {
            text.push_str("\n[[model.layer_list]]\n");
            let mut keys = vec![("count", kind.count.to_string())];
            push_kind(&mut keys, kind);
            write_keys(&mut text, keys);
        }
        text
    }
}

fn write_keys(text: &mut String, keys: Keys) {
    for (key, value) in keys {
        // Writing to a string never fails.
        let _ = writeln!(text, "{key} = {value}");
    }
}

fn quoted(text: &str) -> String {
    toml::Value::String(text.to_owned()).to_string()
}

/// A flag that is not its default.
fn push_flag(keys: &mut Keys, key: &'static str, flag: bool, default: bool) {
    if flag != default {
        keys.push((key, flag.to_string()));
    }
}

fn push_numbers<const N: usize>(keys: &mut Keys, numbers: [(&'static str, u64); N]) {
    keys.extend(numbers.map(|(key, number)| (key, number.to_string())));
}

/// The keys of a kind of layers, without their count.
fn push_kind(keys: &mut Keys, kind: &LayerKind) {
    match &kind.mixer {
        Mixer::None => keys.push(("mixer", quoted("none"))),
        Mixer::Heads(heads) => push_heads(keys, heads),
        Mixer::Latent(latent) => push_latent(keys, latent),
        Mixer::State(state) => push_state(keys, state),
    }
    match kind.feed_forward {
        FeedForward::None => keys.push(("feed_forward", quoted("none"))),
        FeedForward::Dense(Dense { intermediate, gated }) => {
            push_numbers(keys, [("intermediate", intermediate)]);
            push_flag(keys, "gated", gated, true);
        }
        FeedForward::Experts(experts) => push_experts(keys, &experts),
    }
    if kind.norms != 2 {
        push_numbers(keys, [("norms_per_layer", kind.norms)]);
    }
}

fn push_heads(keys: &mut Keys, heads: &Heads) {
    push_numbers(
        keys,
        [
            ("q_heads", heads.q_heads),
            ("kv_heads", heads.kv_heads),
            ("head_dim", heads.head_dim),
        ],
    );
    push_flag(keys, "qkv_bias", heads.qkv_bias, false);
    push_flag(keys, "qk_norm", heads.qk_norm, false);
    push_flag(keys, "output_gate", heads.output_gate, false);
    match heads.span {
        Span::Full => {}
        Span::Window(tokens) => push_numbers(keys, [("window", tokens)]),
        Span::Chunk(tokens) => push_numbers(keys, [("chunk", tokens)]),
    }
    push_flag(keys, "shares_cache", heads.shares_cache, false);
}

fn push_latent(keys: &mut Keys, latent: &Latent) {
    push_numbers(
        keys,
        [("q_heads", latent.q_heads), ("kv_lora_rank", latent.kv_lora_rank)],
    );
    keys.extend(latent.q_lora_rank.map(|rank| ("q_lora_rank", rank.to_string())));
    push_numbers(
        keys,
        [
            ("qk_nope_dim", latent.qk_nope_dim),
            ("qk_rope_dim", latent.qk_rope_dim),
            ("v_head_dim", latent.v_head_dim),
        ],
    );
    if let Some(index) = latent.index {
        push_numbers(
            keys,
            [
                ("index_heads", index.heads),
                ("index_dim", index.head_dim),
                ("index_top_k", index.top_k),
            ],
        );
    }
}

fn push_state(keys: &mut Keys, state: &StateSpace) {
    keys.push(("mixer", quoted("state")));
    push_numbers(
        keys,
        [
            ("state_heads", state.heads),
            ("state_key_heads", state.key_heads),
            ("state_key_dim", state.key_dim),
            ("state_value_dim", state.value_dim),
            ("conv_taps", state.conv_taps),
        ],
    );
    keys.push(("state_rule", quoted(state.rule.name())));
    keys.push(("state_decay", quoted(state.decay.name())));
    keys.extend(state.decay_rank.map(|rank| ("decay_rank", rank.to_string())));
    match state.gate {
        StateGate::None => push_flag(keys, "state_gate", false, true),
        StateGate::Full => {}
        StateGate::LowRank(rank) => push_numbers(keys, [("gate_rank", rank)]),
    }
}

fn push_experts(keys: &mut Keys, experts: &Experts) {
    push_numbers(
        keys,
        [
            ("experts", experts.count),
            ("top_k", experts.top_k),
            ("expert_intermediate", experts.intermediate),
        ],
    );
    if experts.shared_intermediate > 0 {
        let width = experts.shared_intermediate;
        push_numbers(keys, [("shared_experts", 1), ("shared_intermediate", width)]);
    }
    push_flag(keys, "gated", experts.gated, true);
}

//! Token mixers of a configuration's layers.

use serde_json::{Map, Value};

use super::config::{Config, check_length, whole};
use super::family::{Family, WindowRule};
use crate::model::llm::{
    Heads, Index, Latent, Mixer, Span, StateDecay, StateGate, StateRule, StateSpace,
};

/// Most layers of a configuration.
const MOST_LAYERS: u64 = 1 << 16;

const LAYERS: [&str; 4] = ["num_hidden_layers", "n_layer", "n_layers", "num_layers"];
const TYPES: [&str; 2] = ["layer_types", "layers_block_type"];

/// What a layer's type says of its mixer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Type {
    /// Attention of this span.
    Attention(Span),
    /// A state of fixed size.
    State,
    /// A feed-forward part alone.
    None,
}

/// Number of layers: stated, or that of the list of their types.
pub fn layer_count(config: &Config) -> Result<u64, String> {
    let stated = config.number(&LAYERS, "layers")?;
    let list = match pattern(config) {
        Some(pattern) => Some(pattern.len() as u64),
        None if stated.is_none() => {
            config.names(&TYPES, "layer_list")?.map(|list| list.len() as u64)
        }
        None => None,
    };
    // Nemotron-H's number of layers is that of its pattern.
    let layers = list.or(stated).ok_or("states no `num_hidden_layers`")?;
    if layers == 0 || layers > MOST_LAYERS {
        return Err(format!("has {layers} layers; it must have from 1 to {MOST_LAYERS}"));
    }
    Ok(layers)
}

/// A letter for each layer, as Nemotron-H has them.
fn pattern<'a>(config: &Config<'a>) -> Option<&'a str> {
    config.text(&["hybrid_override_pattern"], "layer_list")
}

/// Types of the layers that have a feed-forward part alone, or none: those of Nemotron-H.
/// `None` where every layer has both parts.
pub fn is_single_part(config: &Config) -> bool {
    config.model_type() == "nemotron_h"
}

/// The mixer of each layer.
pub fn of_layers(
    config: &Config,
    family: &Family,
    (layers, hidden): (u64, u64),
) -> Result<Vec<Mixer>, String> {
    let types = types(config, family, layers)?;
    let is_latent = config.has(&["kv_lora_rank"]);
    let has_heads = types.iter().any(|of| matches!(of, Type::Attention(_)));
    let has_states = types.contains(&Type::State);
    let heads = match has_heads && !is_latent {
        true => heads(config, family, (layers, hidden))?,
        false => Vec::new(),
    };
    let latent = (has_heads && is_latent).then(|| latent(config)).transpose()?;
    let state = has_states.then(|| state(config, hidden)).transpose()?;
    let mut mixers = Vec::with_capacity(layers as usize);
    for (layer, of) in types.into_iter().enumerate() {
        mixers.push(match (of, latent, state) {
            (Type::None, ..) => Mixer::None,
            (Type::State, _, Some(state)) => Mixer::State(state),
            (Type::Attention(_), Some(latent), _) => Mixer::Latent(latent),
            (Type::Attention(span), None, _) => {
                Mixer::Heads(Heads { span, ..heads[layer] })
            }
            (Type::State, _, None) => return Err("has states without sizes".to_owned()),
        });
    }
    share_caches(config, &mut mixers)?;
    Ok(mixers)
}

/// The last layers of some models have the keys and values of earlier ones.
fn share_caches(config: &Config, mixers: &mut [Mixer]) -> Result<(), String> {
    let shared = config.number(&["num_kv_shared_layers"], "shares_cache")?.unwrap_or(0);
    let first = (mixers.len() as u64).saturating_sub(shared) as usize;
    for mixer in &mut mixers[first..] {
        if let Mixer::Heads(heads) = mixer {
            heads.shares_cache = true;
        }
    }
    Ok(())
}

fn types(config: &Config, family: &Family, layers: u64) -> Result<Vec<Type>, String> {
    if let Some(pattern) = pattern(config) {
        return pattern.chars().map(of_letter).collect();
    }
    if let Some(names) = config.names(&TYPES, "layer_list")? {
        check_length("layer_types", names.len(), layers)?;
        let width = SpanWidths::of(config, family)?;
        return names.into_iter().map(|name| width.of_name(name)).collect();
    }
    if let Some(types) = states_among(config, layers)? {
        return Ok(types);
    }
    let span = spans(config, family)?;
    Ok((1..=layers).map(|layer| Type::Attention(span.of(layer))).collect())
}

fn of_letter(letter: char) -> Result<Type, String> {
    match letter {
        'M' => Ok(Type::State),
        '*' => Ok(Type::Attention(Span::Full)),
        '-' | 'E' => Ok(Type::None),
        other => Err(format!(
            "hybrid_override_pattern has a layer `{other}`; M, *, - and E are known"
        )),
    }
}

/// Widths that names of types stand for.
struct SpanWidths {
    window: Option<u64>,
    chunk: Option<u64>,
}

impl SpanWidths {
    fn of(config: &Config, family: &Family) -> Result<Self, String> {
        let window = config.number(&["sliding_window", "sliding_window_size"], "window")?;
        let chunk = config.number(&["attention_chunk_size"], "chunk")?;
        Ok(SpanWidths { window: window.or(family.window), chunk })
    }

    fn of_name(&self, name: &str) -> Result<Type, String> {
        let width = |width: Option<u64>, key: &str| {
            let stated = width.filter(|&width| width > 0);
            stated
                .ok_or_else(|| format!("has layers of type `{name}` and states no `{key}`"))
        };
        Ok(match name {
            "full_attention" | "attention" | "global" | "deepseek_sparse_attention" => {
                Type::Attention(Span::Full)
            }
            "sliding_attention" | "sliding_window" | "local" => {
                Type::Attention(Span::Window(width(self.window, "sliding_window")?))
            }
            "chunked_attention" => {
                Type::Attention(Span::Chunk(width(self.chunk, "attention_chunk_size")?))
            }
            "linear_attention" | "mamba" | "mamba2" => Type::State,
            "mlp" | "moe" => Type::None,
            other => {
                return Err(format!("has layers of type `{other}`, which is not known"));
            }
        })
    }
}

/// Layers with states where a key of their family lists them.
fn states_among(config: &Config, layers: u64) -> Result<Option<Vec<Type>>, String> {
    let type_of = |is_attention: bool| match is_attention {
        true => Type::Attention(Span::Full),
        false => Type::State,
    };
    let keys = ["attn_type_list", "decoder_attention_types"];
    if let Some(list) = config.numbers(&keys, "layer_list")? {
        check_length("attn_type_list", list.len(), layers)?;
        return Ok(Some(list.into_iter().map(|of| type_of(of == 1)).collect()));
    }
    if let Some(list) = config.numbers(&["attn_layer_indices"], "layer_list")? {
        let all = (0..layers).map(|layer| type_of(list.contains(&layer)));
        return Ok(Some(all.collect()));
    }
    if let Some(linear) = config.object(&["linear_attn_config"], "state_heads") {
        let list = linear.get("kda_layers").and_then(Value::as_array);
        let list = list.ok_or("`linear_attn_config` states no `kda_layers`")?;
        let list: Vec<u64> =
            list.iter().map(|n| whole("kda_layers", n)).collect::<Result<_, _>>()?;
        let all = (1..=layers).map(|layer| type_of(!list.contains(&layer)));
        return Ok(Some(all.collect()));
    }
    if config.has(&["linear_num_value_heads"]) {
        let every = config.number(&["full_attention_interval"], "layer_list")?.unwrap_or(4);
        let all = (1..=layers).map(|layer| type_of(every > 0 && layer % every == 0));
        return Ok(Some(all.collect()));
    }
    Ok(None)
}

/// Spans by a layer's number, from 1.
enum Spans {
    Same(Span),
    AllBut(Span, u64),
    From(Span, u64),
    Listed(Span, Vec<u64>),
}

impl Spans {
    fn of(&self, layer: u64) -> Span {
        let (span, has_it) = match self {
            Spans::Same(span) => (*span, true),
            Spans::AllBut(span, every) => (*span, !layer.is_multiple_of(*every)),
            Spans::From(span, first) => (*span, layer > *first),
            Spans::Listed(span, flags) => {
                (*span, flags.get(layer as usize - 1).is_some_and(|&flag| flag != 0))
            }
        };
        if has_it { span } else { Span::Full }
    }
}

fn spans(config: &Config, family: &Family) -> Result<Spans, String> {
    let none = Spans::Same(Span::Full);
    let SpanWidths { window, chunk } = SpanWidths::of(config, family)?;
    let window = window.filter(|&tokens| tokens > 0).map(Span::Window);
    let chunk = chunk.filter(|&tokens| tokens > 0).map(Span::Chunk);
    Ok(match (family.windows, window, chunk) {
        (WindowRule::Chunks, _, Some(chunk)) => {
            let flags = config.numbers(&["no_rope_layers"], "chunk")?;
            let every = config.number(&["no_rope_layer_interval"], "chunk")?.unwrap_or(4);
            match flags.filter(|flags| !flags.is_empty()) {
                Some(flags) => Spans::Listed(chunk, flags),
                None => Spans::AllBut(chunk, every.max(1)),
            }
        }
        (WindowRule::All, Some(window), _) => Spans::Same(window),
        (WindowRule::AllBut(every), Some(window), _) => {
            let keys = ["sliding_window_pattern", "_sliding_window_pattern"];
            let stated = config.number(&keys, "global_every")?;
            Spans::AllBut(window, stated.filter(|&every| every > 0).unwrap_or(every))
        }
        (WindowRule::Qwen, window, _) => {
            let used = config.flag(&["use_sliding_window"], "window")?.unwrap_or(false);
            let first = config.number(&["max_window_layers"], "window")?.unwrap_or(0);
            window.filter(|_| used).map_or(none, |window| Spans::From(window, first))
        }
        _ => none,
    })
}

/// Heads of each layer.
fn heads(
    config: &Config,
    family: &Family,
    (layers, hidden): (u64, u64),
) -> Result<Vec<Heads>, String> {
    let keys = ["num_attention_heads", "n_head", "num_heads"];
    let q_heads = config.per_layer(&keys, "q_heads", layers)?;
    let q_heads = q_heads.or_else(|| Some(vec![family.heads.0?; layers as usize]));
    let q_heads = q_heads.ok_or("states no `num_attention_heads`")?;
    let kv_heads = config.per_layer(&["num_key_value_heads"], "kv_heads", layers)?;
    let kv_heads = kv_heads
        .or_else(|| Some(vec![family.heads.1?; layers as usize]))
        .unwrap_or_else(|| q_heads.clone());
    let head_dim = config.number(&["head_dim", "attention_head_dim"], "head_dim")?;
    let head_dim = head_dim.filter(|&width| width > 0).or(family.heads.2);
    let bias = config.flag(&["attention_bias", "qkv_bias", "use_qkv_bias"], "qkv_bias")?;
    let qk_norm = match family.qk_norm {
        true => true,
        // Llama 4 normalizes without weights.
        false if family.has_shared_expert => false,
        false => config.flag(&["use_qk_norm"], "qk_norm")?.unwrap_or(false),
    };
    let gate = config.flag(&["attn_output_gate"], "output_gate")?;
    let of_layer = |(&q_heads, &kv_heads): (&u64, &u64)| {
        let head_dim = match head_dim {
            Some(width) => width,
            None if q_heads > 0 && hidden % q_heads == 0 => hidden / q_heads,
            None => {
                return Err(format!(
                    "states no `head_dim`, and {q_heads} heads do not divide a width of {hidden}"
                ));
            }
        };
        Ok(Heads {
            q_heads,
            kv_heads,
            head_dim,
            qkv_bias: bias.unwrap_or(family.qkv_bias),
            qk_norm,
            output_gate: gate.unwrap_or(family.output_gate),
            span: Span::Full,
            shares_cache: false,
        })
    };
    q_heads.iter().zip(&kv_heads).map(of_layer).collect()
}

fn latent(config: &Config) -> Result<Latent, String> {
    let top_k = config.number(&["index_topk"], "index_top_k")?.filter(|&top_k| top_k > 0);
    let index = match top_k {
        None => None,
        Some(top_k) => Some(Index {
            heads: config.need(&["index_n_heads"], "index_heads")?,
            head_dim: config.need(&["index_head_dim"], "index_dim")?,
            top_k,
        }),
    };
    // All heads share the latents; these say what is not used.
    config.unused(&["num_key_value_heads"], "nothing: all heads share the latents");
    config.unused(&["head_dim"], "nothing: widths of heads are stated by part");
    let rank = config.number(&["q_lora_rank"], "q_lora_rank")?;
    Ok(Latent {
        q_heads: config.need(&["num_attention_heads"], "q_heads")?,
        q_lora_rank: rank.filter(|&rank| rank > 0),
        kv_lora_rank: config.need(&["kv_lora_rank"], "kv_lora_rank")?,
        qk_nope_dim: config.need(&["qk_nope_head_dim"], "qk_nope_dim")?,
        qk_rope_dim: config.need(&["qk_rope_head_dim"], "qk_rope_dim")?,
        v_head_dim: config.need(&["v_head_dim"], "v_head_dim")?,
        index,
    })
}

/// The states of a family, by the keys that state their sizes.
fn state(config: &Config, hidden: u64) -> Result<StateSpace, String> {
    if let Some(linear) = config.object(&["linear_attn_config"], "state_heads") {
        return kimi_delta(linear);
    }
    if config.has(&["linear_num_value_heads"]) {
        return Ok(StateSpace {
            heads: config.need(&["linear_num_value_heads"], "state_heads")?,
            key_heads: config.need(&["linear_num_key_heads"], "state_key_heads")?,
            key_dim: config.need(&["linear_key_head_dim"], "state_key_dim")?,
            value_dim: config.need(&["linear_value_head_dim"], "state_value_dim")?,
            conv_taps: config
                .number(&["linear_conv_kernel_dim"], "conv_taps")?
                .unwrap_or(4),
            rule: StateRule::Delta,
            decay: StateDecay::Head,
            decay_rank: None,
            gate: StateGate::Full,
        });
    }
    if config.has(&["mamba_num_heads", "mamba_n_heads"]) {
        return mamba2(config, hidden);
    }
    if config.model_type().starts_with("minimax") {
        return lightning(config, hidden);
    }
    Err("has layers with states whose sizes are in no key that is known (Mamba-2, gated delta \
         rule, KDA and lightning attention are)"
        .to_owned())
}

fn kimi_delta(linear: &Map<String, Value>) -> Result<StateSpace, String> {
    let need = |key: &str| {
        let value = linear.get(key);
        let value =
            value.ok_or_else(|| format!("`linear_attn_config` states no `{key}`"))?;
        whole(key, value)
    };
    let (heads, width) = (need("num_heads")?, need("head_dim")?);
    Ok(StateSpace {
        heads,
        key_heads: heads,
        key_dim: width,
        value_dim: width,
        conv_taps: need("short_conv_kernel_size")?,
        rule: StateRule::Delta,
        decay: StateDecay::Channel,
        decay_rank: Some(width),
        gate: StateGate::LowRank(width),
    })
}

fn mamba2(config: &Config, hidden: u64) -> Result<StateSpace, String> {
    let heads = config.need(&["mamba_num_heads", "mamba_n_heads"], "state_heads")?;
    let widths = ["mamba_head_dim", "mamba_d_head"];
    let is_auto = config.text(&widths, "state_value_dim").is_some();
    let value_dim = match is_auto || !config.has(&widths) {
        false => config.need(&widths, "state_value_dim")?,
        true => {
            let expand = config.number(&["mamba_expand", "expand"], "state_value_dim")?;
            let width = expand.unwrap_or(2).saturating_mul(hidden);
            width.checked_div(heads).ok_or("`mamba_n_heads` = 0; it must be at least 1")?
        }
    };
    config.number(&["mamba_expand", "expand"], "state_value_dim")?;
    Ok(StateSpace {
        heads,
        key_heads: config
            .number(&["mamba_n_groups", "n_groups"], "state_key_heads")?
            .unwrap_or(1),
        key_dim: config.need(&["ssm_state_size", "mamba_d_state"], "state_key_dim")?,
        value_dim,
        conv_taps: config
            .number(&["conv_kernel", "mamba_d_conv"], "conv_taps")?
            .unwrap_or(4),
        rule: StateRule::Additive,
        decay: StateDecay::Head,
        decay_rank: None,
        gate: StateGate::Full,
    })
}

/// Lightning attention has the heads of the attention beside it.
fn lightning(config: &Config, hidden: u64) -> Result<StateSpace, String> {
    let heads = config.need(&["num_attention_heads"], "state_heads")?;
    let width = config.number(&["head_dim"], "state_key_dim")?;
    let width = width.or_else(|| hidden.checked_div(heads)).unwrap_or(0);
    Ok(StateSpace {
        heads,
        key_heads: heads,
        key_dim: width,
        value_dim: width,
        conv_taps: 0,
        rule: StateRule::Additive,
        decay: StateDecay::Fixed,
        decay_rank: None,
        gate: StateGate::Full,
    })
}

//! Feed-forward parts of a configuration's layers.

use super::config::{Config, check_length};
use super::family::Family;
use super::mixer::is_single_part;
use crate::model::llm::{Dense, Experts, FeedForward, Mixer};

/// The feed-forward part of each layer.
pub fn of_layers(
    config: &Config,
    family: &Family,
    (mixers, hidden): (&[Mixer], u64),
) -> Result<Vec<FeedForward>, String> {
    let layers = mixers.len() as u64;
    let experts = experts(config, family)?;
    let routed = match experts {
        Some(_) => routed_layers(config, mixers)?,
        None => vec![false; mixers.len()],
    };
    // Layers that are a mixer alone, and those that are none.
    let has_part = |mixer: &Mixer| !is_single_part(config) || *mixer == Mixer::None;
    let dense = routed.iter().zip(mixers).any(|(routed, mixer)| !routed && has_part(mixer));
    let widths = if dense { dense_widths(config, (layers, hidden))? } else { Vec::new() };
    if !dense {
        let why = "nothing: no layer is dense";
        config.unused(&["intermediate_size", "intermediate_size_mlp"], why);
    }
    let mut parts = Vec::with_capacity(mixers.len());
    for (layer, mixer) in mixers.iter().enumerate() {
        parts.push(match experts {
            _ if !has_part(mixer) => FeedForward::None,
            Some(experts) if routed[layer] => FeedForward::Experts(experts),
            _ => FeedForward::Dense(Dense {
                intermediate: widths[layer],
                gated: family.gated,
            }),
        });
    }
    Ok(parts)
}

/// Widths of dense parts.
fn dense_widths(config: &Config, (layers, hidden): (u64, u64)) -> Result<Vec<u64>, String> {
    let wide = ["intermediate_size_mlp", "intermediate_size", "n_inner", "ffn_dim"];
    if let Some(widths) = config.per_layer(&wide, "intermediate", layers)?
        && config.model_type() != "granitemoehybrid"
    {
        return Ok(widths);
    }
    // What is left of Granite's experts where it has none.
    let shared = ["shared_intermediate_size"];
    if let Some(widths) = config.per_layer(&shared, "intermediate", layers)? {
        return Ok(widths);
    }
    match config.model_type() {
        "gpt2" | "starcoder2" => Ok(vec![4 * hidden; layers as usize]),
        _ => Err("states no `intermediate_size`".to_owned()),
    }
}

/// The routed experts, which are alike in all layers that have them.
fn experts(config: &Config, family: &Family) -> Result<Option<Experts>, String> {
    let counts = [
        "n_routed_experts",
        "num_experts",
        "num_local_experts",
        "moe_num_experts",
        "num_routed_experts",
    ];
    let count = config.number(&counts, "experts")?.unwrap_or(0);
    if count == 0 {
        return Ok(None);
    }
    let chosen = [
        "num_experts_per_tok",
        "num_experts_per_token",
        "moe_topk",
        "moe_top_k",
        "moe_k",
        "experts_per_token",
    ];
    let top_k = config.need(&chosen, "top_k")?;
    let widths = [
        "moe_intermediate_size",
        "expert_ffn_hidden_size",
        "ffn_hidden_size",
        "intermediate_size",
    ];
    let intermediate = config.need(&widths, "expert_intermediate")?;
    Ok(Some(Experts {
        count,
        top_k,
        intermediate,
        shared_intermediate: shared(config, family, intermediate)?,
        gated: family.gated,
    }))
}

/// Width of the shared experts together.
fn shared(config: &Config, family: &Family, intermediate: u64) -> Result<u64, String> {
    let widths = [
        "shared_expert_intermediate_size",
        "moe_shared_expert_intermediate_size",
        "shared_intermediate_size",
    ];
    let counts = ["n_shared_experts", "num_shared_experts", "moe_num_shared_experts"];
    let width = config.number(&widths, "shared_intermediate")?;
    let count = config.number(&counts, "shared_experts")?;
    let all = match (width, count) {
        // A width of its own is that of all of them.
        (Some(width), _) => Some(width),
        (None, Some(count)) => count.checked_mul(intermediate),
        (None, None) if family.has_shared_expert => Some(intermediate),
        (None, None) => Some(0),
    };
    all.ok_or_else(|| "has shared experts too wide to count".to_owned())
}

/// Which layers have routed experts.
fn routed_layers(config: &Config, mixers: &[Mixer]) -> Result<Vec<bool>, String> {
    let layers = mixers.len() as u64;
    if is_single_part(config) {
        return single_parts(config, mixers);
    }
    let to = "feed_forward";
    if let Some(types) = config.names(&["mlp_layer_types"], to)? {
        check_length("mlp_layer_types", types.len(), layers)?;
        return Ok(types.iter().map(|name| *name == "sparse").collect());
    }
    if let Some(list) = config.numbers(&["moe_layers"], to)? {
        return Ok((0..layers).map(|layer| list.contains(&layer)).collect());
    }
    if config.has(&["moe_layer_freq"]) && config.has(&["first_k_dense_replace"]) {
        // One for all, or one of as many.
        let first = config.need(&["first_k_dense_replace"], "dense_layers")?;
        return match config.per_layer(&["moe_layer_freq"], to, layers) {
            Ok(Some(flags)) if flags.iter().all(|&flag| flag < 2) => {
                let routed = |(layer, flag): (u64, &u64)| layer >= first && *flag == 1;
                Ok((0..).zip(&flags).map(routed).collect())
            }
            Ok(Some(every)) => Ok((0..layers)
                .map(|layer| layer >= first && layer % every[0].max(1) == 0)
                .collect()),
            Ok(None) => Ok((0..layers).map(|layer| layer >= first).collect()),
            Err(error) => Err(error),
        };
    }
    if let Some(first) = config.number(&["first_k_dense_replace"], "dense_layers")? {
        return Ok((0..layers).map(|layer| layer >= first).collect());
    }
    let steps = ["decoder_sparse_step", "interleave_moe_layer_step", "moe_layer_interval"];
    let step = config.number(&steps, to)?.filter(|&step| step > 0).unwrap_or(1);
    let first = config.number(&["moe_layer_start_index"], "dense_layers")?.unwrap_or(0);
    let dense = config.numbers(&["mlp_only_layers"], to)?.unwrap_or_default();
    let routed = |layer: u64| {
        layer >= first && (layer + 1).is_multiple_of(step) && !dense.contains(&layer)
    };
    Ok((0..layers).map(routed).collect())
}

/// Layers of Nemotron-H that are experts alone.
fn single_parts(config: &Config, mixers: &[Mixer]) -> Result<Vec<bool>, String> {
    if let Some(pattern) = config.text(&["hybrid_override_pattern"], "layer_list") {
        return Ok(pattern.chars().map(|letter| letter == 'E').collect());
    }
    let names = config.names(&["layers_block_type", "layer_types"], "layer_list")?;
    Ok(match names {
        Some(names) => names.iter().map(|name| *name == "moe").collect(),
        None => vec![false; mixers.len()],
    })
}

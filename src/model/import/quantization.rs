//! Formats of weights as a configuration's `quantization_config` states them.

use serde_json::{Map, Value};

use super::config::Config;
use crate::format::DType;
use crate::model::weights::{WeightPart, Weights};
use crate::quant::{Quant, QuantPlace};

/// Formats of the weights, and of parts that are left as they were.
pub fn weights(config: &Config, layers: u64) -> Result<Weights, String> {
    let plain = Quant::plain(plain_format(config));
    let unquantized = Weights::all(plain);
    let keys = ["quantization_config", "compression_config"];
    let Some(stated) = config.object(&keys, "weights") else { return Ok(unquantized) };
    let scheme = match scheme(stated) {
        Ok(scheme) => scheme,
        Err(why) => {
            config
                .note(format!("quantization_config: {why}; weights are taken as {plain}"));
            return Ok(unquantized);
        }
    };
    let mut weights = unquantized;
    let parts =
        [WeightPart::Attention, WeightPart::Dense, WeightPart::Shared, WeightPart::Experts];
    let is_mxfp4 = method(stated) == "mxfp4";
    for part in parts {
        // The quantizer of this name takes experts alone.
        if !is_mxfp4 || part == WeightPart::Experts {
            weights = weights.with(part, scheme);
        }
    }
    for part in excluded(stated, layers) {
        weights = weights.with(part, plain);
    }
    Ok(weights)
}

/// The format that weights have where they are not quantized.
fn plain_format(config: &Config) -> DType {
    match config.text(&["torch_dtype", "dtype"], "weights") {
        Some("float16") => DType::F16,
        Some("float32") => DType::F32,
        _ => DType::Bf16,
    }
}

fn method(stated: &Map<String, Value>) -> String {
    let method = stated.get("quant_method").and_then(Value::as_str);
    method.unwrap_or("no quant_method").to_lowercase()
}

fn number(stated: &Map<String, Value>, keys: &[&str]) -> Option<i64> {
    keys.iter().find_map(|key| stated.get(*key)?.as_i64())
}

fn flag(stated: &Map<String, Value>, key: &str) -> Option<bool> {
    stated.get(key)?.as_bool()
}

fn parsed(text: &str) -> Result<Quant, String> {
    Quant::parse(text, QuantPlace::Weights)
}

/// The scheme of what is quantized.
fn scheme(stated: &Map<String, Value>) -> Result<Quant, String> {
    match method(stated).as_str() {
        "mxfp4" => Ok(Quant::MXFP4),
        "fp8" => match stated.get("weight_block_size").and_then(Value::as_array) {
            Some(block) => match block.iter().map(Value::as_u64).collect::<Vec<_>>()[..] {
                [Some(rows), Some(columns)] => {
                    parsed(&format!("fp8_e4m3_block{rows}x{columns}"))
                }
                _ => Err("`weight_block_size` is not two numbers".to_owned()),
            },
            None => parsed("fp8_e4m3_tensor"),
        },
        "fbgemm_fp8" => parsed("fp8_e4m3"),
        "gptq" | "awq" | "auto-round" | "auto_round" => {
            let has_zero_points = flag(stated, "zero_point")
                .or_else(|| flag(stated, "sym").map(|symmetric| !symmetric));
            let bits = number(stated, &["bits", "w_bit"]).unwrap_or(4);
            let group = number(stated, &["group_size", "q_group_size"]).unwrap_or(128);
            integers(bits, group, has_zero_points.unwrap_or(false))
        }
        "compressed-tensors" => compressed(stated),
        "modelopt" | "modelopt_fp4" | "modelopt_mixed" => {
            let algorithm = stated.get("quant_algo").and_then(Value::as_str);
            match algorithm.unwrap_or_default() {
                "NVFP4" | "NVFP4_AWQ" | "W4A16_NVFP4" => Ok(Quant::NVFP4),
                "MXFP4" | "W4A8_MXFP4_FP8" => Ok(Quant::MXFP4),
                "FP8" => parsed("fp8_e4m3_tensor"),
                "FP8_PB_WO" | "FP8_BLOCK_SCALES" => parsed("fp8_e4m3_block128x128"),
                "MXFP8" => Ok(Quant::MXFP8),
                "W4A16_AWQ" => integers(4, 128, false),
                other => Err(format!("quant_algo `{other}` is not known")),
            }
        }
        other => Err(format!("quant_method `{other}` is not known")),
    }
}

/// Integers in groups; -1 stands for a whole row.
fn integers(bits: i64, group: i64, has_zero_points: bool) -> Result<Quant, String> {
    let zero_points = if has_zero_points { "_zp" } else { "" };
    match (bits, group) {
        (4, 1..) => parsed(&format!("int4_g{group}{zero_points}")),
        (8, _) => parsed("int8"),
        (bits, group) => Err(format!("{bits} bits in groups of {group} are not counted")),
    }
}

/// The first group of a checkpoint of `compressed-tensors`.
fn compressed(stated: &Map<String, Value>) -> Result<Quant, String> {
    let format = stated.get("format").and_then(Value::as_str).unwrap_or_default();
    let groups = stated.get("config_groups").and_then(Value::as_object);
    let group = groups.and_then(|groups| groups.values().next());
    let weights = group.and_then(|group| group.get("weights")?.as_object());
    let weights = weights.ok_or("`config_groups` states no weights")?;
    let text = |key: &str| weights.get(key).and_then(Value::as_str).unwrap_or_default();
    let group = number(weights, &["group_size"]).unwrap_or(-1);
    match (number(weights, &["num_bits"]).unwrap_or(0), text("type"), text("strategy")) {
        (4, "float", _) if format.starts_with("mxfp4") || group == 32 => Ok(Quant::MXFP4),
        (4, "float", _) => Ok(Quant::NVFP4),
        (8, "float", "tensor") => parsed("fp8_e4m3_tensor"),
        (8, "float", "channel") => parsed("fp8_e4m3"),
        (8, "float", "block") => {
            let block = weights.get("block_structure").and_then(Value::as_array);
            match block.map(|block| block.iter().map(Value::as_u64).collect::<Vec<_>>()) {
                Some(sides) if sides.len() == 2 => {
                    let side = |at: usize| sides[at].unwrap_or(0);
                    parsed(&format!("fp8_e4m3_block{}x{}", side(0), side(1)))
                }
                _ => parsed("fp8_e4m3_block128x128"),
            }
        }
        (8, "float", "group") if group == 32 => Ok(Quant::MXFP8),
        (bits, "int", _) => {
            integers(bits, group, flag(weights, "symmetric") == Some(false))
        }
        (bits, kind, strategy) => {
            Err(format!("{bits} bits of type `{kind}` by `{strategy}` are not counted"))
        }
    }
}

/// Parts that the configuration leaves unquantized, as far as its patterns name them in
/// at least half of the layers.
fn excluded(stated: &Map<String, Value>, layers: u64) -> Vec<WeightPart> {
    let keys = ["modules_to_not_convert", "ignored_layers", "ignore", "exclude_modules"];
    let lists = keys.iter().filter_map(|key| stated.get(*key)?.as_array());
    let patterns: Vec<&str> = lists.flatten().filter_map(Value::as_str).collect();
    let names_part = |part: WeightPart| {
        let of_part = patterns.iter().filter(|pattern| part_of(pattern) == Some(part));
        let (single, all): (Vec<&str>, Vec<&str>) =
            of_part.copied().partition(|pattern| layer_of(pattern).is_some());
        let mut named: Vec<u64> =
            single.iter().filter_map(|pattern| layer_of(pattern)).collect();
        named.sort_unstable();
        named.dedup();
        !all.is_empty() || 2 * named.len() as u64 >= layers.max(1)
    };
    WeightPart::ALL.into_iter().filter(|part| names_part(*part)).collect()
}

/// The part that a pattern of names of modules is about.
fn part_of(pattern: &str) -> Option<WeightPart> {
    let has = |word: &str| pattern.contains(word);
    Some(match () {
        () if has("shared_expert") => WeightPart::Shared,
        () if has("experts") => WeightPart::Experts,
        () if has("attn") || has("attention") || has("mixer") => WeightPart::Attention,
        () if has("router") => WeightPart::Router,
        () if has("lm_head") || has("embed") => WeightPart::Head,
        () if has("mlp") && (has("_proj") || pattern.ends_with("mlp") || has("mlp*")) => {
            WeightPart::Dense
        }
        () if has("mlp.gate") => WeightPart::Router,
        () => return None,
    })
}

/// The layer that a pattern is about, where it is about one.
fn layer_of(pattern: &str) -> Option<u64> {
    let (_, rest) = pattern.split_once("layers.")?;
    let digits: String = rest.chars().take_while(char::is_ascii_digit).collect();
    digits.parse().ok()
}

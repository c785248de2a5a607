//! Configurations with the fields that are published, and what is made of bad ones.

use proptest::prelude::*;
use proptest::test_runner::{RngAlgorithm, TestRng};
use serde_json::json;

use super::*;
use crate::format::DType;
use crate::model::llm::{self, ModelRow, Span};
use crate::model::predict::Totals;
use crate::model::step::{Formats, Parallel, Phase, Step, StepShape, Weights};
use crate::model::table;

/// Published fields by the name of the row that has the same model.
fn published() -> Vec<(&'static str, Value)> {
    let llama = json!({
        "model_type": "llama", "hidden_size": 4096, "intermediate_size": 14336,
        "num_hidden_layers": 32, "num_attention_heads": 32, "num_key_value_heads": 8,
        "vocab_size": 128256, "max_position_embeddings": 131072, "attention_bias": false,
        "tie_word_embeddings": false, "rope_theta": 500000.0, "torch_dtype": "bfloat16"
    });
    let qwen25 = json!({
        "model_type": "qwen2", "hidden_size": 8192, "intermediate_size": 29568,
        "num_hidden_layers": 80, "num_attention_heads": 64, "num_key_value_heads": 8,
        "vocab_size": 152064, "max_position_embeddings": 131072, "sliding_window": 131072,
        "max_window_layers": 80, "use_sliding_window": false, "tie_word_embeddings": false
    });
    let qwen3 = json!({
        "model_type": "qwen3", "hidden_size": 4096, "intermediate_size": 12288,
        "num_hidden_layers": 36, "num_attention_heads": 32, "num_key_value_heads": 8,
        "head_dim": 128, "vocab_size": 151936, "max_position_embeddings": 40960,
        "attention_bias": false, "sliding_window": null, "use_sliding_window": false
    });
    let qwen3_moe = json!({
        "model_type": "qwen3_moe", "hidden_size": 2048, "intermediate_size": 6144,
        "num_hidden_layers": 48, "num_attention_heads": 32, "num_key_value_heads": 4,
        "head_dim": 128, "vocab_size": 151936, "max_position_embeddings": 40960,
        "num_experts": 128, "num_experts_per_tok": 8, "moe_intermediate_size": 768,
        "decoder_sparse_step": 1, "mlp_only_layers": [], "norm_topk_prob": true
    });
    let mixtral = json!({
        "model_type": "mixtral", "hidden_size": 4096, "intermediate_size": 14336,
        "num_hidden_layers": 32, "num_attention_heads": 32, "num_key_value_heads": 8,
        "vocab_size": 32000, "max_position_embeddings": 32768, "sliding_window": null,
        "num_local_experts": 8, "num_experts_per_tok": 2
    });
    let gemma3 = json!({
        "model_type": "gemma3", "vision_config": {"hidden_size": 1152},
        "text_config": {
            "model_type": "gemma3_text", "hidden_size": 5376, "intermediate_size": 21504,
            "num_hidden_layers": 62, "num_attention_heads": 32, "num_key_value_heads": 16,
            "head_dim": 128, "sliding_window": 1024, "query_pre_attn_scalar": 168,
            "max_position_embeddings": 131072
        }
    });
    let layer_types: Vec<&str> =
        (0..24).map(|layer| ["sliding_attention", "full_attention"][layer % 2]).collect();
    let gpt_oss = json!({
        "model_type": "gpt_oss", "hidden_size": 2880, "intermediate_size": 2880,
        "num_hidden_layers": 24, "num_attention_heads": 64, "num_key_value_heads": 8,
        "head_dim": 64, "vocab_size": 201088, "max_position_embeddings": 131072,
        "attention_bias": true, "sliding_window": 128, "layer_types": layer_types,
        "num_local_experts": 32, "num_experts_per_tok": 4, "experts_per_token": 4,
        "quantization_config": {
            "quant_method": "mxfp4",
            "modules_to_not_convert": ["model.layers.*.self_attn", "model.layers.*.mlp.router",
                                       "model.embed_tokens", "lm_head"]
        }
    });
    vec![
        ("llama-3.1-8b", llama),
        ("qwen2.5-72b", qwen25),
        ("qwen3-8b", qwen3),
        ("qwen3-30b-a3b", qwen3_moe),
        ("mixtral-8x7b", mixtral),
        ("gemma-3-27b", gemma3),
        ("gpt-oss-20b", gpt_oss),
        ("deepseek-v2", deepseek(json!({
            "model_type": "deepseek_v2", "hidden_size": 5120, "intermediate_size": 12288,
            "moe_intermediate_size": 1536, "num_hidden_layers": 60, "vocab_size": 102400,
            "n_routed_experts": 160, "num_experts_per_tok": 6, "n_shared_experts": 2,
            "first_k_dense_replace": 1, "max_position_embeddings": 163840
        }))),
        ("deepseek-v3", deepseek(fp8_blocks())),
        ("deepseek-v3.2-exp", deepseek(with(fp8_blocks(), json!({
            "model_type": "deepseek_v32", "index_head_dim": 128, "index_n_heads": 64,
            "index_topk": 2048
        })))),
        ("kimi-k2", deepseek(with(fp8_blocks(), json!({
            "model_type": "kimi_k2", "num_attention_heads": 64, "num_key_value_heads": 64,
            "vocab_size": 163840, "n_routed_experts": 384, "first_k_dense_replace": 1,
            "max_position_embeddings": 131072
        })))),
    ]
    .into_iter()
    .chain(with_states_and_chunks())
    .collect()
}

fn with_states_and_chunks() -> Vec<(&'static str, Value)> {
    let kda = (1..=27).filter(|layer| layer % 4 != 0 && *layer != 27).collect::<Vec<u64>>();
    vec![
        (
            "llama-4-scout",
            json!({
                "model_type": "llama4", "vision_config": {"hidden_size": 1408},
                "text_config": {
                    "model_type": "llama4_text", "hidden_size": 5120, "intermediate_size": 8192,
                    "intermediate_size_mlp": 16384, "num_hidden_layers": 48,
                    "num_attention_heads": 40, "num_key_value_heads": 8, "head_dim": 128,
                    "vocab_size": 202048, "max_position_embeddings": 10485760,
                    "attention_chunk_size": 8192, "num_local_experts": 16,
                    "num_experts_per_tok": 1, "interleave_moe_layer_step": 1,
                    "no_rope_layers": [], "use_qk_norm": true
                }
            }),
        ),
        (
            "qwen3-next-80b-a3b",
            json!({
                "model_type": "qwen3_next", "hidden_size": 2048, "intermediate_size": 5120,
                "num_hidden_layers": 48, "num_attention_heads": 16, "num_key_value_heads": 2,
                "head_dim": 256, "vocab_size": 151936, "max_position_embeddings": 262144,
                "full_attention_interval": 4, "linear_conv_kernel_dim": 4,
                "linear_key_head_dim": 128, "linear_value_head_dim": 128,
                "linear_num_key_heads": 16, "linear_num_value_heads": 32,
                "num_experts": 512, "num_experts_per_tok": 10, "moe_intermediate_size": 512,
                "shared_expert_intermediate_size": 512, "decoder_sparse_step": 1,
                "mlp_only_layers": [], "tie_word_embeddings": false
            }),
        ),
        (
            "kimi-linear-48b-a3b",
            json!({
                "model_type": "kimi_linear", "hidden_size": 2304, "intermediate_size": 9216,
                "num_hidden_layers": 27, "num_attention_heads": 32, "num_key_value_heads": 32,
                "head_dim": 72, "vocab_size": 163840, "model_max_length": 1048576,
                "kv_lora_rank": 512, "q_lora_rank": null, "qk_nope_head_dim": 128,
                "qk_rope_head_dim": 64, "v_head_dim": 128, "mla_use_nope": true,
                "linear_attn_config": {
                    "kda_layers": kda, "full_attn_layers": [4, 8, 12, 16, 20, 24, 27],
                    "head_dim": 128, "num_heads": 32, "short_conv_kernel_size": 4
                },
                "num_experts": 256, "num_experts_per_token": 8, "moe_intermediate_size": 1024,
                "num_shared_experts": 1, "first_k_dense_replace": 1, "moe_layer_freq": 1,
                "tie_word_embeddings": false
            }),
        ),
        (
            "minimax-text-01",
            json!({
                "model_type": "minimax_text_01", "hidden_size": 6144, "intermediate_size": 9216,
                "num_hidden_layers": 80, "num_attention_heads": 64, "num_key_value_heads": 8,
                "head_dim": 128, "vocab_size": 200064, "max_position_embeddings": 10240000,
                "attn_type_list": (1..=80).map(|n| u64::from(n % 8 == 0)).collect::<Vec<_>>(),
                "num_local_experts": 32, "num_experts_per_tok": 2, "shared_intermediate_size": 0
            }),
        ),
        (
            "nemotron-h-8b",
            json!({
                "model_type": "nemotron_h", "hidden_size": 4096, "intermediate_size": 21504,
                "num_hidden_layers": 52, "num_attention_heads": 32, "num_key_value_heads": 8,
                "attention_head_dim": 128, "vocab_size": 131072, "max_position_embeddings": 8192,
                "hybrid_override_pattern":
                    "M-M-M-M*-M-M-M-M-M*-M-M-M-M-M*-M-M-M-M-M*-M-M-M-M-M-",
                "mamba_num_heads": 128, "mamba_head_dim": 64, "ssm_state_size": 128,
                "n_groups": 8, "conv_kernel": 4, "expand": 2, "mlp_hidden_act": "relu2"
            }),
        ),
    ]
}

/// The fields that DeepSeek's models have in common, under those of one.
fn deepseek(of: Value) -> Value {
    with(
        json!({
            "num_attention_heads": 128, "num_key_value_heads": 128, "kv_lora_rank": 512,
            "q_lora_rank": 1536, "qk_nope_head_dim": 128, "qk_rope_head_dim": 64,
            "v_head_dim": 128, "moe_layer_freq": 1, "tie_word_embeddings": false
        }),
        of,
    )
}

/// DeepSeek-V3's.
fn fp8_blocks() -> Value {
    json!({
        "model_type": "deepseek_v3", "hidden_size": 7168, "intermediate_size": 18432,
        "moe_intermediate_size": 2048, "num_hidden_layers": 61, "vocab_size": 129280,
        "n_routed_experts": 256, "num_experts_per_tok": 8, "n_shared_experts": 1,
        "first_k_dense_replace": 3, "max_position_embeddings": 163840,
        "num_nextn_predict_layers": 1,
        "quantization_config": {"quant_method": "fp8", "weight_block_size": [128, 128]}
    })
}

fn with(mut under: Value, over: Value) -> Value {
    for (key, value) in over.as_object().unwrap() {
        under[key] = value.clone();
    }
    under
}

fn imported(config: &Value) -> Imported {
    of_value(config, "name", "source").unwrap_or_else(|e| panic!("{e}: {config}"))
}

/// Each row of `models.toml` comes out of the fields that are published.
#[test]
fn published_fields_give_the_rows() {
    let rows = llm::load(None).unwrap();
    for (name, config) in published() {
        let row = llm::named(&rows, name).unwrap();
        let found = imported(&config).model;
        // What a configuration does not say.
        let expected = Llm {
            name: "name".to_owned(),
            source: "source".to_owned(),
            parameters: None,
            weights: row.weights.or(Some(Weights::all(DType::Bf16.into()))),
            ..row.clone()
        };
        let layers = |model: &Llm| {
            let mut kinds = model.kinds.clone();
            kinds.sort_by_key(|kind| format!("{kind:?}"));
            Llm { kinds, ..model.clone() }
        };
        assert_eq!(layers(&found), layers(&expected), "{name}");
    }
}

/// Models that are in no row, by the parameters of their published weights.
#[test]
fn other_families_have_their_published_parameters() {
    let mistral = json!({
        "model_type": "mistral", "hidden_size": 4096, "intermediate_size": 14336,
        "num_hidden_layers": 32, "num_attention_heads": 32, "num_key_value_heads": 8,
        "vocab_size": 32000, "max_position_embeddings": 32768, "sliding_window": 4096
    });
    let gemma2 = json!({
        "model_type": "gemma2", "hidden_size": 3584, "intermediate_size": 14336,
        "num_hidden_layers": 42, "num_attention_heads": 16, "num_key_value_heads": 8,
        "head_dim": 256, "vocab_size": 256000, "sliding_window": 4096
    });
    let phi4 = json!({
        "model_type": "phi3", "hidden_size": 5120, "intermediate_size": 17920,
        "num_hidden_layers": 40, "num_attention_heads": 40, "num_key_value_heads": 10,
        "vocab_size": 100352, "sliding_window": null, "attention_bias": false
    });
    let glm = json!({
        "model_type": "glm4_moe", "hidden_size": 5120, "intermediate_size": 12288,
        "moe_intermediate_size": 1536, "num_hidden_layers": 92, "num_attention_heads": 96,
        "num_key_value_heads": 8, "head_dim": 128, "vocab_size": 151552,
        "attention_bias": true, "use_qk_norm": true, "n_routed_experts": 160,
        "num_experts_per_tok": 8, "n_shared_experts": 1, "first_k_dense_replace": 3,
        "num_nextn_predict_layers": 1
    });
    for (config, published, within) in [
        (&mistral, 7_241_732_096u64, 0.0),
        (&gemma2, 9_241_705_984, 0.0),
        (&phi4, 14_659_507_200, 0.0),
        // Published as 355 billion, with the layer for a second token.
        (&glm, 355_000_000_000, 0.01),
    ] {
        let model = imported(config).model;
        let off = Step::parameters(&model).unwrap() as f64 / published as f64 - 1.0;
        assert!(off.abs() <= within, "{config}: {off}");
    }
    let span =
        |config: &Value, layer: usize| match imported(config).model.kinds[layer].mixer {
            Mixer::Heads(heads) => heads.span,
            other => panic!("{other:?}"),
        };
    assert_eq!(span(&mistral, 0), Span::Window(4096));
    assert_eq!([span(&gemma2, 0), span(&gemma2, 1)], [Span::Window(4096), Span::Full]);
}

/// Formats as `quantization_config` states them, by their spelling.
#[test]
fn formats_are_those_of_the_checkpoint() {
    let base =
        published().into_iter().find(|(name, _)| *name == "qwen3-30b-a3b").unwrap().1;
    let of = |quantization: Value| {
        let config = with(base.clone(), json!({"quantization_config": quantization}));
        imported(&config).model.weights.unwrap().to_string()
    };
    let gptq = json!({"quant_method": "gptq", "bits": 4, "group_size": 128, "sym": true});
    assert_eq!(of(gptq), "int4+router:bf16");
    let awq = json!({"quant_method": "awq", "bits": 4, "group_size": 32, "zero_point": true,
                     "modules_to_not_convert": ["self_attn", "mlp.gate"]});
    assert_eq!(of(awq), "int4_g32_zp+attention:bf16+router:bf16");
    let nvfp4 = json!({"quant_method": "modelopt", "quant_algo": "NVFP4",
                       "ignore": ["model.layers.0.self_attn*", "lm_head"]});
    assert_eq!(of(nvfp4), "nvfp4+router:bf16", "one layer of 48 is not most of them");
    let kimi = json!({
        "quant_method": "compressed-tensors", "format": "pack-quantized",
        "config_groups": {"group_0": {"weights": {
            "num_bits": 4, "type": "int", "strategy": "group", "group_size": 32,
            "symmetric": true
        }}},
        "ignore": ["lm_head", "re:.*self_attn.*", "re:.*shared_experts.*",
                   "re:.*mlp\\.(gate|up|gate_up|down)_proj.*"]
    });
    assert_eq!(of(kimi), "bf16+experts:int4_g32");
    let other = json!({"quant_method": "bitsandbytes", "load_in_4bit": true});
    let config = with(base.clone(), json!({"quantization_config": other}));
    let notes = imported(&config).notes;
    assert!(
        notes.iter().any(|note| note.contains("`bitsandbytes` is not known")),
        "{notes:?}"
    );
}

/// What is not mapped is listed, and what does not matter is not.
#[test]
fn what_is_not_mapped_is_said() {
    let gemma = published().into_iter().find(|(name, _)| *name == "gemma-3-27b").unwrap().1;
    let with_more = with(gemma, json!({"altup_num_inputs": 4, "eos_token_id": 1}));
    let notes = imported(&with_more).notes;
    let expected = [
        "`altup_num_inputs` = 4 is not mapped",
        "`vision_config` is a part that is not predicted",
    ];
    assert_eq!(notes, expected);
    let config = json!({"hidden_size": 64, "num_hidden_layers": 2, "vocab_size": 100,
                        "num_attention_heads": 4, "intermediate_size": 128,
                        "model_type": "novel"});
    let found = imported(&config);
    assert!(found.notes[0].starts_with("novel: not a family that is known"), "{found:?}");
    let mapped = |key: &str| found.mapping.iter().find(|of| of.key == key).unwrap();
    assert_eq!(
        (mapped("num_hidden_layers").to, &*mapped("hidden_size").value),
        ("layers", "64")
    );
}

#[test]
fn bad_configurations_are_told_what_is_wrong() {
    let llama = || published().swap_remove(0).1;
    for (change, part) in [
        (json!({"num_hidden_layers": null}), "states no `num_hidden_layers`"),
        (json!({"num_hidden_layers": 0}), "has 0 layers"),
        (
            json!({"num_hidden_layers": -1}),
            "`num_hidden_layers` = -1 is not a whole number",
        ),
        (json!({"hidden_size": "wide"}), "`hidden_size` = \"wide\" is not a whole number"),
        (json!({"vocab_size": 1u64 << 41}), "is not a whole number from 0 to"),
        (json!({"num_key_value_heads": 0}), "kv_heads = 0; it must be"),
        (json!({"num_key_value_heads": 5}), "is not a multiple of kv_heads = 5"),
        (json!({"num_key_value_heads": [8, 8]}), "has 2 entries for 32 layers"),
        (json!({"layer_types": ["full_attention"]}), "has 1 entries for 32 layers"),
        (json!({"layer_types": vec!["novel"; 32]}), "type `novel`, which is not known"),
        (json!({"layer_types": vec!["mamba"; 32]}), "in no key that is known"),
        (json!({"num_attention_heads": 7}), "7 heads do not divide a width of 4096"),
        (json!({"tie_word_embeddings": 3}), "neither true nor false"),
        (json!({"intermediate_size": null}), "states no `intermediate_size`"),
        (json!({"num_experts": 8}), "states no `num_experts_per_tok`"),
    ] {
        let config = with(llama(), change);
        let error = of_value(&config, "name", "source").unwrap_err();
        assert!(error.contains(part), "{config}: {error}");
    }
    assert!(of_text("[]", "a", "b").unwrap_err().contains("not a JSON object"));
    assert!(of_text("{", "a", "b").unwrap_err().contains("no JSON"));
}

/// A row that is written states the same model.
#[test]
fn rows_are_read_back() {
    let of_configs = published().into_iter().map(|(_, config)| imported(&config).model);
    for model in llm::load(None).unwrap().into_iter().chain(of_configs) {
        assert_reads_back(&model);
    }
}

fn assert_reads_back(model: &Llm) {
    let text = model.row();
    let rows = table::parse::<ModelRow>("row.toml", &text);
    let rows = rows.unwrap_or_else(|e| panic!("{e}\n{text}"));
    assert_eq!(&rows[0], model, "{text}");
}

/// Files, folders and the index of the weights.
#[test]
fn folders_have_an_index_of_their_weights() {
    let dir = tempfile::tempdir().unwrap();
    let folder = dir.path().join("Llama-3.1-8B, mine");
    std::fs::create_dir(&folder).unwrap();
    let llama = published().swap_remove(0).1;
    std::fs::write(folder.join("config.json"), llama.to_string()).unwrap();
    let plain = read(&folder).unwrap();
    assert_eq!((&*plain.model.name, plain.checkpoint), ("Llama-3.1-8B--mine", None));
    let index = json!({"metadata": {"total_size": 16_060_522_496u64},
                       "weight_map": {"lm_head.weight": "model-00004-of-00004.safetensors"}});
    let path = folder.join("model.safetensors.index.json");
    std::fs::write(&path, index.to_string()).unwrap();
    let found = read(&folder.join("config.json")).unwrap();
    let stated = found.checkpoint.unwrap();
    assert_eq!((stated.bytes, stated.tensors), (Some(16_060_522_496), 1));
    // The published total is that of the formulas to the byte.
    assert_eq!(Checkpoint::counted_bytes(&found.model), Ok(16_060_522_496));
    std::fs::write(&path, "{}").unwrap();
    let error = format!("{:#}", read(&folder).unwrap_err());
    assert!(error.contains("model.safetensors.index.json: has no `weight_map`"), "{error}");
    std::fs::remove_file(folder.join("config.json")).unwrap();
    let error = format!("{:#}", read(&folder).unwrap_err());
    assert!(error.contains("config.json"), "{error}");
}

/// An import takes far less than 50 ms.
#[test]
fn imports_are_quick() {
    let texts: Vec<String> =
        published().into_iter().map(|(_, config)| config.to_string()).collect();
    let started = std::time::Instant::now();
    for text in &texts {
        assert!(of_text(text, "name", "source").is_ok());
    }
    let each_s = started.elapsed().as_secs_f64() / texts.len() as f64;
    assert!(each_s < 0.05, "{each_s} s");
}

/// Values that no key expects.
fn odd_values() -> Vec<Value> {
    vec![
        Value::Null,
        json!(true),
        json!(-1),
        json!(0),
        json!(1),
        json!(3),
        json!(1u64 << 24),
        json!(1u64 << 40),
        json!(u64::MAX),
        json!(1e300),
        json!(2.5),
        json!("full_attention"),
        json!("M*-E"),
        json!("auto"),
        json!(""),
        json!([]),
        json!([0, 1]),
        json!(["mamba", "moe"]),
        json!({}),
        json!({"kda_layers": [1], "num_heads": 0, "head_dim": 3, "short_conv_kernel_size": 99}),
        json!({"quant_method": "awq", "bits": 4, "group_size": -7}),
        json!({"quant_method": "fp8", "weight_block_size": [0, 1]}),
    ]
}

/// Keys that some family reads, so that mutations meet each other's.
const MORE_KEYS: &[&str] = &[
    "layer_types",
    "layers_block_type",
    "hybrid_override_pattern",
    "attn_layer_indices",
    "attn_type_list",
    "linear_attn_config",
    "linear_num_value_heads",
    "linear_num_key_heads",
    "full_attention_interval",
    "mamba_num_heads",
    "mamba_head_dim",
    "num_kv_shared_layers",
    "kv_lora_rank",
    "index_topk",
    "num_experts",
    "moe_layer_freq",
    "moe_layers",
    "mlp_layer_types",
    "decoder_sparse_step",
    "sliding_window",
    "sliding_window_pattern",
    "attention_chunk_size",
    "no_rope_layers",
    "no_rope_layer_interval",
    "quantization_config",
    "text_config",
    "model_type",
];

/// A configuration after some changes, as numbers choose them.
fn mutated(numbers: &[u32]) -> Value {
    let all = published();
    let at = |index: usize| numbers.get(index).map_or(0, |&number| number as usize);
    let mut config = all[at(0) % all.len()].1.clone();
    let odd = odd_values();
    for change in numbers[1..].chunks_exact(2) {
        let nested = config.get("text_config").is_some_and(Value::is_object);
        let map = match nested && change[0] % 5 > 0 {
            true => config["text_config"].as_object_mut(),
            false => config.as_object_mut(),
        };
        let Some(map) = map else { break };
        let keys: Vec<String> = map
            .keys()
            .cloned()
            .chain(MORE_KEYS.iter().map(|key| (*key).to_owned()))
            .collect();
        let key = keys[change[0] as usize % keys.len()].clone();
        // Another model's value of the key, or an odd one.
        let other = &all[change[1] as usize / 64 % all.len()].1;
        let other = other.get(&key).or_else(|| other.get("text_config")?.get(&key));
        let value = match other {
            Some(value) if change[1] % 2 == 0 => value.clone(),
            _ => odd[change[1] as usize / 2 % odd.len()].clone(),
        };
        map.insert(key, value);
    }
    config
}

/// What is imported is a model: its row is read back, and its steps are counted or refused.
fn check_mutation(config: &Value) {
    let Ok(found) = of_value(config, "name", "source") else { return };
    assert_reads_back(&found.model);
    let parallel = [(1, 1), (4, 1), (2, 4)].map(|(tensor, expert)| Parallel {
        tensor,
        expert,
        data: 2,
    });
    for phase in Phase::ALL {
        for (context, new_tokens) in [(1, 1), (9000, 7), (1 << 20, 1 << 20)] {
            for parallel in parallel {
                let formats = Formats::plain(DType::Bf16);
                let weights = found.model.weights.unwrap();
                let shape = StepShape {
                    phase,
                    batch: 3,
                    context,
                    new_tokens,
                    parallel,
                    ..StepShape::of_one_token(Formats { weights, ..formats })
                };
                if let Ok(step) = Step::of(&found.model, &shape) {
                    let totals = Totals::of_step(&step);
                    assert!(totals.bytes.is_finite() && totals.bytes > 0.0, "{config}");
                }
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    /// Mutations of configurations are models or errors, never panics.
    #[test]
    fn mutations_never_panic(numbers in prop::collection::vec(any::<u32>(), 3..14)) {
        check_mutation(&mutated(&numbers));
    }

    /// Nor are texts that were cut or changed.
    #[test]
    fn broken_texts_never_panic(
        which in any::<prop::sample::Index>(),
        at in any::<prop::sample::Index>(),
        byte in any::<u8>(),
        cut in any::<bool>(),
    ) {
        let all = published();
        let mut bytes = which.get(&all).1.to_string().into_bytes();
        let at = at.index(bytes.len());
        if cut { bytes.truncate(at) } else { bytes[at] = byte }
        let text = String::from_utf8_lossy(&bytes);
        if let Ok(found) = of_text(&text, "name", "source") {
            assert_reads_back(&found.model);
        }
    }
}

/// The same for as many seconds as `RIDGEPOINT_FUZZ_S` says: `RIDGEPOINT_FUZZ_S=600 cargo
/// test --release --lib mutations_for_long -- --nocapture`.
#[test]
fn mutations_for_long() {
    let seconds =
        std::env::var("RIDGEPOINT_FUZZ_S").ok().and_then(|text| text.parse().ok());
    let limit = std::time::Duration::from_secs_f64(seconds.unwrap_or(0.2));
    let started = std::time::Instant::now();
    let mut rng = TestRng::deterministic_rng(RngAlgorithm::ChaCha);
    let (mut count, mut models) = (0u64, 0u64);
    while started.elapsed() < limit {
        let length = 3 + 2 * (rng.next_u32() as usize % 6);
        let numbers: Vec<u32> = (0..length).map(|_| rng.next_u32()).collect();
        let config = mutated(&numbers);
        count += 1;
        models += u64::from(of_value(&config, "name", "source").is_ok());
        check_mutation(&config);
    }
    println!("{count} mutations, of which {models} were models");
    assert!(count > 10 && models > 0, "{count} {models}");
}

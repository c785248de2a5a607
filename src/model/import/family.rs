//! What a family of models has that its configurations do not say.
//!
//! Sources: the classes of configurations and models of Hugging Face's `transformers`
//! (`src/transformers/models/<family>/`), whose defaults published files leave out.

use super::config::Config;

/// Which layers have a sliding window where no list says it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WindowRule {
    /// All of them, where a width is stated.
    All,
    /// All but each so many, counted from 1.
    AllBut(u64),
    /// Those from `max_window_layers` on, where `use_sliding_window` is true.
    Qwen,
    /// Chunks instead of windows, in all but each fourth layer.
    Chunks,
    /// None.
    Never,
}

/// What a family has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Family {
    /// Whether it is one that was looked at.
    pub is_known: bool,
    /// Whether the head shares the embedding, where it is not said.
    pub tied: bool,
    /// Whether projections of queries, keys and values have a bias, where it is not said.
    pub qkv_bias: bool,
    /// Whether queries and keys are normalized.
    pub qk_norm: bool,
    /// Whether the output of attention is gated.
    pub output_gate: bool,
    /// Whether feed-forward parts are gated.
    pub gated: bool,
    /// Norms of a layer.
    pub norms: u64,
    /// Which layers have a window.
    pub windows: WindowRule,
    /// Tokens of the vocabulary, heads and their width, where these are left out.
    pub vocab: Option<u64>,
    /// Query heads, key and value heads and their width, where these are left out.
    pub heads: (Option<u64>, Option<u64>, Option<u64>),
    /// Width of a window where it is left out.
    pub window: Option<u64>,
    /// Width of a shared expert as that of the routed ones, where there is one that no key
    /// states.
    pub has_shared_expert: bool,
}

impl Family {
    /// The Llama family.
    const PLAIN: Family = Family {
        is_known: true,
        tied: false,
        qkv_bias: false,
        qk_norm: false,
        output_gate: false,
        gated: true,
        norms: 2,
        windows: WindowRule::Never,
        vocab: None,
        heads: (None, None, None),
        window: None,
        has_shared_expert: false,
    };

    /// The family that a configuration names; the Llama family where it is not known.
    pub fn of(config: &Config) -> Family {
        let plain = Family::PLAIN;
        let normed = Family { qk_norm: true, ..plain };
        let biased = Family { qkv_bias: true, ..plain };
        let windowed = Family { windows: WindowRule::All, ..plain };
        let gemma = Family { tied: true, ..plain };
        match config.model_type() {
            "llama" | "deepseek_v2" | "deepseek_v3" | "deepseek_v32" | "kimi_k2"
            | "kimi_linear" | "glm_moe_dsa" | "glm4_moe_lite" | "minimax"
            | "minimax_text_01" | "minimax_m1" | "bamba" | "granite" | "granitemoe"
            | "granitemoehybrid" | "ernie4_5" | "ernie4_5_moe" | "smollm3"
            | "internlm2" | "longcat_flash" => plain,
            "mistral" | "mixtral" | "ministral" | "ministral3" | "mistral3" | "phi3"
            | "phimoe" | "phi4mm" => windowed,
            "qwen2" | "qwen2_moe" | "qwen2_vl_text" | "qwen2_5_vl_text" => {
                Family { windows: WindowRule::Qwen, ..biased }
            }
            "qwen3" | "qwen3_moe" | "qwen3_vl_text" | "qwen3_vl_moe_text" => {
                Family { windows: WindowRule::Qwen, ..normed }
            }
            "qwen3_next" | "qwen3_5" | "qwen3_5_text" | "qwen3_5_moe"
            | "qwen3_5_moe_text" => Family { output_gate: true, ..normed },
            "seed_oss" => biased,
            "glm4" => Family { norms: 4, ..plain },
            "glm4_moe" | "glm4v_moe_text" | "dots1" | "olmo2" | "minimax_m2" => plain,
            "gpt_oss" => Family { windows: WindowRule::AllBut(2), ..biased },
            "llama4_text" | "llama4" => {
                Family { windows: WindowRule::Chunks, has_shared_expert: true, ..plain }
            }
            "nemotron_h" => Family { gated: false, norms: 1, ..plain },
            "phi" => Family { gated: false, norms: 1, ..biased },
            "starcoder2" => Family { gated: false, windows: WindowRule::All, ..biased },
            "cohere" | "cohere2" => {
                Family { norms: 1, windows: WindowRule::AllBut(4), ..gemma }
            }
            "gemma" => Family { heads: (Some(16), Some(16), Some(256)), ..gemma },
            "gemma2" => Family {
                norms: 4,
                windows: WindowRule::AllBut(2),
                vocab: Some(256_000),
                heads: (Some(8), Some(4), Some(256)),
                window: Some(4096),
                ..gemma
            },
            "gemma3" | "gemma3_text" => Family {
                norms: 4,
                qk_norm: true,
                windows: WindowRule::AllBut(6),
                vocab: Some(262_208),
                heads: (Some(8), Some(4), Some(256)),
                window: Some(4096),
                ..gemma
            },
            _ => Family { is_known: false, windows: WindowRule::All, ..plain },
        }
    }
}

//! A configuration whose keys are read once, with a record of what each became.

use std::cell::RefCell;
use std::collections::BTreeSet;

use serde_json::{Map, Value};

/// Largest number of a key.
const MOST: u64 = 1 << 40;

/// A key that was read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mapped {
    /// Its name in the configuration.
    pub key: String,
    /// Its value there.
    pub value: String,
    /// What it became: a key of a row of `models.toml`, or what it decides.
    pub to: &'static str,
}

/// A configuration: keys of the language model and, where it is nested, those around it.
pub struct Config<'a> {
    text: &'a Map<String, Value>,
    root: &'a Map<String, Value>,
    read: RefCell<BTreeSet<String>>,
    mapping: RefCell<Vec<Mapped>>,
    notes: RefCell<Vec<String>>,
}

/// Keys that the language model is nested under.
const NESTED: [&str; 4] =
    ["text_config", "language_config", "llm_config", "thinker_config"];

/// Keys that change neither bytes nor FLOPs that are counted.
const IRRELEVANT: &[&str] = &[
    "_name_or_path",
    "architectures",
    "attention_dropout",
    "attention_multiplier",
    "attn_logit_softcapping",
    "attn_pdrop",
    "attn_scale",
    "attn_temperature_tuning",
    "auto_map",
    "aux_loss_alpha",
    "cache_implementation",
    "chunk_size",
    "classifier_dropout",
    "dtype",
    "embd_pdrop",
    "embedding_multiplier",
    "ep_size",
    "experts_per_token",
    "final_logit_softcapping",
    "floor_scale",
    "hidden_act",
    "hidden_activation",
    "hidden_dropout",
    "initial_context_length",
    "initializer_range",
    "layer_norm_eps",
    "layer_norm_epsilon",
    "logits_scaling",
    "mamba_chunk_size",
    "mamba_hidden_act",
    "mamba_ssm_cache_dtype",
    "mamba_ssm_dtype",
    "mlp_hidden_act",
    "model_type",
    "moe_renormalize",
    "moe_router_activation_func",
    "n_group",
    "norm_eps",
    "norm_topk_prob",
    "num_expert_group",
    "num_logits_to_keep",
    "original_max_position_embeddings",
    "output_router_logits",
    "partial_rotary_factor",
    "pretraining_tp",
    "qk_head_dim",
    "query_pre_attn_scalar",
    "rescale_prenorm_residual",
    "resid_pdrop",
    "residual_in_fp32",
    "residual_multiplier",
    "return_dict",
    "rms_norm_eps",
    "rotary_dim",
    "routed_scaling_factor",
    "router_aux_loss_coef",
    "router_jitter_noise",
    "scoring_func",
    "seq_aux",
    "summary_type",
    "swiglu_limit",
    "topk_group",
    "topk_method",
    "torch_dtype",
    "transformers_version",
    "use_bidirectional_attention",
    "use_cache",
    "use_mamba_kernels",
    "use_qk_norm",
    "z_loss_coefficient",
];

impl<'a> Config<'a> {
    /// The language model of a configuration.
    ///
    /// # Errors
    /// A text that is no object.
    pub fn of(value: &'a Value) -> Result<Self, String> {
        let root = value.as_object().ok_or("is not a JSON object with a model's keys")?;
        let nested = NESTED.iter().find_map(|key| root.get(*key)?.as_object());
        let config = Config {
            text: nested.unwrap_or(root),
            root,
            read: RefCell::new(BTreeSet::new()),
            mapping: RefCell::new(Vec::new()),
            notes: RefCell::new(Vec::new()),
        };
        if nested.is_some() {
            for key in root.keys().filter(|key| NESTED.contains(&key.as_str())) {
                config.read.borrow_mut().insert(key.clone());
            }
        }
        Ok(config)
    }

    /// The family's name.
    pub fn model_type(&self) -> &str {
        let name = |map: &'a Map<String, Value>| map.get("model_type")?.as_str();
        name(self.text).or_else(|| name(self.root)).unwrap_or("")
    }

    /// A key's value, recorded as read; `None` where it is absent or null.
    fn get(&self, keys: &[&str], to: &'static str) -> Option<(String, &'a Value)> {
        for map in [self.text, self.root] {
            for key in keys {
                self.read.borrow_mut().insert((*key).to_owned());
                if let Some(value) = map.get(*key).filter(|value| !value.is_null()) {
                    let mapped = Mapped { key: (*key).to_owned(), value: short(value), to };
                    let mut mapping = self.mapping.borrow_mut();
                    if !mapping.contains(&mapped) {
                        mapping.push(mapped);
                    }
                    return Some(((*key).to_owned(), value));
                }
            }
        }
        None
    }

    /// Whether one of these keys is there and not null, without reading it.
    pub fn has(&self, keys: &[&str]) -> bool {
        let stated = |map: &Map<String, Value>| {
            keys.iter().any(|key| map.get(*key).is_some_and(|value| !value.is_null()))
        };
        stated(self.text) || stated(self.root)
    }

    /// A whole number.
    ///
    /// # Errors
    /// Another value, or one out of range.
    pub fn number(&self, keys: &[&str], to: &'static str) -> Result<Option<u64>, String> {
        self.get(keys, to).map(|(key, value)| whole(&key, value)).transpose()
    }

    /// A whole number that must be there.
    ///
    /// # Errors
    /// Its absence, with the first of the keys, and as [`Config::number`].
    pub fn need(&self, keys: &[&str], to: &'static str) -> Result<u64, String> {
        let stated = self.number(keys, to)?;
        stated.ok_or_else(|| format!("states no `{}`", keys.join("` and no `")))
    }

    /// A number for each of so many layers: one for all, or a list.
    ///
    /// # Errors
    /// A list of another length, and as [`Config::number`].
    pub fn per_layer(
        &self,
        keys: &[&str],
        to: &'static str,
        layers: u64,
    ) -> Result<Option<Vec<u64>>, String> {
        let Some((key, value)) = self.get(keys, to) else { return Ok(None) };
        let Some(list) = value.as_array() else {
            return Ok(Some(vec![whole(&key, value)?; layers as usize]));
        };
        check_length(&key, list.len(), layers)?;
        let numbers = list.iter().map(|value| whole(&key, value));
        numbers.collect::<Result<_, _>>().map(Some)
    }

    /// A list of whole numbers.
    ///
    /// # Errors
    /// Another value.
    pub fn numbers(
        &self,
        keys: &[&str],
        to: &'static str,
    ) -> Result<Option<Vec<u64>>, String> {
        let Some((key, value)) = self.get(keys, to) else { return Ok(None) };
        let list = value.as_array().ok_or_else(|| {
            format!("`{key}` = {} is not a list of numbers", short(value))
        })?;
        list.iter().map(|value| whole(&key, value)).collect::<Result<_, _>>().map(Some)
    }

    /// A name for each of so many layers.
    ///
    /// # Errors
    /// Another value, or a list of another length.
    pub fn names(
        &self,
        keys: &[&str],
        to: &'static str,
    ) -> Result<Option<Vec<&'a str>>, String> {
        let Some((key, value)) = self.get(keys, to) else { return Ok(None) };
        let names =
            value.as_array().and_then(|list| list.iter().map(Value::as_str).collect());
        let names: Option<Vec<&str>> = names;
        names
            .map(Some)
            .ok_or_else(|| format!("`{key}` = {} is not a list of names", short(value)))
    }

    /// A text.
    pub fn text(&self, keys: &[&str], to: &'static str) -> Option<&'a str> {
        self.get(keys, to).and_then(|(_, value)| value.as_str())
    }

    /// Whether something is so.
    ///
    /// # Errors
    /// Another value than true and false.
    pub fn flag(&self, keys: &[&str], to: &'static str) -> Result<Option<bool>, String> {
        let Some((key, value)) = self.get(keys, to) else { return Ok(None) };
        let flag = value.as_bool();
        flag.map(Some)
            .ok_or_else(|| format!("`{key}` = {} is neither true nor false", short(value)))
    }

    /// An object in the configuration, as a configuration of its own whose keys are read
    /// with those of this one.
    pub fn object(
        &self,
        keys: &[&str],
        to: &'static str,
    ) -> Option<&'a Map<String, Value>> {
        self.get(keys, to).and_then(|(_, value)| value.as_object())
    }

    /// Reads a key that says what nothing has use for, if it is there.
    pub fn unused(&self, keys: &[&str], why: &'static str) {
        for key in keys {
            self.get(&[key], why);
        }
    }

    /// Adds a note.
    pub fn note(&self, note: String) {
        self.notes.borrow_mut().push(note);
    }

    /// What was read.
    pub fn mapping(&self) -> Vec<Mapped> {
        self.mapping.borrow().clone()
    }

    /// What was not understood; that the family is not known first.
    pub fn notes(&self, is_known_family: bool) -> Vec<String> {
        let mut notes = self.notes.borrow().clone();
        if !is_known_family {
            let name = self.model_type();
            let name =
                if name.is_empty() { "no model_type".to_owned() } else { name.to_owned() };
            notes.push(format!(
                "{name}: not a family that is known; mapped as the Llama family"
            ));
        }
        let read = self.read.borrow();
        let mut left: Vec<&String> = self.text.keys().collect();
        if !std::ptr::eq(self.text, self.root) {
            left.extend(self.root.keys());
        }
        left.sort();
        left.dedup();
        for key in
            left.into_iter().filter(|key| !read.contains(*key) && says_something(key))
        {
            let value = self.text.get(key).or_else(|| self.root.get(key));
            let Some(value) = value.filter(|value| !is_off(value)) else { continue };
            notes.push(match value {
                Value::Object(_) if key.ends_with("_config") => {
                    format!("`{key}` is a part that is not predicted")
                }
                value => format!("`{key}` = {} is not mapped", short(value)),
            });
        }
        notes
    }
}

/// Whether a key may change bytes or FLOPs.
fn says_something(key: &str) -> bool {
    let endings = ["_token_id", "_token_index", "_token_ids", "_dropout", "_loss_coef"];
    let beginnings =
        ["rope", "mamba_dt", "time_step", "output_", "is_", "task_", "id2", "label2"];
    !IRRELEVANT.contains(&key)
        && !endings.iter().any(|ending| key.ends_with(ending))
        && !beginnings.iter().any(|beginning| key.starts_with(beginning))
}

/// Whether a value says that there is none of something.
fn is_off(value: &Value) -> bool {
    match value {
        Value::Null | Value::Bool(false) => true,
        Value::Number(number) => number.as_f64() == Some(0.0),
        Value::String(text) => text.is_empty(),
        Value::Array(list) => list.is_empty(),
        Value::Object(map) => map.is_empty(),
        Value::Bool(true) => false,
    }
}

/// A whole number; some configurations write them with a point.
pub fn whole(key: &str, value: &Value) -> Result<u64, String> {
    let integral = |x: &f64| x.fract() == 0.0 && (0.0..=MOST as f64).contains(x);
    let number =
        value.as_u64().or_else(|| value.as_f64().filter(integral).map(|x| x as u64));
    number.filter(|&number| number <= MOST).ok_or_else(|| {
        format!("`{key}` = {} is not a whole number from 0 to {MOST}", short(value))
    })
}

/// Refuses a list that does not have an entry for each layer.
pub fn check_length(key: &str, found: usize, layers: u64) -> Result<(), String> {
    if found as u64 == layers {
        return Ok(());
    }
    Err(format!(
        "`{key}` has {found} entries for {layers} layers; it must have one for each"
    ))
}

/// A value on a short line.
pub fn short(value: &Value) -> String {
    const MOST_LETTERS: usize = 60;
    let text = value.to_string();
    if text.chars().count() <= MOST_LETTERS {
        return text;
    }
    let beginning: String = text.chars().take(MOST_LETTERS).collect();
    match value {
        Value::Array(list) => format!("{beginning}... ({} entries)", list.len()),
        _ => format!("{beginning}..."),
    }
}

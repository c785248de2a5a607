//! Models from their own files: the `config.json` that Hugging Face's checkpoints have, and
//! beside it the index of their weights.
//!
//! A configuration names a family (`model_type`), which says what its keys leave out; what
//! is not known is mapped as the Llama family, and said. Everything that was read is listed
//! with what it became, and every key that says something and was not understood too.

mod checkpoint;
mod config;
mod family;
mod feed_forward;
mod mixer;
mod quantization;
#[cfg(test)]
mod tests;

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, anyhow, bail};
use serde_json::Value;

pub use checkpoint::Checkpoint;
pub use config::Mapped;

use self::config::Config;
use self::family::Family;
use super::llm::{FeedForward, LayerKind, Llm, Mixer, kinds_together};

/// Largest configuration or index that is read, in bytes.
const MOST_BYTES: u64 = 64 << 20;

/// A model, and how it came about.
#[derive(Clone, Debug, PartialEq)]
pub struct Imported {
    /// The model.
    pub model: Llm,
    /// Keys that were read and what they became.
    pub mapping: Vec<Mapped>,
    /// What was not understood, or is not part of predictions.
    pub notes: Vec<String>,
    /// What the index of the weights says, where there is one.
    pub checkpoint: Option<Checkpoint>,
}

/// Whether a name on a command line is meant as a file or folder, and not as a name in the
/// table of models. A folder here is `./name`.
pub fn is_path(name: &str) -> bool {
    name.contains(['/', '\\']) || name.ends_with(".json")
}

/// The model of a `config.json`, or of a folder that has one.
///
/// # Errors
/// A file that cannot be read or is not JSON, and what in it states no model; the message
/// names the file and the key.
pub fn read(path: &Path) -> Result<Imported> {
    let file = if path.is_dir() { path.join("config.json") } else { path.to_path_buf() };
    let config = parse(&file)?;
    let name = name_of(&file);
    let mut imported = of_value(&config, &name, &file.display().to_string())
        .map_err(|message| anyhow!("{}: {message}", file.display()))?;
    if let Some(index) = index_beside(&file) {
        let found = Checkpoint::of(&parse(&index)?);
        let found = found.map_err(|message| anyhow!("{}: {message}", index.display()))?;
        imported.checkpoint = Some(found);
    }
    Ok(imported)
}

/// The model of a configuration.
///
/// # Errors
/// What in it states no model, with the key.
pub fn of_text(text: &str, name: &str, source: &str) -> Result<Imported, String> {
    let value: Value = serde_json::from_str(text).map_err(|e| format!("no JSON: {e}"))?;
    of_value(&value, name, source)
}

fn of_value(value: &Value, name: &str, source: &str) -> Result<Imported, String> {
    let config = Config::of(value)?;
    let family = Family::of(&config);
    let model = model(&config, &family, (name, source))?;
    let notes = config.notes(family.is_known);
    Ok(Imported { model, mapping: config.mapping(), notes, checkpoint: None })
}

fn parse(file: &Path) -> Result<Value> {
    let size = std::fs::metadata(file)
        .with_context(|| format!("cannot read {}", file.display()))?
        .len();
    if size > MOST_BYTES {
        bail!(
            "{} has {size} bytes, and a configuration has {MOST_BYTES} at most",
            file.display()
        );
    }
    let bytes =
        std::fs::read(file).with_context(|| format!("cannot read {}", file.display()))?;
    serde_json::from_slice(&bytes)
        .with_context(|| format!("{} is not JSON", file.display()))
}

/// The index of the weights in the folder of a configuration.
fn index_beside(file: &Path) -> Option<PathBuf> {
    let index = file.parent()?.join("model.safetensors.index.json");
    index.is_file().then_some(index)
}

/// A model's name by its file: that of its folder, but for folders of a cache's snapshots,
/// whose names are hashes.
fn name_of(file: &Path) -> String {
    let stem = file.file_stem().map(|stem| stem.to_string_lossy().into_owned());
    let folder = file.parent().and_then(Path::file_name);
    let folder = folder.map(|folder| folder.to_string_lossy().into_owned());
    let name = match (stem, folder) {
        (Some(stem), _) if stem != "config" => stem,
        (_, Some(folder)) => folder,
        (stem, None) => stem.unwrap_or_default(),
    };
    // Names are cells of a table, and separated by commas on command lines.
    let is_plain = |c: char| c.is_ascii_alphanumeric() || "._-".contains(c);
    name.chars().map(|c| if is_plain(c) { c } else { '-' }).collect()
}

fn model(
    config: &Config,
    family: &Family,
    (name, source): (&str, &str),
) -> Result<Llm, String> {
    let layers = mixer::layer_count(config)?;
    let hidden = config.need(&["hidden_size", "n_embd", "d_model"], "hidden")?;
    let vocab = config.number(&["vocab_size"], "vocab")?.or(family.vocab);
    let vocab = vocab.ok_or("states no `vocab_size`")?;
    let mixers = mixer::of_layers(config, family, (layers, hidden))?;
    let parts = feed_forward::of_layers(config, family, (&mixers, hidden))?;
    let norms = |mixer: &Mixer, part: &FeedForward| match (mixer, part) {
        (Mixer::None, _) | (_, FeedForward::None) => 1,
        _ => family.norms,
    };
    let kinds = mixers.iter().zip(&parts).map(|(mixer, part)| LayerKind {
        count: 1,
        mixer: *mixer,
        feed_forward: *part,
        norms: norms(mixer, part),
    });
    let tied = config.flag(&["tie_word_embeddings"], "tied_embeddings")?;
    let limits = ["max_position_embeddings", "model_max_length", "n_positions"];
    let mut model = Llm {
        name: name.to_owned(),
        kinds: kinds_together(kinds),
        hidden,
        vocab,
        tied_embeddings: tied.unwrap_or(family.tied),
        parameters: None,
        context_limit: config.number(&limits, "context_limit")?.filter(|&limit| limit > 0),
        weights: None,
        source: source.to_owned(),
    };
    model.check()?;
    model.weights = Some(quantization::weights(config, layers)?);
    Ok(model)
}

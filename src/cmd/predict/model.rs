//! `ridgepoint predict model`: models from their own files, as rows of a table.

use std::io::{ErrorKind, Write};
use std::path::PathBuf;

use anyhow::{Context, Result};

use crate::model::import::{self, Checkpoint, Imported};
use crate::model::step::Step;
use crate::section::Section;

/// Work with models of your own.
#[derive(Debug, clap::Args)]
pub struct ModelArgs {
    #[command(subcommand)]
    action: Action,
}

/// What to do with a model.
#[derive(Debug, clap::Subcommand)]
enum Action {
    /// Write the row of a model's config.json, for a file of `--models`.
    Import {
        /// A config.json of Hugging Face's form, or a folder with one.
        #[arg(value_name = "PATH")]
        path: PathBuf,
    },
}

pub fn run(args: &ModelArgs) -> Result<()> {
    let Action::Import { path } = &args.action;
    let imported = import::read(path)?;
    let mut notes = imported.notes.clone();
    notes.extend(checkpoint_notes(&imported));
    let comments: Vec<String> =
        notes.iter().map(|note| format!("# {}\n", one_line(note))).collect();
    let text = comments.concat() + &imported.model.row();
    let mut to = std::io::stdout().lock();
    match to.write_all(text.as_bytes()).and_then(|()| to.flush()) {
        // A reader that stops early is not an error.
        Err(e) if e.kind() != ErrorKind::BrokenPipe => {
            Err(e).context("cannot write the row to the standard output")
        }
        _ => Ok(()),
    }
}

fn one_line(note: &str) -> String {
    note.replace(['\n', '\r'], " ")
}

/// What was read of a model's file and what it became, what could not be mapped, and the
/// weights that the index states beside those of the formulas.
pub fn section(imported: &Imported) -> Section {
    let model = &imported.model;
    let mut paragraphs = Vec::new();
    if let Ok(parameters) = Step::parameters(model) {
        paragraphs.push(format!(
            "{} layers, {parameters} parameters by the formulas.",
            model.layers()
        ));
    }
    paragraphs.extend(checkpoint_notes(imported));
    paragraphs.extend(imported.notes.iter().map(|note| format!("{note}.")));
    Section {
        heading: format!("{}, from {}", model.name, model.source),
        paragraphs,
        columns: vec!["key", "number", "word", "read_as"],
        rows: imported
            .mapping
            .iter()
            .map(|of| {
                let is_number = of.value.parse::<f64>().is_ok_and(f64::is_finite);
                let (number, word) = match is_number {
                    true => (of.value.clone(), String::new()),
                    false => (String::new(), of.value.clone()),
                };
                vec![of.key.clone(), number, word, of.to.to_owned()]
            })
            .collect(),
        ..Section::default()
    }
}

/// The weights that the index states, held against the formulas.
fn checkpoint_notes(imported: &Imported) -> Vec<String> {
    let Some(Checkpoint { bytes, parameters, tensors }) = imported.checkpoint else {
        return Vec::new();
    };
    let mut notes = Vec::new();
    if let (Some(stated), Ok(counted)) = (bytes, Checkpoint::counted_bytes(&imported.model))
    {
        let off = 100.0 * (counted as f64 / stated as f64 - 1.0);
        notes.push(format!(
            "The index states {stated} bytes of weights in {tensors} tensors; the formulas count \
             {counted}, {off:+.2} %"
        ));
    }
    if let (Some(stated), Ok(counted)) = (parameters, Step::parameters(&imported.model)) {
        let off = 100.0 * (counted as f64 / stated as f64 - 1.0);
        notes.push(format!(
            "The index states {stated} parameters; the formulas count {counted}, {off:+.2} %"
        ));
    }
    notes
}

//! Cells of the tables that subcommands print.

use std::collections::BTreeSet;

use anyhow::Result;

use crate::cmd::options::OutputFormat;
use crate::cmd::table;
use crate::model::step::Formats;
use crate::model::task::Served;
use crate::output::remark;
use crate::section::Section;

/// A number, or an empty cell.
pub fn cell(value: Option<f64>) -> String {
    // There is one zero.
    value.map(|value| (value + 0.0).to_string()).unwrap_or_default()
}

/// Columns that say which model a row is about.
pub const NAMES: [&str; 4] = ["model", "weights", "cache", "gpus"];

/// The cells of [`NAMES`].
pub fn names(served: &Served) -> Vec<String> {
    let Formats { weights, cache, .. } = served.formats;
    vec![
        served.model.name.clone(),
        weights.to_string(),
        cache.to_string(),
        served.parallel.gpus().to_string(),
    ]
}

/// Rows of predictions.
#[derive(Default)]
pub struct Rows {
    rows: Vec<Vec<String>>,
    /// How many of them have a prediction.
    predicted: usize,
    /// Why the first of the others has none.
    refusal: Option<String>,
    /// What is said of all of them, each once.
    notes: BTreeSet<String>,
}

impl Rows {
    /// Says something once, however many rows it is true of.
    pub fn note(&mut self, note: Option<String>) {
        self.notes.extend(note);
    }

    /// Adds a row: `names`, then `count` cells with what was predicted and an empty one, or
    /// with the reason in that one why nothing was.
    pub fn push(
        &mut self,
        names: Vec<String>,
        predicted: Result<Vec<String>, String>,
        count: usize,
    ) {
        let (predicted, reason) = match predicted {
            Ok(predicted) => {
                self.predicted += 1;
                (predicted, String::new())
            }
            Err(reason) => {
                self.refusal.get_or_insert_with(|| reason.clone());
                (vec![String::new(); count], reason)
            }
        };
        self.rows.push(names.into_iter().chain(predicted).chain([reason]).collect());
    }
}

/// The error of a command all of whose rows were refused.
pub fn nothing_predicted(reason: &str) -> anyhow::Error {
    anyhow::anyhow!("nothing could be predicted: {reason}")
}

/// The columns of a table: [`NAMES`], `what` a row is about beside them, what is
/// `predicted`, and the reason why nothing is.
pub fn columns(what: &[&'static str], predicted: &[&'static str]) -> Vec<&'static str> {
    [&NAMES, what, predicted, &["reason"]].concat()
}

/// Prints rows in a section.
///
/// # Errors
/// Standard output that cannot be written, or rows none of which has a prediction.
pub fn print(mut section: Section, rows: Rows, format: OutputFormat) -> Result<()> {
    section.rows = rows.rows;
    table::print(&[section], format)?;
    rows.notes.iter().for_each(|note| remark!("note: {note}"));
    match rows.refusal {
        Some(reason) if rows.predicted == 0 => Err(nothing_predicted(&reason)),
        _ => Ok(()),
    }
}

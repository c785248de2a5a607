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
    value.map(|value| value.to_string()).unwrap_or_default()
}

/// The cells that say which model a row is about: its name, formats and GPUs.
pub fn names(served: &Served) -> Vec<String> {
    let Formats { weights, cache, .. } = served.formats;
    vec![
        served.model.name.clone(),
        format!("{weights}, {cache}"),
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

    /// Adds a row: `names`, then `count` cells with what was predicted, or with the reason
    /// why nothing was in the last of them.
    pub fn push(
        &mut self,
        names: Vec<String>,
        predicted: Result<Vec<String>, String>,
        count: usize,
    ) {
        self.predicted += usize::from(predicted.is_ok());
        let predicted = predicted.unwrap_or_else(|reason| {
            self.refusal.get_or_insert_with(|| reason.clone());
            let mut empty = vec![String::new(); count];
            if let Some(last) = empty.last_mut() {
                *last = reason;
            }
            empty
        });
        self.rows.push(names.into_iter().chain(predicted).collect());
    }
}

/// The error of a command all of whose rows were refused.
pub fn nothing_predicted(reason: &str) -> anyhow::Error {
    anyhow::anyhow!("nothing could be predicted: {reason}")
}

/// Rounds the cells of a section for people. The end of a column's name says the unit.
pub fn round(section: &mut Section) {
    for row in &mut section.rows {
        for (cell, column) in row.iter_mut().zip(&section.columns) {
            let Ok(value) = cell.parse::<f64>() else { continue };
            if column.ends_with("_bytes_per_s") {
                *cell = format!("{:.1} GB/s", value / 1e9);
            } else if column.ends_with("_bytes") {
                *cell = format!("{:.3} GB", value / 1e9);
            } else if column.ends_with("_s") {
                *cell = format!("{:.3} ms", 1e3 * value);
            } else if value.fract() != 0.0 {
                *cell = format!("{value:.3}");
            }
        }
    }
}

/// Prints rows in a section whose first six columns say what a row is about.
///
/// # Errors
/// Standard output that cannot be written, or rows none of which has a prediction.
pub fn print(mut section: Section, rows: Rows, format: OutputFormat) -> Result<()> {
    section.rows = rows.rows;
    if format == OutputFormat::Table {
        round(&mut section);
        section.say_once(6);
    }
    table::print(&[section], format)?;
    rows.notes.iter().for_each(|note| remark!("note: {note}"));
    match rows.refusal {
        Some(reason) if rows.predicted == 0 => Err(nothing_predicted(&reason)),
        _ => Ok(()),
    }
}

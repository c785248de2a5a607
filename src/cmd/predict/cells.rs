//! Cells of the tables that subcommands print.

use anyhow::Result;

use crate::cmd::options::OutputFormat;
use crate::cmd::table;
use crate::model::step::Formats;
use crate::model::task::Served;
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

/// The cells of a row: `names`, then `count` more with what was predicted, or with the
/// reason why nothing was in the last of them.
pub fn row(
    names: Vec<String>,
    predicted: Result<Vec<String>, String>,
    count: usize,
) -> Vec<String> {
    let predicted = predicted.unwrap_or_else(|reason| {
        let mut empty = vec![String::new(); count];
        if let Some(last) = empty.last_mut() {
            *last = reason;
        }
        empty
    });
    names.into_iter().chain(predicted).collect()
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

/// Prints a section whose first six columns say what a row is about.
pub fn print(mut section: Section, format: OutputFormat) -> Result<()> {
    if format == OutputFormat::Table {
        round(&mut section);
        section.say_once(6);
    }
    table::print(&[section], format)
}

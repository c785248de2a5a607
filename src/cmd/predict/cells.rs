//! Cells of the tables that subcommands print.

use crate::model::step::Formats;
use crate::model::task::Served;

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

/// The cells of a row: `names`, then `count` more with what was predicted and an empty one,
/// or with the reason in that one why nothing was.
pub fn row(
    names: Vec<String>,
    predicted: Result<Vec<String>, String>,
    count: usize,
) -> Vec<String> {
    let (predicted, reason) = match predicted {
        Ok(predicted) => (predicted, String::new()),
        Err(reason) => (vec![String::new(); count], reason),
    };
    names.into_iter().chain(predicted).chain([reason]).collect()
}

/// The columns of a table: [`NAMES`], `what` a row is about beside them, what is
/// `predicted`, and the reason why nothing is.
pub fn columns(what: &[&'static str], predicted: &[&'static str]) -> Vec<&'static str> {
    [&NAMES, what, predicted, &["reason"]].concat()
}

//! `ridgepoint predict step --explain`: each problem of a step with its formulas.

use anyhow::Result;

use super::cells::cell;
use crate::cmd::options::OutputFormat;
use crate::cmd::table;
use crate::model::llm::Llm;
use crate::model::predict::Rates;
use crate::model::step::{Step, StepPart, StepProblem, StepShape};
use crate::model::sweep::{Grid, Predicted};
use crate::section::Section;

/// Prints the problems of every step of a grid, with formulas.
pub fn print(grid: &Grid, format: OutputFormat) -> Result<Predicted> {
    let (rates, mut predicted) = (grid.rates.first(), Predicted::default());
    let mut sections = Vec::new();
    for (model, shape) in grid.shapes() {
        let step = Step::of(model, &shape);
        match &step {
            Ok(_) => predicted.steps += 1,
            Err(reason) => predicted.refusal = predicted.refusal.or(Some(reason.clone())),
        }
        sections.push(section(model, &shape, step, rates));
    }
    table::print(&sections, format)?;
    Ok(predicted)
}

fn section(
    model: &Llm,
    shape: &StepShape,
    step: Result<Step, String>,
    rates: Option<&Rates>,
) -> Section {
    let StepShape { phase, batch, context, .. } = shape;
    let heading =
        format!("{} {}, batch {batch}, context {context}", model.name, phase.name());
    let step = match step {
        Ok(step) => step,
        Err(reason) => {
            return Section { heading, paragraphs: vec![reason], ..Section::default() };
        }
    };
    let about = format!(
        "Each problem on one GPU, so many times. Times on {}, one each.",
        rates.map_or("no machine", |rates| &rates.machine().name)
    );
    let limit = model.beyond_limit(*context).map(|note| format!("{note}."));
    let rows = step.problems.iter().map(|entry| row(entry, rates)).collect();
    Section {
        heading,
        paragraphs: [about].into_iter().chain(limit).collect(),
        columns: COLUMNS.to_vec(),
        rows,
        keys: 0,
        spare: &["bytes_formula", "sent_bytes", "problem", "flops_formula"],
    }
}

const COLUMNS: [&str; 11] = [
    "what",
    "count",
    "problem",
    "flops_formula",
    "flops",
    "bytes_formula",
    "bytes",
    "sent_bytes",
    "oi_flops_per_byte",
    "time_s",
    "bound",
];

fn row(entry: &StepProblem, rates: Option<&Rates>) -> Vec<String> {
    let (work, explained) = (entry.problem.work(), entry.problem.explanation());
    let is_exchange = entry.part == StepPart::Exchange;
    // Of nothing there is no formula.
    let formula =
        |text: String| if text.parse::<f64>().is_ok() { String::new() } else { text };
    let of_memory = |text: String| if is_exchange { String::new() } else { text };
    // Where a peak is not known, memory alone says how long it takes at least. What links
    // take is a matter of the whole step.
    let timed = rates.filter(|_| !is_exchange).map(|rates| {
        let memory_s = work.bytes() as f64 / rates.bytes_per_s();
        match rates.roof(&work) {
            Some(roof) => (roof.time_s(), roof.binding().name()),
            None => (memory_s, "memory"),
        }
    });
    vec![
        entry.name.to_owned(),
        entry.count.to_string(),
        entry.problem.to_string(),
        of_memory(formula(explained.flops)),
        of_memory(work.flops().to_string()),
        of_memory(formula(explained.bytes)),
        of_memory(work.bytes().to_string()),
        if is_exchange { work.sent_bytes().to_string() } else { String::new() },
        of_memory(work.operational_intensity().to_string()),
        cell(timed.map(|(time_s, _)| time_s)),
        timed.map(|(_, bound)| bound.to_owned()).unwrap_or_default(),
    ]
}

//! `ridgepoint predict step --explain`: each problem of a step with its formulas.

use super::cells::cell;
use crate::model::llm::Llm;
use crate::model::predict::Rates;
use crate::model::step::{Step, StepPart, StepProblem, StepShape};
use crate::model::sweep::Grid;
use crate::section::Section;

/// The problems of every step of a grid, with formulas.
pub fn sections(grid: &Grid) -> Vec<Section> {
    let rates = grid.rates.first();
    grid.shapes().map(|(model, shape)| section(model, &shape, rates)).collect()
}

fn section(model: &Llm, shape: &StepShape, rates: Option<&Rates>) -> Section {
    let StepShape { phase, batch, context, .. } = shape;
    let heading =
        format!("{} {}, batch {batch}, context {context}", model.name, phase.name());
    let step = match Step::of(model, shape) {
        Ok(step) => step,
        Err(reason) => {
            return Section { heading, paragraphs: vec![reason], ..Section::default() };
        }
    };
    let rows = step.problems.iter().map(|entry| row(entry, rates)).collect();
    let machine = rates.map_or("no machine", |rates| &rates.machine().name);
    Section {
        heading,
        paragraphs: vec![format!(
            "Each problem on one GPU, `count` times. Times on {machine}, of one each."
        )],
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

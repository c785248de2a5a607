//! `ridgepoint predict step --explain`: each problem of a step with its formulas.

use super::cells::cell;
use crate::model::llm::Llm;
use crate::model::predict::Rates;
use crate::model::routing::{ExpertRouting, Touched};
use crate::model::step::{Step, StepPart, StepProblem, StepShape};
use crate::model::sweep::{Grid, MixGrid, Predicted};
use crate::model::task::Served;
use crate::section::Section;

/// The problems of every step of a grid, with formulas, and what became of the steps.
pub fn sections(grid: &Grid) -> (Vec<Section>, Predicted) {
    let (rates, mut predicted) = (grid.rates.first(), Predicted::default());
    let of_shape = |(model, shape): (&Llm, StepShape)| {
        let StepShape { phase, batch, context, routing, .. } = shape;
        let name = &model.name;
        let heading = format!("{name} {}, batch {batch}, context {context}", phase.name());
        let step = Step::of(model, &shape);
        predicted.take(step.as_ref().err());
        let mut section = section(heading, step, routing, rates);
        let limit = model.beyond_limit(context).map(|note| format!("{note}."));
        section.paragraphs.extend(limit);
        section
    };
    let sections = grid.shapes().map(of_shape).collect();
    (sections, predicted)
}

/// The problems of a step of requests that differ, for every model, and what became of the
/// steps.
pub fn sections_of_mix(grid: &MixGrid) -> (Vec<Section>, Predicted) {
    let (requests, mut predicted) = (grid.mix.requests(), Predicted::default());
    let of_step = |(served, step): (&Served, Result<Step, String>)| {
        let heading = format!("{} mixed, {requests} requests", served.model.name);
        predicted.take(step.as_ref().err());
        section(heading, step, served.routing, grid.rates.first())
    };
    let sections = grid.steps().map(of_step).collect();
    (sections, predicted)
}

fn section(
    heading: String,
    step: Result<Step, String>,
    routing: ExpertRouting,
    rates: Option<&Rates>,
) -> Section {
    let step = match step {
        Ok(step) => step,
        Err(reason) => {
            return Section { heading, paragraphs: vec![reason], ..Section::default() };
        }
    };
    let rows = step.problems.iter().map(|entry| row(entry, rates, step.touched)).collect();
    let machine = rates.map_or("no machine", |rates| &rates.machine().name);
    Section {
        heading,
        paragraphs: vec![format!(
            "Each problem on one GPU, `count` times in `launches` launches. Times on {machine}, \
             of one each. Formulas touch as many experts as can be; `routed_bytes` is what the \
             routing {routing} reads or sends of them, and intensity and time are with it."
        )],
        columns: COLUMNS.to_vec(),
        rows,
        keys: 0,
        spare: &["bytes_formula", "sent_bytes", "problem", "flops_formula"],
    }
}

const COLUMNS: [&str; 13] = [
    "what",
    "count",
    "launches",
    "problem",
    "flops_formula",
    "flops",
    "bytes_formula",
    "bytes",
    "routed_bytes",
    "sent_bytes",
    "oi_flops_per_byte",
    "time_s",
    "bound",
];

fn row(entry: &StepProblem, rates: Option<&Rates>, touched: Touched) -> Vec<String> {
    let (work, explained) = (entry.problem.work(), entry.problem.explanation());
    let is_exchange = entry.part == StepPart::Exchange;
    // Of nothing there is no formula.
    let formula =
        |text: String| if text.parse::<f64>().is_ok() { String::new() } else { text };
    let of_memory = |text: String| if is_exchange { String::new() } else { text };
    let bytes = entry.bytes(touched);
    let routed = match is_exchange {
        true => entry.sent_bytes(touched),
        false => bytes,
    };
    // Where a peak is not known, memory alone says how long it takes at least. What links
    // take is a matter of the whole step.
    let timed =
        rates.filter(|_| !is_exchange).map(|rates| match rates.roof_of(entry, touched) {
            Some(roof) => (roof.time_s(), roof.binding().name()),
            None => (bytes / rates.bytes_per_s(), "memory"),
        });
    vec![
        entry.name.to_owned(),
        entry.count.to_string(),
        entry.launches().to_string(),
        entry.problem.to_string(),
        of_memory(formula(explained.flops)),
        of_memory(work.flops().to_string()),
        of_memory(formula(explained.bytes)),
        of_memory(work.bytes().to_string()),
        if entry.is_routed() { format!("{routed:.0}") } else { String::new() },
        if is_exchange { work.sent_bytes().to_string() } else { String::new() },
        of_memory((work.flops() as f64 / bytes).to_string()),
        cell(timed.map(|(time_s, _)| time_s)),
        timed.map(|(_, bound)| bound.to_owned()).unwrap_or_default(),
    ]
}

//! `ridgepoint predict step --explain`: each problem of a step with its formulas.

use anyhow::Result;

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
        columns: vec!["what", "times", "problem", "FLOPs", "bytes", "OI", "time"],
        rows,
    }
}

fn row(entry: &StepProblem, rates: Option<&Rates>) -> Vec<String> {
    let (work, explained) = (entry.problem.work(), entry.problem.explanation());
    let of_problem = [entry.name.to_owned(), entry.count.to_string()];
    if entry.part == StepPart::Exchange {
        let sent = format!("{} sent", work.sent_bytes());
        return of_problem
            .into_iter()
            .chain(["", "", &sent, "", ""].map(str::to_owned))
            .collect();
    }
    // Where a peak is not known, memory alone says how long it takes at least.
    let seconds = rates.map(|rates| {
        let memory_s = work.bytes() as f64 / rates.bytes_per_s();
        let roof = rates.roof(&work);
        let bound = roof.map_or("memory", |roof| roof.binding().name());
        format!("{:.2} us ({bound})", 1e6 * roof.map_or(memory_s, |roof| roof.time_s()))
    });
    vec![
        entry.name.to_owned(),
        entry.count.to_string(),
        entry.problem.to_string(),
        format!("{} = {}", explained.flops, work.flops()),
        format!("{} = {}", explained.bytes, work.bytes()),
        format!("{:.3}", work.operational_intensity()),
        seconds.unwrap_or_default(),
    ]
}

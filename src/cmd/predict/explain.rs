//! `ridgepoint predict step --explain`: each problem of a step with its formulas.

use crate::model::llm::Llm;
use crate::model::predict::Rates;
use crate::model::routing::{ExpertRouting, Touched};
use crate::model::step::{Step, StepPart, StepProblem, StepShape};
use crate::model::sweep::{Grid, MixGrid};
use crate::model::task::Served;
use crate::section::Section;

/// The problems of every step of a grid, with formulas.
pub fn sections(grid: &Grid) -> Vec<Section> {
    let of_shape = |(model, shape): (&Llm, StepShape)| {
        let StepShape { phase, batch, context, routing, .. } = shape;
        let name = &model.name;
        let heading = format!("{name} {}, batch {batch}, context {context}", phase.name());
        section(heading, Step::of(model, &shape), routing, grid.rates.first())
    };
    grid.shapes().map(of_shape).collect()
}

/// The problems of a step of requests that differ, for every model.
pub fn sections_of_mix(grid: &MixGrid) -> Vec<Section> {
    let requests = grid.mix.requests();
    let of_step = |(served, step): (&Served, Result<Step, String>)| {
        let heading = format!("{} mixed, {requests} requests", served.model.name);
        section(heading, step, served.routing, grid.rates.first())
    };
    grid.steps().map(of_step).collect()
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
            "Each problem on one GPU, so many times in so many launches. Times on {machine}, \
             one each. Formulas touch as many experts as can be; what the routing \
             {routing} reads and sends of them is in a column of its own, and in OI and time."
        )],
        columns: vec![
            "what",
            "times",
            "launches",
            "problem",
            "FLOPs",
            "bytes",
            "routed bytes",
            "OI",
            "time",
        ],
        rows,
    }
}

fn row(entry: &StepProblem, rates: Option<&Rates>, touched: Touched) -> Vec<String> {
    let (work, explained) = (entry.problem.work(), entry.problem.explanation());
    let of_problem =
        [entry.name.to_owned(), entry.count.to_string(), entry.launches().to_string()];
    let routed = |said: &dyn Fn() -> String| {
        if entry.is_routed() { said() } else { String::new() }
    };
    if entry.part == StepPart::Exchange {
        let sent = format!("{} sent", work.sent_bytes());
        let routed = routed(&|| format!("{:.0} sent", entry.sent_bytes(touched)));
        return of_problem
            .into_iter()
            .chain(["", "", &sent, &routed, "", ""].map(str::to_owned))
            .collect();
    }
    let bytes = entry.bytes(touched);
    // Where a peak is not known, memory alone says how long it takes at least.
    let seconds = rates.map(|rates| {
        let memory_s = bytes / rates.bytes_per_s();
        let roof = rates.roof_of(entry, touched);
        let bound = roof.map_or("memory", |roof| roof.binding().name());
        format!("{:.2} us ({bound})", 1e6 * roof.map_or(memory_s, |roof| roof.time_s()))
    });
    let of_work = [
        entry.problem.to_string(),
        format!("{} = {}", explained.flops, work.flops()),
        format!("{} = {}", explained.bytes, work.bytes()),
        routed(&|| format!("{bytes:.0}")),
        format!("{:.3}", work.flops() as f64 / bytes),
        seconds.unwrap_or_default(),
    ];
    of_problem.into_iter().chain(of_work).collect()
}

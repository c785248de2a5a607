//! `ridgepoint predict step --explain`: each problem of a step with its formulas.

use crate::model::explain::explain;
use crate::model::llm::Llm;
use crate::model::predict::Rates;
use crate::model::step::{Piece, Shape, Step};
use crate::model::sweep::Grid;
use crate::section::Section;

/// The problems of every step of a grid, with formulas.
pub fn sections(grid: &Grid) -> Vec<Section> {
    let rates = grid.rates.first();
    grid.shapes().map(|(model, shape)| section(model, &shape, rates)).collect()
}

fn section(model: &Llm, shape: &Shape, rates: Option<&Rates>) -> Section {
    let Shape { phase, batch, context, .. } = shape;
    let heading =
        format!("{} {}, batch {batch}, context {context}", model.name, phase.name());
    let step = match Step::of(model, shape) {
        Ok(step) => step,
        Err(reason) => {
            return Section { heading, paragraphs: vec![reason], ..Section::default() };
        }
    };
    let mut rows: Vec<_> = step.pieces.iter().map(|piece| row(piece, rates)).collect();
    for transfer in &step.transfers {
        let mut row = vec![String::new(); 7];
        row[0] = transfer.name.to_owned();
        row[1] = transfer.count.to_string();
        row[4] = format!("{:.0} sent", transfer.bytes);
        rows.push(row);
    }
    let machine = rates.map_or("no machine", |rates| &rates.machine().name);
    Section {
        heading,
        paragraphs: vec![format!(
            "Each problem on one GPU, so many times. Times on {machine}, one each."
        )],
        columns: vec!["what", "times", "problem", "FLOPs", "bytes", "OI", "time"],
        rows,
    }
}

fn row(piece: &Piece, rates: Option<&Rates>) -> Vec<String> {
    let (work, explained) = (piece.problem.work(), explain(&piece.problem));
    let seconds = rates.map(|rates| {
        let compute = piece.problem.math_dtype().and_then(|dtype| rates.flops_per_s(dtype));
        let memory_s = work.bytes() as f64 / rates.bytes_per_s();
        let compute_s = compute.map_or(0.0, |rate| work.flops() as f64 / rate);
        let bound = if compute_s > memory_s { "compute" } else { "memory" };
        format!("{:.2} us ({bound})", 1e6 * memory_s.max(compute_s))
    });
    vec![
        piece.name.to_owned(),
        piece.count.to_string(),
        piece.problem.to_string(),
        format!("{} = {}", explained.flops, work.flops()),
        format!("{} = {}", explained.bytes, work.bytes()),
        format!("{:.3}", work.operational_intensity()),
        seconds.unwrap_or_default(),
    ]
}

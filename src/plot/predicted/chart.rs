//! Figures of lines and points, and the steps and machines that they are made of.

use std::fmt::Write;

use anyhow::{Context, Result, anyhow};

use crate::format::DType;
use crate::model::llm::Llm;
use crate::model::machine::{Machine, Machines};
use crate::model::predict::{PeakBasis, Rates};
use crate::model::routing::ExpertRouting;
use crate::model::step::{Formats, Parallel, Phase, Step, StepShape};
use crate::op::MarkerShape;
use crate::plot::axis::{Axis, Scale};
use crate::plot::frame::{
    BELOW, LABEL, LEFT, LegendEntry, LegendKey, Panel, RIGHT, WIDTH, draw_legend,
    draw_title_lines,
};
use crate::plot::layout::{Quad, Rect};
use crate::plot::picture::Picture;
use crate::plot::svg::{Canvas, FAINT, INK, Marker, PALETTE, Stroke, Text};

/// A figure made from predictions.
#[derive(Clone, Debug)]
pub struct Chart {
    /// Name of its files, without ending.
    pub name: &'static str,
    pub title: String,
    pub how: String,
    pub panels: Vec<Area>,
}

/// A panel of a chart.
#[derive(Clone, Debug)]
pub(super) struct Area {
    pub heading: String,
    pub x_title: &'static str,
    pub y_title: &'static str,
    pub x_scale: Scale,
    pub series: Vec<ChartSeries>,
    /// Vertical lines: x and the label.
    pub verticals: Vec<(f64, String)>,
    /// Horizontal lines: y and the label.
    pub horizontals: Vec<(f64, String)>,
}

/// Points with one style; a line joins them if they have an order.
#[derive(Clone, Debug)]
pub(super) struct ChartSeries {
    pub name: String,
    pub joined: bool,
    pub points: Vec<(f64, f64)>,
}

/// Formats of all figures, unless one is about them.
pub(super) const BF16: Formats = Formats::plain(DType::Bf16);

/// Bytes of a gigabyte, the unit of footprints.
pub(super) const GB: f64 = 1e9;

/// A decode step of a model on one GPU, whether it fits or not.
pub(super) fn decode(
    model: &Llm,
    formats: Formats,
    batch: u64,
    context: u64,
) -> Result<Step> {
    step(model, formats, (Phase::Decode, batch, context, 1))
}

pub(super) fn step(
    model: &Llm,
    formats: Formats,
    (phase, batch, context, new_tokens): (Phase, u64, u64, u64),
) -> Result<Step> {
    let (parallel, routing) = (Parallel::ONE, ExpertRouting::Uniform);
    let shape = StepShape { phase, batch, context, new_tokens, formats, parallel, routing };
    Step::of(model, &shape).map_err(|reason| anyhow!("{}: {reason}", model.name))
}

/// The ridges of machines in bf16, as lines.
pub(super) fn ridges(machines: &Machines, names: &[&str]) -> Result<Vec<(f64, String)>> {
    let ridge = |name: &&str| {
        let rates = Rates::new(machines.named(name)?, PeakBasis::Sheet);
        let ridge =
            rates.ridge(DType::Bf16).with_context(|| format!("{name} has no ridge"))?;
        Ok((ridge, format!("ridge of {name} {ridge:.0}")))
    };
    names.iter().map(ridge).collect()
}

/// The capacities of machines, as lines.
pub(super) fn capacities(
    machines: &Machines,
    names: &[&str],
) -> Result<Vec<(f64, String)>> {
    let capacity = |name: &&str| {
        let machine: &Machine = machines.named(name)?;
        let bytes = machine.memory_bytes.with_context(|| format!("{name}: no capacity"))?;
        Ok((bytes / GB, format!("{name} {:.0} GB", bytes / GB)))
    };
    names.iter().map(capacity).collect()
}

/// Height of a panel in pixels.
pub(super) const HEIGHT: f64 = 240.0;

impl Chart {
    /// The values as CSV, with a row for each point and each line.
    pub(super) fn csv(&self) -> String {
        let mut text = String::from("panel,series,x_quantity,x,y_quantity,y\n");
        let quote = |text: &str| format!("\"{}\"", text.replace('"', "\"\""));
        for panel in &self.panels {
            let (x_title, y_title) = (quote(panel.x_title), quote(panel.y_title));
            let mut row = |series: &str, x: &str, y: &str| {
                // Writing to a string never fails.
                let _ = writeln!(
                    text,
                    "{},{},{x_title},{x},{y_title},{y}",
                    quote(&panel.heading),
                    quote(series)
                );
            };
            for series in &panel.series {
                for (x, y) in &series.points {
                    row(&series.name, &x.to_string(), &y.to_string());
                }
            }
            for (x, name) in &panel.verticals {
                row(name, &x.to_string(), "");
            }
            for (y, name) in &panel.horizontals {
                row(name, "", &y.to_string());
            }
        }
        text
    }

    pub(super) fn draw(&self) -> Picture {
        let mut canvas = Canvas::new(WIDTH);
        let mut bottom = draw_title_lines(&mut canvas, &self.title, &self.how);
        for panel in &self.panels {
            let top = bottom + if panel.heading.is_empty() { 10.0 } else { 24.0 };
            panel.draw(&mut canvas, Rect::new(LEFT, top, RIGHT, top + HEIGHT));
            bottom = top + HEIGHT + BELOW - 10.0;
        }
        let series = self.panels.first().map_or(&[][..], |panel| &panel.series);
        let entries: Vec<LegendEntry> = (0..)
            .zip(series)
            .map(|(index, series)| {
                let (stroke, marker) = style(index);
                LegendEntry::new(LegendKey::Both(stroke, marker), series.name.clone())
            })
            .collect();
        let bottom = draw_legend(&mut canvas, &entries, bottom + 10.0);
        canvas.finish(bottom + 8.0, &self.title)
    }
}

/// The style of series number `index`.
pub(super) fn style(index: usize) -> (Stroke, Marker) {
    let shapes = MarkerShape::ALL;
    let colour = PALETTE[index % PALETTE.len()];
    let marker = Marker { shape: shapes[index % shapes.len()], colour, filled: true };
    (Stroke::solid(colour, 1.2), marker)
}

impl Area {
    /// A panel of decode steps over the batch.
    pub(super) fn over_batches(
        heading: &str,
        y_title: &'static str,
        series: Vec<ChartSeries>,
        horizontals: Vec<(f64, String)>,
    ) -> Self {
        Area {
            heading: heading.to_owned(),
            x_title: "batch (requests)",
            y_title,
            x_scale: Scale::Count,
            series,
            verticals: Vec::new(),
            horizontals,
        }
    }

    pub(super) fn draw(&self, canvas: &mut Canvas, area: Rect) {
        let points = || self.series.iter().flat_map(|series| &series.points);
        let xs = points().map(|p| p.0).chain(self.verticals.iter().map(|line| line.0));
        let ys = points().map(|p| p.1).chain(self.horizontals.iter().map(|line| line.0));
        let one = Axis { lo: 1.0, hi: 10.0, scale: Scale::Decimal(1.0) };
        let panel = Panel {
            area,
            x: Axis::spanning(xs, self.x_scale, (1.3, 1.3)).unwrap_or(one),
            y: Axis::spanning(ys, Scale::Decimal(1.0), (1.5, 1.5)).unwrap_or(one),
        };
        panel.draw(canvas, self.x_title, self.y_title);
        panel.heading(canvas, &self.heading);
        let mut room = panel.room();
        for (x, y) in points() {
            room.take(Quad::around(panel.spot(*x, *y), Marker::RADIUS + 1.5));
        }
        for (index, series) in self.series.iter().enumerate() {
            let spots: Vec<_> =
                series.points.iter().map(|p| panel.spot(p.0, p.1)).collect();
            let (stroke, marker) = style(index);
            if series.joined && spots.len() > 1 {
                for pair in spots.windows(2) {
                    room.take(Quad::of_line((pair[0], pair[1]), 3.0));
                }
                canvas.polyline(&spots, stroke);
            }
            for (spot, (x, y)) in spots.iter().zip(&series.points) {
                canvas.mark(*spot, marker, format!("{}: {x:.4}, {y:.4}", series.name));
            }
        }
        let ends = |x: f64| ((x, panel.y.lo), (x, panel.y.hi));
        let verticals = self.verticals.iter().map(|(x, name)| (ends(*x), name));
        let ends = |y: f64| ((panel.x.lo, y), (panel.x.hi, y));
        let horizontals = self.horizontals.iter().map(|(y, name)| (ends(*y), name));
        for ((from, to), name) in verticals.chain(horizontals) {
            let Some(segment) = panel.segment(from, to) else { continue };
            canvas.line(segment, Stroke::dashed(FAINT, 1.0));
            // The spaces keep labels of neighbouring lines apart.
            if let Some(place) = room.place_along(segment, &format!("  {name}"), LABEL) {
                let text = Text::new(name, place.at, LABEL);
                canvas.text(Text { degrees: place.degrees, colour: INK, ..text });
            }
        }
    }
}

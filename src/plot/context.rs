//! Achieved bandwidth against context, a line for each batch: how much a launch must read
//! before it reaches the bandwidth that the machine has.

use super::axis::{Axis, Scale};
use super::frame::{
    self, BELOW, Figure, LABEL, LEFT, LegendEntry, LegendKey, Panel, RIGHT, WIDTH,
    draw_legend, draw_point, draw_titles, drawable, series_style, shown_span, tip,
};
use super::layout::{Rect, Spot};
use super::svg::{Canvas, GUIDE, INK, Stroke, Text};
use super::sweeps::{Grid, chosen, grids};
use super::table::{PlottedTable, count_text, thinned};
use crate::analysis::{Campaign, Measured};
use crate::quantity::{prefix, si};

/// Lines that a panel can show with a label each.
const MOST_LINES: usize = 7;
/// Marks of a line.
const MOST_MARKS: usize = 40;
/// Height of a panel, and room at its right for the labels of its lines.
const HEIGHT: f64 = 170.0;
const LABELS: f64 = 62.0;

/// Draws a panel for each operation, or says what the records lack.
///
/// # Errors
/// The reason why there is nothing to draw.
pub fn draw(campaign: &Campaign) -> Result<Figure, String> {
    let grids = grids(campaign);
    if grids.is_empty() {
        return Err("no operation with a cache was measured at two contexts".to_owned());
    }
    let mut canvas = Canvas::new(WIDTH);
    let how = "Compulsory bytes per second; a line for each batch. Bars, where larger than the \
               mark: 95% interval.";
    let top = draw_titles(&mut canvas, campaign, "Bandwidth by context and batch", how);
    let mut table = PlottedTable::new("context_tokens", "bandwidth_bytes_per_s");
    let (mut areas, mut bottom) = (Vec::new(), top - 4.0);
    for grid in &grids {
        let y0 = bottom + 26.0;
        let area = Rect::new(LEFT, y0, RIGHT - LABELS, y0 + HEIGHT);
        let Some(panel) = panel(campaign, grid, area) else { continue };
        let (_, unit) = prefix(panel.y.hi / 3.0);
        panel.draw(&mut canvas, "context (tokens)", &format!("{unit}B/s"));
        draw_grid(&mut canvas, campaign, (grid, &panel), &mut table);
        bottom = area.y1 + BELOW - 14.0;
        areas.push(area);
    }
    let entries = entries(campaign);
    let bottom = draw_legend(&mut canvas, &entries, bottom + 14.0);
    Ok(frame::finish(canvas, campaign, "context", &table, areas, bottom))
}

fn panel(campaign: &Campaign, grid: &Grid, area: Rect) -> Option<Panel> {
    let rates = grid.cells.values().filter_map(|p| p.bytes_per_s().filter(drawable));
    let roofs = roofs(campaign).into_iter().map(|(rate, ..)| rate);
    let y = rates.flat_map(|rate| shown_span(&rate)).chain(roofs);
    let mut y = Axis::spanning(y, Scale::Decimal(1.0), (1.3, 1.3))?;
    y.scale = Scale::Decimal(prefix(y.hi / 3.0).0);
    let contexts = grid.contexts().into_iter().map(|context| context as f64);
    let x = Axis::spanning(contexts, Scale::Count, (1.3, 1.3))?;
    Some(Panel { area, x, y })
}

/// The bandwidths of reads that are known, with their names.
fn roofs(campaign: &Campaign) -> Vec<(f64, String, Stroke)> {
    let measured = campaign.ceilings.as_ref().map(|of| of.read.rate.value);
    let promised = frame::promise(campaign)
        .map(|of| (of.peaks.bandwidth.read.plateau().bytes_per_s, of.name, of.stroke));
    let measured = measured.map(|rate| (rate, "measured", Stroke::solid(INK, 1.0)));
    let named = measured.into_iter().chain(promised);
    named
        .map(|(rate, name, stroke)| (rate, format!("{name} {}", si(rate, "B/s")), stroke))
        .collect()
}

fn entries(campaign: &Campaign) -> Vec<LegendEntry> {
    let roofs = roofs(campaign).into_iter();
    roofs
        .map(|(_, name, stroke)| {
            LegendEntry::new(LegendKey::Line(stroke), format!("DRAM read {name}"))
        })
        .collect()
}

fn draw_grid(
    canvas: &mut Canvas,
    campaign: &Campaign,
    (grid, panel): (&Grid, &Panel),
    table: &mut PlottedTable,
) {
    for (rate, _, stroke) in roofs(campaign) {
        if let Some(segment) = panel.segment((panel.x.lo, rate), (panel.x.hi, rate)) {
            canvas.line(segment, stroke);
        }
    }
    let batches = grid.batches();
    let drawn = chosen(&batches, MOST_LINES);
    let mut ends: Vec<(Spot, String, &'static str)> = Vec::new();
    let mut step = None;
    for batch in &batches {
        let of_batch = grid.cells.range((*batch, 0)..=(*batch, u64::MAX));
        let points: Vec<(u64, &Measured)> = of_batch.map(|((_, c), p)| (*c, *p)).collect();
        let name = format!("batch {batch}");
        let at = drawn.iter().position(|other| other == batch);
        for (context, point) in &points {
            let Some(rate) = point.bytes_per_s().filter(drawable) else { continue };
            table.point((&grid.name, &name), point, *context as f64, rate);
            if let Some(row) = table.rows.last_mut() {
                row.is_drawn = at.is_some();
            }
        }
        let Some(at) = at else { continue };
        let (stroke, marker) = series_style(grid.op, at, 1.1);
        let placed = points.iter().filter_map(|(context, point)| {
            Some((*context as f64, point.bytes_per_s().filter(drawable)?, *point))
        });
        let placed: Vec<_> = placed.collect();
        let (marked, thinned) = thinned(&placed, MOST_MARKS);
        step = step.max(thinned);
        let spots: Vec<Spot> =
            placed.iter().map(|(x, y, _)| panel.spot(*x, y.value)).collect();
        canvas.series(&name, |canvas| {
            canvas.polyline(&spots, stroke);
            for (x, rate, point) in marked {
                draw_point(canvas, panel, *x, *rate, marker, tip(point));
            }
        });
        ends.extend(spots.last().map(|end| (*end, name, stroke.colour)));
    }
    let mut heading = grid.name.clone();
    if batches.len() > drawn.len() {
        heading.push_str(&format!("; {} of {} batches", drawn.len(), batches.len()));
    }
    if step.is_some() {
        heading.push_str(&format!("; {}", count_text(step, grid.contexts().len())));
    }
    panel.heading(canvas, &heading);
    draw_ends(canvas, panel.area, ends);
}

/// Labels right of the panel at the heights where lines end, moved apart where they would
/// meet, each with a thin line to its end.
fn draw_ends(canvas: &mut Canvas, area: Rect, mut ends: Vec<(Spot, String, &'static str)>) {
    const PITCH: f64 = 11.5;
    ends.sort_by(|a, b| a.0.1.total_cmp(&b.0.1));
    let lowest = area.y1 - PITCH * (ends.len().saturating_sub(1)) as f64;
    let mut least = area.y0;
    for (at, (end, text, colour)) in ends.into_iter().enumerate() {
        let most = lowest + PITCH * at as f64;
        let placed = end.1.max(least).min(most);
        least = placed + PITCH;
        let edge = (area.x1 + 1.0, end.1);
        canvas.line((edge, (area.x1 + 9.0, placed)), Stroke::solid(GUIDE, 0.6));
        let at = (area.x1 + 11.0, placed + 3.6);
        canvas.text(Text { colour, ..Text::new(&text, at, LABEL) });
    }
}

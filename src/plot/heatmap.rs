//! The share of the roof that was reached over batch and context: a cell for each point, with
//! its number.

use super::frame::{self, BELOW, Figure, LABEL, LEFT, RIGHT, WIDTH, draw_titles, tip};
use super::layout::Rect;
use super::svg::{Anchor, Canvas, FAINT, INK, SHADES, Stroke, Text};
use super::sweeps::{Grid, chosen, grids};
use super::table::PlottedTable;
use crate::analysis::{Campaign, Measured};
use crate::quantity::count;

/// Cells that fit side by side and above each other.
const MOST_COLUMNS: usize = 12;
const MOST_ROWS: usize = 12;
/// Height of a cell.
const CELL: f64 = 17.0;

/// Draws a panel for each operation, or says what the records lack.
///
/// # Errors
/// The reason why there is nothing to draw.
pub fn draw(campaign: &Campaign) -> Result<Figure, String> {
    let mut grids = grids(campaign);
    grids.retain(|grid| grid.batches().len() > 1 && shares(grid).next().is_some());
    if grids.is_empty() {
        return Err("no operation was measured under a known roof at two batches and two \
                    contexts"
            .to_owned());
    }
    let mut canvas = Canvas::new(WIDTH);
    let how = "Percent of the least time that the measured ceilings allow. Empty: not measured. \
               Above 100 the roof is too low or a cache helped.";
    let mut bottom = draw_titles(&mut canvas, campaign, "Share of the roof", how) - 4.0;
    let mut table = PlottedTable::new("context_tokens", "roof_share");
    let mut areas = Vec::new();
    for grid in &grids {
        for (batch, context, point) in shares(grid) {
            let Some(share) = point.fraction() else { continue };
            table.point(
                (&grid.name, &format!("batch {batch}")),
                point,
                context as f64,
                share,
            );
        }
        let area = draw_grid(&mut canvas, grid, bottom + 26.0);
        bottom = area.y1 + BELOW - 14.0;
        areas.push(area);
    }
    let bottom = draw_shades(&mut canvas, bottom + 12.0);
    Ok(frame::finish(canvas, campaign, "heatmap", &table, areas, bottom))
}

/// The points with a share, by batch and context.
fn shares<'a>(grid: &'a Grid<'a>) -> impl Iterator<Item = (u64, u64, &'a Measured)> {
    let known = grid.cells.iter().filter(|(_, point)| point.fraction().is_some());
    known.map(|((batch, context), point)| (*batch, *context, *point))
}

fn draw_grid(canvas: &mut Canvas, grid: &Grid, top: f64) -> Rect {
    let contexts = chosen(&grid.contexts(), MOST_COLUMNS);
    let mut batches = chosen(&grid.batches(), MOST_ROWS);
    batches.reverse();
    let width = ((RIGHT - LEFT) / contexts.len() as f64).min(44.0);
    let (columns, rows) = (contexts.len() as f64, batches.len() as f64);
    let area = Rect::new(LEFT, top, LEFT + columns * width, top + rows * CELL);
    let heading = Text::new(&grid.name, (LEFT, top - 5.0), LABEL);
    canvas.text(heading);
    for (row, batch) in batches.iter().enumerate() {
        let y = top + row as f64 * CELL;
        let anchor = Anchor::End;
        let at = (LEFT - 5.0, y + CELL / 2.0 + 3.6);
        canvas.text(Text { anchor, ..Text::new(&batch.to_string(), at, LABEL) });
        for (column, context) in contexts.iter().enumerate() {
            let x = LEFT + column as f64 * width;
            let cell = Rect::new(x + 0.4, y + 0.4, x + width - 0.4, y + CELL - 0.4);
            if let Some(point) = grid.cells.get(&(*batch, *context)) {
                draw_cell(canvas, cell, point);
            }
        }
    }
    for (column, context) in contexts.iter().enumerate() {
        let x = LEFT + (column as f64 + 0.5) * width;
        let anchor = Anchor::Middle;
        let label = count(*context as f64);
        canvas.text(Text { anchor, ..Text::new(&label, (x, area.y1 + 13.0), LABEL) });
    }
    canvas.outline(area, Stroke::solid(INK, 0.8));
    let (x, y) = area.centre();
    let anchor = Anchor::Middle;
    let x = x.max(LEFT + 40.0);
    canvas
        .text(Text { anchor, ..Text::new("context (tokens)", (x, area.y1 + 27.0), LABEL) });
    let at = (LEFT - 36.0, y);
    canvas.text(Text { anchor, degrees: -90.0, ..Text::new("batch", at, LABEL) });
    area
}

/// The shade of a share, and the ink on it.
fn shade(share: f64) -> (&'static str, &'static str) {
    let at = (share * SHADES.len() as f64).clamp(0.0, SHADES.len() as f64 - 1.0);
    SHADES[at as usize]
}

fn draw_cell(canvas: &mut Canvas, cell: Rect, point: &Measured) {
    let Some(share) = point.fraction().filter(|share| share.value.is_finite()) else {
        return;
    };
    let (ground, ink) = shade(share.value);
    canvas.area(cell, ground, Some(tip(point)));
    let (x, y) = cell.centre();
    let text = format!("{:.0}", (100.0 * share.value).min(999.0));
    let anchor = Anchor::Middle;
    canvas.text_on_area(Text {
        anchor,
        colour: ink,
        ..Text::new(&text, (x, y + 3.6), LABEL)
    });
}

/// What the shades mean.
fn draw_shades(canvas: &mut Canvas, top: f64) -> f64 {
    let step = 100 / SHADES.len();
    let mut x = 24.0;
    for (at, (ground, _)) in SHADES.iter().enumerate() {
        let key = Rect::new(x, top - 8.0, x + 10.0, top + 2.0);
        canvas.area(key, ground, None);
        canvas.outline(key, Stroke::solid(FAINT, 0.5));
        let text = match at + 1 == SHADES.len() {
            true => format!("from {}%", at * step),
            false => format!("{} to {}%", at * step, (at + 1) * step),
        };
        canvas.text(Text::new(&text, (x + 13.0, top), LABEL));
        x += 70.0;
    }
    top
}

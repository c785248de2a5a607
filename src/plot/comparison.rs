//! Two campaigns beside each other, or own kernels beside peers: a dot with its interval for
//! each point, coloured by what it says, around a line where both take the same time.

use std::path::Path;

use anyhow::{Result, bail};

use super::axis::{Axis, Scale};
use super::font::text_width;
use super::frame::{draw_grid, draw_title_lines, drawable, shown_span};
use super::layout::Rect;
use super::pdf;
use super::picture::{Letters, Picture};
use super::raster;
use super::svg::{Anchor, Canvas, FAINT, INK, Marker, Stroke, Text};
use crate::compare::{Change, Compared, Comparison};
use crate::op::MarkerShape;
use crate::quantity::{number, share, si};
use crate::record::write_atomically;

/// Width of the figure.
const WIDTH: f64 = 760.0;
/// Font size of labels.
const SIZE: f64 = 10.0;
/// Height of a row.
const PITCH: f64 = 14.0;
/// Most rows that are drawn; a table has all.
const MOST: usize = 400;

/// Draws a comparison.
///
/// # Errors
/// The reason why there is nothing to draw.
pub fn draw(comparison: &Comparison<'_>) -> Result<Picture, String> {
    let mut rows: Vec<&Compared<'_>> =
        comparison.rows.iter().filter(|row| drawable(&row.speed)).collect();
    // Where there are more than a figure holds, those that say the least are left out.
    rows.sort_by_key(|row| row.change);
    let left_out = rows.len().saturating_sub(MOST);
    rows.truncate(MOST);
    let spans = rows.iter().flat_map(|row| shown_span(&row.speed)).chain([1.0]);
    let axis = Axis::spanning(spans, Scale::Decimal(1.0), (1.1, 1.1));
    let (Some(axis), false) = (axis, rows.is_empty()) else {
        return Err("no point has a time in both".to_owned());
    };
    let mut canvas = Canvas::new(WIDTH);
    let title = comparison.section().heading;
    let mut how = comparison.sentence();
    if left_out > 0 {
        how.push_str(&format!(" {left_out} points are not drawn."));
    }
    let top = draw_title_lines(&mut canvas, &title, &how) + 12.0;
    let left = labels_width(&rows);
    let bottom = top + PITCH * rows.len() as f64 + 8.0;
    let panel = Rect::new(left, top, WIDTH - 100.0, bottom);
    draw_axis(&mut canvas, panel, axis, comparison.is_of_peers);
    for (row, at) in rows.iter().zip(0..) {
        let y = top + 4.0 + PITCH * (f64::from(at) + 0.5);
        draw_row(&mut canvas, (panel, axis), row, y);
    }
    if comparison.campaigns.iter().any(|campaign| campaign.is_simulated()) {
        canvas.watermark("SIMULATED", panel);
    }
    Ok(canvas.finish(bottom + 52.0, &title))
}

/// Draws a comparison into a file whose name says the form: `.svg`, `.pdf` or `.png`.
///
/// # Errors
/// Another ending, nothing to draw, a file that cannot be written.
pub fn write(comparison: &Comparison<'_>, path: &Path) -> Result<()> {
    let picture = draw(comparison).map_err(anyhow::Error::msg)?;
    let ending = path.extension().and_then(|ending| ending.to_str()).unwrap_or_default();
    let bytes = match ending {
        "svg" => picture.svg(Letters::Outlines).into_bytes(),
        "png" => raster::png(&picture)?,
        "pdf" => pdf::pdf(&picture),
        _ => bail!("{}: a figure is .svg, .pdf or .png; name it so", path.display()),
    };
    write_atomically(path, &bytes)
}

/// Colours that colour-blind readers tell apart (Okabe and Ito, 2008); what says nothing is
/// grey.
const fn colour(change: Change) -> &'static str {
    match change {
        Change::Slower => "#d55e00",
        Change::Faster => "#0072b2",
        Change::CannotTell => FAINT,
        Change::Same => INK,
    }
}

/// Shapes tell findings apart where colours do not.
const fn shape(change: Change) -> MarkerShape {
    match change {
        Change::Slower => MarkerShape::Wedge,
        Change::Faster => MarkerShape::Triangle,
        Change::CannotTell => MarkerShape::Circle,
        Change::Same => MarkerShape::Square,
    }
}

fn labels_width(rows: &[&Compared<'_>]) -> f64 {
    let widest = rows.iter().map(|row| text_width(&label(row), SIZE)).fold(0.0, f64::max);
    (widest + 24.0).clamp(120.0, 0.55 * WIDTH)
}

/// The problem and kernel of a row, cut where it is too long.
fn label(row: &Compared<'_>) -> String {
    let point = row.after;
    let mut text = format!("{}, {}, {}", point.problem.label(), point.cache, point.kernel);
    while text_width(&text, SIZE) > 0.55 * WIDTH - 24.0 {
        let kept = text.trim_end_matches("...").chars().count() - 1;
        text = text.chars().take(kept).collect::<String>() + "...";
    }
    text
}

fn draw_axis(canvas: &mut Canvas, panel: Rect, axis: Axis, is_of_peers: bool) {
    let Rect { x0, y0, x1, y1 } = panel;
    for tick in axis.ticks(((x1 - x0) / 34.0) as usize) {
        let x = x0 + axis.share(tick.value) * (x1 - x0);
        draw_grid(canvas, ((x, y1), (x, y0)), tick.label.is_some());
        if let Some(label) = tick.label {
            let anchor = Anchor::Middle;
            canvas.text(Text { anchor, ..Text::new(&label, (x, y1 + 15.0), SIZE) });
        }
    }
    let one = x0 + axis.share(1.0) * (x1 - x0);
    canvas.line(((one, y0), (one, y1)), Stroke::solid(INK, 1.2));
    canvas.outline(panel, Stroke::solid(INK, 1.0));
    let title = match is_of_peers {
        true => "speed: the fastest peer's time over ours",
        false => "speed: the first campaign's time over the second's",
    };
    let anchor = Anchor::Middle;
    let at = ((x0 + x1) / 2.0, y1 + 33.0);
    canvas.text(Text { anchor, ..Text::new(title, at, 12.0) });
}

fn draw_row(canvas: &mut Canvas, (panel, axis): (Rect, Axis), row: &Compared<'_>, y: f64) {
    let x = |ratio: f64| {
        let inside = ratio.clamp(axis.lo, axis.hi);
        panel.x0 + axis.share(inside) * (panel.x1 - panel.x0)
    };
    let colour = colour(row.change);
    let filled = matches!(row.change, Change::Slower | Change::Faster);
    let marker = Marker { shape: shape(row.change), colour, filled };
    let line = ((x(row.speed.lo), y), (x(row.speed.hi), y));
    canvas.line(line, Stroke::solid(colour, 1.2));
    canvas.mark((x(row.speed.value), y), marker, tip(row));
    let label = label(row);
    let at = (panel.x0 - 8.0, y + 3.4);
    canvas.text(Text { anchor: Anchor::End, ..Text::new(&label, at, SIZE) });
    let at = (panel.x1 + 8.0, y + 3.4);
    canvas.text(Text { colour, ..Text::new(row.change.name(), at, SIZE) });
}

/// The tooltip of a row's dot.
fn tip(row: &Compared<'_>) -> String {
    let [before_s, after_s] = row.times_s();
    let speed = row.speed;
    format!(
        "{}\n{} {}, {} {}\nspeed {} [{}, {}]: {}\n{} can be told",
        row.after.problem,
        row.before.kernel,
        si(before_s, "s"),
        row.after.kernel,
        si(after_s, "s"),
        number(speed.value),
        number(speed.lo),
        number(speed.hi),
        row.change.name(),
        share(row.resolvable)
    )
}

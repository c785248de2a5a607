//! Time against bytes with the line `T = a + V / b` through it: the fixed cost of a launch and
//! the bandwidth that large sizes approach.

use super::axis::{Axis, Scale};
use super::frame::{
    self, BELOW, Figure, LEFT, LegendEntry, LegendKey, Panel, RIGHT, WIDTH, draw_legend,
    draw_titles, series_style,
};
use super::layout::Rect;
use super::svg::{Canvas, Stroke};
use super::table::{PlottedTable, count_text, thinned};
use crate::analysis::Campaign;
use crate::line_fit::{Fit, LineFamily, families};
use crate::op::Op;
use crate::quantity::{bytes, prefix, share, si};
use crate::statistics::Estimate;

/// Lines of one operation, and panels, that the figure has room for.
const MOST_LINES: usize = 3;
const MOST_PANELS: usize = 4;
/// Marks of one line.
const MOST_MARKS: usize = 40;
const HEIGHT: f64 = 105.0;
/// Pieces of a fitted line: it is bent where both axes are logarithmic.
const PIECES: u32 = 32;

/// Draws a panel for each operation, or says what the records lack.
///
/// # Errors
/// The reason why there is nothing to draw.
pub fn draw(campaign: &Campaign) -> Result<Figure, String> {
    let groups = groups(campaign);
    if groups.is_empty() {
        return Err("no kernel has a line through four sizes from DRAM".to_owned());
    }
    let mut canvas = Canvas::new(WIDTH);
    let how = "Seconds of one launch against its V compulsory bytes, from DRAM. Lines: T = a + \
               V / b by weighted least squares, ± half of the 95% interval; of each operation \
               those with the most points.";
    let mut bottom = draw_titles(&mut canvas, campaign, "Time against bytes", how) - 4.0;
    let mut table = PlottedTable::new("bytes", "time_s");
    let mut areas = Vec::new();
    for (op, families) in &groups {
        let area = Rect::new(LEFT, bottom + 26.0, RIGHT, bottom + 26.0 + HEIGHT);
        let Some(panel) = panel(families, area) else { continue };
        let (_, unit) = prefix(panel.y.hi / 3.0);
        panel.draw(&mut canvas, "bytes of one launch", &format!("time ({unit}s)"));
        panel.heading(&mut canvas, op.facts().judged.prose);
        let entries = draw_lines(&mut canvas, &panel, (*op, families), &mut table);
        bottom = draw_legend(&mut canvas, &entries, area.y1 + BELOW - 4.0);
        areas.push(area);
    }
    Ok(frame::finish(canvas, campaign, "line", &table, areas, bottom))
}

/// Families with a fit, by operation: the ones with the most points.
fn groups(campaign: &Campaign) -> Vec<(Op, Vec<LineFamily>)> {
    let mut groups: Vec<(Op, Vec<LineFamily>)> = Vec::new();
    for family in families(campaign).into_iter().filter(|family| family.fit.is_some()) {
        match groups.iter_mut().find(|(op, _)| *op == family.op) {
            Some((_, families)) => families.push(family),
            None => groups.push((family.op, vec![family])),
        }
    }
    for (_, families) in &mut groups {
        families.sort_by_key(|family| std::cmp::Reverse(family.points.len()));
        families.truncate(MOST_LINES);
    }
    groups.truncate(MOST_PANELS);
    groups
}

fn panel(families: &[LineFamily], area: Rect) -> Option<Panel> {
    let points = || families.iter().flat_map(|family| &family.points);
    let x = Axis::spanning(points().map(|(v, _)| *v), Scale::Bytes, (1.4, 1.4))?;
    let mut y = Axis::spanning(points().map(|(_, t)| *t), Scale::Decimal(1.0), (1.5, 1.5))?;
    y.scale = Scale::Decimal(prefix(y.hi / 3.0).0);
    Some(Panel { area, x, y })
}

fn draw_lines(
    canvas: &mut Canvas,
    panel: &Panel,
    (op, families): (Op, &[LineFamily]),
    table: &mut PlottedTable,
) -> Vec<LegendEntry> {
    let mut entries = Vec::new();
    for (at, family) in families.iter().enumerate() {
        let Some(fit) = &family.fit else { continue };
        let name = format!("{}, {}", family.kernel, family.shape);
        let (stroke, marker) = series_style(op, at, 1.1);
        let (drawn, step) = thinned(&family.points, MOST_MARKS);
        for (v, t) in &family.points {
            table.value(op.facts().judged.prose, &name, *v, *t);
        }
        canvas.series(&name, |canvas| {
            draw_fit(canvas, panel, (family, fit), stroke);
            for (v, t) in drawn {
                let tip = format!("{op}: {name}\n{}, {}", bytes(*v), si(*t, "s"));
                canvas.mark(panel.spot(*v, *t), marker, tip);
            }
        });
        let count = count_text(step, family.points.len());
        let text = format!("{name}: {}; {count}", fit_text(fit));
        entries.push(LegendEntry::new(LegendKey::Both(stroke, marker), text));
    }
    entries
}

fn draw_fit(
    canvas: &mut Canvas,
    panel: &Panel,
    (family, fit): (&LineFamily, &Fit),
    stroke: Stroke,
) {
    let ends = family.points.first().zip(family.points.last());
    let Some(((first, _), (last, _))) = ends else { return };
    let at = |piece: u32| {
        let v = first * (last / first).powf(f64::from(piece) / f64::from(PIECES));
        (v, fit.seconds(v))
    };
    let line: Vec<(f64, f64)> = (0..=PIECES).map(at).collect();
    for ends in line.windows(2).filter(|ends| ends.iter().all(|(_, t)| *t > 0.0)) {
        if let Some(segment) = panel.segment(ends[0], ends[1]) {
            canvas.line(segment, stroke);
        }
    }
}

/// `3.2 µs ± 10% + V / 3.14 TB/s ± 0.41%`.
fn fit_text(fit: &Fit) -> String {
    let half = |of: &Estimate| share(of.half_width().abs());
    let Fit { fixed_s: a, bytes_per_s: b, .. } = fit;
    let fixed = si(a.value, "s");
    format!("{fixed} ± {} + V / {} ± {}", half(a), si(b.value, "B/s"), half(b))
}

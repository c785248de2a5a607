//! Capacity footprint: the bytes of keys and values that all requests keep, against the tokens
//! that they have cached, and the wall of the device's memory: what it has, what was free, and
//! what the campaign could and could not allocate.

use std::collections::BTreeMap;

use super::axis::{Axis, Scale};
use super::frame::{
    self, BELOW, Figure, LEFT, LegendEntry, LegendKey, Panel, RIGHT, TALL, WIDTH,
    draw_legend, draw_titles, marker, op_entries, tip,
};
use super::layout::Rect;
use super::svg::{Canvas, FAINT, INK, Marker, SPEC, Stroke};
use super::table::{PlottedTable, count_text, thinned};
use crate::analysis::{Campaign, Measured};
use crate::op::{Op, Sweep};
use crate::quantity::bytes;
use crate::record::Status;
use crate::statistics::Estimate;

/// Marks of one operation.
const MOST_MARKS: usize = 60;
/// How the reason of a point begins to name the memory that it may have.
const REFUSED: &str = "MiB are allowed";

/// A problem with a cache, once for all kernels that ran it.
struct Footprint<'a> {
    tokens: f64,
    bytes: f64,
    point: &'a Measured,
}

/// Draws the footprints under the wall, or says what the records lack.
///
/// # Errors
/// The reason why there is nothing to draw.
pub fn draw(campaign: &Campaign) -> Result<Figure, String> {
    let groups = footprints(campaign);
    let walls = walls(campaign);
    let all = || groups.iter().flat_map(|(_, footprints)| footprints);
    let heights = all().map(|f| f.bytes).chain(walls.iter().map(|(bytes, ..)| *bytes));
    let x = Axis::spanning(all().map(|f| f.tokens), Scale::Count, (1.6, 1.6));
    let y = Axis::spanning(heights, Scale::Bytes, (2.0, 2.5));
    let (Some(x), Some(y)) = (x, y) else {
        return Err("no operation with a cache of keys and values was planned".to_owned());
    };
    if walls.is_empty() {
        return Err("run.csv says nothing of the device's memory, and no row of what was \
                    allocated"
            .to_owned());
    }
    let mut canvas = Canvas::new(WIDTH);
    let mut how = "Bytes of keys and values of all requests against their cached tokens. A launch \
                   is measured on several copies, so a point allocates more than its footprint. \
                   Hollow: refused for its memory."
        .to_owned();
    let mut table = PlottedTable::new("cached_tokens", "footprint_bytes");
    let mut drawn = Vec::new();
    for (op, footprints) in &groups {
        let (kept, step) = thinned(footprints, MOST_MARKS);
        if step.is_some() {
            let count = count_text(step, footprints.len());
            how.push_str(&format!(" Of {}: {count}.", op.facts().judged.prose));
        }
        for of in footprints {
            table.point(
                ("", op.facts().judged.prose),
                of.point,
                of.tokens,
                exact(of.bytes),
            );
        }
        drawn.push((*op, kept));
    }
    for (bytes, name, _) in &walls {
        table.value("", name, 0.0, *bytes);
    }
    let top = draw_titles(&mut canvas, campaign, "Capacity footprint and the wall", &how);
    let area = Rect::new(LEFT + 10.0, top + 10.0, RIGHT, top + 10.0 + TALL);
    let panel = Panel { area, x, y };
    panel.draw(&mut canvas, "cached tokens of all requests", "footprint");
    let mut entries = draw_panel(&mut canvas, &panel, &drawn, &walls);
    let points: Vec<&Measured> =
        drawn.iter().flat_map(|(_, k)| k).map(|f| f.point).collect();
    entries.splice(0..0, op_entries(&points));
    let bottom = draw_legend(&mut canvas, &entries, area.y1 + BELOW);
    Ok(frame::finish(canvas, campaign, "capacity", &table, vec![area], bottom))
}

const fn exact(value: f64) -> Estimate {
    Estimate { value, lo: value, hi: value }
}

fn is_refused(point: &Measured) -> bool {
    point.status == Status::Skipped && point.reason.contains(REFUSED)
}

/// Problems with a cache that ran or were refused for their memory, by operation.
fn footprints(campaign: &Campaign) -> Vec<(Op, Vec<Footprint<'_>>)> {
    let mut by_op: BTreeMap<usize, BTreeMap<(u64, u64), Footprint>> = BTreeMap::new();
    for point in campaign.own_points().filter(|p| p.time_s.is_some() || is_refused(p)) {
        let Some(place) = point.problem.operation().place_in(Sweep::Context) else {
            continue;
        };
        let ([batch], bytes) = (&place.held[..], point.problem.cache_bytes()) else {
            continue;
        };
        let tokens = batch.saturating_mul(place.swept);
        if tokens == 0 || bytes == 0 {
            continue;
        }
        let op = point.problem.op();
        let order = Op::ALL.iter().position(|other| *other == op).unwrap_or_default();
        let footprint = Footprint { tokens: tokens as f64, bytes: bytes as f64, point };
        by_op.entry(order).or_default().entry((tokens, bytes)).or_insert(footprint);
    }
    by_op
        .into_iter()
        .map(|(order, of)| (Op::ALL[order], of.into_values().collect()))
        .collect()
}

/// Bytes, name and style of each limit that the records know.
fn walls(campaign: &Campaign) -> Vec<(f64, String, Stroke)> {
    let run = campaign.runs.last();
    let of_run = |name: &str| {
        let text = run.and_then(|run| run.get(name));
        text.and_then(|text| text.parse::<f64>().ok()).filter(|bytes| *bytes > 0.0)
    };
    let allocated = campaign.rows.iter().filter(|row| row.time_s_median.is_some());
    let largest = allocated.filter_map(|row| row.footprint_bytes).max().map(|of| of as f64);
    let walls = [
        (of_run("memory_total_bytes"), "device memory", Stroke::dotted(SPEC, 1.3)),
        (of_run("memory_bytes"), "allowed to a point", Stroke::solid(INK, 1.2)),
        (largest, "largest allocation measured", Stroke::dashed(FAINT, 1.0)),
    ];
    let known =
        walls.into_iter().filter_map(|(of, name, stroke)| Some((of?, name, stroke)));
    known.map(|(of, name, stroke)| (of, format!("{name} {}", bytes(of)), stroke)).collect()
}

/// Draws walls and marks; the walls lie too close together for labels beside them.
fn draw_panel(
    canvas: &mut Canvas,
    panel: &Panel,
    drawn: &[(Op, Vec<&Footprint>)],
    walls: &[(f64, String, Stroke)],
) -> Vec<LegendEntry> {
    let mut entries = Vec::new();
    for (bytes, label, stroke) in walls {
        let Some(segment) = panel.segment((panel.x.lo, *bytes), (panel.x.hi, *bytes))
        else {
            continue;
        };
        canvas.line(segment, *stroke);
        entries.push(LegendEntry::new(LegendKey::Line(*stroke), label.clone()));
    }
    for (op, footprints) in drawn {
        canvas.series(op.facts().judged.prose, |canvas| {
            for of in footprints {
                let filled = !is_refused(of.point);
                let marker = Marker { filled, ..marker(*op, of.point.cache) };
                let mut told = tip(of.point);
                told.text.push_str(&format!("\nfootprint {}", bytes(of.bytes)));
                canvas.mark(panel.spot(of.tokens, of.bytes), marker, told);
            }
        });
    }
    entries
}

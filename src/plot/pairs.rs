//! Pairs of points that move nearly the same bytes and compute a different number of FLOPs:
//! the ratio of their times. On the level line time follows bytes, on the rising one FLOPs.

use std::collections::BTreeMap;

use super::axis::{Axis, Scale};
use super::frame::{
    self, BELOW, Figure, LABEL, LEFT, LegendEntry, LegendKey, Panel, RIGHT, TALL, WIDTH,
    draw_legend, draw_point, draw_titles, drawable, marker, op_entries, shown_span,
    take_point,
};
use super::layout::{Quad, Rect};
use super::picture::Tip;
use super::svg::{Canvas, FAINT, INK, Stroke, Text};
use super::table::{PlottedTable, count_text, thinned};
use crate::analysis::{Campaign, Measured};
use crate::op::Op;
use crate::point::CacheState;
use crate::quantity::number;
use crate::statistics::Estimate;

/// Bytes that differ by less count as equal.
const EQUAL_BYTES: f64 = 1.1;
/// Factor of FLOPs from which on a pair can tell the two apart.
const TELLING_FLOPS: f64 = 1.4;
/// How many points of about the same bytes each is held against, next in size first: of a
/// campaign with more alike the figure shows some of the pairs.
const MOST_COMPARED: usize = 300;
/// Marks of one operation that the panel can show.
const MOST_MARKS: usize = 60;

/// Two points, and their ratios: FLOPs, and time with its interval.
struct EqualBytes<'a> {
    low: &'a Measured,
    high: &'a Measured,
    flops: f64,
    time: Estimate,
}

/// Draws the pairs, or says what the records lack.
///
/// # Errors
/// The reason why there is nothing to draw.
pub fn draw(campaign: &Campaign) -> Result<Figure, String> {
    let groups = pairs(campaign);
    let all = || groups.iter().flat_map(|(_, pairs)| pairs);
    let (x, y) = (all().map(|p| p.flops), all().flat_map(|p| shown_span(&p.time)));
    let x = Axis::spanning(x.chain([1.0]), Scale::Decimal(1.0), (1.15, 1.4));
    let y = Axis::spanning(y.chain([1.0]), Scale::Decimal(1.0), (1.3, 1.6));
    let (Some(x), Some(y), false) = (x, y, groups.is_empty()) else {
        return Err("no two points move the same bytes with other FLOPs".to_owned());
    };
    let mut canvas = Canvas::new(WIDTH);
    let mut how =
        "Time over time against FLOPs over FLOPs of two points whose bytes differ by \
                   less than a tenth, from DRAM. Bars: 95% interval."
            .to_owned();
    let mut table = PlottedTable::new("flops_ratio", "time_ratio");
    let mut drawn: Vec<(Op, Vec<&EqualBytes>)> = Vec::new();
    for (op, pairs) in &groups {
        let name = op.facts().judged.prose;
        let (kept, step) = thinned(pairs, MOST_MARKS);
        if step.is_some() {
            let count = count_text(step, pairs.len()).replace("points", "pairs");
            how.push_str(&format!(" Of {name}: {count}."));
        }
        for pair in pairs {
            let is_kept = kept.iter().any(|other| std::ptr::eq(*other, pair));
            table.point(("", name), pair.high, pair.flops, pair.time);
            if let Some(row) = table.rows.last_mut() {
                row.is_drawn = is_kept;
            }
        }
        drawn.push((*op, kept));
    }
    let top = draw_titles(&mut canvas, campaign, "Pairs of equal bytes", &how);
    let area = Rect::new(LEFT, top + 10.0, RIGHT, top + 10.0 + TALL);
    let panel = Panel { area, x, y };
    panel.draw(&mut canvas, "ratio of FLOPs", "ratio of times");
    let mut entries = draw_pairs(&mut canvas, &panel, &drawn);
    let points: Vec<&Measured> = all().map(|pair| pair.high).collect();
    entries.splice(0..0, op_entries(&points));
    let bottom = draw_legend(&mut canvas, &entries, area.y1 + BELOW);
    Ok(frame::finish(canvas, campaign, "pairs", &table, vec![area], bottom))
}

/// Draws lines, marks and labels; what finds no room is for the legend.
fn draw_pairs(
    canvas: &mut Canvas,
    panel: &Panel,
    drawn: &[(Op, Vec<&EqualBytes>)],
) -> Vec<LegendEntry> {
    let mut room = panel.room();
    let (lo, hi) = (panel.x.lo.max(panel.y.lo), panel.x.hi.min(panel.y.hi));
    let lines = [
        (
            "time follows bytes",
            ((panel.x.lo, 1.0), (panel.x.hi, 1.0)),
            Stroke::solid(INK, 1.0),
        ),
        ("time follows FLOPs", ((lo, lo), (hi, hi)), Stroke::dashed(FAINT, 1.0)),
    ];
    let mut labels = Vec::new();
    for (label, (from, to), stroke) in lines {
        let Some(segment) = panel.segment(from, to) else { continue };
        canvas.line(segment, stroke);
        room.take(Quad::of_line(segment, stroke.width + 2.0));
        labels.push((label, segment, stroke));
    }
    for (op, pairs) in drawn {
        for pair in pairs {
            take_point(&mut room, panel, pair.flops, pair.time);
        }
        canvas.series(op.facts().judged.prose, |canvas| {
            for pair in pairs {
                let marker = marker(*op, pair.high.cache);
                draw_point(canvas, panel, pair.flops, pair.time, marker, pair_tip(pair));
            }
        });
    }
    let mut unplaced = Vec::new();
    for (label, segment, stroke) in labels {
        match room.place_along(segment, label, LABEL) {
            Some(place) => canvas
                .text(Text { degrees: place.degrees, ..Text::new(label, place.at, LABEL) }),
            None => unplaced.push(LegendEntry::new(LegendKey::Line(stroke), label)),
        }
    }
    unplaced
}

/// All pairs by operation: own points from DRAM of one kernel and cache state that verdicts
/// pair too, with about the same bytes.
fn pairs(campaign: &Campaign) -> Vec<(Op, Vec<EqualBytes<'_>>)> {
    let mut alike: BTreeMap<(usize, &str, CacheState), Vec<&Measured>> = BTreeMap::new();
    for point in campaign.own_points().filter(|p| p.time_s.is_some() && p.is_from_dram()) {
        let op = point.problem.op();
        let order = Op::ALL.iter().position(|other| *other == op).unwrap_or_default();
        alike.entry((order, &point.kernel, point.cache)).or_default().push(point);
    }
    let mut groups: Vec<(Op, Vec<EqualBytes>)> = Vec::new();
    for ((order, ..), mut points) in alike {
        points.sort_by_cached_key(|p| (p.work.bytes(), p.work.flops()));
        let op = Op::ALL[order];
        let mut found = of_sorted(&points);
        match groups.iter_mut().find(|(other, _)| *other == op) {
            Some((_, pairs)) => pairs.append(&mut found),
            None if found.is_empty() => {}
            None => groups.push((op, found)),
        }
    }
    for (_, pairs) in &mut groups {
        pairs.sort_by(|a, b| a.flops.total_cmp(&b.flops));
    }
    groups
}

/// The pairs among points by ascending bytes: of each the nearest in FLOPs.
fn of_sorted<'a>(points: &[&'a Measured]) -> Vec<EqualBytes<'a>> {
    let amounts = points.iter().map(|p| (p.work.bytes() as f64, p.work.flops() as f64));
    let amounts: Vec<(f64, f64)> = amounts.collect();
    let mut pairs = Vec::new();
    for (at, low) in points.iter().enumerate() {
        let (bytes, flops) = amounts[at];
        let next = (at + 1..points.len()).take(MOST_COMPARED);
        let near = next.take_while(|other| amounts[*other].0 <= bytes * EQUAL_BYTES);
        let telling = near.filter_map(|other| {
            let ratio = amounts[other].1 / flops;
            (ratio.is_finite() && ratio >= TELLING_FLOPS).then_some((ratio, points[other]))
        });
        let found = telling.filter_map(|(ratio, high)| pair(low, high, ratio));
        pairs.extend(found.min_by(|a, b| a.flops.total_cmp(&b.flops)));
    }
    pairs
}

fn pair<'a>(low: &'a Measured, high: &'a Measured, flops: f64) -> Option<EqualBytes<'a>> {
    low.problem.pair_with(&high.problem)?;
    let time = high.time_s?.over(low.time_s?);
    drawable(&time).then_some(EqualBytes { low, high, flops, time })
}

fn pair_tip(pair: &EqualBytes) -> Tip {
    let EqualBytes { low, high, flops, time } = pair;
    let text = format!(
        "{}\nbeside {}\n{}, {}\nFLOPs x {}, time x {} [{}, {}]",
        high.problem,
        low.problem,
        high.kernel,
        high.cache,
        number(*flops),
        number(time.value),
        number(time.lo),
        number(time.hi)
    );
    Tip { text, point_id: Some(high.point_id.clone()) }
}

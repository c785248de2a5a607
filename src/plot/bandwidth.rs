//! Bandwidth against the working set: the streams as curves, cache capacities
//! as vertical lines, and the kernels that read a KV cache as points.

use std::collections::{BTreeMap, HashSet};

use super::axis::{Axis, Scale};
use super::frame::{
    self, BELOW, Figure, LABEL, LEFT, LegendEntry, LegendKey, Panel, RIGHT, TALL, WIDTH,
    draw_legend, draw_point, draw_titles, drawable, marker, op_entries, series_style,
    shown_span, take_point, tip,
};
use super::layout::{Quad, Rect, Room, Spot};
use super::svg::{Canvas, FAINT, GUIDE, INK, Marker, SPEC, Stroke, Text};
use super::table::{PlottedTable, count_text, thinned};
use crate::analysis::{Campaign, Measured};
use crate::line_fit::{self, Fit};
use crate::op::{Access, Op, Reuse};
use crate::quantity::{bytes, prefix, si};
use crate::residency::CacheSize;
use crate::statistics::Estimate;

/// Marks of one operation that the panel can show beside the curves.
const MOST_MARKS: usize = 60;

/// A point with its working set and bandwidth.
type Placed<'a> = (f64, Estimate, &'a Measured);

/// What the streams of a curve show.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Streamed {
    /// Bandwidth in one direction of what all cores share.
    Shared(Access),
    /// Reads by each core of its own share, again and again.
    Own,
}

impl Streamed {
    /// The curves, in the order of the legend.
    const ALL: [Streamed; 5] = [
        Streamed::Shared(Access::Read),
        Streamed::Shared(Access::Write),
        Streamed::Shared(Access::Copy),
        Streamed::Shared(Access::Triad),
        Streamed::Own,
    ];

    fn name(self) -> String {
        match self {
            Streamed::Shared(access) => format!("{access} stream"),
            Streamed::Own => "read stream, each core its own share".to_owned(),
        }
    }

    fn is_of(self, point: &Measured) -> bool {
        match self {
            Streamed::Shared(access) => point.memory_roof() == Some(access),
            Streamed::Own => point.reuse() == Some(Reuse::Own),
        }
    }
}

/// The best of the streams of one kind at each working set.
struct StreamCurve<'a> {
    streamed: Streamed,
    points: Vec<Placed<'a>>,
}

impl StreamCurve<'_> {
    fn style(&self) -> (Stroke, Marker) {
        let index = Streamed::ALL.iter().position(|streamed| *streamed == self.streamed);
        series_style(Op::Stream, index.unwrap_or(0), 1.2)
    }
}

/// Draws bandwidth against the working set, or says what the records lack.
///
/// # Errors
/// The reason why there is nothing to draw.
pub fn draw(campaign: &Campaign) -> Result<Figure, String> {
    let curves: Vec<StreamCurve> = Streamed::ALL
        .into_iter()
        .map(|streamed| StreamCurve { streamed, points: stream(campaign, streamed) })
        .filter(|curve| !curve.points.is_empty())
        .collect();
    let all = readers(campaign);
    let placed = || curves.iter().flat_map(|c| &c.points).chain(&all);
    if placed().next().is_none() {
        return Err("no stream, KV read or decode attention was measured with a known \
                    working set"
            .to_owned());
    }
    let (readers, told) = by_op(&all);
    let table = table(&curves, &all, &readers);
    let mut canvas = Canvas::new(WIDTH);
    let how = format!(
        "Compulsory bytes per second against the bytes touched between two uses of the same \
         byte. Dashed: cache capacities, summed over the device. Bars, where larger than the \
         mark: 95% interval.{told}{}",
        frame::doubts_of_reads(campaign)
    );
    let top = draw_titles(&mut canvas, campaign, "Bandwidth by working set", &how);
    let area = Rect::new(LEFT, top + 10.0, RIGHT, top + 10.0 + TALL);
    let panel = panel(campaign, placed(), area);
    let (_, unit) = prefix(panel.y.hi / 3.0);
    let y_title = format!("bandwidth ({unit}B/s)");
    panel.draw(&mut canvas, "working set (reuse distance)", &y_title);
    let mut room = panel.room();
    for (x, rate, _) in curves.iter().flat_map(|c| &c.points).chain(readers.iter().copied())
    {
        take_point(&mut room, &panel, *x, *rate);
    }
    let labels = draw_lines(&mut canvas, campaign, &panel, &mut room);
    for (x, rate, point) in &readers {
        let op = point.problem.op();
        let marker = marker(op, point.cache);
        canvas.series(op.facts().judged.prose, |canvas| {
            draw_point(canvas, &panel, *x, *rate, marker, tip(point));
        });
    }
    for curve in &curves {
        canvas.series(&curve.streamed.name(), |canvas| {
            draw_curve(canvas, &panel, &mut room, curve)
        });
    }
    let mut entries: Vec<LegendEntry> = curves.iter().map(curve_entry).collect();
    entries.extend(
        curves.iter().find_map(|curve| draw_fit(&mut canvas, campaign, &panel, curve)),
    );
    let readers: Vec<&Measured> = readers.iter().map(|(_, _, point)| *point).collect();
    entries.extend(op_entries(&readers));
    entries.extend(draw_labels(&mut canvas, &mut room, labels));
    let bottom = draw_legend(&mut canvas, &entries, area.y1 + BELOW);
    Ok(frame::finish(canvas, campaign, "bandwidth", &table, vec![area], bottom))
}

/// The points of each operation that are drawn, those with few points last, so that they stay
/// visible; and a sentence where some are left out.
fn by_op<'a, 'b>(all: &'b [Placed<'a>]) -> (Vec<&'b Placed<'a>>, String) {
    let mut groups: Vec<(Op, Vec<&Placed>)> = Vec::new();
    for placed in all {
        let op = placed.2.problem.op();
        match groups.iter_mut().find(|(other, _)| *other == op) {
            Some((_, group)) => group.push(placed),
            None => groups.push((op, vec![placed])),
        }
    }
    groups.sort_by_key(|(_, group)| std::cmp::Reverse(group.len()));
    let (mut kept, mut told) = (Vec::new(), String::new());
    for (op, group) in &mut groups {
        group.sort_by(|a, b| a.0.total_cmp(&b.0));
        let (drawn, step) = thinned(group, MOST_MARKS);
        kept.extend(drawn.into_iter().copied());
        if step.is_some() {
            let count = count_text(step, group.len());
            told.push_str(&format!(" Of {}: {count}.", op.facts().judged.prose));
        }
    }
    (kept, told)
}

fn table(curves: &[StreamCurve], all: &[Placed], drawn: &[&Placed]) -> PlottedTable {
    let mut table = PlottedTable::new("working_set_bytes", "bandwidth_bytes_per_s");
    for curve in curves {
        for (x, rate, point) in &curve.points {
            table.point(("", &curve.streamed.name()), point, *x, *rate);
        }
    }
    let ids: HashSet<&str> = drawn.iter().map(|(_, _, p)| p.point_id.as_str()).collect();
    for (x, rate, point) in all {
        table.point(("", point.problem.op().facts().judged.prose), point, *x, *rate);
        if let Some(row) = table.rows.last_mut() {
            row.is_drawn = ids.contains(point.point_id.as_str());
        }
    }
    table
}

fn placed(point: &Measured) -> Option<Placed<'_>> {
    let distance = point.reuse_distance_bytes.filter(|distance| *distance > 0)?;
    Some((distance as f64, point.bytes_per_s().filter(drawable)?, point))
}

fn stream(campaign: &Campaign, streamed: Streamed) -> Vec<Placed<'_>> {
    let mut best: BTreeMap<u64, Placed> = BTreeMap::new();
    for point in campaign.own_points() {
        if !streamed.is_of(point) {
            continue;
        }
        let Some(new) = placed(point) else { continue };
        let old = best.entry(new.0 as u64).or_insert(new);
        if new.1.value > old.1.value {
            *old = new;
        }
    }
    best.into_values().collect()
}

fn readers(campaign: &Campaign) -> Vec<Placed<'_>> {
    let reads = |p: &&Measured| p.judged_facts().reads_cache;
    campaign.own_points().filter(reads).filter_map(placed).collect()
}

fn panel<'a>(
    campaign: &Campaign,
    points: impl Iterator<Item = &'a Placed<'a>> + Clone,
    area: Rect,
) -> Panel {
    let byte = Axis { lo: 1.0, hi: 1024.0, scale: Scale::Bytes };
    let sets = points.clone().map(|(x, ..)| *x);
    let x = Axis::spanning(sets, Scale::Bytes, (1.7, 1.7)).unwrap_or(byte);
    // A cache just outside still explains the end of the curve.
    let near = |bytes: &f64| x.lo / 4.0 < *bytes && *bytes < x.hi * 4.0;
    let caches = caches(campaign).into_iter().map(|cache| cache.bytes as f64).filter(near);
    let sets = points.clone().map(|(x, ..)| *x).chain(caches);
    let x = Axis::spanning(sets, Scale::Bytes, (1.7, 1.7)).unwrap_or(x);
    let promised =
        frame::promise(campaign).map(|p| p.peaks.bandwidth.read.plateau().bytes_per_s);
    let rates = points.flat_map(|(_, rate, _)| shown_span(rate)).chain(promised);
    let mut y = Axis::spanning(rates, Scale::Decimal(1.0), (1.3, 1.3)).unwrap_or(byte);
    y.scale = Scale::Decimal(prefix(y.hi / 3.0).0);
    Panel { area, x, y }
}

/// Caches whose capacity is drawn: the one of each core where a curve shows it.
fn caches(campaign: &Campaign) -> Vec<CacheSize> {
    let of = &campaign.provenance;
    let shows_near = campaign.own_points().any(|point| Streamed::Own.is_of(point));
    let near = of.near_cache.filter(|_| shows_near);
    near.into_iter().chain(of.caches.iter().copied()).collect()
}

/// A segment with its label and style.
type Label = ((Spot, Spot), String, Stroke);

/// Draws cache capacities and DRAM ceilings; their labels wait until all that
/// they must avoid is known.
fn draw_lines(
    canvas: &mut Canvas,
    campaign: &Campaign,
    panel: &Panel,
    room: &mut Room,
) -> Vec<Label> {
    let (x, y) = (panel.x, panel.y);
    let mut lines = Vec::new();
    for cache in caches(campaign) {
        let capacity = cache.bytes as f64;
        let ends = ((capacity, y.lo), (capacity, y.hi));
        let label = format!("{} {}", cache.level, bytes(capacity));
        lines.push((ends, label, Stroke::dashed(FAINT, 0.9)));
    }
    if let Some(measured) = &campaign.ceilings {
        let rate = measured.read.rate.value;
        let label = format!("DRAM read {}", si(rate, "B/s"));
        lines.push((((x.hi, rate), (x.lo, rate)), label, Stroke::solid(GUIDE, 0.8)));
    }
    if let Some(promise) = frame::promise(campaign) {
        let rate = promise.peaks.bandwidth.read.plateau().bytes_per_s;
        let label = format!("{} {}", promise.name, si(rate, "B/s"));
        lines.push((((x.hi, rate), (x.lo, rate)), label, promise.stroke));
    }
    let mut labels = Vec::new();
    for ((from, to), label, stroke) in lines {
        let Some(segment) = panel.segment(from, to) else { continue };
        canvas.line(segment, stroke);
        room.take(Quad::of_line(segment, stroke.width + 2.0));
        labels.push((segment, label, stroke));
    }
    labels
}

fn draw_labels(
    canvas: &mut Canvas,
    room: &mut Room,
    labels: Vec<Label>,
) -> Vec<LegendEntry> {
    let mut unplaced = Vec::new();
    for (segment, label, stroke) in labels {
        let colour = if stroke.colour == SPEC { SPEC } else { INK };
        match room.place_along(segment, &label, LABEL) {
            Some(place) => canvas.text(Text {
                degrees: place.degrees,
                colour,
                ..Text::new(&label, place.at, LABEL)
            }),
            None => unplaced.push(LegendEntry::new(LegendKey::Line(stroke), label)),
        }
    }
    unplaced
}

fn draw_curve(canvas: &mut Canvas, panel: &Panel, room: &mut Room, curve: &StreamCurve) {
    let (stroke, marker) = curve.style();
    let spots: Vec<Spot> =
        curve.points.iter().map(|(x, rate, _)| panel.spot(*x, rate.value)).collect();
    for pair in spots.windows(2) {
        room.take(Quad::of_line((pair[0], pair[1]), 4.0));
    }
    if spots.len() > 1 {
        canvas.polyline(&spots, stroke);
    }
    for (x, rate, point) in &curve.points {
        draw_point(canvas, panel, *x, *rate, marker, tip(point));
    }
}

/// Pieces of a fitted line: it is bent where both axes are logarithmic.
const FIT_PIECES: u32 = 48;

/// The line through the read streams from DRAM, as far as its points reach; the
/// one of the kernel with the higher bandwidth.
fn draw_fit(
    canvas: &mut Canvas,
    campaign: &Campaign,
    panel: &Panel,
    curve: &StreamCurve,
) -> Option<LegendEntry> {
    if curve.streamed != Streamed::Shared(Access::Read) {
        return None;
    }
    let families =
        line_fit::families(campaign).into_iter().filter(line_fit::LineFamily::is_roof);
    let rate = |fit: &Fit| fit.bytes_per_s.value;
    let (fit, points) = families
        .filter_map(|family| Some((family.fit?, family.points)))
        .max_by(|a, b| rate(&a.0).total_cmp(&rate(&b.0)))?;
    let (first, last) = (points.first()?.0, points.last()?.0);
    let at = |piece: u32| {
        let bytes = first * (last / first).powf(f64::from(piece) / f64::from(FIT_PIECES));
        (bytes, bytes / fit.seconds(bytes))
    };
    let line: Vec<(f64, f64)> = (0..=FIT_PIECES).map(at).collect();
    let stroke = Stroke::dotted(INK, 1.1);
    for ends in line.windows(2).filter(|ends| ends.iter().all(|(_, rate)| *rate > 0.0)) {
        if let Some(segment) = panel.segment(ends[0], ends[1]) {
            canvas.line(segment, stroke);
        }
    }
    let cost = si(fit.fixed_s.value.abs(), "s");
    let sign = if fit.fixed_s.value < 0.0 { "-" } else { "" };
    let label = format!("read fit: {sign}{cost} + bytes / {}", si(rate(&fit), "B/s"));
    Some(LegendEntry::new(LegendKey::Line(stroke), label))
}

fn curve_entry(curve: &StreamCurve) -> LegendEntry {
    let (stroke, marker) = curve.style();
    LegendEntry::new(LegendKey::Both(stroke, marker), curve.streamed.name())
}

//! The roofline: FLOP/s against operational intensity, a panel for each operation and the
//! format that it computes in, under the roofs that the campaign measured and those that the
//! machine promises. Where counters or the virtual machine see another intensity than the
//! model, an arrow leads from the model's to theirs.

use std::collections::HashSet;

use super::axis::{Axis, Scale};
use super::frame::{
    self, BELOW, Figure, LABEL, LEFT, LegendEntry, LegendKey, Panel, RIGHT, TALL, WIDTH,
    draw_legend, draw_point, draw_prose, draw_titles, drawable, marker, op_entries,
    shown_span, take_point, tip,
};
use super::layout::{Quad, Rect, Room, Spot};
use super::picture::Tip;
use super::svg::{Canvas, FAINT, INK, REGION, SPEC, Stroke, Text};
use super::table::{PlottedTable, count_text, thinned};
use crate::analysis::{Campaign, Measured};
use crate::format::DType;
use crate::op::{Op, Purpose};
use crate::quantity::{number, prefix, si};
use crate::roofline::Peaks;

/// Panels that a column of a journal has room for.
const MOST_PANELS: usize = 12;
/// Marks that a panel can show and still be read.
const MOST_MARKS: usize = 80;
/// Height of a panel beside another, and the room between two rows of panels.
const SMALL: f64 = 118.0;
const BETWEEN: f64 = 22.0;
/// How far the axis of speeds reaches above the highest, so that words have room there.
const HEADROOM: f64 = 8.0;
/// Factor from which on two intensities count as apart.
const APART: f64 = 1.1;

/// One kind of roof: who says it, and how its lines are drawn.
struct RoofKind<'a> {
    name: &'static str,
    stroke: Stroke,
    peaks: &'a Peaks,
}

/// The roofs that are known: measured, derived from the clocks, and the data sheet's.
fn roofs(campaign: &Campaign) -> Vec<RoofKind<'_>> {
    let measured = campaign.ceilings.as_ref().map(|of| &of.peaks);
    let of =
        |name, stroke, peaks: Option<_>| Some(RoofKind { name, stroke, peaks: peaks? });
    let kinds = [
        of("measured", Stroke::solid(INK, 1.3), measured),
        of("derived from clocks", Stroke::dashed(FAINT, 1.0), campaign.derived.as_ref()),
        of(
            "data sheet",
            Stroke::dotted(SPEC, 1.3),
            campaign.spec.as_ref().map(|s| &s.peaks),
        ),
    ];
    kinds.into_iter().flatten().collect()
}

/// The points of one panel.
struct Group<'a> {
    op: Op,
    dtype: Option<DType>,
    points: Vec<&'a Measured>,
}

impl Group<'_> {
    fn name(&self) -> String {
        let op = self.op.facts().judged.prose;
        self.dtype.map_or_else(|| op.to_owned(), |dtype| format!("{op}, {dtype}"))
    }
}

/// Draws the roofline, or says what the records lack.
///
/// # Errors
/// The reason why there is nothing to draw.
pub fn draw(campaign: &Campaign) -> Result<Figure, String> {
    let mut groups = groups(campaign);
    if groups.is_empty() {
        return Err("no measured point computes anything".to_owned());
    }
    let roofs = roofs(campaign);
    if roofs.is_empty() {
        return Err(
            "no ceiling is known: no read stream was measured, and the machine has no \
             data sheet and does not report its clocks"
                .to_owned(),
        );
    }
    let mut table = table(&groups, &roofs);
    let left_out = groups.split_off(groups.len().min(MOST_PANELS));
    let mut canvas = Canvas::new(WIDTH);
    let top =
        draw_titles(&mut canvas, campaign, "Roofline", &subtitle(campaign, &left_out));
    let (x, y) = axes(&groups, &roofs);
    let mut areas = Vec::new();
    for (at, group) in groups.iter().enumerate() {
        let panel = Panel { area: area(at, groups.len(), top), x, y };
        draw_axes(&mut canvas, &panel, at, groups.len());
        draw_panel(&mut canvas, (group, &panel), &roofs, &mut table);
        areas.push(panel.area);
    }
    let shown: Vec<&Measured> = groups.iter().flat_map(|g| g.points.clone()).collect();
    let mut entries = op_entries(&shown);
    entries
        .extend(roofs.iter().map(|r| LegendEntry::new(LegendKey::Line(r.stroke), r.name)));
    let bottom = areas.iter().map(|area| area.y1).fold(0.0, f64::max);
    let bottom = draw_legend(&mut canvas, &entries, bottom + BELOW);
    let bottom = draw_prose(&mut canvas, &roof_text(&groups, &roofs), bottom + 2.0);
    Ok(frame::finish(canvas, campaign, "roofline", &table, areas, bottom))
}

/// Points that have a place in the figure, by operation and format. Peak kernels touch no
/// memory worth counting: they are the horizontal roofs.
fn groups(campaign: &Campaign) -> Vec<Group<'_>> {
    let fits = |p: &&Measured| {
        p.flops_per_s().is_some_and(|rate| drawable(&rate))
            && p.work.bytes() > 0
            && p.judged_facts().purpose != Purpose::ComputeRoof
    };
    let mut groups: Vec<Group> = Vec::new();
    for point in campaign.own_points().filter(fits) {
        let (op, dtype) = (point.problem.op(), point.problem.math_dtype());
        match groups.iter_mut().find(|group| group.op == op && group.dtype == dtype) {
            Some(group) => group.points.push(point),
            None => groups.push(Group { op, dtype, points: vec![point] }),
        }
    }
    let order = |op: Op| Op::ALL.iter().position(|other| *other == op);
    groups.sort_by_key(|group| (order(group.op), group.dtype));
    for group in &mut groups {
        // Bits of positive numbers are in the order of the numbers.
        group.points.sort_by_cached_key(|p| p.work.operational_intensity().to_bits());
    }
    groups
}

fn subtitle(campaign: &Campaign, left_out: &[Group]) -> String {
    let mut text = "Intensity from the FLOPs and compulsory bytes of the shape. Tinted: compute \
                    binds, by the first kind of roof below. Bars, where larger than the mark: \
                    95% interval."
        .to_owned();
    if campaign.points.iter().any(|p| parted(p).is_some()) {
        text.push_str(
            " Arrows: to the intensity that hardware counters saw; ticks: that of the virtual \
             machine.",
        );
    }
    if !left_out.is_empty() {
        let names: Vec<String> = left_out.iter().map(Group::name).collect();
        text.push_str(&format!(" In the CSV file alone: {}.", names.join("; ")));
    }
    text + &frame::doubts(campaign)
}

/// All values: points, then the ridges of each format.
fn table(groups: &[Group], roofs: &[RoofKind]) -> PlottedTable {
    let mut table = PlottedTable::new("intensity_flops_per_byte", "speed_flops_per_s");
    for group in groups {
        let name = group.name();
        for point in &group.points {
            let Some(rate) = point.flops_per_s() else { continue };
            let model = point.work.operational_intensity();
            table.point((&name, "model"), point, model, rate);
            if let Some(counted) = point.intensity_counted() {
                table.point((&name, "virtual machine"), point, counted, rate);
            }
            if let Some((measured, _)) = point.intensity_measured() {
                table.point((&name, "hardware counters"), point, measured, rate);
            }
        }
        for roof in roofs {
            let Some(dtype) = group.dtype else { continue };
            let ends = roof.peaks.ridge(dtype).zip(roof.peaks.flops_per_s(dtype));
            if let Some((ridge, rate)) = ends {
                table.value(&name, &format!("ridge, {}", roof.name), ridge, rate);
            }
        }
    }
    table
}

/// The same axes for all panels, so that they can be compared.
fn axes(groups: &[Group], roofs: &[RoofKind]) -> (Axis, Axis) {
    let scale = Scale::Decimal(1.0);
    let one = Axis { lo: 1.0, hi: 10.0, scale };
    let points = || groups.iter().flat_map(|group| &group.points);
    let dtypes = || groups.iter().filter_map(|group| group.dtype);
    let ridges = roofs.iter().flat_map(|roof| dtypes().filter_map(|d| roof.peaks.ridge(d)));
    let intensities = points().flat_map(|p| {
        let others = parted(p).map(|(counted, measured)| [counted, measured]);
        let others = others.into_iter().flatten().flatten();
        std::iter::once(p.work.operational_intensity()).chain(others)
    });
    let x = Axis::spanning(ridges.chain(intensities), scale, (1.8, 4.0)).unwrap_or(one);
    let flats =
        roofs.iter().flat_map(|roof| dtypes().filter_map(|d| roof.peaks.flops_per_s(d)));
    let rates = points().filter_map(|p| p.flops_per_s());
    let y = flats.chain(rates.flat_map(|rate| shown_span(&rate)));
    let mut y = Axis::spanning(y, scale, (2.0, HEADROOM)).unwrap_or(one);
    y.scale = Scale::Decimal(unit(&y).0);
    (x, y)
}

/// The unit of speeds: that in which the highest of them reads best.
fn unit(y: &Axis) -> (f64, &'static str) {
    prefix(y.hi / HEADROOM / 1.5)
}

/// Between two panels side by side.
const GAP: f64 = 10.0;

/// Where panel number `at` of `count` lies: two in a row.
fn area(at: usize, count: usize, top: f64) -> Rect {
    if count == 1 {
        return Rect::new(LEFT, top + BETWEEN, RIGHT, top + BETWEEN + TALL);
    }
    let width = (RIGHT - LEFT - GAP) / 2.0;
    let x0 = LEFT + (at % 2) as f64 * (width + GAP);
    let y0 = top + BETWEEN + (at / 2) as f64 * (SMALL + BETWEEN);
    Rect::new(x0, y0, x0 + width, y0 + SMALL)
}

/// Numbers and titles stand at the left and below the last panel of each column.
fn draw_axes(canvas: &mut Canvas, panel: &Panel, at: usize, count: usize) {
    let y_title = format!("{}FLOP/s", unit(&panel.y).1);
    let is_last = at + 2 >= count;
    let x_title =
        if count == 1 { "operational intensity (FLOP/byte)" } else { "FLOP/byte" };
    let x_title = is_last.then_some(x_title);
    let y_title = at.is_multiple_of(2).then_some(y_title.as_str());
    // Half of what is between two panels, and a little less.
    let reach = if count == 1 { f64::INFINITY } else { GAP / 2.0 - 0.5 };
    panel.draw_axes(canvas, (x_title, y_title), reach);
}

fn draw_panel(
    canvas: &mut Canvas,
    (group, panel): (&Group, &Panel),
    roofs: &[RoofKind],
    table: &mut PlottedTable,
) {
    let edge = draw_region(canvas, (group, panel), roofs);
    let mut room = panel.room();
    for roof in roofs {
        for segment in segments(panel, roof.peaks, group.dtype) {
            canvas.line(segment, roof.stroke);
            room.take(Quad::of_line(segment, roof.stroke.width + 2.0));
        }
    }
    let (drawn, step) = thinned(&group.points, MOST_MARKS);
    canvas.series(group.op.facts().judged.prose, |canvas| {
        for point in &drawn {
            let Some(rate) = point.flops_per_s() else { continue };
            let intensity = point.work.operational_intensity();
            take_point(&mut room, panel, intensity, rate);
            draw_arrow(canvas, panel, point);
            let marker = marker(group.op, point.cache);
            draw_point(canvas, panel, intensity, rate, marker, witness_tip(point));
        }
    });
    let name = group.name();
    if step.is_some() {
        let ids: HashSet<&str> =
            drawn.iter().map(|point| point.point_id.as_str()).collect();
        for row in table.rows.iter_mut().filter(|row| row.panel == name) {
            row.is_drawn = row.point_id.is_empty() || ids.contains(row.point_id.as_str());
        }
    }
    panel.heading(canvas, &name);
    let count = count_text(step, group.points.len());
    draw_words(canvas, panel, &mut room, (edge, &count));
}

/// Writes the regimes above the roofs, each on its side of the ridge at `edge`, and the count
/// of points in the corner, where there is room.
fn draw_words(
    canvas: &mut Canvas,
    panel: &Panel,
    room: &mut Room,
    (edge, count): (f64, &str),
) {
    let Rect { x0, y0, x1, y1 } = panel.area;
    // Labels lie above a line, as near as possible to its end.
    let (top, bottom) = (y0 + 16.1, y1 - 2.5);
    let words = [
        (count, ((x0, bottom), (x1, bottom))),
        ("memory", ((edge, top), (x0, top))),
        ("compute", ((edge, top), (x1, top))),
    ];
    for (word, line) in words {
        if (line.1.0 - line.0.0).abs() < 1.0 {
            continue;
        }
        if let Some(place) = room.place_along(line, word, LABEL) {
            canvas.text(Text { colour: FAINT, ..Text::new(word, place.at, LABEL) });
        }
    }
}

/// Tints where arithmetic binds under the first kind of roof, and returns where that begins.
fn draw_region(
    canvas: &mut Canvas,
    (group, panel): (&Group, &Panel),
    roofs: &[RoofKind],
) -> f64 {
    let Rect { y0, x1, y1, .. } = panel.area;
    let ridge = roofs.iter().find_map(|roof| roof.peaks.ridge(group.dtype?));
    let Some(ridge) = ridge.filter(|ridge| *ridge < panel.x.hi) else { return x1 };
    let (x, _) = panel.spot(ridge.max(panel.x.lo), panel.y.lo);
    canvas.area(Rect::new(x, y0 + 0.5, x1 - 0.5, y1 - 0.5), REGION, None);
    x
}

/// The lines of a roof: the slope of memory, and the flat of a format's arithmetic.
fn segments(panel: &Panel, peaks: &Peaks, dtype: Option<DType>) -> Vec<(Spot, Spot)> {
    let bandwidth = peaks.bandwidth.read.plateau().bytes_per_s;
    let flat = dtype.and_then(|dtype| peaks.flops_per_s(dtype));
    let end = flat.map_or(panel.x.hi, |flat| flat / bandwidth);
    let slope = panel.segment((panel.x.lo, panel.x.lo * bandwidth), (end, end * bandwidth));
    let flat = flat.and_then(|flat| panel.segment((end, flat), (panel.x.hi, flat)));
    slope.into_iter().chain(flat).collect()
}

/// The intensities of the virtual machine and of the counters, where one of them is apart
/// from the model's.
fn parted(point: &Measured) -> Option<(Option<f64>, Option<f64>)> {
    let model = point.work.operational_intensity();
    let is_apart = |other: &f64| {
        let ratio = other / model;
        ratio.is_finite() && !(1.0 / APART..=APART).contains(&ratio)
    };
    let counted = point.intensity_counted().filter(is_apart);
    let measured = point.intensity_measured().map(|(oi, _)| oi).filter(is_apart);
    (counted.is_some() || measured.is_some()).then_some((counted, measured))
}

/// Draws what parts from the model: an arrow to the counters, a tick at the virtual machine.
fn draw_arrow(canvas: &mut Canvas, panel: &Panel, point: &Measured) {
    let (Some((counted, measured)), Some(rate)) = (parted(point), point.flops_per_s())
    else {
        return;
    };
    let stroke = Stroke::solid(marker(point.problem.op(), point.cache).colour, 0.9);
    let from = panel.spot(point.work.operational_intensity(), rate.value);
    for (other, is_arrow) in [(counted, false), (measured, true)] {
        let Some((x, y)) = other.map(|oi| panel.spot(oi, rate.value)) else { continue };
        if !panel.area.contains((x, y)) {
            continue;
        }
        canvas.line((from, (x, y)), stroke);
        let back = if is_arrow { 3.0 * (from.0 - x).signum() } else { 0.0 };
        canvas.line(((x, y), (x + back, y - 2.4)), stroke);
        canvas.line(((x, y), (x + back, y + 2.4)), stroke);
    }
}

/// A point's tip with what its witnesses say.
fn witness_tip(point: &Measured) -> Tip {
    let mut told = tip(point);
    if let Some(intensity) = point.intensity_counted() {
        told.text
            .push_str(&format!("\nOI by virtual machine {} FLOP/B", number(intensity)));
    }
    if let Some((intensity, source)) = point.intensity_measured() {
        let (value, source) = (number(intensity), source.name());
        told.text.push_str(&format!("\nOI by counters {value} FLOP/B (FLOPs: {source})"));
    }
    told
}

/// The numbers of the roofs, which have no room at their lines.
fn roof_text(groups: &[Group], roofs: &[RoofKind]) -> String {
    let bandwidths = roofs.iter().map(|roof| {
        format!(
            "{} {}",
            roof.name,
            si(roof.peaks.bandwidth.read.plateau().bytes_per_s, "B/s")
        )
    });
    let mut text = format!("DRAM read: {}.", bandwidths.collect::<Vec<_>>().join(", "));
    let mut dtypes: Vec<DType> = groups.iter().filter_map(|group| group.dtype).collect();
    dtypes.sort();
    dtypes.dedup();
    for dtype in dtypes {
        let of = |roof: &RoofKind| {
            let (rate, ridge) = (roof.peaks.flops_per_s(dtype)?, roof.peaks.ridge(dtype)?);
            let (rate, ridge) = (si(rate, "FLOP/s"), number(ridge));
            Some(format!("{} {rate} (ridge {ridge} FLOP/B)", roof.name))
        };
        let known: Vec<String> = roofs.iter().filter_map(of).collect();
        if !known.is_empty() {
            text.push_str(&format!(" {dtype}: {}.", known.join(", ")));
        }
    }
    text
}

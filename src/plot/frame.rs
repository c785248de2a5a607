//! What every figure has: title lines, panels with axes, a legend, and the
//! markers of measured points.

use std::collections::BTreeMap;

use super::axis::LogAxis;
use super::layout::{Quad, Rect, Room, Spot};
use super::picture::{Letters, Picture};
use super::svg::{Anchor, Canvas, FAINT, INK, Marker, Stroke, Text, text_width, wrap};
use crate::analysis::{Campaign, Ceiling, Doubt, Measured};
use crate::format::DType;
use crate::op::{Op, OpMarker};
use crate::point::CacheState;
use crate::quantity::{bytes, number, si};
use crate::record::Status;
use crate::roofline::Peaks;
use crate::statistics::Estimate;

/// Width of every figure in pixels.
pub const WIDTH: f64 = 1000.0;
/// Left and right margin of titles and legends.
const MARGIN: f64 = 24.0;
/// Font size of labels inside a panel.
pub const LABEL: f64 = 11.5;
/// Height of one row of the legend.
const LEGEND_ROW: f64 = 22.0;

/// Colours that stay apart for colour-blind readers (Okabe and Ito 2008), in the order
/// of [`crate::op::Hue`], then a grey.
pub const PALETTE: [&str; 7] =
    ["#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#555555"];
/// The colour of what the machine promises: its data sheet, or its clocks.
pub const SPEC: &str = "#8a3ea8";

/// A figure's name with the figure, or with the reason why there is none.
pub type Drawn = (&'static str, Result<Figure, String>);

/// A finished figure.
#[derive(Clone, Debug)]
pub struct Figure {
    /// Name of its files, without ending.
    pub name: &'static str,
    /// The image.
    pub picture: Picture,
    /// The same as SVG, with its texts as texts.
    pub svg: String,
    /// Texts with what they cover.
    pub texts: Vec<(String, Quad)>,
    /// Centres of the markers of measured points.
    pub marks: Vec<Spot>,
    /// The panels.
    pub panels: Vec<Rect>,
    /// Width and height in pixels.
    pub size: (f64, f64),
}

/// A line or a marker in the legend.
#[derive(Clone, Copy, Debug)]
pub enum LegendKey {
    /// A line.
    Line(Stroke),
    /// A marker.
    Marker(Marker),
    /// A marker on a line.
    Both(Stroke, Marker),
}

/// An entry of the legend.
#[derive(Clone, Debug)]
pub struct LegendEntry {
    /// What is shown.
    pub key: LegendKey,
    /// What it means.
    pub text: String,
}

impl LegendEntry {
    /// An entry.
    pub fn new(key: LegendKey, text: impl Into<String>) -> Self {
        LegendEntry { key, text: text.into() }
    }
}

/// An area with two logarithmic axes.
#[derive(Clone, Copy, Debug)]
pub struct Panel {
    /// Inside of the frame.
    pub area: Rect,
    /// Horizontal axis.
    pub x: LogAxis,
    /// Vertical axis.
    pub y: LogAxis,
}

impl Panel {
    /// The pixel of a pair of values.
    pub fn spot(&self, x: f64, y: f64) -> Spot {
        let Rect { x0, y0, x1, y1 } = self.area;
        (x0 + self.x.share(x) * (x1 - x0), y1 - self.y.share(y) * (y1 - y0))
    }

    /// The pixels of a value and of both ends of its interval, which may reach
    /// beyond the frame or even to zero.
    pub fn bar(&self, x: f64, y: Estimate) -> [Spot; 3] {
        let ends = [y.lo, y.hi].map(|end| end.clamp(self.y.lo / 2.0, self.y.hi * 2.0));
        [y.value, ends[0], ends[1]].map(|y| self.spot(x, y))
    }

    /// A segment between two pairs of values, clipped to the frame.
    pub fn segment(&self, from: (f64, f64), to: (f64, f64)) -> Option<(Spot, Spot)> {
        self.area.clip((self.spot(from.0, from.1), self.spot(to.0, to.1)))
    }

    /// Room for labels inside the frame.
    pub fn room(&self) -> Room {
        let Rect { x0, y0, x1, y1 } = self.area;
        Room::new(Rect::new(x0 + 4.0, y0 + 4.0, x1 - 4.0, y1 - 4.0))
    }

    /// Draws grid, frame, ticks and titles.
    pub fn draw(&self, canvas: &mut Canvas, x_title: &str, y_title: &str) {
        let Rect { x0, y0, x1, y1 } = self.area;
        let most = |length: f64, each: f64| (length / each) as usize;
        for tick in self.x.ticks(most(x1 - x0, 62.0)) {
            let (x, _) = self.spot(tick.value, self.y.lo);
            draw_grid(canvas, ((x, y1), (x, y0)), tick.label.is_some());
            if let Some(label) = tick.label {
                let anchor = Anchor::Middle;
                canvas.text(Text { anchor, ..Text::new(&label, (x, y1 + 18.0), 12.0) });
            }
        }
        let mut widest = 0.0f64;
        for tick in self.y.ticks(most(y1 - y0, 26.0)) {
            let (_, y) = self.spot(self.x.lo, tick.value);
            draw_grid(canvas, ((x0, y), (x1, y)), tick.label.is_some());
            if let Some(label) = tick.label {
                widest = widest.max(text_width(&label, 12.0));
                let anchor = Anchor::End;
                canvas
                    .text(Text { anchor, ..Text::new(&label, (x0 - 8.0, y + 4.3), 12.0) });
            }
        }
        canvas.outline(self.area, Stroke::solid(INK, 1.2));
        let (x, y) = self.area.centre();
        let anchor = Anchor::Middle;
        canvas.text(Text { anchor, ..Text::new(x_title, (x, y1 + 40.0), 13.0) });
        // At the same distance for all labels that are not long.
        let at = (x0 - 52.0f64.max(widest + 16.0), y);
        canvas.text(Text { anchor, degrees: -90.0, ..Text::new(y_title, at, 13.0) });
    }

    /// Draws a text above the frame's left corner.
    pub fn heading(&self, canvas: &mut Canvas, text: &str) {
        canvas.text(Text::new(text, (self.area.x0, self.area.y0 - 9.0), 13.0));
    }
}

/// A grid line and the tick at its start.
pub fn draw_grid(canvas: &mut Canvas, (from, to): (Spot, Spot), labelled: bool) {
    let grid = if labelled { "#dddddd" } else { "#f1f1f1" };
    canvas.line((from, to), Stroke::solid(grid, 1.0));
    let length = if labelled { 5.0 } else { 3.0 };
    let (dx, dy) = ((to.0 - from.0).signum(), (to.1 - from.1).signum());
    let end = if from.0 == to.0 {
        (from.0, from.1 + dy * length)
    } else {
        (from.0 + dx * length, from.1)
    };
    canvas.line((from, end), Stroke::solid(INK, 1.0));
}

/// Draws the title and the lines below it, and returns where they end.
pub fn draw_titles(canvas: &mut Canvas, campaign: &Campaign, what: &str, how: &str) -> f64 {
    draw_title_lines(canvas, &title(campaign, what), how)
}

/// The same with a title as it stands.
pub fn draw_title_lines(canvas: &mut Canvas, title: &str, how: &str) -> f64 {
    let width = canvas.width() - 2.0 * MARGIN;
    let mut y = 10.0;
    for line in wrap(title, 17.0, width) {
        y += 22.0;
        canvas.text(Text::new(&line, (MARGIN, y), 17.0));
    }
    y += 3.0;
    for line in wrap(how, 12.0, width) {
        y += 17.0;
        canvas.text(Text { colour: FAINT, ..Text::new(&line, (MARGIN, y), 12.0) });
    }
    y
}

/// The one-line title: what, device, suite, date.
fn title(campaign: &Campaign, what: &str) -> String {
    let suite = campaign.suite.as_ref().map(|name| format!("suite {name}"));
    let facts = [campaign.device.clone(), suite, date(campaign)];
    let mut title = what.to_owned();
    for (i, fact) in facts.into_iter().flatten().enumerate() {
        title.push_str(if i == 0 { ": " } else { ", " });
        title.push_str(&fact);
    }
    title
}

/// The day on which the first point started, in UTC.
pub fn date(campaign: &Campaign) -> Option<String> {
    let started = campaign.points.iter().filter_map(|p| p.started).min()?;
    Some(started.strftime("%Y-%m-%d").to_string())
}

/// Draws the legend from `top` down and returns where it ends.
pub fn draw_legend(canvas: &mut Canvas, entries: &[LegendEntry], top: f64) -> f64 {
    let right = canvas.width() - MARGIN;
    let (mut x, mut y) = (MARGIN + 8.0, top);
    for entry in entries {
        let sample = match entry.key {
            LegendKey::Marker(_) => 14.0,
            LegendKey::Line(_) | LegendKey::Both(..) => 30.0,
        };
        let width = sample + 6.0 + text_width(&entry.text, 12.0);
        if x + width > right && x > MARGIN + 8.0 {
            x = MARGIN + 8.0;
            y += LEGEND_ROW;
        }
        let line = ((x, y - 4.0), (x + sample, y - 4.0));
        let middle = (x + sample / 2.0, y - 4.0);
        match entry.key {
            LegendKey::Line(stroke) => canvas.line(line, stroke),
            LegendKey::Marker(marker) => canvas.sample(middle, marker),
            LegendKey::Both(stroke, marker) => {
                canvas.line(line, stroke);
                canvas.sample(middle, marker);
            }
        }
        canvas.text(Text::new(&entry.text, (x + sample + 6.0, y), 12.0));
        x += width + 22.0;
    }
    y
}

/// Closes a figure below its legend.
pub fn finish(
    mut canvas: Canvas,
    campaign: &Campaign,
    name: &'static str,
    panels: Vec<Rect>,
    bottom: f64,
) -> Figure {
    let height = bottom + 18.0;
    if campaign.is_simulated() {
        for panel in &panels {
            canvas.watermark("SIMULATED", *panel);
        }
    }
    let picture = canvas.finish(height, &title(campaign, name));
    let svg = picture.svg(Letters::Text);
    let size = (canvas.width(), height);
    Figure { name, picture, svg, texts: canvas.texts, marks: canvas.marks, panels, size }
}

/// Which measured ceilings prove nothing when a point reaches them.
pub fn doubts(campaign: &Campaign) -> String {
    let Some(measured) = &campaign.ceilings else { return String::new() };
    let read = std::iter::once(("DRAM read".to_owned(), &measured.read));
    let compute = measured.compute.iter().map(|(dtype, c)| (dtype.to_string(), c));
    doubts_of(read.chain(compute))
}

/// Whether reaching the read ceiling proves nothing.
pub fn doubts_of_reads(campaign: &Campaign) -> String {
    let read = campaign.ceilings.as_ref().map(|measured| &measured.read);
    doubts_of(read.into_iter().map(|read| ("DRAM read".to_owned(), read)))
}

fn doubts_of<'a>(named: impl Iterator<Item = (String, &'a Ceiling)>) -> String {
    let mut by_doubt: BTreeMap<Doubt, Vec<String>> = BTreeMap::new();
    for (name, ceiling) in named {
        if let Some(doubt) = ceiling.doubt() {
            by_doubt.entry(doubt).or_default().push(name);
        }
    }
    let sentence = |(doubt, names): (Doubt, Vec<String>)| {
        let plural = if names.len() == 1 { "" } else { "s" };
        format!(
            " What reaches the ceiling{plural} of {} is {}.",
            names.join(", "),
            doubt.name()
        )
    };
    by_doubt.into_iter().map(sentence).collect()
}

/// Dashes that tell the series of one operation apart.
const DASHES: [&str; 6] = ["", "8 3", "2 3", "8 3 2 3", "14 4", "5 2 2 2 2 2"];

/// How series number `index` of an operation is drawn: its colour and its marker are those
/// that the operation has in every figure, and dashes tell series apart.
pub fn series_style(op: Op, index: usize, width: f64) -> (Stroke, Marker) {
    let marker = marker(op, CacheState::Cold);
    let dash = DASHES[index % DASHES.len()];
    (Stroke { colour: marker.colour, width, dash }, marker)
}

/// The marker of an operation: hollow where the caches were hot.
pub fn marker(op: Op, cache: CacheState) -> Marker {
    let OpMarker { shape, hue } = op.facts().judged.marker;
    let colour = PALETTE[hue as usize];
    Marker { shape, colour, filled: cache != CacheState::Hot }
}

/// Orders points for drawing: where markers overlap, operations with few
/// points come last and stay visible.
pub fn rarest_last(mut points: Vec<&Measured>) -> Vec<&Measured> {
    let ops: Vec<Op> = points.iter().map(|p| p.problem.op()).collect();
    let count = |op: Op| ops.iter().filter(|other| **other == op).count();
    points.sort_by_cached_key(|p| std::cmp::Reverse(count(p.problem.op())));
    points
}

/// Legend entries for the operations and cache states that `points` hold.
pub fn op_entries(points: &[&Measured]) -> Vec<LegendEntry> {
    let mut entries = Vec::new();
    for op in Op::ALL {
        for cache in CacheState::ALL {
            let shown = |p: &&Measured| p.problem.op() == op && p.cache == cache;
            if points.iter().any(shown) {
                let key = LegendKey::Marker(marker(op, cache));
                entries.push(LegendEntry::new(
                    key,
                    format!("{} ({cache})", op.facts().judged.prose),
                ));
            }
        }
    }
    entries
}

/// Whether a logarithmic axis has a place for a value.
pub fn drawable(y: &Estimate) -> bool {
    y.value.is_finite() && y.value > 0.0 && !y.lo.is_nan() && !y.hi.is_nan()
}

/// What of a value and its interval an axis should show: an interval far wider
/// than its value would squeeze everything else.
pub fn shown_span(y: &Estimate) -> [f64; 3] {
    [y.value, y.lo.max(y.value / 2.0), y.hi.min(y.value * 2.0)]
}

/// Keeps labels clear of a point and its interval.
pub fn take_point(room: &mut Room, panel: &Panel, x: f64, y: Estimate) {
    let [at, lo, hi] = panel.bar(x, y);
    room.take(Quad::around(at, 6.0));
    room.take(Quad::of_line((lo, hi), 8.0));
}

/// Draws a point, and its interval where it is larger than the marker.
pub fn draw_point(
    canvas: &mut Canvas,
    panel: &Panel,
    x: f64,
    y: Estimate,
    marker: Marker,
    tip: &str,
) {
    let [at, lo, hi] = panel.bar(x, y);
    if lo.1 - hi.1 > 2.0 * Marker::RADIUS
        && let Some(bar) = panel.area.clip((lo, hi))
    {
        canvas.line(bar, Stroke::solid(marker.colour, 1.2));
        for (x, y) in [lo, hi].into_iter().filter(|end| panel.area.contains(*end)) {
            canvas.line(((x - 3.5, y), (x + 3.5, y)), Stroke::solid(marker.colour, 1.2));
        }
    }
    canvas.mark(at, marker, tip);
}

/// The tooltip of a point's marker.
pub fn tip(point: &Measured) -> String {
    let mut lines =
        vec![point.problem.to_string(), format!("{}, {}", point.kernel, point.cache)];
    if let Some(time) = point.time_s {
        let share = number(100.0 * time.half_width());
        lines.push(format!("time {} ± {share}%", si(time.value, "s")));
    }
    if let Some(rate) = point.flops_per_s() {
        lines.push(si(rate.value, "FLOP/s"));
    }
    if let Some(rate) = point.bytes_per_s() {
        lines.push(si(rate.value, "B/s"));
    }
    let intensity = point.work.operational_intensity();
    if point.work.flops() > 0 && intensity.is_finite() {
        lines.push(format!("OI {} FLOP/B", number(intensity)));
    }
    if let Some(distance) = point.reuse_distance_bytes {
        lines.push(format!("working set {}", bytes(distance as f64)));
    }
    if point.status == Status::Noisy {
        lines.push("noisy: the interval is wider than wanted".to_owned());
    }
    if let Some(fraction) = point.fraction() {
        lines.push(format!("{}% of the measured roof", number(100.0 * fraction.value)));
    }
    lines.join("\n")
}

/// Ceilings that the machine promises, to draw next to the measured ones.
#[derive(Clone, Copy, Debug)]
pub struct PromisedPeaks<'a> {
    /// Where they come from, for labels.
    pub name: &'static str,
    /// The same for legends.
    pub legend: &'static str,
    /// How their lines are drawn.
    pub stroke: Stroke,
    /// The ceilings.
    pub peaks: &'a Peaks,
}

/// The data sheet's ceilings, or those that follow from the clocks where there
/// is no sheet. The two differ by a few percent, which is a few pixels, so a
/// figure can show only one of them legibly.
pub fn promise(campaign: &Campaign) -> Option<PromisedPeaks<'_>> {
    let sheet = campaign.spec.as_ref().map(|sheet| PromisedPeaks {
        name: "data sheet",
        legend: "data sheet",
        stroke: Stroke::dotted(SPEC, 1.8),
        peaks: &sheet.peaks,
    });
    let derived = campaign.derived.as_ref().map(|peaks| PromisedPeaks {
        name: "derived",
        legend: "derived from the device's clocks",
        stroke: Stroke::dashed(SPEC, 1.5),
        peaks,
    });
    sheet.or(derived)
}

/// FLOPs per byte where compute and DRAM reads take the same time, by format
/// and in the formats that `points` compute in: measured, or promised where
/// nothing was measured.
pub fn ridges(campaign: &Campaign, points: &[&Measured]) -> Vec<(DType, f64)> {
    let used =
        |dtype: &DType| points.iter().any(|p| p.problem.math_dtype() == Some(*dtype));
    let ridge = |dtype: DType| match &campaign.ceilings {
        Some(measured) => measured.ridge(dtype).map(|ridge| ridge.value),
        None => promise(campaign)?.peaks.ridge(dtype),
    };
    let dtypes = DType::ALL.into_iter().filter(used);
    dtypes.filter_map(|dtype| Some((dtype, ridge(dtype)?))).collect()
}

//! What every figure has: title lines, panels with axes, a legend, and the
//! markers of measured points.

use std::collections::BTreeMap;

use super::axis::Axis;
use super::layout::{Quad, Rect, Room, Spot};
use super::picture::{Letters, Picture, Tip};
use super::svg::{
    Anchor, Canvas, FAINT, GRID, INK, Marker, PALETTE, SPEC, Stroke, Text, text_width, wrap,
};
use super::table::PlottedTable;
use crate::analysis::{Campaign, Ceiling, Doubt, Measured};
use crate::format::DType;
use crate::op::{Op, OpMarker};
use crate::point::CacheState;
use crate::quantity::{bytes, number, si};
use crate::record::Status;
use crate::roofline::Peaks;
use crate::statistics::Estimate;

pub use super::style::WIDTH;

/// Left and right margin of titles and legends.
const MARGIN: f64 = 10.0;
/// Font size of all texts but titles: 6 points where the figure is 85 mm wide.
pub const LABEL: f64 = 10.0;
/// Font size of titles.
const TITLE: f64 = 12.0;
/// Height of a line of text.
const LINE: f64 = 13.0;
/// Height of one row of the legend.
const LEGEND_ROW: f64 = 15.0;
/// Left edge of panels: room for the numbers and the title of the vertical axis.
pub const LEFT: f64 = 54.0;
/// Right edge of panels.
pub const RIGHT: f64 = WIDTH - 12.0;
/// Room below a panel for the numbers and the title of its horizontal axis, and before what
/// follows.
pub const BELOW: f64 = 46.0;
/// Height of a panel that has the width to itself.
pub const TALL: f64 = 250.0;

/// A figure's name with the figure, or with the reason why there is none.
pub type Drawn = (&'static str, Result<Figure, String>);

/// A finished figure.
#[derive(Clone, Debug)]
pub struct Figure {
    /// Name of its files, without ending.
    pub name: &'static str,
    /// The image.
    pub picture: Picture,
    /// The same as SVG for the page: texts as texts, colours of its style sheet.
    pub svg: String,
    /// The values that it shows, as CSV.
    pub csv: String,
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
    pub x: Axis,
    /// Vertical axis.
    pub y: Axis,
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
        self.draw_axes(canvas, (Some(x_title), Some(y_title)), f64::INFINITY);
    }

    /// The same where another panel has the numbers and the title of an axis. Numbers below
    /// the frame stand out of it by `reach` at most: there may be another panel's.
    pub fn draw_axes(
        &self,
        canvas: &mut Canvas,
        (x_title, y_title): (Option<&str>, Option<&str>),
        reach: f64,
    ) {
        let Rect { x0, y0, x1, y1 } = self.area;
        let most = |length: f64, each: f64| (length / each) as usize;
        let (left, right) = ((x0 - reach).max(1.0), (x1 + reach).min(canvas.width() - 1.0));
        let mut labels = Vec::new();
        for tick in self.x.ticks(most(x1 - x0, 44.0)) {
            let (x, _) = self.spot(tick.value, self.y.lo);
            draw_grid(canvas, ((x, y1), (x, y0)), tick.label.is_some());
            if let Some(label) = tick.label.filter(|_| x_title.is_some()) {
                let half = text_width(&label, LABEL) / 2.0;
                labels.push((x.min(right - half).max(left + half), half + 2.0, label));
            }
        }
        let mut leftmost = x0;
        for (x, reach, label) in apart(labels) {
            leftmost = leftmost.min(x - reach);
            let anchor = Anchor::Middle;
            canvas.text(Text { anchor, ..Text::new(&label, (x, y1 + 13.0), LABEL) });
        }
        let (mut widest, mut labels) = (0.0f64, Vec::new());
        for tick in self.y.ticks(most(y1 - y0, 18.0)) {
            let (_, y) = self.spot(self.x.lo, tick.value);
            draw_grid(canvas, ((x0, y), (x1, y)), tick.label.is_some());
            labels.extend(
                tick.label.filter(|_| y_title.is_some()).map(|text| (y, 5.5, text)),
            );
        }
        // Where a number below the frame reaches left of it, one at its foot stands higher.
        let lowest = if leftmost < x0 - 3.0 { y1 } else { f64::INFINITY };
        for (y, _, label) in apart(labels) {
            widest = widest.max(text_width(&label, LABEL));
            let (anchor, y) = (Anchor::End, (y + 3.6).min(lowest));
            canvas.text(Text { anchor, ..Text::new(&label, (x0 - 5.0, y), LABEL) });
        }
        canvas.outline(self.area, Stroke::solid(INK, 0.8));
        let (x, y) = self.area.centre();
        let anchor = Anchor::Middle;
        if let Some(title) = x_title {
            // A title longer than its panel must not leave the figure.
            let reach = text_width(title, LABEL) / 2.0 + 2.0;
            let x = x.min(canvas.width() - reach).max(reach);
            canvas.text(Text { anchor, ..Text::new(title, (x, y1 + 27.0), LABEL) });
        }
        if let Some(title) = y_title {
            // At the same distance for all labels that are not long.
            let at = (x0 - 34.0f64.max(widest + 9.0), y);
            canvas.text(Text { anchor, degrees: -90.0, ..Text::new(title, at, LABEL) });
        }
    }

    /// Draws a text above the frame's left corner.
    pub fn heading(&self, canvas: &mut Canvas, text: &str) {
        let (mut text, most) = (text.to_owned(), canvas.width() - 4.0);
        while text_width(&text, LABEL) > most && text.pop().is_some() {}
        // One that is too long for its place begins further left.
        let x = self.area.x0.min(canvas.width() - 2.0 - text_width(&text, LABEL));
        canvas.text(Text::new(&text, (x, self.area.y0 - 5.0), LABEL));
    }
}

/// Of labels by their middle and half their extent, those that do not meet: the shorter of
/// two.
fn apart(mut labels: Vec<(f64, f64, String)>) -> Vec<(f64, f64, String)> {
    labels.sort_by_key(|(_, _, text)| text.len());
    let mut kept: Vec<(f64, f64, String)> = Vec::new();
    for label in labels {
        let meets =
            |other: &(f64, f64, String)| (other.0 - label.0).abs() < other.1 + label.1;
        if !kept.iter().any(meets) {
            kept.push(label);
        }
    }
    kept
}

/// A grid line and the tick at its start.
pub fn draw_grid(canvas: &mut Canvas, (from, to): (Spot, Spot), labelled: bool) {
    let grid = if labelled { GRID[0] } else { GRID[1] };
    canvas.line((from, to), Stroke::solid(grid, 0.6));
    let length = if labelled { 3.0 } else { 1.8 };
    let (dx, dy) = ((to.0 - from.0).signum(), (to.1 - from.1).signum());
    let end = if from.0 == to.0 {
        (from.0, from.1 + dy * length)
    } else {
        (from.0 + dx * length, from.1)
    };
    canvas.line((from, end), Stroke::solid(INK, 0.6));
}

/// Draws the title and the lines below it, and returns where they end.
pub fn draw_titles(canvas: &mut Canvas, campaign: &Campaign, what: &str, how: &str) -> f64 {
    draw_title_lines(canvas, &title(campaign, what), how)
}

/// The same with a title as it stands.
pub fn draw_title_lines(canvas: &mut Canvas, title: &str, how: &str) -> f64 {
    let width = canvas.width() - 2.0 * MARGIN;
    let mut y = 4.0;
    for line in wrap(title, TITLE, width) {
        y += 15.0;
        canvas.text(Text::new(&line, (MARGIN, y), TITLE));
    }
    y += 2.0;
    for line in wrap(how, LABEL, width) {
        y += LINE;
        canvas.text(Text { colour: FAINT, ..Text::new(&line, (MARGIN, y), LABEL) });
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
    let (left, right) = (MARGIN, canvas.width() - MARGIN);
    let (mut x, mut y) = (left, top);
    for entry in entries {
        let sample = match entry.key {
            LegendKey::Marker(_) => 8.0,
            LegendKey::Line(_) | LegendKey::Both(..) => 20.0,
        };
        let text = x + sample + 4.0;
        if text + text_width(&entry.text, LABEL) > right && x > left {
            x = left;
            y += LEGEND_ROW;
        }
        let line = ((x, y - 3.5), (x + sample, y - 3.5));
        let middle = (x + sample / 2.0, y - 3.5);
        match entry.key {
            LegendKey::Line(stroke) => canvas.line(line, stroke),
            LegendKey::Marker(marker) => canvas.sample(middle, marker),
            LegendKey::Both(stroke, marker) => {
                canvas.line(line, stroke);
                canvas.sample(middle, marker);
            }
        }
        let text = x + sample + 4.0;
        let lines = wrap(&entry.text, LABEL, right - text);
        for (i, line) in lines.iter().enumerate() {
            y += if i > 0 { LINE } else { 0.0 };
            canvas.text(Text::new(line, (text, y), LABEL));
        }
        x = text + lines.last().map_or(0.0, |line| text_width(line, LABEL)) + 14.0;
        if lines.len() > 1 {
            x = right;
        }
    }
    y
}

/// Draws prose below `top` and returns where it ends.
pub fn draw_prose(canvas: &mut Canvas, text: &str, top: f64) -> f64 {
    let width = canvas.width() - 2.0 * MARGIN;
    let mut y = top;
    for line in wrap(text, LABEL, width) {
        y += LINE;
        canvas.text(Text { colour: FAINT, ..Text::new(&line, (MARGIN, y), LABEL) });
    }
    y
}

/// Closes a figure below its legend.
pub fn finish(
    mut canvas: Canvas,
    campaign: &Campaign,
    name: &'static str,
    table: &PlottedTable,
    panels: Vec<Rect>,
    bottom: f64,
) -> Figure {
    let height = bottom + 8.0;
    if campaign.is_simulated() {
        for panel in &panels {
            canvas.watermark("SIMULATED", *panel);
        }
    }
    let picture = canvas.finish(height, &title(campaign, name));
    let svg = picture.svg(Letters::Text);
    let size = (canvas.width(), height);
    let (texts, marks) = (canvas.texts, canvas.marks);
    Figure { name, picture, svg, csv: table.csv(), texts, marks, panels, size }
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
    room.take(Quad::around(at, Marker::RADIUS + 1.5));
    room.take(Quad::of_line((lo, hi), 6.0));
}

/// Draws a point, and its interval where it is larger than the marker.
pub fn draw_point(
    canvas: &mut Canvas,
    panel: &Panel,
    x: f64,
    y: Estimate,
    marker: Marker,
    tip: impl Into<Tip>,
) {
    let [at, lo, hi] = panel.bar(x, y);
    if lo.1 - hi.1 > 2.0 * Marker::RADIUS
        && let Some(bar) = panel.area.clip((lo, hi))
    {
        canvas.line(bar, Stroke::solid(marker.colour, 0.8));
        for (x, y) in [lo, hi].into_iter().filter(|end| panel.area.contains(*end)) {
            canvas.line(((x - 2.0, y), (x + 2.0, y)), Stroke::solid(marker.colour, 0.8));
        }
    }
    canvas.mark(at, marker, tip);
}

/// What is said of a point's marker.
pub fn tip(point: &Measured) -> Tip {
    Tip { text: tip_text(point), point_id: Some(point.point_id.clone()) }
}

fn tip_text(point: &Measured) -> String {
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
        stroke: Stroke::dotted(SPEC, 1.4),
        peaks: &sheet.peaks,
    });
    let derived = campaign.derived.as_ref().map(|peaks| PromisedPeaks {
        name: "derived",
        stroke: Stroke::dashed(SPEC, 1.2),
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

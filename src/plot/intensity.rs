//! Operational intensity against batch and against context: the model as
//! lines, what the measured times amount to as markers, and the ridge.

use std::collections::{BTreeMap, BTreeSet};

use super::axis::{Axis, Scale, count, number};
use super::frame::{
    self, Entry, Figure, Key, LABEL, PALETTE, Panel, WIDTH, draw_legend, draw_point,
    draw_titles, ridges, tip,
};
use super::layout::{Quad, Rect};
use super::svg::{Canvas, INK, Marker, Shape, Stroke, Text};
use crate::analysis::{Campaign, Measured};
use crate::problem::Problem;

/// Series that a panel can show and still be read.
const MOST_SERIES: usize = 6;
/// Of these, sweeps over the rows of a matrix product.
const MOST_GEMMS: usize = 2;

/// Points that differ in one dimension only.
#[derive(Clone, Debug)]
struct Series<'a> {
    /// What sets it apart from the other series of the panel.
    label: String,
    /// Sorted by the swept dimension.
    points: Vec<(u64, &'a Measured)>,
}

impl Series<'_> {
    /// Distinct values of the swept dimension with a measured point.
    fn richness(&self) -> usize {
        let measured = self.points.iter().filter(|(_, p)| p.time_s.is_some());
        measured.map(|(x, _)| x).collect::<BTreeSet<_>>().len()
    }

    fn top(&self) -> f64 {
        let intensities = self.points.iter().map(|(_, p)| p.work.operational_intensity());
        intensities.fold(0.0, f64::max)
    }
}

/// Where a point belongs: the value of the swept dimension, all that must be
/// equal within a series, and the family of which one series is shown.
struct Place {
    swept: u64,
    rest: String,
    family: String,
    label: String,
}

/// Draws both panels, or says what the records lack.
///
/// # Errors
/// The reason why there is nothing to draw.
pub fn draw(campaign: &Campaign) -> Result<Figure, String> {
    if campaign.ceilings.is_none() {
        return Err("the measured intensity needs a measured read bandwidth, and no \
                    read stream was measured"
            .to_owned());
    }
    let by_batch = by_batch(campaign);
    let by_context = pick(campaign, context_place, MOST_SERIES);
    let panels: Vec<(&str, Vec<Series>)> = [
        ("batch, or rows of the matrix product", by_batch),
        ("context (tokens)", by_context),
    ]
    .into_iter()
    .filter(|(_, series)| !series.is_empty())
    .collect();
    if panels.is_empty() {
        return Err(
            "no batch, matrix row or context was swept over two measured values".to_owned()
        );
    }
    let mut canvas = Canvas::new(WIDTH);
    let how = "Lines: model, FLOPs over compulsory bytes. Markers: FLOPs over the bytes \
               that the measured bandwidth could move in the measured time; on the line \
               where a kernel is purely memory bound, below it where compute, launch \
               time or extra traffic cost time.";
    let top = draw_titles(&mut canvas, campaign, "Operational intensity", how);
    let y = vertical(campaign, &panels);
    let columns = panels.len() as f64;
    let width = (WIDTH - 24.0 - 84.0 * columns) / columns;
    let mut areas = Vec::new();
    let mut entries = Vec::new();
    for (i, (title, series)) in panels.iter().enumerate() {
        let x0 = 84.0 + i as f64 * (width + 84.0);
        let area = Rect::new(x0, top + 32.0, x0 + width, top + 422.0);
        let Some(panel) = panel(area, series, y) else { continue };
        panel.draw(&mut canvas, title, "intensity (FLOP/byte)");
        let letter = ["(a)", "(b)"][i];
        panel.heading(&mut canvas, &format!("{letter} against {title}"));
        draw_panel(&mut canvas, campaign, &panel, series);
        areas.push(area);
        entries.push((letter, series));
    }
    let mut bottom = top + 422.0 + 48.0;
    for (letter, series) in entries {
        bottom = draw_legend(&mut canvas, &legend(letter, series), bottom + 22.0);
    }
    Ok(frame::finish(canvas, campaign, "oi", areas, bottom))
}

fn by_batch(campaign: &Campaign) -> Vec<Series<'_>> {
    let gemms = pick(campaign, gemm_place, MOST_GEMMS);
    let mut series = pick(campaign, batch_place, MOST_SERIES - gemms.len());
    series.extend(gemms);
    series
}

fn batch_place(point: &Measured) -> Option<Place> {
    let Problem::DecodeAttention(p) = point.problem else { return None };
    let (group, row) = (p.group(), &point.row);
    Some(Place {
        swept: p.batch,
        rest: format!(
            "{:020} {} {} {} {} {} {} {}",
            p.context,
            p.dtype,
            p.kv_dtype,
            p.layout,
            p.kv_heads,
            p.head_dim,
            row.kernel,
            row.cache_state
        ),
        family: format!("{group:06} {}", p.kv_dtype),
        label: format!(
            "decode, group {group}, {} KV, context {}",
            p.kv_dtype,
            count(p.context as f64)
        ),
    })
}

fn context_place(point: &Measured) -> Option<Place> {
    let Problem::DecodeAttention(p) = point.problem else { return None };
    let (group, row) = (p.group(), &point.row);
    Some(Place {
        swept: p.context,
        rest: format!(
            "{:020} {} {} {} {} {} {} {}",
            p.batch,
            p.dtype,
            p.kv_dtype,
            p.layout,
            p.kv_heads,
            p.head_dim,
            row.kernel,
            row.cache_state
        ),
        family: format!("{group:06} {}", p.kv_dtype),
        label: format!("decode, group {group}, {} KV, batch {}", p.kv_dtype, p.batch),
    })
}

fn gemm_place(point: &Measured) -> Option<Place> {
    let Problem::Gemm(p) = point.problem else { return None };
    let row = &point.row;
    let shape = format!("{} x {}", count(p.n as f64), count(p.k as f64));
    Some(Place {
        swept: p.m,
        rest: format!("{:020} {:020} {} {}", p.n, p.k, row.kernel, row.cache_state),
        family: p.dtype.name().to_owned(),
        label: format!("GEMM {}, weights {shape}", p.dtype),
    })
}

/// Of each family the series with the most measured values, then the first
/// `most` families. Among equally rich series a cold one is shown, and of
/// these the largest.
fn pick(
    campaign: &Campaign,
    place: impl Fn(&Measured) -> Option<Place>,
    most: usize,
) -> Vec<Series<'_>> {
    let mut all: BTreeMap<(String, String), Series> = BTreeMap::new();
    for point in &campaign.points {
        let Some(Place { swept, rest, family, label }) = place(point) else { continue };
        let series = all
            .entry((family, rest))
            .or_insert_with(|| Series { label, points: Vec::new() });
        series.points.push((swept, point));
    }
    let mut best: BTreeMap<String, Series> = BTreeMap::new();
    for ((family, _), mut series) in all {
        series.points.sort_by_key(|(swept, _)| *swept);
        let rank = |s: &Series| (s.richness(), s.points[0].1.row.cache_state == "cold");
        if series.richness() > 1
            && best.get(&family).is_none_or(|b| rank(b) <= rank(&series))
        {
            best.insert(family, series);
        }
    }
    let mut series: Vec<Series> = best.into_values().collect();
    series.sort_by_key(|s| std::cmp::Reverse(s.richness()));
    series.truncate(most);
    series.sort_by(|a, b| a.top().total_cmp(&b.top()));
    series
}

/// One vertical axis for both panels, so that they can be compared.
fn vertical(campaign: &Campaign, panels: &[(&str, Vec<Series>)]) -> Axis {
    let points = || panels.iter().flat_map(|(_, s)| s).flat_map(|s| &s.points);
    let shown: Vec<&Measured> = points().map(|(_, p)| *p).collect();
    let model = shown.iter().map(|p| p.work.operational_intensity());
    let measured = shown.iter().filter_map(|p| p.effective_intensity()).map(|e| e.value);
    let ridges = ridges(campaign, &shown).into_iter().map(|(_, ridge)| ridge);
    let values = model.chain(measured).chain(ridges);
    let scale = Scale::Decimal(1.0);
    Axis::spanning(values, scale, (1.5, 1.8)).unwrap_or(Axis { lo: 1.0, hi: 10.0, scale })
}

fn panel(area: Rect, series: &[Series], y: Axis) -> Option<Panel> {
    let swept = series.iter().flat_map(|s| &s.points).map(|(x, _)| *x as f64);
    Some(Panel { area, x: Axis::spanning(swept, Scale::Count, (1.3, 1.3))?, y })
}

const SHAPES: [Shape; 5] =
    [Shape::Circle, Shape::Square, Shape::Diamond, Shape::Triangle, Shape::Wedge];

fn style(i: usize, series: &Series) -> (Stroke, Marker) {
    let colour = PALETTE[i % PALETTE.len()];
    let filled = series.points[0].1.row.cache_state != "hot";
    let shape = SHAPES[i % SHAPES.len()];
    (Stroke::solid(colour, 1.6), Marker { shape, colour, filled })
}

fn legend(letter: &str, series: &[Series]) -> Vec<Entry> {
    let entry = |(i, s): (usize, &Series)| {
        let (stroke, marker) = style(i, s);
        Entry::new(Key::Both(stroke, marker), format!("{letter} {}", s.label))
    };
    series.iter().enumerate().map(entry).collect()
}

fn draw_panel(canvas: &mut Canvas, campaign: &Campaign, panel: &Panel, series: &[Series]) {
    let mut room = panel.room();
    for (i, s) in series.iter().enumerate() {
        let (stroke, _) = style(i, s);
        let model: Vec<_> = s
            .points
            .iter()
            .map(|(x, p)| panel.spot(*x as f64, p.work.operational_intensity()))
            .collect();
        for pair in model.windows(2) {
            room.take(Quad::of_line((pair[0], pair[1]), 4.0));
        }
        canvas.polyline(&model, stroke);
    }
    let mut labels = Vec::new();
    let shown: Vec<&Measured> =
        series.iter().flat_map(|s| &s.points).map(|(_, p)| *p).collect();
    for (dtype, ridge) in ridges(campaign, &shown) {
        let ends = ((panel.x.lo, ridge), (panel.x.hi, ridge));
        let Some(segment) = panel.segment(ends.0, ends.1) else { continue };
        canvas.line(segment, Stroke::dashed(INK, 1.2));
        room.take(Quad::of_line(segment, 3.0));
        // Labels lie as near as possible to a line's end: here, its left one.
        labels.push(((segment.1, segment.0), format!("{dtype} ridge {}", number(ridge))));
    }
    for (i, s) in series.iter().enumerate() {
        let (_, marker) = style(i, s);
        for (x, point) in &s.points {
            let Some(measured) = point.effective_intensity() else { continue };
            room.take(Quad::around(panel.spot(*x as f64, measured.value), 6.0));
            draw_point(canvas, panel, *x as f64, measured, marker, &tip(point));
        }
    }
    for (segment, label) in labels {
        if let Some(place) = room.place_along(segment, &label, LABEL) {
            let degrees = place.degrees;
            canvas.text(Text { degrees, ..Text::new(&label, place.at, LABEL) });
        }
    }
}

//! Operational intensity by three witnesses, against batch and against context: the model as
//! lines, hardware counters and the virtual machine as markers, and the ridge. Below them,
//! where there are counters, the bytes that moved over those that model and kernel declare.

use std::collections::{BTreeMap, BTreeSet};

use super::axis::{Axis, Scale};
use super::frame::{
    BELOW, Figure, LABEL, LEFT, LegendEntry, LegendKey, Panel, RIGHT, WIDTH, draw_legend,
    draw_point, draw_titles, drawable, finish, marker, op_entries, ridges, series_style,
    shown_span, take_point, tip,
};
use super::layout::{Quad, Rect, Room, Spot};
use super::picture::Tip;
use super::svg::{Canvas, FAINT, INK, Marker, Stroke, Text};
use super::table::{PlottedTable, count_text, thinned};
use crate::analysis::{BYTES_AGREE, Campaign, Measured};
use crate::op::{MarkerShape, Op, Sweep, SweepPlace};
use crate::point::CacheState;
use crate::quantity::{count, number};
use crate::statistics::Estimate;

/// Series that a panel can show and still be read.
const MOST_SERIES: usize = 6;
/// Height of a panel.
const HEIGHT: f64 = 190.0;
/// Marks of ratios that a panel can show.
const MOST_MARKS: usize = 150;
/// Of these, sweeps over the rows of a matrix product.
const MOST_PRODUCTS: usize = 2;

/// Operation, group size, to sort by, and name in the legend.
type SeriesFamily = (Op, u64, String);

/// Points that differ in one dimension only.
#[derive(Clone, Debug)]
struct SweepSeries<'a> {
    /// The dimension in which they differ.
    sweep: Sweep,
    /// What sets it apart from the other series of the panel.
    family: SeriesFamily,
    /// What is held constant.
    fixed: String,
    /// Sorted by the swept dimension.
    points: Vec<(u64, &'a Measured)>,
}

impl SweepSeries<'_> {
    /// Distinct values of the swept dimension with a measured point.
    fn richness(&self) -> usize {
        let measured = self.points.iter().filter(|(_, p)| p.time_s.is_some());
        measured.map(|(x, _)| x).collect::<BTreeSet<_>>().len()
    }

    /// Whether it is of a matrix product's rows, which share a panel with batches.
    fn is_product(&self) -> bool {
        self.sweep == Sweep::Rows
    }

    fn top(&self) -> f64 {
        let intensities = self.points.iter().map(|(_, p)| p.work.operational_intensity());
        intensities.fold(0.0, f64::max)
    }
}

/// Where a point belongs.
struct SeriesPlace {
    /// Value of the swept dimension.
    swept: u64,
    /// All that must be equal within a series, larger shapes sorting last.
    rest: String,
    /// Of each family one series is shown; this is its name in the legend.
    family: SeriesFamily,
    /// What is held constant within the series, in words.
    fixed: String,
}

/// A panel's data.
struct SweepPanel<'a> {
    letter: &'static str,
    axis: &'static str,
    series: Vec<SweepSeries<'a>>,
}

impl SweepPanel<'_> {
    /// What all sweeps over attention hold constant, if it is the same.
    fn common(&self) -> Option<&str> {
        let attention = self.series.iter().filter(|series| !series.is_product());
        let mut fixed = attention.map(|series| series.fixed.as_str());
        let first = fixed.next()?;
        fixed.all(|other| other == first).then_some(first)
    }

    fn heading(&self) -> String {
        let common = self.common().map(|fixed| format!("; decode at {fixed}"));
        format!("({}) against {}{}", self.letter, self.axis, common.unwrap_or_default())
    }
}

/// Draws both panels, or says what the records lack.
///
/// # Errors
/// The reason why there is nothing to draw.
pub fn draw(campaign: &Campaign) -> Result<Figure, String> {
    let parts = parts(campaign);
    if parts.is_empty() {
        return Err(
            "no batch, matrix row or context was swept over two measured values".to_owned()
        );
    }
    let mut canvas = Canvas::new(WIDTH);
    let top = draw_titles(&mut canvas, campaign, "Operational intensity", &how(campaign));
    let families = families(&parts);
    let mut table =
        PlottedTable::new("swept_or_bytes", "intensity_flops_per_byte_or_ratio");
    let (mut areas, mut bottom) = (Vec::new(), top);
    for part in &parts {
        let y0 = bottom + 26.0;
        let area = Rect::new(LEFT, y0, RIGHT, y0 + HEIGHT);
        let Some(panel) = panel(campaign, area, &part.series) else { continue };
        panel.draw(&mut canvas, part.axis, "intensity (FLOP/byte)");
        panel.heading(&mut canvas, &part.heading());
        let entries = draw_panel(&mut canvas, campaign, &panel, part, &families);
        tabulate(&mut table, part);
        bottom = draw_legend(&mut canvas, &entries, area.y1 + BELOW);
        areas.push(area);
    }
    bottom = draw_legend(&mut canvas, &witness_entries(&parts), bottom + 16.0);
    if let Some((area, below)) =
        draw_ratios(&mut canvas, campaign, bottom + 26.0, &mut table)
    {
        areas.push(area);
        bottom = below;
    }
    Ok(finish(canvas, campaign, "oi", &table, areas, bottom))
}

/// The values of a panel, by witness.
fn tabulate(table: &mut PlottedTable, part: &SweepPanel) {
    for series in &part.series {
        for (x, point) in &series.points {
            let model = point.work.operational_intensity();
            let model = Estimate { value: model, lo: model, hi: model };
            let name = &series.family.2;
            for (witness, value) in [
                ("model", Some(model)),
                ("virtual machine", counted(point)),
                ("hardware counters", measured(point)),
            ] {
                let Some(value) = value else { continue };
                table.point(
                    (part.letter, &format!("{name}, {witness}")),
                    point,
                    *x as f64,
                    value,
                );
            }
        }
    }
}

/// What the figure shows, and what the records lack for it.
fn how(campaign: &Campaign) -> String {
    let mut how = "Lines: the model, FLOPs over compulsory bytes of the shape.".to_owned();
    let has = |known: fn(&Measured) -> bool| campaign.points.iter().any(known);
    match has(|p| p.intensity_measured().is_some()) {
        true => how.push_str(
            " Filled: FLOPs that were counted over the bytes that hardware counters saw at \
             DRAM; tensor tiles larger than the shape raise it.",
        ),
        false => how.push_str(
            " There are no hardware counters (`ridgepoint counters` adds them), so nothing \
             here was measured but which points ran.",
        ),
    }
    match has(|p| p.intensity_counted().is_some()) {
        true => how.push_str(
            " Hollow: FLOPs and bytes that the virtual machine counted while it executed the \
             kernel.",
        ),
        false => how.push_str(" The virtual machine counted no point of this campaign."),
    }
    how
}

/// What the fillings of markers mean, where there are markers.
fn witness_entries(parts: &[SweepPanel]) -> Vec<LegendEntry> {
    let points = || parts.iter().flat_map(|part| &part.series).flat_map(|s| &s.points);
    let entry = |filled, text: &str| {
        let key = Marker { shape: MarkerShape::ALL[0], colour: FAINT, filled };
        LegendEntry::new(LegendKey::Marker(key), text)
    };
    let mut entries = Vec::new();
    if points().any(|(_, p)| measured(p).is_some()) {
        entries.push(entry(true, "filled: hardware counters"));
    }
    if points().any(|(_, p)| counted(p).is_some()) {
        entries.push(entry(false, "hollow: virtual machine"));
    }
    entries
}

/// The intensity by the counters, from the most to the fewest bytes of a launch.
fn measured(point: &Measured) -> Option<Estimate> {
    let (value, _) = point.intensity_measured()?;
    let row = point.counters_row()?;
    let bytes = point.dram_bytes()?;
    let most = row.dram_bytes_read_max? + row.dram_bytes_written_max?;
    let least = row.dram_bytes_read_min? + row.dram_bytes_written_min?;
    let of = |other: f64| if other > 0.0 { value * bytes / other } else { value };
    Some(Estimate { value, lo: of(most), hi: of(least) }).filter(drawable)
}

/// The intensity by the virtual machine, which is exact.
fn counted(point: &Measured) -> Option<Estimate> {
    let value = point.intensity_counted()?;
    Some(Estimate { value, lo: value, hi: value }).filter(drawable)
}

/// Bytes at DRAM over those that model and kernel declare, of a point whose bytes come from
/// DRAM.
fn byte_ratio(point: &Measured) -> Option<Estimate> {
    let declared = point.bytes_declared() as f64;
    let value = point.dram_bytes().filter(|_| point.is_from_dram())? / declared;
    Some(Estimate { value, lo: value, hi: value }).filter(drawable)
}

/// Draws the ratios of bytes below `top`, if there are counters; the panel and where it
/// ends.
fn draw_ratios(
    canvas: &mut Canvas,
    campaign: &Campaign,
    top: f64,
    table: &mut PlottedTable,
) -> Option<(Rect, f64)> {
    let has_ratio = |point: &&Measured| byte_ratio(point).is_some();
    let mut points: Vec<&Measured> = campaign.points.iter().filter(has_ratio).collect();
    points.sort_by_key(|point| point.bytes_declared());
    let sizes = points.iter().map(|point| point.bytes_declared() as f64);
    let ratios = points.iter().filter_map(|point| Some(byte_ratio(point)?.value));
    let x = Axis::spanning(sizes, Scale::Bytes, (1.5, 1.5))?;
    let y = Axis::spanning(ratios.chain([0.9, 1.12]), Scale::Decimal(1.0), (1.06, 1.1))?;
    let area = Rect::new(LEFT, top, RIGHT, top + 0.8 * HEIGHT);
    let panel = Panel { area, x, y };
    panel.draw(canvas, "bytes of model and kernel, one launch", "DRAM bytes over these");
    let (drawn, step) = thinned(&points, MOST_MARKS);
    let count = count_text(step, points.len());
    panel.heading(canvas, &format!("(c) counted bytes over those of the model: {count}"));
    for (ratio, stroke) in [
        (1.0 - BYTES_AGREE, Stroke::dotted(FAINT, 1.0)),
        (1.0, Stroke::solid(INK, 1.0)),
        (1.0 + BYTES_AGREE, Stroke::dotted(FAINT, 1.0)),
    ] {
        if let Some(segment) = panel.segment((x.lo, ratio), (x.hi, ratio)) {
            canvas.line(segment, stroke);
        }
    }
    for point in &points {
        let Some(ratio) = byte_ratio(point) else { continue };
        let op = point.problem.op().facts().judged.prose;
        table.point(("c", op), point, point.bytes_declared() as f64, ratio);
    }
    for point in drawn {
        let Some(ratio) = byte_ratio(point) else { continue };
        let op = point.problem.op();
        let marker = marker(op, point.cache);
        let size = point.bytes_declared() as f64;
        canvas.series(op.facts().judged.prose, |canvas| {
            draw_point(canvas, &panel, size, ratio, marker, witness_tip(point));
        });
    }
    Some((area, draw_legend(canvas, &op_entries(&points), area.y1 + BELOW)))
}

/// A point's tip with what its witnesses say.
fn witness_tip(point: &Measured) -> Tip {
    let Tip { mut text, point_id } = tip(point);
    if let Some((intensity, source)) = point.intensity_measured() {
        let (value, source) = (number(intensity), source.name());
        text.push_str(&format!("\nOI by counters {value} FLOP/B (FLOPs: {source})"));
    }
    if let Some(intensity) = point.intensity_counted() {
        text.push_str(&format!("\nOI by virtual machine {} FLOP/B", number(intensity)));
    }
    if let Some(bytes) = point.dram_bytes() {
        let ratio = bytes / point.bytes_declared().max(1) as f64;
        text.push_str(&format!("\nDRAM bytes {} times model and kernel", number(ratio)));
    }
    Tip { text, point_id }
}

/// The panels that have anything to show.
fn parts(campaign: &Campaign) -> Vec<SweepPanel<'_>> {
    let by_batch = by_batch(campaign);
    let axis = match (
        by_batch.iter().any(SweepSeries::is_product),
        by_batch.iter().all(SweepSeries::is_product),
    ) {
        (_, true) => "GEMM rows m",
        (true, false) => "batch or GEMM rows m",
        (false, false) => "batch",
    };
    let by_context = pick(campaign, Sweep::Context, MOST_SERIES);
    let mut parts = vec![
        SweepPanel { letter: "a", axis, series: by_batch },
        SweepPanel { letter: "b", axis: "context in tokens", series: by_context },
    ];
    parts.retain(|part| !part.series.is_empty());
    parts
}

/// Families of all panels. Their order gives each the same colour in both.
fn families(parts: &[SweepPanel]) -> Vec<SeriesFamily> {
    let mut families: Vec<SeriesFamily> = Vec::new();
    for series in parts.iter().flat_map(|part| &part.series) {
        families.push(series.family.clone());
    }
    families.sort();
    families.dedup();
    families
}

fn by_batch(campaign: &Campaign) -> Vec<SweepSeries<'_>> {
    let products = pick(campaign, Sweep::Rows, MOST_PRODUCTS);
    let mut series = pick(campaign, Sweep::Batch, MOST_SERIES - products.len());
    series.extend(products);
    series
}

/// Where a point belongs among the series of a sweep.
fn place(point: &Measured, sweep: Sweep) -> Option<SeriesPlace> {
    let place = point.problem.operation().place_in(sweep)?;
    let SweepPlace { swept, held, alike, by_kernel, family, variant } = place;
    let mut rest: Vec<String> = held.iter().map(|value| format!("{value:020}")).collect();
    rest.push(alike);
    rest.extend(by_kernel.then(|| point.kernel.to_string()));
    rest.push(point.cache.to_string());
    let sizes: Vec<String> = held.iter().map(|&value| count(value as f64)).collect();
    let mut fixed = match sweep {
        Sweep::Batch => format!("context {}", sizes.join(" x ")),
        Sweep::Context => format!(
            "batch {}",
            held.iter().map(u64::to_string).collect::<Vec<_>>().join(" x ")
        ),
        Sweep::Rows => format!("weights {}", sizes.join(" x ")),
    };
    if !variant.is_empty() {
        fixed.push_str(", ");
        fixed.push_str(&variant);
    }
    let family = (point.problem.op(), family.0, family.1);
    Some(SeriesPlace { swept, rest: rest.join(" "), family, fixed })
}

/// Of each family the series with the most measured values, then the first
/// `most` families. Among equally rich series a cold one is shown, and of
/// these the largest.
fn pick(campaign: &Campaign, sweep: Sweep, most: usize) -> Vec<SweepSeries<'_>> {
    let mut all: BTreeMap<(SeriesFamily, String), SweepSeries> = BTreeMap::new();
    for point in campaign.own_points() {
        let Some(SeriesPlace { swept, rest, family, fixed }) = place(point, sweep) else {
            continue;
        };
        let series = all.entry((family.clone(), rest)).or_insert_with(|| SweepSeries {
            sweep,
            family,
            fixed,
            points: Vec::new(),
        });
        series.points.push((swept, point));
    }
    let mut best: BTreeMap<SeriesFamily, SweepSeries> = BTreeMap::new();
    for ((family, _), mut series) in all {
        series.points.sort_by_key(|(swept, _)| *swept);
        let rank =
            |s: &SweepSeries| (s.richness(), s.points[0].1.cache == CacheState::Cold);
        if series.richness() > 1
            && best.get(&family).is_none_or(|b| rank(b) <= rank(&series))
        {
            best.insert(family, series);
        }
    }
    let mut series: Vec<SweepSeries> = best.into_values().collect();
    series.sort_by_key(|s| std::cmp::Reverse(s.richness()));
    series.truncate(most);
    series.sort_by(|a, b| a.top().total_cmp(&b.top()));
    series
}

fn panel(campaign: &Campaign, area: Rect, series: &[SweepSeries]) -> Option<Panel> {
    let points = || series.iter().flat_map(|s| &s.points);
    let shown: Vec<&Measured> = points().map(|(_, p)| *p).collect();
    let model = shown.iter().map(|p| p.work.operational_intensity());
    let witnessed = shown.iter().flat_map(|p| [measured(p), counted(p)]).flatten();
    let witnessed = witnessed.flat_map(|e| shown_span(&e));
    let ridges = ridges(campaign, &shown).into_iter().map(|(_, ridge)| ridge);
    let swept = points().map(|(x, _)| *x as f64);
    let x = Axis::spanning(swept, Scale::Count, (1.3, 1.3))?;
    let y = model.chain(witnessed).chain(ridges);
    let y = Axis::spanning(y, Scale::Decimal(1.0), (1.4, 1.8))?;
    Some(Panel { area, x, y })
}

/// How a ridge is drawn.
const RIDGE: Stroke = Stroke::dashed(INK, 0.9);

fn style(series: &SweepSeries, families: &[SeriesFamily]) -> (Stroke, Marker) {
    // Families of other operations are not counted.
    let alike = families.iter().filter(|family| family.0 == series.family.0);
    let index = alike.take_while(|family| **family != series.family).count();
    series_style(series.family.0, index, 1.2)
}

/// A series in the words of its label; what it holds constant is said only where the panel's
/// heading does not say it for all.
fn label(series: &SweepSeries, part: &SweepPanel) -> String {
    let name = &series.family.2;
    match series.is_product() || part.common().is_none() {
        true => format!("{name}, {}", series.fixed),
        false => name.clone(),
    }
}

/// Draws model lines, ridges, markers and labels; returns for the legend what
/// found no room.
fn draw_panel(
    canvas: &mut Canvas,
    campaign: &Campaign,
    panel: &Panel,
    part: &SweepPanel,
    families: &[SeriesFamily],
) -> Vec<LegendEntry> {
    let mut room = panel.room();
    for series in &part.series {
        let (stroke, _) = style(series, families);
        let model: Vec<_> = series
            .points
            .iter()
            .map(|(x, p)| panel.spot(*x as f64, p.work.operational_intensity()))
            .collect();
        for pair in model.windows(2) {
            room.take(Quad::of_line((pair[0], pair[1]), 2.0));
        }
        canvas.series(&series.family.2, |canvas| canvas.polyline(&model, stroke));
    }
    let ridges = draw_ridges(canvas, campaign, panel, &mut room, part);
    for series in &part.series {
        let (_, marker) = style(series, families);
        for (x, point) in &series.points {
            for (filled, intensity) in [(false, counted(point)), (true, measured(point))] {
                let Some(intensity) = intensity else { continue };
                let marker = Marker { filled, ..marker };
                take_point(&mut room, panel, *x as f64, intensity);
                canvas.series(&series.family.2, |canvas| {
                    draw_point(
                        canvas,
                        panel,
                        *x as f64,
                        intensity,
                        marker,
                        witness_tip(point),
                    );
                });
            }
        }
    }
    let mut unplaced = Vec::new();
    for series in &part.series {
        let (stroke, _) = style(series, families);
        unplaced.extend(draw_label(canvas, panel, &mut room, (series, stroke), part));
    }
    for (segment, label) in ridges {
        match room.place_along(segment, &label, LABEL) {
            Some(place) => canvas.text(Text::new(&label, place.at, LABEL)),
            None => unplaced.push(LegendEntry::new(LegendKey::Line(RIDGE), label)),
        }
    }
    unplaced
}

/// Writes a series' name along its line, where there is room; else it is for the legend.
fn draw_label(
    canvas: &mut Canvas,
    panel: &Panel,
    room: &mut Room,
    (series, stroke): (&SweepSeries, Stroke),
    part: &SweepPanel,
) -> Option<LegendEntry> {
    let text = label(series, part);
    let spot = |(x, p): &(u64, &Measured)| (*x as f64, p.work.operational_intensity());
    // Its last straight stretch that is long enough.
    let is_straight = |a: f64, b: f64| (a - b).abs() < 0.05;
    let slope = |a: (f64, f64), b: (f64, f64)| (b.1 / a.1).ln() / (b.0 / a.0).ln();
    let mut stretches: Vec<((f64, f64), (f64, f64))> = Vec::new();
    for pair in series.points.windows(2) {
        let (from, to) = (spot(&pair[0]), spot(&pair[1]));
        match stretches.last_mut() {
            Some((start, end)) if is_straight(slope(*start, *end), slope(from, to)) => {
                *end = to
            }
            _ => stretches.push((from, to)),
        }
    }
    let segments =
        stretches.iter().rev().filter_map(|(from, to)| panel.segment(*from, *to));
    let place = segments.into_iter().find_map(|line| room.place_along(line, &text, LABEL));
    match place {
        Some(place) => {
            let Stroke { colour, .. } = stroke;
            let (at, degrees) = (place.at, place.degrees);
            canvas.text(Text { degrees, colour, ..Text::new(&text, at, LABEL) });
            None
        }
        None => Some(LegendEntry::new(LegendKey::Line(stroke), text)),
    }
}

/// Draws the ridges and returns their labels, one for those too close
/// together for two.
fn draw_ridges(
    canvas: &mut Canvas,
    campaign: &Campaign,
    panel: &Panel,
    room: &mut Room,
    part: &SweepPanel,
) -> Vec<((Spot, Spot), String)> {
    let points = part.series.iter().flat_map(|s| &s.points);
    let shown: Vec<&Measured> = points.map(|(_, p)| *p).collect();
    let mut ridges = ridges(campaign, &shown);
    ridges.sort_by(|a, b| b.1.total_cmp(&a.1));
    let mut labels: Vec<((Spot, Spot), String)> = Vec::new();
    let mut last = f64::NEG_INFINITY;
    for (dtype, ridge) in ridges {
        // From right to left: labels lie as near as possible to a line's end,
        // and the left end is where the least is drawn.
        let ends = ((panel.x.hi, ridge), (panel.x.lo, ridge));
        let Some(segment) = panel.segment(ends.0, ends.1) else { continue };
        canvas.line(segment, RIDGE);
        room.take(Quad::of_line(segment, 3.0));
        let label = format!("{dtype} ridge {}", number(ridge));
        match labels.last_mut() {
            Some((_, above)) if segment.0.1 - last < 2.0 * LABEL => {
                above.push_str(", ");
                above.push_str(&label);
            }
            _ => labels.push((segment, label)),
        }
        last = segment.0.1;
    }
    labels
}

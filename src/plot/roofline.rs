//! The roofline: FLOP/s against operational intensity, under the ceilings that
//! the campaign measured and those that the machine promises.

use super::axis::{LogAxis, Scale};
use super::frame::{
    self, Figure, LABEL, LegendEntry, LegendKey, Panel, SPEC, WIDTH, draw_legend,
    draw_point, draw_titles, drawable, marker, op_entries, shown_span, take_point, tip,
};
use super::layout::{Quad, Rect, Spot};
use super::svg::{Canvas, FAINT, INK, Stroke, Text, text_width};
use crate::analysis::{Campaign, Ceiling, Measured};
use crate::format::DType;
use crate::op::Purpose;
use crate::quantity::{number, prefix, si};
use crate::residency::CacheLevel;

/// Horizontal room for the label of a slope, in pixels.
const SLOPE_LABEL: f64 = 125.0;

/// A ceiling as a line in the plane of intensity and FLOP/s.
#[derive(Clone, Debug)]
struct RoofLine {
    from: (f64, f64),
    to: (f64, f64),
    stroke: Stroke,
    label: Option<String>,
}

/// Draws the roofline, or says what the records lack.
///
/// # Errors
/// The reason why there is nothing to draw.
pub fn draw(campaign: &Campaign) -> Result<Figure, String> {
    let points = shown(campaign);
    if points.is_empty() {
        return Err("no measured point computes anything".to_owned());
    }
    if campaign.ceilings.is_none() && frame::promise(campaign).is_none() {
        return Err(
            "no ceiling is known: no read stream was measured, and the machine has no \
             data sheet and does not report its clocks"
                .to_owned(),
        );
    }
    let mut canvas = Canvas::new(WIDTH);
    let top = draw_titles(&mut canvas, campaign, "Roofline", &subtitle(campaign));
    let area = Rect::new(84.0, top + 16.0, WIDTH - 24.0, top + 516.0);
    let panel = panel(campaign, &points, area);
    let (_, unit) = prefix(panel.y.hi / 3.0);
    panel.draw(
        &mut canvas,
        "operational intensity (FLOP/byte)",
        &format!("performance ({unit}FLOP/s)"),
    );
    let unplaced = draw_roofs(&mut canvas, campaign, &points, &panel);
    for point in &points {
        let Some(rate) = point.flops_per_s() else { continue };
        let marker = marker(point.problem.op(), point.cache);
        let intensity = point.work.operational_intensity();
        draw_point(&mut canvas, &panel, intensity, rate, marker, &tip(point));
    }
    let mut entries = op_entries(&points);
    entries.extend(roof_entries(campaign));
    entries.extend(unplaced);
    let bottom = draw_legend(&mut canvas, &entries, area.y1 + 68.0);
    Ok(frame::finish(canvas, campaign, "roofline", vec![area], bottom))
}

/// Points that have a place in the figure. Peak kernels touch no memory worth
/// counting: they are the horizontal ceilings.
fn shown(campaign: &Campaign) -> Vec<&Measured> {
    let fits = |p: &&Measured| {
        p.flops_per_s().is_some_and(|rate| drawable(&rate))
            && p.work.bytes() > 0
            && p.judged_facts().purpose != Purpose::ComputeRoof
    };
    frame::rarest_last(campaign.own_points().filter(fits).collect())
}

fn subtitle(campaign: &Campaign) -> String {
    let measured = campaign.ceilings.is_some();
    let ceilings = match (measured, campaign.spec.is_some(), campaign.derived.is_some()) {
        (true, true, _) => "Solid: ceilings measured in this campaign; dotted: data sheet.",
        (true, false, true) => {
            "Solid: ceilings measured in this campaign; dashed in colour: derived from the \
             device's clocks."
        }
        (true, false, false) => "Solid: ceilings measured in this campaign.",
        (false, true, _) => "Dotted: data sheet; no ceiling was measured.",
        (false, false, _) => {
            "Dashed: derived from the device's clocks; no ceiling was measured."
        }
    };
    format!(
        "Intensity from the FLOPs and compulsory bytes of the shape. {ceilings} Bars, \
         where larger than the marker: 95% interval.{}",
        frame::doubts(campaign)
    )
}

/// Both axes. Points lie closest to the ceilings at the ends of their range,
/// so room for the labels of the ceilings is added there: right of the points
/// for horizontals, left of them for slopes, and above.
fn panel(campaign: &Campaign, points: &[&Measured], area: Rect) -> Panel {
    let flats = ceilings(campaign, points);
    let scale = Scale::Decimal(1.0);
    let one = LogAxis { lo: 1.0, hi: 10.0, scale };
    let intensities = points.iter().map(|p| p.work.operational_intensity());
    let ridges = flats.iter().flat_map(|flat| [flat.ridge() / 4.0, flat.ridge() * 1.5]);
    let mut x =
        LogAxis::spanning(intensities.chain(ridges), scale, (1.0, 1.0)).unwrap_or(one);
    let widest =
        flats.iter().map(|flat| text_width(&flat.label(), LABEL)).fold(0.0, f64::max);
    let width = area.x1 - area.x0;
    // The promised slope lies just above the measured one and leaves room for
    // that one's label only below it, where the points are.
    let crowded = campaign.ceilings.is_some() && frame::promise(campaign).is_some();
    let left = if crowded { SLOPE_LABEL } else { 30.0 } / width;
    let right = ((widest + 24.0) / width).min(0.4);
    let span = (x.hi / x.lo).ln() / (1.0 - left - right);
    x.lo *= (-left * span).exp();
    x.hi *= (right * span).exp();
    let measured = campaign.ceilings.as_ref().filter(|_| crowded);
    let slope = measured.map(|ceilings| 1.1 * x.lo * ceilings.read.rate.value);
    let rates = points.iter().filter_map(|p| p.flops_per_s());
    let y = rates
        .flat_map(|rate| shown_span(&rate))
        .chain(flats.iter().map(|flat| flat.flops_per_s))
        .chain(slope);
    let mut y = LogAxis::spanning(y, scale, (1.8, 1.5)).unwrap_or(one);
    y.scale = Scale::Decimal(prefix(y.hi / 3.0).0);
    Panel { area, x, y }
}

/// A horizontal ceiling with the bandwidth that it meets.
struct Flat {
    /// The formats that share it, as the label says.
    formats: String,
    dtype: DType,
    flops_per_s: f64,
    bytes_per_s: f64,
    from: CeilingOrigin,
}

/// Where a ceiling comes from.
enum CeilingOrigin {
    /// This kernel reached it.
    Kernel(String),
    /// The machine promises it: by its data sheet, or by its clocks.
    Promise { name: &'static str, stroke: Stroke },
}

impl Flat {
    fn ridge(&self) -> f64 {
        self.flops_per_s / self.bytes_per_s
    }

    fn is_measured(&self) -> bool {
        matches!(self.from, CeilingOrigin::Kernel(_))
    }

    fn label(&self) -> String {
        let rate = si(self.flops_per_s, "FLOP/s");
        match &self.from {
            CeilingOrigin::Kernel(kernel) => format!("{} {rate} ({kernel})", self.formats),
            CeilingOrigin::Promise { name, .. } => {
                format!("{} {name} {rate}", self.formats)
            }
        }
    }
}

/// Measured horizontals, then promised ones, in the formats that were measured
/// or computed in.
fn ceilings(campaign: &Campaign, points: &[&Measured]) -> Vec<Flat> {
    let mut flats = Vec::new();
    if let Some(measured) = &campaign.ceilings {
        for (&dtype, ceiling) in &measured.compute {
            // Formats that are computed in another one are part of its line.
            let sharing = |(_, c): &(&DType, &Ceiling)| c.computed_in == Some(dtype);
            let sharing = measured.compute.iter().filter(sharing);
            let formats: Vec<String> = std::iter::once(dtype.to_string())
                .chain(sharing.map(|(format, _)| format.to_string()))
                .collect();
            let is_part =
                ceiling.computed_in.is_some_and(|f| measured.compute.contains_key(&f));
            if is_part {
                continue;
            }
            flats.push(Flat {
                formats: formats.join(", "),
                dtype,
                flops_per_s: ceiling.rate.value,
                bytes_per_s: measured.read.rate.value,
                from: CeilingOrigin::Kernel(ceiling.kernel.to_string()),
            });
        }
    }
    if let Some(promise) = frame::promise(campaign) {
        let used = |dtype: DType| {
            points.iter().any(|p| p.problem.math_dtype() == Some(dtype))
                || flats.iter().any(|flat| flat.dtype == dtype)
        };
        let bytes_per_s = promise.peaks.bandwidth.read.plateau().bytes_per_s;
        let peaks = promise.peaks.compute.iter().filter(|peak| used(peak.dtype));
        let promised = peaks.map(|peak| Flat {
            formats: peak.dtype.to_string(),
            dtype: peak.dtype,
            flops_per_s: peak.flops_per_s,
            bytes_per_s,
            from: CeilingOrigin::Promise { name: promise.name, stroke: promise.stroke },
        });
        let promised: Vec<Flat> = promised.collect();
        flats.extend(promised);
    }
    flats
}

/// The largest measured read bandwidth that fits into each cache level, where
/// it stands out from DRAM's.
fn cache_bandwidths(campaign: &Campaign) -> Vec<(CacheLevel, f64)> {
    let Some(measured) = &campaign.ceilings else { return Vec::new() };
    let curve = measured.peaks.bandwidth.read.points();
    let mut levels = Vec::new();
    let mut below = 0;
    for cache in &campaign.provenance.caches {
        let fits = curve.iter().filter(|point| {
            below < point.footprint_bytes && point.footprint_bytes <= cache.bytes
        });
        let best = fits.map(|point| point.bytes_per_s).fold(0.0, f64::max);
        if best > 1.15 * measured.read.rate.value {
            levels.push((cache.level, best));
        }
        below = cache.bytes;
    }
    levels
}

/// All ceilings as lines, those first whose labels matter most.
fn roofs(campaign: &Campaign, points: &[&Measured], panel: &Panel) -> Vec<RoofLine> {
    let flats = ceilings(campaign, points);
    let highest = |measured: bool| {
        let rates = flats.iter().filter(|f| f.is_measured() == measured);
        let highest = rates.map(|f| f.flops_per_s).fold(0.0, f64::max);
        if highest > 0.0 { highest } else { panel.y.hi }
    };
    let slope =
        |bytes_per_s: f64, measured: bool, stroke: Stroke, label: String| RoofLine {
            from: (panel.x.lo, panel.x.lo * bytes_per_s),
            to: (highest(measured) / bytes_per_s, highest(measured)),
            stroke,
            label: Some(label),
        };
    let mut roofs = Vec::new();
    for flat in &flats {
        roofs.push(horizontal(flat, panel));
    }
    if let Some(measured) = &campaign.ceilings {
        let read = measured.read.rate.value;
        let label = format!("DRAM read {}", si(read, "B/s"));
        roofs.push(slope(read, true, Stroke::solid(INK, 1.8), label));
        for (level, best) in cache_bandwidths(campaign) {
            let label = format!("{level} read {}", si(best, "B/s"));
            roofs.push(slope(best, true, Stroke::dashed(FAINT, 1.3), label));
            roofs.extend(flats.iter().filter(|f| f.is_measured()).map(|flat| RoofLine {
                from: (flat.flops_per_s / best, flat.flops_per_s),
                to: (flat.ridge(), flat.flops_per_s),
                stroke: Stroke::dashed(FAINT, 1.3),
                label: None,
            }));
        }
    }
    if let Some(promise) = frame::promise(campaign) {
        let bandwidth = promise.peaks.bandwidth.read.plateau().bytes_per_s;
        let label = format!("{} {}", promise.name, si(bandwidth, "B/s"));
        roofs.push(slope(bandwidth, false, promise.stroke, label));
    }
    roofs
}

fn horizontal(flat: &Flat, panel: &Panel) -> RoofLine {
    let stroke = match flat.from {
        CeilingOrigin::Kernel(_) => Stroke::solid(INK, 1.8),
        CeilingOrigin::Promise { stroke, .. } => stroke,
    };
    RoofLine {
        from: (flat.ridge(), flat.flops_per_s),
        to: (panel.x.hi, flat.flops_per_s),
        stroke,
        label: Some(flat.label()),
    }
}

/// A vertical line from each ridge point down to the axis.
fn ridge_lines(campaign: &Campaign, points: &[&Measured], panel: &Panel) -> Vec<RoofLine> {
    let flats = ceilings(campaign, points);
    let measured = flats.iter().any(Flat::is_measured);
    let drawn = flats.iter().filter(|flat| flat.is_measured() == measured);
    drawn
        .map(|flat| RoofLine {
            from: (flat.ridge(), flat.flops_per_s),
            to: (flat.ridge(), panel.y.lo),
            stroke: Stroke::solid("#999999", 0.9),
            label: Some(format!("{} ridge {} FLOP/B", flat.formats, number(flat.ridge()))),
        })
        .collect()
}

/// Draws all lines, then their labels where there is room. What finds none is
/// returned for the legend.
fn draw_roofs(
    canvas: &mut Canvas,
    campaign: &Campaign,
    points: &[&Measured],
    panel: &Panel,
) -> Vec<LegendEntry> {
    let mut lines = roofs(campaign, points, panel);
    lines.extend(ridge_lines(campaign, points, panel));
    let mut room = panel.room();
    for point in points {
        let Some(rate) = point.flops_per_s() else { continue };
        take_point(&mut room, panel, point.work.operational_intensity(), rate);
    }
    let mut drawn: Vec<((Spot, Spot), RoofLine)> = Vec::new();
    for line in lines {
        let Some(segment) = panel.segment(line.from, line.to) else { continue };
        canvas.line(segment, line.stroke);
        room.take(Quad::of_line(segment, line.stroke.width + 2.0));
        drawn.push((segment, line));
    }
    let mut unplaced = Vec::new();
    for (segment, line) in drawn {
        let Some(label) = line.label else { continue };
        let colour = if line.stroke.colour == SPEC { SPEC } else { INK };
        match room.place_along(segment, &label, LABEL) {
            Some(place) => canvas.text(Text {
                degrees: place.degrees,
                colour,
                ..Text::new(&label, place.at, LABEL)
            }),
            None => unplaced.push(LegendEntry::new(LegendKey::Line(line.stroke), label)),
        }
    }
    unplaced
}

/// What the kinds of lines mean.
fn roof_entries(campaign: &Campaign) -> Vec<LegendEntry> {
    let mut entries = Vec::new();
    let mut add =
        |stroke, text| entries.push(LegendEntry::new(LegendKey::Line(stroke), text));
    if campaign.ceilings.is_some() {
        add(Stroke::solid(INK, 1.8), "measured ceiling");
    }
    if !cache_bandwidths(campaign).is_empty() {
        add(Stroke::dashed(FAINT, 1.3), "measured cache bandwidth");
    }
    if let Some(promise) = frame::promise(campaign) {
        add(promise.stroke, promise.legend);
    }
    entries
}

//! The ridge by implementation: one roofline for each kernel that could set the ceiling of
//! arithmetic of a format, with the place where its roof leaves the slope of memory. Which
//! kernel shows the ceiling decides what counts as bound by memory.

use super::axis::{Axis, Scale};
use super::frame::{
    self, BELOW, Figure, LABEL, LEFT, LegendEntry, LegendKey, Panel, RIGHT, TALL, WIDTH,
    draw_legend, draw_titles, series_style,
};
use super::layout::{Quad, Rect, Spot};
use super::svg::{Canvas, INK, Marker, SPEC, Stroke, Text};
use super::table::PlottedTable;
use crate::analysis::{Campaign, Candidate, Ceiling};
use crate::format::DType;
use crate::op::Op;
use crate::quantity::{number, prefix, si};

/// Fewest kernels that reached a rate: of one, the roofline says all.
const FEWEST: usize = 2;
/// Most kernels that are drawn, and the least share of the best that they reached: what is
/// far below says nothing of the ceiling.
const MOST: usize = 6;
const LEAST_SHARE: f64 = 0.4;
/// How far the axes reach beyond the ridges: down and up, as factors. The labels of roofs
/// have room at the right.
const X_REACH: (f64, f64) = (4.0, 9.0);
const Y_REACH: (f64, f64) = (5.0, 1.35);

/// A roof with its ridge.
struct RidgeRoof {
    name: String,
    flops_per_s: f64,
    bytes_per_s: f64,
    /// FLOPs per clock and multiprocessor, and what the architecture does.
    per_clock: String,
    stroke: Stroke,
    /// That of the operation whose kernel reached it; `None` for what is promised.
    marker: Option<Marker>,
    tip: String,
}

impl RidgeRoof {
    fn ridge(&self) -> f64 {
        self.flops_per_s / self.bytes_per_s
    }

    fn label(&self) -> String {
        let (name, rate) = (&self.name, si(self.flops_per_s, "FLOP/s"));
        format!("{name}: {rate}, ridge {}{}", self.ridge_label(), self.per_clock)
    }

    fn ridge_label(&self) -> String {
        format!("{} FLOP/B", number(self.ridge()))
    }
}

/// Draws the roofs of the format that most kernels computed in, or says what the records
/// lack.
///
/// # Errors
/// The reason why there is nothing to draw.
pub fn draw(campaign: &Campaign) -> Result<Figure, String> {
    let (dtype, roofs) = roofs(campaign)?;
    let mut canvas = Canvas::new(WIDTH);
    let title = format!("Ridge in {dtype}, by implementation");
    let top = draw_titles(&mut canvas, campaign, &title, &subtitle(dtype, &roofs));
    let area = Rect::new(LEFT, top + 10.0, RIGHT, top + 10.0 + TALL);
    let mut table = PlottedTable::new("ridge_flops_per_byte", "speed_flops_per_s");
    for roof in &roofs {
        table.value("", &roof.name, roof.ridge(), roof.flops_per_s);
    }
    let panel = panel(&roofs, area);
    let (_, unit) = prefix(panel.y.hi / 3.0);
    panel.draw(
        &mut canvas,
        "operational intensity (FLOP/byte)",
        &format!("performance ({unit}FLOP/s)"),
    );
    let entries = draw_roofs(&mut canvas, &panel, &roofs);
    let bottom = draw_legend(&mut canvas, &entries, area.y1 + BELOW);
    Ok(frame::finish(canvas, campaign, "ridge", &table, vec![area], bottom))
}

fn subtitle(dtype: DType, roofs: &[RidgeRoof]) -> String {
    let measured = || roofs.iter().filter(|roof| roof.stroke.colour != SPEC);
    let by_rate = |a: &&RidgeRoof, b: &&RidgeRoof| a.flops_per_s.total_cmp(&b.flops_per_s);
    let ends = measured().min_by(by_rate).zip(measured().max_by(by_rate));
    let from_to = ends.map_or(String::new(), |(low, high)| {
        format!(
            " From {} ({}) to {} ({}).",
            low.ridge_label(),
            low.name,
            high.ridge_label(),
            high.name
        )
    });
    format!(
        "The best that each kernel reached in {dtype}, and where its roof meets the measured \
         bandwidth of reads: left of it work is bound by memory.{from_to}"
    )
}

/// The format that most kernels reached a rate in, with their roofs and the promised one.
fn roofs(campaign: &Campaign) -> Result<(DType, Vec<RidgeRoof>), String> {
    let ceilings = campaign.ceilings.as_ref().ok_or("no read stream was measured")?;
    let own = ceilings.compute.iter().filter(|(_, ceiling)| ceiling.computed_in.is_none());
    let most = |(_, a): &(&DType, &Ceiling), (_, b): &(&DType, &Ceiling)| {
        let by_count = a.candidates.len().cmp(&b.candidates.len());
        // Of two formats with as many, the one that is faster.
        by_count.then(a.rate.value.total_cmp(&b.rate.value))
    };
    let (&dtype, ceiling) = own
        .max_by(most)
        .filter(|(_, ceiling)| ceiling.candidates.len() >= FEWEST)
        .ok_or("no format has rates of two kernels that could set its ceiling")?;
    let bytes_per_s = ceilings.read.rate.value;
    let op_of = |candidate: &Candidate| {
        let point = campaign.points.iter().find(|p| p.point_id == candidate.point_id);
        point.map_or(Op::Peak, |point| point.problem.op())
    };
    let of = |candidate: &Candidate, (stroke, marker): (Stroke, Marker)| RidgeRoof {
        name: candidate.kernel.to_string(),
        flops_per_s: candidate.rate.value,
        bytes_per_s,
        per_clock: campaign
            .flops_per_clock(dtype, candidate.rate.value, candidate.sm_clock_hz)
            .map_or(String::new(), |per_clock| format!(", {per_clock} per clock and SM")),
        stroke,
        marker: Some(marker),
        tip: campaign.point_text(&candidate.point_id),
    };
    let is_near =
        |candidate: &&Candidate| candidate.rate.value >= LEAST_SHARE * ceiling.rate.value;
    let mut drawn: Vec<Op> = Vec::new();
    let mut roofs: Vec<RidgeRoof> = Vec::new();
    for candidate in ceiling.candidates.iter().filter(is_near).take(MOST) {
        let op = op_of(candidate);
        let index = drawn.iter().filter(|other| **other == op).count();
        drawn.push(op);
        roofs.push(of(candidate, series_style(op, index, 1.3)));
    }
    if let Some(promise) = frame::promise(campaign)
        && let Some(flops_per_s) = promise.peaks.flops_per_s(dtype)
    {
        roofs.push(RidgeRoof {
            name: promise.name.to_owned(),
            flops_per_s,
            bytes_per_s: promise.peaks.bandwidth.read.plateau().bytes_per_s,
            per_clock: String::new(),
            stroke: promise.stroke,
            marker: None,
            tip: String::new(),
        });
    }
    Ok((dtype, roofs))
}

/// Axes around the ridges, where the roofs differ.
fn panel(roofs: &[RidgeRoof], area: Rect) -> Panel {
    let range = |values: &dyn Fn(&RidgeRoof) -> f64| {
        let all = roofs.iter().map(values);
        all.fold((f64::MAX, 0.0f64), |(lo, hi), x| (lo.min(x), hi.max(x)))
    };
    let (left, right) = range(&RidgeRoof::ridge);
    let (low, high) = range(&|roof| roof.flops_per_s);
    let y_scale = Scale::Decimal(prefix(high / 3.0).0);
    Panel {
        area,
        x: Axis { lo: left / X_REACH.0, hi: right * X_REACH.1, scale: Scale::Decimal(1.0) },
        y: Axis { lo: low / Y_REACH.0, hi: high * Y_REACH.1, scale: y_scale },
    }
}

/// Draws slopes, roofs and the lines from ridges down to the axis; their numbers are for the
/// legend, since roofs lie close together.
fn draw_roofs(canvas: &mut Canvas, panel: &Panel, roofs: &[RidgeRoof]) -> Vec<LegendEntry> {
    let mut room = panel.room();
    let mut labels: Vec<((Spot, Spot), String, Stroke)> = Vec::new();
    let mut line = |canvas: &mut Canvas, from, to, stroke: Stroke, label: String| {
        let Some(segment) = panel.segment(from, to) else { return };
        canvas.line(segment, stroke);
        room.take(Quad::of_line(segment, stroke.width + 2.0));
        if !label.is_empty() {
            labels.push((segment, label, stroke));
        }
    };
    // Measured roofs share a slope, which ends at the highest of them.
    for is_promised in [false, true] {
        let kind = |roof: &&RidgeRoof| (roof.stroke.colour == SPEC) == is_promised;
        let by_rate =
            |a: &&RidgeRoof, b: &&RidgeRoof| a.flops_per_s.total_cmp(&b.flops_per_s);
        let Some(roof) = roofs.iter().filter(kind).max_by(by_rate) else { continue };
        let (name, stroke) = match is_promised {
            true => (roof.name.as_str(), roof.stroke),
            false => ("DRAM read", Stroke::solid(INK, 1.3)),
        };
        let label = format!("{name} {}", si(roof.bytes_per_s, "B/s"));
        let from = (panel.x.lo, panel.x.lo * roof.bytes_per_s);
        line(canvas, from, (roof.ridge(), roof.flops_per_s), stroke, label);
    }
    for roof in roofs {
        let at = (roof.ridge(), roof.flops_per_s);
        line(canvas, at, (panel.x.hi, roof.flops_per_s), roof.stroke, String::new());
    }
    for roof in roofs {
        let at = (roof.ridge(), roof.flops_per_s);
        let stroke = Stroke::dashed(roof.stroke.colour, 0.8);
        line(canvas, at, (roof.ridge(), panel.y.lo), stroke, String::new());
    }
    for roof in roofs {
        let Some(marker) = roof.marker else { continue };
        let at = panel.spot(roof.ridge(), roof.flops_per_s);
        room.take(Quad::around(at, Marker::RADIUS + 1.5));
        canvas.mark(at, marker, format!("{}\nridge {}", roof.tip, roof.ridge_label()));
    }
    for (segment, label, stroke) in labels {
        if let Some(place) = room.place_along(segment, &label, LABEL) {
            let colour = if stroke.colour == SPEC { SPEC } else { INK };
            let (at, degrees) = (place.at, place.degrees);
            canvas.text(Text { degrees, colour, ..Text::new(&label, at, LABEL) });
        }
    }
    let entry = |roof: &RidgeRoof| {
        let key = match roof.marker {
            Some(marker) => LegendKey::Both(roof.stroke, marker),
            None => LegendKey::Line(roof.stroke),
        };
        LegendEntry::new(key, roof.label())
    };
    roofs.iter().map(entry).collect()
}

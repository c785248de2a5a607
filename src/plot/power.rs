//! Power, clocks and temperature over the campaign, round by round: what the device did while
//! it was measured, by operation.

use super::axis::{Axis, Scale};
use super::frame::{
    self, BELOW, Figure, LEFT, LegendEntry, LegendKey, Panel, RIGHT, WIDTH, draw_legend,
    draw_titles, marker, op_entries, tip,
};
use super::layout::Rect;
use super::picture::Tip;
use super::svg::{Canvas, SPEC, Stroke};
use super::table::{PlottedTable, count_text, thinned};
use crate::analysis::{Campaign, Measured};
use crate::quantity::si;
use crate::statistics::Estimate;

/// Marks of a panel.
const MOST_MARKS: usize = 160;
const HEIGHT: f64 = 105.0;

/// What is read of a round.
struct Quantity {
    name: &'static str,
    title: &'static str,
    unit: &'static str,
    scale: f64,
    /// The limit that `run.csv` names, and its column.
    limit: Option<(&'static str, &'static str)>,
}

const QUANTITIES: [Quantity; 4] = [
    Quantity {
        name: "power_w",
        title: "power (W)",
        unit: "W",
        scale: 1.0,
        limit: Some(("power_limit_w", "power limit")),
    },
    Quantity {
        name: "sm_clock_hz",
        title: "SM clock (GHz)",
        unit: "Hz",
        scale: 1e9,
        limit: Some(("sm_clock_max_hz", "highest SM clock")),
    },
    Quantity {
        name: "memory_clock_hz",
        title: "memory (GHz)",
        unit: "Hz",
        scale: 1e9,
        limit: None,
    },
    Quantity {
        name: "temperature_c",
        title: "temp. (°C)",
        unit: "°C",
        scale: 1.0,
        limit: None,
    },
];

/// A round of a point, at seconds since the campaign's first.
struct Moment<'a> {
    at_s: f64,
    values: [Option<f64>; 4],
    point: &'a Measured,
}

/// Draws a panel for each quantity that was recorded, or says what the records lack.
///
/// # Errors
/// The reason why there is nothing to draw.
pub fn draw(campaign: &Campaign) -> Result<Figure, String> {
    let moments = moments(campaign);
    let has =
        |index: usize| moments.iter().filter(|m| m.values[index].is_some()).count() > 1;
    if !has(0) && !has(1) {
        return Err(
            "neither rounds.csv nor results.csv has power or clocks at two moments"
                .to_owned(),
        );
    }
    let mut canvas = Canvas::new(WIDTH);
    let how = "Each mark is a round of a point, in its operation's shape and colour; the axis is \
               the time since the first. Dotted: limits that the device reports.";
    let mut bottom =
        draw_titles(&mut canvas, campaign, "Power and clocks over time", how) - 4.0;
    let mut table = PlottedTable::new("since_first_s", "value");
    let longest = moments.iter().map(|m| m.at_s).fold(0.0, f64::max).max(1e-3);
    let shown: Vec<usize> = (0..QUANTITIES.len()).filter(|index| has(*index)).collect();
    let mut areas = Vec::new();
    for index in &shown {
        let area = Rect::new(LEFT, bottom + 24.0, RIGHT, bottom + 24.0 + HEIGHT);
        let x = Axis { lo: -0.02 * longest, hi: 1.02 * longest, scale: Scale::Linear(1.0) };
        let Some(panel) = panel(campaign, &moments, *index, (area, x)) else { continue };
        let title =
            (Some(index) == shown.last()).then_some("seconds since the first round");
        panel.draw_axes(
            &mut canvas,
            (title, Some(QUANTITIES[*index].title)),
            f64::INFINITY,
        );
        draw_panel(&mut canvas, campaign, (&panel, *index), &moments, &mut table);
        bottom = area.y1;
        areas.push(area);
    }
    let points: Vec<&Measured> = moments.iter().map(|moment| moment.point).collect();
    let mut entries = op_entries(&points);
    entries.push(LegendEntry::new(LegendKey::Line(LIMIT), "limit"));
    let bottom = draw_legend(&mut canvas, &entries, bottom + BELOW);
    Ok(frame::finish(canvas, campaign, "power", &table, areas, bottom))
}

const LIMIT: Stroke = Stroke::dotted(SPEC, 1.2);

/// All rounds in the order of time; of records without rounds, the points.
fn moments(campaign: &Campaign) -> Vec<Moment<'_>> {
    let points: std::collections::HashMap<&str, &Measured> =
        campaign.points.iter().map(|point| (point.point_id.as_str(), point)).collect();
    type Found<'a> = (&'a str, &'a str, [Option<f64>; 4]);
    let of_rounds = campaign.rounds.iter().map(|round| {
        let clocks = (round.sm_clock_hz_median, round.memory_clock_hz);
        let values = [round.power_w, clocks.0, clocks.1, round.temperature_c];
        (round.point_id.as_str(), round.started_utc.as_str(), values)
    });
    let of_rows = campaign.rows.iter().map(|row| {
        let values = [row.power_w, row.sm_clock_hz_median, None, None];
        (row.point_id.as_str(), row.started_utc.as_str(), values)
    });
    let found: Vec<Found> = match campaign.rounds.is_empty() {
        true => of_rows.collect(),
        false => of_rounds.collect(),
    };
    let mut moments: Vec<Moment> = found
        .into_iter()
        .filter_map(|(id, started, values)| {
            let started: jiff::Timestamp = started.parse().ok()?;
            let at_s = started.as_millisecond() as f64 / 1e3;
            let is_sound = |value: &f64| value.is_finite() && *value > 0.0;
            let values = values.map(|value| value.filter(is_sound));
            Some(Moment { at_s, values, point: *points.get(id)? })
        })
        .collect();
    let first = moments.iter().map(|moment| moment.at_s).fold(f64::MAX, f64::min);
    moments.iter_mut().for_each(|moment| moment.at_s -= first);
    moments.sort_by(|a, b| a.at_s.total_cmp(&b.at_s));
    moments
}

/// The limit of a quantity, where the run names it.
fn limit(campaign: &Campaign, quantity: &Quantity) -> Option<(f64, &'static str)> {
    let (column, name) = quantity.limit?;
    let value = campaign.runs.last()?.get(column)?.parse().ok()?;
    (value > 0.0).then_some((value, name))
}

fn panel(
    campaign: &Campaign,
    moments: &[Moment],
    index: usize,
    (area, x): (Rect, Axis),
) -> Option<Panel> {
    let quantity = &QUANTITIES[index];
    let values = moments.iter().filter_map(|moment| moment.values[index]);
    let limit = limit(campaign, quantity).map(|(value, _)| value);
    Some(Panel { area, x, y: Axis::linear(values.chain(limit), quantity.scale)? })
}

fn draw_panel(
    canvas: &mut Canvas,
    campaign: &Campaign,
    (panel, index): (&Panel, usize),
    moments: &[Moment],
    table: &mut PlottedTable,
) {
    let quantity = &QUANTITIES[index];
    if let Some((value, name)) = limit(campaign, quantity) {
        table.value(quantity.name, name, 0.0, value);
        if let Some(segment) = panel.segment((panel.x.lo, value), (panel.x.hi, value)) {
            canvas.line(segment, LIMIT);
        }
    }
    let known: Vec<&Moment> =
        moments.iter().filter(|m| m.values[index].is_some()).collect();
    let (drawn, step) = thinned(&known, MOST_MARKS);
    for moment in &known {
        let Some(value) = moment.values[index] else { continue };
        let op = moment.point.problem.op().facts().judged.prose;
        let exact = Estimate { value, lo: value, hi: value };
        table.point((quantity.name, op), moment.point, moment.at_s, exact);
    }
    for moment in drawn {
        let Some(value) = moment.values[index] else { continue };
        let op = moment.point.problem.op();
        let marker = marker(op, moment.point.cache);
        let Tip { text, point_id } = tip(moment.point);
        let text = format!("{text}\n{}: {}", quantity.title, si(value, quantity.unit));
        canvas.series(op.facts().judged.prose, |canvas| {
            canvas.mark(panel.spot(moment.at_s, value), marker, Tip { text, point_id });
        });
    }
    panel.heading(canvas, &count_text(step, known.len()).replace("points", "rounds"));
}

//! Own kernels beside other libraries': a dot for each problem, by operation, and a line
//! where both take the same time.

use super::axis::{Axis, Scale};
use super::font::text_width;
use super::frame::{
    self, BELOW, Figure, LABEL, LegendEntry, LegendKey, RIGHT, WIDTH, draw_grid,
    draw_legend, draw_titles, drawable, marker, op_entries, shown_span,
};
use super::layout::Rect;
use super::picture::Tip;
use super::svg::{Anchor, Canvas, FAINT, INK, Marker, Stroke, Text};
use super::table::PlottedTable;
use crate::analysis::{BesidePeer, Campaign, Measured};
use crate::op::Op;
use crate::quantity::number;

/// Height above and below the dot of a labelled row, and of one without a label.
const LABELLED: (f64, f64) = (15.0, 4.5);
const BARE: (f64, f64) = (4.0, 4.0);
/// Problems from which on rows have no labels.
const MOST_LABELLED: usize = 40;
/// Room above an operation's rows for its name.
const HEADING: f64 = 18.0;

/// Draws the ratios, or says what the records lack.
///
/// # Errors
/// The reason why there is nothing to draw.
pub fn draw(campaign: &Campaign) -> Result<Figure, String> {
    let mut beside = campaign.beside_peers();
    beside.retain(|both| drawable(&both.speed));
    let spans = beside.iter().flat_map(|both| shown_span(&both.speed)).chain([1.0]);
    let axis = Axis::spanning(spans, Scale::Decimal(1.0), (1.1, 1.1));
    let (Some(axis), false) = (axis, beside.is_empty()) else {
        return Err("no problem has times of both an own kernel and another library's; \
                    `ridgepoint peers DIR` measures these"
            .to_owned());
    };
    let mut canvas = Canvas::new(WIDTH);
    let how = "Time of the fastest other library over that of our fastest kernel on the same \
               problem: right of 1 ours is faster. Bars: 95% interval of the ratio.";
    let top = draw_titles(&mut canvas, campaign, "Beside peers", how) + 10.0;
    let is_labelled = beside.len() <= MOST_LABELLED;
    let rows = Rows::of(&beside, is_labelled, top);
    let panel = Rect::new(12.0, top, RIGHT, rows.bottom);
    draw_axis(&mut canvas, panel, axis);
    for (op, y) in &rows.headings {
        canvas.text(Text::new(op.facts().judged.prose, (panel.x0 + 4.0, *y), LABEL));
    }
    let mut table = PlottedTable::new("row", "peer_time_over_own_ratio");
    for ((at, both), y) in beside.iter().enumerate().zip(&rows.middles) {
        draw_row(&mut canvas, (panel, axis), both, *y, is_labelled);
        let op = both.own.problem.op().facts().judged.prose;
        table.point((op, &both.peer.kernel), both.own, at as f64, both.speed);
    }
    let own: Vec<&Measured> = beside.iter().map(|both| both.own).collect();
    let mut entries = op_entries(&own);
    let line = LegendKey::Line(Stroke::solid(INK, 1.2));
    entries.push(LegendEntry::new(line, "both take the same time"));
    let bottom = draw_legend(&mut canvas, &entries, panel.y1 + BELOW);
    Ok(frame::finish(canvas, campaign, "peers", &table, vec![panel], bottom))
}

/// Where rows lie.
struct Rows {
    headings: Vec<(Op, f64)>,
    /// The height of each problem's dot; its label stands above it.
    middles: Vec<f64>,
    bottom: f64,
}

impl Rows {
    fn of(beside: &[BesidePeer<'_>], is_labelled: bool, top: f64) -> Self {
        let (above, below) = if is_labelled { LABELLED } else { BARE };
        let (mut headings, mut middles, mut y) = (Vec::new(), Vec::new(), top);
        for both in beside {
            let op = both.own.problem.op();
            if headings.last().is_none_or(|(last, _)| *last != op) {
                headings.push((op, y + 13.0));
                y += HEADING;
            }
            middles.push(y + above);
            y += above + below;
        }
        Rows { headings, middles, bottom: y + 4.0 }
    }
}

/// The problem without its operation, which stands above, and its peer, cut where it is too
/// long.
fn label(both: &BesidePeer<'_>, most: f64) -> String {
    let label = both.own.problem.label();
    let name = both.own.problem.op().name();
    let rest = label.strip_prefix(name).unwrap_or(&label).trim();
    let end = format!(", {}, by {}", both.own.cache, both.peer.kernel);
    let mut text = rest.to_owned();
    while text_width(&format!("{text}{end}"), LABEL) > most && text.len() > 3 {
        let kept = text.trim_end_matches("...").chars().count().saturating_sub(1);
        text = text.chars().take(kept).collect::<String>() + "...";
    }
    text + &end
}

fn draw_axis(canvas: &mut Canvas, panel: Rect, axis: Axis) {
    let Rect { x0, y0, x1, y1 } = panel;
    for tick in axis.ticks(((x1 - x0) / 44.0) as usize) {
        let x = x0 + axis.share(tick.value) * (x1 - x0);
        draw_grid(canvas, ((x, y1), (x, y0)), tick.label.is_some());
        if let Some(label) = tick.label {
            let anchor = Anchor::Middle;
            canvas.text(Text { anchor, ..Text::new(&label, (x, y1 + 13.0), LABEL) });
        }
    }
    let one = x0 + axis.share(1.0) * (x1 - x0);
    canvas.line(((one, y0), (one, y1)), Stroke::solid(INK, 1.2));
    canvas.outline(panel, Stroke::solid(INK, 0.8));
    let anchor = Anchor::Middle;
    let title = "speed: time of the best peer over ours";
    let at = ((x0 + x1) / 2.0, y1 + 27.0);
    canvas.text(Text { anchor, ..Text::new(title, at, LABEL) });
}

fn draw_row(
    canvas: &mut Canvas,
    (panel, axis): (Rect, Axis),
    both: &BesidePeer<'_>,
    y: f64,
    is_labelled: bool,
) {
    let x = |ratio: f64| {
        let inside = ratio.clamp(axis.lo, axis.hi);
        panel.x0 + axis.share(inside) * (panel.x1 - panel.x0)
    };
    let op = both.own.problem.op();
    let marker = marker(op, both.own.cache);
    canvas.series(op.facts().judged.prose, |canvas| {
        let (lo, hi) = (x(both.speed.lo), x(both.speed.hi));
        if hi - lo > 2.0 * Marker::RADIUS {
            canvas.line(((lo, y), (hi, y)), Stroke::solid(marker.colour, 0.8));
        }
        canvas.mark((x(both.speed.value), y), marker, tip(both));
        if is_labelled {
            let (left, right) = (panel.x0 + 8.0, panel.x1 - 4.0);
            let text = label(both, right - left);
            let at = (left, y - 6.5);
            canvas.text(Text { colour: FAINT, ..Text::new(&text, at, LABEL) });
        }
    });
}

/// What is said of a problem's dot.
fn tip(both: &BesidePeer<'_>) -> Tip {
    Tip { text: tip_text(both), point_id: Some(both.own.point_id.clone()) }
}

fn tip_text(both: &BesidePeer<'_>) -> String {
    let BesidePeer { own, peer, speed, .. } = both;
    let in_clocks = both.speed_in_clocks();
    let in_clocks =
        in_clocks.map_or(String::new(), |speed| format!("; in clocks {}", number(speed)));
    format!(
        "{}, {}\n{} beside {}\n{}\nspeed {} [{}, {}]: {}{in_clocks}",
        own.problem,
        own.cache,
        own.kernel,
        peer.kernel,
        peer.implementation,
        number(speed.value),
        number(speed.lo),
        number(speed.hi),
        both.finding()
    )
}

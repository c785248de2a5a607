//! Own kernels beside other libraries': a dot for each problem, by operation, and a line
//! where both take the same time.

use super::axis::{LogAxis, Scale};
use super::font::text_width;
use super::frame::{
    self, Figure, LegendEntry, LegendKey, WIDTH, draw_grid, draw_legend, draw_titles,
    drawable, marker, op_entries, shown_span,
};
use super::layout::Rect;
use super::svg::{Anchor, Canvas, FAINT, INK, Marker, Stroke, Text};
use crate::analysis::{BesidePeer, Campaign, Measured};
use crate::op::Op;
use crate::quantity::number;

/// Font size of the labels of problems.
const SIZE: f64 = 10.5;
/// Height of a labelled row, and of one without a label.
const ROWS: (f64, f64) = (17.0, 8.0);
/// Problems from which on rows have no labels.
const MOST_LABELLED: usize = 90;
/// Room above an operation's rows for its name.
const HEADING: f64 = 24.0;
/// Room for names of peers right of the panel.
const PEER_ROOM: f64 = 150.0;

/// Draws the ratios, or says what the records lack.
///
/// # Errors
/// The reason why there is nothing to draw.
pub fn draw(campaign: &Campaign) -> Result<Figure, String> {
    let mut beside = campaign.beside_peers();
    beside.retain(|both| drawable(&both.speed));
    let spans = beside.iter().flat_map(|both| shown_span(&both.speed)).chain([1.0]);
    let axis = LogAxis::spanning(spans, Scale::Decimal(1.0), (1.1, 1.1));
    let (Some(axis), false) = (axis, beside.is_empty()) else {
        return Err("no problem has times of both an own kernel and another library's; \
                    `ridgepoint peers DIR` measures these"
            .to_owned());
    };
    let mut canvas = Canvas::new(WIDTH);
    let how = "Time of the fastest other library over that of our fastest kernel on the same \
               problem: right of 1 ours is faster. Bars: 95% interval of the ratio.";
    let top = draw_titles(&mut canvas, campaign, "Beside peers", how) + 12.0;
    let is_labelled = beside.len() <= MOST_LABELLED;
    let rows = Rows::of(&beside, is_labelled, top);
    let panel = Rect::new(rows.left, top, WIDTH - PEER_ROOM, rows.bottom);
    draw_axis(&mut canvas, panel, axis);
    for (op, y) in &rows.headings {
        let text = op.facts().judged.prose;
        canvas.text(Text::new(text, (24.0, *y), 12.0));
    }
    for (both, y) in beside.iter().zip(&rows.middles) {
        draw_row(&mut canvas, (panel, axis), both, *y, is_labelled);
    }
    let own: Vec<&Measured> = beside.iter().map(|both| both.own).collect();
    let mut entries = op_entries(&own);
    let line = LegendKey::Line(Stroke::solid(INK, 1.4));
    entries.push(LegendEntry::new(line, "both take the same time"));
    let bottom = draw_legend(&mut canvas, &entries, panel.y1 + 68.0);
    Ok(frame::finish(canvas, campaign, "peers", vec![panel], bottom))
}

/// Where rows lie.
struct Rows {
    /// Left edge of the panel: labels lie before it.
    left: f64,
    headings: Vec<(Op, f64)>,
    /// The height of each problem's dot.
    middles: Vec<f64>,
    bottom: f64,
}

impl Rows {
    fn of(beside: &[BesidePeer<'_>], is_labelled: bool, top: f64) -> Self {
        let widest = beside.iter().map(|both| text_width(&label(both), SIZE));
        let widest = if is_labelled { widest.fold(0.0, f64::max) } else { 0.0 };
        let pitch = if is_labelled { ROWS.0 } else { ROWS.1 };
        let (mut headings, mut middles, mut y) = (Vec::new(), Vec::new(), top);
        for both in beside {
            let op = both.own.problem.op();
            if headings.last().is_none_or(|(last, _)| *last != op) {
                headings.push((op, y + 16.0));
                y += HEADING;
            }
            middles.push(y + pitch / 2.0);
            y += pitch;
        }
        let left = (widest + 40.0).clamp(150.0, 0.6 * WIDTH);
        Rows { left, headings, middles, bottom: y + 8.0 }
    }
}

/// The problem without its operation, which stands above, cut where it is too long.
fn label(both: &BesidePeer<'_>) -> String {
    let label = both.own.problem.label();
    let name = both.own.problem.op().name();
    let rest = label.strip_prefix(name).unwrap_or(&label).trim();
    let mut text = format!("{rest}, {}", both.own.cache);
    let most = 0.6 * WIDTH - 44.0;
    while text_width(&text, SIZE) > most {
        let kept = text.trim_end_matches("...").chars().count() - 1;
        text = text.chars().take(kept).collect::<String>() + "...";
    }
    text
}

fn draw_axis(canvas: &mut Canvas, panel: Rect, axis: LogAxis) {
    let Rect { x0, y0, x1, y1 } = panel;
    for tick in axis.ticks(((x1 - x0) / 62.0) as usize) {
        let x = x0 + axis.share(tick.value) * (x1 - x0);
        draw_grid(canvas, ((x, y1), (x, y0)), tick.label.is_some());
        if let Some(label) = tick.label {
            let anchor = Anchor::Middle;
            canvas.text(Text { anchor, ..Text::new(&label, (x, y1 + 18.0), 12.0) });
        }
    }
    let one = x0 + axis.share(1.0) * (x1 - x0);
    canvas.line(((one, y0), (one, y1)), Stroke::solid(INK, 1.4));
    canvas.outline(panel, Stroke::solid(INK, 1.2));
    let anchor = Anchor::Middle;
    let title = "speed: time of the best peer over ours";
    let at = ((x0 + x1) / 2.0, y1 + 40.0);
    canvas.text(Text { anchor, ..Text::new(title, at, 13.0) });
}

fn draw_row(
    canvas: &mut Canvas,
    (panel, axis): (Rect, LogAxis),
    both: &BesidePeer<'_>,
    y: f64,
    is_labelled: bool,
) {
    let x = |ratio: f64| {
        let inside = ratio.clamp(axis.lo, axis.hi);
        panel.x0 + axis.share(inside) * (panel.x1 - panel.x0)
    };
    let marker = marker(both.own.problem.op(), both.own.cache);
    let (lo, hi) = (x(both.speed.lo), x(both.speed.hi));
    if hi - lo > 2.0 * Marker::RADIUS {
        canvas.line(((lo, y), (hi, y)), Stroke::solid(marker.colour, 1.2));
    }
    canvas.mark((x(both.speed.value), y), marker, &tip(both));
    if is_labelled {
        let (anchor, colour) = (Anchor::End, FAINT);
        let at = (panel.x0 - 8.0, y + 3.6);
        canvas.text(Text { anchor, ..Text::new(&label(both), at, SIZE) });
        let at = (panel.x1 + 8.0, y + 3.6);
        canvas.text(Text { colour, ..Text::new(&both.peer.kernel, at, SIZE) });
    }
}

/// The tooltip of a problem's dot.
fn tip(both: &BesidePeer<'_>) -> String {
    let BesidePeer { own, peer, speed } = both;
    format!(
        "{}, {}\n{} beside {}\n{}\nspeed {} [{}, {}]: {}",
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

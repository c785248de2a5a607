//! A canvas that writes SVG and remembers where texts and markers went, so
//! that tests can ask whether they collide.

use std::fmt::Write;
use std::sync::LazyLock;

use skrifa::instance::{LocationRef, Size};
use skrifa::{FontRef, MetadataProvider};

use super::layout::{Quad, Rect, Spot};
use crate::op::MarkerShape;

/// The one font of all figures. System fonts would make the bytes of a PNG
/// depend on the machine.
pub const FONT: &[u8] = include_bytes!("../../assets/DejaVuSans.ttf");

/// Ink of text and axes.
pub const INK: &str = "#222222";
/// Ink of what matters less.
pub const FAINT: &str = "#666666";
/// Background.
const PAPER: &str = "#ffffff";

static FACE: LazyLock<FontRef<'static>> =
    LazyLock::new(|| FontRef::new(FONT).expect("the embedded font is valid"));

/// Width of a text in pixels: the sum of its advances.
pub fn text_width(text: &str, size: f64) -> f64 {
    let charmap = FACE.charmap();
    // Unscaled, because scaled advances are rounded by the font's hinting.
    let metrics = FACE.glyph_metrics(Size::unscaled(), LocationRef::default());
    let per_em =
        f64::from(FACE.metrics(Size::unscaled(), LocationRef::default()).units_per_em);
    let advance = |c: char| {
        let glyph = charmap.map(c).unwrap_or_default();
        f64::from(metrics.advance_width(glyph).unwrap_or_default())
    };
    text.chars().map(advance).sum::<f64>() / per_em * size
}

/// Breaks a text at spaces into lines no wider than `width`.
pub fn wrap(text: &str, size: f64, width: f64) -> Vec<String> {
    let mut lines: Vec<String> = Vec::new();
    for word in text.split_whitespace() {
        match lines.last_mut() {
            Some(line) if text_width(&format!("{line} {word}"), size) <= width => {
                line.push(' ');
                line.push_str(word);
            }
            _ => lines.push(word.to_owned()),
        }
    }
    lines
}

/// Escapes a text for XML and HTML, in content and in attributes.
pub fn escape(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => escaped.push_str("&amp;"),
            '<' => escaped.push_str("&lt;"),
            '>' => escaped.push_str("&gt;"),
            '"' => escaped.push_str("&quot;"),
            '\'' => escaped.push_str("&#39;"),
            '\n' => escaped.push_str("&#10;"),
            // XML 1.0 has no way to write the other control characters.
            c if c.is_control() => escaped.push('\u{fffd}'),
            c => escaped.push(c),
        }
    }
    escaped
}

/// A coordinate with at most two decimals.
fn px(value: f64) -> String {
    let text = format!("{value:.2}");
    let text = text.trim_end_matches('0').trim_end_matches('.');
    if text == "-0" { "0".to_owned() } else { text.to_owned() }
}

/// How a line is drawn.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Stroke {
    /// CSS colour.
    pub colour: &'static str,
    /// Width in pixels.
    pub width: f64,
    /// Lengths of dashes and gaps; solid when empty.
    pub dash: &'static str,
}

impl Stroke {
    /// A solid line.
    pub const fn solid(colour: &'static str, width: f64) -> Self {
        Stroke { colour, width, dash: "" }
    }

    /// A dashed line.
    pub const fn dashed(colour: &'static str, width: f64) -> Self {
        Stroke { colour, width, dash: "7 4" }
    }

    /// A dotted line.
    pub const fn dotted(colour: &'static str, width: f64) -> Self {
        Stroke { colour, width, dash: "2 3" }
    }

    fn attributes(&self) -> String {
        let Stroke { colour, width, dash } = self;
        let dash = match *dash {
            "" => String::new(),
            dash => format!(" stroke-dasharray=\"{dash}\""),
        };
        format!("stroke=\"{colour}\" stroke-width=\"{}\"{dash}", px(*width))
    }
}

/// Where a text lies relative to its spot.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Anchor {
    /// Begins there.
    Start,
    /// Is centred there.
    Middle,
    /// Ends there.
    End,
}

/// A text to draw.
#[derive(Clone, Copy, Debug)]
pub struct Text<'a> {
    /// What it says.
    pub content: &'a str,
    /// On its baseline.
    pub at: Spot,
    /// Font size in pixels.
    pub size: f64,
    /// Relative to `at`.
    pub anchor: Anchor,
    /// Clockwise.
    pub degrees: f64,
    /// CSS colour.
    pub colour: &'static str,
}

impl<'a> Text<'a> {
    /// A level text that begins at `at`.
    pub const fn new(content: &'a str, at: Spot, size: f64) -> Self {
        Text { content, at, size, anchor: Anchor::Start, degrees: 0.0, colour: INK }
    }

    fn quad(&self) -> Quad {
        let width = text_width(self.content, self.size);
        let back = match self.anchor {
            Anchor::Start => 0.0,
            Anchor::Middle => width / 2.0,
            Anchor::End => width,
        };
        let (sin, cos) = self.degrees.to_radians().sin_cos();
        let start = (self.at.0 - back * cos, self.at.1 - back * sin);
        Quad::of_text(start, self.degrees, width, self.size)
    }
}

/// A marker of one measured point.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Marker {
    /// Outline.
    pub shape: MarkerShape,
    /// CSS colour.
    pub colour: &'static str,
    /// Filled or hollow.
    pub filled: bool,
}

impl Marker {
    /// Half the width of a marker.
    pub const RADIUS: f64 = 4.5;

    fn element(&self, (x, y): Spot) -> String {
        let fill = if self.filled { self.colour } else { PAPER };
        // A pale rim keeps neighbours apart; hollow markers need their colour.
        let rim = if self.filled { PAPER } else { self.colour };
        let width = if self.filled { 0.7 } else { 1.4 };
        let style = format!("fill=\"{fill}\" stroke=\"{rim}\" stroke-width=\"{width}\"");
        let polygon = |corners: &[Spot]| {
            let corners: Vec<String> = corners
                .iter()
                .map(|(dx, dy)| format!("{},{}", px(x + dx), px(y + dy)))
                .collect();
            format!("<polygon points=\"{}\" {style}/>", corners.join(" "))
        };
        let r = Self::RADIUS;
        match self.shape {
            MarkerShape::Circle => {
                format!("<circle cx=\"{}\" cy=\"{}\" r=\"{r}\" {style}/>", px(x), px(y))
            }
            MarkerShape::Square => {
                let r = 0.87 * r;
                polygon(&[(-r, -r), (r, -r), (r, r), (-r, r)])
            }
            MarkerShape::Diamond => {
                let r = 1.2 * r;
                polygon(&[(0.0, -r), (r, 0.0), (0.0, r), (-r, 0.0)])
            }
            MarkerShape::Triangle => {
                polygon(&[(0.0, -1.2 * r), (1.1 * r, r), (-1.1 * r, r)])
            }
            MarkerShape::Wedge => polygon(&[(0.0, 1.2 * r), (1.1 * r, -r), (-1.1 * r, -r)]),
        }
    }
}

/// An SVG image under construction.
#[derive(Clone, Debug)]
pub struct Canvas {
    width: f64,
    body: String,
    /// Texts drawn so far with what they cover.
    pub texts: Vec<(String, Quad)>,
    /// Centres of data markers drawn so far.
    pub marks: Vec<Spot>,
}

impl Canvas {
    /// An empty canvas; its height is known at the end.
    pub fn new(width: f64) -> Self {
        Canvas { width, body: String::new(), texts: Vec::new(), marks: Vec::new() }
    }

    /// Width in pixels.
    pub const fn width(&self) -> f64 {
        self.width
    }

    /// Draws a straight line.
    pub fn line(&mut self, (from, to): (Spot, Spot), stroke: Stroke) {
        let _ = writeln!(
            self.body,
            "<path d=\"M{} {}L{} {}\" {}/>",
            px(from.0),
            px(from.1),
            px(to.0),
            px(to.1),
            stroke.attributes()
        );
    }

    /// Draws a line through spots.
    pub fn polyline(&mut self, spots: &[Spot], stroke: Stroke) {
        let path: Vec<String> =
            spots.iter().map(|(x, y)| format!("{} {}", px(*x), px(*y))).collect();
        let _ = writeln!(
            self.body,
            "<path d=\"M{}\" fill=\"none\" stroke-linejoin=\"round\" {}/>",
            path.join("L"),
            stroke.attributes()
        );
    }

    /// Draws a rectangle's outline.
    pub fn outline(&mut self, r: Rect, stroke: Stroke) {
        let _ = writeln!(
            self.body,
            "<rect x=\"{}\" y=\"{}\" width=\"{}\" height=\"{}\" fill=\"none\" {}/>",
            px(r.x0),
            px(r.y0),
            px(r.x1 - r.x0),
            px(r.y1 - r.y0),
            stroke.attributes()
        );
    }

    /// Draws a text.
    pub fn text(&mut self, text: Text<'_>) {
        self.texts.push((text.content.to_owned(), text.quad()));
        // A rim in the paper's colour keeps grid lines out of the letters.
        let rim = format!(
            " stroke=\"{PAPER}\" stroke-width=\"3\" stroke-linejoin=\"round\" \
             paint-order=\"stroke\""
        );
        self.write_text(&text, &rim);
    }

    fn write_text(&mut self, text: &Text<'_>, extra: &str) {
        let (x, y) = (px(text.at.0), px(text.at.1));
        let anchor = match text.anchor {
            Anchor::Start => "",
            Anchor::Middle => " text-anchor=\"middle\"",
            Anchor::End => " text-anchor=\"end\"",
        };
        let turn = if text.degrees == 0.0 {
            String::new()
        } else {
            format!(" transform=\"rotate({} {x} {y})\"", px(text.degrees))
        };
        let _ = writeln!(
            self.body,
            "<text x=\"{x}\" y=\"{y}\" font-size=\"{}\" fill=\"{}\"{anchor}{turn}{extra}>{}</text>",
            px(text.size),
            text.colour,
            escape(text.content)
        );
    }

    /// Draws the marker of a measured point; `tip` says more about it.
    pub fn mark(&mut self, at: Spot, marker: Marker, tip: &str) {
        self.marks.push(at);
        let tip = escape(tip);
        let _ = writeln!(
            self.body,
            "<g data-tip=\"{tip}\"><title>{tip}</title>{}</g>",
            marker.element(at)
        );
    }

    /// Draws a marker that stands for a kind of points, as legends do.
    pub fn sample(&mut self, at: Spot, marker: Marker) {
        let _ = writeln!(self.body, "{}", marker.element(at));
    }

    /// Writes a word across everything, too large to overlook.
    pub fn watermark(&mut self, word: &str, area: Rect) {
        let width = area.x1 - area.x0;
        let size = width / text_width(word, 1.0) * 0.85;
        let (x, y) = area.centre();
        let text = Text {
            at: (x, y + size * 0.36),
            anchor: Anchor::Middle,
            colour: "#cc0000",
            ..Text::new(word, (x, y), size)
        };
        let turn =
            format!(" fill-opacity=\"0.17\" transform=\"rotate(-20 {} {})\"", px(x), px(y));
        self.write_text(&text, &turn);
    }

    /// The finished image.
    pub fn finish(&self, height: f64, title: &str) -> String {
        let (width, height) = (px(self.width), px(height));
        format!(
            "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{width}\" \
             height=\"{height}\" viewBox=\"0 0 {width} {height}\" role=\"img\" \
             aria-label=\"{}\" font-family=\"DejaVu Sans, Verdana, sans-serif\">\n\
             <rect width=\"{width}\" height=\"{height}\" fill=\"{PAPER}\"/>\n{}</svg>\n",
            escape(title),
            self.body
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_are_escaped() {
        assert_eq!(
            escape("<a b=\"c\">'d' & e\n\u{7}"),
            "&lt;a b=&quot;c&quot;&gt;&#39;d&#39; &amp; e&#10;\u{fffd}"
        );
    }

    #[test]
    fn width_grows_with_the_text_and_the_size() {
        let narrow = text_width("iii", 10.0);
        let wide = text_width("MMM", 10.0);
        assert!(narrow > 5.0 && wide > 2.0 * narrow);
        assert!((text_width("MMM", 20.0) - 2.0 * wide).abs() < 1e-9);
    }

    #[test]
    fn wrapped_lines_fit_and_lose_no_word() {
        let text = "one two three four five six seven eight nine ten";
        let lines = wrap(text, 12.0, 100.0);
        assert!(lines.len() > 1);
        assert!(lines.iter().all(|line| text_width(line, 12.0) <= 100.0));
        assert_eq!(lines.join(" "), text);
    }

    #[test]
    fn coordinates_are_short() {
        assert_eq!(px(1.0), "1");
        assert_eq!(px(-0.001), "0");
        assert_eq!(px(12.345), "12.35");
    }
}

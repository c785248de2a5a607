//! A canvas that remembers where texts and markers went, so that tests can ask
//! whether they collide.

pub use super::font::text_width;
use super::layout::{Quad, Rect, Spot};
use super::picture::{Ground, Item, Label, Picture};

/// Ink of text and axes.
pub const INK: &str = "#222222";
/// Ink of what matters less.
pub const FAINT: &str = "#666666";
/// Background.
pub const PAPER: &str = "#ffffff";

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
pub fn px(value: f64) -> String {
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

    /// As attributes of an SVG element.
    pub fn attributes(&self) -> String {
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

/// Outlines of markers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shape {
    /// A disc.
    Circle,
    /// A square.
    Square,
    /// A square on its corner.
    Diamond,
    /// Pointing up.
    Triangle,
    /// Pointing down.
    Wedge,
}

/// A marker of one measured point.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Marker {
    /// Outline.
    pub shape: Shape,
    /// CSS colour.
    pub colour: &'static str,
    /// Filled or hollow.
    pub filled: bool,
}

impl Marker {
    /// Half the width of a marker.
    pub const RADIUS: f64 = 4.5;

    /// Colours of its inside and its rim, and the rim's width in pixels. A pale
    /// rim keeps neighbours apart; hollow markers need their colour.
    pub const fn style(&self) -> (&'static str, &'static str, f64) {
        match self.filled {
            true => (self.colour, PAPER, 0.7),
            false => (PAPER, self.colour, 1.4),
        }
    }

    /// Its outline around a spot.
    pub fn outline(&self, (x, y): Spot) -> Outline {
        let polygon = |corners: &[Spot]| {
            Outline::Polygon(corners.iter().map(|(dx, dy)| (x + dx, y + dy)).collect())
        };
        let r = Self::RADIUS;
        match self.shape {
            Shape::Circle => Outline::Circle((x, y), r),
            Shape::Square => {
                let r = 0.87 * r;
                polygon(&[(-r, -r), (r, -r), (r, r), (-r, r)])
            }
            Shape::Diamond => {
                let r = 1.2 * r;
                polygon(&[(0.0, -r), (r, 0.0), (0.0, r), (-r, 0.0)])
            }
            Shape::Triangle => polygon(&[(0.0, -1.2 * r), (1.1 * r, r), (-1.1 * r, r)]),
            Shape::Wedge => polygon(&[(0.0, 1.2 * r), (1.1 * r, -r), (-1.1 * r, -r)]),
        }
    }
}

/// The outline of a marker.
#[derive(Clone, Debug, PartialEq)]
pub enum Outline {
    /// Centre and radius.
    Circle(Spot, f64),
    /// Corners in order.
    Polygon(Vec<Spot>),
}

/// A drawing under construction.
#[derive(Clone, Debug)]
pub struct Canvas {
    width: f64,
    items: Vec<Item>,
    /// Texts drawn so far with what they cover.
    pub texts: Vec<(String, Quad)>,
    /// Centres of data markers drawn so far.
    pub marks: Vec<Spot>,
}

impl Canvas {
    /// An empty canvas; its height is known at the end.
    pub fn new(width: f64) -> Self {
        Canvas { width, items: Vec::new(), texts: Vec::new(), marks: Vec::new() }
    }

    /// Width in pixels.
    pub const fn width(&self) -> f64 {
        self.width
    }

    /// Draws a straight line.
    pub fn line(&mut self, ends: (Spot, Spot), stroke: Stroke) {
        self.items.push(Item::Line(ends, stroke));
    }

    /// Draws a line through spots.
    pub fn polyline(&mut self, spots: &[Spot], stroke: Stroke) {
        self.items.push(Item::Polyline(spots.to_vec(), stroke));
    }

    /// Draws a rectangle's outline.
    pub fn outline(&mut self, r: Rect, stroke: Stroke) {
        self.items.push(Item::Outline(r, stroke));
    }

    /// Draws a text.
    pub fn text(&mut self, text: Text<'_>) {
        self.texts.push((text.content.to_owned(), text.quad()));
        let turn = (text.degrees != 0.0).then_some((text.degrees, text.at));
        self.label(&text, turn, Ground::Rim);
    }

    fn label(&mut self, text: &Text<'_>, turn: Option<(f64, Spot)>, ground: Ground) {
        let Text { at, size, anchor, colour, .. } = *text;
        let content = text.content.to_owned();
        self.items.push(Item::Label(Label {
            content,
            at,
            size,
            anchor,
            colour,
            turn,
            ground,
        }));
    }

    /// Draws the marker of a measured point; `tip` says more about it.
    pub fn mark(&mut self, at: Spot, marker: Marker, tip: &str) {
        self.marks.push(at);
        self.items.push(Item::Marker(at, marker, Some(tip.to_owned())));
    }

    /// Draws a marker that stands for a kind of points, as legends do.
    pub fn sample(&mut self, at: Spot, marker: Marker) {
        self.items.push(Item::Marker(at, marker, None));
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
        self.label(&text, Some((-20.0, (x, y))), Ground::Shows(0.17));
    }

    /// The finished drawing.
    pub fn finish(&mut self, height: f64, title: &str) -> Picture {
        let items = std::mem::take(&mut self.items);
        Picture { size: (self.width, height), title: title.to_owned(), items }
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

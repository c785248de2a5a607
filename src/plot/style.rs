//! How lines, texts and markers look.

use super::font::text_width;
use super::layout::{Quad, Spot};
use crate::op::MarkerShape;

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

    pub fn quad(&self) -> Quad {
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
            MarkerShape::Circle => Outline::Circle((x, y), r),
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

/// The outline of a marker.
#[derive(Clone, Debug, PartialEq)]
pub enum Outline {
    /// Centre and radius.
    Circle(Spot, f64),
    /// Corners in order.
    Polygon(Vec<Spot>),
}

//! How lines, texts and markers look.

use super::font::text_width;
use super::layout::{Quad, Spot};
use crate::op::MarkerShape;

/// Width of every figure in pixels: a column of a journal, 85 mm.
pub const WIDTH: f64 = 400.0;
/// Ink of text and axes.
pub const INK: &str = "#222222";
/// Ink of what matters less.
pub const FAINT: &str = "#5c5c5c";
/// Background.
pub const PAPER: &str = "#ffffff";
/// A grid line with a number, and one without.
pub const GRID: [&str; 2] = ["#dddddd", "#f1f1f1"];
/// A line that only guides the eye.
pub const GUIDE: &str = "#8c8c8c";
/// What no reader may overlook.
pub const ALARM: &str = "#cc0000";
/// The ground of a region where another resource binds.
pub const REGION: &str = "#eef3f8";
/// The colour of what the machine promises: its data sheet, or its clocks.
pub const SPEC: &str = "#8a3ea8";

/// Colours that stay apart for colour-blind readers, in the order of
/// [`crate::op::Hue`], then a grey. They begin at the hues of Okabe and Ito (2008) and were
/// moved until each has a contrast of 3 to its ground (WCAG 2.2, 1.4.11) and the closest two
/// are as far apart as they can be for readers with and without each kind of colour blindness.
pub const PALETTE: [&str; 7] =
    ["#12408d", "#cb2a0d", "#007963", "#aa61b5", "#db7b09", "#248dff", "#555555"];

/// Shares from low to high, as the cells of a heatmap have them, with the ink on each. They
/// grow darker all the way, so that grey print keeps their order.
pub const SHADES: [(&str, &str); 5] = [
    ("#f2f4e8", ON_PALE),
    ("#c9dfcb", ON_PALE),
    ("#86bdbb", ON_PALE),
    ("#32728c", ON_DEEP),
    ("#174f7f", ON_DEEP),
];
/// Ink on pale shades and on deep ones, which a dark page leaves as they are.
const ON_PALE: &str = "#1a1a1a";
const ON_DEEP: &str = "#fafafa";

/// A colour of figures: as files have it, its name in the page's style sheet, and what it
/// becomes in the page on a dark ground.
#[derive(Clone, Copy, Debug)]
pub struct ThemeColour {
    /// On paper: `#rrggbb`.
    pub light: &'static str,
    /// Name of the CSS variable, without dashes in front.
    pub name: &'static str,
    /// On a dark ground.
    pub dark: &'static str,
}

const fn colour(
    light: &'static str,
    name: &'static str,
    dark: &'static str,
) -> ThemeColour {
    ThemeColour { light, name, dark }
}

/// All colours that figures are drawn in.
pub const THEME: [ThemeColour; 23] = [
    colour(INK, "ink", "#e8e8e8"),
    colour(FAINT, "faint", "#a8adb3"),
    colour(PAPER, "paper", "#14171a"),
    colour(GRID[0], "grid", "#3a3f45"),
    colour(GRID[1], "fine-grid", "#22272c"),
    colour(GUIDE, "guide", "#7d848c"),
    colour(ALARM, "alarm", "#ff6b6b"),
    colour(REGION, "region", "#1c2630"),
    colour(SPEC, "spec", "#cf9be6"),
    colour(PALETTE[0], "blue", "#577aeb"),
    colour(PALETTE[1], "vermilion", "#ef6630"),
    colour(PALETTE[2], "green", "#56d4a2"),
    colour(PALETTE[3], "purple", "#b8a2f6"),
    colour(PALETTE[4], "orange", "#ffdc33"),
    colour(PALETTE[5], "sky", "#c1f0ff"),
    colour(PALETTE[6], "grey", "#b0b0b0"),
    colour(SHADES[0].0, "shade-0", "#f2f4e8"),
    colour(SHADES[1].0, "shade-1", "#c9dfcb"),
    colour(SHADES[2].0, "shade-2", "#86bdbb"),
    colour(SHADES[3].0, "shade-3", "#32728c"),
    colour(SHADES[4].0, "shade-4", "#174f7f"),
    colour(ON_PALE, "on-pale", ON_PALE),
    colour(ON_DEEP, "on-deep", ON_DEEP),
];

/// A colour as an attribute of the page's figures: the variable that its style sheet sets
/// for light and for dark grounds.
pub fn variable(colour: &str) -> String {
    let named = THEME.iter().find(|of| of.light == colour);
    named.map_or_else(|| colour.to_owned(), |of| format!("var(--{})", of.name))
}

/// The declarations of all variables, light or dark.
pub fn variables(is_dark: bool) -> String {
    let value = |of: &ThemeColour| if is_dark { of.dark } else { of.light };
    THEME.iter().map(|of| format!("--{}:{};", of.name, value(of))).collect()
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

    /// As attributes of an SVG element, with its colour spelled by `paint`.
    pub fn attributes(&self, paint: fn(&str) -> String) -> String {
        let Stroke { colour, width, dash } = self;
        let colour = paint(colour);
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
    pub const RADIUS: f64 = 3.0;

    /// Colours of its inside and its rim, and the rim's width in pixels. A pale
    /// rim keeps neighbours apart; hollow markers need their colour.
    pub const fn style(&self) -> (&'static str, &'static str, f64) {
        match self.filled {
            true => (self.colour, PAPER, 0.5),
            false => (PAPER, self.colour, 1.1),
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

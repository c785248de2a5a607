//! A finished drawing, and how it becomes SVG. The report keeps texts as texts,
//! to be searched and read aloud; files have them as outlines, so that they look
//! the same wherever they are opened, whatever fonts are there.

use std::fmt::Write;

use super::font::{Segment, outlines, text_width};
use super::layout::{Rect, Spot};
use super::style::{Anchor, Marker, Outline, PAPER, Stroke, escape, px};

/// A text as it is drawn.
#[derive(Clone, Debug)]
pub struct Label {
    /// What it says.
    pub content: String,
    /// On its baseline.
    pub at: Spot,
    /// Font size in pixels.
    pub size: f64,
    /// Relative to `at`.
    pub anchor: Anchor,
    /// CSS colour.
    pub colour: &'static str,
    /// Degrees clockwise, and around what; none for a level text.
    pub turn: Option<(f64, Spot)>,
    /// What is under it.
    pub ground: LabelGround,
}

/// How a text keeps apart from what it is drawn on.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum LabelGround {
    /// A rim in the paper's colour keeps grid lines out of the letters.
    Rim,
    /// It is so pale that what is below shows; the opacity.
    Shows(f64),
}

/// Width of the rim around letters, half of it outside.
pub const RIM: f64 = 3.0;

impl Label {
    /// Its letters as outlines, before it is turned.
    pub fn outlines(&self) -> Vec<Segment> {
        let width = text_width(&self.content, self.size);
        let back = match self.anchor {
            Anchor::Start => 0.0,
            Anchor::Middle => width / 2.0,
            Anchor::End => width,
        };
        outlines(&self.content, self.size, (self.at.0 - back, self.at.1))
    }

    /// Attributes that a text and its outlines share, after the fill.
    fn attributes(&self) -> String {
        let turn = self.turn.map(|(degrees, (x, y))| {
            format!(" transform=\"rotate({} {} {})\"", px(degrees), px(x), px(y))
        });
        let turn = turn.unwrap_or_default();
        match self.ground {
            LabelGround::Rim => format!(
                "{turn} stroke=\"{PAPER}\" stroke-width=\"{}\" stroke-linejoin=\"round\" \
                 paint-order=\"stroke\"",
                px(RIM)
            ),
            LabelGround::Shows(opacity) => format!(" fill-opacity=\"{opacity}\"{turn}"),
        }
    }

    fn text_element(&self) -> String {
        let anchor = match self.anchor {
            Anchor::Start => "",
            Anchor::Middle => " text-anchor=\"middle\"",
            Anchor::End => " text-anchor=\"end\"",
        };
        format!(
            "<text x=\"{}\" y=\"{}\" font-size=\"{}\" fill=\"{}\"{anchor}{}>{}</text>",
            px(self.at.0),
            px(self.at.1),
            px(self.size),
            self.colour,
            self.attributes(),
            escape(&self.content)
        )
    }

    fn path_element(&self) -> String {
        let mut path = String::new();
        let point = |(x, y): Spot| format!("{} {}", px(x), px(y));
        for segment in self.outlines() {
            let _ = match segment {
                Segment::Move(to) => write!(path, "M{}", point(to)),
                Segment::Line(to) => write!(path, "L{}", point(to)),
                Segment::Quad(by, to) => write!(path, "Q{} {}", point(by), point(to)),
                Segment::Cubic(a, b, to) => {
                    write!(path, "C{} {} {}", point(a), point(b), point(to))
                }
                Segment::Close => write!(path, "Z"),
            };
        }
        format!("<path d=\"{path}\" fill=\"{}\"{}/>", self.colour, self.attributes())
    }
}

/// Something drawn.
#[derive(Clone, Debug)]
pub enum Item {
    /// A straight line.
    Line((Spot, Spot), Stroke),
    /// A line through spots.
    Polyline(Vec<Spot>, Stroke),
    /// A rectangle's outline.
    Outline(Rect, Stroke),
    /// A text.
    Label(Label),
    /// A marker, with what more is said about its point.
    Marker(Spot, Marker, Option<String>),
}

impl Item {
    fn element(&self, letters: Letters) -> String {
        match self {
            Item::Line((from, to), stroke) => format!(
                "<path d=\"M{} {}L{} {}\" {}/>",
                px(from.0),
                px(from.1),
                px(to.0),
                px(to.1),
                stroke.attributes()
            ),
            Item::Polyline(spots, stroke) => {
                let path: Vec<String> =
                    spots.iter().map(|(x, y)| format!("{} {}", px(*x), px(*y))).collect();
                format!(
                    "<path d=\"M{}\" fill=\"none\" stroke-linejoin=\"round\" {}/>",
                    path.join("L"),
                    stroke.attributes()
                )
            }
            Item::Outline(r, stroke) => format!(
                "<rect x=\"{}\" y=\"{}\" width=\"{}\" height=\"{}\" fill=\"none\" {}/>",
                px(r.x0),
                px(r.y0),
                px(r.x1 - r.x0),
                px(r.y1 - r.y0),
                stroke.attributes()
            ),
            Item::Label(label) => match letters {
                Letters::Text => label.text_element(),
                Letters::Outlines => label.path_element(),
            },
            Item::Marker(at, marker, None) => marker_element(*at, marker),
            Item::Marker(at, marker, Some(tip)) => {
                let tip = escape(tip);
                let marker = marker_element(*at, marker);
                format!("<g data-tip=\"{tip}\"><title>{tip}</title>{marker}</g>")
            }
        }
    }
}

fn marker_element(at: Spot, marker: &Marker) -> String {
    let (fill, rim, width) = marker.style();
    let style = format!("fill=\"{fill}\" stroke=\"{rim}\" stroke-width=\"{width}\"");
    match marker.outline(at) {
        Outline::Circle((x, y), r) => {
            format!("<circle cx=\"{}\" cy=\"{}\" r=\"{r}\" {style}/>", px(x), px(y))
        }
        Outline::Polygon(corners) => {
            let corners: Vec<String> =
                corners.iter().map(|(x, y)| format!("{},{}", px(*x), px(*y))).collect();
            format!("<polygon points=\"{}\" {style}/>", corners.join(" "))
        }
    }
}

/// How texts are written into an SVG.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Letters {
    /// As texts, in whatever font the reader has.
    Text,
    /// As outlines of the embedded font.
    Outlines,
}

/// A finished drawing.
#[derive(Clone, Debug)]
pub struct Picture {
    /// Width and height in pixels.
    pub size: (f64, f64),
    /// What it shows, for those who do not see it.
    pub title: String,
    /// In order; later ones cover earlier ones.
    pub items: Vec<Item>,
}

impl Picture {
    /// As SVG.
    pub fn svg(&self, letters: Letters) -> String {
        let (width, height) = (px(self.size.0), px(self.size.1));
        let mut svg = format!(
            "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{width}\" \
             height=\"{height}\" viewBox=\"0 0 {width} {height}\" role=\"img\" \
             aria-label=\"{}\" font-family=\"DejaVu Sans, Verdana, sans-serif\">\n\
             <rect width=\"{width}\" height=\"{height}\" fill=\"{PAPER}\"/>\n",
            escape(&self.title)
        );
        for item in &self.items {
            svg.push_str(&item.element(letters));
            svg.push('\n');
        }
        svg.push_str("</svg>\n");
        svg
    }
}

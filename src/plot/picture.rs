//! A finished drawing, and how it becomes SVG. The report keeps texts as texts,
//! to be searched and read aloud; files have them as outlines, so that they look
//! the same wherever they are opened, whatever fonts are there.

use std::fmt::Write;

use super::font::{Segment, outlines, text_width};
use super::layout::{Rect, Spot};
use super::style::{Anchor, Marker, Outline, PAPER, Stroke, WIDTH, escape, px, variable};

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
    /// Its ground is one colour.
    Bare,
    /// It is so pale that what is below shows; the opacity.
    Shows(f64),
}

/// Width of the rim around letters, half of it outside.
pub const RIM: f64 = 2.4;

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

    /// Attributes that a text and its outlines share.
    fn attributes(&self, letters: Letters) -> String {
        let fill = letters.paint()(self.colour);
        let turn = self.turn.map(|(degrees, (x, y))| {
            format!(" transform=\"rotate({} {} {})\"", px(degrees), px(x), px(y))
        });
        let turn = turn.unwrap_or_default();
        match self.ground {
            LabelGround::Rim => format!(
                " fill=\"{fill}\"{turn} stroke=\"{}\" stroke-width=\"{}\" \
                 stroke-linejoin=\"round\" paint-order=\"stroke\"",
                letters.paint()(PAPER),
                px(RIM)
            ),
            LabelGround::Bare => format!(" fill=\"{fill}\"{turn}"),
            LabelGround::Shows(opacity) => {
                format!(" fill=\"{fill}\" fill-opacity=\"{opacity}\"{turn}")
            }
        }
    }

    fn text_element(&self, letters: Letters) -> String {
        let anchor = match self.anchor {
            Anchor::Start => "",
            Anchor::Middle => " text-anchor=\"middle\"",
            Anchor::End => " text-anchor=\"end\"",
        };
        format!(
            "<text x=\"{}\" y=\"{}\" font-size=\"{}\"{anchor}{}>{}</text>",
            px(self.at.0),
            px(self.at.1),
            px(self.size),
            self.attributes(letters),
            escape(&self.content)
        )
    }

    fn path_element(&self, letters: Letters) -> String {
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
        format!("<path d=\"{path}\"{}/>", self.attributes(letters))
    }
}

/// What is said of a mark where a reader points at it.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Tip {
    /// In lines.
    pub text: String,
    /// The measured point that it stands for.
    pub point_id: Option<String>,
}

impl From<String> for Tip {
    fn from(text: String) -> Self {
        Tip { text, point_id: None }
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
    /// A rectangle of one colour, with what more is said about it.
    Area(Rect, &'static str, Option<Tip>),
    /// A text.
    Label(Label),
    /// A marker, with what more is said about its point.
    Marker(Spot, Marker, Option<Tip>),
    /// What follows is of this series, until the next of these.
    Series(Option<String>),
}

impl Item {
    fn element(&self, letters: Letters) -> String {
        let paint = letters.paint();
        match self {
            Item::Line((from, to), stroke) => format!(
                "<path d=\"M{} {}L{} {}\" {}/>",
                px(from.0),
                px(from.1),
                px(to.0),
                px(to.1),
                stroke.attributes(paint)
            ),
            Item::Polyline(spots, stroke) => {
                let path: Vec<String> =
                    spots.iter().map(|(x, y)| format!("{} {}", px(*x), px(*y))).collect();
                format!(
                    "<path d=\"M{}\" fill=\"none\" stroke-linejoin=\"round\" {}/>",
                    path.join("L"),
                    stroke.attributes(paint)
                )
            }
            Item::Outline(r, stroke) => {
                format!("<rect {} fill=\"none\" {}/>", box_of(r), stroke.attributes(paint))
            }
            Item::Area(r, colour, tip) => {
                let area = format!("<rect {} fill=\"{}\"/>", box_of(r), paint(colour));
                told(area, tip.as_ref(), letters)
            }
            Item::Label(label) => match letters {
                Letters::Text => label.text_element(letters),
                Letters::Outlines => label.path_element(letters),
            },
            Item::Marker(at, marker, tip) => {
                told(marker_element(*at, marker, paint), tip.as_ref(), letters)
            }
            Item::Series(_) => String::new(),
        }
    }
}

fn box_of(r: &Rect) -> String {
    let (width, height) = (px(r.x1 - r.x0), px(r.y1 - r.y0));
    format!("x=\"{}\" y=\"{}\" width=\"{width}\" height=\"{height}\"", px(r.x0), px(r.y0))
}

/// An element with what is said of it. In the page the script shows it, to the pointer and to
/// the keyboard; in a file the viewer does.
fn told(element: String, tip: Option<&Tip>, letters: Letters) -> String {
    let Some(tip) = tip else { return element };
    let text = escape(&tip.text);
    match letters {
        Letters::Outlines => format!("<g><title>{text}</title>{element}</g>"),
        Letters::Text => {
            let point = tip
                .point_id
                .as_ref()
                .map_or(String::new(), |id| format!(" data-point=\"{}\"", escape(id)));
            format!(
                "<g class=\"mark\" role=\"img\" aria-label=\"{text}\"{point}>{element}</g>"
            )
        }
    }
}

fn marker_element(at: Spot, marker: &Marker, paint: fn(&str) -> String) -> String {
    let (fill, rim, width) = marker.style();
    let (fill, rim) = (paint(fill), paint(rim));
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

/// What an SVG is for, which decides how its texts and colours are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Letters {
    /// The page: texts as texts, in whatever font the reader has, and colours that its style
    /// sheet sets.
    Text,
    /// A file: outlines of the embedded font, and colours of paper.
    Outlines,
}

impl Letters {
    fn paint(self) -> fn(&str) -> String {
        match self {
            Letters::Text => variable,
            Letters::Outlines => str::to_owned,
        }
    }
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

/// Millimetres of a pixel in print: [`WIDTH`] is a column of a journal.
pub const MM_PER_PX: f64 = 85.0 / WIDTH;

impl Picture {
    /// As SVG.
    pub fn svg(&self, letters: Letters) -> String {
        let (width, height) = (px(self.size.0), px(self.size.1));
        let (size, role) = match letters {
            Letters::Text => (String::new(), "group"),
            Letters::Outlines => {
                let mm = |length: f64| px(length * MM_PER_PX);
                let (width, height) = (mm(self.size.0), mm(self.size.1));
                (format!(" width=\"{width}mm\" height=\"{height}mm\""), "img")
            }
        };
        let mut svg = format!(
            "<svg xmlns=\"http://www.w3.org/2000/svg\"{size} viewBox=\"0 0 {width} {height}\" \
             role=\"{role}\" aria-label=\"{}\" \
             font-family=\"DejaVu Sans, Verdana, sans-serif\">\n\
             <rect width=\"{width}\" height=\"{height}\" fill=\"{}\"/>\n",
            escape(&self.title),
            letters.paint()(PAPER)
        );
        let mut is_open = false;
        for item in &self.items {
            if let Item::Series(name) = item {
                if std::mem::take(&mut is_open) {
                    svg.push_str("</g>\n");
                }
                if let Some(name) = name {
                    let _ = writeln!(svg, "<g data-series=\"{}\">", escape(name));
                    is_open = true;
                }
                continue;
            }
            svg.push_str(&item.element(letters));
            svg.push('\n');
        }
        svg.push_str(if is_open { "</g>\n</svg>\n" } else { "</svg>\n" });
        svg
    }
}

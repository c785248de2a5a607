//! A drawing as PDF, one page of its size in print: vectors, with letters as outlines, so that
//! no journal asks for a font.

use std::io::Write;

use flate2::Compression;
use flate2::write::ZlibEncoder;
use pdf_writer::types::LineJoinStyle;
use pdf_writer::{Content, Filter, Finish, Name, Pdf, Rect as Box, Ref, TextStr};

use super::font::Segment;
use super::layout::{Rect, Spot};
use super::picture::{Item, Label, LabelGround, MM_PER_PX, Picture, RIM};
use super::svg::{Marker, Outline, PAPER, Stroke};

/// Points of print (1/72 inch) of a pixel.
const POINTS_PER_PX: f64 = MM_PER_PX * 72.0 / 25.4;

/// Objects of the file, by their numbers.
const CATALOG: Ref = Ref::new(1);
const PAGES: Ref = Ref::new(2);
const PAGE: Ref = Ref::new(3);
const CONTENT: Ref = Ref::new(4);
const INFO: Ref = Ref::new(5);
/// The state in which a watermark is drawn, and its name on the page.
const PALE: Ref = Ref::new(6);
const PALE_NAME: Name = Name(b"Pale");

/// The drawing as the bytes of a file. The same drawing gives the same bytes.
pub fn pdf(picture: &Picture) -> Vec<u8> {
    let (width, height) = picture.size;
    let points = |px: f64| (px * POINTS_PER_PX) as f32;
    let mut pdf = Pdf::new();
    pdf.catalog(CATALOG).pages(PAGES);
    pdf.pages(PAGES).kids([PAGE]).count(1);
    let mut page = pdf.page(PAGE);
    page.media_box(Box::new(0.0, 0.0, points(width), points(height)));
    page.parent(PAGES).contents(CONTENT);
    page.resources().ext_g_states().pair(PALE_NAME, PALE);
    page.finish();
    let opacity = picture.items.iter().find_map(|item| match item {
        Item::Label(Label { ground: LabelGround::Shows(opacity), .. }) => {
            Some(*opacity as f32)
        }
        _ => None,
    });
    pdf.ext_graphics(PALE).non_stroking_alpha(opacity.unwrap_or(1.0));
    let content = content(picture);
    let mut encoder = ZlibEncoder::new(Vec::new(), Compression::default());
    // Writing to memory never fails.
    let _ = encoder.write_all(&content);
    let compressed = encoder.finish().unwrap_or_default();
    pdf.stream(CONTENT, &compressed).filter(Filter::FlateDecode);
    pdf.document_info(INFO).title(TextStr(&picture.title)).creator(TextStr("ridgepoint"));
    pdf.finish()
}

/// The operators that draw it, before they are compressed.
fn content(picture: &Picture) -> Vec<u8> {
    let mut painter = Painter { content: Content::new() };
    let (scale, height) = (POINTS_PER_PX as f32, picture.size.1);
    // A PDF's y runs upward.
    let top = (height * POINTS_PER_PX) as f32;
    painter.content.transform([scale, 0.0, 0.0, -scale, 0.0, top]);
    painter.area(&Rect::new(0.0, 0.0, picture.size.0, height), PAPER);
    for item in &picture.items {
        painter.item(item);
    }
    painter.content.finish().to_vec()
}

/// Red, green and blue of a colour of the form `#rrggbb`, from 0 to 1.
fn rgb(css: &str) -> [f32; 3] {
    let digits =
        css.strip_prefix('#').and_then(|digits| u32::from_str_radix(digits, 16).ok());
    let [_, r, g, b] = digits.unwrap_or_default().to_be_bytes();
    [r, g, b].map(|part| f32::from(part) / 255.0)
}

/// A coordinate with two decimals, as SVG has it.
fn short(value: f64) -> f32 {
    ((value * 100.0).round() / 100.0) as f32
}

struct Painter {
    content: Content,
}

impl Painter {
    fn item(&mut self, item: &Item) {
        match item {
            Item::Line((from, to), stroke) => self.line(&[*from, *to], false, stroke),
            Item::Polyline(spots, stroke) => self.line(spots, false, stroke),
            Item::Outline(r, stroke) => {
                let corners = [(r.x0, r.y0), (r.x1, r.y0), (r.x1, r.y1), (r.x0, r.y1)];
                self.line(&corners, true, stroke);
            }
            Item::Area(r, colour, _) => self.area(r, colour),
            Item::Label(label) => self.label(label),
            Item::Marker(at, marker, _) => self.marker(*at, marker),
            Item::Series(_) => {}
        }
    }

    fn fill(&mut self, colour: &str) {
        let [r, g, b] = rgb(colour);
        self.content.set_fill_rgb(r, g, b);
    }

    fn stroke(&mut self, colour: &str, width: f64) {
        let [r, g, b] = rgb(colour);
        self.content.set_stroke_rgb(r, g, b);
        self.content.set_line_width(short(width));
    }

    fn area(&mut self, r: &Rect, colour: &str) {
        self.fill(colour);
        let (width, height) = (short(r.x1 - r.x0), short(r.y1 - r.y0));
        self.content.rect(short(r.x0), short(r.y0), width, height).fill_nonzero();
    }

    /// A path through spots; nothing without two of them.
    fn path(&mut self, spots: &[Spot], is_closed: bool) -> bool {
        let Some((first, rest)) = spots.split_first().filter(|(_, rest)| !rest.is_empty())
        else {
            return false;
        };
        self.content.move_to(short(first.0), short(first.1));
        for (x, y) in rest {
            self.content.line_to(short(*x), short(*y));
        }
        if is_closed {
            self.content.close_path();
        }
        true
    }

    fn line(&mut self, spots: &[Spot], is_closed: bool, stroke: &Stroke) {
        let lengths =
            stroke.dash.split_whitespace().filter_map(|length| length.parse().ok());
        let lengths: Vec<f32> = lengths.collect();
        self.stroke(stroke.colour, stroke.width);
        self.content.set_dash_pattern(lengths, 0.0);
        if self.path(spots, is_closed) {
            self.content.stroke();
        }
    }

    fn label(&mut self, label: &Label) {
        self.content.save_state();
        if let Some((degrees, (x, y))) = label.turn {
            let (sin, cos) = degrees.to_radians().sin_cos();
            let (dx, dy) = (x - x * cos + y * sin, y - x * sin - y * cos);
            let turn = [cos, sin, -sin, cos, dx, dy].map(|part| part as f32);
            self.content.transform(turn);
        }
        let outlines = label.outlines();
        match label.ground {
            LabelGround::Rim => {
                self.stroke(PAPER, RIM);
                self.content.set_dash_pattern([], 0.0);
                self.content.set_line_join(LineJoinStyle::RoundJoin);
                self.letters(&outlines);
                self.content.stroke();
            }
            LabelGround::Shows(_) => {
                self.content.set_parameters(PALE_NAME);
            }
            LabelGround::Bare => {}
        }
        self.fill(label.colour);
        self.letters(&outlines);
        self.content.fill_nonzero();
        self.content.restore_state();
    }

    fn letters(&mut self, segments: &[Segment]) {
        let mut at = (0.0, 0.0);
        let f = |(x, y): Spot| (short(x), short(y));
        for segment in segments {
            match *segment {
                Segment::Move(to) => {
                    self.content.move_to(f(to).0, f(to).1);
                    at = to;
                }
                Segment::Line(to) => {
                    self.content.line_to(f(to).0, f(to).1);
                    at = to;
                }
                Segment::Quad(by, to) => {
                    // A parabola as a cubic: both controls two thirds of the way.
                    let towards = |from: Spot| {
                        (
                            from.0 + (by.0 - from.0) * 2.0 / 3.0,
                            from.1 + (by.1 - from.1) * 2.0 / 3.0,
                        )
                    };
                    self.cubic(towards(at), towards(to), to);
                    at = to;
                }
                Segment::Cubic(a, b, to) => {
                    self.cubic(a, b, to);
                    at = to;
                }
                Segment::Close => {
                    self.content.close_path();
                }
            }
        }
    }

    fn cubic(&mut self, a: Spot, b: Spot, to: Spot) {
        let [x1, y1, x2, y2, x3, y3] = [a.0, a.1, b.0, b.1, to.0, to.1].map(short);
        self.content.cubic_to(x1, y1, x2, y2, x3, y3);
    }

    fn marker(&mut self, at: Spot, marker: &Marker) {
        let (fill, rim, width) = marker.style();
        self.fill(fill);
        self.stroke(rim, width);
        self.content.set_dash_pattern([], 0.0);
        match marker.outline(at) {
            Outline::Circle(centre, r) => self.circle(centre, r),
            Outline::Polygon(corners) => {
                self.path(&corners, true);
            }
        }
        self.content.fill_nonzero_and_stroke();
    }

    /// A circle of four cubics, which leave it by at most 0.03% of its radius.
    fn circle(&mut self, (x, y): Spot, r: f64) {
        const REACH: f64 = 0.552_284_75;
        let quarter = [(1.0, 0.0), (0.0, 1.0), (-1.0, 0.0), (0.0, -1.0), (1.0, 0.0)];
        let at = |(dx, dy): Spot| (x + r * dx, y + r * dy);
        self.content.move_to(short(x + r), short(y));
        for pair in quarter.windows(2) {
            let (from, to) = (pair[0], pair[1]);
            let control = |of: Spot, other: Spot| {
                at((of.0 + REACH * other.0, of.1 + REACH * other.1))
            };
            self.cubic(control(from, to), control(to, from), at(to));
        }
        self.content.close_path();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::op::MarkerShape;
    use crate::plot::picture::Tip;
    use crate::plot::svg::{Canvas, Text};

    fn drawn(draw: impl FnOnce(&mut Canvas)) -> Picture {
        let mut canvas = Canvas::new(400.0);
        draw(&mut canvas);
        Canvas::finish(&mut canvas, 100.0, "a test")
    }

    fn operators(picture: &Picture) -> String {
        String::from_utf8(content(picture)).unwrap()
    }

    #[test]
    fn a_page_is_a_column_wide() {
        let bytes = pdf(&drawn(|_| {}));
        assert!(bytes.starts_with(b"%PDF-1."));
        let text = String::from_utf8_lossy(&bytes);
        // 85 mm are 240.94 points, and a quarter of that 60.24.
        assert!(text.contains("/MediaBox [0 0 240.94"), "{text}");
        assert!(text.contains(" 60.23"), "{text}");
        assert!(text.contains("/Title (a test)") && text.contains("/FlateDecode"));
    }

    #[test]
    fn every_kind_of_item_is_drawn() {
        let red = Stroke::dashed("#ff0000", 2.0);
        let line = operators(&drawn(|canvas| canvas.line(((1.0, 2.0), (3.0, 4.5)), red)));
        for part in ["1 0 0 RG", "2 w", "[7 4] 0 d", "1 2 m", "3 4.5 l", "S"] {
            assert!(line.contains(part), "{part} in {line}");
        }
        for (shape, filled, part) in [
            (MarkerShape::Square, true, "0 0 1 rg"),
            (MarkerShape::Square, false, "0 0 1 RG"),
            (MarkerShape::Circle, true, "13 10 m"),
        ] {
            let marker = Marker { shape, colour: "#0000ff", filled };
            let text = operators(&drawn(|c| c.mark((10.0, 10.0), marker, Tip::default())));
            assert!(text.contains(part) && text.contains("\nB"), "{part} in {text}");
        }
        let area = Rect::new(1.0, 1.0, 5.0, 3.0);
        let text = operators(&drawn(|canvas| canvas.area(area, "#00ff00", None)));
        assert!(text.contains("0 1 0 rg\n1 1 4 2 re\nf"), "{text}");
        let text =
            operators(&drawn(|canvas| canvas.text(Text::new("I", (5.0, 50.0), 10.0))));
        // The rim around the letter, then the letter.
        assert!(text.find("\nS").unwrap() < text.rfind("\nf").unwrap(), "{text}");
    }

    #[test]
    fn a_watermark_shows_what_is_below() {
        let area = Rect::new(0.0, 0.0, 400.0, 100.0);
        let picture = drawn(|canvas| canvas.watermark("SIMULATED", area));
        assert!(operators(&picture).contains("/Pale gs"));
        assert!(String::from_utf8_lossy(&pdf(&picture)).contains("/ca 0.17"));
    }
}

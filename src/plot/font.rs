//! The font of all figures: how wide a text is, and its letters as outlines.

use std::sync::LazyLock;

use ttf_parser::{Face, GlyphId, OutlineBuilder};

/// A place in pixels.
pub type Spot = (f64, f64);

/// The one font of all figures. System fonts would make the bytes of a PNG
/// depend on the machine.
const FONT: &[u8] = include_bytes!("../../assets/DejaVuSans.ttf");

static FACE: LazyLock<Face<'static>> =
    LazyLock::new(|| Face::parse(FONT, 0).expect("the embedded font is valid"));

/// Glyphs of a text, each with where it begins and ends, in units of the font.
/// What the font lacks becomes its empty box.
fn glyphs(text: &str) -> impl Iterator<Item = (GlyphId, u32, u32)> {
    text.chars().scan(0, |end, c| {
        let glyph = FACE.glyph_index(c).unwrap_or_default();
        let start = *end;
        *end += u32::from(FACE.glyph_hor_advance(glyph).unwrap_or_default());
        Some((glyph, start, *end))
    })
}

/// Width of a text in pixels: the sum of its advances.
pub fn text_width(text: &str, size: f64) -> f64 {
    let units = glyphs(text).last().map_or(0, |(_, _, end)| end);
    f64::from(units) / f64::from(FACE.units_per_em()) * size
}

/// A part of an outline.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Segment {
    /// A contour begins here.
    Move(Spot),
    /// Straight to here.
    Line(Spot),
    /// A parabola by a control point.
    Quad(Spot, Spot),
    /// A cubic by two control points.
    Cubic(Spot, Spot, Spot),
    /// Back to where the contour began.
    Close,
}

/// The outlines of a text of `size` pixels that begins at `start`, on its
/// baseline. Letters that overlap are filled by the rule of nonzero winding.
pub fn outlines(text: &str, size: f64, start: Spot) -> Vec<Segment> {
    let scale = size / f64::from(FACE.units_per_em());
    let mut outlines = Outlines { segments: Vec::new(), scale, start };
    for (glyph, from, _) in glyphs(text) {
        outlines.start.0 = start.0 + scale * f64::from(from);
        // A blank has none.
        FACE.outline_glyph(glyph, &mut outlines);
    }
    outlines.segments
}

/// Collects outlines; the font's y runs upward.
struct Outlines {
    segments: Vec<Segment>,
    scale: f64,
    start: Spot,
}

impl Outlines {
    fn spot(&self, x: f32, y: f32) -> Spot {
        let (x, y) = (f64::from(x) * self.scale, f64::from(y) * self.scale);
        (self.start.0 + x, self.start.1 - y)
    }
}

impl OutlineBuilder for Outlines {
    fn move_to(&mut self, x: f32, y: f32) {
        self.segments.push(Segment::Move(self.spot(x, y)));
    }

    fn line_to(&mut self, x: f32, y: f32) {
        self.segments.push(Segment::Line(self.spot(x, y)));
    }

    fn quad_to(&mut self, x1: f32, y1: f32, x: f32, y: f32) {
        self.segments.push(Segment::Quad(self.spot(x1, y1), self.spot(x, y)));
    }

    fn curve_to(&mut self, x1: f32, y1: f32, x2: f32, y2: f32, x: f32, y: f32) {
        let controls = (self.spot(x1, y1), self.spot(x2, y2));
        self.segments.push(Segment::Cubic(controls.0, controls.1, self.spot(x, y)));
    }

    fn close(&mut self) {
        self.segments.push(Segment::Close);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn width_grows_with_the_text_and_the_size() {
        let narrow = text_width("iii", 10.0);
        let wide = text_width("MMM", 10.0);
        assert!(narrow > 5.0 && wide > 2.0 * narrow);
        assert!((text_width("MMM", 20.0) - 2.0 * wide).abs() < 1e-9);
        assert_eq!(text_width("", 10.0), 0.0);
    }

    /// Left, top, right and bottom edge.
    fn extent(segments: &[Segment]) -> [f64; 4] {
        let mut extent = [f64::MAX, f64::MAX, f64::MIN, f64::MIN];
        for segment in segments {
            let (Segment::Move(to)
            | Segment::Line(to)
            | Segment::Quad(_, to)
            | Segment::Cubic(_, _, to)) = *segment
            else {
                continue;
            };
            extent[0] = extent[0].min(to.0);
            extent[1] = extent[1].min(to.1);
            extent[2] = extent[2].max(to.0);
            extent[3] = extent[3].max(to.1);
        }
        extent
    }

    #[test]
    fn letters_stand_on_the_baseline_one_after_the_other() {
        let [left, top, right, bottom] = extent(&outlines("H", 100.0, (50.0, 200.0)));
        // DejaVu's capitals are 0.729 of the size tall.
        assert!((top - 127.1).abs() < 0.1 && (bottom - 200.0).abs() < 1e-9);
        assert!(left > 50.0 && right < 50.0 + text_width("H", 100.0));
        let both = outlines("HH", 100.0, (50.0, 200.0));
        let second = &both[both.len() / 2..];
        let moved = extent(second)[0] - left;
        assert!((moved - text_width("H", 100.0)).abs() < 1e-9);
        assert!(extent(&outlines("g", 100.0, (0.0, 0.0)))[3] > 10.0, "a descender");
        assert_eq!(outlines(" ", 100.0, (0.0, 0.0)), []);
        assert!(!outlines("\u{10ffff}", 100.0, (0.0, 0.0)).is_empty(), "a box");
    }
}

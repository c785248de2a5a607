//! A drawing as PNG, painted straight from its parts.

use anyhow::{Context, Result, anyhow};
use tiny_skia::{
    Color, FillRule, LineJoin, Paint, Path, PathBuilder, Pixmap, StrokeDash, Transform,
};

use super::font::Segment;
use super::layout::{Rect, Spot};
use super::picture::{Item, Label, LabelGround, Picture, RIM};
use super::svg::{Marker, Outline, PAPER, Stroke};

/// Pixels of a PNG for each pixel of the drawing: 478 to an inch of print.
pub const SCALE: f32 = 4.0;

/// Paints a drawing at [`SCALE`].
///
/// # Errors
/// A drawing that is empty or too large to paint.
pub fn png(picture: &Picture) -> Result<Vec<u8>> {
    let pixels = |length: f64| (length * f64::from(SCALE)).ceil() as u32;
    let (width, height) = (pixels(picture.size.0), pixels(picture.size.1));
    let pixmap = Pixmap::new(width, height)
        .ok_or_else(|| anyhow!("an image of {width} x {height} pixels cannot be drawn"))?;
    let mut painter = Painter { pixmap };
    painter.pixmap.fill(colour(PAPER, 1.0));
    for item in &picture.items {
        painter.item(item);
    }
    encode(&painter.pixmap).context("cannot encode the PNG")
}

/// The PNG of an opaque pixmap. Compressing takes most of the time of a report: the first
/// level takes a quarter of the usual one's, and makes a third more bytes.
fn encode(pixmap: &Pixmap) -> Result<Vec<u8>> {
    let opaque = |rgba: &[u8]| [rgba[0], rgba[1], rgba[2]];
    let pixels: Vec<u8> = pixmap.data().chunks_exact(4).flat_map(opaque).collect();
    let mut bytes = Vec::new();
    let mut encoder = png::Encoder::new(&mut bytes, pixmap.width(), pixmap.height());
    encoder.set_color(png::ColorType::Rgb);
    encoder.set_depth(png::BitDepth::Eight);
    encoder.set_deflate_compression(png::DeflateCompression::Level(1));
    encoder.set_filter(png::Filter::Adaptive);
    let mut writer = encoder.write_header()?;
    writer.write_image_data(&pixels)?;
    writer.finish()?;
    Ok(bytes)
}

/// A colour of the form `#rrggbb`.
fn colour(css: &str, opacity: f64) -> Color {
    let rgb = css.strip_prefix('#').and_then(|digits| u32::from_str_radix(digits, 16).ok());
    let [_, r, g, b] = rgb.expect("colours of figures are #rrggbb").to_be_bytes();
    Color::from_rgba8(r, g, b, (255.0 * opacity).round() as u8)
}

fn paint(css: &str, opacity: f64) -> Paint<'static> {
    let mut paint = Paint { anti_alias: true, ..Paint::default() };
    paint.set_color(colour(css, opacity));
    paint
}

/// A path through spots; none if nothing would be seen of it.
fn path(spots: &[Spot], closed: bool) -> Option<Path> {
    let mut path = PathBuilder::new();
    let (first, rest) = spots.split_first()?;
    path.move_to(first.0 as f32, first.1 as f32);
    rest.iter().for_each(|(x, y)| path.line_to(*x as f32, *y as f32));
    if closed {
        path.close();
    }
    path.finish()
}

fn letters(segments: &[Segment]) -> Option<Path> {
    let mut path = PathBuilder::new();
    let f = |(x, y): Spot| (x as f32, y as f32);
    for segment in segments {
        match *segment {
            Segment::Move(to) => path.move_to(f(to).0, f(to).1),
            Segment::Line(to) => path.line_to(f(to).0, f(to).1),
            Segment::Quad(by, to) => path.quad_to(f(by).0, f(by).1, f(to).0, f(to).1),
            Segment::Cubic(a, b, to) => {
                path.cubic_to(f(a).0, f(a).1, f(b).0, f(b).1, f(to).0, f(to).1);
            }
            Segment::Close => path.close(),
        }
    }
    path.finish()
}

struct Painter {
    pixmap: Pixmap,
}

impl Painter {
    fn item(&mut self, item: &Item) {
        match item {
            Item::Line((from, to), stroke) => {
                self.line(path(&[*from, *to], false), stroke, LineJoin::Miter);
            }
            Item::Polyline(spots, stroke) => {
                self.line(path(spots, false), stroke, LineJoin::Round);
            }
            Item::Outline(r, stroke) => {
                let corners = [(r.x0, r.y0), (r.x1, r.y0), (r.x1, r.y1), (r.x0, r.y1)];
                self.line(path(&corners, true), stroke, LineJoin::Miter);
            }
            Item::Area(r, colour, _) => self.area(r, colour),
            Item::Label(label) => self.label(label),
            Item::Marker(at, marker, _) => self.marker(*at, marker),
            Item::Series(_) => {}
        }
    }

    fn area(&mut self, r: &Rect, colour: &str) {
        let corners = [(r.x0, r.y0), (r.x1, r.y0), (r.x1, r.y1), (r.x0, r.y1)];
        let Some(path) = path(&corners, true) else { return };
        let scale = Transform::from_scale(SCALE, SCALE);
        self.pixmap.fill_path(&path, &paint(colour, 1.0), FillRule::Winding, scale, None);
    }

    fn line(&mut self, path: Option<Path>, stroke: &Stroke, line_join: LineJoin) {
        let Some(path) = path else { return };
        let lengths = stroke.dash.split_whitespace().filter_map(|n| n.parse().ok());
        let stroked = tiny_skia::Stroke {
            width: stroke.width as f32,
            line_join,
            dash: StrokeDash::new(lengths.collect(), 0.0),
            ..tiny_skia::Stroke::default()
        };
        let scale = Transform::from_scale(SCALE, SCALE);
        self.pixmap.stroke_path(&path, &paint(stroke.colour, 1.0), &stroked, scale, None);
    }

    fn label(&mut self, label: &Label) {
        let Some(letters) = letters(&label.outlines()) else { return };
        let scale = Transform::from_scale(SCALE, SCALE);
        let place = label.turn.map_or(scale, |(degrees, (x, y))| {
            let turn = Transform::from_rotate_at(degrees as f32, x as f32, y as f32);
            scale.pre_concat(turn)
        });
        let opacity = match label.ground {
            LabelGround::Shows(opacity) => opacity,
            LabelGround::Bare => 1.0,
            LabelGround::Rim => {
                let rim = tiny_skia::Stroke {
                    width: RIM as f32,
                    line_join: LineJoin::Round,
                    ..tiny_skia::Stroke::default()
                };
                self.pixmap.stroke_path(&letters, &paint(PAPER, 1.0), &rim, place, None);
                1.0
            }
        };
        let ink = paint(label.colour, opacity);
        self.pixmap.fill_path(&letters, &ink, FillRule::Winding, place, None);
    }

    fn marker(&mut self, at: Spot, marker: &Marker) {
        let path = match marker.outline(at) {
            Outline::Circle((x, y), r) => {
                PathBuilder::from_circle(x as f32, y as f32, r as f32)
            }
            Outline::Polygon(corners) => path(&corners, true),
        };
        let Some(path) = path else { return };
        let (fill, rim, width) = marker.style();
        let scale = Transform::from_scale(SCALE, SCALE);
        self.pixmap.fill_path(&path, &paint(fill, 1.0), FillRule::Winding, scale, None);
        let stroke =
            tiny_skia::Stroke { width: width as f32, ..tiny_skia::Stroke::default() };
        self.pixmap.stroke_path(&path, &paint(rim, 1.0), &stroke, scale, None);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::op::MarkerShape;
    use crate::plot::picture::Tip;
    use crate::plot::svg::{Anchor, Canvas, Text};

    fn painted(draw: impl FnOnce(&mut Canvas)) -> Pixmap {
        let mut canvas = Canvas::new(60.0);
        draw(&mut canvas);
        let png = png(&canvas.finish(40.0, "a test")).unwrap();
        Pixmap::decode_png(&png).unwrap()
    }

    /// Red, green and blue at a place of the drawing.
    fn at(image: &Pixmap, (x, y): Spot) -> [u8; 3] {
        let pixel = |at: f64| (at * f64::from(SCALE)) as u32;
        let pixel = image.pixel(pixel(x), pixel(y)).unwrap();
        [pixel.red(), pixel.green(), pixel.blue()]
    }

    const WHITE: [u8; 3] = [255; 3];

    #[test]
    fn every_kind_of_item_is_painted_where_it_stands() {
        let black = Stroke::solid("#000000", 4.0);
        let image = painted(|canvas| canvas.line(((10.0, 20.0), (50.0, 20.0)), black));
        assert_eq!((image.width(), image.height()), (240, 160));
        assert_eq!([at(&image, (30.0, 20.0)), at(&image, (30.0, 25.0))], [[0; 3], WHITE]);
        let dashed = Stroke { dash: "10 10", ..black };
        let image = painted(|canvas| canvas.line(((10.0, 20.0), (50.0, 20.0)), dashed));
        assert_eq!([at(&image, (15.0, 20.0)), at(&image, (25.0, 20.0))], [[0; 3], WHITE]);
        let corner = [(10.0, 10.0), (30.0, 10.0), (30.0, 30.0)];
        let image = painted(|canvas| canvas.polyline(&corner, black));
        assert_eq!([at(&image, (30.0, 25.0)), at(&image, (25.0, 15.0))], [[0; 3], WHITE]);
        let area = Rect::new(10.0, 10.0, 50.0, 30.0);
        let image = painted(|canvas| canvas.outline(area, black));
        assert_eq!([at(&image, (10.0, 20.0)), at(&image, (30.0, 20.0))], [[0; 3], WHITE]);
    }

    #[test]
    fn markers_are_filled_or_hollow() {
        let shapes = [
            MarkerShape::Circle,
            MarkerShape::Square,
            MarkerShape::Diamond,
            MarkerShape::Triangle,
            MarkerShape::Wedge,
        ];
        for shape in shapes {
            for (filled, inside) in [(true, [255, 0, 0]), (false, WHITE)] {
                let marker = Marker { shape, colour: "#ff0000", filled };
                let image =
                    painted(|canvas| canvas.mark((30.0, 20.0), marker, Tip::default()));
                assert_eq!(at(&image, (30.0, 20.0)), inside, "{shape:?}");
                assert_eq!(at(&image, (30.0, 30.0)), WHITE, "{shape:?}");
            }
        }
    }

    #[test]
    fn texts_are_anchored_turned_and_rimmed() {
        let black = Stroke::solid("#000000", 40.0);
        // The letter's stem, twelfths of its size from where it begins.
        let text = |anchor, degrees| Text {
            anchor,
            degrees,
            colour: "#0000ff",
            ..Text::new("I", (30.0, 30.0), 24.0)
        };
        let blue = [0, 0, 255];
        let image = painted(|canvas| canvas.text(text(Anchor::Start, 0.0)));
        assert_eq!([at(&image, (33.5, 20.0)), at(&image, (30.0, 20.0))], [blue, WHITE]);
        let image = painted(|canvas| canvas.text(text(Anchor::Middle, 0.0)));
        assert_eq!([at(&image, (30.0, 20.0)), at(&image, (34.0, 20.0))], [blue, WHITE]);
        let image = painted(|canvas| canvas.text(text(Anchor::End, 0.0)));
        assert_eq!([at(&image, (26.5, 20.0)), at(&image, (30.0, 20.0))], [blue, WHITE]);
        let image = painted(|canvas| canvas.text(text(Anchor::Start, -90.0)));
        assert_eq!([at(&image, (20.0, 26.5)), at(&image, (20.0, 30.0))], [blue, WHITE]);
        let image = painted(|canvas| {
            canvas.line(((0.0, 20.0), (60.0, 20.0)), black);
            canvas.text(text(Anchor::Middle, 0.0));
        });
        assert_eq!([at(&image, (30.0, 20.0)), at(&image, (10.0, 20.0))], [blue, [0; 3]]);
        assert_eq!(at(&image, (31.8, 20.0)), WHITE, "the rim");
    }

    #[test]
    fn a_drawing_without_size_is_an_error() {
        let error = png(&Canvas::new(0.0).finish(10.0, "")).unwrap_err().to_string();
        assert!(error.contains("0 x 40 pixels"), "{error}");
    }
}

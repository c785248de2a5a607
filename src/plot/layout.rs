//! Geometry of figures: boxes, what they cover, and where a label finds room.
//! Coordinates are pixels, y downward.

pub use super::font::Spot;
use super::font::text_width;

/// Height of a capital letter as a share of the font size.
const CAP: f64 = 0.73;
/// Depth of descenders as a share of the font size.
const DEPTH: f64 = 0.24;
/// Room between a line and the label along it.
const GAP: f64 = 4.5;

/// An upright rectangle.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Rect {
    /// Left edge.
    pub x0: f64,
    /// Upper edge.
    pub y0: f64,
    /// Right edge.
    pub x1: f64,
    /// Lower edge.
    pub y1: f64,
}

impl Rect {
    /// A rectangle from its edges.
    pub const fn new(x0: f64, y0: f64, x1: f64, y1: f64) -> Self {
        Rect { x0, y0, x1, y1 }
    }

    /// Whether a spot lies inside or on the edge.
    pub fn contains(&self, (x, y): Spot) -> bool {
        self.x0 <= x && x <= self.x1 && self.y0 <= y && y <= self.y1
    }

    /// Middle.
    pub fn centre(&self) -> Spot {
        ((self.x0 + self.x1) / 2.0, (self.y0 + self.y1) / 2.0)
    }

    /// The part of a segment that lies inside (Liang and Barsky 1984).
    pub fn clip(&self, (from, to): (Spot, Spot)) -> Option<(Spot, Spot)> {
        let (dx, dy) = (to.0 - from.0, to.1 - from.1);
        let (mut enter, mut leave) = (0.0f64, 1.0f64);
        let edges = [
            (-dx, from.0 - self.x0),
            (dx, self.x1 - from.0),
            (-dy, from.1 - self.y0),
            (dy, self.y1 - from.1),
        ];
        for (speed, room) in edges {
            if speed == 0.0 {
                if room < 0.0 {
                    return None;
                }
            } else if speed < 0.0 {
                enter = enter.max(room / speed);
            } else {
                leave = leave.min(room / speed);
            }
        }
        let at = |t: f64| (from.0 + t * dx, from.1 + t * dy);
        (enter < leave).then(|| (at(enter), at(leave)))
    }
}

/// A rectangle at any angle, by its corners in order.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Quad(pub [Spot; 4]);

impl From<Rect> for Quad {
    fn from(r: Rect) -> Self {
        Quad([(r.x0, r.y0), (r.x1, r.y0), (r.x1, r.y1), (r.x0, r.y1)])
    }
}

impl Quad {
    /// What a text covers whose baseline starts at `at` and runs at `degrees`
    /// clockwise.
    pub fn of_text(at: Spot, degrees: f64, width: f64, size: f64) -> Self {
        let (sin, cos) = degrees.to_radians().sin_cos();
        let turned = |x: f64, y: f64| (at.0 + x * cos - y * sin, at.1 + x * sin + y * cos);
        let (top, bottom) = (-CAP * size, DEPTH * size);
        Quad([
            turned(0.0, top),
            turned(width, top),
            turned(width, bottom),
            turned(0.0, bottom),
        ])
    }

    /// What a line covers.
    pub fn of_line((from, to): (Spot, Spot), width: f64) -> Self {
        let (dx, dy) = (to.0 - from.0, to.1 - from.1);
        let length = dx.hypot(dy).max(1e-9);
        let (nx, ny) = (-dy / length * width / 2.0, dx / length * width / 2.0);
        Quad([
            (from.0 + nx, from.1 + ny),
            (to.0 + nx, to.1 + ny),
            (to.0 - nx, to.1 - ny),
            (from.0 - nx, from.1 - ny),
        ])
    }

    /// A square around a spot.
    pub fn around((x, y): Spot, radius: f64) -> Self {
        Rect::new(x - radius, y - radius, x + radius, y + radius).into()
    }

    /// Whether the two share more than an edge: no axis separates them.
    pub fn overlaps(&self, other: &Quad) -> bool {
        !self.separates(other) && !other.separates(self)
    }

    fn separates(&self, other: &Quad) -> bool {
        (0..2).any(|i| {
            let (a, b) = (self.0[i], self.0[i + 1]);
            let (nx, ny) = (b.1 - a.1, a.0 - b.0);
            let extent = |quad: &Quad| {
                let along = quad.0.map(|(x, y)| x * nx + y * ny);
                (
                    along.iter().copied().fold(f64::MAX, f64::min),
                    along.iter().copied().fold(f64::MIN, f64::max),
                )
            };
            let (mine, theirs) = (extent(self), extent(other));
            let slack = 1e-6 * nx.hypot(ny);
            mine.1 <= theirs.0 + slack || theirs.1 <= mine.0 + slack
        })
    }
}

/// A label that found room.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct LabelPlace {
    /// Start of the baseline.
    pub at: Spot,
    /// Clockwise angle of the baseline.
    pub degrees: f64,
}

/// What labels must keep clear of.
#[derive(Clone, Debug)]
pub struct Room {
    bounds: Rect,
    taken: Vec<Quad>,
}

impl Room {
    /// An empty room.
    pub fn new(bounds: Rect) -> Self {
        Room { bounds, taken: Vec::new() }
    }

    /// Keeps labels clear of `quad`.
    pub fn take(&mut self, quad: Quad) {
        self.taken.push(quad);
    }

    fn is_free(&self, quad: &Quad) -> bool {
        quad.0.iter().all(|&spot| self.bounds.contains(spot))
            && !self.taken.iter().any(|other| other.overlaps(quad))
    }

    /// Puts a label along a line, as near as possible to the line's end, above
    /// it where there is room and else below, and takes that room. `None`
    /// where there is none.
    pub fn place_along(
        &mut self,
        (from, to): (Spot, Spot),
        text: &str,
        size: f64,
    ) -> Option<LabelPlace> {
        let width = text_width(text, size);
        let (dx, dy) = (to.0 - from.0, to.1 - from.1);
        let length = dx.hypot(dy);
        let (ux, uy) = (dx / length, dy / length);
        // Text reads from left to right, or upward along a vertical line.
        let reads_on = ux > 1e-9 || (ux.abs() <= 1e-9 && uy < 0.0);
        let turn = if reads_on { 1.0 } else { -1.0 };
        let (tx, ty) = (ux * turn, uy * turn);
        let degrees = ty.atan2(tx).to_degrees();
        // Up from the baseline is (ty, -tx).
        for lift in [GAP, -(GAP + CAP * size)] {
            let mut end = length - GAP;
            while end - width >= GAP {
                let start = if reads_on { end - width } else { end };
                let at = (from.0 + ux * start + ty * lift, from.1 + uy * start - tx * lift);
                let quad = Quad::of_text(at, degrees, width, size);
                if self.is_free(&quad) {
                    self.take(quad);
                    return Some(LabelPlace { at, degrees });
                }
                end -= 4.0;
            }
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const FRAME: Rect = Rect::new(0.0, 0.0, 400.0, 300.0);

    #[test]
    fn quads_overlap_only_when_no_axis_separates_them() {
        let square = Quad::around((0.0, 0.0), 10.0);
        assert!(square.overlaps(&Quad::around((15.0, 0.0), 6.0)));
        assert!(!square.overlaps(&Quad::around((20.0, 0.0), 10.0)));
        // The bounding boxes overlap, the shapes do not.
        let diagonal = Quad::of_line(((0.0, 25.0), (25.0, 0.0)), 2.0);
        assert!(!square.overlaps(&diagonal));
        assert!(square.overlaps(&Quad::of_line(((-20.0, 0.0), (20.0, 0.0)), 1.0)));
    }

    #[test]
    fn segments_are_clipped_to_the_frame() {
        let inside = FRAME.clip(((-100.0, 150.0), (200.0, 150.0)));
        assert_eq!(inside, Some(((0.0, 150.0), (200.0, 150.0))));
        assert_eq!(FRAME.clip(((0.0, -5.0), (400.0, -5.0))), None);
    }

    #[test]
    fn labels_give_way_to_each_other_and_to_the_frame() {
        let mut room = Room::new(FRAME);
        let line = ((0.0, 150.0), (400.0, 150.0));
        let first = room.place_along(line, "first label", 12.0).unwrap();
        let second = room.place_along(line, "second label", 12.0).unwrap();
        assert_eq!(first.degrees, 0.0);
        assert!(second.at.0 + text_width("second label", 12.0) <= first.at.0);
        let at_the_top = ((0.0, 2.0), (400.0, 2.0));
        assert!(room.place_along(at_the_top, "below", 12.0).unwrap().at.1 > 2.0);
        let short = ((0.0, 100.0), (20.0, 100.0));
        assert_eq!(room.place_along(short, "far too long", 12.0), None);
    }

    #[test]
    fn labels_read_upward_along_a_vertical_line_and_never_upside_down() {
        let mut room = Room::new(FRAME);
        let up = room.place_along(((200.0, 290.0), (200.0, 10.0)), "up", 12.0).unwrap();
        let down = room.place_along(((100.0, 10.0), (100.0, 290.0)), "up", 12.0).unwrap();
        assert_eq!((up.degrees, down.degrees), (-90.0, -90.0));
        let slope = room.place_along(((390.0, 10.0), (10.0, 290.0)), "up", 12.0).unwrap();
        assert!(slope.degrees.abs() < 90.0);
    }
}

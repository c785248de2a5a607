//! A canvas that remembers where texts and markers went, so that tests can ask
//! whether they collide.

pub use super::font::text_width;
use super::layout::{Quad, Rect, Spot};
use super::picture::{Item, Label, LabelGround, Picture, Tip};
pub use super::style::{
    ALARM, Anchor, FAINT, GRID, GUIDE, INK, Marker, Outline, PALETTE, PAPER, REGION,
    SHADES, SPEC, Stroke, Text, wrap,
};

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
        self.label(&text, turn, LabelGround::Rim);
    }

    fn label(&mut self, text: &Text<'_>, turn: Option<(f64, Spot)>, ground: LabelGround) {
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
    pub fn mark(&mut self, at: Spot, marker: Marker, tip: impl Into<Tip>) {
        self.marks.push(at);
        self.items.push(Item::Marker(at, marker, Some(tip.into())));
    }

    /// Fills a rectangle; `tip` says more about it.
    pub fn area(&mut self, r: Rect, colour: &'static str, tip: Option<Tip>) {
        self.items.push(Item::Area(r, colour, tip));
    }

    /// Draws what readers of the page can hide together, by the name of what it is of.
    pub fn series(&mut self, name: &str, draw: impl FnOnce(&mut Canvas)) {
        self.items.push(Item::Series(Some(name.to_owned())));
        draw(self);
        self.items.push(Item::Series(None));
    }

    /// Draws a text on an area of one colour.
    pub fn text_on_area(&mut self, text: Text<'_>) {
        self.texts.push((text.content.to_owned(), text.quad()));
        self.label(&text, None, LabelGround::Bare);
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
            colour: ALARM,
            ..Text::new(word, (x, y), size)
        };
        self.label(&text, Some((-20.0, (x, y))), LabelGround::Shows(0.17));
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
    use crate::plot::style::{escape, px};

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

//! Figures and the report, from records alone. A figure is a pure function of
//! a campaign; the same records always give the same bytes.

mod axis;
mod bandwidth;
#[cfg(test)]
mod fixture;
mod frame;
mod intensity;
mod layout;
pub mod predicted;
mod report;
mod roofline;
mod svg;
#[cfg(test)]
mod tests;

use std::path::{Path, PathBuf};
use std::sync::{Arc, LazyLock};

use anyhow::{Context, Result, anyhow};
use resvg::tiny_skia::{Pixmap, Transform};
use resvg::usvg::{self, fontdb};

use crate::analysis::Campaign;
use crate::record::write_atomically;
use crate::section::Section;
pub use frame::Figure;

/// Pixels of a PNG for each pixel of its SVG.
const PNG_SCALE: f32 = 2.0;

/// A figure's name with the figure, or with the reason why there is none.
pub type Drawn = (&'static str, Result<Figure, String>);

/// All figures, in the order of the report.
pub fn figures(campaign: &Campaign) -> Vec<Drawn> {
    vec![
        ("roofline", roofline::draw(campaign)),
        ("oi", intensity::draw(campaign)),
        ("bandwidth", bandwidth::draw(campaign)),
    ]
}

/// Writes every figure as SVG (text as outlines) and PNG, and `report.html` with all of them and
/// `verdict`. Returns what was written. All of it is derived from the records:
/// files of an earlier call are replaced.
///
/// # Errors
/// A file that cannot be written.
pub fn write_all(
    campaign: &Campaign,
    folder: &Path,
    verdict: &[Section],
) -> Result<Vec<PathBuf>> {
    let figures = figures(campaign);
    let mut written = Vec::new();
    for figure in figures.iter().filter_map(|(_, drawn)| drawn.as_ref().ok()) {
        let path = folder.join(format!("{}.svg", figure.name));
        write_atomically(&path, outlined(&figure.svg)?.as_bytes())?;
        written.push(path);
        let path = folder.join(format!("{}.png", figure.name));
        write_atomically(&path, &rasterise(&figure.svg)?)?;
        written.push(path);
    }
    let path = folder.join("report.html");
    write_atomically(&path, report::html(campaign, &figures, verdict).as_bytes())?;
    written.push(path);
    Ok(written)
}

static FONTS: LazyLock<Arc<fontdb::Database>> = LazyLock::new(|| {
    let mut fonts = fontdb::Database::new();
    fonts.load_font_data(svg::FONT.to_vec());
    Arc::new(fonts)
});

fn parse(svg: &str) -> Result<usvg::Tree> {
    let options = usvg::Options { fontdb: FONTS.clone(), ..usvg::Options::default() };
    usvg::Tree::from_str(svg, &options).context("the figure is not valid SVG")
}

/// The SVG with its text as outlines of the embedded font: it looks the same
/// wherever it is opened, whatever fonts are there. The report keeps the text,
/// to be searched and read aloud.
fn outlined(svg: &str) -> Result<String> {
    let options = usvg::WriteOptions {
        preserve_text: false,
        coordinates_precision: 2,
        transforms_precision: 5,
        ..usvg::WriteOptions::default()
    };
    Ok(parse(svg)?.to_string(&options))
}

/// Draws an SVG as PNG, at twice its size, with the embedded font.
///
/// # Errors
/// An image that is not valid SVG, or empty.
pub fn rasterise(svg: &str) -> Result<Vec<u8>> {
    let tree = parse(svg)?;
    let pixels = |length: f32| (length * PNG_SCALE).ceil() as u32;
    let (width, height) = (pixels(tree.size().width()), pixels(tree.size().height()));
    let mut pixmap = Pixmap::new(width, height)
        .ok_or_else(|| anyhow!("an image of {width} x {height} pixels cannot be drawn"))?;
    let scale = Transform::from_scale(PNG_SCALE, PNG_SCALE);
    resvg::render(&tree, scale, &mut pixmap.as_mut());
    pixmap.encode_png().context("cannot encode the PNG")
}

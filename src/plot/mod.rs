//! Figures and the report, from records alone. A figure is a pure function of
//! a campaign; the same records always give the same bytes.

mod axis;
mod bandwidth;
#[cfg(test)]
mod fixture;
mod frame;
mod intensity;
mod layout;
mod report;
mod roofline;
mod svg;
#[cfg(test)]
mod tests;

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::{Arc, LazyLock};

use anyhow::{Context, Result, anyhow};
use resvg::tiny_skia::{Pixmap, Transform};
use resvg::usvg::{self, fontdb};

use crate::analysis::Campaign;
pub use frame::Figure;

/// Pixels of a PNG for each pixel of its SVG.
const PNG_SCALE: f32 = 2.0;

/// A part of the report that the figures do not make: prose and a table.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Section {
    /// What it is about.
    pub heading: String,
    /// Paragraphs before the table.
    pub paragraphs: Vec<String>,
    /// Column heads; no table when empty.
    pub columns: Vec<String>,
    /// Rows of the table, one cell for each column.
    pub rows: Vec<Vec<String>>,
}

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

/// Writes every figure as SVG and PNG, and `report.html` with all of them and
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
        replace(&path, figure.svg.as_bytes())?;
        written.push(path);
        let path = folder.join(format!("{}.png", figure.name));
        replace(&path, &rasterise(&figure.svg)?)?;
        written.push(path);
    }
    let path = folder.join("report.html");
    replace(&path, report::html(campaign, &figures, verdict).as_bytes())?;
    written.push(path);
    Ok(written)
}

/// Writes a file so that a reader sees the old or the new one, never half.
fn replace(path: &Path, bytes: &[u8]) -> Result<()> {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let beside = path.with_file_name(format!(".{name}.tmp"));
    fs::write(&beside, bytes)
        .and_then(|()| fs::rename(&beside, path))
        .with_context(|| format!("cannot write {}", path.display()))
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

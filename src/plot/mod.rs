//! Figures and the report, from records alone. A figure is a pure function of
//! a campaign; the same records always give the same bytes.

mod axis;
mod bandwidth;
mod comparison;
#[cfg(test)]
mod fixture;
mod font;
mod frame;
mod intensity;
mod layout;
mod peers;
mod picture;
pub mod predicted;
mod raster;
mod report;
mod ridge;
mod roofline;
mod style;
mod svg;
#[cfg(test)]
mod tests;

use std::path::{Path, PathBuf};

use anyhow::Result;

use crate::analysis::Campaign;
use crate::record::write_atomically;
use crate::section::Section;
pub use comparison::write as write_comparison;
pub use frame::{Drawn, Figure};
use picture::Letters;

/// All figures, in the order of the report.
pub fn figures(campaign: &Campaign) -> Vec<Drawn> {
    vec![
        ("roofline", roofline::draw(campaign)),
        ("oi", intensity::draw(campaign)),
        ("bandwidth", bandwidth::draw(campaign)),
        ("ridge", ridge::draw(campaign)),
        ("peers", peers::draw(campaign)),
    ]
}

/// Writes every figure as SVG, with text as outlines, and as PNG, and
/// `report.html` with all of them and `verdict`. Returns what was written. All of it is derived from the records:
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
        write_atomically(&path, figure.picture.svg(Letters::Outlines).as_bytes())?;
        written.push(path);
        let path = folder.join(format!("{}.png", figure.name));
        write_atomically(&path, &raster::png(&figure.picture)?)?;
        written.push(path);
    }
    let path = folder.join("report.html");
    write_atomically(&path, report::html(campaign, &figures, verdict).as_bytes())?;
    written.push(path);
    Ok(written)
}

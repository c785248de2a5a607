//! Figures, from records alone. A figure is a pure function of
//! a campaign; the same records always give the same bytes.

mod axis;
mod bandwidth;
mod comparison;
#[cfg(test)]
pub(crate) mod fixture;
mod font;
mod frame;
mod intensity;
mod layout;
mod peers;
mod picture;
pub mod predicted;
mod raster;
mod ridge;
mod roofline;
mod style;
mod svg;
mod table;
#[cfg(test)]
mod tests;

use std::path::{Path, PathBuf};

use anyhow::Result;

use crate::analysis::Campaign;
use crate::record::write_atomically;
pub use comparison::write as write_comparison;
pub use frame::{Drawn, Figure, date, ridges};
use crate::section::Section;
use picture::Letters;
pub use style::{escape, variables};

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

/// Writes every figure as SVG, with text as outlines, as PNG, and its values as CSV. Returns
/// what was written.
///
/// # Errors
/// A file that cannot be written.
pub fn write_all(figures: &[Drawn], folder: &Path) -> Result<Vec<PathBuf>> {
    let mut written = Vec::new();
    for figure in figures.iter().filter_map(|(_, drawn)| drawn.as_ref().ok()) {
        let files: [(&str, Vec<u8>); 3] = [
            ("svg", figure.picture.svg(Letters::Outlines).into_bytes()),
            ("png", raster::png(&figure.picture)?),
            ("csv", figure.csv.clone().into_bytes()),
        ];
        for (ending, bytes) in files {
            let path = folder.join(format!("{}.{ending}", figure.name));
            write_atomically(&path, &bytes)?;
            written.push(path);
        }
    }
    Ok(written)
}

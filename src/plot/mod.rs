//! Figures, from records alone. A figure is a pure function of
//! a campaign; the same records always give the same bytes.

mod axis;
mod bandwidth;
mod capacity;
mod comparison;
mod context;
#[cfg(test)]
pub(crate) mod fixture;
mod font;
mod frame;
mod heatmap;
mod intensity;
mod layout;
mod line;
mod pairs;
mod pdf;
mod peers;
mod picture;
mod power;
pub mod predicted;
mod raster;
mod ridge;
mod roofline;
mod style;
mod svg;
mod sweeps;
mod table;
#[cfg(test)]
mod tests;

use std::path::{Path, PathBuf};

use anyhow::Result;
use rayon::prelude::*;

use crate::analysis::Campaign;
use crate::record::write_atomically;
pub use comparison::write as write_comparison;
pub use frame::{Drawn, Figure, date, ridges};
use picture::{Letters, Picture};
pub use style::{escape, variables};

/// All figures, in the order of the report.
pub fn figures(campaign: &Campaign) -> Vec<Drawn> {
    vec![
        ("roofline", roofline::draw(campaign)),
        ("oi", intensity::draw(campaign)),
        ("bandwidth", bandwidth::draw(campaign)),
        ("context", context::draw(campaign)),
        ("heatmap", heatmap::draw(campaign)),
        ("pairs", pairs::draw(campaign)),
        ("line", line::draw(campaign)),
        ("capacity", capacity::draw(campaign)),
        ("ridge", ridge::draw(campaign)),
        ("peers", peers::draw(campaign)),
        ("power", power::draw(campaign)),
    ]
}

/// Writes every figure as SVG and PDF, with text as outlines, as PNG, and its values as CSV.
/// Returns what was written.
///
/// # Errors
/// A file that cannot be written.
pub fn write_all(figures: &[Drawn], folder: &Path) -> Result<Vec<PathBuf>> {
    let drawn: Vec<_> =
        figures.iter().filter_map(|(_, drawn)| drawn.as_ref().ok()).collect();
    // Most of the time goes into compressing pixels.
    let written: Result<Vec<_>> = drawn
        .into_par_iter()
        .map(|figure| write_forms(folder, figure.name, &figure.picture, &figure.csv))
        .collect();
    Ok(written?.concat())
}

/// Writes a drawing in all forms, and its values.
fn write_forms(
    folder: &Path,
    name: &str,
    picture: &Picture,
    csv: &str,
) -> Result<Vec<PathBuf>> {
    let files: [(&str, Vec<u8>); 4] = [
        ("svg", picture.svg(Letters::Outlines).into_bytes()),
        ("png", raster::png(picture)?),
        ("pdf", pdf::pdf(picture)),
        ("csv", csv.as_bytes().to_vec()),
    ];
    let mut written = Vec::new();
    for (ending, bytes) in files {
        let path = folder.join(format!("{name}.{ending}"));
        write_atomically(&path, &bytes)?;
        written.push(path);
    }
    Ok(written)
}

//! What people read of a campaign: `report.html`, one page that needs nothing but itself, and
//! `headline.tex`, its numbers for a paper. Both say what the verdict and the figures say.

mod answer;
mod html;
mod latex;
mod points;
mod table;
#[cfg(test)]
mod tests;

use std::path::{Path, PathBuf};

use anyhow::Result;

use crate::analysis::Campaign;
use crate::plot;
use crate::record::write_atomically;
use crate::verdict::Verdict;

/// Writes every figure, `report.html` and `headline.tex`. Returns what was written. All of it
/// is derived from the records: files of an earlier call are replaced.
///
/// # Errors
/// A file that cannot be written.
pub fn write_all(
    campaign: &Campaign,
    judged: &Verdict,
    folder: &Path,
) -> Result<Vec<PathBuf>> {
    let figures = plot::figures(campaign);
    let (written, page) = rayon::join(
        || plot::write_all(&figures, folder),
        || html::page(campaign, &figures, judged),
    );
    let mut written = written?;
    let files =
        [("headline.tex", latex::headline(campaign, judged)), ("report.html", page)];
    for (name, text) in files {
        let path = folder.join(name);
        write_atomically(&path, text.as_bytes())?;
        written.push(path);
    }
    Ok(written)
}

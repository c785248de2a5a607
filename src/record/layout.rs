//! Files that something else has saved in between, such as a spreadsheet: with other line
//! ends, a byte order mark, quotes or another order of columns. What they say is the same, so
//! a campaign can go on with them once they are as this program writes them.

use std::path::Path;

use anyhow::{Context, Result};
use csv::StringRecord;

use super::{complete_lines, csv_line};
use crate::files::write_atomically;

/// How a file was found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Layout {
    /// As this program writes it; it was left alone.
    AsWritten,
    /// In another way; it was replaced.
    Restored,
}

/// Brings a file with these columns into the form in which this program writes it. One
/// without anything gets its header.
///
/// # Errors
/// A file with other columns, with those that are missing or unknown; a line that does not
/// parse; a file that cannot be read or replaced.
pub(super) fn restore(path: &Path, columns: Vec<String>) -> Result<Layout> {
    let text = complete_lines(path)?;
    let expected = csv_line(&columns)?;
    let is_as_written = text.as_bytes().starts_with(&expected) && !text.contains('\r');
    if is_as_written {
        return Ok(Layout::AsWritten);
    }
    let mut restored = expected;
    if !text.is_empty() {
        let mut reader = csv::Reader::from_reader(text.as_bytes());
        let does_not_parse = || format!("{} does not parse", path.display());
        let header = reader.headers().with_context(does_not_parse)?.clone();
        let order = order_of(&header, &columns)
            .map_err(|why| anyhow::anyhow!("{}: {why}", path.display()))?;
        for record in reader.records() {
            let record = record.with_context(does_not_parse)?;
            let cells: Vec<&str> = order.iter().map(|&at| &record[at]).collect();
            restored.extend(csv_line(cells)?);
        }
    }
    write_atomically(path, &restored)?;
    Ok(Layout::Restored)
}

/// Where a file has each of the columns.
fn order_of(header: &StringRecord, columns: &[String]) -> Result<Vec<usize>, String> {
    for (separator, name) in [(';', "semicolons"), ('\t', "tabs")] {
        if header.len() == 1 && header[0].contains(separator) {
            return Err(format!(
                "its columns are separated by {name}, not by commas; save it with commas"
            ));
        }
    }
    let place = |name: &String| header.iter().position(|column| column == name);
    let missing: Vec<&str> =
        columns.iter().filter(|name| place(name).is_none()).map(String::as_str).collect();
    let is_known = |name: &&str| columns.iter().any(|column| column == name);
    let unknown: Vec<&str> = header.iter().filter(|name| !is_known(name)).collect();
    if missing.is_empty() && unknown.is_empty() && header.len() == columns.len() {
        return Ok(columns.iter().filter_map(place).collect());
    }
    let listed = |what: &str, names: &[&str]| match names {
        [] => String::new(),
        names => format!("; {what} {}", names.join(", ")),
    };
    let twice = if header.len() > columns.len() && unknown.is_empty() {
        "; some are there twice"
    } else {
        ""
    };
    Err(format!(
        "it has other columns than this version writes{}{}{twice}; finish it with the version \
         that began it, or start a new campaign",
        listed("missing are", &missing),
        listed("unknown are", &unknown)
    ))
}

//! Files of several campaigns put into one, line by line: what is not needed is not parsed,
//! so that many large campaigns are merged in seconds.

use std::fs::{self, File};
use std::io::{BufWriter, Read, Write};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use flate2::read::MultiGzDecoder;

use super::recorder::{later_values, results_header, shape_values};
use super::{Row, Run, csv_line};
use crate::files;

/// One file of a merged campaign while it is written.
#[derive(Debug)]
pub struct MergedFile {
    path: PathBuf,
    file: BufWriter<File>,
    /// Columns, as the first campaign has them.
    header: Vec<String>,
}

impl MergedFile {
    /// Begins a file in a folder, with the columns of the first campaign's. `None` where that
    /// has no such file.
    ///
    /// # Errors
    /// A file that cannot be read or written.
    pub fn begin(folder: &Path, name: &str, first: &Path) -> Result<Option<Self>> {
        let Some(text) = complete(&first.join(name))? else { return Ok(None) };
        let header = header_of(&text, &first.join(name))?;
        if header.is_empty() {
            return Ok(None);
        }
        let path = folder.join(name);
        let file = File::create(&path).with_context(|| files::cannot_write(&path))?;
        let mut merged = MergedFile { path, file: BufWriter::new(file), header };
        let line = csv_line(&merged.header)?;
        merged.write(&line)?;
        Ok(Some(merged))
    }

    /// Appends the complete lines of a campaign's file, in this file's order of columns, and
    /// shows each to `look`. A torn last line is left out.
    ///
    /// # Errors
    /// Other columns, with their names; a line that does not parse; a file that cannot be
    /// read or written.
    pub fn append(&mut self, from: &Path, mut look: impl FnMut(&[u8])) -> Result<()> {
        let Some(text) = complete(from)? else { return Ok(()) };
        let expected = csv_line(&self.header)?;
        // Files that another program has saved are brought into this form first.
        let is_as_written = text.starts_with(&expected) && !text.contains(&b'\r');
        let body = match is_as_written {
            true => text,
            false => self.reordered(&text, from)?,
        };
        let body = &body[if is_as_written { expected.len() } else { 0 }..];
        body.split_inclusive(|byte| *byte == b'\n').for_each(&mut look);
        self.write(body)
    }

    /// Appends a row of `results.csv`.
    ///
    /// # Errors
    /// A file that cannot be written.
    pub fn append_row(&mut self, row: &Row) -> Result<()> {
        let line = csv_line((row, shape_values(&row.problem), later_values(row)))?;
        let mut text = csv_line(results_header())?;
        text.extend(line);
        let path = self.path.clone();
        let columns = self.header.clone();
        let cells = reordered(&text, &path, &columns, true)?;
        self.write(&cells)
    }

    /// Writes what is left.
    ///
    /// # Errors
    /// A file that cannot be written.
    pub fn finish(mut self) -> Result<()> {
        self.file.flush().with_context(|| files::cannot_write(&self.path))
    }

    fn write(&mut self, bytes: &[u8]) -> Result<()> {
        self.file.write_all(bytes).with_context(|| files::cannot_write(&self.path))
    }

    fn reordered(&self, text: &[u8], from: &Path) -> Result<Vec<u8>> {
        reordered(text, from, &self.header, false)
    }
}

/// The rows of a text in the order of these columns. With `may_lack`, columns that it does
/// not have are empty, and others that it has are left out.
fn reordered(
    text: &[u8],
    from: &Path,
    columns: &[String],
    may_lack: bool,
) -> Result<Vec<u8>> {
    let does_not_parse = || format!("{} does not parse", from.display());
    let mut reader = csv::Reader::from_reader(text);
    let header = reader.headers().with_context(does_not_parse)?.clone();
    let place = |name: &String| header.iter().position(|column| column == name);
    let missing: Vec<&str> =
        columns.iter().filter(|name| place(name).is_none()).map(String::as_str).collect();
    let is_known = |name: &&str| columns.iter().any(|column| column == name);
    let unknown: Vec<&str> = header.iter().filter(|name| !is_known(name)).collect();
    if !may_lack && (!missing.is_empty() || !unknown.is_empty()) {
        let listed = |what: &str, names: &[&str]| match names {
            [] => String::new(),
            names => format!("; {what} {}", names.join(", ")),
        };
        bail!(
            "{} has other columns than the first campaign's{}{}; merge what one version of \
             the program wrote",
            from.display(),
            listed("missing are", &missing),
            listed("unknown are", &unknown)
        );
    }
    let order: Vec<Option<usize>> = columns.iter().map(place).collect();
    let mut lines = Vec::new();
    for record in reader.records() {
        let record = record.with_context(does_not_parse)?;
        let cell = |at: &Option<usize>| at.map_or("", |at| &record[at]);
        lines.extend(csv_line(order.iter().map(cell).collect::<Vec<_>>())?);
    }
    Ok(lines)
}

/// The bytes of a file up to its last complete line, or those of its compressed form; `None`
/// where there is neither.
fn complete(path: &Path) -> Result<Option<Vec<u8>>> {
    let cannot_read = || format!("cannot read {}", path.display());
    let mut packed = path.as_os_str().to_owned();
    packed.push(".gz");
    let mut text = Vec::new();
    if Path::new(&packed).exists() {
        let file = File::open(&packed).with_context(cannot_read)?;
        MultiGzDecoder::new(file).read_to_end(&mut text).with_context(cannot_read)?;
    } else if path.exists() {
        text = fs::read(path).with_context(cannot_read)?;
    } else {
        return Ok(None);
    }
    text.truncate(text.iter().rposition(|byte| *byte == b'\n').map_or(0, |end| end + 1));
    Ok(Some(text))
}

fn header_of(text: &[u8], path: &Path) -> Result<Vec<String>> {
    let mut reader = csv::Reader::from_reader(text);
    let header =
        reader.headers().with_context(|| format!("{} does not parse", path.display()))?;
    Ok(header.iter().map(str::to_owned).collect())
}

/// The first cells of a line, none of which needs quotes.
pub fn first_cells<const N: usize>(line: &[u8]) -> Option<[&str; N]> {
    let mut cells = line.splitn(N + 1, |byte| *byte == b',');
    let mut found = [""; N];
    for cell in &mut found {
        *cell = std::str::from_utf8(cells.next()?).ok()?;
    }
    Some(found)
}

/// The text of a `run.csv` with these rows. Columns that a row lacks are empty in it.
///
/// # Errors
/// None but those of the CSV library.
pub fn runs_csv(runs: &[Run]) -> Result<Vec<u8>> {
    let mut columns: Vec<&str> = Vec::new();
    for (name, _) in runs.iter().flat_map(|run| &run.fields) {
        if !columns.contains(&name.as_str()) {
            columns.push(name);
        }
    }
    let mut text = csv_line(&columns)?;
    for run in runs {
        let cells = columns.iter().map(|name| run.get(name).unwrap_or_default());
        text.extend(csv_line(cells.collect::<Vec<_>>())?);
    }
    Ok(text)
}

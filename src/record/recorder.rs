//! Writing records: a new campaign's folder, or one that is continued.

use std::collections::HashSet;
use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::Write;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use serde::Serialize;

use super::{Row, Run, SampleRow, complete_lines, read_csv};
use crate::op::{Problem, shape_keys};

/// Appends to the files of one campaign, and holds them locked meanwhile.
#[derive(Debug)]
pub struct Recorder {
    folder: PathBuf,
    run_id: String,
    results: File,
    samples: File,
    done: HashSet<(String, u32)>,
    /// The row of `run.csv` of a process that has resumed and measured nothing yet: one
    /// that finds nothing left to measure leaves all files as they are.
    unwritten_run: Option<Vec<u8>>,
}

impl Recorder {
    /// Claims a new folder and writes everything but the results into it.
    /// The folder appears whole, under the first free of the names
    /// `wanted`, `wanted.2`, `wanted.3`; one that exists is never touched.
    ///
    /// # Errors
    /// A folder that cannot be made.
    pub fn create(wanted: &Path, run: &Run, suite_text: &str) -> Result<Self> {
        let parent = wanted.parent().filter(|p| !p.as_os_str().is_empty());
        let parent = parent.unwrap_or(Path::new("."));
        fs::create_dir_all(parent)
            .with_context(|| format!("cannot make {}", parent.display()))?;
        let staging = parent.join(format!(".{}", run.get("run_id").unwrap_or("staging")));
        fs::create_dir(&staging)
            .with_context(|| format!("cannot make {}", staging.display()))?;
        fs::write(staging.join("suite.toml"), suite_text)?;
        fs::write(staging.join("run.csv"), run_csv(run, true)?)?;
        fs::write(staging.join("results.csv"), csv_line(results_header())?)?;
        fs::write(staging.join("samples.csv"), csv_line(samples_header())?)?;
        let folder = claim_name(&staging, wanted)?;
        let results = lock(&folder.join("results.csv"))?;
        Self::open(&folder, run, results, HashSet::new())
    }

    /// Continues a campaign: drops what a kill left half-written, and knows which rows
    /// are there already. The process gets its row in `run.csv` when it records its
    /// first point.
    ///
    /// # Errors
    /// A folder that is not a campaign, is in use by another process, or was
    /// written by a version with other columns.
    pub fn resume(folder: &Path, run: &Run) -> Result<Self> {
        let run_path = folder.join("run.csv");
        let results_path = folder.join("results.csv");
        let results = lock(&results_path)?;
        let header = complete_lines(&run_path)?;
        let header = header.lines().next().unwrap_or_default();
        if format!("{header}\n").into_bytes() != run_header(run)? {
            bail!(
                "{} has other columns than this version writes; finish it with the version \
                 that began it, or start a new campaign",
                run_path.display()
            );
        }
        let samples_path = folder.join("samples.csv");
        for (path, expected) in
            [(&results_path, results_header()), (&samples_path, samples_header())]
        {
            if !complete_lines(path)?.into_bytes().starts_with(&csv_line(expected)?) {
                bail!(
                    "{} has other columns than this version writes; finish it with the \
                     version that began it, or start a new campaign",
                    path.display()
                );
            }
        }
        truncate_to_lines(&run_path)?;
        truncate_to_lines(&results_path)?;
        let rows: Vec<Row> = read_csv(&results_path)?;
        let done: HashSet<_> = rows.iter().map(Row::key).collect();
        drop_samples_without_rows(&samples_path, &done)?;
        let unwritten_run = Some(run_csv(run, false)?);
        Ok(Recorder { unwritten_run, ..Self::open(folder, run, results, done)? })
    }

    fn open(
        folder: &Path,
        run: &Run,
        results: File,
        done: HashSet<(String, u32)>,
    ) -> Result<Self> {
        Ok(Recorder {
            results,
            samples: append(&folder.join("samples.csv"))?,
            folder: folder.to_owned(),
            run_id: run.get("run_id").unwrap_or_default().to_owned(),
            done,
            unwritten_run: None,
        })
    }

    /// The campaign's folder.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// The id of the process's row in `run.csv`.
    pub fn run_id(&self) -> &str {
        &self.run_id
    }

    /// Whether a point and repeat has its row already.
    pub fn has(&self, point_id: &str, repeat: u32) -> bool {
        self.done.contains(&(point_id.to_owned(), repeat))
    }

    /// Writes a point's samples, then its row.
    ///
    /// # Errors
    /// A row that is there already, or a disk that does not take it.
    pub fn record(&mut self, row: &Row, samples: &[SampleRow]) -> Result<()> {
        if !self.done.insert(row.key()) {
            bail!("point {} repeat {} has a row already", row.point_id, row.repeat);
        }
        let mut text = Vec::new();
        for sample in samples {
            text.extend(csv_line(sample)?);
        }
        let write = |file: &mut File, text: &[u8]| {
            file.write_all(text).with_context(|| {
                format!("cannot write to {}; is the disk full?", self.folder.display())
            })
        };
        if let Some(run) = self.unwritten_run.take() {
            write(&mut append(&self.folder.join("run.csv"))?, &run)?;
        }
        write(&mut self.samples, &text)?;
        write(&mut self.results, &csv_line((row, shape_values(&row.problem)))?)
    }
}

/// Renames the staged folder to the first free name.
fn claim_name(staging: &Path, wanted: &Path) -> Result<PathBuf> {
    for number in 1..10_000 {
        let mut name = wanted.as_os_str().to_owned();
        if number > 1 {
            name.push(format!(".{number}"));
        }
        let folder = PathBuf::from(name);
        // Renaming onto an empty folder succeeds on Unix, onto any other
        // fails: nothing is overwritten even if two processes race.
        if folder.exists() {
            continue;
        }
        match fs::rename(staging, &folder) {
            Ok(()) => return Ok(folder),
            Err(_) if folder.exists() => continue,
            Err(e) => {
                return Err(e).with_context(|| format!("cannot make {}", folder.display()));
            }
        }
    }
    bail!("{} and 9999 names after it are taken; clear some", wanted.display())
}

fn append(path: &Path) -> Result<File> {
    let file = OpenOptions::new().append(true).open(path);
    file.with_context(|| format!("cannot append to {}", path.display()))
}

/// Opens a file for appending and locks it until it is closed.
fn lock(path: &Path) -> Result<File> {
    let file = append(path)?;
    file.try_lock().map_err(|e| match e {
        TryLockError::WouldBlock => anyhow::anyhow!(
            "{} is in use by another process; wait for it, or measure into another folder",
            path.display()
        ),
        TryLockError::Error(e) => {
            anyhow::Error::new(e).context(format!("cannot lock {}", path.display()))
        }
    })?;
    Ok(file)
}

fn truncate_to_lines(path: &Path) -> Result<()> {
    let length = complete_lines(path)?.len() as u64;
    let file = OpenOptions::new().write(true).open(path)?;
    if file.metadata()?.len() > length {
        file.set_len(length)
            .with_context(|| format!("cannot repair {}", path.display()))?;
    }
    Ok(())
}

/// Rewrites `samples.csv` without the samples of points that have no row: they
/// are measured again.
fn drop_samples_without_rows(path: &Path, done: &HashSet<(String, u32)>) -> Result<()> {
    let samples: Vec<SampleRow> = read_csv(path)?;
    let mut text = csv_line(samples_header())?;
    for sample in &samples {
        if done.contains(&(sample.point_id.clone(), sample.repeat)) {
            text.extend(csv_line(sample)?);
        }
    }
    if text == fs::read(path)? {
        return Ok(());
    }
    write_atomically(path, &text)
}

/// Replaces a file so that a reader sees the old text or the new, never a mix.
///
/// # Errors
/// A file that cannot be written or renamed.
pub fn write_atomically(path: &Path, text: &[u8]) -> Result<()> {
    let mut staging = path.as_os_str().to_owned();
    staging.push(".new");
    fs::write(&staging, text)
        .and_then(|()| fs::rename(&staging, path))
        .with_context(|| format!("cannot write {}", path.display()))
}

/// One record as a CSV line. Newlines become spaces first: a file must be
/// repairable by cutting it at its last line end.
fn csv_line<T: Serialize>(record: T) -> Result<Vec<u8>> {
    let mut writer = csv::WriterBuilder::new().has_headers(false).from_writer(Vec::new());
    writer.serialize(record)?;
    let mut line = writer.into_inner().map_err(|e| anyhow::anyhow!("{e}"))?;
    let end = line.len() - 1;
    for byte in &mut line[..end] {
        if matches!(*byte, b'\n' | b'\r') {
            *byte = b' ';
        }
    }
    Ok(line)
}

/// Column names of a serializable row, as the CSV library derives them.
fn header_of<T: Serialize>(row: &T) -> Vec<String> {
    let mut writer = csv::Writer::from_writer(Vec::new());
    let bytes = writer.serialize(row).ok().and_then(|()| writer.into_inner().ok());
    let text = String::from_utf8(bytes.unwrap_or_default()).unwrap_or_default();
    text.lines().next().unwrap_or_default().split(',').map(str::to_owned).collect()
}

/// Column names of `results.csv`.
pub fn results_header() -> Vec<String> {
    let mut header = header_of(&Row::default());
    header.extend(shape_keys().into_iter().map(|key| format!("shape_{key}")));
    header
}

/// Column names of `samples.csv`.
pub fn samples_header() -> Vec<String> {
    header_of(&SampleRow {
        run_id: String::new(),
        point_id: String::new(),
        repeat: 0,
        sample_index: 0,
        first_slot: 0,
        launches: 0,
        elapsed_s: 0.0,
        sm_clock_hz: None,
        since_start_s: 0.0,
    })
}

/// The values of the shape columns of a problem's text, in the order of
/// [`shape_keys`], empty where the problem has no such key.
pub fn shape_values(problem: &str) -> Vec<String> {
    let fields = problem.parse::<Problem>().map(|p| p.fields()).unwrap_or_default();
    let value = |key| fields.iter().find(|(k, _)| *k == key).map(|(_, v)| v.clone());
    shape_keys().into_iter().map(|key| value(key).unwrap_or_default()).collect()
}

fn run_header(run: &Run) -> Result<Vec<u8>> {
    csv_line(run.fields.iter().map(|(name, _)| name).collect::<Vec<_>>())
}

fn run_csv(run: &Run, with_header: bool) -> Result<Vec<u8>> {
    let mut text = if with_header { run_header(run)? } else { Vec::new() };
    text.extend(csv_line(run.fields.iter().map(|(_, value)| value).collect::<Vec<_>>())?);
    Ok(text)
}

//! Writing records: a new campaign's folder, or one that is continued.

use std::collections::{HashMap, HashSet};
use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::Write;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use serde::Serialize;

use super::layout::{self, Layout};
use super::{RoundRow, Row, Run, SampleRow, complete_lines, csv_line, read_csv};
use crate::files::{self, TemporaryFolder, write_atomically};
use crate::op::{Problem, shape_keys};

/// Appends to the files of one campaign, and holds them locked meanwhile.
#[derive(Debug)]
pub struct Recorder {
    folder: PathBuf,
    run_id: String,
    results: File,
    rounds: File,
    samples: File,
    done: HashSet<PointKey>,
    /// Rounds of points that have no row yet.
    begun: HashMap<PointKey, Vec<RecordedRound>>,
    /// The row of `run.csv` of a process that has resumed and measured nothing yet: one
    /// that finds nothing left to measure leaves all files as they are.
    unwritten_run: Option<Vec<u8>>,
}

/// A point's id and which repeat of it.
type PointKey = (String, u32);

/// A round on disk with its samples.
#[derive(Clone, Debug, PartialEq)]
pub struct RecordedRound {
    /// Its row of `rounds.csv`.
    pub row: RoundRow,
    /// Its rows of `samples.csv`.
    pub samples: Vec<SampleRow>,
}

impl Recorder {
    /// Claims a new folder and writes everything but the results into it.
    /// The folder appears whole, under the first free of the names
    /// `wanted`, `wanted.2`, `wanted.3`; one that exists is never touched. Where that fails,
    /// nothing is left.
    ///
    /// # Errors
    /// A folder that cannot be made or written, with the path.
    pub fn create(wanted: &Path, run: &Run, suite_text: &str) -> Result<Self> {
        let folder = Self::claim(wanted, run, suite_text).with_context(|| {
            format!(
                "cannot begin a campaign in {}; choose a folder with room and the right to \
                 write with --out",
                wanted.display()
            )
        })?;
        let results = lock(&folder.join("results.csv"))?;
        Self::open(&folder, run, results)
    }

    /// Writes a new campaign's files beside its place, and moves them there.
    fn claim(wanted: &Path, run: &Run, suite_text: &str) -> Result<PathBuf> {
        let name = format!(".{}", run.get("run_id").unwrap_or("staging"));
        let staging = TemporaryFolder::make(&wanted.with_file_name(name))?;
        let write =
            |name: &str, bytes: &[u8]| files::write(&staging.path().join(name), bytes);
        write("suite.toml", suite_text.as_bytes())?;
        write("run.csv", &run_csv(run, true)?)?;
        write("results.csv", &csv_line(results_header())?)?;
        write("rounds.csv", &csv_line(rounds_header())?)?;
        write("samples.csv", &csv_line(samples_header())?)?;
        let folder = claim_name(staging.path(), wanted)?;
        staging.keep();
        Ok(folder)
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
        let [rounds_path, samples_path] =
            ["rounds.csv", "samples.csv"].map(|name| folder.join(name));
        refuse_lost_rows(&results_path, &rounds_path, &samples_path)?;
        let columns = run.fields.iter().map(|(name, _)| name.clone()).collect();
        layout::restore(&run_path, columns)?;
        layout::restore(&rounds_path, rounds_header())?;
        layout::restore(&samples_path, samples_header())?;
        // What replaces the file is not the one that is locked.
        let results = match layout::restore(&results_path, results_header())? {
            Layout::AsWritten => results,
            Layout::Restored => lock(&results_path)?,
        };
        truncate_to_lines(&run_path)?;
        truncate_to_lines(&results_path)?;
        truncate_to_lines(&rounds_path)?;
        let rows: Vec<Row> = read_csv(&results_path)?;
        let rounds: Vec<RoundRow> = read_csv(&rounds_path)?;
        let samples = samples_of_rounds(&samples_path, &rounds)?;
        let mut recorder = Self::open(folder, run, results)?;
        recorder.unwritten_run = Some(run_csv(run, false)?);
        recorder.done = rows.iter().map(Row::key).collect();
        recorder.begun = begun(rounds, samples, &recorder.done);
        Ok(recorder)
    }

    fn open(folder: &Path, run: &Run, results: File) -> Result<Self> {
        Ok(Recorder {
            results,
            rounds: append(&folder.join("rounds.csv"))?,
            samples: append(&folder.join("samples.csv"))?,
            folder: folder.to_owned(),
            run_id: run.get("run_id").unwrap_or_default().to_owned(),
            done: HashSet::new(),
            begun: HashMap::new(),
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

    /// The rounds of a point that has no row yet.
    pub fn rounds_of(&self, point_id: &str, repeat: u32) -> &[RecordedRound] {
        let found = self.begun.get(&(point_id.to_owned(), repeat));
        found.map(Vec::as_slice).unwrap_or_default()
    }

    /// Writes the samples of a round, then its row.
    ///
    /// # Errors
    /// A round that is there already, or a disk that does not take it.
    pub fn record_round(&mut self, row: RoundRow, samples: Vec<SampleRow>) -> Result<()> {
        let known = self.rounds_of(&row.point_id, row.repeat);
        if known.iter().any(|known| known.row.round == row.round) {
            bail!("point {} has round {} already", row.point_id, row.round);
        }
        let mut text = Vec::new();
        for sample in &samples {
            text.extend(csv_line(sample)?);
        }
        self.write_run()?;
        append_to(&self.folder, "samples.csv", &mut self.samples, &text)?;
        append_to(&self.folder, "rounds.csv", &mut self.rounds, &csv_line(&row)?)?;
        self.begun.entry(row.point_key()).or_default().push(RecordedRound { row, samples });
        Ok(())
    }

    /// Writes a point's row: no more rounds of it are to come.
    ///
    /// # Errors
    /// A row that is there already, or a disk that does not take it.
    pub fn record(&mut self, row: &Row) -> Result<()> {
        if !self.done.insert(row.key()) {
            bail!("point {} repeat {} has a row already", row.point_id, row.repeat);
        }
        self.begun.remove(&row.key());
        self.write_run()?;
        let values = (row, shape_values(&row.problem), later_values(row));
        let line = csv_line(values)?;
        append_to(&self.folder, "results.csv", &mut self.results, &line)
    }

    /// Writes the process's row of `run.csv`, if that is still to be done.
    fn write_run(&mut self) -> Result<()> {
        let Some(run) = self.unwritten_run.take() else { return Ok(()) };
        let mut file = append(&self.folder.join("run.csv"))?;
        append_to(&self.folder, "run.csv", &mut file, &run)
    }
}

fn append_to(folder: &Path, name: &str, file: &mut File, text: &[u8]) -> Result<()> {
    file.write_all(text).with_context(|| {
        format!(
            "{}; what was recorded is safe: make room, and `ridgepoint measure --resume {}` \
             goes on",
            files::cannot_write(&folder.join(name)),
            folder.display()
        )
    })
}

/// Refuses a campaign one of whose files is empty although others say that it was not:
/// going on would throw away what is left. An empty `results.csv` is written anew, from
/// the rounds.
fn refuse_lost_rows(results: &Path, rounds: &Path, samples: &Path) -> Result<()> {
    let has_lines = |path: &Path, least: usize| -> Result<bool> {
        Ok(complete_lines(path)?.lines().take(least).count() == least)
    };
    for (empty, other) in [(rounds, results), (rounds, samples), (samples, rounds)] {
        if !has_lines(empty, 1)? && has_lines(other, 2)? {
            bail!(
                "{} is empty, but {} has rows that belong to its own: they are lost; restore \
                 the file, or start a new campaign",
                empty.display(),
                other.display()
            );
        }
    }
    Ok(())
}

/// Rounds of points without a row, with their samples.
fn begun(
    rounds: Vec<RoundRow>,
    samples: Vec<SampleRow>,
    done: &HashSet<PointKey>,
) -> HashMap<PointKey, Vec<RecordedRound>> {
    let mut begun: HashMap<PointKey, Vec<RecordedRound>> = HashMap::new();
    for row in rounds.into_iter().filter(|row| !done.contains(&row.point_key())) {
        begun
            .entry(row.point_key())
            .or_default()
            .push(RecordedRound { row, samples: Vec::new() });
    }
    for sample in samples {
        let of_point = begun.get_mut(&(sample.point_id.clone(), sample.repeat));
        let round = of_point
            .and_then(|rounds| rounds.iter_mut().find(|r| r.row.round == sample.round));
        if let Some(round) = round {
            round.samples.push(sample);
        }
    }
    begun
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
    let repaired = OpenOptions::new().write(true).open(path).and_then(|file| {
        match file.metadata()?.len() > length {
            true => file.set_len(length),
            false => Ok(()),
        }
    });
    repaired.with_context(|| format!("cannot repair the last line of {}", path.display()))
}

/// Rewrites `samples.csv` without the samples of rounds that have no row, which are
/// measured again, and returns the others.
fn samples_of_rounds(path: &Path, rounds: &[RoundRow]) -> Result<Vec<SampleRow>> {
    let known: HashSet<(&str, u32, u32)> =
        rounds.iter().map(|row| (row.point_id.as_str(), row.repeat, row.round)).collect();
    let mut samples: Vec<SampleRow> = read_csv(path)?;
    samples.retain(|s| known.contains(&(s.point_id.as_str(), s.repeat, s.round)));
    let mut text = csv_line(samples_header())?;
    for sample in &samples {
        text.extend(csv_line(sample)?);
    }
    let before =
        fs::read(path).with_context(|| format!("cannot read {}", path.display()))?;
    if text != before {
        write_atomically(path, &text)?;
    }
    Ok(samples)
}

/// Column names of a serializable row, as the CSV library derives them.
fn header_of<T: Serialize>(row: &T) -> Vec<String> {
    let mut writer = csv::Writer::from_writer(Vec::new());
    let bytes = writer.serialize(row).ok().and_then(|()| writer.into_inner().ok());
    let text = String::from_utf8(bytes.unwrap_or_default()).unwrap_or_default();
    text.lines().next().unwrap_or_default().split(',').map(str::to_owned).collect()
}

/// Columns of `results.csv` behind those of shapes.
const LATER_COLUMNS: [&str; 8] = [
    "implementation",
    "launch_mode",
    "load",
    "power_w",
    "clock_limits",
    "energy_per_launch_j",
    "configuration",
    "configuration_from",
];

/// The values of these columns, which came later than those of shapes and stand behind them.
pub(super) fn later_values(row: &Row) -> impl Serialize {
    (
        row.implementation.clone(),
        row.launch_mode.clone(),
        row.load.clone(),
        row.power_w,
        row.clock_limits.clone(),
        row.energy_per_launch_j,
        row.configuration.clone(),
        row.configuration_from.clone(),
    )
}

/// Column names of `results.csv`.
pub fn results_header() -> Vec<String> {
    let mut header = header_of(&Row::default());
    header.extend(shape_keys().into_iter().map(|key| format!("shape_{key}")));
    header.extend(LATER_COLUMNS.map(str::to_owned));
    header
}

/// Column names of `samples.csv`.
pub fn samples_header() -> Vec<String> {
    header_of(&SampleRow::default())
}

/// Column names of `rounds.csv`.
pub fn rounds_header() -> Vec<String> {
    header_of(&RoundRow::default())
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

//! Records on disk. A campaign is a folder of three CSV files:
//!
//! * `run.csv`: one row for each process that worked on it: provenance;
//! * `results.csv`: one row for each planned point: model, time, check, status;
//! * `samples.csv`: every timed sample.
//!
//! What was measured is stored with its unit in the column's name, in SI units
//! without prefixes; rates and fractions are derived on reading. Empty means
//! unknown. A point's samples reach the disk before its row does, each in one
//! write, so a process may be killed at any moment: what a reader then drops
//! is a torn last line and samples that no row vouches for.

use std::collections::HashSet;
use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::Write;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::op::{Problem, shape_keys};

/// Version of the columns.
pub const SCHEMA_VERSION: u32 = 3;

/// What became of a planned point.
#[derive(
    Clone,
    Copy,
    Debug,
    Default,
    PartialEq,
    Eq,
    PartialOrd,
    Ord,
    Hash,
    Serialize,
    Deserialize,
)]
#[serde(rename_all = "snake_case")]
pub enum Status {
    /// Measured to the wanted precision.
    #[default]
    Ok,
    /// Measured, but the interval was still too wide when time was up.
    Noisy,
    /// Not measured: the device falls short, and `reason` says of what.
    Skipped,
    /// Not measured: the launch failed.
    Failed,
    /// Not measured, or not to be used: the output is wrong.
    Wrong,
}

impl Status {
    /// The spelling used in tables and CSV files.
    pub const fn name(self) -> &'static str {
        match self {
            Status::Ok => "ok",
            Status::Noisy => "noisy",
            Status::Skipped => "skipped",
            Status::Failed => "failed",
            Status::Wrong => "wrong",
        }
    }

    /// Whether the row carries a time to be used.
    pub const fn has_time(self) -> bool {
        matches!(self, Status::Ok | Status::Noisy)
    }
}

/// A row of `results.csv`. The columns of [`shape_keys`] follow it on disk,
/// for people who filter by shape; they are read back from `problem`. Columns
/// that an older version did not write are read as empty.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
#[allow(missing_docs, reason = "the columns are described in README.md")]
pub struct Row {
    pub run_id: String,
    pub point_id: String,
    pub repeat: u32,
    pub order_index: u32,
    pub suite: String,
    pub device: String,
    pub device_kind: String,
    pub op: String,
    pub kernel: String,
    pub cache_state: String,
    pub status: Option<Status>,
    pub reason: String,
    pub problem: String,
    pub matrix_flops_model: u64,
    pub vector_flops_model: u64,
    pub bytes_read_model: u64,
    pub bytes_written_model: u64,
    pub experts_touched_model: Option<u64>,
    pub bytes_read_bound_model: Option<u64>,
    pub bytes_read_expected_model: Option<f64>,
    pub bytes_extra: Option<u64>,
    pub slots: Option<u64>,
    pub footprint_bytes: Option<u64>,
    pub reuse_distance_bytes: Option<u64>,
    pub residency: String,
    pub grid: String,
    pub block: String,
    pub registers: Option<u32>,
    pub spill_bytes: Option<u32>,
    pub shared_bytes_per_block: Option<u32>,
    pub blocks_per_sm: Option<u32>,
    pub code_hash: String,
    pub timer: String,
    pub launches_per_sample: Option<u64>,
    pub n_samples: u64,
    pub time_s_median: Option<f64>,
    pub time_s_ci_lo: Option<f64>,
    pub time_s_ci_hi: Option<f64>,
    pub time_s_mean: Option<f64>,
    pub time_s_sd: Option<f64>,
    pub time_s_min: Option<f64>,
    pub time_s_p05: Option<f64>,
    pub time_s_p25: Option<f64>,
    pub time_s_p75: Option<f64>,
    pub time_s_p95: Option<f64>,
    pub sm_clock_hz_median: Option<f64>,
    pub check: String,
    pub max_abs_err: Option<f64>,
    pub max_rel_err: Option<f64>,
    pub other_cpu_share: Option<f64>,
    pub started_utc: String,
    pub setup_s: f64,
    pub check_s: f64,
    pub warmup_s: f64,
    pub sample_s: f64,
    pub repro_command: String,
}

impl Row {
    /// What identifies the row within its campaign.
    pub fn key(&self) -> (String, u32) {
        (self.point_id.clone(), self.repeat)
    }
}

/// A row of `samples.csv`: `launches` launches timed together.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[allow(missing_docs, reason = "the columns are described in README.md")]
pub struct SampleRow {
    pub run_id: String,
    pub point_id: String,
    pub repeat: u32,
    pub sample_index: u32,
    pub first_slot: u64,
    pub launches: u64,
    pub elapsed_s: f64,
    pub sm_clock_hz: Option<f64>,
    /// Seconds since the process began to measure.
    pub since_start_s: f64,
}

/// Provenance of one process: columns that every device has, then the
/// device's own facts.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Run {
    fields: Vec<(String, String)>,
}

impl Run {
    /// Adds a column.
    pub fn set(&mut self, name: &str, value: impl ToString) {
        self.fields.push((name.to_owned(), value.to_string()));
    }

    /// The value of a column.
    pub fn get(&self, name: &str) -> Option<&str> {
        self.fields.iter().find(|(n, _)| n == name).map(|(_, v)| v.as_str())
    }

    /// All columns in order.
    pub fn fields(&self) -> &[(String, String)] {
        &self.fields
    }
}

/// The files of a campaign, read.
#[derive(Clone, Debug, Default)]
pub struct Records {
    /// Rows of `run.csv`.
    pub runs: Vec<Run>,
    /// Rows of `results.csv`.
    pub rows: Vec<Row>,
}

impl Records {
    /// Reads `run.csv` and `results.csv`. A torn last line is left out.
    ///
    /// # Errors
    /// A file that is missing or does not parse, with its line.
    pub fn read(folder: &Path) -> Result<Self> {
        if !folder.is_dir() {
            bail!("{} is no folder; give one that `measure` wrote", folder.display());
        }
        Ok(Records {
            runs: read_runs(&folder.join("run.csv"))?,
            rows: read_csv(&folder.join("results.csv"))?,
        })
    }
}

/// The text of a file up to its last complete line.
fn complete_lines(path: &Path) -> Result<String> {
    let mut text = fs::read_to_string(path)
        .with_context(|| format!("cannot read {}", path.display()))?;
    text.truncate(text.rfind('\n').map_or(0, |end| end + 1));
    Ok(text)
}

fn read_csv<T: DeserializeOwned>(path: &Path) -> Result<Vec<T>> {
    let text = complete_lines(path)?;
    let mut reader = csv::Reader::from_reader(text.as_bytes());
    let rows: Result<Vec<T>, csv::Error> = reader.deserialize().collect();
    rows.with_context(|| format!("{} does not parse", path.display()))
}

fn read_runs(path: &Path) -> Result<Vec<Run>> {
    let text = complete_lines(path)?;
    let mut reader = csv::Reader::from_reader(text.as_bytes());
    let header = reader.headers()?.clone();
    let mut runs = Vec::new();
    for record in reader.records() {
        let record =
            record.with_context(|| format!("{} does not parse", path.display()))?;
        let pairs = header.iter().zip(record.iter());
        let fields = pairs.map(|(n, v)| (n.to_owned(), v.to_owned())).collect();
        runs.push(Run { fields });
    }
    Ok(runs)
}

/// Appends to the files of one campaign, and holds them locked meanwhile.
#[derive(Debug)]
pub struct Recorder {
    folder: PathBuf,
    run_id: String,
    results: File,
    samples: File,
    done: HashSet<(String, u32)>,
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

    /// Continues a campaign: drops what a kill left half-written, adds a row
    /// to `run.csv` and knows which rows are there already.
    ///
    /// # Errors
    /// A folder that is no campaign, is in use by another process, or was
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
                 that began it, or start anew",
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
                     version that began it, or start anew",
                    path.display()
                );
            }
        }
        truncate_to_lines(&run_path)?;
        truncate_to_lines(&results_path)?;
        let rows: Vec<Row> = read_csv(&results_path)?;
        let done: HashSet<_> = rows.iter().map(Row::key).collect();
        drop_unvouched_samples(&samples_path, &done)?;
        append(&run_path)?.write_all(&run_csv(run, false)?)?;
        Self::open(folder, run, results, done)
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
fn drop_unvouched_samples(path: &Path, done: &HashSet<(String, u32)>) -> Result<()> {
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

/// The values of the shape columns, empty where the problem has no such key.
fn shape_values(problem: &str) -> Vec<String> {
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

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn run(id: &str) -> Run {
        let mut run = Run::default();
        run.set("run_id", id);
        run.set("device", "a, \"device\"");
        run
    }

    fn row(point_id: &str, repeat: u32) -> Row {
        Row {
            point_id: point_id.into(),
            repeat,
            status: Some(Status::Ok),
            problem: "gemm:m=1,n=2,k=3,dtype=f32".into(),
            reason: "two\nlines, \"quoted\"".into(),
            time_s_median: Some(1.25e-6),
            ..Row::default()
        }
    }

    fn sample(point_id: &str, index: u32) -> SampleRow {
        SampleRow {
            run_id: "r".into(),
            point_id: point_id.into(),
            repeat: 0,
            sample_index: index,
            first_slot: 0,
            launches: 2,
            elapsed_s: 0.5,
            sm_clock_hz: None,
            since_start_s: 1.5,
        }
    }

    #[test]
    fn rows_come_back_as_they_went_but_for_line_ends() {
        let dir = tempfile::tempdir().unwrap();
        let mut recorder =
            Recorder::create(&dir.path().join("c"), &run("r"), "suite").unwrap();
        recorder.record(&row("a", 0), &[sample("a", 0), sample("a", 1)]).unwrap();
        let records = Records::read(recorder.folder()).unwrap();
        let expected = Row { reason: "two lines, \"quoted\"".into(), ..row("a", 0) };
        assert_eq!(records.rows, [expected]);
        assert_eq!(records.runs, [run("r")]);
        let samples: Vec<SampleRow> =
            read_csv(&recorder.folder().join("samples.csv")).unwrap();
        assert_eq!(samples, [sample("a", 0), sample("a", 1)]);
    }

    #[test]
    fn shape_columns_repeat_the_problem() {
        let dir = tempfile::tempdir().unwrap();
        let mut recorder = Recorder::create(&dir.path().join("c"), &run("r"), "").unwrap();
        recorder.record(&row("a", 0), &[]).unwrap();
        let text = fs::read_to_string(recorder.folder().join("results.csv")).unwrap();
        let mut reader = csv::Reader::from_reader(text.as_bytes());
        let column = reader.headers().unwrap().iter().position(|h| h == "shape_k").unwrap();
        let record = reader.records().next().unwrap().unwrap();
        assert_eq!(&record[column], "3");
        assert_eq!(&record[column - 1], "2");
    }

    #[test]
    fn an_existing_folder_is_never_touched() {
        let dir = tempfile::tempdir().unwrap();
        let wanted = dir.path().join("c");
        fs::create_dir(&wanted).unwrap();
        fs::write(wanted.join("mine"), "precious").unwrap();
        let second = Recorder::create(&wanted, &run("a"), "").unwrap();
        let third = Recorder::create(&wanted, &run("b"), "").unwrap();
        assert_eq!(second.folder(), dir.path().join("c.2"));
        assert_eq!(third.folder(), dir.path().join("c.3"));
        assert_eq!(fs::read_dir(&wanted).unwrap().count(), 1);
    }

    #[test]
    fn two_processes_cannot_write_one_campaign() {
        let dir = tempfile::tempdir().unwrap();
        let first = Recorder::create(&dir.path().join("c"), &run("a"), "").unwrap();
        let error = Recorder::resume(first.folder(), &run("b")).unwrap_err().to_string();
        assert!(error.contains("in use by another process"), "{error}");
        let folder = first.folder().to_owned();
        drop(first);
        Recorder::resume(&folder, &run("b")).unwrap();
    }

    #[test]
    fn other_columns_are_not_mixed_in() {
        let dir = tempfile::tempdir().unwrap();
        let first = Recorder::create(&dir.path().join("c"), &run("a"), "").unwrap();
        let folder = first.folder().to_owned();
        drop(first);
        let mut other = run("b");
        other.set("new_column", 1);
        let error = Recorder::resume(&folder, &other).unwrap_err().to_string();
        assert!(error.contains("other columns"), "{error}");
        for file in ["results.csv", "samples.csv"] {
            let path = folder.join(file);
            let text = fs::read_to_string(&path).unwrap();
            fs::write(&path, text.replacen("run_id", "id", 1)).unwrap();
            let error = Recorder::resume(&folder, &run("b")).unwrap_err().to_string();
            assert!(error.contains(file), "{error}");
            fs::write(&path, text).unwrap();
        }
        Recorder::resume(&folder, &run("b")).unwrap();
    }

    #[test]
    fn a_row_is_never_doubled() {
        let dir = tempfile::tempdir().unwrap();
        let mut recorder = Recorder::create(&dir.path().join("c"), &run("r"), "").unwrap();
        recorder.record(&row("a", 0), &[]).unwrap();
        recorder.record(&row("a", 1), &[]).unwrap();
        assert!(recorder.record(&row("a", 0), &[]).is_err());
    }

    #[test]
    fn a_missing_folder_is_told_apart_from_a_broken_one() {
        let dir = tempfile::tempdir().unwrap();
        let error = Records::read(&dir.path().join("none")).unwrap_err().to_string();
        assert!(error.contains("is no folder"), "{error}");
        let error = format!("{:#}", Records::read(dir.path()).unwrap_err());
        assert!(error.contains("run.csv"), "{error}");
    }

    /// The files of a campaign of three points, cut at any byte of the write
    /// that was under way, as a kill leaves them.
    fn cut_campaign(dir: &Path, cut_file: &str, keep: usize) -> PathBuf {
        let mut recorder = Recorder::create(&dir.join("c"), &run("r"), "").unwrap();
        for id in ["a", "b", "c"] {
            recorder.record(&row(id, 0), &[sample(id, 0), sample(id, 1)]).unwrap();
        }
        let folder = recorder.folder().to_owned();
        drop(recorder);
        let path = folder.join(cut_file);
        let text = fs::read(&path).unwrap();
        let last_row =
            text.len() - text.iter().rev().skip(1).position(|&b| b == b'\n').unwrap();
        let keep = (last_row - 1 + keep).min(text.len());
        fs::write(&path, &text[..keep]).unwrap();
        if cut_file == "samples.csv" {
            // Samples are written first: the row was not there yet.
            let path = folder.join("results.csv");
            let text = fs::read_to_string(&path).unwrap();
            let two_rows =
                text.lines().take(3).map(|l| format!("{l}\n")).collect::<String>();
            fs::write(&path, two_rows).unwrap();
        }
        folder
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(40))]
        #[test]
        fn a_kill_during_any_write_loses_and_doubles_nothing(
            keep in 0usize..700, in_samples in any::<bool>()
        ) {
            let dir = tempfile::tempdir().unwrap();
            let cut_file = if in_samples { "samples.csv" } else { "results.csv" };
            let folder = cut_campaign(dir.path(), cut_file, keep);
            let mut recorder = Recorder::resume(&folder, &run("s")).unwrap();
            prop_assert!(recorder.has("a", 0) && recorder.has("b", 0));
            if !recorder.has("c", 0) {
                recorder.record(&row("c", 0), &[sample("c", 0), sample("c", 1)]).unwrap();
            }
            drop(recorder);
            let rows = Records::read(&folder).unwrap().rows;
            let ids: Vec<_> = rows.iter().map(|r| r.point_id.as_str()).collect();
            prop_assert_eq!(ids, ["a", "b", "c"]);
            let samples: Vec<SampleRow> = read_csv(&folder.join("samples.csv")).unwrap();
            let expected: Vec<_> = ["a", "b", "c"]
                .iter()
                .flat_map(|id| [sample(id, 0), sample(id, 1)])
                .collect();
            prop_assert_eq!(samples, expected);
        }
    }
}

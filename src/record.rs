//! Records on disk. A campaign is a folder of four CSV files:
//!
//! * `run.csv`: one row for each process that worked on it: provenance;
//! * `results.csv`: one row for each planned point: model, time, check, status;
//! * `rounds.csv`: one row for each round of a point that was measured;
//! * `samples.csv`: every timed sample.
//!
//! What was measured is stored with its unit in the column's name, in SI units
//! without prefixes; rates and fractions are derived on reading. Empty means
//! unknown. The samples of a round reach the disk before its row does, and the rounds
//! of a point before the point's row, each in one write, so a process may be killed at
//! any moment: what a reader then drops is a torn last line and samples of rounds that
//! have no row.

use std::fmt;
use std::fs;
use std::path::Path;

use anyhow::{Context, Result, bail};
use csv::StringRecord;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

mod counters;
mod layout;
mod merge;
mod recorder;
mod samples;

pub use counters::{
    CacheControl, CountedRow, CounterRow, Witnesses, counted_csv, counters_csv,
};
pub use merge::{MergedFile, first_cells, runs_csv};
pub use recorder::{
    RecordedRound, Recorder, results_header, rounds_header, samples_header, shape_values,
};
pub use samples::SampleTimes;

pub use crate::files::write_atomically;
use crate::op::shape_keys;

/// Version of the columns.
pub const SCHEMA_VERSION: u32 = 6;

/// What `load` says of kernels that were measured again in turn with other libraries'.
const IN_TURN: &str = "in_turn";

/// What `peer_clocks` of `run.csv` says where clocks of other libraries' kernels were read as
/// those of own kernels are, around each sample.
pub const CLOCKS_IN_SAMPLES: &str = "samples";

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
    /// Measured, but others used the machine in too many of its rounds: not to be used.
    Disturbed,
    /// Measured, but the device was slowed down for its heat in too many of its rounds: not
    /// to be used.
    Throttled,
    /// Not measured: the device lacks something, and `reason` says what.
    Skipped,
    /// Not measured: the launch failed.
    Failed,
    /// Not measured, or not to be used: the output is wrong.
    Wrong,
}

impl Status {
    /// All of them, from good to bad.
    pub const ALL: [Status; 7] = [
        Status::Ok,
        Status::Noisy,
        Status::Disturbed,
        Status::Throttled,
        Status::Skipped,
        Status::Failed,
        Status::Wrong,
    ];

    /// The spelling used in tables and CSV files.
    pub const fn name(self) -> &'static str {
        match self {
            Status::Ok => "ok",
            Status::Noisy => "noisy",
            Status::Disturbed => "disturbed",
            Status::Throttled => "throttled",
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

/// A row of `results.csv` as text and numbers; what texts mean is read by
/// [`crate::analysis`]. The columns of [`crate::op::shape_keys`] follow it
/// on disk, for people who filter by shape; they are read back from `problem`.
/// Columns that an older version did not write are read as empty.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
#[allow(missing_docs, reason = "the columns are described in docs/FORMAT.md")]
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
    /// What the kernel is of: this program with its version, or a library with its own. Empty
    /// in records of before. The recorder writes it after the shape columns.
    #[serde(skip_serializing)]
    pub implementation: String,
    #[serde(skip_serializing)]
    pub launch_mode: String,
    #[serde(skip_serializing)]
    pub load: String,
    #[serde(skip_serializing)]
    pub power_w: Option<f64>,
    #[serde(skip_serializing)]
    pub clock_limits: String,
    #[serde(skip_serializing)]
    pub energy_per_launch_j: Option<f64>,
    /// The configuration in which the kernel ran, and whether it is the kernel's default, the
    /// point asked for it or a tuning table says so.
    #[serde(skip_serializing)]
    pub configuration: String,
    #[serde(skip_serializing)]
    pub configuration_from: String,
    /// Line of the file that it was read from, for messages. Not a column.
    #[serde(skip)]
    pub line: u64,
    /// The shape columns as they were read, those with a value, where one is not as the
    /// recorder writes it from `problem`.
    #[serde(skip)]
    pub shape: Option<Vec<(String, String)>>,
}

impl Row {
    /// What identifies the row within its campaign.
    pub fn key(&self) -> (String, u32) {
        (self.point_id.clone(), self.repeat)
    }

    /// Whether it is of a point of the plan: no repeat of the sentinel, and nothing that was
    /// measured again in turn with peers.
    pub fn is_planned(&self) -> bool {
        self.repeat == 0 && self.load != IN_TURN
    }

    /// Whether a kernel of this program was measured, and not one of another library that is
    /// there to compare with. What claims rest on are own rows alone.
    pub fn is_own(&self) -> bool {
        self.implementation.is_empty() || self.implementation.starts_with(OWN_NAME)
    }
}

/// How the column `implementation` begins in rows of this program's kernels.
const OWN_NAME: &str = "ridgepoint";

/// The column `implementation` of this program's kernels.
pub fn own_implementation() -> String {
    format!("{OWN_NAME} {}", env!("CARGO_PKG_VERSION"))
}

/// A value of a record that cannot be read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unreadable {
    /// `results.csv`, `run.csv` or `samples.csv`.
    pub file: &'static str,
    /// Line of that file, from 1; 0 where the record came from no file.
    pub line: u64,
    /// The column, unless the whole line is broken.
    pub column: Option<String>,
    /// The value as written.
    pub value: String,
    /// What is wrong, and which values are known.
    pub why: String,
}

impl fmt::Display for Unreadable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Unreadable { file, line, column, value, why } = self;
        write!(f, "{file} line {line}")?;
        if let Some(column) = column {
            write!(f, ", column {column}: `{value}`")?;
        }
        write!(f, ": {why}")
    }
}

/// A row of `samples.csv`: `launches` launches timed together.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[allow(missing_docs, reason = "the columns are described in docs/FORMAT.md")]
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
    #[serde(default)]
    pub round: u32,
    /// Power that the device drew meanwhile.
    #[serde(default)]
    pub power_w: Option<f64>,
    /// Clock of the device's memory meanwhile.
    #[serde(default)]
    pub memory_clock_hz: Option<f64>,
    /// Temperature of the device meanwhile.
    #[serde(default)]
    pub temperature_c: Option<f64>,
    /// What kept its clocks down meanwhile, as names with `+` between them.
    #[serde(default)]
    pub clock_limits: String,
}

/// A row of `rounds.csv`: one round of a point, laid out anew.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
#[allow(missing_docs, reason = "the columns are described in docs/FORMAT.md")]
pub struct RoundRow {
    pub run_id: String,
    pub point_id: String,
    pub repeat: u32,
    pub round: u32,
    /// Whether something else slowed it down, so that its time is not to be used.
    pub disturbed: bool,
    pub started_utc: String,
    /// Seconds since the process began to measure.
    pub since_start_s: f64,
    pub launches_per_sample: u64,
    pub n_samples: u64,
    pub time_s_median: f64,
    pub time_s_ci_lo: f64,
    pub time_s_ci_hi: f64,
    pub sm_clock_hz_median: Option<f64>,
    pub other_cpu_share: Option<f64>,
    pub setup_s: f64,
    pub check_s: f64,
    pub warmup_s: f64,
    pub sample_s: f64,
    /// Whether the interval of its own samples is as narrow as the suite wants.
    pub precise: bool,
    /// Median seconds of an empty launch just before, where it was measured.
    pub launch_overhead_s: Option<f64>,
    /// Smallest difference that the clock showed just before, where it was looked for.
    pub timer_quantum_s: Option<f64>,
    /// Median seconds of a launch of the campaign's compute probe just before.
    pub compute_probe_s: Option<f64>,
    /// Temperature of the device at the end.
    pub temperature_c: Option<f64>,
    /// What slowed it down, where it is `disturbed`.
    pub disturbed_by: String,
    /// Mean power that the device drew meanwhile.
    pub power_w: Option<f64>,
    /// Clock of the device's memory meanwhile.
    pub memory_clock_hz: Option<f64>,
    /// What kept its clocks down meanwhile, as names with `+` between them.
    pub clock_limits: String,
    /// What was measured beside it just before took so long.
    pub probe_s: f64,
    /// Giving its buffers back took so long.
    pub release_s: f64,
}

impl RoundRow {
    /// What identifies the row's point within its campaign.
    pub fn point_key(&self) -> (String, u32) {
        (self.point_id.clone(), self.repeat)
    }
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
    /// Rows of `rounds.csv`; none where an older version wrote the folder.
    pub rounds: Vec<RoundRow>,
    /// Rows of `results.csv` that are not what this version writes.
    pub unreadable: Vec<Unreadable>,
    /// Columns of `results.csv`; empty where the records came from no file.
    pub columns: Vec<String>,
    /// What hardware counters and the virtual machine said of its points.
    pub witnesses: Witnesses,
}

impl Records {
    /// Reads `run.csv` alone.
    ///
    /// # Errors
    /// A file that is missing or does not parse, with its line.
    pub fn read_runs(folder: &Path) -> Result<Vec<Run>> {
        read_runs(&folder.join("run.csv"))
    }

    /// Reads `run.csv`, `results.csv` and `rounds.csv`, and `counters.csv` and `counted.csv`
    /// where they are there. A torn last line is left out; a row
    /// of `results.csv` that does not parse costs only itself.
    ///
    /// # Errors
    /// A file that is missing, a `run.csv`, `rounds.csv`, `counters.csv` or `counted.csv`
    /// that does not parse, with its line.
    pub fn read(folder: &Path) -> Result<Self> {
        if !folder.is_dir() {
            bail!("{} is not a folder; give one that `measure` wrote", folder.display());
        }
        let runs = read_runs(&folder.join("run.csv"))?;
        let results = read_results(&folder.join("results.csv"))?;
        let rounds = match folder.join("rounds.csv") {
            path if path.exists() => read_csv(&path)?,
            _ => Vec::new(),
        };
        let witnesses = Witnesses::read(folder)?;
        Ok(Records { runs, rounds, witnesses, ..results })
    }
}

/// The text of a file up to its last complete line.
fn complete_lines(path: &Path) -> Result<String> {
    let mut text = fs::read_to_string(path)
        .with_context(|| format!("cannot read {}", path.display()))?;
    text.truncate(text.rfind('\n').map_or(0, |end| end + 1));
    Ok(text)
}

/// The same for readers of CSV, who count lines by their ends: with line ends as this program
/// writes them.
fn csv_text(path: &Path) -> Result<String> {
    let text = complete_lines(path)?;
    Ok(if text.contains('\r') { text.replace("\r\n", "\n") } else { text })
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

fn read_csv<T: DeserializeOwned>(path: &Path) -> Result<Vec<T>> {
    let text = csv_text(path)?;
    let mut reader = csv::Reader::from_reader(text.as_bytes());
    let rows: Result<Vec<T>, csv::Error> = reader.deserialize().collect();
    rows.with_context(|| format!("{} does not parse", path.display()))
}

/// The rows of `results.csv`, and those that do not parse.
fn read_results(path: &Path) -> Result<Records> {
    let text = csv_text(path)?;
    let mut reader = csv::Reader::from_reader(text.as_bytes());
    let header = reader.headers()?.clone();
    let shape = ShapeColumns::of(&header);
    let (mut rows, mut unreadable) = (Vec::new(), Vec::new());
    for record in reader.records() {
        let parsed = match record {
            Ok(record) => parse_row(&header, &shape, &record),
            Err(error) => Err(broken_line(&error)),
        };
        match parsed {
            Ok(row) => rows.push(row),
            Err(value) => unreadable.push(value),
        }
    }
    let columns = header.iter().map(str::to_owned).collect();
    Ok(Records { rows, unreadable, columns, ..Records::default() })
}

/// Where a file has the shape columns, in the order of their keys.
struct ShapeColumns(Vec<Option<usize>>);

impl ShapeColumns {
    fn of(header: &StringRecord) -> Self {
        let place = |key: &str| {
            header.iter().position(|name| name.strip_prefix("shape_") == Some(key))
        };
        ShapeColumns(shape_keys().into_iter().map(place).collect())
    }

    /// The cells with a value, unless all are as the recorder writes them.
    fn read(
        &self,
        header: &StringRecord,
        record: &StringRecord,
        problem: &str,
    ) -> Option<Vec<(String, String)>> {
        let cells = self.0.iter().zip(shape_values(problem));
        let are_same = |(place, value): (&Option<usize>, String)| {
            place.is_none_or(|at| record.get(at).unwrap_or_default() == value)
        };
        if cells.into_iter().all(are_same) {
            return None;
        }
        let cells = header.iter().zip(record.iter());
        let shape = cells
            .filter(|(name, value)| name.starts_with("shape_") && !value.is_empty())
            .map(|(name, value)| (name.to_owned(), value.to_owned()));
        Some(shape.collect())
    }
}

fn parse_row(
    header: &StringRecord,
    shape: &ShapeColumns,
    record: &StringRecord,
) -> Result<Row, Unreadable> {
    let line = record.position().map_or(0, csv::Position::line);
    match record.deserialize::<Row>(Some(header)) {
        Ok(row) => {
            let shape = shape.read(header, record, &row.problem);
            Ok(Row { line, shape, ..row })
        }
        Err(error) => {
            let csv::ErrorKind::Deserialize { err, .. } = error.kind() else {
                return Err(Unreadable { line, ..broken_line(&error) });
            };
            // The CSV library counts the columns of numbers only. What is neither
            // text nor a number is a status.
            let at = match err.field() {
                Some(field) => usize::try_from(field).ok(),
                None => header.iter().position(|name| name == "status"),
            };
            let text = |of: &StringRecord| Some(of.get(at?)?.to_owned());
            Err(Unreadable {
                file: "results.csv",
                line,
                column: text(header),
                value: text(record).unwrap_or_default(),
                why: err.kind().to_string(),
            })
        }
    }
}

fn broken_line(error: &csv::Error) -> Unreadable {
    Unreadable {
        file: "results.csv",
        line: error.position().map_or(0, csv::Position::line),
        column: None,
        value: String::new(),
        why: error.to_string(),
    }
}

fn read_runs(path: &Path) -> Result<Vec<Run>> {
    let text = csv_text(path)?;
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

#[cfg(test)]
mod tests;

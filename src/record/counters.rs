//! What others than the clock said of a campaign's points, after it was measured:
//! `counters.csv` by the GPU's hardware counters, `counted.csv` by the virtual machine. Both
//! may be missing, and both are written whole.

use std::path::Path;

use anyhow::Result;
use serde::{Deserialize, Serialize};

use super::read_csv;

/// What the profiler did with the caches before each pass over a kernel.
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
pub enum CacheControl {
    /// It flushed them all.
    #[default]
    All,
    /// Nothing: a kernel found what the launch before it had left.
    None,
}

impl CacheControl {
    /// Both, in the order in which they are asked for.
    pub const ALL: [CacheControl; 2] = [CacheControl::All, CacheControl::None];

    /// The spelling of CSV files and of `ncu --cache-control`.
    pub const fn name(self) -> &'static str {
        match self {
            CacheControl::All => "all",
            CacheControl::None => "none",
        }
    }
}

/// A row of `counters.csv`: a point under the profiler. Sums over the kernels of a launch,
/// means over the launches that were profiled; shares are shares of 1.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
#[allow(missing_docs, reason = "the columns are described in docs/FORMAT.md")]
pub struct CounterRow {
    pub point_id: String,
    pub cache_control: CacheControl,
    pub reason: String,
    pub tool: String,
    pub started_utc: String,
    pub code_hash: String,
    pub launches: u64,
    pub kernels_per_launch: u64,
    pub passes: Option<u64>,
    pub dram_bytes_read: Option<f64>,
    pub dram_bytes_read_min: Option<f64>,
    pub dram_bytes_read_max: Option<f64>,
    pub dram_bytes_written: Option<f64>,
    pub dram_bytes_written_min: Option<f64>,
    pub dram_bytes_written_max: Option<f64>,
    pub l2_hit_share: Option<f64>,
    pub dram_share: Option<f64>,
    pub tensor_share: Option<f64>,
    pub issue_share: Option<f64>,
    pub warps_share: Option<f64>,
    pub sm_clock_hz: Option<f64>,
    pub profiled_time_s: Option<f64>,
    pub tensor_flops: Option<f64>,
}

impl CounterRow {
    /// Whether it has bytes.
    pub const fn is_counted(&self) -> bool {
        self.dram_bytes_read.is_some() && self.dram_bytes_written.is_some()
    }

    /// Its numbers with their columns.
    pub fn numbers(&self) -> [(&'static str, Option<f64>); 15] {
        [
            ("dram_bytes_read", self.dram_bytes_read),
            ("dram_bytes_read_min", self.dram_bytes_read_min),
            ("dram_bytes_read_max", self.dram_bytes_read_max),
            ("dram_bytes_written", self.dram_bytes_written),
            ("dram_bytes_written_min", self.dram_bytes_written_min),
            ("dram_bytes_written_max", self.dram_bytes_written_max),
            ("l2_hit_share", self.l2_hit_share),
            ("dram_share", self.dram_share),
            ("tensor_share", self.tensor_share),
            ("issue_share", self.issue_share),
            ("warps_share", self.warps_share),
            ("sm_clock_hz", self.sm_clock_hz),
            ("profiled_time_s", self.profiled_time_s),
            ("tensor_flops", self.tensor_flops),
            ("launches", Some(self.launches as f64)),
        ]
    }
}

/// A row of `counted.csv`: a point executed on the virtual machine.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
#[allow(missing_docs, reason = "the columns are described in docs/FORMAT.md")]
pub struct CountedRow {
    pub point_id: String,
    pub reason: String,
    pub arch: String,
    pub flops_counted: Option<u64>,
    pub tensor_flops_counted: Option<u64>,
    pub bytes_counted: Option<u64>,
    pub bytes_extra: Option<u64>,
}

/// Both files of a campaign.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Witnesses {
    /// Rows of `counters.csv`; `None` without the file.
    pub counters: Option<Vec<CounterRow>>,
    /// Rows of `counted.csv`; `None` without the file.
    pub counted: Option<Vec<CountedRow>>,
}

impl Witnesses {
    /// Reads the files that are there.
    ///
    /// # Errors
    /// A file that cannot be read or does not parse, with its line.
    pub fn read(folder: &Path) -> Result<Self> {
        let counters = folder.join("counters.csv");
        let counted = folder.join("counted.csv");
        Ok(Witnesses {
            counters: counters.exists().then(|| read_csv(&counters)).transpose()?,
            counted: counted.exists().then(|| read_csv(&counted)).transpose()?,
        })
    }
}

/// The text of `counters.csv`.
///
/// # Errors
/// None that a row can cause.
pub fn counters_csv(rows: &[CounterRow]) -> Result<String> {
    csv_text(rows)
}

/// The text of `counted.csv`.
///
/// # Errors
/// None that a row can cause.
pub fn counted_csv(rows: &[CountedRow]) -> Result<String> {
    csv_text(rows)
}

/// A file of rows. One without rows has no header either, and reads as no rows.
fn csv_text<T: Serialize>(rows: &[T]) -> Result<String> {
    let mut writer = csv::Writer::from_writer(Vec::new());
    for row in rows {
        writer.serialize(row)?;
    }
    Ok(String::from_utf8(writer.into_inner()?)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_files_read_back() {
        let folder = tempfile::tempdir().unwrap();
        assert_eq!(Witnesses::read(folder.path()).unwrap(), Witnesses::default());
        let counters = vec![
            CounterRow {
                point_id: "a".into(),
                cache_control: CacheControl::None,
                dram_bytes_read: Some(1.5),
                launches: 2,
                ..CounterRow::default()
            },
            CounterRow {
                point_id: "b".into(),
                reason: "no permission, \"ask\"".into(),
                ..CounterRow::default()
            },
        ];
        let row = CountedRow {
            point_id: "a".into(),
            bytes_counted: Some(7),
            ..CountedRow::default()
        };
        let counted = vec![row];
        let write = |name: &str, text: String| {
            std::fs::write(folder.path().join(name), text).unwrap();
        };
        write("counters.csv", counters_csv(&counters).unwrap());
        write("counted.csv", counted_csv(&counted).unwrap());
        let read = Witnesses::read(folder.path()).unwrap();
        assert_eq!(read, Witnesses { counters: Some(counters), counted: Some(counted) });
        write("counters.csv", String::new());
        let read = Witnesses::read(folder.path()).unwrap();
        assert_eq!(read.counters, Some(Vec::new()));
    }
}

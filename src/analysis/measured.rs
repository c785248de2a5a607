//! A row of `results.csv` with every value read: types in place of texts.

use std::fmt::Display;
use std::str::FromStr;

use super::point_counters::PointCounters;
use crate::device::DeviceKind;
use crate::op::{Access, JudgedFacts, Problem, Reuse};
use crate::point::{CacheState, KernelName, LaunchMode, Load, Point};
use crate::record::{CountedRow, Row, Status, Unreadable};
use crate::reference;
use crate::residency::Residency;
use crate::resource::Work;
use crate::roofline::{Peaks, Roof};
use crate::statistics::Estimate;

/// A row with its problem and, where it carries a time, its place under the
/// ceilings.
#[derive(Clone, Debug)]
pub struct Measured {
    /// Id of the point.
    pub point_id: String,
    /// What was asked.
    pub problem: Problem,
    /// The kernel that did it.
    pub kernel: KernelName,
    /// What the kernel is of; empty in records of before.
    pub implementation: String,
    /// Whether a kernel of this program was measured: see [`Row::is_own`].
    is_own: bool,
    /// What the caches held.
    pub cache: CacheState,
    /// How its launches were queued, where the row says it.
    pub launch: Option<LaunchMode>,
    /// What the device did before; `None` for a warm-up as the suite has it.
    pub load: Option<Load>,
    /// Whether the time comes from hardware; `None` where the row does not say.
    pub device_kind: Option<DeviceKind>,
    /// What became of it.
    pub status: Status,
    /// Why it is not `ok`.
    pub reason: String,
    /// What the last comparison with the reference said, if one was made.
    pub check: Option<reference::CheckVerdict>,
    /// What held the bytes between two uses; `None` for what was not laid out.
    pub residency: Option<Residency>,
    /// Distinct bytes touched between two uses of the same byte.
    pub reuse_distance_bytes: Option<u64>,
    /// Share of the CPU time that others took meanwhile.
    pub other_cpu_share: Option<f64>,
    /// Median clock of a GPU's multiprocessors meanwhile, in Hz.
    pub sm_clock_hz: Option<f64>,
    /// When it began.
    pub started: Option<jiff::Timestamp>,
    /// The problem's FLOPs and compulsory bytes.
    pub work: Work,
    /// Seconds of one launch; `None` unless the row carries a usable time.
    pub time_s: Option<Estimate>,
    /// Median seconds of each of its rounds, or of each process; empty where the records
    /// have no rounds.
    pub round_medians_s: Vec<f64>,
    /// Bytes that the kernel declares beyond the compulsory ones, where it knows them.
    pub bytes_extra: Option<u64>,
    /// What hardware counters said; `None` where they were not asked.
    pub counters: Option<PointCounters>,
    /// What the virtual machine counted; `None` where it was not asked.
    pub counted: Option<CountedRow>,
    /// Seconds to move the bytes at the measured bandwidth.
    pub memory_s: Option<f64>,
    /// Least time under the measured ceilings; `None` too where the format has
    /// no measured compute ceiling.
    pub empirical: Option<Roof>,
    /// Least time under the ceilings derived from the device's clocks.
    pub derived: Option<Roof>,
    /// Least time under the data sheet's ceilings.
    pub spec: Option<Roof>,
}

impl Measured {
    /// Reads a row. The roofs are not known yet.
    ///
    /// # Errors
    /// The first value that cannot be read.
    pub(super) fn read(row: &Row) -> Result<Self, Unreadable> {
        let problem: Problem = parsed(row, "problem", &row.problem)?;
        Ok(Measured {
            point_id: row.point_id.clone(),
            work: problem.work(),
            problem,
            kernel: parsed(row, "kernel", &row.kernel)?,
            implementation: row.implementation.clone(),
            is_own: row.is_own(),
            cache: parsed(row, "cache_state", &row.cache_state)?,
            launch: row.launch_mode.parse().ok(),
            load: unless_empty(row, "load", &row.load)?,
            device_kind: unless_empty(row, "device_kind", &row.device_kind)?,
            status: status_of(row)?,
            reason: row.reason.clone(),
            check: check_of(row)?,
            residency: unless_empty(row, "residency", &row.residency)?,
            reuse_distance_bytes: row.reuse_distance_bytes,
            other_cpu_share: row.other_cpu_share,
            sm_clock_hz: row.sm_clock_hz_median,
            started: unless_empty(row, "started_utc", &row.started_utc)?,
            time_s: time_of(row)?,
            round_medians_s: Vec::new(),
            bytes_extra: row.bytes_extra,
            counters: None,
            counted: None,
            memory_s: None,
            empirical: None,
            derived: None,
            spec: None,
        })
    }

    /// Its status in words for readers: nothing that was simulated passes for `ok`.
    pub fn status_name(&self) -> &'static str {
        match (self.device_kind, self.status.has_time()) {
            (Some(kind @ DeviceKind::Simulated), true) => kind.name(),
            _ => self.status.name(),
        }
    }

    /// Whether a kernel of this program was measured: see [`Row::is_own`].
    pub fn is_own(&self) -> bool {
        self.is_own
    }

    /// What was measured, under the launch mode that was taken.
    pub fn point(&self) -> Point {
        Point {
            problem: self.problem,
            kernel: self.kernel.clone(),
            cache: self.cache,
            launch: self.launch,
            load: self.load,
        }
    }

    /// The working set by which bandwidths are looked up, in bytes.
    pub(super) fn footprint_bytes(&self) -> u64 {
        self.reuse_distance_bytes.unwrap_or(u64::MAX)
    }

    /// Its least time under ceilings; `None` where they lack its format.
    pub(super) fn roof(&self, peaks: &Peaks) -> Option<Roof> {
        peaks.roof(&self.work, self.footprint_bytes())
    }

    /// What is true of all points of its operation.
    pub fn judged_facts(&self) -> &'static JudgedFacts {
        &self.problem.op().facts().judged
    }

    /// The direction of traffic whose bandwidth it measures, if it is a stream.
    pub fn memory_roof(&self) -> Option<Access> {
        self.problem.operation().memory_roof()
    }

    /// How it goes several times through the bytes that it reads, if that is what it is for.
    pub fn reuse(&self) -> Option<Reuse> {
        self.problem.operation().reuse()
    }

    /// Whether memory that cores share bounds its time: not where each core reads its own
    /// share again, from a cache of its own.
    pub(super) fn has_roofs(&self) -> bool {
        self.reuse() != Some(Reuse::Own)
    }

    /// Whether all of its bytes came from DRAM.
    pub fn is_from_dram(&self) -> bool {
        self.residency == Some(Residency::Dram)
    }

    /// Measured FLOPs per second.
    pub fn flops_per_s(&self) -> Option<Estimate> {
        let flops = self.work.flops();
        self.time_s.filter(|_| flops > 0).map(|t| t.into_rate(flops as f64))
    }

    /// Compulsory bytes per measured second.
    pub fn bytes_per_s(&self) -> Option<Estimate> {
        let bytes = self.work.bytes();
        self.time_s.filter(|_| bytes > 0).map(|t| t.into_rate(bytes as f64))
    }

    /// Share of the binding measured roof that was reached.
    pub fn fraction(&self) -> Option<Estimate> {
        Some(self.time_s?.into_rate(self.empirical?.time_s()))
    }

    /// Share of the memory roof, whether it binds or not.
    pub fn memory_fraction(&self) -> Option<Estimate> {
        Some(self.time_s?.into_rate(self.memory_s?))
    }

    /// Share of the compute roof, whether it binds or not.
    pub fn compute_fraction(&self) -> Option<Estimate> {
        Some(self.time_s?.into_rate(self.empirical?.compute_s))
    }

    /// Share of the roof of the link that takes longest, whether it binds or not.
    pub fn link_fraction(&self) -> Option<Estimate> {
        Some(self.time_s?.into_rate(self.empirical?.link_s))
    }
}

fn unreadable(row: &Row, column: &str, value: &str, why: impl Display) -> Unreadable {
    Unreadable {
        file: "results.csv",
        line: row.line,
        column: Some(column.to_owned()),
        value: value.to_owned(),
        why: why.to_string(),
    }
}

fn parsed<T: FromStr<Err: Display>>(
    row: &Row,
    column: &str,
    text: &str,
) -> Result<T, Unreadable> {
    text.parse().map_err(|why| unreadable(row, column, text, why))
}

/// Columns that an older version did not write are empty.
fn unless_empty<T: FromStr<Err: Display>>(
    row: &Row,
    column: &str,
    text: &str,
) -> Result<Option<T>, Unreadable> {
    (!text.is_empty()).then(|| parsed(row, column, text)).transpose()
}

fn status_of(row: &Row) -> Result<Status, Unreadable> {
    row.status.ok_or_else(|| {
        let known = Status::ALL.map(Status::name).join(", ");
        unreadable(row, "status", "", format!("a row has one of {known}"))
    })
}

fn check_of(row: &Row) -> Result<Option<reference::CheckVerdict>, Unreadable> {
    use reference::CheckVerdict;
    if ["", "none"].contains(&row.check.as_str()) {
        return Ok(None);
    }
    let verdict = [CheckVerdict::Pass, CheckVerdict::Fail]
        .into_iter()
        .find(|v| v.name() == row.check);
    let why = "known are none, pass and fail";
    verdict.map(Some).ok_or_else(|| unreadable(row, "check", &row.check, why))
}

/// The time of a row, if it has one that may be used. Files can be edited, and
/// an impossible time would make every share of a roof meaningless.
fn time_of(row: &Row) -> Result<Option<Estimate>, Unreadable> {
    let Some(status) = row.status.filter(|status| status.has_time()) else {
        return Ok(None);
    };
    match (row.time_s_median, row.time_s_ci_lo, row.time_s_ci_hi) {
        (Some(value), Some(lo), Some(hi))
            if 0.0 < lo && lo <= value && value <= hi && hi.is_finite() =>
        {
            Ok(Some(Estimate { value, lo, hi }))
        }
        (value, lo, hi) => {
            let shown = |value: Option<f64>| {
                value.map_or("nothing".to_owned(), |seconds| format!("{seconds} s"))
            };
            let why = format!(
                "a row that is {} has a median time within its interval, here {} to {}; all \
                 three must be positive and in order",
                status.name(),
                shown(lo),
                shown(hi)
            );
            let value = value.map_or(String::new(), |value| value.to_string());
            Err(unreadable(row, "time_s_median", &value, why))
        }
    }
}

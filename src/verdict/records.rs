//! Records held against each other and against what this version computes: files can be
//! edited, mixed, cut, or written by another version, and a number that is only believed
//! is not a measurement.

use std::collections::{HashMap, HashSet};

use super::{Judge, counted};
use crate::analysis::Campaign;
use crate::analysis::contradictions::{self, ROUNDING, are_equal, in_row};
use crate::op::Problem;
use crate::provenance::{MACHINE_COLUMNS, PROGRAM_COLUMNS, Provenance, differences};
use crate::record::{RoundRow, Row, Run, SCHEMA_VERSION, SampleTimes, Unreadable};
use crate::statistics;

/// Most findings of one kind that are told one by one; the others are counted.
const TOLD: usize = 5;

/// Columns of `run.csv` without which nobody knows whose the rows are. Every version has
/// written them.
const RUN_COLUMNS: [&str; 6] =
    ["schema_version", "run_id", "protocol", "host_hash", "device", "device_kind"];

/// Columns of `results.csv` without which there is nothing to judge. Every version has
/// written them.
const RESULT_COLUMNS: [&str; 20] = [
    "run_id",
    "point_id",
    "repeat",
    "order_index",
    "device",
    "device_kind",
    "op",
    "kernel",
    "cache_state",
    "status",
    "problem",
    "matrix_flops_model",
    "vector_flops_model",
    "bytes_read_model",
    "bytes_written_model",
    "reuse_distance_bytes",
    "residency",
    "time_s_median",
    "time_s_ci_lo",
    "time_s_ci_hi",
];

impl Judge<'_> {
    /// What about the files contradicts itself, as faults, and what could not be checked,
    /// as warnings. Rows that came from no file have nothing to be held against.
    pub(super) fn check_records(
        &self,
        faults: &mut Vec<String>,
        warnings: &mut Vec<String>,
    ) {
        let files = Files::of(self.campaign);
        if files.campaign.columns.is_empty() {
            return;
        }
        let checks = [
            files.schema(),
            files.machines(),
            files.run_ids(),
            files.devices(),
            files.point_ids(),
            files.model_columns(),
            files.shapes(),
            files.residencies(),
        ];
        checks.into_iter().for_each(|found| tell(faults, "inconsistent", found));
        let samples = self.campaign.samples.as_ref();
        let unreadable = samples.map(|samples| samples.unreadable.clone());
        tell(faults, "unreadable", unreadable.unwrap_or_default());
        tell(faults, "inconsistent", files.medians());
        warnings.extend(files.programs());
        warnings.extend(files.unsampled());
    }
}

/// Adds findings of one kind, the first few in full.
fn tell(remarks: &mut Vec<String>, what: &str, found: Vec<Unreadable>) {
    let rest = found.len().saturating_sub(TOLD);
    let column = found.first().and_then(|finding| finding.column.clone());
    let file = found.first().map_or("", |finding| finding.file);
    remarks.extend(found.iter().take(TOLD).map(|finding| format!("{what}: {finding}")));
    if rest > 0 {
        remarks.push(format!(
            "{what}: {} in {file} as the above, column {}",
            counted(rest, "more line is", "more lines are"),
            column.unwrap_or_default()
        ));
    }
}

/// The files of a campaign.
struct Files<'a> {
    campaign: &'a Campaign,
    /// Runs by their id.
    runs: HashMap<&'a str, &'a Run>,
    /// Rounds that were disturbed: the point, its repeat and the round.
    disturbed: HashSet<(&'a str, u32, u32)>,
}

impl<'a> Files<'a> {
    fn of(campaign: &'a Campaign) -> Self {
        let runs = campaign.runs.iter();
        let runs = runs.filter_map(|run| Some((run.get("run_id")?, run))).collect();
        let disturbed = campaign.rounds.iter().filter(|round| round.disturbed);
        let key = |round: &'a RoundRow| (&*round.point_id, round.repeat, round.round);
        Files { campaign, runs, disturbed: disturbed.map(key).collect() }
    }

    fn rows(&self) -> impl Iterator<Item = &'a Row> {
        self.campaign.rows.iter()
    }

    fn run_of(&self, row: &Row) -> Option<&'a Run> {
        self.runs.get(row.run_id.as_str()).copied()
    }

    /// Rows of `run.csv` with their lines; the header is the first.
    fn runs(&self) -> impl Iterator<Item = (u64, &'a Run)> {
        (2..).zip(&self.campaign.runs)
    }

    fn has_column(&self, name: &str) -> bool {
        self.campaign.columns.iter().any(|column| column == name)
    }

    /// Columns that are missing, and versions that this program cannot read.
    fn schema(&self) -> Vec<Unreadable> {
        let missing = "the file does not have this column; it was cut, or something other \
                       than this program wrote it";
        let first = self.campaign.runs.first();
        let of_runs = RUN_COLUMNS.iter().filter(|name| {
            let run = first.map(|run| run.get(name));
            run.is_some_and(|value| value.is_none())
        });
        let mut found: Vec<Unreadable> =
            of_runs.map(|name| finding("run.csv", 1, name, "", missing.into())).collect();
        let of_rows = RESULT_COLUMNS.iter().filter(|name| !self.has_column(name));
        found.extend(of_rows.map(|name| in_row(1, name, "", missing.into())));
        for (line, run) in self.runs() {
            let Some(version) = run.get("schema_version") else { continue };
            let why = match version.parse::<u32>() {
                Ok(known) if (1..=SCHEMA_VERSION).contains(&known) => continue,
                Ok(newer) if newer > SCHEMA_VERSION => format!(
                    "these files are newer than this program, which reads versions 1 to \
                     {SCHEMA_VERSION}; use the program that wrote them, or a later one"
                ),
                _ => format!("a version is a number from 1 to {SCHEMA_VERSION}"),
            };
            found.push(finding("run.csv", line, "schema_version", version, why));
        }
        found
    }

    /// Processes that ran on another machine than the first.
    fn machines(&self) -> Vec<Unreadable> {
        let Some(first) = self.campaign.runs.first() else { return Vec::new() };
        let of_run = |(line, run): (u64, &Run)| -> Vec<Unreadable> {
            let told = differences(first, run, &MACHINE_COLUMNS).into_iter().map(|d| {
                let why = format!(
                    "rows of two machines are in one folder: line 2 has `{}`; put the rows \
                     of each run_id into a folder of their own",
                    d.was
                );
                finding("run.csv", line, d.column, &d.is, why)
            });
            told.collect()
        };
        self.runs().flat_map(of_run).collect()
    }

    /// Rows of processes that `run.csv` lacks.
    fn run_ids(&self) -> Vec<Unreadable> {
        if self.runs.is_empty() {
            return Vec::new();
        }
        let unknown = self.rows().filter(|row| self.run_of(row).is_none());
        let told = unknown.map(|row| {
            let why = "run.csv has no such run; rows of another campaign were mixed in, or \
                       run.csv lost a line";
            in_row(row.line, "run_id", &row.run_id, why.into())
        });
        told.collect()
    }

    /// Rows that name another device than their process does.
    fn devices(&self) -> Vec<Unreadable> {
        let mut found = Vec::new();
        for row in self.rows() {
            let Some(run) = self.run_of(row) else { continue };
            for (column, value) in
                [("device", &row.device), ("device_kind", &row.device_kind)]
            {
                let of_run = run.get(column).unwrap_or_default();
                if !of_run.is_empty() && of_run != value {
                    let why = format!("the row's process ran on `{of_run}`, by run.csv");
                    found.push(in_row(row.line, column, value, why));
                }
            }
        }
        found
    }

    /// Ids that are not those of the row's point.
    fn point_ids(&self) -> Vec<Unreadable> {
        let found = self.rows().filter_map(|row| {
            contradictions::point_id(row, self.run_of(row)?.get("protocol")?)
        });
        found.collect()
    }

    /// Counts that are not those of the row's problem.
    fn model_columns(&self) -> Vec<Unreadable> {
        let has_column = |name: &str| self.has_column(name);
        self.rows()
            .flat_map(|row| contradictions::model_columns(row, &has_column))
            .collect()
    }

    /// Shape columns that do not repeat the row's problem.
    fn shapes(&self) -> Vec<Unreadable> {
        let has_column = |name: &str| self.has_column(name);
        self.rows()
            .flat_map(|row| contradictions::shape_columns(row, &has_column))
            .collect()
    }

    /// Residencies that do not follow from the rotation and the caches.
    fn residencies(&self) -> Vec<Unreadable> {
        let provenances: HashMap<&str, _> =
            self.runs.iter().map(|(id, run)| (*id, Provenance::of(run, 0).0)).collect();
        let found = self.rows().filter(|row| !row.residency.is_empty()).filter_map(|row| {
            let run = provenances.get(row.run_id.as_str())?;
            let problem: Problem = row.problem.parse().ok()?;
            if run.caches.is_empty() {
                return None;
            }
            let distance = row.reuse_distance_bytes?;
            let expected =
                problem.residency(distance, &run.caches, run.near_cache).to_string();
            (expected != row.residency).then(|| {
                let why = format!(
                    "{} bytes between two uses are in {expected}, by the caches in run.csv",
                    row.reuse_distance_bytes.unwrap_or_default()
                );
                in_row(row.line, "residency", &row.residency, why)
            })
        });
        found.collect()
    }

    /// Times that the samples contradict.
    fn medians(&self) -> Vec<Unreadable> {
        let Some(samples) = &self.campaign.samples else { return Vec::new() };
        let mut found = Vec::new();
        for row in self.rows() {
            let rounds = self.used_rounds(samples, row);
            let times: Vec<f64> = rounds.concat();
            let Some(written) = row.time_s_median.filter(|_| !times.is_empty()) else {
                continue;
            };
            if self.has_column("n_samples") && times.len() as u64 != row.n_samples {
                let why = format!("samples.csv has {} samples of this row", times.len());
                found.push(in_row(row.line, "n_samples", &row.n_samples.to_string(), why));
            }
            let medians: Vec<f64> =
                rounds.iter().map(|times| statistics::median(times)).collect();
            let of_rounds = statistics::of_rounds(&medians, None).map(|time| time.value);
            let median = of_rounds.unwrap_or_else(|| statistics::median(&times));
            if !are_equal(Some(written), Some(median), ROUNDING) {
                let why = format!(
                    "the median of its {} samples in samples.csv is {median} s; one of the \
                     two files was edited",
                    times.len()
                );
                found.push(in_row(row.line, "time_s_median", &written.to_string(), why));
            }
        }
        found
    }

    /// The samples of the rounds that a row's time is from: those that were not disturbed.
    fn used_rounds<'s>(&self, samples: &'s SampleTimes, row: &Row) -> Vec<&'s [f64]> {
        let is_disturbed = |round: u32| {
            self.disturbed.contains(&(row.point_id.as_str(), row.repeat, round))
        };
        let rounds = samples.of_row(&row.point_id, row.repeat);
        rounds.filter(|(round, _)| !is_disturbed(*round)).map(|(_, times)| times).collect()
    }

    /// Whether processes of other versions than the first took part.
    fn programs(&self) -> Option<String> {
        let first = self.campaign.runs.first()?;
        self.runs().find_map(|(line, run)| {
            let found = differences(first, run, &PROGRAM_COLUMNS).into_iter().next()?;
            Some(format!(
                "rows of two builds of the program are in one folder: run.csv line {line}, \
                 column {}: `{}`, line 2 has `{}`",
                found.column, found.is, found.was
            ))
        })
    }

    /// How many times were not computed again from samples, and why.
    fn unsampled(&self) -> Option<String> {
        let timed = |row: &&Row| row.status.is_some_and(|status| status.has_time());
        let timed: Vec<&Row> = self.rows().filter(timed).collect();
        let Some(samples) = &self.campaign.samples else {
            let why = "samples.csv is not there: medians were not computed again from \
                       samples";
            return (!timed.is_empty()).then(|| why.to_owned());
        };
        let is_bare =
            |row: &&&Row| samples.of_row(&row.point_id, row.repeat).next().is_none();
        let bare = timed.iter().filter(is_bare).count();
        (bare > 0).then(|| {
            format!(
                "samples.csv has no samples of {}: their medians were not computed again",
                counted(bare, "row", "rows")
            )
        })
    }
}

fn finding(
    file: &'static str,
    line: u64,
    column: &str,
    value: &str,
    why: String,
) -> Unreadable {
    let (column, value) = (Some(column.to_owned()), value.to_owned());
    Unreadable { file, line, column, value, why }
}

#[cfg(test)]
mod tests;

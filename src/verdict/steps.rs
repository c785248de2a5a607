//! Whole steps of decoding beside their kernels, measured one by one, and beside the roofs of
//! these: what a sum of kernels misses of a whole.

use super::{Judge, cell, cells};
use crate::analysis::Measured;
use crate::op::{DecodeStep, OfProblem, StageKind};
use crate::point::CacheState;
use crate::section::Section;
use crate::statistics::Estimate;

/// What the columns are.
const ABOUT: &str = "A step is timed as a whole. Beside it the sum of the times of its kernels, \
                     each measured by itself, so many times as the step runs it, and the sum of \
                     their roofs; the interval of a sum is that of its parts, end by end. Missed is the step's time less \
                     the sum of its kernels: above 0 what lies between launches, below 0 what \
                     overlaps, and what kernels find in caches where the one before left it.";

/// A problem of a step, and the point that measured it by itself.
struct MeasuredKind<'a> {
    kind: StageKind,
    alone: Option<&'a Measured>,
}

impl MeasuredKind<'_> {
    /// Seconds of all of the kind in a step.
    fn time_s(&self) -> Option<Estimate> {
        Some(self.alone?.time_s?.scaled(self.kind.count as f64))
    }

    fn roof_s(&self) -> Option<f64> {
        Some(self.alone?.empirical?.time_s() * self.kind.count as f64)
    }
}

impl Judge<'_> {
    /// Whole steps, and their kernels; without rows where none was measured.
    pub(super) fn step_sections(&self) -> [Section; 2] {
        let steps: Vec<(&Measured, &DecodeStep)> = self
            .campaign
            .own_points()
            .filter_map(|point| Some((point, DecodeStep::of(&point.problem)?)))
            .collect();
        let whole = Section {
            heading: "Whole steps".into(),
            columns: vec![
                "problem",
                "launch_mode",
                "launches",
                "step_s",
                "step_s_lo",
                "step_s_hi",
                "kernels_s",
                "kernels_s_lo",
                "kernels_s_hi",
                "missed_s",
                "missed_share",
                "roofs_s",
                "roofs_share",
                "not_measured",
            ],
            rows: steps
                .iter()
                .filter_map(|(point, step)| self.step_row(point, step))
                .collect(),
            paragraphs: vec![ABOUT.to_owned()],
            keys: 2,
            spare: &["launches", "not_measured"],
        };
        let mut rows: Vec<Vec<String>> = Vec::new();
        for (point, step) in steps {
            for row in self.kind_rows(point, step) {
                // Steps that differ in how they are launched have the same kernels.
                if !rows.contains(&row) {
                    rows.push(row);
                }
            }
        }
        let kinds = Section {
            heading: "Whole steps: each kernel by itself".into(),
            columns: vec![
                "problem",
                "part",
                "part_problem",
                "count",
                "kernel",
                "time_s",
                "time_s_lo",
                "time_s_hi",
                "all_s",
                "roof_s",
            ],
            rows,
            keys: 2,
            spare: &["kernel", "part_problem"],
            ..Section::default()
        };
        [whole, kinds]
    }

    fn kinds(&self, step: &DecodeStep) -> Vec<MeasuredKind<'_>> {
        let measured = |kind: StageKind| MeasuredKind { kind, alone: self.alone(&kind) };
        step.kinds().into_iter().map(measured).collect()
    }

    /// The own point that is fastest on a problem by itself, from DRAM where it was measured
    /// so, and launched as the device does best.
    fn alone(&self, kind: &StageKind) -> Option<&Measured> {
        let points = self.campaign.own_points().filter(|point| {
            point.problem == kind.problem && point.load.is_none() && point.time_s.is_some()
        });
        let is_hot = |point: &Measured| point.cache != CacheState::Cold;
        let time_s =
            |point: &Measured| point.time_s.map_or(f64::INFINITY, |time| time.value);
        points
            .min_by(|a, b| is_hot(a).cmp(&is_hot(b)).then(time_s(a).total_cmp(&time_s(b))))
    }

    fn step_row(&self, point: &Measured, step: &DecodeStep) -> Option<Vec<String>> {
        let whole_s = point.time_s?;
        let kinds = self.kinds(step);
        let missing: Vec<&str> = kinds
            .iter()
            .filter(|kind| kind.time_s().is_none())
            .map(|k| k.kind.name)
            .collect();
        let times: Option<Vec<Estimate>> = kinds.iter().map(MeasuredKind::time_s).collect();
        let sum_s = times.map(|times| Estimate {
            value: times.iter().map(|time| time.value).sum(),
            lo: times.iter().map(|time| time.lo).sum(),
            hi: times.iter().map(|time| time.hi).sum(),
        });
        let missed_s = sum_s.map(|sum| whole_s.value - sum.value);
        let roofs_s: Option<f64> = kinds.iter().map(MeasuredKind::roof_s).sum();
        let mut row = vec![
            point.problem.label(),
            self.launch_mode(point),
            step.stages().len().to_string(),
        ];
        row.extend(cells(Some(whole_s)));
        row.extend(cells(sum_s));
        row.extend([
            cell(missed_s),
            cell(missed_s.map(|missed| missed / whole_s.value)),
            cell(roofs_s),
            cell(roofs_s.map(|roofs| roofs / whole_s.value)),
            missing.join(", "),
        ]);
        Some(row)
    }

    fn kind_rows(&self, point: &Measured, step: &DecodeStep) -> Vec<Vec<String>> {
        let row = |measured: MeasuredKind| {
            let MeasuredKind { kind, alone } = &measured;
            let mut row = vec![
                point.problem.label(),
                kind.name.to_owned(),
                kind.problem.label(),
                kind.count.to_string(),
                alone.map_or(String::new(), |alone| alone.kernel.to_string()),
            ];
            row.extend(cells(alone.and_then(|alone| alone.time_s)));
            row.push(cell(measured.time_s().map(|time| time.value)));
            row.push(cell(measured.roof_s()));
            row
        };
        self.kinds(step).into_iter().map(row).collect()
    }

    /// How a point's launches reached the device, empty where they were not queued.
    fn launch_mode(&self, point: &Measured) -> String {
        let row = self.campaign.rows.iter().find(|row| row.point_id == point.point_id);
        row.map_or(String::new(), |row| row.launch_mode.clone())
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use crate::analysis::Campaign;
    use crate::op::Problem;
    use crate::record::{Records, Row, Status};
    use crate::section::Section;
    use crate::verdict::judge;

    const STEP: &str = "decode_step:layers=3,batch=2,context=100,hidden=64,q_heads=2,kv_heads=1,\
                        head_dim=64,intermediate=96,vocab=200,dtype=bf16,layout=paged16";

    /// Committed records with a step of `step_s`, and its kernels, each of 1 us but for one that
    /// was not measured.
    fn whole_steps(step_s: f64, not_measured: Option<&str>) -> Section {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR"))
            .join("results/2026-11-23-cpu-intel-xeon-2c-quick");
        let mut records = Records::read(&folder).unwrap();
        let is_ok =
            |row: &&Row| row.status == Some(Status::Ok) && row.cache_state == "cold";
        let template = records.rows.iter().find(is_ok).unwrap().clone();
        let mut add = |problem: Problem, time_s: f64| {
            let time = |share: f64| Some(share * time_s);
            records.rows.push(Row {
                problem: problem.to_string(),
                point_id: format!("id of {problem}"),
                time_s_median: time(1.0),
                time_s_ci_lo: time(0.99),
                time_s_ci_hi: time(1.02),
                ..template.clone()
            });
        };
        let step: Problem = STEP.parse().unwrap();
        for kind in step.parts() {
            if Some(kind.name) != not_measured {
                add(kind.problem, 1e-6);
            }
        }
        add(step, step_s);
        let campaign = Campaign::from_records(&folder, records, None).unwrap();
        let sections = judge(&campaign).sections;
        sections.into_iter().find(|section| section.heading == "Whole steps").unwrap()
    }

    fn number(section: &Section, column: &str) -> f64 {
        let at = section.columns.iter().position(|name| *name == column).unwrap();
        section.rows[0][at].parse().unwrap_or(f64::NAN)
    }

    /// 31 launches of 1 us each, and 4 us more.
    #[test]
    fn what_the_sum_misses_is_a_column() {
        let section = whole_steps(35e-6, None);
        assert_eq!(section.rows.len(), 1);
        assert_eq!(number(&section, "launches"), 31.0);
        let is_near = |column: &str, expected: f64| {
            let found = number(&section, column);
            assert!((found / expected - 1.0).abs() < 1e-9, "{column}: {found}");
        };
        is_near("kernels_s", 31e-6);
        is_near("kernels_s_lo", 31e-6 * 0.99);
        is_near("kernels_s_hi", 31e-6 * 1.02);
        is_near("missed_s", 4e-6);
        is_near("missed_share", 4.0 / 35.0);
        assert!(number(&section, "roofs_s") > 0.0);
        assert!(number(&whole_steps(25e-6, None), "missed_s") < 0.0);
    }

    #[test]
    fn a_kernel_that_was_not_measured_is_named() {
        let section = whole_steps(35e-6, Some("down"));
        assert!(number(&section, "kernels_s").is_nan());
        assert_eq!(section.rows[0].last().unwrap(), "down");
    }
}

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

    /// The own point that is fastest on a problem by itself, from DRAM and launched as the
    /// device does best.
    fn alone(&self, kind: &StageKind) -> Option<&Measured> {
        let points = self.campaign.own_points().filter(|point| {
            point.problem == kind.problem
                && point.cache == CacheState::Cold
                && point.load.is_none()
                && point.time_s.is_some()
        });
        let time_s =
            |point: &&Measured| point.time_s.map_or(f64::INFINITY, |time| time.value);
        points.min_by(|a, b| time_s(a).total_cmp(&time_s(b)))
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

//! Two campaigns of the same points on the same machine: how far they agree.

use std::collections::HashMap;

use super::{Campaign, Measured};
use crate::section::Section;
use crate::statistics::{Estimate, quantile, ratio_of_rounds, relative_range};

/// How far two campaigns agree that should.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Agreement {
    /// Points that both measured.
    pub points: usize,
    /// Points whose 95% intervals do not overlap.
    pub disjoint: usize,
    /// Points that have rounds in both.
    pub tested: usize,
    /// Points whose rounds differ at the 5% level: false alarms.
    pub alarms: usize,
    /// Size of the relative difference of each point, sorted.
    pub differences: Vec<f64>,
    /// Relative difference that each point could have told from none, sorted.
    pub resolutions: Vec<f64>,
    /// Largest over smallest round of each point less 1, sorted.
    pub ranges: Vec<f64>,
}

impl Agreement {
    /// Compares the points that two campaigns share and that both have a time of.
    pub fn of(a: &Campaign, b: &Campaign) -> Self {
        let of_b: HashMap<&str, &Measured> =
            b.points.iter().map(|point| (point.point_id.as_str(), point)).collect();
        let mut agreement = Agreement::default();
        for first in &a.points {
            let second = of_b.get(first.point_id.as_str());
            if let (Some(second), Some(time_a)) = (second, first.time_s)
                && let Some(time_b) = second.time_s
            {
                agreement.add((first, time_a), (second, time_b));
            }
        }
        let sorted =
            [&mut agreement.differences, &mut agreement.resolutions, &mut agreement.ranges];
        sorted.into_iter().for_each(|values| values.sort_by(f64::total_cmp));
        agreement
    }

    fn add(
        &mut self,
        (a, time_a): (&Measured, Estimate),
        (b, time_b): (&Measured, Estimate),
    ) {
        self.points += 1;
        self.disjoint += usize::from(time_a.hi < time_b.lo || time_b.hi < time_a.lo);
        self.differences.push((time_a.value / time_b.value).ln().abs().exp() - 1.0);
        let reach = |time: Estimate| (time.hi / time.value).ln();
        self.resolutions.push(reach(time_a).hypot(reach(time_b)).exp() - 1.0);
        for point in [a, b].into_iter().filter(|point| point.round_medians_s.len() > 1) {
            self.ranges.push(relative_range(&point.round_medians_s));
        }
        if let Some(ratio) = ratio_of_rounds(&a.round_medians_s, &b.round_medians_s) {
            self.tested += 1;
            self.alarms += usize::from(ratio.hi < 1.0 || ratio.lo > 1.0);
        }
    }

    /// The table: counts, shares of what they are of, and quantiles of relative differences.
    pub fn section(&self) -> Section {
        let count = |what: &str, count: usize, of: Option<usize>| {
            let share = of.filter(|of| *of > 0).map(|of| count as f64 / of as f64);
            let cell =
                |share: Option<f64>| share.map(|s| s.to_string()).unwrap_or_default();
            let of_all = of.map(|of| of.to_string()).unwrap_or_default();
            let cells = [what.to_owned(), count.to_string(), of_all, cell(share)];
            [&cells[..], &[String::new(), String::new()]].concat()
        };
        let spread = |what: &str, values: &[f64]| {
            let at = |p: f64| match values {
                [] => String::new(),
                values => quantile(values, p).to_string(),
            };
            let cells = [what.to_owned(), values.len().to_string(), String::new()];
            [&cells[..], &[String::new(), at(0.5), at(0.9)]].concat()
        };
        let rows = vec![
            count("points measured twice", self.points, None),
            count("95% intervals that do not overlap", self.disjoint, Some(self.points)),
            count(
                "differences that a test at 5% reports (false alarms)",
                self.alarms,
                Some(self.tested),
            ),
            spread("difference between the campaigns", &self.differences),
            spread("range between rounds of one campaign", &self.ranges),
            spread("smallest difference that can be told", &self.resolutions),
        ];
        Section {
            heading: "The same, measured twice".into(),
            columns: vec!["what", "count", "of", "share", "median_share", "p90_share"],
            rows,
            ..Section::default()
        }
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use rand::{RngExt, SeedableRng};
    use rand_pcg::Pcg64Mcg;

    use super::*;
    use crate::record::{Records, RoundRow, Row, Status};

    /// A campaign of 1,000 points whose rounds are off by about 2%, and which as a whole is
    /// off by about `process`.
    fn campaign(seed: u64, process: f64) -> Campaign {
        let mut rng = Pcg64Mcg::seed_from_u64(seed);
        let mut normal = move || (0..12).map(|_| rng.random_range(-0.5..0.5)).sum::<f64>();
        let (mut rows, mut rounds) = (Vec::new(), Vec::new());
        for m in 1..=1000 {
            let id = format!("p{m}");
            let offset = process * normal();
            for round in 0..3 {
                let time_s_median = (offset + 0.02 * normal()).exp();
                let point_id = id.clone();
                rounds.push(RoundRow {
                    point_id,
                    round,
                    time_s_median,
                    ..RoundRow::default()
                });
            }
            rows.push(Row {
                point_id: id,
                status: Some(Status::Ok),
                kernel: "k".into(),
                cache_state: "cold".into(),
                problem: format!("gemm:m={m},n=16,k=128,dtype=bf16"),
                time_s_median: Some(1.0),
                time_s_ci_lo: Some(1.0),
                time_s_ci_hi: Some(1.0),
                ..Row::default()
            });
        }
        let records = Records { rows, rounds, ..Records::default() };
        Campaign::from_records(Path::new("x"), records, None).unwrap()
    }

    /// Rounds that are independent give 5% of false alarms; campaigns that differ as wholes
    /// give more, and the command must show that.
    #[test]
    fn false_alarms_are_counted() {
        let calm = Agreement::of(&campaign(1, 0.0), &campaign(2, 0.0));
        assert_eq!((calm.points, calm.tested), (1000, 1000));
        assert!((40..=60).contains(&calm.alarms), "{}", calm.alarms);
        assert!(calm.disjoint <= 20, "{}", calm.disjoint);
        let shifting = Agreement::of(&campaign(3, 0.05), &campaign(4, 0.05));
        assert!(shifting.alarms > 300, "{}", shifting.alarms);
        assert!(shifting.disjoint > 100, "{}", shifting.disjoint);
        let told = &calm.section().rows[2];
        assert_eq!(told[1..3], [calm.alarms.to_string(), "1000".to_owned()]);
        assert_eq!(told[3], (calm.alarms as f64 / 1000.0).to_string());
        let nothing = &Agreement::default().section().rows;
        assert_eq!((&*nothing[1][3], &*nothing[3][4]), ("", ""));
    }
}

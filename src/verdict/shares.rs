//! Shares of roofs that points reach, and what limits them.

use std::collections::{BTreeMap, BTreeSet};

use super::{BOUND_SHARE, Judge, percent, residency_cell};
use crate::analysis::{Ceiling, Doubt, Measured};
use crate::op::{Op, Purpose};
use crate::residency::Residency;
use crate::resource::Resource;
use crate::roofline::RoofKind;
use crate::section::Section;
use crate::statistics::{Estimate, quantile};

/// What limits a measured point.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BoundBy {
    /// It reaches the memory roof.
    Memory,
    /// It reaches the compute roof.
    Compute,
    /// It reaches the roof of a link.
    Link,
    /// It reaches both of memory and compute: it sits at the ridge.
    Ridge,
    /// Launching costs more than half of its time.
    Latency,
    /// It reaches no roof: the kernel itself is the limit.
    Kernel,
    /// It reaches a ceiling that proves nothing.
    NotJudged(Doubt),
    /// The interval straddles the threshold.
    Undecided,
}

impl BoundBy {
    /// The spelling used in tables and CSV files.
    pub const fn name(self) -> &'static str {
        match self {
            BoundBy::Memory => "memory bound",
            BoundBy::Compute => "compute bound",
            BoundBy::Link => "link bound",
            BoundBy::Ridge => "at the ridge",
            BoundBy::Latency => "latency bound",
            BoundBy::Kernel => "kernel below both roofs",
            BoundBy::NotJudged(doubt) => doubt.name(),
            BoundBy::Undecided => "undecided",
        }
    }
}

impl Judge<'_> {
    /// A share of a roof with all of its error: its own interval, its ceiling's and
    /// the drift.
    fn share(
        &self,
        share: Option<Estimate>,
        ceiling: Option<&Ceiling>,
    ) -> Option<Estimate> {
        Some(share?.widened(self.drift + ceiling?.rate.half_width()))
    }

    pub(super) fn memory_share(&self, point: &Measured) -> Option<Estimate> {
        let ceiling = self.campaign.ceilings.as_ref().map(|c| &c.read);
        self.share(point.memory_fraction(), ceiling)
    }

    pub(super) fn compute_share(&self, point: &Measured) -> Option<Estimate> {
        let dtype = point.problem.math_dtype()?;
        let ceiling = self.campaign.ceilings.as_ref()?.compute.get(&dtype);
        self.share(point.compute_fraction(), ceiling)
    }

    fn link_share(&self, point: &Measured) -> Option<Estimate> {
        // The link that takes longest sets the roof.
        let links = &self.campaign.ceilings.as_ref()?.links;
        let seconds = |(resource, bytes): (Resource, u64)| match resource {
            Resource::Link(link, direction) => {
                let ceiling = links.get(&(link, direction))?;
                Some((bytes as f64 / ceiling.rate.value, ceiling))
            }
            _ => None,
        };
        let slowest =
            point.work.amounts().filter_map(seconds).max_by(|a, b| a.0.total_cmp(&b.0))?;
        self.share(point.link_fraction(), Some(slowest.1))
    }

    /// The share of the roof that binds.
    pub(super) fn binding_share(&self, point: &Measured) -> Option<Estimate> {
        match point.empirical?.binding() {
            RoofKind::Memory => self.memory_share(point),
            RoofKind::Compute => self.compute_share(point),
            RoofKind::Link => self.link_share(point),
        }
    }

    /// Whether launching takes most of a point's time.
    pub(super) fn is_mostly_launch(&self, point: &Measured) -> bool {
        point.time_s.is_some_and(|time_s| self.launch_overhead_s > 0.5 * time_s.value)
    }

    /// What limits a point. A measured ceiling is at most as high as the machine's, so what
    /// stays below it does so for certain; what reaches it is only judged by a ceiling
    /// without [`Doubt`].
    pub(super) fn bound(&self, point: &Measured) -> Option<BoundBy> {
        let memory = self.memory_share(point)?;
        let compute = self.compute_share(point);
        let link = self.link_share(point);
        let reaches = |e: Estimate| e.lo >= BOUND_SHARE;
        let misses = |e: Estimate| e.hi < BOUND_SHARE;
        let reached = |share: Option<Estimate>, doubt: Option<Doubt>| {
            share.is_some_and(reaches).then(|| doubt.map_or(Ok(()), Err))
        };
        let memory_roof = reached(Some(memory), self.memory_doubt(point));
        let compute_roof = reached(compute, self.compute_doubt(point));
        Some(match (memory_roof, compute_roof) {
            (Some(Ok(())), Some(Ok(()))) => BoundBy::Ridge,
            (Some(Ok(())), _) => BoundBy::Memory,
            (_, Some(Ok(()))) => BoundBy::Compute,
            _ if link.is_some_and(reaches) => BoundBy::Link,
            _ if self.is_mostly_launch(point) => BoundBy::Latency,
            (Some(Err(doubt)), _) | (_, Some(Err(doubt))) => BoundBy::NotJudged(doubt),
            _ if misses(memory)
                && compute.is_none_or(misses)
                && link.is_none_or(misses) =>
            {
                BoundBy::Kernel
            }
            _ => BoundBy::Undecided,
        })
    }

    fn memory_doubt(&self, point: &Measured) -> Option<Doubt> {
        self.campaign.ceilings.as_ref()?.read.doubt_for(&point.kernel)
    }

    pub(super) fn compute_doubt(&self, point: &Measured) -> Option<Doubt> {
        let dtype = point.problem.math_dtype()?;
        self.campaign.ceilings.as_ref()?.compute.get(&dtype)?.doubt_for(&point.kernel)
    }

    pub(super) fn regime_section(&self) -> Section {
        type Regime = (Op, &'static str, Option<Residency>);
        let mut regimes: BTreeMap<Regime, Vec<(Estimate, BoundBy)>> = BTreeMap::new();
        for point in self.campaign.own_points() {
            // Streams and peaks are the roofs themselves.
            if point.judged_facts().purpose != Purpose::Work {
                continue;
            }
            let (Some(roof), Some(share), Some(bound)) =
                (point.empirical, self.binding_share(point), self.bound(point))
            else {
                continue;
            };
            let key = (point.problem.op(), roof.binding().name(), point.residency);
            regimes.entry(key).or_default().push((share, bound));
        }
        let rows = regimes.into_iter().map(|((op, roof, residency), points)| {
            let mut shares: Vec<f64> =
                points.iter().map(|(share, _)| share.value).collect();
            shares.sort_by(f64::total_cmp);
            let lo = points.iter().map(|(share, _)| share.lo).fold(f64::INFINITY, f64::min);
            let hi = points.iter().map(|(share, _)| share.hi).fold(0.0, f64::max);
            let (op, residency) = (op.to_string(), residency_cell(residency));
            let mut row = vec![op, roof.to_owned(), residency, points.len().to_string()];
            let ends =
                [quantile(&shares, 0.5), shares[0], shares[shares.len() - 1], lo, hi];
            row.extend(ends.map(|share| share.to_string()));
            row.extend(counts(&points.iter().map(|(_, bound)| *bound).collect::<Vec<_>>()));
            row
        });
        Section {
            heading: "Share of the binding roof reached".into(),
            columns: vec![
                "op",
                "roof",
                "data_in",
                "points",
                "median_share",
                "least_share",
                "most_share",
                "interval_from_share",
                "interval_to_share",
                "memory_bound",
                "compute_bound",
                "link_bound",
                "at_the_ridge",
                "latency_bound",
                "below_both_roofs",
                "not_judged",
                "undecided",
                "not_judged_because",
            ],
            rows: rows.collect(),
            paragraphs: vec![format!(
                "How many points are bound by what: a whole interval reaches {0} of that roof or \
                 more. Undecided are those whose interval spans {0}.",
                percent(BOUND_SHARE)
            )],
            keys: 0,
            spare: &[
                "interval_from_share",
                "interval_to_share",
                "least_share",
                "most_share",
            ],
        }
    }
}

/// How many points each bound has, empty for none, and why those that are not judged are not.
fn counts(bounds: &[BoundBy]) -> Vec<String> {
    let count =
        |is: &dyn Fn(&BoundBy) -> bool| match bounds.iter().filter(|b| is(b)).count() {
            0 => String::new(),
            count => count.to_string(),
        };
    let of = |wanted: BoundBy| count(&|bound| *bound == wanted);
    let doubt = |bound: &BoundBy| match bound {
        BoundBy::NotJudged(doubt) => Some(doubt.name()),
        _ => None,
    };
    let why: BTreeSet<&str> = bounds.iter().filter_map(doubt).collect();
    vec![
        of(BoundBy::Memory),
        of(BoundBy::Compute),
        of(BoundBy::Link),
        of(BoundBy::Ridge),
        of(BoundBy::Latency),
        of(BoundBy::Kernel),
        count(&|bound| doubt(bound).is_some()),
        of(BoundBy::Undecided),
        why.into_iter().collect::<Vec<_>>().join("; "),
    ]
}

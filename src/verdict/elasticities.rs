//! What the times of each kernel follow, from all of its points at once, and where along
//! batch and context that changes. No ceiling enters here.

use std::collections::BTreeMap;

use super::evidence::{Says, planned_from_dram};
use super::{FLAT, Judge, cell, cells};
use crate::analysis::Measured;
use crate::elasticity::{self, ChangePoints, Crossing, Design, Elasticities, Refusal};
use crate::op::{Op, Problem, Purpose, Sweep, SweepPlace};
use crate::point::KernelName;
use crate::section::Section;
use crate::statistics::Estimate;

/// Sizes that a kernel is not compiled for, so that points which differ in them alone are of
/// one configuration.
const SIZES: [&str; 5] = ["batch", "context", "m", "tokens", "prefix"];

/// How many times the ridge away points must lie that are said to be below or past it:
/// nearer, both moving and computing show.
const CLEAR: f64 = 2.0;

/// Largest standard deviation of what is left of log time that elasticities of a claim may
/// have: times that lie further from the fit are not described by it.
const LARGEST_RESIDUAL: f64 = 0.2;

/// Fewest points of a sweep whose change points are listed.
const FEWEST_SWEPT: usize = 3;

/// The points from DRAM of one kernel.
pub(super) struct KernelPoints<'a> {
    op: Op,
    kernel: &'a KernelName,
    points: Vec<&'a Measured>,
    changes: ChangePoints,
}

/// What elasticities say.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Follows {
    Bytes,
    Flops,
    /// Time hardly changes with either.
    FixedCost,
    Neither,
    Undecided,
}

impl Follows {
    pub const fn name(self) -> &'static str {
        match self {
            Follows::Bytes => "bytes",
            Follows::Flops => "FLOPs",
            Follows::FixedCost => "a fixed cost",
            Follows::Neither => "neither",
            Follows::Undecided => "undecided",
        }
    }

    /// Memory bound is 1 and 0, compute bound 0 and 1, and latency bound 0 and 0, each within
    /// [`FLAT`] with its whole interval.
    pub fn of(found: &Elasticities) -> Self {
        let flops = found.flops.unwrap_or(Estimate::exact(0.0));
        let within = |e: Estimate, at: f64| at - FLAT <= e.lo && e.hi <= at + FLAT;
        let outside = |e: Estimate, at: f64| e.hi < at - FLAT || at + FLAT < e.lo;
        let is = |bytes: f64, of: f64| within(found.bytes, bytes) && within(flops, of);
        let is_not =
            |bytes: f64, of: f64| outside(found.bytes, bytes) || outside(flops, of);
        if is(1.0, 0.0) {
            Follows::Bytes
        } else if is(0.0, 1.0) {
            Follows::Flops
        } else if is(0.0, 0.0) {
            Follows::FixedCost
        } else if is_not(1.0, 0.0) && is_not(0.0, 1.0) && is_not(0.0, 0.0) {
            Follows::Neither
        } else {
            Follows::Undecided
        }
    }
}

/// Whether elasticities rule out that time follows bytes alone.
fn contradicts_memory_bound(found: &Elasticities) -> bool {
    let outside = |e: Estimate, at: f64| e.hi < at - FLAT || at + FLAT < e.lo;
    outside(found.bytes, 1.0) || found.flops.is_some_and(|flops| outside(flops, 0.0))
}

/// What the elasticities of the points of a claim say of it.
pub(super) struct OfClaim {
    /// In words, with the numbers.
    pub text: String,
    /// Against it, where time follows something else than bytes.
    pub says: Says,
}

/// The configuration of a problem: all but its sizes.
fn configuration(problem: &Problem) -> String {
    let fields = problem.fields().into_iter();
    let kept = fields.filter(|(key, _)| !SIZES.contains(key));
    kept.map(|(key, value)| format!("{key}={value} ")).collect()
}

/// Points as the statistics take them.
fn numbered(points: &[&Measured]) -> Vec<elasticity::Point> {
    let mut known = BTreeMap::new();
    let point = |point: &&Measured| {
        let next = known.len();
        let configuration = *known.entry(configuration(&point.problem)).or_insert(next);
        Some(elasticity::Point {
            time_s: point.time_s?.value,
            bytes: point.work.bytes() as f64,
            flops: point.work.flops() as f64,
            configuration,
        })
    };
    points.iter().filter_map(point).collect()
}

fn intensity(point: &Measured) -> f64 {
    point.work.flops() as f64 / point.work.bytes() as f64
}

fn elasticities(points: &[&Measured]) -> Result<Elasticities, Refusal> {
    elasticity::elasticities(&numbered(points))
}

impl KernelPoints<'_> {
    /// All points, and where the ridge lies among them, those that lie clear of it.
    fn sides(&self) -> Vec<(&'static str, Vec<&Measured>)> {
        let mut sides = vec![("all", self.points.clone())];
        if let Some(ridge) = self.changes.ridge_flops_per_byte.at() {
            let (below, past) = (ridge.value / CLEAR, ridge.value * CLEAR);
            let of = |is: &dyn Fn(f64) -> bool| {
                let points = self.points.iter().copied();
                points.filter(|point| is(intensity(point))).collect()
            };
            sides.push(("below the ridge", of(&|at| at <= below)));
            sides.push(("past the ridge", of(&|at| at >= past)));
        }
        sides
    }
}

impl<'a> Judge<'a> {
    /// The undisturbed points from DRAM of each kernel of this program.
    pub(super) fn kernel_points(&self) -> Vec<KernelPoints<'a>> {
        let mut kernels: BTreeMap<(Op, &KernelName), Vec<&Measured>> = BTreeMap::new();
        for point in self.campaign.own_points() {
            let is_work = point.judged_facts().purpose == Purpose::Work;
            if is_work && self.is_of_elasticity(point) {
                let key = (point.problem.op(), &point.kernel);
                kernels.entry(key).or_default().push(point);
            }
        }
        let of = |((op, kernel), points): (_, Vec<&'a Measured>)| {
            let changes = elasticity::change_points(&numbered(&points));
            KernelPoints { op, kernel, points, changes }
        };
        kernels.into_iter().map(of).collect()
    }

    fn is_of_elasticity(&self, point: &Measured) -> bool {
        point.is_from_dram()
            && point.time_s.is_some()
            && point.work.bytes() > 0
            && !self.campaign.is_disturbed(point)
    }

    /// What the elasticities of those points that a claim is about say of the claim that time
    /// follows bytes alone. Of several kernels the one with most points is asked.
    pub(super) fn elasticities_of(
        &self,
        is_asked: impl Fn(&Measured) -> bool,
    ) -> Option<OfClaim> {
        let mut kernels: BTreeMap<&KernelName, Vec<&Measured>> = BTreeMap::new();
        let points = self.campaign.own_points().filter(|point| planned_from_dram(point));
        for point in points.filter(|p| self.is_of_elasticity(p) && is_asked(p)) {
            kernels.entry(&point.kernel).or_default().push(point);
        }
        let points = kernels.into_values().max_by_key(Vec::len)?;
        let number = |e: Estimate| format!("{:.2} [{:.2}, {:.2}]", e.value, e.lo, e.hi);
        Some(match elasticities(&points) {
            Err(why) => OfClaim {
                text: format!("no elasticities: {why}"),
                says: Says::Nothing("no elasticities"),
            },
            Ok(found) => OfClaim {
                text: format!(
                    "elasticities of {} points: bytes {}, FLOPs {}{}",
                    points.len(),
                    number(found.bytes),
                    found.flops.map_or("none".to_owned(), number),
                    match found.residual > LARGEST_RESIDUAL {
                        true => ", from which times lie too far to be described by it",
                        false => "",
                    }
                ),
                says: match Follows::of(&found) {
                    _ if found.residual > LARGEST_RESIDUAL => {
                        Says::Nothing("times lie too far from the fit")
                    }
                    Follows::Bytes => Says::Agrees,
                    _ if contradicts_memory_bound(&found) => {
                        Says::Against("elasticities are not those of memory")
                    }
                    _ => Says::Nothing("the interval of an elasticity spans the threshold"),
                },
            },
        })
    }

    /// Elasticities of each kernel.
    pub(super) fn elasticity_section(&self, kernels: &[KernelPoints<'_>]) -> Section {
        let mut rows = Vec::new();
        for kernel in kernels {
            for (side, points) in kernel.sides() {
                let points_of = numbered(&points);
                let amounts: Vec<[f64; 2]> =
                    points_of.iter().map(|point| [point.bytes, point.flops]).collect();
                let Some(design) = Design::of(&amounts) else { continue };
                let mut row =
                    vec![kernel.op.to_string(), kernel.kernel.to_string(), side.to_owned()];
                row.push(design.points.to_string());
                row.extend(design.intensity.map(|of| of.to_string()));
                row.push(cell(design.correlation));
                row.extend(found_cells(&elasticity::elasticities(&points_of)));
                rows.push(row);
            }
        }
        Section {
            heading: "Elasticities".into(),
            columns: ELASTICITY_COLUMNS.to_vec(),
            rows,
            paragraphs: vec![ELASTICITIES.to_owned()],
            keys: 2,
            spare: &[
                "residual_share",
                "correlation",
                "fixed_cost_s",
                "oi_least_flops_per_byte",
                "oi_most_flops_per_byte",
                "reason",
            ],
        }
    }

    /// Where the times of each kernel leave the latency regime, in bytes, and cross the ridge,
    /// in FLOPs per byte.
    pub(super) fn change_section(&self, kernels: &[KernelPoints<'_>]) -> Section {
        let rows = kernels.iter().map(|kernel| {
            let changes = &kernel.changes;
            let bytes = kernel.points.iter().map(|point| point.work.bytes() as f64);
            let mut row = vec![kernel.op.to_string(), kernel.kernel.to_string()];
            row.push(kernel.points.len().to_string());
            row.push(bytes.clone().fold(f64::INFINITY, f64::min).to_string());
            row.push(bytes.fold(0.0, f64::max).to_string());
            row.extend(cells(changes.latency_bytes.at()));
            row.push(note(changes.latency_bytes));
            row.extend(cells(changes.ridge_flops_per_byte.at()));
            row.push(note(changes.ridge_flops_per_byte));
            row
        });
        Section {
            heading: "Change points".into(),
            columns: vec![
                "op",
                "kernel",
                "points",
                "least_bytes",
                "most_bytes",
                "latency_until_bytes",
                "latency_until_bytes_lo",
                "latency_until_bytes_hi",
                "latency_note",
                "ridge_flops_per_byte",
                "ridge_flops_per_byte_lo",
                "ridge_flops_per_byte_hi",
                "ridge_note",
            ],
            rows: rows.collect(),
            paragraphs: vec![CHANGES.to_owned()],
            keys: 2,
            spare: &["least_bytes", "most_bytes", "points"],
        }
    }

    /// The same along batch, context and rows: the sizes at which bytes, and FLOPs per byte,
    /// are those of the kernel's change points.
    pub(super) fn sweep_section(&self, kernels: &[KernelPoints<'_>]) -> Section {
        let is_known = |kernel: &&KernelPoints<'_>| {
            let ChangePoints { latency_bytes, ridge_flops_per_byte, .. } = kernel.changes;
            let is_unknown = |of: Crossing| matches!(of, Crossing::Unknown(_));
            !is_unknown(latency_bytes) || !is_unknown(ridge_flops_per_byte)
        };
        let rows = kernels.iter().filter(is_known).flat_map(|kernel| {
            let name = [kernel.op.to_string(), kernel.kernel.to_string()];
            let row = |(sweep, points): (Sweep, Vec<_>)| {
                [name.to_vec(), swept_cells(sweep, &points, &kernel.changes)].concat()
            };
            sweeps(&kernel.points).into_iter().map(row).collect::<Vec<_>>()
        });
        Section {
            heading: "Change points along batch, context and rows".into(),
            columns: vec![
                "op",
                "kernel",
                "along",
                "alike",
                "points",
                "measured_from",
                "measured_to",
                "latency_until",
                "latency_until_lo",
                "latency_until_hi",
                "latency_note",
                "compute_bound_from",
                "compute_bound_from_lo",
                "compute_bound_from_hi",
                "ridge_note",
            ],
            rows: rows.collect(),
            paragraphs: vec![SWEPT.to_owned()],
            keys: 4,
            spare: &["points", "measured_from", "measured_to"],
        }
    }
}

const ELASTICITY_COLUMNS: [&str; 17] = [
    "op",
    "kernel",
    "of",
    "points",
    "oi_least_flops_per_byte",
    "oi_most_flops_per_byte",
    "correlation",
    "bytes_elasticity",
    "bytes_elasticity_lo",
    "bytes_elasticity_hi",
    "flops_elasticity",
    "flops_elasticity_lo",
    "flops_elasticity_hi",
    "fixed_cost_s",
    "residual_share",
    "time_follows",
    "reason",
];

/// What the table of elasticities means.
const ELASTICITIES: &str = "Log time on log bytes and log FLOPs, of all points of a kernel \
                            from DRAM, less a fixed cost that is fitted too; 95% intervals by \
                            bootstrap. Memory bound is 1 and 0, compute bound 0 and 1. Points \
                            below or past the ridge lie at least a factor of 2 from the change \
                            point that these times show.";

/// The cells of elasticities, or of the reason why there are none.
fn found_cells(found: &Result<Elasticities, Refusal>) -> Vec<String> {
    let of = found.as_ref().ok();
    let mut row = cells(of.map(|found| found.bytes)).to_vec();
    row.extend(cells(of.and_then(|found| found.flops)));
    row.push(cell(of.map(|found| found.fixed_s)));
    row.push(cell(of.map(|found| found.residual)));
    row.push(of.map_or("", |found| Follows::of(found).name()).to_owned());
    row.push(match found {
        Err(why) => why.to_string(),
        Ok(found) if found.is_of_whole_time => {
            "of the whole time: a fixed cost is most of it".to_owned()
        }
        Ok(_) => String::new(),
    });
    row
}

/// What the table of change points means.
const CHANGES: &str = "Latency ends at the bytes that take as long to move as every launch \
                       takes whatever its size; computing binds from the FLOPs per byte that \
                       take as long to compute as to move. By the times of all points of a \
                       kernel from DRAM and by no ceiling; 95% intervals by bootstrap.";

/// What the table of sizes means.
const SWEPT: &str = "At which size the bytes, and the FLOPs per byte, of points that differ in \
                     it alone are those of the kernel's change points. An interval ends where \
                     the measured sizes do.";

/// Why there is no number.
fn note(crossing: Crossing) -> String {
    match crossing {
        Crossing::At(_) => String::new(),
        Crossing::Below(_) => "below all that was measured".to_owned(),
        Crossing::Beyond(_) => "beyond all that was measured".to_owned(),
        Crossing::Unknown(why) => why.to_owned(),
    }
}

/// Points that differ in one size alone, by size: those of at least three sizes.
fn sweeps<'a>(points: &[&'a Measured]) -> Vec<(Sweep, Vec<(SweepPlace, &'a Measured)>)> {
    type Key = (Sweep, (u64, String), Vec<u64>, String);
    let mut series: BTreeMap<Key, BTreeMap<u64, (SweepPlace, &Measured)>> = BTreeMap::new();
    for sweep in [Sweep::Batch, Sweep::Context, Sweep::Rows] {
        for point in points {
            let Some(place) = point.problem.operation().place_in(sweep) else { continue };
            let key =
                (sweep, place.family.clone(), place.held.clone(), place.alike.clone());
            series.entry(key).or_default().insert(place.swept, (place, point));
        }
    }
    series.retain(|_, points| points.len() >= FEWEST_SWEPT);
    let of = |(key, points): (Key, BTreeMap<_, _>)| (key.0, points.into_values().collect());
    series.into_iter().map(of).collect()
}

/// Of points along one size: at which of it latency ends and computing begins.
fn swept_cells(
    sweep: Sweep,
    points: &[(SweepPlace, &Measured)],
    changes: &ChangePoints,
) -> Vec<String> {
    let along = |of: fn(&Measured) -> f64| -> Vec<(f64, f64)> {
        points.iter().map(|(place, point)| (place.swept as f64, of(point))).collect()
    };
    let latency = crossed(&along(|p| p.work.bytes() as f64), changes.latency_bytes);
    let ridge = crossed(&along(intensity), changes.ridge_flops_per_byte);
    let name = match sweep {
        Sweep::Batch => "batch",
        Sweep::Context => "context",
        Sweep::Rows => "rows",
    };
    let ends = [points.first(), points.last()];
    let mut row = vec![name.to_owned(), alike(points), points.len().to_string()];
    row.extend(ends.map(|end| end.map_or(String::new(), |(at, _)| at.swept.to_string())));
    row.extend(cells(latency.at()));
    row.push(note(latency));
    row.extend(cells(ridge.at()));
    row.push(note(ridge));
    row
}

/// What points have in common.
fn alike(points: &[(SweepPlace, &Measured)]) -> String {
    let Some((_, first)) = points.first() else { return String::new() };
    let is_common = |field: &(_, _)| {
        points.iter().all(|(_, point)| point.problem.fields().contains(field))
    };
    let common = first.problem.fields().into_iter().filter(is_common);
    common.map(|(key, value)| format!("{key}={value}")).collect::<Vec<_>>().join(" ")
}

/// The size along a series, of size and amount, at which the amount is that of a change
/// point.
fn crossed(series: &[(f64, f64)], change: Crossing) -> Crossing {
    let Some(at) = change.at() else { return change };
    let (Some(first), Some(last)) = (series.first(), series.last()) else {
        return Crossing::Unknown("no points");
    };
    if last.1 / first.1 < 1.05 {
        // Sizes that leave the amount as it is lie on one side of the change.
        return match at.value < first.1 {
            true => Crossing::Unknown("past it at every size"),
            false => Crossing::Unknown("below it at every size"),
        };
    }
    match between(series, at.value) {
        None if at.value < first.1 => Crossing::Below(first.0),
        None => Crossing::Beyond(last.0),
        Some(value) => {
            let lo = between(series, at.lo).unwrap_or(first.0);
            let hi = between(series, at.hi).unwrap_or(last.0);
            Crossing::At(Estimate { value, lo, hi })
        }
    }
}

/// The size of an amount, along straight lines of logarithms; `None` outside of the series.
fn between(series: &[(f64, f64)], amount: f64) -> Option<f64> {
    let step = series
        .windows(2)
        .find(|ends| ends[0].1 <= amount && amount <= ends[1].1 && ends[0].1 < ends[1].1)?;
    let way = (amount / step[0].1).ln() / (step[1].1 / step[0].1).ln();
    Some(step[0].0 * (step[1].0 / step[0].0).powf(way))
}

//! What the records say of a quantity: its value with an interval, and the rows behind it.

use std::sync::LazyLock;

use super::evidence::{Says, Tally, planned_from_dram};
use super::pairs::{Follows, Pair};
use super::shares::BoundBy;
use super::{BOUND_SHARE, Judge, MachineLimit, counted};
use crate::analysis::Measured;
use crate::claims::{Bound, ClaimEntry, Of, Over, Quantity, RowQuantity};
use crate::format::DType;
use crate::model::claims::Wall;
use crate::model::{llm, workload};
use crate::op::Problem;
use crate::resource::Resource;
use crate::statistics::Estimate;
use crate::suite::Filter;

/// What the records say of a quantity.
#[derive(Debug, Default)]
pub(super) struct Found {
    /// Its value; none where nothing says it.
    pub value: Option<Estimate>,
    /// What each planned row or pair says. Of one value of many rows, those that it was made
    /// of agree here; whether they do is for the claim to judge.
    pub tally: Tally,
    /// Ids of the points that it was made of, each once.
    pub rows: Vec<String>,
    /// How the value was made, as the beginning of a sentence; or why there is none.
    pub how: String,
    /// What else is to be said.
    pub details: Vec<String>,
    /// Why nothing can be judged by the value.
    pub doubt: Option<String>,
    /// Why the claim is wrong, whatever the value.
    pub contradicted: Option<String>,
    /// Why a value that is off says nothing all the same.
    pub excuse: Option<&'static str>,
    /// How the value follows from what was planned.
    pub made: Made,
}

/// How a value follows from the rows that were planned for it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Made {
    /// Of the best row, which others cannot make worse: a ceiling, the shortest time. What
    /// does not follow from rows is one too.
    #[default]
    Best,
    /// Of many rows, at least half of which must say something.
    Many,
    /// The share of rows that agree, of which at least half must say something. Each was
    /// judged by its own interval.
    Share,
}

impl Found {
    /// No value, for this reason.
    pub fn nothing(why: impl Into<String>) -> Self {
        Found { how: why.into(), ..Found::default() }
    }

    /// A share of rows or pairs: how many of those that say anything agree. Its interval is
    /// what it would be if all that say nothing disagreed, or agreed.
    pub fn share_of(says: Vec<([&str; 2], Says)>, how: &str) -> Self {
        let tally: Tally = says.iter().map(|(_, says)| *says).collect();
        let counts = tally.counts();
        let share = |of: usize, all: usize| of as f64 / all as f64;
        let evidence = counts.agree + counts.against;
        let value = (evidence > 0).then(|| Estimate {
            value: share(counts.agree, evidence),
            lo: share(counts.agree, counts.planned),
            hi: share(counts.agree + counts.not_evidence(), counts.planned),
        });
        let rows = says.iter().filter(|(_, says)| says.is_evidence());
        Found {
            value,
            rows: distinct(rows.flat_map(|(ids, _)| *ids)),
            how: format!("{} of {} planned {how}", counts.agree, counts.planned),
            tally,
            made: Made::Share,
            ..Found::default()
        }
    }
}

/// Ids in their order, each once.
fn distinct<'a>(ids: impl Iterator<Item = &'a str>) -> Vec<String> {
    let mut distinct: Vec<String> = Vec::new();
    for id in ids {
        if !distinct.iter().any(|other| other == id) {
            distinct.push(id.to_owned());
        }
    }
    distinct
}

/// Memory walls of the models and workloads in the tables: the same for every campaign.
static WALLS: LazyLock<Vec<Wall>> = LazyLock::new(|| {
    let (models, workloads) = (llm::load(None), workload::load(None));
    let walls = models.and_then(|models| Wall::all(&models, &workloads?));
    walls.unwrap_or_default()
});

impl<'a> Judge<'a> {
    /// What the records say of what is claimed: the one place that finds values of quantities.
    pub(super) fn found(&self, claim: &ClaimEntry, pairs: &[Pair<'a>]) -> Found {
        match &claim.quantity {
            Quantity::DramReadBandwidth => {
                let of =
                    |p: &Measured| p.memory_roof().is_some() && p.work.bytes_written() == 0;
                self.of_limit("dram_read_bandwidth", &of)
            }
            Quantity::ComputeCeiling(dtype) => {
                self.of_limit(&format!("{dtype}_compute"), &|p| computes_in(p, *dtype))
            }
            Quantity::Ridge(dtype) => {
                self.of_limit(&format!("{dtype}_ridge"), &|p| computes_in(p, *dtype))
            }
            Quantity::LinkBandwidth(link, direction) => {
                let resource = Resource::Link(*link, *direction);
                let of = |p: &Measured| p.work.amounts().any(|(used, _)| used == resource);
                self.of_limit(&format!("{link}_link_{}_bandwidth", direction.name()), &of)
            }
            Quantity::L2Bytes => self.l2_bytes(),
            Quantity::OfRows(of, over) => self.of_rows(claim, *of, *over),
            Quantity::TimeRatio(beside, over) => self.time_ratio(claim, beside, *over),
            Quantity::Elasticity(of, kinds, over) => {
                elasticity(&self.asked(claim, kinds, pairs), *of, *over)
            }
            Quantity::BoundBy(Bound::Memory) => self.memory_bound(claim, pairs),
            Quantity::BoundBy(Bound::Compute) => self.compute_bound(claim),
            Quantity::PairsFollow(kinds) => {
                self.pairs_follow(kinds, &self.asked(claim, kinds, pairs))
            }
            Quantity::FullBeforeRidge(dtype) => self.full_before_ridge(*dtype),
            Quantity::TimeOfProblems(problems) => self.time_of(problems),
            Quantity::Prediction(_) => {
                Found::nothing("it is of `predict claims`, and not of records")
            }
        }
    }

    /// The points that a claim is about: those that it selects, of own kernels unless it says
    /// otherwise.
    pub(super) fn selected(&self, claim: &ClaimEntry) -> Vec<&'a Measured> {
        self.meeting(claim.select.as_ref(), claim.include_peers)
    }

    fn meeting(&self, filter: Option<&Filter>, include_peers: bool) -> Vec<&'a Measured> {
        let points = self.campaign.points.iter();
        points
            .filter(|point| include_peers || point.is_own())
            .filter(|point| {
                filter.is_none_or(|f| f.matches_record(&point.point(), &point.point_id))
            })
            .collect()
    }

    /// The pairs of some kinds with both ends among what a claim selects.
    fn asked<'p>(
        &self,
        claim: &ClaimEntry,
        kinds: &[String],
        pairs: &'p [Pair<'a>],
    ) -> Vec<&'p Pair<'a>> {
        let is_selected = |point: &Measured| {
            let select = claim.select.as_ref();
            select.is_none_or(|f| f.matches_record(&point.point(), &point.point_id))
        };
        let is_asked = |pair: &&Pair<'a>| {
            kinds.iter().any(|kind| kind == pair.kind.key())
                && is_selected(pair.low)
                && is_selected(pair.high)
        };
        pairs.iter().filter(is_asked).collect()
    }

    /// A limit of the machine, which rows that `is_of` it could have set.
    fn of_limit(&self, id: &str, is_of: &dyn Fn(&Measured) -> bool) -> Found {
        let planned = self.campaign.points.iter().filter(|point| is_of(point));
        let says = planned.map(|point| self.of_time(point));
        let tally: Tally = says.collect();
        let limits = self.limits();
        let Some(limit) = limits.into_iter().find(|limit| limit.id == id) else {
            let how = match tally.counts().planned {
                0 => "no planned row measures it",
                _ => "no row measured it",
            };
            let tally = tally.saying_nothing(how);
            return Found { tally, ..Found::nothing(how) };
        };
        let doubt = limit.doubt.map(|doubt| doubt.name().to_owned());
        Found {
            value: Some(limit.value),
            rows: self.rows_of(&limit),
            how: limit.from,
            doubt,
            tally,
            ..Found::default()
        }
    }

    /// The points that set a limit; of a ridge two.
    fn rows_of(&self, limit: &MachineLimit) -> Vec<String> {
        if let Some(best) = limit.candidates.first() {
            return vec![best.point_id.clone()];
        }
        let Some(ceilings) = &self.campaign.ceilings else { return Vec::new() };
        let dtype = limit.id.strip_suffix("_ridge").and_then(|dtype| dtype.parse().ok());
        let compute = dtype.and_then(|dtype: DType| ceilings.compute.get(&dtype));
        let ids = compute.into_iter().chain([&ceilings.read]).map(|c| c.point_id.as_str());
        distinct(ids)
    }

    fn l2_bytes(&self) -> Found {
        let Some(bytes) = self.campaign.provenance.l2_bytes else {
            return Found::nothing("run.csv does not say it");
        };
        Found {
            value: Some(Estimate::exact(bytes as f64)),
            how: "as the driver says in run.csv".into(),
            ..Found::default()
        }
    }

    /// Whether a row has a time, or why not.
    fn of_time(&self, point: &Measured) -> Says {
        if point.time_s.is_none() {
            return Says::NotMeasured(point.status.name());
        }
        match self.campaign.is_disturbed(point) {
            true => Says::Nothing("measured under load"),
            false => Says::Agrees,
        }
    }

    fn of_rows(&self, claim: &ClaimEntry, of: RowQuantity, over: Over) -> Found {
        let rows = self.selected(claim).into_iter();
        let values = rows.map(|point| {
            let value = self.value_of(point, of);
            let says = match (self.of_time(point), value) {
                (Says::Agrees, None) => Says::Nothing(lacking(of)),
                (says, _) => says,
            };
            ([point.point_id.as_str(); 2], says, value)
        });
        reduced(values.collect(), over, "rows")
    }

    /// The value of a row.
    fn value_of(&self, point: &Measured, of: RowQuantity) -> Option<Estimate> {
        let drifting = |e: Option<Estimate>| Some(e?.widened(self.drift));
        let intensity = point.work.operational_intensity();
        match of {
            RowQuantity::Time => drifting(point.time_s),
            RowQuantity::Bandwidth => drifting(point.bytes_per_s()),
            RowQuantity::ComputeRate => drifting(point.flops_per_s()),
            RowQuantity::MemoryShare => self.memory_share(point),
            RowQuantity::ComputeShare => self.compute_share(point),
            RowQuantity::RoofShare => self.binding_share(point),
            RowQuantity::Intensity => Some(Estimate::exact(intensity)),
            RowQuantity::MeasuredIntensity => {
                Some(Estimate::exact(point.intensity_measured()?.0))
            }
            RowQuantity::IntensityOfModel => {
                let of_bytes = point.intensity_of_measured_bytes()?;
                Some(Estimate::exact(of_bytes / intensity))
            }
            RowQuantity::CapacityFootprint => {
                let requests: f64 = point.problem.value_of("batch")?.parse().ok()?;
                let bytes = point.problem.cache_bytes() as f64 / requests;
                (bytes > 0.0).then(|| Estimate::exact(bytes))
            }
        }
        .filter(|e| [e.value, e.lo, e.hi].iter().all(|end| end.is_finite()))
    }

    fn time_ratio(&self, claim: &ClaimEntry, beside: &Filter, over: Over) -> Found {
        let times = |points: Vec<&'a Measured>| {
            let time = |point: &'a Measured| {
                ([point.point_id.as_str(); 2], self.of_time(point), point.time_s)
            };
            points.into_iter().map(time).collect::<Vec<_>>()
        };
        let (of, to) = (
            times(self.selected(claim)),
            times(self.meeting(Some(beside), claim.include_peers)),
        );
        let tally: Tally = of.iter().chain(&to).map(|(_, says, _)| *says).collect();
        let [of, to] = [of, to].map(|values| reduced(values, over, "rows"));
        let rows = distinct(of.rows.iter().chain(&to.rows).map(String::as_str));
        let how = format!("{}, over {}", of.how, to.how);
        let value = of.value.zip(to.value).map(|(of, to)| of.over(to).widened(self.drift));
        Found { value, tally, rows, how, made: Made::Many, ..Found::default() }
    }

    /// The share of the points from DRAM that are compute bound.
    fn compute_bound(&self, claim: &ClaimEntry) -> Found {
        let points = self.selected(claim).into_iter().filter(|p| planned_from_dram(p));
        let says = points.map(|p| ([p.point_id.as_str(); 2], self.says_compute_bound(p)));
        let says: Vec<([&str; 2], Says)> = says.collect();
        if says.is_empty() {
            return Found::nothing("no such point from DRAM was planned");
        }
        let how = format!(
            "points from DRAM are compute bound, with their whole interval at {:.0}% of the \
             compute roof or more",
            100.0 * BOUND_SHARE
        );
        Found::share_of(says, &how)
    }

    fn says_compute_bound(&self, point: &Measured) -> Says {
        if point.time_s.is_none() {
            return Says::NotMeasured(point.status.name());
        }
        let Some(bound) = self.bound(point) else {
            return Says::NotMeasured("no read from DRAM to judge by");
        };
        if self.campaign.is_disturbed(point) {
            return Says::Nothing("measured under load");
        }
        match bound {
            BoundBy::Compute | BoundBy::Ridge => Says::Agrees,
            BoundBy::Memory | BoundBy::Link | BoundBy::Latency => {
                Says::Against(bound.name())
            }
            BoundBy::Kernel | BoundBy::NotJudged(_) => Says::Nothing(bound.name()),
            BoundBy::Undecided => Says::Nothing("the interval spans the threshold"),
        }
    }

    /// The share of models and workloads whose memory is full before the measured ridge, on
    /// machines with the memory of this one. What is measured is the ridge; the rest is
    /// counted.
    fn full_before_ridge(&self, dtype: DType) -> Found {
        let memory = self.campaign.runs.last().and_then(|run| {
            let bytes = run.get("memory_total_bytes")?.parse::<f64>().ok()?;
            (bytes.is_finite() && bytes > 0.0).then_some(bytes)
        });
        let Some(memory_bytes) = memory else {
            return Found::nothing("run.csv does not say how much memory the device has");
        };
        let id = format!("{dtype}_ridge");
        let ridge = self.of_limit(&id, &|p| computes_in(p, dtype));
        let Some(at) = ridge.value else { return ridge };
        let share = |ridge: f64| {
            let known =
                WALLS.iter().filter_map(|wall| wall.comes_first(memory_bytes, ridge));
            let first: Vec<bool> = known.map(|(_, first)| first).collect();
            let right = first.iter().filter(|first| **first).count();
            (right, first.len())
        };
        let [value, lo, hi] = [at.value, at.lo, at.hi].map(|ridge| {
            let (right, of) = share(ridge);
            right as f64 / of.max(1) as f64
        });
        let (right, of) = share(at.value);
        // A higher ridge takes a larger batch.
        let value = Estimate { value, lo: lo.min(value), hi: hi.max(value) };
        let how = format!(
            "{right} of {of} models and workloads on 1 and 8 GPUs with this memory fill it \
             before the measured ridge of {:.0} FLOP/B",
            at.value
        );
        Found { value: (of > 0).then_some(value), how, ..ridge }
    }

    /// The time of problems one after the other, each by its fastest row from DRAM on a device
    /// that did nothing special before.
    fn time_of(&self, problems: &[Problem]) -> Found {
        let (mut sum, mut rows, mut kernels) =
            (Some(Estimate::exact(0.0)), Vec::new(), vec![]);
        let (mut says, mut are_all_own) = (Vec::new(), true);
        for problem in problems {
            let is_of = |p: &&Measured| p.problem == *problem && p.load.is_none();
            let of_problem = self.campaign.points.iter().filter(is_of);
            let planned: Vec<&Measured> =
                of_problem.filter(|p| planned_from_dram(p)).collect();
            says.extend(planned.iter().map(|p| self.of_time(p)));
            are_all_own &= planned.iter().all(|p| p.is_own() || p.time_s.is_none());
            let calm = planned.into_iter().filter(|p| !self.campaign.is_disturbed(p));
            let timed = calm.filter_map(|p| Some((p, p.time_s?.widened(self.drift))));
            let best = timed.min_by(|a, b| a.1.value.total_cmp(&b.1.value));
            sum = sum.zip(best).map(|(sum, (_, time_s))| Estimate {
                value: sum.value + time_s.value,
                lo: sum.lo + time_s.lo,
                hi: sum.hi + time_s.hi,
            });
            rows.extend(best.map(|(point, _)| point.point_id.clone()));
            kernels.extend(best.map(|(point, _)| point.kernel.to_string()));
        }
        let tally: Tally = says.into_iter().collect();
        if sum.is_none() {
            let how = match (tally.counts().planned, problems.len()) {
                (0, 1) => "no row of this problem was planned",
                (_, 1) => "no row of this problem has a time",
                (0, _) => {
                    "it is the time of several kernels, and no row of them was planned"
                }
                (_, _) => "it is the time of several kernels, and not all have rows",
            };
            return Found { tally: tally.saying_nothing(how), ..Found::nothing(how) };
        }
        let how = format!(
            "by {}, the fastest of {}",
            kernels.join(", then "),
            counted(tally.counts().planned, "row", "rows")
        );
        // A kernel that is slow says nothing of the machine, and little of other kernels.
        let excuse = are_all_own.then_some("only own kernels were measured, and slower");
        Found { value: sum, tally, rows, how, excuse, ..Found::default() }
    }
}

/// Why a row with a time lacks a value.
const fn lacking(of: RowQuantity) -> &'static str {
    match of {
        RowQuantity::MeasuredIntensity | RowQuantity::IntensityOfModel => {
            "hardware counters did not see it"
        }
        RowQuantity::CapacityFootprint => "it has no cache of requests",
        RowQuantity::MemoryShare | RowQuantity::ComputeShare | RowQuantity::RoofShare => {
            "no ceiling to judge by"
        }
        RowQuantity::ComputeRate | RowQuantity::Bandwidth => "it has none",
        RowQuantity::Time | RowQuantity::Intensity => "it is not finite",
    }
}

/// Whether a point could set the ceiling of a format.
fn computes_in(point: &Measured, dtype: DType) -> bool {
    point.judged_facts().sets_compute_ceiling && point.problem.math_dtype() == Some(dtype)
}

/// One value of many, with an interval of the same choice among the ends of theirs.
fn reduced(
    values: Vec<([&str; 2], Says, Option<Estimate>)>,
    over: Over,
    of_what: &str,
) -> Found {
    let tally: Tally = values.iter().map(|(_, says, _)| *says).collect();
    let used = values.iter().filter(|(_, says, _)| *says == Says::Agrees);
    let used: Vec<(&[&str; 2], Estimate)> =
        used.filter_map(|(ids, _, value)| Some((ids, (*value)?))).collect();
    let counts = tally.counts();
    if used.is_empty() {
        let how = match counts.planned {
            0 => format!("no {of_what} were planned that it is about"),
            planned => format!("none of {planned} planned {of_what} has a value"),
        };
        return Found { tally, ..Found::nothing(how) };
    }
    let choose = |end: fn(&Estimate) -> f64| {
        let mut ends: Vec<f64> = used.iter().map(|(_, e)| end(e)).collect();
        ends.sort_by(f64::total_cmp);
        match over {
            Over::Median => crate::statistics::quantile(&ends, 0.5),
            Over::Least => ends[0],
            Over::Most => ends[ends.len() - 1],
        }
    };
    Found {
        value: Some(Estimate {
            value: choose(|e| e.value),
            lo: choose(|e| e.lo),
            hi: choose(|e| e.hi),
        }),
        rows: distinct(used.iter().flat_map(|(ids, _)| **ids)),
        how: format!(
            "the {over} of {} of {} planned {of_what}",
            used.len(),
            counts.planned
        ),
        made: Made::Many,
        tally,
        ..Found::default()
    }
}

/// Elasticities of pairs: of those that were measured and are not mostly launching or load.
fn elasticity<'a>(asked: &[&Pair<'a>], of: Of, over: Over) -> Found {
    let value = |pair: &Pair<'a>| {
        let [of_bytes, of_flops] = pair.elasticities();
        let value = match of {
            Of::Bytes => of_bytes,
            Of::Flops => of_flops,
        };
        // Pairs that tell nothing by their shapes have elasticities all the same.
        let lost = [pair.low, pair.high].into_iter().find(|p| p.time_s.is_none());
        let silent = match pair.says {
            _ if lost.is_some() => lost.map(|p| Says::NotMeasured(p.status.name())),
            Some(Says::Nothing(why)) if pair.follows != Some(Follows::Undecided) => {
                Some(Says::Nothing(why))
            }
            _ => None,
        };
        let says = silent.unwrap_or(match value {
            Some(_) => Says::Agrees,
            None => Says::Nothing("it hardly changes in the pair"),
        });
        ([pair.low.point_id.as_str(), pair.high.point_id.as_str()], says, value)
    };
    reduced(asked.iter().map(|pair| value(pair)).collect(), over, "pairs")
}

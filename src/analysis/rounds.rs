//! Rounds of points: the interval that a campaign's times have.

use std::collections::{BTreeMap, BTreeSet};

use super::Measured;
use super::ceilings::is_cpu;
use crate::op::Purpose;
use crate::record::{RoundRow, Run};
use crate::statistics::{
    Estimate, RoundSpread, low_quantile, of_rounds, quantile, relative_range,
};

/// How much a campaign's times vary from round to round.
#[derive(Clone, Debug, PartialEq)]
pub struct Repeatability {
    /// The typical spread, which intervals of few rounds lean on.
    pub typical: RoundSpread,
    /// What was laid out anew from one round to the next.
    pub unit: RoundUnit,
    /// Largest over smallest round median less 1, of each point, sorted.
    pub ranges: Vec<f64>,
    /// Relative differences of two campaigns like this one that are told from none with
    /// 95% confidence, of each point, sorted.
    pub resolutions: Vec<f64>,
}

/// What a repetition is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RoundUnit {
    /// Buffers laid out anew in one process.
    Rounds,
    /// Processes, each with its rounds.
    Processes,
}

impl RoundUnit {
    /// As prose, in the plural.
    pub const fn name(self) -> &'static str {
        match self {
            RoundUnit::Rounds => "rounds",
            RoundUnit::Processes => "processes",
        }
    }
}

impl Repeatability {
    /// A quantile of the ranges between rounds.
    pub fn range(&self, p: f64) -> f64 {
        quantile(&self.ranges, p)
    }

    /// A quantile of the smallest differences that can be resolved.
    pub fn resolution(&self, p: f64) -> f64 {
        quantile(&self.resolutions, p)
    }
}

/// Processes with their medians, by id: lists, since points may be many, and have few.
type Processes<'a> = Vec<(&'a str, Vec<f64>)>;

/// Whether a round counts.
pub(super) fn is_usable(row: &RoundRow) -> bool {
    !row.disturbed && row.time_s_median > 0.0
}

/// Medians of the undisturbed rounds of one point.
pub(super) fn medians_s(rounds: &[RoundRow], point_id: &str) -> Vec<f64> {
    let of_point = rounds.iter().filter(|row| is_usable(row) && row.point_id == point_id);
    of_point.map(|row| row.time_s_median).collect()
}

/// Medians of the undisturbed rounds of each point, by process.
fn by_process(rounds: &[RoundRow]) -> BTreeMap<&str, Processes<'_>> {
    let mut points: BTreeMap<&str, Processes<'_>> = BTreeMap::new();
    for row in rounds.iter().filter(|row| is_usable(row)) {
        let of_point = points.entry(&row.point_id).or_default();
        match of_point.binary_search_by_key(&row.run_id.as_str(), |(run, _)| run) {
            Ok(at) => of_point[at].1.push(row.time_s_median),
            Err(at) => of_point.insert(at, (&row.run_id, vec![row.time_s_median])),
        }
    }
    points
}

/// Gives points the times that their rounds agree on, with intervals from the spread
/// between rounds, or between processes where several measured the campaign. `None`, and
/// times as recorded, where no point has two rounds.
///
/// A point that is there to show a ceiling and was repeated often enough, `bursts` of the
/// compute probe among its repeats, has the low end of its repeats for its time: a ceiling
/// is what the machine does where nothing else slows it down.
pub(super) fn apply(
    points: &mut [Measured],
    rounds: &[RoundRow],
    bursts: &Bursts<'_>,
) -> Option<Repeatability> {
    let by_process = by_process(rounds);
    let peers = points.iter().filter(|point| !point.is_own());
    let peers: BTreeSet<String> = peers.map(|point| point.point_id.clone()).collect();
    let is_own = |id: &str| !peers.contains(id);
    let own = || by_process.iter().filter(|(id, _)| is_own(id));
    let have_processes = own().filter(|(_, of)| of.len() > 1).count();
    // A campaign that was merely resumed has points in both processes, but few.
    let unit = match 2 * have_processes > own().count() {
        true => RoundUnit::Processes,
        false => RoundUnit::Rounds,
    };
    let units: BTreeMap<&str, Vec<f64>> = by_process
        .into_iter()
        .map(|(id, processes)| match unit {
            RoundUnit::Processes if is_own(id) => {
                let mean = |medians: &Vec<f64>| {
                    of_rounds(medians, None).map_or(medians[0], |e| e.value)
                };
                (id, processes.iter().map(|(_, medians)| mean(medians)).collect())
            }
            // Peers have one process, which measures all of their rounds.
            _ => (id, processes.into_iter().flat_map(|(_, medians)| medians).collect()),
        })
        .collect();
    let of_own = units.iter().filter(|(id, _)| is_own(id));
    let typical = RoundSpread::of(of_own.map(|(_, medians)| medians.as_slice()))?;
    let (mut ranges, mut resolutions) = (Vec::new(), Vec::new());
    for point in points.iter_mut().filter(|point| point.time_s.is_some()) {
        let Some(medians) = units.get(point.point_id.as_str()) else { continue };
        let Some(time) = of_rounds(medians, Some(&typical)) else { continue };
        point.time_s = Some(low_end(point, medians, bursts).unwrap_or(time));
        point.round_medians_s = medians.clone();
        if point.is_own() {
            ranges.push(relative_range(medians));
            resolutions.push(resolution(time));
        }
    }
    ranges.sort_by(f64::total_cmp);
    resolutions.sort_by(f64::total_cmp);
    Some(Repeatability { typical, unit, ranges, resolutions })
}

/// Seconds of launches of the compute probe, and the point that it is.
pub(super) struct Bursts<'a> {
    pub point_id: &'a str,
    pub times_s: Vec<f64>,
}

impl<'a> Bursts<'a> {
    /// Those of a CPU. A GPU does more in a burst than it can go on with under its power
    /// limit, so there they show only whether something changed.
    pub fn of(run: Option<&'a Run>, rounds: &[RoundRow]) -> Self {
        let run = run.filter(|run| is_cpu(run));
        let usable = rounds.iter().filter(|round| run.is_some() && !round.disturbed);
        Bursts {
            point_id: run.and_then(|run| run.get("compute_probe")).unwrap_or_default(),
            times_s: usable.filter_map(|round| round.compute_probe_s).collect(),
        }
    }
}

/// Repeats from which on the low end of a ceiling's repeats is used.
const FEWEST_REPEATS: usize = 8;

/// The low end of the repeats of a point that shows a ceiling of memory or arithmetic.
fn low_end(point: &Measured, medians: &[f64], bursts: &Bursts<'_>) -> Option<Estimate> {
    let purpose = point.judged_facts().purpose;
    if !matches!(purpose, Purpose::MemoryRoof | Purpose::ComputeRoof) {
        return None;
    }
    let mut times = medians.to_vec();
    if point.point_id == bursts.point_id {
        times.extend(&bursts.times_s);
    }
    if times.len() < FEWEST_REPEATS { None } else { low_quantile(&times) }
}

/// The ratio of two times with such an interval that is told from 1, less 1.
fn resolution(time: Estimate) -> f64 {
    ((time.hi / time.value).ln() * std::f64::consts::SQRT_2).exp() - 1.0
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::analysis::Campaign;
    use crate::record::{Records, Row, Status};

    fn row(id: &str, m: u64) -> Row {
        Row {
            point_id: id.into(),
            status: Some(Status::Ok),
            kernel: "k".into(),
            cache_state: "cold".into(),
            problem: format!("gemm:m={m},n=16,k=128,dtype=bf16"),
            time_s_median: Some(1.0),
            time_s_ci_lo: Some(1.0),
            time_s_ci_hi: Some(1.0),
            ..Row::default()
        }
    }

    fn round(id: &str, run: &str, time_s_median: f64) -> RoundRow {
        RoundRow {
            point_id: id.into(),
            run_id: run.into(),
            time_s_median,
            ..RoundRow::default()
        }
    }

    fn campaign(rounds: Vec<RoundRow>) -> Campaign {
        let rows = vec![row("a", 1), row("b", 2)];
        let records = Records { rows, rounds, ..Records::default() };
        Campaign::from_records(Path::new("x"), records, None).unwrap()
    }

    /// The spread between rounds and not the samples of one decide the interval.
    #[test]
    fn intervals_come_from_rounds() {
        let quiet = campaign(vec![round("a", "r", 2.0), round("b", "r", 3.0)]);
        assert_eq!(quiet.repeatability, None);
        assert_eq!(quiet.points[0].time_s.unwrap(), Estimate::exact(1.0));
        let mut rounds = vec![
            round("a", "r", 2.0),
            round("a", "r", 2.2),
            round("b", "r", 3.0),
            round("b", "r", 3.0),
        ];
        let spread = campaign(rounds.clone());
        let repeatability = spread.repeatability.as_ref().unwrap();
        assert_eq!(repeatability.unit, RoundUnit::Rounds);
        assert!((repeatability.range(1.0) - 0.1).abs() < 1e-12);
        let [a, b] = [0, 1].map(|i| spread.points[i].time_s.unwrap());
        assert!((a.value - 4.4f64.sqrt()).abs() < 1e-12 && a.half_width() > 0.05, "{a:?}");
        // Rounds that happen to agree are not more certain than the campaign is.
        assert!(b.half_width() > 0.03 && b.half_width() < a.half_width(), "{b:?}");
        assert!(repeatability.resolution(0.0) > b.half_width());
        rounds[1].disturbed = true;
        rounds.push(round("a", "r", 2.0));
        let calm = campaign(rounds);
        assert_eq!(calm.points[0].time_s.unwrap(), Estimate::exact(2.0));
    }

    /// What else runs makes a ceiling's repeats longer, never shorter.
    #[test]
    fn ceilings_are_the_low_end_of_their_repeats() {
        let stream =
            Row { problem: "stream:access=read,bytes=1048576".into(), ..row("s", 1) };
        let peak = Row {
            problem: "peak:unit=fma,dtype=f32,lanes=1024,steps=4096".into(),
            ..row("p", 1)
        };
        let mut rounds = vec![round("p", "r", 1.0), round("p", "r", 1.1)];
        for i in 0..20 {
            let time = if i % 5 == 0 { 2.0 } else { 4.0 };
            let compute_probe_s = Some(0.9 + 0.01 * f64::from(i));
            let disturbed = i == 19;
            rounds.push(RoundRow { compute_probe_s, disturbed, ..round("s", "r", time) });
        }
        let of = |backend: &str| {
            let mut run = Run::default();
            run.set("backend", backend);
            run.set("compute_probe", "p");
            let rows = vec![stream.clone(), peak.clone()];
            let records = Records {
                runs: vec![run],
                rows,
                rounds: rounds.clone(),
                ..Records::default()
            };
            let campaign = Campaign::from_records(Path::new("x"), records, None).unwrap();
            [0, 1].map(|i| campaign.points[i].time_s.unwrap().value)
        };
        assert_eq!(of("cpu"), [2.0, 0.92]);
        // Few rounds and no bursts: their mean.
        let [read_s, compute_s] = of("cuda:0");
        assert_eq!(read_s, 2.0);
        assert!((compute_s - 1.1f64.sqrt()).abs() < 1e-12, "{compute_s}");
    }

    /// Peers, which one process measures, decide neither the unit nor the spread, and have
    /// intervals all the same.
    #[test]
    fn peers_leave_the_unit_as_it_is() {
        let mut rounds = Vec::new();
        for (id, times) in [("a", [1.0, 1.1, 1.2]), ("b", [5.0, 5.5, 6.0])] {
            for (run, time) in ["p", "q", "r"].iter().zip(times) {
                rounds.push(round(id, run, time));
            }
        }
        let own = campaign(rounds.clone()).repeatability.unwrap();
        let mut rows = vec![row("a", 1), row("b", 2)];
        for peer in ["x", "y", "z"] {
            rows.push(Row { implementation: "cuBLAS 13".into(), ..row(peer, 1) });
            rounds.extend([round(peer, "s", 1.0), round(peer, "s", 1.0)]);
        }
        let records = Records { rows, rounds, ..Records::default() };
        let with = Campaign::from_records(Path::new("x"), records, None).unwrap();
        assert_eq!(with.repeatability.as_ref(), Some(&own));
        let peer = with.points[2].time_s.unwrap();
        assert!((peer.value - 1.0).abs() < 1e-12 && peer.half_width() > 0.02, "{peer:?}");
        assert_eq!(with.points[2].round_medians_s.len(), 2);
    }

    /// Rounds of one process agree and processes do not: the interval spans processes.
    #[test]
    fn processes_are_the_unit_where_there_are_several() {
        let mut rounds = Vec::new();
        for (id, times) in [("a", [1.0, 1.1, 1.2]), ("b", [5.0, 5.5, 6.0])] {
            for (run, time) in ["p", "q", "r"].iter().zip(times) {
                rounds.extend([round(id, run, time), round(id, run, time)]);
            }
        }
        let campaign = campaign(rounds);
        assert_eq!(campaign.repeatability.unwrap().unit, RoundUnit::Processes);
        let a = campaign.points[0].time_s.unwrap();
        assert!(a.lo < 1.0 && a.hi > 1.2, "{a:?}");
    }
}

//! Successive halving: points that are the same problem in several configurations of one
//! kernel compete, and after each of the first rounds the slower half is measured no further
//! (Jamieson and Talwalkar, "Non-stochastic best arm identification and hyperparameter
//! optimization", 2016). The default is always measured to the end, as what the others are
//! compared with.

use std::collections::{BTreeMap, HashSet};

use super::rows::Scheduled;
use crate::kernel::{Configuration, split_name};
use crate::point::{CacheState, LaunchMode, Load, Point};
use crate::record::RecordedRound;

/// What points share that compete: all but the configuration.
type Group = (String, String, CacheState, Option<LaunchMode>, Option<Load>);

fn group(point: &Point) -> Group {
    let (kernel, _) = split_name(&point.kernel);
    (point.problem.to_string(), kernel.to_owned(), point.cache, point.launch, point.load)
}

/// Whether a point runs in a configuration that may be given up.
fn is_challenger(point: &Point) -> bool {
    let (_, configuration) = split_name(&point.kernel);
    configuration.is_some_and(|name| name != Configuration::DEFAULT.name)
}

/// The points of a plan that compete.
pub(super) struct Halving {
    groups: Vec<Vec<Point>>,
    /// Rounds after which half of them is given up.
    halving_rounds: u32,
}

impl Halving {
    pub fn new(order: &[Scheduled], halving_rounds: usize) -> Self {
        let mut groups: BTreeMap<Group, Vec<Point>> = BTreeMap::new();
        let mut seen = HashSet::new();
        for Scheduled { point, .. } in order {
            if is_challenger(point) && seen.insert(point.id()) {
                groups.entry(group(point)).or_default().push(point.clone());
            }
        }
        let groups =
            if halving_rounds > 0 { groups.into_values().collect() } else { vec![] };
        Halving { groups, halving_rounds: halving_rounds as u32 }
    }

    /// The points that are measured no further when `round` begins, slowest first. `alive`
    /// are those without a row, and `rounds_of` what was measured of them, of which only
    /// rounds before this one count: so a campaign that is resumed gives up the same.
    pub fn given_up<'a>(
        &self,
        round: u32,
        alive: impl Fn(&Point) -> bool,
        rounds_of: impl Fn(&Point) -> &'a [RecordedRound],
    ) -> Vec<&Point> {
        let rungs = round.min(self.halving_rounds);
        let mut out = Vec::new();
        for group in &self.groups {
            let keep = group.len().div_ceil(1 << rungs.min(31)).max(1);
            let timed = group
                .iter()
                .filter(|point| alive(point))
                .filter_map(|point| Some((mean_log_time(rounds_of(point), round)?, point)));
            let mut timed: Vec<(f64, &Point)> = timed.collect();
            timed.sort_by(|a, b| b.0.total_cmp(&a.0));
            let excess = timed.len().saturating_sub(keep);
            out.extend(timed[..excess].iter().map(|(_, point)| *point));
        }
        out
    }
}

/// Mean logarithm of the time over undisturbed rounds before `round`; `None` without any.
fn mean_log_time(rounds: &[RecordedRound], round: u32) -> Option<f64> {
    let rounds = rounds.iter().map(|round| &round.row);
    let usable = rounds.filter(|row| row.round < round && !row.disturbed);
    let logs: Vec<f64> = usable.map(|row| row.time_s_median.ln()).collect();
    (!logs.is_empty()).then(|| logs.iter().sum::<f64>() / logs.len() as f64)
}

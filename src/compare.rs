//! Two campaigns beside each other, point by point: which times are the same, shorter or
//! longer, and which differences they are too noisy to tell.
//!
//! A difference is of logarithms of times. Its error has two parts: what rounds of one
//! campaign vary by, and what campaigns as wholes vary by beyond that, which rounds do not
//! show ([`Between`]). All rows are tested together ([`holm`]), so that a table of campaigns
//! that do not differ has any false alarm in at most 5% of cases.

mod between;
mod history;
mod nodes;
mod pair;
mod tables;

use std::collections::{BTreeMap, HashMap};

pub use between::{Between, BetweenSource};
pub use history::{History, HistoryRow, Step};
pub use nodes::{RankedNode, nodes_section, ranked};
pub use pair::Pair;
use pair::{is_timed, typical, typical_s};

use crate::analysis::{BesidePeer, Campaign, Measured};
use crate::op::Op;
use crate::point::CacheState;
use crate::statistics::{Estimate, LogDifference, Tested, holm};

/// What a comparison is held to.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Rules {
    /// Relative difference within which two times count as the same.
    pub margin: f64,
    /// Most false alarms: the share of tables without any difference that report one.
    pub alpha: f64,
    /// Which points of the two belong together.
    pub by: MatchBy,
}

impl Default for Rules {
    fn default() -> Self {
        Rules { margin: 0.02, alpha: 0.05, by: MatchBy::Point }
    }
}

/// Which points of two campaigns belong together.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MatchBy {
    /// The same text: problem, kernel, cache state, launch mode and load.
    Point,
    /// The same problem and cache state, by the fastest own kernel of each campaign.
    Problem,
}

/// What a row says of the second time beside the first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Change {
    /// Longer, beyond noise.
    Slower,
    /// Shorter, beyond noise.
    Faster,
    /// Neither is shown: the interval holds 1 and reaches beyond the margin.
    CannotTell,
    /// The whole interval lies within the margin.
    Same,
}

impl Change {
    /// All of them, in the order of tables.
    pub const ALL: [Change; 4] =
        [Change::Slower, Change::Faster, Change::CannotTell, Change::Same];

    /// As tables say it.
    pub const fn name(self) -> &'static str {
        match self {
            Change::Slower => "slower",
            Change::Faster => "faster",
            Change::CannotTell => "cannot tell",
            Change::Same => "same",
        }
    }
}

/// A row of a comparison.
#[derive(Clone, Copy, Debug)]
pub struct Compared<'a> {
    /// The first.
    pub before: &'a Measured,
    /// The second.
    pub after: &'a Measured,
    /// The first time over the second, with the interval at the level at which the row was
    /// tested: above 1 the second is faster.
    pub speed: Estimate,
    /// What the interval says.
    pub change: Change,
    /// The smallest rate of false alarms of the whole table at which the row would be told
    /// to differ.
    pub probability: f64,
    /// The smallest relative difference that would have been told from none here.
    pub resolvable: f64,
}

impl Compared<'_> {
    /// Seconds of the first and of the second.
    pub fn times_s(&self) -> [f64; 2] {
        [self.before, self.after].map(|point| typical_s(point).unwrap_or(f64::NAN))
    }
}

/// Two campaigns, or own kernels and peers of one, compared.
#[derive(Clone, Debug)]
pub struct Comparison<'a> {
    /// The campaigns; twice the same where own kernels stand beside peers.
    pub campaigns: [&'a Campaign; 2],
    /// Whether own kernels stand beside peers.
    pub is_of_peers: bool,
    /// What the two were held to.
    pub rules: Rules,
    /// What campaigns vary by beyond their rounds.
    pub between: Between,
    /// One row for each point that both have a time of, by operation and bytes.
    pub rows: Vec<Compared<'a>>,
    /// Points that only one of the two has a time of: of the first, of the second.
    pub unmatched: [usize; 2],
}

impl<'a> Comparison<'a> {
    /// Compares the points that two campaigns share: `after` beside `before`.
    pub fn of(
        before: &'a Campaign,
        after: &'a Campaign,
        wanted: &dyn Fn(&Measured) -> bool,
        rules: Rules,
    ) -> Self {
        // What campaigns vary by is seen in all of their points.
        let all = pairs(before, after, rules.by);
        let between = Between::of(before, after, &all);
        let rows: Vec<Pair<'a>> =
            all.into_iter().filter(|pair| wanted(pair.after)).collect();
        let unmatched = [before, after].map(|campaign| {
            let timed = campaign.points.iter().filter(|p| is_timed(p) && wanted(p));
            match rules.by {
                MatchBy::Point => timed.count().saturating_sub(rows.len()),
                MatchBy::Problem => 0,
            }
        });
        Comparison {
            campaigns: [before, after],
            is_of_peers: false,
            rules,
            rows: judged(&rows, |_| between, rules),
            between,
            unmatched,
        }
    }

    /// Compares own kernels with the fastest of other libraries on the same problems:
    /// `before` is the peer.
    pub fn of_peers(
        campaign: &'a Campaign,
        wanted: &dyn Fn(&Measured) -> bool,
        rules: Rules,
    ) -> Self {
        let typical = typical(&[campaign]);
        let beside = campaign.beside_peers().into_iter().filter(|both| wanted(both.own));
        let of_both = |both: BesidePeer<'a>| match both.in_turn {
            Some(difference) => {
                Some(Pair { before: both.peer, after: both.own, difference })
            }
            None => Pair::of(both.peer, both.own, typical.as_ref()),
        };
        let rows: Vec<Pair<'a>> = beside.filter_map(of_both).collect();
        let between = Between::usual(campaign);
        Comparison {
            campaigns: [campaign, campaign],
            is_of_peers: true,
            rules,
            rows: judged(&rows, |_| between, rules),
            between,
            unmatched: [0, 0],
        }
    }

    /// How many rows say this.
    pub fn count(&self, change: Change) -> usize {
        self.rows.iter().filter(|row| row.change == change).count()
    }

    /// The smallest differences that rows can resolve, sorted.
    pub fn resolvable(&self) -> Vec<f64> {
        let mut all: Vec<f64> = self.rows.iter().map(|row| row.resolvable).collect();
        all.sort_by(f64::total_cmp);
        all
    }
}

/// The points that both campaigns have a time of, by operation and bytes.
fn pairs<'a>(before: &'a Campaign, after: &'a Campaign, by: MatchBy) -> Vec<Pair<'a>> {
    let typical = typical(&[before, after]);
    let matched: Vec<(&Measured, &Measured)> = match by {
        MatchBy::Point => {
            let timed = after.points.iter().filter(|point| is_timed(point));
            let of_after: HashMap<&str, &Measured> =
                timed.map(|point| (point.point_id.as_str(), point)).collect();
            let find = |point: &'a Measured| {
                Some((point, *of_after.get(point.point_id.as_str())?))
            };
            before.points.iter().filter_map(find).collect()
        }
        MatchBy::Problem => {
            let of_after = fastest(after);
            let both = fastest(before).into_iter();
            both.filter_map(|(key, point)| Some((point, *of_after.get(&key)?))).collect()
        }
    };
    let mut pairs: Vec<Pair<'a>> = matched
        .into_iter()
        .filter_map(|(before, after)| Pair::of(before, after, typical.as_ref()))
        .collect();
    pairs.sort_by_cached_key(|pair| {
        let point = pair.after;
        (point.problem.op(), point.work.bytes(), point.work.flops())
    });
    pairs
}

/// The fastest own kernel of each problem and cache state.
fn fastest(campaign: &Campaign) -> BTreeMap<(Op, String, CacheState), &Measured> {
    let mut all: BTreeMap<_, &Measured> = BTreeMap::new();
    for point in campaign.own_points().filter(|point| point.load.is_none()) {
        let Some(time_s) = typical_s(point) else { continue };
        let key = (point.problem.op(), point.problem.to_string(), point.cache);
        let best = all.entry(key).or_insert(point);
        if typical_s(best).is_some_and(|best_s| time_s < best_s) {
            *best = point;
        }
    }
    all
}

/// Tests all pairs together. `between` is what their campaigns vary by.
fn judged<'a>(
    pairs: &[Pair<'a>],
    between: impl Fn(usize) -> Between,
    rules: Rules,
) -> Vec<Compared<'a>> {
    let whole: Vec<LogDifference> = pairs
        .iter()
        .enumerate()
        .map(|(at, pair)| between(at).added_to(pair.difference))
        .collect();
    let probabilities: Vec<f64> = whole.iter().map(LogDifference::probability).collect();
    let tested = holm(&probabilities, rules.alpha);
    let of_all = rules.alpha / pairs.len().max(1) as f64;
    let row = |((pair, difference), tested): ((&Pair<'a>, &LogDifference), &Tested)| {
        let speed = difference.ratio(tested.level);
        Compared {
            before: pair.before,
            after: pair.after,
            speed,
            change: change(speed, tested, rules.margin),
            probability: tested.adjusted,
            resolvable: difference.reach(of_all).exp() - 1.0,
        }
    };
    pairs.iter().zip(&whole).zip(&tested).map(row).collect()
}

/// What an interval says: it lies within the margin, to one side of 1, or neither.
fn change(speed: Estimate, tested: &Tested, margin: f64) -> Change {
    match speed {
        Estimate { lo, hi, .. } if lo * (1.0 + margin) >= 1.0 && hi <= 1.0 + margin => {
            Change::Same
        }
        Estimate { value, .. } if tested.is_rejected && value > 1.0 => Change::Faster,
        _ if tested.is_rejected => Change::Slower,
        _ => Change::CannotTell,
    }
}

#[cfg(test)]
mod tests;

//! Own kernels beside those of other libraries on the same problems.

use std::collections::{BTreeMap, HashMap, HashSet};

use super::{Campaign, Measured, rounds};
use crate::op::Op;
use crate::point::{CacheState, Load};
use crate::record::{CLOCKS_IN_SAMPLES, RoundRow, Row, Run};
use crate::statistics::{Estimate, LogDifference, RoundSpread};

/// The fastest own kernel and the fastest of another library on one problem.
#[derive(Clone, Copy, Debug)]
pub struct BesidePeer<'a> {
    /// Ours.
    pub own: &'a Measured,
    /// Theirs.
    pub peer: &'a Measured,
    /// Their time over ours with its 95% interval: above 1 ours is faster.
    pub speed: Estimate,
    /// Their time over ours by pairs of rounds that followed one another, where there are
    /// such: then the device was as warm for one as for the other.
    pub in_turn: Option<LogDifference>,
}

impl BesidePeer<'_> {
    /// Clocks of the multiprocessors in Hz, of ours and theirs, where both were read.
    pub fn clocks_hz(&self) -> Option<[f64; 2]> {
        let clocks = [self.own.sm_clock_hz?, self.peer.sm_clock_hz?];
        clocks.iter().all(|clock| *clock > 0.0).then_some(clocks)
    }

    /// Their clocks over ours: the speed if both had run at the same frequency and nothing
    /// depended on another.
    pub fn speed_in_clocks(&self) -> Option<f64> {
        self.clocks_hz().map(|[own, peer]| self.speed.value * peer / own)
    }

    /// What the interval tells.
    pub fn finding(&self) -> &'static str {
        match self.speed {
            Estimate { lo, .. } if lo > 1.0 => "ours is faster",
            Estimate { hi, .. } if hi < 1.0 => "the peer is faster",
            _ => "no difference told",
        }
    }
}

/// A point with its time.
type Timed<'a> = (&'a Measured, Estimate);

/// Of one problem the fastest of ours and of others, of what was measured in turn and of the
/// rest. Rows that `ridgepoint peers` wrote of peers belong to both.
#[derive(Default)]
struct Contenders<'a> {
    own: [Option<Timed<'a>>; 2],
    peer: [Option<Timed<'a>>; 2],
}

impl<'a> Contenders<'a> {
    fn add(&mut self, point: &'a Measured, is_in_turn: [bool; 2]) {
        let Some(time_s) = point.time_s else { return };
        let of = if point.is_own() { &mut self.own } else { &mut self.peer };
        let wanted = of.iter_mut().zip(is_in_turn).filter(|(_, is_wanted)| *is_wanted);
        for (best, _) in wanted {
            if best.is_none_or(|(_, known)| time_s.value < known.value) {
                *best = Some((point, time_s));
            }
        }
    }

    /// What is compared: of what was measured in turn, where there is both.
    fn both(self) -> Option<[Timed<'a>; 2]> {
        let ([own, own_in_turn], [peer, peer_in_turn]) = (self.own, self.peer);
        let both = own_in_turn.zip(peer_in_turn).or_else(|| own.zip(peer));
        both.map(|(own, peer)| [own, peer])
    }
}

/// Median seconds of the undisturbed rounds of a point by process and round.
type Rounds<'a> = HashMap<(&'a str, u32), f64>;

fn rounds_by_point<'a>(
    rounds: impl Iterator<Item = &'a RoundRow>,
) -> HashMap<&'a str, Rounds<'a>> {
    let mut by_point: HashMap<&str, Rounds<'_>> = HashMap::new();
    for row in rounds.filter(|row| rounds::is_usable(row)) {
        let of_point = by_point.entry(&row.point_id).or_default();
        of_point.insert((&row.run_id, row.round), row.time_s_median);
    }
    by_point
}

impl Campaign {
    /// Every problem that both an own kernel and another library's have a time of, in the
    /// order of operations and bytes. Of several kernels the fastest counts, on both sides.
    /// Where kernels took turns, the speed is of pairs of rounds.
    pub fn beside_peers(&self) -> Vec<BesidePeer<'_>> {
        let found: Vec<[Timed<'_>; 2]> =
            self.contenders().into_values().filter_map(Contenders::both).collect();
        let nodes = self.nodes.iter().flat_map(|node| &node.campaign.rounds);
        let by_point = rounds_by_point(self.rounds.iter().chain(nodes));
        let pairs: Vec<Vec<f64>> = found
            .iter()
            .map(|[(own, _), (peer, _)]| ratios(&by_point, own, peer))
            .collect();
        // Few pairs say little about their own spread.
        let typical = RoundSpread::of(pairs.iter().map(Vec::as_slice));
        let beside = found.into_iter().zip(&pairs);
        let beside = beside.map(|([(own, own_s), (peer, peer_s)], pairs)| {
            let in_turn = LogDifference::of_pairs(pairs, typical.as_ref());
            let of_times = || peer_s.over_independent(own_s);
            let speed = in_turn.map_or_else(of_times, |difference| difference.ratio_95());
            BesidePeer { own, peer, speed, in_turn }
        });
        beside.collect()
    }

    fn contenders(&self) -> BTreeMap<(Op, u64, String, CacheState), Contenders<'_>> {
        let ids: HashSet<&str> = self.rows_of_peers().map(|row| &*row.point_id).collect();
        let mut problems: BTreeMap<_, Contenders<'_>> = BTreeMap::new();
        let is_warmed_up = |load: Option<Load>| matches!(load, None | Some(Load::InTurn));
        for point in self.points.iter().chain(&self.in_turn) {
            if !is_warmed_up(point.load) {
                continue;
            }
            let problem = point.problem;
            let key = (problem.op(), point.work.bytes(), problem.to_string(), point.cache);
            let of_peers = ids.contains(&*point.point_id);
            let is_again = point.load == Some(Load::InTurn);
            let is_in_turn = [!is_again, of_peers];
            problems.entry(key).or_default().add(point, is_in_turn);
        }
        problems
    }

    /// Rows that processes of `ridgepoint peers` wrote, and how many they had planned.
    pub fn peer_rows(&self) -> (usize, usize) {
        let planned = self.runs.iter().rev().find_map(planned_peer_rows);
        (self.rows_of_peers().count(), planned.unwrap_or(0))
    }

    /// Takes clocks away that were not read in samples: those of peers in older records were
    /// polled beside them, of an idle GPU too.
    pub(super) fn forget_polled_clocks(
        points: &mut [Measured],
        rows: &[Row],
        runs: &[Run],
    ) {
        let polled = |run: &&Run| {
            planned_peer_rows(run).is_some()
                && run.get("peer_clocks") != Some(CLOCKS_IN_SAMPLES)
        };
        let ids: HashSet<&str> =
            runs.iter().filter(polled).filter_map(|run| run.get("run_id")).collect();
        let of_them = rows.iter().filter(|row| ids.contains(row.run_id.as_str()));
        let polled: HashSet<&str> = of_them.map(|row| row.point_id.as_str()).collect();
        for point in points.iter_mut().filter(|p| polled.contains(p.point_id.as_str())) {
            point.sm_clock_hz = None;
        }
    }

    /// The rows that processes of `ridgepoint peers` wrote.
    pub fn rows_of_peers(&self) -> impl Iterator<Item = &Row> {
        let of_peers = self.runs.iter().filter(|run| planned_peer_rows(run).is_some());
        let ids: HashSet<&str> = of_peers.filter_map(|run| run.get("run_id")).collect();
        self.rows.iter().filter(move |row| ids.contains(row.run_id.as_str()))
    }
}

/// The peer's time over ours in each round in which one followed the other.
fn ratios(
    by_point: &HashMap<&str, Rounds<'_>>,
    own: &Measured,
    peer: &Measured,
) -> Vec<f64> {
    let of = |point: &Measured| by_point.get(&*point.point_id);
    let (Some(own), Some(peer)) = (of(own), of(peer)) else { return Vec::new() };
    let mut both: Vec<_> =
        own.iter().filter_map(|(key, own_s)| Some((key, peer.get(key)? / own_s))).collect();
    both.sort_by_key(|(key, _)| *key);
    both.into_iter().map(|(_, ratio)| ratio).collect()
}

/// Rows that a process of `ridgepoint peers` had planned; `None` for another process.
fn planned_peer_rows(run: &Run) -> Option<usize> {
    run.get("planned_peer_rows").and_then(|text| text.parse().ok())
}

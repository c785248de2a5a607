//! Own kernels beside those of other libraries on the same problems.

use std::collections::{BTreeMap, HashSet};

use super::{Campaign, Measured};
use crate::op::Op;
use crate::point::CacheState;
use crate::record::{CLOCKS_IN_SAMPLES, Row, Run};
use crate::statistics::Estimate;

/// The fastest own kernel and the fastest of another library on one problem.
#[derive(Clone, Copy, Debug)]
pub struct BesidePeer<'a> {
    /// Ours.
    pub own: &'a Measured,
    /// Theirs.
    pub peer: &'a Measured,
    /// Their time over ours with its 95% interval: above 1 ours is faster.
    pub speed: Estimate,
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

impl Campaign {
    /// Every problem that both an own kernel and another library's have a time of, in the
    /// order of operations and bytes. Of several kernels the fastest counts, on both sides.
    pub fn beside_peers(&self) -> Vec<BesidePeer<'_>> {
        type Both<'a> = [Option<(&'a Measured, Estimate)>; 2];
        let mut problems: BTreeMap<(Op, u64, String, CacheState), Both> = BTreeMap::new();
        for point in &self.points {
            let Some(time_s) = point.time_s else { continue };
            let problem = point.problem;
            let key = (problem.op(), point.work.bytes(), problem.to_string(), point.cache);
            let best = &mut problems.entry(key).or_default()[usize::from(!point.is_own())];
            if best.is_none_or(|(_, known)| time_s.value < known.value) {
                *best = Some((point, time_s));
            }
        }
        let beside = problems.into_values().filter_map(|[own, peer]| own.zip(peer));
        let ratios = beside.map(|((own, own_s), (peer, peer_s))| {
            let speed = peer_s.over_independent(own_s);
            BesidePeer { own, peer, speed }
        });
        ratios.collect()
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

/// Rows that a process of `ridgepoint peers` had planned; `None` for another process.
fn planned_peer_rows(run: &Run) -> Option<usize> {
    run.get("planned_peer_rows").and_then(|text| text.parse().ok())
}

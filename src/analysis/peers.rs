//! Own kernels beside those of other libraries on the same problems.

use std::collections::{BTreeMap, HashSet};

use super::{Campaign, Measured};
use crate::op::Op;
use crate::point::CacheState;
use crate::record::{Row, Run};
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

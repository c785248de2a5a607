//! Own kernels beside other libraries', and what became of the latter.

use std::collections::BTreeMap;

use super::{IMPOSSIBLE_SHARE, Judge, cell, cells, counted, percent};
use crate::analysis::BesidePeer;
use crate::op::Op;
use crate::record::Status;
use crate::section::Section;
use crate::statistics::{Estimate, quantile};

/// How the headings of the tables about peers begin.
pub const PEERS_HEADING: &str = "Beside peers";

/// An own kernel beside the best of other libraries on one problem.
#[derive(Clone, Debug, PartialEq)]
pub struct PeerRatio {
    /// Id of the own point.
    pub point_id: String,
    /// The problem.
    pub problem: String,
    /// What the interval tells.
    pub finding: &'static str,
    /// The peer's time over ours.
    pub speed: Estimate,
    /// Both kernels, and what the peer is.
    pub between: String,
}

/// What the ratio is.
const RATIO: &str = "Speed is the best peer's time over that of our fastest kernel on the same \
                     problem and inputs, with its 95% interval: above 1 ours is faster. On a \
                     GPU both are launched in CUDA graphs.";

/// Why a ratio has a second form.
const CLOCKS: &str = "A GPU at its power limit lowers its clock with what ran before: \
                      speed_in_clocks is the ratio of clocks instead of times. Where the two \
                      lie on both sides of 1, which one is faster is a matter of heat.";

/// What `in_turn` means.
const IN_TURN: &str = "in_turn says whether rounds of the two followed one another, so that \
                       the device was as warm for one as for the other; the speed is then of \
                       pairs of rounds.";

impl Judge<'_> {
    /// Ratios by operation, then problem by problem; without rows where nothing is beside.
    pub(super) fn peer_sections(&self) -> [Section; 2] {
        let beside = self.campaign.beside_peers();
        let mut by_op: BTreeMap<Op, Vec<f64>> = BTreeMap::new();
        for both in &beside {
            by_op.entry(both.own.problem.op()).or_default().push(both.speed.value);
        }
        let summary = Section {
            heading: PEERS_HEADING.to_owned(),
            columns: vec![
                "op",
                "problems",
                "lowest_speed",
                "median_speed",
                "highest_speed",
            ],
            rows: by_op.into_iter().map(op_row).collect(),
            paragraphs: vec![RATIO.to_owned()],
            ..Section::default()
        };
        let each = Section {
            heading: format!("{PEERS_HEADING}: each problem"),
            columns: vec![
                "problem",
                "cache",
                "own_kernel",
                "own_time_s",
                "best_peer",
                "peer_time_s",
                "speed",
                "speed_lo",
                "speed_hi",
                "finding",
                "in_turn",
                "own_sm_clock_hz",
                "peer_sm_clock_hz",
                "speed_in_clocks",
                "implementation",
            ],
            rows: beside.iter().map(problem_row).collect(),
            paragraphs: each_paragraphs(&beside),
            keys: 3,
            spare: &[
                "implementation",
                "cache",
                "in_turn",
                "own_sm_clock_hz",
                "peer_sm_clock_hz",
                "own_kernel",
                "own_time_s",
                "peer_time_s",
            ],
        };
        [summary, each]
    }

    /// Every ratio, for `verdict.csv`.
    pub(super) fn peer_ratios(&self) -> Vec<PeerRatio> {
        let ratio = |both: &BesidePeer<'_>| PeerRatio {
            point_id: both.own.point_id.clone(),
            problem: both.own.problem.to_string(),
            finding: both.finding(),
            speed: both.speed,
            between: format!(
                "{} beside {} ({})",
                both.own.kernel, both.peer.kernel, both.peer.implementation
            ),
        };
        self.campaign.beside_peers().iter().map(ratio).collect()
    }

    /// What of other libraries went wrong: it spoils no result of ours.
    pub(super) fn peer_warnings(&self, warnings: &mut Vec<String>) {
        let in_turn = &self.campaign.in_turn;
        let points = self.campaign.points.iter().chain(in_turn).filter(|p| !p.is_own());
        let mut skipped: BTreeMap<(&str, &str), usize> = BTreeMap::new();
        for point in points {
            let (kernel, reason) = (&*point.kernel, point.reason.as_str());
            let problem = &point.problem;
            match point.status {
                Status::Wrong => warnings.push(format!(
                    "the peer {kernel} gave a wrong output of {problem}: {reason}"
                )),
                Status::Failed => warnings
                    .push(format!("the peer {kernel} failed on {problem}: {reason}")),
                Status::Skipped => *skipped.entry((kernel, reason)).or_default() += 1,
                Status::Ok | Status::Noisy | Status::Disturbed | Status::Throttled => {}
            }
            if let Some((roof, share)) = self.share_of_ceiling(point)
                && share.lo > IMPOSSIBLE_SHARE
            {
                warnings.push(format!(
                    "the peer {kernel} ran {problem} at {} of the measured {roof} roof: a cache \
                     helped, or no own kernel shows that roof",
                    percent(share.value)
                ));
            }
        }
        warnings.extend(skipped.into_iter().map(|((kernel, reason), count)| {
            let points = counted(count, "problem", "problems");
            format!("the peer {kernel} was not measured on {points}: {reason}")
        }));
        let (there, planned) = self.campaign.peer_rows();
        if there < planned {
            warnings.push(format!(
                "{there} of {planned} rows of peers are there; `ridgepoint peers {}` measures \
                 the rest",
                self.campaign.folder.display()
            ));
        }
    }
}

fn each_paragraphs(beside: &[BesidePeer<'_>]) -> Vec<String> {
    let have_clocks = beside.iter().any(|both| both.clocks_hz().is_some());
    let clocks = have_clocks.then(|| CLOCKS.to_owned());
    let in_turn = beside.iter().any(|both| both.in_turn.is_some());
    let in_turn = in_turn.then(|| IN_TURN.to_owned());
    clocks.into_iter().chain(in_turn).collect()
}

fn op_row((op, mut speeds): (Op, Vec<f64>)) -> Vec<String> {
    speeds.sort_by(f64::total_cmp);
    let at = |p: f64| quantile(&speeds, p).to_string();
    vec![op.to_string(), speeds.len().to_string(), at(0.0), at(0.5), at(1.0)]
}

fn problem_row(both: &BesidePeer<'_>) -> Vec<String> {
    let BesidePeer { own, peer, speed, .. } = both;
    let mut row = vec![
        own.problem.label(),
        own.cache.to_string(),
        own.kernel.to_string(),
        cell(own.time_s.map(|time| time.value)),
        peer.kernel.to_string(),
        cell(peer.time_s.map(|time| time.value)),
    ];
    row.extend(cells(Some(*speed)));
    row.push(both.finding().to_owned());
    row.push(if both.in_turn.is_some() { "yes" } else { "no" }.to_owned());
    let [own_hz, peer_hz] = both.clocks_hz().map_or([None; 2], |clocks| clocks.map(Some));
    row.extend([own_hz, peer_hz, both.speed_in_clocks()].map(cell));
    row.push(peer.implementation.clone());
    row
}

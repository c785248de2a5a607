//! The machines of a merged campaign beside each other: which is slower than the others.

use std::collections::HashMap;

use super::between::Between;
use super::pair::typical_s;
use super::{Change, Rules, change};
use crate::analysis::{Campaign, Measured, Node};
use crate::section::Section;
use crate::statistics::{Estimate, LogDifference, holm, median};

/// A machine beside the others.
#[derive(Clone, Debug)]
pub struct RankedNode<'a> {
    /// The machine.
    pub node: &'a Node,
    /// Points that it and others measured.
    pub common: usize,
    /// Time of the machine in the middle over its own, the mean over common points, with the
    /// interval at the level at which it was tested; `None` without common points.
    pub speed: Option<Estimate>,
    /// What the interval says.
    pub change: Option<Change>,
}

/// The machines of a merged campaign, the slowest first. All are tested together as rows of a
/// comparison are. Nodes without common points come last.
pub fn ranked(campaign: &Campaign, rules: Rules) -> Vec<RankedNode<'_>> {
    let middle = middle_of_common(campaign);
    let between = Between::usual(campaign);
    let differences: Vec<(&Node, usize, Option<LogDifference>)> = campaign
        .nodes
        .iter()
        .map(|node| {
            let logs = logs_beside(node, &middle);
            (node, logs.len(), difference(&logs, between))
        })
        .collect();
    let tested_nodes = differences.iter().filter_map(|(_, _, d)| d.as_ref());
    let probabilities: Vec<f64> = tested_nodes.map(LogDifference::probability).collect();
    let mut tested = holm(&probabilities, rules.alpha).into_iter();
    let mut nodes: Vec<RankedNode<'_>> = differences
        .into_iter()
        .map(|(node, common, difference)| {
            let tested = difference.and_then(|d| Some((d, tested.next()?)));
            let speed = tested.map(|(difference, tested)| difference.ratio(tested.level));
            let change = tested
                .zip(speed)
                .map(|((_, tested), speed)| change(speed, &tested, rules.margin));
            RankedNode { node, common, speed, change }
        })
        .collect();
    let speed = |node: &RankedNode<'_>| node.speed.map_or(f64::INFINITY, |s| s.value);
    nodes.sort_by(|a, b| speed(a).total_cmp(&speed(b)));
    nodes
}

/// Logarithm of the time in the middle of each point that several machines have a time of.
fn middle_of_common(campaign: &Campaign) -> HashMap<&str, f64> {
    let mut times: HashMap<&str, Vec<f64>> = HashMap::new();
    for point in campaign.nodes.iter().flat_map(|node| &node.campaign.points) {
        if let Some(time_s) = typical_s(point) {
            times.entry(&point.point_id).or_default().push(time_s.ln());
        }
    }
    times.retain(|_, times| times.len() > 1);
    times.into_iter().map(|(id, times)| (id, median(&times))).collect()
}

/// Of each common point of a machine, the logarithm of the time in the middle over its own.
fn logs_beside(node: &Node, middle: &HashMap<&str, f64>) -> Vec<f64> {
    let log = |point: &Measured| {
        let time_s = typical_s(point)?;
        Some(middle.get(point.point_id.as_str())? - time_s.ln())
    };
    node.campaign.points.iter().filter_map(log).collect()
}

/// Their mean, with an error from their spread and from what campaigns vary by as wholes.
fn difference(logs: &[f64], between: Between) -> Option<LogDifference> {
    let n = logs.len() as f64;
    let mean = logs.iter().sum::<f64>() / n;
    let freedom = if logs.len() > 1 { n - 1.0 } else { return None };
    let squares: f64 = logs.iter().map(|log| (log - mean).powi(2)).sum();
    let own = LogDifference { value: mean, variance: squares / freedom / n, freedom };
    Some(between.added_to(own))
}

/// The ranking as a table; without rows where the campaign is of one machine.
pub fn nodes_section(campaign: &Campaign, rules: Rules) -> Section {
    let ranked = ranked(campaign, rules);
    let cell = |value: Option<f64>| value.map_or(String::new(), |value| value.to_string());
    let row = |(rank, of): (usize, &RankedNode<'_>)| {
        let campaign = &of.node.campaign;
        let ceilings = campaign.ceilings.as_ref();
        let compute = ceilings.and_then(|ceilings| {
            let rates = ceilings.compute.values().map(|ceiling| ceiling.rate.value);
            rates.max_by(f64::total_cmp)
        });
        let [value, lo, hi] = [
            of.speed.map(|speed| speed.value),
            of.speed.map(|speed| speed.lo),
            of.speed.map(|speed| speed.hi),
        ]
        .map(cell);
        let finding = match of.change {
            None => "no common points",
            Some(Change::Same) => "as the others",
            Some(change) => change.name(),
        };
        vec![
            (rank + 1).to_string(),
            of.node.name.clone(),
            of.node.shard.clone(),
            campaign.row_count.to_string(),
            cell(campaign.provenance.planned_rows.map(|rows| rows as f64)),
            of.common.to_string(),
            value,
            lo,
            hi,
            finding.to_owned(),
            cell(ceilings.map(|ceilings| ceilings.read.rate.value)),
            cell(compute),
            cell(campaign.sentinel.as_ref().map(|sentinel| sentinel.drift())),
        ]
    };
    Section {
        heading: "Nodes, the slowest first".to_owned(),
        columns: vec![
            "rank",
            "node",
            "shard",
            "rows",
            "planned_rows",
            "common_points",
            "speed",
            "speed_lo",
            "speed_hi",
            "finding",
            "read_bytes_per_s",
            "best_flops_per_s",
            "drift_share",
        ],
        rows: ranked.iter().enumerate().map(row).collect(),
        paragraphs: vec![
            "Speed is the time of the node in the middle over this node's, the mean over the \
             points that several nodes measured: below 1 it is slower than the others. All \
             nodes are tested together; drift is that of each node's sentinel."
                .to_owned(),
        ],
        keys: 2,
        spare: &["common_points", "planned_rows", "drift_share"],
    }
}

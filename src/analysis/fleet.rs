//! A campaign that several machines measured: each one's rows are read with its own ceilings,
//! and stand together afterwards.

use std::collections::{HashMap, HashSet};
use std::path::{Path, PathBuf};

use anyhow::Result;

use super::{Campaign, Measured, Repeatability};
use crate::model::machine::DataSheet;
use crate::record::{Records, Unreadable, Witnesses};
use crate::statistics::{RoundSpread, median};

/// One of the machines of a merged campaign.
#[derive(Clone, Debug)]
pub struct Node {
    /// Its name: that of the folder that was merged.
    pub name: String,
    /// Which part of the plan it measured, as `3/8`; empty for all of it.
    pub shard: String,
    /// What it measured, under its own ceilings.
    pub campaign: Campaign,
}

/// The column of `run.csv` that `merge` writes.
const NODE: &str = "node";

/// Names of the machines of a merged campaign, in the order of `run.csv`; none where it was
/// not merged.
pub(super) fn names(records: &Records) -> Vec<String> {
    let mut names: Vec<String> = Vec::new();
    for run in &records.runs {
        let name = run.get(NODE).unwrap_or_default();
        if !name.is_empty() && !names.iter().any(|known| known == name) {
            names.push(name.to_owned());
        }
    }
    names
}

/// Reads the records of several machines.
///
/// # Errors
/// Those of each machine's records.
pub(super) fn campaign(
    folder: &Path,
    records: Records,
    names: Vec<String>,
    spec: Option<DataSheet>,
) -> Result<Campaign> {
    let (parts, rest) = split(records, &names);
    let nodes = names.into_iter().zip(parts).map(|(name, records)| {
        let shard = records.runs.iter().find_map(|run| run.get("shard"));
        let shard = shard.unwrap_or_default().to_owned();
        // What a machine's remarks say to finish is the folder that was merged.
        let folder = PathBuf::from(&name);
        let campaign = Campaign::of_one_machine(&folder, records, spec.clone())?;
        Ok(Node { name, shard, campaign })
    });
    let nodes = nodes.collect::<Result<Vec<Node>>>()?;
    Ok(combined(folder, nodes, rest))
}

/// The records of each machine, by the processes that measured them, and those of none.
fn split(records: Records, names: &[String]) -> (Vec<Records>, Records) {
    let Records { runs, rows, rounds, unreadable, columns, witnesses: _ } = records;
    let empty = || Records { columns: columns.clone(), ..Records::default() };
    let mut parts: Vec<Records> = names.iter().map(|_| empty()).collect();
    let mut rest = Records { unreadable, ..empty() };
    let mut of_run: HashMap<String, usize> = HashMap::new();
    for run in runs {
        let name = run.get(NODE).unwrap_or_default();
        let Some(at) = names.iter().position(|known| known == name) else { continue };
        of_run.insert(run.get("run_id").unwrap_or_default().to_owned(), at);
        parts[at].runs.push(run);
    }
    for row in rows {
        match of_run.get(&row.run_id) {
            Some(at) => parts[*at].rows.push(row),
            None => rest.rows.push(row),
        }
    }
    for round in rounds {
        if let Some(at) = of_run.get(&round.run_id) {
            parts[*at].rounds.push(round);
        }
    }
    (parts, rest)
}

/// All machines' points, each once: what several measured is that of the machine in the
/// middle, whose ceilings and probes stand for the campaign's.
fn combined(folder: &Path, nodes: Vec<Node>, rest: Records) -> Campaign {
    let reference = &nodes[reference(&nodes)].campaign;
    let mut points = reference.points.clone();
    let mut known: HashMap<String, usize> =
        points.iter().enumerate().map(|(at, p)| (p.point_id.clone(), at)).collect();
    for point in nodes.iter().flat_map(|node| &node.campaign.points) {
        match known.get(&point.point_id) {
            Some(at) if points[*at].time_s.is_none() && point.time_s.is_some() => {
                points[*at] = point.clone();
            }
            Some(_) => {}
            None => {
                known.insert(point.point_id.clone(), points.len());
                points.push(point.clone());
            }
        }
    }
    let mut unreadable = rest.unreadable;
    let row_count = rest.rows.len() + unreadable.len();
    for row in &rest.rows {
        if !row.run_id.is_empty() {
            unreadable.push(of_no_process(row.line, &row.run_id));
        }
        match Measured::read(row) {
            Ok(point) if !known.contains_key(&point.point_id) => points.push(point),
            Ok(_) => {}
            Err(value) => unreadable.push(value),
        }
    }
    Campaign {
        folder: folder.to_owned(),
        points,
        unreadable,
        row_count: row_count + nodes.iter().map(|n| n.campaign.row_count).sum::<usize>(),
        rows: rest.rows,
        columns: Vec::new(),
        samples: None,
        rounds: Vec::new(),
        repeatability: together(&nodes),
        witnesses: Witnesses::default(),
        runs: nodes.iter().flat_map(|node| node.campaign.runs.clone()).collect(),
        provenance: reference.provenance.clone(),
        suite: reference.suite.clone(),
        device: reference.device.clone(),
        ceilings: reference.ceilings.clone(),
        derived: reference.derived.clone(),
        spec: reference.spec.clone(),
        spec_refused: None,
        sentinel: reference.sentinel.clone(),
        probes: reference.probes.clone(),
        nodes,
    }
}

fn of_no_process(line: u64, run_id: &str) -> Unreadable {
    Unreadable {
        file: "results.csv",
        line,
        column: Some("run_id".to_owned()),
        value: run_id.to_owned(),
        why: "run.csv has no such run".to_owned(),
    }
}

/// The machine whose DRAM reads are in the middle; the first where none has any.
fn reference(nodes: &[Node]) -> usize {
    let rate = |node: &Node| Some(node.campaign.ceilings.as_ref()?.read.rate.value);
    let mut rates: Vec<(f64, usize)> =
        nodes.iter().enumerate().filter_map(|(at, node)| Some((rate(node)?, at))).collect();
    rates.sort_by(|a, b| a.0.total_cmp(&b.0));
    rates.get(rates.len() / 2).map_or(0, |(_, at)| *at)
}

/// How much times of all machines vary from round to round.
fn together(nodes: &[Node]) -> Option<Repeatability> {
    let all: Vec<&Repeatability> =
        nodes.iter().filter_map(|node| node.campaign.repeatability.as_ref()).collect();
    let first = all.first()?;
    let variances: Vec<f64> = all.iter().map(|of| of.typical.variance).collect();
    let sorted = |of: fn(&Repeatability) -> &Vec<f64>| {
        let mut values: Vec<f64> = all.iter().flat_map(|r| of(r)).copied().collect();
        values.sort_by(f64::total_cmp);
        values
    };
    Some(Repeatability {
        typical: RoundSpread {
            variance: median(&variances),
            points: all.iter().map(|of| of.typical.points).sum(),
        },
        unit: first.unit,
        ranges: sorted(|of| &of.ranges),
        resolutions: sorted(|of| &of.resolutions),
    })
}

impl Campaign {
    /// Every point of every machine with the machine's name, which is empty where the
    /// campaign is of one, and the campaign that has its ceilings; points that no machine
    /// measured come last.
    pub fn points_by_node(&self) -> Vec<(&str, &Campaign, &Measured)> {
        let mut all: Vec<(&str, &Campaign, &Measured)> = Vec::new();
        for Node { name, campaign, .. } in &self.nodes {
            all.extend(campaign.points.iter().map(|p| (name.as_str(), campaign, p)));
        }
        match self.nodes.is_empty() {
            true => all.extend(self.points.iter().map(|point| ("", self, point))),
            false => all.extend(self.unmeasured().map(|point| ("", self, point))),
        }
        all
    }

    /// Points of a merged campaign that no machine has a row of.
    pub fn unmeasured(&self) -> impl Iterator<Item = &Measured> {
        let known: HashSet<&str> = self
            .nodes
            .iter()
            .flat_map(|node| &node.campaign.points)
            .map(|point| point.point_id.as_str())
            .collect();
        let is_merged = !self.nodes.is_empty();
        self.points
            .iter()
            .filter(move |point| is_merged && !known.contains(point.point_id.as_str()))
    }
}

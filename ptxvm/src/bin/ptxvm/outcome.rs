//! What the launches of a specification gave.

use std::collections::BTreeMap;

use ptxvm::{Counts, Finding, LineCounts, Printed};

/// All launches of a specification.
#[derive(Debug)]
pub struct Outcome {
    pub kernel: String,
    pub target: String,
    pub seeds: Vec<u64>,
    /// Findings, each with the seeds that showed it.
    pub findings: Vec<(Finding, Vec<u64>)>,
    /// What ended launches, with the seeds.
    pub faults: Vec<(Finding, Vec<u64>)>,
    /// Values that are not as expected, by seed.
    pub mismatches: BTreeMap<u64, Vec<Mismatch>>,
    /// What the first launch printed.
    pub printed: Vec<Printed>,
    /// Of the first launch that came to its end.
    pub counts: Option<Counts>,
    pub lines: Vec<LineCounts>,
}

/// An element that is not as expected.
#[derive(Debug, Clone, PartialEq)]
pub struct Mismatch {
    pub buffer: String,
    pub index: usize,
    pub expected: f64,
    /// Nothing if it was never written.
    pub got: Option<f64>,
}

impl Outcome {
    /// Whether nothing is wrong.
    pub fn is_fine(&self) -> bool {
        self.findings.is_empty() && self.faults.is_empty() && self.mismatches.is_empty()
    }

    /// Adds a finding of one seed.
    pub fn add(list: &mut Vec<(Finding, Vec<u64>)>, finding: Finding, seed: u64) {
        let same = |(old, _): &&mut (Finding, Vec<u64>)| {
            old.kind == finding.kind && old.ptx_line == finding.ptx_line
        };
        match list.iter_mut().find(same) {
            Some((_, seeds)) => seeds.push(seed),
            None => list.push((finding, vec![seed])),
        }
    }
}

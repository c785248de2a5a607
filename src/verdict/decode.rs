//! Decode attention: the program's headline claim. This file is about one
//! operation by its nature, and names it.

use std::collections::BTreeMap;

use super::shares::BoundBy;
use super::{BOUND_SHARE, Claim, Finding, Judge, counted, percent, residency_cell};
use crate::analysis::Measured;
use crate::op::{DecodeAttention, OfProblem, Problem};
use crate::roofline::RoofKind;
use crate::section::Section;

impl<'a> Judge<'a> {
    /// Decode points with their shapes.
    fn decode(&self) -> impl Iterator<Item = (&'a Measured, DecodeAttention)> {
        let points = self.campaign.points.iter();
        points.filter_map(|point| Some((point, *DecodeAttention::of(&point.problem)?)))
    }

    /// The decode points that the claims are about: from DRAM, measured, of one new
    /// token that attends to all of its context. Drafts have the intensity of larger
    /// groups, and windows the bytes of shorter contexts.
    fn decode_from_dram(&self) -> Vec<(&'a Measured, DecodeAttention, BoundBy)> {
        self.decode()
            .filter(|(point, shape)| point.is_from_dram() && shape.is_plain())
            .filter_map(|(point, shape)| Some((point, shape, self.bound(point)?)))
            .collect()
    }

    pub(super) fn memory_bound_claim(&self) -> Claim {
        let all = self.decode_from_dram();
        // A kernel that reaches no roof says nothing about the hardware.
        let is_evidence = |bound: BoundBy| bound != BoundBy::Kernel;
        let points: Vec<_> = all.iter().filter(|(_, _, b)| is_evidence(*b)).collect();
        let count =
            |f: fn(BoundBy) -> bool| points.iter().filter(|(_, _, b)| f(*b)).count();
        let agree = count(BoundBy::is_memory);
        let disagree = count(|b| matches!(b, BoundBy::Compute | BoundBy::Latency));
        let mut evidence = format!(
            "{agree} of {} points from DRAM reach {:.0}% of read bandwidth",
            points.len(),
            100.0 * BOUND_SHARE
        );
        if all.len() > points.len() {
            let left_out = all.len() - points.len();
            evidence.push_str(&format!(
                " ({}: the kernel reaches no roof)",
                counted(left_out, "more is not evidence", "more are not evidence")
            ));
        }
        for sentence in memory_bound_from(&points) {
            evidence.push_str("; ");
            evidence.push_str(&sentence);
        }
        if all.is_empty() {
            evidence =
                "no decode attention was measured from DRAM under a DRAM read ceiling"
                    .into();
        }
        Claim {
            id: "decode-memory-bound",
            statement: "Decode attention is memory bound.",
            finding: Finding::of(agree, disagree, points.len() - agree - disagree),
            evidence,
        }
    }

    pub(super) fn decode_section(&self) -> Section {
        let mut points: Vec<_> = self.decode().collect();
        points.sort_by_key(|(_, p)| (p.group(), p.kv_heads, p.batch, p.context));
        let rows = points
            .into_iter()
            .filter_map(|(point, p)| {
                let predicted = match point.empirical.map(|roof| roof.binding()) {
                    Some(RoofKind::Memory) => "memory bound",
                    Some(RoofKind::Compute) => "compute bound",
                    Some(RoofKind::Link) => "link bound",
                    None => "",
                };
                let share = self.memory_share(point)?;
                Some(vec![
                    p.batch.to_string(),
                    p.context.to_string(),
                    format!("{}/{}", p.q_heads, p.kv_heads),
                    p.kv_dtype.to_string(),
                    p.layout.to_string(),
                    p.head_dim.to_string(),
                    p.variant(),
                    residency_cell(point.residency),
                    format!("{:.2}", point.work.operational_intensity()),
                    format!(
                        "{} [{}, {}]",
                        percent(share.value),
                        percent(share.lo),
                        percent(share.hi)
                    ),
                    predicted.to_owned(),
                    self.bound(point)?.name().to_owned(),
                ])
            })
            .collect();
        Section {
            heading: "Decode attention".into(),
            columns: vec![
                "batch",
                "context",
                "q/kv heads",
                "kv",
                "layout",
                "head dim",
                "variant",
                "data in",
                "OI",
                "of read bandwidth",
                "model says",
                "measured",
            ],
            rows,
            paragraphs: Vec::new(),
        }
    }
}

/// For each group size, from how much cache on no point is anything but memory
/// bound, in words. Undecided points count among all and decide nothing.
fn memory_bound_from(points: &[&(&Measured, DecodeAttention, BoundBy)]) -> Vec<String> {
    let mut groups: BTreeMap<u64, Vec<(u64, DecodeAttention, BoundBy)>> = BTreeMap::new();
    for (_, shape, bound) in points {
        let kv_bytes = Problem::KvRead(shape.kv()).work().bytes_read();
        groups.entry(shape.group()).or_default().push((kv_bytes, *shape, *bound));
    }
    let sentence = |(group, mut points): (u64, Vec<(u64, DecodeAttention, BoundBy)>)| {
        let all = points.len();
        points.retain(|(_, _, bound)| *bound != BoundBy::Undecided);
        points.sort_by_key(|(kv_bytes, _, _)| *kv_bytes);
        let memory = points.iter().filter(|(_, _, bound)| bound.is_memory()).count();
        let last_other = points.iter().rposition(|(_, _, bound)| !bound.is_memory());
        match points.get(last_other.map_or(0, |i| i + 1)) {
            Some((kv_bytes, p, _)) => format!(
                "group {group}: {memory} of {all}, from {:.1} MB of keys and values on (batch \
                 {} x context {})",
                *kv_bytes as f64 / 1e6,
                p.batch,
                p.context
            ),
            None => format!("group {group}: {memory} of {all}"),
        }
    };
    groups.into_iter().map(sentence).collect()
}

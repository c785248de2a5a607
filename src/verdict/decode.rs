//! Decode attention: the program's headline claim. This file is about one
//! operation by its nature, and names it.

use std::collections::{BTreeMap, BTreeSet};

use super::evidence::{Says, planned_from_dram};
use super::pairs::{Follows, Pair};
use super::quantities::Found;
use super::shares::BoundBy;
use super::{BOUND_SHARE, Judge, cells, residency_cell};
use crate::analysis::Measured;
use crate::claims::ClaimEntry;
use crate::op::{DecodeAttention, OfProblem, PairKind, Problem};
use crate::quantity::si;
use crate::roofline::RoofKind;
use crate::section::Section;

/// Ids of points by what the time of their pairs follows.
struct Followed<'a> {
    bytes: BTreeSet<&'a str>,
    flops: BTreeSet<&'a str>,
}

impl<'a> Followed<'a> {
    /// Of pairs that differ in heads alone.
    fn of(pairs: &'a [Pair<'a>]) -> Self {
        let ends = |follows: Follows| {
            let of_heads =
                |kind: PairKind| matches!(kind, PairKind::QueryHeads | PairKind::KvHeads);
            let shown =
                pairs.iter().filter(|pair| of_heads(pair.kind) && pair.shows(follows));
            let ids = |pair: &'a Pair<'a>| {
                [pair.low.point_id.as_str(), pair.high.point_id.as_str()]
            };
            shown.flat_map(ids).collect()
        };
        Followed { bytes: ends(Follows::Bytes), flops: ends(Follows::Flops) }
    }
}

impl<'a> Judge<'a> {
    /// Decode points with their shapes.
    fn decode(&self) -> impl Iterator<Item = (&'a Measured, DecodeAttention)> {
        let points = self.campaign.own_points();
        points.filter_map(|point| Some((point, *DecodeAttention::of(&point.problem)?)))
    }

    /// What a point says of the claim that it is memory bound.
    fn says_memory_bound(&self, point: &Measured, followed: &Followed<'_>) -> Says {
        if point.time_s.is_none() {
            return Says::NotMeasured(point.status.name());
        }
        let Some(bound) = self.bound(point) else {
            return Says::NotMeasured("no read from DRAM to judge by");
        };
        if self.campaign.is_disturbed(point) {
            return Says::Nothing("measured under load");
        }
        let id = point.point_id.as_str();
        // Arithmetic that reaches no ceiling is a bottleneck all the same where time
        // follows it.
        let is_of_flops = followed.flops.contains(id) && !followed.bytes.contains(id);
        match bound {
            BoundBy::Ridge => Says::Agrees,
            BoundBy::Memory
            | BoundBy::Kernel
            | BoundBy::NotJudged(_)
            | BoundBy::Undecided
                if is_of_flops =>
            {
                Says::Against("time follows FLOPs")
            }
            BoundBy::Memory => Says::Agrees,
            BoundBy::Compute | BoundBy::Link | BoundBy::Latency => {
                Says::Against(bound.name())
            }
            BoundBy::Kernel | BoundBy::NotJudged(_) => Says::Nothing(bound.name()),
            BoundBy::Undecided => Says::Nothing("the interval spans the threshold"),
        }
    }

    /// The share of the points from DRAM that are memory bound: of all that were planned to
    /// have their data there.
    pub(super) fn memory_bound(&self, claim: &ClaimEntry, pairs: &[Pair<'a>]) -> Found {
        let followed = Followed::of(pairs);
        let points = self.selected(claim).into_iter().filter(|p| planned_from_dram(p));
        let all: Vec<(&Measured, Says)> =
            points.map(|point| (point, self.says_memory_bound(point, &followed))).collect();
        if all.is_empty() {
            return Found::nothing("no such point from DRAM was planned");
        }
        let how = format!(
            "points from DRAM are memory bound, with their whole interval at {:.0}% of read \
             bandwidth or more",
            100.0 * BOUND_SHARE
        );
        let decode = all.iter().filter_map(|(point, says)| {
            Some((*DecodeAttention::of(&point.problem)?, *says))
        });
        let mut details = memory_bound_from(&decode.collect::<Vec<_>>());
        let says = all.iter().map(|(p, says)| ([p.point_id.as_str(); 2], *says)).collect();
        // Shares of ceilings can agree by chance; what time follows is the cause.
        let is_asked = |point: &Measured| all.iter().any(|(p, _)| std::ptr::eq(*p, point));
        let elasticities = self.elasticities_of(is_asked);
        let is_against =
            elasticities.as_ref().is_some_and(|of| matches!(of.says, Says::Against(_)));
        let texts: Vec<String> = elasticities.into_iter().map(|of| of.text).collect();
        let why = || Some(format!("time does not follow bytes: {}", texts.first()?));
        let contradicted = is_against.then(why).flatten();
        details.splice(0..0, texts);
        Found { details, contradicted, ..Found::share_of(says, &how) }
    }

    pub(super) fn decode_section(&self) -> Section {
        let mut points: Vec<_> = self.decode().collect();
        points.sort_by_key(|(_, p)| (p.group(), p.kv_heads, p.batch, p.context));
        let rows = points
            .into_iter()
            .filter_map(|(point, p)| {
                let predicted = match point.empirical.map(|roof| roof.binding()) {
                    Some(RoofKind::Memory) => "memory bound",
                    Some(RoofKind::Compute) => {
                        let doubt = self.compute_doubt(point);
                        doubt.map_or(BoundBy::Compute.name(), |doubt| doubt.name())
                    }
                    Some(RoofKind::Link) => "link bound",
                    None => "",
                };
                let share = self.memory_share(point)?;
                let mut row = vec![
                    p.batch.to_string(),
                    p.context.to_string(),
                    p.q_heads.to_string(),
                    p.kv_heads.to_string(),
                    p.kv_dtype.to_string(),
                    p.layout.to_string(),
                    p.head_dim.to_string(),
                    p.variant(),
                    residency_cell(point.residency),
                    point.work.operational_intensity().to_string(),
                ];
                row.extend(cells(Some(share)));
                row.push(predicted.to_owned());
                row.push(self.bound(point)?.name().to_owned());
                Some(row)
            })
            .collect();
        Section {
            heading: "Decode attention".into(),
            columns: vec![
                "batch",
                "context",
                "q_heads",
                "kv_heads",
                "kv_dtype",
                "layout",
                "head_dim",
                "variant",
                "data_in",
                "oi_flops_per_byte",
                "read_share",
                "read_share_lo",
                "read_share_hi",
                "model_says",
                "measured",
            ],
            rows,
            paragraphs: vec![format!(
                "A point reaches {0:.0}% of read bandwidth, or misses it, where its whole \
                 interval does; it is undecided where the interval spans {0:.0}%.",
                100.0 * BOUND_SHARE
            )],
            keys: 9,
            spare: &[
                "layout",
                "head_dim",
                "variant",
                "kv_dtype",
                "data_in",
                "oi_flops_per_byte",
                "model_says",
            ],
        }
    }
}

/// For each group size, how many points are memory bound, and from how much cache on no
/// evidence says otherwise, in words.
fn memory_bound_from(points: &[(DecodeAttention, Says)]) -> Vec<String> {
    let mut groups: BTreeMap<u64, Vec<(u64, DecodeAttention, Says)>> = BTreeMap::new();
    for (shape, says) in points {
        let kv_bytes = Problem::KvRead(shape.kv()).work().bytes_read();
        groups.entry(shape.group()).or_default().push((kv_bytes, *shape, *says));
    }
    let sentence = |(group, mut points): (u64, Vec<(u64, DecodeAttention, Says)>)| {
        let all = points.len();
        points.retain(|(_, _, says)| says.is_evidence());
        points.sort_by_key(|(kv_bytes, _, _)| *kv_bytes);
        let agrees = |says: Says| says == Says::Agrees;
        let memory = points.iter().filter(|(_, _, says)| agrees(*says)).count();
        let last_other = points.iter().rposition(|(_, _, says)| !agrees(*says));
        match points.get(last_other.map_or(0, |i| i + 1)) {
            Some((kv_bytes, p, _)) => format!(
                "group {group}: {memory} of {all}, from {} of keys and values on (batch {} x \
                 context {})",
                si(*kv_bytes as f64, "B"),
                p.batch,
                p.context
            ),
            None => format!("group {group}: {memory} of {all}"),
        }
    };
    groups.into_iter().map(sentence).collect()
}

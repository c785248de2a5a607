//! Pairs of points that differ in one thing: what their time follows, and the claims
//! that rest on it.

use std::collections::BTreeMap;

use super::shares::BoundBy;
use super::{Claim, FLAT, Finding, Judge, counted};
use crate::analysis::Measured;
use crate::op::{PairKind, Problem};
use crate::resource::Work;
use crate::roofline::RoofKind;
use crate::section::Section;
use crate::statistics::Estimate;

/// Least distance, as log2 of a ratio, between what time would be if it followed bytes
/// and if it followed FLOPs. Two kernels that both reach a roof may differ by as much:
/// log2(1 / 0.7) at `BOUND_SHARE`.
pub const TELLING: f64 = 0.5;

/// Two points that differ in one thing.
pub(super) struct Pair<'a> {
    pub kind: PairKind,
    low: &'a Measured,
    high: &'a Measured,
    /// Ratio of times, high over low.
    time: Estimate,
    /// The model's ratios of bytes and of FLOPs.
    bytes: f64,
    flops: f64,
    pub follows: Follows,
    /// What time should follow; `None` where the pair lies across the ridge.
    pub expected: Option<Follows>,
}

/// How pairs of a kind are told apart and judged.
struct Judging {
    /// Whether the kind is a step along an axis that suites choose the width of: only
    /// the next point along it makes a pair.
    is_step: bool,
    /// Whether the claim is that time follows bytes whatever binds. The others are of
    /// the roofline: time follows bytes below the ridge and FLOPs past it.
    is_of_bytes_alone: bool,
    /// The claim that pairs of the kind decide.
    claim: &'static PairClaim,
}

const fn judging(kind: PairKind) -> Judging {
    let [decode, linear, latents, experts, quantizing] = &CLAIMS;
    let (is_step, is_of_bytes_alone, claim) = match kind {
        PairKind::QueryHeads | PairKind::KvHeads => (false, true, decode),
        PairKind::Rows => (true, false, linear),
        PairKind::LatentHeads => (true, false, latents),
        PairKind::Tokens => (true, true, experts),
        PairKind::Weights(_) | PairKind::Cache(_) => (false, false, quantizing),
    };
    Judging { is_step, is_of_bytes_alone, claim }
}

/// What time should follow between two points that these roofs bind.
fn expected(
    kind: PairKind,
    low: Option<RoofKind>,
    high: Option<RoofKind>,
) -> Option<Follows> {
    match (low?, high?) {
        _ if judging(kind).is_of_bytes_alone => Some(Follows::Bytes),
        (RoofKind::Memory, RoofKind::Memory) => Some(Follows::Bytes),
        (RoofKind::Compute, RoofKind::Compute) => Some(Follows::Flops),
        _ => None,
    }
}

/// What time follows in a pair.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Follows {
    Bytes,
    Flops,
    /// Between the two.
    Neither,
    /// The interval spans more than one answer.
    Undecided,
    /// One of the points reaches no roof, so the pair says nothing about the hardware.
    NoRoof,
    /// Bytes and FLOPs change by similar factors.
    TooClose,
}

impl Follows {
    pub const fn name(self) -> &'static str {
        match self {
            Follows::Bytes => "bytes",
            Follows::Flops => "FLOPs",
            Follows::Neither => "neither",
            Follows::Undecided => "undecided",
            Follows::NoRoof => "not evidence: kernel below both roofs",
            Follows::TooClose => "not evidence: bytes and FLOPs change by similar factors",
        }
    }

    const fn is_evidence(self) -> bool {
        !matches!(self, Follows::NoRoof | Follows::TooClose)
    }

    /// By the share of the way from the ratio of bytes to that of FLOPs, both as log2,
    /// at which time lies.
    pub fn of(time: Estimate, bytes: f64, flops: f64) -> Self {
        let Some(e) = elasticity(time, bytes, flops) else { return Follows::TooClose };
        if e.hi <= FLAT {
            Follows::Bytes
        } else if e.lo >= 1.0 - FLAT {
            Follows::Flops
        } else if e.lo > FLAT && e.hi < 1.0 - FLAT {
            Follows::Neither
        } else {
            Follows::Undecided
        }
    }
}

/// Elasticity of time: 0 where its ratio is that of bytes, 1 where it is that of FLOPs,
/// in between by logarithms. With equal bytes and double FLOPs it is log2 of the ratio
/// of times, with equal FLOPs and double bytes one less that. `None` where the two are
/// closer than [`TELLING`].
fn elasticity(time: Estimate, bytes: f64, flops: f64) -> Option<Estimate> {
    let way = flops.log2() - bytes.log2();
    let at = |ratio: f64| (ratio.max(1e-6).log2() - bytes.log2()) / way;
    let (a, b) = (at(time.lo), at(time.hi));
    (way.is_finite() && way.abs() >= TELLING).then(|| Estimate {
        value: at(time.value),
        lo: a.min(b),
        hi: a.max(b),
    })
}

/// A claim about pairs.
struct PairClaim {
    id: &'static str,
    statement: &'static str,
}

/// The claims that pairs decide, that of decode attention first.
static CLAIMS: [PairClaim; 5] = [
    PairClaim {
        id: "decode-follows-bytes",
        statement: "Decode attention's time follows its bytes and not its FLOPs.",
    },
    PairClaim {
        id: "linear-follows-weights",
        statement: "The time of linear layers with few rows follows the bytes of weights, and \
                    the rows only past the ridge.",
    },
    PairClaim {
        id: "latents-at-the-ridge",
        statement: "The time of latent attention stays with more heads where memory binds, \
                    and follows its FLOPs where computing does.",
    },
    PairClaim {
        id: "experts-follow-bytes",
        statement: "The time of routed experts follows the bytes of the experts touched, and \
                    not the rows.",
    },
    PairClaim {
        id: "quantizing-shrinks-time",
        statement: "Quantizing weights or cache shrinks time as it shrinks bytes where memory \
                    binds, and not past the ridge.",
    },
];

impl PairClaim {
    /// Whether pairs of a kind decide it.
    fn asks(&self, kind: PairKind) -> bool {
        judging(kind).claim.id == self.id
    }
}

impl<'a> Judge<'a> {
    /// All pairs of points from DRAM, of one kernel and cache state.
    pub(super) fn pairs(&self) -> Vec<Pair<'a>> {
        let points: Vec<&Measured> =
            self.campaign.points.iter().filter(|p| p.is_from_dram()).collect();
        let mut pairs = Vec::new();
        for low in &points {
            let of_low: Vec<_> =
                points.iter().filter_map(|high| self.pair(low, high)).collect();
            let next = |kind: PairKind| {
                let alike = of_low.iter().filter(|pair| pair.kind == kind);
                alike.map(|pair| pair.flops).fold(f64::INFINITY, f64::min)
            };
            let is_next = |pair: &Pair<'_>| {
                !judging(pair.kind).is_step || pair.flops <= next(pair.kind)
            };
            let kept: Vec<bool> = of_low.iter().map(is_next).collect();
            pairs.extend(
                of_low
                    .into_iter()
                    .zip(kept)
                    .filter_map(|(pair, kept)| kept.then_some(pair)),
            );
        }
        pairs.sort_by_key(|pair| pair.kind);
        pairs
    }

    fn pair(&self, low: &'a Measured, high: &'a Measured) -> Option<Pair<'a>> {
        let same_run = low.kernel == high.kernel && low.cache == high.cache;
        let kind = low.problem.pair_with(&high.problem).filter(|_| same_run)?;
        let time = high.time_s?.over(low.time_s?).widened(self.drift);
        let ratio = |of: fn(&Work) -> u64| of(&high.work) as f64 / of(&low.work) as f64;
        let (bytes, flops) = (ratio(Work::bytes), ratio(Work::flops));
        // Where the launch costs more than the work, time need not depend on the work.
        let no_roof = |p: &Measured| {
            matches!(self.bound(p), Some(BoundBy::Kernel | BoundBy::Latency))
        };
        let follows = match no_roof(low) || no_roof(high) {
            true => Follows::NoRoof,
            false => Follows::of(time, bytes, flops),
        };
        let binds = |p: &Measured| p.empirical.map(|roof| roof.binding());
        let expected = expected(kind, binds(low), binds(high));
        Some(Pair { kind, low, high, time, bytes, flops, follows, expected })
    }

    /// The claims that pairs decide. That of decode attention is always there, the
    /// others where there are pairs.
    pub(super) fn pair_claims(&self, pairs: &[Pair<'_>]) -> Vec<Claim> {
        let claim = |(at, question): (usize, &PairClaim)| {
            let asked: Vec<&Pair<'_>> =
                pairs.iter().filter(|pair| question.asks(pair.kind)).collect();
            (at == 0 || !asked.is_empty()).then(|| self.pair_claim(question, &asked))
        };
        CLAIMS.iter().enumerate().filter_map(claim).collect()
    }

    fn pair_claim(&self, question: &PairClaim, asked: &[&Pair<'_>]) -> Claim {
        let judged: Vec<&Pair<'_>> = asked
            .iter()
            .copied()
            .filter(|pair| pair.follows.is_evidence() && pair.expected.is_some())
            .collect();
        let agree = judged.iter().filter(|p| Some(p.follows) == p.expected).count();
        let unclear = judged.iter().filter(|p| p.follows == Follows::Undecided).count();
        let mut parts = summaries(&judged);
        parts.extend(left_out(asked));
        parts.extend(self.knees_in_short(|kind| question.asks(kind)));
        let evidence = format!(
            "{agree} of {} pairs follow what they should: {}",
            judged.len(),
            parts.join("; ")
        );
        let finding = Finding::of(agree, judged.len() - agree - unclear, unclear);
        Claim {
            id: question.id,
            statement: question.statement,
            finding,
            evidence: evidence.trim_end_matches([':', ' ']).to_owned(),
        }
    }

    pub(super) fn pair_section(&self, pairs: &[Pair<'_>]) -> Section {
        let rows = pairs.iter().map(|pair| {
            let (alike, changed) = spelled(&pair.low.problem, &pair.high.problem);
            let time = pair.time;
            vec![
                pair.kind.name(),
                alike,
                changed,
                format!("{:.2}", pair.bytes),
                format!("{:.2}", pair.flops),
                format!("{:.2} [{:.2}, {:.2}]", time.value, time.lo, time.hi),
                pair.follows.name().to_owned(),
                pair.expected.map_or("either: across the ridge", Follows::name).to_owned(),
            ]
        });
        Section {
            heading: "What does time follow?".into(),
            columns: vec![
                "pair",
                "points share",
                "changed",
                "bytes ratio",
                "FLOPs ratio",
                "time ratio",
                "time follows",
                "should follow",
            ],
            rows: rows.collect(),
            paragraphs: Vec::new(),
        }
    }
}

/// How much time and bytes changed, for each kind of pair and side of the ridge.
fn summaries(judged: &[&Pair<'_>]) -> Vec<String> {
    let mut groups: BTreeMap<(PairKind, Option<Follows>), Vec<&Pair<'_>>> = BTreeMap::new();
    for pair in judged {
        groups.entry((pair.kind, pair.expected)).or_default().push(pair);
    }
    let sentence = |((kind, expected), pairs): ((PairKind, _), Vec<&Pair<'_>>)| {
        let side = match expected {
            _ if judging(kind).is_of_bytes_alone => "",
            Some(Follows::Bytes) => " below the ridge",
            _ => " past the ridge",
        };
        let range = |of: fn(&Pair<'_>) -> f64| {
            let values = pairs.iter().map(|pair| of(pair));
            let lo = values.clone().fold(f64::INFINITY, f64::min);
            format!("x {lo:.2} to {:.2}", values.fold(0.0, f64::max))
        };
        let (time, bytes) = (range(|p| p.time.value), range(|p| p.bytes));
        format!("{} of {}{side}, time {time}, bytes {bytes}", pairs.len(), kind.name())
    };
    groups.into_iter().map(sentence).collect()
}

/// How many pairs are not evidence, and why.
fn left_out(asked: &[&Pair<'_>]) -> Vec<String> {
    let count = |f: &dyn Fn(&Pair<'_>) -> bool| asked.iter().filter(|p| f(p)).count();
    let across = |p: &Pair<'_>| p.follows.is_evidence() && p.expected.is_none();
    [
        (count(&|p| p.follows == Follows::NoRoof), "one of the points reaches no roof"),
        (
            count(&|p| p.follows == Follows::TooClose),
            "bytes and FLOPs change by similar factors",
        ),
        (count(&across), "one point is on each side of the ridge, or the ridge is unknown"),
    ]
    .into_iter()
    .filter(|(n, _)| *n > 0)
    .map(|(n, why)| {
        let more = counted(n, "more is not evidence", "more are not evidence");
        format!("{more}: {why}")
    })
    .collect()
}

/// What two problems have in common, and what not, in words.
fn spelled(low: &Problem, high: &Problem) -> (String, String) {
    let (mut alike, mut changed) = (vec![low.op().to_string()], Vec::new());
    let after = high.fields();
    for (key, value) in low.fields() {
        match after.iter().find(|(other, _)| *other == key) {
            Some((_, new)) if *new == value => alike.push(format!("{key}={value}")),
            Some((_, new)) => changed.push(format!("{key} {value} -> {new}")),
            // A format is written only where it differs from that of the other tensors.
            None => changed.push(format!("{key} {value} -> that of the other tensors")),
        }
    }
    for (key, value) in after {
        if !low.fields().iter().any(|(other, _)| *other == key) {
            changed.push(format!("{key} {value}"));
        }
    }
    (alike.join(" "), changed.join(", "))
}

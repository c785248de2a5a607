//! Pairs of points that differ in one thing: what their time follows, and the claims
//! that rest on it.

use std::collections::BTreeMap;

use super::{Bound, Claim, FLAT, Finding, Judge};
use crate::analysis::Measured;
use crate::format::{DType, Work};
use crate::op::{DecodeAttention, Gemm, MlaDecode, MoeGemm, Problem};
use crate::roofline::Resource;
use crate::section::Section;
use crate::statistics::Estimate;

/// Least distance, as log2 of a ratio, between what time would be if it followed bytes
/// and if it followed FLOPs. Two kernels that both reach a roof may differ by as much:
/// log2(1 / 0.7) at `BOUND_SHARE`.
pub const TELLING: f64 = 0.5;

/// Two points that differ in one thing.
pub(super) struct Pair<'a> {
    pub kind: Kind,
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

/// What a pair differs in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Kind {
    /// Decode attention: the same cache, twice the query heads.
    QueryHeads,
    /// Decode attention: the same query heads, twice the key and value heads.
    KvHeads,
    /// A linear layer of more rows.
    Rows,
    /// Latent attention of more heads.
    LatentHeads,
    /// A layer of experts with more tokens.
    Tokens,
    /// Weights in so many bits less.
    Weights(DType),
    /// A cache in so many bits less.
    Cache(DType),
}

impl Kind {
    /// How two points differ, if in just one of these.
    pub fn of(low: &Problem, high: &Problem) -> Option<Kind> {
        match (low, high) {
            (Problem::DecodeAttention(a), Problem::DecodeAttention(b)) => of_decode(a, b),
            (Problem::MlaDecode(a), Problem::MlaDecode(b)) => of_latents(a, b),
            (Problem::Gemm(a), Problem::Gemm(b)) => {
                if a.m < b.m && (Gemm { m: b.m, ..*a }) == *b {
                    return Some(Kind::Rows);
                }
                let alike = Gemm { w_dtype: b.w_dtype, ..*a } == *b;
                (alike && is_quantized(a.w_dtype, b.w_dtype))
                    .then_some(Kind::Weights(b.w_dtype))
            }
            (Problem::MoeGemm(a), Problem::MoeGemm(b)) => {
                if a.tokens < b.tokens && (MoeGemm { tokens: b.tokens, ..*a }) == *b {
                    return Some(Kind::Tokens);
                }
                let alike = MoeGemm { w_dtype: b.w_dtype, ..*a } == *b;
                (alike && is_quantized(a.w_dtype, b.w_dtype))
                    .then_some(Kind::Weights(b.w_dtype))
            }
            _ => None,
        }
    }

    pub fn name(self) -> String {
        match self {
            Kind::QueryHeads => "equal bytes, double FLOPs".into(),
            Kind::KvHeads => "equal FLOPs, double bytes".into(),
            Kind::Rows => "more rows".into(),
            Kind::LatentHeads => "more heads".into(),
            Kind::Tokens => "more tokens".into(),
            Kind::Weights(dtype) => format!("weights in {dtype}"),
            Kind::Cache(dtype) => format!("cache in {dtype}"),
        }
    }

    /// Whether it is a step along an axis that suites choose the width of: only the
    /// next point along it makes a pair.
    const fn is_step(self) -> bool {
        matches!(self, Kind::Rows | Kind::LatentHeads | Kind::Tokens)
    }

    /// Whether the claim is that time follows bytes whatever binds. The others are of
    /// the roofline: time follows bytes below the ridge and FLOPs past it.
    const fn is_of_bytes_alone(self) -> bool {
        matches!(self, Kind::QueryHeads | Kind::KvHeads | Kind::Tokens)
    }

    /// What time should follow between two points that these roofs bind.
    fn expected(self, low: Option<Resource>, high: Option<Resource>) -> Option<Follows> {
        match (low?, high?) {
            _ if self.is_of_bytes_alone() => Some(Follows::Bytes),
            (Resource::Memory, Resource::Memory) => Some(Follows::Bytes),
            (Resource::Compute, Resource::Compute) => Some(Follows::Flops),
            _ => None,
        }
    }
}

fn of_decode(a: &DecodeAttention, b: &DecodeAttention) -> Option<Kind> {
    if (DecodeAttention { q_heads: 2 * a.q_heads, ..*a }) == *b {
        Some(Kind::QueryHeads)
    } else if (DecodeAttention { kv_heads: 2 * a.kv_heads, ..*a }) == *b {
        Some(Kind::KvHeads)
    } else {
        let alike = DecodeAttention { kv_dtype: b.kv_dtype, ..*a } == *b;
        (alike && is_quantized(a.kv_dtype, b.kv_dtype)).then_some(Kind::Cache(b.kv_dtype))
    }
}

fn of_latents(a: &MlaDecode, b: &MlaDecode) -> Option<Kind> {
    if a.q_heads < b.q_heads && (MlaDecode { q_heads: b.q_heads, ..*a }) == *b {
        return Some(Kind::LatentHeads);
    }
    let alike = MlaDecode { kv_dtype: b.kv_dtype, ..*a } == *b;
    (alike && is_quantized(a.kv_dtype, b.kv_dtype)).then_some(Kind::Cache(b.kv_dtype))
}

const fn is_quantized(from: DType, to: DType) -> bool {
    from.bits() == 16 && to.is_scaled()
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
    /// An end of the pair reaches no roof, so it says nothing of the hardware.
    NoRoof,
    /// Bytes and FLOPs change alike.
    TooClose,
}

impl Follows {
    pub const fn name(self) -> &'static str {
        match self {
            Follows::Bytes => "bytes",
            Follows::Flops => "FLOPs",
            Follows::Neither => "neither",
            Follows::Undecided => "undecided",
            Follows::NoRoof => "no evidence: kernel below both roofs",
            Follows::TooClose => "no evidence: bytes and FLOPs change alike",
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
struct Question {
    id: &'static str,
    statement: &'static str,
    asks: fn(Kind) -> bool,
}

/// What is asked of pairs, decode attention first.
const QUESTIONS: [Question; 5] = [
    Question {
        id: "decode-follows-bytes",
        statement: "Decode attention's time follows its bytes and not its FLOPs.",
        asks: |kind| matches!(kind, Kind::QueryHeads | Kind::KvHeads),
    },
    Question {
        id: "linear-follows-weights",
        statement: "The time of linear layers with few rows follows the bytes of weights, and \
                    the rows only past the ridge.",
        asks: |kind| kind == Kind::Rows,
    },
    Question {
        id: "latents-at-the-ridge",
        statement: "The time of latent attention stays with more heads where memory binds, \
                    and follows its FLOPs where computing does.",
        asks: |kind| kind == Kind::LatentHeads,
    },
    Question {
        id: "experts-follow-bytes",
        statement: "The time of routed experts follows the bytes of the experts touched, and \
                    not the rows.",
        asks: |kind| kind == Kind::Tokens,
    },
    Question {
        id: "quantizing-shrinks-time",
        statement: "Quantizing weights or cache shrinks time as it shrinks bytes where memory \
                    binds, and not past the ridge.",
        asks: |kind| matches!(kind, Kind::Weights(_) | Kind::Cache(_)),
    },
];

impl<'a> Judge<'a> {
    /// All pairs of points from DRAM, of one kernel and cache state.
    pub(super) fn pairs(&self) -> Vec<Pair<'a>> {
        let points: Vec<&Measured> =
            self.campaign.points.iter().filter(|p| p.row.residency == "dram").collect();
        let mut pairs = Vec::new();
        for low in &points {
            let of_low: Vec<_> =
                points.iter().filter_map(|high| self.pair(low, high)).collect();
            let next = |kind: Kind| {
                let alike = of_low.iter().filter(|pair| pair.kind == kind);
                alike.map(|pair| pair.flops).fold(f64::INFINITY, f64::min)
            };
            let is_next =
                |pair: &Pair<'_>| !pair.kind.is_step() || pair.flops <= next(pair.kind);
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
        let same_run = low.row.kernel == high.row.kernel
            && low.row.cache_state == high.row.cache_state;
        let kind = Kind::of(&low.problem, &high.problem).filter(|_| same_run)?;
        let time = high.time_s?.over(low.time_s?).widened(self.drift);
        let ratio = |of: fn(&Work) -> u64| of(&high.work) as f64 / of(&low.work) as f64;
        let (bytes, flops) = (ratio(Work::bytes), ratio(Work::flops));
        // A launch that costs more than the work may take as long whatever the work.
        let no_roof =
            |p: &Measured| matches!(self.bound(p), Some(Bound::Kernel | Bound::Latency));
        let follows = match no_roof(low) || no_roof(high) {
            true => Follows::NoRoof,
            false => Follows::of(time, bytes, flops),
        };
        let binds = |p: &Measured| p.empirical.map(|roof| roof.binding());
        let expected = kind.expected(binds(low), binds(high));
        Some(Pair { kind, low, high, time, bytes, flops, follows, expected })
    }

    /// The claims that pairs decide. That of decode attention is always there, the
    /// others where there are pairs.
    pub(super) fn pair_claims(&self, pairs: &[Pair<'_>]) -> Vec<Claim> {
        let claim = |(at, question): (usize, &Question)| {
            let asked: Vec<&Pair<'_>> =
                pairs.iter().filter(|pair| (question.asks)(pair.kind)).collect();
            (at == 0 || !asked.is_empty()).then(|| self.pair_claim(question, &asked))
        };
        QUESTIONS.iter().enumerate().filter_map(claim).collect()
    }

    fn pair_claim(&self, question: &Question, asked: &[&Pair<'_>]) -> Claim {
        let judged: Vec<&Pair<'_>> = asked
            .iter()
            .copied()
            .filter(|pair| pair.follows.is_evidence() && pair.expected.is_some())
            .collect();
        let agree = judged.iter().filter(|p| Some(p.follows) == p.expected).count();
        let unclear = judged.iter().filter(|p| p.follows == Follows::Undecided).count();
        let mut parts = summaries(&judged);
        parts.extend(left_out(asked));
        parts.extend(self.knees_in_short(question.asks));
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
                "points alike in",
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

    /// From how many rows on computing binds, for each shape and format of linear layers
    /// and each format of latent attention.
    fn knees(&self) -> Vec<Knee> {
        let mut groups: BTreeMap<String, (Axis, Vec<(u64, Bound)>)> = BTreeMap::new();
        for point in self.campaign.points.iter().filter(|p| p.row.residency == "dram") {
            let (Some(axis), Some(bound)) = (Axis::of(point), self.bound(point)) else {
                continue;
            };
            let rows = axis.rows;
            let name = axis.name.clone();
            groups.entry(name).or_insert_with(|| (axis, Vec::new())).1.push((rows, bound));
        }
        let knee = |(axis, bounds): (Axis, Vec<(u64, Bound)>)| {
            let ceilings = self.campaign.ceilings.as_ref();
            let ridge = ceilings.and_then(|c| c.ridge(axis.dtype)).map(|ridge| ridge.value);
            Knee { rows: compute_bound_from(&bounds), ridge, axis }
        };
        groups.into_values().map(knee).collect()
    }

    pub(super) fn knee_section(&self) -> Section {
        let rows = self.knees().into_iter().map(|knee| {
            let from = knee.rows.map_or("none that was measured".into(), |rows| {
                format!("{rows} {} on", knee.axis.unit)
            });
            let ridge = knee.ridge.map_or(String::new(), |ridge| format!("{ridge:.1}"));
            vec![knee.axis.name, from, ridge]
        });
        Section {
            heading: "From where on does computing bind?".into(),
            columns: vec!["points", "compute bound from", "ridge (FLOP/B)"],
            rows: rows.collect(),
            paragraphs: Vec::new(),
        }
    }

    /// The same in a few words, of what is asked.
    fn knees_in_short(&self, asks: impl Fn(Kind) -> bool) -> Option<String> {
        let mut knees = self.knees();
        knees.retain(|knee| asks(knee.axis.kind));
        let rows: Vec<u64> = knees.iter().filter_map(|knee| knee.rows).collect();
        let unit = knees.first()?.axis.unit;
        let (Some(least), Some(most)) = (rows.iter().min(), rows.iter().max()) else {
            return Some(format!("compute bound at no number of {unit}"));
        };
        let range =
            if least == most { format!("{least}") } else { format!("{least} to {most}") };
        let kinds = match knees.len() {
            1 => String::new(),
            all => format!(", by shape and format ({} of {all})", rows.len()),
        };
        Some(format!("compute bound from {range} {unit} on{kinds}"))
    }
}

/// From where on points along an axis are compute bound.
struct Knee {
    axis: Axis,
    /// None where no point is.
    rows: Option<u64>,
    /// FLOPs per byte.
    ridge: Option<f64>,
}

/// A point along whose rows computing begins to bind.
struct Axis {
    kind: Kind,
    name: String,
    unit: &'static str,
    rows: u64,
    dtype: DType,
}

impl Axis {
    fn of(point: &Measured) -> Option<Axis> {
        match point.problem {
            Problem::Gemm(p) => Some(Axis {
                kind: Kind::Rows,
                name: format!(
                    "gemm {} x {} in {}, weights in {}",
                    p.n, p.k, p.dtype, p.w_dtype
                ),
                unit: "rows",
                rows: p.m,
                dtype: p.dtype,
            }),
            Problem::MlaDecode(p) => Some(Axis {
                kind: Kind::LatentHeads,
                name: format!("mla_decode in {}, cache in {}", p.dtype, p.kv_dtype),
                unit: "heads x new tokens",
                rows: p.q_heads * p.new_tokens,
                dtype: p.dtype,
            }),
            _ => None,
        }
    }
}

/// The fewest rows from which on every point that says anything reaches the compute
/// roof. Those that reach none, and undecided ones, say nothing.
fn compute_bound_from(bounds: &[(u64, Bound)]) -> Option<u64> {
    let is_compute = |bound: Bound| matches!(bound, Bound::Compute | Bound::Ridge);
    let others = bounds.iter().filter(|(_, bound)| *bound == Bound::Memory);
    let last_other = others.map(|(rows, _)| *rows).max().unwrap_or(0);
    let beyond =
        bounds.iter().filter(|(rows, bound)| is_compute(*bound) && *rows > last_other);
    beyond.map(|(rows, _)| *rows).min()
}

/// How much time and bytes changed, for each kind of pair and side of the ridge.
fn summaries(judged: &[&Pair<'_>]) -> Vec<String> {
    let mut groups: BTreeMap<(Kind, Option<Follows>), Vec<&Pair<'_>>> = BTreeMap::new();
    for pair in judged {
        groups.entry((pair.kind, pair.expected)).or_default().push(pair);
    }
    let sentence = |((kind, expected), pairs): ((Kind, _), Vec<&Pair<'_>>)| {
        let side = match expected {
            _ if kind.is_of_bytes_alone() => "",
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

/// How many pairs are no evidence, and why.
fn left_out(asked: &[&Pair<'_>]) -> Vec<String> {
    let count = |f: &dyn Fn(&Pair<'_>) -> bool| asked.iter().filter(|p| f(p)).count();
    let across = |p: &Pair<'_>| p.follows.is_evidence() && p.expected.is_none();
    [
        (count(&|p| p.follows == Follows::NoRoof), "an end reaches no roof"),
        (count(&|p| p.follows == Follows::TooClose), "bytes and FLOPs change alike"),
        (count(&across), "they lie across the ridge, or it is unknown"),
    ]
    .into_iter()
    .filter(|(n, _)| *n > 0)
    .map(|(n, why)| format!("{n} more are no evidence: {why}"))
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
            // A format is written only where it is not that of the rest.
            None => changed.push(format!("{key} {value} -> the rest's")),
        }
    }
    for (key, value) in after {
        if !low.fields().iter().any(|(other, _)| *other == key) {
            changed.push(format!("{key} {value}"));
        }
    }
    (alike.join(" "), changed.join(", "))
}

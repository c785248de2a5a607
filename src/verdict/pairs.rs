//! Pairs of points that differ in one thing, and what their time follows.
//!
//! A pair is judged by ratios of times alone, so it needs no kernel near a roof: arithmetic
//! that is the bottleneck is found whatever its rate. Ceilings only say on which side of the
//! ridge a pair lies, and whether flat times could be those of something else.

use std::collections::{BTreeMap, HashMap};
use std::hash::{DefaultHasher, Hash, Hasher};

use super::evidence::{Says, planned_from_dram};
use super::{FLAT, Judge};
use crate::analysis::Measured;
use crate::op::PairKind;
use crate::point::KernelName;
use crate::resource::Work;
use crate::roofline::RoofKind;
use crate::statistics::Estimate;

/// Least distance, as log2 of a ratio, between what time would be if it followed bytes
/// and if it followed FLOPs. Two kernels that both reach a roof may differ by as much:
/// log2(1 / 0.7) at `BOUND_SHARE`.
pub const TELLING: f64 = 0.5;

/// Share of a roof from which on most of the time is moving or computing. Below it, equal
/// times, or times between those of bytes and of FLOPs, may be those of a fixed cost.
const EXPLAINED: f64 = 0.5;

/// Two points that differ in one thing.
pub(super) struct Pair<'a> {
    pub kind: PairKind,
    pub low: &'a Measured,
    pub high: &'a Measured,
    /// Ratio of times, high over low; none where one of them was not measured.
    pub time: Option<Estimate>,
    /// The model's ratios of bytes and of FLOPs.
    pub bytes: f64,
    pub flops: f64,
    pub follows: Option<Follows>,
    pub expected: Expected,
    /// What the pair says of its claim; none where it cannot tell by its shapes.
    pub says: Option<Says>,
}

impl Pair<'_> {
    /// The log of the ratio of times over that of bytes, and over that of FLOPs; none for
    /// what hardly changes.
    pub fn elasticities(&self) -> [Option<Estimate>; 2] {
        let of = |ratio: f64| {
            let (time, way) = (self.time?, ratio.log2());
            let at = |time: f64| time.max(1e-6).log2() / way;
            let (a, b) = (at(time.lo), at(time.hi));
            (way.is_finite() && way.abs() >= TELLING / 4.0).then(|| Estimate {
                value: at(time.value),
                lo: a.min(b),
                hi: a.max(b),
            })
        };
        [of(self.bytes), of(self.flops)]
    }

    /// Whether the pair is evidence that time follows this.
    pub fn shows(&self, follows: Follows) -> bool {
        self.says.is_some_and(Says::is_evidence) && self.follows == Some(follows)
    }
}

/// Whether a kind is a step along an axis that suites choose the width of: only the next
/// point along it makes a pair.
const fn is_step(kind: PairKind) -> bool {
    matches!(
        kind,
        PairKind::QueryHeads | PairKind::Rows | PairKind::LatentHeads | PairKind::Tokens
    )
}

/// Whether the claim about a kind is that time follows bytes whatever binds. The others are
/// of the roofline: time follows bytes below the ridge and FLOPs past it.
pub(super) const fn is_of_bytes_alone(kind: PairKind) -> bool {
    matches!(kind, PairKind::QueryHeads | PairKind::KvHeads | PairKind::Tokens)
}

/// What time should follow in a pair.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Expected {
    Time(Follows),
    /// One point lies on each side of the ridge.
    AcrossTheRidge,
    /// Ceilings do not say on which side.
    Unknown(&'static str),
}

impl Expected {
    pub const fn name(self) -> &'static str {
        match self {
            Expected::Time(follows) => follows.name(),
            Expected::AcrossTheRidge => "either: across the ridge",
            Expected::Unknown(why) => why,
        }
    }
}

/// What time follows in a pair.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Follows {
    Bytes,
    Flops,
    /// Neither of the two: between them, or beyond one of them.
    Neither,
    /// The interval spans more than one answer.
    Undecided,
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
            Follows::TooClose => "either: bytes and FLOPs change by similar factors",
        }
    }

    /// By the share of the way from the ratio of bytes to that of FLOPs, both as log2,
    /// at which time lies: near 0 it follows bytes, near 1 FLOPs, and elsewhere, beyond
    /// the two ends too, neither.
    pub fn of(time: Estimate, bytes: f64, flops: f64) -> Self {
        let Some(e) = way_gone(time, bytes, flops) else { return Follows::TooClose };
        let within = |at: f64| (at - FLAT) <= e.lo && e.hi <= at + FLAT;
        let outside = |at: f64| e.hi < at - FLAT || at + FLAT < e.lo;
        if within(0.0) {
            Follows::Bytes
        } else if within(1.0) {
            Follows::Flops
        } else if outside(0.0) && outside(1.0) {
            Follows::Neither
        } else {
            Follows::Undecided
        }
    }
}

/// Where time lies on the way from bytes to FLOPs: 0 where its ratio is that of bytes, 1
/// where it is that of FLOPs, by logarithms. With equal bytes and double FLOPs it is log2
/// of the ratio of times, with equal FLOPs and double bytes one less that. `None` where the
/// two are closer than [`TELLING`].
fn way_gone(time: Estimate, bytes: f64, flops: f64) -> Option<Estimate> {
    let way = flops.log2() - bytes.log2();
    let at = |ratio: f64| (ratio.max(1e-6).log2() - bytes.log2()) / way;
    let (a, b) = (at(time.lo), at(time.hi));
    (way.is_finite() && way.abs() >= TELLING).then(|| Estimate {
        value: at(time.value),
        lo: a.min(b),
        hi: a.max(b),
    })
}

/// On which side of the ridge a point lies.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Side {
    Below,
    Past,
    Unknown(&'static str),
}

impl<'a> Judge<'a> {
    /// All pairs of points from DRAM, of one kernel and cache state, and those that were
    /// planned and lack a time.
    pub(super) fn pairs(&self) -> Vec<Pair<'a>> {
        let points = self.campaign.own_points();
        let planned: Vec<&Measured> = points.filter(|p| planned_from_dram(p)).collect();
        let is_measured = |p: &&Measured| p.time_s.is_some();
        let (measured, lost): (Vec<&Measured>, Vec<&Measured>) =
            planned.iter().copied().partition(is_measured);
        let neighbours = Neighbours::of(&planned);
        let mut pairs = Vec::new();
        for low in &measured {
            let others = neighbours.of_point(low).into_iter().filter(is_measured);
            let of_low = others.filter_map(|high| self.pair(low, high));
            pairs.extend(nearest(of_low.collect()));
        }
        for point in &lost {
            pairs.extend(self.lost_pairs(point, &neighbours.of_point(point)));
        }
        pairs.sort_by_key(|pair| pair.kind);
        pairs
    }

    /// The pairs that a point without a time leaves untested.
    fn lost_pairs(&self, lost: &'a Measured, planned: &[&'a Measured]) -> Vec<Pair<'a>> {
        let as_high: Vec<_> =
            planned.iter().filter_map(|low| self.pair(low, lost)).collect();
        let has_low = |kind: PairKind| as_high.iter().any(|pair| pair.kind == kind);
        // A pair of two lost points is that of its high end.
        let measured = planned.iter().filter(|p| p.time_s.is_some());
        let mut as_low: Vec<_> =
            measured.filter_map(|high| self.pair(lost, high)).collect();
        as_low.retain(|pair| !is_step(pair.kind) || !has_low(pair.kind));
        let mut pairs = nearest(as_high);
        pairs.extend(nearest(as_low));
        pairs
    }

    fn pair(&self, low: &'a Measured, high: &'a Measured) -> Option<Pair<'a>> {
        // What no kernel could run has none.
        let has_kernel = |p: &Measured| p.kernel != KernelName::none();
        let is_alike = low.cache == high.cache
            && (low.kernel == high.kernel || !has_kernel(low) || !has_kernel(high));
        let kind = low.problem.pair_with(&high.problem).filter(|_| is_alike)?;
        let ratio = |of: fn(&Work) -> u64| of(&high.work) as f64 / of(&low.work) as f64;
        let (bytes, flops) = (ratio(Work::bytes), ratio(Work::flops));
        let ends = high.time_s.zip(low.time_s);
        let time = ends.map(|(high, low)| high.over(low).widened(self.drift));
        let follows = time.map(|time| Follows::of(time, bytes, flops));
        let expected = self.expected(kind, low, high);
        let says = None;
        let pair = Pair { kind, low, high, time, bytes, flops, follows, expected, says };
        Some(Pair { says: self.says(&pair), ..pair })
    }

    /// What a pair says of its claim; none where it cannot tell by its shapes.
    fn says(&self, pair: &Pair<'_>) -> Option<Says> {
        let way = pair.flops.log2() - pair.bytes.log2();
        let is_telling = way.is_finite() && way.abs() >= TELLING;
        if !is_telling || pair.expected == Expected::AcrossTheRidge {
            return None;
        }
        let ends = [pair.low, pair.high];
        if let Some(lost) = ends.into_iter().find(|p| p.time_s.is_none()) {
            return Some(Says::NotMeasured(lost.status.name()));
        }
        if ends.into_iter().any(|p| self.campaign.is_disturbed(p)) {
            return Some(Says::Nothing("measured under load"));
        }
        if ends.into_iter().any(|p| self.is_mostly_launch(p)) {
            return Some(Says::Nothing("launching takes most of the time"));
        }
        let expected = match pair.expected {
            Expected::Time(expected) => expected,
            Expected::Unknown(why) => return Some(Says::Nothing(why)),
            Expected::AcrossTheRidge => return None,
        };
        let found = pair.follows?;
        if let Some(why) = self.silenced(pair, found) {
            return Some(Says::Nothing(why));
        }
        Some(match found {
            _ if found == expected => Says::Agrees,
            Follows::Bytes => Says::Against("time follows bytes"),
            Follows::Flops => Says::Against("time follows FLOPs"),
            _ => Says::Against("time follows neither"),
        })
    }

    /// Why what was found says nothing of the hardware: it is not certain, or it is what a
    /// fixed cost does, which pulls every ratio of times towards 1.
    fn silenced(&self, pair: &Pair<'_>, found: Follows) -> Option<&'static str> {
        let is_equal = |ratio: f64| ratio.log2().abs() < TELLING;
        let has =
            |share: Option<Estimate>| share.is_some_and(|share| share.hi >= EXPLAINED);
        let moves = |p: &Measured| has(self.memory_share(p));
        let computes = |p: &Measured| has(self.compute_share(p));
        let (low, high) = (pair.low, pair.high);
        let [of_low, of_high] = [low, high].map(|p| moves(p) || computes(p));
        let is_certain = match found {
            Follows::Undecided => return Some("the interval spans more than one answer"),
            Follows::Bytes => !is_equal(pair.bytes) || moves(low) || moves(high),
            Follows::Flops => !is_equal(pair.flops) || computes(low) || computes(high),
            Follows::Neither | Follows::TooClose => {
                let (least, most) =
                    (pair.bytes.min(pair.flops), pair.bytes.max(pair.flops));
                !pair.time.is_some_and(|t| least <= t.lo && t.hi <= most)
            }
        };
        let is_explained = is_certain || (of_low && of_high);
        (!is_explained).then_some("most of the time is neither moving nor computing")
    }

    fn expected(&self, kind: PairKind, low: &Measured, high: &Measured) -> Expected {
        if is_of_bytes_alone(kind) {
            return Expected::Time(Follows::Bytes);
        }
        match (self.side(low), self.side(high)) {
            (Side::Unknown(why), _) | (_, Side::Unknown(why)) => Expected::Unknown(why),
            (Side::Below, Side::Below) => Expected::Time(Follows::Bytes),
            (Side::Past, Side::Past) => Expected::Time(Follows::Flops),
            (_, _) => Expected::AcrossTheRidge,
        }
    }

    /// A compute ceiling is never too high, so the ridge is never too far: what lies below
    /// it does so for certain, and what lies past it only if the ceiling is good, or if it
    /// lies past the ridge of all that the clocks allow.
    fn side(&self, point: &Measured) -> Side {
        let (Some(ceilings), Some(roof)) = (&self.campaign.ceilings, point.empirical)
        else {
            return Side::Unknown("the ridge is unknown");
        };
        if let Some(doubt) = ceilings.read.doubt() {
            return Side::Unknown(doubt.name());
        }
        let dtype = point.problem.math_dtype();
        let compute = dtype.and_then(|dtype| ceilings.compute.get(&dtype));
        let is_past_all =
            || point.derived.is_some_and(|derived| derived.compute_s >= roof.memory_s);
        match (roof.binding(), compute.and_then(|ceiling| ceiling.doubt())) {
            (RoofKind::Memory, _) => Side::Below,
            (RoofKind::Link, _) => Side::Unknown("a link is the bottleneck"),
            (RoofKind::Compute, Some(doubt)) if !is_past_all() => {
                Side::Unknown(doubt.name())
            }
            (RoofKind::Compute, _) => Side::Past,
        }
    }
}

/// Points by all that they are but one key: the only ones that can make a pair, which is of
/// problems that differ in one thing. Campaigns may have more points than all of them could
/// be held against all others.
struct Neighbours<'a> {
    points: Vec<&'a Measured>,
    alike: HashMap<u64, Vec<usize>>,
}

impl<'a> Neighbours<'a> {
    fn of(points: &[&'a Measured]) -> Self {
        let mut alike: HashMap<u64, Vec<usize>> = HashMap::new();
        for (at, point) in points.iter().enumerate() {
            for rest in rests(point) {
                alike.entry(rest).or_default().push(at);
            }
        }
        Neighbours { points: points.to_vec(), alike }
    }

    /// Points that differ from this one in one key at most, in the order of all.
    fn of_point(&self, point: &Measured) -> Vec<&'a Measured> {
        let lists = rests(point).into_iter().filter_map(|rest| self.alike.get(&rest));
        let mut found: Vec<usize> = lists.flatten().copied().collect();
        found.sort_unstable();
        found.dedup();
        found.into_iter().map(|at| self.points[at]).collect()
    }
}

/// For each key of any problem, a hash of all else that a point's problem is, and of its
/// cache state. Equal hashes of unequal points cost a look at them and nothing else.
fn rests(point: &Measured) -> Vec<u64> {
    let fields = point.problem.fields();
    let rest = |left_out: &str| {
        let mut hasher = DefaultHasher::new();
        (point.problem.op(), point.cache, left_out).hash(&mut hasher);
        for (key, value) in fields.iter().filter(|(key, _)| *key != left_out) {
            (key, value).hash(&mut hasher);
        }
        hasher.finish()
    };
    // A key that the text leaves out has its default, and may be what another point has.
    point.problem.op().keys().map(rest).collect()
}

/// Of pairs that share one end, those whose other end is the next along its size.
fn nearest(pairs: Vec<Pair<'_>>) -> Vec<Pair<'_>> {
    let mut next: BTreeMap<PairKind, f64> = BTreeMap::new();
    for pair in &pairs {
        let least = next.entry(pair.kind).or_insert(f64::INFINITY);
        *least = least.min(pair.flops);
    }
    let is_next = |pair: &Pair<'_>| !is_step(pair.kind) || pair.flops <= next[&pair.kind];
    pairs.into_iter().filter(is_next).collect()
}

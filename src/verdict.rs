//! Claims against records: what the measured machine's limits are, how close
//! each operation came, and whether decode attention is memory bound.
//!
//! A claim may fail on a machine; that is a finding and no fault. What makes a
//! run invalid are wrong outputs, failed launches, missing rows and times that
//! beat the measured ceilings by more than the noise allows, or that beat what
//! the device's clocks allow.

use std::collections::BTreeMap;

use crate::analysis::{Campaign, Ceiling, Measured};
use crate::model::derived;
use crate::problem::{DecodeAttention, Op, Problem};
use crate::record::Status;
use crate::roofline::{Peaks, Resource};
use crate::section::Section;
use crate::statistics::Estimate;
use crate::transfer::{self, Family};

/// Share of a roof from which on that roof counts as what limits a kernel.
/// Below it, something else costs more than 30% of the time.
pub const BOUND_SHARE: f64 = 0.7;

/// Share of the roof above which a time is no longer noise but impossible.
pub const IMPOSSIBLE_SHARE: f64 = 1.25;

/// Share of CPU time from which on others count as having disturbed a point.
pub const DISTURBED_SHARE: f64 = 0.05;

/// Elasticity of time up to which it does not follow a quantity, and from
/// `1 - FLAT` on it does.
pub const FLAT: f64 = 0.25;

/// What the records say of a claim.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Finding {
    /// Every point agrees, with its whole interval.
    Supported,
    /// Some points agree; the others do not, or it cannot be told.
    Partly,
    /// No point agrees, and most of them disagree.
    Contradicted,
    /// The intervals are too wide to say.
    Undecided,
    /// The campaign has no points that could tell.
    NotTested,
}

impl Finding {
    /// The spelling used in tables and CSV files.
    pub const fn name(self) -> &'static str {
        match self {
            Finding::Supported => "supported",
            Finding::Partly => "partly supported",
            Finding::Contradicted => "contradicted",
            Finding::Undecided => "undecided",
            Finding::NotTested => "not tested",
        }
    }

    fn of(agree: usize, disagree: usize, undecided: usize) -> Finding {
        match (agree, disagree, undecided) {
            (0, 0, 0) => Finding::NotTested,
            (_, 0, 0) => Finding::Supported,
            (0, no, unclear) if no > unclear => Finding::Contradicted,
            (0, _, _) => Finding::Undecided,
            (_, _, _) => Finding::Partly,
        }
    }
}

/// What limits a measured point.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Bound {
    /// It reaches the memory roof.
    Memory,
    /// It reaches the compute roof.
    Compute,
    /// It reaches both: it sits at the ridge.
    Ridge,
    /// Launching costs more than half of its time.
    Latency,
    /// It reaches no roof: the kernel itself is the limit.
    Kernel,
    /// The interval straddles the threshold.
    Undecided,
}

impl Bound {
    /// Whether the memory roof is reached.
    pub const fn is_memory(self) -> bool {
        matches!(self, Bound::Memory | Bound::Ridge)
    }

    /// The spelling used in tables and CSV files.
    pub const fn name(self) -> &'static str {
        match self {
            Bound::Memory => "memory bound",
            Bound::Compute => "compute bound",
            Bound::Ridge => "at the ridge",
            Bound::Latency => "latency bound",
            Bound::Kernel => "kernel below both roofs",
            Bound::Undecided => "undecided",
        }
    }
}

/// A claim and what became of it.
#[derive(Clone, Debug)]
pub struct Claim {
    /// Short stable name.
    pub id: &'static str,
    /// The claim in a sentence.
    pub statement: &'static str,
    /// What the records say.
    pub finding: Finding,
    /// The numbers behind it.
    pub evidence: String,
}

/// One of the machine's measured limits.
#[derive(Clone, Debug, PartialEq)]
pub struct Limit {
    /// Short stable name: `dram_read_bandwidth`, `bf16_compute`, `bf16_ridge`,
    /// `drift`.
    pub id: String,
    /// Value with its interval.
    pub value: Estimate,
    /// SI unit without prefix.
    pub unit: &'static str,
    /// The kernel that reached it, or what it was computed from.
    pub from: String,
    /// The same as it follows from the device's clocks, where those are known.
    pub derived: Option<f64>,
    /// The same by the data sheet, where there is one.
    pub spec: Option<f64>,
}

/// Everything that the records of one campaign say.
#[derive(Clone, Debug)]
pub struct Verdict {
    /// The claims.
    pub claims: Vec<Claim>,
    /// The machine's measured limits.
    pub limits: Vec<Limit>,
    /// Tables, in the order to print.
    pub sections: Vec<Section>,
    /// Why the run is invalid; empty when it is valid.
    pub faults: Vec<String>,
    /// What a reader should know all the same.
    pub warnings: Vec<String>,
}

impl Verdict {
    /// Whether the run may be used.
    pub fn is_valid(&self) -> bool {
        self.faults.is_empty()
    }
}

/// Judges a campaign.
pub fn judge(campaign: &Campaign) -> Verdict {
    let judge = Judge::new(campaign);
    let claims = vec![judge.memory_bound_claim(), judge.follows_bytes_claim()];
    let limits = judge.limits();
    let mut sections = vec![claims_section(&claims), judge.limits_section(&limits)];
    sections.push(judge.transfer_section());
    sections.extend([judge.regime_section(), judge.decode_section(), judge.pair_section()]);
    sections.retain(|section| !section.rows.is_empty());
    let (faults, warnings) = judge.validity();
    Verdict { claims, limits, sections, faults, warnings }
}

/// Two decode points that differ in one thing.
struct Pair<'a> {
    kind: PairKind,
    low: &'a Measured,
    high: &'a Measured,
    /// log2 of the ratio of times: 0 when time did not move, 1 when it doubled.
    elasticity: Estimate,
    follows: Follows,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum PairKind {
    /// The same cache, twice the query heads.
    EqualBytes,
    /// The same query heads, twice the key and value heads.
    EqualFlops,
}

impl PairKind {
    const fn name(self) -> &'static str {
        match self {
            PairKind::EqualBytes => "equal bytes, double FLOPs",
            PairKind::EqualFlops => "equal FLOPs, double bytes",
        }
    }
}

/// What time follows in a pair.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Follows {
    Bytes,
    Flops,
    /// Between the two.
    Neither,
    /// The interval spans more than one answer.
    Undecided,
    /// An end of the pair reaches no roof, so it says nothing of the hardware.
    NoEvidence,
}

impl Follows {
    const fn name(self) -> &'static str {
        match self {
            Follows::Bytes => "bytes",
            Follows::Flops => "FLOPs",
            Follows::Neither => "neither",
            Follows::Undecided => "undecided",
            Follows::NoEvidence => "no evidence: kernel below both roofs",
        }
    }

    fn of(kind: PairKind, elasticity: Estimate) -> Self {
        let e = elasticity;
        let (flat, steep) = match kind {
            PairKind::EqualBytes => (Follows::Bytes, Follows::Flops),
            PairKind::EqualFlops => (Follows::Flops, Follows::Bytes),
        };
        if e.hi <= FLAT {
            flat
        } else if e.lo >= 1.0 - FLAT {
            steep
        } else if e.lo > FLAT && e.hi < 1.0 - FLAT {
            Follows::Neither
        } else {
            Follows::Undecided
        }
    }
}

struct Judge<'a> {
    campaign: &'a Campaign,
    /// Relative error of the ratio of two times taken at different moments: the
    /// whole range of the sentinel, since each may be at another end of it.
    drift: f64,
    launch_overhead_s: f64,
}

impl<'a> Judge<'a> {
    fn new(campaign: &'a Campaign) -> Self {
        Judge {
            campaign,
            drift: campaign.sentinel.as_ref().map_or(0.0, |s| 2.0 * s.drift()),
            launch_overhead_s: campaign
                .provenance("launch_overhead_s")
                .and_then(|text| text.parse().ok())
                .unwrap_or(0.0),
        }
    }

    /// A share of a roof with everything that may be off about it: its own
    /// interval, its ceiling's and the drift.
    fn share(
        &self,
        share: Option<Estimate>,
        ceiling: Option<&Ceiling>,
    ) -> Option<Estimate> {
        Some(share?.widened(self.drift + ceiling?.rate.half_width()))
    }

    fn memory_share(&self, point: &Measured) -> Option<Estimate> {
        let ceiling = self.campaign.ceilings.as_ref().map(|c| &c.read);
        self.share(point.memory_fraction(), ceiling)
    }

    fn compute_share(&self, point: &Measured) -> Option<Estimate> {
        let dtype = point.problem.math_dtype()?;
        let ceiling = self.campaign.ceilings.as_ref()?.compute.get(&dtype);
        self.share(point.compute_fraction(), ceiling)
    }

    /// The share of the roof that binds.
    fn binding_share(&self, point: &Measured) -> Option<Estimate> {
        match point.empirical?.binding() {
            Resource::Memory => self.memory_share(point),
            Resource::Compute => self.compute_share(point),
        }
    }

    fn bound(&self, point: &Measured) -> Option<Bound> {
        let time_s = point.time_s?.value;
        let memory = self.memory_share(point)?;
        let compute = self.compute_share(point);
        let reaches = |e: Estimate| e.lo >= BOUND_SHARE;
        let misses = |e: Estimate| e.hi < BOUND_SHARE;
        Some(match (reaches(memory), compute.is_some_and(reaches)) {
            (true, true) => Bound::Ridge,
            (true, false) => Bound::Memory,
            (false, true) => Bound::Compute,
            _ if self.launch_overhead_s > 0.5 * time_s => Bound::Latency,
            _ if misses(memory) && compute.is_none_or(misses) => Bound::Kernel,
            _ => Bound::Undecided,
        })
    }

    /// Decode points with their shapes.
    fn decode(&self) -> impl Iterator<Item = (&'a Measured, DecodeAttention)> {
        self.campaign.points.iter().filter_map(|point| match point.problem {
            Problem::DecodeAttention(p) => Some((point, p)),
            _ => None,
        })
    }

    /// The decode points that the claims are about: from DRAM, measured, of one new
    /// token that sees all of its context. Drafts have the intensity of larger groups,
    /// and windows the bytes of shorter contexts.
    fn decode_from_dram(&self) -> Vec<(&'a Measured, DecodeAttention, Bound)> {
        self.decode()
            .filter(|(point, shape)| point.row.residency == "dram" && shape.is_plain())
            .filter_map(|(point, shape)| Some((point, shape, self.bound(point)?)))
            .collect()
    }

    fn memory_bound_claim(&self) -> Claim {
        let all = self.decode_from_dram();
        // A kernel that reaches no roof says nothing about the hardware.
        let is_evidence = |bound: Bound| bound != Bound::Kernel;
        let points: Vec<_> = all.iter().filter(|(_, _, b)| is_evidence(*b)).collect();
        let count = |f: fn(Bound) -> bool| points.iter().filter(|(_, _, b)| f(*b)).count();
        let agree = count(Bound::is_memory);
        let disagree = count(|b| matches!(b, Bound::Compute | Bound::Latency));
        let mut evidence = format!(
            "{agree} of {} points from DRAM reach {:.0}% of read bandwidth",
            points.len(),
            100.0 * BOUND_SHARE
        );
        if all.len() > points.len() {
            let left_out = all.len() - points.len();
            evidence.push_str(&format!(
                " ({left_out} more are no evidence: their kernel reaches no roof)"
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

    fn follows_bytes_claim(&self) -> Claim {
        let all = self.pairs();
        let pairs: Vec<_> =
            all.iter().filter(|p| p.follows != Follows::NoEvidence).collect();
        let count = |answer| pairs.iter().filter(|p| p.follows == answer).count();
        let agree = count(Follows::Bytes);
        let disagree = count(Follows::Flops) + count(Follows::Neither);
        let summary = |kind: PairKind| {
            let mut e: Vec<f64> = pairs
                .iter()
                .filter(|pair| pair.kind == kind)
                .map(|pair| pair.elasticity.value)
                .collect();
            e.sort_by(f64::total_cmp);
            match (e.first(), e.last()) {
                (Some(low), Some(high)) => format!(
                    "{} of {}, time x {:.2} to {:.2}",
                    e.len(),
                    kind.name(),
                    low.exp2(),
                    high.exp2()
                ),
                _ => format!("none of {}", kind.name()),
            }
        };
        Claim {
            id: "decode-follows-bytes",
            statement: "Decode attention's time follows its bytes and not its FLOPs.",
            finding: Finding::of(agree, disagree, pairs.len() - agree - disagree),
            evidence: format!(
                "{agree} of {} pairs follow bytes: {}; {}{}",
                pairs.len(),
                summary(PairKind::EqualBytes),
                summary(PairKind::EqualFlops),
                match all.len() - pairs.len() {
                    0 => String::new(),
                    n => format!("; {n} more are no evidence: a kernel reaches no roof"),
                }
            ),
        }
    }

    /// All pairs of decode points from DRAM that differ by a factor of two in
    /// FLOPs at the same cache, or in the cache at the same FLOPs.
    fn pairs(&self) -> Vec<Pair<'a>> {
        let points: Vec<_> =
            self.decode().filter(|(p, _)| p.row.residency == "dram").collect();
        let mut pairs = Vec::new();
        for (low, a) in &points {
            for (high, b) in &points {
                let same_run = low.row.kernel == high.row.kernel
                    && low.row.cache_state == high.row.cache_state;
                let (Some(kind), true) = (pair_kind(a, b), same_run) else { continue };
                let (Some(slow), Some(fast)) = (high.time_s, low.time_s) else { continue };
                let ratio = slow.over(fast).widened(self.drift);
                let log2 = |x: f64| x.max(1e-6).log2();
                let elasticity = Estimate {
                    value: log2(ratio.value),
                    lo: log2(ratio.lo),
                    hi: log2(ratio.hi),
                };
                let is_kernel = |p: &Measured| self.bound(p) == Some(Bound::Kernel);
                let follows = match is_kernel(low) || is_kernel(high) {
                    true => Follows::NoEvidence,
                    false => Follows::of(kind, elasticity),
                };
                pairs.push(Pair { kind, low, high, elasticity, follows });
            }
        }
        pairs
    }

    /// What the machine was measured to do at most.
    fn limits(&self) -> Vec<Limit> {
        let mut limits = Vec::new();
        let mut add =
            |id: String, value, unit, from, of: &dyn Fn(&Peaks) -> Option<f64>| {
                let derived = self.campaign.derived.as_ref().and_then(of);
                let spec = self.campaign.spec.as_ref().and_then(|sheet| of(&sheet.peaks));
                limits.push(Limit { id, value, unit, from, derived, spec });
            };
        if let Some(ceilings) = &self.campaign.ceilings {
            let read = &ceilings.read;
            let of = |peaks: &Peaks| Some(peaks.bandwidth.read.plateau().bytes_per_s);
            add(
                "dram_read_bandwidth".into(),
                read.rate,
                "bytes/s",
                read.kernel.clone(),
                &of,
            );
            for (&dtype, ceiling) in &ceilings.compute {
                let (rate, kernel) = (ceiling.rate, ceiling.kernel.clone());
                let of = |peaks: &Peaks| peaks.flops_per_s(dtype);
                add(format!("{dtype}_compute"), rate, "flops/s", kernel, &of);
                if let Some(ridge) = ceilings.ridge(dtype) {
                    let from = "compute over read".into();
                    let of = |peaks: &Peaks| peaks.ridge(dtype);
                    add(format!("{dtype}_ridge"), ridge, "flops/byte", from, &of);
                }
            }
        }
        if let Some(sentinel) = &self.campaign.sentinel {
            let drift = Estimate::exact(2.0 * sentinel.drift());
            let from = format!("{} repeats of the sentinel", sentinel.times_s.len());
            add("drift".into(), drift, "share", from, &|_| None);
        }
        limits
    }

    /// The measured limits, beside what the clocks and the data sheet promise
    /// where that is known.
    fn limits_section(&self, limits: &[Limit]) -> Section {
        let (derived, spec) = (self.campaign.derived.is_some(), &self.campaign.spec);
        let mut columns = vec!["limit", "value (95% interval)"];
        columns.extend(derived.then_some("of derived"));
        columns.extend(spec.is_some().then_some("of data sheet"));
        columns.push("from");
        let rows = limits.iter().map(|limit| {
            let mut cells = vec![limit.id.replace('_', " "), limit.text()];
            cells.extend(derived.then(|| limit.share_of(limit.derived)));
            cells.extend(spec.is_some().then(|| limit.share_of(limit.spec)));
            cells.push(limit.from.clone());
            cells
        });
        let rows: Vec<Vec<String>> = rows.collect();
        let mut paragraphs = Vec::new();
        if derived && !rows.is_empty() {
            paragraphs.push(DERIVED.to_owned());
        }
        if let (Some(sheet), false) = (spec, rows.is_empty()) {
            paragraphs.push(format!("Data sheet: {}, {}.", sheet.machine, sheet.source));
        }
        Section { heading: "Machine, as measured".into(), columns, rows, paragraphs }
    }

    /// What moving bytes costs apart from the bytes. Too few read streams for a
    /// line are said; of other kernels only lines are shown.
    fn transfer_section(&self) -> Section {
        let derived = self.campaign.derived.as_ref();
        let peak = derived.map(|peaks| peaks.bandwidth.read.plateau().bytes_per_s);
        let families = transfer::families(self.campaign);
        let shown = |f: &&Family| f.op == Op::Stream || f.fit.is_some();
        let rows = families.iter().filter(shown).map(|family| {
            let mut cells =
                vec![family.op.to_string(), family.kernel.clone(), family.shape.clone()];
            cells.push(family.points.len().to_string());
            cells.extend(transfer_cells(family, peak));
            cells
        });
        Section {
            heading: "Time against bytes, from DRAM".into(),
            columns: vec![
                "op",
                "kernel",
                "shape",
                "points",
                "fixed cost a",
                "bandwidth b",
                "of derived",
                "largest residual",
            ],
            rows: rows.collect(),
            paragraphs: vec![TRANSFER.to_owned()],
        }
    }

    fn regime_section(&self) -> Section {
        type Regime = (Op, &'static str, String);
        let mut regimes: BTreeMap<Regime, Vec<(Estimate, Bound)>> = BTreeMap::new();
        for point in &self.campaign.points {
            // Streams and peaks are the roofs themselves.
            if matches!(point.problem.op(), Op::Stream | Op::Peak) {
                continue;
            }
            let (Some(roof), Some(share), Some(bound)) =
                (point.empirical, self.binding_share(point), self.bound(point))
            else {
                continue;
            };
            let key =
                (point.problem.op(), roof.binding().name(), point.row.residency.clone());
            regimes.entry(key).or_default().push((share, bound));
        }
        let rows = regimes.into_iter().map(|((op, roof, residency), points)| {
            let mut shares: Vec<f64> =
                points.iter().map(|(share, _)| share.value).collect();
            shares.sort_by(f64::total_cmp);
            let lo = points.iter().map(|(share, _)| share.lo).fold(f64::INFINITY, f64::min);
            let hi = points.iter().map(|(share, _)| share.hi).fold(0.0, f64::max);
            vec![
                op.to_string(),
                roof.to_owned(),
                residency,
                points.len().to_string(),
                percent(crate::statistics::quantile(&shares, 0.5)),
                format!("{} to {}", percent(shares[0]), percent(shares[shares.len() - 1])),
                format!("[{}, {}]", percent(lo), percent(hi)),
                tally(points.iter().map(|(_, bound)| bound.name())),
            ]
        });
        Section {
            heading: "Share of the binding roof reached".into(),
            columns: vec![
                "op",
                "roof",
                "data in",
                "points",
                "median",
                "range",
                "with intervals",
                "measured as",
            ],
            rows: rows.collect(),
            paragraphs: Vec::new(),
        }
    }

    fn decode_section(&self) -> Section {
        let mut points: Vec<_> = self.decode().collect();
        points.sort_by_key(|(_, p)| (p.group(), p.kv_heads, p.batch, p.context));
        let rows = points
            .into_iter()
            .filter_map(|(point, p)| {
                let predicted = match point.empirical.map(|roof| roof.binding()) {
                    Some(Resource::Memory) => "memory bound",
                    Some(Resource::Compute) => "compute bound",
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
                    point.row.residency.clone(),
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

    fn pair_section(&self) -> Section {
        let pairs = self.pairs();
        let rows = pairs.iter().map(|pair| {
            let heads = |point: &Measured| match point.problem {
                Problem::DecodeAttention(p) => format!("{}/{}", p.q_heads, p.kv_heads),
                _ => String::new(),
            };
            let (batch, context, others) = match pair.low.problem {
                Problem::DecodeAttention(p) => {
                    let words = [p.kv_dtype.to_string(), p.layout.to_string(), p.variant()];
                    let words = words.into_iter().filter(|word| !word.is_empty());
                    let words: Vec<_> = words.collect();
                    (p.batch, p.context, format!("{}, {}", p.head_dim, words.join(", ")))
                }
                _ => (0, 0, String::new()),
            };
            let e = pair.elasticity;
            vec![
                pair.kind.name().to_owned(),
                batch.to_string(),
                context.to_string(),
                format!("{} -> {}", heads(pair.low), heads(pair.high)),
                others,
                format!("{:.2} [{:.2}, {:.2}]", e.value.exp2(), e.lo.exp2(), e.hi.exp2()),
                pair.follows.name().to_owned(),
            ]
        });
        Section {
            heading: "Does decode's time follow bytes?".into(),
            columns: vec![
                "pair",
                "batch",
                "context",
                "q/kv heads",
                "head dim, cache",
                "time ratio",
                "time follows",
            ],
            rows: rows.collect(),
            paragraphs: Vec::new(),
        }
    }

    fn validity(&self) -> (Vec<String>, Vec<String>) {
        let mut faults = Vec::new();
        let mut warnings = Vec::new();
        for point in &self.campaign.points {
            let row = &point.row;
            match row.status {
                Some(Status::Wrong) => {
                    faults.push(format!("wrong output: {}: {}", row.problem, row.reason));
                }
                Some(Status::Failed) => {
                    faults.push(format!("failed: {}: {}", row.problem, row.reason));
                }
                _ => {}
            }
            if point.row.residency == "dram"
                && point.problem.op() != Op::Stream
                && let Some(share) = self.binding_share(point)
                && share.lo > IMPOSSIBLE_SHARE
            {
                faults.push(format!(
                    "impossible: {} ran at {} of the measured roof; its bytes or FLOPs are \
                     miscounted, or a cache helped",
                    row.problem,
                    percent(share.value)
                ));
            }
        }
        self.impossible_rates(&mut faults);
        self.missing_rows(&mut faults);
        let count =
            |s| self.campaign.points.iter().filter(|p| p.row.status == Some(s)).count();
        let (noisy, skipped) = (count(Status::Noisy), count(Status::Skipped));
        if noisy > 0 {
            warnings.push(format!(
                "{noisy} points are noisy: their intervals are wider than the suite wants"
            ));
        }
        if skipped > 0 {
            warnings.push(format!("{skipped} points were skipped; their rows say why"));
        }
        self.circumstances(&mut warnings);
        (faults, warnings)
    }

    /// Rates that no memory and no multiprocessor of this device can reach.
    fn impossible_rates(&self, faults: &mut Vec<String>) {
        let Some(derived) = &self.campaign.derived else { return };
        let bytes_per_s = derived.bandwidth.read.plateau().bytes_per_s;
        let read = self.campaign.ceilings.as_ref().map(|ceilings| &ceilings.read);
        if let Some(read) = read
            && read.rate.lo > derived::MARGIN * bytes_per_s
        {
            faults.push(format!(
                "impossible: the DRAM read ceiling of {:.1} GB/s is {} of the {:.1} GB/s that \
                 the memory's clock and bus allow; a cache helped, bytes are miscounted, or \
                 the device misreports its memory",
                1e-9 * read.rate.value,
                percent(read.rate.value / bytes_per_s),
                1e-9 * bytes_per_s
            ));
        }
        let margin = derived::compute_margin(&self.campaign.identity());
        for point in &self.campaign.points {
            let is_ceiling = read.is_some_and(|read| read.point_id == point.row.point_id);
            if let Some(rate) = self.least_dram_rate(point)
                && rate.lo > derived::MARGIN * bytes_per_s
                && !is_ceiling
            {
                faults.push(format!(
                    "impossible: {} moved {:.1} GB/s from DRAM, {} of the {:.1} GB/s that the \
                     memory's clock and bus allow; its bytes are miscounted, or the device \
                     misreports its memory",
                    point.row.problem,
                    1e-9 * rate.value,
                    percent(rate.value / bytes_per_s),
                    1e-9 * bytes_per_s
                ));
            }
            let peak =
                point.problem.math_dtype().and_then(|dtype| derived.flops_per_s(dtype));
            if let (Some(rate), Some(peak)) = (point.flops_per_s(), peak)
                && rate.lo > margin * peak
            {
                faults.push(format!(
                    "impossible: {} ran at {:.2} TFLOP/s, {} of the {:.2} TFLOP/s that the \
                     multiprocessors can do at their highest clock; its FLOPs are miscounted, \
                     or it computed in another format",
                    point.row.problem,
                    1e-12 * rate.value,
                    percent(rate.value / peak),
                    1e-12 * peak
                ));
            }
        }
    }

    /// The rate at which DRAM must have moved bytes for a point at the least.
    /// Of each round through the rotation, the last-level cache can keep no
    /// more than it holds, whatever its replacement policy; the rest of the
    /// compulsory bytes came from DRAM. `None` for what lies in a cache.
    fn least_dram_rate(&self, point: &Measured) -> Option<Estimate> {
        let rate = point.bytes_per_s().filter(|_| point.row.residency == "dram")?;
        let cache =
            self.campaign.provenance("l2_bytes").and_then(|n| n.parse::<f64>().ok());
        let round = point.row.reuse_distance_bytes? as f64;
        Some(rate.scaled(1.0 - (cache.unwrap_or(0.0) / round).clamp(0.0, 1.0)))
    }

    /// What about the machine a reader should know.
    fn circumstances(&self, warnings: &mut Vec<String>) {
        if self.campaign.ceilings.is_none() {
            warnings.push(
                "no read stream was measured from DRAM: shares of roofs are unknown".into(),
            );
        }
        warnings.extend(self.campaign.spec_refused.clone());
        if self.drift > 0.1 {
            warnings.push(format!(
                "the machine drifted over {:.0}% during the campaign; every interval is \
                 widened by that to both sides",
                100.0 * self.drift
            ));
        }
        let is_disturbed = |p: &&Measured| {
            p.row.other_cpu_share.is_some_and(|share| share > DISTURBED_SHARE)
        };
        let disturbed = self.campaign.points.iter().filter(is_disturbed).count();
        if disturbed > 0 {
            warnings.push(format!(
                "during {disturbed} points other programs or the hypervisor took more than \
                 {:.0}% of the CPU time (other_cpu_share in results.csv)",
                100.0 * DISTURBED_SHARE
            ));
        }
    }

    fn missing_rows(&self, faults: &mut Vec<String>) {
        let planned: Option<usize> =
            self.campaign.provenance("planned_rows").and_then(|n| n.parse().ok());
        let rows = self.campaign.row_count;
        let folder = self.campaign.folder.display();
        match planned {
            None => faults.push(format!("{folder}/run.csv does not say how many rows were planned")),
            Some(planned) if rows < planned => faults.push(format!(
                "{rows} of {planned} planned rows are there; finish it with `ridgepoint \
                 measure --resume {folder}`"
            )),
            Some(planned) if rows > planned => faults.push(format!(
                "{rows} rows are there and {planned} were planned: files were mixed or edited"
            )),
            Some(_) => {}
        }
    }
}

/// What the column of derived peaks means.
const DERIVED: &str = "Derived: 2 x memory clock x bus width; multiprocessors x FLOPs per \
                       clock x clock, at the highest clocks that the device reports.";

/// What the table of fits means.
const TRANSFER: &str = "T = a + V / b by least squares of relative errors, over points whose \
                        data come from DRAM, 95% intervals; a decides small sizes.";

/// Fixed cost, bandwidth, its share of the derived peak and the largest residual.
fn transfer_cells(family: &Family, peak: Option<f64>) -> [String; 4] {
    let none = || "-".to_owned();
    match family.fit {
        Some(fit) => [
            interval(fit.fixed_s, 1e6, "us"),
            interval(fit.bytes_per_s, 1e-9, "GB/s"),
            peak.map_or_else(none, |peak| percent(fit.bytes_per_s.value / peak)),
            format!("{:.1}%", 100.0 * fit.worst_residual),
        ],
        None if family.points.len() < transfer::FEWEST_POINTS => {
            let fewest = transfer::FEWEST_POINTS;
            [format!("a line needs {fewest} points"), none(), none(), none()]
        }
        None => ["no line goes through these".to_owned(), none(), none(), none()],
    }
}

impl Limit {
    /// The value with its interval and unit.
    fn text(&self) -> String {
        match self.scale() {
            Some((scale, unit)) => interval(self.value, scale, unit),
            None => format!("{:.1}% from fastest to slowest", 100.0 * self.value.value),
        }
    }

    /// `93% of 3352.3 GB/s`.
    fn share_of(&self, peak: Option<f64>) -> String {
        let (Some(peak), Some((scale, unit))) = (peak, self.scale()) else {
            return "-".to_owned();
        };
        format!("{} of {:.1} {unit}", percent(self.value.value / peak), peak * scale)
    }

    /// Factor and unit in which the value is printed; none for a share.
    fn scale(&self) -> Option<(f64, &'static str)> {
        match self.unit {
            "bytes/s" => Some((1e-9, "GB/s")),
            "flops/s" => Some((1e-9, "GFLOP/s")),
            "flops/byte" => Some((1.0, "FLOP/B")),
            _ => None,
        }
    }
}

fn claims_section(claims: &[Claim]) -> Section {
    let rows = claims.iter().map(|claim| {
        vec![
            claim.statement.to_owned(),
            claim.finding.name().to_owned(),
            claim.evidence.clone(),
        ]
    });
    Section {
        heading: "Verdict".into(),
        columns: vec!["claim", "finding", "evidence"],
        rows: rows.collect(),
        paragraphs: Vec::new(),
    }
}

fn pair_kind(a: &DecodeAttention, b: &DecodeAttention) -> Option<PairKind> {
    let same_flops = DecodeAttention { kv_heads: a.kv_heads, ..*b } == *a;
    let same_bytes = DecodeAttention { q_heads: a.q_heads, ..*b } == *a;
    if same_bytes && b.q_heads == 2 * a.q_heads {
        Some(PairKind::EqualBytes)
    } else if same_flops && b.kv_heads == 2 * a.kv_heads {
        Some(PairKind::EqualFlops)
    } else {
        None
    }
}

/// `memory bound 3, undecided 1`.
fn tally(names: impl Iterator<Item = &'static str>) -> String {
    let mut counts: BTreeMap<&str, usize> = BTreeMap::new();
    for name in names {
        *counts.entry(name).or_default() += 1;
    }
    let parts: Vec<String> = counts.iter().map(|(name, n)| format!("{name} {n}")).collect();
    parts.join(", ")
}

/// For each group size, from how much cache on no point is anything but memory
/// bound, in words. Undecided points count among all and decide nothing.
fn memory_bound_from(points: &[&(&Measured, DecodeAttention, Bound)]) -> Vec<String> {
    let mut groups: BTreeMap<u64, Vec<(u64, DecodeAttention, Bound)>> = BTreeMap::new();
    for (_, shape, bound) in points {
        let kv_bytes = Problem::KvRead(shape.kv()).work().bytes_read;
        groups.entry(shape.group()).or_default().push((kv_bytes, *shape, *bound));
    }
    let sentence = |(group, mut points): (u64, Vec<(u64, DecodeAttention, Bound)>)| {
        let all = points.len();
        points.retain(|(_, _, bound)| *bound != Bound::Undecided);
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

fn percent(share: f64) -> String {
    format!("{:.0}%", 100.0 * share)
}

fn interval(e: Estimate, scale: f64, unit: &str) -> String {
    let e = e.scaled(scale);
    let digits = if e.value < 10.0 { 2 } else { 1 };
    format!("{:.digits$} [{:.digits$}, {:.digits$}] {unit}", e.value, e.lo, e.hi)
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::model::machine::DataSheet;
    use crate::point::Point;
    use crate::record::{Records, Row, Run};
    use crate::roofline::Bandwidth;

    const GB_S: f64 = 1e9;
    /// A machine with a ridge of 10 FLOPs per byte.
    const READ: f64 = 30.0 * GB_S;
    const FLOPS: f64 = 300.0 * GB_S;

    fn shape(rest: &str) -> DecodeAttention {
        let text =
            format!("decode_attention:batch=4,context=4096,head_dim=128,dtype=bf16,{rest}");
        match text.parse() {
            Ok(Problem::DecodeAttention(p)) => p,
            other => panic!("{text}: {other:?}"),
        }
    }

    #[test]
    fn pairs_differ_in_heads_alone() {
        let kind = |a: &str, b: &str| pair_kind(&shape(a), &shape(b)).map(PairKind::name);
        let plain = "q_heads=8,kv_heads=8";
        assert_eq!(kind(plain, "q_heads=16,kv_heads=8"), Some(PairKind::EqualBytes.name()));
        let half = "q_heads=16,kv_heads=4";
        assert_eq!(kind(half, "q_heads=16,kv_heads=8"), Some(PairKind::EqualFlops.name()));
        for other in ["window=64", "new_tokens=2", "lengths=ragged", "kv_dtype=int8"] {
            assert_eq!(
                kind(plain, &format!("q_heads=16,kv_heads=8,{other}")),
                None,
                "{other}"
            );
            let both = kind(
                &format!("{plain},{other}"),
                &format!("q_heads=16,kv_heads=8,{other}"),
            );
            assert_eq!(both, Some(PairKind::EqualBytes.name()), "{other}");
        }
    }

    #[test]
    fn drafts_and_windows_are_no_evidence_of_plain_decoding() {
        assert!(shape("q_heads=8,kv_heads=8,lengths=ragged").is_plain());
        assert!(!shape("q_heads=8,kv_heads=8,window=64").is_plain());
        assert!(!shape("q_heads=8,kv_heads=8,new_tokens=2").is_plain());
        let variant = shape("q_heads=8,kv_heads=8,new_tokens=2,window=64,lengths=ragged");
        assert_eq!(variant.variant(), "2 new tokens, window 64, ragged");
    }

    fn row(problem: &str, time_s: f64, spread: f64) -> Row {
        let problem: Problem = problem.parse().unwrap();
        let point =
            Point { problem, kernel: "k".into(), cache: crate::point::CacheState::Cold };
        Row {
            point_id: point.id(),
            device_kind: "measured".into(),
            op: problem.op().to_string(),
            kernel: "k".into(),
            cache_state: "cold".into(),
            status: Some(Status::Ok),
            problem: problem.to_string(),
            reuse_distance_bytes: Some(1 << 30),
            residency: "dram".into(),
            time_s_median: Some(time_s),
            time_s_ci_lo: Some(time_s * (1.0 - spread)),
            time_s_ci_hi: Some(time_s * (1.0 + spread)),
            ..Row::default()
        }
    }

    fn ceilings() -> Vec<Row> {
        let bytes = (1u64 << 30) as f64;
        let flops = 2.0 * 1024f64.powi(3);
        vec![
            row("stream:access=read,bytes=1 GiB", bytes / READ, 0.0),
            row("gemm:m=1024,n=1024,k=1024,dtype=bf16", flops / FLOPS, 0.0),
        ]
    }

    fn decode(q_heads: u64, kv_heads: u64, share: f64, spread: f64) -> Row {
        let text = format!(
            "decode_attention:batch=8,context=8192,q_heads={q_heads},kv_heads={kv_heads},\
             head_dim=128,dtype=bf16"
        );
        let work = text.parse::<Problem>().unwrap().work();
        let time_s = work.bytes() as f64 / READ / share;
        row(&text, time_s.max(work.flops() as f64 / FLOPS), spread)
    }

    fn judged(mut rows: Vec<Row>, mut run: Run) -> Verdict {
        rows.extend(ceilings());
        if run.get("planned_rows").is_none() {
            run.set("planned_rows", rows.len());
        }
        let records = Records { runs: vec![run], rows };
        judge(&Campaign::from_records(Path::new("x"), records, None).unwrap())
    }

    fn claim<'a>(verdict: &'a Verdict, id: &str) -> &'a Claim {
        verdict.claims.iter().find(|c| c.id == id).unwrap()
    }

    fn findings(rows: Vec<Row>) -> (Finding, Finding) {
        let verdict = judged(rows, Run::default());
        assert!(verdict.is_valid(), "{:?}", verdict.faults);
        (
            claim(&verdict, "decode-memory-bound").finding,
            claim(&verdict, "decode-follows-bytes").finding,
        )
    }

    #[test]
    fn fast_steady_decode_is_memory_bound_and_follows_bytes() {
        let rows =
            [(8, 8), (16, 8), (32, 8), (8, 4)].map(|(q, kv)| decode(q, kv, 0.9, 0.01));
        assert_eq!(findings(rows.to_vec()), (Finding::Supported, Finding::Supported));
    }

    /// A draft past the ridge and a window with a fraction of the bytes, as fast as they
    /// can be, would else count against the claims.
    #[test]
    fn drafts_and_windows_change_no_claim() {
        let mut rows = [(8, 8), (16, 8), (32, 8), (8, 4)]
            .map(|(q, kv)| decode(q, kv, 0.9, 0.01))
            .to_vec();
        for (q_heads, variant) in
            [(64, "new_tokens=8"), (64, "window=64"), (32, "window=64")]
        {
            let text = format!(
                "decode_attention:batch=8,context=8192,q_heads={q_heads},kv_heads=8,\
                 head_dim=128,dtype=bf16,{variant}"
            );
            let work = text.parse::<Problem>().unwrap().work();
            let memory_s = work.bytes() as f64 / READ / 0.9;
            rows.push(row(&text, memory_s.max(work.flops() as f64 / FLOPS / 0.9), 0.01));
        }
        assert_eq!(findings(rows), (Finding::Supported, Finding::Supported));
    }

    #[test]
    fn decode_past_the_ridge_is_not_memory_bound_and_follows_flops() {
        // Groups of 16 and 32: 16 and 32 FLOPs per byte against a ridge of 10.
        let rows = [(128, 8), (256, 8)].map(|(q, kv)| decode(q, kv, 0.9, 0.01));
        assert_eq!(findings(rows.to_vec()), (Finding::Contradicted, Finding::Contradicted));
    }

    #[test]
    fn some_of_both_is_partly() {
        let rows =
            [(8, 8), (16, 8), (128, 8), (256, 8)].map(|(q, kv)| decode(q, kv, 0.9, 0.01));
        let (bound, follows) = findings(rows.to_vec());
        assert_eq!((bound, follows), (Finding::Partly, Finding::Partly));
    }

    #[test]
    fn wide_intervals_decide_nothing() {
        let rows = [(8, 8), (16, 8)].map(|(q, kv)| decode(q, kv, 0.75, 0.3));
        assert_eq!(findings(rows.to_vec()), (Finding::Undecided, Finding::Undecided));
    }

    #[test]
    fn drift_of_the_sentinel_widens_intervals() {
        let mut rows = [(8, 8), (16, 8)].map(|(q, kv)| decode(q, kv, 0.8, 0.001)).to_vec();
        assert_eq!(findings(rows.clone()).0, Finding::Supported);
        for (repeat, time_s) in [(0, 2.147 / 30.0), (1, 1.5 * 2.147 / 30.0)] {
            let sentinel = row("stream:access=read,bytes=2 GiB", time_s, 0.0);
            rows.push(Row { repeat, ..sentinel });
        }
        let verdict = judged(rows, Run::default());
        assert_eq!(claim(&verdict, "decode-memory-bound").finding, Finding::Undecided);
        assert!(verdict.warnings.iter().any(|w| w.contains("drifted over 40%")));
    }

    #[test]
    fn kernels_that_reach_no_roof_are_no_evidence() {
        let slow = decode(32, 8, 0.3, 0.01);
        let rows = vec![decode(8, 8, 0.9, 0.01), decode(16, 8, 0.9, 0.01), slow.clone()];
        assert_eq!(findings(rows), (Finding::Supported, Finding::Supported));
        assert_eq!(findings(vec![slow]), (Finding::NotTested, Finding::NotTested));
    }

    #[test]
    fn what_a_cache_gives_is_no_ceiling() {
        let mut rows = vec![decode(8, 8, 0.9, 0.01)];
        rows.extend(ceilings());
        rows[1].residency = "L3".into();
        let records = Records { runs: vec![], rows };
        let campaign = Campaign::from_records(Path::new("x"), records, None).unwrap();
        assert!(campaign.ceilings.is_none());
        assert!(
            judge(&campaign).sections.iter().all(|s| !s.heading.starts_with("Machine"))
        );
    }

    #[test]
    fn time_between_bytes_and_flops_follows_neither() {
        let e = |value| Estimate { value, lo: value - 0.01, hi: value + 0.01 };
        let of = |kind, value| Follows::of(kind, e(value)).name();
        for (value, equal_bytes, equal_flops) in [
            (0.0, "bytes", "FLOPs"),
            (0.25, "undecided", "undecided"),
            (0.5, "neither", "neither"),
            (1.0, "FLOPs", "bytes"),
        ] {
            assert_eq!(of(PairKind::EqualBytes, value), equal_bytes);
            assert_eq!(of(PairKind::EqualFlops, value), equal_flops);
        }
    }

    #[test]
    fn a_few_unclear_points_do_not_hide_many_that_disagree() {
        assert_eq!(Finding::of(0, 9, 1), Finding::Contradicted);
        assert_eq!(Finding::of(0, 1, 9), Finding::Undecided);
        assert_eq!(Finding::of(9, 0, 1), Finding::Partly);
    }

    #[test]
    fn times_that_are_none_are_refused() {
        for time in [0.0, -1.0, f64::NAN, f64::INFINITY] {
            let mut row = decode(8, 8, 0.9, 0.01);
            row.time_s_median = Some(time);
            let records = Records { runs: vec![], rows: vec![row] };
            assert!(
                Campaign::from_records(Path::new("x"), records, None).is_err(),
                "{time}"
            );
        }
        let twice = vec![decode(8, 8, 0.9, 0.01), decode(8, 8, 0.9, 0.01)];
        let records = Records { runs: vec![], rows: twice };
        assert!(Campaign::from_records(Path::new("x"), records, None).is_err());
    }

    #[test]
    fn points_in_a_cache_do_not_count() {
        let mut in_cache = decode(8, 8, 0.9, 0.01);
        in_cache.residency = "L3".into();
        assert_eq!(findings(vec![in_cache]), (Finding::NotTested, Finding::NotTested));
    }

    #[test]
    fn slow_kernels_are_told_from_slow_memory_and_from_launches() {
        let bound_of = |launch_overhead_s: f64| {
            let mut run = Run::default();
            run.set("launch_overhead_s", launch_overhead_s);
            let verdict = judged(vec![decode(8, 8, 0.3, 0.01)], run);
            let section = verdict.sections.iter().find(|s| s.heading == "Decode attention");
            section.unwrap().rows[0].last().unwrap().clone()
        };
        assert_eq!(bound_of(1e-6), Bound::Kernel.name());
        assert_eq!(bound_of(0.1), Bound::Latency.name());
    }

    #[test]
    fn ridge_is_compute_over_read() {
        let verdict = judged(vec![], Run::default());
        let machine =
            verdict.sections.iter().find(|s| s.heading.starts_with("Machine")).unwrap();
        let ridge = machine.rows.iter().find(|row| row[0] == "bf16 ridge").unwrap();
        assert_eq!(ridge[1], "10.0 [10.0, 10.0] FLOP/B");
    }

    #[test]
    fn lines_through_read_streams_are_told_with_what_they_rest_on() {
        let streams = |kernel: &str, fixed_s: f64, count: u32| -> Vec<Row> {
            let make = |e: u32| {
                let problem = format!("stream:access=read,bytes={} MiB", 256 << e);
                let bytes = (256u64 << e << 20) as f64;
                let row = row(&problem, fixed_s + bytes / READ, 0.001);
                Row { kernel: kernel.into(), point_id: format!("{kernel} {e}"), ..row }
            };
            (0..count).map(make).collect()
        };
        let mut rows = streams("stream", 1e-3, 5);
        rows.extend(streams("stream_bulk", 2e-3, 3));
        let records = Records { runs: vec![clocked()], rows };
        let campaign = Campaign::from_records(Path::new("x"), records, None).unwrap();
        let verdict = judge(&campaign);
        let section = verdict
            .sections
            .iter()
            .find(|s| s.heading.starts_with("Time against"))
            .unwrap();
        let row = |at: usize| section.rows[at].join("|");
        assert_eq!(
            row(0),
            "stream|stream|read|5|1000.0 [1000.0, 1000.0] us|30.0 [30.0, 30.0] GB/s|97%|0.0%"
        );
        assert_eq!(row(1), "stream|stream_bulk|read|3|a line needs 4 points|-|-|-");
        // The ceiling is the best of both kernels at the largest working set.
        let limit = &verdict.limits[0];
        assert_eq!(
            (limit.id.as_str(), limit.from.as_str()),
            ("dram_read_bandwidth", "stream")
        );
        assert!(judged(vec![], Run::default()).sections.len() > 2);
    }

    /// What a driver reports of a device whose clocks allow 31 GB/s and 320
    /// GFLOP/s in bf16, a little more than the ceilings of these tests.
    fn clocked() -> Run {
        let mut run = Run::default();
        for (name, value) in [
            ("device", "NVIDIA Test"),
            ("compute_capability", "8.0"),
            ("sm_count", "1"),
            ("sm_clock_max_hz", "156250000"),
            ("memory_clock_max_hz", "1937500000"),
            ("memory_bus_bits", "64"),
        ] {
            run.set(name, value);
        }
        run
    }

    fn machine_section(verdict: &Verdict) -> &Section {
        verdict.sections.iter().find(|s| s.heading.starts_with("Machine")).unwrap()
    }

    #[test]
    fn limits_stand_beside_what_clocks_and_data_sheet_promise() {
        let unknown = judged(vec![], Run::default());
        let columns = ["limit", "value (95% interval)", "from"];
        assert_eq!(machine_section(&unknown).columns, columns);
        assert!(machine_section(&unknown).paragraphs.is_empty());

        let mut run = clocked();
        run.set("planned_rows", 2);
        let records = Records { runs: vec![run], rows: ceilings() };
        let sheet = DataSheet {
            machine: "test".into(),
            source: "https://example.org".into(),
            peaks: Peaks { bandwidth: Bandwidth::flat(40e9), compute: vec![] },
        };
        let campaign =
            Campaign::from_records(Path::new("x"), records, Some(sheet)).unwrap();
        let verdict = judge(&campaign);
        assert!(verdict.is_valid(), "{:?}", verdict.faults);
        let section = machine_section(&verdict);
        assert_eq!(section.columns[2..4], ["of derived", "of data sheet"]);
        let cells = |row: usize| section.rows[row][2..4].to_vec();
        assert_eq!(cells(0), ["97% of 31.0 GB/s", "75% of 40.0 GB/s"]);
        assert_eq!(cells(1), ["94% of 320.0 GFLOP/s", "-"]);
        assert_eq!(cells(2), ["97% of 10.3 FLOP/B", "-"]);
        assert!(section.paragraphs[1].contains("test, https://example.org"));
        assert!(section.rows.iter().all(|row| row.len() == section.columns.len()));
    }

    /// Faults of a campaign whose row `index` is faster by `factor`.
    fn faster(mut run: Run, index: usize, factor: f64, residency: &str) -> Vec<String> {
        let mut rows = ceilings();
        rows.push(decode(8, 8, 0.9, 0.0));
        let row = &mut rows[index];
        for time in [&mut row.time_s_median, &mut row.time_s_ci_lo, &mut row.time_s_ci_hi] {
            *time = time.map(|t| t / factor);
        }
        row.residency = residency.into();
        run.set("planned_rows", rows.len());
        let records = Records { runs: vec![run], rows };
        judge(&Campaign::from_records(Path::new("x"), records, None).unwrap()).faults
    }

    #[test]
    fn bytes_faster_than_the_memory_are_a_fault() {
        // 30 GB/s of the 31 that the clock allows.
        assert_eq!(faster(clocked(), 0, 1.0, "dram"), [""; 0]);
        assert_eq!(faster(clocked(), 0, 1.05, "dram"), [""; 0], "within 2%");
        let faults = faster(clocked(), 0, 1.07, "dram");
        assert!(
            faults.len() == 1 && faults[0].contains("read ceiling of 32.1 GB/s"),
            "{faults:?}"
        );
        assert!(faults[0].contains("104% of the 31.0 GB/s"), "{faults:?}");
        assert_eq!(faster(Run::default(), 0, 1.07, "dram"), [""; 0], "nothing is derived");

        // 27 GB/s by a kernel that is no ceiling.
        let faults = faster(clocked(), 2, 1.2, "dram");
        assert!(faults.len() == 1 && faults[0].contains("moved 32.4 GB/s"), "{faults:?}");
        assert_eq!(faster(clocked(), 2, 1.2, "L2"), [""; 0], "a cache may be faster");
    }

    #[test]
    fn what_a_cache_can_keep_of_a_rotation_is_granted() {
        let with_cache = |bytes: u64| {
            let mut run = clocked();
            run.set("l2_bytes", bytes);
            faster(run, 2, 1.2, "dram")
        };
        // 3% of the rotation of 1 GiB leaves 31.4 of 32.4 GB/s, within 2%.
        assert_eq!(with_cache((1 << 30) * 3 / 100), [""; 0]);
        assert_eq!(with_cache((1 << 30) / 100).len(), 1);
    }

    #[test]
    fn flops_faster_than_the_multiprocessors_are_a_fault() {
        assert_eq!(faster(clocked(), 1, 1.08, "dram"), [""; 0], "within 2%");
        let faults = faster(clocked(), 1, 1.1, "L2");
        assert!(
            faults.len() == 1 && faults[0].contains("103% of the 0.32 TFLOP/s"),
            "{faults:?}"
        );
        let mut board = Run::default();
        for (name, value) in clocked().fields() {
            let is_name = name == "device";
            board.set(name, if is_name { "NVIDIA RTX Test" } else { value.as_str() });
        }
        assert_eq!(faster(board, 1, 1.1, "L2"), [""; 0], "boards boost");
    }

    #[test]
    fn a_refused_data_sheet_is_said() {
        let records = Records { runs: vec![Run::default()], rows: ceilings() };
        let campaign = Campaign::from_records(Path::new("x"), records, None).unwrap();
        let refused = Some("the name says h100-sxm".to_owned());
        let verdict = judge(&Campaign { spec_refused: refused, ..campaign });
        assert!(verdict.warnings.iter().any(|w| w.contains("says h100-sxm")));
    }

    #[test]
    fn what_spoils_a_run_is_a_fault() {
        let spoiled = |change: &dyn Fn(&mut Row)| {
            let mut row = decode(8, 8, 0.9, 0.01);
            change(&mut row);
            judged(vec![row], Run::default()).faults.join(" ")
        };
        assert_eq!(spoiled(&|_| ()), "");
        assert_eq!(spoiled(&|r| r.status = Some(Status::Noisy)), "");
        assert_eq!(spoiled(&|r| r.status = Some(Status::Skipped)), "");
        assert!(spoiled(&|r| r.status = Some(Status::Wrong)).contains("wrong output"));
        assert!(spoiled(&|r| r.status = Some(Status::Failed)).contains("failed"));
        let halve = |x: &mut Option<f64>| *x = x.map(|t| t / 2.0);
        let too_fast = spoiled(&|r| {
            halve(&mut r.time_s_median);
            halve(&mut r.time_s_ci_lo);
            halve(&mut r.time_s_ci_hi);
        });
        assert!(too_fast.contains("impossible"), "{too_fast}");
        let mut run = Run::default();
        run.set("planned_rows", 7);
        let short = judged(vec![], run).faults.join(" ");
        assert!(short.contains("2 of 7 planned rows"), "{short}");
    }

    #[test]
    fn nothing_measured_is_no_panic_and_not_tested() {
        let records = Records { runs: vec![], rows: vec![] };
        let campaign = Campaign::from_records(Path::new("x"), records, None).unwrap();
        let verdict = judge(&campaign);
        assert!(verdict.claims.iter().all(|c| c.finding == Finding::NotTested));
        assert!(verdict.warnings.iter().any(|w| w.contains("no read stream")));
        assert!(!verdict.is_valid(), "nothing says that nothing was planned");
    }
}

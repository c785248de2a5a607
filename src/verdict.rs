//! Claims against records: what the measured machine's limits are, how close
//! each operation came, and whether decode attention is memory bound.
//!
//! A claim may fail on a machine; that is a finding and no fault. What makes a
//! run invalid are wrong outputs, failed launches, missing rows and times that
//! beat the measured ceilings by more than the noise allows.

use std::collections::BTreeMap;

use crate::analysis::{Campaign, Measured};
use crate::problem::{DecodeAttention, Op, Problem};
use crate::record::Status;
use crate::roofline::Resource;
use crate::section::Section;
use crate::statistics::Estimate;

/// Share of a roof from which on that roof counts as what limits a kernel.
/// Below it, something else costs more than 30% of the time.
pub const BOUND_SHARE: f64 = 0.7;

/// Share of the roof above which a time is no longer noise but impossible.
pub const IMPOSSIBLE_SHARE: f64 = 1.25;

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
    /// No point agrees.
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
            (0, _, 0) => Finding::Contradicted,
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

/// Everything that the records of one campaign say.
#[derive(Clone, Debug)]
pub struct Verdict {
    /// The claims.
    pub claims: Vec<Claim>,
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
    let mut sections = vec![claims_section(&claims), judge.machine_section()];
    sections.extend([judge.regime_section(), judge.decode_section(), judge.pair_section()]);
    sections.retain(|section| !section.rows.is_empty());
    let (faults, warnings) = judge.validity();
    Verdict { claims, sections, faults, warnings }
}

/// Two decode points that differ in one thing.
struct Pair<'a> {
    kind: PairKind,
    low: &'a Measured,
    high: &'a Measured,
    /// log2 of the ratio of times: 0 when time did not move, 1 when it doubled.
    elasticity: Estimate,
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

impl Pair<'_> {
    /// Whether time follows bytes in this pair; `None` when it cannot be told.
    fn follows_bytes(&self) -> Option<bool> {
        let e = self.elasticity;
        let (flat, steep) = (FLAT, 1.0 - FLAT);
        match self.kind {
            PairKind::EqualBytes if e.hi <= flat => Some(true),
            PairKind::EqualBytes if e.lo > flat => Some(false),
            PairKind::EqualFlops if e.lo >= steep => Some(true),
            PairKind::EqualFlops if e.hi < steep => Some(false),
            _ => None,
        }
    }
}

struct Judge<'a> {
    campaign: &'a Campaign,
    /// Relative error that samples of one point cannot show: drift between
    /// points, as the sentinel saw it.
    drift: f64,
    /// Relative half-width of the read ceiling.
    ceiling_error: f64,
    launch_overhead_s: f64,
}

impl<'a> Judge<'a> {
    fn new(campaign: &'a Campaign) -> Self {
        Judge {
            campaign,
            drift: campaign.sentinel.as_ref().map_or(0.0, |s| s.drift()),
            ceiling_error: campaign
                .ceilings
                .as_ref()
                .map_or(0.0, |c| c.read.rate.half_width()),
            launch_overhead_s: campaign
                .provenance("launch_overhead_s")
                .and_then(|text| text.parse().ok())
                .unwrap_or(0.0),
        }
    }

    /// A share of a roof with everything that may be off about it.
    fn share(&self, share: Option<Estimate>) -> Option<Estimate> {
        Some(share?.widened(self.drift + self.ceiling_error))
    }

    fn bound(&self, point: &Measured) -> Option<Bound> {
        let time_s = point.time_s?.value;
        let memory = self.share(point.memory_fraction())?;
        let compute = self.share(point.compute_fraction());
        let reaches = |e: Estimate| e.lo >= BOUND_SHARE;
        let misses = |e: Estimate| e.hi < BOUND_SHARE;
        Some(match (reaches(memory), compute.is_some_and(reaches)) {
            (true, true) => Bound::Ridge,
            (true, false) => Bound::Memory,
            (false, true) => Bound::Compute,
            _ if self.launch_overhead_s > 0.5 * time_s => Bound::Latency,
            _ if misses(memory) && compute.is_some_and(misses) => Bound::Kernel,
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

    /// The decode points that the claims are about: from DRAM, measured.
    fn decode_from_dram(&self) -> Vec<(&'a Measured, DecodeAttention, Bound)> {
        self.decode()
            .filter(|(point, _)| point.row.residency == "dram")
            .filter_map(|(point, shape)| Some((point, shape, self.bound(point)?)))
            .collect()
    }

    fn memory_bound_claim(&self) -> Claim {
        let points = self.decode_from_dram();
        let count =
            |f: &dyn Fn(Bound) -> bool| points.iter().filter(|(_, _, b)| f(*b)).count();
        // A kernel that reaches no roof says nothing about the hardware.
        let agree = count(&|b| matches!(b, Bound::Memory | Bound::Ridge));
        let disagree = count(&|b| matches!(b, Bound::Compute | Bound::Latency));
        let undecided = points.len() - agree - disagree;
        let mut by_group: BTreeMap<u64, (usize, usize)> = BTreeMap::new();
        for (_, shape, bound) in &points {
            let entry = by_group.entry(shape.group()).or_default();
            entry.0 += usize::from(matches!(bound, Bound::Memory | Bound::Ridge));
            entry.1 += 1;
        }
        let groups: Vec<String> = by_group
            .iter()
            .map(|(group, (memory, all))| format!("group {group}: {memory} of {all}"))
            .collect();
        let mut evidence = match points.is_empty() {
            true => "no decode attention point was measured from DRAM under a read ceiling"
                .into(),
            false => format!(
                "{agree} of {} points from DRAM reach {:.0}% of read bandwidth ({})",
                points.len(),
                100.0 * BOUND_SHARE,
                groups.join(", ")
            ),
        };
        if let Some(from) = memory_bound_from(&points) {
            evidence.push_str(&format!("; memory bound: {from}"));
        }
        Claim {
            id: "decode-memory-bound",
            statement: "Decode attention is memory bound.",
            finding: Finding::of(agree, disagree, undecided),
            evidence,
        }
    }

    fn follows_bytes_claim(&self) -> Claim {
        let pairs = self.pairs();
        let count = |answer| pairs.iter().filter(|p| p.follows_bytes() == answer).count();
        let (agree, disagree) = (count(Some(true)), count(Some(false)));
        let summary = |kind: PairKind| {
            let mut e: Vec<f64> = pairs
                .iter()
                .filter(|pair| pair.kind == kind)
                .map(|pair| pair.elasticity.value)
                .collect();
            e.sort_by(f64::total_cmp);
            match (e.first(), e.last()) {
                (Some(low), Some(high)) => format!(
                    "{} pairs of {}: time x {:.2} to {:.2}",
                    e.len(),
                    kind.name(),
                    low.exp2(),
                    high.exp2()
                ),
                _ => format!("no pairs of {}", kind.name()),
            }
        };
        Claim {
            id: "decode-follows-bytes",
            statement: "Decode attention's time follows its bytes and not its FLOPs.",
            finding: Finding::of(agree, disagree, pairs.len() - agree - disagree),
            evidence: format!(
                "{}; {}; {agree} of {} follow bytes",
                summary(PairKind::EqualBytes),
                summary(PairKind::EqualFlops),
                pairs.len()
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
                pairs.push(Pair { kind, low, high, elasticity });
            }
        }
        pairs
    }

    fn machine_section(&self) -> Section {
        let mut rows = Vec::new();
        let mut add =
            |name: String, value: String, from: String| rows.push(vec![name, value, from]);
        if let Some(ceilings) = &self.campaign.ceilings {
            add(
                "DRAM read bandwidth".into(),
                interval(ceilings.read.rate, 1e-9, "GB/s"),
                ceilings.read.kernel.clone(),
            );
            for (dtype, ceiling) in &ceilings.compute {
                add(
                    format!("{dtype} compute"),
                    interval(ceiling.rate, 1e-9, "GFLOP/s"),
                    ceiling.kernel.clone(),
                );
                if let Some(ridge) = ceilings.ridge(*dtype) {
                    let value = interval(ridge, 1.0, "FLOP/B");
                    add(format!("{dtype} ridge"), value, "compute / read".into());
                }
            }
        }
        if let Some(sentinel) = &self.campaign.sentinel {
            add(
                "drift".into(),
                format!("+-{:.1}%", 100.0 * sentinel.drift()),
                format!("{} repeats of the sentinel", sentinel.times_s.len()),
            );
        }
        Section {
            heading: "Machine, as measured".into(),
            columns: vec!["limit", "value (95% interval)", "from"],
            rows,
            paragraphs: Vec::new(),
        }
    }

    fn regime_section(&self) -> Section {
        type Regime = (Op, &'static str, String);
        let mut regimes: BTreeMap<Regime, Vec<f64>> = BTreeMap::new();
        for point in &self.campaign.points {
            let (Some(roof), Some(fraction)) = (point.empirical, point.fraction()) else {
                continue;
            };
            let key =
                (point.problem.op(), roof.binding().name(), point.row.residency.clone());
            regimes.entry(key).or_default().push(fraction.value);
        }
        let rows = regimes
            .into_iter()
            .map(|((op, roof, residency), mut fractions)| {
                fractions.sort_by(f64::total_cmp);
                let at = |p| percent(crate::statistics::quantile(&fractions, p));
                vec![
                    op.to_string(),
                    roof.to_owned(),
                    residency,
                    fractions.len().to_string(),
                    at(0.5),
                    at(0.0),
                    at(1.0),
                ]
            })
            .collect();
        Section {
            heading: "Share of the binding roof reached".into(),
            columns: vec!["op", "roof", "data in", "points", "median", "least", "most"],
            rows,
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
                let share = self.share(point.memory_fraction())?;
                Some(vec![
                    p.batch.to_string(),
                    p.context.to_string(),
                    format!("{}/{}", p.q_heads, p.kv_heads),
                    p.kv_dtype.to_string(),
                    p.layout.to_string(),
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
            let (batch, context) = match pair.low.problem {
                Problem::DecodeAttention(p) => (p.batch, p.context),
                _ => (0, 0),
            };
            let e = pair.elasticity;
            vec![
                pair.kind.name().to_owned(),
                batch.to_string(),
                context.to_string(),
                format!("{} -> {}", heads(pair.low), heads(pair.high)),
                format!("{:.2} [{:.2}, {:.2}]", e.value.exp2(), e.lo.exp2(), e.hi.exp2()),
                match pair.follows_bytes() {
                    Some(true) => "yes",
                    Some(false) => "no",
                    None => "undecided",
                }
                .to_owned(),
            ]
        });
        Section {
            heading: "Does decode's time follow bytes?".into(),
            columns: vec![
                "pair",
                "batch",
                "context",
                "q/kv heads",
                "time ratio",
                "follows bytes",
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
                && let Some(share) = self.share(point.fraction())
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
        if self.campaign.ceilings.is_none() {
            warnings
                .push("no read stream was measured: shares of roofs are unknown".into());
        }
        if self.drift > 0.1 {
            warnings.push(format!(
                "the machine drifted by +-{:.0}% during the campaign; every interval is \
                 widened by that",
                100.0 * self.drift
            ));
        }
        (faults, warnings)
    }

    fn missing_rows(&self, faults: &mut Vec<String>) {
        let planned: Option<usize> =
            self.campaign.provenance("planned_rows").and_then(|n| n.parse().ok());
        let rows = self.campaign.row_count;
        if let Some(planned) = planned
            && rows != planned
        {
            let folder = self.campaign.folder.display();
            faults.push(format!(
                "{rows} of {planned} planned rows are there; finish it with `ridgepoint \
                 measure --resume {folder}`"
            ));
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
    if a.kv() == b.kv() && a.dtype == b.dtype && b.q_heads == 2 * a.q_heads {
        Some(PairKind::EqualBytes)
    } else if same_flops && b.kv_heads == 2 * a.kv_heads {
        Some(PairKind::EqualFlops)
    } else {
        None
    }
}

/// For each group size, from which batch and context on all points are memory
/// bound, in words. Points whose kernel reaches no roof are left out.
fn memory_bound_from(points: &[(&Measured, DecodeAttention, Bound)]) -> Option<String> {
    let mut groups: Vec<u64> = points.iter().map(|(_, p, _)| p.group()).collect();
    groups.sort_unstable();
    groups.dedup();
    let of_group = |group: u64| {
        let mut of_group: Vec<_> = points
            .iter()
            .filter(|(_, p, bound)| p.group() == group && *bound != Bound::Kernel)
            .collect();
        of_group.sort_by_key(|(_, p, _)| p.batch * p.context * p.kv_heads);
        let is_memory = |b: &Bound| matches!(b, Bound::Memory | Bound::Ridge);
        let bad = of_group.iter().rposition(|(_, _, bound)| !is_memory(bound));
        let (_, first, _) = of_group.get(bad.map_or(0, |i| i + 1))?;
        Some(format!(
            "group {group} from batch {} x context {} on",
            first.batch, first.context
        ))
    };
    let parts: Vec<String> = groups.into_iter().filter_map(of_group).collect();
    (!parts.is_empty()).then(|| parts.join(", "))
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
    use crate::point::Point;
    use crate::record::{Records, Row, Run};

    const GB_S: f64 = 1e9;
    /// A machine with a ridge of 10 FLOPs per byte.
    const READ: f64 = 30.0 * GB_S;
    const FLOPS: f64 = 300.0 * GB_S;

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

    fn judged(mut rows: Vec<Row>, run: Run) -> Verdict {
        rows.extend(ceilings());
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
        let mut sentinel = row("stream:access=read,bytes=2 GiB", 2.147 / 30.0, 0.0);
        rows.push(sentinel.clone());
        sentinel.time_s_median = sentinel.time_s_median.map(|t| 1.5 * t);
        sentinel.repeat = 1;
        rows.push(sentinel);
        let verdict = judged(rows, Run::default());
        assert_eq!(claim(&verdict, "decode-memory-bound").finding, Finding::Undecided);
        assert!(verdict.warnings.iter().any(|w| w.contains("drifted by +-20%")));
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
    }
}

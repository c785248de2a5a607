//! Claims against records: what the measured machine's limits are, how close
//! each operation came, whether decode attention is memory bound, and what the times
//! of linear layers, experts, latent attention and quantized numbers follow.
//!
//! A claim may fail on a machine; that is a finding and no fault. What makes a
//! run invalid are wrong outputs, failed launches, missing rows and times that
//! beat the measured ceilings by more than the noise allows, or that beat what
//! the device's clocks allow.

use std::collections::BTreeMap;

mod pairs;

pub use pairs::TELLING;

use crate::analysis::{Campaign, Ceiling, Measured};
use crate::model::derived;
use crate::op::{DecodeAttention, Op, Problem};
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

/// Elasticity of time, 0 where it follows bytes and 1 where it follows FLOPs, up to
/// which it follows bytes, and from `1 - FLAT` on FLOPs.
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
    let pairs = judge.pairs();
    let mut claims = vec![judge.memory_bound_claim()];
    claims.extend(judge.pair_claims(&pairs));
    let limits = judge.limits();
    let mut sections = vec![claims_section(&claims), judge.limits_section(&limits)];
    sections.push(judge.transfer_section());
    sections.extend([
        judge.regime_section(),
        judge.decode_section(),
        judge.pair_section(&pairs),
        judge.knee_section(),
    ]);
    sections.retain(|section| !section.rows.is_empty());
    let (faults, warnings) = judge.validity();
    Verdict { claims, limits, sections, faults, warnings }
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
mod tests;

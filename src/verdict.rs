//! Claims against records: what the measured machine's limits are, how close
//! each operation came, whether decode attention is memory bound, and what the times
//! of linear layers, experts, latent attention and quantized formats follow.
//!
//! A claim may fail on a machine; that is a finding, not a fault. What makes a
//! run invalid are wrong outputs, values that cannot be read, failed launches,
//! missing rows and times that beat the measured ceilings by more than the noise
//! allows, or that beat what the device's clocks allow.

mod beyond;
mod claims;
mod decode;
mod elasticities;
mod evidence;
mod knees;
mod limits;
mod nodes;
mod pair_claims;
mod pairs;
mod peers;
mod probes;
mod quantities;
mod records;
mod shares;
mod steps;
mod validity;
mod witnesses;

pub use claims::Claim;
pub use evidence::Counts;
pub use pairs::TELLING;
pub use peers::{PEERS_HEADING, PeerRatio};
pub use shares::BoundBy;

pub use crate::analysis::DISTURBED_SHARE;
use crate::analysis::{Campaign, Candidate, Doubt, FlopsPerClock};
pub use crate::claims::Finding;
use crate::claims::{self as table, ClaimEntry};
use crate::compare::{self, Rules};
use crate::device::DeviceKind;
use crate::quantity;
use crate::residency::Residency;
use crate::section::Section;
use crate::statistics::Estimate;

/// Share of a roof from which on that roof counts as what limits a kernel.
/// Below it, something else costs more than 30% of the time.
pub const BOUND_SHARE: f64 = 0.7;

/// Share of the roof above which a time is no longer noise but impossible.
pub const IMPOSSIBLE_SHARE: f64 = 1.25;

/// How far from 0, where time follows bytes, and from 1, where it follows FLOPs, the
/// elasticity of time may lie with its whole interval. Beyond that to either side it
/// follows neither.
pub const FLAT: f64 = 0.25;

/// One of the machine's measured limits.
#[derive(Clone, Debug, PartialEq)]
pub struct MachineLimit {
    /// Short stable name: `dram_read_bandwidth`, `bf16_compute`, `bf16_ridge`,
    /// `drift`.
    pub id: String,
    /// Value with its interval.
    pub value: Estimate,
    /// SI unit without prefix.
    pub unit: &'static str,
    /// The kernel that reached it and its problem, or what it was computed from.
    pub from: String,
    /// The same as it follows from the device's highest clocks, where those are known.
    pub derived: Option<f64>,
    /// The same at the clock that was measured with it.
    pub derived_at_clock: Option<f64>,
    /// The same by the data sheet, where there is one.
    pub spec: Option<f64>,
    /// FLOPs of a clock and multiprocessor at that clock; `None` for what is no rate of a
    /// GPU's arithmetic.
    pub flops_per_clock: Option<FlopsPerClock>,
    /// Bytes of a clock and multiprocessor at that clock; `None` for what is no rate of a GPU's
    /// cache.
    pub bytes_per_clock: Option<f64>,
    /// Whether points are judged by it, unless there is a doubt.
    pub is_ceiling: bool,
    /// Why nothing can be judged by it.
    pub doubt: Option<Doubt>,
    /// The best of each kernel, best first; empty for what is no rate.
    pub candidates: Vec<Candidate>,
}

/// Everything that the records of one campaign say.
#[derive(Clone, Debug)]
pub struct Verdict {
    /// The claims.
    pub claims: Vec<Claim>,
    /// The machine's measured limits.
    pub limits: Vec<MachineLimit>,
    /// Own kernels beside other libraries'.
    pub peers: Vec<PeerRatio>,
    /// Whether the times are measurements: simulated where one of them is not.
    pub device_kind: DeviceKind,
    /// Tables, in the order to print: the claims and the limits as people read them, then
    /// tables of data.
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

    /// The tables of data: what is no claim and no limit.
    pub fn tables(&self) -> impl Iterator<Item = &Section> {
        // Of a simulated campaign, headings say so at their ends.
        let is_data = |section: &&Section| {
            !TEXT_HEADINGS.iter().any(|heading| section.heading.starts_with(heading))
        };
        self.sections.iter().filter(is_data)
    }
}

/// Judges a campaign by the built-in claims.
pub fn judge(campaign: &Campaign) -> Verdict {
    // A test reads the tables of the program.
    let entries: Vec<&ClaimEntry> = table::built_in().unwrap_or_default().iter().collect();
    judge_by(campaign, &entries)
}

/// Judges a campaign by these claims.
pub fn judge_by(campaign: &Campaign, entries: &[&ClaimEntry]) -> Verdict {
    let judge = Judge::new(campaign);
    let pairs = judge.pairs();
    let (claims, elsewhere) = judge.claims(entries, &pairs);
    let limits = judge.limits();
    let mut sections = vec![
        judge.claims_section(&claims, elsewhere),
        judge.limits_section(&limits),
        judge.evidence_section(&claims),
    ];
    sections.push(compare::nodes_section(campaign, Rules::default()));
    sections.extend(judge.probe_section());
    sections.push(judge.line_section());
    let kernels = judge.kernel_points();
    sections.extend([
        judge.regime_section(),
        judge.decode_section(),
        judge.elasticity_section(&kernels),
        judge.change_section(&kernels),
        judge.sweep_section(&kernels),
        judge.pair_section(&pairs),
        judge.knee_section(),
    ]);
    sections.extend(judge.step_sections());
    sections.extend(judge.peer_sections());
    sections.extend(judge.witness_section());
    sections.retain(|section| !section.rows.is_empty());
    let (faults, mut warnings) = match campaign.nodes.is_empty() {
        true => judge.validity(),
        false => judge.validity_of_nodes(),
    };
    if campaign.is_simulated() {
        sections.iter_mut().for_each(Section::mark_simulated);
        warnings.insert(0, SIMULATED.to_owned());
    }
    warnings.extend(judge.foreign_counters());
    let peers = judge.peer_ratios();
    let device_kind = match campaign.is_simulated() {
        true => DeviceKind::Simulated,
        false => DeviceKind::Measured,
    };
    Verdict { claims, limits, peers, device_kind, sections, faults, warnings }
}

/// What is said of a campaign none of whose times is a measurement.
pub const SIMULATED: &str = "SIMULATED: these times were made up or counted, not measured; \
                             nothing here says how fast anything is";

/// Headings of the tables of claims, of limits and of what claims rest on, which have
/// sentences.
const TEXT_HEADINGS: [&str; 3] = [CLAIMS_HEADING, LIMITS_HEADING, EVIDENCE_HEADING];
const CLAIMS_HEADING: &str = "Verdict";
const LIMITS_HEADING: &str = "Machine, as measured";
const EVIDENCE_HEADING: &str = "What the claims rest on";

struct Judge<'a> {
    campaign: &'a Campaign,
    /// Relative error of the ratio of two times taken at different moments: the
    /// whole range of the sentinel, since each may be at another end of it.
    drift: f64,
    /// Seconds that launching takes, no more than the shortest launch took.
    launch_overhead_s: f64,
}

impl<'a> Judge<'a> {
    fn new(campaign: &'a Campaign) -> Self {
        let probed_s = campaign.launch_overhead_s();
        Judge {
            campaign,
            // Rounds are spread over the campaign: their intervals contain the drift.
            drift: match &campaign.repeatability {
                Some(_) => 0.0,
                None => campaign.sentinel.as_ref().map_or(0.0, |s| s.drift()),
            },
            launch_overhead_s: probed_s.min(shortest_launch_s(campaign)),
        }
    }
}

/// The least time of any launch. None is shorter than launching alone, so a probe of the
/// launch that took longer was disturbed.
fn shortest_launch_s(campaign: &Campaign) -> f64 {
    // Libraries' kernels are launched otherwise.
    let times_s = campaign.own_points().filter_map(|point| Some(point.time_s?.value));
    times_s.fold(f64::INFINITY, f64::min)
}

/// The cell of a table; empty for a point that was not laid out.
fn residency_cell(residency: Option<Residency>) -> String {
    residency.map_or(String::new(), |residency| residency.to_string())
}

/// `1 point is`, `2 points are`: a count with the form that agrees with it.
fn counted(count: usize, one: &str, many: &str) -> String {
    format!("{count} {}", if count == 1 { one } else { many })
}

fn percent(share: f64) -> String {
    format!("{:.0}%", 100.0 * share)
}

/// The three cells of a value with its interval; empty where there is none.
fn cells(e: Option<Estimate>) -> [String; 3] {
    e.map_or_else(Default::default, |e| [e.value, e.lo, e.hi].map(|x| x.to_string()))
}

/// A number's cell, empty where there is none.
fn cell(value: Option<f64>) -> String {
    value.map_or(String::new(), |value| value.to_string())
}

/// As [`quantity::interval`].
fn interval(e: Estimate, unit: &str) -> String {
    quantity::interval([e.value, e.lo, e.hi], unit)
}

/// `39% to 52%`, or `39%` where both ends read the same.
fn range_text(lo: &str, hi: &str) -> String {
    if lo == hi { lo.to_owned() } else { format!("{lo} to {hi}") }
}

#[cfg(test)]
mod tests;
#[cfg(test)]
mod truth_table;

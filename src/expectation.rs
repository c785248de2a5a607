//! Times to expect of memory-bound launches on a GPU: the constants of
//! [`crate::model::launch`], measured ones of a campaign in place of assumed ones where it has
//! them, and what the records of a campaign say of them.
//!
//! * **Bandwidth** is that of the campaign's largest streams, by the share of bytes that the
//!   kernel writes. Without streams from DRAM it is assumed: a share of the data sheet's.
//! * **Fixed cost** is the `a` of the line `T = a + V / b` ([`crate::line_fit`]) through the
//!   campaign's points of the same kernel and shape; where these are too few for a line, the
//!   median `a` of the kernel's lines, then the least of the streams', which fill no stages
//!   and combine nothing; else assumed.
//! * **Launch** is the campaign's empty launch in the mode that is asked for: what a fixed cost
//!   has of an empty launch in the line's own mode is taken out, and this one put in.
//! * **Latency** of DRAM is assumed always: large reads do not show it.
//!
//! The `b` of a line is not used: the expectation says what a launch would take at the
//! machine's bandwidth, and a kernel whose lines approach less is told apart by that.

use crate::analysis::{Campaign, Measured};
use crate::kernel::{Plan, split_name};
use crate::line_fit::{self, Fit, LineFamily};
use crate::model::launch::{
    Constants, EMPTY_LAUNCH_S, EMPTY_NODE_S, EMPTY_OVERLAPPED_S, FIXED_S, Traffic,
};
use crate::op::{Access, Problem};
use crate::point::LaunchMode;
use crate::resource::Work;
use crate::roofline::{Bandwidth, Curve};
use crate::statistics::median;

pub mod records;

/// Working sets of streams that count as DRAM's, in capacities of the last-level cache.
const CACHES: u64 = 2;

/// Share of written bytes up to which the bandwidth of writes does not matter: a hundredth of
/// the bytes at half the rate is a hundredth of the time.
const FEW_WRITES: f64 = 0.01;

/// What launches cost on a GPU.
#[derive(Clone, Debug)]
pub struct LaunchCosts {
    assumed: Constants,
    /// Of streams from DRAM.
    bandwidth: Option<Bandwidth>,
    empty: EmptyLaunches,
    /// Lines with their fits, those over links left out.
    families: Vec<LineFamily>,
}

/// Measured seconds of an empty launch in each mode.
#[derive(Clone, Copy, Debug, Default)]
struct EmptyLaunches {
    graph_s: Option<f64>,
    stream_s: Option<f64>,
    programmatic_s: Option<f64>,
}

impl EmptyLaunches {
    fn of(campaign: &Campaign) -> Self {
        let known = Some(campaign.launch_overhead_s()).filter(|seconds| *seconds > 0.0);
        let provenance = &campaign.provenance;
        match unsaid_mode(campaign) {
            LaunchMode::Stream => EmptyLaunches { stream_s: known, ..Self::default() },
            _ => EmptyLaunches {
                graph_s: known,
                stream_s: provenance.empty_launch_stream_s,
                programmatic_s: provenance.empty_launch_programmatic_s,
            },
        }
    }

    fn measured_s(&self, mode: LaunchMode) -> Option<f64> {
        match mode {
            LaunchMode::Graph => self.graph_s,
            LaunchMode::Stream => self.stream_s,
            LaunchMode::Programmatic => self.programmatic_s,
        }
    }

    fn seconds(&self, mode: LaunchMode) -> f64 {
        self.measured_s(mode).unwrap_or(match mode {
            LaunchMode::Graph => EMPTY_NODE_S,
            LaunchMode::Stream => EMPTY_LAUNCH_S,
            LaunchMode::Programmatic => EMPTY_OVERLAPPED_S,
        })
    }
}

/// How launches were queued where rows do not say it: one by one by versions that knew no
/// graphs, whose runs have no empty launch beside the one that they use.
fn unsaid_mode(campaign: &Campaign) -> LaunchMode {
    match campaign.provenance.empty_launch_stream_s {
        Some(_) => LaunchMode::Graph,
        None => LaunchMode::Stream,
    }
}

/// Where a bandwidth comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RateSource {
    /// Streams that read and write as the kernel does.
    Measured,
    /// Read streams: no writes were measured, and the kernel has some.
    ReadsMeasured,
    /// A share of the data sheet's.
    Assumed,
}

impl RateSource {
    /// As tables print it.
    pub const fn name(self) -> &'static str {
        match self {
            RateSource::Measured => "measured",
            RateSource::ReadsMeasured => "measured reads",
            RateSource::Assumed => "assumed",
        }
    }
}

/// Where a fixed cost comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FixedSource {
    /// The line of the same kernel and shape.
    Family,
    /// The lines of the same kernel in other shapes.
    Kernel,
    /// The lines of read streams.
    Streams,
    /// Nothing but the launch was measured.
    Launch,
    /// Nothing was measured.
    Assumed,
}

impl FixedSource {
    /// As tables print it.
    pub const fn name(self) -> &'static str {
        match self {
            FixedSource::Family => "its line",
            FixedSource::Kernel => "its kernel's lines",
            FixedSource::Streams => "lines of streams",
            FixedSource::Launch => "assumed but for the launch",
            FixedSource::Assumed => "assumed",
        }
    }
}

/// A launch whose costs are asked for.
#[derive(Clone, Copy, Debug)]
pub struct Asked<'a> {
    /// What it computes.
    pub problem: &'a Problem,
    /// Its kernel, as points name it: with its configuration where one is asked for.
    pub kernel: &'a str,
    /// How it is queued.
    pub launch: LaunchMode,
    /// Bytes and seconds of a point that lines must not know.
    pub without: Option<(f64, f64)>,
}

/// What is known of a launch.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Costs {
    /// The constants.
    pub constants: Constants,
    /// Where the bandwidth comes from.
    pub rate_from: RateSource,
    /// Where the fixed cost comes from.
    pub fixed_from: FixedSource,
}

impl LaunchCosts {
    /// Of a machine of which nothing was measured; `bytes_per_s` is its data sheet's.
    pub fn assumed(bytes_per_s: f64) -> Self {
        LaunchCosts {
            assumed: Constants::assumed(bytes_per_s),
            bandwidth: None,
            empty: EmptyLaunches::default(),
            families: Vec::new(),
        }
    }

    /// Of a campaign's machine; `bytes_per_s` is its data sheet's.
    pub fn of_campaign(campaign: &Campaign, bytes_per_s: f64) -> Self {
        let mut families = line_fit::families(campaign);
        families.retain(|family| !family.is_of_link());
        for family in &mut families {
            family.launch.get_or_insert(unsaid_mode(campaign));
        }
        LaunchCosts {
            bandwidth: bandwidth(campaign),
            empty: EmptyLaunches::of(campaign),
            families,
            ..LaunchCosts::assumed(bytes_per_s)
        }
    }

    /// What is known of a launch.
    pub fn of(&self, asked: &Asked<'_>) -> Costs {
        let work = asked.problem.work();
        let (fixed_s, fixed_from) = self.fixed(asked);
        let (rate, rate_from) = self.rate(&work);
        let read = self.bandwidth.as_ref().map(|of| of.read.plateau().bytes_per_s);
        let constants = Constants {
            read_bytes_per_s: read.unwrap_or(self.assumed.read_bytes_per_s),
            mix_bytes_per_s: rate,
            fixed_s,
            ..self.assumed
        };
        Costs { constants, rate_from, fixed_from }
    }

    /// The shares of the measured read bandwidth that the lines of a kernel approach; none
    /// where either was not measured.
    pub fn line_shares(&self, kernel: &str) -> Vec<f64> {
        let Some(bandwidth) = &self.bandwidth else { return Vec::new() };
        let read = bandwidth.read.plateau().bytes_per_s;
        let fits = self.families.iter().filter(|family| *family.kernel == *kernel);
        let shares = fits.filter_map(|family| Some(family.fit?.bytes_per_s.value / read));
        shares.collect()
    }

    /// Whether the bandwidth is what this stream reached.
    fn is_bandwidth_of(&self, point: &Measured) -> bool {
        let curve = |access| {
            let bandwidth = self.bandwidth.as_ref()?;
            match access {
                Access::Read => Some(&bandwidth.read),
                Access::Write => bandwidth.write.as_ref(),
                Access::Copy => bandwidth.copy.as_ref(),
                Access::Triad => None,
            }
        };
        let plateau = point.memory_roof().and_then(curve).map(Curve::plateau);
        let rate = point.bytes_per_s().map(|rate| rate.value);
        plateau.zip(rate).is_some_and(|(plateau, rate)| plateau.bytes_per_s == rate)
    }

    fn rate(&self, work: &Work) -> (f64, RateSource) {
        let Some(bandwidth) = self.bandwidth.as_ref().filter(|_| work.bytes() > 0) else {
            return (self.assumed.mix_bytes_per_s, RateSource::Assumed);
        };
        let rate = work.bytes() as f64 / bandwidth.seconds(work, u64::MAX);
        let written = work.bytes_written() as f64 / work.bytes() as f64;
        let knows_writes = bandwidth.write.is_some() || bandwidth.copy.is_some();
        match knows_writes || written <= FEW_WRITES {
            true => (rate, RateSource::Measured),
            false => (rate, RateSource::ReadsMeasured),
        }
    }

    /// Seconds of the fixed cost in the mode that is asked for.
    fn fixed(&self, asked: &Asked<'_>) -> (f64, FixedSource) {
        let launch_s = self.empty.seconds(asked.launch);
        let shape = asked.problem.operation().line();
        // A configuration has lines of its own; the kernel's are those of all.
        let (kernel, _) = split_name(asked.kernel);
        let is_own = |family: &&LineFamily| {
            split_name(&family.kernel).0 == kernel && family.op == asked.problem.op()
        };
        let of_kernel = || self.families.iter().filter(is_own);
        let is_of_shape = |family: &&LineFamily| {
            *family.kernel == *asked.kernel && Some(&family.shape) == shape.as_ref()
        };
        let of_shape = of_kernel().filter(is_of_shape);
        let streams = || self.families.iter().filter(|family| family.is_roof());
        let middle = |costs: Vec<f64>| (!costs.is_empty()).then(|| median(&costs));
        let least = |costs: Vec<f64>| costs.into_iter().reduce(f64::min);
        let found = |cost_s: Option<f64>, source| Some((cost_s? + launch_s, source));
        found(middle(self.beside_launch(of_shape, asked)), FixedSource::Family)
            .or_else(|| {
                found(middle(self.beside_launch(of_kernel(), asked)), FixedSource::Kernel)
            })
            .or_else(|| {
                found(least(self.beside_launch(streams(), asked)), FixedSource::Streams)
            })
            .unwrap_or_else(|| {
                let is_measured = self.empty.measured_s(asked.launch).is_some();
                let source = match is_measured {
                    true => FixedSource::Launch,
                    false => FixedSource::Assumed,
                };
                (FIXED_S - EMPTY_NODE_S + launch_s, source)
            })
    }

    /// The fixed costs of lines, without the empty launch that each has in it.
    fn beside_launch<'a>(
        &self,
        families: impl Iterator<Item = &'a LineFamily>,
        asked: &Asked<'_>,
    ) -> Vec<f64> {
        let fixed = families.filter_map(|family| {
            let fit = match asked.without {
                Some((bytes, seconds)) => family.fit_without(bytes, seconds),
                None => family.fit,
            };
            let fit = fit.filter(has_fixed_cost)?;
            Some((fit.fixed_s.value - self.empty.seconds(family.launch?)).max(0.0))
        });
        fixed.collect()
    }
}

/// Whether a line says that there is a fixed cost: one through large sizes alone does not.
fn has_fixed_cost(fit: &Fit) -> bool {
    fit.fixed_s.lo > 0.0
}

/// The bandwidth of a campaign's streams from DRAM, by direction.
fn bandwidth(campaign: &Campaign) -> Option<Bandwidth> {
    let bandwidth = &campaign.ceilings.as_ref()?.peaks.bandwidth;
    let cache_bytes = campaign.provenance.l2_bytes.unwrap_or(0);
    let is_of_dram =
        |curve: &Curve| curve.plateau().footprint_bytes >= CACHES * cache_bytes;
    Some(Bandwidth {
        read: Some(bandwidth.read.clone()).filter(is_of_dram)?,
        write: bandwidth.write.clone().filter(is_of_dram),
        copy: bandwidth.copy.clone().filter(is_of_dram),
    })
}

/// What a plan moves on so many multiprocessors, of which each holds so many of its blocks.
pub fn traffic(plan: &Plan, blocks_per_sm: u32, sms: u32, work: &Work) -> Traffic {
    let in_flight_bytes = plan.launches.iter().map(|launch| {
        let blocks: u64 = launch.grid.iter().map(|&n| u64::from(n)).product();
        let resident = u64::from(sms) * u64::from(blocks_per_sm);
        launch.bytes_in_flight * blocks.min(resident)
    });
    Traffic {
        compulsory_bytes: work.bytes(),
        written_bytes: work.bytes_written(),
        extra_bytes: plan.extra_bytes.unwrap_or(0),
        in_flight_bytes: in_flight_bytes.min().unwrap_or(0),
        imbalance: plan.imbalance,
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::record::{Records, Row, Run, Status};

    const READ: f64 = 3e12;

    /// A row of a point from DRAM whose time is `fixed_s` and its bytes at [`READ`].
    fn row(problem: &str, kernel: &str, fixed_s: f64) -> Row {
        let work = problem.parse::<Problem>().unwrap().work();
        let time_s = Some(fixed_s + work.bytes() as f64 / READ);
        Row {
            point_id: format!("{problem} {kernel}"),
            kernel: kernel.into(),
            status: Some(Status::Ok),
            problem: problem.into(),
            reuse_distance_bytes: Some(work.bytes().max(256 << 20)),
            residency: "dram".into(),
            cache_state: "cold".into(),
            launch_mode: "graph".into(),
            time_s_median: time_s,
            time_s_ci_lo: time_s,
            time_s_ci_hi: time_s,
            ..Row::default()
        }
    }

    fn kv_read(batch: u64, layout: &str) -> String {
        format!(
            "kv_read:batch={batch},context=4096,kv_heads=8,head_dim=128,dtype=bf16,\
             layout={layout}"
        )
    }

    const KV_S: f64 = 6e-6;
    const STREAM_S: f64 = 3e-6;

    /// Lines of two streams and of caches read in one layout, launches of 1 us as nodes of a
    /// graph and of 2 us alone.
    fn campaign(rows: Vec<Row>) -> Campaign {
        let mut run = Run::default();
        for (column, value) in [
            ("caches", "L2=52428800"),
            ("l2_bytes", "52428800"),
            ("launch_overhead_s", "1e-6"),
            ("empty_launch_stream_s", "2e-6"),
        ] {
            run.set(column, value);
        }
        let records = Records { runs: vec![run], rows, ..Records::default() };
        Campaign::from_records(Path::new("x"), records, None).unwrap()
    }

    fn rows() -> Vec<Row> {
        let mut rows = Vec::new();
        for mib in [256, 512, 1024, 2048, 4096] {
            let problem = format!("stream:access=read,bytes={mib} MiB");
            rows.push(row(&problem, "stream", STREAM_S));
            rows.push(row(&problem, "stream_bulk", 2.0 * STREAM_S));
        }
        rows.extend(
            [1, 4, 16, 64, 256].map(|b| row(&kv_read(b, "contiguous"), "kv_read", KV_S)),
        );
        rows
    }

    fn of(costs: &LaunchCosts, problem: &str, kernel: &str, launch: LaunchMode) -> Costs {
        let problem = problem.parse().unwrap();
        costs.of(&Asked { problem: &problem, kernel, launch, without: None })
    }

    fn is_near(a: f64, b: f64) -> bool {
        (a / b - 1.0).abs() < 1e-3
    }

    #[test]
    fn fixed_costs_are_of_the_nearest_line_in_the_mode_asked_for() {
        let costs = LaunchCosts::of_campaign(&campaign(rows()), 3.35e12);
        let mla = "mla_decode:batch=1,context=65536,q_heads=16,dtype=bf16,layout=paged64";
        for (problem, kernel, launch, fixed_s, from) in [
            (
                &*kv_read(2, "contiguous"),
                "kv_read",
                LaunchMode::Graph,
                KV_S,
                FixedSource::Family,
            ),
            // One launch of 1 us out, another of 2 us in.
            (
                &*kv_read(2, "contiguous"),
                "kv_read",
                LaunchMode::Stream,
                KV_S + 1e-6,
                FixedSource::Family,
            ),
            (
                &*kv_read(2, "paged16"),
                "kv_read",
                LaunchMode::Graph,
                KV_S,
                FixedSource::Kernel,
            ),
            (
                &*kv_read(2, "contiguous"),
                "kv_read.other",
                LaunchMode::Graph,
                KV_S,
                FixedSource::Kernel,
            ),
            // The least of both streams.
            (mla, "attention_mla", LaunchMode::Graph, STREAM_S, FixedSource::Streams),
            // Nothing measured says what overlapped launches take.
            (
                mla,
                "attention_mla",
                LaunchMode::Programmatic,
                STREAM_S - 1e-6 + EMPTY_OVERLAPPED_S,
                FixedSource::Streams,
            ),
        ] {
            let found = of(&costs, problem, kernel, launch);
            let fixed = found.constants.fixed_s;
            assert_eq!(found.fixed_from, from, "{problem}");
            assert!(is_near(fixed, fixed_s), "{problem}: {fixed} for {fixed_s}");
            assert_eq!(found.rate_from, RateSource::Measured, "{problem}");
            // The largest read takes 3 us more than its bytes.
            assert!(is_near(found.constants.mix_bytes_per_s, READ / 1.002), "{found:?}");
        }
    }

    #[test]
    fn what_was_not_measured_is_assumed_and_says_so() {
        let read = "stream:access=read,bytes=1 GiB";
        let nothing = of(&LaunchCosts::assumed(3.35e12), read, "stream", LaunchMode::Graph);
        assert_eq!(nothing.constants, Constants::assumed(3.35e12));
        assert_eq!(
            (nothing.rate_from, nothing.fixed_from),
            (RateSource::Assumed, FixedSource::Assumed)
        );
        // A read from DRAM alone is no line, and says nothing of writes.
        let few =
            LaunchCosts::of_campaign(&campaign(vec![row(read, "stream", 0.0)]), 3.35e12);
        let found = of(&few, read, "stream", LaunchMode::Stream);
        assert_eq!(
            (found.rate_from, found.fixed_from),
            (RateSource::Measured, FixedSource::Launch)
        );
        let launch_s = found.constants.fixed_s - (FIXED_S - EMPTY_NODE_S);
        assert!(is_near(launch_s, 2e-6), "{launch_s}");
        let write =
            of(&few, "stream:access=write,bytes=1 GiB", "stream", LaunchMode::Graph);
        assert_eq!(write.rate_from, RateSource::ReadsMeasured);
        assert!(is_near(write.constants.mix_bytes_per_s, READ));
        // Records of before name no launch mode and knew none but one by one.
        let mut old = campaign(rows());
        old.provenance.empty_launch_stream_s = None;
        let old = LaunchCosts::of_campaign(&old, 3.35e12);
        assert_eq!((old.empty.graph_s, old.empty.stream_s), (None, Some(1e-6)));
    }

    #[test]
    fn a_point_can_be_expected_without_knowing_it() {
        let mut rows = rows();
        // Far off its line.
        let odd = kv_read(2, "contiguous");
        rows.push(row(&odd, "kv_read", 10.0 * KV_S));
        let campaign = campaign(rows);
        let costs = LaunchCosts::of_campaign(&campaign, 3.35e12);
        let point = campaign.points.last().unwrap();
        let asked = Asked {
            problem: &point.problem,
            kernel: "kv_read",
            launch: LaunchMode::Graph,
            without: None,
        };
        let without = Some((point.work.bytes() as f64, point.time_s.unwrap().value));
        let unknowing = costs.of(&Asked { without, ..asked }).constants.fixed_s;
        assert!(is_near(unknowing, KV_S), "{unknowing}");
        assert!(!is_near(costs.of(&asked).constants.fixed_s, KV_S));
    }
}

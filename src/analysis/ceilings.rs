//! The ceilings that a campaign measured, what else came close to them, and whether they
//! are high enough to judge by.
//!
//! A ceiling is the best rate that anything reached, so it is low when nothing that was
//! measured is good at reaching it. What reaches a low ceiling proves nothing: see
//! [`Doubt`].

use std::cmp::Ordering;
use std::collections::{BTreeMap, BTreeSet};

use super::Measured;
use crate::format::DType;
use crate::model::derived;
use crate::model::identity::Identity;
use crate::op::{Access, OfProblem, Peak, Purpose, Unit};
use crate::point::KernelName;
use crate::record::Run;
use crate::resource::{Link, LinkDirection, Resource};
use crate::roofline::{Bandwidth, ComputePeak, Curve, CurvePoint, LinkPeak, Peaks};
use crate::statistics::Estimate;

/// Share of the bandwidth derived from the memory's clock from which on a read ceiling is
/// the machine's and not its kernel's. Good reads reach 90 to 95% of the bus: the rest is
/// refresh and turning rows over.
pub const LEAST_MEMORY_SHARE: f64 = 0.85;

/// The same of arithmetic, at the clock that was measured with the ceiling. Matrix products
/// of vendors' libraries reach 75 to 90% of what the units can do at their clock.
pub const LEAST_COMPUTE_SHARE: f64 = 0.75;

/// Share of CPU time used by others above which a point of a CPU counts as disturbed, where
/// its run names none.
pub const DISTURBED_SHARE: f64 = 0.05;

/// Why reaching a ceiling proves nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Doubt {
    /// The device can do more by its clocks, or by what other kernels reached.
    TooLow,
    /// Nothing says what the device can do, and no `peak` point was measured.
    NoProbe,
    /// No other kernel came near: the point is judged by itself.
    OwnKernel,
    /// Others used the CPU while it was measured.
    Disturbed,
}

impl Doubt {
    /// The spelling used in tables and CSV files.
    pub const fn name(self) -> &'static str {
        match self {
            Doubt::TooLow => "not judged: ceiling too low",
            Doubt::NoProbe => "not judged: no probe of the ceiling",
            Doubt::OwnKernel => "not judged: its own kernel set the ceiling",
            Doubt::Disturbed => "not judged: ceiling measured under load",
        }
    }
}

/// The best that one kernel reached of what a ceiling limits.
#[derive(Clone, Debug, PartialEq)]
pub struct Candidate {
    /// Rate with its interval: bytes/s or FLOPs/s.
    pub rate: Estimate,
    /// Id of the point that reached it.
    pub point_id: String,
    /// Its kernel.
    pub kernel: KernelName,
    /// Clock of a GPU's multiprocessors meanwhile, in Hz.
    pub sm_clock_hz: Option<f64>,
    /// The rate that the device's clocks allow, that of arithmetic at `sm_clock_hz` where
    /// it was measured.
    pub derived: Option<f64>,
    /// Whether the point exists to show this ceiling.
    pub is_probe: bool,
    /// Whether others used the CPU meanwhile.
    pub is_disturbed: bool,
}

impl Candidate {
    pub(super) fn of(point: &Measured, rate: Estimate, device: &DeviceFacts<'_>) -> Self {
        Candidate {
            rate,
            point_id: point.point_id.clone(),
            kernel: point.kernel.clone(),
            sm_clock_hz: point.sm_clock_hz,
            derived: None,
            is_probe: point.judged_facts().purpose != Purpose::Work,
            is_disturbed: device.is_disturbed(point),
        }
    }

    /// Its share of what the device's clocks allow.
    pub fn share_of_derived(&self) -> Option<f64> {
        Some(self.rate.value / self.derived?)
    }

    /// Undisturbed ones first, then by rate.
    fn order(&self, other: &Candidate) -> Ordering {
        let calm = other.is_disturbed.cmp(&self.is_disturbed);
        calm.then(self.rate.value.total_cmp(&other.rate.value))
    }
}

/// A measured ceiling and the row that it comes from.
#[derive(Clone, Debug, PartialEq)]
pub struct Ceiling {
    /// Rate with its interval: bytes/s or FLOPs/s.
    pub rate: Estimate,
    /// Id of the point that reached it.
    pub point_id: String,
    /// Its kernel.
    pub kernel: KernelName,
    /// The format in which the arithmetic is done, where it is not the operands' own.
    pub computed_in: Option<DType>,
    /// The best of each kernel, best first: the first is the ceiling itself.
    pub candidates: Vec<Candidate>,
    /// Share of the derived peak, or else of the ceiling, that a candidate must reach to
    /// be judged by.
    least_share: f64,
}

impl Ceiling {
    /// The best of these points. `None` if there are none.
    pub(super) fn best(mut candidates: Vec<Candidate>, least_share: f64) -> Option<Self> {
        candidates.sort_by(|a, b| b.order(a));
        let mut kernels = Vec::new();
        candidates.retain(|candidate| {
            let is_best = !kernels.contains(&candidate.kernel);
            kernels.push(candidate.kernel.clone());
            is_best
        });
        let best = candidates.first()?;
        Some(Ceiling {
            rate: best.rate,
            point_id: best.point_id.clone(),
            kernel: best.kernel.clone(),
            computed_in: None,
            candidates,
            least_share,
        })
    }

    /// The candidate that is the ceiling.
    pub fn source(&self) -> &Candidate {
        &self.candidates[0]
    }

    /// The best point that exists to show this ceiling and was not disturbed.
    pub fn probe(&self) -> Option<&Candidate> {
        self.candidates.iter().find(|c| c.is_probe && !c.is_disturbed)
    }

    /// Why a kernel that set none of the candidates cannot be judged by the ceiling.
    pub fn doubt(&self) -> Option<Doubt> {
        self.doubt_of(self.source())
    }

    /// Why a point of `kernel` cannot be judged by the ceiling. What its own kernel
    /// reached does not count.
    pub fn doubt_for(&self, kernel: &KernelName) -> Option<Doubt> {
        match self.candidates.iter().find(|c| c.kernel != *kernel) {
            Some(best_other) => self.doubt_of(best_other),
            None => Some(Doubt::OwnKernel),
        }
    }

    fn doubt_of(&self, candidate: &Candidate) -> Option<Doubt> {
        let is_below = |peak: f64| candidate.rate.value < self.least_share * peak;
        match candidate.derived {
            _ if candidate.is_disturbed => Some(Doubt::Disturbed),
            Some(derived) => is_below(derived).then_some(Doubt::TooLow),
            // Without clocks only a probe can tell what the units do.
            None if self.probe().is_none() => Some(Doubt::NoProbe),
            None => is_below(self.rate.value).then_some(Doubt::TooLow),
        }
    }
}

/// What this campaign measured as the machine's limits. There are none unless
/// it measured a read stream from DRAM: the bandwidth of a cache is not a limit of
/// the machine.
#[derive(Clone, Debug)]
pub struct Ceilings {
    /// The same, without intervals and sources.
    pub peaks: Peaks,
    /// DRAM read bandwidth: the read stream with the largest working set.
    pub read: Ceiling,
    /// Best rate of any operation that [sets ceilings of
    /// arithmetic](crate::op::JudgedFacts::sets_compute_ceiling), by format: `peak`, matrix
    /// products, the vendor's among them, and attention. Formats that
    /// the device computes in another format share the ceiling of that one.
    pub compute: BTreeMap<DType, Ceiling>,
    /// Best rate of any transfer between DRAM and a link, each way.
    pub links: BTreeMap<(Link, LinkDirection), Ceiling>,
}

impl Ceilings {
    /// FLOPs per byte at which compute and DRAM reads take the same time.
    pub fn ridge(&self, dtype: DType) -> Option<Estimate> {
        Some(self.compute.get(&dtype)?.rate.over(self.read.rate))
    }
}

/// Whether kernels ran on the host itself.
pub(super) fn is_cpu(run: &Run) -> bool {
    run.get("backend") == Some("cpu")
}

/// Threads times what a core does in a cycle times its clock.
fn cpu_flops_per_s(run: &Run) -> Option<f64> {
    let number = |column| run.get(column)?.parse::<f64>().ok().filter(|x| *x > 0.0);
    let per_cycle = derived::cpu_flops_per_cycle(run.get("simd")?)?;
    Some(number("threads")? * per_cycle * number("base_clock_hz")?)
}

/// The share of CPU time that others may have had: the suite's, where the run names it.
pub(super) fn disturbed_share(run: Option<&Run>) -> f64 {
    let named = run.and_then(|run| run.get("disturbed_share")?.parse().ok());
    named.filter(|share: &f64| *share > 0.0).unwrap_or(DISTURBED_SHARE)
}

/// What is known of the device that bears on its ceilings.
pub(super) struct DeviceFacts<'a> {
    identity: &'a Identity,
    derived: Option<&'a Peaks>,
    is_cpu: bool,
    /// What a CPU's vector units do in f32 at the clock that it is sold with.
    cpu_flops_per_s: Option<f64>,
    disturbed_share: f64,
}

impl<'a> DeviceFacts<'a> {
    pub(super) fn of(
        identity: &'a Identity,
        derived: Option<&'a Peaks>,
        run: Option<&Run>,
    ) -> Self {
        DeviceFacts {
            identity,
            derived,
            is_cpu: run.is_some_and(is_cpu),
            cpu_flops_per_s: run.filter(|run| is_cpu(run)).and_then(cpu_flops_per_s),
            disturbed_share: disturbed_share(run),
        }
    }

    /// Whether others used the CPU that the point was to have for itself. A GPU computes
    /// without the host.
    pub(super) fn is_disturbed(&self, point: &Measured) -> bool {
        let share = point.other_cpu_share;
        self.is_cpu && share.is_some_and(|share| share > self.disturbed_share)
    }

    /// The format in which a point multiplies and adds operands of `dtype`. The CPU's kernels
    /// convert to f32, but for those of its matrix units.
    fn computes_in(&self, point: &Measured, dtype: DType) -> DType {
        let is_matrix = Peak::of(&point.problem).is_some_and(|p| p.unit == Unit::Tensor);
        if self.is_cpu && !is_matrix { DType::F32 } else { dtype }
    }

    /// The rate that the clocks allow of a format, at this clock or else at the highest.
    fn flops_per_s(&self, dtype: DType, sm_clock_hz: Option<f64>) -> Option<f64> {
        if self.is_cpu {
            return self.cpu_flops_per_s.filter(|_| dtype == DType::F32);
        }
        let highest = self.derived.and_then(|peaks| peaks.flops_per_s(dtype))?;
        let Some(clock) = sm_clock_hz.filter(|clock| *clock > 0.0) else {
            return Some(highest);
        };
        let peaks = derived::compute(self.identity, clock);
        peaks.iter().find(|peak| peak.dtype == dtype).map(|peak| peak.flops_per_s)
    }
}

/// The ceilings that these points measured.
pub(super) fn ceilings(points: &[Measured], device: &DeviceFacts<'_>) -> Option<Ceilings> {
    let (read, read_ceiling) = read_curve(points, device)?;
    let compute = compute_ceilings(points, device);
    let links = link_ceilings(points, device);
    let curve = |access| {
        let points: Vec<&Measured> = points.iter().collect();
        Some(stream_curve(&calm(&points, access, device), access)?.0)
    };
    let peaks = Peaks {
        bandwidth: Bandwidth {
            read,
            write: curve(Access::Write),
            copy: curve(Access::Copy),
        },
        compute: compute
            .iter()
            .map(|(&dtype, c)| ComputePeak { dtype, flops_per_s: c.rate.value })
            .collect(),
        links: links
            .iter()
            .map(|(&(link, direction), c)| LinkPeak {
                link,
                direction,
                bytes_per_s: c.rate.value,
            })
            .collect(),
    };
    Some(Ceilings { peaks, read: read_ceiling, compute, links })
}

/// Bandwidth of reads over the working set, and that of the largest one. `None` unless a
/// read came from DRAM.
fn read_curve(points: &[Measured], device: &DeviceFacts<'_>) -> Option<(Curve, Ceiling)> {
    let all: Vec<&Measured> = points.iter().collect();
    let reads = calm(&all, Access::Read, device);
    let is_from_dram = |p: &&&Measured| p.time_s.is_some() && p.is_from_dram();
    let from_dram: Vec<&Measured> = reads.iter().filter(is_from_dram).copied().collect();
    if from_dram.is_empty() {
        return None;
    }
    let (curve, rows) = stream_curve(&reads, Access::Read)?;
    let plateau = curve.plateau().footprint_bytes;
    let largest = *rows.get(&plateau)?;
    let of = |point: &Measured| {
        let candidate = Candidate::of(point, point.bytes_per_s()?, device);
        let derived = device.derived.map(|p| p.bandwidth.read.plateau().bytes_per_s);
        Some(Candidate { derived, ..candidate })
    };
    let mut ceiling = Ceiling::best(vec![of(largest)?], LEAST_MEMORY_SHARE)?;
    let others = from_dram.iter().filter(|p| p.kernel != largest.kernel);
    let others = others.filter_map(|p| of(p)).collect();
    let others = Ceiling::best(others, LEAST_MEMORY_SHARE);
    ceiling.candidates.extend(others.into_iter().flat_map(|best| best.candidates));
    Some((curve, ceiling))
}

/// The streams of one direction, without the disturbed ones unless all from DRAM are.
fn calm<'a>(
    points: &[&'a Measured],
    access: Access,
    device: &DeviceFacts<'_>,
) -> Vec<&'a Measured> {
    let is_stream = |p: &&&Measured| p.memory_roof() == Some(access);
    let streams: Vec<&Measured> = points.iter().filter(is_stream).copied().collect();
    let is_calm = |p: &&Measured| !device.is_disturbed(p);
    if streams.iter().any(|p| is_calm(p) && p.is_from_dram() && p.time_s.is_some()) {
        return streams.into_iter().filter(is_calm).collect();
    }
    streams
}

/// The best rate of a stream at each working set, and the row that
/// each rate comes from.
fn stream_curve<'a>(
    points: &[&'a Measured],
    access: Access,
) -> Option<(Curve, BTreeMap<u64, &'a Measured>)> {
    let mut best: BTreeMap<u64, (f64, &Measured)> = BTreeMap::new();
    for &point in points {
        if point.memory_roof() != Some(access) {
            continue;
        }
        let (Some(rate), Some(footprint)) =
            (point.bytes_per_s(), point.reuse_distance_bytes)
        else {
            continue;
        };
        let known = best.entry(footprint).or_insert((rate.value, point));
        if rate.value > known.0 {
            *known = (rate.value, point);
        }
    }
    let curve = Curve::new(
        best.iter()
            .map(|(&footprint_bytes, &(bytes_per_s, _))| CurvePoint {
                footprint_bytes,
                bytes_per_s,
            })
            .collect(),
    )?;
    Some((curve, best.into_iter().map(|(bytes, (_, point))| (bytes, point)).collect()))
}

fn compute_ceilings(
    points: &[Measured],
    device: &DeviceFacts<'_>,
) -> BTreeMap<DType, Ceiling> {
    let mut candidates: BTreeMap<DType, Vec<Candidate>> = BTreeMap::new();
    let mut used = BTreeSet::new();
    for point in points {
        let (Some(dtype), Some(rate)) = (point.problem.math_dtype(), point.flops_per_s())
        else {
            continue;
        };
        used.insert(dtype);
        let sets_ceiling = point.judged_facts().sets_compute_ceiling
            && point.problem.operation().has_usual_data();
        if sets_ceiling {
            let done_in = device.computes_in(point, dtype);
            let derived = device.flops_per_s(done_in, point.sm_clock_hz);
            let candidate = Candidate { derived, ..Candidate::of(point, rate, device) };
            candidates.entry(done_in).or_default().push(candidate);
        }
    }
    let best = |(dtype, all): (DType, Vec<Candidate>)| {
        Some((dtype, Ceiling::best(all, LEAST_COMPUTE_SHARE)?))
    };
    let by_format: BTreeMap<DType, Ceiling> =
        candidates.into_iter().filter_map(best).collect();
    // Some of a CPU's kernels convert operands of a format that it has a matrix unit for:
    // the higher of both rates is what it can do.
    let of = |dtype: DType| {
        let in_f32 = by_format.get(&DType::F32).filter(|_| device.is_cpu);
        let formats = by_format.get(&dtype).map(|own| (dtype, own)).into_iter();
        let formats = formats.chain(in_f32.map(|ceiling| (DType::F32, ceiling)));
        let higher = |a: &(DType, &Ceiling), b: &(DType, &Ceiling)| {
            a.1.rate.value.total_cmp(&b.1.rate.value)
        };
        let (done_in, ceiling) = formats.max_by(higher)?;
        let computed_in = (dtype != done_in).then_some(done_in);
        Some((dtype, Ceiling { computed_in, ..ceiling.clone() }))
    };
    used.into_iter().filter_map(of).collect()
}

/// A transfer that moves bytes both ways shows what each way gives meanwhile.
fn link_ceilings(
    points: &[Measured],
    device: &DeviceFacts<'_>,
) -> BTreeMap<(Link, LinkDirection), Ceiling> {
    let mut candidates: BTreeMap<(Link, LinkDirection), Vec<Candidate>> = BTreeMap::new();
    let is_roof =
        |p: &&Measured| p.judged_facts().purpose == Purpose::LinkRoof && p.is_from_dram();
    for point in points.iter().filter(is_roof) {
        for (resource, bytes) in point.work.amounts() {
            if let (Resource::Link(link, direction), Some(time_s)) =
                (resource, point.time_s)
            {
                let rate = time_s.into_rate(bytes as f64);
                let candidate = Candidate::of(point, rate, device);
                candidates.entry((link, direction)).or_default().push(candidate);
            }
        }
    }
    // Nothing derived tells how fast a link should be, so no share is asked for.
    let best = |(way, all)| Some((way, Ceiling::best(all, 0.0)?));
    candidates.into_iter().filter_map(best).collect()
}

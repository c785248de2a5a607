//! The ceilings that a campaign measured.

use std::collections::BTreeMap;

use super::Measured;
use crate::format::DType;
use crate::op::{Access, Purpose};
use crate::point::KernelName;
use crate::resource::{Link, LinkDirection, Resource};
use crate::roofline::{Bandwidth, ComputePeak, Curve, CurvePoint, LinkPeak, Peaks};
use crate::statistics::Estimate;

/// A measured ceiling and the row that it comes from.
#[derive(Clone, Debug, PartialEq)]
pub struct Ceiling {
    /// Rate with its interval: bytes/s or FLOPs/s.
    pub rate: Estimate,
    /// Id of the point that reached it.
    pub point_id: String,
    /// Its kernel.
    pub kernel: KernelName,
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
    /// arithmetic](crate::op::JudgedFacts::sets_compute_ceiling), by format.
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

/// The ceilings that these points measured.
pub(super) fn ceilings(points: &[Measured]) -> Option<Ceilings> {
    let is_read = |p: &Measured| p.memory_roof() == Some(Access::Read);
    if !points.iter().any(|p| is_read(p) && p.time_s.is_some() && p.is_from_dram()) {
        return None;
    }
    let (read, read_rows) = stream_curve(points, Access::Read)?;
    let plateau = read.plateau().footprint_bytes;
    let read_ceiling = read_rows.into_iter().rfind(|(bytes, _)| *bytes == plateau)?.1;
    let compute = compute_ceilings(points);
    let links = link_ceilings(points);
    let peaks = Peaks {
        bandwidth: Bandwidth {
            read,
            write: stream_curve(points, Access::Write).map(|(curve, _)| curve),
            copy: stream_curve(points, Access::Copy).map(|(curve, _)| curve),
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

/// The best rate of a stream at each working set, and the row that
/// each rate comes from.
fn stream_curve(
    points: &[Measured],
    access: Access,
) -> Option<(Curve, Vec<(u64, Ceiling)>)> {
    let mut best: BTreeMap<u64, Ceiling> = BTreeMap::new();
    for point in points {
        if point.memory_roof() != Some(access) {
            continue;
        }
        let (Some(rate), Some(footprint)) =
            (point.bytes_per_s(), point.reuse_distance_bytes)
        else {
            continue;
        };
        keep_best(best.entry(footprint), point, rate);
    }
    let curve = Curve::new(
        best.iter()
            .map(|(&footprint_bytes, ceiling)| CurvePoint {
                footprint_bytes,
                bytes_per_s: ceiling.rate.value,
            })
            .collect(),
    )?;
    Some((curve, best.into_iter().collect()))
}

fn compute_ceilings(points: &[Measured]) -> BTreeMap<DType, Ceiling> {
    let mut best = BTreeMap::new();
    for point in points {
        let counts = point.judged_facts().sets_compute_ceiling;
        if let (true, Some(dtype), Some(rate)) =
            (counts, point.problem.math_dtype(), point.flops_per_s())
        {
            keep_best(best.entry(dtype), point, rate);
        }
    }
    best
}

/// A transfer that moves bytes both ways shows what each way gives meanwhile.
fn link_ceilings(points: &[Measured]) -> BTreeMap<(Link, LinkDirection), Ceiling> {
    let mut best = BTreeMap::new();
    let is_roof =
        |p: &&Measured| p.judged_facts().purpose == Purpose::LinkRoof && p.is_from_dram();
    for point in points.iter().filter(is_roof) {
        for (resource, bytes) in point.work.amounts() {
            if let (Resource::Link(link, direction), Some(time_s)) =
                (resource, point.time_s)
            {
                let rate = time_s.into_rate(bytes as f64);
                keep_best(best.entry((link, direction)), point, rate);
            }
        }
    }
    best
}

fn keep_best<K: Ord>(
    entry: std::collections::btree_map::Entry<'_, K, Ceiling>,
    point: &Measured,
    rate: Estimate,
) {
    let ceiling =
        || Ceiling { rate, point_id: point.point_id.clone(), kernel: point.kernel.clone() };
    entry
        .and_modify(|best| {
            if rate.value > best.rate.value {
                *best = ceiling();
            }
        })
        .or_insert_with(ceiling);
}

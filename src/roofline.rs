//! What time a piece of work must take on a machine: pure arithmetic.
//!
//! Work is a list of amounts, a machine a list of rates of the same resources, and a roof
//! the quotients. The time of perfect overlap is the largest of the times of memory, of
//! arithmetic and of links (Williams, Waterman and Patterson, "Roofline", CACM 2009).
//! Fractions of a roof are not clamped: one above 1 says that the roof is
//! wrong or that a cache helped, and hiding it would hide that.

use crate::format::DType;
use crate::resource::{Link, LinkDirection, Resource, Work};

/// Bandwidth measured at one working set.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct CurvePoint {
    /// Distinct bytes touched between two uses of the same byte.
    pub footprint_bytes: u64,
    /// Bytes moved per second.
    pub bytes_per_s: f64,
}

/// Bandwidth as a function of the working set: caches make it fall in steps
/// until only DRAM is left, the last point.
#[derive(Clone, Debug, PartialEq)]
pub struct Curve(Vec<CurvePoint>);

impl Curve {
    /// A curve through `points`, in any order. `None` when there are none.
    pub fn new(mut points: Vec<CurvePoint>) -> Option<Self> {
        points.sort_by_key(|p| p.footprint_bytes);
        (!points.is_empty()).then_some(Curve(points))
    }

    /// The same bandwidth at every working set.
    pub fn flat(bytes_per_s: f64) -> Self {
        Curve(vec![CurvePoint { footprint_bytes: 0, bytes_per_s }])
    }

    /// Bandwidth in bytes/s at a working set: linear in the logarithm of the
    /// footprint between two points, constant beyond the ends.
    pub fn at(&self, footprint_bytes: u64) -> f64 {
        let after = self.0.partition_point(|p| p.footprint_bytes <= footprint_bytes);
        let Some(low) = after.checked_sub(1).map(|i| self.0[i]) else {
            return self.0[0].bytes_per_s;
        };
        let Some(high) = self.0.get(after) else { return low.bytes_per_s };
        let log = |bytes: u64| (bytes.max(1) as f64).ln();
        let span = log(high.footprint_bytes) - log(low.footprint_bytes);
        let share = (log(footprint_bytes) - log(low.footprint_bytes)) / span;
        low.bytes_per_s + share * (high.bytes_per_s - low.bytes_per_s)
    }

    /// The point with the largest working set: what DRAM gives.
    pub fn plateau(&self) -> CurvePoint {
        self.0[self.0.len() - 1]
    }

    /// The points, by growing footprint.
    pub fn points(&self) -> &[CurvePoint] {
        &self.0
    }
}

/// Memory ceilings by direction. A bus that turns around between reading and
/// writing gives less than one that only reads, so a read-only kernel must not
/// be judged by a copy.
#[derive(Clone, Debug, PartialEq)]
pub struct Bandwidth {
    /// Read only.
    pub read: Curve,
    /// Write only.
    pub write: Option<Curve>,
    /// Half of the bytes read, half written.
    pub copy: Option<Curve>,
}

impl Bandwidth {
    /// One bandwidth whatever the direction, as data sheets state it.
    pub fn flat(bytes_per_s: f64) -> Self {
        Bandwidth { read: Curve::flat(bytes_per_s), write: None, copy: None }
    }

    /// Seconds that `work`'s bytes take at a working set of `footprint_bytes`.
    ///
    /// The time per byte is interpolated over the share of written bytes
    /// through the three measured shares 0 (read), 1/2 (copy) and 1 (write).
    /// A share that was not measured is read off the next that was.
    pub fn seconds(&self, work: &Work, footprint_bytes: u64) -> f64 {
        if work.bytes() == 0 {
            return 0.0;
        }
        let per_byte = |curve: &Curve| 1.0 / curve.at(footprint_bytes);
        let read = per_byte(&self.read);
        let write = self.write.as_ref().map(per_byte);
        let copy = self.copy.as_ref().map(per_byte);
        let copy = copy.unwrap_or_else(|| (read + write.unwrap_or(read)) / 2.0);
        let write = write.unwrap_or(copy);
        let written = work.bytes_written() as f64 / work.bytes() as f64;
        let mixed = if written <= 0.5 {
            read + (copy - read) * (written / 0.5)
        } else {
            copy + (write - copy) * ((written - 0.5) / 0.5)
        };
        work.bytes() as f64 * mixed
    }
}

/// The rate of arithmetic in one number format.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct ComputePeak {
    /// Format of the operands.
    pub dtype: DType,
    /// FLOPs per second, dense.
    pub flops_per_s: f64,
}

/// The rate of a link, one way.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct LinkPeak {
    /// Which.
    pub link: Link,
    /// Which way.
    pub direction: LinkDirection,
    /// Bytes per second that way.
    pub bytes_per_s: f64,
}

/// The ceilings of one machine: a data sheet's, or measured ones.
#[derive(Clone, Debug, PartialEq)]
pub struct Peaks {
    /// Memory ceilings.
    pub bandwidth: Bandwidth,
    /// Compute ceilings, one for each format that is known.
    pub compute: Vec<ComputePeak>,
    /// Links, as far as they are known.
    pub links: Vec<LinkPeak>,
}

impl Peaks {
    /// FLOPs per second in a format, if known.
    pub fn flops_per_s(&self, dtype: DType) -> Option<f64> {
        self.compute.iter().find(|p| p.dtype == dtype).map(|p| p.flops_per_s)
    }

    /// FLOPs per byte at which compute and DRAM reads take the same time.
    pub fn ridge(&self, dtype: DType) -> Option<f64> {
        Some(self.flops_per_s(dtype)? / self.bandwidth.read.plateau().bytes_per_s)
    }

    /// Bytes per second of a link, one way, if known.
    pub fn link_bytes_per_s(&self, link: Link, direction: LinkDirection) -> Option<f64> {
        let is_it = |peak: &&LinkPeak| (peak.link, peak.direction) == (link, direction);
        self.links.iter().find(is_it).map(|peak| peak.bytes_per_s)
    }

    /// The least time of `work` that touches `footprint_bytes` between two uses of the same
    /// byte. `None` when it computes in a format, or moves bytes over a link, without a
    /// known ceiling.
    pub fn roof(&self, work: &Work, footprint_bytes: u64) -> Option<Roof> {
        let memory_s = self.bandwidth.seconds(work, footprint_bytes);
        Roof::of(work, memory_s, |resource| match resource {
            Resource::Matrix(dtype) | Resource::Vector(dtype) => self.flops_per_s(dtype),
            Resource::Link(link, direction) => self.link_bytes_per_s(link, direction),
            // The mix of reads and writes has a ceiling of its own, in `memory_s`.
            Resource::MemoryRead | Resource::MemoryWrite => Some(f64::INFINITY),
        })
    }
}

/// Which kind of resource sets the time of a piece of work.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum RoofKind {
    /// Bytes per second of memory.
    Memory,
    /// FLOPs per second.
    Compute,
    /// Bytes per second of a link.
    Link,
}

impl RoofKind {
    /// The spelling used in tables and CSV files.
    pub const fn name(self) -> &'static str {
        match self {
            RoofKind::Memory => "memory",
            RoofKind::Compute => "compute",
            RoofKind::Link => "link",
        }
    }
}

/// The times that a roofline compares.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Roof {
    /// Seconds to move the bytes to and from memory.
    pub memory_s: f64,
    /// Seconds to do the arithmetic: units of all kinds work side by side.
    pub compute_s: f64,
    /// Seconds to move the bytes over links: both ways of all of them at once.
    pub link_s: f64,
}

impl Roof {
    /// The times of `work` at rates per second of its resources, where its bytes of memory
    /// take `memory_s`. `None` when a rate is not known.
    pub fn of(
        work: &Work,
        memory_s: f64,
        rate: impl Fn(Resource) -> Option<f64>,
    ) -> Option<Roof> {
        let mut roof = Roof { memory_s, compute_s: 0.0, link_s: 0.0 };
        for (resource, amount) in work.amounts() {
            let seconds = amount as f64 / rate(resource)?;
            match resource {
                Resource::MemoryRead | Resource::MemoryWrite => {}
                Resource::Matrix(_) | Resource::Vector(_) => {
                    roof.compute_s = roof.compute_s.max(seconds);
                }
                Resource::Link(..) => {
                    roof.link_s = roof.link_s.max(seconds);
                }
            }
        }
        Some(roof)
    }

    /// Seconds when all overlap perfectly.
    pub fn time_s(&self) -> f64 {
        self.memory_s.max(self.compute_s).max(self.link_s)
    }

    /// The kind of resource that takes longest.
    pub fn binding(&self) -> RoofKind {
        if self.link_s > self.memory_s.max(self.compute_s) {
            RoofKind::Link
        } else if self.memory_s >= self.compute_s {
            RoofKind::Memory
        } else {
            RoofKind::Compute
        }
    }

    /// Share of the binding roof that a measured time reaches, not clamped.
    pub fn fraction(&self, measured_s: f64) -> f64 {
        self.time_s() / measured_s
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn point(footprint_bytes: u64, bytes_per_s: f64) -> CurvePoint {
        CurvePoint { footprint_bytes, bytes_per_s }
    }

    fn h100() -> Peaks {
        Peaks {
            bandwidth: Bandwidth::flat(3.35e12),
            compute: vec![ComputePeak { dtype: DType::Bf16, flops_per_s: 989e12 }],
            links: LinkDirection::ALL
                .map(|direction| LinkPeak {
                    link: Link::Peer,
                    direction,
                    bytes_per_s: 450e9,
                })
                .to_vec(),
        }
    }

    #[test]
    fn curve_is_linear_in_the_logarithm_and_constant_beyond_its_ends() {
        let curve = Curve::new(vec![point(1 << 30, 30.0), point(1 << 20, 90.0)]).unwrap();
        assert_eq!(curve.at(1), 90.0);
        assert_eq!(curve.at(1 << 20), 90.0);
        assert!((curve.at(1 << 25) - 60.0).abs() < 1e-9);
        assert_eq!(curve.at(1 << 30), 30.0);
        assert_eq!(curve.at(1 << 40), 30.0);
        assert_eq!(curve.plateau(), point(1 << 30, 30.0));
        assert_eq!(Curve::new(vec![]), None);
    }

    #[test]
    fn memory_time_follows_the_share_of_writes() {
        let bandwidth = Bandwidth {
            read: Curve::flat(10.0),
            write: Some(Curve::flat(5.0)),
            copy: Some(Curve::flat(4.0)),
        };
        let seconds = |bytes_read, bytes_written| {
            bandwidth.seconds(&Work::NONE.with_bytes(bytes_read, bytes_written), 0)
        };
        assert!((seconds(100, 0) - 10.0).abs() < 1e-12);
        assert!((seconds(50, 50) - 25.0).abs() < 1e-12);
        assert!((seconds(0, 100) - 20.0).abs() < 1e-12);
        // A quarter written lies half way between read and copy: 0.175 s/B.
        assert!((seconds(75, 25) - 17.5).abs() < 1e-12);
        assert_eq!(seconds(0, 0), 0.0);
    }

    #[test]
    fn unmeasured_directions_are_read_off_the_measured_ones() {
        let work = Work::NONE.with_bytes(0, 100);
        assert!((Bandwidth::flat(10.0).seconds(&work, 0) - 10.0).abs() < 1e-12);
        let copy_only = Bandwidth {
            read: Curve::flat(10.0),
            write: None,
            copy: Some(Curve::flat(5.0)),
        };
        assert!((copy_only.seconds(&work, 0) - 20.0).abs() < 1e-12);
    }

    #[test]
    fn ridge_of_the_h100_is_295() {
        assert!((h100().ridge(DType::Bf16).unwrap() - 295.2).abs() < 0.05);
        assert_eq!(h100().ridge(DType::F32), None);
    }

    #[test]
    fn the_slower_resource_binds() {
        let matrix = Resource::Matrix(DType::Bf16);
        let memory = Work::NONE.with_bytes(1, 0).with(matrix, 4);
        let compute = Work::NONE.with_bytes(1, 0).with(matrix, 400);
        let roof = |work| h100().roof(work, 0).unwrap();
        assert_eq!(roof(&memory).binding(), RoofKind::Memory);
        assert_eq!(roof(&memory).time_s(), 1.0 / 3.35e12);
        assert_eq!(roof(&compute).binding(), RoofKind::Compute);
        assert_eq!(roof(&compute).time_s(), 400.0 / 989e12);
    }

    #[test]
    fn fraction_is_not_clamped() {
        let roof = Roof { memory_s: 2.0, compute_s: 1.0, link_s: 0.5 };
        assert_eq!(roof.fraction(4.0), 0.5);
        assert_eq!(roof.fraction(1.0), 2.0);
    }

    #[test]
    fn an_unknown_format_has_no_roof_unless_nothing_is_computed() {
        let bytes_only = Work::NONE.with_bytes(335, 0);
        let computes = bytes_only.with(Resource::Matrix(DType::Int8), 1);
        assert!(h100().roof(&bytes_only, 0).is_some());
        assert!(h100().roof(&computes, 0).is_none());
        let sends = bytes_only.with_link(Link::Network, LinkDirection::Out, 1);
        assert!(h100().roof(&sends, 0).is_none());
    }

    #[test]
    fn both_ways_of_a_link_are_used_at_once() {
        let work = Work::NONE
            .with_bytes(1, 1)
            .with_link(Link::Peer, LinkDirection::Out, 900)
            .with_link(Link::Peer, LinkDirection::In, 450);
        let roof = h100().roof(&work, 0).unwrap();
        assert_eq!((roof.time_s(), roof.binding()), (900.0 / 450e9, RoofKind::Link));
    }
}

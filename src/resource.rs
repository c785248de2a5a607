//! What work is made of: amounts of resources. A problem's [`Work`] is a list of amounts, a
//! machine's ceilings are rates of the same resources, and a roofline divides the one by
//! the other.

use crate::format::{DType, text_of_name};

/// A way to bytes outside of a device's memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Link {
    /// To the memory of the host: PCIe, or NVLink-C2C.
    Host,
    /// To other devices of the same host or rack: NVLink.
    Peer,
    /// To other hosts.
    Network,
}

text_of_name!(Link => "a link");

impl Link {
    /// Every link, in the order in which tables list them.
    pub const ALL: [Link; 3] = [Link::Host, Link::Peer, Link::Network];

    /// The spelling used in suites, ids and CSV files.
    pub const fn name(self) -> &'static str {
        match self {
            Link::Host => "host",
            Link::Peer => "peer",
            Link::Network => "network",
        }
    }
}

/// Which way bytes go over a link, seen from the device. Both ways have their own rate.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum LinkDirection {
    /// To the device.
    In,
    /// From the device.
    Out,
}

impl LinkDirection {
    /// Both, in the order in which tables list them.
    pub const ALL: [LinkDirection; 2] = [LinkDirection::In, LinkDirection::Out];

    /// The spelling used in tables.
    pub const fn name(self) -> &'static str {
        match self {
            LinkDirection::In => "in",
            LinkDirection::Out => "out",
        }
    }
}

/// What a problem uses some of, and a machine has so much of in a second.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Resource {
    /// Bytes read from the device's memory.
    MemoryRead,
    /// Bytes written to the device's memory.
    MemoryWrite,
    /// FLOPs of matrix products on operands of a format, which tensor cores can do.
    Matrix(DType),
    /// FLOPs in a format that only the vector units can do.
    Vector(DType),
    /// Bytes over a link.
    Link(Link, LinkDirection),
}

impl Resource {
    /// The format of FLOPs; `None` for bytes.
    pub const fn dtype(self) -> Option<DType> {
        match self {
            Resource::Matrix(dtype) | Resource::Vector(dtype) => Some(dtype),
            Resource::MemoryRead | Resource::MemoryWrite | Resource::Link(..) => None,
        }
    }
}

/// Resources that one problem uses, at most.
const MOST: usize = 6;

/// What a problem cannot do without: an amount of each resource that it uses, FLOPs or
/// bytes.
#[derive(Clone, Copy, Debug, Default)]
pub struct Work {
    amounts: [Option<(Resource, u64)>; MOST],
}

impl Work {
    /// No work yet.
    pub const NONE: Work = Work { amounts: [None; MOST] };

    /// The same with so much more of a resource.
    ///
    /// # Panics
    /// If there are more different resources than any operation uses.
    pub fn with(mut self, resource: Resource, amount: u64) -> Work {
        if amount == 0 {
            return self;
        }
        let place = self.amounts.iter_mut().find(|place| match place {
            Some((known, _)) => *known == resource,
            None => true,
        });
        match place {
            Some(place) => {
                let before = place.map_or(0, |(_, before)| before);
                *place = Some((resource, before + amount));
            }
            None => panic!("an operation uses more than {MOST} resources"),
        }
        self
    }

    /// The same with so many bytes read from and written to memory.
    pub fn with_bytes(self, read: u64, written: u64) -> Work {
        self.with(Resource::MemoryRead, read).with(Resource::MemoryWrite, written)
    }

    /// The same with so many bytes over a link.
    pub fn with_link(self, link: Link, direction: LinkDirection, bytes: u64) -> Work {
        self.with(Resource::Link(link, direction), bytes)
    }

    /// The same so many times.
    pub fn times(self, count: u64) -> Work {
        self.amounts()
            .fold(Work::NONE, |sum, (resource, amount)| sum.with(resource, count * amount))
    }

    /// The same with other work beside it.
    pub fn and(self, other: Work) -> Work {
        other.amounts().fold(self, |sum, (resource, amount)| sum.with(resource, amount))
    }

    /// The resources that are used, each with its amount above 0.
    pub fn amounts(&self) -> impl Iterator<Item = (Resource, u64)> + '_ {
        self.amounts.iter().flatten().copied()
    }

    fn sum(&self, wanted: impl Fn(Resource) -> bool) -> u64 {
        self.amounts().filter(|(resource, _)| wanted(*resource)).map(|(_, n)| n).sum()
    }

    /// FLOPs of matrix products.
    pub fn matrix_flops(&self) -> u64 {
        self.sum(|resource| matches!(resource, Resource::Matrix(_)))
    }

    /// FLOPs that only the vector units can do.
    pub fn vector_flops(&self) -> u64 {
        self.sum(|resource| matches!(resource, Resource::Vector(_)))
    }

    /// All FLOPs.
    pub fn flops(&self) -> u64 {
        self.sum(|resource| resource.dtype().is_some())
    }

    /// Bytes that must be read from memory.
    pub fn bytes_read(&self) -> u64 {
        self.sum(|resource| resource == Resource::MemoryRead)
    }

    /// Bytes that must be written to memory.
    pub fn bytes_written(&self) -> u64 {
        self.sum(|resource| resource == Resource::MemoryWrite)
    }

    /// All bytes to and from memory.
    pub fn bytes(&self) -> u64 {
        self.bytes_read() + self.bytes_written()
    }

    /// Bytes that the device sends over any link.
    pub fn sent_bytes(&self) -> u64 {
        self.sum(|resource| matches!(resource, Resource::Link(_, LinkDirection::Out)))
    }

    /// The format whose compute ceiling binds, if anything is computed: that of the most
    /// FLOPs.
    pub fn math_dtype(&self) -> Option<DType> {
        let flops = self.amounts().filter(|(resource, _)| resource.dtype().is_some());
        flops.max_by_key(|(_, flops)| *flops).and_then(|(resource, _)| resource.dtype())
    }

    /// Operational intensity in FLOPs per byte of memory.
    pub fn operational_intensity(&self) -> f64 {
        self.flops() as f64 / self.bytes() as f64
    }
}

/// The same amounts, in whichever order they were named.
impl PartialEq for Work {
    fn eq(&self, other: &Work) -> bool {
        let all = |work: &Work| {
            let mut amounts: Vec<_> = work.amounts().collect();
            amounts.sort_unstable();
            amounts
        };
        all(self) == all(other)
    }
}

impl Eq for Work {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn amounts_add_up_by_resource() {
        let work = Work::NONE
            .with(Resource::Matrix(DType::Bf16), 30)
            .with_bytes(10, 5)
            .with(Resource::Vector(DType::F32), 2)
            .with(Resource::Matrix(DType::Bf16), 10)
            .with_link(Link::Peer, LinkDirection::Out, 7)
            .with_link(Link::Peer, LinkDirection::In, 9);
        assert_eq!((work.matrix_flops(), work.vector_flops(), work.flops()), (40, 2, 42));
        assert_eq!((work.bytes_read(), work.bytes_written(), work.bytes()), (10, 5, 15));
        assert_eq!(work.sent_bytes(), 7);
        assert_eq!(work.math_dtype(), Some(DType::Bf16));
        assert_eq!(work.operational_intensity(), 42.0 / 15.0);
        assert_eq!(work.amounts().count(), 6);
        assert_eq!(Work::NONE.with_bytes(0, 0), Work::NONE);
        assert_eq!(Work::NONE.math_dtype(), None);
    }

    #[test]
    fn works_are_added_and_multiplied() {
        let product = Work::NONE.with(Resource::Matrix(DType::F16), 3).with_bytes(2, 1);
        let norm = Work::NONE.with(Resource::Vector(DType::F32), 4).with_bytes(7, 0);
        let both = product.times(5).and(norm);
        assert_eq!((both.matrix_flops(), both.vector_flops()), (15, 4));
        assert_eq!((both.bytes_read(), both.bytes_written()), (17, 5));
        assert_eq!(product.times(0), Work::NONE);
    }

    #[test]
    fn the_order_of_amounts_does_not_matter() {
        let (read, flops) = (Resource::MemoryRead, Resource::Matrix(DType::F16));
        assert_eq!(
            Work::NONE.with(read, 1).with(flops, 2),
            Work::NONE.with(flops, 2).with(read, 1)
        );
        assert_ne!(Work::NONE.with(read, 1), Work::NONE.with(read, 2));
    }
}

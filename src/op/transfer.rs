//! Copies between the memory of the host and that of the device: the ceilings of the link
//! between them.

use std::any::Any;

use super::explanation::Explanation;
use super::judged::{
    Hue, Judged, JudgedFacts, KneeAxis, MarkerShape, OpMarker, PairKind, Purpose, Sweep,
    SweepPlace,
};
use super::{Access, Reuse};
use super::{Facts, Fields, KeySpec, Magnitude, Operation, ProblemError, Routed};
use crate::format::{HostMemory, Role, Tensor, TensorFormat, text_of_name};
use crate::resource::{Link, LinkDirection, Work};

pub(super) const FACTS: Facts = Facts {
    name: "transfer",
    keys: &[KeySpec::bare("direction"), KeySpec::bare("memory"), KeySpec::bytes("bytes")],
    size_keys: &["bytes"],
    examples: &["transfer:direction=both,memory=pinned,bytes=4 KiB"],
    judged: JudgedFacts {
        prose: "transfer",
        marker: OpMarker { shape: MarkerShape::Diamond, hue: Hue::SkyBlue },
        purpose: Purpose::LinkRoof,
        sets_compute_ceiling: false,
        reads_cache: false,
    },
};

/// Which way bytes go between host and device.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum TransferDirection {
    /// From the memory of the host to that of the device.
    HostToDevice,
    /// From the memory of the device to that of the host.
    DeviceToHost,
    /// One half of the bytes each way, at the same time.
    Both,
}

text_of_name!(TransferDirection => "a direction");

impl TransferDirection {
    /// Every direction, in the order in which tables list them.
    pub const ALL: [TransferDirection; 3] = [
        TransferDirection::HostToDevice,
        TransferDirection::DeviceToHost,
        TransferDirection::Both,
    ];

    /// The spelling used in suites, ids and CSV files.
    pub const fn name(self) -> &'static str {
        match self {
            TransferDirection::HostToDevice => "host_to_device",
            TransferDirection::DeviceToHost => "device_to_host",
            TransferDirection::Both => "both",
        }
    }
}

/// A copy of `bytes` between host and device.
///
/// Work: the bytes over the link, and those that the device's memory takes in or gives out.
/// The host's own memory is not a resource of the device and is not counted.
///
/// What arrives at the device is in `device_target`, what arrives at the host in
/// `host_target`. With [`TransferDirection::Both`] the answer is both, in this order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Transfer {
    /// Which way.
    pub direction: TransferDirection,
    /// How the host's memory is allocated.
    pub memory: HostMemory,
    /// All bytes that move; `both` moves one half each way.
    pub bytes: u64,
}

pub(super) fn read(f: &Fields) -> Result<Transfer, ProblemError> {
    Ok(Transfer {
        direction: f.parse("direction")?,
        memory: f.parse("memory")?,
        bytes: f.size("bytes")?,
    })
}

/// What `bytes` must be a multiple of: each way moves whole lines of 128 bytes.
const STEP_BYTES: u64 = 256;

impl Transfer {
    /// Bytes that go to the device.
    pub const fn bytes_in(&self) -> u64 {
        match self.direction {
            TransferDirection::HostToDevice => self.bytes,
            TransferDirection::DeviceToHost => 0,
            TransferDirection::Both => self.bytes / 2,
        }
    }

    /// Bytes that come from the device.
    pub const fn bytes_out(&self) -> u64 {
        self.bytes - self.bytes_in()
    }
}

impl Operation for Transfer {
    fn values(&self) -> Vec<String> {
        vec![self.direction.to_string(), self.memory.to_string(), self.bytes.to_string()]
    }

    fn check(&self) -> Result<(), ProblemError> {
        if self.bytes.is_multiple_of(STEP_BYTES) {
            return Ok(());
        }
        Err(ProblemError::at(
            "bytes",
            format!(
                "bytes = {} is not a multiple of {STEP_BYTES}, a line of 128 bytes each way; use \
                 {}",
                self.bytes,
                self.bytes.next_multiple_of(STEP_BYTES)
            ),
        ))
    }

    fn magnitude(&self) -> Magnitude {
        Magnitude { flops: 0.0, elements: 2.0 * self.bytes as f64 / 4.0 }
    }

    fn work(&self) -> Work {
        Work::NONE
            .with_bytes(self.bytes_out(), self.bytes_in())
            .with_link(Link::Host, LinkDirection::In, self.bytes_in())
            .with_link(Link::Host, LinkDirection::Out, self.bytes_out())
    }

    fn explanation(&self) -> Explanation {
        Explanation::results(&self.work())
    }

    fn tensors(&self) -> Vec<Tensor> {
        use Role::{Input, Output};
        let device = |name, role, bytes: u64| {
            Tensor::new(name, role, TensorFormat::Words, bytes / 4)
        };
        let host = |name, role, bytes| device(name, role, bytes).on_host(self.memory);
        let (bytes_in, bytes_out) = (self.bytes_in(), self.bytes_out());
        let all = [
            host("host_source", Input, bytes_in),
            device("device_source", Input, bytes_out),
            device("device_target", Output, bytes_in),
            host("host_target", Output, bytes_out),
        ];
        all.into_iter().filter(|tensor| tensor.elements > 0).collect()
    }

    fn weight_bytes(&self) -> u64 {
        0
    }

    fn cache_bytes(&self) -> u64 {
        0
    }

    fn has_usual_data(&self) -> bool {
        true
    }

    fn routed(&self) -> Option<Routed> {
        None
    }
}

impl Judged for Transfer {
    fn memory_roof(&self) -> Option<Access> {
        None
    }

    fn reuse(&self) -> Option<Reuse> {
        None
    }

    fn line(&self) -> Option<String> {
        Some(format!("{}, {}", self.direction, self.memory))
    }

    fn place_in(&self, _: Sweep) -> Option<SweepPlace> {
        None
    }

    fn pair_with(&self, _: &dyn Any) -> Option<PairKind> {
        None
    }

    fn knee(&self) -> Option<KneeAxis> {
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::format::MemoryPlace;
    use crate::op::Problem;

    fn transfer(direction: &str) -> Problem {
        let text = format!("transfer:direction={direction},memory=pageable,bytes=1 KiB");
        text.parse().unwrap()
    }

    /// Name, place and bytes of each tensor, worked out by hand.
    #[test]
    fn tensors_lie_where_bytes_come_from_and_go_to() {
        let host = MemoryPlace::Host(HostMemory::Pageable);
        let all = |direction| -> Vec<_> {
            let tensors = transfer(direction).tensors();
            tensors.iter().map(|t| (t.name, t.place, t.bytes())).collect()
        };
        assert_eq!(
            all("host_to_device"),
            [("host_source", host, 1024), ("device_target", MemoryPlace::Device, 1024)]
        );
        assert_eq!(
            all("device_to_host"),
            [("device_source", MemoryPlace::Device, 1024), ("host_target", host, 1024)]
        );
        assert_eq!(
            all("both"),
            [
                ("host_source", host, 512),
                ("device_source", MemoryPlace::Device, 512),
                ("device_target", MemoryPlace::Device, 512),
                ("host_target", host, 512),
            ]
        );
        assert_eq!(transfer("both").output().bytes(), 1024);
    }

    /// Bytes by link and memory: all one way, or one half each way.
    #[test]
    fn each_way_of_the_link_has_its_own_bytes() {
        let work = |bytes_in, bytes_out| {
            Work::NONE
                .with_bytes(bytes_out, bytes_in)
                .with_link(Link::Host, LinkDirection::In, bytes_in)
                .with_link(Link::Host, LinkDirection::Out, bytes_out)
        };
        assert_eq!(transfer("host_to_device").work(), work(1024, 0));
        assert_eq!(transfer("device_to_host").work(), work(0, 1024));
        assert_eq!(transfer("both").work(), work(512, 512));
    }

    #[test]
    fn each_way_moves_whole_lines() {
        let text = "transfer:direction=both,memory=pinned,bytes=384";
        let error = text.parse::<Problem>().unwrap_err();
        assert_eq!(error.key.as_deref(), Some("bytes"));
        assert!(error.message.contains("use 512"), "{error}");
        let error =
            "transfer:direction=up,memory=pinned,bytes=256".parse::<Problem>().unwrap_err();
        assert!(error.message.contains("host_to_device, device_to_host, both"), "{error}");
    }
}

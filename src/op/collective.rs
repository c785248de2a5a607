//! What devices send each other: collectives over links.

use super::explanation::Explanation;
use super::judged::{Hue, JudgedFacts, MarkerShape, OpMarker, Purpose, not_compared};
use super::{Facts, Fields, KeySpec, Magnitude, Operation, ProblemError, Routed};
use crate::format::{Role, Tensor, TensorFormat, text_of_name};
use crate::resource::{Link, LinkDirection, Work};

pub(super) const FACTS: Facts = Facts {
    name: "collective",
    keys: &[
        KeySpec::bare("collective"),
        KeySpec::new("ranks"),
        KeySpec::bytes("bytes"),
        KeySpec::bare("link").or("peer"),
    ],
    size_keys: &["bytes"],
    examples: &["collective:collective=all_reduce,ranks=8,bytes=16 KiB,link=peer"],
    judged: JudgedFacts {
        prose: "collective",
        marker: OpMarker { shape: MarkerShape::Square, hue: Hue::SkyBlue },
        purpose: Purpose::Work,
        sets_compute_ceiling: false,
        reads_cache: false,
    },
};

/// Which collective, in the words of NCCL and MPI.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum CollectiveKind {
    /// The sum of all ranks' arrays, for all of them.
    AllReduce,
    /// All ranks' parts, for all of them.
    AllGather,
    /// The sum of all ranks' arrays, a part for each.
    ReduceScatter,
    /// A part of each rank's array for each other.
    AllToAll,
}

text_of_name!(CollectiveKind => "a collective");

impl CollectiveKind {
    /// Every collective, in the order in which tables list them.
    pub const ALL: [CollectiveKind; 4] = [
        CollectiveKind::AllReduce,
        CollectiveKind::AllGather,
        CollectiveKind::ReduceScatter,
        CollectiveKind::AllToAll,
    ];

    /// The spelling used in suites, ids and CSV files.
    pub const fn name(self) -> &'static str {
        match self {
            CollectiveKind::AllReduce => "all_reduce",
            CollectiveKind::AllGather => "all_gather",
            CollectiveKind::ReduceScatter => "reduce_scatter",
            CollectiveKind::AllToAll => "all_to_all",
        }
    }
}

/// One rank's share of a collective. `bytes` is the size of its larger array, as NCCL's
/// benchmarks count it: what is reduced, scattered or exchanged, or what is gathered.
///
/// Work: what each rank must send, and receive, over the link: `(r - 1) / r` of the array,
/// and twice that for an all-reduce, which is a reduce-scatter and an all-gather (ring;
/// Thakur, Rabenseifner and Gropp, 2005). The array's own reads and writes are those of the
/// operations before and after it, which count them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Collective {
    /// Which one.
    pub collective: CollectiveKind,
    /// Devices that take part.
    pub ranks: u64,
    /// Bytes of a rank's larger array.
    pub bytes: u64,
    /// What they are connected by.
    pub link: Link,
}

pub(super) fn read(f: &Fields) -> Result<Collective, ProblemError> {
    Ok(Collective {
        collective: f.parse("collective")?,
        ranks: f.extent("ranks")?,
        bytes: f.size("bytes")?,
        link: f.parse("link")?,
    })
}

impl Collective {
    /// Bytes that each rank sends, and receives.
    pub fn sent_bytes(&self) -> u64 {
        let steps = match self.collective {
            CollectiveKind::AllReduce => 2,
            CollectiveKind::AllGather
            | CollectiveKind::ReduceScatter
            | CollectiveKind::AllToAll => 1,
        };
        let others = u128::from(self.ranks - 1);
        // At most 2 * 2^40, since extents are limited.
        (steps * u128::from(self.bytes) * others / u128::from(self.ranks)) as u64
    }
}

impl Operation for Collective {
    fn values(&self) -> Vec<String> {
        let Collective { collective, ranks, bytes, link } = self;
        vec![collective.to_string(), ranks.to_string(), bytes.to_string(), link.to_string()]
    }

    fn check(&self) -> Result<(), ProblemError> {
        Ok(())
    }

    fn magnitude(&self) -> Magnitude {
        Magnitude { flops: 0.0, elements: 2.0 * self.bytes as f64 / 4.0 }
    }

    fn work(&self) -> Work {
        Work::NONE.with_link(self.link, LinkDirection::Out, self.sent_bytes()).with_link(
            self.link,
            LinkDirection::In,
            self.sent_bytes(),
        )
    }

    fn explanation(&self) -> Explanation {
        Explanation::results(&self.work())
    }

    fn tensors(&self) -> Vec<Tensor> {
        let part = self.bytes.div_ceil(self.ranks);
        let (input, output) = match self.collective {
            CollectiveKind::AllReduce | CollectiveKind::AllToAll => {
                (self.bytes, self.bytes)
            }
            CollectiveKind::AllGather => (part, self.bytes),
            CollectiveKind::ReduceScatter => (self.bytes, part),
        };
        let array = |name, role, bytes: u64| {
            Tensor::new(name, role, TensorFormat::Words, bytes.div_ceil(4))
        };
        vec![array("sent", Role::Input, input), array("received", Role::Output, output)]
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

not_compared!(Collective);

//! Streams through memory: the bandwidth ceilings.

use std::any::Any;

use super::explanation::Explanation;
use super::judged::{
    Hue, Judged, JudgedFacts, KneeAxis, MarkerShape, OpMarker, PairKind, Purpose, Sweep,
    SweepPlace,
};
use super::{Access, Reuse};
use super::{Facts, Fields, KeySpec, Magnitude, Operation, ProblemError, Routed};
use crate::format::{DType, Role, Tensor, TensorFormat};
use crate::resource::{Resource, Work};

pub(super) const FACTS: Facts = Facts {
    name: "stream",
    keys: &[
        KeySpec::bare("access"),
        KeySpec::bytes("bytes"),
        KeySpec::new("passes").or("1").silent(),
        KeySpec::new("reuse").or("shared").silent(),
    ],
    size_keys: &["bytes"],
    examples: &[
        "stream:access=copy,bytes=4 KiB",
        "stream:access=read,bytes=8 KiB,passes=3",
        "stream:access=read,bytes=8 KiB,passes=3,reuse=own",
    ],
    judged: JudgedFacts {
        prose: "stream",
        marker: OpMarker { shape: MarkerShape::Wedge, hue: Hue::SkyBlue },
        purpose: Purpose::MemoryRoof,
        sets_compute_ceiling: false,
        reads_cache: false,
    },
};

/// Stream through `bytes` of memory: the bandwidth ceilings.
///
/// Work: the bytes, in each pass; a triad has 2 FLOPs for 12 of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Stream {
    /// Which way.
    pub access: Access,
    /// Distinct bytes touched; a copy reads one half and writes the other, a
    /// triad reads two thirds and writes the third.
    pub bytes: u64,
    /// How many times one launch reads all of them, in other orders: more than once for sets
    /// that a cache holds, whose bandwidth does not show in the few microseconds of one pass.
    pub passes: u64,
    /// Whether a core reads in each pass what another one read in the pass before, or its own
    /// share again.
    pub reuse: Reuse,
}

/// Most passes.
const MAX_PASSES: u64 = 1 << 16;

pub(super) fn read(f: &Fields) -> Result<Stream, ProblemError> {
    Ok(Stream {
        access: f.parse("access")?,
        bytes: f.size("bytes")?,
        passes: f.extent("passes")?,
        reuse: f.parse("reuse")?,
    })
}

impl Stream {
    /// What `bytes` must be a multiple of: every array is whole 128-byte lines.
    const fn line_bytes(self) -> u64 {
        match self.access {
            Access::Read | Access::Write | Access::Copy => 128,
            Access::Triad => 3 * 128,
        }
    }

    /// A multiplication and an addition for each element of a triad.
    const fn flops(self) -> u64 {
        match self.access {
            Access::Read | Access::Write | Access::Copy => 0,
            Access::Triad => 2 * (self.bytes / 3 / DType::F32.bytes()),
        }
    }

    /// Bytes that are written.
    pub const fn bytes_written(self) -> u64 {
        match self.access {
            Access::Read => 0,
            Access::Write => self.bytes,
            Access::Copy => self.bytes / 2,
            Access::Triad => self.bytes / 3,
        }
    }
}

impl Operation for Stream {
    fn values(&self) -> Vec<String> {
        vec![
            self.access.to_string(),
            self.bytes.to_string(),
            self.passes.to_string(),
            self.reuse.to_string(),
        ]
    }

    fn check(&self) -> Result<(), ProblemError> {
        if self.passes > 1 && self.access != Access::Read {
            return Err(ProblemError::at(
                "passes",
                format!(
                    "passes = {} of a {}: only reads have several; leave passes out",
                    self.passes, self.access
                ),
            ));
        }
        if self.passes > MAX_PASSES {
            return Err(ProblemError::at(
                "passes",
                format!("passes = {} are more than {MAX_PASSES}; use fewer", self.passes),
            ));
        }
        if self.reuse == Reuse::Own && self.passes == 1 {
            return Err(ProblemError::at(
                "reuse",
                format!(
                    "reuse = own of a {} with passes = 1, which reads nothing again; write \
                     access = \"read\" with passes = 2 or more, or leave reuse out",
                    self.access
                ),
            ));
        }
        if self.bytes.is_multiple_of(self.line_bytes()) {
            return Ok(());
        }
        Err(ProblemError::at(
            "bytes",
            format!(
                "bytes = {} is not a multiple of {}, a line in each array of a {}; use {}",
                self.bytes,
                self.line_bytes(),
                self.access,
                self.bytes.next_multiple_of(self.line_bytes())
            ),
        ))
    }

    fn magnitude(&self) -> Magnitude {
        Magnitude {
            flops: self.flops() as f64,
            elements: self.bytes as f64 / 4.0 * self.passes as f64,
        }
    }

    fn work(&self) -> Work {
        Work::NONE
            .with_bytes(
                self.passes * (self.bytes - self.bytes_written()),
                self.bytes_written(),
            )
            .with(Resource::Vector(DType::F32), self.flops())
    }

    fn explanation(&self) -> Explanation {
        Explanation::results(&self.work())
    }

    fn tensors(&self) -> Vec<Tensor> {
        use Role::{Input, Output, Witness};
        let words = self.bytes / 4;
        let of_words =
            |name, role, words| Tensor::new(name, role, TensorFormat::Words, words);
        match self.access {
            Access::Read => {
                vec![of_words("source", Input, words), of_words("checksum", Witness, 1)]
            }
            Access::Write => vec![of_words("target", Output, words)],
            Access::Copy => {
                vec![
                    of_words("source", Input, words / 2),
                    of_words("target", Output, words / 2),
                ]
            }
            Access::Triad => {
                let array = |name, role| {
                    Tensor::new(name, role, TensorFormat::Values(DType::F32), words / 3)
                };
                vec![array("b", Input), array("c", Input), array("a", Output)]
            }
        }
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

impl Judged for Stream {
    fn memory_roof(&self) -> Option<Access> {
        // A cache of one core serves no other: its rate is no limit of what all of them do.
        (self.reuse == Reuse::Shared).then_some(self.access)
    }

    fn reuse(&self) -> Option<Reuse> {
        (self.passes > 1).then_some(self.reuse)
    }

    fn line(&self) -> Option<String> {
        (self.access == Access::Read && self.passes == 1).then(|| "read".to_owned())
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

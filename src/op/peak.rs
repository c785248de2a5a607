//! Arithmetic out of registers: the compute ceilings.

use super::contract::product;
use super::explanation::Explanation;
use super::judged::{Hue, JudgedFacts, MarkerShape, OpMarker, Purpose, not_compared};
use super::{Facts, Fields, KeySpec, Magnitude, Operation, ProblemError, Routed};
use crate::format::{DType, Role, Tensor, TensorFormat, text_of_name};
use crate::resource::{Resource, Work};

pub(super) const FACTS: Facts = Facts {
    name: "peak",
    keys: &[
        KeySpec::bare("unit"),
        KeySpec::bare("dtype"),
        KeySpec::new("lanes"),
        KeySpec::new("steps"),
    ],
    examples: &[
        "peak:unit=fma,dtype=f32,lanes=64,steps=8",
        "peak:unit=tensor,dtype=bf16,lanes=64,steps=8",
    ],
    judged: JudgedFacts {
        prose: "peak",
        marker: OpMarker { shape: MarkerShape::Triangle, hue: Hue::Purple },
        purpose: Purpose::ComputeRoof,
        sets_compute_ceiling: true,
        reads_cache: false,
    },
};

/// Which arithmetic unit a problem keeps busy.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Unit {
    /// Multiply-adds on the ordinary vector units.
    Fma,
    /// Matrix multiply-accumulates on tensor cores or their like.
    Tensor,
}

text_of_name!(Unit => "a unit");

impl Unit {
    /// Every unit, in the order in which tables list them.
    pub const ALL: [Unit; 2] = [Unit::Fma, Unit::Tensor];

    /// The spelling used in suites, ids and CSV files.
    pub const fn name(self) -> &'static str {
        match self {
            Unit::Fma => "fma",
            Unit::Tensor => "tensor",
        }
    }

    /// FLOPs of one step of one lane.
    const fn step_flops(self) -> u64 {
        match self {
            Unit::Fma => 2,
            Unit::Tensor => 2 * 16 * 8 * 16,
        }
    }

    /// Elements that one lane holds.
    const fn lane_elements(self) -> u64 {
        match self {
            Unit::Fma => 1,
            Unit::Tensor => 16 * 8,
        }
    }
}

/// Arithmetic out of registers: the compute ceilings. Each of `lanes` values
/// goes through `steps` dependent multiply-adds.
///
/// With [`Unit::Fma`] a lane is one value and a step is `x = x * a + b`. With
/// [`Unit::Tensor`] a lane is a 16 x 8 accumulator tile and a step adds the
/// product of a 16 x 16 and a 16 x 8 tile, 4096 FLOPs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Peak {
    /// Which unit.
    pub unit: Unit,
    /// Format of the operands.
    pub dtype: DType,
    /// Independent chains.
    pub lanes: u64,
    /// Multiply-adds in each chain.
    pub steps: u64,
}

pub(super) fn read(f: &Fields) -> Result<Peak, ProblemError> {
    Ok(Peak {
        unit: f.parse("unit")?,
        dtype: f.dtype("dtype")?,
        lanes: f.extent("lanes")?,
        steps: f.extent("steps")?,
    })
}

impl Peak {
    /// Elements of the start, and of the end.
    const fn elements(&self) -> u64 {
        self.lanes * self.unit.lane_elements()
    }
}

impl Operation for Peak {
    fn values(&self) -> Vec<String> {
        let Peak { unit, dtype, lanes, steps } = self;
        vec![unit.to_string(), dtype.to_string(), lanes.to_string(), steps.to_string()]
    }

    fn check(&self) -> Result<(), ProblemError> {
        if self.unit == Unit::Tensor && self.dtype == DType::F32 {
            return Err(ProblemError::at(
                "dtype",
                "no tensor unit takes f32 operands; use `unit = \"fma\"` or a 16-bit or 8-bit \
                 dtype",
            ));
        }
        Ok(())
    }

    fn magnitude(&self) -> Magnitude {
        Magnitude {
            flops: product(&[self.unit.step_flops(), self.lanes, self.steps]),
            elements: product(&[2, self.unit.lane_elements(), self.lanes]),
        }
    }

    fn work(&self) -> Work {
        let flops = self.unit.step_flops() * self.lanes * self.steps;
        let unit = match self.unit {
            Unit::Fma => Resource::Vector(self.dtype),
            Unit::Tensor => Resource::Matrix(self.dtype),
        };
        let bytes = self.elements() * DType::F32.bytes();
        Work::NONE.with(unit, flops).with_bytes(bytes, bytes)
    }

    fn explanation(&self) -> Explanation {
        Explanation::results(&self.work())
    }

    fn tensors(&self) -> Vec<Tensor> {
        let values = TensorFormat::Values(DType::F32);
        vec![
            Tensor::new("start", Role::Input, values, self.elements()),
            Tensor::new("end", Role::Output, values, self.elements()),
        ]
    }

    fn weight_bytes(&self) -> u64 {
        0
    }

    fn cache_bytes(&self) -> u64 {
        0
    }

    fn routed(&self) -> Option<Routed> {
        None
    }
}

not_compared!(Peak);

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
        KeySpec::bare("operands").or("native").silent(),
        KeySpec::new("data").or("small").silent(),
    ],
    size_keys: &["lanes", "steps"],
    examples: &[
        "peak:unit=fma,dtype=f32,lanes=64,steps=8",
        "peak:unit=tensor,dtype=bf16,lanes=64,steps=8",
        "peak:unit=tensor,dtype=bf16,lanes=64,steps=8,operands=registers,data=random",
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

/// Where a matrix unit takes its first operand from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Operands {
    /// From where the kernel's instruction takes both: `wgmma` from shared memory,
    /// `mma.sync` from registers.
    Native,
    /// From registers.
    Registers,
}

impl Operands {
    /// Both, in the order in which tables list them.
    pub const ALL: [Operands; 2] = [Operands::Native, Operands::Registers];

    /// The spelling used in suites, ids and CSV files.
    pub const fn name(self) -> &'static str {
        match self {
            Operands::Native => "native",
            Operands::Registers => "registers",
        }
    }
}

/// What a matrix unit multiplies, which decides how much power it takes, and so its clock.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum PeakData {
    /// Small irregular integers in eighths, alike in every tile and step.
    Small,
    /// Zeros: nothing switches.
    Zeros,
    /// All bits that the format has, other ones in every row, column and step of a product.
    Random,
}

impl PeakData {
    /// All of them, in the order in which tables list them.
    pub const ALL: [PeakData; 3] = [PeakData::Small, PeakData::Zeros, PeakData::Random];

    /// The spelling used in suites, ids and CSV files.
    pub const fn name(self) -> &'static str {
        match self {
            PeakData::Small => "small",
            PeakData::Zeros => "zeros",
            PeakData::Random => "random",
        }
    }
}

text_of_name!(
    Unit => "a unit",
    Operands => "a place of operands",
    PeakData => "a kind of data",
);

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
/// product of a 16 x 16 and a 16 x 8 tile, 4096 FLOPs. The reference says which
/// ([`crate::reference::tensor_a`]).
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
    /// Where a matrix unit takes its first operand from.
    pub operands: Operands,
    /// What a matrix unit multiplies.
    pub data: PeakData,
}

/// Steps after which random data begin again, whatever the format.
const RANDOM_STEPS: u64 = 8;

pub(super) fn read(f: &Fields) -> Result<Peak, ProblemError> {
    Ok(Peak {
        unit: f.parse("unit")?,
        dtype: f.math_dtype("dtype")?,
        lanes: f.extent("lanes")?,
        steps: f.extent("steps")?,
        operands: f.parse("operands")?,
        data: f.parse("data")?,
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
        let Peak { unit, dtype, lanes, steps, operands, data } = self;
        vec![
            unit.to_string(),
            dtype.to_string(),
            lanes.to_string(),
            steps.to_string(),
            operands.to_string(),
            data.to_string(),
        ]
    }

    fn check(&self) -> Result<(), ProblemError> {
        if self.unit == Unit::Tensor && self.dtype == DType::F32 {
            return Err(ProblemError::at(
                "dtype",
                "no tensor unit takes f32 operands; use `unit = \"fma\"`, or tf32, or a 16-bit \
                 or 8-bit dtype",
            ));
        }
        if self.unit == Unit::Fma && self.dtype == DType::Tf32 {
            return Err(ProblemError::at(
                "dtype",
                "only tensor units multiply tf32; use `unit = \"tensor\"`, or f32",
            ));
        }
        if self.unit == Unit::Fma && self.operands != Operands::Native {
            return Err(ProblemError::at(
                "operands",
                "vector units take all operands from registers; leave `operands` out",
            ));
        }
        if self.unit == Unit::Fma && self.data != PeakData::Small {
            return Err(ProblemError::at(
                "data",
                "only a tensor unit's data can be chosen; leave `data` out",
            ));
        }
        if self.data == PeakData::Random && !self.steps.is_multiple_of(RANDOM_STEPS) {
            return Err(ProblemError::at(
                "steps",
                format!(
                    "random data begin again every {RANDOM_STEPS} steps, and sums are known \
                     only then; use {}",
                    self.steps.next_multiple_of(RANDOM_STEPS)
                ),
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

    fn has_usual_data(&self) -> bool {
        self.data != PeakData::Zeros
    }

    fn routed(&self) -> Option<Routed> {
        None
    }
}

not_compared!(Peak);

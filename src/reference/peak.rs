//! Answers of arithmetic out of registers, and the steps that it takes.

use std::ops::Range;

use half::{bf16, f16};

use super::compare::{CheckedOutput, Rows};
use super::{Answer, Check, NoReference, SlotInputs};
use crate::data::Key;
use crate::format::DType;
use crate::op::{Peak, Unit};

/// Factor of a step of [`Peak`] with [`Unit::Fma`], `x = x * A + B`. Lanes
/// swing around 0.25 and close in on it slowly enough that 10^5 steps still
/// tell their starts and the number of steps apart; nothing overflows or
/// becomes subnormal.
pub const FMA_A: f32 = -1.0 + 1.0 / 16384.0;

/// Summand of a step, see [`FMA_A`].
pub const FMA_B: f32 = 0.5;

/// Factor and summand of a step of [`Peak`] with [`Unit::Fma`]. In 16 bits
/// `x = 0.5 - x`: chains of the other kind would forget their starts within a
/// hundred steps.
pub const fn fma_step(dtype: DType) -> (f32, f32) {
    match dtype {
        DType::Bf16 | DType::F16 => (-1.0, 0.5),
        _ => (FMA_A, FMA_B),
    }
}

/// Element `[i][k]` of the first operand in every step of [`Peak`] with
/// [`Unit::Tensor`], before [`tensor_scale`]: small integers in no simple
/// order, so that multipliers switch about as on random data.
pub const fn tensor_a(i: u64, k: u64) -> i64 {
    ((7 * i + 13 * (k % 16) + 5) % 17) as i64 - 8
}

/// Element `[k][j]` of the second operand, see [`tensor_a`].
pub const fn tensor_b(k: u64, j: u64) -> i64 {
    ((11 * (k % 16) + 5 * j + 3) % 17) as i64 - 8
}

/// What both operands are multiplied with: eighths, which all floating-point
/// formats hold exactly, or nothing for integers.
pub const fn tensor_scale(dtype: DType) -> f64 {
    match dtype {
        DType::Int8 => 1.0,
        _ => 0.125,
    }
}

/// Every step of every lane, rounded as the kernel must.
fn fma_lanes(p: Peak, start: Key) -> Result<Rows<'static>, NoReference> {
    // Each step rounds once: the sum and product are exact in f32 where the
    // factor is -1, and a fused multiply-add rounds to f32 itself.
    let round: fn(f32) -> f32 = match p.dtype {
        DType::F32 => |x| x,
        DType::Bf16 => |x| bf16::from_f32(x).to_f32(),
        DType::F16 => |x| f16::from_f32(x).to_f32(),
        DType::Fp8E4m3 | DType::Int8 | DType::Int4 | DType::Fp4E2m1 => {
            return Err(NoReference(format!(
                "there is no reference for fma chains in {}, which no device has",
                p.dtype
            )));
        }
    };
    let (factor, summand) = fma_step(p.dtype);
    let steps = match p.dtype {
        DType::F32 => p.steps,
        _ => p.steps.min(SETTLED_STEPS + p.steps % 2),
    };
    let make = move |lane| {
        let mut x = round(start.value(DType::F32, lane));
        for _ in 0..steps {
            x = round(x.mul_add(factor, summand));
        }
        (lane, vec![f64::from(x)])
    };
    let make = Box::new(make);
    Ok(Rows { count: p.lanes, cost: steps, rows: 1, width: 1, typical: None, make })
}

/// Steps after which a 16-bit chain `x = 0.5 - x` has lost all bits that it
/// will ever lose and goes to and fro between two values.
pub(super) const SETTLED_STEPS: u64 = 8;

/// Each tile ends as its start and `steps` times the product of the operands.
fn tensor_tiles(p: Peak, start: Key) -> Rows<'static> {
    let scale = tensor_scale(p.dtype) * tensor_scale(p.dtype);
    let make = move |lane| {
        let end = |element: u64| {
            let (i, j) = (element / 8, element % 8);
            let product: i64 = (0..16).map(|k| tensor_a(i, k) * tensor_b(k, j)).sum();
            let sum = p.steps as f64 * product as f64 * scale;
            sum + f64::from(start.value(DType::F32, lane * 128 + element))
        };
        (lane * 128, (0..128).map(end).collect())
    };
    // The root mean square of the product's elements.
    let typical = 80.0 * scale * p.steps as f64;
    let make = Box::new(make);
    Rows {
        count: p.lanes,
        cost: 128 * 16,
        rows: 1,
        width: 128,
        typical: Some(typical),
        make,
    }
}

impl Answer for Peak {
    fn axes(&self) -> Vec<(&'static str, u64)> {
        match self.unit {
            Unit::Fma => vec![("lane", self.lanes)],
            Unit::Tensor => vec![("lane", self.lanes), ("element", 128)],
        }
    }

    fn compare(
        &self,
        target: &CheckedOutput<'_>,
        inputs: &SlotInputs,
    ) -> Result<Check, NoReference> {
        let start = inputs.key("start");
        let rows = match self.unit {
            Unit::Fma => fma_lanes(*self, start)?,
            Unit::Tensor => tensor_tiles(*self, start),
        };
        Ok(target.compare_rows(&rows))
    }

    fn unneeded(&self, _: &SlotInputs) -> Vec<(&'static str, Range<u64>)> {
        Vec::new()
    }
}

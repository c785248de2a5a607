//! Answers of arithmetic out of registers, and the steps that it takes.

use std::ops::Range;

use half::{bf16, f16};

use super::compare::{CheckedOutput, Rows};
use super::{Answer, Check, NoReference, SlotInputs};
use crate::data::Key;
use crate::format::DType;
use crate::op::{Peak, PeakData, Unit};

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

/// Element `[i][k]` of the first operand in every step of [`Peak`] with [`Unit::Tensor`]
/// and [`PeakData::Small`], before [`tensor_scale`]: small integers in no simple order, so
/// that multipliers switch about as on random data.
///
/// The tensor cores of some architectures keep no more than 14 bits of a sum of 8-bit
/// floats, cut off: long sums stand still there. In these formats the second half of a
/// step's products are the negatives of the first, but for one, and what is left of a step
/// is one or two units. Sums are exact up to 2^14 units.
pub const fn tensor_a(dtype: DType, i: u64, k: u64) -> i64 {
    let (i, k) = (i % 16, k % 16);
    match dtype {
        DType::Fp8E4m3 | DType::Fp8E5m2 if k % 8 == 7 => step_of_row(i),
        DType::Fp8E4m3 | DType::Fp8E5m2 => pattern_a(i, k % 8),
        _ => pattern_a(i, k),
    }
}

/// Element `[k][j]` of the second operand, see [`tensor_a`].
pub const fn tensor_b(dtype: DType, k: u64, j: u64) -> i64 {
    let (k, j) = (k % 16, j % 8);
    match dtype {
        DType::Fp8E4m3 | DType::Fp8E5m2 if k == 7 => 4 * sign_of_column(j),
        DType::Fp8E4m3 | DType::Fp8E5m2 if k == 15 => -3 * sign_of_column(j),
        DType::Fp8E4m3 | DType::Fp8E5m2 if k > 7 => -pattern_b(k - 8, j),
        _ => pattern_b(k, j),
    }
}

const fn pattern_a(i: u64, k: u64) -> i64 {
    ((7 * i + 13 * k + 5) % 17) as i64 - 8
}

const fn pattern_b(k: u64, j: u64) -> i64 {
    ((11 * k + 5 * j + 3) % 17) as i64 - 8
}

/// 1, -1, 2, -2 and again.
const fn step_of_row(i: u64) -> i64 {
    let size = 1 + (i / 2 % 2) as i64;
    if i % 2 == 1 { -size } else { size }
}

/// Signs in no simple order.
const fn sign_of_column(j: u64) -> i64 {
    if (5 * j).div_ceil(4) % 2 == 1 { -1 } else { 1 }
}

/// What both operands are multiplied with: eighths, which all floating-point
/// formats hold exactly, or nothing for integers.
pub const fn tensor_scale(dtype: DType) -> f64 {
    match dtype {
        DType::Int8 => 1.0,
        _ => 0.125,
    }
}

/// What every four instructions add to each sum with [`PeakData::Random`]: their products
/// cancel but for one of 1/4 and 3/8 - 1/4, as multiples of 128 in integers.
const fn random_gain(dtype: DType) -> f64 {
    let unit = match dtype {
        DType::Int8 => 128.0,
        _ => 1.0,
    };
    unit * unit / 32.0
}

/// Instructions of a step: one adds the products of 32 bytes of a row.
const fn instructions(dtype: DType) -> f64 {
    16.0 * dtype.bytes() as f64 / 32.0
}

/// Every step of every lane, rounded as the kernel must.
fn fma_lanes(p: Peak, start: Key) -> Result<Rows<'static>, NoReference> {
    // Each step rounds once: the sum and product are exact in f32 where the
    // factor is -1, and a fused multiply-add rounds to f32 itself.
    let round: fn(f32) -> f32 = match p.dtype {
        DType::F32 => |x| x,
        DType::Bf16 => |x| bf16::from_f32(x).to_f32(),
        DType::F16 => |x| f16::from_f32(x).to_f32(),
        DType::F64 => return Ok(fma_lanes_f64(p, start)),
        DType::Tf32
        | DType::Fp8E4m3
        | DType::Fp8E5m2
        | DType::Int8
        | DType::Int4
        | DType::Fp4E2m1 => {
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

/// The same in binary64; only the end is rounded to f32.
fn fma_lanes_f64(p: Peak, start: Key) -> Rows<'static> {
    let make = move |lane| {
        let step = |x: f64, _| x.mul_add(f64::from(FMA_A), f64::from(FMA_B));
        let end = (0..p.steps).fold(f64::from(start.value(DType::F32, lane)), step);
        (lane, vec![f64::from(end as f32)])
    };
    let make = Box::new(make);
    Rows { count: p.lanes, cost: p.steps, rows: 1, width: 1, typical: None, make }
}

/// Steps after which a 16-bit chain `x = 0.5 - x` has lost all bits that it
/// will ever lose and goes to and fro between two values.
pub(super) const SETTLED_STEPS: u64 = 8;

/// What `steps` steps add to element `[i][j]` of every tile.
fn tensor_sum(p: Peak, i: u64, j: u64) -> f64 {
    let steps = p.steps as f64;
    match p.data {
        PeakData::Small => {
            let scale = tensor_scale(p.dtype) * tensor_scale(p.dtype);
            let product = |k| tensor_a(p.dtype, i, k) * tensor_b(p.dtype, k, j);
            steps * (0..16).map(product).sum::<i64>() as f64 * scale
        }
        PeakData::Zeros => 0.0,
        PeakData::Random => steps * instructions(p.dtype) / 4.0 * random_gain(p.dtype),
    }
}

/// Each tile ends as its start and the sum of all steps.
fn tensor_tiles(p: Peak, start: Key) -> Rows<'static> {
    let sums: Vec<f64> = (0..128).map(|at| tensor_sum(p, at / 8, at % 8)).collect();
    let square: f64 = sums.iter().map(|sum| sum * sum).sum();
    // The root mean square of the sums, or of starts where nothing is added.
    let typical = (square / 128.0).sqrt().max(0.5);
    let make = move |lane| {
        let start = |at| f64::from(start.value(DType::F32, lane * 128 + at));
        (lane * 128, (0..).zip(&sums).map(|(at, sum)| sum + start(at)).collect())
    };
    let make = Box::new(make);
    Rows { count: p.lanes, cost: 128, rows: 1, width: 128, typical: Some(typical), make }
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

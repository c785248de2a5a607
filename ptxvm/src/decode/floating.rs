//! Floating-point arithmetic.

use crate::count::{Class, Unit};
use crate::decode::decoder::{Decoder, Result};
use crate::float::*;
use crate::instruction::Type;
use crate::lanes::{Args, Wide, wide};

/// An f32 expression, with subnormal inputs and results flushed where `$ftz` is set.
macro_rules! flushing {
    ($ftz:expr, |$a:ident| $e:expr) => {
        if $ftz {
            wide!(|$a: f32| f32: { let $a = flush($a); flush($e) })
        } else {
            wide!(|$a: f32| f32: $e)
        }
    };
    ($ftz:expr, |$a:ident, $b:ident| $e:expr) => {
        if $ftz {
            wide!(|$a: f32, $b: f32| f32: {
                let ($a, $b) = (flush($a), flush($b));
                flush($e)
            })
        } else {
            wide!(|$a: f32, $b: f32| f32: $e)
        }
    };
    ($ftz:expr, |$a:ident, $b:ident, $c:ident| $e:expr) => {
        if $ftz {
            wide!(|$a: f32, $b: f32, $c: f32| f32: {
                let ($a, $b, $c) = (flush($a), flush($b), flush($c));
                flush($e)
            })
        } else {
            wide!(|$a: f32, $b: f32, $c: f32| f32: $e)
        }
    };
}

/// A binary64 value rounded to f32 in each direction.
macro_rules! directed {
    ($rounding:expr, $ftz:expr, |$($x:ident),+| $e:expr) => {
        match $rounding {
            Rounding::Zero => flushing!($ftz, |$($x),+| to_f32($e, Rounding::Zero)),
            Rounding::Down => flushing!($ftz, |$($x),+| to_f32($e, Rounding::Down)),
            Rounding::Up => flushing!($ftz, |$($x),+| to_f32($e, Rounding::Up)),
            _ => flushing!($ftz, |$($x),+| to_f32($e, Rounding::Nearest)),
        }
    };
}

/// The minimum of PTX: the other operand where one is NaN, and -0 below +0.
fn minimum(a: f32, b: f32) -> f32 {
    if a.is_nan() && b.is_nan() {
        return f32::from_bits(0x7fff_ffff);
    }
    if a == b && a == 0.0 {
        return if a.is_sign_negative() { a } else { b };
    }
    a.min(b)
}

fn maximum(a: f32, b: f32) -> f32 {
    if a.is_nan() && b.is_nan() { minimum(a, b) } else { -minimum(-a, -b) }
}

/// As [`minimum`], of binary64.
fn minimum_f64(a: f64, b: f64) -> f64 {
    if a == b && a == 0.0 {
        return if a.is_sign_negative() { a } else { b };
    }
    a.min(b)
}

/// The sum of two values, to be rounded downward: an exact zero is negative unless both
/// operands are positive zeros.
fn add_down(a: f64, b: f64) -> f64 {
    let sum = add_odd(a, b);
    let negative = a.is_sign_negative() || b.is_sign_negative();
    if sum == 0.0 && negative { -0.0 } else { sum }
}

/// `f` of two values, or NaN where one of them is.
fn strict(a: f32, b: f32, f: impl Fn(f32, f32) -> f32) -> f32 {
    if a.is_nan() || b.is_nan() { f32::from_bits(0x7fff_ffff) } else { f(a, b) }
}

fn strict_minimum(a: f32, b: f32) -> f32 {
    strict(a, b, minimum)
}

fn strict_maximum(a: f32, b: f32) -> f32 {
    strict(a, b, maximum)
}

/// A fused multiply-add of 16-bit values: the exact product, a sum rounded to odd, and one
/// rounding to the format.
fn fused(format: Format, a: f64, b: f64, c: f64) -> u16 {
    format.encode(add_odd(a * b, c), Rounding::Nearest, false) as u16
}

fn fused_f16(a: u16, b: u16, c: u16) -> u16 {
    let [a, b, c] = [a, b, c].map(|x| f64::from(f16_to_f32(x)));
    fused(F16, a, b, c)
}

fn fused_bf16(a: u16, b: u16, c: u16) -> u16 {
    let [a, b, c] = [a, b, c].map(|x| f64::from(bf16_to_f32(x)));
    fused(BF16, a, b, c)
}

fn f16_2(a: u16, b: u16, f: impl Fn(f32, f32) -> f32) -> u16 {
    f32_to_f16(f(f16_to_f32(a), f16_to_f32(b)))
}

fn bf16_2(a: u16, b: u16, f: impl Fn(f64, f64) -> f64) -> u16 {
    let value = f(f64::from(bf16_to_f32(a)), f64::from(bf16_to_f32(b)));
    BF16.encode(value, Rounding::Nearest, false) as u16
}

fn pair1(a: u32, f: impl Fn(u16) -> u16) -> u32 {
    u32::from(f(a as u16)) | u32::from(f((a >> 16) as u16)) << 16
}

fn pair2(a: u32, b: u32, f: impl Fn(u16, u16) -> u16) -> u32 {
    let low = f(a as u16, b as u16);
    u32::from(low) | u32::from(f((a >> 16) as u16, (b >> 16) as u16)) << 16
}

fn pair3(a: u32, b: u32, c: u32, f: impl Fn(u16, u16, u16) -> u16) -> u32 {
    let low = f(a as u16, b as u16, c as u16);
    let high = f((a >> 16) as u16, (b >> 16) as u16, (c >> 16) as u16);
    u32::from(low) | u32::from(high) << 16
}

fn relu16(x: u16) -> u16 {
    // Negative values become zero; the sign is the top bit of both formats.
    if x & 0x8000 != 0 { 0 } else { x }
}

impl<'a> Decoder<'_, 'a> {
    pub(super) fn floating(&mut self, name: &str) -> Result<()> {
        let rounding = self.parts.any(&["rn", "rz", "rm", "rp"]).map(|part| match part {
            "rz" => Rounding::Zero,
            "rm" => Rounding::Down,
            "rp" => Rounding::Up,
            _ => Rounding::Nearest,
        });
        let approximate = self.parts.any(&["approx", "full"]).is_some();
        let ftz = self.parts.take("ftz");
        let sat = self.parts.take("sat");
        let relu = self.parts.take("relu");
        let nan = self.parts.take("NaN");
        let ty = self.expect_ty()?;
        let rounding = rounding.unwrap_or(Rounding::Nearest);
        if relu && !(name == "fma" && ty.bits() <= 32 && ty != Type::F32) {
            return self.fail("'.relu' is not implemented here");
        }
        if (nan && !matches!(name, "min" | "max")) || (sat && ty != Type::F32) {
            return self.fail("modifier is not implemented here");
        }
        let wide = match ty {
            Type::F32 => f32_op(name, rounding, approximate, ftz, nan),
            Type::F64 if approximate && ftz => f64_approximate(name),
            Type::F64 if rounding == Rounding::Nearest && !ftz => f64_op(name),
            Type::F16 | Type::F16x2 | Type::BF16 | Type::BF16x2
                if rounding == Rounding::Nearest && (!ftz || name == "ex2") =>
            {
                half_op(name, ty, nan)
            }
            _ => None,
        };
        let Some(wide) = wide else { return self.fail("form is not implemented") };
        let args = match name {
            "fma" | "mad" => self.args3(ty)?,
            "add" | "sub" | "mul" | "div" | "min" | "max" | "copysign" => self.args2(ty)?,
            _ => self.args1(ty)?,
        };
        let special = matches!(
            name,
            "rcp" | "sqrt" | "rsqrt" | "sin" | "cos" | "lg2" | "ex2" | "tanh"
        );
        let class = if special { Class::Special } else { Class::Float };
        self.alu(wide, args, class);
        if let Some((unit, flops)) = flops(name, ty) {
            self.work(unit, flops);
        }
        let after = Args { d: args.d, a: args.d, ..Args::default() };
        if sat {
            self.alu(wide!(|a: f32| f32: saturate(a)), after, Class::Float);
        }
        if relu {
            let wide = match ty {
                Type::F16 | Type::BF16 => wide!(|a: u16| u16: relu16(a)),
                _ => wide!(|a: u32| u32: pair1(a, relu16)),
            };
            self.alu(wide, after, Class::Float);
        }
        Ok(())
    }
}

/// The unit that does the work, and the FLOPs of one lane.
fn flops(name: &str, ty: Type) -> Option<(Unit, u32)> {
    let lanes = if matches!(ty, Type::F16x2 | Type::BF16x2) { 2 } else { 1 };
    let unit = match ty {
        Type::F64 => Unit::F64,
        Type::F32 => Unit::F32,
        Type::F16 | Type::F16x2 => Unit::F16,
        _ => Unit::BF16,
    };
    match name {
        "fma" | "mad" => Some((unit, 2 * lanes)),
        "add" | "sub" | "mul" | "div" => Some((unit, lanes)),
        "rcp" | "sqrt" | "rsqrt" | "sin" | "cos" | "lg2" | "ex2" | "tanh" => {
            Some((Unit::Special, lanes))
        }
        _ => None,
    }
}

fn f32_op(
    name: &str,
    rounding: Rounding,
    approximate: bool,
    ftz: bool,
    nan: bool,
) -> Option<Wide> {
    let near = rounding == Rounding::Nearest;
    Some(match name {
        "add" | "sub" | "fma" | "mad" if rounding == Rounding::Down => {
            return sum_down(name, ftz);
        }
        "add" if near => flushing!(ftz, |a, b| a + b),
        "sub" if near => flushing!(ftz, |a, b| a - b),
        "mul" if near => flushing!(ftz, |a, b| a * b),
        "add" => {
            directed!(rounding, ftz, |a, b| add_odd(f64::from(a), f64::from(b)))
        }
        "sub" => {
            directed!(rounding, ftz, |a, b| add_odd(f64::from(a), -f64::from(b)))
        }
        "mul" => directed!(rounding, ftz, |a, b| f64::from(a) * f64::from(b)),
        "fma" | "mad" if near && !ftz => fused_multiply_add as Wide,
        "fma" | "mad" => directed!(rounding, ftz, |a, b, c| add_odd(
            f64::from(a) * f64::from(b),
            f64::from(c)
        )),
        // The binary64 quotient of two floats is a tie of f32 only if it is exact.
        "div" if near || approximate => flushing!(ftz, |a, b| a / b),
        "abs" => flushing!(ftz, |a| a.abs()),
        "neg" => flushing!(ftz, |a| -a),
        "min" if nan => flushing!(ftz, |a, b| strict_minimum(a, b)),
        "max" if nan => flushing!(ftz, |a, b| strict_maximum(a, b)),
        "min" => flushing!(ftz, |a, b| minimum(a, b)),
        "max" => flushing!(ftz, |a, b| maximum(a, b)),
        "copysign" => wide!(|a: f32, b: f32| f32: b.copysign(a)),
        "rcp" if near || approximate => flushing!(ftz, |a| 1.0 / a),
        "sqrt" if near || approximate => flushing!(ftz, |a| a.sqrt()),
        "rsqrt" if approximate => flushing!(ftz, |a| (1.0 / f64::from(a).sqrt()) as f32),
        "sin" if approximate => flushing!(ftz, |a| f64::from(a).sin() as f32),
        "cos" if approximate => flushing!(ftz, |a| f64::from(a).cos() as f32),
        "lg2" if approximate => flushing!(ftz, |a| f64::from(a).log2() as f32),
        "ex2" if approximate => flushing!(ftz, |a| f64::from(a).exp2() as f32),
        "tanh" if approximate => flushing!(ftz, |a| f64::from(a).tanh() as f32),
        _ => return None,
    })
}

fn round_down(x: f64) -> f32 {
    to_f32(x, Rounding::Down)
}

/// Sums rounded downward.
fn sum_down(name: &str, ftz: bool) -> Option<Wide> {
    Some(match name {
        "add" => flushing!(ftz, |a, b| round_down(add_down(f64::from(a), f64::from(b)))),
        "sub" => flushing!(ftz, |a, b| round_down(add_down(f64::from(a), -f64::from(b)))),
        _ => flushing!(ftz, |a, b, c| round_down(add_down(
            f64::from(a) * f64::from(b),
            f64::from(c)
        ))),
    })
}

/// The most frequent instruction, compiled for hosts with and without a fused
/// multiply-add.
fn fused_multiply_add(regs: &mut crate::lanes::Regs, args: &Args, mask: u32) {
    use crate::lanes::{Lane, put3};
    let row = fused_rows(
        &f32::row(regs, args.a),
        &f32::row(regs, args.b),
        &f32::row(regs, args.c),
    );
    put3::<f32, f32, f32, f32>(regs, args, mask, &row);
}

#[multiversion::multiversion(targets("x86_64+avx2+fma", "aarch64+neon"))]
fn fused_rows(a: &[f32; 32], b: &[f32; 32], c: &[f32; 32]) -> [f32; 32] {
    let mut row = [0.0; 32];
    for lane in 0..32 {
        row[lane] = a[lane].mul_add(b[lane], c[lane]);
    }
    row
}

fn f64_op(name: &str) -> Option<Wide> {
    Some(match name {
        "add" => wide!(|a: f64, b: f64| f64: a + b),
        "sub" => wide!(|a: f64, b: f64| f64: a - b),
        "mul" => wide!(|a: f64, b: f64| f64: a * b),
        "fma" | "mad" => wide!(|a: f64, b: f64, c: f64| f64: a.mul_add(b, c)),
        "div" => wide!(|a: f64, b: f64| f64: a / b),
        "abs" => wide!(|a: f64| f64: a.abs()),
        "neg" => wide!(|a: f64| f64: -a),
        "min" => wide!(|a: f64, b: f64| f64: minimum_f64(a, b)),
        "max" => wide!(|a: f64, b: f64| f64: -minimum_f64(-a, -b)),
        "copysign" => wide!(|a: f64, b: f64| f64: b.copysign(a)),
        "rcp" => wide!(|a: f64| f64: 1.0 / a),
        "sqrt" => wide!(|a: f64| f64: a.sqrt()),
        "rsqrt" => wide!(|a: f64| f64: 1.0 / a.sqrt()),
        _ => return None,
    })
}

/// The upper half of a value, with subnormals flushed: what these functions see and give.
fn coarse(x: f64) -> f64 {
    let x = if x.is_subnormal() { 0.0f64.copysign(x) } else { x };
    f64::from_bits(x.to_bits() & !0xffff_ffff)
}

/// The starting values of the iterations by which CUDA divides and takes roots.
fn f64_approximate(name: &str) -> Option<Wide> {
    Some(match name {
        "rcp" => wide!(|a: f64| f64: coarse(1.0 / coarse(a))),
        "rsqrt" => wide!(|a: f64| f64: coarse(1.0 / coarse(a).sqrt())),
        _ => return None,
    })
}

/// The scalar and the packed form of one 16-bit expression.
macro_rules! scalar_or_pair {
    ($packed:expr, |$a:ident| $e:expr) => {
        if $packed {
            wide!(|x: u32| u32: pair1(x, |$a| $e))
        } else {
            wide!(|$a: u16| u16: $e)
        }
    };
    ($packed:expr, |$a:ident, $b:ident| $e:expr) => {
        if $packed {
            wide!(|x: u32, y: u32| u32: pair2(x, y, |$a, $b| $e))
        } else {
            wide!(|$a: u16, $b: u16| u16: $e)
        }
    };
    ($packed:expr, |$a:ident, $b:ident, $c:ident| $e:expr) => {
        if $packed {
            wide!(|x: u32, y: u32, z: u32| u32: pair3(x, y, z, |$a, $b, $c| $e))
        } else {
            wide!(|$a: u16, $b: u16, $c: u16| u16: $e)
        }
    };
}

fn half_op(name: &str, ty: Type, nan: bool) -> Option<Wide> {
    let packed = matches!(ty, Type::F16x2 | Type::BF16x2);
    let is_f16 = matches!(ty, Type::F16 | Type::F16x2);
    let wide = match (name, is_f16) {
        ("add", true) => scalar_or_pair!(packed, |a, b| f16_2(a, b, |x, y| x + y)),
        ("sub", true) => scalar_or_pair!(packed, |a, b| f16_2(a, b, |x, y| x - y)),
        ("mul", true) => scalar_or_pair!(packed, |a, b| f16_2(a, b, |x, y| x * y)),
        ("add", false) => scalar_or_pair!(packed, |a, b| bf16_2(a, b, add_odd)),
        ("sub", false) => {
            scalar_or_pair!(packed, |a, b| bf16_2(a, b, |x, y| add_odd(x, -y)))
        }
        ("mul", false) => scalar_or_pair!(packed, |a, b| bf16_2(a, b, |x, y| x * y)),
        ("fma", true) => scalar_or_pair!(packed, |a, b, c| fused_f16(a, b, c)),
        ("fma", false) => scalar_or_pair!(packed, |a, b, c| fused_bf16(a, b, c)),
        ("neg", _) => scalar_or_pair!(packed, |a| a ^ 0x8000),
        ("abs", _) => scalar_or_pair!(packed, |a| a & 0x7fff),
        ("min" | "max", _) => {
            return Some(half_extreme(name == "min", is_f16, packed, nan));
        }
        ("ex2", true) => scalar_or_pair!(packed, |a| f32_to_f16(f16_to_f32(a).exp2())),
        ("ex2", false) => {
            scalar_or_pair!(packed, |a| f32_to_bf16(bf16_to_f32(a).exp2()))
        }
        ("tanh", true) => scalar_or_pair!(packed, |a| f32_to_f16(f16_to_f32(a).tanh())),
        ("tanh", false) => {
            scalar_or_pair!(packed, |a| f32_to_bf16(bf16_to_f32(a).tanh()))
        }
        _ => return None,
    };
    Some(wide)
}

fn half_extreme(least: bool, is_f16: bool, packed: bool, nan: bool) -> Wide {
    macro_rules! extreme {
        ($f:expr) => {
            if is_f16 {
                scalar_or_pair!(packed, |a, b| f16_2(a, b, $f))
            } else {
                scalar_or_pair!(packed, |a, b| f32_to_bf16($f(
                    bf16_to_f32(a),
                    bf16_to_f32(b)
                )))
            }
        };
    }
    match (least, nan) {
        (true, false) => extreme!(minimum),
        (false, false) => extreme!(maximum),
        (true, true) => extreme!(strict_minimum),
        (false, true) => extreme!(strict_maximum),
    }
}

//! Approximations: within the error of the exact value that the ISA allows.

use super::draft::{Cases, Scalar, bits, one};
use super::number::{BF16, F16, F32, Format};
use super::{Program, Wanted};

const FAMILY: Scalar = Scalar::new("approximation");

/// The error that the ISA allows.
#[derive(Clone, Copy)]
enum Promise {
    Absolute(f64),
    Relative(f64),
    /// In units of the last of 24 bits.
    LastPlaces(f64),
}

impl Promise {
    fn margin(self, value: f64) -> f64 {
        match self {
            Promise::Absolute(error) => error,
            Promise::Relative(error) => error * value.abs(),
            Promise::LastPlaces(count) => {
                count * (value.abs().log2().floor() - 23.0).exp2()
            }
        }
    }
}

/// A value, or the infinity or NaN that it is.
fn wanted(value: f64, format: Format, promise: Promise) -> Wanted {
    if value.is_nan() {
        return Wanted::Nan(format);
    }
    if value.is_infinite() {
        let sign = u64::from(value < 0.0) << (format.bits() - 1);
        return bits((format.largest() + 1) | sign);
    }
    Wanted::Near { value, margin: promise.margin(value), format }
}

fn one_operand(
    name: &str,
    promise: Promise,
    inputs: &[f32],
    definition: fn(f64) -> f64,
) -> Program {
    let case = |&x: &f32| {
        let value = wanted(definition(f64::from(x)), F32, promise);
        ([u64::from(x.to_bits()), 0, 0], value)
    };
    FAMILY.program(&format!("{name} %d, %a;"), &inputs.iter().map(case).collect())
}

/// Both halves of a register get the same value.
fn halves(
    family: Scalar,
    name: &str,
    (format, promise): (Format, Promise),
    inputs: &[u64],
    definition: fn(f64) -> f64,
) -> Program {
    let case = |&x: &u64| {
        let value = wanted(definition(format.to_f64(x)), format, promise);
        ([x, 0, 0], value)
    };
    let cases: Cases = inputs.iter().map(case).collect();
    let body = format!("cvt.u16.u32 %h1, %a; {name} %h2, %h1; cvt.u32.u16 %d, %h2;");
    family.named(name, &body, &cases)
}

fn quotients() -> Vec<Program> {
    let values = [1.0f32, 3.0, -7.5, 1e-3, 123.456, -1e10];
    let program = |name: &str| {
        let pairs = values.iter().flat_map(|&a| values.iter().map(move |&b| (a, b)));
        let case = |(a, b): (f32, f32)| {
            let value = f64::from(a) / f64::from(b);
            let inputs = [u64::from(a.to_bits()), u64::from(b.to_bits()), 0];
            (inputs, wanted(value, F32, Promise::LastPlaces(2.0)))
        };
        FAMILY.program(&format!("{name} %d, %a, %b;"), &pairs.map(case).collect())
    };
    vec![program("div.approx.f32"), program("div.full.f32")]
}

/// 2 to the power of `-n`.
fn below(n: f64) -> f64 {
    (-n).exp2()
}

/// Functions of binary32.
fn single_precision() -> Vec<Program> {
    use Promise::{Absolute, Relative};
    let any = [1.0, 2.0, 3.0, 0.1, 123.456, 1e-20, 3e20, 0.99999994, 1.0000001];
    let small = [0.0, 1.0, -1.0, 0.5, 3.0, -2.5, 10.25, -20.1, 0.1, -1e-3];
    let with = |list: &[f32], more: &[f32]| [list, more].concat();
    let infinity = f32::INFINITY;
    let angles = [0.0, 0.1, -0.7, 1.5, 2.5, -3.1, 1e-3];
    vec![
        one_operand(
            "ex2.approx.f32",
            Relative(below(22.0)),
            &with(&small, &[-infinity, infinity, f32::NAN]),
            f64::exp2,
        ),
        one_operand(
            "rcp.approx.f32",
            Relative(below(23.0)),
            &with(&any, &[-3.0, 0.0, -0.0, infinity, f32::NAN]),
            f64::recip,
        ),
        one_operand(
            "sqrt.approx.f32",
            Relative(below(23.0)),
            &with(&any, &[0.0, -1.0, infinity]),
            f64::sqrt,
        ),
        one_operand(
            "rsqrt.approx.f32",
            Relative(below(22.9)),
            &with(&any, &[0.0, -1.0, infinity]),
            |x| x.sqrt().recip(),
        ),
        one_operand(
            "lg2.approx.f32",
            Absolute(below(22.0)),
            &[0.51, 0.7, 0.9, 1.0, 1.1, 1.5, 1.9],
            f64::log2,
        ),
        one_operand(
            "lg2.approx.f32",
            Relative(below(22.0)),
            &[2.0, 3.0, 8.0, 123.456, 0.1, 1e-20, 3e20, 0.0, -1.0, infinity],
            f64::log2,
        ),
        one_operand("sin.approx.f32", Absolute(below(20.5)), &angles, f64::sin),
        one_operand("cos.approx.f32", Absolute(below(20.5)), &angles, f64::cos),
        one_operand(
            "tanh.approx.f32",
            Relative(below(11.0)),
            &with(&small, &[infinity, -infinity]),
            f64::tanh,
        ),
        one_operand("ex2.approx.ftz.f32", Relative(below(22.0)), &small, f64::exp2),
        FAMILY.named(
            "ex2.approx.ftz.f32 below the normal range",
            "ex2.approx.ftz.f32 %d, %a;",
            &vec![one(0xc302_0000, 0), one(0x0000_0001, 0x3f80_0000)],
        ),
    ]
}

pub(super) fn programs() -> Vec<Program> {
    use Promise::{Absolute, Relative};
    let mut programs = single_precision();
    let f16 = [0x0000, 0x3c00, 0xbc00, 0x3800, 0x4200, 0xc100, 0x2e66, 0x4500];
    let bf16 = [0x0000, 0x3f80, 0xbf80, 0x3f00, 0x4040, 0xc020, 0x3dcd];
    let hopper = FAMILY.needs("sm_90", "7.8");
    let ex2_f16 = (F16, Relative(below(9.9)));
    programs.push(halves(FAMILY, "ex2.approx.f16", ex2_f16, &f16, f64::exp2));
    let tanh_f16 = (F16, Absolute(below(10.987)));
    programs.push(halves(FAMILY, "tanh.approx.f16", tanh_f16, &f16, f64::tanh));
    let ex2_bf16 = (BF16, Relative(below(7.0)));
    programs.push(halves(hopper, "ex2.approx.ftz.bf16", ex2_bf16, &bf16, f64::exp2));
    programs.extend(quotients());
    programs
}

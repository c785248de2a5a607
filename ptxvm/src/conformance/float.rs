//! Floating-point arithmetic: exact values, rounded once.

use super::draft::{Cases, Scalar, bits, one, three, two};
use super::number::{BF16, Exact, F16, F32, F64, Format, Mode};
use super::{Program, Wanted};

const FAMILY: Scalar = Scalar::new("float");
const HALVES: Scalar = Scalar::new("16-bit float");

const NAN: u64 = 0x7fc0_0000;
const INFINITY: u64 = 0x7f80_0000;
const ONE: u64 = 0x3f80_0000;
const MINUS: u64 = 0x8000_0000;
/// The NaN that minimum and maximum give.
const CANONICAL_NAN: u64 = 0x7fff_ffff;

/// Zeros, neighbours of one, values whose sums are rounded, and the ends of the range.
const FLOATS: [u64; 16] = [
    0,
    MINUS,
    ONE,
    0xbf80_0000,
    0x3f80_0001,
    0xbfbf_ffff,
    0x3eaa_aaab,
    0xc020_0000,
    0x4b80_0001,
    0x3380_0000,
    0xb380_0001,
    0x42f6_e979,
    0x7f7f_ffff,
    0xff7f_ffff,
    0x0080_0001,
    0x8000_0003,
];
const DOUBLES: [u64; 13] = [
    0,
    1 << 63,
    0x3ff0 << 48,
    0x3ff0_0000_0000_0001,
    0xbff8_0000_0000_0003,
    0x3fd5_5555_5555_5555,
    0x4340_0000_0000_0001,
    0x3ca0_0000_0000_0001,
    0xc05e_dd2f_1a9f_be77,
    0x7fef_ffff_ffff_ffff,
    0xffe0_0000_0000_0000,
    0x0010_0000_0000_0001,
    0x8000_0000_0000_0007,
];

/// A sum, difference, product or fused sum, exactly; `None` where 128 bits do not hold it.
fn exact(operation: &str, format: Format, operands: [u64; 3], mode: Mode) -> Option<Exact> {
    let [a, b, c] = operands.map(|bits| format.decode(bits));
    match operation {
        "add" => a.plus(b, mode),
        "sub" => a.plus(b.negated(), mode),
        "mul" => Some(a.times(b)),
        "div" => a.divided_by(b),
        _ => a.times(b).plus(c, mode),
    }
}

/// Every pair of values, with a third value from the same list.
fn triples(values: &[u64]) -> Vec<[u64; 3]> {
    let third = |n: usize| values[(5 * n + 3) % values.len()];
    let pairs = values.iter().flat_map(|&a| values.iter().map(move |&b| (a, b)));
    pairs.enumerate().map(|(n, (a, b))| [a, b, third(n)]).collect()
}

fn single_precision() -> Vec<Program> {
    let mut programs = Vec::new();
    for (modifier, mode) in Mode::DIRECTED {
        for (operation, operands) in
            [("add", "%a, %b"), ("sub", "%a, %b"), ("mul", "%a, %b"), ("fma", "%a, %b, %c")]
        {
            let case = |list: [u64; 3]| {
                Some((list, bits(F32.round(exact(operation, F32, list, mode)?, mode))))
            };
            let cases = triples(&FLOATS).into_iter().filter_map(case).collect();
            let body = format!("{operation}.{modifier}.f32 %d, {operands};");
            programs.push(FAMILY.program(&body, &cases));
        }
    }
    let quotient = |list: [u64; 3]| {
        let value = exact("div", F32, list, Mode::Nearest)?;
        Some((list, bits(F32.round(value, Mode::Nearest))))
    };
    let cases = triples(&FLOATS).into_iter().filter_map(quotient).collect();
    programs.push(FAMILY.program("div.rn.f32 %d, %a, %b;", &cases));
    let reciprocal = |&a: &u64| {
        let value = F32.decode(ONE).divided_by(F32.decode(a))?;
        Some(one(a, F32.round(value, Mode::Nearest)))
    };
    let cases = FLOATS.iter().filter_map(reciprocal).collect();
    programs.push(FAMILY.program("rcp.rn.f32 %d, %a;", &cases));
    let positive = FLOATS.iter().filter(|&&a| a != 0 && a < MINUS);
    let root = |&a: &u64| one(a, F32.round(F32.decode(a).square_root(), Mode::Nearest));
    programs.push(FAMILY.program("sqrt.rn.f32 %d, %a;", &positive.map(root).collect()));
    programs
}

fn double_precision() -> Vec<Program> {
    let mut programs = Vec::new();
    for (operation, operands) in [
        ("add", "%wa, %wb"),
        ("sub", "%wa, %wb"),
        ("mul", "%wa, %wb"),
        ("div", "%wa, %wb"),
        ("fma", "%wa, %wb, %wc"),
    ] {
        let case = |list: [u64; 3]| {
            let value = exact(operation, F64, list, Mode::Nearest)?;
            Some((list, bits(F64.round(value, Mode::Nearest))))
        };
        let cases = triples(&DOUBLES).into_iter().filter_map(case).collect();
        let body = format!("{operation}.rn.f64 %wd, {operands};");
        programs.push(FAMILY.program(&body, &cases));
    }
    let positive = DOUBLES.iter().filter(|&&a| a != 0 && a < 1 << 63);
    let root = |&a: &u64| one(a, F64.round(F64.decode(a).square_root(), Mode::Nearest));
    programs.push(FAMILY.program("sqrt.rn.f64 %wd, %wa;", &positive.map(root).collect()));
    programs.push(FAMILY.program(
        "min.f64 %wd, %wa, %wb;",
        &vec![two(0, 1 << 63, 1 << 63), two(0x7ff8 << 48, 0x3ff0 << 48, 0x3ff0 << 48)],
    ));
    programs.push(FAMILY.program(
        "max.f64 %wd, %wa, %wb;",
        &vec![two(1 << 63, 0, 0), two(0x3ff0 << 48, 0x7ff8 << 48, 0x3ff0 << 48)],
    ));
    programs
}

/// Infinities and NaNs, by hand.
fn infinities() -> Vec<Program> {
    let nan = Wanted::Nan(F32);
    let is_nan = |a: u64, b: u64| ([a, b, 0], nan);
    let minus_infinity = INFINITY | MINUS;
    vec![
        FAMILY.named(
            "add.f32 of infinities",
            "add.f32 %d, %a, %b;",
            &vec![
                two(INFINITY, ONE, INFINITY),
                two(minus_infinity, 0x7f7f_ffff, minus_infinity),
                is_nan(INFINITY, minus_infinity),
                is_nan(NAN, ONE),
                is_nan(ONE, NAN),
            ],
        ),
        FAMILY.named(
            "mul.f32 of infinities",
            "mul.f32 %d, %a, %b;",
            &vec![
                two(INFINITY, 0xbf80_0000, minus_infinity),
                is_nan(INFINITY, 0),
                is_nan(0, NAN),
            ],
        ),
        FAMILY.named(
            "fma.rn.f32 of infinities",
            "fma.rn.f32 %d, %a, %b, %c;",
            &vec![
                three(INFINITY, ONE, INFINITY, INFINITY),
                ([INFINITY, ONE, minus_infinity], nan),
                ([0, INFINITY, ONE], nan),
                // 2^127 * 2 - 2^127: the product must not overflow.
                three(0x7f00_0000, 0x4000_0000, 0xff00_0000, 0x7f00_0000),
            ],
        ),
        FAMILY.named(
            "div.rn.f32 by zero",
            "div.rn.f32 %d, %a, %b;",
            &vec![
                two(ONE, MINUS, minus_infinity),
                is_nan(0, 0),
                two(ONE, minus_infinity, MINUS),
            ],
        ),
    ]
}

/// Flushing and saturation, by hand.
fn flushed_and_saturated() -> Vec<Program> {
    let ten = 0x4120_0000;
    vec![
        FAMILY.program(
            "add.ftz.f32 %d, %a, %b;",
            &vec![
                two(0x8000_0001, 0, 0),
                two(0x8000_0001, 0x807f_ffff, MINUS),
                two(ONE, 0x007f_ffff, ONE),
                two(0x0080_0001, 0x8080_0000, 0),
            ],
        ),
        FAMILY.program(
            "mul.ftz.f32 %d, %a, %b;",
            &vec![
                two(0x0080_0000, 0x3f00_0000, 0),
                two(0x8080_0000, 0x3f00_0000, MINUS),
                two(0x007f_ffff, 0x7f00_0000, 0),
                two(0x0080_0000, 0x4000_0000, 0x0100_0000),
            ],
        ),
        FAMILY.program(
            "fma.rn.ftz.f32 %d, %a, %b, %c;",
            &vec![three(0x007f_ffff, ONE, ONE, ONE), three(ONE, ONE, 0x807f_ffff, ONE)],
        ),
        FAMILY.program(
            "mul.sat.f32 %d, %a, %b;",
            &vec![two(ten, ten, ONE), two(NAN, ten, 0), two(ten, 0xbf80_0000, 0)],
        ),
        FAMILY.program(
            "fma.rn.sat.f32 %d, %a, %b, %c;",
            &vec![three(ONE, 0x3f00_0000, 0, 0x3f00_0000), three(ten, ONE, ten, ONE)],
        ),
    ]
}

/// Minima, maxima and signs, by hand.
fn extremes() -> Vec<Program> {
    let minus_infinity = INFINITY | MINUS;
    let ten = 0x4120_0000;
    vec![
        FAMILY.program(
            "min.f32 %d, %a, %b;",
            &vec![
                two(NAN, ten, ten),
                two(ten, 0xffc0_0000, ten),
                two(NAN, 0xff80_0001, CANONICAL_NAN),
                two(0, MINUS, MINUS),
                two(MINUS, 0, MINUS),
                two(minus_infinity, ten, minus_infinity),
            ],
        ),
        FAMILY.program(
            "max.f32 %d, %a, %b;",
            &vec![
                two(ten, NAN, ten),
                two(NAN, 0xff80_0001, CANONICAL_NAN),
                two(0, MINUS, 0),
                two(MINUS, 0, 0),
                two(0xc120_0000, 0xbf80_0000, 0xbf80_0000),
            ],
        ),
        FAMILY.program(
            "max.NaN.f32 %d, %a, %b;",
            &vec![two(ten, NAN, CANONICAL_NAN), two(ten, ONE, ten)],
        ),
        FAMILY.program("min.NaN.f32 %d, %a, %b;", &vec![two(NAN, ten, CANONICAL_NAN)]),
        FAMILY.program(
            "min.ftz.f32 %d, %a, %b;",
            &vec![two(1, ONE, 0), two(0x8000_0001, 0, MINUS)],
        ),
        FAMILY.program(
            "abs.f32 %d, %a;",
            &vec![one(MINUS, 0), one(minus_infinity, INFINITY)],
        ),
        FAMILY.program("neg.f32 %d, %a;", &vec![one(0, MINUS), one(0xbf80_0000, ONE)]),
        FAMILY.program("copysign.f32 %d, %a, %b;", &vec![two(MINUS, ten, ten | MINUS)]),
    ]
}

/// Packed arithmetic on two values of 16 bits, each rounded by itself.
fn packed(operation: &str, format: Format, values: &[u64]) -> Program {
    let list = triples(values);
    let mut cases = Cases::new();
    for (n, &low) in list.iter().enumerate() {
        let high = list[(7 * n + 11) % list.len()];
        let round = |list| {
            Some(
                format.round(exact(operation, format, list, Mode::Nearest)?, Mode::Nearest),
            )
        };
        if let (Some(first), Some(second)) = (round(low), round(high)) {
            let both = [0, 1, 2].map(|at| low[at] | high[at] << 16);
            cases.push((both, bits(first | second << 16)));
        }
    }
    let is_bf16 = format == BF16;
    let name = if is_bf16 { "bf16x2" } else { "f16x2" };
    let operands = if operation == "fma" { "%a, %b, %c" } else { "%a, %b" };
    let family = match is_bf16 && operation != "fma" {
        true => HALVES.needs("sm_90", "7.8"),
        false => HALVES,
    };
    family.program(&format!("{operation}.rn.{name} %d, {operands};"), &cases)
}

/// One value of 16 bits in a register.
fn scalar_half(operation: &str, format: Format, values: &[u64]) -> Program {
    let case = |list: [u64; 3]| {
        let value = exact(operation, format, list, Mode::Nearest)?;
        Some((list, bits(format.round(value, Mode::Nearest))))
    };
    let cases = triples(values).into_iter().filter_map(case).collect();
    let ty = if format == BF16 { "bf16" } else { "f16" };
    let third = if operation == "fma" { ", %h3" } else { "" };
    let name = format!("{operation}.rn.{ty}");
    let load = "cvt.u16.u32 %h1, %a; cvt.u16.u32 %h2, %b; cvt.u16.u32 %h3, %c;";
    let body = format!("{load} {name} %h4, %h1, %h2{third}; cvt.u32.u16 %d, %h4;");
    HALVES.named(&name, &body, &cases)
}

fn sixteen_bits() -> Vec<Program> {
    let halves = [
        0, 0x8000, 0x3c00, 0xbc01, 0x3555, 0x4248, 0xc900, 0x7bff, 0xfbff, 0x0400, 0x0001,
        0x83ff, 0x1801,
    ];
    let brains = [
        0, 0x8000, 0x3f80, 0xbf81, 0x3eab, 0x4049, 0xc2c8, 0x7f7f, 0xff7f, 0x0080, 0x3380,
        0x8003,
    ];
    let mut programs = Vec::new();
    for operation in ["add", "sub", "mul", "fma"] {
        programs.push(packed(operation, F16, &halves));
        programs.push(packed(operation, BF16, &brains));
        programs.push(scalar_half(operation, F16, &halves));
    }
    programs.push(scalar_half("fma", BF16, &brains));
    programs.extend([
        HALVES.program(
            "fma.rn.relu.bf16x2 %d, %a, %b, %c;",
            &vec![three(0xbf80_4000, 0x4000_4040, 0x3f80_3f80, 0x0000_40e0)],
        ),
        HALVES.program(
            "fma.rn.relu.f16x2 %d, %a, %b, %c;",
            &vec![three(0xbc00_4000, 0x4000_4200, 0x3c00_3c00, 0x0000_4700)],
        ),
        HALVES.program(
            "max.bf16x2 %d, %a, %b;",
            &vec![
                two(0x3f80_c000, 0x4000_bf80, 0x4000_bf80),
                two(0x0000_7fc0, 0x8000_3f80, 0x0000_3f80),
                two(0x7fc0_7fc0, 0xffc0_7f81, 0x7fff_7fff),
            ],
        ),
        HALVES.program(
            "min.f16x2 %d, %a, %b;",
            &vec![
                two(0x3c00_c000, 0x4000_bc00, 0x3c00_c000),
                two(0x0000_7e00, 0x8000_3c00, 0x8000_3c00),
                two(0x7e00_7c01, 0xfe00_7e01, 0x7fff_7fff),
            ],
        ),
        HALVES.program(
            "max.NaN.f16x2 %d, %a, %b;",
            &vec![two(0x3c00_7e00, 0x4000_3c00, 0x4000_7fff)],
        ),
        HALVES.program("neg.f16x2 %d, %a;", &vec![one(0x3c00_bc00, 0xbc00_3c00)]),
        HALVES.program("abs.bf16x2 %d, %a;", &vec![one(0xbf80_3f80, 0x3f80_3f80)]),
    ]);
    programs
}

pub(super) fn programs() -> Vec<Program> {
    [
        single_precision(),
        double_precision(),
        infinities(),
        flushed_and_saturated(),
        extremes(),
        sixteen_bits(),
    ]
    .concat()
}

//! Conversions among all types.

use super::draft::{Cases, Scalar, bits, one, three, two};
use super::number::{BF16, E4M3, E5M2, Exact, F16, F32, F64, Format, Mode, TF32};
use super::{Program, Wanted};

const FAMILY: Scalar = Scalar::new("conversion");
const ADA: Scalar = FAMILY.needs("sm_89", "8.1");
const HOPPER: Scalar = FAMILY.needs("sm_90", "7.8");

/// Floats around the limits and ties of all narrower formats.
const FLOATS: [u64; 30] = [
    0,
    0x8000_0000,
    0x3f80_0000,
    0xbf80_0000,
    0x3f80_1000,
    0x3f80_0fff,
    0x3f80_1fff,
    0xbf80_3000,
    0x3f80_8000,
    0x3f81_8000,
    0xbf80_7fff,
    0x3eaa_aaab,
    0x3300_0000,
    0x3300_0001,
    0x3380_0000,
    0xb880_1000,
    0x3877_ffff,
    0x477f_e000,
    0x477f_efff,
    0x477f_f000,
    0xc7ff_ffff,
    0x7f7f_ffff,
    0xff7f_8000,
    0x0080_0000,
    0x0000_8000,
    0x8001_8001,
    0x4440_0000,
    0x43e0_0000,
    0x43e8_0000,
    0x3b00_0001,
];
const DOUBLES: [u64; 10] = [
    0,
    1 << 63,
    0x3ff0_0000_1000_0000,
    0x3ff0_0000_3000_0000,
    0xbff0_0000_1000_0001,
    0x47ef_ffff_f000_0000,
    0x47ef_ffff_efff_ffff,
    0x36a0_0000_0000_0000,
    0xb69f_ffff_ffff_ffff,
    0x4040_5ed9_1687_2b02,
];

/// A conversion of one value into a register of 16 bits, which is widened.
fn into_half(name: &str) -> String {
    format!("{name} %h1, %a; cvt.u32.u16 %d, %h1;")
}

fn narrowing() -> Vec<Program> {
    let mut programs = Vec::new();
    let cases = |format: Format, mode: Mode| -> Cases {
        FLOATS.iter().map(|&a| one(a, format.round(F32.decode(a), mode))).collect()
    };
    for (modifier, mode) in [("rn", Mode::Nearest), ("rz", Mode::Zero)] {
        for (ty, format) in [("f16", F16), ("bf16", BF16)] {
            let name = format!("cvt.{modifier}.{ty}.f32");
            programs.push(FAMILY.named(&name, &into_half(&name), &cases(format, mode)));
        }
        for (ty, format) in [("f16x2", F16), ("bf16x2", BF16)] {
            // The first operand is the upper half.
            let pair = |n: usize| {
                let (a, b) = (FLOATS[n], FLOATS[(7 * n + 3) % 30]);
                let [high, low] = [a, b].map(|x| format.round(F32.decode(x), mode));
                two(a, b, high << 16 | low)
            };
            let body = format!("cvt.{modifier}.{ty}.f32 %d, %a, %b;");
            programs.push(FAMILY.program(&body, &(0..30).map(pair).collect()));
        }
    }
    for (modifier, mode) in Mode::DIRECTED {
        let case = |&a: &u64| one(a, F32.round(F64.decode(a), mode));
        let body = format!("cvt.{modifier}.f32.f64 %d, %wa;");
        programs.push(FAMILY.program(&body, &DOUBLES.iter().map(case).collect()));
    }
    programs.push(FAMILY.program("cvt.rna.tf32.f32 %d, %a;", &tf32_cases(Mode::Away)));
    let hopper = HOPPER.program("cvt.rn.tf32.f32 %d, %a;", &tf32_cases(Mode::Nearest));
    programs.push(hopper);
    programs.push(HOPPER.program("cvt.rz.tf32.f32 %d, %a;", &tf32_cases(Mode::Zero)));
    programs.push(FAMILY.program(
        "cvt.rn.relu.bf16x2.f32 %d, %a, %b;",
        &vec![
            two(0xbf80_0000, 0x3f80_0000, 0x3f80),
            two(0x4000_0000, 0x8000_0000, 0x4000_0000),
        ],
    ));
    programs.push(FAMILY.program(
        "cvt.rn.relu.f16x2.f32 %d, %a, %b;",
        &vec![two(0xbf80_0000, 0x3f80_0000, 0x3c00)],
    ));
    programs
}

/// All of [`FLOATS`] except those that would overflow in tf32.
fn tf32_cases(mode: Mode) -> Cases {
    let finite = FLOATS.iter().filter(|&&a| a & 0x7fff_ffff < 0x7f00_0000);
    finite.map(|&a| one(a, TF32.round(F32.decode(a), mode))).collect()
}

fn widening() -> Vec<Program> {
    let halves = [0, 0x8000, 0x3c00, 0xbc01, 0x7bff, 0x0400, 0x0001, 0x83ff];
    let infinity = 0x7f80_0000;
    let wide = |format: Format| -> Cases {
        let case = |&a: &u64| one(a, F32.round(format.decode(a), Mode::Nearest));
        halves.iter().map(case).collect()
    };
    let mut from_f16 = wide(F16);
    from_f16.extend([one(0x7c00, infinity), ([0xfe00, 0, 0], Wanted::Nan(F32))]);
    let mut from_bf16 = wide(BF16);
    from_bf16.extend([one(0x7f80, infinity), ([0x7fc0, 0, 0], Wanted::Nan(F32))]);
    let case = |&a: &u64| one(a, F64.round(F32.decode(a), Mode::Nearest));
    vec![
        FAMILY.named("cvt.f32.f16", "cvt.u16.u32 %h1, %a; cvt.f32.f16 %d, %h1;", &from_f16),
        HOPPER.named(
            "cvt.f32.bf16",
            "cvt.u16.u32 %h1, %a; cvt.f32.bf16 %d, %h1;",
            &from_bf16,
        ),
        FAMILY.program("cvt.f64.f32 %wd, %a;", &FLOATS.iter().map(case).collect()),
    ]
}

/// Formats of 8 bits: always in pairs, never beyond the largest value.
fn eight_bits() -> Vec<Program> {
    let mut programs = Vec::new();
    for (ty, format) in [("e4m3x2", E4M3), ("e5m2x2", E5M2)] {
        let narrow = |x: u64| format.round_finite(F32.decode(x), Mode::Nearest);
        let mut cases: Cases = (0..30)
            .map(|n| (FLOATS[n], FLOATS[(7 * n + 3) % 30]))
            .map(|(a, b)| two(a, b, narrow(a) << 8 | narrow(b)))
            .collect();
        // An infinity becomes the largest value, a NaN the one with all bits set.
        cases.push(two(0x7f80_0000, 0xff80_0000, (format.largest() * 0x101) | 0x80));
        cases.push(two(0x7fc0_0000, 0x3f80_0000, 0x7f00 | narrow(0x3f80_0000)));
        let name = format!("cvt.rn.satfinite.{ty}.f32");
        let body = format!("{name} %h1, %a, %b; cvt.u32.u16 %d, %h1;");
        programs.push(ADA.named(&name, &body, &cases));

        let name = format!("cvt.rn.satfinite.{ty}.f16x2");
        let body = format!("{name} %h1, %a; cvt.u32.u16 %d, %h1;");
        let halves =
            [0, 0x3c00, 0xbc7f, 0x7bff, 0xfbff, 0x0001, 0x1fff, 0x2080, 0x5f40, 0xdf80];
        let narrow = |x: u64| format.round_finite(F16.decode(x), Mode::Nearest);
        let case = |n: usize| {
            let (low, high) = (halves[n], halves[(3 * n + 1) % 10]);
            one(high << 16 | low, narrow(high) << 8 | narrow(low))
        };
        programs.push(ADA.named(&name, &body, &(0..10).map(case).collect()));

        let name = format!("cvt.rn.f16x2.{ty}");
        let body = format!("cvt.u16.u32 %h1, %a; {name} %d, %h1;");
        let finite = (0..256u64).filter(|x| x & 0x7f <= format.largest());
        let wide = |x: u64| F16.round(format.decode(x), Mode::Nearest);
        let case = |x: u64| one(x << 8 | 0x81, wide(x) << 16 | wide(0x81));
        programs.push(ADA.named(&name, &body, &finite.map(case).collect()));
    }
    programs
}

/// `value` rounded to an integer by `mode`, and limited to the type's range.
fn to_integer(value: Exact, mode: Mode, signed: bool, width: u32) -> u64 {
    let magnitude = value.in_units_of(0, mode).min(1 << 100) as i128;
    let integer = if value.negative { -magnitude } else { magnitude };
    let (least, most) = match signed {
        true => (-(1i128 << (width - 1)), (1i128 << (width - 1)) - 1),
        false => (0, (1i128 << width) - 1),
    };
    (integer.clamp(least, most) & ((1 << width) - 1)) as u64
}

/// Bits of binary32 on both sides of halves and of the integers' ranges.
const NEAR_INTEGERS: [u64; 15] = [
    0,
    0x8000_0000,
    0x3f00_0000,
    0xbf00_0000,
    0x3fc0_0000,
    0xbfc0_0000,
    0x4020_0000,
    0x3eff_ffff,
    0x4b00_0001,
    0x4f00_0000,
    0xcf00_0001,
    0x4f80_0000,
    0x5f80_0000,
    0xdf80_0000,
    0x4effffff,
];

fn to_integers() -> Vec<Program> {
    let modes = [
        ("rni", Mode::Nearest),
        ("rzi", Mode::Zero),
        ("rmi", Mode::Down),
        ("rpi", Mode::Up),
    ];
    let mut programs = Vec::new();
    for (modifier, mode) in modes {
        for (ty, signed, width) in
            [("s32", true, 32), ("u32", false, 32), ("s64", true, 64), ("u64", false, 64)]
        {
            let d = if width == 64 { "%wd" } else { "%d" };
            let case = |&a: &u64| one(a, to_integer(F32.decode(a), mode, signed, width));
            let body = format!("cvt.{modifier}.{ty}.f32 {d}, %a;");
            programs.push(FAMILY.program(&body, &NEAR_INTEGERS.iter().map(case).collect()));
            // The same values as doubles.
            let case = |&a: &u64| {
                let double = F64.round(F32.decode(a), Mode::Nearest);
                one(double, to_integer(F32.decode(a), mode, signed, width))
            };
            let body = format!("cvt.{modifier}.{ty}.f64 {d}, %wa;");
            programs.push(FAMILY.program(&body, &NEAR_INTEGERS.iter().map(case).collect()));
        }
        let case = |&a: &u64| {
            let value = F32.decode(a);
            let whole =
                Exact { magnitude: value.in_units_of(0, mode), exponent: 0, ..value };
            one(a, F32.round(whole, Mode::Nearest))
        };
        let body = format!("cvt.{modifier}.f32.f32 %d, %a;");
        programs.push(FAMILY.program(&body, &NEAR_INTEGERS.iter().map(case).collect()));
    }
    programs.push(FAMILY.named(
        "cvt.rzi.s32.f32 of NaN and infinities",
        "cvt.rzi.s32.f32 %d, %a;",
        &vec![
            one(0x7fc0_0000, 0),
            one(0x7f80_0000, 0x7fff_ffff),
            one(0xff80_0000, 0x8000_0000),
        ],
    ));
    programs
}

fn from_integers() -> Vec<Program> {
    let words = [0u64, 1, 0x0100_0001, 0x0100_0003, 0x7fff_ffff, 0x8000_0000, 0xffff_ffff];
    let wide = [
        0u64,
        1,
        u64::MAX,
        1 << 63,
        (1 << 63) - 1,
        0x0020_0000_0000_0001,
        0xffdf_ffff_ffff_fffd,
        0x0000_8000_0080_0001,
    ];
    let mut programs = Vec::new();
    for (modifier, mode) in Mode::DIRECTED {
        for (to, format, d) in [("f32", F32, "%d"), ("f64", F64, "%wd")] {
            let mut add =
                |from: &str, source: &str, list: &[u64], value: fn(u64) -> i128| {
                    let case =
                        |&a: &u64| one(a, format.round(Exact::integer(value(a)), mode));
                    let body = format!("cvt.{modifier}.{to}.{from} {d}, {source};");
                    programs.push(FAMILY.program(&body, &list.iter().map(case).collect()));
                };
            add("u32", "%a", &words, i128::from);
            add("s32", "%a", &words, |a| i128::from(a as u32 as i32));
            add("u64", "%wa", &wide, i128::from);
            add("s64", "%wa", &wide, |a| i128::from(a as i64));
        }
    }
    programs
}

fn among_integers() -> Vec<Program> {
    vec![
        FAMILY.program("cvt.s64.s32 %wd, %a;", &vec![one(0xffffffff, u64::MAX), one(5, 5)]),
        FAMILY.program("cvt.u64.u32 %wd, %a;", &vec![one(0xffffffff, 0xffffffff)]),
        FAMILY.program("cvt.u32.u64 %d, %wa;", &vec![one(0x1_2345_6789, 0x2345_6789)]),
        FAMILY
            .program("cvt.s32.s8 %d, %a;", &vec![one(0x180, 0xffffff80), one(0x17f, 0x7f)]),
        FAMILY.program("cvt.u32.u8 %d, %a;", &vec![one(0x1ff, 0xff)]),
        FAMILY.program("cvt.s32.s16 %d, %a;", &vec![one(0x18000, 0xffff8000)]),
        FAMILY.program(
            "cvt.s8.s32 %h1, %a; cvt.s32.s16 %d, %h1;",
            &vec![one(0x180, 0xffffff80)],
        ),
        FAMILY.program("cvt.sat.u8.s32 %d, %a;", &vec![one(300, 255), one(0xffffffff, 0)]),
        FAMILY.program(
            "cvt.sat.s8.s32 %d, %a;",
            &vec![one(300, 127), one(0xffffff00, 0xffffff80)],
        ),
        FAMILY.program(
            "cvt.sat.s32.s64 %d, %wa;",
            &vec![one(1 << 40, 0x7fff_ffff), one(7, 7)],
        ),
        FAMILY.program(
            "cvt.pack.sat.s8.s32.b32 %d, %a, %b, %c;",
            &vec![three(300, 0xffffff00, 0x1234, 0x12347f80)],
        ),
        FAMILY.program(
            "cvt.pack.sat.u16.s32 %d, %a, %b;",
            &vec![two(70000, 0xffffff00, 0xffff_0000), two(3, 4, 0x0003_0004)],
        ),
        FAMILY.program(
            "cvt.sat.f32.f32 %d, %a;",
            &vec![one(0x4000_0000, 0x3f80_0000), one(0xbf80_0000, 0), one(0x7fc0_0000, 0)],
        ),
        FAMILY.named(
            "cvt.f32.f16 of a NaN",
            "cvt.u16.u32 %h1, %a; cvt.f32.f16 %d, %h1;",
            &vec![([0x7e00, 0, 0], Wanted::Nan(F32)), ([0x3c00, 0, 0], bits(0x3f80_0000))],
        ),
    ]
}

pub(super) fn programs() -> Vec<Program> {
    let mut programs = [narrowing(), widening(), eight_bits()].concat();
    programs.extend([to_integers(), from_integers(), among_integers()].concat());
    programs
}

//! Integer arithmetic, on values at the ends of the ranges, in integers of 128 bits.

use super::Program;
use super::draft::{Cases, Scalar, bits, one, three, two};

const FAMILY: Scalar = Scalar::new("integer");

/// An integer type of PTX.
#[derive(Clone, Copy)]
struct Integer {
    name: &'static str,
    bits: u32,
    signed: bool,
}

const U16: Integer = Integer { name: "u16", bits: 16, signed: false };
const S16: Integer = Integer { name: "s16", bits: 16, signed: true };
const U32: Integer = Integer { name: "u32", bits: 32, signed: false };
const S32: Integer = Integer { name: "s32", bits: 32, signed: true };
const U64: Integer = Integer { name: "u64", bits: 64, signed: false };
const S64: Integer = Integer { name: "s64", bits: 64, signed: true };

impl Integer {
    /// The value of the low bits.
    fn value(self, bits: u64) -> i128 {
        let low = i128::from(bits) & self.mask();
        let is_negative = self.signed && low >> (self.bits - 1) != 0;
        low - if is_negative { 1 << self.bits } else { 0 }
    }

    fn mask(self) -> i128 {
        (1 << self.bits) - 1
    }

    /// Values at the ends of the range and between.
    fn samples(self) -> Vec<u64> {
        let top = 1u64 << (self.bits - 1);
        let all = (top - 1) | top;
        let middle = 0x1234_5678_9abc_def1 & all;
        vec![0, 1, 2, 7, 255, middle, top - 1, top, top + 1, all - 6, all]
    }

    fn pairs(self) -> Vec<(u64, u64)> {
        let samples = self.samples();
        samples.iter().flat_map(|&a| samples.iter().map(move |&b| (a, b))).collect()
    }

    /// Registers that hold values of this many bits, and how they are filled.
    fn registers(self) -> ([&'static str; 4], &'static str, &'static str) {
        match self.bits {
            16 => (
                ["%h1", "%h2", "%h3", "%h4"],
                "cvt.u16.u32 %h1, %a; cvt.u16.u32 %h2, %b; cvt.u16.u32 %h3, %c; ",
                "cvt.u32.u16 %d, %h4;",
            ),
            32 => (["%a", "%b", "%c", "%d"], "", ""),
            _ => (["%wa", "%wb", "%wc", "%wd"], "", ""),
        }
    }
}

/// `operation.type` on one, two or three operands, by its definition.
fn sweep(
    operation: &str,
    ty: Integer,
    operands: usize,
    definition: impl Fn(i128, i128, i128) -> Option<i128>,
) -> Program {
    let mut cases = Cases::new();
    for (n, (a, b)) in ty.pairs().into_iter().enumerate() {
        let c = ty.samples()[n % 11];
        let value = |x| ty.value(x);
        if let Some(result) = definition(value(a), value(b), value(c)) {
            cases.push(([a, b, c], bits((result & ty.mask()) as u64)));
        }
    }
    let ([a, b, c, d], before, after) = ty.registers();
    let list = [a, b, c][..operands].join(", ");
    let name = format!("{operation}.{}", ty.name);
    let body = format!("{before}{name} {d}, {list}; {after}");
    FAMILY.named(&name, &body, &cases)
}

/// A product of 32-bit or 16-bit values in twice the bits, plus `c` for `mad`.
fn wide_product(ty: Integer, adds: bool) -> Program {
    let mut cases = Cases::new();
    for (n, (a, b)) in ty.pairs().into_iter().enumerate() {
        let c = if adds { ty.samples()[n % 11] << 3 } else { 0 };
        let product = ty.value(a) * ty.value(b) + i128::from(c);
        cases.push(([a, b, c], bits((product & ((1 << (2 * ty.bits)) - 1)) as u64)));
    }
    let name = format!("{}.wide.{}", if adds { "mad" } else { "mul" }, ty.name);
    let ([a, b, ..], before, _) = ty.registers();
    let wide = ty.bits == 32;
    let (c, d) = if wide { ("%wc", "%wd") } else { ("%c", "%d") };
    let third = if adds { format!(", {c}") } else { String::new() };
    let before = before.replace("cvt.u16.u32 %h3, %c; ", "");
    FAMILY.named(&name, &format!("{before}{name} {d}, {a}, {b}{third};"), &cases)
}

fn products(programs: &mut Vec<Program>) {
    for ty in [U16, S16, U32, S32, U64, S64] {
        programs.push(sweep("mul.lo", ty, 2, |a, b, _| Some(a.wrapping_mul(b))));
        programs.push(sweep("mul.hi", ty, 2, |a, b, _| high(ty, a, b)));
        programs.push(sweep("mad.lo", ty, 3, |a, b, c| {
            Some(a.wrapping_mul(b).wrapping_add(c))
        }));
    }
    for ty in [U32, S32, U64, S64] {
        programs.push(sweep("mad.hi", ty, 3, |a, b, c| Some(high(ty, a, b)? + c)));
    }
    for ty in [U16, S16, U32, S32] {
        programs.extend([wide_product(ty, false), wide_product(ty, true)]);
    }
    // Products of the low 24 bits.
    let low = |x: i128| x & 0xff_ffff;
    let signed = move |x: i128| low(x) - if low(x) >> 23 == 1 { 1 << 24 } else { 0 };
    programs.push(sweep("mul24.lo", U32, 2, move |a, b, _| Some(low(a) * low(b))));
    programs.push(sweep("mul24.lo", S32, 2, move |a, b, _| Some(signed(a) * signed(b))));
    programs.push(sweep("mad24.lo", U32, 3, move |a, b, c| Some(low(a) * low(b) + c)));
}

/// The upper half of a product; 128 bits just hold that of two unsigned 64-bit values.
fn high(ty: Integer, a: i128, b: i128) -> Option<i128> {
    match ty.signed {
        true => Some((a * b) >> ty.bits),
        false => Some(((a as u128 * b as u128) >> ty.bits) as i128),
    }
}

fn carries() -> Vec<Program> {
    let mut sums = Cases::new();
    let mut differences = Cases::new();
    for (n, (a, b)) in U64.pairs().into_iter().enumerate() {
        let c = U64.samples()[n % 11];
        let carry = u64::from(u128::from(a) + u128::from(b) > u128::from(u64::MAX));
        sums.push(([a, b, c], bits(c.wrapping_add(carry))));
        differences.push(([a, b, c], bits(c.wrapping_sub(u64::from(a < b)))));
    }
    vec![
        FAMILY.program("add.cc.u64 %q1, %wa, %wb; addc.u64 %wd, %wc, 0;", &sums),
        FAMILY.program("sub.cc.u64 %q1, %wa, %wb; subc.u64 %wd, %wc, 0;", &differences),
        FAMILY.program(
            "add.cc.u32 %r1, %a, %b; addc.u32 %d, %c, 0;",
            &vec![three(0xffffffff, 1, 7, 8), three(1, 1, 7, 7)],
        ),
        FAMILY.program(
            "sub.cc.u32 %r1, %a, %b; subc.u32 %d, %c, 0;",
            &vec![three(0, 1, 7, 6), three(1, 1, 7, 7)],
        ),
        FAMILY.program(
            "mad.lo.cc.u32 %r1, %a, %b, %c; madc.hi.u32 %d, %a, %b, 0;",
            &vec![three(0xffffffff, 0xffffffff, 0xffffffff, 0xffffffff), three(2, 3, 4, 0)],
        ),
    ]
}

/// `dp4a` of every signedness: four products of bytes and a sum.
fn dot_products(programs: &mut Vec<Program>) {
    let byte = |x: u64, n: u32, signed: bool| {
        let byte = (x >> (8 * n)) as u8;
        if signed { i64::from(byte as i8) } else { i64::from(byte) }
    };
    for (first, second) in [(false, false), (false, true), (true, false), (true, true)] {
        let mut cases = Cases::new();
        for (n, (a, b)) in U32.pairs().into_iter().enumerate() {
            let (a, b, c) = (a ^ 0xff01_8003, b.rotate_left(8) & 0xffff_ffff, n as u64);
            let products = (0..4).map(|n| byte(a, n, first) * byte(b, n, second));
            let sum = products.sum::<i64>() + c as i64;
            cases.push(([a, b, c], bits(sum as u64 & 0xffff_ffff)));
        }
        let name = |signed: bool| if signed { "s32" } else { "u32" };
        let body = format!("dp4a.{}.{} %d, %a, %b, %c;", name(first), name(second));
        programs.push(FAMILY.program(&body, &cases));
    }
}

pub(super) fn programs() -> Vec<Program> {
    let mut programs = Vec::new();
    for ty in [U16, S16, U32, S32, U64, S64] {
        programs.push(sweep("add", ty, 2, |a, b, _| Some(a + b)));
        programs.push(sweep("sub", ty, 2, |a, b, _| Some(a - b)));
        programs.push(sweep("min", ty, 2, |a, b, _| Some(a.min(b))));
        programs.push(sweep("max", ty, 2, |a, b, _| Some(a.max(b))));
    }
    for ty in [U32, S32, U64, S64] {
        // The quotient of the least value and -1 does not exist in the type.
        let exists =
            move |a: i128, b: i128| b != 0 && !(b == -1 && a == -(1 << (ty.bits - 1)));
        programs.push(sweep("div", ty, 2, move |a, b, _| exists(a, b).then(|| a / b)));
        programs.push(sweep("rem", ty, 2, move |a, b, _| exists(a, b).then(|| a % b)));
    }
    for ty in [S16, S32, S64] {
        programs.push(sweep("abs", ty, 1, |a, _, _| Some(a.abs())));
        programs.push(sweep("neg", ty, 1, |a, _, _| Some(-a)));
    }
    let clamp = |x: i128| x.clamp(i128::from(i32::MIN), i128::from(i32::MAX));
    programs.push(sweep("add.sat", S32, 2, move |a, b, _| Some(clamp(a + b))));
    programs.push(sweep("sub.sat", S32, 2, move |a, b, _| Some(clamp(a - b))));
    for ty in [U32, S32] {
        programs.push(sweep("sad", ty, 3, |a, b, c| Some(c + (a - b).abs())));
    }
    products(&mut programs);
    programs.extend(carries());
    dot_products(&mut programs);
    programs.push(FAMILY.needs("sm_90", "8.0").program(
        "add.u16x2 %d, %a, %b;",
        &vec![two(0x0001_ffff, 0x7fff_0001, 0x8000_0000), two(0x8000_0005, 0x8000_fffe, 3)],
    ));
    programs.push(FAMILY.needs("sm_90", "8.0").program(
        "max.s16x2 %d, %a, %b;",
        &vec![two(0x0001_ffff, 0x8000_0002, 0x0001_0002)],
    ));
    programs.push(FAMILY.program("abs.s32 %d, %a;", &vec![one(0xfffffffb, 5)]));
    programs
}

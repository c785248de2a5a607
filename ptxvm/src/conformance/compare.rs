//! Comparisons and selections.

use super::Program;
use super::draft::{Cases, Scalar, bits, one, three, two};

const FAMILY: Scalar = Scalar::new("comparison");

const NAN: u64 = 0x7fc0_0000;
const ONE: u64 = 0x3f80_0000;

/// `test` sets `%p1`, which becomes 1 or 0.
fn selects(test: &str, cases: &Cases) -> Program {
    FAMILY.program(&format!("{test} selp.u32 %d, 1, 0, %p1;"), cases)
}

/// Whether two unsigned values are in a certain order.
type Order = fn(u32, u32) -> bool;

/// Integers: an order of 32-bit values.
fn integers() -> Vec<Program> {
    let words = [0u32, 1, 0x7fff_ffff, 0x8000_0000, 0xffff_ffff, 42];
    let mut programs = Vec::new();
    let mut add = |name: &str, ty: &str, test: &dyn Fn(u32, u32) -> bool| {
        let pairs = words.iter().flat_map(|&a| words.iter().map(move |&b| (a, b)));
        let cases = pairs
            .map(|(a, b)| two(u64::from(a), u64::from(b), u64::from(test(a, b))))
            .collect();
        programs.push(selects(&format!("setp.{name}.{ty} %p1, %a, %b;"), &cases));
    };
    add("eq", "b32", &|a, b| a == b);
    add("ne", "b32", &|a, b| a != b);
    let unsigned: [(&str, Order); 4] = [
        ("lo", |a, b| a < b),
        ("ls", |a, b| a <= b),
        ("hi", |a, b| a > b),
        ("hs", |a, b| a >= b),
    ];
    for (name, test) in unsigned {
        add(name, "u32", &test);
    }
    // The signed order is the unsigned one with its halves exchanged.
    let signed: [(&str, Order); 4] = [
        ("lt", |a, b| a < b),
        ("le", |a, b| a <= b),
        ("gt", |a, b| a > b),
        ("ge", |a, b| a >= b),
    ];
    for (name, test) in signed {
        add(name, "u32", &test);
        add(name, "s32", &|a, b| test(a ^ 1 << 31, b ^ 1 << 31));
    }
    programs
}

/// Floats: less, equal, greater, or unordered, and which of these make it true.
fn floats() -> Vec<Program> {
    // In ascending order, the two zeros equal, and a NaN.
    let words: [(u64, i32); 7] = [
        (0xff80_0000, -2),
        (0xbf80_0000, -1),
        (0x8000_0000, 0),
        (0, 0),
        (ONE, 1),
        (0x7f80_0000, 2),
        (NAN, 99),
    ];
    let doubles: [(u64, i32); 5] =
        [(0xbff0 << 48, -1), (1 << 63, 0), (0, 0), (0x3ff0 << 48, 1), (0x7ff8 << 48, 99)];
    let tests: [(&str, [bool; 4]); 14] = [
        ("eq", [false, true, false, false]),
        ("ne", [true, false, true, false]),
        ("lt", [true, false, false, false]),
        ("le", [true, true, false, false]),
        ("gt", [false, false, true, false]),
        ("ge", [false, true, true, false]),
        ("equ", [false, true, false, true]),
        ("neu", [true, false, true, true]),
        ("ltu", [true, false, false, true]),
        ("leu", [true, true, false, true]),
        ("gtu", [false, false, true, true]),
        ("geu", [false, true, true, true]),
        ("num", [true, true, true, false]),
        ("nan", [false, false, false, true]),
    ];
    let relation = |a: i32, b: i32| match (a == 99 || b == 99, a.cmp(&b)) {
        (true, _) => 3,
        (false, order) => (order as i8 + 1) as usize,
    };
    let mut programs = Vec::new();
    for (name, truth) in tests {
        for (ty, list, a, b) in
            [("f32", &words[..], "%a", "%b"), ("f64", &doubles[..], "%wa", "%wb")]
        {
            let pairs = list.iter().flat_map(|x| list.iter().map(move |y| (x, y)));
            let cases = pairs
                .map(|(x, y)| two(x.0, y.0, u64::from(truth[relation(x.1, y.1)])))
                .collect();
            programs.push(selects(&format!("setp.{name}.{ty} %p1, {a}, {b};"), &cases));
        }
    }
    programs.push(selects(
        "setp.eq.ftz.f32 %p1, %a, %b;",
        &vec![two(1, 0x8000_0000, 1), two(1, 0x0080_0000, 0)],
    ));
    programs
}

pub(super) fn programs() -> Vec<Program> {
    let mut programs = [integers(), floats()].concat();
    let property = |name: &str, holds: [u64; 6]| {
        // Zero, a subnormal, one, the largest, infinity, a NaN.
        let words = [0x8000_0000, 1, ONE, 0x7f7f_ffff, 0xff80_0000, NAN];
        let cases = words.iter().zip(holds).map(|(&a, d)| one(a, d)).collect();
        selects(&format!("testp.{name}.f32 %p1, %a;"), &cases)
    };
    programs.extend([
        property("finite", [1, 1, 1, 1, 0, 0]),
        property("infinite", [0, 0, 0, 0, 1, 0]),
        property("number", [1, 1, 1, 1, 1, 0]),
        property("notanumber", [0, 0, 0, 0, 0, 1]),
        property("normal", [1, 0, 1, 1, 0, 0]),
        property("subnormal", [0, 1, 0, 0, 0, 0]),
        selects(
            "setp.gt.u32 %p2, %a, 5; setp.lt.and.u32 %p1, %b, 5, %p2;",
            &vec![two(6, 4, 1), two(5, 4, 0), two(6, 5, 0)],
        ),
        selects(
            "setp.gt.u32 %p2, %a, 5; setp.lt.or.u32 %p1, %b, 5, !%p2;",
            &vec![two(6, 9, 0), two(5, 9, 1), two(6, 4, 1)],
        ),
        selects(
            "setp.gt.u32 %p2, %a, 5; setp.lt.xor.u32 %p1, %b, 5, %p2;",
            &vec![two(6, 9, 1), two(5, 9, 0), two(6, 4, 0), two(5, 4, 1)],
        ),
        FAMILY.named(
            "setp with two results",
            "setp.lt.u32 %p1|%p2, %a, %b; selp.u32 %d, 1, 0, %p2;",
            &vec![two(1, 2, 0), two(3, 2, 1)],
        ),
        FAMILY.program(
            "set.lt.u32.s32 %d, %a, %b;",
            &vec![two(0xffffffff, 0, 0xffffffff), two(0, 0, 0)],
        ),
        FAMILY.program(
            "set.lt.f32.s32 %d, %a, %b;",
            &vec![two(0xffffffff, 0, ONE), two(1, 0, 0)],
        ),
        FAMILY.program(
            "slct.u32.s32 %d, %a, %b, %c;",
            &vec![three(1, 2, 0, 1), three(1, 2, 0xffffffff, 2), three(1, 2, 5, 1)],
        ),
        FAMILY.program(
            "slct.b32.f32 %d, %a, %b, %c;",
            &vec![
                three(1, 2, 0x8000_0000, 1),
                three(1, 2, 0xbf80_0000, 2),
                three(1, 2, NAN, 2),
            ],
        ),
        FAMILY.program(
            "setp.lo.u32 %p1, %a, %b; selp.b64 %wd, %wa, %wb, %p1;",
            &vec![([1 << 40 | 1, 2, 0], bits(1 << 40 | 1)), two(3, 2, 2)],
        ),
    ]);
    programs
}

//! Operations on bits: shifts, fields, permutations, and functions of three bits.

use super::Program;
use super::draft::{Cases, Scalar, bits, one, three, two};

const FAMILY: Scalar = Scalar::new("bits");

const WORDS: [u64; 8] =
    [0, 1, 0x8000_0000, 0xffff_ffff, 0x1234_5678, 0xdead_beef, 0x00ff_8001, 0x7f80_fe01];

/// All pairs of words with amounts from 0 to beyond the register.
fn with_amounts(definition: impl Fn(u64, u64, u64) -> u64) -> Cases {
    let mut cases = Cases::new();
    for (n, &a) in WORDS.iter().enumerate() {
        let b = WORDS[(3 * n + 5) % 8];
        for c in [0, 1, 7, 8, 16, 31, 32, 33, 63, 64, 200, 0xffff_ffff] {
            cases.push(([a, b, c], bits(definition(a, b, c))));
        }
    }
    cases
}

fn funnels() -> Vec<Program> {
    // The pair b:a shifted, and its upper half taken on the left, its lower on the right.
    let left = |a: u64, b: u64, n: u64| ((b << 32 | a) << n) >> 32;
    let right = |a: u64, b: u64, n: u64| (b << 32 | a) >> n & 0xffff_ffff;
    vec![
        FAMILY.program(
            "shf.l.wrap.b32 %d, %a, %b, %c;",
            &with_amounts(|a, b, c| left(a, b, c % 32) & 0xffff_ffff),
        ),
        FAMILY.program(
            "shf.l.clamp.b32 %d, %a, %b, %c;",
            &with_amounts(|a, b, c| left(a, b, c.min(32)) & 0xffff_ffff),
        ),
        FAMILY.program(
            "shf.r.wrap.b32 %d, %a, %b, %c;",
            &with_amounts(|a, b, c| right(a, b, c % 32)),
        ),
        FAMILY.program(
            "shf.r.clamp.b32 %d, %a, %b, %c;",
            &with_amounts(|a, b, c| right(a, b, c.min(32))),
        ),
    ]
}

fn shifts() -> Vec<Program> {
    let signed = |a: u64| i64::from(a as u32 as i32);
    let wide = |a: u64, b: u64| a << 32 | b;
    let mut wide_cases = [Cases::new(), Cases::new(), Cases::new()];
    for ([a, b, c], _) in with_amounts(|_, _, _| 0) {
        let value = wide(a, b);
        let n = c.min(64);
        let gone = n == 64;
        let results = [
            if gone { 0 } else { value << n },
            if gone { 0 } else { value >> n },
            (value as i64 >> n.min(63)) as u64,
        ];
        for (cases, result) in wide_cases.iter_mut().zip(results) {
            cases.push(([value, c, 0], bits(result)));
        }
    }
    let [left, right, signed_right] = wide_cases;
    vec![
        FAMILY.program(
            "shl.b32 %d, %a, %c;",
            &with_amounts(|a, _, c| a << c.min(32) & 0xffff_ffff),
        ),
        FAMILY.program("shr.u32 %d, %a, %c;", &with_amounts(|a, _, c| a >> c.min(32))),
        FAMILY.program(
            "shr.s32 %d, %a, %c;",
            &with_amounts(move |a, _, c| (signed(a) >> c.min(32)) as u64 & 0xffff_ffff),
        ),
        FAMILY.program("shl.b64 %wd, %wa, %b;", &left),
        FAMILY.program("shr.u64 %wd, %wa, %b;", &right),
        FAMILY.program("shr.s64 %wd, %wa, %b;", &signed_right),
    ]
}

/// Fields: position and length are the low 8 bits of their operands.
fn fields() -> Vec<Program> {
    let places =
        [(0, 8), (4, 8), (28, 8), (31, 1), (0, 32), (0, 33), (5, 0), (32, 4), (40, 255)];
    let (mut unsigned, mut signed, mut insert) = (Cases::new(), Cases::new(), Cases::new());
    let mut marks = [Cases::new(), Cases::new()];
    for (position, length) in places {
        for a in WORDS {
            let at = |n: u64| if n < 32 { a >> n & 1 } else { 0 };
            let field: u64 = (0..length.min(32)).map(|n| at(position + n) << n).sum();
            // The sign is the field's last bit, or the register's where that is outside.
            let sign =
                if length == 0 { 0 } else { a >> (position + length - 1).min(31) & 1 };
            let filled: u64 = (0..32)
                .map(|n| if n < length && position + n < 32 { at(position + n) } else { sign } << n)
                .sum();
            unsigned.push(([a, position, length], bits(field)));
            signed.push(([a, position, length], bits(filled)));
            let into = 0x5555_aaaau64;
            let inserted: u64 = (0..32)
                .map(|n| {
                    let inside = (position..position + length).contains(&n);
                    let bit = if inside { a >> (n - position) } else { into >> n };
                    (bit & 1) << n
                })
                .sum();
            insert.push(([a, position, length], bits(inserted)));
        }
        let mask = |inside: &dyn Fn(u64) -> bool| -> u64 {
            (0..32).map(|n| u64::from(inside(n)) << n).sum()
        };
        let clamped = mask(&|n| n >= position && n < position + length);
        let (first, count) = (position % 32, length % 32);
        let wrapped = mask(&|n| n >= first && n < first + count);
        marks[0].push(two(position, length, clamped));
        marks[1].push(two(position, length, wrapped));
    }
    vec![
        FAMILY.program("bfe.u32 %d, %a, %b, %c;", &unsigned),
        FAMILY.program("bfe.s32 %d, %a, %b, %c;", &signed),
        FAMILY.program("bfi.b32 %d, %a, 0x5555aaaa, %b, %c;", &insert),
        FAMILY.program("bmsk.clamp.b32 %d, %a, %b;", &marks[0]),
        FAMILY.program("bmsk.wrap.b32 %d, %a, %b;", &marks[1]),
    ]
}

/// Byte `n` of the eight bytes b:a; bit 3 of the selector repeats its sign instead.
fn permuted(a: u64, b: u64, selectors: [u64; 4]) -> u64 {
    let byte = |selector: u64| {
        let byte = (b << 32 | a) >> (8 * (selector & 7)) & 0xff;
        match selector & 8 {
            0 => byte,
            _ => 0xff * (byte >> 7),
        }
    };
    (0..4).map(|n| byte(selectors[n]) << (8 * n)).sum()
}

fn permutations() -> Vec<Program> {
    let mut default = Cases::new();
    for (n, &a) in WORDS.iter().enumerate() {
        for c in [0x3210, 0x7654, 0x0123, 0x5410, 0x8888, 0xf7b3, 0x9d1e, 0xabcd_4602] {
            let selectors = [0, 4, 8, 12].map(|shift| c >> shift & 15);
            let b = WORDS[(5 * n + 2) % 8];
            default.push(([a, b, c], bits(permuted(a, b, selectors))));
        }
    }
    let mut list = vec![FAMILY.program("prmt.b32 %d, %a, %b, %c;", &default)];
    // The ISA's table of modes, by the low two bits of c.
    let modes: [(&str, [[u64; 4]; 4]); 6] = [
        ("f4e", [[0, 1, 2, 3], [1, 2, 3, 4], [2, 3, 4, 5], [3, 4, 5, 6]]),
        ("b4e", [[0, 7, 6, 5], [1, 0, 7, 6], [2, 1, 0, 7], [3, 2, 1, 0]]),
        ("rc8", [[0; 4], [1; 4], [2; 4], [3; 4]]),
        ("ecl", [[0, 1, 2, 3], [1, 1, 2, 3], [2, 2, 2, 3], [3, 3, 3, 3]]),
        ("ecr", [[0, 0, 0, 0], [0, 1, 1, 1], [0, 1, 2, 2], [0, 1, 2, 3]]),
        ("rc16", [[0, 1, 0, 1], [2, 3, 2, 3], [0, 1, 0, 1], [2, 3, 2, 3]]),
    ];
    for (mode, table) in modes {
        let case = |c: usize| {
            let (a, b) = (0x3322_1100, 0x7766_5544);
            three(a, b, c as u64, permuted(a, b, table[c]))
        };
        let cases: Cases = (0..4).map(case).collect();
        list.push(FAMILY.program(&format!("prmt.b32.{mode} %d, %a, %b, %c;"), &cases));
    }
    list
}

/// Functions of three bits: bit a*4 + b*2 + c of the table is the result.
fn truth_tables() -> Vec<Program> {
    let program = |table: u64| {
        let mut cases = Cases::new();
        for (n, &a) in WORDS.iter().enumerate() {
            for (m, &b) in WORDS.iter().enumerate() {
                let c = WORDS[(n + 3 * m) % 8];
                let result = |bit: u64| {
                    let index = (a >> bit & 1) << 2 | (b >> bit & 1) << 1 | c >> bit & 1;
                    (table >> index & 1) << bit
                };
                cases.push(([a, b, c], bits((0..32).map(result).sum())));
            }
        }
        let name = format!("lop3.b32 {table:#04x}");
        FAMILY.named(&name, &format!("lop3.b32 %d, %a, %b, %c, {table:#x};"), &cases)
    };
    [0x00, 0x01, 0x80, 0x96, 0xca, 0xe8, 0xf8, 0x6a, 0xff].map(program).to_vec()
}

fn counts() -> Vec<Program> {
    let narrow = |body: &str, definition: fn(u32) -> u32| {
        let cases =
            WORDS.iter().map(|&a| one(a, u64::from(definition(a as u32)))).collect();
        FAMILY.program(body, &cases)
    };
    vec![
        narrow("popc.b32 %d, %a;", |a| (0..32).map(|n| a >> n & 1).sum()),
        narrow("clz.b32 %d, %a;", |a| {
            (0..32).find(|n| a >> (31 - n) & 1 == 1).unwrap_or(32)
        }),
        narrow("brev.b32 %d, %a;", |a| (0..32).map(|n| (a >> n & 1) << (31 - n)).sum()),
        narrow("bfind.u32 %d, %a;", |a| {
            (0..32).rev().find(|n| a >> n & 1 == 1).unwrap_or(u32::MAX)
        }),
        narrow("bfind.s32 %d, %a;", |a| {
            let a = if a >> 31 == 1 { !a } else { a };
            (0..32).rev().find(|n| a >> n & 1 == 1).unwrap_or(u32::MAX)
        }),
        narrow("bfind.shiftamt.u32 %d, %a;", |a| {
            (0..32).find(|n| a >> (31 - n) & 1 == 1).unwrap_or(u32::MAX)
        }),
        narrow("cnot.b32 %d, %a;", |a| u32::from(a == 0)),
        narrow("not.b32 %d, %a;", |a| u32::MAX - a),
        FAMILY.program(
            "popc.b64 %d, %wa;",
            &vec![one(u64::MAX, 64), one(0, 0), one(0x8000_0000_0000_0001, 2)],
        ),
        FAMILY.program("clz.b64 %d, %wa;", &vec![one(1, 63), one(0, 64), one(1 << 40, 23)]),
        FAMILY.program("brev.b64 %wd, %wa;", &vec![one(1, 1 << 63), one(0xf0, 0x0f << 56)]),
    ]
}

pub(super) fn programs() -> Vec<Program> {
    let mut programs =
        [shifts(), funnels(), fields(), permutations(), truth_tables()].concat();
    programs.extend(counts());
    programs.extend([
        FAMILY.program(
            "mov.b32 {%h1, %h2}, %a; mov.b32 %d, {%h2, %h1};",
            &vec![one(0x12345678, 0x56781234)],
        ),
        FAMILY.program(
            "mov.b64 {%r1, %r2}, %wa; mov.b64 %wd, {%r2, %r1};",
            &vec![one(0x1111111122222222, 0x2222222211111111)],
        ),
        FAMILY
            .program("and.b32 %d, %a, %b;", &vec![two(0xff00ff00, 0x12345678, 0x12005600)]),
        FAMILY
            .program("or.b32 %d, %a, %b;", &vec![two(0xff00ff00, 0x12345678, 0xff34ff78)]),
        FAMILY
            .program("xor.b32 %d, %a, %b;", &vec![two(0xff00ff00, 0x12345678, 0xed34a978)]),
    ]);
    programs
}

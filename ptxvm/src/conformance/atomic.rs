//! Atomics: every operation on one cell per thread, which shows the old and the new value,
//! and on one cell for all threads.

use super::Program;
use super::draft::Draft;

const FAMILY: &str = "atomic";

/// An operation: the new value from the old one and the operands.
struct Operation {
    name: &'static str,
    bytes: u32,
    initial: fn(u32) -> u64,
    operand: fn(u32) -> u64,
    /// The new value of `cas`.
    second: Option<fn(u32) -> u64>,
    new: fn(u64, u64, u64) -> u64,
}

/// Integers of 32 bits that wrap, are sometimes equal, and have both signs.
fn initial(t: u32) -> u64 {
    u64::from((t.wrapping_mul(0x1234_5677) ^ 0x7fff_fff0).rotate_left(t % 7))
}

fn operand(t: u32) -> u64 {
    if t.is_multiple_of(5) { initial(t) } else { u64::from(0x8000_0003u32.rotate_right(t)) }
}

fn wide(t: u32) -> u64 {
    initial(t) << 32 | initial(t + 1)
}

fn wide_operand(t: u32) -> u64 {
    if t.is_multiple_of(5) { wide(t) } else { u64::MAX - operand(t) }
}

const fn words(name: &'static str, new: fn(u64, u64, u64) -> u64) -> Operation {
    Operation { name, bytes: 4, initial, operand, second: None, new }
}

const fn doubles(name: &'static str, new: fn(u64, u64, u64) -> u64) -> Operation {
    Operation { name, bytes: 8, initial: wide, operand: wide_operand, second: None, new }
}

const OPERATIONS: [Operation; 28] = [
    words("add.u32", |old, a, _| (old + a) & 0xffff_ffff),
    words("min.u32", |old, a, _| old.min(a)),
    words("max.u32", |old, a, _| old.max(a)),
    words("min.s32", |old, a, _| (old as i32).min(a as i32) as u32 as u64),
    words("max.s32", |old, a, _| (old as i32).max(a as i32) as u32 as u64),
    words("and.b32", |old, a, _| old & a),
    words("or.b32", |old, a, _| old | a),
    words("xor.b32", |old, a, _| old ^ a),
    words("exch.b32", |_, a, _| a),
    words("inc.u32", |old, a, _| if old >= a { 0 } else { old + 1 }),
    words("dec.u32", |old, a, _| if old == 0 || old > a { a } else { old - 1 }),
    Operation {
        second: Some(|t| u64::from(t + 77)),
        ..words("cas.b32", |old, a, b| if old == a { b } else { old })
    },
    doubles("add.u64", |old, a, _| old.wrapping_add(a)),
    doubles("min.u64", |old, a, _| old.min(a)),
    doubles("max.u64", |old, a, _| old.max(a)),
    doubles("min.s64", |old, a, _| (old as i64).min(a as i64) as u64),
    doubles("max.s64", |old, a, _| (old as i64).max(a as i64) as u64),
    doubles("and.b64", |old, a, _| old & a),
    doubles("or.b64", |old, a, _| old | a),
    doubles("xor.b64", |old, a, _| old ^ a),
    doubles("exch.b64", |_, a, _| a),
    Operation {
        second: Some(|t| u64::from(t) << 33),
        ..doubles("cas.b64", |old, a, b| if old == a { b } else { old })
    },
    // t + 0.5 and 0.25, exact in all formats for these threads.
    Operation {
        initial: |t| float(t, 0.5),
        operand: |_| float(0, 0.25),
        ..words("add.f32", |old, a, _| {
            (f32::from_bits(old as u32) + f32::from_bits(a as u32)).to_bits() as u64
        })
    },
    Operation {
        initial: |t| (f64::from(t) + 0.5).to_bits(),
        operand: |_| 0.25f64.to_bits(),
        ..doubles("add.f64", |old, a, _| {
            (f64::from_bits(old) + f64::from_bits(a)).to_bits()
        })
    },
    // 1 + 2 below, 1.5 + 2.25 above.
    Operation {
        initial: |_| 0x3e00_3c00,
        operand: |_| 0x4080_4000,
        ..words("add.noftz.f16x2", |_, _, _| 0x4380_4200)
    },
    Operation {
        initial: |_| 0x3fc0_3f80,
        operand: |_| 0x4010_4000,
        ..words("add.noftz.bf16x2", |_, _, _| 0x4070_4040)
    },
    // A sum of 2049 does not fit 11 bits and is a tie, rounded to even.
    Operation {
        initial: |_| 0x6800_0001,
        operand: |_| 0x3c00_0002,
        ..words("add.noftz.f16x2", |_, _, _| 0x6800_0003)
    },
    words("add.s32", |old, a, _| (old + a) & 0xffff_ffff),
];

fn float(t: u32, more: f32) -> u64 {
    u64::from((t as f32 + more).to_bits())
}

/// Threads of a program here.
const THREADS: u32 = 64;

/// One operation on one cell per thread.
fn own_cells(operation: &Operation, space: &str) -> Program {
    let Operation { name, bytes, initial, operand, second, new } = *operation;
    let mut draft = Draft::new(FAMILY, format!("atom.{space}.{name}")).threads(THREADS);
    if name.contains("bf16") {
        draft = draft.needs("sm_90", "7.8");
    }
    let list = |value: &dyn Fn(u32) -> u64| -> Vec<u8> {
        let bytes_of = |t| value(t).to_le_bytes()[..bytes as usize].to_vec();
        (0..THREADS).flat_map(bytes_of).collect()
    };
    let cells = draft.input(&list(&initial));
    let operands = draft.input(&list(&operand));
    let second_value = second.unwrap_or(|_| 0);
    let seconds = draft.input(&list(&second_value));
    let (cell, ty) = if bytes == 8 {
        (["%q8", "%q9", "%q10", "%q11", "%q12"], "b64")
    } else {
        (["%r8", "%r9", "%r10", "%r11", "%r12"], "b32")
    };
    let [old, a, b, now, later] = cell;
    draft.code(&format!(
        "mad.wide.u32 %q1, %t, {bytes}, %in;
         ld.global.{ty} {a}, [%q1+{operands}];
         ld.global.{ty} {b}, [%q1+{seconds}];
         add.u64 %q2, %q1, {cells};"
    ));
    if space == "shared" {
        draft.declare(".shared .align 8 .b8 cells[1024];");
        draft.code(&format!(
            "ld.global.{ty} {now}, [%q2];
             mov.u64 %q2, cells;
             mad.wide.u32 %q2, %t, {bytes}, %q2;
             st.shared.{ty} [%q2], {now};"
        ));
    }
    let third = if second.is_some() { format!(", {b}") } else { String::new() };
    draft.code(&format!("atom.{space}.{name} {old}, [%q2], {a}{third};"));
    draft.code(&format!("ld.{space}.{ty} {now}, [%q2];"));
    let reduces = !(name.starts_with("exch") || name.starts_with("cas"));
    if reduces {
        draft.code(&format!(
            "red.{space}.{name} [%q2], {a};\nld.{space}.{ty} {later}, [%q2];"
        ));
    }
    let result = move |t| new(initial(t), operand(t), second_value(t));
    put(&mut draft, "old value", old, bytes, initial);
    put(&mut draft, "new value", now, bytes, result);
    // The constants of 16-bit sums are of one step only.
    if reduces && !name.contains("16") {
        put(&mut draft, "after red", later, bytes, move |t| new(result(t), operand(t), 0));
    }
    draft.finish()
}

fn put(
    draft: &mut Draft,
    label: &str,
    register: &str,
    bytes: u32,
    value: impl Fn(u32) -> u64,
) {
    let offset = draft.column(bytes as usize);
    draft.code(&format!("st.global.b{} [%q31], {register};", 8 * bytes));
    for t in 0..THREADS {
        let label = format!("{label}, thread {t}");
        let at = offset + (bytes * t) as usize;
        draft.case(label, at, bytes as usize, super::draft::bits(value(t)));
    }
}

/// All threads on one cell, with operations whose result does not depend on the order.
fn one_cell(space: &str) -> Program {
    let name = format!("atom.{space} on one cell");
    let mut draft = Draft::new(FAMILY, name).threads(THREADS);
    let operations: [(&str, u32, u32, u32); 8] = [
        // Name, what the cell starts with, the operand's factor, the end.
        ("add.u32", 5, 3, 5 + 3 * (63 * 64 / 2)),
        ("max.u32", 5, 3, 189),
        ("min.s32", 5, u32::MAX, -63i32 as u32),
        ("or.b32", 0, 1, 63),
        ("xor.b32", 1, 1, 1),
        ("and.b32", 0xff, 0, 0),
        ("inc.u32", 0, 0, 0),
        ("add.f32", 0, 0, 0),
    ];
    let start: Vec<u32> = operations.iter().map(|operation| operation.1).collect();
    draft.input_words(start);
    draft.code("mov.u64 %q2, %in;");
    if space == "shared" {
        draft.declare(".shared .align 8 .b8 cells[32];");
        draft.code(
            "mov.u64 %q2, cells;
             setp.lt.u32 %p1, %t, 8;
             mad.wide.u32 %q3, %t, 4, %in;
             mad.wide.u32 %q4, %t, 4, %q2;
             @%p1 ld.global.b32 %r2, [%q3];
             @%p1 st.shared.b32 [%q4], %r2;
             bar.sync 0;",
        );
    }
    for (n, (name, _, factor, _)) in operations.iter().enumerate() {
        let value = match *name {
            // Counts to 9 and starts again: 64 steps end at 4.
            "inc.u32" => "mov.u32 %r3, 9;".to_owned(),
            "add.f32" => "mov.b32 %r3, 0f3f000000;".to_owned(),
            _ => format!("mul.lo.u32 %r3, %t, {factor};"),
        };
        draft.code(&format!("{value}\nred.{space}.{name} [%q2+{}], %r3;", 4 * n));
    }
    // Every thread draws a different number.
    draft.code("bar.sync 0;");
    for (n, (name, _, _, end)) in operations.iter().enumerate() {
        draft.code(&format!("ld.{space}.b32 %r4, [%q2+{}];", 4 * n));
        let end = match *name {
            "inc.u32" => 4,
            "add.f32" => 32f32.to_bits(),
            _ => *end,
        };
        draft.put(name, "%r4", |_| end);
    }
    draft.finish()
}

/// Every thread of several blocks draws a number: each is drawn once.
fn tickets() -> Program {
    let mut draft =
        Draft::new(FAMILY, "atom.global.add of many blocks").threads(64).blocks(4, 1);
    draft.input_words([0]);
    draft.code("atom.global.add.u32 %r2, [%in], 1;");
    let offset = draft.column(4);
    draft.code(&format!(
        "mad.wide.u32 %q1, %r2, 4, %out;\nmov.u32 %r3, 1;\nst.global.b32 [%q1+{offset}], %r3;"
    ));
    for ticket in 0..256 {
        let label = format!("ticket {ticket}");
        draft.case(label, offset + 4 * ticket, 4, super::draft::bits(1));
    }
    draft.finish()
}

pub(super) fn programs() -> Vec<Program> {
    let mut programs = Vec::new();
    for space in ["global", "shared"] {
        programs.extend(OPERATIONS.iter().map(|operation| own_cells(operation, space)));
        programs.push(one_cell(space));
    }
    programs.push(tickets());
    programs
}

//! wgmma in the forms that the compiled kernels leave out: types, swizzles and
//! transposes, over tiles that tensor copies lay out.

mod common;

use common::{clean, upload, words};
use ptxvm::{
    Launch, Memory, Module, OutOfBoundsFill, Params, Swizzle, TensorElement, TensorMap,
};

/// An element's bits from a small integer, and its bytes.
#[derive(Clone, Copy)]
struct Number {
    name: &'static str,
    bytes: usize,
    encode: fn(i32) -> u32,
}

/// Floats of few bits hold integers up to 8 exactly.
fn small(x: i32, bias: u32, mantissa: u32, sign: u32) -> u32 {
    let magnitude = x.unsigned_abs();
    if magnitude == 0 {
        return 0;
    }
    let top = 31 - magnitude.leading_zeros();
    let fraction = magnitude << mantissa >> top & ((1 << mantissa) - 1);
    (top + bias) << mantissa | fraction | if x < 0 { 1 << sign } else { 0 }
}

const BF16: Number =
    Number { name: "bf16", bytes: 2, encode: |x| (x as f32).to_bits() >> 16 };
const F16: Number = Number { name: "f16", bytes: 2, encode: |x| small(x, 15, 10, 15) };
const TF32: Number = Number { name: "tf32", bytes: 4, encode: |x| (x as f32).to_bits() };
const E4M3: Number = Number { name: "e4m3", bytes: 1, encode: |x| small(x, 7, 3, 7) };
const E5M2: Number = Number { name: "e5m2", bytes: 1, encode: |x| small(x, 15, 2, 7) };
const S8: Number = Number { name: "s8", bytes: 1, encode: |x| u32::from(x as i8 as u8) };
const U8: Number =
    Number { name: "u8", bytes: 1, encode: |x| u32::from(x.unsigned_abs() as u8) };

#[derive(Clone, Copy)]
struct Case {
    a: Number,
    b: Number,
    d: &'static str,
    n: usize,
    swizzle: Swizzle,
    transpose_a: bool,
    transpose_b: bool,
    negate_b: bool,
}

const PLAIN: Case = Case {
    a: BF16,
    b: BF16,
    d: "f32",
    n: 8,
    swizzle: Swizzle::Bytes128,
    transpose_a: false,
    transpose_b: false,
    negate_b: false,
};

fn span(swizzle: Swizzle) -> usize {
    match swizzle {
        Swizzle::None => 16,
        Swizzle::Bytes32 => 32,
        Swizzle::Bytes64 => 64,
        Swizzle::Bytes128 => 128,
    }
}

fn code(swizzle: Swizzle) -> u64 {
    match swizzle {
        Swizzle::None => 0,
        Swizzle::Bytes128 => 1,
        Swizzle::Bytes64 => 2,
        Swizzle::Bytes32 => 3,
    }
}

/// An operand: the tensor in memory, its boxes in shared memory, its descriptor.
struct Operand {
    map: TensorMap,
    /// First columns of the boxes.
    boxes: Vec<usize>,
    box_bytes: usize,
    leading: usize,
    stride: usize,
}

/// `extent` rows of k elements, or transposed k rows of `extent`, in boxes as wide as
/// the swizzle's rows.
fn operand(
    memory: &mut Memory,
    (values, extent, k): (&[i32], usize, usize),
    number: Number,
    swizzle: Swizzle,
    transposed: bool,
) -> Operand {
    let (rows, columns) = if transposed { (k, extent) } else { (extent, k) };
    let wide = (span(swizzle) / number.bytes).min(columns.max(16 / number.bytes));
    let pitch = (columns * number.bytes).next_multiple_of(16);
    let mut bytes = vec![0; rows * pitch];
    for row in 0..rows {
        for column in 0..columns {
            let value = if transposed {
                values[column * k + row]
            } else {
                values[row * k + column]
            };
            let bits = (number.encode)(value).to_le_bytes();
            let at = row * pitch + column * number.bytes;
            bytes[at..at + number.bytes].copy_from_slice(&bits[..number.bytes]);
        }
    }
    let address = upload(memory, "operand", &bytes, u8::to_le_bytes);
    let box_bytes = rows * span(swizzle);
    let map = TensorMap {
        element: match number.bytes {
            1 => TensorElement::U8,
            2 => TensorElement::U16,
            _ => TensorElement::U32,
        },
        address,
        dims: vec![columns as u64, rows as u64],
        strides: vec![pitch as u64],
        box_dims: vec![wide as u32, rows as u32],
        swizzle,
        fill: OutOfBoundsFill::Zero,
    };
    let boxes = (0..columns).step_by(wide).collect();
    let (leading, stride) = match (transposed, swizzle) {
        (false, Swizzle::None) => (box_bytes, 128),
        (true, Swizzle::None) => (128, box_bytes),
        (false, _) => (16, 8 * span(swizzle)),
        (true, _) => (box_bytes, 8 * span(swizzle)),
    };
    Operand { map, boxes, box_bytes, leading, stride }
}

fn program(case: Case, k: usize, a: &Operand, b: &Operand) -> String {
    let per = if case.d == "f16" { 2 } else { 1 };
    let count = case.n / 2 / per;
    let list: Vec<String> = (0..count).map(|n| format!("%d{n}")).collect();
    let list = list.join(", ");
    let mut copies = String::new();
    let mut at = 0;
    for (name, operand) in [("a", a), ("b", b)] {
        at = usize::next_multiple_of(at, 1024);
        copies += &format!("add.u32 %{name}s, %tile, {at};\n");
        for &column in &operand.boxes {
            copies += &format!(
                "add.u32 %r1, %tile, {at};\nmov.u32 %r2, {column};\n\
                 @%lead cp.async.bulk.tensor.2d.shared::cta.global.tile\
                 .mbarrier::complete_tx::bytes [%r1], [{name}, {{%r2, 0}}], [%bar];\n"
            );
            at += operand.box_bytes;
        }
    }
    let bytes: usize = a.boxes.len() * a.box_bytes + b.boxes.len() * b.box_bytes;
    let descriptor = |name: &str, operand: &Operand| {
        let fixed = (operand.leading as u64 >> 4) << 16
            | (operand.stride as u64 >> 4) << 32
            | code(case.swizzle) << 62;
        format!(
            "shr.u32 %r1, %{name}s, 4;\ncvt.u64.u32 %{name}d, %r1;\n\
             or.b64 %{name}d, %{name}d, {fixed};\n"
        )
    };
    let integer = case.d == "s32";
    let mut flags = String::new();
    if !integer {
        flags += if case.negate_b { ", 1, -1" } else { ", 1, 1" };
    }
    if case.a.bytes == 2 {
        let bit = |on: bool| if on { 1 } else { 0 };
        flags += &format!(", {}, {}", bit(case.transpose_a), bit(case.transpose_b));
    }
    let zero: String = (0..count).map(|n| format!("mov.b32 %d{n}, 0;\n")).collect();
    let store: String =
        (0..count).map(|n| format!("st.global.b32 [%out+{}], %d{n};\n", 4 * n)).collect();
    format!(
        ".version 8.7\n.target sm_90a\n.address_size 64\n\
         .visible .entry k(.param .align 64 .b8 a[128], .param .align 64 .b8 b[128], .param .u64 out)\n{{\n\
         .reg .pred %lead, %done, %keep;\n.reg .b32 %d<256>, %r<8>, %t, %tile, %bar, %as, %bs;\n\
         .reg .b64 %ad, %bd, %out, %o;\n\
         .shared .align 1024 .b8 tiles[65536];\n.shared .align 8 .b64 full;\n\
         mov.u32 %t, %tid.x;\nmov.u32 %tile, tiles;\nmov.u32 %bar, full;\n\
         setp.eq.u32 %lead, %t, 0;\n\
         @%lead mbarrier.init.shared::cta.b64 [%bar], 1;\nbar.sync 0;\n\
         @%lead mbarrier.arrive.expect_tx.shared::cta.b64 _, [%bar], {bytes};\n{copies}\
         AGAIN: mbarrier.try_wait.parity.shared::cta.b64 %done, [%bar], 0;\n@!%done bra AGAIN;\n\
         {}{}{zero}setp.ne.b32 %keep, 0, 0;\n\
         wgmma.fence.sync.aligned;\n\
         wgmma.mma_async.sync.aligned.m64n{}k{k}.{}.{}.{} {{{list}}}, %ad, %bd, %keep{flags};\n\
         wgmma.commit_group.sync.aligned;\nwgmma.wait_group.sync.aligned 0;\n\
         ld.param.u64 %out, [out];\nmul.wide.u32 %o, %t, {};\nadd.s64 %out, %out, %o;\n\
         {store}ret;\n}}\n",
        descriptor("a", a),
        descriptor("b", b),
        case.n,
        case.d,
        case.a.name,
        case.b.name,
        4 * count,
    )
}

fn check(case: Case) {
    let k = 32 / case.a.bytes;
    let sign = |number: Number, x: i32| if number.name == "u8" { x.abs() } else { x };
    let a: Vec<i32> = (0..64 * k).map(|i| sign(case.a, (i * 7 % 9) as i32 - 4)).collect();
    let b: Vec<i32> =
        (0..case.n * k).map(|i| sign(case.b, (i * 5 % 7) as i32 - 3)).collect();
    let mut memory = Memory::new();
    let oa = operand(&mut memory, (&a, 64, k), case.a, case.swizzle, case.transpose_a);
    let ob = operand(&mut memory, (&b, case.n, k), case.b, case.swizzle, case.transpose_b);
    let per = if case.d == "f16" { 2 } else { 1 };
    let count = case.n / 2 / per;
    let out = memory.alloc(4 * 128 * count as u64, "out");
    let text = program(case, k, &oa, &ob);
    let module = Module::parse(&text).unwrap_or_else(|error| panic!("{error}\n{text}"));
    let launch = Launch {
        block: [128, 1, 1],
        params: Params::new()
            .bytes(64, &oa.map.encode().unwrap())
            .bytes(64, &ob.map.encode().unwrap())
            .u64(out)
            .build(),
        ..Launch::new("k")
    };
    clean(&module, &mut memory, &launch);
    let got = words(&memory, out, 128 * count);
    for thread in 0..128 {
        for i in 0..case.n / 2 {
            // The ISA's accumulator: four elements of a thread in each 8 columns.
            let row = thread / 32 * 16 + thread % 32 / 4 + i / 2 % 2 * 8;
            let column = i / 4 * 8 + thread % 4 * 2 + i % 2;
            let product = |j: usize| a[row * k + j] * b[column * k + j];
            let sum: i32 = (0..k).map(product).sum();
            let sum = if case.negate_b { -sum } else { sum };
            let word = got[thread * count + i / per];
            let (got, wanted) = match case.d {
                "f32" => (word, (sum as f32).to_bits()),
                "s32" => (word, sum as u32),
                _ => (word >> (16 * (i % 2)) & 0xffff, small(sum, 15, 10, 15)),
            };
            let zero = sum == 0 && got & 0x7fff_ffff == 0;
            assert!(
                got == wanted || zero,
                "row {row}, column {column}: {got:x} {wanted:x}"
            );
        }
    }
}

#[test]
fn every_swizzle_along_k() {
    for swizzle in [Swizzle::Bytes32, Swizzle::None] {
        check(Case { swizzle, n: 16, ..PLAIN });
        check(Case { swizzle, n: 16, a: E4M3, b: E4M3, ..PLAIN });
    }
}

#[test]
fn every_swizzle_across() {
    for swizzle in [Swizzle::Bytes128, Swizzle::Bytes64, Swizzle::Bytes32, Swizzle::None] {
        let case = Case { swizzle, n: 128, ..PLAIN };
        check(Case { transpose_a: true, transpose_b: true, ..case });
    }
    check(Case { n: 256, transpose_b: true, transpose_a: true, a: F16, b: F16, ..PLAIN });
}

#[test]
fn every_type() {
    let narrow = Case { swizzle: Swizzle::Bytes32, n: 24, ..PLAIN };
    check(Case { a: F16, b: F16, ..narrow });
    check(Case { a: F16, b: F16, d: "f16", ..narrow });
    check(Case { a: E4M3, b: E5M2, ..narrow });
    check(Case { a: E5M2, b: E4M3, d: "f16", ..narrow });
    check(Case { a: TF32, b: TF32, ..narrow });
    check(Case { a: S8, b: S8, d: "s32", n: 32, ..narrow });
    check(Case { a: U8, b: S8, d: "s32", n: 64, ..narrow });
    check(Case { negate_b: true, ..narrow });
}

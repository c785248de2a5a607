//! `wgmma` for all types, swizzles and transposes, on tiles that tensor copies bring.

use super::draft::{Draft, bits};
use super::number::{BF16, E4M3, E5M2, F16, F32, Format, TF32, small};
use super::{Program, Wanted};
use crate::{OutOfBoundsFill, Swizzle, TensorElement, TensorMap};

/// A type of the elements of A or B.
#[derive(Clone, Copy)]
struct Number {
    name: &'static str,
    bytes: usize,
    encode: fn(i32) -> u32,
}

const BF16S: Number = Number { name: "bf16", bytes: 2, encode: |x| small(BF16, x) };
const F16S: Number = Number { name: "f16", bytes: 2, encode: |x| small(F16, x) };
const TF32S: Number = Number { name: "tf32", bytes: 4, encode: |x| small(TF32, x) };
const E4M3S: Number = Number { name: "e4m3", bytes: 1, encode: |x| small(E4M3, x) };
const E5M2S: Number = Number { name: "e5m2", bytes: 1, encode: |x| small(E5M2, x) };
const S8: Number = Number { name: "s8", bytes: 1, encode: |x| u32::from(x as u8) };
const U8: Number = Number { name: "u8", bytes: 1, encode: |x| u32::from(x as u8) };

/// One product of 64 rows.
#[derive(Clone, Copy)]
struct Product {
    a: Number,
    b: Number,
    d: &'static str,
    n: usize,
    swizzle: Swizzle,
    transpose_a: bool,
    transpose_b: bool,
    negate_a: bool,
    negate_b: bool,
    /// Whether A is in registers.
    registers: bool,
    /// Whether D starts as column numbers, and is added to.
    accumulate: bool,
    /// Whether the first product is so large that others are cut off.
    cuts: bool,
}

const PLAIN: Product = Product {
    a: BF16S,
    b: BF16S,
    d: "f32",
    n: 8,
    swizzle: Swizzle::Bytes128,
    transpose_a: false,
    transpose_b: false,
    negate_a: false,
    negate_b: false,
    registers: false,
    accumulate: false,
    cuts: false,
};

fn span(swizzle: Swizzle) -> usize {
    match swizzle {
        Swizzle::None => 16,
        Swizzle::Bytes32 => 32,
        Swizzle::Bytes64 => 64,
        Swizzle::Bytes128 => 128,
    }
}

/// The descriptor's two bits.
fn code(swizzle: Swizzle) -> u64 {
    match swizzle {
        Swizzle::None => 0,
        Swizzle::Bytes128 => 1,
        Swizzle::Bytes64 => 2,
        Swizzle::Bytes32 => 3,
    }
}

/// How an operand is copied to shared memory.
struct Operand {
    /// First columns of the boxes.
    boxes: Vec<usize>,
    box_bytes: usize,
    /// The descriptor's offsets, in bytes.
    leading: usize,
    stride: usize,
}

/// Adds the tensor of `extent` rows of k elements, or transposed k rows of `extent`, in
/// boxes as wide as the swizzle's rows.
fn operand(
    draft: &mut Draft,
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
            let at = if transposed { column * k + row } else { row * k + column };
            let bits = (number.encode)(values[at]).to_le_bytes();
            let at = row * pitch + column * number.bytes;
            bytes[at..at + number.bytes].copy_from_slice(&bits[..number.bytes]);
        }
    }
    let address = draft.input(&bytes) as u64;
    let element = match number.bytes {
        1 => TensorElement::U8,
        2 => TensorElement::U16,
        _ => TensorElement::U32,
    };
    draft.map(TensorMap {
        element,
        address,
        dims: vec![columns as u64, rows as u64],
        strides: vec![pitch as u64],
        box_dims: vec![wide as u32, rows as u32],
        swizzle,
        fill: OutOfBoundsFill::Zero,
    });
    // A box with fewer columns than the swizzle's rows is padded with zeros.
    let box_bytes = rows * wide * number.bytes;
    let (leading, stride) = match (transposed, swizzle) {
        (false, Swizzle::None) => (box_bytes, 128),
        (true, Swizzle::None) => (128, box_bytes),
        (false, _) => (16, 8 * span(swizzle)),
        (true, _) => (box_bytes, 8 * span(swizzle)),
    };
    Operand { boxes: (0..columns).step_by(wide).collect(), box_bytes, leading, stride }
}

/// Copies the operands' boxes to `%r8` and on, waits for them, and makes their
/// descriptors `%q8` and `%q9`.
fn copies(draft: &mut Draft, swizzle: Swizzle, operands: &[(usize, Operand)]) {
    draft.declare(".shared .align 1024 .b8 tiles[32768];\n    .shared .align 8 .b64 full;");
    let bytes: usize = operands.iter().map(|(_, o)| o.boxes.len() * o.box_bytes).sum();
    draft.code(&format!(
        "mov.u32 %r2, tiles;
         mov.u32 %r3, full;
         setp.eq.u32 %p1, %t, 0;
         @%p1 mbarrier.init.shared::cta.b64 [%r3], 1;
         @%p1 fence.mbarrier_init.release.cluster;
         bar.sync 0;
         @%p1 mbarrier.arrive.expect_tx.shared::cta.b64 %q2, [%r3], {bytes};"
    ));
    let mut at = 0usize;
    for (n, (map, operand)) in operands.iter().enumerate() {
        at = at.next_multiple_of(1024);
        draft.code(&format!(
            "add.u32 %r{}, %r2, {at};\nmov.u64 %q3, map{n};\n\
             cvta.param.u64 %q3, %q3;",
            8 + map
        ));
        for &column in &operand.boxes {
            draft.code(&format!(
                "add.u32 %r4, %r2, {at};
                 mov.u32 %r5, {column};
                 mov.u32 %r6, 0;
                 @%p1 cp.async.bulk.tensor.2d.shared::cluster.global.tile.mbarrier::complete_tx::bytes [%r4], [%q3, {{%r5, %r6}}], [%r3];"
            ));
            at += operand.box_bytes;
        }
    }
    draft.wait("%r3", "0");
    for (map, operand) in operands {
        let fixed = (operand.leading as u64 >> 4) << 16
            | (operand.stride as u64 >> 4) << 32
            | code(swizzle) << 62;
        draft.code(&format!(
            "and.b32 %r4, %r{r}, 0x3ffff;
             shr.u32 %r4, %r4, 4;
             cvt.u64.u32 %q{r}, %r4;
             or.b64 %q{r}, %q{r}, {fixed:#x};",
            r = 8 + map
        ));
    }
}

/// Numbers small enough that every sum is exact, but for a large first one along k, of
/// either sign, in two of three rows and columns where the sums are to be cut.
fn matrices(product: &Product, k: usize) -> (Vec<i32>, Vec<i32>) {
    let sign = |number: Number, x: i32| if number.name == "u8" { x.abs() } else { x };
    let large =
        |i: usize| (product.cuts && i.is_multiple_of(k)).then(|| [256, -256, 0][i / k % 3]);
    let a = |i: usize| large(i).unwrap_or(sign(product.a, (i * 7 % 9) as i32 - 4));
    let b = |i: usize| large(i).unwrap_or(sign(product.b, (i * 5 % 7) as i32 - 3));
    ((0..64 * k).map(a).collect(), (0..product.n * k).map(b).collect())
}

/// The sum of products of 8-bit floats and what D was, in fixed point: Hopper's tensor cores
/// keep 13 bits after the point of the largest product's power of two, and cut off the rest
/// of each term towards zero.
fn fixed_point(terms: &[i32]) -> i32 {
    let largest = terms.iter().map(|term| term.abs()).max().unwrap_or(0);
    let unit = if largest == 65536 { 8 } else { 1 };
    terms.iter().map(|term| term / unit * unit).sum()
}

/// Row and column of element `i` of a thread's accumulator: four in each 8 columns.
fn place(thread: usize, i: usize) -> (usize, usize) {
    let row = thread / 32 * 16 + thread % 32 / 4 + i / 2 % 2 * 8;
    (row, i / 4 * 8 + thread % 4 * 2 + i % 2)
}

/// A's fragment in registers: 32 bits of neighbours along k, rows 8 apart, then the
/// other half of k.
fn a_in_registers(draft: &mut Draft, product: &Product, a: &[i32], k: usize) {
    let per = 4 / product.a.bytes;
    let mut words = Vec::new();
    for thread in 0..128 {
        for register in 0..4 {
            let row = thread / 32 * 16 + thread % 32 / 4 + register % 2 * 8;
            let first = thread % 4 * per + register / 2 * (k / 2);
            let value = |n: usize| (product.a.encode)(a[row * k + first + n]);
            words.push((0..per).map(|n| value(n) << (32 / per * n) as u32).sum());
        }
    }
    let at = draft.input_words(words);
    draft.code(&format!(
        "mad.wide.u32 %q3, %t, 16, %in;\n\
         ld.global.v4.b32 {{%r20, %r21, %r22, %r23}}, [%q3+{at}];"
    ));
}

fn name(product: &Product, k: usize) -> String {
    let Product { a, b, d, n, .. } = product;
    let mut name = format!("wgmma m64n{n}k{k}.{d}.{}.{}", a.name, b.name);
    match product.swizzle {
        Swizzle::None => name += ", no swizzle",
        swizzle => name += &format!(", {}-byte swizzle", span(swizzle)),
    }
    for (on, what) in [
        (product.transpose_a, "A transposed"),
        (product.transpose_b, "B transposed"),
        (product.negate_a, "A negated"),
        (product.negate_b, "B negated"),
        (product.registers, "A in registers"),
        (product.accumulate, "D added to"),
        (product.cuts, "small products beside a large one"),
    ] {
        if on {
            name += &format!(", {what}");
        }
    }
    name
}

/// The operands after the descriptors: signs, and whether to transpose.
fn flags(product: &Product) -> String {
    let sign = |negative: bool| if negative { -1 } else { 1 };
    let mut flags = String::new();
    if product.d != "s32" {
        flags += &format!(", {}, {}", sign(product.negate_a), sign(product.negate_b));
    }
    if product.a.bytes == 2 {
        if !product.registers {
            flags += &format!(", {}", u8::from(product.transpose_a));
        }
        flags += &format!(", {}", u8::from(product.transpose_b));
    }
    flags
}

/// The bits that a register of D starts with: each element is its column.
fn start(product: &Product, thread: usize, register: usize) -> u32 {
    let column = |i: usize| place(thread, i).1 as i32;
    match product.d {
        "f32" => small(F32, column(register)),
        "s32" => column(register) as u32,
        _ => small(F16, column(2 * register)) | small(F16, column(2 * register + 1)) << 16,
    }
}

fn program(product: &Product) -> Program {
    let k = 32 / product.a.bytes;
    let (a, b) = matrices(product, k);
    let version = if product.a.name == product.b.name { "8.0" } else { "8.4" };
    let mut draft =
        Draft::new("wgmma", name(product, k)).needs("sm_90a", version).threads(128);
    let mut operands = Vec::new();
    if product.registers {
        a_in_registers(&mut draft, product, &a, k);
    } else {
        let all = (&a[..], 64, k);
        let operand =
            operand(&mut draft, all, product.a, product.swizzle, product.transpose_a);
        operands.push((0, operand));
    }
    let all = (&b[..], product.n, k);
    let second = operand(&mut draft, all, product.b, product.swizzle, product.transpose_b);
    operands.push((1, second));
    copies(&mut draft, product.swizzle, &operands);

    let per = if product.d == "f16" { 2 } else { 1 };
    let count = product.n / 2 / per;
    if product.accumulate {
        let words = (0..128).flat_map(|t| (0..count).map(move |r| (t, r)));
        let at = draft.input_words(words.map(|(t, r)| start(product, t, r)));
        draft.code(&format!("mad.wide.u32 %q3, %t, {}, %in;", 4 * count));
        for register in 0..count {
            draft
                .code(&format!("ld.global.b32 %x{register}, [%q3+{}];", at + 4 * register));
        }
    } else {
        // Without accumulation, what D held does not matter.
        (0..count).for_each(|n| draft.code(&format!("mov.b32 %x{n}, 0x40400000;")));
    }
    let d: Vec<String> = (0..count).map(|n| format!("%x{n}")).collect();
    let source = if product.registers { "{%r20, %r21, %r22, %r23}" } else { "%q8" };
    draft.code(&format!(
        "setp.ne.b32 %p2, {}, 0;
         wgmma.fence.sync.aligned;
         wgmma.mma_async.sync.aligned.m64n{}k{k}.{}.{}.{} {{{}}}, {source}, %q9, %p2{};
         wgmma.commit_group.sync.aligned;
         wgmma.wait_group.sync.aligned 0;",
        u8::from(product.accumulate),
        product.n,
        product.d,
        product.a.name,
        product.b.name,
        d.join(", "),
        flags(product)
    ));
    results(&mut draft, product, (&a, &b, k), count);
    draft.finish()
}

/// Stores D, and says what it must be.
fn results(
    draft: &mut Draft,
    product: &Product,
    (a, b, k): (&[i32], &[i32], usize),
    count: usize,
) {
    let offset = draft.column(4 * count);
    for n in 0..count {
        draft.code(&format!("st.global.b32 [%q31+{}], %x{n};", 4 * n));
    }
    let bytes = if product.d == "f16" { 2 } else { 4 };
    for thread in 0..128 {
        for i in 0..product.n / 2 {
            let (row, column) = place(thread, i);
            let sign = if product.negate_a != product.negate_b { -1 } else { 1 };
            let terms = (0..k).map(|j| sign * a[row * k + j] * b[column * k + j]);
            let start = product.accumulate.then_some(column as i32);
            let terms: Vec<i32> = terms.chain(start).collect();
            let sum = if product.cuts { fixed_point(&terms) } else { terms.iter().sum() };
            let near = |format: Format| match sum {
                // The ISA leaves the sign of a zero open.
                0 => Wanted::Near { value: 0.0, margin: 0.0, format },
                _ => bits(u64::from(small(format, sum))),
            };
            let wanted = match product.d {
                "f32" => near(F32),
                "s32" => bits(u64::from(sum as u32)),
                _ => near(F16),
            };
            let at = offset + 4 * count * thread + bytes * i;
            draft.case(format!("row {row}, column {column}"), at, bytes, wanted);
        }
    }
}

pub(super) fn programs() -> Vec<Program> {
    let mut products = Vec::new();
    // Rows along k are of 32 bytes, or of 16 without a swizzle.
    for swizzle in [Swizzle::Bytes32, Swizzle::None] {
        products.push(Product { swizzle, n: 16, ..PLAIN });
        products.push(Product { swizzle, n: 16, a: E4M3S, b: E4M3S, ..PLAIN });
    }
    let across = Product { transpose_a: true, transpose_b: true, ..PLAIN };
    products.push(Product { swizzle: Swizzle::None, n: 128, ..across });
    products.push(Product { swizzle: Swizzle::Bytes32, n: 128, ..across });
    products.push(Product { swizzle: Swizzle::Bytes64, n: 128, ..across });
    products.push(Product { n: 128, ..across });
    products.push(Product { n: 256, a: F16S, b: F16S, ..across });

    let narrow = Product { swizzle: Swizzle::Bytes32, n: 24, ..PLAIN };
    let types = [
        (F16S, F16S, "f32"),
        (F16S, F16S, "f16"),
        (E4M3S, E5M2S, "f32"),
        (E5M2S, E4M3S, "f16"),
        (E5M2S, E5M2S, "f32"),
        (TF32S, TF32S, "f32"),
    ];
    products.extend(types.map(|(a, b, d)| Product { a, b, d, ..narrow }));
    products.push(Product { a: S8, b: S8, d: "s32", n: 32, ..narrow });
    products.push(Product { a: U8, b: S8, d: "s32", n: 64, ..narrow });
    products.push(Product { a: U8, b: U8, d: "s32", n: 24, ..narrow });
    products.push(Product { negate_a: true, ..narrow });
    products.push(Product { negate_b: true, ..narrow });
    products.push(Product { negate_a: true, negate_b: true, ..narrow });
    products.push(Product { accumulate: true, ..narrow });
    products.push(Product { accumulate: true, d: "f16", a: F16S, b: F16S, ..narrow });
    products.push(Product { accumulate: true, a: S8, b: S8, d: "s32", n: 16, ..narrow });
    let in_registers = Product { registers: true, ..narrow };
    products.push(in_registers);
    products.push(Product {
        transpose_b: true,
        swizzle: Swizzle::Bytes128,
        n: 64,
        ..in_registers
    });
    products.push(Product { a: TF32S, b: TF32S, ..in_registers });
    products.push(Product { a: E4M3S, b: E4M3S, ..in_registers });
    products.push(Product { a: S8, b: U8, d: "s32", n: 16, ..in_registers });
    let cuts = Product { a: E4M3S, b: E4M3S, cuts: true, ..narrow };
    products.push(cuts);
    products.push(Product { accumulate: true, ..cuts });
    products.push(Product {
        a: E5M2S,
        b: E4M3S,
        registers: true,
        accumulate: true,
        ..cuts
    });
    products.iter().map(program).collect()
}

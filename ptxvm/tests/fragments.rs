//! Matrix fragments against the formulas of the PTX ISA, written down here as the
//! ISA has them: element i of a thread, by group (lane / 4) and place in it (lane % 4).

mod common;

use common::{clean, upload, words};
use ptxvm::{Launch, Memory, Module, Params};

/// Row and column of element `i` of the fragment, for thread (group, member).
type Layout = fn(i: usize, group: usize, member: usize) -> (usize, usize);

struct Case {
    name: &'static str,
    /// m, n, k.
    shape: (usize, usize, usize),
    /// Bits of an element of A and B.
    bits: usize,
    a: (usize, Layout),
    b: (usize, Layout),
    c: (usize, Layout),
    /// The bits of a small integer.
    encode: fn(i32) -> u32,
    integer: bool,
}

fn f32_bits(x: i32) -> u32 {
    (x as f32).to_bits()
}

fn bf16_bits(x: i32) -> u32 {
    f32_bits(x) >> 16
}

/// Integers up to 8, exact in every small format, from their binary digits.
fn small(x: i32, bias: u32, mantissa: u32, sign: u32) -> u32 {
    let magnitude = x.unsigned_abs();
    if magnitude == 0 {
        return 0;
    }
    let top = 31 - magnitude.leading_zeros();
    let fraction = magnitude << mantissa >> top & ((1 << mantissa) - 1);
    (top + bias) << mantissa | fraction | if x < 0 { 1 << sign } else { 0 }
}

fn f16_bits(x: i32) -> u32 {
    small(x, 15, 10, 15)
}

fn e4m3_bits(x: i32) -> u32 {
    small(x, 7, 3, 7)
}

fn e5m2_bits(x: i32) -> u32 {
    small(x, 15, 2, 7)
}

fn s8_bits(x: i32) -> u32 {
    u32::from(x as i8 as u8)
}

fn row_16(i: usize, group: usize) -> usize {
    if i < 2 { group } else { group + 8 }
}

const C_16X8: Layout = |i, group, member| (row_16(i, group), member * 2 + (i & 1));
const C_8X8: Layout = |i, group, member| (group, member * 2 + i);

const A_K16: Layout = |i, group, member| {
    let row = if i < 2 || (4..6).contains(&i) { group } else { group + 8 };
    (row, member * 2 + (i & 1) + if i < 4 { 0 } else { 8 })
};
const B_K16: Layout =
    |i, group, member| (member * 2 + (i & 1) + if i < 2 { 0 } else { 8 }, group);
const A_K8: Layout = |i, group, member| (row_16(i, group), member * 2 + (i & 1));
const B_K8: Layout = |i, group, member| (member * 2 + i, group);
const A_TF32_K8: Layout = |i, group, member| {
    let row = if i == 0 || i == 2 { group } else { group + 8 };
    (row, if i < 2 { member } else { member + 4 })
};
const B_TF32_K8: Layout =
    |i, group, member| (if i == 0 { member } else { member + 4 }, group);
const A_TF32_K4: Layout =
    |i, group, member| (if i == 0 { group } else { group + 8 }, member);
const B_TF32_K4: Layout = |_, group, member| (member, group);
const A_K32: Layout = |i, group, member| {
    let row = if i < 4 || (8..12).contains(&i) { group } else { group + 8 };
    (row, member * 4 + (i & 3) + if i < 8 { 0 } else { 16 })
};
const B_K32: Layout =
    |i, group, member| (member * 4 + (i & 3) + if i < 4 { 0 } else { 16 }, group);
const A_BYTES_K16: Layout =
    |i, group, member| (if i < 4 { group } else { group + 8 }, member * 4 + (i & 3));
const B_BYTES_K16: Layout = |i, group, member| (member * 4 + i, group);
const A_8: Layout = |i, group, member| (group, member * 4 + i);

fn cases() -> Vec<Case> {
    let float = |name, shape, bits, a, b, encode| Case {
        name,
        shape,
        bits,
        a,
        b,
        c: (4, C_16X8),
        encode,
        integer: false,
    };
    let bytes = |name, shape, a, b, c| Case {
        name,
        shape,
        bits: 8,
        a,
        b,
        c,
        encode: s8_bits,
        integer: true,
    };
    vec![
        float(
            "m16n8k16.row.col.f32.bf16.bf16.f32",
            (16, 8, 16),
            16,
            (8, A_K16),
            (4, B_K16),
            bf16_bits,
        ),
        float(
            "m16n8k16.row.col.f32.f16.f16.f32",
            (16, 8, 16),
            16,
            (8, A_K16),
            (4, B_K16),
            f16_bits,
        ),
        float(
            "m16n8k8.row.col.f32.f16.f16.f32",
            (16, 8, 8),
            16,
            (4, A_K8),
            (2, B_K8),
            f16_bits,
        ),
        float(
            "m16n8k8.row.col.f32.bf16.bf16.f32",
            (16, 8, 8),
            16,
            (4, A_K8),
            (2, B_K8),
            bf16_bits,
        ),
        float(
            "m16n8k8.row.col.f32.tf32.tf32.f32",
            (16, 8, 8),
            32,
            (4, A_TF32_K8),
            (2, B_TF32_K8),
            f32_bits,
        ),
        float(
            "m16n8k4.row.col.f32.tf32.tf32.f32",
            (16, 8, 4),
            32,
            (2, A_TF32_K4),
            (1, B_TF32_K4),
            f32_bits,
        ),
        float(
            "m16n8k32.row.col.f32.e4m3.e4m3.f32",
            (16, 8, 32),
            8,
            (16, A_K32),
            (8, B_K32),
            e4m3_bits,
        ),
        float(
            "m16n8k32.row.col.f32.e5m2.e5m2.f32",
            (16, 8, 32),
            8,
            (16, A_K32),
            (8, B_K32),
            e5m2_bits,
        ),
        bytes(
            "m16n8k32.row.col.s32.s8.s8.s32",
            (16, 8, 32),
            (16, A_K32),
            (8, B_K32),
            (4, C_16X8),
        ),
        bytes(
            "m16n8k16.row.col.s32.s8.s8.s32",
            (16, 8, 16),
            (8, A_BYTES_K16),
            (4, B_BYTES_K16),
            (4, C_16X8),
        ),
        bytes(
            "m8n8k16.row.col.s32.s8.s8.s32",
            (8, 8, 16),
            (4, A_8),
            (4, B_BYTES_K16),
            (2, C_8X8),
        ),
    ]
}

/// Every lane's registers of a fragment, from the matrix.
fn pack(
    (count, layout): (usize, Layout),
    bits: usize,
    value: impl Fn(usize, usize) -> u32,
) -> Vec<Vec<u32>> {
    let per = 32 / bits;
    let lane = |lane: usize| {
        let mut registers = vec![0u32; count / per];
        for i in 0..count {
            let (row, column) = layout(i, lane / 4, lane % 4);
            registers[i / per] |= value(row, column) << (bits * (i % per));
        }
        registers
    };
    (0..32).map(lane).collect()
}

fn list(name: &str, count: usize) -> String {
    let names: Vec<String> = (0..count).map(|n| format!("%{name}{n}")).collect();
    format!("{{{}}}", names.join(", "))
}

/// A kernel that loads fragments, multiplies and stores the result.
fn program(case: &Case, a: usize, b: usize, c: usize) -> String {
    let load = |name: &str, count: usize, from: usize| {
        (0..count)
            .map(|n| format!("ld.global.b32 %{name}{n}, [%x+{}];\n", 4 * (from + n)))
            .collect::<String>()
    };
    let store: String =
        (0..c).map(|n| format!("st.global.b32 [%y+{}], %c{n};\n", 4 * n)).collect();
    format!(
        ".version 8.7\n.target sm_90a\n.address_size 64\n\
         .visible .entry k(.param .u64 x, .param .u64 y)\n{{\n\
         .reg .b32 %a<8>, %b<8>, %c<8>, %t;\n.reg .b64 %x, %y, %o;\n\
         ld.param.u64 %x, [x];\nld.param.u64 %y, [y];\nmov.u32 %t, %tid.x;\n\
         mul.wide.u32 %o, %t, {};\nadd.s64 %x, %x, %o;\n\
         mul.wide.u32 %o, %t, {};\nadd.s64 %y, %y, %o;\n{}{}{}\
         mma.sync.aligned.{} {}, {}, {}, {};\n{store}ret;\n}}\n",
        4 * (a + b + c),
        4 * c,
        load("a", a, 0),
        load("b", b, a),
        load("c", c, a + b),
        case.name,
        list("c", c),
        list("a", a),
        list("b", b),
        list("c", c),
    )
}

#[test]
fn products_of_every_shape() {
    for case in cases() {
        let (m, n, k) = case.shape;
        let a: Vec<i32> = (0..m * k).map(|i| (i * 7 % 13) as i32 - 6).collect();
        let b: Vec<i32> = (0..k * n).map(|i| (i * 5 % 11) as i32 - 5).collect();
        let c: Vec<i32> = (0..m * n).map(|i| i as i32 - 50).collect();
        let accumulate = if case.integer { |x: i32| x as u32 } else { f32_bits };
        let pa = pack(case.a, case.bits, |row, column| (case.encode)(a[row * k + column]));
        let pb = pack(case.b, case.bits, |row, column| (case.encode)(b[row * n + column]));
        let pc = pack(case.c, 32, |row, column| accumulate(c[row * n + column]));
        let (ra, rb, rc) = (pa[0].len(), pb[0].len(), pc[0].len());
        let inputs: Vec<u32> =
            (0..32).flat_map(|l| [&pa[l][..], &pb[l], &pc[l]].concat()).collect();
        let module = Module::parse(&program(&case, ra, rb, rc)).unwrap();
        let mut memory = Memory::new();
        let x = upload(&mut memory, "x", &inputs, u32::to_le_bytes);
        let y = memory.alloc(4 * 32 * rc as u64, "y");
        let launch = Launch {
            block: [32, 1, 1],
            params: Params::new().u64(x).u64(y).build(),
            ..Launch::new("k")
        };
        let report = clean(&module, &mut memory, &launch);
        let product = |row: usize, column: usize| {
            let sum: i32 = (0..k).map(|i| a[row * k + i] * b[i * n + column]).sum();
            accumulate(c[row * n + column] + sum)
        };
        let wanted: Vec<u32> = pack(case.c, 32, product).concat();
        assert_eq!(words(&memory, y, 32 * rc), wanted, "{}", case.name);
        let flops: u64 = report.counts.total_flops();
        assert_eq!(flops, (2 * m * n * k) as u64, "{}", case.name);
    }
}

#[test]
fn products_in_f16_and_f64() {
    // D = A * B + C with all of A one, B two and C three.
    let text = |name: &str, a: &str, b: &str, c: &str, regs: &str| {
        format!(
            ".version 8.7\n.target sm_90a\n.address_size 64\n\
             .visible .entry k(.param .u64 y)\n{{\n{regs}\n.reg .b32 %t;\n.reg .b64 %y, %o;\n\
             ld.param.u64 %y, [y];\nmov.u32 %t, %tid.x;\nmul.wide.u32 %o, %t, 16;\n\
             add.s64 %y, %y, %o;\nmma.sync.aligned.{name} {c}, {a}, {b}, {c};\n\
             st.global.v2.b64 [%y], {{%d0, %d1}};\nret;\n}}\n"
        )
    };
    let half = text(
        "m16n8k16.row.col.f16.f16.f16.f16",
        "{%a, %a, %a, %a}",
        "{%b, %b}",
        "{%c0, %c1}",
        ".reg .b32 %a, %b, %c0, %c1;\n.reg .b64 %d0, %d1;\nmov.u32 %a, 0x3c003c00;\n\
         mov.u32 %b, 0x40004000;\nmov.u32 %c0, 0x42004200;\nmov.u32 %c1, 0x42004200;",
    )
    .replace("st.global.v2", "mov.b64 %d0, {%c0, %c1}; mov.u64 %d1, 0; st.global.v2");
    let double = text(
        "m8n8k4.row.col.f64.f64.f64.f64",
        "{%a}",
        "{%b}",
        "{%d0, %d1}",
        ".reg .b64 %a, %b, %d0, %d1;\nmov.f64 %a, 0d3ff0000000000000;\n\
         mov.f64 %b, 0d4000000000000000;\nmov.f64 %d0, 0d4008000000000000;\n\
         mov.f64 %d1, 0d4008000000000000;",
    );
    for (text, wanted) in [
        // 16 * 2 + 3 = 35, and 4 * 2 + 3 = 11.
        (half, [0x5060_5060, 0x5060_5060, 0, 0]),
        (double, [0, 0x4026_0000, 0, 0x4026_0000]),
    ] {
        let module = Module::parse(&text).unwrap();
        let mut memory = Memory::new();
        let y = memory.alloc(512, "y");
        let params = Params::new().u64(y).build();
        let launch = Launch { block: [32, 1, 1], params, ..Launch::new("k") };
        clean(&module, &mut memory, &launch);
        for lane in 0..32 {
            assert_eq!(words(&memory, y + 16 * lane, 4), wanted);
        }
    }
}

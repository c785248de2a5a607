//! Matrices in registers: `ldmatrix`, `stmatrix`, `movmatrix`, and `mma.sync` by the
//! formulas of the ISA's fragments: element i of a thread, by its group (lane / 4) and
//! place in the group (lane % 4).

use super::Program;
use super::draft::Draft;
use super::number::{BF16, E4M3, E5M2, F16, F32, F64, TF32, small};

/// Row and column of element `i` of the fragment, for thread (group, member).
type Layout = fn(i: usize, group: usize, member: usize) -> (usize, usize);

/// A matrix product: its shape, types and fragments.
struct Product {
    /// Type names with the shape before them.
    name: &'static str,
    target: &'static str,
    version: &'static str,
    /// m, n, k.
    shape: (usize, usize, usize),
    /// Bits of an element of A and B, and of C and D.
    bits: (usize, usize),
    /// Elements of a thread, and where they belong.
    a: (usize, Layout),
    b: (usize, Layout),
    c: (usize, Layout),
    /// The bits of a small integer.
    encode_a: fn(i32) -> u32,
    encode_b: fn(i32) -> u32,
    encode_c: fn(i32) -> u64,
    /// Whether A and B have no negative values.
    unsigned: (bool, bool),
}

fn f32_bits(x: i32) -> u64 {
    u64::from(small(F32, x))
}

fn integer_bits(x: i32) -> u64 {
    u64::from(x as u32)
}

fn byte_bits(x: i32) -> u32 {
    u32::from(x as u8)
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
const ONE_COLUMN: Layout = |_, group, member| (member, group);
const ONE_ROW: Layout = |_, group, member| (group, member);
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

/// bf16 in the most common shape; the others are given by their differences.
const BASE: Product = Product {
    name: "m16n8k16.row.col.f32.bf16.bf16.f32",
    target: "sm_80",
    version: "7.8",
    shape: (16, 8, 16),
    bits: (16, 32),
    a: (8, A_K16),
    b: (4, B_K16),
    c: (4, C_16X8),
    encode_a: |x| small(BF16, x),
    encode_b: |x| small(BF16, x),
    encode_c: f32_bits,
    unsigned: (false, false),
};

fn sixteen_bits() -> Vec<Product> {
    let f16 = |x| small(F16, x);
    let f16_wide: fn(i32) -> u64 = |x| u64::from(small(F16, x));
    let half = |name, shape, a, b| Product {
        name,
        shape,
        a,
        b,
        encode_a: f16,
        encode_b: f16,
        ..BASE
    };
    let (m16, m8) = ((16, 8, 16), (16, 8, 8));
    let (a_16, b_16): ((usize, Layout), (usize, Layout)) = ((8, A_K16), (4, B_K16));
    let (a_8, b_8): ((usize, Layout), (usize, Layout)) = ((4, A_K8), (2, B_K8));
    vec![
        BASE,
        Product {
            name: "m16n8k8.row.col.f32.bf16.bf16.f32",
            shape: m8,
            a: a_8,
            b: b_8,
            ..BASE
        },
        half("m16n8k16.row.col.f32.f16.f16.f32", m16, a_16, b_16),
        half("m16n8k8.row.col.f32.f16.f16.f32", m8, a_8, b_8),
        Product {
            bits: (16, 16),
            encode_c: f16_wide,
            ..half("m16n8k16.row.col.f16.f16.f16.f16", m16, a_16, b_16)
        },
        Product {
            bits: (16, 16),
            encode_c: f16_wide,
            ..half("m16n8k8.row.col.f16.f16.f16.f16", m8, a_8, b_8)
        },
    ]
}

fn wide_types() -> Vec<Product> {
    let tf32 = Product {
        bits: (32, 32),
        encode_a: |x| small(TF32, x),
        encode_b: |x| small(TF32, x),
        ..BASE
    };
    vec![
        Product {
            name: "m16n8k4.row.col.f32.tf32.tf32.f32",
            shape: (16, 8, 4),
            a: (2, A_TF32_K4),
            b: (1, ONE_COLUMN),
            ..tf32
        },
        Product {
            name: "m16n8k8.row.col.f32.tf32.tf32.f32",
            shape: (16, 8, 8),
            a: (4, A_TF32_K8),
            b: (2, B_TF32_K8),
            ..tf32
        },
        Product {
            name: "m8n8k4.row.col.f64.f64.f64.f64",
            shape: (8, 8, 4),
            bits: (64, 64),
            a: (1, ONE_ROW),
            b: (1, ONE_COLUMN),
            c: (2, C_8X8),
            // The upper half of a double; the lower is zero for small integers.
            encode_a: upper_half,
            encode_b: upper_half,
            encode_c: |x| u64::from(upper_half(x)) << 32,
            ..BASE
        },
    ]
}

fn upper_half(x: i32) -> u32 {
    let exact = super::number::Exact::integer(i128::from(x));
    (F64.round(exact, super::number::Mode::Zero) >> 32) as u32
}

fn eight_bits() -> Vec<Product> {
    let fp8 = |name, encode_a: fn(i32) -> u32, encode_b: fn(i32) -> u32| Product {
        name,
        target: "sm_89",
        version: "8.4",
        shape: (16, 8, 32),
        bits: (8, 32),
        a: (16, A_K32),
        b: (8, B_K32),
        encode_a,
        encode_b,
        ..BASE
    };
    let e4m3: fn(i32) -> u32 = |x| small(E4M3, x);
    let e5m2: fn(i32) -> u32 = |x| small(E5M2, x);
    let integers = |name, shape, a, b, c, unsigned| Product {
        name,
        shape,
        bits: (8, 32),
        a,
        b,
        c,
        encode_a: byte_bits,
        encode_b: byte_bits,
        encode_c: integer_bits,
        unsigned,
        ..BASE
    };
    let k32: [(usize, Layout); 3] = [(16, A_K32), (8, B_K32), (4, C_16X8)];
    let both = (false, false);
    let wide =
        |name, unsigned| integers(name, (16, 8, 32), k32[0], k32[1], k32[2], unsigned);
    vec![
        fp8("m16n8k32.row.col.f32.e4m3.e4m3.f32", e4m3, e4m3),
        fp8("m16n8k32.row.col.f32.e5m2.e5m2.f32", e5m2, e5m2),
        fp8("m16n8k32.row.col.f32.e4m3.e5m2.f32", e4m3, e5m2),
        wide("m16n8k32.row.col.s32.s8.s8.s32", both),
        wide("m16n8k32.row.col.s32.u8.s8.s32", (true, false)),
        wide("m16n8k32.row.col.s32.u8.u8.s32", (true, true)),
        integers(
            "m16n8k16.row.col.s32.s8.s8.s32",
            (16, 8, 16),
            (8, A_BYTES_K16),
            (4, B_BYTES_K16),
            (4, C_16X8),
            both,
        ),
        integers(
            "m8n8k16.row.col.s32.s8.s8.s32",
            (8, 8, 16),
            (4, A_8),
            (4, B_BYTES_K16),
            (2, C_8X8),
            both,
        ),
    ]
}

/// Every lane's words of a fragment, from the matrix.
fn pack(
    (count, layout): (usize, Layout),
    width: usize,
    value: impl Fn(usize, usize) -> u64,
) -> Vec<Vec<u32>> {
    let lane = |lane: usize| {
        let mut words = vec![0u32; count * width / 32];
        for i in 0..count {
            let (row, column) = layout(i, lane / 4, lane % 4);
            let value = value(row, column);
            let at = i * width;
            words[at / 32] |= (value << (at % 32)) as u32;
            if width == 64 {
                words[at / 32 + 1] = (value >> 32) as u32;
            }
        }
        words
    };
    (0..32).map(lane).collect()
}

/// Registers `prefix` 0 and on, as a list in braces.
fn list(prefix: &str, first: usize, count: usize) -> String {
    let names: Vec<String> =
        (first..first + count).map(|n| format!("%{prefix}{n}")).collect();
    format!("{{{}}}", names.join(", "))
}

fn mma(product: &Product) -> Program {
    let (m, n, k) = product.shape;
    let magnitude = |x: i32, unsigned: bool| if unsigned { x.abs() } else { x };
    let a: Vec<i32> = (0..m * k)
        .map(|i| magnitude((i * 7 % 13) as i32 - 6, product.unsigned.0))
        .collect();
    let b: Vec<i32> = (0..k * n)
        .map(|i| magnitude((i * 5 % 11) as i32 - 5, product.unsigned.1))
        .collect();
    let c: Vec<i32> = (0..m * n).map(|i| i as i32 - 50).collect();
    let (narrow, wide) = product.bits;
    // Of an encoding of 64 bits, this is the upper half.
    let shift = if narrow == 64 { 32 } else { 0 };
    let encoded = |encode: fn(i32) -> u32, x: i32| u64::from(encode(x)) << shift;
    let pa =
        pack(product.a, narrow, |row, col| encoded(product.encode_a, a[row * k + col]));
    let pb =
        pack(product.b, narrow, |row, col| encoded(product.encode_b, b[row * n + col]));
    let pc = pack(product.c, wide, |row, col| (product.encode_c)(c[row * n + col]));
    let (na, nb, nc) = (pa[0].len(), pb[0].len(), pc[0].len());
    let mut draft = Draft::new("mma", format!("mma.sync.aligned.{}", product.name))
        .needs(product.target, product.version);
    draft.input_words(
        (0..32).flat_map(|lane| [&pa[lane][..], &pb[lane], &pc[lane]].concat()),
    );
    let words = na + nb + nc;
    draft.code(&format!("mad.wide.u32 %q31, %t, {}, %in;", 4 * words));
    for word in 0..words {
        draft.code(&format!("ld.global.b32 %x{word}, [%q31+{}];", 4 * word));
    }
    let [da, db, dc] = if narrow == 64 {
        for pair in 0..words / 2 {
            let (low, high) = (2 * pair, 2 * pair + 1);
            draft.code(&format!("mov.b64 %q{pair}, {{%x{low}, %x{high}}};"));
        }
        [list("q", 0, na / 2), list("q", na / 2, nb / 2), list("q", (na + nb) / 2, nc / 2)]
    } else {
        [list("x", 0, na), list("x", na, nb), list("x", na + nb, nc)]
    };
    draft.code(&format!("mma.sync.aligned.{} {dc}, {da}, {db}, {dc};", product.name));
    let wanted = pack(product.c, wide, |row, col| {
        let sum: i32 = (0..k).map(|i| a[row * k + i] * b[i * n + col]).sum();
        (product.encode_c)(c[row * n + col] + sum)
    });
    let value = |lane: u32, word: usize| wanted[lane as usize][word];
    for word in 0..nc {
        if narrow == 64 && word % 2 == 0 {
            let (low, high, pair) =
                (na + nb + word, na + nb + word + 1, (na + nb + word) / 2);
            draft.code(&format!("mov.b64 {{%x{low}, %x{high}}}, %q{pair};"));
        }
        let register = format!("%x{}", na + nb + word);
        draft.put(&format!("word {word} of D"), &register, |lane| value(lane, word));
    }
    draft.finish()
}

/// The element at row and column of matrix `matrix` in shared memory.
fn element(matrix: u32, row: u32, column: u32) -> u32 {
    64 * matrix + 8 * row + column
}

/// What lane `t` holds of a matrix: two neighbours in a row, or in a column.
fn fragment(matrix: u32, t: u32, transposed: bool) -> u32 {
    let (row, pair) = (t / 4, t % 4 * 2);
    let at = |n: u32| match transposed {
        false => element(matrix, row, pair + n),
        true => element(matrix, pair + n, row),
    };
    at(0) | at(1) << 16
}

/// Fills `tile` with four matrices of 8 x 8, 16 bytes a row, by the words of every
/// thread; `%r2` becomes the address of the row that the thread provides.
fn four_matrices(draft: &mut Draft) {
    draft.declare(".shared .align 128 .b8 tile[512];");
    let words = (0..128).map(|n| (2 * n) | ((2 * n + 1) << 16));
    let at = draft.input_words(words);
    draft.code(&format!(
        "mov.u32 %r3, tile;
         mad.wide.u32 %q1, %t, 16, %in;
         ld.global.v4.b32 {{%x0, %x1, %x2, %x3}}, [%q1+{at}];
         mad.lo.u32 %r2, %t, 16, %r3;
         st.shared.v4.b32 [%r2], {{%x0, %x1, %x2, %x3}};
         bar.sync 0;"
    ));
}

fn ldmatrix(count: usize, transposed: bool) -> Program {
    let modifier = if transposed { ".trans" } else { "" };
    let name = format!("ldmatrix.sync.aligned.m8n8.x{count}{modifier}.shared.b16");
    let mut draft = Draft::new("ldmatrix and stmatrix", &name);
    four_matrices(&mut draft);
    draft.code(&format!("{name} {}, [%r2];", list("x", 8, count)));
    for matrix in 0..count {
        draft.put(&format!("matrix {matrix}"), &format!("%x{}", 8 + matrix), |t| {
            fragment(matrix as u32, t, transposed)
        });
    }
    draft.finish()
}

fn stmatrix(count: usize, transposed: bool) -> Program {
    let modifier = if transposed { ".trans" } else { "" };
    let name = format!("stmatrix.sync.aligned.m8n8.x{count}{modifier}.shared.b16");
    let mut draft = Draft::new("ldmatrix and stmatrix", &name).needs("sm_90", "7.8");
    four_matrices(&mut draft);
    // Register m of lane t is 0x100 m + 2 t, and one more in its upper half.
    for matrix in 0..count {
        draft.code(&format!(
            "mad.lo.u32 %x{}, %t, 0x20002, {:#x};",
            8 + matrix,
            0x0001_0000 + 0x0100_0100 * matrix as u32
        ));
    }
    draft.code("bar.sync 0;");
    draft.code(&format!("{name} [%r2], {};", list("x", 8, count)));
    draft.code("bar.sync 0;\nld.shared.v4.b32 {%x4, %x5, %x6, %x7}, [%r2];");
    for word in 0..4 {
        let label = format!("word {word} of a row");
        draft.put(&label, &format!("%x{}", 4 + word), |t| {
            let (matrix, row) = (t / 8, t % 8);
            let half = |n: u32| {
                let column = 2 * word + n;
                let (row, column) = if transposed { (column, row) } else { (row, column) };
                0x100 * matrix + 2 * (4 * row + column / 2) + column % 2
            };
            let before = |n: u32| element(matrix, row, 2 * word + n);
            let value = |n: u32| if matrix < count as u32 { half(n) } else { before(n) };
            value(0) | value(1) << 16
        });
    }
    draft.finish()
}

fn movmatrix() -> Program {
    let name = "movmatrix.sync.aligned.m8n8.trans.b16";
    let mut draft = Draft::new("ldmatrix and stmatrix", name);
    draft.code(&format!("mad.lo.u32 %r2, %t, 0x20002, 0x10000;\n{name} %r3, %r2;"));
    draft.put("transposed", "%r3", |t| fragment(0, t, true));
    draft.finish()
}

pub(super) fn programs() -> Vec<Program> {
    let mut programs = Vec::new();
    for transposed in [false, true] {
        programs.extend([1, 2, 4].map(|count| ldmatrix(count, transposed)));
        programs.extend([1, 2, 4].map(|count| stmatrix(count, transposed)));
    }
    programs.push(movmatrix());
    let products = [sixteen_bits(), wide_types(), eight_bits()];
    programs.extend(products.iter().flatten().map(mma));
    programs
}

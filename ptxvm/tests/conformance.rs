//! Instruction families, a small program each, with expected bits worked out by hand
//! from the PTX ISA's definitions.

mod common;

use common::{clean, upload, words};
use ptxvm::{Launch, Memory, Module, Params};

/// Runs `body` once a case: `%a`, `%b`, `%c` hold the inputs, `%d` the result, of 32
/// bits each; `%wa`, `%wb`, `%wc` and `%wd` are the same as 64 bits.
#[track_caller]
fn check(body: &str, cases: &[([u64; 3], u64)]) {
    let text = format!(
        ".version 8.0\n.target sm_90a\n.address_size 64\n\
         .visible .entry k(.param .u64 x, .param .u64 y)\n{{\n\
         .reg .pred %p<8>;\n.reg .b16 %h<8>;\n.reg .b32 %a, %b, %c, %d, %t, %r<8>;\n\
         .reg .b64 %wa, %wb, %wc, %wd, %x, %y, %o, %q<8>;\n\
         ld.param.u64 %x, [x];\nld.param.u64 %y, [y];\nmov.u32 %t, %tid.x;\n\
         mul.wide.u32 %o, %t, 24;\nadd.s64 %x, %x, %o;\n\
         ld.global.u64 %wa, [%x];\nld.global.u64 %wb, [%x+8];\nld.global.u64 %wc, [%x+16];\n\
         cvt.u32.u64 %a, %wa;\ncvt.u32.u64 %b, %wb;\ncvt.u32.u64 %c, %wc;\n\
         mov.u32 %d, 0;\nmov.u64 %wd, 0;\n{body}\n\
         mul.wide.u32 %o, %t, 16;\nadd.s64 %y, %y, %o;\n\
         st.global.u32 [%y], %d;\nst.global.u64 [%y+8], %wd;\nret;\n}}\n"
    );
    let module = Module::parse(&text).unwrap_or_else(|error| panic!("{body}: {error}"));
    let mut memory = Memory::new();
    let inputs: Vec<u64> = cases.iter().flat_map(|case| case.0).collect();
    let x = upload(&mut memory, "x", &inputs, u64::to_le_bytes);
    let y = memory.alloc(16 * cases.len() as u64, "y");
    let launch = Launch {
        block: [cases.len() as u32, 1, 1],
        params: Params::new().u64(x).u64(y).build(),
        ..Launch::new("k")
    };
    clean(&module, &mut memory, &launch);
    let wide = body.contains("%wd");
    for (n, (inputs, wanted)) in cases.iter().enumerate() {
        let out = words(&memory, y + 16 * n as u64, 4);
        let got = if wide {
            u64::from(out[2]) | u64::from(out[3]) << 32
        } else {
            u64::from(out[0])
        };
        assert_eq!(got, *wanted, "{body} of {inputs:x?}: {got:#x}, not {wanted:#x}");
    }
}

/// One operand.
fn one(a: u64, d: u64) -> ([u64; 3], u64) {
    ([a, 0, 0], d)
}

fn two(a: u64, b: u64, d: u64) -> ([u64; 3], u64) {
    ([a, b, 0], d)
}

fn three(a: u64, b: u64, c: u64, d: u64) -> ([u64; 3], u64) {
    ([a, b, c], d)
}

#[test]
fn integer_arithmetic() {
    check(
        "add.sat.s32 %d, %a, %b;",
        &[two(0x7fffffff, 1, 0x7fffffff), two(0x80000000, 0xffffffff, 0x80000000)],
    );
    check(
        "mul.hi.s32 %d, %a, %b;",
        &[two(0xffffffff, 2, 0xffffffff), two(0x40000000, 8, 2)],
    );
    check("mul.hi.u32 %d, %a, %b;", &[two(0xffffffff, 0xffffffff, 0xfffffffe)]);
    check("mul.wide.s32 %wd, %a, %b;", &[two(0xffffffff, 3, (-3i64) as u64)]);
    check("mad.lo.s32 %d, %a, %b, %c;", &[three(7, 0xffffffff, 10, 3)]);
    check("mad.hi.u64 %wd, %wa, %wb, %wc;", &[three(u64::MAX, u64::MAX, 5, 3)]);
    check("mul.hi.s64 %wd, %wa, %wb;", &[two(u64::MAX, 2, u64::MAX)]);
    check("mul24.lo.s32 %d, %a, %b;", &[two(0x00ffffff, 2, 0xfffffffe)]);
    check("div.s32 %d, %a, %b;", &[two(-7i32 as u32 as u64, 2, -3i32 as u32 as u64)]);
    check(
        "rem.s32 %d, %a, %b;",
        &[two(-7i32 as u32 as u64, 2, -1i32 as u32 as u64), two(7, -2i32 as u32 as u64, 1)],
    );
    check("sad.s32 %d, %a, %b, %c;", &[three(0xfffffffe, 3, 10, 15)]);
    check("abs.s32 %d, %a;", &[one(0xfffffffb, 5), one(0x80000000, 0x80000000)]);
    check("min.s32 %d, %a, %b;", &[two(0xffffffff, 1, 0xffffffff)]);
    check("max.u32 %d, %a, %b;", &[two(0xffffffff, 1, 0xffffffff)]);
    check(
        "dp4a.s32.s32 %d, %a, %b, %c;",
        &[three(0xff010203, 0x01010180, 1, (1 - 3 * 128 + 2 + 1 - 1) as u32 as u64)],
    );
    check(
        "dp4a.u32.u32 %d, %a, %b, %c;",
        &[three(0xff010203, 0x01010180, 1, 1 + 3 * 128 + 2 + 1 + 255)],
    );
    check(
        "add.cc.u32 %r1, %a, %b; addc.u32 %d, %c, 0;",
        &[three(0xffffffff, 1, 7, 8), three(1, 1, 7, 7)],
    );
    check(
        "sub.cc.u32 %r1, %a, %b; subc.u32 %d, %c, 0;",
        &[three(0, 1, 7, 6), three(1, 1, 7, 7)],
    );
    check(
        "mad.lo.cc.u32 %r1, %a, %b, %c; madc.hi.u32 %d, %a, %b, 0;",
        &[three(0xffffffff, 0xffffffff, 0xffffffff, 0xffffffff), three(2, 3, 4, 0)],
    );
}

#[test]
fn bits() {
    check("bfe.u32 %d, %a, 4, 8;", &[one(0x12345678, 0x67)]);
    check("bfe.s32 %d, %a, 4, 8;", &[one(0xf80, 0xfffffff8)]);
    check("bfi.b32 %d, %a, %b, 8, 4;", &[two(0xf5, 0xffffffff, 0xfffff5ff)]);
    check("bfind.u32 %d, %a;", &[one(0, 0xffffffff), one(0x00800001, 23)]);
    check("bfind.s32 %d, %a;", &[one(0xffffffff, 0xffffffff), one(0xfffffffd, 1)]);
    check("bfind.shiftamt.u32 %d, %a;", &[one(1, 31), one(0x80000000, 0)]);
    check("brev.b32 %d, %a;", &[one(1, 0x80000000)]);
    check("clz.b64 %d, %wa;", &[one(1, 63), one(0, 64)]);
    check("popc.b64 %d, %wa;", &[one(u64::MAX, 64)]);
    check("shf.l.wrap.b32 %d, %a, %b, %c;", &[three(0x80000000, 1, 33, 3)]);
    check("shf.r.clamp.b32 %d, %a, %b, %c;", &[three(1, 0xabcd, 40, 0xabcd)]);
    check("shl.b32 %d, %a, %b;", &[two(1, 32, 0), two(1, 31, 0x80000000)]);
    check("shr.s32 %d, %a, %b;", &[two(0x80000000, 99, 0xffffffff)]);
    check("prmt.b32 %d, %a, %b, 0x7610;", &[two(0x33221100, 0x77665544, 0x77661100)]);
    check("prmt.b32 %d, %a, %b, 0x8888;", &[two(0x80, 0, 0xffffffff), two(0x7f, 0, 0)]);
    // (a & b) | (~a & c): a select by a.
    check(
        "lop3.b32 %d, %a, %b, %c, 0xca;",
        &[three(0xff00ff00, 0x12345678, 0x9abcdef0, 0x12bc56f0)],
    );
    check("cnot.b32 %d, %a;", &[one(0, 1), one(9, 0)]);
    check(
        "mov.b32 {%h1, %h2}, %a; mov.b32 %d, {%h2, %h1};",
        &[one(0x12345678, 0x56781234)],
    );
    check(
        "mov.b64 {%r1, %r2}, %wa; mov.b64 %wd, {%r2, %r1};",
        &[one(0x1111111122222222, 0x2222222211111111)],
    );
}

#[test]
fn comparisons() {
    let select = |test: &str| format!("{test} selp.u32 %d, 1, 0, %p1;");
    check(&select("setp.lt.s32 %p1, %a, %b;"), &[two(0xffffffff, 0, 1)]);
    check(&select("setp.lo.u32 %p1, %a, %b;"), &[two(0xffffffff, 0, 0)]);
    let (nan, one_f) = (0x7fc00000, 0x3f800000);
    check(&select("setp.ne.f32 %p1, %a, %b;"), &[two(nan, one_f, 0), two(0, one_f, 1)]);
    check(
        &select("setp.neu.f32 %p1, %a, %b;"),
        &[two(nan, one_f, 1), two(one_f, one_f, 0)],
    );
    check(&select("setp.geu.f32 %p1, %a, %b;"), &[two(nan, one_f, 1), two(0, one_f, 0)]);
    check(&select("setp.num.f32 %p1, %a, %b;"), &[two(nan, one_f, 0), two(0, one_f, 1)]);
    check(&select("setp.eq.ftz.f32 %p1, %a, %b;"), &[two(1, 0x80000000, 1)]);
    check(
        &select("setp.gt.u32 %p2, %a, 5; setp.lt.and.u32 %p1, %b, 5, %p2;"),
        &[two(6, 4, 1), two(5, 4, 0)],
    );
    check(
        &select("setp.gt.u32 %p2, %a, 5; setp.lt.or.u32 %p1, %b, 5, !%p2;"),
        &[two(6, 9, 0), two(5, 9, 1)],
    );
    check(
        "setp.lt.u32 %p1|%p2, %a, %b; selp.u32 %d, 1, 0, %p2;",
        &[two(1, 2, 0), two(3, 2, 1)],
    );
    check("set.lt.u32.s32 %d, %a, %b;", &[two(0xffffffff, 0, 0xffffffff)]);
    check("set.lt.f32.s32 %d, %a, %b;", &[two(0xffffffff, 0, 0x3f800000)]);
    check("slct.u32.s32 %d, %a, %b, %c;", &[three(1, 2, 0, 1), three(1, 2, 0xffffffff, 2)]);
    check(&select("testp.subnormal.f32 %p1, %a;"), &[one(1, 1), one(0x800000, 0)]);
}

#[test]
fn floats_round_as_told() {
    let (third, ten) = (0x3eaaaaab, 0x41200000u64);
    check("div.rn.f32 %d, %a, %b;", &[two(0x3f800000, 0x40400000, third)]);
    check("add.rn.f32 %d, %a, %b;", &[two(0x4b800000, 0x3f800000, 0x4b800000)]);
    check("add.rp.f32 %d, %a, %b;", &[two(0x4b800000, 0x3f800000, 0x4b800001)]);
    check("add.rz.f32 %d, %a, %b;", &[two(0x4b800001, 0x3f800000, 0x4b800001)]);
    check("mul.rm.f32 %d, %a, %b;", &[two(third, third, 0x3de38e39)]);
    // (1 + 2^-23)^2 - (1 + 2^-22) = 2^-46, which only one rounding keeps.
    check(
        "fma.rn.f32 %d, %a, %b, %c;",
        &[three(0x3f800001, 0x3f800001, 0xbf800002, 0x28800000)],
    );
    check("add.ftz.f32 %d, %a, %b;", &[two(0x80000001, 0, 0)]);
    check("mul.sat.f32 %d, %a, %b;", &[two(ten, ten, 0x3f800000), two(0x7fc00000, ten, 0)]);
    check(
        "min.f32 %d, %a, %b;",
        &[two(0x7fc00000, ten, ten), two(0, 0x80000000, 0x80000000)],
    );
    check("max.f32 %d, %a, %b;", &[two(ten, 0x7fc00000, ten), two(0, 0x80000000, 0)]);
    check("max.NaN.f32 %d, %a, %b;", &[two(ten, 0x7fc00000, 0x7fffffff)]);
    check("copysign.f32 %d, %a, %b;", &[two(0x80000000, ten, ten | 0x80000000)]);
    check("sqrt.rn.f32 %d, %a;", &[one(0x40000000, 0x3fb504f3)]);
    check("ex2.approx.f32 %d, %a;", &[one(0x40400000, 0x41000000), one(0xff800000, 0)]);
    check("ex2.approx.ftz.f32 %d, %a;", &[one(0xc3020000, 0)]);
    check("lg2.approx.f32 %d, %a;", &[one(0x41000000, 0x40400000)]);
    check("rcp.approx.f32 %d, %a;", &[one(0x40800000, 0x3e800000)]);
    check("rsqrt.approx.f32 %d, %a;", &[one(0x40800000, 0x3f000000)]);
    check(
        "fma.rn.f64 %wd, %wa, %wb, %wc;",
        &[three(
            0x3ff0000000000001,
            0x3ff0000000000001,
            0xbff0000000000002,
            0x3970000000000000,
        )],
    );
    check(
        "add.f64 %wd, %wa, %wb;",
        &[two(0x3ff0000000000000, 0x4000000000000000, 0x4008000000000000)],
    );
}

#[test]
fn sixteen_bits() {
    // 1.5 + 2.25 and 1 + 2 in both halves.
    check("add.rn.f16x2 %d, %a, %b;", &[two(0x3e003c00, 0x40804000, 0x43804200)]);
    check(
        "fma.rn.f16x2 %d, %a, %b, %c;",
        &[three(0x3c01_3c00, 0x3c01_4000, 0xbc02_3c00, 0x0010_4200)],
    );
    check("mul.rn.bf16x2 %d, %a, %b;", &[two(0x3fc0_4000, 0x4040_4000, 0x4090_4080)]);
    check(
        "fma.rn.bf16x2 %d, %a, %b, %c;",
        &[three(0x3f80_4000, 0x3f80_4040, 0x3f80_3f80, 0x4000_40e0)],
    );
    check(
        "fma.rn.relu.bf16x2 %d, %a, %b, %c;",
        &[three(0xbf80_4000, 0x4000_4040, 0x3f80_3f80, 0x0000_40e0)],
    );
    check("max.bf16x2 %d, %a, %b;", &[two(0x3f80_c000, 0x4000_bf80, 0x4000_bf80)]);
    check("neg.f16x2 %d, %a;", &[one(0x3c00_bc00, 0xbc00_3c00)]);
    check("abs.bf16x2 %d, %a;", &[one(0xbf80_3f80, 0x3f80_3f80)]);
    check("ex2.approx.f16x2 %d, %a;", &[one(0x4000_3c00, 0x4400_4000)]);
}

#[test]
fn conversions() {
    check(
        "cvt.rni.s32.f32 %d, %a;",
        &[one(0x40200000, 2), one(0x40600000, 4), one(0xbf000000, 0)],
    );
    check(
        "cvt.rzi.s32.f32 %d, %a;",
        &[one(0xbfc00000, 0xffffffff), one(0x7fc00000, 0), one(0x4f800000, 0x7fffffff)],
    );
    check("cvt.rmi.f32.f32 %d, %a;", &[one(0xbfc00000, 0xc0000000)]);
    check("cvt.rzi.u32.f32 %d, %a;", &[one(0xbfc00000, 0), one(0x4f7fffff, 0xffffff00)]);
    check(
        "cvt.rn.f32.s32 %d, %a;",
        &[one(0x01000001, 0x4b800000), one(0xffffffff, 0xbf800000)],
    );
    check("cvt.rp.f32.s32 %d, %a;", &[one(0x01000001, 0x4b800001)]);
    check("cvt.rn.f32.u64 %d, %wa;", &[one(u64::MAX, 0x5f800000)]);
    check("cvt.rz.f32.u64 %d, %wa;", &[one(u64::MAX, 0x5f7fffff)]);
    check("cvt.s64.s32 %wd, %a;", &[one(0xffffffff, u64::MAX)]);
    check("cvt.u64.u32 %wd, %a;", &[one(0xffffffff, 0xffffffff)]);
    check("cvt.s32.s8 %d, %a;", &[one(0x180, 0xffffff80)]);
    check("cvt.u32.u8 %d, %a;", &[one(0x1ff, 0xff)]);
    check("cvt.s8.s32 %h1, %a; cvt.s32.s16 %d, %h1;", &[one(0x180, 0xffffff80)]);
    check("cvt.sat.u8.s32 %d, %a;", &[one(300, 255), one(0xffffffff, 0)]);
    check("cvt.sat.s8.s32 %d, %a;", &[one(300, 127), one(0xffffff00, 0xffffff80)]);
    check("cvt.f64.f32 %wd, %a;", &[one(0x3f800000, 0x3ff0000000000000)]);
    check(
        "cvt.rn.f32.f64 %d, %wa;",
        &[one(0x3ff0000010000000, 0x3f800000), one(0x3ff0000030000000, 0x3f800002)],
    );
    check(
        "cvt.rn.f16.f32 %h1, %a; cvt.f32.f16 %d, %h1;",
        &[one(0x3f801fff, 0x3f802000), one(0x33000000, 0), one(0x33000001, 0x33800000)],
    );
    check(
        "cvt.rz.f16.f32 %h1, %a; cvt.f32.f16 %d, %h1;",
        &[one(0x3f801fff, 0x3f800000), one(0x47800000, 0x477fe000)],
    );
    check("cvt.rn.f16x2.f32 %d, %a, %b;", &[two(0x3f800000, 0x40000000, 0x3c004000)]);
    check("cvt.rn.bf16x2.f32 %d, %a, %b;", &[two(0x3f808000, 0x3f818000, 0x3f803f82)]);
    check("cvt.rn.relu.bf16x2.f32 %d, %a, %b;", &[two(0xbf800000, 0x3f800000, 0x00003f80)]);
    check(
        "cvt.rna.tf32.f32 %d, %a;",
        &[one(0x3f801000, 0x3f802000), one(0x3f800fff, 0x3f800000)],
    );
    check(
        "cvt.rn.satfinite.e4m3x2.f32 %h1, %a, %b; cvt.u32.u16 %d, %h1;",
        &[two(0x3f800000, 0x44000000, 0x387e)],
    );
    check(
        "cvt.rn.satfinite.e5m2x2.f32 %h1, %a, %b; cvt.u32.u16 %d, %h1;",
        &[two(0x3f800000, 0x7f800000, 0x3c7b)],
    );
    check(
        "mov.b32 {%h1, %h2}, %a; cvt.rn.f16x2.e4m3x2 %d, %h1;",
        &[one(0x387e, 0x3c005f00), one(0x8101, 0x98001800)],
    );
    check(
        "mov.b32 {%h1, %h2}, %a; cvt.rn.f16x2.e5m2x2 %d, %h1;",
        &[one(0x3c7b, 0x3c007b00)],
    );
    check(
        "cvt.rn.satfinite.e4m3x2.f16x2 %h1, %a; cvt.u32.u16 %d, %h1;",
        &[one(0x3c007bff, 0x387e)],
    );
    check(
        "cvt.pack.sat.s8.s32.b32 %d, %a, %b, %c;",
        &[three(300, 0xffffff00, 0x1234, 0x12347f80)],
    );
}

#[test]
fn a_wrong_form_is_refused() {
    for body in [
        "add.f32.rn.xyz %d, %a, %b;",
        "cvt.rs.f16x2.f32 %d, %a, %b, %c;",
        "wmma.load.a.sync.aligned.m16n16k16.f16 {%d}, [%x];",
        "add.rz.f64 %wd, %wa, %wb;",
        "mma.sync.aligned.m16n8k64.row.col.s32.s4.s4.s32 {%d}, {%a}, {%b}, {%c};",
        "ld.global.v3.u32 {%a, %b, %c}, [%x];",
        "mov.u32 %d, %nosuch;",
        "add.u32 %d, %a;",
        "add.u32 %d, %wa, %b;",
        "call foo;",
        "tcgen05.commit.cta_group::1.b64 [%x];",
        "cp.reduce.async.bulk.global.shared::cta.bulk_group.add.u32 [%x], [%a], 16;",
        "bra NOWHERE;",
    ] {
        let text = format!(
            ".version 8.0\n.target sm_90a\n.address_size 64\n.visible .entry k()\n{{\n\
             .reg .b32 %a, %b, %c, %d;\n.reg .b64 %wa, %wb, %wd, %x;\n{body}\nret;\n}}\n"
        );
        let error = Module::parse(&text).expect_err(body);
        assert_eq!(error.line, 8, "{body}: {error}");
        let opcode = body.split(' ').next().unwrap().trim_end_matches(';');
        assert!(error.message.contains(opcode), "{body}: {error}");
    }
}

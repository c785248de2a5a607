//! Loads and stores: types, vectors, state spaces.

use super::Program;
use super::draft::Draft;

const FAMILY: &str = "memory";

/// Byte `n` of the inputs here.
fn byte(n: u32) -> u32 {
    (n * 37 + 129) & 0xff
}

/// The little-endian value of `bytes` bytes from byte `at`.
fn value(at: u32, bytes: u32) -> u64 {
    (0..bytes).map(|n| u64::from(byte(at + n)) << (8 * n)).sum()
}

fn input(draft: &mut Draft) {
    let bytes: Vec<u8> = (0..2048).map(|n| byte(n) as u8).collect();
    draft.input(&bytes);
}

/// Every scalar type from global and from shared memory, extended by its sign.
fn scalars(space: &str) -> Program {
    let mut draft = Draft::new(FAMILY, format!("ld.{space} of scalars"));
    input(&mut draft);
    let base = copied_to(&mut draft, space);
    for (ty, bytes, signed) in [
        ("u8", 1, false),
        ("s8", 1, true),
        ("u16", 2, false),
        ("s16", 2, true),
        ("b32", 4, false),
    ] {
        draft.code(&format!(
            "mad.wide.u32 %q2, %t, {bytes}, {base};\nld.{space}.{ty} %r2, [%q2+{}];",
            16 * bytes
        ));
        draft.put(&format!("ld.{space}.{ty}"), "%r2", |t| {
            let raw = value(16 * bytes + bytes * t, bytes) as u32;
            let unused = 32 - 8 * bytes;
            if signed { ((raw << unused) as i32 >> unused) as u32 } else { raw }
        });
    }
    draft.finish()
}

/// Copies the input to where `ld.space` reads it; gives the register with its address.
fn copied_to(draft: &mut Draft, space: &str) -> &'static str {
    match space {
        "global" => "%in",
        "shared" => {
            draft.declare(".shared .align 16 .b8 tile[2048];");
            draft.code("mov.u64 %q1, tile;");
            copy_in(draft, "shared", "mad.wide.u32 %q3, %t, 64, %q1;");
            draft.code("bar.sync 0;");
            "%q1"
        }
        _ => {
            draft.declare(".local .align 16 .b8 own[2048];");
            draft.code("mov.u64 %q1, own;");
            draft.code("mov.u32 %r4, 0;\nNEXT:");
            draft.code(
                "mad.wide.u32 %q2, %r4, 16, %in;
                 ld.global.v4.b32 {%r5, %r6, %r7, %r8}, [%q2];
                 mad.wide.u32 %q2, %r4, 16, %q1;
                 st.local.v4.b32 [%q2], {%r5, %r6, %r7, %r8};
                 add.u32 %r4, %r4, 1;
                 setp.lt.u32 %p1, %r4, 128;
                 @%p1 bra NEXT;",
            );
            "%q1"
        }
    }
}

/// 64 bytes of every thread, in vectors.
fn copy_in(draft: &mut Draft, space: &str, address: &str) {
    draft.code(&format!("mad.wide.u32 %q2, %t, 64, %in;\n{address}"));
    for at in [0, 16, 32, 48] {
        draft.code(&format!(
            "ld.global.v4.b32 {{%r5, %r6, %r7, %r8}}, [%q2+{at}];\n\
             st.{space}.v4.b32 [%q3+{at}], {{%r5, %r6, %r7, %r8}};"
        ));
    }
}

/// Vectors of every width; the last element shows that all registers were filled.
fn vectors(space: &str) -> Program {
    let mut draft = Draft::new(FAMILY, format!("ld.{space} of vectors"));
    input(&mut draft);
    let base = copied_to(&mut draft, space);
    for (ty, bytes, count) in [
        ("v2.u8", 1, 2),
        ("v4.u8", 1, 4),
        ("v2.s16", 2, 2),
        ("v4.u16", 2, 4),
        ("v2.b32", 4, 2),
        ("v4.b32", 4, 4),
    ] {
        let registers: Vec<String> = (0..count).map(|n| format!("%r{}", 4 + n)).collect();
        let list = registers.join(", ");
        draft.code(&format!(
            "mad.wide.u32 %q2, %t, {}, {base};\nld.{space}.{ty} {{{list}}}, [%q2];",
            bytes * count
        ));
        for (n, register) in registers.iter().enumerate() {
            draft.put(&format!("ld.{space}.{ty} element {n}"), register, |t| {
                let raw = value(bytes * count * t + bytes * n as u32, bytes) as u32;
                if ty == "v2.s16" { raw as u16 as i16 as u32 } else { raw }
            });
        }
    }
    draft.code(&format!(
        "mad.wide.u32 %q2, %t, 16, {base};\nld.{space}.v2.b64 {{%q3, %q4}}, [%q2];\n\
         mov.b64 {{%r2, %r3}}, %q4;"
    ));
    draft.put(&format!("ld.{space}.v2.b64 element 1, low"), "%r2", |t| {
        value(16 * t + 8, 4) as u32
    });
    draft.put(&format!("ld.{space}.v2.b64 element 1, high"), "%r3", |t| {
        value(16 * t + 12, 4) as u32
    });
    draft.finish()
}

/// Narrow stores do not change their neighbours.
fn stores(space: &str) -> Program {
    let mut draft = Draft::new(FAMILY, format!("st.{space}"));
    input(&mut draft);
    let base = copied_to(&mut draft, space);
    draft.code(&format!(
        "mad.wide.u32 %q2, %t, 16, {base};
         st.{space}.u8 [%q2+1], %t;
         add.u32 %r2, %t, 0x12340;
         st.{space}.u16 [%q2+6], %r2;
         cvt.u16.u32 %h1, %t;
         not.b16 %h2, %h1;
         mov.u32 %r3, 0xdeadbeef;
         st.{space}.v2.b16 [%q2+8], {{%h1, %h2}};
         st.{space}.b32 [%q2+12], %r3;
         ld.{space}.v4.b32 {{%r4, %r5, %r6, %r7}}, [%q2];"
    ));
    let word = |at: u32| value(at, 4) as u32;
    draft.put("beside a byte", "%r4", |t| word(16 * t) & 0xffff_00ff | t << 8);
    draft.put("beside a half", "%r5", |t| word(16 * t + 4) & 0xffff | (0x12340 + t) << 16);
    draft.put("two halves", "%r6", |t| t | (!t << 16));
    draft.put("a word", "%r7", |_| 0xdead_beef);
    draft.finish()
}

/// Shared, local and global memory through generic addresses.
fn generic_addresses() -> Program {
    let mut draft = Draft::new(FAMILY, "generic addresses");
    input(&mut draft);
    draft.declare(".shared .align 16 .b8 tile[128];\n    .local .align 16 .b8 own[16];");
    draft.code(
        "mov.u64 %q1, tile;
         cvta.shared.u64 %q2, %q1;
         mov.u64 %q3, own;
         cvta.local.u64 %q4, %q3;
         cvta.global.u64 %q5, %in;
         mad.wide.u32 %q6, %t, 4, %q2;
         mad.wide.u32 %q7, %t, 4, %q5;
         mad.wide.u32 %q8, %t, 4, %q1;
         ld.u32 %r2, [%q7];
         st.u32 [%q6], %r2;
         st.u32 [%q4+4], %r2;
         ld.shared.u32 %r3, [%q8];
         ld.local.u32 %r4, [%q3+4];
         cvta.to.shared.u64 %q9, %q6;
         sub.u64 %q9, %q9, %q8;
         cvt.u32.u64 %r5, %q9;",
    );
    let word = |t: u32| value(4 * t, 4) as u32;
    draft.put("global", "%r2", word);
    draft.put("shared", "%r3", word);
    draft.put("local", "%r4", word);
    draft.put("cvta.to.shared", "%r5", |_| 0);
    for (space, address, holds) in [
        ("shared", "%q2", true),
        ("shared", "%q5", false),
        ("local", "%q4", true),
        ("local", "%q2", false),
        ("global", "%q5", true),
        ("global", "%q2", false),
    ] {
        draft.code(&format!("isspacep.{space} %p1, {address};"));
        draft.put_predicate(&format!("isspacep.{space} {address}"), "%p1", |_| holds);
    }
    draft.finish()
}

pub(super) fn programs() -> Vec<Program> {
    let mut programs = Vec::new();
    for space in ["global", "shared", "local"] {
        programs.extend([scalars(space), vectors(space)]);
    }
    // Every thread writes its own 16 bytes.
    programs.extend(["global", "shared", "local"].map(stores));
    programs.push(generic_addresses());
    programs
}

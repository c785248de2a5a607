//! Asynchronous copies without tensor maps, and mbarriers.

use super::Program;
use super::draft::Draft;

/// Word `n` of the inputs here.
fn word(n: u32) -> u32 {
    n.wrapping_mul(0x0101_4243) ^ 0x5a5a_0000
}

/// The little-endian word at `byte` of the inputs, of which only `count` bytes are copied
/// and the rest are zero.
fn partial(byte: u32, count: u32) -> u32 {
    match count {
        0 => 0,
        1..=3 => word(byte / 4) & ((1 << (8 * count)) - 1),
        _ => word(byte / 4),
    }
}

/// Copies of every size; the bytes beyond the source's are zero.
fn cp_async(level: &str, bytes: u32, there: Option<u32>) -> Program {
    let suffix = there.map_or(String::new(), |n| format!(" of {n} bytes"));
    let name = format!("cp.async.{level}.shared.global {bytes}{suffix}");
    let mut draft = Draft::new("cp.async", name);
    draft.input_words((0..32 * 4).map(word));
    draft.declare(".shared .align 16 .b8 tile[512];");
    let source = there.map_or(String::new(), |n| format!(", {n}"));
    draft.code(&format!(
        "mov.u32 %r2, tile;
         mad.lo.u32 %r2, %t, {bytes}, %r2;
         mad.wide.u32 %q1, %t, {bytes}, %in;
         cp.async.{level}.shared.global [%r2], [%q1], {bytes}{source};
         cp.async.commit_group;
         cp.async.wait_group 0;"
    ));
    for n in 0..bytes / 4 {
        draft.code(&format!("ld.shared.b32 %r3, [%r2+{}];", 4 * n));
        draft.put(&format!("word {n}"), "%r3", |t| {
            let left = there.unwrap_or(bytes).saturating_sub(4 * n);
            partial(bytes * t + 4 * n, left)
        });
    }
    draft.finish()
}

/// Groups end in the order of their commits; other threads see them after a barrier.
fn groups() -> Program {
    let mut draft = Draft::new("cp.async", "cp.async.wait_group").threads(64);
    draft.input_words((0..3 * 256).map(word));
    draft.declare(".shared .align 16 .b8 tile[3072];");
    draft.code(
        "mov.u32 %r2, tile;
         mad.lo.u32 %r3, %t, 16, %r2;
         mad.wide.u32 %q1, %t, 16, %in;
         xor.b32 %r4, %t, 63;
         mad.lo.u32 %r4, %r4, 16, %r2;",
    );
    for group in 0..3 {
        draft.code(&format!(
            "cp.async.cg.shared.global [%r3+{at}], [%q1+{at}], 16;\ncp.async.commit_group;",
            at = 1024 * group
        ));
    }
    for (group, wait) in ["wait_group 2", "wait_group 1", "wait_all"].iter().enumerate() {
        draft.code(&format!(
            "cp.async.{wait};\nbar.sync 0;\nld.shared.b32 %r5, [%r4+{}];",
            1024 * group + 4
        ));
        draft.put(&format!("group {group}"), "%r5", |t| {
            word(256 * group as u32 + 4 * (63 - t) + 1)
        });
    }
    draft.finish()
}

/// Copies arrive at an mbarrier for the thread that began them.
fn arriving_copies() -> Program {
    let mut draft =
        Draft::new("mbarrier", "cp.async.mbarrier.arrive").needs("sm_90", "8.0");
    draft.input_words((0..128).map(word));
    draft.declare(".shared .align 16 .b8 tile[512];\n    .shared .align 8 .b64 full;");
    draft.code(
        "mov.u32 %r2, tile;
         mov.u32 %r3, full;
         setp.eq.u32 %p1, %t, 0;
         @%p1 mbarrier.init.shared::cta.b64 [%r3], 32;
         bar.sync 0;
         mad.lo.u32 %r4, %t, 16, %r2;
         mad.wide.u32 %q1, %t, 16, %in;
         cp.async.ca.shared.global [%r4], [%q1], 16;
         cp.async.mbarrier.arrive.noinc.shared::cta.b64 [%r3];",
    );
    draft.wait("%r3", "0");
    draft.code(
        "xor.b32 %r5, %t, 31;\nmad.lo.u32 %r5, %r5, 16, %r2;\nld.shared.b32 %r6, [%r5+8];",
    );
    draft.put("from the other end", "%r6", |t| word(4 * (31 - t) + 2));
    draft.finish()
}

/// Two warps exchange words, phase by phase.
fn phases() -> Program {
    let mut draft =
        Draft::new("mbarrier", "mbarrier phases").needs("sm_90", "8.0").threads(64);
    draft.declare(
        ".shared .align 16 .b8 tile[256];\n    .shared .align 8 .b64 full;\n    \
         .shared .align 8 .b64 empty;",
    );
    draft.code(
        "mov.u32 %r2, full;
         mov.u32 %r3, empty;
         setp.eq.u32 %p1, %t, 0;
         @%p1 mbarrier.init.shared::cta.b64 [%r2], 32;
         @%p1 mbarrier.init.shared::cta.b64 [%r3], 32;
         bar.sync 0;
         and.b32 %r4, %t, 31;
         mov.u32 %r5, tile;
         mad.lo.u32 %r6, %r4, 4, %r5;
         mov.u32 %r7, 0;
         mov.u32 %r8, 0;
         setp.ge.u32 %p2, %t, 32;
         NEXT:
         and.b32 %r9, %r7, 1;
         @%p2 bra TAKE;
         xor.b32 %r10, %r9, 1;",
    );
    draft.wait("%r3", "%r10");
    draft.code(
        "mad.lo.u32 %r11, %r7, 100, %r4;
         st.shared.b32 [%r6], %r11;
         mbarrier.arrive.shared::cta.b64 %q1, [%r2];
         bra AFTER;
         TAKE:",
    );
    draft.wait("%r2", "%r9");
    draft.code(
        "xor.b32 %r12, %r4, 31;
         mad.lo.u32 %r12, %r12, 4, %r5;
         ld.shared.b32 %r11, [%r12];
         mad.lo.u32 %r8, %r8, 3, %r11;
         mbarrier.arrive.shared::cta.b64 %q1, [%r3];
         AFTER:
         add.u32 %r7, %r7, 1;
         setp.lt.u32 %p3, %r7, 5;
         @%p3 bra NEXT;",
    );
    draft.put("what the second warp read", "%r8", |t| match t {
        0..32 => 0,
        _ => (0..5).fold(0, |sum, round| 3 * sum + 100 * round + (63 - t)),
    });
    draft.finish()
}

/// Phases by token, by parity, and with bytes.
fn states() -> Program {
    let mut draft = Draft::new("mbarrier", "mbarrier states").needs("sm_90", "8.0");
    draft.declare(".shared .align 8 .b64 bar;");
    draft.code(
        "mov.u32 %r2, bar;
         setp.eq.u32 %p1, %t, 0;
         @!%p1 exit;
         mbarrier.init.shared::cta.b64 [%r2], 2;
         mbarrier.arrive.shared::cta.b64 %q1, [%r2];
         mbarrier.pending_count.b64 %r3, %q1;
         mbarrier.test_wait.shared::cta.b64 %p2, [%r2], %q1;
         selp.u32 %r4, 1, 0, %p2;
         mbarrier.test_wait.parity.shared::cta.b64 %p2, [%r2], 1;
         selp.u32 %r5, 1, 0, %p2;
         mbarrier.arrive.shared::cta.b64 %q2, [%r2];
         mbarrier.test_wait.shared::cta.b64 %p2, [%r2], %q1;
         selp.u32 %r6, 1, 0, %p2;
         mbarrier.test_wait.parity.shared::cta.b64 %p2, [%r2], 0;
         selp.u32 %r7, 1, 0, %p2;
         mbarrier.arrive.shared::cta.b64 %q3, [%r2], 2;
         mbarrier.test_wait.parity.shared::cta.b64 %p2, [%r2], 1;
         selp.u32 %r8, 1, 0, %p2;
         mbarrier.arrive.expect_tx.shared::cta.b64 %q4, [%r2], 16;
         mbarrier.arrive.shared::cta.b64 %q5, [%r2];
         mbarrier.test_wait.parity.shared::cta.b64 %p2, [%r2], 0;
         selp.u32 %r9, 1, 0, %p2;
         mbarrier.complete_tx.shared::cta.relaxed.cta.b64 [%r2], 16;
         mbarrier.test_wait.parity.shared::cta.b64 %p2, [%r2], 0;
         selp.u32 %r10, 1, 0, %p2;
         mbarrier.inval.shared::cta.b64 [%r2];",
    );
    for (label, register, wanted) in [
        ("pending before the first arrival", "%r3", 2),
        ("over after one of two, by token", "%r4", 0),
        ("the phase before the first", "%r5", 1),
        ("over after two of two, by token", "%r6", 1),
        ("over after two of two, by parity", "%r7", 1),
        ("over after two at once", "%r8", 1),
        ("over with bytes missing", "%r9", 0),
        ("over with all bytes", "%r10", 1),
    ] {
        let offset = draft.column(4);
        draft.code(&format!("st.global.b32 [%q31], {register};"));
        draft.case(label.to_owned(), offset, 4, super::draft::bits(wanted));
    }
    draft.finish()
}

/// A row in by one copy and out by another.
fn bulk() -> Program {
    let mut draft = Draft::new("bulk copy", "cp.async.bulk")
        .needs("sm_90", "8.0")
        .threads(64)
        .blocks(3, 1);
    draft.input_words((0..3 * 256).map(word));
    draft.declare(".shared .align 128 .b8 tile[1024];\n    .shared .align 8 .b64 bar;");
    draft.code(
        "mov.u32 %r2, tile;
         mov.u32 %r3, bar;
         mad.wide.u32 %q1, %r0, 1024, %in;
         setp.eq.u32 %p1, %t, 0;
         @%p1 mbarrier.init.shared::cta.b64 [%r3], 1;
         @%p1 fence.mbarrier_init.release.cluster;
         bar.sync 0;
         @%p1 mbarrier.arrive.expect_tx.shared::cta.b64 %q2, [%r3], 1024;
         @%p1 cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes [%r2], [%q1], 1024, [%r3];",
    );
    draft.wait("%r3", "0");
    draft.code("mad.lo.u32 %r4, %t, 16, %r2;");
    for at in [0, 4, 8, 12] {
        draft.code(&format!(
            "ld.shared.b32 %r5, [%r4+{at}];\nadd.u32 %r5, %r5, 1;\nst.shared.b32 [%r4+{at}], %r5;"
        ));
    }
    let offset = draft.column(16);
    draft.code(&format!(
        "fence.proxy.async.shared::cta;
         bar.sync 0;
         mad.wide.u32 %q3, %r0, 1024, %out;
         add.s64 %q3, %q3, {offset};
         @%p1 cp.async.bulk.global.shared::cta.bulk_group [%q3], [%r2], 1024;
         @%p1 cp.async.bulk.commit_group;
         @%p1 cp.async.bulk.wait_group.read 0;"
    ));
    for n in 0..3 * 256 {
        let wanted = super::draft::bits(u64::from(word(n).wrapping_add(1)));
        draft.case(format!("word {n}"), offset + 4 * n as usize, 4, wanted);
    }
    draft.finish()
}

pub(super) fn programs() -> Vec<Program> {
    let mut programs = vec![
        cp_async("ca", 4, None),
        cp_async("ca", 8, None),
        cp_async("ca", 16, None),
        cp_async("cg", 16, None),
    ];
    for (bytes, there) in
        [(4, 0), (4, 3), (8, 4), (8, 5), (16, 0), (16, 4), (16, 10), (16, 16)]
    {
        programs.push(cp_async("ca", bytes, Some(there)));
    }
    programs.push(cp_async("cg", 16, Some(12)));
    programs.extend([groups(), arriving_copies(), phases(), states(), bulk()]);
    programs
}

//! Barriers of blocks, and fences between blocks.

use super::Program;
use super::draft::Draft;

const FAMILY: &str = "barrier";

/// Writes `value` to the thread's word of `tile`, whose address is `%q1`.
const WRITE: &str = "mov.u64 %q1, tile;
    mad.wide.u32 %q2, %t, 4, %q1;
    st.shared.b32 [%q2], %r2;";

fn exchange() -> Program {
    let mut draft = Draft::new(FAMILY, "bar.sync").threads(128);
    draft.declare(".shared .align 4 .b8 tile[512];");
    draft.code("mul.lo.u32 %r2, %t, 9;");
    draft.code(WRITE);
    draft.code(
        "bar.sync 0;
         add.u32 %r3, %t, 37;
         and.b32 %r3, %r3, 127;
         mad.wide.u32 %q3, %r3, 4, %q1;
         ld.shared.b32 %r4, [%q3];
         bar.sync 0;
         st.shared.b32 [%q2], %r4;
         bar.sync 3;
         ld.shared.b32 %r5, [%q3];",
    );
    draft.put("once", "%r4", |t| 9 * ((t + 37) % 128));
    draft.put("twice", "%r5", |t| 9 * ((t + 74) % 128));
    draft.finish()
}

/// Two warps arrive and continue, two others wait for them.
fn producers_and_consumers() -> Program {
    let mut draft = Draft::new(FAMILY, "bar.arrive and bar.sync").threads(128);
    draft.declare(".shared .align 4 .b8 tile[512];");
    draft.code(
        "mul.lo.u32 %r2, %t, 9;\nmov.u32 %r4, 5;\nsetp.ge.u32 %p1, %t, 64;\n@%p1 bra TAKE;",
    );
    draft.code(WRITE);
    draft.code(
        "bar.arrive 1, 128;
         bra MEET;
         TAKE:
         bar.sync 1, 128;
         mov.u64 %q1, tile;
         mad.wide.u32 %q2, %t, 4, %q1;
         ld.shared.b32 %r4, [%q2+-256];
         bar.sync 2, 64;
         MEET:
         bar.sync 0;",
    );
    draft.put("what was left", "%r4", |t| if t < 64 { 5 } else { 9 * (t - 64) });
    draft.finish()
}

fn reductions() -> Program {
    let mut draft = Draft::new(FAMILY, "bar.red").threads(96);
    for (name, below) in [("all", 96), ("some", 41), ("none", 0)] {
        draft.code(&format!(
            "setp.lt.u32 %p1, %t, {below};
             bar.red.popc.u32 %r2, 0, %p1;
             bar.red.and.pred %p2, 1, %p1;
             bar.red.or.pred %p3, 2, %p1;
             bar.red.popc.u32 %r3, 3, 96, !%p1;"
        ));
        draft.put(&format!("popc of {name}"), "%r2", |_| below);
        draft.put_predicate(&format!("and of {name}"), "%p2", |_| below == 96);
        draft.put_predicate(&format!("or of {name}"), "%p3", |_| below > 0);
        draft.put(&format!("popc of not {name}"), "%r3", |_| 96 - below);
    }
    draft.finish()
}

fn within_a_warp() -> Program {
    let mut draft = Draft::new(FAMILY, "bar.warp.sync");
    draft.declare(".shared .align 4 .b8 tile[128];");
    draft.code("add.u32 %r2, %t, 1000;");
    draft.code(WRITE);
    draft.code(
        "bar.warp.sync 0xffffffff;
         xor.b32 %r3, %t, 31;
         mad.wide.u32 %q3, %r3, 4, %q1;
         ld.shared.b32 %r4, [%q3];",
    );
    draft.put("from the other end", "%r4", |t| 1000 + (31 - t));
    draft.finish()
}

/// Each block adds its number to what the block before it left. `take` and `give`
/// read and set the flags at `%q2` and `%q3`, by `%r4` and `%r5`.
fn chain(name: &str, take: &str, give: &str) -> Program {
    let mut draft = Draft::new("fence", name).blocks(12, 1).threads(1);
    // Flags, then sums.
    let flags = draft.input_words([0; 12]);
    let sums = draft.input_words([0; 12]);
    draft.code(&format!(
        "mad.wide.u32 %q1, %r0, 4, %in;
         add.s64 %q2, %q1, {};
         add.s64 %q3, %q1, {flags};
         mov.u32 %r6, 0;
         setp.eq.u32 %p1, %r0, 0;
         @%p1 bra FIRST;
         AGAIN:
         {take}
         setp.eq.u32 %p2, %r4, 0;
         @%p2 bra AGAIN;
         {}
         ld.global.u32 %r6, [%q1+{}];
         FIRST:
         add.u32 %r6, %r6, %r0;
         st.global.u32 [%q1+{sums}], %r6;
         mov.u32 %r5, 1;
         {give}",
        flags as i64 - 4,
        if take.contains("relaxed") { "fence.acq_rel.gpu;" } else { "" },
        sums as i64 - 4,
    ));
    draft.put("sum", "%r6", |block| block * (block + 1) / 2);
    draft.finish()
}

/// The last block to arrive adds up what all have written.
fn last_block() -> Program {
    let mut draft =
        Draft::new("fence", "the last block reads all").blocks(8, 1).threads(64);
    draft.input_words([0]);
    draft.declare(".shared .align 4 .b32 last;");
    let offset = draft.column(4);
    draft.code(&format!(
        "st.global.b32 [%q31], %t;
         bar.sync 0;
         setp.ne.u32 %p1, %t, 0;
         @%p1 bra WAIT;
         atom.global.acq_rel.gpu.add.u32 %r2, [%in], 1;
         st.shared.b32 [last], %r2;
         WAIT:
         bar.sync 0;
         ld.shared.b32 %r2, [last];
         setp.ne.u32 %p1, %r2, 7;
         @%p1 exit;
         mov.u32 %r3, 0;
         mov.u32 %r4, 0;
         sub.u32 %r5, 63, %t;
         NEXT:
         mad.lo.u32 %r6, %r4, 64, %r5;
         mad.wide.u32 %q2, %r6, 4, %out;
         ld.global.b32 %r7, [%q2+{offset}];
         add.u32 %r3, %r3, %r7;
         add.u32 %r4, %r4, 1;
         setp.lt.u32 %p2, %r4, 8;
         @%p2 bra NEXT;
         mad.wide.u32 %q3, %t, 4, %out;"
    ));
    let sums = offset + 4 * 512;
    draft.column(1);
    draft.code(&format!("st.global.b32 [%q3+{sums}], %r3;"));
    for t in 0..64 {
        let wanted = super::draft::bits(8 * (63 - t as u64));
        draft.case(format!("sum, thread {t}"), sums + 4 * t, 4, wanted);
    }
    draft.finish()
}

/// All blocks meet in the middle.
fn grid_barrier() -> Program {
    let mut draft = Draft::new("fence", "a barrier of the grid").blocks(8, 1).threads(32);
    let counter = draft.input_words([0]);
    let values = draft.input_words([0; 256]);
    draft.code(&format!(
        "add.u32 %r2, %r0, %t;
         mad.wide.u32 %q1, %g, 4, %in;
         st.global.u32 [%q1+{values}], %r2;
         bar.sync 0;
         setp.ne.u32 %p1, %t, 0;
         @%p1 bra MEET;
         membar.gl;
         red.global.add.u32 [%in+{counter}], 1;
         AGAIN:
         ld.volatile.global.u32 %r3, [%in+{counter}];
         setp.lt.u32 %p2, %r3, 8;
         @%p2 bra AGAIN;
         membar.gl;
         MEET:
         bar.sync 0;
         add.u32 %r4, %g, 32;
         and.b32 %r4, %r4, 255;
         mad.wide.u32 %q1, %r4, 4, %in;
         ld.global.u32 %r5, [%q1+{values}];"
    ));
    draft.put("the next block's", "%r5", |g| (g / 32 + 1) % 8 + g % 32);
    draft.finish()
}

pub(super) fn programs() -> Vec<Program> {
    vec![
        exchange(),
        producers_and_consumers(),
        reductions(),
        within_a_warp(),
        chain(
            "ld.acquire and st.release",
            "ld.acquire.gpu.global.u32 %r4, [%q2];",
            "st.release.gpu.global.u32 [%q3], %r5;",
        ),
        chain(
            "fence.acq_rel.gpu",
            "ld.relaxed.gpu.global.u32 %r4, [%q2];",
            "fence.acq_rel.gpu;\nst.relaxed.gpu.global.u32 [%q3], %r5;",
        ),
        last_block(),
        grid_barrier(),
    ]
}

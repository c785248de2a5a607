//! Clusters, distributed shared memory, and registers moved between warpgroups.

use super::Program;
use super::draft::Draft;

const FAMILY: &str = "cluster";

/// The barrier of the cluster, with what it orders.
const MEET: &str =
    "barrier.cluster.arrive.release.aligned;\nbarrier.cluster.wait.acquire.aligned;";

fn draft(name: &str, blocks: u32, cluster: u32) -> Draft {
    Draft::new(FAMILY, name).needs("sm_90", "8.0").blocks(blocks, cluster)
}

/// Every thread reads from the next block and writes to the one before.
fn remote_words() -> Program {
    let mut draft = draft("ld and st.shared::cluster", 8, 4);
    draft.declare(".shared .align 4 .b8 tile[128];\n    .shared .align 4 .b8 given[128];");
    draft.code(
        "mov.u32 %r2, %cluster_ctarank;
         mov.u32 %r3, tile;
         mov.u32 %r4, given;
         mad.lo.u32 %r5, %t, 4, %r3;
         mad.lo.u32 %r6, %t, 4, %r4;
         mul.lo.u32 %r7, %g, 17;
         st.shared.b32 [%r5], %r7;",
    );
    draft.code(MEET);
    draft.code(
        "add.u32 %r8, %r2, 1;
         and.b32 %r8, %r8, 3;
         add.u32 %r9, %r2, 3;
         and.b32 %r9, %r9, 3;
         mapa.shared::cluster.u32 %r10, %r5, %r8;
         ld.shared::cluster.b32 %r11, [%r10];
         mapa.shared::cluster.u32 %r12, %r6, %r9;
         add.u32 %r13, %g, 5000;
         st.shared::cluster.b32 [%r12], %r13;
         getctarank.shared::cluster.u32 %r14, %r12;",
    );
    draft.code(MEET);
    draft.code("ld.shared.b32 %r15, [%r6];");
    let neighbour = |g: u32, by: u32| {
        let (block, thread) = (g / 32, g % 32);
        (block / 4 * 4 + (block + by) % 4) * 32 + thread
    };
    draft.put("read from the next block", "%r11", |g| 17 * neighbour(g, 1));
    draft.put("written by the next block", "%r15", |g| neighbour(g, 1) + 5000);
    draft.put("getctarank", "%r14", |g| (g / 32 + 3) % 4);
    draft.finish()
}

fn special_registers() -> Program {
    let mut draft = draft("special registers", 8, 4);
    for (register, wanted) in [
        ("%cluster_ctarank", (|b| b % 4) as fn(u32) -> u32),
        ("%cluster_nctarank", |_| 4),
        ("%clusterid.x", |b| b / 4),
        ("%nclusterid.x", |_| 2),
        ("%cluster_ctaid.x", |b| b % 4),
        ("%cluster_nctaid.x", |_| 4),
    ] {
        draft.code(&format!("mov.u32 %r2, {register};"));
        draft.put(register, "%r2", |g| wanted(g / 32));
    }
    draft.finish()
}

/// All threads of a cluster add to one word of its first block.
fn remote_atomics() -> Program {
    let mut draft = draft("atom.shared::cluster", 4, 4);
    draft.declare(".shared .align 4 .b32 sum;");
    draft.code("mov.u32 %r2, sum;\nmov.u32 %r3, 0;\nsetp.eq.u32 %p1, %t, 0;\n@%p1 st.shared.b32 [%r2], %r3;");
    draft.code(MEET);
    draft.code(
        "mapa.shared::cluster.u32 %r4, %r2, 0;
         red.relaxed.cluster.shared::cluster.add.u32 [%r4], %g;",
    );
    draft.code(MEET);
    draft.code("ld.shared::cluster.b32 %r5, [%r4];");
    draft.code(MEET);
    draft.put("the sum", "%r5", |_| 127 * 128 / 2);
    draft.finish()
}

/// A token passes through all blocks: each writes to the next and arrives at its mbarrier.
fn remote_mbarriers() -> Program {
    let mut draft = draft("a token around a cluster", 4, 4);
    draft.declare(".shared .align 4 .b32 token;\n    .shared .align 8 .b64 bar;");
    draft.code(
        "mov.u32 %r2, token;
         mov.u32 %r3, bar;
         mov.u32 %r4, %cluster_ctarank;
         setp.eq.u32 %p1, %t, 0;
         @%p1 mbarrier.init.shared::cta.b64 [%r3], 1;
         @%p1 fence.mbarrier_init.release.cluster;",
    );
    draft.code(MEET);
    draft.code(
        "mov.u32 %r10, 0;
         @!%p1 bra LEAVE;
         add.u32 %r5, %r4, 1;
         and.b32 %r5, %r5, 3;
         mapa.shared::cluster.u32 %r6, %r2, %r5;
         mapa.shared::cluster.u32 %r7, %r3, %r5;
         setp.eq.u32 %p2, %r4, 0;
         @%p2 bra GIVE;
         TAKE:
         mbarrier.try_wait.parity.acquire.cluster.shared::cta.b64 %p3, [%r3], 0;
         @!%p3 bra TAKE;
         ld.shared.b32 %r10, [%r2];
         GIVE:
         mad.lo.u32 %r11, %r10, 3, 1;
         st.shared::cluster.b32 [%r6], %r11;
         mbarrier.arrive.release.cluster.shared::cluster.b64 _, [%r7];
         @!%p2 bra LEAVE;
         LAST:
         mbarrier.try_wait.parity.acquire.cluster.shared::cta.b64 %p3, [%r3], 0;
         @!%p3 bra LAST;
         ld.shared.b32 %r10, [%r2];
         LEAVE:",
    );
    draft.code(MEET);
    draft.put("token", "%r10", |g| match (g % 32, g / 32) {
        (0, 0) => 40,
        (0, block) => [0, 1, 4, 13][block as usize],
        _ => 0,
    });
    draft.finish()
}

/// A bulk copy from one block's shared memory to the other's.
fn remote_copies() -> Program {
    let mut draft = draft("cp.async.bulk.shared::cluster.shared::cta", 2, 2);
    draft.declare(
        ".shared .align 128 .b8 from[512];\n    .shared .align 128 .b8 to[512];\n    \
         .shared .align 8 .b64 bar;",
    );
    draft.code(
        "mov.u32 %r2, from;
         mov.u32 %r3, to;
         mov.u32 %r4, bar;
         mov.u32 %r5, %cluster_ctarank;
         mad.lo.u32 %r6, %t, 16, %r2;
         mul.lo.u32 %r7, %g, 21;
         st.shared.v4.b32 [%r6], {%r7, %g, %t, %r7};
         fence.proxy.async.shared::cta;
         setp.eq.u32 %p1, %t, 0;
         @%p1 mbarrier.init.shared::cta.b64 [%r4], 1;
         @%p1 fence.mbarrier_init.release.cluster;
         bar.sync 0;
         @%p1 mbarrier.arrive.expect_tx.shared::cta.b64 %q2, [%r4], 512;",
    );
    draft.code(MEET);
    draft.code(
        "xor.b32 %r8, %r5, 1;
         mapa.shared::cluster.u32 %r9, %r3, %r8;
         mapa.shared::cluster.u32 %r10, %r4, %r8;
         @%p1 cp.async.bulk.shared::cluster.shared::cta.mbarrier::complete_tx::bytes [%r9], [%r2], 512, [%r10];",
    );
    draft.wait("%r4", "0");
    draft.code(
        "mad.lo.u32 %r11, %t, 16, %r3;
         ld.shared.v4.b32 {%r12, %r13, %r14, %r15}, [%r11];",
    );
    draft.code(MEET);
    draft.put("first word", "%r12", |g| 21 * (g ^ 32));
    draft.put("second word", "%r13", |g| g ^ 32);
    draft.put("third word", "%r14", |g| g % 32);
    draft.finish()
}

/// Each block gives its words to all blocks of its cluster, itself too, by asynchronous stores
/// of one, two and four of them, and returns without a barrier: who waits for the bytes that it
/// is to get has all of them.
fn remote_stores() -> Program {
    let mut draft = draft("st.async", 8, 4).needs("sm_90", "8.1");
    draft.declare(".shared .align 16 .b8 words[3584];\n    .shared .align 8 .b64 bar;");
    draft.code(
        "mov.u32 %r2, words;
         mov.u32 %r3, bar;
         mov.u32 %r4, %cluster_ctarank;
         setp.eq.u32 %p1, %t, 0;
         @%p1 mbarrier.init.shared::cta.b64 [%r3], 1;
         @%p1 fence.mbarrier_init.release.cluster;
         @%p1 mbarrier.arrive.expect_tx.shared::cta.b64 %q2, [%r3], 3584;",
    );
    draft.code(MEET);
    // Of each rank 512 bytes in fours, then of each 256 in twos, then of each 128.
    draft.code(
        "mul.lo.u32 %r5, %g, 7;
         cvt.u64.u32 %q3, %g;
         mad.lo.u32 %r6, %r4, 32, %t;
         mad.lo.u32 %r7, %r6, 16, %r2;
         mad.lo.u32 %r8, %r6, 8, %r2;
         mad.lo.u32 %r9, %r6, 4, %r2;
         mov.u32 %r10, 0;
         NEXT:
         mapa.shared::cluster.u32 %r11, %r7, %r10;
         mapa.shared::cluster.u32 %r12, %r8, %r10;
         mapa.shared::cluster.u32 %r13, %r9, %r10;
         mapa.shared::cluster.u32 %r14, %r3, %r10;
         st.async.weak.shared::cluster.mbarrier::complete_tx::bytes.v4.b32 [%r11], {%r5, %g, %r10, %r5}, [%r14];
         st.async.weak.shared::cluster.mbarrier::complete_tx::bytes.b64 [%r12+2048], %q3, [%r14];
         st.async.weak.shared::cluster.mbarrier::complete_tx::bytes.b32 [%r13+3072], %r5, [%r14];
         add.u32 %r10, %r10, 1;
         setp.lt.u32 %p2, %r10, 4;
         @%p2 bra NEXT;",
    );
    draft.wait("%r3", "0");
    // Thread t reads what the block behind its own gave.
    draft.code(
        "add.u32 %r15, %r4, 1;
         and.b32 %r15, %r15, 3;
         mad.lo.u32 %r6, %r15, 32, %t;
         mad.lo.u32 %r7, %r6, 16, %r2;
         mad.lo.u32 %r8, %r6, 8, %r2;
         mad.lo.u32 %r9, %r6, 4, %r2;
         ld.shared.v4.b32 {%r16, %r17, %r18, %r19}, [%r7];
         ld.shared.b64 %q4, [%r8+2048];
         ld.shared.b32 %r20, [%r9+3072];
         cvt.u32.u64 %r21, %q4;",
    );
    let other = |g: u32| {
        let (block, thread) = (g / 32, g % 32);
        (block / 4 * 4 + (block % 4 + 1) % 4) * 32 + thread
    };
    draft.put("first of four", "%r16", move |g| 7 * other(g));
    draft.put("second of four", "%r17", other);
    draft.put("rank that it was for", "%r18", |g| g / 32 % 4);
    draft.put("eight bytes", "%r21", other);
    draft.put("one word", "%r20", move |g| 7 * other(g));
    draft.finish()
}

/// One warpgroup releases registers and another takes them.
fn registers() -> Program {
    let mut draft = Draft::new("setmaxnreg", "setmaxnreg")
        .needs("sm_90a", "8.0")
        .threads(256)
        // Without a number of blocks the assembler ignores the request.
        .directive(".maxntid 256, 1, 1\n.minnctapersm 1");
    draft.code(
        "setp.ge.u32 %p1, %t, 128;
         mov.u32 %r2, 7;
         @%p1 bra FEWER;
         setmaxnreg.inc.sync.aligned.u32 232;
         add.u32 %r2, %r2, %t;
         bra MEET;
         FEWER:
         setmaxnreg.dec.sync.aligned.u32 40;
         mul.lo.u32 %r2, %r2, %t;
         MEET:
         bar.sync 0;",
    );
    draft.put("afterwards", "%r2", |t| if t < 128 { 7 + t } else { 7 * t });
    draft.finish()
}

pub(super) fn programs() -> Vec<Program> {
    vec![
        special_registers(),
        remote_words(),
        remote_atomics(),
        remote_mbarriers(),
        remote_copies(),
        remote_stores(),
        registers(),
    ]
}

//! Races: by scope of the memory order, between lanes of a warp, and by byte; and what may
//! not meet at a barrier, an mbarrier or a matrix instruction. Each mistake has its twin
//! without it.

mod common;

use common::{caught, kinds, replace};
use ptxvm::{Fault, Finding, FindingKind, Launch, Memory, Module, Params, Report};

/// A kernel around `body`, with `%r1` the thread, `%r2` the block, `%rd1` an array of 1024
/// words that are 0, `%rd3` the thread's word of it, `%r3` shared memory of 1024 bytes and
/// `%r4` an mbarrier.
fn text(body: &str) -> String {
    format!(
        ".version 8.6\n.target sm_90a\n.address_size 64\n\
         .visible .entry k(.param .u64 x)\n{{\n.reg .pred %p<8>;\n.reg .b16 %h<8>;\n\
         .reg .b32 %r<32>;\n.reg .f32 %f<16>;\n.reg .b64 %rd<16>;\n\
         .shared .align 128 .b8 s[1024];\n.shared .align 8 .b64 bar;\n\
         ld.param.u64 %rd1, [x];\nmov.u32 %r1, %tid.x;\nmov.u32 %r2, %ctaid.x;\n\
         mov.u32 %r3, s;\nmov.u32 %r4, bar;\nmul.wide.u32 %rd2, %r1, 4;\n\
         add.s64 %rd3, %rd1, %rd2;\n{}\nret;\n}}\n",
        body.replace(';', ";\n")
    )
}

/// Blocks, threads of a block, and blocks of a cluster.
type Shape = (u32, u32, u32);

fn run(body: &str, (grid, threads, cluster): Shape, seed: u64) -> Result<Report, Fault> {
    let module = Module::parse(&text(body)).unwrap_or_else(|error| panic!("{error}"));
    let mut memory = Memory::new();
    let x = memory.alloc(4096, "x");
    memory.write(x, &[0; 4096]);
    let launch = Launch {
        grid: [grid, 1, 1],
        block: [threads, 1, 1],
        cluster: [cluster, 1, 1],
        params: Params::new().u64(x).build(),
        seed,
        ..Launch::new("k")
    };
    module.launch(&mut memory, &launch)
}

/// Under no seed anything is found.
#[track_caller]
fn quiet(body: &str, shape: Shape) {
    for seed in 0..6 {
        assert_eq!(kinds(&run(body, shape, seed)), [], "seed {seed}: {body}");
    }
}

/// Under every seed something of the kind is found.
#[track_caller]
fn found(body: &str, shape: Shape, kind: FindingKind) {
    caught(|seed| run(body, shape, seed), kind);
}

/// The finding of this kind, under the first seed that has one.
#[track_caller]
fn first(body: &str, shape: Shape, kind: FindingKind) -> Finding {
    let all = (0..6).flat_map(|seed| match run(body, shape, seed) {
        Ok(report) => report.findings,
        Err(fault) => fault.findings.into_iter().chain([*fault.cause]).collect(),
    });
    let mut all = all.filter(|finding| finding.kind == kind);
    all.next().unwrap_or_else(|| panic!("no {kind:?}: {body}"))
}

const ONE_WARP: Shape = (1, 32, 1);
const TWO_WARPS: Shape = (1, 64, 1);
const TWO_BLOCKS: Shape = (2, 32, 1);
const ONE_CLUSTER: Shape = (2, 32, 2);

/// The first thread of one side writes word 0, fences and sets the flag in word 1; that of
/// the other waits for the flag, fences and reads word 0. `side` is 0 for the writer.
fn handed_over(side: &str, [fence, set, get, fence_after]: [&str; 4]) -> String {
    format!(
        "{side}; and.b32 %r6, %r1, 31; setp.ne.u32 %p1, %r6, 0; @%p1 bra END; \
         setp.ne.u32 %p2, %r5, 0; @%p2 bra READER; \
         st.global.u32 [%rd1], 7; {fence} {set} [%rd1+4], 1; bra END; \
         READER: {get} %r7, [%rd1+4]; setp.eq.u32 %p3, %r7, 0; @%p3 bra READER; \
         {fence_after} ld.global.u32 %r8, [%rd1]; st.global.u32 [%rd1+8], %r8; END:"
    )
}

const WARPS: &str = "shr.u32 %r5, %r1, 5";
const BLOCKS: &str = "mov.u32 %r5, %r2";

fn by_fences(side: &str, fence: &str, set: &str, get: &str, fence_after: &str) -> String {
    let set = format!("st.relaxed.{set}.global.u32");
    let get = format!("ld.relaxed.{get}.global.u32");
    let fences = [fence, fence_after].map(|scope| format!("fence.acq_rel.{scope};"));
    handed_over(side, [&fences[0], &set, &get, &fences[1]])
}

fn by_orders(side: &str, set: &str, get: &str) -> String {
    let set = format!("st.release.{set}.global.u32");
    let get = format!("ld.acquire.{get}.global.u32");
    handed_over(side, ["", &set, &get, ""])
}

#[test]
fn what_reaches_the_other_warp_of_a_block() {
    for scope in ["cta", "cluster", "gpu", "sys"] {
        quiet(&by_orders(WARPS, scope, scope), TWO_WARPS);
        quiet(&by_fences(WARPS, scope, scope, scope, scope), TWO_WARPS);
        quiet(&by_fences(WARPS, scope, "gpu", "cta", scope), TWO_WARPS);
        quiet(&by_fences(WARPS, "gpu", scope, scope, "cta"), TWO_WARPS);
    }
    let relaxed = handed_over(
        WARPS,
        ["", "st.relaxed.gpu.global.u32", "ld.relaxed.gpu.global.u32", ""],
    );
    found(&relaxed, TWO_WARPS, FindingKind::GlobalRace);
}

#[test]
fn what_reaches_the_other_block_of_a_cluster() {
    for scope in ["cluster", "gpu", "sys"] {
        quiet(&by_orders(BLOCKS, scope, "cluster"), ONE_CLUSTER);
        quiet(&by_fences(BLOCKS, scope, "cluster", "gpu", scope), ONE_CLUSTER);
    }
    found(&by_orders(BLOCKS, "cta", "cluster"), ONE_CLUSTER, FindingKind::GlobalRace);
    found(&by_orders(BLOCKS, "cluster", "cta"), ONE_CLUSTER, FindingKind::GlobalRace);
    let narrow = by_fences(BLOCKS, "cta", "gpu", "gpu", "gpu");
    found(&narrow, ONE_CLUSTER, FindingKind::GlobalRace);
}

#[test]
fn what_reaches_another_cluster() {
    for scope in ["gpu", "sys"] {
        quiet(&by_orders(BLOCKS, scope, "gpu"), TWO_BLOCKS);
        quiet(&by_fences(BLOCKS, scope, "sys", "gpu", scope), TWO_BLOCKS);
    }
    for scope in ["cta", "cluster"] {
        // Any of the four, if it is too narrow, and then no two of them help.
        for n in 0..4 {
            let mut scopes = ["gpu"; 4];
            scopes[n] = scope;
            let [fence, set, get, after] = scopes;
            let body = by_fences(BLOCKS, fence, set, get, after);
            found(&body, TWO_BLOCKS, FindingKind::GlobalRace);
        }
        found(&by_orders(BLOCKS, scope, "gpu"), TWO_BLOCKS, FindingKind::GlobalRace);
        found(&by_orders(BLOCKS, "gpu", scope), TWO_BLOCKS, FindingKind::GlobalRace);
    }
}

#[test]
fn older_fences_of_memory() {
    let body = |fence: &str| {
        handed_over(
            BLOCKS,
            [fence, "red.global.add.u32", "ld.volatile.global.u32", "membar.gl;"],
        )
    };
    quiet(&body("membar.gl;"), TWO_BLOCKS);
    quiet(&body("membar.sys;"), TWO_BLOCKS);
    quiet(&body("fence.release.gpu;"), TWO_BLOCKS);
    found(&body("membar.cta;"), TWO_BLOCKS, FindingKind::GlobalRace);
    found(&body("fence.acquire.gpu;"), TWO_BLOCKS, FindingKind::GlobalRace);
    quiet(&body("membar.cta;").replace(BLOCKS, WARPS), TWO_WARPS);
}

/// Every block adds to a counter; the last one adds up what the others have left.
fn ticket(atomic: &str) -> String {
    format!(
        "add.u32 %r6, %r2, 1; mul.wide.u32 %rd4, %r2, 4; add.s64 %rd5, %rd1, %rd4; \
         setp.ne.u32 %p1, %r1, 0; @%p1 bra WAIT; st.global.u32 [%rd5+64], %r6; \
         {atomic} %r7, [%rd1], 1; st.shared.u32 [%r3], %r7; WAIT: bar.sync 0; \
         ld.shared.u32 %r7, [%r3]; setp.ne.u32 %p2, %r7, 3; @%p2 bra END; \
         ld.global.u32 %r8, [%rd1+64]; ld.global.u32 %r9, [%rd1+76]; add.u32 %r8, %r8, %r9; \
         @%p1 bra END; st.global.u32 [%rd1+4], %r8; END:"
    )
}

#[test]
fn a_ticket_for_the_last_block() {
    let shape = (4, 32, 1);
    quiet(&ticket("atom.acq_rel.gpu.global.add.u32"), shape);
    quiet(&ticket("atom.acq_rel.sys.global.inc.u32").replace("inc.u32", "add.u32"), shape);
    for order in ["acq_rel.cta", "acq_rel.cluster", "relaxed.gpu", "acquire.gpu"] {
        let body = ticket(&format!("atom.{order}.global.add.u32"));
        found(&body, shape, FindingKind::GlobalRace);
    }
    quiet(&ticket("atom.acq_rel.cluster.global.add.u32"), (4, 32, 4));
    // The counter itself is a race: atomics that do not include one another.
    let finding =
        first(&ticket("atom.acq_rel.cta.global.add.u32"), shape, FindingKind::GlobalRace);
    assert!(finding.detail.contains("scope"), "{finding}");
    assert!(finding.instruction.starts_with("atom"), "{finding}");
    assert!(finding.detail.contains(".cta"), "{finding}");
}

#[test]
fn atomics_of_several_scopes() {
    let body = |block: &str| {
        format!(
            "setp.eq.u32 %p1, %r2, 0; @%p1 red.relaxed.gpu.global.add.u32 [%rd1], 1; \
             @!%p1 red.relaxed.{block}.global.add.u32 [%rd1], 1;"
        )
    };
    quiet(&body("gpu"), TWO_BLOCKS);
    found(&body("cta"), TWO_BLOCKS, FindingKind::GlobalRace);
    quiet(&body("cluster"), ONE_CLUSTER);
    found(&body("cta"), ONE_CLUSTER, FindingKind::GlobalRace);
    found(&body("cluster"), TWO_BLOCKS, FindingKind::GlobalRace);
    // In one block every scope includes the other thread.
    quiet(&body("cta").replace("%p1, %r2, 0", "%p1, %r1, 3"), TWO_WARPS);
    // What is ordered otherwise does not need a scope.
    let ordered = handed_over(
        BLOCKS,
        [
            "red.relaxed.cta.global.add.u32 [%rd1+12], 1; fence.acq_rel.gpu;",
            "st.relaxed.gpu.global.u32",
            "ld.relaxed.gpu.global.u32",
            "fence.acq_rel.gpu; red.relaxed.cta.global.add.u32 [%rd1+12], 1;",
        ],
    );
    quiet(&ordered, TWO_BLOCKS);
}

/// Block 1 of a cluster writes into block 0's shared memory and arrives there; block 0
/// waits and reads.
fn remote_arrival(arrive: &str, wait: &str) -> String {
    format!(
        "setp.ne.u32 %p1, %r1, 0; @%p1 bra SKIP; mbarrier.init.shared.b64 [%r4], 1; SKIP: \
         barrier.cluster.arrive; barrier.cluster.wait; @%p1 bra END; \
         setp.eq.u32 %p2, %r2, 0; @%p2 bra READER; \
         mapa.shared::cluster.u32 %r5, %r3, 0; mapa.shared::cluster.u32 %r6, %r4, 0; \
         st.shared::cluster.u32 [%r5], 7; \
         mbarrier.arrive{arrive}.shared::cluster.b64 _, [%r6]; bra END; \
         READER: mbarrier.try_wait.parity{wait}.shared::cta.b64 %p3, [%r4], 0; \
         @!%p3 bra READER; ld.shared.u32 %r7, [%r3]; st.global.u32 [%rd1], %r7; \
         END: barrier.cluster.arrive; barrier.cluster.wait;"
    )
}

#[test]
fn arrivals_at_another_blocks_mbarrier() {
    for arrive in ["", ".release.cluster"] {
        for wait in ["", ".acquire.cluster"] {
            quiet(&remote_arrival(arrive, wait), ONE_CLUSTER);
        }
    }
    for (arrive, wait) in [
        (".release.cta", ".acquire.cluster"),
        (".release.cluster", ".acquire.cta"),
        (".relaxed.cluster", ""),
    ] {
        found(&remote_arrival(arrive, wait), ONE_CLUSTER, FindingKind::SharedRace);
    }
    // In one block the narrow scope is enough, also where there are others.
    let own = remote_arrival(".release.cta", ".acquire.cta")
        .replace("mapa.shared::cluster.u32 %r5, %r3, 0", "mov.u32 %r5, %r3")
        .replace("mapa.shared::cluster.u32 %r6, %r4, 0", "mov.u32 %r6, %r4")
        .replace(
            "@%p1 bra END;",
            "and.b32 %r9, %r1, 31; setp.ne.u32 %p4, %r9, 0; @%p4 bra END;",
        )
        .replace("%p2, %r2, 0", "%p2, %r1, 0");
    quiet(
        &own.replace("[%rd1], %r7", "[%rd3], %r7")
            .replace("st.global.u32 [%rd3], %r7;", ""),
        (2, 64, 2),
    );
}

/// Lane 0 writes word 0 and the others read it.
fn lanes(between: &str) -> String {
    format!(
        "setp.eq.u32 %p1, %r1, 0; @%p1 st.global.u32 [%rd1], 7; {between} \
         ld.global.u32 %r5, [%rd1]; st.global.u32 [%rd3+128], %r5;"
    )
}

#[test]
fn lanes_that_meet_in_global_memory() {
    let race = FindingKind::GlobalRace;
    for between in ["", "membar.gl;", "shfl.sync.bfly.b32 %r6, %r1, 1, 31, -1;"] {
        found(&lanes(between), ONE_WARP, race);
    }
    let finding = first(&lanes(""), ONE_WARP, race);
    assert_eq!(finding.instruction, "ld.global.u32");
    assert!(finding.detail.contains("lane 0 of this warp wrote it"), "{finding}");
    for between in ["bar.warp.sync -1;", "bar.sync 0;", "barrier.sync 1, 32;"] {
        quiet(&lanes(between), ONE_WARP);
    }
    // Read, then written by another lane.
    let reversed = |between: &str| {
        format!(
            "ld.global.u32 %r5, [%rd1]; st.global.u32 [%rd3+128], %r5; {between} \
             setp.eq.u32 %p1, %r1, 0; @%p1 st.global.u32 [%rd1], 7;"
        )
    };
    found(&reversed(""), ONE_WARP, race);
    quiet(&reversed("bar.warp.sync -1;"), ONE_WARP);
}

#[test]
fn a_lane_and_its_own_words() {
    // Written and read back; read and overwritten; twice in a row.
    quiet(
        "st.global.u32 [%rd3], %r1; ld.global.u32 %r5, [%rd3]; add.u32 %r5, %r5, 1; \
         st.global.u32 [%rd3], %r5; ld.global.u32 %r6, [%rd3]; st.global.u32 [%rd3], %r6;",
        TWO_WARPS,
    );
    // In vectors and halves.
    quiet(
        "mul.wide.u32 %rd4, %r1, 2; add.s64 %rd5, %rd1, %rd4; cvt.u16.u32 %h1, %r1; \
         add.u16 %h1, %h1, 1; st.global.u16 [%rd5], %h1; ld.global.u16 %h2, [%rd5]; \
         add.u16 %h2, %h2, 1; st.global.u16 [%rd5], %h2;",
        TWO_WARPS,
    );
    // All lanes read one word, which only a later kernel writes.
    quiet("ld.global.u32 %r5, [%rd1]; st.global.u32 [%rd3+128], %r5;", TWO_WARPS);
}

#[test]
fn lanes_that_store_to_one_word() {
    let race = FindingKind::GlobalRace;
    found("st.global.u32 [%rd1], %r1;", ONE_WARP, race);
    // The same value is fine, also to read back.
    let same = "st.global.u32 [%rd1], 7; ld.global.u32 %r5, [%rd1]; \
                st.global.u32 [%rd3+128], %r5;";
    quiet(same, ONE_WARP);
    found("st.shared.u32 [%r3], %r1;", ONE_WARP, FindingKind::SharedRace);
    quiet(
        &same
            .replace("global.u32 [%rd1]", "shared.u32 [%r3]")
            .replace("ld.global.u32 %r5, [%rd1]", "ld.shared.u32 %r5, [%r3]"),
        ONE_WARP,
    );
    // Relaxed stores do not race: one of the values remains.
    quiet("st.relaxed.gpu.global.u32 [%rd1], %r1;", TWO_BLOCKS);
    quiet("red.global.add.u32 [%rd1], %r1;", TWO_BLOCKS);
}

#[test]
fn lanes_that_hand_over_by_atomics() {
    // Each lane leaves a word, fences and counts; the lane that counts last reads them all.
    let body = |fence: &str| {
        format!(
            "add.u32 %r5, %r1, 1; st.global.u32 [%rd3+128], %r5; {fence} \
             atom.global.add.u32 %r6, [%rd1], 1; {fence} setp.ne.u32 %p1, %r6, 31; \
             @%p1 bra END; ld.global.u32 %r7, [%rd1+128]; ld.global.u32 %r8, [%rd1+252]; \
             add.u32 %r7, %r7, %r8; st.global.u32 [%rd1+4], %r7; END:"
        )
    };
    quiet(&body("membar.gl;"), ONE_WARP);
    quiet(&body("fence.acq_rel.cta;"), ONE_WARP);
    found(&body(""), ONE_WARP, FindingKind::GlobalRace);
}

#[test]
fn branches_do_not_order_lanes() {
    let body = |between: &str| {
        format!(
            "setp.lt.u32 %p1, %r1, 16; @!%p1 bra SECOND; st.global.u32 [%rd3+128], 7; \
             bra JOIN; SECOND: add.u32 %r5, %r1, 1; JOIN: {between} xor.b32 %r6, %r1, 16; \
             mul.wide.u32 %rd4, %r6, 4; add.s64 %rd5, %rd1, %rd4; \
             ld.global.u32 %r7, [%rd5+128]; st.global.u32 [%rd3+256], %r7;"
        )
    };
    found(&body(""), ONE_WARP, FindingKind::GlobalRace);
    quiet(&body("bar.warp.sync -1;"), ONE_WARP);
}

#[test]
fn a_warp_that_takes_places_together() {
    // One lane reserves places for its warp, and each lane fills one.
    quiet(
        "setp.eq.u32 %p1, %r1, 0; mov.u32 %r5, 0; and.b32 %r9, %r1, 31; \
         setp.eq.u32 %p1, %r9, 0; @%p1 atom.global.add.u32 %r5, [%rd1], 32; \
         shfl.sync.idx.b32 %r6, %r5, 0, 31, -1; add.u32 %r6, %r6, %r9; \
         mul.wide.u32 %rd4, %r6, 4; add.s64 %rd5, %rd1, %rd4; st.global.u32 [%rd5+128], %r1;",
        (2, 64, 1),
    );
}

/// Threads at `stride` bytes store `ty` elements; `%h1` is not zero and differs.
fn halves(ty: &str, stride: u32, number: &str) -> String {
    format!(
        "{number}; add.u32 %r9, %r8, 1; cvt.u16.u32 %h1, %r9; mul.wide.u32 %rd4, %r8, {stride}; \
         add.s64 %rd5, %rd1, %rd4; st.global.{ty} [%rd5], %h1;"
    )
}

#[test]
fn bytes_of_one_word() {
    let race = FindingKind::GlobalRace;
    // Neighbours in one word, by lanes, warps (thread 31 and 32) and blocks.
    let thread = "mov.u32 %r8, %r1";
    let block = "mov.u32 %r8, %r2";
    for (ty, bytes) in [("u16", 2), ("u8", 1)] {
        quiet(&halves(ty, bytes, thread), (1, 96, 1));
        quiet(&halves(ty, bytes, block), (9, 1, 1));
        // The same bytes.
        found(&halves(ty, 0, thread), ONE_WARP, race);
        found(&halves(ty, 0, "shr.u32 %r8, %r1, 5"), TWO_WARPS, race);
        found(&halves(ty, 0, block), (2, 1, 1), race);
    }
    // Elements that overlap: a word's second half, and the whole word.
    let overlap = "setp.eq.u32 %p1, %r2, 0; add.u32 %r8, %r2, 0x10001; cvt.u16.u32 %h1, %r8; \
                   @%p1 st.global.u32 [%rd1], %r8; @!%p1 st.global.u16 [%rd1+2], %h1;";
    found(overlap, (2, 1, 1), race);
    quiet(&overlap.replace("[%rd1+2]", "[%rd1+4]"), (2, 1, 1));
}

#[test]
fn halves_read_by_one_and_written_by_another() {
    // In place: each block doubles its own half of the words.
    let body = |offset: u32| {
        format!(
            "mul.wide.u32 %rd4, %r2, 2; add.s64 %rd5, %rd1, %rd4; \
             ld.global.u16 %h1, [%rd5+{offset}]; add.u16 %h1, %h1, 1; \
             st.global.u16 [%rd5], %h1;"
        )
    };
    quiet(&body(0), (8, 1, 1));
    found(&body(2), (8, 1, 1), FindingKind::GlobalRace);
    // Several blocks read the first half, and one writes the second.
    let many = "ld.global.u16 %h1, [%rd1]; setp.eq.u32 %p1, %r2, 2; add.u16 %h1, %h1, 5; \
                @%p1 st.global.u16 [%rd1+2], %h1;";
    quiet(many, (4, 1, 1));
    let same = many.replace("[%rd1+2], %h1", "[%rd1], %h1");
    let seen = (0..8).flat_map(|seed| kinds(&run(&same, (4, 1, 1), seed)));
    assert!(seen.into_iter().any(|kind| kind == FindingKind::GlobalRace));
}

#[test]
fn reads_through_the_read_only_path() {
    let body = |load: &str, at: u32| {
        format!(
            "{load} %r5, [%rd3]; add.u32 %r5, %r5, 1; bar.sync 0; \
             st.global.u32 [%rd3+{at}], %r5;"
        )
    };
    let kind = FindingKind::ReadOnlyWritten;
    for load in ["ld.global.nc.u32", "ld.global.nc.L1::no_allocate.L2::128B.u32"] {
        quiet(&body(load, 256), TWO_WARPS);
        found(&body(load, 0), TWO_WARPS, kind);
    }
    quiet(&body("ld.global.u32", 0), TWO_WARPS);
    let finding = first(&body("ld.global.nc.u32", 0), ONE_WARP, kind);
    assert_eq!(finding.instruction, "st.global.u32");
    assert!(finding.detail.contains("lane 0 of this warp reads it"), "{finding}");
    assert!(finding.detail.contains("PTX line"), "{finding}");
    // Written first, in order.
    let after =
        "st.global.u32 [%rd3], 7; bar.sync 0; ld.global.nc.v2.u32 {%r5, %r6}, [%rd1];";
    found(after, TWO_WARPS, kind);
    assert_eq!(first(after, ONE_WARP, kind).instruction, "ld.global.nc.v2.u32");
    quiet(&after.replace("[%rd1];", "[%rd1+512];"), TWO_WARPS);
    // The other half of a word.
    let half = "mov.u16 %h1, 3; st.global.u16 [%rd1+2], %h1; ld.global.nc.u16 %h2, [%rd1];";
    quiet(half, (1, 1, 1));
    found(&half.replace("+2]", "]"), (1, 1, 1), kind);
}

#[test]
fn reductions_at_barriers() {
    // Warp 0 and warp 1 meet at barrier 1, each with an instruction of its own.
    let body = |a: &str, b: &str| {
        format!(
            "setp.ge.u32 %p1, %r1, 32; setp.eq.u32 %p2, %r1, 5; @%p1 bra SECOND; {a} bra END; \
             SECOND: {b} END:"
        )
    };
    let (sync, arrive) = ("bar.sync 1, 64;", "bar.arrive 1, 64;");
    let and = "bar.red.and.pred %p3, 1, 64, %p2;";
    let or = "bar.red.or.pred %p3, 1, 64, %p2;";
    let count = "bar.red.popc.u32 %r5, 1, 64, %p2;";
    for (a, b) in [(sync, sync), (sync, arrive), (and, and), (or, or), (count, count)] {
        quiet(&body(a, b), TWO_WARPS);
    }
    let kind = FindingKind::BarrierDivergence;
    for (a, b) in [(and, sync), (count, arrive), (and, or), (count, and)] {
        found(&body(a, b), TWO_WARPS, kind);
    }
    let finding = first(&body(and, sync), TWO_WARPS, kind);
    assert!(finding.detail.contains("bar.red.and") && finding.detail.contains("bar.sync"));
    // One after the other is fine.
    quiet(&format!("setp.eq.u32 %p2, %r1, 5; {and} {sync} {count} {sync}"), TWO_WARPS);
}

#[test]
fn matrices_of_a_part_of_a_warp() {
    let mma = "mov.f32 %f1, 0f00000000; mov.u32 %r5, 0; \
               mma.sync.aligned.m16n8k8.row.col.f32.f16.f16.f32 \
               {%f2, %f3, %f4, %f5}, {%r5, %r5}, {%r5}, {%f1, %f1, %f1, %f1};";
    let ldmatrix = "st.shared.u32 [%r3], 0; bar.warp.sync -1; \
                    ldmatrix.sync.aligned.m8n8.x1.shared.b16 {%r6}, [%r3];";
    let movmatrix = "mov.u32 %r5, 0; movmatrix.sync.aligned.m8n8.trans.b16 %r6, %r5;";
    let stmatrix = "mov.u32 %r5, 0; and.b32 %r7, %r1, 7; mad.lo.u32 %r7, %r7, 16, %r3; \
                    stmatrix.sync.aligned.m8n8.x1.shared.b16 [%r7], {%r5};";
    let returned = "setp.ge.u32 %p1, %r1, 24; @%p1 ret; ";
    let name = ["mma.", "ldmatrix.", "movmatrix.", "stmatrix."];
    for (body, name) in [mma, ldmatrix, movmatrix, stmatrix].into_iter().zip(name) {
        quiet(body, ONE_WARP);
        let kind = FindingKind::BadOperand;
        let body = format!("{returned}{body}");
        found(&body, ONE_WARP, kind);
        let finding = first(&body, ONE_WARP, kind);
        assert!(finding.instruction.starts_with(name), "{finding}");
        assert!(finding.detail.contains("8 have returned"), "{finding}");
    }
    // The others wait elsewhere: they never meet.
    let parted =
        format!("setp.ge.u32 %p1, %r1, 16; @%p1 bra WAIT; {mma} WAIT: bar.warp.sync -1;");
    found(&parted, ONE_WARP, FindingKind::BarrierDivergence);
}

/// Thread 0 arrives alone, `rounds` times, and tests the token of the first.
fn tokens(rounds: usize) -> String {
    let arrive = "mbarrier.arrive.shared.b64 %rd6, [%r4]; ".repeat(rounds);
    format!(
        "mbarrier.init.shared.b64 [%r4], 1; mbarrier.arrive.shared.b64 %rd5, [%r4]; {arrive} \
         WAIT: mbarrier.test_wait.shared.b64 %p1, [%r4], %rd5; @!%p1 bra WAIT;"
    )
}

#[test]
fn tokens_of_an_earlier_phase() {
    quiet(&tokens(0), (1, 1, 1));
    found(&tokens(1), (1, 1, 1), FindingKind::Mbarrier);
    let finding = first(&tokens(2), (1, 1, 1), FindingKind::Mbarrier);
    assert!(finding.detail.contains("token of phase 0"), "{finding}");
    assert!(finding.detail.contains("in phase 3"), "{finding}");
    assert!(finding.instruction.starts_with("mbarrier.test_wait"), "{finding}");
}

/// A loop of `count` rounds.
fn spin(label: &str, count: u32) -> String {
    format!(
        "mov.u32 %r5, 0; {label}: add.u32 %r5, %r5, 1; setp.lt.u32 %p4, %r5, {count}; \
         @%p4 bra {label};"
    )
}

/// Warp 0 completes three phases of an mbarrier, the later two after a while; warp 1 waits
/// for each by its parity, but is late after the first. With `back`, warp 0 waits for warp 1
/// after each phase.
fn parities(back: &str) -> String {
    let phase = format!("mbarrier.arrive.shared.b64 _, [%r4]; {back}");
    let wait = |n: u32| {
        format!(
            "W{n}: mbarrier.try_wait.parity.shared.b64 %p3, [%r4], {}; @!%p3 bra W{n}; {back}",
            n % 2
        )
    };
    let (early, late) = (spin("EARLY", 1500), spin("LATE", 4000));
    format!(
        "setp.ne.u32 %p1, %r1, 0; @%p1 bra INIT; mbarrier.init.shared.b64 [%r4], 1; \
         INIT: bar.sync 0; setp.ge.u32 %p1, %r1, 32; @%p1 bra WAITER; \
         setp.ne.u32 %p2, %r1, 0; @%p2 bra REST; {phase} {early} {phase} {phase} bra END; \
         REST: {} bra END; WAITER: {} {late} {} {} END:",
        back.repeat(3),
        wait(0),
        wait(1),
        wait(2),
    )
}

#[test]
fn a_parity_that_has_come_round_again() {
    quiet(&parities("barrier.sync 1, 64;"), TWO_WARPS);
    // Warp 0 has completed three phases before warp 1 asks for the second.
    let finding = first(&parities(""), TWO_WARPS, FindingKind::Mbarrier);
    assert!(finding.detail.contains("the parity of phase 1"), "{finding}");
    assert!(finding.detail.contains("in phase 3"), "{finding}");
    // A warp that was told of the phases between may wait for the next of the same parity.
    let told = "mbarrier.init.shared.b64 [%r4], 1; ";
    let told = format!(
        "setp.ne.u32 %p1, %r1, 0; @%p1 bra INIT; {told} INIT: bar.sync 0; \
         setp.ge.u32 %p2, %r1, 32; @%p1 bra FIRST; mbarrier.arrive.shared.b64 _, [%r4]; \
         FIRST: @!%p2 bra MORE; W0: mbarrier.try_wait.parity.shared.b64 %p3, [%r4], 0; \
         @!%p3 bra W0; MORE: @%p1 bra TOLD; mbarrier.arrive.shared.b64 _, [%r4]; \
         mbarrier.arrive.shared.b64 _, [%r4]; TOLD: bar.sync 0; \
         @%p1 bra LAST; mbarrier.arrive.shared.b64 _, [%r4]; LAST: @!%p2 bra END; \
         W3: mbarrier.try_wait.parity.shared.b64 %p3, [%r4], 1; @!%p3 bra W3; END:"
    );
    quiet(&told, TWO_WARPS);
}

#[test]
fn planted_scopes_in_a_compiled_kernel() {
    const SYNC: &str = include_str!("ptx/sync.ptx");
    let at = SYNC.find(".entry publish").unwrap();
    let launch = |text: &str, seed: u64| {
        let module = Module::parse(text).unwrap();
        let mut memory = Memory::new();
        let counter = memory.alloc(4, "counter");
        memory.write(counter, &[0; 4]);
        let parts = memory.alloc(4 * 64 * 10, "parts");
        let out = memory.alloc(256, "out");
        let launch = Launch {
            grid: [10, 1, 1],
            block: [64, 1, 1],
            params: Params::new().u64(counter).u64(parts).u64(out).build(),
            seed,
            ..Launch::new("publish")
        };
        module.launch(&mut memory, &launch)
    };
    for seed in 0..4 {
        assert_eq!(kinds(&launch(SYNC, seed)), []);
    }
    let narrow = replace(&SYNC[at..], "acq_rel.gpu", 0, "acq_rel.cta");
    let text = format!("{}{narrow}", &SYNC[..at]);
    caught(|seed| launch(&text, seed), FindingKind::GlobalRace);
}

//! What one lane of a warp publishes: what it did itself, and what the others did before they
//! were synchronised with it. Each mistake has its twin without it.

mod common;

use common::{caught, kinds};
use ptxvm::{Fault, FindingKind, Launch, Memory, Module, Params, Report};

/// A kernel around `body`, with `%r1` the thread, `%r2` its lane, `%rd1` an array of 1024
/// words that are 0, `%rd3` the lane's word of it, `%r3` shared memory of 1024 bytes, `%r5`
/// the lane's word of it and `%r4` an mbarrier of `count` arrivals. `%p1` is set in lane 0,
/// and warp 1 begins at WARP1.
fn text(count: u32, warp0: &str, warp1: &str) -> String {
    let body = format!(
        "setp.ne.u32 %p2, %r1, 0; @%p2 bra MADE; mbarrier.init.shared.b64 [%r4], {count}; \
         MADE: bar.sync 0; setp.eq.u32 %p1, %r2, 0; setp.gt.u32 %p2, %r1, 31; \
         @%p2 bra WARP1; {warp0} bra END; WARP1: {warp1} END:"
    );
    format!(
        ".version 8.6\n.target sm_90a\n.address_size 64\n\
         .visible .entry k(.param .u64 x)\n{{\n.reg .pred %p<8>;\n.reg .b16 %h<8>;\n\
         .reg .b32 %r<32>;\n.reg .b64 %rd<16>;\n\
         .shared .align 128 .b8 s[1024];\n.shared .align 8 .b64 bar;\n\
         ld.param.u64 %rd1, [x];\nmov.u32 %r1, %tid.x;\nand.b32 %r2, %r1, 31;\n\
         mov.u32 %r3, s;\nmov.u32 %r4, bar;\nshl.b32 %r5, %r2, 2;\nadd.u32 %r5, %r3, %r5;\n\
         mul.wide.u32 %rd2, %r2, 4;\nadd.s64 %rd3, %rd1, %rd2;\n{}\nret;\n}}\n",
        body.replace(';', ";\n")
    )
}

fn run(text: &str, seed: u64) -> Result<Report, Fault> {
    let module = Module::parse(text).unwrap_or_else(|error| panic!("{error}"));
    let mut memory = Memory::new();
    let x = memory.alloc(4096, "x");
    memory.write(x, &[0; 4096]);
    let params = Params::new().u64(x).build();
    let launch = Launch { block: [64, 1, 1], params, seed, ..Launch::new("k") };
    module.launch(&mut memory, &launch)
}

/// Under no seed anything is found.
#[track_caller]
fn quiet(text: &str) {
    for seed in 0..6 {
        assert_eq!(kinds(&run(text, seed)), [], "seed {seed}: {text}");
    }
}

/// Under every seed something of the kind is found, at an instruction of this name.
#[track_caller]
fn found(text: &str, kind: FindingKind, instruction: &str) {
    caught(|seed| run(text, seed), kind);
    let findings = run(text, 0).map_or_else(|fault| fault.findings, |done| done.findings);
    let of_kind: Vec<_> = findings.iter().filter(|found| found.kind == kind).collect();
    assert!(of_kind.iter().any(|found| found.instruction == instruction), "{of_kind:?}");
}

const RACE: FindingKind = FindingKind::SharedRace;

/// Warp 1 waits for the mbarrier, and every lane of it reads a word.
const READER: &str = "AGAIN: mbarrier.try_wait.parity.shared.b64 %p3, [%r4], 0; \
     @!%p3 bra AGAIN; ld.shared.u32 %r7, [%r5]; st.global.u32 [%rd3], %r7;";

/// Warp 1 waits for the mbarrier, and every lane of it writes a word.
const WRITER: &str = "AGAIN: mbarrier.try_wait.parity.shared.b64 %p3, [%r4], 0; \
     @!%p3 bra AGAIN; st.shared.u32 [%r5], %r1;";

const ARRIVE: &str = "@%p1 mbarrier.arrive.shared.b64 _, [%r4];";

/// What lanes have to execute together.
const GATHERS: [&str; 8] = [
    "bar.warp.sync -1;",
    "shfl.sync.bfly.b32 %r6, %r1, 1, 31, -1;",
    "vote.sync.ballot.b32 %r6, %p1, -1;",
    "match.any.sync.b32 %r6, %r1, -1;",
    "redux.sync.add.u32 %r6, %r1, -1;",
    "elect.sync _|%p4, -1;",
    "wgmma.fence.sync.aligned;",
    "bar.sync 1, 32;",
];

#[test]
fn what_every_lane_writes_before_one_arrives() {
    let body = |between: &str| {
        text(1, &format!("st.shared.u32 [%r5], %r1; {between} {ARRIVE}"), READER)
    };
    for between in ["", "activemask.b32 %r6;", "fence.acq_rel.cta;", "membar.gl;"] {
        found(&body(between), RACE, "ld.shared.u32");
    }
    // That lanes meet again after a branch is no synchronisation.
    found(&body("@%p1 bra MEET; add.u32 %r6, %r1, 1; MEET:"), RACE, "ld.shared.u32");
    for between in GATHERS {
        quiet(&body(between));
    }
    // What comes after the lanes were synchronised is not part of it.
    for before in GATHERS {
        let warp0 = format!("{before} st.shared.u32 [%r5], %r1; {ARRIVE}");
        found(&text(1, &warp0, READER), RACE, "ld.shared.u32");
    }
}

#[test]
fn what_every_lane_reads_before_one_arrives() {
    let body = |address: &str, between: &str| {
        let warp0 = format!(
            "st.shared.u32 [%r5], 0; bar.warp.sync -1; ld.shared.u32 %r7, [{address}]; \
             st.global.u32 [%rd3], %r7; {between} {ARRIVE}"
        );
        text(1, &warp0, WRITER)
    };
    // Their own words, and one word that all of them read.
    for address in ["%r5", "%r3"] {
        found(&body(address, ""), RACE, "st.shared.u32");
        quiet(&body(address, "bar.warp.sync -1;"));
    }
    // What ldmatrix reads is read by all lanes together.
    let matrix = |[before, after]: [&str; 2]| {
        let warp0 = format!(
            "st.shared.u32 [%r5], 0; bar.warp.sync -1; {before} \
             ldmatrix.sync.aligned.m8n8.x1.shared.b16 {{%r7}}, [%r3]; {after}"
        );
        text(1, &warp0, WRITER)
    };
    quiet(&matrix(["", ARRIVE]));
    caught(|seed| run(&matrix([ARRIVE, ""]), seed), RACE);
}

#[test]
fn lanes_that_arrive_for_themselves() {
    let arrive = "mbarrier.arrive.shared.b64 _, [%r4];";
    let all = format!("st.shared.u32 [%r5], %r1; {arrive}");
    quiet(&text(32, &all, READER));
    // Half of the warp does, and so does everything that it is about.
    let half = "setp.gt.u32 %p4, %r2, 15; @%p4 bra SKIP; ";
    let reader = READER.replace("ld.shared", "@!%p4 ld.shared");
    let reader = format!("setp.gt.u32 %p4, %r2, 15; mov.u32 %r7, 0; {reader}");
    quiet(&text(16, &format!("{half} {all} SKIP:"), &reader));
    let shared = format!("{half} ld.shared.u32 %r6, [%r3+512]; {all} SKIP:");
    let writer = WRITER.replace("[%r5]", "[%r3+512]").replace("%r1;", "7;");
    let init = "@%p1 st.shared.u32 [%r3+512], 1; bar.warp.sync -1;";
    quiet(&text(16, &format!("{init} {shared}"), &writer));
    // All lanes write, and only half of them arrive.
    let warp0 = format!("st.shared.u32 [%r5], %r1; {half} {arrive} SKIP:");
    found(&text(16, &warp0, READER), RACE, "ld.shared.u32");
    let synchronised = warp0.replacen("%r1;", "%r1; bar.warp.sync -1;", 1);
    quiet(&text(16, &synchronised, READER));
}

/// Every lane of warp 0 writes a word of global memory, and a flag follows.
fn flagged(release: &str) -> String {
    let warp0 = format!("st.global.u32 [%rd3+256], %r1; {release}");
    let warp1 = "AGAIN: ld.acquire.gpu.global.u32 %r7, [%rd1]; setp.eq.u32 %p3, %r7, 0; \
                 @%p3 bra AGAIN; ld.global.u32 %r8, [%rd3+256]; st.global.u32 [%rd3+512], %r8;";
    text(1, &warp0, warp1)
}

#[test]
fn flags_in_global_memory() {
    let (race, sync) = (FindingKind::GlobalRace, "bar.warp.sync -1;");
    for set in [
        "@%p1 st.release.gpu.global.u32 [%rd1], 1;",
        "@%p1 red.release.gpu.global.add.u32 [%rd1], 1;",
        "@%p1 fence.acq_rel.gpu; @%p1 st.relaxed.gpu.global.u32 [%rd1], 1;",
    ] {
        found(&flagged(set), race, "ld.global.u32");
        quiet(&flagged(&format!("{sync} {set}")));
    }
    // Every lane fences, but that is not ordered before the flag of lane 0.
    let (fence, set) = ("membar.gl;", "@%p1 st.relaxed.gpu.global.u32 [%rd1], 1;");
    found(&flagged(&format!("{fence} {set}")), race, "ld.global.u32");
    quiet(&flagged(&format!("{fence} {sync} {set}")));
    // Lane 5 hands what it did to lane 0, which publishes both.
    let only = "setp.eq.u32 %p4, %r2, 5; @%p4 st.release.gpu.global.u32 [%rd1+1024], 1; \
                @!%p1 bra OVER; WAIT: ld.acquire.gpu.global.u32 %r6, [%rd1+1024]; \
                setp.eq.u32 %p5, %r6, 0; @%p5 bra WAIT; \
                st.release.gpu.global.u32 [%rd1], 1; OVER:";
    let handed = flagged(only)
        .replace(
            "st.global.u32 [%rd3+256], %r1;",
            "setp.eq.u32 %p4, %r2, 5; \
                 @%p4 st.global.u32 [%rd3+256], %r1;",
        )
        .replace("[%rd3+256];", "[%rd1+276];");
    quiet(&handed);
    let kept = handed
        .replace("setp.eq.u32 %p5, %r6, 0", "setp.ne.u32 %p5, %r6, %r6")
        .replace("ld.acquire.gpu.global.u32 %r6", "ld.relaxed.gpu.global.u32 %r6");
    found(&kept, race, "ld.global.u32");
}

#[test]
fn strong_stores_publish_each_for_its_lane() {
    let body = |between: &str| {
        let warp0 = format!(
            "st.global.u32 [%rd3+256], %r1; {between} st.release.gpu.global.u32 [%rd3], 1;"
        );
        // Every lane of warp 1 waits for the flag of lane 0, or of its own.
        let warp1 = "AGAIN: ld.acquire.gpu.global.u32 %r7, [%rd1]; \
                     setp.eq.u32 %p3, %r7, 0; @%p3 bra AGAIN; \
                     ld.global.u32 %r8, [%rd3+256]; st.global.u32 [%rd3+512], %r8;";
        text(1, &warp0, warp1)
    };
    found(&body(""), FindingKind::GlobalRace, "ld.global.u32");
    quiet(&body("bar.warp.sync -1;"));
    quiet(&body("").replace("u32 %r7, [%rd1]", "u32 %r7, [%rd3]"));
}

#[test]
fn one_lanes_proxy_fence() {
    let body = |fence: &str| {
        let warp0 = format!(
            "st.shared.u32 [%r5], %r1; {fence} bar.warp.sync -1; \
             @%p1 cp.async.bulk.global.shared::cta.bulk_group [%rd1], [%r3], 128; \
             @%p1 cp.async.bulk.commit_group; @%p1 cp.async.bulk.wait_group 0;"
        );
        text(1, &warp0, "")
    };
    let missing = FindingKind::MissingProxyFence;
    let copy = "cp.async.bulk.global.shared::cta.bulk_group";
    found(&body("@%p1 fence.proxy.async.shared::cta;"), missing, copy);
    quiet(&body("bar.warp.sync -1; @%p1 fence.proxy.async.shared::cta;"));
    quiet(&body("fence.proxy.async.shared::cta;"));
}

#[test]
fn one_lanes_proxy_fence_of_global_memory() {
    let body = |fence: &str| {
        let warp0 = format!(
            "st.global.u32 [%rd3], %r1; {fence} bar.warp.sync -1; \
             @%p1 mbarrier.arrive.expect_tx.shared.b64 _, [%r4], 128; \
             @%p1 cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes \
             [%r3], [%rd1], 128, [%r4]; \
             AGAIN: mbarrier.try_wait.parity.shared.b64 %p3, [%r4], 0; @!%p3 bra AGAIN;"
        );
        text(1, &warp0, "")
    };
    let missing = FindingKind::MissingProxyFence;
    let copy = "cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes";
    found(&body("@%p1 fence.proxy.async;"), missing, copy);
    // The first word of every sector was fenced, the others were not, although the lanes
    // converged since.
    let firsts = "and.b32 %r8, %r2, 7; setp.eq.u32 %p5, %r8, 0; @%p5 fence.proxy.async;";
    found(&body(firsts), missing, copy);
    quiet(&body("bar.warp.sync -1; @%p1 fence.proxy.async;"));
    quiet(&body("fence.proxy.async;"));
}

//! Planted bugs: a correct kernel with one thing removed or changed, and what the checks
//! must find.

mod common;

use common::{caught, kinds, replace};
use ptxvm::{Fault, FindingKind, Launch, Memory, Module, Params, Report};

const BASIC: &str = include_str!("ptx/basic.ptx");
const GEMM: &str = include_str!("ptx/gemm.ptx");

fn gemm(text: &str, seed: u64) -> Result<Report, Fault> {
    let module = Module::parse(text).unwrap();
    let (m, n, k) = (64usize, 64usize, 160usize);
    let mut memory = Memory::new();
    let tensor = |memory: &mut Memory, elements: usize, name: &str| {
        let address = memory.alloc(2 * elements as u64, name);
        let bytes: Vec<u8> = (0..2 * elements).map(|i| (i * 7 % 61) as u8).collect();
        memory.write(address, &bytes);
        address
    };
    let (a, b) = (tensor(&mut memory, m * k, "a"), tensor(&mut memory, n * k, "b"));
    let c = memory.alloc(4 * (m * n) as u64, "c");
    let params = Params::new().u64(a).u64(b).u64(c);
    let launch = Launch {
        block: [128, 1, 1],
        shared_bytes: 3 * 8192,
        params: params.i32(m as i32).i32(n as i32).i32(k as i32).u32(0).build(),
        seed,
        ..Launch::new("gemm")
    };
    module.launch(&mut memory, &launch)
}

fn last_block(text: &str, seed: u64) -> Result<Report, Fault> {
    let module = Module::parse(text).unwrap();
    let mut memory = Memory::new();
    let word = |memory: &mut Memory, count: u64, name: &str| {
        let address = memory.alloc(4 * count, name);
        memory.write(address, &vec![0; 4 * count as usize]);
        address
    };
    let x = word(&mut memory, 32 * 20, "x");
    let partial = memory.alloc(80, "partial");
    let counter = word(&mut memory, 1, "counter");
    let out = memory.alloc(4, "out");
    let launch = Launch {
        grid: [20, 1, 1],
        block: [32, 1, 1],
        params: Params::new().u64(x).u64(partial).u64(counter).u64(out).build(),
        seed,
        ..Launch::new("last_block")
    };
    module.launch(&mut memory, &launch)
}

fn transpose(text: &str, seed: u64) -> Result<Report, Fault> {
    let module = Module::parse(text).unwrap();
    let (mut memory, n) = (Memory::new(), 50u64);
    let x = memory.alloc(4 * n * n, "x");
    memory.write(x, &(0..4 * n * n).map(|i| i as u8).collect::<Vec<_>>());
    let y = memory.alloc(4 * n * n, "y");
    let launch = Launch {
        grid: [2, 2, 1],
        block: [32, 8, 1],
        shared_bytes: 33 * 32 * 4,
        params: Params::new().u64(x).u64(y).i32(n as i32).build(),
        seed,
        ..Launch::new("transpose")
    };
    module.launch(&mut memory, &launch)
}

#[test]
fn nothing_is_found_in_the_originals() {
    for seed in 0..4 {
        assert_eq!(kinds(&gemm(GEMM, seed)), []);
        assert_eq!(kinds(&last_block(BASIC, seed)), []);
        assert_eq!(kinds(&transpose(BASIC, seed)), []);
    }
}

#[test]
fn a_wait_for_one_group_fewer() {
    let text = replace(GEMM, "cp.async.wait_group 1;", 0, "cp.async.wait_group 2;");
    caught(|seed| gemm(&text, seed), FindingKind::AsyncRace);
}

#[test]
fn no_wait_at_all() {
    let text = replace(GEMM, "cp.async.wait_group 1;", 0, "");
    caught(|seed| gemm(&text, seed), FindingKind::AsyncRace);
}

#[test]
fn no_barrier_after_the_wait() {
    let text = replace(GEMM, "bar.sync \t0;", 0, "");
    caught(|seed| gemm(&text, seed), FindingKind::SharedRace);
}

#[test]
fn no_commit() {
    let count = GEMM.matches("cp.async.commit_group;").count();
    let text = replace(GEMM, "cp.async.commit_group;", count - 1, "");
    caught(|seed| gemm(&text, seed), FindingKind::AsyncRace);
}

#[test]
fn no_fence_before_publishing() {
    let text = replace(BASIC, "membar.gl;", 0, "");
    caught(|seed| last_block(&text, seed), FindingKind::GlobalRace);
}

#[test]
fn no_fence_after_the_counter() {
    let text = replace(BASIC, "membar.gl;", 1, "");
    caught(|seed| last_block(&text, seed), FindingKind::GlobalRace);
}

#[test]
fn a_plain_counter() {
    let atom = "atom.global.add.u32";
    let at = BASIC.find(atom).expect("an atomic");
    let line = BASIC[at..].split(';').next().unwrap();
    let (d, address) = line[atom.len()..].trim().split_once(", ").unwrap();
    let address = address.split(", 1").next().unwrap();
    let plain = format!(
        "ld.global.u32 {d}, {address}; add.s32 {d}, {d}, 1; st.global.u32 {address}, {d}; \
         add.s32 {d}, {d}, -1"
    );
    let text = BASIC.replace(line, &plain);
    caught(|seed| last_block(&text, seed), FindingKind::GlobalRace);
}

#[test]
fn no_barrier_in_the_transpose() {
    let at = BASIC.find(".entry transpose").unwrap();
    let tail = replace(&BASIC[at..], "bar.sync \t0;", 0, "");
    let text = format!("{}{tail}", &BASIC[..at]);
    caught(|seed| transpose(&text, seed), FindingKind::SharedRace);
}

#[test]
fn a_dropped_bounds_check() {
    let at = BASIC.find(".entry transpose").unwrap();
    let tail = BASIC[at..].replace("setp.ge.s32", "setp.lt.s32");
    let text = format!("{}{tail}", &BASIC[..at]);
    for seed in 0..4 {
        assert!(!kinds(&transpose(&text, seed)).is_empty());
    }
}

/// A kernel of one block around `body`, with `%r1` the thread, `%rd1` an array of
/// `x` and `s` 4096 bytes of shared memory.
fn snippet(body: &str) -> String {
    format!(
        ".version 8.0\n.target sm_90a\n.address_size 64\n\
         .visible .entry k(.param .u64 x)\n{{\n.reg .pred %p<8>;\n.reg .b32 %r<32>;\n\
         .reg .b64 %rd<16>;\n.shared .align 128 .b8 s[4096];\n\
         ld.param.u64 %rd1, [x];\nmov.u32 %r1, %tid.x;\nmov.u32 %r2, s;\n\
         mad.lo.u32 %r3, %r1, 4, %r2;\nmul.wide.u32 %rd2, %r1, 4;\n\
         add.s64 %rd3, %rd1, %rd2;\n{body}\nret;\n}}\n"
    )
}

fn run(body: &str, threads: u32, seed: u64) -> Result<Report, Fault> {
    let module = Module::parse(&snippet(body)).unwrap();
    let mut memory = Memory::new();
    let x = memory.alloc(4096, "x");
    memory.write(x, &[1; 2048]);
    let launch = Launch {
        block: [threads, 1, 1],
        params: Params::new().u64(x).build(),
        seed,
        ..Launch::new("k")
    };
    module.launch(&mut memory, &launch)
}

#[test]
fn reads_of_unwritten_global_memory() {
    let body = "ld.global.u32 %r4, [%rd3+2048]; st.global.u32 [%rd3], %r4;";
    caught(|seed| run(body, 32, seed), FindingKind::Uninitialised);
    // Loaded and dropped is fine; masked out is fine too.
    let body = "ld.global.u32 %r4, [%rd3+2048]; add.u32 %r5, %r4, 1;";
    assert_eq!(kinds(&run(body, 32, 0)), []);
    let body = "ld.global.u32 %r4, [%rd3+2048]; setp.lt.u32 %p1, %r1, 64; \
                selp.u32 %r5, %r1, %r4, %p1; st.global.u32 [%rd3], %r5;";
    assert_eq!(kinds(&run(body, 32, 0)), []);
}

#[test]
fn reads_of_unwritten_shared_memory() {
    let body = "ld.shared.u32 %r4, [%r3]; st.global.u32 [%rd3], %r4;";
    caught(|seed| run(body, 32, seed), FindingKind::Uninitialised);
}

#[test]
fn unwritten_registers() {
    let body = "@%p3 bra END; st.global.u32 [%rd3], %r1; END:";
    caught(|seed| run(body, 32, seed), FindingKind::Uninitialised);
    let body = "st.global.u32 [%rd3], %r9;";
    caught(|seed| run(body, 32, seed), FindingKind::Uninitialised);
}

#[test]
fn out_of_bounds_and_misaligned() {
    caught(|s| run("st.global.u32 [%rd3+4000], %r1;", 32, s), FindingKind::OutOfBounds);
    caught(|s| run("st.shared.u32 [%r3+4096], %r1;", 32, s), FindingKind::OutOfBounds);
    caught(|s| run("ld.global.u64 %rd4, [%rd3];", 32, s), FindingKind::Misaligned);
    caught(
        |s| run("mov.u32 %r4, 0; st.shared.u32 [%r4], %r1;", 1, s),
        FindingKind::OutOfBounds,
    );
}

#[test]
fn lanes_that_exchange_without_a_warp_barrier() {
    let exchange = |barrier: &str| {
        format!(
            "st.shared.u32 [%r3], %r1; {barrier} xor.b32 %r4, %r1, 1; \
             mad.lo.u32 %r4, %r4, 4, %r2; ld.shared.u32 %r5, [%r4]; \
             st.global.u32 [%rd3], %r5;"
        )
    };
    caught(|seed| run(&exchange(""), 32, seed), FindingKind::SharedRace);
    assert_eq!(kinds(&run(&exchange("bar.warp.sync -1;"), 64, 1)), []);
    assert_eq!(kinds(&run(&exchange("bar.sync 0;"), 64, 1)), []);
}

#[test]
fn a_barrier_too_few_between_reading_and_writing() {
    let body = |barrier: &str| {
        format!(
            "st.shared.u32 [%r3], %r1; bar.sync 0; xor.b32 %r4, %r1, 32; \
             mad.lo.u32 %r4, %r4, 4, %r2; ld.shared.u32 %r5, [%r4]; {barrier} \
             st.shared.u32 [%r3], %r5;"
        )
    };
    caught(|seed| run(&body(""), 64, seed), FindingKind::SharedRace);
    assert_eq!(kinds(&run(&body("bar.sync 0;"), 64, 3)), []);
}

#[test]
fn named_barriers_order_only_their_threads() {
    // Warps 0 and 1 meet at barrier 1; warp 2 does not.
    let body = "setp.ge.u32 %p1, %r1, 64; st.shared.u32 [%r3], %r1; @%p1 bra OTHER; \
                bar.sync 1, 64; xor.b32 %r4, %r1, 32; mad.lo.u32 %r4, %r4, 4, %r2; \
                ld.shared.u32 %r5, [%r4]; bra END; OTHER: ld.shared.u32 %r5, [%r2]; END:";
    for seed in 0..4 {
        let found = kinds(&run(body, 96, seed));
        assert_eq!(found, [FindingKind::SharedRace]);
    }
    let quiet = body.replace("ld.shared.u32 %r5, [%r2];", "");
    assert_eq!(kinds(&run(&quiet, 96, 0)), []);
}

#[test]
fn divergent_barriers() {
    let body = "setp.ge.u32 %p1, %r1, 16; @%p1 bra SKIP; bar.sync 0; SKIP: bar.sync 1;";
    caught(|seed| run(body, 32, seed), FindingKind::BarrierDivergence);
    let body = "setp.ge.u32 %p1, %r1, 32; @%p1 bra SKIP; bar.sync 0; SKIP:";
    caught(|seed| run(body, 64, seed), FindingKind::BarrierDivergence);
    let body = "setp.ge.u32 %p1, %r1, 32; @%p1 bra SKIP; bar.sync 1, 64; SKIP:";
    caught(|seed| run(body, 64, seed), FindingKind::Deadlock);
}

#[test]
fn a_flag_that_is_never_set() {
    let body = "AGAIN: ld.volatile.shared.u32 %r4, [%r2]; setp.ne.u32 %p1, %r4, 7; \
                @%p1 bra AGAIN;";
    caught(|seed| run(body, 32, seed), FindingKind::Deadlock);
}

#[test]
fn a_shuffle_that_half_the_warp_skips() {
    let body = "setp.ge.u32 %p1, %r1, 16; @%p1 bra SKIP; \
                shfl.sync.bfly.b32 %r4, %r1, 1, 31, -1; SKIP: bar.warp.sync -1;";
    for seed in 0..3 {
        let found = kinds(&run(body, 32, seed));
        assert_eq!(found, [FindingKind::BarrierDivergence]);
    }
}

#[test]
fn a_trap_and_an_endless_loop() {
    caught(|seed| run("trap;", 32, seed), FindingKind::Trap);
    let module = Module::parse(&snippet("L: add.u32 %r4, %r4, 1; bra L;")).unwrap();
    let mut launch = Launch::new("k");
    launch.params = vec![0; 8];
    launch.options.budget = 100_000;
    let fault = module.launch(&mut Memory::new(), &launch).unwrap_err();
    assert_eq!(fault.cause.kind, FindingKind::Timeout);
}

#[test]
fn memory_that_was_freed() {
    let module = Module::parse(&snippet("ld.global.u32 %r4, [%rd3];")).unwrap();
    let mut memory = Memory::new();
    let x = memory.alloc(4096, "x");
    memory.free(x);
    let params = Params::new().u64(x).build();
    let launch = Launch { params, ..Launch::new("k") };
    let fault = module.launch(&mut memory, &launch).unwrap_err();
    assert_eq!(fault.cause.kind, FindingKind::UseAfterFree);
    assert_eq!(fault.cause.allocation.as_deref(), Some("x"));
}

#[test]
fn blocks_that_write_the_same_word() {
    let module =
        Module::parse(&snippet("mov.u32 %r4, %ctaid.x; st.global.u32 [%rd3], %r4;"))
            .unwrap();
    let mut memory = Memory::new();
    let x = memory.alloc(4096, "x");
    let params = Params::new().u64(x).build();
    let launch = Launch { params, grid: [4, 1, 1], block: [32, 1, 1], ..Launch::new("k") };
    let report = module.launch(&mut memory, &launch);
    assert_eq!(kinds(&report), [FindingKind::GlobalRace]);
}

#[test]
fn warps_that_meet_in_global_memory() {
    let body = |barrier: &str| {
        format!(
            "st.global.u32 [%rd3], %r1; {barrier} xor.b32 %r4, %r1, 32; \
             mul.wide.u32 %rd4, %r4, 4; add.s64 %rd5, %rd1, %rd4; \
             ld.global.u32 %r5, [%rd5]; st.global.u32 [%rd3+256], %r5;"
        )
    };
    caught(|seed| run(&body(""), 64, seed), FindingKind::GlobalRace);
    assert_eq!(kinds(&run(&body("bar.sync 0;"), 64, 3)), []);
}

#[test]
fn sleeping_passes_time() {
    let body = "mov.u64 %rd4, %globaltimer; AGAIN: nanosleep.u32 1000; \
                mov.u64 %rd5, %globaltimer; sub.u64 %rd6, %rd5, %rd4; \
                setp.lt.u64 %p1, %rd6, 1000000; @%p1 bra AGAIN;";
    assert_eq!(kinds(&run(body, 64, 0)), []);
}

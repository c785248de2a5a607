//! Threads, blocks and clusters that wait for one another.

mod common;

use common::{caught, clean, floats, kinds, replace, upload, words};
use ptxvm::{Fault, FindingKind, Launch, Memory, Module, Options, Params, Report};

const SYNC: &str = include_str!("ptx/sync.ptx");

fn zeros(memory: &mut Memory, count: usize, name: &str) -> u64 {
    upload(memory, name, &vec![0u32; count], u32::to_le_bytes)
}

#[test]
fn blocks_that_wait_for_the_block_before() {
    let module = Module::parse(SYNC).unwrap();
    for seed in 0..4 {
        let mut memory = Memory::new();
        let flags = zeros(&mut memory, 40, "flags");
        let values = memory.alloc(160, "values");
        let launch = Launch {
            grid: [40, 1, 1],
            block: [32, 1, 1],
            params: Params::new().u64(flags).u64(values).build(),
            seed,
            ..Launch::new("chain")
        };
        clean(&module, &mut memory, &launch);
        let wanted: Vec<u32> = (0..40).map(|b| b * (b + 1) / 2).collect();
        assert_eq!(words(&memory, values, 40), wanted);
    }
}

fn grid_barrier(text: &str, seed: u64) -> (Result<Report, Fault>, Vec<u32>) {
    let module = Module::parse(text).unwrap();
    let mut memory = Memory::new();
    let counter = zeros(&mut memory, 1, "counter");
    let (a, b) = (memory.alloc(128 * 20, "a"), memory.alloc(128 * 20, "b"));
    let launch = Launch {
        grid: [20, 1, 1],
        block: [32, 1, 1],
        params: Params::new().u64(counter).u64(a).u64(b).build(),
        seed,
        ..Launch::new("grid_barrier")
    };
    let outcome = module.launch(&mut memory, &launch);
    let b = words(&memory, b, 32 * 20);
    (outcome, b)
}

#[test]
fn a_barrier_of_the_grid() {
    for seed in 0..4 {
        let (outcome, b) = grid_barrier(SYNC, seed);
        assert_eq!(kinds(&outcome), []);
        for (at, got) in b.into_iter().enumerate() {
            assert_eq!(got as usize, (at / 32 + 1) % 20 + at % 32);
        }
    }
}

#[test]
fn a_barrier_of_the_grid_without_its_fences() {
    let at = SYNC.find(".entry grid_barrier").unwrap();
    for n in 0..2 {
        let text = format!("{}{}", &SYNC[..at], replace(&SYNC[at..], "membar.gl;", n, ""));
        caught(|seed| grid_barrier(&text, seed).0, FindingKind::GlobalRace);
    }
}

#[test]
fn copies_that_arrive_at_an_mbarrier() {
    let module = Module::parse(SYNC).unwrap();
    for seed in 0..4 {
        let mut memory = Memory::new();
        let x: Vec<u32> = (0..128 * 5).map(|i| i * i).collect();
        let px = upload(&mut memory, "x", &x, u32::to_le_bytes);
        let y = memory.alloc(128 * 5, "y");
        let launch = Launch {
            block: [32, 1, 1],
            params: Params::new().u64(px).u64(y).i32(5).build(),
            seed,
            ..Launch::new("copies")
        };
        clean(&module, &mut memory, &launch);
        for (at, got) in words(&memory, y, 32 * 5).into_iter().enumerate() {
            let row = &x[at / 32 * 128..][..128];
            assert_eq!(got, row[at % 32] + row[127 - at % 32]);
        }
    }
}

#[test]
fn copies_without_a_wait() {
    let at = SYNC.find(".entry copies").unwrap();
    let text =
        format!("{}{}", &SYNC[..at], replace(&SYNC[at..], "@!done bra AGAIN;", 0, ""));
    let module = Module::parse(&text).unwrap();
    let run = |seed| {
        let mut memory = Memory::new();
        let x = zeros(&mut memory, 128 * 5, "x");
        let y = memory.alloc(128 * 5, "y");
        let launch = Launch {
            block: [32, 1, 1],
            params: Params::new().u64(x).u64(y).i32(5).build(),
            seed,
            ..Launch::new("copies")
        };
        module.launch(&mut memory, &launch)
    };
    caught(run, FindingKind::AsyncRace);
}

fn ring(text: &str, seed: u64) -> (Result<Report, Fault>, Vec<u32>) {
    let module = Module::parse(text).unwrap();
    let mut memory = Memory::new();
    let out = memory.alloc(4 * 12, "out");
    let launch = Launch {
        grid: [4, 1, 1],
        block: [32, 1, 1],
        params: Params::new().u64(out).i32(3).build(),
        seed,
        ..Launch::new("ring")
    };
    let outcome = module.launch(&mut memory, &launch);
    let out = words(&memory, out, 12);
    (outcome, out)
}

#[test]
fn a_token_around_a_cluster() {
    for seed in 0..8 {
        let (outcome, out) = ring(SYNC, seed);
        assert_eq!(kinds(&outcome), []);
        for (at, got) in out.into_iter().enumerate() {
            assert_eq!(got as usize, at / 3 + 4 * (at % 3));
        }
    }
    // Without the barrier at the end, a block may be gone when the next one arrives.
    let at = SYNC.rfind("barrier.cluster.arrive.aligned;").unwrap();
    let end = SYNC.rfind("barrier.cluster.wait.aligned;").unwrap() + 29;
    let text = format!("{}{}", &SYNC[..at], &SYNC[end..]);
    let found: Vec<_> = (0..8).flat_map(|seed| kinds(&ring(&text, seed).0)).collect();
    assert!(found.contains(&FindingKind::UseAfterFree));
}

/// Two blocks of two warps each: the first threads of the first warps write a word each, and
/// read the other's behind the barrier of the cluster; what stands for the second warps is all
/// that these do.
fn first_warps_meet(second_warps: &str, seed: u64) -> (Result<Report, Fault>, Vec<u32>) {
    let ptx = format!(
        ".version 8.0
         .target sm_90
         .address_size 64
         .visible .entry meet(.param .u64 words) .reqntid 64
         {{
             .reg .pred %p<3>;
             .reg .b32 %r<6>;
             .reg .b64 %rd<6>;
             ld.param.u64 %rd1, [words];
             mov.u32 %r1, %tid.x;
             mov.u32 %r2, %cluster_ctarank;
             setp.ge.u32 %p1, %r1, 32;
             @%p1 bra SECOND;
             mul.wide.u32 %rd2, %r2, 8;
             add.u64 %rd3, %rd1, %rd2;
             setp.eq.u32 %p2, %r1, 0;
             add.u32 %r3, %r2, 5;
             @%p2 st.global.u32 [%rd3], %r3;
             barrier.cluster.arrive;
             barrier.cluster.wait;
             xor.b32 %r4, %r2, 1;
             mul.wide.u32 %rd4, %r4, 8;
             add.u64 %rd5, %rd1, %rd4;
             ld.global.u32 %r5, [%rd5];
             @%p2 st.global.u32 [%rd3+4], %r5;
             ret;
             SECOND:
             {second_warps}
             ret;
         }}"
    );
    let module = Module::parse(&ptx).unwrap();
    let mut memory = Memory::new();
    let address = memory.alloc(16, "words");
    let launch = Launch {
        grid: [2, 1, 1],
        block: [64, 1, 1],
        cluster: [2, 1, 1],
        params: Params::new().u64(address).build(),
        seed,
        ..Launch::new("meet")
    };
    let outcome = module.launch(&mut memory, &launch);
    (outcome, words(&memory, address, 4))
}

/// They do not stand in for others.
#[test]
fn threads_that_arrive_at_a_cluster_and_return_count_once() {
    for second in
        ["barrier.cluster.arrive;", "barrier.cluster.arrive; barrier.cluster.wait;", ""]
    {
        for seed in 0..16 {
            let (outcome, found) = first_warps_meet(second, seed);
            assert_eq!(kinds(&outcome), [], "{second}");
            assert_eq!(found, [5, 6, 6, 5], "{second}");
        }
    }
}

#[test]
fn a_wait_at_a_cluster_without_an_arrival_is_found() {
    const MEET: &str = "barrier.cluster.arrive; barrier.cluster.wait;";
    const WAIT: &str = "barrier.cluster.wait;";
    for second in [WAIT.to_owned(), format!("{MEET} {WAIT}")] {
        for seed in 0..8 {
            let (outcome, _) = first_warps_meet(&second, seed);
            assert_eq!(kinds(&outcome), [FindingKind::BarrierDivergence], "{second}");
        }
    }
}

#[test]
fn exchanges_within_a_warp() {
    let module = Module::parse(SYNC).unwrap();
    let mut memory = Memory::new();
    let x: Vec<u32> = (0..32).map(|i| i * 11 % 37).collect();
    let px = upload(&mut memory, "x", &x, u32::to_le_bytes);
    let y = memory.alloc(1024, "y");
    let params = Params::new().u64(px).u64(y).build();
    let launch = Launch { block: [32, 1, 1], params, ..Launch::new("exchange") };
    clean(&module, &mut memory, &launch);
    let out = words(&memory, y, 256);
    let above = (0..32).fold(0u32, |all, i| all | u32::from(x[i] > 16) << i);
    for t in 0..32 {
        assert_eq!(out[t], x[if t < 3 { t } else { t - 3 }]);
        assert_eq!(out[32 + t], x[if t % 8 + 5 < 8 { t + 5 } else { t }]);
        assert_eq!(out[64 + t], x[(x[t] & 31) as usize]);
        let same = (0..32).fold(0, |all, i| all | u32::from(x[i] % 3 == x[t] % 3) << i);
        assert_eq!(out[96 + t], same);
        assert_eq!(out[128 + t], *x.iter().max().unwrap());
        let half = &x[t / 16 * 16..][..16];
        assert_eq!(out[160 + t], half.iter().fold(0, |all, v| all ^ v));
        let mask = if t % 2 == 1 { 0xaaaa_aaaa } else { 0x5555_5555 };
        assert_eq!(out[192 + t], above & mask);
        assert_eq!(out[224 + t], above.count_ones() + 1000);
    }
}

#[test]
fn atomics_of_every_kind() {
    let module = Module::parse(SYNC).unwrap();
    for seed in 0..3 {
        let mut memory = Memory::new();
        let g = zeros(&mut memory, 9, "g");
        let f = zeros(&mut memory, 1, "f");
        let w = zeros(&mut memory, 2, "w");
        let launch = Launch {
            grid: [3, 1, 1],
            block: [64, 1, 1],
            params: Params::new().u64(g).u64(f).u64(w).build(),
            seed,
            ..Launch::new("atomics")
        };
        let report = clean(&module, &mut memory, &launch);
        let out = words(&memory, g, 9);
        let bin = |n: u32| (0..64).filter(|t| t % 4 == n).sum::<u32>() * 3;
        assert_eq!(out[..4], [bin(0), bin(1), bin(2), bin(3)]);
        assert_eq!(out[4..], [191, -63i32 as u32, u32::MAX, 192 % 10, 192]);
        assert_eq!(floats(&memory, f, 1), [96.0]);
        assert_eq!(words(&memory, w, 2), [192, 192]);
        assert!(report.counts.global_atomics >= 192 * 7);
    }
}

#[test]
fn matrices_straight_and_transposed() {
    let module = Module::parse(SYNC).unwrap();
    let mut memory = Memory::new();
    let y = memory.alloc(512, "y");
    let params = Params::new().u64(y).build();
    let launch = Launch { block: [32, 1, 1], params, ..Launch::new("matrices") };
    clean(&module, &mut memory, &launch);
    let out = words(&memory, y, 128);
    for t in 0..32u32 {
        let (row, pair) = (t / 4, t % 4 * 2);
        let straight = (8 * row + pair) | (8 * row + pair + 1) << 16;
        let transposed = (8 * pair + row) | (8 * (pair + 1) + row) << 16;
        let at = t as usize;
        assert_eq!(out[at], straight);
        assert_eq!(out[32 + at], transposed);
        assert_eq!(out[64 + at], transposed);
        assert_eq!(out[96 + at], transposed);
    }
}

#[test]
fn counts_do_not_depend_on_threads_of_the_host() {
    let module = Module::parse(include_str!("ptx/basic.ptx")).unwrap();
    let run = |parallel: bool, seed: u64| {
        let mut memory = Memory::new();
        let x: Vec<f32> = (0..100 * 100).map(|i| i as f32).collect();
        let px = upload(&mut memory, "x", &x, f32::to_le_bytes);
        let py = memory.alloc(40_000, "y");
        let launch = Launch {
            grid: [4, 4, 1],
            block: [32, 8, 1],
            shared_bytes: 33 * 32 * 4,
            params: Params::new().u64(px).u64(py).i32(100).build(),
            seed,
            options: Options { parallel, ..Options::default() },
            ..Launch::new("transpose")
        };
        clean(&module, &mut memory, &launch)
    };
    let first = run(false, 0);
    assert_eq!(first, run(true, 0));
    assert_eq!(first, run(true, 5));
}

fn publish(text: &str, seed: u64) -> (Result<Report, Fault>, Vec<u32>) {
    let module = Module::parse(text).unwrap();
    let mut memory = Memory::new();
    let counter = zeros(&mut memory, 1, "counter");
    let parts = memory.alloc(4 * 64 * 10, "parts");
    let out = memory.alloc(256, "out");
    let launch = Launch {
        grid: [10, 1, 1],
        block: [64, 1, 1],
        params: Params::new().u64(counter).u64(parts).u64(out).build(),
        seed,
        ..Launch::new("publish")
    };
    let outcome = module.launch(&mut memory, &launch);
    (outcome, words(&memory, out, 64))
}

#[test]
fn what_a_whole_block_publishes() {
    for seed in 0..4 {
        let (outcome, out) = publish(SYNC, seed);
        assert_eq!(kinds(&outcome), []);
        assert_eq!(out, (0..64).map(|t| 10 * (63 - t)).collect::<Vec<u32>>());
    }
    // Without the barrier, one thread publishes for others that have not written yet.
    let at = SYNC.find(".entry publish").unwrap();
    for n in 0..2 {
        let tail = replace(&SYNC[at..], "bar.sync \t0;", n, "");
        let text = format!("{}{tail}", &SYNC[..at]);
        for seed in 0..4 {
            assert!(!kinds(&publish(&text, seed).0).is_empty(), "barrier {n}, seed {seed}");
        }
    }
    for order in ["acquire", "release", "relaxed"] {
        let tail = replace(&SYNC[at..], "acq_rel", 0, order);
        let text = format!("{}{tail}", &SYNC[..at]);
        caught(|seed| publish(&text, seed).0, FindingKind::GlobalRace);
    }
}

/// Block 0 writes `x` and sets a flag; block 1 waits for the flag, reads `x` by a bulk copy
/// and writes what it read to `y`. Each block may have a proxy fence or not.
fn handed_over(writers: &str, readers: &str, seed: u64) -> Result<Report, Fault> {
    let text = format!(
        ".version 8.0\n.target sm_90\n.address_size 64\n\
         .visible .entry k(.param .u64 x, .param .u64 flag, .param .u64 y)\n{{\n\
         .reg .pred %p<3>;\n.reg .b32 %r<9>;\n.reg .b64 %x, %f, %y;\n\
         .shared .align 16 .b8 tile[16];\n.shared .align 8 .b64 bar;\n\
         ld.param.u64 %x, [x];\nld.param.u64 %f, [flag];\nld.param.u64 %y, [y];\n\
         mov.u32 %r1, %ctaid.x;\nsetp.eq.u32 %p1, %r1, 1;\n@%p1 bra READER;\n\
         mov.u32 %r2, 7;\nst.global.v4.u32 [%x], {{%r2, %r2, %r2, %r2}};\n{writers}\n\
         fence.acq_rel.gpu;\natom.global.exch.b32 %r3, [%f], 1;\nret;\n\
         READER:\nld.relaxed.gpu.global.u32 %r3, [%f];\nsetp.eq.u32 %p2, %r3, 0;\n\
         @%p2 bra READER;\nfence.acq_rel.gpu;\n{readers}\n\
         mov.u32 %r4, tile;\nmov.u32 %r5, bar;\n\
         mbarrier.init.shared.b64 [%r5], 1;\nfence.proxy.async.shared::cta;\n\
         mbarrier.arrive.expect_tx.shared.b64 _, [%r5], 16;\n\
         cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes \
         [%r4], [%x], 16, [%r5];\n\
         WAIT:\nmbarrier.try_wait.parity.shared.b64 %p2, [%r5], 0;\n@!%p2 bra WAIT;\n\
         ld.shared.u32 %r6, [%r4];\nst.global.u32 [%y], %r6;\nret;\n}}\n"
    );
    let module = Module::parse(&text).unwrap();
    let mut memory = Memory::new();
    let x = zeros(&mut memory, 4, "x");
    let flag = zeros(&mut memory, 1, "flag");
    let y = zeros(&mut memory, 1, "y");
    let launch = Launch {
        grid: [2, 1, 1],
        block: [1, 1, 1],
        params: Params::new().u64(x).u64(flag).u64(y).build(),
        seed,
        ..Launch::new("k")
    };
    let report = module.launch(&mut memory, &launch)?;
    assert_eq!(words(&memory, y, 1), [7]);
    Ok(report)
}

#[test]
fn what_the_async_proxy_reads_from_global_memory_was_fenced() {
    for seed in 0..4 {
        for fence in ["fence.proxy.async;", "fence.proxy.async.global;"] {
            assert_eq!(kinds(&handed_over(fence, "", seed)), []);
            assert_eq!(kinds(&handed_over("", fence, seed)), []);
        }
    }
    for fence in ["", "fence.proxy.async.shared::cta;"] {
        caught(|seed| handed_over(fence, fence, seed), FindingKind::MissingProxyFence);
    }
}

/// Warp 0 of two waits for an mbarrier as `WAIT` says, warp 1 counts `rounds` down and arrives.
const WAITS: &str = "
.version 8.0
.target sm_90
.address_size 64
.visible .entry waits(.param .u32 rounds) {
    .reg .pred %p<4>;
    .reg .b32 %r<4>;
    .shared .align 8 .b64 bar;
    mov.u32 %r1, %tid.x;
    setp.eq.u32 %p1, %r1, 0;
    @%p1 mbarrier.init.shared::cta.b64 [bar], 32;
    bar.sync 0;
    setp.ge.u32 %p2, %r1, 32;
    @%p2 bra COUNT;
    WAIT
    ret;
COUNT:
    ld.param.u32 %r2, [rounds];
STEP:
    sub.u32 %r2, %r2, 1;
    setp.ne.u32 %p3, %r2, 0;
    @%p3 bra STEP;
    mbarrier.arrive.shared::cta.b64 _, [bar];
    ret;
}";

fn waits(how: &str, threads: u32, rounds: i32, seed: u64) -> Result<Report, Fault> {
    let module = Module::parse(&WAITS.replace("WAIT", how)).unwrap();
    let launch = Launch {
        block: [threads, 1, 1],
        params: Params::new().i32(rounds).build(),
        seed,
        ..Launch::new("waits")
    };
    module.launch(&mut Memory::new(), &launch)
}

#[test]
fn who_waits_for_long_is_not_asked_again_and_again() {
    let wait = "
AGAIN:
    mbarrier.try_wait.parity.shared::cta.b64 %p3, [bar], 0;
    @!%p3 bra AGAIN;";
    for seed in 0..8 {
        let report = waits(wait, 64, 100_000, seed).unwrap();
        assert_eq!(report.findings, [], "seed {seed}");
        let others = report.counts.warp_instructions - 3 * 100_000;
        // Those before and after the loops, and some waits in vain.
        assert!(others < 80, "seed {seed}: {others}");
    }
}

#[test]
fn a_wait_in_vain_returns_when_nothing_else_can_happen() {
    // Then the warp arrives itself.
    let wait = "
    mov.u32 %r3, 50;
AGAIN:
    mbarrier.test_wait.parity.shared::cta.b64 %p3, [bar], 0;
    @%p3 trap;
    sub.u32 %r3, %r3, 1;
    setp.ne.u32 %p3, %r3, 0;
    @%p3 bra AGAIN;
    mbarrier.arrive.shared::cta.b64 _, [bar];";
    for seed in 0..8 {
        let report = waits(wait, 32, 0, seed).unwrap();
        assert_eq!(report.findings, [], "seed {seed}");
        assert!(report.counts.warp_instructions > 50 * 4);
    }
}

#[test]
fn a_wait_may_return_early() {
    // Nobody tests again, or not often enough.
    let once = "
    mbarrier.try_wait.parity.shared::cta.b64 %p3, [bar], 0;
    @!%p3 trap;";
    let twice = format!("mbarrier.try_wait.parity.shared::cta.b64 %p3, [bar], 0;\n{once}");
    for (what, wait) in [("once", once), ("twice", &twice)] {
        let ends = (0..16).filter(|&seed| waits(wait, 64, 1000, seed).is_err()).count();
        assert!(ends > 4, "{what}: {ends} of 16");
    }
}

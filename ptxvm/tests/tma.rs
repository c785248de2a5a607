//! Tensor copies where the hardware does not begin them, and what else asynchronous copies
//! get wrong: the smallest programs, each with its right twin.

mod common;

use common::{caught, kinds, upload, words};
use ptxvm::{
    Fault, Finding, FindingKind, Launch, Memory, Module, OutOfBoundsFill, Params, Report,
    Swizzle, TensorElement, TensorMap,
};

/// A kernel `k` of sm_90 with these parameters and this body, which finds registers, a tile
/// of 1 KiB, the mbarriers `bar` and `bar2`, and its thread in `%t`.
fn kernel(params: &str, body: &str) -> Module {
    let text = format!(
        ".version 8.6
         .target sm_90a
         .address_size 64
         .visible .entry k({params})
         {{
             .reg .pred %p<9>;
             .reg .b16 %h<9>;
             .reg .b32 %t, %r<20>;
             .reg .b64 %q<20>;
             .shared .align 1024 .b8 tile[1024];
             .shared .align 128 .b8 other[256];
             .shared .align 8 .b64 bar;
             .shared .align 8 .b64 bar2;
             mov.u32 %t, %tid.x;
             setp.eq.u32 %p1, %t, 0;
             {body}
             ret;
         }}"
    );
    Module::parse(&text).unwrap_or_else(|error| panic!("{error}\n{text}"))
}

const INIT: &str = "
    @%p1 mbarrier.init.shared::cta.b64 [bar], 1;
    @%p1 fence.mbarrier_init.release.cluster;
    bar.sync 0;";

/// A loop until the first phase of `bar` is over.
const WAIT: &str = "
    WAIT: mbarrier.try_wait.parity.shared::cta.b64 %p2, [bar], 0;
    @!%p2 bra WAIT;";

fn matrix(element: TensorElement, address: u64, columns: u64) -> TensorMap {
    TensorMap {
        element,
        address,
        dims: vec![columns, 8],
        strides: vec![(columns * element.bytes()).next_multiple_of(16)],
        box_dims: vec![(64 / element.bytes()) as u32, 4],
        swizzle: Swizzle::None,
        fill: OutOfBoundsFill::Zero,
    }
}

/// Loads, stores or prefetches a box that begins at `start`.
fn box_at(what: &str, element: TensorElement, start: [i32; 2]) -> Result<Report, Fault> {
    let copy = match what {
        "load" => {
            "mbarrier.arrive.expect_tx.shared::cta.b64 _, [bar], 256;
             cp.async.bulk.tensor.2d.shared::cluster.global.tile.mbarrier::complete_tx::bytes [tile], [%q1, {%r1, %r2}], [bar];"
        }
        "store" => {
            "cp.async.bulk.tensor.2d.global.shared::cta.tile.bulk_group [%q1, {%r1, %r2}], [tile];
             cp.async.bulk.commit_group;
             cp.async.bulk.wait_group 0;"
        }
        _ => "cp.async.bulk.prefetch.tensor.2d.L2.global.tile [%q1, {%r1, %r2}];",
    };
    let wait = if what == "load" { WAIT } else { "" };
    let body = format!(
        "{INIT}
         mad.lo.u32 %r3, %t, 8, 0;
         mov.u32 %r4, tile;
         add.u32 %r3, %r3, %r4;
         {}
         fence.proxy.async.shared::cta;
         bar.sync 0;
         mov.u64 %q1, map;
         cvta.param.u64 %q1, %q1;
         mov.b32 %r1, {};
         mov.b32 %r2, {};
         @!%p1 bra AFTER;
         {copy}
         AFTER:
         {wait}",
        if what == "store" { "st.shared.v2.b32 [%r3], {%t, %t};" } else { "" },
        start[0],
        start[1]
    );
    let module = kernel(".param .align 64 .b8 map[128]", &body);
    let mut memory = Memory::new();
    let address = upload(&mut memory, "tensor", &[7u8; 4096], u8::to_le_bytes);
    let map = matrix(element, address, 96 / element.bytes());
    let launch = Launch {
        block: [32, 1, 1],
        params: Params::new().bytes(64, &map.encode().unwrap()).build(),
        ..Launch::new("k")
    };
    module.launch(&mut memory, &launch)
}

/// The starts at which an H100 ended the launch, and those that it ran.
#[test]
fn loads_begin_at_multiples_of_16_bytes() {
    use TensorElement::{F32, U8, U16, U32, U64};
    for what in ["load", "prefetch"] {
        for (element, x) in [
            (U16, -5),
            (U16, -4),
            (U16, -1),
            (U16, 10),
            (F32, -1),
            (U32, -3),
            (U64, 3),
            (U8, 31),
        ] {
            let fault = box_at(what, element, [x, 0]).unwrap_err();
            assert_eq!(fault.cause.kind, FindingKind::BadOperand);
            let text = fault.to_string();
            let bytes = i64::from(x) * element.bytes() as i64;
            for part in [
                format!("a tensor {what} must begin at a multiple of 16 bytes"),
                format!("coordinate {x} in dimension 0"),
                format!("elements of {} byte", element.bytes()),
                format!("is byte {bytes};"),
                "cp.async.bulk.".to_owned(),
            ] {
                assert!(text.contains(&part), "{text}: {part}");
            }
        }
        for (element, start) in [
            (U16, [-8, 0]),
            (F32, [-4, -3]),
            (U8, [16, -1]),
            (U64, [2, 100]),
            (U16, [1000, -1000]),
        ] {
            assert_eq!(kinds(&box_at(what, element, start)), [], "{element:?} {start:?}");
        }
    }
}

#[test]
fn stores_begin_inside_or_behind() {
    use TensorElement::{F32, U8, U16, U32};
    for (element, start, dimension) in [
        (U32, [-4, 0], 0),
        (U16, [-8, 1], 0),
        (F32, [0, -1], 1),
        (U8, [16, -1000], 1),
        (U16, [-1, -1], 0),
    ] {
        let fault = box_at("store", element, start).unwrap_err();
        assert_eq!(fault.cause.kind, FindingKind::BadOperand);
        let text = fault.to_string();
        let which = format!("coordinate {} in dimension {dimension}", start[dimension]);
        assert!(text.contains("takes no coordinate before the beginning"), "{text}");
        assert!(text.contains(&which) && text.contains("(PTX line"), "{text}");
    }
    for (element, start) in [(U32, [0, 0]), (U16, [16, 6]), (F32, [16, 7]), (U8, [960, 80])]
    {
        assert_eq!(kinds(&box_at("store", element, start)), [], "{element:?} {start:?}");
    }
}

/// A kernel of two blocks of a cluster, each of two warps, run to its end.
fn pair(body: &str, seed: u64) -> Result<Report, Fault> {
    let body = format!(
        "mov.u32 %r1, %cluster_ctarank;
         xor.b32 %r2, %r1, 1;
         mov.u32 %r3, tile;
         mov.u32 %r4, bar;
         mapa.shared::cluster.u32 %r5, %r3, %r2;
         mapa.shared::cluster.u32 %r6, %r4, %r2;
         ld.param.u64 %q1, [x];
         {body}"
    );
    let module = kernel(".param .u64 x", &body);
    let mut memory = Memory::new();
    let x = upload(&mut memory, "x", &[9u8; 4096], u8::to_le_bytes);
    let launch = Launch {
        grid: [2, 1, 1],
        block: [64, 1, 1],
        cluster: [2, 1, 1],
        params: Params::new().u64(x).build(),
        seed,
        ..Launch::new("k")
    };
    module.launch(&mut memory, &launch)
}

/// All that was found, with what ended the launch.
fn findings(outcome: &Result<Report, Fault>) -> Vec<Finding> {
    match outcome {
        Ok(report) => report.findings.clone(),
        Err(fault) => [fault.findings.clone(), vec![(*fault.cause).clone()]].concat(),
    }
}

const MEET: &str =
    "barrier.cluster.arrive.release.aligned;\nbarrier.cluster.wait.acquire.aligned;";
const MEET_RELAXED: &str =
    "barrier.cluster.arrive.relaxed.aligned;\nbarrier.cluster.wait.aligned;";

/// What a block does with the other one's shared memory, each a right program between two
/// barriers of the cluster, and the line that a finding names.
fn visits() -> Vec<(&'static str, String, &'static str)> {
    let store = "@%p1 st.shared::cluster.u32 [%r5], %t;";
    let load = "@%p1 ld.shared::cluster.u32 %r9, [%r5+4];";
    let atomic = "@%p1 red.relaxed.cluster.shared::cluster.add.u32 [%r5+8], 1;";
    let arrive = "@%p1 mbarrier.arrive.release.cluster.shared::cluster.b64 _, [%r6];";
    let multicast = format!(
        "@!%p1 bra WAIT;
         mbarrier.arrive.expect_tx.shared::cta.b64 _, [bar], 64;
         shl.b32 %r7, %r1, 5;
         add.u32 %r7, %r7, %r3;
         mov.u16 %h1, 3;
         cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes.multicast::cluster [%r7], [%q1], 32, [bar], %h1;
         {WAIT}"
    );
    let across = format!(
        "@%p1 mbarrier.arrive.expect_tx.shared::cta.b64 _, [bar], 32;
         @%p1 cp.async.bulk.shared::cluster.shared::cta.mbarrier::complete_tx::bytes [%r5], [other], 32, [%r6];
         {WAIT}"
    );
    vec![
        ("store", store.to_owned(), "st.shared::cluster"),
        ("load", load.to_owned(), "ld.shared::cluster"),
        ("atomic", atomic.to_owned(), "red.relaxed.cluster"),
        ("arrive", arrive.to_owned(), "mbarrier.arrive"),
        ("multicast", multicast, "cp.async.bulk.shared::cluster"),
        ("across", across, "cp.async.bulk.shared::cluster"),
    ]
}

/// What both blocks prepare: their tile, their mbarrier.
const PREPARE: &str = "
    shl.b32 %r10, %t, 2;
    add.u32 %r11, %r10, %r3;
    st.shared.u32 [%r11], 0;
    mov.u32 %r11, other;
    add.u32 %r10, %r10, %r11;
    st.shared.u32 [%r10], %t;
    fence.proxy.async;
    @%p1 mbarrier.init.shared::cta.b64 [bar], 1;
    @%p1 fence.mbarrier_init.release.cluster;
    bar.sync 0;";

#[test]
fn blocks_of_a_cluster_meet_before_and_after() {
    for seed in 0..6 {
        for (what, visit, _) in visits() {
            let body = format!("{PREPARE}\n{MEET}\n{visit}\n{MEET}");
            assert_eq!(kinds(&pair(&body, seed)), [], "{what}, seed {seed}");
        }
    }
}

/// A barrier without a memory order is one all the same: the other block runs, and its
/// mbarrier was fenced.
#[test]
fn a_relaxed_barrier_is_enough_to_meet() {
    let at = PREPARE.find("@%p1 mbarrier").unwrap();
    for seed in 0..6 {
        for (what, visit, _) in visits() {
            // Nobody wrote to what the others access, but for the mbarrier.
            let body = match what {
                "arrive" | "multicast" => {
                    format!("{}\n{MEET_RELAXED}\n{visit}\n{MEET_RELAXED}", &PREPARE[at..])
                }
                "store" => format!("{MEET_RELAXED}\n{visit}\n{MEET_RELAXED}"),
                _ => continue,
            };
            assert_eq!(kinds(&pair(&body, seed)), [], "{what}, seed {seed}");
        }
    }
}

/// Behind the fence for it, an mbarrier is known to all that wait for a relaxed barrier of the
/// cluster, also in its own block.
#[test]
fn a_relaxed_barrier_makes_fenced_mbarriers_known() {
    let init = "@%p1 mbarrier.init.shared::cta.b64 [bar], 2;";
    let fence = "@%p1 fence.mbarrier_init.release.cluster;";
    let arrives = "and.b32 %r10, %t, 31;
        setp.eq.u32 %p3, %r10, 0;
        @%p3 mbarrier.arrive.shared::cta.b64 _, [bar];";
    let remote = "setp.eq.u32 %p3, %t, 32;
        @%p3 mbarrier.arrive.release.cluster.shared::cluster.b64 _, [%r6];
        @%p1 mbarrier.arrive.shared::cta.b64 _, [bar];";
    for use_it in [arrives, remote] {
        let run = |start: &str| {
            let body = format!("{start}\n{use_it}\n{WAIT}\n{MEET}");
            move |seed| pair(&body, seed)
        };
        let right = run(&format!("{init}\n{fence}\n{MEET_RELAXED}"));
        assert!((0..6).all(|seed| kinds(&right(seed)).is_empty()), "{use_it}");
        for wrong in [
            format!("{init}\n{MEET_RELAXED}"),
            format!("{init}\n@%p1 fence.proxy.async;\n{MEET_RELAXED}"),
            format!("{MEET_RELAXED}\n{init}\n{fence}"),
            // Used before the wait.
            format!("{init}\n{fence}\nbarrier.cluster.arrive.relaxed.aligned;"),
            format!(
                "{init}\nbarrier.cluster.arrive.relaxed.aligned;\n{fence}\n\
                 barrier.cluster.wait.aligned;"
            ),
        ] {
            caught(run(&wrong), FindingKind::Mbarrier);
        }
    }
}

#[test]
fn a_block_that_may_not_run_yet() {
    for (what, visit, line) in visits() {
        for seed in 0..6 {
            let outcome = pair(&format!("{PREPARE}\n{visit}\n{MEET}"), seed);
            let of_start = findings(&outcome);
            // Where the other block has not even initialised its mbarrier the launch ends.
            let found = of_start.iter().any(|finding| {
                finding.instruction.starts_with(line)
                    && finding.detail.contains("not ordered after the start of block rank")
            });
            assert!(found, "{what}, seed {seed}: {of_start:?}");
        }
    }
}

#[test]
fn a_block_that_may_be_gone() {
    for (what, visit, line) in visits() {
        for seed in 0..6 {
            let outcome = pair(&format!("{PREPARE}\n{MEET}\n{visit}"), seed);
            let all = findings(&outcome);
            let found = all.iter().any(|finding| {
                finding.kind == FindingKind::UseAfterFree
                    && finding.instruction.starts_with(line)
                    && (finding.detail.contains("returned")
                        || finding.detail.contains("may return"))
            });
            // Of a multicast both blocks wait for what they receive.
            let held = what == "multicast";
            assert!(found != held, "{what}, seed {seed}: {all:?}");
        }
    }
}

/// The block that is accessed waits for the other's arrival at its mbarrier, and no barrier
/// of the cluster comes after.
#[test]
fn an_awaited_arrival_holds_a_block() {
    let visit = "@%p1 st.shared::cluster.u32 [%r5], %t;
        @%p1 mbarrier.arrive.release.cluster.shared::cluster.b64 _, [%r6];
        WAIT: mbarrier.try_wait.parity.acquire.cluster.shared::cta.b64 %p2, [bar], 0;
        @!%p2 bra WAIT;";
    for seed in 0..6 {
        assert_eq!(kinds(&pair(&format!("{PREPARE}\n{MEET}\n{visit}"), seed)), []);
    }
    // The arrival need not order memory for that.
    for how in ["relaxed.cluster", "release.cta"] {
        let relaxed = visit.replace("arrive.release.cluster", &format!("arrive.{how}"));
        for seed in 0..6 {
            let outcome = pair(&format!("{PREPARE}\n{MEET}\n{relaxed}"), seed);
            assert_eq!(kinds(&outcome), [], "{how}");
        }
    }
    // One more store behind the arrival is not waited for.
    let late = format!("{visit}\n@%p1 st.shared::cluster.u32 [%r5+4], %t;");
    let run = |seed| pair(&format!("{PREPARE}\n{MEET}\n{late}"), seed);
    caught(run, FindingKind::UseAfterFree);
}

/// Block 0 copies into block 1, with `sent` behind it, and block 1 does `received`.
fn one_way(copy: &str, sent: &str, received: &str, seed: u64) -> Result<Report, Fault> {
    let body = format!(
        "{PREPARE}
         @%p1 mbarrier.arrive.expect_tx.shared::cta.b64 _, [bar], 32;
         {MEET}
         setp.ne.u32 %p3, %r1, 0;
         @%p3 bra RECEIVER;
         {copy}
         {sent}
         ret;
         RECEIVER:
         {received}"
    );
    pair(&body, seed)
}

#[test]
fn copies_hold_sender_and_receiver() {
    let multicast = "mov.u16 %h1, 3;
        @%p1 cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes.multicast::cluster [tile], [%q1], 32, [bar], %h1;";
    let across = "@%p1 cp.async.bulk.shared::cluster.shared::cta.mbarrier::complete_tx::bytes [%r5], [other], 32, [%r6];";
    let sent = WAIT.replace("WAIT", "SENT");
    for seed in 0..6 {
        assert_eq!(kinds(&one_way(multicast, &sent, WAIT, seed)), []);
        let held = format!("{WAIT}\n{MEET}");
        assert_eq!(kinds(&one_way(across, MEET, &held, seed)), []);
    }
    // The receiver returns, perhaps before its bytes arrive.
    caught(|seed| one_way(multicast, &sent, "", seed), FindingKind::UseAfterFree);
    caught(|seed| one_way(across, "", "", seed), FindingKind::UseAfterFree);
    // The sender returns, perhaps before its bytes are read.
    caught(|seed| one_way(across, "", WAIT, seed), FindingKind::UseAfterFree);
}

/// A warp stores its tile in bulk, waits by `wait`, and then `reader` reads what was
/// stored, or writes over it.
fn stored(wait: &str, reader: &str, seed: u64) -> Result<Report, Fault> {
    let body = format!(
        "ld.param.u64 %q1, [x];
         ld.param.u64 %q2, [flag];
         mov.u32 %r8, %ctaid.x;
         shl.b32 %r3, %t, 2;
         mov.u32 %r4, tile;
         add.u32 %r3, %r3, %r4;
         setp.ne.u32 %p4, %r8, 0;
         @%p4 bra OTHER;
         st.shared.u32 [%r3], %t;
         fence.proxy.async.shared::cta;
         bar.sync 0;
         @!%p1 bra AFTER;
         cp.async.bulk.global.shared::cta.bulk_group [%q1], [tile], 256;
         cp.async.bulk.commit_group;
         {wait}
         AFTER:
         {reader}"
    );
    let module = kernel(".param .u64 x, .param .u64 flag", &body);
    let mut memory = Memory::new();
    let x = upload(&mut memory, "x", &[0u8; 1024], u8::to_le_bytes);
    let flag = upload(&mut memory, "flag", &[0u32; 1], u32::to_le_bytes);
    let launch = Launch {
        grid: [2, 1, 1],
        block: [64, 1, 1],
        params: Params::new().u64(x).u64(flag).build(),
        seed,
        ..Launch::new("k")
    };
    let report = module.launch(&mut memory, &launch)?;
    assert_eq!(words(&memory, x, 3)[1..], [1, 2]);
    Ok(report)
}

/// After `wait_group.read` the source may be reused, but nobody has the destination yet.
#[test]
fn a_wait_for_the_source_is_not_one_for_the_destination() {
    let readers = [
        // The thread itself, another warp, a write over it, another block.
        "@%p1 ld.global.u32 %r9, [%q1+8];\n OTHER:",
        "bar.sync 0;\n ld.global.u32 %r9, [%q1+8];\n OTHER:",
        "bar.sync 0;\n setp.eq.u32 %p3, %t, 40;\n @%p3 st.global.u32 [%q1+8], 2;\n \
         @%p3 st.global.u32 [%q1], 77;\n OTHER:",
        "@!%p1 bra END;
         fence.acq_rel.gpu;
         atom.exch.global.b32 %r9, [%q2], 1;
         bra END;
         OTHER:
         ld.relaxed.gpu.global.u32 %r9, [%q2];
         setp.eq.u32 %p3, %r9, 0;
         @%p3 bra OTHER;
         fence.acq_rel.gpu;
         ld.global.u32 %r9, [%q1+8];
         END:",
    ];
    for (n, reader) in readers.into_iter().enumerate() {
        for seed in 0..6 {
            let right = stored("cp.async.bulk.wait_group 0;", reader, seed);
            assert_eq!(kinds(&right), [], "reader {n}, seed {seed}");
            let both = "cp.async.bulk.wait_group.read 0;\ncp.async.bulk.wait_group 0;";
            assert_eq!(kinds(&stored(both, reader, seed)), [], "reader {n}, seed {seed}");
        }
        for wait in ["cp.async.bulk.wait_group.read 0;", "cp.async.bulk.wait_group 1;"] {
            caught(|seed| stored(wait, reader, seed), FindingKind::AsyncRace);
        }
    }
    // The source may be reused, and the launch may end.
    let reuse = "bar.sync 0;\n st.shared.u32 [%r3], 5;\n OTHER:";
    for seed in 0..6 {
        assert_eq!(kinds(&stored("cp.async.bulk.wait_group.read 0;", reuse, seed)), []);
    }
}

/// Threads write to the tile, and then a bulk copy does.
fn overwritten(before: &str, seed: u64) -> Result<Report, Fault> {
    let body = format!(
        "ld.param.u64 %q1, [x];
         shl.b32 %r3, %t, 2;
         mov.u32 %r4, tile;
         add.u32 %r3, %r3, %r4;
         {before}
         {INIT}
         @%p1 mbarrier.arrive.expect_tx.shared::cta.b64 _, [bar], 256;
         @%p1 cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes [tile], [%q1], 256, [bar];
         {WAIT}
         ld.shared.u32 %r9, [%r3];"
    );
    let module = kernel(".param .u64 x", &body);
    let mut memory = Memory::new();
    let x = upload(&mut memory, "x", &[0u8; 1024], u8::to_le_bytes);
    let launch = Launch {
        block: [64, 1, 1],
        params: Params::new().u64(x).build(),
        seed,
        ..Launch::new("k")
    };
    module.launch(&mut memory, &launch)
}

#[test]
fn what_the_async_proxy_writes_over_was_fenced() {
    for seed in 0..6 {
        for before in [
            "st.shared.u32 [%r3], %t;\n fence.proxy.async.shared::cta;",
            "st.shared.u32 [%r3], %t;\n bar.sync 0;\n @%p1 fence.proxy.async;",
            "st.shared.u32 [%r3+256], %t;",
            "st.shared.u32 [%r3+256], %t;\n bar.sync 0;\n ld.shared.u32 %r9, [%r3+256];",
        ] {
            assert_eq!(kinds(&overwritten(before, seed)), [], "{before}");
        }
    }
    for before in [
        "st.shared.u32 [%r3], %t;",
        "st.shared.u32 [%r3], %t;\n fence.proxy.async.global;",
        "fence.proxy.async;\n st.shared.u32 [%r3], %t;",
        "st.shared.u32 [%r3], %t;\n bar.sync 0;\n ld.shared.u32 %r9, [%r3];",
    ] {
        caught(|seed| overwritten(before, seed), FindingKind::MissingProxyFence);
    }
}

/// The first thread changes the map's address from `x` to `y` by `writes`; after `fences`
/// the first thread of warp `user` loads a box, which must come from `y`.
fn rewritten(writes: &str, fences: &str, user: u32, seed: u64) -> Result<Report, Fault> {
    let body = format!(
        "{INIT}
         ld.param.u64 %q1, [map];
         ld.param.u64 %q2, [y];
         ld.param.u64 %q5, [out];
         {writes}
         {fences}
         setp.eq.u32 %p3, %t, {};
         mov.u32 %r1, 0;
         @%p3 mbarrier.arrive.expect_tx.shared::cta.b64 _, [bar], 256;
         @%p3 cp.async.bulk.tensor.2d.shared::cluster.global.tile.mbarrier::complete_tx::bytes [tile], [%q1, {{%r1, %r1}}], [bar];
         {WAIT}
         @%p3 ld.shared.u32 %r9, [tile];
         @%p3 st.global.u32 [%q5], %r9;",
        32 * user
    );
    let module = kernel(".param .u64 map, .param .u64 y, .param .u64 out", &body);
    let mut memory = Memory::new();
    let x = upload(&mut memory, "x", &[1u32; 256], u32::to_le_bytes);
    let y = upload(&mut memory, "y", &[2u32; 256], u32::to_le_bytes);
    let encoded = matrix(TensorElement::U32, x, 32).encode().unwrap();
    let map = upload(&mut memory, "map", &encoded, u8::to_le_bytes);
    let out = memory.alloc(4, "out");
    let launch = Launch {
        block: [64, 1, 1],
        params: Params::new().u64(map).u64(y).u64(out).build(),
        seed,
        ..Launch::new("k")
    };
    let report = module.launch(&mut memory, &launch)?;
    let wanted = if writes.is_empty() { 1 } else { 2 };
    let raced = report.findings.iter().any(|found| found.kind == FindingKind::GlobalRace);
    assert!(raced || words(&memory, out, 1) == [wanted]);
    Ok(report)
}

/// In place.
const REPLACE: &str =
    "@%p1 tensormap.replace.tile.global_address.global.b1024.b64 [%q1], %q2;";
/// Of a copy in shared memory, which the first warp copies back.
const COPY_BACK: &str = "
    mov.u32 %r8, tile;
    mad.lo.u32 %r7, %t, 4, %r8;
    mad.wide.u32 %q3, %t, 4, %q1;
    setp.lt.u32 %p4, %t, 32;
    @%p4 ld.global.u32 %r6, [%q3];
    @%p4 st.shared.u32 [%r7], %r6;
    @%p4 bar.warp.sync -1;
    @%p1 tensormap.replace.tile.global_address.shared::cta.b1024.b64 [tile], %q2;
    @%p4 bar.warp.sync -1;
    @!%p4 bra COPIED;
    tensormap.cp_fenceproxy.global.shared::cta.tensormap::generic.release.gpu.sync.aligned [%q1], [tile], 128;
    COPIED:
    fence.proxy.async.shared::cta;
    bar.sync 0;";
const RELEASE: &str = "fence.proxy.tensormap::generic.release.gpu;";
const ACQUIRE: &str = "fence.proxy.tensormap::generic.acquire.gpu [%q1], 128;";

#[test]
fn a_map_that_the_kernel_rewrites_is_fenced() {
    let both = format!("{RELEASE}\n{ACQUIRE}");
    let met = format!("{RELEASE}\nbar.sync 0;\n{ACQUIRE}");
    let handed = format!("@%p1 {RELEASE}\nbar.sync 0;\n@%p1 {ACQUIRE}\nbar.sync 0;");
    for seed in 0..6 {
        // A map of the host's needs no fence here.
        assert_eq!(kinds(&rewritten("", "", 0, seed)), []);
        assert_eq!(kinds(&rewritten(REPLACE, &both, 0, seed)), []);
        for user in 0..2 {
            assert_eq!(kinds(&rewritten(REPLACE, &met, user, seed)), []);
            assert_eq!(kinds(&rewritten(REPLACE, &handed, user, seed)), []);
            assert_eq!(kinds(&rewritten(COPY_BACK, ACQUIRE, user, seed)), []);
        }
    }
    let swapped = format!("{ACQUIRE}\n{RELEASE}");
    let early = format!("{ACQUIRE}\nbar.sync 0;\n{REPLACE}\n{RELEASE}");
    for (writes, fences, lacks) in [
        (REPLACE, "", "tensormap::generic.release"),
        (REPLACE, "fence.proxy.async;\n", "tensormap::generic.acquire"),
        (REPLACE, "fence.acq_rel.gpu;", "tensormap::generic.release"),
        (REPLACE, RELEASE, "tensormap::generic.acquire"),
        (REPLACE, ACQUIRE, "tensormap::generic.release"),
        (REPLACE, &swapped, "tensormap::generic.acquire"),
        (&early, "", "tensormap::generic.acquire"),
        (COPY_BACK, "", "tensormap::generic.acquire"),
        (COPY_BACK, "fence.proxy.async;", "tensormap::generic.acquire"),
    ] {
        for seed in 0..6 {
            let report = rewritten(writes, fences, 0, seed).unwrap();
            let [finding] = &report.findings[..] else { panic!("{:?}", report.findings) };
            assert_eq!(finding.kind, FindingKind::MissingProxyFence);
            assert!(finding.detail.contains(lacks), "{fences}: {finding}");
            assert_eq!(finding.allocation.as_deref(), Some("map"));
        }
    }
    // Nothing orders the other warp's copy after the change.
    let acquired = format!("{RELEASE}\n{ACQUIRE}");
    caught(|seed| rewritten(REPLACE, &acquired, 1, seed), FindingKind::GlobalRace);
}

/// Block 0 changes the map and sets a flag, block 1 waits for it and loads.
fn changed_by_another_block(
    written: &str,
    taken: &str,
    seed: u64,
) -> Result<Report, Fault> {
    let body = format!(
        "{INIT}
         ld.param.u64 %q1, [map];
         ld.param.u64 %q2, [y];
         ld.param.u64 %q4, [flag];
         mov.u32 %r8, %ctaid.x;
         setp.ne.u32 %p4, %r8, 0;
         @!%p1 bra END;
         @%p4 bra TAKE;
         {REPLACE}
         {written}
         atom.exch.global.b32 %r9, [%q4], 1;
         bra END;
         TAKE:
         ld.relaxed.gpu.global.u32 %r9, [%q4];
         setp.eq.u32 %p3, %r9, 0;
         @%p3 bra TAKE;
         {taken}
         mov.u32 %r1, 0;
         mbarrier.arrive.expect_tx.shared::cta.b64 _, [bar], 256;
         cp.async.bulk.tensor.2d.shared::cluster.global.tile.mbarrier::complete_tx::bytes [tile], [%q1, {{%r1, %r1}}], [bar];
         {WAIT}
         END:"
    );
    let module = kernel(".param .u64 map, .param .u64 y, .param .u64 flag", &body);
    let mut memory = Memory::new();
    let x = upload(&mut memory, "x", &[1u32; 512], u32::to_le_bytes);
    let encoded = matrix(TensorElement::U32, x, 32).encode().unwrap();
    let map = upload(&mut memory, "map", &encoded, u8::to_le_bytes);
    let flag = upload(&mut memory, "flag", &[0u32], u32::to_le_bytes);
    let launch = Launch {
        grid: [2, 1, 1],
        block: [32, 1, 1],
        params: Params::new().u64(map).u64(x + 128).u64(flag).build(),
        seed,
        ..Launch::new("k")
    };
    module.launch(&mut memory, &launch)
}

#[test]
fn a_map_from_another_block_is_fenced() {
    for seed in 0..6 {
        let right = changed_by_another_block(RELEASE, ACQUIRE, seed);
        assert_eq!(kinds(&right), [], "seed {seed}");
    }
    for (written, taken, kind) in [
        (RELEASE, "fence.acq_rel.gpu;", FindingKind::MissingProxyFence),
        ("fence.acq_rel.gpu;", ACQUIRE, FindingKind::MissingProxyFence),
        ("", ACQUIRE, FindingKind::GlobalRace),
        (RELEASE, "", FindingKind::GlobalRace),
    ] {
        caught(|seed| changed_by_another_block(written, taken, seed), kind);
    }
}

/// Every field of a map can be replaced; what the kernel then loads is the other tensor.
#[test]
fn all_fields_of_a_map_are_replaced() {
    let fields = "
        mov.u32 %r7, 1;
        mov.u32 %r8, 16;
        mov.u32 %r9, 2;
        mov.u64 %q6, 80;
        mov.u32 %r10, 20;
        @%p1 tensormap.replace.tile.global_address.global.b1024.b64 [%q1], %q2;
        @%p1 tensormap.replace.tile.rank.global.b1024.b32 [%q1], %r7;
        @%p1 tensormap.replace.tile.box_dim.global.b1024.b32 [%q1], 0, %r8;
        @%p1 tensormap.replace.tile.box_dim.global.b1024.b32 [%q1], 1, %r9;
        @%p1 tensormap.replace.tile.global_dim.global.b1024.b32 [%q1], 0, %r10;
        @%p1 tensormap.replace.tile.global_dim.global.b1024.b32 [%q1], 1, %r10;
        @%p1 tensormap.replace.tile.global_stride.global.b1024.b64 [%q1], 0, %q6;
        @%p1 tensormap.replace.tile.element_stride.global.b1024.b32 [%q1], 1, %r7;
        @%p1 tensormap.replace.tile.elemtype.global.b1024.b32 [%q1], 10;
        @%p1 tensormap.replace.tile.interleave_layout.global.b1024.b32 [%q1], 0;
        @%p1 tensormap.replace.tile.swizzle_mode.global.b1024.b32 [%q1], 1;
        @%p1 tensormap.replace.tile.fill_mode.global.b1024.b32 [%q1], 1;";
    let body = format!("ld.param.u64 %q1, [map];\n ld.param.u64 %q2, [y];\n{fields}");
    let module = kernel(".param .u64 map, .param .u64 y", &body);
    let mut memory = Memory::new();
    let encoded = matrix(TensorElement::U32, 0x1000, 32).encode().unwrap();
    let map = upload(&mut memory, "map", &encoded, u8::to_le_bytes);
    let launch = Launch {
        block: [32, 1, 1],
        params: Params::new().u64(map).u64(0x2000).build(),
        ..Launch::new("k")
    };
    common::clean(&module, &mut memory, &launch);
    let wanted = TensorMap {
        element: TensorElement::BF16,
        address: 0x2000,
        dims: vec![20, 20],
        strides: vec![80],
        box_dims: vec![16, 2],
        swizzle: Swizzle::Bytes32,
        fill: OutOfBoundsFill::Nan,
    };
    let mut got = memory.read(map, 128);
    // The stride of elements is not part of the encoding.
    got[112..117].fill(0);
    assert_eq!(got, wanted.encode().unwrap());
}

/// 64 threads give the other block 16 bytes each, and wait for as many: no barrier of the
/// cluster comes after, since nobody reads what another block has.
const GIVE: &str = "
    mad.lo.u32 %r7, %t, 16, %r5;
    mad.lo.u32 %r8, %t, 16, %r3;
    st.async.weak.shared::cluster.mbarrier::complete_tx::bytes.v4.b32 [%r7], {%t, %t, %t, %t}, [%r6];
    WAIT: mbarrier.try_wait.parity.shared::cta.b64 %p2, [bar], 0;
    @!%p2 bra WAIT;
    ld.shared.u32 %r9, [%r8];
    st.shared.u32 [%r8], %r9;";

/// What comes before: an mbarrier for the bytes, and the start of the other block.
const AWAIT: &str = "
    @%p1 mbarrier.init.shared::cta.b64 [bar], 1;
    @%p1 fence.mbarrier_init.release.cluster;
    @%p1 mbarrier.arrive.expect_tx.shared::cta.b64 _, [bar], 1024;";

#[test]
fn stores_that_an_mbarrier_counts() {
    for seed in 0..6 {
        let report = pair(&format!("{AWAIT}\n{MEET}\n{GIVE}"), seed).unwrap();
        assert_eq!(report.findings, [], "seed {seed}");
        assert_eq!(report.counts.async_bytes, 2 * 1024);
    }
}

#[test]
fn stores_that_an_mbarrier_counts_go_wrong() {
    use FindingKind::*;
    let meet = format!("{AWAIT}\n{MEET}");
    let without = |what: &str| {
        assert!(GIVE.contains(what), "{what}");
        GIVE.replace(what, "")
    };
    let with = |from: &str, to: &str| {
        assert!(GIVE.contains(from), "{from}");
        GIVE.replace(from, to)
    };
    let store = GIVE.lines().find(|line| line.contains("st.async")).unwrap();
    let twice = with(store, &format!("{store}\n{store}"));
    for (what, before, body, kind) in [
        ("nobody waits", &*meet, without("@!%p2 bra WAIT;"), AsyncRace),
        (
            "the block is gone",
            &*meet,
            without(&GIVE[GIVE.find("WAIT").unwrap()..]),
            UseAfterFree,
        ),
        ("the block may not run yet", AWAIT, GIVE.to_owned(), SharedRace),
        ("no mbarrier", MEET, GIVE.to_owned(), Mbarrier),
        ("an mbarrier of another block", &*meet, with("[%r6]", "[%r4]"), BadOperand),
        ("beyond shared memory", &*meet, with("[%r7]", "[%r7+0x40000000]"), OutOfBounds),
        ("not aligned", &*meet, with("[%r7]", "[%r7+4]"), Misaligned),
        ("no such value", &*meet, with("{%t, %t", "{%t, %r19"), Uninitialised),
        ("two at once", &*meet, twice, AsyncRace),
        (
            "bytes that their block reads",
            &*meet,
            format!("ld.shared.u32 %r9, [tile];\n{GIVE}"),
            SharedRace,
        ),
        (
            "fewer bytes than are expected",
            &*meet,
            with("st.async", "@%p1 st.async"),
            Deadlock,
        ),
    ] {
        for seed in 0..4 {
            let outcome = pair(&format!("{before}\n{body}"), seed);
            let found = findings(&outcome);
            assert!(found.iter().any(|f| f.kind == kind), "{what}, seed {seed}: {found:?}");
        }
    }
}

/// Stores 16 bytes by a bulk copy, loads others eight times, and writes the source again; what is
/// before that stands for `WAIT`.
const LINGERS: &str = "
.version 8.0
.target sm_90
.address_size 64
.visible .entry lingers(.param .u64 from, .param .u64 to) {
    .reg .pred %p<2>;
    .reg .b32 %r<4>;
    .reg .b64 %rd<3>;
    .shared .align 16 .b8 source[16];
    .shared .align 16 .b8 tile[16];
    .shared .align 8 .b64 bar;
    ld.param.u64 %rd1, [from];
    ld.param.u64 %rd2, [to];
    mov.u32 %r1, 0;
    mbarrier.init.shared::cta.b64 [bar], 1;
    st.shared.v4.u32 [source], {%r1, %r1, %r1, %r1};
    fence.proxy.async;
    cp.async.bulk.global.shared::cta.bulk_group [%rd2], [source], 16;
    cp.async.bulk.commit_group;
LOAD:
    mbarrier.arrive.expect_tx.shared::cta.b64 _, [bar], 16;
    cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes [tile], [%rd1], 16, [bar];
    and.b32 %r2, %r1, 1;
AGAIN:
    mbarrier.try_wait.parity.shared::cta.b64 %p1, [bar], %r2;
    @!%p1 bra AGAIN;
    add.u32 %r1, %r1, 1;
    setp.ne.u32 %p1, %r1, 8;
    @%p1 bra LOAD;
    WAIT
    st.shared.u32 [source], %r1;
    cp.async.bulk.wait_group 0;
    ret;
}";

#[test]
fn a_source_that_is_written_again_is_found_long_after_its_copy_began() {
    let run = |wait: &str, seed: u64| {
        let module = Module::parse(&LINGERS.replace("WAIT", wait)).unwrap();
        let mut memory = Memory::new();
        let from = upload(&mut memory, "from", &[7u32; 4], u32::to_le_bytes);
        let to = memory.alloc(16, "to");
        let launch = Launch {
            params: Params::new().u64(from).u64(to).build(),
            seed,
            ..Launch::new("lingers")
        };
        module.launch(&mut memory, &launch)
    };
    let mut found = 0;
    for seed in 0..16 {
        assert_eq!(
            kinds(&run("cp.async.bulk.wait_group.read 0;", seed)),
            [],
            "seed {seed}"
        );
        match &kinds(&run("", seed))[..] {
            [] => {}
            [FindingKind::AsyncRace] => found += 1,
            other => panic!("seed {seed}: {other:?}"),
        }
    }
    assert!(found >= 6, "{found} of 16");
}

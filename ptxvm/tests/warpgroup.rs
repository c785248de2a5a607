//! wgmma as one operation of its warpgroup: what a release by one of its warps covers, what
//! its warps must agree on, and whose registers are whose.

mod common;

use common::{bf16, caught, clean, floats, kinds, upload};
use ptxvm::{
    Fault, FindingKind, Launch, Memory, Module, OutOfBoundsFill, Params, Report, Swizzle,
    TensorElement, TensorMap, Unit,
};

/// Kernels with a producer and two consumer warpgroups, as published ones have them.
const PRODUCTS: &str = include_str!("ptx/warpgroup.ptx");

/// A row-major matrix of bf16 as a tensor map.
fn map(
    address: u64,
    (rows, columns): (usize, usize),
    box_rows: u32,
    swizzle: Swizzle,
) -> TensorMap {
    TensorMap {
        element: TensorElement::BF16,
        address,
        dims: vec![columns as u64, rows as u64],
        strides: vec![2 * columns as u64],
        box_dims: vec![64, box_rows],
        swizzle,
        fill: OutOfBoundsFill::Zero,
    }
}

/// C[m, n] of one of the kernels on one cluster, as bits, and what was found.
struct Outcome {
    launch: Result<Report, Fault>,
    got: Vec<u16>,
    wanted: Vec<u16>,
}

/// Runs `entry` on two clusters (or blocks) for six tiles, so that each block has three.
fn product(text: &str, entry: &str, seed: u64) -> Outcome {
    let blocks = if entry == "clustered" { 2 } else { 1 };
    let (tiles_m, tiles_n, k) = (2, 3, 320);
    let (m, n) = (tiles_m * 128 * blocks, tiles_n * 64);
    let mut memory = Memory::new();
    // Sums of at most 256 in size, which bf16 holds exactly.
    let a: Vec<f32> = (0..m * k).map(|i| ((i * 7 + i / k) % 3) as f32 - 1.0).collect();
    let b: Vec<f32> = (0..n * k).map(|i| ((i * 5 + i / k) % 7 / 4) as f32).collect();
    let bits = |list: &[f32]| list.iter().map(|&x| bf16(x)).collect::<Vec<u16>>();
    let pa = upload(&mut memory, "a", &bits(&a), u16::to_le_bytes);
    let pb = upload(&mut memory, "b", &bits(&b), u16::to_le_bytes);
    let pc = memory.alloc(2 * (m * n) as u64, "c");
    let maps = [
        map(pa, (m, k), 128, Swizzle::Bytes128),
        map(pb, (n, k), 64 / blocks as u32, Swizzle::Bytes128),
        map(pc, (m, n), 64, Swizzle::None),
    ];
    let params = maps
        .iter()
        .fold(Params::new(), |params, map| params.bytes(64, &map.encode().unwrap()));
    let launch = Launch {
        grid: [2 * blocks as u32, 1, 1],
        block: [384, 1, 1],
        cluster: [blocks as u32, 1, 1],
        shared_bytes: 3 * 24576 + 16384,
        dynamic_shared_limit: Some(3 * 24576 + 16384),
        params: params
            .i32(tiles_m as i32)
            .i32((tiles_m * tiles_n) as i32)
            .i32((k / 64) as i32)
            .build(),
        seed,
        ..Launch::new(entry)
    };
    let launch = Module::parse(text).unwrap().launch(&mut memory, &launch);
    let bytes = memory.read(pc, 2 * m * n);
    let got = bytes.chunks(2).map(|pair| u16::from_le_bytes([pair[0], pair[1]])).collect();
    let sum = |at: usize| -> f32 {
        let (row, column) = (at / n, at % n);
        (0..k).map(|i| a[row * k + i] * b[column * k + i]).sum()
    };
    let wanted = (0..m * n).map(|at| bf16(sum(at))).collect();
    Outcome { launch, got, wanted }
}

/// One thread of a consumer warpgroup releases a stage for its four warps, after its own
/// wait and without an agreement of the warps.
#[test]
fn one_warp_releases_for_its_warpgroup() {
    for entry in ["persistent", "pipelined", "clustered"] {
        for seed in 0..4 {
            let outcome = product(PRODUCTS, entry, seed);
            assert_eq!(kinds(&outcome.launch), [], "{entry}, seed {seed}");
            assert!(outcome.got == outcome.wanted, "{entry}, seed {seed}");
        }
    }
}

/// The text of one of the kernels, with `from` replaced everywhere in it.
fn planted(entry: &str, from: &str, to: &str) -> String {
    let start = PRODUCTS.find(&format!(".entry {entry}(")).unwrap();
    let end =
        PRODUCTS[start..].find(".visible .entry").map_or(PRODUCTS.len(), |n| start + n);
    let text = PRODUCTS[start..end].replace(from, to);
    assert!(text != PRODUCTS[start..end], "{from}");
    format!("{}{text}{}", &PRODUCTS[..start], &PRODUCTS[end..])
}

#[test]
fn a_stage_released_before_the_wait() {
    for (entry, from, to) in [
        ("persistent", "wait_group.sync.aligned 0;", "wait_group.sync.aligned 1;"),
        ("pipelined", "wait_group.sync.aligned 1;", "wait_group.sync.aligned 2;"),
        ("clustered", "wait_group.sync.aligned 0;", "wait_group.sync.aligned 1;"),
    ] {
        let text = planted(entry, from, to);
        for seed in 0..4 {
            let found = kinds(&product(&text, entry, seed).launch);
            let races = [FindingKind::AsyncRace, FindingKind::SharedRace];
            assert!(found.iter().any(|kind| races.contains(kind)), "{entry} {seed}");
        }
    }
}

#[test]
fn no_fence_in_a_published_pattern() {
    let run = |entry: &'static str, from: &str| {
        let text = planted(entry, from, "");
        move |seed| product(&text, entry, seed).launch
    };
    for entry in ["persistent", "pipelined", "clustered"] {
        caught(run(entry, "wgmma.fence.sync.aligned;"), FindingKind::MissingWgmmaFence);
    }
    let fence = "fence.proxy.async.shared::cta;";
    caught(run("persistent", fence), FindingKind::MissingProxyFence);
}

/// The producers keep the registers that the consumers ask for, or the consumers ask for
/// more than they release.
#[test]
fn registers_that_nobody_releases() {
    let dec = "setmaxnreg.dec.sync.aligned.u32 24;";
    for to in ["", "setmaxnreg.dec.sync.aligned.u32 40;"] {
        let text = planted("persistent", dec, to);
        caught(|seed| product(&text, "persistent", seed).launch, FindingKind::Deadlock);
    }
}

/// The barriers of free stages expect one arrival more, or fewer, than there are.
#[test]
fn another_number_of_arrivals() {
    for (entry, count) in [("persistent", 2), ("clustered", 4)] {
        let text = |to: u32| counted(entry, count, to).expect("the count of arrivals");
        caught(|seed| product(&text(count + 1), entry, seed).launch, FindingKind::Deadlock);
        for seed in 0..4 {
            let found = kinds(&product(&text(count - 1), entry, seed).launch);
            assert!(!found.is_empty(), "{entry}, seed {seed}");
        }
    }
}

/// The kernel with other arrival counts of its second kind of barrier.
fn counted(entry: &str, from: u32, to: u32) -> Option<String> {
    let start = PRODUCTS.find(&format!(".entry {entry}("))?;
    let init = "mbarrier.init.shared::cta.b64 ";
    let at = start + PRODUCTS[start..].match_indices(init).nth(1)?.0;
    let register = PRODUCTS[at..].split([',', ';']).nth(1)?.trim();
    let set = format!("{register}, {from};");
    let end = start + PRODUCTS[start..].find(".visible .entry")?;
    let found = PRODUCTS[start..end].contains(&set);
    found.then(|| planted(entry, &set, &format!("{register}, {to};")))
}

/// A kernel around `body`: `tile` holds A, 64 rows of 16 elements, and B, 8 columns, all
/// ones, in core matrices; `%qa` and `%qb` are their descriptors, `%w` the warp.
fn small(body: &str) -> String {
    format!(
        ".version 8.0
         .target sm_90a
         .address_size 64
         .visible .entry k(.param .u64 out)
         {{
             .reg .pred %p<8>;
             .reg .b32 %r<16>, %t, %w, %lane;
             .reg .f32 %f<8>;
             .reg .b64 %q<16>, %qa, %qb, %out;
             .shared .align 1024 .b8 tile[4096];
             .shared .align 16 .b32 word[4];
             .shared .align 8 .b64 bar;
             ld.param.u64 %out, [out];
             mov.u32 %t, %tid.x;
             shr.u32 %w, %t, 5;
             and.b32 %lane, %t, 31;
             and.b32 %r1, %t, 127;
             mov.u32 %r2, tile;
             mad.lo.u32 %r3, %r1, 32, %r2;
             mov.u32 %r4, 0x3f803f80;
             setp.ge.u32 %p1, %t, 128;
             @%p1 bra FILLED;
             st.shared.v4.b32 [%r3], {{%r4, %r4, %r4, %r4}};
             st.shared.v4.b32 [%r3+16], {{%r4, %r4, %r4, %r4}};
             fence.proxy.async.shared::cta;
             setp.ne.u32 %p1, %t, 0;
             @!%p1 mbarrier.init.shared::cta.b64 [bar], 1;
         FILLED:
             bar.sync 0;
             shr.u32 %r5, %r2, 4;
             cvt.u64.u32 %qa, %r5;
             or.b64 %qa, %qa, {fixed:#x};
             add.u64 %qb, %qa, 128;
             mov.f32 %f1, 0f00000000;
             mov.f32 %f2, 0f00000000;
             mov.f32 %f3, 0f00000000;
             mov.f32 %f4, 0f00000000;
             setp.eq.u32 %p1, %t, %t;
             setp.ne.u32 %p7, %t, %t;
             {body}
             ret;
         }}",
        fixed = (128u64 >> 4) << 16 | (256u64 >> 4) << 32,
    )
}

/// What the four warps do in the simplest case, and the store of the results.
const MMA: &str = "wgmma.mma_async.sync.aligned.m64n8k16.f32.bf16.bf16 \
                   {%f1, %f2, %f3, %f4}, %qa, %qb, %p1, 1, 1, 0, 0;";
const FENCE: &str = "wgmma.fence.sync.aligned;";
const COMMIT: &str = "wgmma.commit_group.sync.aligned;";
const WAIT: &str = "wgmma.wait_group.sync.aligned 0;";
const STORE: &str = "mad.wide.u32 %q1, %t, 16, %out;
                     st.global.v4.f32 [%q1], {%f1, %f2, %f3, %f4};";

fn run_small(body: &str, threads: u32, seed: u64) -> (Result<Report, Fault>, Vec<f32>) {
    let mut memory = Memory::new();
    let out = memory.alloc(16 * 512, "out");
    memory.write(out, &[0; 16 * 512]);
    let launch = Launch {
        block: [threads, 1, 1],
        params: Params::new().u64(out).build(),
        seed,
        ..Launch::new("k")
    };
    let module = Module::parse(&small(body)).unwrap_or_else(|error| panic!("{error}"));
    let outcome = module.launch(&mut memory, &launch);
    (outcome, floats(&memory, out, 4 * threads as usize))
}

#[track_caller]
fn right(body: &str, threads: u32) {
    for seed in 0..4 {
        assert_eq!(kinds(&run_small(body, threads, seed).0), [], "seed {seed}");
    }
}

#[track_caller]
fn wrong(body: &str, threads: u32, kind: FindingKind) {
    caught(|seed| run_small(body, threads, seed).0, kind);
}

/// The launch ends with a fault of the kind whose text has all of the words.
#[track_caller]
fn refused(body: &str, threads: u32, kind: FindingKind, words: &[&str]) {
    for seed in 0..4 {
        let fault = run_small(body, threads, seed).0.unwrap_err();
        let text = fault.to_string();
        assert_eq!(fault.cause.kind, kind, "{text}");
        for word in words {
            assert!(text.contains(word), "seed {seed}: no '{word}' in: {text}");
        }
    }
}

#[test]
fn the_simplest_product() {
    let body = [FENCE, MMA, MMA, COMMIT, WAIT, STORE].join("\n");
    for threads in [128, 256] {
        right(&body, threads);
        let (_, got) = run_small(&body, threads, 7);
        assert_eq!(got, vec![32.0; 4 * threads as usize]);
    }
}

/// Some warps issue a wide product while others have not taken their sums of a narrow one.
#[test]
fn products_of_several_widths() {
    let wide = "wgmma.mma_async.sync.aligned.m64n16k16.f32.bf16.bf16 \
                {%g1, %g2, %g3, %g4, %g5, %g6, %g7, %g8}, %qa, %qb, %p7, 1, 1, 0, 0;";
    let add = "add.f32 %f1, %f1, %g1; add.f32 %f4, %f4, %g8;";
    let body = [".reg .f32 %g<9>;", FENCE, MMA, wide, MMA, wide, COMMIT, WAIT, add, STORE];
    let body = body.join("\n");
    for seed in 0..16 {
        let (outcome, got) = run_small(&body, 256, seed);
        assert_eq!(kinds(&outcome), [], "seed {seed}");
        assert_eq!(got, [48.0, 32.0, 32.0, 48.0].repeat(256), "seed {seed}");
    }
}

#[test]
fn warps_must_agree_on_a_product() {
    let with = |before: &str| [FENCE, before, MMA, COMMIT, WAIT, STORE].join("\n");
    let of_warp_2 = "setp.eq.u32 %p2, %w, 2;\n";
    let another = |change: &str| with(&format!("{of_warp_2}{change}"));
    let bad = FindingKind::BadOperand;
    let rule = "one operation of the four warps of a warpgroup";
    let a = another("@%p2 add.u64 %qa, %qa, 1;");
    refused(&a, 128, bad, &["A's descriptor", rule, "warp 2", "wgmma.mma_async"]);
    let b = another("@%p2 add.u64 %qb, %qb, 1;");
    refused(&b, 128, bad, &["B's descriptor", rule, "warp 2"]);
    let scale = another("@%p2 setp.ne.u32 %p1, %t, %t;");
    refused(&scale, 128, bad, &["scale-d", rule, "warp 2"]);
    let instruction =
        format!("{of_warp_2}@%p2 bra OTHER;\n{MMA}\nbra SAME;\nOTHER: {MMA}\nSAME:");
    let instruction = [FENCE, &instruction, COMMIT, WAIT, STORE].join("\n");
    refused(&instruction, 128, bad, &["the instruction", rule, "PTX line"]);
    // Two warpgroups are two operations.
    right(&with("setp.ge.u32 %p2, %w, 4;\n@%p2 add.u64 %qb, %qb, 1;"), 256);
    right(&with("setp.ge.u32 %p2, %w, 4;\n@%p2 setp.ne.u32 %p1, %t, %t;"), 256);
}

#[test]
fn threads_must_agree_on_a_product() {
    let with = |before: &str| [FENCE, before, MMA, COMMIT, WAIT].join("\n");
    let of_lane_5 = |change: &str| format!("setp.eq.u32 %p2, %lane, 5;\n{change}");
    let bad = FindingKind::BadOperand;
    let a = with(&of_lane_5("@%p2 add.u64 %qa, %qa, 1;"));
    refused(&a, 128, bad, &["the descriptor differs between the warp's threads"]);
    let scale = with(&of_lane_5("@%p2 setp.ne.u32 %p1, %t, %t;"));
    refused(&scale, 128, bad, &["scale-d differs between the warp's threads"]);
}

#[test]
fn descriptors_that_do_not_exist() {
    let with = |before: &str| [before, FENCE, MMA, COMMIT, WAIT].join("\n");
    let bad = FindingKind::BadOperand;
    for bit in [14, 30, 46, 52, 61] {
        let text = with(&format!("or.b64 %qa, %qa, {:#x};", 1u64 << bit));
        refused(&text, 128, bad, &["reserved bits"]);
    }
    let base = format!("or.b64 %qb, %qb, {:#x};", 1u64 << 49);
    refused(&with(&base), 128, bad, &["base offset 1", "only a swizzled layout"]);
    let swizzled = format!("or.b64 %qb, %qb, {:#x};", 5u64 << 49 | 1 << 62);
    let reason = ["base offset 5", "not how addresses are swizzled with it"];
    refused(&with(&swizzled), 128, bad, &reason);
    // 128-byte swizzle, k from byte 112 of a row on; the right one ends at its end.
    let swizzled = |units: u32| {
        let fixed = 1u64 << 16 | (1024u64 >> 4) << 32 | 1 << 62;
        with(&format!(
            "cvt.u64.u32 %qb, %r5;\nadd.u64 %qb, %qb, {units};\nor.b64 %qb, %qb, {fixed:#x};"
        ))
    };
    refused(&swizzled(7), 128, bad, &["leaves the rows of its 128-byte swizzle"]);
    right(&swizzled(6), 128);
}

#[test]
fn half_a_warpgroup() {
    let body = [FENCE, MMA, COMMIT, WAIT].join("\n");
    let bad = FindingKind::BadOperand;
    refused(&body, 96, bad, &["warps 0 to 2", "not a whole warpgroup"]);
    refused(&body, 160, bad, &["warps 4 to 4", "not a whole warpgroup"]);
    // Those that are no part of it may be there.
    right(&format!("setp.ge.u32 %p2, %w, 4;\n@%p2 ret;\n{body}"), 160);
    let gone = "setp.eq.u32 %p2, %w, 3;\n@%p2 ret;";
    refused(&format!("{gone}\n{body}"), 128, bad, &["wgmma", "warp 3", "returned"]);
    let half = "setp.eq.u32 %p2, %t, 100;\n@%p2 ret;";
    refused(&format!("{half}\n{body}"), 128, bad, &["all 32 threads of the warp"]);
}

#[test]
fn another_number_of_products() {
    let twice = format!("setp.ne.u32 %p2, %w, 1;\n@%p2 bra ONCE;\n{MMA}\nONCE:");
    let body = [FENCE, MMA, COMMIT, &twice, WAIT].join("\n");
    refused(
        &body,
        128,
        FindingKind::BadOperand,
        &["warp 1", "wgmma.mma_async", "returned"],
    );
}

/// A warp that never comes to the product, but has not returned.
#[test]
fn a_missing_warp() {
    let body = ["setp.eq.u32 %p2, %w, 3;\n@%p2 bar.sync 1, 64;", FENCE, MMA, COMMIT, WAIT];
    let text = body.join("\n");
    let line =
        1 + small(&text).lines().position(|line| line.contains("mma_async")).unwrap();
    let named = format!("waits at the wgmma at PTX line {line} for warps [3]");
    let at = format!("(PTX line {line}, wgmma.mma_async");
    refused(&text, 128, FindingKind::Deadlock, &[&named, "warp 3", "barrier 1", &at]);
}

/// One warp's wait is enough for the shared memory that a product reads, if the writer
/// knows of it.
#[test]
fn one_wait_ends_the_reads_of_all_warps() {
    let overwrite = "setp.ne.u32 %p2, %t, 96;\n@%p2 bra KEPT;\nst.shared.b32 [%r2], %r4;\n\
                     st.shared.b32 [%r2+2048], %lane;\nKEPT:";
    let of_warp_0 = "setp.ne.u32 %p2, %w, 0;\n@%p2 bra LATER;\n\
                     wgmma.wait_group.sync.aligned 0;\nLATER:";
    let body = |wait: &str, barrier: &str| {
        [FENCE, MMA, COMMIT, wait, barrier, overwrite, WAIT].join("\n")
    };
    right(&body(of_warp_0, "bar.sync 0;"), 128);
    right(&body(WAIT, ""), 128);
    for (wait, barrier) in [("", "bar.sync 0;"), (of_warp_0, "")] {
        for seed in 0..4 {
            let found = kinds(&run_small(&body(wait, barrier), 128, seed).0);
            let races = [FindingKind::AsyncRace, FindingKind::SharedRace];
            assert!(found.iter().any(|kind| races.contains(kind)), "seed {seed}");
        }
    }
}

/// A warp's accumulators are its own after its own wait, whoever else has waited.
#[test]
fn accumulators_need_their_own_wait() {
    let of_warp_0 = "setp.ne.u32 %p2, %w, 0;\n@%p2 bra LATER;\n\
                     wgmma.wait_group.sync.aligned 0;\nLATER:\nbar.sync 0;";
    let body = |wait: &str| [FENCE, MMA, COMMIT, wait, STORE, WAIT].join("\n");
    wrong(&body(of_warp_0), 128, FindingKind::AccumulatorInFlight);
    right(&body(WAIT), 128);
}

/// Products order nothing among the warps.
#[test]
fn a_product_is_no_barrier() {
    let body = |barrier: &str| {
        [
            "setp.ne.u32 %p2, %t, 32;\n@!%p2 st.shared.b32 [word], %r4;",
            FENCE,
            MMA,
            COMMIT,
            WAIT,
            barrier,
            "setp.ne.u32 %p2, %t, 64;\n@!%p2 ld.shared.b32 %r9, [word];",
        ]
        .join("\n")
    };
    wrong(&body(""), 128, FindingKind::SharedRace);
    right(&body("bar.sync 0;"), 128);
}

/// What a product reads must be known to the warps that need it: B to all of them, rows of
/// A to their own warp.
#[test]
fn each_warp_knows_of_what_it_reads() {
    // Each warp's 16 rows of A are 512 bytes.
    let rows = |which: &str, order: &str| {
        let store = format!(
            "{which}
             mad.lo.u32 %r6, %r6, 512, %r2;
             mad.lo.u32 %r6, %lane, 16, %r6;
             st.shared.v4.b32 [%r6], {{%r4, %r4, %r4, %r4}};
             fence.proxy.async.shared::cta;
             {order}"
        );
        [&store, FENCE, MMA, COMMIT, WAIT].join("\n")
    };
    let (own, next) = ("mov.u32 %r6, %w;", "add.u32 %r6, %w, 1;\nand.b32 %r6, %r6, 3;");
    right(&rows(own, "bar.warp.sync -1;"), 128);
    wrong(&rows(next, "bar.warp.sync -1;"), 128, FindingKind::SharedRace);
    wrong(&rows(own, ""), 128, FindingKind::SharedRace);
    right(&rows(next, "bar.sync 0;"), 128);
    let of_b = |order: &str| {
        let store = format!(
            "setp.ne.u32 %p2, %t, 32;
             @!%p2 st.shared.b32 [%r2+2048], %r4;
             fence.proxy.async.shared::cta;
             {order}"
        );
        [&store, FENCE, MMA, COMMIT, WAIT].join("\n")
    };
    wrong(&of_b("bar.warp.sync -1;"), 128, FindingKind::SharedRace);
    right(&of_b("bar.sync 0;"), 128);
}

#[test]
fn a_fence_of_each_warp() {
    let some = format!("setp.eq.u32 %p2, %w, 2;\n@%p2 bra NONE;\n{FENCE}\nNONE:");
    let body = |fence: &str| [fence, MMA, COMMIT, WAIT, STORE].join("\n");
    wrong(&body(&some), 128, FindingKind::MissingWgmmaFence);
    right(&body(FENCE), 128);
}

/// Two chains of products for each step, in turn, and scale-d as an immediate.
#[test]
fn a_wide_tile() {
    let (m, n, k) = (256usize, 128usize, 256usize);
    let mut memory = Memory::new();
    let a: Vec<f32> = (0..m * k).map(|i| ((i * 7 + i / k) % 5) as f32 - 2.0).collect();
    let b: Vec<f32> = (0..n * k).map(|i| ((i * 5 + i / k) % 7) as f32 - 3.0).collect();
    let bits = |list: &[f32]| list.iter().map(|&x| bf16(x)).collect::<Vec<u16>>();
    let pa = upload(&mut memory, "a", &bits(&a), u16::to_le_bytes);
    let pb = upload(&mut memory, "b", &bits(&b), u16::to_le_bytes);
    let pc = memory.alloc(4 * (m * n) as u64, "c");
    let maps = [(pa, m), (pb, n)]
        .map(|(address, rows)| map(address, (rows, k), rows as u32, Swizzle::Bytes128));
    let params = Params::new()
        .bytes(64, &maps[0].encode().unwrap())
        .bytes(64, &maps[1].encode().unwrap());
    let launch = Launch {
        block: [384, 1, 1],
        shared_bytes: 3 * 49152,
        dynamic_shared_limit: Some(3 * 49152),
        params: params.u64(pc).i32((k / 64) as i32).build(),
        ..Launch::new("wide")
    };
    let module = Module::parse(PRODUCTS).unwrap();
    let report = clean(&module, &mut memory, &launch);
    let sum = |row: usize, column: usize| -> f32 {
        (0..k).map(|i| a[row * k + i] * b[column * k + i]).sum()
    };
    let wanted: Vec<f32> = (0..m * n).map(|at| sum(at / n, at % n)).collect();
    assert!(floats(&memory, pc, m * n) == wanted);
    assert_eq!(report.counts.flops_of(Unit::TensorBF16), 2 * (m * n * k) as u64);
}

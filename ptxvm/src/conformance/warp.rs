//! Exchanges within a warp, and threads that diverge and reconverge.

use super::Program;
use super::draft::Draft;

/// The value of a lane.
fn own(lane: u32) -> u32 {
    lane * 11 % 37 + 1000 * lane
}

/// Where lane `lane` reads from, and whether that is within its segment: the ISA's
/// pseudocode of `shfl.sync`.
fn shuffled(mode: &str, lane: u32, b: u32, c: u32) -> (u32, bool) {
    let (b, clamp, segment) = (b & 31, c & 31, c >> 8 & 31);
    let last = lane & segment | clamp & !segment;
    let first = lane & segment;
    let (from, inside) = match mode {
        "up" => {
            let from = lane as i32 - b as i32;
            (from as u32, from >= last as i32)
        }
        "down" => (lane + b, lane + b <= last),
        "bfly" => (lane ^ b, lane ^ b <= last),
        _ => {
            let from = first | b & !segment;
            (from, from <= last)
        }
    };
    (if inside { from } else { lane }, inside)
}

fn shuffles() -> Vec<Program> {
    let mut programs = Vec::new();
    for mode in ["up", "down", "bfly", "idx"] {
        let clamp = if mode == "up" { 0 } else { 31 };
        let mut draft = Draft::new("shuffle", format!("shfl.sync.{mode}.b32"));
        draft.input_words((0..32).map(own));
        draft.code("mad.wide.u32 %q1, %t, 4, %in;\nld.global.u32 %r2, [%q1];");
        // Whole warps, segments of 8 and of 2, and a clamp within.
        for c in [clamp, 0x1800 | clamp, 0x1e00 | clamp, if mode == "up" { 3 } else { 20 }]
        {
            for b in [0, 1, 5, 16, 31] {
                draft.code(&format!(
                    "shfl.sync.{mode}.b32 %r3|%p1, %r2, {b}, {c:#x}, 0xffffffff;"
                ));
                let label = format!("b {b}, c {c:#x}");
                draft.put(&label, "%r3", |t| own(shuffled(mode, t, b, c).0));
                draft.put_predicate(&label, "%p1", |t| shuffled(mode, t, b, c).1);
            }
        }
        // A different distance for each lane.
        draft.code(&format!(
            "mad.lo.u32 %r4, %t, 7, 3;
             shfl.sync.{mode}.b32 %r3|%p1, %r2, %r4, {clamp}, 0xffffffff;"
        ));
        let place = |t: u32| shuffled(mode, t, 7 * t + 3, clamp);
        if mode == "idx" || mode == "bfly" {
            draft.put("b 7 t + 3", "%r3", |t| own(place(t).0));
        }
        draft.put_predicate("b 7 t + 3", "%p1", |t| place(t).1);
        programs.push(draft.finish());
    }
    programs
}

fn half_warps() -> Program {
    let mut draft = Draft::new("shuffle", "shfl.sync of either half of a warp");
    draft.code(
        "setp.ge.u32 %p1, %t, 16;
         mul.lo.u32 %r2, %t, 3;
         @%p1 bra UPPER;
         shfl.sync.bfly.b32 %r3, %r2, 1, 0x1f, 0x0000ffff;
         bra MEET;
         UPPER:
         shfl.sync.bfly.b32 %r3, %r2, 2, 0x1f, 0xffff0000;
         MEET:
         bar.warp.sync 0xffffffff;
         shfl.sync.idx.b32 %r4, %r3, 31, 0x1f, 0xffffffff;",
    );
    draft.put("within the half", "%r3", |t| 3 * if t < 16 { t ^ 1 } else { t ^ 2 });
    draft.put("across", "%r4", |_| 3 * (31 ^ 2));
    draft.finish()
}

/// The lanes, as bits, that a condition holds for.
fn lanes(holds: impl Fn(u32) -> bool) -> u32 {
    (0..32).filter(|&lane| holds(lane)).map(|lane| 1 << lane).sum()
}

fn votes() -> Program {
    let mut draft = Draft::new("vote", "vote.sync");
    for (name, mask) in [("all", u32::MAX), ("some", 0x00ff_0f05), ("none", 0)] {
        draft.code(&format!(
            "shr.u32 %r2, {mask:#x}, %t;
             and.b32 %r2, %r2, 1;
             setp.ne.u32 %p1, %r2, 0;
             vote.sync.ballot.b32 %r3, %p1, 0xffffffff;
             vote.sync.all.pred %p2, %p1, 0xffffffff;
             vote.sync.any.pred %p3, %p1, 0xffffffff;
             vote.sync.uni.pred %p4, %p1, 0xffffffff;
             vote.sync.ballot.b32 %r4, !%p1, 0xffffffff;"
        ));
        draft.put(&format!("ballot of {name}"), "%r3", |_| mask);
        draft.put_predicate(&format!("all of {name}"), "%p2", |_| mask == u32::MAX);
        draft.put_predicate(&format!("any of {name}"), "%p3", |_| mask != 0);
        draft.put_predicate(&format!("uni of {name}"), "%p4", |_| name != "some");
        draft.put(&format!("ballot of not {name}"), "%r4", |_| !mask);
    }
    draft.code("activemask.b32 %r5;");
    draft.put("activemask", "%r5", |_| u32::MAX);
    draft.finish()
}

fn matches() -> Program {
    let mut draft = Draft::new("vote", "match.sync");
    draft.code(
        "mul.lo.u32 %r2, %t, %t;
         rem.u32 %r2, %r2, 5;
         match.any.sync.b32 %r3, %r2, 0xffffffff;
         match.all.sync.b32 %r4|%p1, %r2, 0xffffffff;
         match.all.sync.b32 %r5|%p2, 7, 0xffffffff;
         cvt.u64.u32 %q1, %r2;
         shl.b64 %q1, %q1, 40;
         match.any.sync.b64 %r6, %q1, 0xffffffff;",
    );
    let same = |t: u32| lanes(|lane| lane * lane % 5 == t * t % 5);
    draft.put("any of 32 bits", "%r3", same);
    draft.put("all of different ones", "%r4", |_| 0);
    draft.put_predicate("all of different ones", "%p1", |_| false);
    draft.put("all of the same", "%r5", |_| u32::MAX);
    draft.put_predicate("all of the same", "%p2", |_| true);
    draft.put("any of 64 bits", "%r6", same);
    draft.finish()
}

/// Two values in one.
type Combine = fn(u32, u32) -> u32;

fn reductions() -> Program {
    let mut draft = Draft::new("vote", "redux.sync");
    draft.input_words((0..32u32).map(|t| t.wrapping_mul(0x0765_4321)));
    draft.code(
        "mad.wide.u32 %q1, %t, 4, %in;
         ld.global.u32 %r2, [%q1];
         shf.l.wrap.b32 %r2, %r2, %r2, %t;
         xor.b32 %r2, %r2, 0x80000001;",
    );
    let value = |t: u32| t.wrapping_mul(0x0765_4321).rotate_left(t) ^ 0x8000_0001;
    let fold = |f: fn(u32, u32) -> u32| (0..32).map(value).reduce(f).unwrap_or_default();
    let operations: [(&str, Combine); 8] = [
        ("add.u32", u32::wrapping_add),
        ("min.u32", |a, b| a.min(b)),
        ("max.u32", |a, b| a.max(b)),
        ("min.s32", |a, b| (a as i32).min(b as i32) as u32),
        ("max.s32", |a, b| (a as i32).max(b as i32) as u32),
        ("and.b32", |a, b| a & b),
        ("or.b32", |a, b| a | b),
        ("xor.b32", |a, b| a ^ b),
    ];
    for (name, f) in operations {
        draft.code(&format!("redux.sync.{name} %r3, %r2, 0xffffffff;"));
        draft.put(name, "%r3", |_| fold(f));
    }
    draft.finish()
}

/// The ISA leaves open which lane is elected, but it must be one lane, and all lanes must
/// get the same answer.
fn election() -> Program {
    let mut draft = Draft::new("vote", "elect.sync").needs("sm_90", "8.0");
    draft.code(
        "elect.sync %r2|%p1, 0xffffffff;
         vote.sync.ballot.b32 %r3, %p1, 0xffffffff;
         popc.b32 %r4, %r3;
         bfind.u32 %r5, %r3;
         setp.eq.u32 %p2, %r5, %r2;",
    );
    draft.put("how many", "%r4", |_| 1);
    draft.put_predicate("the one that all know", "%p2", |_| true);
    draft.finish()
}

fn collatz(mut n: u32) -> u32 {
    let mut steps = 0;
    while n > 1 {
        n = if n.is_multiple_of(2) { n / 2 } else { 3 * n + 1 };
        steps += 1;
    }
    steps
}

fn loops_of_different_lengths() -> Program {
    let mut draft = Draft::new("divergence", "loops of different lengths");
    draft.code(
        "add.u32 %r2, %t, 1;
         mov.u32 %r3, 0;
         AGAIN:
         setp.le.u32 %p1, %r2, 1;
         @%p1 bra DONE;
         add.u32 %r3, %r3, 1;
         and.b32 %r4, %r2, 1;
         setp.eq.u32 %p2, %r4, 0;
         @%p2 bra EVEN;
         mad.lo.u32 %r2, %r2, 3, 1;
         bra AGAIN;
         EVEN:
         shr.u32 %r2, %r2, 1;
         bra AGAIN;
         DONE:
         bar.warp.sync 0xffffffff;
         shfl.sync.bfly.b32 %r5, %r3, 1, 0x1f, 0xffffffff;",
    );
    draft.put("steps", "%r3", |t| collatz(t + 1));
    draft.put("steps of the neighbour", "%r5", |t| collatz((t ^ 1) + 1));
    draft.finish()
}

fn branches_within_branches() -> Program {
    let mut draft = Draft::new("divergence", "branches within branches");
    draft.code(
        "mov.u32 %r2, 0;
         and.b32 %r3, %t, 1;
         setp.eq.u32 %p1, %r3, 0;
         and.b32 %r3, %t, 2;
         setp.eq.u32 %p2, %r3, 0;
         @%p1 bra LEFT;
         @%p2 bra RIGHT_LEFT;
         vote.sync.ballot.b32 %r2, 1, 0x88888888;
         bra RIGHT_MEET;
         RIGHT_LEFT:
         vote.sync.ballot.b32 %r2, 1, 0x22222222;
         RIGHT_MEET:
         bar.warp.sync 0xaaaaaaaa;
         bra MEET;
         LEFT:
         vote.sync.ballot.b32 %r2, %p2, 0x55555555;
         MEET:
         bar.warp.sync 0xffffffff;
         vote.sync.ballot.b32 %r4, %p1, 0xffffffff;",
    );
    draft.put("within", "%r2", |t| match t % 4 {
        3 => 0x8888_8888,
        1 => 0x2222_2222,
        _ => 0x1111_1111,
    });
    draft.put("afterwards", "%r4", |_| 0x5555_5555);
    draft.finish()
}

fn indexed_branches() -> Program {
    let mut draft = Draft::new("divergence", "brx.idx");
    draft.code(
        "rem.u32 %r2, %t, 3;
         TARGETS: .branchtargets ZERO, ONE, TWO;
         brx.idx %r2, TARGETS;
         ZERO: mov.u32 %r3, 100;
         bra MEET;
         ONE: mov.u32 %r3, 200;
         bra MEET;
         TWO: mov.u32 %r3, 300;
         MEET:
         bar.warp.sync 0xffffffff;
         redux.sync.add.u32 %r4, %r3, 0xffffffff;",
    );
    draft.put("where it went", "%r3", |t| 100 * (t % 3 + 1));
    draft.put("all together", "%r4", |_| (0..32).map(|t| 100 * (t % 3 + 1)).sum());
    draft.finish()
}

/// Threads that have returned are not waited for.
fn early_exits() -> Program {
    let mut draft = Draft::new("divergence", "threads that leave early").threads(64);
    draft.code("mul.lo.u32 %r2, %t, 5;");
    draft.put("before", "%r2", |t| 5 * t);
    draft.code(
        "and.b32 %r3, %t, 3;
         setp.ne.u32 %p1, %r3, 0;
         @%p1 exit;
         vote.sync.ballot.b32 %r4, 1, 0x11111111;",
    );
    let offset = draft.column(4);
    draft.code("st.global.b32 [%q31], %r4;");
    for thread in (0..64).step_by(4) {
        let wanted = super::draft::bits(0x1111_1111);
        draft.case(
            format!("after the barrier, thread {thread}"),
            offset + 4 * thread,
            4,
            wanted,
        );
    }
    draft.finish()
}

pub(super) fn programs() -> Vec<Program> {
    let mut programs = shuffles();
    programs.extend([half_warps(), votes(), matches(), reductions(), election()]);
    programs.extend([
        loops_of_different_lengths(),
        branches_within_branches(),
        indexed_branches(),
        early_exits(),
    ]);
    programs
}

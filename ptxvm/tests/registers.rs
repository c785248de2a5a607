//! `setmaxnreg`: the registers of a block, and who must change them together.

mod common;

use common::{caught, kinds};
use ptxvm::{Fault, FindingKind, Launch, Memory, Module, Report};

/// One block of 384 threads with 168 registers each.
const ONE_BLOCK: &str = ".maxntid 384, 1, 1\n.minnctapersm 1";

/// A kernel with `%w` the warp and `%g` the warpgroup.
fn kernel(directives: &str, body: &str) -> String {
    format!(
        ".version 8.0
         .target sm_90a
         .address_size 64
         .visible .entry k()
         {directives}
         {{
             .reg .pred %p<8>;
             .reg .b32 %r<8>, %t, %w, %g;
             mov.u32 %t, %tid.x;
             shr.u32 %w, %t, 5;
             shr.u32 %g, %t, 7;
             setp.eq.u32 %p1, %g, 0;
             {body}
             ret;
         }}"
    )
}

/// The first warpgroup executes `first`, the others `others`.
fn roles(first: &str, others: &str) -> String {
    format!("@%p1 bra FIRST;\n{others}\nbra DONE;\nFIRST:\n{first}\nDONE:")
}

fn run(directives: &str, body: &str, threads: u32, seed: u64) -> Result<Report, Fault> {
    let module = Module::parse(&kernel(directives, body)).unwrap();
    let launch = Launch { block: [threads, 1, 1], seed, ..Launch::new("k") };
    module.launch(&mut Memory::new(), &launch)
}

fn dec(count: u32) -> String {
    format!("setmaxnreg.dec.sync.aligned.u32 {count};")
}

fn inc(count: u32) -> String {
    format!("setmaxnreg.inc.sync.aligned.u32 {count};")
}

#[track_caller]
fn right(directives: &str, body: &str, threads: u32) {
    for seed in 0..4 {
        assert_eq!(kinds(&run(directives, body, threads, seed)), [], "seed {seed}");
    }
}

/// Under every seed a finding of the kind has all of the words.
#[track_caller]
fn says(directives: &str, body: &str, threads: u32, kind: FindingKind, words: &[&str]) {
    caught(|seed| run(directives, body, threads, seed), kind);
    for seed in 0..4 {
        let all = match run(directives, body, threads, seed) {
            Ok(report) => report.findings,
            Err(fault) => fault.findings.into_iter().chain([*fault.cause]).collect(),
        };
        let texts: Vec<String> = all.iter().map(ToString::to_string).collect();
        let found = texts.iter().any(|text| words.iter().all(|word| text.contains(word)));
        assert!(found, "seed {seed}: {words:?} in {texts:?}");
    }
}

/// 384 threads have 64512 registers: 24 for the producers leave 240 for the others.
#[test]
fn the_registers_of_a_block() {
    right(ONE_BLOCK, &roles(&dec(24), &inc(240)), 384);
    right(ONE_BLOCK, &roles(&dec(40), &inc(232)), 384);
    // A file of two groups more than the others have.
    let text =
        ["1024 registers more than", "168 for each of its 384 threads", "setmaxnreg.inc"];
    let deadlock = FindingKind::Deadlock;
    says(ONE_BLOCK, &roles(&dec(40), &inc(240)), 384, deadlock, &text[1..]);
    says(ONE_BLOCK, &roles(&dec(32), &inc(240)), 384, deadlock, &text);
    // Nobody releases any: 2 * 128 * (240 - 168).
    let none = ["18432 registers more than", "168 for each", "waits at the setmaxnreg"];
    says(ONE_BLOCK, &roles("", &inc(240)), 384, deadlock, &none);
    let all = ["27648 registers more than"];
    says(ONE_BLOCK, &inc(240), 384, deadlock, &all);
}

/// A warpgroup waits until another releases registers.
#[test]
fn registers_that_come_late() {
    let late = format!("{}\nbar.sync 1, 384;", dec(24));
    let early = format!("bar.sync 1, 384;\n{}", inc(240));
    right(ONE_BLOCK, &roles(&late, &early), 384);
    // The producers wait for what needs their registers.
    let circle = format!("bar.sync 1, 384;\n{}", dec(24));
    let inside = format!("{}\nbar.sync 1, 384;", inc(240));
    let deadlock = FindingKind::Deadlock;
    says(ONE_BLOCK, &roles(&circle, &inside), 384, deadlock, &["18432 registers more"]);
}

/// What a thread is launched with: by threads and blocks, `.maxnreg`, and the largest
/// count that an inc asks for.
#[test]
fn registers_at_the_launch() {
    let bad = FindingKind::BadOperand;
    for (directives, threads, has) in [
        (".maxntid 384, 1, 1\n.minnctapersm 1", 384, 168),
        (".reqntid 384, 1, 1\n.minnctapersm 1", 384, 168),
        (".maxntid 400, 1, 1\n.minnctapersm 1", 384, 128),
        (".maxntid 256, 1, 1\n.minnctapersm 2", 256, 128),
        (".maxntid 160, 1, 1\n.minnctapersm 2", 128, 168),
        (".maxntid 288, 1, 1\n.minnctapersm 2", 256, 96),
        (".maxntid 256, 1, 1\n.minnctapersm 1", 256, 256),
        (".maxnreg 104", 256, 104),
        (".maxntid 256, 1, 1\n.minnctapersm 1\n.maxnreg 104", 256, 104),
    ] {
        right(directives, &dec(has), threads);
        if has < 256 {
            let more = dec(has + 8);
            let text = format!("that has {has} registers");
            says(directives, &more, threads, bad, &[&text, "at least"]);
        }
    }
    // At most what an inc asks for.
    let two = ".maxntid 256, 1, 1\n.minnctapersm 1";
    right(two, &roles(&dec(40), &inc(232)), 256);
    says(two, &roles(&dec(240), &inc(232)), 256, bad, &["that has 232 registers"]);
}

/// Without a known number of registers ptxas leaves the instruction out.
#[test]
fn registers_that_are_not_known() {
    for directives in ["", ".maxntid 384, 1, 1", ".minnctapersm 1"] {
        right(directives, &inc(240), 384);
        right(directives, &roles(&dec(240), &inc(24)), 384);
    }
}

#[test]
fn the_wrong_direction() {
    let bad = FindingKind::BadOperand;
    let then = |list: &[String]| list.join("\nbar.sync 0;\n");
    let twice = |second: String| then(&[dec(64), second]);
    let text = ["setmaxnreg.dec 80", "that has 64 registers", "at least 80"];
    says(ONE_BLOCK, &twice(dec(80)), 384, bad, &text);
    right(ONE_BLOCK, &twice(inc(80)), 384);
    let text = ["setmaxnreg.inc 48", "that has 72 registers", "at most 48"];
    says(ONE_BLOCK, &then(&[dec(64), inc(72), inc(48)]), 384, bad, &text);
    right(ONE_BLOCK, &twice(dec(48)), 384);
}

#[test]
fn counts_that_do_not_exist() {
    for count in [16, 30, 264] {
        let error = Module::parse(&kernel(ONE_BLOCK, &dec(count))).unwrap_err();
        assert!(error.to_string().contains("multiple of 8 from 24 to 256"), "{error}");
    }
}

#[test]
fn a_warpgroup_changes_its_registers_together() {
    let bad = FindingKind::BadOperand;
    let rule = "all four warps of a warpgroup must execute the same setmaxnreg";
    // One warp does not.
    let three = format!("setp.eq.u32 %p2, %w, 2;\n@%p2 bra SKIP;\n{}\nSKIP:", dec(24));
    says(ONE_BLOCK, &three, 384, bad, &[rule, "warp 2 has returned"]);
    // One warp executes another.
    let other = format!(
        "setp.eq.u32 %p2, %w, 2;\n@%p2 bra OTHER;\n{}\nbra SAME;\nOTHER: {}\nSAME:",
        dec(24),
        dec(32)
    );
    says(ONE_BLOCK, &other, 384, bad, &[rule, "warp 2 ", "PTX line"]);
    // Two threads short of a warpgroup, and a fifth warp.
    says(ONE_BLOCK, &dec(24), 160, bad, &[rule, "warps 4 to 4"]);
    let first = format!("@!%p1 bra SKIP;\n{}\nSKIP:", dec(24));
    right(ONE_BLOCK, &first, 160);
    let half = format!("setp.eq.u32 %p2, %t, 5;\n@%p2 ret;\n{}", dec(24));
    says(ONE_BLOCK, &half, 384, bad, &[rule, "some threads of warp 0"]);
}

#[test]
fn a_warpgroup_agrees_between_two_changes() {
    let body = |between: &str| format!("{}\n{between}\n{}", dec(64), dec(24));
    let text = "must synchronise after a setmaxnreg before the next";
    says(ONE_BLOCK, &body(""), 384, FindingKind::BadOperand, &[text]);
    right(ONE_BLOCK, &body("add.u32 %r1, %g, 1;\nbar.sync %r1, 128;"), 384);
}

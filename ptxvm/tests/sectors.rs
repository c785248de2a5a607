//! Races in global memory where whole sectors are accessed first, and then lanes' words,
//! single bytes or halves of them: what is kept of a sector becomes finer and forgets
//! nothing. Each mistake has its twin without it.

mod common;

use common::{caught, kinds};
use ptxvm::{Fault, FindingKind, Launch, Memory, Module, Params, Report};

/// A kernel of 32 threads a block around `body`, with `%r1` the thread, `%r2` the block and
/// one more, `%rd1` an array of 1024 zeros, `%rd2` the thread's word of it and `%p1`, `%p2`
/// and `%p3` for the blocks 0, 1 and 2.
fn run(body: &str, blocks: u32, seed: u64) -> Result<Report, Fault> {
    let text = format!(
        ".version 8.6\n.target sm_90a\n.address_size 64\n\
         .visible .entry k(.param .u64 x)\n{{\n.reg .pred %p<8>;\n.reg .b32 %r<16>;\n\
         .reg .b64 %rd<8>;\nld.param.u64 %rd1, [x];\nmov.u32 %r1, %tid.x;\n\
         mov.u32 %r2, %ctaid.x;\nsetp.eq.u32 %p1, %r2, 0;\nsetp.eq.u32 %p2, %r2, 1;\n\
         setp.eq.u32 %p3, %r2, 2;\nmul.wide.u32 %rd2, %r1, 4;\nadd.s64 %rd2, %rd1, %rd2;\n\
         add.u32 %r2, %r2, 1;\nadd.u32 %r3, %r1, 77;\n{}\nret;\n}}\n",
        body.replace(';', ";\n")
    );
    let module = Module::parse(&text).unwrap_or_else(|error| panic!("{error}\n{text}"));
    let mut memory = Memory::new();
    let x = memory.alloc(1024, "x");
    memory.write(x, &[0; 1024]);
    let launch = Launch {
        grid: [blocks, 1, 1],
        block: [32, 1, 1],
        params: Params::new().u64(x).build(),
        seed,
        ..Launch::new("k")
    };
    module.launch(&mut memory, &launch)
}

/// Under no seed anything is found.
#[track_caller]
fn quiet(body: &str, blocks: u32) {
    for seed in 0..6 {
        assert_eq!(kinds(&run(body, blocks, seed)), [], "seed {seed}: {body}");
    }
}

/// Under every seed a race is found.
#[track_caller]
fn races(body: &str, blocks: u32) {
    caught(|seed| run(body, blocks, seed), FindingKind::GlobalRace);
}

#[test]
fn lanes_of_a_line() {
    let own = "st.global.u32 [%rd2], %r3;";
    // One lane's second store makes the first sector finer.
    let again = "setp.eq.u32 %p4, %r1, 5; @%p4 st.global.u32 [%rd2], %r1;";
    // The lane after it reads its own word, or that of the one behind.
    let read = |lane: u32, offset: u32| {
        format!("setp.eq.u32 %p5, %r1, {lane}; @%p5 ld.global.u32 %r4, [%rd2+{offset}];")
    };
    for lane in [4, 6, 12] {
        quiet(&format!("{own}{again}{}", read(lane, 0)), 1);
        races(&format!("{own}{again}{}", read(lane, 4)), 1);
        races(&format!("{own}{}", read(lane, 4)), 1);
        quiet(&format!("{own}{again} bar.warp.sync -1; {}", read(lane, 4)), 1);
    }
    // Pairs of words, and every second word, by the same lanes.
    let pair = "add.s64 %rd3, %rd2, %rd2; sub.s64 %rd3, %rd3, %rd1;";
    let singly = "st.global.u32 [%rd3], %r3; st.global.u32 [%rd3+4], %r3;";
    let both = "ld.global.v2.u32 {%r4, %r5}, [%rd3];";
    quiet(&format!("{pair}{singly}{both}"), 1);
    races(&format!("{pair}{singly} xor.b32 %r6, %r1, 1; ld.global.u32 %r4, [%rd2];"), 1);
}

/// All lanes read one word, and one lane writes it.
#[test]
fn lanes_that_share_a_word() {
    for writer in [0, 1, 9, 31] {
        let write =
            format!("setp.eq.u32 %p4, %r1, {writer}; @%p4 st.global.u32 [%rd1], %r3;");
        for read in
            ["ld.global.u32 %r4, [%rd1];", "ld.global.v4.u32 {%r4, %r5, %r6, %r7}, [%rd1];"]
        {
            races(&format!("{write}{read}"), 1);
            races(&format!("{read}{write}"), 1);
            quiet(&format!("{write} bar.warp.sync -1; {read}"), 1);
            quiet(&format!("{read} bar.warp.sync -1; {write}"), 1);
            // Only the writer reads.
            quiet(&format!("{write} @%p4 {read} @%p4 st.global.u32 [%rd1], %r1;"), 1);
        }
    }
    // All lanes get the word.
    let body = "st.global.u32 [%rd2], %r3; bar.warp.sync -1; ld.global.u32 %r4, [%rd1+8]; \
                setp.eq.u32 %p4, %r4, 79; @%p4 bra END; trap; END:";
    quiet(body, 1);
}

#[test]
fn bytes_beside_halves() {
    let half = "@%p1 st.global.v4.u32 [%rd1+16], {%r2, %r2, %r2, %r2};";
    let byte = |block: u32, at: u32| format!("@%p{block} st.global.u8 [%rd1+{at}], %r2;");
    quiet(&format!("{half}{}{}", byte(1, 0), byte(2, 2)), 2);
    quiet(&format!("{half}{}", byte(2, 3)), 2);
    races(&format!("{half}{}{}", byte(1, 0), byte(2, 0)), 2);
    // A value's low byte is the one that differs from the zeros.
    races(&format!("{half}{}{}", byte(1, 0), byte(2, 20)), 2);
    races(&format!("{half}{}", byte(2, 28)), 2);
    // The half is read, by another instruction and after a byte of the other half.
    let read = "@%p1 ld.global.v4.u32 {%r4, %r5, %r6, %r7}, [%rd1+16]; \
                @%p1 ld.global.u8 %r4, [%rd1];";
    quiet(&format!("{read}{}", byte(2, 1)), 2);
    races(&format!("{read}{}", byte(2, 0)), 2);
    races(&format!("{read}{}", byte(2, 31)), 2);
}

#[test]
fn several_readers_and_a_writer() {
    let all = |block: u32| format!("@%p{block} ld.global.u32 %r4, [%rd2];");
    let one = |block: u32| format!("@%p{block} ld.global.u8 %r5, [%rd1+8];");
    let write = |at: u32| format!("@%p3 st.global.u8 [%rd1+{at}], %r2;");
    for readers in [
        format!("{}{}", all(1), all(2)),
        format!("{}{}{}", one(1), all(1), all(2)),
        format!("{}{}{}", all(1), one(2), all(2)),
        format!("{}{}", one(1), all(2)),
    ] {
        for at in [0, 9, 64, 127] {
            races(&format!("{readers}{}", write(at)), 3);
        }
        quiet(&format!("{readers}{}", write(128)), 3);
    }
    // Two blocks read a half each.
    let halves = "@%p1 ld.global.v4.u32 {%r4, %r5, %r6, %r7}, [%rd1]; \
                  @%p2 ld.global.v4.u32 {%r4, %r5, %r6, %r7}, [%rd1+16];";
    for at in [15, 16] {
        races(&format!("{halves}{}", write(at)), 3);
    }
    quiet(&format!("{halves}{}", write(32)), 3);
}

#[test]
fn the_read_only_path_by_bytes() {
    let read = "@%p1 ld.global.nc.u16 %r4, [%rd1+18];";
    let read = read.replace("%r4", "%h1");
    let read = format!(".reg .b16 %h<2>; {read}");
    let write = |at: u32| format!("@%p2 st.global.u8 [%rd1+{at}], %r2;");
    for at in [17, 20, 50] {
        quiet(&format!("{read}{}", write(at)), 2);
    }
    for at in [18, 19] {
        let body = format!("{read}{}", write(at));
        caught(|seed| run(&body, 2, seed), FindingKind::ReadOnlyWritten);
    }
}

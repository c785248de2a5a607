//! Launches that may begin while the one before them ends.

use ptxvm::{Finding, FindingKind, Launch, Memory, Module, Params};

/// Threads of a block: a warp that waits for the launch before and one that does not.
const THREADS: u32 = 64;

/// Each thread reads a word of `weights` and one of `x`, and writes their sum to `y`; what
/// stands for the waits comes before, between and after.
fn adds([before, between, after]: [&str; 3]) -> Module {
    let ptx = format!(
        ".version 8.0
         .target sm_90
         .address_size 64
         .visible .entry add(.param .u64 weights, .param .u64 x, .param .u64 y) .reqntid {THREADS}
         {{
             .reg .pred %p<2>;
             .reg .b32 %r<8>;
             .reg .b64 %rd<8>;
             ld.param.u64 %rd1, [weights];
             ld.param.u64 %rd2, [x];
             ld.param.u64 %rd3, [y];
             mov.u32 %r1, %tid.x;
             mov.u32 %r2, %ctaid.x;
             mad.lo.u32 %r3, %r2, {THREADS}, %r1;
             mul.wide.u32 %rd4, %r3, 4;
             add.u64 %rd1, %rd1, %rd4;
             add.u64 %rd2, %rd2, %rd4;
             add.u64 %rd3, %rd3, %rd4;
             setp.lt.u32 %p1, %r1, 32;
             {before}
             ld.global.u32 %r4, [%rd1];
             {between}
             ld.global.u32 %r5, [%rd2];
             add.u32 %r6, %r4, %r5;
             {after}
             st.global.u32 [%rd3], %r6;
             ret;
         }}"
    );
    Module::parse(&ptx).unwrap()
}

/// What is wrong with four blocks, in clusters of so many, under several schedules.
fn finding(module: &Module, overlaps_previous: bool, cluster: u32) -> Option<Finding> {
    const BLOCKS: u32 = 4;
    (0..8).find_map(|seed| {
        let mut memory = Memory::new();
        let words: Vec<u8> = (0..BLOCKS * THREADS).flat_map(u32::to_le_bytes).collect();
        let [weights, x, y] = ["weights", "x", "y"].map(|name| {
            let address = memory.alloc(words.len() as u64, name);
            memory.write(address, &words);
            address
        });
        memory.settle(weights);
        let launch = Launch {
            grid: [BLOCKS, 1, 1],
            block: [THREADS, 1, 1],
            cluster: [cluster, 1, 1],
            params: Params::new().u64(weights).u64(x).u64(y).build(),
            overlaps_previous,
            seed,
            ..Launch::new("add")
        };
        match module.launch(&mut memory, &launch) {
            Ok(report) => {
                let sums: Vec<u8> =
                    (0..BLOCKS * THREADS).flat_map(|n| (2 * n).to_le_bytes()).collect();
                let is_right = report.findings.is_empty();
                assert!(!is_right || memory.read(y, words.len()) == sums);
                report.findings.first().cloned()
            }
            Err(fault) => Some(*fault.cause),
        }
    })
}

const WAIT: &str = "griddepcontrol.wait;";
/// One warp waits, and the other for it.
const ONE_WAITS: &str = "@%p1 griddepcontrol.wait; bar.sync 0;";
const OF_CLUSTER: &str = "setp.eq.u32 %p1, %r2, 0; @%p1 griddepcontrol.wait; \
                          barrier.cluster.arrive; barrier.cluster.wait;";

#[test]
fn what_no_launch_writes_may_be_read_before_the_wait() {
    for (waits, cluster) in [
        ([WAIT, "", ""], 1),
        (["", WAIT, ""], 1),
        (["", ONE_WAITS, ""], 1),
        (["", OF_CLUSTER, ""], 4),
    ] {
        let found = finding(&adds(waits), true, cluster);
        assert!(found.is_none(), "{waits:?}: {}", found.unwrap());
    }
}

#[test]
fn other_memory_before_the_wait_is_a_finding() {
    for (waits, cluster, name) in [
        (["", "", ""], 1, "x"),
        (["", "", WAIT], 1, "x"),
        (["", "griddepcontrol.launch_dependents;", ""], 1, "x"),
        // Without the barrier, the second warp may come first.
        (["", "@%p1 griddepcontrol.wait;", ""], 1, "x"),
        // What the first block knows, only its cluster may.
        (["", OF_CLUSTER, ""], 2, "x"),
    ] {
        let found = finding(&adds(waits), true, cluster).expect("a finding");
        assert_eq!(found.kind, FindingKind::BeforeWait, "{waits:?}: {found}");
        assert_eq!(found.allocation.as_deref(), Some(name));
        assert!(found.to_string().contains("griddepcontrol.wait"), "{found}");
    }
}

#[test]
fn a_launch_that_overlaps_none_need_not_wait() {
    assert!(finding(&adds(["", "", ""]), false, 1).is_none());
}

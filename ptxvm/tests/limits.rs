//! Launches that a GPU refuses.

mod common;

use common::clean;
use ptxvm::{Fault, FindingKind, Launch, Memory, Module};

/// A module with one kernel, for a target.
fn module(target: &str, directives: &str, shared: u32) -> Module {
    let shared = match shared {
        0 => String::new(),
        bytes => format!(
            ".shared .align 16 .b8 tile[{bytes}];\n.reg .b32 %r;\nmov.u32 %r, tile;\n"
        ),
    };
    let version = if target == "sm_90a" { "8.0" } else { "9.0" };
    Module::parse(&format!(
        ".version {version}\n.target {target}\n.address_size 64\n\
         .visible .entry k() {directives}\n{{ {shared} ret; }}\n"
    ))
    .unwrap()
}

/// The launch must be refused, with all of these words.
#[track_caller]
fn refused(module: &Module, launch: &Launch<'_>, wanted: &[&str]) {
    let Fault { cause, findings, .. } = module
        .launch(&mut Memory::new(), launch)
        .expect_err("a launch that a GPU refuses was accepted");
    assert_eq!(cause.kind, FindingKind::BadLaunch, "{cause}");
    assert!(findings.is_empty());
    for wanted in wanted {
        assert!(cause.detail.contains(wanted), "no '{wanted}' in: {cause}");
    }
}

#[track_caller]
fn accepted(module: &Module, launch: &Launch<'_>) {
    clean(module, &mut Memory::new(), launch);
}

const KIB: u32 = 1024;

#[test]
fn shared_memory_by_architecture() {
    for (target, most) in [
        ("sm_75", 64),
        ("sm_80", 163),
        ("sm_86", 99),
        ("sm_87", 163),
        ("sm_89", 99),
        ("sm_90", 227),
        ("sm_90a", 227),
        ("sm_100", 227),
        ("sm_103", 227),
        ("sm_120", 99),
    ] {
        for own in [0, 16 * KIB] {
            let module = module(target, "", own);
            let launch = |bytes: u32| Launch {
                shared_bytes: bytes,
                dynamic_shared_limit: Some(bytes),
                ..Launch::new("k")
            };
            accepted(&module, &launch(most * KIB - own));
            let total = (most * KIB + 16).to_string();
            let wanted = [total.as_str(), target, &(most * KIB).to_string()];
            refused(&module, &launch(most * KIB - own + 16), &wanted);
        }
    }
}

#[test]
fn more_than_48_kib_must_be_asked_for() {
    let module = module("sm_80", "", 16 * KIB);
    let launch = Launch { shared_bytes: 32 * KIB, ..Launch::new("k") };
    accepted(&module, &launch);
    let launch = Launch { shared_bytes: 32 * KIB + 16, ..launch };
    refused(&module, &launch, &["49168", "16384 static", "MAX_DYNAMIC_SHARED_SIZE_BYTES"]);
    accepted(&module, &Launch { dynamic_shared_limit: Some(40 * KIB), ..launch.clone() });
    let small = Launch { dynamic_shared_limit: Some(32 * KIB), ..launch.clone() };
    refused(&module, &small, &["32784 bytes", "is 32768"]);
    let large = Launch { dynamic_shared_limit: Some(160 * KIB), ..launch };
    refused(&module, &large, &["cannot be 163840", "150528 left"]);
}

#[test]
fn static_shared_memory() {
    let text = |bytes: u32| {
        format!(
            ".version 8.0\n.target sm_90\n.address_size 64\n\
             .visible .entry k() {{ .shared .b8 tile[{bytes}]; ret; }}"
        )
    };
    assert!(Module::parse(&text(48 * KIB)).is_ok());
    let error = Module::parse(&text(48 * KIB + 1)).unwrap_err();
    assert!(error.message.contains("49153 bytes of static shared memory"), "{error}");
}

/// Shared variables of a module count for the kernels that use them.
#[test]
fn shared_memory_of_other_kernels() {
    let module = Module::parse(
        ".version 8.0\n.target sm_80\n.address_size 64\n\
         .shared .align 16 .b8 a[40000];\n.shared .align 16 .b8 b[40000];\n\
         .visible .entry j() { .reg .b32 %r; mov.u32 %r, a; ret; }\n\
         .visible .entry k() { .reg .b32 %r; mov.u32 %r, b; ret; }\n",
    )
    .unwrap();
    accepted(&module, &Launch::new("j"));
    accepted(&module, &Launch { shared_bytes: 9152, ..Launch::new("k") });
    refused(&module, &Launch { shared_bytes: 9168, ..Launch::new("k") }, &["40000 static"]);
}

#[test]
fn blocks_and_grids() {
    let module = module("sm_80", "", 0);
    let block = |block| Launch { block, ..Launch::new("k") };
    accepted(&module, &block([16, 1, 64]));
    accepted(&module, &block([1, 1024, 1]));
    refused(&module, &block([1025, 1, 1]), &["block [1025, 1, 1]", "[1024, 1024, 64]"]);
    refused(&module, &block([1, 1, 65]), &["block [1, 1, 65]", "[1024, 1024, 64]"]);
    refused(&module, &block([64, 17, 1]), &["1088 threads", "1024"]);
    refused(&module, &block([64, 0, 1]), &["block [64, 0, 1]", "zero"]);
    let grid = |grid| Launch { grid, ..Launch::new("k") };
    accepted(&module, &grid([1, 65535, 1]));
    refused(&module, &grid([1, 65536, 1]), &["grid [1, 65536, 1]", "65535"]);
    refused(&module, &grid([1, 1, 65536]), &["grid [1, 1, 65536]", "65535"]);
    refused(&module, &grid([1 << 31, 1, 1]), &["2147483648", "2147483647"]);
    refused(&module, &grid([0, 1, 1]), &["grid [0, 1, 1]", "zero"]);
}

#[test]
fn what_the_kernel_states() {
    let bounded = module("sm_80", ".maxntid 128, 1, 1", 0);
    accepted(&bounded, &Launch { block: [8, 16, 1], ..Launch::new("k") });
    let large = Launch { block: [160, 1, 1], ..Launch::new("k") };
    refused(&bounded, &large, &["160 threads", "allows 128", ".maxntid"]);
    let exact = module("sm_80", ".reqntid 64, 2, 1", 0);
    accepted(&exact, &Launch { block: [64, 2, 1], ..Launch::new("k") });
    refused(&exact, &Launch { block: [128, 1, 1], ..Launch::new("k") }, &[".reqntid"]);
}

#[test]
fn clusters() {
    let free = module("sm_90", "", 0);
    let launch = |blocks: u32, cluster: u32| Launch {
        grid: [blocks, 1, 1],
        cluster: [cluster, 1, 1],
        ..Launch::new("k")
    };
    accepted(&free, &launch(16, 8));
    let large = Launch { non_portable_cluster: true, ..launch(32, 16) };
    accepted(&free, &large);
    refused(&free, &launch(32, 16), &["16 blocks", "NON_PORTABLE_CLUSTER_SIZE_ALLOWED"]);
    let larger = Launch { non_portable_cluster: true, ..launch(32, 32) };
    refused(&free, &larger, &["32 blocks", "at most 16"]);
    refused(&free, &launch(6, 4), &["[6, 1, 1]", "[4, 1, 1]"]);
    refused(&free, &launch(4, 0), &["cluster [0, 1, 1]", "zero"]);
    refused(&module("sm_89", "", 0), &launch(4, 2), &["sm_89", "sm_90"]);

    let own = module("sm_90", ".reqnctapercluster 2, 1, 1", 0);
    accepted(&own, &launch(4, 1));
    refused(&own, &launch(4, 4), &["compiled for [2, 1, 1]"]);
    refused(&own, &launch(3, 1), &["[3, 1, 1]", "[2, 1, 1]"]);
    let few = module("sm_90", ".maxclusterrank 4", 0);
    accepted(&few, &launch(8, 4));
    refused(&few, &launch(8, 8), &["8 blocks", ".maxclusterrank"]);
    let explicit = module("sm_90", ".explicitcluster", 0);
    accepted(&explicit, &launch(8, 2));
    refused(&explicit, &launch(8, 1), &[".explicitcluster"]);
}

#[test]
fn devices() {
    let on = |device| Launch { device: Some(device), ..Launch::new("k") };
    let plain = module("sm_80", "", 0);
    accepted(&plain, &on("sm_90"));
    refused(&plain, &on("sm_75"), &["is for sm_80", "sm_75"]);
    let special = module("sm_90a", "", 0);
    accepted(&special, &on("sm_90"));
    refused(&special, &on("sm_100"), &["is for sm_90a", "sm_100"]);
    refused(&special, &on("h100"), &["'h100'"]);
    // The device sets the limits.
    let launch = |device| Launch {
        shared_bytes: 120 * KIB,
        dynamic_shared_limit: Some(120 * KIB),
        ..on(device)
    };
    accepted(&plain, &launch("sm_90"));
    refused(&plain, &launch("sm_89"), &["sm_89 has at most 101376"]);
}

#[test]
fn registers_of_a_block() {
    let free = module("sm_90", "", 0);
    let launch = |threads: u32, registers: u32| Launch {
        block: [threads, 1, 1],
        registers: Some(registers),
        ..Launch::new("k")
    };
    accepted(&free, &launch(1024, 64));
    refused(&free, &launch(1024, 65), &["65 registers", "1024 threads", "65536"]);
    accepted(&free, &launch(384, 168));
    refused(&free, &launch(384, 169), &["169 registers", "67584"]);
    refused(&free, &launch(32, 256), &["256 registers", "at most 255"]);
    let few = module("sm_90", ".maxnreg 32", 0);
    refused(&few, &launch(32, 40), &["40 registers", "at most 32"]);
}

#[test]
fn parameters() {
    let text = |bytes: u32, version: &str| {
        format!(
            ".version {version}\n.target sm_80\n.address_size 64\n\
             .visible .entry k(.param .align 4 .b8 p[{bytes}]) {{ ret; }}"
        )
    };
    let module = Module::parse(&text(8, "8.0")).unwrap();
    accepted(&module, &Launch { params: vec![0; 8], ..Launch::new("k") });
    let short = Launch { params: vec![0; 4], ..Launch::new("k") };
    refused(&module, &short, &["4 bytes of parameters", "declares 8"]);
    assert!(Module::parse(&text(4352, "8.0")).is_ok());
    assert!(Module::parse(&text(4356, "8.0")).is_err());
    assert!(Module::parse(&text(32764, "8.1")).is_ok());
    let error = Module::parse(&text(32768, "8.1")).unwrap_err();
    assert!(error.message.contains("at most 32764"), "{error}");
}

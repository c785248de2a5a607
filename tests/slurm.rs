//! `scripts/slurm` on a real Slurm: a controller and three node daemons of Debian's packages
//! on this machine's loopback, and a node that dies in the middle.

use std::path::Path;
use std::process::{Command, Output};

fn run(script: &str, arguments: &[&str]) -> Output {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let script = root.join("scripts").join(script);
    let shown = script.display().to_string();
    let output = Command::new(script).args(arguments).output();
    output.unwrap_or_else(|why| panic!("{shown} cannot be started: {why}"))
}

/// An array of tasks measures on three nodes, each on its own, and a dependent job merges what
/// they leave and ranks them, also when one is killed. Where Slurm is not there and cannot be
/// installed, this fails and says why.
#[cfg(target_os = "linux")]
#[test]
fn an_array_measures_on_every_node_and_a_dead_one_is_named() {
    let installed = run("install-slurm", &[]);
    let why = String::from_utf8_lossy(&installed.stderr);
    assert!(installed.status.success(), "scripts/install-slurm: {why}");
    let output = run("slurm/test", &[env!("CARGO_BIN_EXE_ridgepoint")]);
    let told = String::from_utf8_lossy(&output.stdout);
    let why = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{told}\n{why}");
    for part in [
        "with three idle nodes",
        "each node measured the suite and was ranked",
        "node3 was killed with its job",
        "slurm: all of it holds",
    ] {
        assert!(told.contains(part), "no `{part}` in\n{told}\n{why}");
    }
}

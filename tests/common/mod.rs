//! What tests that need the CUDA compiler share.
#![allow(dead_code, reason = "each of them uses a part")]

use std::io::Write;
use std::path::Path;
use std::sync::Once;

use ridgepoint::toolchain::search::{NVRTC, SearchPath};

/// The pinned compiler where it is installed: what another version makes of the
/// kernels is not the tests' business.
pub fn search() -> SearchPath {
    let pinned = Path::new(env!("CARGO_MANIFEST_DIR")).join("target/cuda-toolkit");
    let pinned = pinned.join("nvidia/cu13/lib");
    match std::env::var_os("RIDGEPOINT_NVRTC").is_none() && pinned.is_dir() {
        true => SearchPath::only(&NVRTC, pinned),
        false => SearchPath::of_this_machine(&NVRTC),
    }
}

/// What a test needs; or nothing, said where `--quiet` and captured output
/// cannot hide it. Where CI or RIDGEPOINT_REQUIRE_NVRTC is set, its absence is a
/// failure.
pub fn need<T, E: std::fmt::Display>(what: Result<T, E>) -> Option<T> {
    let why = match what {
        Ok(found) => return Some(found),
        Err(why) => why,
    };
    let set = |name: &str| {
        std::env::var(name).is_ok_and(|v| !["", "0", "false"].contains(&v.as_str()))
    };
    assert!(!set("CI") && !set("RIDGEPOINT_REQUIRE_NVRTC"), "{why}");
    // Why is the same for all tests.
    static SAID: Once = Once::new();
    let mut stderr = std::io::stderr().lock();
    SAID.call_once(|| {
        let _ = writeln!(stderr, "\n*** TESTS OF CUDA KERNELS NOT RUN: {why}\n");
    });
    let test = std::thread::current().name().unwrap_or("a test").to_owned();
    let _ = writeln!(stderr, "\n*** {test} DID NOT RUN");
    None
}

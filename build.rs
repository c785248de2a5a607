//! Bakes provenance into the program: the commit it was built from and the
//! compiler. Every campaign records both.

use std::process::Command;

fn main() {
    let sha = output("git", &["rev-parse", "HEAD"]);
    let dirty = output("git", &["status", "--porcelain", "--untracked-files=no"]);
    let rustc = std::env::var("RUSTC").unwrap_or_else(|_| "rustc".to_owned());
    let version = output(&rustc, &["--version"]);
    set("RIDGEPOINT_GIT_SHA", sha.as_deref().unwrap_or("unknown"));
    set(
        "RIDGEPOINT_GIT_DIRTY",
        dirty.map_or("unknown", |d| if d.is_empty() { "false" } else { "true" }),
    );
    set("RIDGEPOINT_RUSTC", version.as_deref().unwrap_or("unknown"));
    // Any change of the sources may make the tree dirty or clean again.
    for path in [".git/HEAD", ".git/index", "src", "benches", "Cargo.toml"] {
        if std::path::Path::new(path).exists() {
            println!("cargo:rerun-if-changed={path}");
        }
    }
}

fn set(name: &str, value: &str) {
    println!("cargo:rustc-env={name}={value}");
}

fn output(program: &str, arguments: &[&str]) -> Option<String> {
    let output = Command::new(program).args(arguments).output().ok()?;
    output
        .status
        .success()
        .then(|| String::from_utf8_lossy(&output.stdout).trim().to_owned())
}

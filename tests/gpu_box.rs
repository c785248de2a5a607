//! `scripts/gpu-box`, rehearsed on the CPU and with programs that break: it
//! always leaves its archive.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::time::{Duration, Instant};

fn script(out: &Path, program: &Path, minutes: &str) -> Command {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let tiny = root.join("tests/tiny.toml");
    let mut command = Command::new("bash");
    command
        .arg(root.join("scripts/gpu-box"))
        .arg("--program")
        .arg(program)
        .arg("--out")
        .arg(out)
        .args(["--minutes", minutes, "--device", "cpu"])
        .arg("--check")
        .arg(&tiny)
        .arg("--suites")
        .arg(format!("{} decode", tiny.display()));
    command
}

/// A program made of shell commands.
fn fake(folder: &Path, commands: &str) -> PathBuf {
    let path = folder.join("fake");
    fs::write(&path, format!("#!/bin/sh\n{commands}\n")).unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
    path
}

/// The lines of steps.csv, read out of the archive.
fn steps(out: &Path) -> String {
    let name = out.file_name().unwrap().to_str().unwrap();
    let archive = format!("{}.tar.gz", out.display());
    let tar = Command::new("tar")
        .args(["-xzOf", &archive, &format!("{name}/steps.csv")])
        .output()
        .unwrap();
    assert!(tar.status.success(), "{}", String::from_utf8_lossy(&tar.stderr));
    String::from_utf8(tar.stdout).unwrap()
}

fn printed(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned()
        + &String::from_utf8_lossy(&output.stderr)
}

#[test]
fn a_rehearsal_on_the_cpu_leaves_an_archive() {
    let dir = tempfile::tempdir().unwrap();
    let out = dir.path().join("box");
    let program = Path::new(env!("CARGO_BIN_EXE_ridgepoint"));
    let run = script(&out, program, "0.6").output().unwrap();
    assert!(run.status.success(), "{}", printed(&run));
    let steps = steps(&out);
    for step in ["doctor,0,", "check.1,0,", "sanitize", "machine"] {
        assert!(steps.contains(step), "{steps}{}", printed(&run));
    }
    assert!(
        fs::read_to_string(out.join("logs/check.1.out")).unwrap().contains("pass") || {
            fs::read_to_string(out.join("logs/check.1.out")).unwrap().contains("ok")
        }
    );
    let campaigns: Vec<_> = fs::read_dir(out.join("campaigns")).unwrap().collect();
    assert!(!campaigns.is_empty(), "{steps}{}", printed(&run));
}

#[test]
fn a_program_that_crashes_or_hangs_is_recorded() {
    let dir = tempfile::tempdir().unwrap();
    let out = dir.path().join("box");
    let began = Instant::now();
    let program = fake(
        dir.path(),
        "case $1 in doctor) kill -SEGV $$ ;; check) exit 1 ;; *) sleep 600 ;; esac",
    );
    // 24 s, of which 10 are kept for packing: a suite begins with more than 6 left.
    let run = script(&out, &program, "0.4").output().unwrap();
    assert!(run.status.success(), "{}", printed(&run));
    assert!(began.elapsed() < Duration::from_secs(60));
    let steps = steps(&out);
    assert!(steps.contains("doctor,139,"), "{steps}");
    assert!(steps.contains("killed by signal 11"), "{steps}");
    assert!(steps.contains("check.1,1,"), "{steps}");
    assert!(steps.contains("cut off"), "{steps}");
}

#[test]
fn a_signal_leaves_an_archive_too() {
    let dir = tempfile::tempdir().unwrap();
    let out = dir.path().join("box");
    let program = fake(dir.path(), "sleep 600");
    let mut run = script(&out, &program, "5").spawn().unwrap();
    let began = Instant::now();
    while !out.join("logs/doctor.err").exists() {
        assert!(began.elapsed() < Duration::from_secs(30));
        std::thread::sleep(Duration::from_millis(50));
    }
    let kill = Command::new("kill").arg(run.id().to_string()).status().unwrap();
    assert!(kill.success());
    run.wait().unwrap();
    assert!(began.elapsed() < Duration::from_secs(30));
    assert!(steps(&out).contains("interrupted"), "{}", steps(&out));
}

#[test]
fn mistakes_in_options_are_sentences() {
    let dir = tempfile::tempdir().unwrap();
    let program = fake(dir.path(), "exit 0");
    for (minutes, part) in [("ten", "is not a number"), ("", "is not a number")] {
        let run = script(&dir.path().join("o"), &program, minutes).output().unwrap();
        assert!(!run.status.success() && printed(&run).contains(part), "{}", printed(&run));
    }
    let run = script(dir.path(), &program, "1").output().unwrap();
    assert!(printed(&run).contains("name another"), "{}", printed(&run));
    let run =
        script(&dir.path().join("o"), &dir.path().join("none"), "1").output().unwrap();
    assert!(printed(&run).contains("build it first"), "{}", printed(&run));
}

#[test]
fn a_check_that_a_kernel_ends_continues_after_it() {
    let dir = tempfile::tempdir().unwrap();
    let out = dir.path().join("box");
    // Takes one point further each time, as `--skip` says, and dies of it.
    let program = fake(
        dir.path(),
        "[ \"$1\" = check ] || exit 0\n\
         while [ \"$1\" != --skip ]; do shift; done\n\
         echo \"check $(($2 + 1))/3 stream:bytes=128\" >&2; kill -ABRT $$",
    );
    let run = script(&out, &program, "0.5").output().unwrap();
    let steps = steps(&out);
    let checks = steps.lines().filter(|line| line.starts_with("check."));
    assert_eq!(checks.count(), 3, "{steps}{}", printed(&run));
}

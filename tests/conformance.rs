//! The conformance programs of `ptxvm`, given to the real assembler: what the virtual
//! machine runs must be PTX. Needs ptxas and no GPU.

mod common;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use common::need;
use ptxvm::conformance::{Program, programs};
use rayon::prelude::*;

/// The pinned assembler, or one in PATH.
fn assembler() -> Option<PathBuf> {
    let pinned = Path::new(env!("CARGO_MANIFEST_DIR")).join("target/cuda-toolkit");
    let path = std::env::var_os("PATH").unwrap_or_default();
    let mut folders =
        [pinned.join("nvidia/cu13/bin")].into_iter().chain(std::env::split_paths(&path));
    let found = folders.find(|folder| folder.join("ptxas").is_file());
    let missing =
        "found no ptxas in target/cuda-toolkit or PATH; run scripts/install-nvrtc";
    need(found.map(|folder| folder.join("ptxas")).ok_or(missing))
}

/// What the assembler says against a module, if it does.
fn refusal(assembler: &Path, ptx: &str, arch: &str) -> Option<String> {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("k.ptx");
    fs::write(&path, ptx).unwrap();
    let run = Command::new(assembler)
        .arg(format!("-arch={arch}"))
        .args(["-o", "/dev/null"])
        .arg(&path)
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&run.stderr).into_owned();
    // It goes on where it ignores an instruction, and says so.
    (!run.status.success() || said.contains("ignored")).then_some(said)
}

#[test]
fn every_program_assembles_for_its_own_target() {
    let Some(assembler) = assembler() else { return };
    let refused = |program: &Program| {
        let said = refusal(&assembler, &program.ptx, program.target)?;
        Some(format!("{} for {}: {said}", program.name, program.target))
    };
    let refused: Vec<String> = programs().par_iter().filter_map(refused).collect();
    assert!(refused.is_empty(), "{} refused\n{}", refused.len(), refused.join("\n"));
}

/// The programs of one target as one module, an entry each.
fn together(programs: &[Program], target: &str) -> String {
    let mut text = format!(".version 8.7\n.target {target}\n.address_size 64\n");
    let members = programs.iter().filter(|program| program.target == target);
    for (number, program) in members.enumerate() {
        let entry = program.ptx.find(".visible").unwrap();
        let name = format!(".entry k{number}(");
        text += &program.ptx[entry..].replacen(".entry k(", &name, 1);
    }
    text
}

/// What is not for one architecture only assembles for later ones too.
#[test]
fn programs_assemble_for_later_architectures() {
    let Some(assembler) = assembler() else { return };
    let programs = programs();
    for target in ["sm_80", "sm_89", "sm_90"] {
        let module = together(&programs, target);
        for arch in ["sm_90a", "sm_120"] {
            let said = refusal(&assembler, &module, arch);
            assert_eq!(said, None, "programs of {target} for {arch}");
        }
    }
}

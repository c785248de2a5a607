//! What the build script says about the sources, on repositories made for each
//! case, and that Cargo asks it again whenever the answer may have changed.

#[allow(dead_code, reason = "its main is not called here")]
#[path = "../build.rs"]
mod build;

use std::fs;
use std::path::{Component, Path, PathBuf};
use std::process::Command;

use build::{INPUTS, provenance};
use tempfile::TempDir;

const ROOT: &str = env!("CARGO_MANIFEST_DIR");

/// Tracked entries of the repository that no build reads. Whatever else comes to
/// lie there must be an input or be named here.
const NOT_BUILT: [&str; 13] = [
    ".ci",
    ".gitignore",
    "LICENSE-APACHE",
    "LICENSE-MIT",
    "docs",
    "examples",
    "proptest-regressions",
    "ptxvm",
    "results",
    "rustfmt.toml",
    "scripts",
    "tests",
    "vdriver",
];

fn is_input(path: &Path) -> bool {
    INPUTS.iter().any(|input| path.starts_with(input))
}

/// Runs git for a test, with nothing of the user's configuration.
fn git(folder: &Path, arguments: &[&str]) -> String {
    let output = Command::new("git")
        .current_dir(folder)
        .env("GIT_CONFIG_GLOBAL", "/dev/null")
        .env("GIT_CONFIG_NOSYSTEM", "1")
        .args(["-c", "user.name=test", "-c", "user.email=test@localhost"])
        .args(arguments)
        .output()
        .expect("these tests need git");
    assert!(output.status.success(), "git {arguments:?}: {output:?}");
    String::from_utf8_lossy(&output.stdout).trim_end().to_owned()
}

/// A folder without `.` and `..`.
fn normal(path: &Path) -> PathBuf {
    let mut parts = PathBuf::new();
    for part in path.components() {
        match part {
            Component::CurDir => {}
            Component::ParentDir => assert!(parts.pop(), "{path:?} leaves the package"),
            part => parts.push(part),
        }
    }
    parts
}

fn rust_files(folder: &Path, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        match path.is_dir() {
            true => rust_files(&path, found),
            false if path.extension().is_some_and(|e| e == "rs") => found.push(path),
            false => {}
        }
    }
}

#[test]
fn every_included_file_is_an_input() {
    let mut files = Vec::new();
    rust_files(&Path::new(ROOT).join("src"), &mut files);
    rust_files(&Path::new(ROOT).join("ptxvm/src"), &mut files);
    let mut included = 0;
    for file in files {
        let text = fs::read_to_string(&file).unwrap();
        let folder = file.parent().unwrap().strip_prefix(ROOT).unwrap();
        for call in ["include_str!(", "include_bytes!(", "include!("] {
            for (at, _) in text.match_indices(call) {
                let argument = text[at + call.len()..].trim_start();
                // The list of `tuning/`, which the script writes of an input.
                if argument.starts_with("concat!(env!(\"OUT_DIR\"), \"/tuning_tables.rs\")")
                {
                    assert!(is_input(Path::new("tuning/a.toml")));
                    continue;
                }
                let path = argument
                    .strip_prefix('"')
                    .and_then(|rest| rest.split('"').next())
                    .unwrap_or_else(|| panic!("{file:?}: {call} without a plain path"));
                let path = normal(&folder.join(path));
                assert!(
                    is_input(&path),
                    "{file:?} includes {path:?}, which no build watches"
                );
                included += 1;
            }
        }
    }
    assert!(included > 30, "only {included} includes were found");
}

#[test]
fn every_path_dependency_is_an_input() {
    let text = fs::read_to_string(Path::new(ROOT).join("Cargo.toml")).unwrap();
    let manifest: toml::Table = toml::from_str(&text).unwrap();
    let mut found = 0;
    let shared = manifest["workspace"].get("dependencies");
    for table in [manifest.get("dependencies"), shared].into_iter().flatten() {
        for (name, dependency) in table.as_table().unwrap() {
            let Some(path) = dependency.get("path").and_then(|path| path.as_str()) else {
                continue;
            };
            for part in ["Cargo.toml", "src"] {
                assert!(is_input(&normal(&Path::new(path).join(part))), "{name}: {part}");
            }
            found += 1;
        }
    }
    assert!(found > 0, "no path dependency was found");
}

#[test]
fn every_tracked_entry_is_an_input_or_known_not_to_be_built() {
    if !Path::new(ROOT).join(".git").exists() {
        return; // A packaged crate: there is no list of tracked files.
    }
    let tracked = git(Path::new(ROOT), &["ls-files"]);
    for path in tracked.lines().map(|line| Path::new(line.trim_matches('"'))) {
        let first = path.iter().next().unwrap().to_str().unwrap();
        let known = NOT_BUILT.contains(&first) || first.ends_with(".md");
        assert!(
            is_input(path) || known,
            "{path:?} is tracked: add it to INPUTS in build.rs, or to NOT_BUILT here"
        );
    }
}

/// A committed package with a file for each input, and a folder that is none.
fn package() -> TempDir {
    let root = tempfile::tempdir().unwrap();
    for input in INPUTS {
        let path = root.path().join(input);
        let path = if input.contains('.') { path } else { path.join("file") };
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, "committed\n").unwrap();
    }
    fs::write(root.path().join("README.md"), "committed\n").unwrap();
    fs::write(root.path().join(".gitignore"), "*.generated\n").unwrap();
    git(root.path(), &["init", "--quiet", "--initial-branch", "main"]);
    commit(root.path(), "first");
    root
}

fn commit(root: &Path, message: &str) {
    git(root, &["add", "."]);
    git(root, &["commit", "--quiet", "--message", message]);
}

fn dirty(root: &Path) -> Option<bool> {
    provenance(root).dirty
}

#[test]
fn a_change_of_any_input_is_dirty_and_no_other_change_is() {
    let package = package();
    let root = package.path();
    assert_eq!(provenance(root).sha, Some(git(root, &["rev-parse", "HEAD"])));
    assert_eq!(dirty(root), Some(false));
    for input in INPUTS {
        let file = root.join(input);
        let file = if file.is_dir() { file.join("file") } else { file };
        fs::write(&file, "edited\n").unwrap();
        assert_eq!(dirty(root), Some(true), "{input} edited");
        git(root, &["add", "."]);
        assert_eq!(dirty(root), Some(true), "{input} staged");
        git(root, &["reset", "--quiet", "--hard"]);
        assert_eq!(dirty(root), Some(false), "{input} restored");
        // Without Cargo.toml there is no package.
        if input != "Cargo.toml" {
            fs::remove_file(&file).unwrap();
            assert_eq!(dirty(root), Some(true), "{input} removed");
            git(root, &["reset", "--quiet", "--hard"]);
        }
    }
    fs::write(root.join("README.md"), "edited\n").unwrap();
    fs::create_dir(root.join("results")).unwrap();
    fs::write(root.join("results/rows.csv"), "1\n").unwrap();
    assert_eq!(dirty(root), Some(false), "what no build reads");
}

#[test]
fn a_file_that_the_commit_lacks_is_dirty_even_if_ignored() {
    for name in ["kernels/new.cuh", "src/new.generated", "assets/a/b.ttf"] {
        let package = package();
        let file = package.path().join(name);
        fs::create_dir_all(file.parent().unwrap()).unwrap();
        fs::write(file, "").unwrap();
        assert_eq!(dirty(package.path()), Some(true), "{name}");
    }
    let package = package();
    for name in ["src/.lib.rs.swp", "src/lib.rs~", "src/#lib.rs#", "src/.#lib.rs"] {
        fs::write(package.path().join(name), "").unwrap();
    }
    assert_eq!(dirty(package.path()), Some(false), "leftovers of editors");
}

#[test]
fn what_git_was_told_not_to_see_is_not_called_clean() {
    for flag in ["--assume-unchanged", "--skip-worktree"] {
        let package = package();
        git(package.path(), &["update-index", flag, "kernels/file"]);
        fs::write(package.path().join("kernels/file"), "edited\n").unwrap();
        assert_eq!(dirty(package.path()), None, "{flag}");
        fs::write(package.path().join("src/file"), "edited\n").unwrap();
        assert_eq!(dirty(package.path()), Some(true), "{flag} and an edit");
    }
}

#[test]
fn a_package_inside_another_checkout_does_not_take_its_commit() {
    let outer = package();
    let inner = outer.path().join("target/package");
    fs::create_dir_all(inner.join("src")).unwrap();
    fs::write(inner.join("Cargo.toml"), "").unwrap();
    let found = provenance(&inner);
    assert_eq!((found.sha, found.dirty), (None, None));
    let sha = "0123456789abcdef0123456789abcdef01234567";
    let said = format!("{{\n  \"git\": {{\n    \"sha1\": \"{sha}\"\n  }}\n}}");
    fs::write(inner.join(".cargo_vcs_info.json"), said).unwrap();
    let found = provenance(&inner);
    assert_eq!((found.sha.as_deref(), found.dirty), (Some(sha), None));
    fs::write(inner.join(".cargo_vcs_info.json"), "{}").unwrap();
    assert_eq!(provenance(&inner).sha, None);
}

/// When one of the watched files last changed.
fn newest(root: &Path) -> std::time::SystemTime {
    fn of(path: &Path) -> std::time::SystemTime {
        let own = fs::metadata(path).unwrap().modified().unwrap();
        if !path.is_dir() {
            return own;
        }
        let below = fs::read_dir(path).unwrap().map(|entry| of(&entry.unwrap().path()));
        below.chain([own]).max().unwrap()
    }
    provenance(root).watched.iter().map(|path| of(&root.join(path))).max().unwrap()
}

#[test]
fn every_move_of_head_is_watched_in_a_checkout_and_in_a_worktree() {
    let package = package();
    let linked = tempfile::tempdir().unwrap();
    let linked = linked.path().join("linked");
    git(
        package.path(),
        &["worktree", "add", "--quiet", "-b", "side", linked.to_str().unwrap()],
    );
    for root in [package.path(), linked.as_path()] {
        let moves: [&[&str]; 6] = [
            &["commit", "--quiet", "--allow-empty", "--message", "second"],
            &["commit", "--quiet", "--amend", "--allow-empty", "--message", "other"],
            &["reset", "--quiet", "--soft", "HEAD~1"],
            &["pack-refs", "--all"],
            &["commit", "--quiet", "--allow-empty", "--message", "third"],
            &["checkout", "--quiet", "--detach", "HEAD~1"],
        ];
        for arguments in moves {
            // With a clock of coarse ticks, a change in the same tick is invisible.
            std::thread::sleep(std::time::Duration::from_millis(20));
            let before = newest(root);
            git(root, arguments);
            assert!(newest(root) > before, "git {arguments:?} in {root:?} goes unseen");
        }
    }
}

/// A package of this build script and a program that prints what it baked in.
fn printing_package() -> TempDir {
    let package = tempfile::tempdir().unwrap();
    let root = package.path();
    for folder in ["src", "kernels", "ptxvm/src"] {
        fs::create_dir_all(root.join(folder)).unwrap();
    }
    let manifest = "[package]\nname = \"printing\"\nversion = \"0.1.0\"\nedition = \"2024\"\n\
                    [workspace]\n";
    fs::write(root.join("Cargo.toml"), manifest).unwrap();
    fs::write(root.join(".gitignore"), "/target/\n").unwrap();
    fs::copy(Path::new(ROOT).join("build.rs"), root.join("build.rs")).unwrap();
    fs::write(root.join("kernels/a.cu"), "committed\n").unwrap();
    fs::write(root.join("ptxvm/src/lib.rs"), "// committed\n").unwrap();
    let program = "fn main() {\n    print!(\"{} {}\", env!(\"RIDGEPOINT_GIT_SHA\"), \
                   env!(\"RIDGEPOINT_GIT_DIRTY\"));\n}\n";
    fs::write(root.join("src/main.rs"), program).unwrap();
    package
}

/// Builds and runs it, and returns what it prints.
fn print(root: &Path) -> String {
    // Cargo tells times apart that differ by a tick of the file system's clock.
    std::thread::sleep(std::time::Duration::from_millis(20));
    let mut cargo = Command::new(env!("CARGO"));
    for name in ["CARGO_TARGET_DIR", "RUSTFLAGS", "CARGO_ENCODED_RUSTFLAGS"] {
        cargo.env_remove(name);
    }
    let output = cargo.current_dir(root).args(["run", "--quiet", "--offline"]).output();
    let output = output.unwrap();
    assert!(output.status.success(), "{output:?}");
    String::from_utf8(output.stdout).unwrap()
}

#[test]
fn cargo_asks_again_after_an_edit_of_a_kernel_and_after_a_commit() {
    let package = printing_package();
    let root = package.path();
    git(root, &["init", "--quiet", "--initial-branch", "main"]);
    print(root); // makes Cargo.lock
    commit(root, "first");
    let head = || git(root, &["rev-parse", "HEAD"]);
    assert_eq!(print(root), format!("{} false", head()));
    for (file, committed) in
        [("kernels/a.cu", "committed\n"), ("ptxvm/src/lib.rs", "// committed\n")]
    {
        fs::write(root.join(file), "edited\n").unwrap();
        assert_eq!(print(root), format!("{} true", head()), "{file} edited");
        fs::write(root.join(file), committed).unwrap();
        assert_eq!(print(root), format!("{} false", head()), "{file} restored");
    }
    fs::write(root.join("kernels/b.cuh"), "").unwrap();
    assert_eq!(print(root), format!("{} true", head()), "a file that git does not know");
    commit(root, "second");
    assert_eq!(print(root), format!("{} false", head()), "committed");
    git(root, &["reset", "--quiet", "--soft", "HEAD~1"]);
    assert_eq!(print(root), format!("{} true", head()), "soft reset");
}

//! Records in the program what it was built from: the commit, whether the
//! sources differ from it, and the compiler. Every campaign writes all three
//! into its rows, so a wrong answer here spoils evidence. tests/provenance.rs
//! holds this file to that.

use std::path::{Path, PathBuf};
use std::process::Command;

/// Everything that the program and its suites are made of, relative to the
/// package. A change here runs this script again, and only a change here makes
/// a build dirty: one list for both, so that the two cannot disagree.
pub const INPUTS: [&str; 12] = [
    "Cargo.lock",
    "Cargo.toml",
    "assets",
    "benches",
    "build.rs",
    "kernels",
    "ptxvm/Cargo.toml",
    "ptxvm/README.md",
    "ptxvm/src",
    "scripts/peers.py",
    "src",
    "tuning",
];

/// Written by `cargo package` into a crate that was packaged from a checkout.
const PACKAGED: &str = ".cargo_vcs_info.json";

/// Variables by which a hook of git points every git below it elsewhere.
const REDIRECTIONS: [&str; 5] =
    ["GIT_DIR", "GIT_WORK_TREE", "GIT_INDEX_FILE", "GIT_COMMON_DIR", "GIT_PREFIX"];

/// What a folder of sources is.
#[derive(Debug)]
pub struct Provenance {
    /// The commit; none where nothing says it.
    pub sha: Option<String>,
    /// Whether an input differs from the commit; none where git cannot tell.
    pub dirty: Option<bool>,
    /// Files and folders whose change can change the answer. All of them exist:
    /// Cargo runs a script that watches a missing file on every build.
    pub watched: Vec<PathBuf>,
}

fn main() {
    let Provenance { sha, dirty, watched } = provenance(Path::new("."));
    let rustc = std::env::var("RUSTC").unwrap_or_else(|_| "rustc".to_owned());
    let version = output(Command::new(rustc).arg("--version"));
    set("RIDGEPOINT_GIT_SHA", sha.as_deref().unwrap_or("unknown"));
    set(
        "RIDGEPOINT_GIT_DIRTY",
        match dirty {
            Some(true) => "true",
            Some(false) => "false",
            None => "unknown",
        },
    );
    set("RIDGEPOINT_RUSTC", version.as_deref().unwrap_or("unknown"));
    for path in watched {
        println!("cargo:rerun-if-changed={}", path.display());
    }
    if let Err(why) = write_tuning_tables() {
        panic!("cannot list the tables of tuning/: {why}");
    }
}

/// Writes a list of the tuning tables in `tuning/`, which become part of the program: a
/// table is contributed by putting it there.
fn write_tuning_tables() -> std::io::Result<()> {
    let folder = std::path::absolute("tuning")?;
    let files = match std::fs::read_dir(&folder) {
        Ok(files) => files.collect::<std::io::Result<Vec<_>>>()?,
        // No table, no folder.
        Err(why) if why.kind() == std::io::ErrorKind::NotFound => Vec::new(),
        Err(why) => return Err(why),
    };
    let mut paths: Vec<PathBuf> = files.into_iter().map(|file| file.path()).collect();
    paths.retain(|path| path.extension().is_some_and(|extension| extension == "toml"));
    paths.sort();
    let rows = paths.iter().map(|path| {
        let name = format!("tuning/{}", path.file_name().unwrap_or_default().display());
        format!("    ({name:?}, include_str!({path:?})),\n")
    });
    let text = format!(
        "/// Tables that are part of the program: file name and text.\n\
         const BUILT_IN: &[(&str, &str)] = &[\n{}];\n",
        rows.collect::<String>()
    );
    let out = std::env::var_os("OUT_DIR").map(PathBuf::from).unwrap_or_default();
    std::fs::write(out.join("tuning_tables.rs"), text)
}

fn set(name: &str, value: &str) {
    println!("cargo:rustc-env={name}={value}");
}

/// What the sources in `root` were made from.
pub fn provenance(root: &Path) -> Provenance {
    let inputs = INPUTS.iter().map(PathBuf::from).chain([PathBuf::from(PACKAGED)]);
    let mut watched: Vec<_> = inputs.filter(|path| root.join(path).exists()).collect();
    watched.extend(head_files(root));
    // A crate that was unpacked inside somebody else's checkout is not of that
    // checkout's commit.
    if git(root, &["ls-files", "--error-unmatch", "Cargo.toml"]).is_none() {
        return Provenance { sha: packaged_sha(root), dirty: None, watched };
    }
    Provenance { sha: git(root, &["rev-parse", "HEAD"]), dirty: is_dirty(root), watched }
}

/// Whether an input differs from the commit. None where git fails, and where it
/// was told to look away from a file.
fn is_dirty(root: &Path) -> Option<bool> {
    // No lock and no refreshed index: a build writes nothing into the checkout.
    let mut status =
        vec!["--no-optional-locks", "status", "--porcelain", "--untracked-files=no", "--"];
    let mut others = vec!["ls-files", "--others", "--"];
    let mut tags = vec!["ls-files", "-v", "--"];
    for arguments in [&mut status, &mut others, &mut tags] {
        arguments.extend(INPUTS);
    }
    let changed = !git(root, &status)?.is_empty();
    // What the commit lacks may be included all the same, ignored or not.
    let added = git(root, &others)?.lines().any(|path| !is_leftover(path));
    // Lower case: assumed unchanged. S: outside of a sparse checkout.
    let hidden = |tag: char| tag.is_ascii_lowercase() || tag == 'S';
    let unseen = git(root, &tags)?.lines().any(|line| line.starts_with(hidden));
    match changed || added {
        false if unseen => None,
        dirty => Some(dirty),
    }
}

/// Whether a file is an editor's backup or lock, which nothing includes.
fn is_leftover(path: &str) -> bool {
    let path = path.trim_matches('"');
    let name = path.rsplit('/').next().unwrap_or(path);
    name.starts_with(['.', '#']) || name.ends_with('~')
}

/// Files of git that change when HEAD comes to stand at another commit, be it by
/// a commit, a checkout or a reset. They lie elsewhere in a linked worktree.
fn head_files(root: &Path) -> Vec<PathBuf> {
    let branch = git(root, &["symbolic-ref", "--quiet", "HEAD"]);
    let mut found = Vec::new();
    for name in ["HEAD", "logs/HEAD", "packed-refs", "reftable"] {
        found.extend(git_path(root, name).filter(|path| root.join(path).exists()));
    }
    if let Some(path) = branch.and_then(|branch| git_path(root, &branch)) {
        // A packed branch has no file until its next commit.
        let exists = |path: &&Path| root.join(path).exists();
        found.extend(path.ancestors().find(exists).map(Path::to_owned));
    }
    found
}

/// Where git keeps a file of its own, as seen from `root`.
fn git_path(root: &Path, name: &str) -> Option<PathBuf> {
    git(root, &["rev-parse", "--git-path", name]).map(PathBuf::from)
}

/// The commit that a packaged crate says it was made from.
fn packaged_sha(root: &Path) -> Option<String> {
    let text = std::fs::read_to_string(root.join(PACKAGED)).ok()?;
    let (_, rest) = text.split_once("\"sha1\"")?;
    let sha = rest.split('"').nth(1)?;
    let hexadecimal = sha.len() >= 40 && sha.bytes().all(|byte| byte.is_ascii_hexdigit());
    hexadecimal.then(|| sha.to_owned())
}

/// What git prints, in `root`, whatever a hook around this build set.
fn git(root: &Path, arguments: &[&str]) -> Option<String> {
    let mut command = Command::new("git");
    for name in REDIRECTIONS {
        command.env_remove(name);
    }
    // A monitor that missed an event would call the file unchanged.
    command.current_dir(root).args(["-c", "core.fsmonitor=false"]).args(arguments);
    output(&mut command)
}

fn output(command: &mut Command) -> Option<String> {
    let output = command.output().ok()?;
    output
        .status
        .success()
        .then(|| String::from_utf8_lossy(&output.stdout).trim_end().to_owned())
}

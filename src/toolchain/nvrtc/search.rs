//! Where NVRTC may be. It comes with the CUDA toolkit and with Python wheels,
//! never with the driver.

use std::ffi::{OsStr, OsString};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

/// File names that the loader may know NVRTC by.
const NAMES: [&str; 4] =
    ["libnvrtc.so.13", "libnvrtc.so.12", "libnvrtc.so.11.2", "libnvrtc.so"];

/// Folders of libraries in a toolkit.
const TOOLKIT: [&str; 4] =
    ["lib64", "lib", "targets/x86_64-linux/lib", "targets/sbsa-linux/lib"];

/// Folders of libraries among Python's packages.
const WHEELS: [&str; 3] = ["nvidia/cu13/lib", "nvidia/cu12/lib", "nvidia/cuda_nvrtc/lib"];

/// Folders that `scripts/install-nvrtc` fills, beside the build's own.
const DOWNLOADS: [&str; 2] = ["cuda-toolkit", "cuda-toolkit-12"];

/// Places to look for NVRTC in.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SearchPath {
    /// A file or folder that the user chose. Nothing else is looked at then.
    pub chosen: Option<PathBuf>,
    /// Whether to ask the loader, which knows LD_LIBRARY_PATH.
    pub loader: bool,
    /// Folders.
    pub folders: Vec<PathBuf>,
    /// Whether to ask Python for its folders where all else failed.
    pub python: bool,
}

impl SearchPath {
    /// Everywhere that NVRTC is usually found on this machine.
    pub fn of_this_machine() -> Self {
        SearchPath::of(|name| std::env::var_os(name))
    }

    /// The same for given environment variables.
    pub fn of(variable: impl Fn(&str) -> Option<OsString>) -> Self {
        let path = |name: &str| {
            variable(name).filter(|value| !value.is_empty()).map(PathBuf::from)
        };
        let mut folders = Vec::new();
        for root in ["CUDA_HOME", "CUDA_PATH"].into_iter().filter_map(path) {
            folders.extend(TOOLKIT.map(|folder| root.join(folder)));
        }
        for root in children(Path::new("/usr/local"), "cuda") {
            folders.extend(TOOLKIT.map(|folder| root.join(folder)));
        }
        let conda = path("CONDA_PREFIX");
        folders.extend(conda.iter().map(|root| root.join("lib")));
        let user = path("HOME").map(|home| home.join(".local"));
        let prefixes = [path("VIRTUAL_ENV"), conda, user];
        let system = ["/usr/local", "/usr"].map(|root| Some(PathBuf::from(root)));
        for prefix in prefixes.into_iter().chain(system).flatten() {
            for python in children(&prefix.join("lib"), "python3") {
                for packages in ["site-packages", "dist-packages"] {
                    let packages = python.join(packages);
                    folders.extend(WHEELS.map(|folder| packages.join(folder)));
                }
            }
        }
        for root in download_folders() {
            folders.extend(WHEELS.map(|folder| root.join(folder)));
        }
        SearchPath { chosen: path("RIDGEPOINT_NVRTC"), loader: true, folders, python: true }
    }

    /// One file or folder and nothing else.
    pub fn only(path: impl Into<PathBuf>) -> Self {
        SearchPath { chosen: Some(path.into()), ..SearchPath::default() }
    }

    /// Names and files that may be NVRTC, without Python's.
    pub(super) fn candidates(&self) -> Vec<PathBuf> {
        if let Some(chosen) = &self.chosen {
            return match chosen.is_dir() {
                true => libraries(chosen),
                false => vec![chosen.clone()],
            };
        }
        let named: &[&str] = if self.loader { &NAMES } else { &[] };
        let found = self.folders.iter().flat_map(|folder| libraries(folder));
        named.iter().map(PathBuf::from).chain(found).collect()
    }

    /// Files that may be NVRTC among Python's packages, as Python says.
    pub(super) fn python_candidates(&self) -> Vec<PathBuf> {
        if self.chosen.is_some() || !self.python {
            return Vec::new();
        }
        let output = Command::new("python3")
            .args(["-c", "import sys; print('\\n'.join(sys.path))"])
            .output();
        let text = match &output {
            Ok(output) => String::from_utf8_lossy(&output.stdout),
            Err(_) => return Vec::new(),
        };
        text.lines()
            .filter(|line| !line.is_empty())
            .flat_map(|line| WHEELS.map(|folder| Path::new(line).join(folder)))
            .flat_map(|folder| libraries(&folder))
            .collect()
    }

    /// Where it looks, in words, for a message.
    pub(super) fn places(&self) -> Vec<String> {
        if let Some(chosen) = &self.chosen {
            return vec![format!("RIDGEPOINT_NVRTC={}", chosen.display())];
        }
        let mut places: Vec<String> =
            self.loader.then(|| "the loader path".to_owned()).into_iter().collect();
        let existing = self.folders.iter().filter(|folder| folder.is_dir());
        places.extend(existing.map(|folder| folder.display().to_string()));
        if self.python {
            places.push("CUDA_HOME, CUDA_PATH, /usr/local/cuda*".to_owned());
            places.push("Python's packages".to_owned());
            places.push(format!("target/{}", DOWNLOADS[0]));
        }
        places
    }
}

/// Folders that `scripts/install-nvrtc` fills: of the checkout that the program
/// was built in, and beside the program.
pub fn download_folders() -> Vec<PathBuf> {
    let checkout = Path::new(env!("CARGO_MANIFEST_DIR")).join("target");
    let program = std::env::current_exe().unwrap_or_default();
    let beside = program.ancestors().skip(1).take(3).map(Path::to_owned);
    let roots = std::iter::once(checkout).chain(beside);
    roots
        .flat_map(|root| DOWNLOADS.map(|folder| root.join(folder)))
        .filter(|folder| folder.is_dir())
        .collect()
}

/// The builtins library of the NVRTC in a file. NVRTC opens it by its bare name,
/// which fails where its folder is not in the loader path.
pub(super) fn builtins_beside(library: &Path) -> Vec<PathBuf> {
    let Some(folder) = library.parent() else { return Vec::new() };
    children(folder, "libnvrtc-builtins.so")
}

/// Files in a folder that are named like NVRTC.
fn libraries(folder: &Path) -> Vec<PathBuf> {
    children(folder, "libnvrtc.so")
}

/// Entries of a folder whose names start with `prefix`, in order of their names.
fn children(folder: &Path, prefix: &str) -> Vec<PathBuf> {
    let starts = |name: &OsStr| name.to_string_lossy().starts_with(prefix);
    let mut paths: Vec<PathBuf> = fs::read_dir(folder)
        .into_iter()
        .flatten()
        .flatten()
        .filter(|entry| starts(&entry.file_name()))
        .map(|entry| entry.path())
        .collect();
    paths.sort();
    paths
}

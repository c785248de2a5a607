//! Where libraries of the CUDA toolkit may be. They come with the toolkit and with Python
//! wheels, never with the driver.

use std::ffi::{OsStr, OsString};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

/// A library of the toolkit.
#[derive(Debug, PartialEq, Eq)]
pub struct ToolkitLibrary {
    /// What its file names begin with.
    pub stem: &'static str,
    /// File names that the loader may know it by.
    pub names: &'static [&'static str],
    /// Folders of libraries among Python's packages.
    pub wheels: &'static [&'static str],
    /// The variable by which a user chooses one.
    pub variable: &'static str,
}

/// The run-time compiler.
pub static NVRTC: ToolkitLibrary = ToolkitLibrary {
    stem: "libnvrtc.so",
    names: &["libnvrtc.so.13", "libnvrtc.so.12", "libnvrtc.so.11.2", "libnvrtc.so"],
    wheels: &["nvidia/cu13/lib", "nvidia/cu12/lib", "nvidia/cuda_nvrtc/lib"],
    variable: "RIDGEPOINT_NVRTC",
};

/// The vendor's matrix products.
pub static CUBLASLT: ToolkitLibrary = ToolkitLibrary {
    stem: "libcublasLt.so",
    names: &["libcublasLt.so.13", "libcublasLt.so.12", "libcublasLt.so"],
    wheels: &["nvidia/cu13/lib", "nvidia/cu12/lib", "nvidia/cublas/lib"],
    variable: "RIDGEPOINT_CUBLASLT",
};

/// Folders of libraries in a toolkit.
const TOOLKIT: [&str; 4] =
    ["lib64", "lib", "targets/x86_64-linux/lib", "targets/sbsa-linux/lib"];

/// Folders that `scripts/install-nvrtc` fills, beside the build's own.
const DOWNLOADS: [&str; 2] = ["cuda-toolkit", "cuda-toolkit-12"];

/// Places to look for a library in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SearchPath {
    /// What is looked for.
    pub library: &'static ToolkitLibrary,
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
    /// Nowhere.
    pub fn nowhere(library: &'static ToolkitLibrary) -> Self {
        let (loader, python) = (false, false);
        SearchPath { library, chosen: None, loader, folders: Vec::new(), python }
    }

    /// Everywhere that a library is usually found on this machine.
    pub fn of_this_machine(library: &'static ToolkitLibrary) -> Self {
        SearchPath::of(library, |name| std::env::var_os(name))
    }

    /// The same for given environment variables.
    pub fn of(
        library: &'static ToolkitLibrary,
        variable: impl Fn(&str) -> Option<OsString>,
    ) -> Self {
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
                    folders
                        .extend(library.wheels.iter().map(|folder| packages.join(folder)));
                }
            }
        }
        for root in download_folders() {
            folders.extend(library.wheels.iter().map(|folder| root.join(folder)));
        }
        let chosen = path(library.variable);
        SearchPath { library, chosen, loader: true, folders, python: true }
    }

    /// One file or folder and nothing else.
    pub fn only(library: &'static ToolkitLibrary, path: impl Into<PathBuf>) -> Self {
        SearchPath { chosen: Some(path.into()), ..SearchPath::nowhere(library) }
    }

    /// Names and files that may be the library, without Python's.
    pub fn candidates(&self) -> Vec<PathBuf> {
        if let Some(chosen) = &self.chosen {
            return match chosen.is_dir() {
                true => self.libraries(chosen),
                false => vec![chosen.clone()],
            };
        }
        let named: &[&str] = if self.loader { self.library.names } else { &[] };
        let found = self.folders.iter().flat_map(|folder| self.libraries(folder));
        named.iter().map(PathBuf::from).chain(found).collect()
    }

    /// Files that may be the library among Python's packages, as Python says.
    pub fn python_candidates(&self) -> Vec<PathBuf> {
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
            .flat_map(|line| {
                self.library.wheels.iter().map(|folder| Path::new(line).join(folder))
            })
            .flat_map(|folder| self.libraries(&folder))
            .collect()
    }

    /// Where it looks, in words, for a message.
    pub fn places(&self) -> Vec<String> {
        if let Some(chosen) = &self.chosen {
            return vec![format!("{}={}", self.library.variable, chosen.display())];
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

    /// Files in a folder that are named like the library.
    fn libraries(&self, folder: &Path) -> Vec<PathBuf> {
        children(folder, self.library.stem)
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

//! From the kernel's file to PTX. CUDA C++ is compiled by nvcc or NVRTC, which run as
//! programs of their own.

use std::ffi::{OsStr, OsString};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::spec::Spec;
use crate::{Failure, Result, usage};

/// Folders of libraries in a toolkit.
const TOOLKIT: [&str; 4] =
    ["lib64", "lib", "targets/x86_64-linux/lib", "targets/sbsa-linux/lib"];
/// Folders of libraries among Python's packages.
const WHEELS: [&str; 3] = ["nvidia/cu13/lib", "nvidia/cu12/lib", "nvidia/cuda_nvrtc/lib"];

/// The compilers that the user chose.
pub struct Compilers<'a> {
    pub nvcc: Option<&'a Path>,
    pub nvrtc: Option<&'a Path>,
}

/// The PTX of a kernel's file.
pub fn ptx(path: &Path, spec: &Spec, compilers: &Compilers<'_>) -> Result<String> {
    if path.extension().is_none_or(|extension| extension != "cu") {
        return match fs::read_to_string(path) {
            Ok(text) => Ok(text),
            Err(error) => usage(format!("cannot read {}: {error}", path.display())),
        };
    }
    if !path.is_file() {
        return usage(format!("there is no file {}", path.display()));
    }
    if let Some(nvcc) = compilers.nvcc {
        return with_nvcc(nvcc, path, spec);
    }
    if let Some(library) = compilers.nvrtc {
        return with_nvrtc(library, path, spec);
    }
    let variable = |name: &str| std::env::var_os(name).filter(|value| !value.is_empty());
    if let Some(nvcc) = nvcc_of(&variable) {
        return with_nvcc(&nvcc, path, spec);
    }
    if let Some(library) = nvrtc_of(&variable).or_else(nvrtc_of_python) {
        return with_nvrtc(&library, path, spec);
    }
    usage(format!(
        "{} must be compiled, but there is neither nvcc (looked in CUDA_HOME, CUDA_PATH, \
         /usr/local/cuda* and PATH) nor libnvrtc.so (there and among Python's packages). \
         Choose one by --nvcc or --nvrtc, or give PTX",
        path.display()
    ))
}

type Variable<'v> = &'v dyn Fn(&str) -> Option<OsString>;

/// Folders of toolkits.
fn toolkits(variable: Variable<'_>) -> Vec<PathBuf> {
    let named = ["CUDA_HOME", "CUDA_PATH"].into_iter().filter_map(variable);
    named.map(PathBuf::from).chain(children(Path::new("/usr/local"), "cuda")).collect()
}

fn nvcc_of(variable: Variable<'_>) -> Option<PathBuf> {
    let path = variable("PATH").unwrap_or_default();
    let folders = toolkits(variable).into_iter().map(|root| root.join("bin"));
    folders
        .chain(std::env::split_paths(&path))
        .map(|folder| folder.join("nvcc"))
        .find(|file| file.is_file())
}

fn nvrtc_of(variable: Variable<'_>) -> Option<PathBuf> {
    let mut folders: Vec<PathBuf> = Vec::new();
    for root in toolkits(variable) {
        folders.extend(TOOLKIT.map(|folder| root.join(folder)));
    }
    folders.extend(std::env::split_paths(&variable("LD_LIBRARY_PATH").unwrap_or_default()));
    let user = variable("HOME").map(|home| PathBuf::from(home).join(".local"));
    let prefixes =
        ["VIRTUAL_ENV", "CONDA_PREFIX"].map(|name| variable(name).map(PathBuf::from));
    let system = ["/usr/local", "/usr"].map(|root| Some(PathBuf::from(root)));
    for prefix in prefixes.into_iter().chain([user]).chain(system).flatten() {
        folders.push(prefix.join("lib"));
        for python in children(&prefix.join("lib"), "python3") {
            for packages in ["site-packages", "dist-packages"] {
                folders.extend(WHEELS.map(|folder| python.join(packages).join(folder)));
            }
        }
    }
    folders.iter().find_map(|folder| library_in(folder))
}

/// The library among the packages of the `python3` that runs.
fn nvrtc_of_python() -> Option<PathBuf> {
    let print = "import sys; print('\\n'.join(sys.path))";
    let output = Command::new("python3").args(["-c", print]).output().ok()?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    text.lines()
        .filter(|line| !line.is_empty())
        .flat_map(|line| WHEELS.map(|folder| Path::new(line).join(folder)))
        .find_map(|folder| library_in(&folder))
}

fn library_in(folder: &Path) -> Option<PathBuf> {
    children(folder, "libnvrtc.so").into_iter().next()
}

/// Entries of a folder whose names start with `prefix`, in order of their names.
fn children(folder: &Path, prefix: &str) -> Vec<PathBuf> {
    let starts = |name: &OsStr| name.to_string_lossy().starts_with(prefix);
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    let mut paths: Vec<PathBuf> = entries
        .filter(|entry| starts(&entry.file_name()))
        .map(|entry| entry.path())
        .collect();
    paths.sort();
    paths
}

fn with_nvcc(nvcc: &Path, path: &Path, spec: &Spec) -> Result<String> {
    let mut command = Command::new(nvcc);
    command.args(["--ptx", "-lineinfo", "-o", "-"]);
    command.arg(format!("-arch={}", spec.arch)).args(&spec.flags).arg(path);
    finish(command, nvcc, path)
}

fn with_nvrtc(library: &Path, path: &Path, spec: &Spec) -> Result<String> {
    if !library.is_file() {
        return usage(format!("there is no NVRTC library {}", library.display()));
    }
    let virtual_arch = spec.arch.replacen("sm_", "compute_", 1);
    let mut command = Command::new("python3");
    command.args(["-c", include_str!("nvrtc.py")]).arg(library).arg(path);
    command.args(["-lineinfo", "--std=c++17"]);
    command.arg(format!("--gpu-architecture={virtual_arch}"));
    for folder in headers(library, path) {
        command.arg(format!("-I{}", folder.display()));
    }
    command.args(&spec.flags);
    finish(command, library, path)
}

/// Folders of headers: the source's own, and those of the toolkit or wheel of a library.
fn headers(library: &Path, path: &Path) -> Vec<PathBuf> {
    let own = path.parent().map(Path::to_owned).filter(|folder| folder.is_dir());
    let root = library.parent().and_then(Path::parent).map(Path::to_owned);
    let toolkit = root
        .into_iter()
        .flat_map(|root| ["include", "include/cccl"].map(|folder| root.join(folder)));
    own.into_iter().chain(toolkit.filter(|folder| folder.is_dir())).collect()
}

/// Runs a compiler, which prints PTX.
fn finish(mut command: Command, compiler: &Path, path: &Path) -> Result<String> {
    let output = match command.output() {
        Ok(output) => output,
        Err(error) => {
            let program = command.get_program().to_string_lossy().into_owned();
            return usage(format!("{} cannot run {program}: {error}", compiler.display()));
        }
    };
    if !output.status.success() {
        return Err(Failure::Refused(format!(
            "{} does not compile:\n{}",
            path.display(),
            String::from_utf8_lossy(&output.stderr).trim_end()
        )));
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_toolkit_is_found_by_its_variable() {
        let folder =
            std::env::temp_dir().join(format!("ptxvm-search-{}", std::process::id()));
        for (place, file) in [("bin", "nvcc"), ("lib64", "libnvrtc.so.13")] {
            fs::create_dir_all(folder.join(place)).unwrap();
            fs::write(folder.join(place).join(file), "").unwrap();
        }
        let variable =
            |name: &str| (name == "CUDA_HOME").then(|| folder.clone().into_os_string());
        assert_eq!(nvcc_of(&variable), Some(folder.join("bin/nvcc")));
        assert_eq!(nvrtc_of(&variable), Some(folder.join("lib64/libnvrtc.so.13")));
        fs::remove_dir_all(&folder).unwrap();
    }
}

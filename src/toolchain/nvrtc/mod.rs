//! NVRTC, NVIDIA's run-time compiler: CUDA text to machine code, on any machine,
//! with or without a GPU. A small loader of our own: it finds the library in
//! more places than the loader path, and where there is none it returns an error
//! instead of panicking.

mod ffi;
mod log;
mod ptx;

use std::collections::{BTreeMap, HashSet};
use std::ffi::{CString, NulError};
use std::fmt;
use std::path::{Path, PathBuf};

use thiserror::Error;

use super::library::{on_loader_path, refuse_cut};
use super::search::{self, SearchPath};
pub use log::{Report, Resources};
pub use ptx::param_bytes;

/// Folder that sources and headers seem to be in. Without one, the compiler
/// writes the working folder into line tables, and images of the same source
/// differ.
const FOLDER: &str = "/ridgepoint/kernels/";

/// What to do where there is no NVRTC.
const REMEDY: &str = "run scripts/install-nvrtc in a checkout, or `python3 -m pip install \
     nvidia-cuda-nvrtc`, or set RIDGEPOINT_NVRTC to libnvrtc.so or its folder, or pass --kernels \
     with a folder made by `ridgepoint kernels build` elsewhere";

/// Why there is no NVRTC to use.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
pub enum NvrtcError {
    /// None was found.
    #[error("found no NVRTC; looked in {}; {REMEDY}", .looked.join(", "))]
    NotFound {
        /// Where.
        looked: Vec<String>,
    },
    /// What was found cannot be used.
    #[error("no NVRTC can be used: {}; {REMEDY}", .faults.join("; "))]
    Unusable {
        /// Each one with its fault.
        faults: Vec<String>,
    },
    /// All that were found are newer than the driver.
    #[error(
        "the driver loads code of CUDA {max_major} and older, and only newer compilers were \
         found: {}; install NVRTC {max_major} or a newer driver",
        .found.join(", ")
    )]
    TooNew {
        /// Versions and paths.
        found: Vec<String>,
        /// Newest version that the driver loads.
        max_major: u32,
    },
}

/// Why a source has no machine code.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
pub enum CompileError {
    /// The compiler or the assembler rejects it.
    #[error("{name} does not compile for {arch}: {status}\n{log}")]
    Rejected {
        /// Name of the source.
        name: String,
        /// What for.
        arch: String,
        /// NVRTC's name for the failure.
        status: String,
        /// What the compiler said.
        log: String,
    },
    /// It compiles to nothing.
    #[error(
        "{name} compiles to an empty image for {arch}: {arch} is not a real architecture"
    )]
    Empty {
        /// Name of the source.
        name: String,
        /// What for.
        arch: String,
    },
    /// The compiler is too old or too new for the architecture.
    #[error("{compiler} does not compile for {arch}; it knows {known}")]
    UnknownArch {
        /// Which compiler.
        compiler: String,
        /// What for.
        arch: String,
        /// What it knows.
        known: String,
    },
    /// A text contains a NUL.
    #[error("{0}")]
    Nul(#[from] NulError),
    /// The library fails outside a compilation.
    #[error("NVRTC fails: {0}")]
    Library(String),
}

/// A CUDA source with what it includes.
#[derive(Clone, Copy, Debug)]
pub struct Source<'a> {
    /// File name without `.cu`, in messages and line tables.
    pub name: &'a str,
    /// Text.
    pub text: &'a str,
    /// Headers that may be included: names and texts.
    pub headers: &'a [(&'a str, &'a str)],
}

/// Machine code.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cubin {
    /// The ELF file that a driver loads.
    pub image: Vec<u8>,
    /// The PTX that it was assembled from.
    pub ptx: String,
    /// What the compiler and the assembler said.
    pub log: String,
    /// Resources of each entry.
    pub resources: BTreeMap<String, Resources>,
    /// Warnings of the compiler and the assembler.
    pub warnings: Vec<String>,
}

/// An open NVRTC.
#[derive(Clone, Debug)]
pub struct Nvrtc {
    library: ffi::Library,
    path: PathBuf,
    version: Version,
    archs: Vec<i32>,
}

/// A version of NVRTC.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Version {
    /// The CUDA release.
    pub major: u32,
    /// Its minor version.
    pub minor: u32,
    /// The build, where the compiler says.
    pub build: Option<u32>,
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.major, self.minor)?;
        self.build.map_or(Ok(()), |build| write!(f, ".{build}"))
    }
}

impl Nvrtc {
    /// Finds the newest NVRTC, no newer than CUDA `max_major`: a driver loads
    /// machine code of its own major version and older ones.
    ///
    /// # Errors
    /// What was found and why it cannot be used, or where it looked.
    pub fn find(search: &SearchPath, max_major: Option<u32>) -> Result<Self, NvrtcError> {
        let mut finds = Finds::default();
        finds.add(search.candidates());
        let fits = |found: &Nvrtc| max_major.is_none_or(|max| found.version.major <= max);
        if !finds.found.iter().any(fits) {
            finds.add(search.python_candidates());
        }
        let newest = finds.found.iter().filter(|found| fits(found)).rev();
        if let Some(found) = newest.max_by_key(|found| found.version.clone()) {
            return Ok(found.clone());
        }
        match (max_major, finds) {
            (Some(max_major), finds) if !finds.found.is_empty() => {
                let found = finds.found.iter().map(ToString::to_string).collect();
                Err(NvrtcError::TooNew { found, max_major })
            }
            (_, finds) if !finds.faults.is_empty() => {
                Err(NvrtcError::Unusable { faults: finds.faults })
            }
            _ => Err(NvrtcError::NotFound { looked: search.places() }),
        }
    }

    /// Its file, or the name that the loader found it by.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Its version.
    pub fn version(&self) -> &Version {
        &self.version
    }

    /// Compiles to machine code. `arch` is a real architecture such as
    /// `sm_90a`.
    ///
    /// # Errors
    /// A source that does not compile, with the compiler's log.
    pub fn compile(
        &self,
        source: &Source,
        options: &[String],
        arch: &str,
    ) -> Result<Cubin, CompileError> {
        let compiled = self.run(source, options, arch)?;
        if compiled.cubin.is_empty() {
            let (name, arch) = (source.name.to_owned(), arch.to_owned());
            return Err(CompileError::Empty { name, arch });
        }
        let mut report = Report::parse(&compiled.log);
        ptx::complete(&mut report.resources, &compiled.ptx);
        Ok(Cubin {
            image: compiled.cubin,
            ptx: compiled.ptx,
            log: compiled.log,
            resources: report.resources,
            warnings: report.warnings,
        })
    }

    /// Compiles to PTX alone. `arch` is a virtual architecture such as
    /// `compute_90a`.
    ///
    /// # Errors
    /// A source that does not compile, with the compiler's log.
    pub fn ptx(
        &self,
        source: &Source,
        options: &[String],
        arch: &str,
    ) -> Result<String, CompileError> {
        self.run(source, options, arch).map(|compiled| compiled.ptx)
    }

    fn run(
        &self,
        source: &Source,
        options: &[String],
        arch: &str,
    ) -> Result<ffi::Compiled, CompileError> {
        let number = arch.split_once('_').map_or("", |(_, number)| number);
        let number = number.trim_end_matches(|c: char| c.is_ascii_lowercase());
        if !number.parse().is_ok_and(|number| self.archs.contains(&number)) {
            let known: Vec<String> = self.archs.iter().map(|n| format!("sm_{n}")).collect();
            return Err(CompileError::UnknownArch {
                compiler: format!("NVRTC {}", self.version),
                arch: arch.to_owned(),
                known: known.join(", "),
            });
        }
        let here = |name: &str| CString::new(format!("{FOLDER}{name}"));
        let text = |text: &str| CString::new(with_folder(text, source.headers));
        let mut headers = Vec::new();
        for (name, header) in source.headers {
            headers.push((here(name)?, text(header)?));
        }
        let mut flags = vec![CString::new(format!("--gpu-architecture={arch}"))?];
        for option in options {
            flags.push(CString::new(option.as_str())?);
        }
        let compiled = self
            .library
            .compile(
                &here(&format!("{}.cu", source.name))?,
                &text(source.text)?,
                &headers,
                &flags,
            )
            .map_err(CompileError::Library)?;
        match compiled.status {
            Ok(()) => Ok(compiled),
            Err(status) => Err(CompileError::Rejected {
                name: source.name.to_owned(),
                arch: arch.to_owned(),
                status,
                log: compiled.log,
            }),
        }
    }

    /// Opens a candidate.
    fn open(path: &Path) -> Result<Self, String> {
        let library = ffi::Library::open(path)?;
        let (major, minor) = library.version()?;
        let path = loaded_path(path);
        for builtins in search::builtins_beside(&path) {
            // Compiling opens it again, and the loader ends the process where it is cut.
            refuse_cut(&builtins)?;
            // One of another version, or none: compiling says what is missing.
            let _ = ffi::keep_open(&builtins);
        }
        let mut nvrtc = Nvrtc {
            library,
            path,
            version: Version { major, minor, build: None },
            archs: library.archs()?,
        };
        nvrtc.version.build = nvrtc.build()?;
        Ok(nvrtc)
    }

    /// The build number, which only compiled code contains. Also shows that the compiler
    /// works.
    fn build(&self) -> Result<Option<u32>, String> {
        let source = Source { name: "empty", text: "", headers: &[] };
        let newest = self.archs.iter().max().ok_or("it knows no architecture")?;
        let ptx = self
            .ptx(&source, &[], &format!("compute_{newest}"))
            .map_err(|error| error.to_string())?;
        let prefix = format!(", V{}.{}.", self.version.major, self.version.minor);
        let build = ptx.split_once(&prefix).map(|(_, rest)| rest);
        Ok(build.and_then(|rest| rest.lines().next()?.trim().parse().ok()))
    }
}

impl fmt::Display for Nvrtc {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "NVRTC {} in {}", self.version, self.path.display())
    }
}

/// Libraries found so far.
#[derive(Default)]
struct Finds {
    found: Vec<Nvrtc>,
    faults: Vec<String>,
    seen: HashSet<PathBuf>,
}

impl Finds {
    fn add(&mut self, candidates: Vec<PathBuf>) {
        for path in candidates {
            if !self.seen.insert(path.canonicalize().unwrap_or_else(|_| path.clone())) {
                continue;
            }
            match Nvrtc::open(&path) {
                Ok(nvrtc) => self.found.push(nvrtc),
                // The loader does not know the name, which is not a fault.
                Err(_)
                    if path.parent() == Some(Path::new(""))
                        && on_loader_path(path.as_os_str()).is_none() => {}
                Err(why) => {
                    let name = format!("{}: ", path.display());
                    let why = why.strip_prefix(&name).unwrap_or(&why);
                    self.faults.push(format!("{name}{why}"));
                }
            }
        }
    }
}

/// The file of a name that the loader found.
fn loaded_path(name: &Path) -> PathBuf {
    if name.parent() != Some(Path::new("")) {
        return name.to_owned();
    }
    let maps = std::fs::read_to_string("/proc/self/maps").unwrap_or_default();
    let mut paths = maps.lines().filter_map(|line| line.find('/').map(|at| &line[at..]));
    let stem = name.to_string_lossy();
    paths
        .find(|path| path.rsplit('/').next().is_some_and(|file| file.starts_with(&*stem)))
        .map_or_else(|| name.to_owned(), PathBuf::from)
}

/// A text whose `#include "name"` lines name the headers with their folder.
fn with_folder(text: &str, headers: &[(&str, &str)]) -> String {
    headers.iter().fold(text.to_owned(), |text, (name, _)| {
        let with = format!("#include \"{FOLDER}{name}\"");
        text.replace(&format!("#include \"{name}\""), &with)
    })
}

#[cfg(test)]
mod tests;

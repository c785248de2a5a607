//! From a kernel's source to machine code: from a folder of prebuilt images,
//! from the cache on disk, or by NVRTC.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Once, OnceLock};

use serde::{Deserialize, Serialize};
use thiserror::Error;

use super::arch::Arch;
use super::binary::{Binary, ImageKind, arguments, key, short_hash};
use super::defines::Defines;
use super::nvrtc::{self, Nvrtc, NvrtcError, Resources, Source};
use super::prebuilt::{Folder, FolderError};
use super::search::{NVRTC, SearchPath};
use crate::output::remark;

/// First line of a file in the cache that holds machine code. Its number changes
/// with the format.
const CUBIN_FORMAT: &str = "ridgepoint cubin 1";

/// First line of a file in the cache that holds PTX.
const PTX_FORMAT: &str = "ridgepoint ptx 1";

/// Why a kernel has no machine code.
#[derive(Debug, Error)]
pub enum CompileError {
    /// There is no compiler.
    #[error(transparent)]
    NoCompiler(#[from] NvrtcError),
    /// The compiler rejects the source.
    #[error(transparent)]
    Rejected(#[from] nvrtc::CompileError),
    /// The folder of prebuilt kernels cannot be used.
    #[error(transparent)]
    Folder(#[from] FolderError),
    /// PTX is asked for, and the folder of prebuilt kernels has machine code.
    #[error(
        "{}: it holds machine code, and this device is given PTX; leave --kernels out{}",
        .folder.display(), unset()
    )]
    NoPtx {
        /// The folder.
        folder: PathBuf,
    },
    /// The folder of prebuilt kernels does not have this one, and there is no compiler.
    #[error("{missing}; or build it here: {no_compiler}")]
    NotPrebuilt {
        /// What the folder does not have.
        missing: String,
        /// Why it cannot be built.
        no_compiler: NvrtcError,
    },
}

fn unset() -> String {
    let name = ImageKind::VARIABLE;
    std::env::var_os(name).map_or(String::new(), |_| format!(", or unset {name}"))
}

/// Where machine code may come from.
#[derive(Clone, Debug)]
pub struct CompilerOptions {
    /// A folder that `ridgepoint kernels build` wrote.
    pub kernels: Option<PathBuf>,
    /// Newest CUDA release whose code the driver loads; any where there is no
    /// driver.
    pub max_major: Option<u32>,
    /// Root of the cache on disk; none to compile every time.
    pub cache: Option<PathBuf>,
    /// Where to look for NVRTC.
    pub search: SearchPath,
    /// What sources are compiled to.
    pub image: ImageKind,
}

impl Default for CompilerOptions {
    fn default() -> Self {
        CompilerOptions {
            kernels: None,
            max_major: None,
            cache: cache_root(|name| std::env::var_os(name).map(PathBuf::from)),
            search: SearchPath::of_this_machine(&NVRTC),
            image: ImageKind::default(),
        }
    }
}

/// The user's cache folder, from environment variables.
fn cache_root(variable: impl Fn(&str) -> Option<PathBuf>) -> Option<PathBuf> {
    let path = |name: &str| variable(name).filter(|path| !path.as_os_str().is_empty());
    path("RIDGEPOINT_CACHE")
        .or_else(|| path("XDG_CACHE_HOME").map(|root| root.join("ridgepoint")))
        .or_else(|| path("HOME").map(|home| home.join(".cache/ridgepoint")))
}

/// Compiles kernels, or finds them compiled.
#[derive(Debug)]
pub struct Compiler {
    options: CompilerOptions,
    folder: Option<Folder>,
    nvrtc: OnceLock<Result<Nvrtc, NvrtcError>>,
    cache_warning: Once,
}

impl Compiler {
    /// Opens the folder of prebuilt kernels. NVRTC is looked for when a kernel
    /// first needs it.
    ///
    /// # Errors
    /// A folder of prebuilt kernels that cannot be used.
    pub fn new(options: CompilerOptions) -> Result<Self, CompileError> {
        if let (Some(folder), ImageKind::Ptx) = (&options.kernels, options.image) {
            return Err(CompileError::NoPtx { folder: folder.clone() });
        }
        let folder = match &options.kernels {
            Some(path) => Some(Folder::open(path, options.max_major)?),
            None => None,
        };
        Ok(Compiler { options, folder, nvrtc: OnceLock::new(), cache_warning: Once::new() })
    }

    /// The compiler itself.
    ///
    /// # Errors
    /// Why there is none.
    pub fn nvrtc(&self) -> Result<&Nvrtc, &NvrtcError> {
        self.nvrtc
            .get_or_init(|| Nvrtc::find(&self.options.search, self.options.max_major))
            .as_ref()
    }

    /// Which folder or compiler is used, or why there is none.
    pub fn describe(&self) -> String {
        match (&self.folder, self.nvrtc()) {
            (Some(folder), Ok(nvrtc)) => format!("{folder}, then {nvrtc}"),
            (Some(folder), Err(_)) => folder.to_string(),
            (None, Ok(nvrtc)) => nvrtc.to_string(),
            (None, Err(why)) => why.to_string(),
        }
    }

    /// What a source is compiled to, see [`CompilerOptions::image`].
    ///
    /// # Errors
    /// A source that is not prebuilt and cannot be compiled.
    pub fn compile(
        &self,
        source: &Source,
        defines: &Defines,
        arch: Arch,
    ) -> Result<Binary, CompileError> {
        match self.options.image {
            ImageKind::Cubin => self.cubin(source, defines, arch),
            ImageKind::Ptx => self.ptx_image(source, defines, arch),
        }
    }

    fn ptx_image(
        &self,
        source: &Source,
        defines: &Defines,
        arch: Arch,
    ) -> Result<Binary, CompileError> {
        let image = self.ptx(source, defines, arch)?.into_bytes();
        let nvrtc = self.nvrtc().map_err(Clone::clone)?;
        Ok(Binary {
            hash: short_hash(&image),
            image,
            resources: BTreeMap::new(),
            warnings: Vec::new(),
            compiler: format!("NVRTC {}, PTX", nvrtc.version()),
        })
    }

    fn cubin(
        &self,
        source: &Source,
        defines: &Defines,
        arch: Arch,
    ) -> Result<Binary, CompileError> {
        let key = key(source, defines, arch);
        let missing = match &self.folder {
            Some(folder) => match folder.binary(source, defines, arch, &key)? {
                Ok(binary) => return Ok(binary),
                Err(missing) => Some(missing),
            },
            None => None,
        };
        let nvrtc = match (self.nvrtc(), missing) {
            (Ok(nvrtc), _) => nvrtc,
            (Err(why), None) => return Err(why.clone().into()),
            (Err(why), Some(missing)) => {
                return Err(CompileError::NotPrebuilt {
                    missing,
                    no_compiler: why.clone(),
                });
            }
        };
        let cached = self.cached(nvrtc, &format!("{key}.cubin"));
        if let Some(binary) = cached.as_deref().and_then(read_cached) {
            return Ok(binary);
        }
        let cubin = nvrtc.compile(source, &arguments(defines), &arch.compiler_name())?;
        let binary = Binary {
            hash: short_hash(&cubin.image),
            image: cubin.image,
            resources: cubin.resources,
            warnings: cubin.warnings,
            compiler: format!("NVRTC {}", nvrtc.version()),
        };
        if let Some(path) = cached {
            self.keep(&path, || write_cached(&path, &binary));
            // What a device that takes PTX is given of the same source.
            let path = path.with_extension("ptx");
            self.keep(&path, || seal(&path, PTX_FORMAT, cubin.ptx.as_bytes()));
        }
        Ok(binary)
    }

    /// Where the cache has a file, if there is a cache.
    fn cached(&self, nvrtc: &Nvrtc, name: &str) -> Option<PathBuf> {
        let root = self.options.cache.as_ref()?;
        Some(root.join(format!("nvrtc-{}", nvrtc.version())).join(name))
    }

    /// PTX of a source, from the cache on disk or by NVRTC.
    ///
    /// # Errors
    /// No compiler, or a source that it rejects.
    pub fn ptx(
        &self,
        source: &Source,
        defines: &Defines,
        arch: Arch,
    ) -> Result<String, CompileError> {
        let nvrtc = self.nvrtc().map_err(Clone::clone)?;
        let cached = self.cached(nvrtc, &format!("{}.ptx", key(source, defines, arch)));
        if let Some(bytes) = cached.as_deref().and_then(|path| unseal(path, PTX_FORMAT))
            && let Ok(ptx) = String::from_utf8(bytes)
        {
            return Ok(ptx);
        }
        let name = arch.compiler_name().replace("sm_", "compute_");
        let ptx = nvrtc.ptx(source, &arguments(defines), &name)?;
        if let Some(path) = cached {
            self.keep(&path, || seal(&path, PTX_FORMAT, ptx.as_bytes()));
        }
        Ok(ptx)
    }

    /// Keeps a file in the cache. A cache that cannot be written costs time and
    /// nothing else.
    fn keep(&self, path: &Path, write: impl FnOnce() -> std::io::Result<()>) {
        if let Err(why) = write() {
            self.cache_warning.call_once(|| {
                remark!(
                    "ridgepoint: cannot keep compiled kernels in {}: {why}",
                    path.parent().unwrap_or(path).display()
                );
            });
        }
    }
}

/// What a cached file says before the image.
#[derive(Serialize, Deserialize)]
struct CacheHeader {
    resources: BTreeMap<String, Resources>,
    warnings: Vec<String>,
    compiler: String,
}

/// Machine code that the cache holds: a header in JSON, the image.
fn read_cached(path: &Path) -> Option<Binary> {
    let bytes = unseal(path, CUBIN_FORMAT)?;
    let end = bytes.iter().position(|&byte| byte == b'\n')?;
    let header: CacheHeader = serde_json::from_slice(&bytes[..end]).ok()?;
    let image = bytes[end + 1..].to_vec();
    Some(Binary {
        hash: short_hash(&image),
        image,
        resources: header.resources,
        warnings: header.warnings,
        compiler: header.compiler,
    })
}

/// Puts machine code into the cache.
fn write_cached(path: &Path, binary: &Binary) -> std::io::Result<()> {
    let header = CacheHeader {
        resources: binary.resources.clone(),
        warnings: binary.warnings.clone(),
        compiler: binary.compiler.clone(),
    };
    let mut bytes = serde_json::to_vec(&header)?;
    bytes.push(b'\n');
    bytes.extend_from_slice(&binary.image);
    seal(path, CUBIN_FORMAT, &bytes)
}

/// What a file of the cache holds, if it is whole: after its format and the hash
/// of all that follows.
fn unseal(path: &Path, format: &str) -> Option<Vec<u8>> {
    let bytes = fs::read(path).ok()?;
    let rest = bytes.strip_prefix(format.as_bytes())?.strip_prefix(b"\n")?;
    let (hash, rest) = rest.split_at_checked(64)?;
    let rest = rest.strip_prefix(b"\n")?;
    (blake3::hash(rest).to_hex().as_bytes() == hash).then(|| rest.to_vec())
}

/// Writes a file of the cache beside its place and moves it there, so that
/// another process sees all of it or nothing.
fn seal(path: &Path, format: &str, rest: &[u8]) -> std::io::Result<()> {
    let mut bytes = format!("{format}\n{}\n", blake3::hash(rest).to_hex()).into_bytes();
    bytes.extend_from_slice(rest);
    if let Some(folder) = path.parent() {
        fs::create_dir_all(folder)?;
    }
    // Two threads of one process may compile the same.
    static NEXT: AtomicU32 = AtomicU32::new(0);
    let number = NEXT.fetch_add(1, Ordering::Relaxed);
    let staging = path.with_extension(format!("{}.{number}.new", std::process::id()));
    let written = fs::write(&staging, bytes).and_then(|()| fs::rename(&staging, path));
    if written.is_err() {
        // Where it was never made there is nothing to take away.
        let _ = fs::remove_file(&staging);
    }
    written
}

#[cfg(test)]
mod tests {
    use super::*;

    const HEADERS: &[(&str, &str)] =
        &[("prelude.cuh", "// header"), ("element.cuh", "// other")];
    const TEXT: &str = "#include \"prelude.cuh\"\n";
    const SOURCE: Source = Source { name: "k", text: TEXT, headers: HEADERS };

    fn binary() -> Binary {
        let image = vec![0x7f, b'E', b'L', b'F', b'\n', 0];
        Binary {
            hash: short_hash(&image),
            image,
            resources: [("k".to_owned(), Resources::default())].into(),
            warnings: vec!["ptxas warning : no".to_owned()],
            compiler: "NVRTC 13.0.88".to_owned(),
        }
    }

    #[test]
    fn keys_tell_all_apart_that_images_depend_on() {
        let defines = Defines::new().with("N", 1);
        let base = key(&SOURCE, &defines, Arch::SM_90);
        let others = [
            key(&Source { name: "l", ..SOURCE }, &defines, Arch::SM_90),
            key(
                &Source { text: "#include \"element.cuh\"\n", ..SOURCE },
                &defines,
                Arch::SM_90,
            ),
            key(&Source { headers: &HEADERS[1..], ..SOURCE }, &defines, Arch::SM_90),
            key(&SOURCE, &Defines::new().with("N", 2), Arch::SM_90),
            key(&SOURCE, &Defines::new().with("N", 1).with("M", 1), Arch::SM_90),
            key(&SOURCE, &defines, Arch::SM_80),
        ];
        for other in others {
            assert_eq!(other.len(), 16);
            assert_ne!(other, base);
        }
    }

    #[test]
    fn keys_change_with_the_headers_that_are_included_and_with_no_other() {
        let headers = |a, b, c| [("a.cuh", a), ("b.cuh", b), ("c.cuh", c)];
        let key = |headers: &[(&str, &str)]| {
            let text = "#  include <a.cuh>\n";
            key(&Source { name: "k", text, headers }, &Defines::new(), Arch::SM_90)
        };
        let base = key(&headers("#include \"b.cuh\"", "// b, of a.cuh", "// c"));
        let other = key(&headers("#include \"b.cuh\" ", "// b, of a.cuh", "// c"));
        assert_ne!(other, base, "included");
        let other = key(&headers("#include \"b.cuh\"", "// B, of a.cuh", "// c"));
        assert_ne!(other, base, "included by a header");
        let other = key(&headers("#include \"b.cuh\"", "// b, of a.cuh", "// C"));
        assert_eq!(other, base, "not included");
    }

    #[test]
    fn a_cached_file_is_read_back_and_a_damaged_one_is_not() {
        let root = tempfile::tempdir().unwrap();
        let path = root.path().join("nvrtc-13.0.88").join("0123456789abcdef.cubin");
        assert_eq!(read_cached(&path), None);
        write_cached(&path, &binary()).unwrap();
        assert_eq!(read_cached(&path), Some(binary()));
        let whole = fs::read(&path).unwrap();
        for end in 0..whole.len() {
            fs::write(&path, &whole[..end]).unwrap();
            assert_eq!(read_cached(&path), None, "cut to {end} bytes");
        }
        for at in 0..whole.len() {
            let mut bytes = whole.clone();
            bytes[at] ^= 1;
            fs::write(&path, &bytes).unwrap();
            assert_eq!(read_cached(&path), None, "byte {at} damaged");
        }
        assert_eq!(fs::read_dir(path.parent().unwrap()).unwrap().count(), 1);
    }

    #[test]
    fn the_cache_is_where_the_user_says() {
        let root = |variables: &[(&str, &str)]| {
            cache_root(|name| {
                let found = variables.iter().find(|(n, _)| *n == name);
                found.map(|(_, value)| PathBuf::from(value))
            })
        };
        let (own, xdg, home) =
            (("RIDGEPOINT_CACHE", "/a"), ("XDG_CACHE_HOME", "/b"), ("HOME", "/c"));
        assert_eq!(root(&[home, xdg, own]), Some("/a".into()));
        assert_eq!(root(&[home, xdg]), Some("/b/ridgepoint".into()));
        assert_eq!(
            root(&[home, ("XDG_CACHE_HOME", "")]),
            Some("/c/.cache/ridgepoint".into())
        );
        assert_eq!(root(&[]), None);
    }

    #[test]
    fn without_a_compiler_the_error_says_what_to_do() {
        let options = |kernels: Option<PathBuf>| CompilerOptions {
            kernels,
            max_major: None,
            cache: None,
            search: SearchPath::nowhere(&NVRTC),
            image: ImageKind::Cubin,
        };
        let compiler = Compiler::new(options(None)).unwrap();
        let error = compiler.compile(&SOURCE, &Defines::new(), Arch::SM_90).unwrap_err();
        assert!(error.to_string().contains("scripts/install-nvrtc"), "{error}");
        assert!(compiler.describe().contains("found no NVRTC"));
        assert!(compiler.ptx(&SOURCE, &Defines::new(), Arch::SM_90).is_err());

        let root = tempfile::tempdir().unwrap();
        let folder = root.path().join("kernels");
        crate::toolchain::prebuilt::write(&folder, &[], &[]).unwrap();
        let compiler = Compiler::new(options(Some(folder))).unwrap();
        let error = compiler.compile(&SOURCE, &Defines::new(), Arch::SM_90).unwrap_err();
        let error = error.to_string();
        for part in
            ["does not have k with no macros for sm_90a", "kernels build --arch sm_90a"]
        {
            assert!(error.contains(part), "{error}");
        }
        let ptx = CompilerOptions { image: ImageKind::Ptx, ..options(Some("x".into())) };
        let error = Compiler::new(ptx).unwrap_err().to_string();
        assert!(error.contains("leave --kernels out"), "{error}");
    }
}

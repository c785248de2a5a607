//! A folder of compiled kernels for machines that have a driver and nothing
//! else: one file for each source, configuration and architecture, and a
//! manifest that says what they are.

use std::collections::BTreeMap;
use std::fmt;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::Context;
use serde::{Deserialize, Serialize};
use thiserror::Error;

use super::arch::Arch;
use super::binary::{Binary, key, short_hash};
use super::defines::Defines;
use super::nvrtc::{Resources, Source};
use crate::files::{self, TemporaryFolder};

/// Name of the manifest.
const MANIFEST: &str = "manifest.json";

/// Why a folder of prebuilt kernels cannot be used.
#[derive(Debug, Error)]
pub enum FolderError {
    /// A file cannot be read or written.
    #[error("cannot use {}: {why}", .path.display())]
    File {
        /// Which.
        path: PathBuf,
        /// Why.
        why: String,
    },
    /// A file is not what the manifest says.
    #[error("{} is damaged; build the folder again with `ridgepoint kernels build`", .path.display())]
    Damaged {
        /// Which.
        path: PathBuf,
    },
    /// The driver is too old.
    #[error(
        "the kernels in {} were built by {compiler}, and the driver loads code of CUDA \
         {max_major} and older; build them with NVRTC {max_major}",
        .path.display()
    )]
    TooNew {
        /// The folder.
        path: PathBuf,
        /// What built it.
        compiler: String,
        /// Newest release that the driver loads.
        max_major: u32,
    },
}

/// The manifest of a folder.
#[derive(Clone, Debug, Serialize, Deserialize)]
struct Manifest {
    /// What compiled all of it, `NVRTC 13.0.88`.
    compiler: String,
    /// What there is.
    files: Vec<Entry>,
}

/// One compiled source.
#[derive(Clone, Debug, Serialize, Deserialize)]
struct Entry {
    file: String,
    kernel: String,
    arch: String,
    defines: String,
    key: String,
    hash: String,
    resources: BTreeMap<String, Resources>,
    warnings: Vec<String>,
}

/// A folder of compiled kernels.
#[derive(Clone, Debug)]
pub struct Folder {
    path: PathBuf,
    manifest: Manifest,
}

impl Folder {
    /// Opens a folder for a driver that loads code of CUDA `max_major` and
    /// older.
    ///
    /// # Errors
    /// A manifest that cannot be read; kernels that are too new.
    pub fn open(path: &Path, max_major: Option<u32>) -> Result<Self, FolderError> {
        let file = path.join(MANIFEST);
        let error = |why: String| FolderError::File { path: file.clone(), why };
        let text = fs::read_to_string(&file).map_err(|e| error(e.to_string()))?;
        let manifest: Manifest =
            serde_json::from_str(&text).map_err(|e| error(e.to_string()))?;
        let major = manifest.compiler.split([' ', '.']).nth(1).and_then(|n| n.parse().ok());
        match (major, max_major) {
            (Some::<u32>(major), Some(max_major)) if major > max_major => {
                Err(FolderError::TooNew {
                    path: path.to_owned(),
                    compiler: manifest.compiler,
                    max_major,
                })
            }
            _ => Ok(Folder { path: path.to_owned(), manifest }),
        }
    }

    /// A compiled source; or, as the inner error, what the folder does not have and how
    /// to add it.
    ///
    /// # Errors
    /// A file that cannot be read or is not what the manifest says.
    pub fn binary(
        &self,
        source: &Source,
        defines: &Defines,
        arch: Arch,
        key: &str,
    ) -> Result<Result<Binary, String>, FolderError> {
        let Some(entry) = self.manifest.files.iter().find(|entry| entry.key == key) else {
            return Ok(Err(self.missing(source, defines, arch)));
        };
        let path = self.path.join(&entry.file);
        let image = fs::read(&path)
            .map_err(|e| FolderError::File { path: path.clone(), why: e.to_string() })?;
        if short_hash(&image) != entry.hash {
            return Err(FolderError::Damaged { path });
        }
        Ok(Ok(Binary {
            image,
            hash: entry.hash.clone(),
            resources: entry.resources.clone(),
            warnings: entry.warnings.clone(),
            compiler: self.manifest.compiler.clone(),
        }))
    }

    fn missing(&self, source: &Source, defines: &Defines, arch: Arch) -> String {
        let same = |entry: &&Entry| {
            entry.kernel == source.name
                && entry.arch == arch.compiler_name()
                && entry.defines == defines.to_string()
        };
        let folder = self.path.display();
        let what = format!("{} with {defines} for {arch}", source.name);
        let why = match self.manifest.files.iter().find(same) {
            Some(_) => format!("{folder} has {what} from another version of its source"),
            None => format!("{folder} does not have {what}"),
        };
        format!(
            "{why}; where there is NVRTC, run `ridgepoint kernels build --arch {arch} --out DIR \
             SUITE` with the suite that needs it"
        )
    }
}

impl fmt::Display for Folder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Manifest { compiler, files } = &self.manifest;
        write!(f, "{} kernels by {compiler} in {}", files.len(), self.path.display())
    }
}

/// Writes a folder. Its name is taken only when all of it is there. `listings`
/// are further files, names and texts.
///
/// # Errors
/// A folder that exists, a file that cannot be written.
pub fn write(
    path: &Path,
    built: &[Built],
    listings: &[(String, String)],
) -> Result<(), FolderError> {
    let error = |path: &Path, why: String| FolderError::File { path: path.to_owned(), why };
    if path.exists() {
        let why = "it exists; choose another name or remove it".to_owned();
        return Err(error(path, why));
    }
    let staging = path.with_added_extension(format!("{}.new", std::process::id()));
    let manifest = Manifest {
        compiler: built.first().map(|b| b.binary.compiler.clone()).unwrap_or_default(),
        files: built.iter().map(Built::entry).collect(),
    };
    let images = built.iter().map(|b| (b.entry().file, b.binary.image.as_slice()));
    let texts = listings.iter().map(|(name, text)| (name.clone(), text.as_bytes()));
    let written = (|| -> anyhow::Result<()> {
        let staging = TemporaryFolder::make(&staging)?;
        for (name, bytes) in images.chain(texts) {
            files::write(&staging.path().join(name), bytes)?;
        }
        let manifest = serde_json::to_vec_pretty(&manifest)?;
        files::write(&staging.path().join(MANIFEST), &manifest)?;
        fs::rename(staging.path(), path).with_context(|| files::cannot_write(path))?;
        staging.keep();
        Ok(())
    })();
    written.map_err(|why| error(path, format!("{why:#}")))
}

/// What to write into a folder: a compiled source.
#[derive(Clone, Debug)]
pub struct Built<'a> {
    /// The source.
    pub source: Source<'a>,
    /// Its configuration.
    pub defines: Defines,
    /// Its architecture.
    pub arch: Arch,
    /// What came out.
    pub binary: Binary,
}

impl Built<'_> {
    /// Base name of its files: `stream-sm_90a-0123456789abcdef`.
    pub fn base_name(&self) -> String {
        let key = key(&self.source, &self.defines, self.arch);
        format!("{}-{}-{key}", self.source.name, self.arch)
    }

    fn entry(&self) -> Entry {
        Entry {
            file: format!("{}.cubin", self.base_name()),
            kernel: self.source.name.to_owned(),
            arch: self.arch.compiler_name(),
            defines: self.defines.to_string(),
            key: key(&self.source, &self.defines, self.arch),
            hash: self.binary.hash.clone(),
            resources: self.binary.resources.clone(),
            warnings: self.binary.warnings.clone(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SOURCE: Source =
        Source { name: "stream", text: "// text", headers: &[("h.cuh", "// header")] };

    fn built(unroll: u32) -> Built<'static> {
        let image = vec![7; 9 + unroll as usize];
        Built {
            source: SOURCE,
            defines: Defines::new().with("UNROLL", unroll),
            arch: Arch::SM_90,
            binary: Binary {
                hash: short_hash(&image),
                image,
                resources: [("k".to_owned(), Resources::default())].into(),
                warnings: Vec::new(),
                compiler: "NVRTC 13.0.88".to_owned(),
            },
        }
    }

    fn find(folder: &Folder, source: &Source, unroll: u32) -> Result<Binary, String> {
        let defines = Defines::new().with("UNROLL", unroll);
        let key = key(source, &defines, Arch::SM_90);
        folder.binary(source, &defines, Arch::SM_90, &key).unwrap()
    }

    #[test]
    fn what_is_written_is_found_and_what_is_missing_is_named() {
        let root = tempfile::tempdir().unwrap();
        let path = root.path().join("kernels");
        let listing = ("stream.sass".to_owned(), "text".to_owned());
        write(&path, &[built(4), built(8)], &[listing]).unwrap();
        let folder = Folder::open(&path, Some(13)).unwrap();
        assert_eq!(find(&folder, &SOURCE, 8).unwrap(), built(8).binary);
        assert!(folder.to_string().starts_with("2 kernels by NVRTC 13.0.88 in "));

        let missing = find(&folder, &SOURCE, 2).unwrap_err();
        for part in [
            "stream with UNROLL=2 for sm_90a",
            "does not have",
            "kernels build --arch sm_90a",
        ] {
            assert!(missing.contains(part), "{missing}");
        }
        let edited = Source { text: "// other", ..SOURCE };
        let missing = find(&folder, &edited, 8).unwrap_err();
        assert!(missing.contains("another version of its source"), "{missing}");

        let again = write(&path, &[built(4)], &[]).unwrap_err();
        assert!(again.to_string().contains("exists"), "{again}");
        let names = fs::read_dir(root.path()).unwrap().count();
        assert_eq!(names, 1, "a staging folder is left");
    }

    #[test]
    fn what_cannot_be_used_says_why() {
        let root = tempfile::tempdir().unwrap();
        let path = root.path().join("kernels");
        let absent = Folder::open(&path, None).unwrap_err().to_string();
        assert!(absent.contains("manifest.json"), "{absent}");
        write(&path, &[built(4)], &[]).unwrap();
        let old = Folder::open(&path, Some(12)).unwrap_err().to_string();
        assert!(old.contains("build them with NVRTC 12"), "{old}");

        let file = path.join(built(4).entry().file);
        fs::write(&file, "cut").unwrap();
        let folder = Folder::open(&path, None).unwrap();
        let defines = built(4).defines;
        let key = key(&SOURCE, &defines, Arch::SM_90);
        let damaged = folder.binary(&SOURCE, &defines, Arch::SM_90, &key).unwrap_err();
        assert!(damaged.to_string().contains("is damaged"), "{damaged}");
        fs::write(path.join(MANIFEST), "{").unwrap();
        assert!(Folder::open(&path, None).is_err());
    }
}

//! Libraries with a C interface that are opened at run time.

use std::error::Error;
use std::ffi::OsStr;
use std::fs::{self, File};
use std::io::{Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};

/// Declares `Library`, with a field for each function by its name in the library's header
/// and its type. What calls them is `unsafe`, in the one file that declares them.
macro_rules! c_library {
    ($($field:ident: $name:literal, $type:ty;)*) => {
        /// An open library. It is never unloaded: it may have threads and
        /// thread-local state that outlive a program.
        #[derive(Clone, Copy, Debug)]
        pub struct Library {
            $($field: $type,)*
        }

        impl Library {
            /// Opens the library at a path, or the one that the loader finds by
            /// a bare name.
            pub fn open(path: &::std::path::Path) -> Result<Self, String> {
                $crate::toolchain::library::refuse_cut(path)?;
                // SAFETY: the file is named like the library and comes from a place
                // for libraries; its initialisers run as in any program that
                // links it.
                let library = unsafe { ::libloading::Library::new(path) };
                let library =
                    library.map_err($crate::toolchain::library::loader_message)?;
                // SAFETY: names and types are those of its header.
                let functions = unsafe {
                    Library {
                        $($field: *library
                            .get::<$type>($name)
                            .map_err(|_| format!("it has no {}", $name))?,)*
                    }
                };
                std::mem::forget(library);
                Ok(functions)
            }
        }
    };
}

pub(crate) use c_library;

/// The loader's message about a library that does not open.
pub fn loader_message(error: impl Error) -> String {
    error.source().map_or_else(|| error.to_string(), ToString::to_string)
}

/// The file that the loader opens for a bare name: in LD_LIBRARY_PATH, by its cache, or in
/// the usual folders. `None` where there is none.
pub fn on_loader_path(name: &OsStr) -> Option<PathBuf> {
    let chosen = std::env::var_os("LD_LIBRARY_PATH").unwrap_or_default();
    let chosen =
        std::env::split_paths(&chosen).filter(|folder| !folder.as_os_str().is_empty());
    let chosen: Vec<PathBuf> = chosen.map(|folder| folder.join(name)).collect();
    let usual = ["/lib64", "/usr/lib64", "/lib", "/usr/lib"];
    let usual = usual.map(|folder| Path::new(folder).join(name));
    chosen.into_iter().chain(cached_paths(name)).chain(usual).find(|path| path.is_file())
}

/// What the loader's cache has of a name. Of that file only its texts matter here, each of
/// which ends in a NUL.
fn cached_paths(name: &OsStr) -> Vec<PathBuf> {
    let cache = fs::read("/etc/ld.so.cache").unwrap_or_default();
    let texts =
        cache.split(|byte| *byte == 0).filter_map(|text| std::str::from_utf8(text).ok());
    let paths = texts.filter(|text| text.starts_with('/')).map(Path::new);
    paths.filter(|path| path.file_name() == Some(name)).map(Path::to_owned).collect()
}

/// Refuses a library whose file is shorter than its ELF header says, as of a download that
/// broke off: the loader would end the process with a signal. What else may be wrong with a
/// file, the loader says itself.
///
/// # Errors
/// How long the file is and should be, and what to do.
pub fn refuse_cut(path: &Path) -> Result<(), String> {
    let is_bare = path.parent() == Some(Path::new(""));
    let found =
        if is_bare { on_loader_path(path.as_os_str()) } else { Some(path.to_owned()) };
    let Some(path) = found else { return Ok(()) };
    let Ok(mut file) = File::open(&path) else { return Ok(()) };
    let Ok(bytes) = file.metadata().map(|file| file.len()) else { return Ok(()) };
    match elf_end(&mut file) {
        Some(end) if end > bytes => Err(format!(
            "{} is cut: it has {bytes} bytes, and its ELF header says {end} or more; download \
             or install it again",
            path.display()
        )),
        _ => Ok(()),
    }
}

/// Where the last segment or header of a 64-bit little-endian ELF file ends; `None` for
/// another file, and for one that ends in its header. See the ELF-64 object file format,
/// version 1.5, tables 1 and 8.
fn elf_end(file: &mut (impl Read + Seek)) -> Option<u64> {
    const HEADER_BYTES: usize = 64;
    const PROGRAM_HEADER_BYTES: usize = 56;
    let mut header = [0; HEADER_BYTES];
    file.read_exact(&mut header).ok()?;
    if !header.starts_with(b"\x7fELF\x02\x01") {
        return None;
    }
    let (programs, sections) = (u64_at(&header, 32)?, u64_at(&header, 40)?);
    let [program_bytes, program_count, section_bytes, section_count] =
        [54, 56, 58, 60].map(|at| u16_at(&header, at).map(u64::from));
    let table = |start: u64, entry: Option<u64>, count: Option<u64>| -> Option<u64> {
        Some(start.saturating_add(entry?.saturating_mul(count?)))
    };
    let mut end = table(programs, program_bytes, program_count)?.max(table(
        sections,
        section_bytes,
        section_count,
    )?);
    for index in 0..program_count? {
        let at = programs.saturating_add(index * program_bytes?);
        let mut entry = [0; PROGRAM_HEADER_BYTES];
        let read = file.seek(SeekFrom::Start(at)).and_then(|_| file.read_exact(&mut entry));
        // The table itself is cut, which its end says.
        if read.is_err() {
            break;
        }
        let (offset, bytes) = (u64_at(&entry, 8)?, u64_at(&entry, 32)?);
        end = end.max(offset.saturating_add(bytes));
    }
    Some(end)
}

fn u64_at(bytes: &[u8], at: usize) -> Option<u64> {
    Some(u64::from_le_bytes(bytes.get(at..at + 8)?.try_into().ok()?))
}

fn u16_at(bytes: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_le_bytes(bytes.get(at..at + 2)?.try_into().ok()?))
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use super::*;

    /// A real library, cut anywhere, is told; whole, or no library at all, it is not.
    #[test]
    fn a_library_that_is_cut_is_told_before_it_is_loaded() {
        let libc = on_loader_path(OsStr::new("libc.so.6")).expect("this system has a libc");
        assert_eq!(refuse_cut(&libc), Ok(()));
        assert_eq!(refuse_cut(Path::new("libc.so.6")), Ok(()));
        let whole = fs::read(&libc).unwrap();
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("libnvrtc.so.13");
        for bytes in [100, 4096, whole.len() / 2, whole.len() - 1] {
            fs::write(&path, &whole[..bytes]).unwrap();
            let why = refuse_cut(&path).unwrap_err();
            let told = format!("libnvrtc.so.13 is cut: it has {bytes} bytes");
            assert!(why.contains(&told) && why.contains("again"), "{why}");
        }
        for other in [&whole[..], &[], b"\x7fELF", b"no library"] {
            fs::write(&path, other).unwrap();
            assert_eq!(refuse_cut(&path), Ok(()), "{} bytes", other.len());
        }
        assert_eq!(refuse_cut(Path::new("libno-such-library.so.1")), Ok(()));
        assert_eq!(on_loader_path(OsStr::new("libno-such-library.so.1")), None);
    }

    /// Headers full of nonsense are answered, whatever they say.
    #[test]
    fn no_header_panics() {
        let libc = on_loader_path(OsStr::new("libc.so.6")).expect("this system has a libc");
        let start = fs::read(&libc).unwrap()[..256].to_vec();
        for at in 0..start.len() {
            for byte in [0, 1, 0x7f, 0xff] {
                let mut bytes = start.clone();
                bytes[at] = byte;
                bytes[(at + 1) % 256] = byte;
                elf_end(&mut std::io::Cursor::new(bytes));
            }
        }
    }
}

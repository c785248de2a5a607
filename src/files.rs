//! Files that are written. Errors name the path, and what is half written is taken away.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

/// What a failed write says; the system's reason follows.
pub fn cannot_write(path: &Path) -> String {
    format!("cannot write {}", path.display())
}

/// Writes a file.
///
/// # Errors
/// A file that cannot be written, with its path.
pub fn write(path: &Path, bytes: &[u8]) -> Result<()> {
    fs::write(path, bytes).with_context(|| cannot_write(path))
}

/// Replaces a file so that a reader sees the old text or the new, never a mix.
///
/// # Errors
/// A file that cannot be written or renamed; nothing is left of it then.
pub fn write_atomically(path: &Path, text: &[u8]) -> Result<()> {
    let mut staging = path.as_os_str().to_owned();
    staging.push(".new");
    let written = fs::write(&staging, text).and_then(|()| fs::rename(&staging, path));
    if written.is_err() {
        // Where it was never made there is nothing to take away.
        let _ = fs::remove_file(&staging);
    }
    written.with_context(|| cannot_write(path))
}

/// A folder that is taken away with all that is in it, unless it is [kept](Self::keep) or
/// has got another name: a staging area, or scratch space.
#[derive(Debug)]
pub struct TemporaryFolder {
    path: PathBuf,
    /// Folders above it that had to be made, the outermost first.
    made: Vec<PathBuf>,
    is_kept: bool,
}

impl TemporaryFolder {
    /// Makes a folder that does not exist, and the folders above it that do not.
    ///
    /// # Errors
    /// A folder that cannot be made, with its path.
    pub fn make(path: &Path) -> Result<Self> {
        let mut folder =
            TemporaryFolder { path: path.to_owned(), made: Vec::new(), is_kept: false };
        let above = path.ancestors().skip(1).filter(|above| !above.as_os_str().is_empty());
        let missing: Vec<&Path> = above.take_while(|above| !above.exists()).collect();
        let cannot_make =
            |path: &Path| format!("cannot make the folder {}", path.display());
        for above in missing.into_iter().rev() {
            match fs::create_dir(above) {
                Ok(()) => folder.made.push(above.to_owned()),
                // Another process was faster.
                Err(_) if above.is_dir() => {}
                Err(error) => return Err(error).with_context(|| cannot_make(above)),
            }
        }
        fs::create_dir(path).with_context(|| cannot_make(path))?;
        Ok(folder)
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Leaves it, or what it was renamed to, where it is.
    pub fn keep(mut self) {
        self.is_kept = true;
    }
}

impl Drop for TemporaryFolder {
    fn drop(&mut self) {
        if self.is_kept {
            return;
        }
        // What is not there need not be taken away, and what others have put into the folders
        // above keeps those.
        let _ = fs::remove_dir_all(&self.path);
        for above in self.made.iter().rev() {
            let _ = fs::remove_dir(above);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(folder: &Path) -> Vec<String> {
        let entries = fs::read_dir(folder).unwrap().map(Result::unwrap);
        entries.map(|entry| entry.file_name().into_string().unwrap()).collect()
    }

    #[test]
    fn a_file_that_cannot_be_replaced_is_named_and_leaves_nothing() {
        let root = tempfile::tempdir().unwrap();
        // A folder stands in its place.
        let taken = root.path().join("taken");
        fs::create_dir_all(taken.join("inside")).unwrap();
        let below = root.path().join("file").join("below");
        fs::write(root.path().join("file"), "").unwrap();
        for path in [&taken, &below] {
            for written in [write(path, b"x"), write_atomically(path, b"x")] {
                let error = format!("{:#}", written.unwrap_err());
                let start = format!("cannot write {}: ", path.display());
                assert!(error.starts_with(&start), "{error}");
            }
        }
        let mut left = names(root.path());
        left.sort();
        assert_eq!(left, ["file", "taken"]);
    }

    #[test]
    fn a_temporary_folder_goes_with_the_folders_that_it_needed() {
        let root = tempfile::tempdir().unwrap();
        let deep = root.path().join("a/b/c");
        let folder = TemporaryFolder::make(&deep).unwrap();
        fs::write(folder.path().join("file"), "").unwrap();
        drop(folder);
        assert_eq!(names(root.path()), [""; 0]);
        let folder = TemporaryFolder::make(&deep).unwrap();
        fs::write(root.path().join("a/other"), "").unwrap();
        drop(folder);
        assert_eq!(names(root.path()), ["a"], "others use it");
        assert_eq!(names(&root.path().join("a")), ["other"]);
        TemporaryFolder::make(&deep).unwrap().keep();
        assert!(deep.is_dir());
        let error = format!("{:#}", TemporaryFolder::make(&deep).unwrap_err());
        assert!(error.starts_with("cannot make the folder ") && error.contains("a/b/c"));
        let below_a_file = root.path().join("a/other/x/y");
        let error = format!("{:#}", TemporaryFolder::make(&below_a_file).unwrap_err());
        assert!(error.contains("a/other/x: "), "{error}");
    }
}

//! Lists and cleans up folders.

use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use crate::Error;

/// Non-hidden files directly in a folder; none if the folder does not exist.
pub(crate) fn files_in(folder: &Path) -> Result<Vec<PathBuf>, Error> {
    let hidden = |p: &Path| p.file_name().is_some_and(|n| n.to_string_lossy().starts_with('.'));
    Ok(entries_in(folder)?.into_iter().filter(|p| !hidden(p) && p.is_file()).collect())
}

/// Folders directly in a folder; none if that folder does not exist.
pub(crate) fn folders_in(folder: &Path) -> Result<Vec<PathBuf>, Error> {
    Ok(entries_in(folder)?.into_iter().filter(|p| p.is_dir()).collect())
}

/// Removes what killed processes left behind: entries whose names start with `prefix`. The caller
/// holds the lock under which they are created; a failed removal is harmless.
pub(crate) fn sweep(folder: &Path, prefix: &str) {
    for path in entries_in(folder).unwrap_or_default() {
        if path.file_name().is_some_and(|n| n.to_string_lossy().starts_with(prefix)) {
            let _ = if path.is_dir() { fs::remove_dir_all(&path) } else { fs::remove_file(&path) };
        }
    }
}

fn entries_in(folder: &Path) -> Result<Vec<PathBuf>, Error> {
    match fs::read_dir(folder) {
        Ok(entries) => Ok(entries.filter_map(|e| Some(e.ok()?.path())).collect()),
        Err(e) if e.kind() == ErrorKind::NotFound => Ok(Vec::new()),
        Err(e) => Err(Error::io(folder, "cannot list")(e)),
    }
}

/// A temporary file in the target's folder, to be renamed to the target; the user's umask decides
/// who may read it.
#[cfg(any(feature = "http", feature = "pip"))]
pub(crate) fn temp_in(folder: &Path) -> std::io::Result<tempfile::NamedTempFile> {
    use nanoinfer_platform::file::{self, Readers};
    file::temp_in(folder, ".fetch-", Readers::Umask)
}

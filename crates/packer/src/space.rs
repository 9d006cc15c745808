//! Checks free disk space before hours of work.

use std::path::Path;

use nanoinfer_platform::file::free_space;

use crate::Error;

/// Fails if the file system of `folder`, which need not exist yet, has fewer than `needed` bytes
/// free. Passes if the file system does not report its free space.
///
/// # Errors
/// [`Error::Space`] if there is too little free space.
pub fn check(folder: &Path, needed: u64) -> Result<(), Error> {
    let folder = std::path::absolute(folder).unwrap_or_else(|_| folder.into());
    let Some(existing) = folder.ancestors().find(|p| p.is_dir()) else { return Ok(()) };
    let Some(available) = free_space(existing) else { return Ok(()) };
    if needed <= available {
        return Ok(());
    }
    Err(Error::Space { path: folder, needed, available })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn insufficient_space_is_an_error() {
        let folder = tempfile::tempdir().unwrap();
        let inner = folder.path().join("not/yet/there");
        check(&inner, 1).unwrap();
        let error = check(&inner, u64::MAX).unwrap_err().to_string();
        assert!(error.contains("18446744073709551615 bytes are needed"), "{error}");
        assert!(error.contains("not/yet/there") && error.contains("available"), "{error}");
    }
}

//! Files: permissions, free space and durability.
//!
//! | | Unix | elsewhere |
//! |---|---|---|
//! | read access to a new file | mode bits | inherited from the folder |
//! | reads at an offset | `pread` | Windows: `seek_read` |
//! | durable renames | folder sync | left to the file system |
//! | links to a file | symbolic | hard |
//! | tmpfs | Linux: `/dev/shm` | none |
//! | locks | advisory | mandatory on Windows: other handles cannot read a locked file |

use std::fs::{self, File, OpenOptions};
use std::io;
use std::path::{Path, PathBuf};

pub use tempfile::NamedTempFile;

/// Who may read a new file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Readers {
    /// Only its owner, from creation on.
    Owner,
    /// Everyone the user's umask allows.
    Umask,
}

/// Creates a temporary file that can be renamed to a target in the same folder.
///
/// # Errors
/// The folder does not exist, or no file can be created in it.
pub fn temp_in(folder: &Path, prefix: &str, readers: Readers) -> io::Result<NamedTempFile> {
    let mut builder = tempfile::Builder::new();
    builder.prefix(prefix);
    #[cfg(unix)]
    if readers == Readers::Umask {
        builder.permissions(std::os::unix::fs::PermissionsExt::from_mode(0o666));
    }
    #[cfg(not(unix))]
    let _ = readers;
    builder.tempfile_in(folder) // on Unix, only readable by its owner by default
}

/// Like [`temp_in`] with [`Readers::Umask`], but the file is locked while open, which distinguishes it
/// from the files of dead processes (see [`reclaim`]).
///
/// # Errors
/// Those of [`temp_in`].
pub fn held_temp(folder: &Path, prefix: &str) -> io::Result<NamedTempFile> {
    loop {
        let temp = temp_in(folder, prefix, Readers::Umask)?;
        // Fails on file systems without locks; nothing is reclaimed there.
        let _ = temp.as_file().lock();
        // Another process may have reclaimed the file before it was locked.
        if temp.path().exists() {
            return Ok(temp);
        }
    }
}

/// Removes files created by [`held_temp`] with this prefix that killed processes left behind: a lock is
/// released when its process dies. Failure to remove a file is harmless.
pub fn reclaim(folder: &Path, prefix: &str) {
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        if !entry.file_name().to_string_lossy().starts_with(prefix) {
            continue;
        }
        let path = entry.path();
        let dead = File::options().write(true).open(&path).is_ok_and(|f| f.try_lock().is_ok());
        if dead {
            let _ = fs::remove_file(&path);
        }
    }
}

/// Makes files created with `options` readable only by their owner.
pub fn for_owner(options: &mut OpenOptions) -> &mut OpenOptions {
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(options, 0o600);
    options
}

/// Reads exactly `out.len()` bytes at `offset`; several threads may do so concurrently.
///
/// # Errors
/// The file is too short or cannot be read.
#[cfg(unix)]
pub fn read_exact_at(file: &File, out: &mut [u8], offset: u64) -> io::Result<()> {
    std::os::unix::fs::FileExt::read_exact_at(file, out, offset)
}

/// Reads exactly `out.len()` bytes at `offset`; several threads may do so concurrently. Changes the
/// handle's file position.
///
/// # Errors
/// The file is too short or cannot be read.
#[cfg(windows)]
pub fn read_exact_at(file: &File, mut out: &mut [u8], mut offset: u64) -> io::Result<()> {
    while !out.is_empty() {
        match std::os::windows::fs::FileExt::seek_read(file, out, offset) {
            Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
            Ok(n) => (out, offset) = (&mut out[n..], offset + n as u64),
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(e) => return Err(e),
        }
    }
    Ok(())
}

/// Another handle to an open file, for a library that reads sequentially while [`read_exact_at`] uses
/// the first handle.
///
/// # Errors
/// Too many files are open, or (except on Unix) `path` no longer refers to the file.
pub fn another_handle(file: &File, path: &Path) -> io::Result<File> {
    // Elsewhere, positioned reads change the file position, which clones would share.
    if cfg!(unix) { file.try_clone() } else { File::open(path) }
}

/// Makes the entries of a folder durable, for example after a rename.
///
/// # Errors
/// The folder cannot be opened or synced.
pub fn sync_folder(folder: &Path) -> io::Result<()> {
    // Other systems cannot open a folder as a file.
    if cfg!(unix) { File::open(folder)?.sync_all() } else { Ok(()) }
}

/// Bytes available to this user in a folder; `None` if the file system does not report them.
pub fn free_space(folder: &Path) -> Option<u64> {
    fs4::available_space(folder).ok()
}

/// A folder on a tmpfs with room for `bytes`, if any.
pub fn in_memory(bytes: u64) -> Option<PathBuf> {
    let folder = cfg!(target_os = "linux").then_some(Path::new("/dev/shm"))?;
    let spare = 1 << 20; // for the file system's own overhead
    (free_space(folder)? > bytes.saturating_add(spare)).then(|| folder.into())
}

/// Creates `link` as a link to the file `original`: a symbolic link to `relative`, the path of the
/// original relative to the link's folder, or a hard link on systems where symbolic links require
/// privileges.
///
/// # Errors
/// `link` exists or cannot be created.
pub fn link(original: &Path, relative: &Path, link: &Path) -> io::Result<()> {
    #[cfg(unix)]
    {
        let _ = original;
        std::os::unix::fs::symlink(relative, link)
    }
    #[cfg(not(unix))]
    {
        let _ = relative;
        fs::hard_link(original, link)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[cfg(unix)]
    #[test]
    fn modes_follow_the_umask_or_are_owner_only() {
        use std::os::unix::fs::PermissionsExt;
        let mode = |f: &File| f.metadata().unwrap().permissions().mode() & 0o777;
        let folder = tempfile::tempdir().unwrap();
        let plain = File::create(folder.path().join("plain")).unwrap();
        let temp = |readers| mode(temp_in(folder.path(), "t-", readers).unwrap().as_file());
        assert_eq!(temp(Readers::Umask), mode(&plain));
        assert_eq!(temp(Readers::Owner), 0o600);
        let mut options = File::options();
        let file = for_owner(options.create(true).append(true)).open(folder.path().join("own"));
        assert_eq!(mode(&file.unwrap()), 0o600);
    }

    #[test]
    fn only_unlocked_files_are_reclaimed() {
        let folder = tempfile::tempdir().unwrap();
        let held = held_temp(folder.path(), ".part-").unwrap();
        let (abandoned, other) = (folder.path().join(".part-left"), folder.path().join("other"));
        fs::write(&abandoned, "x").unwrap();
        fs::write(&other, "x").unwrap();
        reclaim(folder.path(), ".part-");
        assert!(held.path().exists() && other.exists());
        assert!(!abandoned.exists());
        reclaim(&folder.path().join("missing"), ".part-");
    }

    #[test]
    fn positioned_reads_are_complete_or_fail() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("file");
        fs::write(&path, "0123456789").unwrap();
        let file = File::open(&path).unwrap();
        let mut out = [0; 4];
        read_exact_at(&file, &mut out, 3).unwrap();
        assert_eq!(&out, b"3456");
        let error = read_exact_at(&file, &mut out, 7).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::UnexpectedEof);
        let text = io::read_to_string(another_handle(&file, &path).unwrap()).unwrap();
        assert_eq!(text, "0123456789");
    }

    #[test]
    fn a_link_resolves_to_its_original_and_never_replaces_a_file() {
        let folder = tempfile::tempdir().unwrap();
        let (original, name) = (folder.path().join("blobs/b"), folder.path().join("names/n"));
        for path in [&original, &name] {
            fs::create_dir_all(path.parent().unwrap()).unwrap();
        }
        fs::write(&original, "content").unwrap();
        link(&original, Path::new("../blobs/b"), &name).unwrap();
        assert_eq!(fs::read_to_string(&name).unwrap(), "content");
        let again = link(&original, Path::new("../blobs/b"), &name).unwrap_err();
        assert_eq!(again.kind(), io::ErrorKind::AlreadyExists);
    }

    #[test]
    fn folders_report_free_space_and_can_be_synced() {
        let folder = tempfile::tempdir().unwrap();
        assert!(free_space(folder.path()).is_some());
        assert_eq!(free_space(&folder.path().join("missing")), None);
        assert_eq!(in_memory(u64::MAX), None);
        sync_folder(folder.path()).unwrap();
        #[cfg(unix)]
        assert!(sync_folder(&folder.path().join("missing")).is_err());
    }
}

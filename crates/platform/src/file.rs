//! Files: who may read them, where there is room, and what keeps them safe.
//!
//! | | Unix | elsewhere |
//! |---|---|---|
//! | who may read a new file | mode bits | inherited from the folder |
//! | reading at an offset | `pread` | Windows: `seek_read` |
//! | making a rename durable | syncing the folder | left to the file system |
//! | a second name | symbolic link | hard link |
//! | a memory file system | Linux: `/dev/shm` | none |
//! | locks | advisory | Windows: other handles cannot read a locked file |

use std::fs::{self, File, OpenOptions};
use std::io;
use std::path::{Path, PathBuf};

use tempfile::NamedTempFile;

/// Who may read a new file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Readers {
    /// Its owner alone, from the moment it exists.
    Owner,
    /// Whoever the user's umask lets.
    Umask,
}

/// A temporary file that can be renamed to its target, which is in the same folder.
///
/// # Errors
/// The folder does not exist, or no file can be made in it.
pub fn temp_in(folder: &Path, prefix: &str, readers: Readers) -> io::Result<NamedTempFile> {
    let mut builder = tempfile::Builder::new();
    builder.prefix(prefix);
    #[cfg(unix)]
    if readers == Readers::Umask {
        builder.permissions(std::os::unix::fs::PermissionsExt::from_mode(0o666));
    }
    #[cfg(not(unix))]
    let _ = readers;
    builder.tempfile_in(folder) // on Unix for its owner, unless something else is said
}

/// The same with [`Readers::Umask`], and a lock on it for as long as it is open: so others can tell
/// it from one whose process has died (see [`reclaim`]).
///
/// # Errors
/// Those of [`temp_in`].
pub fn held_temp(folder: &Path, prefix: &str) -> io::Result<NamedTempFile> {
    loop {
        let temp = temp_in(folder, prefix, Readers::Umask)?;
        // A file system without locks has no other way to say so; then nothing is reclaimed.
        let _ = temp.as_file().lock();
        // Another process may have reclaimed it before it was locked.
        if temp.path().exists() {
            return Ok(temp);
        }
    }
}

/// Removes what killed processes left of [`held_temp`] with this prefix: a lock dies with its
/// process. What cannot be removed does no harm.
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

/// Adds to `options` that a file they create can be read by its owner alone.
pub fn for_owner(options: &mut OpenOptions) -> &mut OpenOptions {
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(options, 0o600);
    options
}

/// Reads exactly `out.len()` bytes at `offset`. Any number of threads may do so at once.
///
/// # Errors
/// The file ends before, or cannot be read.
#[cfg(unix)]
pub fn read_exact_at(file: &File, out: &mut [u8], offset: u64) -> io::Result<()> {
    std::os::unix::fs::FileExt::read_exact_at(file, out, offset)
}

/// Reads exactly `out.len()` bytes at `offset`. Any number of threads may do so at once; the
/// handle's own position is moved.
///
/// # Errors
/// The file ends before, or cannot be read.
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

/// Another handle of an open file, for a library that reads by itself while [`read_exact_at`] goes
/// on with the first.
///
/// # Errors
/// There are too many open files, or `path` does not lead to the file any more where it is needed.
pub fn another_handle(file: &File, path: &Path) -> io::Result<File> {
    // Elsewhere positioned reads move the position, which clones share.
    if cfg!(unix) { file.try_clone() } else { File::open(path) }
}

/// Makes the names in a folder durable, after a rename.
///
/// # Errors
/// The folder cannot be opened or synced.
pub fn sync_folder(folder: &Path) -> io::Result<()> {
    // Elsewhere a folder cannot be opened as a file.
    if cfg!(unix) { File::open(folder)?.sync_all() } else { Ok(()) }
}

/// Bytes that this user can still write into a folder; `None` if its file system does not say.
pub fn free_space(folder: &Path) -> Option<u64> {
    fs4::available_space(folder).ok()
}

/// The folder of a memory file system with room for so many bytes.
pub fn in_memory(bytes: u64) -> Option<PathBuf> {
    let folder = cfg!(target_os = "linux").then_some(Path::new("/dev/shm"))?;
    let spare = 1 << 20; // for the file system's own needs
    (free_space(folder)? > bytes.saturating_add(spare)).then(|| folder.into())
}

/// Gives the file `original` a second name `link`: a symbolic link to `relative`, which is the
/// original as seen from the link's folder, or a hard link on systems where making symbolic ones
/// takes privileges.
///
/// # Errors
/// `link` exists, or cannot be made.
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
    fn modes_are_the_umasks_or_the_owners() {
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
    fn only_what_nobody_holds_is_reclaimed() {
        let folder = tempfile::tempdir().unwrap();
        let held = held_temp(folder.path(), ".part-").unwrap();
        let (left, other) = (folder.path().join(".part-left"), folder.path().join("other"));
        fs::write(&left, "x").unwrap();
        fs::write(&other, "x").unwrap();
        reclaim(folder.path(), ".part-");
        assert!(held.path().exists() && other.exists());
        assert!(!left.exists());
        reclaim(&folder.path().join("missing"), ".part-");
    }

    #[test]
    fn positioned_reads_are_whole_or_fail() {
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
    fn a_link_leads_to_its_original_and_replaces_nothing() {
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
    fn folders_have_room_and_can_be_synced() {
        let folder = tempfile::tempdir().unwrap();
        assert!(free_space(folder.path()).is_some());
        assert_eq!(free_space(&folder.path().join("missing")), None);
        assert_eq!(in_memory(u64::MAX), None);
        sync_folder(folder.path()).unwrap();
        #[cfg(unix)]
        assert!(sync_folder(&folder.path().join("missing")).is_err());
    }
}

//! Code shared by the targets: the readers accept paths, so inputs become files in `TMPDIR`.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Mutex;

/// A file that is rewritten for each input.
///
/// It stays open, and only the pages that differ from the previous input are written: creating,
/// truncating and filling a file takes longer than reading most inputs.
pub struct Scratch {
    path: PathBuf,
    open: Mutex<(File, Vec<u8>)>,
}

impl Scratch {
    /// Creates the file, in a folder of this process.
    pub fn new(name: &str) -> Self {
        let folder = std::env::temp_dir().join(format!("nanoinfer-fuzz-{}", std::process::id()));
        std::fs::create_dir_all(&folder).expect("TMPDIR can be written");
        let path = folder.join(name);
        let file = File::create(&path).expect("TMPDIR can be written");
        Self { path, open: Mutex::new((file, Vec::new())) }
    }

    /// Replaces the content.
    pub fn write(&self, bytes: &[u8]) -> &Path {
        let (file, content) = &mut *self.open.lock().expect("one thread");
        replace(file, content, bytes).expect("TMPDIR can be written");
        &self.path
    }

    /// The folder of the file.
    pub fn folder(&self) -> &Path {
        self.path.parent().expect("a file in a folder")
    }
}

/// Changes the file from `content` to `bytes`, page by page.
fn replace(file: &File, content: &mut Vec<u8>, bytes: &[u8]) -> io::Result<()> {
    const PAGE: usize = 4096;
    if content.len() != bytes.len() {
        file.set_len(bytes.len() as u64)?;
        content.resize(bytes.len(), 0);
    }
    for (page, new) in bytes.chunks(PAGE).enumerate() {
        let old = &mut content[page * PAGE..][..new.len()];
        if old != new {
            file.write_all_at(new, (page * PAGE) as u64)?;
            old.copy_from_slice(new);
        }
    }
    Ok(())
}

/// A number that is often an edge case.
#[derive(Clone, Copy, Debug, arbitrary::Arbitrary)]
pub enum Edge {
    Small(u8),
    Any(u64),
    Max,
    Half,
    Power(u8),
    Below(u8),
    Minus(u8),
}

impl Edge {
    /// The number.
    pub fn value(self) -> u64 {
        match self {
            Self::Small(v) => v.into(),
            Self::Any(v) => v,
            Self::Max => u64::MAX,
            Self::Half => i64::MAX as u64,
            Self::Power(n) => 1 << (n % 64),
            Self::Below(n) => (1 << (n % 64)) - 1,
            Self::Minus(v) => u64::MAX - u64::from(v),
        }
    }
}

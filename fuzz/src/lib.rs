//! What the targets share: the readers take paths, so inputs become files in `TMPDIR`.

use std::path::{Path, PathBuf};

/// A file that is written again for each input.
pub struct Scratch(PathBuf);

impl Scratch {
    /// A file of this process, with this name.
    pub fn new(name: &str) -> Self {
        let folder = std::env::temp_dir().join(format!("nanoinfer-fuzz-{}", std::process::id()));
        std::fs::create_dir_all(&folder).expect("TMPDIR can be written");
        Self(folder.join(name))
    }

    /// Replaces the content.
    pub fn write(&self, bytes: &[u8]) -> &Path {
        std::fs::write(&self.0, bytes).expect("TMPDIR can be written");
        &self.0
    }

    /// Its folder.
    pub fn folder(&self) -> &Path {
        self.0.parent().expect("a file in a folder")
    }
}

/// An edge case, or the number itself.
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
    /// Its value.
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

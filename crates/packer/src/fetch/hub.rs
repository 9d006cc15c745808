//! Models on the Hugging Face hub.
//!
//! Files land in Hugging Face's own cache layout, in Hugging Face's own place, because then a
//! model that Python tools downloaded is not downloaded again, and the other way round:
//!
//! ```text
//! $HF_HOME/hub/models--org--name/
//!   refs/main               the commit that `main` was when last asked
//!   blobs/<etag>            file contents; the etag of a large file is its SHA-256
//!   blobs/.part-…           what has arrived of a file so far
//!   snapshots/<commit>/…    links into blobs
//! ```

mod download;
mod files;
mod id;

use std::fs;
use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::time::Duration;

use nanoinfer_platform::file;
use serde::Deserialize;

use super::http::{Client, HttpError, Reply};
use super::{Error, Report, Step, is_bare_name, temp_in};
pub use id::HubId;

/// Longest silence of a server before the connection counts as broken.
const SILENCE: Duration = Duration::from_secs(60);

/// One commit of a model.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Revision {
    /// The commit's hash.
    pub commit: String,
    /// Its files; empty when the hub was not asked.
    files: Vec<RemoteFile>,
}

/// A file as the hub lists it, with what it promises.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
struct RemoteFile {
    name: String,
    size: Option<u64>,
    /// Of a large file.
    sha256: Option<String>,
    /// Git's hash of a small file.
    git: Option<String>,
}

/// The hub and the local copy of it.
pub struct Hub {
    endpoint: String,
    cache: PathBuf,
    token: Option<String>,
    offline: bool,
    silence: Duration,
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

impl Hub {
    /// Set up as Hugging Face's own tools are: by `HF_ENDPOINT`, `HF_HOME`, `HF_HUB_CACHE`,
    /// `HF_TOKEN` (else the token file in `HF_HOME`), `HF_HUB_OFFLINE` and
    /// `HF_HUB_DOWNLOAD_TIMEOUT`. Proxies are as `HTTPS_PROXY`, `ALL_PROXY` and `NO_PROXY` say.
    ///
    /// # Errors
    /// Neither `HF_HOME` nor a home folder is set.
    pub fn from_env() -> Result<Self, Error> {
        let var = |name| std::env::var_os(name).filter(|v| !v.is_empty());
        let text = |name| var(name).and_then(|v| v.into_string().ok());
        let home = match var("HF_HOME") {
            Some(home) => PathBuf::from(home),
            None => {
                use etcetera::BaseStrategy;
                // Python's tools follow XDG on every system.
                let base = etcetera::base_strategy::Xdg::new()
                    .map_err(|e| Error::NoCache { what: e.to_string() })?;
                base.cache_dir().join("huggingface")
            }
        };
        let stored = || fs::read_to_string(home.join("token")).ok();
        let token = text("HF_TOKEN").or_else(stored).map(|t| t.trim().to_owned());
        let endpoint = text("HF_ENDPOINT").unwrap_or_else(|| "https://huggingface.co".into());
        let seconds = text("HF_HUB_DOWNLOAD_TIMEOUT").and_then(|t| t.parse().ok());
        Ok(Self {
            endpoint: endpoint.trim_end_matches('/').to_owned(),
            cache: var("HF_HUB_CACHE").map_or_else(|| home.join("hub"), PathBuf::from),
            token: token.filter(|t| !t.is_empty()),
            offline: text("HF_HUB_OFFLINE").is_some_and(|v| v != "0"),
            silence: seconds.filter(|&s| s > 0).map_or(SILENCE, Duration::from_secs),
        })
    }

    fn folder(&self, id: &HubId) -> PathBuf {
        self.cache.join(id.folder())
    }

    /// Where the files of a revision are.
    fn snapshot(&self, id: &HubId, revision: &Revision) -> PathBuf {
        self.folder(id).join("snapshots").join(&revision.commit)
    }

    /// What to convert: the folder of a revision, or the one file that was asked for.
    pub fn path(&self, id: &HubId, revision: &Revision) -> PathBuf {
        let snapshot = self.snapshot(id, revision);
        id.file().map_or(snapshot.clone(), |file| snapshot.join(file))
    }

    /// The revision this machine last saw. Reads one small file, asks nobody.
    pub fn known(&self, id: &HubId) -> Option<Revision> {
        let mut commit = String::new();
        match id.commit() {
            Some(named) => commit.push_str(named),
            None => {
                let path = self.folder(id).join("refs").join(id.revision());
                fs::File::open(path).ok()?.take(200).read_to_string(&mut commit).ok()?;
            }
        }
        let commit = commit.trim();
        is_bare_name(commit).then(|| Revision { commit: commit.into(), files: Vec::new() })
    }

    fn error(&self, id: &HubId, what: impl Into<String>) -> Error {
        Error::Hub { id: id.to_string(), what: what.into() }
    }

    /// The commit the hub has now.
    fn ask(&self, client: &Client, id: &HubId, report: &mut Report<'_>) -> Result<Revision, Error> {
        if self.offline {
            return Err(self.offline(id, "HF_HUB_OFFLINE is set".into()));
        }
        report(Step::Say(&format!("asking {} for {id}", self.endpoint)));
        let (repo, name) = (id.repo(), id.revision().replace('/', "%2F"));
        let url = format!("{}/api/models/{repo}/revision/{name}?blobs=true", self.endpoint);
        let reply = client.get(&url, 0).map_err(|e| self.http(id, e))?;
        if reply.status != 200 {
            return Err(self.refusal(id, &reply, &url));
        }
        let body = reply.text(64 << 20);
        let body = body.map_err(|e| self.error(id, format!("its file list: {e}")))?;
        let listing: Listing = serde_json::from_slice(&body).map_err(|e| {
            let hub = &self.endpoint;
            self.error(id, format!("{hub} answered with something else than a file list: {e}"))
        })?;
        if !is_bare_name(&listing.sha) {
            let what = format!("the hub names an impossible commit {:?}", listing.sha);
            return Err(self.error(id, what));
        }
        let files = listing.siblings.into_iter().map(RemoteFile::from).collect();
        Ok(Revision { commit: listing.sha, files })
    }

    fn offline(&self, id: &HubId, what: String) -> Error {
        Error::Offline { id: id.to_string(), endpoint: self.endpoint.clone(), what }
    }

    fn http(&self, id: &HubId, error: HttpError) -> Error {
        match error {
            HttpError::Unreachable(what) => self.offline(id, what),
            HttpError::Protocol(what) => self.error(id, what),
        }
    }

    /// What an answer other than success means. The hub says more in a header.
    fn refusal(&self, id: &HubId, reply: &Reply, url: &str) -> Error {
        let page = format!("{}/{}", self.endpoint, id.repo());
        let code = reply.first.get("x-error-code").and_then(|v| v.to_str().ok());
        let gated = code == Some("GatedRepo");
        self.error(
            id,
            match reply.status {
                401 if self.token.is_some() && !gated => {
                    "HTTP 401: the token in HF_TOKEN is not accepted; make a new one".into()
                }
                401 if !gated => format!(
                    "HTTP 401: it does not exist, or is private or gated; check the spelling, \
                 or set HF_TOKEN to a token that may read {page}"
                ),
                status @ (401 | 403) => format!(
                    "HTTP {status}: access is restricted; accept its terms at {page}, \
                 then set HF_TOKEN to a token that may read it"
                ),
                404 if code == Some("RevisionNotFound") => format!(
                    "HTTP 404: it has no revision {:?}; see the branches and tags at {page}",
                    id.revision()
                ),
                404 => format!("HTTP 404: {url} does not exist; check the spelling"),
                429 => "HTTP 429: the hub has had too many requests; wait and repeat".into(),
                status => format!("HTTP {status} from {}; repeat later", self.endpoint),
            },
        )
    }

    fn remember(&self, id: &HubId, revision: &Revision) -> Result<(), Error> {
        if id.commit().is_some() {
            return Ok(());
        }
        let path = self.folder(id).join("refs").join(id.revision());
        let write = || {
            let folder = path.parent().expect("a file in a folder");
            fs::create_dir_all(folder)?;
            let mut temp = temp_in(folder)?;
            temp.write_all(revision.commit.as_bytes())?;
            temp.persist(&path).map_err(|e| e.error)
        };
        write().map(|_| ()).map_err(Error::io(&path, "cannot write"))
    }
}

/// Makes `path` (in `snapshots/<commit>/`, perhaps deeper) name `blob` (in `blobs/`) as Hugging
/// Face's tools do.
fn link(blob: &Path, path: &Path, depth: usize) -> std::io::Result<()> {
    fs::create_dir_all(path.parent().expect("a file in a folder"))?;
    let name = blob.file_name().expect("a blob has a name");
    let up = "../".repeat(depth + 1);
    let relative = Path::new(&format!("{up}blobs")).join(name);
    match file::link(blob, &relative, path) {
        // Another process was faster; the contents are the same.
        Err(e) if e.kind() == std::io::ErrorKind::AlreadyExists => Ok(()),
        other => other,
    }
}

use std::fmt;
use std::fs;
use std::io::Write;
use std::path::Path;
use std::time::Duration;

use nanoinfer_platform::file;

use super::client::{Client, HttpError, Response};
use super::listing::Commit;
use crate::folder::temp_in;
use crate::hf_cache::{HfCache, hf_home};
use crate::names::is_bare_name;
use crate::{Error, HubId, Status, StatusFn};

/// Maximum time without data from the server before the connection counts as broken.
const SILENCE: Duration = Duration::from_secs(60);
/// Maximum size of a file list, in bytes.
const MAX_LISTING: u64 = 64 << 20;

/// Fetches models from the Hugging Face hub into Hugging Face's own cache.
pub struct Hub {
    endpoint: String,
    pub(super) cache: HfCache,
    token: Option<String>,
    offline: bool,
    silence: Duration,
}

/// Omits the token.
impl fmt::Debug for Hub {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut hub = f.debug_struct("Hub");
        hub.field("endpoint", &self.endpoint).field("cache", &self.cache).finish_non_exhaustive()
    }
}

impl Hub {
    /// Reads the environment variables of Hugging Face's own tools: `HF_ENDPOINT`, `HF_HOME`,
    /// `HF_HUB_CACHE`, `HF_TOKEN` (or else the token file in `HF_HOME`), `HF_HUB_OFFLINE` and
    /// `HF_HUB_DOWNLOAD_TIMEOUT`. Proxies come from `HTTPS_PROXY`, `ALL_PROXY` and `NO_PROXY`.
    ///
    /// # Errors
    /// Neither `HF_HOME` nor a home folder is set.
    pub fn from_env() -> Result<Self, Error> {
        let var = |name| std::env::var(name).ok().filter(|v| !v.is_empty());
        let home = hf_home()?;
        let stored = || fs::read_to_string(home.join("token")).ok();
        let token = var("HF_TOKEN").or_else(stored).map(|t| t.trim().to_owned());
        let endpoint = var("HF_ENDPOINT").unwrap_or_else(|| "https://huggingface.co".into());
        let seconds = var("HF_HUB_DOWNLOAD_TIMEOUT").and_then(|t| t.parse().ok());
        Ok(Self {
            endpoint: endpoint.trim_end_matches('/').to_owned(),
            cache: HfCache::from_env()?,
            token: token.filter(|t| !t.is_empty()),
            offline: var("HF_HUB_OFFLINE").is_some_and(|v| v != "0"),
            silence: seconds.filter(|&s| s > 0).map_or(SILENCE, Duration::from_secs),
        })
    }

    pub(super) fn client(&self, id: &HubId) -> Result<Client, Error> {
        let client = Client::new(&self.endpoint, self.token.clone(), self.silence);
        client.map_err(|what| self.error(id, format!("HF_ENDPOINT: {what}")))
    }

    /// URL of a file in a commit.
    pub(super) fn url(&self, id: &HubId, commit: &str, name: &str) -> String {
        format!("{}/{}/resolve/{commit}/{name}", self.endpoint, id.repo())
    }

    /// The commit that the revision currently points to.
    pub(super) fn look_up(
        &self,
        client: &Client,
        id: &HubId,
        status: &mut StatusFn<'_>,
    ) -> Result<Commit, Error> {
        if self.offline {
            return Err(self.unreachable(id, "HF_HUB_OFFLINE is set".into()));
        }
        status(Status::Message(&format!("looking up {id} at {}", self.endpoint)));
        let (repo, name) = (id.repo(), id.revision().replace('/', "%2F"));
        let url = format!("{}/api/models/{repo}/revision/{name}?blobs=true", self.endpoint);
        let response = client.get(&url, 0).map_err(|e| self.http_error(id, e))?;
        if response.status != 200 {
            return Err(self.refusal(id, &response, &url));
        }
        let body = response.bytes(MAX_LISTING);
        let body = body.map_err(|e| self.error(id, format!("cannot read the file list: {e}")))?;
        let commit = Commit::parse(&body).map_err(|e| {
            self.error(id, format!("the response from {} is not a file list: {e}", self.endpoint))
        })?;
        if !is_bare_name(&commit.hash) {
            let what = format!("the hub returned an invalid commit hash {:?}", commit.hash);
            return Err(self.error(id, what));
        }
        Ok(commit)
    }

    /// Records the commit of the revision, as Hugging Face's tools do.
    pub(super) fn remember(&self, id: &HubId, commit: &str) -> Result<(), Error> {
        if id.commit().is_some() {
            return Ok(());
        }
        let path = self.cache.reference(id);
        let write = || {
            let folder = path.parent().expect("a file path has a parent");
            fs::create_dir_all(folder)?;
            let mut temp = temp_in(folder)?;
            temp.write_all(commit.as_bytes())?;
            temp.persist(&path).map_err(|e| e.error)
        };
        write().map(|_| ()).map_err(Error::io(&path, "cannot write"))
    }

    pub(super) fn error(&self, id: &HubId, what: impl Into<String>) -> Error {
        Error::Hub { id: id.to_string(), what: what.into() }
    }

    fn unreachable(&self, id: &HubId, what: String) -> Error {
        Error::Offline { id: id.to_string(), endpoint: self.endpoint.clone(), what }
    }

    pub(super) fn http_error(&self, id: &HubId, error: HttpError) -> Error {
        match error {
            HttpError::Unreachable(what) => self.unreachable(id, what),
            HttpError::Protocol(what) => self.error(id, what),
        }
    }

    /// Explains an error response. The hub sends details in a header.
    pub(super) fn refusal(&self, id: &HubId, response: &Response, url: &str) -> Error {
        let page = format!("{}/{}", self.endpoint, id.repo());
        let code = response.first.get("x-error-code").and_then(|v| v.to_str().ok());
        let gated = code == Some("GatedRepo");
        let what = match response.status {
            401 if self.token.is_some() && !gated => {
                "HTTP 401: the token in HF_TOKEN is not accepted; create a new one".into()
            }
            401 if !gated => format!(
                "HTTP 401: the model does not exist, or is private or gated; check the spelling, \
                 or set HF_TOKEN to a token with access to {page}"
            ),
            status @ (401 | 403) => format!(
                "HTTP {status}: access is restricted; accept the model's terms at {page}, \
                 then set HF_TOKEN to a token with access to it"
            ),
            404 if code == Some("RevisionNotFound") => format!(
                "HTTP 404: the model has no revision {:?}; see the branches and tags at {page}",
                id.revision()
            ),
            404 => format!("HTTP 404: {url} does not exist; check the spelling"),
            429 => "HTTP 429: too many requests; wait and try again".into(),
            status => format!("HTTP {status} from {}; try again later", self.endpoint),
        };
        self.error(id, what)
    }
}

/// Creates `path` (`depth` components below `snapshots/<commit>/`) as a link to `blob` (in
/// `blobs/`), as Hugging Face's tools do.
pub(super) fn link(blob: &Path, path: &Path, depth: usize) -> std::io::Result<()> {
    fs::create_dir_all(path.parent().expect("a file path has a parent"))?;
    let name = blob.file_name().expect("a blob has a name");
    let up = "../".repeat(depth + 1);
    let relative = Path::new(&format!("{up}blobs")).join(name);
    match file::link(blob, &relative, path) {
        // Another process has already created it, with the same contents.
        Err(e) if e.kind() == std::io::ErrorKind::AlreadyExists => Ok(()),
        other => other,
    }
}

//! Models on the Hugging Face hub.
//!
//! Files land in Hugging Face's own cache layout, in Hugging Face's own place, because then a
//! model that Python tools downloaded is not downloaded again, and the other way round:
//!
//! ```text
//! $HF_HOME/hub/models--org--name/
//!   refs/main               the commit that `main` was when last asked
//!   blobs/<etag>            file contents; the etag of a large file is its SHA-256
//!   snapshots/<commit>/…    links into blobs
//! ```

use std::collections::BTreeSet;
use std::fmt;
use std::fs;
use std::io::{Read, Write};
use std::path::{Path, PathBuf};

use serde::Deserialize;
use sha2::{Digest, Sha256};

use super::http::{Client, HttpError, Reply};
use super::{Error, Report, Step, is_bare_name, sweep, temp_in};

/// Files of a model that are used, where it has them, besides the weights.
const SIDE_FILES: [&str; 5] = [
    "config.json",
    "generation_config.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "chat_template.jinja",
];
const INDEX: &str = "model.safetensors.index.json";
const SINGLE: &str = "model.safetensors";
/// Largest side file: the tokenizer of a 256 k vocabulary takes 35 MB.
const MAX_SIDE_FILE: u64 = 256 << 20;
/// Largest shard: the hub itself refuses files beyond 50 GB.
const MAX_SHARD: u64 = 64 << 30;
/// Most shards of one model.
const MAX_SHARDS: usize = 2048;

/// `org/name`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HubId {
    org: String,
    name: String,
}

impl HubId {
    /// `Some` if `text` is of the form `org/name`.
    pub fn parse(text: &str) -> Option<Self> {
        let (org, name) = text.split_once('/')?;
        (is_bare_name(org) && is_bare_name(name))
            .then(|| Self { org: org.into(), name: name.into() })
    }
}

impl fmt::Display for HubId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.org, self.name)
    }
}

/// One commit of a model.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Revision {
    /// The commit's hash.
    pub commit: String,
    /// Names of its files; empty when the hub was not asked.
    files: Vec<String>,
}

/// The hub and the local copy of it.
pub struct Hub {
    endpoint: String,
    cache: PathBuf,
    token: Option<String>,
    offline: bool,
}

#[derive(Deserialize)]
struct Listing {
    sha: String,
    #[serde(default)]
    siblings: Vec<Sibling>,
}

#[derive(Deserialize)]
struct Sibling {
    rfilename: String,
}

#[derive(Deserialize)]
struct Index {
    weight_map: std::collections::HashMap<String, String>,
}

impl Hub {
    /// Set up as Hugging Face's own tools are: by `HF_ENDPOINT`, `HF_HOME`, `HF_HUB_CACHE`,
    /// `HF_TOKEN` (else the token file in `HF_HOME`) and `HF_HUB_OFFLINE`.
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
                let base = etcetera::choose_base_strategy()
                    .map_err(|e| Error::NoCache { what: e.to_string() })?;
                base.cache_dir().join("huggingface")
            }
        };
        let stored = || fs::read_to_string(home.join("token")).ok();
        let token = text("HF_TOKEN").or_else(stored).map(|t| t.trim().to_owned());
        let endpoint = text("HF_ENDPOINT").unwrap_or_else(|| "https://huggingface.co".into());
        Ok(Self {
            endpoint: endpoint.trim_end_matches('/').to_owned(),
            cache: var("HF_HUB_CACHE").map_or_else(|| home.join("hub"), PathBuf::from),
            token: token.filter(|t| !t.is_empty()),
            offline: text("HF_HUB_OFFLINE").is_some_and(|v| v != "0"),
        })
    }

    fn folder(&self, id: &HubId) -> PathBuf {
        self.cache.join(format!("models--{}--{}", id.org, id.name))
    }

    /// Where the files of a revision are.
    pub fn snapshot(&self, id: &HubId, revision: &Revision) -> PathBuf {
        self.folder(id).join("snapshots").join(&revision.commit)
    }

    /// The revision this machine last saw. Reads one small file, asks nobody.
    pub fn known(&self, id: &HubId) -> Option<Revision> {
        let path = self.folder(id).join("refs/main");
        let mut commit = String::new();
        fs::File::open(path).ok()?.take(200).read_to_string(&mut commit).ok()?;
        let commit = commit.trim();
        is_bare_name(commit).then(|| Revision { commit: commit.into(), files: Vec::new() })
    }

    /// Brings the newest revision of a model here and returns it.
    ///
    /// With the hub out of reach, a revision that is here completely is used as it is.
    ///
    /// # Errors
    /// The hub cannot be reached or refuses, the model has no safetensors, a file arrives damaged.
    pub fn fetch(&self, id: &HubId, report: &mut Report<'_>) -> Result<Revision, Error> {
        let error = |what: String| Error::Hub { id: id.to_string(), what };
        let client = Client::new(&self.endpoint, self.token.clone())
            .map_err(|what| error(format!("HF_ENDPOINT: {what}")))?;
        let revision = match self.ask(&client, id, report) {
            Err(Error::Offline { what, .. }) if self.known_complete(id).is_some() => {
                report(Step::Say(&format!("{id}: hub out of reach ({what}), using what is here")));
                return Ok(self.known_complete(id).expect("just seen"));
            }
            other => other?,
        };
        sweep(&self.folder(id).join("blobs"), ".fetch-");
        let has = |name: &str| revision.files.iter().any(|f| f == name);
        if !has("config.json") {
            return Err(error("has no config.json, so it is no transformers model".into()));
        }
        for name in SIDE_FILES.into_iter().filter(|name| has(name)) {
            self.file(&client, id, &revision, name, MAX_SIDE_FILE, report)?;
        }
        let weights = if has(INDEX) {
            let index = self.file(&client, id, &revision, INDEX, MAX_SIDE_FILE, report)?;
            shards(&index).map_err(|what| error(format!("{INDEX}: {what}")))?
        } else if has(SINGLE) {
            BTreeSet::from([SINGLE.to_owned()])
        } else {
            let gguf = revision.files.iter().find(|f| f.ends_with(".gguf"));
            return Err(error(match gguf {
                Some(name) => {
                    format!("has no safetensors; download its {name} and give that file instead")
                }
                None => "has no safetensors weights; look for a converted copy of it".into(),
            }));
        };
        for name in &weights {
            self.file(&client, id, &revision, name, MAX_SHARD, report)?;
        }
        self.remember(id, &revision)?;
        Ok(revision)
    }

    /// The revision the hub has now.
    fn ask(&self, client: &Client, id: &HubId, report: &mut Report<'_>) -> Result<Revision, Error> {
        let error = |what: String| Error::Hub { id: id.to_string(), what };
        if self.offline {
            return Err(self.offline(id, "HF_HUB_OFFLINE is set".into()));
        }
        report(Step::Say(&format!("asking {} for {id}", self.endpoint)));
        let url = format!("{}/api/models/{id}/revision/main", self.endpoint);
        let reply = self.get(client, id, &url)?;
        let body = reply.text(64 << 20).map_err(|e| error(format!("its file list: {e}")))?;
        let listing: Listing = serde_json::from_slice(&body).map_err(|e| {
            error(format!("{} answered with something else than a file list: {e}", self.endpoint))
        })?;
        if !is_bare_name(&listing.sha) {
            return Err(error(format!("the hub names an impossible commit {:?}", listing.sha)));
        }
        let files = listing.siblings.into_iter().map(|s| s.rfilename).collect();
        Ok(Revision { commit: listing.sha, files })
    }

    fn offline(&self, id: &HubId, what: String) -> Error {
        Error::Offline { id: id.to_string(), endpoint: self.endpoint.clone(), what }
    }

    /// GET, with everything but success explained.
    fn get(&self, client: &Client, id: &HubId, url: &str) -> Result<Reply, Error> {
        let error = |what: String| Err(Error::Hub { id: id.to_string(), what });
        let page = format!("{}/{id}", self.endpoint);
        let reply = client.get(url).map_err(|e| match e {
            HttpError::Unreachable(what) => self.offline(id, what),
            HttpError::Protocol(what) => Error::Hub { id: id.to_string(), what },
        })?;
        match reply.status {
            200 => Ok(reply),
            401 if self.token.is_some() => {
                error("HTTP 401: the token in HF_TOKEN is not accepted; make a new one".into())
            }
            401 => error(format!(
                "HTTP 401: it does not exist, or is private or gated; check the spelling, \
                 or set HF_TOKEN to a token that may read {page}"
            )),
            403 => error(format!(
                "HTTP 403: access is restricted; accept its terms at {page}, \
                 then set HF_TOKEN to a token that may read it"
            )),
            404 => error(format!("HTTP 404: {url} does not exist; check the spelling")),
            429 => error("HTTP 429: the hub has had too many requests; wait and repeat".into()),
            status => error(format!("HTTP {status} from {}; repeat later", self.endpoint)),
        }
    }

    /// One file of a snapshot, downloaded if it is not here. Returns its path.
    fn file(
        &self,
        client: &Client,
        id: &HubId,
        revision: &Revision,
        name: &str,
        limit: u64,
        report: &mut Report<'_>,
    ) -> Result<PathBuf, Error> {
        let path = self.snapshot(id, revision).join(name);
        if path.exists() {
            return Ok(path);
        }
        let url = format!("{}/{id}/resolve/{}/{name}", self.endpoint, revision.commit);
        let reply = self.get(client, id, &url)?;
        let error =
            |what: String| Error::Hub { id: id.to_string(), what: format!("{name}: {what}") };
        let etag = etag(&reply).ok_or_else(|| error("the hub sent no usable ETag".into()))?;
        let blob = self.folder(id).join("blobs").join(&etag);
        if !blob.exists() {
            report(Step::Say(&format!("downloading {id} {name}")));
            receive(reply, &blob, &etag, limit, report).map_err(|e| match e {
                Failed::Io(e) => Error::io(&blob, "cannot write")(e),
                Failed::Damaged(what) => error(what),
            })?;
        }
        link(&blob, &path).map_err(Error::io(&path, "cannot create"))?;
        Ok(path)
    }

    fn remember(&self, id: &HubId, revision: &Revision) -> Result<(), Error> {
        let path = self.folder(id).join("refs/main");
        let write = || {
            let folder = path.parent().expect("a file in a folder");
            fs::create_dir_all(folder)?;
            let mut temp = temp_in(folder)?;
            temp.write_all(revision.commit.as_bytes())?;
            temp.persist(&path).map_err(|e| e.error)
        };
        write().map(|_| ()).map_err(Error::io(&path, "cannot write"))
    }

    /// The last seen revision, if the files a conversion cannot do without are all here.
    fn known_complete(&self, id: &HubId) -> Option<Revision> {
        let revision = self.known(id)?;
        let folder = self.snapshot(id, &revision);
        let here = |name: &str| folder.join(name).exists();
        let weights = if here(INDEX) {
            shards(&folder.join(INDEX)).ok()?
        } else {
            BTreeSet::from([SINGLE.to_owned()])
        };
        (here("config.json") && weights.iter().all(|name| here(name))).then_some(revision)
    }
}

/// The shard names of an index. They become paths, so only bare names are let through.
fn shards(index: &Path) -> Result<BTreeSet<String>, String> {
    let bytes = fs::read(index).map_err(|e| e.to_string())?;
    let index: Index = serde_json::from_slice(&bytes).map_err(|e| e.to_string())?;
    let names: BTreeSet<String> = index.weight_map.into_values().collect();
    if names.is_empty() || names.len() > MAX_SHARDS {
        return Err(format!("names {} shards, expected 1 to {MAX_SHARDS}", names.len()));
    }
    match names.iter().find(|n| !(is_bare_name(n) && n.ends_with(".safetensors"))) {
        Some(bad) => Err(format!("names the shard {bad:?}, expected a bare *.safetensors name")),
        None => Ok(names),
    }
}

/// The name of a file's contents. For a large file it is given on the hub's own answer, before
/// the redirect to where the bytes are.
fn etag(reply: &Reply) -> Option<String> {
    let header = |name| reply.first.get(name).and_then(|v| v.to_str().ok());
    let raw = header("x-linked-etag").or_else(|| header("etag"))?;
    let etag = raw.trim_start_matches("W/").trim_matches('"');
    is_bare_name(etag).then(|| etag.to_owned())
}

enum Failed {
    Io(std::io::Error),
    Damaged(String),
}

/// Streams a body into `blob` by way of a temporary file, checking length and, where the etag is
/// one, SHA-256.
fn receive(
    reply: Reply,
    blob: &Path,
    etag: &str,
    limit: u64,
    report: &mut Report<'_>,
) -> Result<(), Failed> {
    let number = |headers: &ureq::http::HeaderMap, name| {
        headers.get(name)?.to_str().ok()?.parse::<u64>().ok()
    };
    let expected =
        number(&reply.first, "x-linked-size").or_else(|| number(&reply.last, "content-length"));
    if expected.is_some_and(|n| n > limit) {
        return Err(Failed::Damaged(format!("is larger than {limit} bytes")));
    }
    let folder = blob.parent().expect("a blob in a folder");
    fs::create_dir_all(folder).map_err(Failed::Io)?;
    let mut temp = temp_in(folder).map_err(Failed::Io)?;
    let mut hasher = Sha256::new();
    let mut body = reply.body.into_reader().take(limit + 1);
    let mut buffer = vec![0; 1 << 18];
    let mut done = 0;
    loop {
        let n = body.read(&mut buffer).map_err(|e| {
            Failed::Damaged(format!("the download broke off after {done} bytes: {e}; repeat"))
        })?;
        if n == 0 {
            break;
        }
        hasher.update(&buffer[..n]);
        temp.write_all(&buffer[..n]).map_err(Failed::Io)?;
        done += n as u64;
        report(Step::Progress { done, total: expected.unwrap_or(0) });
    }
    if done > limit {
        return Err(Failed::Damaged(format!("is larger than {limit} bytes")));
    }
    if let Some(expected) = expected.filter(|&n| n != done) {
        return Err(Failed::Damaged(format!("{done} of {expected} bytes arrived; repeat")));
    }
    let is_sha256 = etag.len() == 64 && etag.bytes().all(|b| b.is_ascii_hexdigit());
    let sha256 = hex(&hasher.finalize());
    if is_sha256 && !etag.eq_ignore_ascii_case(&sha256) {
        return Err(Failed::Damaged(format!("SHA-256 is {sha256}, expected {etag}; repeat")));
    }
    temp.as_file().sync_all().map_err(Failed::Io)?;
    temp.persist(blob).map_err(|e| Failed::Io(e.error))?;
    Ok(())
}

/// Makes `path` (in `snapshots/<commit>/`) name `blob` (in `blobs/`) as Hugging Face's tools do.
fn link(blob: &Path, path: &Path) -> std::io::Result<()> {
    fs::create_dir_all(path.parent().expect("a file in a folder"))?;
    #[cfg(unix)]
    let made = {
        let name = blob.file_name().expect("a blob has a name");
        std::os::unix::fs::symlink(Path::new("../../blobs").join(name), path)
    };
    #[cfg(not(unix))]
    let made = fs::hard_link(blob, path);
    match made {
        // Another process was faster; the contents are the same.
        Err(e) if e.kind() == std::io::ErrorKind::AlreadyExists => Ok(()),
        other => other,
    }
}

/// Lower-case hexadecimal.
pub(super) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|b| format!("{b:02x}")).collect()
}

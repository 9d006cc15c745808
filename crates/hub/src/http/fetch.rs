//! Determines which files of a model are needed, and downloads them.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use nanoinfer_packer::{check_space, gguf_files};

use super::client::Client;
use super::download::{self, Download, Failure};
use super::hub::{Hub, link};
use super::listing::{Commit, RemoteFile};
use crate::folder::sweep;
use crate::hf_cache::{WEIGHTS, shards};
use crate::{Error, Fetch, Fetched, HubId, Published, Status, StatusFn};

/// Files that are used if present, in addition to the weights.
const SIDE_FILES: [&str; 9] = [
    "added_tokens.json",
    "config.json",
    "generation_config.json",
    "quant_config.json",
    "quantize_config.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "chat_template.jinja",
    "chat_template.json",
];
/// Files that describe the tokenizer of a model without `tokenizer.json`.
const OLD_TOKENIZER: [&str; 4] =
    ["tokenizer.model", "vocab.json", "merges.txt", "special_tokens_map.json"];
/// Maximum size of a side file; the tokenizer of a 256k vocabulary takes 35 MB.
const MAX_SIDE_FILE: u64 = 256 << 20;
/// Maximum size of a shard; the hub itself rejects files over 500 GB.
const MAX_SHARD: u64 = 500_000_000_000;
/// Name prefix of partial downloads.
const PART_PREFIX: &str = ".part-";

impl Fetch for Hub {
    /// Downloads the newest commit of a model's revision. If the hub cannot be reached, a complete
    /// commit in the cache is used instead.
    ///
    /// # Errors
    /// The hub cannot be reached or rejects the request, the model has no supported weights, a
    /// download is damaged, the disk is full, or the model is not a hub model.
    fn fetch(
        &self,
        model: Published<'_>,
        _: &Path,
        status: &mut StatusFn<'_>,
    ) -> Result<Fetched, Error> {
        let id = match model {
            Published::Hub(id) => id,
            Published::Pinned(pinned) => {
                let what = "only hub models can be fetched from the hub".into();
                return Err(Error::Pinned { alias: pinned.alias, what });
            }
        };
        let version = self.fetch_commit(id, status)?;
        Ok(Fetched { path: self.cache.path(id, &version), version })
    }

    fn known_version(&self, model: Published<'_>) -> Result<Option<String>, Error> {
        Ok(match model {
            Published::Hub(id) => self.cache.known_commit(id),
            Published::Pinned(pinned) => Some(pinned.sha256.into()),
        })
    }
}

impl Hub {
    fn fetch_commit(&self, id: &HubId, status: &mut StatusFn<'_>) -> Result<String, Error> {
        let client = self.client(id)?;
        let commit = match self.look_up(&client, id, status) {
            Ok(commit) => commit,
            Err(Error::Offline { id: model, endpoint, what }) => {
                let Some(cached) = self.cache.complete_commit(id) else {
                    return Err(Error::Offline { id: model, endpoint, what });
                };
                let what = format!("{id}: cannot reach the hub ({what}); using the cached copy");
                status(Status::Message(&what));
                return Ok(cached);
            }
            Err(e) => return Err(e),
        };
        Fetching { hub: self, client: &client, id, commit: &commit }.all(status)?;
        sweep(&self.cache.folder(id).join("blobs"), PART_PREFIX);
        self.remember(id, &commit.hash)?;
        Ok(commit.hash)
    }
}

/// A commit being fetched.
struct Fetching<'a> {
    hub: &'a Hub,
    client: &'a Client,
    id: &'a HubId,
    commit: &'a Commit,
}

impl Fetching<'_> {
    fn error(&self, what: impl Into<String>) -> Error {
        self.hub.error(self.id, what)
    }

    fn all(&self, status: &mut StatusFn<'_>) -> Result<(), Error> {
        let weights = match self.id.file() {
            Some(file) => self.gguf_names(file)?,
            None => self.side_files(status)?,
        };
        self.check_space(&weights)?;
        for name in &weights {
            self.file(name, MAX_SHARD, status)?;
        }
        Ok(())
    }

    /// Fetches the side files and returns the names of the weight files.
    fn side_files(&self, status: &mut StatusFn<'_>) -> Result<BTreeSet<String>, Error> {
        let has = |name: &str| self.commit.file(name).is_some();
        let weights = WEIGHTS.iter().find(|(one, _, index)| has(one) || has(index));
        let Some((one, extension, index)) = weights.filter(|_| has("config.json")) else {
            return Err(self.error(self.no_weights(has("config.json"))));
        };
        let old = OLD_TOKENIZER.into_iter().filter(|_| !has("tokenizer.json"));
        for name in SIDE_FILES.into_iter().chain(old).filter(|name| has(name)) {
            self.file(name, MAX_SIDE_FILE, status)?;
        }
        if has(one) {
            return Ok(BTreeSet::from([(*one).to_owned()]));
        }
        let path = self.file(index, MAX_SIDE_FILE, status)?;
        shards(&path, extension).map_err(|what| self.error(format!("{index}: {what}")))
    }

    fn no_weights(&self, has_config: bool) -> String {
        let gguf = self.commit.gguf_names();
        if let Some(first) = gguf.first() {
            let (repo, n) = (self.id.repo(), gguf.len());
            return format!(
                "has only GGUF weights ({n} files); choose one, such as {repo}:{first}"
            );
        }
        if self.commit.file("adapter_config.json").is_some() {
            "is a LoRA adapter, not a model; download it, and convert its base model with it merged"
                .into()
        } else if self.commit.file("model_index.json").is_some() {
            "is a diffusion pipeline, which generates images, not text; choose a language model"
                .into()
        } else if self.commit.file("params.json").is_some() {
            "has its author's own format (params.json); look for a copy in Hugging Face's format"
                .into()
        } else if has_config {
            "has neither safetensors nor PyTorch weights; look for a converted copy".into()
        } else {
            "has no config.json, so it is not a transformers model".into()
        }
    }

    /// The name of a GGUF file and, if the model is split, the names of its other parts.
    fn gguf_names(&self, file: &str) -> Result<BTreeSet<String>, Error> {
        let parts = gguf_files(Path::new(file));
        let names: BTreeSet<String> =
            parts.iter().map(|p| p.to_string_lossy().into_owned()).collect();
        let Some(missing) = names.iter().find(|name| self.commit.file(name).is_none()) else {
            return Ok(names);
        };
        let known = self.commit.gguf_names();
        let known = known[..known.len().min(20)].join(", ");
        Err(self.error(format!("has no file {missing:?}; available: {known}")))
    }

    /// Fails if the disk has too little space for the download.
    fn check_space(&self, names: &BTreeSet<String>) -> Result<(), Error> {
        let snapshot = self.snapshot();
        let missing = names.iter().filter(|name| !snapshot.join(name).exists());
        let size = |name: &String| {
            let total = self.commit.file(name)?.size?;
            let part = self.blobs().join(self.part(name));
            Some(total.saturating_sub(fs::metadata(part).map_or(0, |m| m.len())))
        };
        let needed = missing.filter_map(size).fold(0, u64::saturating_add);
        Ok(check_space(&self.hub.cache.root, needed)?)
    }

    fn snapshot(&self) -> PathBuf {
        self.hub.cache.snapshot(self.id, &self.commit.hash)
    }

    fn blobs(&self) -> PathBuf {
        self.hub.cache.folder(self.id).join("blobs")
    }

    /// Name of a file's partial download, derived from commit and name: a file in a commit never
    /// changes.
    fn part(&self, name: &str) -> String {
        let hash = blake3::hash(format!("{}/{name}", self.commit.hash).as_bytes());
        format!("{PART_PREFIX}{}", &hash.to_hex()[..32])
    }

    /// Returns the path of a file in the snapshot, downloading it if absent.
    fn file(&self, name: &str, limit: u64, status: &mut StatusFn<'_>) -> Result<PathBuf, Error> {
        let path = self.snapshot().join(name);
        if path.exists() {
            return Ok(path);
        }
        let url = self.hub.url(self.id, &self.commit.hash, name);
        let listed = self.commit.file(name).map_or_else(RemoteFile::default, RemoteFile::clone);
        let size = listed.size.map(|n| format!(" ({} MB)", n.div_ceil(1_000_000)));
        let (repo, size) = (self.id.repo(), size.unwrap_or_default());
        status(Status::Message(&format!("downloading {repo} {name}{size}")));
        let (blobs, part) = (self.blobs(), self.part(name));
        let download = Download { url: &url, blobs: &blobs, part: &part, listed: &listed, limit };
        let blob = download::run(self.client, &download, status).map_err(|e| match e {
            Failure::Io(path, e) => Error::io(&path, "cannot write")(e),
            Failure::Http(e) => self.hub.http_error(self.id, e),
            Failure::Status(response) => self.hub.refusal(self.id, &response, &url),
            Failure::Damaged(what) => self.error(format!("{name}: {what}")),
        })?;
        let depth = name.split('/').count();
        link(&blob, &path, depth).map_err(Error::io(&path, "cannot create"))?;
        Ok(path)
    }
}

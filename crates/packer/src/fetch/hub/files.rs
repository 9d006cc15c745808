//! Which files of a model are needed, and how each comes here.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use serde::Deserialize;

use super::download::{self, Failed, Wanted};
use super::{Hub, HubId, RemoteFile, Revision, link};
use crate::fetch::http::Client;
use crate::fetch::{Error, Report, Step, is_bare_name, sweep};
use crate::gguf;

/// Files of a model that are used, where it has them, besides the weights.
const SIDE_FILES: [&str; 6] = [
    "config.json",
    "generation_config.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "chat_template.jinja",
    "chat_template.json",
];
/// Weights in one file, the extension of several, and the index of several, best first.
const WEIGHTS: [(&str, &str, &str); 2] = [
    ("model.safetensors", ".safetensors", "model.safetensors.index.json"),
    ("pytorch_model.bin", ".bin", "pytorch_model.bin.index.json"),
];
/// Largest side file: the tokenizer of a 256 k vocabulary takes 35 MB.
const MAX_SIDE_FILE: u64 = 256 << 20;
/// Largest shard: the hub itself refuses files beyond 500 GB.
const MAX_SHARD: u64 = 500_000_000_000;
/// Most shards of one model.
const MAX_SHARDS: usize = 2048;
/// Beginning of the names of what has arrived of a file.
const PART_PREFIX: &str = ".part-";

#[derive(Deserialize)]
struct Index {
    weight_map: std::collections::HashMap<String, String>,
}

impl Hub {
    /// Brings the newest commit of a model's revision here and returns it.
    ///
    /// With the hub out of reach, a commit that is here completely is used as it is.
    ///
    /// # Errors
    /// The hub cannot be reached or refuses, the model has no weights that can be read, a file
    /// arrives damaged, the disk has no room.
    pub fn fetch(&self, id: &HubId, report: &mut Report<'_>) -> Result<Revision, Error> {
        let client = Client::new(&self.endpoint, self.token.clone(), self.silence)
            .map_err(|what| self.error(id, format!("HF_ENDPOINT: {what}")))?;
        let revision = match self.ask(&client, id, report) {
            Err(Error::Offline { what, .. }) if self.known_complete(id).is_some() => {
                report(Step::Say(&format!("{id}: hub out of reach ({what}), using what is here")));
                return Ok(self.known_complete(id).expect("just seen"));
            }
            other => other?,
        };
        Fetching { hub: self, client: &client, id, revision: &revision }.all(report)?;
        sweep(&self.folder(id).join("blobs"), PART_PREFIX);
        self.remember(id, &revision)?;
        Ok(revision)
    }

    /// The last seen revision, if the files a conversion cannot do without are all here.
    fn known_complete(&self, id: &HubId) -> Option<Revision> {
        let revision = self.known(id)?;
        complete(&self.snapshot(id, &revision), id).then_some(revision)
    }
}

/// A commit on its way here.
struct Fetching<'a> {
    hub: &'a Hub,
    client: &'a Client,
    id: &'a HubId,
    revision: &'a Revision,
}

impl Fetching<'_> {
    fn error(&self, what: impl Into<String>) -> Error {
        self.hub.error(self.id, what)
    }

    fn find(&self, name: &str) -> Option<&RemoteFile> {
        self.revision.files.iter().find(|f| f.name == name)
    }

    /// Brings everything that is needed.
    fn all(&self, report: &mut Report<'_>) -> Result<(), Error> {
        let weights = match self.id.file() {
            Some(file) => self.gguf(file)?,
            None => self.folder(report)?,
        };
        self.check_space(&weights)?;
        for name in &weights {
            self.file(name, MAX_SHARD, report)?;
        }
        Ok(())
    }

    /// The side files, now, and the names of the weights.
    fn folder(&self, report: &mut Report<'_>) -> Result<BTreeSet<String>, Error> {
        let has = |name: &str| self.find(name).is_some();
        let weights = WEIGHTS.iter().find(|(one, _, index)| has(one) || has(index));
        if !has("config.json") || weights.is_none() {
            return Err(self.error(self.no_weights(has("config.json"))));
        }
        for name in SIDE_FILES.into_iter().filter(|name| has(name)) {
            self.file(name, MAX_SIDE_FILE, report)?;
        }
        let (one, extension, index) = weights.expect("found above");
        if has(one) {
            return Ok(BTreeSet::from([(*one).to_owned()]));
        }
        let path = self.file(index, MAX_SIDE_FILE, report)?;
        shards(&path, extension).map_err(|what| self.error(format!("{index}: {what}")))
    }

    fn no_weights(&self, has_config: bool) -> String {
        let gguf: Vec<_> =
            self.revision.files.iter().map(|f| &f.name).filter(|n| n.ends_with(".gguf")).collect();
        if let Some(first) = gguf.first() {
            let (repo, n) = (self.id.repo(), gguf.len());
            return format!("has {n} GGUF files and no others; choose one, like {repo}:{first}");
        }
        match has_config {
            false => "has no config.json, so it is no transformers model".into(),
            true => "has neither safetensors nor PyTorch weights; look for a converted copy of it"
                .into(),
        }
    }

    /// A GGUF file, with the others where it was split.
    fn gguf(&self, file: &str) -> Result<BTreeSet<String>, Error> {
        let parts = gguf::files(Path::new(file));
        let names: BTreeSet<String> =
            parts.iter().map(|p| p.to_string_lossy().into_owned()).collect();
        match names.iter().find(|name| self.find(name).is_none()) {
            None => Ok(names),
            Some(missing) => {
                let known: Vec<_> = self.revision.files.iter().map(|f| f.name.as_str()).collect();
                let known = known.into_iter().filter(|n| n.ends_with(".gguf"));
                let known: Vec<_> = known.take(20).collect();
                Err(self.error(format!("has no file {missing:?}; it has: {}", known.join(", "))))
            }
        }
    }

    /// The disk must have room for what is still to come.
    fn check_space(&self, names: &BTreeSet<String>) -> Result<(), Error> {
        let snapshot = self.hub.snapshot(self.id, self.revision);
        let missing = names.iter().filter(|name| !snapshot.join(name).exists());
        let size = |name: &String| {
            let total = self.find(name)?.size?;
            let part = self.blobs().join(self.part(name));
            Some(total.saturating_sub(fs::metadata(part).map_or(0, |m| m.len())))
        };
        let needed = missing.filter_map(size).fold(0, u64::saturating_add);
        Ok(crate::space::check(&self.hub.cache, needed)?)
    }

    fn blobs(&self) -> PathBuf {
        self.hub.folder(self.id).join("blobs")
    }

    /// Name of what has arrived of a file. A file of a commit never changes.
    fn part(&self, name: &str) -> String {
        let hash = blake3::hash(format!("{}/{name}", self.revision.commit).as_bytes());
        format!("{PART_PREFIX}{}", &hash.to_hex()[..32])
    }

    /// One file of the snapshot, downloaded if it is not here. Returns its path.
    fn file(&self, name: &str, limit: u64, report: &mut Report<'_>) -> Result<PathBuf, Error> {
        let path = self.hub.snapshot(self.id, self.revision).join(name);
        if path.exists() {
            return Ok(path);
        }
        let (hub, repo, commit) = (&self.hub.endpoint, self.id.repo(), &self.revision.commit);
        let url = format!("{hub}/{repo}/resolve/{commit}/{name}");
        let promised = self.find(name).cloned().unwrap_or_default();
        let size =
            promised.size.map_or(String::new(), |n| format!(" ({} MB)", n.div_ceil(1_000_000)));
        report(Step::Say(&format!("downloading {repo} {name}{size}")));
        let (blobs, part) = (self.blobs(), self.part(name));
        let wanted = Wanted { url: &url, blobs: &blobs, part: &part, promised: &promised, limit };
        let blob =
            download::fetch(self.client, &wanted, report).map_err(|failed| match failed {
                Failed::Io(path, e) => Error::io(&path, "cannot write")(e),
                Failed::Http(e) => self.hub.http(self.id, e),
                Failed::Status(reply) => self.hub.refusal(self.id, &reply, &url),
                Failed::Damaged(what) => self.error(format!("{name}: {what}")),
            })?;
        let depth = name.split('/').count();
        link(&blob, &path, depth).map_err(Error::io(&path, "cannot create"))?;
        Ok(path)
    }
}

/// Whether a snapshot has all that a conversion cannot do without.
fn complete(snapshot: &Path, id: &HubId) -> bool {
    let here = |name: &str| snapshot.join(name).exists();
    if let Some(file) = id.file() {
        return gguf::files(&snapshot.join(file)).iter().all(|p| p.exists());
    }
    here("config.json")
        && WEIGHTS.iter().any(|(one, extension, index)| {
            let listed = || shards(&snapshot.join(index), extension).ok();
            here(one) || here(index) && listed().is_some_and(|l| l.iter().all(|name| here(name)))
        })
}

/// The shard names of an index. They become paths, so only bare names are let through.
fn shards(index: &Path, extension: &str) -> Result<BTreeSet<String>, String> {
    let bytes = fs::read(index).map_err(|e| e.to_string())?;
    let index: Index = serde_json::from_slice(&bytes).map_err(|e| e.to_string())?;
    let names: BTreeSet<String> = index.weight_map.into_values().collect();
    if names.is_empty() || names.len() > MAX_SHARDS {
        return Err(format!("names {} shards, expected 1 to {MAX_SHARDS}", names.len()));
    }
    match names.iter().find(|n| !(is_bare_name(n) && n.ends_with(extension))) {
        Some(bad) => Err(format!("names the shard {bad:?}, expected a bare *{extension} name")),
        None => Ok(names),
    }
}

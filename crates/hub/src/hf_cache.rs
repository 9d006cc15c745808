//! Hugging Face's own cache, with the same layout and location, so that this crate and the Python
//! tools share downloads:
//!
//! ```text
//! $HF_HOME/hub/models--org--name/
//!   refs/main               the commit `main` pointed to at the last lookup
//!   blobs/<etag>            file contents; the etag of a large file is its SHA-256
//!   blobs/.part-…           partial downloads
//!   snapshots/<commit>/…    links into blobs
//! ```

use std::collections::{BTreeSet, HashMap};
use std::fs;
use std::io::Read;
use std::path::{Path, PathBuf};

use nanoinfer_packer::gguf_files;
use serde::Deserialize;

use crate::names::is_bare_name;
use crate::{Error, HubId};

/// The single-file name, shard extension and shard index of each weight format, in order of
/// preference.
pub(crate) const WEIGHTS: [(&str, &str, &str); 2] = [
    ("model.safetensors", ".safetensors", "model.safetensors.index.json"),
    ("pytorch_model.bin", ".bin", "pytorch_model.bin.index.json"),
];
/// Maximum number of shards per model.
const MAX_SHARDS: usize = 2048;

/// The local Hugging Face cache.
#[derive(Debug)]
pub(crate) struct HfCache {
    pub(crate) root: PathBuf,
}

impl HfCache {
    /// `HF_HUB_CACHE`, or else `hub` in [`hf_home`].
    ///
    /// # Errors
    /// The home folder cannot be determined.
    pub(crate) fn from_env() -> Result<Self, Error> {
        let root = hf_home()?.join("hub");
        Ok(Self { root: env_path("HF_HUB_CACHE").unwrap_or(root) })
    }

    /// A model's folder, with all its revisions.
    pub(crate) fn folder(&self, id: &HubId) -> PathBuf {
        self.root.join(id.cache_folder())
    }

    /// Folder with the files of a commit.
    pub(crate) fn snapshot(&self, id: &HubId, commit: &str) -> PathBuf {
        self.folder(id).join("snapshots").join(commit)
    }

    /// The path to convert: the folder of a commit, or the GGUF file named by `id`.
    pub(crate) fn path(&self, id: &HubId, commit: &str) -> PathBuf {
        let snapshot = self.snapshot(id, commit);
        id.file().map_or(snapshot.clone(), |file| snapshot.join(file))
    }

    /// File that contains the last known commit of the revision.
    pub(crate) fn reference(&self, id: &HubId) -> PathBuf {
        self.folder(id).join("refs").join(id.revision())
    }

    /// The last known commit of the revision. Reads one small file.
    pub(crate) fn known_commit(&self, id: &HubId) -> Option<String> {
        let mut commit = String::new();
        match id.commit() {
            Some(named) => commit.push_str(named),
            None => {
                let file = fs::File::open(self.reference(id)).ok()?;
                file.take(200).read_to_string(&mut commit).ok()?;
            }
        }
        let commit = commit.trim();
        is_bare_name(commit).then(|| commit.to_owned())
    }

    /// The last known commit, if all files needed for a conversion are present.
    pub(crate) fn complete_commit(&self, id: &HubId) -> Option<String> {
        let commit = self.known_commit(id)?;
        is_complete(&self.snapshot(id, &commit), id).then_some(commit)
    }
}

/// `HF_HOME`, or else `huggingface` in the user's cache folder.
///
/// # Errors
/// The home folder cannot be determined.
pub(crate) fn hf_home() -> Result<PathBuf, Error> {
    use etcetera::BaseStrategy;
    if let Some(home) = env_path("HF_HOME") {
        return Ok(home);
    }
    // The Python tools follow XDG on every platform.
    let base = etcetera::base_strategy::Xdg::new();
    let base = base.map_err(|e| Error::NoCache { what: e.to_string() })?;
    Ok(base.cache_dir().join("huggingface"))
}

fn env_path(name: &str) -> Option<PathBuf> {
    std::env::var_os(name).filter(|v| !v.is_empty()).map(PathBuf::from)
}

fn is_complete(snapshot: &Path, id: &HubId) -> bool {
    let exists = |name: &str| snapshot.join(name).exists();
    if let Some(file) = id.file() {
        return gguf_files(&snapshot.join(file)).iter().all(|p| p.exists());
    }
    let has_shards = |(_, extension, index): &(&str, &str, &str)| {
        let names = shards(&snapshot.join(index), extension);
        names.is_ok_and(|names| names.iter().all(|name| exists(name)))
    };
    exists("config.json") && WEIGHTS.iter().any(|weights| exists(weights.0) || has_shards(weights))
}

#[derive(Deserialize)]
struct Index {
    weight_map: HashMap<String, String>,
}

/// The shard names in an index. They become paths, so only bare names are accepted.
pub(crate) fn shards(index: &Path, extension: &str) -> Result<BTreeSet<String>, String> {
    let bytes = fs::read(index).map_err(|e| e.to_string())?;
    let index: Index = serde_json::from_slice(&bytes).map_err(|e| e.to_string())?;
    let names: BTreeSet<String> = index.weight_map.into_values().collect();
    if names.is_empty() || names.len() > MAX_SHARDS {
        return Err(format!("lists {} shards, expected 1 to {MAX_SHARDS}", names.len()));
    }
    match names.iter().find(|n| !(is_bare_name(n) && n.ends_with(extension))) {
        Some(bad) => {
            Err(format!("lists the shard {bad:?}, expected a bare *{extension} file name"))
        }
        None => Ok(names),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_interrupted_download_is_incomplete() {
        let root = tempfile::tempdir().unwrap();
        let cache = HfCache { root: root.path().into() };
        let id = HubId::parse("acme/tiny").unwrap();
        assert_eq!(cache.known_commit(&id), None);
        fs::create_dir_all(cache.reference(&id).parent().unwrap()).unwrap();
        fs::write(cache.reference(&id), "abc\n").unwrap();
        let snapshot = cache.snapshot(&id, "abc");
        fs::create_dir_all(&snapshot).unwrap();
        let index = r#"{"weight_map":{"a":"x.safetensors","b":"y.safetensors"}}"#;
        for (name, content) in [
            ("config.json", "{}"),
            ("model.safetensors.index.json", index),
            ("x.safetensors", ""),
            ("y.safetensors", ""),
        ] {
            assert_eq!(cache.complete_commit(&id), None, "before {name}");
            fs::write(snapshot.join(name), content).unwrap();
        }
        assert_eq!(cache.known_commit(&id).as_deref(), Some("abc"));
        assert_eq!(cache.complete_commit(&id).as_deref(), Some("abc"));
        assert_eq!(cache.path(&id, "abc"), snapshot);

        let file = HubId::parse("acme/tiny:q8/a.gguf").unwrap();
        assert_eq!(cache.complete_commit(&file), None);
        fs::create_dir(snapshot.join("q8")).unwrap();
        fs::write(snapshot.join("q8/a.gguf"), "").unwrap();
        assert_eq!(cache.complete_commit(&file).as_deref(), Some("abc"));
        assert_eq!(cache.path(&file, "abc"), snapshot.join("q8/a.gguf"));
    }

    #[test]
    fn a_ref_cannot_escape_the_cache() {
        let root = tempfile::tempdir().unwrap();
        let cache = HfCache { root: root.path().into() };
        let id = HubId::parse("acme/tiny").unwrap();
        fs::create_dir_all(cache.reference(&id).parent().unwrap()).unwrap();
        fs::write(cache.reference(&id), "../../../evil").unwrap();
        assert_eq!(cache.known_commit(&id), None);
    }
}

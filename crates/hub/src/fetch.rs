//! The permission to download, as a trait that the caller implements or chooses.

use std::path::{Path, PathBuf};

use crate::hf_cache::HfCache;
use crate::pinned::Cached;
use crate::{Error, HubId, Pinned, StatusFn};

/// A model that is published elsewhere.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Published<'a> {
    /// On the Hugging Face hub.
    Hub(&'a HubId),
    /// Known by a short name and an exact hash.
    Pinned(&'static Pinned),
}

/// The files of a published model, on this machine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fetched {
    /// A Hugging Face folder or a GGUF file.
    pub path: PathBuf,
    /// The exact version: the commit of a hub model, the SHA-256 of a pinned one. Part of the
    /// converted file's cache key.
    pub version: String,
}

/// Downloads published models. Passing one to a [`Store`](crate::Store) permits downloads.
pub trait Fetch {
    /// Brings the newest version of `model` to this machine, or confirms that it is present.
    ///
    /// `folder`, which may not exist yet, is reserved for this model's files and locked by the
    /// caller; an implementation with a cache of its own ignores it.
    ///
    /// # Errors
    /// The model cannot be reached or downloaded, or arrives damaged.
    fn fetch(
        &self,
        model: Published<'_>,
        folder: &Path,
        status: &mut StatusFn<'_>,
    ) -> Result<Fetched, Error>;

    /// The version fetched last, without network access; `None` if only the network could tell.
    ///
    /// By default the commit in Hugging Face's cache, or the hash of a pinned model.
    ///
    /// # Errors
    /// The cache cannot be located.
    fn known_version(&self, model: Published<'_>) -> Result<Option<String>, Error> {
        match model {
            Published::Hub(id) => Ok(HfCache::from_env()?.known_commit(id)),
            Published::Pinned(pinned) => Ok(Some(pinned.sha256.into())),
        }
    }
}

/// Stands in for the [`Fetch`] of a caller that allows no downloads.
pub(crate) struct CacheOnly;

impl Fetch for CacheOnly {
    fn fetch(
        &self,
        model: Published<'_>,
        folder: &Path,
        _: &mut StatusFn<'_>,
    ) -> Result<Fetched, Error> {
        let not_cached = |model: &str| Error::NotCached { model: model.into() };
        match model {
            Published::Hub(id) => {
                let cache = HfCache::from_env()?;
                let version =
                    cache.complete_commit(id).ok_or_else(|| not_cached(&id.to_string()))?;
                Ok(Fetched { path: cache.path(id, &version), version })
            }
            Published::Pinned(pinned) => match pinned.cached(folder)? {
                Cached::Sound(path) => Ok(Fetched { path, version: pinned.sha256.into() }),
                Cached::Damaged | Cached::Absent => Err(not_cached(pinned.alias)),
            },
        }
    }
}

//! The trait that grants permission to download: callers implement it or choose a provided
//! implementation.

use std::path::{Path, PathBuf};

use crate::hf_cache::HfCache;
use crate::pinned::Cached;
use crate::{Error, HubId, Pinned, StatusFn};

/// A model that is published elsewhere.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Published<'a> {
    /// On the Hugging Face hub.
    Hub(&'a HubId),
    /// Known by an alias and a fixed hash.
    Pinned(&'static Pinned),
}

/// The local files of a published model.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fetched {
    /// A Hugging Face folder or a GGUF file.
    pub path: PathBuf,
    /// The exact version: the commit of a hub model, or the SHA-256 of a pinned model. Part of the
    /// converted file's cache key.
    pub version: String,
}

/// Downloads published models. Passing an implementation to a [`Store`](crate::Store) permits
/// downloads.
pub trait Fetch {
    /// Downloads the newest version of `model`, or confirms that it is already present.
    ///
    /// `folder`, which may not exist yet, is reserved for this model's files and locked by the
    /// caller; an implementation with its own cache ignores it.
    ///
    /// # Errors
    /// The model cannot be downloaded, or the download is damaged.
    fn fetch(
        &self,
        model: Published<'_>,
        folder: &Path,
        status: &mut StatusFn<'_>,
    ) -> Result<Fetched, Error>;

    /// The last fetched version, determined without network access; `None` if that is impossible.
    ///
    /// By default, this is the commit in Hugging Face's cache or the hash of a pinned model.
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

/// Replaces the [`Fetch`] of a caller that does not allow downloads.
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
                Cached::Intact(path) => Ok(Fetched { path, version: pinned.sha256.into() }),
                Cached::Damaged | Cached::Absent => Err(not_cached(pinned.alias)),
            },
        }
    }
}

//! A folder of stored prompts.

use std::fs::{self, File};
use std::io::{BufReader, Write};
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use nanoinfer_kernels::BLOCK;
use nanoinfer_platform::file::{NamedTempFile, Readers, temp_in};

use super::{Kind, write};
use crate::memory::{IDENTITY, Prefix};
use crate::{Engine, Error, Namespace, SeqId};

/// Extension of the store's files; other files in the folder are left alone.
const EXTENSION: &str = "nkv";
/// Minimum number of positions that an entry must save to be worth reading or writing.
const WORTH: usize = 16;

/// Prompts on disk, with their keys and values.
///
/// Files are readable only by their owner and written atomically, and every byte used is verified.
/// Entries that are damaged or belong to another model are never used.
#[derive(Clone, Debug)]
pub struct PrefixStore {
    folder: PathBuf,
    limit: u64,
}

/// A file in the folder.
struct Entry {
    path: PathBuf,
    bytes: u64,
    used: SystemTime,
}

impl PrefixStore {
    /// Opens a folder, creating it if missing, and keeps it below `limit` bytes by removing the least
    /// recently used entries.
    pub fn open(folder: &Path, limit: u64) -> std::io::Result<Self> {
        fs::create_dir_all(folder)?;
        Ok(Self { folder: folder.into(), limit })
    }

    /// The entries whose names start with `key`.
    fn entries(&self, key: &str) -> Vec<Entry> {
        let files = fs::read_dir(&self.folder).into_iter().flatten().flatten();
        let entry = |file: fs::DirEntry| {
            let (path, data) = (file.path(), file.metadata().ok()?);
            let ours = path.extension().is_some_and(|e| e == EXTENSION) && data.is_file();
            let named = path.file_name()?.to_str()?.starts_with(key);
            let used = data.modified().unwrap_or(SystemTime::UNIX_EPOCH);
            (ours && named).then_some(Entry { path, bytes: data.len(), used })
        };
        files.filter_map(entry).collect()
    }

    /// The entries of this kind, with their headers, and notes on unreadable ones.
    pub(super) fn list(&self, kind: &Kind) -> (Vec<(PathBuf, Prefix)>, Vec<String>) {
        let (mut found, mut notes) = (Vec::new(), Vec::new());
        for entry in self.entries(&key(&kind.identity)) {
            let read = File::open(&entry.path).and_then(|f| Prefix::read(&mut BufReader::new(f)));
            let read = read.map_err(|e| e.to_string());
            match read.and_then(|prefix| prefix.check(kind).map(|()| prefix)) {
                Ok(prefix) => found.push((entry.path, prefix)),
                Err(what) => notes.push(ignored(&entry.path, &what)),
            }
        }
        (found, notes)
    }

    /// Loads the entry that shares the longest prefix with `tokens` if that prefix is longer than the
    /// sequence. Returns notes on unusable entries.
    pub(crate) fn load(
        &self,
        engine: &mut Engine,
        seq: SeqId,
        tokens: &[u32],
    ) -> Result<Vec<String>, Error> {
        let kind = Kind::of(engine);
        let tokens = &tokens[..tokens.len().min(engine.ctx())];
        let (mut entries, mut notes) = self.list(&kind);
        let namespace = engine.namespace(seq)?;
        entries.retain(|(_, prefix)| prefix.namespace == namespace);
        entries.sort_by_key(|(_, prefix)| std::cmp::Reverse(prefix.common(tokens)));
        for (path, prefix) in entries {
            let (n, held) = (prefix.common(tokens), engine.len(seq)?);
            if n < held + WORTH {
                break;
            }
            let loaded = File::open(&path).map_err(|e| e.to_string()).and_then(|file| {
                // Large reads bypass the buffer and go straight to where they are hashed.
                let mut file = BufReader::new(file);
                Prefix::read(&mut file).map_err(|e| e.to_string())?;
                prefix.load(engine.cache_mut(), &kind, (seq, n), &mut file)
            });
            match loaded {
                Ok(()) => {
                    touch(&path);
                    break;
                }
                Err(what) => notes.push(ignored(&path, &what)),
            }
            // The attempt may have cleared the sequence, but its content may still be in the cache.
            if held > 0 {
                engine.share(seq, tokens)?;
            }
        }
        Ok(notes)
    }

    /// Saves the content of a sequence, `tokens`, replacing entries that are prefixes of it. In models with
    /// recurrent layers, this is as much as its state covers.
    pub(crate) fn save(
        &self,
        engine: &mut Engine,
        seq: SeqId,
        tokens: &[u32],
    ) -> Result<(), String> {
        let evicted = engine.evicted(seq).map_err(|e| e.to_string())?;
        let covered = engine.cache().covered(seq).map_err(|e| e.to_string())?;
        let tokens = &tokens[..tokens.len().min(covered)];
        if evicted > 0 || tokens.len() < WORTH {
            return Ok(());
        }
        let mut replaced = Vec::new();
        let namespace = engine.namespace(seq).map_err(|e| e.to_string())?;
        let kind = Kind::of(engine);
        for (path, prefix) in self.list(&kind).0 {
            if prefix.namespace != namespace {
                continue;
            }
            let common = prefix.common(tokens);
            if common + WORTH > tokens.len() {
                touch(&path);
                return Ok(());
            }
            if tokens.starts_with(&prefix.tokens) {
                replaced.push(path);
            }
        }
        let path = self.path(&kind, (namespace, tokens));
        let blocks = (tokens.len().div_ceil(BLOCK) * kind.block) as u64;
        let bytes = blocks + engine.cache().known_states(namespace, tokens) + kind.state as u64;
        if bytes > self.limit {
            let (mb, limit) = (bytes >> 20, self.limit >> 20);
            return Err(format!(
                "the prompt was not stored: it needs {mb} MB, but the store is limited to {limit} MB"
            ));
        }
        self.write(engine, &kind, (seq, tokens), &path).map_err(|e| {
            format!("{}: cannot write: {e}; the prompt was not stored", path.display())
        })?;
        self.make_room(&path, replaced);
        Ok(())
    }

    /// The file of an entry.
    pub(super) fn path(&self, kind: &Kind, context: (Namespace, &[u32])) -> PathBuf {
        self.folder.join(format!("{}-{}.{EXTENSION}", key(&kind.identity), hash_of(context)))
    }

    /// Whether an entry of this size may be written.
    pub(super) fn admits(&self, bytes: u64) -> bool {
        bytes <= self.limit
    }

    /// Removes the entries that the one at `path` replaces, and the least recently used ones that exceed the
    /// limit. Returns all of these.
    pub(super) fn make_room(&self, path: &Path, replaced: Vec<PathBuf>) -> Vec<PathBuf> {
        let mut removed = replaced;
        removed.retain(|old| old != path);
        for old in &removed {
            let _ = fs::remove_file(old); // another process may have removed it
        }
        self.shrink(&mut removed);
        removed
    }

    fn write(
        &self,
        engine: &mut Engine,
        kind: &Kind,
        content: (SeqId, &[u32]),
        path: &Path,
    ) -> std::io::Result<()> {
        let mut temp = self.temp()?;
        write(engine.cache_mut(), kind, content, "", temp.as_file_mut())?;
        self.commit(temp, path)
    }

    /// A file for a new entry.
    pub(super) fn temp(&self) -> std::io::Result<NamedTempFile> {
        // Owner-only from the moment of creation: a prompt can be private.
        temp_in(&self.folder, ".tmp-", Readers::Owner)
    }

    /// Makes a complete entry durable, and visible.
    pub(super) fn commit(&self, mut temp: NamedTempFile, path: &Path) -> std::io::Result<()> {
        temp.as_file_mut().flush()?;
        // The kernel's timestamp is coarse and can precede that of an earlier `touch`.
        temp.as_file().set_modified(SystemTime::now())?;
        temp.as_file().sync_all()?;
        temp.persist(path)?;
        Ok(())
    }

    /// Removes the least recently used entries until the rest fit within the limit.
    fn shrink(&self, removed: &mut Vec<PathBuf>) {
        let mut entries = self.entries("");
        entries.sort_by_key(|e| e.used);
        let mut bytes: u64 = entries.iter().map(|e| e.bytes).sum();
        for entry in entries {
            if bytes <= self.limit {
                break;
            }
            if fs::remove_file(&entry.path).is_ok() {
                bytes -= entry.bytes;
                removed.push(entry.path);
            }
        }
    }
}

pub(super) fn ignored(path: &Path, what: &str) -> String {
    format!("{}: {what}; the file is ignored and the prompt is recomputed", path.display())
}

/// Marks an entry as recently used.
pub(super) fn touch(path: &Path) {
    // A read-only store can still be used for reading.
    let _ = File::options().write(true).open(path).and_then(|f| f.set_modified(SystemTime::now()));
}

/// The filename prefix of the entries for engines with this identity.
fn key(identity: &[u8; IDENTITY]) -> String {
    blake3::hash(identity).to_hex()[..16].to_owned()
}

fn hash_of((namespace, tokens): (Namespace, &[u32])) -> String {
    let mut hasher = blake3::Hasher::new();
    if namespace != Namespace::COMMON {
        hasher.update(&namespace.0.to_le_bytes());
    }
    for token in tokens {
        hasher.update(&token.to_le_bytes());
    }
    hasher.finalize().to_hex()[..16].to_owned()
}

//! A folder of stored prompts.

use std::fs::{self, File};
use std::io::{BufReader, Write};
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use nanoinfer_platform::file::{Readers, temp_in};

use super::{identity, write};
use crate::memory::Prefix;
use crate::{Engine, Error, SeqId};

/// Extension of the store's files; other files in the folder are left alone.
const EXTENSION: &str = "nkv";
/// Minimum number of positions that an entry must save to be worth reading or writing.
const WORTH: usize = 16;

/// Prompts on disk, with their keys and values.
///
/// Files are readable only by their owner and written atomically, and every byte used is verified.
/// Entries that are damaged or belong to another model are never used.
#[derive(Debug)]
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

    /// An engine's entries with their headers, and notes on unreadable ones.
    fn read(&self, engine: &Engine) -> (Vec<(PathBuf, Prefix)>, Vec<String>) {
        let (mut found, mut notes) = (Vec::new(), Vec::new());
        for entry in self.entries(&key(engine)) {
            let read = File::open(&entry.path).and_then(|f| Prefix::read(&mut BufReader::new(f)));
            match read {
                Ok(prefix) => found.push((entry.path, prefix)),
                Err(e) => notes.push(ignored(&entry.path, &e.to_string())),
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
        let (mut entries, mut notes) = self.read(engine);
        entries.sort_by_key(|(_, prefix)| std::cmp::Reverse(prefix.common(tokens)));
        for (path, prefix) in entries {
            let n = prefix.common(tokens).min(engine.ctx());
            let (held, identity) = (engine.len(seq)?, identity(engine));
            if n < held + WORTH {
                break;
            }
            let loaded = File::open(&path).map_err(|e| e.to_string()).and_then(|file| {
                // Large reads bypass the buffer and go straight to where they are hashed.
                let mut file = BufReader::new(file);
                Prefix::read(&mut file).map_err(|e| e.to_string())?;
                prefix.load(engine.cache_mut(), &identity, (seq, n), &mut file)
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

    /// Saves the content of a sequence, `tokens`, replacing entries that are prefixes of it.
    pub(crate) fn save(
        &self,
        engine: &mut Engine,
        seq: SeqId,
        tokens: &[u32],
    ) -> Result<(), String> {
        let evicted = engine.evicted(seq).map_err(|e| e.to_string())?;
        if evicted > 0 || tokens.len() < WORTH {
            return Ok(());
        }
        let mut replaced = Vec::new();
        for (path, prefix) in self.read(engine).0 {
            let common = prefix.common(tokens);
            if common + WORTH > tokens.len() {
                touch(&path);
                return Ok(());
            }
            if common == prefix.tokens.len() {
                replaced.push(path);
            }
        }
        let name = format!("{}-{}.{EXTENSION}", key(engine), hash_of(tokens));
        let path = self.folder.join(name);
        let bytes = tokens.len().next_multiple_of(64) as u64 * engine.kv_bytes_per_position();
        if bytes > self.limit {
            let (mb, limit) = (bytes >> 20, self.limit >> 20);
            return Err(format!(
                "the prompt was not stored: it needs {mb} MB, but the store is limited to {limit} MB"
            ));
        }
        self.write(engine, (seq, tokens), &path).map_err(|e| {
            format!("{}: cannot write: {e}; the prompt was not stored", path.display())
        })?;
        for old in replaced.iter().filter(|old| **old != path) {
            let _ = fs::remove_file(old); // another process may have removed it
        }
        self.shrink();
        Ok(())
    }

    fn write(
        &self,
        engine: &mut Engine,
        content: (SeqId, &[u32]),
        path: &Path,
    ) -> std::io::Result<()> {
        // Owner-only from the moment of creation: a prompt can be private.
        let mut temp = temp_in(&self.folder, ".tmp-", Readers::Owner)?;
        let identity = identity(engine);
        write(engine.cache_mut(), &identity, content, "", temp.as_file_mut())?;
        temp.as_file_mut().flush()?;
        // The kernel's timestamp is coarse and can precede that of an earlier `touch`.
        temp.as_file().set_modified(SystemTime::now())?;
        temp.as_file().sync_all()?;
        temp.persist(path)?;
        Ok(())
    }

    /// Removes the least recently used entries until the rest fit within the limit.
    fn shrink(&self) {
        let mut entries = self.entries("");
        entries.sort_by_key(|e| e.used);
        let mut bytes: u64 = entries.iter().map(|e| e.bytes).sum();
        for entry in entries {
            if bytes <= self.limit {
                break;
            }
            if fs::remove_file(&entry.path).is_ok() {
                bytes -= entry.bytes;
            }
        }
    }
}

fn ignored(path: &Path, what: &str) -> String {
    format!("{}: {what}; the file is ignored and the prompt is recomputed", path.display())
}

/// Marks an entry as recently used.
fn touch(path: &Path) {
    // A read-only store can still be used for reading.
    let _ = File::options().write(true).open(path).and_then(|f| f.set_modified(SystemTime::now()));
}

/// The filename prefix of an engine's entries.
fn key(engine: &Engine) -> String {
    blake3::hash(&identity(engine)).to_hex()[..16].to_owned()
}

fn hash_of(tokens: &[u32]) -> String {
    let mut hasher = blake3::Hasher::new();
    for token in tokens {
        hasher.update(&token.to_le_bytes());
    }
    hasher.finalize().to_hex()[..16].to_owned()
}

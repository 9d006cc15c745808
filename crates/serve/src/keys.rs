//! Keys: who may send requests, how many, and of how many tokens.

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use nanoinfer_engine::{Class, Namespace};

/// A file with keys that cannot be used.
#[derive(Debug, thiserror::Error)]
#[error("{}: {}{what}", path.display(), at(*line))]
pub struct KeysError {
    /// The file.
    pub path: PathBuf,
    /// The line, counted from 1; 0 if the error is about the whole file.
    pub line: usize,
    /// The reason.
    pub what: String,
}

fn at(line: usize) -> String {
    if line == 0 { String::new() } else { format!("line {line}: ") }
}

/// A client that may send requests.
#[derive(Clone, Debug)]
pub struct Key {
    /// Its name in log lines.
    pub name: String,
    /// How urgent its requests can be.
    pub class: Class,
    /// Maximum number of requests at once; further ones are refused.
    pub requests: Option<usize>,
    /// Maximum number of tokens per minute, of prompts and answers.
    pub tokens: Option<u32>,
    secret: Secret,
}

impl Key {
    /// The namespace of its contexts, which is the same in every process.
    pub(crate) fn namespace(&self) -> Namespace {
        let hash = blake3::hash(self.name.as_bytes());
        let first = hash.as_bytes().first_chunk().expect("32 bytes");
        Namespace(u64::from_le_bytes(*first).max(1)) // 0 is common
    }
}

/// The hash of a key.
#[derive(Clone)]
struct Secret(blake3::Hash);

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("…")
    }
}

/// The keys of a server.
///
/// A file has a key per line: a name, the key or its BLAKE3 hash, and optional limits.
///
/// ```text
/// # name   key                        limits
/// alice    sk-alice-8f2a…             requests=4 tokens=60000
/// batch    blake3:6437b3ac38465133…   class=background
/// ```
#[derive(Clone, Debug, Default)]
pub struct Keys(Vec<Key>);

impl Keys {
    /// Reads a file with keys.
    ///
    /// # Errors
    /// The file cannot be read, or a line is malformed.
    pub fn read(path: &Path) -> Result<Self, KeysError> {
        let error = |line, what: String| KeysError { path: path.to_path_buf(), line, what };
        let text = std::fs::read_to_string(path).map_err(|e| error(0, e.to_string()))?;
        Self::parse(&text).map_err(|(line, what)| error(line, what))
    }

    /// Reads the lines of such a file.
    ///
    /// # Errors
    /// The number of a malformed line and what is wrong with it, or 0 if there is no key at all.
    pub fn parse(text: &str) -> Result<Self, (usize, String)> {
        let mut keys: Vec<Key> = Vec::new();
        let lines = text.lines().zip(1..).map(|(line, n)| (line.trim(), n));
        for (line, n) in lines.filter(|(line, _)| !line.is_empty() && !line.starts_with('#')) {
            let key = key(line).map_err(|what| (n, what))?;
            if keys.iter().any(|k| k.name == key.name || k.secret.0 == key.secret.0) {
                return Err((n, "the name or key occurs twice; remove one of the lines".into()));
            }
            keys.push(key);
        }
        if keys.is_empty() {
            return Err((0, "no key; add a line with a name and a key".into()));
        }
        Ok(Self(keys))
    }

    /// The index of the key with this secret. Takes the same time wherever it differs: hashes are compared
    /// in constant time, and all of them.
    pub(crate) fn find(&self, secret: &[u8]) -> Option<usize> {
        let hash = blake3::hash(secret);
        let mut found = None;
        for (i, key) in self.0.iter().enumerate() {
            if key.secret.0 == hash {
                found = Some(i);
            }
        }
        found
    }

    pub(crate) fn get(&self, index: usize) -> &Key {
        &self.0[index]
    }

    pub(crate) fn len(&self) -> usize {
        self.0.len()
    }
}

fn key(line: &str) -> Result<Key, String> {
    let mut words = line.split_whitespace();
    let (Some(name), Some(secret)) = (words.next(), words.next()) else {
        return Err("expected a name and a key".into());
    };
    let hash = match secret.strip_prefix("blake3:") {
        Some(hex) => blake3::Hash::from_hex(hex)
            .map_err(|_| "blake3: needs 64 hexadecimal digits".to_owned())?,
        None if secret.len() < 16 => return Err("the key is shorter than 16 characters".into()),
        None => blake3::hash(secret.as_bytes()),
    };
    let mut key = Key {
        name: name.to_owned(),
        class: Class::Interactive,
        requests: None,
        tokens: None,
        secret: Secret(hash),
    };
    for word in words {
        match word.split_once('=') {
            Some(("class", "interactive")) => key.class = Class::Interactive,
            Some(("class", "normal")) => key.class = Class::Normal,
            Some(("class", "background")) => key.class = Class::Background,
            Some(("requests", n)) if n.parse::<usize>().is_ok_and(|n| n > 0) => {
                key.requests = n.parse().ok();
            }
            Some(("tokens", n)) if n.parse::<u32>().is_ok_and(|n| n > 0) => {
                key.tokens = n.parse().ok();
            }
            _ => {
                return Err(format!(
                    "{word}: expected requests=N, tokens=N (per minute), or class=interactive, normal or \
                     background"
                ));
            }
        }
    }
    Ok(key)
}

/// What a key uses.
#[derive(Debug)]
pub(crate) struct Usage {
    requests: AtomicUsize,
    tokens: Option<Mutex<Bucket>>,
}

impl Usage {
    pub(crate) fn new(key: &Key, now: Instant) -> Self {
        let bucket = |per_minute| Mutex::new(Bucket::new(per_minute, now));
        Self { requests: AtomicUsize::new(0), tokens: key.tokens.map(bucket) }
    }

    /// Counts a request that begins. Returns the number of others.
    pub(crate) fn begin(&self) -> usize {
        self.requests.fetch_add(1, Ordering::Relaxed)
    }

    /// Counts a request that ends.
    pub(crate) fn end(&self) {
        self.requests.fetch_sub(1, Ordering::Relaxed);
    }

    fn bucket(&self) -> Option<MutexGuard<'_, Bucket>> {
        let bucket = self.tokens.as_ref()?;
        Some(bucket.lock().unwrap_or_else(PoisonError::into_inner)) // every update leaves it whole
    }

    /// Takes the tokens of a prompt.
    ///
    /// # Errors
    /// The time after which there will be enough.
    pub(crate) fn take(&self, tokens: usize, now: Instant) -> Result<(), Duration> {
        self.bucket().map_or(Ok(()), |mut bucket| bucket.take(tokens, now))
    }

    /// Takes tokens that have been generated; what is missing is made up for before the next request.
    pub(crate) fn pay(&self, tokens: usize, now: Instant) {
        if let Some(mut bucket) = self.bucket() {
            bucket.pay(tokens, now);
        }
    }

    /// Gives back the tokens of a prompt that was refused.
    pub(crate) fn give_back(&self, tokens: usize) {
        if let Some(mut bucket) = self.bucket() {
            bucket.left = (bucket.left + tokens as f64).min(bucket.per_minute);
        }
    }

    /// How many tokens may be used, if they are limited.
    pub(crate) fn allowance(&self, now: Instant) -> Option<Allowance> {
        Some(self.bucket()?.allowance(now))
    }
}

/// A limit on tokens, and what is left of it.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(crate) struct Allowance {
    /// Tokens per minute.
    pub(crate) limit: u64,
    pub(crate) left: u64,
    /// Time until all of it is left.
    pub(crate) reset: Duration,
}

/// Tokens that may be used, which come back evenly within a minute.
#[derive(Debug)]
struct Bucket {
    per_minute: f64,
    /// Negative if answers took more.
    left: f64,
    /// When `left` was computed.
    at: Instant,
}

impl Bucket {
    fn new(per_minute: u32, now: Instant) -> Self {
        let per_minute = f64::from(per_minute);
        Self { per_minute, left: per_minute, at: now }
    }

    fn fill(&mut self, now: Instant) {
        let minutes = now.saturating_duration_since(self.at).as_secs_f64() / 60.0;
        self.left = (self.left + minutes * self.per_minute).min(self.per_minute);
        self.at = self.at.max(now);
    }

    /// Time until so many are left.
    fn wait(&self, tokens: f64) -> Duration {
        let minutes = ((tokens - self.left) / self.per_minute).max(0.0);
        Duration::try_from_secs_f64(60.0 * minutes).unwrap_or(Duration::MAX)
    }

    fn take(&mut self, tokens: usize, now: Instant) -> Result<(), Duration> {
        self.fill(now);
        // A prompt that is longer than the limit needs all of it, and is paid off later.
        let needed = (tokens as f64).min(self.per_minute);
        if self.left < needed {
            return Err(self.wait(needed));
        }
        self.left -= tokens as f64;
        Ok(())
    }

    fn pay(&mut self, tokens: usize, now: Instant) {
        self.fill(now);
        self.left -= tokens as f64;
    }

    fn allowance(&mut self, now: Instant) -> Allowance {
        self.fill(now);
        let reset = self.wait(self.per_minute);
        Allowance { limit: self.per_minute as u64, left: self.left.max(0.0) as u64, reset }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_has_a_key_per_line() {
        let hash = blake3::hash(b"the key of the batch").to_hex();
        let text = format!(
            "# people\nann 0123456789abcdef requests=2 tokens=600\n\nbatch blake3:{hash} class=background\n"
        );
        let keys = Keys::parse(&text).unwrap();
        assert_eq!(keys.find(b"0123456789abcdef"), Some(0));
        assert_eq!(keys.find(b"the key of the batch"), Some(1));
        assert_eq!(keys.find(b"0123456789abcdeF"), None);
        assert_eq!((keys.get(0).requests, keys.get(1).class), (Some(2), Class::Background));
        assert_eq!((keys.get(0).tokens, keys.get(1).tokens), (Some(600), None));
        assert!(!format!("{keys:?}").contains(&*hash), "a key in a debug output");
    }

    #[test]
    fn errors_about_the_whole_file_name_no_line() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("keys");
        for text in [None, Some("# nobody")] {
            text.iter().for_each(|text| std::fs::write(&path, text).unwrap());
            let error = Keys::read(&path).unwrap_err().to_string();
            assert!(error.starts_with(path.to_str().unwrap()), "{error}");
            assert!(!error.contains("line 0"), "{error}");
        }
    }

    #[test]
    fn errors_name_the_line() {
        for (text, line, part) in [
            ("", 0, "no key"),
            ("ann", 1, "a name and a key"),
            ("\nann short", 2, "shorter"),
            ("ann blake3:12", 1, "hexadecimal"),
            ("ann 0123456789abcdef speed=9", 1, "speed=9"),
            ("ann 0123456789abcdef requests=0", 1, "requests=0"),
            ("ann 0123456789abcdef tokens=0", 1, "tokens=0"),
            ("ann 0123456789abcdef tokens=1e9", 1, "tokens=1e9"),
            ("ann 0123456789abcdef\nbob 0123456789abcdef", 2, "twice"),
        ] {
            let (at, what) = Keys::parse(text).unwrap_err();
            assert!(at == line && what.contains(part), "{text:?}: {at}: {what}");
        }
    }

    #[test]
    fn tokens_come_back_evenly_within_a_minute() {
        let start = Instant::now();
        let at = |seconds| start + Duration::from_secs_f64(seconds);
        let key = key("ann 0123456789abcdef tokens=600").unwrap(); // ten a second
        let usage = Usage::new(&key, start);
        let allowance = |seconds| usage.allowance(at(seconds)).map(|a| (a.limit, a.left, a.reset));
        let secs = Duration::from_secs;
        assert_eq!(allowance(0.0), Some((600, 600, secs(0))));
        assert_eq!(usage.take(500, at(0.0)), Ok(()));
        assert_eq!(allowance(0.0), Some((600, 100, secs(50))));
        assert_eq!(usage.take(150, at(0.0)), Err(secs(5)), "nothing is taken");
        assert_eq!(usage.take(150, at(5.0)), Ok(()));
        usage.pay(40, at(5.0));
        assert_eq!(allowance(5.0), Some((600, 0, secs(64))), "the answer took more than was left");
        assert_eq!(usage.take(1, at(9.0)), Err(Duration::from_millis(100)));
        assert_eq!(usage.take(1, at(9.1)), Ok(()));
        assert_eq!(allowance(1000.0), Some((600, 600, secs(0))), "no more than a minute is saved");
        assert_eq!(usage.take(900, at(1000.0)), Ok(()), "longer than the limit");
        assert_eq!(usage.take(10, at(1000.0)), Err(secs(31)));
        usage.give_back(900);
        assert_eq!(allowance(1000.0), Some((600, 600, secs(0))));
        assert_eq!(allowance(990.0), Some((600, 600, secs(0))), "clocks of two threads");
    }

    #[test]
    fn without_a_limit_nothing_is_counted() {
        let now = Instant::now();
        let usage = Usage::new(&key("ann 0123456789abcdef").unwrap(), now);
        assert_eq!(usage.take(usize::MAX, now), Ok(()));
        assert_eq!(usage.allowance(now), None);
    }

    #[test]
    fn namespaces_depend_on_the_name_alone() {
        let of = |line: &str| key(line).unwrap().namespace();
        assert_eq!(of("ann 0123456789abcdef"), of("ann a_new_secret_of_hers requests=3"));
        assert_ne!(of("ann 0123456789abcdef"), of("bob 0123456789abcdef"));
        assert_ne!(of("ann 0123456789abcdef"), Namespace::COMMON);
    }
}

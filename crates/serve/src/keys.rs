//! Keys: who may send requests, and how many.

use std::fmt;
use std::path::{Path, PathBuf};

use nanoinfer_engine::Class;

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
    secret: Secret,
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
/// alice    sk-alice-8f2a…             requests=4
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
            _ => {
                return Err(format!(
                    "{word}: expected requests=N or class=interactive, normal or background"
                ));
            }
        }
    }
    Ok(key)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_has_a_key_per_line() {
        let hash = blake3::hash(b"the key of the batch").to_hex();
        let text = format!(
            "# people\nann 0123456789abcdef requests=2\n\nbatch blake3:{hash} class=background\n"
        );
        let keys = Keys::parse(&text).unwrap();
        assert_eq!(keys.find(b"0123456789abcdef"), Some(0));
        assert_eq!(keys.find(b"the key of the batch"), Some(1));
        assert_eq!(keys.find(b"0123456789abcdeF"), None);
        assert_eq!((keys.get(0).requests, keys.get(1).class), (Some(2), Class::Background));
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
            ("ann 0123456789abcdef\nbob 0123456789abcdef", 2, "twice"),
        ] {
            let (at, what) = Keys::parse(text).unwrap_err();
            assert!(at == line && what.contains(part), "{text:?}: {at}: {what}");
        }
    }
}

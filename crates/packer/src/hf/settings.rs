//! Settings in JSON files. Reading a setting returns `None` if it is absent, and an error that
//! names it if it has the wrong type.

use std::path::{Path, PathBuf};

use serde_json::{Map, Value};

use crate::Error;
use crate::source::SourceFile;

/// Maximum size of a text file; the largest published tokenizers are about 40 MB.
const MAX_TEXT: u64 = 512 << 20;

/// A JSON object in a source file. `null` counts as absent, as in transformers.
pub(crate) struct Settings {
    path: PathBuf,
    /// Prefix of setting names in messages, such as `rope_scaling.`.
    within: String,
    map: Map<String, Value>,
}

/// Reads a text file of at most [`MAX_TEXT`] bytes, without a byte order mark.
pub(crate) fn read_text(path: &Path) -> Result<String, Error> {
    let mut bytes = read_bytes(path)?;
    if bytes.starts_with(b"\xff\xfe") || bytes.starts_with(b"\xfe\xff") {
        return Err(Error::source(path, "is UTF-16 text, expected UTF-8; save it as UTF-8"));
    }
    let mark = if bytes.starts_with(b"\xef\xbb\xbf") { 3 } else { 0 };
    bytes.drain(..mark);
    String::from_utf8(bytes).map_err(|e| Error::source(path, format!("is not UTF-8: {e}")))
}

/// Reads a file of at most [`MAX_TEXT`] bytes.
pub(crate) fn read_bytes(path: &Path) -> Result<Vec<u8>, Error> {
    let file = SourceFile::open(path)?;
    if file.len > MAX_TEXT {
        let what = format!("is {} bytes long, expected at most {MAX_TEXT}", file.len);
        return Err(Error::source(path, what));
    }
    let mut bytes = vec![0; file.len as usize];
    file.read_at(0, &mut bytes)?;
    Ok(bytes)
}

impl Settings {
    /// Reads a file that contains one JSON object.
    pub(crate) fn read(path: &Path) -> Result<Self, Error> {
        let map = serde_json::from_str(&read_text(path)?).map_err(|e| {
            let next = if e.is_eof() { "; is the file complete?" } else { "" };
            Error::source(path, format!("is not a JSON object: {e}{next}"))
        })?;
        Ok(Self::of(path, map))
    }

    /// The settings in a JSON object of a file.
    pub(crate) fn of(path: &Path, map: Map<String, Value>) -> Self {
        Self { path: path.into(), within: String::new(), map }
    }

    /// All settings, with their values as JSON, truncated if long.
    pub(crate) fn entries(&self) -> Vec<(String, String)> {
        self.map.iter().map(|(key, value)| (key.clone(), shown(value))).collect()
    }

    /// The names of all settings.
    pub(crate) fn keys(&self) -> impl Iterator<Item = &str> {
        self.map.keys().map(String::as_str)
    }

    /// The JSON object, including settings that are `null`.
    pub(super) fn map(&self) -> &Map<String, Value> {
        &self.map
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// An error about a setting; the message is the setting's name followed by `what`.
    pub(crate) fn error(&self, key: &str, what: impl Into<String>) -> Error {
        let field = format!("{}{key}", self.within);
        Error::Setting { path: self.path.clone(), field, what: what.into() }
    }

    /// An error about a feature that this version does not support.
    pub(crate) fn unsupported(&self, what: impl Into<String>, next: &str) -> Error {
        Error::Unsupported { path: self.path.clone(), what: what.into(), next: next.into() }
    }

    /// The value of a setting that is present and not `null`.
    pub(crate) fn get(&self, key: &str) -> Option<&Value> {
        self.map.get(key).filter(|v| !v.is_null())
    }

    /// Whether the setting is present, even as `null`.
    pub(crate) fn has(&self, key: &str) -> bool {
        self.map.contains_key(key)
    }

    fn typed<'a, T>(
        &'a self,
        key: &str,
        expected: &str,
        read: impl Fn(&'a Value) -> Option<T>,
    ) -> Result<Option<T>, Error> {
        let Some(value) = self.get(key) else { return Ok(None) };
        let wrong = || self.error(key, format!("is {}, expected {expected}", shown(value)));
        read(value).ok_or_else(wrong).map(Some)
    }

    pub(crate) fn u32(&self, key: &str) -> Result<Option<u32>, Error> {
        self.typed(key, "a whole number", |v| v.as_u64()?.try_into().ok())
    }

    pub(crate) fn f64(&self, key: &str) -> Result<Option<f64>, Error> {
        self.typed(key, "a number", Value::as_f64)
    }

    /// An optional positive, finite number.
    pub(crate) fn positive(&self, key: &str) -> Result<Option<f64>, Error> {
        match self.f64(key)? {
            Some(v) if !(v.is_finite() && v > 0.0) => {
                Err(self.error(key, format!("is {v}, expected a positive number")))
            }
            stated => Ok(stated),
        }
    }

    pub(crate) fn bool(&self, key: &str) -> Result<Option<bool>, Error> {
        self.typed(key, "true or false", Value::as_bool)
    }

    pub(crate) fn str(&self, key: &str) -> Result<Option<&str>, Error> {
        self.typed(key, "a string", Value::as_str)
    }

    /// A token id or a list of them.
    pub(crate) fn ids(&self, key: &str) -> Result<Option<Vec<u32>>, Error> {
        let id = |v: &Value| v.as_u64().and_then(|v| u32::try_from(v).ok());
        self.typed(key, "a token id or a list of them", |v| match v {
            Value::Array(list) => list.iter().map(id).collect(),
            one => Some(vec![id(one)?]),
        })
    }

    /// A list of numbers.
    pub(crate) fn numbers(&self, key: &str) -> Result<Option<Vec<f64>>, Error> {
        let list = |v: &Value| v.as_array()?.iter().map(Value::as_f64).collect();
        self.typed(key, "a list of numbers", list)
    }

    /// A list of strings.
    pub(crate) fn strings(&self, key: &str) -> Result<Option<Vec<&str>>, Error> {
        self.typed(key, "a list of strings", |v| v.as_array()?.iter().map(Value::as_str).collect())
    }

    /// A nested object.
    pub(crate) fn object(&self, key: &str) -> Result<Option<Settings>, Error> {
        let map = self.typed(key, "an object", Value::as_object)?.cloned();
        let within = format!("{}{key}.", self.within);
        Ok(map.map(|map| Settings { path: self.path.clone(), within, map }))
    }

    /// Unwraps `value`, which was read from `key`; the error states that the key is missing.
    pub(crate) fn need<T>(&self, key: &str, value: Option<T>) -> Result<T, Error> {
        value.ok_or_else(|| self.error(key, "is missing"))
    }
}

/// A value as JSON on one line, truncated if long.
fn shown(value: &Value) -> String {
    let text = value.to_string();
    match text.char_indices().nth(60) {
        Some((at, _)) => format!("{}…", &text[..at]),
        None => text,
    }
}

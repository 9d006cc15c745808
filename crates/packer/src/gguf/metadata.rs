//! Metadata of a GGUF file. Reading a key returns `None` if the key is absent, and an error that
//! names the key if its value has the wrong type.

use std::borrow::Cow;
use std::collections::HashMap;
use std::path::{Path, PathBuf};

use crate::Error;

/// A metadata value. Integers of all widths are widened to i128.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Value {
    Int(i128),
    Float(f64),
    Bool(bool),
    String(String),
    Strings(Vec<String>),
    Ints(Vec<i64>),
    Floats(Vec<f32>),
}

/// All metadata of a file.
#[derive(Debug)]
pub(crate) struct Metadata {
    path: PathBuf,
    values: HashMap<String, Value>,
}

impl Metadata {
    pub(crate) fn new(path: &Path, values: HashMap<String, Value>) -> Self {
        Self { path: path.into(), values }
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// All values, sorted by key.
    pub(crate) fn entries(&self) -> Vec<(&str, &Value)> {
        let mut all: Vec<_> = self.values.iter().map(|(k, v)| (k.as_str(), v)).collect();
        all.sort_by_key(|(k, _)| *k);
        all
    }

    /// An error about a key; the message is the key's name followed by `what`.
    pub(crate) fn error(&self, key: &str, what: impl Into<String>) -> Error {
        Error::Setting { path: self.path.clone(), field: key.into(), what: what.into() }
    }

    fn typed<'a, T>(
        &'a self,
        key: &str,
        expected: &str,
        read: impl Fn(&'a Value) -> Option<T>,
    ) -> Result<Option<T>, Error> {
        let Some(value) = self.values.get(key) else { return Ok(None) };
        read(value).map(Some).ok_or_else(|| self.error(key, format!("is not {expected}")))
    }

    pub(crate) fn u32(&self, key: &str) -> Result<Option<u32>, Error> {
        let int = |value: &Value| if let Value::Int(v) = value { Some(*v) } else { None };
        let Some(v) = self.typed(key, "a whole number", int)? else { return Ok(None) };
        let range = |_| self.error(key, format!("is {v}, expected 0 to {}", u32::MAX));
        u32::try_from(v).map(Some).map_err(range)
    }

    pub(crate) fn f64(&self, key: &str) -> Result<Option<f64>, Error> {
        self.typed(key, "a floating-point number", |value| match value {
            Value::Float(v) => Some(*v),
            _ => None,
        })
    }

    /// A number of any type.
    pub(crate) fn number(&self, key: &str) -> Result<Option<f64>, Error> {
        self.typed(key, "a number", |value| match value {
            Value::Float(v) => Some(*v),
            Value::Int(v) => Some(*v as f64),
            _ => None,
        })
    }

    /// A whole number, or a list of `n` of them, one per layer, that are all equal, apart from those of layers
    /// without that part, which are 0.
    pub(crate) fn per_layer(&self, key: &str, n: u32) -> Result<Option<u32>, Error> {
        let Some(Value::Ints(list)) = self.values.get(key) else { return self.u32(key) };
        if list.len() != n as usize || list.is_empty() {
            let what = format!("has {} values, expected one for each of {n} layers", list.len());
            return Err(self.error(key, what));
        }
        let some = list.iter().position(|v| *v != 0).unwrap_or(0);
        let first = list[some];
        if let Some(layer) = list.iter().position(|v| *v != 0 && *v != first) {
            let other = list[layer];
            let what = format!(
                "is {first} in layer {some}, but {other} in layer {layer}; layers must have equal sizes"
            );
            return Err(self.error(key, what));
        }
        let range = |_| self.error(key, format!("is {first}, expected 0 to {}", u32::MAX));
        u32::try_from(first).map(Some).map_err(range)
    }

    pub(crate) fn bool(&self, key: &str) -> Result<Option<bool>, Error> {
        self.typed(key, "true or false", |value| match value {
            Value::Bool(v) => Some(*v),
            _ => None,
        })
    }

    pub(crate) fn str(&self, key: &str) -> Result<Option<&str>, Error> {
        self.typed(key, "a string", |value| match value {
            Value::String(v) => Some(v.as_str()),
            _ => None,
        })
    }

    pub(crate) fn strings(&self, key: &str) -> Result<Option<&[String]>, Error> {
        self.typed(key, "a list of strings", |value| match value {
            Value::Strings(v) => Some(v.as_slice()),
            _ => None,
        })
    }

    pub(crate) fn ints(&self, key: &str) -> Result<Option<&[i64]>, Error> {
        self.typed(key, "a list of whole numbers", |value| match value {
            Value::Ints(v) => Some(v.as_slice()),
            _ => None,
        })
    }

    /// Whether the value is a list of whole numbers.
    pub(crate) fn is_list(&self, key: &str) -> bool {
        matches!(self.values.get(key), Some(Value::Ints(_)))
    }

    /// A list of numbers of any type.
    pub(crate) fn floats(&self, key: &str) -> Result<Option<Cow<'_, [f32]>>, Error> {
        self.typed(key, "a list of numbers", |value| match value {
            Value::Floats(v) => Some(Cow::Borrowed(v.as_slice())),
            Value::Ints(v) => Some(v.iter().map(|&v| v as f32).collect()),
            _ => None,
        })
    }
}

//! The settings of a model among the metadata of its file.

use super::Gguf;
use crate::Error;

/// The metadata of one architecture: its keys begin with its name.
pub(crate) struct Keys<'a> {
    pub(crate) g: &'a Gguf,
    architecture: &'static str,
}

impl<'a> Keys<'a> {
    pub(crate) fn of(g: &'a Gguf, architecture: &'static str) -> Self {
        Self { g, architecture }
    }

    pub(crate) fn architecture(&self) -> &'static str {
        self.architecture
    }

    pub(crate) fn name(&self, key: &str) -> String {
        format!("{}.{key}", self.architecture)
    }

    pub(crate) fn u32(&self, key: &str) -> Result<Option<u32>, Error> {
        self.g.u32(&self.name(key))
    }

    pub(crate) fn f64(&self, key: &str) -> Result<Option<f64>, Error> {
        self.g.f64(&self.name(key))
    }

    pub(crate) fn size(&self, key: &str) -> Result<u32, Error> {
        self.u32(key)?.ok_or_else(|| self.error(key, "is missing"))
    }

    /// A number above 0 that may be absent; 0 counts as absent, as llama.cpp has it.
    pub(crate) fn positive(&self, key: &str) -> Result<Option<f64>, Error> {
        match self.f64(key)?.filter(|&v| v != 0.0) {
            Some(v) if !(v.is_finite() && v > 0.0) => {
                Err(self.error(key, &format!("is {v}, expected a positive number")))
            }
            stated => Ok(stated),
        }
    }

    pub(crate) fn error(&self, key: &str, what: &str) -> Error {
        self.g.error(&self.name(key), what)
    }
}

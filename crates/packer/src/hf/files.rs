//! The small files of a folder.

use std::path::{Path, PathBuf};

use super::settings::Settings;
use crate::Error;

/// Opens files of a folder and records which were used.
pub(super) struct Files<'a> {
    pub(super) folder: &'a Path,
    pub(super) used: Vec<PathBuf>,
}

impl Files<'_> {
    pub(super) fn optional(&mut self, name: &str) -> Option<PathBuf> {
        let path = self.folder.join(name);
        path.exists().then(|| {
            self.used.push(path.clone());
            path
        })
    }

    pub(super) fn settings(&mut self, name: &str) -> Result<Option<Settings>, Error> {
        self.optional(name).map(|path| Settings::read(&path)).transpose()
    }
}

//! The origin of a model.

use serde::Deserialize;

use crate::file::NanoFile;
use crate::section::SectionKind;

/// The fields of the provenance section that have a meaning for readers.
#[derive(Default, Deserialize)]
struct Provenance {
    packer: Option<u32>,
}

impl NanoFile {
    /// The version of the packer's output, which increases when the same source yields another file. Up
    /// to version 2, files did not record it: 2 then stands for any of them.
    pub fn packer_version(&self) -> u32 {
        let section = self.section(SectionKind::Provenance);
        let provenance: Option<Provenance> =
            section.and_then(|(_, json)| serde_json::from_slice(json).ok());
        provenance.and_then(|p| p.packer).unwrap_or(2)
    }
}

//! The origin of a model.

use serde::Deserialize;

use crate::file::NanoFile;
use crate::section::SectionKind;

/// The fields of the provenance section that have a meaning for readers.
#[derive(Default, Deserialize)]
struct Provenance {
    source: Option<String>,
    packer: Option<u32>,
    precision: Option<String>,
    calibrated: Option<String>,
    weights: Option<String>,
}

impl NanoFile {
    /// The version of the packer's output, which increases when the same source yields another file. Up
    /// to version 2, files did not record it: 2 then stands for any of them.
    pub fn packer_version(&self) -> u32 {
        self.provenance().packer.unwrap_or(2)
    }

    /// What the model was converted from, such as a hub id, if the file states it.
    pub fn source(&self) -> Option<String> {
        self.provenance().source
    }

    /// The precision that the file was converted to: the name of a [`Quant`](crate::Quant), a number of
    /// bits as [`Bits`](crate::Bits) shows it, or `recipe` if it has exceptions of its own.
    pub fn precision(&self) -> String {
        self.provenance().precision.unwrap_or_else(|| self.config().quant.name().to_owned())
    }

    /// The text with which the file was calibrated, if it was and states this.
    pub fn calibrated(&self) -> Option<String> {
        self.provenance().calibrated
    }

    /// The number format of the source, if that was quantized and the file states this.
    pub fn source_weights(&self) -> Option<String> {
        self.provenance().weights
    }

    fn provenance(&self) -> Provenance {
        let section = self.section(SectionKind::Provenance);
        section.and_then(|(_, json)| serde_json::from_slice(json).ok()).unwrap_or_default()
    }
}

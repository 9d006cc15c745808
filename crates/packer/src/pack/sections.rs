//! The sections of a file other than its tensors.

use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};

use nanoinfer_format::{SectionKind, Writer};
use serde::Serialize;

use crate::model::Model;
use crate::source::SourceFile;
use crate::{Error, OUTPUT_VERSION};

/// The origin of a model. It contains neither paths nor timestamps, so that the same input produces
/// the same file on every machine.
#[derive(Serialize)]
struct Provenance {
    #[serde(skip_serializing_if = "Option::is_none")]
    source: Option<String>,
    kind: &'static str,
    /// The version of the packer's output.
    packer: u32,
    /// The scale of each merged adapter; the adapters' files are listed in `files`.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    loras: Vec<f32>,
    files: Vec<FileHash>,
}

/// A source file, named without its folder.
#[derive(Serialize, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct FileHash {
    name: String,
    bytes: u64,
    blake3: String,
}

/// Hashes the source files; stops early once the conversion has failed.
pub(crate) fn hash_files(files: &[PathBuf], failed: &AtomicBool) -> Result<Vec<FileHash>, Error> {
    let mut hashes = Vec::with_capacity(files.len());
    for path in files {
        let file = SourceFile::open(path)?;
        let Some(hash) = file.hash(|| failed.load(Ordering::Relaxed))? else { break };
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        hashes.push(FileHash { name, bytes: file.len, blake3: hash.to_hex().to_string() });
    }
    hashes.sort();
    Ok(hashes)
}

/// Writes the sections that the model has.
pub(crate) fn add(
    writer: &mut Writer,
    model: &Model,
    source: Option<String>,
    loras: Vec<f32>,
    files: Vec<FileHash>,
) -> Result<(), Error> {
    if let Some(tokenizer) = &model.tokenizer {
        tokenizer.add_to(writer)?;
    }
    if let Some(template) = &model.chat_template {
        writer.section(SectionKind::ChatTemplate, template.as_bytes())?;
    }
    let provenance = Provenance { source, kind: model.kind, packer: OUTPUT_VERSION, loras, files };
    let json = serde_json::to_vec(&provenance).expect("plain structs always serialize");
    Ok(writer.section(SectionKind::Provenance, json)?)
}

//! The sections of a file other than its tensors.

use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};

use nanoinfer_format::{Precision, Recipe, SectionKind, Writer};
use serde::Serialize;

use crate::model::Model;
use crate::source::SourceFile;
use crate::{Error, OUTPUT_VERSION, Options};

/// The origin of a model. It contains neither paths nor timestamps, so that the same input produces
/// the same file on every machine.
#[derive(Serialize)]
struct Provenance {
    #[serde(skip_serializing_if = "Option::is_none")]
    source: Option<String>,
    kind: &'static str,
    /// The version of the packer's output.
    packer: u32,
    /// The precision asked for, unless the config states it.
    #[serde(skip_serializing_if = "Option::is_none")]
    precision: Option<String>,
    /// The text with which codes were calibrated.
    #[serde(skip_serializing_if = "Option::is_none")]
    calibrated: Option<String>,
    /// The number format of weights that had been rounded before they were stored as codes.
    #[serde(skip_serializing_if = "Option::is_none")]
    weights: Option<&'static str>,
    /// The scale of each merged adapter; the adapters' files are listed in `files`.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    loras: Vec<f32>,
    files: Vec<FileHash>,
}

/// What the options of a conversion contribute to the provenance.
pub(crate) struct Details {
    source: Option<String>,
    precision: Option<String>,
    calibrated: Option<String>,
    weights: Option<&'static str>,
    loras: Vec<f32>,
}

impl Details {
    pub(crate) fn of(model: &Model, recipe: &Recipe, options: &Options<'_>) -> Self {
        let precision = match options.quant.for_model(&model.config) {
            named if named.recipe(&model.config).as_ref() != Ok(recipe) => Some("recipe".into()),
            Precision::Quant(_) | Precision::Auto => None,
            bits => Some(bits.to_string()),
        };
        let coded = recipe.is_coded();
        Self {
            source: options.source_id.clone(),
            precision,
            calibrated: options.calibrated.clone().filter(|_| coded),
            weights: model.weights.rounded().filter(|_| coded),
            loras: options.loras.iter().map(|l| l.scale).collect(),
        }
    }
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
    details: Details,
    files: Vec<FileHash>,
) -> Result<(), Error> {
    if let Some(tokenizer) = &model.tokenizer {
        tokenizer.add_to(writer)?;
    }
    if let Some(template) = &model.chat_template {
        writer.section(SectionKind::ChatTemplate, template.as_bytes())?;
    }
    let Details { source, precision, calibrated, weights, loras } = details;
    let provenance = Provenance {
        source,
        kind: model.kind,
        packer: OUTPUT_VERSION,
        precision,
        calibrated,
        weights,
        loras,
        files,
    };
    let json = serde_json::to_vec(&provenance).expect("plain structs always serialize");
    Ok(writer.section(SectionKind::Provenance, json)?)
}

//! Lists the contents of a source without converting it.

use std::path::{Path, PathBuf};

use nanoinfer_format::Config;

use crate::gguf::{self, Value};
use crate::hf::{self, Open};
use crate::source::{FileTensor, TensorSource};
use crate::{Error, Input, safetensors, torch};

/// The contents of a source.
#[derive(Clone, Debug, PartialEq)]
pub struct Description {
    /// `gguf`, `hf-folder`, `safetensors` or `pytorch`.
    pub kind: &'static str,
    /// Settings sorted by name; long values are truncated.
    pub settings: Vec<(String, String)>,
    /// All tensors, in file order.
    pub tensors: Vec<SourceTensor>,
    /// The config that a conversion would produce, or the reason why the source cannot be
    /// converted.
    pub config: Result<Config, String>,
}

/// A tensor of a source.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SourceTensor {
    /// The tensor's name.
    pub name: String,
    /// Name of the file that contains it, without the folder.
    pub file: String,
    /// Number format, as named in ggml or safetensors.
    pub dtype: &'static str,
    /// Third dimension: the number of matrices stacked in the tensor; 1 if there is none.
    pub experts: usize,
    /// `[rows, inputs]` of one matrix; a vector has 1 input.
    pub shape: [usize; 2],
    /// Offset in the file, in bytes.
    pub offset: u64,
    /// Size in bytes.
    pub bytes: u64,
}

impl SourceTensor {
    fn of(tensor: &FileTensor) -> Self {
        let (path, name) = tensor.name();
        let extent = tensor.extent();
        let experts = tensor.experts().unwrap_or(1);
        let [n, k] = tensor.shape();
        Self {
            name: name.into(),
            file: path.file_name().unwrap_or_default().to_string_lossy().into_owned(),
            dtype: tensor.dtype().name(),
            experts,
            shape: [n / experts, k],
            offset: extent.start,
            bytes: extent.end - extent.start,
        }
    }
}

/// Lists the contents of a Hugging Face folder, or of a GGUF, safetensors or PyTorch file. No
/// weights are read.
///
/// # Errors
/// `path` is none of these, or is damaged.
pub fn describe(path: &Path) -> Result<Description, Error> {
    if path.is_dir() {
        return match Input::detect(path)? {
            Input::Folder(folder) => of_folder(&folder),
            Input::Gguf(file) => of_gguf(&file),
        };
    }
    let named =
        |extension: &str| path.extension().is_some_and(|e| e.eq_ignore_ascii_case(extension));
    let alone = || Err("a single weight file; pass the model's folder instead".to_owned());
    let of_file = |kind, open: Open| {
        let tensors = tensors(&[path.into()], open)?;
        Ok(Description { kind, settings: Vec::new(), tensors, config: alone() })
    };
    if named("safetensors") {
        return of_file("safetensors", safetensors::open);
    }
    if named("bin") || named("pt") || named("pth") {
        return of_file("pytorch", torch::open);
    }
    Input::detect(path)?;
    of_gguf(path)
}

fn of_folder(folder: &Path) -> Result<Description, Error> {
    let (settings, shards) = hf::look(folder)?;
    Ok(Description {
        kind: "hf-folder",
        settings: settings.entries(),
        tensors: tensors(&shards.files, shards.open)?,
        config: hf::open(folder).map(|m| m.config).map_err(|e| e.to_string()),
    })
}

fn of_gguf(path: &Path) -> Result<Description, Error> {
    let gguf = gguf::open_file(path)?;
    Ok(Description {
        kind: "gguf",
        settings: gguf.metadata.entries().into_iter().map(|(k, v)| (k.into(), shown(v))).collect(),
        tensors: gguf.tensors.iter().map(SourceTensor::of).collect(),
        config: gguf::open(path).map(|m| m.config).map_err(|e| e.to_string()),
    })
}

fn tensors(files: &[PathBuf], open: Open) -> Result<Vec<SourceTensor>, Error> {
    let mut out = Vec::new();
    for file in files {
        let mut tensors = open(file)?;
        tensors.sort_by_key(|t| t.extent().start);
        out.extend(tensors.iter().map(SourceTensor::of));
    }
    Ok(out)
}

/// Formats a metadata value for display: strings are truncated, and only the length of a list is
/// shown.
fn shown(value: &Value) -> String {
    match value {
        Value::Int(v) => v.to_string(),
        Value::Float(v) => v.to_string(),
        Value::Bool(v) => v.to_string(),
        Value::String(v) => shortened(v),
        Value::Strings(v) => format!("{} strings", v.len()),
        Value::Ints(v) => format!("{} whole numbers", v.len()),
        Value::Floats(v) => format!("{} numbers", v.len()),
    }
}

/// Shortens a string to one line of at most 80 characters.
fn shortened(text: &str) -> String {
    let line: String =
        text.chars().map(|c| if c.is_control() { ' ' } else { c }).take(81).collect();
    match line.char_indices().nth(80) {
        Some((at, _)) => format!("{}…", &line[..at]),
        None => line,
    }
}

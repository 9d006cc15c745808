//! Reads a Hugging Face folder into a [`Model`].

use std::collections::BTreeSet;
use std::path::{Component, Path, PathBuf};

use serde_json::Value;

use super::config::describe;
use super::files::Files;
use super::settings::Settings;
use super::text;
use crate::model::Model;
use crate::source::{FileTensor, TensorSource};
use crate::weights::Weights;
use crate::{Error, safetensors, torch};

/// Reads everything except the values of the weights.
pub(crate) fn open(folder: &Path) -> Result<Model, Error> {
    let path = folder.join("config.json");
    if !path.exists() {
        let what = "has no config.json; expected a Hugging Face model folder";
        return Err(Error::source(folder, what));
    }
    let settings = Settings::read(&path)?;
    let described = describe(&settings)?;
    let left_out = described.left_out();
    let mut config = described.config;
    let Shards { files: shards, index, open } = shards(folder)?;
    let names = described.names;
    let mut weights = Weights::new(folder, names);
    for shard in &shards {
        for tensor in open(shard)? {
            let layer = names.layer_of(tensor.name().1);
            if left_out.is_none() || layer.is_none_or(|layer| layer < config.n_layers) {
                weights.insert(tensor, &config)?;
            }
        }
    }
    weights.join();
    let output = weights.settle_output(&mut config)?;
    let mut notes: Vec<String> = left_out.into_iter().chain(output).collect();
    weights.check(&config, described.biases)?;
    weights.change(described.changes);
    weights.scale_rows(described.row_factors);

    let mut files = Files { folder, used: vec![path] };
    let text = text::read(&mut files, &settings, config.vocab_size)?;
    notes.extend(text.notes);
    let turns = described.ropes.iter().flat_map(|rope| rope.turns(config.rotary_dim)).collect();
    let mut files = files.used;
    files.extend(shards.into_iter().chain(index));
    Ok(Model {
        config,
        turns,
        weights,
        generation: text.generation,
        tokenizer: text.tokenizer,
        chat_template: text.chat_template,
        kind: "hf-folder",
        notes,
        files,
    })
}

/// Reads a folder's `config.json` and finds its weight files without opening them.
pub(crate) fn look(folder: &Path) -> Result<(Settings, Shards), Error> {
    Ok((Settings::read(&folder.join("config.json"))?, shards(folder)?))
}

/// The weight files of a folder.
pub(crate) struct Shards {
    pub(crate) files: Vec<PathBuf>,
    /// The index that lists the files, if there are several.
    index: Option<PathBuf>,
    pub(crate) open: Open,
}

/// Lists the tensors of a weight file.
pub(crate) type Open = fn(&Path) -> Result<Vec<FileTensor>, Error>;

/// The formats, in order of preference: in a folder with both, the PyTorch files are the older copy.
const WEIGHTS: [(&str, Open); 2] =
    [("model.safetensors", safetensors::open), ("pytorch_model.bin", torch::open)];

/// Whether a folder has a weight file, or an index of weight files, in a supported format.
pub(crate) fn has_weights(folder: &Path) -> bool {
    let exists = |name: String| folder.join(name).exists();
    WEIGHTS
        .iter()
        .any(|(single, _)| exists((*single).to_owned()) || exists(format!("{single}.index.json")))
}

fn shards(folder: &Path) -> Result<Shards, Error> {
    for (single, open) in WEIGHTS {
        let path = folder.join(single);
        if path.exists() {
            return Ok(Shards { files: vec![path], index: None, open });
        }
        let index = folder.join(format!("{single}.index.json"));
        if index.exists() {
            return Ok(Shards { files: listed(folder, &index)?, index: Some(index), open });
        }
    }
    let what = "has neither model.safetensors nor pytorch_model.bin, nor a shard index; is the download \
                complete?";
    Err(Error::source(folder, what))
}

/// The files listed in an index.
fn listed(folder: &Path, index: &Path) -> Result<Vec<PathBuf>, Error> {
    let settings = Settings::read(index)?;
    let map = settings.need("weight_map", settings.get("weight_map").and_then(Value::as_object))?;
    let mut names = BTreeSet::new();
    for (tensor, file) in map {
        let wrong = || {
            settings.error(
                "weight_map",
                format!("maps {tensor:?} to something that is not a file name"),
            )
        };
        names.insert(file.as_str().ok_or_else(wrong)?);
    }
    names.into_iter().map(|name| shard(folder, &settings, name)).collect()
}

/// The path of a shard, which must be in this folder: an index from a download must not make the
/// packer read any other file.
fn shard(folder: &Path, index: &Settings, name: &str) -> Result<PathBuf, Error> {
    let outside =
        || index.error("weight_map", format!("names {name:?}, which is not a file in this folder"));
    let mut parts = Path::new(name).components();
    let bare =
        matches!((parts.next(), parts.next()), (Some(Component::Normal(n)), None) if n == name);
    if !bare {
        return Err(outside());
    }
    let path = folder.join(name);
    let resolve = |p: &Path| p.canonicalize().map_err(Error::io(p, "cannot open"));
    let (target, home) = (resolve(&path)?, resolve(folder)?);
    // In the hub's cache, the files in `snapshots/<revision>` are links into `blobs`.
    let blobs =
        home.parent().filter(|p| p.ends_with("snapshots")).map(|p| p.with_file_name("blobs"));
    let parent = target.parent();
    if parent == Some(&home) || (blobs.is_some() && parent == blobs.as_deref()) {
        Ok(path)
    } else {
        Err(outside())
    }
}

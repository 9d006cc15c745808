//! Reads a Hugging Face folder into a [`Model`].

use std::collections::BTreeSet;
use std::path::{Component, Path, PathBuf};

use nanoinfer_format::Generation;
use serde_json::Value;

use super::config::describe;
use super::settings::{Settings, read_text};
use super::vocabulary;
use crate::model::{Model, check_generation};
use crate::source::FileTensor;
use crate::tokenizer::Tokenizer;
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
    let mut config = described.config;
    let Shards { files: shards, index, open } = shards(folder)?;
    let mut weights = Weights::new(folder, described.names);
    for shard in &shards {
        for tensor in open(shard)? {
            weights.insert(tensor, &config)?;
        }
    }
    let notes = weights.settle_output(&mut config)?.into_iter().collect();
    weights.check(&config, described.biases)?;
    weights.change(described.changes);

    let mut files = Files { folder, used: vec![path] };
    let tokenizer_config = files.settings("tokenizer_config.json")?;
    let tokenizer = match files.optional("tokenizer.json") {
        Some(path) => {
            Some(Tokenizer::new(&path, read_text(&path)?.into_bytes(), config.vocab_size)?)
        }
        None => match vocabulary::build(folder, &settings, tokenizer_config.as_ref())? {
            Some(built) => {
                let tokenizer = Tokenizer::new(&built.files[0], built.json, config.vocab_size)?;
                files.used.extend(built.files);
                Some(tokenizer)
            }
            None => None,
        },
    };
    let generation_config = files.settings("generation_config.json")?;
    let chat_template = chat_template(&mut files, tokenizer_config.as_ref())?;
    let own_bos = tokenizer.as_ref().and_then(|t| t.bos);
    let generation =
        generation(&settings, generation_config.as_ref(), tokenizer_config.as_ref(), own_bos)?;
    check_generation(folder, &generation, config.vocab_size)?;
    let turns = described.ropes.iter().flat_map(|rope| rope.turns(config.rotary_dim)).collect();
    let mut files = files.used;
    files.extend(shards.into_iter().chain(index));
    Ok(Model {
        config,
        turns,
        weights,
        generation,
        tokenizer,
        chat_template,
        kind: "hf-folder",
        notes,
        files,
    })
}

/// Reads a folder's `config.json` and finds its weight files without opening them.
pub(crate) fn look(folder: &Path) -> Result<(Settings, Shards), Error> {
    Ok((Settings::read(&folder.join("config.json"))?, shards(folder)?))
}

/// Opens files of a folder and records which were used.
struct Files<'a> {
    folder: &'a Path,
    used: Vec<PathBuf>,
}

impl Files<'_> {
    fn optional(&mut self, name: &str) -> Option<PathBuf> {
        let path = self.folder.join(name);
        path.exists().then(|| {
            self.used.push(path.clone());
            path
        })
    }

    fn settings(&mut self, name: &str) -> Result<Option<Settings>, Error> {
        self.optional(name).map(|path| Settings::read(&path)).transpose()
    }
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

/// The chat template; files of newer formats take precedence.
fn chat_template(files: &mut Files, tokenizer: Option<&Settings>) -> Result<Option<String>, Error> {
    if let Some(path) = files.optional("chat_template.jinja") {
        return read_text(&path).map(Some);
    }
    if let Some(settings) = files.settings("chat_template.json")? {
        return Ok(settings.str("chat_template")?.map(str::to_owned));
    }
    let Some(settings) = tokenizer else { return Ok(None) };
    match settings.get("chat_template") {
        None => Ok(None),
        Some(Value::String(template)) => Ok(Some(template.clone())),
        Some(Value::Array(named)) => {
            let default = named.iter().find(|t| t["name"] == "default");
            Ok(default.and_then(|t| t["template"].as_str()).map(str::to_owned))
        }
        Some(_) => Err(settings.error("chat_template", "is neither a string nor a list")),
    }
}

/// `own_bos` is the token that the tokenizer's post-processor prepends.
fn generation(
    config: &Settings,
    generation: Option<&Settings>,
    tokenizer_config: Option<&Settings>,
    own_bos: Option<u32>,
) -> Result<Generation, Error> {
    let ids = |key: &str| match generation.map(|g| g.ids(key)).transpose()?.flatten() {
        Some(ids) => Ok(Some(ids)),
        None => config.ids(key),
    };
    let stated = tokenizer_config.map(|t| t.bool("add_bos_token")).transpose()?.flatten();
    let mut g = Generation {
        bos: ids("bos_token_id")?.and_then(|ids| ids.first().copied()).or(own_bos),
        eos: ids("eos_token_id")?.unwrap_or_default(),
        ..Generation::default()
    };
    g.add_bos = g.bos.is_some() && stated.unwrap_or(own_bos.is_some());
    if let Some(s) = generation
        && s.bool("do_sample")? == Some(true)
    {
        g.temperature = Some(s.f64("temperature")?.unwrap_or(1.0));
        g.top_k = s.u32("top_k")?.filter(|&k| k > 0);
        g.top_p = s.f64("top_p")?;
        g.min_p = s.f64("min_p")?;
        g.repetition_penalty = s.f64("repetition_penalty")?;
    }
    Ok(g)
}

//! What a folder says about text: tokenizer, chat template, defaults for generation.

use std::path::{Path, PathBuf};

use nanoinfer_format::Generation;
use serde_json::Value;

use super::settings::{Settings, read_text};
use crate::Error;
use crate::model::check_generation;
use crate::tokenizer::Tokenizer;

/// The parts of a model that concern text.
pub(super) struct Text {
    pub(super) tokenizer: Option<Tokenizer>,
    pub(super) generation: Generation,
    pub(super) chat_template: Option<String>,
    /// What the user should know, one line each.
    pub(super) notes: Vec<String>,
}

/// Reads the folder's files about text; `config` is its `config.json`.
pub(super) fn read(
    files: &mut Files<'_>,
    config: &Settings,
    vocab_size: u32,
) -> Result<Text, Error> {
    let mut notes = Vec::new();
    let tokenizer = match files.optional("tokenizer.json") {
        Some(path) => {
            let json = read_text(&path)?.into_bytes();
            Some(Tokenizer::new(&path, json, vocab_size, &mut notes)?)
        }
        None => None,
    };
    let tokenizer_config = files.settings("tokenizer_config.json")?;
    let generation_config = files.settings("generation_config.json")?;
    let chat_template = chat_template(files, tokenizer_config.as_ref())?;
    let own_bos = tokenizer.as_ref().and_then(|t| t.bos);
    let generation =
        generation(config, generation_config.as_ref(), tokenizer_config.as_ref(), own_bos)?;
    check_generation(files.folder, &generation, vocab_size)?;
    Ok(Text { tokenizer, generation, chat_template, notes })
}

/// Opens files of a folder and records which were used.
pub(super) struct Files<'a> {
    pub(super) folder: &'a Path,
    pub(super) used: Vec<PathBuf>,
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

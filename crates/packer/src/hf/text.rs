//! What a folder says about text: tokenizer, chat template, defaults for generation.

use nanoinfer_format::Generation;
use serde_json::Value;

use super::files::Files;
use super::settings::{Settings, read_text};
use super::special::SpecialTokens;
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
    let special = SpecialTokens::read(files)?;
    let tokenizer = tokenizer(files, &special, vocab_size, &mut notes)?;
    let generation_config = files.settings("generation_config.json")?;
    let chat_template = chat_template(files, special.config())?;
    let own_bos = tokenizer.as_ref().and_then(|t| t.bos);
    let mut generation = generation(config, generation_config.as_ref(), special.config(), own_bos)?;
    if let Some(tokenizer) = &tokenizer {
        let uses_pad = chat_template.as_ref().is_some_and(|t| t.contains("pad_token"));
        name_tokens(&mut generation, tokenizer, &special, uses_pad)?;
    }
    check_generation(files.folder, &generation, vocab_size)?;
    Ok(Text { tokenizer, generation, chat_template, notes })
}

/// The tokenizer, with the tokens that only the folder's other files define.
fn tokenizer(
    files: &mut Files<'_>,
    special: &SpecialTokens,
    vocab_size: u32,
    notes: &mut Vec<String>,
) -> Result<Option<Tokenizer>, Error> {
    let Some(path) = files.optional("tokenizer.json") else { return Ok(None) };
    let json = read_text(&path)?.into_bytes();
    let error = |source| Error::Text { path: path.clone(), source };
    let (json, left_out) = nanoinfer_text::add_tokens(json, &special.all()?).map_err(error)?;
    for token in left_out {
        let what = "the id of the added token";
        notes.push(format!("{what} {token:?} belongs to another token: the former is left out"));
    }
    Tokenizer::new(&path, json, vocab_size, notes).map(Some)
}

/// Adds the tokenizer's EOS to the tokens that end a response: the `config.json` of a fine-tuned model
/// may still have that of its base. Records the texts of special tokens, for the chat template, as far as
/// they do not follow from the ids.
fn name_tokens(
    g: &mut Generation,
    tokenizer: &Tokenizer,
    special: &SpecialTokens,
    uses_pad: bool,
) -> Result<(), Error> {
    let text = |name: &str| -> Result<Option<String>, Error> {
        let stated = special.named(name)?;
        Ok(stated.map(|token| token.map_or(String::new(), |t| t.content)))
    };
    let follows = |id: Option<u32>| id.map_or(Vec::new(), |id| tokenizer.bytes_of(id));
    let (bos, eos, pad) = (text("bos_token")?, text("eos_token")?, text("pad_token")?);
    let id = eos.as_ref().and_then(|text| tokenizer.added_token(text));
    g.eos.extend(id.filter(|id| !g.eos.contains(id)));
    let first = g.eos.first().copied();
    g.bos_token = bos.filter(|text| text.as_bytes() != follows(g.bos));
    g.eos_token = eos.filter(|text| text.as_bytes() != follows(first));
    g.pad_token = pad.filter(|text| uses_pad && !text.is_empty());
    Ok(())
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

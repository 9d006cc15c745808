//! Special and added tokens that a folder's `tokenizer.json` may lack.
//!
//! They are in `tokenizer_config.json`. In older folders, `special_tokens_map.json` and
//! `added_tokens.json` supplement it; like transformers, this module reads these two only if the config
//! does not list the added tokens (`added_tokens_decoder`).

use nanoinfer_text::NewToken;
use serde_json::Value;

use super::files::Files;
use super::settings::Settings;
use crate::Error;

const NAMED: [&str; 7] =
    ["bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token"];
const LISTS: [&str; 2] = ["additional_special_tokens", "extra_special_tokens"];
const DECODER: &str = "added_tokens_decoder";

/// The files that define special and added tokens.
pub(super) struct SpecialTokens {
    config: Option<Settings>,
    map: Option<Settings>,
    added: Option<Settings>,
}

impl SpecialTokens {
    pub(super) fn read(files: &mut Files<'_>) -> Result<Self, Error> {
        let config = files.settings("tokenizer_config.json")?;
        if config.as_ref().is_some_and(|c| c.get(DECODER).is_some()) {
            return Ok(Self { config, map: None, added: None });
        }
        let map = files.settings("special_tokens_map.json")?;
        Ok(Self { config, map, added: files.settings("added_tokens.json")? })
    }

    /// `tokenizer_config.json`.
    pub(super) fn config(&self) -> Option<&Settings> {
        self.config.as_ref()
    }

    /// The token with this name, such as `eos_token`: `None` if no file mentions it, and `Some(None)` if
    /// it is `null`, so that there is none.
    pub(super) fn named(&self, name: &str) -> Result<Option<Option<NewToken>>, Error> {
        let Some((settings, value)) = self.stated(name) else { return Ok(None) };
        match value {
            Value::Null => Ok(Some(None)),
            value => token(settings, name, value, true).map(|token| Some(Some(token))),
        }
    }

    fn stated(&self, key: &str) -> Option<(&Settings, &Value)> {
        let mut files = self.map.iter().chain(&self.config);
        files.find_map(|settings| Some((settings, settings.map().get(key)?)))
    }

    /// All tokens, in order of precedence.
    pub(super) fn all(&self) -> Result<Vec<NewToken>, Error> {
        let mut special = Vec::new();
        for name in NAMED {
            special.extend(self.named(name)?.flatten());
        }
        for name in LISTS {
            let Some((settings, value)) = self.stated(name) else { continue };
            let list: Vec<&Value> = match value {
                Value::Null => Vec::new(),
                Value::Array(list) => list.iter().collect(),
                Value::Object(by_name) => by_name.values().collect(),
                _ => return Err(settings.error(name, "is not a list of tokens")),
            };
            for value in list {
                special.push(token(settings, name, value, true)?);
            }
        }
        let is_special = |content: &str| special.iter().any(|t: &NewToken| t.content == content);
        let mut all = self.decoder()?;
        all.extend(self.added(is_special)?);
        for token in &mut all {
            token.special |= is_special(&token.content);
        }
        all.extend(special);
        Ok(all)
    }

    /// The tokens in `added_tokens_decoder`, by id.
    fn decoder(&self) -> Result<Vec<NewToken>, Error> {
        let Some(config) = &self.config else { return Ok(Vec::new()) };
        let Some(value) = config.get(DECODER) else { return Ok(Vec::new()) };
        let wrong = |what: String| config.error(DECODER, what);
        let by_id = value.as_object().ok_or_else(|| wrong("is not an object".into()))?;
        let mut tokens = Vec::with_capacity(by_id.len());
        for (id, value) in by_id {
            let id =
                id.parse().map_err(|_| wrong(format!("has the key {id:?}, not a token id")))?;
            tokens.push(NewToken { id: Some(id), ..token(config, DECODER, value, false)? });
        }
        tokens.sort_by_key(|t| t.id);
        Ok(tokens)
    }

    /// The tokens in `added_tokens.json`, by id.
    fn added(&self, is_special: impl Fn(&str) -> bool) -> Result<Vec<NewToken>, Error> {
        let Some(added) = &self.added else { return Ok(Vec::new()) };
        let mut tokens = Vec::new();
        for (content, id) in added.map() {
            let wrong = || added.error(content, "is not a token id");
            let id = id.as_u64().and_then(|id| id.try_into().ok()).ok_or_else(wrong)?;
            let special = is_special(content);
            tokens.push(NewToken {
                content: content.clone(),
                id: Some(id),
                normalized: !special,
                special,
                ..NewToken::default()
            });
        }
        tokens.sort_by_key(|t| t.id);
        Ok(tokens)
    }
}

/// A token that is written as its text, or as an object.
fn token(settings: &Settings, key: &str, value: &Value, special: bool) -> Result<NewToken, Error> {
    let flag = |name: &str, default| value[name].as_bool().unwrap_or(default);
    let text = value.as_str().or_else(|| value["content"].as_str());
    let wrong = || settings.error(key, "is neither a text nor an object with a text \"content\"");
    let special = special || flag("special", false);
    Ok(NewToken {
        content: text.ok_or_else(wrong)?.to_owned(),
        id: None,
        single_word: flag("single_word", false),
        lstrip: flag("lstrip", false),
        rstrip: flag("rstrip", false),
        normalized: flag("normalized", !special),
        special,
    })
}

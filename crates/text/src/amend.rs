//! Changes to a published `tokenizer.json` that other files of the model require.
//!
//! The JSON is returned as it is, byte for byte, if nothing has to change.

use std::collections::{HashMap, HashSet};

use serde_json::{Map, Value};

use crate::Error;
use crate::bytes::byte_token;
use crate::json::{AddedToken, Body, Head, Kind, vocabulary};

/// A token that should be extracted from text before BPE runs; see [`add_tokens`].
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct NewToken {
    /// The text.
    pub content: String,
    /// The id, if it is stated; otherwise, the token must be in the vocabulary.
    pub id: Option<u32>,
    /// Matches only whole words.
    pub single_word: bool,
    /// Strips the whitespace before it.
    pub lstrip: bool,
    /// Strips the whitespace after it.
    pub rstrip: bool,
    /// Is matched in normalised text.
    pub normalized: bool,
    /// Is a control token, which plain text never yields.
    pub special: bool,
}

/// Adds the tokens that `tokenizer_json` lacks. As in transformers, those that it has keep its
/// definition, and those in its vocabulary keep their ids. Others need an id.
///
/// Also returns the texts of tokens that were left out because their ids belong to others.
///
/// # Errors
/// [`Error::Json`] or [`Error::Tokenizer`] if the JSON is malformed.
pub fn add_tokens(
    tokenizer_json: Vec<u8>,
    tokens: &[NewToken],
) -> Result<(Vec<u8>, Vec<String>), Error> {
    let head = Head::parse(&tokenizer_json)?;
    let mut known: HashSet<&str> = head.added_tokens.iter().map(|t| t.content.as_str()).collect();
    let mut new: Vec<&NewToken> = Vec::new();
    for token in tokens {
        if !token.content.is_empty() && known.insert(&token.content) {
            new.push(token);
        }
    }
    if new.is_empty() {
        return Ok((tokenizer_json, Vec::new()));
    }
    let vocab = vocabulary(head.kind(), &tokenizer_json)?.0;
    let ids: HashMap<&str, u32> = vocab.iter().map(|(text, id)| (text.as_str(), *id)).collect();
    let mut taken: HashSet<u32> = ids.values().copied().collect();
    taken.extend(head.added_tokens.iter().map(|t| t.id));
    let (mut added, mut left_out) = (Vec::new(), Vec::new());
    for token in new {
        let free = || token.id.filter(|id| taken.insert(*id));
        match ids.get(token.content.as_str()).copied().or_else(free) {
            Some(id) => added.push(serde_json::to_value(token.with_id(id))?),
            None if token.id.is_some() => left_out.push(token.content.clone()),
            None => {}
        }
    }
    if added.is_empty() {
        return Ok((tokenizer_json, left_out));
    }
    let mut json: Map<String, Value> = serde_json::from_slice(&tokenizer_json)?;
    match json.get_mut("added_tokens") {
        Some(Value::Array(list)) => list.extend(added),
        _ => _ = json.insert("added_tokens".to_owned(), Value::Array(added)),
    }
    Ok((sorted(json)?, left_out))
}

/// The JSON with sorted keys, even if another crate of the program makes `serde_json` keep their order: the
/// bytes of a converted file depend on it.
fn sorted(json: Map<String, Value>) -> Result<Vec<u8>, Error> {
    let mut json = Value::Object(json);
    json.sort_all_objects();
    Ok(serde_json::to_vec(&json)?)
}

impl NewToken {
    fn with_id(&self, id: u32) -> AddedToken {
        AddedToken {
            id,
            content: self.content.clone(),
            single_word: self.single_word,
            lstrip: self.lstrip,
            rstrip: self.rstrip,
            normalized: self.normalized,
            special: self.special,
        }
    }
}

/// Removes the tokens with ids of `rows` and above, for which a model has no embeddings, unless ordinary
/// text could yield them: then the tokenizer belongs to another model, which [`crate::build_vocab`]
/// reports.
///
/// Also returns the texts of the removed tokens.
///
/// # Errors
/// [`Error::Json`] or [`Error::Tokenizer`] if the JSON is malformed.
pub fn drop_tokens(tokenizer_json: Vec<u8>, rows: u32) -> Result<(Vec<u8>, Vec<String>), Error> {
    let head = Head::parse(&tokenizer_json)?;
    if head.kind() != Kind::Bpe {
        return Ok((tokenizer_json, Vec::new()));
    }
    let body: Body = serde_json::from_slice(&tokenizer_json)?;
    let listed = body.model.vocab.0.iter().map(|(text, id)| (*id, text.as_str()));
    let added = head.added_tokens.iter().map(|t| (t.id, t.content.as_str()));
    let mut beyond: Vec<(u32, &str)> = listed.chain(added).filter(|(id, _)| *id >= rows).collect();
    beyond.sort_unstable();
    beyond.dedup();
    if beyond.is_empty() {
        return Ok((tokenizer_json, Vec::new()));
    }
    let merges = body.model.merges.iter();
    let merged: HashSet<String> = merges.map(|m| format!("{}{}", m.0, m.1)).collect();
    let is_text = |text: &str| {
        merged.contains(text) || text.chars().count() == 1 || byte_token(text).is_some()
    };
    if beyond.iter().any(|(_, text)| is_text(text)) {
        return Ok((tokenizer_json, Vec::new()));
    }
    let is_kept = |id: &Value| id.as_u64().is_none_or(|id| id < u64::from(rows));
    let mut json: Map<String, Value> = serde_json::from_slice(&tokenizer_json)?;
    if let Some(list) = json.get_mut("added_tokens").and_then(Value::as_array_mut) {
        list.retain(|token| is_kept(&token["id"]));
    }
    let vocab = json.get_mut("model").and_then(|model| model.get_mut("vocab"));
    if let Some(vocab) = vocab.and_then(Value::as_object_mut) {
        vocab.retain(|_, id| is_kept(id));
    }
    let dropped = beyond.into_iter().map(|(_, text)| text.to_owned()).collect();
    Ok((sorted(json)?, dropped))
}

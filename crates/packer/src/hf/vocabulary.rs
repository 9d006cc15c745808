//! The tokenizer of a folder without `tokenizer.json`, built from the files that came before it:
//! SentencePiece's `tokenizer.model`, or GPT-2's `vocab.json` and `merges.txt`.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use nanoinfer_text::{
    GgufVocab, sentencepiece_is_unigram, tokenizer_json_from_gguf,
    tokenizer_json_from_sentencepiece,
};
use serde_json::Value;

use super::settings::{Settings, read_bytes, read_text};
use crate::Error;

/// The names under which transformers stores SentencePiece models.
const SENTENCE_PIECE: [&str; 3] = ["tokenizer.model", "spiece.model", "sentencepiece.bpe.model"];
/// Classes of tokenizers that use the ids of a Unigram model as they are. Those of XLM-R and others move them.
const SAME_IDS: [&str; 2] = ["LlamaTokenizer", "T5Tokenizer"];
/// Vocabularies that are not read.
const OTHERS: [&str; 4] = ["tekken.json", "tokenizer.tiktoken", "vocab.txt", "vocab.json"];
const NEXT: &str = "add the model's tokenizer.json, which transformers writes with \
                    AutoTokenizer.from_pretrained(folder).save_pretrained(folder)";
/// GGUF token types.
const NORMAL: i32 = 1;
const CONTROL: i32 = 3;
const UNUSED: i32 = 5;
/// More than any published vocabulary has.
const MAX_TOKENS: usize = 1 << 24;

/// The contents of a `tokenizer.json`, and the files that it was built from.
pub(super) struct Built {
    pub(super) json: Vec<u8>,
    pub(super) files: Vec<PathBuf>,
}

/// Builds the tokenizer; `None` if the folder has no vocabulary at all.
///
/// # Errors
/// The vocabulary is damaged or of a kind that is not supported.
pub(super) fn build(
    folder: &Path,
    config: &Settings,
    tokenizer_config: Option<&Settings>,
) -> Result<Option<Built>, Error> {
    let existing = |name: &str| Some(folder.join(name)).filter(|path| path.exists());
    if let Some(path) = SENTENCE_PIECE.iter().find_map(|name| existing(name)) {
        return sentence_piece(path, tokenizer_config).map(Some);
    }
    let byte_level = existing("vocab.json").zip(existing("merges.txt"));
    if let (Some(files), Some(pre)) = (byte_level, pre_tokenizer(config, tokenizer_config)?) {
        return gpt2(folder, files, pre, tokenizer_config).map(Some);
    }
    match OTHERS.iter().find(|name| existing(name).is_some()) {
        None => Ok(None),
        Some(other) => {
            let what =
                format!("has {other}, which cannot be used without a tokenizer.json; {NEXT}");
            Err(Error::source(folder, what))
        }
    }
}

fn sentence_piece(path: PathBuf, tokenizer_config: Option<&Settings>) -> Result<Built, Error> {
    let model = read_bytes(&path)?;
    if is_tiktoken(&model) {
        let what = format!("is a tiktoken vocabulary, not a SentencePiece model; {NEXT}");
        return Err(Error::source(&path, what));
    }
    let class = tokenizer_config.map(|c| c.str("tokenizer_class")).transpose()?.flatten();
    let class = class.map_or("LlamaTokenizer", |class| class.trim_end_matches("Fast"));
    if sentencepiece_is_unigram(&model) && !SAME_IDS.contains(&class) {
        let what = format!("is a Unigram model, whose ids {class} may change; {NEXT}");
        return Err(Error::source(&path, what));
    }
    // transformers' defaults for the tokenizers that read such a file.
    let add_bos = match tokenizer_config {
        Some(c) => c.bool("add_bos_token")?.unwrap_or(class != "T5Tokenizer"),
        None => true,
    };
    let json = tokenizer_json_from_sentencepiece(&model, add_bos)
        .map_err(|source| Error::Text { path: path.clone(), source })?;
    Ok(Built { json, files: vec![path] })
}

/// Lines of a token in base64 and its rank.
fn is_tiktoken(bytes: &[u8]) -> bool {
    let line = bytes.split(|&b| b == b'\n').next().unwrap_or_default();
    let mut words = line.splitn(2, |&b| b == b' ');
    let (token, rank) = (words.next().unwrap_or_default(), words.next().unwrap_or_default());
    let base64 = |b: &u8| b.is_ascii_alphanumeric() || matches!(b, b'+' | b'/' | b'=');
    !token.is_empty()
        && token.iter().all(base64)
        && !rank.is_empty()
        && rank.trim_ascii_end().iter().all(u8::is_ascii_digit)
}

/// The pre-tokenizer that the tokenizer's class implies, as named in GGUF files.
fn pre_tokenizer(
    config: &Settings,
    tokenizer_config: Option<&Settings>,
) -> Result<Option<&'static str>, Error> {
    let class = tokenizer_config.map(|c| c.str("tokenizer_class")).transpose()?.flatten();
    let class = class.map(|class| class.trim_end_matches("Fast"));
    Ok(match (class, config.str("model_type")?) {
        (Some("GPT2Tokenizer"), _) => Some("gpt-2"),
        (Some("Qwen2Tokenizer"), _) => Some("qwen2"),
        (None, Some(name)) if name.starts_with("qwen") => Some("qwen2"),
        (None, Some("starcoder2")) => Some("gpt-2"),
        _ => None,
    })
}

fn gpt2(
    folder: &Path,
    (vocab, merges): (PathBuf, PathBuf),
    pre: &'static str,
    tokenizer_config: Option<&Settings>,
) -> Result<Built, Error> {
    let settings = Settings::read(&vocab)?;
    let mut ids = BTreeMap::new();
    for token in settings.keys() {
        let id = settings.need(token, settings.u32(token)?)? as usize;
        if id >= MAX_TOKENS || ids.insert(id, token).is_some() {
            return Err(settings.error(token, format!("has the id {id}, which is impossible")));
        }
    }
    let n = ids.last_key_value().map_or(0, |(id, _)| id + 1);
    if n > 2 * ids.len() + 1024 {
        let what = format!("has {} tokens but ids up to {}", ids.len(), n - 1);
        return Err(Error::source(&vocab, what));
    }
    let special = special_tokens(folder, tokenizer_config)?;
    let kind = |id| match ids.get(&id) {
        None => UNUSED,
        Some(token) if special.iter().any(|s| s == token) => CONTROL,
        Some(_) => NORMAL,
    };
    let types: Vec<i32> = (0..n).map(kind).collect();
    let text = |id| ids.get(&id).map_or_else(|| format!("[PAD{id}]"), |token| (*token).to_owned());
    let tokens: Vec<String> = (0..n).map(text).collect();
    let text = read_text(&merges)?;
    let lines = text.lines().filter(|line| !line.is_empty());
    let lines = lines.enumerate().filter(|(i, line)| *i > 0 || !line.starts_with("#version"));
    let pairs: Vec<String> = lines.map(|(_, line)| line.to_owned()).collect();
    let json = tokenizer_json_from_gguf(&GgufVocab {
        pre,
        types: &types,
        merges: Some(&pairs),
        ..GgufVocab::new("gpt2", &tokens)
    })
    .map_err(|source| Error::Text { path: folder.into(), source })?;
    Ok(Built { json, files: vec![vocab, merges] })
}

/// The texts of the tokens that transformers treats as special.
fn special_tokens(
    folder: &Path,
    tokenizer_config: Option<&Settings>,
) -> Result<Vec<String>, Error> {
    let path = folder.join("special_tokens_map.json");
    let map = if path.exists() { Some(Settings::read(&path)?) } else { None };
    let mut special = vec!["<|endoftext|>".to_owned()];
    for settings in [map.as_ref(), tokenizer_config].into_iter().flatten() {
        for key in ["bos_token", "eos_token", "unk_token", "pad_token"] {
            let value = settings.get(key).map(|v| v.get("content").unwrap_or(v));
            special.extend(value.and_then(Value::as_str).map(str::to_owned));
        }
    }
    Ok(special)
}

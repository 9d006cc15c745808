//! Builds a `tokenizer.json` from the tokenizer metadata of a GGUF file.
//!
//! GGUF stores the vocabulary as lists of tokens, scores, types and merges. Converting them to JSON
//! leaves a single input format for the rest of the crate.

use std::collections::{BTreeMap, HashMap};

use serde::Serialize;

use crate::Error;
use crate::bytes::byte_token;
use crate::control::{self, CONTROL, StatedEnds};
use crate::json::{
    AddedToken, Body, BodyModel, Decoder, Head, MergePair, ModelHead, Normalizer, Pattern,
    PostProcessor, PreTokenizer, PrependScheme, TemplatePiece, TemplateToken, VocabMap,
};
use crate::pre;

// More GGUF token types.
const UNKNOWN: i32 = 2;
const USER_DEFINED: i32 = 4;
const BYTE: i32 = 6;

/// The control tokens of Phi-3 that do not strip the whitespace after them.
const STRIP_NOTHING: [&str; 3] = ["<unk>", "<s>", "<|endoftext|>"];

/// Maximum token length, in bytes, when merges are derived; about 100 in published vocabularies.
const LONGEST: usize = 512;
/// Maximum average number of derived merges per token; published vocabularies have about 2.
const MERGES_PER_TOKEN: usize = 32;

/// The `tokenizer.ggml.*` keys of a GGUF file. `S` is any string type.
#[derive(Debug)]
pub struct GgufVocab<'a, S> {
    /// `model`: `gpt2` (byte-level BPE with merges), `llama` (SentencePiece with scores), or `gemma4` (SentencePiece's
    /// tokens with merges, without a blank before the text).
    pub model: &'a str,
    /// `pre`: the name of the pre-tokenizer, for `gpt2`; empty if the key is absent.
    pub pre: &'a str,
    /// `tokens`: the string of every id.
    pub tokens: &'a [S],
    /// `scores`: one per token; used for `llama` without merges.
    pub scores: Option<&'a [f32]>,
    /// `token_type`: one per token; empty if the key is absent, in which case all tokens are normal.
    pub types: &'a [i32],
    /// `merges`: space-separated pairs in the order in which they were learned.
    pub merges: Option<&'a [S]>,
    /// `add_space_prefix`, for `llama`; true if the key is absent.
    pub add_space_prefix: bool,
    /// Whether control tokens strip the whitespace after them. GGUF has no key for this: it is known for
    /// models named Phi-3.
    pub strips_space: bool,
    /// `bos_token_id`, if `add_bos_token` is set: prepended to raw prompts.
    pub bos: Option<u32>,
    /// `eos_token_id`, if `add_eos_token` is set: follows texts that are embedded, see [`crate::Tokenizer::suffix`].
    pub eos: Option<u32>,
    /// `unknown_token_id`.
    pub unk: Option<u32>,
}

#[derive(Serialize)]
struct Json {
    version: &'static str,
    truncation: Option<()>,
    padding: Option<()>,
    added_tokens: Vec<AddedToken>,
    normalizer: Option<Normalizer>,
    pre_tokenizer: Option<PreTokenizer>,
    post_processor: Option<PostProcessor>,
    decoder: Option<Decoder>,
    model: Model,
}

#[derive(Serialize)]
struct Model {
    #[serde(flatten)]
    head: ModelHead,
    #[serde(flatten)]
    body: BodyModel,
}

/// Builds a Hugging Face `tokenizer.json`.
///
/// For `llama` vocabularies with scores but no merges, the merges are derived as in Hugging Face's
/// converter: every split of a token into two tokens is a merge, sorted by descending score.
///
/// # Errors
/// [`Error::Gguf`] with the key that is missing, contradicts another, or names an unsupported model or
/// pre-tokenizer.
pub fn tokenizer_json_from_gguf<S: AsRef<str>>(gguf: &GgufVocab<'_, S>) -> Result<Vec<u8>, Error> {
    let n = gguf.tokens.len();
    if !gguf.types.is_empty() && gguf.types.len() < n {
        let what = format!("{} types for {n} tokens", gguf.types.len());
        return Err(Error::gguf("tokenizer.ggml.token_type", what));
    }
    let head = match gguf.model {
        "gpt2" => byte_level(gguf)?,
        "llama" => sentence_piece(gguf, gguf.add_space_prefix)?,
        // Tokens as in SentencePiece, merges as in files for GPT-2.
        "gemma4" => sentence_piece(gguf, false)?,
        other => {
            let what = format!("{other:?} is not supported, only gpt2, llama and gemma4");
            return Err(Error::gguf("tokenizer.ggml.model", what));
        }
    };
    let merges = match (gguf.merges, gguf.scores) {
        (Some(merges), _) => merges.iter().map(|m| split_merge(m.as_ref())).collect(),
        (None, Some(scores)) if gguf.model == "llama" => derive_merges(gguf, scores),
        _ => Err(Error::gguf("tokenizer.ggml.merges", "is missing")),
    }?;
    let body = Body { model: BodyModel { vocab: vocabulary(gguf), merges } };
    let json = Json {
        version: "1.0",
        truncation: None,
        padding: None,
        added_tokens: head.added_tokens,
        normalizer: head.normalizer,
        pre_tokenizer: head.pre_tokenizer,
        post_processor: head.post_processor,
        decoder: head.decoder,
        model: Model { head: head.model, body: body.model },
    };
    Ok(serde_json::to_vec(&json)?)
}

impl<S: AsRef<str>> GgufVocab<'_, S> {
    /// The tokens that end a response: those that the file states, then those known by their texts, such
    /// as `<|im_end|>`.
    pub fn end_tokens(&self, stated: &StatedEnds) -> Vec<u32> {
        let mut ids = HashMap::new();
        for (id, text) in self.texts().filter(|(id, _)| self.kind(*id) == CONTROL) {
            ids.entry(text).or_insert(id as u32);
        }
        control::ends(&ids, stated)
    }

    fn kind(&self, id: usize) -> i32 {
        let text = self.tokens.get(id).map_or("", AsRef::as_ref);
        control::kind(text, self.types.get(id).copied())
    }

    fn texts(&self) -> impl Iterator<Item = (usize, &str)> {
        self.tokens.iter().map(AsRef::as_ref).enumerate()
    }

    fn text(&self, key: &'static str, id: u32) -> Result<&str, Error> {
        let what = || format!("id {id} is not among the {} tokens", self.tokens.len());
        Ok(self.tokens.get(id as usize).ok_or_else(|| Error::gguf(key, what()))?.as_ref())
    }
}

/// If several ids have the same string, only the first is kept: encoding could never produce the rest.
fn vocabulary<S: AsRef<str>>(gguf: &GgufVocab<'_, S>) -> VocabMap {
    let mut seen = HashMap::with_capacity(gguf.tokens.len());
    let mut pairs = Vec::with_capacity(gguf.tokens.len());
    for (id, text) in gguf.texts() {
        if seen.insert(text, ()).is_none() {
            pairs.push((text.to_owned(), id as u32));
        }
    }
    VocabMap(pairs)
}

fn added<S: AsRef<str>>(gguf: &GgufVocab<'_, S>, unknown_too: bool) -> Vec<AddedToken> {
    let special = |kind| kind == CONTROL || unknown_too && kind == UNKNOWN;
    let all = gguf.texts().map(|(id, text)| (id, text, gguf.kind(id)));
    all.filter(|(_, text, kind)| !text.is_empty() && (special(*kind) || *kind == USER_DEFINED))
        .map(|(id, text, kind)| AddedToken {
            id: id as u32,
            content: text.to_owned(),
            single_word: false,
            lstrip: false,
            rstrip: gguf.strips_space && !STRIP_NOTHING.contains(&text),
            normalized: false,
            special: special(kind),
        })
        .collect()
}

/// The tokens around a text, if there are any.
fn around<S: AsRef<str>>(gguf: &GgufVocab<'_, S>) -> Result<Option<PostProcessor>, Error> {
    let mut special_tokens = BTreeMap::new();
    let mut piece = |key, id: Option<u32>| {
        let Some(id) = id else { return Ok(None) };
        let text = gguf.text(key, id)?.to_owned();
        let token = TemplateToken { id: text.clone(), ids: vec![id], tokens: vec![text.clone()] };
        special_tokens.insert(text.clone(), token);
        Ok::<_, Error>(Some(TemplatePiece::SpecialToken { id: text, type_id: 0 }))
    };
    let before = piece("tokenizer.ggml.bos_token_id", gguf.bos)?;
    let after = piece("tokenizer.ggml.eos_token_id", gguf.eos)?;
    let sequence = TemplatePiece::Sequence { id: "A".to_owned(), type_id: 0 };
    let single: Vec<_> = before.into_iter().chain([sequence]).chain(after).collect();
    let is_any = single.len() > 1;
    Ok(is_any.then_some(PostProcessor::TemplateProcessing {
        single,
        pair: Vec::new(),
        special_tokens,
    }))
}

fn byte_level<S: AsRef<str>>(gguf: &GgufVocab<'_, S>) -> Result<Head, Error> {
    let rules = pre::rules(gguf.pre).ok_or_else(|| {
        let what = format!("{:?} is not supported, only {}", gguf.pre, pre::known());
        Error::gguf("tokenizer.ggml.pre", what)
    })?;
    Ok(Head {
        added_tokens: added(gguf, false),
        normalizer: rules.normalizer,
        pre_tokenizer: Some(rules.pre_tokenizer),
        post_processor: around(gguf)?,
        decoder: Some(Decoder::ByteLevel { add_prefix_space: true, trim_offsets: true }),
        model: ModelHead {
            kind: Some("BPE".to_owned()),
            ignore_merges: rules.ignore_merges,
            ..ModelHead::default()
        },
    })
}

fn sentence_piece<S: AsRef<str>>(gguf: &GgufVocab<'_, S>, prefix: bool) -> Result<Head, Error> {
    let mut bytes: Vec<u8> = gguf.texts().filter_map(|(_, text)| byte_token(text)).collect();
    bytes.sort_unstable();
    bytes.dedup();
    let blank = |pattern: &str| Pattern::String(pattern.to_owned());
    let space = Decoder::Replace { pattern: blank("▁"), content: " ".to_owned() };
    let mut decoders = vec![space, Decoder::ByteFallback {}, Decoder::Fuse {}];
    if prefix {
        decoders.push(Decoder::Strip { content: ' ', start: 1, stop: 0 });
    }
    // Every text between control tokens gets a blank, even if it begins with one.
    let normalizer = prefix.then(|| Normalizer::Sequence {
        normalizers: vec![
            Normalizer::Prepend { prepend: "▁".to_owned() },
            Normalizer::Replace { pattern: blank(" "), content: "▁".to_owned() },
        ],
    });
    let pre_tokenizer = (!prefix).then_some(PreTokenizer::Metaspace {
        replacement: '▁',
        prepend_scheme: Some(PrependScheme::Never),
        add_prefix_space: None,
        split: false,
    });
    let unk = gguf.unk.map(|id| gguf.text("tokenizer.ggml.unknown_token_id", id)).transpose()?;
    Ok(Head {
        added_tokens: added(gguf, true),
        normalizer,
        pre_tokenizer,
        post_processor: around(gguf)?,
        decoder: Some(Decoder::Sequence { decoders }),
        model: ModelHead {
            kind: Some("BPE".to_owned()),
            unk_token: unk.map(str::to_owned),
            fuse_unk: true,
            byte_fallback: bytes.len() == 256,
            ..ModelHead::default()
        },
    })
}

fn split_merge(merge: &str) -> Result<MergePair, Error> {
    match merge.split_once(' ') {
        Some((left, right)) if !right.contains(' ') => {
            Ok(MergePair(left.to_owned(), right.to_owned()))
        }
        _ => Err(Error::gguf("tokenizer.ggml.merges", format!("{merge:?} is not a pair"))),
    }
}

/// A split of token `id` into two tokens, the second of which starts at byte `at`.
struct Split {
    id: usize,
    at: usize,
    score: f32,
    chars: [usize; 2],
}

/// Every split of a token into two tokens, by descending score; ties go to the longer left part, then
/// to vocabulary order.
fn derive_merges<S: AsRef<str>>(
    gguf: &GgufVocab<'_, S>,
    scores: &[f32],
) -> Result<Vec<MergePair>, Error> {
    let n = gguf.tokens.len();
    if scores.len() < n {
        let what = format!("{} scores for {n} tokens", scores.len());
        return Err(Error::gguf("tokenizer.ggml.scores", what));
    }
    // The strings of control and byte tokens are not text.
    let is_text = |id| !matches!(gguf.kind(id), UNKNOWN | CONTROL | BYTE);
    let texts = || gguf.texts().filter(|(id, _)| is_text(*id));
    let mut ids = HashMap::with_capacity(n);
    texts().for_each(|(id, text)| {
        ids.entry(text).or_insert(id);
    });
    let mut splits = Vec::new();
    for (id, text) in texts() {
        if text.len() > LONGEST {
            let what =
                format!("token {id} has {} bytes, more than the maximum of {LONGEST}", text.len());
            return Err(Error::gguf("tokenizer.ggml.tokens", what));
        }
        let first = splits.len();
        let total = text.chars().count();
        for (chars, (at, _)) in text.char_indices().enumerate().skip(1) {
            let (left, right) = text.split_at(at);
            if ids.contains_key(left) && ids.contains_key(right) {
                splits.push(Split { id, at, score: scores[id], chars: [chars, total - chars] });
            }
        }
        splits[first..].sort_by_key(|s| {
            let (left, right) = gguf.tokens[id].as_ref().split_at(s.at);
            (ids[left], ids[right])
        });
        if splits.len() > MERGES_PER_TOKEN * n {
            let what = format!("more than {MERGES_PER_TOKEN} splits per token on average");
            return Err(Error::gguf("tokenizer.ggml.tokens", what));
        }
    }
    splits.sort_by(|a, b| b.score.total_cmp(&a.score).then(b.chars.cmp(&a.chars)));
    let pair = |s: Split| {
        let (left, right) = gguf.tokens[s.id].as_ref().split_at(s.at);
        MergePair(left.to_owned(), right.to_owned())
    };
    Ok(splits.into_iter().map(pair).collect())
}

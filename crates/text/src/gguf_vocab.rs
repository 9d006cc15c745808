//! The tokenizer metadata of a GGUF file, and what all kinds of models take from it.

use std::collections::{BTreeMap, HashMap};

use crate::Error;
use crate::bytes::byte_token;
use crate::control::{self, CONTROL, StatedEnds};
use crate::json::{
    AddedToken, Decoder, Pattern, PostProcessor, TemplatePiece, TemplateToken, VocabMap,
};

// More GGUF token types.
pub(crate) const UNKNOWN: i32 = 2;
pub(crate) const USER_DEFINED: i32 = 4;
pub(crate) const UNUSED: i32 = 5;
pub(crate) const BYTE: i32 = 6;

/// The control tokens of Phi-3 that do not strip the whitespace after them.
const STRIP_NOTHING: [&str; 3] = ["<unk>", "<s>", "<|endoftext|>"];

/// The `tokenizer.ggml.*` keys of a GGUF file. `S` is any string type.
#[derive(Debug)]
pub struct GgufVocab<'a, S> {
    /// `model`: `gpt2` (byte-level BPE with merges), `llama` (SentencePiece with scores), `gemma4` (SentencePiece's
    /// tokens with merges, without a blank before the text), `t5` (Unigram), or `bert` (WordPiece).
    pub model: &'a str,
    /// `pre`: the name of the pre-tokenizer, for `gpt2`; empty if the key is absent.
    pub pre: &'a str,
    /// `tokens`: the string of every id.
    pub tokens: &'a [S],
    /// `scores`: one per token; used for `t5`, and for `llama` without merges.
    pub scores: Option<&'a [f32]>,
    /// `token_type`: one per token; empty if the key is absent, in which case all tokens are normal.
    pub types: &'a [i32],
    /// `merges`: space-separated pairs in the order in which they were learned.
    pub merges: Option<&'a [S]>,
    /// `add_space_prefix`, for `llama`, where it is true if the key is absent, and `t5`.
    pub add_space_prefix: bool,
    /// `remove_extra_whitespaces`, for `t5`.
    pub remove_extra_whitespaces: bool,
    /// `precompiled_charsmap`, for `t5`: SentencePiece's normalization rules.
    pub charsmap: Option<&'a [u8]>,
    /// `normalizer.lowercase`, for `bert`; true if the key is absent.
    pub lowercase: bool,
    /// `normalizer.strip_accents`, for `bert`; if the key is absent, accents are stripped from lowercase text.
    pub strip_accents: Option<bool>,
    /// Whether control tokens strip the whitespace after them. GGUF has no key for this: it is known for
    /// models named Phi-3.
    pub strips_space: bool,
    /// `bos_token_id`, if `add_bos_token` is set: prepended to raw prompts.
    pub bos: Option<u32>,
    /// `eos_token_id`, if `add_eos_token` is set, or for `bert` the separator: follows texts that are embedded, see
    /// [`crate::Tokenizer::suffix`].
    pub eos: Option<u32>,
    /// `unknown_token_id`.
    pub unk: Option<u32>,
}

impl<'a, S: AsRef<str>> GgufVocab<'a, S> {
    /// A vocabulary with these tokens, all normal, and the defaults of all keys.
    pub fn new(model: &'a str, tokens: &'a [S]) -> Self {
        Self {
            model,
            pre: "",
            tokens,
            scores: None,
            types: &[],
            merges: None,
            add_space_prefix: model != "t5",
            remove_extra_whitespaces: false,
            charsmap: None,
            lowercase: true,
            strip_accents: None,
            strips_space: false,
            bos: None,
            eos: None,
            unk: None,
        }
    }

    /// The same vocabulary with other texts, without merges.
    pub(crate) fn with_tokens<'b, T: AsRef<str>>(&self, tokens: &'b [T]) -> GgufVocab<'b, T>
    where
        'a: 'b,
    {
        GgufVocab {
            pre: self.pre,
            scores: self.scores,
            types: self.types,
            add_space_prefix: self.add_space_prefix,
            remove_extra_whitespaces: self.remove_extra_whitespaces,
            charsmap: self.charsmap,
            lowercase: self.lowercase,
            strip_accents: self.strip_accents,
            strips_space: self.strips_space,
            bos: self.bos,
            eos: self.eos,
            unk: self.unk,
            ..GgufVocab::new(self.model, tokens)
        }
    }

    /// The tokens that end a response: those that the file states, then those known by their texts, such
    /// as `<|im_end|>`.
    pub fn end_tokens(&self, stated: &StatedEnds) -> Vec<u32> {
        let mut ids = HashMap::new();
        for (id, text) in self.texts().filter(|(id, _)| self.kind(*id) == CONTROL) {
            ids.entry(text).or_insert(id as u32);
        }
        control::ends(&ids, stated)
    }

    pub(crate) fn kind(&self, id: usize) -> i32 {
        let text = self.tokens.get(id).map_or("", AsRef::as_ref);
        control::kind(text, self.types.get(id).copied())
    }

    pub(crate) fn texts(&self) -> impl Iterator<Item = (usize, &str)> {
        self.tokens.iter().map(AsRef::as_ref).enumerate()
    }

    /// Whether there is a token for every byte.
    pub(crate) fn has_bytes(&self) -> bool {
        let mut bytes: Vec<u8> = self.texts().filter_map(|(_, text)| byte_token(text)).collect();
        bytes.sort_unstable();
        bytes.dedup();
        bytes.len() == 256
    }

    pub(crate) fn text(&self, key: &'static str, id: u32) -> Result<&str, Error> {
        let what = || format!("id {id} is not among the {} tokens", self.tokens.len());
        Ok(self.tokens.get(id as usize).ok_or_else(|| Error::gguf(key, what()))?.as_ref())
    }
}

/// If several ids have the same string, only the first is kept: encoding could never produce the rest.
pub(crate) fn vocabulary<S: AsRef<str>>(gguf: &GgufVocab<'_, S>) -> VocabMap {
    let mut seen = HashMap::with_capacity(gguf.tokens.len());
    let mut pairs = Vec::with_capacity(gguf.tokens.len());
    for (id, text) in gguf.texts() {
        if seen.insert(text, ()).is_none() {
            pairs.push((text.to_owned(), id as u32));
        }
    }
    VocabMap(pairs)
}

pub(crate) fn added<S: AsRef<str>>(gguf: &GgufVocab<'_, S>, unknown_too: bool) -> Vec<AddedToken> {
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
pub(crate) fn around<S: AsRef<str>>(
    gguf: &GgufVocab<'_, S>,
) -> Result<Option<PostProcessor>, Error> {
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

/// Checks that every token has a score.
pub(crate) fn check_scores<S>(gguf: &GgufVocab<'_, S>, scores: &[f32]) -> Result<(), Error> {
    let n = gguf.tokens.len();
    if scores.len() < n {
        let what = format!("{} scores for {n} tokens", scores.len());
        return Err(Error::gguf("tokenizer.ggml.scores", what));
    }
    Ok(())
}

/// How tokens with SentencePiece's blanks become text; `prefix`: without the blank that precedes it.
pub(crate) fn sentence_piece_decoder(prefix: bool) -> Decoder {
    let pattern = Pattern::String("▁".to_owned());
    let space = Decoder::Replace { pattern, content: " ".to_owned() };
    let mut decoders = vec![space, Decoder::ByteFallback {}, Decoder::Fuse {}];
    if prefix {
        decoders.push(Decoder::Strip { content: ' ', start: 1, stop: 0 });
    }
    Decoder::Sequence { decoders }
}

//! Builds a `tokenizer.json` from the tokenizer metadata of a GGUF file.
//!
//! GGUF stores the vocabulary as lists of tokens, scores, types and merges. Converting them to JSON
//! leaves a single input format for the rest of the crate.

use std::collections::HashMap;

use serde::Serialize;

use crate::Error;
use crate::control::CONTROL;
use crate::gguf_encoders::{unigram, word_piece};
use crate::gguf_vocab::{
    BYTE, GgufVocab, UNKNOWN, added, around, check_scores, sentence_piece_decoder, vocabulary,
};
use crate::json::{
    AddedToken, BodyModel, Decoder, Head, MergePair, ModelHead, Normalizer, Pattern, PostProcessor,
    PreTokenizer, PrependScheme, ScoredModel, VocabModel,
};
use crate::pre;

/// Maximum token length, in bytes, when merges are derived; about 100 in published vocabularies.
const LONGEST: usize = 512;
/// Maximum average number of derived merges per token; published vocabularies have about 2.
const MERGES_PER_TOKEN: usize = 32;

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
    body: Body,
}

/// The vocabulary of a model.
#[derive(Serialize)]
#[serde(untagged)]
enum Body {
    Bpe(BodyModel),
    Unigram(ScoredModel),
    WordPiece(VocabModel),
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
    let (head, body) = match gguf.model {
        "gpt2" => (byte_level(gguf)?, Body::Bpe(merged(gguf)?)),
        "llama" => (sentence_piece(gguf, gguf.add_space_prefix)?, Body::Bpe(merged(gguf)?)),
        // Tokens as in SentencePiece, merges as in files for GPT-2.
        "gemma4" => (sentence_piece(gguf, false)?, Body::Bpe(merged(gguf)?)),
        "t5" => unigram(gguf).map(|(head, vocab)| (head, Body::Unigram(vocab)))?,
        "bert" => word_piece(gguf).map(|(head, vocab)| (head, Body::WordPiece(vocab)))?,
        other => {
            let what = format!("{other:?} is not supported, only gpt2, llama, gemma4, t5 and bert");
            return Err(Error::gguf("tokenizer.ggml.model", what));
        }
    };
    let json = Json {
        version: "1.0",
        truncation: None,
        padding: None,
        added_tokens: head.added_tokens,
        normalizer: head.normalizer,
        pre_tokenizer: head.pre_tokenizer,
        post_processor: head.post_processor,
        decoder: head.decoder,
        model: Model { head: head.model, body },
    };
    Ok(serde_json::to_vec(&json)?)
}

/// The tokens and merges of a byte-pair encoding.
fn merged<S: AsRef<str>>(gguf: &GgufVocab<'_, S>) -> Result<BodyModel, Error> {
    let merges = match (gguf.merges, gguf.scores) {
        (Some(merges), _) => merges.iter().map(|m| split_merge(m.as_ref())).collect(),
        (None, Some(scores)) if gguf.model == "llama" => derive_merges(gguf, scores),
        _ => Err(Error::gguf("tokenizer.ggml.merges", "is missing")),
    }?;
    Ok(BodyModel { vocab: vocabulary(gguf), merges })
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
    let blank = |pattern: &str| Pattern::String(pattern.to_owned());
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
        decoder: Some(sentence_piece_decoder(prefix)),
        model: ModelHead {
            kind: Some("BPE".to_owned()),
            unk_token: unk.map(str::to_owned),
            fuse_unk: true,
            byte_fallback: gguf.has_bytes(),
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
    check_scores(gguf, scores)?;
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

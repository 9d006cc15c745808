//! The supported subset of a Hugging Face `tokenizer.json`.
//!
//! [`Head`] is everything except the vocabulary and the merges: a few kilobytes that define how text is
//! normalised, split and decoded. The native form contains it too. An unknown `type` is reported by
//! name, never silently approximated.

use std::fmt;

use serde::de::{MapAccess, SeqAccess, Visitor};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::Error;

#[derive(Serialize, Deserialize)]
pub(crate) struct Head {
    #[serde(default, deserialize_with = "null_is_empty")]
    pub(crate) added_tokens: Vec<AddedToken>,
    pub(crate) normalizer: Option<Normalizer>,
    pub(crate) pre_tokenizer: Option<PreTokenizer>,
    pub(crate) post_processor: Option<PostProcessor>,
    pub(crate) decoder: Option<Decoder>,
    pub(crate) model: ModelHead,
}

impl Head {
    pub(crate) fn parse(json: &[u8]) -> Result<Self, Error> {
        let stated: Stated = serde_json::from_slice(json)?;
        if let Some(kind) = stated.model.kind.filter(|k| Kind::named(k).is_none()) {
            let what = format!("{kind} models are not supported, only BPE, Unigram and WordPiece");
            return Err(Error::tokenizer("model", what));
        }
        let head: Self = serde_json::from_slice(json)?;
        if head.kind() != Kind::Bpe {
            return Ok(head);
        }
        let m = &head.model;
        let affix = [&m.continuing_subword_prefix, &m.end_of_word_suffix];
        if affix.into_iter().flatten().any(|s| !s.is_empty()) {
            return Err(Error::tokenizer(
                "model",
                "subword prefixes and suffixes are not supported",
            ));
        }
        Ok(head)
    }

    /// The kind of model.
    pub(crate) fn kind(&self) -> Kind {
        self.model.kind.as_deref().and_then(Kind::named).unwrap_or(Kind::Bpe)
    }
}

/// The kinds of models.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Bpe,
    Unigram,
    WordPiece,
}

impl Kind {
    fn named(name: &str) -> Option<Self> {
        match name {
            "BPE" => Some(Self::Bpe),
            "Unigram" => Some(Self::Unigram),
            "WordPiece" => Some(Self::WordPiece),
            _ => None,
        }
    }
}

#[derive(Deserialize)]
struct Stated {
    model: ModelKind,
}

#[derive(Deserialize)]
struct ModelKind {
    #[serde(rename = "type")]
    kind: Option<String>,
}

fn null_is_empty<'de, D: Deserializer<'de>>(d: D) -> Result<Vec<AddedToken>, D::Error> {
    Ok(Option::<Vec<AddedToken>>::deserialize(d)?.unwrap_or_default())
}

/// The model without its vocabulary and merges.
#[derive(Serialize, Deserialize, Default)]
pub(crate) struct ModelHead {
    #[serde(rename = "type", default)]
    pub(crate) kind: Option<String>,
    pub(crate) unk_token: Option<String>,
    pub(crate) continuing_subword_prefix: Option<String>,
    pub(crate) end_of_word_suffix: Option<String>,
    #[serde(default)]
    pub(crate) fuse_unk: bool,
    #[serde(default)]
    pub(crate) byte_fallback: bool,
    #[serde(default)]
    pub(crate) ignore_merges: bool,
    /// The unknown token of a Unigram model.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) unk_id: Option<u32>,
    /// The longest word of a WordPiece model.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) max_input_chars_per_word: Option<u32>,
}

#[derive(Serialize, Deserialize, Clone)]
pub(crate) struct AddedToken {
    pub(crate) id: u32,
    pub(crate) content: String,
    #[serde(default)]
    pub(crate) single_word: bool,
    #[serde(default)]
    pub(crate) lstrip: bool,
    #[serde(default)]
    pub(crate) rstrip: bool,
    #[serde(default)]
    pub(crate) normalized: bool,
    #[serde(default)]
    pub(crate) special: bool,
}

#[derive(Serialize, Deserialize)]
pub(crate) enum Pattern {
    String(String),
    Regex(String),
}

#[derive(Serialize, Deserialize)]
#[serde(tag = "type")]
pub(crate) enum Normalizer {
    Sequence {
        normalizers: Vec<Normalizer>,
    },
    #[serde(rename = "NFC")]
    Nfc,
    #[serde(rename = "NFD")]
    Nfd,
    #[serde(rename = "NFKC")]
    Nfkc,
    #[serde(rename = "NFKD")]
    Nfkd,
    Lowercase,
    Prepend {
        prepend: String,
    },
    Replace {
        pattern: Pattern,
        content: String,
    },
    Strip {
        strip_left: bool,
        strip_right: bool,
    },
    StripAccents,
    Precompiled {
        precompiled_charsmap: String,
    },
    #[serde(rename = "BertNormalizer")]
    Bert {
        #[serde(default = "yes")]
        clean_text: bool,
        #[serde(default = "yes")]
        handle_chinese_chars: bool,
        strip_accents: Option<bool>,
        #[serde(default = "yes")]
        lowercase: bool,
    },
}

#[derive(Serialize, Deserialize, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Behavior {
    Removed,
    Isolated,
    MergedWithPrevious,
    MergedWithNext,
    Contiguous,
}

#[derive(Serialize, Deserialize, Clone, Copy, PartialEq, Eq)]
#[serde(rename_all = "snake_case")]
pub(crate) enum PrependScheme {
    First,
    Never,
    Always,
}

#[derive(Serialize, Deserialize)]
#[serde(tag = "type")]
pub(crate) enum PreTokenizer {
    Sequence {
        pretokenizers: Vec<PreTokenizer>,
    },
    ByteLevel {
        add_prefix_space: bool,
        #[serde(default = "yes")]
        trim_offsets: bool, // does not affect ids, but the reference requires it
        #[serde(default = "yes")]
        use_regex: bool,
    },
    Metaspace {
        replacement: char,
        prepend_scheme: Option<PrependScheme>,
        #[serde(skip_serializing_if = "Option::is_none")]
        add_prefix_space: Option<bool>,
        #[serde(default = "yes")]
        split: bool,
    },
    Split {
        pattern: Pattern,
        behavior: Behavior,
        #[serde(default)]
        invert: bool,
    },
    Digits {
        #[serde(default)]
        individual_digits: bool,
    },
    Punctuation {
        #[serde(default = "isolated")]
        behavior: Behavior,
    },
    Whitespace,
    WhitespaceSplit,
    #[serde(rename = "BertPreTokenizer")]
    Bert,
}

#[derive(Serialize, Deserialize)]
#[serde(tag = "type")]
pub(crate) enum Decoder {
    Sequence {
        decoders: Vec<Decoder>,
    },
    ByteLevel {
        #[serde(default = "yes")]
        add_prefix_space: bool, // the reference requires these as well
        #[serde(default = "yes")]
        trim_offsets: bool,
    },
    Metaspace {
        replacement: char,
        prepend_scheme: Option<PrependScheme>,
        add_prefix_space: Option<bool>,
    },
    Replace {
        pattern: Pattern,
        content: String,
    },
    ByteFallback {},
    Fuse {},
    WordPiece {
        #[serde(default = "word_piece")]
        prefix: String,
        #[serde(default = "yes")]
        cleanup: bool,
    },
    Strip {
        content: char,
        start: u32,
        stop: u32,
    },
}

/// Only the ids before the text are used: the BOS token of raw prompts.
#[derive(Serialize, Deserialize)]
#[serde(tag = "type")]
pub(crate) enum PostProcessor {
    Sequence {
        processors: Vec<PostProcessor>,
    },
    TemplateProcessing {
        single: Vec<TemplatePiece>,
        #[serde(default)]
        pair: Vec<TemplatePiece>,
        special_tokens: std::collections::BTreeMap<String, TemplateToken>,
    },
    #[serde(other)]
    Other,
}

#[derive(Serialize, Deserialize)]
pub(crate) enum TemplatePiece {
    SpecialToken { id: String, type_id: u32 },
    Sequence { id: String, type_id: u32 },
}

#[derive(Serialize, Deserialize)]
pub(crate) struct TemplateToken {
    pub(crate) id: String,
    pub(crate) ids: Vec<u32>,
    pub(crate) tokens: Vec<String>,
}

impl PostProcessor {
    /// The ids that the post-processor puts before a single sequence.
    pub(crate) fn prefix(&self) -> Vec<u32> {
        match self {
            Self::Sequence { processors } => processors.iter().flat_map(Self::prefix).collect(),
            Self::TemplateProcessing { single, special_tokens, .. } => single
                .iter()
                .map_while(|piece| match piece {
                    TemplatePiece::SpecialToken { id, .. } => special_tokens.get(id),
                    TemplatePiece::Sequence { .. } => None,
                })
                .flat_map(|token| token.ids.iter().copied())
                .collect(),
            Self::Other => Vec::new(),
        }
    }

    /// The ids that the post-processor puts after a single sequence.
    pub(crate) fn suffix(&self) -> Vec<u32> {
        let is_text = |piece: &TemplatePiece| matches!(piece, TemplatePiece::Sequence { .. });
        match self {
            Self::Sequence { processors } => processors.iter().flat_map(Self::suffix).collect(),
            Self::TemplateProcessing { single, special_tokens, .. } => {
                let from = single.iter().rposition(is_text).map_or(single.len(), |at| at + 1);
                let token = |piece: &TemplatePiece| match piece {
                    TemplatePiece::SpecialToken { id, .. } => special_tokens.get(id),
                    TemplatePiece::Sequence { .. } => None,
                };
                let tokens = single[from..].iter().filter_map(token);
                tokens.flat_map(|token| token.ids.iter().copied()).collect()
            }
            Self::Other => Vec::new(),
        }
    }
}

impl PrependScheme {
    /// Old files have only `add_prefix_space`. If false, it takes precedence; otherwise, the newer
    /// member does.
    pub(crate) fn resolve(scheme: Option<Self>, add_prefix_space: Option<bool>) -> Self {
        match (scheme, add_prefix_space) {
            (_, Some(false)) => Self::Never,
            (Some(scheme), _) => scheme,
            (None, _) => Self::Always,
        }
    }
}

fn yes() -> bool {
    true
}

fn word_piece() -> String {
    "##".to_owned()
}

fn isolated() -> Behavior {
    Behavior::Isolated
}

/// The vocabulary and merges of a BPE model.
#[derive(Serialize, Deserialize)]
pub(crate) struct Body {
    pub(crate) model: BodyModel,
}

#[derive(Serialize, Deserialize)]
pub(crate) struct BodyModel {
    pub(crate) vocab: VocabMap,
    pub(crate) merges: Vec<MergePair>,
}

/// The vocabulary of a WordPiece model.
#[derive(Deserialize)]
pub(crate) struct VocabBody {
    pub(crate) model: VocabModel,
}

#[derive(Serialize, Deserialize)]
pub(crate) struct VocabModel {
    pub(crate) vocab: VocabMap,
}

/// The vocabulary of a Unigram model.
#[derive(Deserialize)]
pub(crate) struct ScoredBody {
    pub(crate) model: ScoredModel,
}

#[derive(Serialize, Deserialize)]
pub(crate) struct ScoredModel {
    pub(crate) vocab: Scored,
}

/// Tokens and their scores, by id.
#[derive(Serialize, Deserialize)]
pub(crate) struct Scored(pub(crate) Vec<(String, f64)>);

/// The tokens of a model of any kind, with their ids.
pub(crate) fn vocabulary(kind: Kind, json: &[u8]) -> Result<VocabMap, Error> {
    if kind != Kind::Unigram {
        return Ok(serde_json::from_slice::<VocabBody>(json)?.model.vocab);
    }
    let Scored(tokens) = serde_json::from_slice::<ScoredBody>(json)?.model.vocab;
    Ok(VocabMap(tokens.into_iter().map(|(text, _)| text).zip(0..).collect()))
}

/// Tokens and ids in file order. A list, as tokens are never looked up here.
pub(crate) struct VocabMap(pub(crate) Vec<(String, u32)>);

impl<'de> Deserialize<'de> for VocabMap {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        struct Pairs;
        impl<'de> Visitor<'de> for Pairs {
            type Value = VocabMap;

            fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
                f.write_str("an object of tokens and ids")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<VocabMap, A::Error> {
                let mut pairs = Vec::new();
                while let Some(pair) = map.next_entry()? {
                    pairs.push(pair);
                }
                Ok(VocabMap(pairs))
            }
        }
        d.deserialize_map(Pairs)
    }
}

impl Serialize for VocabMap {
    fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        s.collect_map(self.0.iter().map(|(text, id)| (text, id)))
    }
}

/// A merge, written as `["a", "b"]` or, in older files, `"a b"`.
pub(crate) struct MergePair(pub(crate) String, pub(crate) String);

impl<'de> Deserialize<'de> for MergePair {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        struct Pair;
        impl<'de> Visitor<'de> for Pair {
            type Value = MergePair;

            fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
                f.write_str("a merge, [\"a\", \"b\"] or \"a b\"")
            }

            fn visit_str<E: serde::de::Error>(self, line: &str) -> Result<MergePair, E> {
                match line.split_once(' ') {
                    Some((a, b)) if !b.contains(' ') => Ok(MergePair(a.to_owned(), b.to_owned())),
                    _ => Err(E::invalid_value(serde::de::Unexpected::Str(line), &self)),
                }
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<MergePair, A::Error> {
                let missing = |n| serde::de::Error::invalid_length(n, &self);
                let a = seq.next_element()?.ok_or_else(|| missing(0))?;
                let b = seq.next_element()?.ok_or_else(|| missing(1))?;
                Ok(MergePair(a, b))
            }
        }
        d.deserialize_any(Pair)
    }
}

impl Serialize for MergePair {
    fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        (&self.0, &self.1).serialize(s)
    }
}

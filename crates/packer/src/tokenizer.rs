//! The tokenizer sections of a file. They are built before packing starts, so that an unusable
//! tokenizer is reported within a second rather than after hours of packing.

use std::path::Path;

use nanoinfer_format::{SectionKind, Writer};
use nanoinfer_text::GgufVocab;

use crate::Error;
use crate::gguf::Metadata;

/// A tokenizer in the three forms stored in a file.
pub(crate) struct Tokenizer {
    json: Vec<u8>,
    vocabulary: Vec<u8>,
    native: Vec<u8>,
    /// The token that the tokenizer's post-processor prepends, if any.
    pub(crate) bos: Option<u32>,
}

impl Tokenizer {
    /// Builds the sections from `json`, the contents of the `tokenizer.json` at `path`.
    pub(crate) fn new(path: &Path, json: Vec<u8>, vocab_size: u32) -> Result<Self, Error> {
        let error = |source| Error::Text { path: path.into(), source };
        let vocabulary = nanoinfer_text::build_vocab(&json, vocab_size as usize).map_err(error)?;
        let tokenizer = nanoinfer_text::Tokenizer::from_json(&json).map_err(error)?;
        let native = tokenizer.to_native(blake3::hash(&json).as_bytes());
        let bos = tokenizer.prompt_prefix().first().copied();
        Ok(Self { json, vocabulary, native, bos })
    }

    /// The tokenizer in a GGUF file's metadata, if present.
    pub(crate) fn of_gguf(
        g: &Metadata,
        bos: Option<u32>,
        vocab_size: u32,
    ) -> Result<Option<Self>, Error> {
        let key = |name: &str| format!("tokenizer.ggml.{name}");
        let Some(model) = g.str(&key("model"))?.filter(|&m| m != "none") else { return Ok(None) };
        let types = key("token_type");
        let narrow = |&v: &i64| {
            i32::try_from(v)
                .map_err(|_| g.error(&types, format!("contains {v}, expected a token type")))
        };
        let types: Vec<i32> =
            g.ints(&types)?.unwrap_or_default().iter().map(narrow).collect::<Result<_, _>>()?;
        let tokens = key("tokens");
        let vocab = GgufVocab {
            model,
            pre: g.str(&key("pre"))?.unwrap_or_default(),
            tokens: g.strings(&tokens)?.ok_or_else(|| g.error(&tokens, "is missing"))?,
            scores: g.floats(&key("scores"))?,
            types: &types,
            merges: g.strings(&key("merges"))?,
            add_space_prefix: g.bool(&key("add_space_prefix"))?.unwrap_or(true),
            bos,
            unk: g.u32(&key("unknown_token_id"))?,
        };
        let error = |source| Error::Text { path: g.path().into(), source };
        let json = nanoinfer_text::tokenizer_json_from_gguf(&vocab).map_err(error)?;
        Self::new(g.path(), json, vocab_size).map(Some)
    }

    /// Total size of the sections in bytes.
    pub(crate) fn bytes(&self) -> usize {
        self.json.len() + self.vocabulary.len() + self.native.len()
    }

    pub(crate) fn add_to(&self, writer: &mut Writer) -> Result<(), nanoinfer_format::Error> {
        writer.section(SectionKind::Tokenizer, self.json.as_slice())?;
        writer.section(SectionKind::Vocabulary, self.vocabulary.as_slice())?;
        writer.section(SectionKind::NativeTokenizer, self.native.as_slice())
    }
}

//! The tokenizer sections of a file. They are built before packing starts, so that an unusable
//! tokenizer is reported within a second rather than after hours of packing.

use std::path::Path;

use nanoinfer_format::{SectionKind, Writer};

use crate::Error;

/// A tokenizer in the three forms stored in a file.
pub(crate) struct Tokenizer {
    json: Vec<u8>,
    vocabulary: Vec<u8>,
    native: Vec<u8>,
    /// The token that the tokenizer's post-processor prepends, if any.
    pub(crate) bos: Option<u32>,
    tokenizer: nanoinfer_text::Tokenizer,
}

impl Tokenizer {
    /// Builds the sections from `json`, a `tokenizer.json` whose origin is `path`. A token without an
    /// embedding is left out, which becomes a note.
    pub(crate) fn new(
        path: &Path,
        json: Vec<u8>,
        vocab_size: u32,
        notes: &mut Vec<String>,
    ) -> Result<Self, Error> {
        let error = |source| Error::Text { path: path.into(), source };
        let (json, dropped) = nanoinfer_text::drop_tokens(json, vocab_size).map_err(error)?;
        notes.extend(without_rows(&dropped, vocab_size));
        let vocabulary = nanoinfer_text::build_vocab(&json, vocab_size as usize).map_err(error)?;
        let tokenizer = nanoinfer_text::Tokenizer::from_json(&json).map_err(error)?;
        let native = tokenizer.to_native(blake3::hash(&json).as_bytes());
        let bos = tokenizer.prompt_prefix().first().copied();
        Ok(Self { json, vocabulary, native, bos, tokenizer })
    }

    /// The bytes of a token in decoded text; none if there is no such token.
    pub(crate) fn bytes_of(&self, id: u32) -> Vec<u8> {
        let vocab = nanoinfer_text::Vocab::parse(&self.vocabulary);
        vocab.map_or(Vec::new(), |vocab| vocab.bytes(id).to_vec())
    }

    /// The id of an added token by its text.
    pub(crate) fn added_token(&self, text: &str) -> Option<u32> {
        self.tokenizer.added_token(text)
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

/// The note about tokens that were left out, if any.
fn without_rows(dropped: &[String], rows: u32) -> Option<String> {
    let first = dropped.first()?;
    Some(match dropped.len() {
        1 => format!("the token {first:?} is left out: the model has only {rows} embeddings"),
        n => format!(
            "{n} tokens, such as {first:?}, are left out: the model has only {rows} embeddings"
        ),
    })
}

/// Why a tokenizer, vocabulary table or chat template cannot be used.
///
/// The crate works on bytes in memory, so messages name the part of the input rather than a path;
/// callers add the file name.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// `tokenizer.json` is not JSON, or a part of it is malformed or of an unsupported kind.
    #[error(
        "tokenizer.json: {0}; download the model's files again, or report the model if they are intact"
    )]
    Json(#[from] serde_json::Error),
    /// `tokenizer.json` is well formed but contradicts itself or needs an unsupported feature.
    #[error("tokenizer.json, {part}: {what}")]
    Tokenizer {
        /// Member of the JSON object.
        part: &'static str,
        /// What is wrong with it and what was expected.
        what: String,
    },
    /// The vocabulary table section is damaged.
    #[error("vocabulary table, byte {offset}: {what}; convert the model again")]
    Vocab {
        /// Offset in the section.
        offset: usize,
        /// What was found and what was expected.
        what: &'static str,
    },
    /// A GGUF file's tokenizer metadata cannot be turned into a tokenizer.
    #[error("GGUF {key}: {what}")]
    Gguf {
        /// The metadata key.
        key: &'static str,
        /// What is wrong with it and what was expected.
        what: String,
    },
    /// A SentencePiece model (`tokenizer.model`) is damaged or of an unsupported kind.
    #[error("SentencePiece model: {0}; use the model's tokenizer.json instead")]
    SentencePiece(String),
    /// The chat template does not parse, raises an exception, or exceeds its limits.
    #[error("chat template: {0}")]
    Template(String),
    /// The JSON of a conversation is malformed.
    #[error("chat request: {0}; expected an object with a list of messages")]
    ChatInput(#[source] serde_json::Error),
    /// A message cannot be inserted into the template safely.
    #[error("message {index}: {what}")]
    Message {
        /// Index in the conversation, from 0.
        index: usize,
        /// What is wrong with it.
        what: &'static str,
    },
}

impl Error {
    pub(crate) fn tokenizer(part: &'static str, what: impl Into<String>) -> Self {
        Self::Tokenizer { part, what: what.into() }
    }

    pub(crate) fn gguf(key: &'static str, what: impl Into<String>) -> Self {
        Self::Gguf { key, what: what.into() }
    }
}

//! Text in and out of a language model: tokenizer, chat templates, streaming detokenization.
//!
//! ```text
//! messages ─ ChatTemplate ─┐
//!                          ├─ Tokenizer ─ ids ─► model ─► id ─ TextStream ─ StopMatcher ─► text
//! prompt ──────────────────┘                                   (Vocab)
//! ```
//!
//! The crate works on bytes and strings; model files and the engine are out of scope.
//!
//! - [`Tokenizer`] encodes text. The Hugging Face `tokenizer.json` is authoritative; a native form
//!   derived from it loads in under a millisecond.
//! - [`build_vocab`] builds a table that [`Vocab`] reads in place and [`TextStream`] decodes with.
//! - [`StopMatcher`] finds stop strings in streamed text.
//! - [`ChatTemplate`], [`ChatText`] and [`encode_chat`] turn a conversation (plain [`Message`]s, or a
//!   [`ChatInput`] with tools) into ids; user input cannot forge a control token.
//! - [`AnswerFormat`] and [`AnswerParser`] find reasoning and tool calls in an answer.
//! - [`named_template`] has the well-known chat formats, for models without a template.
//! - [`tokenizer_json_from_gguf`] builds a `tokenizer.json` from the metadata of a GGUF file, and
//!   [`tokenizer_json_from_sentencepiece`] from SentencePiece's `tokenizer.model`.
//! - [`add_tokens`] and [`drop_tokens`] reconcile a `tokenizer.json` with the model's other files.
//! - [`terminal_safe`] escapes model output for a terminal.
//!
//! Decoder models use BPE, GPT-2's byte-level variant or SentencePiece's. The Unigram and WordPiece models of encoders
//! are supported from a `tokenizer.json` or a GGUF file, Unigram also from a `tokenizer.model`.

mod added;
mod amend;
mod answer;
mod bert;
mod bpe;
mod bytes;
mod charsmap;
mod chat;
mod chat_input;
mod control;
mod encode_chat;
mod error;
mod gguf;
mod gguf_encoders;
mod gguf_vocab;
mod instrument;
mod jinja;
mod json;
mod masks;
mod message;
mod meter;
mod model;
mod named_templates;
mod normalize;
mod pre;
mod sentencepiece;
mod split;
mod stop;
mod stream;
mod tags;
mod terminal;
mod tokenizer;
mod unigram;
mod vocab;
mod vocab_build;
mod wire;
mod wordpiece;

pub use amend::{NewToken, add_tokens, drop_tokens};
pub use answer::{
    Answer, AnswerEvent, AnswerFormat, AnswerParser, AnsweredCall, CallFormat, CallShape, Piece,
    Tools,
};
pub use chat::ChatTemplate;
pub use chat_input::ChatInput;
pub use control::{FIM_ENDS, FIM_MIDDLE, FIM_PREFIX, FIM_SUFFIX, StatedEnds};
pub use encode_chat::{ChatText, encode_chat};
pub use error::Error;
pub use gguf::tokenizer_json_from_gguf;
pub use gguf_vocab::GgufVocab;
pub use message::{Content, Message, Part, ToolCall};
pub use named_templates::{named_template, template_names};
pub use pre::{pre_tokenizer_adds_bos, pre_tokenizer_names};
pub use sentencepiece::{sentencepiece_is_unigram, tokenizer_json_from_sentencepiece};
pub use stop::{StopMatcher, StopStep};
pub use stream::TextStream;
pub use terminal::terminal_safe;
pub use tokenizer::{Specials, Tokenizer};
pub use vocab::{FirstBlank, Vocab, VocabTable};
pub use vocab_build::build_vocab;

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
//! - [`Tokenizer`] encodes. The Hugging Face `tokenizer.json` is authoritative; a native form derived
//!   from it loads in under a millisecond.
//! - [`build_vocab`], [`Vocab`] and [`TextStream`] decode from a table read in place.
//! - [`StopMatcher`] ends a generation at a string.
//! - [`ChatTemplate`], [`ChatText`] and [`encode_chat`] turn a conversation into ids; user input cannot
//!   forge a control token.
//! - [`tokenizer_json_from_gguf`] builds a `tokenizer.json` from the metadata of a GGUF file.
//! - [`terminal_safe`] escapes model output for a terminal.
//!
//! Only BPE models are supported: the byte-level kind of GPT-2 and SentencePiece BPE, which decoder
//! models use, but not the Unigram and WordPiece models of encoders.

mod added;
mod bpe;
mod bytes;
mod chat;
mod encode_chat;
mod error;
mod gguf;
mod instrument;
mod jinja;
mod json;
mod meter;
mod normalize;
mod pre;
mod split;
mod stop;
mod stream;
mod tags;
mod terminal;
mod tokenizer;
mod vocab;
mod vocab_build;
mod wire;

pub use chat::{ChatTemplate, Message};
pub use encode_chat::{ChatText, encode_chat};
pub use error::Error;
pub use gguf::{GgufVocab, tokenizer_json_from_gguf};
pub use pre::pre_tokenizer_names;
pub use stop::{StopMatcher, StopStep};
pub use stream::TextStream;
pub use terminal::terminal_safe;
pub use tokenizer::{Specials, Tokenizer};
pub use vocab::{FirstBlank, Vocab, VocabTable};
pub use vocab_build::build_vocab;

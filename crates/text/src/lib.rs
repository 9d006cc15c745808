//! Text in and out of a language model: tokenizer, chat templates, streamed decoding.
//!
//! ```text
//! messages ─ ChatTemplate ─┐
//!                          ├─ Tokenizer ─ ids ─► model ─► id ─ TextStream ─ StopMatcher ─► text
//! prompt ──────────────────┘                                   (Vocab)
//! ```
//!
//! The crate takes bytes and strings. It knows nothing of model files or of the engine.
//!
//! - [`Tokenizer`] encodes. What counts is the Hugging Face `tokenizer.json`; a native form made
//!   from it loads in well under a millisecond.
//! - [`build_vocab`], [`Vocab`] and [`TextStream`] decode from a table that is read in place.
//! - [`StopMatcher`] ends a generation at a string.
//! - [`ChatTemplate`], [`ChatText`] and [`encode_chat`] turn a conversation into ids such that nothing typed can
//!   pose as a control token.
//! - [`tokenizer_json_from_gguf`] makes a `tokenizer.json` from the metadata of a GGUF file.
//! - [`terminal_safe`] makes model text harmless to show.
//!
//! Only BPE models are supported: that covers GPT-2's byte-level kind and SentencePiece BPE, which
//! decoder models use, and not the Unigram and WordPiece of encoders.

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
pub use stop::{StopMatcher, StopStep};
pub use stream::TextStream;
pub use terminal::terminal_safe;
pub use tokenizer::{Specials, Tokenizer};
pub use vocab::{FirstBlank, Vocab, VocabTable};
pub use vocab_build::build_vocab;

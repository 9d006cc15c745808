//! Structured output: answers that follow a JSON schema, a regular expression or a grammar.
//!
//! ```text
//! Source ── Grammars::compile ──► Grammar ── constraint ──► Constraint ──► the engine's draws
//!               ▲                                              │
//!   vocabulary ─┘ once, on a thread of its own                 └─► forced text, drafted
//! ```
//!
//! [`Grammars`] prepares a model's vocabulary and compiles [`Source`]s. A [`Grammar`] makes a constraint for
//! each answer: before every token, it allows exactly the tokens whose bytes continue a text of the grammar,
//! and the end of the answer exactly where such a text is complete. The rest is the engine's: the tokens are
//! drawn from the same logits with the same random numbers as without a constraint.
//!
//! The `llguidance` crate does the parsing. This crate gives it the bytes that the engine's text stream
//! emits for each token, checks sources beforehand so that errors say where and what, translates GBNF, and
//! limits what strangers' sources may cost. A source that cannot be enforced in full is an error.
//!
//! Whitespace in JSON is fixed: one space after a colon and after a comma, none elsewhere. A model cannot
//! fill its answer with blanks then, and most of what surrounds the values is forced and needs no pass of
//! its own. In strings, `\u` escapes are allowed for control characters only.
//!
//! ```no_run
//! use std::sync::Arc;
//! use nanoinfer_engine::{Engine, EngineOptions, GenerateOptions, Model, Session};
//! use nanoinfer_grammar::{Grammars, Source};
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let engine = Engine::new(Model::open("smollm2.nano")?, &EngineOptions::default())?;
//! let grammars = Grammars::new(Arc::clone(engine.model()));
//! let schema = r#"{"type": "object", "properties": {"age": {"type": "integer"}}, "required": ["age"]}"#;
//! let grammar = grammars.compile(&Source::schema(schema)?)?;
//! let mut session = Session::new(engine)?;
//! session.prompt_text("A person as JSON: ")?;
//! session.start(GenerateOptions::default())?;
//! session.set_constraint(grammar.constraint(false));
//! # Ok(())
//! # }
//! ```

mod cache;
mod calls;
mod compiled;
mod error;
mod finite;
mod following;
mod gbnf;
mod grammars;
mod levels;
mod parts;
mod place;
mod reason;
mod request;
mod schema;
mod source;
mod vocabulary;
mod waiting;
mod worker;

pub use error::Error;
pub use grammars::{Grammar, Grammars, Options};
pub use place::{Place, Reasoning};
pub use request::source_of;
pub use source::Source;

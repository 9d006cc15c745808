//! One request, independent of a dialect.
//!
//! ```text
//! ask      what a client asks for
//! model    a served model, and its names
//! restrict what an answer must follow
//! parts    the parts of an answer: reasoning, content, calls
//! prepare  options → the engine's requests: the only place that makes them
//! answer   the engine's events → updates of an answer: the only place that reads them
//! read     the same for prompts that are not answered: embeddings, rankings
//! ```

pub(crate) mod answer;
pub(crate) mod ask;
pub(crate) mod model;
pub(crate) mod parts;
pub(crate) mod prepare;
pub(crate) mod read;
mod restrict;

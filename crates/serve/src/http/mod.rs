//! Limits, keys, routes, connections.
//!
//! ```text
//! app       the state that requests share
//! reply     responses
//! body      reads a request's body, within limits
//! guard     host, origin, key, request id, log
//! generate  from a request to an answer, streamed or whole
//! read      the same for prompts that are not answered: embeddings, rankings
//! info      models, tokens, health, figures
//! openapi   the description of the API
//! page      the page at /, and the figures that it shows
//! routes    which path leads where
//! listen    accepts connections; closes those that are too slow
//! ```

pub(crate) mod app;
mod body;
mod generate;
mod guard;
mod info;
pub(crate) mod listen;
mod openapi;
mod page;
mod read;
mod reply;
pub(crate) mod routes;

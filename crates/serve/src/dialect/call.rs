//! A parsed request, and how its answer is written.

use nanoinfer_engine::PromptOutput;
use serde::Serialize;
use serde_json::Value;

use crate::core::answer::{Answer, Update};
use crate::core::ask::Ask;
use crate::core::model::ServedModel;
use crate::core::read::Read;
use crate::problem::Problem;

/// Reads a request of an API.
pub(crate) type Parse = fn(&Value, &ServedModel) -> Result<Call, Problem>;

/// A parsed request.
pub(crate) struct Call {
    pub(crate) ask: Ask,
    /// Whether the answer is sent while it is generated.
    pub(crate) stream: bool,
    pub(crate) encoder: Box<dyn Encoder>,
}

/// Reads a request to read prompts without answering them.
pub(crate) type ParseReading = fn(&Value, &ServedModel) -> Result<Reading, Problem>;

/// A parsed request to read prompts.
pub(crate) struct Reading {
    pub(crate) prompts: Vec<Vec<u32>>,
    pub(crate) output: PromptOutput,
    /// Makes the JSON of the answer, from the results of all prompts.
    pub(crate) write: Write,
}

pub(crate) type Write = Box<dyn FnOnce(&ServedModel, Vec<Read>) -> Vec<u8> + Send>;

/// JSON. This fails only for maps with keys that are not strings, of which there are none.
pub(crate) fn to_json(value: &impl Serialize) -> Vec<u8> {
    serde_json::to_vec(value).unwrap_or_default()
}

/// What every answer says.
pub(crate) struct Meta {
    pub(crate) id: String,
    /// Seconds since 1970.
    pub(crate) created: u64,
    pub(crate) seed: u64,
    /// Tokens of the prompt of each choice.
    pub(crate) prompts: Vec<usize>,
    /// Whether to say what other prompts in the cache contain.
    pub(crate) shows_cache: bool,
    /// Whether events have ids, from which the stream can be resumed.
    pub(crate) resumable: bool,
}

/// Writes an answer in the form of an API.
pub(crate) trait Encoder: Send {
    /// The media type of a stream.
    fn media_type(&self) -> &'static str {
        "text/event-stream"
    }

    /// Writes what begins a stream.
    fn begin(&mut self, _served: &ServedModel, _meta: &Meta, _out: &mut Vec<u8>) {}

    /// Writes an update to a stream.
    fn update(&mut self, served: &ServedModel, meta: &Meta, update: &Update, out: &mut Vec<u8>);

    /// Writes what ends a stream whose answers are complete.
    fn end(&mut self, served: &ServedModel, meta: &Meta, out: &mut Vec<u8>);

    /// Writes a sign of life.
    fn alive(&self, note: &str, out: &mut Vec<u8>) {
        comment(note, out);
    }

    /// The whole answer.
    fn whole(&mut self, served: &ServedModel, meta: &Meta, answers: Vec<Answer>) -> Value;
}

/// Writes a server-sent event.
pub(crate) fn event(
    id: Option<usize>,
    name: Option<&str>,
    data: &impl Serialize,
    out: &mut Vec<u8>,
) {
    if let Some(name) = name {
        line("event", name, out);
    }
    if let Some(id) = id {
        line("id", &id.to_string(), out);
    }
    out.extend_from_slice(b"data: ");
    // Serializing to memory fails only for maps with keys that are not strings, of which there are none.
    serde_json::to_writer(&mut *out, data).unwrap_or_default();
    out.extend_from_slice(b"\n\n");
}

/// Writes a comment, which clients skip. An empty line after it would be an event without data for some
/// clients, once they have seen an id.
pub(crate) fn comment(note: &str, out: &mut Vec<u8>) {
    out.extend_from_slice(b": ");
    out.extend_from_slice(note.as_bytes());
    out.push(b'\n');
}

fn line(field: &str, value: &str, out: &mut Vec<u8>) {
    for part in [field, ": ", value, "\n"] {
        out.extend_from_slice(part.as_bytes());
    }
}

//! The events of a step, in buffers that are reused by the next step.

use std::ops::Range;

use super::request::RequestId;
use crate::{
    Error, Event, FinishReason, MAX_TOP_LOGPROBS, PromptValues, Sequence, Stats, TokenLogprob,
};

/// What happened to a request in a step.
#[derive(Debug)]
#[non_exhaustive]
pub struct BatchEvent<'b> {
    /// The request.
    pub id: RequestId,
    /// What happened, or why the answer cannot continue. The request ends with [`Event::Finished`] or an
    /// error.
    pub event: Result<Event<'b>, &'b Error>,
    /// Log-probabilities of a token, if [`crate::GenerateOptions::logprobs`] requests them.
    pub logprobs: Option<BatchLogprobs<'b>>,
    /// Counts and timings of the request so far.
    pub stats: &'b Stats,
}

/// Log-probabilities of a token, see [`crate::Logprobs`].
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct BatchLogprobs<'b> {
    /// That of the token.
    pub token: f32,
    /// The most likely tokens, most likely first.
    pub top: &'b [TokenLogprob],
}

/// An event whose texts are in the buffers.
enum Kind {
    Prefill { done: usize, total: usize },
    Prompt(PromptValues),
    Token(u32),
    Finished(FinishReason),
    Failed(Error),
}

struct Record {
    id: RequestId,
    kind: Kind,
    text: Range<usize>,
    bytes: Range<usize>,
    logprobs: Option<(f32, Range<usize>)>,
    stats: Stats,
}

/// The events of a step.
pub(super) struct EventBuffer {
    records: Vec<Record>,
    text: String,
    bytes: Vec<u8>,
    top: Vec<TokenLogprob>,
}

impl EventBuffer {
    /// Room for `events` events with `text` bytes of text in total; it grows if need be.
    pub(super) fn new(events: usize, text: usize) -> Self {
        Self {
            records: Vec::with_capacity(events),
            text: String::with_capacity(text),
            bytes: Vec::with_capacity(text),
            top: Vec::with_capacity(events * MAX_TOP_LOGPROBS),
        }
    }

    pub(super) fn clear(&mut self) {
        self.records.clear();
        self.text.clear();
        self.bytes.clear();
        self.top.clear();
    }

    /// Reserves room for `n` more bytes of text than now.
    pub(super) fn reserve(&mut self, n: usize) {
        self.text.reserve(n);
        self.bytes.reserve(n);
    }

    /// Adds an event of a sequence if there is one.
    pub(super) fn take(&mut self, id: RequestId, sequence: &mut Sequence) {
        let (stats, from) = (sequence.stats(), self.top.len());
        let logprobs = sequence.logprobs().map(|logprobs| {
            self.top.extend_from_slice(&logprobs.top);
            (logprobs.token, from..self.top.len())
        });
        match sequence.event() {
            Ok(None) => self.top.truncate(from),
            Ok(Some(event)) => {
                let logprobs = logprobs.filter(|_| matches!(event, Event::Token { .. }));
                self.push(id, Ok(event), stats);
                if let Some(record) = self.records.last_mut() {
                    record.logprobs = logprobs;
                }
            }
            Err(e) => self.push(id, Err(e), stats),
        }
    }

    /// Adds what was determined of a sequence's prompt, if it is complete.
    pub(super) fn take_values(&mut self, id: RequestId, sequence: &mut Sequence) {
        let Some(values) = sequence.take_values() else { return };
        let (kind, text, bytes) = (Kind::Prompt(values), 0..0, 0..0);
        let stats = sequence.stats();
        self.records.push(Record { id, kind, text, bytes, logprobs: None, stats });
    }

    pub(super) fn push(&mut self, id: RequestId, event: Result<Event<'_>, Error>, stats: Stats) {
        let (from, at) = (self.text.len(), self.bytes.len());
        let mut write = |text: &str, bytes: &[u8]| {
            self.text.push_str(text);
            self.bytes.extend_from_slice(bytes);
        };
        let kind = match event {
            Ok(Event::Prefill { done, total }) => Kind::Prefill { done, total },
            Ok(Event::Prompt { values }) => Kind::Prompt(values.clone()),
            Ok(Event::Token { id, text, bytes }) => {
                write(text, bytes);
                Kind::Token(id)
            }
            Ok(Event::Finished { reason, text, bytes }) => {
                write(text, bytes);
                Kind::Finished(reason)
            }
            Err(e) => Kind::Failed(e),
        };
        let (text, bytes) = (from..self.text.len(), at..self.bytes.len());
        self.records.push(Record { id, kind, text, bytes, logprobs: None, stats });
    }

    pub(super) fn iter(&self) -> Events<'_> {
        Events { buffer: self, next: 0 }
    }
}

/// The events of a step, see [`crate::Batch::step`].
#[derive(Clone)]
pub struct Events<'b> {
    buffer: &'b EventBuffer,
    next: usize,
}

impl std::fmt::Debug for Events<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_list().entries(self.clone()).finish()
    }
}

impl<'b> Iterator for Events<'b> {
    type Item = BatchEvent<'b>;

    fn next(&mut self) -> Option<BatchEvent<'b>> {
        let buffer = self.buffer;
        let record = buffer.records.get(self.next)?;
        self.next += 1;
        let (text, bytes) =
            (&buffer.text[record.text.clone()], &buffer.bytes[record.bytes.clone()]);
        let event = match &record.kind {
            Kind::Prefill { done, total } => Ok(Event::Prefill { done: *done, total: *total }),
            Kind::Prompt(values) => Ok(Event::Prompt { values }),
            Kind::Token(id) => Ok(Event::Token { id: *id, text, bytes }),
            Kind::Finished(reason) => Ok(Event::Finished { reason: *reason, text, bytes }),
            Kind::Failed(error) => Err(error),
        };
        let logprobs = record.logprobs.clone();
        let logprobs = logprobs.map(|(token, top)| BatchLogprobs { token, top: &buffer.top[top] });
        Some(BatchEvent { id: record.id, event, logprobs, stats: &record.stats })
    }
}

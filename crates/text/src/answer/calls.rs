//! Events of an answer, and the calls in progress.

/// What a parser found in an answer. Concatenating the texts of each kind gives the whole answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum AnswerEvent<'a> {
    /// Text of the reasoning before an answer.
    Reasoning(&'a str),
    /// Text of the answer.
    Content(&'a str),
    /// Text that began like a call but is none. It is content.
    Malformed(&'a str),
    /// A call begins. Its arguments follow until [`Self::CallEnd`].
    ToolCall {
        /// Number of the call, from 0.
        index: usize,
        /// The tool's name.
        name: &'a str,
        /// The call's id, if the model chose one before the arguments.
        id: Option<&'a str>,
    },
    /// Text of the arguments, which are JSON.
    Arguments {
        /// Number of the call.
        index: usize,
        /// The next part.
        text: &'a str,
    },
    /// A call ends.
    CallEnd {
        /// Number of the call.
        index: usize,
        /// Whether the arguments are a whole JSON object, rather than cut off or malformed.
        complete: bool,
    },
}

/// A whole answer: the sum of its events.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Answer {
    /// The reasoning before the answer.
    pub reasoning: String,
    /// The answer's text.
    pub content: String,
    /// The calls, in order.
    pub calls: Vec<AnsweredCall>,
}

/// A call in an [`Answer`].
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct AnsweredCall {
    /// The tool's name.
    pub name: String,
    /// The id that the model chose, if any.
    pub id: Option<String>,
    /// The arguments as JSON.
    pub arguments: String,
    /// Whether the arguments are a whole JSON object.
    pub complete: bool,
}

impl Answer {
    /// Adds an event.
    pub fn add(&mut self, event: AnswerEvent<'_>) {
        match event {
            AnswerEvent::Reasoning(text) => self.reasoning.push_str(text),
            AnswerEvent::Content(text) | AnswerEvent::Malformed(text) => {
                self.content.push_str(text);
            }
            AnswerEvent::ToolCall { name, id, .. } => self.calls.push(AnsweredCall {
                name: name.to_owned(),
                id: id.map(str::to_owned),
                ..AnsweredCall::default()
            }),
            AnswerEvent::Arguments { index, text } => {
                if let Some(call) = self.calls.get_mut(index) {
                    call.arguments.push_str(text);
                }
            }
            AnswerEvent::CallEnd { index, complete } => {
                if let Some(call) = self.calls.get_mut(index) {
                    call.complete = complete;
                }
            }
        }
    }
}

/// The kind of a text.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Reasoning,
    Content,
    Malformed,
    Arguments(usize),
}

/// Collects text into events.
pub(super) struct Out<'o> {
    pub buffer: &'o mut String,
    pub kind: Kind,
    pub emit: &'o mut dyn FnMut(AnswerEvent<'_>),
}

impl Out<'_> {
    pub(super) fn text(&mut self, kind: Kind, c: char) {
        if kind != self.kind {
            self.flush();
            self.kind = kind;
        }
        self.buffer.push(c);
    }

    pub(super) fn flush(&mut self) {
        if self.buffer.is_empty() {
            return;
        }
        let text = self.buffer.as_str();
        (self.emit)(match self.kind {
            Kind::Reasoning => AnswerEvent::Reasoning(text),
            Kind::Content => AnswerEvent::Content(text),
            Kind::Malformed => AnswerEvent::Malformed(text),
            Kind::Arguments(index) => AnswerEvent::Arguments { index, text },
        });
        self.buffer.clear();
    }

    fn event(&mut self, event: AnswerEvent<'_>) {
        self.flush();
        (self.emit)(event);
    }
}

/// The calls of an answer so far.
#[derive(Debug, Default)]
pub(super) struct Calls {
    /// Number of calls that have begun.
    begun: usize,
    /// Whether the last one is in progress.
    pub is_open: bool,
    /// Text since the marker or the last call: what is content after all if no call follows.
    pub raw: String,
}

/// What a section writes to.
pub(super) struct Writer<'w, 'o> {
    pub calls: &'w mut Calls,
    pub out: &'w mut Out<'o>,
}

impl Writer<'_, '_> {
    pub(super) fn begin(&mut self, name: &str, id: Option<&str>) {
        let index = self.calls.begun;
        self.calls.begun += 1;
        self.calls.is_open = true;
        self.calls.raw.clear();
        self.out.event(AnswerEvent::ToolCall { index, name, id });
    }

    pub(super) fn argument(&mut self, c: char) {
        self.out.text(Kind::Arguments(self.calls.begun.saturating_sub(1)), c);
    }

    pub(super) fn arguments(&mut self, text: &str) {
        text.chars().for_each(|c| self.argument(c));
    }

    /// Writes a character of a string.
    pub(super) fn escaped(&mut self, c: char) {
        super::scan::escape(c, &mut |c| self.argument(c));
    }

    pub(super) fn end(&mut self, complete: bool) {
        if std::mem::take(&mut self.calls.is_open) {
            self.calls.raw.clear();
            let index = self.calls.begun.saturating_sub(1);
            self.out.event(AnswerEvent::CallEnd { index, complete });
        }
    }
}

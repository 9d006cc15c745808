//! The parts of an answer: reasoning, content, calls of tools.

use nanoinfer_text::{AnswerEvent, AnswerParser};

/// A part of an answer, or the next piece of one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Part {
    /// What the model thinks before it answers.
    Reasoning(String),
    /// Content.
    Text(String),
    /// A call begins. Its arguments follow.
    Call {
        /// The call's number in the answer.
        index: usize,
        /// Identifies it in the conversation.
        id: String,
        /// The tool.
        name: String,
    },
    /// The next piece of a call's arguments, which are JSON.
    Arguments {
        /// The call's number in the answer.
        index: usize,
        /// The piece.
        text: String,
    },
    /// A call ends. Only if it is complete, the arguments are an object.
    CallEnd {
        /// The call's number in the answer.
        index: usize,
        /// Whether the model ended it.
        complete: bool,
    },
}

/// Adds a part, which may continue the last one.
pub(crate) fn add(parts: &mut Vec<Part>, part: Part) {
    match (parts.last_mut(), &part) {
        (Some(Part::Text(last)), Part::Text(text))
        | (Some(Part::Reasoning(last)), Part::Reasoning(text)) => last.push_str(text),
        (Some(Part::Arguments { index, text: last }), Part::Arguments { index: same, text })
            if index == same =>
        {
            last.push_str(text);
        }
        _ => parts.push(part),
    }
}

/// Splits an answer into parts while it is generated.
pub(crate) struct Splitter {
    /// Without one, all is text.
    pub(crate) parser: Option<AnswerParser>,
    /// What the ids of calls are derived from.
    pub(crate) seed: blake3::Hash,
    /// Whether there was a complete call.
    pub(crate) has_called: bool,
}

impl Splitter {
    /// The parts that a text adds, and the token from which it comes.
    pub(crate) fn push(&mut self, token: Option<u32>, text: String, parts: &mut Vec<Part>) {
        let Some(parser) = &mut self.parser else {
            if !text.is_empty() {
                add(parts, Part::Text(text));
            }
            return;
        };
        let (seed, has_called) = (&self.seed, &mut self.has_called);
        parser.push(token, &text, &mut |event| read(event, seed, has_called, parts));
    }

    /// The parts that the end of the answer adds.
    pub(crate) fn finish(&mut self, parts: &mut Vec<Part>) {
        if let Some(parser) = &mut self.parser {
            let (seed, has_called) = (&self.seed, &mut self.has_called);
            parser.finish(&mut |event| read(event, seed, has_called, parts));
        }
    }
}

fn read(event: AnswerEvent<'_>, seed: &blake3::Hash, has_called: &mut bool, parts: &mut Vec<Part>) {
    let part = match event {
        AnswerEvent::Reasoning(text) => Part::Reasoning(text.to_owned()),
        AnswerEvent::Content(text) | AnswerEvent::Malformed(text) => Part::Text(text.to_owned()),
        AnswerEvent::ToolCall { index, name, id } => {
            let id = id.filter(|id| !id.is_empty()).map(str::to_owned);
            let id = id.unwrap_or_else(|| call_id(seed, index));
            Part::Call { index, id, name: name.to_owned() }
        }
        AnswerEvent::Arguments { index, text } => Part::Arguments { index, text: text.to_owned() },
        AnswerEvent::CallEnd { index, complete } => {
            *has_called |= complete;
            Part::CallEnd { index, complete }
        }
        _ => return, // no such event exists
    };
    add(parts, part);
}

/// The id of a call: the same whenever the answer is the same, so that a resumed stream has it again. Nine
/// letters and digits, because Mistral's templates reject others.
fn call_id(seed: &blake3::Hash, index: usize) -> String {
    const DIGITS: &[u8; 62] = b"0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz";
    let mut hasher = blake3::Hasher::new();
    hasher.update(seed.as_bytes());
    hasher.update(&(index as u64).to_le_bytes());
    let hash = hasher.finalize();
    hash.as_bytes()[..9].iter().map(|b| char::from(DIGITS[usize::from(*b) % 62])).collect()
}

/// A part of a whole answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Whole {
    Reasoning(String),
    Text(String),
    Call { id: String, name: String, arguments: String },
}

/// Adds a part to a whole answer.
pub(crate) fn fold(whole: &mut Vec<Whole>, part: Part) {
    match (whole.last_mut(), part) {
        (Some(Whole::Text(last)), Part::Text(text))
        | (Some(Whole::Reasoning(last)), Part::Reasoning(text))
        | (Some(Whole::Call { arguments: last, .. }), Part::Arguments { text, .. }) => {
            last.push_str(&text);
        }
        (_, Part::Text(text)) => whole.push(Whole::Text(text)),
        (_, Part::Reasoning(text)) => whole.push(Whole::Reasoning(text)),
        (_, Part::Call { id, name, .. }) => {
            whole.push(Whole::Call { id, name, arguments: String::new() });
        }
        (_, Part::Arguments { .. } | Part::CallEnd { .. }) => {}
    }
}

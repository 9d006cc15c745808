//! Finds the markers of a format in the stream of an answer.

use super::calls::{AnswerEvent, Calls, Kind, Out, Writer};
use super::format::{AnswerFormat, CallFormat, Mark};
use super::header;
use super::named::Named;
use super::section::Section;
use super::step::Step;
use super::tools::Tools;
use crate::Vocab;

/// Maximum length of white space that is held back because it may precede a marker.
const SPACES: usize = 8;
/// Number of tokens at the end of a prompt that may begin the reasoning.
const TAIL: usize = 16;

/// Turns the tokens of an answer into events.
///
/// ```
/// use nanoinfer_text::{Answer, AnswerParser, ChatTemplate, Tools};
///
/// let template = "{{ '<tool_call>\n{\"name\": \"' }} …";
/// let format = ChatTemplate::new(template, "", "").unwrap().answer_format();
/// let tools = Tools::from_json(r#"[{"type": "function", "function": {"name": "now"}}]"#).unwrap();
/// let mut parser = AnswerParser::new(&format, "", Some(tools));
/// let mut answer = Answer::default();
/// for piece in ["<tool", "_call>\n{\"name\": \"now\"", "}\n</tool_call>"] {
///     parser.push(None, piece, &mut |event| answer.add(event));
/// }
/// parser.finish(&mut |event| answer.add(event));
/// assert_eq!((&*answer.calls[0].name, &*answer.calls[0].arguments), ("now", "{}"));
/// ```
#[derive(Debug)]
pub struct AnswerParser {
    format: AnswerFormat,
    tools: Option<Tools>,
    mode: Mode,
    /// The beginning of a marker, perhaps.
    held: String,
    /// For each marker with a token, how often its text is still to come.
    expected: Vec<usize>,
    /// White space that may precede a marker.
    spaces: String,
    /// Whether the text of this part has begun; blank lines before it are left out if `trims`.
    begun: bool,
    trims: bool,
    /// The kinds of messages of gpt-oss that have been shown: reasoning, content.
    shown: (bool, bool),
    calls: Calls,
    buffer: String,
}

#[derive(Debug)]
enum Mode {
    Content,
    /// With what may follow the marker.
    Reasoning(&'static str),
    Call(Section),
    /// Before a message of gpt-oss. The first one begins with a marker or a recipient, others with a role.
    Header {
        text: String,
        is_first: bool,
    },
}

impl AnswerParser {
    /// A parser for the answer to a prompt, which may end within the answer's reasoning. Without `tools`,
    /// calls are content.
    pub fn new(format: &AnswerFormat, prompt: &str, tools: Option<Tools>) -> Self {
        let is_reasoning = format.begins_in_reasoning(prompt);
        let mode = match format.calls() {
            Some(CallFormat::Harmony) => Mode::Header { text: String::new(), is_first: true },
            _ if is_reasoning => Mode::Reasoning(""),
            _ => Mode::Content,
        };
        Self {
            tools,
            mode,
            held: String::new(),
            expected: vec![0; format.markers().len()],
            spaces: String::new(),
            begun: false,
            trims: is_reasoning,
            shown: (false, false),
            calls: Calls::default(),
            buffer: String::new(),
            format: format.clone(),
        }
    }

    /// A parser for the answer to a prompt of these tokens, see [`Self::new`].
    pub fn after(
        format: &AnswerFormat,
        vocab: &Vocab<'_>,
        prompt: &[u32],
        tools: Option<Tools>,
    ) -> Self {
        let end = prompt.len().saturating_sub(TAIL);
        let bytes: Vec<u8> =
            prompt[end..].iter().flat_map(|id| vocab.bytes(*id)).copied().collect();
        Self::new(format, &String::from_utf8_lossy(&bytes), tools)
    }

    /// Adds the next text of the answer, and the token from which it comes if it is known. Control tokens
    /// have no text. Text that was held back may come with a later token.
    pub fn push(&mut self, token: Option<u32>, text: &str, emit: &mut dyn FnMut(AnswerEvent<'_>)) {
        let mut buffer = std::mem::take(&mut self.buffer);
        let mut out = Out { buffer: &mut buffer, kind: Kind::Content, emit };
        let markers = self.format.markers();
        match token.and_then(|token| markers.iter().position(|m| m.id == Some(token))) {
            None => self.text(text, &mut out),
            Some(at) => {
                let (marker, mark) = (markers[at].text, markers[at].mark);
                if !markers[at].is_text {
                    self.text(text, &mut out);
                    self.release(&mut out);
                    self.mark(mark, None, &mut out);
                } else if let Some(before) = text.strip_suffix(marker) {
                    self.text(before, &mut out);
                    self.release(&mut out);
                    self.mark(mark, Some(marker), &mut out);
                } else {
                    self.expected[at] += 1;
                    self.text(text, &mut out);
                }
            }
        }
        out.flush();
        self.buffer = buffer;
    }

    /// Ends the answer. Returns whether it was cut off within a call.
    pub fn finish(&mut self, emit: &mut dyn FnMut(AnswerEvent<'_>)) -> bool {
        let mut buffer = std::mem::take(&mut self.buffer);
        let mut out = Out { buffer: &mut buffer, kind: Kind::Content, emit };
        if matches!(&self.mode, Mode::Call(section) if section.is_tail()) {
            self.held.clear(); // the beginning of an end marker
        }
        self.release(&mut out);
        let mut was_cut = false;
        match std::mem::replace(&mut self.mode, Mode::Content) {
            Mode::Call(section) => {
                was_cut = !section.is_tail() && (self.calls.is_open || !is_bare(&section));
                self.leave_call(Left::from(&section), &mut out);
            }
            Mode::Header { text, is_first } => {
                let text =
                    if is_first && !text.starts_with("<|channel|>") { text } else { String::new() };
                text.chars().for_each(|c| self.visible(c, Kind::Content, &mut out));
                self.end_text(Kind::Content, &mut out);
            }
            Mode::Content => self.end_text(Kind::Content, &mut out),
            Mode::Reasoning(_) => self.end_text(Kind::Reasoning, &mut out),
        }
        out.flush();
        self.buffer = buffer;
        was_cut
    }

    /// Adds text in which markers without a token may occur.
    fn text(&mut self, text: &str, out: &mut Out<'_>) {
        for c in text.chars() {
            self.held.push(c);
            loop {
                let candidates = self.format.markers().iter().zip(&self.expected);
                let mut candidates = candidates
                    .enumerate()
                    .filter(|(_, (m, expected))| m.id.is_none() || **expected > 0)
                    .filter(|(_, (m, _))| m.text.starts_with(self.held.as_str()));
                let Some((at, (marker, _))) = candidates.next() else {
                    drop(candidates);
                    match self.held.is_empty() {
                        true => break,
                        false => {
                            let first = self.held.remove(0);
                            self.char(first, out);
                            continue;
                        }
                    }
                };
                if marker.text == self.held {
                    let (mark, text) = (marker.mark, marker.text);
                    self.held.clear();
                    self.expected[at] = self.expected[at].saturating_sub(1);
                    self.mark(mark, Some(text), out);
                }
                break;
            }
        }
    }

    /// Ends the search for a marker.
    fn release(&mut self, out: &mut Out<'_>) {
        let held = std::mem::take(&mut self.held);
        held.chars().for_each(|c| self.char(c, out));
    }

    fn char(&mut self, c: char, out: &mut Out<'_>) {
        match &mut self.mode {
            Mode::Content => {
                let is_llama = self.format.calls() == Some(CallFormat::Llama);
                if is_llama && c == '{' && !self.begun && self.tools.is_some() {
                    self.begin_bare_call();
                    return self.char(c, out);
                }
                self.visible(c, Kind::Content, out);
            }
            Mode::Reasoning(label) => match label.strip_prefix(c) {
                Some(rest) => *label = rest,
                None => {
                    let whole = if label.is_empty() { "" } else { self.format.label() };
                    let read = &whole[..whole.len() - label.len()];
                    *label = "";
                    read.chars().for_each(|c| self.visible(c, Kind::Reasoning, out));
                    self.visible(c, Kind::Reasoning, out);
                }
            },
            Mode::Call(section) => {
                self.calls.raw.push(c);
                let mut writer = Writer { calls: &mut self.calls, out };
                let step = match &self.tools {
                    Some(tools) => section.char(c, tools, &mut writer),
                    None => Step::Not,
                };
                if self.calls.is_open {
                    self.calls.raw.clear();
                }
                if step == Step::Not {
                    self.calls.raw.pop();
                    let left = Left::from(&*section);
                    self.leave_call(left, out);
                    self.char(c, out);
                }
            }
            Mode::Header { text, is_first } => {
                text.push(c);
                if !header::may_be(text, *is_first) {
                    let text = std::mem::take(text);
                    self.mode = Mode::Content;
                    text.chars().for_each(|c| self.visible(c, Kind::Content, out));
                }
            }
        }
    }

    fn mark(&mut self, mark: Mark, text: Option<&'static str>, out: &mut Out<'_>) {
        let is_harmony = self.format.calls() == Some(CallFormat::Harmony);
        match (&mut self.mode, mark) {
            (Mode::Content | Mode::Reasoning(_), Mark::End | Mark::Start) => {
                let kind = match self.mode {
                    Mode::Reasoning(_) => Kind::Reasoning,
                    _ => Kind::Content,
                };
                if kind == Kind::Content {
                    self.end_text(kind, out);
                }
                self.spaces.clear();
                self.mode = next_header();
            }
            (Mode::Header { text, .. }, Mark::End | Mark::Start) => text.clear(),
            (Mode::Header { text, .. }, Mark::Channel) => text.push(header::CHANNEL),
            (Mode::Header { text, .. }, Mark::Constrain) => text.push(' '),
            (Mode::Header { text, .. }, Mark::Message) => {
                let header = std::mem::take(text);
                self.message(&header, out);
            }
            (Mode::Content, Mark::Think) if text.is_none() || !self.begun => {
                self.part(Mode::Reasoning(self.format.label()));
            }
            (Mode::Reasoning(_), Mark::EndThink) => self.part(Mode::Content),
            (Mode::Content, Mark::Response) if !self.begun => self.part(Mode::Content),
            (Mode::Content, Mark::EndResponse) => {}
            (Mode::Content, Mark::Call) if self.tools.is_some() && !is_harmony => {
                self.calls.raw = std::mem::take(&mut self.spaces);
                self.calls.raw.push_str(text.unwrap_or_default());
                self.mode = Mode::Call(Section::new(self.call_format()));
            }
            (Mode::Call(section), _) => {
                let mut writer = Writer { calls: &mut self.calls, out };
                match section.mark(mark, &mut writer) {
                    Step::More => self.calls.raw.push_str(text.unwrap_or_default()),
                    Step::End => {
                        self.calls.raw.clear();
                        self.part(if is_harmony { next_header() } else { Mode::Content });
                    }
                    Step::Again => {
                        self.calls.raw.clear();
                        self.calls.raw.push_str(text.unwrap_or_default());
                        self.mode = Mode::Call(Section::new(self.call_format()));
                    }
                    Step::Text => {
                        let text = text.unwrap_or_else(|| self.text_of(mark));
                        text.chars().for_each(|c| self.char(c, out));
                    }
                    Step::Not => {
                        let left = Left::from(&*section);
                        self.leave_call(left, out);
                        self.mark(mark, text, out);
                    }
                }
            }
            // Out of place: what has a text is text.
            _ => text.unwrap_or_default().chars().for_each(|c| self.char(c, out)),
        }
    }

    fn call_format(&self) -> CallFormat {
        self.format.calls().unwrap_or(CallFormat::Hermes)
    }

    fn text_of(&self, mark: Mark) -> &'static str {
        self.format.marker(mark).map_or("", |marker| marker.text)
    }

    /// Begins another part, before which white space is left out.
    fn part(&mut self, mode: Mode) {
        self.mode = mode;
        self.spaces.clear();
        (self.begun, self.trims) = (false, true);
    }

    /// Begins a call without a marker.
    fn begin_bare_call(&mut self) {
        let mut section = Section::new(CallFormat::Llama);
        if let Section::Objects(objects) = &mut section {
            objects.is_bare = true;
        }
        self.calls.raw = std::mem::take(&mut self.spaces);
        self.mode = Mode::Call(section);
    }

    /// Ends a section that goes on in another way than calls do: what was held back is content, unless it
    /// only structures calls.
    fn leave_call(&mut self, left: Left, out: &mut Out<'_>) {
        let was_open = self.calls.is_open;
        Writer { calls: &mut self.calls, out }.end(false);
        let raw = std::mem::take(&mut self.calls.raw);
        self.part(Mode::Content);
        if was_open || left.is_tail && raw.chars().all(is_structure) {
            return;
        }
        (self.begun, self.trims) = (true, false);
        let kind = if left.is_bare { Kind::Content } else { Kind::Malformed };
        raw.chars().for_each(|c| out.text(kind, c));
    }

    /// Adds a character of reasoning or content.
    fn visible(&mut self, c: char, kind: Kind, out: &mut Out<'_>) {
        if c.is_ascii_whitespace() {
            if self.trims && !self.begun && c == '\n' {
                return self.spaces.clear();
            }
            self.spaces.push(c);
            if self.spaces.len() > SPACES {
                self.begun = true;
                out.text(kind, self.spaces.remove(0));
            }
            return;
        }
        self.begun = true;
        self.spaces.drain(..).for_each(|c| out.text(kind, c));
        out.text(kind, c);
    }

    /// Ends a text: the white space at its end belongs to it, unless it has nothing else.
    fn end_text(&mut self, kind: Kind, out: &mut Out<'_>) {
        if self.begun || !self.trims {
            self.spaces.drain(..).for_each(|c| out.text(kind, c));
        }
    }

    /// Begins a message of gpt-oss.
    fn message(&mut self, header: &str, out: &mut Out<'_>) {
        let (recipient, channel) = header::parse(header);
        let recipient = recipient.filter(|_| self.tools.is_some());
        let shown = match (recipient, channel) {
            (Some(name), _) => {
                let mut writer = Writer { calls: &mut self.calls, out };
                let named = Named::arguments_of(name, &mut writer);
                self.part(Mode::Call(Section::Named(named)));
                return;
            }
            (None, "analysis") => {
                self.part(Mode::Reasoning(""));
                &mut self.shown.0
            }
            (None, _) => {
                self.part(Mode::Content);
                &mut self.shown.1
            }
        };
        // Messages of the same kind are paragraphs.
        if std::mem::replace(shown, true) {
            self.spaces.push_str("\n\n");
        }
    }
}

/// The header after a message.
const fn next_header() -> Mode {
    Mode::Header { text: String::new(), is_first: false }
}

/// What is known of a section that is left.
#[derive(Clone, Copy)]
struct Left {
    is_bare: bool,
    is_tail: bool,
}

impl From<&Section> for Left {
    fn from(section: &Section) -> Self {
        Self { is_bare: is_bare(section), is_tail: section.is_tail() }
    }
}

/// Whether only an object shows that a section is a call.
const fn is_bare(section: &Section) -> bool {
    matches!(section, Section::Objects(objects) if objects.is_bare)
}

/// Whether a character after a call only structures calls.
fn is_structure(c: char) -> bool {
    c.is_ascii_whitespace() || matches!(c, ',' | ';' | ']' | '}')
}

//! Calls in Gemma's notation, `call:name{key:<|"|>text<|"|>,list:[1,true]}`, translated to JSON.

use super::calls::Writer;
use super::format::Mark;
use super::named::is_name;
use super::opening::Opening;
use super::scan::json_of;
use super::step::Step;

const PREFIX: &str = "call:";
/// Maximum length of a number or word, in bytes.
const WORD: usize = 64;
/// Maximum depth of the arguments.
const DEPTH: usize = 100;

/// One call.
#[derive(Debug)]
pub(super) struct Pairs {
    state: State,
    opening: Opening,
    /// A number or word.
    word: String,
    open: Vec<u8>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Opening,
    /// Before a key; the flag says that a brace may close instead.
    Key(bool),
    /// In a key without quotes.
    BareKey,
    QuotedKey,
    Colon,
    /// Before a value; the flag says that a bracket may close instead.
    Value(bool),
    Text,
    Word,
    After,
    Tail,
}

impl Default for Pairs {
    fn default() -> Self {
        Self {
            state: State::Opening,
            opening: Opening::new(PREFIX),
            word: String::new(),
            open: Vec::new(),
        }
    }
}

impl Pairs {
    pub(super) const fn is_tail(&self) -> bool {
        matches!(self.state, State::Tail)
    }

    pub(super) fn mark(&mut self, mark: Mark, out: &mut Writer<'_, '_>) -> Step {
        match (self.state, mark) {
            (State::Key(_), Mark::Quote) => {
                out.argument('"');
                self.state = State::QuotedKey;
            }
            (State::QuotedKey, Mark::Quote) => {
                out.argument('"');
                self.state = State::Colon;
            }
            (State::Value(_), Mark::Quote) => {
                out.argument('"');
                self.state = State::Text;
            }
            (State::Text, Mark::Quote) => {
                out.argument('"');
                self.state = State::After;
            }
            (State::Text | State::QuotedKey, _) => return Step::Text,
            (State::Tail, Mark::EndCall) => return Step::End,
            (State::Tail, Mark::Call) => return Step::Again,
            _ => return Step::Not,
        }
        Step::More
    }

    pub(super) fn char(&mut self, c: char, out: &mut Writer<'_, '_>) -> Step {
        match self.state {
            State::Text | State::QuotedKey => out.escaped(c),
            State::Word => return self.word(c, out),
            State::Opening => {
                return match self.opening.char(c, '{', out) {
                    Step::End => self.open(c, out),
                    step => step,
                };
            }
            State::BareKey if c == ':' => {
                out.arguments("\":");
                self.state = State::Value(false);
            }
            State::BareKey if matches!(c, ',' | '{' | '}' | '[' | ']' | '"') => return Step::Not,
            State::BareKey => out.escaped(c),
            _ if c.is_ascii_whitespace() => {}
            State::Key(true) if c == '}' => return self.close(c, out),
            State::Key(_) if is_name(c) && c != ':' => {
                out.argument('"');
                out.escaped(c);
                self.state = State::BareKey;
            }
            State::Colon if c == ':' => {
                out.argument(c);
                self.state = State::Value(false);
            }
            State::Key(_) | State::Colon => return Step::Not,
            State::Value(may_close) => return self.value(c, may_close, out),
            State::After => return self.after(c, out),
            State::Tail => return Step::Not,
        }
        Step::More
    }

    fn open(&mut self, c: char, out: &mut Writer<'_, '_>) -> Step {
        if self.open.len() == DEPTH {
            return Step::Not;
        }
        out.argument(c);
        let is_object = c == '{';
        self.open.push(if is_object { b'{' } else { b'[' });
        self.state = if is_object { State::Key(true) } else { State::Value(true) };
        Step::More
    }

    fn close(&mut self, c: char, out: &mut Writer<'_, '_>) -> Step {
        out.argument(c);
        self.open.pop();
        self.state = State::After;
        if self.open.is_empty() {
            out.end(true);
            self.state = State::Tail;
        }
        Step::More
    }

    fn value(&mut self, c: char, may_close: bool, out: &mut Writer<'_, '_>) -> Step {
        match c {
            '{' | '[' => self.open(c, out),
            ']' if may_close => self.close(c, out),
            _ if c.is_ascii_alphanumeric() || c == '-' => {
                self.word.clear();
                self.word.push(c);
                self.state = State::Word;
                Step::More
            }
            _ => Step::Not,
        }
    }

    /// A number, `true`, `false` or `null`; Python's names are translated.
    fn word(&mut self, c: char, out: &mut Writer<'_, '_>) -> Step {
        if c.is_ascii_alphanumeric() || matches!(c, '.' | '+' | '-') {
            self.word.push(c);
            return if self.word.len() > WORD { Step::Not } else { Step::More };
        }
        let Some(json) = json_of(&self.word) else { return Step::Not };
        out.arguments(&json);
        self.state = State::After;
        self.char(c, out)
    }

    fn after(&mut self, c: char, out: &mut Writer<'_, '_>) -> Step {
        match (self.open.last(), c) {
            (Some(b'{'), ',') => self.state = State::Key(false),
            (Some(_), ',') => self.state = State::Value(false),
            (Some(b'{'), '}') | (Some(b'['), ']') => return self.close(c, out),
            _ => return Step::Not,
        }
        out.argument(c);
        Step::More
    }
}

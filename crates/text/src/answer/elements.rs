//! Calls as elements: `<function=name><parameter=key>value</parameter></function>`, translated to JSON.

use super::calls::Writer;
use super::format::Mark;
use super::opening::Opening;
use super::scan::json_of;
use super::step::Step;
use super::tools::Tools;

const FUNCTION: &str = "<function=";
/// What ends a value. The line end before it does not belong to the value.
const ENDS: [&str; 2] = ["</parameter>", "\n</parameter>"];

/// One call.
#[derive(Debug)]
pub(super) struct Elements {
    state: State,
    opening: Opening,
    /// Number of arguments so far.
    arguments: usize,
    /// A tag, or the end of a value that may be a tag.
    held: String,
    /// A value whose type is not known before its end.
    value: String,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Opening,
    /// Between tags.
    Between,
    Tag,
    /// In a value, whose first line end is left out.
    Value {
        is_first: bool,
        is_string: bool,
    },
    Tail,
}

impl Default for Elements {
    fn default() -> Self {
        Self {
            state: State::Opening,
            opening: Opening::new(FUNCTION),
            arguments: 0,
            held: String::new(),
            value: String::new(),
        }
    }
}

impl Elements {
    pub(super) const fn is_tail(&self) -> bool {
        matches!(self.state, State::Tail)
    }

    pub(super) const fn mark(&self, mark: Mark) -> Step {
        match (self.state, mark) {
            (State::Value { .. }, _) => Step::Text,
            (State::Tail, Mark::EndCall) => Step::End,
            (State::Tail, Mark::Call) => Step::Again,
            _ => Step::Not,
        }
    }

    pub(super) fn char(&mut self, c: char, tools: &Tools, out: &mut Writer<'_, '_>) -> Step {
        match self.state {
            State::Value { is_first, is_string } => {
                self.state = State::Value { is_first: false, is_string };
                if !(is_first && c == '\n') {
                    self.value_char(c, is_string, out);
                }
            }
            State::Opening => match self.opening.char(c, '>', out) {
                Step::End => {
                    out.argument('{');
                    self.state = State::Between;
                }
                step => return step,
            },
            State::Tag if c == '>' => return self.tag(tools, out),
            State::Tag if matches!(c, '<' | '\n') => return Step::Not,
            State::Tag => self.held.push(c),
            _ if c.is_ascii_whitespace() => {}
            State::Between if c == '<' => {
                self.held.clear();
                self.state = State::Tag;
            }
            State::Between | State::Tail => return Step::Not,
        }
        Step::More
    }

    fn tag(&mut self, tools: &Tools, out: &mut Writer<'_, '_>) -> Step {
        if self.held == "/function" {
            out.argument('}');
            out.end(true);
            self.state = State::Tail;
            return Step::More;
        }
        let Some(key) = self.held.strip_prefix("parameter=") else { return Step::Not };
        if self.arguments > 0 {
            out.argument(',');
        }
        self.arguments += 1;
        out.argument('"');
        key.chars().for_each(|c| out.escaped(c));
        out.arguments("\":");
        let is_string = tools.is_string(&self.opening.name, key);
        if is_string {
            out.argument('"');
        }
        self.held.clear();
        self.value.clear();
        self.state = State::Value { is_first: true, is_string };
        Step::More
    }

    fn value_char(&mut self, c: char, is_string: bool, out: &mut Writer<'_, '_>) {
        self.held.push(c);
        if ENDS.contains(&self.held.as_str()) {
            self.held.clear();
            self.state = State::Between;
            return if is_string { out.argument('"') } else { self.typed(out) };
        }
        while !ENDS.iter().any(|end| end.starts_with(self.held.as_str())) {
            match self.held.remove(0) {
                c if is_string => out.escaped(c),
                c => self.value.push(c),
            }
        }
    }

    /// Writes a value that is JSON as it is, and any other as a string.
    fn typed(&self, out: &mut Writer<'_, '_>) {
        if let Some(json) = json_of(&self.value) {
            out.arguments(&json);
        } else {
            out.argument('"');
            self.value.chars().for_each(|c| out.escaped(c));
            out.argument('"');
        }
    }
}

//! Calls as JSON objects with the name and the arguments: `{"name": "f", "arguments": {…}}`, one or several.

use super::calls::Writer;
use super::format::Mark;
use super::scan::{JsonScan, Scan, escape, json_of};
use super::step::Step;
use super::tools::Tools;

/// One object or several, in a list or not.
#[derive(Debug, Default)]
pub(super) struct Objects {
    /// Whether nothing but the object shows that this is a call, which must then be one of a known tool.
    pub is_bare: bool,
    state: State,
    scan: JsonScan,
    /// The key or string being read, as JSON.
    text: String,
    call: Call,
}

/// The call that an object describes.
#[derive(Debug, Default)]
struct Call {
    name: Option<String>,
    id: Option<String>,
    /// Arguments that came before the name.
    early: String,
    has_arguments: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
enum State {
    /// Before the first object.
    #[default]
    Fresh,
    /// Between objects.
    Tail,
    Key,
    Colon(Field),
    Value(Field),
    /// In the text of a key or a value.
    Text(Field),
    Arguments,
    /// In a value that is ignored.
    Skip,
    /// After a value.
    After,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Field {
    Key,
    Name,
    Id,
    Arguments,
    /// `"type": "function"`, which is required of an object that nothing else shows to be a call.
    Type,
    Other,
}

impl Objects {
    pub(super) const fn is_fresh(&self) -> bool {
        matches!(self.state, State::Fresh) && !self.is_bare
    }

    pub(super) const fn is_tail(&self) -> bool {
        let has_call = self.call.name.is_some() && self.call.has_arguments;
        matches!(self.state, State::Tail) || matches!(self.state, State::After) && has_call
    }

    pub(super) fn mark(&self, mark: Mark) -> Step {
        match (self.state, mark) {
            (State::Text(_) | State::Arguments | State::Skip, _) if self.scan.in_string() => {
                Step::Text
            }
            (State::Tail, Mark::EndCall) => Step::End,
            (State::Tail, Mark::Call) => Step::Again,
            _ => Step::Not,
        }
    }

    pub(super) fn char(&mut self, c: char, tools: &Tools, out: &mut Writer<'_, '_>) -> Step {
        match self.state {
            State::Text(field) => return self.text(c, field, tools, out),
            State::Arguments => return self.argument(c, out),
            State::Skip => match self.scan.push(c) {
                Scan::More => {}
                Scan::End => self.state = State::After,
                Scan::EndBefore => {
                    self.state = State::After;
                    return self.char(c, tools, out);
                }
                Scan::Bad => return Step::Not,
            },
            _ if matches!(c, ' ' | '\t' | '\n' | '\r') => {}
            State::Fresh | State::Tail => match c {
                '{' => {
                    (self.call, self.state) = (Call::default(), State::Key);
                }
                '[' if self.state == State::Fresh && !self.is_bare => {}
                ',' | ';' | ']' if self.state == State::Tail => {}
                _ => return Step::Not,
            },
            State::Key => match c {
                '"' => self.begin_text(c, Field::Key),
                _ => return Step::Not,
            },
            State::Colon(field) if c == ':' => self.state = State::Value(field),
            State::Colon(_) => return Step::Not,
            State::Value(field) => return self.value(c, field, out),
            State::After => match c {
                ',' => self.state = State::Key,
                '}' => return self.close(out),
                _ => return Step::Not,
            },
        }
        Step::More
    }

    fn begin_text(&mut self, c: char, field: Field) {
        self.scan = JsonScan::default();
        self.scan.push(c);
        self.text.clear();
        self.text.push(c);
        self.state = State::Text(field);
    }

    fn value(&mut self, c: char, field: Field, out: &mut Writer<'_, '_>) -> Step {
        match (field, c) {
            (Field::Name | Field::Id | Field::Arguments | Field::Type, '"') => {
                self.begin_text(c, field);
                return Step::More;
            }
            (Field::Arguments, '{') if !self.call.has_arguments => self.state = State::Arguments,
            (Field::Arguments, 'n') | (Field::Id, 'n' | '0'..='9') => self.state = State::Skip,
            (Field::Other, _) if !self.is_bare => self.state = State::Skip,
            _ => return Step::Not,
        }
        self.scan = JsonScan::default();
        if self.scan.push(c) != Scan::More {
            return Step::Not;
        }
        if self.state == State::Arguments {
            self.call.has_arguments = true;
            write_argument(&mut self.call.early, c, out);
        }
        Step::More
    }

    fn argument(&mut self, c: char, out: &mut Writer<'_, '_>) -> Step {
        let early = &mut self.call.early;
        let scan = self.scan.copy(c, &mut |c| write_argument(early, c, out));
        if matches!(scan, Scan::Bad | Scan::EndBefore) {
            return Step::Not;
        }
        if scan == Scan::End {
            self.state = State::After;
            out.end(true);
        }
        Step::More
    }

    fn text(&mut self, c: char, field: Field, tools: &Tools, out: &mut Writer<'_, '_>) -> Step {
        let scan = self.scan.push(c);
        if c < ' ' {
            escape(c, &mut |c| self.text.push(c));
        } else {
            self.text.push(c);
        }
        match scan {
            Scan::More => return Step::More,
            Scan::End => {}
            Scan::EndBefore | Scan::Bad => return Step::Not,
        }
        let Ok(text) = serde_json::from_str::<String>(&self.text) else { return Step::Not };
        self.state = State::After;
        match field {
            Field::Key => match self.field(&text) {
                Some(field) => self.state = State::Colon(field),
                None => return Step::Not,
            },
            Field::Name => return self.name(text, tools, out),
            Field::Id => self.call.id = Some(text),
            Field::Arguments => return self.quoted_arguments(&text, out),
            Field::Type if text == "function" => {}
            Field::Type | Field::Other => return Step::Not,
        }
        Step::More
    }

    fn field(&self, key: &str) -> Option<Field> {
        match key {
            // Some models write `"function": "name"`.
            "name" | "function" if self.call.name.is_none() => Some(Field::Name),
            "id" => Some(Field::Id),
            "arguments" | "parameters" if !self.call.has_arguments => Some(Field::Arguments),
            "type" if self.is_bare => Some(Field::Type),
            _ if self.is_bare => None,
            _ => Some(Field::Other),
        }
    }

    fn name(&mut self, name: String, tools: &Tools, out: &mut Writer<'_, '_>) -> Step {
        if name.is_empty() || self.is_bare && !tools.names().any(|known| known == name) {
            return Step::Not;
        }
        out.begin(&name, self.call.id.as_deref());
        self.call.name = Some(name);
        if self.call.has_arguments {
            out.arguments(&std::mem::take(&mut self.call.early));
            out.end(true);
        }
        Step::More
    }

    /// Arguments as JSON within a string.
    fn quoted_arguments(&mut self, text: &str, out: &mut Writer<'_, '_>) -> Step {
        let Some(json) = json_of(text).filter(|json| json.starts_with('{')) else {
            return Step::Not;
        };
        self.call.has_arguments = true;
        if out.calls.is_open {
            out.arguments(&json);
            out.end(true);
        } else {
            self.call.early = json;
        }
        Step::More
    }

    fn close(&mut self, out: &mut Writer<'_, '_>) -> Step {
        if self.call.name.is_none() {
            return Step::Not;
        }
        if !self.call.has_arguments {
            out.arguments("{}");
            out.end(true);
        }
        out.calls.raw.clear();
        self.state = State::Tail;
        Step::More
    }
}

/// Writes a character of the arguments, or keeps it until the name is known.
fn write_argument(early: &mut String, c: char, out: &mut Writer<'_, '_>) {
    match out.calls.is_open {
        true => out.argument(c),
        false => early.push(c),
    }
}

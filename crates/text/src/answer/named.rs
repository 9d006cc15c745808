//! Calls as a name and then the arguments as JSON: `name[ARGS]{…}`.

use super::calls::Writer;
use super::format::Mark;
use super::scan::{JsonScan, Scan};
use super::step::Step;

/// One call.
#[derive(Debug, Default)]
pub(super) struct Named {
    state: State,
    name: String,
    id: Option<String>,
    scan: JsonScan,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
enum State {
    #[default]
    Name,
    Id,
    /// Before the arguments; the call has begun.
    Before,
    Arguments,
    Tail,
}

impl Named {
    /// The arguments of a call whose name is known.
    pub(super) fn arguments_of(name: &str, out: &mut Writer<'_, '_>) -> Self {
        out.begin(name, None);
        Self { state: State::Before, ..Self::default() }
    }

    pub(super) fn is_fresh(&self) -> bool {
        self.state == State::Name && self.name.is_empty()
    }

    pub(super) const fn is_tail(&self) -> bool {
        matches!(self.state, State::Tail)
    }

    pub(super) fn mark(&mut self, mark: Mark, out: &mut Writer<'_, '_>) -> Step {
        match (self.state, mark) {
            (State::Arguments, _) if self.scan.in_string() => Step::Text,
            (State::Name, Mark::CallId) if !self.name.is_empty() => {
                (self.state, self.id) = (State::Id, Some(String::new()));
                Step::More
            }
            (State::Name | State::Id, Mark::Arguments) => self.begin(out),
            (State::Before, Mark::Arguments) => Step::More,
            // A call without arguments.
            (State::Before, Mark::End | Mark::Call) => {
                out.arguments("{}");
                out.end(true);
                if mark == Mark::End { Step::End } else { Step::Again }
            }
            (State::Tail, Mark::End | Mark::EndCall) => Step::End,
            (State::Tail, Mark::Call) => Step::Again,
            _ => Step::Not,
        }
    }

    pub(super) fn char(&mut self, c: char, out: &mut Writer<'_, '_>) -> Step {
        let is_space = c.is_ascii_whitespace();
        match self.state {
            State::Name if is_space && self.name.is_empty() => {}
            State::Name if is_name(c) => self.name.push(c),
            State::Id if is_name(c) => self.id.get_or_insert_default().push(c),
            State::Name | State::Id if c == '{' => {
                return match self.begin(out) {
                    Step::More => self.char(c, out),
                    step => step,
                };
            }
            State::Name | State::Id => return Step::Not,
            State::Before if is_space => {}
            State::Before if c == '{' => {
                self.state = State::Arguments;
                return self.argument(c, out);
            }
            State::Before => return Step::Not,
            State::Arguments => return self.argument(c, out),
            State::Tail if is_space => {}
            State::Tail => return Step::Not,
        }
        Step::More
    }

    fn begin(&mut self, out: &mut Writer<'_, '_>) -> Step {
        if self.name.is_empty() {
            return Step::Not;
        }
        out.begin(&self.name, self.id.as_deref().filter(|id| !id.is_empty()));
        self.state = State::Before;
        Step::More
    }

    fn argument(&mut self, c: char, out: &mut Writer<'_, '_>) -> Step {
        let scan = self.scan.copy(c, &mut |c| out.argument(c));
        if matches!(scan, Scan::Bad | Scan::EndBefore) {
            return Step::Not;
        }
        if scan == Scan::End {
            self.state = State::Tail;
            out.end(true);
        }
        Step::More
    }
}

/// Whether a character may be part of a tool's name or of an id.
pub(super) fn is_name(c: char) -> bool {
    c.is_alphanumeric() || matches!(c, '_' | '-' | '.' | ':' | '/')
}

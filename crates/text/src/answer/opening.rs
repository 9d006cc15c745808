//! What begins a call in several formats: a prefix, the tool's name and a character after it.

use super::calls::Writer;
use super::named::is_name;
use super::step::Step;

/// The beginning of a call.
#[derive(Debug)]
pub(super) struct Opening {
    prefix: &'static str,
    /// The part of the prefix that is still to come.
    rest: &'static str,
    /// The tool's name.
    pub name: String,
}

impl Opening {
    pub(super) const fn new(prefix: &'static str) -> Self {
        Self { prefix, rest: prefix, name: String::new() }
    }

    /// Adds a character. With `end` after the name, the call begins, and the opening ends.
    pub(super) fn char(&mut self, c: char, end: char, out: &mut Writer<'_, '_>) -> Step {
        match self.rest.strip_prefix(c) {
            Some(rest) => self.rest = rest,
            None if c.is_ascii_whitespace() && self.rest == self.prefix => {}
            None if !self.rest.is_empty() => return Step::Not,
            None if is_name(c) => self.name.push(c),
            None if c == end && !self.name.is_empty() => {
                out.begin(&self.name, None);
                return Step::End;
            }
            None => return Step::Not,
        }
        Step::More
    }
}

//! From text to rules.

use std::collections::HashSet;
use std::fmt::Write;
use std::iter::Peekable;
use std::str::Chars;

use super::rule::{Expr, Rule, is_name, push_char, regex_of};
use crate::Error;

/// Maximum depth of parentheses.
const MAX_DEPTH: usize = 100;
/// Maximum number of repetitions.
const MAX_REPEAT: usize = 2000;
/// Maximum number of repetitions of repetitions, such as `*?`: each is a level of its own.
const MAX_SUFFIXES: usize = 4;

struct Parser<'t> {
    rest: Peekable<Chars<'t>>,
    line: usize,
}

/// Parses all rules.
pub(super) fn rules(text: &str) -> Result<Vec<Rule>, Error> {
    let mut parser = Parser { rest: text.chars().peekable(), line: 1 };
    let mut rules: Vec<Rule> = Vec::new();
    let mut names = HashSet::new();
    loop {
        parser.blank(true);
        if parser.rest.peek().is_none() {
            return Ok(rules);
        }
        let name = parser.name();
        if name.is_empty() {
            let found = parser.rest.peek().copied().unwrap_or_default();
            return Err(parser.error(format!("expected the name of a rule, found {found:?}")));
        }
        parser.blank(true);
        for expected in "::=".chars() {
            if parser.next() != Some(expected) {
                return Err(parser.error(format!("expected ::= after {name}")));
            }
        }
        parser.blank(true);
        let expr = parser.choice(0)?;
        parser.blank(false);
        if !matches!(parser.rest.peek(), None | Some('\n' | '\r')) {
            let found = parser.rest.peek().copied().unwrap_or_default();
            return Err(parser.error(format!("unexpected {found:?}")));
        }
        if !names.insert(name.clone()) {
            return Err(parser.error(format!("{name} is defined twice")));
        }
        rules.push(Rule { name, expr });
    }
}

impl Parser<'_> {
    fn error(&self, what: impl Into<String>) -> Error {
        Error::source(format!("line {}", self.line), what.into(), "correct the grammar")
    }

    fn next(&mut self) -> Option<char> {
        let c = self.rest.next();
        self.line += usize::from(c == Some('\n'));
        c
    }

    fn take(&mut self, c: char) -> bool {
        self.rest.peek() == Some(&c) && self.next().is_some()
    }

    /// Skips blanks and comments, and line ends if `lines`.
    fn blank(&mut self, lines: bool) {
        loop {
            match self.rest.peek() {
                Some(' ' | '\t') => _ = self.next(),
                Some('\n' | '\r') if lines => _ = self.next(),
                Some('#') => {
                    while self.rest.peek().is_some_and(|c| *c != '\n') {
                        self.next();
                    }
                }
                _ => return,
            }
        }
    }

    fn name(&mut self) -> String {
        let mut name = String::new();
        while let Some(c) = self.rest.next_if(|c| is_name(*c)) {
            name.push(c);
        }
        name
    }

    /// Whether an alternative follows, possibly on one of the next lines.
    fn more(&mut self) -> bool {
        let mut ahead = self.rest.clone();
        let mut comment = false;
        let next = ahead.find(|c| {
            comment = (comment || *c == '#') && *c != '\n';
            !comment && !c.is_ascii_whitespace()
        });
        if next == Some('|') {
            self.blank(true);
        }
        self.take('|')
    }

    fn choice(&mut self, depth: usize) -> Result<Expr, Error> {
        if depth > MAX_DEPTH {
            return Err(self.error(format!("more than {MAX_DEPTH} nested parentheses")));
        }
        let mut choices = vec![self.sequence(depth)?];
        while self.more() {
            self.blank(true);
            choices.push(self.sequence(depth)?);
        }
        let only = (choices.len() == 1).then(|| choices.pop()).flatten();
        Ok(only.unwrap_or(Expr::Choice(choices)))
    }

    fn sequence(&mut self, depth: usize) -> Result<Expr, Error> {
        let mut items = Vec::new();
        loop {
            self.blank(depth > 0);
            let Some(&c) = self.rest.peek() else { break };
            let item = match c {
                '"' => self.literal()?,
                '[' => self.class()?,
                '.' => {
                    self.next();
                    Expr::Regex("(?s:.)".to_owned())
                }
                '(' => {
                    self.next();
                    let inner = self.choice(depth + 1)?;
                    self.blank(true);
                    if !self.take(')') {
                        return Err(self.error("a parenthesis is not closed"));
                    }
                    inner
                }
                '<' | '!' => return Err(self.error("tokens as parts of a rule are not supported")),
                c if is_name(c) => Expr::Name(self.name(), self.line),
                _ => break,
            };
            items.push(self.repeated(item)?);
        }
        let only = (items.len() == 1).then(|| items.pop()).flatten();
        Ok(only.unwrap_or(Expr::Sequence(items)))
    }

    fn repeated(&mut self, mut item: Expr) -> Result<Expr, Error> {
        for suffixes in 0.. {
            let (least, most) = match self.rest.peek() {
                Some('*') => (0, None),
                Some('+') => (1, None),
                Some('?') => (0, Some(1)),
                Some('{') => {
                    self.next();
                    let counts = self.counts()?;
                    if self.rest.peek() != Some(&'}') {
                        return Err(self.error("a repetition is not closed"));
                    }
                    counts
                }
                _ => break,
            };
            if suffixes == MAX_SUFFIXES {
                let what = format!("more than {MAX_SUFFIXES} repetitions of each other");
                return Err(self.error(what));
            }
            self.next();
            item = Expr::Repeat(Box::new(item), least, most);
        }
        Ok(item)
    }

    fn counts(&mut self) -> Result<(usize, Option<usize>), Error> {
        let least = self.count()?;
        self.blank(false);
        let most = if self.take(',') { self.count()? } else { least };
        let least = least.unwrap_or(0);
        if most.is_some_and(|most| most < least) {
            return Err(self.error("a repetition ends below its beginning"));
        }
        Ok((least, most))
    }

    fn count(&mut self) -> Result<Option<usize>, Error> {
        self.blank(false);
        let mut digits = String::new();
        while let Some(c) = self.rest.next_if(char::is_ascii_digit) {
            digits.push(c);
        }
        self.blank(false);
        if digits.is_empty() {
            return Ok(None);
        }
        match digits.parse() {
            Ok(n) if n <= MAX_REPEAT => Ok(Some(n)),
            _ => Err(self.error(format!("more than {MAX_REPEAT} repetitions"))),
        }
    }

    fn literal(&mut self) -> Result<Expr, Error> {
        self.next();
        let mut text = String::new();
        while !self.take('"') {
            text.push(self.character("a literal")?);
        }
        Ok(Expr::Regex(regex_of(&text)))
    }

    fn class(&mut self) -> Result<Expr, Error> {
        self.next();
        let mut class = String::from(if self.take('^') { "[^" } else { "[" });
        let mut empty = true;
        while !self.take(']') {
            let first = self.character("a class")?;
            push_char(&mut class, first);
            empty = false;
            if !self.take('-') {
                continue;
            }
            if self.rest.peek() == Some(&']') {
                push_char(&mut class, '-');
                continue;
            }
            let last = self.character("a class")?;
            if last < first {
                return Err(self.error(format!("the range {first:?} to {last:?} is reversed")));
            }
            class.push('-');
            push_char(&mut class, last);
        }
        if empty {
            return Err(self.error("a class is empty"));
        }
        let _ = class.write_char(']');
        Ok(Expr::Regex(class))
    }

    /// A character, which may be escaped.
    fn character(&mut self, within: &str) -> Result<char, Error> {
        let open = format!("{within} is not closed");
        let c = match self.rest.next_if(|c| *c != '\n') {
            None => return Err(self.error(open)),
            Some('\\') => self.rest.next_if(|c| *c != '\n'),
            Some(c) => return Ok(c),
        };
        let digits = match c {
            Some('n') => return Ok('\n'),
            Some('r') => return Ok('\r'),
            Some('t') => return Ok('\t'),
            Some(c @ ('"' | '\\' | '[' | ']' | '-' | '^' | '/' | '\'')) => return Ok(c),
            Some('x') => 2,
            Some('u') => 4,
            Some('U') => 8,
            Some(c) => return Err(self.error(format!("unknown escape \\{c}"))),
            None => return Err(self.error(open)),
        };
        let hex: String =
            (0..digits).filter_map(|_| self.rest.next_if(char::is_ascii_hexdigit)).collect();
        let code = u32::from_str_radix(&hex, 16).ok().filter(|_| hex.len() == digits);
        let c = code.and_then(char::from_u32);
        c.ok_or_else(|| {
            self.error(format!("an escape needs {digits} hexadecimal digits of a character"))
        })
    }
}

//! Pre-tokenization: splits text into pieces, across which BPE never merges.
//!
//! The reference needs a backtracking engine because most patterns end in `|\s+(?!\S)|\s+`, which leaves
//! the last space of a run to the following word. That lookahead is equivalent to matching `\s+` and
//! dropping the last character unless the text ends there. A linear-time engine therefore suffices, and
//! no input, however hostile, is slow.

use std::ops::Range;

use regex_automata::meta::Regex;
use regex_automata::util::syntax;
use regex_automata::{Input, meta};

use crate::Error;
use crate::bytes::byte_chars;
use crate::json::{Behavior, Pattern, PreTokenizer, PrependScheme};

/// GPT-2's pattern, built into `ByteLevel`.
pub(crate) const GPT2: &str =
    r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+";
const PUNCTUATION: &str = r"[!-/:-@\[-`{-~\p{P}]";
const SPACES_TAIL: &str = r"|\s+(?!\S)|\s+";

/// Memory limit for a compiled pattern, in bytes; the largest published pattern needs a quarter of it.
const PATTERN_MEMORY: usize = 16 << 20;

/// Compiles alternatives, earlier ones taking precedence. `part` is the JSON member that errors name.
pub(crate) fn compile(part: &'static str, patterns: &[&str]) -> Result<Regex, Error> {
    meta::Builder::new()
        // `^` and `$` are line anchors in Ruby's syntax, which the reference's engine uses.
        .syntax(syntax::Config::new().multi_line(true))
        .configure(meta::Config::new().nfa_size_limit(Some(PATTERN_MEMORY)))
        .build_many(patterns)
        .map_err(|e| {
            let why = std::error::Error::source(&e).map_or(e.to_string(), |s| s.to_string());
            let why = why.split_whitespace().collect::<Vec<_>>().join(" ");
            Error::tokenizer(part, format!("pattern not supported: {why}"))
        })
}

/// Finds the matches of a splitting rule.
pub(crate) enum Matcher {
    /// If `is_lookahead`, the second pattern is `\s+`, whose last space belongs to the text after it.
    Regex {
        regex: Box<Regex>,
        is_lookahead: bool,
    },
    Text(String),
    Char(fn(char) -> bool),
}

/// A compiled pre-tokenization step.
pub(crate) enum Step {
    Split { matcher: Matcher, behavior: Behavior, invert: bool },
    Metaspace { replacement: char, prepend: PrependScheme },
    PrefixSpace,
    ByteLevel,
}

impl Step {
    fn split(matcher: Matcher, behavior: Behavior) -> Self {
        Self::Split { matcher, behavior, invert: false }
    }
}

impl Matcher {
    fn regex(pattern: &str) -> Result<Self, Error> {
        let (regex, is_lookahead) = match pattern.strip_suffix(SPACES_TAIL) {
            Some(head) => (compile("pre_tokenizer", &[head, r"\s+"])?, true),
            None => (compile("pre_tokenizer", &[pattern])?, false),
        };
        Ok(Self::Regex { regex: Box::new(regex), is_lookahead })
    }

    /// Calls `found` for every match in `text`, left to right.
    fn find(&self, text: &str, mut found: impl FnMut(Range<usize>)) {
        match self {
            Self::Regex { regex, is_lookahead } => {
                let mut at = 0;
                while let Some(m) = regex.search(&Input::new(text).range(at..)) {
                    let mut end = m.end();
                    if *is_lookahead && m.pattern().as_usize() == 1 && end < text.len() {
                        let last = text[..end].chars().next_back().map_or(0, char::len_utf8);
                        if m.start() < end - last {
                            end -= last;
                        }
                    }
                    if end > m.start() {
                        found(m.start()..end);
                        at = end;
                    } else {
                        let Some(c) = text[end..].chars().next() else { break };
                        at = end + c.len_utf8();
                    }
                }
            }
            Self::Text(needle) if needle.is_empty() => {}
            Self::Text(needle) => {
                text.match_indices(needle.as_str()).for_each(|(i, s)| found(i..i + s.len()));
            }
            Self::Char(matches) => {
                text.match_indices(*matches).for_each(|(i, s)| found(i..i + s.len()));
            }
        }
    }
}

/// Flattens a pre-tokenizer of `tokenizer.json` into steps.
pub(crate) fn build(pre: &PreTokenizer, steps: &mut Vec<Step>) -> Result<(), Error> {
    use Behavior::{Contiguous, Isolated, MergedWithNext, Removed};
    match pre {
        PreTokenizer::Sequence { pretokenizers } => {
            pretokenizers.iter().try_for_each(|p| build(p, steps))?;
        }
        PreTokenizer::ByteLevel { add_prefix_space, use_regex, .. } => {
            if *add_prefix_space {
                steps.push(Step::PrefixSpace);
            }
            if *use_regex {
                steps.push(Step::split(Matcher::regex(GPT2)?, Isolated));
            }
            steps.push(Step::ByteLevel);
        }
        PreTokenizer::Metaspace { replacement, prepend_scheme, add_prefix_space, split } => {
            let prepend = PrependScheme::resolve(*prepend_scheme, *add_prefix_space);
            steps.push(Step::Metaspace { replacement: *replacement, prepend });
            if *split {
                steps.push(Step::split(Matcher::Text(replacement.to_string()), MergedWithNext));
            }
        }
        PreTokenizer::Split { pattern, behavior, invert } => {
            let matcher = match pattern {
                Pattern::String(text) => Matcher::Text(text.clone()),
                Pattern::Regex(regex) => Matcher::regex(regex)?,
            };
            steps.push(Step::Split { matcher, behavior: *behavior, invert: *invert });
        }
        PreTokenizer::Digits { individual_digits } => {
            let behavior = if *individual_digits { Isolated } else { Contiguous };
            steps.push(Step::split(Matcher::Char(char::is_numeric), behavior));
        }
        PreTokenizer::Punctuation { behavior } => {
            let matcher = Matcher::regex(PUNCTUATION)?;
            steps.push(Step::split(matcher, *behavior));
        }
        PreTokenizer::Whitespace => steps.push(Step::Split {
            matcher: Matcher::regex(r"\w+|[^\w\s]+")?,
            behavior: Removed,
            invert: true,
        }),
        PreTokenizer::WhitespaceSplit => {
            steps.push(Step::split(Matcher::Char(char::is_whitespace), Removed));
        }
        PreTokenizer::Bert => {
            steps.push(Step::split(Matcher::Char(char::is_whitespace), Removed));
            let matcher = Matcher::regex(PUNCTUATION)?;
            steps.push(Step::split(matcher, Isolated));
        }
    }
    Ok(())
}

/// The pieces of a text, in one buffer.
pub(crate) struct Pieces {
    text: String,
    bounds: Vec<Range<usize>>,
    /// Whether the first piece is at the start of the input.
    at_start: bool,
}

impl Pieces {
    pub(crate) fn new(text: &str, at_start: bool) -> Self {
        let whole = 0..text.len();
        Self { text: text.to_owned(), bounds: vec![whole], at_start }
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = &str> {
        self.bounds.iter().map(|b| &self.text[b.clone()]).filter(|piece| !piece.is_empty())
    }

    pub(crate) fn apply(&mut self, step: &Step) {
        match step {
            Step::Split { matcher, behavior, invert } => self.split(matcher, *behavior, *invert),
            Step::PrefixSpace => self.rewrite(|piece, _, out| {
                if !piece.starts_with(' ') {
                    out.push(' ');
                }
                out.push_str(piece);
            }),
            Step::Metaspace { replacement, prepend } => self.rewrite(|piece, at_start, out| {
                let prepends = match prepend {
                    PrependScheme::Always => true,
                    PrependScheme::First => at_start,
                    PrependScheme::Never => false,
                };
                if prepends && !piece.starts_with([' ', *replacement]) {
                    out.push(*replacement);
                }
                out.extend(piece.chars().map(|c| if c == ' ' { *replacement } else { c }));
            }),
            Step::ByteLevel => {
                let table = byte_chars();
                self.rewrite(|piece, _, out| {
                    out.extend(piece.bytes().map(|b| table[usize::from(b)]));
                });
            }
        }
    }

    fn rewrite(&mut self, mut write: impl FnMut(&str, bool, &mut String)) {
        let mut text = String::with_capacity(self.text.len() * 2);
        for (i, bound) in self.bounds.iter_mut().enumerate() {
            let start = text.len();
            let piece = &self.text[bound.clone()];
            if !piece.is_empty() {
                write(piece, self.at_start && i == 0, &mut text);
            }
            *bound = start..text.len();
        }
        self.text = text;
    }

    fn split(&mut self, matcher: &Matcher, behavior: Behavior, invert: bool) {
        let mut bounds = Vec::with_capacity(self.bounds.len() * 2);
        let mut parts: Vec<(Range<usize>, bool)> = Vec::new();
        for bound in &self.bounds {
            parts.clear();
            let (piece, base) = (&self.text[bound.clone()], bound.start);
            let mut at = 0;
            matcher.find(piece, |m| {
                if at < m.start {
                    parts.push((base + at..base + m.start, invert));
                }
                at = m.end;
                parts.push((base + m.start..base + m.end, !invert));
            });
            if at < piece.len() {
                parts.push((base + at..base + piece.len(), invert));
            }
            join(&parts, behavior, &mut bounds);
        }
        self.at_start &= bounds.first().is_none_or(|b: &Range<usize>| b.start == 0);
        self.bounds = bounds;
    }
}

/// Joins matches (`true`) and the text between them into pieces.
fn join(parts: &[(Range<usize>, bool)], behavior: Behavior, out: &mut Vec<Range<usize>>) {
    let first = out.len();
    let mut previous = false;
    if behavior == Behavior::MergedWithNext {
        for (range, is_match) in parts.iter().rev() {
            match out[first..].last_mut() {
                Some(next) if *is_match && !previous => next.start = range.start,
                _ => out.push(range.clone()),
            }
            previous = *is_match;
        }
        out[first..].reverse();
        return;
    }
    for (range, is_match) in parts {
        let joins = match behavior {
            Behavior::Removed if *is_match => continue,
            Behavior::Contiguous => *is_match == previous,
            Behavior::MergedWithPrevious => *is_match && !previous,
            _ => false,
        };
        match out[first..].last_mut() {
            Some(last) if joins => last.end = range.end,
            _ => out.push(range.clone()),
        }
        previous = *is_match;
    }
}

//! Added tokens: strings extracted from the text before BPE runs.
//!
//! Control tokens such as `<|im_end|>` are added tokens marked `special`. Matching is leftmost-longest,
//! as in the reference.

use std::collections::HashMap;
use std::ops::Range;
use std::sync::LazyLock;

use regex_automata::meta::Regex;

use crate::json::AddedToken;

/// Which special tokens may be recognised in a text.
#[derive(Clone, Copy)]
pub(crate) enum Policy<'a> {
    /// All of them.
    Parse,
    /// None.
    Plain,
    /// All except those that overlap one of these byte ranges of the text.
    Protect(&'a [Range<usize>]),
}

impl Policy<'_> {
    /// Whether a token is recognised only where [`Self::allows`] says so.
    fn applies_to(self, token: &AddedToken) -> bool {
        match self {
            Self::Protect(_) => is_control(token),
            Self::Parse | Self::Plain => token.special,
        }
    }

    /// Whether a special token may be recognised at `at`.
    pub(crate) fn allows(self, at: Range<usize>) -> bool {
        match self {
            Self::Parse => true,
            Self::Plain => false,
            Self::Protect(ranges) => !ranges.iter().any(|r| r.start < at.end && at.start < r.end),
        }
    }
}

/// Markers of tool calls that some vocabularies have as tokens which are not special.
const CALL_MARKERS: [&str; 4] =
    ["<tool_call>", "</tool_call>", "<tool_response>", "</tool_response>"];

/// Whether a token structures conversations, so that only templates may write it: special tokens, and
/// markers of tool calls.
pub(crate) fn is_control(token: &AddedToken) -> bool {
    token.special || CALL_MARKERS.contains(&token.content.as_str())
}

/// A part of the input.
pub(crate) enum Part {
    Token(u32),
    Text(Range<usize>),
}

/// A set of added tokens, looked up by text.
pub(crate) struct AddedTokens {
    tokens: HashMap<String, AddedToken>,
    /// [256] lengths of the tokens that start with each byte, in descending order.
    lengths: Vec<Vec<usize>>,
}

impl AddedTokens {
    pub(crate) fn new(tokens: impl Iterator<Item = (String, AddedToken)>) -> Self {
        let tokens: HashMap<_, _> = tokens.filter(|(text, _)| !text.is_empty()).collect();
        let mut lengths = vec![Vec::new(); 256];
        for text in tokens.keys() {
            lengths[usize::from(text.as_bytes()[0])].push(text.len());
        }
        for lengths in &mut lengths {
            lengths.sort_unstable_by(|a, b| b.cmp(a));
            lengths.dedup();
        }
        Self { tokens, lengths }
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = (&str, &AddedToken)> {
        self.tokens.iter().map(|(text, token)| (text.as_str(), token))
    }

    /// The end of the longest token that starts at byte `at`, and the token.
    fn at(&self, text: &str, at: usize) -> Option<(usize, &AddedToken)> {
        self.lengths[usize::from(text.as_bytes()[at])].iter().find_map(|len| {
            let token = self.tokens.get(text.get(at..at + len)?)?;
            Some((at + len, token))
        })
    }

    /// Calls `part` for every token and for the text between tokens. `offset` is the position of `text`
    /// within the text that `policy` refers to.
    pub(crate) fn split(
        &self,
        text: &str,
        offset: usize,
        policy: Policy<'_>,
        mut part: impl FnMut(Part),
    ) {
        let (mut done, mut at) = (0, 0);
        while at < text.len() {
            let Some((end, token)) = self.at(text, at) else {
                at += 1;
                continue;
            };
            let start = std::mem::replace(&mut at, end);
            if policy.applies_to(token) && !policy.allows(offset + start..offset + end)
                || token.single_word && touches_word(text, start, end)
            {
                continue;
            }
            let start = if token.lstrip { text[..start].trim_end().len().max(done) } else { start };
            if done < start {
                part(Part::Text(done..start));
            }
            part(Part::Token(token.id));
            done = end;
            if token.rstrip {
                done = text.len() - text[end..].trim_start().len();
                at = done;
            }
        }
        if done < text.len() {
            part(Part::Text(done..text.len()));
        }
    }
}

fn touches_word(text: &str, start: usize, end: usize) -> bool {
    // `char::is_alphanumeric` differs from `\w`: ½ is numeric, but not a word character.
    static WORD: LazyLock<Regex> =
        LazyLock::new(|| Regex::new(r"\w").expect("the pattern is valid"));
    let is_word = |c: Option<char>| c.is_some_and(|c| WORD.is_match(&*c.encode_utf8(&mut [0; 4])));
    is_word(text[..start].chars().next_back()) || is_word(text[end..].chars().next())
}

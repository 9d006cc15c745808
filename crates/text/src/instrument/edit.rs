//! Changes to a template's source.

use crate::tags::Token;

/// Replaces template bytes `start..end` with `text`.
pub(super) struct Edit {
    start: usize,
    end: usize,
    text: &'static str,
}

impl Edit {
    pub(super) const fn insert(at: usize, text: &'static str) -> Self {
        Self { start: at, end: at, text }
    }

    pub(super) fn replace(token: &Token<'_>, text: &'static str) -> Self {
        Self { start: token.start, end: token.end(), text }
    }
}

pub(super) fn apply(source: &str, mut edits: Vec<Edit>) -> String {
    edits.sort_by_key(|edit| edit.start); // stable: at equal offsets, inner edits come first
    let mut out = String::with_capacity(source.len() * 2);
    let mut copied = 0;
    for edit in edits {
        out.push_str(&source[copied..edit.start]);
        out.push_str(edit.text);
        copied = edit.end;
    }
    out.push_str(&source[copied..]);
    out
}

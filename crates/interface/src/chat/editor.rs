//! The message being written: text with a cursor that moves by grapheme clusters.

use unicode_segmentation::UnicodeSegmentation;
use unicode_width::UnicodeWidthStr;

/// Multi-line text with a cursor.
#[derive(Debug, Default)]
pub(crate) struct Editor {
    text: String,
    /// A byte offset, at a character boundary.
    cursor: usize,
}

/// An editing operation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Edit {
    Backspace,
    Delete,
    DeleteWord,
    DeleteToStart,
    DeleteToEnd,
    Left,
    Right,
    WordLeft,
    WordRight,
    LineStart,
    LineEnd,
}

/// The wrapped text.
pub(crate) struct Layout {
    pub lines: Vec<String>,
    /// Row and column of the cursor.
    pub cursor: (usize, usize),
}

impl Editor {
    pub(crate) fn text(&self) -> &str {
        &self.text
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.text.is_empty()
    }

    /// Replaces the text and moves the cursor to its end.
    pub(crate) fn set(&mut self, text: impl Into<String>) {
        self.text = text.into();
        self.cursor = self.text.len();
    }

    /// Clears the text and returns it.
    pub(crate) fn take(&mut self) -> String {
        self.cursor = 0;
        std::mem::take(&mut self.text)
    }

    /// Inserts typed or pasted text. Line endings become `\n`; other control characters except tabs
    /// are dropped.
    pub(crate) fn insert(&mut self, text: &str) {
        let text = text.replace("\r\n", "\n").replace('\r', "\n");
        let text: String =
            text.chars().filter(|c| !c.is_control() || matches!(c, '\n' | '\t')).collect();
        self.text.insert_str(self.cursor, &text);
        self.cursor += text.len();
    }

    pub(crate) fn edit(&mut self, edit: Edit) {
        let cursor = self.cursor;
        match edit {
            Edit::Backspace => self.delete(self.left(), cursor),
            Edit::Delete => self.delete(cursor, self.right()),
            Edit::DeleteWord => self.delete(self.word_left(), cursor),
            Edit::DeleteToStart => self.delete(self.line_start(), cursor),
            Edit::DeleteToEnd => self.delete(cursor, self.line_end()),
            Edit::Left => self.cursor = self.left(),
            Edit::Right => self.cursor = self.right(),
            Edit::WordLeft => self.cursor = self.word_left(),
            Edit::WordRight => self.cursor = self.word_right(),
            Edit::LineStart => self.cursor = self.line_start(),
            Edit::LineEnd => self.cursor = self.line_end(),
        }
    }

    fn delete(&mut self, from: usize, to: usize) {
        self.text.drain(from..to);
        self.cursor = from;
    }

    fn left(&self) -> usize {
        self.text[..self.cursor].grapheme_indices(true).next_back().map_or(0, |(at, _)| at)
    }

    fn right(&self) -> usize {
        let next = self.text[self.cursor..].graphemes(true).next();
        self.cursor + next.map_or(0, str::len)
    }

    fn word_left(&self) -> usize {
        let before = self.text[..self.cursor].trim_end();
        before
            .rfind(char::is_whitespace)
            .map_or(0, |at| at + before[at..].chars().next().map_or(0, char::len_utf8))
    }

    fn word_right(&self) -> usize {
        let after = &self.text[self.cursor..];
        let word = after.len() - after.trim_start().len();
        let end = after[word..].find(char::is_whitespace).map_or(after.len(), |at| word + at);
        self.cursor + end
    }

    fn line_start(&self) -> usize {
        self.text[..self.cursor].rfind('\n').map_or(0, |at| at + 1)
    }

    fn line_end(&self) -> usize {
        self.text[self.cursor..].find('\n').map_or(self.text.len(), |at| self.cursor + at)
    }

    /// Moves up a line, keeping the column; returns false on the first line.
    pub(crate) fn up(&mut self) -> bool {
        let start = self.line_start();
        if start == 0 {
            return false;
        }
        let column = self.text[start..self.cursor].graphemes(true).count();
        self.cursor = start - 1;
        self.go_to_column(column);
        true
    }

    /// Moves down a line, keeping the column; returns false on the last line.
    pub(crate) fn down(&mut self) -> bool {
        let end = self.line_end();
        if end == self.text.len() {
            return false;
        }
        let column = self.text[self.line_start()..self.cursor].graphemes(true).count();
        self.cursor = end + 1;
        self.go_to_column(column);
        true
    }

    fn go_to_column(&mut self, column: usize) {
        let (start, end) = (self.line_start(), self.line_end());
        let line = &self.text[start..end];
        let at = line.grapheme_indices(true).nth(column).map_or(line.len(), |(at, _)| at);
        self.cursor = start + at;
    }

    /// Wraps the text into lines of at most `width` columns.
    pub(crate) fn layout(&self, width: usize) -> Layout {
        let mut lines = vec![String::new()];
        let (mut used, mut cursor) = (0, (0, 0));
        for (at, glyph) in self.text.grapheme_indices(true) {
            let columns = if glyph == "\t" { 4 } else { glyph.width() };
            if glyph != "\n" && used + columns > width.max(2) {
                lines.push(String::new());
                used = 0;
            }
            if at == self.cursor {
                cursor = (lines.len() - 1, used);
            }
            match glyph {
                "\n" => {
                    lines.push(String::new());
                    used = 0;
                    continue;
                }
                "\t" => lines.last_mut().expect("never empty").push_str("    "),
                _ => lines.last_mut().expect("never empty").push_str(glyph),
            }
            used += columns;
        }
        if self.cursor == self.text.len() {
            if used >= width.max(2) {
                lines.push(String::new());
                used = 0;
            }
            cursor = (lines.len() - 1, used);
        }
        Layout { lines, cursor }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn editor(text: &str) -> Editor {
        let mut e = Editor::default();
        e.insert(text);
        e
    }

    #[test]
    fn pasted_control_characters_are_dropped() {
        let e = editor("a\r\nb\rc\td\x1b[31m\u{7f}");
        assert_eq!(e.text(), "a\nb\nc\td[31m");
    }

    #[test]
    fn edits_work_on_graphemes_and_words() {
        let mut e = editor("one 👩‍👩‍👧 e\u{301}x");
        e.edit(Edit::Left);
        e.edit(Edit::Backspace);
        assert_eq!(e.text(), "one 👩‍👩‍👧 x");
        e.edit(Edit::Left);
        e.edit(Edit::Backspace);
        assert_eq!(e.text(), "one  x");
        e.edit(Edit::LineEnd);
        e.edit(Edit::WordLeft);
        e.edit(Edit::DeleteToEnd);
        assert_eq!(e.text(), "one  ");
        e.edit(Edit::DeleteWord);
        assert_eq!(e.text(), "");
        e.edit(Edit::Backspace);
        e.edit(Edit::Delete);
        let mut e = editor("ab cd\nef gh");
        e.edit(Edit::LineStart);
        e.edit(Edit::Left);
        e.edit(Edit::DeleteToStart);
        assert_eq!(e.text(), "\nef gh");
        e.edit(Edit::WordRight);
        e.edit(Edit::Delete);
        assert_eq!(e.text(), "\nefgh");
    }

    #[test]
    fn up_and_down_keep_the_column_and_stop_at_the_ends() {
        let mut e = editor("long line\nab\nlonger line");
        assert!(e.up() && e.up() && !e.up());
        e.insert("|");
        assert_eq!(e.text(), "lo|ng line\nab\nlonger line");
        assert!(e.down() && e.down() && !e.down());
        e.insert("|");
        assert_eq!(e.text(), "lo|ng line\nab\nlo|nger line");
    }

    #[test]
    fn wrapping_tracks_the_cursor() {
        let layout = editor("abc你好\nx").layout(4);
        assert_eq!(layout.lines, ["abc", "你好", "x"]);
        assert_eq!(layout.cursor, (2, 1));
        let mut e = editor("abcd");
        assert_eq!(e.layout(4).cursor, (1, 0));
        e.edit(Edit::LineStart);
        assert_eq!(e.layout(4).cursor, (0, 0));
        assert_eq!(Editor::default().layout(4).lines, [""]);
    }
}

//! Wraps styled text into lines of a given width in terminal columns.

use ratatui::style::Style;
use ratatui::text::Span;
use unicode_segmentation::UnicodeSegmentation;
use unicode_width::UnicodeWidthStr;

/// A grapheme cluster: a letter with its accents, a wide character, an emoji.
#[derive(Clone, Copy)]
struct Glyph<'a> {
    text: &'a str,
    style: Style,
    width: usize,
}

impl Glyph<'_> {
    fn is_space(&self) -> bool {
        self.text == " "
    }
}

/// Width of a string in columns.
pub(crate) fn width(text: &str) -> usize {
    text.width()
}

/// Breaks text into lines of at most `width` columns: at `\n`, at spaces, around wide characters
/// (CJK has no spaces between words), and within a word only if it is longer than a line.
pub(crate) fn wrap(spans: &[Span<'_>], width: usize) -> Vec<Vec<Span<'static>>> {
    break_lines(spans, width, true)
}

/// Like [`wrap`], but for code: keeps spaces and breaks a line exactly where it is full.
pub(crate) fn wrap_code(spans: &[Span<'_>], width: usize) -> Vec<Vec<Span<'static>>> {
    break_lines(spans, width, false)
}

fn break_lines(spans: &[Span<'_>], width: usize, words: bool) -> Vec<Vec<Span<'static>>> {
    let mut lines = Vec::new();
    let mut glyphs: Vec<Glyph<'_>> = Vec::new();
    for span in spans {
        for text in span.content.graphemes(true) {
            if text == "\n" || text == "\r\n" {
                break_paragraph(&glyphs, width, words, &mut lines);
                glyphs.clear();
                continue;
            }
            let text = if text == "\t" { "    " } else { text };
            glyphs.push(Glyph { text, style: span.style, width: text.width() });
        }
    }
    break_paragraph(&glyphs, width, words, &mut lines);
    lines
}

fn break_paragraph(
    glyphs: &[Glyph<'_>],
    width: usize,
    words: bool,
    lines: &mut Vec<Vec<Span<'static>>>,
) {
    let mut from = 0;
    loop {
        let rest = &glyphs[from..];
        let fits = fitting(rest, width.max(1));
        if fits == rest.len() {
            lines.push(join(rest));
            return;
        }
        let end = if words { word_break(rest, fits).unwrap_or(fits) } else { fits };
        let end = end.max(1); // a glyph wider than the line gets its own line
        let mut shown = end;
        from += end;
        if words {
            while shown > 0 && rest[shown - 1].is_space() {
                shown -= 1;
            }
            from += glyphs[from..].iter().take_while(|g| g.is_space()).count();
        }
        lines.push(join(&rest[..shown]));
        if from == glyphs.len() {
            return;
        }
    }
}

/// Number of glyphs that fit into `width` columns.
fn fitting(glyphs: &[Glyph<'_>], width: usize) -> usize {
    let mut used = 0;
    let over = glyphs.iter().position(|g| {
        used += g.width;
        used > width
    });
    over.unwrap_or(glyphs.len())
}

/// The last valid break position at or before `fits`.
fn word_break(glyphs: &[Glyph<'_>], fits: usize) -> Option<usize> {
    (1..=fits).rev().find(|&at| {
        let (before, after) = (&glyphs[at - 1], &glyphs[at]);
        after.is_space() || before.is_space() || before.width > 1 || after.width > 1
    })
}

fn join(glyphs: &[Glyph<'_>]) -> Vec<Span<'static>> {
    let mut spans: Vec<Span<'static>> = Vec::new();
    for run in glyphs.chunk_by(|a, b| a.style == b.style) {
        let text: String = run.iter().map(|g| g.text).collect();
        spans.push(Span::styled(text, run[0].style));
    }
    spans
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lines(text: &str, width: usize) -> Vec<String> {
        let wrapped = wrap(&[Span::raw(text.to_owned())], width);
        wrapped.iter().map(|l| l.iter().map(|s| s.content.as_ref()).collect()).collect()
    }

    #[test]
    fn lines_break_at_spaces_newlines_and_wide_characters() {
        assert_eq!(lines("one two  three", 8), ["one two", "three"]);
        assert_eq!(lines("one\n\ntwo", 8), ["one", "", "two"]);
        assert_eq!(lines("incomprehensibilities", 8), ["incompre", "hensibil", "ities"]);
        assert_eq!(lines("a 你好世界", 5), ["a 你", "好世", "界"]);
        assert_eq!(lines("hi 👩‍👩‍👧 you", 5), ["hi 👩‍👩‍👧", "you"]);
        assert_eq!(lines("e\u{301}e\u{301}e\u{301}", 2), ["e\u{301}e\u{301}", "e\u{301}"]);
        assert_eq!(lines("", 8), [""]);
        assert_eq!(lines("你", 1), ["你"]);
        assert_eq!(lines("end ", 3), ["end"]);
    }

    #[test]
    fn no_line_is_too_wide_and_no_word_is_lost() {
        let text = "Wörter, 言葉 and 👍🏽 emoji; ".repeat(20);
        for width in 2..60 {
            let lines = lines(&text, width);
            assert!(lines.iter().all(|l| l.width() <= width), "{width}: {lines:?}");
            let squeeze = |s: &str| s.split_whitespace().collect::<String>();
            assert_eq!(squeeze(&lines.concat()), squeeze(&text));
        }
    }

    #[test]
    fn code_keeps_its_spaces() {
        let spans = [Span::raw("    if x:\n\ty")];
        let lines = wrap_code(&spans, 6);
        let text: Vec<String> =
            lines.iter().map(|l| l.iter().map(|s| s.content.as_ref()).collect()).collect();
        assert_eq!(text, ["    if", " x:", "    y"]);
    }
}

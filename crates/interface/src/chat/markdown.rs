//! Renders streamed Markdown as styled lines.
//!
//! A top-level block is final once another block follows, so [`Rendered`] keeps the block's lines and
//! re-renders only the last block when text arrives. The result always equals that of rendering the
//! whole text.

use pulldown_cmark::{Alignment, CodeBlockKind, Event, HeadingLevel, Options, Parser, Tag, TagEnd};
use ratatui::style::{Modifier, Style};
use ratatui::text::{Line, Span};

use super::highlight::Highlighter;
use super::table::Table;
use super::theme::Theme;
use super::wrap::{width as columns, wrap, wrap_code};

/// Rendered Markdown, updated incrementally while the text grows.
#[derive(Debug, Default)]
pub(crate) struct Rendered {
    width: usize,
    /// Bytes of the text whose lines are final.
    settled: usize,
    /// Bytes of the text at the last update.
    seen: usize,
    /// Lines of the settled blocks, followed by those of the last block.
    lines: Vec<Line<'static>>,
    settled_lines: usize,
}

impl Rendered {
    /// The lines of `text`, which must extend the text of the last call.
    pub(crate) fn update(&mut self, text: &str, width: usize, theme: Theme) -> &[Line<'static>] {
        if self.width != width || text.len() < self.seen {
            *self = Self { width, ..Self::default() };
        }
        if self.seen == text.len() && self.seen > 0 {
            return &self.lines;
        }
        self.lines.truncate(self.settled_lines);
        let rest = &text[self.settled..];
        let last = last_block(rest);
        if last > 0 {
            self.append(&rest[..last], theme);
            self.settled += last;
            self.settled_lines = self.lines.len();
        }
        self.append(&text[self.settled..], theme);
        self.seen = text.len();
        &self.lines
    }

    /// Like [`Self::update`], but for plain text, which `lines` renders.
    pub(crate) fn update_with(
        &mut self,
        text: &str,
        width: usize,
        lines: impl FnOnce(String) -> Vec<Line<'static>>,
    ) {
        if self.width != width || self.seen != text.len() || self.lines.is_empty() {
            *self = Self { width, seen: text.len(), ..Self::default() };
            self.lines = lines(text.to_owned());
        }
    }

    /// The lines of the last update.
    pub(crate) fn lines(&self) -> &[Line<'static>] {
        &self.lines
    }

    fn append(&mut self, text: &str, theme: Theme) {
        let lines = render(text, self.width, theme);
        if !self.lines.is_empty() && !lines.is_empty() {
            self.lines.push(Line::default());
        }
        self.lines.extend(lines);
    }
}

fn parser(text: &str) -> Parser<'_> {
    let options =
        Options::ENABLE_TABLES | Options::ENABLE_STRIKETHROUGH | Options::ENABLE_TASKLISTS;
    Parser::new_ext(text, options)
}

/// Offset of the last top-level block that can no longer merge into the preceding block, because its
/// first line is complete. (`|` starts a paragraph, but `| a |` would continue a table.)
fn last_block(text: &str) -> usize {
    let complete = text.rfind('\n').unwrap_or(0);
    let line_start = |at: usize| text[..at].rfind('\n').map_or(0, |at| at + 1);
    let (mut depth, mut last) = (0, 0);
    for (event, range) in parser(text).into_offset_iter() {
        let begins = matches!(event, Event::Start(_) | Event::Rule) && depth == 0;
        if begins && range.start < complete {
            last = line_start(range.start);
        }
        match event {
            Event::Start(_) => depth += 1,
            Event::End(_) => depth -= 1,
            _ => {}
        }
    }
    last
}

/// Renders Markdown from scratch.
pub(crate) fn render(text: &str, width: usize, theme: Theme) -> Vec<Line<'static>> {
    let mut r = Renderer {
        width,
        theme,
        out: Vec::new(),
        margins: Vec::new(),
        inline: Vec::new(),
        styles: vec![theme.plain()],
        lists: Vec::new(),
        code: None,
        table: None,
        link: None,
        gap: None,
    };
    parser(text).for_each(|event| r.event(event));
    r.flush();
    r.out
}

/// Left margin of a block: a bullet before its first line, or a bar before each line.
struct Margin {
    first: Option<Span<'static>>,
    rest: Span<'static>,
}

struct Renderer {
    width: usize,
    theme: Theme,
    out: Vec<Line<'static>>,
    margins: Vec<Margin>,
    /// Text of the paragraph, heading or item in progress.
    inline: Vec<Span<'static>>,
    /// Nested styles of inline text, the innermost last.
    styles: Vec<Style>,
    /// For each nested list, the number of the next item if the list is numbered.
    lists: Vec<Option<u64>>,
    code: Option<(String, String)>, // info, text
    table: Option<Table>,
    link: Option<(String, usize)>, // address, index in `inline` of its text
    /// Number of margins on the pending empty line, if any.
    gap: Option<usize>,
}

impl Renderer {
    fn event(&mut self, event: Event<'_>) {
        match event {
            Event::Start(tag) => self.start(tag),
            Event::End(tag) => self.end(tag),
            Event::Text(text) => match &mut self.code {
                Some((_, code)) => code.push_str(&text),
                None => self.text(&text),
            },
            Event::Code(text) => {
                let style = self.style().patch(self.theme.code());
                self.inline.push(Span::styled(text.into_string(), style));
            }
            Event::SoftBreak | Event::HardBreak => self.text("\n"),
            Event::Html(text) | Event::InlineHtml(text) => self.text(&text),
            Event::Rule => {
                self.gap();
                let rule = "─".repeat(self.room());
                self.push_line(vec![Span::styled(rule, self.theme.dim())]);
            }
            Event::TaskListMarker(done) => self.text(if done { "☑ " } else { "☐ " }),
            Event::FootnoteReference(text) => self.text(&format!("[{text}]")),
            Event::InlineMath(text) | Event::DisplayMath(text) => self.text(&text),
        }
    }

    fn start(&mut self, tag: Tag<'_>) {
        match tag {
            Tag::Paragraph | Tag::HtmlBlock => self.gap(),
            Tag::Heading { level, .. } => {
                self.gap();
                let underline = match level {
                    HeadingLevel::H1 => Modifier::UNDERLINED,
                    _ => Modifier::empty(),
                };
                self.styles.push(self.theme.heading().add_modifier(underline));
            }
            Tag::BlockQuote(_) => {
                self.gap();
                let bar = Span::styled("▎ ", self.theme.dim());
                self.margins.push(Margin { first: None, rest: bar });
            }
            Tag::CodeBlock(kind) => {
                self.gap();
                let info = match kind {
                    CodeBlockKind::Fenced(info) => info.into_string(),
                    CodeBlockKind::Indented => String::new(),
                };
                self.code = Some((info, String::new()));
            }
            Tag::List(first) => {
                self.gap();
                self.lists.push(first);
            }
            Tag::Item => self.item(),
            Tag::Table(alignments) => {
                self.gap();
                self.table = Some(Table::new(&alignments.iter().map(right).collect::<Vec<_>>()));
            }
            Tag::TableHead => self.styles.push(self.theme.strong()),
            Tag::Emphasis => self.push_style(Modifier::ITALIC),
            Tag::Strong => self.push_style(Modifier::BOLD),
            Tag::Strikethrough => self.push_style(Modifier::CROSSED_OUT),
            Tag::Link { dest_url, .. } | Tag::Image { dest_url, .. } => {
                self.link = Some((dest_url.into_string(), self.inline.len()));
                self.styles.push(self.style().patch(self.theme.link()));
            }
            _ => {}
        }
    }

    fn end(&mut self, tag: TagEnd) {
        match tag {
            TagEnd::Paragraph | TagEnd::HtmlBlock => self.flush(),
            TagEnd::Heading(_) => {
                self.flush();
                self.styles.pop();
            }
            TagEnd::BlockQuote(_) => {
                self.flush();
                self.margins.pop();
            }
            TagEnd::CodeBlock => self.code_block(),
            TagEnd::List(_) => {
                self.lists.pop();
            }
            TagEnd::Item => {
                self.flush();
                if self.margins.last().is_some_and(|m| m.first.is_some()) {
                    self.push_line(Vec::new()); // an empty item still shows its bullet
                }
                self.margins.pop();
            }
            TagEnd::TableCell => {
                let cell = std::mem::take(&mut self.inline);
                if let Some(table) = &mut self.table {
                    table.cell(cell);
                }
            }
            TagEnd::TableRow => self.end_row(),
            TagEnd::TableHead => {
                self.styles.pop();
                self.end_row();
            }
            TagEnd::Table => {
                if let Some(table) = self.table.take() {
                    for line in table.lines(self.room(), self.theme) {
                        self.push_line(line);
                    }
                }
            }
            TagEnd::Emphasis | TagEnd::Strong | TagEnd::Strikethrough => {
                self.styles.pop();
            }
            TagEnd::Link | TagEnd::Image => self.end_link(),
            _ => {}
        }
    }

    fn end_row(&mut self) {
        if let Some(table) = &mut self.table {
            table.end_row();
        }
    }

    fn style(&self) -> Style {
        self.styles.last().copied().unwrap_or_default()
    }

    fn push_style(&mut self, modifier: Modifier) {
        self.styles.push(self.style().add_modifier(modifier));
    }

    fn text(&mut self, text: &str) {
        self.inline.push(Span::styled(text.to_owned(), self.style()));
    }

    /// Appends the address of a link, unless the text already shows it.
    fn end_link(&mut self) {
        self.styles.pop();
        let Some((address, from)) = self.link.take() else { return };
        let shown: String =
            self.inline.iter().skip(from).map(|span| span.content.as_ref()).collect();
        if !address.is_empty() && shown != address && format!("mailto:{shown}") != address {
            self.inline.push(Span::styled(format!(" ({address})"), self.theme.dim()));
        }
    }

    fn item(&mut self) {
        self.flush();
        let bullet = match self.lists.last_mut() {
            Some(Some(number)) => {
                *number += 1;
                format!("{}. ", *number - 1)
            }
            _ => "• ".to_owned(),
        };
        let rest = Span::raw(" ".repeat(columns(&bullet)));
        self.margins.push(Margin { first: Some(Span::raw(bullet)), rest });
    }

    fn code_block(&mut self) {
        let Some((info, code)) = self.code.take() else { return };
        let dim = self.theme.dim();
        let name = info.split([' ', ',', '{']).next().unwrap_or_default().to_owned();
        self.push_line(vec![Span::styled(format!("╭─ {name}").trim_end().to_owned(), dim)]);
        let mut highlighter = Highlighter::new(&info, self.theme);
        let room = self.room().saturating_sub(2).max(1);
        for line in code.lines() {
            for wrapped in wrap_code(&highlighter.line(line), room) {
                let bar = [Span::styled("│ ", dim)];
                self.push_line(bar.into_iter().chain(wrapped).collect());
            }
        }
        self.push_line(vec![Span::styled("╰─", dim)]);
    }

    /// Columns to the right of the margins.
    fn room(&self) -> usize {
        let margins: usize = self.margins.iter().map(|m| columns(&m.rest.content)).sum();
        self.width.saturating_sub(margins).max(1)
    }

    /// Requests an empty line between blocks, but not between list items.
    fn gap(&mut self) {
        self.flush();
        if self.lists.is_empty() && !self.out.is_empty() && self.gap.is_none() {
            self.gap = Some(self.margins.len());
        }
    }

    /// Emits the paragraph in progress.
    fn flush(&mut self) {
        let inline = std::mem::take(&mut self.inline);
        if inline.iter().all(|span| span.content.is_empty()) {
            return;
        }
        let mut lines = wrap(&inline, self.room());
        if lines.last().is_some_and(|line| line.iter().all(|s| s.content.is_empty())) {
            lines.pop(); // HTML blocks end with a newline
        }
        for line in lines {
            self.push_line(line);
        }
    }

    fn push_line(&mut self, spans: Vec<Span<'static>>) {
        if let Some(margins) = self.gap.take() {
            let margins = self.margins[..margins].iter().map(|m| m.rest.clone());
            self.out.push(Line::from_iter(margins));
        }
        let margins = self.margins.iter_mut().map(|m| m.first.take().unwrap_or(m.rest.clone()));
        self.out.push(Line::from_iter(margins.chain(spans).collect::<Vec<_>>()));
    }
}

fn right(alignment: &Alignment) -> bool {
    *alignment == Alignment::Right
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(lines: &[Line<'_>]) -> String {
        let line = |l: &Line<'_>| l.to_string().trim_end().to_owned();
        lines.iter().map(line).collect::<Vec<_>>().join("\n")
    }

    const SAMPLE: &str = "# Title\n\nSome *emphasis*, **strong** and `code`.\nA second line with \
        [a link](https://example.org/x) and https://bare.example.\n\n\
        - one\n- two is a longer item that has to be wrapped\n  1. inner\n  2. more\n-\n\n\
        > quoted\n> > twice\n\n\
        ```rust\nfn main() {\n    println!(\"hi\");\n}\n```\n\n\
        | name | value |\n|:--|--:|\n| 東京 | 1 |\n| b | 1000 |\n\n---\n\n- [x] done\n- [ ] open\n\n    indented\n\nThe end.";

    #[test]
    fn blocks() {
        insta::assert_snapshot!(text(&render(SAMPLE, 40, Theme::new(true))));
    }

    #[test]
    fn streaming_equals_rendering_the_whole_text() {
        for width in [9, 40] {
            let mut rendered = Rendered::default();
            for (at, _) in SAMPLE.char_indices().chain([(SAMPLE.len(), ' ')]) {
                let streamed = rendered.update(&SAMPLE[..at], width, Theme::new(true)).to_vec();
                assert_eq!(text(&streamed), text(&render(&SAMPLE[..at], width, Theme::new(true))));
            }
            assert!(rendered.settled > SAMPLE.len() / 2, "too little of the text is settled");
        }
    }

    #[test]
    fn no_line_is_wider_than_the_screen() {
        for width in 12..80 {
            for line in render(SAMPLE, width, Theme::new(true)) {
                assert!(line.width() <= width, "{width}: {line}");
            }
        }
    }

    #[test]
    fn no_color_disables_colours() {
        let lines = render(SAMPLE, 40, Theme::new(false));
        let colours = |s: &Span<'_>| s.style.fg.is_some() || s.style.bg.is_some();
        assert!(!lines.iter().flat_map(|l| &l.spans).any(colours));
    }
}

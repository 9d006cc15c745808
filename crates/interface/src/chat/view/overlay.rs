//! Windows over the conversation: help, context, history search, full context.

use ratatui::Frame;
use ratatui::layout::{Position, Rect};
use ratatui::text::{Line, Span};
use ratatui::widgets::{Block, BorderType, Clear};

use super::super::app::{App, Full, Overlay};
use super::super::commands::COMMANDS;
use super::super::messages;
use super::super::worker::{Context, ContextToken};
use super::super::wrap::{width as columns, wrap};
use super::details::visible;
use super::{put, put_all};

/// Draws the current overlay, if any.
pub(crate) fn draw(frame: &mut Frame<'_>, app: &App, area: Rect) {
    match &app.overlay {
        Overlay::None => {}
        Overlay::Help { scroll } => help(frame, app, area, *scroll),
        Overlay::Context { context, cursor } => self::context(frame, app, area, context, *cursor),
        Overlay::Search { query, hit } => {
            search(frame, app, area, query, hit.as_ref().map(|(_, entry)| entry.as_str()));
        }
        Overlay::Full(full) => self::full(frame, app, area, full),
    }
}

/// Draws a frame with a title; returns the area inside.
fn window(frame: &mut Frame<'_>, app: &App, area: Rect, title: &str) -> Rect {
    frame.render_widget(Clear, area);
    let block = Block::bordered()
        .border_type(BorderType::Rounded)
        .border_style(app.theme.dim())
        .title(Span::styled(format!(" {title} "), app.theme.strong()));
    let inner = block.inner(area);
    frame.render_widget(block, area);
    Rect { x: inner.x + 1, width: inner.width.saturating_sub(2), ..inner }
}

/// An area of this height at the bottom, covering the input.
fn low(area: Rect, height: u16) -> Rect {
    let height = height.min(area.height);
    Rect { y: area.bottom() - height, height, ..area }
}

fn help(frame: &mut Frame<'_>, app: &App, area: Rect, scroll: usize) {
    let inner = window(frame, app, area, messages::HELP_TITLE);
    let mut rows: Vec<(String, &str)> =
        messages::KEYS.iter().map(|(keys, what)| ((*keys).to_owned(), *what)).collect();
    rows.push((String::new(), ""));
    let commands = COMMANDS.iter().filter(|(.., what)| *what != "test");
    rows.extend(
        commands.map(|(_, name, takes, what)| {
            (format!("/{name} {takes}").trim_end().to_owned(), *what)
        }),
    );
    let name = rows.iter().map(|(name, _)| columns(name)).max().unwrap_or(0) + 2;
    let room = usize::from(inner.width).saturating_sub(name).max(8);
    let mut lines = Vec::new();
    for (keys, what) in rows {
        for (index, line) in wrap(&[Span::raw(what)], room).into_iter().enumerate() {
            let keys = if index == 0 { keys.as_str() } else { "" };
            let keys = Span::styled(format!("{keys:name$}"), app.theme.code());
            lines.push(Line::from_iter([keys].into_iter().chain(line).collect::<Vec<_>>()));
        }
    }
    let most = lines.len().saturating_sub(usize::from(inner.height));
    put_all(frame, inner, &lines[scroll.min(most)..]);
}

/// Tokens laid out like text in alternating styles; the token under the cursor is described below.
fn context(frame: &mut Frame<'_>, app: &App, area: Rect, context: &Context, cursor: usize) {
    let n = context.tokens.len();
    let title = messages::context_title(n, context.ctx, context.cached);
    let inner = window(frame, app, area, &title);
    if inner.height < 3 || n == 0 {
        return put_all(frame, inner, &[Line::from(messages::EMPTY_CONTEXT)]);
    }
    let text = Rect { height: inner.height - 2, ..inner };
    let (rows, positions) = flow(&context.tokens, usize::from(text.width));
    let row = positions.get(cursor).map_or(0, |(row, _)| *row);
    let height = usize::from(text.height);
    let first = row.saturating_sub(height / 2).min(rows.saturating_sub(height));
    for (index, (token, (row, column))) in context.tokens.iter().zip(&positions).enumerate() {
        if (first..first + height).contains(row) {
            let style = if index == cursor {
                app.theme.selected()
            } else if token.is_control {
                app.theme.control()
            } else if index % 2 == 1 {
                app.theme.alternate()
            } else {
                app.theme.plain()
            };
            let (x, y) = (text.x + *column as u16, text.y + (row - first) as u16);
            let cell = Rect { x, y, width: text.right().saturating_sub(x), height: 1 };
            put(frame, cell, &Line::from(Span::styled(visible(&token.text), style)));
        }
    }
    let Some(token) = context.tokens.get(cursor) else { return };
    let state = if cursor < context.reused {
        messages::REUSED_TOKEN
    } else if cursor < context.cached {
        messages::CACHED_TOKEN
    } else {
        messages::PENDING_TOKEN
    };
    let about = messages::token(cursor, token.id, &visible(&token.text), state);
    let line = Line::from(Span::styled(about, app.theme.strong()));
    put(frame, Rect { y: inner.bottom() - 1, ..inner }, &line);
}

/// Number of rows, and each token's row and column. A newline in a token ends its row.
fn flow(tokens: &[ContextToken], width: usize) -> (usize, Vec<(usize, usize)>) {
    let (mut row, mut column) = (0, 0);
    let mut positions = Vec::with_capacity(tokens.len());
    for token in tokens {
        let wide = columns(&visible(&token.text));
        if column > 0 && column + wide > width {
            (row, column) = (row + 1, 0);
        }
        positions.push((row, column));
        column += wide;
        if token.text.ends_with('\n') {
            (row, column) = (row + 1, 0);
        }
    }
    (row + 1, positions)
}

fn search(frame: &mut Frame<'_>, app: &App, area: Rect, query: &str, hit: Option<&str>) {
    let inner = window(frame, app, low(area, 5), messages::SEARCH_TITLE);
    let hit = hit.unwrap_or(if query.is_empty() { "" } else { messages::NOTHING_FOUND });
    let hit = visible(hit).replace('·', " ");
    let lines = [Line::from(format!("› {query}")), Line::from(Span::styled(hit, app.theme.dim()))];
    put_all(frame, inner, &lines);
    let x = inner.x + 2 + columns(query) as u16;
    frame.set_cursor_position(Position::new(x.min(inner.right()), inner.y));
}

fn full(frame: &mut Frame<'_>, app: &App, area: Rect, full: &Full) {
    let inner = window(frame, app, low(area, 8), messages::FULL_TITLE);
    let (text, choices) = messages::full(full.tokens, full.ctx, full.message.is_some());
    let mut lines = vec![Line::from(text), Line::default()];
    for (key, choice) in (1..).zip(choices) {
        let key = Span::styled(format!("{key}  "), app.theme.code());
        lines.push(Line::from(vec![key, Span::raw(choice)]));
    }
    put_all(frame, inner, &lines);
}

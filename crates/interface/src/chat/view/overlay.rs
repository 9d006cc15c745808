//! What comes in front of the conversation: help, the context, history search, the full context.

use ratatui::Frame;
use ratatui::layout::{Position, Rect};
use ratatui::text::{Line, Span};
use ratatui::widgets::{Block, BorderType, Clear};

use super::super::app::{App, Full, Overlay};
use super::super::commands::COMMANDS;
use super::super::worker::{Context, ContextToken};
use super::super::wrap::{width as columns, wrap};
use super::inside::visible;
use super::{put, put_all};

/// Draws what is in front, if anything is.
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

/// A frame with a title; returns the inside.
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

/// A window of this height at the bottom, over the input.
fn low(area: Rect, height: u16) -> Rect {
    let height = height.min(area.height);
    Rect { y: area.bottom() - height, height, ..area }
}

const KEYS: &[(&str, &str)] = &[
    ("Enter", "send"),
    ("Alt-Enter, Ctrl-J", "new line"),
    ("Esc", "stop the answer; what was said stays"),
    ("Ctrl-C, Ctrl-D, exit", "quit"),
    ("Ctrl-R", "search what you sent before"),
    ("Up, Down", "what you sent before, or move in the text"),
    ("Tab", "complete a command"),
    ("PageUp, PageDown, wheel", "scroll; Home and End when the input is empty"),
    ("F2, Ctrl-T", "telemetry: off, on, with the inside"),
    ("Shift and mouse", "select text, as the terminal does"),
];

fn help(frame: &mut Frame<'_>, app: &App, area: Rect, scroll: usize) {
    let inner = window(frame, app, area, "Help");
    let mut rows: Vec<(String, &str)> =
        KEYS.iter().map(|(keys, what)| ((*keys).to_owned(), *what)).collect();
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

/// The tokens flow like text, each told from its neighbours; the one under the cursor is explained.
fn context(frame: &mut Frame<'_>, app: &App, area: Rect, context: &Context, cursor: usize) {
    let n = context.tokens.len();
    let title = format!("Context: {n} of {} tokens, {} cached", context.ctx, context.cached);
    let inner = window(frame, app, area, &title);
    if inner.height < 3 || n == 0 {
        return put_all(frame, inner, &[Line::from("The context is empty.")]);
    }
    let text = Rect { height: inner.height - 2, ..inner };
    let (rows, places) = flow(&context.tokens, usize::from(text.width));
    let row = places.get(cursor).map_or(0, |(row, _)| *row);
    let height = usize::from(text.height);
    let first = row.saturating_sub(height / 2).min(rows.saturating_sub(height));
    for (index, (token, (row, column))) in context.tokens.iter().zip(&places).enumerate() {
        if (first..first + height).contains(row) {
            let style = match () {
                () if index == cursor => app.theme.selected(),
                () if token.is_control => app.theme.control(),
                () if index % 2 == 1 => app.theme.alternate(),
                () => app.theme.plain(),
            };
            let (x, y) = (text.x + *column as u16, text.y + (row - first) as u16);
            let place = Rect { x, y, width: text.right().saturating_sub(x), height: 1 };
            put(frame, place, &Line::from(Span::styled(visible(&token.text), style)));
        }
    }
    let Some(token) = context.tokens.get(cursor) else { return };
    let state = match cursor {
        _ if cursor < context.reused => "cached, reused from before",
        _ if cursor < context.cached => "cached in the last turn",
        _ => "not computed yet",
    };
    let id = token.id;
    let about = format!("position {cursor} · id {id} · \"{}\" · {state}", visible(&token.text));
    let line = Line::from(Span::styled(about, app.theme.strong()));
    put(frame, Rect { y: inner.bottom() - 1, ..inner }, &line);
}

/// Rows, and each token's row and column. A line end in a token ends its row.
fn flow(tokens: &[ContextToken], width: usize) -> (usize, Vec<(usize, usize)>) {
    let (mut row, mut column) = (0, 0);
    let mut places = Vec::with_capacity(tokens.len());
    for token in tokens {
        let wide = columns(&visible(&token.text));
        if column > 0 && column + wide > width {
            (row, column) = (row + 1, 0);
        }
        places.push((row, column));
        column += wide;
        if token.text.ends_with('\n') {
            (row, column) = (row + 1, 0);
        }
    }
    (row + 1, places)
}

fn search(frame: &mut Frame<'_>, app: &App, area: Rect, query: &str, hit: Option<&str>) {
    let inner = window(frame, app, low(area, 5), "Search history: Ctrl-R older, Enter takes it");
    let hit = hit.unwrap_or(if query.is_empty() { "" } else { "nothing found" });
    let hit = visible(hit).replace('·', " ");
    let lines = [Line::from(format!("› {query}")), Line::from(Span::styled(hit, app.theme.dim()))];
    put_all(frame, inner, &lines);
    let x = inner.x + 2 + columns(query) as u16;
    frame.set_cursor_position(Position::new(x.min(inner.right()), inner.y));
}

fn full(frame: &mut Frame<'_>, app: &App, area: Rect, full: &Full) {
    let inner = window(frame, app, low(area, 8), "The context is full");
    let (what, first, second, third) = match &full.message {
        Some(_) => (
            format!("With this message {} tokens, there is room for {}.", full.tokens, full.ctx),
            "forget the oldest messages and send it",
            "begin a new conversation with it",
            "change the message",
        ),
        None => (
            format!("All {} positions are used; the answer was cut off.", full.ctx),
            "forget the oldest messages",
            "begin a new conversation",
            "leave it",
        ),
    };
    let mut lines = vec![Line::from(what), Line::default()];
    for (key, choice) in [("1", first), ("2", second), ("3", third)] {
        let key = Span::styled(format!("{key}  "), app.theme.code());
        lines.push(Line::from(vec![key, Span::raw(choice)]));
    }
    put_all(frame, inner, &lines);
}

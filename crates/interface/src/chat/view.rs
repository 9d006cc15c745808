//! Draws the state, as a pure function of it.

mod bars;
mod details;
mod figures;
mod overlay;
mod put;

use ratatui::Frame;
use ratatui::layout::{Constraint, Layout, Position, Rect};
use ratatui::text::{Line, Span};
use ratatui::widgets::{Block, Borders, Paragraph};

use super::app::{App, Busy, Overlay, Pane};
use super::messages;
use super::telemetry::Phase;
use super::wrap::width;
use put::{put, put_all};

/// Minimum width for telemetry beside the conversation; on a narrower screen, it is above the input.
const BESIDE: u16 = 90;
/// Width of the prompt mark before the input.
const PROMPT: u16 = 2;

/// The layout.
pub(crate) struct Areas {
    transcript: Rect,
    input: Rect,
    status: Rect,
    /// Telemetry beside the conversation, or below it.
    beside: Option<Rect>,
    below: Option<Rect>,
}

impl Areas {
    fn of(area: Rect, app: &App) -> Self {
        let [rest, status] =
            Layout::vertical([Constraint::Min(0), Constraint::Length(1)]).areas(area);
        let (mut main, mut beside) = (rest, None);
        if app.pane != Pane::Off && area.width >= BESIDE {
            let width = (area.width / 3).clamp(38, 56);
            let [left, right] =
                Layout::horizontal([Constraint::Min(0), Constraint::Length(width)]).areas(rest);
            (main, beside) = (left, Some(right));
        }
        let below = match app.pane {
            _ if beside.is_some() => 0,
            Pane::Off => 0,
            Pane::Figures => 3,
            Pane::Details => 8.min(area.height / 2),
        };
        let lines =
            app.editor.layout(usize::from(main.width.saturating_sub(PROMPT + 1))).lines.len();
        let input = 1 + (lines as u16).clamp(1, (area.height / 3).max(1));
        let [transcript, strip, input] = Layout::vertical([
            Constraint::Min(0),
            Constraint::Length(below),
            Constraint::Length(input),
        ])
        .areas(main);
        Self { transcript, input, status, beside, below: (below > 0).then_some(strip) }
    }
}

/// Updates size-dependent state; returns the layout.
pub(crate) fn prepare(app: &mut App, area: Rect) -> Areas {
    let areas = Areas::of(area, app);
    let t = areas.transcript;
    app.transcript.prepare(usize::from(t.width), usize::from(t.height), app.theme);
    areas
}

/// Draws everything.
pub(crate) fn draw(frame: &mut Frame<'_>, app: &App, areas: &Areas) {
    transcript(frame, app, areas.transcript);
    if let Some(area) = areas.beside {
        let block = Block::new().borders(Borders::LEFT).border_style(app.theme.dim());
        let inner = block.inner(area);
        frame.render_widget(block, area);
        let inner = Rect { x: inner.x + 1, width: inner.width.saturating_sub(2), ..inner };
        figures::beside(frame, app, inner);
    }
    if let Some(area) = areas.below {
        rule(frame, app, area, "");
        let area = Rect { y: area.y + 1, height: area.height.saturating_sub(1), ..area };
        match app.pane {
            Pane::Details => details::in_columns(frame, app, area),
            _ => figures::below(frame, app, area),
        }
    }
    input(frame, app, areas.input);
    status(frame, app, areas.status);
    overlay::draw(frame, app, areas.transcript.union(areas.input));
}

fn transcript(frame: &mut Frame<'_>, app: &App, area: Rect) {
    if app.transcript.entries.is_empty() {
        return welcome(frame, app, area);
    }
    let lines = app.transcript.visible(app.theme);
    put_all(frame, area, &lines);
}

fn welcome(frame: &mut Frame<'_>, app: &App, area: Rect) {
    let t = app.theme;
    let mut lines = vec![
        Line::from(vec![
            Span::styled("NanoInfer", t.strong()),
            Span::raw("  "),
            Span::raw(app.info.name.as_str()),
        ]),
        Line::default(),
    ];
    lines.extend(messages::WELCOME.map(|text| Line::from(Span::styled(text, t.dim()))));
    let area = Rect { x: area.x + 2, width: area.width.saturating_sub(4), ..area };
    frame.render_widget(Paragraph::new(lines).wrap(ratatui::widgets::Wrap { trim: true }), area);
}

/// A horizontal rule with a label.
fn rule(frame: &mut Frame<'_>, app: &App, area: Rect, text: &str) {
    let text = if text.is_empty() { String::new() } else { format!(" {text} ") };
    let dashes = usize::from(area.width).saturating_sub(width(&text) + 2);
    let line = format!("──{text}{}", "─".repeat(dashes));
    put(frame, area, &Line::from(Span::styled(line, app.theme.dim())));
}

fn input(frame: &mut Frame<'_>, app: &App, area: Rect) {
    let below = app.transcript.below();
    let text = if below > 0 { messages::lines_below(below) } else { String::new() };
    rule(frame, app, area, &text);
    let area = Rect { y: area.y + 1, height: area.height.saturating_sub(1), ..area };
    let text_area =
        Rect { x: area.x + PROMPT, width: area.width.saturating_sub(PROMPT + 1), ..area };
    if area.height == 0 || text_area.width == 0 {
        return;
    }
    let layout = app.editor.layout(usize::from(text_area.width));
    let (row, column) = layout.cursor;
    let first = (row + 1).saturating_sub(usize::from(area.height));
    put(frame, area, &Line::from(Span::styled("› ", app.theme.user())));
    let wide = Rect { width: text_area.width + 1, ..text_area };
    for (line, row) in layout.lines.iter().skip(first).zip(wide.rows()) {
        put(frame, row, &Line::raw(line.as_str()));
    }
    if matches!(app.overlay, Overlay::None) {
        let (x, y) = (text_area.x + column as u16, area.y + (row - first) as u16);
        frame.set_cursor_position(Position::new(x.min(area.right() - 1), y));
    }
}

fn status(frame: &mut Frame<'_>, app: &App, area: Rect) {
    let t = app.theme;
    let left = match (&app.notice, app.choices.is_empty()) {
        (Some(notice), _) => {
            let style = if notice.is_error { t.error() } else { t.strong() };
            Span::styled(notice.text.as_str(), style)
        }
        (None, false) => Span::styled(app.choices.join("  "), t.strong()),
        (None, true) => Span::styled(format!("{} · {}", app.info.name, activity(app)), t.dim()),
    };
    let keys = match (app.busy, &app.overlay) {
        (_, Overlay::Help { .. } | Overlay::Context { .. }) => messages::KEYS_IN_OVERLAY,
        (Busy::Answering, _) => messages::KEYS_WHILE_ANSWERING,
        _ => messages::KEYS_IDLE,
    };
    let left = Line::from(vec![Span::raw(" "), left]);
    let used = left.width();
    put(frame, area, &left);
    let room = usize::from(area.width).saturating_sub(used + 2);
    // Drop hints until the rest fit, the least important first.
    let mut parts: Vec<&str> = keys.split(" · ").collect();
    while width(&parts.join(" · ")) > room && !parts.is_empty() {
        parts.pop();
    }
    let keys = parts.join(" · ");
    let x = area.right().saturating_sub(width(&keys) as u16 + 1);
    put(frame, Rect { x, ..area }, &Line::from(Span::styled(keys, t.dim())));
}

fn activity(app: &App) -> String {
    match (app.busy, app.telemetry.phase) {
        (Busy::Opening, _) => messages::OPENING.to_owned(),
        (Busy::No, _) => messages::READY.to_owned(),
        (Busy::Answering, Phase::Decode) => messages::ANSWERING.to_owned(),
        (Busy::Answering, _) => {
            let (done, total) = app.telemetry.last.prefill;
            match (done * 100).checked_div(total) {
                Some(percent) => format!("{} {percent} %", messages::READING),
                None => messages::READING.to_owned(),
            }
        }
    }
}

//! Maps key and mouse events to [`Action`]s.

use crossterm::event::{
    Event, KeyCode, KeyEvent, KeyEventKind, KeyModifiers, MouseEvent, MouseEventKind,
};

use super::editor::Edit;

/// A user action.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Action {
    Quit,
    /// Quit if the input is empty, else delete forward.
    EndOfInput,
    Send,
    /// Stop the answer, or close an overlay.
    Stop,
    Insert(String),
    Edit(Edit),
    Move(Direction),
    Scroll(Scroll),
    /// Go to the start of the line, or of the transcript if the input is empty.
    Home,
    /// Go to the end of the line, or of the transcript if the input is empty.
    End,
    Search,
    Complete,
    Telemetry,
    /// Show or hide the reasoning before answers.
    Reasoning,
    Help,
    Redraw,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Direction {
    Up,
    Down,
    Left,
    Right,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Scroll {
    PageUp,
    PageDown,
    WheelUp,
    WheelDown,
}

/// The action for a terminal event, if any.
pub(crate) fn action(event: Event) -> Option<Action> {
    match event {
        Event::Key(key) if key.kind != KeyEventKind::Release => key_action(key),
        Event::Paste(text) => Some(Action::Insert(text)),
        Event::Mouse(MouseEvent { kind: MouseEventKind::ScrollUp, .. }) => {
            Some(Action::Scroll(Scroll::WheelUp))
        }
        Event::Mouse(MouseEvent { kind: MouseEventKind::ScrollDown, .. }) => {
            Some(Action::Scroll(Scroll::WheelDown))
        }
        _ => None,
    }
}

fn key_action(key: KeyEvent) -> Option<Action> {
    let control = key.modifiers.contains(KeyModifiers::CONTROL);
    let alt = key.modifiers.contains(KeyModifiers::ALT);
    let shift = key.modifiers.contains(KeyModifiers::SHIFT);
    Some(match key.code {
        KeyCode::Char(c) if control => return control_action(c),
        KeyCode::Char('b') if alt => Action::Edit(Edit::WordLeft),
        KeyCode::Char('f') if alt => Action::Edit(Edit::WordRight),
        KeyCode::Char(_) if alt => return None,
        KeyCode::Char(c) => Action::Insert(c.to_string()),
        KeyCode::Enter if alt || shift || control => Action::Insert("\n".into()),
        KeyCode::Enter => Action::Send,
        KeyCode::Esc => Action::Stop,
        KeyCode::Tab => Action::Complete,
        KeyCode::Backspace if alt || control => Action::Edit(Edit::DeleteWord),
        KeyCode::Backspace => Action::Edit(Edit::Backspace),
        KeyCode::Delete => Action::Edit(Edit::Delete),
        KeyCode::Left if control || alt => Action::Edit(Edit::WordLeft),
        KeyCode::Right if control || alt => Action::Edit(Edit::WordRight),
        KeyCode::Left => Action::Move(Direction::Left),
        KeyCode::Right => Action::Move(Direction::Right),
        KeyCode::Up => Action::Move(Direction::Up),
        KeyCode::Down => Action::Move(Direction::Down),
        KeyCode::PageUp => Action::Scroll(Scroll::PageUp),
        KeyCode::PageDown => Action::Scroll(Scroll::PageDown),
        KeyCode::Home => Action::Home,
        KeyCode::End => Action::End,
        KeyCode::F(1) => Action::Help,
        KeyCode::F(2) => Action::Telemetry,
        KeyCode::F(3) => Action::Reasoning,
        _ => return None,
    })
}

fn control_action(c: char) -> Option<Action> {
    Some(match c.to_ascii_lowercase() {
        'c' => Action::Quit,
        'd' => Action::EndOfInput,
        'j' => Action::Insert("\n".into()),
        'r' => Action::Search,
        't' => Action::Telemetry,
        'o' => Action::Reasoning,
        'l' => Action::Redraw,
        'a' => Action::Edit(Edit::LineStart),
        'e' => Action::Edit(Edit::LineEnd),
        'b' => Action::Move(Direction::Left),
        'f' => Action::Move(Direction::Right),
        'p' => Action::Move(Direction::Up),
        'n' => Action::Move(Direction::Down),
        'h' => Action::Edit(Edit::Backspace),
        'k' => Action::Edit(Edit::DeleteToEnd),
        'u' => Action::Edit(Edit::DeleteToStart),
        'w' => Action::Edit(Edit::DeleteWord),
        _ => return None,
    })
}

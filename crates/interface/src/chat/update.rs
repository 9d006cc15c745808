//! State changes caused by actions: keys and slash commands.

use super::app::{App, Busy, Effect, Full, Overlay, Pane};
use super::commands::{self, Slash};
use super::editor::Edit;
use super::keys::{Action, Direction, Scroll};
use super::messages;
use super::worker::Command;

/// Lines per notch of the mouse wheel.
const WHEEL: isize = 3;

impl App {
    /// Changes the state; returns a side effect to carry out.
    pub(crate) fn act(&mut self, action: Action) -> Option<Effect> {
        self.notice = None;
        match action {
            Action::Quit => return Some(Effect::Quit),
            Action::Redraw => return Some(Effect::Redraw),
            Action::Telemetry => return Some(self.cycle_pane()),
            Action::Help => {
                self.overlay = Overlay::Help { scroll: 0 };
                return None;
            }
            _ => {}
        }
        match self.overlay {
            Overlay::None => self.in_input(action),
            Overlay::Help { .. } => self.in_help(&action),
            Overlay::Context { .. } => self.in_context(&action),
            Overlay::Search { .. } => self.in_search(action),
            Overlay::Full(_) => self.in_full(action),
        }
    }

    fn in_input(&mut self, action: Action) -> Option<Effect> {
        if action != Action::Complete {
            self.choices.clear();
        }
        match action {
            Action::EndOfInput if self.editor.is_empty() => return Some(Effect::Quit),
            Action::EndOfInput => self.editor.edit(Edit::Delete),
            Action::Send => return self.send(),
            Action::Stop if self.busy == Busy::Answering => return Some(Effect::Stop),
            Action::Insert(text) => self.editor.insert(&text),
            Action::Edit(edit) => self.editor.edit(edit),
            Action::Move(Direction::Left) => self.editor.edit(Edit::Left),
            Action::Move(Direction::Right) => self.editor.edit(Edit::Right),
            Action::Move(Direction::Up) => self.up(),
            Action::Move(Direction::Down) => self.down(),
            Action::Scroll(scroll) => self.transcript.scroll_by(match scroll {
                Scroll::PageUp => self.transcript.page(),
                Scroll::PageDown => -self.transcript.page(),
                Scroll::WheelUp => WHEEL,
                Scroll::WheelDown => -WHEEL,
            }),
            Action::Home if self.editor.is_empty() => self.transcript.scroll_to(true),
            Action::End if self.editor.is_empty() => self.transcript.scroll_to(false),
            Action::Home => self.editor.edit(Edit::LineStart),
            Action::End => self.editor.edit(Edit::LineEnd),
            Action::Search => {
                self.overlay = Overlay::Search { query: String::new(), hit: None };
            }
            Action::Complete => self.complete(),
            Action::Reasoning => self.transcript.fold(),
            Action::Stop | Action::Quit | Action::Redraw | Action::Telemetry | Action::Help => {}
        }
        None
    }

    fn up(&mut self) {
        if !self.editor.up() {
            let older = self.history.older(self.editor.text()).map(str::to_owned);
            if let Some(entry) = older {
                self.editor.set(entry);
            }
        }
    }

    fn down(&mut self) {
        if !self.editor.down()
            && let Some(entry) = self.history.newer()
        {
            self.editor.set(entry);
        }
    }

    fn complete(&mut self) {
        if let Some((text, choices)) = commands::complete(self.editor.text()) {
            self.editor.set(text);
            self.choices = if choices.len() > 1 { choices } else { Vec::new() };
        }
    }

    fn cycle_pane(&mut self) -> Effect {
        self.pane = match self.pane {
            Pane::Off => Pane::Figures,
            Pane::Figures => Pane::Details,
            Pane::Details => Pane::Off,
        };
        Effect::Details(self.pane == Pane::Details)
    }

    fn send(&mut self) -> Option<Effect> {
        let text = self.editor.text().trim().to_owned();
        match text.as_str() {
            "" => return None,
            "exit" => return Some(Effect::Quit),
            _ => {}
        }
        let (message, is_command) = match text.strip_prefix("//") {
            Some(rest) => (format!("/{rest}"), false),
            None => (text.clone(), commands::is_command(&text)),
        };
        if self.busy != Busy::No && !is_command {
            self.note(match self.busy {
                Busy::Opening => messages::BUSY_OPENING,
                _ => messages::BUSY_ANSWERING,
            });
            return None;
        }
        self.editor.take();
        if let Err(e) = self.history.push(&text) {
            self.fail(format!("history: {e}"));
        }
        if is_command { self.slash(&text) } else { Some(self.send_message(message)) }
    }

    fn slash(&mut self, text: &str) -> Option<Effect> {
        let (slash, argument) = match commands::parse(text) {
            Ok(parsed) => parsed,
            Err(message) => {
                self.fail(message);
                return None;
            }
        };
        let allowed = [Slash::Help, Slash::Telemetry, Slash::Copy, Slash::Exit];
        if self.busy != Busy::No && !allowed.contains(&slash) {
            self.note(messages::NOT_WHILE_BUSY);
            return None;
        }
        match slash {
            Slash::Help => self.overlay = Overlay::Help { scroll: 0 },
            Slash::Telemetry => return Some(self.cycle_pane()),
            Slash::Exit => return Some(Effect::Quit),
            Slash::Context => return Some(Effect::Command(Command::Context)),
            Slash::Clear => self.clear(),
            Slash::Regen => return self.regen(),
            Slash::Undo | Slash::Edit => self.undo(slash == Slash::Edit),
            Slash::System => self.system(argument),
            Slash::Set if argument.is_empty() => self.show(commands::settings(&self.options)),
            Slash::Set => match commands::set(&mut self.options, argument) {
                Ok(()) => self.note(commands::settings(&self.options)),
                Err(message) => self.fail(message),
            },
            Slash::Copy => match self.transcript.answer().map(|a| a.text.clone()) {
                Some(text) => return Some(Effect::Copy(text)),
                None => self.note(messages::NO_ANSWER),
            },
            Slash::Model if argument.is_empty() => self.show(messages::model(&self.info)),
            Slash::Model => {
                self.busy = Busy::Opening;
                return Some(Effect::Command(Command::Open(argument.to_owned())));
            }
            Slash::Save | Slash::Load | Slash::Export => return self.file(slash, argument),
            #[cfg(debug_assertions)]
            Slash::Panic if argument == "ui" => panic!("requested by a test"),
            #[cfg(debug_assertions)]
            Slash::Panic => return Some(Effect::Command(Command::Panic)),
        }
        None
    }

    fn clear(&mut self) {
        self.transcript.clear();
        self.note(messages::CLEARED);
    }

    fn regen(&mut self) -> Option<Effect> {
        let Some(message) = self.transcript.undo() else {
            self.note(messages::NOTHING_TO_REGENERATE);
            return None;
        };
        self.options.sampling.seed += 1;
        Some(self.send_message(message))
    }

    fn undo(&mut self, edit: bool) {
        match self.transcript.undo() {
            Some(message) if edit => self.editor.set(message),
            Some(_) => self.note(messages::UNDONE),
            None => self.note(messages::NOTHING_TO_UNDO),
        }
    }

    fn system(&mut self, text: &str) {
        if !text.is_empty() {
            self.transcript.system = Some(text.to_owned());
            self.note(messages::SYSTEM_SET);
            return;
        }
        self.show(messages::system(self.transcript.system.as_deref()));
    }

    fn file(&mut self, slash: Slash, argument: &str) -> Option<Effect> {
        if argument.is_empty() {
            self.fail(messages::needs_file(slash.name()));
            return None;
        }
        let path = argument.into();
        Some(match slash {
            Slash::Load => Effect::Load(path),
            Slash::Export => Effect::Write { path, text: self.transcript.markdown() },
            _ => match self.transcript.json() {
                Ok(text) => Effect::Write { path, text },
                Err(message) => {
                    self.fail(message);
                    return None;
                }
            },
        })
    }

    /// Replaces the conversation with a saved one.
    pub(crate) fn loaded(&mut self, text: &str) -> Result<(), String> {
        self.transcript.load(text)?;
        self.note(messages::LOADED);
        Ok(())
    }

    fn in_help(&mut self, action: &Action) -> Option<Effect> {
        let Overlay::Help { scroll } = &mut self.overlay else { return None };
        match action {
            Action::Move(Direction::Up) | Action::Scroll(Scroll::WheelUp) => {
                *scroll = scroll.saturating_sub(1);
            }
            Action::Move(Direction::Down) | Action::Scroll(Scroll::WheelDown) => *scroll += 1,
            Action::Scroll(Scroll::PageUp) => *scroll = scroll.saturating_sub(10),
            Action::Scroll(Scroll::PageDown) => *scroll += 10,
            Action::Home => *scroll = 0,
            _ => self.overlay = Overlay::None,
        }
        None
    }

    fn in_context(&mut self, action: &Action) -> Option<Effect> {
        let Overlay::Context { context, cursor } = &mut self.overlay else { return None };
        let last = context.tokens.len().saturating_sub(1);
        let by: isize = match action {
            Action::Move(Direction::Left) => -1,
            Action::Move(Direction::Right) => 1,
            Action::Move(Direction::Up) | Action::Scroll(Scroll::WheelUp) => -16,
            Action::Move(Direction::Down) | Action::Scroll(Scroll::WheelDown) => 16,
            Action::Scroll(Scroll::PageUp) => -128,
            Action::Scroll(Scroll::PageDown) => 128,
            Action::Home => isize::MIN + 1,
            Action::End => isize::MAX,
            _ => {
                self.overlay = Overlay::None;
                return None;
            }
        };
        *cursor = cursor.saturating_add_signed(by).min(last);
        None
    }

    fn in_search(&mut self, action: Action) -> Option<Effect> {
        let Overlay::Search { query, hit } = &mut self.overlay else { return None };
        let before = match action {
            Action::Insert(text) => {
                query.push_str(text.trim_end_matches('\n'));
                usize::MAX
            }
            Action::Edit(Edit::Backspace) => {
                query.pop();
                usize::MAX
            }
            Action::Search | Action::Move(Direction::Up) => {
                hit.as_ref().map_or(usize::MAX, |(at, _)| *at)
            }
            Action::Send | Action::Complete | Action::Move(_) => {
                if let Some((_, entry)) = hit.take() {
                    self.editor.set(entry);
                }
                self.overlay = Overlay::None;
                return None;
            }
            _ => {
                self.overlay = Overlay::None;
                return None;
            }
        };
        let found = self.history.search(query, before).map(|(at, entry)| (at, entry.to_owned()));
        match found {
            Some(found) => *hit = Some(found),
            None if before == usize::MAX => *hit = None,
            None => {}
        }
        None
    }

    fn in_full(&mut self, action: Action) -> Option<Effect> {
        let Overlay::Full(full) = &self.overlay else { return None };
        let full: Full = full.clone();
        match action {
            Action::Insert(key) if key == "1" => {
                let mut messages = self.transcript.messages();
                let message = full.message.iter();
                messages.extend(message.map(|m| nanoinfer_engine::Message::new("user", m)));
                return Some(Effect::Command(Command::Shorten(messages)));
            }
            Action::Insert(key) if key == "2" => {
                self.overlay = Overlay::None;
                self.clear();
                return full.message.map(|m| self.send_message(m));
            }
            Action::Insert(key) if key == "3" => {
                self.overlay = Overlay::None;
                full.message.into_iter().for_each(|m| self.editor.set(m));
            }
            Action::Stop => {
                self.overlay = Overlay::None;
                if full.message.is_some() {
                    self.note(messages::NOT_SENT);
                }
            }
            _ => {}
        }
        None
    }
}

//! Actions: what keys and commands do to the state.

use super::app::{App, Busy, Effect, Full, Overlay, Pane};
use super::commands::{self, COMMANDS, Slash};
use super::editor::Edit;
use super::keys::{Action, Direction, Scroll};
use super::transcript::{Entry, Speaker};
use super::worker::Command;

/// Lines a notch of the wheel moves.
const WHEEL: isize = 3;

impl App {
    /// Changes the state; what has to be done outside is returned.
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
            Overlay::None => self.write(action),
            Overlay::Help { .. } => self.in_help(&action),
            Overlay::Context { .. } => self.in_context(&action),
            Overlay::Search { .. } => self.in_search(action),
            Overlay::Full(_) => self.in_full(action),
        }
    }

    fn write(&mut self, action: Action) -> Option<Effect> {
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
            Action::Stop | Action::Quit | Action::Redraw | Action::Telemetry | Action::Help => {}
        }
        None
    }

    fn up(&mut self) {
        if !self.editor.up() {
            let older = self.history.older(self.editor.text()).map(str::to_owned);
            older.into_iter().for_each(|entry| self.editor.set(entry));
        }
    }

    fn down(&mut self) {
        if !self.editor.down() {
            let newer = self.history.newer();
            newer.into_iter().for_each(|entry| self.editor.set(entry));
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
            Pane::Figures => Pane::Inside,
            Pane::Inside => Pane::Off,
        };
        Effect::Inside(self.pane == Pane::Inside)
    }

    fn send(&mut self) -> Option<Effect> {
        let text = self.editor.text().trim().to_owned();
        match text.as_str() {
            "" => return None,
            "exit" => return Some(Effect::Quit),
            _ => {}
        }
        let is_command = commands::is_command(&text);
        if self.busy != Busy::No && !is_command {
            self.note(match self.busy {
                Busy::Opening => "the model is being opened",
                _ => "still answering; Esc stops",
            });
            return None;
        }
        self.editor.take();
        if let Err(e) = self.history.push(&text) {
            self.fail(format!("history: {e}"));
        }
        if is_command { self.slash(&text) } else { Some(self.ask(text)) }
    }

    fn slash(&mut self, text: &str) -> Option<Effect> {
        let (slash, argument) = match commands::parse(text) {
            Ok(parsed) => parsed,
            Err(what) => {
                self.fail(what);
                return None;
            }
        };
        let harmless = [Slash::Help, Slash::Telemetry, Slash::Copy, Slash::Exit];
        if self.busy != Busy::No && !harmless.contains(&slash) {
            self.note("not while answering; Esc stops");
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
                Err(what) => self.fail(what),
            },
            Slash::Copy => match self.transcript.answer().map(|a| a.text.clone()) {
                Some(text) => return Some(Effect::Copy(text)),
                None => self.note("there is no answer yet"),
            },
            Slash::Model if argument.is_empty() => self.show(self.about_model()),
            Slash::Model => {
                self.busy = Busy::Opening;
                return Some(Effect::Command(Command::Open(argument.to_owned())));
            }
            Slash::Save | Slash::Load | Slash::Export => return self.file(slash, argument),
            #[cfg(debug_assertions)]
            Slash::Panic if argument == "ui" => panic!("asked for"),
            #[cfg(debug_assertions)]
            Slash::Panic => return Some(Effect::Command(Command::Panic)),
        }
        None
    }

    fn show(&mut self, text: String) {
        self.transcript.push(Entry::new(Speaker::Note, text));
    }

    fn clear(&mut self) {
        self.transcript.entries.clear();
        self.transcript.scroll_to(false);
        self.note("a new conversation");
    }

    fn regen(&mut self) -> Option<Effect> {
        let Some(message) = self.transcript.undo() else {
            self.note("there is nothing to answer again");
            return None;
        };
        self.options.sampling.seed += 1;
        Some(self.ask(message))
    }

    fn undo(&mut self, edit: bool) {
        match self.transcript.undo() {
            Some(message) if edit => self.editor.set(message),
            Some(_) => self.note("the last message and its answer are gone"),
            None => self.note("there is nothing to take back"),
        }
    }

    fn system(&mut self, text: &str) {
        if !text.is_empty() {
            self.transcript.system = Some(text.to_owned());
            self.note("the instruction is new: the next message computes the context anew");
            return;
        }
        let shown = self.transcript.system.as_deref().unwrap_or("the template's own");
        self.show(format!("System: {shown}"));
    }

    fn about_model(&self) -> String {
        let i = &self.info;
        format!(
            "{}: {} layers, {} tokens in the vocabulary, weights {}, cache {}, {} MB, context {}, \
             {} threads, {}",
            i.name,
            i.layers,
            i.vocab,
            i.quant,
            i.kv,
            i.file_bytes / 1_000_000,
            i.ctx,
            i.threads,
            i.isa
        )
    }

    fn file(&mut self, slash: Slash, argument: &str) -> Option<Effect> {
        if argument.is_empty() {
            let name = COMMANDS.iter().find(|(s, ..)| *s == slash).map_or("", |(_, name, ..)| name);
            self.fail(format!("/{name} needs the name of a file"));
            return None;
        }
        let path = argument.into();
        Some(match slash {
            Slash::Load => Effect::Load(path),
            Slash::Export => Effect::Write { path, text: self.transcript.markdown() },
            _ => match serde_json::to_string_pretty(&self.transcript.saved()) {
                Ok(json) => Effect::Write { path, text: json + "\n" },
                Err(e) => {
                    self.fail(e.to_string());
                    return None;
                }
            },
        })
    }

    /// Shows a conversation from a file.
    pub(crate) fn loaded(&mut self, text: &str) -> Result<(), String> {
        let saved = serde_json::from_str(text).map_err(|e| format!("not a conversation: {e}"))?;
        self.transcript.load(saved)?;
        self.note("the conversation goes on; the next message computes its context");
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
                hit.take().into_iter().for_each(|(_, entry)| self.editor.set(entry));
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
                return full.message.map(|m| self.ask(m));
            }
            Action::Insert(key) if key == "3" => self.close_full(full),
            Action::Stop => self.close_full(full),
            _ => {}
        }
        None
    }

    fn close_full(&mut self, full: Full) {
        self.overlay = Overlay::None;
        if let Some(message) = full.message {
            self.editor.set(message);
        }
    }
}

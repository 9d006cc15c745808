//! The conversation on the screen, and which messages are still in the model's context.

use nanoinfer_engine::Message;
use nanoinfer_text::terminal_safe;
use ratatui::style::Style;
use ratatui::text::{Line, Span};
use serde::{Deserialize, Serialize};

use super::markdown::Rendered;
use super::messages;
use super::theme::Theme;
use super::wrap::wrap;

/// The author of an entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Speaker {
    User,
    Model,
    /// The program: output of a command.
    Note,
}

/// One message or note.
#[derive(Debug)]
pub(crate) struct Entry {
    pub speaker: Speaker,
    /// The exact text, as sent to the model.
    pub text: String,
    /// The reasoning before an answer.
    pub reasoning: String,
    /// Statistics below an answer.
    footer: String,
    /// Whether the entry is shown but no longer sent to the model.
    pub forgotten: bool,
    /// The sanitized text.
    shown: String,
    rendered: Rendered,
    /// What is shown of the reasoning.
    thought: Rendered,
    /// From which length of the reasoning and for which width that is.
    thought_of: (usize, Thought, usize),
    foot: Rendered,
}

/// What is shown of the reasoning before an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Thought {
    /// Its end, until the answer begins.
    Running,
    /// How long it was.
    Folded,
    /// All of it.
    Unfolded,
}

/// Columns to the left of all text.
const GUTTER: usize = 2;
/// Maximum line length, because longer lines are hard to read.
const MAX_WIDTH: usize = 110;
/// Maximum length of the reasoning shown, in bytes. It is laid out again with every frame.
const REASONING: usize = 4000;

impl Entry {
    pub(crate) fn new(speaker: Speaker, text: impl Into<String>) -> Self {
        let mut entry = Self {
            speaker,
            text: String::new(),
            reasoning: String::new(),
            footer: String::new(),
            forgotten: false,
            shown: String::new(),
            rendered: Rendered::default(),
            thought: Rendered::default(),
            thought_of: (0, Thought::Running, 0),
            foot: Rendered::default(),
        };
        entry.push(&text.into());
        entry
    }

    /// Appends streamed text.
    pub(crate) fn push(&mut self, text: &str) {
        self.text.push_str(text);
        self.shown.push_str(&terminal_safe(text));
    }

    /// Appends streamed reasoning.
    pub(crate) fn push_reasoning(&mut self, text: &str) {
        self.reasoning.push_str(text);
    }

    /// What is shown of the reasoning.
    fn thought(&self, thought: Thought) -> String {
        if thought == Thought::Folded {
            return messages::thought(self.reasoning.split_whitespace().count());
        }
        let most = if thought == Thought::Running { REASONING } else { usize::MAX };
        let excess = self.reasoning.len().saturating_sub(most);
        let rest = (excess..).find_map(|at| self.reasoning.get(at..)).unwrap_or_default();
        let from = if excess == 0 { 0 } else { rest.find(char::is_whitespace).unwrap_or(0) };
        terminal_safe(rest[from..].trim_start()).into_owned()
    }

    /// Sets the line below the answer.
    pub(crate) fn set_footer(&mut self, text: String) {
        self.footer = text;
    }

    fn prepare(&mut self, width: usize, theme: Theme, unfolded: bool) -> usize {
        let width = width.saturating_sub(GUTTER).clamp(1, MAX_WIDTH);
        let plain = |text: String, style: Style| -> Vec<Line<'static>> {
            wrap(&[Span::styled(text, style)], width).into_iter().map(Line::from).collect()
        };
        if !self.footer.is_empty() {
            self.foot.update_with(&self.footer, width, |text| plain(text, theme.dim()));
        }
        if !self.reasoning.is_empty() {
            let shown = match (self.text.is_empty(), unfolded) {
                (true, _) => Thought::Running,
                (false, false) => Thought::Folded,
                (false, true) => Thought::Unfolded,
            };
            let state = (self.reasoning.len(), shown, width);
            if self.thought_of != state {
                let thought = self.thought(shown);
                (self.thought, self.thought_of) = (Rendered::default(), state);
                self.thought.update_with(&thought, width, |text| plain(text, theme.dim()));
            }
        }
        match self.speaker {
            // The user's text is not Markdown.
            Speaker::User => {
                self.rendered.update_with(&self.shown, width, |text| plain(text, theme.plain()));
            }
            Speaker::Model | Speaker::Note => {
                self.rendered.update(&self.shown, width, theme);
            }
        }
        self.height()
    }

    /// Height in lines, including the empty line after it.
    fn height(&self) -> usize {
        self.thought.lines().len() + self.text_height() + self.foot.lines().len() + 1
    }

    /// Height of the text, which is at least an empty line.
    fn text_height(&self) -> usize {
        self.rendered.lines().len().max(usize::from(self.thought.lines().is_empty()))
    }

    /// Line `index`, including the gutter.
    fn line(&self, index: usize, theme: Theme) -> Line<'_> {
        let (thought, text) = (self.thought.lines(), self.rendered.lines());
        let (mark, style) = match self.speaker {
            Speaker::User => ("▌ ", theme.user()),
            Speaker::Model if index == 0 => ("● ", theme.assistant()),
            Speaker::Note if index == 0 => ("i ", theme.link()),
            Speaker::Model | Speaker::Note => ("  ", theme.plain()),
        };
        let shown = thought.len() + self.text_height();
        if index < shown {
            let mark = [Span::styled(mark, style)];
            let line = thought.get(index).or_else(|| text.get(index - thought.len()));
            let spans = line.map_or(&[][..], |line| &line.spans).iter();
            let spans = spans.map(|s| Span::styled(s.content.as_ref(), s.style));
            let line = Line::from_iter(mark.into_iter().chain(spans));
            return if self.forgotten { line.patch_style(theme.dim()) } else { line };
        }
        match self.foot.lines().get(index - shown) {
            Some(line) => {
                let spans = line.spans.iter().map(|s| Span::styled(s.content.as_ref(), s.style));
                Line::from_iter([Span::raw("  ")].into_iter().chain(spans))
            }
            None => Line::default(),
        }
    }
}

/// The conversation on the screen.
#[derive(Debug, Default)]
pub(crate) struct Transcript {
    pub entries: Vec<Entry>,
    /// The system message.
    pub system: Option<String>,
    /// Whether the reasoning before answers is shown.
    unfolded: bool,
    /// Number of lines below the window; at 0, the window follows new text.
    scroll: usize,
    width: usize,
    height: usize,
    total: usize,
}

/// A saved conversation.
#[derive(Debug, Default, Serialize, Deserialize)]
pub(crate) struct Saved {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub system: Option<String>,
    pub messages: Vec<SavedMessage>,
}

#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct SavedMessage {
    pub role: String,
    pub content: String,
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub reasoning_content: String,
}

impl Transcript {
    pub(crate) fn new(system: Option<String>) -> Self {
        Self { system, ..Self::default() }
    }

    pub(crate) fn push(&mut self, entry: Entry) {
        self.entries.push(entry);
        self.scroll = 0;
    }

    /// The entry of the current or last answer.
    pub(crate) fn answer(&mut self) -> Option<&mut Entry> {
        self.entries.iter_mut().rev().find(|e| e.speaker == Speaker::Model && !e.forgotten)
    }

    /// The messages for the model.
    pub(crate) fn messages(&self) -> Vec<Message> {
        let system = self.system.iter().map(|s| Message::new("system", s));
        let said = self.entries.iter().filter(|e| !e.forgotten).filter_map(|e| {
            let reasoning = Some(&e.reasoning).filter(|text| !text.is_empty());
            Some(Message {
                reasoning_content: reasoning.cloned(),
                ..Message::new(role(e.speaker)?, e.text.as_str())
            })
        });
        system.chain(said).collect()
    }

    /// Removes the last user message and everything after it; returns the message.
    pub(crate) fn undo(&mut self) -> Option<String> {
        let by_user = |e: &Entry| e.speaker == Speaker::User && !e.forgotten;
        let at = self.entries.iter().rposition(by_user)?;
        self.scroll = 0;
        self.entries.drain(at..).next().map(|e| e.text)
    }

    /// Marks all but the last `kept` messages as forgotten; returns the number newly marked.
    pub(crate) fn forget(&mut self, kept: usize) -> usize {
        let said = self.entries.iter_mut().rev().filter(|e| role(e.speaker).is_some());
        let old = said.skip(kept).filter(|e| !e.forgotten);
        old.map(|e| e.forgotten = true).count()
    }

    /// Removes all messages.
    pub(crate) fn clear(&mut self) {
        self.entries.clear();
        self.scroll_to(false);
    }

    /// The conversation as JSON.
    pub(crate) fn json(&self) -> Result<String, String> {
        let json = serde_json::to_string_pretty(&self.saved()).map_err(|e| e.to_string())?;
        Ok(json + "\n")
    }

    fn saved(&self) -> Saved {
        let message = |e: &Entry| {
            Some(SavedMessage {
                role: role(e.speaker)?.to_owned(),
                content: e.text.clone(),
                reasoning_content: e.reasoning.clone(),
            })
        };
        Saved {
            system: self.system.clone(),
            messages: self.entries.iter().filter_map(message).collect(),
        }
    }

    /// Replaces the conversation with a saved one, from its JSON.
    pub(crate) fn load(&mut self, json: &str) -> Result<(), String> {
        let saved: Saved =
            serde_json::from_str(json).map_err(|e| messages::not_a_conversation(&e))?;
        let mut entries = Vec::new();
        for message in saved.messages {
            let speaker = match message.role.as_str() {
                "user" => Speaker::User,
                "assistant" => Speaker::Model,
                other => return Err(messages::unknown_role(other)),
            };
            let mut entry = Entry::new(speaker, message.content);
            entry.push_reasoning(&message.reasoning_content);
            entries.push(entry);
        }
        let unfolded = self.unfolded;
        *self = Self { entries, system: saved.system, unfolded, ..Self::default() };
        Ok(())
    }

    pub(crate) fn markdown(&self) -> String {
        let mut out = String::new();
        let system = self.system.iter().map(|s| ("System", s.as_str()));
        let said = self.entries.iter().filter_map(|e| match e.speaker {
            Speaker::User => Some(("You", e.text.as_str())),
            Speaker::Model => Some(("Model", e.text.as_str())),
            Speaker::Note => None,
        });
        for (who, text) in system.chain(said) {
            out.push_str(&format!("**{who}:**\n\n{}\n\n", text.trim_end()));
        }
        out
    }

    /// Renders changed entries for a window of this size.
    pub(crate) fn prepare(&mut self, width: usize, height: usize, theme: Theme) {
        let unfolded = self.unfolded;
        let total = self.entries.iter_mut().map(|e| e.prepare(width, theme, unfolded)).sum();
        // A scrolled-up window stays in place while text arrives below.
        if self.scroll > 0 && self.width == width && total > self.total {
            self.scroll += total - self.total;
        }
        (self.width, self.height, self.total) = (width, height, total);
        self.scroll = self.scroll.min(total.saturating_sub(height));
    }

    /// Shows the reasoning before all answers, or hides it again.
    pub(crate) fn fold(&mut self) {
        self.unfolded = !self.unfolded;
    }

    /// Moves the window up by `up` lines, or down if negative.
    pub(crate) fn scroll_by(&mut self, up: isize) {
        self.scroll =
            self.scroll.saturating_add_signed(up).min(self.total.saturating_sub(self.height));
    }

    pub(crate) fn page(&self) -> isize {
        self.height.saturating_sub(2).max(1) as isize
    }

    pub(crate) fn scroll_to(&mut self, top: bool) {
        self.scroll = if top { self.total.saturating_sub(self.height) } else { 0 };
    }

    /// Number of lines below the window.
    pub(crate) fn below(&self) -> usize {
        self.scroll
    }

    /// The lines in the window.
    pub(crate) fn visible(&self, theme: Theme) -> Vec<Line<'_>> {
        let from = self.total.saturating_sub(self.height + self.scroll);
        let to = (from + self.height).min(self.total);
        let mut lines = Vec::with_capacity(to - from);
        let mut start = 0;
        for entry in &self.entries {
            let end = start + entry.height();
            for at in start.max(from)..end.min(to) {
                lines.push(entry.line(at - start, theme));
            }
            start = end;
        }
        lines
    }
}

fn role(speaker: Speaker) -> Option<&'static str> {
    match speaker {
        Speaker::User => Some("user"),
        Speaker::Model => Some("assistant"),
        Speaker::Note => None,
    }
}

//! Styles. Only the terminal's sixteen colours and its attributes are used, so that text stays legible
//! in light and dark themes. Colour is never the only cue: a character or attribute also distinguishes
//! the text.

use ratatui::style::{Color, Modifier, Style};

/// The set of styles.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Theme {
    color: bool,
}

impl Theme {
    /// With colours, or with attributes only.
    pub(crate) fn new(color: bool) -> Self {
        Self { color }
    }

    fn fg(self, color: Color) -> Style {
        if self.color { Style::new().fg(color) } else { Style::new() }
    }

    pub(crate) fn plain(self) -> Style {
        Style::new()
    }

    pub(crate) fn dim(self) -> Style {
        Style::new().add_modifier(Modifier::DIM)
    }

    pub(crate) fn strong(self) -> Style {
        Style::new().add_modifier(Modifier::BOLD)
    }

    pub(crate) fn selected(self) -> Style {
        Style::new().add_modifier(Modifier::REVERSED)
    }

    pub(crate) fn user(self) -> Style {
        self.fg(Color::Blue).add_modifier(Modifier::BOLD)
    }

    pub(crate) fn assistant(self) -> Style {
        self.fg(Color::Green).add_modifier(Modifier::BOLD)
    }

    pub(crate) fn error(self) -> Style {
        self.fg(Color::Red).add_modifier(Modifier::BOLD)
    }

    pub(crate) fn heading(self) -> Style {
        self.fg(Color::Magenta).add_modifier(Modifier::BOLD)
    }

    pub(crate) fn code(self) -> Style {
        self.fg(Color::Cyan)
    }

    pub(crate) fn link(self) -> Style {
        self.fg(Color::Blue).add_modifier(Modifier::UNDERLINED)
    }

    pub(crate) fn keyword(self) -> Style {
        self.fg(Color::Magenta)
    }

    pub(crate) fn string(self) -> Style {
        self.fg(Color::Green)
    }

    pub(crate) fn number(self) -> Style {
        self.fg(Color::Cyan)
    }

    pub(crate) fn comment(self) -> Style {
        Style::new().add_modifier(Modifier::DIM | Modifier::ITALIC)
    }

    /// The filled part of a bar.
    pub(crate) fn bar(self) -> Style {
        self.fg(Color::Green)
    }

    /// The reused part of the cache.
    pub(crate) fn reused(self) -> Style {
        self.fg(Color::Blue)
    }

    /// Every other token of the context.
    pub(crate) fn alternate(self) -> Style {
        if self.color {
            Style::new().fg(Color::Cyan)
        } else {
            Style::new().add_modifier(Modifier::UNDERLINED)
        }
    }

    /// A control token.
    pub(crate) fn control(self) -> Style {
        self.fg(Color::Magenta).add_modifier(Modifier::BOLD)
    }
}

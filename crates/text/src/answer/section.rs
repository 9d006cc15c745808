//! The part of an answer that a call marker begins.

use super::calls::Writer;
use super::elements::Elements;
use super::format::{CallFormat, Mark};
use super::named::Named;
use super::object::Objects;
use super::pairs::Pairs;
use super::step::Step;
use super::tools::Tools;

/// A section in progress.
#[derive(Debug)]
pub(super) enum Section {
    Objects(Objects),
    Named(Named),
    Pairs(Pairs),
    Elements(Elements),
}

impl Section {
    pub(super) fn new(format: CallFormat) -> Self {
        match format {
            CallFormat::Hermes
            | CallFormat::Llama
            | CallFormat::MistralList
            | CallFormat::Granite
            | CallFormat::Phi => Self::Objects(Objects::default()),
            CallFormat::Mistral | CallFormat::Harmony => Self::Named(Named::default()),
            CallFormat::Gemma => Self::Pairs(Pairs::default()),
            CallFormat::Elements => Self::Elements(Elements::default()),
        }
    }

    /// Adds a character.
    pub(super) fn char(&mut self, c: char, tools: &Tools, out: &mut Writer<'_, '_>) -> Step {
        // Either of Mistral's formats may follow the marker, whichever the template shows.
        match self {
            Self::Named(named) if named.is_fresh() && matches!(c, '[' | '{') => {
                *self = Self::Objects(Objects::default());
            }
            Self::Objects(objects) if objects.is_fresh() && (c.is_alphanumeric() || c == '_') => {
                *self = Self::Named(Named::default());
            }
            _ => {}
        }
        match self {
            Self::Objects(objects) => objects.char(c, tools, out),
            Self::Named(named) => named.char(c, out),
            Self::Pairs(pairs) => pairs.char(c, out),
            Self::Elements(elements) => elements.char(c, tools, out),
        }
    }

    /// Adds a marker.
    pub(super) fn mark(&mut self, mark: Mark, out: &mut Writer<'_, '_>) -> Step {
        match self {
            Self::Objects(objects) => objects.mark(mark),
            Self::Named(named) => named.mark(mark, out),
            Self::Pairs(pairs) => pairs.mark(mark, out),
            Self::Elements(elements) => elements.mark(mark),
        }
    }

    /// Whether all calls that began are over, so that only what structures them remains.
    pub(super) const fn is_tail(&self) -> bool {
        match self {
            Self::Objects(objects) => objects.is_tail(),
            Self::Named(named) => named.is_tail(),
            Self::Pairs(pairs) => pairs.is_tail(),
            Self::Elements(elements) => elements.is_tail(),
        }
    }
}

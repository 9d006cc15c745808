//! Why a source cannot be used.

use std::fmt;

/// Why a grammar could not be made.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The source has an error, or requires what cannot be enforced.
    #[error("{place}: {what}; {advice}")]
    Source {
        /// The keyword of a schema as a JSON pointer (`#/properties/age/not`), the line of a grammar, or the
        /// field of a request.
        place: String,
        /// What is wrong.
        what: String,
        /// What to do.
        advice: &'static str,
    },
    /// The source is correct, but needs more than the limits of [`crate::Options`] allow.
    #[error("{place}: {what}; simplify it")]
    Limit {
        /// As for [`Self::Source`].
        place: String,
        /// The limit.
        what: String,
    },
    /// The model's vocabulary cannot be used.
    #[error("{model}: {what}; use another model for structured output")]
    Vocabulary {
        /// The model's name.
        model: String,
        /// The reason.
        what: String,
    },
}

impl Error {
    pub(crate) fn source(
        place: impl fmt::Display,
        what: impl fmt::Display,
        advice: &'static str,
    ) -> Self {
        Self::Source { place: place.to_string(), what: what.to_string(), advice }
    }

    /// The same error about a part of something, which is put in front of the place.
    pub(crate) fn within(self, whole: &str) -> Self {
        let at = |place: String| format!("{whole}, {place}");
        match self {
            Self::Source { place, what, advice } => Self::Source { place: at(place), what, advice },
            Self::Limit { place, what } => Self::Limit { place: at(place), what },
            Self::Vocabulary { .. } => self,
        }
    }

    /// The place that the error is about, if it is about the source.
    pub fn place(&self) -> Option<&str> {
        match self {
            Self::Source { place, .. } | Self::Limit { place, .. } => Some(place),
            Self::Vocabulary { .. } => None,
        }
    }
}

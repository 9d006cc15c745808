//! What a section does with a character or marker.

/// The result of a character or marker.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Step {
    /// It belongs to the section, which goes on.
    More,
    /// It ends the section.
    End,
    /// It does not belong to the section, which is over.
    Not,
    /// The marker begins another section.
    Again,
    /// The marker is text here.
    Text,
}

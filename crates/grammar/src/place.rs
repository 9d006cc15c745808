//! Where in an answer a grammar applies.

/// The part of an answer that follows a grammar: what comes after the reasoning and the marker.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Place {
    /// What may come before.
    pub reasoning: Reasoning,
    /// A token after which the grammar applies, such as one that begins calls of tools. Without it, the
    /// answer is free.
    pub marker: Option<u32>,
}

/// Reasoning before an answer, which ends with a token.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Reasoning {
    /// There is none.
    #[default]
    Absent,
    /// The prompt begins it.
    Begun {
        /// The token that ends it.
        end: u32,
    },
    /// The answer may begin with it.
    Possible {
        /// The token that begins it.
        begin: u32,
        /// The token that ends it.
        end: u32,
    },
}

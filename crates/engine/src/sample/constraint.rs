//! Restrictions on the tokens of an answer.

use std::fmt;

/// Restricts the tokens of an answer, for example to those that continue a text in a grammar.
pub trait Constraint: fmt::Debug + Send {
    /// Allows tokens to come next, by setting bit `id % 32` of `allowed[id / 32]`, which are 0 before. If
    /// it allows none, the answer is complete. Called on any of the engine's threads.
    fn allow(&mut self, allowed: &mut [u32]);

    /// Records the next token of the answer, one of those allowed.
    fn push(&mut self, id: u32);

    /// A copy in the same state.
    fn boxed(&self) -> Box<dyn Constraint>;

    /// Appends up to `room` tokens that are likely to come next because the constraint leaves no other text.
    /// They are drafted, which affects the speed of an answer, never its tokens.
    fn forced(&mut self, tokens: &mut Vec<u32>, room: usize) {
        let _ = (tokens, room);
    }

    /// Number of tokens at the beginning of `draft` that may come next, one after the other. The remaining
    /// ones are not worth verifying.
    fn follow(&mut self, draft: &[u32]) -> usize {
        draft.len()
    }

    /// Why it allows no token, if not because the answer is complete.
    fn failure(&self) -> Option<String> {
        None
    }
}

impl Clone for Box<dyn Constraint> {
    fn clone(&self) -> Self {
        self.as_ref().boxed()
    }
}

//! A grammar as the engine's constraint.

use std::fmt;
use std::sync::Arc;

use llguidance::Matcher;
use nanoinfer_engine::Constraint;

use crate::compiled::Compiled;

/// The part of an answer that is complete so far.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Position {
    /// Nothing yet; the answer is a new text, or continues the prompt.
    Start { answer_follows: bool },
    /// At least one token.
    Within,
    /// All of it.
    End,
}

/// Follows an answer through a grammar.
pub(crate) struct Following {
    grammar: Arc<Compiled>,
    matcher: Matcher,
    position: Position,
    failure: Option<String>,
}

impl Following {
    pub(crate) fn new(grammar: Arc<Compiled>, answer_follows: bool) -> Self {
        // A deep copy shares no caches, so that no answer depends on others.
        let matcher = grammar.matcher.deep_clone();
        Self { grammar, matcher, position: Position::Start { answer_follows }, failure: None }
    }

    /// A copy in the same state.
    pub(crate) fn copy(&self) -> Self {
        Self {
            grammar: Arc::clone(&self.grammar),
            matcher: self.matcher.deep_clone(),
            position: self.position,
            failure: self.failure.clone(),
        }
    }

    /// Tokens that end an answer.
    pub(crate) fn ends(&self) -> &[u32] {
        &self.grammar.vocabulary.ends
    }

    /// Lets the text continue another one instead of beginning an answer.
    pub(crate) fn continue_text(&mut self) {
        if let Position::Start { answer_follows } = &mut self.position {
            *answer_follows = false;
        }
    }

    fn fail(&mut self, error: impl fmt::Display) {
        let text = error.to_string();
        let what = text.lines().next().unwrap_or_default();
        self.failure = Some(format!("{what}; simplify the grammar"));
    }

    /// Reads a token.
    fn read(&mut self, id: u32) -> Result<(), String> {
        let vocabulary = &self.grammar.vocabulary;
        if let (Position::Start { answer_follows: true }, Some(first)) =
            (self.position, &vocabulary.first)
        {
            let bytes = first.token(id);
            if bytes != vocabulary.trie().token(id) {
                let tokens = vocabulary.trie().greedy_tokenize(bytes);
                return self.matcher.consume_tokens(&tokens).map_err(|e| e.to_string());
            }
        }
        self.matcher.consume_token(id).map_err(|e| e.to_string())
    }
}

impl Constraint for Following {
    fn allow(&mut self, allowed: &mut [u32]) {
        if self.failure.is_some() {
            return;
        }
        match self.position {
            Position::Start { answer_follows } => {
                let of_answer = self.grammar.first_of_answer.as_ref().filter(|_| answer_follows);
                copy(of_answer.unwrap_or(&self.grammar.first), allowed);
            }
            Position::Within => match self.matcher.compute_mask_or_eos() {
                Ok(mask) => copy(mask.as_slice(), allowed),
                Err(e) => self.fail(e),
            },
            Position::End => {}
        }
    }

    fn push(&mut self, id: u32) {
        if self.failure.is_some() || self.position == Position::End {
            return;
        }
        if self.ends().contains(&id) {
            self.position = Position::End;
            return;
        }
        match self.read(id) {
            Ok(()) => self.position = Position::Within,
            Err(e) => self.fail(e),
        }
    }

    fn boxed(&self) -> Box<dyn Constraint> {
        Box::new(self.copy())
    }

    fn forced(&mut self, tokens: &mut Vec<u32>, room: usize) {
        let goes_on = self.position == Position::Within && !self.matcher.is_stopped();
        if !goes_on || self.failure.is_some() || !self.grammar.drafts {
            return;
        }
        let bytes = self.matcher.compute_ff_bytes();
        if !bytes.is_empty() {
            tokens.extend(self.grammar.vocabulary.tokens(&bytes).iter().take(room));
        }
    }

    fn follow(&mut self, draft: &[u32]) -> usize {
        if self.position != Position::Within || self.failure.is_some() {
            return 0;
        }
        if self.matcher.is_stopped() {
            return usize::from(draft.first().is_some_and(|id| self.ends().contains(id)));
        }
        self.matcher.validate_tokens(draft).unwrap_or(0)
    }

    fn failure(&self) -> Option<String> {
        self.failure.clone()
    }
}

impl fmt::Debug for Following {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Following")
            .field("position", &self.position)
            .field("failure", &self.failure)
            .finish_non_exhaustive()
    }
}

/// Copies a mask, which may be longer by a word.
fn copy(mask: &[u32], allowed: &mut [u32]) {
    for (to, from) in allowed.iter_mut().zip(mask) {
        *to = *from;
    }
}

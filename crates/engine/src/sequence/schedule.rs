//! What a [`crate::Batch`] requires of its sequences: buffers of the right size, preemption, and the state
//! on which it bases a pass.

use super::readout::{PromptOutput, PromptValues, Reader};
use super::{Sequence, State};
use crate::speculate::{Experience, Outcomes};
use crate::{Canceller, Engines, Error, FinishReason, Namespace};

impl Sequence {
    /// Opens a sequence of a namespace for up to `tokens` tokens.
    pub(crate) fn open_for(
        engines: &mut Engines,
        namespace: Namespace,
        tokens: usize,
    ) -> Result<Self, Error> {
        let seq = engines.target.open_in(namespace)?;
        Self::with_id(engines, seq, tokens)
    }

    /// Declares whether the answer is a new text rather than the continuation of the prompt. Call this
    /// before [`Self::start`].
    pub(crate) fn set_answer_follows(&mut self, follows: bool) {
        self.answer_follows = follows;
    }

    /// Lets `canceller` cancel the sequence, including a cancellation that is already pending.
    pub(crate) fn set_canceller(
        &mut self,
        engines: &mut Engines,
        canceller: Canceller,
    ) -> Result<(), Error> {
        engines.target.set_canceller(self.seq, canceller.clone())?;
        self.canceller = canceller;
        Ok(())
    }

    /// Declares what is to be determined of the next prompt, which has `tokens` tokens. Call this before the prompt
    /// is set.
    pub(crate) fn set_output(&mut self, engines: &Engines, output: PromptOutput, tokens: usize) {
        self.reader = Some(Reader::new(output, tokens, &engines.target));
    }

    /// Takes what was determined of the prompt, once it is complete.
    pub(crate) fn take_values(&mut self) -> Option<PromptValues> {
        let done = self.reader.as_ref()?.is_complete() && self.state != State::Prefill;
        self.reader.take_if(|_| done).map(Reader::into_values)
    }

    /// Number of tokens of the context that need not be computed if they are in the cache: the next token is drawn
    /// from the logits of the last one.
    pub(crate) fn reusable(&self) -> usize {
        let last = self.tokens.len().saturating_sub(1);
        self.reader.as_ref().map_or(last, |reader| reader.reusable().min(last))
    }

    /// Whether there is to be an answer to the prompt.
    pub(crate) fn has_answer(&self) -> bool {
        self.options.max_tokens != Some(0)
    }

    /// Gives up the cache in the middle of an answer. Only [`Self::resume`], [`Self::conclude`] and
    /// [`Self::event`] may follow.
    pub(crate) fn park(&mut self, engines: &mut Engines) -> Result<(), Error> {
        self.end_draws(engines)?;
        engines.target.close(self.seq)?;
        (self.rows, self.last, self.planned) = (None, None, None);
        if self.state == State::Decode {
            self.state = State::Prefill;
        }
        Ok(())
    }

    /// Continues an answer after [`Self::park`]. What the cache no longer holds is computed again, with
    /// the same bits, so the answer is the same.
    pub(crate) fn resume(&mut self, engines: &mut Engines) -> Result<(), Error> {
        self.seq = engines.target.open_in(self.namespace)?;
        engines.target.set_canceller(self.seq, self.canceller.clone())?;
        let tokens = std::mem::take(&mut self.tokens);
        let recalled = self.recall(engines, &tokens);
        self.tokens = tokens;
        recalled?;
        self.prefilled_from = engines.target.truncate(self.seq, self.reusable())?;
        Ok(())
    }

    /// Drops a sequence after [`Self::park`].
    pub(crate) fn discard(mut self, engines: &mut Engines) {
        self.speculator.close(engines.draft_mut());
    }

    /// Reuses what other sequences have computed of this prompt by now.
    pub(crate) fn follow(&mut self, engines: &mut Engines) -> Result<(), Error> {
        let cached = engines.target.len(self.seq)?;
        let held = engines.target.share(self.seq, &self.tokens[..self.reusable()])?;
        self.prefilled_from += held - cached;
        if self.stats.generated == 0 {
            self.stats.reused_tokens += held - cached;
        }
        Ok(())
    }

    /// See [`crate::speculate::Speculator::chance`].
    pub(crate) fn draft_chance(&mut self) -> Option<f64> {
        let constraint = self.constraint.as_deref_mut();
        self.speculator.chance(&self.tokens, constraint.map(|c| c as _))
    }

    /// See [`crate::speculate::Speculator::expect`].
    pub(crate) fn expect_drafts(&mut self, experience: &Experience) {
        self.speculator.expect(experience);
    }

    /// See [`crate::speculate::Speculator::take_outcomes`].
    pub(crate) fn take_outcomes(&mut self) -> Outcomes {
        self.speculator.take_outcomes()
    }

    /// Sets the length of the next draft from the context, or leaves the decision to the sequence.
    pub(crate) fn set_draft(&mut self, length: Option<usize>) {
        self.speculator.set_length(length);
    }

    /// The answer's text and its tokens, without the one that ended it.
    pub(crate) fn answered(&self) -> (String, &[u32]) {
        let (text, end) = self.answer();
        let from = self.tokens.len() - self.stats.generated;
        (text, &self.tokens[from..end.max(from)])
    }

    /// Ends the answer because the cache has no room for it.
    pub(crate) fn exhaust(&mut self) {
        self.state = State::Ending(FinishReason::Context);
    }

    /// Whether tokens of the context remain to be processed before the next one can be drawn.
    pub(crate) fn is_prefilling(&self) -> bool {
        self.state == State::Prefill
    }

    /// Whether the next pass can yield a token.
    pub(crate) fn is_decoding(&self) -> bool {
        self.state == State::Decode
    }

    /// Number of tokens that the answer may still have.
    pub(crate) fn tokens_left(&self) -> usize {
        let left = self.options.max_tokens.map_or(usize::MAX, |max| max - self.stats.generated);
        left.min((self.limit + 1).saturating_sub(self.tokens.len()))
    }
}

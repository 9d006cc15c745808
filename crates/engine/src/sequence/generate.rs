//! Generating an answer: plan tokens for a pass, draw from its logits, emit events.

use std::time::Instant;

use nanoinfer_text::{StopMatcher, StopStep};

use super::{Pending, Sequence, State};
use crate::sample::{Constraint, DrawScratch, Drawn, LogitRows, Logprobs};
use crate::{
    BatchToken, Engines, Error, Event, FinishReason, GenerateOptions, Model, PassId, Stage, Stats,
};

impl Engines {
    /// Draws the next token of each sequence that has an unused row of the last pass and no pending
    /// event, in parallel on the workers. After an accepted draft token, another row remains to draw
    /// from: run the next pass only when no sequence has a remaining row ([`Sequence::has_row`]).
    ///
    /// # Errors
    /// A row belongs to an earlier pass, or the engine has failed. Non-finite logits of a sequence are
    /// reported by its [`Sequence::event`].
    pub fn draw(&mut self, sequences: &mut [Sequence]) -> Result<(), Error> {
        let mut rows = sequences.iter().enumerate().filter_map(|(i, s)| Some((i, s.row()?.0)));
        let Some((first, pass)) = rows.next() else { return Ok(()) };
        let mut alone = true;
        for (_, other) in rows {
            if other != pass {
                return Err(Error::LogitsGone);
            }
            alone = false;
        }
        // Waking the workers for one token would take longer than drawing it.
        let tasks = if alone { &mut sequences[first..=first] } else { &mut *sequences };
        self.target.draw(pass, tasks, Sequence::draw)?;
        tasks.iter_mut().try_for_each(|sequence| sequence.drawn(self))
    }
}

/// Checks that tokens with a bias are in the vocabulary.
pub(crate) fn check_bias(model: &Model, options: &GenerateOptions) -> Result<(), Error> {
    let vocab = model.config().vocab_size;
    match options.logit_bias.iter().find(|(id, _)| *id >= vocab) {
        Some(&(token, _)) => Err(Error::Token { token, vocab }),
        None => Ok(()),
    }
}

impl Sequence {
    /// Begins an answer to the context. Clears a pending cancellation.
    ///
    /// # Errors
    /// The context is empty, or a token with a bias is not in the vocabulary.
    pub fn start(&mut self, engines: &mut Engines, options: GenerateOptions) -> Result<(), Error> {
        if self.tokens.is_empty() {
            return Err(Error::EmptyPrompt);
        }
        check_bias(&self.model, &options)?;
        // The last token is always processed, as the first token of the answer is drawn from its logits.
        self.end_draws(engines)?;
        let reused = engines.target.truncate(self.seq, self.reusable())?;
        self.stop(None);
        self.last = None;
        self.canceller.clear();
        if let Some(stream) = &mut self.stream {
            stream.reset(self.answer_follows);
        }
        let longest = self.model.longest_text();
        let has_stops = options.stop.iter().any(|s| !s.is_empty());
        self.stop_matcher = has_stops.then(|| StopMatcher::new(&options.stop, longest));
        self.sampler.sampling = options.sampling;
        self.sampler.bias.clone_from(&options.logit_bias);
        self.logprobs = options.logprobs.map(Logprobs::new);
        self.sampler.restart(&self.tokens);
        let (drafting, sampling) = (options.drafting, options.sampling);
        self.speculator.start(drafting, sampling, &self.tokens, engines.draft_mut());
        self.stats = Stats {
            prompt_tokens: self.tokens.len(),
            reused_tokens: reused,
            differs: self.stats.differs,
            ..Stats::default()
        };
        self.prefilled_from = reused;
        self.started = Instant::now();
        self.state = if options.max_tokens == Some(0) && self.reader.is_none() {
            State::Ending(FinishReason::Length)
        } else {
            State::Prefill
        };
        self.options = options;
        let limit = self.reasoning_limit();
        self.constraint = limit.map(|limit| Box::new(limit) as Box<dyn Constraint>);
        Ok(())
    }

    /// Appends up to `room` tokens of this sequence for the next pass to `batch`: the next tokens of the
    /// prompt, or the last token and a draft of its continuation. Appends nothing while a row to draw
    /// from or an event is pending, or when idle. `batch` may already hold tokens of other sequences,
    /// which count towards the engine's limit on logits. If the pass is not run, the next plan replaces
    /// this one.
    ///
    /// # Errors
    /// The sequence was not opened in `engines`, or an engine has failed.
    pub fn plan(
        &mut self,
        engines: &mut Engines,
        room: usize,
        batch: &mut Vec<BatchToken>,
    ) -> Result<(), Error> {
        if self.pending.is_some() {
            return Ok(());
        }
        self.planned = None;
        if self.conclude(engines)? {
            return Ok(());
        }
        let taken = batch.iter().filter(|t| t.logits).count();
        let rows = engines.target.max_logits().saturating_sub(taken);
        match self.state {
            State::Prefill => {
                let left = self.tokens.len() - engines.target.len(self.seq)?;
                let waits = rows == 0 && self.has_answer();
                let left = if waits { left.saturating_sub(1) } else { left };
                self.append_tokens(engines, left.min(room), batch)
            }
            State::Decode if self.speculator.row().is_none() => {
                let Some(room) = room.min(rows).checked_sub(1) else { return Ok(()) };
                // A draft must fit into the context; one of the remaining tokens is drawn even without a
                // draft.
                let left =
                    self.options.max_tokens.map_or(usize::MAX, |max| max - self.stats.generated);
                let room = room.min(self.limit - self.tokens.len()).min(left - 1);
                // A draft must not overfill a cache that has room for the pass without it.
                let room = room.min(engines.target.room(self.seq)?.saturating_sub(1));
                let constraint = self.constraint.as_deref_mut();
                let (tokens, draft) = (&mut self.tokens, engines.draft_mut());
                self.speculator.propose(tokens, room, constraint.map(|c| c as _), draft);
                self.append_tokens(engines, 1, batch)
            }
            State::Decode | State::Ending(_) | State::Idle => Ok(()),
        }
    }

    /// Appends the next `n` tokens of the context, followed by the draft. The last token of the context, if there
    /// is to be an answer, and all draft tokens request logits.
    fn append_tokens(
        &mut self,
        engines: &Engines,
        n: usize,
        batch: &mut Vec<BatchToken>,
    ) -> Result<(), Error> {
        let taken = batch.iter().filter(|t| t.logits).count();
        let (seq, last) = (self.seq, self.tokens.len() - 1);
        let last = self.has_answer().then_some(last);
        let cached = engines.target.len(seq)?;
        let tokens = self.tokens[cached..cached + n].iter().zip(cached..);
        self.placed = batch.len()..batch.len() + n;
        batch.extend(tokens.map(|(&token, i)| BatchToken { seq, token, logits: Some(i) == last }));
        let draft = self.speculator.draft().iter();
        batch.extend(draft.map(|&token| BatchToken { seq, token, logits: true }));
        if n > 0 {
            self.planned = Some(taken..batch.iter().filter(|t| t.logits).count());
            self.passed = Instant::now();
        }
        Ok(())
    }

    /// Records that the pass with this sequence's planned tokens is complete. Does nothing if none were
    /// planned.
    ///
    /// # Errors
    /// The pass lacks the planned rows, or as for [`Self::plan`].
    pub fn passed(&mut self, engines: &mut Engines, pass: PassId) -> Result<(), Error> {
        let Some(planned) = self.planned.take() else { return Ok(()) };
        let rows = engines.target.rows(pass)?;
        if planned.end > rows {
            return Err(Error::LogitsRow { index: planned.end - 1, rows });
        }
        self.rows = Some((pass, planned.start));
        if self.state == State::Decode {
            self.speculator.passed(self.passed.elapsed().as_secs_f64());
            return Ok(());
        }
        let (from, end) = (self.prefilled_from, engines.target.len(self.seq)?);
        if let Some(reader) = &mut self.reader {
            let (at, context) = ((pass, &self.placed, end), (&*self.tokens, &self.canceller));
            match reader.read(&mut engines.target, at, context) {
                Err(error @ Error::NotFinite { .. }) => {
                    self.stop(None);
                    self.failed = Some(error);
                    return Ok(());
                }
                read => read?,
            }
        }
        let (done, total) = (end - from, self.tokens.len() - from);
        self.pending = Some(Pending::Prefill { done, total });
        if done == total {
            if self.has_answer() {
                self.state = State::Decode;
                self.speculator.prompt_done(&self.tokens, engines.draft_mut());
            } else {
                self.state = State::Ending(FinishReason::Length);
            }
            if self.stats.generated == 0 {
                self.stats.prefill = self.started.elapsed();
            }
        }
        Ok(())
    }

    /// Ends the answer if it is complete or cancelled; only its last event, if any, then remains.
    /// Returns whether no answer is in progress.
    pub(crate) fn conclude(&mut self, engines: &mut Engines) -> Result<bool, Error> {
        let reason = match self.state {
            State::Idle => return Ok(true),
            State::Ending(reason) => reason,
            _ if self.canceller.is_cancelled() => {
                self.canceller.clear();
                FinishReason::Cancelled
            }
            _ => return Ok(false),
        };
        self.end_draws(engines)?;
        self.stop(Some(reason));
        Ok(true)
    }

    /// Whether an answer is in progress and no event is pending.
    pub(crate) fn needs_work(&self) -> bool {
        self.state != State::Idle && self.pending.is_none() && self.failed.is_none()
    }

    /// Whether an unused row of the last pass remains; the next pass discards it. False after
    /// cancellation.
    pub fn has_row(&self) -> bool {
        let decoding = self.state == State::Decode && !self.canceller.is_cancelled();
        decoding && self.speculator.row().is_some()
    }

    /// The pass and row to draw the next token from, if it can be drawn now.
    fn row(&self) -> Option<(PassId, usize)> {
        if self.pending.is_some() || !self.has_row() {
            return None;
        }
        let (pass, first) = self.rows?;
        Some((pass, first + self.speculator.row()?))
    }

    /// Draws the next token, on any thread; [`Self::drawn`] appends it to the context.
    fn draw(&mut self, rows: LogitRows<'_>, scratch: &mut DrawScratch) {
        let Some((_, row)) = self.row() else { return };
        let start = Instant::now();
        let at = (row, self.tokens.len());
        let constraint = self.constraint.as_deref_mut().map(|c| c as &mut dyn Constraint);
        let drawn = self.sampler.draw_with(rows, at, scratch, (self.logprobs.as_mut(), constraint));
        self.drawn = Some((drawn, start.elapsed()));
    }

    /// Appends the drawn token to the context.
    fn drawn(&mut self, engines: &mut Engines) -> Result<(), Error> {
        let (Some((drawn, time)), Some(row)) = (self.drawn.take(), self.row()) else {
            return Ok(());
        };
        let drawn = match drawn {
            Drawn::Token(id) => id,
            Drawn::Complete => {
                if let Some(what) = self.constraint.as_ref().and_then(|c| c.failure()) {
                    self.end_draws(engines)?;
                    self.stop(None);
                    self.failed = Some(Error::Constraint { what });
                    return Ok(());
                }
                self.state = State::Ending(FinishReason::Stop);
                return self.conclude(engines).map(|_| ());
            }
            Drawn::NotFinite => {
                self.end_draws(engines)?;
                self.stop(None);
                self.failed = Some(engines.target.not_finite());
                return Ok(());
            }
        };
        engines.target.profile_mut().add(Stage::Sampling, time);
        let position = self.tokens.len();
        let script = self.speculator.script.as_ref();
        let id = script.and_then(|script| script.token(position)).unwrap_or(drawn);
        self.tokens.push(id);
        self.last = Some((row, self.sampler.push(id)));
        if let Some(constraint) = &mut self.constraint {
            constraint.push(id);
        }
        let seconds = time.as_secs_f64();
        if !self.speculator.drawn(&self.tokens, seconds, engines.draft_mut()) {
            engines.target.truncate(self.seq, position)?;
        }
        self.stats.generated += 1;
        let elapsed = self.started.elapsed();
        if self.stats.generated == 1 {
            self.stats.first_token = elapsed;
        }
        self.stats.decode = elapsed - self.stats.first_token;
        if let Some(reason) = self.finish_reason(id) {
            self.state = State::Ending(reason);
        }
        self.pending = Some(Pending::Token(id));
        Ok(())
    }

    fn finish_reason(&self, id: u32) -> Option<FinishReason> {
        let ends = !self.options.ignore_eos && self.model.generation().eos.contains(&id);
        if ends || self.options.stop_tokens.contains(&id) {
            Some(FinishReason::Stop)
        } else if self.options.max_tokens == Some(self.stats.generated) {
            Some(FinishReason::Length)
        } else if self.tokens.len() > self.limit {
            Some(FinishReason::Context)
        } else {
            None
        }
    }

    /// Takes the next event, if any. Allocates nothing.
    ///
    /// # Errors
    /// The answer cannot continue: its logits are not finite.
    pub fn event(&mut self) -> Result<Option<Event<'_>>, Error> {
        if let Some(error) = self.failed.take() {
            return Err(error);
        }
        Ok(match self.pending.take() {
            None => None,
            Some(Pending::Prefill { done, total }) => Some(Event::Prefill { done, total }),
            Some(Pending::Token(id)) => Some(self.token_event(id)),
            Some(Pending::Finished(reason)) => Some(self.finished_event(reason)),
        })
    }

    fn token_event(&mut self, id: u32) -> Event<'_> {
        let (Some(stream), Some(vocab)) = (&mut self.stream, self.model.vocab()) else {
            return Event::Token { id, text: "", bytes: &[] };
        };
        if self.options.stop_tokens.contains(&id) {
            return Event::Token { id, text: "", bytes: &[] };
        }
        let Some(stop) = &mut self.stop_matcher else {
            stream.push(&vocab, id);
            return Event::Token { id, text: stream.text(), bytes: stream.raw() };
        };
        if vocab.is_special(id) {
            // It has no text, and ends what may have been the beginning of a stop string.
            stream.push(&vocab, id);
            let text = stop.finish();
            return Event::Token { id, text, bytes: text.as_bytes() };
        }
        let text = match stop.push(stream.push(&vocab, id)) {
            StopStep::Text(text) => text,
            StopStep::Stop { before, .. } => {
                self.state = State::Ending(FinishReason::Stop);
                stream.reset(false); // drop a partial character after the stop string
                before
            }
        };
        Event::Token { id, text, bytes: text.as_bytes() }
    }

    fn finished_event(&mut self, reason: FinishReason) -> Event<'_> {
        match (&mut self.stream, &mut self.stop_matcher) {
            (Some(stream), Some(stop)) => {
                let text = stop.finish_with(stream.finish());
                Event::Finished { reason, text, bytes: text.as_bytes() }
            }
            (Some(stream), None) => Event::Finished { reason, text: stream.finish(), bytes: &[] },
            (None, _) => Event::Finished { reason, text: "", bytes: &[] },
        }
    }
}

//! Speculative decoding that never changes the answer.
//!
//! ```text
//! context … a │ draft b c d      one pass over  a b c d  computes the logits after each
//!   draw after a: b  = draft     accepted at no extra cost
//!   draw after b: c  = draft     accepted
//!   draw after c: x ≠ d          d is rolled back, x is the next token
//! ```
//!
//! Each token is drawn from the same logits with the same random number as without a draft, and draft
//! tokens are accepted as long as they match the draws. Logits are bit-identical in any batch, so the
//! answer is the same for any sampling parameters; only the number of passes changes. Drafts come from
//! the context itself (`lookup`), from a small model (`model`), or from a constraint that leaves no other
//! text; the `governor` decides whether drafting pays, from costs and `experience`. This file contains the
//! state of one sequence's drafts; `script` is for measurements only.

mod experience;
mod governor;
mod lookup;
mod model;
mod script;
mod stats;

use std::time::Instant;

use nanoinfer_format::Generation;

use crate::{Constraint, Engine, Error, Sampling};
use experience::Source;
pub(crate) use experience::{Experience, Outcomes};
pub(crate) use governor::MAX_DRAFT;
use governor::{Governor, Offer, Plan};
use lookup::{Lookup, Match};
use model::DraftSequence;
pub(crate) use model::check_draft;
use script::Scripted;
pub use script::{DraftCosts, Script};
pub use stats::{DraftStats, Drafted, Drafting};

/// The drafts of one sequence. Methods that need the draft model's engine take it as a parameter.
pub(crate) struct Speculator {
    capacity: usize,
    lookup: Lookup,
    model: Option<DraftSequence>,
    /// Number of positions that remain when the context slides.
    pinned: usize,
    /// Why the draft model is not drafting.
    note: Option<String>,
    pub script: Option<Scripted>,
    governor: Governor,
    /// Length of the next draft, which comes from the context, if the batch decides on it.
    length: Option<usize>,
    drafting: Drafting,
    stats: DraftStats,
    eos: Vec<u32>,
    /// The draft of the pass in progress.
    draft: Vec<u32>,
    /// What the constraint forces next.
    forced: Vec<u32>,
    /// The plan that produced the draft.
    plan: Option<Plan>,
    /// Seconds taken by the pass, and by drafting.
    seconds: (f64, f64),
    /// Number of draft tokens confirmed by draws so far.
    accepted: usize,
    /// Whether the pass has logits left to draw from.
    open: bool,
}

impl Speculator {
    /// For contexts of up to `capacity` tokens.
    pub(crate) fn new(capacity: usize, generation: &Generation) -> Self {
        Self {
            capacity,
            lookup: Lookup::new(capacity),
            model: None,
            pinned: 0,
            note: None,
            script: None,
            governor: Governor::default(),
            length: None,
            drafting: Drafting::default(),
            stats: DraftStats::default(),
            eos: generation.eos.clone(),
            draft: Vec::with_capacity(MAX_DRAFT),
            forced: Vec::with_capacity(MAX_DRAFT),
            plan: None,
            seconds: (0.0, 0.0),
            accepted: 0,
            open: false,
        }
    }

    pub(crate) fn set_script(&mut self, script: Option<Script>) {
        self.script = script.map(|script| Scripted { script, start: 0 });
    }

    /// Scripted costs that replace measured times.
    fn costs(&self) -> Option<DraftCosts> {
        self.script.as_ref()?.script.costs
    }

    pub(crate) fn stats(&self) -> DraftStats {
        self.stats
    }

    /// Returns and clears the note on why the draft model is not drafting.
    pub(crate) fn take_note(&mut self) -> Option<String> {
        self.note.take()
    }

    /// The draft model's sequence, with its engine.
    fn follower<'s>(
        &'s mut self,
        draft: Option<&'s mut Engine>,
    ) -> Option<(&'s mut DraftSequence, &'s mut Engine)> {
        self.model.as_mut().zip(draft).filter(|(model, draft)| model.is_in(draft))
    }

    /// Runs `act` on the draft model's sequence, if there is one. On failure, the answer continues
    /// without the draft model, which affects only its speed.
    fn with_follower(
        &mut self,
        draft: Option<&mut Engine>,
        act: impl FnOnce(&mut DraftSequence, &mut Engine) -> Result<(), Error>,
    ) {
        let done = self.follower(draft).map_or(Ok(()), |(model, draft)| act(model, draft));
        self.disable_on_error(done);
    }

    /// On error, turns the draft model off for this answer.
    fn disable_on_error(&mut self, result: Result<(), Error>) {
        if let Err(e) = result {
            self.drafting.model = false;
            self.note = Some(format!("the draft model is not drafting: {e}"));
        }
    }

    /// Opens a sequence in the draft model's engine, if there is such an engine and no sequence is open
    /// in it.
    fn open_follower(&mut self, draft: Option<&mut Engine>) -> Result<(), Error> {
        let Some(draft) = draft else {
            self.model = None;
            return Ok(());
        };
        if self.model.as_ref().is_none_or(|model| !model.is_in(draft)) {
            self.model = None;
            let mut model = DraftSequence::open(draft, self.capacity)?;
            model.pin(draft, self.pinned)?;
            self.model = Some(model);
        }
        Ok(())
    }

    /// Closes the sequence in the draft model's engine.
    pub(crate) fn close(&mut self, draft: Option<&mut Engine>) {
        if let Some((model, draft)) = self.model.take().zip(draft) {
            // On failure, the sequence is released along with its engine.
            let _ = model.close(draft);
        }
    }

    /// Truncates the context to its first `len` tokens.
    pub(crate) fn truncate(&mut self, tokens: &[u32], len: usize, draft: Option<&mut Engine>) {
        self.lookup.truncate(tokens, len);
        self.with_follower(draft, |model, draft| model.truncate(draft, len));
    }

    /// Pins the first tokens of the context, so that they remain when it slides.
    pub(crate) fn pin(&mut self, positions: usize, draft: Option<&mut Engine>) {
        self.pinned = positions;
        self.with_follower(draft, |model, draft| model.pin(draft, positions));
    }

    /// Begins an answer to the context.
    pub(crate) fn start(
        &mut self,
        drafting: Drafting,
        sampling: Sampling,
        tokens: &[u32],
        draft: Option<&mut Engine>,
    ) {
        self.drafting = drafting;
        if drafting.model {
            let follows = self.open_follower(draft);
            self.disable_on_error(follows);
        }
        self.lookup.extend(tokens);
        if let Some(model) = &mut self.model {
            model.restart(sampling, tokens);
        }
        if let Some(script) = &mut self.script {
            script.start = tokens.len();
        }
        self.stats = DraftStats::default();
        self.draft.clear();
        self.open = false;
    }

    /// Records that the prompt has been processed, so that the first token can be drawn.
    pub(crate) fn prompt_done(&mut self, tokens: &[u32], draft: Option<&mut Engine>) {
        (self.plan, self.accepted, self.open) = (None, 0, true);
        if self.drafting.model {
            self.with_follower(draft, |model, draft| model.catch_up(draft, tokens));
        }
    }

    /// The row of logits to draw from; `None` if a pass is needed first.
    pub(crate) fn row(&self) -> Option<usize> {
        self.open.then_some(self.accepted)
    }

    /// The probability that each token of a draft from the constraint or the context is accepted if those
    /// before it are; `None` if there is no such draft.
    pub(crate) fn chance(
        &mut self,
        tokens: &[u32],
        constraint: Option<&mut dyn Constraint>,
    ) -> Option<f64> {
        self.ask_forced(constraint, MAX_DRAFT);
        if !self.forced.is_empty() {
            return Some(self.governor.acceptance(Source::Forced, 0));
        }
        let found = self.lookup.find(tokens).filter(|_| self.drafting.lookup)?;
        Some(self.governor.acceptance(Source::Lookup, found.len))
    }

    /// Begins with what other sequences have learned about drafts.
    pub(crate) fn expect(&mut self, experience: &Experience) {
        self.governor.expect(experience);
    }

    /// Returns and clears the outcomes of drafts since the last call.
    pub(crate) fn take_outcomes(&mut self) -> Outcomes {
        self.governor.take_outcomes()
    }

    /// Asks the constraint which tokens it forces next.
    fn ask_forced(&mut self, constraint: Option<&mut dyn Constraint>, room: usize) {
        self.forced.clear();
        if let Some(constraint) = constraint.filter(|_| self.drafting.forced) {
            constraint.forced(&mut self.forced, room.min(MAX_DRAFT));
        }
    }

    /// Sets the length of the next draft, or leaves the decision to the governor. Only its own decisions
    /// are based on the times of passes, and change its view of them.
    pub(crate) fn set_length(&mut self, length: Option<usize>) {
        self.length = length;
    }

    /// Makes a draft of at most `room` tokens for the next pass, replacing any unused draft. What the
    /// constraint forces takes precedence over other sources, and what it does not allow is cut off.
    pub(crate) fn propose(
        &mut self,
        tokens: &mut Vec<u32>,
        room: usize,
        mut constraint: Option<&mut (dyn Constraint + '_)>,
        mut draft: Option<&mut Engine>,
    ) {
        self.draft.clear();
        (self.plan, self.seconds, self.accepted) = (None, (0.0, 0.0), 0);
        let cached = tokens.len().saturating_sub(1);
        self.with_follower(draft.as_deref_mut(), |model, draft| model.truncate(draft, cached));
        let reborrowed = constraint.as_mut().map(|c| &mut **c as &mut dyn Constraint);
        self.ask_forced(reborrowed, room);
        let lookup = self.drafting.lookup && self.forced.is_empty();
        let found = if lookup { self.lookup.find(tokens) } else { None };
        let Some(plan) = self.plan_for(found, tokens, room, draft.as_deref()) else { return };
        match (plan.source, found) {
            (Source::Model, _) => {
                let drafted = self.draft_by_model(tokens, plan.n, draft);
                if drafted.is_err() {
                    self.draft.clear();
                }
                self.disable_on_error(drafted);
            }
            (Source::Lookup, Some(found)) => {
                lookup::copy(tokens, found.at, plan.n, &mut self.draft);
            }
            (Source::Lookup, None) => {}
            (Source::Forced, _) => self.draft.extend_from_slice(&self.forced[..plan.n]),
        }
        if let Some(constraint) = constraint.filter(|_| !self.draft.is_empty()) {
            self.draft.truncate(constraint.follow(&self.draft));
        }
        if self.draft.is_empty() {
            return;
        }
        // Nothing follows the end of the answer.
        if let Some(end) = self.draft.iter().position(|id| self.eos.contains(id)) {
            self.draft.truncate(end + 1);
        }
        self.plan = Some(Plan { n: self.draft.len(), ..plan });
    }

    /// Chooses a source and a draft length, if drafting pays.
    fn plan_for(
        &self,
        found: Option<Match>,
        tokens: &[u32],
        room: usize,
        draft: Option<&Engine>,
    ) -> Option<Plan> {
        let lookup = Offer { source: Source::Lookup, matched: 0, lag: 0, most: MAX_DRAFT };
        let mut offers = [lookup; 2];
        let mut n = 0;
        if !self.forced.is_empty() {
            offers[n] = Offer { source: Source::Forced, most: self.forced.len(), ..lookup };
            n += 1;
        } else if let Some(m) = found {
            offers[n].matched = m.len;
            n += 1;
        }
        let models = self.drafting.model && self.length.is_none() && self.forced.is_empty();
        let model = self.model.as_ref().zip(draft).filter(|_| models);
        if let Some(lag) = model.and_then(|(model, draft)| model.lag(draft, tokens).ok()) {
            offers[n] = Offer { source: Source::Model, lag, ..lookup };
            n += 1;
        }
        if n == 0 || room == 0 {
            return None;
        }
        let room = room.min(MAX_DRAFT);
        let plan = match self.length.or(self.drafting.fixed) {
            Some(length) => self.governor.forced(&offers[..n], length.min(room)),
            None => self.governor.plan(&offers[..n], room),
        };
        plan.filter(|plan| plan.n > 0)
    }

    fn draft_by_model(
        &mut self,
        tokens: &mut Vec<u32>,
        n: usize,
        draft: Option<&mut Engine>,
    ) -> Result<(), Error> {
        let (Some(model), Some(draft)) = (&mut self.model, draft) else { return Ok(()) };
        let start = Instant::now();
        model.catch_up(draft, tokens)?;
        let steps = model.draft(draft, tokens, n, self.script.as_ref(), &mut self.draft)?;
        let given = self.costs().map(|costs| costs.step * n as f64);
        self.governor.stepped(given.unwrap_or(steps), n);
        self.seconds.1 = given.unwrap_or_else(|| start.elapsed().as_secs_f64());
        Ok(())
    }

    /// The draft to verify in the next pass.
    pub(crate) fn draft(&self) -> &[u32] {
        &self.draft
    }

    /// Records that the pass is complete: the logits of the last token and of the draft are available.
    pub(crate) fn passed(&mut self, seconds: f64) {
        let given = self.costs().map(|costs| 1.0 + costs.row * self.draft.len() as f64);
        let seconds = given.unwrap_or(seconds);
        self.seconds.0 = seconds;
        self.stats.passes += 1;
        self.open = true;
        // The account bounds the cost of drafting, so answers without drafting do not add to it.
        if self.plan.is_none() && self.length.is_none() && self.drafting != Drafting::OFF {
            self.governor.single(seconds);
        }
    }

    /// Records a drawn token, which is now the last of the context. Returns whether it was drafted and is
    /// therefore already in the cache.
    pub(crate) fn drawn(
        &mut self,
        tokens: &[u32],
        seconds: f64,
        draft: Option<&mut Engine>,
    ) -> bool {
        self.governor.drawn(self.costs().map_or(seconds, |costs| costs.draw));
        self.lookup.extend(tokens);
        let id = tokens.last().copied();
        if let (Some(model), Some(id)) = (&mut self.model, id) {
            model.push(id);
        }
        if id.is_some() && self.draft.get(self.accepted).copied() == id {
            self.accepted += 1;
            return true;
        }
        let tested = self.draft.len().min(self.accepted + 1);
        self.close_pass(tokens.len() - 1, tested, draft);
        false
    }

    /// Discards the remaining logits of the pass, because the answer ends here.
    pub(crate) fn end(&mut self, cached: usize, draft: Option<&mut Engine>) {
        if self.open {
            self.close_pass(cached, self.accepted, draft);
        }
    }

    /// Records the outcome of the draft; the first `cached` tokens of the context have been processed.
    fn close_pass(&mut self, cached: usize, tested: usize, draft: Option<&mut Engine>) {
        self.open = false;
        self.with_follower(draft, |model, draft| model.truncate(draft, cached));
        let Some(plan) = self.plan.take() else { return };
        let source = match plan.source {
            Source::Lookup => &mut self.stats.lookup,
            Source::Model => &mut self.stats.model,
            Source::Forced => &mut self.stats.forced,
        };
        source.drafted += plan.n;
        source.accepted += self.accepted;
        let outcome = (self.accepted, tested);
        match self.length {
            Some(_) => self.governor.observe(plan, outcome),
            None => self.governor.verified(plan, outcome, self.seconds),
        }
    }
}

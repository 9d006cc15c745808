//! Speculative decoding that never changes the text.
//!
//! ```text
//! context … a │ draft b c d      one pass over  a b c d  gives the logits after each of them
//!   draw after a: b  = draft     accepted, costs nothing more
//!   draw after b: c  = draft     accepted
//!   draw after c: x ≠ d          d is rolled back, x goes on
//! ```
//!
//! A token is drawn from the same logits with the same random number as without a draft, and a
//! draft is accepted while the draw equals it: sample and match. Logits are the same bits in any
//! batch, so the answer is the same, for any way of sampling; what changes is how many passes it
//! takes. Drafts come from the context itself (`lookup`) or from a small model (`model`);
//! the `governor` decides whether they are worth it.

mod governor;
mod lookup;
mod model;
mod script;

use nanoinfer_format::Generation;

use crate::{Engine, Error, Sampling};
use governor::{Governor, MAX_DRAFT, Offer, Plan, Source};
use lookup::Lookup;
pub(crate) use model::DraftModel;
use script::Scripted;
pub use script::{DraftCosts, Script};

/// What may be drafted for an answer. It never changes a token of it, only its speed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Drafting {
    /// From the context: what followed when it last ended as it does now.
    pub lookup: bool,
    /// From the session's draft model, if it has one.
    pub model: bool,
    /// Always as many tokens as this, where a source has any, instead of as many as pay. For tests
    /// and measurements.
    pub fixed: Option<usize>,
}

impl Default for Drafting {
    fn default() -> Self {
        Self { lookup: true, model: true, fixed: None }
    }
}

impl Drafting {
    /// Nothing is drafted.
    pub const OFF: Self = Self { lookup: false, model: false, fixed: None };
}

/// Tokens from one source of drafts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Drafted {
    /// Tokens that were drafted and verified.
    pub drafted: usize,
    /// Those that became part of the answer.
    pub accepted: usize,
}

impl Drafted {
    /// Accepted share; 0 if nothing was drafted.
    pub fn acceptance(self) -> f64 {
        if self.drafted == 0 { 0.0 } else { self.accepted as f64 / self.drafted as f64 }
    }
}

/// What drafting did for the current answer.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct DraftStats {
    /// Passes after the prompt's.
    pub passes: usize,
    /// From the context.
    pub lookup: Drafted,
    /// From the draft model.
    pub model: Drafted,
}

impl DraftStats {
    /// Both sources together.
    pub fn all(&self) -> Drafted {
        Drafted {
            drafted: self.lookup.drafted + self.model.drafted,
            accepted: self.lookup.accepted + self.model.accepted,
        }
    }

    /// Tokens of the answer per pass; 0 before the first.
    pub fn tokens_per_pass(&self) -> f64 {
        match self.passes {
            0 => 0.0,
            n => (n + self.all().accepted) as f64 / n as f64,
        }
    }
}

/// The drafts of one session.
pub(crate) struct Speculator {
    lookup: Lookup,
    pub model: Option<DraftModel>,
    pub script: Option<Scripted>,
    governor: Governor,
    drafting: Drafting,
    stats: DraftStats,
    eos: Vec<u32>,
    /// The draft of the pass in progress, where it came from, what it and the pass took, and how
    /// many of its tokens were drawn.
    draft: Vec<u32>,
    plan: Option<Plan>,
    seconds: (f64, f64),
    accepted: usize,
    /// Logits of the pass are left to draw from.
    open: bool,
}

impl Speculator {
    /// For contexts of up to `capacity` tokens.
    pub(crate) fn new(capacity: usize, generation: &Generation) -> Self {
        Self {
            lookup: Lookup::new(capacity),
            model: None,
            script: None,
            governor: Governor::default(),
            drafting: Drafting::default(),
            stats: DraftStats::default(),
            eos: generation.eos.clone(),
            draft: Vec::with_capacity(MAX_DRAFT),
            plan: None,
            seconds: (0.0, 0.0),
            accepted: 0,
            open: false,
        }
    }

    pub(crate) fn set_script(&mut self, script: Option<Script>) {
        self.script = script.map(|script| Scripted { script, start: 0 });
    }

    /// Costs that count instead of measured times.
    fn costs(&self) -> Option<DraftCosts> {
        self.script.as_ref()?.script.costs
    }

    pub(crate) fn stats(&self) -> DraftStats {
        self.stats
    }

    /// The context loses all but its first `len` tokens.
    pub(crate) fn truncate(&mut self, tokens: &[u32], len: usize) {
        self.lookup.truncate(tokens, len);
        if let Some(model) = &mut self.model {
            model.truncate(len);
        }
    }

    /// The first tokens of the context stay in sight if it slides.
    pub(crate) fn pin(&mut self, positions: usize) {
        if let Some(model) = &mut self.model {
            model.pin(positions);
        }
    }

    /// An answer to the context begins.
    pub(crate) fn start(&mut self, drafting: Drafting, sampling: Sampling, tokens: &[u32]) {
        self.lookup.extend(tokens);
        if let Some(model) = &mut self.model {
            model.restart(sampling, tokens);
        }
        if let Some(script) = &mut self.script {
            script.start = tokens.len();
        }
        self.drafting = drafting;
        self.stats = DraftStats::default();
        self.draft.clear();
        self.open = false;
    }

    /// The prompt is processed: the first token can be drawn.
    pub(crate) fn prompt_done(&mut self, tokens: &[u32]) -> Result<(), Error> {
        (self.plan, self.accepted, self.open) = (None, 0, true);
        match &mut self.model {
            Some(model) if self.drafting.model => model.catch_up(tokens),
            _ => Ok(()),
        }
    }

    /// The row of logits to draw from; `None` if a pass has to come first.
    pub(crate) fn row(&self) -> Option<usize> {
        self.open.then_some(self.accepted)
    }

    /// Makes a draft of at most `room` tokens for the next pass.
    pub(crate) fn propose(&mut self, tokens: &mut Vec<u32>, room: usize) -> Result<(), Error> {
        self.draft.clear();
        (self.plan, self.seconds, self.accepted) = (None, (0.0, 0.0), 0);
        let found = match self.drafting.lookup {
            true => self.lookup.find(tokens),
            false => None,
        };
        let mut offers = [Offer { source: Source::Lookup, past: 0, lag: 0 }; 2];
        let mut n = 0;
        if let Some(m) = found {
            offers[n].past = m.len;
            n += 1;
        }
        if let (true, Some(model)) = (self.drafting.model, &self.model) {
            offers[n] = Offer { source: Source::Model, past: 0, lag: model.lag(tokens) };
            n += 1;
        }
        if n == 0 || room == 0 {
            return Ok(());
        }
        let room = room.min(MAX_DRAFT);
        let plan = match self.drafting.fixed {
            Some(length) => self.governor.forced(&offers[..n], length.min(room)),
            None => self.governor.plan(&offers[..n], room),
        };
        let Some(plan) = plan.filter(|plan| plan.n > 0) else { return Ok(()) };
        let given = self.costs().map(|costs| costs.step * plan.n as f64);
        match (plan.source, found, &mut self.model) {
            (Source::Model, _, Some(model)) => {
                let start = std::time::Instant::now();
                model.catch_up(tokens)?;
                let script = self.script.as_ref();
                let steps = model.draft(tokens, plan.n, script, &mut self.draft)?;
                self.governor.stepped(given.unwrap_or(steps), plan.n);
                self.seconds.1 = given.unwrap_or_else(|| start.elapsed().as_secs_f64());
            }
            (_, Some(found), _) => lookup::copy(tokens, found.at, plan.n, &mut self.draft),
            _ => return Ok(()),
        }
        // After an end of the answer there is nothing.
        if let Some(end) = self.draft.iter().position(|id| self.eos.contains(id)) {
            self.draft.truncate(end + 1);
        }
        self.plan = Some(Plan { n: self.draft.len(), ..plan });
        Ok(())
    }

    /// What the pass has to verify.
    pub(crate) fn draft(&self) -> &[u32] {
        &self.draft
    }

    /// The pass is done: the last token's logits and those of the draft can be drawn from.
    pub(crate) fn passed(&mut self, seconds: f64) {
        let given = self.costs().map(|costs| 1.0 + costs.row * self.draft.len() as f64);
        let seconds = given.unwrap_or(seconds);
        self.seconds.0 = seconds;
        self.stats.passes += 1;
        self.open = true;
        // Answers without drafts earn nothing: the promise is about those with them.
        if self.plan.is_none() && (self.drafting.lookup || self.drafting.model) {
            self.governor.single(seconds);
        }
    }

    /// A token was drawn and is now the last of the context. Returns whether it was drafted, so
    /// that the cache holds it.
    pub(crate) fn drawn(&mut self, tokens: &[u32], seconds: f64) -> bool {
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
        self.close(tokens.len() - 1, tested);
        false
    }

    /// The pass's remaining logits are not wanted: the answer ends here.
    pub(crate) fn end(&mut self, cached: usize) {
        if self.open {
            self.close(cached, self.accepted);
        }
    }

    /// Takes down what became of a draft. Of the context, `cached` tokens are processed.
    fn close(&mut self, cached: usize, tested: usize) {
        self.open = false;
        if let Some(model) = &mut self.model {
            model.truncate(cached);
        }
        let Some(plan) = self.plan.take() else { return };
        let source = match plan.source {
            Source::Lookup => &mut self.stats.lookup,
            Source::Model => &mut self.stats.model,
        };
        source.drafted += plan.n;
        source.accepted += self.accepted;
        self.governor.verified(plan, (self.accepted, tested), self.seconds);
    }
}

/// What a session needs to know of an engine that is to draft for it.
pub(crate) fn draft_model(engine: Engine, target: &Engine) -> Result<DraftModel, Error> {
    if engine.overflow() != target.overflow() {
        let path = engine.model().file().path().to_path_buf();
        let what = "one context slides and the other stops".into();
        return Err(Error::Draft { path, what });
    }
    if engine.ctx() < target.ctx() {
        let path = engine.model().file().path().to_path_buf();
        let what = format!("it holds {} positions, the model {}", engine.ctx(), target.ctx());
        return Err(Error::Draft { path, what });
    }
    DraftModel::new(engine, target)
}

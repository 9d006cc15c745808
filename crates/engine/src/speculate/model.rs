//! A small model that guesses what the large one will say.

use std::time::Instant;

use super::script::Scripted;
use crate::sample::Sampler;
use crate::{Engine, Error, Sampling, SeqId, Step};

/// A draft model with its own cache, which follows the context of the session.
pub(crate) struct DraftModel {
    engine: Engine,
    seq: SeqId,
    sampler: Sampler,
    steps: Vec<Step>,
    fresh: Vec<bool>, // per drafted token, whether penalties had not seen it before
}

impl DraftModel {
    /// Checks that both models mean the same by a token.
    pub(crate) fn new(mut engine: Engine, target: &Engine) -> Result<Self, Error> {
        same_vocabulary(&engine, target).map_err(|what| Error::Draft {
            path: engine.model().file().path().to_path_buf(),
            what,
        })?;
        let (seq, vocab) = (engine.open()?, engine.model().config().vocab_size as usize);
        Ok(Self {
            seq,
            sampler: Sampler::new(engine.kernels(), vocab),
            steps: Vec::with_capacity(engine.max_batch()),
            fresh: Vec::with_capacity(super::governor::MAX_DRAFT),
            engine,
        })
    }

    pub(crate) fn engine(&self) -> &Engine {
        &self.engine
    }

    /// An answer begins: its way of choosing tokens, and what penalties have seen.
    pub(crate) fn restart(&mut self, sampling: Sampling, tokens: &[u32]) {
        self.sampler.sampling = sampling;
        self.sampler.restart(tokens);
    }

    /// A token was generated.
    pub(crate) fn push(&mut self, id: u32) {
        self.sampler.push(id);
    }

    /// Forgets all but the first `len` tokens.
    pub(crate) fn truncate(&mut self, len: usize) {
        self.engine.truncate(self.seq, len);
    }

    pub(crate) fn pin(&mut self, positions: usize) {
        self.engine.pin(self.seq, positions);
    }

    /// Tokens it has to process before it can draft.
    pub(crate) fn lag(&self, tokens: &[u32]) -> usize {
        tokens.len() - self.engine.len(self.seq).min(tokens.len())
    }

    /// Processes all but the last of these tokens, if they are many: not part of a draft's cost.
    pub(crate) fn catch_up(&mut self, tokens: &[u32]) -> Result<(), Error> {
        while self.lag(tokens) > 2 {
            let n = (self.lag(tokens) - 1).min(self.engine.max_batch());
            self.forward(tokens, n, false)?;
        }
        Ok(())
    }

    /// Drafts `n` tokens, drawn as the session will draw: with the same random numbers, two models
    /// that nearly agree draw the same. Returns the seconds that the steps took.
    pub(crate) fn draft(
        &mut self,
        tokens: &mut Vec<u32>,
        n: usize,
        script: Option<&Scripted>,
        draft: &mut Vec<u32>,
    ) -> Result<f64, Error> {
        let (len, start) = (tokens.len(), Instant::now());
        self.fresh.clear();
        let mut done = Ok(());
        for _ in 0..n {
            done = self.forward(tokens, self.lag(tokens), true).and_then(|()| {
                let drawn = self.sampler.draw(self.engine.logits(0)?, tokens.len());
                let id = script.map_or(drawn, |s| s.guess(drawn, tokens.len()));
                self.fresh.push(self.sampler.push(id));
                tokens.push(id);
                Ok(())
            });
            if done.is_err() {
                break;
            }
        }
        draft.extend_from_slice(&tokens[len..]);
        for (id, fresh) in draft.iter().rev().zip(self.fresh.drain(..).rev()) {
            self.sampler.pop(*id, fresh);
        }
        tokens.truncate(len);
        done.map(|()| start.elapsed().as_secs_f64())
    }

    fn forward(&mut self, tokens: &[u32], n: usize, logits: bool) -> Result<(), Error> {
        let from = tokens.len() - self.lag(tokens);
        self.steps.clear();
        let step = |i: usize| Step {
            seq: self.seq,
            token: tokens[i],
            logits: logits && i + 1 == tokens.len(),
        };
        self.steps.extend((from..from + n).map(step));
        self.engine.forward(&self.steps)
    }
}

/// Why a token would not mean the same to both.
fn same_vocabulary(draft: &Engine, target: &Engine) -> Result<(), String> {
    let (a, b) = (draft.model(), target.model());
    let (n, m) = (a.config().vocab_size, b.config().vocab_size);
    if n != m {
        return Err(format!("it has {n} tokens, the model has {m}"));
    }
    if let (Some(a), Some(b)) = (a.vocab(), b.vocab()) {
        let differs = (0..n).find(|&id| a.bytes(id) != b.bytes(id));
        if let Some(id) = differs {
            let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
            let (a, b) = (text(a.bytes(id)), text(b.bytes(id)));
            return Err(format!("its token {id} is {a:?}, the model's is {b:?}"));
        }
    }
    Ok(())
}

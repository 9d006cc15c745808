//! A small model that guesses what the large one will say.

use std::slice;
use std::time::Instant;

use super::script::Scripted;
use crate::sample::Sampler;
use crate::{BatchToken, Engine, Error, Sampling, SeqId};

/// A sequence of the draft model's engine, which follows the context of another sequence.
pub(crate) struct DraftSequence {
    seq: SeqId,
    sampler: Sampler,
    steps: Vec<BatchToken>,
    fresh: Vec<bool>, // per drafted token, whether penalties had not seen it before
}

impl DraftSequence {
    /// For contexts of up to `capacity` tokens.
    pub(crate) fn open(engine: &mut Engine, capacity: usize) -> Result<Self, Error> {
        let (seq, vocab) = (engine.open()?, engine.model().config().vocab_size as usize);
        Ok(Self {
            seq,
            sampler: Sampler::new(vocab, capacity + super::governor::MAX_DRAFT),
            steps: Vec::with_capacity(engine.max_batch()),
            fresh: Vec::with_capacity(super::governor::MAX_DRAFT),
        })
    }

    pub(crate) fn close(self, engine: &mut Engine) -> Result<(), Error> {
        engine.close(self.seq)
    }

    /// Whether this is the engine it was opened in.
    pub(crate) fn is_in(&self, engine: &Engine) -> bool {
        engine.len(self.seq).is_ok()
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
    pub(crate) fn truncate(&mut self, engine: &mut Engine, len: usize) -> Result<(), Error> {
        engine.truncate(self.seq, len).map(|_| ())
    }

    pub(crate) fn pin(&mut self, engine: &mut Engine, positions: usize) -> Result<(), Error> {
        engine.pin(self.seq, positions)
    }

    /// Tokens it has to process before it can draft.
    pub(crate) fn lag(&self, engine: &Engine, tokens: &[u32]) -> Result<usize, Error> {
        Ok(tokens.len() - engine.len(self.seq)?.min(tokens.len()))
    }

    /// Processes all but the last of these tokens, if they are many: not part of a draft's cost.
    pub(crate) fn catch_up(&mut self, engine: &mut Engine, tokens: &[u32]) -> Result<(), Error> {
        loop {
            let lag = self.lag(engine, tokens)?;
            if lag <= 2 {
                return Ok(());
            }
            let from = tokens.len() - lag;
            let n = (lag - 1).min(engine.max_batch());
            self.steps.clear();
            let step = |&token| BatchToken { seq: self.seq, token, logits: false };
            self.steps.extend(tokens[from..from + n].iter().map(step));
            engine.forward(&self.steps)?;
        }
    }

    /// Drafts `n` tokens, drawn as the sequence will draw: with the same random numbers, two models
    /// that nearly agree draw the same. Returns the seconds that the steps took.
    pub(crate) fn draft(
        &mut self,
        engine: &mut Engine,
        tokens: &mut Vec<u32>,
        n: usize,
        script: Option<&Scripted>,
        draft: &mut Vec<u32>,
    ) -> Result<f64, Error> {
        let (len, start) = (tokens.len(), Instant::now());
        self.fresh.clear();
        let mut done = Ok(());
        for _ in 0..n {
            done = self.next(engine, tokens).map(|drawn| {
                let id = script.map_or(drawn, |s| s.guess(drawn, tokens.len()));
                self.fresh.push(self.sampler.push(id));
                tokens.push(id);
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

    /// The token that the draft model would say next.
    fn next(&mut self, engine: &mut Engine, tokens: &[u32]) -> Result<u32, Error> {
        let from = tokens.len() - self.lag(engine, tokens)?;
        self.steps.clear();
        let step = |i: usize| BatchToken {
            seq: self.seq,
            token: tokens[i],
            logits: i + 1 == tokens.len(),
        };
        self.steps.extend((from..tokens.len()).map(step));
        let pass = engine.forward(&self.steps)?;
        let mut drawn = None;
        engine.draw(pass, slice::from_mut(&mut drawn), |drawn, rows, scratch| {
            *drawn = self.sampler.draw(rows, 0, tokens.len(), scratch);
        })?;
        drawn.ok_or_else(|| engine.not_finite())
    }
}

/// Whether an engine can draft for another; the error says why not.
pub(crate) fn check_draft(draft: &Engine, target: &Engine) -> Result<(), Error> {
    let (ours, theirs) = (draft.ctx(), target.ctx());
    let what = if draft.overflow() != target.overflow() {
        Err("one context slides and the other stops".into())
    } else if ours < theirs {
        Err(format!("it holds {ours} positions, the model {theirs}"))
    } else {
        same_vocabulary(draft, target)
    };
    let path = || draft.model().file().path().to_path_buf();
    what.map_err(|what| Error::Draft { path: path(), what })
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

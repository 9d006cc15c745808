//! Drafting with a small model.

use std::slice;
use std::time::Instant;

use super::script::Scripted;
use crate::sample::Sampler;
use crate::{BatchToken, Engine, Error, Sampling, SeqId};

/// A sequence of the draft model's engine that follows the context of another sequence.
pub(crate) struct DraftSequence {
    seq: SeqId,
    sampler: Sampler,
    batch: Vec<BatchToken>,
    fresh: Vec<bool>, // per drafted token, whether it was new to the context
}

impl DraftSequence {
    /// For contexts of up to `capacity` tokens.
    pub(crate) fn open(engine: &mut Engine, capacity: usize) -> Result<Self, Error> {
        let (seq, vocab) = (engine.open()?, engine.model().config().vocab_size as usize);
        Ok(Self {
            seq,
            sampler: Sampler::new(vocab, capacity + super::governor::MAX_DRAFT),
            batch: Vec::with_capacity(engine.max_batch()),
            fresh: Vec::with_capacity(super::governor::MAX_DRAFT),
        })
    }

    pub(crate) fn close(self, engine: &mut Engine) -> Result<(), Error> {
        engine.close(self.seq)
    }

    /// Whether the sequence is open in this engine.
    pub(crate) fn is_in(&self, engine: &Engine) -> bool {
        engine.len(self.seq).is_ok()
    }

    /// Begins an answer: sets the sampling parameters, and the context for penalties.
    pub(crate) fn restart(&mut self, sampling: Sampling, tokens: &[u32]) {
        self.sampler.sampling = sampling;
        self.sampler.restart(tokens);
    }

    /// Counts a generated token.
    pub(crate) fn push(&mut self, id: u32) {
        self.sampler.push(id);
    }

    /// Truncates to the first `len` tokens.
    pub(crate) fn truncate(&mut self, engine: &mut Engine, len: usize) -> Result<(), Error> {
        engine.truncate(self.seq, len).map(|_| ())
    }

    pub(crate) fn pin(&mut self, engine: &mut Engine, positions: usize) -> Result<(), Error> {
        engine.pin(self.seq, positions)
    }

    /// Number of tokens to process before drafting.
    pub(crate) fn lag(&self, engine: &Engine, tokens: &[u32]) -> Result<usize, Error> {
        Ok(tokens.len() - engine.len(self.seq)?.min(tokens.len()))
    }

    /// Processes all but the last token if the sequence lags by more than two; not part of a draft's
    /// cost.
    pub(crate) fn catch_up(&mut self, engine: &mut Engine, tokens: &[u32]) -> Result<(), Error> {
        loop {
            let lag = self.lag(engine, tokens)?;
            if lag <= 2 {
                return Ok(());
            }
            let from = tokens.len() - lag;
            let n = (lag - 1).min(engine.max_batch());
            self.batch.clear();
            let item = |&token| BatchToken { seq: self.seq, token, logits: false };
            self.batch.extend(tokens[from..from + n].iter().map(item));
            engine.forward(&self.batch)?;
        }
    }

    /// Drafts `n` tokens with the same random numbers as the answer, so that similar models draw the same
    /// tokens. Returns the time taken, in seconds.
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
        for i in 0..n {
            // Drafted tokens can be rejected; those before them are part of the context.
            done = engine.pin_state(self.seq, i > 0);
            if done.is_err() {
                break;
            }
            done = self.next(engine, tokens).map(|drawn| {
                let id = script.map_or(drawn, |s| s.draft_token(drawn, tokens.len()));
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

    /// Draws the draft model's next token.
    fn next(&mut self, engine: &mut Engine, tokens: &[u32]) -> Result<u32, Error> {
        let from = tokens.len() - self.lag(engine, tokens)?;
        self.batch.clear();
        let item = |i: usize| BatchToken {
            seq: self.seq,
            token: tokens[i],
            logits: i + 1 == tokens.len(),
        };
        self.batch.extend((from..tokens.len()).map(item));
        let pass = engine.forward(&self.batch)?;
        let mut drawn = None;
        engine.draw(pass, slice::from_mut(&mut drawn), |drawn, rows, scratch| {
            *drawn = self.sampler.draw(rows, 0, tokens.len(), scratch);
        })?;
        drawn.ok_or_else(|| engine.not_finite())
    }
}

/// Checks that one engine can draft for another.
pub(crate) fn check_draft(draft: &Engine, target: &Engine) -> Result<(), Error> {
    let (ours, theirs) = (draft.ctx(), target.ctx());
    let what = if draft.overflow() != target.overflow() {
        Err("one context slides and the other does not".into())
    } else if ours < theirs {
        Err(format!("its context has {ours} positions, but the model's has {theirs}"))
    } else {
        same_vocabulary(draft, target)
    };
    let path = || draft.model().name().to_path_buf();
    what.map_err(|what| Error::Draft { path: path(), what })
}

/// Checks that both models assign the same bytes to every token id.
fn same_vocabulary(draft: &Engine, target: &Engine) -> Result<(), String> {
    let (a, b) = (draft.model(), target.model());
    let (n, m) = (a.config().vocab_size, b.config().vocab_size);
    if n != m {
        return Err(format!("its vocabulary has {n} tokens, but the model's has {m}"));
    }
    if let (Some(a), Some(b)) = (a.vocab(), b.vocab()) {
        let differs = (0..n).find(|&id| a.bytes(id) != b.bytes(id));
        if let Some(id) = differs {
            let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
            let (a, b) = (text(a.bytes(id)), text(b.bytes(id)));
            return Err(format!("its token {id} is {a:?}, but the model's is {b:?}"));
        }
    }
    Ok(())
}

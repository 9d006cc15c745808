//! Runs a test on an engine and times it.

use std::time::Instant;

use anyhow::Result;
use nanoinfer_engine::{Engine, EngineOptions, KvType, Model, PassStep, SeqId, Step};

use super::{Kind, Test};

/// An engine with the sequences its tests need.
pub(super) struct Runner {
    pub(super) engine: Engine,
    /// Per depth, the sequences that hold that much context. It is filled once and kept: what
    /// follows it is rolled back after every run.
    contexts: Vec<(usize, Vec<SeqId>)>,
    random: u64,
    steps: Vec<Step>,
}

impl Runner {
    pub(super) fn new(
        model: Model,
        threads: usize,
        kv: Option<KvType>,
        tests: &[Test],
    ) -> Result<Self> {
        let most = |f: fn(&Test) -> usize| tests.iter().map(f).max().unwrap_or(1);
        let batch = most(|t| t.batch);
        let mut depths: Vec<usize> = tests.iter().map(|t| t.depth).collect();
        depths.sort_unstable();
        depths.dedup();
        let options = EngineOptions {
            threads: Some(threads),
            kv,
            ctx: Some(most(|t| t.depth + t.tokens)),
            sequences: batch * depths.len(),
            isa: crate::run::forced_isa()?,
            logits_rows: batch,
            ..EngineOptions::default()
        };
        let mut engine = Engine::new(model, &options)?;
        let mut contexts = Vec::new();
        for depth in depths {
            let sequences = (0..batch).map(|_| engine.open()).collect::<Result<_, _>>()?;
            contexts.push((depth, sequences));
        }
        let steps = Vec::with_capacity(engine.max_batch());
        Ok(Self { engine, contexts, random: 0x2545_f491_4f6c_dd1d, steps })
    }

    /// A first run, shortened for decoding: it touches the weights, wakes the threads, and fills
    /// the context.
    pub(super) fn warm_up(&mut self, test: &Test) -> Result<f64> {
        match test.kind {
            Kind::Prefill => self.run(test),
            Kind::Decode => self.run(&Test { tokens: 1, ..*test }),
        }
    }

    /// Runs a test; returns its seconds.
    pub(super) fn run(&mut self, test: &Test) -> Result<f64> {
        let sequences = self.context(test)?;
        let start = Instant::now();
        match test.kind {
            Kind::Prefill => self.prefill(sequences[0], test.tokens)?,
            Kind::Decode => self.decode(&sequences, test.tokens)?,
        }
        let seconds = start.elapsed().as_secs_f64();
        for &seq in &sequences {
            self.engine.truncate(seq, test.depth);
        }
        Ok(seconds)
    }

    /// Runs a test once more; returns the milliseconds of each step.
    pub(super) fn profile(&mut self, test: &Test) -> Result<Vec<(&'static str, f64)>> {
        self.context(test)?;
        self.engine.set_profiling(true);
        self.run(test)?;
        let profile = self.engine.profile();
        let ms = |step: PassStep| 1e3 * profile.time(step).as_secs_f64();
        let steps = PassStep::ALL.iter().map(|&step| (step.name(), ms(step))).collect();
        self.engine.set_profiling(false);
        Ok(steps)
    }

    /// The sequences of a test, filled to its depth.
    fn context(&mut self, test: &Test) -> Result<Vec<SeqId>> {
        let context = self.contexts.iter().find(|(depth, _)| *depth == test.depth);
        let sequences: Vec<SeqId> =
            context.map_or(&[][..], |(_, s)| s).iter().copied().take(test.batch).collect();
        for &seq in &sequences {
            self.prefill(seq, test.depth - self.engine.len(seq))?;
        }
        Ok(sequences)
    }

    /// Random tokens at the end of a sequence; the logits after the last one.
    fn prefill(&mut self, seq: SeqId, n: usize) -> Result<()> {
        let chunk = self.engine.max_batch();
        for from in (0..n).step_by(chunk) {
            let to = n.min(from + chunk);
            self.steps.clear();
            for i in from..to {
                let token = self.token();
                self.steps.push(Step { seq, token, logits: i + 1 == n });
            }
            self.engine.forward(&self.steps)?;
        }
        if n > 0 {
            self.engine.logits(0)?;
        }
        Ok(())
    }

    /// `n` random tokens for every sequence, one pass after the other, with all logits.
    fn decode(&mut self, sequences: &[SeqId], n: usize) -> Result<()> {
        for _ in 0..n {
            self.steps.clear();
            for &seq in sequences {
                let token = self.token();
                self.steps.push(Step { seq, token, logits: true });
            }
            self.engine.forward(&self.steps)?;
            self.engine.logits(sequences.len() - 1)?;
        }
        Ok(())
    }

    fn token(&mut self) -> u32 {
        self.random ^= self.random << 13;
        self.random ^= self.random >> 7;
        self.random ^= self.random << 17;
        (self.random >> 32) as u32 % self.engine.model().config().vocab_size
    }
}

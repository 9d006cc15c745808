//! Runs and times tests on an engine.

use std::sync::Arc;
use std::time::Instant;

use anyhow::{Context, Result};
use nanoinfer_engine::bench::{Script, set_script};
use nanoinfer_engine::{
    BatchToken, Drafting, Engine, EngineOptions, GenerateOptions, KvType, Model, SeqId, Session,
    Stage, Stats,
};

use super::kinds::{Kind, Test};
use crate::model::forced_isa;

/// An engine with the sequences that its tests need.
pub(super) struct Runner {
    pub(super) engine: Engine,
    /// Sequences for each depth, prefilled once. Each run is rolled back to its depth.
    contexts: Vec<(usize, Vec<SeqId>)>,
    random: u64,
    steps: Vec<BatchToken>,
    /// For copy tests, with a separate engine.
    copier: Option<Session>,
    /// Tokens per draft; the governor decides if `None`.
    draft_length: Option<usize>,
}

impl Runner {
    pub(super) fn new(
        model: Arc<Model>,
        threads: usize,
        kv: Option<KvType>,
        tests: &[Test],
    ) -> Result<Self> {
        let max = |f: fn(&Test) -> usize| tests.iter().map(f).max().unwrap_or(1);
        let batch = max(|t| t.batch);
        let mut depths: Vec<usize> = tests.iter().map(|t| t.depth).collect();
        depths.sort_unstable();
        depths.dedup();
        let options = EngineOptions {
            threads: Some(threads),
            kv,
            ctx: Some(max(|t| t.depth + t.tokens)),
            sequences: batch * depths.len(),
            isa: forced_isa()?,
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
        Ok(Self {
            engine,
            contexts,
            random: 0x2545_f491_4f6c_dd1d,
            steps,
            copier: None,
            draft_length: None,
        })
    }

    /// Prepares for copy tests of up to `tokens` tokens.
    pub(super) fn enable_copies(
        &mut self,
        model: Arc<Model>,
        tokens: usize,
        draft_length: Option<usize>,
    ) -> Result<()> {
        self.draft_length = draft_length;
        let options = EngineOptions {
            threads: Some(self.engine.threads()),
            kv: Some(self.engine.kv()),
            ctx: Some(2 * tokens),
            isa: forced_isa()?,
            ..EngineOptions::default()
        };
        self.copier = Some(Session::new(Engine::new(model, &options)?)?);
        Ok(())
    }

    /// Statistics of the last copy test.
    pub(super) fn copy_stats(&self) -> Option<Stats> {
        self.copier.as_ref().map(Session::stats)
    }

    /// A first run, shortened for decode, which touches the weights, wakes the threads and fills the
    /// context.
    pub(super) fn warm_up(&mut self, test: &Test) -> Result<f64> {
        match test.kind {
            Kind::Prefill | Kind::Copy => self.run(test),
            Kind::Decode => self.run(&Test { tokens: 1, ..*test }),
        }
    }

    /// Runs a test; returns its time in seconds.
    pub(super) fn run(&mut self, test: &Test) -> Result<f64> {
        let sequences = self.context(test)?;
        let start = Instant::now();
        match test.kind {
            Kind::Prefill => self.prefill(sequences[0], test.tokens)?,
            Kind::Decode => self.decode(&sequences, test.tokens)?,
            Kind::Copy => return self.copy_prompt(test.tokens),
        }
        let seconds = start.elapsed().as_secs_f64();
        for &seq in &sequences {
            self.engine.truncate(seq, test.depth)?;
        }
        Ok(seconds)
    }

    /// Runs a test with profiling; returns milliseconds per step that the model has.
    pub(super) fn profile(&mut self, test: &Test) -> Result<Vec<(&'static str, f64)>> {
        self.context(test)?;
        self.engine.set_profiling(true);
        self.run(test)?;
        let profile = self.engine.profile();
        let ms = |step: Stage| 1e3 * profile.time(step).as_secs_f64();
        let steps = Stage::ALL.iter().map(|&step| (step.name(), ms(step)));
        let steps = steps.filter(|(_, ms)| *ms > 0.0).collect();
        self.engine.set_profiling(false);
        Ok(steps)
    }

    /// The sequences of a test, filled to its depth.
    fn context(&mut self, test: &Test) -> Result<Vec<SeqId>> {
        let context = self.contexts.iter().find(|(depth, _)| *depth == test.depth);
        let sequences: Vec<SeqId> =
            context.map_or(&[][..], |(_, s)| s).iter().copied().take(test.batch).collect();
        for &seq in &sequences {
            self.prefill(seq, test.depth - self.engine.len(seq)?)?;
        }
        Ok(sequences)
    }

    /// Appends random tokens to a sequence and reads the logits of the last token.
    fn prefill(&mut self, seq: SeqId, n: usize) -> Result<()> {
        let (chunk, mut last) = (self.engine.max_batch(), None);
        for from in (0..n).step_by(chunk) {
            let to = n.min(from + chunk);
            self.steps.clear();
            for i in from..to {
                let token = self.random_token();
                self.steps.push(BatchToken { seq, token, logits: i + 1 == n });
            }
            last = Some(self.engine.forward(&self.steps)?);
        }
        if let Some(pass) = last {
            self.engine.logits(pass, 0)?;
        }
        Ok(())
    }

    /// Answers a prompt, the same in every run, with a scripted copy of the prompt. Returns the time of
    /// `n` tokens in seconds, at the decode speed after the first token.
    fn copy_prompt(&mut self, n: usize) -> Result<f64> {
        let vocab = self.engine.model().config().vocab_size;
        let tokens: Vec<u32> =
            (1..=n as u32).map(|i| i.wrapping_mul(0x9e37_79b1) % vocab).collect();
        let copier = self.copier.as_mut().context("copy tests are not enabled")?;
        copier.prompt_tokens(&tokens)?;
        set_script(copier, Some(Script { tokens, ..Script::default() }));
        let options = GenerateOptions {
            max_tokens: Some(n),
            ignore_eos: true,
            drafting: Drafting { fixed: self.draft_length, ..Drafting::default() },
            ..GenerateOptions::default()
        };
        copier.start(options)?;
        while copier.next()?.is_some() {}
        Ok(n as f64 / copier.stats().decode_tps())
    }

    /// Appends `n` random tokens to every sequence, one pass per token, with logits.
    fn decode(&mut self, sequences: &[SeqId], n: usize) -> Result<()> {
        for _ in 0..n {
            self.steps.clear();
            for &seq in sequences {
                let token = self.random_token();
                self.steps.push(BatchToken { seq, token, logits: true });
            }
            let pass = self.engine.forward(&self.steps)?;
            self.engine.logits(pass, sequences.len() - 1)?;
        }
        Ok(())
    }

    fn random_token(&mut self) -> u32 {
        self.random ^= self.random << 13;
        self.random ^= self.random >> 7;
        self.random ^= self.random << 17;
        (self.random >> 32) as u32 % self.engine.model().config().vocab_size
    }
}

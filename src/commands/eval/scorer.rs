//! Logits at selected positions.

use anyhow::Result;
use nanoinfer_engine::{BatchToken, Engine, EngineOptions, Model, PassId, SeqId};

use crate::args::Eval;
use crate::model::forced_isa;

/// Maximum bytes of logits per pass: more rows would lengthen a pass without raising throughput.
const MAX_LOGITS_BYTES: usize = 64 << 20;

/// An engine with one sequence.
pub(super) struct Scorer {
    pub(super) engine: Engine,
    seq: SeqId,
    /// The tokens in the sequence.
    cached: Vec<u32>,
    /// Logits of the last call: `[positions][vocabulary]`.
    rows: Vec<f32>,
}

impl Scorer {
    /// `own_kv` applies `--kv`. A reference model keeps its default cache type, which matches the
    /// precision of its weights.
    pub(super) fn new(model: Model, args: &Eval, own_kv: bool, ctx: Option<usize>) -> Result<Self> {
        let vocab = model.config().vocab_size as usize;
        let options = EngineOptions {
            threads: args.threads.map(|n| n as usize),
            kv: args.kv.filter(|_| own_kv).map(Into::into),
            ctx,
            isa: forced_isa()?,
            logits_rows: (MAX_LOGITS_BYTES / (4 * vocab)).max(16),
            ..EngineOptions::default()
        };
        let mut engine = Engine::new(model, &options)?;
        let seq = engine.open()?;
        Ok(Self { seq, cached: Vec::with_capacity(engine.ctx()), rows: Vec::new(), engine })
    }

    /// Rolls back to the first `len` tokens.
    pub(super) fn truncate(&mut self, len: usize) -> Result<()> {
        self.engine.truncate(self.seq, len)?;
        self.cached.truncate(len);
        Ok(())
    }

    /// The tokens in the sequence.
    pub(super) fn cached(&self) -> &[u32] {
        &self.cached
    }

    /// Appends at most `max_logits` tokens; returns the logits after each of them.
    pub(super) fn logits(&mut self, ids: &[u32]) -> Result<&[f32]> {
        let pass = self.pass(ids, true)?;
        self.rows.clear();
        for i in 0..ids.len() {
            self.rows.extend_from_slice(self.engine.logits(pass, i)?);
        }
        Ok(&self.rows)
    }

    /// Appends tokens without computing their logits.
    pub(super) fn skip(&mut self, ids: &[u32]) -> Result<()> {
        ids.chunks(self.engine.max_batch()).try_for_each(|ids| self.pass(ids, false).map(|_| ()))
    }

    fn pass(&mut self, ids: &[u32], logits: bool) -> Result<PassId> {
        let seq = self.seq;
        let steps: Vec<BatchToken> =
            ids.iter().map(|&token| BatchToken { seq, token, logits }).collect();
        let pass = self.engine.forward(&steps)?;
        self.cached.extend_from_slice(ids);
        Ok(pass)
    }
}

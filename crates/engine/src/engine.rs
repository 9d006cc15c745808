//! The engine: one model, its threads, its cache, and the call that moves sequences forward.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use nanoinfer_format::{Config, LANES, Quant};
use nanoinfer_kernels::{BLOCK, Isa, Kernels, SPAN};

use crate::batch::{self, Run, Slot};
use crate::buffers::Buffers;
use crate::cache::{Cache, KvType, Overflow, Plan, SeqId};
use crate::limits::{MAX_SPLIT, MAX_TOKENS};
use crate::pass::Pass;
use crate::pool::Pool;
use crate::profile::Profile;
use crate::scratch::{InputNeeds, Local, Scratch, ScratchSizes};
use crate::{Error, Model, machine};

/// How to run a model. The default suits one conversation on this machine.
#[derive(Clone, Debug)]
pub struct EngineOptions {
    /// Worker threads; by default the physical cores this process may use.
    pub threads: Option<usize>,
    /// Positions per sequence; by default the model's, at most 4096.
    pub ctx: Option<usize>,
    /// How keys and values are cached; by default as exactly as the model is stored.
    pub kv: Option<KvType>,
    /// What happens when the context is full. Sliding makes `ctx` a multiple of 64, at least 128.
    pub overflow: Overflow,
    /// Sequences that can be open at once.
    pub sequences: usize,
    /// Instruction set; by default the best this CPU has.
    pub isa: Option<Isa>,
    /// Most tokens per pass during prefill, at most 256. Changes speed, never results.
    pub chunk: usize,
    /// Most tokens per pass whose logits can be asked for, at most `chunk`. Each takes memory for
    /// a whole vocabulary, so more than the default pays only where every position is scored.
    pub logits_rows: usize,
}

impl Default for EngineOptions {
    fn default() -> Self {
        Self {
            threads: None,
            ctx: None,
            kv: None,
            overflow: Overflow::Stop,
            sequences: 1,
            isa: None,
            chunk: MAX_TOKENS,
            logits_rows: 16,
        }
    }
}

/// Options with what is not given chosen.
struct Sizes {
    threads: usize,
    /// Positions whose spans attention has room for.
    spans: usize,
    chunk: usize,
    logits_rows: usize,
    plan: Plan,
}

impl Sizes {
    fn of(config: &Config, options: &EngineOptions) -> Self {
        let (overflow, chunk) = (options.overflow, options.chunk.clamp(1, MAX_TOKENS));
        let ctx = options.ctx.unwrap_or((config.context_length as usize).min(4096)).max(1);
        let (ctx, spans) = match overflow {
            Overflow::Stop => (ctx, ctx),
            Overflow::Slide => {
                let ctx = (ctx / BLOCK * BLOCK).max(2 * BLOCK);
                (ctx, ctx + 3 * SPAN) // pinned ones apart, and both ends cut through one
            }
        };
        let kv = options.kv.unwrap_or(match config.quant {
            Quant::Q8 => KvType::Q8,
            Quant::F32 => KvType::F32,
        });
        Self {
            threads: options.threads.unwrap_or_else(machine::default_threads).max(1),
            spans,
            chunk,
            logits_rows: options.logits_rows.clamp(1, chunk),
            plan: Plan { kv, ctx, overflow, chunk, sequences: options.sequences.max(1) },
        }
    }
}

impl Sizes {
    fn scratch<'c>(&self, config: &'c Config, needs: InputNeeds) -> ScratchSizes<'c> {
        let (kv, logits_rows) = (self.plan.kv, self.logits_rows);
        ScratchSizes { config, needs, kv, ctx: self.spans, logits_rows }
    }

    fn bytes(&self, config: &Config, needs: InputNeeds) -> u64 {
        let scratch = self.scratch(config, needs).bytes(self.threads);
        self.plan.bytes(config).and_then(|b| b.checked_add(scratch)).unwrap_or(u64::MAX)
    }
}

/// Bytes of cache and scratch that an engine with these options would reserve, weights not counted,
/// if all matrices have the config's encoding.
pub fn buffer_bytes(config: &Config, options: &EngineOptions) -> u64 {
    Sizes::of(config, options).bytes(config, InputNeeds::uniform(config))
}

/// One token to append to a sequence.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Step {
    /// The sequence.
    pub seq: SeqId,
    /// The token.
    pub token: u32,
    /// Whether the logits after this token are wanted.
    pub logits: bool,
}

/// Cancels the pass an [`Engine`] is in, from any thread.
#[derive(Clone, Debug, Default)]
pub struct Canceller(Arc<AtomicBool>);

impl Canceller {
    /// Makes the running pass, or the next one, end with [`Error::Cancelled`] within a layer.
    pub fn cancel(&self) {
        self.0.store(true, Ordering::Relaxed);
    }

    /// Whether a cancellation is pending.
    pub fn is_cancelled(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }
}

/// A model with everything it needs to run. All memory is reserved here; passes allocate nothing.
pub struct Engine {
    model: Model,
    kernels: Kernels,
    pool: Pool,
    cache: Cache,
    scratch: Scratch,
    locals: Vec<Local>,
    slots: Vec<Slot>,
    runs: Vec<Run>,
    wanted: Vec<usize>,
    ropes: Vec<usize>,
    row: Vec<f32>,
    chunk: usize,
    logits_rows: usize,
    cancel: Canceller,
    processed: u64,
}

impl Engine {
    /// Starts the threads and reserves cache and scratch.
    pub fn new(model: Model, options: &EngineOptions) -> Result<Self, Error> {
        let config = model.config();
        let kernels = match options.isa {
            Some(isa) => Kernels::new(isa).ok_or(Error::Isa { isa: isa.name() })?,
            None => Kernels::best(),
        };
        let sizes = Sizes::of(config, options);
        let needs = InputNeeds::of(model.weights());
        let needed = sizes.bytes(config, needs);
        let scratch = sizes.scratch(config, needs);
        let Sizes { threads, chunk, logits_rows, plan, .. } = sizes;
        let ctx = plan.ctx;
        let available = machine::available_memory().unwrap_or(u64::MAX);
        if needed > available {
            let (needed_mb, available_mb) = (needed >> 20, available >> 20);
            return Err(Error::Memory { ctx, needed_mb, available_mb });
        }
        let pool =
            Pool::new(threads).map_err(|source| Error::Threads { workers: threads, source })?;
        let mut buffers = Buffers::of(&pool);
        Ok(Self {
            kernels,
            cache: Cache::new(&pool, config, &plan),
            scratch: Scratch::new(&mut buffers, &scratch),
            locals: (0..threads).map(|_| Local::new(&mut buffers, &scratch)).collect(),
            slots: Vec::with_capacity(MAX_TOKENS),
            runs: Vec::with_capacity(MAX_SPLIT),
            wanted: Vec::with_capacity(logits_rows),
            ropes: model.weights().rope_rows(config, ctx),
            row: vec![0.0; config.vocab_size as usize],
            chunk,
            logits_rows,
            cancel: Canceller::default(),
            processed: 0,
            pool,
            model,
        })
    }

    /// The model.
    pub fn model(&self) -> &Model {
        &self.model
    }

    /// The instruction set in use.
    pub fn isa(&self) -> Isa {
        self.kernels.isa()
    }

    /// Starts measuring the steps of passes anew, or stops.
    pub fn set_profiling(&mut self, enabled: bool) {
        self.locals[0].profile.enable(enabled);
    }

    /// Time per step since [`Self::set_profiling`], as the calling thread saw it.
    pub fn profile(&self) -> &Profile {
        &self.locals[0].profile
    }

    pub(crate) fn profile_mut(&mut self) -> &mut Profile {
        &mut self.locals[0].profile
    }

    /// Tokens that passes have processed since the start, those of cancelled passes not counted.
    pub fn processed(&self) -> u64 {
        self.processed
    }

    /// Bytes that decoding one token reads, with `cached` positions in the cache: every weight
    /// once, and the keys and values that attention sees.
    pub fn decode_bytes(&self, cached: usize) -> u64 {
        let config = self.model.config();
        let seen = |window: &u32| match *window {
            0 => cached.min(self.ctx()) as u64,
            window => (cached as u64).min(u64::from(window)),
        };
        let positions: u64 = config.windows.iter().map(seen).sum();
        let per_layer = self.kv_bytes_per_position() / u64::from(config.n_layers);
        self.model.weights().pass_bytes(self.model.file()) + positions * per_layer
    }

    pub(crate) fn cache_mut(&mut self) -> &mut Cache {
        &mut self.cache
    }

    pub(crate) fn model_and_cache(&mut self) -> (&Model, &mut Cache) {
        (&self.model, &mut self.cache)
    }

    /// Tells apart engines of one model whose positions have other angles, as where those depend
    /// on the size of the context.
    pub(crate) fn rope_variant(&self) -> u64 {
        let (weights, file) = (self.model.weights(), self.model.file());
        let mut hasher = blake3::Hasher::new();
        for row in &self.ropes {
            for turn in weights.rope_turns(file, *row) {
                hasher.update(&turn.to_le_bytes());
            }
        }
        u64::from_le_bytes(*hasher.finalize().as_bytes().first_chunk().expect("32 bytes"))
    }

    pub(crate) fn kernels(&self) -> Kernels {
        self.kernels
    }

    /// Phases that the workers have begun so far.
    #[cfg(test)]
    pub(crate) fn phases(&self) -> u64 {
        self.pool.phases()
    }

    /// Worker threads.
    pub fn threads(&self) -> usize {
        self.pool.workers()
    }

    /// How keys and values are cached.
    pub fn kv(&self) -> KvType {
        self.cache.kv
    }

    /// Positions that a token can see; where the context does not slide, those a sequence can hold.
    pub fn ctx(&self) -> usize {
        self.cache.ctx()
    }

    /// Most tokens per [`Self::forward`].
    pub fn max_batch(&self) -> usize {
        self.chunk
    }

    /// Most tokens per [`Self::forward`] whose logits can be asked for.
    pub fn max_logits(&self) -> usize {
        self.logits_rows
    }

    /// Bytes of cache per position of a sequence: what attention reads of it in one pass.
    pub fn kv_bytes_per_position(&self) -> u64 {
        self.cache.kv.bytes_per_position(self.model.config())
    }

    /// A handle that cancels passes.
    pub fn canceller(&self) -> Canceller {
        self.cancel.clone()
    }

    /// Forgets a pending cancellation.
    pub fn clear_cancel(&self) {
        self.cancel.0.store(false, Ordering::Relaxed);
    }

    /// Opens an empty sequence.
    pub fn open(&mut self) -> Result<SeqId, Error> {
        self.cache.open()
    }

    /// Closes a sequence and frees its blocks.
    pub fn close(&mut self, seq: SeqId) {
        self.cache.close(seq);
    }

    /// Opens a sequence with all that another holds. Blocks of the cache are shared until one of
    /// them writes.
    pub fn fork(&mut self, seq: SeqId) -> Result<SeqId, Error> {
        self.cache.fork(seq)
    }

    /// Cached positions of a sequence, those that have slid out of sight included.
    pub fn len(&self, seq: SeqId) -> usize {
        self.cache.len(seq)
    }

    /// Cached positions that have slid out of sight.
    pub fn evicted(&self, seq: SeqId) -> usize {
        self.cache.slid(seq, self.len(seq).saturating_sub(1)).evicted
    }

    /// Rolls a sequence back to its first `len` positions, in O(1) for each block that it gives
    /// up. Returns what remains: less than `len` where the context has slid on too far since.
    pub fn truncate(&mut self, seq: SeqId, len: usize) -> usize {
        self.cache.truncate(seq, len)
    }

    /// Lets a sequence, which holds a beginning of `tokens`, share what another sequence has in
    /// common with them, if that is more. Returns the positions that it holds then, so that the
    /// rest of `tokens` can follow.
    pub fn share(&mut self, seq: SeqId, tokens: &[u32]) -> usize {
        self.cache.share(seq, tokens)
    }

    /// Lets the first positions of a sequence stay when the context slides: whole blocks of 64,
    /// one by default, at most half of the context. To be said before it slides.
    pub fn pin(&mut self, seq: SeqId, positions: usize) {
        self.cache.pin(seq, positions);
    }

    /// What happens when the context is full.
    pub fn overflow(&self) -> Overflow {
        self.cache.overflow()
    }

    /// Appends a batch of tokens to their sequences, any mix of prefill and decode, at most
    /// [`Self::max_batch`] of which at most [`Self::max_logits`] want logits. On error, sequences are as before.
    pub fn forward(&mut self, batch: &[Step]) -> Result<(), Error> {
        let vocab = self.model.config().vocab_size;
        if let Some(step) = batch.iter().find(|s| s.token >= vocab) {
            return Err(Error::Token { token: step.token, vocab });
        }
        assert!(batch.len() <= self.chunk, "at most {} tokens per pass", self.chunk);
        self.slots.clear();
        self.wanted.clear();
        for (row, step) in batch.iter().enumerate() {
            let before = batch[..row].iter().filter(|s| s.seq == step.seq).count();
            let position = self.cache.len(step.seq) + before;
            self.cache.reserve(step.seq, before + 1)?;
            let slid = self.cache.slid(step.seq, position);
            self.slots.push(Slot { token: step.token, position, seq: step.seq, slid });
            if step.logits {
                self.wanted.push(row);
            }
        }
        let most = self.logits_rows;
        assert!(self.wanted.len() <= most, "at most {most} rows of logits per pass");
        if batch.is_empty() {
            return Ok(());
        }
        if self.pass() {
            return Err(Error::Cancelled);
        }
        for step in batch {
            self.cache.advance(step.seq, step.token);
        }
        self.processed += batch.len() as u64;
        Ok(())
    }

    /// Runs the batch in `slots`; returns whether it was cancelled.
    fn pass(&mut self) -> bool {
        batch::divide(&self.slots, &mut self.runs);
        let pass = Pass {
            file: self.model.file(),
            config: self.model.config(),
            weights: self.model.weights(),
            kernels: &self.kernels,
            scratch: &self.scratch,
            cache: &self.cache,
            slots: &self.slots,
            runs: &self.runs,
            slid: self.slots.iter().any(|slot| slot.slid.evicted > 0),
            wanted: &self.wanted,
            ropes: &self.ropes,
            workers: self.pool.workers(),
            cancelled: &|| self.cancel.is_cancelled(),
        };
        self.pool.run(&mut self.locals, |w, local| local.cancelled = pass.run(w, local));
        self.locals[0].cancelled
    }

    /// The logits after the `index`-th wanted token of the last pass, `vocab_size` values.
    ///
    /// # Panics
    /// If fewer logits were wanted.
    pub fn logits(&mut self, index: usize) -> Result<&mut [f32], Error> {
        let rows = self.wanted.len();
        assert!(index < rows, "logits {index} of {rows}");
        let panels = self.scratch.logits.get_mut().chunks_exact(rows * LANES);
        for (to, panel) in self.row.chunks_mut(LANES).zip(panels) {
            to.copy_from_slice(&panel[index * LANES..][..to.len()]);
        }
        if self.row.iter().any(|x| !x.is_finite()) {
            return Err(Error::NotFinite { path: self.model.file().path().to_path_buf() });
        }
        Ok(&mut self.row)
    }

    /// What the last [`Self::logits`] lent, as it was left.
    pub(crate) fn last_logits(&self) -> &[f32] {
        &self.row
    }
}

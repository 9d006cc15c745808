//! The engine: a model, its threads and its cache.
//!
//! ```text
//! options    EngineOptions → sizes of all buffers
//! Engine     new · forward(batch of (sequence, token)) → PassId        this file
//! sequences  open · fork · share · truncate · close
//! logits     rows of the last pass, and tokens drawn from them
//! hidden     hidden states of the last pass, and logits that it did not compute
//! ```

mod hidden;
mod logits;
mod options;
mod sequences;

use std::fmt;
use std::ops::Range;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use nanoinfer_kernels::{Isa, Kernels};

use crate::cancel::Canceller;
use crate::memory::{BlockUse, Cache, KvShape, KvType, Overflow, SeqId, StateRuns};
use crate::pass::{
    InputNeeds, Local, MAX_TOKENS, Observed, Part, Pass, Profile, Scratch, Slot, Units,
};
use crate::pool::{Buffers, Panicked, Pool, Worker};
use crate::{Error, Model, available_memory};
use options::Sizes;
pub use options::{EngineOptions, buffer_bytes};

/// One token to append to a sequence.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BatchToken {
    /// The sequence.
    pub seq: SeqId,
    /// The token.
    pub token: u32,
    /// Whether to compute the logits after this token.
    pub logits: bool,
}

/// Identifies a pass of an [`Engine`]. The logits of a pass can be read until the next one begins. Ids
/// are unique within the process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PassId(u64);

impl PassId {
    fn next() -> Self {
        static SERIALS: AtomicU64 = AtomicU64::new(0);
        Self(SERIALS.fetch_add(1, Ordering::Relaxed))
    }
}

/// A model with everything it needs to run. All memory is reserved up front; passes allocate nothing.
///
/// A panic in a worker thread does not end the process: the call returns [`Error::Panicked`], and so does
/// every later call on this engine, because its buffers are then in an unknown state. Other engines are
/// not affected. This requires `panic = "unwind"`, Rust's default.
pub struct Engine {
    model: Arc<Model>,
    kernels: Kernels,
    pool: Pool,
    cache: Cache,
    scratch: Scratch,
    locals: Vec<Local>,
    slots: Vec<Slot>,
    units: Units,
    states: StateRuns,
    /// Tokens of the pass that request logits, and those whose logits replace them for the moment.
    requested: Vec<usize>,
    portion: Vec<usize>,
    ropes: Vec<usize>,
    row: Vec<f32>,
    chunk: usize,
    logits_rows: usize,
    cancellers: Vec<Canceller>, // for the sequences in the pass
    /// The pass that computed `scratch.logits`.
    pass: Option<PassId>,
    processed: u64,
    /// Bytes of cache and buffers.
    reserved: u64,
}

impl Engine {
    /// Starts the threads and reserves cache and scratch. Several engines can share a model.
    ///
    /// # Errors
    /// This CPU lacks the requested instruction set, `kv_bytes` is too small, there is not enough memory,
    /// or a thread cannot be started.
    pub fn new(model: impl Into<Arc<Model>>, options: &EngineOptions) -> Result<Self, Error> {
        let model = model.into();
        let config = model.config();
        let kernels = match options.isa {
            Some(isa) => Kernels::new(isa).ok_or(Error::Isa { isa: isa.name() })?,
            None => Kernels::best(),
        };
        let needs = InputNeeds::of(model.weights());
        let sizes = Sizes::resolve(config, needs, options);
        let needed = sizes.bytes(config, needs);
        let scratch = sizes.scratch(config, needs);
        let Sizes { threads, chunk, logits_rows, plan, .. } = sizes;
        let ctx = plan.ctx;
        let least = plan.min_bytes(config);
        if let Some(given) = plan.kv_bytes.filter(|bytes| *bytes < least) {
            return Err(Error::KvBytes { given, least });
        }
        let available = available_memory().unwrap_or(u64::MAX);
        if needed > available {
            let (needed_mb, available_mb) = (needed >> 20, available >> 20);
            return Err(Error::Memory { ctx, needed_mb, available_mb });
        }
        let pool =
            Pool::new(threads).map_err(|source| Error::Threads { workers: threads, source })?;
        let mut buffers = Buffers::new(&pool);
        let cache = Cache::new(&pool, config, &plan);
        Ok(Self {
            kernels,
            states: StateRuns::new(&cache, MAX_TOKENS),
            cache,
            scratch: Scratch::new(&mut buffers, &scratch),
            locals: (0..threads).map(|_| Local::new(&mut buffers, &scratch)).collect(),
            slots: Vec::with_capacity(MAX_TOKENS),
            units: Units::new(scratch.attention_rows()),
            requested: Vec::with_capacity(logits_rows),
            portion: Vec::with_capacity(logits_rows),
            ropes: model.weights().rope_rows(config, ctx),
            row: vec![0.0; config.vocab_size as usize],
            chunk,
            logits_rows,
            cancellers: Vec::with_capacity(plan.sequences),
            pass: None,
            processed: 0,
            reserved: needed,
            pool,
            model,
        })
    }

    /// The model.
    pub fn model(&self) -> &Arc<Model> {
        &self.model
    }

    /// Fails if a worker has panicked, which leaves the engine's state undefined.
    fn check(&self) -> Result<(), Error> {
        Ok(self.pool.check()?)
    }

    /// See [`Kernels::at_once`].
    pub(crate) fn at_once(&self) -> usize {
        self.kernels.at_once()
    }

    /// The instruction set in use.
    pub fn isa(&self) -> Isa {
        self.kernels.isa()
    }

    /// Resets the profile and starts or stops profiling.
    pub fn set_profiling(&mut self, enabled: bool) {
        self.locals[0].profile.enable(enabled);
    }

    /// Time per stage since the last [`Self::set_profiling`], measured on the calling thread.
    pub fn profile(&self) -> &Profile {
        &self.locals[0].profile
    }

    pub(crate) fn profile_mut(&mut self) -> &mut Profile {
        &mut self.locals[0].profile
    }

    /// Number of tokens processed since the engine started, excluding cancelled passes.
    pub fn processed(&self) -> u64 {
        self.processed
    }

    /// Bytes of the model's file, the cache and the buffers. Memory that was not used yet is only reserved.
    pub fn memory(&self) -> u64 {
        self.model.file().header().file_len.saturating_add(self.reserved)
    }

    /// Bytes of weights read by a pass over `tokens` tokens. Of experts, those that are expected to be chosen.
    pub fn weight_bytes(&self, tokens: usize) -> u64 {
        let (file, config) = (self.model.file(), self.model.config());
        file.tensors().iter().map(|t| config.read_bytes(t.spec.role, t.len, tokens)).sum()
    }

    /// Bytes read to decode one token in each of `sequences` sequences with `cached` positions in the cache: the
    /// weights once, and each context.
    pub fn decode_bytes(&self, sequences: usize, cached: usize) -> u64 {
        self.weight_bytes(sequences) + sequences as u64 * self.context_bytes(cached)
    }

    /// Bytes read of a context with `cached` positions: the keys and values visible to its next token, and the states
    /// of recurrent layers.
    pub(crate) fn context_bytes(&self, cached: usize) -> u64 {
        let config = self.model.config();
        let seen = |window: &u32| match *window {
            0 => cached.min(self.ctx()) as u64,
            window if config.chunked_windows => cached as u64 % u64::from(window),
            window => (cached as u64).min(u64::from(window)),
        };
        let layers = config.windows.iter().enumerate();
        let attention = layers.filter(|(layer, _)| config.attends(*layer));
        let bytes = |layer| self.cache.kv.bytes_of_layer(KvShape::of(&config.attention_of(layer)));
        let cache: u64 = attention.map(|(layer, window)| seen(window) * bytes(layer)).sum();
        cache + self.cache.states.bytes() as u64
    }

    pub(crate) fn cache(&self) -> &Cache {
        &self.cache
    }

    pub(crate) fn cache_mut(&mut self) -> &mut Cache {
        &mut self.cache
    }

    /// A fingerprint of the RoPE frequencies, which can depend on the context size.
    pub fn rope_variant(&self) -> u64 {
        let (weights, file) = (self.model.weights(), self.model.file());
        let mut hasher = blake3::Hasher::new();
        for row in &self.ropes {
            for turn in weights.rope_turns(file, *row) {
                hasher.update(&turn.to_le_bytes());
            }
        }
        u64::from_le_bytes(*hasher.finalize().as_bytes().first_chunk().expect("32 bytes"))
    }

    /// Number of phases started so far.
    #[cfg(test)]
    pub(crate) fn phases(&self) -> u64 {
        self.pool.phases()
    }

    /// Number of worker threads.
    pub fn threads(&self) -> usize {
        self.pool.workers()
    }

    /// Precision of cached keys and values.
    pub fn kv(&self) -> KvType {
        self.cache.kv
    }

    /// Maximum number of positions visible to a token; also the capacity of a sequence, unless the
    /// context slides.
    pub fn ctx(&self) -> usize {
        self.cache.ctx()
    }

    /// Maximum number of tokens per [`Self::forward`].
    pub fn max_batch(&self) -> usize {
        self.chunk
    }

    /// Maximum number of tokens per [`Self::forward`] that can request logits.
    pub fn max_logits(&self) -> usize {
        self.logits_rows
    }

    /// Maximum number of open sequences.
    pub(crate) fn max_sequences(&self) -> usize {
        self.cache.max_sequences()
    }

    /// Maximum number of blocks that a sequence can hold.
    pub(crate) fn max_blocks(&self) -> usize {
        self.cache.per_sequence()
    }

    /// Cache bytes per position of a sequence; attention reads them once per pass.
    pub fn kv_bytes_per_position(&self) -> u64 {
        self.cache.kv.bytes_per_position(self.model.config())
    }

    /// Number of 64-position blocks in the cache: in total, and not held by any sequence.
    pub fn kv_blocks(&self) -> (usize, usize) {
        (self.cache.n_blocks, self.cache.unused())
    }

    /// Who uses each block of the cache.
    pub fn block_uses(&self) -> impl Iterator<Item = BlockUse> + '_ {
        self.cache.uses()
    }

    /// The policy for a full context.
    pub fn overflow(&self) -> Overflow {
        self.cache.overflow()
    }

    /// Appends a batch of tokens, in any mix of prefill and decode, to their sequences: at most
    /// [`Self::max_batch`] tokens, of which at most [`Self::max_logits`] request logits. Pass the
    /// returned id to [`Self::logits`]; row 0 belongs to the first token that requested logits.
    ///
    /// # Errors
    /// The batch is too large, a token is not in the vocabulary, a sequence is full or not open, the
    /// cache is full, or all sequences of the batch were cancelled. The sequences are then unchanged,
    /// unless a worker panicked.
    pub fn forward(&mut self, batch: &[BatchToken]) -> Result<PassId, Error> {
        self.forward_part(batch, Part::ALL)
    }

    /// Like [`Self::forward`], but runs only some layers, and shows `observer` the inputs of their 8-bit
    /// matrices, in the order of the pass. Of experts, it sees those of gate and up, for all tokens,
    /// whichever experts they have. The observer is called on one of the engine's threads, and the others
    /// wait for it.
    ///
    /// `residual` is the residual stream of the batch, `[d_model/16][tokens][16]`, with `d_model` rounded up
    /// to a multiple of 64: before the first of the layers, unless that is layer 0; afterwards, behind the last
    /// of them, unless that is the model's last layer. Then logits are computed, and the inputs of the
    /// output matrix are shown, for tokens that request it; in passes that end earlier, none may.
    ///
    /// # Errors
    /// As for [`Self::forward`].
    ///
    /// # Panics
    /// If `layers` are not layers of the model, `residual` does not have this size, or a token requests
    /// logits of an inner layer.
    pub fn forward_layers(
        &mut self,
        batch: &[BatchToken],
        layers: Range<usize>,
        residual: &mut [f32],
        observer: &mut (dyn FnMut(&Observed<'_>) + Send),
    ) -> Result<PassId, Error> {
        let config = self.model.config();
        let whole = layers.end == config.n_layers as usize;
        assert!(layers.start < layers.end && layers.end <= config.n_layers as usize);
        assert_eq!(residual.len(), batch.len() * config.d_model_padded());
        assert!(whole || batch.iter().all(|t| !t.logits));
        let observer = Mutex::new(observer);
        let observe = |seen: &Observed<'_>| {
            observer.lock().expect("a panic of the observer ends the pass")(seen);
        };
        let resumed = (layers.start > 0).then_some(&*residual);
        let pass = self.forward_part(batch, Part { layers, resumed, observer: Some(&observe) })?;
        if !whole {
            residual.copy_from_slice(&self.scratch.x.get_mut()[..residual.len()]);
        }
        Ok(pass)
    }

    fn forward_part(&mut self, batch: &[BatchToken], part: Part<'_>) -> Result<PassId, Error> {
        self.check()?;
        self.check_batch(batch)?;
        let prepared = self.prepare(batch).and_then(|()| self.pass(part));
        match prepared {
            Ok(()) => {}
            Err(Error::Panicked { message }) => return Err(Error::Panicked { message }),
            Err(e) => {
                self.cache.drop_states(&mut self.states);
                self.release(batch)?;
                return Err(e);
            }
        }
        for step in batch {
            self.cache.advance(step.seq, step.token);
        }
        self.cache.keep_states(&mut self.states);
        self.processed += batch.len() as u64;
        let pass = PassId::next();
        self.pass = Some(pass);
        Ok(pass)
    }

    fn check_batch(&self, batch: &[BatchToken]) -> Result<(), Error> {
        let vocab = self.model.config().vocab_size;
        if let Some(step) = batch.iter().find(|s| s.token >= vocab) {
            return Err(Error::Token { token: step.token, vocab });
        }
        let (tokens, logits) = (batch.len(), batch.iter().filter(|s| s.logits).count());
        let (max_tokens, max_logits) = (self.chunk, self.logits_rows);
        if tokens > max_tokens || logits > max_logits {
            return Err(Error::Batch { tokens, logits, max_tokens, max_logits });
        }
        Ok(())
    }

    /// Reserves room in the cache and fills the slots of the pass.
    fn prepare(&mut self, batch: &[BatchToken]) -> Result<(), Error> {
        let before = |row: usize| {
            let step = &batch[row];
            batch[..row].iter().filter(|s| s.seq == step.seq).count()
        };
        for (row, step) in batch.iter().enumerate() {
            self.cache.reserve(step.seq, before(row) + 1)?;
        }
        self.cache.begin_states(batch.iter().map(|step| step.seq), &mut self.states)?;
        // Errors above leave the previous pass's logits readable.
        self.pass = None;
        self.slots.clear();
        self.requested.clear();
        self.portion.clear();
        self.cancellers.clear();
        for (row, step) in batch.iter().enumerate() {
            let before = before(row);
            let position = self.cache.len(step.seq)? + before;
            if before == 0 {
                self.cancellers.push(self.cache.canceller(step.seq)?.clone());
            }
            let slid = self.cache.slid(step.seq, position);
            self.slots.push(Slot { token: step.token, position, seq: step.seq, slid });
            if step.logits {
                self.requested.push(row);
            }
        }
        Ok(())
    }

    /// Releases the room reserved for a batch.
    fn release(&mut self, batch: &[BatchToken]) -> Result<(), Error> {
        for step in batch {
            // A sequence that is not open has no reserved room; it may have caused the error.
            if let Ok(len) = self.cache.len(step.seq) {
                self.cache.truncate(step.seq, len)?;
            }
        }
        Ok(())
    }

    /// Runs the batch in `slots`. Fails on cancellation or a panic.
    fn pass(&mut self, part: Part<'_>) -> Result<(), Error> {
        if self.slots.is_empty() {
            return Ok(());
        }
        let config = self.model.config();
        self.scratch.suit_pages(config, self.requested.len());
        let shapes = config.attention_shapes();
        let kv_heads = shapes.map(|shape| shape.n_kv_heads).min().unwrap_or(1);
        self.units.divide(&self.slots, kv_heads, self.pool.workers());
        self.run(part, |pass, w, local| local.cancelled = pass.run(w, local))?;
        if self.locals[0].cancelled { Err(Error::Cancelled) } else { Ok(()) }
    }

    /// Runs a job of the pass in `slots` on all workers, with logits for `portion` if there is one.
    fn run(
        &mut self,
        part: Part<'_>,
        job: impl Fn(&Pass<'_>, &mut Worker<'_>, &mut Local) + Sync,
    ) -> Result<(), Error> {
        let cancellers = &self.cancellers;
        let pass = Pass {
            file: self.model.file(),
            config: self.model.config(),
            weights: self.model.weights(),
            kernels: &self.kernels,
            scratch: &self.scratch,
            cache: &self.cache,
            slots: &self.slots,
            units: &self.units,
            states: &self.states,
            slid: self.slots.iter().any(|slot| slot.slid.evicted > 0),
            requested: if self.portion.is_empty() { &self.requested } else { &self.portion },
            ropes: &self.ropes,
            workers: self.pool.workers(),
            cancelled: &|| cancellers.iter().all(Canceller::is_cancelled),
            part,
        };
        Ok(self.pool.run(&mut self.locals, |w, local| job(&pass, w, local))?)
    }
}

impl fmt::Debug for Engine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Engine")
            .field("model", &self.model)
            .field("isa", &self.isa())
            .field("threads", &self.threads())
            .field("ctx", &self.ctx())
            .field("kv", &self.kv())
            .finish_non_exhaustive()
    }
}

impl From<Panicked> for Error {
    fn from(Panicked { message }: Panicked) -> Self {
        Self::Panicked { message }
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use nanoinfer_format::Quant;
    use nanoinfer_packer::{Input, Options, convert};

    use super::*;

    fn engine() -> Engine {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/data/tiny/llama-gqa");
        let out = tempfile::tempdir().unwrap();
        let file = out.path().join("model.nano");
        convert(&Input::Folder(folder), &file, Options::new(Quant::Q8)).unwrap();
        let options = EngineOptions { threads: Some(2), sequences: 2, ..EngineOptions::default() };
        Engine::new(Model::open(&file).unwrap(), &options).unwrap()
    }

    #[test]
    fn a_worker_panic_is_an_error_and_the_process_continues() {
        let (mut engine, mut other) = (engine(), engine());
        let seq = engine.open().unwrap();
        let step = |seq| [BatchToken { seq, token: 7, logits: true }];
        let pass = engine.forward(&step(seq)).unwrap();
        let scratch = &engine.scratch;
        let fault = engine.pool.run(&mut engine.locals, |w, _| {
            let x = scratch.x.split(w, 64, 16);
            for item in w.items(4) {
                x.take(&item).run().fill(f32::NAN);
                assert!(item.index() != 2, "forced");
            }
        });
        assert!(fault.is_err());
        let refused = |error: Error| {
            let text = error.to_string();
            assert!(text.contains("worker thread panicked: forced"), "{text}");
        };
        refused(engine.forward(&step(seq)).unwrap_err());
        refused(engine.logits(pass, 0).unwrap_err());
        refused(engine.open().unwrap_err());
        refused(engine.fork(seq).unwrap_err());
        refused(engine.len(seq).unwrap_err());
        refused(engine.evicted(seq).unwrap_err());
        refused(engine.truncate(seq, 0).unwrap_err());
        refused(engine.share(seq, &[1, 2]).unwrap_err());
        refused(engine.pin(seq, 64).unwrap_err());
        refused(engine.canceller(seq).unwrap_err());
        refused(engine.close(seq).unwrap_err());
        drop(engine);
        let seq = other.open().unwrap();
        let pass = other.forward(&step(seq)).unwrap();
        assert!(other.logits(pass, 0).unwrap()[0].is_finite());
    }
}

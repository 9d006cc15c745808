//! Options for running a model, and the memory it requires.

use nanoinfer_format::Config;
use nanoinfer_kernels::{BLOCK, Isa, SPAN};

use crate::default_threads;
use crate::memory::{KvType, Overflow, Plan};
use crate::pass::{InputNeeds, MAX_TOKENS, ScratchSizes};

/// Options for running a model. The defaults suit one conversation on this machine.
#[derive(Clone, Debug)]
pub struct EngineOptions {
    /// Number of worker threads; by default, one per physical core available to this process.
    pub threads: Option<usize>,
    /// Positions per sequence; by default, the model's context length, but at most 4096.
    pub ctx: Option<usize>,
    /// Precision of cached keys and values; by default, that of the model's weights.
    pub kv: Option<KvType>,
    /// What happens when the context is full. Sliding rounds `ctx` down to a multiple of 64, but at least
    /// 128.
    pub overflow: Overflow,
    /// Maximum number of sequences open at once.
    pub sequences: usize,
    /// Bytes for keys and values; by default, enough for every sequence to fill its context. With less, a
    /// sequence can hit [`crate::Error::CacheFull`] before its context is full; with more, the cache
    /// retains more of the closed sequences, whose prefixes new sequences can reuse.
    pub kv_bytes: Option<u64>,
    /// Instruction set; by default, the best that this CPU supports.
    pub isa: Option<Isa>,
    /// Maximum number of tokens per pass during prefill, up to 256. Affects speed, never results.
    pub chunk: usize,
    /// Maximum number of tokens per pass that can request logits, up to `chunk`. Each needs memory for a
    /// whole vocabulary, so raising the default is only worthwhile for scoring every position.
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
            kv_bytes: None,
            isa: None,
            chunk: MAX_TOKENS,
            logits_rows: 16,
        }
    }
}

/// Options with defaults resolved.
pub(crate) struct Sizes {
    pub threads: usize,
    /// Positions for which attention has span buffers.
    pub spans: usize,
    pub chunk: usize,
    pub logits_rows: usize,
    pub plan: Plan,
}

impl Sizes {
    pub(crate) fn resolve(config: &Config, needs: InputNeeds, options: &EngineOptions) -> Self {
        let (overflow, chunk) = (options.overflow, options.chunk.clamp(1, MAX_TOKENS));
        let ctx = options.ctx.unwrap_or((config.context_length as usize).min(4096)).max(1);
        let (ctx, spans) = match overflow {
            Overflow::Stop => (ctx, ctx),
            Overflow::Slide => {
                let ctx = (ctx / BLOCK * BLOCK).max(2 * BLOCK);
                (ctx, ctx + 3 * SPAN) // the pinned blocks, and a partial span at each end
            }
        };
        let kv = options.kv.unwrap_or(if needs.int8() { KvType::Q8 } else { KvType::F32 });
        Self {
            threads: options.threads.unwrap_or_else(default_threads).max(1),
            spans,
            chunk,
            logits_rows: options.logits_rows.clamp(1, chunk),
            plan: Plan {
                kv,
                ctx,
                overflow,
                chunk,
                sequences: options.sequences.max(1),
                kv_bytes: options.kv_bytes,
            },
        }
    }

    pub(crate) fn scratch<'c>(&self, config: &'c Config, needs: InputNeeds) -> ScratchSizes<'c> {
        let (kv, logits_rows) = (self.plan.kv, self.logits_rows);
        ScratchSizes { config, needs, kv, ctx: self.spans, logits_rows }
    }

    pub(crate) fn bytes(&self, config: &Config, needs: InputNeeds) -> u64 {
        let scratch = self.scratch(config, needs).bytes(self.threads);
        self.plan.bytes(config).and_then(|b| b.checked_add(scratch)).unwrap_or(u64::MAX)
    }
}

/// Bytes of cache and scratch, excluding weights, that an engine with these options would reserve if all
/// matrices used the config's encoding.
pub fn buffer_bytes(config: &Config, options: &EngineOptions) -> u64 {
    let needs = InputNeeds::uniform(config);
    Sizes::resolve(config, needs, options).bytes(config, needs)
}

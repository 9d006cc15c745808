//! Stored prompts: their keys and values on disk, or baked into a model file.
//!
//! ```text
//! header 96 │ tokens │ text │ hash of each block │ hash of all before │ blocks of 64 positions
//! ```
//!
//! In models with recurrent layers, the state behind a block may follow it, and an entry is used up to the last
//! state that is in a prompt.
//!
//! Keys, values and states are bit-identical wherever they are computed, so stored ones can replace the
//! computation if the model, [`NUMERICS`], cache type, RoPE and tokens match. `docs/FORMAT.md` specifies
//! the layout. This file reads, writes and bakes entries; `store` is a folder of them, which `disk` and its
//! `threads` use without delaying passes.

mod disk;
mod store;
mod threads;

use std::io::{self, Read, Write};
use std::path::Path;
use std::sync::Arc;

pub(crate) use disk::Disk;
pub use store::PrefixStore;

use nanoinfer_format::{LANES, pad};
use nanoinfer_kernels::BLOCK;

use crate::memory::{Cache, HEADER, IDENTITY, MAGIC, Prefix};
use crate::{
    BatchToken, Engine, EngineOptions, Error, KvType, Message, Model, NUMERICS, Namespace, SeqId,
};

const DAMAGED: &str = "has a damaged header";

/// What the entries of an engine have in common.
#[derive(Clone, Copy)]
struct Kind {
    /// The beginning of the header.
    identity: [u8; IDENTITY],
    /// Bytes of the keys and values of a block.
    block: usize,
    /// Bytes of a state; 0 without recurrent layers.
    state: usize,
}

impl Kind {
    fn of(engine: &Engine) -> Self {
        let cache = engine.cache();
        let (block, state) = (cache.block_bytes(), cache.states.bytes());
        Self { identity: identity(engine), block, state }
    }
}

fn identity(engine: &Engine) -> [u8; IDENTITY] {
    let config = engine.model().config();
    let mut out = [0; IDENTITY];
    let mut put = |at: usize, bytes: &[u8]| out[at..at + bytes.len()].copy_from_slice(bytes);
    put(0, &MAGIC);
    put(8, &1u32.to_le_bytes());
    put(12, &NUMERICS.to_le_bytes());
    put(16, &engine.model().file().header().content_id);
    let kv = match engine.kv() {
        KvType::Q8 => 0u32,
        KvType::F16 => 1,
        KvType::F32 => 2,
        KvType::Q4 => 3,
    };
    put(48, &kv.to_le_bytes());
    put(52, &config.n_layers.to_le_bytes());
    put(56, &config.n_kv_heads.to_le_bytes());
    put(60, &(pad(config.head_dim as usize, LANES) as u32).to_le_bytes());
    put(64, &engine.rope_variant().to_le_bytes());
    out
}

/// Why an engine cannot use an entry.
fn mismatch(entry: &[u8; IDENTITY], engine: &[u8; IDENTITY]) -> Option<&'static str> {
    let parts = [
        (0..12, "is not a stored prompt of this version"),
        (12..16, "was computed by an engine with different numerics"),
        (16..48, "belongs to another model"),
        (48..64, "has a different cache type"),
        (64..72, "was computed with different RoPE frequencies"),
    ];
    parts.into_iter().find(|(range, _)| entry[range.clone()] != engine[range.clone()]).map(|p| p.1)
}

impl Prefix {
    /// Checks that an engine can use the entry, and that nothing before its blocks is damaged.
    fn check(&self, engine: &Kind) -> Result<(), String> {
        if let Some(what) = mismatch(&self.identity, &engine.identity) {
            return Err(what.into());
        }
        if !self.is_whole() || self.state_bytes != engine.state as u64 {
            return Err(DAMAGED.into());
        }
        Ok(())
    }

    /// Whether nothing before its blocks is damaged.
    fn is_whole(&self) -> bool {
        blake3::hash(&self.head.0) == self.head.1
    }

    /// Reads block `index` from where the previous one ends, given the bytes of keys and values.
    fn read_block(
        &self,
        (index, block): (usize, usize),
        from: &mut impl Read,
        bytes: &mut Vec<u8>,
    ) -> Result<(), String> {
        bytes.resize(self.block_bytes(index, block), 0);
        from.read_exact(bytes).map_err(|e| format!("cannot be read: {e}"))?;
        if self.hashes.get(index).is_none_or(|hash| blake3::hash(bytes) != *hash) {
            let first = index * BLOCK;
            return Err(format!("is damaged at positions {first} to {}", first + BLOCK - 1));
        }
        Ok(())
    }

    /// Loads the first `n` positions, see [`Self::common`], into a sequence. `from` continues where
    /// [`Self::read`] stopped. On error, the sequence is empty.
    fn load(
        &self,
        cache: &mut Cache,
        engine: &Kind,
        (seq, n): (SeqId, usize),
        from: &mut impl Read,
    ) -> Result<(), String> {
        self.check(engine)?;
        let clear = |cache: &mut Cache| cache.truncate(seq, 0).map_err(|e| e.to_string());
        clear(cache)?;
        let loaded = self.load_blocks(cache, seq, n, from);
        if loaded.is_err() {
            clear(cache)?;
        }
        loaded
    }

    fn load_blocks(
        &self,
        cache: &mut Cache,
        seq: SeqId,
        n: usize,
        from: &mut impl Read,
    ) -> Result<(), String> {
        cache.reserve(seq, n).map_err(|e| e.to_string())?;
        let (mut bytes, block) = (Vec::new(), cache.block_bytes());
        for (index, tokens) in self.tokens[..n].chunks(BLOCK).enumerate() {
            self.read_block((index, block), from, &mut bytes)?;
            cache.load_block(seq, tokens, &bytes).map_err(|e| e.to_string())?;
        }
        Ok(())
    }
}

/// Everything in an entry before its blocks, given the hash of each block and whether a state follows it.
fn head(
    engine: &Kind,
    (namespace, tokens): (Namespace, &[u32]),
    text: &str,
    blocks: &[(blake3::Hash, bool)],
) -> Vec<u8> {
    let mut head = engine.identity.to_vec();
    head.extend((tokens.len() as u32).to_le_bytes());
    head.extend((text.len() as u32).to_le_bytes());
    head.extend(namespace.0.to_le_bytes());
    head.extend((engine.state as u64).to_le_bytes());
    debug_assert_eq!(head.len(), HEADER);
    head.extend(tokens.iter().flat_map(|t| t.to_le_bytes()));
    head.extend(text.as_bytes());
    if engine.state > 0 {
        head.extend(blocks.iter().map(|(_, has_state)| u8::from(*has_state)));
    }
    blocks.iter().for_each(|(hash, _)| head.extend(hash.as_bytes()));
    let hash = blake3::hash(&head);
    head.extend(hash.as_bytes());
    head
}

/// Writes the first positions of a sequence, `tokens`, with the text from which they were tokenized. In models
/// with recurrent layers, its state must cover as many.
fn write(
    cache: &mut Cache,
    engine: &Kind,
    (seq, tokens): (SeqId, &[u32]),
    text: &str,
    out: &mut impl Write,
) -> io::Result<()> {
    let namespace = cache.namespace(seq).map_err(io::Error::other)?;
    let (n, mut bytes) = (tokens.len(), Vec::new());
    let mut block = |index: usize, bytes: &mut Vec<u8>| {
        bytes.clear();
        cache.save_block(seq, (index, n), bytes);
    };
    let described = (0..n.div_ceil(BLOCK)).map(|index| {
        block(index, &mut bytes);
        (blake3::hash(&bytes), bytes.len() > engine.block)
    });
    let described: Vec<_> = described.collect();
    out.write_all(&head(engine, (namespace, tokens), text, &described))?;
    for index in 0..described.len() {
        block(index, &mut bytes);
        out.write_all(&bytes)?;
    }
    Ok(())
}

/// Runs a system prompt through a model file and returns the content of the `baked prompt` section. For a
/// model without a chat template, the text is a prefix of plain prompts.
///
/// # Errors
/// The model cannot be run, or the text does not fit into its context.
pub fn bake(path: &Path, text: &str) -> Result<Vec<u8>, Error> {
    let model = Model::open(path)?;
    let tokens = if model.can_chat() {
        model.before_conversation(&[Message::new("system", text)])?
    } else {
        model.encode(text)?
    };
    let ctx = model.config().context_length as usize;
    if tokens.is_empty() {
        return Err(Error::EmptyPrompt);
    }
    if tokens.len() >= ctx {
        return Err(Error::Context { tokens: tokens.len(), ctx });
    }
    // The default context of an engine, because RoPE can depend on it.
    let ctx = tokens.len().max(ctx.min(4096));
    let options = EngineOptions { ctx: Some(ctx), ..EngineOptions::default() };
    let mut engine = Engine::new(model, &options)?;
    let seq = engine.open()?;
    // The last token alone, so that the state covers it.
    let (last, others) = tokens.split_last().expect("not empty");
    for chunk in others.chunks(engine.max_batch()).chain([std::slice::from_ref(last)]) {
        let item = |&token| BatchToken { seq, token, logits: false };
        engine.forward(&chunk.iter().map(item).collect::<Vec<_>>())?;
    }
    let (kind, mut out) = (Kind::of(&engine), Vec::new());
    write(engine.cache_mut(), &kind, (seq, &tokens), text, &mut out)
        .expect("writing to memory succeeds");
    Ok(out)
}

/// Loads the prompt baked into the model file if it shares a longer prefix with `tokens` than the
/// sequence holds. The error is a note for the user.
pub(crate) fn use_baked(engine: &mut Engine, seq: SeqId, tokens: &[u32]) -> Result<(), String> {
    let model = Arc::clone(engine.model());
    let Some((prefix, mut blocks)) = model.baked() else { return Ok(()) };
    let held = engine.len(seq).map_err(|e| e.to_string())?;
    let n = prefix.common(&tokens[..tokens.len().min(engine.ctx())]);
    if n <= held {
        return Ok(());
    }
    let kind = Kind::of(engine);
    // Its blocks are everybody's.
    let cache = engine.cache_mut();
    let own = cache.set_namespace(seq, Namespace::COMMON).map_err(|e| e.to_string())?;
    let loaded = prefix.load(cache, &kind, (seq, n), &mut blocks);
    cache.set_namespace(seq, own).map_err(|e| e.to_string())?;
    loaded.map_err(|what| {
        // The attempt cleared the sequence, but its content may still be in the cache.
        let shared = engine.share(seq, tokens).err().map_or(String::new(), |e| format!(" ({e})"));
        format!("the prompt baked into the model file {what}; it is recomputed{shared}")
    })
}

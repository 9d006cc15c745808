//! The cache of a prompt as bytes: kept on disk, or baked into a model.
//!
//! ```text
//! header 96 │ tokens │ text │ hash of each block │ hash of all before │ blocks of 64 positions
//! ```
//!
//! Keys and values are the same bits wherever they are computed, so those that were stored can take
//! the place of a computation if they are of the same model, [`NUMERICS`], cache type, RoPE and
//! tokens. `docs/FORMAT.md` gives the layout.

mod store;

use std::io::{self, Read, Write};
use std::path::Path;

pub use store::PrefixStore;

use nanoinfer_format::SectionKind;
use nanoinfer_kernels::BLOCK;

use crate::cache::Cache;
use crate::{Engine, EngineOptions, Error, KvType, Message, Model, NUMERICS, SeqId, Step};

const MAGIC: [u8; 8] = *b"NANOKV\0\x01";
const HEADER: usize = 96;
/// Bytes of the header that must be the same to be of use: all before the counts.
const IDENTITY: usize = 72;
/// Tokens that an entry can have; no context is longer.
const MAX_TOKENS: usize = 1 << 24;
const MAX_TEXT: usize = 1 << 26;

/// What the bytes say they are.
#[derive(Debug)]
pub(crate) struct Prefix {
    identity: [u8; IDENTITY],
    tokens: Vec<u32>,
    text: String,
    hashes: Vec<[u8; 32]>,
    /// What was read of it, its own hash not included, and that hash.
    head: (Vec<u8>, [u8; 32]),
}

/// The bytes that stored keys and values of an engine begin with.
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
    };
    put(48, &kv.to_le_bytes());
    put(52, &config.n_layers.to_le_bytes());
    put(56, &config.n_kv_heads.to_le_bytes());
    put(60, &(config.head_padded() as u32).to_le_bytes());
    put(64, &engine.rope_variant().to_le_bytes());
    out
}

/// Why an entry is of no use to an engine.
fn differs(entry: &[u8; IDENTITY], engine: &[u8; IDENTITY]) -> Option<&'static str> {
    let parts = [
        (0..12, "is not a stored prompt of this version"),
        (12..16, "was computed by an engine whose numbers are not comparable"),
        (16..48, "is of another model"),
        (48..64, "is of another cache type (--kv)"),
        (64..72, "is of another RoPE"),
    ];
    parts.into_iter().find(|(range, _)| entry[range.clone()] != engine[range.clone()]).map(|p| p.1)
}

impl Prefix {
    /// Reads all but the blocks. What it says is checked by [`Self::load`].
    fn read(from: &mut impl Read) -> io::Result<Self> {
        let mut head = vec![0; HEADER];
        from.read_exact(&mut head)?;
        let number = |at: usize| u32::from_le_bytes([0, 1, 2, 3].map(|i| head[at + i])) as usize;
        let (n, text) = (number(72), number(76));
        if head[..12] != [&MAGIC[..], &1u32.to_le_bytes()].concat() {
            return Err(io::Error::other("is not a stored prompt of this version"));
        }
        if n > MAX_TOKENS || text > MAX_TEXT || head[80..HEADER] != [0; 16] {
            return Err(io::Error::other("is damaged: its header"));
        }
        let len = HEADER + 4 * n + text + 32 * n.div_ceil(BLOCK);
        from.take((len - HEADER) as u64).read_to_end(&mut head)?;
        let mut hash = [0; 32];
        from.read_exact(&mut hash)?; // also finds that the part before was cut
        let (tokens, rest) = head[HEADER..].split_at(4 * n);
        let (text, hashes) = rest.split_at(text);
        Ok(Self {
            identity: *head.first_chunk().expect("longer"),
            tokens: tokens.as_chunks::<4>().0.iter().map(|b| u32::from_le_bytes(*b)).collect(),
            text: String::from_utf8_lossy(text).into_owned(),
            hashes: hashes.as_chunks::<32>().0.to_vec(),
            head: (head, hash),
        })
    }

    /// Positions that it has in common with `tokens`.
    fn common(&self, tokens: &[u32]) -> usize {
        self.tokens.iter().zip(tokens).take_while(|(a, b)| a == b).count()
    }

    /// Makes its first `n` positions those of a sequence of an engine with this identity; `from`
    /// goes on where [`Self::read`] stopped. The error says what is wrong with it; the sequence is
    /// empty then.
    fn load(
        &self,
        cache: &mut Cache,
        engine: &[u8; IDENTITY],
        (seq, n): (SeqId, usize),
        from: &mut impl Read,
    ) -> Result<(), String> {
        if let Some(what) = differs(&self.identity, engine) {
            return Err(what.into());
        }
        if blake3::hash(&self.head.0) != self.head.1 {
            return Err("is damaged: its header".into());
        }
        cache.truncate(seq, 0);
        self.load_blocks(cache, seq, n, from).inspect_err(|_| {
            cache.truncate(seq, 0);
        })
    }

    fn load_blocks(
        &self,
        cache: &mut Cache,
        seq: SeqId,
        n: usize,
        from: &mut impl Read,
    ) -> Result<(), String> {
        cache.reserve(seq, n).map_err(|e| e.to_string())?;
        let mut bytes = vec![0; cache.block_bytes()];
        for (index, hash) in self.hashes.iter().enumerate().take(n.div_ceil(BLOCK)) {
            from.read_exact(&mut bytes).map_err(|e| format!("cannot be read: {e}"))?;
            if blake3::hash(&bytes) != *hash {
                let first = index * BLOCK;
                return Err(format!("is damaged: positions {first} to {}", first + BLOCK - 1));
            }
            cache.load_block(seq, index, &bytes);
        }
        self.tokens[..n].iter().for_each(|&token| cache.advance(seq, token));
        Ok(())
    }
}

/// Writes the first positions of a sequence, which are `tokens`, with a text to remember.
fn write(
    cache: &mut Cache,
    engine: &[u8; IDENTITY],
    (seq, tokens): (SeqId, &[u32]),
    text: &str,
    out: &mut impl Write,
) -> io::Result<()> {
    let mut head = engine.to_vec();
    head.extend((tokens.len() as u32).to_le_bytes());
    head.extend((text.len() as u32).to_le_bytes());
    head.resize(HEADER, 0);
    head.extend(tokens.iter().flat_map(|t| t.to_le_bytes()));
    head.extend(text.as_bytes());
    let blocks = tokens.len().div_ceil(BLOCK);
    let mut bytes = Vec::with_capacity(cache.block_bytes());
    for index in 0..blocks {
        bytes.clear();
        cache.save_block(seq, index, &mut bytes);
        head.extend(blake3::hash(&bytes).as_bytes());
    }
    out.write_all(&head)?;
    out.write_all(blake3::hash(&head).as_bytes())?;
    for index in 0..blocks {
        bytes.clear();
        cache.save_block(seq, index, &mut bytes);
        out.write_all(&bytes)?;
    }
    Ok(())
}

/// Runs a system's message through the model of a file; what the section `baked prompt` is to
/// hold. Of a model without a chat template it is a raw text that prompts begin with.
///
/// # Errors
/// The model cannot be run, or the text does not fit its context.
pub fn bake(path: &Path, text: &str) -> Result<Vec<u8>, Error> {
    let model = Model::open(path)?;
    let tokens = match model.can_chat() {
        true => model.before_conversation(&[Message::new("system", text)])?,
        false => model.encode(text)?,
    };
    let ctx = model.config().context_length as usize;
    if tokens.is_empty() {
        return Err(Error::EmptyPrompt);
    }
    if tokens.len() >= ctx {
        return Err(Error::Context { tokens: tokens.len(), ctx });
    }
    // The room that an engine has by default, so that RoPE is the same.
    let ctx = tokens.len().max(ctx.min(4096));
    let options = EngineOptions { ctx: Some(ctx), ..EngineOptions::default() };
    let mut engine = Engine::new(model, &options)?;
    let seq = engine.open()?;
    for chunk in tokens.chunks(engine.max_batch()) {
        let step = |&token| Step { seq, token, logits: false };
        engine.forward(&chunk.iter().map(step).collect::<Vec<_>>())?;
    }
    let (identity, mut out) = (identity(&engine), Vec::new());
    write(engine.cache_mut(), &identity, (seq, &tokens), text, &mut out).expect("memory takes all");
    Ok(out)
}

/// The prompt that is baked into a model's file, and its blocks.
fn baked(model: &Model) -> Option<(Prefix, &[u8])> {
    let (_, mut bytes) = model.file().section(SectionKind::BakedPrompt)?;
    Some((Prefix::read(&mut bytes).ok()?, bytes))
}

impl Model {
    /// The system's message that is baked into the file, if there is one.
    pub fn baked_prompt(&self) -> Option<String> {
        baked(self).map(|(prefix, _)| prefix.text).filter(|text| !text.is_empty())
    }
}

impl Engine {
    /// Lets a sequence that holds less of `tokens` begin with the prompt that is baked into the
    /// model's file. The error says why that is of no use.
    pub(crate) fn use_baked(&mut self, seq: SeqId, tokens: &[u32]) -> Result<(), String> {
        let (identity, ctx, held) = (identity(self), self.ctx(), self.len(seq));
        let (model, cache) = self.model_and_cache();
        let Some((prefix, mut blocks)) = baked(model) else { return Ok(()) };
        let n = prefix.common(tokens).min(ctx);
        if n <= held {
            return Ok(());
        }
        prefix
            .load(cache, &identity, (seq, n), &mut blocks)
            .map_err(|what| format!("the prompt in the model's file {what}; it is computed"))
    }
}

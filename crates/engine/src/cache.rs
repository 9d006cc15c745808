//! The KV cache: one arena of 64-position blocks, and per sequence a table of the blocks it holds.
//!
//! ```text
//! arena, per layer:   K [kv heads][blocks][4 panels of 16 positions][head][16]
//!                     V [kv heads][blocks][64 positions][head]
//! sequence 0: blocks 0 1 2 …     position p lies in table[p / 64], at p % 64
//! ```
//!
//! K lies in panels like a weight matrix whose rows are positions, so that q·K is the same
//! register tile as any product; V lies by position, because p·V sums over positions.

use nanoinfer_format::Config;
use nanoinfer_kernels::BLOCK;

use crate::Error;
use crate::pool::{Pool, Shared};

/// Names a sequence of an [`crate::Engine`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct SeqId(pub(crate) usize);

/// K and V of one layer.
pub(crate) struct LayerCache {
    pub k: Shared<f32>, // [kv heads][blocks][4][head][16]
    pub v: Shared<f32>, // [kv heads][blocks][64][head]
}

/// The tokens a sequence has cached, by block.
struct Sequence {
    blocks: Vec<u32>,
    len: usize,
    used: bool,
}

/// The arena and the sequences in it.
pub(crate) struct Cache {
    pub layers: Vec<LayerCache>,
    pub n_blocks: usize,
    ctx: usize,
    free: Vec<u32>,
    sequences: Vec<Sequence>,
}

impl Cache {
    /// An arena for `sequences` sequences of `ctx` positions each.
    pub(crate) fn new(pool: &Pool, c: &Config, ctx: usize, sequences: usize) -> Self {
        let per_sequence = ctx.div_ceil(BLOCK);
        let n_blocks = per_sequence * sequences;
        let layer = n_blocks * BLOCK * c.head_padded() * c.n_kv_heads as usize;
        Self {
            layers: (0..c.n_layers)
                .map(|_| LayerCache { k: pool.shared(layer), v: pool.shared(layer) })
                .collect(),
            n_blocks,
            ctx,
            free: (0..n_blocks as u32).rev().collect(),
            sequences: (0..sequences)
                .map(|_| Sequence { blocks: Vec::with_capacity(per_sequence), len: 0, used: false })
                .collect(),
        }
    }

    /// Bytes of an arena, or `None` if they do not fit into 64 bits.
    pub(crate) fn bytes(c: &Config, ctx: usize, sequences: usize) -> Option<u64> {
        let positions =
            (ctx.div_ceil(BLOCK) as u64).checked_mul(BLOCK as u64 * sequences as u64)?;
        let per_position =
            8 * u64::from(c.n_layers) * u64::from(c.n_kv_heads) * c.head_padded() as u64;
        positions.checked_mul(per_position)
    }

    /// Positions a sequence can hold.
    pub(crate) fn ctx(&self) -> usize {
        self.ctx
    }

    pub(crate) fn open(&mut self) -> Result<SeqId, Error> {
        let id = self.sequences.iter().position(|s| !s.used);
        let id = id.ok_or(Error::CacheFull { what: "all sequences are in use" })?;
        self.sequences[id].used = true;
        Ok(SeqId(id))
    }

    pub(crate) fn close(&mut self, id: SeqId) {
        self.truncate(id, 0);
        self.sequences[id.0].used = false;
    }

    /// Cached positions of a sequence.
    pub(crate) fn len(&self, id: SeqId) -> usize {
        self.sequences[id.0].len
    }

    /// Makes room for `n` more positions. Allocates nothing: tables have their full capacity.
    pub(crate) fn reserve(&mut self, id: SeqId, n: usize) -> Result<(), Error> {
        let s = &mut self.sequences[id.0];
        let len = s.len + n;
        if len > self.ctx {
            return Err(Error::Context { tokens: len, ctx: self.ctx });
        }
        while s.blocks.len() * BLOCK < len {
            let block = self.free.pop().ok_or(Error::CacheFull { what: "no free block" })?;
            s.blocks.push(block);
        }
        Ok(())
    }

    /// Counts `n` reserved positions as cached.
    pub(crate) fn advance(&mut self, id: SeqId, n: usize) {
        self.sequences[id.0].len += n;
    }

    /// Forgets all positions from `len` on.
    pub(crate) fn truncate(&mut self, id: SeqId, len: usize) {
        let s = &mut self.sequences[id.0];
        s.len = s.len.min(len);
        while s.blocks.len() > s.len.div_ceil(BLOCK) {
            self.free.extend(s.blocks.pop());
        }
    }

    /// The arena block that holds block `index` of a sequence.
    pub(crate) fn block(&self, id: SeqId, index: usize) -> usize {
        self.sequences[id.0].blocks[index] as usize
    }
}

//! The KV cache: one arena of 64-position blocks, and per sequence a table of the blocks it holds.
//!
//! ```text
//! arena, per layer:   K [kv heads][blocks][4 panels of 16 positions]
//!                     V [kv heads][blocks][64 positions][head]
//! sequence 0: blocks 0 1 2 …     position p lies in table[p / 64], at p % 64
//! ```
//!
//! K lies in panels like a weight matrix whose rows are positions, so that q·K is the same
//! register tile as any product; V lies by position, because p·V sums over positions. The 8-bit
//! cache has a scale per position and head, and keys rotated like weights, so that 8 bits are
//! enough.

use nanoinfer_format::Config;
use nanoinfer_kernels::{BLOCK, KvBlock, KvBlockMut, q8_key_block};

use crate::Error;
use crate::pool::{Columns, Item, Pool, Shared, Split, Worker};

/// Names a sequence of an [`crate::Engine`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct SeqId(pub(crate) usize);

/// How the cache stores keys and values.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum KvType {
    /// 8 bits, a scale per position and head. The default for q8 models.
    Q8,
    /// Half precision.
    F16,
    /// Single precision. The default for f32 models.
    F32,
}

impl KvType {
    /// All of them.
    pub const ALL: [KvType; 3] = [Self::Q8, Self::F16, Self::F32];

    /// `q8`, `f16` or `f32`.
    pub fn name(self) -> &'static str {
        match self {
            Self::Q8 => "q8",
            Self::F16 => "f16",
            Self::F32 => "f32",
        }
    }

    /// Bytes of one position of a sequence, all layers and heads.
    pub(crate) fn bytes_per_position(self, c: &Config) -> u64 {
        u64::from(c.n_layers) * u64::from(c.n_kv_heads) * self.bytes(c.head_padded())
    }

    /// Bytes of one position of one KV head, keys and values.
    fn bytes(self, head: usize) -> u64 {
        let head = head as u64;
        match self {
            Self::Q8 => 2 * (head + 4),
            Self::F16 => 4 * head,
            Self::F32 => 8 * head,
        }
    }
}

/// K and V of one layer: `[kv heads][blocks]` of what `KvBlock` describes.
pub(crate) enum LayerCache {
    F32 { k: Shared<f32>, v: Shared<f32> },
    F16 { k: Shared<u16>, v: Shared<u16> },
    Q8 { k: Shared<u8>, v: Shared<i8>, v_scales: Shared<f32> },
}

/// One head's part of a layer, while its owner writes it.
pub(crate) enum HeadMut<'p> {
    F32 { k: Columns<'p, f32>, v: Columns<'p, f32> },
    F16 { k: Columns<'p, u16>, v: Columns<'p, u16> },
    Q8 { k: Columns<'p, u8>, v: Columns<'p, i8>, v_scales: Columns<'p, f32> },
}

/// A layer that is written in this phase, one item per head.
pub(crate) enum LayerSplit<'p> {
    F32 { k: Split<'p, f32>, v: Split<'p, f32> },
    F16 { k: Split<'p, u16>, v: Split<'p, u16> },
    Q8 { k: Split<'p, u8>, v: Split<'p, i8>, v_scales: Split<'p, f32> },
}

impl LayerCache {
    fn new(pool: &Pool, kv: KvType, blocks: usize, head: usize) -> Self {
        let values = blocks * BLOCK * head;
        match kv {
            KvType::F32 => Self::F32 { k: pool.shared(values), v: pool.shared(values) },
            KvType::F16 => Self::F16 { k: pool.shared(values), v: pool.shared(values) },
            KvType::Q8 => Self::Q8 {
                k: pool.shared(blocks * q8_key_block(head)),
                v: pool.shared(values),
                v_scales: pool.shared(blocks * BLOCK),
            },
        }
    }

    /// Divides the layer by heads of `blocks` blocks, for writing.
    pub(crate) fn split<'p>(
        &'p self,
        w: &'p Worker<'_>,
        kv_heads: usize,
        blocks: usize,
        head: usize,
    ) -> LayerSplit<'p> {
        let (values, keys, scales) =
            (blocks * BLOCK * head, blocks * q8_key_block(head), blocks * BLOCK);
        match self {
            Self::F32 { k, v } => LayerSplit::F32 {
                k: k.split(w, kv_heads * values, values),
                v: v.split(w, kv_heads * values, values),
            },
            Self::F16 { k, v } => LayerSplit::F16 {
                k: k.split(w, kv_heads * values, values),
                v: v.split(w, kv_heads * values, values),
            },
            Self::Q8 { k, v, v_scales } => LayerSplit::Q8 {
                k: k.split(w, kv_heads * keys, keys),
                v: v.split(w, kv_heads * values, values),
                v_scales: v_scales.split(w, kv_heads * scales, scales),
            },
        }
    }

    /// Block `index` of the layer (`head · blocks + block`), for reading.
    pub(crate) fn block<'p>(&'p self, w: &'p Worker<'_>, index: usize, head: usize) -> KvBlock<'p> {
        let values = index * BLOCK * head..(index + 1) * BLOCK * head;
        match self {
            Self::F32 { k, v } => {
                KvBlock::F32 { k: &k.read(w)[values.clone()], v: &v.read(w)[values] }
            }
            Self::F16 { k, v } => {
                KvBlock::F16 { k: &k.read(w)[values.clone()], v: &v.read(w)[values] }
            }
            Self::Q8 { k, v, v_scales } => KvBlock::Q8 {
                k: &k.read(w)[index * q8_key_block(head)..][..q8_key_block(head)],
                v: &v.read(w)[values],
                v_scales: &v_scales.read(w)[index * BLOCK..][..BLOCK],
            },
        }
    }
}

impl<'p> LayerSplit<'p> {
    pub(crate) fn take(&self, item: &Item<'p>) -> HeadMut<'p> {
        match self {
            Self::F32 { k, v } => HeadMut::F32 { k: k.take(item), v: v.take(item) },
            Self::F16 { k, v } => HeadMut::F16 { k: k.take(item), v: v.take(item) },
            Self::Q8 { k, v, v_scales } => {
                HeadMut::Q8 { k: k.take(item), v: v.take(item), v_scales: v_scales.take(item) }
            }
        }
    }
}

impl HeadMut<'_> {
    /// Block `index` of this head.
    pub(crate) fn block(&mut self, index: usize, head: usize) -> KvBlockMut<'_> {
        let values = index * BLOCK * head..(index + 1) * BLOCK * head;
        match self {
            Self::F32 { k, v } => {
                KvBlockMut::F32 { k: &mut k.row(0)[values.clone()], v: &mut v.row(0)[values] }
            }
            Self::F16 { k, v } => {
                KvBlockMut::F16 { k: &mut k.row(0)[values.clone()], v: &mut v.row(0)[values] }
            }
            Self::Q8 { k, v, v_scales } => KvBlockMut::Q8 {
                k: &mut k.row(0)[index * q8_key_block(head)..][..q8_key_block(head)],
                v: &mut v.row(0)[values],
                v_scales: &mut v_scales.row(0)[index * BLOCK..][..BLOCK],
            },
        }
    }
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
    pub kv: KvType,
    ctx: usize,
    free: Vec<u32>,
    sequences: Vec<Sequence>,
}

impl Cache {
    /// An arena for `sequences` sequences of `ctx` positions each.
    pub(crate) fn new(pool: &Pool, c: &Config, kv: KvType, ctx: usize, sequences: usize) -> Self {
        let per_sequence = ctx.div_ceil(BLOCK);
        let n_blocks = per_sequence * sequences;
        let blocks = n_blocks * c.n_kv_heads as usize;
        let layer = |_| LayerCache::new(pool, kv, blocks, c.head_padded());
        Self {
            layers: (0..c.n_layers).map(layer).collect(),
            n_blocks,
            kv,
            ctx,
            free: (0..n_blocks as u32).rev().collect(),
            sequences: (0..sequences)
                .map(|_| Sequence { blocks: Vec::with_capacity(per_sequence), len: 0, used: false })
                .collect(),
        }
    }

    /// Bytes of an arena, or `None` if they do not fit into 64 bits.
    pub(crate) fn bytes(c: &Config, kv: KvType, ctx: usize, sequences: usize) -> Option<u64> {
        let positions =
            (ctx.div_ceil(BLOCK) as u64).checked_mul(BLOCK as u64 * sequences as u64)?;
        positions.checked_mul(kv.bytes_per_position(c))
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

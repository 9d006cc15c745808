//! The KV cache: one arena of 64-position blocks, and per sequence a table of the blocks it holds.
//!
//! ```text
//! arena, per layer:   K [kv heads][blocks][4 panels of 16 positions]
//!                     V [kv heads][blocks][64 positions][head]
//! sequence 0: blocks 0 1 2 …     position p lies in table[p / 64], at p % 64
//! ```
//!
//! Sequences with a common beginning share its blocks; whoever writes into a shared one gets a copy.
//! Where the context slides, the table after the pinned blocks is a ring, and a block that nobody
//! sees any more is overwritten:
//!
//! ```text
//! table: pinned │ 9 10 11 4 5 6 7 8      block 12 goes where 4 was; 4 was seen until block 11 began
//! ```
//!
//! K lies in panels like a weight matrix whose rows are positions, so that q·K is the same
//! register tile as any product; V lies by position, because p·V sums over positions. The 8-bit
//! cache has a scale per position and head, and keys rotated like weights, so that 8 bits are
//! enough.

mod blocks;

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
    /// Block `index` of this head, what its owner has written included.
    pub(crate) fn view(&self, index: usize, head: usize) -> KvBlock<'_> {
        let values = index * BLOCK * head..(index + 1) * BLOCK * head;
        match self {
            Self::F32 { k, v } => {
                KvBlock::F32 { k: &k.get(0)[values.clone()], v: &v.get(0)[values] }
            }
            Self::F16 { k, v } => {
                KvBlock::F16 { k: &k.get(0)[values.clone()], v: &v.get(0)[values] }
            }
            Self::Q8 { k, v, v_scales } => KvBlock::Q8 {
                k: &k.get(0)[index * q8_key_block(head)..][..q8_key_block(head)],
                v: &v.get(0)[values],
                v_scales: &v_scales.get(0)[index * BLOCK..][..BLOCK],
            },
        }
    }

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

/// What happens at the end of the context.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Overflow {
    /// It ends.
    #[default]
    Stop,
    /// The oldest positions after the pinned ones are forgotten, a block of 64 at a time, and
    /// positions keep growing. What a position sees depends on its number alone: the pinned
    /// blocks, as if they came right before the others, and the last ones that fit the context.
    Slide,
}

impl Overflow {
    /// `stop` or `slide`.
    pub fn name(self) -> &'static str {
        match self {
            Self::Stop => "stop",
            Self::Slide => "slide",
        }
    }
}

/// The positions that a token sees apart from those evicted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Slid {
    /// Positions at the beginning that stay.
    pub pinned: usize,
    /// Positions after them that are gone, as this token sees it.
    pub evicted: usize,
}

/// What a sequence has cached, by block.
struct Sequence {
    /// Arena blocks. Once the context slides, the part after the pinned blocks is a ring.
    blocks: Vec<u32>,
    len: usize,
    /// Blocks of the sequence that were written: those a ring's length before are overwritten.
    written: usize,
    /// Blocks that stay when the context slides.
    pinned: usize,
    /// Tokens of the positions that came before any sliding: they can be shared.
    tokens: Vec<u32>,
    used: bool,
}

/// The arena and the sequences in it. Sequences share blocks: one that is to be written and has
/// other readers is copied first.
pub(crate) struct Cache {
    pub layers: Vec<LayerCache>,
    pub n_blocks: usize,
    pub kv: KvType,
    ctx: usize,
    overflow: Overflow,
    /// Blocks a sequence can hold: its context, and if it slides, what a pass adds meanwhile.
    per_sequence: usize,
    kv_heads: usize,
    head: usize,
    free: Vec<u32>,
    readers: Vec<u32>, // per block, the sequences that hold it
    sequences: Vec<Sequence>,
}

/// Size and behaviour of a cache.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Plan {
    pub kv: KvType,
    pub ctx: usize,
    pub overflow: Overflow,
    /// Most tokens of a pass.
    pub chunk: usize,
    pub sequences: usize,
}

impl Plan {
    /// Blocks of one sequence. A pass must not overwrite what its first token sees, nor a rejected
    /// draft what the next pass does.
    fn per_sequence(&self) -> usize {
        self.ctx.div_ceil(BLOCK)
            + match self.overflow {
                Overflow::Stop => 0,
                Overflow::Slide => self.chunk.div_ceil(BLOCK) + 1,
            }
    }

    /// Bytes of an arena, or `None` if they do not fit into 64 bits.
    pub(crate) fn bytes(&self, c: &Config) -> Option<u64> {
        let positions =
            (self.per_sequence() as u64).checked_mul(BLOCK as u64 * self.sequences as u64)?;
        positions.checked_mul(self.kv.bytes_per_position(c))
    }
}

impl Cache {
    pub(crate) fn new(pool: &Pool, c: &Config, plan: &Plan) -> Self {
        let per_sequence = plan.per_sequence();
        let n_blocks = per_sequence * plan.sequences;
        let (kv_heads, head) = (c.n_kv_heads as usize, c.head_padded());
        let sequence = |_| Sequence {
            blocks: Vec::with_capacity(per_sequence),
            len: 0,
            written: 0,
            pinned: 1,
            tokens: Vec::with_capacity(plan.ctx),
            used: false,
        };
        Self {
            layers: (0..c.n_layers)
                .map(|_| LayerCache::new(pool, plan.kv, n_blocks * kv_heads, head))
                .collect(),
            n_blocks,
            kv: plan.kv,
            ctx: plan.ctx,
            overflow: plan.overflow,
            per_sequence,
            kv_heads,
            head,
            free: (0..n_blocks as u32).rev().collect(),
            readers: vec![0; n_blocks],
            sequences: (0..plan.sequences).map(sequence).collect(),
        }
    }

    /// Positions a token can see.
    pub(crate) fn ctx(&self) -> usize {
        self.ctx
    }

    pub(crate) fn overflow(&self) -> Overflow {
        self.overflow
    }

    pub(crate) fn open(&mut self) -> Result<SeqId, Error> {
        let id = self.sequences.iter().position(|s| !s.used);
        let id = id.ok_or(Error::CacheFull { what: "all sequences are in use" })?;
        (self.sequences[id].used, self.sequences[id].pinned) = (true, 1);
        Ok(SeqId(id))
    }

    pub(crate) fn close(&mut self, id: SeqId) {
        self.truncate(id, 0);
        self.sequences[id.0].used = false;
    }

    /// Cached positions of a sequence, those that were evicted included.
    pub(crate) fn len(&self, id: SeqId) -> usize {
        self.sequences[id.0].len
    }

    /// Says how many positions stay when the context slides, rounded up to blocks; at least one
    /// block stays, and half of the context can slide. No effect once it has slid.
    pub(crate) fn pin(&mut self, id: SeqId, positions: usize) {
        let most = (self.ctx / BLOCK / 2).max(1);
        let s = &mut self.sequences[id.0];
        if s.written * BLOCK <= self.ctx {
            s.pinned = positions.div_ceil(BLOCK).clamp(1, most);
        }
    }

    /// What of the past the token at `position` sees.
    pub(crate) fn slid(&self, id: SeqId, position: usize) -> Slid {
        let s = &self.sequences[id.0];
        match self.overflow {
            Overflow::Stop => Slid::default(),
            Overflow::Slide => Slid {
                pinned: s.pinned * BLOCK,
                evicted: (position / BLOCK + 1).saturating_sub(self.ctx / BLOCK) * BLOCK,
            },
        }
    }

    /// Where block `index` of a sequence is in its table.
    fn place(&self, s: &Sequence, index: usize) -> usize {
        match index < self.per_sequence {
            true => index,
            false => s.pinned + (index - s.pinned) % (self.per_sequence - s.pinned),
        }
    }

    /// Makes room for `n` more positions. Allocates nothing: tables have their full capacity.
    pub(crate) fn reserve(&mut self, id: SeqId, n: usize) -> Result<(), Error> {
        let len = self.sequences[id.0].len;
        if self.overflow == Overflow::Stop && len + n > self.ctx {
            return Err(Error::Context { tokens: len + n, ctx: self.ctx });
        }
        for index in len / BLOCK..(len + n).div_ceil(BLOCK) {
            let partly = index == len / BLOCK && !len.is_multiple_of(BLOCK);
            self.make_writable(id, index, partly)?;
        }
        Ok(())
    }

    /// Gives a sequence a block of its own for `index`. What is in it stays if it is `needed`.
    fn make_writable(&mut self, id: SeqId, index: usize, needed: bool) -> Result<(), Error> {
        let s = &self.sequences[id.0];
        let place = self.place(s, index);
        let old = s.blocks.get(place).copied();
        if old.is_none_or(|old| self.readers[old as usize] > 1) {
            let new = self.free.pop().ok_or(Error::CacheFull { what: "no free block" })?;
            self.readers[new as usize] = 1;
            if let Some(old) = old {
                self.readers[old as usize] -= 1;
                if needed {
                    let (kv_heads, head) = (self.kv_heads, self.head);
                    let copy = |layer: &mut LayerCache| {
                        layer.copy_block(kv_heads, head, (old as usize, new as usize));
                    };
                    self.layers.iter_mut().for_each(copy);
                }
            }
            let blocks = &mut self.sequences[id.0].blocks;
            match blocks.get_mut(place) {
                Some(block) => *block = new,
                None => blocks.push(new),
            }
        }
        let s = &mut self.sequences[id.0];
        s.written = s.written.max(index + 1);
        Ok(())
    }

    /// Counts a reserved position as cached.
    pub(crate) fn advance(&mut self, id: SeqId, token: u32) {
        let ctx = self.ctx;
        let s = &mut self.sequences[id.0];
        s.len += 1;
        if s.len <= ctx {
            s.tokens.push(token);
        }
    }

    /// Forgets all positions from `len` on; returns how many remain. That is fewer if what the
    /// position `len` sees was overwritten since: then only the pinned ones.
    pub(crate) fn truncate(&mut self, id: SeqId, len: usize) -> usize {
        let (ring, ctx) = (self.per_sequence, self.ctx / BLOCK);
        let s = &mut self.sequences[id.0];
        let mut len = s.len.min(len);
        if s.written > ring {
            let seen = (len / BLOCK + 1 + s.pinned).saturating_sub(ctx).max(s.pinned);
            let intact = s.written - (ring - s.pinned);
            if len > 0 && intact <= seen {
                s.len = len; // the ring stays as it is
                s.tokens.truncate(len);
                return len;
            }
            len = len.min(s.pinned * BLOCK);
        }
        s.len = len;
        s.tokens.truncate(len);
        s.written = len.div_ceil(BLOCK);
        while s.blocks.len() > s.written {
            let Some(block) = s.blocks.pop() else { break };
            let readers = &mut self.readers[block as usize];
            *readers -= 1;
            if *readers == 0 {
                self.free.push(block);
            }
        }
        len
    }

    /// A new sequence with all that another holds; blocks are shared until they are written.
    pub(crate) fn fork(&mut self, from: SeqId) -> Result<SeqId, Error> {
        let to = self.open()?;
        self.copy_table(from, to, self.sequences[from.0].blocks.len());
        let (len, written) = (self.sequences[from.0].len, self.sequences[from.0].written);
        let (a, b) = two(&mut self.sequences, from.0, to.0);
        (b.len, b.written, b.pinned) = (len, written, a.pinned);
        b.tokens.extend_from_slice(&a.tokens);
        Ok(to)
    }

    /// Lets an empty sequence have the first `n` blocks of another's table.
    fn copy_table(&mut self, from: SeqId, to: SeqId, n: usize) {
        for i in 0..n {
            let block = self.sequences[from.0].blocks[i];
            self.readers[block as usize] += 1;
            self.sequences[to.0].blocks.push(block);
        }
    }

    /// Lets a sequence, which holds a beginning of `tokens`, share what another has in common with
    /// them, if that is more. Returns the positions it holds then.
    pub(crate) fn share(&mut self, id: SeqId, tokens: &[u32]) -> usize {
        let common = |s: &Sequence| {
            let n = s.tokens.iter().zip(tokens).take_while(|(a, b)| a == b).count();
            // Of one that has overwritten blocks, only the pinned ones are at their places.
            if s.written > self.per_sequence { n.min(s.pinned * BLOCK) } else { n }
        };
        let others = self.sequences.iter().enumerate().filter(|(i, s)| s.used && *i != id.0);
        let best = others.map(|(i, s)| (common(s), i)).max_by_key(|(n, i)| (*n, usize::MAX - i));
        match best {
            Some((n, from)) if n > self.len(id) => {
                self.truncate(id, 0);
                self.copy_table(SeqId(from), id, n.div_ceil(BLOCK));
                let s = &mut self.sequences[id.0];
                (s.len, s.written) = (n, n.div_ceil(BLOCK));
                s.tokens.extend_from_slice(&tokens[..n]);
                n
            }
            _ => self.len(id),
        }
    }

    /// Bytes of a block of all layers and heads.
    pub(crate) fn block_bytes(&self) -> usize {
        self.layers.len() * self.kv_heads * BLOCK * self.kv.bytes(self.head) as usize
    }

    /// Appends the bytes of block `index` of a sequence, see [`LayerCache::save`].
    pub(crate) fn save_block(&mut self, id: SeqId, index: usize, out: &mut Vec<u8>) {
        let place = (self.kv_heads, self.head, self.block(id, index));
        self.layers.iter_mut().for_each(|layer| layer.save(place, out));
    }

    /// Fills a reserved block of a sequence with what [`Self::save_block`] wrote.
    pub(crate) fn load_block(&mut self, id: SeqId, index: usize, bytes: &[u8]) {
        let place = (self.kv_heads, self.head, self.block(id, index));
        let each = bytes.len() / self.layers.len();
        for (layer, bytes) in self.layers.iter_mut().zip(bytes.chunks_exact(each)) {
            layer.load(place, bytes);
        }
    }

    /// The arena block that holds block `index` of a sequence.
    pub(crate) fn block(&self, id: SeqId, index: usize) -> usize {
        let s = &self.sequences[id.0];
        s.blocks[self.place(s, index)] as usize
    }
}

/// Two different elements.
fn two<T>(all: &mut [T], a: usize, b: usize) -> (&mut T, &mut T) {
    let [a, b] = all.get_disjoint_mut([a, b]).expect("two different sequences");
    (a, b)
}

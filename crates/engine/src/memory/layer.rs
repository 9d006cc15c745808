//! The cache of one layer, and a pass's access to it.

use nanoinfer_format::Config;
use nanoinfer_kernels::{BLOCK, KvBlock, KvBlockMut, q8_key_block};

use crate::pool::{Columns, Item, Pool, Shared, Split, Worker};

/// Precision of cached keys and values.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum KvType {
    /// 8 bits, with a scale per position and head. The default if any matrix uses int8 activations.
    Q8,
    /// Half precision.
    F16,
    /// Single precision. The default otherwise.
    F32,
}

impl KvType {
    /// All types.
    pub const ALL: [KvType; 3] = [Self::Q8, Self::F16, Self::F32];

    /// `q8`, `f16` or `f32`.
    pub fn name(self) -> &'static str {
        match self {
            Self::Q8 => "q8",
            Self::F16 => "f16",
            Self::F32 => "f32",
        }
    }

    /// Bytes per position of a sequence, over all layers and heads.
    pub(crate) fn bytes_per_position(self, c: &Config) -> u64 {
        u64::from(c.n_layers) * u64::from(c.n_kv_heads) * self.bytes(c.head_padded())
    }

    /// Bytes per position of one KV head, keys and values together.
    pub(super) fn bytes(self, head: usize) -> u64 {
        let head = head as u64;
        match self {
            Self::Q8 => 2 * (head + size_of::<f32>() as u64), // each with a scale
            Self::F16 => 4 * head,
            Self::F32 => 8 * head,
        }
    }
}

/// K and V of one layer: `[kv heads][blocks]`, each block as in `KvBlock`.
pub(crate) enum LayerCache {
    F32 { k: Shared<f32>, v: Shared<f32> },
    F16 { k: Shared<u16>, v: Shared<u16> },
    Q8 { k: Shared<u8>, v: Shared<i8>, v_scales: Shared<f32> },
}

/// One head of a layer, exclusively held for writing.
pub(crate) enum HeadMut<'p> {
    F32 { k: Columns<'p, f32>, v: Columns<'p, f32> },
    F16 { k: Columns<'p, u16>, v: Columns<'p, u16> },
    Q8 { k: Columns<'p, u8>, v: Columns<'p, i8>, v_scales: Columns<'p, f32> },
}

/// A layer being written in this phase, one item per head.
pub(crate) enum LayerSplit<'p> {
    F32 { k: Split<'p, f32>, v: Split<'p, f32> },
    F16 { k: Split<'p, u16>, v: Split<'p, u16> },
    Q8 { k: Split<'p, u8>, v: Split<'p, i8>, v_scales: Split<'p, f32> },
}

impl LayerCache {
    pub(super) fn new(pool: &Pool, kv: KvType, blocks: usize, head: usize) -> Self {
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

    /// Splits the layer into heads of `blocks` blocks each, for writing.
    pub(crate) fn split<'p>(
        &'p self,
        w: &'p Worker<'_>,
        kv_heads: usize,
        blocks: usize,
        head: usize,
    ) -> LayerSplit<'p> {
        let values = blocks * BLOCK * head;
        let keys = blocks * q8_key_block(head);
        let scales = blocks * BLOCK;
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
    /// Block `index` of this head, for reading, including this phase's writes.
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

    /// Block `index` of this head, for writing.
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

//! The cache of one layer, and a pass's access to it.

use nanoinfer_format::{AttentionShape, Config};
use nanoinfer_kernels::{BLOCK, KvBlock, KvBlockMut, q4_key_block, q4_value_block, q8_key_block};
use nanoinfer_platform::pages;

use crate::pool::{Columns, Item, Plain, Pool, Shared, Split, Worker};

/// Precision of cached keys and values.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum KvType {
    /// 4 bits, with a scale per position and head.
    Q4,
    /// 8 bits, with a scale per position and head. The default if any matrix uses int8 activations.
    Q8,
    /// Half precision.
    F16,
    /// Single precision. The default otherwise.
    F32,
}

impl KvType {
    /// All types.
    pub const ALL: [KvType; 4] = [Self::Q4, Self::Q8, Self::F16, Self::F32];

    /// `q4`, `q8`, `f16` or `f32`.
    pub fn name(self) -> &'static str {
        match self {
            Self::Q4 => "q4",
            Self::Q8 => "q8",
            Self::F16 => "f16",
            Self::F32 => "f32",
        }
    }

    /// Whether keys are multiplied by queries in integers.
    pub(crate) fn int8_queries(self) -> bool {
        matches!(self, Self::Q4 | Self::Q8)
    }

    /// Bytes per position of a sequence, over all layers and heads.
    pub(crate) fn bytes_per_position(self, c: &Config) -> u64 {
        KvShape::of_layers(c).map(|shape| self.bytes_of_layer(shape)).sum()
    }

    /// Bytes per position of all KV heads of a layer, keys and values together.
    pub(crate) fn bytes_of_layer(self, shape: KvShape) -> u64 {
        shape.heads as u64 * self.bytes(shape)
    }

    /// Bytes per position of one KV head.
    pub(super) fn bytes(self, shape: KvShape) -> u64 {
        let (k, v) = self.lens(shape);
        let bytes = match self {
            Self::Q4 | Self::Q8 => k + v + BLOCK * size_of::<f32>(), // with the scales of the values
            Self::F16 => 2 * (k + v),
            Self::F32 => 4 * (k + v),
        };
        (bytes / BLOCK) as u64
    }

    /// Elements of a block of keys, and of a block of values.
    pub(super) fn lens(self, shape: KvShape) -> (usize, usize) {
        let KvShape { key, value, .. } = shape;
        match self {
            Self::Q4 => (q4_key_block(key), q4_value_block(value)),
            Self::Q8 => (q8_key_block(key), BLOCK * value),
            Self::F16 | Self::F32 => (BLOCK * key, BLOCK * value),
        }
    }
}

/// Sizes of what a layer caches for a position.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct KvShape {
    /// Number of KV heads.
    pub heads: usize,
    /// Width of a key, padded to 16.
    pub key: usize,
    /// Width of a value, padded to 16.
    pub value: usize,
}

impl KvShape {
    /// Of a layer with this attention.
    pub(crate) fn of(shape: &AttentionShape) -> Self {
        Self { heads: shape.cache_heads, key: shape.head_padded(), value: shape.value_padded() }
    }

    /// Of all layers with a cache of their own.
    pub(super) fn of_layers(c: &Config) -> impl Iterator<Item = Self> {
        let layers = (0..c.n_layers as usize).filter(|&layer| c.caches(layer));
        layers.map(|layer| Self::of(&c.attention_of(layer)))
    }
}

/// K and V of one layer: `[kv heads][blocks]`, each block as in `KvBlock`.
pub(crate) enum LayerCache {
    F32 { k: Shared<f32>, v: Shared<f32> },
    F16 { k: Shared<u16>, v: Shared<u16> },
    Q8 { k: Shared<u8>, v: Shared<i8>, v_scales: Shared<f32> },
    Q4 { k: Shared<u8>, v: Shared<u8>, v_scales: Shared<f32> },
}

/// One head of a layer, exclusively held for writing.
pub(crate) enum HeadMut<'p> {
    F32 { k: Columns<'p, f32>, v: Columns<'p, f32> },
    F16 { k: Columns<'p, u16>, v: Columns<'p, u16> },
    Q8 { k: Columns<'p, u8>, v: Columns<'p, i8>, v_scales: Columns<'p, f32> },
    Q4 { k: Columns<'p, u8>, v: Columns<'p, u8>, v_scales: Columns<'p, f32> },
}

/// A layer being written in this phase, one item per head.
pub(crate) enum LayerSplit<'p> {
    F32 { k: Split<'p, f32>, v: Split<'p, f32> },
    F16 { k: Split<'p, u16>, v: Split<'p, u16> },
    Q8 { k: Split<'p, u8>, v: Split<'p, i8>, v_scales: Split<'p, f32> },
    Q4 { k: Split<'p, u8>, v: Split<'p, u8>, v_scales: Split<'p, f32> },
}

/// Block `index` of blocks of `len` elements.
fn part<T>(all: &[T], index: usize, len: usize) -> &[T] {
    &all[index * len..][..len]
}

/// The same, for writing.
fn part_mut<T>(all: &mut [T], index: usize, len: usize) -> &mut [T] {
    &mut all[index * len..][..len]
}

/// Moves a buffer to large pages. It has a part for each KV head, of `blocks` blocks of `len` elements, the first
/// `used` of which have been accessed.
fn make_large<T: Plain>(buffer: &mut Shared<T>, len: usize, (blocks, used): (usize, usize)) {
    let buffer = buffer.get_mut();
    for start in (0..buffer.len()).step_by((blocks * len).max(1)) {
        pages::make_large(buffer, start..start + used * len);
    }
}

impl LayerCache {
    pub(super) fn new(pool: &Pool, kv: KvType, blocks: usize, shape: KvShape) -> Self {
        let ((k, v), blocks) = (kv.lens(shape), blocks * shape.heads);
        let (k, v, scales) = (blocks * k, blocks * v, blocks * BLOCK);
        match kv {
            KvType::F32 => Self::F32 { k: pool.shared(k), v: pool.shared(v) },
            KvType::F16 => Self::F16 { k: pool.shared(k), v: pool.shared(v) },
            KvType::Q8 => {
                Self::Q8 { k: pool.shared(k), v: pool.shared(v), v_scales: pool.shared(scales) }
            }
            KvType::Q4 => {
                Self::Q4 { k: pool.shared(k), v: pool.shared(v), v_scales: pool.shared(scales) }
            }
        }
    }

    /// Moves the layer to large pages of memory: parts of as many blocks for each KV head, and the first of them that
    /// have been accessed.
    pub(super) fn make_large(&mut self, shape: KvShape, sizes: (usize, usize)) {
        let (keys, values) = self.kind().lens(shape);
        match self {
            Self::F32 { k, v } => {
                make_large(k, keys, sizes);
                make_large(v, values, sizes);
            }
            Self::F16 { k, v } => {
                make_large(k, keys, sizes);
                make_large(v, values, sizes);
            }
            Self::Q8 { k, v, v_scales } => {
                make_large(k, keys, sizes);
                make_large(v, values, sizes);
                make_large(v_scales, BLOCK, sizes);
            }
            Self::Q4 { k, v, v_scales } => {
                make_large(k, keys, sizes);
                make_large(v, values, sizes);
                make_large(v_scales, BLOCK, sizes);
            }
        }
    }

    pub(super) fn kind(&self) -> KvType {
        match self {
            Self::F32 { .. } => KvType::F32,
            Self::F16 { .. } => KvType::F16,
            Self::Q8 { .. } => KvType::Q8,
            Self::Q4 { .. } => KvType::Q4,
        }
    }

    /// Splits the layer into heads of `blocks` blocks each, for writing.
    pub(crate) fn split<'p>(
        &'p self,
        w: &'p Worker<'_>,
        blocks: usize,
        shape: KvShape,
    ) -> LayerSplit<'p> {
        let ((keys, values), kv_heads) = (self.kind().lens(shape), shape.heads);
        let (keys, values, scales) = (blocks * keys, blocks * values, blocks * BLOCK);
        match self {
            Self::F32 { k, v } => LayerSplit::F32 {
                k: k.split(w, kv_heads * keys, keys),
                v: v.split(w, kv_heads * values, values),
            },
            Self::F16 { k, v } => LayerSplit::F16 {
                k: k.split(w, kv_heads * keys, keys),
                v: v.split(w, kv_heads * values, values),
            },
            Self::Q8 { k, v, v_scales } => LayerSplit::Q8 {
                k: k.split(w, kv_heads * keys, keys),
                v: v.split(w, kv_heads * values, values),
                v_scales: v_scales.split(w, kv_heads * scales, scales),
            },
            Self::Q4 { k, v, v_scales } => LayerSplit::Q4 {
                k: k.split(w, kv_heads * keys, keys),
                v: v.split(w, kv_heads * values, values),
                v_scales: v_scales.split(w, kv_heads * scales, scales),
            },
        }
    }

    /// Block `i` of the layer (`head · blocks + block`), for reading.
    pub(crate) fn block<'p>(&'p self, w: &'p Worker<'_>, i: usize, shape: KvShape) -> KvBlock<'p> {
        let (keys, values) = self.kind().lens(shape);
        match self {
            Self::F32 { k, v } => {
                KvBlock::F32 { k: part(k.read(w), i, keys), v: part(v.read(w), i, values) }
            }
            Self::F16 { k, v } => {
                KvBlock::F16 { k: part(k.read(w), i, keys), v: part(v.read(w), i, values) }
            }
            Self::Q8 { k, v, v_scales } => KvBlock::Q8 {
                k: part(k.read(w), i, keys),
                v: part(v.read(w), i, values),
                v_scales: part(v_scales.read(w), i, BLOCK),
            },
            Self::Q4 { k, v, v_scales } => KvBlock::Q4 {
                k: part(k.read(w), i, keys),
                v: part(v.read(w), i, values),
                v_scales: part(v_scales.read(w), i, BLOCK),
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
            Self::Q4 { k, v, v_scales } => {
                HeadMut::Q4 { k: k.take(item), v: v.take(item), v_scales: v_scales.take(item) }
            }
        }
    }
}

impl HeadMut<'_> {
    /// Elements of a block of keys, and of a block of values.
    fn lens(&self, shape: KvShape) -> (usize, usize) {
        let kind = match self {
            Self::F32 { .. } => KvType::F32,
            Self::F16 { .. } => KvType::F16,
            Self::Q8 { .. } => KvType::Q8,
            Self::Q4 { .. } => KvType::Q4,
        };
        kind.lens(shape)
    }

    /// Block `i` of this head, for reading, including this phase's writes.
    pub(crate) fn view(&self, i: usize, shape: KvShape) -> KvBlock<'_> {
        let (keys, values) = self.lens(shape);
        match self {
            Self::F32 { k, v } => {
                KvBlock::F32 { k: part(k.get(0), i, keys), v: part(v.get(0), i, values) }
            }
            Self::F16 { k, v } => {
                KvBlock::F16 { k: part(k.get(0), i, keys), v: part(v.get(0), i, values) }
            }
            Self::Q8 { k, v, v_scales } => KvBlock::Q8 {
                k: part(k.get(0), i, keys),
                v: part(v.get(0), i, values),
                v_scales: part(v_scales.get(0), i, BLOCK),
            },
            Self::Q4 { k, v, v_scales } => KvBlock::Q4 {
                k: part(k.get(0), i, keys),
                v: part(v.get(0), i, values),
                v_scales: part(v_scales.get(0), i, BLOCK),
            },
        }
    }

    /// Block `i` of this head, for writing.
    pub(crate) fn block(&mut self, i: usize, shape: KvShape) -> KvBlockMut<'_> {
        let (keys, values) = self.lens(shape);
        match self {
            Self::F32 { k, v } => {
                KvBlockMut::F32 { k: part_mut(k.row(0), i, keys), v: part_mut(v.row(0), i, values) }
            }
            Self::F16 { k, v } => {
                KvBlockMut::F16 { k: part_mut(k.row(0), i, keys), v: part_mut(v.row(0), i, values) }
            }
            Self::Q8 { k, v, v_scales } => KvBlockMut::Q8 {
                k: part_mut(k.row(0), i, keys),
                v: part_mut(v.row(0), i, values),
                v_scales: part_mut(v_scales.row(0), i, BLOCK),
            },
            Self::Q4 { k, v, v_scales } => KvBlockMut::Q4 {
                k: part_mut(k.row(0), i, keys),
                v: part_mut(v.row(0), i, values),
                v_scales: part_mut(v_scales.row(0), i, BLOCK),
            },
        }
    }
}

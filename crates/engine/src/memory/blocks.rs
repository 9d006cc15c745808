//! Whole blocks: copied within the arena, or serialized.
//!
//! A serialized block contains, for each KV head, the keys, the values and, with 8 or 4 bits, the scales
//! of the values. They are laid out as in `kernels::KvBlock`, in little-endian order.

use nanoinfer_kernels::BLOCK;

use super::layer::{KvShape, LayerCache};

/// Sizes of a layer's keys and values, and index of a block in the arena.
type BlockAt = (KvShape, usize);

/// Block `index` of one head (`len` values), in a buffer of all heads.
fn part<T>(all: &mut [T], heads: usize, head: usize, index: usize, len: usize) -> &mut [T] {
    let each = all.len() / heads;
    &mut all[head * each + index * len..][..len]
}

/// Copies block `from` to block `to` (`len` values) for every head.
fn copy<T: Copy>(all: &mut [T], heads: usize, len: usize, (from, to): (usize, usize)) {
    for head in all.chunks_exact_mut(all.len() / heads) {
        head.copy_within(from * len..(from + 1) * len, to * len);
    }
}

/// Appends values as bytes.
pub(super) fn put<T: Copy, const N: usize>(
    from: &[T],
    out: &mut Vec<u8>,
    bytes: impl Fn(T) -> [u8; N],
) {
    out.extend(from.iter().flat_map(|x| bytes(*x)));
}

/// Fills `to` from the start of `bytes`; returns the rest.
pub(super) fn get<'b, T, const N: usize>(
    to: &mut [T],
    bytes: &'b [u8],
    value: impl Fn([u8; N]) -> T,
) -> &'b [u8] {
    let (now, rest) = bytes.split_at(to.len() * N);
    for (to, bytes) in to.iter_mut().zip(now.as_chunks::<N>().0) {
        *to = value(*bytes);
    }
    rest
}

impl LayerCache {
    /// Copies a block of all heads.
    pub(super) fn copy_block(&mut self, shape: KvShape, blocks: (usize, usize)) {
        let ((keys, values), heads) = (self.kind().lens(shape), shape.heads);
        match self {
            Self::F32 { k, v } => {
                copy(k.get_mut(), heads, keys, blocks);
                copy(v.get_mut(), heads, values, blocks);
            }
            Self::F16 { k, v } => {
                copy(k.get_mut(), heads, keys, blocks);
                copy(v.get_mut(), heads, values, blocks);
            }
            Self::Q8 { k, v, v_scales } => {
                copy(k.get_mut(), heads, keys, blocks);
                copy(v.get_mut(), heads, values, blocks);
                copy(v_scales.get_mut(), heads, BLOCK, blocks);
            }
            Self::Q4 { k, v, v_scales } => {
                copy(k.get_mut(), heads, keys, blocks);
                copy(v.get_mut(), heads, values, blocks);
                copy(v_scales.get_mut(), heads, BLOCK, blocks);
            }
        }
    }

    /// Appends the bytes of a block to `out`.
    pub(super) fn save(&mut self, (shape, i): BlockAt, out: &mut Vec<u8>) {
        let ((keys, values), heads) = (self.kind().lens(shape), shape.heads);
        for h in 0..heads {
            match self {
                Self::F32 { k, v } => {
                    put(part(k.get_mut(), heads, h, i, keys), out, f32::to_le_bytes);
                    put(part(v.get_mut(), heads, h, i, values), out, f32::to_le_bytes);
                }
                Self::F16 { k, v } => {
                    put(part(k.get_mut(), heads, h, i, keys), out, u16::to_le_bytes);
                    put(part(v.get_mut(), heads, h, i, values), out, u16::to_le_bytes);
                }
                Self::Q8 { k, v, v_scales } => {
                    out.extend_from_slice(part(k.get_mut(), heads, h, i, keys));
                    put(part(v.get_mut(), heads, h, i, values), out, i8::to_le_bytes);
                    put(part(v_scales.get_mut(), heads, h, i, BLOCK), out, f32::to_le_bytes);
                }
                Self::Q4 { k, v, v_scales } => {
                    out.extend_from_slice(part(k.get_mut(), heads, h, i, keys));
                    out.extend_from_slice(part(v.get_mut(), heads, h, i, values));
                    put(part(v_scales.get_mut(), heads, h, i, BLOCK), out, f32::to_le_bytes);
                }
            }
        }
    }

    /// Fills a block from the bytes appended by [`Self::save`].
    pub(super) fn load(&mut self, (shape, i): BlockAt, mut bytes: &[u8]) {
        let ((keys, values), heads) = (self.kind().lens(shape), shape.heads);
        for h in 0..heads {
            bytes = match self {
                Self::F32 { k, v } => {
                    let b = get(part(k.get_mut(), heads, h, i, keys), bytes, f32::from_le_bytes);
                    get(part(v.get_mut(), heads, h, i, values), b, f32::from_le_bytes)
                }
                Self::F16 { k, v } => {
                    let b = get(part(k.get_mut(), heads, h, i, keys), bytes, u16::from_le_bytes);
                    get(part(v.get_mut(), heads, h, i, values), b, u16::from_le_bytes)
                }
                Self::Q8 { k, v, v_scales } => {
                    let b = get(part(k.get_mut(), heads, h, i, keys), bytes, u8::from_le_bytes);
                    let b = get(part(v.get_mut(), heads, h, i, values), b, i8::from_le_bytes);
                    get(part(v_scales.get_mut(), heads, h, i, BLOCK), b, f32::from_le_bytes)
                }
                Self::Q4 { k, v, v_scales } => {
                    let b = get(part(k.get_mut(), heads, h, i, keys), bytes, u8::from_le_bytes);
                    let b = get(part(v.get_mut(), heads, h, i, values), b, u8::from_le_bytes);
                    get(part(v_scales.get_mut(), heads, h, i, BLOCK), b, f32::from_le_bytes)
                }
            };
        }
    }
}

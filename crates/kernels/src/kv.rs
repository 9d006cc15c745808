//! The operands of attention: cache blocks and packed queries, and the kernels that write them.

use crate::isa::Simd;
use crate::layout::{GROUP, LANES, LINE, Lanes, QUAD, q4_panel_bytes, q8_panel_bytes};
use crate::quantize::{code_values, quantize_values, rotate_block};

/// Positions per cache block and per step of the online softmax.
pub const BLOCK: usize = 64;
/// Key panels per block.
pub(crate) const BLOCK_PANELS: usize = BLOCK / LANES;

/// One block of 64 positions of one KV head, in one of the cache's encodings. `h` is the width of a key and
/// `w` that of a value, usually the same, padded to 16. Keys are stored like weights, in panels of 16 positions (the rows); values are stored
/// by position.
#[derive(Clone, Copy, Debug)]
pub enum KvBlock<'a> {
    /// 32-bit floats.
    F32 {
        /// `[4][h][16]`
        k: &'a [f32],
        /// `[64][w]`
        v: &'a [f32],
    },
    /// IEEE half precision, as bits.
    F16 {
        /// `[4][h][16]`
        k: &'a [u16],
        /// `[64][w]`
        v: &'a [u16],
    },
    /// 8 bits with a scale per position. Keys are rotated (see [`StoreKv`]), so queries must be too.
    Q8 {
        /// Q8 panels, `[4][16 f32 scales, h/4 lines]`
        k: &'a [u8],
        /// `[64][w]`
        v: &'a [i8],
        /// `[64]`
        v_scales: &'a [f32],
    },
    /// 4 bits, which select one of 16 levels, with a scale per position. Queries are those of the 8-bit
    /// cache.
    Q4 {
        /// `[4][16 f32 scales, h/8 lines]`; a line has 8 values of each key, the first four in its low
        /// nibbles
        k: &'a [u8],
        /// `[64][w/32 rounded up][16]`; a byte has value `i` of 32 in its low nibble, value `i + 16` in its
        /// high nibble
        v: &'a [u8],
        /// `[64]`
        v_scales: &'a [f32],
    },
}

/// Mutable [`KvBlock`].
#[derive(Debug)]
pub enum KvBlockMut<'a> {
    /// See [`KvBlock::F32`].
    F32 {
        /// `[4][h][16]`
        k: &'a mut [f32],
        /// `[64][w]`
        v: &'a mut [f32],
    },
    /// See [`KvBlock::F16`].
    F16 {
        /// `[4][h][16]`
        k: &'a mut [u16],
        /// `[64][w]`
        v: &'a mut [u16],
    },
    /// See [`KvBlock::Q8`].
    Q8 {
        /// `[4][16 f32 scales, h/4 lines]`
        k: &'a mut [u8],
        /// `[64][w]`
        v: &'a mut [i8],
        /// `[64]`
        v_scales: &'a mut [f32],
    },
    /// See [`KvBlock::Q4`].
    Q4 {
        /// `[4][16 f32 scales, h/8 lines]`
        k: &'a mut [u8],
        /// `[64][w/32 rounded up][16]`
        v: &'a mut [u8],
        /// `[64]`
        v_scales: &'a mut [f32],
    },
}

/// Element type of a cache.
pub(crate) trait Stored: Copy {
    fn load<S: Simd>(s: S, x: &[Self; LANES]) -> S::F;
}

impl Stored for f32 {
    #[inline(always)]
    fn load<S: Simd>(s: S, x: &Lanes) -> S::F {
        s.load(x)
    }
}

/// Half precision, as bits.
impl Stored for u16 {
    #[inline(always)]
    fn load<S: Simd>(s: S, x: &[u16; LANES]) -> S::F {
        s.load_f16(x)
    }
}

/// 8-bit values; their scales are folded into the attention weights.
impl Stored for i8 {
    #[inline(always)]
    fn load<S: Simd>(s: S, x: &[i8; LANES]) -> S::F {
        s.load_i8(x)
    }
}

/// Size of a Q8 key block in bytes.
pub const fn q8_key_block(head: usize) -> usize {
    BLOCK_PANELS * q8_panel_bytes(head)
}

/// Size of a Q4 key block in bytes.
pub const fn q4_key_block(head: usize) -> usize {
    BLOCK_PANELS * q4_panel_bytes(head)
}

/// Size of a Q4 value block in bytes.
pub const fn q4_value_block(head: usize) -> usize {
    BLOCK * LANES * head.div_ceil(2 * LANES)
}

/// Whether the width and the length of a block of keys, and of one of values, fit each other.
pub(crate) fn floats_fit((h, k): (usize, usize), (w, v): (usize, usize)) -> bool {
    widths_fit(h, w) && k == BLOCK * h && v == BLOCK * w
}

/// The same with 8 bits.
pub(crate) fn q8_fits((h, k): (usize, usize), (w, v): (usize, usize)) -> bool {
    widths_fit(h, w) && k == q8_key_block(h) && v == BLOCK * w
}

/// The same with 4 bits.
pub(crate) fn q4_fits((h, k): (usize, usize), (w, v): (usize, usize)) -> bool {
    widths_fit(h, w) && k == q4_key_block(h) && v == q4_value_block(w)
}

fn widths_fit(h: usize, w: usize) -> bool {
    [h, w].iter().all(|&width| width > 0 && width.is_multiple_of(LANES))
}

/// Arguments of `store_kv`, which stores one position of one KV head in its block.
#[derive(Debug)]
pub struct StoreKv<'a> {
    /// Key after RoPE, `h` values; clobbered.
    pub key: &'a mut [f32],
    /// Value, `w` values; clobbered.
    pub value: &'a mut [f32],
    /// Position within the block.
    pub at: usize,
    /// Hadamard block size for the keys of an 8-bit or 4-bit cache; divides the unpadded head size.
    pub rotation: usize,
    /// Destination block.
    pub to: KvBlockMut<'a>,
}

impl StoreKv<'_> {
    pub(crate) fn check(&self) {
        let (h, w) = (self.key.len(), self.value.len());
        assert!(self.at < BLOCK);
        assert!(self.rotation.is_power_of_two() && self.rotation <= GROUP);
        assert!(match &self.to {
            KvBlockMut::F32 { k, v } => floats_fit((h, k.len()), (w, v.len())),
            KvBlockMut::F16 { k, v } => floats_fit((h, k.len()), (w, v.len())),
            KvBlockMut::Q8 { k, v, v_scales } => {
                v_scales.len() == BLOCK && q8_fits((h, k.len()), (w, v.len()))
            }
            KvBlockMut::Q4 { k, v, v_scales } => {
                v_scales.len() == BLOCK && q4_fits((h, k.len()), (w, v.len()))
            }
        });
    }
}

#[inline(always)]
pub(crate) fn store_kv<S: Simd>(s: S, a: StoreKv<'_>) {
    let (head, width) = (a.key.len(), a.value.len());
    let (panel, lane) = (a.at / LANES, a.at % LANES);
    match a.to {
        KvBlockMut::F32 { k, v } => {
            let lines = k[panel * LANES * head..].as_chunks_mut::<LANES>().0;
            lines.iter_mut().zip(a.key).for_each(|(line, x)| line[lane] = *x);
            v[a.at * width..][..width].copy_from_slice(a.value);
        }
        KvBlockMut::F16 { k, v } => {
            let mut half = [0u16; LANES];
            let lines = k[panel * LANES * head..].as_chunks_mut::<LANES>().0;
            for (lines, x) in lines.chunks_mut(LANES).zip(a.key.as_chunks::<LANES>().0) {
                s.store_f16(s.load(x), &mut half);
                lines.iter_mut().zip(half).for_each(|(line, x)| line[lane] = x);
            }
            let v = v[a.at * width..][..width].as_chunks_mut::<LANES>().0;
            for (to, x) in v.iter_mut().zip(a.value.as_chunks::<LANES>().0) {
                s.store_f16(s.load(x), to);
            }
        }
        KvBlockMut::Q8 { k, v, v_scales } => {
            rotate_block(s, a.key, a.rotation);
            let (scales, lines) = k[panel * q8_panel_bytes(head)..].split_at_mut(LINE);
            let (scale, _) = quantize_values(s, a.key, |i, values| {
                let lines = lines.as_chunks_mut::<LINE>().0[LANES / QUAD * i..].iter_mut();
                for (line, quad) in lines.zip(values.as_chunks::<QUAD>().0) {
                    let stored = quad.map(|q| (q as u8) ^ 0x80);
                    line.as_chunks_mut::<QUAD>().0[lane] = stored;
                }
            });
            scales.as_chunks_mut().0[lane] = scale.to_le_bytes();
            let v = &mut v[a.at * width..][..width];
            let v = v.as_chunks_mut::<LANES>().0;
            let (scale, _) = quantize_values(s, a.value, |i, values| v[i] = values);
            v_scales[a.at] = scale;
        }
        KvBlockMut::Q4 { k, v, v_scales } => {
            rotate_block(s, a.key, a.rotation);
            let (scales, lines) = k[panel * q4_panel_bytes(head)..].split_at_mut(LINE);
            let scale = code_values(s, a.key, |i, codes| {
                let lines = lines.as_chunks_mut::<LINE>().0[2 * i..].iter_mut();
                for (line, codes) in lines.zip(codes.as_chunks::<{ 2 * QUAD }>().0) {
                    line.as_chunks_mut::<QUAD>().0[lane] =
                        std::array::from_fn(|t| codes[t] | codes[QUAD + t] << 4);
                }
            });
            scales.as_chunks_mut().0[lane] = scale.to_le_bytes();
            let v = v.as_chunks_mut::<LANES>().0;
            let row = v.len() / BLOCK;
            let v = &mut v[a.at * row..][..row];
            v_scales[a.at] = code_values(s, a.value, |i, codes| match i % 2 {
                0 => v[i / 2] = codes,
                _ => v[i / 2].iter_mut().zip(codes).for_each(|(byte, code)| *byte |= code << 4),
            });
        }
    }
}

/// Queries of one KV head, in chunks of 16 values; corresponding chunks of all queries are adjacent.
#[derive(Clone, Copy, Debug)]
pub enum Queries<'a> {
    /// `[h/16][n][16]`, for float caches.
    F32(&'a [f32]),
    /// Rotated and quantized to 8 bits with one scale per query, for the 8-bit and 4-bit caches.
    Q8 {
        /// `[h/16][n][16]`
        q: &'a [i8],
        /// `[n]`
        scales: &'a [f32],
        /// -128·Σ q, `[n]`
        sums: &'a [i32],
    },
}

/// Arguments of `pack_query`.
#[derive(Debug)]
pub struct PackQuery<'a> {
    /// Query after RoPE, `h` values; clobbered.
    pub x: &'a mut [f32],
    /// Index of the query, less than `n`.
    pub row: usize,
    /// See [`StoreKv`].
    pub rotation: usize,
    /// Destination for all `n` queries.
    pub to: QueriesMut<'a>,
}

/// Mutable [`Queries`].
#[derive(Debug)]
pub enum QueriesMut<'a> {
    /// See [`Queries::F32`].
    F32(&'a mut [f32]),
    /// See [`Queries::Q8`].
    Q8 {
        /// `[h/16][n][16]`
        q: &'a mut [i8],
        /// `[n]`
        scales: &'a mut [f32],
        /// -128·Σ q, `[n]`
        sums: &'a mut [i32],
    },
}

impl PackQuery<'_> {
    pub(crate) fn check(&self) {
        let h = self.x.len();
        assert!(h > 0 && h.is_multiple_of(LANES));
        assert!(self.rotation.is_power_of_two() && self.rotation <= GROUP);
        assert!(match &self.to {
            QueriesMut::F32(q) => q.len().is_multiple_of(h) && self.row < q.len() / h,
            QueriesMut::Q8 { q, scales, sums } => {
                let n = scales.len();
                self.row < n && sums.len() == n && q.len() == n * h
            }
        });
    }
}

#[inline(always)]
pub(crate) fn pack_query<S: Simd>(s: S, a: PackQuery<'_>) {
    match a.to {
        QueriesMut::F32(q) => {
            let n = q.len() / a.x.len();
            let q = q.as_chunks_mut::<LANES>().0.chunks_exact_mut(n);
            q.zip(a.x.as_chunks().0).for_each(|(to, x)| to[a.row] = *x);
        }
        QueriesMut::Q8 { q, scales, sums } => {
            rotate_block(s, a.x, a.rotation);
            let (n, q) = (scales.len(), q.as_chunks_mut::<LANES>().0);
            (scales[a.row], sums[a.row]) =
                quantize_values(s, a.x, |i, values| q[i * n + a.row] = values);
        }
    }
}

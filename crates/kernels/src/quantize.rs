//! Activations into the Hadamard domain and into int8, packed as the GEMM reads them.

use crate::isa::Simd;

/// Arguments of `rotate`: the orthonormal Walsh-Hadamard transform of consecutive blocks.
pub struct Rotate<'a> {
    /// Values, a multiple of 16 and of `block`.
    pub x: &'a mut [f32],
    /// Power of two up to 64; 1 leaves `x` as it is.
    pub block: usize,
}

impl Rotate<'_> {
    pub(crate) fn check(&self) {
        assert!(self.block.is_power_of_two() && self.block <= 64);
        assert!(self.x.len().is_multiple_of(self.block.max(16)));
    }
}

/// Flips the sign of the lanes whose index has bit `H`, so that `swap + flipped` is the butterfly
/// (a, b) → (a + b, a − b).
#[inline(always)]
fn butterfly<S: Simd, const H: usize>(s: S, x: S::F) -> S::F {
    const SIGN: [[f32; 16]; 4] = {
        let mut sign = [[1.0; 16]; 4];
        let mut i = 0;
        while i < 64 {
            if (i % 16) & (1 << (i / 16)) != 0 {
                sign[i / 16][i % 16] = -1.0;
            }
            i += 1;
        }
        sign
    };
    // Multiplying by ±1 is exact, so the fma rounds once, like the plain sum of the definition.
    s.fma(x, s.load(&SIGN[H.trailing_zeros() as usize]), s.swap::<H>(x))
}

#[inline(always)]
pub(crate) fn rotate<S: Simd>(s: S, a: Rotate<'_>) {
    rotate_block(s, a.x, a.block);
}

/// Stages 1, 2, 4, 8 within a register, then 16 and 32 across registers, then the scale 1/√size.
#[inline(always)]
pub(crate) fn rotate_block<S: Simd>(s: S, x: &mut [f32], size: usize) {
    if size == 1 {
        return;
    }
    let scale = s.splat(1.0 / (size as f32).sqrt());
    let registers = (size / 16).max(1);
    for block in x.as_chunks_mut::<16>().0.chunks_exact_mut(registers) {
        for lanes in block.iter_mut() {
            let mut x = butterfly::<S, 1>(s, s.load(lanes));
            if size >= 4 {
                x = butterfly::<S, 2>(s, x);
            }
            if size >= 8 {
                x = butterfly::<S, 4>(s, x);
            }
            if size >= 16 {
                x = butterfly::<S, 8>(s, x);
            }
            s.store(x, lanes);
        }
        let mut half = 1;
        while half < registers {
            for i in (0..registers).filter(|i| i & half == 0) {
                let (p, q) = (s.load(&block[i]), s.load(&block[i + half]));
                s.store(s.add(p, q), &mut block[i]);
                s.store(s.sub(p, q), &mut block[i + half]);
            }
            half *= 2;
        }
        for lanes in block.iter_mut() {
            s.store(s.mul(s.load(lanes), scale), lanes);
        }
    }
}

/// Arguments of `quantize`: one token's group of 64 values into a tile of packed activations.
pub struct Quantize<'a> {
    /// The group.
    pub x: &'a [f32; 64],
    /// Position of the token in its tile.
    pub row: usize,
    /// Tokens in the tile.
    pub tile: usize,
    /// The tile's part of this group, `[16 quads][tile][4]`.
    pub q: &'a mut [i8],
    /// Scales of this group in the tile, `[tile]`.
    pub scales: &'a mut [f32],
    /// Σ q of this group in the tile, `[tile]`.
    pub sums: &'a mut [i32],
}

impl Quantize<'_> {
    pub(crate) fn check(&self) {
        assert!(self.row < self.tile && self.q.len() == 64 * self.tile);
        assert!(self.scales.len() == self.tile && self.sums.len() == self.tile);
    }
}

/// Groups below this magnitude become zeros: 127 / amax would overflow.
const TINY: f32 = f32::from_bits((127 - 100) << 23); // 2^-100

#[inline(always)]
pub(crate) fn quantize<S: Simd>(s: S, a: Quantize<'_>) {
    let (scale, sum) = quantize_values(s, a.x, |i, quad| {
        a.q[(i * a.tile + a.row) * 4..][..4].copy_from_slice(&quad);
    });
    (a.scales[a.row], a.sums[a.row]) = (scale, sum);
}

/// q = round(x · 127 / amax), half to even, handed to `put` in quads; gives amax / 127 and Σ q.
/// `x` has a multiple of 16 values.
#[inline(always)]
pub(crate) fn quantize_values<S: Simd>(
    s: S,
    x: &[f32],
    mut put: impl FnMut(usize, [i8; 4]),
) -> (f32, i32) {
    let lanes = x.as_chunks::<16>().0;
    let mut largest = s.splat(0.0);
    for x in lanes {
        largest = s.max(largest, s.abs(s.load(x)));
    }
    let amax = s.max_lane(largest);
    let (scale, inverse) = if amax < TINY { (0.0, 0.0) } else { (amax / 127.0, 127.0 / amax) };
    let (inverse, limit, negative) = (s.splat(inverse), s.splat(127.0), s.splat(-127.0));
    let mut sum = 0;
    for (i, x) in lanes.iter().enumerate() {
        // Only a value that is not finite could leave ±127; it must still not wrap.
        let clamped = s.min(s.max(s.mul(s.load(x), inverse), negative), limit);
        let mut bytes = [0i8; 16];
        s.store_i8(s.round(clamped), &mut bytes);
        sum += bytes.iter().map(|&b| i32::from(b)).sum::<i32>();
        for (j, quad) in bytes.as_chunks::<4>().0.iter().enumerate() {
            put(4 * i + j, *quad);
        }
    }
    (scale, sum)
}

/// Arguments of `pack_f32`: as [`Quantize`], for the f32 reference encoding.
pub struct PackF32<'a> {
    /// The group.
    pub x: &'a [f32; 64],
    /// Position of the token in its tile.
    pub row: usize,
    /// Tokens in the tile.
    pub tile: usize,
    /// The tile's part of this group, `[64][tile]`.
    pub to: &'a mut [f32],
}

impl PackF32<'_> {
    /// Copies the group into its tile.
    pub fn run(self) {
        assert!(self.row < self.tile && self.to.len() == 64 * self.tile);
        for (x, to) in self.x.iter().zip(self.to.chunks_exact_mut(self.tile)) {
            to[self.row] = *x;
        }
    }
}

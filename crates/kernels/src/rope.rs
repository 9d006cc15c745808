//! Rotary position embedding (Su et al., "RoFormer", 2021), pairs `(i, i + half)`.

use crate::isa::Simd;
use crate::layout::LANES;

/// Computes cos and sin of the angles at one position, for every pair of a head.
///
/// `turns[i]` is the angle by which pair `i` rotates per position, as a fraction of a full turn in units
/// of 2⁻⁶⁴. Multiplying by the position wraps around like the angle itself, so the angle is exact at any
/// position; the rest is f64 arithmetic in a fixed order. The results are multiplied by `magnitude`,
/// usually 1.
pub fn rope_table(position: u64, turns: &[u64], magnitude: f64, cos: &mut [f32], sin: &mut [f32]) {
    for ((t, c), s) in turns.iter().zip(cos).zip(sin) {
        let (cosine, sine) = cos_sin(position.wrapping_mul(*t));
        (*c, *s) = ((cosine * magnitude) as f32, (sine * magnitude) as f32);
    }
}

/// cos and sin of 2π·turn/2⁶⁴.
fn cos_sin(turn: u64) -> (f64, f64) {
    // The nearest quarter turn, and the remainder in (-1/8, 1/8] turns.
    let quarter = (turn.wrapping_add(1 << 61)) >> 62;
    let rest = turn.wrapping_sub(quarter << 62) as i64;
    let x = rest as f64 * (std::f64::consts::TAU / 18_446_744_073_709_551_616.0);
    let x2 = x * x;
    // Taylor series: for |x| ≤ π/4 the first omitted term is below 1e-13.
    let poly = |terms: &[f64]| terms.iter().rev().fold(0.0, |sum, c| sum * x2 + c);
    const SIN: [f64; 7] = [
        1.0,
        -1.0 / 6.0,
        1.0 / 120.0,
        -1.0 / 5040.0,
        1.0 / 362_880.0,
        -1.0 / 39_916_800.0,
        1.0 / 6_227_020_800.0,
    ];
    const COS: [f64; 8] = [
        1.0,
        -1.0 / 2.0,
        1.0 / 24.0,
        -1.0 / 720.0,
        1.0 / 40_320.0,
        -1.0 / 3_628_800.0,
        1.0 / 479_001_600.0,
        -1.0 / 87_178_291_200.0,
    ];
    let (sine, cosine) = (x * poly(&SIN), poly(&COS));
    match quarter & 3 {
        0 => (cosine, sine),
        1 => (-sine, cosine),
        2 => (-cosine, -sine),
        _ => (sine, -cosine),
    }
}

/// Arguments of `rope`, which applies RoPE to one head in place.
#[derive(Debug)]
pub struct Rope<'a> {
    /// The head; the first `2·half` values are rotated.
    pub x: &'a mut [f32],
    /// Number of rotated pairs: head_dim / 2 or less.
    pub half: usize,
    /// Cosines from [`rope_table`], at least `half` values.
    pub cos: &'a [f32],
    /// Sines from [`rope_table`], at least `half` values.
    pub sin: &'a [f32],
}

impl Rope<'_> {
    pub(crate) fn check(&self) {
        assert!(self.x.len() >= 2 * self.half);
        assert!(self.cos.len() >= self.half && self.sin.len() >= self.half);
    }
}

/// (a, b) → (a·cos − b·sin, b·cos + a·sin), each as one product and one fused multiply-add.
#[inline(always)]
pub(crate) fn rope<S: Simd>(s: S, r: Rope<'_>) {
    let (first, second) = r.x.split_at_mut(r.half);
    if r.half.is_multiple_of(LANES) {
        let pairs =
            first.as_chunks_mut::<LANES>().0.iter_mut().zip(second.as_chunks_mut::<LANES>().0);
        let angles = r.cos.as_chunks::<LANES>().0.iter().zip(r.sin.as_chunks::<LANES>().0);
        for ((first, second), (cos, sin)) in pairs.zip(angles) {
            let (x, y) = rotate(s, s.load(first), s.load(second), s.load(cos), s.load(sin));
            s.store(x, first);
            s.store(y, second);
        }
        return;
    }
    for at in (0..r.half).step_by(LANES) {
        let n = (r.half - at).min(LANES);
        let read = |from: &[f32]| {
            let mut lanes = [0.0; LANES];
            lanes[..n].copy_from_slice(&from[at..at + n]);
            s.load(&lanes)
        };
        let (a, b) = (read(first), read(second));
        let (cos, sin) = (read(r.cos), read(r.sin));
        let (x, y) = rotate(s, a, b, cos, sin);
        let write = |to: &mut [f32], x: S::F| {
            let mut lanes = [0.0; LANES];
            s.store(x, &mut lanes);
            to[at..at + n].copy_from_slice(&lanes[..n]);
        };
        write(first, x);
        write(second, y);
    }
}

#[inline(always)]
fn rotate<S: Simd>(s: S, a: S::F, b: S::F, cos: S::F, sin: S::F) -> (S::F, S::F) {
    let minus_b_sin = s.sub(s.splat(0.0), s.mul(b, sin));
    (s.fma(a, cos, minus_b_sin), s.fma(b, cos, s.mul(a, sin)))
}

//! Corrects rows of weights for inputs that differ from those that the rows were trained on.
//!
//! If a row w receives inputs q instead of x, its outputs are nearest to w·x, in the least squares, for the
//! row w + w·C·H⁻¹ with C = Σ (x − q)·qᵀ and H = Σ q·qᵀ. Lanes are the 16 rows of a panel, as in the search.

use crate::isa::Simd;
use crate::layout::{GROUP, LANES, Lanes};
use crate::trellis_search::Feedback;

/// Columns processed together, whose coefficients share loads of the rows.
const TILE: usize = 4;

/// Arguments of `correct_rows`.
#[derive(Debug)]
pub struct CorrectRows<'a> {
    /// Inputs per row, a multiple of 64.
    pub k: usize,
    /// Weights, `[panels][k][16]`, to which the correction is added.
    pub rows: &'a mut [f32],
    /// Cᵀ, `[k][k]`.
    pub differences: &'a [f32],
    /// The factors of H.
    pub feedback: Feedback<'a>,
    /// Working memory of the size of `rows`.
    pub scratch: &'a mut [f32],
}

impl CorrectRows<'_> {
    pub(crate) fn check(&self) {
        let Self { k, rows, differences, feedback, scratch } = self;
        assert!(*k > 0 && k.is_multiple_of(GROUP) && rows.len().is_multiple_of(k * LANES));
        assert!(scratch.len() == rows.len() && differences.len() == k * k);
        assert!(feedback.factor.len() == k * k && feedback.pivots.len() == *k);
    }
}

#[inline(always)]
pub(crate) fn correct_rows<S: Simd>(s: S, a: CorrectRows<'_>) {
    let CorrectRows { k, rows, differences, feedback, scratch } = a;
    let rows = rows.as_chunks_mut::<LANES>().0;
    let out = scratch.as_chunks_mut::<LANES>().0;
    multiply(s, k, rows, differences, out);
    solve_transposed(s, k, feedback.factor, out);
    for panel in out.chunks_exact_mut(k) {
        for (x, pivot) in panel.iter_mut().zip(feedback.pivots) {
            s.store(s.div(s.load(x), s.splat(*pivot)), x);
        }
    }
    solve(s, k, feedback.factor, out);
    for (row, x) in rows.iter_mut().zip(&*out) {
        s.store(s.add(s.load(row), s.load(x)), row);
    }
}

/// The first `len` coefficients of the rows from `at`.
#[inline(always)]
fn coefficients(matrix: &[f32], k: usize, at: usize, len: usize) -> [&[f32]; TILE] {
    std::array::from_fn(|i| &matrix[(at + i) * k..][..len])
}

/// `out[to] = Σ_j rows[j] · matrix[to][j]`
#[inline(always)]
fn multiply<S: Simd>(s: S, k: usize, rows: &[Lanes], matrix: &[f32], out: &mut [Lanes]) {
    for to in (0..k).step_by(TILE) {
        let c = coefficients(matrix, k, to, k);
        for (rows, out) in rows.chunks_exact(k).zip(out.chunks_exact_mut(k)) {
            let mut acc = [s.splat(0.0); TILE];
            for (j, row) in rows.iter().enumerate() {
                let row = s.load(row);
                for i in 0..TILE {
                    acc[i] = s.fma(row, s.splat(c[i][j]), acc[i]);
                }
            }
            for i in 0..TILE {
                s.store(acc[i], &mut out[to + i]);
            }
        }
    }
}

/// Solves u·Mᵀ = x in place, the last column first.
#[inline(always)]
fn solve_transposed<S: Simd>(s: S, k: usize, factor: &[f32], x: &mut [Lanes]) {
    let zero = s.splat(0.0);
    for at in (0..k).step_by(TILE).rev() {
        let c = coefficients(factor, k, at, at + TILE);
        for x in x.chunks_exact_mut(k) {
            let (before, tile) = x[..at + TILE].split_at_mut(at);
            let mut u = [zero; TILE];
            for i in (0..TILE).rev() {
                let mut acc = s.load(&tile[i]);
                for j in (i + 1..TILE).rev() {
                    acc = s.fma(u[j], s.splat(c[j][at + i]), acc);
                }
                s.store(acc, &mut tile[i]);
                u[i] = s.sub(zero, acc);
            }
            for (j, x) in before.iter_mut().enumerate() {
                let mut acc = s.load(x);
                for i in (0..TILE).rev() {
                    acc = s.fma(u[i], s.splat(c[i][j]), acc);
                }
                s.store(acc, x);
            }
        }
    }
}

/// Solves y·M = x in place, the first column first.
#[inline(always)]
fn solve<S: Simd>(s: S, k: usize, factor: &[f32], x: &mut [Lanes]) {
    let zero = s.splat(0.0);
    for at in (0..k).step_by(TILE) {
        let c = coefficients(factor, k, at, at + TILE);
        for x in x.chunks_exact_mut(k) {
            let (before, tile) = x[..at + TILE].split_at_mut(at);
            let mut acc = [zero; TILE];
            for i in 0..TILE {
                acc[i] = s.load(&tile[i]);
            }
            for (j, y) in before.iter().enumerate() {
                let y = s.sub(zero, s.load(y));
                for i in 0..TILE {
                    acc[i] = s.fma(y, s.splat(c[i][j]), acc[i]);
                }
            }
            for i in 0..TILE {
                for j in 0..i {
                    let y = s.sub(zero, acc[j]);
                    acc[i] = s.fma(y, s.splat(c[i][at + j]), acc[i]);
                }
                s.store(acc[i], &mut tile[i]);
            }
        }
    }
}

//! Matrices in f32: sums of outer products, and the triangular factors of symmetric ones.
//!
//! A matrix of `k` rows is stored as `[k][k]`. Of a symmetric one, only its lower triangle is used: row `i` up to column `i`,
//! and for the sake of whole vectors up to the end of that block of 16 columns.

use crate::isa::Simd;
use crate::layout::{LANES, Lanes};

/// Rows factored at a time by `factor_rows`.
pub const FACTOR_ROWS: usize = 64;

/// Arguments of `add_outer`, which adds `±Σₜ x[t]·x[t]ᵀ` to rows of a symmetric matrix.
#[derive(Debug)]
pub struct AddOuter<'a> {
    /// Vectors of at least as many values as the last row has columns, `[panels][m][16]`.
    pub x: &'a [f32],
    /// Number of vectors.
    pub m: usize,
    /// Whether to subtract.
    pub subtract: bool,
    /// The first of the rows, a multiple of 16.
    pub first: usize,
    /// Consecutive rows, a multiple of 16, each of `k` values.
    pub rows: &'a mut [f32],
    /// Columns of the matrix, a multiple of 16.
    pub k: usize,
}

impl AddOuter<'_> {
    pub(crate) fn check(&self) {
        let Self { x, m, first, rows, k, .. } = self;
        assert!(*m > 0 && *k > 0 && k.is_multiple_of(LANES));
        assert!(first.is_multiple_of(LANES) && rows.len().is_multiple_of(k * LANES));
        assert!(first + rows.len() / k <= *k && x.len().is_multiple_of(m * LANES));
        assert!(x.len() / m >= first + rows.len() / k);
    }
}

#[inline(always)]
pub(crate) fn add_outer<S: Simd>(s: S, a: AddOuter<'_>) {
    match S::TILE {
        8 => add_outer_tiles::<S, 8, 3>(s, a),
        _ => add_outer_tiles::<S, 4, 1>(s, a),
    }
}

/// The same, in tiles of `R` rows and `C` blocks of columns. Blocks of columns are in the outer loop, for
/// their vectors then stay in the cache.
#[inline(always)]
fn add_outer_tiles<S: Simd, const R: usize, const C: usize>(s: S, a: AddOuter<'_>) {
    let AddOuter { x, m, subtract, first, rows, k } = a;
    let x = x.as_chunks::<LANES>().0;
    let last = (first + rows.len() / k) / LANES;
    for column in (0..last).step_by(C) {
        let from = (column * LANES).max(first);
        for (tile, rows) in rows.chunks_exact_mut(k * R).enumerate().skip((from - first) / R) {
            let row = first + tile * R;
            let left = &x[row / LANES * m..][..m];
            // Vector blocks up to the diagonal.
            let blocks = (row / LANES + 1).saturating_sub(column);
            let tile =
                Tile { left, lane: row % LANES, right: &x[column * m..], m, column, subtract };
            if blocks >= C {
                tile.add::<S, R, C>(s, rows, k);
            } else {
                for i in 0..blocks {
                    let (right, column) = (&x[(column + i) * m..], column + i);
                    Tile { right, column, ..tile }.add::<S, R, 1>(s, rows, k);
                }
            }
        }
    }
}

/// Arguments of `add_products`, which adds `Σₜ left[t]·right[t]ᵀ` to rows of a matrix.
#[derive(Debug)]
pub struct AddProducts<'a> {
    /// Vectors of `k` values, `[k/16][m][16]`.
    pub left: &'a [f32],
    /// As many others.
    pub right: &'a [f32],
    /// Number of vectors.
    pub m: usize,
    /// The first of the rows, a multiple of 16.
    pub first: usize,
    /// Consecutive rows, a multiple of 16, each of `k` values.
    pub rows: &'a mut [f32],
    /// Columns of the matrix, a multiple of 16.
    pub k: usize,
}

impl AddProducts<'_> {
    pub(crate) fn check(&self) {
        let Self { left, right, m, first, rows, k } = self;
        assert!(*m > 0 && *k > 0 && k.is_multiple_of(LANES));
        assert!(first.is_multiple_of(LANES) && rows.len().is_multiple_of(k * LANES));
        assert!(first + rows.len() / k <= *k && left.len() == m * k && right.len() == m * k);
    }
}

#[inline(always)]
pub(crate) fn add_products<S: Simd>(s: S, a: AddProducts<'_>) {
    match S::TILE {
        8 => add_product_tiles::<S, 8, 3>(s, a),
        _ => add_product_tiles::<S, 4, 1>(s, a),
    }
}

/// The same, in tiles of `R` rows and `C` blocks of columns.
#[inline(always)]
fn add_product_tiles<S: Simd, const R: usize, const C: usize>(s: S, a: AddProducts<'_>) {
    let AddProducts { left, right, m, first, rows, k } = a;
    let (left, right) = (left.as_chunks::<LANES>().0, right.as_chunks::<LANES>().0);
    for column in (0..k / LANES).step_by(C) {
        for (tile, rows) in rows.chunks_exact_mut(k * R).enumerate() {
            let row = first + tile * R;
            let left = &left[row / LANES * m..][..m];
            let right = &right[column * m..];
            let tile = Tile { left, lane: row % LANES, right, m, column, subtract: false };
            let blocks = k / LANES - column;
            if blocks >= C {
                tile.add::<S, R, C>(s, rows, k);
                continue;
            }
            for i in 0..blocks {
                let (right, column) = (&right[i * m..], column + i);
                Tile { right, column, ..tile }.add::<S, R, 1>(s, rows, k);
            }
        }
    }
}

/// Operands of a tile of the matrix.
#[derive(Clone, Copy)]
struct Tile<'a> {
    left: &'a [Lanes],  // [m]: the block of 16 rows that contains the tile's
    lane: usize,        // the tile's first row in that block
    right: &'a [Lanes], // blocks of 16 columns, [m] each
    m: usize,
    column: usize, // the first of these blocks
    subtract: bool,
}

impl Tile<'_> {
    #[inline(always)]
    fn add<S: Simd, const R: usize, const C: usize>(self, s: S, rows: &mut [f32], k: usize) {
        let mut acc = [[s.splat(0.0); C]; R];
        for (t, left) in self.left.iter().enumerate() {
            let left: &[f32; R] = left[self.lane..].first_chunk().expect("a tile divides a block");
            let mut right = [s.splat(0.0); C];
            for (c, right) in right.iter_mut().enumerate() {
                *right = s.load(&self.right[c * self.m + t]);
            }
            for r in 0..R {
                let left = s.splat(left[r]);
                for c in 0..C {
                    acc[r][c] = s.fma(left, right[c], acc[r][c]);
                }
            }
        }
        for (row, acc) in rows.chunks_exact_mut(k).zip(acc) {
            let row = &mut row.as_chunks_mut::<LANES>().0[self.column..];
            for c in 0..C {
                let old = s.load(&row[c]);
                let new = if self.subtract { s.sub(old, acc[c]) } else { s.add(old, acc[c]) };
                s.store(new, &mut row[c]);
            }
        }
    }
}

/// Arguments of `factor_rows`, one step of the factorization H = Rᵀ·R with a lower triangular R.
///
/// The step replaces the last rows of H by those of R. Then the outer products of these rows have to be
/// subtracted from the rows before them (`add_outer`, to which `packed` is passed), which makes these H's
/// last rows for the next step.
#[derive(Debug)]
pub struct FactorRows<'a> {
    /// The rows, up to [`FACTOR_ROWS`], `[rows][k]`.
    pub rows: &'a mut [f32],
    /// The first of them, a multiple of 16.
    pub first: usize,
    /// Columns of the matrix, a multiple of 16.
    pub k: usize,
    /// Output: columns 0 to `first` of the rows, last row first, `[first/16][rows][16]`.
    pub packed: &'a mut [f32],
}

impl FactorRows<'_> {
    pub(crate) fn check(&self) {
        let Self { rows, first, k, packed } = self;
        assert!(*k > 0 && k.is_multiple_of(LANES) && rows.len().is_multiple_of(*k));
        let n = rows.len() / k;
        assert!(first.is_multiple_of(LANES) && first + n <= *k && packed.len() == first * n);
    }
}

#[inline(always)]
pub(crate) fn factor_rows<S: Simd>(s: S, a: FactorRows<'_>) {
    let FactorRows { rows, first, k, packed } = a;
    let n = rows.len() / k;
    for i in (0..n).rev() {
        let (others, row) = rows.split_at_mut(i * k);
        let row = &mut row.as_chunks_mut::<LANES>().0[..(first + i) / LANES + 1];
        let diagonal = |row: &[Lanes], i: usize| row[(first + i) / LANES][(first + i) % LANES];
        let root = s.splat(diagonal(row, i).sqrt());
        for x in &mut *row {
            s.store(s.div(s.load(x), root), x);
        }
        for (j, other) in others.chunks_exact_mut(k).enumerate() {
            let factor = s.splat(-diagonal(row, j));
            let len = (first + j) / LANES + 1;
            for (to, x) in other.as_chunks_mut::<LANES>().0.iter_mut().zip(&row[..len]) {
                s.store(s.fma(factor, s.load(x), s.load(to)), to);
            }
        }
    }
    for (block, packed) in packed.as_chunks_mut::<LANES>().0.chunks_exact_mut(n).enumerate() {
        for (row, to) in rows.chunks_exact(k).rev().zip(packed) {
            *to = row.as_chunks().0[block];
        }
    }
}

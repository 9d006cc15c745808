//! Chooses the codes of trellis-coded rows: a Viterbi search (Ungerboeck, "Channel coding with
//! multilevel/phase signals", 1982) in which every survivor carries the feedback of its own errors.
//!
//! Rounding a weight changes the outputs of its row. With H, the mean of x·xᵀ over inputs x, the change
//! is δ·H·δᵀ, where δ is the row minus its levels. If H = M·D·Mᵀ, where M is upper triangular with a unit
//! diagonal and D diagonal, then
//!
//! ```text
//! δ·H·δᵀ = Σ_k D[k] · (target[k] − level[k])²,   target[k] = row[k] + Σ_{j<k} δ[j] · M[j][k]
//! ```
//!
//! so a column should be near its target rather than its weight (Frantar et al., "GPTQ", 2022; in this
//! form Chee et al., "QuIP", 2023). In a trellis, the levels of a column depend on the codes before it.
//! The search keeps the best path into each state. Targets depend on the path, so a path carries its
//! errors δ: not all of them, but those of the last 32 to 64 columns. Older columns have been decided,
//! for nearly always all paths agree on them, and those that don't are dropped. The errors of decided
//! columns are common to all paths and are added to the targets of later columns in blocks, like a matrix
//! product.
//!
//! Lanes are the 16 rows of a panel. A lane computes the same whatever the others hold, and every sum
//! has one order, so the codes are the same on every instruction set.

use std::ops::Range;

use crate::isa::Simd;
use crate::layout::{GROUP, LANES, Lanes};
use crate::survivors::{CHUNK, Column, Survivors, WINDOW};
use crate::trellis::STRANDS;
use crate::trellis_table::SearchTable;

/// Columns whose errors are added to all later columns together.
const BLOCK: usize = 128;

/// Arguments of `search_trellis`, which chooses the codes of panels.
///
/// Columns are in strand order: inputs 0, 8, 16, …, then 1, 9, 17, …, and so on. A strand, an eighth of
/// the columns, starts at state 0.
#[derive(Debug)]
pub struct SearchTrellis<'a> {
    /// Inputs per row, a multiple of 64.
    pub k: usize,
    /// Weights in units of the levels, `[panels][k][16]`. The search replaces them by their errors: weight
    /// minus chosen level.
    pub rows: &'a mut [f32],
    /// The levels and transitions.
    pub table: &'a SearchTable,
    /// How errors affect later columns; without, each weight counts alone and equally.
    pub feedback: Option<Feedback<'a>>,
    /// Output: the codes, `[panels][k][16]`.
    pub codes: &'a mut [u8],
    /// Output: δ·H·δᵀ of each row, or without feedback the sum of its squared errors, `[panels][16]`.
    pub costs: &'a mut [f32],
    /// Working memory.
    pub scratch: &'a mut SearchScratch,
}

/// The factors of H = M·D·Mᵀ, with columns in strand order.
#[derive(Clone, Copy, Debug)]
pub struct Feedback<'a> {
    /// Mᵀ, `[k][k]`: row `k` holds the coefficients of the errors of columns 0 to `k`−1. The rest is
    /// ignored.
    pub factor: &'a [f32],
    /// D, `[k]`: all positive.
    pub pivots: &'a [f32],
}

/// Working memory of `search_trellis`.
#[derive(Debug)]
pub struct SearchScratch {
    survivors: Vec<Survivors>, // one per panel
    targets: Vec<Lanes>,       // [panels][k]: rows plus the feedback of decided columns
}

impl SearchScratch {
    /// Room for searches of up to `panels` panels of `k` inputs.
    pub fn new(panels: usize, k: usize) -> Self {
        let survivors = (0..panels).map(|_| Survivors::new()).collect();
        Self { survivors, targets: vec![[0.0; LANES]; panels * k] }
    }
}

impl SearchTrellis<'_> {
    pub(crate) fn check(&self) {
        let Self { k, rows, codes, costs, scratch, .. } = self;
        assert!(*k > 0 && k.is_multiple_of(GROUP));
        assert!(rows.len().is_multiple_of(k * LANES) && rows.len() == codes.len());
        assert!(costs.len() * k == rows.len());
        let panels = rows.len() / (k * LANES);
        assert!(panels <= scratch.survivors.len() && panels * k <= scratch.targets.len());
        if let Some(feedback) = self.feedback {
            assert!(feedback.factor.len() == k * k && feedback.pivots.len() == *k);
        }
    }
}

#[inline(always)]
pub(crate) fn search_trellis<S: Simd>(s: S, a: SearchTrellis<'_>) {
    let SearchTrellis { k, rows, table, feedback, codes, costs, scratch } = a;
    let rows = rows.as_chunks_mut::<LANES>().0;
    let codes = codes.as_chunks_mut::<LANES>().0;
    let costs = costs.as_chunks_mut::<LANES>().0;
    costs.fill([0.0; LANES]);
    let search = Search { k, table, rows, codes, costs, targets: &mut scratch.targets, feedback };
    match (table.levels_per_branch(), feedback.is_some()) {
        (2, false) => search.run::<S, 2, false>(s, &mut scratch.survivors),
        (2, true) => search.run::<S, 2, true>(s, &mut scratch.survivors),
        (4, false) => search.run::<S, 4, false>(s, &mut scratch.survivors),
        (4, true) => search.run::<S, 4, true>(s, &mut scratch.survivors),
        (8, false) => search.run::<S, 8, false>(s, &mut scratch.survivors),
        (8, true) => search.run::<S, 8, true>(s, &mut scratch.survivors),
        (_, false) => search.run::<S, 16, false>(s, &mut scratch.survivors),
        (_, true) => search.run::<S, 16, true>(s, &mut scratch.survivors),
    }
}

/// Consecutive columns of a strand.
#[derive(Clone, Copy)]
struct Chunk {
    at: usize,
    len: usize,
    /// Whether they are the first of the strand.
    first: bool,
    /// Whether they are the last.
    last: bool,
}

/// Divides `k` columns into chunks; the last one of a strand may be shorter.
fn chunks(k: usize) -> impl Iterator<Item = Chunk> {
    let strand = k / STRANDS;
    (0..k).step_by(strand).flat_map(move |start| {
        (0..strand).step_by(CHUNK).map(move |from| Chunk {
            at: start + from,
            len: CHUNK.min(strand - from),
            first: from == 0,
            last: from + CHUNK >= strand,
        })
    })
}

struct Search<'a> {
    k: usize,
    table: &'a SearchTable,
    rows: &'a mut [Lanes],
    codes: &'a mut [[u8; LANES]],
    costs: &'a mut [Lanes],
    targets: &'a mut [Lanes],
    feedback: Option<Feedback<'a>>,
}

impl Search<'_> {
    /// Searches with `N` levels per branch. All panels advance together, so that the factor is read from
    /// memory once.
    #[inline(always)]
    fn run<S: Simd, const N: usize, const FEED: bool>(mut self, s: S, all: &mut [Survivors]) {
        let panels = self.rows.len() / self.k;
        if FEED {
            self.targets[..self.rows.len()].copy_from_slice(self.rows);
        }
        // The errors of columns up to `decided` are in the targets of the columns up to `near`, those up
        // to `spread` also in the targets after these.
        let (mut spread, mut decided, mut near) = (0, 0, self.k.min(BLOCK));
        for chunk in chunks(self.k) {
            let end = chunk.at + chunk.len;
            if FEED && end > near {
                self.spread(s, spread..decided, near..self.k);
                (spread, near) = (decided, self.k.min(near + BLOCK));
            }
            for (panel, survivors) in all[..panels].iter_mut().enumerate() {
                self.extend::<S, N, FEED>(s, survivors, panel, chunk);
                if !chunk.first {
                    self.decide::<N, FEED>(survivors, panel, chunk.at - CHUNK, 0..CHUNK);
                    survivors.prune(self.table.states());
                }
                if chunk.last {
                    self.decide::<N, FEED>(survivors, panel, chunk.at, CHUNK..CHUNK + chunk.len);
                } else {
                    survivors.advance(FEED);
                }
            }
            let now = if chunk.last { end } else { chunk.at };
            if FEED {
                self.spread(s, decided..now, end..near);
            }
            decided = now;
        }
    }

    /// Extends all paths of a panel by a chunk.
    #[inline(always)]
    fn extend<S: Simd, const N: usize, const FEED: bool>(
        &mut self,
        s: S,
        survivors: &mut Survivors,
        panel: usize,
        Chunk { at, len, first, .. }: Chunk,
    ) {
        let (k, states) = (self.k, self.table.states());
        let rows = &self.rows[panel * k..][..k];
        let targets = &self.targets[panel * k..][..k];
        let start = if first { CHUNK } else { 0 };
        if first {
            survivors.start();
        }
        let Feedback { factor, pivots } =
            self.feedback.unwrap_or(Feedback { factor: &[], pivots: &[] });
        // For column `to`, the coefficients of the undecided columns, `n` of them in this chunk.
        let undecided = |to: usize, n: usize| &factor[to * k..][at + start - CHUNK..at + n];
        if FEED {
            survivors.targets(s, states, &targets[at], undecided(at, 0));
        }
        survivors.begin(states);
        for j in 0..len {
            let column = Column { row: &rows[at + j], at: CHUNK + j, start, pivot: 1.0 };
            if !FEED {
                survivors.step::<S, N, false>(s, self.table, column, column.row, &[]);
                continue;
            }
            let column = Column { pivot: pivots[at + j], ..column };
            let (next, coefficients) = if j + 1 < len {
                (&targets[at + j + 1], undecided(at + j + 1, j + 1))
            } else {
                // Targets after this chunk are computed once more columns are decided.
                (&[0.0; LANES], &[0.0; WINDOW][start..=column.at])
            };
            survivors.step::<S, N, true>(s, self.table, column, next, coefficients);
        }
    }

    /// Decides the columns from `at`, which are these columns of the survivors' window.
    #[inline(always)]
    fn decide<const N: usize, const FEED: bool>(
        &mut self,
        survivors: &mut Survivors,
        panel: usize,
        at: usize,
        window: Range<usize>,
    ) {
        let mut states = survivors.best(self.table.states(), window.start == 0);
        let columns = panel * self.k + at..panel * self.k + at + window.len();
        let costs = &mut self.costs[panel];
        let pivots = self.feedback.map_or(&[][..], |f| &f.pivots[at..][..window.len()]);
        let start = window.start;
        let rows = self.rows[columns.clone()].iter_mut().zip(&mut self.codes[columns]);
        for ((row, codes), j) in rows.zip(window).rev() {
            let pivot = if FEED { pivots[j - start] } else { 1.0 };
            for lane in 0..LANES {
                let (state, bit, x) =
                    survivors.trace::<FEED>(self.table, j, states[lane], lane, row[lane]);
                let (code, level) = self.table.nearest::<N>(state, bit, x);
                states[lane] = state;
                codes[lane] = code;
                row[lane] -= level;
                costs[lane] += pivot * (x - level) * (x - level);
            }
        }
    }

    /// Adds the errors of the columns `from` to the targets of the columns `to`.
    #[inline(always)]
    fn spread<S: Simd>(&mut self, s: S, from: Range<usize>, to: Range<usize>) {
        match S::TILE {
            8 => self.spread_tiles::<S, 8>(s, from, to),
            _ => self.spread_tiles::<S, 4>(s, from, to),
        }
    }

    /// The same, `T` columns at a time.
    #[inline(always)]
    fn spread_tiles<S: Simd, const T: usize>(
        &mut self,
        s: S,
        from: Range<usize>,
        to: Range<usize>,
    ) {
        let (k, Some(feedback)) = (self.k, self.feedback) else { return };
        if from.is_empty() {
            return;
        }
        for to in to.step_by(T) {
            let factor: [&[f32]; T] =
                std::array::from_fn(|i| &feedback.factor[(to + i) * k..][from.clone()]);
            for (rows, targets) in self.rows.chunks_exact(k).zip(self.targets.chunks_exact_mut(k)) {
                let targets: &mut [Lanes; T] =
                    targets[to..].first_chunk_mut().expect("columns are a multiple of 8");
                let mut acc = [s.splat(0.0); T];
                for i in 0..T {
                    acc[i] = s.load(&targets[i]);
                }
                for (j, row) in rows[from.clone()].iter().enumerate() {
                    let row = s.load(row);
                    for i in 0..T {
                        acc[i] = s.fma(row, s.splat(factor[i][j]), acc[i]);
                    }
                }
                for i in 0..T {
                    s.store(acc[i], &mut targets[i]);
                }
            }
        }
    }
}

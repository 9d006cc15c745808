//! The best paths into each state of a trellis, for the 16 rows of a panel.

use crate::isa::Simd;
use crate::layout::{LANES, Lanes};
use crate::trellis_table::{Levels, MAX_STATES, SearchTable};

/// Columns decided together; fewer at the end of a strand.
pub(crate) const CHUNK: usize = 32;
/// Undecided columns: those of the chunk in progress, and those of the chunk before it.
pub(crate) const WINDOW: usize = 2 * CHUNK;
/// Cost of a path that does not exist.
const NEVER: f32 = 1e30;

/// The best path into each state. In vectors that belong to states, state `q` is at index `place(q)`.
#[derive(Debug)]
pub(crate) struct Survivors {
    steps: usize,                           // columns since the strand's start
    cost: [Lanes; MAX_STATES],              // of the path
    target: [Lanes; MAX_STATES],            // of the next column
    origin: [Lanes; MAX_STATES], // the path's state at the end of the chunk before this one
    errors: [[Lanes; MAX_STATES]; WINDOW], // weight minus level, of each undecided column
    targets: [[Lanes; MAX_STATES]; WINDOW], // of each undecided column, by the state before it
    from: [[u16; MAX_STATES]; WINDOW], // a bit per row: which predecessor, by the state after it
}

/// A column to add to all paths.
#[derive(Clone, Copy)]
pub(crate) struct Column<'a> {
    /// Its weights.
    pub row: &'a Lanes,
    /// Its index in the window.
    pub at: usize,
    /// The first undecided column in the window.
    pub start: usize,
    /// Weight of its error.
    pub pivot: f32,
}

impl Survivors {
    pub(crate) fn new() -> Self {
        Self {
            steps: 0,
            cost: [[0.0; LANES]; MAX_STATES],
            target: [[0.0; LANES]; MAX_STATES],
            origin: [[0.0; LANES]; MAX_STATES],
            errors: [[[0.0; LANES]; MAX_STATES]; WINDOW],
            targets: [[[0.0; LANES]; MAX_STATES]; WINDOW],
            from: [[0; MAX_STATES]; WINDOW],
        }
    }

    /// Begins a strand: all paths start at state 0.
    pub(crate) fn start(&mut self) {
        self.steps = 0;
        self.cost = [[NEVER; LANES]; MAX_STATES];
        self.cost[0] = [0.0; LANES];
    }

    /// Begins a chunk.
    pub(crate) fn begin(&mut self, states: usize) {
        for state in 0..states {
            self.origin[self.place(states, state)] = [state as f32; LANES];
        }
    }

    /// The index of a state in vectors that belong to states. State 2q + b mod n follows states q and
    /// q + n/2. A step replaces their vectors by those of 2q and 2q + 1, which rotates the bits of a
    /// state's index.
    #[inline(always)]
    fn place(&self, states: usize, state: usize) -> usize {
        let bits = states.trailing_zeros() as usize;
        let turn = self.steps % bits;
        (state >> turn | state << (bits - turn)) & (states - 1)
    }

    /// Computes the targets of the first column of a chunk from those without the errors of the columns
    /// before it, all of which `coefficients` covers.
    #[inline(always)]
    pub(crate) fn targets<S: Simd>(
        &mut self,
        s: S,
        states: usize,
        target: &Lanes,
        coefficients: &[f32],
    ) {
        let errors = &self.errors[CHUNK - coefficients.len()..CHUNK];
        for (place, to) in self.target[..states].iter_mut().enumerate() {
            let mut acc = s.load(target);
            for (errors, c) in errors.iter().zip(coefficients) {
                acc = s.fma(s.load(&errors[place]), s.splat(*c), acc);
            }
            s.store(acc, to);
        }
    }

    /// Extends every path by a column. With `FEED`, computes the targets of the next column from `next`,
    /// its target without the errors of undecided columns, and the coefficients of these errors.
    #[inline(always)]
    pub(crate) fn step<S: Simd, const N: usize, const FEED: bool>(
        &mut self,
        s: S,
        table: &SearchTable,
        column: Column<'_>,
        next: &Lanes,
        coefficients: &[f32],
    ) {
        let half = table.states() / 2;
        let (row, pivot) = (s.load(column.row), s.splat(column.pivot));
        let mut common = [(row, row); 4];
        if !FEED {
            for (common, levels) in common.iter_mut().zip(table.branches()) {
                *common = nearest::<S, N>(s, row, levels);
            }
        }
        for q in 0..half {
            let before = [q, q + half];
            let place = [self.place(2 * half, q), self.place(2 * half, q + half)];
            let mut take = [s.less(row, row); 2];
            let (mut level, mut cost) = ([row; 2], [row; 2]);
            let old = [s.load(&self.cost[place[0]]), s.load(&self.cost[place[1]])];
            let x = [s.load(&self.target[place[0]]), s.load(&self.target[place[1]])];
            for bit in 0..2 {
                let mut branch = [(row, row); 2];
                for i in 0..2 {
                    let set = table.branch(before[i], bit);
                    let (level, square) = if FEED {
                        nearest::<S, N>(s, x[i], &table.branches()[set])
                    } else {
                        common[set]
                    };
                    branch[i] = (level, s.fma(square, pivot, old[i]));
                }
                // At equal cost, the lower state stays.
                take[bit] = s.less(branch[1].1, branch[0].1);
                level[bit] = s.select(take[bit], branch[1].0, branch[0].0);
                cost[bit] = s.select(take[bit], branch[1].1, branch[0].1);
                self.from[column.at][2 * q + bit] = s.mask_bits(take[bit]);
            }
            s.store(cost[0], &mut self.cost[place[0]]);
            s.store(cost[1], &mut self.cost[place[1]]);
            exchange(s, &mut self.origin, place, take);
            if FEED {
                s.store(x[0], &mut self.targets[column.at][before[0]]);
                s.store(x[1], &mut self.targets[column.at][before[1]]);
                let next = s.load(next);
                let mut target = [next, next];
                let (last, coefficients) = coefficients.split_last().expect("this column's");
                let errors = &mut self.errors[column.start..=column.at];
                let (errors, this) = errors.split_at_mut(coefficients.len());
                for (errors, c) in errors.iter_mut().zip(coefficients) {
                    let kept = exchange(s, errors, place, take);
                    let c = s.splat(*c);
                    target[0] = s.fma(kept[0], c, target[0]);
                    target[1] = s.fma(kept[1], c, target[1]);
                }
                for bit in 0..2 {
                    let error = s.sub(row, level[bit]);
                    s.store(error, &mut this[0][place[bit]]);
                    target[bit] = s.fma(error, s.splat(*last), target[bit]);
                    s.store(target[bit], &mut self.target[place[bit]]);
                }
            }
        }
        self.steps += 1;
    }

    /// The state in which the best path of each row ends, or `before`, its state one chunk earlier.
    #[inline(always)]
    pub(crate) fn best(&self, states: usize, before: bool) -> [u8; LANES] {
        let (mut best, mut cost) = ([0; LANES], [f32::INFINITY; LANES]);
        for state in 0..states {
            let place = self.place(states, state);
            for lane in 0..LANES {
                if self.cost[place][lane] < cost[lane] {
                    cost[lane] = self.cost[place][lane];
                    let origin = self.origin[place][lane] as u8;
                    best[lane] = if before { origin } else { state as u8 };
                }
            }
        }
        best
    }

    /// Drops the paths that differ from the best path before this chunk, and makes costs relative to the
    /// best.
    #[inline(always)]
    pub(crate) fn prune(&mut self, states: usize) {
        let origin = self.best(states, true);
        let mut least = [f32::INFINITY; LANES];
        for cost in &self.cost[..states] {
            for lane in 0..LANES {
                least[lane] = least[lane].min(cost[lane]);
            }
        }
        for (cost, from) in self.cost[..states].iter_mut().zip(&self.origin) {
            for lane in 0..LANES {
                let same = from[lane] == f32::from(origin[lane]);
                cost[lane] = if same { cost[lane] - least[lane] } else { NEVER };
            }
        }
    }

    /// Makes the chunk in progress the one before.
    pub(crate) fn advance(&mut self, feed: bool) {
        self.from.copy_within(CHUNK.., 0);
        if feed {
            self.errors.copy_within(CHUNK.., 0);
            self.targets.copy_within(CHUNK.., 0);
        }
    }

    /// Traces the path of a row back from `state` over the column at `at`: the state before it, the
    /// lowest bit of its code, and the value that was quantized, which without feedback is its weight.
    #[inline(always)]
    pub(crate) fn trace<const FEED: bool>(
        &self,
        table: &SearchTable,
        at: usize,
        state: u8,
        lane: usize,
        weight: f32,
    ) -> (u8, u8, f32) {
        let upper = self.from[at][usize::from(state)] >> lane & 1;
        let before = usize::from(state >> 1) + usize::from(upper) * table.states() / 2;
        let x = if FEED { self.targets[at][before][lane] } else { weight };
        (before as u8, state & 1, x)
    }
}

/// The nearest of a branch's levels to each `x`, and the squared distance.
#[inline(always)]
fn nearest<S: Simd, const N: usize>(s: S, x: S::F, branch: &Levels) -> (S::F, S::F) {
    let mut level = s.splat(branch.levels[0]);
    for i in 1..N {
        let above = s.less(s.splat(branch.midpoints[i - 1]), x);
        level = s.select(above, s.splat(branch.levels[i]), level);
    }
    let error = s.sub(x, level);
    (level, s.mul(error, error))
}

/// Replaces the vectors of two states by those of their two successors: that of the second state where
/// `take`, else that of the first.
#[inline(always)]
fn exchange<S: Simd>(
    s: S,
    of: &mut [Lanes; MAX_STATES],
    place: [usize; 2],
    take: [S::Mask; 2],
) -> [S::F; 2] {
    let old = [s.load(&of[place[0]]), s.load(&of[place[1]])];
    let new = [s.select(take[0], old[1], old[0]), s.select(take[1], old[1], old[0])];
    s.store(new[0], &mut of[place[0]]);
    s.store(new[1], &mut of[place[1]]);
    new
}

//! Rounds rows to trellis codes, without regard to the inputs they will be multiplied by.

use nanoinfer_format::LANES;
use nanoinfer_kernels::trellis::STRANDS;
use nanoinfer_kernels::{Trellis, trellis_panel};

/// Packs 16 rows of `k` inputs (rotated and padded) as one trellis-coded panel.
pub(crate) fn round_panel(t: &Trellis, rows: &[f32], k: usize, out: &mut [u8]) {
    let mut codes = vec![0; LANES * k];
    let mut scales = [0.0; LANES];
    let mut search = Search::new(t, k.div_ceil(STRANDS));
    for ((row, codes), scale) in
        rows.chunks_exact(k).zip(codes.chunks_exact_mut(k)).zip(&mut scales)
    {
        *scale = row_scale(t, row);
        // For a row of zeros or nearly zeros, the inverse would not be finite.
        let inverse = if *scale < 1e-30 { 0.0 } else { 1.0 / *scale };
        *scale = if inverse == 0.0 { 0.0 } else { *scale };
        for strand in 0..STRANDS {
            let target = row[strand..].iter().step_by(STRANDS).map(|w| w * inverse);
            let code = codes[strand..].iter_mut().step_by(STRANDS);
            search.nearest(t, target, code);
        }
    }
    trellis_panel(t, &codes, &scales, out);
}

/// The scale for which the code's levels were trained.
fn row_scale(t: &Trellis, row: &[f32]) -> f32 {
    let squares: f64 = row.iter().map(|w| f64::from(*w) * f64::from(*w)).sum();
    (squares / row.len() as f64).sqrt() as f32 * t.unit / 127.0
}

/// The Viterbi algorithm: the sequence of codes whose levels are nearest to the targets.
struct Search {
    /// Code and previous state of the best path to each state, per weight.
    steps: Vec<Vec<(u8, u8)>>,
    costs: Vec<f32>,
    next: Vec<f32>,
}

impl Search {
    fn new(t: &Trellis, weights: usize) -> Self {
        let states = usize::from(t.states);
        Self {
            steps: vec![vec![(0, 0); states]; weights],
            costs: vec![0.0; states],
            next: vec![0.0; states],
        }
    }

    fn nearest<'c>(
        &mut self,
        t: &Trellis,
        targets: impl Iterator<Item = f32>,
        codes: impl DoubleEndedIterator<Item = &'c mut u8> + ExactSizeIterator,
    ) {
        self.costs.fill(f32::INFINITY);
        self.costs[0] = 0.0; // the history is 0 at the start of a row
        for (steps, target) in self.steps.iter_mut().zip(targets) {
            self.next.fill(f32::INFINITY);
            let nearest = nearest_levels(t, target);
            for (state, cost) in self.costs.iter().enumerate() {
                for bit in 0..2 {
                    let (c, distance) = nearest[t.pair(bit, state as u32)];
                    let code = c << 1 | bit;
                    let to = t.next(code, state as u32) as usize;
                    if cost + distance < self.next[to] {
                        self.next[to] = cost + distance;
                        steps[to] = (code, state as u8);
                    }
                }
            }
            std::mem::swap(&mut self.costs, &mut self.next);
        }
        let by_cost = |a: &usize, b: &usize| self.costs[*a].total_cmp(&self.costs[*b]);
        let mut state = (0..self.costs.len()).min_by(by_cost).unwrap_or(0);
        let n = codes.len();
        for (steps, to) in self.steps[..n].iter().zip(codes).rev() {
            let (code, from) = steps[state];
            (*to, state) = (code, usize::from(from));
        }
    }
}

/// Of the levels 4c + pair, for each pair: the nearest one's c, and its squared distance.
fn nearest_levels(t: &Trellis, target: f32) -> [(u8, f32); 4] {
    std::array::from_fn(|pair| {
        let levels = t.levels[pair..].iter().step_by(4);
        let distance = |level: &i8| (target - f32::from(*level)) * (target - f32::from(*level));
        levels.map(distance).zip(0u8..).fold((0, f32::INFINITY), |best, (distance, c)| {
            if distance < best.1 { (c, distance) } else { best }
        })
    })
}

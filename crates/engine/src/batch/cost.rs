//! Predicts how long a pass takes, from its rows and the positions to which they attend.
//!
//! There is a running mean of measured passes for each magnitude of the number of rows, so that a long time of
//! decoding does not erase what prefill costs. A linear model, `pass + row·rows + position·positions`, is fitted to
//! them. Before much has been measured, its shape is that of a small model on a desktop CPU.
//!
//! Costs have steps: with a matrix unit, 16 rows take nearly as long as 32. So only what positions cost, and rows beyond
//! what was measured recently, comes from the linear model, and costs are interpolated between recent means. A pass may
//! take a little longer than its budget: if that is nearer to it, at a step, and one in many others, as nothing
//! would be learnt of passes that are predicted to take too long.

use std::iter;

/// Costs of a pass, in milliseconds.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct PassCosts {
    /// A pass without rows.
    pub pass: f64,
    /// Each row.
    pub row: f64,
    /// Each position to which a row attends.
    pub position: f64,
}

impl PassCosts {
    /// Relative costs before anything has been measured.
    const ASSUMED: Self = Self { pass: 1.0, row: 0.06, position: 2e-5 };

    fn of(&self, rows: f64, positions: f64) -> f64 {
        self.pass + self.row * rows + self.position * positions
    }

    fn scaled(&self, by: f64) -> Self {
        Self { pass: self.pass * by, row: self.row * by, position: self.position * by }
    }
}

/// Magnitudes of the number of rows: 1, 2, 3–4, 5–8, …, 129–256.
const MAGNITUDES: usize = 9;
/// Weight of a new measurement in a running mean.
const SHARE: f64 = 0.15;
/// Weight of the assumed costs, relative to that of a measurement.
const ASSUMED_WEIGHT: f64 = 0.02;
/// Least weight of a recent mean: 68 passes after the last one.
const STALE: f64 = 0.5;
/// How much longer than its budget a pass is predicted to be, at most.
const TOLERANCE: f64 = 1.2;
/// How many times as many rows per millisecond such a pass must have.
const FASTER: f64 = 1.25;

/// Running means of the passes of one magnitude.
#[derive(Clone, Copy, Default)]
struct Mean {
    rows: f64,
    positions: f64,
    ms: f64,
    /// Weight in the fit: decays while other magnitudes are measured, but not to zero.
    weight: f64,
}

/// The costs of an engine's passes, measured as it runs.
pub(super) struct CostModel {
    means: [Mean; MAGNITUDES],
    costs: Option<PassCosts>,
    given: bool,
    at_once: usize,
}

impl CostModel {
    /// Costs to be measured or, for tests, given. The engine multiplies `at_once` rows at once.
    pub(super) fn new(given: Option<PassCosts>, at_once: usize) -> Self {
        let means = [Mean::default(); MAGNITUDES];
        Self { means, costs: given, given: given.is_some(), at_once }
    }

    /// Whether costs were given rather than measured.
    pub(super) fn is_given(&self) -> bool {
        self.given
    }

    /// Predicted milliseconds of a pass; `None` before the first measurement.
    pub(super) fn predict(&self, rows: usize, positions: f64) -> Option<f64> {
        let (costs, rows) = (self.costs?, rows as f64);
        // A pass without positions, of as many rows as this mean's.
        let base = |m: &Mean| (m.ms - costs.position * m.positions).max(0.2 * m.ms);
        let fresh = || self.means.iter().filter(|m| m.weight >= STALE);
        let before = fresh().take_while(|m| m.rows <= rows).last();
        let after = fresh().find(|m| m.rows > rows);
        let without_positions = match (before, after) {
            (Some(a), Some(b)) => {
                base(a) + (base(b) - base(a)) * (rows - a.rows) / (b.rows - a.rows)
            }
            (Some(a), None) => base(a) + costs.row * (rows - a.rows),
            (None, Some(b)) => (base(b) - costs.row * (b.rows - rows)).max(0.2 * base(b)),
            (None, None) => costs.of(rows, 0.0),
        };
        Some(without_positions + costs.position * positions)
    }

    /// The share of a pass of one of its `sequences`, in milliseconds.
    pub(super) fn share(&self, rows: usize, positions: f64, sequences: usize) -> f64 {
        let c = self.costs.unwrap_or(PassCosts::ASSUMED);
        c.of(rows as f64, positions) - c.pass + c.pass / sequences.max(1) as f64
    }

    /// Number of rows, up to `most`, of a prompt with `depth` tokens before them for a pass of `budget` milliseconds
    /// beside other `rows` and `positions`: as many whole tiles as fit. One more, if the time of the pass is nearer to its
    /// budget then, if the pass is much more efficient, or if it has not been measured recently how long it takes.
    pub(super) fn rows_within(
        &self,
        budget: f64,
        (rows, positions): (usize, f64),
        depth: usize,
        most: usize,
    ) -> usize {
        let ms = |n: usize| {
            let ms = self.predict(rows + n, positions + attended(depth, n));
            ms.unwrap_or(f64::INFINITY)
        };
        let tile = self.at_once;
        let first = tile - rows % tile; // to the end of a tile
        let tiles = (first..most + 1).step_by(tile).rev();
        let mut sizes = iter::once(most).chain(tiles).chain((0..first.min(most)).rev());
        let n = sizes.find(|&n| ms(n) <= budget).unwrap_or(0);
        let more = (rows + n) / tile * tile + tile - rows;
        if more > most || ms(more) > TOLERANCE * budget {
            return n;
        }
        let stale = !self.given && self.means[magnitude(rows + more)].weight < STALE;
        let nearer = ms(more) - budget < budget - ms(n);
        let speed = |n: usize| (rows + n) as f64 / ms(n);
        if nearer || stale || speed(more) >= FASTER * speed(n) { more } else { n }
    }

    /// Records a pass.
    pub(super) fn observe(&mut self, rows: usize, positions: f64, ms: f64) {
        if self.given || rows == 0 || !ms.is_finite() || ms <= 0.0 {
            return;
        }
        let at = magnitude(rows);
        self.means
            .iter_mut()
            .for_each(|m| m.weight = (m.weight * 0.99).max(0.05 * m.weight.ceil()));
        let mean = &mut self.means[at];
        let share = 1.0 - (1.0 - SHARE) * mean.weight;
        // An interrupted pass says little about the next one.
        let ms = if share == 1.0 { ms } else { ms.clamp(0.5 * mean.ms, 2.0 * mean.ms) };
        mean.rows += share * (rows as f64 - mean.rows);
        mean.positions += share * (positions - mean.positions);
        mean.ms += share * (ms - mean.ms);
        mean.weight = 1.0;
        self.costs = Some(self.fit());
    }

    /// The costs with the least weighted square of relative errors, kept within an order of magnitude of
    /// the assumed shape.
    fn fit(&self) -> PassCosts {
        let seen = || self.means.iter().filter(|m| m.weight > 0.0);
        let (mut num, mut den) = (0.0, 0.0);
        for m in seen() {
            let relative = PassCosts::ASSUMED.of(m.rows, m.positions) / m.ms;
            num += m.weight * relative;
            den += m.weight * relative * relative;
        }
        let assumed = PassCosts::ASSUMED.scaled(num / den);
        let mut normal = Normal::default();
        for m in seen() {
            normal.add([1.0, m.rows, m.positions], m.ms, m.weight);
        }
        for x in [[1.0, 1.0, 0.0], [1.0, 64.0, 0.0], [1.0, 64.0, 262_144.0]] {
            normal.add(x, assumed.of(x[1], x[2]), ASSUMED_WEIGHT);
        }
        let [pass, row, position] = normal.solve();
        let near = |x: f64, assumed: f64| x.clamp(0.1 * assumed, 10.0 * assumed);
        PassCosts {
            pass: near(pass, assumed.pass),
            row: near(row, assumed.row),
            position: near(position, assumed.position),
        }
    }
}

/// The magnitude of a number of rows.
fn magnitude(rows: usize) -> usize {
    (rows.next_power_of_two().trailing_zeros() as usize).min(MAGNITUDES - 1)
}

/// Positions to which `n` successive rows attend, the first of which has `depth` tokens before it.
pub(super) fn attended(depth: usize, n: usize) -> f64 {
    let n = n as f64;
    n * depth as f64 + n * (n + 1.0) / 2.0
}

/// Normal equations of a least-squares fit with three unknowns.
#[derive(Default)]
struct Normal {
    a: [[f64; 3]; 3],
    b: [f64; 3],
}

impl Normal {
    /// Adds a point, whose error is relative to `y`.
    fn add(&mut self, x: [f64; 3], y: f64, weight: f64) {
        let w = weight / (y * y);
        for i in 0..3 {
            for j in 0..3 {
                self.a[i][j] += w * x[i] * x[j];
            }
            self.b[i] += w * x[i] * y;
        }
    }

    /// By elimination; the matrix is positive definite, so no pivoting is needed.
    fn solve(mut self) -> [f64; 3] {
        for i in 0..3 {
            for j in i + 1..3 {
                let factor = self.a[j][i] / self.a[i][i];
                for k in i..3 {
                    self.a[j][k] -= factor * self.a[i][k];
                }
                self.b[j] -= factor * self.b[i];
            }
        }
        let mut x = [0.0; 3];
        for i in (0..3).rev() {
            let known: f64 = (i + 1..3).map(|k| self.a[i][k] * x[k]).sum();
            x[i] = (self.b[i] - known) / self.a[i][i];
        }
        x
    }
}

#[cfg(test)]
mod tests {
    use nanoinfer_kernels::TOKENS;

    use super::*;

    const TRUE: PassCosts = PassCosts { pass: 30.0, row: 1.8, position: 4.6e-4 };

    #[test]
    fn it_learns_the_costs_of_mixed_passes() {
        let mut model = CostModel::new(None, TOKENS);
        assert_eq!(model.predict(1, 1.0), None);
        for i in 0..300 {
            let rows = [1, 8, 40, 72, 256][i % 5];
            let positions = rows as f64 * ((i * 37) % 4000) as f64;
            model.observe(rows, positions, TRUE.of(rows as f64, positions));
        }
        for (rows, positions) in [(1, 500.0), (64, 64.0 * 100.0), (64, 64.0 * 3000.0), (200, 4e5)] {
            let (got, want) =
                (model.predict(rows, positions).unwrap(), TRUE.of(rows as f64, positions));
            assert!((got / want - 1.0).abs() < 0.1, "{rows} rows: {got} instead of {want}");
        }
    }

    #[test]
    fn a_long_time_of_decoding_does_not_erase_the_cost_of_prefill() {
        let mut model = CostModel::new(None, TOKENS);
        for rows in [64, 4].repeat(20) {
            model.observe(rows, 0.0, TRUE.of(rows as f64, 0.0));
        }
        (0..5000).for_each(|_| model.observe(4, 2000.0, TRUE.of(4.0, 2000.0)));
        let (got, want) = (model.predict(64, 0.0).unwrap(), TRUE.of(64.0, 0.0));
        assert!((got / want - 1.0).abs() < 0.15, "{got} instead of {want}");
    }

    #[test]
    fn an_interrupted_pass_has_little_effect() {
        let mut model = CostModel::new(None, TOKENS);
        (0..50).for_each(|_| model.observe(8, 800.0, 45.0));
        model.observe(8, 800.0, 5000.0);
        assert!(model.predict(8, 800.0).unwrap() < 55.0);
    }

    /// On a machine where 16 rows take nearly as long as 100.
    fn with_a_step(rows: usize) -> f64 {
        45.0 + rows as f64 * 0.5 + if rows > 8 { 50.0 } else { 0.0 }
    }

    #[test]
    fn it_finds_out_that_more_rows_fit_behind_a_step() {
        for interrupted in [1, 2, 4, 8, 16, 32, 64] {
            let mut model = CostModel::new(None, TOKENS);
            model.observe(interrupted, 0.0, 1000.0);
            (0..50).for_each(|_| model.observe(1, 0.0, with_a_step(1)));
            let mut passes = Vec::new();
            for _ in 0..600 {
                let rows = 1 + model.rows_within(150.0, (1, 0.0), 0, 255);
                let rows = (rows / TOKENS * TOKENS).max(TOKENS);
                model.observe(rows, 0.0, with_a_step(rows));
                passes.push(rows);
            }
            let longest = passes.iter().map(|&rows| with_a_step(rows)).fold(0.0, f64::max);
            assert!(longest <= TOLERANCE * 150.0, "{longest} ms");
            let last = &passes[500..];
            assert!(last.iter().all(|&rows| rows >= 80), "after {interrupted}: {last:?}");
        }
    }

    #[test]
    fn a_pass_with_rows_of_a_prompt_is_as_near_to_its_budget_as_whole_tiles_allow() {
        for tile in [4, TOKENS] {
            let model = CostModel::new(Some(TRUE), tile);
            for depth in [0, 100, 2000, 8000] {
                let n = model.rows_within(150.0, (8, 4000.0), depth, 248);
                assert!((8 + n).is_multiple_of(tile), "{n} rows at {depth}");
                let ms = |n| model.predict(8 + n, 4000.0 + attended(depth, n)).unwrap();
                let off = |n| (ms(n) - 150.0_f64).abs();
                assert!(off(n) < off(n + tile) && off(n) < off(n - tile), "{n} rows at {depth}");
            }
            assert_eq!(model.rows_within(f64::INFINITY, (8, 0.0), 0, 248), 248);
            assert_eq!(model.rows_within(10.0, (8, 0.0), 0, 248), 0);
        }
    }
}

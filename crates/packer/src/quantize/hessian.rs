//! What calibration knows of the inputs of a matrix, and the factors that the search reads.

use nanoinfer_kernels::pack::hadamard;
use nanoinfer_kernels::trellis::STRANDS;
use nanoinfer_kernels::{AddOuter, AddProducts, FACTOR_ROWS, FactorRows, Feedback, GROUP, Kernels};

use super::threads::for_each_block;

/// Share of the correlations between inputs that is not believed. Calibration sees few inputs compared
/// with the square of their number.
const SHRINKAGE: f32 = 0.3;
/// Added to the diagonal, in units of its mean.
const DAMPING: f32 = 0.05;
/// Share of the errors of earlier layers that is corrected. The correction itself rests on few inputs.
const CORRECTION: f32 = 0.5;
/// Rows per item of work.
const ROWS: usize = 64;

/// The column in strand order of input `i` of `k`: the strands of a row follow each other.
pub fn strand_column(i: usize, k: usize) -> usize {
    i % STRANDS * (k / STRANDS) + i / STRANDS
}

/// Σ x·xᵀ over the inputs x of a matrix, as stored: rotated, in blocks along the input.
///
/// Takes 4·k² bytes, and as many again with differences.
#[derive(Clone, Debug)]
pub struct Hessian {
    k: usize,
    sums: Vec<f32>,        // [k][k] in strand order, lower triangle
    differences: Vec<f32>, // Σ x·(y − x)ᵀ, [k][k] in strand order, or empty
}

impl Hessian {
    /// No inputs of `k` values yet, a multiple of 64.
    ///
    /// # Panics
    /// If `k` is not a multiple of 64.
    pub fn new(k: usize) -> Self {
        assert!(k > 0 && k.is_multiple_of(GROUP));
        Self { k, sums: vec![0.0; k * k], differences: Vec::new() }
    }

    /// Adds `m` inputs, `[k/16][m][16]` with columns in strand order ([`strand_column`]). An input counts
    /// by its square, so to weigh it by w, multiply it by √w.
    ///
    /// # Panics
    /// If `x` does not have this size.
    pub fn add(&mut self, kernels: &Kernels, x: &[f32], m: usize, threads: usize) {
        let k = self.k;
        assert!(m > 0 && x.len() == m * k);
        for_each_block(threads, &mut self.sums, ROWS * k, |i, rows| {
            let first = ROWS * i;
            kernels.add_outer(AddOuter { x, m, subtract: false, first, rows, k });
        });
    }

    /// Adds the differences between the inputs that the original model would have at this point, and `m` inputs
    /// that were added: rows are quantized so that part of these differences is corrected. Laid out and
    /// weighed like these inputs.
    ///
    /// # Panics
    /// If `x` or `difference` does not have this size.
    pub fn add_differences(
        &mut self,
        kernels: &Kernels,
        (x, difference): (&[f32], &[f32]),
        m: usize,
        threads: usize,
    ) {
        let k = self.k;
        assert!(m > 0 && x.len() == m * k && difference.len() == m * k);
        self.differences.resize(k * k, 0.0);
        for_each_block(threads, &mut self.differences, ROWS * k, |i, rows| {
            let first = ROWS * i;
            kernels.add_products(AddProducts { left: x, right: difference, m, first, rows, k });
        });
    }

    /// The factors for the search. `rotation` is the size of the Hadamard blocks that the inputs are
    /// rotated by. `None` if all inputs were zero or some not finite: then there is nothing to go by.
    pub fn factor(mut self, kernels: &Kernels, rotation: usize, threads: usize) -> Option<Factor> {
        let k = self.k;
        let mean = (0..k).map(|i| f64::from(self.sums[i * k + i])).sum::<f64>() / k as f64;
        if !(mean > 0.0 && mean.is_finite()) {
            return None;
        }
        self.shrink(mean as f32, rotation);
        self.decompose(kernels, threads);
        let scale = CORRECTION / mean as f32;
        self.differences.iter_mut().for_each(|x| *x *= scale);
        Factor::new(k, self.sums, self.differences)
    }

    /// Scales the mean of the diagonal to 1, shrinks the matrix towards its diagonal in the basis before
    /// the rotation, and adds the damping.
    fn shrink(&mut self, mean: f32, rotation: usize) {
        let k = self.k;
        let blocks: Vec<_> = (0..k).step_by(rotation).map(|i| self.diagonal(i, rotation)).collect();
        let scale = (1.0 - SHRINKAGE) / mean;
        self.sums.iter_mut().for_each(|x| *x *= scale);
        for (block, mut diagonal) in blocks.into_iter().enumerate() {
            // Rotated, diag(d) has the entries t[a xor b], where t is the transform of d.
            hadamard(&mut diagonal, rotation);
            let scale = SHRINKAGE / mean / (rotation as f32).sqrt();
            for a in 0..rotation {
                for b in 0..=a {
                    let [i, j] = [a, b].map(|i| block * rotation + i);
                    *self.entry(i, j) += scale * diagonal[a ^ b];
                }
            }
        }
        for i in 0..k {
            self.sums[i * k + i] += DAMPING;
        }
    }

    /// The diagonal of the block of inputs from `first`, before the rotation.
    fn diagonal(&mut self, first: usize, rotation: usize) -> Vec<f32> {
        let mut block: Vec<f32> = (0..rotation * rotation)
            .map(|at| *self.entry(first + at / rotation, first + at % rotation))
            .collect();
        hadamard(&mut block, rotation);
        let mut columns: Vec<f32> = (0..rotation * rotation)
            .map(|at| block[at % rotation * rotation + at / rotation])
            .collect();
        hadamard(&mut columns, rotation);
        (0..rotation).map(|i| columns[i * rotation + i]).collect()
    }

    /// The entry of two inputs.
    fn entry(&mut self, i: usize, j: usize) -> &mut f32 {
        let [i, j] = [i, j].map(|i| strand_column(i, self.k));
        &mut self.sums[i.max(j) * self.k + i.min(j)]
    }

    /// Replaces H by the triangular R with H = Rᵀ·R.
    fn decompose(&mut self, kernels: &Kernels, threads: usize) {
        let k = self.k;
        let mut packed = vec![0.0; FACTOR_ROWS * k];
        for first in (0..k).step_by(FACTOR_ROWS).rev() {
            let m = FACTOR_ROWS.min(k - first);
            let (before, rows) = self.sums.split_at_mut(first * k);
            let (rows, packed) = (&mut rows[..m * k], &mut packed[..first * m]);
            kernels.factor_rows(FactorRows { rows, first, k, packed });
            let x = &*packed;
            for_each_block(threads, before, ROWS * k, |i, rows| {
                let first = ROWS * i;
                kernels.add_outer(AddOuter { x, m, subtract: true, first, rows, k });
            });
        }
    }
}

/// The factors of a matrix H = M·D·Mᵀ of correlations between inputs. Takes 4·k² bytes, and as many again with
/// differences.
#[derive(Clone, Debug, PartialEq)]
pub struct Factor {
    factor: Vec<f32>,      // Mᵀ, [k][k] in strand order
    pivots: Vec<f32>,      // D, [k]
    differences: Vec<f32>, // the part to correct, [k][k] in strand order, or empty
}

impl Factor {
    /// From R with H = Rᵀ·R. `None` if H was not positive definite.
    fn new(k: usize, mut rows: Vec<f32>, differences: Vec<f32>) -> Option<Self> {
        let mut pivots = Vec::with_capacity(k);
        for (i, row) in rows.chunks_exact_mut(k).enumerate() {
            let root = row[i];
            row[..i].iter_mut().for_each(|x| *x /= root);
            pivots.push(root * root);
        }
        let valid = pivots.iter().all(|&p| p > 0.0 && p.is_finite())
            && differences.iter().all(|x| x.is_finite());
        valid.then_some(Self { factor: rows, pivots, differences })
    }

    /// Number of inputs.
    pub fn k(&self) -> usize {
        self.pivots.len()
    }

    /// Differences between inputs to correct, as the kernels read them, if there are any.
    pub(super) fn differences(&self) -> Option<&[f32]> {
        (!self.differences.is_empty()).then_some(&self.differences)
    }

    /// As the kernels read them.
    pub(super) fn feedback(&self) -> Feedback<'_> {
        Feedback { factor: &self.factor, pivots: &self.pivots }
    }
}

#[cfg(test)]
pub(super) mod tests {
    use nanoinfer_kernels::{Isa, LANES};

    use super::*;

    /// Reproducible noise in [-1, 1).
    pub(crate) fn noise(n: usize, seed: u64) -> Vec<f32> {
        let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
        let mut next = || {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            (state >> 40) as f32 / (1u64 << 23) as f32 - 1.0
        };
        (0..n).map(|_| next()).collect()
    }

    /// `m` correlated inputs.
    pub(crate) fn inputs(k: usize, m: usize) -> Vec<Vec<f32>> {
        let x = noise(k * m, 8);
        let smooth = |x: &[f32]| {
            let mut last = 0.0;
            x.iter()
                .map(|x| {
                    last = 0.9 * last + x;
                    last
                })
                .collect()
        };
        x.chunks_exact(k).map(smooth).collect()
    }

    /// Inputs in the order of a matrix's rows, laid out as they are added.
    fn packed(inputs: &[Vec<f32>]) -> Vec<f32> {
        let (k, m) = (inputs[0].len(), inputs.len());
        let mut x = vec![0.0; k * m];
        for (t, input) in inputs.iter().enumerate() {
            for (i, value) in input.iter().enumerate() {
                let column = strand_column(i, k);
                x[(column / LANES * m + t) * LANES + column % LANES] = *value;
            }
        }
        x
    }

    impl Hessian {
        pub(crate) fn add_inputs(&mut self, kernels: &Kernels, inputs: &[Vec<f32>]) {
            self.add(kernels, &packed(inputs), inputs.len(), 2);
        }

        /// Adds what `original` inputs have more than `inputs`.
        pub(crate) fn add_originals(
            &mut self,
            kernels: &Kernels,
            inputs: &[Vec<f32>],
            original: &[Vec<f32>],
        ) {
            let (x, mut difference) = (packed(inputs), packed(original));
            difference.iter_mut().zip(&x).for_each(|(y, x)| *y -= x);
            self.add_differences(kernels, (&x, &difference), inputs.len(), 2);
        }
    }

    /// M, D and H = M·D·Mᵀ in f64 for the same inputs, by definition; in the order of the inputs.
    fn plain(inputs: &[Vec<f32>], rotation: usize) -> Vec<Vec<f64>> {
        let k = inputs[0].len();
        let mut unrotated: Vec<Vec<f32>> = inputs.to_vec();
        unrotated.iter_mut().for_each(|x| hadamard(x, rotation));
        let moment = |x: &[Vec<f32>], i: usize, j: usize| -> f64 {
            x.iter().map(|x| f64::from(x[i]) * f64::from(x[j])).sum()
        };
        let mean = (0..k).map(|i| moment(inputs, i, i)).sum::<f64>() / k as f64;
        let diagonal: Vec<f64> = (0..k).map(|i| moment(&unrotated, i, i)).collect();
        let sign =
            |i: usize, j: usize| if (i & j).count_ones().is_multiple_of(2) { 1.0 } else { -1.0 };
        let entry = |i: usize, j: usize| {
            let mut h = 0.7 * moment(inputs, i, j) / mean;
            if i / rotation == j / rotation {
                let block = i / rotation * rotation..(i / rotation + 1) * rotation;
                let rotated: f64 = block
                    .map(|l| {
                        sign(i % rotation, l % rotation)
                            * sign(j % rotation, l % rotation)
                            * diagonal[l]
                    })
                    .sum();
                h += 0.3 * rotated / rotation as f64 / mean;
            }
            if i == j { h + 0.05 } else { h }
        };
        (0..k).map(|i| (0..k).map(|j| entry(i, j)).collect()).collect()
    }

    #[test]
    fn factors_multiply_to_the_treated_matrix() {
        let kernels = Kernels::best();
        for (k, rotation) in [(64, 64), (192, 64), (128, 16), (64, 1)] {
            let x = inputs(k, 50);
            let h = plain(&x, rotation);
            let mut hessian = Hessian::new(k);
            hessian.add_inputs(&kernels, &x);
            let factor = hessian.factor(&kernels, rotation, 2).expect("inputs that vary");
            let m = |row: usize, i: usize| match row.cmp(&i) {
                std::cmp::Ordering::Greater => f64::from(factor.factor[row * k + i]),
                std::cmp::Ordering::Equal => 1.0,
                std::cmp::Ordering::Less => 0.0,
            };
            for (i, h) in h.iter().enumerate() {
                for (j, h) in h.iter().enumerate().take(i + 1) {
                    let (a, b) = (strand_column(i, k), strand_column(j, k));
                    let product: f64 = (a.max(b)..k)
                        .map(|row| m(row, a) * f64::from(factor.pivots[row]) * m(row, b))
                        .sum();
                    assert!((product - h).abs() < 1e-4, "{i}, {j}: {product}, {h}");
                }
            }
        }
    }

    #[test]
    fn threads_and_instruction_sets_do_not_matter() {
        let (k, x) = (192, inputs(192, 70));
        let factor = |isa, threads| {
            let kernels = Kernels::new(isa)?;
            let mut hessian = Hessian::new(k);
            hessian.add_inputs(&kernels, &x);
            hessian.factor(&kernels, 64, threads)
        };
        let lower = |f: &Factor| -> Vec<u32> {
            let rows = f.factor.chunks_exact(k).enumerate().flat_map(|(i, row)| &row[..i]);
            rows.chain(&f.pivots).map(|x| x.to_bits()).collect()
        };
        let expected = lower(&factor(Isa::Scalar, 1).expect("inputs that vary"));
        for isa in Isa::ALL {
            for threads in [1, 3] {
                let same = factor(isa, threads).is_none_or(|f| lower(&f) == expected);
                assert!(same, "{} with {threads} threads differs", isa.name());
            }
        }
    }

    #[test]
    fn nothing_is_made_of_inputs_without_values() {
        let kernels = Kernels::best();
        assert!(Hessian::new(64).factor(&kernels, 64, 1).is_none());
        let mut infinite = Hessian::new(64);
        infinite.add_inputs(&kernels, &[vec![f32::INFINITY; 64]]);
        assert!(infinite.factor(&kernels, 64, 1).is_none());
    }
}

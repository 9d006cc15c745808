//! Quantizes rows, in panels of 16.

use nanoinfer_kernels::trellis::Trellis;
use nanoinfer_kernels::{Kernels, LANES, SearchScratch, SearchTable, SearchTrellis};

use super::hessian::{Factor, strand_column};

/// Panels searched together, so that the factors are read from memory once for all.
const PANELS: usize = 4;

/// Codes of rows, in the order of the inputs, and the scales of the rows: a weight is the scale of its
/// row times its level.
#[derive(Clone, Debug, PartialEq)]
pub struct QuantizedRows {
    /// `[rows][k]`
    pub codes: Vec<u8>,
    /// `[rows]`
    pub scales: Vec<f32>,
}

/// Quantizes rows of `k` inputs. Takes about 1 MB, and 52 bytes per row and input of a call.
#[derive(Debug)]
pub struct RowQuantizer<'a> {
    kernels: &'a Kernels,
    trellis: &'a Trellis,
    table: SearchTable,
    factor: Option<&'a Factor>,
    k: usize,
    scratch: SearchScratch,
    x: Vec<f32>,    // rows in units of the levels, [PANELS][k][16]
    codes: Vec<u8>, // [PANELS][k][16]
}

impl<'a> RowQuantizer<'a> {
    /// For rows of `k` inputs, a multiple of 64, and with a `factor`, one for `k` inputs.
    ///
    /// # Panics
    /// If the sizes differ from these.
    pub fn new(
        kernels: &'a Kernels,
        trellis: &'a Trellis,
        k: usize,
        factor: Option<&'a Factor>,
    ) -> Self {
        assert!(factor.is_none_or(|f| f.k() == k));
        let (table, scratch) = (SearchTable::new(trellis), SearchScratch::new(PANELS, k));
        let (x, codes) = (vec![0.0; PANELS * k * LANES], vec![0; PANELS * k * LANES]);
        Self { kernels, trellis, table, factor, k, scratch, x, codes }
    }

    /// Quantizes rows, a multiple of 16, `[rows][k]`: finite and rotated.
    ///
    /// # Panics
    /// If `rows` is not a multiple of 16 rows.
    pub fn quantize(&mut self, rows: &[f32]) -> QuantizedRows {
        assert!(rows.len().is_multiple_of(LANES * self.k));
        let mut codes = vec![0; rows.len()];
        let mut scales = Vec::with_capacity(rows.len() / self.k);
        let batch = PANELS * LANES * self.k;
        for (rows, codes) in rows.chunks(batch).zip(codes.chunks_mut(batch)) {
            let first = scales.len();
            scales.extend(rows.chunks_exact(self.k).map(|row| self.scale(row)));
            self.search(rows, &scales[first..], codes);
        }
        QuantizedRows { codes, scales }
    }

    /// The scale for which a row's levels are distributed as those of the trellis were trained.
    fn scale(&self, row: &[f32]) -> f32 {
        let squares: f64 = row.iter().map(|&w| f64::from(w) * f64::from(w)).sum();
        let unit = (squares / self.k as f64).sqrt() as f32;
        unit * (self.trellis.unit / 127.0)
    }

    /// Chooses the codes of up to [`PANELS`] panels.
    fn search(&mut self, rows: &[f32], scales: &[f32], codes: &mut [u8]) {
        let (k, n) = (self.k, rows.len());
        let panel = LANES * k;
        for (i, (row, &scale)) in rows.chunks_exact(k).zip(scales).enumerate() {
            // For a row of zeros or nearly zeros, 1 / scale would not be finite.
            let inverse = if scale > 1e-30 { 1.0 / scale } else { 0.0 };
            let to = &mut self.x[i / LANES * panel + i % LANES..];
            for (j, w) in row.iter().enumerate() {
                to[strand_column(j, k) * LANES] = w * inverse;
            }
        }
        self.kernels.search_trellis(SearchTrellis {
            k,
            rows: &mut self.x[..n],
            table: &self.table,
            feedback: self.factor.map(Factor::feedback),
            codes: &mut self.codes[..n],
            scratch: &mut self.scratch,
        });
        for (i, row) in codes.chunks_exact_mut(k).enumerate() {
            let from = &self.codes[i / LANES * panel + i % LANES..];
            for (j, code) in row.iter_mut().enumerate() {
                *code = from[strand_column(j, k) * LANES];
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use nanoinfer_kernels::{Isa, trellis_panel, trellis_panel_bytes, trellis_row};

    use super::*;
    use crate::quantize::Hessian;
    use crate::quantize::hessian::tests::{inputs, noise};

    /// The weights that the codes stand for.
    fn decoded(trellis: &Trellis, q: &QuantizedRows, k: usize) -> Vec<f32> {
        let mut out = Vec::new();
        let panels = q.codes.chunks_exact(LANES * k).zip(q.scales.as_chunks::<LANES>().0);
        for (codes, scales) in panels {
            let mut panel = vec![0; trellis_panel_bytes(usize::from(trellis.bits), k)];
            trellis_panel(trellis, codes, scales, &mut panel);
            for r in 0..LANES {
                let mut levels = vec![0; k];
                let scale = trellis_row(trellis, &panel, r, &mut levels);
                out.extend(levels.iter().map(|&l| scale * f32::from(l)));
            }
        }
        out
    }

    /// The squared error of the outputs of all rows for inputs `x`, relative to the outputs.
    fn error(rows: &[f32], decoded: &[f32], x: &[Vec<f32>]) -> f64 {
        let k = x[0].len();
        let (mut lost, mut all) = (0.0, 0.0);
        for (row, decoded) in rows.chunks_exact(k).zip(decoded.chunks_exact(k)) {
            for x in x {
                let dot = |w: &[f32]| -> f64 {
                    w.iter().zip(x).map(|(w, x)| f64::from(*w) * f64::from(*x)).sum()
                };
                let exact = dot(row);
                lost += (exact - dot(decoded)).powi(2);
                all += exact * exact;
            }
        }
        lost / all
    }

    #[test]
    fn calibration_lowers_the_error_of_outputs() {
        let (kernels, k) = (Kernels::best(), 192);
        let x = inputs(k, 512);
        let (seen, unseen) = x.split_at(384);
        let mut hessian = Hessian::new(k);
        hessian.add_inputs(&kernels, seen);
        let factor = hessian.factor(&kernels, 64, 1).expect("inputs that vary");
        let rows = noise(80 * k, 5);
        for trellis in &Trellis::ALL {
            let [plain, calibrated] = [None, Some(&factor)].map(|factor| {
                let q = RowQuantizer::new(&kernels, trellis, k, factor).quantize(&rows);
                error(&rows, &decoded(trellis, &q, k), unseen)
            });
            println!("{} bits: {plain:.5} without, {calibrated:.5} with", trellis.bits);
            // Uniform weights of unit magnitude: worse than Gaussian ones by up to 2 dB.
            assert!(plain < 10f64.powf(-0.6 * f64::from(trellis.bits) + 0.35));
            assert!(calibrated < 0.6 * plain);
        }
    }

    #[test]
    fn rows_do_not_depend_on_each_other_or_on_the_instruction_set() {
        let k = 128;
        let mut rows = noise(112 * k, 5);
        rows[3 * k..4 * k].fill(0.0);
        rows[4 * k..5 * k].fill(1e-40);
        let mut hessian = Hessian::new(k);
        hessian.add_inputs(&Kernels::best(), &inputs(k, 100));
        let factor = hessian.factor(&Kernels::best(), 64, 1);
        let trellis = Trellis::of(4);
        let quantize = |isa, rows: &[f32]| {
            let kernels = Kernels::new(isa)?;
            Some(RowQuantizer::new(&kernels, trellis, k, factor.as_ref()).quantize(rows))
        };
        let all = quantize(Isa::Scalar, &rows).expect("scalar runs everywhere");
        assert!(decoded(trellis, &all, k)[3 * k..5 * k].iter().all(|w| w.abs() < 1e-30));
        for isa in Isa::ALL {
            assert!(quantize(isa, &rows).is_none_or(|q| q == all), "{} differs", isa.name());
        }
        let part = quantize(Isa::Scalar, &rows[32 * k..48 * k]).expect("scalar runs everywhere");
        assert_eq!(
            (&part.codes[..], &part.scales[..]),
            (&all.codes[32 * k..48 * k], &all.scales[32..48])
        );
    }
}

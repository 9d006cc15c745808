//! Quantizes rows, in panels of 16.

use nanoinfer_kernels::trellis::Trellis;
use nanoinfer_kernels::{CorrectRows, Kernels, LANES, SearchScratch, SearchTable, SearchTrellis};

use super::hessian::{Factor, strand_column};

/// Panels searched together, so that the factors are read from memory once for all.
const PANELS: usize = 4;

/// The scales that are tried for every row, in units of the scale for which levels and weights have the same
/// distribution. The more bits, the more a finer scale gains for all weights of a row, and the more the few
/// beyond the last level lose: which prevails depends on the row. Four scales would gain 0.02 to 0.05 dB less
/// than these six, and one 0.2 (q4) to 0.35 dB (q5) less; twelve gain 0.01 to 0.02 dB more.
fn candidates(bits: u8) -> [f32; 6] {
    match bits {
        2 => [0.9, 0.94, 0.98, 1.02, 1.06, 1.1],
        3 => [0.86, 0.9, 0.94, 0.98, 1.02, 1.06],
        4 => [0.78, 0.82, 0.86, 0.9, 0.94, 1.02],
        _ => [0.74, 0.78, 0.82, 0.86, 0.9, 0.98],
    }
}

/// Codes of rows, in the order of the inputs, and the scales of the rows: a weight is the scale of its
/// row times its level.
#[derive(Clone, Debug, PartialEq)]
pub struct QuantizedRows {
    /// `[rows][k]`
    pub codes: Vec<u8>,
    /// `[rows]`
    pub scales: Vec<f32>,
}

/// Quantizes rows of `k` inputs. Takes 0.6 MB and 850 bytes per input, and 1 byte per weight
/// of a call.
#[derive(Debug)]
pub struct RowQuantizer<'a> {
    kernels: &'a Kernels,
    trellis: &'a Trellis,
    table: SearchTable,
    factor: Option<&'a Factor>,
    k: usize,
    scratch: SearchScratch,
    rows: Vec<f32>,  // [PANELS][k][16], columns in strand order
    x: Vec<f32>,     // the same in units of the levels
    codes: Vec<u8>,  // [PANELS][k][16]
    costs: Vec<f32>, // [PANELS][16]
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
        let rows = x.clone();
        let costs = vec![0.0; PANELS * LANES];
        Self { kernels, trellis, table, factor, k, scratch, rows, x, codes, costs }
    }

    /// Quantizes rows, a multiple of 16, `[rows][k]`: finite and rotated.
    ///
    /// # Panics
    /// If `rows` is not a multiple of 16 rows.
    pub fn quantize(&mut self, rows: &[f32]) -> QuantizedRows {
        assert!(rows.len().is_multiple_of(LANES * self.k));
        let mut codes = vec![0; rows.len()];
        let mut scales = vec![0.0; rows.len() / self.k];
        let batch = PANELS * LANES;
        let rows = rows.chunks(batch * self.k);
        let out = codes.chunks_mut(batch * self.k).zip(scales.chunks_mut(batch));
        for (rows, (codes, scales)) in rows.zip(out) {
            self.quantize_batch(rows, codes, scales);
        }
        QuantizedRows { codes, scales }
    }

    /// Quantizes up to [`PANELS`] panels. Each row gets the scale with the lowest cost.
    fn quantize_batch(&mut self, rows: &[f32], codes: &mut [u8], scales: &mut [f32]) {
        let corrected = self.correct(rows);
        let rows = corrected.as_deref().unwrap_or(rows);
        let units: Vec<f32> = rows.chunks_exact(self.k).map(|row| self.unit(row)).collect();
        let mut least = vec![f64::INFINITY; units.len()];
        self.load(rows);
        for scale in candidates(self.trellis.bits) {
            let tried: Vec<f32> = units.iter().map(|unit| scale * unit).collect();
            self.search(&tried);
            for (row, &scale) in tried.iter().enumerate() {
                let cost = f64::from(scale) * f64::from(scale) * f64::from(self.costs[row]);
                if cost < least[row] {
                    (least[row], scales[row]) = (cost, scale);
                    self.codes_of(row, &mut codes[row * self.k..][..self.k]);
                }
            }
        }
    }

    /// The rows that correct errors of earlier layers, if there are any.
    fn correct(&mut self, rows: &[f32]) -> Option<Vec<f32>> {
        let (k, factor) = (self.k, self.factor?);
        let differences = factor.differences()?;
        self.load(rows);
        self.kernels.correct_rows(CorrectRows {
            k,
            rows: &mut self.rows[..rows.len()],
            differences,
            feedback: factor.feedback(),
            scratch: &mut self.x[..rows.len()],
        });
        let mut corrected = vec![0.0; rows.len()];
        for (i, row) in corrected.chunks_exact_mut(k).enumerate() {
            let from = &self.rows[i / LANES * LANES * k + i % LANES..];
            for (j, w) in row.iter_mut().enumerate() {
                *w = from[strand_column(j, k) * LANES];
            }
        }
        Some(corrected)
    }

    /// The scale for which a row's levels are distributed as those of the trellis were trained.
    fn unit(&self, row: &[f32]) -> f32 {
        let squares: f64 = row.iter().map(|&w| f64::from(w) * f64::from(w)).sum();
        let unit = (squares / self.k as f64).sqrt() as f32;
        unit * (self.trellis.unit / 127.0)
    }

    /// Lays rows out as panels, with columns in strand order.
    fn load(&mut self, rows: &[f32]) {
        let k = self.k;
        for (i, row) in rows.chunks_exact(k).enumerate() {
            let to = &mut self.rows[i / LANES * LANES * k + i % LANES..];
            for (j, w) in row.iter().enumerate() {
                to[strand_column(j, k) * LANES] = *w;
            }
        }
    }

    /// Chooses the codes of the loaded rows for these scales.
    fn search(&mut self, scales: &[f32]) {
        let (k, n) = (self.k, scales.len() * self.k);
        let panels = self.rows.chunks_exact(LANES * k).zip(self.x.chunks_exact_mut(LANES * k));
        for (scales, (rows, x)) in scales.as_chunks::<LANES>().0.iter().zip(panels) {
            // For a row of zeros or nearly zeros, 1 / scale would not be finite.
            let inverse = scales.map(|scale| if scale > 1e-30 { 1.0 / scale } else { 0.0 });
            let lanes = rows.as_chunks::<LANES>().0.iter().zip(x.as_chunks_mut::<LANES>().0);
            for (rows, x) in lanes {
                for lane in 0..LANES {
                    x[lane] = rows[lane] * inverse[lane];
                }
            }
        }
        self.kernels.search_trellis(SearchTrellis {
            k,
            rows: &mut self.x[..n],
            table: &self.table,
            feedback: self.factor.map(Factor::feedback),
            codes: &mut self.codes[..n],
            costs: &mut self.costs[..n / k],
            scratch: &mut self.scratch,
        });
    }

    /// The chosen codes of row `row`, in the order of the inputs.
    fn codes_of(&self, row: usize, to: &mut [u8]) {
        let from = &self.codes[row / LANES * LANES * self.k + row % LANES..];
        for (i, code) in to.iter_mut().enumerate() {
            *code = from[strand_column(i, self.k) * LANES];
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

    /// Inputs lose half of what each has in common with the next: a correction can restore some of it.
    #[test]
    fn corrections_lower_the_error_of_outputs() {
        let (kernels, k) = (Kernels::best(), 192);
        let original = inputs(k, 512);
        let lossy = |x: &Vec<f32>| -> Vec<f32> {
            x.iter()
                .enumerate()
                .map(|(i, v)| v - 0.25 * (x[i / 2 * 2] + x[i / 2 * 2 + 1]))
                .collect()
        };
        let x: Vec<Vec<f32>> = original.iter().map(lossy).collect();
        let rows = noise(32 * k, 5);
        let outputs = |rows: &[f32], x: &[Vec<f32>]| -> Vec<f64> {
            let dot = |row: &[f32], x: &[f32]| -> f64 {
                row.iter().zip(x).map(|(w, x)| f64::from(*w) * f64::from(*x)).sum()
            };
            rows.chunks(k)
                .flat_map(|row| x.iter().map(|x| dot(row, x)).collect::<Vec<_>>())
                .collect()
        };
        let want = outputs(&rows, &original[384..]);
        let [without, with] = [false, true].map(|corrected| {
            let mut hessian = Hessian::new(k);
            hessian.add_inputs(&kernels, &x[..384]);
            if corrected {
                hessian.add_originals(&kernels, &x[..384], &original[..384]);
            }
            let factor = hessian.factor(&kernels, 64, 1).expect("inputs that vary");
            let trellis = Trellis::of(3);
            let q = RowQuantizer::new(&kernels, trellis, k, Some(&factor)).quantize(&rows);
            let got = outputs(&decoded(trellis, &q, k), &x[384..]);
            got.iter().zip(&want).map(|(a, b)| (a - b).powi(2)).sum::<f64>()
        });
        println!("{without:.1} without, {with:.1} with");
        assert!(with < 0.6 * without);
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

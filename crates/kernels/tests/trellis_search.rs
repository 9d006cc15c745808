//! The search for the codes of trellis-coded rows: how much it gains, against a plain search that keeps
//! every path whole, and the same codes on every instruction set.

mod common;

use common::{isas, noise};
use nanoinfer_kernels::trellis::STRANDS;
use nanoinfer_kernels::*;

/// A trellis of 4 states; those in use have 16.
fn four_states(trellis: &Trellis) -> Trellis {
    Trellis { states: 4, low_taps: 0b01, high_taps: 0b10, ..*trellis }
}

/// Gaussian values of unit variance.
fn gaussian(n: usize, seed: u64) -> Vec<f32> {
    let uniform = noise(2 * n, seed);
    let (radius, angle) = uniform.split_at(n);
    let value = |(r, a): (&f32, &f32)| {
        let r = (f64::from(*r) + 1.0) / 2.0 + f64::from(f32::EPSILON) / 4.0;
        ((-2.0 * r.ln()).sqrt() * (f64::from(*a) * std::f64::consts::PI).cos()) as f32
    };
    radius.iter().zip(angle).map(value).collect()
}

/// The result of a search: codes and errors, `[panels][k][16]`.
#[derive(Debug, PartialEq)]
struct Found {
    codes: Vec<u8>,
    errors: Vec<f32>,
    costs: Vec<f32>,
}

fn search(
    kernels: &Kernels,
    trellis: &Trellis,
    rows: &[f32],
    k: usize,
    feedback: Option<Feedback<'_>>,
) -> Found {
    let (mut errors, mut codes) = (rows.to_vec(), vec![0; rows.len()]);
    let mut costs = vec![0.0; rows.len() / k];
    kernels.search_trellis(SearchTrellis {
        k,
        rows: &mut errors,
        table: &SearchTable::new(trellis),
        feedback,
        codes: &mut codes,
        costs: &mut costs,
        scratch: &mut SearchScratch::new(rows.len() / (16 * k), k),
    });
    Found { codes, errors, costs }
}

/// Asserts that codes and errors belong together.
fn check(trellis: &Trellis, rows: &[f32], k: usize, found: &Found) {
    for panel in 0..rows.len() / (16 * k) {
        for lane in 0..16 {
            let mut history = 0;
            for i in 0..k {
                if i.is_multiple_of(k / STRANDS) {
                    history = 0;
                }
                let at = (panel * k + i) * 16 + lane;
                let level = f32::from(trellis.level(found.codes[at], history));
                assert_eq!(rows[at] - level, found.errors[at], "row {lane}, column {i}");
                history = trellis.next(found.codes[at], history);
            }
        }
    }
}

/// The ratio of signal to noise on Gaussian rows, in decibels. Expected is what a search in blocks of 128
/// columns achieves with these levels, as measured with another implementation; no code of `n` bits
/// achieves more than 6.02·n.
#[test]
fn gaussian_rows_keep_the_expected_signal() {
    let k = 1024;
    let x = gaussian(8 * 16 * k, 7);
    let kernels = Kernels::best();
    for (trellis, expected) in
        Trellis::ALL.iter().zip([[10.45, 10.62], [16.01, 16.18], [21.64, 21.78], [27.40, 27.55]])
    {
        for (trellis, expected) in [four_states(trellis), *trellis].iter().zip(expected) {
            let per_unit = 127.0 / trellis.unit;
            let rows: Vec<f32> = x.iter().map(|x| x * per_unit).collect();
            let found = search(&kernels, trellis, &rows, k, None);
            check(trellis, &rows, k, &found);
            let square = |x: &[f32]| x.iter().map(|x| f64::from(x * x)).sum::<f64>();
            let cost: f64 = found.costs.iter().map(|&c| f64::from(c)).sum();
            assert!((cost / square(&found.errors) - 1.0).abs() < 1e-4);
            let gained = 10.0 * (square(&rows) / square(&found.errors)).log10();
            println!("{} bits, {} states: {gained:.3} dB", trellis.bits, trellis.states);
            assert!(
                (-0.05..0.1).contains(&(gained - expected)),
                "{gained:.3} dB, expected {expected}"
            );
        }
    }
}

/// Factors of a positive definite matrix: a unit lower triangle, and pivots.
struct Factors {
    factor: Vec<f32>,
    pivots: Vec<f32>,
}

impl Factors {
    fn new(k: usize) -> Self {
        let pivots = noise(k, 21).iter().map(|x| 1.5 + x).collect();
        Self { factor: noise(k * k, 20).iter().map(|x| x / 32.0).collect(), pivots }
    }

    fn feedback(&self) -> Feedback<'_> {
        Feedback { factor: &self.factor, pivots: &self.pivots }
    }

    /// Σ pivot · (target − level)², in f64, of row `lane` of a panel.
    fn cost(&self, k: usize, errors: &[f32], lane: usize) -> f64 {
        let error = |j: usize| f64::from(errors[16 * j + lane]);
        (0..k)
            .map(|i| {
                let fed: f64 = (0..i).map(|j| error(j) * f64::from(self.factor[i * k + j])).sum();
                f64::from(self.pivots[i]) * (error(i) + fed).powi(2)
            })
            .sum()
    }
}

/// A path of the plain search.
#[derive(Clone)]
struct Path {
    cost: f64,
    codes: Vec<u8>,
    errors: Vec<f64>,
}

/// The search of one row in f64: every state keeps a whole path, and a strand is decided at its end.
fn plain_search(trellis: &Trellis, row: &[f32], factors: &Factors) -> Path {
    let k = row.len();
    let mut best = Path { cost: 0.0, codes: Vec::new(), errors: Vec::new() };
    for strand in 0..STRANDS {
        let mut paths: Vec<Option<Path>> = vec![None; usize::from(trellis.states)];
        paths[0] = Some(best.clone());
        for (i, &weight) in row.iter().enumerate().skip(strand * k / STRANDS).take(k / STRANDS) {
            let mut next: Vec<Option<Path>> = vec![None; paths.len()];
            for (state, path) in paths.iter().enumerate() {
                let Some(path) = path else { continue };
                let coefficients = &factors.factor[i * k..][..i];
                let fed: f64 =
                    path.errors.iter().zip(coefficients).map(|(e, &c)| e * f64::from(c)).sum();
                for code in 0..1 << trellis.bits {
                    let error = f64::from(weight) - f64::from(trellis.level(code, state as u32));
                    let cost = path.cost + f64::from(factors.pivots[i]) * (error + fed).powi(2);
                    let to = &mut next[trellis.next(code, state as u32) as usize];
                    if to.as_ref().is_none_or(|to| cost < to.cost) {
                        let mut path = path.clone();
                        path.cost = cost;
                        path.codes.push(code);
                        path.errors.push(error);
                        *to = Some(path);
                    }
                }
            }
            paths = next;
        }
        let least = |a: Path, b: Path| if b.cost < a.cost { b } else { a };
        best = paths.into_iter().flatten().reduce(least).expect("a path");
    }
    best
}

#[test]
fn short_strands_get_the_codes_of_a_plain_search() {
    for k in [64, 128] {
        let factors = Factors::new(k);
        for trellis in &Trellis::ALL {
            for trellis in [four_states(trellis), *trellis] {
                let rows: Vec<f32> = noise(16 * k, 9).iter().map(|x| 127.0 * x).collect();
                let found = search(&Kernels::best(), &trellis, &rows, k, Some(factors.feedback()));
                check(&trellis, &rows, k, &found);
                for lane in [0, 5, 15] {
                    let cost = factors.cost(k, &found.errors, lane);
                    assert!((f64::from(found.costs[lane]) / cost - 1.0).abs() < 1e-4);
                    let row: Vec<f32> = rows[lane..].iter().step_by(16).copied().collect();
                    let codes: Vec<u8> = found.codes[lane..].iter().step_by(16).copied().collect();
                    assert_eq!(codes, plain_search(&trellis, &row, &factors).codes);
                }
            }
        }
    }
}

/// Columns are decided before the end of their strand, which rarely matters.
#[test]
fn long_strands_cost_little_more_than_in_a_plain_search() {
    let k = 8 * 72; // the last chunk of a strand is shorter
    let factors = Factors::new(k);
    let trellis = Trellis::of(3);
    let rows: Vec<f32> = noise(16 * k, 9).iter().map(|x| 127.0 * x).collect();
    let found = search(&Kernels::best(), trellis, &rows, k, Some(factors.feedback()));
    check(trellis, &rows, k, &found);
    let (mut cost, mut plain) = (0.0, 0.0);
    for lane in 0..4 {
        let row: Vec<f32> = rows[lane..].iter().step_by(16).copied().collect();
        cost += factors.cost(k, &found.errors, lane);
        plain += plain_search(trellis, &row, &factors).cost;
    }
    println!("{:.4} of the cost", cost / plain);
    // Neither search is exhaustive, so the plain one can even be the worse.
    assert!(cost / plain < 1.02, "{cost} against {plain}");
}

#[test]
fn codes_depend_neither_on_the_instruction_set_nor_on_other_panels() {
    let kernels = isas();
    for (k, panels) in [(64, 1), (192, 3), (576, 2)] {
        let factors = Factors::new(k);
        for trellis in &Trellis::ALL {
            let rows: Vec<f32> = noise(panels * 16 * k, 3).iter().map(|x| 100.0 * x).collect();
            for feedback in [None, Some(factors.feedback())] {
                let expected = search(&kernels[0], trellis, &rows, k, feedback);
                for kernels in &kernels {
                    let found = search(kernels, trellis, &rows, k, feedback);
                    assert!(found == expected, "{} differs", kernels.isa().name());
                    let last =
                        search(kernels, trellis, &rows[(panels - 1) * 16 * k..], k, feedback);
                    assert_eq!(last.codes, expected.codes[(panels - 1) * 16 * k..]);
                }
            }
        }
    }
}

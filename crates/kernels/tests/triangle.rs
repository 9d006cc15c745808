//! Sums of products, symmetric matrices and their factors, compared with plain loops in f64.

mod common;

use common::{bits, isas, noise};
use nanoinfer_kernels::*;

/// `[m][k]` as `[k/16][m][16]`.
fn panels(x: &[f32], m: usize, k: usize) -> Vec<f32> {
    (0..m * k).map(|i| x[i / 16 % m * k + i / (16 * m) * 16 + i % 16]).collect()
}

/// H = X·Xᵀ + I/4 for `m` random vectors: positive definite.
fn matrix(kernels: &Kernels, m: usize, k: usize) -> Vec<f32> {
    let x = panels(&noise(m * k, 5), m, k);
    let mut h = vec![0.0; k * k];
    for i in 0..k {
        h[i * k + i] = 0.25;
    }
    kernels.add_outer(AddOuter { x: &x, m, subtract: false, first: 0, rows: &mut h, k });
    h
}

/// Replaces H by R with H = Rᵀ·R.
fn factor(kernels: &Kernels, h: &mut [f32], k: usize) {
    let mut end = k;
    while end > 0 {
        let first = end.saturating_sub(FACTOR_ROWS);
        let (before, rows) = h.split_at_mut(first * k);
        let m = end - first;
        let mut packed = vec![0.0; first * m];
        let rows = &mut rows[..m * k];
        kernels.factor_rows(FactorRows { rows, first, k, packed: &mut packed });
        if first > 0 {
            let outer = AddOuter { x: &packed, m, subtract: true, first: 0, rows: before, k };
            kernels.add_outer(outer);
        }
        end = first;
    }
}

#[test]
fn outer_products_equal_the_triple_loop() {
    for kernels in isas() {
        for (m, k, first) in [(1, 16, 0), (7, 64, 0), (33, 128, 48), (5, 208, 96)] {
            let x = noise(m * k, 2);
            let n = if first == 0 { k } else { 32 };
            for subtract in [false, true] {
                let start = noise(n * k, 3);
                let mut rows = start.clone();
                let x = &panels(&x, m, k);
                kernels.add_outer(AddOuter { x, m, subtract, first, rows: &mut rows, k });
                for (i, row) in rows.chunks(k).enumerate() {
                    let i = first + i;
                    let value =
                        |t: usize, i: usize| f64::from(x[i / 16 * 16 * m + 16 * t + i % 16]);
                    for j in 0..k {
                        let old = start[(i - first) * k + j];
                        if j / 16 > i / 16 {
                            assert_eq!(row[j], old, "above the triangle");
                            continue;
                        }
                        let sum: f64 = (0..m).map(|t| value(t, i) * value(t, j)).sum();
                        let want = f64::from(old) + if subtract { -sum } else { sum };
                        // m products below 1 are added, each sum rounded once.
                        let bound = f64::from(f32::EPSILON) * ((m * m) as f64 + m as f64 + 1.0);
                        assert!((f64::from(row[j]) - want).abs() <= bound, "m={m} {i},{j}");
                    }
                }
            }
        }
    }
}

#[test]
fn factors_multiply_to_the_matrix() {
    for kernels in isas() {
        for k in [16, 64, 80, 208] {
            let h = matrix(&kernels, k / 2, k);
            let mut r = h.clone();
            factor(&kernels, &mut r, k);
            let mut largest = 0.0f64;
            for i in 0..k {
                for j in 0..=i {
                    let at = |row: usize, i: usize| f64::from(r[row * k + i]);
                    let product: f64 = (i..k).map(|row| at(row, i) * at(row, j)).sum();
                    largest = largest.max((product - f64::from(h[i * k + j])).abs());
                }
            }
            // Backward error of a factorization: k roundings of the diagonal, which is below k.
            let bound = f64::from(f32::EPSILON) * (k * k) as f64;
            println!("{} k={k}: {largest:.1e} of {bound:.1e}", kernels.isa().name());
            assert!(largest < bound);
        }
    }
}

#[test]
fn every_instruction_set_computes_the_same_bits() {
    let kernels = isas();
    let k = 208;
    let lower =
        |h: &[f32]| -> Vec<u32> { (0..k).flat_map(|i| bits(&h[i * k..i * k + i + 1])).collect() };
    let expected = matrix(&kernels[0], 40, k);
    let mut expected_factor = expected.clone();
    factor(&kernels[0], &mut expected_factor, k);
    for kernels in &kernels {
        let mut h = matrix(kernels, 40, k);
        assert_eq!(lower(&h), lower(&expected), "{}", kernels.isa().name());
        factor(kernels, &mut h, k);
        assert_eq!(lower(&h), lower(&expected_factor), "{}", kernels.isa().name());
    }
}

#[test]
fn products_equal_the_triple_loop() {
    for kernels in isas() {
        for (m, k, first) in [(1, 64, 0), (7, 64, 32), (5, 208, 96)] {
            let (x, y) = (noise(m * k, 2), noise(m * k, 3));
            let n = 32;
            let start = noise(n * k, 4);
            let mut rows = start.clone();
            let (left, right) = (&panels(&x, m, k), &panels(&y, m, k));
            kernels.add_products(AddProducts { left, right, m, first, rows: &mut rows, k });
            for (at, (got, old)) in rows.iter().zip(&start).enumerate() {
                let (i, j) = (first + at / k, at % k);
                let product = |t: usize| f64::from(x[t * k + i]) * f64::from(y[t * k + j]);
                let want = f64::from(*old) + (0..m).map(product).sum::<f64>();
                let bound = f64::from(f32::EPSILON) * ((m * m) as f64 + m as f64 + 1.0);
                assert!((f64::from(*got) - want).abs() <= bound, "m={m} {i},{j}");
            }
        }
    }
}

/// The correction X of rows W solves X·H = W·C.
#[test]
fn corrections_solve_their_equation() {
    let mut first: Option<Vec<u32>> = None;
    for kernels in isas() {
        let (k, panels) = (128, 3);
        let h = matrix(&kernels, 2 * k, k);
        let mut r = h.clone();
        factor(&kernels, &mut r, k);
        let pivots: Vec<f32> = (0..k).map(|i| r[i * k + i] * r[i * k + i]).collect();
        for (i, row) in r.chunks_mut(k).enumerate() {
            let root = row[i];
            row[..i].iter_mut().for_each(|x| *x /= root);
        }
        let differences = noise(k * k, 6);
        let before = noise(panels * k * 16, 7);
        let (mut rows, mut scratch) = (before.clone(), vec![0.0; before.len()]);
        kernels.correct_rows(CorrectRows {
            k,
            rows: &mut rows,
            differences: &differences,
            feedback: Feedback { factor: &r, pivots: &pivots },
            scratch: &mut scratch,
        });
        let at = |rows: &[f32], row: usize, j: usize| {
            f64::from(rows[(row / 16 * k + j) * 16 + row % 16])
        };
        let entry = |i: usize, j: usize| f64::from(h[i.max(j) * k + i.min(j)]);
        for row in 0..panels * 16 {
            for j in 0..k {
                let product: f64 =
                    (0..k).map(|i| (at(&rows, row, i) - at(&before, row, i)) * entry(i, j)).sum();
                let want: f64 =
                    (0..k).map(|i| at(&before, row, i) * f64::from(differences[j * k + i])).sum();
                // Rounded: the sum of a weight and its correction, times a column of H.
                let column: f64 = (0..k).map(|i| entry(i, j).abs()).sum();
                let bound = 4.0 * f64::from(f32::EPSILON) * column + 1e-4;
                assert!((product - want).abs() < bound, "{row}, {j}: {product}, {want}");
            }
        }
        let got = bits(&rows);
        assert!(*first.get_or_insert(got.clone()) == got, "{}", kernels.isa().name());
    }
}

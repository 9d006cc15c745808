//! Compares norms, activations, caps and exponentials with their formulas in f64, on every instruction
//! set of this machine.

mod common;

use common::{bits, isas, noise};
use nanoinfer_kernels::*;

#[test]
fn norm_pack_matches_its_formula() {
    for kernels in isas() {
        let m = 3;
        let (d, padded) = (100, 128);
        let mut x = noise(padded * m, 7);
        for (i, x) in x.iter_mut().enumerate() {
            if i / (16 * m) * 16 + i % 16 >= d {
                *x = 0.0;
            }
        }
        let mut weight = noise(padded, 8);
        weight[d..].fill(0.0);
        let mut out = vec![9.0; 4 * padded]; // rows 1 and 2 of a tile of 4
        let to = TileMut { rows: 4, row: 1, to: TileData::F32(&mut out) };
        let norm = NormParams { kind: NormKind::Rms, weight: &weight, bias: &[], d, eps: 1e-5 };
        kernels.norm_pack(NormPack { x: &x, m, at: 1, n: 2, norm, to });
        for (line, got) in out.chunks(64).enumerate() {
            let (group, row) = (line / 4, line % 4);
            if !(1..3).contains(&row) {
                assert!(got.iter().all(|x| *x == 9.0), "row {row} was overwritten");
                continue;
            }
            let token: Vec<f64> =
                (0..padded).map(|i| f64::from(x[(i / 16 * m + row) * 16 + i % 16])).collect();
            let mean = token.iter().map(|x| x * x).sum::<f64>() / d as f64;
            for (i, got) in (64 * group..).zip(got) {
                let want = token[i] / (mean + 1e-5).sqrt() * f64::from(weight[i]);
                assert!((want - f64::from(*got)).abs() < 1e-5);
            }
        }
        // A quantized tile equals the packed output of the norm.
        let [mut a, mut b] = [(); 2].map(|()| (vec![0i8; 128], vec![0.0; 2], vec![0; 2]));
        fn row((q, scales, sums): &mut (Vec<i8>, Vec<f32>, Vec<i32>)) -> TileMut<'_> {
            TileMut { rows: 1, row: 0, to: TileData::Q8 { q, scales, sums } }
        }
        let to = row(&mut a);
        kernels.norm_pack(NormPack { x: &x, m, at: 1, n: 1, norm, to });
        let norm: Vec<f32> = (0..padded).map(|i| out[(i / 64 * 4 + 1) * 64 + i % 64]).collect();
        kernels.pack(Pack { x: &norm, m: 1, at: 0, n: 1, rotation: 64, to: row(&mut b) });
        assert_eq!(a, b);
    }
}

/// Mean and variance by definition, with a mean far from 0.
#[test]
fn layer_norm_matches_its_formula() {
    for kernels in isas() {
        for d in [1usize, 15, 16, 100, 128] {
            let padded = d.next_multiple_of(64);
            let mut x: Vec<f32> = noise(padded, 3).iter().map(|x| x + 5.0).collect();
            let (mut weight, mut bias) = (noise(padded, 4), noise(padded, 5));
            for padding in [&mut x, &mut weight, &mut bias] {
                padding[d..].fill(0.0);
            }
            let norm =
                NormParams { kind: NormKind::Layer, weight: &weight, bias: &bias, d, eps: 1e-3 };
            let mut row = x.clone();
            kernels.norm_row(NormRow { x: &mut row, norm });
            let mean = x.iter().map(|x| f64::from(*x)).sum::<f64>() / d as f64;
            let squares = x[..d].iter().map(|x| (f64::from(*x) - mean).powi(2));
            let deviation = (squares.sum::<f64>() / d as f64 + f64::from(1e-3f32)).sqrt();
            for i in 0..padded {
                let centred = if i < d { f64::from(x[i]) - mean } else { 0.0 };
                let want = centred / deviation * f64::from(weight[i]) + f64::from(bias[i]);
                let got = f64::from(row[i]);
                assert!((want - got).abs() < 1e-5, "{d} {i}: {got}, expected {want}");
            }
            // A tile has the same bits as a row.
            let mut tile = vec![9.0; padded];
            let to = TileMut { rows: 1, row: 0, to: TileData::F32(&mut tile) };
            kernels.norm_pack(NormPack { x: &x, m: 1, at: 0, n: 1, norm, to });
            assert_eq!(bits(&tile), bits(&row), "{d}");
        }
    }
}

#[test]
fn activations_match_their_formulas() {
    let silu = |x: f64| x / (1.0 + (-x).exp());
    let gelu = |x: f64| {
        let inner = (2.0 / std::f64::consts::PI).sqrt() * (x + 0.044715 * x.powi(3));
        0.5 * x * (1.0 + inner.tanh())
    };
    let relu2 = |x: f64| x.max(0.0).powi(2);
    let (positive, negative, beta, eps) = (0.75f32, 1.25f32, 0.5f32, -1e-6f32);
    let xielu = |x: f64| {
        let curve = if x > 0.0 {
            f64::from(positive) * x * x
        } else {
            f64::from(negative) * (x.min(f64::from(eps)).exp_m1() - x)
        };
        curve + f64::from(beta) * x
    };
    // Where 1 + tanh cancels, even f64 retains only a few digits, hence the absolute tolerance; xIELU has that of
    // eˣ − 1, times a gate.
    for kernels in isas() {
        for (activation, f, relative, absolute) in [
            (Activation::Silu, &silu as &dyn Fn(f64) -> f64, 1e-6, 1e-30),
            (Activation::Gelu, &gelu, 3e-6, 1e-14),
            (Activation::Relu2, &relu2, 1e-6, 1e-30),
            (Activation::Xielu { positive, negative, beta, eps }, &xielu, 1e-6, 3e-7),
        ] {
            for (gated, size) in [(true, 100.0), (true, 4.0), (false, 4.0), (false, 1e-3)] {
                let (panels, m) = (4, 3);
                let x: Vec<f32> = noise(panels * m * 16, 9).iter().map(|x| x * size).collect();
                let mut out = vec![0.0; if gated { x.len() / 2 } else { x.len() }];
                kernels.activate(Activate { activation, gated, x: &x, m, out: &mut out });
                for (i, got) in out.iter().enumerate() {
                    let (pair, rest) = (i / (16 * m), i % (16 * m));
                    let (g, u) = if gated {
                        (x[pair * 32 * m + rest], x[pair * 32 * m + 16 * m + rest])
                    } else {
                        (x[i], 1.0)
                    };
                    let want = f(f64::from(g)) * f64::from(u);
                    let tolerance = want.abs() * relative + absolute * f64::from(u.abs().max(1.0));
                    let off = (want - f64::from(*got)).abs();
                    assert!(off <= tolerance, "{activation:?}({g})·{u}: {got}, expected {want}");
                }
            }
        }
    }
}

#[test]
fn the_clamped_activation_matches_its_formula() {
    for kernels in isas() {
        let (panels, m) = (4, 3);
        let x: Vec<f32> = noise(panels * m * 16, 9).iter().map(|x| x * 12.0).collect();
        let mut out = vec![0.0; x.len() / 2];
        let activation = Activation::Clamped;
        kernels.activate(Activate { activation, gated: true, x: &x, m, out: &mut out });
        for (i, got) in out.iter().enumerate() {
            let at = i / (16 * m) * 32 * m + i % (16 * m);
            let (g, u) = (f64::from(x[at]).min(7.0), f64::from(x[at + 16 * m]).clamp(-7.0, 7.0));
            let want = g / (1.0 + (-1.702 * g).exp()) * (u + 1.0);
            assert!((want - f64::from(*got)).abs() <= want.abs() * 4e-6, "{g} {u}: {got}, {want}");
        }
    }
}

#[test]
fn soft_cap_matches_its_formula() {
    for kernels in isas() {
        for (scale, cap) in [(1.0, 30.0), (0.25, 1.0), (0.25, 0.0)] {
            let mut x: Vec<f32> = (-1600..1600).map(|i| (i as f32 / 400.0).powi(5) * 0.1).collect();
            x.extend([0.0, 1e30, -1e30, f32::MIN_POSITIVE, 0.6249 * cap, 0.6251 * cap]);
            x.resize(x.len().next_multiple_of(16), 1e-8);
            let mut y = x.clone();
            kernels.soft_cap(SoftCap { x: &mut y, scale, cap });
            for (x, got) in x.iter().zip(&y) {
                let (scaled, cap) = (f64::from(*x) * f64::from(scale), f64::from(cap));
                let want = if cap == 0.0 { scaled } else { cap * (scaled / cap).tanh() };
                let off = (want - f64::from(*got)).abs();
                assert!(off <= want.abs() * 4e-7 + 1e-44, "{x}: {got}, expected {want}");
            }
            let mut x = [f32::NAN; 16];
            kernels.soft_cap(SoftCap { x: &mut x, scale, cap: cap.max(1.0) });
            assert!(x[0].is_nan(), "NaN must propagate");
        }
    }
}

#[test]
fn exp_weights_are_within_two_ulp_of_exp() {
    for kernels in isas() {
        let logits: Vec<f32> =
            (0..10_001).map(|i| i as f32 * -0.01).chain([f32::NEG_INFINITY]).collect();
        let mut out = vec![9.0; logits.len()];
        let (mut total, mut lanes) = (0.0, [0.0; LANES]);
        let weights =
            ExpWeights { logits: &logits, max: 0.0, scale: 1.0, out: &mut out, total: &mut total };
        kernels.exp_weights(weights);
        out.iter().enumerate().for_each(|(i, &w)| lanes[i % LANES] += f64::from(w));
        assert_eq!(total, lanes.iter().sum::<f64>());
        for (x, got) in logits.iter().zip(&out) {
            let want = f64::from(*x).exp();
            let tolerance = if *x < -87.0 { 1.7e-38 } else { want * 2.4e-7 };
            assert!(
                (want - f64::from(*got)).abs() <= tolerance,
                "exp({x}) = {got}, expected {want}"
            );
        }
        assert_eq!(out.last(), Some(&0.0));
    }
}

#[test]
fn a_row_of_logits_is_copied_and_checked() {
    for (kernels, n) in
        isas().iter().flat_map(|kernels| [1, 15, 16, 40, 1000].map(|n| (kernels, n)))
    {
        let panels = 1000usize.div_ceil(LANES);
        for rows in [1, 3, 64] {
            let row = rows / 2;
            let mut values = noise(panels * rows * LANES, 3);
            let index = |id: usize| (id / LANES * rows + row) * LANES + id % LANES;
            // Neither other rows nor what lies behind the row matters.
            values[index(1000)] = f32::NAN;
            if row > 0 {
                values[0] = f32::INFINITY;
            }
            let copy = |values: &[f32]| {
                let (mut to, mut max) = (vec![9.0; n], None);
                kernels.copy_row(CopyRow { values, rows, row, to: &mut to, max: &mut max });
                (to, max)
            };
            let expected: Vec<f32> = (0..n).map(|id| values[index(id)]).collect();
            let max = expected.iter().copied().reduce(f32::max);
            assert_eq!(copy(&values), (expected, max), "{n} of {rows} rows");
            for (id, x) in [(0, f32::NAN), (n - 1, f32::NEG_INFINITY), (n / 2, f32::INFINITY)] {
                let mut values = values.clone();
                values[index(id)] = x;
                assert_eq!(copy(&values).1, None, "{x} at {id} of {n}");
            }
        }
    }
}

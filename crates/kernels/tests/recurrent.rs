//! Compares the kernels of recurrent layers with plain loops in f64 on every instruction set of this
//! machine, and every instruction set with scalar, bit for bit.

mod common;

use common::{bits, isas, noise};
use nanoinfer_kernels::*;

/// Checks that every instruction set has the same bits, and returns the result.
fn same(run: impl Fn(&Kernels) -> Vec<f32>) -> Vec<f32> {
    let results: Vec<Vec<f32>> = isas().iter().map(run).collect();
    assert!(results.iter().all(|result| bits(result) == bits(&results[0])));
    results.into_iter().next().unwrap()
}

fn close(x: f32, expected: f64, bound: f64) {
    assert!((f64::from(x) - expected).abs() <= bound, "{x}, expected {expected}");
}

fn wide(x: &[f32]) -> Vec<f64> {
    x.iter().map(|&x| f64::from(x)).collect()
}

#[test]
fn a_convolution_covers_the_last_positions_of_each_channel() {
    for (kernel, n, bias, silu) in [(3, 1, false, false), (4, 7, true, true), (2, 20, true, false)]
    {
        let (channels, first) = (48, 16);
        let (x, weights) = (noise((kernel - 1 + n) * 16, 1), noise(kernel * channels, 2));
        let bias = if bias { noise(channels, 3) } else { vec![] };
        let got = same(|kernels| {
            let mut out = vec![0.0; n * 16];
            kernels.short_conv(ShortConv {
                x: &x,
                weights: &weights,
                stride: channels,
                first,
                bias: &bias,
                silu,
                out: &mut out,
            });
            out
        });
        for (i, &got) in got.iter().enumerate() {
            let (row, lane) = (i / 16, i % 16);
            let term = |j: usize| {
                f64::from(weights[j * channels + first + lane])
                    * f64::from(x[(row + j) * 16 + lane])
            };
            let bias = bias.get(first + lane).map_or(0.0, |&b| f64::from(b));
            let sum = (0..kernel).map(term).sum::<f64>() + bias;
            let expected = if silu { sum / (1.0 + (-sum).exp()) } else { sum };
            close(got, expected, 1e-5);
        }
    }
}

#[test]
fn a_state_decays_is_written_and_is_read() {
    for (dim, n, replaces, skip) in
        [(16, 1, true, 0.0), (128, 9, true, 0.0), (64, 5, false, 0.7), (16, 40, false, 0.0)]
    {
        let unit = |seed| noise(n * dim, seed).iter().map(|x| x / 8.0).collect::<Vec<f32>>();
        let (keys, queries) = (unit(1), unit(2));
        let (values, start) = (noise(n * 16, 3), noise(dim * 16, 4));
        let part = |seed| noise(n, seed).iter().map(|x| x.abs() % 1.0).collect::<Vec<f32>>();
        let (beta, decay) = (part(5), part(6));
        let run = |kernels: &Kernels, reads: bool| {
            let mut state = start.clone();
            let mut out = vec![0.0; if reads { n * 16 } else { 0 }];
            kernels.recur(Recur {
                dim,
                replaces,
                keys: &keys,
                queries: if reads { &queries } else { &[] },
                values: &values,
                beta: &beta,
                decay: &decay,
                skip,
                state: &mut state,
                out: &mut out,
            });
            (state, out)
        };
        let got = same(|kernels| {
            let (state, out) = run(kernels, true);
            assert_eq!(bits(&run(kernels, false).0), bits(&state), "without outputs");
            [state, out].concat()
        });
        let (mut state, mut expected) = (wide(&start), Vec::new());
        for i in 0..n {
            state.iter_mut().for_each(|x| *x *= f64::from(decay[i]));
            for lane in 0..16 {
                let at = |j: usize| j * 16 + lane;
                let row = |x: &[f32], state: &[f64]| {
                    let term = |j: usize| f64::from(x[i * dim + j]) * state[at(j)];
                    (0..dim).map(term).sum::<f64>()
                };
                let value = f64::from(values[i * 16 + lane]);
                let known = if replaces { row(&keys, &state) } else { 0.0 };
                let new = f64::from(beta[i]) * (value - known);
                (0..dim).for_each(|j| state[at(j)] += f64::from(keys[i * dim + j]) * new);
                expected.push(row(&queries, &state) + f64::from(skip) * value);
            }
        }
        let expected = [state, expected].concat();
        got.iter().zip(expected).for_each(|(&got, expected)| close(got, expected, 2e-4));
    }
}

#[test]
fn steps_and_gates_are_those_of_their_formulas() {
    let x: Vec<f32> = (0..64).map(|i| (i as f32 - 32.0) * 1.3).collect();
    let (bias, a): (Vec<f32>, Vec<f32>) =
        (noise(16, 1), noise(16, 2).iter().map(|x| -x.abs()).collect());
    let softplus = |x: f64| x.max(0.0) + (-x.abs()).exp().ln_1p();
    for steps in [Steps::Sigmoid, Steps::Softplus, Steps::Decay] {
        let got = same(|kernels| {
            let mut out = vec![0.0; x.len()];
            kernels.state_steps(StateSteps { steps, x: &x, bias: &bias, a: &a, out: &mut out });
            out
        });
        for (i, &got) in got.iter().enumerate() {
            let (x, step) = (f64::from(x[i]), softplus(f64::from(x[i] + bias[i % 16])));
            let expected = match steps {
                Steps::Sigmoid => 1.0 / (1.0 + (-x).exp()),
                Steps::Softplus => step,
                Steps::Decay => (f64::from(a[i % 16]) * step).exp(),
            };
            close(got, expected, 1e-6 + 1e-6 * expected);
        }
    }
    let values = noise(x.len(), 3);
    for kind in [Gate::Plain, Gate::Silu, Gate::Sigmoid] {
        let got = same(|kernels| {
            let mut out = values.clone();
            kernels.apply_gate(ApplyGate { kind, x: &mut out, gates: &x });
            out
        });
        for (i, &got) in got.iter().enumerate() {
            let gate = f64::from(x[i]);
            let sigmoid = 1.0 / (1.0 + (-gate).exp());
            let factor = match kind {
                Gate::Plain => gate,
                Gate::Silu => gate * sigmoid,
                Gate::Sigmoid => sigmoid,
            };
            close(got, f64::from(values[i]) * factor, 1e-4);
        }
    }
}

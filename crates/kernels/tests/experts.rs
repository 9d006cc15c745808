//! Compares the mixture-of-experts kernels with plain loops on every instruction set of this machine,
//! and every instruction set with scalar, bit for bit.

use nanoinfer_kernels::{AddWeighted, Isa, Kernels, Route, RouteGroups, Weigh, fma};

fn isas() -> Vec<Kernels> {
    Isa::ALL.into_iter().filter_map(Kernels::new).collect()
}

/// Reproducible noise in [-1, 1).
fn noise(n: usize, seed: u64) -> Vec<f32> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state >> 40) as f32 / (1u64 << 23) as f32 - 1.0
    };
    (0..n).map(|_| next()).collect()
}

/// A choice by the softmax alone.
fn plain<'a>(chosen: &'a mut [u32], weights: &'a mut [f32]) -> Route<'a> {
    Route {
        logits: &mut [],
        sigmoid: false,
        bias: &[],
        groups: None,
        distance: None,
        over_chosen: false,
        chosen,
        weights,
    }
}

fn route(kernels: &Kernels, logits: &[f32], k: usize, over_chosen: bool) -> (Vec<u32>, Vec<f32>) {
    let (mut chosen, mut weights) = (vec![0; k], vec![0.0; k]);
    let (c, w, logits) = (&mut chosen, &mut weights, &mut logits.to_vec());
    kernels.route(Route { logits, over_chosen, ..plain(c, w) });
    (chosen, weights)
}

/// Compares weights with what they should be, and with those of the first instruction set.
fn check_weights(weights: &[f32], want: impl Iterator<Item = f64>, first: &mut Option<Vec<u32>>) {
    for (&weight, want) in weights.iter().zip(want) {
        assert!((f64::from(weight) / want - 1.0).abs() < 1e-5, "{weight}, {want}");
    }
    let bits: Vec<u32> = weights.iter().map(|w| w.to_bits()).collect();
    assert_eq!(*first.get_or_insert_with(|| bits.clone()), bits);
}

#[test]
fn sigmoids_are_chosen_with_their_bias_and_weigh_without_it() {
    for (n, k) in [(1, 1), (4, 2), (17, 3), (60, 6), (128, 8)] {
        let logits: Vec<f32> = noise(n, n as u64).iter().map(|x| 6.0 * x).collect();
        for (bias, over_chosen) in [(noise(n, 7), true), (noise(n, 8), false), (vec![], true)] {
            let scores: Vec<f64> =
                logits.iter().map(|x| 1.0 / (1.0 + (-f64::from(*x)).exp())).collect();
            let biased = |e: usize| scores[e] + f64::from(bias.get(e).copied().unwrap_or(0.0));
            let mut order: Vec<usize> = (0..n).collect();
            order.sort_by(|&a, &b| biased(b).total_cmp(&biased(a)));
            order.truncate(k);
            order.sort_unstable();
            let sum: f64 = if over_chosen { order.iter().map(|&e| scores[e]).sum() } else { 1.0 };
            let mut first = None;
            for kernels in isas() {
                let (mut chosen, mut weights) = (vec![0; k], vec![0.0; k]);
                kernels.route(Route {
                    logits: &mut logits.clone(),
                    sigmoid: true,
                    bias: &bias,
                    over_chosen,
                    ..plain(&mut chosen, &mut weights)
                });
                assert!(chosen.iter().map(|&e| e as usize).eq(order.iter().copied()));
                let shares = order.iter().map(|&e| scores[e] / sum);
                check_weights(&weights, shares, &mut first);
            }
        }
    }
}

#[test]
fn routing_selects_the_largest_logits_with_softmax_weights() {
    for (n, k) in [(1, 1), (4, 2), (8, 2), (16, 16), (17, 3), (60, 4), (128, 8), (256, 9)] {
        let logits: Vec<f32> = noise(n, n as u64).iter().map(|x| 6.0 * x).collect();
        let mut order: Vec<usize> = (0..n).collect();
        order.sort_by(|&a, &b| logits[b].total_cmp(&logits[a]).then(a.cmp(&b)));
        order.truncate(k);
        order.sort_unstable();
        for over_chosen in [false, true] {
            let exps = |experts: &mut dyn Iterator<Item = usize>| -> f64 {
                experts.map(|e| f64::from(logits[e]).exp()).sum()
            };
            let sum =
                if over_chosen { exps(&mut order.iter().copied()) } else { exps(&mut (0..n)) };
            let scalar = route(&Kernels::new(Isa::Scalar).unwrap(), &logits, k, over_chosen);
            assert!(scalar.0.iter().map(|&e| e as usize).eq(order.iter().copied()));
            for (&e, &weight) in order.iter().zip(&scalar.1) {
                let want = f64::from(logits[e]).exp() / sum;
                assert!((f64::from(weight) / want - 1.0).abs() < 1e-5, "{weight}, expected {want}");
            }
            for kernels in isas() {
                let (chosen, weights) = route(&kernels, &logits, k, over_chosen);
                assert_eq!(chosen, scalar.0);
                let bits = |w: &[f32]| w.iter().map(|w| w.to_bits()).collect::<Vec<_>>();
                assert_eq!(bits(&weights), bits(&scalar.1), "{:?}", kernels.isa());
            }
        }
    }
}

#[test]
fn ties_go_to_the_lowest_experts() {
    for kernels in isas() {
        assert_eq!(route(&kernels, &[1.0; 20], 3, true), (vec![0, 1, 2], vec![1.0 / 3.0; 3]));
        let logits = [0.0, 2.0, 1.0, 2.0, 2.0];
        assert_eq!(route(&kernels, &logits, 2, true).0, [1, 3]);
    }
}

/// A damaged model must not break routing; its logits are rejected later.
#[test]
fn nan_logits_still_yield_valid_experts() {
    for kernels in isas() {
        for logits in [[f32::NAN; 5], [f32::NEG_INFINITY; 5], [f32::NAN, 1.0, f32::NAN, 2.0, 0.0]] {
            let (chosen, _) = route(&kernels, &logits, 4, false);
            assert!(chosen.is_sorted_by(|a, b| a < b) && chosen[3] < 5, "{chosen:?}");
        }
    }
}

#[test]
fn weighted_outputs_are_added_with_a_single_rounding() {
    let (panels, m) = (3, 7);
    for kernels in isas() {
        for tokens in [&[4][..], &[0, 2, 6], &[0, 1, 2, 3, 4, 5, 6]] {
            let n = tokens.len();
            let (y, weights) = (noise(panels * n * 16, 1), noise(n, 2));
            let mut out = noise(panels * m * 16, 3);
            let mut want = out.clone();
            for p in 0..panels {
                for (i, &token) in tokens.iter().enumerate() {
                    for r in 0..16 {
                        let to = &mut want[(p * m + token as usize) * 16 + r];
                        *to = fma(weights[i], y[(p * n + i) * 16 + r], *to);
                    }
                }
            }
            kernels.add_weighted(AddWeighted {
                y: &y,
                tokens,
                weights: &weights,
                m,
                out: &mut out,
            });
            assert_eq!(out, want, "{:?}", kernels.isa());
        }
    }
}

/// The groups with the largest sums of their `best` scores, then the experts with the largest scores in them.
#[test]
fn experts_are_chosen_within_the_best_groups() {
    for (n, groups, chosen_groups, best, k) in
        [(16, 4, 2, 2, 3), (64, 8, 4, 2, 8), (20, 4, 1, 1, 5), (256, 8, 4, 2, 8), (64, 64, 3, 1, 2)]
    {
        let logits: Vec<f32> = noise(n, n as u64).iter().map(|x| 4.0 * x).collect();
        for (sigmoid, bias, over_chosen) in
            [(true, noise(n, 5), true), (false, vec![], false), (false, noise(n, 6), true)]
        {
            let wide: Vec<f64> = logits.iter().map(|&x| x.into()).collect();
            let all: f64 = wide.iter().map(|x| x.exp()).sum();
            let score = |x: &f64| if sigmoid { 1.0 / (1.0 + (-x).exp()) } else { x.exp() / all };
            let scores: Vec<f64> = wide.iter().map(score).collect();
            let biased = |e: usize| scores[e] + bias.get(e).map_or(0.0, |&b| f64::from(b));
            let size = n / groups;
            let of_group = |group: usize| {
                let mut own: Vec<f64> = (group * size..(group + 1) * size).map(biased).collect();
                own.sort_by(|a, b| b.total_cmp(a));
                own[..best].iter().sum::<f64>()
            };
            let mut ranked: Vec<usize> = (0..groups).collect();
            ranked.sort_by(|&a, &b| of_group(b).total_cmp(&of_group(a)));
            let ranked = &ranked[..chosen_groups];
            let mut order: Vec<usize> = (0..n).filter(|e| ranked.contains(&(e / size))).collect();
            order.sort_by(|&a, &b| biased(b).total_cmp(&biased(a)));
            order.truncate(k);
            order.sort_unstable();
            let sum: f64 = if over_chosen { order.iter().map(|&e| scores[e]).sum() } else { 1.0 };
            let mut first = None;
            for kernels in isas() {
                let (mut chosen, mut weights) = (vec![0; k], vec![0.0; k]);
                kernels.route(Route {
                    logits: &mut logits.clone(),
                    sigmoid,
                    bias: &bias,
                    groups: Some(RouteGroups { n: groups, chosen: chosen_groups, best }),
                    over_chosen,
                    ..plain(&mut chosen, &mut weights)
                });
                assert!(chosen.iter().map(|&e| e as usize).eq(order.iter().copied()), "{n}");
                let shares = order.iter().map(|&e| scores[e] / sum);
                check_weights(&weights, shares, &mut first);
            }
        }
    }
}

/// Each expert is weighed among those that are left, without those far below it.
#[test]
fn experts_chosen_in_turn_weigh_what_is_near() {
    for (n, k) in [(2, 2), (16, 2), (17, 3), (40, 4)] {
        let logits: Vec<f32> = noise(n, n as u64).iter().map(|x| 3.0 * x).collect();
        for distance in [0.02f32, 0.5, 10.0] {
            let mut left: Vec<usize> = (0..n).collect();
            let mut want = Vec::new();
            for _ in 0..k {
                let best = *left.iter().max_by(|&&a, &&b| logits[a].total_cmp(&logits[b])).unwrap();
                let max = logits[best];
                let near = |&&e: &&usize| {
                    let gap = (max - logits[e]) / logits[e].abs().max(max);
                    gap <= distance
                };
                let exps = left.iter().filter(near).map(|&e| f64::from(logits[e] - max).exp());
                want.push((best as u32, 1.0 / exps.sum::<f64>()));
                left.retain(|&e| e != best);
            }
            want.sort_by_key(|&(e, _)| e);
            let mut first = None;
            for kernels in isas() {
                let (mut chosen, mut weights) = (vec![0; k], vec![0.0; k]);
                kernels.route(Route {
                    logits: &mut logits.clone(),
                    distance: Some(distance),
                    ..plain(&mut chosen, &mut weights)
                });
                assert!(chosen.iter().eq(want.iter().map(|(expert, _)| expert)));
                check_weights(&weights, want.iter().map(|&(_, weight)| weight), &mut first);
            }
        }
    }
}

#[test]
fn sigmoids_that_are_all_1_are_chosen_by_their_logits() {
    for kernels in isas() {
        let (mut chosen, mut weights) = ([0; 2], [0.0; 2]);
        kernels.route(Route {
            logits: &mut [20.0, 30.0, -1.0, 25.0],
            sigmoid: true,
            ..plain(&mut chosen, &mut weights)
        });
        assert_eq!((chosen, weights), ([1, 3], [1.0; 2]), "{:?}", kernels.isa());
    }
}

#[test]
fn values_are_weighed_token_by_token() {
    for kernels in isas() {
        for m in [1, 3, 7] {
            let (mut x, weights) = (noise(2 * m * 16, 1), noise(m, 2));
            let of = |(i, x): (usize, &f32)| x * weights[i / 16 % m];
            let want: Vec<f32> = x.iter().enumerate().map(of).collect();
            kernels.weigh(Weigh { x: &mut x, weights: &weights });
            assert_eq!(x, want, "{:?}", kernels.isa());
        }
    }
}

//! From logits to scores: negative log-likelihood, and divergence from a reference.

use std::thread;

/// One predicted token.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(super) struct Position {
    /// -log p of the actual token, in nats.
    pub(super) nll: f64,
    pub(super) compared: Option<Compared>,
}

/// Comparison with a reference model at the same position.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Compared {
    pub(super) reference_nll: f64,
    /// KL divergence of the model from the reference, in nats.
    pub(super) kl: f64,
    /// Whether both models rank the same token first.
    pub(super) top1: bool,
    /// Number of tokens that both models rank among their top five.
    pub(super) top5: usize,
}

/// Scores positions on several threads. `logits` and `reference` are `[targets][vocabulary]`.
pub(super) fn score(
    logits: &[f32],
    reference: Option<&[f32]>,
    targets: &[u32],
    threads: usize,
) -> Vec<Position> {
    let vocab = logits.len() / targets.len().max(1);
    let mut positions = vec![Position::default(); targets.len()];
    let each = targets.len().div_ceil(threads.max(1)).max(1);
    thread::scope(|scope| {
        for (n, part) in positions.chunks_mut(each).enumerate() {
            scope.spawn(move || {
                for (i, position) in (n * each..).zip(part) {
                    let row = i * vocab..(i + 1) * vocab;
                    let reference = reference.map(|r| &r[row.clone()]);
                    *position = score_position(&logits[row], reference, targets[i] as usize);
                }
            });
        }
    });
    positions
}

fn score_position(logits: &[f32], reference: Option<&[f32]>, target: usize) -> Position {
    let norm = log_sum_exp(logits);
    let nll = norm - f64::from(logits[target]);
    let compared = reference.map(|reference| {
        let reference_norm = log_sum_exp(reference);
        let (ours, theirs) = (top5(logits), top5(reference));
        Compared {
            reference_nll: reference_norm - f64::from(reference[target]),
            kl: kl(reference, reference_norm, logits, norm),
            top1: ours[0] == theirs[0],
            top5: ours.iter().filter(|id| theirs.contains(id)).count(),
        }
    });
    Position { nll, compared }
}

/// Log of the sum of exponentials, which are computed in f32 like the logits but summed in f64.
fn log_sum_exp(x: &[f32]) -> f64 {
    let max = x.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let sum: f64 = x.iter().map(|x| f64::from((x - max).exp())).sum();
    f64::from(max) + sum.ln()
}

/// Σ p·(log p − log q), clamped at zero because rounding can make it slightly negative.
fn kl(p: &[f32], p_norm: f64, q: &[f32], q_norm: f64) -> f64 {
    let terms = p.iter().zip(q).map(|(&p, &q)| {
        let (log_p, log_q) = (f64::from(p) - p_norm, f64::from(q) - q_norm);
        f64::from((log_p as f32).exp()) * (log_p - log_q)
    });
    terms.sum::<f64>().max(0.0)
}

/// Ids of the five largest values in descending order; ties are ordered by id.
fn top5(x: &[f32]) -> [usize; 5] {
    let mut best = [(f32::NEG_INFINITY, usize::MAX); 5];
    for (id, &x) in x.iter().enumerate() {
        if x > best[4].0 {
            let at = best.partition_point(|b| b.0 >= x);
            best[at..].rotate_right(1);
            best[at] = (x, id);
        }
    }
    best.map(|(_, id)| id)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn known_distributions() {
        let p = [0.5f32.ln(), 0.25f32.ln(), 0.25f32.ln()];
        let q = [0.25f32.ln() + 7.0, 0.5f32.ln() + 7.0, 0.25f32.ln() + 7.0]; // a constant shift has no effect
        let scored = score(&[q, q].concat(), Some(&[p, q].concat()), &[0, 1], 2);
        let close = |x: f64, y: f64| assert!((x - y).abs() < 1e-6, "{x}, expected {y}");
        close(scored[0].nll, 4f64.ln());
        close(scored[1].nll, 2f64.ln());
        let first = scored[0].compared.unwrap();
        close(first.reference_nll, 2f64.ln());
        close(first.kl, 0.25 * 2f64.ln()); // ½·ln 2 − ¼·ln 2
        assert!(!first.top1 && scored[1].compared.unwrap().top1);
        close(scored[1].compared.unwrap().kl, 0.0);
    }

    #[test]
    fn top5_is_in_descending_order() {
        assert_eq!(top5(&[1.0, 9.0, 3.0, 9.0, -1.0, 4.0, 0.0]), [1, 3, 5, 2, 0]);
    }

    #[test]
    fn without_a_reference_nothing_is_compared() {
        let scored = score(&[0.0, 0.0], None, &[1], 4);
        assert_eq!(scored, [Position { nll: 2f64.ln(), compared: None }]);
    }
}

//! Log-probabilities: log-softmax of the raw logits, before bias, penalties and temperature.
//!
//! Like logits, they have the same bits on every machine: the sum has a fixed order, and the logarithm is
//! our own.

use super::{DrawScratch, LogitRows};

/// Maximum number of most likely tokens that can be requested.
pub const MAX_TOP_LOGPROBS: usize = 20;

/// A token with the logarithm of its probability.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct TokenLogprob {
    /// Its id.
    pub id: u32,
    /// The natural logarithm of its probability according to the model.
    pub logprob: f32,
}

/// Log-probabilities at one position.
#[derive(Clone, Debug)]
pub struct Logprobs {
    /// That of the chosen token.
    pub token: f32,
    /// The most likely tokens, most likely first, with ties ordered by id.
    pub top: Vec<TokenLogprob>,
    n: usize,
    /// The logarithm of the sum of e^logit.
    total: f64,
}

impl Logprobs {
    /// With the `n` most likely tokens.
    pub(crate) fn new(n: usize) -> Self {
        let n = n.min(MAX_TOP_LOGPROBS);
        Self { token: 0.0, top: Vec::with_capacity(n + 1), n, total: 0.0 }
    }

    /// Reads the raw logits in `scratch`, of which `max` is the largest.
    pub(super) fn read(&mut self, rows: LogitRows<'_>, max: f32, scratch: &mut DrawScratch) {
        let DrawScratch { logits, weights, .. } = scratch;
        self.total = f64::from(max) + ln(rows.weigh(logits, max, 1.0, weights));
        self.top.clear();
        for (&logit, id) in logits.iter().zip(0..) {
            let full = self.top.len() == self.n;
            if full && self.top.last().is_none_or(|least| logit <= least.logprob) {
                continue;
            }
            let at = self.top.partition_point(|t| t.logprob >= logit);
            self.top.insert(at, TokenLogprob { id, logprob: logit });
            self.top.truncate(self.n);
        }
        let total = self.total;
        for token in &mut self.top {
            token.logprob = (f64::from(token.logprob) - total) as f32;
        }
    }

    /// Records the choice of a token with this raw logit.
    pub(super) fn choose(&mut self, logit: f32) {
        self.token = self.of(logit);
    }

    /// The log-probability of a token with this raw logit.
    fn of(&self, logit: f32) -> f32 {
        (f64::from(logit) - self.total) as f32
    }

    /// Determines the log-probabilities in a row of logits, and passes those of `ids` to `each`. Returns false
    /// if the logits are not finite.
    pub(crate) fn score(
        &mut self,
        (rows, row): (LogitRows<'_>, usize),
        ids: &[u32],
        scratch: &mut DrawScratch,
        mut each: impl FnMut(f32),
    ) -> bool {
        let Some(max) = rows.copy(row, &mut scratch.logits) else { return false };
        self.read(rows, max, scratch);
        ids.iter().for_each(|&id| each(self.of(rows.get(row, id))));
        true
    }
}

/// The natural logarithm of a normal positive number, within a few units in the last place, from operations
/// that every machine rounds alike.
fn ln(x: f64) -> f64 {
    // x = m · 2^e with m near 1, and ln m = 2 artanh s = 2 (s + s³/3 + s⁵/5 + …).
    let bits = x.to_bits();
    let mut e = (bits >> 52) as i64 - 1023;
    let mut m = f64::from_bits(bits & ((1 << 52) - 1) | 1023 << 52);
    if m > std::f64::consts::SQRT_2 {
        (m, e) = (m / 2.0, e + 1);
    }
    let s = (m - 1.0) / (m + 1.0);
    let series = (0..12).rev().fold(0.0, |sum, i| sum * (s * s) + 1.0 / f64::from(2 * i + 1));
    e as f64 * std::f64::consts::LN_2 + 2.0 * s * series
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_logarithm_is_accurate() {
        for i in 0..20_000 {
            let x = 1.0 + f64::from(i) * f64::from(i) * 0.37;
            let (got, want) = (ln(x), x.ln());
            assert!(
                (got - want).abs() <= 1e-14 * want.abs().max(1e-2),
                "ln {x} = {got}, not {want}"
            );
        }
        assert_eq!(ln(1.0), 0.0);
    }
}

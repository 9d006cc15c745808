//! Decides from measurements whether to draft, from which source, and how much.
//!
//! Times are in units of an undrafted pass, T(1). If each token of a draft is accepted with probability
//! `p` after all previous ones were, a draft of `k` tokens yields `1 + p + … + p^k` tokens in one pass of
//! `1 + k` rows. Drafting pays if this increases throughput. The growth of `T` with the number of rows
//! and the acceptance `p` are learned online. Acceptance is tracked per source and, for lookups, per
//! match length, its best predictor.
//!
//! Estimates can be wrong, so an account bounds the loss: a drafted pass credits the account with the
//! tokens it gained over undrafted passes, or debits those it lost. A draft that could overdraw the
//! account is not made. Undrafted passes add a small income, and the maximum balance is low, so a change
//! in the nature of the text costs little before drafting stops.

use super::experience::{Experience, Outcomes, Source};

/// Maximum number of tokens in a draft: with the last token, they fill one tile of 16.
pub(crate) const MAX_DRAFT: usize = 15;
/// Income from an undrafted pass.
const INCOME: f64 = 0.015;
/// Initial balance of the account.
const START: f64 = 1.5;
/// Maximum balance of the account.
const LIMIT: f64 = 4.0;
/// Required throughput of a draft, relative to no draft.
const WORTHWHILE: f64 = 1.05;
/// Number of drafted passes after which an undrafted pass measures T(1) again.
const MEASURE_EVERY: u32 = 48;
/// Assumed cost of a row until it is measured.
const ROW: f64 = 0.08;

/// A draft available from a source.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Offer {
    pub source: Source,
    /// Match length, for lookups.
    pub matched: usize,
    /// Number of tokens to process before the draft model can draft.
    pub lag: usize,
    /// Maximum number of tokens.
    pub most: usize,
}

/// A draft to make.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Plan {
    pub source: Source,
    pub matched: usize,
    pub n: usize,
}

/// Measured costs and acceptance of one sequence.
#[derive(Clone, Debug)]
pub(crate) struct Governor {
    /// Seconds per undrafted pass, and the number of measurements.
    single: f64,
    singles: u32,
    since_single: u32,
    /// Cost of each row after the first, for 2, 3–4, 5–8 and 9–16 rows.
    rows: [f64; 4],
    measured: [bool; 4],
    /// Seconds per draw of a token, and the number of measurements.
    draw: f64,
    draws: u32,
    /// Seconds per step of the draft model.
    step: f64,
    known: Experience,
    /// What was seen since [`Self::take_outcomes`].
    seen: Outcomes,
    account: f64,
}

impl Default for Governor {
    fn default() -> Self {
        Self {
            single: 0.0,
            singles: 0,
            since_single: 0,
            rows: [ROW; 4],
            measured: [false; 4],
            draw: 0.0,
            draws: 0,
            step: 0.0,
            known: Experience::default(),
            seen: Outcomes::default(),
            account: START,
        }
    }
}

/// Moves an estimate towards a measurement, clamped so that outliers (for example, after preemption) have
/// little more effect than ordinary values.
fn follow(estimate: &mut f64, measured: f64, share: f64) {
    *estimate += share * (measured.clamp(*estimate * 0.6, *estimate * 1.6) - *estimate);
}

/// Like [`follow`], but starts with the minimum of the first three measurements, since any of them may
/// have been interrupted.
fn follow_from_min(estimate: &mut f64, n: &mut u32, measured: f64, share: f64) {
    *n = n.saturating_add(1);
    match *n {
        1 => *estimate = measured,
        2 | 3 => *estimate = estimate.min(measured),
        _ => follow(estimate, measured, share),
    }
}

fn rows_class(rows: usize) -> usize {
    [2, 4, 8].iter().take_while(|max| rows > **max).count()
}

impl Governor {
    /// The best plan for a draft of at most `room` tokens, if drafting pays.
    pub(crate) fn plan(&self, offers: &[Offer], room: usize) -> Option<Plan> {
        if self.singles < 3 || self.since_single >= MEASURE_EVERY {
            return None;
        }
        let without = 1.0 / (1.0 + self.draw / self.single);
        let best = self.best(offers, 1..=room.min(MAX_DRAFT))?;
        (best.1 > WORTHWHILE * without).then_some(best.0)
    }

    /// The best plan for a draft of exactly `n` tokens, regardless of cost.
    pub(crate) fn forced(&self, offers: &[Offer], n: usize) -> Option<Plan> {
        let unlimited = Self { account: f64::INFINITY, ..self.clone() };
        Some(unlimited.best(offers, n..=n)?.0)
    }

    /// The plan with the highest throughput that the account can cover, and that throughput.
    fn best(
        &self,
        offers: &[Offer],
        lengths: std::ops::RangeInclusive<usize>,
    ) -> Option<(Plan, f64)> {
        let single = if self.single > 0.0 { self.single } else { 1.0 };
        let (draw, step) = (self.draw / single, self.step / single);
        let mut best: Option<(Plan, f64)> = None;
        for offer in offers {
            let p = self.acceptance(offer.source, offer.matched);
            for n in lengths.clone().map(|n| n.min(offer.most)) {
                let mut time = self.pass(1 + n);
                if offer.source == Source::Model {
                    time += step * (n as f64 + offer.lag as f64 / 4.0);
                }
                let tokens = (1.0 - p.powi(n as i32 + 1)) / (1.0 - p);
                let value = tokens / (time + draw * tokens);
                if time - 1.0 <= self.account && best.is_none_or(|(_, max)| value > max) {
                    best = Some((Plan { source: offer.source, matched: offer.matched, n }, value));
                }
            }
        }
        best
    }

    /// The probability that a drafted token is accepted if those before it are.
    pub(crate) fn acceptance(&self, source: Source, matched: usize) -> f64 {
        self.known.rate((source, matched))
    }

    /// Begins with the experience of others instead of assumptions.
    pub(crate) fn expect(&mut self, experience: &Experience) {
        self.known = experience.assumed();
    }

    /// Returns and clears what was seen since the last call.
    pub(crate) fn take_outcomes(&mut self) -> Outcomes {
        std::mem::take(&mut self.seen)
    }

    /// Estimated time of a pass.
    fn pass(&self, rows: usize) -> f64 {
        1.0 + self.rows[rows_class(rows)] * (rows - 1) as f64
    }

    /// Records the time of an undrafted pass.
    pub(crate) fn single(&mut self, seconds: f64) {
        self.since_single = 0;
        follow_from_min(&mut self.single, &mut self.singles, seconds, 0.1);
        self.account = (self.account + INCOME).min(LIMIT);
        // Overestimated costs decay, so that drafting is eventually retried.
        for row in &mut self.rows {
            *row -= 0.002 * (*row - ROW).max(0.0);
        }
    }

    /// Records the time of drawing a token.
    pub(crate) fn drawn(&mut self, seconds: f64) {
        follow_from_min(&mut self.draw, &mut self.draws, seconds, 0.05);
    }

    /// Records the total time of `steps` draft-model steps.
    pub(crate) fn stepped(&mut self, seconds: f64, steps: usize) {
        let each = seconds / steps as f64;
        if self.step > 0.0 {
            follow(&mut self.step, each, 0.2);
        } else {
            self.step = each;
        }
    }

    /// Records the acceptance of a draft, whatever it cost.
    pub(crate) fn observe(&mut self, plan: Plan, outcome: (usize, usize)) {
        self.known.observe((plan.source, plan.matched), outcome);
        self.seen.observe((plan.source, plan.matched), outcome);
    }

    /// Records a verified draft: `tested` of its tokens were compared with the drawn ones, and `accepted`
    /// of them matched. The pass took `pass` seconds, and drafting took `draft` seconds.
    pub(crate) fn verified(
        &mut self,
        plan: Plan,
        (accepted, tested): (usize, usize),
        (pass, draft): (f64, f64),
    ) {
        self.observe(plan, (accepted, tested));
        let n = plan.n;
        if self.singles == 0 {
            return;
        }
        self.since_single += 1;
        let row = ((pass / self.single - 1.0) / n as f64).clamp(0.002, 2.0);
        let at = rows_class(1 + n);
        if std::mem::replace(&mut self.measured[at], true) {
            follow(&mut self.rows[at], row, 0.2);
        } else {
            for (other, measured) in self.rows.iter_mut().zip(self.measured) {
                *other = if measured { *other } else { row };
            }
            self.rows[at] = row;
        }
        let gain = (1 + accepted) as f64 - (pass + draft) / self.single;
        self.account = (self.account + gain).min(LIMIT);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LOOKUP: Offer = Offer { source: Source::Lookup, matched: 3, lag: 0, most: MAX_DRAFT };

    /// Simulates `passes` passes in which a row costs `row` and a drafted token is correct with
    /// probability `p`. Returns the throughput relative to no drafting, and the number of drafted passes.
    fn simulate(row: f64, p: f64, passes: usize, offer: Offer) -> (f64, usize) {
        let (mut governor, mut random) = (Governor::default(), 1u64);
        let mut correct = || {
            random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            (random >> 33) as f64 / (1u64 << 31) as f64 <= p
        };
        let mut time = 0.0;
        let mut tokens = 0;
        let mut drafted = 0;
        for _ in 0..passes {
            match governor.plan(&[offer], MAX_DRAFT) {
                None => {
                    governor.single(1e-3);
                    (time, tokens) = (time + 1.0, tokens + 1);
                }
                Some(plan) => {
                    let accepted = (0..plan.n).take_while(|_| correct()).count();
                    let pass = 1.0 + row * plan.n as f64;
                    let tested = (accepted + 1).min(plan.n);
                    governor.verified(plan, (accepted, tested), (pass * 1e-3, 0.0));
                    (time, tokens) = (time + pass, tokens + 1 + accepted);
                    drafted += 1;
                }
            }
        }
        (tokens as f64 / time, drafted)
    }

    #[test]
    fn unprofitable_drafting_stops_at_little_cost() {
        for (row, p) in [(0.08, 0.0), (0.3, 0.1), (0.6, 0.4), (1.0, 0.5), (0.2, 0.05)] {
            for passes in [200, 2000] {
                let (speed, drafted) = simulate(row, p, passes, LOOKUP);
                assert!(speed > 0.975, "row {row}, p {p}: {speed} in {passes} passes");
                assert!(drafted > 0, "drafting must be tried");
            }
        }
    }

    #[test]
    fn profitable_drafting_comes_close_to_the_optimum() {
        for (row, p) in [(0.05, 0.9), (0.1, 0.8), (0.05, 0.6), (0.2, 0.95)] {
            let best =
                |n: i32| (1.0 - f64::powi(p, n + 1)) / (1.0 - p) / (1.0 + row * f64::from(n));
            let best = (1..=15).map(best).fold(0.0, f64::max);
            let (speed, _) = simulate(row, p, 2000, LOOKUP);
            assert!(speed > 0.9 * best, "row {row}, p {p}: {speed}, but the optimum is {best}");
        }
    }

    #[test]
    fn a_new_sequence_begins_with_the_experience_of_others() {
        let plan = |matched| Plan { source: Source::Lookup, matched, n: 4 };
        let (mut first, mut all) = (Governor::default(), Experience::default());
        (0..20).for_each(|_| first.observe(plan(16), (0, 1)));
        all.add(first.take_outcomes());
        all.add(first.take_outcomes()); // nothing new
        let mut second = Governor::default();
        let unknown = second.acceptance(Source::Lookup, 3);
        second.expect(&all);
        let long = |governor: &Governor| governor.acceptance(Source::Lookup, 16);
        assert!(long(&second) < 0.2 && long(&first) < 0.2);
        assert_eq!(second.acceptance(Source::Lookup, 3), unknown, "nobody has tried");
        (0..5).for_each(|_| second.observe(plan(16), (4, 4)));
        assert!(long(&second) > 0.8, "its own observations soon count for more");
    }

    #[test]
    fn one_interrupted_draw_does_not_prevent_drafting() {
        let mut governor = Governor::default();
        for draw in [0.1, 1e-5, 1e-5] {
            governor.single(1e-3);
            governor.drawn(draw);
        }
        assert!(governor.plan(&[Offer { matched: 20, ..LOOKUP }], MAX_DRAFT).is_some());
    }

    #[test]
    fn the_better_source_is_chosen() {
        let mut governor = Governor::default();
        (0..3).for_each(|_| governor.single(1e-3));
        governor.stepped(0.1e-3, 1);
        let model = Offer { source: Source::Model, matched: 0, lag: 0, most: MAX_DRAFT };
        let chosen = |g: &Governor, matched| {
            g.plan(&[Offer { matched, ..LOOKUP }, model], MAX_DRAFT).map(|plan| plan.source)
        };
        assert_eq!(chosen(&governor, 20), Some(Source::Lookup));
        assert_eq!(chosen(&governor, 2), Some(Source::Model));
        let plan = Plan { source: Source::Model, matched: 0, n: 4 };
        governor.account = LIMIT;
        for _ in 0..20 {
            governor.verified(plan, (0, 1), (1e-3, 0.1e-3));
        }
        assert_ne!(chosen(&governor, 2), Some(Source::Model), "it is never correct");
    }
}

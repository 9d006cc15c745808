//! What is known about the acceptance of drafts, by source and, for lookups, by match length.

/// A source of drafts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Source {
    Lookup,
    Model,
    /// The answer's constraint, which leaves no other text.
    Forced,
}

/// Lower bounds of the classes of match lengths: 2, 3, 4, 5–7, 8–15, 16 or more.
const LENGTHS: [usize; 6] = [2, 3, 4, 5, 8, 16];
/// The classes of lookups, then the draft model and the constraint.
const CLASSES: usize = LENGTHS.len() + 2;

/// A source, with the match length of a lookup.
type Kind = (Source, usize);

fn class((source, matched): Kind) -> usize {
    match source {
        Source::Lookup => LENGTHS.iter().rposition(|min| matched >= *min).unwrap_or(0),
        Source::Model => LENGTHS.len(),
        Source::Forced => LENGTHS.len() + 1,
    }
}

/// Accepted share of drafted tokens, weighted towards recent ones.
#[derive(Clone, Copy, Debug)]
struct Acceptance {
    accepted: f64,
    tested: f64,
}

impl Acceptance {
    /// A prior, soon outweighed by observations.
    fn assumed(rate: f64) -> Self {
        Self { accepted: 3.0 * rate, tested: 3.0 }
    }

    fn rate(self) -> f64 {
        (self.accepted / self.tested).clamp(0.01, 0.99)
    }

    fn observe(&mut self, (accepted, tested): (usize, usize)) {
        let keep = 0.985f64.powi(tested as i32);
        self.accepted = self.accepted * keep + accepted as f64;
        self.tested = self.tested * keep + tested as f64;
    }
}

/// The acceptance of each class. That of one sequence is a prior for others.
#[derive(Clone, Debug)]
pub(crate) struct Experience([Acceptance; CLASSES]);

impl Default for Experience {
    fn default() -> Self {
        Self([0.25, 0.4, 0.5, 0.65, 0.8, 0.9, 0.7, 0.9].map(Acceptance::assumed))
    }
}

/// How many drafted tokens of each class were accepted, of how many that were tested.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Outcomes([(usize, usize); CLASSES]);

impl Experience {
    /// The probability that a drafted token is accepted if those before it are.
    pub(super) fn rate(&self, kind: Kind) -> f64 {
        self.0[class(kind)].rate()
    }

    pub(super) fn observe(&mut self, kind: Kind, outcome: (usize, usize)) {
        self.0[class(kind)].observe(outcome);
    }

    /// Adds what a sequence has seen.
    pub(crate) fn add(&mut self, outcomes: Outcomes) {
        self.0.iter_mut().zip(outcomes.0).for_each(|(known, seen)| known.observe(seen));
    }

    /// What a new sequence assumes: the same rates, soon outweighed by its own observations.
    pub(super) fn assumed(&self) -> Self {
        Self(self.0.map(|known| Acceptance::assumed(known.rate())))
    }
}

impl Outcomes {
    pub(super) fn observe(&mut self, kind: Kind, (accepted, tested): (usize, usize)) {
        let seen = &mut self.0[class(kind)];
        *seen = (seen.0 + accepted, seen.1 + tested);
    }
}

//! A constraint on a part of an answer.

use nanoinfer_engine::Constraint;

use crate::following::Following;
use crate::place::{Place, Reasoning};

/// Allows any tokens where a grammar does not apply, and then follows it.
#[derive(Debug)]
pub(crate) struct Waiting {
    place: Place,
    following: Following,
    state: State,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// Nothing yet: reasoning may begin, or what comes after it.
    Start,
    Reasoning,
    /// After the reasoning, before the marker.
    Free,
    Following,
}

impl Waiting {
    /// `following` must be at the beginning of the answer if no reasoning and no marker precede it.
    pub(crate) fn new(place: Place, following: Following) -> Self {
        let mut waiting = Self { place, following, state: State::Start };
        match place.reasoning {
            Reasoning::Begun { .. } => waiting.state = State::Reasoning,
            Reasoning::Possible { .. } => {}
            Reasoning::Absent => waiting.after_reasoning(),
        }
        waiting
    }

    fn after_reasoning(&mut self) {
        self.state = if self.place.marker.is_some() { State::Free } else { State::Following };
    }

    /// The tokens that begin and end the reasoning.
    fn bounds(&self) -> (Option<u32>, Option<u32>) {
        match self.place.reasoning {
            Reasoning::Absent => (None, None),
            Reasoning::Begun { end } => (None, Some(end)),
            Reasoning::Possible { begin, end } => (Some(begin), Some(end)),
        }
    }
}

fn bit(allowed: &mut [u32], id: u32) -> Option<(&mut u32, u32)> {
    Some((allowed.get_mut(id as usize / 32)?, 1 << (id % 32)))
}

impl Constraint for Waiting {
    fn allow(&mut self, allowed: &mut [u32]) {
        match self.state {
            State::Following => self.following.allow(allowed),
            State::Start if self.place.marker.is_none() => {
                self.following.allow(allowed);
                let begin = self.bounds().0.and_then(|id| bit(allowed, id));
                begin.into_iter().for_each(|(word, bit)| *word |= bit);
            }
            State::Start | State::Free => allowed.fill(u32::MAX),
            State::Reasoning => {
                allowed.fill(u32::MAX);
                let ends = self.following.ends().iter();
                ends.for_each(|id| {
                    bit(allowed, *id).into_iter().for_each(|(word, bit)| *word &= !bit);
                });
            }
        }
    }

    fn push(&mut self, id: u32) {
        let (begin, end) = self.bounds();
        if self.state == State::Start {
            if Some(id) == begin {
                self.state = State::Reasoning;
                self.following.continue_text();
                return;
            }
            self.after_reasoning();
        }
        match self.state {
            State::Following => self.following.push(id),
            State::Reasoning if Some(id) == end => self.after_reasoning(),
            State::Free if Some(id) == self.place.marker => self.state = State::Following,
            State::Start | State::Reasoning | State::Free => {}
        }
    }

    fn boxed(&self) -> Box<dyn Constraint> {
        let (place, state) = (self.place, self.state);
        Box::new(Self { place, following: self.following.copy(), state })
    }

    fn forced(&mut self, tokens: &mut Vec<u32>, room: usize) {
        if self.state == State::Following {
            self.following.forced(tokens, room);
        }
    }

    fn follow(&mut self, draft: &[u32]) -> usize {
        let (ends, last) = match self.state {
            State::Following => return self.following.follow(draft),
            State::Start => return 0,
            State::Reasoning => (self.following.ends(), self.bounds().1),
            State::Free => (&[][..], self.place.marker),
        };
        let free = draft.iter().take_while(|id| !ends.contains(id) && Some(**id) != last).count();
        // What follows is not known to the grammar yet.
        free + usize::from(draft.get(free).is_some_and(|id| Some(*id) == last))
    }

    fn failure(&self) -> Option<String> {
        self.following.failure()
    }
}

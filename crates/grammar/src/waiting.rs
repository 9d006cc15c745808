//! A constraint on the second part of an answer.

use nanoinfer_engine::Constraint;

use crate::following::Following;

/// Allows any tokens until a marker, and then follows a grammar.
#[derive(Debug)]
pub(crate) struct Waiting {
    marker: u32,
    /// Tokens that would end the answer before the marker.
    ends: Vec<u32>,
    following: Following,
    seen: bool,
}

impl Waiting {
    pub(crate) fn new(marker: u32, ends: Vec<u32>, following: Following) -> Self {
        Self { marker, ends, following, seen: false }
    }
}

impl Constraint for Waiting {
    fn allow(&mut self, allowed: &mut [u32]) {
        if self.seen {
            return self.following.allow(allowed);
        }
        allowed.fill(u32::MAX);
        for id in &self.ends {
            if let Some(word) = allowed.get_mut(*id as usize / 32) {
                *word &= !(1 << (id % 32));
            }
        }
    }

    fn push(&mut self, id: u32) {
        if self.seen {
            self.following.push(id);
        }
        self.seen |= id == self.marker;
    }

    fn boxed(&self) -> Box<dyn Constraint> {
        let (ends, following) = (self.ends.clone(), self.following.copy());
        Box::new(Self { marker: self.marker, ends, following, seen: self.seen })
    }

    fn forced(&mut self, tokens: &mut Vec<u32>, room: usize) {
        if self.seen {
            self.following.forced(tokens, room);
        }
    }

    fn follow(&mut self, draft: &[u32]) -> usize {
        if self.seen {
            return self.following.follow(draft);
        }
        let free =
            draft.iter().take_while(|id| !self.ends.contains(id) && **id != self.marker).count();
        // What follows the marker is not known to the grammar yet.
        free + usize::from(draft.get(free) == Some(&self.marker))
    }

    fn failure(&self) -> Option<String> {
        self.following.failure()
    }
}

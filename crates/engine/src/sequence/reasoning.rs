//! A limit on the reasoning before an answer.

use nanoinfer_text::AnswerFormat;

use crate::sample::Constraint;

/// Counts the tokens of reasoning, and allows only its end once there are enough.
#[derive(Clone, Debug)]
pub(super) struct ReasoningLimit {
    begin: u32,
    end: u32,
    /// Tokens of reasoning that may follow.
    left: usize,
    /// Whether the last token is part of it.
    within: bool,
}

impl ReasoningLimit {
    /// A limit for the answer to `context`; `None` if the model's reasoning is not between two tokens.
    pub(super) fn new(format: &AnswerFormat, context: &[u32], most: usize) -> Option<Self> {
        let (begin, end) = format.reasoning_tokens()?;
        // A template may begin the reasoning.
        let marker = context.iter().rev().find(|id| [begin, end].contains(id));
        Some(Self { begin, end, left: most, within: marker == Some(&begin) })
    }

    fn set(allowed: &mut [u32], id: u32, is_allowed: bool) {
        if let Some(word) = allowed.get_mut(id as usize / 32) {
            let bit = 1 << (id % 32);
            *word = if is_allowed { *word | bit } else { *word & !bit };
        }
    }
}

impl Constraint for ReasoningLimit {
    fn allow(&mut self, allowed: &mut [u32]) {
        if self.left > 0 {
            return allowed.fill(u32::MAX);
        }
        if self.within {
            return Self::set(allowed, self.end, true);
        }
        allowed.fill(u32::MAX);
        Self::set(allowed, self.begin, false);
    }

    fn push(&mut self, id: u32) {
        if self.within {
            self.within = id != self.end;
            self.left = self.left.saturating_sub(usize::from(self.within));
        } else {
            self.within = id == self.begin;
        }
    }

    fn boxed(&self) -> Box<dyn Constraint> {
        Box::new(self.clone())
    }

    fn forced(&mut self, tokens: &mut Vec<u32>, room: usize) {
        if self.within && self.left == 0 && room > 0 {
            tokens.push(self.end);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const BEGIN: u32 = 40;
    const END: u32 = 41;

    /// The tokens among 30 to 70 that may come next.
    fn allowed(limit: &mut ReasoningLimit) -> Vec<u32> {
        let mut words = [0; 3];
        limit.allow(&mut words);
        (30..70).filter(|id| words[*id as usize / 32] >> (id % 32) & 1 == 1).collect()
    }

    #[test]
    fn reasoning_ends_after_its_last_token() {
        let mut limit = ReasoningLimit { begin: BEGIN, end: END, left: 2, within: false };
        let all: Vec<u32> = (30..70).collect();
        for id in [50, BEGIN, 51] {
            assert_eq!(allowed(&mut limit), all);
            limit.push(id);
        }
        assert_eq!(allowed(&mut limit), all, "one token is left");
        limit.push(52);
        assert_eq!(allowed(&mut limit), [END]);
        let mut forced = Vec::new();
        limit.forced(&mut forced, 4);
        assert_eq!(forced, [END]);
        limit.push(END);
        let others: Vec<u32> = all.into_iter().filter(|id| *id != BEGIN).collect();
        assert_eq!(allowed(&mut limit), others, "it does not begin again");
    }

    #[test]
    fn reasoning_that_ends_early_leaves_the_rest() {
        let mut limit = ReasoningLimit { begin: BEGIN, end: END, left: 2, within: true };
        [50, END, 51, 52, BEGIN].into_iter().for_each(|id| limit.push(id));
        assert_eq!((limit.left, limit.within), (1, true));
    }
}

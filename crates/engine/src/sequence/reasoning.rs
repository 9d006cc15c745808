//! A limit on the reasoning before an answer, with or without a constraint on what follows.

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
    /// What the answer must follow besides.
    constraint: Option<Box<dyn Constraint>>,
}

impl ReasoningLimit {
    /// A limit for the answer to `context`; `None` if the model's reasoning is not between two tokens.
    pub(super) fn new(format: &AnswerFormat, context: &[u32], most: usize) -> Option<Self> {
        let (begin, end) = format.reasoning_tokens()?;
        // A template may begin the reasoning.
        let marker = context.iter().rev().find(|id| [begin, end].contains(id));
        Some(Self { begin, end, left: most, within: marker == Some(&begin), constraint: None })
    }

    /// The limit together with `constraint`.
    pub(super) fn with(self, constraint: Box<dyn Constraint>) -> Self {
        Self { constraint: Some(constraint), ..self }
    }

    fn is_allowed(allowed: &[u32], id: u32) -> bool {
        allowed.get(id as usize / 32).is_some_and(|word| word >> (id % 32) & 1 == 1)
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
        match &mut self.constraint {
            Some(constraint) => constraint.allow(allowed),
            None => allowed.fill(u32::MAX),
        }
        if self.left > 0 {
            return;
        }
        if !self.within {
            Self::set(allowed, self.begin, false);
        } else if Self::is_allowed(allowed, self.end) {
            // If a constraint does not allow the end, it knows nothing of reasoning, and decides alone.
            allowed.fill(0);
            Self::set(allowed, self.end, true);
        }
    }

    fn push(&mut self, id: u32) {
        if let Some(constraint) = &mut self.constraint {
            constraint.push(id);
        }
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
        } else if let Some(constraint) = &mut self.constraint {
            constraint.forced(tokens, room);
        }
    }

    fn follow(&mut self, draft: &[u32]) -> usize {
        match &mut self.constraint {
            Some(constraint) => constraint.follow(draft),
            None => draft.len(),
        }
    }

    fn failure(&self) -> Option<String> {
        self.constraint.as_ref()?.failure()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const BEGIN: u32 = 40;
    const END: u32 = 41;

    fn limit(left: usize, within: bool) -> ReasoningLimit {
        ReasoningLimit { begin: BEGIN, end: END, left, within, constraint: None }
    }

    /// Anything up to `END`, if it knows of reasoning, then 60 and 61.
    #[derive(Clone, Debug)]
    struct Then {
        reasons: bool,
        at: u32,
    }

    impl Constraint for Then {
        fn allow(&mut self, allowed: &mut [u32]) {
            match self.reasons {
                true => allowed.fill(u32::MAX),
                false => ReasoningLimit::set(allowed, 60 + self.at, self.at < 2),
            }
        }
        fn push(&mut self, id: u32) {
            match self.reasons {
                true => self.reasons = id != END,
                false => self.at += 1,
            }
        }
        fn boxed(&self) -> Box<dyn Constraint> {
            Box::new(self.clone())
        }
        fn failure(&self) -> Option<String> {
            Some(format!("at {}", self.at))
        }
    }

    /// The tokens among 30 to 70 that may come next.
    fn allowed(limit: &mut ReasoningLimit) -> Vec<u32> {
        let mut words = [0; 3];
        limit.allow(&mut words);
        (30..70).filter(|id| words[*id as usize / 32] >> (id % 32) & 1 == 1).collect()
    }

    #[test]
    fn reasoning_ends_after_its_last_token() {
        let mut limit = limit(2, false);
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
        let mut limit = limit(2, true);
        [50, END, 51, 52, BEGIN].into_iter().for_each(|id| limit.push(id));
        assert_eq!((limit.left, limit.within), (1, true));
    }

    #[test]
    fn a_constraint_holds_besides_the_limit() {
        let mut limit = limit(1, true).with(Box::new(Then { reasons: true, at: 0 }));
        assert_eq!(allowed(&mut limit).len(), 40);
        for (id, next) in [(50, vec![END]), (END, vec![60]), (60, vec![61]), (61, vec![])] {
            limit.push(id);
            assert_eq!(allowed(&mut limit), next, "after {id}");
        }
        assert_eq!(limit.failure().as_deref(), Some("at 2"));
    }

    #[test]
    fn a_constraint_without_reasoning_needs_no_end_of_it() {
        let mut limit = limit(0, true).with(Box::new(Then { reasons: false, at: 0 }));
        assert_eq!(allowed(&mut limit), [60]);
    }
}

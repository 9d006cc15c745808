//! Prompt lookup: drafts the continuation of an earlier occurrence of the context's last tokens.
//!
//! A hash table maps each pair of tokens to the last position at which it ends, and each position links
//! to the previous one with the same pair, like the hash chains of an LZ77 compressor. Appending a token
//! and removing the last one are O(1). A search visits a bounded number of positions and picks the one
//! with the longest match.

/// End of a chain.
const NONE: u32 = u32::MAX;
/// Cap on the match length; longer matches predict no better.
pub(crate) const LONGEST: usize = 32;
/// Maximum number of positions visited by a search.
const MAX_VISITS: usize = 32;

/// An earlier occurrence of the context's last tokens.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Match {
    /// Index of the token after the earlier occurrence.
    pub at: usize,
    /// Match length, at least 2.
    pub len: usize,
}

/// The index of one context.
pub(crate) struct Lookup {
    heads: Vec<u32>,    // [buckets], the last position of a pair
    previous: Vec<u32>, // per token, the previous position in the same bucket
}

impl Lookup {
    /// For contexts of up to `capacity` tokens.
    pub(crate) fn new(capacity: usize) -> Self {
        let buckets = (2 * capacity).next_power_of_two().clamp(1 << 8, 1 << 17);
        Self { heads: vec![NONE; buckets], previous: Vec::with_capacity(capacity) }
    }

    fn bucket(&self, first: u32, second: u32) -> usize {
        let mixed = first.wrapping_mul(0x9e37_79b1).rotate_left(15) ^ second;
        let hash = mixed.wrapping_mul(0x85eb_ca6b);
        (hash >> 8) as usize & (self.heads.len() - 1)
    }

    /// Adds the tokens that are not yet in the index.
    pub(crate) fn extend(&mut self, tokens: &[u32]) {
        for i in self.previous.len()..tokens.len() {
            let mut before = NONE;
            if i > 0 {
                let bucket = self.bucket(tokens[i - 1], tokens[i]);
                before = std::mem::replace(&mut self.heads[bucket], i as u32);
            }
            self.previous.push(before);
        }
    }

    /// Removes all but the first `len` tokens of the indexed context, `tokens`.
    pub(crate) fn truncate(&mut self, tokens: &[u32], len: usize) {
        while self.previous.len() > len {
            let before = self.previous.pop().unwrap_or(NONE);
            let i = self.previous.len();
            if i > 0 {
                let bucket = self.bucket(tokens[i - 1], tokens[i]);
                self.heads[bucket] = before;
            }
        }
    }

    /// The position with the longest match; ties go to the latest position.
    pub(crate) fn find(&self, tokens: &[u32]) -> Option<Match> {
        debug_assert_eq!(tokens.len(), self.previous.len());
        let last = tokens.len().checked_sub(1)?;
        let (mut best, mut next) = (None, self.previous[last]);
        for _ in 0..MAX_VISITS {
            if next == NONE {
                break;
            }
            let at = next as usize;
            let pairs = tokens[..=at].iter().rev().zip(tokens.iter().rev());
            let len = pairs.take(LONGEST).take_while(|(a, b)| a == b).count();
            if len >= 2 && best.is_none_or(|m: Match| len > m.len) {
                best = Some(Match { at: at + 1, len });
            }
            if len == LONGEST {
                break;
            }
            next = self.previous[at];
        }
        best
    }
}

/// Copies `n` tokens, starting at `at`. Past the end of the context, the copy continues with the draft
/// itself, as in periodic text.
pub(crate) fn copy(tokens: &[u32], at: usize, n: usize, draft: &mut Vec<u32>) {
    for i in at..at + n {
        let token = tokens.get(i).or_else(|| draft.get(i - tokens.len())).copied();
        draft.extend(token);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Reference implementation: linear search.
    fn naive(tokens: &[u32]) -> Option<Match> {
        let mut best: Option<Match> = None;
        for at in (1..tokens.len()).rev() {
            let pairs = tokens[..at].iter().rev().zip(tokens.iter().rev());
            let len = pairs.take(LONGEST).take_while(|(a, b)| a == b).count();
            if len >= 2 && best.is_none_or(|m| len > m.len) {
                best = Some(Match { at, len });
            }
        }
        best
    }

    #[test]
    fn it_finds_the_longest_match_under_random_additions_and_removals() {
        let mut random = 7u32;
        let mut next = |n: u32| {
            random = random.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            (random >> 8) % n
        };
        let mut tokens = Vec::new();
        let mut lookup = Lookup::new(400);
        let mut found = 0;
        for _ in 0..2000 {
            if next(9) == 0 {
                let len = tokens.len() - next(8).min(tokens.len() as u32) as usize;
                lookup.truncate(&tokens, len);
                tokens.truncate(len);
            } else if tokens.len() < 400 {
                // Few pairs occur more often than the number of positions a search visits.
                tokens.push(next(16));
                lookup.extend(&tokens);
            }
            assert_eq!(lookup.find(&tokens), naive(&tokens), "{tokens:?}");
            found += usize::from(lookup.find(&tokens).is_some());
        }
        assert!(found > 500);
    }

    #[test]
    fn a_draft_copies_and_repeats() {
        let mut draft = Vec::new();
        copy(&[1, 2, 3, 4], 1, 2, &mut draft);
        assert_eq!(draft, [2, 3]);
        draft.clear();
        copy(&[1, 2, 3], 1, 5, &mut draft);
        assert_eq!(draft, [2, 3, 2, 3, 2]);
    }
}

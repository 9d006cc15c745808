//! Occurrences of tokens, for penalties.

/// Token counts of a context. Tokens are kept in order of first occurrence, so that the last addition can
/// be undone.
pub(super) struct Counts {
    /// Distinct tokens of the context in order of first occurrence, with the number of times each was
    /// generated.
    pub(super) entries: Vec<(u32, u32)>,
    /// Indices into `entries` by token hash, with linear probing.
    table: Vec<u32>,
}

const EMPTY: u32 = u32::MAX;

impl Counts {
    /// Room for `distinct` tokens.
    pub(super) fn new(distinct: usize) -> Self {
        let table = vec![EMPTY; (2 * distinct).next_power_of_two()];
        Self { entries: Vec::with_capacity(distinct), table }
    }

    pub(super) fn clear(&mut self) {
        self.entries.clear();
        self.table.fill(EMPTY);
    }

    /// The token's slot in the table, or the free slot for it.
    fn slot(&self, id: u32) -> usize {
        let mask = self.table.len() - 1;
        let mut slot = (id.wrapping_mul(0x9e37_79b1) >> 7) as usize & mask;
        while self.table[slot] != EMPTY && self.entries[self.table[slot] as usize].0 != id {
            slot = (slot + 1) & mask;
        }
        slot
    }

    /// Records a token, adding `generated` to its count. Returns whether it was new to the context.
    pub(super) fn add(&mut self, id: u32, generated: u32) -> bool {
        let slot = self.slot(id);
        let new = self.table[slot] == EMPTY;
        if new {
            self.table[slot] = self.entries.len() as u32;
            self.entries.push((id, 0));
        }
        self.entries[self.table[slot] as usize].1 += generated;
        new
    }

    /// Undoes the last generated token; `new` is the result of its [`Self::add`]. A new token is the
    /// latest entry, so no probe sequence runs past its slot, and emptying it is safe.
    pub(super) fn undo(&mut self, id: u32, new: bool) {
        let slot = self.slot(id);
        self.entries[self.table[slot] as usize].1 -= 1;
        if new {
            self.table[slot] = EMPTY;
            self.entries.pop();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Compares the counts with a plain map, up to the maximum number of distinct tokens.
    #[test]
    fn counts_match_a_map_under_random_additions_and_undos() {
        let (mut counts, mut random) = (Counts::new(40), 9u32);
        let mut next = |n: u32| {
            random = random.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            (random >> 8) % n
        };
        for _ in 0..50 {
            counts.clear();
            let mut want = std::collections::BTreeMap::new();
            let mut pushed = Vec::new();
            for _ in 0..20 {
                let id = 1000 * next(20);
                want.entry(id).or_insert(0);
                counts.add(id, 0);
            }
            for _ in 0..300 {
                if next(3) == 0 {
                    let Some((id, new)) = pushed.pop() else { continue };
                    counts.undo(id, new);
                    *want.get_mut(&id).unwrap() -= 1;
                    if new {
                        want.remove(&id);
                    }
                } else {
                    let id = 1000 * next(40);
                    let new = counts.add(id, 1);
                    assert_eq!(new, !want.contains_key(&id));
                    *want.entry(id).or_insert(0) += 1;
                    pushed.push((id, new));
                }
                let mut entries = counts.entries.clone();
                entries.sort_unstable();
                assert!(entries.iter().copied().eq(want.iter().map(|(&id, &n)| (id, n))));
            }
        }
    }
}

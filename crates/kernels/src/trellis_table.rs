//! The levels and transitions of a trellis, in the form its search reads.

use crate::trellis::Trellis;

/// Most states of a trellis.
pub(crate) const MAX_STATES: usize = 16;
/// Most levels of a branch.
const MAX_LEVELS: usize = 16;

/// The levels of one branch.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Levels {
    /// Ascending.
    pub levels: [f32; MAX_LEVELS],
    /// The midpoint between each level and the next.
    pub midpoints: [f32; MAX_LEVELS],
}

/// A trellis, prepared for the search.
#[derive(Clone, Debug)]
pub struct SearchTable {
    states: usize,
    levels_per_branch: usize,
    branches: [Levels; 4],
    of_state: [[u8; 2]; MAX_STATES],
}

impl SearchTable {
    /// Prepares a trellis.
    ///
    /// # Panics
    /// If the trellis does not have 4 to 16 states and 2 to 5 bits.
    pub fn new(trellis: &Trellis) -> Self {
        let (states, sets) = (usize::from(trellis.states), trellis.levels.as_chunks::<4>().0);
        assert!(states.is_power_of_two() && (4..=MAX_STATES).contains(&states));
        assert!((2..=5).contains(&trellis.bits) && sets.len() == 1 << (trellis.bits - 1));
        let mut branches = [Levels { levels: [0.0; MAX_LEVELS], midpoints: [0.0; MAX_LEVELS] }; 4];
        for (i, branch) in branches.iter_mut().enumerate() {
            for (level, set) in branch.levels.iter_mut().zip(sets) {
                *level = f32::from(set[i]);
            }
            for (midpoint, pair) in branch.midpoints.iter_mut().zip(sets.windows(2)) {
                *midpoint = (f32::from(pair[0][i]) + f32::from(pair[1][i])) / 2.0;
            }
        }
        let set = |state, bit| {
            let lowest = trellis.level(bit, state as u32);
            trellis.levels[..4].iter().position(|&l| l == lowest).expect("a code of its branch")
                as u8
        };
        let of_state = std::array::from_fn(|state| match state < states {
            true => [set(state, 0), set(state, 1)],
            false => [0; 2],
        });
        Self { states, levels_per_branch: sets.len(), branches, of_state }
    }

    /// Number of states: 4, 8 or 16.
    #[inline(always)]
    pub(crate) fn states(&self) -> usize {
        self.states
    }

    /// Number of levels between which the upper bits of a code choose: 2, 4, 8 or 16.
    #[inline(always)]
    pub(crate) fn levels_per_branch(&self) -> usize {
        self.levels_per_branch
    }

    /// The four sets of levels.
    #[inline(always)]
    pub(crate) fn branches(&self) -> &[Levels; 4] {
        &self.branches
    }

    /// The set of levels for a state and the lowest bit of the next code.
    #[inline(always)]
    pub(crate) fn branch(&self, state: usize, bit: usize) -> usize {
        usize::from(self.of_state[state][bit])
    }

    /// The code, and its level, whose level is nearest to `x`; the lower of two that are equally near.
    /// `bit` is the lowest bit of the code.
    #[inline(always)]
    pub(crate) fn nearest<const N: usize>(&self, state: u8, bit: u8, x: f32) -> (u8, f32) {
        let Levels { levels, midpoints } =
            &self.branches[self.branch(usize::from(state), usize::from(bit))];
        let above = midpoints[..N - 1].iter().filter(|&&m| m < x).count();
        ((2 * above) as u8 + bit, levels[above])
    }
}

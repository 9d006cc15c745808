//! Random seeds.

use std::hash::{BuildHasher, Hasher, RandomState};

/// A seed that differs from run to run. It has 32 bits, so that every JSON reader keeps it exact.
pub fn random_seed() -> u64 {
    RandomState::new().build_hasher().finish() >> 32
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn seeds_differ() {
        let first = random_seed();
        assert!((0..8).any(|_| random_seed() != first));
    }
}

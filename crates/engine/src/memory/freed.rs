//! The content of full blocks. Freed blocks can be found by content until their space is needed; they are
//! evicted in the order in which they were freed.

use std::collections::HashMap;

use nanoinfer_kernels::BLOCK;

/// Identifies the tokens of a block and of all blocks before it: BLAKE3 of the parent's key and the
/// block's 64 ids. Collision-resistant, so equal keys mean equal tokens.
pub(super) type Key = [u8; 32];

/// The parent of a sequence's first block.
pub(super) const ROOT: Key = [0; 32];

/// The key of a full block.
pub(super) fn key(parent: &Key, tokens: &[u32]) -> Key {
    let mut hasher = blake3::Hasher::new();
    hasher.update(parent);
    for token in tokens {
        hasher.update(&token.to_le_bytes());
    }
    *hasher.finalize().as_bytes()
}

const NONE: u32 = u32::MAX;

/// Neighbours in the list of freed blocks.
#[derive(Clone, Copy)]
struct Links {
    older: u32,
    newer: u32,
}

/// The content of the arena's blocks.
pub(super) struct Contents {
    /// Per block: its key if it is full.
    keys: Vec<Option<Key>>,
    /// Freed blocks by key.
    freed: HashMap<Key, u32>,
    links: Vec<Links>, // per block, while it is freed
    oldest: u32,
    newest: u32,
}

impl Contents {
    pub(super) fn new(blocks: usize) -> Self {
        Self {
            keys: vec![None; blocks],
            // Twice the maximum number of entries: the map then never grows, only rehashes in place.
            freed: HashMap::with_capacity(2 * blocks),
            links: vec![Links { older: NONE, newer: NONE }; blocks],
            oldest: NONE,
            newest: NONE,
        }
    }

    /// The key of a block if it is full.
    pub(super) fn key(&self, block: u32) -> Option<&Key> {
        self.keys[block as usize].as_ref()
    }

    /// Records that a held block is full.
    pub(super) fn fill(&mut self, block: u32, tokens: &[u32], parent: &Key) {
        debug_assert_eq!(tokens.len(), BLOCK);
        self.keys[block as usize] = Some(key(parent, tokens));
    }

    /// Records that a held block will be written.
    pub(super) fn clear(&mut self, block: u32) {
        self.keys[block as usize] = None;
    }

    /// Keeps a freed block for reuse, as the last to be evicted. Returns false if the block is not full
    /// or another freed block has the same content; the caller can then reuse the block immediately.
    pub(super) fn free(&mut self, block: u32) -> bool {
        let Some(key) = self.keys[block as usize] else { return false };
        if let Some(&same) = self.freed.get(&key) {
            self.unlink(same);
            self.link(same);
            self.clear(block);
            return false;
        }
        self.freed.insert(key, block);
        self.link(block);
        true
    }

    /// A freed block with this content.
    pub(super) fn find(&self, key: &Key) -> Option<u32> {
        self.freed.get(key).copied()
    }

    /// Takes a freed block back into use. Its content stays recorded.
    pub(super) fn revive(&mut self, block: u32) {
        if let Some(key) = self.keys[block as usize] {
            self.freed.remove(&key);
            self.unlink(block);
        }
    }

    /// Evicts the block that was freed first and returns it for reuse.
    pub(super) fn evict(&mut self) -> Option<u32> {
        let block = Some(self.oldest).filter(|&block| block != NONE)?;
        self.revive(block);
        self.clear(block);
        Some(block)
    }

    /// Number of freed blocks.
    pub(super) fn len(&self) -> usize {
        self.freed.len()
    }

    fn link(&mut self, block: u32) {
        self.links[block as usize] = Links { older: self.newest, newer: NONE };
        match self.newest {
            NONE => self.oldest = block,
            newest => self.links[newest as usize].newer = block,
        }
        self.newest = block;
    }

    fn unlink(&mut self, block: u32) {
        let Links { older, newer } = self.links[block as usize];
        match older {
            NONE => self.oldest = newer,
            older => self.links[older as usize].newer = newer,
        }
        match newer {
            NONE => self.newest = older,
            newer => self.links[newer as usize].older = older,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tokens(seed: u32) -> Vec<u32> {
        (0..BLOCK as u32).map(|i| i * seed).collect()
    }

    #[test]
    fn a_key_covers_all_tokens_up_to_the_end_of_the_block() {
        let (a, b) = (key(&ROOT, &tokens(1)), key(&ROOT, &tokens(2)));
        assert_ne!(a, b);
        assert_eq!(a, key(&ROOT, &tokens(1)));
        assert_ne!(key(&a, &tokens(3)), key(&b, &tokens(3)), "same block, different parent");
    }

    #[test]
    fn blocks_are_evicted_in_the_order_they_were_freed() {
        let mut contents = Contents::new(5);
        for block in 0..4 {
            contents.fill(block, &tokens(block), &ROOT);
            assert!(contents.free(block));
        }
        assert!(!contents.free(4), "not full");
        let found = contents.find(&key(&ROOT, &tokens(1))).unwrap();
        assert_eq!(found, 1);
        contents.revive(1);
        assert_eq!(contents.find(&key(&ROOT, &tokens(1))), None);
        assert!(contents.free(1), "still full, so kept again, as the newest");
        // Freeing a duplicate refreshes the original and does not keep the duplicate.
        contents.fill(4, &tokens(0), &ROOT);
        assert!(!contents.free(4));
        assert_eq!(contents.len(), 4);
        let evicted: Vec<_> = std::iter::from_fn(|| contents.evict()).collect();
        assert_eq!(evicted, [2, 3, 1, 0]);
        assert!(contents.key(2).is_none() && contents.len() == 0);
    }
}

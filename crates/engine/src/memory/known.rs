//! What the tree knows, and its blocks as bytes: how contexts that no sequence holds leave for a disk and come
//! back.

use nanoinfer_kernels::BLOCK;

use super::cache::Cache;
use super::plan::{BlockUse, Namespace, SeqId};
use crate::Error;

impl Cache {
    /// Who uses each block of the arena.
    pub(crate) fn uses(&self) -> impl Iterator<Item = BlockUse> + '_ {
        (0..).zip(&self.readers).map(|(block, readers)| match readers {
            0 if self.tree.is_cached(block) => BlockUse::Cached,
            0 => BlockUse::Free,
            1 => BlockUse::Held,
            _ => BlockUse::Shared,
        })
    }

    /// Number of full blocks at the beginning of `tokens` that sequences hold.
    pub(crate) fn held_blocks(&self, namespace: Namespace, tokens: &[u32]) -> usize {
        self.tree.held(namespace, self.shareable(tokens))
    }

    /// Where the most similar context known to a sequence differs from `tokens`, see [`super::tree::Tree::difference`].
    pub(crate) fn difference(
        &self,
        id: SeqId,
        tokens: &[u32],
    ) -> Result<Option<(usize, u32)>, Error> {
        Ok(self.tree.difference(self.namespace(id)?, tokens))
    }

    /// Number of full blocks at the beginning of `tokens` that are known in a namespace, whether held or
    /// cached.
    pub(crate) fn known_blocks(&self, namespace: Namespace, tokens: &[u32]) -> usize {
        self.tree.path(namespace, self.shareable(tokens)).count()
    }

    /// Appends the bytes of block `index` of the context `tokens`, see [`Self::save_block`]. Returns false if
    /// it is not known, or no longer.
    pub(crate) fn copy_known(
        &mut self,
        (namespace, tokens): (Namespace, &[u32]),
        index: usize,
        out: &mut Vec<u8>,
    ) -> bool {
        let block = self.tree.path(namespace, self.shareable(tokens)).nth(index);
        let Some(block) = block else { return false };
        let at = (self.kv_heads, self.head, block as usize);
        self.layers.iter_mut().for_each(|layer| layer.save(at, out));
        true
    }

    /// Makes block `index` of the context `tokens` known, with bytes from [`Self::copy_known`]. It is cached
    /// like a block that was just released, in place of the least recently used one. Returns false if the
    /// blocks before it are not known, or sequences hold the whole arena.
    pub(crate) fn add_known(
        &mut self,
        (namespace, tokens): (Namespace, &[u32]),
        index: usize,
        bytes: &[u8],
    ) -> bool {
        let tokens = self.shareable(tokens);
        let Some(own) = tokens.chunks_exact(BLOCK).nth(index) else { return false };
        let parent =
            index.checked_sub(1).map(|before| self.tree.path(namespace, tokens).nth(before));
        let parent = match parent {
            None => None,
            Some(None) => return false,
            Some(known) => known,
        };
        if self.tree.child((namespace, parent), own).is_some() {
            return true;
        }
        // Held meanwhile, so that it is not evicted for its own continuation.
        let cached = parent.filter(|&parent| self.tree.is_cached(parent));
        if let Some(parent) = cached {
            self.tree.hold(parent);
        }
        let block = self.free.pop().or_else(|| self.tree.evict());
        if let Some(block) = block {
            let at = (self.kv_heads, self.head, block as usize);
            let each = bytes.len() / self.layers.len();
            for (layer, bytes) in self.layers.iter_mut().zip(bytes.chunks_exact(each)) {
                layer.load(at, bytes);
            }
            self.tree.insert(block, (namespace, parent), own);
            self.states.forget(block);
            if !self.tree.release(block) {
                self.free.push(block);
            }
        }
        if let Some(parent) = cached {
            self.tree.release(parent);
        }
        block.is_some()
    }
}

//! What is known of a context, and its blocks as bytes: how keys, values and states leave for a disk and come
//! back.
//!
//! A serialized block contains the keys and values of each layer with attention and, in models with recurrent
//! layers, perhaps the state behind the block.

use nanoinfer_kernels::BLOCK;

use super::cache::Cache;
use super::layer::KvShape;
use super::plan::{BlockUse, Namespace, SeqId};
use super::states::StateSlot;
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

    /// Where the most similar context known to a sequence differs from `tokens`, see
    /// [`super::tree::Tree::difference`].
    pub(crate) fn difference(
        &self,
        id: SeqId,
        tokens: &[u32],
    ) -> Result<Option<(usize, u32)>, Error> {
        Ok(self.tree.difference(self.namespace(id)?, tokens))
    }

    /// Number of full blocks at the beginning of `tokens` after which a sequence of a namespace can continue:
    /// those that are held or cached, in models with recurrent layers up to the last state.
    pub(crate) fn known_blocks(&self, namespace: Namespace, tokens: &[u32]) -> usize {
        if self.states.is_empty() {
            self.tree.path(namespace, self.shareable(tokens)).count()
        } else {
            self.last_snapshot(namespace, tokens).map_or(0, |(blocks, _)| blocks)
        }
    }

    /// The last known state of the beginning of `tokens`, after the number of its blocks.
    pub(super) fn last_snapshot(
        &self,
        namespace: Namespace,
        tokens: &[u32],
    ) -> Option<(usize, StateSlot)> {
        let path = self.tree.path(namespace, self.shareable(tokens)).enumerate();
        path.filter_map(|(i, block)| Some((i + 1, self.states.snapshot(block)?))).last()
    }

    /// Bytes of the keys and values of a block.
    pub(crate) fn block_bytes(&self) -> usize {
        self.shapes.iter().map(|&shape| self.layer_bytes(shape)).sum()
    }

    /// Bytes of the keys and values of a block in a layer of this shape.
    fn layer_bytes(&self, shape: KvShape) -> usize {
        BLOCK * self.kv.bytes_of_layer(shape) as usize
    }

    /// Bytes of the known states in the beginning of `tokens`.
    pub(crate) fn known_states(&self, namespace: Namespace, tokens: &[u32]) -> u64 {
        let path = self.tree.path(namespace, self.shareable(tokens));
        let known = path.filter(|&block| self.states.snapshot(block).is_some());
        known.count() as u64 * self.states.bytes() as u64
    }

    /// Appends the bytes of block `index` of the context `tokens`. Returns false if it is not known, or no
    /// longer.
    pub(crate) fn copy_known(
        &mut self,
        (namespace, tokens): (Namespace, &[u32]),
        index: usize,
        out: &mut Vec<u8>,
    ) -> bool {
        let block = self.tree.path(namespace, self.shareable(tokens)).nth(index);
        let Some(block) = block else { return false };
        self.save(block, self.states.snapshot(block), out);
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
        let (bytes, state) = bytes.split_at(self.block_bytes());
        if let Some(block) = self.tree.child((namespace, parent), own) {
            self.add_snapshot(block, state);
            return true;
        }
        // Held meanwhile, so that it is not evicted for its own continuation.
        let cached = parent.filter(|&parent| self.tree.is_cached(parent));
        if let Some(parent) = cached {
            self.tree.hold(parent);
        }
        let block = self.free.pop().or_else(|| self.tree.evict());
        if let Some(block) = block {
            self.load(block, bytes);
            self.tree.insert(block, (namespace, parent), own);
            self.states.forget(block); // of what it held before
            if self.tree.contains(block) {
                self.add_snapshot(block, state);
            }
            if !self.tree.release(block) {
                self.free.push(block);
            }
        }
        if let Some(parent) = cached {
            self.tree.release(parent);
        }
        block.is_some()
    }

    /// Keeps a state, if there are its bytes, as the snapshot of a block that has none.
    fn add_snapshot(&mut self, block: u32, bytes: &[u8]) {
        if bytes.is_empty() || self.states.snapshot(block).is_some() {
            return;
        }
        let Some(slot) = self.states.take() else { return };
        self.states.load(slot, bytes);
        self.states.remember(block, slot);
        self.states.release(slot);
    }

    /// Appends the bytes of block `index` of an open sequence that holds `len` positions, or whose state covers
    /// as many.
    pub(crate) fn save_block(
        &mut self,
        id: SeqId,
        (index, len): (usize, usize),
        out: &mut Vec<u8>,
    ) {
        let state = match *self.held(id) {
            held if held.base == len && index == (len - 1) / BLOCK => held.slot,
            _ => self.own_snapshot(id, index + 1),
        };
        self.save(self.block(id, index) as u32, state, out);
    }

    /// Appends `tokens` to an open sequence that has room for them: all or the beginning of a block, from bytes
    /// of [`Self::save_block`].
    ///
    /// # Errors
    /// There is no room for the state.
    pub(crate) fn load_block(
        &mut self,
        id: SeqId,
        tokens: &[u32],
        bytes: &[u8],
    ) -> Result<(), Error> {
        let index = self.len(id)? / BLOCK;
        let (bytes, state) = bytes.split_at(self.block_bytes());
        self.load(self.block(id, index) as u32, bytes);
        tokens.iter().for_each(|&token| self.advance(id, token));
        if state.is_empty() {
            return Ok(());
        }
        let slot = self.states.take().ok_or(Error::CacheFull { what: "no free state" })?;
        self.states.load(slot, state);
        self.set_state(id, Some(slot), self.len(id)?);
        if let Some(block) = self.tree_block(id, index) {
            self.states.remember(block, slot);
        }
        self.states.release(slot);
        Ok(())
    }

    fn save(&mut self, block: u32, state: Option<StateSlot>, out: &mut Vec<u8>) {
        let layers = self.layers.iter_mut().zip(&self.shapes);
        layers.for_each(|(layer, &shape)| layer.save((shape, block as usize), out));
        state.into_iter().for_each(|slot| self.states.save(slot, out));
    }

    /// Fills the keys and values of a block.
    fn load(&mut self, block: u32, mut bytes: &[u8]) {
        for (index, &shape) in self.shapes.iter().enumerate() {
            let (own, rest) = bytes.split_at(self.layer_bytes(shape));
            self.layers[index].load((shape, block as usize), own);
            bytes = rest;
        }
    }
}

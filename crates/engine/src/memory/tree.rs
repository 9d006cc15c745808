//! The prefix tree: all full blocks by content, whether sequences hold them or not.
//!
//! A node is a block of the arena; its path from the root spells the tokens of its positions and of all
//! before them, and belongs to a namespace, in which it is found. Blocks enter when they are full, and stay
//! until their memory is needed. Then the block that was released first is evicted, leaves before their
//! parents, so that what remains is always the beginning of a prompt.

use std::collections::HashMap;
use std::hash::{BuildHasher, RandomState};

use nanoinfer_kernels::BLOCK;

use super::plan::Namespace;

const NONE: u32 = u32::MAX;

/// A block of the arena. Links are block numbers.
#[derive(Clone, Copy)]
struct Node {
    /// The hash under which the node is found; meaningful while it is in the tree.
    hash: u64,
    /// The parents of a common block are common, too.
    namespace: Namespace,
    in_tree: bool,
    /// Whether no sequence holds it, so that it is in the list of cached blocks.
    cached: bool,
    parent: u32,
    first_child: u32,
    /// Siblings.
    next: u32,
    previous: u32,
    /// Neighbours in the list of cached blocks.
    older: u32,
    newer: u32,
}

const OUTSIDE: Node = Node {
    hash: 0,
    namespace: Namespace::COMMON,
    in_tree: false,
    cached: false,
    parent: NONE,
    first_child: NONE,
    next: NONE,
    previous: NONE,
    older: NONE,
    newer: NONE,
};

/// A namespace, and a block that is known there or the beginning of a context.
pub(super) type Place = (Namespace, Option<u32>);

/// The tree over the arena's blocks.
pub(super) struct Tree {
    nodes: Vec<Node>,
    tokens: Vec<u32>, // [blocks][64]
    /// Blocks by namespace, parent and tokens. The hash has a secret key, so that no prompt can be chosen such that
    /// many collide; contents are compared anyway.
    blocks: HashMap<u64, u32>,
    secret: RandomState,
    first_root: u32,
    oldest: u32,
    newest: u32,
    n_cached: usize,
}

impl Tree {
    pub(super) fn new(blocks: usize) -> Self {
        Self {
            nodes: vec![OUTSIDE; blocks],
            tokens: vec![0; blocks * BLOCK],
            // Twice the maximum number of entries: the map then never grows, only rehashes in place.
            blocks: HashMap::with_capacity(2 * blocks),
            secret: RandomState::new(),
            first_root: NONE,
            oldest: NONE,
            newest: NONE,
            n_cached: 0,
        }
    }

    /// Number of blocks in the tree that no sequence holds.
    pub(super) fn cached(&self) -> usize {
        self.n_cached
    }

    pub(super) fn contains(&self, block: u32) -> bool {
        self.nodes[block as usize].in_tree
    }

    /// Whether no sequence holds a block of the tree.
    pub(super) fn is_cached(&self, block: u32) -> bool {
        self.nodes[block as usize].cached
    }

    /// Whether the tree has blocks that continue this one.
    pub(super) fn has_children(&self, block: u32) -> bool {
        self.nodes[block as usize].first_child != NONE
    }

    fn tokens(&self, block: u32) -> &[u32] {
        &self.tokens[block as usize * BLOCK..][..BLOCK]
    }

    fn first_child(&mut self, parent: u32) -> &mut u32 {
        match parent {
            NONE => &mut self.first_root,
            parent => &mut self.nodes[parent as usize].first_child,
        }
    }

    /// The block with these tokens after `parent`, or at the beginning of a context, in exactly this namespace.
    fn own_child(&self, (namespace, parent): Place, tokens: &[u32]) -> Option<u32> {
        let parent = parent.unwrap_or(NONE);
        let block = *self.blocks.get(&self.secret.hash_one((namespace, parent, tokens)))?;
        let node = &self.nodes[block as usize];
        let same = (node.namespace, node.parent) == (namespace, parent);
        (same && self.tokens(block) == tokens).then_some(block)
    }

    /// The block with these tokens at a place, if it is seen from there.
    pub(super) fn child(&self, (namespace, parent): Place, tokens: &[u32]) -> Option<u32> {
        let common = self.own_child((Namespace::COMMON, parent), tokens);
        common.or_else(|| self.own_child((namespace, parent), tokens))
    }

    /// The blocks of the longest beginning of `tokens` that is known in a namespace.
    pub(super) fn path<'t>(
        &'t self,
        namespace: Namespace,
        tokens: &'t [u32],
    ) -> impl Iterator<Item = u32> + 't {
        let mut parent = None;
        tokens.chunks_exact(BLOCK).map_while(move |tokens| {
            parent = self.child((namespace, parent), tokens);
            parent
        })
    }

    /// Number of blocks in the beginning of `tokens` that sequences hold.
    pub(super) fn held(&self, namespace: Namespace, tokens: &[u32]) -> usize {
        self.path(namespace, tokens).filter(|&block| !self.is_cached(block)).count()
    }

    /// Adds a held block, which must not be in the tree, at a place whose parent must be. There must be no
    /// block with the same content.
    pub(super) fn insert(&mut self, block: u32, (namespace, parent): Place, tokens: &[u32]) {
        debug_assert!(!self.contains(block) && parent.is_none_or(|parent| self.contains(parent)));
        let parent = parent.unwrap_or(NONE);
        let hash = self.secret.hash_one((namespace, parent, tokens));
        if self.blocks.contains_key(&hash) {
            return; // two contents with one hash: the second is not shared
        }
        self.blocks.insert(hash, block);
        self.tokens[block as usize * BLOCK..][..BLOCK].copy_from_slice(tokens);
        let next = std::mem::replace(self.first_child(parent), block);
        if next != NONE {
            self.nodes[next as usize].previous = block;
        }
        self.nodes[block as usize] =
            Node { hash, namespace, in_tree: true, parent, next, ..OUTSIDE };
    }

    /// Keeps a block that no sequence holds any more, as the last to be evicted. Returns false if it is
    /// not in the tree.
    pub(super) fn release(&mut self, block: u32) -> bool {
        if !self.contains(block) {
            return false;
        }
        let newest = std::mem::replace(&mut self.newest, block);
        let node = &mut self.nodes[block as usize];
        (node.cached, node.older, node.newer) = (true, newest, NONE);
        match newest {
            NONE => self.oldest = block,
            newest => self.nodes[newest as usize].newer = block,
        }
        self.n_cached += 1;
        true
    }

    /// Takes a block back into use if no sequence holds it.
    pub(super) fn hold(&mut self, block: u32) {
        let node = &mut self.nodes[block as usize];
        if !std::mem::take(&mut node.cached) {
            return;
        }
        let (older, newer) = (node.older, node.newer);
        match older {
            NONE => self.oldest = newer,
            older => self.nodes[older as usize].newer = newer,
        }
        match newer {
            NONE => self.newest = older,
            newer => self.nodes[newer as usize].older = older,
        }
        self.n_cached -= 1;
    }

    /// Removes a block without children.
    fn remove_leaf(&mut self, block: u32) {
        self.hold(block);
        let Node { hash, parent, next, previous, .. } = self.nodes[block as usize];
        self.blocks.remove(&hash);
        match previous {
            NONE => *self.first_child(parent) = next,
            previous => self.nodes[previous as usize].next = next,
        }
        if next != NONE {
            self.nodes[next as usize].previous = previous;
        }
        self.nodes[block as usize] = OUTSIDE;
    }

    /// Removes a block, which is about to be written, and all that continue it; those that no sequence
    /// holds are appended to `free`.
    pub(super) fn remove(&mut self, block: u32, free: &mut Vec<u32>) {
        if !self.contains(block) {
            return;
        }
        let mut at = block;
        loop {
            while self.has_children(at) {
                at = self.nodes[at as usize].first_child;
            }
            let Node { parent, cached, .. } = self.nodes[at as usize];
            self.remove_leaf(at);
            if cached {
                free.push(at);
            }
            if at == block {
                return;
            }
            at = parent;
        }
    }

    /// Evicts the leaf that was released first and returns it for reuse.
    pub(super) fn evict(&mut self) -> Option<u32> {
        let mut block = self.oldest;
        // A block is released after those that continue it, so this is the first one. Only if a context
        // has slid can they be held for longer.
        while block != NONE && self.has_children(block) {
            block = self.nodes[block as usize].newer;
        }
        let block = Some(block).filter(|&block| block != NONE)?;
        self.remove_leaf(block);
        Some(block)
    }

    /// Where the most similar context that is known in a namespace differs from `tokens`: the number of equal
    /// tokens, and the other token after them. `None` if it does not differ.
    pub(super) fn difference(&self, namespace: Namespace, tokens: &[u32]) -> Option<(usize, u32)> {
        let mut parent = None;
        let mut parts = tokens.chunks(BLOCK);
        let mut at = 0;
        let rest = loop {
            let part = parts.next()?;
            match self.child((namespace, parent), part) {
                Some(block) => (parent, at) = (Some(block), at + BLOCK),
                None => break part,
            }
        };
        let mut child = parent.map_or(self.first_root, |p| self.nodes[p as usize].first_child);
        let mut best: Option<(usize, u32)> = None;
        while child != NONE {
            let node = &self.nodes[child as usize];
            let known = self.tokens(child);
            child = node.next;
            if !node.namespace.is_seen_from(namespace) {
                continue;
            }
            let common = known.iter().zip(rest).take_while(|(a, b)| a == b).count();
            if common == rest.len() {
                return None;
            }
            if best.is_none_or(|(most, _)| common > most) {
                best = Some((common, known[common]));
            }
        }
        best.map(|(common, token)| (at + common, token))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const COMMON: Namespace = Namespace::COMMON;

    fn tokens(seed: u32) -> Vec<u32> {
        (0..BLOCK as u32).map(|i| i * seed).collect()
    }

    /// A tree of 8 blocks: 0 → 1 → 2, 0 → 3, and 4.
    fn tree() -> Tree {
        let mut tree = Tree::new(8);
        for (block, parent) in [(0, None), (1, Some(0)), (2, Some(1)), (3, Some(0)), (4, None)] {
            tree.insert(block, (COMMON, parent), &tokens(block));
        }
        tree
    }

    fn release(tree: &mut Tree, blocks: &[u32]) {
        assert!(blocks.iter().all(|&block| tree.release(block)));
    }

    fn evicted(tree: &mut Tree) -> Vec<u32> {
        std::iter::from_fn(|| tree.evict()).collect()
    }

    #[test]
    fn a_block_is_found_by_its_tokens_and_all_before_them() {
        let mut tree = tree();
        assert_eq!(tree.child((COMMON, None), &tokens(0)), Some(0));
        assert_eq!(tree.child((COMMON, Some(0)), &tokens(1)), Some(1));
        assert_eq!(tree.child((COMMON, Some(0)), &tokens(3)), Some(3));
        assert_eq!(tree.child((COMMON, Some(1)), &tokens(3)), None, "another parent");
        assert_eq!(tree.child((COMMON, None), &tokens(1)), None);
        tree.insert(5, (COMMON, Some(4)), &tokens(1));
        assert_eq!(
            tree.child((COMMON, Some(4)), &tokens(1)),
            Some(5),
            "the same tokens in another place"
        );
    }

    #[test]
    fn held_blocks_are_counted_without_touching_any() {
        let mut tree = tree();
        let all = [tokens(0), tokens(1), tokens(2)].concat();
        assert_eq!(tree.held(COMMON, &all), 3);
        release(&mut tree, &[2, 1]);
        assert_eq!(tree.held(COMMON, &all), 1, "the others are only cached");
        assert_eq!(tree.held(COMMON, &all[..BLOCK - 1]), 0, "not a full block");
        assert_eq!(tree.held(COMMON, &[tokens(0), tokens(3)].concat()), 2);
        assert_eq!(tree.held(COMMON, &tokens(9)), 0);
        assert_eq!(evicted(&mut tree), [2, 1], "the order of eviction is as before");
    }

    #[test]
    fn the_leaf_released_first_is_evicted_first() {
        let mut all = tree();
        assert_eq!(all.evict(), None, "all are held");
        release(&mut all, &[4, 2, 1, 3, 0]);
        assert_eq!(all.cached(), 5);
        all.hold(4);
        release(&mut all, &[4]);
        assert_eq!(evicted(&mut all), [2, 1, 3, 0, 4]);
        assert_eq!((all.cached(), all.release(0)), (0, false));
        assert_eq!(all.child((COMMON, None), &tokens(0)), None);
        // A parent that was released before its children waits for them.
        let mut all = tree();
        release(&mut all, &[0, 1, 3]);
        assert_eq!(evicted(&mut all), [3]);
        release(&mut all, &[2]);
        assert_eq!(evicted(&mut all), [2, 1, 0]);
    }

    #[test]
    fn removing_a_block_removes_all_that_continue_it() {
        let mut tree = tree();
        release(&mut tree, &[2, 3]);
        let mut free = Vec::new();
        tree.remove(0, &mut free);
        free.sort_unstable();
        assert_eq!(free, [2, 3], "0 and 1 are held");
        assert_eq!(tree.cached(), 0);
        assert!([0, 1, 2, 3].iter().all(|&block| !tree.contains(block)));
        assert_eq!(tree.child((COMMON, None), &tokens(4)), Some(4));
        tree.insert(0, (COMMON, None), &tokens(0));
        tree.insert(3, (COMMON, Some(0)), &tokens(7));
        assert_eq!(tree.child((COMMON, Some(0)), &tokens(7)), Some(3));
    }

    #[test]
    fn the_difference_is_where_the_most_similar_context_ends() {
        let tree = tree();
        let with = |mut prompt: Vec<u32>, at: usize| {
            prompt[at] += 1000;
            prompt
        };
        let all = [tokens(0), tokens(1), tokens(2)].concat();
        assert_eq!(tree.difference(COMMON, &all), None);
        assert_eq!(tree.difference(COMMON, &all[..150]), None, "the beginning of a block");
        assert_eq!(
            tree.difference(COMMON, &[all.clone(), vec![5]].concat()),
            None,
            "it only goes on"
        );
        assert_eq!(tree.difference(COMMON, &with(all.clone(), 140)), Some((140, 2 * 12)));
        assert_eq!(tree.difference(COMMON, &with(all, 64 + 10)), Some((64 + 10, 10)));
    }

    #[test]
    fn contexts_of_other_namespaces_are_not_found() {
        let (ann, bob) = (Namespace(1), Namespace(2));
        let mut tree = tree(); // common
        let all = [tokens(0), tokens(5), tokens(6)].concat();
        tree.insert(5, (ann, Some(0)), &tokens(5));
        tree.insert(6, (ann, Some(5)), &tokens(6));
        let path = |tree: &Tree, namespace| tree.path(namespace, &all).collect::<Vec<_>>();
        assert_eq!(path(&tree, ann), [0, 5, 6], "common blocks are found from everywhere");
        assert_eq!(path(&tree, bob), [0]);
        assert_eq!(path(&tree, COMMON), [0]);
        tree.insert(7, (bob, Some(0)), &tokens(5));
        assert_eq!(path(&tree, bob), [0, 7], "the same content, once more");
        let mut other = all;
        other[2 * BLOCK - 1] += 1;
        assert_eq!(tree.difference(bob, &other[..BLOCK]), None);
        assert_eq!(tree.difference(bob, &other), Some((2 * BLOCK - 1, 63 * 5)));
        release(&mut tree, &[7]);
        assert_eq!(evicted(&mut tree), [7]);
        let common = tree.difference(COMMON, &other).unwrap();
        assert_eq!(tree.difference(bob, &other), Some(common), "nothing of ann's");
    }
}

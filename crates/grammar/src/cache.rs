//! Compiled grammars that may be needed again.

use std::collections::HashMap;
use std::sync::Arc;

/// Least recently used values of a limited total size.
pub(crate) struct Cache<V> {
    entries: HashMap<String, Entry<V>>,
    bytes: usize,
    max_bytes: usize,
    clock: u64,
}

struct Entry<V> {
    value: Arc<V>,
    bytes: usize,
    used: u64,
}

impl<V> Cache<V> {
    pub(crate) fn new(max_bytes: usize) -> Self {
        Self { entries: HashMap::new(), bytes: 0, max_bytes, clock: 0 }
    }

    pub(crate) fn get(&mut self, key: &str) -> Option<Arc<V>> {
        let entry = self.entries.get_mut(key)?;
        self.clock += 1;
        entry.used = self.clock;
        Some(Arc::clone(&entry.value))
    }

    /// Adds a value of this size, and removes others to make room for it. One that is too large is not
    /// kept.
    pub(crate) fn insert(&mut self, key: String, value: Arc<V>, bytes: usize) {
        let bytes = bytes + key.len();
        if bytes > self.max_bytes {
            return;
        }
        self.clock += 1;
        let replaced = self.entries.insert(key, Entry { value, bytes, used: self.clock });
        self.bytes = self.bytes + bytes - replaced.map_or(0, |entry| entry.bytes);
        while self.bytes > self.max_bytes {
            let oldest = self.entries.iter().min_by_key(|(_, entry)| entry.used);
            let Some(key) = oldest.map(|(key, _)| key.clone()) else { return };
            self.bytes -= self.entries.remove(&key).map_or(0, |entry| entry.bytes);
        }
    }

    /// Total size in bytes.
    pub(crate) fn bytes(&self) -> usize {
        self.bytes
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_least_recently_used_entries_are_removed() {
        let mut cache = Cache::new(100);
        let key = |c: char| c.to_string();
        cache.insert(key('a'), Arc::new(1), 39);
        cache.insert(key('b'), Arc::new(2), 39);
        assert_eq!((cache.get("a").as_deref(), cache.bytes()), (Some(&1), 80));
        cache.insert(key('c'), Arc::new(3), 39);
        assert!(cache.get("a").is_some() && cache.get("b").is_none() && cache.get("c").is_some());
        cache.insert(key('d'), Arc::new(4), 100);
        assert!(cache.get("d").is_none() && cache.bytes() == 80, "too large to be kept");
        cache.insert(key('a'), Arc::new(5), 9);
        assert_eq!((cache.get("a").as_deref(), cache.bytes()), (Some(&5), 50));
    }
}

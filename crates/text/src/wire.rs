//! Reads and writes little-endian words in byte buffers.

pub(crate) fn put_u32s(out: &mut Vec<u8>, words: &[u32]) {
    out.reserve(words.len() * 4);
    words.iter().for_each(|w| out.extend_from_slice(&w.to_le_bytes()));
}

/// Reads from the front of a buffer; every method returns `None` on a short read.
pub(crate) struct Reader<'a>(pub(crate) &'a [u8]);

impl<'a> Reader<'a> {
    pub(crate) fn take(&mut self, len: usize) -> Option<&'a [u8]> {
        let (head, tail) = self.0.split_at_checked(len)?;
        self.0 = tail;
        Some(head)
    }

    pub(crate) fn u32(&mut self) -> Option<u32> {
        let (head, tail) = self.0.split_first_chunk()?;
        self.0 = tail;
        Some(u32::from_le_bytes(*head))
    }

    /// Reads a length prefix and the words that it counts.
    pub(crate) fn u32s(&mut self) -> Option<Vec<u32>> {
        let len = (self.u32()? as usize).checked_mul(4)?;
        let words = self.take(len)?.as_chunks().0;
        Some(words.iter().map(|w| u32::from_le_bytes(*w)).collect())
    }
}

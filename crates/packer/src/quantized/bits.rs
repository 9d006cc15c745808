//! Streams of codes of a few bits in 32-bit words, from the lowest bit of the first word on.

/// Code `i` of a stream of which `word` reads a word. A code may begin in one word and end in the next.
#[inline]
pub(super) fn code(bits: usize, i: usize, word: impl Fn(usize) -> u32) -> u32 {
    let (at, shift) = (i * bits / 32, i * bits % 32);
    let low = word(at) >> shift;
    let both = if shift + bits > 32 { low | word(at + 1) << (32 - shift) } else { low };
    both & ((1 << bits) - 1)
}

/// The words of little-endian bytes.
pub(super) fn words(bytes: &[u8]) -> Vec<u32> {
    bytes.as_chunks().0.iter().map(|b| u32::from_le_bytes(*b)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_of_every_width_cross_words() {
        for bits in 1..=8 {
            let value = |i: usize| (i * 37 + 11) as u32 & ((1 << bits) - 1);
            let mut words = vec![0u32; bits * 2 + 1];
            for i in 0..64 {
                for bit in 0..bits {
                    let at = i * bits + bit;
                    words[at / 32] |= (value(i) >> bit & 1) << (at % 32);
                }
            }
            for i in 0..64 {
                assert_eq!(code(bits, i, |w| words[w]), value(i), "{bits} bits, code {i}");
            }
        }
    }
}

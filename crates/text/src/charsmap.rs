//! SentencePiece's normalization rules in their compiled form: a double-array trie (Aoe, 1989) of what is replaced,
//! and the replacements.
//!
//! ```text
//! u32         bytes of the trie
//! u32 × n     its units
//! bytes       replacements, UTF-8, each ended by a zero
//! ```

use base64::Engine;
use unicode_segmentation::UnicodeSegmentation;

use crate::Error;

/// Longer graphemes are replaced character by character.
const LONGEST: usize = 6;

/// Compiled rules.
pub(crate) struct Charsmap {
    units: Vec<u32>,
    replacements: String,
}

/// What a unit of the trie means.
#[derive(Clone, Copy)]
struct Unit(u32);

impl Unit {
    fn has_leaf(self) -> bool {
        self.0 >> 8 & 1 == 1
    }

    fn value(self) -> usize {
        (self.0 & 0x7fff_ffff) as usize
    }

    fn label(self) -> u32 {
        self.0 & 0x8000_00ff
    }

    fn offset(self) -> usize {
        ((self.0 >> 10) as usize) << ((self.0 & 1 << 9) >> 6)
    }
}

impl Charsmap {
    /// Reads rules from base64.
    pub(crate) fn new(base64: &str) -> Result<Self, Error> {
        let damaged = |what| Error::tokenizer("normalizer.precompiled_charsmap", what);
        let bytes = base64::engine::general_purpose::STANDARD.decode(base64);
        let bytes = bytes.map_err(|_| damaged("is not base64"))?;
        let (len, rest) = bytes.split_first_chunk().ok_or_else(|| damaged("is too short"))?;
        let len = u32::from_le_bytes(*len) as usize / 4 * 4;
        let (trie, rest) = rest.split_at_checked(len).ok_or_else(|| damaged("is too short"))?;
        let units = trie.as_chunks().0.iter().map(|unit| u32::from_le_bytes(*unit)).collect();
        let replacements = std::str::from_utf8(rest).map_err(|_| damaged("is not UTF-8"))?;
        Ok(Self { units, replacements: replacements.to_owned() })
    }

    /// The replacement of the shortest beginning of `text` that has one.
    fn replacement(&self, text: &str) -> Option<&str> {
        let unit = |at: usize| self.units.get(at).copied().map(Unit);
        let mut at = unit(0)?.offset();
        for b in text.bytes().take_while(|b| *b != 0) {
            at ^= usize::from(b);
            let found = unit(at).filter(|unit| unit.label() == u32::from(b))?;
            at ^= found.offset();
            if found.has_leaf() {
                let rest = self.replacements.get(unit(at)?.value()..)?;
                return rest.split('\0').next();
            }
        }
        None
    }

    /// Applies the rules to a text.
    pub(crate) fn apply(&self, text: &str) -> String {
        let mut out = String::with_capacity(text.len());
        for grapheme in text.graphemes(true) {
            let whole = (grapheme.len() < LONGEST).then(|| self.replacement(grapheme)).flatten();
            if let Some(replacement) = whole {
                out.push_str(replacement);
                continue;
            }
            for (at, c) in grapheme.char_indices() {
                let part = &grapheme[at..at + c.len_utf8()];
                out.push_str(self.replacement(part).unwrap_or(part));
            }
        }
        out
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn damaged_rules_are_errors_or_no_rules() {
        for (base64, expected) in
            [("*", "is not base64"), ("AAA=", "is too short"), ("/////w==", "is too short")]
        {
            let error = Charsmap::new(base64).map(|_| ()).unwrap_err().to_string();
            assert!(error.contains(expected), "{error}");
        }
        // No trie, and one whose only unit points beyond its end.
        for base64 in ["AAAAAA==", "BAAAAP////8="] {
            assert_eq!(Charsmap::new(base64).unwrap().apply("aé\u{301}\0"), "aé\u{301}\0");
        }
    }
}

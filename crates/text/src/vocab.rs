//! The vocabulary table: the bytes of every token id, readable in place.
//!
//! Layout, little-endian, offsets in bytes from the start of the section, `n` = number of ids:
//!
//! | offset | type | content |
//! |---|---|---|
//! | 0 | 4 bytes | magic `NVOC` |
//! | 4 | u32 | version, 1 |
//! | 8 | u32 | `n`, the model's vocabulary size including padding |
//! | 12 | u8 | 1 if invalid UTF-8 of byte tokens is replaced byte by byte (SentencePiece), else 0 |
//! | 13 | u8 | leading spaces: 0 keep, 1 strip one from the text, 2 strip every space of the first token |
//! | 14 | u16 | zero |
//! | 16 | u32 | `b`, number of text bytes |
//! | 20 | 12 bytes | zero |
//! | 32 | u32 × (n + 1) | offsets of each token's bytes in the text, ascending from 0 to `b` |
//! | 32 + 4(n + 1) | u8 × n | flags: 1 special (control) token, 2 byte token, 4 no such token |
//! | 32 + 4(n + 1) + n | u8 × b | the bytes of all tokens in id order; the section ends here |
//!
//! A token's bytes are those it contributes to decoded text: GPT-2's byte alphabet is decoded, U+2581
//! becomes a space, and `<0x0A>` becomes one byte. They need not be whole UTF-8 characters.

use crate::Error;

pub(crate) const MAGIC: &[u8; 4] = b"NVOC";
pub(crate) const VERSION: u32 = 1;
pub(crate) const HEADER: usize = 32;
pub(crate) const SPECIAL: u8 = 1;
pub(crate) const BYTE: u8 = 2;
pub(crate) const ABSENT: u8 = 4;

/// How leading spaces of a text are treated; SentencePiece adds one before the first word.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FirstBlank {
    /// Kept.
    Keep,
    /// One leading space of the text is dropped.
    StripOne,
    /// Every space of the first token is dropped.
    StripToken,
}

/// The validated layout of a vocabulary table, without its bytes.
///
/// The owner of a mapped file keeps this beside the mapping and calls [`Self::view`] to access the
/// tokens, which avoids a self-referential struct.
#[derive(Debug, Clone, Copy)]
pub struct VocabTable {
    n: usize,
    longest: usize,
    per_byte: bool,
    first_blank: FirstBlank,
}

/// A vocabulary table over borrowed bytes. Lookups are infallible: an out-of-range id has no bytes.
#[derive(Clone, Copy)]
pub struct Vocab<'a> {
    table: VocabTable,
    offsets: &'a [[u8; 4]],
    flags: &'a [u8],
    text: &'a [u8],
}

impl VocabTable {
    /// Validates a vocabulary section, in time linear in the number of tokens.
    ///
    /// # Errors
    /// [`Error::Vocab`] with the offset of the first violation of the layout.
    pub fn parse(section: &[u8]) -> Result<Self, Error> {
        let bad = |offset, what| Err(Error::Vocab { offset, what });
        let word = |at: usize| section[at..].first_chunk().map_or(0, |w| u32::from_le_bytes(*w));
        if section.len() < HEADER {
            return bad(section.len(), "is shorter than its 32-byte header");
        }
        if section[..4] != *MAGIC {
            return bad(0, "does not begin with NVOC");
        }
        if word(4) != VERSION {
            return bad(4, "is not version 1");
        }
        let first_blank = match section[13] {
            0 => FirstBlank::Keep,
            1 => FirstBlank::StripOne,
            2 => FirstBlank::StripToken,
            _ => return bad(13, "has an unknown rule for leading spaces"),
        };
        if section[12] > 1 {
            return bad(12, "has an unknown rule for invalid bytes");
        }
        if section[14..16].iter().chain(&section[20..32]).any(|b| *b != 0) {
            return bad(14, "has nonzero reserved bytes");
        }
        let (n, text) = (word(8) as usize, word(16) as usize);
        let whole = n.checked_mul(5).and_then(|t| t.checked_add(HEADER + 4)?.checked_add(text));
        if whole != Some(section.len()) {
            return bad(8, "has a length that does not match its counts");
        }
        let per_byte = section[12] == 1;
        let table = Self { n, longest: 0, per_byte, first_blank };
        let vocab = table.view(section);
        let mut end = 0;
        let mut longest = 0;
        for (i, offset) in vocab.offsets.iter().enumerate() {
            let next = u32::from_le_bytes(*offset) as usize;
            if next < end || next > text || (i == 0 && next != 0) || (i == n && next != text) {
                return bad(
                    HEADER + 4 * i,
                    "has offsets that do not ascend from 0 to the text length",
                );
            }
            longest = longest.max(next - end);
            end = next;
        }
        if let Some(i) = vocab.flags.iter().position(|f| f & !(SPECIAL | BYTE | ABSENT) != 0) {
            return bad(HEADER + 4 * (n + 1) + i, "has an unknown flag");
        }
        Ok(Self { longest, ..table })
    }

    /// Views the bytes that the table was parsed from. With other bytes, tokens may be empty or
    /// incorrect, but no lookup panics.
    pub fn view<'a>(&self, section: &'a [u8]) -> Vocab<'a> {
        let (offsets, rest) = section
            .get(HEADER..)
            .and_then(|s| s.split_at_checked(4 * (self.n + 1)))
            .unwrap_or_default();
        let (flags, text) = rest.split_at_checked(self.n).unwrap_or_default();
        Vocab { table: *self, offsets: offsets.as_chunks().0, flags, text }
    }

    /// Number of ids, including padding.
    pub fn len(&self) -> usize {
        self.n
    }

    /// Whether the table has no ids.
    pub fn is_empty(&self) -> bool {
        self.n == 0
    }

    /// Length in bytes of the longest token.
    pub fn longest(&self) -> usize {
        self.longest
    }

    /// Maximum length in bytes of the text that a token can complete: each of its bytes, and of up to four
    /// that were left incomplete before it, may become U+FFFD, which is three bytes long.
    pub fn longest_text(&self) -> usize {
        3 * (self.longest + 4)
    }
}

impl std::fmt::Debug for Vocab<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Vocab").field("table", &self.table).finish_non_exhaustive()
    }
}

impl<'a> Vocab<'a> {
    /// Validates `section` and returns a view of it.
    ///
    /// # Errors
    /// Those of [`VocabTable::parse`].
    pub fn parse(section: &'a [u8]) -> Result<Self, Error> {
        Ok(VocabTable::parse(section)?.view(section))
    }

    /// The validated layout, to keep beside the bytes.
    pub fn table(&self) -> VocabTable {
        self.table
    }

    /// Number of ids, including padding.
    pub fn len(&self) -> usize {
        self.table.n
    }

    /// Whether the table has no ids.
    pub fn is_empty(&self) -> bool {
        self.table.n == 0
    }

    /// The bytes of a token; empty for padding and for ids past the end.
    pub fn bytes(&self, id: u32) -> &'a [u8] {
        let at = |i: usize| self.offsets.get(i).map_or(0, |o| u32::from_le_bytes(*o) as usize);
        let id = id as usize;
        id.checked_add(1).and_then(|next| self.text.get(at(id)..at(next))).unwrap_or_default()
    }

    /// Whether the id is a control token such as `<|im_end|>`.
    pub fn is_special(&self, id: u32) -> bool {
        self.flag(id, SPECIAL)
    }

    /// Whether the id is a SentencePiece byte token such as `<0x0A>`.
    pub fn is_byte(&self, id: u32) -> bool {
        self.flag(id, BYTE)
    }

    /// Whether no token has this id: it is a padding row of the model, or past the end.
    pub fn is_absent(&self, id: u32) -> bool {
        self.flags.get(id as usize).is_none_or(|f| f & ABSENT != 0)
    }

    pub(crate) fn per_byte(&self) -> bool {
        self.table.per_byte
    }

    /// How leading spaces of a text are treated.
    pub fn first_blank(&self) -> FirstBlank {
        self.table.first_blank
    }

    fn flag(&self, id: u32, flag: u8) -> bool {
        self.flags.get(id as usize).is_some_and(|f| f & flag != 0)
    }
}

//! Rows of the section table: everything in a file that is not a tensor.

use std::ops::Range;

use crate::units::{ALIGN, le_u32, le_u64};

/// Content of a section. Readers skip unknown kinds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u32)]
pub enum SectionKind {
    /// [`crate::Config`] as canonical JSON.
    Config = 1,
    /// The tokenizer in Hugging Face's `tokenizer.json` format.
    Tokenizer = 2,
    /// Token bytes and flags, so that streaming text needs no allocations.
    Vocabulary = 3,
    /// The chat template as Jinja source.
    ChatTemplate = 4,
    /// [`crate::Generation`] as JSON.
    Generation = 5,
    /// The tensor table.
    Tensors = 6,
    /// Origin of the model: source id and file hashes, as JSON.
    Provenance = 7,
    /// Pack-time test vectors, replayed by `verify`.
    SelfCheck = 8,
    /// A cache of `Tokenizer` in the format that the text crate loads fastest.
    NativeTokenizer = 9,
    /// The tensors.
    Data = 10,
    /// Keys and values of a prompt, computed when the file was packed.
    BakedPrompt = 11,
}

impl SectionKind {
    const ALL: [(SectionKind, &'static str); 11] = [
        (Self::Config, "config"),
        (Self::Tokenizer, "tokenizer"),
        (Self::Vocabulary, "vocabulary"),
        (Self::ChatTemplate, "chat template"),
        (Self::Generation, "generation defaults"),
        (Self::Tensors, "tensor table"),
        (Self::Provenance, "provenance"),
        (Self::SelfCheck, "self-check"),
        (Self::NativeTokenizer, "native tokenizer"),
        (Self::Data, "data"),
        (Self::BakedPrompt, "baked prompt"),
    ];

    fn from_u32(v: u32) -> Option<Self> {
        Self::ALL.iter().map(|&(k, _)| k).find(|&k| k as u32 == v)
    }

    /// Display name.
    pub fn name(self) -> &'static str {
        Self::ALL.iter().find(|&&(k, _)| k == self).map_or("?", |&(_, n)| n)
    }
}

/// A section: its location and hash.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Section {
    /// Content.
    pub kind: SectionKind,
    /// Offset of its first byte in the file.
    pub offset: u64,
    /// Length in bytes.
    pub len: u64,
    /// BLAKE3 of its bytes; for `Data`, of the tensors' hashes in table order.
    pub hash: [u8; 32],
}

/// Bytes per row of the section table.
pub(crate) const ROW: usize = 64;

/// A row of any kind. Sections of unknown kinds are skipped but still occupy their range, and `verify`
/// checks their hashes.
#[derive(Clone, Copy)]
pub(crate) struct Row {
    pub(crate) number: u32,
    pub(crate) offset: u64,
    pub(crate) len: u64,
    pub(crate) hash: [u8; 32],
}

impl Row {
    /// Parses the row of a section that must lie within `room`.
    pub(crate) fn parse(row: &[u8; ROW], room: Range<u64>) -> Result<Self, String> {
        let hash = row[32..].try_into().expect("32 bytes");
        let s = Self { number: le_u32(row, 0), offset: le_u64(row, 8), len: le_u64(row, 16), hash };
        if row[4..8] != [0; 4] || row[24..32] != [0; 8] {
            return Err(format!("{}: a reserved field is not zero", s.name()));
        }
        let end = s.offset.checked_add(s.len);
        if s.offset < room.start || end.is_none_or(|end| end > room.end) {
            let Range { start, end } = room;
            let name = s.name();
            let (offset, len) = (s.offset, s.len);
            return Err(format!(
                "{name} at {offset}, {len} bytes long, is not within {start}..{end}"
            ));
        }
        if !s.offset.is_multiple_of(ALIGN) {
            return Err(format!("{} at {} is not aligned to {ALIGN}", s.name(), s.offset));
        }
        Ok(s)
    }

    /// The section, if its kind is known.
    pub(crate) fn known(&self) -> Option<Section> {
        let &Self { number, offset, len, hash } = self;
        SectionKind::from_u32(number).map(|kind| Section { kind, offset, len, hash })
    }

    pub(crate) fn is_data(&self) -> bool {
        self.number == SectionKind::Data as u32
    }

    pub(crate) fn name(&self) -> String {
        match SectionKind::from_u32(self.number) {
            Some(kind) => format!("the {} section", kind.name()),
            None => format!("section {}", self.number),
        }
    }
}

impl Section {
    pub(crate) fn to_row(&self) -> [u8; ROW] {
        let mut row = [0u8; ROW];
        row[..4].copy_from_slice(&(self.kind as u32).to_le_bytes());
        row[8..16].copy_from_slice(&self.offset.to_le_bytes());
        row[16..24].copy_from_slice(&self.len.to_le_bytes());
        row[32..].copy_from_slice(&self.hash);
        row
    }
}

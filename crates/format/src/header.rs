//! The 256-byte header at the start of every file.

use crate::config::{Config, Quant};
use crate::units::{le_u32, le_u64};

/// First eight bytes: a non-text byte, the name, and line endings that a text-mode copy would mangle.
pub const MAGIC: [u8; 8] = *b"\x93NANO\r\n\x1a";
/// Format version that this crate reads and writes.
pub const VERSION: u32 = 2;
/// Length of the header in bytes.
pub const HEADER_LEN: usize = 256;

const CHECKSUM_AT: usize = 224;
const SECTION_TABLE_HASH_AT: usize = 152;
const RESERVED: std::ops::Range<usize> = 184..CHECKSUM_AT;

/// The header's fields. Architecture parameters repeat the config, for tools that read only the header.
#[derive(Clone, Debug, PartialEq)]
pub struct Header {
    /// Length of the whole file in bytes.
    pub file_len: u64,
    /// Features a reader must support; files with unknown bits are rejected.
    pub required_features: u64,
    /// Features a reader may ignore.
    pub optional_features: u64,
    /// Architecture: layers, d_model, d_ff, heads, KV heads, head size, vocabulary, context.
    pub sizes: [u32; 8],
    /// RoPE base.
    pub rope_theta: f64,
    /// Epsilon of the norms.
    pub norm_eps: f64,
    /// 0 = f32, 1 = q8.
    pub quant: u32,
    /// Bit 0: tied embeddings.
    pub flags: u32,
    /// Offset of the section table.
    pub section_table_offset: u64,
    /// Number of rows in the section table.
    pub section_count: u32,
    /// BLAKE3 of the section table.
    pub section_table_hash: [u8; 32],
    /// The model's identity: BLAKE3 over config, tokenizer, template and tensor hashes. Opening a file
    /// checks that it matches the hashes in the section table; `verify` checks that they match the bytes.
    pub content_id: [u8; 32],
}

impl Header {
    /// The header for a model of this architecture, with offsets, hashes and length still zero.
    pub(crate) fn for_config(config: &Config) -> Self {
        let c = config;
        Self {
            file_len: 0,
            required_features: 0,
            optional_features: 0,
            sizes: [
                c.n_layers,
                c.d_model,
                c.d_ff,
                c.n_heads,
                c.n_kv_heads,
                c.head_dim,
                c.vocab_size,
                c.context_length,
            ],
            rope_theta: c.rope_theta,
            norm_eps: c.norm_eps,
            quant: match c.quant {
                Quant::F32 => 0,
                Quant::Q8 => 1,
                Quant::Q5 => 2,
                Quant::Q4 => 3,
                Quant::Q3 => 4,
                Quant::Q2 => 5,
            },
            flags: u32::from(c.tied_embeddings),
            section_table_offset: 0,
            section_count: 0,
            section_table_hash: [0; 32],
            content_id: [0; 32],
        }
    }

    /// Whether the architecture fields match the config.
    pub(crate) fn agrees_with(&self, config: &Config) -> bool {
        let expected = Self::for_config(config);
        self.sizes == expected.sizes
            && self.rope_theta.to_bits() == expected.rope_theta.to_bits()
            && self.norm_eps.to_bits() == expected.norm_eps.to_bits()
            && (self.quant, self.flags) == (expected.quant, expected.flags)
    }

    pub(crate) fn to_bytes(&self) -> [u8; HEADER_LEN] {
        let mut b = [0u8; HEADER_LEN];
        let mut put = |at: usize, bytes: &[u8]| b[at..at + bytes.len()].copy_from_slice(bytes);
        put(0, &MAGIC);
        put(8, &VERSION.to_le_bytes());
        put(12, &(HEADER_LEN as u32).to_le_bytes());
        put(16, &self.file_len.to_le_bytes());
        put(24, &self.required_features.to_le_bytes());
        put(32, &self.optional_features.to_le_bytes());
        for (i, size) in self.sizes.iter().enumerate() {
            put(40 + 4 * i, &size.to_le_bytes());
        }
        put(72, &self.rope_theta.to_le_bytes());
        put(80, &self.norm_eps.to_le_bytes());
        put(88, &self.quant.to_le_bytes());
        put(92, &self.flags.to_le_bytes());
        put(96, &self.section_table_offset.to_le_bytes());
        put(104, &self.section_count.to_le_bytes());
        put(120, &self.content_id);
        put(SECTION_TABLE_HASH_AT, &self.section_table_hash);
        let sum = blake3::hash(&b[..CHECKSUM_AT]);
        b[CHECKSUM_AT..].copy_from_slice(sum.as_bytes());
        b
    }

    /// Parses the output of [`Self::to_bytes`]. The error describes the failed check.
    pub(crate) fn parse(b: &[u8; HEADER_LEN], actual_len: u64) -> Result<Self, HeaderError> {
        if b[..8] != MAGIC {
            return Err(HeaderError::Magic);
        }
        let version = le_u32(b, 8);
        if version == 0 {
            return Err(HeaderError::Damaged("format version 0 does not exist".into()));
        }
        if version < VERSION {
            return Err(HeaderError::TooOld(format!(
                "format version {version}, but this engine reads version {VERSION}"
            )));
        }
        if version > VERSION {
            return Err(HeaderError::TooNew(format!(
                "format version {version}, but this engine reads version {VERSION}"
            )));
        }
        let damaged = |what: String| Err(HeaderError::Damaged(what));
        if blake3::hash(&b[..CHECKSUM_AT]).as_bytes()[..] != b[CHECKSUM_AT..] {
            return damaged("header checksum does not match".into());
        }
        let header_len = le_u32(b, 12);
        if header_len as usize != HEADER_LEN {
            return damaged(format!("header length {header_len}, expected {HEADER_LEN}"));
        }
        let file_len = le_u64(b, 16);
        if file_len != actual_len {
            return damaged(format!(
                "{actual_len} bytes long, but its header specifies {file_len}"
            ));
        }
        let required_features = le_u64(b, 24);
        if required_features != 0 {
            return Err(HeaderError::TooNew(format!(
                "requires unknown features {required_features:#x}"
            )));
        }
        if b[108..120].iter().chain(&b[RESERVED]).any(|&x| x != 0) {
            return damaged("a reserved header byte is not zero".into());
        }
        let hash = |at: usize| b[at..at + 32].try_into().expect("32 bytes");
        Ok(Self {
            file_len,
            required_features,
            optional_features: le_u64(b, 32),
            sizes: std::array::from_fn(|i| le_u32(b, 40 + 4 * i)),
            rope_theta: f64::from_bits(le_u64(b, 72)),
            norm_eps: f64::from_bits(le_u64(b, 80)),
            quant: le_u32(b, 88),
            flags: le_u32(b, 92),
            section_table_offset: le_u64(b, 96),
            section_count: le_u32(b, 104),
            content_id: hash(120),
            section_table_hash: hash(SECTION_TABLE_HASH_AT),
        })
    }
}

pub(crate) enum HeaderError {
    Magic,
    TooNew(String),
    TooOld(String),
    Damaged(String),
}

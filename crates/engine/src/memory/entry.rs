//! The header of stored keys and values: everything in an entry except its blocks.

use std::io::{self, Read};

use nanoinfer_kernels::BLOCK;

use super::plan::Namespace;

pub(crate) const MAGIC: [u8; 8] = *b"NANOKV\0\x01";
pub(crate) const HEADER: usize = 96;
/// Length of the identity: the part of the header before the counts, which must match the engine's.
pub(crate) const IDENTITY: usize = 72;
/// Maximum number of tokens in an entry; no context is longer.
const MAX_TOKENS: usize = 1 << 24;
const MAX_TEXT: usize = 1 << 26;

/// The header of an entry.
#[derive(Debug)]
pub(crate) struct Prefix {
    pub identity: [u8; IDENTITY],
    pub namespace: Namespace,
    pub tokens: Vec<u32>,
    pub text: String,
    /// One per block of 64 positions.
    pub hashes: Vec<[u8; 32]>,
    /// The raw header, and the hash that follows it.
    pub head: (Vec<u8>, [u8; 32]),
}

impl Prefix {
    /// Reads everything before the blocks. The header's hash is checked when blocks are loaded.
    pub(crate) fn read(from: &mut impl Read) -> io::Result<Self> {
        let mut head = vec![0; HEADER];
        from.read_exact(&mut head)?;
        let number = |at: usize| u32::from_le_bytes([0, 1, 2, 3].map(|i| head[at + i])) as usize;
        let (n, text) = (number(72), number(76));
        let namespace = head[80..].first_chunk().expect("longer");
        let namespace = Namespace(u64::from_le_bytes(*namespace));
        if head[..12] != [&MAGIC[..], &1u32.to_le_bytes()].concat() {
            return Err(io::Error::other("is not a stored prompt of this version"));
        }
        if n > MAX_TOKENS || text > MAX_TEXT || head[88..HEADER] != [0; 8] {
            return Err(io::Error::other("has a damaged header"));
        }
        let len = HEADER + 4 * n + text + 32 * n.div_ceil(BLOCK);
        from.take((len - HEADER) as u64).read_to_end(&mut head)?;
        let mut hash = [0; 32];
        from.read_exact(&mut hash)?; // also catches truncation before it
        let (tokens, rest) = head[HEADER..].split_at(4 * n);
        let (text, hashes) = rest.split_at(text);
        Ok(Self {
            identity: *head.first_chunk().expect("longer"),
            namespace,
            tokens: tokens.as_chunks::<4>().0.iter().map(|b| u32::from_le_bytes(*b)).collect(),
            text: String::from_utf8_lossy(text).into_owned(),
            hashes: hashes.as_chunks::<32>().0.to_vec(),
            head: (head, hash),
        })
    }

    /// Length of the common prefix with `tokens`.
    pub(crate) fn common(&self, tokens: &[u32]) -> usize {
        self.tokens.iter().zip(tokens).take_while(|(a, b)| a == b).count()
    }
}

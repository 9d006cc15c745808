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
    /// Bytes of a state of the recurrent layers; 0 if there are none.
    pub state_bytes: u64,
    /// For each block of 64 positions, whether a state follows it; empty without recurrent layers.
    pub states: Vec<bool>,
    /// One per block of 64 positions.
    pub hashes: Vec<[u8; 32]>,
    /// The raw header, and the hash that follows it.
    pub head: (Vec<u8>, [u8; 32]),
}

/// Bytes of an entry before its hash, given the numbers of tokens and of bytes of text, and whether there are
/// recurrent layers.
pub(crate) fn head_bytes((tokens, text): (usize, usize), recurrent: bool) -> usize {
    let blocks = tokens.div_ceil(BLOCK);
    HEADER + 4 * tokens + text + 32 * blocks + if recurrent { blocks } else { 0 }
}

/// Length of the common prefix of the tokens of an entry with others, up to the last of its states if these
/// are needed.
pub(crate) fn common(entry: &[u32], states: Option<&[bool]>, tokens: &[u32]) -> usize {
    let n = entry.iter().zip(tokens).take_while(|(a, b)| a == b).count();
    let Some(states) = states else { return n };
    let end = |block: usize| ((block + 1) * BLOCK).min(entry.len());
    (0..states.len())
        .rev()
        .filter(|&block| states[block])
        .map(end)
        .find(|&end| end <= n)
        .unwrap_or(0)
}

impl Prefix {
    /// Reads everything before the blocks. The header's hash is checked when blocks are loaded.
    pub(crate) fn read(from: &mut impl Read) -> io::Result<Self> {
        let mut head = vec![0; HEADER];
        from.read_exact(&mut head)?;
        let number = |at: usize| u32::from_le_bytes([0, 1, 2, 3].map(|i| head[at + i])) as usize;
        let (n, text) = (number(72), number(76));
        let long = |at: usize| u64::from_le_bytes(*head[at..].first_chunk().expect("longer"));
        let (namespace, state_bytes) = (Namespace(long(80)), long(88));
        if head[..12] != [&MAGIC[..], &1u32.to_le_bytes()].concat() {
            return Err(io::Error::other("is not a stored prompt of this version"));
        }
        if n > MAX_TOKENS || text > MAX_TEXT {
            return Err(io::Error::other("has a damaged header"));
        }
        let len = head_bytes((n, text), state_bytes > 0);
        from.take((len - HEADER) as u64).read_to_end(&mut head)?;
        let mut hash = [0; 32];
        from.read_exact(&mut hash)?; // also catches truncation before it
        let (tokens, rest) = head[HEADER..].split_at(4 * n);
        let (text, rest) = rest.split_at(text);
        let (states, hashes) = rest.split_at(if state_bytes > 0 { n.div_ceil(BLOCK) } else { 0 });
        Ok(Self {
            identity: *head.first_chunk().expect("longer"),
            namespace,
            tokens: tokens.as_chunks::<4>().0.iter().map(|b| u32::from_le_bytes(*b)).collect(),
            text: String::from_utf8_lossy(text).into_owned(),
            state_bytes,
            states: states.iter().map(|flag| *flag != 0).collect(),
            hashes: hashes.as_chunks::<32>().0.to_vec(),
            head: (head, hash),
        })
    }

    /// Length of the common prefix with `tokens`, in models with recurrent layers up to the last state.
    pub(crate) fn common(&self, tokens: &[u32]) -> usize {
        common(&self.tokens, (self.state_bytes > 0).then_some(&self.states), tokens)
    }

    /// Bytes of block `index` and of the state that may follow it, given those of its keys and values.
    pub(crate) fn block_bytes(&self, index: usize, keys_and_values: usize) -> usize {
        let has_state = self.states.get(index) == Some(&true);
        keys_and_values + if has_state { self.state_bytes as usize } else { 0 }
    }
}

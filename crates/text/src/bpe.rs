//! Byte-pair encoding (Sennrich et al. 2016): start from characters and repeatedly merge the adjacent
//! pair that was learned first, until no pair merges.
//!
//! Merges are stored in one array sorted by (left, right), together with the range of each left id. A
//! lookup is a short binary search, and loading is a plain copy.
//!
//! Rejected 2026-11-22: kitoken 0.11. Its native file takes at least 12 ms (SmolLM2) or 9 ms (Llama-2)
//! to load, and twice as long if user input needs a second instance. A quarter of that time is spent
//! decoding 32 to 49 thousand small vectors, and the rest copying them into three hash maps. Here a
//! single table serves both kinds of input and loads in 0.7 and 0.1 ms; nearly all of the 0.7 ms is
//! spent compiling GPT-2's pattern.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap};
use std::ops::Range;

use crate::Error;
use crate::json::{Body, ModelHead};
use crate::wire::{Reader, put_u32s};

/// No token.
const NONE: u32 = u32::MAX;
/// Characters below this are looked up by index; the byte alphabet ends at U+0143.
const LOW: usize = 0x180;

/// Pieces up to this length are memoised within an encoding run, as most words of a text recur.
const MEMO_BYTES: usize = 32;

/// Merges two adjacent ids into one.
#[derive(Clone, Copy)]
struct Merge {
    right: u32,
    /// Index in the list of merges; lower ranks merge first.
    rank: u32,
    id: u32,
}

/// The tables of a BPE model.
pub(crate) struct Bpe {
    low: Vec<u32>,             // [LOW] id of a character
    chars: Vec<(u32, u32)>,    // other single-character tokens: (character, id), ascending
    bytes: Vec<u32>,           // [256] ids of byte tokens, or [] without byte fallback
    first: Vec<u32>,           // [ids + 1] start of each left id's merges
    merges: Vec<Merge>,        // ascending (left, right)
    whole: Vec<(String, u32)>, // with ignore_merges, tokens that merging cannot produce; ascending
    unk: Option<u32>,
    fuse_unk: bool,
    max_id: u32,
}

/// Buffers of one encoding run, which appends all ids to one list.
#[derive(Default)]
pub(crate) struct Scratch {
    memo: HashMap<Box<str>, Range<usize>>, // range of a piece's ids in that list
    symbols: Vec<Symbol>,
    queue: Queue,
}

/// Pending merges: rank and position, lowest first.
type Queue = BinaryHeap<Reverse<(u32, usize)>>;

/// A partial token. `prev` and `next` link the symbols that remain; `usize::MAX` ends the list.
struct Symbol {
    id: u32,
    rank: u32,   // of the merge with the next symbol, or NONE
    merged: u32, // the id that this merge produces
    prev: usize,
    next: usize,
}

impl Bpe {
    /// Builds the tables from the JSON's vocabulary and merges.
    pub(crate) fn new(head: &ModelHead, body: &Body) -> Result<Self, Error> {
        let vocab = &body.model.vocab.0;
        let max_id = vocab.iter().map(|(_, id)| *id).max().unwrap_or(0);
        // Tables are indexed by id, so an absurdly large id must not determine their size.
        if max_id as usize > vocab.len().saturating_mul(4) + (1 << 16) {
            let what = format!("id {max_id} is too large for {} tokens", vocab.len());
            return Err(Error::tokenizer("model.vocab", what));
        }
        let ids: HashMap<&str, u32> = vocab.iter().map(|(text, id)| (text.as_str(), *id)).collect();
        let unk = match &head.unk_token {
            Some(unk) => Some(*ids.get(unk.as_str()).ok_or_else(|| {
                Error::tokenizer("model.unk_token", format!("{unk:?} is not in the vocabulary"))
            })?),
            None => None,
        };
        let mut chars: Vec<(u32, u32)> = ids
            .iter()
            .filter_map(|(text, id)| {
                let mut chars = text.chars();
                let c = chars.next()?;
                chars.next().is_none().then_some((u32::from(c), *id))
            })
            .collect();
        chars.sort_unstable();
        let bytes = if head.byte_fallback {
            let id = |b| ids.get(format!("<0x{b:02X}>").as_str()).copied().unwrap_or(NONE);
            (0..=255u8).map(id).collect()
        } else {
            Vec::new()
        };
        let (first, merges) = table(&ids, body, max_id)?;
        let (low, chars) = split_low(&chars);
        let whole = Vec::new();
        let fuse_unk = head.fuse_unk;
        let mut bpe = Self { low, chars, bytes, first, merges, whole, unk, fuse_unk, max_id };
        if head.ignore_merges {
            bpe.whole = bpe.unreachable(vocab);
        }
        Ok(bpe)
    }

    /// With `ignore_merges`, a piece that equals a token becomes that token. Merging produces the same
    /// id for all but a few tokens; only those few are stored.
    fn unreachable(&self, vocab: &[(String, u32)]) -> Vec<(String, u32)> {
        let mut scratch = Scratch::default();
        let mut out = Vec::new();
        let mut whole: Vec<_> = vocab
            .iter()
            .filter(|(text, id)| {
                let start = out.len();
                self.encode(text, &mut scratch, &mut out);
                out[start..] != [*id]
            })
            .cloned()
            .collect();
        whole.sort_unstable();
        whole
    }

    pub(crate) fn max_id(&self) -> u32 {
        self.max_id
    }

    fn char_id(&self, c: char) -> Option<u32> {
        let code = u32::from(c);
        let id = match self.low.get(code as usize) {
            Some(id) => *id,
            None => {
                self.chars.binary_search_by_key(&code, |(c, _)| *c).map(|i| self.chars[i].1).ok()?
            }
        };
        (id != NONE).then_some(id)
    }

    fn merge(&self, left: u32, right: u32) -> Option<Merge> {
        let left = left as usize;
        let (start, end) = (*self.first.get(left)?, *self.first.get(left + 1)?);
        let merges = &self.merges[start as usize..end as usize];
        merges.binary_search_by_key(&right, |m| m.right).ok().map(|i| merges[i])
    }

    /// Appends the ids of one piece.
    pub(crate) fn encode(&self, piece: &str, scratch: &mut Scratch, out: &mut Vec<u32>) {
        if let Ok(i) = self.whole.binary_search_by(|(text, _)| text.as_str().cmp(piece)) {
            out.push(self.whole[i].1);
            return;
        }
        if let Some(ids) = scratch.memo.get(piece) {
            out.extend_from_within(ids.clone());
            return;
        }
        let start = out.len();
        scratch.symbols.clear();
        self.spell(piece, &mut scratch.symbols);
        self.merge_all(scratch);
        let mut at = if scratch.symbols.is_empty() { usize::MAX } else { 0 };
        while let Some(symbol) = scratch.symbols.get(at) {
            out.push(symbol.id);
            at = symbol.next;
        }
        if piece.len() <= MEMO_BYTES {
            scratch.memo.insert(piece.into(), start..out.len());
        }
    }

    /// Emits one symbol per character; a character without a token becomes byte tokens or the unknown
    /// token.
    fn spell(&self, piece: &str, symbols: &mut Vec<Symbol>) {
        let mut push = |id| {
            let at = symbols.len();
            let (prev, next) = (at.wrapping_sub(1), at + 1);
            symbols.push(Symbol { id, rank: NONE, merged: NONE, prev, next });
        };
        let mut unknown = None;
        for c in piece.chars() {
            if let Some(id) = self.char_id(c) {
                if let Some(unk) = unknown.take() {
                    push(unk);
                }
                push(id);
                continue;
            }
            let mut utf8 = [0; 4];
            let utf8 = c.encode_utf8(&mut utf8).as_bytes();
            let byte = |b: &u8| self.bytes.get(usize::from(*b)).copied().unwrap_or(NONE);
            if utf8.iter().all(|b| byte(b) != NONE) {
                utf8.iter().map(byte).for_each(&mut push);
            } else if let Some(unk) = self.unk
                && let Some(previous) = unknown.replace(unk)
                && !self.fuse_unk
            {
                push(previous);
            }
        }
        if let Some(unk) = unknown {
            push(unk);
        }
        if let Some(last) = symbols.last_mut() {
            last.next = usize::MAX;
        }
    }

    fn merge_all(&self, Scratch { symbols, queue, .. }: &mut Scratch) {
        queue.clear();
        for at in 0..symbols.len() {
            self.queue_merge(symbols, at, queue);
        }
        while let Some(Reverse((rank, at))) = queue.pop() {
            // A rank identifies one pair: a different rank means that either side has since merged.
            if symbols[at].rank != rank {
                continue;
            }
            let right = symbols[at].next;
            let after = symbols[right].next;
            symbols[right].rank = NONE;
            symbols[at].id = symbols[at].merged;
            symbols[at].next = after;
            if let Some(after) = symbols.get_mut(after) {
                after.prev = at;
            }
            let before = symbols[at].prev;
            self.queue_merge(symbols, at, queue);
            self.queue_merge(symbols, before, queue);
        }
    }

    /// Queues the merge of the symbol at `at` with the next one, if such a merge exists.
    fn queue_merge(&self, symbols: &mut [Symbol], at: usize, queue: &mut Queue) {
        let Some(left) = symbols.get(at) else { return };
        let merge = symbols.get(left.next).and_then(|right| self.merge(left.id, right.id));
        let (rank, merged) = merge.map_or((NONE, NONE), |m| (m.rank, m.id));
        (symbols[at].rank, symbols[at].merged) = (rank, merged);
        if rank != NONE {
            queue.push(Reverse((rank, at)));
        }
    }

    /// Writes the tables as length-prefixed little-endian arrays.
    pub(crate) fn write(&self, out: &mut Vec<u8>) {
        let low = self.low.iter().enumerate().filter(|(_, id)| **id != NONE);
        let low: Vec<u32> = low.flat_map(|(c, id)| [c as u32, *id]).collect();
        let chars: Vec<u32> = self.chars.iter().flat_map(|(c, id)| [*c, *id]).collect();
        let merges: Vec<u32> = self.merges.iter().flat_map(|m| [m.right, m.rank, m.id]).collect();
        put_u32s(out, &[self.unk.unwrap_or(NONE), u32::from(self.fuse_unk)]);
        for array in [&[low, chars].concat(), &self.bytes, &self.first, &merges] {
            put_u32s(out, &[array.len() as u32]);
            put_u32s(out, array);
        }
        put_u32s(out, &[self.whole.len() as u32]);
        for (text, id) in &self.whole {
            put_u32s(out, &[*id, text.len() as u32]);
            out.extend_from_slice(text.as_bytes());
        }
    }

    /// Reads the output of [`Self::write`]; `None` for anything else.
    pub(crate) fn read(bytes: &mut Reader<'_>) -> Option<Self> {
        let unk = Some(bytes.u32()?).filter(|id| *id != NONE);
        let fuse_unk = bytes.u32()? != 0;
        let chars: Vec<_> =
            bytes.u32s()?.as_chunks::<2>().0.iter().map(|[c, id]| (*c, *id)).collect();
        let fallback = bytes.u32s()?;
        let first = bytes.u32s()?;
        let words = bytes.u32s()?;
        let merges: Vec<_> = words
            .as_chunks::<3>()
            .0
            .iter()
            .map(|[right, rank, id]| Merge { right: *right, rank: *rank, id: *id })
            .collect();
        let mut whole = Vec::new();
        for _ in 0..bytes.u32()? {
            let (id, len) = (bytes.u32()?, bytes.u32()?);
            whole.push((str::from_utf8(bytes.take(len as usize)?).ok()?.to_owned(), id));
        }
        let is_valid = chars.is_sorted()
            && matches!(fallback.len(), 0 | 256)
            && first.is_sorted()
            && first.last().is_none_or(|end| *end as usize == merges.len());
        let used = chars.iter().map(|(_, id)| *id).chain(merges.iter().map(|m| m.id));
        let used = used.chain(whole.iter().map(|(_, id)| *id)).chain(unk);
        let max_id =
            used.chain(fallback.iter().copied().filter(|id| *id != NONE)).max().unwrap_or(0);
        let (low, chars) = split_low(&chars);
        let bpe = Self { low, chars, bytes: fallback, first, merges, whole, unk, fuse_unk, max_id };
        (is_valid && max_id != NONE).then_some(bpe)
    }
}

/// Sorts the JSON's merges, and finds the range of each left id.
fn table(
    ids: &HashMap<&str, u32>,
    body: &Body,
    max_id: u32,
) -> Result<(Vec<u32>, Vec<Merge>), Error> {
    let mut joined = String::new();
    let mut merges = Vec::with_capacity(body.model.merges.len());
    for (rank, merge) in body.model.merges.iter().enumerate() {
        let (left, right) = (&merge.0, &merge.1);
        joined.clear();
        joined.extend([left.as_str(), right.as_str()]);
        let id = |text: &str| {
            ids.get(text).copied().ok_or_else(|| {
                let what = format!("merge {rank} needs {text:?}, which is not in the vocabulary");
                Error::tokenizer("model.merges", what)
            })
        };
        let rank_u32 = u32::try_from(rank).unwrap_or(NONE);
        merges.push((id(left)?, Merge { right: id(right)?, rank: rank_u32, id: id(&joined)? }));
    }
    // If a pair occurs more than once, the last occurrence wins, as in the reference.
    merges.sort_by_key(|(left, m)| (*left, m.right, Reverse(m.rank)));
    merges.dedup_by_key(|(left, m)| (*left, m.right));
    let mut first = vec![0u32; max_id as usize + 2];
    for (left, _) in &merges {
        first[*left as usize + 1] += 1;
    }
    for i in 1..first.len() {
        first[i] += first[i - 1];
    }
    Ok((first, merges.into_iter().map(|(_, m)| m).collect()))
}

fn split_low(chars: &[(u32, u32)]) -> (Vec<u32>, Vec<(u32, u32)>) {
    let mut low = vec![NONE; LOW];
    let (below, above): (Vec<_>, Vec<_>) = chars.iter().partition(|(c, _)| (*c as usize) < LOW);
    for (c, id) in below {
        low[c as usize] = id;
    }
    (low, above)
}

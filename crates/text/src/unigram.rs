//! Unigram language models (Kudo, 2018): of all ways to divide a piece into tokens, the one whose tokens have the
//! largest sum of scores, found by the Viterbi algorithm.

use crate::Error;
use crate::json::{ModelHead, Scored};

/// What an unknown character costs more than the token with the lowest score.
const UNKNOWN_PENALTY: f64 = 10.0;

/// The tables of a Unigram model.
pub(crate) struct Unigram {
    tokens: Vec<(String, u32)>, // ascending; the last of equal ones counts
    scores: Vec<f64>,           // by id
    bytes: Vec<Option<u32>>,    // [256] ids of byte tokens, or [] without byte fallback
    unk: u32,
    lowest: f64, // score
}

/// The best way to reach a position.
#[derive(Clone, Copy)]
struct Node {
    score: f64,
    from: usize, // usize::MAX: not reached yet
    id: u32,
}

/// Buffers of one encoding run.
#[derive(Default)]
pub(crate) struct Scratch {
    nodes: Vec<Node>,
    ends: Vec<usize>,
}

impl Unigram {
    pub(crate) fn new(head: &ModelHead, vocab: &Scored) -> Result<Self, Error> {
        let n = vocab.0.len();
        let unk = head.unk_id.filter(|&id| (id as usize) < n).ok_or_else(|| {
            Error::tokenizer("model.unk_id", "is missing or not in the vocabulary")
        })?;
        if let Some((text, score)) = vocab.0.iter().find(|(_, score)| !score.is_finite()) {
            let what = format!("token {text:?} has the score {score}");
            return Err(Error::tokenizer("model.vocab", what));
        }
        let ids = 0..u32::try_from(n).unwrap_or(u32::MAX);
        let texts = vocab.0.iter().map(|(text, _)| text.clone());
        let mut tokens: Vec<(String, u32)> = texts.zip(ids).collect();
        tokens.sort_unstable_by(|a, b| a.0.cmp(&b.0).then(b.1.cmp(&a.1)));
        tokens.dedup_by(|later, earlier| later.0 == earlier.0);
        tokens.retain(|(text, _)| !text.is_empty());
        let scores: Vec<f64> = vocab.0.iter().map(|(_, score)| *score).collect();
        let lowest = scores.iter().copied().fold(f64::INFINITY, f64::min);
        let mut model = Self { tokens, scores, bytes: Vec::new(), unk, lowest };
        if head.byte_fallback {
            model.bytes = (0..=255u8).map(|b| model.id(&format!("<0x{b:02X}>"))).collect();
        }
        Ok(model)
    }

    pub(crate) fn max_id(&self) -> u32 {
        self.scores.len().saturating_sub(1) as u32
    }

    fn id(&self, text: &str) -> Option<u32> {
        let found = self.tokens.binary_search_by(|(token, _)| token.as_str().cmp(text));
        found.ok().map(|at| self.tokens[at].1)
    }

    /// Calls `found` with the length and id of every token with which `text` begins, the shortest first.
    fn prefixes(&self, text: &str, mut found: impl FnMut(usize, u32)) {
        let mut range = &self.tokens[..];
        for (at, c) in text.char_indices() {
            let prefix = &text[..at + c.len_utf8()];
            let from = range.partition_point(|(token, _)| token.as_str() < prefix);
            range = &range[from..];
            range = &range[..range.partition_point(|(token, _)| token.starts_with(prefix))];
            match range.first() {
                None => return,
                Some((token, id)) if token.len() == prefix.len() => found(prefix.len(), *id),
                Some(_) => {}
            }
        }
    }

    /// Appends the ids of one piece. Unknown characters in a row are one token.
    pub(crate) fn encode(&self, piece: &str, scratch: &mut Scratch, out: &mut Vec<u32>) {
        let Scratch { nodes, ends } = scratch;
        nodes.clear();
        nodes.resize(piece.len() + 1, Node { score: 0.0, from: usize::MAX, id: 0 });
        for (at, c) in piece.char_indices() {
            let (here, width) = (nodes[at].score, c.len_utf8());
            let mut is_known = false;
            let mut reach = |len: usize, score: f64, id| {
                let to = &mut nodes[at + len];
                if to.from == usize::MAX || score + here > to.score {
                    *to = Node { score: score + here, from: at, id };
                }
            };
            self.prefixes(&piece[at..], |len, id| {
                is_known |= len == width;
                reach(len, self.scores[id as usize], id);
            });
            if !is_known {
                reach(width, self.lowest - UNKNOWN_PENALTY, self.unk);
            }
        }
        ends.clear();
        let (mut at, mut unknown) = (piece.len(), false);
        while at > 0 {
            let node = nodes[at];
            // An unknown part ends where the part before it does, if that is unknown too.
            if !(unknown && node.id == self.unk) {
                ends.push(at);
            }
            unknown = node.id == self.unk;
            at = node.from;
        }
        let mut from = 0;
        for end in ends.drain(..).rev() {
            self.push(&piece[from..end], out);
            from = end;
        }
    }

    /// Appends the id of a token, or of the bytes of unknown characters.
    fn push(&self, text: &str, out: &mut Vec<u32>) {
        if let Some(id) = self.id(text) {
            return out.push(id);
        }
        let byte = |b: u8| self.bytes.get(usize::from(b)).copied().flatten();
        if text.bytes().all(|b| byte(b).is_some()) {
            out.extend(text.bytes().filter_map(byte));
        } else {
            out.push(self.unk);
        }
    }
}

//! WordPiece (Wu et al., 2016): a word is the longest token with which it begins, then the longest one with which the
//! rest begins, and so on.

use std::collections::HashMap;

use crate::Error;
use crate::json::{ModelHead, VocabMap};

/// The usual limit of a word's characters, beyond which it is unknown.
const LONGEST: u32 = 100;

/// The tables of a WordPiece model.
pub(crate) struct WordPiece {
    ids: HashMap<String, u32>,
    /// What tokens within a word begin with.
    prefix: String,
    unk: u32,
    longest: usize,
    max_id: u32,
}

impl WordPiece {
    pub(crate) fn new(head: &ModelHead, vocab: VocabMap) -> Result<Self, Error> {
        let ids: HashMap<String, u32> = vocab.0.into_iter().collect();
        let unk = head.unk_token.as_deref().unwrap_or("[UNK]");
        let missing = || format!("{unk:?} is not in the vocabulary");
        let id = ids.get(unk).copied();
        Ok(Self {
            unk: id.ok_or_else(|| Error::tokenizer("model.unk_token", missing()))?,
            prefix: head.continuing_subword_prefix.clone().unwrap_or_else(|| "##".to_owned()),
            longest: head.max_input_chars_per_word.unwrap_or(LONGEST) as usize,
            max_id: ids.values().copied().max().unwrap_or(0),
            ids,
        })
    }

    pub(crate) fn max_id(&self) -> u32 {
        self.max_id
    }

    /// Appends the ids of one word.
    pub(crate) fn encode(&self, word: &str, out: &mut Vec<u32>) {
        let first = out.len();
        if word.chars().nth(self.longest).is_some() || self.divide(word, out).is_none() {
            out.truncate(first);
            out.push(self.unk);
        }
    }

    /// `None` if a part of the word is unknown.
    fn divide(&self, word: &str, out: &mut Vec<u32>) -> Option<()> {
        let (mut from, mut token) = (0, String::new());
        while from < word.len() {
            token.clear();
            if from > 0 {
                token.push_str(&self.prefix);
            }
            let inner = token.len();
            token.push_str(&word[from..]);
            let id = loop {
                if let Some(id) = self.ids.get(&token) {
                    break *id;
                }
                token.pop();
                if token.len() <= inner {
                    return None;
                }
            };
            out.push(id);
            from += token.len() - inner;
        }
        Some(())
    }
}

//! Streaming conversion of token ids to text.

use crate::vocab::{FirstBlank, Vocab, VocabTable};

/// Decodes tokens one at a time and returns the text that is final so far.
///
/// A character may span several tokens: its bytes are held back until it is complete. Invalid bytes
/// become U+FFFD as in the reference decoders: one per broken sequence or, for SentencePiece byte
/// tokens, one per byte. (For these, the reference considers the whole run of byte tokens, and drops
/// even valid characters if a later byte is invalid. A stream has already emitted them.)
///
/// Nothing is allocated after [`TextStream::new`].
#[derive(Debug)]
pub struct TextStream {
    text: String,     // returned to the caller
    pending: Vec<u8>, // up to 3 bytes of an incomplete character, then the new token
    raw: Vec<u8>,     // bytes of the last token
    skip_special: bool,
    at_start: bool,
    per_byte: bool,
}

impl TextStream {
    /// A stream for ids of this vocabulary, at the start of a text. With `skip_special`, control tokens
    /// produce no text.
    pub fn new(vocab: &VocabTable, skip_special: bool) -> Self {
        let longest = vocab.longest() + 4;
        Self {
            text: String::with_capacity(vocab.longest_text()),
            pending: Vec::with_capacity(longest),
            raw: Vec::with_capacity(longest),
            skip_special,
            at_start: true,
            per_byte: false,
        }
    }

    /// Continues the text of a prompt, so that a leading space is kept.
    #[must_use]
    pub fn continuing(mut self) -> Self {
        self.at_start = false;
        self
    }

    /// Starts a new text, which continues a prompt unless `at_start`; see [`Self::continuing`].
    pub fn reset(&mut self, at_start: bool) {
        self.pending.clear();
        self.raw.clear();
        self.at_start = at_start;
    }

    /// Adds a token and returns the text that it completes, which may include bytes of earlier tokens.
    pub fn push(&mut self, vocab: &Vocab<'_>, id: u32) -> &str {
        self.text.clear();
        self.raw.clear();
        if self.skip_special && vocab.is_special(id) {
            return "";
        }
        let bytes = vocab.bytes(id);
        let first_blank = if self.at_start { vocab.first_blank() } else { FirstBlank::Keep };
        match first_blank {
            FirstBlank::Keep => self.raw.extend_from_slice(bytes),
            FirstBlank::StripOne => {
                self.raw.extend_from_slice(bytes.strip_prefix(b" ").unwrap_or(bytes));
            }
            FirstBlank::StripToken => self.raw.extend(bytes.iter().filter(|b| **b != b' ')),
        }
        // A first token that is stripped entirely still counts as the first.
        self.at_start &= bytes.is_empty();
        self.per_byte = vocab.per_byte();
        if self.per_byte && !vocab.is_byte(id) {
            // A character cannot span byte tokens and other tokens.
            self.replace_pending();
        }
        self.pending.extend_from_slice(&self.raw);
        self.decode();
        &self.text
    }

    /// Ends the text and returns the replacement for an incomplete character, if any.
    pub fn finish(&mut self) -> &str {
        self.text.clear();
        self.raw.clear();
        self.replace_pending();
        &self.text
    }

    /// The text returned by the last call.
    pub fn text(&self) -> &str {
        &self.text
    }

    /// The exact bytes of the last token, for piped output: nothing is replaced or held back.
    pub fn raw(&self) -> &[u8] {
        &self.raw
    }

    fn replace_pending(&mut self) {
        let signs = if self.per_byte { self.pending.len() } else { self.pending.len().min(1) };
        (0..signs).for_each(|_| self.text.push(char::REPLACEMENT_CHARACTER));
        self.pending.clear();
    }

    /// Moves complete characters from `pending` to `text`.
    fn decode(&mut self) {
        let mut done = 0;
        loop {
            let rest = &self.pending[done..];
            let error = match str::from_utf8(rest) {
                Ok(valid) => {
                    self.text.push_str(valid);
                    done = self.pending.len();
                    break;
                }
                Err(error) => error,
            };
            let valid = error.valid_up_to();
            self.text.push_str(str::from_utf8(&rest[..valid]).unwrap_or_default());
            done += valid;
            let Some(bad) = error.error_len() else { break };
            let signs = if self.per_byte { bad } else { 1 };
            (0..signs).for_each(|_| self.text.push(char::REPLACEMENT_CHARACTER));
            done += bad;
        }
        self.pending.drain(..done);
    }
}

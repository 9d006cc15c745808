//! Token ids to text, as they come.

use crate::vocab::{FirstBlank, Vocab, VocabTable};

/// Decodes tokens one at a time and lends the text that is certain so far.
///
/// A character may be spread over several tokens: its bytes are held back until it is whole.
/// Bytes that can be no character become U+FFFD as in the reference decoders: one for a broken
/// sequence, or, for SentencePiece byte tokens, one for each byte. (There the reference looks at
/// the whole run of byte tokens and gives up even its valid characters when a later byte is bad;
/// a stream has shown them by then, so it keeps them.)
///
/// Nothing is allocated after [`TextStream::new`].
pub struct TextStream {
    text: String,     // lent to the caller
    pending: Vec<u8>, // up to 3 bytes of an unfinished character, then the new token
    raw: Vec<u8>,     // bytes of the last token
    skip_special: bool,
    at_start: bool,
    per_byte: bool,
}

impl TextStream {
    /// A stream for ids of this vocabulary, at the start of a text. With `skip_special`, control
    /// tokens give no text.
    pub fn new(vocab: &VocabTable, skip_special: bool) -> Self {
        let longest = vocab.longest() + 4;
        Self {
            // Every byte may become U+FFFD, which has three.
            text: String::with_capacity(3 * longest),
            pending: Vec::with_capacity(longest),
            raw: Vec::with_capacity(longest),
            skip_special,
            at_start: true,
            per_byte: false,
        }
    }

    /// Says that the text goes on from a prompt: a leading blank belongs to it and stays.
    #[must_use]
    pub fn continuing(mut self) -> Self {
        self.at_start = false;
        self
    }

    /// Begins a new text; `at_start` as in [`Self::continuing`].
    pub fn reset(&mut self, at_start: bool) {
        self.pending.clear();
        self.raw.clear();
        self.at_start = at_start;
    }

    /// Takes one token and lends the text it completes, often but not always its own.
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
        // The rule for the first token holds even if nothing is left of it.
        self.at_start &= bytes.is_empty();
        self.per_byte = vocab.per_byte();
        if self.per_byte && !vocab.is_byte(id) {
            // Byte tokens spell characters among themselves only.
            self.give_up();
        }
        self.pending.extend_from_slice(&self.raw);
        self.decode();
        &self.text
    }

    /// Ends the text: lends what an unfinished character turns into.
    pub fn finish(&mut self) -> &str {
        self.text.clear();
        self.raw.clear();
        self.give_up();
        &self.text
    }

    /// The text that the last call lent.
    pub fn text(&self) -> &str {
        &self.text
    }

    /// The exact bytes of the last token, for output that is not shown but piped: no replacement,
    /// nothing held back.
    pub fn raw(&self) -> &[u8] {
        &self.raw
    }

    fn give_up(&mut self) {
        let lost = if self.per_byte { self.pending.len() } else { self.pending.len().min(1) };
        (0..lost).for_each(|_| self.text.push(char::REPLACEMENT_CHARACTER));
        self.pending.clear();
    }

    /// Moves whole characters from `pending` to `text`.
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

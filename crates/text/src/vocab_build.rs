//! Builds the vocabulary table by running the decoder of a `tokenizer.json` over every token.

use crate::Error;
use crate::bytes::{byte_token, decode_bytes};
use crate::json::{Decoder, Head, Pattern, PrependScheme, vocabulary};
use crate::vocab::{ABSENT, BYTE, FirstBlank, HEADER, MAGIC, SPECIAL, VERSION};
use crate::wire::put_u32s;

/// Builds the vocabulary table section for a model with `vocab_size` rows.
///
/// # Errors
/// [`Error::Json`] or [`Error::Tokenizer`] if the JSON is malformed, its decoder is unsupported, or a
/// token's id is not less than `vocab_size`.
pub fn build_vocab(tokenizer_json: &[u8], vocab_size: usize) -> Result<Vec<u8>, Error> {
    let head = Head::parse(tokenizer_json)?;
    let vocab = vocabulary(head.kind(), tokenizer_json)?;
    let plan = Plan::new(head.decoder.as_ref())?;

    // Only rows with a token are listed, so memory use depends on the JSON and not on `vocab_size`.
    let listed = vocab.0.iter().map(|(text, id)| (text.as_str(), *id, false));
    let added = head.added_tokens.iter().map(|t| (t.content.as_str(), t.id, t.special));
    let mut rows: Vec<(u32, &str, bool)> =
        listed.chain(added).map(|(text, id, special)| (id, text, special)).collect();
    // The sort is stable, so an added token follows the vocabulary's token with the same id, and
    // overrides it.
    rows.sort_by_key(|(id, ..)| *id);
    rows.dedup_by(|later, earlier| {
        let is_same = later.0 == earlier.0;
        if is_same {
            *earlier = *later;
        }
        is_same
    });
    if let Some((id, text, _)) = rows.last().filter(|(id, ..)| *id as usize >= vocab_size) {
        let what = format!("token {text:?} has id {id}, but the model has {vocab_size} rows");
        return Err(Error::tokenizer("model.vocab", what));
    }
    write(&plan, &rows, vocab_size)
}

fn write(plan: &Plan, rows: &[(u32, &str, bool)], n: usize) -> Result<Vec<u8>, Error> {
    let too_large = || Error::tokenizer("model.vocab", "more than 4 GiB of text");
    let count = u32::try_from(n).map_err(|_| too_large())?;
    let mut offsets = vec![0u32];
    let mut flags = Vec::new();
    let mut text = Vec::new();
    let mut rows = rows.iter().peekable();
    for id in 0..count {
        let mut flag = ABSENT;
        if let Some((_, token, special)) = rows.next_if(|row| row.0 == id) {
            let (bytes, is_byte) = plan.bytes(token);
            text.extend_from_slice(&bytes);
            flag = if *special { SPECIAL } else { 0 } | if is_byte { BYTE } else { 0 };
        }
        flags.push(flag);
        offsets.push(u32::try_from(text.len()).map_err(|_| too_large())?);
    }
    let mut out = MAGIC.to_vec();
    put_u32s(&mut out, &[VERSION, count]);
    let first_blank = match plan.first_blank {
        FirstBlank::Keep => 0,
        FirstBlank::StripOne => 1,
        FirstBlank::StripToken => 2,
    };
    out.extend_from_slice(&[u8::from(plan.byte_fallback), first_blank, 0, 0]);
    put_u32s(&mut out, &[text.len() as u32]);
    out.resize(HEADER, 0);
    put_u32s(&mut out, &offsets);
    out.extend_from_slice(&flags);
    out.extend_from_slice(&text);
    Ok(out)
}

/// A decoder, reduced to the operations that language models use.
struct Plan {
    replace: Vec<(String, String)>,
    byte_level: bool,
    byte_fallback: bool,
    fused: bool,
    first_blank: FirstBlank,
    /// What the tokens within a word begin with; others begin with a blank.
    within_words: Option<String>,
}

impl Plan {
    fn new(decoder: Option<&Decoder>) -> Result<Self, Error> {
        let mut plan = Self {
            replace: Vec::new(),
            byte_level: false,
            byte_fallback: false,
            fused: false,
            first_blank: FirstBlank::Keep,
            within_words: None,
        };
        match decoder {
            Some(decoder) => plan.add(decoder)?,
            None => return Err(Error::tokenizer("decoder", "is null, but a decoder is required")),
        }
        Ok(plan)
    }

    fn add(&mut self, decoder: &Decoder) -> Result<(), Error> {
        let unsupported = |what| Err(Error::tokenizer("decoder", what));
        match decoder {
            Decoder::Sequence { decoders } => {
                return decoders.iter().try_for_each(|d| self.add(d));
            }
            Decoder::ByteLevel { .. } => self.byte_level = true,
            Decoder::ByteFallback {} => self.byte_fallback = true,
            Decoder::Fuse {} => self.fused = true,
            // `cleanup` removes blanks before punctuation, which depends on more than one token.
            Decoder::WordPiece { prefix, .. } => {
                self.within_words = Some(prefix.clone());
                self.first_blank = FirstBlank::StripOne;
            }
            Decoder::Strip { content: ' ', start: 1, stop: 0 } if self.fused => {
                self.first_blank = FirstBlank::StripOne;
            }
            Decoder::Strip { start: 0, stop: 0, .. } => {}
            Decoder::Strip { .. } => {
                return unsupported("Strip is supported only for one leading space after Fuse");
            }
            Decoder::Replace { pattern: Pattern::String(from), content } if !self.fused => {
                self.replace.push((from.clone(), content.clone()));
            }
            Decoder::Replace { .. } => {
                return unsupported("Replace is supported only for plain strings before Fuse");
            }
            Decoder::Metaspace { replacement, prepend_scheme, add_prefix_space } => {
                self.replace.push((replacement.to_string(), " ".to_owned()));
                let scheme = PrependScheme::resolve(*prepend_scheme, *add_prefix_space);
                if scheme != PrependScheme::Never {
                    self.first_blank = FirstBlank::StripToken;
                }
            }
        }
        Ok(())
    }

    /// The bytes of a token, and whether it is a byte token.
    fn bytes(&self, token: &str) -> (Vec<u8>, bool) {
        let mut text = token.to_owned();
        for (from, to) in self.replace.iter().filter(|(from, _)| !from.is_empty()) {
            if text.contains(from.as_str()) {
                text = text.replace(from.as_str(), to);
            }
        }
        if let Some(prefix) = &self.within_words {
            text = match text.strip_prefix(prefix.as_str()) {
                Some(rest) => rest.to_owned(),
                None => format!(" {text}"),
            };
        }
        if let Some(byte) = byte_token(&text).filter(|_| self.byte_fallback) {
            return (vec![byte], true);
        }
        // A token with characters outside the byte alphabet, such as a space, is plain UTF-8.
        let decoded = if self.byte_level { decode_bytes(&text) } else { None };
        (decoded.unwrap_or_else(|| text.into_bytes()), false)
    }
}

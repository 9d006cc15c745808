//! Builds a `tokenizer.json` from SentencePiece's own `tokenizer.model`.
//!
//! The file is a protobuf message, `ModelProto` in SentencePiece's `sentencepiece_model.proto`. Of its
//! fields, only the pieces and the settings that affect encoding are read. The model then takes the
//! same path as the vocabulary of a GGUF file, which stores the same lists.

use crate::Error;
use crate::gguf::tokenizer_json_from_gguf;
use crate::gguf_vocab::GgufVocab;

/// `TrainerSpec.ModelType`; the default is Unigram.
const UNIGRAM: u64 = 1;
const BPE: u64 = 2;
/// `SentencePiece.Type.NORMAL`, the default. GGUF uses the same numbers.
const NORMAL: i32 = 1;

/// Builds a Hugging Face `tokenizer.json` from a SentencePiece model: BPE, or Unigram. With `add_bos`, raw prompts
/// begin with the model's BOS token, if it has one.
///
/// # Errors
/// [`Error::SentencePiece`]: the model is damaged, is of another kind, or is BPE that changes the text.
pub fn tokenizer_json_from_sentencepiece(model: &[u8], add_bos: bool) -> Result<Vec<u8>, Error> {
    let model = Model::parse(model)?;
    model.check()?;
    let id = |id: i32| u32::try_from(id).ok().filter(|&id| (id as usize) < model.tokens.len());
    let unk = id(model.unk).ok_or_else(|| error("it has no token for unknown text".into()))?;
    tokenizer_json_from_gguf(&GgufVocab {
        scores: Some(&model.scores),
        types: &model.types,
        add_space_prefix: model.dummy_prefix,
        remove_extra_whitespaces: model.collapse,
        charsmap: Some(&model.charsmap),
        bos: id(model.bos).filter(|_| add_bos),
        unk: Some(unk),
        ..GgufVocab::new(if model.is_unigram() { "t5" } else { "llama" }, &model.tokens)
    })
}

/// Whether a SentencePiece model is a Unigram model; `false` for a damaged one.
pub fn sentencepiece_is_unigram(model: &[u8]) -> bool {
    Model::parse(model).is_ok_and(|model| model.is_unigram())
}

/// The fields of a `ModelProto` that matter here.
struct Model {
    tokens: Vec<String>,
    scores: Vec<f32>,
    types: Vec<i32>,
    kind: u64,
    unk: i32,
    bos: i32,
    suffix: bool,
    charsmap: Vec<u8>,
    dummy_prefix: bool,
    collapse: bool,
    escape: bool,
}

impl Model {
    fn parse(bytes: &[u8]) -> Result<Self, Error> {
        let mut m = Self {
            tokens: Vec::new(),
            scores: Vec::new(),
            types: Vec::new(),
            kind: UNIGRAM,
            unk: 0,
            bos: 1,
            suffix: false,
            charsmap: Vec::new(),
            dummy_prefix: true,
            collapse: true,
            escape: true,
        };
        let mut fields = Fields { bytes, at: 0 };
        let mut settings = [false; 2];
        while let Some(field) = fields.next()? {
            match field {
                (1, Value::Bytes(piece)) => m.piece(piece)?,
                (2, Value::Bytes(trainer)) => {
                    m.trainer(trainer)?;
                    settings[0] = true;
                }
                (3, Value::Bytes(normalizer)) => {
                    m.normalizer(normalizer)?;
                    settings[1] = true;
                }
                _ => {}
            }
        }
        // Complete files have both; they follow the pieces.
        if settings != [true; 2] {
            return Err(fields.damaged("its settings are missing"));
        }
        Ok(m)
    }

    fn piece(&mut self, bytes: &[u8]) -> Result<(), Error> {
        let (mut text, mut score, mut kind) = ("", 0.0, NORMAL);
        let mut fields = Fields { bytes, at: 0 };
        while let Some(field) = fields.next()? {
            match field {
                (1, Value::Bytes(piece)) => {
                    let id = self.tokens.len();
                    text = std::str::from_utf8(piece)
                        .map_err(|_| error(format!("piece {id} is not UTF-8")))?;
                }
                (2, Value::Fixed(bits)) => score = f32::from_bits(bits),
                (3, Value::Number(n)) => kind = int(n),
                _ => {}
            }
        }
        self.tokens.push(text.to_owned());
        self.scores.push(score);
        self.types.push(kind);
        Ok(())
    }

    fn trainer(&mut self, bytes: &[u8]) -> Result<(), Error> {
        let mut fields = Fields { bytes, at: 0 };
        while let Some(field) = fields.next()? {
            match field {
                (3, Value::Number(kind)) => self.kind = kind,
                (24, Value::Number(suffix)) => self.suffix = suffix != 0,
                (40, Value::Number(id)) => self.unk = int(id),
                (41, Value::Number(id)) => self.bos = int(id),
                _ => {}
            }
        }
        Ok(())
    }

    fn normalizer(&mut self, bytes: &[u8]) -> Result<(), Error> {
        let mut fields = Fields { bytes, at: 0 };
        while let Some(field) = fields.next()? {
            match field {
                (2, Value::Bytes(charsmap)) => self.charsmap = charsmap.to_vec(),
                (3, Value::Number(flag)) => self.dummy_prefix = flag != 0,
                (4, Value::Number(flag)) => self.collapse = flag != 0,
                (5, Value::Number(flag)) => self.escape = flag != 0,
                _ => {}
            }
        }
        Ok(())
    }

    fn is_unigram(&self) -> bool {
        self.kind == UNIGRAM
    }

    /// Rejects models that encode text in a way that the result could not express.
    fn check(&self) -> Result<(), Error> {
        let unsupported = |what: &str| Err(error(format!("{what} is not supported")));
        if !matches!(self.kind, BPE | UNIGRAM) {
            return unsupported("a model of words or characters");
        }
        if self.tokens.is_empty() {
            return Err(error("it has no pieces".into()));
        }
        if !self.is_unigram() && !self.charsmap.is_empty() {
            return unsupported("a normalization of characters");
        }
        if !self.is_unigram() && self.collapse {
            return unsupported("the removal of extra blanks");
        }
        // The result would not add it to texts that begin with a blank.
        if self.is_unigram() && self.dummy_prefix && !self.collapse {
            return unsupported("a blank before a text whose own blanks are kept");
        }
        if self.suffix || !self.escape {
            return unsupported("another place for blanks than before words");
        }
        Ok(())
    }
}

fn error(what: String) -> Error {
    Error::SentencePiece(what)
}

/// Negative numbers are stored with 64 bits.
fn int(number: u64) -> i32 {
    number as i64 as i32
}

/// The value of a field, by its wire type.
enum Value<'a> {
    Number(u64),
    Fixed(u32),
    Bytes(&'a [u8]),
    /// A 64-bit value, which none of the fields read here has.
    Wide,
}

/// Reads the fields of a protobuf message one by one.
struct Fields<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl<'a> Fields<'a> {
    /// The number and value of the next field.
    fn next(&mut self) -> Result<Option<(u64, Value<'a>)>, Error> {
        if self.at == self.bytes.len() {
            return Ok(None);
        }
        let key = self.varint()?;
        let value = match key & 7 {
            0 => Value::Number(self.varint()?),
            1 => {
                self.take(8)?;
                Value::Wide
            }
            2 => {
                let len = self.varint()?;
                Value::Bytes(self.take(len)?)
            }
            5 => Value::Fixed(u32::from_le_bytes(self.take(4)?.try_into().expect("4 bytes"))),
            other => return Err(self.damaged(&format!("wire type {other}"))),
        };
        Ok(Some((key >> 3, value)))
    }

    fn varint(&mut self) -> Result<u64, Error> {
        let mut value = 0;
        for shift in (0..64).step_by(7) {
            let byte = self.take(1)?[0];
            value |= u64::from(byte & 127) << shift;
            if byte < 128 {
                return Ok(value);
            }
        }
        Err(self.damaged("a number of more than 10 bytes"))
    }

    fn take(&mut self, n: u64) -> Result<&'a [u8], Error> {
        let rest = &self.bytes[self.at..];
        let part = usize::try_from(n).ok().and_then(|n| rest.get(..n));
        let part = part.ok_or_else(|| {
            self.damaged(&format!("expected {n} more bytes, found {}", rest.len()))
        })?;
        self.at += part.len();
        Ok(part)
    }

    fn damaged(&self, what: &str) -> Error {
        error(format!("it is damaged: {what}"))
    }
}

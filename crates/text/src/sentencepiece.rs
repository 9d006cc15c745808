//! Builds a `tokenizer.json` from SentencePiece's own `tokenizer.model`.
//!
//! The file is a protobuf message, `ModelProto` in SentencePiece's `sentencepiece_model.proto`. Of its
//! fields, only the pieces and the settings that affect encoding are read. A BPE model then takes the
//! same path as the vocabulary of a GGUF file, which stores the same lists.

use crate::Error;
use crate::gguf::tokenizer_json_from_gguf;
use crate::gguf_vocab::GgufVocab;

/// `TrainerSpec.ModelType.BPE`; the default is 1, Unigram.
const BPE: u64 = 2;
/// `SentencePiece.Type.NORMAL`, the default. GGUF uses the same numbers.
const NORMAL: i32 = 1;

/// Builds a Hugging Face `tokenizer.json` from a SentencePiece BPE model. With `add_bos`, raw prompts
/// begin with the model's BOS token, if it has one.
///
/// # Errors
/// [`Error::SentencePiece`]: the model is damaged or is not a plain BPE model.
pub fn tokenizer_json_from_sentencepiece(model: &[u8], add_bos: bool) -> Result<Vec<u8>, Error> {
    let model = Model::parse(model)?;
    model.check()?;
    let id = |id: i32| u32::try_from(id).ok().filter(|&id| (id as usize) < model.tokens.len());
    tokenizer_json_from_gguf(&GgufVocab {
        scores: Some(&model.scores),
        types: &model.types,
        add_space_prefix: model.dummy_prefix,
        bos: id(model.bos).filter(|_| add_bos),
        unk: id(model.unk),
        ..GgufVocab::new("llama", &model.tokens)
    })
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
    charsmap: bool,
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
            kind: 1,
            unk: 0,
            bos: 1,
            suffix: false,
            charsmap: false,
            dummy_prefix: true,
            collapse: true,
            escape: true,
        };
        let mut fields = Fields { bytes, at: 0 };
        while let Some(field) = fields.next()? {
            match field {
                (1, Value::Bytes(piece)) => m.piece(piece)?,
                (2, Value::Bytes(trainer)) => m.trainer(trainer)?,
                (3, Value::Bytes(normalizer)) => m.normalizer(normalizer)?,
                _ => {}
            }
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
                (2, Value::Bytes(charsmap)) => self.charsmap = !charsmap.is_empty(),
                (3, Value::Number(flag)) => self.dummy_prefix = flag != 0,
                (4, Value::Number(flag)) => self.collapse = flag != 0,
                (5, Value::Number(flag)) => self.escape = flag != 0,
                _ => {}
            }
        }
        Ok(())
    }

    /// Rejects models that encode text in a way that the result could not express.
    fn check(&self) -> Result<(), Error> {
        let unsupported = |what: &str| Err(error(format!("{what} is not supported")));
        match self.kind {
            BPE => {}
            1 => return unsupported("a Unigram model"),
            _ => return unsupported("a model of words or characters"),
        }
        if self.tokens.is_empty() {
            return Err(error("it has no pieces".into()));
        }
        if self.charsmap {
            return unsupported("a normalization of characters");
        }
        if self.collapse {
            return unsupported("the removal of extra blanks");
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

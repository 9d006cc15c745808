//! The models that turn pieces of text into ids.

use crate::Error;
use crate::bpe::{self, Bpe};
use crate::json::{Body, Head, Kind, ScoredBody, VocabBody};
use crate::unigram::{self, Unigram};
use crate::wire::Reader;
use crate::wordpiece::WordPiece;

/// A model of one kind.
pub(crate) enum Model {
    Bpe(Bpe),
    Unigram(Unigram),
    WordPiece(WordPiece),
}

/// Buffers of one encoding run.
#[derive(Default)]
pub(crate) struct Scratch {
    bpe: bpe::Scratch,
    unigram: unigram::Scratch,
}

impl Model {
    /// Builds the tables from a `tokenizer.json`.
    pub(crate) fn new(head: &Head, json: &[u8]) -> Result<Self, Error> {
        Ok(match head.kind() {
            Kind::Bpe => {
                let body: Body = serde_json::from_slice(json)?;
                Self::Bpe(Bpe::new(&head.model, &body)?)
            }
            Kind::Unigram => {
                let body: ScoredBody = serde_json::from_slice(json)?;
                Self::Unigram(Unigram::new(&head.model, &body.model.vocab)?)
            }
            Kind::WordPiece => {
                let body: VocabBody = serde_json::from_slice(json)?;
                Self::WordPiece(WordPiece::new(&head.model, body.model.vocab)?)
            }
        })
    }

    /// Writes the native form, which only BPE has; others are built from the JSON.
    pub(crate) fn write(&self, out: &mut Vec<u8>) {
        if let Self::Bpe(bpe) = self {
            bpe.write(out);
        }
    }

    /// Reads the output of [`Self::write`]; `None` for anything else.
    pub(crate) fn read(head: &Head, bytes: &mut Reader<'_>) -> Option<Self> {
        (head.kind() == Kind::Bpe).then(|| Bpe::read(bytes).map(Self::Bpe))?
    }

    pub(crate) fn max_id(&self) -> u32 {
        match self {
            Self::Bpe(model) => model.max_id(),
            Self::Unigram(model) => model.max_id(),
            Self::WordPiece(model) => model.max_id(),
        }
    }

    /// Appends the ids of one piece.
    pub(crate) fn encode(&self, piece: &str, scratch: &mut Scratch, out: &mut Vec<u32>) {
        match self {
            Self::Bpe(model) => model.encode(piece, &mut scratch.bpe, out),
            Self::Unigram(model) => model.encode(piece, &mut scratch.unigram, out),
            Self::WordPiece(model) => model.encode(piece, out),
        }
    }
}

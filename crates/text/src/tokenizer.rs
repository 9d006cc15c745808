//! Text to token ids.

use crate::Error;
use crate::added::{AddedTokens, Part, Policy, is_control};
use crate::json::Head;
use crate::model::{Model, Scratch};
use crate::split::Pieces;
use crate::wire::{Reader, put_u32s};
use crate::{normalize, split};

/// Magic of the native form.
const MAGIC: &[u8; 8] = b"NANOTOK\0";
/// Incremented with every change to the native form; older files are rebuilt from the JSON.
const NATIVE_VERSION: u32 = 1;

/// How strings that spell control tokens are treated.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Specials {
    /// As control tokens: for text from a template or another program.
    Parse,
    /// As ordinary text: for user input and documents.
    Plain,
}

/// A tokenizer: byte-pair encoding, or a Unigram or WordPiece model.
///
/// Ids equal those of Hugging Face `tokenizers` with `add_special_tokens=False` (and
/// `encode_special_tokens=True` for [`Specials::Plain`]). Immutable, so threads can share it.
pub struct Tokenizer {
    head: Head,
    normalize: Vec<normalize::Step>,
    split: Vec<split::Step>,
    raw: AddedTokens,        // matched before normalisation
    normalized: AddedTokens, // matched after it
    model: Model,
    prefix: Vec<u32>,
}

/// A part of the input: an added token, or normalised text for the model. The flag marks text at the start of
/// the input.
enum Segment<'a> {
    Token(u32),
    Span(&'a str, bool),
}

impl std::fmt::Debug for Tokenizer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Tokenizer").field("max_id", &self.max_id()).finish_non_exhaustive()
    }
}

impl Tokenizer {
    /// Builds the tokenizer from a Hugging Face `tokenizer.json`.
    ///
    /// # Errors
    /// [`Error::Json`] or [`Error::Tokenizer`] if the JSON is malformed, or its model, normalizer,
    /// pre-tokenizer or a pattern is not supported.
    pub fn from_json(json: &[u8]) -> Result<Self, Error> {
        let head = Head::parse(json)?;
        let model = Model::new(&head, json)?;
        Self::assemble(head, model)
    }

    /// Serialises to the form that [`Self::load`] reads fastest, tagged with `json_hash`, the hash of the
    /// JSON that this tokenizer was built from.
    ///
    /// The form is private to this crate: 8 bytes of magic, a version and the hash, then the small parts
    /// of the JSON and the sorted merge table. It is a cache; the JSON remains authoritative.
    pub fn to_native(&self, json_hash: &[u8; 32]) -> Vec<u8> {
        let head = serde_json::to_vec(&self.head).expect("plain structs serialise");
        let mut out = MAGIC.to_vec();
        put_u32s(&mut out, &[NATIVE_VERSION]);
        out.extend_from_slice(json_hash);
        put_u32s(&mut out, &[head.len() as u32]);
        out.extend_from_slice(&head);
        self.model.write(&mut out);
        out
    }

    /// Loads the native form if it matches this JSON and version; otherwise builds the tokenizer from
    /// the JSON.
    ///
    /// If the native form matches, the JSON is neither parsed nor hashed; the caller supplies its hash.
    ///
    /// # Errors
    /// Those of [`Self::from_json`]. A native form that is damaged or outdated is not an error.
    pub fn load(json: &[u8], json_hash: &[u8; 32], native: Option<&[u8]>) -> Result<Self, Error> {
        match native.and_then(|native| Self::from_native(native, json_hash)) {
            Some(tokenizer) => Ok(tokenizer),
            None => Self::from_json(json),
        }
    }

    fn from_native(native: &[u8], json_hash: &[u8; 32]) -> Option<Self> {
        let mut bytes = Reader(native);
        let magic = bytes.take(MAGIC.len())? == MAGIC && bytes.u32()? == NATIVE_VERSION;
        if !magic || bytes.take(32)? != json_hash {
            return None;
        }
        let len = bytes.u32()? as usize;
        let head = serde_json::from_slice(bytes.take(len)?).ok()?;
        let model = Model::read(&head, &mut bytes)?;
        Self::assemble(head, model).ok()
    }

    fn assemble(head: Head, model: Model) -> Result<Self, Error> {
        let mut normalize = Vec::new();
        head.normalizer.iter().try_for_each(|n| normalize::build(n, &mut normalize))?;
        let mut split = Vec::new();
        head.pre_tokenizer.iter().try_for_each(|p| split::build(p, &mut split))?;
        let (normalized, raw): (Vec<_>, Vec<_>) =
            head.added_tokens.iter().cloned().partition(|t| t.normalized);
        let raw = AddedTokens::new(raw.into_iter().map(|t| (t.content.clone(), t)));
        let normalized = AddedTokens::new(
            normalized
                .into_iter()
                .map(|t| (normalize::run(&normalize, &t.content, false).into_owned(), t)),
        );
        let prefix = head.post_processor.as_ref().map(|p| p.prefix()).unwrap_or_default();
        Ok(Self { head, normalize, split, raw, normalized, model, prefix })
    }

    /// The ids of `text`. Never adds a BOS or any other token that is not in the text.
    pub fn encode(&self, text: &str, specials: Specials) -> Vec<u32> {
        let policy = match specials {
            Specials::Parse => Policy::Parse,
            Specials::Plain => Policy::Plain,
        };
        self.encode_part(text, true, policy)
    }

    /// The ids of a text, which continues earlier text unless `from_start`.
    pub(crate) fn encode_part(&self, text: &str, from_start: bool, policy: Policy<'_>) -> Vec<u32> {
        let mut out = Vec::with_capacity(text.len() / 3);
        let mut scratch = Scratch::default();
        self.segments(text, from_start, policy, |segment| match segment {
            Segment::Token(id) => out.push(id),
            Segment::Span(span, at_start) => {
                self.encode_span(span, from_start && at_start, &mut scratch, &mut out);
            }
        });
        out
    }

    /// Extracts the added tokens from `text`, which continues earlier text unless `from_start`, and
    /// normalises the text between them.
    fn segments(
        &self,
        text: &str,
        from_start: bool,
        policy: Policy<'_>,
        mut sink: impl FnMut(Segment<'_>),
    ) {
        self.raw.split(text, 0, policy, |part| match part {
            Part::Token(id) => sink(Segment::Token(id)),
            Part::Text(range) => {
                let continues = range.start == 0 && !from_start;
                let span = normalize::run(&self.normalize, &text[range.clone()], continues);
                // Normalisation shifts offsets, so the span is protected as a whole.
                let policy = match policy {
                    _ if self.normalize.is_empty() => policy,
                    _ if policy.allows(range.clone()) => Policy::Parse,
                    _ => Policy::Plain,
                };
                self.normalized.split(&span, range.start, policy, |part| match part {
                    Part::Token(id) => sink(Segment::Token(id)),
                    Part::Text(inner) => {
                        let at_start = range.start + inner.start == 0;
                        sink(Segment::Span(&span[inner], at_start));
                    }
                });
            }
        });
    }

    fn encode_span(&self, text: &str, at_start: bool, scratch: &mut Scratch, out: &mut Vec<u32>) {
        let mut pieces = Pieces::new(text, at_start);
        self.split.iter().for_each(|step| pieces.apply(step));
        pieces.iter().for_each(|piece| self.model.encode(piece, scratch, out));
    }

    /// Ids to prepend to a raw prompt, usually none or a single BOS. Chat prompts get only what their
    /// template emits.
    pub fn prompt_prefix(&self) -> &[u32] {
        &self.prefix
    }

    /// The ids that the tokenizer's post-processor puts after a text. Generating models expect none after a prompt,
    /// but models for embeddings were trained with them.
    pub fn suffix(&self) -> Vec<u32> {
        self.head.post_processor.as_ref().map(|p| p.suffix()).unwrap_or_default()
    }

    /// Looks up the id of an added token, such as `<|im_end|>`, by its text.
    pub fn added_token(&self, text: &str) -> Option<u32> {
        self.head.added_tokens.iter().find(|t| t.content == text).map(|t| t.id)
    }

    /// The largest id that [`Self::encode`] can return; it must be below the model's vocabulary size.
    pub fn max_id(&self) -> u32 {
        let added = self.head.added_tokens.iter().map(|t| t.id);
        added.chain([self.model.max_id()]).max().unwrap_or(0)
    }

    /// The strings of control tokens, and of other tokens that only templates may write.
    pub(crate) fn specials(&self) -> impl Iterator<Item = &str> {
        let all = self.raw.iter().chain(self.normalized.iter());
        all.filter(|(_, token)| is_control(token)).map(|(text, _)| text)
    }

    /// The control tokens in `text`, in order.
    pub(crate) fn control_tokens(&self, text: &str) -> Vec<u32> {
        let mut found = Vec::new();
        self.segments(text, true, Policy::Parse, |segment| {
            if let Segment::Token(id) = segment {
                found.push(id);
            }
        });
        found.retain(|id| self.head.added_tokens.iter().any(|t| is_control(t) && t.id == *id));
        found
    }
}

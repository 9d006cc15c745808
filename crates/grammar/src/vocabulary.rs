//! A model's vocabulary as llguidance takes it.

use std::sync::Arc;

use llguidance::ParserFactory;
use llguidance::api::ParserLimits;
use llguidance::earley::SlicedBiasComputer;
use llguidance::toktrie::{
    ApproximateTokEnv, INVALID_TOKEN, InferenceCapabilities, TokEnv, TokRxInfo, TokTrie,
};
use nanoinfer_engine::Model;
use nanoinfer_text::{FirstBlank, Specials, Vocab};

use crate::Error;

/// Maximum length of a token in bytes, and maximum number of nodes of a trie, in `toktrie`.
const MAX_TOKEN: usize = 1000;
const MAX_NODES: usize = 1 << 22;

/// A vocabulary, prepared for parsing.
pub(crate) struct Vocabulary {
    model: Arc<Model>,
    pub factory: ParserFactory,
    /// The tokens as the first ones of an answer, if they then yield other bytes than elsewhere.
    pub first: Option<TokTrie>,
    /// Tokens that end an answer.
    pub ends: Vec<u32>,
}

impl Vocabulary {
    pub(crate) fn new(model: Arc<Model>, limits: &ParserLimits) -> Result<Self, Error> {
        let name = model.name().display().to_string();
        let fail = |what: String| Error::Vocabulary { model: name.clone(), what };
        let vocab = model.vocab().ok_or_else(|| fail("the model has no tokenizer".to_owned()))?;
        let n = u32::try_from(vocab.len()).map_err(|e| fail(e.to_string()))?;
        let mut ends: Vec<u32> = model.generation().eos.clone();
        ends.retain(|id| *id < n);
        let words = (0..n).map(|id| word(&vocab, &ends, id)).collect();
        let trie = trie(words, &ends).map_err(fail)?;
        let first = match vocab.first_blank() {
            FirstBlank::Keep => None,
            rule => {
                let words = (0..n).map(|id| first_word(&trie, rule, id)).collect();
                Some(self::trie(words, &ends).map_err(fail)?)
            }
        };
        let env: TokEnv = Arc::new(ApproximateTokEnv::new(trie));
        let slices = SlicedBiasComputer::general_slices();
        let factory = ParserFactory::new(&env, InferenceCapabilities::default(), &slices);
        let mut factory = factory.map_err(|e| fail(e.to_string()))?;
        *factory.quiet().limits_mut() = limits.clone();
        Ok(Self { model, factory, first, ends })
    }

    /// All tokens with their bytes.
    pub(crate) fn trie(&self) -> &TokTrie {
        self.factory.tok_env().tok_trie()
    }

    /// Tokens that together have these bytes, preferably those that the tokenizer would choose; empty if
    /// there are none.
    pub(crate) fn tokens(&self, bytes: &[u8]) -> Vec<u32> {
        if self.first.is_none()
            && let (Ok(text), Ok(tokenizer)) = (str::from_utf8(bytes), self.model.tokenizer())
        {
            let ids = tokenizer.encode(text, Specials::Plain);
            if has_bytes(self.trie(), &ids, bytes) {
                return ids;
            }
        }
        greedy(self.trie(), bytes)
    }
}

/// What a token adds to a text: nothing if it is absent; a name with a mark, which no text contains, if it is
/// a control token.
fn word(vocab: &Vocab<'_>, ends: &[u32], id: u32) -> Vec<u8> {
    let bytes = vocab.bytes(id);
    if vocab.is_absent(id) || bytes.is_empty() || bytes.len() > MAX_TOKEN {
        return Vec::new();
    }
    if vocab.is_special(id) || ends.contains(&id) {
        return [&[TokTrie::SPECIAL_TOKEN_MARKER], bytes].concat();
    }
    if bytes[0] == TokTrie::SPECIAL_TOKEN_MARKER { Vec::new() } else { bytes.to_vec() }
}

/// What a token adds at the beginning of a text: nothing if its bytes cannot be written with other tokens, as
/// which the parser is told about them.
fn first_word(trie: &TokTrie, rule: FirstBlank, id: u32) -> Vec<u8> {
    let bytes = trie.token(id);
    let stripped = stripped(rule, bytes);
    if stripped == bytes || !greedy(trie, &stripped).is_empty() { stripped } else { Vec::new() }
}

fn stripped(rule: FirstBlank, bytes: &[u8]) -> Vec<u8> {
    match rule {
        FirstBlank::Keep => bytes.to_vec(),
        FirstBlank::StripOne => bytes.strip_prefix(b" ").unwrap_or(bytes).to_vec(),
        FirstBlank::StripToken => bytes.iter().copied().filter(|b| *b != b' ').collect(),
    }
}

/// The longest token at each position, if these have all the bytes.
fn greedy(trie: &TokTrie, bytes: &[u8]) -> Vec<u32> {
    let ids = trie.greedy_tokenize(bytes);
    if has_bytes(trie, &ids, bytes) { ids } else { Vec::new() }
}

fn has_bytes(trie: &TokTrie, ids: &[u32], mut bytes: &[u8]) -> bool {
    let all = ids.iter().all(|id| {
        let token = trie.token(*id);
        let rest = bytes.strip_prefix(token).filter(|_| !token.is_empty());
        bytes = rest.unwrap_or(bytes);
        rest.is_some()
    });
    all && bytes.is_empty()
}

fn trie(words: Vec<Vec<u8>>, ends: &[u32]) -> Result<TokTrie, String> {
    let bytes: usize = words.iter().map(Vec::len).sum();
    if bytes >= MAX_NODES {
        return Err(format!("its vocabulary has {bytes} bytes, of at most {MAX_NODES}"));
    }
    let n = u32::try_from(words.len()).map_err(|e| e.to_string())?;
    let trie = TokTrie::from(&TokRxInfo::new(n, INVALID_TOKEN), &words);
    Ok(if ends.is_empty() { trie } else { trie.with_eos_tokens(ends) })
}

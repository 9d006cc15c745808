//! A served model, and its names.

use std::sync::{Arc, OnceLock};

use nanoinfer_engine::{Engine, KvType, Model, NUMERICS, Seams};
use nanoinfer_grammar::Grammars;
use nanoinfer_text::{AnswerFormat, Specials, TextStream};

use crate::inside::Inside;
use crate::problem::{Kind, Problem};
use crate::stream::Link;

/// A model with the connection to its engine.
pub(crate) struct ServedModel {
    pub(crate) name: String,
    pub(crate) model: Arc<Model>,
    pub(crate) seams: Seams,
    pub(crate) grammars: Grammars,
    pub(crate) format: OnceLock<AnswerFormat>,
    pub(crate) link: Arc<Link>,
    pub(crate) inside: Arc<Inside>,
    /// Identifies what determines the tokens of an answer: the model, the arithmetic and the cache's type.
    pub(crate) fingerprint: String,
    /// Maximum number of tokens in a context.
    pub(crate) ctx: usize,
    /// Number of prompts of a request to submit at once, see [`super::read`].
    pub(crate) at_once: usize,
    /// Bytes that it takes while it is loaded.
    pub(crate) memory: u64,
    /// When the server was started, in seconds since 1970.
    pub(crate) created: u64,
}

impl ServedModel {
    /// The text of a token, and its bytes.
    pub(crate) fn token(&self, id: u32) -> (String, &[u8]) {
        let bytes = self.model.vocab().map(|vocab| vocab.bytes(id)).unwrap_or_default();
        (String::from_utf8_lossy(bytes).into_owned(), bytes)
    }

    /// The text of tokens, with the names of control tokens.
    pub(crate) fn decode(&self, ids: &[u32]) -> String {
        let Some(vocab) = self.model.vocab() else { return String::new() };
        let mut stream = TextStream::new(&vocab.table(), false);
        let mut text = String::new();
        ids.iter().for_each(|&id| text.push_str(stream.push(&vocab, id)));
        text + stream.finish()
    }

    /// How the model writes reasoning and calls of tools.
    pub(crate) fn format(&self) -> &AnswerFormat {
        self.format.get_or_init(|| self.model.answer_format())
    }

    /// Whether the name of the model or of its source contains a word, as those of models for embeddings or for
    /// ranking do; nothing else in a model tells what it was made for.
    pub(crate) fn is_named(&self, word: &str) -> bool {
        let source = self.model.file().source().unwrap_or_default();
        [&self.name, &source].iter().any(|name| name.to_ascii_lowercase().contains(word))
    }

    /// Whether the engine is loaded.
    pub(crate) fn is_loaded(&self) -> bool {
        self.link.metrics.loaded.get() > 0
    }

    /// Whether a token ends answers.
    pub(crate) fn ends(&self, id: u32) -> bool {
        self.model.generation().eos.contains(&id)
    }

    /// Tokenizes a text.
    pub(crate) fn encode(
        &self,
        text: &str,
        bos: bool,
        specials: bool,
    ) -> Result<Vec<u32>, Problem> {
        let specials = if specials { Specials::Parse } else { Specials::Plain };
        let ids = if bos {
            self.model.encode_with(text, specials)
        } else {
            self.model.tokenizer().map(|tokenizer| tokenizer.encode(text, specials))
        };
        ids.map_err(|e| Problem::engine(&e))
    }
}

/// A hash of what determines the tokens of an answer.
pub(crate) fn fingerprint(engine: &Engine) -> String {
    let mut hasher = blake3::Hasher::new();
    hasher.update(&engine.model().file().header().content_id);
    hasher.update(&NUMERICS.to_le_bytes());
    let kv: &[u8] = match engine.kv() {
        KvType::Q4 => b"q4",
        KvType::Q8 => b"q8",
        KvType::F16 => b"f16",
        KvType::F32 => b"f32",
    };
    hasher.update(kv);
    hasher.update(&engine.rope_variant().to_le_bytes());
    format!("fp_{}", &hasher.finalize().to_hex()[..16])
}

/// The models of a server. The first is the default.
pub(crate) struct Models(pub(crate) Vec<Arc<ServedModel>>);

impl Models {
    /// The model with this name; the default without one.
    pub(crate) fn find(&self, name: Option<&str>) -> Result<&Arc<ServedModel>, Problem> {
        let Some(name) = name.filter(|name| !name.is_empty()) else { return Ok(&self.0[0]) };
        let named = |name: &str| self.0.iter().find(|m| m.name == name);
        // Ollama's clients add a tag.
        let found = named(name).or_else(|| named(name.strip_suffix(":latest")?));
        let default = || (name == "default").then_some(&self.0[0]);
        found.or_else(default).ok_or_else(|| {
            let names: Vec<&str> = self.0.iter().map(|m| m.name.as_str()).collect();
            let message = format!("the model {name:?} does not exist; use {}", names.join(" or "));
            Problem {
                param: Some("model".into()),
                ..Problem::new(Kind::NotFound, message).code("model_not_found")
            }
        })
    }
}

//! Grammars for a model.

use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::thread;

use llguidance::api::ParserLimits;
use nanoinfer_engine::{Constraint, Model};

use crate::cache::Cache;
use crate::compiled::Compiled;
use crate::following::Following;
use crate::place::{Place, Reasoning};
use crate::vocabulary::Vocabulary;
use crate::waiting::Waiting;
use crate::worker::Worker;
use crate::{Error, Source, levels};

/// What grammars may cost.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Options {
    /// Maximum total size of the compiled grammars that are kept, in bytes.
    pub cache_bytes: usize,
    /// Maximum number of symbols in a grammar.
    pub symbols: usize,
    /// Maximum work to compile the regular expressions of a grammar; 50,000 take about a millisecond.
    pub compile_fuel: u64,
    /// Maximum work to find the tokens that may come next; 14,000 take about a millisecond.
    pub step_fuel: u64,
    /// Maximum number of states that the lexer of an answer may have, of one to two kilobytes each.
    pub lexer_states: usize,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            cache_bytes: 32 << 20,
            symbols: 500_000,
            compile_fuel: 2_000_000,
            step_fuel: 400_000,
            lexer_states: 20_000,
        }
    }
}

/// Compiles grammars for a model. Clones share the vocabulary and the compiled grammars; all methods can be
/// called from any thread.
///
/// Preparing a vocabulary takes a few hundred milliseconds and tens of megabytes, so it happens when the
/// first grammar is compiled, or in the background after [`Self::prepare`].
#[derive(Clone)]
pub struct Grammars {
    shared: Arc<Shared>,
}

struct Shared {
    model: Arc<Model>,
    options: Options,
    vocabulary: OnceLock<Result<Arc<Vocabulary>, Error>>,
    compiled: Mutex<Cache<Compiled>>,
    compiler: Worker,
}

/// A compiled grammar.
#[derive(Clone)]
pub struct Grammar(Arc<Compiled>);

impl Grammars {
    /// For a model, with the default options.
    pub fn new(model: Arc<Model>) -> Self {
        Self::with_options(model, Options::default())
    }

    /// For a model. Does no work yet.
    pub fn with_options(model: Arc<Model>, options: Options) -> Self {
        let compiled = Mutex::new(Cache::new(options.cache_bytes));
        let (vocabulary, compiler) = (OnceLock::new(), Worker::default());
        Self { shared: Arc::new(Shared { model, options, vocabulary, compiled, compiler }) }
    }

    /// Prepares the vocabulary on a thread of its own. Whoever needs it meanwhile waits for it.
    pub fn prepare(&self) {
        let shared = Arc::clone(&self.shared);
        // Without a thread, the first grammar is compiled later.
        let _ = thread::Builder::new().name("vocabulary".to_owned()).spawn(move || {
            let _ = shared.vocabulary();
        });
    }

    /// Compiles a grammar, or returns one that was compiled before. Takes milliseconds, after a few hundred
    /// for the vocabulary. Grammars are compiled one after the other, on a thread of their own.
    ///
    /// # Errors
    /// The source has an error, cannot be enforced in full, allows no text or exceeds the limits; or the
    /// model has no usable vocabulary.
    pub fn compile(&self, source: &Source) -> Result<Grammar, Error> {
        let key = source.key();
        if let Some(known) = self.shared.cache().get(&key) {
            return Ok(Grammar(known));
        }
        let top = source.top()?;
        levels::check(&top)?;
        let vocabulary = self.shared.vocabulary()?;
        let (shared, source) = (Arc::clone(&self.shared), source.clone());
        let work = move || {
            // Whoever wanted the same may have been before.
            if let Some(known) = shared.cache().get(&key) {
                return Ok(known);
            }
            let compiled = Arc::new(Compiled::new(&vocabulary, &source, top)?);
            shared.cache().insert(key, Arc::clone(&compiled), compiled.bytes());
            Ok(compiled)
        };
        let compiled = self.shared.compiler.run(work).map_err(|e| Error::Limit {
            place: "the grammar".to_owned(),
            what: format!("cannot start a thread: {e}"),
        })?;
        compiled.unwrap_or_else(|| Err(broken())).map(Grammar)
    }

    /// Estimated size of the compiled grammars that are kept, in bytes.
    pub fn cached_bytes(&self) -> usize {
        self.shared.cache().bytes()
    }
}

impl Shared {
    fn cache(&self) -> MutexGuard<'_, Cache<Compiled>> {
        self.compiled.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn vocabulary(&self) -> Result<Arc<Vocabulary>, Error> {
        let prepare = || {
            let o = self.options;
            let limits = ParserLimits {
                initial_lexer_fuel: o.compile_fuel,
                step_lexer_fuel: o.step_fuel,
                max_lexer_states: o.lexer_states,
                max_grammar_size: o.symbols,
                verbose_errors: false,
                ..ParserLimits::default()
            };
            Vocabulary::new(Arc::clone(&self.model), &limits).map(Arc::new)
        };
        let broken = || Error::Vocabulary {
            model: self.model.name().display().to_string(),
            what: "its vocabulary cannot be prepared".to_owned(),
        };
        let prepare = || catch_unwind(AssertUnwindSafe(prepare)).unwrap_or_else(|_| Err(broken()));
        self.vocabulary.get_or_init(prepare).clone()
    }
}

fn broken() -> Error {
    Error::Limit { place: "the grammar".to_owned(), what: "its compilation failed".to_owned() }
}

impl Grammar {
    /// A constraint for one answer, which is a new text if `answer_follows`, as in a chat, or else continues
    /// the prompt: some tokenizers drop a space at the beginning of a text.
    pub fn constraint(&self, answer_follows: bool) -> Box<dyn Constraint> {
        Box::new(Following::new(Arc::clone(&self.0), answer_follows))
    }

    /// A constraint for an answer that may begin with anything, up to and including the token `marker`: for
    /// example, the end of the model's reasoning. The rest of the answer follows the grammar.
    pub fn constraint_after(&self, marker: u32) -> Box<dyn Constraint> {
        self.constraint_at(Place { reasoning: Reasoning::Begun { end: marker }, marker: None })
    }

    /// A constraint for a part of an answer that is a new text, as in a chat.
    pub fn constraint_at(&self, place: Place) -> Box<dyn Constraint> {
        let begins = !matches!(place.reasoning, Reasoning::Begun { .. }) && place.marker.is_none();
        let following = Following::new(Arc::clone(&self.0), begins);
        Box::new(Waiting::new(place, following))
    }

    /// Whether a text, in bytes, is complete according to the grammar. For tests and tools: tokens are not
    /// taken into account.
    pub fn accepts(&self, text: &[u8]) -> bool {
        let check = || {
            let mut matcher = self.0.matcher.deep_clone();
            let tokens = self.0.vocabulary.trie().greedy_tokenize(text);
            let all = self.0.vocabulary.trie().decode_raw(&tokens) == text;
            all && matcher.consume_tokens(&tokens).is_ok()
                && matcher.is_accepting().unwrap_or(false)
        };
        catch_unwind(AssertUnwindSafe(check)).unwrap_or(false)
    }
}

impl fmt::Debug for Grammars {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Grammars")
            .field("model", &self.shared.model)
            .field("options", &self.shared.options)
            .finish_non_exhaustive()
    }
}

impl fmt::Debug for Grammar {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Grammar").finish_non_exhaustive()
    }
}

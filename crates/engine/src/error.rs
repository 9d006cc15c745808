use std::path::PathBuf;

/// Why a model could not be opened or run.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The file is missing, damaged or too new.
    #[error(transparent)]
    Format(#[from] nanoinfer_format::Error),
    /// The file is sound but not a model this engine can run.
    #[error("{}: {what}; convert the model again", path.display())]
    Model {
        /// File concerned.
        path: PathBuf,
        /// Tensor, what it is and what was expected.
        what: String,
    },
    /// The tokenizer or chat template in the file cannot be used.
    #[error("{}: {source}", path.display())]
    Text {
        /// File concerned.
        path: PathBuf,
        /// The reason.
        source: nanoinfer_text::Error,
    },
    /// The model was packed without a tokenizer or chat template.
    #[error("{}: the model has no {what}", path.display())]
    Missing {
        /// File concerned.
        path: PathBuf,
        /// What is absent, and what to use instead.
        what: &'static str,
    },
    /// Buffers for this context do not fit into memory.
    #[error(
        "a context of {ctx} positions needs {needed_mb} MB, {available_mb} MB are available; use a smaller --ctx"
    )]
    Memory {
        /// Context asked for.
        ctx: usize,
        /// Megabytes of cache and scratch.
        needed_mb: u64,
        /// Megabytes the system says it can give.
        available_mb: u64,
    },
    /// The instruction set asked for is not one of this CPU's.
    #[error("this CPU does not have {isa}; leave the choice to the engine")]
    Isa {
        /// Its name.
        isa: &'static str,
    },
    /// A worker thread could not be started.
    #[error("cannot start {workers} threads: {source}; use fewer --threads")]
    Threads {
        /// Threads asked for.
        workers: usize,
        /// The system's reason.
        source: std::io::Error,
    },
    /// A token id outside the vocabulary.
    #[error("token {token} is not in the vocabulary of {vocab} tokens")]
    Token {
        /// The id.
        token: u32,
        /// Ids there are.
        vocab: u32,
    },
    /// The prompt does not fit.
    #[error(
        "the prompt has {tokens} tokens, the context holds {ctx}; use a larger --ctx or a shorter prompt"
    )]
    Context {
        /// Tokens of the prompt.
        tokens: usize,
        /// Positions there are.
        ctx: usize,
    },
    /// The cache is to be smaller than can be of use: a block of positions, or what a sequence needs
    /// to slide.
    #[error("kv_bytes is {given}, too few for this model and context; give at least {least}")]
    KvBytes {
        /// Bytes asked for.
        given: u64,
        /// The smallest that can be of use.
        least: u64,
    },
    /// A sequence that was closed, or that another engine opened.
    #[error(
        "the sequence is not open in this engine: it was closed, or another engine's; open one"
    )]
    Sequence,
    /// More than a pass can take.
    #[error(
        "a pass of {tokens} tokens, {logits} of them with logits; this engine takes {max_tokens}, \
         {max_logits} of them with logits: divide the batch"
    )]
    Batch {
        /// Tokens of the batch.
        tokens: usize,
        /// Those whose logits are wanted.
        logits: usize,
        /// Most tokens of a pass.
        max_tokens: usize,
        /// Most of them whose logits can be wanted.
        max_logits: usize,
    },
    /// Logits of a pass that was followed by another.
    #[error("the logits of this pass are gone: read them, or draw, before the next pass begins")]
    LogitsGone,
    /// Logits that no step of the pass wanted.
    #[error("there is no row {index} of logits: the pass has {rows}")]
    LogitsRow {
        /// The row.
        index: usize,
        /// Rows of the pass.
        rows: usize,
    },
    /// A worker thread panicked, in this call or an earlier one: a fault of this program.
    #[error(
        "a worker thread panicked: {message}; this engine cannot be used any more, make a new one"
    )]
    Panicked {
        /// The panic's message.
        message: String,
    },
    /// No free sequence or cache block.
    #[error("the cache is full: {what}; close a sequence, or make the engine with room for more")]
    CacheFull {
        /// What ran out.
        what: &'static str,
    },
    /// A model that cannot draft for this one.
    #[error("{}: it cannot draft for this model: {what}; use one of the same family", path.display())]
    Draft {
        /// File concerned.
        path: PathBuf,
        /// What does not fit.
        what: String,
    },
    /// Nothing to continue from.
    #[error("there is no prompt: give at least one token")]
    EmptyPrompt,
    /// The pass was cancelled; the sequences are as before it.
    #[error("cancelled")]
    Cancelled,
    /// The model does not compute what it did when it was packed.
    #[error(
        "{}: the self-check failed: {what}; the file is damaged, or this computer's memory is, or \
         this program has a fault", path.display()
    )]
    SelfCheck {
        /// File concerned.
        path: PathBuf,
        /// What differs.
        what: String,
    },
    /// The model produced NaN or infinity.
    #[error("{}: the model's output is not finite; `nanoinfer verify` tells whether the file is damaged", path.display())]
    NotFinite {
        /// File concerned.
        path: PathBuf,
    },
}

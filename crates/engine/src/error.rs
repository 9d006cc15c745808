use std::path::PathBuf;

/// Why a model could not be opened or run.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The file is missing, damaged or too new.
    #[error(transparent)]
    Format(#[from] nanoinfer_format::Error),
    /// The file is intact but not a model that this engine can run.
    #[error("{}: {what}; convert the model again", path.display())]
    Model {
        /// Path of the model file.
        path: PathBuf,
        /// The mismatch: the actual and the expected property.
        what: String,
    },
    /// The tokenizer or chat template in the file cannot be used.
    #[error("{}: {source}", path.display())]
    Text {
        /// Path of the model file.
        path: PathBuf,
        /// The reason.
        source: nanoinfer_text::Error,
    },
    /// The model was packed without a tokenizer.
    #[error("{}: the model has no tokenizer; use token ids", path.display())]
    NoTokenizer {
        /// Path of the model file.
        path: PathBuf,
    },
    /// The model was packed without a chat template.
    #[error("{}: the model has no chat template; use a plain-text prompt", path.display())]
    NoChatTemplate {
        /// Path of the model file.
        path: PathBuf,
    },
    /// The model has no tokens for filling in the middle of a text.
    #[error(
        "{}: the model cannot fill in the middle of a text: its vocabulary has no such tokens; use a \
         model for code completion", path.display()
    )]
    NoInfill {
        /// Path of the model file, or its name.
        path: PathBuf,
    },
    /// The buffers for this context do not fit in memory.
    #[error(
        "a context of {ctx} positions needs {needed_mb} MB, but only {available_mb} MB are available; \
         use a smaller context"
    )]
    Memory {
        /// The requested context, in positions.
        ctx: usize,
        /// Megabytes of cache and scratch.
        needed_mb: u64,
        /// Megabytes available according to the operating system.
        available_mb: u64,
    },
    /// The CPU lacks the requested instruction set.
    #[error("this CPU does not support {isa}; let the engine choose the instruction set")]
    Isa {
        /// The instruction set's name.
        isa: &'static str,
    },
    /// A worker thread could not be started.
    #[error("cannot start {workers} threads: {source}; use fewer threads")]
    Threads {
        /// The requested number of threads.
        workers: usize,
        /// The operating system's reason.
        source: std::io::Error,
    },
    /// The constraint of an answer cannot continue.
    #[error("the answer cannot continue as its constraint requires: {what}")]
    Constraint {
        /// The reason.
        what: String,
    },
    /// A token id outside the vocabulary.
    #[error("token {token} is not in the vocabulary of {vocab} tokens")]
    Token {
        /// The id.
        token: u32,
        /// Size of the vocabulary.
        vocab: u32,
    },
    /// More tokens than the context holds.
    #[error(
        "the prompt has {tokens} tokens, but the context holds {ctx}; use a larger context or a \
         shorter prompt"
    )]
    Context {
        /// Tokens in the prompt.
        tokens: usize,
        /// Capacity of the context, in positions.
        ctx: usize,
    },
    /// A sequence's prompt does not fit into its context.
    #[error(
        "the prompt has {tokens} tokens, but the context holds {ctx}, and the model was trained for \
         {trained}; use a shorter prompt or, up to {trained}, a larger context"
    )]
    Prompt {
        /// Tokens in the prompt.
        tokens: usize,
        /// Maximum number of tokens in the context.
        ctx: usize,
        /// Longest context that the model was trained for.
        trained: usize,
    },
    /// The requested cache cannot hold a single block, or, with a sliding context, one sequence.
    #[error("kv_bytes = {given} is too small for this model and context; use at least {least}")]
    KvBytes {
        /// The requested size, in bytes.
        given: u64,
        /// The smallest usable size, in bytes.
        least: u64,
    },
    /// A sequence that was closed or belongs to another engine.
    #[error("the sequence is not open in this engine: it was closed or belongs to another engine")]
    Sequence,
    /// A batch too large for one pass.
    #[error(
        "the batch has {tokens} tokens, {logits} of them with logits, but a pass is limited to \
         {max_tokens} and {max_logits}; split the batch"
    )]
    Batch {
        /// Tokens in the batch.
        tokens: usize,
        /// Tokens that request logits.
        logits: usize,
        /// Maximum number of tokens in a pass.
        max_tokens: usize,
        /// Maximum number of tokens in a pass that can request logits.
        max_logits: usize,
    },
    /// The logits of a pass were requested after a later pass had begun.
    #[error(
        "the logits of this pass are no longer available; read or draw from them before the next pass begins"
    )]
    LogitsGone,
    /// A row of logits that the pass did not compute.
    #[error("logits row {index} does not exist: the pass has only {rows}")]
    LogitsRow {
        /// The requested row.
        index: usize,
        /// Number of rows in the pass.
        rows: usize,
    },
    /// A token that the pass did not have.
    #[error("hidden state {index} does not exist: the pass has only {rows} tokens")]
    HiddenRow {
        /// The requested token.
        index: usize,
        /// Number of tokens in the pass.
        rows: usize,
    },
    /// A worker thread panicked, in this call or an earlier one: a bug in this program.
    #[error("a worker thread panicked: {message}; this engine is unusable, create a new one")]
    Panicked {
        /// The panic's message.
        message: String,
    },
    /// No free sequence or cache block.
    #[error("the cache is full: {what}; close a sequence or use a larger cache")]
    CacheFull {
        /// The exhausted resource.
        what: &'static str,
    },
    /// Too many requests are waiting.
    #[error("the queue is full: {waiting} requests are waiting; try again later")]
    QueueFull {
        /// Number of waiting requests.
        waiting: usize,
    },
    /// Too many requests of one key are waiting.
    #[error(
        "the queue of this key is full: {waiting} of its requests are waiting; try again later"
    )]
    KeyQueueFull {
        /// Number of its waiting requests.
        waiting: usize,
    },
    /// A model that cannot draft for the target model.
    #[error("{}: cannot draft for this model: {what}; use a model of the same family", path.display())]
    Draft {
        /// Path of the draft model file.
        path: PathBuf,
        /// The mismatch.
        what: String,
    },
    /// An empty prompt.
    #[error("the prompt is empty; it needs at least one token")]
    EmptyPrompt,
    /// The pass was cancelled; its sequences are unchanged.
    #[error("cancelled")]
    Cancelled,
    /// The model no longer reproduces the results recorded when it was packed.
    #[error(
        "{}: the self-check failed: {what}; the file or this computer's memory is damaged, or this \
         program has a bug", path.display()
    )]
    SelfCheck {
        /// Path of the model file.
        path: PathBuf,
        /// The first difference.
        what: String,
    },
    /// The model produced NaN or infinity.
    #[error("{}: the model's output is not finite; the file may be damaged", path.display())]
    NotFinite {
        /// Path of the model file.
        path: PathBuf,
    },
}

//! Requests, and what a batch knows about each.

use nanoinfer_kernels::BLOCK;
use nanoinfer_text::ChatText;

use crate::{Canceller, Constraint, GenerateOptions, Namespace, PromptOutput, Sequence};

/// Tokens of an answer for which room in the cache is set aside at admission. Longer answers take blocks
/// as they grow, and can be preempted.
const SET_ASIDE: usize = 256;

/// Identifies a request of a [`crate::Batch`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RequestId(pub(super) u64);

/// How urgent a request is. More urgent requests are admitted first and can preempt less urgent ones.
/// A class that gets no time becomes more urgent, so that nothing waits forever.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Class {
    /// Somebody waits for the first token.
    Interactive,
    /// The default.
    #[default]
    Normal,
    /// Runs in the time that others leave.
    Background,
}

/// A prompt to answer.
#[derive(Clone, Debug, Default)]
pub struct Request {
    /// The prompt's tokens.
    pub prompt: Vec<u32>,
    /// Whether the answer is a new text, as in a chat, rather than the continuation of the prompt.
    pub answer_follows: bool,
    /// The conversation from which the prompt was tokenized, see [`crate::Seams`].
    pub chat: Option<ChatText>,
    /// What to determine of the prompt besides, see [`crate::Event::Prompt`].
    pub output: Option<PromptOutput>,
    /// How to answer.
    pub options: GenerateOptions,
    /// Restricts the tokens of the answer.
    pub constraint: Option<Box<dyn Constraint>>,
    /// How urgent it is.
    pub class: Class,
    /// Whom to charge for the time that the request takes: requests with different keys share the engine
    /// fairly.
    pub key: u64,
    /// Whose contexts it can reuse, besides common ones, and whose can reuse its own.
    pub namespace: Namespace,
}

impl Class {
    pub(super) const COUNT: usize = 3;
}

impl Request {
    /// Maximum number of tokens in the context, given its capacity.
    pub(super) fn tokens(&self, limit: usize) -> usize {
        let answer = self.options.max_tokens.unwrap_or(limit);
        self.prompt.len().saturating_add(answer).min(limit)
    }
}

/// A request that waits for admission.
#[allow(clippy::large_enum_variant)] // boxing would allocate in the middle of a step
pub(super) enum Work {
    New(Request),
    /// Begun, but preempted.
    Parked(Sequence),
}

impl Work {
    /// The tokens to process before the next one can be drawn.
    pub(super) fn tokens(&self) -> &[u32] {
        match self {
            Self::New(request) => &request.prompt,
            Self::Parked(sequence) => sequence.tokens(),
        }
    }

    /// Those of the tokens that need not be computed if they are in the cache: at most all but the last.
    pub(super) fn reusable(&self) -> &[u32] {
        let n = match self {
            Self::New(Request { prompt, output, .. }) => {
                let last = prompt.len().saturating_sub(1);
                output.as_ref().map_or(last, |output| output.reusable(prompt.len()).min(last))
            }
            Self::Parked(sequence) => sequence.reusable(),
        };
        &self.tokens()[..n]
    }

    /// Those to look for in a store, whose whole blocks may include the last one.
    pub(super) fn recallable(&self) -> &[u32] {
        let (all, reusable) = (self.tokens(), self.reusable());
        if reusable.len() + 1 == all.len() { all } else { reusable }
    }

    /// Number of blocks that the context will take, including a part of the answer.
    pub(super) fn blocks(&self, limit: usize) -> usize {
        let left = match self {
            Self::New(request) => request.options.max_tokens.unwrap_or(limit),
            Self::Parked(sequence) => sequence.tokens_left(),
        };
        (self.tokens().len() + left.min(SET_ASIDE)).min(limit).div_ceil(BLOCK)
    }
}

/// The scheduler's view of a request, whether it waits or runs.
pub(super) struct Job {
    pub id: RequestId,
    pub class: Class,
    /// Its class, or a more urgent one if its class had no time for long.
    pub rank: i64,
    pub key: u64,
    pub namespace: Namespace,
    pub canceller: Canceller,
    pub chat: Option<ChatText>,
    /// Whether it is left out of passes.
    pub paused: bool,
    /// Whether the disk was asked for its prompt.
    pub recalled: bool,
    /// Number of blocks for which it was admitted.
    pub blocks: usize,
    /// Number of successive passes in which its prompt made no progress.
    pub starved: u32,
    /// A request whose prompt begins with the same tokens and is being processed, and their number.
    pub leader: Option<(RequestId, usize)>,
    /// Rows and attended positions in the pass being planned.
    pub rows: usize,
    /// Length of its draft in that pass, and the chance that each token of it is accepted.
    pub draft: usize,
    pub chance: f64,
    pub positions: f64,
}

impl Job {
    pub(super) fn new(id: RequestId, class: Class, key: u64, namespace: Namespace) -> Self {
        Self {
            id,
            class,
            rank: class as i64,
            key,
            namespace,
            canceller: Canceller::default(),
            chat: None,
            paused: false,
            recalled: false,
            blocks: 0,
            starved: 0,
            leader: None,
            rows: 0,
            draft: 0,
            chance: 0.0,
            positions: 0.0,
        }
    }
}

//! What is wrong with a request or its answer. Dialects render it in their own form.

use nanoinfer_engine::Error;

/// The kind of a problem, which determines the HTTP status.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// The request is wrong.
    Invalid,
    /// It needs a key.
    Unauthorized,
    /// Its sender may not send it.
    Forbidden,
    /// What it names does not exist.
    NotFound,
    /// The wrong method.
    Method,
    /// The client is too slow.
    TimedOut,
    /// It contradicts the state of the server.
    Conflict,
    /// It is too large.
    TooLarge,
    /// The wrong media type.
    MediaType,
    /// Too many requests wait.
    Busy,
    /// The engine has failed, or there is a bug.
    Internal,
    /// The server is ending, or cannot load the model.
    Unavailable,
    /// The time for the answer was over before it began.
    Deadline,
}

impl Kind {
    /// The HTTP status.
    pub fn status(self) -> u16 {
        match self {
            Self::Invalid => 400,
            Self::Unauthorized => 401,
            Self::Forbidden => 403,
            Self::NotFound => 404,
            Self::Method => 405,
            Self::TimedOut => 408,
            Self::Conflict => 409,
            Self::TooLarge => 413,
            Self::MediaType => 415,
            Self::Busy => 429,
            Self::Internal => 500,
            Self::Unavailable => 503,
            Self::Deadline => 504,
        }
    }
}

/// A problem, in words for the client's developer.
#[derive(Clone, Debug, thiserror::Error)]
#[error("{message}")]
pub struct Problem {
    /// What kind of problem.
    pub kind: Kind,
    /// A sentence.
    pub message: String,
    /// The field of the request.
    pub param: Option<String>,
    /// A name for programs.
    pub code: Option<&'static str>,
    /// Further fields.
    pub numbers: Vec<(&'static str, u64)>,
    /// Seconds after which another attempt is worthwhile.
    pub retry_after: Option<u64>,
}

impl Problem {
    pub(crate) fn new(kind: Kind, message: impl Into<String>) -> Self {
        let message = message.into();
        Self { kind, message, param: None, code: None, numbers: Vec::new(), retry_after: None }
    }

    /// A field of the request has an invalid value.
    pub(crate) fn field(param: impl Into<String>, what: impl AsRef<str>) -> Self {
        let param = param.into();
        let message = format!("{param}: {}", what.as_ref());
        Self { param: Some(param), ..Self::new(Kind::Invalid, message) }
    }

    pub(crate) fn code(self, code: &'static str) -> Self {
        Self { code: Some(code), ..self }
    }

    pub(crate) fn retry_after(self, seconds: u64) -> Self {
        Self { retry_after: Some(seconds), ..self }
    }

    /// More tokens than the context holds. The sentence and the names of the fields are those that clients
    /// look for.
    pub(crate) fn context(tokens: usize, ctx: usize) -> Self {
        let message = format!(
            "This model's maximum context length is {ctx} tokens. However, your request has {tokens} \
             tokens. Please reduce its length."
        );
        let numbers = vec![("n_prompt_tokens", tokens as u64), ("n_ctx", ctx as u64)];
        Self { numbers, ..Self::new(Kind::Invalid, message).code("context_length_exceeded") }
    }

    pub(crate) fn draining() -> Self {
        Self::new(Kind::Unavailable, "the server is shutting down; send the request to another one")
            .code("shutting_down")
            .retry_after(5)
    }

    pub(crate) fn engine_gone() -> Self {
        Self::new(Kind::Internal, "the engine has failed; the server must be restarted")
            .code("engine_failed")
    }

    /// A schema or grammar in a field of the request that cannot be enforced.
    pub(crate) fn grammar(field: &str, error: impl ToString) -> Self {
        let what = error.to_string();
        // Errors about the request's members begin with the field already.
        let what = what
            .strip_prefix(field)
            .map_or(what.as_str(), |rest| rest.trim_start_matches([',', ':', ' ']));
        Self::field(field, what)
    }

    /// An error of the engine that concerns this request.
    pub(crate) fn engine(error: &Error) -> Self {
        match error {
            Error::Prompt { tokens, ctx, .. } | Error::Context { tokens, ctx } => {
                Self::context(*tokens, *ctx)
            }
            Error::QueueFull { .. } | Error::KeyQueueFull { .. } => {
                Self::new(Kind::Busy, error.to_string()).code("queue_full")
            }
            Error::Constraint { .. } => {
                Self::new(Kind::Invalid, error.to_string()).code("constraint_failed")
            }
            Error::EmptyPrompt
            | Error::Token { .. }
            | Error::Text { .. }
            | Error::NoTokenizer { .. }
            | Error::NoChatTemplate { .. }
            | Error::NoInfill { .. } => Self::new(Kind::Invalid, error.to_string()),
            _ => Self::new(Kind::Internal, error.to_string()),
        }
    }
}

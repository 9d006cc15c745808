//! Problems in the form of each API.

use serde_json::{Value, json};

use crate::problem::{Kind, Problem};

/// The form of an API's errors.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Form {
    OpenAi,
    Anthropic,
    Ollama,
}

impl Form {
    /// The form that the clients of a route expect.
    pub(crate) fn of(path: &str) -> Self {
        match path {
            _ if path.starts_with("/v1/messages") => Self::Anthropic,
            _ if path.starts_with("/api/") => Self::Ollama,
            _ => Self::OpenAi,
        }
    }

    pub(crate) fn body(self, problem: &Problem) -> Value {
        match self {
            Self::OpenAi => openai(problem),
            Self::Anthropic => anthropic(problem),
            Self::Ollama => json!({"error": problem.message}),
        }
    }
}

fn openai(problem: &Problem) -> Value {
    let kind = match problem.kind {
        Kind::Unauthorized => "authentication_error",
        Kind::Forbidden => "permission_error",
        Kind::NotFound => "not_found_error",
        Kind::Busy => "rate_limit_error",
        Kind::Internal | Kind::Unavailable | Kind::Deadline => "server_error",
        _ => "invalid_request_error",
    };
    let mut error = json!({
        "message": problem.message,
        "type": kind,
        "param": problem.param,
        "code": problem.code,
    });
    for &(name, number) in &problem.numbers {
        error[name] = number.into();
    }
    json!({"error": error})
}

fn anthropic(problem: &Problem) -> Value {
    let kind = match problem.kind {
        Kind::Unauthorized => "authentication_error",
        Kind::Forbidden => "permission_error",
        Kind::NotFound => "not_found_error",
        Kind::TooLarge => "request_too_large",
        Kind::Busy => "rate_limit_error",
        Kind::Unavailable => "overloaded_error",
        Kind::Deadline | Kind::TimedOut => "timeout_error",
        Kind::Internal => "api_error",
        _ => "invalid_request_error",
    };
    let message = match (problem.code, &problem.numbers[..]) {
        // The words that clients look for.
        (Some("context_length_exceeded"), [(_, tokens), (_, ctx)]) => {
            format!("prompt is too long: {tokens} tokens > {ctx} maximum")
        }
        _ => problem.message.clone(),
    };
    let mut error = json!({"type": kind, "message": message});
    for &(name, number) in &problem.numbers {
        error[name] = number.into();
    }
    json!({"type": "error", "error": error})
}

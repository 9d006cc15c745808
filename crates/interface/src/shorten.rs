//! Shortening a conversation that no longer fits into the context.

use nanoinfer_engine::{Error, Message, Model};

/// Drops the oldest exchanges after the system message until the conversation has at most `limit` tokens,
/// or only the last exchange is left. Returns the number of tokens that remain.
pub(crate) fn shorten(
    model: &Model,
    limit: usize,
    messages: &mut Vec<Message>,
) -> Result<usize, Error> {
    loop {
        let tokens = model.encode_chat(messages)?.len();
        let first = usize::from(messages.first().is_some_and(|m| m.role == "system"));
        let next = messages.iter().skip(first + 1).position(|m| m.role == "user");
        match next {
            Some(next) if tokens > limit => drop(messages.drain(first..first + 1 + next)),
            _ => return Ok(tokens),
        }
    }
}

/// The number of tokens to which a full context is shortened: a quarter of it becomes free.
pub(crate) fn shortened(ctx: usize) -> usize {
    ctx - ctx / 4
}

//! Library errors in terms of this command's options.
//!
//! Libraries describe the problem, independent of any command line; this module names the option to
//! change.

use nanoinfer_engine::Error;

/// The message of an error, one link of a chain.
pub(crate) fn message(error: &(dyn std::error::Error + 'static)) -> String {
    error.downcast_ref::<Error>().and_then(engine).unwrap_or_else(|| error.to_string())
}

fn engine(error: &Error) -> Option<String> {
    Some(match error {
        Error::Memory { ctx, needed_mb, available_mb } => format!(
            "a context of {ctx} positions needs {needed_mb} MB, but only {available_mb} MB are \
             available; use a smaller --ctx"
        ),
        Error::Context { tokens, ctx } => format!(
            "the prompt has {tokens} tokens, but the context holds {ctx}; \
             use a larger --ctx or a shorter prompt"
        ),
        Error::Threads { workers, source } => {
            format!("cannot start {workers} threads: {source}; use fewer --threads")
        }
        Error::Missing { path, what, .. } if what.starts_with("chat template") => format!(
            "{}: the model has no chat template; use `generate` without --chat",
            path.display()
        ),
        Error::NotFinite { path } => format!(
            "{}: the model's output is not finite; check the file with `nanoinfer verify`",
            path.display()
        ),
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use anyhow::Context;

    use super::*;

    #[test]
    fn engine_errors_name_the_option_to_change() {
        let full = Error::Context { tokens: 100, ctx: 64 };
        let chain = Err::<(), _>(full).context("some command").unwrap_err();
        let messages: Vec<String> = chain.chain().map(message).collect();
        assert_eq!(messages[0], "some command");
        assert!(messages[1].contains("100 tokens") && messages[1].contains("--ctx"));
        let memory = Error::Memory { ctx: 8, needed_mb: 2, available_mb: 1 };
        assert!(message(&memory).ends_with("use a smaller --ctx"));
        assert_eq!(message(&Error::EmptyPrompt), Error::EmptyPrompt.to_string());
    }
}

//! Rephrases library errors in terms of command-line options.
//!
//! The libraries describe a problem without reference to a command line; this module names the option
//! to change.

use nanoinfer_engine::Error;
use nanoinfer_hub::Error as HubError;
use nanoinfer_packer::Error as PackError;

/// Message for one error of a chain.
pub(crate) fn message(error: &(dyn std::error::Error + 'static)) -> String {
    let error: &(dyn std::error::Error + 'static) = match error.downcast_ref::<nanoinfer::Error>() {
        Some(nanoinfer::Error::Engine(e)) => e,
        Some(nanoinfer::Error::Hub(e)) => e,
        _ => error,
    };
    if let Some(message) = error.downcast_ref::<Error>().and_then(engine) {
        return message;
    }
    let suffix = error.downcast_ref::<HubError>().and_then(hub);
    format!("{error}{}", suffix.unwrap_or_default())
}

/// The message of an engine's error.
pub(crate) fn engine_message(error: &Error) -> String {
    message(error)
}

fn engine(error: &Error) -> Option<String> {
    Some(match error {
        Error::Memory { ctx, needed_mb, available_mb } => format!(
            "a context of {ctx} positions needs {needed_mb} MB, but only {available_mb} MB is \
             available; use a smaller --ctx"
        ),
        Error::Context { tokens, ctx } => format!(
            "the prompt has {tokens} tokens, but the context holds only {ctx}; \
             use a larger --ctx or a shorter prompt"
        ),
        Error::Threads { workers, source } => {
            format!("cannot start {workers} threads: {source}; reduce --threads")
        }
        Error::NoChatTemplate { path } => format!(
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

/// Suffix for a hub error's message.
fn hub(error: &HubError) -> Option<&'static str> {
    match error {
        HubError::Offline { .. } => Some(", or specify a local file with --model"),
        HubError::Pinned { .. } => {
            Some(", or specify a .gguf file, a Hugging Face folder or a hub id with --model")
        }
        HubError::Cache { .. } => Some(
            ", or convert the model to a file of its own with `nanoinfer convert --out` and use that",
        ),
        HubError::Pack(PackError::Adapter { .. }) => {
            Some(": `nanoinfer convert --model BASE --lora FOLDER --out FILE.nano`")
        }
        HubError::NoEntry { .. } => Some("; `nanoinfer models` lists the entries"),
        _ => None,
    }
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
        let template = Error::NoChatTemplate { path: "m.nano".into() };
        assert!(message(&template).ends_with("without --chat"));
        let tokenizer = Error::NoTokenizer { path: "m.nano".into() };
        assert_eq!(message(&tokenizer), tokenizer.to_string());
    }

    #[test]
    fn hub_errors_name_the_alternative() {
        let offline =
            || HubError::Offline { id: "a/b".into(), endpoint: "e".into(), what: "w".into() };
        assert!(message(&offline()).ends_with("or specify a local file with --model"));
        assert_eq!(message(&nanoinfer::Error::Hub(offline())), message(&offline()));
    }
}

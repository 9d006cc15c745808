//! Rephrases library errors in terms of command-line options.
//!
//! The libraries describe a problem without reference to a command line; this module names the option
//! to change.

use nanoinfer_engine::Error;
use nanoinfer_hub::Error as HubError;
use nanoinfer_packer::Error as PackError;

/// Message for one error of a chain.
pub(crate) fn message(error: &(dyn std::error::Error + 'static)) -> String {
    let error: &(dyn std::error::Error + 'static) = match error.downcast_ref::<crate::Error>() {
        Some(crate::Error::Engine(e)) => e,
        Some(crate::Error::Hub(e)) => e,
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
            "the prompt has {tokens} tokens, but the context holds only {ctx}; use a shorter prompt"
        ),
        Error::Prompt { tokens, ctx, trained } => {
            let advice = if tokens <= trained {
                format!(
                    "use a larger --ctx (the model was trained for {trained}) or a shorter prompt"
                )
            } else if ctx <= trained {
                format!(
                    "the model was trained for {trained}: use a shorter prompt, or --overflow slide, \
                     which drops the oldest tokens"
                )
            } else {
                "use a shorter prompt".to_owned()
            };
            format!("the prompt has {tokens} tokens, but the context holds only {ctx}; {advice}")
        }
        Error::Threads { workers, source } => {
            format!("cannot start {workers} threads: {source}; reduce --threads")
        }
        // The reason first: names can be long.
        Error::NoChatTemplate { path } => format!(
            "no chat template in {}; choose its format with --chat-template NAME|FILE, or write the \
             prompt with its control tokens and use `generate --special`",
            path.display()
        ),
        Error::NoTokenizer { path } => {
            format!("no tokenizer in {}; `nanoinfer logits` takes token ids", path.display())
        }
        Error::NoInfill { path } => format!(
            "no tokens for --fim-prefix and --fim-suffix in {}; use a model for code completion, or \
             --prompt",
            path.display()
        ),
        Error::Text { path, source } => format!("{source} (in {})", path.display()),
        Error::NotFinite { path } => format!(
            "the output of {} is not finite; check the file with `nanoinfer verify`",
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
        HubError::Precision { .. } => Some(", without --quant"),
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
        let full = |tokens, ctx| Error::Prompt { tokens, ctx, trained: 512 };
        let chain = Err::<(), _>(full(100, 64)).context("some command").unwrap_err();
        let messages: Vec<String> = chain.chain().map(message).collect();
        assert_eq!(messages[0], "some command");
        assert!(messages[1].contains("100 tokens") && messages[1].contains("--ctx"));
        // No advice that leads to garbage.
        let beyond = [message(&full(600, 64)), message(&full(9000, 4096))];
        assert!(beyond.iter().all(|m| !m.contains("--ctx")), "{beyond:?}");
        assert!(beyond[0].contains("--overflow slide") && !beyond[1].contains("slide"));
        let memory = Error::Memory { ctx: 8, needed_mb: 2, available_mb: 1 };
        assert!(message(&memory).ends_with("use a smaller --ctx"));
        let closed = Error::Sequence;
        assert_eq!(message(&closed), closed.to_string());
        let template = Error::NoChatTemplate { path: "m.nano".into() };
        let message = message(&template);
        assert!(message.starts_with("no chat template in m.nano; "), "{message}");
        assert!(message.contains("--chat-template") && message.contains("--special"), "{message}");
    }

    #[test]
    fn hub_errors_name_the_alternative() {
        let offline =
            || HubError::Offline { id: "a/b".into(), endpoint: "e".into(), what: "w".into() };
        assert!(message(&offline()).ends_with("or specify a local file with --model"));
        assert_eq!(message(&crate::Error::Hub(offline())), message(&offline()));
    }
}

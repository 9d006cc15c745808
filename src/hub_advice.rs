//! Advice in terms of this command's options, appended to errors of the hub library.

use nanoinfer_hub::Error;

pub(crate) fn of(error: &Error) -> Option<&'static str> {
    match error {
        Error::Offline { .. } => Some(", or give a local file with --model"),
        Error::Pinned { .. } => {
            Some(", or give a model with --model: a .gguf file, a Hugging Face folder or a hub id")
        }
        Error::NoEntry { .. } => Some("; `nanoinfer models` lists the entries"),
        _ => None,
    }
}

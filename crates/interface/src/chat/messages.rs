//! All text that the chat shows.

use nanoinfer_engine::{FinishReason, Stats};

use super::worker::ModelInfo;

pub(crate) const WELCOME: [&str; 2] = [
    "Type a message and press Enter. Alt-Enter inserts a new line, Esc stops an answer.",
    "/help lists keys and commands; F2 shows details of the engine.",
];

/// Keys and their effects, for the help.
pub(crate) const KEYS: &[(&str, &str)] = &[
    ("Enter", "send"),
    ("Alt-Enter, Ctrl-J", "new line"),
    ("Esc", "stop the answer and keep the text so far"),
    ("Ctrl-C, Ctrl-D, exit", "quit"),
    ("Ctrl-R", "search earlier messages"),
    ("Up, Down", "previous or next message, or move the cursor"),
    ("Tab", "complete a command"),
    ("PageUp, PageDown, wheel", "scroll; so do Home and End if the input is empty"),
    ("F2, Ctrl-T", "cycle telemetry: on, detailed, off"),
    ("F3, Ctrl-O", "show or hide the reasoning"),
    ("//", "at the beginning of a message: send a slash"),
    ("Shift-drag", "select text with the mouse"),
];

/// What each command does, for the help.
pub(crate) mod command {
    pub(crate) const HELP: &str = "list keys and commands";
    pub(crate) const CLEAR: &str = "start a new conversation";
    pub(crate) const REGEN: &str = "regenerate the last answer with another seed";
    pub(crate) const UNDO: &str = "remove the last message and its answer";
    pub(crate) const EDIT: &str = "edit the last message and send it again";
    pub(crate) const SYSTEM: &str = "set the system message; without TEXT, show it";
    pub(crate) const SET: &str = "set temp, top-k, top-p, min-p, seed, …; without NAME, show all";
    pub(crate) const CONTEXT: &str = "show the context token by token";
    pub(crate) const SAVE: &str = "save the conversation as JSON";
    pub(crate) const LOAD: &str = "continue a saved conversation";
    pub(crate) const EXPORT: &str = "write the conversation as Markdown";
    pub(crate) const COPY: &str = "copy the last answer to the clipboard";
    pub(crate) const MODEL: &str = "switch to another model; without NAME, show the current one";
    pub(crate) const TELEMETRY: &str = "cycle telemetry: on, detailed, off";
    pub(crate) const EXIT: &str = "quit";
    #[cfg(debug_assertions)]
    pub(crate) const PANIC: &str = "test";
}

// The status line.
pub(crate) const KEYS_IN_OVERLAY: &str = "Esc back";
pub(crate) const KEYS_WHILE_ANSWERING: &str = "Esc stop · F2 details · Ctrl-C quit";
pub(crate) const KEYS_IDLE: &str = "Enter send · F1 help · F2 details · Ctrl-C quit";
pub(crate) const OPENING: &str = "opening the model";
pub(crate) const READY: &str = "ready";
pub(crate) const ANSWERING: &str = "answering";
pub(crate) const READING: &str = "reading";

pub(crate) fn lines_below(lines: usize) -> String {
    format!("{lines} lines below · End")
}

// Notices.
pub(crate) const BUSY_OPENING: &str = "still opening the model; please wait";
pub(crate) const BUSY_ANSWERING: &str = "still answering; press Esc to stop";
pub(crate) const NOT_WHILE_BUSY: &str = "not available while answering; press Esc to stop";
pub(crate) const NO_ANSWER: &str = "no answer yet";
pub(crate) const NOTHING_TO_REGENERATE: &str = "no answer to regenerate";
pub(crate) const NOTHING_TO_UNDO: &str = "no message to remove";
pub(crate) const UNDONE: &str = "removed the last message and its answer";
pub(crate) const CLEARED: &str = "started a new conversation";
pub(crate) const SYSTEM_SET: &str =
    "changed the system message; the next answer recomputes the whole context";
pub(crate) const LOADED: &str =
    "loaded the conversation; the next answer computes its whole context";
pub(crate) const STOPPED_EARLY: &str =
    "stopped before the answer began; your message is back in the input";
pub(crate) const COPIED: &str = "copied the answer to the clipboard (if the terminal allows it)";
pub(crate) const ENGINE_GONE: &str = "the engine thread has ended; restart the chat";

pub(crate) const NOT_SENT: &str = "the message was not sent; Up brings it back";

pub(crate) fn not_sent(reason: &str) -> String {
    format!("{reason}; the message was removed, Up brings it back")
}

pub(crate) fn opened(model: &str) -> String {
    format!("opened {model}")
}

pub(crate) fn forgotten(messages: usize) -> String {
    format!("the oldest {messages} messages are no longer in the context")
}

pub(crate) fn written(path: &str) -> String {
    format!("wrote {path}")
}

pub(crate) fn thought(words: usize) -> String {
    match words {
        1 => "thought, 1 word".to_owned(),
        _ => format!("thought, {words} words"),
    }
}

pub(crate) fn unknown_command(name: &str) -> String {
    format!("unknown command /{name}; /help lists all commands")
}

pub(crate) fn needs_file(command: &str) -> String {
    format!("/{command} needs a file name")
}

pub(crate) fn needs_number(setting: &str, from: f32, to: f32) -> String {
    format!("{setting}: expected a number from {from} to {to}")
}

pub(crate) fn needs_integer(setting: &str) -> String {
    format!("{setting}: expected a non-negative integer")
}

pub(crate) fn unknown_setting(name: &str, known: &[&str]) -> String {
    format!("unknown setting {name}; use one of {}", known.join(", "))
}

pub(crate) fn not_a_conversation(error: &serde_json::Error) -> String {
    format!("not a saved conversation: {error}")
}

pub(crate) fn unknown_role(role: &str) -> String {
    format!("unknown role {role}; expected user or assistant")
}

pub(crate) fn file_too_long(mb: u64) -> String {
    format!("larger than {mb} MB")
}

pub(crate) fn only_full_screen(name: &str) -> String {
    format!("/{name} works only in the full-screen chat; /help lists all commands")
}

// Notes in the transcript.
pub(crate) fn beyond_training(ctx: usize, trained: usize) -> String {
    format!(
        "The context holds {ctx} tokens, but the model was trained for {trained}; what it writes beyond \
         them is usually useless."
    )
}

pub(crate) fn system(message: Option<&str>) -> String {
    format!("System: {}", message.unwrap_or("the template's default"))
}

pub(crate) fn model(i: &ModelInfo) -> String {
    format!(
        "{}: {} layers, vocabulary of {} tokens, weights {}, cache {}, {} MB, context {}, \
         {} threads, {}",
        i.name,
        i.layers,
        i.vocab,
        i.weights,
        i.kv,
        i.file_bytes / 1_000_000,
        i.ctx,
        i.threads,
        i.isa
    )
}

/// The line below an answer.
pub(crate) fn footer(stats: &Stats, reason: FinishReason) -> String {
    let mut text = match reason {
        FinishReason::Length => "cut off by max-tokens · ",
        FinishReason::Context => "the context is full · ",
        FinishReason::Cancelled => "stopped · ",
        _ => "",
    }
    .to_owned();
    text += &format!("{} tokens", stats.generated);
    if stats.decode_tps() > 0.0 {
        text += &format!(" · {:.1} tokens/s", stats.decode_tps());
    }
    let new = stats.prompt_tokens - stats.reused_tokens;
    text + &format!(" · prompt {new} new, {} reused", stats.reused_tokens)
}

// Overlays.
pub(crate) const HELP_TITLE: &str = "Help";
pub(crate) const SEARCH_TITLE: &str = "Search history: Ctrl-R for older, Enter to accept";
pub(crate) const NOTHING_FOUND: &str = "nothing found";
pub(crate) const EMPTY_CONTEXT: &str = "The context is empty.";
pub(crate) const FULL_TITLE: &str = "The context is full";
pub(crate) const REUSED_TOKEN: &str = "cached earlier and reused";
pub(crate) const CACHED_TOKEN: &str = "cached in the last turn";
pub(crate) const PENDING_TOKEN: &str = "not computed yet";

pub(crate) fn context_title(tokens: usize, ctx: usize, cached: usize) -> String {
    format!("Context: {tokens} of {ctx} tokens, {cached} cached")
}

pub(crate) fn token(position: usize, id: u32, text: &str, state: &str) -> String {
    format!("position {position} · id {id} · \"{text}\" · {state}")
}

/// What happened, and choices 1 to 3.
pub(crate) fn full(tokens: usize, ctx: usize, has_message: bool) -> (String, [&'static str; 3]) {
    if has_message {
        (
            format!("{tokens} tokens with this message, but only {ctx} fit."),
            [
                "drop the oldest messages and send this one",
                "start a new conversation with this message",
                "edit this message",
            ],
        )
    } else {
        (
            format!("All {ctx} positions are used; the answer was cut off."),
            [
                "drop the oldest messages",
                "start a new conversation",
                "leave the conversation unchanged",
            ],
        )
    }
}

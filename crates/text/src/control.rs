//! Control tokens that a GGUF vocabulary identifies only by their texts.
//!
//! Converters often record just one token that ends a response, which is the base model's: chat models
//! end their turns with another. Some also give control tokens the type of ordinary text. Like
//! llama.cpp (`special_eog_ids` in `src/llama-vocab.cpp`), this module recognises such tokens by their
//! texts, which are unlikely to occur as text.

use std::collections::HashMap;

// GGUF token types (`tokenizer.ggml.token_type`).
const NORMAL: i32 = 1;
pub(crate) const CONTROL: i32 = 3;

/// Tokens that end a response or a turn, wherever they occur.
const ENDS: [&str; 22] = [
    "</s>",
    "<eos>",
    "<EOT>",
    "_<EOT>",
    "[EOT]",
    "[EOS]",
    "[e~[",
    "<turn|>",
    "<|end|>",
    "<|call|>",
    "<|calls|>",
    "<|flush|>",
    "<|return|>",
    "<|eot_id|>",
    "<|eom_id|>",
    "<|im_end|>",
    "<end_of_turn>",
    "<|endoftext|>",
    "<|end_of_text|>",
    "<end_of_utterance>",
    "<|tool_response>",
    "<｜end▁of▁sentence｜>",
];

/// Tokens of fill-in-the-middle prompts that a completion must not go past: padding, the start of the
/// next repository, the start of the next file. Alternatives are in order of preference.
pub const FIM_ENDS: [&[&str]; 3] = [
    &["<|fim_pad|>", "<fim-pad>", "<fim_pad>", "<PAD>", "[PAD]"],
    &["<|fim_repo|>", "<|repo_name|>", "<fim-repo>", "<REPO>", "<reponame>"],
    &["<|file_sep|>"],
];

/// The names of the token before the text that precedes the gap.
pub const FIM_PREFIX: &[&str] = &[
    "<|fim_prefix|>",
    "<fim-prefix>",
    "<fim_prefix>",
    "<｜fim▁begin｜>",
    "<PRE>",
    "▁<PRE>",
    "<|code_prefix|>",
    "<|prefix|>",
];

/// The names of the token before the text that follows the gap.
pub const FIM_SUFFIX: &[&str] = &[
    "<|fim_suffix|>",
    "<fim-suffix>",
    "<fim_suffix>",
    "<｜fim▁hole｜>",
    "<SUF>",
    "▁<SUF>",
    "<|code_suffix|>",
    "<|suffix|>",
];

/// The names of the token before the text in the gap.
pub const FIM_MIDDLE: &[&str] = &[
    "<|fim_middle|>",
    "<fim-middle>",
    "<fim_middle>",
    "<｜fim▁end｜>",
    "<MID>",
    "▁<MID>",
    "<|code_middle|>",
    "<|middle|>",
];

/// The tokens that a GGUF file states to end a response.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct StatedEnds {
    /// `eos_token_id`, `eot_token_id` and `eom_token_id`, as far as they are present.
    pub ends: Vec<u32>,
    /// `fim_pad_token_id`, `fim_rep_token_id` and `fim_sep_token_id`.
    pub fim: [Option<u32>; 3],
}

/// The type of a token: control if its text says so, otherwise as stated, or normal.
///
/// Unlike in llama.cpp, a `</s>` of another type is text: it may be the HTML tag, as in Gemma's vocabulary.
pub(crate) fn kind(text: &str, stated: Option<i32>) -> i32 {
    let is_html = text == "</s>" && stated.is_some_and(|kind| kind != CONTROL);
    let mut fim = FIM_ENDS.into_iter().chain([FIM_PREFIX, FIM_SUFFIX, FIM_MIDDLE]);
    let is_known = ENDS.contains(&text) || fim.any(|names| names.contains(&text));
    if is_known && !is_html { CONTROL } else { stated.unwrap_or(NORMAL) }
}

/// The tokens that end a response: first those that the file states, in the given order, then those
/// known by their texts, by id. `ids` has the ids of all control tokens.
pub(crate) fn ends(ids: &HashMap<&str, u32>, stated: &StatedEnds) -> Vec<u32> {
    let id_of = |text: &&str| ids.get(*text).copied();
    let mut known: Vec<u32> = ENDS.iter().filter_map(id_of).collect();
    for (fim, texts) in stated.fim.into_iter().zip(FIM_ENDS) {
        known.extend(fim.or_else(|| texts.iter().find_map(id_of)));
    }
    known.sort_unstable();
    let mut ends = Vec::with_capacity(known.len());
    for id in stated.ends.iter().copied().chain(known) {
        if !ends.contains(&id) {
            ends.push(id);
        }
    }
    let except = exceptions(|text| ids.get(text).is_some_and(|id| ends.contains(id)));
    ends.retain(|id| !except.iter().any(|text| ids.get(text) == Some(id)));
    ends
}

/// The texts that do not end a response in a vocabulary where `has` holds for the texts of some others.
fn exceptions(has: impl Fn(&str) -> bool) -> Vec<&'static str> {
    let mut texts = Vec::new();
    // In the formats of gpt-oss and Solar, <|end|> ends a message, after which the answer may go on.
    let harmony = has("<|return|>") && (has("<|call|>") || has("<|calls|>"));
    let solar = has("<|flush|>") && (has("<|call|>") || has("<|calls|>"));
    if harmony || solar {
        texts.push("<|end|>");
    }
    if has("<|tool_response>") {
        texts.push("</s>"); // Gemma 4: the HTML tag again
    }
    texts
}

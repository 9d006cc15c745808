//! The headers of messages in gpt-oss's format: `assistant<|channel|>commentary to=functions.name …`.

/// Maximum length of a header, in bytes.
const LONGEST: usize = 256;
/// Stands for the marker of the channel.
pub(super) const CHANNEL: char = '\0';
/// What begins the recipient.
const RECIPIENT: &str = "to=";

/// Whether a text may be the beginning of a header. The first header begins with its channel or recipient,
/// because the prompt has its role.
pub(super) fn may_be(text: &str, is_first: bool) -> bool {
    let begin = text.trim_start();
    let begin = begin.get(..RECIPIENT.len()).unwrap_or(begin);
    let begins = !is_first || begin.starts_with(CHANNEL) || RECIPIENT.starts_with(begin);
    begins && text.len() <= LONGEST
}

/// The function that a header calls, if any, and its channel.
pub(super) fn parse(header: &str) -> (Option<&str>, &str) {
    let mut words = header.split(|c: char| c.is_whitespace() || c == CHANNEL);
    let function = words.find_map(|word| word.strip_prefix("to=functions."));
    let channel = header.split(CHANNEL).nth(1).unwrap_or_default();
    let channel = channel.split_whitespace().next().unwrap_or_default();
    (function.filter(|name| !name.is_empty()), channel)
}

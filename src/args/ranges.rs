//! Parsers for numbers in a range.

/// A number from 1 to `max`.
pub(super) fn count(max: u64) -> clap::builder::RangedU64ValueParser {
    clap::value_parser!(u64).range(1..=max)
}

/// Maximum number of tokens to generate; `None` = unlimited.
#[derive(Clone, Copy)]
pub(crate) struct MaxTokens(pub(crate) Option<usize>);

pub(super) fn max_tokens(text: &str) -> Result<MaxTokens, String> {
    let expected = "expected a number of tokens, or -1 for no limit";
    or_minus_one(text, expected).map(MaxTokens)
}

/// 0 is all tokens.
pub(super) fn top_k(text: &str) -> Result<usize, String> {
    let expected = "expected a number of tokens, or -1 for all";
    Ok(or_minus_one(text, expected)?.unwrap_or(0))
}

/// How much a model reasons before it answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Think {
    On,
    Off,
    /// At most this many tokens.
    Most(usize),
}

impl Think {
    /// The maximum number of tokens, if there is one.
    pub(crate) fn most(self) -> Option<usize> {
        if let Self::Most(n) = self { Some(n) } else { None }
    }
}

pub(super) fn think(text: &str) -> Result<Think, String> {
    match text {
        "on" => Ok(Think::On),
        "off" => Ok(Think::Off),
        _ => text
            .parse()
            .map(Think::Most)
            .map_err(|_| "expected on, off or a number of tokens".into()),
    }
}

#[derive(Clone, Copy)]
pub(crate) enum Seed {
    Given(u64),
    Random,
}

pub(super) fn seed(text: &str) -> Result<Seed, String> {
    let expected = "expected a non-negative integer, or -1 for a random seed";
    Ok(or_minus_one(text, expected)?.map_or(Seed::Random, Seed::Given))
}

/// A number, or `None` for -1.
fn or_minus_one<N: std::str::FromStr>(text: &str, expected: &str) -> Result<Option<N>, String> {
    match text {
        "-1" => Ok(None),
        _ => text.parse().map(Some).map_err(|_| expected.to_owned()),
    }
}

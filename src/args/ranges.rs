//! Parsers for numbers in a range.

/// A number from 1 to `max`.
pub(super) fn count(max: u64) -> clap::builder::RangedU64ValueParser {
    clap::value_parser!(u64).range(1..=max)
}

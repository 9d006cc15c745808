//! Numbers on the command line.

/// Parses 1 to `max`.
pub(super) fn count(max: u64) -> clap::builder::RangedU64ValueParser {
    clap::value_parser!(u64).range(1..=max)
}

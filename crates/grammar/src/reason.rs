//! llguidance's explanations of what is wrong.

use llguidance::regex_to_lark;

use crate::Error;

/// An error with llguidance's explanation, on one line.
pub(crate) fn explain(place: String, what: &str) -> Error {
    // The first line says what is wrong, except in the multi-line errors of the regex parser.
    let reason = what.lines().find_map(|line| line.trim().strip_prefix("error: "));
    let what = reason.or_else(|| what.lines().next()).unwrap_or_default().trim();
    if what.starts_with("panic: ") {
        return Error::Limit {
            place,
            what: "it is too large or complex to be compiled".to_owned(),
        };
    }
    let too_large = ["too large", "limit", "too complex", "fuel", "too many"];
    if too_large.iter().any(|sign| what.contains(sign)) {
        return Error::Limit { place, what: what.to_owned() };
    }
    Error::source(place, what, "change this part")
}

/// Checks that a regular expression is correct and can be enforced.
pub(crate) fn check_regex(pattern: &str) -> Result<(), String> {
    let mut builder = llguidance::derivre::RegexBuilder::new();
    builder.mk_regex_for_serach(&regex_to_lark(pattern, "dw")).map(drop).map_err(|e| {
        let text = e.to_string();
        match explain(String::new(), &text) {
            Error::Source { what, .. } | Error::Limit { what, .. } => what,
            Error::Vocabulary { .. } => text,
        }
    })
}

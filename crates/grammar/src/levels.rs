//! Limits how deeply rules and schemas nest by mentioning each other: they are compiled recursively.

use llguidance::api::TopLevelGrammar;

use crate::Error;

/// Maximum number of levels. Twice as many fit in the stack of the thread that compiles.
const MAX_LEVELS: usize = 8000;

/// Checks a number of levels.
pub(crate) fn limit(place: String, levels: usize) -> Result<(), Error> {
    if levels > MAX_LEVELS {
        let what = format!("its parts may nest {levels} deep, of at most {MAX_LEVELS}");
        return Err(Error::Limit { place, what });
    }
    Ok(())
}

/// Checks grammars in Lark: each rule, bracket in it, and reference in a schema may be a level.
pub(crate) fn check(top: &TopLevelGrammar) -> Result<(), Error> {
    let texts = top.grammars.iter().filter_map(|grammar| grammar.lark_grammar.as_deref());
    let levels = texts.flat_map(str::lines).map(|line| {
        let (mut depth, mut deepest) = (0usize, 0);
        for c in line.chars() {
            match c {
                '(' | '[' | '{' => depth += 1,
                ')' | ']' | '}' => depth = depth.saturating_sub(1),
                _ => {}
            }
            deepest = deepest.max(depth);
        }
        deepest + usize::from(line.contains(':')) + line.matches("$ref").count()
    });
    limit("the grammar".to_owned(), levels.sum())
}

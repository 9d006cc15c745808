//! Texts or tokens, one or several: prompts of completions, and inputs of embeddings.

use serde_json::Value;

use super::fields;
use crate::core::ask::Prompt;
use crate::core::model::ServedModel;
use crate::problem::Problem;

/// Reads the field `name`: one or more texts, or lists of tokens, at most `most`. If `specials`, names of control
/// tokens in texts are control tokens.
pub(crate) fn read(
    (body, name): (&Value, &str),
    (most, specials): (usize, bool),
    served: &ServedModel,
) -> Result<Vec<Prompt>, Problem> {
    let expected = "expected a text, a list of tokens, or a list of these";
    let bad = |at: &str| Problem::field(at, expected);
    let text = |text: &str| Prompt::Text { text: text.to_owned(), specials };
    let vocab = served.model.config().vocab_size;
    let ids = |list: &[Value], at: &str| {
        let id = |value: &Value| value.as_u64().and_then(|id| u32::try_from(id).ok());
        let ids = list.iter().map(id).collect::<Option<Vec<u32>>>().ok_or_else(|| bad(at))?;
        fields::tokens(at, Some(&ids), vocab).map(Prompt::Tokens)
    };
    let list = match body.get(name) {
        Some(Value::String(one)) => return Ok(vec![text(one)]),
        Some(Value::Array(list)) if list.first().is_some_and(Value::is_number) => {
            return Ok(vec![ids(list, name)?]);
        }
        Some(Value::Array(list)) if (1..=most).contains(&list.len()) => list,
        Some(Value::Array(list)) if list.len() > most => {
            let what = format!("has {} entries, but the maximum is {most}", list.len());
            return Err(Problem::field(name, what));
        }
        _ => return Err(bad(name)),
    };
    let one = |(i, value): (usize, &Value)| {
        let at = format!("{name}[{i}]");
        match value {
            Value::String(one) => Ok(text(one)),
            Value::Array(list) => ids(list, &at),
            _ => Err(bad(&at)),
        }
    };
    list.iter().enumerate().map(one).collect()
}

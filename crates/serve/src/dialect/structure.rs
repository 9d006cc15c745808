//! Fields that demand a structure of the answer.

use nanoinfer_grammar::source_of;
use serde_json::{Map, Value, json};

use crate::core::ask::Structure;
use crate::problem::Problem;

/// The fields, of which a request has at most one.
const FIELDS: [&str; 9] = [
    "response_format",
    "structured_outputs",
    "guided_json",
    "guided_regex",
    "guided_choice",
    "guided_grammar",
    "json_schema",
    "grammar",
    "format",
];

/// The structure that a request demands.
pub(crate) fn read(body: &Value) -> Result<Option<Structure>, Problem> {
    let Some(members) = body.as_object() else { return Ok(None) };
    let is_given = |field: &&str| members.get(*field).is_some_and(|value| !value.is_null());
    let field = FIELDS.into_iter().find(is_given).unwrap_or("response_format");
    let source = source_of(members).map_err(|e| Problem::grammar(field, &e))?;
    Ok(source.map(|source| Structure { source, field }))
}

/// The structure in a member such as `text.format`, whose schema is not in an object of its own.
pub(crate) fn nested(
    format: Option<&Value>,
    field: &'static str,
) -> Result<Option<Structure>, Problem> {
    let Some(format) = format.filter(|format| !format.is_null()) else { return Ok(None) };
    let members: Map<_, _> = [("response_format".to_owned(), json!(format))].into_iter().collect();
    let source = source_of(&members).map_err(|e| {
        Problem::grammar(field, e.to_string().replacen("response_format", field, 1))
    })?;
    Ok(source.map(|source| Structure { source, field }))
}

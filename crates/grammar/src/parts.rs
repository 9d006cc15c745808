//! The schemas that a schema consists of.

use serde_json::Value;

use crate::Error;

/// A schema within a schema, with its place as a JSON pointer.
#[derive(Clone)]
pub(crate) struct Part<'v> {
    pub place: String,
    pub schema: &'v Value,
}

/// The schemas directly within a schema, except definitions.
pub(crate) fn children<'v>(part: &Part<'v>) -> Vec<Part<'v>> {
    let mut all = Vec::new();
    let Value::Object(map) = part.schema else { return all };
    for (keyword, value) in map {
        let place = || format!("{}/{}", part.place, escaped(keyword));
        let mut add = |place: String, schema: &'v Value| all.push(Part { place, schema });
        match (keyword.as_str(), value) {
            ("properties" | "patternProperties", Value::Object(map)) => {
                let place = place();
                map.iter().for_each(|(name, v)| add(format!("{place}/{}", escaped(name)), v));
            }
            ("anyOf" | "oneOf" | "allOf" | "prefixItems" | "items", Value::Array(list)) => {
                let place = place();
                list.iter().enumerate().for_each(|(i, v)| add(format!("{place}/{i}"), v));
            }
            ("items" | "additionalItems" | "additionalProperties", _) => add(place(), value),
            _ => {}
        }
    }
    all
}

/// What `$ref` refers to, if the schema has one.
pub(crate) fn target<'v>(root: &'v Value, part: &Part<'v>) -> Result<Option<Part<'v>>, Error> {
    let Some(reference) = part.schema.get("$ref") else { return Ok(None) };
    let wrong = |what: String| {
        let place = format!("{}/$ref", part.place);
        Error::source(place, what, "refer to a part of this schema, such as #/$defs/NAME")
    };
    let Some(text) = reference.as_str() else { return Err(wrong("it is not a text".to_owned())) };
    let Some(pointer) = text.strip_prefix('#').filter(|p| p.is_empty() || p.starts_with('/'))
    else {
        return Err(wrong(format!("{text:?} is not within this schema")));
    };
    // The names of parts are compared without unescaping, so escapes would not be found.
    if pointer.contains(['~', '%']) {
        return Err(wrong(format!("{text:?} has an escape")));
    }
    let pointer = if pointer == "/" { "" } else { pointer };
    match root.pointer(pointer) {
        Some(schema) => Ok(Some(Part { place: format!("#{pointer}"), schema })),
        None => Err(wrong(format!("{text:?} does not exist"))),
    }
}

/// A name as part of a JSON pointer.
pub(crate) fn escaped(name: &str) -> String {
    name.replace('~', "~0").replace('/', "~1")
}

//! Checks of JSON schemas: every keyword must be one that is enforced, or one that does not restrict values.

use std::collections::HashSet;
use std::fmt::Write;

use serde_json::{Map, Value};

use crate::parts::{Part, children, escaped, target};
use crate::reason::{check_regex, explain};
use crate::{Error, finite, levels};

/// Maximum depth of a schema, as for the texts that `serde_json` reads.
const MAX_DEPTH: usize = 128;
/// Maximum number of subschemas that are compiled to find the one to blame.
const MAX_TRIALS: usize = 200;

/// Keywords that are enforced.
const ENFORCED: [&str; 27] = [
    "$ref",
    "additionalItems",
    "additionalProperties",
    "allOf",
    "anyOf",
    "const",
    "enum",
    "exclusiveMaximum",
    "exclusiveMinimum",
    "format",
    "items",
    "maxItems",
    "maxLength",
    "maxProperties",
    "maximum",
    "minItems",
    "minLength",
    "minProperties",
    "minimum",
    "multipleOf",
    "oneOf",
    "pattern",
    "patternProperties",
    "prefixItems",
    "properties",
    "required",
    "type",
];

/// Keywords that say something about a value without restricting it.
const NOTES: [&str; 21] = [
    "$anchor",
    "$comment",
    "$defs",
    "$id",
    "$schema",
    "contentEncoding",
    "contentMediaType",
    "default",
    "definitions",
    "deprecated",
    "description",
    "discriminator",
    "example",
    "examples",
    "externalDocs",
    "id",
    "readOnly",
    "strict",
    "title",
    "writeOnly",
    "xml",
];

/// Checks a schema.
pub(crate) fn check(root: &Value) -> Result<(), Error> {
    let mut parts = vec![Part::root(root)];
    let mut parents = vec![None];
    let mut seen = HashSet::from([std::ptr::from_ref(root)]);
    let mut targets = seen.clone();
    let mut at = 0;
    while let Some(part) = parts.get(at).cloned() {
        check_part(&part)?;
        let target = target(root, &part)?;
        targets.extend(target.iter().map(|target| std::ptr::from_ref(target.schema)));
        let children = children(&part).into_iter().map(|child| (Some(at), child));
        for (parent, child) in children.chain(target.map(|target| (None, target))) {
            if child.place.depth() > MAX_DEPTH {
                let what = format!("nested more than {MAX_DEPTH} deep");
                return Err(Error::Limit { place: part.place.to_string(), what });
            }
            if seen.insert(std::ptr::from_ref(child.schema)) {
                parts.push(child);
                parents.push(parent);
            }
        }
        at += 1;
    }
    // References from one part to the next nest as deeply as the parts that they refer to, together.
    let mut heights = vec![1; parts.len()];
    let mut levels = 0;
    for (i, part) in parts.iter().enumerate().rev() {
        if targets.contains(&std::ptr::from_ref(part.schema)) {
            levels += heights[i];
        }
        if let Some(parent) = parents[i] {
            heights[parent] = heights[parent].max(heights[i] + 1);
        }
    }
    levels::limit("#".to_owned(), levels)?;
    finite::check(root, &parts)
}

fn check_part(part: &Part<'_>) -> Result<(), Error> {
    let map = match part.schema {
        Value::Bool(_) => return Ok(()),
        Value::Object(map) => map,
        _ => {
            let what = "a schema is an object, true or false";
            return Err(Error::source(&part.place, what, "correct it"));
        }
    };
    for (keyword, value) in map {
        let at = || format!("{}/{}", part.place, escaped(keyword));
        let pattern = |pattern: &str, place: String| {
            check_regex(pattern)
                .map_err(|what| Error::source(place, what, "use another regular expression"))
        };
        match keyword.as_str() {
            "pattern" => value.as_str().map_or(Ok(()), |text| pattern(text, at()))?,
            "patternProperties" => value
                .as_object()
                .into_iter()
                .flat_map(Map::keys)
                .try_for_each(|text| pattern(text, format!("{}/{}", at(), escaped(text))))?,
            "nullable" if *value == Value::Bool(false) => {}
            "additionalItems" if map.contains_key("prefixItems") => {
                let what =
                    "additionalItems and prefixItems belong to different versions of JSON Schema";
                return Err(Error::source(at(), what, "use items and prefixItems"));
            }
            other if ENFORCED.contains(&other) || NOTES.contains(&other) => {}
            other if other.starts_with("x-") && other != "x-guidance" => {}
            _ => {
                let what = "this keyword is unknown or cannot be enforced";
                return Err(Error::source(at(), what, "remove it"));
            }
        }
    }
    Ok(())
}

/// The error for a schema that llguidance rejects with `message`: names the smallest part that it still
/// rejects. `fails` says whether it rejects a schema.
pub(crate) fn blame(root: &Value, message: &str, fails: impl Fn(&Value) -> bool) -> Error {
    let mut part = Part::root(root);
    let mut trials = 0;
    let mut rejected = |schema: &Value| {
        trials += 1;
        trials <= MAX_TRIALS && fails(&with_definitions(root, schema))
    };
    let mut seen = HashSet::new();
    'deeper: while seen.insert(std::ptr::from_ref(part.schema)) {
        let referred = target(root, &part).ok().flatten();
        for child in children(&part).into_iter().chain(referred) {
            if rejected(child.schema) {
                part = child;
                continue 'deeper;
            }
        }
    }
    // The keyword without which the rest is accepted.
    let mut place = part.place.to_string();
    if let Value::Object(map) = part.schema {
        let culprit = map.keys().filter(|keyword| *keyword != "type").find(|keyword| {
            let mut rest = map.clone();
            rest.shift_remove(*keyword);
            !rejected(&Value::Object(rest))
        });
        if let Some(keyword) = culprit {
            let _ = write!(place, "/{}", escaped(keyword));
        }
    }
    explain(place, message)
}

/// A part of a schema on its own, with the definitions that it may refer to.
fn with_definitions(root: &Value, schema: &Value) -> Value {
    let mut schema = schema.clone();
    if let (Value::Object(map), Value::Object(root)) = (&mut schema, root) {
        for name in ["$defs", "definitions"] {
            if let Some(definitions) = root.get(name) {
                map.insert(name.to_owned(), definitions.clone());
            }
        }
    }
    schema
}

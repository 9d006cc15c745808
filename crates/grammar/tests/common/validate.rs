//! A validator for the keywords of the schemas in these tests, independent of the grammars.

use regex_automata::meta::Regex;
use serde_json::Value;

/// Where and how `value` violates a schema within `root`.
pub(crate) fn errors(root: &Value, schema: &Value, value: &Value) -> Vec<String> {
    let Value::Object(map) = schema else {
        return if schema == &Value::Bool(false) { vec!["false".to_owned()] } else { Vec::new() };
    };
    let valid = |schema: &Value, value: &Value| errors(root, schema, value).is_empty();
    let list = |v: &Value| v.as_array().cloned().unwrap_or_default();
    let n = |v: &Value| v.as_f64().unwrap();
    let mut found = Vec::new();
    for (keyword, k) in map {
        let ok = match keyword.as_str() {
            "$ref" => {
                valid(root.pointer(k.as_str().unwrap().trim_start_matches('#')).unwrap(), value)
            }
            "type" => match k {
                Value::Array(names) => names.iter().any(|name| is_type(name, value)),
                name => is_type(name, value),
            },
            "const" => same(k, value),
            "enum" => list(k).iter().any(|k| same(k, value)),
            "anyOf" => list(k).iter().any(|s| valid(s, value)),
            "oneOf" => list(k).iter().filter(|s| valid(s, value)).count() == 1,
            "allOf" => list(k).iter().all(|s| valid(s, value)),
            "minLength" => value.as_str().is_none_or(|s| s.chars().count() as f64 >= n(k)),
            "maxLength" => value.as_str().is_none_or(|s| s.chars().count() as f64 <= n(k)),
            "pattern" => {
                value.as_str().is_none_or(|s| Regex::new(k.as_str().unwrap()).unwrap().is_match(s))
            }
            "format" => value.as_str().is_none_or(|s| is_format(k.as_str().unwrap(), s)),
            "minimum" => value.as_f64().is_none_or(|x| x >= n(k)),
            "maximum" => value.as_f64().is_none_or(|x| x <= n(k)),
            "exclusiveMaximum" => value.as_f64().is_none_or(|x| x < n(k)),
            "multipleOf" => value.as_f64().is_none_or(|x| x % n(k) == 0.0),
            "minItems" => value.as_array().is_none_or(|a| a.len() as f64 >= n(k)),
            "maxItems" => value.as_array().is_none_or(|a| a.len() as f64 <= n(k)),
            "prefixItems" => {
                value.as_array().is_none_or(|a| a.iter().zip(list(k)).all(|(v, s)| valid(&s, v)))
            }
            "items" => value.as_array().is_none_or(|a| {
                let first = map.get("prefixItems").map_or(0, |p| list(p).len());
                a.iter().skip(first).all(|v| valid(k, v))
            }),
            "required" => value
                .as_object()
                .is_none_or(|o| list(k).iter().all(|name| o.contains_key(name.as_str().unwrap()))),
            "properties" => value
                .as_object()
                .is_none_or(|o| o.iter().all(|(name, v)| k.get(name).is_none_or(|s| valid(s, v)))),
            "minProperties" => value.as_object().is_none_or(|o| o.len() as f64 >= n(k)),
            "maxProperties" => value.as_object().is_none_or(|o| o.len() as f64 <= n(k)),
            "patternProperties" => value.as_object().is_none_or(|o| {
                k.as_object().unwrap().iter().all(|(pattern, s)| {
                    let regex = Regex::new(pattern).unwrap();
                    o.iter().all(|(name, v)| !regex.is_match(name) || valid(s, v))
                })
            }),
            "additionalProperties" => value.as_object().is_none_or(|o| {
                let patterns = map.get("patternProperties").and_then(Value::as_object);
                let listed = |name: &str| {
                    map.get("properties").is_some_and(|p| p.get(name).is_some())
                        || patterns.is_some_and(|p| {
                            p.keys().any(|p| Regex::new(p).unwrap().is_match(name))
                        })
                };
                o.iter().all(|(name, v)| listed(name) || valid(k, v))
            }),
            "$defs" => true,
            other => panic!("{other} is unknown"),
        };
        if !ok {
            found.push(format!("{keyword} {k}: {value}"));
        }
    }
    found
}

fn is_type(name: &Value, value: &Value) -> bool {
    match name.as_str().unwrap() {
        "null" => value.is_null(),
        "boolean" => value.is_boolean(),
        "string" => value.is_string(),
        "number" => value.is_number(),
        "integer" => value.as_f64().is_some_and(|x| x.fract() == 0.0),
        "array" => value.is_array(),
        "object" => value.is_object(),
        other => panic!("{other} is no type"),
    }
}

/// Equal as JSON: `1` and `1.0` are the same number.
fn same(a: &Value, b: &Value) -> bool {
    match (a.as_f64(), b.as_f64()) {
        (Some(a), Some(b)) => a == b,
        _ => a == b,
    }
}

fn is_format(name: &str, text: &str) -> bool {
    let pattern = match name {
        "date" => r"^\d{4}-(0[1-9]|1[0-2])-(0[1-9]|[12]\d|3[01])$",
        "email" => r"^[^@\s]+@[^@\s]+$",
        other => panic!("{other} is no format"),
    };
    Regex::new(pattern).unwrap().is_match(text)
}

//! Finds schemas that no finite value satisfies because they require themselves.

use std::cell::RefCell;
use std::collections::{HashMap, HashSet};

use serde_json::Value;

use crate::Error;
use crate::parts::{Part, children, target};

/// Checks that the schema is satisfied by a finite value, as far as references are concerned. `parts` are all
/// parts of the schema that can be reached from its root, which comes first.
pub(crate) fn check(root: &Value, parts: &[Part<'_>]) -> Result<(), Error> {
    let mut finite = HashSet::new();
    // The parts that cannot be decided before each part is.
    let mut waiting: HashMap<*const Value, Vec<usize>> = HashMap::new();
    // The last one comes first: parts come before those that they contain.
    let mut open: Vec<usize> = (0..parts.len()).collect();
    while let Some(i) = open.pop() {
        let schema = std::ptr::from_ref(parts[i].schema);
        let unknown = RefCell::new(Vec::new());
        let is_known = |schema: &Value| {
            let schema = std::ptr::from_ref(schema);
            finite.contains(&schema) || {
                unknown.borrow_mut().push(schema);
                false
            }
        };
        if !is_finite(root, &parts[i], &is_known) {
            // The answer changes only with one of those that were asked for.
            for part in unknown.into_inner() {
                waiting.entry(part).or_default().push(i);
            }
        } else if finite.insert(schema) {
            open.extend(waiting.remove(&schema).unwrap_or_default());
        }
    }
    let is_known = |schema: &Value| finite.contains(&std::ptr::from_ref(schema));
    let Some(mut part) = parts.first().filter(|part| !is_known(part.schema)).cloned() else {
        return Ok(());
    };
    // Follows the requirements to a reference.
    let mut seen = HashSet::new();
    while part.schema.get("$ref").is_none() && seen.insert(std::ptr::from_ref(part.schema)) {
        let Some(next) = children(&part).into_iter().find(|child| !is_known(child.schema)) else {
            break;
        };
        part = next;
    }
    let place = format!("{}/$ref", part.place);
    let what = "it requires itself, so that no value is ever complete";
    Err(Error::source(place, what, "make one of the properties on the way optional"))
}

/// Whether a part is satisfied by a finite value, given the parts that are known to be.
fn is_finite(root: &Value, part: &Part<'_>, is_known: &dyn Fn(&Value) -> bool) -> bool {
    let Value::Object(map) = part.schema else { return true };
    if let Ok(Some(target)) = target(root, part)
        && !is_known(target.schema)
    {
        return false;
    }
    let list = |keyword: &str| map.get(keyword).and_then(Value::as_array);
    let all = list("allOf").is_none_or(|parts| parts.iter().all(is_known));
    let any = ["anyOf", "oneOf"]
        .iter()
        .all(|keyword| list(keyword).is_none_or(|parts| parts.iter().any(is_known)));
    if !all || !any {
        return false;
    }
    if map.contains_key("const") || map.contains_key("enum") {
        return true;
    }
    let types: Vec<&str> = match map.get("type") {
        Some(Value::String(name)) => vec![name],
        Some(Value::Array(names)) => names.iter().filter_map(Value::as_str).collect(),
        _ => return true, // a number, for example
    };
    types.is_empty()
        || types.iter().any(|name| match *name {
            "object" => {
                let property = |name: &Value| map.get("properties")?.get(name.as_str()?);
                list("required").is_none_or(|names| names.iter().filter_map(property).all(is_known))
            }
            "array" => {
                let least = map.get("minItems").and_then(Value::as_u64).unwrap_or(0);
                let first = list("prefixItems").or_else(|| list("items"));
                let first = first.map_or(&[][..], Vec::as_slice);
                let least = usize::try_from(least).unwrap_or(usize::MAX);
                let rest = map.get("items").filter(|items| !items.is_array());
                first.iter().take(least).all(is_known)
                    && (least <= first.len() || rest.is_none_or(is_known))
            }
            _ => true,
        })
}

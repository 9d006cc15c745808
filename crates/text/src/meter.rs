//! Bounds the size of a template's values, and with it the time of every step.
//!
//! minijinja meters steps: each instruction costs fuel, as does each byte or item that it creates. It
//! does not meter nesting: comparing two lists is a single step, whatever they contain. A list that
//! contains another list twice, which contains a third list twice, and so on, is small in memory but has
//! 2⁶⁰ items after sixty lines:
//!
//! ```jinja
//! {% set a = ['x'] %}{% set a = [a, a] %}{% set a = [a, a] %} … {% if a == b %}
//! ```
//!
//! Comparing, sorting, joining, hashing and printing all follow every path, and operators cannot be
//! intercepted. Every value is therefore weighed when it is created: [`instrument`](crate::instrument)
//! inserts a filter after each expression that can build a container. The filter counts items as if
//! shared containers were written out in full, and rejects values that exceed a limit. The limit bounds
//! the time of each step, and fuel bounds the number of steps.
//!
//! Only minijinja's stable API is used: the source is rewritten rather than the compiled template,
//! because access to the latter is unstable and would tie this crate to one version.

use std::sync::LazyLock;

use minijinja::value::ValueKind;
use minijinja::{Environment, Error, ErrorKind, Value};

/// Names of the filters. If a template itself uses them, values are merely weighed twice.
pub(crate) const WEIGH: &str = "weigh__";
pub(crate) const WEIGH_HELD: &str = "weigh_held__";

/// Maximum nesting depth: more than any conversation needs, and safe for the stack.
const MAX_DEPTH: usize = 100;

/// Number of string bytes that count as one item.
pub(crate) const BYTES_PER_ITEM: usize = 64;

/// Adds the filters, which reject values of `limit` items or more.
pub(crate) fn install(env: &mut Environment<'_>, limit: usize) {
    env.add_filter(WEIGH, move |value: Value| weighed(value, limit));
    env.add_filter(WEIGH_HELD, move |value: Value| {
        check_held(&value)?;
        weighed(value, limit)
    });
}

/// Rejects namespaces and loop variables, which can change after being weighed and come to contain
/// themselves. Templates need only set and read their attributes.
fn check_held(value: &Value) -> Result<(), Error> {
    match value.as_object().map(|object| object.type_name()) {
        Some(name) if name == MUTABLE[0] => refuse("a value cannot contain a namespace"),
        Some(name) if name == MUTABLE[1] => refuse("a value cannot contain a loop"),
        _ => Ok(()),
    }
}

/// The type names of namespaces and loop variables. minijinja does not export these types and may rename
/// them, so the names are read from sample values.
static MUTABLE: LazyLock<[String; 2]> = LazyLock::new(|| ["namespace()", "loop"].map(type_name));

/// The name of the type of an object that minijinja makes: of an expression in a loop, after a macro `m`.
pub(crate) fn type_name(expression: &str) -> String {
    let mut env = Environment::new();
    env.add_filter("type_name", |value: Value| {
        value.as_object().map_or("", |object| object.type_name()).to_owned()
    });
    let prefix = "{% macro m() %}{% endmacro %}{% for i in [0] %}";
    let source = format!("{prefix}{{{{ {expression}|type_name }}}}{{% endfor %}}");
    let name = env.render_str(&source, ()).expect("minijinja renders a loop");
    assert!(!name.is_empty(), "{expression} is an object");
    name
}

/// Returns the value if it is small enough. Slices and sums of lists are lazy views; they are converted
/// to lists so that views do not nest.
fn weighed(value: Value, limit: usize) -> Result<Value, Error> {
    weigh(&value, limit)?;
    match value.kind() {
        ValueKind::Iterable => Ok(value.try_iter()?.collect()),
        _ => Ok(value),
    }
}

fn weigh(value: &Value, limit: usize) -> Result<(), Error> {
    let is_container =
        |v: &Value| matches!(v.kind(), ValueKind::Seq | ValueKind::Map | ValueKind::Iterable);
    if !is_container(value) {
        return Ok(());
    }
    let mut weight = 0;
    // A shared container is visited once per path to it.
    let mut pending = vec![(value.clone(), 0)];
    while let Some((container, depth)) = pending.pop() {
        if depth > MAX_DEPTH {
            return refuse("a value is nested too deeply");
        }
        let is_map = container.kind() == ValueKind::Map;
        for item in container.try_iter()?.checked() {
            let item = item?;
            let value = if is_map { Some(container.get_item(&item)?) } else { None };
            for held in value.into_iter().chain([item]) {
                check_held(&held)?;
                weight += 1 + held.as_str().map_or(0, str::len) / BYTES_PER_ITEM;
                if weight >= limit {
                    return refuse("a value contains too many items");
                }
                if is_container(&held) {
                    pending.push((held, depth + 1));
                }
            }
        }
    }
    Ok(())
}

fn refuse(what: &str) -> Result<(), Error> {
    Err(Error::new(ErrorKind::InvalidOperation, what.to_owned()))
}

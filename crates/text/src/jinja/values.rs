//! Properties of values, and the cost of new ones.

use std::sync::LazyLock;

use minijinja::value::{ArgType, Kwargs, Tuple, ValueKind};
use minijinja::{Error, ErrorKind, State, Value};

use crate::meter::type_name;

/// Iterating over an undefined value is possible, as in Jinja.
pub(super) fn is_iterable(value: &Value) -> bool {
    !value.is_none() && !is_object(value) && value.try_iter().is_ok()
}

/// Whether a value is an object with attributes that minijinja presents as a map.
pub(super) fn is_object(value: &Value) -> bool {
    is_of_type(value, &NAMESPACE) || is_of_type(value, &MACRO)
}

/// Functions, macros and, as in Jinja, undefined values.
pub(super) fn is_callable(value: &Value) -> bool {
    value.is_undefined() || value.kind() == ValueKind::Plain || is_of_type(value, &MACRO)
}

fn is_of_type(value: &Value, name: &str) -> bool {
    value.as_object().is_some_and(|object| object.type_name() == name)
}

static NAMESPACE: LazyLock<String> = LazyLock::new(|| type_name("namespace()"));
static MACRO: LazyLock<String> = LazyLock::new(|| type_name("m"));

pub(super) fn invalid(what: impl Into<String>) -> Error {
    Error::new(ErrorKind::InvalidOperation, what.into())
}

pub(super) fn refuse<T>(what: impl Into<String>) -> Result<T, Error> {
    Err(invalid(what))
}

/// An argument that may be given by position or by name.
pub(super) fn argument<'a, T: ArgType<'a, Output = T>>(
    given: Option<T>,
    options: &'a Kwargs,
    name: &'a str,
) -> Result<Option<T>, Error> {
    given.map_or_else(|| options.get(name), |value| Ok(Some(value)))
}

/// Bytes per unit of minijinja's fuel.
pub(super) const BYTES_PER_FUEL: usize = 64;

/// Charges for a result before it exists. minijinja charges afterwards, when a few nested
/// `'x'.replace('', y)` have already exhausted memory.
pub(super) fn charge(state: &State, bytes: usize) -> Result<(), Error> {
    state.consume_fuel((bytes / BYTES_PER_FUEL) as u64 + 1)
}

/// Charges for printing each of the values `times` times, including what they contain.
pub(super) fn charge_printing(state: &State, values: &[Value], times: usize) -> Result<(), Error> {
    let mut pending = values.to_vec();
    while let Some(value) = pending.pop() {
        let bytes = value.as_str().map_or(BYTES_PER_FUEL / 2, |s| 2 * s.len());
        charge(state, bytes.saturating_mul(times))?;
        if value.kind() == ValueKind::Map {
            let keys = value.try_iter().into_iter().flatten();
            pending.extend(keys.filter_map(|key| value.get_item(&key).ok()));
        }
        if matches!(value.kind(), ValueKind::Map | ValueKind::Seq | ValueKind::Iterable) {
            pending.extend(value.try_iter().into_iter().flatten());
        }
    }
    Ok(())
}

/// A tuple, which prints with parentheses.
pub(super) fn tuple<const N: usize>(values: [&str; N]) -> Value {
    Value::from(Tuple::from(values.map(Value::from)))
}

/// A float as Python prints it: the shortest digits that identify it, with an exponent if it is very
/// large or small.
pub(super) fn python_float(x: f64) -> String {
    if !x.is_finite() {
        let name = if x.is_nan() { "nan" } else { "inf" };
        return format!("{}{name}", if x < 0.0 { "-" } else { "" });
    }
    let scientific = format!("{x:e}");
    let exponent = scientific.split_once('e').and_then(|(_, e)| e.parse::<i32>().ok());
    match exponent {
        Some(exponent) if !(-4..16).contains(&exponent) => {
            let mantissa = scientific.split('e').next().unwrap_or_default();
            format!("{mantissa}e{}{:02}", if exponent < 0 { '-' } else { '+' }, exponent.abs())
        }
        _ => format!("{x:?}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn floats_match_python() {
        for (x, expected) in [
            (1.0, "1.0"),
            (-0.0, "-0.0"),
            (0.1 + 0.2, "0.30000000000000004"),
            (1e15, "1000000000000000.0"),
            (1e16, "1e+16"),
            (1.5e300, "1.5e+300"),
            (0.0001, "0.0001"),
            (1.25e-5, "1.25e-05"),
            (f64::NEG_INFINITY, "-inf"),
        ] {
            assert_eq!(python_float(x), expected);
        }
    }
}

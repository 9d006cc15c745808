//! What chat templates expect and minijinja lacks or does differently: Hugging Face's functions, and the
//! meaning that Python gives to tests, filters, methods and operators.

mod filters;
mod methods;
mod strftime;
mod tojson;

use std::sync::LazyLock;
use std::time::{SystemTime, UNIX_EPOCH};

use minijinja::value::ValueKind;
use minijinja::{Environment, Error, ErrorKind, State, Value};

use crate::meter::type_name;

pub(crate) use filters::{ITERATE, REM};

/// Adds functions, filters, tests and methods to a template environment. `now` replaces the current time.
pub(crate) fn install(env: &mut Environment<'static>, now: Option<u64>) {
    env.add_function("raise_exception", |message: String| -> Result<Value, Error> {
        refuse(message)
    });
    env.add_function("strftime_now", move |format: &Value| {
        let clock = || SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_secs());
        let format = format.as_str().ok_or_else(|| invalid("the format of a date is a string"))?;
        Ok::<_, Error>(strftime::strftime(format, now.unwrap_or_else(clock)))
    });
    env.add_test("iterable", is_iterable);
    env.add_test("sequence", |v: &Value| {
        is_iterable(v) && !matches!(v.kind(), ValueKind::Iterable | ValueKind::Plain)
    });
    env.add_test("mapping", |v: &Value| v.kind() == ValueKind::Map && !is_object(v));
    env.add_test("callable", |v: &Value| {
        v.is_undefined() || v.kind() == ValueKind::Plain || is_of_type(v, &MACRO)
    });
    env.add_filter("tojson", tojson::tojson);
    filters::install(env);
    env.set_unknown_method_callback(|state, value, method, args| {
        methods::call(state, value, method, args)
    });
}

/// Iterating over an undefined value is possible, as in Jinja.
fn is_iterable(value: &Value) -> bool {
    !value.is_none() && value.try_iter().is_ok()
}

/// Whether a value is an object with attributes that minijinja presents as a map.
fn is_object(value: &Value) -> bool {
    is_of_type(value, &NAMESPACE) || is_of_type(value, &MACRO)
}

fn is_of_type(value: &Value, name: &str) -> bool {
    value.as_object().is_some_and(|object| object.type_name() == name)
}

static NAMESPACE: LazyLock<String> = LazyLock::new(|| type_name("namespace()"));
static MACRO: LazyLock<String> = LazyLock::new(|| type_name("m"));

fn invalid(what: impl Into<String>) -> Error {
    Error::new(ErrorKind::InvalidOperation, what.into())
}

fn refuse<T>(what: impl Into<String>) -> Result<T, Error> {
    Err(invalid(what))
}

/// Bytes per unit of minijinja's fuel.
const BYTES_PER_FUEL: usize = 64;

/// Charges for a result before it exists. minijinja charges afterwards, when a few nested
/// `'x'.replace('', y)` have already exhausted memory.
fn charge(state: &State, bytes: usize) -> Result<(), Error> {
    state.consume_fuel((bytes / BYTES_PER_FUEL) as u64 + 1)
}

/// A float as Python prints it: the shortest digits that identify it, with an exponent if it is very
/// large or small.
fn python_float(x: f64) -> String {
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

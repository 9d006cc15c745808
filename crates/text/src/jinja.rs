//! What chat templates expect and minijinja lacks or does differently: Hugging Face's functions, and the
//! meaning that Python gives to tests, filters, methods and operators.

mod filters;
mod methods;
mod strftime;
mod tojson;
mod values;

use std::time::{SystemTime, UNIX_EPOCH};

use minijinja::value::ValueKind;
use minijinja::{Environment, Error, Value};

pub(crate) use filters::{ITERATE, REM};
use values::{invalid, is_callable, is_iterable, is_object, refuse};

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
    env.add_test("callable", is_callable);
    env.add_filter("tojson", tojson::tojson);
    filters::install(env);
    env.set_unknown_method_callback(|state, value, method, args| {
        methods::call(state, value, method, args)
    });
}

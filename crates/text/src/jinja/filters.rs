//! Filters whose meaning differs from minijinja's, and operators in the form of filters.

use minijinja::value::{Kwargs, Rest, StringInput, ValueKind, ValueOrKwargs, from_args};
use minijinja::{Environment, Error, State, Value, filters};

use super::values::{argument, charge, charge_printing, invalid, is_iterable, refuse};

/// Names of the filters that replace the operator `%` and follow what a loop iterates over. If a template
/// itself uses them, they do the same.
pub(crate) const REM: &str = "rem__";
pub(crate) const ITERATE: &str = "iterate__";

pub(super) fn install(env: &mut Environment<'static>) {
    env.add_filter(REM, rem);
    env.add_filter(ITERATE, iterable);
    env.add_filter("list", |state: &State, value: Value| filters::list(state, iterable(value)?));
    env.add_filter("join", join);
    env.add_filter("int", int);
    env.add_filter("float", float);
    for name in ["default", "d"] {
        env.add_filter(name, default);
    }
    env.add_filter("trim", |value: &Value, chars: Option<&str>, options: Kwargs| {
        let chars = argument(chars, &options, "chars")?;
        options.assert_all_used()?;
        let text = value.to_string();
        Ok::<_, Error>(match chars {
            Some(chars) => text.trim_matches(|c| chars.contains(c)).to_owned(),
            None => text.trim().to_owned(),
        })
    });
    for name in ["escape", "e"] {
        env.add_filter(
            name,
            |state: &State, value: Value| {
                if value.is_safe() { Ok(value) } else { escape(state, &value) }
            },
        );
    }
    env.add_filter("forceescape", |state: &State, value: &Value| escape(state, value));
    env.add_filter("indent", indent);
    env.add_filter("wordcount", |value: &Value| {
        let text = value.to_string();
        let words = text.split(|c: char| !(c.is_alphanumeric() || c == '_'));
        words.filter(|word| !word.is_empty()).count()
    });
}

/// Refuses to iterate over none, which minijinja permits.
fn iterable(value: Value) -> Result<Value, Error> {
    if is_iterable(&value) { Ok(value) } else { refuse("the value is not iterable") }
}

fn join(
    state: &mut State,
    value: Value,
    separator: Option<StringInput<'_>>,
    attribute: Option<&str>,
    options: Kwargs,
) -> Result<Value, Error> {
    filters::join(state, &iterable(value)?, separator, attribute, options)
}

/// Indents all lines but the first and empty ones, by a number of blanks or by a text.
fn indent(state: &State, text: &str, arguments: Rest<ValueOrKwargs>) -> Result<String, Error> {
    let arguments = arguments.into_values();
    let (width, first, blank, options): (Option<Value>, Option<bool>, Option<bool>, Kwargs) =
        from_args(&arguments)?;
    let width = argument(width, &options, "width")?;
    let first = argument(first, &options, "first")?;
    let blank = argument(blank, &options, "blank")?;
    options.assert_all_used()?;
    let width = width.unwrap_or_else(|| Value::from(4));
    let len = width.as_str().map_or_else(|| width.as_usize().unwrap_or(0), str::len);
    charge(state, len.saturating_mul(text.matches('\n').count() + 1))?;
    let indent = width.as_str().map_or_else(|| " ".repeat(len), str::to_owned);
    let mut out = String::with_capacity(text.len());
    for (i, line) in text.split('\n').enumerate() {
        let is_indented = match i {
            0 => first == Some(true),
            _ => !line.is_empty() || blank == Some(true),
        };
        out.push_str(if i > 0 { "\n" } else { "" });
        out.push_str(if is_indented { &indent } else { "" });
        out.push_str(line);
    }
    Ok(out)
}

/// The operator `%`: the remainder, or formatting if the left side is a string.
fn rem(state: &mut State, left: &Value, right: &Value) -> Result<Value, Error> {
    if let Some(format) = left.as_str() {
        return printf(state, left, format, right);
    }
    let number = |v: &Value| matches!(v.kind(), ValueKind::Number | ValueKind::Bool);
    if !number(left) || !number(right) {
        return refuse("% needs two numbers, or a string on its left");
    }
    let integers = (left.is_integer() || left.kind() == ValueKind::Bool)
        && (right.is_integer() || right.kind() == ValueKind::Bool);
    if integers {
        let (a, b) = (i128::try_from(left.clone())?, i128::try_from(right.clone())?);
        let rem = a.checked_rem(b).ok_or_else(|| invalid("division by zero"))?;
        let rem = if rem != 0 && (rem < 0) != (b < 0) { rem + b } else { rem };
        return Ok(i64::try_from(rem).map_or_else(|_| Value::from(rem), Value::from));
    }
    let (a, b) = (f64::try_from(left.clone())?, f64::try_from(right.clone())?);
    if b == 0.0 {
        return refuse("division by zero");
    }
    let rem = a % b;
    let rem = if rem != 0.0 && (rem < 0.0) != (b < 0.0) { rem + b } else { rem };
    Ok(Value::from(if rem == 0.0 { 0.0f64.copysign(b) } else { rem }))
}

/// `format % values`. A tuple has one value per field, a dictionary names them.
fn printf(state: &mut State, text: &Value, format: &str, right: &Value) -> Result<Value, Error> {
    let fields = format.replace("%%", "").matches('%').count();
    let mut args = vec![text.clone()];
    match right.kind() {
        _ if right.is_tuple() => {
            args.extend(right.try_iter()?);
            if args.len() != fields + 1 {
                return refuse("not as many values as fields in a format");
            }
        }
        ValueKind::Map => args.push(right.clone()),
        ValueKind::Seq if fields == 0 => {}
        _ if fields != 1 => return refuse("not as many values as fields in a format"),
        _ => args.push(right.clone()),
    }
    charge_printing(state, &args[1..], fields)?;
    state.apply_filter("format", &args)
}

/// `int(value)`, or the default if that fails. Python allows blanks around digits, and `_` between them.
fn int(
    state: &State,
    value: &Value,
    default: Option<Value>,
    base: Option<u32>,
    options: Kwargs,
) -> Result<Value, Error> {
    let default = argument(default, &options, "default")?;
    let base = argument(base, &options, "base")?;
    options.assert_all_used()?;
    if value.is_undefined() {
        return refuse("an undefined value is not a number");
    }
    let default = default.unwrap_or_else(|| Value::from(0));
    let value = value.as_str().map_or_else(|| value.clone(), |text| Value::from(digits(text)));
    filters::int(state, &value, Some(default), base, none())
}

fn float(
    state: &State,
    value: &Value,
    default: Option<Value>,
    options: Kwargs,
) -> Result<Value, Error> {
    let default = argument(default, &options, "default")?;
    options.assert_all_used()?;
    if value.is_undefined() {
        return refuse("an undefined value is not a number");
    }
    let default = default.unwrap_or_else(|| Value::from(0.0));
    let value = value.as_str().map_or_else(|| value.clone(), |text| Value::from(digits(text)));
    filters::float(state, &value, Some(default), none())
}

fn none() -> Kwargs {
    std::iter::empty::<(&str, Value)>().collect()
}

/// The digits of a number without blanks and with valid underscores removed.
fn digits(text: &str) -> String {
    let text = text.trim();
    let is_valid = !text.starts_with('_') && !text.ends_with('_') && !text.contains("__");
    if is_valid { text.replace('_', "") } else { text.to_owned() }
}

fn default(value: &Value, arguments: Rest<ValueOrKwargs>) -> Result<Value, Error> {
    let arguments = arguments.into_values();
    let (positional, options) = match arguments.split_last() {
        Some((last, rest)) if last.is_kwargs() => (rest, Kwargs::try_from(last.clone())?),
        _ => (&arguments[..], none()),
    };
    if positional.len() > 2 {
        return refuse("default() takes two arguments");
    }
    let nth = |at: usize, name| match positional.get(at) {
        Some(value) => Ok(Some(value.clone())),
        None => options.get::<Option<Value>>(name),
    };
    let other = match positional.first() {
        None if !options.has("default_value") => Value::from(""),
        _ => nth(0, "default_value")?.unwrap_or_else(|| Value::from(())),
    };
    let replaces_false = nth(1, "boolean")?.is_some_and(|v| v.is_true());
    options.assert_all_used()?;
    let is_missing = value.is_undefined() || replaces_false && !value.is_true();
    Ok(if is_missing { other } else { value.clone() })
}

fn escape(state: &State, value: &Value) -> Result<Value, Error> {
    let text = value.to_string();
    charge(state, text.len().saturating_mul(5))?;
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '"' => out.push_str("&#34;"),
            '\'' => out.push_str("&#39;"),
            c => out.push(c),
        }
    }
    Ok(Value::from_safe_string(out))
}

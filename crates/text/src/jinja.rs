//! Functions and filters that chat templates expect and minijinja lacks: Python's JSON format, dates,
//! and Hugging Face's additions.

use std::time::{SystemTime, UNIX_EPOCH};

use minijinja::value::Kwargs;
use minijinja::{Environment, Error, ErrorKind, State, Value};
use serde::Serialize;
use serde_json::ser::{Formatter, PrettyFormatter};

/// Adds functions and filters to a template environment.
pub(crate) fn install(env: &mut Environment<'static>) {
    env.add_filter("tojson", tojson);
    env.add_function("raise_exception", |message: String| -> Result<Value, Error> {
        Err(Error::new(ErrorKind::InvalidOperation, message))
    });
    env.add_function("strftime_now", |format: String| {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_secs());
        strftime(&format, now)
    });
    env.set_unknown_method_callback(|state, value, method, args| {
        if let Some(text) = value.as_str() {
            charge_method(state, text, method, args)?;
        }
        minijinja_contrib::pycompat::unknown_method_callback(state, value, method, args)
    });
}

/// Bytes per unit of minijinja's fuel.
const BYTES_PER_FUEL: usize = 64;

/// Charges for the result of a Python string method in advance. minijinja charges only once the result
/// exists, when a few nested `'x'.replace('', y)` have already exhausted memory.
fn charge_method(state: &State, text: &str, method: &str, args: &[Value]) -> Result<(), Error> {
    let arg = |i: usize| args.get(i).and_then(Value::as_str);
    let refuse = |what| Err(Error::new(ErrorKind::InvalidOperation, what));
    let bytes = match method {
        "replace" => {
            let count = text.matches(arg(0).unwrap_or_default()).count();
            count.saturating_mul(arg(1).unwrap_or_default().len())
        }
        "split" | "splitlines" => {
            let pieces = match arg(0) {
                Some(separator) => text.matches(separator).count(),
                None => text.split_whitespace().count(),
            };
            pieces * BYTES_PER_FUEL
        }
        "join" => {
            let mut bytes = 0usize;
            for item in args.first().into_iter().flat_map(Value::try_iter).flatten() {
                let Some(item) = item.as_str() else {
                    return refuse("join() supports only strings");
                };
                state.consume_fuel(1)?;
                bytes = bytes.saturating_add(text.len() + item.len());
            }
            bytes
        }
        "format" if text.contains(':') || args.iter().any(|a| a.as_object().is_some()) => {
            return refuse("format() supports only plain fields and plain values");
        }
        _ => 0,
    };
    state.consume_fuel((text.len().saturating_add(bytes) / BYTES_PER_FUEL) as u64 + 1)
}

/// Separates items with `, ` and keys from values with `: `, as Python does.
struct PythonJson;

impl Formatter for PythonJson {
    fn begin_array_value<W: ?Sized + std::io::Write>(
        &mut self,
        out: &mut W,
        first: bool,
    ) -> std::io::Result<()> {
        if first { Ok(()) } else { out.write_all(b", ") }
    }

    fn begin_object_key<W: ?Sized + std::io::Write>(
        &mut self,
        out: &mut W,
        first: bool,
    ) -> std::io::Result<()> {
        if first { Ok(()) } else { out.write_all(b", ") }
    }

    fn begin_object_value<W: ?Sized + std::io::Write>(
        &mut self,
        out: &mut W,
    ) -> std::io::Result<()> {
        out.write_all(b": ")
    }
}

/// `json.dumps(value, ensure_ascii=False)`, without HTML escapes.
fn tojson(value: &Value, options: Kwargs) -> Result<String, Error> {
    let indent: Option<usize> = options.get("indent")?;
    let _: Option<bool> = options.get("ensure_ascii")?;
    options.assert_all_used()?;
    let mut out = Vec::new();
    let written = match indent {
        Some(n) => {
            let spaces = " ".repeat(n.min(16));
            let pretty = PrettyFormatter::with_indent(spaces.as_bytes());
            value.serialize(&mut serde_json::Serializer::with_formatter(&mut out, pretty))
        }
        None => value.serialize(&mut serde_json::Serializer::with_formatter(&mut out, PythonJson)),
    };
    let error = |why| Error::new(ErrorKind::BadSerialization, why);
    written.map_err(|e| error(e.to_string()))?;
    String::from_utf8(out).map_err(|e| error(e.to_string()))
}

const MONTHS: [&str; 12] = [
    "January",
    "February",
    "March",
    "April",
    "May",
    "June",
    "July",
    "August",
    "September",
    "October",
    "November",
    "December",
];
const DAYS: [&str; 7] =
    ["Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday"];

/// Formats a Unix time, in UTC, with the directives that templates use; other directives are kept
/// verbatim.
pub(crate) fn strftime(format: &str, unix: u64) -> String {
    let days = unix / 86_400;
    let hour = unix / 3600 % 24;
    let minute = unix / 60 % 60;
    let second = unix % 60;
    let (year, month, day) = civil(days);
    let month_name = MONTHS[month as usize - 1];
    let weekday = DAYS[(days as usize + 3) % 7]; // 1 January 1970 was a Thursday
    let mut out = String::new();
    let mut rest = format;
    while let Some((before, after)) = rest.split_once('%') {
        out.push_str(before);
        let directive = after.chars().next().unwrap_or('%');
        rest = after.strip_prefix(directive).unwrap_or_default();
        out.push_str(&match directive {
            'Y' => year.to_string(),
            'y' => format!("{:02}", year % 100),
            'm' => format!("{month:02}"),
            'd' => format!("{day:02}"),
            'e' => format!("{day:2}"),
            'B' => month_name.to_owned(),
            'b' => month_name[..3].to_owned(),
            'A' => weekday.to_owned(),
            'a' => weekday[..3].to_owned(),
            'H' => format!("{hour:02}"),
            'M' => format!("{minute:02}"),
            'S' => format!("{second:02}"),
            'F' => format!("{year}-{month:02}-{day:02}"),
            '%' => "%".to_owned(),
            other => format!("%{other}"),
        });
    }
    out + rest
}

/// Converts days since 1970 to year, month and day of the Gregorian calendar, counting years from March
/// in eras of 400 (H. Hinnant, "chrono-compatible low-level date algorithms").
fn civil(days: u64) -> (u64, u64, u64) {
    let days = days + 719_468;
    let (era, of_era) = (days / 146_097, days % 146_097);
    let year = (of_era - of_era / 1460 + of_era / 36_524 - of_era / 146_096) / 365;
    let of_year = of_era - (365 * year + year / 4 - year / 100);
    let month = (5 * of_year + 2) / 153;
    let day = of_year - (153 * month + 2) / 5 + 1;
    let (month, next) = if month < 10 { (month + 3, 0) } else { (month - 9, 1) };
    (era * 400 + year + next, month, day)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dates_match_python() {
        // datetime.fromtimestamp(t, tz=utc).strftime(...) of CPython 3.12
        assert_eq!(strftime("%d %b %Y", 1_722_384_000), "31 Jul 2024");
        assert_eq!(
            strftime("%A, %B %e %y %H:%M:%S", 1_709_210_096),
            "Thursday, February 29 24 12:34:56"
        );
        assert_eq!(strftime("%F 100%% %Q %", 0), "1970-01-01 100% %Q %");
        assert_eq!(strftime("%a %Y-%m-%d", 4_107_542_399), "Sun 2100-02-28");
    }
}

//! Methods of Python's strings, lists and dictionaries.

use minijinja::value::{Kwargs, ValueKind, from_args};
use minijinja::{Error, ErrorKind, State, Value};
use minijinja_contrib::pycompat::unknown_method_callback;

use super::values::{BYTES_PER_FUEL, argument, charge, charge_printing, refuse, tuple};

/// Calls a method. Those not listed here are minijinja-contrib's.
pub(super) fn call(
    state: &mut State,
    value: &Value,
    method: &str,
    args: &[Value],
) -> Result<Value, Error> {
    let found = match value.as_str() {
        Some(text) => {
            charge_for(state, text, method, args)?;
            string_method(text, method, args)
        }
        None => collection_method(value, method, args),
    };
    match found {
        Err(error) if error.kind() == ErrorKind::UnknownMethod => {
            unknown_method_callback(state, value, method, args)
        }
        found => found,
    }
}

/// Charges for a string method's result.
fn charge_for(state: &State, text: &str, method: &str, args: &[Value]) -> Result<(), Error> {
    let arg = |i: usize| args.get(i).and_then(Value::as_str);
    let number = |i: usize| args.get(i).and_then(Value::as_usize).unwrap_or(0);
    let bytes = match method {
        "replace" => {
            let count = text.matches(arg(0).unwrap_or_default()).count();
            count.saturating_mul(arg(1).unwrap_or_default().len())
        }
        "split" | "rsplit" | "splitlines" => {
            let pieces = match arg(0) {
                Some(separator) if !separator.is_empty() => text.matches(separator).count(),
                _ if method == "splitlines" => text.matches(is_line_end).count(),
                // A separator given by name may be any byte.
                _ if args.iter().any(Value::is_kwargs) => text.len(),
                _ => text.split_whitespace().count(),
            };
            pieces.saturating_mul(BYTES_PER_FUEL)
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
        "zfill" | "center" | "ljust" | "rjust" => number(0).saturating_mul(4),
        "expandtabs" => text.matches('\t').count().saturating_mul(number(0).max(8)),
        "format" => {
            check_widths(text)?;
            let fields = text.matches('{').count();
            charge_printing(state, args, fields)?;
            fields.saturating_mul(MAX_WIDTH)
        }
        _ => 0,
    };
    charge(state, text.len().saturating_add(bytes))
}

/// Maximum width and precision of a field of `format()`.
const MAX_WIDTH: usize = 1_000;

fn check_widths(format: &str) -> Result<(), Error> {
    let mut numbers = format.split(|c: char| !c.is_ascii_digit());
    let fits =
        |digits: &str| digits.is_empty() || digits.parse().is_ok_and(|n: usize| n < MAX_WIDTH);
    // A field that contains another takes its width from a value.
    let is_nested = || {
        let mut depth = 0;
        format.replace("{{", "").chars().any(|c| {
            depth += i32::from(c == '{') - i32::from(c == '}');
            depth > 1
        })
    };
    match numbers.all(fits) && !is_nested() {
        true => Ok(()),
        false => refuse("format() supports only plain fields and small widths"),
    }
}

fn string_method(text: &str, method: &str, args: &[Value]) -> Result<Value, Error> {
    Ok(match method {
        "split" => split(text, args, false)?,
        "rsplit" => split(text, args, true)?,
        "splitlines" => split_lines(text, args)?,
        "partition" | "rpartition" => {
            let (separator,): (&str,) = from_args(args)?;
            if separator.is_empty() {
                return refuse("empty separator");
            }
            let is_last = method == "rpartition";
            let found =
                if is_last { text.rsplit_once(separator) } else { text.split_once(separator) };
            match found {
                Some((before, after)) => tuple([before, separator, after]),
                None if is_last => tuple(["", "", text]),
                None => tuple([text, "", ""]),
            }
        }
        "removeprefix" | "removesuffix" => {
            let (part,): (&str,) = from_args(args)?;
            let is_prefix = method == "removeprefix";
            let rest = if is_prefix { text.strip_prefix(part) } else { text.strip_suffix(part) };
            Value::from(rest.unwrap_or(text))
        }
        "find" | "rfind" | "index" | "rindex" => {
            let (part, start, end): (&str, Option<i64>, Option<i64>) = from_args(args)?;
            let found = within(text, start, end).and_then(|(skipped, text)| {
                let at = if method.starts_with('r') { text.rfind(part) } else { text.find(part) };
                Some(skipped + text[..at?].chars().count())
            });
            match found {
                Some(at) => Value::from(at),
                None if method.ends_with("index") => return refuse("substring not found"),
                None => Value::from(-1),
            }
        }
        "count" => {
            let (part, start, end): (&str, Option<i64>, Option<i64>) = from_args(args)?;
            Value::from(within(text, start, end).map_or(0, |(_, text)| text.matches(part).count()))
        }
        "startswith" | "endswith" => {
            let (parts, start, end): (&Value, Option<i64>, Option<i64>) = from_args(args)?;
            let text = within(text, start, end).map_or("", |(_, text)| text);
            let is_prefix = method == "startswith";
            let is_at_end =
                |part: &str| if is_prefix { text.starts_with(part) } else { text.ends_with(part) };
            Value::from(match parts.as_str() {
                Some(part) => is_at_end(part),
                None if parts.is_tuple() => {
                    parts.try_iter()?.any(|part| part.as_str().is_some_and(is_at_end))
                }
                None => return refuse("the prefix or suffix is a string or a tuple of strings"),
            })
        }
        "zfill" => {
            let (width,): (usize,) = from_args(args)?;
            let digits = text.trim_start_matches(['+', '-']);
            let (sign, digits) = match text.len() - digits.len() {
                1 => text.split_at(1),
                _ => ("", text),
            };
            Value::from(format!("{sign}{}{digits}", "0".repeat(missing(text, width))))
        }
        "center" | "ljust" | "rjust" => {
            let (width, fill): (usize, Option<char>) = from_args(args)?;
            let n = missing(text, width);
            // Python puts the odd character to the left if the width is odd.
            let left = match method {
                "center" => n / 2 + (n & width & 1),
                "ljust" => 0,
                _ => n,
            };
            let fill = |n: usize| fill.unwrap_or(' ').to_string().repeat(n);
            Value::from(format!("{}{text}{}", fill(left), fill(n - left)))
        }
        "expandtabs" => expand_tabs(text, args)?,
        "title" => with_no_args(args, title(text))?,
        "istitle" => {
            let has_case = text.chars().any(|c| c.is_lowercase() || c.is_uppercase());
            with_no_args(args, has_case && title(text) == text)?
        }
        "swapcase" => with_no_args(args, swap_case(text))?,
        "isdecimal" => {
            let is_decimal = !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
            with_no_args(args, is_decimal)?
        }
        _ => return Err(Error::from(ErrorKind::UnknownMethod)),
    })
}

fn collection_method(value: &Value, method: &str, args: &[Value]) -> Result<Value, Error> {
    let is_list = value.kind() == ValueKind::Seq;
    match method {
        // Templates cannot change a value, so a copy is the value.
        "copy" if is_list && !value.is_tuple() || value.kind() == ValueKind::Map => {
            let () = from_args(args)?;
            Ok(value.clone())
        }
        "index" if is_list => {
            let (what,): (&Value,) = from_args(args)?;
            match value.try_iter()?.position(|item| item == *what) {
                Some(at) => Ok(Value::from(at)),
                None => refuse("the value is not in the list"),
            }
        }
        _ => Err(Error::from(ErrorKind::UnknownMethod)),
    }
}

fn with_no_args(args: &[Value], value: impl Into<Value>) -> Result<Value, Error> {
    let () = from_args(args)?;
    Ok(value.into())
}

/// Characters that `text` lacks to be `width` long.
fn missing(text: &str, width: usize) -> usize {
    width.saturating_sub(text.chars().count())
}

/// `text[start:end]`, and the number of characters before it; `None` if `start` is beyond the end.
fn within(text: &str, start: Option<i64>, end: Option<i64>) -> Option<(usize, &str)> {
    if start.is_none() && end.is_none() {
        return Some((0, text));
    }
    let len = text.chars().count() as i64;
    let clamp = |i: i64| if i < 0 { (len + i).max(0) } else { i.min(len) } as usize;
    let (start, end) = (start.unwrap_or(0), clamp(end.unwrap_or(len)));
    if start > len || clamp(start) > end {
        return None;
    }
    let byte = |n: usize| text.char_indices().nth(n).map_or(text.len(), |(at, _)| at);
    Some((clamp(start), &text[byte(clamp(start))..byte(end)]))
}

/// `split` and, from the end, `rsplit`.
fn split(text: &str, args: &[Value], from_end: bool) -> Result<Value, Error> {
    let (separator, max, options): (Option<&str>, Option<i64>, Kwargs) = from_args(args)?;
    let separator = argument(separator, &options, "sep")?;
    let max = argument(max, &options, "maxsplit")?;
    options.assert_all_used()?;
    let max = max.and_then(|n| usize::try_from(n).ok()).unwrap_or(usize::MAX);
    let mut pieces: Vec<Value> = match separator {
        Some("") => return refuse("empty separator"),
        Some(separator) => {
            let n = max.saturating_add(1);
            match from_end {
                true => text.rsplitn(n, separator).map(Value::from).collect(),
                false => text.splitn(n, separator).map(Value::from).collect(),
            }
        }
        None => split_blanks(text, max, from_end).into_iter().map(Value::from).collect(),
    };
    if from_end {
        pieces.reverse();
    }
    Ok(Value::from(pieces))
}

/// Words, and after `max` of them the rest of the text. From the end, the last word comes first.
fn split_blanks(text: &str, max: usize, from_end: bool) -> Vec<&str> {
    let trim = if from_end { str::trim_end } else { str::trim_start };
    let mut words = Vec::new();
    let mut rest = trim(text);
    while !rest.is_empty() {
        let is_blank = char::is_whitespace;
        let at = if from_end { rest.rfind(is_blank) } else { rest.find(is_blank) };
        let Some(at) = at.filter(|_| words.len() < max) else {
            words.push(rest);
            break;
        };
        let (before, after) = rest.split_at(at);
        let (word, others) = if from_end { (after, before) } else { (before, after) };
        words.push(word.trim());
        rest = trim(others);
    }
    words
}

/// The characters that end a line in Python.
fn is_line_end(c: char) -> bool {
    matches!(
        c,
        '\n' | '\r' | '\x0b' | '\x0c' | '\x1c'..='\x1e' | '\u{85}' | '\u{2028}' | '\u{2029}'
    )
}

fn split_lines(text: &str, args: &[Value]) -> Result<Value, Error> {
    let (keep, options): (Option<bool>, Kwargs) = from_args(args)?;
    let keep = argument(keep, &options, "keepends")?;
    options.assert_all_used()?;
    let mut lines = Vec::new();
    let mut rest = text;
    while let Some(at) = rest.find(is_line_end) {
        let end = match rest[at..].starts_with("\r\n") {
            true => 2,
            false => rest[at..].chars().next().map_or(0, char::len_utf8),
        };
        lines.push(Value::from(&rest[..if keep == Some(true) { at + end } else { at }]));
        rest = &rest[at + end..];
    }
    if !rest.is_empty() {
        lines.push(Value::from(rest));
    }
    Ok(Value::from(lines))
}

fn expand_tabs(text: &str, args: &[Value]) -> Result<Value, Error> {
    let (size,): (Option<usize>,) = from_args(args)?;
    let size = size.unwrap_or(8);
    let mut out = String::with_capacity(text.len());
    let mut column = 0;
    for c in text.chars() {
        match c {
            '\t' if size == 0 => {}
            '\t' => {
                let n = size - column % size;
                out.extend(std::iter::repeat_n(' ', n));
                column += n;
            }
            c => {
                out.push(c);
                column = if matches!(c, '\n' | '\r') { 0 } else { column + 1 };
            }
        }
    }
    Ok(Value::from(out))
}

/// Letters after something that is not a letter are capitals, the others are not.
fn title(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut in_word = false;
    for c in text.chars() {
        match in_word {
            true => out.extend(c.to_lowercase()),
            false => out.extend(c.to_uppercase()),
        }
        in_word = c.is_lowercase() || c.is_uppercase();
    }
    out
}

fn swap_case(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match c.is_uppercase() {
            true => out.extend(c.to_lowercase()),
            false => out.extend(c.to_uppercase()),
        }
    }
    out
}

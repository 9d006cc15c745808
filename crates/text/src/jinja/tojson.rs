//! The filter `tojson` as transformers defines it: Python's `json.dumps`, without HTML escapes.

use std::fmt::Write;

use minijinja::value::{Kwargs, ValueKind};
use minijinja::{Error, Value};

use crate::masks::MASKS;

use super::values::{argument, invalid, is_object, python_float, refuse};

/// Maximum length of an indentation or a separator, which occur once per item.
const MAX_SEPARATOR: usize = 16;

/// `json.dumps(value, ensure_ascii, indent, separators, sort_keys)`.
pub(super) fn tojson(
    value: &Value,
    ensure_ascii: Option<bool>,
    indent: Option<Value>,
    separators: Option<Value>,
    options: Kwargs,
) -> Result<String, Error> {
    let ascii = argument(ensure_ascii, &options, "ensure_ascii")?.unwrap_or(false);
    let indent =
        argument(indent, &options, "indent")?.map(|value| indentation(&value)).transpose()?;
    let separators = argument(separators, &options, "separators")?.map(|v| pair(&v)).transpose()?;
    let sort_keys = options.get::<Option<bool>>("sort_keys")?.unwrap_or(false);
    options.assert_all_used()?;
    let item = if indent.is_some() { "," } else { ", " };
    let (item, key) = separators.unwrap_or_else(|| (item.to_owned(), ": ".to_owned()));
    let mut writer = Writer { out: String::new(), ascii, indent, item, key, sort_keys };
    writer.value(value, 0)?;
    Ok(writer.out)
}

fn indentation(value: &Value) -> Result<String, Error> {
    match value.as_str() {
        Some(text) if text.len() <= MAX_SEPARATOR => Ok(text.to_owned()),
        Some(_) => refuse("the indentation is too long"),
        None => {
            let n = i64::try_from(value.clone())?;
            Ok(" ".repeat(usize::try_from(n).unwrap_or(0).min(MAX_SEPARATOR)))
        }
    }
}

fn pair(value: &Value) -> Result<(String, String), Error> {
    let texts: Option<Vec<String>> =
        value.try_iter()?.take(3).map(|v| v.as_str().map(str::to_owned)).collect();
    match texts.as_deref() {
        Some([item, key]) if item.len().max(key.len()) <= MAX_SEPARATOR => {
            Ok((item.clone(), key.clone()))
        }
        _ => refuse("separators are two short strings"),
    }
}

struct Writer {
    out: String,
    ascii: bool,
    /// What a level is indented by; `None` for a single line.
    indent: Option<String>,
    item: String,
    key: String,
    sort_keys: bool,
}

impl Writer {
    /// Values have a maximum depth, which bounds the recursion.
    fn value(&mut self, value: &Value, depth: usize) -> Result<(), Error> {
        match value.kind() {
            ValueKind::None => self.out.push_str("null"),
            ValueKind::Bool => self.out.push_str(if value.is_true() { "true" } else { "false" }),
            ValueKind::Number => self.out.push_str(&number(value)?),
            ValueKind::String => self.string(value.as_str().unwrap_or_default()),
            ValueKind::Seq | ValueKind::Iterable => {
                self.open('[');
                let mut is_first = true;
                for item in value.try_iter()? {
                    self.next(std::mem::take(&mut is_first), depth + 1);
                    self.value(&item, depth + 1)?;
                }
                self.close(']', is_first, depth);
            }
            ValueKind::Map if !is_object(value) => self.map(value, depth)?,
            kind => return refuse(format!("JSON has no {kind}")),
        }
        Ok(())
    }

    fn map(&mut self, map: &Value, depth: usize) -> Result<(), Error> {
        let mut keys: Vec<Value> = map.try_iter()?.collect();
        if self.sort_keys {
            keys.sort();
        }
        self.open('{');
        let mut is_first = true;
        for key in keys {
            self.next(std::mem::take(&mut is_first), depth + 1);
            match key.kind() {
                ValueKind::String => self.string(key.as_str().unwrap_or_default()),
                ValueKind::None => self.out.push_str("\"null\""),
                ValueKind::Bool => {
                    write_quoted(&mut self.out, if key.is_true() { "true" } else { "false" })
                }
                ValueKind::Number => write_quoted(&mut self.out, &number(&key)?),
                _ => return refuse("JSON needs strings as keys"),
            }
            self.out.push_str(&self.key);
            self.value(&map.get_item(&key)?, depth + 1)?;
        }
        self.close('}', is_first, depth);
        Ok(())
    }

    fn open(&mut self, bracket: char) {
        self.out.push(bracket);
    }

    fn next(&mut self, is_first: bool, depth: usize) {
        if !is_first {
            self.out.push_str(&self.item);
        }
        self.new_line(depth);
    }

    fn close(&mut self, bracket: char, is_empty: bool, depth: usize) {
        if !is_empty {
            self.new_line(depth);
        }
        self.out.push(bracket);
    }

    fn new_line(&mut self, depth: usize) {
        if let Some(indent) = &self.indent {
            self.out.push('\n');
            (0..depth).for_each(|_| self.out.push_str(indent));
        }
    }

    fn string(&mut self, text: &str) {
        self.out.push('"');
        for c in text.chars() {
            match c {
                '"' => self.out.push_str("\\\""),
                '\\' => self.out.push_str("\\\\"),
                '\n' => self.out.push_str("\\n"),
                '\r' => self.out.push_str("\\r"),
                '\t' => self.out.push_str("\\t"),
                '\x08' => self.out.push_str("\\b"),
                '\x0c' => self.out.push_str("\\f"),
                c if c < ' ' || self.ascii && !is_verbatim(c) => {
                    for unit in c.encode_utf16(&mut [0; 2]) {
                        // Writing to a string cannot fail.
                        let _ = write!(self.out, "\\u{unit:04x}");
                    }
                }
                c => self.out.push(c),
            }
        }
        self.out.push('"');
    }
}

/// Whether a character is kept where others are escaped. Masks are, so that they can be removed later.
fn is_verbatim(c: char) -> bool {
    (' '..='~').contains(&c) || MASKS.contains(&c)
}

fn write_quoted(out: &mut String, text: &str) {
    out.extend(["\"", text, "\""]);
}

fn number(value: &Value) -> Result<String, Error> {
    if value.is_integer() {
        return Ok(value.to_string());
    }
    let x = f64::try_from(value.clone()).map_err(|e| invalid(e.to_string()))?;
    Ok(match x.is_finite() {
        true => python_float(x),
        false if x.is_nan() => "NaN".to_owned(),
        false => if x < 0.0 { "-Infinity" } else { "Infinity" }.to_owned(),
    })
}

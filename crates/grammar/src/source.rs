//! What an answer must follow.

use llguidance::api::{GrammarWithLexer, TopLevelGrammar};
use nanoinfer_text::{CallShape, Piece};
use serde_json::{Value, json};

use crate::reason::{check_regex, explain};
use crate::{Error, calls, gbnf, schema};

/// Maximum length of a source in bytes.
const MAX_LEN: usize = 1 << 20;
/// Maximum depth of brackets: parsers are recursive.
const MAX_DEPTH: usize = 200;

/// What an answer must follow.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub enum Source {
    /// A JSON object with any content.
    JsonObject,
    /// A JSON schema. Properties come in the order in which the schema lists them.
    JsonSchema(Value),
    /// A regular expression that matches the whole answer, in the syntax of the `regex` crate.
    Regex(String),
    /// A grammar in llguidance's dialect of Lark.
    Lark(String),
    /// A grammar in llama.cpp's format; the answer is its rule `root`.
    Gbnf(String),
    /// One of these texts.
    Choice(Vec<String>),
    /// At least one call of one of these tools.
    Calls(Vec<CallShape>),
}

impl Source {
    /// A JSON schema from its text.
    ///
    /// # Errors
    /// It is not JSON, or is nested too deeply.
    pub fn schema(text: &str) -> Result<Self, Error> {
        let value = serde_json::from_str(text.trim_start_matches('\u{feff}'));
        value.map(Self::JsonSchema).map_err(|e| {
            let text = e.to_string();
            let what = text.split(" at line ").next().unwrap_or_default();
            let place = format!("line {}, column {}", e.line(), e.column());
            Error::source(place, format!("not JSON: {what}"), "correct the schema")
        })
    }

    /// A grammar in GBNF, which is recognized by its `::=`, or else in Lark.
    pub fn grammar(text: &str) -> Self {
        let text = text.trim_start_matches('\u{feff}').to_owned();
        if gbnf::is_gbnf(&text) { Self::Gbnf(text) } else { Self::Lark(text) }
    }

    /// Checks the source as far as this is possible without a model, in time linear in its length.
    ///
    /// # Errors
    /// As for [`crate::Grammars::compile`].
    pub fn check(&self) -> Result<(), Error> {
        self.top().map(drop)
    }

    /// The source as llguidance takes it.
    pub(crate) fn top(&self) -> Result<TopLevelGrammar, Error> {
        Ok(match self {
            Self::JsonObject => json_grammar(json!({"type": "object"})),
            Self::JsonSchema(value) => {
                schema::check(value)?;
                limit("#", value.to_string().len())?;
                json_grammar(value.clone())
            }
            Self::Regex(pattern) => regex_grammar(pattern)?,
            Self::Lark(text) => {
                limit("the grammar", text.len())?;
                check_depth(text)?;
                TopLevelGrammar::from_lark(text.clone())
            }
            Self::Gbnf(text) => {
                limit("the grammar", text.len())?;
                TopLevelGrammar::from_lark(gbnf::to_lark(text)?)
            }
            Self::Choice(choices) => choice_grammar(choices)?,
            Self::Calls(list) => {
                if list.is_empty() {
                    return Err(Error::source("the calls", "there is no tool", "add one"));
                }
                let text = calls::to_lark(list, with_style)?;
                limit("the calls", text.len())?;
                TopLevelGrammar::from_lark(text)
            }
        })
    }

    /// What identifies the source among others.
    pub(crate) fn key(&self) -> String {
        match self {
            Self::JsonObject => "object".to_owned(),
            Self::JsonSchema(value) => format!("schema {value}"),
            Self::Regex(text) => format!("regex {text}"),
            Self::Lark(text) => format!("lark {text}"),
            Self::Gbnf(text) => format!("gbnf {text}"),
            Self::Choice(choices) => format!("choice {choices:?}"),
            Self::Calls(list) => format!("calls {list:?}"),
        }
    }

    /// Whether the source may mention tokens.
    pub(crate) fn has_tokens(&self) -> bool {
        let is_token = |piece: &Piece| piece.token.is_some();
        match self {
            Self::Lark(text) => text.contains('<'),
            Self::Calls(list) => list.iter().any(|call| {
                [&call.begin, &call.next, &call.end].iter().any(|part| part.iter().any(is_token))
            }),
            _ => false,
        }
    }

    /// An error of llguidance about this source.
    pub(crate) fn error(&self, message: &str, fails: impl Fn(&Value) -> bool) -> Error {
        let message = message.trim_end_matches("\n<non-verbose/>").trim();
        let place = match self {
            Self::JsonSchema(value) => return schema::blame(value, message, fails),
            Self::JsonObject => "#".to_owned(),
            Self::Regex(_) => "the regular expression".to_owned(),
            Self::Choice(_) => "the choices".to_owned(),
            Self::Calls(_) => "the calls".to_owned(),
            Self::Lark(_) | Self::Gbnf(_) => "the grammar".to_owned(),
        };
        // "at 3(7): what", and an excerpt, in Lark.
        let located = message.strip_prefix("at ").or(Some(message)).and_then(|rest| {
            let (at, what) = rest.split_once("): ")?;
            let (line, column) = at.split_once('(')?;
            let (line, column): (u32, u32) = (line.parse().ok()?, column.parse().ok()?);
            Some((format!("line {line}, column {column}"), what))
        });
        let (place, what) = match located {
            Some((at, what)) if matches!(self, Self::Lark(_)) => (at, what),
            Some((_, what)) => (place, what),
            None => (place, message),
        };
        explain(place, what)
    }
}

fn limit(place: &str, len: usize) -> Result<(), Error> {
    if len > MAX_LEN {
        let what = format!("{len} bytes, of at most {MAX_LEN}");
        return Err(Error::Limit { place: place.to_owned(), what });
    }
    Ok(())
}

fn check_depth(text: &str) -> Result<(), Error> {
    let mut depth = 0usize;
    for (line, content) in text.lines().enumerate() {
        for c in content.chars() {
            match c {
                '(' | '[' | '{' => depth += 1,
                ')' | ']' | '}' => depth = depth.saturating_sub(1),
                _ => {}
            }
            if depth > MAX_DEPTH {
                let what = format!("more than {MAX_DEPTH} nested brackets");
                return Err(Error::Limit { place: format!("line {}", line + 1), what });
            }
        }
    }
    Ok(())
}

fn json_grammar(schema: Value) -> TopLevelGrammar {
    TopLevelGrammar::from_json_schema(with_style(schema))
}

/// Adds the style of whitespace: the one that models write most often, and fixed, so that nothing but values is
/// left to draw.
fn with_style(mut schema: Value) -> Value {
    if schema == Value::Bool(true) {
        schema = json!({});
    }
    if let Value::Object(map) = &mut schema {
        // All versions have one meaning: the keywords that were checked are all known.
        map.shift_remove("$schema");
        let style =
            json!({"item_separator": ", ", "key_separator": ": ", "whitespace_flexible": false});
        map.insert("x-guidance".to_owned(), style);
    }
    schema
}

fn regex_grammar(pattern: &str) -> Result<TopLevelGrammar, Error> {
    const PLACE: &str = "the regular expression";
    limit(PLACE, pattern.len())?;
    if pattern.is_empty() {
        return Err(Error::source(PLACE, "it is empty", "write one that matches some text"));
    }
    check_depth(pattern).map_err(|_| Error::Limit {
        place: PLACE.to_owned(),
        what: format!("more than {MAX_DEPTH} nested brackets"),
    })?;
    let pattern = unanchored(pattern);
    if pattern.is_empty() {
        return Err(Error::source(
            PLACE,
            "it matches only the empty text",
            "let it match some text",
        ));
    }
    check_regex(pattern).map_err(|what| Error::source(PLACE, what, "change this part"))?;
    Ok(TopLevelGrammar::from_grammar(GrammarWithLexer::from_regex(pattern)))
}

/// The whole answer is matched anyway, so anchors at both ends are dropped, unless they belong to one of
/// several alternatives.
fn unanchored(pattern: &str) -> &str {
    let (mut depth, mut class, mut escaped, mut alternatives) = (0, false, false, false);
    for c in pattern.chars() {
        match c {
            _ if escaped => escaped = false,
            '\\' => escaped = true,
            '[' => class = true,
            ']' => class = false,
            '(' if !class => depth += 1,
            ')' if !class => depth -= 1,
            '|' if !class && depth == 0 => alternatives = true,
            _ => {}
        }
    }
    if alternatives {
        return pattern;
    }
    let pattern = pattern.strip_prefix('^').unwrap_or(pattern);
    let escapes = pattern.strip_suffix('$').map(|p| p.len() - p.trim_end_matches('\\').len());
    if escapes.is_some_and(|n| n % 2 == 0) { &pattern[..pattern.len() - 1] } else { pattern }
}

fn choice_grammar(choices: &[String]) -> Result<TopLevelGrammar, Error> {
    limit("the choices", choices.iter().map(String::len).sum())?;
    if choices.iter().all(String::is_empty) {
        return Err(Error::source("the choices", "there is none with any text", "add one"));
    }
    let escaped: Vec<String> = choices.iter().map(|choice| gbnf::regex_of(choice)).collect();
    let pattern = format!("(?:{})", escaped.join("|"));
    Ok(TopLevelGrammar::from_lark(format!("start: /{pattern}/")))
}

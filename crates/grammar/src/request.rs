//! Fields of requests that ask for structured output, as the servers that introduced them mean them.

use serde_json::{Map, Value};

use crate::{Error, Source};

/// The fields, in llama.cpp, vLLM (old and new) and Ollama.
const FIELDS: [&str; 9] = [
    "json_schema",
    "grammar",
    "guided_json",
    "guided_regex",
    "guided_choice",
    "guided_grammar",
    "structured_outputs",
    "response_format",
    "format",
];

/// The source that a request's JSON object asks for, if any:
///
/// | field | meaning |
/// |---|---|
/// | `response_format` | OpenAI's: `{"type": "text"}`, `json_object`, or `json_schema` with the schema in `json_schema.schema` (llama.cpp: in `schema`) |
/// | `structured_outputs` | vLLM's: an object with one of `json`, `regex`, `choice`, `grammar`, `json_object` |
/// | `guided_json`, `guided_regex`, `guided_choice`, `guided_grammar` | the same in older versions |
/// | `grammar`, `json_schema` | llama.cpp's: GBNF (Lark works as well); a schema |
/// | `format` | Ollama's: `"json"` or a schema |
///
/// A schema may also be given as a text, which contains it. Absent and `null` fields do not count.
///
/// # Errors
/// A field has a wrong type or an unknown option, several fields contradict each other, or the source is
/// wrong: [`Source::check`]. The place in the error begins with the field.
pub fn source_of(request: &Map<String, Value>) -> Result<Option<Source>, Error> {
    let mut found: Option<(&str, Source)> = None;
    for field in FIELDS {
        let Some(value) = request.get(field).filter(|v| !v.is_null() && !is_blank(v)) else {
            continue;
        };
        let source = match field {
            "json_schema" | "guided_json" => Some(schema(field, value)?),
            "grammar" | "guided_grammar" => Some(Source::grammar(text(field, value)?)),
            "guided_regex" => Some(Source::Regex(text(field, value)?.to_owned())),
            "guided_choice" => Some(choice(field, value)?),
            "structured_outputs" => structured_outputs(value)?,
            "response_format" => response_format(value)?,
            _ => match value.as_str() {
                Some("json") => Some(Source::JsonObject),
                _ => Some(schema(field, value)?),
            },
        };
        let Some(source) = source else { continue };
        if let Some((other, _)) = found.filter(|(_, other)| *other != source) {
            let what = format!("{other} asks for something else");
            return Err(Error::source(field, what, "use only one of them"));
        }
        source.check().map_err(|e| e.within(field))?;
        found = Some((field, source));
    }
    Ok(found.map(|(_, source)| source))
}

fn is_blank(value: &Value) -> bool {
    value.as_str().is_some_and(str::is_empty)
}

fn text<'v>(field: &str, value: &'v Value) -> Result<&'v str, Error> {
    value.as_str().ok_or_else(|| Error::source(field, "it is not a text", "write it as a string"))
}

fn schema(field: &str, value: &Value) -> Result<Source, Error> {
    match value {
        Value::String(text) => Source::schema(text).map_err(|e| e.within(field)),
        Value::Object(_) | Value::Bool(_) => Ok(Source::JsonSchema(value.clone())),
        _ => Err(Error::source(field, "it is not a JSON schema", "write it as an object")),
    }
}

fn choice(field: &str, value: &Value) -> Result<Source, Error> {
    let texts = value.as_array().map(|list| list.iter().map(|v| v.as_str().map(str::to_owned)));
    let texts: Option<Vec<String>> = texts.and_then(Iterator::collect);
    let what = "it is not a list of texts";
    texts.map(Source::Choice).ok_or_else(|| Error::source(field, what, "write a list of strings"))
}

fn structured_outputs(value: &Value) -> Result<Option<Source>, Error> {
    const FIELD: &str = "structured_outputs";
    let wrong =
        |what: String| Error::source(FIELD, what, "use one of json, regex, choice, grammar");
    let options = value.as_object().ok_or_else(|| wrong("it is not an object".to_owned()))?;
    let mut found = None;
    for (name, value) in options.iter().filter(|(_, v)| !v.is_null()) {
        let field = format!("{FIELD}.{name}");
        let source = match name.as_str() {
            "json" => schema(&field, value)?,
            "regex" => Source::Regex(text(&field, value)?.to_owned()),
            "choice" => choice(&field, value)?,
            "grammar" => Source::grammar(text(&field, value)?),
            "json_object" if *value == Value::Bool(true) => Source::JsonObject,
            // False, or about whitespace and backends, of which there is one.
            "json_object" => continue,
            "disable_any_whitespace" | "disable_fallback" | "_backend" => continue,
            other => return Err(wrong(format!("{other} is not supported"))),
        };
        if found.replace(source).is_some() {
            return Err(wrong("it has more than one source".to_owned()));
        }
    }
    Ok(found)
}

fn response_format(value: &Value) -> Result<Option<Source>, Error> {
    const FIELD: &str = "response_format";
    let advice = "use text, json_object or json_schema";
    match value["type"].as_str() {
        Some("text") => Ok(None),
        Some("json_object") if value["schema"].is_object() => {
            schema("response_format.schema", &value["schema"]).map(Some)
        }
        Some("json_object") => Ok(Some(Source::JsonObject)),
        Some("json_schema") => {
            let (field, given) = match value.get("json_schema") {
                Some(named) => ("response_format.json_schema.schema", named.get("schema")),
                None => ("response_format.schema", value.get("schema")),
            };
            let missing = || Error::source(field, "it is missing", "add the schema");
            schema(field, given.ok_or_else(missing)?).map(Some)
        }
        Some(other) => Err(Error::source(FIELD, format!("{other:?} is not supported"), advice)),
        None => Err(Error::source(FIELD, "it has no type", advice)),
    }
}

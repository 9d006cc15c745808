//! A call as text, JSON and text again, so that grammars can require calls.

use minijinja::Value;

use super::format::{AnswerFormat, CallFormat, Mark};
use super::tools::{Tool, Tools};

/// What a call of one tool looks like.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CallShape {
    /// The tool's name.
    pub name: String,
    /// What begins the first call of an answer.
    pub begin: Vec<Piece>,
    /// What begins a call after another one, whose end is not written; empty if the format has no further
    /// calls.
    pub next: Vec<Piece>,
    /// JSON schema of what follows.
    pub schema: String,
    /// What ends the last call.
    pub end: Vec<Piece>,
}

/// A part of what surrounds a call.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Piece {
    /// The text.
    pub text: String,
    /// The token that has to be used for it, if it is a marker of which only the token counts.
    pub token: Option<u32>,
}

impl AnswerFormat {
    /// What calls of these tools look like; `None` if their arguments are not written as JSON, or calls in
    /// general are not known.
    pub fn call_shapes(&self, tools: &Tools) -> Option<Vec<CallShape>> {
        let calls = self.calls()?;
        let shape = |name: &str, parameters: &str| match calls {
            CallFormat::Hermes => Some(Parts {
                begin: self.pieces("<tool_call>\n"),
                next: self.pieces("\n</tool_call>\n<tool_call>\n"),
                schema: object(name, "arguments", parameters),
                end: self.pieces("\n</tool_call>"),
            }),
            CallFormat::Llama => Some(Parts {
                next: self.pieces("; "),
                schema: object(name, "parameters", parameters),
                ..Parts::default()
            }),
            CallFormat::MistralList | CallFormat::Granite | CallFormat::Phi => {
                let mark = |mark| self.marker(mark).map_or("", |marker| marker.text);
                Some(Parts {
                    begin: self.pieces(&format!("{}[", mark(Mark::Call))),
                    next: self.pieces(", "),
                    schema: object(name, "arguments", parameters),
                    end: self.pieces(&format!("]{}", mark(Mark::EndCall))),
                })
            }
            CallFormat::Mistral => {
                let begin = self.pieces(&format!("[TOOL_CALLS]{name}[ARGS]"));
                let schema = parameters.to_owned();
                Some(Parts { begin: begin.clone(), next: begin, schema, end: Vec::new() })
            }
            CallFormat::Harmony => Some(Parts {
                begin: self.pieces(&format!(
                    "<|channel|>commentary to=functions.{name} <|constrain|>json<|message|>"
                )),
                schema: parameters.to_owned(),
                end: self.pieces("<|call|>"),
                ..Parts::default()
            }),
            CallFormat::Gemma | CallFormat::Elements => None,
        };
        let shape = |tool: &Tool| {
            let Parts { begin, next, schema, end } = shape(&tool.name, &tool.schema())?;
            Some(CallShape { name: tool.name.clone(), begin, next, schema, end })
        };
        tools.iter().map(shape).collect()
    }

    /// Splits a text at the markers that have tokens.
    fn pieces(&self, text: &str) -> Vec<Piece> {
        let mut pieces = Vec::new();
        let mut rest = text;
        while !rest.is_empty() {
            let markers = self.markers().iter().filter(|marker| marker.id.is_some());
            let found = markers.filter_map(|marker| Some((rest.find(marker.text)?, marker)));
            let (at, marker) = match found.min_by_key(|(at, _)| *at) {
                Some((at, marker)) => (at, Some(marker)),
                None => (rest.len(), None),
            };
            if at > 0 {
                pieces.push(Piece { text: rest[..at].to_owned(), token: None });
            }
            rest = &rest[at..];
            if let Some(marker) = marker {
                pieces.push(Piece { text: marker.text.to_owned(), token: marker.id });
                rest = &rest[marker.text.len()..];
            }
        }
        pieces
    }
}

#[derive(Default)]
struct Parts {
    begin: Vec<Piece>,
    next: Vec<Piece>,
    schema: String,
    end: Vec<Piece>,
}

/// The schema of an object with the name of a tool and its arguments. Definitions that the schema of the
/// arguments refers to by `#/$defs/…` or `#/definitions/…` are moved to where the reference finds them.
fn object(name: &str, arguments: &'static str, parameters: &str) -> String {
    let name = Value::from_pairs([("const", name)]);
    let parameters: Value = serde_json::from_str(parameters).unwrap_or_default();
    let mut schema = vec![
        ("type", Value::from("object")),
        ("properties", Value::from_pairs([("name", name), (arguments, parameters.clone())])),
        ("required", Value::from(vec!["name", arguments])),
        ("additionalProperties", Value::from(false)),
    ];
    for definitions in ["$defs", "definitions"] {
        let found = parameters.get_attr(definitions).unwrap_or_default();
        if !found.is_undefined() {
            schema.push((definitions, found));
        }
    }
    serde_json::to_string(&Value::from_pairs(schema)).unwrap_or_default()
}

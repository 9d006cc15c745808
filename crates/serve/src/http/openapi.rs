//! The description of the API for tools: `/openapi.json`.

use serde_json::{Map, Value, json};

use super::reply::{self, Reply};

/// The routes: path, what it does, and the schema of its request; without one, it is a GET.
const ROUTES: &[(&str, &str, Option<&str>)] = &[
    ("/v1/chat/completions", "Answer a conversation", Some("Chat")),
    ("/v1/completions", "Continue a text", Some("Completion")),
    ("/v1/responses", "Answer a conversation, in the form of responses", Some("Response")),
    ("/v1/messages", "Answer a conversation, in Anthropic's form", Some("Messages")),
    ("/v1/messages/count_tokens", "Count the tokens of a conversation", Some("Messages")),
    ("/v1/models", "List the models", None),
    ("/v1/models/{name}", "Describe a model", None),
    ("/v1/embeddings", "Vectors of texts", Some("Embeddings")),
    ("/v1/rerank", "Documents by their relevance to a query", Some("Rerank")),
    ("/rerank", "The same, in llama.cpp's place", Some("Rerank")),
    ("/v1/telemetry", "Figures of the engine, as a stream", None),
    ("/infill", "Fill the gap between two texts, in llama.cpp's form", Some("Infill")),
    ("/api/chat", "Answer a conversation, in Ollama's form", Some("OllamaChat")),
    ("/api/generate", "Answer a text, in Ollama's form", Some("OllamaGenerate")),
    ("/api/embed", "Vectors of texts, in Ollama's form", Some("OllamaEmbed")),
    ("/api/embeddings", "The vector of a text, in Ollama's older form", Some("OllamaEmbeddings")),
    ("/api/show", "Describe a model, in Ollama's form", Some("Any")),
    ("/api/tags", "List the models, in Ollama's form", None),
    ("/api/ps", "List the loaded models, in Ollama's form", None),
    ("/api/version", "The version of Ollama whose API this is", None),
    ("/tokenize", "Turn a text or a conversation into tokens", Some("Tokenize")),
    ("/detokenize", "Turn tokens into a text", Some("Detokenize")),
    ("/apply-template", "The text of a conversation, as the model sees it", Some("Conversation")),
    ("/health", "Whether the engine works", None),
    ("/ready", "Whether requests are accepted", None),
    ("/metrics", "Figures for Prometheus", None),
];

pub(crate) async fn openapi() -> Reply {
    reply::json(200, &document())
}

fn document() -> Value {
    let paths: Map<_, _> = ROUTES.iter().map(|r| (r.0.to_owned(), path(*r))).collect();
    json!({
        "openapi": "3.1.0",
        "info": {"title": "NanoInfer", "version": env!("CARGO_PKG_VERSION")},
        "paths": paths,
        "components": {
            "schemas": schemas(),
            "securitySchemes": {
                "bearer": {"type": "http", "scheme": "bearer"},
                "header": {"type": "apiKey", "in": "header", "name": "x-api-key"},
            },
        },
        "security": [{}, {"bearer": []}, {"header": []}],
    })
}

fn path((path, summary, request): (&str, &str, Option<&str>)) -> Value {
    let mut operation = json!({
        "summary": summary,
        "responses": {
            "200": {"description": "The answer"},
            "default": {"description": "A problem, in the form of the API"},
        },
    });
    if path.contains("{name}") {
        let name =
            json!({"name": "name", "in": "path", "required": true, "schema": {"type": "string"}});
        operation["parameters"] = json!([name]);
    }
    match request {
        None => json!({"get": operation}),
        Some(schema) => {
            let schema = json!({"$ref": format!("#/components/schemas/{schema}")});
            let content = json!({"application/json": {"schema": schema}});
            operation["requestBody"] = json!({"required": true, "content": content});
            json!({"post": operation})
        }
    }
}

/// An object with these members, of which the first `required` ones are required.
fn object(required: usize, members: &[(&str, Value)]) -> Value {
    let names: Vec<&str> = members[..required].iter().map(|(name, _)| *name).collect();
    let properties: Map<_, _> = members.iter().map(|(n, v)| ((*n).to_owned(), v.clone())).collect();
    json!({"type": "object", "required": names, "properties": properties})
}

/// The messages of OpenAI's chat completions.
fn chat_messages(content: &Value) -> Value {
    let text = json!({"type": "string"});
    let roles = json!({"enum": ["system", "developer", "user", "assistant", "tool"]});
    let arguments = json!({"type": ["string", "object"]});
    let function = object(1, &[("name", text.clone()), ("arguments", arguments)]);
    let call = object(1, &[("function", function), ("id", text.clone())]);
    let message = [
        ("role", roles),
        ("content", content.clone()),
        ("reasoning_content", text.clone()),
        ("tool_calls", json!({"type": "array", "items": call})),
        ("tool_call_id", text),
    ];
    json!({"type": "array", "minItems": 1, "items": object(2, &message)})
}

/// A tool whose arguments have a schema under this name.
fn named_tool(schema: &'static str) -> Value {
    let name = json!({"type": "string", "minLength": 1, "maxLength": 64});
    object(
        1,
        &[
            ("name", name),
            ("description", json!({"type": "string"})),
            (schema, json!({"type": "object"})),
        ],
    )
}

fn with_type(mut tool: Value) -> Value {
    tool["properties"]["type"] = json!({"const": "function"});
    tool
}

fn schemas() -> Value {
    let (text, flag, list) =
        (json!({"type": "string"}), json!({"type": "boolean"}), json!({"type": "array"}));
    let number =
        |min: f64, max: f64| json!({"type": ["number", "null"], "minimum": min, "maximum": max});
    let count =
        |min: i64, max: i64| json!({"type": ["integer", "null"], "minimum": min, "maximum": max});
    let limit = json!({"type": ["integer", "null"], "minimum": -1});
    let texts = json!({"type": "array", "items": {"type": "string"}, "maxItems": 64});
    let parts = object(2, &[("type", json!({"const": "text"})), ("text", text.clone())]);
    let content = json!({"anyOf": [text, {"type": "array", "items": parts}]});
    let roles = json!({"enum": ["system", "developer", "user", "assistant"]});
    let message = object(2, &[("role", roles), ("content", content.clone())]);
    let messages = json!({"type": "array", "minItems": 1, "items": message});
    let chat = chat_messages(&content);
    let model =
        ("model", json!({"type": ["string", "null"], "description": "A name of /v1/models"}));
    let options = |limit_name: &'static str| {
        vec![
            model.clone(),
            (limit_name, limit.clone()),
            ("temperature", number(0.0, 100.0)),
            ("top_k", json!({"type": ["integer", "null"], "minimum": -1})),
            ("top_p", number(0.0, 1.0)),
            ("min_p", number(0.0, 1.0)),
            ("repetition_penalty", number(0.01, 100.0)),
            ("presence_penalty", number(-100.0, 100.0)),
            ("frequency_penalty", number(-100.0, 100.0)),
            ("seed", json!({"type": ["integer", "null"], "minimum": -1})),
            ("stop", json!({"anyOf": [text, texts, {"type": "null"}]})),
            (
                "logit_bias",
                json!({"type": ["object", "null"], "additionalProperties": number(-100.0, 100.0)}),
            ),
        ]
    };
    let with = |required: Vec<(&'static str, Value)>,
                limit: &'static str,
                more: Vec<(&'static str, Value)>| {
        let n = required.len();
        object(n, &[required, options(limit), more].concat())
    };
    let stream = || ("stream", flag.clone());
    let stream_options =
        object(0, &[("include_usage", flag.clone()), ("continuous_usage_stats", flag.clone())]);
    let stream_options = || ("stream_options", stream_options.clone());
    let conversation = || ("messages", messages.clone());
    let chat = || ("messages", chat.clone());
    let structure = || {
        let kinds = json!({"enum": ["text", "json_object"]});
        let format = object(1, &[("type", kinds)]);
        ("response_format", format)
    };
    let tools = |tool: Value| ("tools", json!({"type": "array", "items": tool, "maxItems": 4096}));
    let function = named_tool("parameters");
    let chat_tools = || {
        let function = ("function", function.clone());
        tools(object(2, &[("type", json!({"const": "function"})), function]))
    };
    let kwargs = || ("chat_template_kwargs", json!({"type": "object"}));
    let prompt =
        json!({"anyOf": [text, {"type": "array", "items": text, "minItems": 1, "maxItems": 128}]});
    let inputs =
        json!({"anyOf": [text, {"type": "array", "items": text, "minItems": 1, "maxItems": 2048}]});
    let pooling = || ("pooling", json!({"enum": ["last", "mean"]}));
    let document = json!({"anyOf": [text, object(1, &[("text", text.clone())])]});
    let documents = json!({"type": "array", "items": document, "minItems": 1, "maxItems": 2048});
    let ollama = object(0, &options("num_predict")[1..]);
    json!({
        "Any": {"type": "object"},
        "Conversation": object(1, &[chat(), model.clone(), chat_tools(), kwargs()]),
        "Chat": with(vec![chat()], "max_completion_tokens", vec![
            chat_tools(), kwargs(), structure(), ("parallel_tool_calls", flag.clone()),
            stream(), stream_options(), ("n", count(1, 128)), ("logprobs", flag.clone()), ("top_logprobs", count(0, 20)),
        ]),
        "Completion": with(vec![("prompt", prompt)], "max_tokens", vec![
            stream(), stream_options(), ("n", count(1, 128)), ("logprobs", count(0, 20)), ("suffix", text.clone()),
            ("echo", flag.clone()), ("parse_special", flag.clone()), structure(),
        ]),
        "Response": with(vec![("input", json!({"anyOf": [text, messages]}))], "max_output_tokens", vec![
            stream(), ("instructions", text.clone()), tools(with_type(function.clone())),
        ]),
        "Messages": with(vec![conversation(), ("max_tokens", count(0, 1 << 30))], "max_completion_tokens", vec![
            stream(), ("system", content), ("stop_sequences", texts.clone()), tools(named_tool("input_schema")),
        ]),
        "Infill": with(vec![("input_prefix", text.clone()), ("input_suffix", text.clone())], "n_predict", vec![stream()]),
        "OllamaChat": object(1, &[
            conversation(), model.clone(), stream(), ("options", ollama.clone()), chat_tools(), ("think", flag.clone()),
        ]),
        "OllamaGenerate": object(1, &[
            ("prompt", text.clone()), model.clone(), stream(), ("options", ollama), ("system", text.clone()),
            ("suffix", text.clone()), ("raw", flag.clone()),
        ]),
        "Embeddings": object(1, &[
            ("input", inputs.clone()), model.clone(), ("encoding_format", json!({"enum": ["float", "base64"]})),
            ("dimensions", count(1, 1 << 20)), pooling(),
        ]),
        "OllamaEmbed": object(0, &[
            ("input", inputs), model.clone(), ("dimensions", count(1, 1 << 20)), ("truncate", flag.clone()), pooling(),
        ]),
        "OllamaEmbeddings": object(0, &[("prompt", text.clone()), model.clone(), pooling()]),
        "Rerank": object(2, &[
            ("query", text.clone()), ("documents", documents), model.clone(), ("top_n", count(1, 2048)),
            ("return_documents", flag.clone()), ("instruct", text.clone()),
        ]),
        "Tokenize": object(0, &[
            ("content", text.clone()), ("prompt", text.clone()), ("messages", messages.clone()), model.clone(),
            ("add_special", flag.clone()), ("parse_special", flag.clone()), ("with_pieces", flag),
        ]),
        "Detokenize": object(1, &[("tokens", list), model]),
    })
}

//! Answers of all APIs in one form.

use serde_json::{Value, json};

use super::client::Event;
use super::{Running, with};

pub(crate) const CHAT: &str = "/v1/chat/completions";
pub(crate) const MESSAGES: &str = "/v1/messages";
pub(crate) const RESPONSES: &str = "/v1/responses";
pub(crate) const OLLAMA: &str = "/api/chat";

/// A part of an answer: its kind, its text, and the name of a call.
pub(crate) type Part = (&'static str, String, String);

fn add(parts: &mut Vec<Part>, kind: &'static str, text: &Value) {
    let text = text.as_str().unwrap_or_default();
    match parts.last_mut().filter(|last| last.0 == kind && kind != "call") {
        Some(last) => last.1 += text,
        None if text.is_empty() => {}
        None => parts.push((kind, text.to_owned(), String::new())),
    }
}

fn call(parts: &mut Vec<Part>, name: &Value, arguments: &Value) {
    let arguments = arguments.as_str().map_or_else(|| arguments.to_string(), str::to_owned);
    parts.push(("call", arguments, name.as_str().unwrap().to_owned()));
}

/// The parts of a whole answer.
pub(crate) fn whole(path: &str, answer: &Value) -> (Vec<Part>, Value) {
    let mut parts = Vec::new();
    let of_message = |message: &Value, reasoning: &str, parts: &mut Vec<Part>| {
        add(parts, "reasoning", &message[reasoning]);
        add(parts, "text", &message["content"]);
        for made in message["tool_calls"].as_array().into_iter().flatten() {
            call(parts, &made["function"]["name"], &made["function"]["arguments"]);
        }
    };
    let end = match path {
        MESSAGES => {
            for block in answer["content"].as_array().unwrap() {
                match block["type"].as_str().unwrap() {
                    "text" => add(&mut parts, "text", &block["text"]),
                    "thinking" => add(&mut parts, "reasoning", &block["thinking"]),
                    _ => call(&mut parts, &block["name"], &block["input"]),
                }
            }
            &answer["stop_reason"]
        }
        RESPONSES => {
            for item in answer["output"].as_array().unwrap() {
                match item["type"].as_str().unwrap() {
                    "message" => add(&mut parts, "text", &item["content"][0]["text"]),
                    "reasoning" => add(&mut parts, "reasoning", &item["content"][0]["text"]),
                    _ => call(&mut parts, &item["name"], &item["arguments"]),
                }
            }
            &answer["status"]
        }
        OLLAMA => {
            of_message(&answer["message"], "thinking", &mut parts);
            &answer["done_reason"]
        }
        _ => {
            let choice = &answer["choices"][0];
            of_message(&choice["message"], "reasoning_content", &mut parts);
            &choice["finish_reason"]
        }
    };
    (parts, end.clone())
}

/// The sum of a stream, as the clients of each API make it.
pub(crate) fn folded(path: &str, events: &[Value]) -> (Vec<Part>, Value) {
    let (mut parts, mut end) = (Vec::new(), Value::Null);
    for event in events {
        match path {
            MESSAGES => {
                let (block, delta) = (&event["content_block"], &event["delta"]);
                if block["type"] == "tool_use" {
                    call(&mut parts, &block["name"], &json!(""));
                }
                add(&mut parts, "text", &delta["text"]);
                add(&mut parts, "reasoning", &delta["thinking"]);
                if let Some(json) = delta["partial_json"].as_str() {
                    parts.last_mut().unwrap().1 += json;
                }
                if delta["stop_reason"].is_string() {
                    end = delta["stop_reason"].clone();
                }
            }
            RESPONSES => match event["type"].as_str().unwrap() {
                "response.output_item.added" if event["item"]["type"] == "function_call" => {
                    call(&mut parts, &event["item"]["name"], &json!(""));
                }
                "response.output_text.delta" => add(&mut parts, "text", &event["delta"]),
                "response.reasoning_text.delta" => add(&mut parts, "reasoning", &event["delta"]),
                "response.function_call_arguments.delta" => {
                    parts.last_mut().unwrap().1 += event["delta"].as_str().unwrap();
                }
                "response.completed" | "response.incomplete" => {
                    let (last, status) = whole(path, &event["response"]);
                    assert_eq!(last, parts);
                    end = status;
                }
                _ => {}
            },
            OLLAMA => {
                let (new, reason) = whole(path, event);
                for (kind, text, name) in new {
                    match kind {
                        "call" => parts.push((kind, text, name)),
                        kind => add(&mut parts, kind, &json!(text)),
                    }
                }
                end = reason;
            }
            _ => {
                let choice = &event["choices"][0];
                add(&mut parts, "reasoning", &choice["delta"]["reasoning_content"]);
                add(&mut parts, "text", &choice["delta"]["content"]);
                for made in choice["delta"]["tool_calls"].as_array().into_iter().flatten() {
                    if made["id"].is_string() {
                        let calls = parts.iter().filter(|part| part.0 == "call").count();
                        assert_eq!(made["index"], calls);
                        call(&mut parts, &made["function"]["name"], &json!(""));
                    }
                    let text = made["function"]["arguments"].as_str().unwrap_or_default();
                    parts.last_mut().unwrap().1 += text;
                }
                if choice["finish_reason"].is_string() {
                    end = choice["finish_reason"].clone();
                }
            }
        }
    }
    (parts, end)
}

/// The request of a chat in the form of another API.
pub(crate) fn in_form(path: &str, body: &Value) -> Value {
    let mut body = body.clone();
    match path {
        RESPONSES => {
            body["input"] = body["messages"].take();
            body["max_output_tokens"] = body["max_tokens"].take();
            body.as_object_mut().unwrap().retain(|_, value| !value.is_null());
        }
        OLLAMA => {
            let options = json!({"num_predict": body["max_tokens"], "seed": body["seed"]});
            body["options"] = options;
        }
        _ => {}
    }
    body
}

/// Tools in the form of an API.
pub(crate) fn tools_for(path: &str, tools: &Value) -> Value {
    let of = |tool: &Value| {
        let function = &tool["function"];
        match path {
            MESSAGES => {
                let mut tool = function.clone();
                let schema = tool.as_object_mut().unwrap().remove("parameters");
                with(tool, json!({"input_schema": schema}))
            }
            RESPONSES => with(function.clone(), json!({"type": "function"})),
            _ => tool.clone(),
        }
    };
    tools.as_array().unwrap().iter().map(of).collect()
}

/// The events of a streamed answer.
pub(crate) fn streamed(server: &Running, path: &str, body: &Value) -> Vec<Value> {
    let body = with(body.clone(), json!({"stream": true}));
    if path == OLLAMA {
        let lines = server.post(path, &body).text();
        return lines.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    }
    let events = server.stream(path, &body).events();
    events.iter().filter(|e| e.data.as_deref() != Some("[DONE]")).map(Event::json).collect()
}

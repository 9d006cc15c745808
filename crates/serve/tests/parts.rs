//! Structured output, reasoning and calls of tools, in all APIs.

mod common;

use common::client::Event;
use common::fold::{
    CHAT, MESSAGES, OLLAMA, Part, RESPONSES, folded, in_form, streamed, tools_for, whole,
};
use common::{Running, Stream, THINK, chat, with};
use serde_json::{Map, Value, json};

fn schema() -> Value {
    json!({
        "type": "object",
        "properties": {"kind": {"enum": ["a", "bc"]}, "ok": {"type": "boolean"}},
        "required": ["kind", "ok"],
        "additionalProperties": false,
    })
}

fn assert_valid(text: &str) {
    let value: Value = serde_json::from_str(text).unwrap_or_else(|e| panic!("{e}: {text}"));
    assert!(value["kind"] == "a" || value["kind"] == "bc", "{text}");
    assert!(value["ok"].is_boolean() && value.as_object().unwrap().len() == 2, "{text}");
}

#[test]
fn answers_follow_schemas_in_every_api() {
    let server = Running::new();
    let question = chat("Which?", 60);
    let named = json!({"type": "json_schema", "json_schema": {"name": "x", "schema": schema()}});
    let flat = json!({"type": "json_schema", "name": "x", "schema": schema(), "strict": true});
    for seed in 0..4 {
        let seed = json!({"seed": seed, "temperature": 1.5});
        let ask = |path: &str, members: Value| {
            let body = with(with(in_form(path, &question), seed.clone()), members);
            let body = if path == OLLAMA { with(body, json!({"stream": false})) } else { body };
            let reply = server.post(path, &body);
            assert_eq!(reply.status, 200, "{path}: {}", reply.text());
            reply.json()
        };
        let text = |value: &Value| assert_valid(value.as_str().expect("a text"));
        let answer = ask(CHAT, json!({"response_format": named}));
        text(&answer["choices"][0]["message"]["content"]);
        assert_eq!(answer["choices"][0]["finish_reason"], "stop");
        let answer = ask(CHAT, json!({"structured_outputs": {"json": schema()}, "n": 3}));
        let choices = answer["choices"].as_array().unwrap();
        choices.iter().for_each(|choice| text(&choice["message"]["content"]));
        let prompt = json!({"prompt": "Which?", "guided_json": schema(), "max_tokens": 60});
        text(&ask("/v1/completions", prompt)["choices"][0]["text"]);
        let answer = ask(RESPONSES, json!({"text": {"format": flat}}));
        text(&answer["output"][0]["content"][0]["text"]);
        let answer = ask(MESSAGES, json!({"output_config": {"format": flat}}));
        text(&answer["content"][0]["text"]);
        text(&ask(OLLAMA, json!({"format": schema()}))["message"]["content"]);
        let answer = ask(CHAT, json!({"guided_choice": ["yes", "no"]}));
        let answer = answer["choices"][0]["message"]["content"].as_str().unwrap().to_owned();
        assert!(["yes", "no"].contains(&answer.as_str()), "{answer}");
    }
}

#[test]
fn what_cannot_be_enforced_is_refused_before_any_work() {
    let server = Running::new();
    let computed = || server.figure("nanoinfer_prompt_tokens_computed_total");
    let before = computed();
    let within = |part: Value| json!({"type": "object", "properties": {"a": part}});
    for (schema, place) in [
        (within(json!({"type": "string", "pattern": "a(?=b)"})), "#/properties/a/pattern"),
        (within(json!({"type": "string", "colour": 1})), "#/properties/a/colour"),
        (within(json!({"uniqueItems": true})), "#/properties/a/uniqueItems"),
        (json!({"$ref": "#"}), "$ref"),
    ] {
        let format = json!({"type": "json_schema", "json_schema": {"schema": schema}});
        for stream in [false, true] {
            let members = json!({"response_format": format, "stream": stream});
            let reply = server.post(CHAT, &with(chat("Hi", 5), members));
            let error = &reply.json()["error"];
            let message = error["message"].as_str().unwrap();
            assert_eq!(
                (reply.status, &error["param"]),
                (400, &json!("response_format")),
                "{error}"
            );
            assert!(message.starts_with("response_format") && message.contains(place), "{error}");
        }
    }
    assert_eq!(computed(), before);
}

fn tools() -> Value {
    let parameters = json!({
        "type": "object",
        "properties": {"zone": {"enum": ["x", "yz"]}, "n": {"type": "boolean"}},
        "required": ["zone"],
        "additionalProperties": false,
    });
    let tool = |name: &str| json!({"type": "function", "function": {"name": name, "parameters": parameters}});
    json!([tool("now"), tool("then")])
}

const ONE: &str =
    "<tool_call>\n{\"name\": \"now\", \"arguments\": {\"zone\": \"é\\n\", \"n\": 1}}\n</tool_call>";

/// Recorded answers, with their parts.
fn recorded() -> Vec<(String, Vec<Part>, &'static str)> {
    let part = |kind, text: &str| (kind, text.to_owned(), String::new());
    let made = |name: &str, text: &str| ("call", text.to_owned(), name.to_owned());
    let first = made("now", "{\"zone\": \"é\\n\", \"n\": 1}");
    let then = "<tool_call>\n{\"name\": \"then\", \"arguments\": {}}\n</tool_call>";
    vec![
        ("Plain.".into(), vec![part("text", "Plain.")], "stop"),
        (ONE.into(), vec![first.clone()], "tool_calls"),
        (
            format!("<think>\nHm, é.\n</think>\n\nLet me look.\n{ONE}\n{then}"),
            vec![
                part("reasoning", "Hm, é."),
                part("text", "Let me look."),
                first,
                made("then", "{}"),
            ],
            "tool_calls",
        ),
        ("<think>\nOnly".into(), vec![part("reasoning", "Only")], "stop"),
    ]
}

#[test]
fn streams_add_up_to_whole_answers() {
    let server = Running::with_tools();
    for path in [CHAT, MESSAGES, RESPONSES, OLLAMA] {
        for (text, expected, reason) in recorded() {
            server.script(&text);
            let body = with(
                in_form(path, &chat("Now?", 300)),
                json!({"tools": tools_for(path, &tools())}),
            );
            let answer = server.post(path, &with(body.clone(), json!({"stream": false})));
            assert_eq!(answer.status, 200, "{}", answer.text());
            let (parts, end) = whole(path, &answer.json());
            let values = |parts: &[Part]| -> Vec<Part> {
                let value = |(kind, text, name): &Part| {
                    let value = serde_json::from_str::<Value>(text).map(|v| v.to_string());
                    (*kind, value.unwrap_or_else(|_| text.clone()), name.clone())
                };
                parts.iter().map(value).collect()
            };
            assert_eq!(values(&parts), values(&expected), "{path}");
            let called = reason == "tool_calls";
            let name = match path {
                MESSAGES => ["end_turn", "tool_use"][usize::from(called)],
                RESPONSES => "completed",
                OLLAMA => "stop",
                _ => reason,
            };
            assert_eq!(end, name, "{path}");
            let (streamed, end) = folded(path, &streamed(&server, path, &body));
            assert_eq!((values(&streamed), &end), (values(&parts), &json!(name)), "{path}");
        }
    }
}

#[test]
fn streams_with_calls_are_resumed_after_any_event() {
    let server = Running::with_tools();
    let (text, ..) = recorded().swap_remove(2);
    server.script(&text);
    // What the client sees, without the ids of the response.
    let seen = |events: &[Event]| -> Vec<(usize, Value)> {
        let seen = |e: &Event| {
            let data = e.json();
            let members = ["type", "delta", "index", "output_index", "sequence_number"];
            let members = members.map(|name| data[name].clone());
            (e.id.unwrap_or(0), json!([members, data["choices"][0]["delta"]]))
        };
        events.iter().filter(|e| e.data.as_deref() != Some("[DONE]")).map(seen).collect()
    };
    // The events that begin every stream, and those without an id at its end.
    for (path, begin, end) in [(CHAT, 0, 0), (MESSAGES, 1, 2), (RESPONSES, 2, 1)] {
        let body =
            with(in_form(path, &chat("Now?", 300)), json!({"tools": tools_for(path, &tools())}));
        let body = with(body, json!({"stream": true}));
        let all: Vec<Event> = server.stream(path, &body).events();
        let all = seen(&all.into_iter().filter(not_ping).collect::<Vec<_>>());
        let tokens: Vec<usize> = all.iter().map(|event| event.0).filter(|id| *id > 0).collect();
        assert!(tokens.len() > 10 && tokens.is_sorted());
        let last = &all[all.len() - 1 - end];
        assert_eq!(last.0, *tokens.last().unwrap(), "{path}: a token whose last event has no id");
        for id in tokens.iter().step_by(5).filter(|id| **id < last.0) {
            let at = all.iter().rposition(|event| event.0 == *id).unwrap();
            let (id, headers) = (id.to_string(), "Last-Event-ID");
            let rest = Stream::open(server.address, path, &[(headers, &id)], &body).events();
            let rest = seen(&rest.into_iter().filter(not_ping).collect::<Vec<_>>());
            assert_eq!(rest[begin..], all[at + 1..], "{path}: after {id}");
        }
    }
}

fn not_ping(event: &Event) -> bool {
    event.name.as_deref() != Some("ping") // how many there are depends on the speed of the machine
}

#[test]
fn typed_markers_are_text() {
    let server = Running::with_tools();
    // The same characters as in a call, but not the tokens.
    let typed: Vec<u32> = ONE.bytes().map(u32::from).chain([common::END]).collect();
    nanoinfer_serve::testing::script(&server.handle, Some(&typed));
    let answer = server.chat(&with(chat("Now?", 300), json!({"tools": tools()})));
    let message = &answer["choices"][0]["message"];
    assert_eq!((message["content"].as_str(), &message["tool_calls"]), (Some(ONE), &Value::Null));
    assert_eq!(answer["choices"][0]["finish_reason"], "stop");
    // In a request, they are not the tokens either.
    let count = |text: &str| server.chat(&chat(text, 1))["usage"]["prompt_tokens"].clone();
    assert_eq!(count("<tool_call>"), count("-tool_call-"));
    assert_eq!(count("<|im_end|>"), count("-|im_end|-"));
}

#[test]
fn required_calls_can_always_be_parsed() {
    let server = Running::with_tools();
    let fixed = json!({"tools": tools(), "parallel_tool_calls": false, "temperature": 1.5, "chat_template_kwargs": {"enable_thinking": false}});
    let named = json!({"type": "function", "function": {"name": "then"}});
    for seed in 0..6 {
        for choice in [json!("required"), named.clone()] {
            let body = with(chat("Now?", 200), fixed.clone());
            let body = with(body, json!({"tool_choice": choice, "seed": seed}));
            let answer = server.chat(&body);
            let (choice, is_named) = (&answer["choices"][0], choice.is_object());
            assert_eq!(choice["finish_reason"], "tool_calls", "{choice}");
            let calls = choice["message"]["tool_calls"].as_array().unwrap();
            let function = &calls[0]["function"];
            assert!(calls.len() == 1 && (!is_named || function["name"] == "then"), "{choice}");
            let arguments = function["arguments"].as_str().unwrap();
            let arguments: Map<String, Value> = serde_json::from_str(arguments).unwrap();
            assert!(["x", "yz"].contains(&arguments["zone"].as_str().unwrap()));
            assert_eq!(calls[0]["id"].as_str().unwrap().len(), 9);
        }
    }
    // A free answer becomes a call with the token that begins one.
    let bias = json!({"logit_bias": {(THINK + 2).to_string(): 100}});
    let answer = server.chat(&with(with(chat("Now?", 200), fixed), bias));
    let calls = answer["choices"][0]["message"]["tool_calls"].as_array().unwrap();
    let arguments = calls[0]["function"]["arguments"].as_str().unwrap();
    assert!(serde_json::from_str::<Map<String, Value>>(arguments).is_ok(), "{arguments}");
    // What cannot be enforced of arguments is required only of required calls.
    let mut strange = tools();
    strange[0]["function"]["parameters"]["properties"]["zone"] = json!({"pattern": "a(?=b)"});
    let body = with(chat("Now?", 5), json!({"tools": strange}));
    server.chat(&body);
    let reply = server.post(CHAT, &with(body, json!({"tool_choice": "required"})));
    let error = &reply.json()["error"];
    assert_eq!((reply.status, &error["param"]), (400, &json!("tools")));
    assert!(error["message"].as_str().unwrap().contains("pattern"), "{error}");
    for (members, param) in [
        (json!({"tools": [], "tool_choice": "required"}), "tool_choice"),
        (json!({"tool_choice": {"type": "function", "function": {"name": "x"}}}), "tool_choice"),
        (json!({"response_format": {"type": "json_object"}}), "response_format"),
    ] {
        let body = with(with(chat("Now?", 5), json!({"tools": tools()})), members);
        let reply = server.post(CHAT, &body);
        assert_eq!((reply.status, &reply.json()["error"]["param"]), (400, &json!(param)));
    }
}

#[test]
fn many_tools_are_accepted() {
    let server = Running::with_tools();
    let described = "x".repeat(1400);
    let tool = |i: usize| {
        let schema = json!({"type": "object", "properties": {"a": {"type": "string", "description": described}}});
        json!({"type": "function", "function": {"name": format!("t{i}"), "parameters": schema}})
    };
    let many: Value = (0..200).map(tool).collect();
    // The template of this model shows only names, of which 60 fit into its context.
    let few: Value = (0..60).map(tool).collect();
    let body = with(chat("Now?", 1), json!({"tools": few}));
    server.chat(&body);
    let required = with(body.clone(), json!({"tool_choice": "required", "max_tokens": 3}));
    server.chat(&required);
    let reply = server.post(CHAT, &with(body, json!({"tools": many})));
    assert_eq!(reply.json()["error"]["code"], "context_length_exceeded", "{}", reply.text());
}

#[test]
fn a_schema_begins_after_the_reasoning() {
    let server = Running::with_tools();
    let format = json!({"type": "json_schema", "json_schema": {"name": "x", "schema": schema()}});
    // The model thinks, and stops thinking at once.
    let bias = json!({THINK.to_string(): 50, (THINK + 1).to_string(): 100});
    let body = with(chat("Which?", 80), json!({"response_format": format, "logit_bias": bias}));
    let answer = server.chat(&with(body.clone(), json!({"logprobs": true})));
    assert_valid(answer["choices"][0]["message"]["content"].as_str().unwrap());
    let tokens = answer["choices"][0]["logprobs"]["content"].as_array().unwrap();
    assert_eq!((&tokens[0]["token"], &tokens[1]["token"]), (&json!("<think>"), &json!("</think>")));
    for without in [
        json!({"chat_template_kwargs": {"enable_thinking": false}}),
        json!({"reasoning_effort": "none"}),
    ] {
        let answer = server.chat(&with(body.clone(), without));
        let answer = &answer["choices"][0]["message"];
        assert_valid(answer["content"].as_str().unwrap());
        assert_eq!(answer["reasoning_content"], Value::Null);
    }
}

#[test]
fn reasoning_has_a_budget() {
    let server = Running::with_tools();
    // The model thinks, and would never stop.
    let bias = json!({THINK.to_string(): 100, (THINK + 1).to_string(): -100});
    let answer = |thinking: Value| {
        let more = json!({"max_tokens": 20, "logit_bias": bias, "thinking": thinking});
        let reply = server.post(MESSAGES, &with(chat("Why?", 20), more));
        (reply.status, reply.json())
    };
    let kinds = |answer: &Value| -> Vec<String> {
        let blocks = answer["content"].as_array().unwrap().iter();
        blocks.map(|block| block["type"].as_str().unwrap().to_owned()).collect()
    };
    let (status, endless) = answer(json!({"type": "enabled"}));
    assert_eq!(status, 200, "{endless}");
    assert!(!kinds(&endless).contains(&"text".to_owned()), "{endless}");
    let (status, limited) = answer(json!({"type": "enabled", "budget_tokens": 5}));
    assert_eq!(
        (status, kinds(&limited).last().map(String::as_str)),
        (200, Some("text")),
        "{limited}"
    );
    // Also if what follows it has a form.
    let format = json!({"format": {"type": "json_schema", "schema": schema()}});
    let more = json!({
        "max_tokens": 80, "logit_bias": bias, "output_config": format,
        "thinking": {"type": "enabled", "budget_tokens": 5},
    });
    let formed = server.post(MESSAGES, &with(chat("Which?", 80), more)).json();
    assert_eq!(kinds(&formed), ["thinking", "text"], "{formed}");
    assert_valid(formed["content"][1]["text"].as_str().unwrap());
    let (status, wrong) = answer(json!({"type": "enabled", "budget_tokens": "many"}));
    assert_eq!(status, 400);
    assert!(wrong["error"]["message"].as_str().unwrap().contains("budget_tokens"), "{wrong}");
}

#[test]
fn a_conversation_with_calls_comes_back_as_it_was() {
    let server = Running::with_tools();
    let (reasoning, text) = ("Hm, é.", "Let me look.");
    let call = "<tool_call>\n{\"name\": \"now\", \"arguments\": {\"zone\": \"x\", \"n\": true}}\n</tool_call>";
    let answer = format!("<think>\n{reasoning}\n</think>\n\n{text}\n{call}");
    server.script(&answer);
    let body = with(chat("Now?", 300), json!({"tools": tools()}));
    let first = server.chat(&body);
    let prompt =
        server.post("/apply-template", &body).json()["prompt"].as_str().unwrap().to_owned();
    let mut again = body;
    let list = again["messages"].as_array_mut().unwrap();
    list.push(first["choices"][0]["message"].clone());
    let id = &first["choices"][0]["message"]["tool_calls"][0]["id"];
    list.push(json!({"role": "tool", "tool_call_id": id, "content": "Noon."}));
    let text = server.post("/apply-template", &again).json()["prompt"].as_str().unwrap().to_owned();
    let rest = text.strip_prefix(&(prompt + &answer)).expect("the prompt and the answer");
    assert!(rest.contains("<tool_response>Noon."), "{rest}");
    server.script("Noon.");
    let second = server.chat(&again);
    let known = first["usage"]["total_tokens"].as_u64().unwrap();
    let cached = second["usage"]["prompt_tokens_details"]["cached_tokens"].as_u64().unwrap();
    assert!(cached + 64 >= known, "{cached} of {known}");
    // The client has its own spaces in JSON.
    for arguments in ["{\"zone\":\"x\",\"n\":true}", "{ \"zone\" : \"x\",\n  \"n\": true }"] {
        let mut spaced = again.clone();
        spaced["messages"][1]["tool_calls"][0]["function"]["arguments"] = arguments.into();
        let pretty = serde_json::to_string_pretty(&spaced).unwrap();
        let reply =
            common::client::send(server.address, "POST", "/v1/chat/completions", &[], &pretty);
        let usage = &reply.json()["usage"];
        assert_eq!(usage["prompt_tokens"], second["usage"]["prompt_tokens"]);
        let cached = usage["prompt_tokens_details"]["cached_tokens"].as_u64().unwrap();
        assert!(cached + 64 >= known, "{cached} of {known}: {arguments}");
    }
    // The same conversation in the forms of other APIs.
    let result = json!([{"type": "tool_result", "tool_use_id": id, "content": "Noon."}]);
    let blocks = json!([
        {"type": "thinking", "thinking": "Hm, é.", "signature": ""},
        {"type": "text", "text": "Let me look."},
        {"type": "tool_use", "id": id, "name": "now", "input": {"zone": "x", "n": true}},
    ]);
    let messages = json!([
        {"role": "user", "content": "Now?"}, {"role": "assistant", "content": blocks}, {"role": "user", "content": result},
    ]);
    let body =
        json!({"messages": messages, "max_tokens": 9, "tools": tools_for(MESSAGES, &tools())});
    let counted = server.post("/v1/messages/count_tokens", &body).json()["input_tokens"].clone();
    assert_eq!(counted, second["usage"]["prompt_tokens"]);
    let input = json!([
        {"role": "user", "content": "Now?"},
        {"type": "reasoning", "summary": [], "content": [{"type": "reasoning_text", "text": "Hm, é."}]},
        {"type": "message", "role": "assistant", "content": [{"type": "output_text", "text": "Let me look."}]},
        {"type": "function_call", "call_id": id, "name": "now", "arguments": "{\"zone\": \"x\", \"n\": true}"},
        {"type": "function_call_output", "call_id": id, "output": "Noon."},
    ]);
    let body =
        json!({"input": input, "tools": tools_for(RESPONSES, &tools()), "max_output_tokens": 9});
    let usage = server.post(RESPONSES, &body).json()["usage"].clone();
    assert_eq!(usage["input_tokens"], second["usage"]["prompt_tokens"]);
}

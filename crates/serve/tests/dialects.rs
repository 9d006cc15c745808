//! The other APIs: their forms, and that they give the same answers.

mod common;

use common::client::Event;
use common::{CTX, Running, chat, conversation, only_text, with};
use serde_json::{Value, json};

/// The text that a chat completion gives to the same question.
fn expected(server: &Running, body: &Value) -> String {
    server.chat(body)["choices"][0]["message"]["content"].as_str().unwrap().to_owned()
}

fn types(events: &[Event]) -> Vec<String> {
    let mut types: Vec<String> = events.iter().map(|e| e.name.clone().unwrap()).collect();
    types.retain(|name| name != "ping"); // how many there are depends on the speed of the machine
    types.dedup();
    types
}

fn joined(events: &[Event], text: impl Fn(&Value) -> Option<&str>) -> String {
    events.iter().filter_map(|e| text(&e.json()).map(str::to_owned)).collect()
}

#[test]
fn messages_have_anthropics_form() {
    let server = Running::new();
    let question = with(chat("Tell me.", 30), only_text());
    let text = expected(&server, &question);
    let body = with(question, json!({"system": [], "stop_sequences": []}));
    let whole = server.post("/v1/messages", &body).json();
    assert_eq!(whole["content"], json!([{"type": "text", "text": text}]));
    assert_eq!((&whole["type"], &whole["role"]), (&json!("message"), &json!("assistant")));
    assert_eq!(
        (&whole["stop_reason"], &whole["stop_sequence"]),
        (&json!("max_tokens"), &Value::Null)
    );
    let events =
        server.stream("/v1/messages", &with(body.clone(), json!({"stream": true}))).events();
    let order = [
        "message_start",
        "content_block_start",
        "content_block_delta",
        "content_block_stop",
        "message_delta",
        "message_stop",
    ];
    assert_eq!(types(&events), order);
    assert!(events.iter().all(|e| e.json()["type"] == **e.name.as_ref().unwrap()));
    assert_eq!(joined(&events, |e| e["delta"]["text"].as_str()), text);
    let counts = events[0].json()["message"]["usage"]["input_tokens"].clone();
    let count = server.post("/v1/messages/count_tokens", &body).json()["input_tokens"].clone();
    assert_eq!(count, counts);
    // The stop sequence that ended it.
    let end = text.chars().nth(5).unwrap().to_string();
    let stopped = with(body.clone(), json!({"stop_sequences": ["never", end]}));
    let stopped = server.post("/v1/messages", &stopped).json();
    assert_eq!(
        (&stopped["stop_reason"], &stopped["stop_sequence"]),
        (&json!("stop_sequence"), &json!(end))
    );
    // Errors.
    for (members, status, kind, part) in [
        (json!({"max_tokens": null}), 400, "invalid_request_error", "max_tokens"),
        (
            json!({"messages": conversation(&[&"x".repeat(CTX)])}),
            400,
            "invalid_request_error",
            "prompt is too long: ",
        ),
        (json!({"model": "other"}), 404, "not_found_error", "other"),
        (json!({"tools": [{"name": "f"}]}), 400, "invalid_request_error", "tools"),
        (
            json!({"messages": [{"role": "user", "content": [{"type": "image"}]}]}),
            400,
            "invalid_request_error",
            "messages[0].content[0]",
        ),
    ] {
        let reply = server.post("/v1/messages", &with(body.clone(), members));
        let error = reply.json();
        assert_eq!((reply.status, &error["type"]), (status, &json!("error")), "{error}");
        assert_eq!(error["error"]["type"], kind);
        assert!(error["error"]["message"].as_str().unwrap().contains(part), "{error}");
    }
}

#[test]
fn a_changing_line_before_the_instructions_costs_nothing() {
    let server = Running::new();
    let instructions = "Follow these rules. ".repeat(10);
    let ask = |line: &str| {
        let system =
            json!([{"type": "text", "text": line}, {"type": "text", "text": instructions}]);
        let body = json!({"system": system, "messages": conversation(&["Hi"]), "max_tokens": 2});
        server.post("/v1/messages", &body).json()["usage"].clone()
    };
    let first = ask("x-anthropic-billing-header: cc_version=2; cch=aaa;");
    let second = ask("x-anthropic-billing-header: cc_version=2; cch=bbb;");
    assert_eq!(first["cache_read_input_tokens"], 0);
    let all = second["cache_read_input_tokens"].as_u64().unwrap();
    assert!(all >= 192, "{second}");
    // All of the instructions, to the block: as much as the same request finds once more.
    let third = ask("x-anthropic-billing-header: cc_version=2; cch=bbb;");
    assert_eq!(third["cache_read_input_tokens"], all);
    // Of other changes, the answer says where they are.
    let stamped = |time: &str| {
        let system = format!("It is {time}. {instructions}");
        let body = json!({"messages": [{"role": "system", "content": system}, {"role": "user", "content": "Hi"}], "max_tokens": 2});
        server.chat(&body)
    };
    let before = stamped("12:30")["usage"]["prompt_tokens"].as_u64().unwrap();
    let remarks = stamped("12:31")["nanoinfer"].clone();
    let at = remarks["differs_at"].as_u64().unwrap();
    assert!(at > 0 && at < before, "{remarks}");
    assert_eq!((&remarks["was"], &remarks["is"]), (&json!("0"), &json!("1")));
}

#[test]
fn responses_have_openais_form() {
    let server = Running::new();
    let question = with(chat("Tell me.", 30), only_text());
    let text = expected(&server, &question);
    let input = json!([{"type": "message", "role": "user", "content": [{"type": "input_text", "text": "Tell me."}]}, {"type": "reasoning", "summary": []}]);
    let body = json!({"input": input, "max_output_tokens": 30, "seed": 7, "store": false, "tools": [{"type": "web_search"}]});
    let body = with(body, only_text());
    let whole = server.post("/v1/responses", &body).json();
    assert_eq!((&whole["status"], &whole["object"]), (&json!("incomplete"), &json!("response")));
    assert_eq!(whole["output"][0]["content"][0]["text"], text);
    assert_eq!(whole["usage"]["output_tokens"], 30);
    let events =
        server.stream("/v1/responses", &with(body.clone(), json!({"stream": true}))).events();
    let order = [
        "response.created",
        "response.in_progress",
        "response.output_item.added",
        "response.content_part.added",
        "response.output_text.delta",
        "response.output_text.done",
        "response.content_part.done",
        "response.output_item.done",
        "response.incomplete",
    ];
    assert_eq!(types(&events), order);
    assert_eq!(joined(&events, |e| e["delta"].as_str()), text);
    let numbers = events.iter().map(|e| e.json()["sequence_number"].as_u64().unwrap());
    assert!(numbers.eq(0..events.len() as u64));
    let last = events.last().unwrap().json()["response"].clone();
    let content = |response: &Value| response["output"][0]["content"].clone();
    assert_eq!((content(&last), &last["usage"]["output_tokens"]), (content(&whole), &json!(30)));
    for (members, param) in [
        (json!({"previous_response_id": "resp_1"}), "previous_response_id"),
        (json!({"tools": [{"type": "function", "name": "f"}]}), "tools"),
        (json!({"text": {"format": {"type": "json_schema"}}}), "text.format"),
        (json!({"input": [{"type": "computer_call"}]}), "input[0]"),
        (json!({"input": 5}), "input"),
        (json!({"background": true}), "background"),
    ] {
        let reply = server.post("/v1/responses", &with(body.clone(), members));
        assert_eq!((reply.status, &reply.json()["error"]["param"]), (400, &json!(param)));
    }
}

#[test]
fn ollamas_clients_get_lines() {
    let server = Running::new();
    let question = with(chat("Tell me.", 30), only_text());
    let text = expected(&server, &question);
    let options = with(json!({"num_predict": 30, "seed": 7, "num_ctx": 4096}), only_text());
    let lines = |path: &str, body: &Value| -> Vec<Value> {
        let reply = server.post(path, body);
        assert_eq!(
            (reply.status, reply.header("content-type")),
            (200, Some("application/x-ndjson"))
        );
        reply.text().lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    };
    let body = json!({"model": "tiny:latest", "messages": conversation(&["Tell me."]), "options": options});
    let chat = lines("/api/chat", &body);
    let streamed: String = chat.iter().map(|l| l["message"]["content"].as_str().unwrap()).collect();
    assert_eq!(streamed, text);
    let last = chat.last().unwrap();
    assert_eq!(
        (&last["done"], &last["done_reason"], &last["eval_count"]),
        (&json!(true), &json!("length"), &json!(30))
    );
    let whole = server.post("/api/chat", &with(body, json!({"stream": false}))).json();
    assert_eq!(whole["message"]["content"], text);
    let body = json!({"model": "tiny", "prompt": "Tell me.", "options": options});
    let streamed = lines("/api/generate", &body);
    let streamed: String = streamed.iter().map(|l| l["response"].as_str().unwrap()).collect();
    assert_eq!(streamed, text);
    let raw = json!({"prompt": "<|im_start|>user\nTell me.<|im_end|>\n<|im_start|>assistant\n", "raw": true, "stream": false});
    let raw = server.post("/api/generate", &with(body, raw)).json();
    // A raw prompt begins with the token that begins texts.
    assert_eq!(raw["prompt_eval_count"], 1 + 1 + 5 + 8 + 1 + 1 + 1 + 10);
    let tags = server.get("/api/tags").json();
    assert_eq!(
        (&tags["models"][0]["name"], &tags["models"][0]["details"]["quantization_level"]),
        (&json!("tiny"), &json!("q8"))
    );
    assert_eq!(
        server.post("/api/show", &json!({"model": "tiny"})).json()["model_info"]["llama.context_length"],
        CTX
    );
    assert!(server.get("/api/version").json()["version"].is_string());
    let error = server.post("/api/chat", &json!({"model": "none", "messages": []}));
    assert_eq!(error.status, 404);
    assert!(error.json()["error"].is_string());
    for members in [json!({"format": "xml"}), json!({"options": {"mirostat": 1}})] {
        let body = with(json!({"messages": conversation(&["Hi"])}), members);
        assert_eq!(server.post("/api/chat", &body).status, 400);
    }
}

#[test]
fn editors_fill_gaps() {
    let server = Running::new();
    let body =
        json!({"input_prefix": "ab", "input_suffix": "cd", "n_predict": 6, "temperature": 0});
    let whole = server.post("/infill", &body).json();
    assert_eq!((&whole["stop"], &whole["tokens_evaluated"]), (&json!(true), &json!(8)));
    let events = server.stream("/infill", &with(body, json!({"stream": true}))).events();
    assert_eq!(joined(&events, |e| e["content"].as_str()), whole["content"].as_str().unwrap());
    assert_eq!(events.last().unwrap().json()["stop"], true);
}

#[test]
fn side_requests_do_not_cost_a_conversation_its_cache() {
    let server = Running::new();
    let mut texts = vec!["Let us talk about the weather of this year.".to_owned()];
    let (mut before, mut computed) = (0, Vec::new());
    for turn in 0..8 {
        let all: Vec<&str> = texts.iter().map(String::as_str).collect();
        let body = json!({"messages": conversation(&all), "max_tokens": 6, "temperature": 2, "seed": turn, "ignore_eos": true});
        let reply = server.chat(&body);
        let usage = &reply["usage"];
        let cached = usage["prompt_tokens_details"]["cached_tokens"].as_u64().unwrap();
        assert!(cached >= before / 64 * 64, "turn {turn}: {cached} of {before}");
        before = usage["total_tokens"].as_u64().unwrap() - 1;
        let answer = reply["choices"][0]["message"]["content"].as_str().unwrap().to_owned();
        computed.push(reply["nanoinfer"]["computed"].as_u64().unwrap());
        // A title for the conversation and tags, as interfaces ask for, at the same time.
        std::thread::scope(|scope| {
            for task in ["Write a title for", "Find tags for"] {
                let text = format!("{task}: {}", all.join(" "));
                let server = &server;
                scope.spawn(move || {
                    server.chat(&json!({"messages": conversation(&[&text]), "max_tokens": 3}))
                });
            }
        });
        texts.extend([answer, "And?".to_owned()]);
    }
    assert!(before > 250, "{before}");
    // Later turns cost no more than earlier ones, but for a part of a block.
    assert!(computed[1..].iter().all(|n| *n <= computed[1].min(64) + 64), "{computed:?}");
}

#[test]
fn the_page_runs_only_its_own_script() {
    let server = Running::new();
    let page = server.get("/");
    let policy = page.header("content-security-policy").unwrap().to_owned();
    let nonce = policy.split("'nonce-").nth(1).unwrap().split('\'').next().unwrap();
    let text = page.text();
    assert_eq!(text.matches(&format!("nonce=\"{nonce}\"")).count(), 2);
    assert!(!text.contains("NONCE") && !text.contains("https://") && text.len() < 80_000);
    assert!(!policy.contains("unsafe") && policy.starts_with("default-src 'self'"));
    // Without an icon of its own, browsers ask for /favicon.ico and report that it is missing.
    assert!(text.contains("<link rel=\"icon\" href=\"data:") && policy.contains("img-src data:"));
    assert_ne!(server.get("/").header("content-security-policy"), Some(&*policy));
}

#[test]
fn the_description_lists_what_exists() {
    let server = Running::new();
    let document = server.get("/openapi.json").json();
    let paths = document["paths"].as_object().unwrap();
    assert!(paths.len() > 20);
    for (path, operations) in paths.iter().filter(|(path, _)| *path != "/v1/telemetry") {
        let path = path.replace("{name}", "tiny");
        let reply = match operations.get("get") {
            Some(_) => server.get(&path),
            None => server.post(&path, &json!({"tokens": [1]})),
        };
        assert!(![404, 405, 500].contains(&reply.status), "{path}: {}", reply.text());
        let schema =
            &operations["post"]["requestBody"]["content"]["application/json"]["schema"]["$ref"];
        if let Some(schema) = schema.as_str() {
            assert!(document.pointer(&schema[1..]).is_some(), "{schema}");
        }
    }
}

//! OpenAI's API: streamed and whole answers, options, counts, errors.

mod common;

use common::client::Event;
use common::{BLOCK, CTX, Running, Setup, chat, conversation, only_text, with};
use serde_json::{Value, json};

const CHAT: &str = "/v1/chat/completions";

/// The text of each choice in a stream of chat chunks; asserts that it ends as streams have to.
fn folded(events: &[Event], n: usize) -> Vec<String> {
    let (last, chunks) = events.split_last().unwrap();
    assert_eq!(last.data.as_deref(), Some("[DONE]"));
    let (mut texts, mut ends) = (vec![String::new(); n], vec![0; n]);
    for chunk in chunks {
        let chunk = chunk.json();
        for choice in chunk["choices"].as_array().unwrap() {
            let index = choice["index"].as_u64().unwrap() as usize;
            assert_eq!(ends[index], 0, "something after the end: {chunk}");
            texts[index] += choice["delta"]["content"].as_str().unwrap_or_default();
            ends[index] += usize::from(!choice["finish_reason"].is_null());
        }
    }
    assert_eq!(ends, vec![1; n], "a choice without an end");
    texts
}

#[test]
fn a_folded_stream_is_the_whole_answer() {
    let server = Running::new();
    for options in [
        json!({"temperature": 0}),
        json!({"temperature": 1.3, "n": 3}),
        json!({"temperature": 1.3, "top_p": 0.9, "top_k": 40, "min_p": 0.01, "stop": ["a", "e "]}),
        json!({"temperature": 1.3, "presence_penalty": 1, "frequency_penalty": 0.5, "repetition_penalty": 1.2}),
        json!({"temperature": 1, "logit_bias": {"65": 8, "66": -100}, "ignore_eos": true}),
    ] {
        let body = with(chat("Tell me a story.", 60), options);
        let whole = server.chat(&body);
        let stream =
            with(body.clone(), json!({"stream": true, "stream_options": {"include_usage": true}}));
        let events = server.stream(CHAT, &stream).events();
        let n = whole["choices"].as_array().unwrap().len();
        let contents = whole["choices"].as_array().unwrap().iter();
        let contents: Vec<_> =
            contents.map(|c| c["message"]["content"].as_str().unwrap()).collect();
        assert_eq!(folded(&events, n), contents, "{body}");
        let usage = events[events.len() - 2].json();
        assert_eq!(usage["choices"], json!([]));
        for name in ["prompt_tokens", "completion_tokens", "total_tokens"] {
            assert_eq!(usage["usage"][name], whole["usage"][name], "{body}");
        }
        assert_eq!(server.chat(&body)["choices"], whole["choices"], "the same again");
    }
}

#[test]
fn choices_are_the_answers_to_the_following_seeds() {
    let server = Running::new();
    let body = with(chat("Hello", 20), json!({"temperature": 1.5, "n": 3, "seed": 40}));
    let together = server.chat(&body);
    assert_eq!(together["seed"], 40);
    for i in 0..3 {
        let alone = server.chat(&with(body.clone(), json!({"n": 1, "seed": 40 + i})));
        assert_eq!(alone["choices"][0]["message"], together["choices"][i]["message"]);
    }
}

#[test]
fn a_seed_is_chosen_and_returned() {
    let server = Running::new();
    let body = json!({"messages": conversation(&["Hi"]), "max_tokens": 20, "temperature": 1.5});
    let first = server.chat(&body);
    let seed = first["seed"].as_u64().unwrap();
    let again = server.chat(&with(body.clone(), json!({"seed": seed})));
    assert_eq!(again["choices"], first["choices"]);
    assert_eq!(again["system_fingerprint"], first["system_fingerprint"]);
    let other = server.chat(&body);
    assert_ne!(other["seed"], first["seed"]);
}

#[test]
fn log_probabilities_are_those_of_the_tokens() {
    let server = Running::new();
    let body = with(chat("Hello", 12), json!({"logprobs": true, "top_logprobs": 3}));
    let body = with(body, only_text());
    let whole = server.chat(&body);
    let content = whole["choices"][0]["logprobs"]["content"].as_array().unwrap();
    assert_eq!(content.len(), 12);
    let bytes = content.iter().flat_map(|c| c["bytes"].as_array().unwrap().clone());
    let bytes: Vec<u8> = bytes.map(|b| b.as_u64().unwrap() as u8).collect();
    let text = String::from_utf8_lossy(&bytes).into_owned();
    assert_eq!(whole["choices"][0]["message"]["content"], text);
    for token in content {
        let top = token["top_logprobs"].as_array().unwrap();
        // Greedy, so no more likely token was allowed.
        let of = |token: &Value| token["logprob"].as_f64().unwrap();
        assert!(top.len() == 3 && top.iter().all(|t| of(t) <= of(&top[0])), "{token}");
        assert!(of(&top[0]) >= of(token), "{token}");
        assert!(token["logprob"].as_f64().unwrap() < 0.0);
    }
    let events = server.stream(CHAT, &with(body, json!({"stream": true}))).events();
    let chunks = events.iter().filter(|e| e.data.as_deref() != Some("[DONE]")).map(Event::json);
    let streamed = chunks.flat_map(|c| match &c["choices"][0]["logprobs"]["content"] {
        Value::Array(content) => content.clone(),
        _ => Vec::new(),
    });
    assert_eq!(streamed.collect::<Vec<_>>(), *content);
}

#[test]
fn an_answer_in_a_conversation_is_not_computed_again() {
    let server = Running::new();
    // A high temperature, so that the text of the answer has other tokens than were drawn.
    let ask = |texts: &[&str]| {
        server.chat(&json!({
            "messages": conversation(texts), "max_tokens": 30, "temperature": 3, "seed": 5, "ignore_eos": true,
        }))
    };
    let long = "Please tell me all about it. ".repeat(5);
    let first = ask(&[&long]);
    let answer = first["choices"][0]["message"]["content"].as_str().unwrap().to_owned();
    let second = ask(&[&long, &answer, "And then?"]);
    let details = |reply: &Value| {
        let usage = &reply["usage"];
        let number = |v: &Value| v.as_u64().unwrap() as usize;
        (number(&usage["prompt_tokens"]), number(&usage["prompt_tokens_details"]["cached_tokens"]))
    };
    let (before, cached) = details(&first);
    assert_eq!(cached, 0);
    let (_, cached) = details(&second);
    assert!(cached >= (before + 29) / BLOCK * BLOCK, "{cached} of {before} + 30");
    // A different conversation says where it differs.
    let third = ask(&[&long.replacen("about it", "about me", 4)]);
    let remarks = &third["nanoinfer"];
    assert!(remarks["differs_at"].as_u64().unwrap() > 20, "{remarks}");
    assert_eq!((&remarks["was"], &remarks["is"]), (&json!("i"), &json!("m")));
}

#[test]
fn too_long_a_prompt_names_both_numbers_and_a_large_limit_is_clamped() {
    let server = Running::new();
    let text = |n: usize| json!({"prompt": "x".repeat(n), "max_tokens": 1});
    let reply = server.post("/v1/completions", &text(CTX)); // and one to begin the text
    let error = &reply.json()["error"];
    assert_eq!((reply.status, &error["code"]), (400, &json!("context_length_exceeded")));
    let message = error["message"].as_str().unwrap();
    assert!(message.contains("maximum context length is 512 tokens"), "{message}");
    assert!(message.contains("513 tokens"), "{message}");
    assert_eq!((&error["n_prompt_tokens"], &error["n_ctx"]), (&json!(513), &json!(512)));
    assert_eq!(server.post("/v1/completions", &text(CTX - 1)).status, 200);
    let whole = server.chat(&with(chat("Hi", 128_000), json!({"ignore_eos": true})));
    let usage = &whole["usage"];
    assert_eq!(whole["choices"][0]["finish_reason"], "length");
    assert_eq!(whole["nanoinfer"]["ended"], "the context is full");
    assert_eq!(usage["total_tokens"], CTX + 1); // the last token needs no room
}

#[test]
fn completions_take_texts_and_tokens() {
    let server = Running::new();
    let complete = |members: Value| {
        let body = with(json!({"max_tokens": 6, "temperature": 1.2, "seed": 1}), members);
        let reply = server.post("/v1/completions", &body);
        assert_eq!(reply.status, 200, "{}", reply.text());
        reply.json()
    };
    let text = |reply: &Value, i: usize| reply["choices"][i]["text"].as_str().unwrap().to_owned();
    let one = complete(json!({"prompt": "ab"}));
    assert_eq!(text(&one, 0), text(&complete(json!({"prompt": [256, 97, 98]})), 0));
    let two = complete(json!({"prompt": ["ab", "cd"], "n": 2}));
    assert_eq!(two["choices"].as_array().unwrap().len(), 4);
    assert_eq!(text(&two, 0), text(&one, 0));
    assert_eq!(text(&two, 2), text(&complete(json!({"prompt": "cd"})), 0));
    assert_eq!(two["usage"]["prompt_tokens"], 6);
    assert_eq!(
        text(&complete(json!({"prompt": "ab", "echo": true})), 0),
        format!("ab{}", text(&one, 0))
    );
    // A typed marker stays text, unless the client vouches for it.
    let count = |members| complete(members)["usage"]["prompt_tokens"].clone();
    assert_eq!(count(json!({"prompt": "<|im_end|>"})), 11);
    assert_eq!(count(json!({"prompt": "<|im_end|>", "parse_special": true})), 2);
    let infill = complete(json!({"prompt": "ab", "suffix": "cd"}));
    assert_eq!(infill["usage"]["prompt_tokens"], 8);
    let logprobs = complete(json!({"prompt": "ab", "logprobs": 2}));
    let logprobs = &logprobs["choices"][0]["logprobs"];
    let tokens: Vec<_> =
        logprobs["tokens"].as_array().unwrap().iter().map(|t| t.as_str().unwrap()).collect();
    assert_eq!(tokens.len(), 6);
    // Offsets count characters, of which these tokens have fewer than bytes.
    let at = |i: usize| tokens[..i].iter().map(|token| token.chars().count()).sum::<usize>();
    assert_eq!(logprobs["text_offset"], (0..6).map(at).collect::<Value>());
    assert!(tokens.iter().any(|token| !token.is_ascii()), "{tokens:?}");
    // Streamed, the same.
    let body =
        json!({"prompt": "ab", "max_tokens": 6, "temperature": 1.2, "seed": 1, "stream": true});
    let events = server.stream("/v1/completions", &body).events();
    let (done, chunks) = events.split_last().unwrap();
    assert_eq!(done.data.as_deref(), Some("[DONE]"));
    let streamed: String = chunks.iter().map(|c| text(&c.json(), 0)).collect();
    assert_eq!(streamed, text(&one, 0));
}

#[test]
fn invalid_requests_name_the_field() {
    let server = Running::new();
    for (members, param) in [
        (json!({"temperature": -1}), "temperature"),
        (json!({"temperature": "hot"}), "temperature"),
        (json!({"top_p": 2}), "top_p"),
        (json!({"n": 0}), "n"),
        (json!({"n": 1000}), "n"),
        (json!({"max_tokens": -2}), "max_tokens"),
        (json!({"seed": -5}), "seed"),
        (json!({"logprobs": true, "top_logprobs": 21}), "top_logprobs"),
        (json!({"top_logprobs": 2}), "top_logprobs"),
        (json!({"logit_bias": {"x": 1}}), "logit_bias.x"),
        (json!({"logit_bias": {"320": 1}}), "logit_bias.320"),
        (json!({"stop_token_ids": [320]}), "stop_token_ids"),
        (json!({"stop": [1]}), "stop"),
        (json!({"messages": []}), "messages"),
        (json!({"messages": [{"role": "king", "content": "x"}]}), "messages[0].role"),
        (
            json!({"messages": [{"role": "user", "content": [{"type": "image_url"}]}]}),
            "messages[0].content[0]",
        ),
        (json!({"messages": [{"role": "user", "content": 5}]}), "messages[0].content"),
        (json!({"stream_options": {"include_usage": 7}}), "stream_options.include_usage"),
        (json!({"model": 5}), "model"),
        // Not implemented, so refused rather than ignored.
        (json!({"tools": [{"type": "function"}]}), "tools[0].function.name"),
        (json!({"tools": [{"type": "function", "function": {"name": "f"}}]}), "tools"),
        (json!({"tools": {}}), "tools"),
        (json!({"tool_choice": "maybe"}), "tool_choice"),
        (json!({"functions": [{"name": "f"}]}), "functions"),
        (json!({"chat_template_kwargs": {"messages": 1}}), "chat_template_kwargs"),
        (json!({"tool_choice": "required"}), "tool_choice"),
        (json!({"response_format": {"type": "xml"}}), "response_format"),
        (json!({"guided_regex": "a(?=b)"}), "guided_regex"),
        (
            json!({"messages": [{"role": "assistant", "tool_calls": [{"id": "a"}]}]}),
            "messages[0].tool_calls[0].function.name",
        ),
        (json!({"mirostat": 2}), "mirostat"),
    ] {
        let reply = server.post(CHAT, &with(chat("Hi", 1), members.clone()));
        let error = &reply.json()["error"];
        assert_eq!(
            (reply.status, error["param"].as_str()),
            (400, Some(param)),
            "{members}: {error}"
        );
        assert!(error["message"].as_str().unwrap().starts_with(param), "{error}");
        assert_eq!(error["type"], "invalid_request_error");
    }
    let reply = server.post(CHAT, &with(chat("Hi", 1), json!({"model": "other"})));
    assert_eq!((reply.status, &reply.json()["error"]["code"]), (404, &json!("model_not_found")));
    let neutral = json!({"tools": [], "tool_choice": "auto", "response_format": {"type": "text"}, "user": "x"});
    assert_eq!(server.post(CHAT, &with(chat("Hi", 1), neutral)).status, 200);
}

#[test]
fn a_stream_is_resumed_after_any_event() {
    let server = Running::new();
    let body =
        with(chat("Go on.", 40), json!({"stream": true, "temperature": 1.4, "stop": ["qq"]}));
    let body = with(body, only_text());
    let all = server.stream(CHAT, &body).events();
    let data = |events: &[Event]| -> Vec<Value> {
        let chunks = events.iter().filter(|e| e.data.as_deref() != Some("[DONE]"));
        chunks
            .map(|e| e.json()["choices"][0]["delta"]["content"].clone())
            .filter(|c| !c.is_null())
            .collect()
    };
    let ids: Vec<usize> = all.iter().filter_map(|e| e.id).collect();
    assert!(ids.len() > 20 && ids.is_sorted());
    for &id in &ids {
        let last = id.to_string();
        let headers = [("Last-Event-ID", last.as_str())];
        let rest = common::Stream::open(server.address, CHAT, &headers, &body).events();
        let at = all
            .iter()
            .rposition(|e| e.id == Some(id) && e.data.as_ref().unwrap().contains("content"));
        let from = at.map_or(0, |at| at + 1);
        assert_eq!(data(&rest), data(&all[from..]), "after {id}");
        assert_eq!(rest.last().unwrap().data.as_deref(), Some("[DONE]"));
    }
    let without_seed = json!({"messages": conversation(&["Hi"]), "stream": true});
    let reply = server.post_with(CHAT, &[("Last-Event-ID", "3")], &without_seed);
    assert_eq!((reply.status, &reply.json()["error"]["param"]), (400, &json!("seed")));
    let headers = [("Last-Event-ID", "3"), ("X-System-Fingerprint", "fp_0")];
    assert_eq!(server.post_with(CHAT, &headers, &body).status, 409);
}

#[test]
fn a_resumed_stream_does_not_echo_the_prompt_again() {
    let server = Running::new();
    let body = json!({"prompt": "ab", "echo": true, "seed": 1, "max_tokens": 6, "stream": true});
    let body = with(body, only_text());
    let complete = |headers: &[(&str, &str)]| {
        let path = "/v1/completions";
        let mut events = common::Stream::open(server.address, path, headers, &body).events();
        events.retain(|e| e.data.as_deref() != Some("[DONE]"));
        events
    };
    let texts = |events: &[Event]| -> Vec<Value> {
        events.iter().map(|e| e.json()["choices"][0]["text"].clone()).collect()
    };
    let all = complete(&[]);
    assert!(all.len() > 2 && texts(&all)[0].as_str().unwrap().starts_with("ab"));
    let rest = complete(&[("Last-Event-ID", &all[0].id.unwrap().to_string())]);
    assert_eq!(texts(&rest), texts(&all[1..]));
}

#[test]
fn models_are_found_by_their_names() {
    let names = &["first", "second:latest", "default"];
    let server = Running::start(Setup { names, ..Setup::default() });
    for (asked, found) in [
        (json!(null), "first"),
        (json!(""), "first"),
        (json!("first:latest"), "first"),
        (json!("second:latest"), "second:latest"),
        (json!("default"), "default"),
    ] {
        assert_eq!(server.chat(&with(chat("Hi", 1), json!({"model": asked})))["model"], found);
    }
    assert_eq!(
        Running::new().chat(&with(chat("Hi", 1), json!({"model": "default"})))["model"],
        "tiny"
    );
    assert_eq!(server.post(CHAT, &with(chat("Hi", 1), json!({"model": "second"}))).status, 404);
}

#[test]
fn models_tokens_and_templates() {
    let server = Running::new();
    let models = server.get("/v1/models").json();
    assert_eq!(
        (&models["data"][0]["id"], &models["data"][0]["max_model_len"]),
        (&json!("tiny"), &json!(CTX))
    );
    assert_eq!(server.get("/v1/models/tiny").json()["id"], "tiny");
    assert_eq!(server.get("/v1/models/huge").status, 404);
    let tokens = |body: Value| server.post("/tokenize", &body).json()["tokens"].clone();
    assert_eq!(tokens(json!({"content": "ab"})), json!([97, 98]));
    assert_eq!(tokens(json!({"prompt": "ab"})), json!([256, 97, 98]));
    assert_eq!(tokens(json!({"content": "</s>", "parse_special": true})), json!([257]));
    assert_eq!(
        server.post("/detokenize", &json!({"tokens": [97, 257]})).json()["content"],
        "a</s>"
    );
    assert_eq!(server.post("/detokenize", &json!({"tokens": [320]})).status, 400);
    let prompt = server.post("/apply-template", &json!({"messages": conversation(&["Hi"])}));
    assert_eq!(prompt.json()["prompt"], "<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n");
    assert_eq!(server.get("/nothing").status, 404);
    assert_eq!(server.get(CHAT).status, 405);
    assert_eq!(server.get("/health").status, 200);
    assert_eq!(server.get("/ready").status, 200);
}

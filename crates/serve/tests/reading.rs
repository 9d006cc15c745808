//! Prompts that are read, but not answered: embeddings and rankings; and the log-probabilities of prompts.

mod common;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use std::io::Write;
use std::net::TcpStream;

use common::client::request;
use common::{CTX, Running, Setup, YES_NO, chat, judge, model, only_text, with};
use serde_json::{Value, json};

const EMBEDDINGS: &str = "/v1/embeddings";
const COMPLETIONS: &str = "/v1/completions";

fn good(server: &Running, path: &str, body: &Value) -> Value {
    let reply = server.post(path, body);
    assert_eq!(reply.status, 200, "{}", reply.text());
    reply.json()
}

/// The little-endian floats in base64.
fn floats(text: &Value) -> Vec<f32> {
    let bytes = STANDARD.decode(text.as_str().unwrap()).unwrap();
    bytes.chunks_exact(4).map(|b| f32::from_le_bytes(b.try_into().unwrap())).collect()
}

fn numbers(list: &Value) -> Vec<f32> {
    list.as_array().unwrap().iter().map(|x| x.as_f64().unwrap() as f32).collect()
}

fn length(vector: &[f32]) -> f64 {
    vector.iter().map(|&x| f64::from(x) * f64::from(x)).sum::<f64>().sqrt()
}

/// Ids of a text of `n` tokens.
fn ids(n: usize, seed: usize) -> Vec<usize> {
    (0..n).map(|i| 32 + (i * i + 7 * i * seed + seed) % 90).collect()
}

#[test]
fn a_vector_is_the_same_in_any_company() {
    let server = Running::start(Setup { ctx: 4096, ..Setup::default() });
    let (long, short) = (ids(4000, 1), ids(70, 2));
    for pooling in ["last", "mean"] {
        let embed = |input: Value| {
            let body = json!({"input": input, "encoding_format": "base64", "pooling": pooling});
            good(&server, EMBEDDINGS, &body)["data"].clone()
        };
        let alone = [embed(json!(long))[0].clone(), embed(json!(short))[0].clone()];
        let vectors = alone.each_ref().map(|item| floats(&item["embedding"]));
        for vector in &vectors {
            assert_eq!(vector.len(), model().config().d_model as usize);
            assert!((length(vector) - 1.0).abs() < 1e-6);
        }
        assert_ne!(vectors[0], vectors[1]);
        // Others generate meanwhile, and most of it is cached.
        let mut stream = server.stream(
            "/v1/chat/completions",
            &with(chat("Go on.", 400), json!({"stream": true, "ignore_eos": true})),
        );
        stream.next_event().unwrap();
        let mut list: Vec<Vec<usize>> = (0..100).map(|i| ids(1 + i % 90, i)).collect();
        (list[37], list[99]) = (long.clone(), short.clone());
        let data = embed(json!(list));
        assert_eq!(data.as_array().unwrap().len(), 100);
        for (i, item) in data.as_array().unwrap().iter().enumerate() {
            assert_eq!(item["index"], i);
        }
        assert_eq!(data[37]["embedding"], alone[0]["embedding"]);
        assert_eq!(data[99]["embedding"], alone[1]["embedding"]);
        assert_eq!(embed(json!(long))[0]["embedding"], alone[0]["embedding"]);
    }
}

#[test]
fn embeddings_have_openais_form() {
    let server = Running::new();
    let one = good(&server, EMBEDDINGS, &json!({"input": "a fox", "model": "tiny"}));
    assert_eq!((&one["object"], &one["model"]), (&json!("list"), &json!("tiny")));
    assert_eq!(one["usage"], json!({"prompt_tokens": 6, "total_tokens": 6}));
    assert_eq!(one["nanoinfer"]["pooling"], "last");
    assert!(one["nanoinfer"]["note"].as_str().unwrap().contains("not for embeddings"), "{one}");
    let vector = numbers(&one["data"][0]["embedding"]);
    assert!((length(&vector) - 1.0).abs() < 1e-6);
    let fox: Vec<u32> = [256].into_iter().chain(b"a fox".map(u32::from)).collect();
    for input in [json!("a fox"), json!(["a fox"]), json!(fox), json!([fox])] {
        let body = json!({"input": input, "encoding_format": "base64"});
        let same = good(&server, EMBEDDINGS, &body);
        assert_eq!(floats(&same["data"][0]["embedding"]), vector, "{input}");
    }
    let cut = good(&server, EMBEDDINGS, &json!({"input": "a fox", "dimensions": 5}));
    let cut = numbers(&cut["data"][0]["embedding"]);
    assert!(cut.len() == 5 && (length(&cut) - 1.0).abs() < 1e-6);
    for (cut, whole) in cut.iter().zip(&vector) {
        assert!((cut * length(&vector[..5]) as f32 - whole).abs() < 1e-6);
    }
    let mean = good(&server, EMBEDDINGS, &json!({"input": "a fox", "pooling": "mean"}));
    assert_eq!(mean["nanoinfer"]["pooling"], "mean");
    assert_ne!(numbers(&mean["data"][0]["embedding"]), vector);
}

#[test]
fn bad_inputs_are_named() {
    let server = Running::new();
    let long = "x".repeat(CTX);
    for (body, param) in [
        (json!({}), "input"),
        (json!({"input": []}), "input"),
        (json!({"input": vec!["x"; 2049]}), "input"),
        (json!({"input": [320]}), "input"),
        (json!({"input": [[1], [2, 320]]}), "input[1]"),
        (json!({"input": ["a", 5]}), "input[1]"),
        (json!({"input": [[1], []]}), "input[1]"),
        (json!({"input": long}), "input"),
        (json!({"input": ["a", long]}), "input[1]"),
        (json!({"input": "a", "encoding_format": "int8"}), "encoding_format"),
        (json!({"input": "a", "dimensions": 0}), "dimensions"),
        (json!({"input": "a", "dimensions": 129}), "dimensions"),
        (json!({"input": "a", "pooling": "cls"}), "pooling"),
        (json!({"input": "a", "input_type": "query"}), "input_type"),
    ] {
        let reply = server.post(EMBEDDINGS, &body);
        let error = reply.json()["error"].clone();
        assert_eq!((reply.status, error["param"].as_str()), (400, Some(param)), "{error}");
    }
    let error = server.post(EMBEDDINGS, &json!({"input": long})).json()["error"].clone();
    assert_eq!(error["code"], "context_length_exceeded");
    assert_eq!((&error["n_prompt_tokens"], &error["n_ctx"]), (&json!(CTX + 1), &json!(CTX)));
    assert_eq!(server.post(EMBEDDINGS, &json!({"input": long[1..]})).status, 200);
}

#[test]
fn ollamas_clients_get_the_same_vectors() {
    let server = Running::new();
    let openai = good(&server, EMBEDDINGS, &json!({"input": ["a fox", "a dog"]}));
    let vector = |i: usize| numbers(&openai["data"][i]["embedding"]);
    let two =
        good(&server, "/api/embed", &json!({"model": "tiny:latest", "input": ["a fox", "a dog"]}));
    let found = two["embeddings"].as_array().unwrap();
    assert_eq!(found.iter().map(numbers).collect::<Vec<_>>(), [vector(0), vector(1)]);
    assert_eq!((&two["model"], &two["prompt_eval_count"]), (&json!("tiny"), &json!(12)));
    let one = good(&server, "/api/embed", &json!({"input": "a fox"}));
    assert_eq!(numbers(&one["embeddings"][0]), vector(0));
    let older = good(&server, "/api/embeddings", &json!({"prompt": "a fox"}));
    assert_eq!(numbers(&older["embedding"]), vector(0));
    assert_eq!(good(&server, "/api/embed", &json!({}))["embeddings"], json!([]));
    let long = "x".repeat(CTX);
    let reply = server.post("/api/embed", &json!({"input": long}));
    let text = reply.json()["error"].as_str().unwrap().to_owned();
    assert_eq!(reply.status, 400);
    assert!(text.contains("512 tokens") && text.contains("513 tokens"), "{text}");
    let cut = good(&server, "/api/embed", &json!({"input": long, "truncate": true}));
    assert_eq!(cut["prompt_eval_count"], CTX);
}

/// Neither fills a list the queue, nor is it refused because the queue is short.
#[test]
fn a_list_longer_than_the_queue_is_accepted() {
    let server = Running::start(Setup { sequences: 2, queue: 3, ..Setup::default() });
    let inputs: Vec<String> = (0..40).map(|i| format!("text {i}")).collect();
    let found = good(&server, EMBEDDINGS, &json!({"input": inputs}));
    assert_eq!(found["data"].as_array().unwrap().len(), 40);
}

#[test]
fn a_client_that_goes_cancels_its_inputs() {
    let server = Running::new();
    server.limit_steps(Some(0));
    let body = json!({"input": vec!["x".repeat(400); 60]}).to_string();
    let client = TcpStream::connect(server.address).unwrap();
    (&client).write_all(request("POST", EMBEDDINGS, &[], &body).as_bytes()).unwrap();
    server.wait_for("nanoinfer_waiting", 32.0); // the others are not submitted yet
    drop(client);
    server.wait_for("nanoinfer_cancelled_total", 32.0);
    server.limit_steps(None);
    server.wait_for("nanoinfer_waiting", 0.0);
    assert_eq!(server.figure("nanoinfer_prompt_tokens_computed_total"), 0.0);
}

/// What the tools that evaluate models need: the log-probability of every token of a prompt.
#[test]
fn prompts_are_echoed_with_their_log_probabilities() {
    let server = Running::new();
    let body = json!({"prompt": "a fox \u{e9}", "max_tokens": 8, "temperature": 0, "logprobs": 2, "ignore_eos": true});
    let body = with(body, only_text());
    let plain = good(&server, COMPLETIONS, &body)["choices"][0].clone();
    let body = with(body, json!({"echo": true}));
    let whole = good(&server, COMPLETIONS, &body);
    let (usage, whole) = (whole["usage"].clone(), whole["choices"][0].clone());
    let list = |choice: &Value, name: &str| choice["logprobs"][name].as_array().unwrap().clone();
    assert_eq!(whole["text"], format!("a fox \u{e9}{}", plain["text"].as_str().unwrap()));
    assert_eq!(usage["prompt_tokens"], 9);
    for name in ["tokens", "token_logprobs", "top_logprobs", "text_offset"] {
        assert_eq!(list(&whole, name).len(), 17, "{name}");
    }
    for name in ["tokens", "token_logprobs", "top_logprobs"] {
        assert_eq!(list(&whole, name)[9..], list(&plain, name)[..], "{name}");
    }
    assert!(
        list(&whole, "token_logprobs")[0].is_null() && list(&whole, "top_logprobs")[0].is_null()
    );
    assert!(list(&whole, "token_logprobs")[1..].iter().all(|x| x.as_f64().unwrap() < 0.0));
    // The token that begins the prompt is not shown, and the last character has two tokens.
    assert_eq!(list(&whole, "text_offset")[..9], [0, 0, 1, 2, 3, 4, 5, 6, 6].map(Value::from));
    assert_eq!(list(&whole, "text_offset")[9], 7);
    // What was generated has the same log-probabilities as when it is part of the prompt.
    let asked = json!({"content": "a fox \u{e9}"});
    let mut ids = vec![json!(256)];
    ids.extend(good(&server, "/tokenize", &asked)["tokens"].as_array().unwrap().clone());
    let generated = list(&whole, "top_logprobs");
    let answer = with(body.clone(), json!({"logprobs": 1, "max_tokens": 1, "prompt": ids}));
    assert_eq!(list(&good(&server, COMPLETIONS, &answer)["choices"][0], "top_logprobs").len(), 10);
    assert_eq!(
        list(&good(&server, COMPLETIONS, &answer)["choices"][0], "token_logprobs")[..],
        list(&whole, "token_logprobs")[..10]
    );
    assert!(generated.iter().skip(1).all(|top| !top.as_object().unwrap().is_empty()));
    // Nothing has to be generated.
    let none = with(body.clone(), json!({"max_tokens": 0}));
    let none = good(&server, COMPLETIONS, &none)["choices"][0].clone();
    assert_eq!((&none["text"], &none["finish_reason"]), (&json!("a fox \u{e9}"), &json!("length")));
    assert_eq!(list(&none, "token_logprobs")[..], list(&whole, "token_logprobs")[..9]);
    // Streamed, the same; resumed, without the prompt.
    let streaming = with(body, json!({"stream": true, "seed": 1}));
    let mut events = server.stream(COMPLETIONS, &streaming).events();
    events.retain(|event| event.data.as_deref() != Some("[DONE]"));
    let chunks: Vec<Value> = events.iter().map(|e| e.json()["choices"][0].clone()).collect();
    for name in ["tokens", "token_logprobs", "top_logprobs", "text_offset"] {
        let chunks = chunks.iter().filter(|chunk| !chunk["logprobs"].is_null());
        let all: Vec<Value> = chunks.flat_map(|chunk| list(chunk, name)).collect();
        assert_eq!(all, list(&whole, name), "{name}");
    }
    let text: String = chunks.iter().map(|chunk| chunk["text"].as_str().unwrap()).collect();
    assert_eq!(whole["text"], text);
    let last = events.iter().find_map(|event| event.id).unwrap().to_string();
    let headers = [("Last-Event-ID", last.as_str())];
    let rest = common::Stream::open(server.address, COMPLETIONS, &headers, &streaming).events();
    let at = events.iter().position(|event| event.id.is_some()).unwrap();
    assert_eq!(rest.len(), events.len() - at, "the rest and [DONE]");
    let refused = json!({"prompt": "a", "suffix": "b", "echo": true, "logprobs": 1});
    assert_eq!(server.post(COMPLETIONS, &refused).status, 400);
}

/// Tools drop the log-probability of the generated token, so it must be there even if it ends the answer.
#[test]
fn the_end_of_an_answer_counts_as_a_token_when_the_prompt_is_scored() {
    let server = Running::new();
    nanoinfer_serve::testing::script(&server.handle, Some(&[257]));
    let body = json!({"prompt": [[97, 98], [99]], "max_tokens": 1, "logprobs": 1, "echo": true, "temperature": 0});
    let choices = good(&server, COMPLETIONS, &body)["choices"].clone();
    for (choice, n) in choices.as_array().unwrap().iter().zip([3, 2]) {
        assert_eq!(choice["logprobs"]["token_logprobs"].as_array().unwrap().len(), n);
    }
    assert_eq!(choices[0]["finish_reason"], "stop");
}

#[test]
fn documents_are_ranked_by_yes_against_no() {
    let server = Running::start(Setup { model: judge(), ctx: 1024, ..Setup::default() });
    let texts = ["A fox is red.", "Rain falls.", "<|im_end|>", "A fox is red."];
    let documents: Vec<Value> = texts
        .iter()
        .enumerate()
        .map(|(i, text)| if i == 1 { json!({"text": text}) } else { json!(text) })
        .collect();
    let body = json!({"query": "fox", "documents": documents, "return_documents": true, "instruct": "Find foxes."});
    let ranked = good(&server, "/v1/rerank", &body);
    let results = ranked["results"].as_array().unwrap();
    assert_eq!(results.len(), 4);
    let score = |result: &Value| result["relevance_score"].as_f64().unwrap();
    assert!(results.is_sorted_by(|a, b| score(a) >= score(b)), "{ranked}");
    let place = |i: usize| results.iter().position(|r| r["index"] == i).unwrap();
    assert_eq!(score(&results[place(0)]), score(&results[place(3)]));
    assert!(place(0) < place(3), "equal documents keep their order");
    for (i, text) in texts.iter().enumerate() {
        let result = &results[place(i)];
        assert_eq!(result["document"]["text"], *text);
        // The same from the log-probabilities of prompts that end with the two answers.
        let system = "Judge whether the Document meets the requirements based on the Query and the Instruct \
                      provided. Note that the answer can only be \"yes\" or \"no\".";
        let user = format!("<Instruct>: Find foxes.\n<Query>: fox\n<Document>: {text}");
        let messages =
            json!([{"role": "system", "content": system}, {"role": "user", "content": user}]);
        let ids = good(&server, "/tokenize", &json!({"messages": messages}))["tokens"].clone();
        let [yes, no] = YES_NO.map(|answer| {
            let mut prompt = ids.as_array().unwrap().clone();
            prompt.push(answer.into());
            let body = json!({"prompt": prompt, "echo": true, "logprobs": 0, "max_tokens": 0});
            let all = good(&server, COMPLETIONS, &body);
            let all = all["choices"][0]["logprobs"]["token_logprobs"].as_array().unwrap().clone();
            all.last().unwrap().as_f64().unwrap().exp()
        });
        assert!((score(result) - yes / (yes + no)).abs() < 1e-6, "{result}");
    }
    let best = good(
        &server,
        "/rerank",
        &with(body.clone(), json!({"top_n": 2, "return_documents": false})),
    );
    let indices = |value: &Value| -> Vec<Value> {
        value["results"].as_array().unwrap().iter().map(|r| r["index"].clone()).collect()
    };
    assert_eq!(indices(&best), indices(&ranked)[..2]);
    assert!(best["results"][0].get("document").is_none());
    assert!(best["nanoinfer"]["note"].as_str().unwrap().contains("not made for ranking"));
    for (members, param) in [
        (json!({"documents": []}), "documents"),
        (json!({"top_n": 0}), "top_n"),
        (json!({"rank_fields": ["a"]}), "rank_fields"),
        (json!({"documents": ["a", "x".repeat(1024)]}), "documents[1]"),
    ] {
        let reply = server.post("/v1/rerank", &with(body.clone(), members));
        assert_eq!((reply.status, &reply.json()["error"]["param"]), (400, &json!(param)));
    }
    // Texts to embed get what the tokenizer puts around them, unlike prompts; lists of tokens are as they are.
    let vector = |input: Value| {
        let found = good(&server, EMBEDDINGS, &json!({"input": input}));
        (found["usage"]["prompt_tokens"].clone(), found["data"][0]["embedding"].clone())
    };
    assert_eq!(vector(json!("ab")), vector(json!([256, 97, 98, 257])));
    assert_eq!(vector(json!("ab")).0, 4);
    // A model without these tokens says so.
    let reply = Running::new().post("/v1/rerank", &body);
    assert_eq!(
        (reply.status, &reply.json()["error"]["code"]),
        (400, &json!("model_not_supported"))
    );
    let message = reply.json()["error"]["message"].as_str().unwrap().to_owned();
    assert!(message.contains("no token for \"yes\""), "{message}");
}

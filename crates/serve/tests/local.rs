//! A model for callers in this process has the answers of the server, from any thread, and ends cleanly.

mod common;

use std::future::poll_fn;
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use common::{Running, chat, client, only_text, served, with};
use nanoinfer_serve::{
    Answers, Api, Exchange, Kind, Listen, Local, Options, Problem, Reason, Update, wait,
};
use serde_json::{Value, json};

fn local() -> Local {
    Local::open(served("tiny", 4, 64)).unwrap()
}

/// The text, tokens and reason of an answer.
type Whole = (String, Vec<u32>, Reason);

fn fold(mut answers: Answers) -> Result<Whole, Problem> {
    let (mut text, mut end) = (String::new(), None);
    while let Some(update) = wait(answers.next(), None).unwrap() {
        match update {
            Update::Chunk(chunk) => text.push_str(&chunk.text()),
            Update::End(found) => end = Some(found),
            Update::Failed(problem) => return Err(problem),
            Update::Prefill { .. } | Update::Prompt { .. } => {}
        }
    }
    let (end, tokens) = (end.unwrap(), answers.tokens(0).to_vec());
    assert_eq!(end.stats.generated, tokens.len());
    assert_eq!(end.stats.prompt_tokens, answers.prompts()[0]);
    Ok((text, tokens, end.reason))
}

fn request(i: u64) -> Value {
    let body = chat(&format!("Tell me about {i}."), 10 + i as usize);
    with(with(body, only_text()), json!({"seed": i, "temperature": 0.9}))
}

#[test]
fn threads_have_the_answers_of_the_server() {
    let (local, server) = (local(), Running::new());
    let answers: Vec<Whole> = thread::scope(|scope| {
        let ask = |i| {
            scope.spawn({
                let local = &local;
                move || fold(local.ask(Api::Chat, &request(i)).unwrap()).unwrap()
            })
        };
        let asked: Vec<_> = (0..8).map(ask).collect();
        asked.into_iter().map(|thread| thread.join().unwrap()).collect()
    });
    for (i, (text, tokens, reason)) in (0..).zip(answers) {
        let reply = server.chat(&request(i));
        assert_eq!(reply["choices"][0]["message"]["content"], text);
        assert_eq!(reply["usage"]["completion_tokens"], tokens.len());
        assert_eq!((tokens.len(), reason), (10 + i as usize, Reason::Length));
    }
    assert_eq!(local.fingerprint(), server.chat(&request(0))["system_fingerprint"]);
}

#[test]
fn wrong_requests_are_refused_and_dropped_ones_cancelled() {
    let local = local();
    let refused = local.ask(Api::Chat, &json!({"messages": 1})).unwrap_err();
    assert_eq!((refused.kind, refused.param.as_deref()), (Kind::Invalid, Some("messages")));
    let long = local.ask(Api::Completions, &json!({"prompt": vec![7; 600]})).unwrap_err();
    assert_eq!(long.code, Some("context_length_exceeded"));
    let endless = json!({"prompt": "a", "max_tokens": -1, "ignore_eos": true});
    for _ in 0..20 {
        let mut answers = local.ask(Api::Completions, &endless).unwrap();
        assert!(matches!(wait(answers.next(), None).unwrap(), Some(Update::Prefill { .. })));
    }
    // If they still ran, these would wait for them.
    let short = json!({"prompt": "a", "max_tokens": 3, "seed": 1});
    let (_, tokens, _) = fold(local.ask(Api::Completions, &short).unwrap()).unwrap();
    assert_eq!(tokens.len(), 3);
}

#[test]
fn the_end_of_a_model_ends_its_answers() {
    let local = local();
    let endless = json!({"prompt": "a", "max_tokens": -1, "ignore_eos": true});
    let mut running = local.ask(Api::Completions, &endless).unwrap();
    assert!(wait(running.next(), None).unwrap().is_some());
    local.close();
    let ended = fold(running).unwrap_err();
    assert_eq!((ended.code, ended.message.as_str()), (Some("closed"), "the model is closed"));
    let after = local.ask(Api::Completions, &endless).unwrap_err();
    assert_eq!(after.code, Some("closed"));
    assert!(local.logits(vec![1]).is_err() && local.call("GET", "/health", &[], vec![]).is_err());
    local.close(); // again
}

#[test]
fn vectors_and_logits() {
    let (local, server) = (local(), Running::new());
    let body = json!({"model": "tiny", "input": ["one", "two"], "dimensions": 8});
    let vectors = wait(local.embed(&body).unwrap(), None).unwrap().unwrap();
    let reply = server.post("/v1/embeddings", &body).json();
    for (i, vector) in vectors.iter().enumerate() {
        let sent: Vec<f32> = serde_json::from_value(reply["data"][i]["embedding"].clone()).unwrap();
        assert_eq!(&sent, vector);
    }
    let logits = wait(local.logits(vec![1, 2, 3]).unwrap(), None).unwrap().unwrap();
    let first = wait(local.logits(vec![1]).unwrap(), None).unwrap().unwrap();
    assert_eq!((logits.len(), &logits[..first.len()]), (3 * first.len(), &first[..]));
    let outside = wait(local.logits(vec![9_999_999]).unwrap(), None).unwrap().unwrap_err();
    assert!(outside.message.contains("9999999"), "{outside}");
}

/// A whole response.
fn exchange(mut exchange: Exchange) -> (u16, String) {
    let (status, _) = wait(poll_fn(|cx| exchange.poll_head(cx)), None).unwrap().unwrap();
    let mut body = Vec::new();
    while let Some(part) = wait(poll_fn(|cx| exchange.poll_next(cx)), None).unwrap() {
        body.extend_from_slice(&part);
    }
    (status, String::from_utf8(body).unwrap())
}

#[test]
fn http_without_a_socket() {
    let local = local();
    let (status, _) = exchange(local.call("GET", "/health", &[], Vec::new()).unwrap());
    assert_eq!(status, 200);
    let body = with(request(3), json!({"stream": true}));
    let asked = || {
        let json = [(b"content-type".to_vec(), b"application/json".to_vec())];
        let bytes = body.to_string().into_bytes();
        local.call("POST", "/v1/chat/completions", &json, bytes).unwrap()
    };
    let (status, text) = exchange(asked());
    assert!(status == 200 && text.ends_with("data: [DONE]\n\n"), "{status}: {text}");
    drop(asked()); // cancels it
    let (status, _) = exchange(local.call("POST", "/v1/nothing", &[], Vec::new()).unwrap());
    assert_eq!(status, 404);
    assert!(local.call("", "no target", &[], Vec::new()).is_err());
}

#[test]
fn http_clients_share_the_engine() {
    let local = Arc::new(local());
    let loopback = Listen::Tcp("127.0.0.1:0".parse().unwrap());
    let drain = Duration::from_secs(5);
    let opened = local.listen(Options { drain, ..Options::new(loopback) }).unwrap();
    let address = opened.address().parse().unwrap();
    let reply = client::send(address, "POST", "/v1/chat/completions", &[], &request(2).to_string());
    let (text, ..) = fold(local.ask(Api::Chat, &request(2)).unwrap()).unwrap();
    assert_eq!(reply.json()["choices"][0]["message"]["content"], text);
    opened.close();
    assert!(std::net::TcpStream::connect(address).is_err());
    // Callers in this process are unaffected.
    fold(local.ask(Api::Chat, &request(1)).unwrap()).unwrap();
    let everywhere = Listen::Tcp("0.0.0.0:0".parse().unwrap());
    assert!(local.listen(Options::new(everywhere)).unwrap_err().to_string().contains("keys"));
}

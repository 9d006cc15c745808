//! Keys: what one asks is not shown to others, and how many tokens each may use.

mod common;

use std::time::Duration;

use common::client::send;
use common::{Reply, Running, Setup, Stream, chat, conversation, judge, only_text, with};
use nanoinfer_serve::Keys;
use serde_json::{Value, json};

const CHAT: &str = "/v1/chat/completions";
const ANN: [(&str, &str); 1] = [("x-api-key", "0123456789abcdef")];
const BOB: [(&str, &str); 1] = [("x-api-key", "fedcba9876543210")];

fn keys(limits_of_ann: &str) -> Option<Keys> {
    let text = format!("ann 0123456789abcdef {limits_of_ann}\nbob fedcba9876543210");
    Some(Keys::parse(&text).unwrap())
}

/// More than three blocks.
fn question() -> Value {
    chat(&"Please tell me all about it. ".repeat(8), 4)
}

fn ask(server: &Running, key: &[(&str, &str)], body: &Value) -> Value {
    let reply = server.post_with(CHAT, key, body);
    assert_eq!(reply.status, 200, "{}", reply.text());
    reply.json()
}

fn cached(answer: &Value) -> u64 {
    answer["usage"]["prompt_tokens_details"]["cached_tokens"].as_u64().unwrap()
}

#[test]
fn what_one_key_asks_is_not_cached_for_another() {
    for share in [false, true] {
        let mut setup = Setup::default();
        (setup.options.keys, setup.options.share_prefixes) = (keys(""), share);
        let server = Running::start(setup);
        let answers = [ANN, BOB, ANN, BOB].map(|key| ask(&server, &key, &question()));
        let found = if share { 192 } else { 0 };
        assert_eq!(answers.each_ref().map(cached), [0, found, 192, 192]);
        assert!(answers.iter().all(|a| a["choices"] == answers[0]["choices"]));
        // Neither is what was embedded.
        let embed = |key: &[(&str, &str)], text: &str| {
            let body = json!({"input": text, "pooling": "last"});
            let reply = server.post_with("/v1/embeddings", key, &body);
            assert_eq!(reply.status, 200, "{}", reply.text());
        };
        let text = "What one key embeds. ".repeat(16);
        embed(&ANN, &text);
        let completed = |key: &[(&str, &str)]| {
            let reply =
                server.post_with("/v1/completions", key, &json!({"prompt": text, "max_tokens": 1}));
            cached(&reply.json())
        };
        assert_eq!((completed(&BOB) > 0, completed(&ANN) > 0), (share, true));
        // Where a prompt differs from another one is said only of own ones.
        let mut other = question();
        let text = "Please tell me all about him. ".repeat(8);
        other["messages"] = conversation(&[&text]);
        let differs = |key| ask(&server, key, &other)["nanoinfer"]["differs_at"].clone();
        match share {
            true => assert_eq!(differs(&ANN), Value::Null),
            false => assert!(differs(&ANN).as_u64().unwrap() > 20),
        }
        let others = Running::start(Setup {
            options: {
                let mut options = Setup::default().options;
                (options.keys, options.share_prefixes) = (keys(""), share);
                options
            },
            ..Setup::default()
        });
        ask(&others, &ANN, &question());
        let remarks = ask(&others, &BOB, &other)["nanoinfer"].clone();
        assert!(remarks.get("differs_at").is_none() && remarks.get("was").is_none(), "{remarks}");
    }
}

#[test]
fn stored_prompts_belong_to_a_key() {
    let folder = tempfile::tempdir().unwrap();
    let stored = |n| {
        let is_stored = |f: &std::fs::DirEntry| f.path().extension().is_some_and(|e| e == "nkv");
        while std::fs::read_dir(folder.path()).unwrap().flatten().filter(is_stored).count() < n {
            std::thread::sleep(Duration::from_millis(2));
        }
    };
    let start = || {
        let mut setup = Setup { store: Some(folder.path().into()), ..Setup::default() };
        setup.options.keys = keys("");
        Running::start(setup)
    };
    let server = start();
    assert_eq!(cached(&ask(&server, &ANN, &question())), 0);
    stored(1);
    server.end();
    let server = start();
    assert_eq!([BOB, ANN].map(|key| cached(&ask(&server, &key, &question()))), [0, 192]);
    stored(2);
    server.end();
    let server = start();
    assert_eq!([BOB, ANN].map(|key| cached(&ask(&server, &key, &question()))), [192, 192]);
}

/// The seconds of a header such as 1m30s.
fn seconds(reply: &Reply, name: &str) -> u64 {
    let (minutes, seconds) = reply.header(name).unwrap().split_once('m').unwrap();
    minutes.parse::<u64>().unwrap() * 60
        + seconds.strip_suffix('s').unwrap().parse::<u64>().unwrap()
}

#[test]
fn tokens_per_minute_are_limited() {
    let mut setup = Setup::default();
    // So few that what comes back during the test does not matter.
    setup.options.keys = keys("tokens=1");
    let server = Running::start(setup);
    let first = server.post_with(CHAT, &ANN, &chat("Hi", 5));
    assert_eq!(first.status, 200, "a prompt above the limit needs a full minute's tokens");
    let usage = first.json()["usage"].clone();
    let used =
        usage["prompt_tokens"].as_u64().unwrap() + usage["completion_tokens"].as_u64().unwrap();
    assert_eq!(first.header("x-ratelimit-limit-tokens"), Some("1"));
    assert_eq!(first.header("x-ratelimit-remaining-tokens"), Some("0"));
    let about = |seconds: u64, minutes: u64| (60 * minutes - 600..=60 * minutes).contains(&seconds);
    assert!(about(seconds(&first, "x-ratelimit-reset-tokens"), used));
    let body = json!({"messages": conversation(&["Hi"]), "max_tokens": 5});
    let paths = [
        (CHAT, "/error/type", "rate_limit_error"),
        ("/v1/messages", "/error/type", "rate_limit_error"),
        ("/v1/responses", "/error/code", "rate_limit_exceeded"),
        ("/api/chat", "/error", ""),
        ("/v1/embeddings", "/error/type", "rate_limit_error"),
    ];
    for (path, pointer, what) in paths {
        let reply = server.post_with(path, &ANN, &with(body.clone(), json!({"input": "Hi"})));
        let error = reply.json();
        assert_eq!(reply.status, 429, "{path}: {error}");
        let found = error.pointer(pointer).unwrap().as_str().unwrap();
        assert!(
            found == what || what.is_empty() && found.contains("1 tokens per minute"),
            "{error}"
        );
        let wait = reply.header("retry-after").unwrap().parse().unwrap();
        assert!(about(wait, used), "{path}: {wait}, {used} tokens too many");
        assert_eq!(reply.header("x-ratelimit-remaining-tokens"), Some("0"));
    }
    let other = server.post_with(CHAT, &BOB, &chat("Hi", 5));
    assert_eq!((other.status, other.header("x-ratelimit-limit-tokens")), (200, None));
}

#[test]
fn what_is_refused_or_not_begun_costs_nothing() {
    let setup = || {
        let mut setup = Setup { sequences: 1, queue: 1, ..Setup::default() };
        setup.options.keys = keys("tokens=400");
        setup
    };
    let models = |server: &Running| send(server.address, "GET", "/v1/models", &ANN, "");
    let left = |reply: &Reply| reply.header("x-ratelimit-remaining-tokens").unwrap().to_owned();
    let wait_for = |server: &Running, waiting: &str| {
        let is_so = || {
            let text = send(server.address, "GET", "/metrics", &BOB, "").text();
            let line = text.lines().find(|line| line.starts_with("nanoinfer_waiting{"));
            line.unwrap_or_else(|| panic!("{text}")).rsplit(' ').next() == Some(waiting)
        };
        while !is_so() {
            std::thread::sleep(Duration::from_millis(2));
        }
    };
    let body = json!({"input": "x".repeat(350), "query": "x", "documents": ["x".repeat(100)]});
    for path in ["/v1/embeddings", "/v1/rerank"] {
        let mut setup = setup();
        (setup.model, setup.ctx) = (judge(), 1024);
        let server = Running::start(setup);
        server.limit_steps(Some(0));
        // Not begun before its time is up.
        let timed = [ANN[0], ("x-request-timeout", "0.01")];
        let reply = server.post_with(path, &timed, &body);
        assert_eq!((reply.status, left(&models(&server))), (504, "400".into()), "{path}");
        server.limit_steps(None);
        wait_for(&server, "0");
        server.limit_steps(Some(0));
        // Refused because the queue is full.
        let others = with(chat("Hi", 2), json!({"stream": true}));
        let other = Stream::open(server.address, CHAT, &BOB, &others);
        wait_for(&server, "1");
        let reply = server.post_with(path, &ANN, &body);
        assert_eq!((reply.status, left(&models(&server))), (429, "400".into()), "{path}");
        assert!(reply.text().contains("queue"), "{}", reply.text());
        server.limit_steps(None);
        drop(other);
        wait_for(&server, "0");
        // What is read is paid for.
        assert_eq!(server.post_with(path, &ANN, &body).status, 200);
        assert_ne!(left(&models(&server)), "400", "{path}");
    }
}

/// What a client has not waited for was computed nevertheless.
#[test]
fn abandoned_answers_are_paid_for() {
    let mut setup = Setup::default();
    setup.options.keys = keys("tokens=1");
    let server = Running::start(setup);
    server.limit_steps(Some(12));
    let body = with(chat("Go on.", 400), json!({"stream": true, "ignore_eos": true}));
    let mut stream = Stream::open(server.address, CHAT, &ANN, &with(body, only_text()));
    let seen = std::iter::from_fn(|| stream.next_event()).take(6).last().unwrap().id.unwrap();
    let models = || send(server.address, "GET", "/v1/models", &ANN, "");
    let reset = || seconds(&models(), "x-ratelimit-reset-tokens");
    let prompt = server.post_with("/tokenize", &BOB, &chat("Go on.", 1)).json()["count"].clone();
    let least = 60 * (prompt.as_u64().unwrap() + seen as u64) - 600;
    assert!(reset() >= least);
    drop(stream);
    assert!(reset() >= least, "nothing is given back");
    // What cannot be understood costs nothing.
    let before = reset();
    assert_eq!(server.post_with(CHAT, &ANN, &json!({})).status, 400);
    assert!(reset() <= before);
}

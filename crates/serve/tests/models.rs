//! Several models: loaded and unloaded as memory, time and requests demand. A model that answers is never thrown
//! out.

mod common;

use std::net::TcpStream;
use std::time::Duration;

use common::client::{Body, request};
use common::{Running, Setup, Stream, chat, memory, only_text, with};
use nanoinfer_serve::testing::unload;
use nanoinfer_serve::{Error, Server};
use serde_json::{Value, json};
use std::io::Write;

const CHAT: &str = "/v1/chat/completions";

/// Two models, with room for one.
fn tight() -> Running {
    let mut setup = Setup { names: &["a", "b"], ..Setup::default() };
    setup.options.memory = Some(memory(&setup) * 3 / 2);
    setup.options.limits.silence = Duration::from_millis(20);
    Running::start(setup)
}

/// A request for 30 tokens of a model.
fn ask(model: &str) -> Value {
    with(chat("Tell me.", 30), with(only_text(), json!({"model": model, "ignore_eos": true})))
}

fn endless(model: &str) -> Value {
    with(ask(model), json!({"max_tokens": 100_000, "stream": true}))
}

fn figure(server: &Running, name: &str, model: &str) -> f64 {
    server.figure(&format!("nanoinfer_{name}{{model_name=\"{model}\"}}"))
}

fn wait_for(server: &Running, name: &str, model: &str, value: f64) {
    server.wait_for(&format!("nanoinfer_{name}{{model_name=\"{model}\"}}"), value);
}

/// Which models are loaded, as the lists of both APIs say.
fn loaded(server: &Running) -> Vec<String> {
    let models = server.get("/v1/models").json()["data"].clone();
    let names = |list: &Value, name: &str| -> Vec<String> {
        list.as_array().unwrap().iter().map(|m| m[name].as_str().unwrap().to_owned()).collect()
    };
    let loaded: Vec<Value> =
        models.as_array().unwrap().iter().filter(|m| m["loaded"] == true).cloned().collect();
    let listed = names(&loaded.into(), "id");
    assert_eq!(names(&server.get("/api/ps").json()["models"], "name"), listed);
    listed
}

fn text(reply: &Value) -> &str {
    reply["choices"][0]["message"]["content"].as_str().unwrap()
}

fn folded(stream: Stream) -> String {
    let events = stream.events();
    let (last, events) = events.split_last().unwrap();
    assert_eq!(last.data.as_deref(), Some("[DONE]"));
    let part = |e: &common::client::Event| {
        e.json()["choices"][0]["delta"]["content"].as_str().map(str::to_owned)
    };
    events.iter().filter_map(part).collect()
}

#[test]
fn those_that_are_named_first_are_loaded_at_the_start() {
    for _ in 0..10 {
        assert_eq!(loaded(&tight()), ["a"]);
    }
}

#[test]
fn the_second_model_waits_until_the_answers_of_the_first_have_ended() {
    let want = Running::start(Setup { names: &["a"], ..Setup::default() });
    let (long, short) = (folded(want.stream(CHAT, &endless("a"))), want.chat(&ask("a")));
    let server = tight();
    assert_eq!(loaded(&server), ["a"]);
    server.limit_steps(Some(6));
    let mut first = server.stream(CHAT, &endless("a"));
    let begun = first.next_event().unwrap();
    std::thread::scope(|scope| {
        let second = scope.spawn(|| server.chat(&ask("b")));
        wait_for(&server, "waiting", "b", 1.0);
        // Requests that come later wait behind it, so that it has its turn.
        let third = scope.spawn(|| server.chat(&ask("a")));
        wait_for(&server, "waiting", "a", 1.0);
        assert_eq!(figure(&server, "running", "a"), 1.0);
        assert_eq!(loaded(&server), ["a"]);
        // A stream shows signs of life meanwhile.
        let mut fourth = server.stream(CHAT, &with(ask("b"), json!({"stream": true})));
        assert_eq!(fourth.next().unwrap().comment.as_deref(), Some("waiting"));
        server.limit_steps(None);
        let rest = folded(first);
        let begun =
            begun.json()["choices"][0]["delta"]["content"].as_str().unwrap_or("").to_owned();
        assert_eq!(begun + &rest, long);
        for reply in [second.join().unwrap(), third.join().unwrap()] {
            assert_eq!(text(&reply), text(&short));
        }
        assert_eq!(folded(fourth), text(&short));
    });
    assert_eq!(
        [figure(&server, "loads_total", "a"), figure(&server, "loads_total", "b")],
        [1.0; 2]
    );
    assert_eq!(loaded(&server), ["a"]);
    assert_eq!(figure(&server, "blocks", "b"), 0.0);
}

#[test]
fn models_that_are_requested_all_the_time_take_turns() {
    let server = tight();
    let want = server.chat(&ask("a"));
    std::thread::scope(|scope| {
        for client in 0..6 {
            let (server, want) = (&server, &want);
            scope.spawn(move || {
                for i in 0..8 {
                    let reply = server.chat(&ask(["a", "b"][(client + i * (client % 2)) % 2]));
                    assert_eq!(text(&reply), text(want));
                }
            });
        }
    });
    assert!(figure(&server, "loads_total", "a") > 0.0);
    assert_eq!(server.get("/health").status, 200);
    server.end();
}

#[test]
fn a_client_that_no_longer_waits_makes_nobody_leave() {
    let server = tight();
    server.limit_steps(Some(6));
    let mut first = server.stream(CHAT, &endless("a"));
    first.next_event().unwrap();
    let client = TcpStream::connect(server.address).unwrap();
    (&client).write_all(request("POST", CHAT, &[], &ask("b").to_string()).as_bytes()).unwrap();
    wait_for(&server, "waiting", "b", 1.0);
    drop(client);
    wait_for(&server, "waiting", "b", 0.0);
    server.limit_steps(None);
    server.chat(&ask("a"));
    assert_eq!(
        [figure(&server, "loads_total", "a"), figure(&server, "loads_total", "b")],
        [0.0; 2]
    );
}

#[test]
fn requests_that_wait_for_a_model_are_limited() {
    let mut setup = Setup { names: &["a", "b"], queue: 2, ..Setup::default() };
    setup.options.memory = Some(memory(&setup) * 3 / 2);
    let server = Running::start(setup);
    server.limit_steps(Some(6));
    let mut first = server.stream(CHAT, &endless("a"));
    first.next_event().unwrap();
    let clients = [0, 1].map(|_| {
        let client = TcpStream::connect(server.address).unwrap();
        (&client).write_all(request("POST", CHAT, &[], &ask("b").to_string()).as_bytes()).unwrap();
        client
    });
    wait_for(&server, "waiting", "b", 2.0);
    let reply = server.post(CHAT, &ask("b"));
    assert_eq!((reply.status, &reply.json()["error"]["code"]), (429, &json!("queue_full")));
    server.limit_steps(None);
    for client in clients {
        assert_eq!(Body::read_head(client).unwrap().status, 200);
    }
}

#[test]
fn an_idle_model_is_unloaded_and_loaded_again() {
    let mut setup = Setup::default();
    setup.options.idle = Some(Duration::ZERO);
    let server = Running::start(setup);
    let mut answers = Vec::new();
    for loads in 0..3 {
        server.wait_for("nanoinfer_loaded{", 0.0);
        server.wait_for("nanoinfer_blocks{", 0.0); // of the next report
        assert_eq!(server.figure("nanoinfer_loads_total{"), f64::from(loads));
        assert_eq!(server.get("/health").status, 200);
        answers.push(text(&server.chat(&chat("Tell me.", 20))).to_owned());
    }
    assert!(answers.iter().all(|answer| *answer == answers[0]));
    let log = server.log.lock().unwrap().join("\n");
    assert!(
        log.contains("\"tiny\" is unloaded") && log.contains("\"tiny\" is loaded again"),
        "{log}"
    );
}

#[test]
fn a_model_that_cannot_be_loaded_is_a_503_and_the_server_goes_on() {
    let setup = Setup { names: &["a", "b"], ..Setup::default() };
    let fails = setup.fails.clone();
    let server = Running::start(setup);
    let want = server.chat(&ask("a"));
    *fails.lock().unwrap() = Some("not enough memory".into());
    unload(&server.handle);
    wait_for(&server, "loaded", "a", 0.0);
    for stream in [false, true] {
        let reply = server.post(CHAT, &with(ask("a"), json!({"stream": stream})));
        let error = &reply.json()["error"];
        assert_eq!((reply.status, &error["code"]), (503, &json!("model_not_loaded")));
        assert!(error["message"].as_str().unwrap().contains("not enough memory"), "{error}");
        assert_eq!(reply.header("retry-after"), Some("10"));
    }
    assert_eq!(server.get("/health").status, 200);
    *fails.lock().unwrap() = None;
    for model in ["a", "b"] {
        assert_eq!(text(&server.chat(&ask(model))), text(&want));
    }
}

#[test]
fn a_model_that_never_fits_is_refused_at_the_start() {
    let mut setup = Setup::default();
    setup.options.memory = Some(memory(&setup) - 1);
    let served = common::served("tiny", setup.sequences, setup.queue);
    let error = Server::bind(vec![served], setup.options).unwrap_err();
    assert!(matches!(&error, Error::Models { what } if what.contains("MB")), "{error}");
}

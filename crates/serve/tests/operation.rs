//! Cancellation, limits, keys, overload, failures, shutdown.

mod common;

use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::Duration;

use common::client::{Body, Event, request, send};
use common::{Running, Setup, Stream, chat, conversation, only_text, with};
use nanoinfer_serve::Keys;
use serde_json::{Value, json};

const CHAT: &str = "/v1/chat/completions";

/// A request whose answer goes on until the context is full.
fn endless(stream: bool) -> Value {
    with(chat("Go on.", 100_000), json!({"ignore_eos": true, "stream": stream}))
}

/// Sends a request without reading its response.
fn begin(server: &Running, body: &Value) -> TcpStream {
    let stream = TcpStream::connect(server.address).unwrap();
    (&stream).write_all(request("POST", CHAT, &[], &body.to_string()).as_bytes()).unwrap();
    stream
}

#[test]
fn a_request_is_cancelled_when_its_client_goes() {
    for stream in [false, true] {
        let server = Running::new();
        // While it waits.
        server.limit_steps(Some(0));
        let client = begin(&server, &endless(stream));
        server.wait_for("nanoinfer_waiting{", 1.0);
        drop(client);
        server.wait_for("nanoinfer_cancelled_total{", 1.0);
        // While it is answered.
        let client = begin(&server, &endless(stream));
        server.wait_for("nanoinfer_waiting{", 2.0);
        server.limit_steps(Some(6));
        server.wait_for("nanoinfer_running{", 1.0);
        drop(client);
        server.wait_for("nanoinfer_cancelled_total{", 2.0);
        server.limit_steps(Some(1));
        server.wait_for("nanoinfer_running{", 0.0);
        assert_eq!(server.figure("nanoinfer_waiting{"), 0.0);
        assert_eq!(server.figure("nanoinfer_rows{"), 0.0);
        assert_eq!(server.figure("nanoinfer_free_blocks{"), server.figure("nanoinfer_blocks{"));
    }
}

#[test]
fn cancelled_neighbours_change_no_answer() {
    let server = Running::new();
    let body = with(chat("Tell me more.", 80), json!({"temperature": 1.2}));
    let alone = server.chat(&body)["choices"][0].clone();
    let answers: Vec<_> = std::thread::scope(|scope| {
        let answering: Vec<_> = (0..3).map(|_| scope.spawn(|| server.chat(&body))).collect();
        for i in 0..40 {
            let neighbour = begin(&server, &with(endless(true), json!({"seed": i})));
            if i % 2 == 0 {
                Body::read_head(neighbour.try_clone().unwrap());
            }
        }
        answering.into_iter().map(|a| a.join().unwrap()).collect()
    });
    answers.iter().for_each(|answer| assert_eq!(answer["choices"][0], alone));
}

#[test]
fn a_full_queue_is_a_429_that_says_when_to_come_again() {
    let server = Running::start(Setup { sequences: 1, queue: 2, ..Setup::default() });
    server.limit_steps(Some(0));
    let waiting: Vec<_> = (0..2).map(|_| begin(&server, &chat("Hi", 2))).collect();
    server.wait_for("nanoinfer_waiting{", 2.0);
    let reply = server.post(CHAT, &chat("Hi", 2));
    assert_eq!((reply.status, &reply.json()["error"]["code"]), (429, &json!("queue_full")));
    assert!(reply.header("retry-after").unwrap().parse::<u64>().unwrap() >= 1);
    // Several choices are accepted together or not at all.
    assert_eq!(server.post(CHAT, &with(chat("Hi", 2), json!({"n": 2}))).status, 429);
    server.limit_steps(None);
    for client in waiting {
        assert_eq!(Body::read_head(client).unwrap().status, 200);
    }
    server.wait_for("nanoinfer_waiting{", 0.0);
    assert_eq!(server.post(CHAT, &chat("Hi", 2)).status, 200);
}

#[test]
fn a_stream_shows_signs_of_life_before_its_first_token() {
    let mut setup = Setup::default();
    setup.options.limits.silence = Duration::from_millis(20);
    let server = Running::start(setup);
    server.limit_steps(Some(0));
    let mut stream = server.stream(CHAT, &with(chat("Hi", 2), json!({"stream": true})));
    assert_eq!(stream.next().unwrap().comment.as_deref(), Some("waiting"));
    server.limit_steps(None);
    let comments: Vec<_> = std::iter::from_fn(|| stream.next()).filter_map(|e| e.comment).collect();
    assert!(comments.iter().any(|c| c.starts_with("prefill ")), "{comments:?}");
}

#[test]
fn a_sign_of_life_between_two_events_is_no_event() {
    let mut setup = Setup::default();
    setup.options.limits.silence = Duration::from_millis(20);
    let server = Running::start(setup);
    server.limit_steps(Some(20));
    let body = with(chat("Hi", 60), json!({"stream": true, "ignore_eos": true}));
    let mut stream = server.stream(CHAT, &with(body, only_text()));
    while stream.next().unwrap().id.is_none() {}
    while stream.next().unwrap().comment.as_deref() != Some("waiting") {}
    server.limit_steps(None);
    // The client of this test fails on a blank line that ends no event, as SDKs do.
    assert_eq!(stream.events().last().unwrap().data.as_deref(), Some("[DONE]"));
}

#[test]
fn an_engine_that_fails_is_a_status_before_the_first_byte_and_an_event_after_it() {
    let server = Running::new();
    server.limit_steps(Some(6));
    let mut stream = Stream::open(server.address, CHAT, &[], &endless(true));
    assert!(stream.next_event().unwrap().data.is_some());
    std::thread::scope(|scope| {
        let waiting = scope.spawn(|| server.post(CHAT, &endless(false)));
        server.wait_for("nanoinfer_waiting{", 1.0);
        server.fail_engine();
        let reply = waiting.join().unwrap();
        assert_eq!((reply.status, &reply.json()["error"]["code"]), (500, &json!("engine_failed")));
    });
    let events: Vec<Event> = std::iter::from_fn(|| stream.next_event()).collect();
    let last = events.last().unwrap().json();
    assert_eq!(last["error"]["code"], "engine_failed");
    assert_eq!(server.get("/health").status, 503);
    assert_eq!(server.get("/ready").status, 503);
    assert_eq!(server.post(CHAT, &chat("Hi", 2)).status, 500);
}

#[test]
fn an_engine_that_hangs_is_unhealthy_until_it_goes_on() {
    let mut setup = Setup::default();
    // An idle engine shows itself every second.
    setup.options.limits.engine = Duration::from_millis(1500);
    let server = Running::start(setup);
    let wait_for = |status: u16| {
        while ["/health", "/ready"].iter().any(|path| server.get(path).status != status) {
            std::thread::sleep(Duration::from_millis(10));
        }
    };
    wait_for(200);
    let release = nanoinfer_serve::testing::hang(&server.handle);
    let client = begin(&server, &chat("Hi", 2));
    wait_for(503);
    // The other thread still answers.
    assert_eq!(server.get("/v1/models").status, 200);
    drop(release);
    assert_eq!(Body::read_head(client).unwrap().status, 200);
    wait_for(200);
}

#[test]
fn an_engine_that_panics_is_unhealthy_for_good() {
    let server = Running::new();
    nanoinfer_serve::testing::panic(&server.handle);
    let reply = server.post(CHAT, &chat("Hi", 2));
    assert_eq!(reply.status, 500, "{}", reply.text());
    while server.get("/health").status != 503 {}
    assert_eq!(server.get("/ready").status, 503);
    assert_eq!(server.post(CHAT, &chat("Hi", 2)).status, 500);
}

#[test]
fn a_server_that_ends_finishes_what_runs() {
    let server = Running::new();
    server.limit_steps(Some(4));
    let mut stream =
        Stream::open(server.address, CHAT, &[], &with(chat("Hi", 40), json!({"stream": true})));
    assert!(stream.next_event().is_some());
    // A request whose body is being read when the server begins to end.
    let slow = TcpStream::connect(server.address).unwrap();
    let text = request("POST", CHAT, &[("Expect", "100-continue")], &chat("Hi", 2).to_string());
    let (head, body) = text.split_at(text.find("\r\n\r\n").unwrap() + 4);
    (&slow).write_all(head.as_bytes()).unwrap();
    let mut go_on = [0; b"HTTP/1.1 100 Continue\r\n\r\n".len()];
    (&slow).read_exact(&mut go_on).unwrap();
    server.handle.drain();
    while server.get("/ready").status != 503 {}
    assert_eq!(server.get("/health").status, 200);
    (&slow).write_all(body.as_bytes()).unwrap();
    assert_eq!(Body::read_head(slow).unwrap().status, 503);
    let reply = server.post(CHAT, &chat("Hi", 2));
    assert_eq!((reply.status, reply.header("retry-after")), (503, Some("5")));
    server.limit_steps(None);
    assert_eq!(stream.events().last().unwrap().data.as_deref(), Some("[DONE]"));
    server.join();
}

#[test]
fn a_server_that_ends_does_not_wait_for_ever() {
    let mut setup = Setup::default();
    setup.options.drain = Duration::from_millis(50);
    let server = Running::start(setup);
    server.limit_steps(Some(6));
    let mut stream = Stream::open(server.address, CHAT, &[], &endless(true));
    let first = stream.next_event().unwrap();
    server.handle.drain();
    let events: Vec<Event> = std::iter::from_fn(|| stream.next_event()).collect();
    assert_eq!(events.last().unwrap().json()["error"]["code"], "shutting_down");
    assert!(first.id.is_some(), "a client needs an id to go on elsewhere");
    server.join();
}

#[test]
fn the_time_limit_ends_an_answer_as_it_is() {
    let server = Running::new();
    server.limit_steps(Some(6));
    let mut events =
        Stream::open(server.address, CHAT, &[("X-Request-Timeout", "0.5")], &endless(true))
            .events();
    assert_eq!(events.pop().unwrap().data.as_deref(), Some("[DONE]"));
    let last = events.pop().unwrap().json();
    assert_eq!(last["choices"][0]["finish_reason"], "length");
    assert_eq!(last["nanoinfer"]["ended"], "the time limit was reached");
    // In the queue.
    server.limit_steps(Some(0));
    let reply = server.post_with(CHAT, &[("X-Request-Timeout", "0.01")], &endless(true));
    assert_eq!(reply.status, 504);
}

#[test]
fn the_figures_need_no_key_if_they_are_public() {
    let mut setup = Setup::default();
    setup.options.keys = Some(Keys::parse("ann 0123456789abcdef").unwrap());
    setup.options.public_metrics = true;
    let server = Running::start(setup);
    let metrics = server.get("/metrics");
    assert!(metrics.text().contains("vllm:num_requests_running"), "{}", metrics.text());
    let closed = ["/", "/v1/models", "/metrics/", "/metrics/x", CHAT];
    assert!(closed.iter().all(|path| server.get(path).status == 401));
}

#[test]
fn with_keys_every_route_but_health_needs_one() {
    let server = Running::with_keys("ann 0123456789abcdef requests=1\nbob fedcba9876543210");
    for path in ["/", "/v1/models", "/metrics", "/nothing", CHAT] {
        let reply = server.get(path);
        assert_eq!(
            (reply.status, reply.header("www-authenticate")),
            (401, Some("Bearer")),
            "{path}"
        );
    }
    assert_eq!((server.get("/health").status, server.get("/ready").status), (200, 200));
    let models =
        |headers: &[(&str, &str)]| send(server.address, "GET", "/v1/models", headers, "").status;
    assert_eq!(models(&[("Authorization", "Bearer 0123456789abcdef")]), 200);
    assert_eq!(models(&[("authorization", "bearer fedcba9876543210")]), 200);
    assert_eq!(models(&[("x-api-key", "fedcba9876543210"), ("Host", "any.example")]), 200);
    for wrong in ["", "Bearer", "Bearer ", "Bearer 0123456789abcdeg", "Basic 0123456789abcdef"] {
        assert_eq!(models(&[("Authorization", wrong)]), 401, "{wrong:?}");
    }
    let ann = ("Authorization", "Bearer 0123456789abcdef");
    server.limit_steps(Some(6));
    let mut stream = Stream::open(server.address, CHAT, &[ann], &endless(true));
    assert!(stream.next_event().is_some());
    let second = server.post_with(CHAT, &[ann], &chat("Hi", 1));
    assert_eq!(
        (second.status, &second.json()["error"]["code"]),
        (429, &json!("rate_limit_exceeded"))
    );
    drop(stream);
    server.limit_steps(None);
    while server.post_with(CHAT, &[ann], &chat("Hi", 1)).status != 200 {}
}

#[test]
fn requests_are_limited() {
    let mut setup = Setup::default();
    setup.options.limits.body = 1000;
    setup.options.limits.read = Duration::from_millis(300);
    let server = Running::start(setup);
    let large = chat(&"x".repeat(2000), 1);
    assert_eq!(server.post(CHAT, &large).status, 413);
    let raw = |text: &str| {
        let stream = TcpStream::connect(server.address).unwrap();
        (&stream).write_all(text.as_bytes()).unwrap();
        Body::read_head(stream).map(|body| body.status)
    };
    let head = "POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\n";
    assert_eq!(raw(&format!("{head}Content-Length: 99999999999\r\n\r\n")), Some(413));
    assert_eq!(
        raw(&format!(
            "{head}Transfer-Encoding: chunked\r\n\r\n3e9\r\n{}\r\n0\r\n\r\n",
            "x".repeat(1001)
        )),
        Some(413)
    );
    assert_eq!(raw(&format!("{head}X: {}\r\n\r\n", "x".repeat(70_000))), Some(431));
    // Too slow: the head, then the body, then nothing at all.
    assert_eq!(raw("POST /v1/chat/completions HTTP/1.1\r\nHost: l"), None);
    assert_eq!(raw(&format!("{head}Content-Length: 50\r\n\r\n{{")), Some(408));
    assert_eq!(raw(""), None);
    assert_eq!(raw("\u{0}\u{1}\u{2}\r\n\r\n"), Some(400));
    for (body, part) in [("{", "not JSON"), ("[]", "not a JSON object"), ("\u{feff}{}", "not JSON")]
    {
        let reply = send(server.address, "POST", CHAT, &[], body);
        assert!(reply.status == 400 && reply.text().contains(part), "{}", reply.text());
    }
    let deep = format!("{{\"messages\": {}1{}}}", "[".repeat(300), "]".repeat(300));
    assert_eq!(send(server.address, "POST", CHAT, &[], &deep).status, 400);
    assert_eq!(server.get("/health").status, 200);
}

#[test]
fn a_large_body_has_its_turn_only_until_it_is_parsed() {
    let server = Running::new();
    server.limit_steps(Some(0));
    let body = with(chat("Hi", 2), json!({"user": "x".repeat(2 << 20)}));
    let _clients = [begin(&server, &body), begin(&server, &body)];
    server.wait_for("nanoinfer_waiting", 2.0);
}

#[test]
fn stored_prompts_are_written_and_read_by_a_server_that_does_nothing_else() {
    let folder = tempfile::tempdir().unwrap();
    let start = || Running::start(Setup { store: Some(folder.path().into()), ..Setup::default() });
    let body = chat(&"Please tell me all about it. ".repeat(8), 4);
    let cached = |server: &Running| {
        let answer = server.chat(&body);
        answer["usage"]["prompt_tokens_details"]["cached_tokens"].as_u64().unwrap()
    };
    let server = start();
    assert_eq!(cached(&server), 0);
    let written = |entry: std::fs::DirEntry| entry.path().extension().is_some_and(|e| e == "nkv");
    while !std::fs::read_dir(folder.path()).unwrap().any(|entry| written(entry.unwrap())) {
        std::thread::sleep(Duration::from_millis(2));
    }
    server.end();
    assert_eq!(cached(&start()), 192);
}

#[test]
fn a_client_that_reads_too_slowly_pauses_only_its_own_answer() {
    let mut setup = Setup::default();
    setup.options.limits.unread = 8;
    setup.options.limits.send_buffer = Some(4096);
    setup.options.limits.write = Duration::from_millis(400);
    let server = Running::start(setup);
    // Two answers of half a megabyte each, of which sockets and buffers hold about as much together.
    let much = json!({"n": 2, "logprobs": true, "top_logprobs": 20});
    let slow = begin(&server, &with(endless(true), much));
    // They do not get to their end, because their socket is full, but others go on.
    for _ in 0..5 {
        assert_eq!(server.post(CHAT, &chat("Hi", 30)).status, 200);
    }
    // In the end, the connection is closed and what is left of the answers cancelled.
    server.wait_for("nanoinfer_running{", 0.0);
    assert!(server.figure("nanoinfer_cancelled_total{") >= 1.0);
    drop(slow);
}

#[test]
fn requests_have_ids_and_log_lines_without_texts() {
    let server = Running::new();
    let body = json!({"messages": conversation(&["a secret"]), "max_tokens": 3, "stream": true});
    let reply = server.post_with(CHAT, &[("X-Request-Id", "mine-1")], &body);
    assert_eq!(reply.header("x-request-id"), Some("mine-1"));
    let reply = server.post_with(CHAT, &[("X-Request-Id", "a b")], &body);
    assert!(reply.header("x-request-id").unwrap().starts_with("req-"));
    let log = server.log.lock().unwrap().join("\n");
    assert!(log.contains("POST /v1/chat/completions 200 id=mine-1"), "{log}");
    assert!(log.contains("stream done id=mine-1 model=tiny"), "{log}");
    assert!(!log.contains("secret"), "{log}");
}

#[test]
fn figures_have_the_names_that_routers_know() {
    let server = Running::new();
    server.chat(&chat("Hi", 5));
    let text = server.get("/metrics").text();
    for name in [
        "vllm:num_requests_waiting{model_name=\"tiny\"} 0",
        "vllm:kv_cache_usage_perc{model_name=\"tiny\"} 0",
        "vllm:gpu_cache_usage_perc{model_name=\"tiny\"} 0",
        "nanoinfer_tokens_generated_total{model_name=\"tiny\"} 5",
        "nanoinfer_first_token_seconds_count{model_name=\"tiny\"} 1",
        "nanoinfer_responses_total{route=\"/v1/chat/completions\",status=\"200\"} 1",
    ] {
        assert!(text.contains(name), "{name} is not in {text}");
    }
}

//! The server as a process: start, environment, shutdown.

mod common;

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::process::{Child, Command, Stdio};

use common::{assert_fails, nanoinfer, talking, temp};
use rustix::process::{Pid, Signal, kill_process};

const TEMPLATE: &str =
    "{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}assistant: ";

/// Starts a server; returns its process, the lines of its standard error, and its address.
fn start(command: &mut Command) -> (Child, impl Iterator<Item = String>, String) {
    let mut child = command.stderr(Stdio::piped()).spawn().unwrap();
    let mut lines = BufReader::new(child.stderr.take().unwrap()).lines().map(Result::unwrap);
    let address =
        lines.find_map(|line| Some(line.split_once("listening on http://")?.1.to_owned()));
    (child, lines, address.expect("the server listens"))
}

fn post(address: &str, path: &str, body: &str) -> String {
    let mut stream = TcpStream::connect(address).unwrap();
    let head = format!("POST {path} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n");
    write!(stream, "{head}Content-Length: {}\r\n\r\n{body}", body.len()).unwrap();
    let mut reply = String::new();
    stream.read_to_string(&mut reply).unwrap();
    reply
}

#[test]
fn a_server_answers_until_it_is_told_to_end() {
    let home = temp();
    let model = talking(home.path(), Some(TEMPLATE));
    let mut command = Command::new(assert_cmd::cargo::cargo_bin!("nanoinfer"));
    command.env("NANOINFER_HOME", home.path()).env("NANOINFER_PORT", "0");
    command.arg("serve").arg("--model").arg(format!("named={}", model.display()));
    let (mut child, lines, address) = start(command.args(["--threads", "1"]));
    let body =
        r#"{"model": "named", "messages": [{"role": "user", "content": "Hi"}], "max_tokens": 3}"#;
    let reply = post(&address, "/v1/chat/completions", body);
    assert!(reply.starts_with("HTTP/1.1 200 OK"), "{reply}");
    assert!(reply.contains(r#""completion_tokens":3"#), "{reply}");
    let pid = Pid::from_raw(child.id().try_into().unwrap()).unwrap();
    kill_process(pid, Signal::TERM).unwrap();
    assert!(child.wait().unwrap().success());
    let log: Vec<String> = lines.collect();
    assert!(log.iter().any(|line| line.contains("POST /v1/chat/completions 200")), "{log:?}");
    assert!(log.iter().all(|line| !line.contains("Hi")), "{log:?}");
}

#[test]
fn a_server_for_other_machines_needs_keys() {
    let home = temp();
    let run = |args: &[&str]| nanoinfer(home.path()).arg("serve").args(args).output().unwrap();
    assert_fails(&run(&["--host", "0.0.0.0"]), 1, &["0.0.0.0:8080", "--keys"]);
    let keys = home.path().join("keys");
    std::fs::write(&keys, "ann short").unwrap();
    let output = run(&["--keys", keys.to_str().unwrap()]);
    assert_fails(&output, 1, &["--keys", "line 1", "shorter"]);
    assert_fails(&run(&["--listen", "tcp:x"]), 2, &["unix:PATH"]);
}

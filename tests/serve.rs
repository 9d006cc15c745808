//! The server as a process: start, environment, shutdown.

mod common;

use std::io::{BufRead, BufReader, Lines, Read, Write};
use std::net::TcpStream;
use std::process::{Child, ChildStderr, Command, Stdio};

use common::{assert_fails, nanoinfer, talking, temp};
use rustix::process::{Pid, Signal, kill_process};

const TEMPLATE: &str =
    "{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}assistant: ";

/// A server that listens.
struct Process {
    child: Child,
    /// The lines of its standard error until then.
    said: Vec<String>,
    lines: Lines<BufReader<ChildStderr>>,
    address: String,
}

impl Process {
    fn start(command: &mut Command) -> Self {
        let mut child = command.stderr(Stdio::piped()).spawn().unwrap();
        let mut lines = BufReader::new(child.stderr.take().unwrap()).lines();
        let mut said = Vec::new();
        while let Some(line) = lines.next().transpose().unwrap() {
            if let Some((_, address)) = line.split_once("listening on http://") {
                let address = address.to_owned();
                return Self { child, said, lines, address };
            }
            said.push(line);
        }
        panic!("no server: {} {said:?}", child.wait().unwrap());
    }

    /// Ends it as a service manager does, and returns what else it said.
    fn end(mut self) -> Vec<String> {
        let pid = Pid::from_raw(self.child.id().try_into().unwrap()).unwrap();
        kill_process(pid, Signal::TERM).unwrap();
        assert!(self.child.wait().unwrap().success());
        self.lines.map(Result::unwrap).collect()
    }
}

fn get(address: &str, path: &str) -> String {
    send(address, "GET", path, "")
}

fn post(address: &str, path: &str, body: &str) -> String {
    send(address, "POST", path, body)
}

fn send(address: &str, method: &str, path: &str, body: &str) -> String {
    let mut stream = TcpStream::connect(address).unwrap();
    let head = format!("{method} {path} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n");
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
    let server = Process::start(command.args(["--threads", "1"]));
    let body =
        r#"{"model": "named", "messages": [{"role": "user", "content": "Hi"}], "max_tokens": 3}"#;
    let reply = post(&server.address, "/v1/chat/completions", body);
    assert!(reply.starts_with("HTTP/1.1 200 OK"), "{reply}");
    assert!(reply.contains(r#""completion_tokens":3"#), "{reply}");
    let log = server.end();
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

#[test]
fn options_come_from_the_command_line_the_environment_and_a_file() {
    let home = temp();
    let file = home.path().join("serve.toml");
    let run = |text: &str, env: &[(&str, &str)], args: &[&str]| {
        std::fs::write(&file, text).unwrap();
        let mut command = nanoinfer(home.path());
        command.envs(env.iter().copied()).arg("serve").arg("--config").arg(&file).args(args);
        command.output().unwrap()
    };
    // Addresses that a server without keys refuses, so the message shows which one it took.
    let text = "# where\nhost = \"192.0.2.1\"\nport = 9_000\n";
    assert_fails(&run(text, &[], &[]), 1, &["192.0.2.1:9000"]);
    let env = [("NANOINFER_HOST", "192.0.2.2")];
    assert_fails(&run(text, &env, &[]), 1, &["192.0.2.2:9000"]);
    assert_fails(&run(text, &env, &["--host", "192.0.2.3"]), 1, &["192.0.2.3:9000"]);
    for (text, parts) in [
        ("prot = 1", ["serve.toml:1: unknown key \"prot\"", "such as port"]),
        ("\nconfig = \"other\"", ["serve.toml:2: unknown key \"config\"", "remove it"]),
        ("\n\nport = 99999", ["serve.toml:3: invalid value '99999'", "--port"]),
        ("quant = 4.5\nkv = \"q9\"", ["serve.toml:2: invalid value 'q9'", "--kv"]),
        ("port = [1, 2]", ["serve.toml:1: port", "single value"]),
        ("[serve]\nport = 1", ["serve.toml:1: unknown key \"serve\"", "remove it"]),
        ("model = [[1]]", ["serve.toml:1: model", "list"]),
        ("port = 1\nport = 2", ["serve.toml:2: ", "duplicate key"]),
        ("port 1", ["serve.toml:1: ", "port = 8080"]),
    ] {
        assert_fails(&run(text, &[], &[]), 2, &parts);
    }
    let missing = nanoinfer(home.path()).args(["serve", "--config", "none.toml"]).output().unwrap();
    assert_fails(&missing, 2, &["none.toml: cannot read"]);
}

#[test]
fn models_can_be_listed_in_a_file() {
    let home = temp();
    let model = talking(home.path(), Some(TEMPLATE));
    let file = home.path().join("serve.toml");
    let path = model.display();
    let text = format!(
        "model = [\"a={path}\", \"b={path}\"]\nport = 0\nthreads = 1\nno-sandbox = true\nkv-mb = 1\n"
    );
    std::fs::write(&file, text).unwrap();
    let mut command = Command::new(assert_cmd::cargo::cargo_bin!("nanoinfer"));
    command.env("NANOINFER_HOME", home.path()).arg("serve").arg("--config").arg(&file);
    let server = Process::start(&mut command);
    assert!(server.said.iter().any(|line| line.contains("sandbox: none")), "{:?}", server.said);
    for name in ["a", "b"] {
        let reply = get(&server.address, &format!("/v1/models/{name}"));
        assert!(reply.starts_with("HTTP/1.1 200 OK"), "{reply}");
    }
    server.end();
}

/// A store is written and read, figures are reported and answers end, with nothing but the sandbox's rights.
#[cfg(target_os = "linux")]
#[test]
fn a_server_in_a_sandbox_does_all_its_work() {
    let home = temp();
    let model = talking(home.path(), Some(TEMPLATE));
    let folder = home.path().join("cache");
    let start = || {
        let mut command = Command::new(assert_cmd::cargo::cargo_bin!("nanoinfer"));
        command.env("NANOINFER_HOME", home.path()).arg("serve").arg("--cache-dir").arg(&folder);
        command.args(["--port", "0", "--threads", "2", "--kv-mb", "1", "--model"]).arg(&model);
        Process::start(&mut command)
    };
    let text = "Tell me all about it. ".repeat(10);
    let body = format!(
        r#"{{"messages": [{{"role": "user", "content": "{text}"}}], "max_tokens": 3, "seed": 1}}"#
    );
    let ask = |server: &Process| {
        let reply = post(&server.address, "/v1/chat/completions", &body);
        let json = reply.split_once("\r\n\r\n").unwrap().1;
        let json: serde_json::Value =
            serde_json::from_str(json).unwrap_or_else(|e| panic!("{e}: {reply}"));
        let cached = &json["usage"]["prompt_tokens_details"]["cached_tokens"];
        (json["choices"][0]["message"]["content"].clone(), cached.as_u64().unwrap())
    };
    let server = start();
    let stated = server.said.iter().find_map(|line| line.split_once("sandbox: "));
    let stated = stated.expect("the state of the sandbox").1;
    if stated.contains("system calls restricted") {
        // For all threads, whenever they were started.
        for task in std::fs::read_dir(format!("/proc/{}/task", server.child.id())).unwrap() {
            let status = std::fs::read_to_string(task.unwrap().path().join("status")).unwrap();
            assert!(
                status.contains("Seccomp:\t2") && status.contains("NoNewPrivs:\t1"),
                "{status}"
            );
        }
    }
    let (answer, cached) = ask(&server);
    assert_eq!(cached, 0);
    assert!(get(&server.address, "/metrics").contains("nanoinfer_tokens_generated_total"));
    assert!(get(&server.address, "/").starts_with("HTTP/1.1 200 OK"));
    let written = |entry: std::fs::DirEntry| entry.path().extension().is_some_and(|e| e == "nkv");
    while !std::fs::read_dir(&folder).unwrap().any(|entry| written(entry.unwrap())) {
        std::thread::sleep(std::time::Duration::from_millis(2));
    }
    server.end();
    let server = start();
    let (again, cached) = ask(&server);
    assert!(again == answer && cached > 0, "{cached} tokens, {again} after {answer}");
    server.end();
}

#[test]
fn a_service_manager_is_told_and_passes_a_socket_on() {
    let home = temp();
    let model = talking(home.path(), Some(TEMPLATE));
    let path = home.path().join("notify");
    let manager = std::os::unix::net::UnixDatagram::bind(&path).unwrap();
    let hear = || {
        let mut message = [0; 200];
        let n = manager.recv(&mut message).unwrap();
        String::from_utf8_lossy(&message[..n]).into_owned()
    };
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap().to_string();
    // Sockets are passed on as descriptors from 3 on.
    let mut command = Command::new("sh");
    command.args(["-c", "exec 3<&0 </dev/null; LISTEN_PID=$$ exec \"$0\" \"$@\""]);
    command.stdin(std::os::fd::OwnedFd::from(listener)).env("LISTEN_FDS", "1");
    command.arg(assert_cmd::cargo::cargo_bin!("nanoinfer")).env("NANOINFER_HOME", home.path());
    command.args(["serve", "--threads", "1", "--kv-mb", "1", "--host", "192.0.2.1", "--keys"]);
    let keys = home.path().join("keys");
    std::fs::write(&keys, "ann 0123456789abcdef").unwrap();
    command.arg(keys).arg("--model").arg(&model).env("NOTIFY_SOCKET", &path);
    let server = Process::start(&mut command);
    assert_eq!(server.address, address);
    assert_eq!(hear(), format!("READY=1\nSTATUS=listening on http://{address}"));
    assert!(get(&address, "/health").starts_with("HTTP/1.1 200 OK"));
    server.end();
    assert!(hear().starts_with("STOPPING=1\n"));
}

//! Where a server listens, and whom it answers there.

mod common;

use std::io::Write;
use std::net::TcpStream;

use common::client::{Body, request, send};
use common::{Running, chat};
use nanoinfer_platform::service::Inherited;
use nanoinfer_serve::{Error, Listen, Listening, Options, Server};
use serde_json::json;

const CHAT: &str = "/v1/chat/completions";

#[test]
fn only_this_machine_may_connect_without_keys() {
    for address in ["0.0.0.0:0", "[::]:0"] {
        let open = Options::new(Listen::Tcp(address.parse().unwrap()));
        let error = Server::bind(vec![common::served("tiny", 1, 1)], open).unwrap_err();
        assert!(matches!(error, Error::Open { .. }), "{error}");
    }
    let open = std::net::TcpListener::bind("0.0.0.0:0").unwrap();
    let options = Options::new(Listen::Tcp("127.0.0.1:0".parse().unwrap()));
    let error = Listening::inherit(Inherited::Tcp(open), options).unwrap_err();
    assert!(matches!(error, Error::Open { .. }), "{error}");
    let server = Running::new();
    // Whatever the route and the method, and also the question whether a page may send a request.
    for path in ["/", "/health", "/ready", "/metrics", "/v1/models", "/nothing", CHAT] {
        for method in ["GET", "POST", "OPTIONS"] {
            for foreign in [("Host", "evil.example"), ("Origin", "http://evil.example")] {
                let reply = send(server.address, method, path, &[foreign], "");
                assert_eq!(reply.status, 403, "{method} {path} {foreign:?}");
                assert!(reply.header("access-control-allow-origin").is_none());
            }
        }
    }
    let post = |headers: &[(&str, &str)]| server.post_with(CHAT, headers, &chat("Hi", 1));
    for host in ["evil.example", "evil.example:80", "10.0.0.1", ""] {
        let reply = post(&[("Host", host)]);
        assert_eq!(
            (reply.status, &reply.json()["error"]["code"]),
            (403, &json!("host_not_allowed")),
            "{host}"
        );
    }
    for origin in ["http://evil.example", "null", "http://localhost:1"] {
        let reply = post(&[("Origin", origin)]);
        assert_eq!(reply.status, 403, "{origin}");
        assert!(reply.header("access-control-allow-origin").is_none());
    }
    let host = server.address.to_string();
    let origin = format!("http://{host}");
    assert_eq!(post(&[("Host", &host), ("Origin", &origin)]).status, 200);
}

#[cfg(unix)]
#[test]
fn a_unix_socket_is_for_this_user() {
    use std::io::Read;
    use std::os::unix::fs::PermissionsExt;
    use std::os::unix::net::UnixStream;

    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("server.sock");
    drop(std::os::unix::net::UnixListener::bind(&path).unwrap()); // one that a killed process left behind
    let options = || Options::new(Listen::Unix(path.clone()));
    let server = Server::bind(vec![common::served("tiny", 1, 1)], options()).unwrap();
    assert_eq!(server.address(), format!("unix:{}", path.display()));
    assert_eq!(path.metadata().unwrap().permissions().mode() & 0o777, 0o600);
    let handle = server.handle();
    let thread = std::thread::spawn(move || server.run().unwrap());
    let error = Server::bind(vec![common::served("tiny", 1, 1)], options()).unwrap_err();
    assert!(matches!(error, Error::Listen { .. }), "{error}");
    let mut client = UnixStream::connect(&path).unwrap();
    let text = request("GET", "/v1/models", &[("Connection", "close")], "");
    client.write_all(text.as_bytes()).unwrap();
    let mut reply = String::new();
    client.read_to_string(&mut reply).unwrap();
    assert!(reply.starts_with("HTTP/1.1 200 OK"), "{reply}");
    handle.drain();
    thread.join().unwrap();
    assert!(!path.exists());
}

#[test]
fn a_socket_that_listens_already_is_taken_over() {
    let early = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = early.local_addr().unwrap();
    // A client that comes before the server.
    let client = TcpStream::connect(address).unwrap();
    (&client).write_all(request("GET", "/v1/models", &[], "").as_bytes()).unwrap();
    let options = Options::new(Listen::Unix("/elsewhere".into()));
    let listening = Listening::inherit(Inherited::Tcp(early), options).unwrap();
    let server = listening.serve(vec![common::served("tiny", 1, 1)]).unwrap();
    assert_eq!(server.address(), address.to_string());
    let handle = server.handle();
    let thread = std::thread::spawn(move || server.run().unwrap());
    assert_eq!(Body::read_head(client).unwrap().status, 200);
    assert_eq!(send(address, "GET", "/v1/models", &[("Host", "evil.example")], "").status, 403);
    handle.drain();
    thread.join().unwrap();
}

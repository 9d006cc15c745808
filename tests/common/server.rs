//! An HTTP server on the loopback interface, just enough to stand in for the hub.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Mutex};
use std::time::Duration;

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Request {
    pub(crate) path: String,
    pub(crate) authorization: Option<String>,
    /// Start of the requested range.
    pub(crate) from: Option<usize>,
}

#[derive(Default)]
pub(crate) struct Response {
    pub(crate) status: u16,
    pub(crate) headers: Vec<(&'static str, String)>,
    pub(crate) body: Vec<u8>,
    /// Send only this many bytes of the body, then close the connection.
    pub(crate) cut: Option<usize>,
    /// Keep the connection open until the client closes it.
    pub(crate) silent: bool,
    /// Number of pieces in which to send the body, each after a quarter of a second.
    pub(crate) pieces: usize,
}

impl Response {
    pub(crate) fn status(status: u16) -> Self {
        Self { status, ..Self::default() }
    }

    pub(crate) fn ok(body: impl Into<Vec<u8>>) -> Self {
        Self { status: 200, body: body.into(), ..Self::default() }
    }

    /// The requested range of `body`.
    pub(crate) fn range(body: &[u8], request: &Request) -> Self {
        let Some(from) = request.from else { return Self::ok(body) };
        let range = format!("bytes {from}-{}/{}", body.len() - 1, body.len());
        let rest = Self { status: 206, body: body[from..].to_vec(), ..Self::default() };
        rest.header("Content-Range", range)
    }

    pub(crate) fn header(mut self, name: &'static str, value: impl Into<String>) -> Self {
        self.headers.push((name, value.into()));
        self
    }
}

/// A server that runs until the process ends.
pub(crate) struct Server {
    pub(crate) url: String,
    requests: Arc<Mutex<Vec<Request>>>,
}

impl Server {
    pub(crate) fn start(handler: impl Fn(&Request) -> Response + Send + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let url = format!("http://{}", listener.local_addr().expect("an address"));
        let requests = Arc::new(Mutex::new(Vec::new()));
        let log = Arc::clone(&requests);
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let _ = serve(stream, &handler, &log); // the client may disconnect
            }
        });
        Self { url, requests }
    }

    pub(crate) fn requests(&self) -> Vec<Request> {
        self.requests.lock().expect("the log").clone()
    }
}

fn serve(
    stream: TcpStream,
    handler: &impl Fn(&Request) -> Response,
    log: &Mutex<Vec<Request>>,
) -> std::io::Result<()> {
    let mut lines = BufReader::new(&stream).lines();
    let first = lines.next().transpose()?.unwrap_or_default();
    let path = first.split(' ').nth(1).unwrap_or_default().to_owned();
    let mut request = Request { path, authorization: None, from: None };
    for line in lines {
        let line = line?;
        match line.split_once(": ") {
            Some((name, value)) if name.eq_ignore_ascii_case("authorization") => {
                request.authorization = Some(value.to_owned());
            }
            Some((name, value)) if name.eq_ignore_ascii_case("range") => {
                let from = value.strip_prefix("bytes=").and_then(|v| v.strip_suffix('-'));
                request.from = Some(from.and_then(|v| v.parse().ok()).expect("bytes=N-"));
            }
            Some(_) => {}
            None => break,
        }
    }
    log.lock().expect("the log").push(request.clone());
    let response = handler(&request);
    let mut out = &stream;
    write!(out, "HTTP/1.1 {} X\r\nConnection: close\r\n", response.status)?;
    write!(out, "Content-Length: {}\r\n", response.body.len())?;
    for (name, value) in &response.headers {
        write!(out, "{name}: {value}\r\n")?;
    }
    out.write_all(b"\r\n")?;
    let body = &response.body[..response.cut.unwrap_or(response.body.len())];
    for piece in body.chunks(body.len().div_ceil(response.pieces.max(1)).max(1)) {
        if response.pieces > 0 {
            std::thread::sleep(Duration::from_millis(250));
        }
        out.write_all(piece)?;
    }
    if response.silent {
        out.read_to_end(&mut Vec::new())?;
    }
    Ok(())
}

/// A proxy that tunnels every host to `target`. Returns its URL and the requests.
pub(crate) fn proxy(target: &Server) -> (String, Arc<Mutex<Vec<String>>>) {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let url = format!("http://{}", listener.local_addr().expect("an address"));
    let target = target.url.strip_prefix("http://").expect("plain HTTP").to_owned();
    let log = Arc::new(Mutex::new(Vec::new()));
    let seen = Arc::clone(&log);
    std::thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            let _ = tunnel(stream, &target, &seen);
        }
    });
    (url, log)
}

fn tunnel(client: TcpStream, target: &str, log: &Mutex<Vec<String>>) -> std::io::Result<()> {
    let mut head = String::new();
    let mut reader = BufReader::new(&client);
    while !head.ends_with("\r\n\r\n") {
        if reader.read_line(&mut head)? == 0 {
            return Ok(());
        }
    }
    log.lock().expect("the log").push(head);
    (&client).write_all(b"HTTP/1.1 200 OK\r\n\r\n")?;
    let server = TcpStream::connect(target)?;
    let (from_client, to_server) = (client.try_clone()?, server.try_clone()?);
    std::thread::spawn(move || std::io::copy(&mut &from_client, &mut &to_server));
    std::io::copy(&mut &server, &mut &client)?;
    client.shutdown(std::net::Shutdown::Both)
}

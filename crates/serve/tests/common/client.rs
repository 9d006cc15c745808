//! An HTTP client that shows what is on the wire.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};

use serde_json::Value;

/// A whole response.
#[derive(Debug)]
pub(crate) struct Reply {
    pub(crate) status: u16,
    pub(crate) headers: Vec<(String, String)>,
    pub(crate) body: Vec<u8>,
}

impl Reply {
    pub(crate) fn text(&self) -> String {
        String::from_utf8(self.body.clone()).unwrap()
    }

    pub(crate) fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|e| panic!("{e}: {}", self.text()))
    }

    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        find(&self.headers, name)
    }
}

fn find<'a>(headers: &'a [(String, String)], name: &str) -> Option<&'a str> {
    headers.iter().find(|(n, _)| n.eq_ignore_ascii_case(name)).map(|(_, v)| v.as_str())
}

/// The text of a request. Headers replace those that are there anyway.
pub(crate) fn request(method: &str, path: &str, headers: &[(&str, &str)], body: &str) -> String {
    let mut text = format!("{method} {path} HTTP/1.1\r\nContent-Length: {}\r\n", body.len());
    if !headers.iter().any(|(name, _)| name.eq_ignore_ascii_case("host")) {
        text += "Host: localhost\r\n";
    }
    headers.iter().for_each(|(name, value)| text += &format!("{name}: {value}\r\n"));
    text + "\r\n" + body
}

/// Sends a request and reads the whole response.
pub(crate) fn send(
    address: SocketAddr,
    method: &str,
    path: &str,
    headers: &[(&str, &str)],
    body: &str,
) -> Reply {
    let stream = TcpStream::connect(address).unwrap();
    (&stream).write_all(request(method, path, headers, body).as_bytes()).unwrap();
    let mut body = Body::read_head(stream).expect("a response");
    let mut bytes = Vec::new();
    while let Some(chunk) = body.chunk() {
        bytes.extend(chunk);
    }
    Reply { status: body.status, headers: body.headers, body: bytes }
}

/// A response whose body is read by and by.
pub(crate) struct Body {
    pub(crate) status: u16,
    pub(crate) headers: Vec<(String, String)>,
    reader: BufReader<TcpStream>,
    /// Bytes left, or `None` if the body is chunked.
    left: Option<usize>,
}

impl Body {
    /// Reads the head; `None` if the connection was closed instead.
    pub(crate) fn read_head(stream: TcpStream) -> Option<Self> {
        let mut reader = BufReader::new(stream);
        let mut line = String::new();
        let mut next = || {
            line.clear();
            let n = reader.read_line(&mut line).ok()?;
            (n > 0).then(|| line.trim_end().to_owned())
        };
        let status = next()?.split(' ').nth(1)?.parse().ok()?;
        let mut headers = Vec::new();
        while let Some(line) = next().filter(|line| !line.is_empty()) {
            let (name, value) = line.split_once(": ").expect("a header");
            headers.push((name.to_owned(), value.to_owned()));
        }
        let left = find(&headers, "content-length").map(|n| n.parse().unwrap());
        Some(Self { status, headers, reader, left })
    }

    /// The next part of the body; `None` at its end, or if it is cut off.
    pub(crate) fn chunk(&mut self) -> Option<Vec<u8>> {
        let mut bytes = Vec::new();
        if let Some(left) = self.left {
            (&mut self.reader).take(left as u64).read_to_end(&mut bytes).ok()?;
            self.left = Some(0);
        } else {
            let mut size = String::new();
            self.reader.read_line(&mut size).ok()?;
            let size = usize::from_str_radix(size.trim(), 16).ok()?;
            bytes.resize(size + 2, 0);
            self.reader.read_exact(&mut bytes).ok()?;
            bytes.truncate(size);
        }
        (!bytes.is_empty()).then_some(bytes)
    }
}

/// A server-sent event, or a comment.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Event {
    pub(crate) id: Option<usize>,
    pub(crate) name: Option<String>,
    pub(crate) data: Option<String>,
    pub(crate) comment: Option<String>,
}

impl Event {
    fn parse(text: &str) -> Self {
        let mut event = Self::default();
        for line in text.lines() {
            match line.split_once(": ").expect("a field") {
                ("id", id) => event.id = Some(id.parse().unwrap()),
                ("event", name) => event.name = Some(name.into()),
                ("data", data) => event.data = Some(data.into()),
                ("", comment) => event.comment = Some(comment.into()),
                other => panic!("unexpected {other:?}"),
            }
        }
        assert!(event.data.is_some() != event.comment.is_some(), "clients fail on {text:?}");
        event
    }

    pub(crate) fn json(&self) -> Value {
        serde_json::from_str(self.data.as_ref().expect("data")).expect("JSON")
    }
}

/// A stream of events.
pub(crate) struct Stream {
    pub(crate) body: Body,
    buffer: String,
}

impl Stream {
    pub(crate) fn open(
        address: SocketAddr,
        path: &str,
        headers: &[(&str, &str)],
        body: &Value,
    ) -> Self {
        let stream = TcpStream::connect(address).unwrap();
        let text = request("POST", path, headers, &body.to_string());
        (&stream).write_all(text.as_bytes()).unwrap();
        let body = Body::read_head(stream).expect("a response");
        assert_eq!(body.status, 200);
        assert_eq!(find(&body.headers, "content-type"), Some("text/event-stream"));
        Self { body, buffer: String::new() }
    }

    /// The next event or comment; `None` at the end.
    pub(crate) fn next(&mut self) -> Option<Event> {
        loop {
            // A comment is a line of its own, and not an event.
            if self.buffer.starts_with(':')
                && let Some(at) = self.buffer.find('\n')
            {
                let line: String = self.buffer.drain(..=at).collect();
                assert!(!self.buffer.starts_with('\n'), "an event without data");
                return Some(Event::parse(line.trim_end()));
            }
            if let Some(at) = self.buffer.find("\n\n") {
                let text: String = self.buffer.drain(..at + 2).collect();
                return Some(Event::parse(text.trim_end()));
            }
            let chunk = self.body.chunk()?;
            self.buffer.push_str(std::str::from_utf8(&chunk).unwrap());
        }
    }

    /// All events that are not comments.
    pub(crate) fn events(mut self) -> Vec<Event> {
        let all = std::iter::from_fn(|| self.next());
        all.filter(|event| event.comment.is_none()).collect()
    }

    /// The next event that is not a comment.
    pub(crate) fn next_event(&mut self) -> Option<Event> {
        std::iter::from_fn(|| self.next()).find(|event| event.comment.is_none())
    }
}

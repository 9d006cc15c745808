//! A small HTTP client: GET only, explicit redirects, and a token that is sent only to its origin.

use std::io::Read;
use std::time::Duration;

use ureq::Body;
use ureq::http::{HeaderMap, Uri};

const CONNECT: Duration = Duration::from_secs(15);
const MAX_REDIRECTS: usize = 5;

pub(super) struct Client {
    agent: ureq::Agent,
    origin: Origin,
    token: Option<String>,
}

/// The scheme, host and port to which a token is bound.
#[derive(PartialEq, Eq)]
struct Origin {
    scheme: String,
    authority: String,
}

/// The response to a request, after redirects.
pub(super) struct Response {
    pub(super) status: u16,
    /// Headers of the first response: the hub sends a file's hash and size with the redirect.
    pub(super) first: HeaderMap,
    /// Headers of the final response.
    pub(super) last: HeaderMap,
    pub(super) body: Body,
}

/// Why a request failed.
#[derive(Debug)]
pub(super) enum HttpError {
    /// The network failed, or the server did not respond.
    Unreachable(String),
    /// The response violates the protocol, or its redirect cannot be followed.
    Protocol(String),
}

impl Client {
    /// `endpoint` is `http(s)://host[:port][/path]`; `token` is sent only to that origin. `silence`
    /// is the timeout for the start of the response and for each read after that: a large file may
    /// take hours on a slow link, but a dead link is detected.
    pub(super) fn new(
        endpoint: &str,
        token: Option<String>,
        silence: Duration,
    ) -> Result<Self, String> {
        let uri: Uri = endpoint.parse().map_err(|e| format!("{endpoint:?} is not a URL: {e}"))?;
        let origin =
            Origin::of(&uri).ok_or_else(|| format!("{endpoint:?} is not an http(s):// URL"))?;
        let agent = ureq::Agent::config_builder()
            .user_agent(concat!("nanoinfer/", env!("CARGO_PKG_VERSION")))
            .accept_encoding("identity") // no compression, because sizes are compared
            .http_status_as_error(false)
            .max_redirects(0)
            .timeout_connect(Some(CONNECT))
            .timeout_recv_response(Some(silence))
            .timeout_per_read(Some(silence))
            .build()
            .new_agent();
        Ok(Self { agent, origin, token })
    }

    /// Requests `url` from byte `from` onward, following redirects. Redirects may lead to other
    /// hosts (the hub stores large files elsewhere), but never from HTTPS to HTTP, and the token is
    /// sent only to its own origin.
    pub(super) fn get(&self, url: &str, from: u64) -> Result<Response, HttpError> {
        let mut at: Uri =
            url.parse().map_err(|e| HttpError::Protocol(format!("{url:?} is not a URL: {e}")))?;
        let mut first = None;
        for _ in 0..=MAX_REDIRECTS {
            let response = self.send(&at, from)?;
            let (parts, body) = response.into_parts();
            let status = parts.status.as_u16();
            let first = first.get_or_insert_with(|| parts.headers.clone());
            if !matches!(status, 301 | 302 | 303 | 307 | 308) {
                return Ok(Response {
                    status,
                    first: std::mem::take(first),
                    last: parts.headers,
                    body,
                });
            }
            let location = parts.headers.get("location").and_then(|v| v.to_str().ok());
            at = redirect(&at, location).map_err(HttpError::Protocol)?;
        }
        Err(HttpError::Protocol(format!("{url} redirects more than {MAX_REDIRECTS} times")))
    }

    fn send(&self, uri: &Uri, from: u64) -> Result<ureq::http::Response<Body>, HttpError> {
        let mut request = self.agent.get(uri.clone());
        if let Some(token) = &self.token
            && Origin::of(uri).as_ref() == Some(&self.origin)
        {
            request = request.header("Authorization", format!("Bearer {token}"));
        }
        if from > 0 {
            request = request.header("Range", format!("bytes={from}-"));
        }
        request.call().map_err(|e| match e {
            ureq::Error::Protocol(_) | ureq::Error::Http(_) | ureq::Error::BadUri(_) => {
                HttpError::Protocol(e.to_string())
            }
            other => HttpError::Unreachable(other.to_string()),
        })
    }
}

impl Response {
    /// The whole body, which may have at most `limit` bytes.
    pub(super) fn bytes(self, limit: u64) -> Result<Vec<u8>, String> {
        let mut bytes = Vec::new();
        self.body
            .into_reader()
            .take(limit + 1)
            .read_to_end(&mut bytes)
            .map_err(|e| e.to_string())?;
        if bytes.len() as u64 > limit {
            return Err(format!("the response is longer than {limit} bytes"));
        }
        Ok(bytes)
    }
}

impl Origin {
    fn of(uri: &Uri) -> Option<Self> {
        let scheme = uri.scheme_str()?.to_ascii_lowercase();
        let authority = uri.authority()?.as_str().to_ascii_lowercase();
        let web = matches!(scheme.as_str(), "http" | "https");
        // With credentials (`user@host`), URLs with the same origin would compare as different.
        (web && !authority.contains('@')).then_some(Self { scheme, authority })
    }
}

fn redirect(from: &Uri, location: Option<&str>) -> Result<Uri, String> {
    let location = location.ok_or("a redirect without a readable Location header")?;
    let bad = |why: &str| format!("cannot follow the redirect to {location:?}: {why}");
    let origin = Origin::of(from).ok_or_else(|| bad("the redirecting URL has no host"))?;
    let target = if location.starts_with('/') && !location.starts_with("//") {
        format!("{}://{}{location}", origin.scheme, origin.authority)
    } else {
        location.to_owned()
    };
    let target: Uri = target.parse().map_err(|_| bad("it is not a URL"))?;
    match Origin::of(&target) {
        None => Err(bad("it is not an http(s) URL")),
        Some(to) if origin.scheme == "https" && to.scheme == "http" => {
            Err(bad("it leads from HTTPS to HTTP"))
        }
        Some(_) => Ok(target),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn unsafe_redirects_are_refused() {
        let from: Uri = "https://hub.example/a/b".parse().unwrap();
        let to = |l: &str| redirect(&from, Some(l)).map(|u| u.to_string());
        assert_eq!(to("/api/x?y=1").unwrap(), "https://hub.example/api/x?y=1");
        assert_eq!(to("https://cdn.example/z").unwrap(), "https://cdn.example/z");
        for bad in ["http://hub.example/a", "ftp://x/y", "relative", "//cdn.example/z", ""] {
            assert!(to(bad).is_err(), "{bad:?}");
        }
        assert!(redirect(&from, None).is_err());
    }

    #[test]
    fn an_origin_consists_of_scheme_host_and_port() {
        let of = |u: &str| Origin::of(&u.parse().unwrap());
        assert!(of("https://Hub.example/a") == of("https://hub.EXAMPLE/b"));
        for other in ["http://hub.example/a", "https://hub.example:444/", "https://hub.example.x/"]
        {
            assert!(of("https://hub.example/a") != of(other), "{other}");
        }
        assert!(of("https://user@hub.example/").is_none());
    }
}

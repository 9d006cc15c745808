//! What every request passes: host, origin and key; its id; its log line.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::body::Body;
use axum::extract::{MatchedPath, State};
use axum::http::{HeaderMap, HeaderName, Request, header};
use axum::middleware::Next;

use super::app::{App, Who};
use super::reply::{self, Reply};
use crate::dialect::problems::Form;
use crate::keys::Allowance;
use crate::options::Listen;
use crate::problem::{Kind, Problem};

/// The header with a request's id.
pub(crate) const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");

const LIMIT_TOKENS: HeaderName = HeaderName::from_static("x-ratelimit-limit-tokens");
const REMAINING_TOKENS: HeaderName = HeaderName::from_static("x-ratelimit-remaining-tokens");
const RESET_TOKENS: HeaderName = HeaderName::from_static("x-ratelimit-reset-tokens");

/// Routes that need no key.
const OPEN: [&str; 2] = ["/health", "/ready"];

/// The route that needs none if that is an option.
const METRICS: &str = "/metrics";

pub(crate) async fn guard(
    State(app): State<Arc<App>>,
    mut request: Request<Body>,
    next: Next,
) -> Reply {
    let started = Instant::now();
    let id = request_id(&app, request.headers());
    let (method, path) = (request.method().clone(), request.uri().path().to_owned());
    let route = request.extensions().get::<MatchedPath>();
    let route = route.map_or_else(|| "other".to_owned(), |path| path.as_str().to_owned());
    let key = check(&app, request.headers(), &path);
    let mut reply = match &key {
        Ok(key) => {
            request.extensions_mut().insert(Who { id: id.clone(), key: *key });
            next.run(request).await
        }
        Err(problem) => reply::problem(Form::of(&path), problem),
    };
    reply::set(&mut reply, REQUEST_ID, &id);
    reply::set(&mut reply, header::X_CONTENT_TYPE_OPTIONS, "nosniff");
    if let Ok(Some(allowance)) = key.as_ref().map(|key| app.allowance((*key)?)) {
        limits(&mut reply, allowance);
    }
    let status = reply.status().as_u16();
    app.metrics.responded(&route, status);
    if !OPEN.contains(&route.as_str()) && route != METRICS {
        let name = match (&app.options.keys, key) {
            (Some(keys), Ok(Some(index))) => format!(" key={}", keys.get(index).name),
            _ => String::new(),
        };
        let ms = started.elapsed().as_secs_f64() * 1e3;
        app.options.log.line(&format!("{method} {route} {status} id={id}{name} {ms:.1} ms"));
    }
    reply
}

/// What is left of a key's tokens, in OpenAI's headers.
fn limits(reply: &mut Reply, allowance: Allowance) {
    let Allowance { limit, left, reset } = allowance;
    reply::set(reply, LIMIT_TOKENS, &limit.to_string());
    reply::set(reply, REMAINING_TOKENS, &left.to_string());
    reply::set(reply, RESET_TOKENS, &short(reset));
}

/// A time such as 250ms, 7s or 1m30s, rounded up.
fn short(time: Duration) -> String {
    let ms = time.as_micros().div_ceil(1000);
    let seconds = ms.div_ceil(1000);
    match ms {
        0..1000 => format!("{ms}ms"),
        1000..60_000 => format!("{seconds}s"),
        _ => format!("{}m{}s", seconds / 60, seconds % 60),
    }
}

/// The client's id of the request if it has a harmless one, else a new one.
fn request_id(app: &App, headers: &HeaderMap) -> String {
    let harmless = |id: &&str| {
        let plain = |b: u8| b.is_ascii_alphanumeric() || b"-_.:".contains(&b);
        (1..=128).contains(&id.len()) && id.bytes().all(plain)
    };
    let given = headers.get(REQUEST_ID).and_then(|id| id.to_str().ok()).filter(harmless);
    given.map_or_else(|| format!("req-{:x}-{:x}", std::process::id(), app.serial()), str::to_owned)
}

/// Whether a request may pass, and the key that it has.
fn check(app: &App, headers: &HeaderMap, path: &str) -> Result<Option<usize>, Problem> {
    if let Some(keys) = &app.options.keys {
        if OPEN.contains(&path) || app.options.public_metrics && path == METRICS {
            return Ok(None);
        }
        let found = secret(headers).and_then(|secret| keys.find(secret));
        let message = "a valid key is required: Authorization: Bearer KEY, or x-api-key: KEY";
        return found
            .map(Some)
            .ok_or_else(|| Problem::new(Kind::Unauthorized, message).code("invalid_api_key"));
    }
    let text = |name| headers.get(&name).map(|value| value.to_str().unwrap_or_default());
    let host = text(header::HOST);
    if let Listen::Tcp(address) = app.options.listen
        && !host.is_some_and(|host| is_local(host, address.ip()))
    {
        // Otherwise any web page could reach the server, by a name that resolves to this machine.
        let message =
            "the Host header is not a name of this machine; without keys, only localhost is";
        return Err(Problem::new(Kind::Forbidden, message).code("host_not_allowed"));
    }
    match text(header::ORIGIN) {
        Some(origin) if !host.is_some_and(|host| is_same(origin, host)) => {
            let message = "requests from pages of other origins are not allowed without keys";
            Err(Problem::new(Kind::Forbidden, message).code("origin_not_allowed"))
        }
        _ => Ok(None),
    }
}

/// The key in a request's headers.
fn secret(headers: &HeaderMap) -> Option<&[u8]> {
    let bearer = headers.get(header::AUTHORIZATION).map(|value| value.as_bytes());
    let bearer = bearer.and_then(|value| {
        let (scheme, key) = value.split_at_checked(7)?;
        scheme.eq_ignore_ascii_case(b"bearer ").then(|| key.trim_ascii())
    });
    bearer.or_else(|| headers.get("x-api-key").map(|value| value.as_bytes()))
}

/// Whether a Host header names this machine, or the address on which the server listens.
fn is_local(host: &str, listening: IpAddr) -> bool {
    let name = match host.rsplit_once(':') {
        Some((name, port)) if port.bytes().all(|b| b.is_ascii_digit()) => name,
        _ => host,
    };
    let name = name.strip_prefix('[').and_then(|name| name.strip_suffix(']')).unwrap_or(name);
    let is_address = name.parse::<IpAddr>().is_ok_and(|ip| ip.is_loopback() || ip == listening);
    is_address || name.eq_ignore_ascii_case("localhost")
}

/// Whether an origin is that of the server's own page.
fn is_same(origin: &str, host: &str) -> bool {
    let rest = origin.strip_prefix("http://").or_else(|| origin.strip_prefix("https://"));
    rest.is_some_and(|rest| rest.eq_ignore_ascii_case(host))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_names_of_this_machine_are_local() {
        let ip = IpAddr::from([127, 0, 0, 1]);
        for host in ["localhost", "LOCALHOST:8080", "127.0.0.1", "127.0.0.2:1", "[::1]:80", "[::1]"]
        {
            assert!(is_local(host, ip), "{host}");
        }
        for host in
            ["", "evil.example", "localhost.evil.example", "10.0.0.1:80", "127.0.0.1.evil", "a:b"]
        {
            assert!(!is_local(host, ip), "{host}");
        }
    }

    #[test]
    fn times_are_short() {
        let short = |ms| short(Duration::from_micros(ms));
        assert_eq!(short(0), "0ms");
        assert_eq!(short(249_001), "250ms");
        assert_eq!(short(6_000_001), "7s");
        assert_eq!(short(90_000_000), "1m30s");
        assert_eq!(short(59_999_999), "1m0s");
    }

    #[test]
    fn an_origin_is_the_same_only_with_the_same_host_and_port() {
        assert!(is_same("http://localhost:8080", "localhost:8080"));
        for origin in [
            "null",
            "http://localhost",
            "http://localhost:8081",
            "localhost:8080",
            "ftp://localhost:8080",
        ] {
            assert!(!is_same(origin, "localhost:8080"), "{origin}");
        }
    }
}

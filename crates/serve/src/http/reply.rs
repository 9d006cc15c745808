//! Responses.

use axum::body::Body;
use axum::http::{HeaderName, HeaderValue, Response, StatusCode, header};
use serde::Serialize;

use crate::dialect::problems::Form;
use crate::problem::Problem;

pub(crate) type Reply = Response<Body>;

/// A JSON body.
pub(crate) fn json(status: u16, value: &impl Serialize) -> Reply {
    let body = serde_json::to_vec(value).unwrap_or_default();
    with_type(status, "application/json", body.into())
}

/// A body of a media type.
pub(crate) fn with_type(status: u16, media_type: &'static str, body: Body) -> Reply {
    let mut reply = Response::new(body);
    *reply.status_mut() = StatusCode::from_u16(status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    set(&mut reply, header::CONTENT_TYPE, media_type);
    reply
}

/// A problem in the form of an API.
pub(crate) fn problem(form: Form, problem: &Problem) -> Reply {
    let mut reply = json(problem.kind.status(), &form.body(problem));
    if let Some(seconds) = problem.retry_after {
        set(&mut reply, header::RETRY_AFTER, &seconds.to_string());
    }
    if problem.kind.status() == 401 {
        set(&mut reply, header::WWW_AUTHENTICATE, "Bearer");
    }
    reply
}

/// Sets a header, unless its value has characters that headers cannot have.
pub(crate) fn set(reply: &mut Reply, name: HeaderName, value: &str) {
    if let Ok(value) = HeaderValue::from_str(value) {
        reply.headers_mut().insert(name, value);
    }
}

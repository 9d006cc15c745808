//! Reads a request's body, within limits of size, time and memory.

use std::sync::Arc;

use axum::body::Body;
use axum::http::{Request, header};
use http_body_util::BodyExt;
use tokio::sync::OwnedSemaphorePermit;

use super::app::{App, UNIT};
use crate::problem::{Kind, Problem};

/// A body, and its share of the memory for all bodies.
pub(crate) struct Bytes {
    pub(crate) bytes: Vec<u8>,
    _room: Vec<OwnedSemaphorePermit>,
}

/// Reads the whole body.
pub(crate) async fn read(app: &App, request: Request<Body>) -> Result<Bytes, Problem> {
    let limits = &app.options.limits;
    let encoding = request.headers().get(header::CONTENT_ENCODING);
    if encoding.is_some_and(|value| value != "identity") {
        let message = "compressed requests are not supported; send the body as it is";
        return Err(Problem::new(Kind::MediaType, message));
    }
    let too_large = || {
        let message = format!("the request is larger than {} bytes", limits.body);
        Problem::new(Kind::TooLarge, message)
    };
    let length = request.headers().get(header::CONTENT_LENGTH);
    let length = length.and_then(|value| value.to_str().ok()?.parse::<u64>().ok());
    if length.is_some_and(|length| length > limits.body as u64) {
        return Err(too_large());
    }
    let (mut body, mut bytes, mut room) = (request.into_body(), Vec::new(), Vec::new());
    loop {
        let frame = match tokio::time::timeout(limits.read, body.frame()).await {
            Ok(None) => return Ok(Bytes { bytes, _room: room }),
            Ok(Some(Ok(frame))) => frame,
            Ok(Some(Err(error))) => {
                return Err(Problem::new(Kind::Invalid, format!("the request's body: {error}")));
            }
            Err(_) => {
                let message = "the request's body did not arrive in time";
                return Err(Problem::new(Kind::TimedOut, message));
            }
        };
        let Ok(data) = frame.into_data() else { continue };
        if bytes.len() + data.len() > limits.body {
            return Err(too_large());
        }
        bytes.extend_from_slice(&data);
        while room.len() < bytes.len() / UNIT {
            let Ok(permit) = Arc::clone(&app.bodies).try_acquire_owned() else {
                let message = "too many large requests at once; try again later";
                return Err(Problem::new(Kind::Unavailable, message).retry_after(1));
            };
            room.push(permit);
        }
    }
}

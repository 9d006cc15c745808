//! Reads a request's body, within limits of size, time and memory.

use std::sync::Arc;

use axum::body::Body;
use axum::http::{Request, header};
use http_body_util::BodyExt;
use tokio::sync::OwnedSemaphorePermit;

use super::app::{App, UNIT};
use crate::problem::{Kind, Problem};

/// Bodies of more bytes are parsed and tokenized one at a time, so that others find a free thread.
const LARGE: usize = 1 << 20;

/// A body, its share of the memory for all bodies, and its turn if it is large.
pub(crate) struct Bytes {
    bytes: Vec<u8>,
    _room: Vec<OwnedSemaphorePermit>,
    _turn: Option<OwnedSemaphorePermit>,
}

impl Bytes {
    /// The body. Closures that call this own the room and the turn too, unlike with a field.
    pub(crate) fn get(&self) -> &[u8] {
        &self.bytes
    }
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
            Ok(None) => {
                let large = (bytes.len() > LARGE).then(|| Arc::clone(&app.large));
                let turn = match large {
                    Some(large) => large.acquire_owned().await.ok(),
                    None => None,
                };
                return Ok(Bytes { bytes, _room: room, _turn: turn });
            }
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

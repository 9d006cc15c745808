//! From a request to what was read of its prompts: embeddings and rankings.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Instant;

use axum::body::Body;
use axum::http::Request;

use super::app::{App, Who};
use super::reply::{self, Reply};
use super::{body, generate};
use crate::core::read;
use crate::dialect::call::{ParseReading, Reading};
use crate::problem::{Kind, Problem};

/// Answers a request of an API.
pub(crate) async fn read(
    app: Arc<App>,
    who: Who,
    request: Request<Body>,
    parse: ParseReading,
) -> Result<Reply, Problem> {
    let started = Instant::now();
    if app.is_draining() {
        return Err(Problem::draining());
    }
    let _in_use = app.enter(&who)?;
    let timeout = generate::timeout(request.headers())?;
    let body = body::read(&app, request).await?;
    let parsing = Arc::clone(&app);
    let (served, reading) = generate::blocking(move || {
        let body = generate::json(body.get())?;
        let served = Arc::clone(generate::model(&parsing, &body)?);
        let reading = parse(&body, &served)?;
        Ok((served, reading))
    })
    .await?;
    if app.is_draining() {
        return Err(Problem::draining()); // it has begun since
    }
    let Reading { prompts, output, write } = reading;
    let (tokens, begun) = (prompts.iter().map(Vec::len).sum::<usize>(), AtomicUsize::new(0));
    let payer = app.spend(&who, tokens, Instant::now())?;
    let reading = read::read(&served, (prompts, output), app.caller(&who), &begun);
    let longest = [timeout, app.options.max_time].into_iter().flatten().min();
    let all = match longest.and_then(|time| started.checked_add(time)) {
        None => reading.await,
        Some(deadline) => {
            tokio::time::timeout_at(deadline.into(), reading).await.unwrap_or_else(|_| {
                let message = "the time limit was reached before all inputs were read";
                Err(Problem::new(Kind::Deadline, message))
            })
        }
    };
    let all = all.inspect_err(|_| {
        if let Some(payer) = &payer {
            payer.give_back(tokens - begun.load(Ordering::Relaxed));
        }
    })?;
    let json = generate::blocking(move || Ok(write(&served, all))).await?;
    Ok(reply::with_type(200, "application/json", json.into()))
}

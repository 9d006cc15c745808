//! The page at `/`: a chat, and the inside of the server.

use std::convert::Infallible;
use std::hash::{BuildHasher, RandomState};
use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use axum::http::header;
use bytes::Bytes;
use futures_util::stream;
use percent_encoding::percent_decode_str;
use serde_json::{Value, json};

use super::app::App;
use super::reply::{self, Reply};
use crate::dialect::call::event;
use crate::inside::Watch;
use crate::problem::Problem;
use crate::runner::Command;

const PAGE: &str = include_str!("page.html");

/// Time between two reports to a page.
const INTERVAL: Duration = Duration::from_millis(100);

/// The page. It may run only its own script, which a number that nobody can guess marks, and connect only to
/// this server.
pub(crate) async fn page() -> Reply {
    let [a, b] = [(), ()].map(|()| RandomState::new().hash_one(()));
    let nonce = format!("{a:016x}{b:016x}");
    let page = PAGE.replace("NONCE", &nonce);
    let mut reply = reply::with_type(200, "text/html; charset=utf-8", page.into());
    let policy = format!(
        "default-src 'self'; img-src data:; script-src 'nonce-{nonce}'; style-src 'nonce-{nonce}'; \
         base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    );
    reply::set(&mut reply, header::CONTENT_SECURITY_POLICY, &policy);
    reply::set(&mut reply, header::REFERRER_POLICY, "no-referrer");
    reply::set(&mut reply, header::CACHE_CONTROL, "no-store");
    reply
}

/// Figures of the engine of the model in the query, or of the default model's, ten times a second.
pub(crate) fn telemetry(app: Arc<App>, query: Option<&str>) -> Result<Reply, Problem> {
    let name = query.and_then(|query| query.strip_prefix("model=")).map(decoded);
    let served = Arc::clone(app.models.find(name.as_deref())?);
    let watch = Watch::new(&served.inside);
    served.link.send(Command::Wake); // so that an idle engine is looked at, too
    let reports = stream::unfold((app, served, watch), |(app, served, watch)| async move {
        tokio::time::sleep(INTERVAL).await;
        if app.is_draining() {
            return None;
        }
        let m = &served.link.metrics;
        let mut report = json!({
            "loaded": served.is_loaded(),
            "waiting": m.waiting.get(),
            "running": m.running.get(),
            "rows": m.rows.get(),
            "pass_ms": m.pass_ms.get(),
            "blocks": m.blocks.get(),
            "free_blocks": m.free_blocks.get(),
            "generated": m.generated.get(),
            "computed": m.computed.get(),
            "cached": m.cached.get(),
            "drafted": m.drafted.get(),
            "accepted": m.accepted.get(),
        });
        if let (Some(report), Value::Object(inside)) =
            (report.as_object_mut(), served.inside.report())
        {
            report.extend(inside);
        }
        let mut out = Vec::new();
        event(None, None, &report, &mut out);
        Some((Ok::<_, Infallible>(Bytes::from(out)), (app, served, watch)))
    });
    let mut reply = reply::with_type(200, "text/event-stream", Body::from_stream(reports));
    reply::set(&mut reply, header::CACHE_CONTROL, "no-cache");
    Ok(reply)
}

/// The text of a query's value, with its escaped bytes.
fn decoded(value: &str) -> String {
    percent_decode_str(value).decode_utf8_lossy().into_owned()
}

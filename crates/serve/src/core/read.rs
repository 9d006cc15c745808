//! Prompts that are read, but not answered: for embeddings and rankings.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use futures_util::{StreamExt, TryStreamExt, stream};
use nanoinfer_engine::{BatchOptions, PromptOutput, PromptValues, Request, Stats};

use super::model::ServedModel;
use super::prepare::Caller;
use crate::problem::{Kind, Problem};
use crate::runner::Happened;

/// Maximum number of prompts of a request that are in the engine or its queue at once.
const AT_ONCE: usize = 32;

/// Number of prompts of a request to submit at once, so that a long list neither fills the queue nor is refused
/// because it does not fit.
pub(crate) fn at_once(options: &BatchOptions) -> usize {
    (options.queue.min(options.queue_per_key) / 2).clamp(1, AT_ONCE)
}

/// What was read of a prompt.
#[derive(Debug)]
pub(crate) struct Read {
    pub(crate) values: PromptValues,
    pub(crate) stats: Stats,
}

/// Reads prompts, whose results are in the same order; `begun` counts the tokens of those that the engine has begun
/// to read. Dropping the future cancels what is left.
pub(crate) async fn read(
    served: &Arc<ServedModel>,
    (prompts, output): (Vec<Vec<u32>>, PromptOutput),
    caller: Caller,
    begun: &AtomicUsize,
) -> Result<Vec<Read>, Problem> {
    let each = prompts.into_iter().map(|prompt| {
        let output = Some(output.clone());
        let class = Request::default().class.max(caller.class);
        let Caller { key, namespace, .. } = caller;
        let request = Request { prompt, output, class, key, namespace, ..Request::default() };
        one(served, request, begun)
    });
    stream::iter(each).buffered(served.at_once).try_collect().await
}

async fn one(served: &ServedModel, request: Request, begun: &AtomicUsize) -> Result<Read, Problem> {
    let mut tokens = request.prompt.len();
    let mut stream = served.link.submit(vec![request]).await?;
    let mut values = None;
    while let Some((_, event)) = stream.next().await {
        if !matches!(event, Happened::Failed(_)) {
            begun.fetch_add(std::mem::take(&mut tokens), Ordering::Relaxed);
        }
        match event {
            Happened::Prompt(found) => values = Some(found),
            Happened::Finished { stats, .. } => {
                let what = "a prompt was not read to its end";
                let values = values.ok_or_else(|| Problem::new(Kind::Internal, what))?;
                return Ok(Read { values, stats: *stats });
            }
            Happened::Failed(problem) => return Err(problem),
            Happened::Prefill { .. } | Happened::Token(_) => {}
        }
    }
    Err(Problem::engine_gone())
}

//! From the engine's events to updates of an answer. Nothing else reads these events.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, Instant};

use nanoinfer_engine::{FinishReason, PromptLogprobs, PromptValues, Stats};
use tokio::sync::oneshot;

use super::model::ServedModel;
use super::parts::{self, Part, Splitter, Whole};
use crate::keys::Usage;
use crate::problem::{Kind, Problem};
use crate::runner::{Happened, Logprobs};
use crate::stream::Stream;

/// What became of an answer since the last update.
#[derive(Debug)]
pub enum Update {
    /// A part of a prompt was read.
    Prefill {
        /// Tokens so far.
        done: usize,
        /// Tokens of the prompt.
        total: usize,
    },
    /// The log-probabilities of a choice's prompt.
    Prompt {
        /// The answer's index.
        choice: usize,
        /// Of every token but the first.
        logprobs: PromptLogprobs,
    },
    /// An answer grows.
    Chunk(Chunk),
    /// An answer ends.
    End(End),
    /// The whole request ends.
    Failed(Problem),
}

/// What a token adds to an answer.
#[derive(Debug)]
pub struct Chunk {
    /// The answer's index.
    pub choice: usize,
    /// Number of tokens up to and including this one.
    pub count: usize,
    /// What it adds.
    pub parts: Vec<Part>,
    /// The token, if its log-probability was requested.
    pub token: Option<(u32, Logprobs)>,
}

impl Chunk {
    /// The content.
    pub fn text(&self) -> String {
        let text = |part: &Part| match part {
            Part::Text(text) => Some(text.clone()),
            _ => None,
        };
        self.parts.iter().filter_map(text).collect()
    }
}

/// The end of an answer.
#[derive(Debug)]
pub struct End {
    /// The answer's index.
    pub choice: usize,
    /// Why it ended.
    pub reason: Reason,
    /// The stop string at which it ended.
    pub stop: Option<String>,
    /// Counts and times.
    pub stats: Stats,
}

/// Why an answer ended.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Reason {
    /// The model ended it, or a stop string.
    #[default]
    Stop,
    /// After calls of tools.
    Calls,
    /// It has as many tokens as it may.
    Length,
    /// The context is full.
    Context,
    /// The time for it was over.
    Time,
}

impl Reason {
    /// A name for programs.
    pub fn name(self) -> &'static str {
        match self {
            Self::Stop => "stop",
            Self::Calls => "tool_calls",
            Self::Length => "length",
            Self::Context => "context",
            Self::Time => "time",
        }
    }

    /// A sentence if the usual names do not tell.
    pub(crate) fn note(self) -> Option<&'static str> {
        match self {
            Self::Stop | Self::Calls | Self::Length => None,
            Self::Context => Some("the context is full"),
            Self::Time => Some("the time limit was reached"),
        }
    }
}

/// A whole answer: its updates, folded.
#[derive(Default)]
pub(crate) struct Answer {
    /// Those of the prompt, if they were requested.
    pub(crate) prompt: Option<PromptLogprobs>,
    pub(crate) parts: Vec<Whole>,
    pub(crate) tokens: Vec<(u32, Logprobs)>,
    pub(crate) reason: Reason,
    pub(crate) stop: Option<String>,
    pub(crate) stats: Stats,
}

impl Answer {
    /// The content.
    pub(crate) fn text(&self) -> String {
        let text = |part: &Whole| match part {
            Whole::Text(text) => Some(text.clone()),
            _ => None,
        };
        self.parts.iter().filter_map(text).collect()
    }
}

/// The answers to a request while they are generated. Dropping it cancels them.
pub(crate) struct Answering {
    pub(crate) served: Arc<ServedModel>,
    stream: Stream,
    /// Tells whether the engine accepts the requests, until it has.
    accepted: Option<oneshot::Receiver<Result<(), Problem>>>,
    /// Updates that are due before the next event.
    due: VecDeque<Update>,
    choices: Vec<Progress>,
    stops: Vec<String>,
    deadline: Option<tokio::time::Instant>,
    /// The key that pays for the tokens.
    payer: Option<Arc<Usage>>,
    started: Instant,
}

struct Progress {
    /// Tokens of the prompt, and generated so far.
    prompt: usize,
    count: usize,
    tokens: Vec<u32>,
    last: Option<Instant>,
    splitter: Splitter,
    /// Whether the prompt has log-probabilities: then the token that ends the answer has them too.
    scored: bool,
    ended: bool,
}

impl Answering {
    pub(crate) fn new(
        (served, stream): (Arc<ServedModel>, Stream),
        (prompts, splitters, stops): (&[usize], Vec<Splitter>, Vec<String>),
        (started, max_time): (Instant, Option<Duration>),
        payer: Option<Arc<Usage>>,
    ) -> Self {
        let deadline = max_time.and_then(|time| started.checked_add(time)).map(Into::into);
        let choice = |(&prompt, splitter)| Progress {
            prompt,
            count: 0,
            tokens: Vec::new(),
            last: None,
            splitter,
            scored: false,
            ended: false,
        };
        let choices = prompts.iter().zip(splitters).map(choice).collect();
        let due = VecDeque::new();
        let accepted = None;
        Self { served, stream, accepted, due, choices, stops, deadline, payer, started }
    }

    /// Begins with the answer whether the requests are accepted.
    pub(crate) fn once(self, accepted: oneshot::Receiver<Result<(), Problem>>) -> Self {
        Self { accepted: Some(accepted), ..self }
    }

    /// The next update; `None` after the last. May be dropped while it waits.
    pub(crate) async fn next(&mut self) -> Option<Update> {
        if let Some(accepted) = &mut self.accepted {
            let accepted = accepted.await;
            self.accepted = None;
            if let Err(problem) = self.stream.accept(accepted) {
                return Some(Update::Failed(problem));
            }
        }
        loop {
            if let Some(update) = self.due.pop_front() {
                return Some(update);
            }
            if self.is_over() {
                return None;
            }
            let next = match self.deadline {
                None => self.stream.next().await,
                Some(deadline) => {
                    match tokio::time::timeout_at(deadline, self.stream.next()).await {
                        Ok(next) => next,
                        Err(_) => {
                            self.time_out();
                            continue;
                        }
                    }
                }
            };
            let (choice, event) = next?;
            self.read(choice, event);
            // All events of a pass arrive together: the end of an answer with its last token.
            while let Some((choice, event)) = self.stream.try_next() {
                self.read(choice, event);
            }
        }
    }

    /// The next update if it is already here.
    pub(crate) fn try_next(&mut self) -> Option<Update> {
        while let Some((choice, event)) = self.stream.try_next() {
            self.read(choice, event);
        }
        self.due.pop_front()
    }

    /// Waits for the first update, at most for `patience`, and keeps it.
    ///
    /// # Errors
    /// The first update is a problem.
    pub(crate) async fn begin(&mut self, patience: Duration) -> Result<(), Problem> {
        match tokio::time::timeout(patience, self.next()).await {
            Ok(Some(Update::Failed(problem))) => Err(problem),
            Ok(update) => {
                if let Some(update) = update {
                    self.due.push_front(update);
                }
                Ok(())
            }
            Err(_) => Ok(()),
        }
    }

    /// All answers, whole.
    pub(crate) async fn fold(mut self) -> Result<Vec<Answer>, Problem> {
        let mut answers: Vec<Answer> = self.choices.iter().map(|_| Answer::default()).collect();
        while let Some(update) = self.next().await {
            match update {
                Update::Prefill { .. } => {}
                Update::Prompt { choice, logprobs } => answers[choice].prompt = Some(logprobs),
                Update::Chunk(chunk) => {
                    let answer = &mut answers[chunk.choice];
                    let parts = chunk.parts.into_iter();
                    parts.for_each(|part| parts::fold(&mut answer.parts, part));
                    answer.tokens.extend(chunk.token);
                }
                Update::End(end) => {
                    let answer = &mut answers[end.choice];
                    (answer.reason, answer.stop, answer.stats) = (end.reason, end.stop, end.stats);
                }
                Update::Failed(problem) => return Err(problem),
            }
        }
        Ok(answers)
    }

    /// Whether there was the last update.
    pub(crate) fn is_over(&self) -> bool {
        self.stream.is_over() && self.due.is_empty()
    }

    /// Time since the request arrived.
    pub(crate) fn elapsed(&self) -> Duration {
        self.started.elapsed()
    }

    /// The tokens of a choice so far.
    pub(crate) fn tokens(&self, choice: usize) -> &[u32] {
        self.choices.get(choice).map_or(&[], |choice| &choice.tokens)
    }

    /// Tokens generated so far.
    pub(crate) fn generated(&self) -> usize {
        self.choices.iter().map(|choice| choice.count).sum()
    }

    /// Turns an event into updates.
    fn read(&mut self, choice: usize, event: Happened) {
        let chunk = |parts, count, token| Update::Chunk(Chunk { choice, count, parts, token });
        match event {
            Happened::Prefill { done, total } => {
                self.due.push_back(Update::Prefill { done, total });
            }
            Happened::Prompt(PromptValues::Logprobs(logprobs)) => {
                self.choices[choice].scored = true;
                self.due.push_back(Update::Prompt { choice, logprobs });
            }
            Happened::Prompt(_) => {} // not requested of an answer
            Happened::Token(token) => {
                self.measure(choice, token.count);
                self.choices[choice].tokens.push(token.id);
                let shows = self.choices[choice].scored || !self.served.ends(token.id);
                let logprobs = token.logprobs.filter(|_| shows);
                let logprobs = logprobs.map(|logprobs| (token.id, logprobs));
                let mut parts = Vec::new();
                self.choices[choice].splitter.push(Some(token.id), token.text, &mut parts);
                let shows = !parts.is_empty() || logprobs.is_some();
                if shows {
                    self.due.push_back(chunk(parts, token.count, logprobs));
                }
            }
            Happened::Finished { reason, text, stats } => {
                let reason = match reason {
                    FinishReason::Stop => Reason::Stop,
                    FinishReason::Length => Reason::Length,
                    FinishReason::Context => Reason::Context,
                    _ => Reason::Time, // cancelled, which only this server can have done
                };
                self.count(choice, stats.generated, Instant::now());
                let state = &mut self.choices[choice];
                state.ended = true;
                let mut parts = Vec::new();
                state.splitter.push(None, text, &mut parts);
                state.splitter.finish(&mut parts);
                let has_called = state.splitter.has_called;
                // Text that was held back belongs to the last token, so that a count tells what was shown.
                match self.due.back_mut() {
                    Some(Update::Chunk(last))
                        if last.choice == choice && last.count == stats.generated =>
                    {
                        let parts = parts.into_iter();
                        parts.for_each(|part| parts::add(&mut last.parts, part));
                    }
                    _ if !parts.is_empty() => {
                        self.due.push_back(chunk(parts, stats.generated, None));
                    }
                    _ => {}
                }
                let stop = self.stop(choice, reason);
                let called = reason == Reason::Stop && stop.is_none() && has_called;
                let reason = if called { Reason::Calls } else { reason };
                self.due.push_back(Update::End(End { choice, reason, stop, stats: *stats }));
            }
            Happened::Failed(problem) => self.due.push_back(Update::Failed(problem)),
        }
    }

    /// The stop string at which an answer ended: the first that is complete, and the longest of these.
    fn stop(&self, choice: usize, reason: Reason) -> Option<String> {
        let tokens = &self.choices[choice].tokens;
        let ended = tokens.last().is_none_or(|&id| self.served.ends(id));
        if reason != Reason::Stop || ended || self.stops.is_empty() {
            return None;
        }
        let text = self.served.decode(tokens);
        let end = |stop: &&String| text.find(stop.as_str()).map(|at| at + stop.len());
        let stops = self.stops.iter().filter(|stop| !stop.is_empty());
        let found = stops.filter_map(|stop| Some((end(&stop)?, stop)));
        found.min_by_key(|(end, stop)| (*end, usize::MAX - stop.len())).map(|(_, s)| s.clone())
    }

    fn measure(&mut self, choice: usize, count: usize) {
        let (now, metrics) = (Instant::now(), &self.served.link.metrics);
        let state = &mut self.choices[choice];
        match state.last {
            None => metrics.first_token.observe((now - self.started).as_secs_f64()),
            Some(last) => metrics.gap.observe((now - last).as_secs_f64()),
        }
        state.last = Some(now);
        self.count(choice, count, now);
    }

    /// Counts the tokens of a choice so far.
    fn count(&mut self, choice: usize, count: usize, now: Instant) {
        let before = std::mem::replace(&mut self.choices[choice].count, count);
        if let Some(payer) = &self.payer {
            payer.pay(count - before.min(count), now);
        }
    }

    /// The time for the request is over: what has begun ends as it is.
    fn time_out(&mut self) {
        self.deadline = None;
        self.stream.end();
        if self.choices.iter().all(|choice| choice.count == 0) {
            let problem = Problem::new(
                Kind::Deadline,
                "the time limit was reached in the queue or the prompt",
            );
            self.due.push_back(Update::Failed(problem));
            return;
        }
        for (choice, state) in self.choices.iter_mut().enumerate().filter(|(_, s)| !s.ended) {
            state.ended = true;
            let (prompt_tokens, generated) = (state.prompt, state.count);
            let stats = Stats { prompt_tokens, generated, ..Stats::default() };
            let reason = Reason::Time;
            self.due.push_back(Update::End(End { choice, reason, stop: None, stats }));
        }
    }
}

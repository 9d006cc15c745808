//! When an engine is loaded: at the start, and again when it is requested after it was unloaded.

use std::time::{Duration, Instant};

use nanoinfer_engine::Batch;
use tokio::sync::oneshot;

use super::{Delivery, Happened, IDLE, Runner, Submission, batch};
use crate::problem::{Kind, Problem};

/// Seconds after which a request for a model that could not be loaded may be sent again.
const RETRY: u64 = 10;

impl Runner {
    /// Keeps the engine that was made at the start if there is room for it.
    pub(crate) fn begin(&mut self) {
        if !self.loading.place.enter_free() {
            self.batch = None;
        }
        self.report();
    }

    /// Begins a request, or lets it wait for the engine to be loaded.
    pub(super) fn receive(&mut self, submission: Submission) {
        if self.batch.is_some() && self.held.is_empty() && !self.must_leave() {
            return self.submit(submission);
        }
        let waiting = self.held.len();
        if waiting < self.loading.options.queue.max(1) {
            self.held.push_back(submission);
            return;
        }
        let problem = Problem::new(Kind::Busy, format!("{waiting} requests are waiting already"));
        let problem = problem.code("queue_full").retry_after(self.wait(waiting));
        self.refuse(submission.ticket, submission.accepted, problem);
    }

    /// Loads and unloads the engine as requests and other models demand, and begins requests if it is loaded.
    pub(super) fn settle(&mut self) {
        self.held.retain(|held| !held.cancel.is_cancelled());
        if self.batch.is_some() && self.must_leave() {
            if !self.rests() {
                return self.accept_held();
            }
            self.unload();
        }
        if self.batch.is_none() {
            if self.held.is_empty() {
                return self.loading.place.withdraw();
            }
            if !self.loading.place.enter() {
                return self.accept_held();
            }
            self.load();
        }
        while let Some(held) = self.held.pop_front() {
            self.submit(held);
        }
        if self.rests() && self.loading.load.is_some() {
            let since = *self.loading.since.get_or_insert_with(Instant::now);
            let is_over = self.loading.idle.is_some_and(|idle| since.elapsed() >= idle);
            if is_over || self.loading.is_unwanted {
                self.unload();
            }
        }
    }

    /// Whether the engine, which is loaded, is to make room for another one.
    fn must_leave(&self) -> bool {
        self.loading.load.is_some() && self.loading.place.must_leave()
    }

    /// Whether the engine has nothing to do.
    fn rests(&self) -> bool {
        let rests = self.batch.as_ref().is_none_or(Batch::is_idle);
        if rests {
            self.loading.place.rest();
        }
        rests
    }

    /// Longest wait for a command.
    pub(super) fn patience(&self) -> Duration {
        let (idle, since) = (self.loading.idle, self.loading.since);
        let left = idle.zip(since).map(|(idle, since)| idle.saturating_sub(since.elapsed()));
        match left {
            Some(left) if self.batch.is_some() => left.min(IDLE),
            _ => IDLE,
        }
    }

    /// Tells clients that their requests wait, so that their streams begin.
    fn accept_held(&mut self) {
        for accepted in self.held.iter_mut().filter_map(|held| held.accepted.take()) {
            let _ = accepted.send(Ok(())); // fails if the client has gone
        }
    }

    /// Ends a request that cannot begin.
    pub(super) fn refuse(
        &self,
        ticket: u64,
        accepted: Option<oneshot::Sender<Result<(), Problem>>>,
        problem: Problem,
    ) {
        // Either fails only if the client has gone.
        match accepted {
            Some(accepted) => drop(accepted.send(Err(problem))),
            None => {
                let what = Happened::Failed(problem);
                drop(self.passes.send(vec![Delivery { ticket, choice: 0, what }]));
            }
        }
    }

    fn unload(&mut self) {
        self.batch = None;
        (self.loading.since, self.loading.is_unwanted) = (None, false);
        self.preemptions = 0;
        self.log.line(&format!("model {:?} is unloaded", self.loading.name));
        self.report(); // so that nobody sees two engines where there is room for one
        self.loading.place.leave();
    }

    /// Loads the engine. If it fails, so do the requests that wait for it.
    fn load(&mut self) {
        let Some(load) = &self.loading.load else { return };
        let (name, start) = (self.loading.name.clone(), Instant::now());
        match load.call() {
            Ok(engines) => {
                let seams = self.loading.seams.clone();
                self.batch = Some(batch(engines, self.loading.options, Some(seams)));
                self.metrics.loads.inc();
                self.report();
                let ms = start.elapsed().as_secs_f64() * 1e3;
                self.log.line(&format!("model {name:?} is loaded again, in {ms:.1} ms"));
            }
            Err(error) => {
                self.loading.place.leave();
                self.log.line(&format!("model {name:?} cannot be loaded: {error}"));
                let message = format!("the model {name:?} cannot be loaded: {error}");
                let problem = Problem::new(Kind::Unavailable, message).code("model_not_loaded");
                let problem = problem.retry_after(RETRY);
                for held in std::mem::take(&mut self.held) {
                    self.refuse(held.ticket, held.accepted, problem.clone());
                }
            }
        }
    }
}

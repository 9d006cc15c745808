//! From the engine's thread to the answers: who receives which events, back-pressure, cancellation.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::Sender;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use nanoinfer_engine::Request;
use tokio::sync::mpsc::{self, UnboundedReceiver};
use tokio::sync::{Notify, oneshot};

use crate::metrics::EngineMetrics;
use crate::problem::Problem;
use crate::runner::{Cancel, Command, Delivery, Happened, Submission};

/// Events of an answer that can be kept, including those of the passes until a pause takes effect.
const CAPACITY: usize = 4096;

/// The connection to an engine's thread.
pub(crate) struct Link {
    commands: Sender<Command>,
    entries: Mutex<HashMap<u64, Entry>>,
    next: AtomicU64,
    /// Number of unread events at which a request pauses.
    unread: usize,
    /// Notified when the last answer ends.
    pub(crate) idle: Notify,
    pub(crate) metrics: Arc<EngineMetrics>,
}

struct Entry {
    events: mpsc::Sender<(usize, Happened)>,
    paused: Arc<AtomicBool>,
}

impl Link {
    pub(crate) fn new(
        commands: Sender<Command>,
        unread: usize,
        metrics: Arc<EngineMetrics>,
    ) -> Self {
        Self {
            commands,
            entries: Mutex::default(),
            next: AtomicU64::new(0),
            unread: unread.clamp(1, CAPACITY / 2),
            idle: Notify::new(),
            metrics,
        }
    }

    fn entries(&self) -> MutexGuard<'_, HashMap<u64, Entry>> {
        self.entries.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn send(&self, command: Command) {
        let _ = self.commands.send(command); // fails if the engine has failed, which clients are told
    }

    /// Number of answers in progress.
    pub(crate) fn answers(&self) -> usize {
        self.entries().len()
    }

    /// Submits requests, whose events come from the returned stream.
    ///
    /// # Errors
    /// The queue is full, or the engine has failed.
    pub(crate) async fn submit(
        self: &Arc<Self>,
        requests: Vec<Request>,
    ) -> Result<Stream, Problem> {
        let (mut stream, accepted) = self.begin(requests);
        stream.accept(accepted.await)?;
        Ok(stream)
    }

    /// Submits requests without waiting: [`Stream::accept`] takes what comes from the receiver.
    pub(crate) fn begin(
        self: &Arc<Self>,
        requests: Vec<Request>,
    ) -> (Stream, oneshot::Receiver<Result<(), Problem>>) {
        let ticket = self.next.fetch_add(1, Ordering::Relaxed);
        let (events, receiver) = mpsc::channel(CAPACITY);
        let (accepted, answer) = oneshot::channel();
        let (cancel, paused) = (Arc::new(Cancel::default()), Arc::new(AtomicBool::new(false)));
        self.entries().insert(ticket, Entry { events, paused: Arc::clone(&paused) });
        let stream = Stream {
            link: Arc::clone(self),
            ticket,
            events: receiver,
            cancel: Arc::clone(&cancel),
            paused,
            left: requests.len(),
        };
        // From here on, dropping the stream cancels the requests.
        let accepted = Some(accepted);
        self.send(Command::Submit(Submission { ticket, cancel, requests, accepted }));
        (stream, answer)
    }

    /// Ends all answers with a problem.
    pub(crate) fn end_all(&self, problem: &Problem) {
        for entry in self.entries().values() {
            // Fails if so many events are unread that the client would not read this one.
            let _ = entry.events.try_send((0, Happened::Failed(problem.clone())));
        }
    }

    fn deliver(&self, Delivery { ticket, choice, what }: Delivery) {
        let mut entries = self.entries();
        let Some(entry) = entries.get(&ticket) else { return };
        if entry.events.try_send((choice, what)).is_err() {
            entries.remove(&ticket); // ends the stream
            return;
        }
        let unread = CAPACITY - entry.events.capacity();
        if unread >= self.unread && !entry.paused.swap(true, Ordering::Relaxed) {
            self.send(Command::Pause { ticket, paused: true });
        }
    }
}

/// Distributes the events of passes until the engine's thread ends.
pub(crate) async fn distribute(link: Arc<Link>, mut passes: UnboundedReceiver<Vec<Delivery>>) {
    while let Some(deliveries) = passes.recv().await {
        deliveries.into_iter().for_each(|delivery| link.deliver(delivery));
    }
    link.end_all(&Problem::engine_gone());
}

/// The events of the requests of a ticket. Dropping it cancels those that have not ended.
pub(crate) struct Stream {
    link: Arc<Link>,
    ticket: u64,
    events: mpsc::Receiver<(usize, Happened)>,
    cancel: Arc<Cancel>,
    paused: Arc<AtomicBool>,
    /// Number of choices that have not ended.
    left: usize,
}

impl Stream {
    /// Whether the requests were accepted; an error of the receiver means that there is no engine any more.
    pub(crate) fn accept(
        &mut self,
        accepted: Result<Result<(), Problem>, oneshot::error::RecvError>,
    ) -> Result<(), Problem> {
        let accepted = accepted.unwrap_or_else(|_| Err(Problem::engine_gone()));
        if accepted.is_err() {
            self.left = 0; // nothing to cancel
        }
        accepted
    }

    /// The next event with its choice; `None` after the last.
    pub(crate) async fn next(&mut self) -> Option<(usize, Happened)> {
        if self.left == 0 {
            return None;
        }
        let next = self.events.recv().await;
        Some(self.received(next))
    }

    /// The next event if it is already here.
    pub(crate) fn try_next(&mut self) -> Option<(usize, Happened)> {
        if self.left == 0 {
            return None;
        }
        let next = self.events.try_recv().ok()?;
        Some(self.received(Some(next)))
    }

    fn received(&mut self, next: Option<(usize, Happened)>) -> (usize, Happened) {
        let unread = self.events.len();
        if unread <= self.link.unread / 2 && self.paused.swap(false, Ordering::Relaxed) {
            self.link.send(Command::Pause { ticket: self.ticket, paused: false });
        }
        let lost = || (0, Happened::Failed(Problem::engine_gone()));
        let next = next.unwrap_or_else(lost);
        match next.1 {
            Happened::Finished { .. } => self.left -= 1,
            Happened::Failed(_) => self.end(),
            Happened::Prefill { .. } | Happened::Prompt(_) | Happened::Token(_) => {}
        }
        next
    }

    /// Cancels what has not ended.
    pub(crate) fn end(&mut self) {
        if self.left > 0 {
            self.left = 0;
            self.cancel.cancel();
            self.link.send(Command::Wake);
        }
    }

    /// Whether nothing follows.
    pub(crate) fn is_over(&self) -> bool {
        self.left == 0
    }
}

impl Drop for Stream {
    fn drop(&mut self) {
        if self.left > 0 {
            self.link.metrics.cancelled.inc();
        }
        self.end();
        let mut entries = self.link.entries();
        entries.remove(&self.ticket);
        if entries.is_empty() {
            self.link.idle.notify_waiters();
        }
    }
}

//! A thread that does one job after the other.

use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::mpsc::{Sender, channel};
use std::sync::{Mutex, PoisonError};
use std::thread;

/// Stack of the thread: parsers are recursive, see [`crate::levels`].
const STACK: usize = 128 << 20;

type Job = Box<dyn FnOnce() + Send>;

/// A thread for work that needs a large stack, or leaves memory behind: allocators give every thread memory
/// of its own and keep what is freed there, so that the same work on many threads takes many times as much.
#[derive(Default)]
pub(crate) struct Worker(Mutex<Option<Sender<Job>>>);

impl Worker {
    /// Does some work, after what was given before, and returns its value; `None` if it panicked.
    ///
    /// # Errors
    /// The thread cannot be started.
    pub(crate) fn run<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> io::Result<Option<T>> {
        let (done, value) = channel();
        let job = move || {
            let value = catch_unwind(AssertUnwindSafe(work)).ok();
            let _ = done.send(value); // the caller waits for it
        };
        // Without a thread, no value will come.
        let _ = self.jobs()?.send(Box::new(job));
        Ok(value.recv().ok().flatten())
    }

    /// Where the thread takes its jobs from. It ends when nobody can give it any.
    fn jobs(&self) -> io::Result<Sender<Job>> {
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(jobs) = &*known {
            return Ok(jobs.clone());
        }
        let (sender, jobs) = channel::<Job>();
        let thread = thread::Builder::new().name("grammars".to_owned()).stack_size(STACK);
        thread.spawn(move || jobs.into_iter().for_each(|job| job()))?;
        *known = Some(sender.clone());
        Ok(sender)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_jobs_have_the_same_thread() {
        let worker = Worker::default();
        let id = || worker.run(|| thread::current().id()).unwrap();
        let first = id();
        assert!(first.is_some_and(|id| id != thread::current().id()));
        let others: Vec<_> = thread::scope(|scope| {
            let threads: Vec<_> = (0..8).map(|_| scope.spawn(id)).collect();
            threads.into_iter().map(|thread| thread.join().unwrap()).collect()
        });
        assert_eq!(others, [first; 8]);
        assert_eq!(worker.run(|| -> u8 { panic!("as it should") }).unwrap(), None);
        assert_eq!(id(), first);
    }
}

//! A step: a pass, the draws from its logits, and the events of both.

use std::time::Instant;

use super::request::Work;
use super::{Batch, Events};
use crate::{Error, Event, FinishReason, Sequence, Stats};

impl Batch {
    /// Does the next unit of work for all requests: admits waiting ones, runs one pass and draws from it.
    /// Returns what happened. Cheap if there is nothing to do.
    ///
    /// Allocates only when it admits a request, or records the answer to a conversation.
    ///
    /// # Errors
    /// The engine has failed; all requests are lost. What concerns a single request is an event.
    pub fn step(&mut self) -> Result<Events<'_>, Error> {
        self.events.clear();
        self.drop_cancelled()?;
        self.finish()?;
        self.exchange(false)?;
        self.admit()?;
        let start = Instant::now();
        if self.run_pass()? {
            self.collect();
            while self.sequences.iter().any(Sequence::has_row) {
                self.engines.draw(&mut self.sequences)?;
                self.collect();
            }
            self.account(start.elapsed().as_secs_f64() * 1e3);
        } else {
            self.exchange(true)?;
        }
        self.finish()?;
        Ok(self.events.iter())
    }

    /// Does the next unit of work for the sequence of a session: a draw from the last pass if that has
    /// an unused row, otherwise a pass and the first draw from it. The sequence has the event.
    pub(crate) fn step_session(&mut self) -> Result<(), Error> {
        let Self { engines, sequences, .. } = self;
        let sequence = &mut sequences[0];
        if !sequence.has_row() && (sequence.conclude(engines)? || !self.run_pass()?) {
            return Ok(());
        }
        self.engines.draw(&mut self.sequences)
    }

    /// Plans and runs a pass. Returns false if there was nothing to do, or all of it was cancelled.
    fn run_pass(&mut self) -> Result<bool, Error> {
        self.plan()?;
        if self.batch.is_empty() {
            return Ok(false);
        }
        let start = Instant::now();
        let pass = match self.engines.target.forward(&self.batch) {
            Ok(pass) => pass,
            Err(Error::Cancelled) => return Ok(false), // all of its requests were
            Err(e) => return Err(e),
        };
        self.forward_ms = start.elapsed().as_secs_f64() * 1e3;
        for sequence in &mut self.sequences {
            sequence.passed(&mut self.engines, pass)?;
        }
        Ok(true)
    }

    /// Moves the events of all sequences to the buffer.
    fn collect(&mut self) {
        for (job, sequence) in self.running.iter().zip(&mut self.sequences) {
            self.events.take(job.id, sequence);
            self.events.take_values(job.id, sequence);
        }
    }

    /// Charges the time of a pass to those who took part.
    fn account(&mut self, ms: f64) {
        let positions = self.running.iter().map(|job| job.positions).sum();
        self.costs.observe(self.batch.len(), positions, ms);
        let predicted = self.costs.predict(self.batch.len(), positions).unwrap_or(ms);
        self.clock += if self.costs.is_given() { predicted } else { ms };
        let sequences = self.running.iter().filter(|job| job.rows > 0).count();
        for job in self.running.iter().filter(|job| job.rows > 0) {
            self.served[job.class as usize] = self.clock;
            self.accounts.charge(job.key, self.costs.share(job.rows, job.positions, sequences));
        }
    }

    /// Removes the requests whose answers are complete or cancelled.
    fn finish(&mut self) -> Result<(), Error> {
        for i in (0..self.sequences.len()).rev() {
            let sequence = &mut self.sequences[i];
            if !sequence.conclude(&mut self.engines)? {
                continue;
            }
            let (job, mut sequence) = (self.running.swap_remove(i), self.sequences.swap_remove(i));
            self.accounts.run(job.key, false);
            self.accounts.leave(job.key);
            self.events.take(job.id, &mut sequence);
            if let Some(chat) = &job.chat {
                let (text, tokens) = sequence.answered();
                self.seams.of(job.namespace).record(chat, text, tokens);
            }
            self.drafts.add(sequence.take_outcomes());
            if sequence.has_answer() {
                self.keep(&job, sequence.tokens())?;
            }
            sequence.close(&mut self.engines)?;
        }
        Ok(())
    }

    /// Removes cancelled requests that wait.
    fn drop_cancelled(&mut self) -> Result<(), Error> {
        for i in (0..self.waiting.len()).rev() {
            if !self.waiting[i].0.canceller.is_cancelled() {
                continue;
            }
            let (job, work) = self.waiting.swap_remove(i);
            self.accounts.leave(job.key);
            match work {
                Work::New(_) => {
                    let reason = FinishReason::Cancelled;
                    let event = Event::Finished { reason, text: "", bytes: &[] };
                    self.events.push(job.id, Ok(event), Stats::default());
                }
                Work::Parked(mut sequence) => {
                    sequence.conclude(&mut self.engines)?;
                    self.events.take(job.id, &mut sequence);
                    sequence.discard(&mut self.engines);
                }
            }
        }
        Ok(())
    }
}

//! Who runs: admission by blocks of the cache, and preemption.
//!
//! A request is admitted if the cache has room for its prompt and the beginning of its answer, besides
//! what the running requests were admitted for. If it is more urgent than a running one, or its key
//! has fewer running ones, these make room for it. What a preempted sequence has computed stays in the
//! cache for as long as there is space.

use std::cmp::Reverse;

use nanoinfer_kernels::BLOCK;

use super::Batch;
use super::request::{Job, Work};
use crate::{Error, Sequence};

/// Shorter common beginnings are not worth waiting for.
const WORTH_FOLLOWING: usize = BLOCK;

impl Batch {
    /// Admits waiting requests as long as the next in line fits. Nobody overtakes it, so that large
    /// requests are not passed over forever.
    pub(super) fn admit(&mut self) -> Result<(), Error> {
        while let Some(at) = self.next_in_line() {
            if !self.fits(at)? && self.victim_for(&self.waiting[at].0).is_none() {
                return Ok(());
            }
            if self.recall(at)? {
                continue;
            }
            while !self.fits(at)? {
                let Some(victim) = self.victim_for(&self.waiting[at].0) else { return Ok(()) };
                self.park(victim)?;
            }
            self.begin(at)?;
        }
        Ok(())
    }

    /// Checks that one more request of a key may wait.
    pub(super) fn check_queue(&self, key: u64) -> Result<(), Error> {
        let waiting = self.load().waiting;
        if waiting >= self.options.queue {
            return Err(Error::QueueFull { waiting });
        }
        let new = |(job, work): &&(Job, Work)| job.key == key && matches!(work, Work::New(_));
        let waiting = self.waiting.iter().filter(new).count();
        let free = self.slots - self.running.len();
        if waiting >= self.options.queue_per_key.saturating_add(free) {
            return Err(Error::KeyQueueFull { waiting });
        }
        Ok(())
    }

    /// The urgency of a waiting request: its class, one higher for each `aging_ms` in which the class got
    /// no time.
    fn rank(&self, job: &Job) -> i64 {
        let starved = self.clock - self.served[job.class as usize];
        let aged = job.class as i64 - (starved / self.options.aging_ms) as i64;
        job.rank.min(aged.max(0))
    }

    /// The waiting request that is admitted next: the most urgent one, of the key that was given the
    /// least time.
    fn next_in_line(&self) -> Option<usize> {
        let before = |a: &Job, b: &Job| {
            let rank = |job: &Job| self.rank(job);
            let (paid, running) =
                (|j: &Job| self.accounts.paid(j.key), |j: &Job| self.accounts.running(j.key));
            (rank(a).cmp(&rank(b)))
                .then(paid(a).total_cmp(&paid(b)))
                .then(running(a).cmp(&running(b)))
                .then(a.id.cmp(&b.id))
        };
        let jobs = self.waiting.iter().map(|(job, _)| job).enumerate();
        let jobs = jobs.filter(|(_, job)| !job.paused && !self.is_recalling(job));
        jobs.min_by(|(_, a), (_, b)| before(a, b)).map(|(at, _)| at)
    }

    /// Whether there is room for a waiting request.
    fn fits(&self, at: usize) -> Result<bool, Error> {
        if self.running.len() == self.slots {
            return Ok(false);
        }
        if self.running.is_empty() {
            return Ok(true); // nobody can make more room
        }
        // What running requests hold takes no room; what is only cached does. The last token is always
        // processed again, and its block copied.
        let (job, work) = &self.waiting[at];
        let held = self.engine().held_blocks(job.namespace, work.reusable())?;
        let needed = self.blocks_of(work).saturating_sub(held);
        Ok(needed + self.set_aside()? <= self.engine().kv_blocks().1)
    }

    fn blocks_of(&self, work: &Work) -> usize {
        work.blocks(self.limit()).min(self.blocks.1)
    }

    /// Number of blocks for which running requests were admitted, but which they do not hold yet.
    fn set_aside(&self) -> Result<usize, Error> {
        let jobs = self.running.iter().zip(&self.sequences);
        jobs.map(|(job, sequence)| {
            let held = self.engine().len(sequence.id())?.div_ceil(BLOCK);
            Ok(job.blocks.saturating_sub(held))
        })
        .sum()
    }

    /// The running request to preempt in favour of a waiting one: a paused or less urgent one, or one of a
    /// key that would still run at least as many.
    fn victim_for(&self, job: &Job) -> Option<usize> {
        let runs = |key| self.accounts.running(key);
        let rank = self.rank(job);
        let yields = |other: &&Job| {
            let unfair = other.rank == rank && runs(other.key) >= runs(job.key) + 2;
            other.rank > rank || unfair || other.paused
        };
        let victims = self.running.iter().filter(yields);
        let victim =
            victims.max_by_key(|other| (other.paused, other.rank, runs(other.key), other.id))?.id;
        self.running.iter().position(|other| other.id == victim)
    }

    /// The running request to preempt if running ones need more room than there is: the youngest of the
    /// least urgent. The oldest of the most urgent always gets on.
    pub(super) fn least_urgent(&self) -> Option<usize> {
        let all = self.running.iter().enumerate();
        all.max_by_key(|(_, job)| (job.paused, job.rank, job.id)).map(|(at, _)| at)
    }

    /// Preempts a running request.
    pub(super) fn park(&mut self, at: usize) -> Result<(), Error> {
        let (mut job, mut sequence) =
            (self.running.swap_remove(at), self.sequences.swap_remove(at));
        sequence.park(&mut self.engines)?;
        self.accounts.run(job.key, false);
        (job.starved, job.leader) = (0, None);
        self.waiting.push((job, Work::Parked(sequence)));
        self.preemptions += 1;
        Ok(())
    }

    /// Moves a request from waiting to running.
    fn begin(&mut self, at: usize) -> Result<(), Error> {
        let (blocks, rank) = (self.blocks_of(&self.waiting[at].1), self.rank(&self.waiting[at].0));
        let limit = self.limit();
        let (mut job, work) = self.waiting.swap_remove(at);
        let engines = &mut self.engines;
        let mut sequence = match work {
            Work::New(request) => {
                let mut sequence =
                    Sequence::open_for(engines, job.namespace, request.tokens(limit))?;
                for other in &mut self.sequences {
                    self.drafts.add(other.take_outcomes());
                }
                sequence.expect_drafts(&self.drafts);
                if let Some(output) = request.output {
                    sequence.set_output(engines, output, request.prompt.len());
                }
                sequence.prompt_tokens(engines, &request.prompt)?;
                sequence.set_answer_follows(request.answer_follows);
                sequence.start(engines, request.options)?;
                if let Some(constraint) = request.constraint {
                    sequence.set_constraint(constraint);
                }
                sequence.set_canceller(engines, job.canceller.clone())?;
                sequence
            }
            Work::Parked(mut sequence) => {
                sequence.resume(engines)?;
                sequence
            }
        };
        self.notes.append(&mut sequence.take_notes());
        (job.blocks, job.rank) = (blocks, rank);
        job.leader = self.leader(&job, &sequence)?;
        self.accounts.run(job.key, true);
        self.running.push(job);
        self.sequences.push(sequence);
        self.admissions += 1;
        Ok(())
    }

    /// The running request, still being processed, whose prompt shares the longest beginning with what a new
    /// sequence can reuse, and the number of tokens to take over once they are computed.
    fn leader(
        &self,
        job: &Job,
        new: &Sequence,
    ) -> Result<Option<(super::RequestId, usize)>, Error> {
        let tokens = &new.tokens()[..new.reusable()];
        let common = |other: &Sequence| {
            tokens.iter().zip(other.tokens()).take_while(|(a, b)| a == b).count()
        };
        let leads = |other: &Job, s: &Sequence| {
            s.is_prefilling() && other.namespace.is_seen_from(job.namespace)
        };
        let others = self.running.iter().zip(&self.sequences).filter(|(j, s)| leads(j, s));
        let all = others.map(|(job, other)| (common(other), Reverse(job.id)));
        let cached = self.engine().len(new.id())?;
        let best = all.max().filter(|(common, _)| *common >= cached + WORTH_FOLLOWING);
        Ok(best.map(|(common, Reverse(id))| (id, common)))
    }
}

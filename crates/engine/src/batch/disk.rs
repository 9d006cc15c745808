//! The disk below the cache: what a leaving request has computed is written, and what is stored of a
//! prompt is read before its request is admitted. Passes go on meanwhile.

use nanoinfer_kernels::BLOCK;

use super::Batch;
use super::request::Job;
use crate::prefix::Disk;
use crate::{Error, PrefixStore};

/// Minimum number of tokens of a context that is worth writing, unless it is the beginning of a
/// conversation's next prompt.
const WORTH_WRITING: usize = 512;

impl Batch {
    /// Sets the store in which prompts are looked up, and to which contexts are written: long ones, and
    /// those that end with an answer to a conversation, unless they exceed its limit. Entries that other
    /// processes write later are not seen.
    ///
    /// Neither delays anybody but the request whose prompt is being read: files are read and written by
    /// other threads, and [`Self::step`] only copies blocks. [`Self::is_idle`] includes what remains to be
    /// written.
    pub fn set_store(&mut self, store: Option<PrefixStore>) {
        self.disk = None;
        let Some(store) = store else { return };
        match Disk::new(store, &self.engines.target) {
            Ok((disk, notes)) => {
                self.disk = Some(disk);
                self.notes.extend(notes);
            }
            Err(e) => {
                self.notes.push(format!("stored prompts are not used: cannot start a thread: {e}"))
            }
        }
    }

    /// Copies blocks to and from the disk's buffers; if `wait`, waits a moment for the disk.
    pub(super) fn exchange(&mut self, wait: bool) -> Result<(), Error> {
        match &mut self.disk {
            Some(disk) => disk.exchange(&mut self.engines.target, wait, &mut self.notes),
            None => Ok(()),
        }
    }

    /// Begins to read what is stored of a waiting request's prompt. Returns whether there is something,
    /// so that the request is to be admitted later.
    pub(super) fn recall(&mut self, at: usize) -> Result<bool, Error> {
        let Self { disk: Some(disk), waiting, engines, .. } = self else { return Ok(false) };
        let (job, work) = &mut waiting[at];
        if std::mem::replace(&mut job.recalled, true)
            || !disk.knows_more(&engines.target, (job.namespace, work.recallable()))?
        {
            return Ok(false);
        }
        disk.read(job.id.0, (job.namespace, work.recallable()));
        Ok(true)
    }

    /// Whether a waiting request's prompt is being read.
    pub(super) fn is_recalling(&self, job: &Job) -> bool {
        self.disk.as_ref().is_some_and(|disk| disk.is_pending(job.id.0))
    }

    /// Writes the context of a request that has left, if it is worth it.
    pub(super) fn keep(&mut self, job: &Job, tokens: &[u32]) -> Result<(), Error> {
        let Some(disk) = &mut self.disk else { return Ok(()) };
        let n = self.engines.target.known_blocks(job.namespace, tokens)? * BLOCK;
        if n >= WORTH_WRITING || n > 0 && job.chat.is_some() {
            disk.write((job.namespace, &tokens[..n]));
        }
        Ok(())
    }
}

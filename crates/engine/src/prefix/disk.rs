//! A store below the cache: contexts are written when their requests leave, and read before others are
//! admitted, while passes go on.
//!
//! Files are the business of two threads. The engine's thread copies blocks between the cache and their
//! buffers, between passes and never more than there are buffers. It knows the tokens of all entries, so
//! looking for one costs no access to the disk. Contexts that wait to be written are dropped if there are
//! too many, or when the cache needs their space: nothing waits for the disk but the request whose context
//! is being read.

use std::collections::VecDeque;
use std::fmt;
use std::path::PathBuf;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use nanoinfer_kernels::BLOCK;

use super::Kind;
use super::store::PrefixStore;
use super::threads::{Context, Ending, ReadJob, Reply, WriteJob, read_entries, write_entries};
use crate::memory::common;
use crate::{Engine, Error, Namespace};

/// Bytes of blocks that are on their way to and from the disk, at most.
const READ_BYTES: usize = 16 << 20;
const WRITE_BYTES: usize = 8 << 20;
/// Maximum number of contexts that wait to be written.
const MAX_WAITING: usize = 16;
/// How long a step without a pass waits for the threads.
const WAIT: Duration = Duration::from_millis(1);

/// An entry of the store.
struct Entry {
    path: PathBuf,
    context: Context,
    /// For each block, whether a state follows it; `None` without recurrent layers.
    states: Option<Vec<bool>>,
}

impl Entry {
    /// Number of full blocks that it shares with the beginning of a context, up to the last state if these are
    /// needed.
    fn common(&self, (namespace, tokens): (Namespace, &[u32])) -> usize {
        if self.context.0 != namespace {
            return 0;
        }
        common(&self.context.1, self.states.as_deref(), tokens) / BLOCK
    }

    /// Whether a context continues it, or is the same.
    fn begins(&self, (namespace, tokens): &Context) -> bool {
        self.context.0 == *namespace && tokens.starts_with(&self.context.1)
    }
}

/// A context that is being read or written, and its next block.
struct Transfer {
    /// Who waits for it to be read.
    ticket: u64,
    path: PathBuf,
    context: Context,
    next: usize,
    /// For each block that was sent, whether a state followed it.
    states: Vec<bool>,
}

/// A store that serves an engine without delaying its passes.
pub(crate) struct Disk {
    store: PrefixStore,
    kind: Kind,
    entries: Vec<Entry>,
    /// The contexts to read, by who waits for them.
    to_read: VecDeque<(u64, Context)>,
    reading: Option<Transfer>,
    to_write: VecDeque<Context>,
    writing: Option<Transfer>,
    /// Empty buffers for blocks to write.
    buffers: Vec<Vec<u8>>,
    threads: Option<Threads>,
}

/// The threads end when these channels are dropped.
struct Threads {
    read: Sender<ReadJob>,
    read_buffers: Sender<Vec<u8>>,
    write: Sender<WriteJob>,
    replies: Receiver<Reply>,
    handles: [JoinHandle<()>; 2],
}

impl Threads {
    fn start(store: PrefixStore, kind: Kind) -> Result<Self, std::io::Error> {
        let (read, read_jobs) = channel();
        let (read_buffers, empty) = channel();
        let (write, write_jobs) = channel();
        let (to_engine, replies) = channel();
        let (reader, writer) = (Ending(to_engine.clone()), Ending(to_engine));
        let named = |name: &str| thread::Builder::new().name(name.to_owned());
        let reader = named("store reader").spawn(move || {
            read_entries(&kind, &read_jobs, &empty, &reader.0);
        })?;
        let writer = named("store writer").spawn(move || {
            write_entries(&store, &kind, &write_jobs, &writer.0);
        })?;
        for _ in 0..buffers(READ_BYTES, &kind) {
            let _ = read_buffers.send(Vec::new()); // the reader has just been started
        }
        Ok(Self { read, read_buffers, write, replies, handles: [reader, writer] })
    }
}

/// Number of buffers for blocks of this kind.
fn buffers(bytes: usize, kind: &Kind) -> usize {
    (bytes / (kind.block + kind.state).max(1)).clamp(2, 64)
}

impl Disk {
    /// Starts to use a store. Also returns notes on its unusable entries.
    ///
    /// # Errors
    /// The threads cannot be started.
    pub(crate) fn new(
        store: PrefixStore,
        engine: &Engine,
    ) -> Result<(Self, Vec<String>), std::io::Error> {
        let kind = Kind::of(engine);
        let (entries, notes) = store.list(&kind);
        let entry = |(path, prefix): (_, crate::memory::Prefix)| Entry {
            path,
            context: (prefix.namespace, prefix.tokens.into()),
            states: (kind.state > 0).then_some(prefix.states),
        };
        let disk = Self {
            kind,
            entries: entries.into_iter().map(entry).collect(),
            to_read: VecDeque::new(),
            reading: None,
            to_write: VecDeque::with_capacity(MAX_WAITING),
            writing: None,
            buffers: (0..buffers(WRITE_BYTES, &kind)).map(|_| Vec::new()).collect(),
            threads: Some(Threads::start(store.clone(), kind)?),
            store,
        };
        Ok((disk, notes))
    }

    /// The entry that has the most blocks of a context, and their number, if the cache has fewer. The last
    /// token is always processed.
    fn find(
        &self,
        engine: &Engine,
        (namespace, tokens): (Namespace, &[u32]),
    ) -> Result<Option<(usize, usize)>, Error> {
        let most = tokens.len().saturating_sub(1).min(engine.ctx()) / BLOCK;
        let common = |e: &Entry| e.common((namespace, tokens)).min(most);
        let all = self.entries.iter().map(common).enumerate();
        let Some((at, blocks)) = all.max_by_key(|(_, blocks)| *blocks) else { return Ok(None) };
        Ok((blocks > engine.known_blocks(namespace, tokens)?).then_some((at, blocks)))
    }

    /// Whether reading an entry would make more of a context known.
    pub(crate) fn knows_more(
        &self,
        engine: &Engine,
        context: (Namespace, &[u32]),
    ) -> Result<bool, Error> {
        Ok(self.find(engine, context)?.is_some())
    }

    /// Begins to read the beginning of a context. Done when `ticket` is no longer
    /// [pending](Self::is_pending).
    pub(crate) fn read(&mut self, ticket: u64, (namespace, tokens): (Namespace, &[u32])) {
        self.to_read.push_back((ticket, (namespace, tokens.into())));
    }

    /// Whether something is still being read for `ticket`.
    pub(crate) fn is_pending(&self, ticket: u64) -> bool {
        self.reading.as_ref().is_some_and(|r| r.ticket == ticket)
            || self.to_read.iter().any(|(waiting, _)| *waiting == ticket)
    }

    /// Writes the cached blocks of a context, unless they are stored already. Drops it if too many others
    /// wait.
    pub(crate) fn write(&mut self, (namespace, tokens): (Namespace, &[u32])) {
        let begins = |a: &[u32], b: &[u32]| b.starts_with(a);
        if self.to_write.iter().any(|(ns, waiting)| *ns == namespace && begins(tokens, waiting)) {
            return;
        }
        self.to_write.retain(|(ns, waiting)| *ns != namespace || !begins(waiting, tokens));
        if self.to_write.len() < MAX_WAITING {
            self.to_write.push_back((namespace, tokens.into()));
        }
    }

    /// Whether nothing is to be read or written.
    pub(crate) fn is_idle(&self) -> bool {
        self.reading.is_none()
            && self.writing.is_none()
            && self.to_read.is_empty()
            && self.to_write.is_empty()
    }

    /// Copies the blocks that are ready, in either direction; if `wait`, waits a moment for the first one.
    /// Appends notes on entries that cannot be used or written.
    pub(crate) fn exchange(
        &mut self,
        engine: &mut Engine,
        wait: bool,
        notes: &mut Vec<String>,
    ) -> Result<(), Error> {
        self.begin_reading(engine)?;
        self.begin_writing(engine)?;
        let most = buffers(READ_BYTES, &self.kind) + buffers(WRITE_BYTES, &self.kind);
        for i in 0..most {
            self.send_blocks(engine)?;
            let Some(threads) = &self.threads else { return Ok(()) };
            if self.reading.is_none() && self.writing.is_none() {
                return Ok(());
            }
            let waited = if wait && i == 0 { WAIT } else { Duration::ZERO };
            match threads.replies.recv_timeout(waited) {
                Ok(reply) => self.handle(engine, reply, notes)?,
                Err(RecvTimeoutError::Timeout) => return Ok(()),
                Err(RecvTimeoutError::Disconnected) => self.give_up(),
            }
        }
        Ok(())
    }

    /// Lets requests go on without the store.
    fn give_up(&mut self) {
        (self.threads, self.reading, self.writing) = (None, None, None);
        self.to_read.clear();
        self.to_write.clear();
        self.entries.clear();
    }

    /// Begins to read the next context, unless another one is being read.
    fn begin_reading(&mut self, engine: &Engine) -> Result<(), Error> {
        while self.reading.is_none() {
            let Some((ticket, (namespace, tokens))) = self.to_read.pop_front() else {
                return Ok(());
            };
            // An earlier context may have had the same beginning.
            let Some((at, end)) = self.find(engine, (namespace, &tokens))? else { continue };
            let (entry, next) = (&self.entries[at], engine.known_blocks(namespace, &tokens)?);
            let (path, context) = (entry.path.clone(), entry.context.clone());
            let job = ReadJob { path: path.clone(), context: context.clone(), blocks: next..end };
            if self.threads.as_ref().is_some_and(|threads| threads.read.send(job).is_ok()) {
                self.reading = Some(Transfer { ticket, path, context, next, states: Vec::new() });
            }
        }
        Ok(())
    }

    /// Begins to write the next context that is not stored, unless another one is being written.
    fn begin_writing(&mut self, engine: &Engine) -> Result<(), Error> {
        let Some(threads) = &self.threads else { return Ok(()) };
        while self.writing.is_none() {
            let Some(context) = self.to_write.pop_front() else { return Ok(()) };
            let (namespace, tokens) = (context.0, &*context.1);
            let blocks = tokens.len() / BLOCK;
            let has_all = |entry: &&Entry| entry.common((namespace, tokens)) == blocks;
            let stored = self.entries.iter().find(has_all);
            if let Some(entry) = stored {
                let _ = threads.write.send(WriteJob::Touch(entry.path.clone()));
                continue;
            }
            if engine.known_blocks(namespace, tokens)? < blocks
                || !self.store.admits(self.bytes(engine, (namespace, tokens)))
            {
                continue;
            }
            let replaced = self.entries.iter().filter(|entry| entry.begins(&context));
            let path = self.store.path(&self.kind, (namespace, tokens));
            let replaces = replaced.map(|entry| entry.path.clone()).collect();
            let job = WriteJob::Begin { context: context.clone(), path: path.clone(), replaces };
            if threads.write.send(job).is_ok() {
                let states = Vec::with_capacity(blocks);
                self.writing = Some(Transfer { ticket: 0, path, context, next: 0, states });
            }
        }
        Ok(())
    }

    /// Bytes of the entry of a context.
    fn bytes(&self, engine: &Engine, (namespace, tokens): (Namespace, &[u32])) -> u64 {
        let blocks = (tokens.len() / BLOCK * self.kind.block) as u64;
        blocks + engine.cache().known_states(namespace, tokens)
    }

    /// Sends copies of the next blocks to the writer, as many as there are buffers.
    fn send_blocks(&mut self, engine: &mut Engine) -> Result<(), Error> {
        let (Some(transfer), Some(threads)) = (&mut self.writing, &self.threads) else {
            return Ok(());
        };
        let context = (transfer.context.0, &*transfer.context.1);
        let blocks = context.1.len() / BLOCK;
        while transfer.next < blocks {
            let Some(mut bytes) = self.buffers.pop() else { return Ok(()) };
            bytes.clear();
            if engine.cache_mut().copy_known(context, transfer.next, &mut bytes) {
                transfer.next += 1;
                transfer.states.push(bytes.len() > self.kind.block);
                let _ = threads.write.send(WriteJob::Block(bytes)); // its end is noticed by `exchange`
                if transfer.next == blocks {
                    let _ = threads.write.send(WriteJob::End);
                }
            } else {
                self.buffers.push(bytes);
                transfer.next = blocks;
                let _ = threads.write.send(WriteJob::Abandon);
            }
        }
        Ok(())
    }

    fn handle(
        &mut self,
        engine: &mut Engine,
        reply: Reply,
        notes: &mut Vec<String>,
    ) -> Result<(), Error> {
        match reply {
            Reply::Block(bytes) => {
                if let Some(transfer) = &mut self.reading {
                    // Without room, the rest is read in vain.
                    let context = (transfer.context.0, &*transfer.context.1);
                    engine.cache_mut().add_known(context, transfer.next, &bytes);
                    transfer.next += 1;
                }
                if let Some(threads) = &self.threads {
                    let _ = threads.read_buffers.send(bytes);
                }
            }
            Reply::Read(read) => {
                let ended = self.reading.take();
                if let (Some(transfer), Err(note)) = (ended, read) {
                    self.entries.retain(|entry| entry.path != transfer.path);
                    notes.extend(note);
                }
                self.begin_reading(engine)?;
            }
            Reply::Buffer(bytes) => self.buffers.push(bytes),
            Reply::Written(written) => {
                let ended = self.writing.take();
                match (ended, written) {
                    (Some(Transfer { path, context, states, .. }), Ok(Some(removed))) => {
                        let states = (self.kind.state > 0).then_some(states);
                        self.entries.push(Entry { path, context, states });
                        self.entries.retain(|entry| !removed.contains(&entry.path));
                    }
                    (_, Err(note)) => notes.push(note),
                    (_, Ok(_)) => {}
                }
                self.begin_writing(engine)?;
            }
            Reply::Ended => self.give_up(),
        }
        Ok(())
    }
}

impl Drop for Disk {
    /// Ends the threads; an entry of which all blocks were sent is still written.
    fn drop(&mut self) {
        let Some(Threads { read, read_buffers, write, replies, handles }) = self.threads.take()
        else {
            return;
        };
        drop((read, read_buffers, write, replies));
        for handle in handles {
            let _ = handle.join(); // a panic has been reported
        }
    }
}

impl fmt::Debug for Disk {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Disk")
            .field("store", &self.store)
            .field("entries", &self.entries.len())
            .field("waiting", &(self.to_read.len(), self.to_write.len()))
            .finish_non_exhaustive()
    }
}

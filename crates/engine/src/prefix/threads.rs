//! The threads that read and write a store's entries, block by block.
//!
//! ```text
//!            jobs, empty buffers                       blocks of a context
//! engine ──────────────────────────► reader   engine ──────────────────────► writer
//!        ◄──────────────────────────                 ◄──────────────────────
//!          verified blocks, a result                   empty buffers, a result
//! ```
//!
//! The number of buffers bounds memory: whoever has none waits.

use std::collections::VecDeque;
use std::fs::File;
use std::io::{self, BufReader, ErrorKind, Seek, SeekFrom, Write};
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender};

use nanoinfer_kernels::BLOCK;

use super::store::{PrefixStore, ignored, touch};
use super::{Kind, head};
use crate::Namespace;
use crate::memory::{Prefix, head_bytes};

/// A namespace, and tokens.
pub(super) type Context = (Namespace, Arc<[u32]>);

/// What the threads report to the engine's thread.
pub(super) enum Reply {
    /// The next block of the entry that is read.
    Block(Vec<u8>),
    /// No more blocks follow. An error is a note on an entry that cannot be used, `None` if its file is gone.
    Read(Result<(), Option<String>>),
    /// A buffer for the next block to write.
    Buffer(Vec<u8>),
    /// The entry was written, and others were removed for it; `None` if it was abandoned. An error is a note.
    Written(Result<Option<Vec<PathBuf>>, String>),
    /// A thread has ended, because of a bug.
    Ended,
}

/// Reports the end of a thread.
pub(super) struct Ending(pub Sender<Reply>);

impl Drop for Ending {
    fn drop(&mut self) {
        let _ = self.0.send(Reply::Ended); // nobody listens if the engine has ended it
    }
}

/// Blocks to read.
pub(super) struct ReadJob {
    pub path: PathBuf,
    /// The namespace and tokens that the entry must have.
    pub context: Context,
    pub blocks: Range<usize>,
}

/// Parts of an entry to write.
pub(super) enum WriteJob {
    /// Begins an entry at a path, which replaces others.
    Begin { context: Context, path: PathBuf, replaces: Vec<PathBuf> },
    /// The next block.
    Block(Vec<u8>),
    /// All blocks were sent.
    End,
    /// The rest of the context is no longer cached.
    Abandon,
    /// Marks an entry as recently used.
    Touch(PathBuf),
}

/// Reads entries of this kind, until the engine's end of a channel is dropped.
pub(super) fn read_entries(
    kind: &Kind,
    jobs: &Receiver<ReadJob>,
    buffers: &Receiver<Vec<u8>>,
    replies: &Sender<Reply>,
) {
    let mut spare = VecDeque::new();
    for job in jobs {
        let read = read_blocks(&job, kind, |index, prefix, file| {
            let Some(mut bytes) = spare.pop_front().or_else(|| buffers.recv().ok()) else {
                return Ok(false);
            };
            let read = prefix.read_block((index, kind.block), file, &mut bytes);
            match read {
                Ok(()) => Ok(replies.send(Reply::Block(bytes)).is_ok()),
                Err(what) => {
                    spare.push_back(bytes);
                    Err(what)
                }
            }
        });
        if replies.send(Reply::Read(read)).is_err() {
            return;
        }
    }
}

/// Opens an entry and passes each block to `block`, until that returns false.
fn read_blocks(
    job: &ReadJob,
    kind: &Kind,
    mut block: impl FnMut(usize, &Prefix, &mut BufReader<File>) -> Result<bool, String>,
) -> Result<(), Option<String>> {
    let note = |what: &str| Some(ignored(&job.path, what));
    let file = File::open(&job.path).map_err(|e| match e.kind() {
        ErrorKind::NotFound => None, // removed by another process
        _ => note(&e.to_string()),
    })?;
    // Large reads bypass the buffer and go straight to where they are hashed.
    let mut file = BufReader::new(file);
    let prefix = Prefix::read(&mut file).map_err(|e| note(&e.to_string()))?;
    prefix.check(kind).map_err(|what| note(&what))?;
    if (prefix.namespace, &*prefix.tokens) != (job.context.0, &*job.context.1) {
        return Err(None); // another entry has taken its place
    }
    touch(&job.path);
    let skipped: usize = (0..job.blocks.start).map(|i| prefix.block_bytes(i, kind.block)).sum();
    file.seek_relative(skipped as i64).map_err(|e| note(&e.to_string()))?;
    for index in job.blocks.clone() {
        if !block(index, &prefix, &mut file).map_err(|what| note(&what))? {
            break;
        }
    }
    Ok(())
}

/// Writes entries until the engine's end of a channel is dropped.
pub(super) fn write_entries(
    store: &PrefixStore,
    kind: &Kind,
    jobs: &Receiver<WriteJob>,
    replies: &Sender<Reply>,
) {
    // Buffers that arrive after an error come back, too.
    while let Ok(job) = jobs.recv() {
        let sent = match job {
            WriteJob::Begin { context, path, replaces } => {
                let written = write_entry(store, (kind, &context), &path, jobs, replies);
                let written =
                    written.map(|complete| complete.then(|| store.make_room(&path, replaces)));
                let note = |e| {
                    format!("{}: cannot write: {e}; the context was not stored", path.display())
                };
                replies.send(Reply::Written(written.map_err(note)))
            }
            WriteJob::Block(bytes) => replies.send(Reply::Buffer(bytes)),
            WriteJob::End | WriteJob::Abandon => Ok(()),
            WriteJob::Touch(path) => {
                touch(&path);
                Ok(())
            }
        };
        if sent.is_err() {
            return;
        }
    }
}

/// Writes one entry, as its blocks arrive. Returns false if it was abandoned.
fn write_entry(
    store: &PrefixStore,
    (kind, (namespace, tokens)): (&Kind, &Context),
    path: &Path,
    jobs: &Receiver<WriteJob>,
    replies: &Sender<Reply>,
) -> io::Result<bool> {
    let mut temp = store.temp()?;
    // The hashes of the blocks come before them.
    let blocks = tokens.len().div_ceil(BLOCK);
    let begin = head_bytes((tokens.len(), 0), kind.state > 0) + 32;
    temp.as_file_mut().seek(SeekFrom::Start(begin as u64))?;
    let mut described = Vec::with_capacity(blocks);
    loop {
        match jobs.recv() {
            Ok(WriteJob::Block(bytes)) => {
                described.push((blake3::hash(&bytes), bytes.len() > kind.block));
                let written = temp.as_file_mut().write_all(&bytes);
                let _ = replies.send(Reply::Buffer(bytes)); // the engine may be gone
                written?;
            }
            Ok(WriteJob::Touch(path)) => touch(&path),
            Ok(WriteJob::End) if described.len() == blocks => break,
            _ => return Ok(false),
        }
    }
    temp.as_file_mut().seek(SeekFrom::Start(0))?;
    temp.as_file_mut().write_all(&head(kind, (*namespace, tokens), "", &described))?;
    store.commit(temp, path)?;
    Ok(true)
}

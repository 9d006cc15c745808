use std::path::Path;

/// A report from a long operation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Status<'a> {
    /// A message for the user: a slow step is starting, or a decision was made.
    Message(&'a str),
    /// Progress of the most recently announced step.
    Bytes {
        /// Bytes downloaded or written so far.
        done: u64,
        /// Total number of bytes; 0 if unknown.
        total: u64,
    },
    /// The same for a step that is not measured in bytes.
    Steps {
        /// Parts done so far.
        done: u64,
        /// Total number of parts.
        total: u64,
    },
    /// A model was converted to this file in the cache.
    Cached(&'a Path),
}

/// Receives [`Status`] reports: a progress bar, a log, or nothing.
pub type StatusFn<'f> = dyn FnMut(Status<'_>) + 'f;
